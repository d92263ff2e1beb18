/* Crashes, everywhere: for each mutation of the disk, for each step of a
 * pause, and by dice.  docs/testing.md.
 *
 *	sim_crash --mode cut --seed 1 --at 57	replays one trial
 *
 * SIM_SEEDS is how many random trials are run, SIM_FIRST the first seed. */
#include "tests/unit/test.h"

#include "tests/sim/trial.h"

#include <signal.h>

#define FAILURES_SHOWN_MAX 3
#define SEEDS_DEFAULT 100

static int show_failure(const struct trial *t, int code)
{
	const char *build = getenv("BUILD");

	printf("%s%s/tests/sim/sim_crash --mode %s --seed %llu --at %llu "
	       "ended with %d\n",
	       trial_output(), build && *build ? build : "build/asan",
	       trial_mode_name(t->mode), (unsigned long long)t->seed,
	       (unsigned long long)t->at, code);
	fflush(stdout);
	return 1;
}

/* A few small allocations without which the broker ends on purpose; that is
 * as good as a kill, which is tried everywhere. */
static bool ended_for_memory(const struct trial *t, int code)
{
	static const char *const conditions[] = {
		"\"condition\":\"grown\"",  /* base/loop.c: the timers */
		"\"condition\":\"p->buf\"", /* broker/core/consumer.c */
		"\"condition\":\"m\"",	    /* broker/core/upload.c */
	};

	if (t->mode != TRIAL_MEMORY || code != 128 + SIGABRT)
		return false;
	for (size_t i = 0; i < sizeof(conditions) / sizeof(*conditions); i++)
		if (strstr(trial_output(), conditions[i]))
			return true;
	return false;
}

static uint64_t count_of(enum trial_mode mode, uint64_t seed, bool steps)
{
	struct trial t = {.mode = mode, .seed = seed, .at = 1ull << 60};
	struct trial_report report;
	int code = trial_fork(&t, &report);

	if (code)
		show_failure(&t, code);
	assert_int_equal(code, 0);
	return steps ? report.steps : report.mutations;
}

/* Every `stride`-th place, beginning with the first. */
static void enumerate(enum trial_mode mode, uint64_t seed, uint64_t count,
		      uint64_t stride)
{
	int failures = 0;

	for (uint64_t at = 1; at <= count && failures < FAILURES_SHOWN_MAX;
	     at += stride) {
		struct trial t = {.mode = mode, .seed = seed, .at = at};
		int code = trial_fork(&t, NULL);

		if (code && !ended_for_memory(&t, code))
			failures += show_failure(&t, code);
	}
	assert_int_equal(failures, 0);
}

TEST("a power cut at any mutation of the disk loses nothing confirmed")
{
	enumerate(TRIAL_CUT, 1, count_of(TRIAL_CALM, 1, false), 1);
}

TEST("a kill at any mutation of the disk loses nothing confirmed")
{
	enumerate(TRIAL_KILL, 2, count_of(TRIAL_CALM, 2, false), 1);
}

TEST("any write or sync may fail: nothing confirmed is lost")
{
	enumerate(TRIAL_EIO, 3, count_of(TRIAL_CALM, 3, false), 1);
}

TEST("the disk may be full for any write: nothing confirmed is lost")
{
	enumerate(TRIAL_ENOSPC, 1, count_of(TRIAL_CALM, 1, false), 1);
}

TEST("a second power cut during or after recovery loses nothing confirmed")
{
	enumerate(TRIAL_TWICE, 1, 80, 1);
}

TEST("without O_DIRECT all of it holds as well")
{
	enumerate(TRIAL_CUT, 4, count_of(TRIAL_CALM, 4, false), 3);
}

TEST("any allocation may fail: the broker refuses, or fails, or goes on")
{
	struct trial calm = {.mode = TRIAL_MEMORY, .seed = 1};
	struct trial_report report;

	assert_int_equal(trial_fork(&calm, &report), 0);
	assert_true(report.allocations > 1000);
	enumerate(TRIAL_MEMORY, 1, report.allocations,
		  report.allocations / 150 + 1);
}

TEST("a leader that was paused and deposed at any step confirms nothing more")
{
	uint64_t steps = count_of(TRIAL_ZOMBIE, 1, true);

	enumerate(TRIAL_ZOMBIE, 1, steps, steps / 60 + 1);
}

/* Shows that the oracle can say no: recovery finds a hole in the journal, and
 * where the end is missing, which it cannot find, the oracle misses it. */
TEST("a disk that forgets what it confirmed is found out")
{
	uint64_t count = count_of(TRIAL_CALM, 1, false);
	unsigned refused = 0, wrong = 0, failures = 0;

	for (uint64_t at = 1; at <= count; at++) {
		struct trial t = {
			.mode = TRIAL_LOST, .seed = 1 + at % 2, .at = at};
		int code = trial_fork(&t, NULL);

		refused += code == TRIAL_REFUSED;
		wrong += code == TRIAL_WRONG;
		if (code && code != TRIAL_REFUSED && code != TRIAL_WRONG)
			failures += (unsigned)show_failure(&t, code);
	}
	assert_true(refused > 0);
	assert_true(wrong > 0);
	assert_int_equal(failures, 0);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *said = getenv(name);

	return said && *said ? strtoull(said, NULL, 10) : otherwise;
}

/* What many trials came to. */
struct sums {
	uint64_t served, refused, damaged; /* of trials */
	uint64_t copied, fetched, spilled; /* of messages and details */
};

static void run_seeds(enum trial_mode mode, uint64_t count, struct sums *sums)
{
	uint64_t first = setting("SIM_FIRST", 1);
	int failures = 0;

	memset(sums, 0, sizeof(*sums));
	for (uint64_t seed = first;
	     seed < first + count && failures < FAILURES_SHOWN_MAX; seed++) {
		struct trial t = {.mode = mode, .seed = seed};
		struct trial_report report;
		int code = trial_fork(&t, &report);

		sums->served += !code;
		sums->refused += code == TRIAL_REFUSED;
		sums->damaged += report.damage > 0;
		sums->copied += report.copied;
		sums->fetched += report.fetched;
		sums->spilled += report.spilled;
		if (code && (mode != TRIAL_ROT || code != TRIAL_REFUSED))
			failures += show_failure(&t, code);
	}
	assert_int_equal(failures, 0);
}

TEST("random loads and crashes")
{
	uint64_t count = setting("SIM_SEEDS", SEEDS_DEFAULT);
	struct sums sums;

	run_seeds(TRIAL_RANDOM, count, &sums);
	if (count < SEEDS_DEFAULT)
		return;
	/* All of it was in play. */
	assert_true(sums.copied > count);
	assert_true(sums.fetched > count);
	assert_true(sums.spilled > count);
}

TEST("random loads on a disk that rots and lies: refused, or named, or whole")
{
	uint64_t count = setting("SIM_SEEDS", SEEDS_DEFAULT) / 4 + 1;
	struct sums sums;

	run_seeds(TRIAL_ROT, count, &sums);
	if (count < SEEDS_DEFAULT / 4)
		return;
	assert_true(sums.served > 0);
	assert_true(sums.refused > 0);
	assert_true(sums.damaged > 0);
}

static int replay(int argc, char **argv)
{
	struct trial t = {.mode = TRIAL_MODES, .seed = 1};
	struct trial_report report = {0};

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--mode"))
			t.mode = trial_mode_parse(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			t.seed = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--at"))
			t.at = strtoull(argv[i + 1], NULL, 10);
	}
	if (t.mode == TRIAL_MODES) {
		fprintf(stderr, "sim_crash: --mode is missing or unknown\n");
		return 2;
	}
	int code = trial_fork(&t, &report);

	printf("%sexit %d: %llu lives, %llu mutations, %llu steps; "
	       "%llu confirmed, %llu delivered, %llu acknowledged; "
	       "%llu moved, %llu read back, %llu spills\n",
	       trial_output(), code, (unsigned long long)report.lives,
	       (unsigned long long)report.mutations,
	       (unsigned long long)report.steps,
	       (unsigned long long)report.confirmed,
	       (unsigned long long)report.delivered,
	       (unsigned long long)report.acked,
	       (unsigned long long)report.copied,
	       (unsigned long long)report.fetched,
	       (unsigned long long)report.spilled);
	return code;
}

int main(int argc, char **argv)
{
	trial_tune_memory(argv);
	if (argc > 2 && argv[1][0] == '-')
		return replay(argc, argv);
	return test_run(argc, argv);
}
