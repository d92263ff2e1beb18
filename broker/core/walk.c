/* What expires while only the store knows of it.
 *
 * A lane's gap has a time before which nothing in it expires.  When that has
 * come, a walk asks the store for what has expired, from the gap's beginning
 * to its end, takes it out of the gap piece by piece, and learns the next such
 * time from what it has passed over.
 *
 * What has been taken is above gap_first though it is out, so that it is
 * remembered by ref until it is gone, and until no fetch is under way that was
 * asked before: a refill must not bring it a second time. */
#include <string.h>

#include "broker/core/internal.h"

#define WALKS_MAX 16u /* of a shard, at a time */
#define WALK_RETRY_MS 100u

struct walk {
	unsigned priority;
	bool active;
	uint64_t cursor, end; /* numbers */
	uint64_t passed_ms;   /* the earliest that was passed over */
	struct list back;     /* refs that could not go; see walk_back() */
	uint32_t count;
	struct {
		uint64_t ref;
		bool over;
	} refs[WALK_REFS_MAX];
};

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a && (!b || a < b) ? a : b;
}

static void walk_due_at(struct shard *s, uint64_t due_ms)
{
	uint64_t first = earlier(due_ms, s->gap_due_ms);

	if (first == s->gap_due_ms)
		return;
	s->gap_due_ms = first;
	expiry_arm(s);
}

void walk_note(struct queue *q, unsigned priority, uint64_t expiry_ms)
{
	struct lane *lane = &q->lanes[priority];

	if (!expiry_ms)
		return;
	lane->gap_expiry_ms = earlier(expiry_ms, lane->gap_expiry_ms);
	walk_due_at(q->shard, expiry_ms);
}

/* ---- beginning and end ---- */

static void walk_free_maybe(struct queue *q)
{
	struct walk *w = q->walk;

	if (w->active || w->count)
		return;
	ASSERT(list_empty(&w->back));
	q->walk = NULL;
	free(w);
}

static bool walk_begin(struct queue *q, unsigned priority)
{
	struct lane *lane = &q->lanes[priority];
	struct walk *w = q->walk;

	if (q->shard->walk_count >= WALKS_MAX)
		return false;
	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return false;
		list_init(&w->back);
		q->walk = w;
	}
	w->active = true;
	w->priority = priority;
	w->cursor = lane->gap_first;
	w->end = lane->next;
	w->passed_ms = 0;
	/* What arrives from now on sets it anew. */
	lane->gap_expiry_ms = 0;
	q->shard->walk_count++;
	queue_wake(q);
	return true;
}

static void walk_rest(struct queue *q)
{
	struct walk *w = q->walk;

	if (w && w->active) {
		w->active = false;
		q->shard->walk_count--;
	}
}

static void walk_end(struct queue *q)
{
	struct walk *w = q->walk;
	struct lane *lane = &q->lanes[w->priority];

	lane->gap_expiry_ms = earlier(w->passed_ms, lane->gap_expiry_ms);
	walk_rest(q);
	walk_free_maybe(q);
	/* Other lanes were passed over while this one was looked at. */
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		walk_note(q, p, q->lanes[p].gap_expiry_ms);
}

/* True: the queue has a lane that is due and could not begin. */
static bool walk_look(struct queue *q, uint64_t now_ms)
{
	if (q->walk && q->walk->active)
		return false; /* looks itself, at its end */
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
		uint64_t due_ms = q->lanes[p].gap_expiry_ms;

		if (due_ms && due_ms <= now_ms)
			return !walk_begin(q, p);
	}
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		walk_due_at(q->shard, q->lanes[p].gap_expiry_ms);
	return false;
}

void walk_due(struct shard *s, uint64_t now_ms)
{
	bool again = false;

	if (!s->gap_due_ms || s->gap_due_ms > now_ms)
		return;
	s->gap_due_ms = 0;
	list_for_each(n, &s->queues)
		again |= walk_look(list_entry(n, struct queue, shard_link),
				   now_ms);
	if (again)
		walk_due_at(s, now_ms + WALK_RETRY_MS);
}

void walk_stop(struct queue *q)
{
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		q->lanes[p].gap_expiry_ms = 0;
	walk_rest(q);
	if (q->walk)
		walk_free_maybe(q);
}

void walk_free(struct queue *q)
{
	struct list *n;

	walk_rest(q);
	if (!q->walk)
		return;
	while ((n = list_pop(&q->walk->back)))
		ref_free(list_entry(n, struct delivery, link));
	free(q->walk);
	q->walk = NULL;
}

/* ---- going on ---- */

bool walk_go(struct queue *q)
{
	struct walk *w = q->walk;
	unsigned p;
	uint64_t first;

	if (!w || !w->active || w->count == WALK_REFS_MAX)
		return false;
	p = w->priority;
	first = base_max(w->cursor, q->lanes[p].gap_first);
	if (first >= w->end) {
		walk_end(q);
		return false;
	}
	return fetch_expired(q, record_ref(p, first), record_ref(p, w->end),
			     loop_wall_ms(q->shard->loop),
			     WALK_REFS_MAX - w->count);
}

int walk_take(struct queue *q, const struct store_fetch *f)
{
	struct walk *w = q->walk;
	struct core_rule_view rule;

	if (!w || !w->active)
		return 0;
	if (f->message_count == 0 && f->next <= f->first)
		return -EIO;
	rules_view(q->core, q->address->name, &rule);
	for (uint32_t i = 0; i < f->message_count; i++) {
		const struct store_message *m = &f->messages[i];
		struct delivery *d;
		int err;

		w->cursor = record_ref_number(m->ref);
		/* Damage is told of by who wants the message. */
		if (m->err || walk_has(q, m->ref))
			continue;
		err = ref_from_store(q, m, rule.expiry[0], &d);
		if (err)
			return err;
		d->walked = true;
		q->out_count++;
		q->out_bytes += d->bytes;
		ASSERT(w->count < WALK_REFS_MAX);
		w->refs[w->count].ref = d->ref;
		w->refs[w->count++].over = false;
		move_ref(d, RECORD_REASON_EXPIRED);
	}
	w->cursor = record_ref_number(f->next);
	w->passed_ms = earlier(f->expiry_ms, w->passed_ms);
	return 0;
}

/* ---- what has been taken ---- */

bool walk_has(const struct queue *q, uint64_t ref)
{
	const struct walk *w = q->walk;

	for (uint32_t i = 0; w && i < w->count; i++)
		if (w->refs[i].ref == ref)
			return true;
	return false;
}

static int ref_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

uint32_t walk_refs(const struct queue *q, unsigned priority,
		   uint64_t refs[WALK_REFS_MAX])
{
	const struct walk *w = q->walk;
	uint32_t count = 0;

	for (uint32_t i = 0; w && i < w->count; i++)
		if (record_ref_priority(w->refs[i].ref) == priority)
			refs[count++] = w->refs[i].ref;
	qsort(refs, count, sizeof(*refs), ref_compare);
	return count;
}

static void walk_forget(struct queue *q, uint64_t ref)
{
	struct walk *w = q->walk;

	for (uint32_t i = 0; i < w->count; i++) {
		if (w->refs[i].ref != ref)
			continue;
		if (q->fetch)
			w->refs[i].over = true;
		else
			w->refs[i] = w->refs[--w->count];
		break;
	}
	if (w->active)
		queue_wake(q); /* it may have waited for room */
	walk_free_maybe(q);
}

void walk_over(struct delivery *d)
{
	struct queue *q = d->queue;

	d->walked = false;
	if (q->walk)
		walk_forget(q, d->ref);
}

static void walk_put_back(struct delivery *d)
{
	struct queue *q = d->queue;
	unsigned p = record_ref_priority(d->ref);

	walk_over(d);
	if (record_ref_number(d->ref) < q->lanes[p].gap_first) {
		queue_return(d);
		return;
	}
	queue_out_end(d);
	walk_note(q, p, d->retry_ms);
	ref_free(d);
}

void walk_back(struct delivery *d)
{
	struct queue *q = d->queue;

	if (q->deleted || !q->walk)
		ref_free(d);
	else if (q->fetch)
		/* Whether a refill passes over it is known when it ends. */
		list_push(&q->walk->back, &d->link);
	else
		walk_put_back(d);
}

void walk_sweep(struct queue *q)
{
	struct list back;
	struct list *n;
	uint32_t kept = 0;

	if (!q->walk)
		return;
	for (uint32_t i = 0; i < q->walk->count; i++)
		if (!q->walk->refs[i].over)
			q->walk->refs[kept++] = q->walk->refs[i];
	q->walk->count = kept;
	list_init(&back);
	list_move_all(&back, &q->walk->back);
	while ((n = list_pop(&back)))
		walk_put_back(list_entry(n, struct delivery, link));
	if (q->walk) {
		if (q->walk->active)
			queue_wake(q);
		walk_free_maybe(q);
	}
}
