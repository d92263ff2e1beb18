/* replication/kubernetes_plan.c: see kubernetes_plan.h.
 *
 * Two kinds of failure.  Those of the API as a whole (unreachable, hanging,
 * throttling, refusing the token) hold everything back; those of one pod
 * (forbidden, rejected, changed meanwhile) only that pod.  A change of what is
 * wanted ends every wait but one: what the server has asked for.
 *
 * Own pod.  "no" is written without looking: it must be quick, and is never
 * wrong.  "yes" is written only over what was just read, because a request
 * that was given up may still arrive: a late "yes" then finds the pod changed
 * by the "no" that followed it, and is refused. */
#include "replication/kubernetes_plan.h"

void kubernetes_plan_init(struct kubernetes_plan *p, unsigned peer_count,
			  uint64_t level_ms)
{
	ASSERT(peer_count <= KUBERNETES_PEERS_MAX);
	*p = (struct kubernetes_plan){
		.level_ms = level_ms,
		.peer_count = peer_count,
	};
	kubernetes_plan_want(p, false, 0, 0);
}

void kubernetes_plan_want(struct kubernetes_plan *p, bool leader,
			  uint64_t epoch, uint64_t now_ms)
{
	p->leader = leader;
	p->epoch = epoch;
	p->gone = false;
	p->failures = 0;
	if (!p->hold_is_asked)
		p->hold_ms = 0;
	for (unsigned i = 0; i <= p->peer_count; i++)
		p->targets[i] = (struct kubernetes_plan_target){
			.due_ms = now_ms,
			.write = !i && !leader,
		};
}

uint64_t kubernetes_plan_backoff(unsigned failures, uint32_t random)
{
	uint64_t ms = KUBERNETES_PLAN_BACKOFF_MS_MAX;

	ASSERT(failures);
	if (failures <= 6)
		ms = base_min(ms, (uint64_t)KUBERNETES_PLAN_BACKOFF_MS
					  << (failures - 1));
	return ms - random % (ms / 2 + 1);
}

static struct kubernetes_plan_step wait_until(uint64_t ms)
{
	return (struct kubernetes_plan_step){
		.act = KUBERNETES_PLAN_WAIT,
		.until_ms = ms,
	};
}

struct kubernetes_plan_step
kubernetes_plan_next(const struct kubernetes_plan *p, uint64_t now_ms)
{
	uint64_t next_ms = UINT64_MAX;

	if (p->gone)
		return wait_until(UINT64_MAX);
	if (p->hold_ms > now_ms)
		return wait_until(p->hold_ms);
	for (unsigned i = 0; i <= p->peer_count; i++) {
		const struct kubernetes_plan_target *t = &p->targets[i];

		/* Peers are a leader's business, and only after its own label:
		 * else there would be nobody to go to. */
		if (i && !(p->leader && p->targets[0].is_wanted))
			break;
		if (t->due_ms <= now_ms)
			return (struct kubernetes_plan_step){
				.act = t->write ? KUBERNETES_PLAN_WRITE
						: KUBERNETES_PLAN_READ,
				.target = i,
			};
		next_ms = base_min(next_ms, t->due_ms);
	}
	return wait_until(next_ms);
}

/* ---- how a step ended ---- */

static bool is_as_wanted(const struct kubernetes_plan *p, unsigned target,
			 const struct kubernetes_pod *pod)
{
	if (target)
		return !kubernetes_pod_is_stale(pod, p->epoch);
	return kubernetes_pod_is(pod, p->leader, p->epoch);
}

/* Where a target begins again. */
static void start_over(const struct kubernetes_plan *p, unsigned target,
		       struct kubernetes_plan_target *t)
{
	t->write = !target && !p->leader && !t->is_wanted;
}

static void target_failed(const struct kubernetes_plan *p, unsigned target,
			  struct kubernetes_plan_target *t, uint64_t now_ms,
			  uint32_t random)
{
	start_over(p, target, t);
	t->failures++;
	t->due_ms = now_ms + kubernetes_plan_backoff(t->failures, random);
}

static void succeeded(struct kubernetes_plan *p,
		      const struct kubernetes_plan_step *step,
		      const struct kubernetes_pod *pod, uint64_t now_ms,
		      uint32_t random)
{
	struct kubernetes_plan_target *t = &p->targets[step->target];

	p->failures = 0;
	t->seen = *pod;
	t->is_wanted = is_as_wanted(p, step->target, pod);
	if (t->is_wanted) {
		t->write = false;
		t->failures = 0;
		t->due_ms = now_ms + p->level_ms;
	} else if (step->act == KUBERNETES_PLAN_READ) {
		t->write = true;
		t->due_ms = now_ms;
	} else {
		/* It was written, and something else stands there. */
		target_failed(p, step->target, t, now_ms, random);
	}
}

/* The API as a whole. */
static void api_failed(struct kubernetes_plan *p,
		       const struct kubernetes_plan_step *step,
		       const struct kubernetes_plan_outcome *o, uint64_t now_ms,
		       uint32_t random)
{
	uint64_t wait_ms;

	start_over(p, step->target, &p->targets[step->target]);
	p->failures++;
	wait_ms = kubernetes_plan_backoff(p->failures, random);
	p->hold_is_asked = o->has_retry_after;
	if (o->has_retry_after)
		wait_ms = base_max(
			wait_ms, base_min(o->retry_after_ms,
					  KUBERNETES_PLAN_RETRY_AFTER_MS_MAX));
	p->hold_ms = now_ms + wait_ms;
}

static void not_found(struct kubernetes_plan *p, unsigned target,
		      uint64_t now_ms)
{
	struct kubernetes_plan_target *t = &p->targets[target];

	p->failures = 0;
	t->seen = (struct kubernetes_pod){0};
	/* A peer that is not there misleads nobody. */
	t->is_wanted = target != 0;
	t->failures = 0;
	t->write = false;
	t->due_ms = now_ms + p->level_ms;
	p->gone = !target;
}

/* Somebody was faster: look again, at first without waiting. */
static void conflicted(struct kubernetes_plan *p, unsigned target,
		       uint64_t now_ms, uint32_t random)
{
	struct kubernetes_plan_target *t = &p->targets[target];

	p->failures = 0;
	target_failed(p, target, t, now_ms, random);
	if (t->failures == 1)
		t->due_ms = now_ms;
}

void kubernetes_plan_done(struct kubernetes_plan *p,
			  const struct kubernetes_plan_step *step,
			  const struct kubernetes_plan_outcome *o,
			  uint64_t now_ms, uint32_t random)
{
	struct kubernetes_plan_target *t = &p->targets[step->target];

	ASSERT(step->act != KUBERNETES_PLAN_WAIT);
	if (o->cancelled) {
		start_over(p, step->target, t);
		return;
	}
	switch (o->failure) {
	case KUBERNETES_FAILURE_COUNT:
		succeeded(p, step, &o->pod, now_ms, random);
		break;
	case KUBERNETES_UNREACHABLE:
	case KUBERNETES_TIMED_OUT:
	case KUBERNETES_UNTRUSTED:
	case KUBERNETES_UNAUTHORIZED:
	case KUBERNETES_THROTTLED:
	case KUBERNETES_SERVER_ERROR:
	case KUBERNETES_NO_CREDENTIALS:
		api_failed(p, step, o, now_ms, random);
		break;
	case KUBERNETES_FORBIDDEN:
	case KUBERNETES_REJECTED:
		p->failures = 0;
		target_failed(p, step->target, t, now_ms, random);
		break;
	case KUBERNETES_CONFLICT:
		conflicted(p, step->target, now_ms, random);
		break;
	case KUBERNETES_NOT_FOUND:
		not_found(p, step->target, now_ms);
		break;
	}
}

bool kubernetes_plan_in_sync(const struct kubernetes_plan *p)
{
	return p->targets[0].is_wanted && !p->gone;
}

bool kubernetes_plan_is_settled(const struct kubernetes_plan *p)
{
	bool settled = kubernetes_plan_in_sync(p) && !p->failures;

	for (unsigned i = 0; settled && i <= p->peer_count; i++) {
		if (i && !p->leader)
			break;
		settled = p->targets[i].is_wanted && !p->targets[i].failures;
	}
	return settled;
}
