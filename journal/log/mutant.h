/* journal/log/mutant.h: the essential steps of a takeover, each left out or
 * out of order, so that a test can show that it would be noticed.
 *
 * Only a build with -DHOLDFAST_MUTANTS has them (make build-mutant), and only
 * tests/sim/sim_takeover, which sets `mutant`, is built so.  Everywhere else
 * MUTANT() is 0.  replication/model has the same mutants of the model. */
#ifndef JOURNAL_LOG_MUTANT_H
#define JOURNAL_LOG_MUTANT_H

enum mutant {
	MUTANT_NONE,
	MUTANT_NO_CHECK,    /* acknowledges without a look at the claim */
	MUTANT_CHECK_EARLY, /* looks before it writes, and not after */
	MUTANT_NO_SEAL,	    /* seals nobody */
	MUTANT_SEAL_ONE,    /* seals only the newest of the others */
	MUTANT_READ_FIRST,  /* reads, and then seals */
	MUTANT_SAME_EPOCH,  /* takes over without an epoch of its own */
	MUTANT_PAST_CUT,    /* reads what lies behind a cut, too */
	MUTANT_STORE_FIRST, /* the store knows before the look at the claim */
	/* As that, and the store deletes what a checkpoint stands for before
	 * its record is committed, without a look at the claim.  Of these two
	 * safeguards either is enough: leaving out one changes nothing. */
	MUTANT_DELETE_UNCHECKED,
	MUTANT_STRAYS_EARLY, /* deletes strays before its EPOCH-START */
	/* A standby believes what it can read, and sticks to it when the
	 * history is another.  Here, too, either safeguard is enough. */
	MUTANT_FOLLOW_UNVOUCHED,
	MUTANT_COUNT,
};

#ifdef HOLDFAST_MUTANTS
extern enum mutant mutant;
#define MUTANT(x) (mutant == MUTANT_##x)
#else
#define MUTANT(x) 0
#endif

#endif
