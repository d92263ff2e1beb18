/* replication/member.h: this broker, among those that share its directory.
 *
 * A member stands by until it is to lead: it looks at the lock and at the
 * leader's signs of life (replication/leadership.h), and keeps its store warm
 * by following the leader's log.  Elected, it makes the claim and gives signs
 * of life itself, with a claim check each, so that an idle leader too notices
 * when it has been deposed or its storage is gone.
 *
 * Two loops: "leadership" does all that, and blocks in storage; "watchdog"
 * touches no storage, and tells when something has blocked for too long.
 *
 * Life: member_create → member_start → (elected) → … → member_resign →
 * member_stop → member_free.  Errors: 0 or a negative code. */
#ifndef REPLICATION_MEMBER_H
#define REPLICATION_MEMBER_H

#include "journal/store/store.h"
#include "replication/leadership.h"

struct member;

enum member_role {
	MEMBER_STANDBY,
	MEMBER_ELECTED, /* claimed; recovering, not serving yet */
	MEMBER_LEADER,
};

struct member_options {
	struct io *io;
	const char *dir;
	struct log *log;     /* log_create() has been called */
	struct store *store; /* store_create() has been called; the member's
				until elected() */
	const char *node, *url;
	uint64_t takeover_after_ns;
	uint64_t storage_timeout_ns;
	bool yield; /* we have just led, and stepped down */
	/* [leadership] Once: the claim is made, all others are sealed, and a
	 * sign of life has been given.  store_recover() is next, on any
	 * thread. */
	void (*elected)(void *ctx);
	/* [leadership] Now and then between elected() and member_serves();
	 * may be NULL. */
	void (*recovering)(void *ctx);
	/* [watchdog] Leading, and an operation on the storage has not come back
	 * for so long: the process is to exit. */
	void (*stalled)(void *ctx, const char *what, uint64_t ns);
	void *ctx;
};

/* All that options point to is borrowed until member_free(). */
MUST_CHECK int member_create(const struct member_options *,
			     struct member **ret);
MUST_CHECK int member_start(struct member *);
/* [any] Recovered, and serving clients. */
void member_serves(struct member *);
/* [any, not a loop] Give up leading, after the log has stopped: others may
 * take over at once.  -ETIMEDOUT: the storage did not answer in time. */
MUST_CHECK int member_resign(struct member *, uint64_t timeout_ns);
/* Ends the loops.  -ETIMEDOUT: one is stuck in the storage; the process can
 * only exit then. */
MUST_CHECK int member_stop(struct member *, uint64_t timeout_ns);
void member_free(struct member *); /* NULL-safe; after member_stop() */

struct member_status {
	enum member_role role;
	struct leadership_leader leader;
	uint64_t looked_ns;		/* since the last look that went well */
	uint64_t applied_lsn, seen_lsn; /* followed to here, of what was seen */
	uint64_t behind_ns; /* for how long we have not had all that was
			       there; 0: we have */
	uint64_t follow_resets;
	uint64_t elected_ms;  /* wall clock; 0: never */
	uint64_t takeover_ns; /* from the election to serving; 0: not yet */
	bool stolen;	      /* from a silent leader */
	int follow_err;	      /* why nothing is followed; 0: it is */
	int elect_err;	      /* why it could not take over, last time */
};
void member_status(struct member *, struct member_status *ret); /* [any] */
/* [any] A standby that could take over now, or a leader. */
bool member_is_healthy(struct member *);

#endif
