/* replication/leadership.h: when to take over a shared directory.
 *
 * leader.lock is locked by whoever leads, and what is written in it is the
 * leader's sign of life: who it is, its epoch, and a number that rises.  A
 * candidate that gets the lock takes over at once; one that does not, and sees
 * no new sign for takeover_after, steals.  Either may be wrong: locks get lost
 * or doubled, clocks and schedulers stop.  That costs availability.  What keeps
 * acknowledged data safe is the claim (journal/log/claim.c), which each new
 * leader makes and each group commit checks.
 *
 * No thread and no waiting here: the caller looks, or beats, now and then.
 * Thread: one at a time, but leadership_leader(), which is [any].  Blocking.
 * Format of the sign: docs/format/leader.md.  Errors: 0 or a negative code. */
#ifndef REPLICATION_LEADERSHIP_H
#define REPLICATION_LEADERSHIP_H

#include <stdbool.h>

#include "journal/log/log.h"

#define LEADERSHIP_NODE_MAX 64u
#define LEADERSHIP_URL_MAX 128u

struct leadership;

struct leadership_options {
	struct io *io;
	const char *dir;  /* borrowed until leadership_free() */
	struct log *log;  /* log_create() has been called; borrowed */
	const char *node; /* what people call this broker; cut to fit */
	const char *url;  /* of its admin port, or "" */
	uint64_t takeover_after_ns;
};

MUST_CHECK int leadership_create(const struct leadership_options *,
				 struct leadership **ret);
/* Lets go of the lock only with the log.  NULL-safe. */
void leadership_free(struct leadership *);

/* ---- standing by ---- */

enum leadership_verdict {
	LEADERSHIP_WAIT,  /* somebody leads */
	LEADERSHIP_TAKE,  /* the lock is ours: log_claim() */
	LEADERSHIP_STEAL, /* the leader is silent: log_steal() */
};
/* Look once.  An error says that the sign could not be read or the lock not be
 * asked for; *ret is set all the same.  Look again: who is silent for long is
 * stolen from even so. */
MUST_CHECK int leadership_look(struct leadership *,
			       enum leadership_verdict *ret);
/* We led and have stepped down: let others go first, for takeover_after. */
void leadership_yield(struct leadership *);
/* How often to look, and how often to beat. */
uint64_t leadership_look_ns(const struct leadership *);
uint64_t leadership_beat_ns(const struct leadership *);

/* ---- leading: after log_claim() or log_steal() ---- */

/* Gives a sign of life, after a claim check (log_check_claim(), which latches
 * the log when it fails); takes the lock when it has become free.  The first
 * one right after the claim, before recovery. */
MUST_CHECK int leadership_beat(struct leadership *);
/* The last sign: we stop, others need not wait.  The lock is let go. */
void leadership_resign(struct leadership *);

/* ---- who leads ---- */

struct leadership_leader {
	uint32_t epoch; /* 0: nobody has led here yet */
	uint64_t beat;
	uint64_t wall_ms;    /* on its clock, of the last sign */
	uint64_t silence_ns; /* since a new sign was seen */
	bool locked;	     /* it has the lock */
	bool resigned;
	char node[LEADERSHIP_NODE_MAX + 1];
	char url[LEADERSHIP_URL_MAX + 1];
};
/* [any] What the last look or beat has seen. */
void leadership_leader(struct leadership *, struct leadership_leader *ret);

/* ---- the sign, for tools ---- */

#define LEADERSHIP_SIGN_BYTES 512u

struct leadership_sign {
	uint8_t cluster_id[16];
	uint32_t epoch, beat_ms; /* how often it is renewed */
	uint64_t beat, wall_ms;
	bool locked, resigned;
	char node[LEADERSHIP_NODE_MAX + 1];
	char url[LEADERSHIP_URL_MAX + 1];
};
void leadership_encode(const struct leadership_sign *,
		       uint8_t out[LEADERSHIP_SIGN_BYTES]);
/* -E_CORRUPT: none, torn or damaged; -E_VERSION. */
MUST_CHECK int leadership_decode(const uint8_t raw[LEADERSHIP_SIGN_BYTES],
				 struct leadership_sign *ret);
/* -ENOENT: nobody has led there. */
MUST_CHECK int leadership_read(struct io *, const char *dir,
			       struct leadership_sign *ret);

#endif
