/* See trial.h. */
#include "tests/sim/trial.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIVES_MAX 40u

static const char *const mode_names[TRIAL_MODES] = {
	[TRIAL_CALM] = "calm",	   [TRIAL_CUT] = "cut",
	[TRIAL_KILL] = "kill",	   [TRIAL_EIO] = "eio",
	[TRIAL_ENOSPC] = "enospc", [TRIAL_LOST] = "lost",
	[TRIAL_TWICE] = "twice",   [TRIAL_RANDOM] = "random",
	[TRIAL_ROT] = "rot",	   [TRIAL_MEMORY] = "memory",
	[TRIAL_ZOMBIE] = "zombie",
};

const char *trial_mode_name(enum trial_mode mode)
{
	return mode_names[mode];
}

enum trial_mode trial_mode_parse(const char *name)
{
	unsigned mode = 0;

	while (mode < TRIAL_MODES && strcmp(mode_names[mode], name))
		mode++;
	return (enum trial_mode)mode;
}

/* What happens after which, when nothing goes wrong. */
enum phase { PHASE_WORK, PHASE_HALF, PHASE_ALL, PHASE_EMPTY, PHASE_END };

struct course {
	const struct trial *trial;
	struct trial_report *report;
	struct sim *sim;
	struct sim_disk *disk;
	struct model model;
	struct rig_options rig;
	struct load_options load;
	unsigned works;	  /* loads still to come */
	unsigned faults;  /* still to come; TRIAL_RANDOM */
	unsigned excused; /* failures that injected errors explain */
	struct rig *now;
};

/* ---- what the seed decides ---- */

static uint64_t pick(struct sim *sim, uint64_t min, uint64_t max)
{
	return min + sim_below(sim, max - min + 1);
}

/* Small enough to be repeated for each of its mutations. */
static void options_small(struct course *c)
{
	c->rig.shard_count = 1 + (unsigned)(c->trial->seed % 2);
	c->rig.checkpoint_bytes = 200000;
	c->rig.compress_level = c->trial->seed % 3 == 0;
	c->load = (struct load_options){
		.steps = 45,
		.burst_max = 12,
		.bytes_max = 3000,
		.large_ppm = 60000,
		.pause_ns_max = 3000000,
		.long_ppm = 20000,
		.quiet_ppm = 30000,
		.expiry_ppm = 50000,
		.priority_ppm = 200000,
		.consumers = 4,
	};
	c->works = 1;
	/* Everything is moved soon, and known of in the index. */
	c->rig.hot_bytes = 1;
	c->rig.hot_ns = 100000000;
	c->rig.extent_bytes = 100000;
	c->rig.store_memory_bytes = 20000;
	c->rig.memory_bytes = c->trial->seed % 2 ? 30000 : 0;
	c->rig.expiry_scan_ns = 500000000;
}

/* What is moved to extents, and what is known of it in memory: mostly so
 * little that everything there is happens to a few hundred messages. */
static void options_random_store(struct course *c)
{
	struct sim *s = c->sim;

	c->rig.hot_bytes = sim_chance(s, 700000) ? 1 : 3 << 20;
	c->rig.hot_ns = (uint64_t)1000000 << sim_below(s, 14);
	c->rig.extent_bytes = (uint64_t)20000 << sim_below(s, 9);
	c->rig.store_memory_bytes = (uint64_t)1000 << sim_below(s, 10);
	c->rig.expiry_scan_ns = (uint64_t)20000000 << sim_below(s, 10);
	if (sim_chance(s, 200000))
		c->rig.scrub_ns = (uint64_t)100000000 << sim_below(s, 6);
	if (sim_chance(s, 200000))
		c->rig.index_faults.full_ppm = (uint32_t)sim_below(s, 300000);
	if (sim_chance(s, 100000))
		c->rig.index_faults.corrupt_ppm = (uint32_t)sim_below(s, 20000);
}

static void options_random(struct course *c)
{
	struct sim *s = c->sim;

	c->rig.shard_count = 1 + (unsigned)sim_below(s, 3);
	c->rig.checkpoint_bytes = 50000 << sim_below(s, 6);
	c->rig.checkpoint_ns = pick(s, 20, 1500) * 1000000;
	c->rig.compress_level = sim_chance(s, 300000);
	if (sim_chance(s, 600000))
		c->rig.memory_bytes = pick(s, 5000, 200000);
	/* In longer ones the next one's zeros wait for a while. */
	if (sim_chance(s, 250000))
		c->rig.segment_bytes = 4 << 20;
	c->load = (struct load_options){
		.steps = (unsigned)pick(s, 10, 200),
		.burst_max = (unsigned)pick(s, 1, 40),
		.bytes_max = (uint32_t)64 << sim_below(s, 9),
		.large_ppm = (uint32_t)sim_below(s, 60000),
		.pause_ns_max = (uint64_t)1000 << sim_below(s, 15),
		.long_ppm = (uint32_t)sim_below(s, 50000),
		.quiet_ppm = (uint32_t)sim_below(s, 60000),
		.expiry_ppm = (uint32_t)sim_below(s, 100000),
		.priority_ppm = (uint32_t)sim_below(s, 400000),
		.starve_ppm = sim_chance(s, 300000) ? 900000 : 0,
		.consumers = 1 + (unsigned)sim_below(s, LOAD_CONSUMERS),
		.stuck = sim_chance(s, 200000),
	};
	c->works = 1 + (unsigned)sim_below(s, 3);
	c->faults = (unsigned)sim_below(s, 5);
	options_random_store(c);
}

static bool by_dice(const struct trial *t)
{
	return t->mode == TRIAL_RANDOM || t->mode == TRIAL_ROT;
}

static struct sim_config world_of(const struct trial *t)
{
	struct sim_config config = sim_config_calm(t->seed);

	if (by_dice(t) && t->seed % 4)
		config = sim_config_rough(t->seed);
	if (by_dice(t) && t->seed % 3)
		config.interleave_ppm = 300000;
	if (!by_dice(t) && t->seed % 5 == 4)
		config.no_direct = true;
	return config;
}

/* ---- faults ---- */

static void fault_once(struct course *c)
{
	static const enum sim_fault faults[TRIAL_MODES] = {
		[TRIAL_CUT] = SIM_FAULT_CUT,
		[TRIAL_KILL] = SIM_FAULT_KILL,
		[TRIAL_EIO] = SIM_FAULT_EIO,
		[TRIAL_ENOSPC] = SIM_FAULT_ENOSPC,
		[TRIAL_LOST] = SIM_FAULT_LOST,
	};
	enum trial_mode mode = c->trial->mode;

	if (mode == TRIAL_MEMORY) {
		if (sim_alloc_fail_at(c->trial->at) != 0)
			model_fail("this program is linked without --wrap");
		c->excused = 1;
		c->model.forgetful = true;
	}
	if (!faults[mode])
		return;
	sim_disk_fault_at(c->disk, faults[mode], c->trial->at);
	if (mode == TRIAL_LOST)
		sim_disk_fault_at(c->disk, SIM_FAULT_CUT,
				  c->trial->at + 1 + c->trial->seed % 2);
	c->excused = mode == TRIAL_EIO || mode == TRIAL_ENOSPC;
	c->model.damaged = mode == TRIAL_LOST;
	c->model.cramped = mode == TRIAL_ENOSPC;
}

static void fault_random(struct course *c)
{
	static const enum sim_fault faults[] = {
		SIM_FAULT_CUT,	SIM_FAULT_CUT,	SIM_FAULT_CUT,
		SIM_FAULT_CUT,	SIM_FAULT_KILL, SIM_FAULT_KILL,
		SIM_FAULT_KILL, SIM_FAULT_EIO,	SIM_FAULT_ENOSPC,
	};
	enum sim_fault fault = faults[sim_below(c->sim, ARRAY_COUNT(faults))];
	uint64_t k = 1 + sim_below(c->sim, (uint64_t)8 << sim_below(c->sim, 7));

	/* What has not come yet would come on top. */
	for (unsigned f = SIM_FAULT_CUT; f <= SIM_FAULT_ENOSPC; f++)
		sim_disk_fault_at(c->disk, f, 0);
	c->model.cramped = false;
	if (!c->faults)
		return;
	c->faults--;
	sim_disk_fault_at(c->disk, fault, sim_disk_mutations(c->disk) + k);
	if (fault == SIM_FAULT_EIO || fault == SIM_FAULT_ENOSPC)
		c->excused++;
	c->model.cramped = fault == SIM_FAULT_ENOSPC;
}

/* Whatever the disk does here is found out by itself, for it is stopped well:
 * what was written last has something behind it that vouches for it. */
static void fault_rot(struct course *c)
{
	static const enum sim_fault faults[] = {
		SIM_FAULT_ROT,	SIM_FAULT_ROT,	     SIM_FAULT_ROT,
		SIM_FAULT_BAD,	SIM_FAULT_STRAY,     SIM_FAULT_MISDIRECT,
		SIM_FAULT_LOST, SIM_FAULT_READ_FLIP, SIM_FAULT_READ_EIO,
	};
	uint64_t k = 1 + sim_below(c->sim, (uint64_t)8 << sim_below(c->sim, 7));
	enum sim_fault fault = faults[sim_below(c->sim, ARRAY_COUNT(faults))];
	uint64_t from = fault >= SIM_FAULT_READ_EIO
				? sim_disk_reads(c->disk)
				: sim_disk_mutations(c->disk);

	for (uint64_t n = sim_below(c->sim, 3); n; n--)
		(void)sim_disk_rot(c->disk, sim_chance(c->sim, 200000));
	for (unsigned f = SIM_FAULT_CUT; f < SIM_FAULT_END; f++)
		sim_disk_fault_at(c->disk, f, 0);
	c->model.rotting = sim_chance(c->sim, 500000);
	if (c->model.rotting)
		sim_disk_fault_at(c->disk, fault, from + k);
	c->model.damaged = true;
}

/* ---- lives ---- */

__attribute__((noreturn)) static void
refuse(const struct course *c, const char *what, int err, const char *why)
{
	struct sim_disk_stats s;

	sim_disk_stats(c->disk, &s);
	fprintf(stderr, "the broker %s: %s: %s\n", what, err_str(err), why);
	fflush(NULL);
	_exit(c->model.damaged && (s.lost || s.misdirected || s.flips ||
				   s.bad_sectors || s.read_errors)
		      ? TRIAL_REFUSED
		      : TRIAL_WRONG);
}

/* An injected error explains one failure.  (A damaged index explains any, for
 * it is made anew at each start.) */
static bool course_excused(struct course *c)
{
	if (!c->excused)
		return false;
	c->excused--;
	return true;
}

/* NULL: it was interrupted, or failed as an injected error allows. */
static struct rig *course_start(struct course *c, enum phase phase)
{
	struct rig_options options = c->rig;
	struct rig *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		r = calloc(1, sizeof(*r));
	if (!r)
		model_fail("the test has no memory");
	if (++c->report->lives > LIVES_MAX)
		model_fail("the broker does not come to an end");
	/* Only who settles can take everything from a broker that has little
	 * memory. */
	if (phase == PHASE_HALF || phase == PHASE_EMPTY)
		options.memory_bytes = 0;
	/* An index that is damaged again and again must not be all there is. */
	if (c->report->lives > LIVES_MAX / 4)
		options.index_faults.corrupt_ppm = 0;
	err = rig_start(r, c->sim, &options);
	if (!err)
		return r;
	if (!r->died && !r->index_failed && !course_excused(c))
		refuse(c, "does not start", err, r->why);
	model_crash(&c->model);
	return NULL;
}

/* It must not confirm anything any more, but for what is on its way.  The
 * store can fail alone: then the journal is as good as its word. */
static void check_silence(struct course *c, struct rig *r)
{
	uint64_t confirmed;

	if (log_check_claim(r->log) == 0)
		return;
	sim_run_for(c->sim, 1000000);
	confirmed = c->model.confirmed;
	sim_run_for(c->sim, 50000000);
	if (c->model.confirmed != confirmed)
		model_fail("a message was confirmed after the failure");
}

/* It did not come to the end of its phase. */
static void course_interrupted(struct course *c, struct rig *r)
{
	if (r->failed && !sim_is_dead(sim_node(r->io))) {
		if (!index_twin_corrupted(r->index) && !course_excused(c))
			refuse(c, "failed", r->failed, r->why);
		check_silence(c, r);
	}
	rig_kill(r);
	model_crash(&c->model);
}

static void course_count(struct course *c, const struct rig *r)
{
	const struct store_stats *s = store_stats(r->store);

	c->report->copied += s->copied_messages;
	c->report->fetched += s->fetched_messages;
	c->report->spilled += s->index_spills;
	c->report->damage += s->damage;
}

static void course_end_life(struct course *c, struct rig *r)
{
	uint64_t dice =
		c->trial->mode == TRIAL_RANDOM ? sim_below(c->sim, 3) : 0;

	if (dice == 1)
		sim_disk_cut(c->disk);
	else if (dice == 2)
		sim_kill(sim_node(r->io));
	else if (rig_stop(r) == 0) {
		model_crash(&c->model);
		return;
	}
	course_interrupted(c, r);
}

/* True: the phase has been done. */
static bool course_phase(struct course *c, struct rig *r, enum phase phase)
{
	uint64_t steps = sim_steps(c->sim);
	struct load *l;

	if (phase == PHASE_WORK) {
		l = load_create(r, &c->model, &c->load);
		load_run(l);
		c->report->steps = sim_steps(c->sim) - steps;
		c->works--;
		return true;
	}
	return load_census(r, &c->model,
			   phase == PHASE_HALF	? LOAD_ACCEPT_HALF
			   : phase == PHASE_ALL ? LOAD_ACCEPT_ALL
						: LOAD_LEAVE);
}

static void course_run(struct course *c, enum phase phase)
{
	while (phase != PHASE_END) {
		bool done;
		struct rig *r;

		if (c->trial->mode == TRIAL_RANDOM)
			fault_random(c);
		if (c->trial->mode == TRIAL_ROT)
			fault_rot(c);
		r = course_start(c, phase);
		if (!r)
			continue;
		done = course_phase(c, r, phase);
		course_count(c, r);
		if (rig_is_dead(r))
			course_interrupted(c, r);
		else
			course_end_life(c, r);
		if (done && (phase != PHASE_WORK || !c->works))
			phase++;
	}
}

/* ---- zombies ---- */

static void course_zombie(struct course *c)
{
	bool stall = c->trial->at & 1;
	struct rig *old = course_start(c, PHASE_WORK), *next;
	struct load *l = load_create(old, &c->model, &c->load);
	uint64_t steps = sim_steps(c->sim), accepted, fenced_ns;

	old->away_at_step = steps + c->trial->at;
	load_run(l);
	c->report->steps = sim_steps(c->sim) - steps;
	sim_pause(sim_node(old->io), stall);
	sim_drop_locks(sim_node(old->io));
	l->deposed = true;
	model_crash(&c->model);
	next = course_start(c, PHASE_HALF);
	if (!load_census(next, &c->model, LOAD_ACCEPT_HALF))
		model_fail("the new leader failed: %s", next->why);
	/* What the old one learned before the pause may still be told.  What
	 * it takes from now on must never be confirmed. */
	sim_resume(sim_node(old->io));
	old->away_at_step = 0;
	old->away = false;
	sim_run_for(c->sim, 100000000);
	accepted = l->accepted;
	if (!old->failed)
		load_publish(l, 5);
	fenced_ns = sim_now_ns(c->sim) + 2000000000ull;
	while (!old->failed && sim_now_ns(c->sim) < fenced_ns)
		sim_run_for(c->sim, 10000000);
	if (old->failed != -E_FENCED)
		model_fail("the deposed leader says %s (%s)",
			   old->failed ? err_str(old->failed) : "nothing",
			   old->why);
	sim_run_for(c->sim, 100000000);
	if (l->accepted != accepted)
		model_fail("the deposed leader has confirmed a message");
	rig_kill(old);
	if (next->failed)
		refuse(c, "failed", next->failed, next->why);
	course_end_life(c, next);
	course_run(c, PHASE_ALL);
}

/* ---- a trial ---- */

/* A cut in the middle of the work, and one in what follows. */
static void course_twice(struct course *c)
{
	struct rig *r = course_start(c, PHASE_WORK);
	struct load *l = load_create(r, &c->model, &c->load);

	load_run(l);
	sim_disk_cut(c->disk);
	rig_kill(r);
	model_crash(&c->model);
	sim_disk_fault_at(c->disk, SIM_FAULT_CUT,
			  sim_disk_mutations(c->disk) + c->trial->at);
	course_run(c, PHASE_HALF);
}

void trial_run(const struct trial *t, struct trial_report *report)
{
	struct sim_config config = world_of(t);
	struct course *c = calloc(1, sizeof(*c));

	if (!c)
		_exit(TRIAL_WRONG);
	c->trial = t;
	c->report = report;
	c->sim = sim_create(&config);
	if (getenv("SIM_TRACE"))
		sim_trace_print(c->sim, fopen(getenv("SIM_TRACE"), "w"));
	c->disk = sim_disk(c->sim, 0);
	c->rig.rules = load_rules;
	c->rig.rule_count = load_rule_count;
	rig_size_entries(t->seed);
	model_init(&c->model);
	if (by_dice(t))
		options_random(c);
	else
		options_small(c);
	if (t->mode == TRIAL_ZOMBIE)
		course_zombie(c);
	else if (t->mode == TRIAL_TWICE)
		course_twice(c);
	else {
		fault_once(c);
		course_run(c, PHASE_WORK);
	}
	report->allocations = sim_alloc_count();
	report->mutations = sim_disk_mutations(c->disk);
	report->confirmed = c->model.confirmed;
	report->acked = c->model.acked;
	report->delivered = c->model.delivered;
	_exit(TRIAL_PASSED);
}

/* ---- children ---- */

void trial_tune_memory(char **argv)
{
#ifndef __SANITIZE_ADDRESS__
	static const char tunables[] = "glibc.malloc.hugetlb=1:"
				       "glibc.malloc.mmap_threshold=1073741824:"
				       "glibc.malloc.trim_threshold=4294967296:"
				       "glibc.malloc.top_pad=8388608";

	if (getenv("GLIBC_TUNABLES") ||
	    setenv("GLIBC_TUNABLES", tunables, 1) != 0)
		return;
	execv("/proc/self/exe", argv);
#else
	(void)argv;
#endif
}

static char output[16384];

const char *trial_output(void)
{
	return output;
}

/* The end of it: that is where it says what is wrong. */
static void read_output(FILE *from)
{
	size_t n;

	rewind(from);
	if (fseek(from, 1 - (long)sizeof(output), SEEK_END) != 0)
		rewind(from);
	n = fread(output, 1, sizeof(output) - 1, from);
	output[n] = '\0';
}

void *trial_shared(size_t bytes)
{
	void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED) {
		perror("a trial's report");
		exit(2);
	}
	return shared;
}

int trial_child(void (*run)(const void *what, void *report), const void *what,
		void *report)
{
	FILE *said = tmpfile();
	int status;
	pid_t child;

	if (!said) {
		perror("a trial's output");
		exit(2);
	}
	fflush(NULL);
	child = fork();
	if (!child) {
		dup2(fileno(said), STDOUT_FILENO);
		dup2(fileno(said), STDERR_FILENO);
		/* A trial that hangs is a finding like others. */
		alarm(300);
		run(what, report);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0) {
		perror("a trial's process");
		exit(2);
	}
	read_output(said);
	fclose(said);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run_trial(const void *what, void *report)
{
	trial_run(what, report);
}

int trial_fork(const struct trial *t, struct trial_report *report)
{
	static struct trial_report *shared;
	int code;

	if (!shared)
		shared = trial_shared(sizeof(*shared));
	memset(shared, 0, sizeof(*shared));
	code = trial_child(run_trial, t, shared);
	if (report)
		*report = *shared;
	return code;
}
