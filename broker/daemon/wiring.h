/* broker/daemon/wiring.h: the broker's parts, put together and taken apart.
 * Thread: main. */
#ifndef BROKER_DAEMON_WIRING_H
#define BROKER_DAEMON_WIRING_H

#include "broker/daemon/key.h"
#include "broker/daemon/settings.h"

/* Exit codes, also in holdfastd(8). */
enum wiring_exit {
	WIRING_EXIT_FAILED = 1, /* start-up, or the journal, failed */
	WIRING_EXIT_CONFIG = 2,
	WIRING_EXIT_FENCED = 3, /* another broker has taken over */
};

struct wiring;

/* From nothing to serving.  A failure has been logged; the result is then the
 * exit code, else 0.  settings is borrowed until wiring_down(). */
MUST_CHECK int wiring_up(const struct settings *, struct wiring **ret);
/* New users, policy and rules, all or nothing: 0 or a negative code. */
MUST_CHECK int wiring_reload(struct wiring *, const struct settings *);
/* Finish and free everything.  A negative code when that took longer than
 * the shutdown timeout; the caller then ends the process as it is. */
MUST_CHECK int wiring_down(struct wiring *, uint64_t timeout_ns);

/* Every loop's thread comes round; for the watchdog. */
bool wiring_is_live(struct wiring *);

struct wiring_facts {
	const char *engine, *engine_reason, *listen;
	uint16_t port;
	char admin[80]; /* "" when off */
	const struct key_choice *key;
	uint64_t start_ms, messages;
	unsigned shards;
};
void wiring_describe(const struct wiring *, struct wiring_facts *ret);

#endif
