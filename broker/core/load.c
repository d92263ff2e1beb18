/* Bodies that are not in memory are read back from the journal, ahead of the
 * message whose turn it is: enough at a time that a disk which is busy with
 * publishing still keeps consumers going, and few enough to be counted. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

#define LOAD_COUNT_MAX 1024
#define LOAD_BYTES_MAX (1024u * 1024u)

struct body_load {
	struct log_read read;
	struct queue *queue;  /* held */
	struct delivery *ref; /* NULL: it has left meanwhile */
	struct message *message;
	uint32_t bytes;
};

static void load_done(struct log_read *read, int err)
{
	struct body_load *load = container_of(read, struct body_load, read);
	struct queue *q = load->queue;
	struct delivery *d = load->ref;

	q->loading--;
	if (d) {
		d->load = NULL;
		if (!err) {
			d->message = load->message;
			load->message = NULL;
		} else if (err != -ENOMEM) {
			/* Kept, named, and never served. */
			d->damaged = true;
			logger_error("core", "message-damaged",
				     "queue=%s ref=%llu segment=%016llx "
				     "frame=%u error=%s",
				     LOGGER_QUOTE(q->name),
				     (unsigned long long)d->lsn,
				     (unsigned long long)d->loc.segment,
				     d->loc.frame, LOGGER_QUOTE(err_str(err)));
		}
	}
	q->loading_bytes -= load->bytes;
	message_release(load->message);
	free(load);
	/* The next batch is asked for while the rest of this one comes. */
	if (q->loading <= LOAD_COUNT_MAX / 4 &&
	    q->loading_bytes <= LOAD_BYTES_MAX / 4 && !list_empty(&q->hungry) &&
	    !list_empty(&q->ready))
		load_ahead(q, list_entry(q->ready.next, struct delivery, link));
	queue_wake(q);
	queue_release(q);
}

static int load_start(struct queue *q, struct delivery *d)
{
	struct body_load *load = calloc(1, sizeof(*load));

	if (!load)
		return -ENOMEM;
	load->message = message_create(q->shard, d->loc.body_len);
	if (!load->message) {
		free(load);
		return -ENOMEM;
	}
	load->queue = queue_hold(q);
	load->ref = d;
	load->read.done = load_done;
	load->bytes = d->loc.body_len;
	d->load = load;
	q->loading++;
	q->loading_bytes += load->bytes;
	log_read(q->shard->reader, &load->read, &d->loc, load->message->data);
	return 0;
}

void load_ahead(struct queue *q, struct delivery *d)
{
	struct list *n = &d->link;

	for (int i = 0; i < LOAD_COUNT_MAX && n != &q->ready;
	     i++, n = n->next) {
		struct delivery *next = list_entry(n, struct delivery, link);

		if (q->loading >= LOAD_COUNT_MAX ||
		    q->loading_bytes >= LOAD_BYTES_MAX)
			break;
		if (next->message || next->large || next->load || next->damaged)
			continue;
		if (load_start(q, next) != 0) {
			/* Nothing else would try again. */
			if (!q->loading)
				queue_wake(q);
			break;
		}
	}
}

void load_forget(struct delivery *d)
{
	if (!d->load)
		return;
	d->load->ref = NULL;
	d->load = NULL;
}
