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
 * checkpoints or three, whole, or the whole journal.  For extent files see
 * compact.c. */
#include "journal/store/store.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "journal/log/mutant.h"
#include "journal/store/internal.h"

#define CHECKPOINT_BYTES_DEFAULT (256u * 1024u * 1024u)
#define CHECKPOINT_NS_DEFAULT (30u * 1000000000ull)
/* Without space for another segment a checkpoint is what frees some. */
#define CHECKPOINT_NS_URGENT 1000000000ull
/* On a full disk acknowledgements eat the reserve, one block each, and only
 * checkpoints give segments back. */
#define CHECKPOINT_BYTES_URGENT (1024u * 1024u)
#define MEMORY_BYTES_DEFAULT (64u * 1024u * 1024u)
#define HOT_BYTES_DEFAULT (4ull * 1024u * 1024u * 1024u)
#define HOT_NS_DEFAULT (60u * 1000000000ull)
#define EXTENT_BYTES_DEFAULT (64u * 1024u * 1024u)
#define EXTENT_BYTES_MAX (1024u * 1024u * 1024u)
#define SCRUB_BYTES_DEFAULT (32u * 1024u * 1024u)
#define INBOX_BYTES_MAX (64u * 1024u * 1024u)

/* ---- life ---- */

static void default_to(uint64_t *option, uint64_t value)
{
	if (!*option)
		*option = value;
}

static void set_options(struct store *s, const struct store_options *options)
{
	struct store_options *o = &s->options;

	*o = *options;
	o->dir = s->dir;
	default_to(&o->memory_bytes, MEMORY_BYTES_DEFAULT);
	default_to(&o->checkpoint_bytes, CHECKPOINT_BYTES_DEFAULT);
	default_to(&o->checkpoint_ns, CHECKPOINT_NS_DEFAULT);
	default_to(&o->hot_bytes, HOT_BYTES_DEFAULT);
	default_to(&o->hot_ns, HOT_NS_DEFAULT);
	default_to(&o->extent_bytes, EXTENT_BYTES_DEFAULT);
	default_to(&o->scrub_bytes_per_s, SCRUB_BYTES_DEFAULT);
	o->extent_bytes = base_min(o->extent_bytes, EXTENT_BYTES_MAX);
	s->place.dir = s->dir;
	s->place.identity.io = o->io;
	s->place.identity.master = o->master;
	s->state.index = o->index;
	s->state.detail_bytes_max = o->memory_bytes / 4;
}

int store_create(const struct store_options *options, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	state_init(&s->state);
	s->dir = strdup(options->dir);
	err = s->dir ? 0 : -ENOMEM;
	if (!err) {
		set_options(s, options);
		err = quarantine_create(&s->quarantine);
	}
	if (!err)
		err = compact_create(s, &s->compact);
	if (!err)
		err = scrub_create(s, &s->scrub);
	if (err)
		store_free(s);
	else
		*ret = s;
	return err;
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
	recovery_unfollow(&s->recovery);
	scrub_free(s->scrub);
	compact_free(s->compact);
	quarantine_free(s->quarantine);
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
	t->files_live = s->state.live_files;
	t->applied_lsn = s->position.lsn;
	t->memory_bytes = state_memory(&s->state);
	t->entries = s->state.entry_count;
	t->runs = s->state.run_count;
	t->index_spills = s->state.detail_spills;
}

/* A walk, so not with every batch. */
static void update_file_stats(struct store *s)
{
	uint64_t files = 0, bytes = 0, live = 0;

	for (size_t i = 0; i < s->state.file_count; i++) {
		const struct state_file *f = &s->state.files[i];

		if ((!f->live && !f->dead) || !store_is_extent(f->key))
			continue;
		files++;
		bytes += f->bytes;
		live += f->live_bytes;
	}
	s->stats.extent_files = files;
	s->stats.extent_bytes = bytes;
	s->stats.extent_live_bytes = live;
}

/* ---- recovery ---- */

static int make_directory(struct store *s, const char *name)
{
	char path[CHECKPOINT_PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", s->dir, name);
	int err = n < 0 || n >= (int)sizeof(path) ? -ENAMETOOLONG : 0;

	if (!err)
		err = io_mkdir(s->options.io, path);
	if (err)
		snprintf(s->why, sizeof(s->why), "%.300s/%s cannot be made: %s",
			 s->dir, name, err_str(err));
	return err;
}

static int make_directories(struct store *s)
{
	int err = make_directory(s, CHECKPOINT_DIR);

	if (!err)
		err = make_directory(s, EXTENT_DIR);
	if (err)
		return err;
	err = io_sync_dir(s->options.io, s->dir);
	if (err)
		snprintf(s->why, sizeof(s->why), "%.300s cannot be synced: %s",
			 s->dir, err_str(err));
	return err;
}

static int say_if_fenced(struct store *s, int err)
{
	if (log_blame(s->log, err) == -E_FENCED && err != -E_FENCED) {
		snprintf(s->why, sizeof(s->why), "%s", log_why(s->log));
		err = -E_FENCED;
	}
	return err;
}

static void prepare_recovery(struct store *s, struct log *log)
{
	s->log = log;
	s->place.identity.cluster_id = log_cluster_id(log);
	s->recovery.place = &s->place;
	s->recovery.log = log;
	s->recovery.state = &s->state;
}

int store_follow(struct store *s, struct log *log, uint64_t bytes_max,
		 bool *ret_more)
{
	struct recovery *r = &s->recovery;
	int err;

	prepare_recovery(s, log);
	err = recovery_follow(r, bytes_max, ret_more);
	memcpy(s->why, r->why, sizeof(s->why));
	s->position.lsn = recovery_followed_lsn(r);
	update_stats(s);
	s->stats.seen_lsn = recovery_seen_lsn(r);
	s->stats.follow_resets = r->resets;
	return err;
}

int store_recover(struct store *s, struct log *log)
{
	struct recovery *r = &s->recovery;
	int err = make_directories(s);

	if (err)
		return err;
	prepare_recovery(s, log);
	err = recovery_run(r);
	memcpy(s->warning, r->warning, sizeof(s->warning));
	memcpy(s->why, r->why, sizeof(s->why));
	if (err)
		return say_if_fenced(s, err);
	memcpy(s->kept, r->kept, sizeof(s->kept));
	s->kept_count = r->kept_count;
	state_restart(&s->state);
	err = presence_check(s);
	if (err)
		return say_if_fenced(s, err);
	if (s->kept_count)
		s->stats.checkpoint_lsn = s->kept[0].lsn;
	update_stats(s);
	update_file_stats(s);
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

static void describe_lane(const struct state_lane *lane, unsigned priority,
			  struct store_lane *ret)
{
	uint64_t begin = record_ref(priority, 1);

	*ret = (struct store_lane){.first = begin, .next = begin};
	if (!lane)
		return;
	ret->next = record_ref(priority, lane->next);
	ret->messages = lane->live;
	ret->expiry_ms = state_lane_expiry(lane);
	ret->first = state_lane_first(lane, begin);
	if (!ret->first)
		ret->first = ret->next;
}

int store_each_queue(struct store *s,
		     int (*each)(void *ctx, const struct store_queue *),
		     void *ctx)
{
	void **all = idmap_sorted(&s->state.queues);
	int err = all ? 0 : -ENOMEM;

	ASSERT(!s->loop);
	for (size_t i = 0; !err && i < s->state.queues.count; i++) {
		const struct state_queue *q = all[i];
		struct store_queue shown = {.record = q->record,
					    .bytes = q->bytes};

		for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
			describe_lane(q->lanes[p], p, &shown.lanes[p]);
			shown.messages += shown.lanes[p].messages;
		}
		err = each(ctx, &shown);
	}
	free(all);
	return err;
}

/* ---- failure and the end ---- */

void store_fail(struct store *s, int err, const char *fmt, ...)
{
	va_list args;

	if (s->failed)
		return;
	s->failed = true;
	loop_timer_cancel(s->loop, &s->timer);
	va_start(args, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, args);
	va_end(args);
	err = say_if_fenced(s, err);
	s->options.failed(s->options.ctx, err, s->why);
}

static void finish_stop(struct loop_task *task)
{
	struct store *s = container_of(task, struct store, stop_task);
	void (*done)(void *ctx) = s->stop_done;

	s->stop_done = NULL;
	if (done)
		done(s->stop_ctx);
}

void store_idle(struct store *s)
{
	ASSERT(loop_is_current(s->loop));
	if (s->stop_done && !s->recording && !compact_is_busy(s->compact) &&
	    !scrub_is_busy(s->scrub))
		loop_defer(s->loop, &s->stop_task);
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
	    state_file_live(&s->state, info->key))
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
	for (size_t i = 0; !err && i < d.count; i++) {
		char file[64];

		snprintf(file, sizeof(file), "segments/%08x-%08x.log",
			 (unsigned)(d.keys[i] >> 32), (unsigned)d.keys[i]);
		quarantine_forget_file(s, file);
	}
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
	uint64_t ns = s->options.checkpoint_ns;

	if (!log_has_space(s->log))
		ns = base_min(ns, CHECKPOINT_NS_URGENT);
	loop_timer_set(s->loop, &s->timer, ns);
}

static int remove_files(struct store *s)
{
	int err = MUTANT(DELETE_UNCHECKED) ? 0 : log_check_claim(s->log);

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
		store_fail(s, err,
			   "old checkpoints in %s cannot be removed: %s",
			   s->dir, err_str(err));
		return;
	}
	err = compact_remove_dead(s);
	if (err) {
		store_fail(s, err,
			   "an extent file in %s/" EXTENT_DIR
			   " cannot be removed: %s",
			   s->dir, err_str(err));
		return;
	}
	err = drop_segments(s);
	if (err) {
		store_fail(s, err,
			   "a journal segment in %s cannot be removed: %s",
			   s->dir, err_str(err));
		return;
	}
	update_file_stats(s);
	compact_look(s);
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
	else if (!s->failed && !MUTANT(DELETE_UNCHECKED))
		checkpoint_counts(s);
	store_idle(s);
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
	if (MUTANT(DELETE_UNCHECKED))
		checkpoint_counts(s);
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
	set_timer(s);
	if (out_of_space(err)) {
		/* Not a loss: the journal is the truth.  What a crash left
		 * half written may be in the way. */
		err = remove_files(s);
		if (!err)
			return;
	}
	if (err) {
		store_fail(s, err, "a checkpoint cannot be written in %s: %s",
			   s->dir, err_str(err));
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
	if (s->journal_bytes >= s->options.checkpoint_bytes ||
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
		store_fail(s, err, "%s", s->state.why);
	} else if (!s->failed) {
		s->position = b->end;
		s->positioned = true;
		s->journal_bytes += b->stored_bytes;
		if (s->state.touches != s->touches) {
			s->touches = s->state.touches;
			s->touched_ns = loop_now_ns(s->loop);
		}
	}
	free_batch(s, b);
}

struct state *store_now(struct store *s)
{
	struct loop_mail *next;
	uint64_t bytes;

	ASSERT(loop_is_current(s->loop));
	for (struct loop_mail *m = take_inbox(s); m; m = next) {
		next = m->next;
		apply_batch(s, container_of(m, struct log_batch, mail));
	}
	if (s->failed)
		return NULL;
	update_stats(s);
	bytes = s->state.entry_bytes;
	s->behind = bytes - bytes / 5 > s->options.memory_bytes;
	return &s->state;
}

static void deliver_batches(struct loop_mail *mail)
{
	struct store *s = container_of(mail, struct store, mail);

	/* Before the inbox is taken: whoever puts something in afterwards
	 * posts again. */
	s->posted = false;
	if (!store_now(s))
		return;
	consider_checkpoint(s);
	compact_consider(s);
}

bool store_is_behind(const struct store *s)
{
	return s->behind;
}

static void wake(struct store *s)
{
	struct loop *loop = s->loop;

	if (loop && !atomic_exchange(&s->posted, true))
		loop_post_patiently(loop, &s->mail);
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

int store_start(struct store *s, struct loop *loop, struct loop *extents_loop)
{
	int err;

	ASSERT(s->log && !s->loop);
	ASSERT(log_is_started(s->log) || MUTANT(STRAYS_EARLY));
	s->extents_loop = extents_loop;
	err = log_check_claim(s->log);
	if (!err)
		err = compact_remove_strays(s);
	if (!err)
		err = compact_start(s);
	if (err) {
		snprintf(s->why, sizeof(s->why),
			 "the extent files in %.300s/" EXTENT_DIR
			 " cannot be put in order: %s",
			 s->dir, err_str(err));
		return say_if_fenced(s, err);
	}
	s->mail.deliver = deliver_batches;
	s->timer.fire = timer_fired;
	s->checkpoint_at_ns = s->touched_ns = loop_now_ns(loop);
	s->stop_task.run = finish_stop;
	atomic_store(&s->loop, loop);
	set_timer(s);
	scrub_start(s);
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
	compact_stop(s);
	scrub_stop(s);
	store_idle(s);
}
