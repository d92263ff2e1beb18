/* Bodies that are not in memory are read back from the journal, a few ahead
 * of the message whose turn it is. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

#define LOAD_AHEAD 32

struct body_load {
	struct log_read read;
	struct queue *queue;  /* held */
	struct delivery *ref; /* NULL: it has left meanwhile */
	struct message *message;
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
		} else {
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
	message_release(load->message);
	free(load);
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
	d->load = load;
	q->loading++;
	log_read(q->shard->reader, &load->read, &d->loc, load->message->data);
	return 0;
}

void load_ahead(struct queue *q, struct delivery *d)
{
	struct list *n = &d->link;

	if (q->loading > LOAD_AHEAD / 2 && d->load)
		return;
	for (int i = 0; i < LOAD_AHEAD && n != &q->ready; i++, n = n->next) {
		struct delivery *next = list_entry(n, struct delivery, link);

		if (next->message || next->large || next->load || next->damaged)
			continue;
		if (q->loading >= LOAD_AHEAD || load_start(q, next) != 0)
			break;
	}
}

void load_forget(struct delivery *d)
{
	if (!d->load)
		return;
	d->load->ref = NULL;
	d->load = NULL;
}
