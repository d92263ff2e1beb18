/* A queue: what is where, and in which order.
 *
 * All of it runs on the queue's shard.  Numbers are counted here exactly as
 * the store counts them: one for each committed record that puts a message
 * into the lane, in LSN order, whatever becomes of the ref. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

/* With more than that in ready, what comes back over the memory limit leaves
 * its body. */
#define RESIDENT_REFS 32u

void queue_start(struct queue *q)
{
	struct shard *s = q->shard;

	list_init(&q->ready);
	list_init(&q->subscribers);
	list_init(&q->hungry);
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		q->lanes[p].next = q->lanes[p].gap_first = 1;
	list_push(&s->queues, &q->shard_link);
	s->queue_count++;
	dispatch_start(q);
	fetch_start(q);
	ack_start(q);
}

void queue_stop(struct queue *q)
{
	list_remove(&q->shard_link);
	q->shard->queue_count--;
}

static unsigned ref_lane(const struct delivery *d)
{
	return record_ref_priority(d->ref);
}

static uint64_t queue_ref(struct list *n)
{
	return list_entry(n, struct delivery, link)->ref;
}

/* ---- the order of the ready list ----
 *
 * Higher priorities first, and within one the order of arrival.  A lane's last
 * is the end of its run, so that an arrival finds its place at once. */

static bool is_in_run(struct queue *q, struct list *n, unsigned p)
{
	return n != &q->ready && record_ref_priority(queue_ref(n)) == p;
}

/* What lane p's run begins behind: the end of the next higher run, or the head
 * of the list. */
static struct list *run_begin(struct queue *q, unsigned p)
{
	for (unsigned i = p + 1; i < RECORD_PRIORITIES; i++)
		if (q->lanes[i].last)
			return &q->lanes[i].last->link;
	return &q->ready;
}

static void queue_place_last(struct queue *q, struct delivery *d)
{
	unsigned p = ref_lane(d);
	struct lane *lane = &q->lanes[p];
	struct list *after = lane->last ? &lane->last->link : run_begin(q, p);

	list_insert_between(&d->link, after, after->next);
	lane->last = d;
}

/* Consumers give back in the order of the queue or in the reverse, several of
 * them in turn: the place is at the beginning of the run, or near the last one
 * that came back. */
static void queue_place(struct queue *q, struct delivery *d)
{
	unsigned p = ref_lane(d);
	struct lane *lane = &q->lanes[p];
	struct list *n;

	if (!lane->last || lane->last->ref < d->ref) {
		queue_place_last(q, d);
		return;
	}
	n = run_begin(q, p)->next;
	if (queue_ref(n) < d->ref) {
		if (q->returned && ref_lane(q->returned) == p)
			n = &q->returned->link;
		while (is_in_run(q, n->prev, p) && queue_ref(n->prev) > d->ref)
			n = n->prev;
		while (queue_ref(n) < d->ref)
			n = n->next;
	}
	list_push(n, &d->link);
}

static struct delivery *run_entry(struct queue *q, struct list *n, unsigned p)
{
	return is_in_run(q, n, p) ? list_entry(n, struct delivery, link) : NULL;
}

static void queue_unplace(struct delivery *d)
{
	struct queue *q = d->queue;
	unsigned p = ref_lane(d);

	if (q->returned == d)
		q->returned = NULL;
	if (q->reload == d)
		q->reload = run_entry(q, d->link.next, p);
	if (q->lanes[p].last == d)
		q->lanes[p].last = run_entry(q, d->link.prev, p);
	list_remove(&d->link);
}

/* ---- in and out of the ready list ---- */

static void queue_ready(struct delivery *d)
{
	struct queue *q = d->queue;

	d->state = REF_READY;
	q->ready_count++;
	q->ready_bytes += d->bytes;
	if (d->props.expiry_ms && expiry_add(q->shard, d) != 0)
		logger_debug("core", "expiry-not-tracked", "queue=%s",
			     LOGGER_QUOTE(q->name));
	queue_wake(q);
}

static void queue_unready(struct delivery *d)
{
	struct queue *q = d->queue;

	ASSERT(d->state == REF_READY);
	queue_unplace(d);
	q->ready_count--;
	q->ready_bytes -= d->bytes;
	expiry_remove(q->shard, d);
}

void queue_take(struct delivery *d)
{
	struct queue *q = d->queue;
	struct lane *lane = &q->lanes[ref_lane(d)];

	queue_unready(d);
	q->out_count++;
	q->out_bytes += d->bytes;
	if (lane->out_last < record_ref_number(d->ref))
		lane->out_last = record_ref_number(d->ref);
}

void queue_out_end(struct delivery *d)
{
	d->queue->out_count--;
	d->queue->out_bytes -= d->bytes;
}

/* ---- messages come ---- */

/* Memory is short, and nobody waits for what comes. */
static bool queue_is_full(struct queue *q)
{
	if (!memory_is_over(q->core, q->core->memory_bytes_max))
		return false;
	memory_reclaim(q->shard);
	return q->ready_count &&
	       (list_empty(&q->hungry) || q->held || queue_is_paused(q));
}

/* The number is counted, and that is all that is kept of it. */
static void queue_into_gap(struct queue *q, struct delivery *d, unsigned p)
{
	q->gap_lanes |= (uint16_t)(1u << p);
	if (d->props.expiry_ms)
		walk_note(q, p, base_max(d->props.expiry_ms, d->retry_ms));
	ref_free(d);
	if (!list_empty(&q->hungry))
		queue_wake(q);
}

void queue_enqueue(struct queue *q, struct delivery *d)
{
	unsigned p = d->props.priority;
	struct lane *lane = &q->lanes[p];
	uint64_t number;

	if (q->deleted) {
		ref_free(d);
		return;
	}
	number = lane->next++;
	d->ref = record_ref(p, number);
	count_add(&q->messages, 1);
	count_add(&q->bytes, d->bytes);
	count_add(&q->enqueued, 1);
	if (lane->gap_first != number || queue_is_full(q)) {
		queue_into_gap(q, d, p);
		return;
	}
	lane->gap_first = lane->next;
	ref_count(d);
	queue_place_last(q, d);
	queue_ready(d);
}

void queue_recover(struct queue *q, const struct store_queue *from)
{
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
		const struct store_lane *there = &from->lanes[p];
		struct lane *lane = &q->lanes[p];

		lane->next = record_ref_number(there->next);
		lane->gap_first = record_ref_number(there->first);
		lane->out_last = lane->gap_first - 1;
		if (lane->gap_first == lane->next)
			continue;
		q->gap_lanes |= (uint16_t)(1u << p);
		walk_note(q, p, there->expiry_ms);
	}
	count_add(&q->messages, from->messages);
	count_add(&q->bytes, from->bytes);
}

void queue_refilled(struct delivery *d)
{
	struct queue *q = d->queue;

	ASSERT(!q->lanes[ref_lane(d)].last ||
	       q->lanes[ref_lane(d)].last->ref < d->ref);
	queue_place_last(q, d);
	queue_ready(d);
}

bool queue_give_back(struct queue *q, unsigned p)
{
	struct lane *lane = &q->lanes[p];
	struct delivery *d = lane->last;
	uint64_t number = d ? record_ref_number(d->ref) : 0;

	/* The gap must not reach over what is out, and the store does not know
	 * who must not have a message. */
	if (!d || number <= lane->out_last ||
	    (d->rare && d->rare->excluded_count))
		return false;
	queue_unready(d);
	lane->gap_first = number;
	queue_into_gap(q, d, p);
	return true;
}

/* ---- messages come back ---- */

void queue_return(struct delivery *d)
{
	struct queue *q = d->queue;

	if (q->deleted) {
		ref_free(d);
		return;
	}
	if (d->damaged) {
		damage_ref(d, -E_CORRUPT);
		return;
	}
	queue_out_end(d);
	if (d->message && q->ready_count >= RESIDENT_REFS &&
	    memory_is_over(q->core, q->core->memory_bytes_max)) {
		message_release(d->message);
		d->message = NULL;
	}
	queue_place(q, d);
	q->returned = d;
	queue_ready(d);
}

/* ---- settling ---- */

struct count_write {
	struct log_append append;
	struct log_note note;
	struct queue *queue; /* held */
	uint8_t meta[];
};

static void count_committed(struct loop_mail *mail)
{
	struct count_write *c =
		container_of(mail, struct count_write, note.mail);

	shard_append_done(c->queue->shard);
	c->queue->counts_pending--;
	queue_release(c->queue);
	free(c);
}

/* The count is written behind the return, in the same stream as everything
 * that can follow: an acknowledgement never overtakes it. */
static void queue_journal_count(struct delivery *d)
{
	struct queue *q = d->queue;
	struct shard *shard = q->shard;
	struct record_count record = {
		.queue = q->id,
		.ref = d->ref,
		.deliveries = d->attempts,
	};
	struct count_write *c;

	record.extra = delivery_extra(d, &record.extra_len);
	c = calloc(1, sizeof(*c) + record_count_room(record.extra_len));
	if (!c)
		return; /* the count in memory holds until a restart */
	c->queue = queue_hold(q);
	q->counts_pending++;
	c->append.type = RECORD_COUNT;
	c->append.meta = c->meta;
	c->append.meta_len = (uint32_t)record_count_encode(&record, c->meta);
	c->append.notes = &c->note;
	c->append.note_count = 1;
	c->note.mail.deliver = count_committed;
	c->note.to = shard->loop;
	c->note.append = &c->append;
	shard_append(shard, &c->append);
}

static void queue_settle_modified(struct delivery *d)
{
	struct queue *q = d->queue;
	struct core_rule_view rule;

	if (d->undeliverable && ref_exclude(d, d->subscriber) != 0)
		logger_debug("core", "exclusion-lost", "ref=%llu",
			     (unsigned long long)d->ref);
	if (d->failed) {
		d->attempts++;
		count_add(&q->shard->redelivered, 1);
		rules_view(q->core, q->address->name, &rule);
		if (rule.delivery_attempts &&
		    d->attempts >= rule.delivery_attempts &&
		    strcmp(rule.dead_letter, q->address->name) != 0) {
			move_ref(d, RECORD_REASON_ATTEMPTS);
			return;
		}
	}
	if (d->failed || d->extra_changed)
		queue_journal_count(d);
	queue_return(d);
}

void queue_settle(struct delivery *d)
{
	struct queue *q = d->queue;

	ASSERT(d->state == REF_HANDED);
	count_sub(&q->delivering, 1);
	d->consumer = NULL;
	dispatch_settled(q);
	if (q->deleted) {
		if (d->confirm)
			consumer_confirm(d->confirm, -E_NOT_FOUND);
		d->confirm = NULL;
		ref_free(d);
		return;
	}
	switch ((enum outcome)d->outcome) {
	case OUTCOME_ACCEPTED:
		ack_add(d);
		return;
	case OUTCOME_REJECTED:
		move_ref(d, RECORD_REASON_REJECTED);
		return;
	case OUTCOME_RELEASED:
		count_add(&q->shard->released, 1);
		queue_return(d);
		return;
	case OUTCOME_MODIFIED:
		queue_settle_modified(d);
		return;
	}
	ASSERT(!"outcome");
}

/* ---- subscribers ---- */

void queue_join(struct subscriber *s)
{
	struct queue *q = s->queue;

	list_push(&q->subscribers, &s->link);
	count_add(&q->consumers, 1);
	if (q->deleted)
		consumer_tell_gone(s);
}

void queue_want(struct subscriber *s, uint64_t limit, uint32_t drain)
{
	struct queue *q = s->queue;

	s->limit = limit;
	s->drain = drain;
	list_remove(&s->hungry_link);
	if (s->sent < s->limit) {
		list_push(&q->hungry, &s->hungry_link);
	} else if (drain) {
		s->drain = 0;
		consumer_tell_drained(s, drain);
	}
	queue_wake(q);
}

void queue_leave(struct subscriber *s)
{
	struct queue *q = queue_hold(s->queue);

	list_remove(&s->link);
	list_remove(&s->hungry_link);
	count_sub(&q->consumers, 1);
	s->queue = NULL;
	registry_leave_queue(q);
	queue_maybe_delete(q);
	queue_release(q);
	consumer_tell_left(s);
}

/* ---- ending ---- */

void queue_maybe_delete(struct queue *q)
{
	uint8_t flags = atomic_load(&q->flags);
	enum registry_delete when = REGISTRY_DELETE_WITHOUT_CONSUMERS;
	struct core_rule_view rule;

	if (q->deleted || !list_empty(&q->subscribers) ||
	    !(flags & RECORD_QUEUE_AUTO_CREATED))
		return;
	if (!(flags & RECORD_QUEUE_TEMPORARY)) {
		if (count_get(&q->messages))
			return;
		when = REGISTRY_DELETE_UNUSED;
		rules_view(q->core, q->address->name, &rule);
		if (!rule.auto_delete)
			return;
	}
	if (registry_delete_queue(q, when, NULL) == 0)
		queue_forget(q);
}

void queue_unused(struct loop_mail *mail)
{
	struct queue *q = container_of(mail, struct queue, unused_mail);

	pthread_mutex_lock(&q->core->lock);
	q->unused_posted = false;
	pthread_mutex_unlock(&q->core->lock);
	queue_maybe_delete(q);
	queue_release(q);
}

void queue_free_messages(struct queue *q)
{
	struct list *n;

	fetch_stop(q);
	walk_free(q);
	damage_clear(q);
	while (!list_empty(&q->ready)) {
		struct delivery *d =
			list_entry(q->ready.next, struct delivery, link);

		queue_unready(d);
		ref_free(d);
	}
	while ((n = list_pop(&q->loads)))
		ref_free(list_entry(n, struct delivery, link));
	ack_free(q);
}

void queue_forget(struct queue *q)
{
	q->deleted = true;
	ack_forget(q);
	queue_free_messages(q);
	queue_stop(q);
	list_for_each(n, &q->subscribers)
		consumer_tell_gone(list_entry(n, struct subscriber, link));
}
