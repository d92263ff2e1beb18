/* bench/load/tally.c: see tally.h. */
#include "bench/load/tally.h"

#include <string.h>

#define SECOND_NS 1000000000u

void tally_init(struct tally *t)
{
	memset(t, 0, sizeof(*t));
	histogram_init(&t->confirm_ns);
	histogram_init(&t->end_to_end_ns);
}

static bool is_within(const struct tally_window *w, uint64_t at_ns)
{
	return at_ns >= w->start_ns && at_ns < w->end_ns;
}

static void count_second(uint32_t *seconds, const struct tally_window *w,
			 uint64_t now_ns)
{
	uint64_t second = (now_ns - w->start_ns) / SECOND_NS;

	if (second < TALLY_SECONDS_MAX)
		seconds[second]++;
}

void tally_confirmed(struct tally *t, const struct tally_window *w,
		     uint64_t now_ns, uint64_t intended_ns,
		     enum wire_outcome outcome)
{
	t->settled++;
	t->accepted += outcome == WIRE_ACCEPTED;
	t->rejected += outcome == WIRE_REJECTED;
	t->released += outcome == WIRE_RELEASED;
	t->last_confirm_ns = now_ns;
	if (outcome != WIRE_ACCEPTED)
		return;
	if (is_within(w, now_ns)) {
		t->confirmed++;
		count_second(t->confirms, w, now_ns);
	}
	if (is_within(w, intended_ns))
		histogram_add(&t->confirm_ns, now_ns - intended_ns);
}

void tally_arrived(struct tally *t, const struct tally_window *w,
		   uint64_t now_ns, uint64_t intended_ns)
{
	t->arrived++;
	if (!t->first_arrival_ns)
		t->first_arrival_ns = now_ns;
	t->last_arrival_ns = now_ns;
	if (is_within(w, now_ns)) {
		t->received++;
		count_second(t->arrivals, w, now_ns);
	}
	/* Another machine's clock, or an older boot's: no latency. */
	if (is_within(w, intended_ns) && intended_ns <= now_ns)
		histogram_add(&t->end_to_end_ns, now_ns - intended_ns);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return !a ? b : !b ? a : base_min(a, b);
}

void tally_merge(struct tally *into, const struct tally *from)
{
	into->sent += from->sent;
	into->settled += from->settled;
	into->accepted += from->accepted;
	into->rejected += from->rejected;
	into->released += from->released;
	into->confirmed += from->confirmed;
	into->arrived += from->arrived;
	into->redelivered += from->redelivered;
	into->foreign += from->foreign;
	into->corrupt += from->corrupt;
	into->duplicates += from->duplicates;
	into->out_of_order += from->out_of_order;
	into->received += from->received;
	into->first_arrival_ns =
		earlier(into->first_arrival_ns, from->first_arrival_ns);
	into->last_arrival_ns =
		base_max(into->last_arrival_ns, from->last_arrival_ns);
	into->last_confirm_ns =
		base_max(into->last_confirm_ns, from->last_confirm_ns);
	into->late_max_ns = base_max(into->late_max_ns, from->late_max_ns);
	into->cpu_seconds += from->cpu_seconds;
	histogram_merge(&into->confirm_ns, &from->confirm_ns);
	histogram_merge(&into->end_to_end_ns, &from->end_to_end_ns);
	for (unsigned i = 0; i < TALLY_SECONDS_MAX; i++) {
		into->confirms[i] += from->confirms[i];
		into->arrivals[i] += from->arrivals[i];
	}
}
