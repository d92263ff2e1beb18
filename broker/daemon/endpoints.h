/* broker/daemon/endpoints.h: the listeners and the users of one broker, as
 * the settings describe them.
 * Thread: main, except functions marked [any]. */
#ifndef BROKER_DAEMON_ENDPOINTS_H
#define BROKER_DAEMON_ENDPOINTS_H

#include "broker/daemon/settings.h"

struct endpoints;

/* Users are made ready; nothing listens yet. */
MUST_CHECK int endpoints_create(struct io *, const struct settings *,
				struct endpoints **ret);
/* The protocols, for this core.  Once, before the shards run. */
MUST_CHECK int endpoints_attach(struct endpoints *, struct core *,
				const struct settings *);
/* Binds and accepts, on the first shard, whose loop must be running.  On
 * failure why names the address. */
MUST_CHECK int endpoints_open(struct endpoints *, const struct settings *,
			      char *why, size_t why_len);
/* "amqp://127.0.0.1:5672, ..." with the ports that were bound. */
const char *endpoints_describe(const struct endpoints *);
/* The first port that was bound. */
uint16_t endpoints_port(const struct endpoints *);
/* New users and anonymous policy, all or nothing. */
MUST_CHECK int endpoints_reload(struct endpoints *, const struct settings *);
/* Accept no more, close every connection with amqp:connection:forced, wait
 * until they are gone.  -ETIMEDOUT. */
MUST_CHECK int endpoints_drain(struct endpoints *, uint64_t timeout_ns);
/* [any] The same at once, for a process that is about to end: waits 0.2 s at
 * most and finishes nothing that is under way. */
void endpoints_abandon(struct endpoints *, const char *why);
/* After endpoints_drain() and after the shards' loops have ended; NULL-safe. */
void endpoints_free(struct endpoints *);

/* [any] For the admin thread: may take tens of milliseconds. */
bool endpoints_allow(void *endpoints, const char *user, const char *password);
void endpoints_connections(void *endpoints, uint64_t *ret_open,
			   uint64_t *ret_accepted);

#endif
