/* journal/log/prepare.c: makes the next segment ahead of time, on a thread of
 * its own, because allocation, syncs and a rename take milliseconds that no
 * commit should wait for.
 *
 * Between creation and publication it fills the file with zeros: a synced write
 * into a written block costs half of one into a merely allocated block, whose
 * extent has to be converted first.  Small commits are what that is for, and
 * they must not queue behind the zeros; so these are written a piece at a time,
 * as the segment before fills, to be complete when three quarters of it are
 * used: then few commits meet a piece, and a broker that is idle writes none.
 * A writer that writes large frames, or is near its end, gets the segment as
 * it is: for large frames this matters little, and the zeros would compete
 * with them for the device.  On a network file system there are no zeros: they
 * are bytes to send, and what blocks are to the server is its own affair.
 *
 * No room is not an error here: publishing is refused, and other attempts
 * follow.  A writer that comes to the end of its segment meanwhile gets a small
 * one out of the reserve, for what makes room again: acknowledgements and
 * checkpoints.  Only when there is no room for that either, no_reserve goes
 * up, and the writer gives up.
 *
 * Others fill the disk too, and free it: it is looked at every WATCH_NS,
 * whether a segment is wanted or not. */
#include "journal/log/internal.h"

#define ZERO_PIECE_BYTES (256u * 1024u)
#define ZERO_PIECE_NS 2000000ull
#define RETRY_NS 250000000ull
#define WATCH_NS 1000000000ull
#define RESERVE_SEGMENT_BYTES (4u * 1024u * 1024u)

struct log_prepare {
	struct log *log;
	struct loop *loop;
	struct loop_mail request, reply, nudge, go_on;
	struct loop_timer timer, watch;
	uint64_t key, bytes;
	uint64_t from, to;     /* of the segment before */
	struct log_sink *sink; /* the writer's from the reply on */
	uint64_t zeroed;
	void *zeros;
	int err;
	bool asked;   /* journal thread */
	bool reserve; /* the sink is a small one */
	bool full;    /* the next segment is allocated, not from the reserve */
	bool denied;  /* one of full size, though there seemed to be room for
			 one: a quota */
	bool zeroing; /* the sink has not been answered with yet */
	_Atomic bool hurry, need, nudged, resumed;
	_Atomic uint64_t used;	    /* of the segment before */
	_Atomic uint64_t resume_at; /* when so much is: go on */
};

static bool prepare_is_space(int err)
{
	return err == -ENOSPC || err == -EDQUOT;
}

/* Whether the next segment fits, or has been made and leaves enough; says so
 * to publishers.  Publishing that has stopped wants a little more to go on,
 * so that it does not stop again at once. */
static int prepare_look(struct log_prepare *p)
{
	struct log_stats *stats = &p->log->stats;
	const struct log_options *o = &p->log->options;
	uint64_t total, more = p->full ? 0 : o->segment_bytes;
	struct io_fs fs;
	bool room;
	int err = io_fs_info(p->log->io, o->dir, &fs);

	if (err)
		return err;
	total = fs.bytes_used + fs.bytes_free;
	if (stats->disk_refusing)
		more += total / 100;
	room = fs.bytes_free >= more + o->reserve_bytes &&
	       fs.bytes_used + more <= total / 100 * o->disk_max_use_percent;
	stats->disk_total = total;
	stats->disk_free = fs.bytes_free;
	stats->disk_refusing = !room || p->denied;
	return room ? 0 : -ENOSPC;
}

static void prepare_answer(struct log_prepare *p, int err)
{
	p->zeroing = false;
	if (err && p->sink) {
		log_sink_abandon(p->log, p->sink);
		p->sink = NULL;
		p->full = false;
	}
	if (prepare_is_space(err)) {
		p->log->stats.disk_refusing = 1;
		loop_timer_set(p->loop, &p->timer, RETRY_NS);
		if (!p->reserve)
			return;
		p->log->no_reserve = 1;
		if (!atomic_exchange(&p->nudged, true))
			loop_post(p->log->loop, &p->nudge);
		return;
	}
	if (p->full)
		(void)prepare_look(p);
	p->log->no_reserve = 0;
	p->err = err;
	loop_post(p->log->loop, &p->reply);
}

/* That a shorter one can be had says nothing about one of full size. */
static int prepare_full(struct log_prepare *p, uint64_t key, uint64_t bytes,
			struct log_sink **ret)
{
	int err = log_sink_begin(p->log, key, bytes, ret);

	if (prepare_is_space(err))
		p->denied = true;
	else if (!err && bytes == p->log->options.segment_bytes)
		p->denied = false;
	return err;
}

static void prepare_begin(struct log_prepare *p)
{
	int err = prepare_look(p);

	p->reserve = false;
	if (!err) {
		err = prepare_full(p, p->key, p->bytes, &p->sink);
		p->full = !err;
	}
	if (prepare_is_space(err) && p->need) {
		p->reserve = true;
		p->log->stats.disk_refusing = 1;
		err = log_sink_begin(p->log, p->key,
				     base_min(p->bytes, RESERVE_SEGMENT_BYTES),
				     &p->sink);
	}
	if (err) {
		prepare_answer(p, err);
		return;
	}
	p->zeroed = IO_BLOCK;
	p->zeroing = true;
	loop_timer_set(p->loop, &p->timer, 0);
}

/* Where a quota decides, the file system's numbers say nothing, and only an
 * attempt tells; the one for the writer comes by itself.  A shorter one may be
 * waiting for its zeros under the present name, so it is not taken. */
static void prepare_probe(struct log_prepare *p)
{
	struct log_sink *sink;

	if (p->timer.heap_index ||
	    prepare_full(p, p->key + 1, p->log->options.segment_bytes, &sink))
		return;
	log_sink_abandon(p->log, sink);
}

/* An error here is left to whoever needs the directory next. */
static void prepare_watch(struct loop_timer *timer)
{
	struct log_prepare *p = container_of(timer, struct log_prepare, watch);

	if (p->denied)
		prepare_probe(p);
	(void)prepare_look(p);
	loop_timer_set(p->loop, &p->watch, WATCH_NS);
}

/* ---- zeros ---- */

/* How much of the segment before is to be used before the next piece. */
static uint64_t prepare_due_at(const struct log_prepare *p)
{
	return p->from + p->zeroed / IO_BLOCK * (p->to - p->from) /
				 (p->sink->header.bytes / IO_BLOCK);
}

static bool prepare_is_zeroed(const struct log_prepare *p)
{
	return p->hurry || p->log->network || !io_file_direct(p->sink->file) ||
	       p->zeroed == p->sink->header.bytes;
}

/* Who waits says so first and then looks; who makes progress does it the other
 * way round.  So one of them sees the other. */
static bool prepare_must_wait(struct log_prepare *p)
{
	uint64_t due_at = prepare_due_at(p);

	atomic_store(&p->resume_at, due_at);
	if (!p->hurry && atomic_load(&p->used) < due_at)
		return true;
	/* The mail may be on its way all the same: it does no harm. */
	atomic_store(&p->resume_at, UINT64_MAX);
	return false;
}

static void prepare_go_on(struct log_prepare *p)
{
	if (atomic_exchange(&p->resume_at, UINT64_MAX) != UINT64_MAX &&
	    !atomic_exchange(&p->resumed, true))
		loop_post(p->loop, &p->go_on);
}

void log_prepare_progress(struct log_prepare *p, uint64_t offset)
{
	atomic_store(&p->used, offset);
	if (offset >= atomic_load(&p->resume_at))
		prepare_go_on(p);
}

static void prepare_tick(struct loop_timer *timer)
{
	struct log_prepare *p = container_of(timer, struct log_prepare, timer);
	uint64_t len;
	int err;

	if (!p->sink) {
		prepare_begin(p);
		return;
	}
	if (prepare_is_zeroed(p)) {
		prepare_answer(p, log_sink_publish(p->log, p->sink));
		return;
	}
	if (prepare_must_wait(p))
		return;
	len = base_min(p->sink->header.bytes - p->zeroed, ZERO_PIECE_BYTES);
	err = log_sink_zero(p->sink, p->zeros, p->zeroed, len);
	if (err) {
		prepare_answer(p, err);
		return;
	}
	p->zeroed += len;
	loop_timer_set(p->loop, &p->timer, ZERO_PIECE_NS);
}

static void prepare_requested(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, request);

	p->full = false;
	prepare_begin(p);
}

static void prepare_resumed(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, go_on);

	p->resumed = false;
	if (p->zeroing && !p->timer.heap_index)
		loop_timer_set(p->loop, &p->timer, 0);
}

static void prepare_replied(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, reply);
	struct log_sink *sink = p->sink;

	p->sink = NULL;
	p->asked = false;
	log_writer_prepared(p->log, sink, p->err);
}

void log_prepare_ask(struct log_prepare *p, uint64_t key, uint64_t bytes,
		     uint64_t from, uint64_t to)
{
	ASSERT(!p->asked);
	p->asked = true;
	p->hurry = p->need = false;
	p->key = key;
	p->bytes = bytes;
	p->from = from;
	p->to = base_max(from, to);
	loop_post(p->loop, &p->request);
}

void log_prepare_hurry(struct log_prepare *p)
{
	p->hurry = true;
	prepare_go_on(p);
}

void log_prepare_need(struct log_prepare *p)
{
	p->need = true;
	log_prepare_hurry(p);
}

static void prepare_nudged(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, nudge);

	p->nudged = false;
	log_writer_nudge(p->log);
}

static void prepare_run(void *ctx)
{
	struct log_prepare *p = ctx;

	loop_timer_set(p->loop, &p->watch, WATCH_NS);
}

int log_prepare_create(struct log *log, struct log_prepare **ret)
{
	struct log_prepare *p = calloc(1, sizeof(*p));
	int err = -ENOMEM;

	if (!p)
		return -ENOMEM;
	p->log = log;
	p->request.deliver = prepare_requested;
	p->reply.deliver = prepare_replied;
	p->nudge.deliver = prepare_nudged;
	p->go_on.deliver = prepare_resumed;
	p->resume_at = UINT64_MAX;
	p->timer.fire = prepare_tick;
	p->watch.fire = prepare_watch;
	p->zeros = io_buffer_alloc(ZERO_PIECE_BYTES);
	if (!p->zeros)
		goto fail;
	err = loop_create(log->io, "log-prepare", &p->loop);
	if (err)
		goto fail;
	/* Publishers ask before the loop has had a turn. */
	err = prepare_look(p);
	if (!err || prepare_is_space(err))
		err = loop_start(p->loop, prepare_run, p);
	if (err)
		goto fail_loop;
	*ret = p;
	return 0;
fail_loop:
	loop_free(p->loop);
fail:
	io_buffer_free(p->zeros);
	free(p);
	return err;
}

void log_prepare_stop(struct log_prepare *p)
{
	if (!p)
		return;
	loop_stop(p->loop);
	loop_join(p->loop);
}

void log_prepare_free(struct log_prepare *p)
{
	if (!p)
		return;
	log_prepare_stop(p);
	loop_timer_cancel(p->loop, &p->timer);
	loop_timer_cancel(p->loop, &p->watch);
	loop_free(p->loop);
	/* A published segment that the writer never took stays; the next
	 * start finds that it is outside the history and removes it. */
	if (p->zeroing)
		log_sink_abandon(p->log, p->sink);
	else
		log_sink_close(p->sink);
	io_buffer_free(p->zeros);
	free(p);
}
