/* Takeovers: leaders that are paused, go on or are killed anywhere, and what
 * comes of it.  docs/testing.md.
 *
 *	sim_takeover --seed 17			replays one run by dice
 *	sim_takeover --how stall --where load --seed 1 --at 57	or one place
 *
 * SIM_SEEDS is how many runs by dice are made, SIM_FIRST the first seed. */
#include "tests/unit/test.h"

#include "journal/log/mutant.h"
#include "tests/sim/takeover.h"

#define FAILURES_SHOWN_MAX 3
#define SEEDS_DEFAULT 20
#define STRIDE 16
#define MUTANT_SEEDS_DEFAULT 400

static void show_sum(const struct takeover_report *r)
{
	printf("%llu runs, %llu takeovers (%llu by who had followed, %llu by "
	       "election; %llu times left behind), %llu starts that failed, "
	       "%llu "
	       "zombies (%llu found out by themselves); %llu confirmed, %llu "
	       "delivered, %llu acknowledged; %llu messages moved, %llu "
	       "segments dropped, %llu checkpoints\n",
	       (unsigned long long)r->runs, (unsigned long long)r->takeovers,
	       (unsigned long long)r->warm, (unsigned long long)r->elected,
	       (unsigned long long)r->resets,
	       (unsigned long long)r->failed_starts,
	       (unsigned long long)r->zombies,
	       (unsigned long long)r->fenced_at_once,
	       (unsigned long long)r->confirmed,
	       (unsigned long long)r->delivered, (unsigned long long)r->acked,
	       (unsigned long long)r->copied, (unsigned long long)r->dropped,
	       (unsigned long long)r->checkpoints);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *said = getenv(name);

	return said && *said ? strtoull(said, NULL, 10) : otherwise;
}

#ifdef HOLDFAST_MUTANTS

enum mutant mutant;

static const char *const mutant_names[MUTANT_COUNT] = {
	[MUTANT_NONE] = "none",
	[MUTANT_NO_CHECK] = "no-check",
	[MUTANT_CHECK_EARLY] = "check-early",
	[MUTANT_NO_SEAL] = "no-seal",
	[MUTANT_SEAL_ONE] = "seal-one",
	[MUTANT_READ_FIRST] = "read-first",
	[MUTANT_SAME_EPOCH] = "same-epoch",
	[MUTANT_PAST_CUT] = "past-cut",
	[MUTANT_STORE_FIRST] = "store-first",
	[MUTANT_DELETE_UNCHECKED] = "delete-unchecked",
	[MUTANT_STRAYS_EARLY] = "strays-early",
	[MUTANT_FOLLOW_UNVOUCHED] = "follow-unvouched",
};

/* What the oracle says of it, in the end; a crash is not an answer. */
static const char *verdict(void)
{
	static char line[256];
	const char *at = strstr(trial_output(), "the oracle: ");

	snprintf(line, sizeof(line), "%.*s", at ? (int)strcspn(at, "\n") : 0,
		 at ? at : "");
	return line;
}

static bool dies(uint64_t *ret_seed)
{
	uint64_t count = setting("SIM_SEEDS", MUTANT_SEEDS_DEFAULT);

	for (uint64_t seed = 1; seed <= count; seed++) {
		struct takeover t = {.how = TAKEOVER_DICE, .seed = seed};
		struct takeover_report sum = {0};

		/* Needs a record in flight at one moment and a pause at
		 * another. */
		if (mutant == MUTANT_STRAYS_EARLY) {
			t.how = TAKEOVER_STALL;
			t.where = TAKEOVER_START;
		}
		*ret_seed = seed;
		if (takeover_fork(&t, &sum) == MODEL_EXIT || sum.failures)
			return true;
	}
	return false;
}

TEST("every step that is left out is missed")
{
	unsigned survivors = 0;
	uint64_t seed;

	for (mutant = MUTANT_NONE + 1; mutant < MUTANT_COUNT; mutant++) {
		if (dies(&seed)) {
			printf("%s: seed %llu: %s\n", mutant_names[mutant],
			       (unsigned long long)seed, verdict());
			continue;
		}
		printf("%s survives\n", mutant_names[mutant]);
		survivors++;
	}
	assert_int_equal(survivors, 0);
}

static void be_mutant(const char *name)
{
	for (mutant = 0; mutant < MUTANT_COUNT; mutant++)
		if (!strcmp(mutant_names[mutant], name))
			return;
	fprintf(stderr, "sim_takeover: --mutant is unknown\n");
	exit(2);
}

#else

static int show_failure(const struct takeover *t, int code)
{
	const char *build = getenv("BUILD");

	printf("%s%s/tests/sim/sim_takeover --how %s --where %s --seed %llu "
	       "--at %llu ended with %d\n",
	       trial_output(), build && *build ? build : "build/asan",
	       takeover_how_name(t->how), takeover_where_name(t->where),
	       (unsigned long long)t->seed, (unsigned long long)t->at, code);
	fflush(stdout);
	return 1;
}

/* At all calls, in one process tree. */
static void enumerate(enum takeover_where where, enum takeover_how how)
{
	struct takeover t = {.how = how,
			     .where = where,
			     .seed = 1,
			     .stride = setting("SIM_THOROUGH", 0) ? 1 : STRIDE};
	struct takeover_report sum = {0};
	int code = takeover_fork(&t, &sum);

	if (code || sum.failures)
		show_failure(&t, code);
	show_sum(&sum);
	assert_int_equal(code, 0);
	assert_int_equal(sum.failures, 0);
	assert_true(sum.calls > (where == TAKEOVER_LOAD ? 150u : 40u));
	assert_int_equal(sum.runs, 1 + (sum.calls + t.stride - 1) / t.stride);
}

TEST("a leader paused at any call to the disk loses and brings back nothing")
{
	enumerate(TAKEOVER_LOAD, TAKEOVER_PAUSE);
}

TEST("... with what it has in flight happening when it is resumed")
{
	enumerate(TAKEOVER_LOAD, TAKEOVER_STALL);
}

TEST("a leader that goes on at full speed while another one takes over")
{
	enumerate(TAKEOVER_LOAD, TAKEOVER_RUN);
}

TEST("a start is overtaken at any call")
{
	enumerate(TAKEOVER_START, TAKEOVER_PAUSE);
}

TEST("... after the one that it took over from has woken")
{
	enumerate(TAKEOVER_START, TAKEOVER_STALL);
}

TEST("the one that is taken over from wakes at any call of the start")
{
	enumerate(TAKEOVER_START, TAKEOVER_RUN);
}

TEST("a kill, or a power cut, at any call of a start")
{
	enumerate(TAKEOVER_START, TAKEOVER_KILL);
	enumerate(TAKEOVER_START, TAKEOVER_CUT);
}

TEST("several takeovers by dice, zombies among them")
{
	uint64_t count = setting("SIM_SEEDS", SEEDS_DEFAULT);
	uint64_t first = setting("SIM_FIRST", 1);
	struct takeover_report sum = {0};
	int failures = 0;

	for (uint64_t seed = first;
	     seed < first + count && failures < FAILURES_SHOWN_MAX; seed++) {
		struct takeover t = {.how = TAKEOVER_DICE, .seed = seed};
		int code = takeover_fork(&t, &sum);

		if (code)
			failures += show_failure(&t, code);
	}
	show_sum(&sum);
	assert_int_equal(failures, 0);
	if (count < SEEDS_DEFAULT)
		return;
	/* All of it was in play. */
	assert_true(sum.takeovers > 2 * count);
	assert_true(sum.zombies > count);
	assert_true(sum.copied > count);
	assert_true(sum.dropped > count);
	assert_true(sum.checkpoints > count);
}

static void be_mutant(const char *name)
{
	fprintf(stderr, "sim_takeover: built without mutants\n");
	exit(2);
}

#endif

static int replay(int argc, char **argv)
{
	struct takeover t = {.how = TAKEOVER_DICE, .seed = 1};
	struct takeover_report sum = {0};
	int code;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--how"))
			t.how = takeover_how_parse(argv[i + 1]);
		else if (!strcmp(argv[i], "--where"))
			t.where = strcmp(argv[i + 1], "start") ? TAKEOVER_LOAD
							       : TAKEOVER_START;
		else if (!strcmp(argv[i], "--seed"))
			t.seed = strtoull(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--mutant"))
			be_mutant(argv[i + 1]);
		else if (!strcmp(argv[i], "--at"))
			t.at = strtoull(argv[i + 1], NULL, 10);
	}
	if (t.how > TAKEOVER_DICE) {
		fprintf(stderr, "sim_takeover: --how is unknown\n");
		return 2;
	}
	code = takeover_fork(&t, &sum);
	printf("%sexit %d\n", trial_output(), code);
	show_sum(&sum);
	return code;
}

int main(int argc, char **argv)
{
	trial_tune_memory(argv);
	if (argc > 2 && argv[1][0] == '-')
		return replay(argc, argv);
	return test_run(argc, argv);
}
