/* bench/load/judge.c: see judge.h. */
#include "bench/load/judge.h"

#include <errno.h>

int judge_init(struct judge *j, const struct plan *plan, uint32_t run,
	       bool verifies, bool expects)
{
	int err = 0;

	*j = (struct judge){.plan = plan, .verifies = verifies, .run = run};
	if (expects)
		err = marks_create(plan->streams, &j->accepted);
	if (!err && verifies)
		err = marks_create(plan->streams * plan_copies(plan), &j->seen);
	if (err)
		judge_fini(j);
	return err;
}

void judge_fini(struct judge *j)
{
	marks_free(j->accepted);
	marks_free(j->seen);
	j->accepted = j->seen = NULL;
}

int judge_order_init(struct judge_order *o, const struct plan *plan,
		     uint32_t lanes)
{
	o->places = plan_source_streams(plan);
	o->next = calloc((size_t)lanes * o->places, sizeof(*o->next));
	return o->next ? 0 : -ENOMEM;
}

void judge_order_fini(struct judge_order *o)
{
	free(o->next);
	o->next = NULL;
}

static void set(struct judge *j, struct marks *m, uint32_t row, uint64_t at,
		bool *ret_was)
{
	int err = marks_set(m, row, at, ret_was);

	if (err)
		j->err = err;
}

void judge_accepted(struct judge *j, uint32_t stream, uint64_t number)
{
	bool was;

	if (j->accepted)
		set(j, j->accepted, stream, number, &was);
}

/* A consumer that knows no run counts all there is, or verifies that of the
 * first message. */
static bool is_ours(struct judge *j, uint32_t run)
{
	uint32_t known = atomic_load_explicit(&j->run, memory_order_relaxed);

	if (!known && !j->verifies)
		return true;
	if (known)
		return known == run;
	return atomic_compare_exchange_strong(&j->run, &known, run) ||
	       known == run;
}

static enum judge_arrival verify(struct judge *j, struct judge_order *o,
				 struct tally *t, uint32_t receiver,
				 uint32_t source,
				 const struct payload_fields *f)
{
	const struct plan *p = j->plan;
	uint32_t copy = p->fanout ? source : 0;
	bool was = false;
	uint64_t *next;

	set(j, j->seen, f->stream * plan_copies(p) + copy, f->number, &was);
	if (was) {
		t->duplicates++;
		return JUDGE_AGAIN;
	}
	next = &o->next[(size_t)plan_receiver_lane(p, receiver, source) *
				o->places +
			plan_source_place(p, f->stream)];
	t->out_of_order += f->number < *next;
	*next = f->number + 1;
	return JUDGE_NEW;
}

enum judge_arrival judge_arrived(struct judge *j, struct judge_order *o,
				 struct tally *t, uint32_t receiver,
				 uint32_t source, const uint8_t *body,
				 size_t len, struct payload_fields *ret)
{
	struct payload_fields f;

	switch (payload_read(body, len, j->verifies, &f)) {
	case PAYLOAD_GOOD:
		break;
	case PAYLOAD_FOREIGN:
		t->foreign++;
		return JUDGE_FOREIGN;
	case PAYLOAD_CORRUPT:
		t->corrupt++;
		return JUDGE_CORRUPT;
	}
	if (!is_ours(j, f.run) ||
	    (j->verifies && f.stream >= j->plan->streams)) {
		t->foreign++;
		return JUDGE_FOREIGN;
	}
	*ret = f;
	if (!j->verifies)
		return JUDGE_NEW;
	if (source == WIRE_ANY_LANE)
		source = f.stream % j->plan->queues;
	if (!plan_is_from(j->plan, f.stream, source)) {
		t->corrupt++;
		return JUDGE_CORRUPT;
	}
	return verify(j, o, t, receiver, source, &f);
}

static void judge_row(const struct judge *j, uint32_t stream, uint32_t row,
		      struct judge_verdict *v)
{
	uint64_t end = marks_end(j->seen, row);

	v->unique += marks_count(j->seen, row);
	v->gaps += end - marks_count(j->seen, row);
	if (!j->accepted)
		return;
	v->confirmed += marks_count(j->accepted, stream);
	end = base_max(end, marks_end(j->accepted, stream));
	for (uint64_t at = 0; at < end; at += 64) {
		uint64_t promised = marks_word(j->accepted, stream, at);
		uint64_t seen = marks_word(j->seen, row, at);

		v->lost += (unsigned)__builtin_popcountll(promised & ~seen);
		v->kept += (unsigned)__builtin_popcountll(seen & ~promised);
	}
}

void judge_finish(const struct judge *j, struct judge_verdict *ret)
{
	uint32_t copies = plan_copies(j->plan);

	*ret = (struct judge_verdict){0};
	for (uint32_t row = 0; j->seen && row < marks_rows(j->seen); row++)
		judge_row(j, row / copies, row, ret);
}
