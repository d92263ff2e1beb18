/* Handing out: what is ready goes to whoever has credit.
 *
 * What changes a queue marks it for dispatch; the dispatch itself runs once,
 * at the end of the loop's iteration, so that a burst is handed out in one go
 * and nothing here runs inside a protocol adaptor's call. */
#include "broker/core/internal.h"

/* Messages handed out before the loop looks at its other work again. */
#define DISPATCH_BUDGET 1024
/* With less than that in ready, more is read while it is handed out. */
#define REFILL_BELOW_REFS 256u
#define REFILL_BELOW_BYTES (256u * 1024u)
/* With so many at consumers, a queue hands out no more when memory is far over
 * its limit: what they hold is the one thing that cannot be given back. */
#define HELD_DELIVERING 128u

static bool dispatch_is_held(struct queue *q)
{
	uint64_t limit = q->core->memory_bytes_max;

	if (count_get(&q->delivering) < HELD_DELIVERING ||
	    !memory_is_over(q->core, limit + limit / 4))
		return false;
	q->held = true;
	memory_wait(q);
	return true;
}

void dispatch_settled(struct queue *q)
{
	if (!q->held)
		return;
	q->held = false;
	queue_wake(q);
}

static void dispatch_hand(struct queue *q, struct subscriber *s,
			  struct delivery *d)
{
	queue_take(d);
	d->state = REF_HANDED;
	d->subscriber = s->id;
	d->consumer = s->consumer;
	count_add(&q->delivering, 1);
	count_add(&q->shard->delivered, 1);
	count_add(&q->shard->delivered_bytes, d->bytes);
	if (d->attempts)
		count_add(&q->redelivered, 1);
	list_remove(&s->hungry_link);
	if (++s->sent < s->limit)
		list_push(&q->hungry, &s->hungry_link);
	consumer_hand(s, d);
}

static struct subscriber *dispatch_pick(struct queue *q,
					const struct delivery *d)
{
	list_for_each(n, &q->hungry) {
		struct subscriber *s =
			list_entry(n, struct subscriber, hungry_link);

		if (!ref_excludes(d, s->id))
			return s;
	}
	return NULL;
}

/* Something of a higher priority is in the store only. */
static bool dispatch_is_too_early(const struct queue *q,
				  const struct delivery *d)
{
	return q->gap_lanes >> (record_ref_priority(d->ref) + 1);
}

/* It could not be moved, and is not tried again yet. */
static bool dispatch_is_expired(const struct delivery *d)
{
	return d->retry_ms && d->props.expiry_ms &&
	       loop_wall_ms(d->queue->shard->loop) >= d->props.expiry_ms;
}

/* Nobody who is hungry can have it. */
static void dispatch_pass_over(struct delivery *d)
{
	struct core *core = d->queue->core;

	if (!d->message || !memory_is_over(core, core->memory_bytes_max))
		return;
	message_release(d->message);
	d->message = NULL;
}

/* Returns whether it got to the end: false when it waits for the store, or has
 * handed out its share of this iteration. */
static bool dispatch_ready(struct queue *q)
{
	int budget = DISPATCH_BUDGET;
	struct list *n = q->ready.next;

	while (n != &q->ready && !list_empty(&q->hungry)) {
		struct delivery *d = list_entry(n, struct delivery, link);
		struct subscriber *s;

		n = n->next;
		if (expiry_is_due(d)) {
			queue_take(d);
			move_ref(d, RECORD_REASON_EXPIRED);
			continue;
		}
		if (dispatch_is_expired(d)) {
			dispatch_pass_over(d);
			continue;
		}
		if (q->gap_lanes && dispatch_is_too_early(q, d) &&
		    fetch_refill(q))
			return false;
		s = dispatch_pick(q, d);
		if (!s) {
			dispatch_pass_over(d);
			continue;
		}
		if (!d->message && !d->large) {
			if (fetch_bodies(q, d))
				return false;
			continue;
		}
		if (dispatch_is_held(q))
			return true;
		dispatch_hand(q, s, d);
		if (--budget == 0) {
			queue_wake(q);
			return false;
		}
	}
	return true;
}

/* What is ready, and then what is in the gaps. */
static bool dispatch_all(struct queue *q)
{
	if (list_empty(&q->hungry))
		return true;
	if (!dispatch_ready(q))
		return false;
	if (!q->gap_lanes || q->held)
		return true;
	/* Whoever is still hungry waits for it; the others soon will be. */
	if (list_empty(&q->hungry) && (q->ready_count >= REFILL_BELOW_REFS ||
				       q->ready_bytes >= REFILL_BELOW_BYTES))
		return true;
	return !fetch_refill(q) || list_empty(&q->hungry);
}

static void dispatch_answer_drains(struct queue *q)
{
	list_for_each_safe(n, &q->hungry) {
		struct subscriber *s =
			list_entry(n, struct subscriber, hungry_link);
		uint32_t drain = s->drain;

		if (!drain)
			continue;
		s->drain = 0;
		s->limit = s->sent;
		list_remove(&s->hungry_link);
		consumer_tell_drained(s, drain);
	}
}

static void dispatch_run(struct loop_task *task)
{
	struct queue *q = container_of(task, struct queue, dispatch_task);

	if (!q->deleted) {
		/* In turn, so that neither waits for ever. */
		if (!q->fetched_aside)
			fetch_aside(q);
		if (queue_is_paused(q) || dispatch_all(q))
			dispatch_answer_drains(q);
		fetch_aside(q);
	}
	fetch_turn_over(q);
	queue_release(q);
}

void dispatch_start(struct queue *q)
{
	q->dispatch_task.run = dispatch_run;
}

void queue_wake(struct queue *q)
{
	if (q->dispatch_task.queued)
		return;
	queue_hold(q);
	loop_defer(q->shard->loop, &q->dispatch_task);
}
