/* Acknowledgements: what a queue's consumers have accepted in one iteration
 * becomes one record, as ranges of neighbours, and is final when that record
 * is durable. */
#include <string.h>

#include "broker/core/internal.h"

struct ack_batch {
	struct log_append append;
	struct log_note note;
	struct queue *queue; /* held */
	struct list refs;
	uint8_t meta[];
};

/* What only the store knows leaves by its numbers.  Behind the records of what
 * was ready; without ranges it still says when those, and what an earlier
 * purge has removed, are durable. */
struct purge {
	struct log_append append;
	struct log_note note;
	struct queue *queue; /* held, once it is on its way */
	struct core_command *command;
	uint64_t messages, bytes;
	uint8_t meta[];
};

static void ack_flush(struct loop_task *task);

void ack_start(struct queue *q)
{
	list_init(&q->acks);
	q->ack_task.run = ack_flush;
}

static void ack_wake(struct queue *q)
{
	if (q->ack_task.queued)
		return;
	queue_hold(q);
	loop_defer(q->shard->loop, &q->ack_task);
}

static uint64_t ack_ref(struct list *n)
{
	return list_entry(n, struct delivery, link)->ref;
}

/* Consumers settle mostly in order, several of them in turn, so the place is
 * nearly always the end or near the last one. */
void ack_add(struct delivery *d)
{
	struct queue *q = d->queue;
	struct list *after = q->acks.prev;

	d->state = REF_ACKING;
	if (q->acked && ack_ref(after) > d->ref)
		after = q->acked;
	while (after != &q->acks && ack_ref(after) > d->ref)
		after = after->prev;
	while (after->next != &q->acks && ack_ref(after->next) < d->ref)
		after = after->next;
	list_insert_between(&d->link, after, after->next);
	q->acked = &d->link;
	ack_wake(q);
}

/* So many leave for good. */
static void ack_count(struct queue *q, uint64_t messages, uint64_t bytes)
{
	count_sub(&q->messages, messages);
	count_sub(&q->bytes, bytes);
	count_add(&q->acknowledged, messages);
	count_add(&q->shard->acknowledged, messages);
}

static void ack_committed(struct loop_mail *mail)
{
	struct ack_batch *b = container_of(mail, struct ack_batch, note.mail);
	struct queue *q = b->queue;
	int err = b->append.err;
	struct list *n;

	shard_append_done(q->shard);
	while ((n = list_pop(&b->refs))) {
		struct delivery *d = list_entry(n, struct delivery, link);

		if (!err && !q->deleted)
			ack_count(q, 1, d->bytes);
		if (d->walked)
			walk_over(d);
		queue_out_end(d);
		if (d->confirm)
			consumer_confirm(d->confirm, err);
		d->confirm = NULL;
		ref_free(d);
	}
	queue_maybe_delete(q);
	queue_release(q);
	free(b);
}

/* Moves refs from the queue's list into the batch until the record is full. */
static uint32_t ack_collect(struct queue *q, struct list *refs,
			    struct record_range *ranges, uint64_t *ret_bytes)
{
	uint32_t count = 0;

	*ret_bytes = 0;
	while (!list_empty(&q->acks)) {
		struct list *n = q->acks.next;
		struct delivery *d = list_entry(n, struct delivery, link);

		if (count && d->ref == ranges[count - 1].last + 1) {
			ranges[count - 1].last = d->ref;
		} else {
			if (count == RECORD_RANGE_MAX)
				break;
			ranges[count].first = ranges[count].last = d->ref;
			count++;
		}
		*ret_bytes += d->bytes;
		list_remove(n);
		list_push(refs, n);
	}
	return count;
}

static void ack_append(struct queue *q, struct log_append *append,
		       struct log_note *note, const struct record_ack *record,
		       uint8_t *meta, void (*deliver)(struct loop_mail *))
{
	append->type = RECORD_ACK;
	append->meta = meta;
	append->meta_len = (uint32_t)record_ack_encode(record, meta);
	append->notes = note;
	append->note_count = 1;
	note->mail.deliver = deliver;
	note->to = q->shard->loop;
	note->append = append;
}

static int ack_submit(struct queue *q, struct record_range *ranges)
{
	struct record_ack record = {.queue = q->id, .ranges = ranges};
	struct ack_batch *b;
	struct list refs;

	list_init(&refs);
	record.range_count = ack_collect(q, &refs, ranges, &record.bytes);
	b = malloc(sizeof(*b) + record_ack_room(record.range_count));
	if (!b) {
		/* Back in front of the rest, for another try. */
		list_move_all(&refs, &q->acks);
		list_move_all(&q->acks, &refs);
		return -ENOMEM;
	}
	memset(b, 0, sizeof(*b));
	list_init(&b->refs);
	list_move_all(&b->refs, &refs);
	b->queue = queue_hold(q);
	ack_append(q, &b->append, &b->note, &record, b->meta, ack_committed);
	shard_append(q->shard, &b->append);
	return 0;
}

static void ack_flush(struct loop_task *task)
{
	struct queue *q = container_of(task, struct queue, ack_task);
	/* Only shards use it, one task at a time. */
	static _Thread_local struct record_range ranges[RECORD_RANGE_MAX];
	int err = 0;

	q->acked = NULL;
	while (!err && !list_empty(&q->acks))
		err = ack_submit(q, ranges);
	if (err) {
		ack_wake(q);
	} else if (q->purge) {
		q->purge->queue = queue_hold(q);
		shard_append(q->shard, &q->purge->append);
		q->purge = NULL;
	}
	queue_release(q);
}

/* ---- purging ---- */

static void purge_committed(struct loop_mail *mail)
{
	struct purge *p = container_of(mail, struct purge, note.mail);
	struct queue *q = p->queue;
	int err = p->append.err;

	shard_append_done(q->shard);
	q->out_count -= p->messages;
	q->out_bytes -= p->bytes;
	if (!err && !q->deleted)
		ack_count(q, p->messages, p->bytes);
	p->command->done(p->command, err);
	queue_maybe_delete(q);
	queue_release(q);
	free(p);
}

static struct record_range *purge_add(struct record_range *to, uint64_t first,
				      uint64_t end)
{
	if (first == end)
		return to;
	*to = (struct record_range){.first = first, .last = end - 1};
	return to + 1;
}

/* The gap, but what a walk has taken from it. */
static struct record_range *purge_gap(const struct queue *q, unsigned p,
				      struct record_range *to)
{
	uint64_t taken[WALK_REFS_MAX];
	uint64_t first = record_ref(p, q->lanes[p].gap_first);
	uint32_t count = walk_refs(q, p, taken);

	for (uint32_t i = 0; i < count; i++) {
		if (taken[i] < first)
			continue;
		to = purge_add(to, first, taken[i]);
		first = taken[i] + 1;
	}
	return purge_add(to, first, record_ref(p, q->lanes[p].next));
}

static void purge_gaps(struct queue *q)
{
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		q->lanes[p].gap_first = q->lanes[p].next;
	q->gap_lanes = 0;
	q->generation++;
	walk_stop(q);
	damage_clear(q);
}

void ack_purge(struct queue *q, struct core_command *command)
{
	uint32_t room = RECORD_PRIORITIES + WALK_REFS_MAX + q->damaged_ranges;
	struct record_range *ranges = calloc(room, sizeof(*ranges));
	struct record_range *end = ranges;
	struct record_ack record = {.queue = q->id, .ranges = ranges};
	struct purge *p = calloc(1, sizeof(*p) + record_ack_room(room));

	ASSERT(!q->purge && room <= RECORD_RANGE_MAX);
	if (!ranges || !p) {
		free(ranges);
		free(p);
		command->done(command, -ENOMEM);
		return;
	}
	command->ret_count = q->ready_count;
	while (!list_empty(&q->ready)) {
		struct delivery *d =
			list_entry(q->ready.next, struct delivery, link);

		queue_take(d);
		ack_add(d);
	}
	for (unsigned lane = 0; lane < RECORD_PRIORITIES; lane++)
		if (q->gap_lanes & 1u << lane)
			end = purge_gap(q, lane, end);
	for (uint32_t i = 0; i < q->damaged_ranges; i++)
		*end++ = q->damaged[i];
	purge_gaps(q);
	p->command = command;
	p->messages = count_get(&q->messages) - q->out_count;
	p->bytes = count_get(&q->bytes) - q->out_bytes;
	q->out_count += p->messages;
	q->out_bytes += p->bytes;
	command->ret_count += p->messages;
	record.range_count = (uint32_t)(end - ranges);
	record.bytes = p->bytes;
	ack_append(q, &p->append, &p->note, &record, p->meta, purge_committed);
	free(ranges);
	q->purge = p;
	ack_wake(q);
}

/* ---- the queue's end ---- */

/* That the queue is gone is not durable either, so that nothing can be
 * confirmed. */
void ack_forget(struct queue *q)
{
	list_for_each(n, &q->acks) {
		struct delivery *d = list_entry(n, struct delivery, link);

		if (d->confirm)
			consumer_confirm(d->confirm, -E_NOT_FOUND);
		d->confirm = NULL;
	}
	if (q->purge)
		q->purge->command->done(q->purge->command, -E_NOT_FOUND);
	ack_free(q);
}

void ack_free(struct queue *q)
{
	struct list *n;

	q->acked = NULL;
	while ((n = list_pop(&q->acks)))
		ref_free(list_entry(n, struct delivery, link));
	free(q->purge);
	q->purge = NULL;
}
