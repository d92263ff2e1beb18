/* journal/store/store.c: which messages the journal still owes to whom.
 *
 * Committed batches come from the journal's thread through a lock-free inbox
 * and are applied here in order.  A checkpoint is written between two
 * batches; those that arrive meanwhile wait in the inbox.
 *
 * Crash argument.  A checkpoint counts only once the record that names it is
 * committed.  Until then the two before it are there, and so is everything
 * needed to replay from either: a segment goes when nothing in it is live and
 * it ends before the position of the OLDER of the two.  Nothing here is
 * deleted but after a claim check.  Killed after any line, recovery finds two
 * checkpoints or three, whole, or the whole journal. */
#include "journal/store/store.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "journal/store/recovery.h"

#define CHECKPOINT_BYTES_DEFAULT (256u * 1024u * 1024u)
#define CHECKPOINT_NS_DEFAULT (30u * 1000000000ull)
/* Without space for another segment a checkpoint is what frees some. */
#define CHECKPOINT_NS_URGENT 1000000000ull
/* On a full disk acknowledgements eat the reserve, one block each, and only
 * checkpoints give segments back. */
#define CHECKPOINT_BYTES_URGENT (1024u * 1024u)
/* A checkpoint holds every queued message, so with a large backlog one is
 * worth writing only after so many times its size in journal, and after so
 * many times what it took: the cost stays a bounded share of the work. */
#define CHECKPOINT_BYTES_RATIO 24u
#define CHECKPOINT_NS_RATIO 20u
#define INBOX_BYTES_MAX (64u * 1024u * 1024u)

struct store {
	struct store_options options;
	char *dir;
	struct checkpoint_place place;
	struct log *log;
	struct state state;
	char why[RECOVERY_TEXT_BYTES], warning[RECOVERY_TEXT_BYTES];

	/* Any thread: batches newest first, linked through their mail. */
	_Atomic(struct loop_mail *) inbox;
	_Atomic uint64_t inbox_bytes;
	_Atomic(struct loop *) loop;
	_Atomic bool posted;
	struct loop_mail mail;
	struct store_stats stats;

	/* The store's loop. */
	struct log_position position; /* behind the last applied batch */
	bool positioned, failed;
	struct loop_timer timer;
	uint64_t checkpoint_at_ns; /* when the last one was begun */
	uint64_t journal_bytes;	   /* since then */
	uint64_t changes_covered;  /* state.changes then */
	bool segments_waiting;	   /* dead ones that the older does not cover */
	struct checkpoint_file kept[2]; /* newest first */
	size_t kept_count;

	/* The checkpoint whose record is being committed. */
	bool recording;
	struct checkpoint_file written;
	uint64_t written_bytes;
	uint64_t write_ns; /* what the last one took */
	uint8_t meta[RECORD_CHECKPOINT_ROOM];
	struct log_append append;
	struct log_note note;

	bool stopping;
	struct loop_task stop_task;
	void (*stop_done)(void *ctx);
	void *stop_ctx;
};

/* ---- life ---- */

int store_create(const struct store_options *options, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->dir = strdup(options->dir);
	if (!s->dir) {
		free(s);
		return -ENOMEM;
	}
	s->options = *options;
	if (!s->options.checkpoint_bytes)
		s->options.checkpoint_bytes = CHECKPOINT_BYTES_DEFAULT;
	if (!s->options.checkpoint_ns)
		s->options.checkpoint_ns = CHECKPOINT_NS_DEFAULT;
	s->options.dir = s->dir;
	s->place.dir = s->dir;
	s->place.identity.io = options->io;
	s->place.identity.master = options->master;
	state_init(&s->state);
	*ret = s;
	return 0;
}

static struct loop_mail *take_inbox(struct store *s)
{
	struct loop_mail *newest = atomic_exchange(&s->inbox, NULL);
	struct loop_mail *oldest = NULL;

	while (newest) {
		struct loop_mail *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	return oldest;
}

static void free_batch(struct store *s, struct log_batch *b)
{
	atomic_fetch_sub(&s->inbox_bytes, sizeof(*b) + b->len);
	log_batch_free(b);
}

void store_free(struct store *s)
{
	struct loop_mail *next;

	if (!s)
		return;
	for (struct loop_mail *m = take_inbox(s); m; m = next) {
		next = m->next;
		free_batch(s, container_of(m, struct log_batch, mail));
	}
	state_fini(&s->state);
	free(s->dir);
	free(s);
}

const char *store_why(const struct store *s)
{
	return s->why;
}

const char *store_warning(const struct store *s)
{
	return s->warning[0] ? s->warning : NULL;
}

const struct store_stats *store_stats(const struct store *s)
{
	return &s->stats;
}

uint64_t store_next_id(const struct store *s)
{
	return s->state.next_id;
}

static void update_stats(struct store *s)
{
	struct store_stats *t = &s->stats;

	t->live_messages = s->state.live_messages;
	t->live_bytes = s->state.live_bytes;
	t->segments_live = s->state.live_segments;
	t->applied_lsn = s->position.lsn;
}

/* ---- recovery ---- */

static int make_directory(struct store *s)
{
	char path[CHECKPOINT_PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR, s->dir);
	int err;

	if (n < 0 || n >= (int)sizeof(path))
		return -ENAMETOOLONG;
	err = io_mkdir(s->options.io, path);
	return err ? err : io_sync_dir(s->options.io, s->dir);
}

struct needed {
	const struct state *state;
	uint64_t found;
};

static int count_needed(void *ctx, const struct log_segment_info *info)
{
	struct needed *n = ctx;

	n->found += state_segment_live(n->state, info->key);
	return 0;
}

static int is_segment(void *ctx, const struct log_segment_info *info)
{
	const uint64_t *key = ctx;

	return info->key == *key;
}

/* The replay opens no segment that lies wholly before the checkpoint, so one
 * of those could be gone without anyone noticing before a consumer does. */
static int check_segments(struct store *s)
{
	const struct state_segment *first = NULL;
	struct needed needed = {.state = &s->state};
	uint64_t missing = 0;
	int found;

	found = log_each_segment(s->log, count_needed, &needed);
	if (found < 0 || needed.found == s->state.live_segments)
		return found;
	for (size_t i = 0; i < s->state.segment_count; i++) {
		const struct state_segment *g = &s->state.segments[i];
		uint64_t key = g->key;

		if (!g->live)
			continue;
		found = log_each_segment(s->log, is_segment, &key);
		if (found < 0)
			return found;
		if (found)
			continue;
		missing++;
		if (!first || key < first->key)
			first = g;
	}
	if (!first)
		return 0;
	snprintf(s->why, sizeof(s->why),
		 "segments/%08x-%08x.log is missing in %.300s, and with it "
		 "%" PRIu64 " queued messages or parts of them (%" PRIu64
		 " segments are missing in all): restore it from a backup",
		 (unsigned)(first->key >> 32), (unsigned)first->key, s->dir,
		 first->live, missing);
	return -E_LOST;
}

int store_recover(struct store *s, struct log *log)
{
	struct recovery r = {
		.place = &s->place, .log = log, .state = &s->state};
	int err = make_directory(s);

	if (err) {
		snprintf(s->why, sizeof(s->why),
			 "%s/" CHECKPOINT_DIR " cannot be made: %s", s->dir,
			 err_str(err));
		return err;
	}
	s->log = log;
	s->place.identity.cluster_id = log_cluster_id(log);
	err = recovery_run(&r);
	memcpy(s->warning, r.warning, sizeof(s->warning));
	memcpy(s->why, r.why, sizeof(s->why));
	if (err)
		return err;
	memcpy(s->kept, r.kept, sizeof(s->kept));
	s->kept_count = r.kept_count;
	state_restart(&s->state);
	err = check_segments(s);
	if (err) {
		if (!s->why[0])
			snprintf(s->why, sizeof(s->why),
				 "the segments in %.300s cannot be looked "
				 "through: %s",
				 s->dir, err_str(err));
		return err;
	}
	if (s->kept_count)
		s->stats.checkpoint_lsn = s->kept[0].lsn;
	update_stats(s);
	return 0;
}

/* ---- walks ---- */

int store_each_address(struct store *s,
		       int (*each)(void *ctx, const struct record_address *),
		       void *ctx)
{
	void **all = idmap_sorted(&s->state.addresses);
	int err = all ? 0 : -ENOMEM;

	ASSERT(!s->loop);
	for (size_t i = 0; !err && i < s->state.addresses.count; i++) {
		const struct state_address *a = all[i];

		err = each(ctx, &a->record);
	}
	free(all);
	return err;
}

int store_each_queue(struct store *s,
		     int (*each)(void *ctx, const struct record_queue *),
		     void *ctx)
{
	void **all = idmap_sorted(&s->state.queues);
	int err = all ? 0 : -ENOMEM;

	ASSERT(!s->loop);
	for (size_t i = 0; !err && i < s->state.queues.count; i++) {
		const struct state_queue *q = all[i];

		err = each(ctx, &q->record);
	}
	free(all);
	return err;
}

struct walk {
	const struct state *state;
	int (*each)(void *ctx, const struct store_message *);
	void *ctx;
	struct log_loc *pieces;
	uint32_t piece_capacity;
};

/* Pieces are kept in a shorter form; the caller sees them as locations. */
static int walk_pieces(struct walk *w, const struct state_upload *u)
{
	struct log_loc *grown;

	if (u->piece_count > w->piece_capacity) {
		grown = realloc(w->pieces, u->piece_count * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		w->pieces = grown;
		w->piece_capacity = u->piece_count;
	}
	for (uint32_t i = 0; i < u->piece_count; i++)
		w->pieces[i] = state_loc(w->state, &u->pieces[i]);
	return 0;
}

static int walk_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	struct walk *w = ctx;
	struct store_message m = {
		.ref = ref,
		.props.expiry_ms = e->expiry_ms,
		.props.arrived_ms = e->arrived_ms,
		.props.priority = e->priority,
		.props.durable = e->durable,
		.props.format = e->format,
		.bytes = state_entry_bytes(e),
		.deliveries = e->deliveries,
		.origin = state_entry_origin(e),
	};
	int err = 0;

	if (e->more) {
		m.extra_len = e->more->extra_len;
		m.extra = m.extra_len ? e->more->data : NULL;
	}
	if (u) {
		err = walk_pieces(w, u);
		m.upload = u->id;
		m.piece_count = u->piece_count;
		m.pieces = w->pieces;
	} else {
		m.loc = state_loc(w->state, &e->place);
	}
	return err ? err : w->each(w->ctx, &m);
}

int store_each_message(struct store *s, uint64_t queue,
		       int (*each)(void *ctx, const struct store_message *),
		       void *ctx)
{
	const struct state_queue *q = idmap_get(&s->state.queues, queue);
	struct walk w = {.state = &s->state, .each = each, .ctx = ctx};
	int err;

	ASSERT(!s->loop);
	if (!q)
		return 0;
	err = entries_each(&q->entries, walk_entry, &w);
	free(w.pieces);
	return err;
}

/* ---- failure and the end ---- */

static PRINTF_LIKE(3, 4) void fail(struct store *s, int err, const char *fmt,
				   ...)
{
	va_list args;

	if (s->failed)
		return;
	s->failed = true;
	loop_timer_cancel(s->loop, &s->timer);
	va_start(args, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, args);
	va_end(args);
	s->options.failed(s->options.ctx, err, s->why);
}

static void finish_stop(struct loop_task *task)
{
	struct store *s = container_of(task, struct store, stop_task);

	s->stop_done(s->stop_ctx);
}

/* ---- segments ---- */

struct dropping {
	const struct store *store;
	uint64_t *keys;
	size_t count, capacity;
	bool waiting;
};

static int consider_segment(void *ctx, const struct log_segment_info *info)
{
	struct dropping *d = ctx;
	const struct store *s = d->store;
	uint64_t *grown;
	size_t capacity;

	if (info->active || !info->end_lsn ||
	    state_segment_live(&s->state, info->key))
		return 0;
	/* Strictly before: the segment in which the older checkpoint's replay
	 * begins ends at that LSN when nothing more was written to it, and
	 * recovery opens it. */
	if (s->kept_count < 2 || info->end_lsn >= s->kept[1].lsn) {
		d->waiting = true;
		return 0;
	}
	if (d->count == d->capacity) {
		capacity = d->capacity ? d->capacity * 2 : 16;
		grown = realloc(d->keys, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		d->keys = grown;
		d->capacity = capacity;
	}
	d->keys[d->count++] = info->key;
	return 0;
}

static int drop_segments(struct store *s)
{
	struct dropping d = {.store = s};
	int err = log_each_segment(s->log, consider_segment, &d);

	if (!err && d.count)
		err = log_drop(s->log, d.keys, d.count);
	s->segments_waiting = d.waiting;
	free(d.keys);
	return err;
}

/* ---- checkpoints ---- */

static bool out_of_space(int err)
{
	return err == -ENOSPC || err == -EDQUOT;
}

static void set_timer(struct store *s)
{
	uint64_t ns = base_max(s->options.checkpoint_ns,
			       CHECKPOINT_NS_RATIO * s->write_ns);

	if (!log_has_space(s->log))
		ns = base_min(ns, CHECKPOINT_NS_URGENT);
	loop_timer_set(s->loop, &s->timer, ns);
}

static int remove_files(struct store *s)
{
	int err = log_check_claim(s->log);

	return err ? err
		   : checkpoint_remove_others(&s->place, log_epoch(s->log),
					      s->kept, s->kept_count);
}

/* The record is committed: the checkpoint counts. */
static void checkpoint_counts(struct store *s)
{
	int err;

	s->kept[1] = s->kept[0];
	s->kept[0] = s->written;
	if (s->kept_count < 2)
		s->kept_count++;
	s->stats.checkpoints++;
	s->stats.checkpoint_lsn = s->written.lsn;
	s->stats.checkpoint_bytes = s->written_bytes;
	err = remove_files(s);
	if (err) {
		fail(s, err, "old checkpoints in %s cannot be removed: %s",
		     s->dir, err_str(err));
		return;
	}
	err = drop_segments(s);
	if (err)
		fail(s, err, "a journal segment in %s cannot be removed: %s",
		     s->dir, err_str(err));
}

static void recorded(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct store *s = container_of(note, struct store, note);

	ASSERT(loop_is_current(s->loop));
	s->recording = false;
	/* A journal that failed has told the daemon itself. */
	if (s->append.err)
		s->failed = true;
	else if (!s->failed)
		checkpoint_counts(s);
	if (s->stopping)
		loop_defer(s->loop, &s->stop_task);
}

static void record_checkpoint(struct store *s,
			      const uint8_t hash[CRYPTO_HASH_BYTES])
{
	struct record_checkpoint c = {
		.lsn = s->written.lsn,
		.name = s->written.name,
		.name_len = (uint16_t)strlen(s->written.name),
	};

	memcpy(c.hash, hash, sizeof(c.hash));
	s->note = (struct log_note){
		.mail.deliver = recorded,
		.to = s->loop,
		.append = &s->append,
	};
	s->append = (struct log_append){
		.type = RECORD_CHECKPOINT,
		.meta = s->meta,
		.meta_len = (uint32_t)record_checkpoint_encode(&c, s->meta),
		.note_count = 1,
		.notes = &s->note,
	};
	s->recording = true;
	log_append(s->log, &s->append, &s->append);
}

static bool worth_a_checkpoint(const struct store *s)
{
	if (s->recording || s->stopping || s->failed || !s->positioned)
		return false;
	/* One position, one file. */
	if (s->kept_count && s->kept[0].lsn >= s->position.lsn)
		return false;
	return s->state.changes != s->changes_covered || s->segments_waiting;
}

static void write_checkpoint(struct store *s)
{
	uint8_t hash[CRYPTO_HASH_BYTES];
	int err;

	s->checkpoint_at_ns = loop_now_ns(s->loop);
	s->journal_bytes = 0;
	err = checkpoint_write(&s->place, &s->state, &s->position,
			       log_epoch(s->log), &s->written, hash,
			       &s->written_bytes);
	s->write_ns = io_now_ns(loop_io(s->loop)) - s->checkpoint_at_ns;
	set_timer(s);
	if (out_of_space(err)) {
		/* Not a loss: the journal is the truth.  What a crash left
		 * half written may be in the way. */
		err = remove_files(s);
		if (!err)
			return;
	}
	if (err) {
		fail(s, err, "a checkpoint cannot be written in %s: %s", s->dir,
		     err_str(err));
		return;
	}
	s->changes_covered = s->state.changes;
	record_checkpoint(s, hash);
}

static void timer_fired(struct loop_timer *timer)
{
	struct store *s = container_of(timer, struct store, timer);

	if (worth_a_checkpoint(s))
		write_checkpoint(s);
	else if (!s->stopping && !s->failed)
		set_timer(s);
}

static void consider_checkpoint(struct store *s)
{
	uint64_t age_ns = loop_now_ns(s->loop) - s->checkpoint_at_ns;

	if (!worth_a_checkpoint(s))
		return;
	if (s->journal_bytes >=
		    base_max(s->options.checkpoint_bytes,
			     CHECKPOINT_BYTES_RATIO * s->written_bytes) ||
	    (!log_has_space(s->log) &&
	     (age_ns >= CHECKPOINT_NS_URGENT ||
	      s->journal_bytes >=
		      base_max(CHECKPOINT_BYTES_URGENT, s->written_bytes))))
		write_checkpoint(s);
}

/* ---- batches ---- */

static int apply_record(void *ctx, const struct log_record *r)
{
	return state_apply(ctx, r);
}

static void apply_batch(struct store *s, struct log_batch *b)
{
	int err = s->failed ? 0 : log_batch_each(b, apply_record, &s->state);

	if (err) {
		fail(s, err, "%s", s->state.why);
	} else if (!s->failed) {
		s->position = b->end;
		s->positioned = true;
		s->journal_bytes += b->stored_bytes;
	}
	free_batch(s, b);
}

static void deliver_batches(struct loop_mail *mail)
{
	struct store *s = container_of(mail, struct store, mail);
	struct loop_mail *next;

	ASSERT(loop_is_current(s->loop));
	/* Before the inbox is taken: whoever puts something in afterwards
	 * posts again. */
	s->posted = false;
	for (struct loop_mail *m = take_inbox(s); m; m = next) {
		next = m->next;
		apply_batch(s, container_of(m, struct log_batch, mail));
	}
	if (s->failed)
		return;
	update_stats(s);
	consider_checkpoint(s);
}

static void wake(struct store *s)
{
	struct loop *loop = s->loop;

	if (loop && !atomic_exchange(&s->posted, true))
		loop_post(loop, &s->mail);
}

int store_take(struct store *s, struct log_batch *b)
{
	uint64_t bytes = sizeof(*b) + b->len;
	uint64_t waiting = atomic_fetch_add(&s->inbox_bytes, bytes) + bytes;
	struct loop_mail *head = s->inbox;

	do
		b->mail.next = head;
	while (!atomic_compare_exchange_weak(&s->inbox, &head, &b->mail));
	wake(s);
	return waiting > INBOX_BYTES_MAX ? -EAGAIN : 0;
}

int store_start(struct store *s, struct loop *loop)
{
	ASSERT(s->log && !s->loop);
	s->mail.deliver = deliver_batches;
	s->timer.fire = timer_fired;
	s->checkpoint_at_ns = loop_now_ns(loop);
	s->stop_task.run = finish_stop;
	atomic_store(&s->loop, loop);
	set_timer(s);
	/* EPOCH-START may have been committed before there was a loop. */
	if (s->inbox)
		wake(s);
	return 0;
}

void store_stop(struct store *s, void (*done)(void *ctx), void *ctx)
{
	ASSERT(loop_is_current(s->loop) && !s->stopping);
	s->stopping = true;
	s->stop_done = done;
	s->stop_ctx = ctx;
	loop_timer_cancel(s->loop, &s->timer);
	if (!s->recording)
		loop_defer(s->loop, &s->stop_task);
}
