/* bench/load/sender.c: when a connection sends, and what becomes of it. */
#include <errno.h>

#include "bench/load/internal.h"

#define SECOND_NS 1000000000u

/* (a × b) / c without overflow. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c)
{
	return (uint64_t)((unsigned __int128)a * b / c);
}

uint64_t sender_due(const struct run *r, uint64_t now_ns)
{
	uint64_t start_ns = r->start_ns, until_ns = run_window(r).end_ns;

	now_ns = base_min(now_ns, until_ns - 1);
	if (!start_ns || now_ns < start_ns)
		return 0;
	return scale(now_ns - start_ns, r->o->rate, SECOND_NS) + 1;
}

uint64_t sender_due_ns(const struct run *r, uint64_t number)
{
	/* Up, so that it is due at this very time. */
	return r->start_ns + scale(number, SECOND_NS, r->o->rate) +
	       (scale(number, SECOND_NS, r->o->rate) * r->o->rate / SECOND_NS <
		number);
}

static void on_confirmed(struct wire *w, uint64_t first, uint64_t last,
			 enum wire_outcome outcome)
{
	struct member *m = w->owner;
	struct worker *worker = m->worker;
	struct run *r = worker->run;

	last = base_min(last, w->sent - 1);
	for (uint64_t at = base_max(first, m->oldest); at <= last; at++) {
		struct slot *slot = &m->slots[at & m->slot_mask];

		if (slot->settled)
			continue;
		slot->settled = true;
		m->settled++;
		if (outcome == WIRE_ACCEPTED)
			judge_accepted(&r->judge,
				       plan_sender_stream(
					       &r->plan, w->index,
					       (uint32_t)(at % w->lane_count)),
				       at / w->lane_count);
		tally_confirmed(&worker->tally, &worker->window, worker->now_ns,
				slot->intended_ns, outcome);
	}
	while (m->oldest < w->sent &&
	       m->slots[m->oldest & m->slot_mask].settled)
		m->oldest++;
}

int sender_init(struct member *m)
{
	const struct load_options *o = m->worker->run->o;
	uint64_t slots = 64;

	/* Confirmations may come out of order. */
	while (slots < 4ull * o->window)
		slots *= 2;
	m->slots = calloc(slots, sizeof(*m->slots));
	if (!m->slots)
		return -ENOMEM;
	m->slot_mask = slots - 1;
	m->quota = UINT64_MAX;
	m->wire.confirmed = on_confirmed;
	return 0;
}

void sender_fini(struct member *m)
{
	free(m->slots);
}

/* How many messages this sender may have sent by now. */
static uint64_t limit(const struct member *m, uint64_t now_ns)
{
	const struct worker *worker = m->worker;

	if (worker->run->o->rate)
		return base_min(m->due, m->quota);
	/* Time is over, or something has ended the run. */
	if (now_ns >= worker->window.end_ns ||
	    (worker->phase != PHASE_RUNNING && m->quota == UINT64_MAX))
		return m->wire.sent;
	return m->quota;
}

static uint64_t intended_ns(const struct member *m, uint64_t now_ns)
{
	const struct run *r = m->worker->run;

	if (!r->o->rate)
		return now_ns;
	return sender_due_ns(r, m->wire.sent * r->plan.senders + m->wire.index);
}

bool sender_fill(struct member *m, uint64_t now_ns)
{
	struct worker *worker = m->worker;
	const struct run *r = worker->run;
	struct wire *w = &m->wire;
	uint64_t most = limit(m, now_ns);
	uint32_t lane = (uint32_t)(w->sent % w->lane_count);

	if (worker->phase != PHASE_RUNNING && worker->phase != PHASE_FINISHING)
		return false;
	while (w->sent < most && w->sent - m->settled < r->o->window &&
	       w->sent - m->oldest <= m->slot_mask && wire_can_send(w, lane)) {
		struct payload_fields f = {
			.run = r->id,
			.stream = plan_sender_stream(&r->plan, w->index, lane),
			.number = w->sent / w->lane_count,
			.intended_ns = intended_ns(m, now_ns),
		};
		struct slot *slot = &m->slots[w->sent & m->slot_mask];

		slot->intended_ns = f.intended_ns;
		slot->settled = false;
		payload_make(r->pool, &f, r->o->verifies, &w->payload);
		wire_send(w, lane);
		w->sent++;
		worker->tally.sent++;
		if (++lane == w->lane_count)
			lane = 0;
	}
	return w->out.len - w->out.at >= WIRE_OUT_BYTES_SOFT;
}

/* How many it will have sent at the end. */
static uint64_t target(const struct member *m)
{
	const struct run *r = m->worker->run;
	uint64_t senders = r->plan.senders, due;

	if (r->o->count || !r->o->rate)
		return r->o->count ? m->quota : m->wire.sent;
	due = sender_due(r, m->worker->window.end_ns);
	return due > m->wire.index ? (due - m->wire.index - 1) / senders + 1
				   : 0;
}

bool sender_is_done(const struct member *m)
{
	if (m->wire.state == WIRE_CLOSED)
		return true;
	return m->settled == m->wire.sent && m->wire.sent >= target(m);
}
