/* Who leads next in a takeover: cold starts, standbys that have followed, and
 * members that elect themselves. */
#include "tests/sim/takeover_private.h"

#define STARTS_MAX 60u

static struct rig_options some_options(struct course *c)
{
	struct rig_options o = c->rig;

	if (maybe(c, 60))
		o.memory_bytes = 0;
	o.claimed = leader_claimed;
	o.ctx = c;
	return o;
}

/* ---- standing by ---- */

static bool standby_is_dead(const struct rig *r)
{
	return sim_is_dead(sim_node(r->io)) || r->failed;
}

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
	r = takeover_rig();
	err = rig_stand_by(r, c->sim, &options);
	if (err && !r->died)
		takeover_refuse("nobody can stand by", err, r->why);
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

/* ---- to lead ---- */

/* What became of it.  True: it leads, or somebody else does. */
static bool has_led(struct course *c, struct rig *r, int err)
{
	if (!err) {
		leader_started(c, r, r->options.memory_bytes);
		return c->now != NULL;
	}
	c->report->failed_starts++;
	/* Of members one may have sealed all others, and died. */
	if (err == -E_FENCED &&
	    (leader_is_superseded(c, r->epoch) || c->kind == MEMBERS))
		return c->now != NULL;
	/* Somebody leads, and does not let go. */
	if (err == -EAGAIN && !r->options.steal)
		return false;
	if (!r->died)
		takeover_refuse("the broker does not start", err, r->why);
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
		r = takeover_rig();
	if (c->disturb_next)
		before = watch_begin(c, r, c->run->at, watch_disturb);
	else
		before = watch_begin(c, r, at,
				     at ? watch_disturb_by_dice : NULL);
	c->disturb_next = false;
	if (!r->io)
		err = rig_stand_by(r, c->sim, &options);
	if (!err)
		err = rig_take_over(r);
	c->start_calls = c->calls;
	watch_end(c, &before);
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
	before = watch_begin(c, r, 0, NULL);
	err = rig_take_over(r);
	watch_end(c, &before);
	return has_led(c, r, err);
}

void succession_lead(struct course *c)
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

void succession_end(struct course *c)
{
	do {
		if (!c->now)
			succession_lead(c);
		for (size_t i = 0; i < STANDBYS_MAX; i++)
			if (c->standbys[i] && !standby_is_dead(c->standbys[i]))
				rig_kill(c->standbys[i]);
		standbys_count(c);
	} while (!c->now);
}
