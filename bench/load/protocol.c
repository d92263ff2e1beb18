/* bench/load/protocol.c: which protocols there are. */
#include "bench/load/protocol.h"

#include <string.h>

static const struct protocol *const protocols[] = {
	&protocol_amqp,	 &protocol_amqp091,   &protocol_nats,
	&protocol_redis, &protocol_beanstalk, &protocol_stomp};

const struct protocol *protocol_at(unsigned i)
{
	return i < ARRAY_COUNT(protocols) ? protocols[i] : NULL;
}
