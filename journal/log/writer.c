/* journal/log/writer.c: group commit.
 *
 * Who operates.  The writer belongs to one thread at a time, which enters it
 * and leaves it again; nobody waits for that.  Mostly it is the journal thread.
 * A loop that appends a little while nothing is being written enters by itself
 * (log_append_here()): it builds the frame, writes it with its own loop, and
 * commits it when that is done, which saves a lone publisher two hand-overs.
 * Everything else (segments, timers, failures, stopping, large frames) is left
 * to the journal thread.  Who comes in vain says so, and whoever is leaving
 * then has the journal thread look again: so nothing that has arrived is
 * overlooked.
 *
 * Appends arrive in one atomic stack and wait in a queue.  What waits when a
 * write completes is the next frame: no timer, no fixed size.  While a write
 * is in flight another is started only when GATHER_BYTES have come together:
 * a smaller frame would keep the device from the larger one that is about to
 * form.  Much more must not be waited for either: clients with a window then
 * fall into two groups that take turns, at half the rate (measured with one
 * client and a window of 100: 240 k/s at 32 KiB, 150 k/s at 128 KiB).
 *
 * Crash argument.  A frame is sealed once, for one place in a file whose data
 * key is already durable, and written once; after any error nothing is
 * written again.  Frames complete in any order, but only the contiguous
 * completed prefix is acknowledged, after one look at the claim made when all
 * of it was durable.  A frame carries as durable_lsn the end of what was
 * acknowledged when it was built, and at most frames_in_flight frames are
 * built beyond that.  So recovery may cut at the first bad frame exactly when
 * no frame after it claims to know better.
 *
 * Order of a commit: durable, claim check, committed(batch), then notes. */
#include "journal/log/writer.h"

#define GATHER_BYTES (32u * 1024u)
#define HERE_BYTES (16u * 1024u) /* a loop that appends writes by itself */
#define LONE_AFTER 3u		 /* records that came one by one */
#define LONE_US_MAX 400u	 /* what writing one may take on average */
#define LONE_US_CAP (8u * LONE_US_MAX)
#define IDLE_NS 10000000ull
#define EPOCH_START_META_BYTES (12u + LOG_CHAIN_BYTES)

/* ---- who operates ---- */

static void writer_call_journal(struct log_writer *w)
{
	if (!atomic_exchange(&w->pump_posted, true))
		loop_post(w->log->loop, &w->pump_mail);
}

static bool writer_try_enter(struct log_writer *w, struct loop *on)
{
	if (atomic_exchange(&w->entered, true))
		return false;
	w->on = on;
	return true;
}

/* False: whoever has entered will have the journal thread look. */
static bool writer_enter(struct log_writer *w, struct loop *on)
{
	if (writer_try_enter(w, on))
		return true;
	atomic_store(&w->again, true);
	return writer_try_enter(w, on);
}

static void writer_leave(struct log_writer *w)
{
	w->on = NULL;
	atomic_store(&w->entered, false);
	if (atomic_load(&w->again) && atomic_exchange(&w->again, false))
		writer_call_journal(w);
}

static void pump_called(struct loop_mail *mail)
{
	struct log_writer *w = container_of(mail, struct log_writer, pump_mail);

	atomic_store(&w->pump_posted, false);
	loop_defer(w->log->loop, &w->pump);
}

static void idle_called(struct loop_mail *mail)
{
	struct log_writer *w = container_of(mail, struct log_writer, idle_mail);

	atomic_store(&w->idle_posted, false);
	loop_defer(w->log->loop, &w->pump);
}

/* ---- commit ---- */

/* To wait in the kernel for this frame is quicker, and keeps nobody waiting:
 * for a while there has been one record at a time, and the device is fast. */
static bool writer_is_alone(const struct log_writer *w)
{
	return !w->log->network && w->lone_frames > LONE_AFTER &&
	       w->lone_us <= LONE_US_MAX;
}

/* may_wait: nobody but this record's owner would be kept waiting. */
static void slot_submit(struct log_writer *w, struct log_slot *s, bool may_wait)
{
	struct log *log = w->log;

	w->frame_bytes -= w->frame_bytes / 8;
	w->frame_bytes += s->frame.stored_len / 8;
	s->state = SLOT_WRITING;
	s->built_ns = io_now_ns(log->io);
	if (!w->slot_count)
		log->stats.write_begun_ns = s->built_ns;
	s->sink->in_flight++;
	w->slot_count++;
	w->ops_in_flight++;
	log->stats.syncs++;
	w->lone_frames = s->frame.record_count > 1 ? 0 : w->lone_frames + 1;
	log_prepare_progress(log->prepare, w->offset);
	if (may_wait && writer_is_alone(w)) {
		/* At the end of this iteration: the writer is left by then. */
		log->stats.waits++;
		loop_write_durable_now(w->on, &s->op, s->sink->file, s->buf,
				       s->frame.stored_len, s->frame.offset);
		return;
	}
	loop_write_durable(w->on, &s->op, s->sink->file, s->buf,
			   s->frame.stored_len, s->frame.offset);
}

static struct log_slot *slot_next(struct log_writer *w)
{
	unsigned n = w->log->options.frames_in_flight;

	return &w->slots[(w->slot_head + w->slot_count) % n];
}

static void slot_written(struct loop_op *op, int res);

/* Its write is over. */
static void slot_collect(struct log_writer *w, struct log_slot *s)
{
	atomic_store_explicit(&s->over, false, memory_order_relaxed);
	w->ops_in_flight--;
	s->sink->in_flight--;
	s->state = SLOT_WRITTEN;
	if (s->res != (int)s->frame.stored_len) {
		char path[LOG_PATH_BYTES];
		int err = s->res < 0 ? s->res : -EIO;

		log_segment_path(w->log->options.dir, s->frame.segment, path);
		log_latch(w->log, err,
			  "writing %s at offset %llu failed (%s): check the "
			  "disk, then start again to recover",
			  path, (unsigned long long)s->frame.offset,
			  err_str(err));
	}
	log_rotate_unref(s->sink);
}

static void writer_collect(struct log_writer *w)
{
	unsigned n = w->log->options.frames_in_flight;

	for (unsigned i = 0; i < w->slot_count; i++) {
		struct log_slot *s = &w->slots[(w->slot_head + i) % n];

		if (s->state == SLOT_WRITING &&
		    atomic_load_explicit(&s->over, memory_order_acquire))
			slot_collect(w, s);
	}
}

static void stats_commit(struct log *log, const struct log_slot *s,
			 uint64_t now_ns)
{
	struct log_stats *st = &log->stats;
	uint64_t us = (now_ns - s->built_ns) / 1000;
	unsigned bucket = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

	st->frames++;
	st->records += s->frame.record_count;
	st->payload_bytes += s->payload_bytes;
	st->disk_bytes += s->frame.stored_len;
	st->commit_us[base_min(bucket, ARRAY_COUNT(st->commit_us) - 1)]++;
	st->commit_us_total += us;
}

/* After one that took very long none is waited for until some twenty have been
 * quick. */
static void writer_learn(struct log_writer *w, const struct log_slot *s,
			 uint64_t now_ns)
{
	uint64_t us = (now_ns - s->built_ns) / 1000;

	if (s->frame.record_count != 1)
		return;
	if (us >= LONE_US_CAP) {
		w->lone_us = LONE_US_CAP;
		return;
	}
	w->lone_us -= w->lone_us / 8;
	w->lone_us += (uint32_t)us / 8;
}

static void slot_tell_store(struct log_writer *w, struct log_slot *s)
{
	struct log *log = w->log;

	if (s->batch)
		log->options.committed(log->options.ctx, s->batch);
	s->batch = NULL;
}

/* Two mutants': before the look at the claim. */
static void writer_tell_store_early(struct log_writer *w)
{
	unsigned n = w->log->options.frames_in_flight;

	for (unsigned i = 0; i < w->slot_count; i++) {
		struct log_slot *s = &w->slots[(w->slot_head + i) % n];

		if (s->state != SLOT_WRITTEN)
			break;
		slot_tell_store(w, s);
	}
}

static void slot_commit(struct log_writer *w, struct log_slot *s,
			struct log_notes *notes)
{
	struct log *log = w->log;

	w->durable_lsn = s->frame.first_lsn + s->frame.record_count;
	if (w->passed != s->frame.segment) {
		log_segment_passed(log, s->frame.segment, s->frame.first_lsn);
		w->passed = s->frame.segment;
	}
	w->idle_wanted = s->first != NULL;
	slot_tell_store(w, s);
	log_notes_tell(w->log, s->first, 0, notes);
	s->first = s->last = NULL;
	s->state = SLOT_FREE;
}

/* Acknowledges the contiguous completed prefix. */
static void writer_commit(struct log_writer *w)
{
	unsigned n = w->log->options.frames_in_flight;
	struct log_notes notes;
	uint64_t begun_ns, now_ns;

	if (!w->slot_count || w->slots[w->slot_head].state != SLOT_WRITTEN)
		return;
	/* One look covers every frame that is durable by now. */
	begun_ns = io_now_ns(w->log->io);
	if (MUTANT(STORE_FIRST) || MUTANT(DELETE_UNCHECKED))
		writer_tell_store_early(w);
	if (!MUTANT(NO_CHECK) && !MUTANT(CHECK_EARLY) &&
	    log_check_claim(w->log))
		return;
	notes.count = notes.latest = 0;
	now_ns = w->commit_ns = io_now_ns(w->log->io);
	w->log->stats.commit_checks++;
	w->log->stats.commit_check_ns += now_ns - begun_ns;
	while (w->slot_count && w->slots[w->slot_head].state == SLOT_WRITTEN) {
		struct log_slot *s = &w->slots[w->slot_head];

		stats_commit(w->log, s, now_ns);
		writer_learn(w, s, now_ns);
		slot_commit(w, s, &notes);
		w->slot_head = (w->slot_head + 1) % n;
		w->slot_count--;
	}
	w->log->stats.write_begun_ns =
		w->slot_count ? w->slots[w->slot_head].built_ns : 0;
	log_notes_post(&notes);
}

static bool writer_is_full(const struct log_writer *w)
{
	if (w->slot_count == w->log->options.frames_in_flight)
		return true;
	return w->slot_count && w->waiting_bytes < GATHER_BYTES && !w->stopping;
}

static void writer_write(struct log_writer *w)
{
	while (w->waiting && !writer_is_full(w)) {
		struct log_slot *s = slot_next(w);
		int err = log_rotate_room(w, log_append_bytes(w->waiting));

		if (!err) {
			log_prepare_need(w->log->prepare);
			return;
		}
		if (err > 0)
			err = log_build_waiting(w, s);
		if (err == -ENOSPC) {
			log_latch(w->log, err,
				  "%s is full: not even the reserve holds "
				  "another record; free space or enlarge the "
				  "volume, then start again",
				  w->log->options.dir);
			return;
		}
		if (err) {
			log_latch(w->log, err, "cannot build a frame (%s)",
				  err_str(err));
			return;
		}
		if (MUTANT(CHECK_EARLY) && log_check_claim(w->log))
			return;
		slot_submit(w, s, false);
		log_rotate_ask(w);
	}
}

/* Lets recovery tell the end of what was acknowledged from a torn tail.  It
 * is a help, not a duty: without room it is left out. */
static void writer_idle_mark(struct log_writer *w)
{
	struct log_slot *s = slot_next(w);
	int err;

	w->idle_wanted = false;
	if (log_rotate_room(w, LOG_RECORD_HEADER_BYTES) <= 0)
		return;
	err = log_build_own(w, s, LOG_TYPE_IDLE, NULL, 0);
	if (err) {
		log_latch(w->log, err, "cannot build a frame (%s)",
			  err_str(err));
		return;
	}
	slot_submit(w, s, false);
	log_rotate_ask(w);
}

static bool writer_is_quiet(const struct log_writer *w)
{
	return !w->waiting && !w->slot_count;
}

static void idle_fire(struct loop_timer *timer)
{
	struct log_writer *w =
		container_of(timer, struct log_writer, idle_timer);

	w->idle_due = true;
	loop_defer(w->log->loop, &w->pump);
}

static void writer_idle_fired(struct log_writer *w)
{
	uint64_t quiet_ns = io_now_ns(w->log->io) - w->commit_ns;

	w->idle_armed = false;
	if (w->log->latched || !writer_is_quiet(w) || !w->idle_wanted)
		return;
	if (quiet_ns >= IDLE_NS) {
		writer_idle_mark(w);
		return;
	}
	w->idle_armed = true;
	loop_timer_set(w->log->loop, &w->idle_timer, IDLE_NS - quiet_ns);
}

/* EPOCH-START is committed without the loop; the loop tells of it, at once,
 * for a process that appends nothing has to checkpoint and drop segments too.
 * The next segment is asked for at once as well: the first one lives from the
 * reserve, so only this tells whether the disk has room for publishing. */
static void writer_tell_start(struct log_writer *w)
{
	struct log_batch *batch = w->start_batch;

	if (!batch)
		return;
	w->start_batch = NULL;
	w->log->options.committed(w->log->options.ctx, batch);
	if (!w->log->latched && !w->stopping)
		log_rotate_ask(w);
}

/* ---- taking appends ---- */

static struct log_append *append_reverse(struct log_append *a)
{
	struct log_append *done = NULL;

	while (a) {
		struct log_append *next = a->next;

		a->next = done;
		done = a;
		a = next;
	}
	return done;
}

static int latched_err(struct log *log)
{
	return log->latched == -E_FENCED ? -E_FENCED : -E_LATCHED;
}

/* The stack is emptied here and nowhere else.  Who pushes onto an empty one
 * sees to it that this comes: by himself, or by mail to the journal thread.  So
 * it comes exactly once for each time, and the mail is never posted twice. */
static void writer_take_incoming(struct log_writer *w)
{
	struct log *log = w->log;
	struct log_append *a =
		append_reverse(atomic_exchange(&log->incoming, NULL));

	if (w->failed) {
		struct log_notes notes = {.count = 0};

		log_notes_tell(w->log, a, latched_err(log), &notes);
		log_notes_post(&notes);
		return;
	}
	*w->waiting_tail = a;
	for (; a; a = a->next) {
		w->waiting_bytes += log_append_bytes(a);
		w->waiting_tail = &a->next;
	}
}

static void incoming_delivered(struct loop_mail *mail)
{
	struct log *log = container_of(mail, struct log, incoming_mail);

	log->writer->incoming_due = true;
	loop_defer(log->loop, &log->writer->pump);
}

/* ---- on the journal thread ---- */

/* Fail everything. */
static void writer_fail(struct log_writer *w)
{
	unsigned n = w->log->options.frames_in_flight;
	struct log_notes notes = {.count = 0};
	int err = latched_err(w->log);

	w->failed = true;
	for (unsigned i = 0; i < w->slot_count; i++) {
		struct log_slot *s = &w->slots[(w->slot_head + i) % n];

		log_notes_tell(w->log, s->first, err, &notes);
		s->first = s->last = NULL;
	}
	log_notes_tell(w->log, w->waiting, err, &notes);
	w->waiting = NULL;
	w->waiting_tail = &w->waiting;
	w->waiting_bytes = 0;
	log_notes_post(&notes);
	loop_timer_cancel(w->log->loop, &w->idle_timer);
}

static void writer_take_prepared(struct log_writer *w)
{
	ASSERT(w->next_state == NEXT_ASKED);
	w->next = w->prepared;
	w->prepared = NULL;
	w->next_state = NEXT_READY;
}

/* What has come to this thread since it was last here. */
static void writer_take_arrived(struct log_writer *w)
{
	if (w->latch_due)
		writer_fail(w);
	if (w->incoming_due)
		writer_take_incoming(w);
	if (w->prepared)
		writer_take_prepared(w);
	w->latch_due = w->incoming_due = false;
	w->stopping |= w->stop_done != NULL;
}

/* True: everything is over, for a log that is to stop. */
static bool writer_work(struct log_writer *w)
{
	writer_take_arrived(w);
	writer_tell_start(w);
	writer_collect(w);
	if (!w->log->latched) {
		writer_commit(w);
		if (!w->log->latched)
			writer_write(w);
	}
	if (w->log->latched) /* The mail that fails everything is on its way or
				has been. */
		return w->stopping && w->failed && !w->ops_in_flight;
	if (w->next_due)
		log_rotate_ask(w);
	w->next_due = false;
	if (w->idle_due)
		writer_idle_fired(w);
	w->idle_due = false;
	if (w->stopping) {
		if (writer_is_quiet(w) && w->idle_wanted)
			writer_idle_mark(w);
		return writer_is_quiet(w) && !w->log->latched;
	}
	if (writer_is_quiet(w) && w->idle_wanted)
		w->idle_armed = true;
	if (w->idle_armed && !w->idle_timer.heap_index)
		loop_timer_set(w->log->loop, &w->idle_timer, IDLE_NS);
	return false;
}

static void writer_pump(struct loop_task *task)
{
	struct log_writer *w = container_of(task, struct log_writer, pump);
	void (*done)(void *ctx) = NULL;

	if (!writer_enter(w, w->log->loop))
		return;
	if (writer_work(w)) {
		done = w->stop_done;
		w->stop_done = NULL;
		loop_timer_cancel(w->log->loop, &w->idle_timer);
	}
	writer_leave(w);
	if (done)
		done(w->stop_ctx);
}

void log_writer_nudge(struct log *log)
{
	loop_defer(log->loop, &log->writer->pump);
}

void log_writer_latched(struct log_writer *w)
{
	w->latch_due = true;
	loop_defer(w->log->loop, &w->pump);
}

void log_writer_prepared(struct log *log, struct log_sink *sink, int err)
{
	struct log_writer *w = log->writer;

	if (err) {
		log_latch(log, err,
			  "cannot make the next segment in %s/segments (%s): "
			  "check the disk, then start again to recover",
			  log->options.dir, err_str(err));
		return;
	}
	ASSERT(!w->prepared);
	w->prepared = sink;
	loop_defer(log->loop, &w->pump);
}

void log_stop(struct log *log, void (*done)(void *ctx), void *ctx)
{
	struct log_writer *w = log->writer;

	ASSERT(loop_is_current(log->loop) && !w->stop_done);
	w->stop_done = done;
	w->stop_ctx = ctx;
	loop_defer(log->loop, &w->pump);
}

/* ---- on a loop that appends ---- */

/* What waits is little, and the segment has room for it. */
static bool writer_fits_here(const struct log_writer *w)
{
	return w->waiting_bytes <= HERE_BYTES &&
	       w->waiting_bytes <= log_build_room(w, LOG_FRAME_BYTES_MAX);
}

static void writer_write_here(struct log_writer *w, bool may_wait)
{
	struct log_slot *s = slot_next(w);
	int err = log_build_waiting(w, s);

	if (err) {
		log_latch(w->log, err, "cannot build a frame (%s)",
			  err_str(err));
		return;
	}
	slot_submit(w, s, may_wait);
	w->next_due |= log_rotate_is_due(w);
}

/* Whatever is not done here is for the journal thread. */
static void writer_go_on_here(struct log_writer *w, bool may_wait)
{
	bool leave_it = w->log->latched || w->failed || w->stopping;

	if (!leave_it && w->waiting && !w->slot_count && writer_fits_here(w))
		writer_write_here(w, may_wait);
	if (leave_it || w->next_due || (w->waiting && !writer_is_full(w))) {
		writer_call_journal(w);
	} else if (writer_is_quiet(w) && w->idle_wanted && !w->idle_armed) {
		w->idle_armed = true;
		if (!atomic_exchange(&w->idle_posted, true))
			loop_post_patiently(w->log->loop, &w->idle_mail);
	}
}

static void slot_written(struct loop_op *op, int res)
{
	struct log_slot *s = container_of(op, struct log_slot, op);
	struct log_writer *w = s->writer;
	struct loop *here = op->loop;

	s->res = res;
	atomic_store_explicit(&s->over, true, memory_order_release);
	if (here == w->log->loop) {
		loop_defer(here, &w->pump);
		return;
	}
	if (!writer_enter(w, here))
		return;
	writer_collect(w);
	if (!w->log->latched && !w->failed)
		writer_commit(w);
	writer_go_on_here(w, false);
	writer_leave(w);
}

/* False: it is for the journal thread to take what has been pushed. */
static bool writer_append_here(struct log_writer *w, struct loop *here)
{
	if (!writer_try_enter(w, here))
		return false;
	if (w->log->latched || w->failed || w->stopping || w->start_batch) {
		writer_leave(w);
		return false;
	}
	writer_take_incoming(w);
	writer_go_on_here(w, true);
	writer_leave(w);
	return true;
}

/* ---- appending ---- */

/* Returns whether nothing was there. */
static bool incoming_push(struct log *log, struct log_append *first,
			  struct log_append *last)
{
	struct log_append *head;
	uint64_t bytes = 0;

	last->next = NULL;
	for (struct log_append *a = first; a; a = a->next) {
		ASSERT(a->type >= LOG_TYPE_USER && a->note_count >= 1);
		ASSERT((uint64_t)a->meta_len + a->body_len <=
		       LOG_RECORD_BYTES_MAX);
		bytes += log_append_bytes(a);
	}
	log->backlog_bytes += bytes;
	/* The stack is newest first, so the chain goes in backwards. */
	append_reverse(first);
	head = atomic_load(&log->incoming);
	do
		first->next = head;
	while (!atomic_compare_exchange_weak(&log->incoming, &head, last));
	return !head;
}

void log_append(struct log *log, struct log_append *first,
		struct log_append *last)
{
	if (incoming_push(log, first, last))
		loop_post(log->loop, &log->incoming_mail);
}

void log_append_here(struct log *log, struct loop *here,
		     struct log_append *first, struct log_append *last)
{
	ASSERT(loop_is_current(here));
	if (incoming_push(log, first, last) &&
	    !writer_append_here(log->writer, here))
		loop_post(log->loop, &log->incoming_mail);
}

/* ---- life ---- */

int log_writer_create(struct log *log, struct log_writer **ret)
{
	struct log_writer *w = calloc(1, sizeof(*w));
	int err = -ENOMEM;

	if (!w)
		return -ENOMEM;
	w->log = log;
	w->waiting_tail = &w->waiting;
	w->pump.run = writer_pump;
	w->pump_mail.deliver = pump_called;
	w->idle_mail.deliver = idle_called;
	w->idle_timer.fire = idle_fire;
	w->next_lsn = log->start.lsn;
	w->durable_lsn = log->start.lsn;
	memcpy(w->chain, log->start.chain, LOG_CHAIN_BYTES);
	w->next_sequence = log->next_sequence;
	log->incoming_mail.deliver = incoming_delivered;
	w->plain = io_buffer_alloc(LOG_FRAME_BYTES_MAX);
	if (!w->plain)
		goto fail;
	for (unsigned i = 0; i < log->options.frames_in_flight; i++) {
		w->slots[i].writer = w;
		w->slots[i].op.done = slot_written;
		w->slots[i].buf = io_buffer_alloc(LOG_FRAME_BYTES_MAX);
		if (!w->slots[i].buf)
			goto fail;
	}
	if (log->options.compress_level) {
		err = compress_create(log->options.compress_level,
				      &w->compress);
		if (err)
			goto fail;
	}
	*ret = w;
	return 0;
fail:
	log_writer_free(w);
	return err;
}

void log_writer_free(struct log_writer *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < LOG_IN_FLIGHT_MAX; i++) {
		log_batch_free(w->slots[i].batch);
		io_buffer_free(w->slots[i].buf);
	}
	log_batch_free(w->start_batch);
	compress_free(w->compress);
	log_sink_close(w->prepared);
	log_sink_close(w->next);
	log_sink_close(w->sink);
	io_buffer_free(w->plain);
	free(w);
}

int log_writer_start(struct log_writer *w)
{
	uint8_t meta[EPOCH_START_META_BYTES];
	struct log *log = w->log;
	struct log_slot *s = &w->slots[0];
	int err = log_rotate_start(w);

	if (err) {
		log_set_why(log,
			    "cannot make the first segment in %s/segments "
			    "(%s): check free space and permissions",
			    log->options.dir, err_str(err));
		return err;
	}
	bytes_put32(meta, log->parent_epoch);
	bytes_put64(meta + 4, log->start.lsn);
	memcpy(meta + 12, log->start.chain, LOG_CHAIN_BYTES);
	err = log_build_own(w, s, LOG_TYPE_EPOCH_START, meta, sizeof(meta));
	if (!err)
		err = io_write(w->sink->file, s->buf, s->frame.stored_len,
			       s->frame.offset);
	if (!err)
		err = io_sync(w->sink->file);
	if (err) {
		log_set_why(log, "cannot write the first frame in %s (%s)",
			    log->options.dir, err_str(err));
		return err;
	}
	err = log_claim_verify(log);
	if (err) {
		log_set_why(log,
			    "the claim in %s no longer stands (%s): another "
			    "process has taken over",
			    log->options.dir, err_str(err));
		return err;
	}
	w->start_batch = s->batch;
	s->batch = NULL;
	w->durable_lsn = w->next_lsn;
	w->passed = s->frame.segment;
	log->stats.frames++;
	log->stats.records++;
	log->stats.syncs++;
	log->stats.disk_bytes += s->frame.stored_len;
	return 0;
}

void log_writer_begin(struct log_writer *w)
{
	loop_defer(w->log->loop, &w->pump);
}
