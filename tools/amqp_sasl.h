/* tools/amqp_sasl.h: SASL of a client, ANONYMOUS and PLAIN (RFC 4616).
 *
 * Our own, because Proton's goes through Cyrus, whose mechanisms are separate
 * packages that a machine with only `holdfast` on it need not have. */
#ifndef TOOLS_AMQP_SASL_H
#define TOOLS_AMQP_SASL_H

#include "broker/protocols/amqp/proton.h"

/* Before the transport is bound.  An empty user means ANONYMOUS. */
void amqp_sasl_use(pn_transport_t *, pn_connection_t *, const char *user,
		   const char *password);

#endif
