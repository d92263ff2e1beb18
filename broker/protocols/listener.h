/* broker/protocols/listener.h: the door for clients.
 *
 * A listener takes connections on one loop and hands them round-robin to the
 * shards by mail.  "amqp://ADDRESS:PORT" expects AMQP 1.0; "any://ADDRESS:PORT"
 * looks at the first bytes to tell protocols apart, and answers those that are
 * not spoken here with one clear line.
 *
 * Life: listener_create → listener_start → … → listener_stop → listener_free.
 */
#ifndef BROKER_PROTOCOLS_LISTENER_H
#define BROKER_PROTOCOLS_LISTENER_H

#include "broker/core/core.h"

struct amqp;
struct listener;

struct listener_options {
	struct core *core;
	struct amqp *amqp;
	struct loop *loop;	 /* accepts here */
	uint32_t connection_max; /* of all listeners of this amqp; 0: 10000 */
};

/* Binds.  Before the loop's thread runs, or on it.  -E_CONFIG: the url has
 * another scheme or no port; or what the system said about the address. */
MUST_CHECK int listener_create(const struct listener_options *, const char *url,
			       struct listener **ret);
/* Begin to accept.  Before the loop's thread runs, or on it. */
void listener_start(struct listener *);
/* [any] Take no more connections; those that are open stay. */
void listener_stop(struct listener *);
/* NULL-safe.  After the loop has ended. */
void listener_free(struct listener *);
/* The port bound, for port 0. [any] */
uint16_t listener_port(const struct listener *);

#endif
