/* See takeover.h. */
#include "tests/sim/takeover.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/history.h"

#define LEADERS_MAX 64u
#define STARTS_MAX 60u
#define FAILURES_SHOWN_MAX 3u
#define MS 1000000ull
/* Paused zombies hold nothing up, but each costs memory. */
#define ZOMBIES_MAX 2u
#define STANDBYS_MAX 2u

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

struct leader {
	struct rig *rig;
	struct load *load; /* the last one */
	bool cramped;	   /* it has little memory */
	bool deposed;	   /* another one has claimed, or is about to */
	bool gone;	   /* killed, cut, or done with */
};

/* Who takes over: somebody who has just started, one that has followed the
 * leader, or a member that decides so by itself. */
enum kind { COLD, WARM, MEMBERS };

struct course {
	const struct takeover *run;
	struct takeover_report *report;
	struct sim *sim;
	struct sim_disk *disk;
	struct model model;
	struct rig_options rig;
	struct load_options load;
	struct leader leaders[LEADERS_MAX];
	size_t leader_count;
	struct leader *now; /* who leads */
	uint32_t top_epoch; /* that anybody has claimed */
	enum kind kind;
	uint64_t takeover_ns; /* MEMBERS */
	struct rig *standbys[STANDBYS_MAX];
	unsigned depth; /* of takeovers within each other */
	unsigned starts;
	bool disturb_next; /* the next start is the one */
	uint64_t start_calls;
	struct takeover_report *scout; /* shared with a child */
	/* At a call of this rig's node something happens. */
	struct rig *watched;
	uint64_t calls; /* so far */
	uint64_t at;	/* 0: never */
	void (*event)(struct course *);
	bool forked; /* a child of an enumeration */
};

static uint64_t pick(struct sim *sim, uint64_t min, uint64_t max)
{
	return min + sim_below(sim, max - min + 1);
}

static bool maybe(struct course *c, unsigned percent)
{
	return sim_chance(c->sim, percent * 10000);
}

/* ---- calls ---- */

struct watch {
	struct rig *watched;
	uint64_t calls, at;
	void (*event)(struct course *);
};

static void about_to_call(void *ctx, struct sim_node *node)
{
	struct course *c = ctx;

	if (!c->watched || !c->watched->io || node != sim_node(c->watched->io))
		return;
	c->calls++;
	if (c->event && (!c->at || c->at == c->calls))
		c->event(c);
}

/* at: counted from now on; 0: at each of them. */
static struct watch watch(struct course *c, struct rig *r, uint64_t at,
			  void (*event)(struct course *))
{
	struct watch before = {c->watched, c->calls, c->at, c->event};

	c->watched = r;
	c->calls = 0;
	c->at = at;
	c->event = event;
	return before;
}

static void unwatch(struct course *c, const struct watch *before)
{
	c->watched = before->watched;
	c->calls = before->calls;
	c->at = before->at;
	c->event = before->event;
}

/* ---- the old leader ---- */

/* Once more it is nobody's turn. */
static void leader_count_up(struct course *c, const struct leader *l)
{
	const struct store_stats *s = store_stats(l->rig->store);
	const struct log_stats *g = log_stats(l->rig->log);

	c->report->copied += s->copied_messages;
	c->report->checkpoints += s->checkpoints;
	c->report->dropped += g->segments_dropped;
}

static void leader_end(struct course *c, struct leader *l)
{
	if (l->gone)
		return;
	leader_count_up(c, l);
	rig_kill(l->rig);
	l->gone = true;
}

/* Nobody who steps does so on this one any more. */
static void depose(struct course *c, struct leader *l)
{
	if (l->deposed)
		return;
	l->deposed = true;
	l->rig->away = true;
	if (l->load)
		load_depose(l->load, (unsigned)sim_below(c->sim, 60));
	model_crash(&c->model);
	if (c->now == l)
		c->now = NULL;
}

static void cut_power(struct course *c)
{
	sim_disk_cut(c->disk);
	for (size_t i = 0; i < c->leader_count; i++) {
		depose(c, &c->leaders[i]);
		leader_end(c, &c->leaders[i]);
	}
}

static void interrupt(struct course *c, struct leader *l, enum takeover_how how)
{
	struct sim_node *node = sim_node(l->rig->io);

	depose(c, l);
	switch (how) {
	case TAKEOVER_PAUSE:
	case TAKEOVER_STALL:
		sim_pause(node, how == TAKEOVER_STALL);
		break;
	case TAKEOVER_RUN:
		break;
	case TAKEOVER_KILL:
		leader_end(c, l);
		return;
	case TAKEOVER_CUT:
		cut_power(c);
		return;
	case TAKEOVER_DICE:
		ASSERT(false);
	}
	/* A healthy member with its lock is not taken over from. */
	if (maybe(c, 50) || (c->kind == MEMBERS && how == TAKEOVER_RUN))
		sim_drop_locks(node);
}

/* ---- the new one ---- */

__attribute__((noreturn)) static void refuse(const char *what, int err,
					     const char *why)
{
	model_fail("%s: %s: %s", what, err_str(err), why);
}

/* Everybody who has claimed before is sealed now. */
static void claimed(void *ctx, struct rig *r)
{
	struct course *c = ctx;

	c->top_epoch = base_max(c->top_epoch, r->epoch);
	for (size_t i = 0; i < c->leader_count; i++) {
		struct leader *l = &c->leaders[i];

		if (l->rig->epoch > r->epoch)
			continue;
		depose(c, l);
		if (l->load)
			l->load->sealed = true;
	}
}

static bool is_superseded(const struct course *c, uint32_t epoch)
{
	return c->top_epoch > epoch;
}

static void resume(struct course *c, struct leader *l)
{
	(void)c;
	if (!l->gone && !sim_is_dead(sim_node(l->rig->io)))
		sim_resume(sim_node(l->rig->io));
}

static void lead(struct course *c);
static void work(struct course *c);

static void zombies_run(struct course *c, uint64_t ns)
{
	for (size_t i = 0; i < c->leader_count; i++)
		resume(c, &c->leaders[i]);
	sim_run_for(c->sim, ns);
}

/* At a call of a broker that is starting. */
static void disturb(struct course *c, enum takeover_how how)
{
	struct rig *starting = c->watched;

	(void)watch(c, NULL, 0, NULL);
	switch (how) {
	case TAKEOVER_STALL:
		zombies_run(c, sim_below(c->sim, 20 * MS));
		/* fall through */
	case TAKEOVER_PAUSE:
		/* It stands still, and another one takes over. */
		sim_pause(sim_node(starting->io), false);
		lead(c);
		work(c);
		sim_resume(sim_node(starting->io));
		break;
	case TAKEOVER_RUN:
		zombies_run(c, sim_below(c->sim, 20 * MS));
		break;
	case TAKEOVER_KILL:
		sim_kill(sim_node(starting->io));
		break;
	case TAKEOVER_CUT:
		cut_power(c);
		break;
	case TAKEOVER_DICE:
		ASSERT(false);
	}
}

static void disturb_start(struct course *c)
{
	disturb(c, (enum takeover_how)sim_below(c->sim, TAKEOVER_HOWS));
}

/* ---- every call ---- */

/* The child is here; its parent goes on when it has ended. */
static bool fork_here(struct course *c)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child) {
		c->forked = true;
		return true;
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		model_fail("the test cannot fork");
	return false;
}

/* True in the process where it happens. */
static bool is_the_place(struct course *c)
{
	uint64_t failures = c->report->failures;

	if (c->forked)
		return false;
	if (c->run->at)
		return true;
	if (failures >= FAILURES_SHOWN_MAX ||
	    (c->run->stride > 1 && c->calls % c->run->stride != 1))
		return false;
	c->report->failures++; /* unless it comes to its end */
	if (fork_here(c))
		return true;
	if (c->report->failures > failures)
		fprintf(stderr,
			"... in --how %s --where %s --seed %llu --at "
			"%llu\n",
			how_names[c->run->how], where_names[c->run->where],
			(unsigned long long)c->run->seed,
			(unsigned long long)c->calls);
	return false;
}

static void at_start_call(struct course *c)
{
	if (is_the_place(c))
		disturb(c, c->run->how);
}

static void at_call(struct course *c)
{
	struct watch before;

	if (!is_the_place(c))
		return;
	before = watch(c, NULL, 0, NULL);
	interrupt(c, c->now, c->run->how);
	lead(c);
	work(c);
	unwatch(c, &before);
	c->event = NULL;
}

static struct leader *leader_add(struct course *c, struct rig *r, bool cramped)
{
	struct leader *l = &c->leaders[c->leader_count++];

	if (c->leader_count == LEADERS_MAX)
		model_fail("there are too many leaders");
	*l = (struct leader){.rig = r, .cramped = cramped};
	return l;
}

/* It leads, or has been deposed in the last moment. */
static void started(struct course *c, struct rig *r, bool cramped)
{
	bool superseded = is_superseded(c, r->epoch);
	struct leader *l = leader_add(c, r, cramped);

	l->load = load_create(r, &c->model, &c->load);
	if (superseded) {
		l->deposed = l->rig->away = true;
		load_depose(l->load, 0);
		l->load->sealed = l->load->cut = true;
		return;
	}
	for (size_t i = 0; i + 1 < c->leader_count; i++)
		if (c->leaders[i].load)
			c->leaders[i].load->cut = true;
	c->report->takeovers += c->leader_count > 1;
	c->now = l;
}

/* ---- standing by ---- */

static void lead(struct course *c);

static bool standby_is_dead(const struct rig *r)
{
	return sim_is_dead(sim_node(r->io)) || r->failed;
}

static struct rig_options some_options(struct course *c);
static struct rig *rig_memory(void);

/* In the place of one that is dead, or of any. */
static void standby_add(struct course *c)
{
	struct rig_options options = some_options(c);
	struct rig *r;
	size_t i = 0;
	int err;

	while (i + 1 < STANDBYS_MAX && c->standbys[i] &&
	       !standby_is_dead(c->standbys[i]))
		i++;
	if (c->standbys[i])
		rig_kill(c->standbys[i]);
	c->standbys[i] = NULL;
	if (c->kind == MEMBERS)
		options.takeover_after_ns = c->takeover_ns;
	else
		options.follow_ns = MS << sim_below(c->sim, 8);
	r = rig_memory();
	err = rig_stand_by(r, c->sim, &options);
	if (err && !r->died)
		refuse("nobody can stand by", err, r->why);
	if (!err)
		c->standbys[i] = r;
}

static unsigned standbys_count(struct course *c)
{
	unsigned count = 0;

	for (size_t i = 0; i < STANDBYS_MAX; i++) {
		if (c->standbys[i] && standby_is_dead(c->standbys[i]))
			c->standbys[i] = NULL;
		count += c->standbys[i] != NULL;
	}
	return count;
}

static void standbys_wake(struct course *c)
{
	for (size_t i = 0; i < STANDBYS_MAX; i++)
		if (c->standbys[i])
			sim_resume(sim_node(c->standbys[i]->io));
}

/* Those that are gone are replaced; some stand still for a while. */
static void standbys_care(struct course *c)
{
	unsigned count = standbys_count(c);

	if (c->kind != COLD && count < STANDBYS_MAX && maybe(c, 70))
		standby_add(c);
	standbys_wake(c);
	for (size_t i = 0; i < STANDBYS_MAX; i++)
		if (c->standbys[i] && maybe(c, 30))
			sim_pause(sim_node(c->standbys[i]->io), maybe(c, 50));
}

/* Nobody else takes over any more. */
static void standbys_end(struct course *c)
{
	do {
		if (!c->now)
			lead(c);
		for (size_t i = 0; i < STANDBYS_MAX; i++)
			if (c->standbys[i] && !standby_is_dead(c->standbys[i]))
				rig_kill(c->standbys[i]);
		standbys_count(c);
	} while (!c->now);
}

/* NULL: there is none, or it is below us on the stack. */
static struct rig *standby_take(struct course *c)
{
	for (size_t i = 0; c->kind == WARM && i < STANDBYS_MAX; i++) {
		struct rig *r = c->standbys[i];

		if (!r || standby_is_dead(r) || r->following || maybe(c, 20))
			continue;
		sim_resume(sim_node(r->io));
		/* It may find that it was left behind. */
		if (maybe(c, 50))
			sim_run_for(c->sim, r->options.follow_ns);
		if (standby_is_dead(r) || r->following)
			continue;
		c->standbys[i] = NULL;
		return r;
	}
	return NULL;
}

static struct rig_options some_options(struct course *c)
{
	struct rig_options o = c->rig;

	if (maybe(c, 60))
		o.memory_bytes = 0;
	o.claimed = claimed;
	o.ctx = c;
	return o;
}

static struct rig *rig_memory(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	if (!r)
		model_fail("the test has no memory");
	return r;
}

/* What became of it.  True: it leads, or somebody else does. */
static bool has_led(struct course *c, struct rig *r, int err)
{
	if (!err) {
		started(c, r, r->options.memory_bytes);
		return c->now != NULL;
	}
	c->report->failed_starts++;
	/* Of members one may have sealed all others, and died. */
	if (err == -E_FENCED &&
	    (is_superseded(c, r->epoch) || c->kind == MEMBERS))
		return c->now != NULL;
	/* Somebody leads, and does not let go. */
	if (err == -EAGAIN && !r->options.steal)
		return false;
	if (!r->died)
		refuse("the broker does not start", err, r->why);
	return c->now != NULL;
}

static bool try_to_lead(struct course *c)
{
	struct rig_options options = some_options(c);
	struct rig *r = standby_take(c);
	struct watch before;
	uint64_t at = 0;
	int err = 0;

	if (++c->starts > STARTS_MAX)
		model_fail("the broker does not come to an end");
	options.steal = c->leader_count && maybe(c, 70);
	if (c->run->how == TAKEOVER_DICE && c->leader_count && c->depth < 3 &&
	    maybe(c, 30))
		at = 1 + sim_below(c->sim, (uint64_t)8 << sim_below(c->sim, 5));
	if (r) {
		c->report->warm++;
		c->report->resets += store_stats(r->store)->follow_resets;
		r->options.steal = options.steal;
	}
	if (!r)
		r = rig_memory();
	if (c->disturb_next)
		before = watch(c, r, c->run->at, at_start_call);
	else
		before = watch(c, r, at, at ? disturb_start : NULL);
	c->disturb_next = false;
	if (!r->io)
		err = rig_stand_by(r, c->sim, &options);
	if (!err)
		err = rig_take_over(r);
	c->start_calls = c->calls;
	unwatch(c, &before);
	return has_led(c, r, err);
}

/* Members decide for themselves. */
static bool is_elected(void *ctx)
{
	struct course *c = ctx;

	for (size_t i = 0; i < STANDBYS_MAX; i++)
		if (c->standbys[i] && c->standbys[i]->elected)
			return true;
	return false;
}

static void await_election(struct course *c)
{
	uint64_t begun_ns = sim_now_ns(c->sim), ns = 0;
	uint64_t add_ns = 10 * c->takeover_ns;

	standbys_wake(c);
	while (!is_elected(c)) {
		if (ns > 100 * c->takeover_ns + 60000 * MS)
			model_fail("nobody takes over");
		/* One that goes on gives signs of life, and may have its lock
		 * back. */
		for (size_t i = 0; i < c->leader_count; i++)
			if (ns > 3 * c->takeover_ns && !c->leaders[i].gone)
				sim_pause(sim_node(c->leaders[i].rig->io),
					  false);
		/* Those whose turn it is may be below us on the stack. */
		if (!standbys_count(c) || ns > add_ns) {
			standby_add(c);
			add_ns = ns + 10 * c->takeover_ns;
		}
		sim_run_for(c->sim, c->takeover_ns / 10 + 1);
		ns = sim_now_ns(c->sim) - begun_ns;
	}
}

static bool elected_leads(struct course *c)
{
	struct rig *r = NULL;
	struct watch before;
	int err;

	if (++c->starts > STARTS_MAX)
		model_fail("the broker does not come to an end");
	await_election(c);
	for (size_t i = 0; i < STANDBYS_MAX && !r; i++) {
		r = c->standbys[i] && c->standbys[i]->elected ? c->standbys[i]
							      : NULL;
		if (r)
			c->standbys[i] = NULL;
	}
	c->report->elected++;
	c->report->resets += store_stats(r->store)->follow_resets;
	before = watch(c, r, 0, NULL);
	err = rig_take_over(r);
	unwatch(c, &before);
	return has_led(c, r, err);
}

static void lead(struct course *c)
{
	/* While a standby starts, another one may be elected. */
	do {
		c->depth++;
		while (c->kind == MEMBERS ? !elected_leads(c) : !try_to_lead(c))
			;
		c->depth--;
		standbys_care(c);
	} while (!c->now);
}

/* ---- zombies ---- */

static bool has_found_out(struct course *c, struct leader *l, uint64_t ns)
{
	uint64_t end_ns = sim_now_ns(c->sim) + ns;

	while (!l->rig->failed && sim_now_ns(c->sim) < end_ns)
		sim_run_for(c->sim, 10 * MS);
	return l->rig->failed;
}

/* It goes on, is asked for something, and must say that it was fenced. */
static void zombie_ends(struct course *c, struct leader *l)
{
	resume(c, l);
	l->rig->away_at_step = 0;
	l->rig->away = false;
	c->report->zombies++;
	c->report->fenced_at_once += has_found_out(c, l, 20 * MS);
	if (!l->rig->failed)
		load_accept(l->load, 3);
	if (!l->rig->failed)
		load_publish(l->load, 5);
	/* A queue's messages are always for the journal. */
	if (!l->rig->failed)
		load_send(l->load, MODEL_TO_A, &(struct load_sent){.len = 100});
	if (!has_found_out(c, l, 30000 * MS))
		model_fail("the deposed leader of epoch %u does not find out",
			   (unsigned)l->rig->epoch);
	/* A member's watchdog may be quicker. */
	if (l->rig->failed != -E_FENCED &&
	    !(l->rig->member && l->rig->failed == -ETIMEDOUT))
		refuse("the deposed leader does not say that it was fenced",
		       l->rig->failed, l->rig->why);
	sim_run_for(c->sim, 5 * MS);
	leader_end(c, l);
}

/* keep: so many may go on. */
static void zombies_end(struct course *c, unsigned keep)
{
	unsigned count = 0;

	for (size_t i = c->leader_count; i-- > 0;) {
		struct leader *l = &c->leaders[i];

		if (l->gone || !l->deposed)
			continue;
		if (sim_is_dead(sim_node(l->rig->io)))
			leader_end(c, l);
		else if (count < keep && maybe(c, 50))
			count++;
		else
			zombie_ends(c, l);
	}
}

static void zombies_wake(struct course *c)
{
	for (size_t i = 0; i < c->leader_count; i++)
		if (c->leaders[i].deposed && maybe(c, 50))
			resume(c, &c->leaders[i]);
}

/* ---- who leads ---- */

/* A leader may be deposed by an election while it works; or by a member that
 * has claimed, and died before it could say so; or its watchdog barks. */
static void check_health(struct course *c, struct leader *l)
{
	int err = l->rig->failed;

	if (!err || l->deposed)
		return;
	if (c->kind != MEMBERS || (err != -E_FENCED && err != -ETIMEDOUT))
		refuse("the leader failed", err, l->rig->why);
	depose(c, l);
	leader_end(c, l);
}

/* Only who accepts everything is given everything by a broker that has little
 * memory. */
static void look(struct course *c, enum load_census_end end)
{
	struct leader *l = c->now;

	if (l->cramped && !maybe(c, 10))
		return;
	if (l->cramped)
		end = LOAD_ACCEPT_ALL;
	if (load_census(l->rig, &c->model, end))
		return;
	check_health(c, l);
	if (!l->deposed)
		model_fail("the leader is dead, and nobody has killed it");
}

static void work(struct course *c)
{
	struct leader *l = c->now;

	if (maybe(c, 50))
		look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	zombies_wake(c);
	if (l->deposed)
		return;
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	check_health(c, l);
}

static void check_history(struct course *c)
{
	struct history_leader all[LEADERS_MAX], t;
	struct io *io = sim_node_create(c->sim, "inspector", 0);

	for (size_t i = 0; i < c->leader_count; i++)
		all[i] = (struct history_leader){
			.epoch = c->leaders[i].rig->epoch,
			.committed = c->leaders[i].rig->committed};
	/* By epoch; a start may have been overtaken. */
	for (size_t i = 1; i < c->leader_count; i++)
		for (size_t k = i; k && all[k - 1].epoch > all[k].epoch; k--) {
			t = all[k];
			all[k] = all[k - 1];
			all[k - 1] = t;
		}
	history_check(io, "data", all, c->leader_count);
	io_free(io);
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
	struct watch before = watch(c, NULL, 0, NULL);

	interrupt(c, c->now, some_how(c));
	lead(c);
	if (maybe(c, 50))
		work(c);
	unwatch(c, &before);
	c->event = NULL;
}

static void reign_under_load(struct course *c, struct leader *l)
{
	struct watch before = {0};
	uint64_t dice = sim_below(c->sim, 10);

	if (dice < 6)
		before = watch(c, l->rig,
			       1 + sim_below(c->sim, (uint64_t)16 << sim_below(
							     c->sim, 7)),
			       take_over_here);
	else if (dice < 9)
		l->rig->away_at_step =
			sim_steps(c->sim) + 1 +
			sim_below(c->sim, (uint64_t)64 << sim_below(c->sim, 8));
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	unwatch(c, &before);
	check_health(c, l);
}

/* One reign, to its end. */
static void reign(struct course *c)
{
	struct leader *l;

	if (!c->now)
		lead(c);
	l = c->now;
	if (maybe(c, 40))
		look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	if (c->now == l)
		reign_under_load(c, l);
	if (c->now == l) {
		interrupt(c, l, some_how(c));
		if (!l->gone && maybe(c, 50))
			load_publish(l->load, (unsigned)sim_below(c->sim, 20));
	}
	if (!c->now)
		lead(c);
	if (maybe(c, 30))
		zombies_wake(c);
}

/* ---- a run ---- */

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

static void leaders_end(struct course *c)
{
	for (size_t i = 0; i < c->leader_count; i++)
		leader_end(c, &c->leaders[i]);
}

static void stop(struct course *c)
{
	leader_count_up(c, c->now);
	if (rig_stop(c->now->rig) != 0) {
		check_health(c, c->now);
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

	standbys_end(c);
	zombies_end(c, 0);
	check_history(c);
	/* A member's watchdog may still bark. */
	if (c->kind == MEMBERS && c->now)
		depose(c, c->now);
	if (c->now)
		look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	if (maybe(c, 30))
		sim_disk_cut(c->disk);
	else if (c->now && maybe(c, 50) && !c->now->rig->follow_loop)
		stop(c);
	leaders_end(c);
	plain.memory_bytes = 0;
	for (unsigned i = 0; i < 2; i++) {
		leaders_end(c);
		model_crash(&c->model);
		r = rig_memory();
		err = rig_start(r, c->sim, &plain);
		if (err)
			refuse("the broker does not start", err, r->why);
		c->now = leader_add(c, r, false);
		look(c, i ? LOAD_LEAVE : LOAD_ACCEPT_ALL);
	}
	check_history(c);
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
	lead(c);
	for (unsigned i = 0; i < reigns; i++) {
		reign(c);
		zombies_end(c, ZOMBIES_MAX);
		if (maybe(c, 50))
			check_history(c);
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
	if (fork_here(c)) {
		(void)watch(c, l->rig, 0, note_moved);
		l->load = load_create(l->rig, &c->model, &c->load);
		load_run(l->load);
		_exit(0);
	}
	return c->scout->calls;
}

static void stall_here(struct course *c)
{
	interrupt(c, c->now, TAKEOVER_STALL);
	c->event = NULL;
}

/* The first leader leaves something behind; the second is taken over at one of
 * its calls. */
__attribute__((noreturn)) static void run_load(struct course *c,
					       struct leader *l)
{
	struct watch before = watch(c, l->rig, c->run->at, at_call);

	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	if (!c->forked)
		c->report->calls = c->calls;
	unwatch(c, &before);
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
	before = watch(c, l->rig, at - back, stall_here);
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	unwatch(c, &before);
	if (c->now == l)
		interrupt(c, l, TAKEOVER_STALL);
	c->disturb_next = true;
	lead(c);
	if (!c->forked)
		c->report->calls = c->start_calls;
	finish(c);
}

__attribute__((noreturn)) static void run_places(struct course *c)
{
	lead(c);
	c->now->load = load_create(c->now->rig, &c->model, &c->load);
	load_run(c->now->load);
	interrupt(c, c->now, TAKEOVER_KILL);
	lead(c);
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
	sim_disk_watch_calls(c->disk, about_to_call, c);
	c->rig.rules = load_rules;
	c->rig.rule_count = load_rule_count;
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
