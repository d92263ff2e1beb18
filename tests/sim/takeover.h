/* tests/sim/takeover.h: several leaders, one directory, some of them zombies.
 *
 * A leader works under a load until, at one of its calls to the disk, between
 * two iterations of its loops, or at the end of the load, another one takes
 * over.  The old one is paused there (its operations in flight happen at once
 * or when it is resumed), or loses its locks and goes on at full speed, or
 * just goes on, or is killed, or the power goes.  It wakes while its successor
 * is still starting, while that works, or much later, and then must say that
 * it was fenced.  Starts are disturbed in the same way.  The model judges what
 * clients have seen, history.h what the files say.
 *
 * A run is named by its fields and repeats exactly. */
#ifndef TESTS_SIM_TAKEOVER_H
#define TESTS_SIM_TAKEOVER_H

#include "tests/sim/trial.h"

/* What becomes of the old leader; or of one that is still starting. */
enum takeover_how {
	TAKEOVER_PAUSE, /* what it has in flight happens meanwhile */
	TAKEOVER_STALL, /* ... when it is resumed */
	TAKEOVER_RUN,	/* goes on */
	TAKEOVER_KILL,
	TAKEOVER_CUT, /* with everything on the disk */
	TAKEOVER_DICE,
	TAKEOVER_HOWS = TAKEOVER_DICE,
};

/* Where it happens. */
enum takeover_where {
	TAKEOVER_LOAD, /* at a call of the second leader, under load */
	/* At a call of the third, which is starting, with the second one
	 * paused.  PAUSE: it stands still, and a fourth takes over; STALL: the
	 * second wakes first; RUN: only the second wakes. */
	TAKEOVER_START,
};

struct takeover {
	uint64_t seed;
	/* TAKEOVER_DICE: everything is by the seed. */
	enum takeover_how how;
	enum takeover_where where;
	uint64_t at;	 /* counted there; 0: at each call, in children */
	uint64_t stride; /* ... at the first of so many */
};

struct takeover_report {
	uint64_t runs, takeovers, failed_starts;
	uint64_t warm, elected;	 /* ... of which had followed; decided so */
	uint64_t resets;	 /* times they began to follow again */
	uint64_t zombies;	 /* that went on and found out */
	uint64_t fenced_at_once; /* ... of which without being asked */
	uint64_t calls;		 /* there are where it happens */
	uint64_t confirmed, acked, delivered;
	uint64_t copied, dropped, checkpoints; /* by all leaders */
	uint64_t failures;		       /* of children */
};

const char *takeover_how_name(enum takeover_how);
const char *takeover_where_name(enum takeover_where);
/* TAKEOVER_HOWS + 1: there is none such. */
enum takeover_how takeover_how_parse(const char *name);
/* In a child, as trial_fork(); the report is added to what is in *sum. */
int takeover_fork(const struct takeover *, struct takeover_report *sum);

#endif
