/* journal/store/salvage_write.c: the new journal.
 *
 * A log and a store as the broker runs them, so that a large backlog gets its
 * extents and checkpoints while it is written.  This thread has a loop of its
 * own for the notes, and runs it when too much is on its way.
 *
 * Crash argument: none is needed.  The new directory counts only once
 * salvage_target_finish() has returned 0; before that the old one is as it
 * was, and the new one is to be thrown away. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/salvage_private.h"
#include "journal/store/store.h"

#define IN_FLIGHT_MAX (16u * 1024u * 1024u)
#define COMPRESS_LEVEL 3
#define WAIT_NS 1000000u
/* A moved message comes from a queue that is none of the new directory's. */
#define FROM_QUEUE UINT64_MAX
#define FROM_REF 1u

struct salvage_target {
	const struct salvage_options *options;
	char *why;
	struct log *log;
	struct store *store;
	struct loop *main, *journal, *store_loop, *extents_loop;
	struct loop_timer timer;
	struct loop_mail stop_mail, stopped_mail;
	struct loop *running[3];
	unsigned running_count;
	bool stopped;
	struct list puts;   /* on their way */
	uint64_t in_flight; /* bytes */
	int err;	    /* the first one */
	_Atomic int failed;
	char failed_why[SALVAGE_WHY_BYTES];
	struct idmap numbers; /* struct numbers of each queue */
};

struct numbers {
	uint64_t next[RECORD_PRIORITIES];
};

struct put {
	struct log_append append;
	struct log_note note;
	struct salvage_target *target;
	struct list link;
	size_t bytes;
	uint8_t data[];
};

/* ---- failures ---- */

/* [journal, store] */
static void on_failed(void *ctx, int err, const char *why)
{
	struct salvage_target *t = ctx;
	int none = 0;

	snprintf(t->failed_why, sizeof(t->failed_why), "%s", why);
	if (atomic_compare_exchange_strong(&t->failed, &none, err))
		loop_stop(t->main);
}

static void on_committed(void *ctx, struct log_batch *batch)
{
	struct salvage_target *t = ctx;

	/* What waits there is bounded by what this thread has in flight. */
	if (store_take(t->store, batch))
		return;
}

static int failure(struct salvage_target *t)
{
	if (!t->err && t->failed) {
		t->err = t->failed;
		snprintf(t->why, SALVAGE_WHY_BYTES, "%s", t->failed_why);
	}
	return t->err;
}

/* ---- life ---- */

static int make_loops(struct salvage_target *t)
{
	struct io *io = t->options->io;
	int err = loop_create(io, "main", &t->main);

	if (!err)
		err = loop_create(io, "journal", &t->journal);
	if (!err)
		err = loop_create(io, "store", &t->store_loop);
	if (!err)
		err = loop_create(io, "extents", &t->extents_loop);
	return err;
}

static int run(struct salvage_target *t, struct loop *loop)
{
	int err = loop_start(loop, NULL, NULL);

	if (!err)
		t->running[t->running_count++] = loop;
	return err;
}

static int start(struct salvage_target *t)
{
	int err = log_start(t->log, t->journal);

	if (err) {
		snprintf(t->why, SALVAGE_WHY_BYTES, "%s", log_why(t->log));
		return err;
	}
	err = store_start(t->store, t->store_loop, t->extents_loop);
	if (!err)
		err = run(t, t->extents_loop);
	if (!err)
		err = run(t, t->store_loop);
	if (!err)
		err = run(t, t->journal);
	return err;
}

static int open_log(struct salvage_target *t)
{
	const struct salvage_options *o = t->options;
	const struct log_options log = {
		.io = o->io,
		.dir = o->to,
		.master = o->master,
		.compress_level = COMPRESS_LEVEL,
		.committed = on_committed,
		.failed = on_failed,
		.ctx = t,
	};
	const struct store_options store = {
		.io = o->io,
		.dir = o->to,
		.master = o->master,
		.failed = on_failed,
		.ctx = t,
	};
	int err = log_create(&log, &t->log);

	if (err) {
		const char *why = log_why(NULL);

		snprintf(t->why, SALVAGE_WHY_BYTES, "%s", why ? why : "");
		return err;
	}
	err = log_claim(t->log);
	if (err)
		snprintf(t->why, SALVAGE_WHY_BYTES, "%s", log_why(t->log));
	if (!err)
		err = store_create(&store, &t->store);
	if (err)
		return err;
	err = store_recover(t->store, t->log);
	if (err)
		snprintf(t->why, SALVAGE_WHY_BYTES, "%s", store_why(t->store));
	return err;
}

static void timer_fired(struct loop_timer *timer)
{
	struct salvage_target *t =
		container_of(timer, struct salvage_target, timer);

	loop_stop(t->main);
}

int salvage_target_open(const struct salvage_options *options, char *why,
			struct salvage_target **ret)
{
	struct salvage_target *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->options = options;
	t->why = why;
	t->timer.fire = timer_fired;
	list_init(&t->puts);
	err = make_loops(t);
	if (!err)
		err = open_log(t);
	if (!err)
		err = start(t);
	if (err) {
		if (!why[0])
			snprintf(why, SALVAGE_WHY_BYTES,
				 "a journal in %s cannot be made: %s",
				 options->to, err_str(err));
		salvage_target_abandon(t);
		return err;
	}
	*ret = t;
	return 0;
}

void salvage_target_abandon(struct salvage_target *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->running_count; i++) {
		loop_stop(t->running[i]);
		loop_join(t->running[i]);
	}
	/* The log's own thread posts to the journal's loop. */
	log_free(t->log);
	store_free(t->store);
	loop_free(t->journal);
	loop_free(t->store_loop);
	loop_free(t->extents_loop);
	loop_free(t->main);
	for (size_t i = 0; i < t->numbers.capacity; i++)
		free(t->numbers.slots[i].id ? t->numbers.slots[i].value : NULL);
	idmap_fini(&t->numbers);
	while (!list_empty(&t->puts))
		free(list_entry(list_pop(&t->puts), struct put, link));
	free(t);
}

/* [main] */
static void has_stopped(struct loop_mail *mail)
{
	struct salvage_target *t =
		container_of(mail, struct salvage_target, stopped_mail);

	t->stopped = true;
	loop_stop(t->main);
}

static void tell_stopped(void *ctx)
{
	struct salvage_target *t = ctx;

	t->stopped_mail.deliver = has_stopped;
	loop_post(t->main, &t->stopped_mail);
}

static void stop_store(struct loop_mail *mail)
{
	struct salvage_target *t =
		container_of(mail, struct salvage_target, stop_mail);

	store_stop(t->store, tell_stopped, t);
}

static void stop_log(struct loop_mail *mail)
{
	struct salvage_target *t =
		container_of(mail, struct salvage_target, stop_mail);

	log_stop(t->log, tell_stopped, t);
}

static int stop_on(struct salvage_target *t, struct loop *loop,
		   void (*deliver)(struct loop_mail *))
{
	t->stopped = false;
	t->stop_mail.deliver = deliver;
	loop_post(loop, &t->stop_mail);
	while (!t->stopped && !t->failed)
		loop_run(t->main);
	return failure(t);
}

/* Runs the loop until at most so much is on its way. */
static int drain(struct salvage_target *t, uint64_t bytes)
{
	while (!failure(t) && t->in_flight > bytes)
		loop_run(t->main);
	return t->err;
}

int salvage_target_finish(struct salvage_target *t)
{
	int err = drain(t, 0);

	if (!err)
		err = stop_on(t, t->store_loop, stop_store);
	if (!err)
		err = stop_on(t, t->journal, stop_log);
	salvage_target_abandon(t);
	return err;
}

/* ---- appending ---- */

static void noted(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct put *p = container_of(note, struct put, note);
	struct salvage_target *t = p->target;

	if (p->append.err && !t->err && !t->failed)
		t->err = p->append.err;
	t->in_flight -= p->bytes;
	list_remove(&p->link);
	free(p);
	loop_stop(t->main);
}

static int put(struct salvage_target *t, uint8_t type, const void *meta,
	       size_t meta_len, const void *body, uint32_t body_len,
	       bool no_compress)
{
	struct put *p;

	if (drain(t, IN_FLIGHT_MAX))
		return t->err;
	while (store_is_behind(t->store) && !failure(t)) {
		loop_timer_set(t->main, &t->timer, WAIT_NS);
		loop_run(t->main);
	}
	if (!log_has_space(t->log) && !t->err) {
		snprintf(t->why, SALVAGE_WHY_BYTES,
			 "the file system of %s has no room for it",
			 t->options->to);
		t->err = -E_NO_SPACE;
	}
	if (t->err)
		return t->err;
	p = malloc(sizeof(*p) + meta_len + body_len);
	if (!p)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->target = t;
	p->bytes = sizeof(*p) + meta_len + body_len;
	memcpy(p->data, meta, meta_len);
	if (body_len)
		memcpy(p->data + meta_len, body, body_len);
	p->note.mail.deliver = noted;
	p->note.to = t->main;
	p->note.append = &p->append;
	p->append.meta = p->data;
	p->append.meta_len = (uint32_t)meta_len;
	p->append.body = body_len ? p->data + meta_len : NULL;
	p->append.body_len = body_len;
	p->append.type = type;
	p->append.no_compress = no_compress;
	p->append.note_count = 1;
	p->append.notes = &p->note;
	t->in_flight += p->bytes;
	list_push(&t->puts, &p->link);
	log_append(t->log, &p->append, &p->append);
	return 0;
}

int salvage_target_address(struct salvage_target *t,
			   const struct record_address *a)
{
	uint8_t meta[RECORD_ADDRESS_ROOM];

	return put(t, RECORD_ADDRESS, meta, record_address_encode(a, meta),
		   NULL, 0, true);
}

int salvage_target_queue(struct salvage_target *t, const struct record_queue *q)
{
	uint8_t meta[RECORD_QUEUE_ROOM];

	return put(t, RECORD_QUEUE, meta, record_queue_encode(q, meta), NULL, 0,
		   true);
}

int salvage_target_piece(struct salvage_target *t, uint64_t upload,
			 uint32_t index, const void *data, uint32_t len)
{
	const struct record_piece p = {.upload = upload, .index = index};
	uint8_t meta[RECORD_PIECE_ROOM];

	return put(t, RECORD_PIECE, meta, record_piece_encode(&p, meta), data,
		   len, false);
}

int salvage_target_abort(struct salvage_target *t, uint64_t upload)
{
	uint8_t meta[RECORD_UPLOAD_ABORT_ROOM];

	return put(t, RECORD_UPLOAD_ABORT, meta,
		   record_upload_abort_encode(upload, meta), NULL, 0, true);
}

/* The ref that the next message of this lane gets: counted as the store
 * counts. */
static int count_ref(struct salvage_target *t, uint64_t queue,
		     unsigned priority, uint64_t *ret)
{
	struct numbers *n = idmap_get(&t->numbers, queue);
	int err;

	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n)
			return -ENOMEM;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			n->next[p] = 1;
		err = idmap_put(&t->numbers, queue, n);
		if (err) {
			free(n);
			return err;
		}
	}
	*ret = record_ref(priority, n->next[priority]++);
	return 0;
}

/* Attempts, and annotations that a MOVE has not brought. */
static int put_count(struct salvage_target *t, uint64_t queue, uint64_t ref,
		     const struct salvage_message *m, bool with_extra)
{
	const struct record_count c = {
		.queue = queue,
		.ref = ref,
		.deliveries = m->deliveries,
		.extra = m->extra,
		.extra_len = with_extra ? m->extra_len : 0,
	};
	uint8_t *meta;
	int err;

	if (!c.deliveries && !c.extra_len)
		return 0;
	meta = malloc(record_count_room(c.extra_len));
	if (!meta)
		return -ENOMEM;
	err = put(t, RECORD_COUNT, meta, record_count_encode(&c, meta), NULL, 0,
		  true);
	free(meta);
	return err;
}

static int put_moved(struct salvage_target *t, uint64_t queue,
		     const struct salvage_message *m, uint64_t upload)
{
	const struct record_move v = {
		.queue = FROM_QUEUE,
		.ref = FROM_REF,
		.props = m->props,
		.upload = upload,
		.bytes = m->bytes,
		.piece_count = upload ? m->upload->piece_count : 0,
		.origin = m->origin,
		.extra = m->extra,
		.extra_len = m->extra_len,
		.target_count = 1,
		.targets = &queue,
	};
	uint8_t *meta = malloc(record_move_room(&v));
	int err;

	if (!meta)
		return -ENOMEM;
	err = put(t, RECORD_MOVE, meta, record_move_encode(&v, meta), m->body,
		  upload ? 0 : (uint32_t)m->bytes, !m->packed);
	free(meta);
	return err;
}

int salvage_target_message(struct salvage_target *t, uint64_t queue,
			   const struct salvage_message *m, uint64_t upload)
{
	const struct record_enqueue e = {
		.props = m->props,
		.upload = upload,
		.bytes = m->bytes,
		.piece_count = upload ? m->upload->piece_count : 0,
		.target_count = 1,
		.targets = &queue,
	};
	bool moved = m->origin.reason;
	uint8_t *meta;
	uint64_t ref;
	int err = count_ref(t, queue, m->props.priority, &ref);

	if (err)
		return err;
	if (moved) {
		err = put_moved(t, queue, m, upload);
	} else {
		meta = malloc(record_enqueue_room(1));
		if (!meta)
			return -ENOMEM;
		err = put(t, RECORD_ENQUEUE, meta,
			  record_enqueue_encode(&e, meta), m->body,
			  upload ? 0 : (uint32_t)m->bytes, !m->packed);
		free(meta);
	}
	return err ? err : put_count(t, queue, ref, m, !moved);
}
