/* journal/log/rotate.c: from one segment to the next.
 *
 * Segments of an epoch begin small and double.  A start makes the first one by
 * itself, with zeros in all of it, and that is to be quick.  While one is
 * written the next is made, and its zeros are written at the pace at which this
 * one fills (prepare.c); so none may be much larger than the one before. */
#include "journal/log/writer.h"

#define LARGE_FRAME_BYTES (192u * 1024u)
#define FIRST_SEGMENT_BYTES (8u * 1024u * 1024u)

void log_rotate_unref(struct log_sink *sink)
{
	if (sink->rotated && !sink->in_flight)
		log_sink_close(sink);
}

static bool rotate_is_near(const struct log_writer *w)
{
	uint64_t bytes = w->sink->header.bytes;

	return bytes - w->offset < base_max(bytes / 8, 2 * LOG_FRAME_BYTES_MAX);
}

/* The short ones of the beginning have it asked for at once. */
static bool rotate_is_time(const struct log_writer *w)
{
	uint64_t bytes = w->sink->header.bytes;

	return w->offset >= bytes / 4 || bytes < w->log->options.segment_bytes;
}

void log_rotate_ask(struct log_writer *w)
{
	struct log_prepare *p = w->log->prepare;
	uint64_t bytes = w->sink->header.bytes;

	if (w->next_state == NEXT_NONE && rotate_is_time(w)) {
		w->next_state = NEXT_ASKED;
		log_prepare_ask(
			p, log_segment_key(w->log->epoch, w->next_sequence++),
			base_min(2 * bytes, w->log->options.segment_bytes),
			w->offset, bytes / 4 * 3);
	}
	if (w->next_state != NEXT_ASKED)
		return;
	/* Zeros are written for the sake of small frames; under large ones
	 * they would only take bandwidth that the frames need. */
	if (w->frame_bytes >= LARGE_FRAME_BYTES)
		log_prepare_hurry(p);
	if (rotate_is_near(w))
		log_prepare_need(p);
}

bool log_rotate_is_due(const struct log_writer *w)
{
	switch (w->next_state) {
	case NEXT_NONE:
		return rotate_is_time(w);
	case NEXT_ASKED:
		return rotate_is_near(w);
	case NEXT_READY:
		break;
	}
	return false;
}

static int rotate_use(struct log_writer *w, struct log_sink *sink)
{
	int err = log_segment_register(w->log, &sink->header, w->next_lsn, 0,
				       true, false);

	if (err)
		return err;
	if (w->sink) {
		w->sink->rotated = true;
		log_rotate_unref(w->sink);
	}
	w->sink = sink;
	w->offset = IO_BLOCK;
	return 0;
}

int log_rotate_room(struct log_writer *w, uint64_t bytes)
{
	int err;

	if (bytes <= log_build_room(w, LOG_FRAME_BYTES_MAX))
		return 1;
	if (w->next_state == NEXT_READY) {
		err = rotate_use(w, w->next);
		if (err)
			return err;
		w->next = NULL;
		w->next_state = NEXT_NONE;
		return 1;
	}
	return w->log->no_reserve ? -ENOSPC : 0;
}

static bool is_network(const struct log *log)
{
	struct io_fs fs;

	return !io_fs_info(log->io, log->options.dir, &fs) && fs.network;
}

int log_rotate_start(struct log_writer *w)
{
	struct log *log = w->log;
	uint64_t bytes =
		base_min(log->options.segment_bytes, FIRST_SEGMENT_BYTES);
	uint64_t key = log_segment_key(log->epoch, w->next_sequence++);
	struct log_sink *sink;
	int err;

	log->network = is_network(log);
	err = log_sink_begin(log, key, bytes, &sink);
	while ((err == -ENOSPC || err == -EDQUOT) &&
	       bytes / 2 >= LOG_SEGMENT_BYTES_MIN) {
		bytes = bytes / 2 & ~(uint64_t)(IO_BLOCK - 1);
		err = log_sink_begin(log, key, bytes, &sink);
	}
	if (err)
		return err;
	memset(w->plain, 0, LOG_FRAME_BYTES_MAX);
	/* Zeros would be bytes to send before anybody is served, and what
	 * blocks are to a server is its own affair. */
	for (uint64_t at = IO_BLOCK; !log->network && !err && at < bytes;) {
		uint64_t len = base_min(LOG_FRAME_BYTES_MAX, bytes - at);

		err = log_sink_zero(sink, w->plain, at, len);
		at += len;
	}
	if (!err)
		err = log_sink_publish(log, sink);
	if (!err)
		err = rotate_use(w, sink);
	if (err)
		log_sink_abandon(log, sink);
	return err;
}
