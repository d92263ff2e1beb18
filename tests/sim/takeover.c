/* See takeover.h: the runs. */
#include <string.h>
#include <unistd.h>

#include "tests/sim/takeover_private.h"

/* Paused zombies hold nothing up, but each costs memory. */
#define ZOMBIES_MAX 2u

static const char *const how_names[] = {
	[TAKEOVER_PAUSE] = "pause", [TAKEOVER_STALL] = "stall",
	[TAKEOVER_RUN] = "run",	    [TAKEOVER_KILL] = "kill",
	[TAKEOVER_CUT] = "cut",	    [TAKEOVER_DICE] = "dice",
};

static const char *const where_names[] = {
	[TAKEOVER_LOAD] = "load", [TAKEOVER_START] = "start"};

const char *takeover_how_name(enum takeover_how how)
{
	return how_names[how];
}

const char *takeover_where_name(enum takeover_where where)
{
	return where_names[where];
}

enum takeover_how takeover_how_parse(const char *name)
{
	unsigned how = 0;

	while (how <= TAKEOVER_HOWS && strcmp(how_names[how], name))
		how++;
	return (enum takeover_how)how;
}

void takeover_refuse(const char *what, int err, const char *why)
{
	model_fail("%s: %s: %s", what, err_str(err), why);
}

struct rig *takeover_rig(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		model_fail("the test has no memory");
	return r;
}

static uint64_t pick(struct sim *sim, uint64_t min, uint64_t max)
{
	return min + sim_below(sim, max - min + 1);
}

/* ---- by dice ---- */

static enum takeover_how some_how(struct course *c)
{
	uint64_t dice = sim_below(c->sim, 100);

	return dice < 30   ? TAKEOVER_PAUSE
	       : dice < 60 ? TAKEOVER_STALL
	       : dice < 85 ? TAKEOVER_RUN
	       : dice < 95 ? TAKEOVER_KILL
			   : TAKEOVER_CUT;
}

static void take_over_here(struct course *c)
{
	struct watch before = watch_begin(c, NULL, 0, NULL);

	leader_interrupt(c, c->now, some_how(c));
	succession_lead(c);
	if (maybe(c, 50))
		leader_work(c);
	watch_end(c, &before);
	c->event = NULL;
}

static void reign_under_load(struct course *c, struct leader *l)
{
	struct watch before = {0};
	uint64_t dice = sim_below(c->sim, 10);

	if (dice < 6)
		before = watch_begin(
			c, l->rig,
			1 + sim_below(c->sim,
				      (uint64_t)16 << sim_below(c->sim, 7)),
			take_over_here);
	else if (dice < 9)
		l->rig->away_at_step =
			sim_steps(c->sim) + 1 +
			sim_below(c->sim, (uint64_t)64 << sim_below(c->sim, 8));
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	watch_end(c, &before);
	leader_check_health(c, l);
}

/* One reign, to its end. */
static void reign(struct course *c)
{
	struct leader *l;

	if (!c->now)
		succession_lead(c);
	l = c->now;
	if (maybe(c, 40))
		leader_look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	if (c->now == l)
		reign_under_load(c, l);
	if (c->now == l) {
		leader_interrupt(c, l, some_how(c));
		if (!l->gone && maybe(c, 50))
			load_publish(l->load, (unsigned)sim_below(c->sim, 20));
	}
	if (!c->now)
		succession_lead(c);
	if (maybe(c, 30))
		leader_zombies_wake(c);
}

/* ---- the options of a run ---- */

static void options_small(struct course *c)
{
	c->rig.shard_count = 1 + (unsigned)(c->run->seed % 2);
	c->rig.checkpoint_bytes = 60000;
	c->rig.checkpoint_ns = 20 * MS;
	c->load = (struct load_options){
		.steps = 40,
		.burst_max = 12,
		.bytes_max = 3000,
		.large_ppm = 60000,
		.pause_ns_max = 3000000,
		.quiet_ppm = 60000,
		.priority_ppm = 200000,
		.consumers = 4,
	};
	c->rig.hot_bytes = 1;
	c->rig.hot_ns = 10 * MS;
	c->rig.extent_bytes = 50000;
	c->rig.store_memory_bytes = 5000;
	c->rig.memory_bytes = c->run->seed % 2 ? 30000 : 0;
}

static void options_random(struct course *c)
{
	struct sim *s = c->sim;

	c->rig.shard_count = 1 + (unsigned)sim_below(s, 3);
	c->rig.checkpoint_bytes = 20000 << sim_below(s, 5);
	c->rig.checkpoint_ns = pick(s, 2, 300) * MS;
	c->rig.compress_level = maybe(c, 30);
	if (maybe(c, 50))
		c->rig.memory_bytes = pick(s, 5000, 100000);
	if (maybe(c, 20))
		c->rig.segment_bytes = 4 << 20;
	c->load = (struct load_options){
		.steps = (unsigned)pick(s, 5, 50),
		.burst_max = (unsigned)pick(s, 1, 30),
		.bytes_max = (uint32_t)64 << sim_below(s, 8),
		.large_ppm = (uint32_t)sim_below(s, 40000),
		.pause_ns_max = (uint64_t)1000 << sim_below(s, 13),
		.long_ppm = (uint32_t)sim_below(s, 10000),
		.quiet_ppm = (uint32_t)sim_below(s, 60000),
		.expiry_ppm = (uint32_t)sim_below(s, 50000),
		.priority_ppm = (uint32_t)sim_below(s, 400000),
		.starve_ppm = maybe(c, 30) ? 900000 : 0,
		.consumers = 1 + (unsigned)sim_below(s, LOAD_CONSUMERS),
		.stuck = maybe(c, 20),
	};
	c->rig.hot_bytes = maybe(c, 70) ? 1 : 1 << 20;
	c->rig.hot_ns = MS << sim_below(s, 10);
	c->rig.extent_bytes = (uint64_t)20000 << sim_below(s, 7);
	c->rig.store_memory_bytes = (uint64_t)1000 << sim_below(s, 8);
	c->rig.expiry_scan_ns = (uint64_t)20000000 << sim_below(s, 8);
	if (maybe(c, 20))
		c->rig.scrub_ns = (uint64_t)10000000 << sim_below(s, 6);
}

static struct sim_config world_of(const struct takeover *run)
{
	bool dice = run->how == TAKEOVER_DICE;
	struct sim_config config = dice && run->seed % 2
					   ? sim_config_rough(run->seed)
					   : sim_config_calm(run->seed);

	if (dice && run->seed % 4 < 3)
		config.interleave_ppm =
			run->seed % 4 == 0 ? SIM_ALWAYS : 300000;
	return config;
}

/* ---- a run ---- */

static void leaders_end(struct course *c)
{
	for (size_t i = 0; i < c->leader_count; i++)
		leader_end(c, &c->leaders[i]);
}

static void stop(struct course *c)
{
	leader_count_up(c, c->now);
	if (rig_stop(c->now->rig) != 0) {
		leader_check_health(c, c->now);
		model_fail("the leader is dead, and nobody has killed it");
	}
	c->now->gone = true;
}

/* What is left: the zombies end, the last leader stops or is killed, and
 * another one shows that all is there, and accepts it. */
__attribute__((noreturn)) static void finish(struct course *c)
{
	struct rig_options plain = c->rig;
	struct rig *r;
	int err;

	succession_end(c);
	leader_zombies_end(c, 0);
	leader_check_history(c);
	/* A member's watchdog may still bark. */
	if (c->kind == MEMBERS && c->now)
		leader_depose(c, c->now);
	if (c->now)
		leader_look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	if (maybe(c, 30))
		sim_disk_cut(c->disk);
	else if (c->now && maybe(c, 50) && !c->now->rig->follow_loop)
		stop(c);
	leaders_end(c);
	plain.memory_bytes = 0;
	for (unsigned i = 0; i < 2; i++) {
		leaders_end(c);
		model_crash(&c->model);
		r = takeover_rig();
		err = rig_start(r, c->sim, &plain);
		if (err)
			takeover_refuse("the broker does not start", err,
					r->why);
		c->now = leader_add(c, r, false);
		leader_look(c, i ? LOAD_LEAVE : LOAD_ACCEPT_ALL);
	}
	leader_check_history(c);
	c->report->runs++;
	c->report->confirmed += c->model.confirmed;
	c->report->acked += c->model.acked;
	c->report->delivered += c->model.delivered;
	if (c->forked)
		c->report->failures--;
	_exit(0);
}

__attribute__((noreturn)) static void run_dice(struct course *c)
{
	unsigned reigns = 1 + (unsigned)sim_below(c->sim, 5);
	uint64_t dice = sim_below(c->sim, 4);

	c->kind = dice == 0 ? COLD : dice < 3 ? WARM : MEMBERS;
	c->takeover_ns = (100 * MS) << sim_below(c->sim, 5);
	succession_lead(c);
	for (unsigned i = 0; i < reigns; i++) {
		reign(c);
		leader_zombies_end(c, ZOMBIES_MAX);
		if (maybe(c, 50))
			leader_check_history(c);
	}
	finish(c);
}

/* The call at which the leader, in the load that follows, is first known to
 * have committed where it has moved messages to; a child finds out. */
static void note_moved(struct course *c)
{
	if (!c->scout->calls && c->watched->moved)
		c->scout->calls = c->calls;
}

static uint64_t scout_move(struct course *c, struct leader *l)
{
	c->scout = trial_shared(sizeof(*c->scout));
	if (watch_fork(c)) {
		(void)watch_begin(c, l->rig, 0, note_moved);
		l->load = load_create(l->rig, &c->model, &c->load);
		load_run(l->load);
		_exit(0);
	}
	return c->scout->calls;
}

static void stall_here(struct course *c)
{
	leader_interrupt(c, c->now, TAKEOVER_STALL);
	c->event = NULL;
}

/* The first leader leaves something behind; the second is taken over at one of
 * its calls. */
__attribute__((noreturn)) static void run_load(struct course *c,
					       struct leader *l)
{
	struct watch before =
		watch_begin(c, l->rig, c->run->at, watch_take_over);

	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	if (!c->forked)
		c->report->calls = c->calls;
	watch_end(c, &before);
	finish(c);
}

/* The second stands still with something in flight: mostly what says where
 * messages have been moved to.  It happens to the third. */
__attribute__((noreturn)) static void run_start(struct course *c,
						struct leader *l)
{
	uint64_t at = scout_move(c, l), back = 1 + c->run->seed % 6;
	struct watch before;

	if (at <= back)
		model_fail("nothing has been moved");
	before = watch_begin(c, l->rig, at - back, stall_here);
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	watch_end(c, &before);
	if (c->now == l)
		leader_interrupt(c, l, TAKEOVER_STALL);
	c->disturb_next = true;
	succession_lead(c);
	if (!c->forked)
		c->report->calls = c->start_calls;
	finish(c);
}

__attribute__((noreturn)) static void run_places(struct course *c)
{
	succession_lead(c);
	c->now->load = load_create(c->now->rig, &c->model, &c->load);
	load_run(c->now->load);
	leader_interrupt(c, c->now, TAKEOVER_KILL);
	succession_lead(c);
	if (c->run->where == TAKEOVER_START)
		run_start(c, c->now);
	run_load(c, c->now);
}

__attribute__((noreturn)) static void
takeover_run(const struct takeover *run, struct takeover_report *report)
{
	struct sim_config config = world_of(run);
	struct course *c = calloc(1, sizeof(*c));

	if (!c)
		model_fail("the test has no memory");
	c->run = run;
	c->report = report;
	c->sim = sim_create(&config);
	if (getenv("SIM_TRACE"))
		sim_trace_print(c->sim, fopen(getenv("SIM_TRACE"), "w"));
	c->disk = sim_disk(c->sim, 0);
	sim_disk_watch_calls(c->disk, watch_call, c);
	c->rig.rules = load_rules;
	c->rig.rule_count = load_rule_count;
	rig_size_entries(run->seed);
	model_init(&c->model);
	if (run->how == TAKEOVER_DICE) {
		options_random(c);
		run_dice(c);
	}
	options_small(c);
	run_places(c);
}

static void run_child(const void *what, void *report)
{
	takeover_run(what, report);
}

int takeover_fork(const struct takeover *run, struct takeover_report *sum)
{
	static struct takeover_report *shared;
	int code;

	if (!shared)
		shared = trial_shared(sizeof(*shared));
	*shared = *sum;
	code = trial_child(run_child, run, shared);
	*sum = *shared;
	return code;
}
