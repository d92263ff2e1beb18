/* Every workload of up to three operations, and a crash at every place of it.
 *
 * The workloads are a tree: its root is a broker that has something of
 * everything, an edge is one operation.  A process stands for a node; it forks
 * one for each edge, and, while the operation runs, one for each mutation of
 * the disk, in which the power goes or the broker is killed with that mutation
 * in flight; then the broker is started again and emptied, and the model
 * judges.  What workloads have in common is done once.  docs/testing.md.
 *
 *	sim_enumerate --path 0.7.10 --at 12 --how cut	replays one
 *
 * SIM_THOROUGH=1 goes everywhere; without it a sample of the third operations
 * is tried. */
#include "tests/sim/load.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEPTH_MAX 3
#define FAILURES_MAX 5
#define SAMPLE 11 /* of the third operations, one in so many */
#define SECOND 1000000000ull
#define CASE_SECONDS 120
/* What the operations that wait for it outwait, and no other does. */
#define CHECKPOINT_NS (3 * SECOND)
#define HOT_NS (12 * SECOND)
#define EXPIRY_MS 3600000u

enum op {
	OP_SMALL,
	OP_LARGE,
	OP_TOPIC,
	OP_ACCEPT,
	OP_RETURN,
	OP_REJECT,
	OP_PURGE,
	OP_EXPIRE,
	OP_CHECKPOINT,
	OP_COMPACT,
	OP_RESTART,
	OP_COUNT,
};

enum how { HOW_NONE, HOW_CUT, HOW_KILL, HOW_COUNT };

static const char *const how_names[HOW_COUNT] = {"none", "cut", "kill"};

struct counts {
	_Atomic uint64_t workloads, cases, failures;
};

struct walk {
	struct sim *sim;
	struct sim_disk *disk;
	struct model model;
	struct rig_options options;
	struct rig *rig;
	struct load *load;
	struct counts *counts; /* of all processes */
	bool thorough;
	uint8_t path[DEPTH_MAX];
	unsigned depth;
	uint64_t begun; /* mutations before the last operation */
	enum how crashed;
	/* A replay: the place and the manner. */
	uint64_t at;
	enum how how;
};

static const struct load_options no_dice;

/* ---- lives ---- */

static void walk_start(struct walk *w)
{
	int err;

	w->rig = calloc(1, sizeof(*w->rig));
	if (!w->rig)
		model_fail("the test has no memory");
	err = rig_start(w->rig, w->sim, &w->options);
	if (err && !w->rig->died)
		model_fail("the broker does not start: %s: %s", err_str(err),
			   w->rig->why);
	if (!err)
		w->load = load_create(w->rig, &w->model, &no_dice);
}

/* Whether it is to go on; if not, it has crashed as it was meant to. */
static bool alive(struct walk *w)
{
	if (w->rig->failed && !sim_is_dead(sim_node(w->rig->io)))
		model_fail("the broker failed: %s: %s", err_str(w->rig->failed),
			   w->rig->why);
	return !w->rig->died && !rig_is_dead(w->rig);
}

__attribute__((noreturn)) static void walk_judge(struct walk *w)
{
	sim_disk_watch(w->disk, NULL, NULL);
	if (!w->rig->died)
		rig_kill(w->rig);
	model_crash(&w->model);
	walk_start(w);
	if (!load_census(w->rig, &w->model, LOAD_LEAVE))
		model_fail("the broker failed: %s", w->rig->why);
	if (rig_stop(w->rig) != 0)
		model_fail("the broker does not stop: %s", w->rig->why);
	_exit(0);
}

/* ---- operations ---- */

static void send(struct walk *w, enum model_target target, bool large,
		 uint64_t ttl_ms)
{
	load_send(w->load, target,
		  &(struct load_sent){
			  .len = 300,
			  .large = large,
			  .priority = 4,
			  .expiry_ms = ttl_ms ? io_wall_ms(w->rig->io) + ttl_ms
					      : 0});
}

static void walk_restart(struct walk *w)
{
	if (rig_stop(w->rig) != 0)
		return;
	model_crash(&w->model);
	walk_start(w);
}

static void operate(struct walk *w, enum op op)
{
	switch (op) {
	case OP_SMALL:
		send(w, MODEL_TO_A, false, 0);
		return;
	case OP_LARGE:
		send(w, MODEL_TO_A, true, 0);
		return;
	case OP_TOPIC:
		send(w, MODEL_TO_M, false, EXPIRY_MS / 2);
		return;
	case OP_ACCEPT:
		load_take(w->load, MODEL_A, 2, OUTCOME_ACCEPTED, false);
		return;
	case OP_RETURN:
		load_take(w->load, MODEL_A, 1, OUTCOME_MODIFIED, true);
		return;
	case OP_REJECT:
		load_take(w->load, MODEL_A, 1, OUTCOME_REJECTED, false);
		return;
	case OP_PURGE:
		load_purge(w->load, MODEL_A);
		return;
	case OP_EXPIRE:
		sim_wall_step(sim_node(w->rig->io), EXPIRY_MS);
		w->options.wall_skew_ms += EXPIRY_MS;
		rig_run_for(w->rig, SECOND / 2);
		return;
	case OP_CHECKPOINT:
		rig_run_for(w->rig, CHECKPOINT_NS + SECOND);
		return;
	case OP_COMPACT:
		rig_run_for(w->rig, HOT_NS + SECOND);
		return;
	case OP_RESTART:
		walk_restart(w);
		return;
	case OP_COUNT:
		break;
	}
	ASSERT(!"an operation that there is not");
}

/* ---- crashes ---- */

static void print_path(const struct walk *w, char *ret, size_t room)
{
	size_t len = 0;

	ret[0] = '\0';
	for (unsigned i = 0; i < w->depth; i++)
		len += (size_t)snprintf(ret + len, room - len, "%s%u",
					i ? "." : "", w->path[i]);
}

static void show_failure(struct walk *w, uint64_t at, enum how how, int status)
{
	const char *build = getenv("BUILD");
	char path[64];

	print_path(w, path, sizeof(path));
	printf("%s/tests/sim/sim_enumerate --path %s --at %llu --how %s ended "
	       "with %d\n",
	       build && *build ? build : "build/asan", path,
	       (unsigned long long)at, how_names[how],
	       WIFEXITED(status) ? WEXITSTATUS(status)
				 : 128 + WTERMSIG(status));
	fflush(stdout);
	w->counts->failures++;
}

/* True in the child. */
static bool fork_case(struct walk *w, uint64_t at, enum how how)
{
	int status;
	pid_t child;

	if (w->counts->failures >= FAILURES_MAX)
		return false;
	fflush(NULL);
	child = fork();
	if (!child) {
		alarm(CASE_SECONDS);
		w->crashed = how;
		return true;
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		model_fail("the test cannot fork");
	w->counts->cases++;
	if (status)
		show_failure(w, at, how, status);
	return false;
}

static void crash_here(struct walk *w, enum how how)
{
	sim_disk_watch(w->disk, NULL, NULL);
	sim_disk_fault_at(w->disk,
			  how == HOW_CUT ? SIM_FAULT_CUT : SIM_FAULT_KILL,
			  sim_disk_mutations(w->disk) + 1);
}

static void before_mutation(void *ctx)
{
	struct walk *w = ctx;
	uint64_t at = sim_disk_mutations(w->disk) - w->begun + 1;

	if (w->how != HOW_NONE) {
		if (at == w->at) {
			w->crashed = w->how;
			crash_here(w, w->how);
		}
		return;
	}
	for (enum how how = HOW_CUT; how < HOW_COUNT; how++)
		if (fork_case(w, at, how)) {
			crash_here(w, how);
			return;
		}
}

/* ---- the tree ---- */

/* One edge: the operation, and the crashes in it and behind it. */
static void walk_edge(struct walk *w, enum op op)
{
	w->path[w->depth++] = (uint8_t)op;
	w->begun = sim_disk_mutations(w->disk);
	if (w->how == HOW_NONE || w->at)
		sim_disk_watch(w->disk, before_mutation, w);
	operate(w, op);
	sim_disk_watch(w->disk, NULL, NULL);
	if (w->crashed != HOW_NONE)
		walk_judge(w);
	if (!alive(w))
		model_fail("the broker is dead, and nobody has killed it");
}

static bool is_chosen(const struct walk *w, enum op op)
{
	unsigned n = 0;

	if (w->thorough || w->depth < DEPTH_MAX - 1)
		return true;
	for (unsigned i = 0; i < w->depth; i++)
		n = n * OP_COUNT + w->path[i];
	return (n * OP_COUNT + op) % SAMPLE == n / OP_COUNT % SAMPLE;
}

static void walk_on(struct walk *w)
{
	for (unsigned op = 0; op < OP_COUNT; op++) {
		pid_t child;
		int status;

		if (!is_chosen(w, op) || w->counts->failures >= FAILURES_MAX)
			continue;
		fflush(NULL);
		child = fork();
		if (!child) {
			walk_edge(w, op);
			w->counts->workloads++;
			if (fork_case(w, 0, HOW_CUT)) {
				sim_disk_cut(w->disk);
				walk_judge(w);
			}
			if (w->depth < DEPTH_MAX)
				walk_on(w);
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) != child)
			model_fail("the test cannot fork");
		if (status) {
			w->path[w->depth++] = (uint8_t)op;
			show_failure(w, 0, HOW_NONE, status);
			w->depth--;
		}
	}
}

/* A broker with something of everything, most of it in a closed segment. */
static void walk_begin(struct walk *w)
{
	struct sim_config config = sim_config_calm(11);

	config.sync_entry_ppm = 0;
	w->sim = sim_create(&config);
	w->disk = sim_disk(w->sim, 0);
	w->options = (struct rig_options){.checkpoint_bytes = 1 << 30,
					  .checkpoint_ns = CHECKPOINT_NS,
					  .hot_bytes = 1 << 30,
					  .hot_ns = HOT_NS,
					  .expiry_scan_ns = SECOND / 10,
					  .store_memory_bytes = 1 << 20,
					  .rules = load_rules,
					  .rule_count = load_rule_count};
	model_init(&w->model);
	walk_start(w);
	load_take(w->load, MODEL_X, 0, OUTCOME_ACCEPTED, false);
	load_take(w->load, MODEL_Y, 0, OUTCOME_ACCEPTED, false);
	send(w, MODEL_TO_A, false, 0);
	send(w, MODEL_TO_A, false, EXPIRY_MS / 2);
	send(w, MODEL_TO_A, true, 0);
	send(w, MODEL_TO_A, false, 0);
	send(w, MODEL_TO_M, false, 0);
	load_take(w->load, MODEL_A, 1, OUTCOME_MODIFIED, true);
	walk_restart(w);
	if (!alive(w))
		model_fail("the broker is dead");
}

static struct walk *walk_create(void)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (w)
		w->counts =
			mmap(NULL, sizeof(*w->counts), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!w || w->counts == MAP_FAILED)
		model_fail("the test has no memory");
	return w;
}

/* Prints how many there were, and the one line that counts as a test's. */
static int enumerate(void)
{
	const char *thorough = getenv("SIM_THOROUGH");
	struct walk *w = walk_create();
	int status;
	pid_t child;
	bool good;

	w->thorough = thorough && *thorough == '1';
	fflush(NULL);
	child = fork();
	if (!child) {
		walk_begin(w);
		walk_on(w);
		_exit(0);
	}
	good = child > 0 && waitpid(child, &status, 0) == child && !status &&
	       !w->counts->failures && w->counts->cases > 1000;
	printf("%llu workloads, %llu crashes\n%d passed, %d failed\n",
	       (unsigned long long)w->counts->workloads,
	       (unsigned long long)w->counts->cases, good, !good);
	munmap(w->counts, sizeof(*w->counts));
	free(w);
	return good ? 0 : 1;
}

static int replay(int argc, char **argv)
{
	struct walk *w = walk_create();
	const char *path = "";

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--path"))
			path = argv[i + 1];
		else if (!strcmp(argv[i], "--at"))
			w->at = strtoull(argv[i + 1], NULL, 10);
		for (unsigned h = 0; h < HOW_COUNT; h++)
			if (!strcmp(argv[i], "--how") &&
			    !strcmp(argv[i + 1], how_names[h]))
				w->how = h;
	}
	if (w->how == HOW_NONE)
		w->at = UINT64_MAX;
	walk_begin(w);
	if (getenv("SIM_TRACE"))
		sim_trace_print(w->sim, fopen(getenv("SIM_TRACE"), "w"));
	while (*path && w->depth < DEPTH_MAX) {
		char *end;
		unsigned long op = strtoul(path, &end, 10);
		uint64_t at = w->at;
		enum how how = w->how;

		path = end + (*end == '.');
		ASSERT(op < OP_COUNT);
		/* Only the last operation is crashed. */
		w->how = HOW_KILL;
		w->at = *path || !at ? UINT64_MAX : at;
		if (!*path && how != HOW_NONE)
			w->how = how;
		walk_edge(w, op);
		w->at = at;
		w->how = how;
	}
	if (w->how != HOW_NONE && !w->at) {
		sim_disk_cut(w->disk);
		walk_judge(w);
	}
	printf("no crash\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 2 && argv[1][0] == '-')
		return replay(argc, argv);
	return enumerate();
}
