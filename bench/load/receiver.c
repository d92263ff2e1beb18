/* bench/load/receiver.c: what a connection receives. */
#include "bench/load/internal.h"

static void on_arrived(struct wire *w, uint32_t lane, const uint8_t *body,
		       size_t len, bool redelivered)
{
	struct member *m = w->owner;
	struct worker *worker = m->worker;
	struct run *r = worker->run;
	struct payload_fields f;
	uint32_t source = lane;

	if (lane != WIRE_ANY_LANE)
		source = plan_receiver_source(&r->plan, w->index, lane);
	worker->tally.redelivered += redelivered;
	switch (judge_arrived(&r->judge, &m->order, &worker->tally, w->index,
			      source, body, len, &f)) {
	case JUDGE_NEW:
		tally_arrived(&worker->tally, &worker->window, worker->now_ns,
			      f.intended_ns);
		break;
	case JUDGE_AGAIN:
	case JUDGE_FOREIGN:
	case JUDGE_CORRUPT:
		break;
	}
}

int receiver_init(struct member *m)
{
	const struct run *r = m->worker->run;

	m->wire.arrived = on_arrived;
	if (!r->o->verifies)
		return 0;
	return judge_order_init(&m->order, &r->plan, m->wire.lane_count);
}

void receiver_fini(struct member *m)
{
	judge_order_fini(&m->order);
}
