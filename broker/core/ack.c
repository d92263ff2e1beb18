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
	struct core_command *purge;
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

static uint64_t ack_seq(struct list *n)
{
	return list_entry(n, struct delivery, link)->seq;
}

/* Consumers settle mostly in order, several of them in turn, so the place is
 * nearly always the end or near the last one. */
void ack_add(struct delivery *d)
{
	struct queue *q = d->queue;
	struct list *after = q->acks.prev;

	d->state = REF_ACKING;
	if (q->acked && ack_seq(after) > d->seq)
		after = q->acked;
	while (after != &q->acks && ack_seq(after) > d->seq)
		after = after->prev;
	while (after->next != &q->acks && ack_seq(after->next) < d->seq)
		after = after->next;
	list_insert_between(&d->link, after, after->next);
	q->acked = &d->link;
	ack_wake(q);
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

		if (!err && !q->deleted) {
			count_sub(&q->messages, 1);
			count_sub(&q->bytes, d->bytes);
			count_add(&q->acknowledged, 1);
			count_add(&q->shard->acknowledged, 1);
		}
		if (d->confirm)
			consumer_confirm(d->confirm, err);
		d->confirm = NULL;
		ref_free(d);
	}
	if (b->purge)
		b->purge->done(b->purge, err);
	queue_maybe_delete(q);
	queue_release(q);
	free(b);
}

/* Moves refs from the queue's list into the batch until the record is full.
 * Neighbours in the queue share a range: nothing that lives is between them. */
static uint32_t ack_collect(struct queue *q, struct list *refs,
			    struct record_range *ranges)
{
	uint32_t count = 0;
	uint64_t last_seq = 0;

	while (!list_empty(&q->acks)) {
		struct list *n = q->acks.next;
		struct delivery *d = list_entry(n, struct delivery, link);

		if (count && d->seq == last_seq + 1) {
			ranges[count - 1].last = d->lsn;
		} else {
			if (count == RECORD_RANGE_MAX)
				break;
			ranges[count].first = ranges[count].last = d->lsn;
			count++;
		}
		last_seq = d->seq;
		list_remove(n);
		list_push(refs, n);
	}
	return count;
}

static int ack_submit(struct queue *q, struct record_range *ranges)
{
	struct record_ack record = {.queue = q->id, .ranges = ranges};
	struct ack_batch *b;
	struct list refs;

	list_init(&refs);
	record.range_count = ack_collect(q, &refs, ranges);
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
	b->append.type = RECORD_ACK;
	b->append.meta = b->meta;
	b->append.meta_len = (uint32_t)record_ack_encode(&record, b->meta);
	b->append.notes = &b->note;
	b->append.note_count = 1;
	b->note.mail.deliver = ack_committed;
	b->note.to = q->shard->loop;
	b->note.append = &b->append;
	if (list_empty(&q->acks)) {
		b->purge = q->purge;
		q->purge = NULL;
	}
	shard_append(q->shard, &b->append);
	return 0;
}

static void ack_flush(struct loop_task *task)
{
	struct queue *q = container_of(task, struct queue, ack_task);
	/* Only shards use it, one task at a time. */
	static _Thread_local struct record_range ranges[RECORD_RANGE_MAX];

	q->acked = NULL;
	while (!list_empty(&q->acks))
		if (ack_submit(q, ranges) != 0) {
			ack_wake(q);
			break;
		}
	queue_release(q);
}

/* Nothing is there to be removed, but what an earlier purge has removed may
 * not be durable yet: an empty record behind it says when. */
struct purge_barrier {
	struct log_append append;
	struct log_note note;
	struct shard *shard;
	struct core_command *command;
	uint8_t meta[RECORD_PURGE_ROOM];
};

static void purge_committed(struct loop_mail *mail)
{
	struct purge_barrier *b =
		container_of(mail, struct purge_barrier, note.mail);

	shard_append_done(b->shard);
	b->command->done(b->command, b->append.err);
	free(b);
}

static void purge_nothing(struct queue *q, struct core_command *command)
{
	struct record_purge record = {.queue = q->id};
	struct purge_barrier *b = calloc(1, sizeof(*b));

	if (!b) {
		command->done(command, -ENOMEM);
		return;
	}
	b->shard = q->shard;
	b->command = command;
	b->append.type = RECORD_PURGE;
	b->append.meta = b->meta;
	b->append.meta_len = (uint32_t)record_purge_encode(&record, b->meta);
	b->append.notes = &b->note;
	b->append.note_count = 1;
	b->note.mail.deliver = purge_committed;
	b->note.to = q->shard->loop;
	b->note.append = &b->append;
	shard_append(q->shard, &b->append);
}

void ack_purge(struct queue *q, struct core_command *command)
{
	ASSERT(!q->purge);
	command->ret_count = q->ready_count;
	if (q->ready_count == 0) {
		purge_nothing(q, command);
		return;
	}
	q->purge = command;
	while (!list_empty(&q->ready)) {
		struct delivery *d =
			list_entry(q->ready.next, struct delivery, link);

		queue_remove_ready(d);
		ack_add(d);
	}
}
