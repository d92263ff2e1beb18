/* The calls to the disk at which something happens in a takeover: once, or at
 * every one of them, in children. */
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/takeover_private.h"

#define FAILURES_SHOWN_MAX 3u

void watch_call(void *ctx, struct sim_node *node)
{
	struct course *c = ctx;

	if (!c->watched || !c->watched->io || node != sim_node(c->watched->io))
		return;
	c->calls++;
	if (c->event && (!c->at || c->at == c->calls))
		c->event(c);
}

struct watch watch_begin(struct course *c, struct rig *r, uint64_t at,
			 void (*event)(struct course *))
{
	struct watch before = {c->watched, c->calls, c->at, c->event};

	c->watched = r;
	c->calls = 0;
	c->at = at;
	c->event = event;
	return before;
}

void watch_end(struct course *c, const struct watch *before)
{
	c->watched = before->watched;
	c->calls = before->calls;
	c->at = before->at;
	c->event = before->event;
}

/* ---- a start is disturbed ---- */

/* At a call of a broker that is starting. */
static void disturb(struct course *c, enum takeover_how how)
{
	struct rig *starting = c->watched;

	(void)watch_begin(c, NULL, 0, NULL);
	switch (how) {
	case TAKEOVER_STALL:
		leader_zombies_run(c, sim_below(c->sim, 20 * MS));
		/* fall through */
	case TAKEOVER_PAUSE:
		/* It stands still, and another one takes over. */
		sim_pause(sim_node(starting->io), false);
		succession_lead(c);
		leader_work(c);
		sim_resume(sim_node(starting->io));
		break;
	case TAKEOVER_RUN:
		leader_zombies_run(c, sim_below(c->sim, 20 * MS));
		break;
	case TAKEOVER_KILL:
		sim_kill(sim_node(starting->io));
		break;
	case TAKEOVER_CUT:
		leader_cut_power(c);
		break;
	case TAKEOVER_DICE:
		ASSERT(false);
	}
}

void watch_disturb_by_dice(struct course *c)
{
	disturb(c, (enum takeover_how)sim_below(c->sim, TAKEOVER_HOWS));
}

/* ---- every call ---- */

bool watch_fork(struct course *c)
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
	if (watch_fork(c))
		return true;
	if (c->report->failures > failures)
		fprintf(stderr,
			"... in --how %s --where %s --seed %llu --at "
			"%llu\n",
			takeover_how_name(c->run->how),
			takeover_where_name(c->run->where),
			(unsigned long long)c->run->seed,
			(unsigned long long)c->calls);
	return false;
}

void watch_disturb(struct course *c)
{
	if (is_the_place(c))
		disturb(c, c->run->how);
}

void watch_take_over(struct course *c)
{
	struct watch before;

	if (!is_the_place(c))
		return;
	before = watch_begin(c, NULL, 0, NULL);
	leader_interrupt(c, c->now, c->run->how);
	succession_lead(c);
	leader_work(c);
	watch_end(c, &before);
	c->event = NULL;
}
