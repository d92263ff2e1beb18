/* tests/sim/trial.h: one scenario, from an empty disk to a verdict.
 *
 * A trial is named by (mode, seed, at) and nothing else, and repeats exactly.
 * A broker works under a load, is interrupted as the mode says, is started
 * again as often as it takes, and is emptied: the model judges. */
#ifndef TESTS_SIM_TRIAL_H
#define TESTS_SIM_TRIAL_H

#include "tests/sim/load.h"

enum trial_mode {
	TRIAL_CALM,   /* nothing happens; for counting */
	TRIAL_CUT,    /* the power goes at mutation `at` */
	TRIAL_KILL,   /* the process dies there */
	TRIAL_EIO,    /* the disk fails it */
	TRIAL_ENOSPC, /* the disk is full for it */
	TRIAL_LOST,   /* the disk says yes and forgets it; then a power cut */
	TRIAL_TWICE,  /* a cut half way, and another at mutation `at` after */
	TRIAL_RANDOM, /* everything by the seed */
	TRIAL_ROT,    /* the same, and the disk lies and rots instead */
	TRIAL_MEMORY, /* allocation `at` fails */
	TRIAL_ZOMBIE, /* paused at step `at`, deposed, resumed */
	TRIAL_MODES,
};

struct trial {
	enum trial_mode mode;
	uint64_t seed, at;
};

/* How a trial's process ends.  Anything else is a crash. */
enum trial_exit {
	TRIAL_PASSED = 0,
	TRIAL_WRONG = MODEL_EXIT, /* the oracle has objected */
	TRIAL_REFUSED = 4,	  /* the broker would not start */
};

struct trial_report {
	uint64_t mutations;   /* that the trial made */
	uint64_t allocations; /* TRIAL_MEMORY: until it came to its end */
	uint64_t steps;	      /* of the world, while the first broker worked */
	uint64_t confirmed, acked, delivered, lives;
	/* What the store did: messages moved to extents and read back, details
	 * spilled to the index, places of damage named. */
	uint64_t copied, fetched, spilled, damage;
};

const char *trial_mode_name(enum trial_mode);
/* TRIAL_MODES: there is none such. */
enum trial_mode trial_mode_parse(const char *name);

/* In this process; ends it with an enum trial_exit. */
__attribute__((noreturn)) void trial_run(const struct trial *,
					 struct trial_report *);
/* In a child; what it says is kept in trial_output().  Returns its exit code,
 * or 128 and the signal. */
int trial_fork(const struct trial *, struct trial_report *);
const char *trial_output(void);
/* The same of other scenarios: run() ends its process.  report is in shared
 * memory, bytes long, and keeps what the child wrote to it. */
int trial_child(void (*run)(const void *what, void *report), const void *what,
		void *report);
/* Zeros, shared with children; never fails. */
void *trial_shared(size_t bytes);

/* First thing in main(): starts the program again with an allocator that keeps
 * what it has and asks for large pages, for half of a short trial is page
 * faults.  Nothing under a sanitizer. */
void trial_tune_memory(char **argv);

#endif
