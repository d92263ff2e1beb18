/* The leaders of a takeover, from their claim to their end: at work, deposed,
 * as zombies. */
#include "tests/sim/history.h"
#include "tests/sim/takeover_private.h"

struct leader *leader_add(struct course *c, struct rig *r, bool cramped)
{
	struct leader *l = &c->leaders[c->leader_count++];

	if (c->leader_count == LEADERS_MAX)
		model_fail("there are too many leaders");
	*l = (struct leader){.rig = r, .cramped = cramped};
	return l;
}

void leader_started(struct course *c, struct rig *r, bool cramped)
{
	bool superseded = leader_is_superseded(c, r->epoch);
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

void leader_count_up(struct course *c, const struct leader *l)
{
	const struct store_stats *s = store_stats(l->rig->store);
	const struct log_stats *g = log_stats(l->rig->log);

	c->report->copied += s->copied_messages;
	c->report->checkpoints += s->checkpoints;
	c->report->dropped += g->segments_dropped;
}

void leader_end(struct course *c, struct leader *l)
{
	if (l->gone)
		return;
	leader_count_up(c, l);
	rig_kill(l->rig);
	l->gone = true;
}

/* ---- deposed ---- */

void leader_depose(struct course *c, struct leader *l)
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

void leader_cut_power(struct course *c)
{
	sim_disk_cut(c->disk);
	for (size_t i = 0; i < c->leader_count; i++) {
		leader_depose(c, &c->leaders[i]);
		leader_end(c, &c->leaders[i]);
	}
}

void leader_interrupt(struct course *c, struct leader *l, enum takeover_how how)
{
	struct sim_node *node = sim_node(l->rig->io);

	leader_depose(c, l);
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
		leader_cut_power(c);
		return;
	case TAKEOVER_DICE:
		ASSERT(false);
	}
	/* A healthy member with its lock is not taken over from. */
	if (maybe(c, 50) || (c->kind == MEMBERS && how == TAKEOVER_RUN))
		sim_drop_locks(node);
}

bool leader_is_superseded(const struct course *c, uint32_t epoch)
{
	return c->top_epoch > epoch;
}

/* Everybody who has claimed before is sealed now. */
void leader_claimed(void *ctx, struct rig *r)
{
	struct course *c = ctx;

	c->top_epoch = base_max(c->top_epoch, r->epoch);
	for (size_t i = 0; i < c->leader_count; i++) {
		struct leader *l = &c->leaders[i];

		if (l->rig->epoch > r->epoch)
			continue;
		leader_depose(c, l);
		if (l->load)
			l->load->sealed = true;
	}
}

/* ---- at work ---- */

void leader_check_health(struct course *c, struct leader *l)
{
	int err = l->rig->failed;

	if (!err || l->deposed)
		return;
	if (c->kind != MEMBERS || (err != -E_FENCED && err != -ETIMEDOUT))
		takeover_refuse("the leader failed", err, l->rig->why);
	leader_depose(c, l);
	leader_end(c, l);
}

void leader_look(struct course *c, enum load_census_end end)
{
	struct leader *l = c->now;

	if (l->cramped && !maybe(c, 10))
		return;
	if (l->cramped)
		end = LOAD_ACCEPT_ALL;
	if (load_census(l->rig, &c->model, end))
		return;
	leader_check_health(c, l);
	if (!l->deposed)
		model_fail("the leader is dead, and nobody has killed it");
}

void leader_work(struct course *c)
{
	struct leader *l = c->now;

	if (maybe(c, 50))
		leader_look(c, maybe(c, 50) ? LOAD_LEAVE : LOAD_ACCEPT_HALF);
	leader_zombies_wake(c);
	if (l->deposed)
		return;
	l->load = load_create(l->rig, &c->model, &c->load);
	load_run(l->load);
	leader_check_health(c, l);
}

/* ---- zombies ---- */

static void resume(struct course *c, struct leader *l)
{
	(void)c;
	if (!l->gone && !sim_is_dead(sim_node(l->rig->io)))
		sim_resume(sim_node(l->rig->io));
}

void leader_zombies_run(struct course *c, uint64_t ns)
{
	for (size_t i = 0; i < c->leader_count; i++)
		resume(c, &c->leaders[i]);
	sim_run_for(c->sim, ns);
}

void leader_zombies_wake(struct course *c)
{
	for (size_t i = 0; i < c->leader_count; i++)
		if (c->leaders[i].deposed && maybe(c, 50))
			resume(c, &c->leaders[i]);
}

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
		takeover_refuse(
			"the deposed leader does not say that it was fenced",
			l->rig->failed, l->rig->why);
	sim_run_for(c->sim, 5 * MS);
	leader_end(c, l);
}

void leader_zombies_end(struct course *c, unsigned keep)
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

/* ---- what the files say ---- */

void leader_check_history(struct course *c)
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
