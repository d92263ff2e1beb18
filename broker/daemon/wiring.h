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
	WIRING_EXIT_FENCED = 3,	 /* another broker has taken over, and this one
				    could not start again as a standby */
	WIRING_EXIT_STALLED = 4, /* the storage does not answer */
};

/* Wakes the main thread, which blocks it, to ask wiring_news(). */
#define WIRING_SIGNAL SIGUSR2

struct wiring_hooks {
	/* [any] Become a new process that stands by; returns only when that
	 * does not work. */
	void (*restart)(void);
	bool yield; /* we have just stepped down: let others lead first */
};

struct wiring;

/* From nothing to standing by.  A failure has been logged; the result is then
 * the exit code, else 0.  Both are borrowed until wiring_down(). */
MUST_CHECK int wiring_up(const struct settings *, const struct wiring_hooks *,
			 struct wiring **ret);
enum wiring_news { WIRING_NOTHING, WIRING_ELECTED, WIRING_STEP_DOWN };
/* What WIRING_SIGNAL was about; ask until there is nothing. */
enum wiring_news wiring_news(struct wiring *);
/* After WIRING_ELECTED: from standing by to serving.  As wiring_up(). */
MUST_CHECK int wiring_lead(struct wiring *);
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
	char node[65];
	uint32_t epoch;
};
/* Once wiring_lead() has gone well. */
void wiring_describe(const struct wiring *, struct wiring_facts *ret);

/* Now and then: says when publishing is refused for lack of space, and when it
 * is taken again. */
void wiring_look(struct wiring *);
/* Standing by: the leader has this broker's name. */
bool wiring_has_namesake(struct wiring *);
/* The name of whoever leads, for people. */
void wiring_leader(struct wiring *, char *ret, size_t ret_len);

#endif
