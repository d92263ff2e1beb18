/* journal/log/prepare.c: makes the next segment ahead of time, on a thread of
 * its own, because allocation, syncs and a rename take milliseconds that no
 * commit should wait for.
 *
 * Between creation and publication it fills the file with zeros, a piece at a
 * time and not faster than a piece every ZERO_PIECE_NS, so that a small commit
 * does not have to queue behind a large write: a synced write into a
 * written block costs half of one into a merely allocated block, whose extent
 * has to be converted first.  A writer that writes large frames, or is near
 * its end, gets the segment as it is: for large frames this matters little,
 * and the zeros would compete with them for the device.
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
	struct loop_mail request, reply, nudge;
	struct loop_timer timer, watch;
	uint64_t key;
	struct log_sink *sink; /* the writer's from the reply on */
	uint64_t zeroed;
	void *zeros;
	int err;
	bool asked;   /* journal thread */
	bool reserve; /* the sink is a small one */
	bool full;    /* the next segment is allocated, in full size */
	bool denied;  /* that failed, though there seemed to be room: a quota */
	_Atomic bool hurry, need, nudged;
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

static int prepare_full(struct log_prepare *p, struct log_sink **ret)
{
	int err = log_sink_begin(p->log, p->key, p->log->options.segment_bytes,
				 ret);

	p->denied = prepare_is_space(err);
	return err;
}

static void prepare_begin(struct log_prepare *p)
{
	int err = prepare_look(p);

	p->reserve = false;
	if (!err) {
		err = prepare_full(p, &p->sink);
		p->full = !err;
	}
	if (prepare_is_space(err) && p->need) {
		p->reserve = true;
		p->log->stats.disk_refusing = 1;
		err = log_sink_begin(p->log, p->key,
				     base_min(p->log->options.segment_bytes,
					      RESERVE_SEGMENT_BYTES),
				     &p->sink);
	}
	if (err) {
		prepare_answer(p, err);
		return;
	}
	p->zeroed = IO_BLOCK;
	loop_timer_set(p->loop, &p->timer, 0);
}

/* Where a quota decides, the file system's numbers say nothing, and only an
 * attempt tells; the one for the writer comes by itself. */
static void prepare_probe(struct log_prepare *p)
{
	struct log_sink *sink;

	if (p->timer.heap_index || prepare_full(p, &sink))
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

static void prepare_tick(struct loop_timer *timer)
{
	struct log_prepare *p = container_of(timer, struct log_prepare, timer);
	uint64_t left;
	int err;

	if (!p->sink) {
		prepare_begin(p);
		return;
	}
	left = p->sink->header.bytes - p->zeroed;
	if (p->hurry || !left || !io_file_direct(p->sink->file)) {
		prepare_answer(p, log_sink_publish(p->log, p->sink));
		return;
	}
	left = base_min(left, ZERO_PIECE_BYTES);
	err = log_sink_zero(p->sink, p->zeros, p->zeroed, left);
	if (err) {
		prepare_answer(p, err);
		return;
	}
	p->zeroed += left;
	loop_timer_set(p->loop, &p->timer, ZERO_PIECE_NS);
}

static void prepare_requested(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, request);

	p->full = false;
	prepare_begin(p);
}

static void prepare_replied(struct loop_mail *mail)
{
	struct log_prepare *p = container_of(mail, struct log_prepare, reply);
	struct log_sink *sink = p->sink;

	p->sink = NULL;
	p->asked = false;
	log_writer_prepared(p->log, sink, p->err);
}

void log_prepare_ask(struct log_prepare *p, uint64_t key)
{
	ASSERT(!p->asked);
	p->asked = true;
	p->hurry = p->need = false;
	p->key = key;
	loop_post(p->loop, &p->request);
}

void log_prepare_hurry(struct log_prepare *p)
{
	p->hurry = true;
}

void log_prepare_need(struct log_prepare *p)
{
	p->hurry = true;
	p->need = true;
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

void log_prepare_free(struct log_prepare *p)
{
	if (!p)
		return;
	loop_stop(p->loop);
	loop_join(p->loop);
	loop_timer_cancel(p->loop, &p->timer);
	loop_timer_cancel(p->loop, &p->watch);
	loop_free(p->loop);
	/* A published segment that the writer never took stays; the next
	 * start finds that it is outside the history and removes it. */
	log_sink_close(p->sink);
	io_buffer_free(p->zeros);
	free(p);
}
