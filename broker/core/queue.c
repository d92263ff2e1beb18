/* A queue: first in, first out, to whoever has credit.
 *
 * All of it runs on the queue's shard.  What changes a queue marks it for
 * dispatch; the dispatch itself runs once, at the end of the loop's
 * iteration, so that a burst is handed out in one go and nothing here runs
 * inside a protocol adaptor's call. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

/* Messages handed out before the loop looks at its other work again. */
#define DISPATCH_BUDGET 1024
/* This many at the head of a queue stay in memory whatever the limit. */
#define RESIDENT_WINDOW 128

static void queue_dispatch(struct loop_task *task);

void queue_start(struct queue *q)
{
	list_init(&q->ready);
	list_init(&q->subscribers);
	list_init(&q->hungry);
	q->dispatch_task.run = queue_dispatch;
	ack_start(q);
}

void queue_wake(struct queue *q)
{
	if (q->dispatch_task.queued)
		return;
	queue_hold(q);
	loop_defer(q->shard->loop, &q->dispatch_task);
}

bool queue_is_expired(const struct delivery *d)
{
	return d->props.expiry_ms &&
	       loop_wall_ms(d->queue->shard->loop) >= d->props.expiry_ms;
}

static uint64_t queue_seq(struct list *n)
{
	return list_entry(n, struct delivery, link)->seq;
}

/* ---- in and out of the ready list ---- */

static void queue_ready(struct delivery *d)
{
	struct queue *q = d->queue;

	d->state = REF_READY;
	q->ready_count++;
	if (d->props.expiry_ms && expiry_add(q->shard, d) != 0)
		logger_debug("core", "expiry-not-tracked", "queue=%s",
			     LOGGER_QUOTE(q->name));
	queue_wake(q);
}

/* ---- the order of the ready list ----
 *
 * Higher priorities first, and within one the order of arrival.  last[p] is
 * the end of priority p's run, so that an arrival finds its place at once. */

static unsigned ref_priority(const struct delivery *d)
{
	return d->props.priority < PRIORITY_COUNT ? d->props.priority
						  : PRIORITY_COUNT - 1;
}

static bool is_in_run(struct queue *q, struct list *n, unsigned p)
{
	return n != &q->ready &&
	       ref_priority(list_entry(n, struct delivery, link)) == p;
}

/* What priority p's run begins behind: the end of the next higher run, or the
 * head of the list. */
static struct list *run_begin(struct queue *q, unsigned p)
{
	for (unsigned i = p + 1; i < PRIORITY_COUNT; i++)
		if (q->last[i])
			return &q->last[i]->link;
	return &q->ready;
}

static void queue_place_last(struct queue *q, struct delivery *d)
{
	unsigned p = ref_priority(d);
	struct list *after = q->last[p] ? &q->last[p]->link : run_begin(q, p);

	list_insert_between(&d->link, after, after->next);
	q->last[p] = d;
}

/* Consumers give back in the order of the queue or in the reverse, several of
 * them in turn: the place is at the beginning of the run, or near the last one
 * that came back. */
static void queue_place(struct queue *q, struct delivery *d)
{
	unsigned p = ref_priority(d);
	struct list *n;

	if (!q->last[p] || q->last[p]->seq < d->seq) {
		queue_place_last(q, d);
		return;
	}
	n = run_begin(q, p)->next;
	if (queue_seq(n) < d->seq) {
		if (q->returned && ref_priority(q->returned) == p)
			n = &q->returned->link;
		while (is_in_run(q, n->prev, p) && queue_seq(n->prev) > d->seq)
			n = n->prev;
		while (queue_seq(n) < d->seq)
			n = n->next;
	}
	list_push(n, &d->link);
}

static void queue_unplace(struct delivery *d)
{
	struct queue *q = d->queue;
	unsigned p = ref_priority(d);

	if (q->returned == d)
		q->returned = NULL;
	if (q->last[p] == d)
		q->last[p] = is_in_run(q, d->link.prev, p)
				     ? list_entry(d->link.prev, struct delivery,
						  link)
				     : NULL;
	list_remove(&d->link);
}

void queue_remove_ready(struct delivery *d)
{
	ASSERT(d->state == REF_READY);
	queue_unplace(d);
	d->queue->ready_count--;
	expiry_remove(d->queue->shard, d);
	load_forget(d);
}

void queue_enqueue(struct queue *q, struct delivery *d)
{
	if (q->deleted) {
		ref_free(d);
		return;
	}
	d->seq = q->next_seq++;
	count_add(&q->messages, 1);
	count_add(&q->bytes, d->bytes);
	count_add(&q->enqueued, 1);
	/* Over the memory limit a message far from the head keeps only its
	 * place; its bytes are read back when its turn comes. */
	if (d->message && q->ready_count > RESIDENT_WINDOW &&
	    atomic_load_explicit(&q->core->memory_bytes, memory_order_relaxed) >
		    q->core->memory_bytes_max) {
		message_release(d->message);
		d->message = NULL;
	}
	queue_place_last(q, d);
	queue_ready(d);
}

void queue_recover(struct queue *q, struct delivery *d)
{
	d->seq = q->next_seq++;
	count_add(&q->messages, 1);
	count_add(&q->bytes, d->bytes);
	queue_place_last(q, d);
	queue_ready(d);
}

void queue_return(struct delivery *d)
{
	struct queue *q = d->queue;

	if (q->deleted) {
		ref_free(d);
		return;
	}
	queue_place(q, d);
	q->returned = d;
	queue_ready(d);
}

/* ---- dispatch ---- */

static void queue_hand(struct queue *q, struct subscriber *s,
		       struct delivery *d)
{
	queue_remove_ready(d);
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

static struct subscriber *queue_pick(struct queue *q, const struct delivery *d)
{
	list_for_each(n, &q->hungry) {
		struct subscriber *s =
			list_entry(n, struct subscriber, hungry_link);

		if (!ref_excludes(d, s->id))
			return s;
	}
	return NULL;
}

/* Returns whether it may go on: false when it waits for a body. */
static bool queue_dispatch_ready(struct queue *q)
{
	int budget = DISPATCH_BUDGET;
	struct list *n = q->ready.next;

	while (n != &q->ready && !list_empty(&q->hungry)) {
		struct delivery *d = list_entry(n, struct delivery, link);
		struct subscriber *s;

		n = n->next;
		if (d->damaged)
			continue;
		if (queue_is_expired(d)) {
			if (loop_wall_ms(q->shard->loop) < d->retry_ms)
				continue;
			queue_remove_ready(d);
			move_ref(d, RECORD_REASON_EXPIRED);
			continue;
		}
		s = queue_pick(q, d);
		if (!s)
			continue; /* excluded by all who are hungry */
		if (!d->message && !d->large) {
			if (!d->load)
				load_ahead(q, d);
			return false;
		}
		queue_hand(q, s, d);
		if (--budget == 0) {
			queue_wake(q);
			return false;
		}
	}
	return true;
}

static void queue_answer_drains(struct queue *q)
{
	list_for_each_safe(n, &q->hungry) {
		struct subscriber *s =
			list_entry(n, struct subscriber, hungry_link);

		if (!s->drain)
			continue;
		s->drain = false;
		s->limit = s->sent;
		list_remove(&s->hungry_link);
		consumer_tell_drained(s);
	}
}

static void queue_dispatch(struct loop_task *task)
{
	struct queue *q = container_of(task, struct queue, dispatch_task);
	bool paused = atomic_load(&q->flags) & RECORD_QUEUE_PAUSED;

	if (!q->deleted && (paused || queue_dispatch_ready(q)))
		queue_answer_drains(q);
	queue_release(q);
}

/* ---- settling ---- */

struct count_write {
	struct log_append append;
	struct log_note note;
	struct shard *shard;
	uint8_t meta[];
};

static void count_committed(struct loop_mail *mail)
{
	struct count_write *c =
		container_of(mail, struct count_write, note.mail);

	shard_append_done(c->shard);
	free(c);
}

/* The count is written behind the return, in the same stream as everything
 * that can follow: an acknowledgement never overtakes it. */
static void queue_journal_count(struct delivery *d)
{
	struct shard *shard = d->queue->shard;
	struct record_count record = {
		.queue = d->queue->id,
		.ref = d->lsn,
		.deliveries = d->attempts,
	};
	struct count_write *c;

	record.extra = delivery_extra(d, &record.extra_len);
	c = calloc(1, sizeof(*c) + record_count_room(record.extra_len));
	if (!c)
		return; /* the count in memory holds until a restart */
	c->shard = shard;
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
			     (unsigned long long)d->lsn);
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

void queue_want(struct subscriber *s, uint64_t limit, bool drain)
{
	struct queue *q = s->queue;

	s->limit = limit;
	s->drain = drain;
	list_remove(&s->hungry_link);
	if (s->sent < s->limit) {
		list_push(&q->hungry, &s->hungry_link);
	} else if (drain) {
		s->drain = false;
		consumer_tell_drained(s);
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

	while (!list_empty(&q->ready)) {
		struct delivery *d =
			list_entry(q->ready.next, struct delivery, link);

		queue_remove_ready(d);
		count_sub(&q->messages, 1);
		count_sub(&q->bytes, d->bytes);
		ref_free(d);
	}
	q->acked = NULL;
	while ((n = list_pop(&q->acks)))
		ref_free(list_entry(n, struct delivery, link));
}

/* Those whose record was not made yet.  That the queue is gone is not durable
 * either, so they cannot be confirmed. */
static void queue_refuse_acks(struct queue *q)
{
	list_for_each(n, &q->acks) {
		struct delivery *d = list_entry(n, struct delivery, link);

		if (d->confirm)
			consumer_confirm(d->confirm, -E_NOT_FOUND);
		d->confirm = NULL;
	}
	if (q->purge)
		q->purge->done(q->purge, -E_NOT_FOUND);
	q->purge = NULL;
}

void queue_forget(struct queue *q)
{
	q->deleted = true;
	queue_refuse_acks(q);
	queue_free_messages(q);
	list_for_each(n, &q->subscribers)
		consumer_tell_gone(list_entry(n, struct subscriber, link));
}
