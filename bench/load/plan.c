/* bench/load/plan.c: see plan.h. */
#include "bench/load/plan.h"

/* Of `all` things dealt out to `hands` in turn: how many hand i gets. */
static uint32_t share(uint32_t all, uint32_t hands, uint32_t i)
{
	return i < all ? (all - i - 1) / hands + 1 : 0;
}

uint32_t plan_sender_streams(const struct plan *p)
{
	if (!p->senders)
		return 0;
	return (uint32_t)base_max(p->senders, p->fanout ? 1 : p->queues);
}

uint32_t plan_sources(const struct plan *p)
{
	return p->fanout ? p->fanout : p->queues;
}

uint32_t plan_copies(const struct plan *p)
{
	return p->fanout ? p->fanout : 1;
}

uint32_t plan_sender_lanes(const struct plan *p, uint32_t sender)
{
	return share(plan_sender_streams(p), p->senders, sender);
}

uint32_t plan_sender_stream(const struct plan *p, uint32_t sender,
			    uint32_t lane)
{
	return sender + lane * p->senders;
}

uint32_t plan_receiver_lanes(const struct plan *p, uint32_t receiver)
{
	uint32_t all = (uint32_t)base_max(p->receivers, plan_sources(p));

	return share(all, p->receivers, receiver);
}

uint32_t plan_receiver_source(const struct plan *p, uint32_t receiver,
			      uint32_t lane)
{
	return (receiver + lane * p->receivers) % plan_sources(p);
}

uint32_t plan_receiver_lane(const struct plan *p, uint32_t receiver,
			    uint32_t source)
{
	uint32_t sources = plan_sources(p);

	return p->receivers >= sources ? 0 : (source - receiver) / p->receivers;
}

bool plan_is_from(const struct plan *p, uint32_t stream, uint32_t source)
{
	if (stream >= p->streams)
		return false;
	return p->fanout || stream % p->queues == source;
}

uint32_t plan_source_streams(const struct plan *p)
{
	return p->fanout ? p->streams : (p->streams - 1) / p->queues + 1;
}

uint32_t plan_source_place(const struct plan *p, uint32_t stream)
{
	return p->fanout ? stream : stream / p->queues;
}
