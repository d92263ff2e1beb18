/* journal/log/walk.c: finds the one history in a directory, without a key.
 *
 * The newest epoch with a valid EPOCH-START frame names its parent and the
 * cut, and so on down; an epoch that never got its EPOCH-START durable has
 * acknowledged nothing and is skipped.  The history is then read upwards.  In
 * each epoch but the last it must reach the cut exactly.  In the last, it
 * ends before the first frame that is not valid or does not continue the
 * chain: the cut that the next EPOCH-START will name.
 *
 * Torn or damaged?  A frame says in durable_lsn what had been acknowledged
 * when it was built.  So everything behind the end is searched for frames,
 * and one that knows of a later LSN proves that acknowledged data is missing:
 * -E_LOST, and nothing is changed.  An unfinished write can only be one of
 * the LOG_IN_FLIGHT_MAX frames that no later frame vouches for.
 *
 * Files get their name only when their header is durable, and their full size
 * with it.  So a bad header or a short file is damage as well. */
#include <stdarg.h>

#include "journal/log/internal.h"

#define FIRST_FRAME_OFFSET IO_BLOCK
#define SCAN_BYTES_FIRST (64u * 1024u)

static int walk_lost(struct log_walk *w, const char *format, ...)
	PRINTF_LIKE(2, 3);

static int walk_lost(struct log_walk *w, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(w->why, sizeof(w->why), format, args);
	va_end(args);
	return -E_LOST;
}

/* An error that says nothing about the data. */
static int walk_failed(struct log_walk *w, const char *path, int err)
{
	if (err && err != -E_LOST)
		snprintf(w->why, sizeof(w->why), "cannot read %.400s (%s)",
			 path, err_str(err));
	return err;
}

/* ---- one file ---- */

int log_scan_open(struct log_scan *s, struct io *io, const char *dir,
		  const uint8_t *cluster_id, uint64_t key, bool sync_first)
{
	int err;

	memset(s, 0, sizeof(*s));
	s->io = io;
	s->key = key;
	s->cluster_id = cluster_id;
	log_segment_path(dir, key, s->path);
	err = io_open(io, s->path, IO_READ | IO_DIRECT, &s->file);
	if (err)
		return err;
	if (sync_first)
		err = io_sync(s->file);
	if (!err)
		err = io_size(s->file, &s->size);
	if (err)
		log_scan_close(s);
	return err;
}

void log_scan_close(struct log_scan *s)
{
	io_close(s->file);
	io_buffer_free(s->window);
	s->file = NULL;
	s->window = NULL;
}

/* A first look at a file is often the only one, so the window starts small. */
static int scan_window(struct log_scan *s, uint64_t want)
{
	size_t most = s->window_max ? s->window_max : LOG_SCAN_BYTES;
	size_t bytes =
		s->window || want > SCAN_BYTES_FIRST ? most : SCAN_BYTES_FIRST;

	bytes = base_min(bytes, base_round_up(s->size + 1, IO_BLOCK));
	if (s->window_bytes >= bytes)
		return 0;
	io_buffer_free(s->window);
	s->window_bytes = s->window_len = 0;
	s->window = io_buffer_alloc(bytes);
	if (!s->window)
		return -ENOMEM;
	s->window_bytes = bytes;
	return 0;
}

/* Makes `want` bytes at offset visible, fewer at the end of the file. */
static int scan_fill(struct log_scan *s, uint64_t offset, uint64_t want,
		     const uint8_t **ret, uint64_t *ret_len)
{
	size_t len;
	int err;

	want = offset < s->size ? base_min(want, s->size - offset) : 0;
	if (!s->window || offset < s->window_offset ||
	    offset + want > s->window_offset + s->window_len) {
		err = scan_window(s, want);
		if (err)
			return err;
		s->window_len = 0;
		err = io_read(s->file, s->window,
			      s->narrow ? base_round_up(want, IO_BLOCK)
					: s->window_bytes,
			      offset, &len);
		if (err)
			return err;
		s->window_offset = offset;
		s->window_len = len;
	}
	*ret = s->window + (offset - s->window_offset);
	*ret_len = base_min(want, s->window_offset + s->window_len - offset);
	return 0;
}

static int scan_header(struct log_scan *s, uint64_t offset,
		       struct log_frame *ret, const uint8_t **ret_raw)
{
	struct log_frame f;
	uint64_t len;
	int err = scan_fill(s, offset, IO_BLOCK, ret_raw, &len);

	if (err)
		return err;
	if (len < IO_BLOCK)
		return -E_CORRUPT;
	err = log_frame_decode(*ret_raw, &f);
	if (err)
		return err;
	if (f.segment != s->key || f.offset != offset ||
	    memcmp(f.cluster_id, s->cluster_id, LOG_ID_BYTES) != 0)
		return -E_CORRUPT;
	*ret = f;
	return 0;
}

static int scan_frame(struct log_scan *s, uint64_t offset,
		      struct log_frame *ret, const uint8_t **ret_raw)
{
	struct log_frame f;
	const uint8_t *raw;
	uint64_t len;
	int err = scan_header(s, offset, &f, &raw);

	if (err)
		return err;
	err = scan_fill(s, offset, f.stored_len, &raw, &len);
	if (err)
		return err;
	if (len < f.stored_len)
		return -E_CORRUPT;
	err = log_frame_check_payload(raw, &f);
	if (err)
		return err;
	*ret = f;
	*ret_raw = raw;
	return 0;
}

int log_scan_frame(struct log_scan *s, uint64_t offset, struct log_frame *ret,
		   const uint8_t **ret_raw)
{
	int err = scan_frame(s, offset, ret, ret_raw);

	/* The history may be cut here, so a bit that only flipped on its way
	 * gets a second chance. */
	if (err == -E_CORRUPT) {
		bool narrow = s->narrow;

		/* Mostly it is the end of the log, so no more than a frame. */
		s->window_len = 0;
		s->narrow = true;
		err = scan_frame(s, offset, ret, ret_raw);
		s->narrow = narrow;
	}
	return err;
}

int log_scan_find_below(struct log_scan *s, uint64_t offset, uint64_t end,
			struct log_frame *ret)
{
	end = base_min(end, s->size);
	for (; offset < end; offset += IO_BLOCK) {
		const uint8_t *raw;
		int err = scan_header(s, offset, ret, &raw);

		if (err != -E_CORRUPT)
			return err;
	}
	return -ENOENT;
}

int log_scan_find(struct log_scan *s, uint64_t offset, struct log_frame *ret)
{
	return log_scan_find_below(s, offset, s->size, ret);
}

/* ---- what is there ---- */

static int walk_collect(void *ctx, const char *name)
{
	struct log_walk *w = ctx;
	uint64_t key;

	if (!log_segment_parse_name(name, &key))
		return 0;
	if (w->below_epoch && key >> 32 >= w->below_epoch)
		return 0;
	if (w->segment_count == w->segment_capacity) {
		size_t capacity = base_max(64, w->segment_capacity * 2);
		void *p = realloc(w->segments, capacity * sizeof(*w->segments));

		if (!p)
			return -ENOMEM;
		w->segments = p;
		w->segment_capacity = capacity;
	}
	memset(&w->segments[w->segment_count], 0, sizeof(*w->segments));
	w->segments[w->segment_count++].key = key;
	return 0;
}

static bool walk_is_blank(const uint8_t *raw, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		if (raw[i])
			return false;
	return len == IO_BLOCK;
}

int log_scan_segment_header(struct log_scan *s, struct log_segment_header *ret)
{
	struct log_segment_header h;
	const uint8_t *raw;
	uint64_t len;
	int err = scan_fill(s, 0, IO_BLOCK, &raw, &len);

	if (err)
		return err;
	if (len < IO_BLOCK)
		return -E_CORRUPT;
	err = log_segment_header_decode(raw, &h);
	if (err)
		return err;
	/* What was read is worth telling even of a file that is too short. */
	*ret = h;
	if (h.key != s->key || s->size < h.bytes ||
	    memcmp(h.cluster_id, s->cluster_id, LOG_ID_BYTES) != 0)
		return -E_CORRUPT;
	return 0;
}

/* Header, size, and the first LSN where the first frame tells it. */
static int walk_read_header(struct log_walk *w, struct log_walk_segment *seg)
{
	struct log_scan scan;
	struct log_frame f;
	const uint8_t *raw;
	uint64_t len;
	int err = log_scan_open(&scan, w->io, w->dir, w->cluster_id, seg->key,
				w->sync_first && seg->key >= w->from_key);

	if (err)
		return walk_failed(w, scan.path, err);
	seg->size = scan.size;
	err = log_scan_segment_header(&scan, &seg->header);
	if (err && err != -E_CORRUPT && err != -E_VERSION)
		goto out;
	seg->header_err = err;
	err = scan_header(&scan, FIRST_FRAME_OFFSET, &f, &raw);
	if (!err)
		seg->first_lsn = seg->end_lsn = f.first_lsn;
	if (err == -E_CORRUPT || err == -E_VERSION) {
		err = scan_fill(&scan, FIRST_FRAME_OFFSET, IO_BLOCK, &raw,
				&len);
		seg->blank = !err && walk_is_blank(raw, len);
	}
out:
	log_scan_close(&scan);
	return walk_failed(w, scan.path, err);
}

int log_walk_list(struct log_walk *w)
{
	char path[LOG_PATH_BYTES];
	int err;

	log_path(path, w->dir, "segments");
	/* What a crash left in the directory is made durable before it is
	 * believed. */
	err = w->sync_first ? io_sync_dir(w->io, path) : 0;
	if (!err)
		err = io_list(w->io, path, walk_collect, w);
	if (err)
		return walk_failed(w, path, err);
	for (size_t i = 0; !err && i < w->segment_count; i++)
		err = walk_read_header(w, &w->segments[i]);
	return err;
}

static uint32_t walk_epoch_of(const struct log_walk *w, size_t i)
{
	return (uint32_t)(w->segments[i].key >> 32);
}

/* Index of the first segment of epoch or later. */
static size_t walk_first_of(const struct log_walk *w, uint32_t epoch)
{
	size_t i = 0;

	while (i < w->segment_count && walk_epoch_of(w, i) < epoch)
		i++;
	return i;
}

/* ---- down: epochs ---- */

/* The first valid frame header of an epoch, from offset in its first segment
 * on; -ENOENT when there is none. */
static int walk_find_in_epoch(struct log_walk *w, uint32_t epoch,
			      uint64_t offset, struct log_frame *ret)
{
	int err = -ENOENT;

	for (size_t i = walk_first_of(w, epoch);
	     err == -ENOENT && i < w->segment_count &&
	     walk_epoch_of(w, i) == epoch;
	     i++) {
		struct log_scan scan;

		err = log_scan_open(&scan, w->io, w->dir, w->cluster_id,
				    w->segments[i].key, false);
		if (!err)
			err = log_scan_find(&scan, offset, ret);
		if (err != -ENOENT)
			walk_failed(w, scan.path, err);
		log_scan_close(&scan);
		offset = FIRST_FRAME_OFFSET;
	}
	return err;
}

/* Whether epoch began: 1 with its first frame, 0 when it never did. */
static int walk_epoch_begin(struct log_walk *w, uint32_t epoch,
			    struct log_frame *ret)
{
	size_t i = walk_first_of(w, epoch);
	struct log_scan scan;
	struct log_frame f;
	const uint8_t *raw;
	int err;

	if (w->segments[i].header_err) {
		log_segment_path(w->dir, w->segments[i].key, scan.path);
		return walk_lost(w,
				 "%s: the header is damaged or the file was "
				 "cut short; restore the file from a backup or "
				 "a peer",
				 scan.path);
	}
	err = log_scan_open(&scan, w->io, w->dir, w->cluster_id,
			    w->segments[i].key, false);
	if (err)
		return walk_failed(w, scan.path, err);
	err = log_scan_frame(&scan, FIRST_FRAME_OFFSET, ret, &raw);
	log_scan_close(&scan);
	if (!err)
		return 1;
	if (err != -E_CORRUPT)
		return walk_failed(w, scan.path, err);
	/* Nothing is appended before EPOCH-START is acknowledged, so any
	 * other frame of the epoch proves that it was. */
	err = walk_find_in_epoch(w, epoch, FIRST_FRAME_OFFSET + IO_BLOCK, &f);
	if (err == -ENOENT)
		return 0;
	if (err)
		return err;
	log_segment_path(w->dir, w->segments[i].key, scan.path);
	return walk_lost(w,
			 "%s: the frame at offset %u, with which epoch %u "
			 "begins, is damaged, and LSN %llu was written after "
			 "it; restore the file from a backup or a peer",
			 scan.path, FIRST_FRAME_OFFSET, (unsigned)epoch,
			 (unsigned long long)f.first_lsn);
}

static int walk_push_epoch(struct log_walk *w, const struct log_walk_epoch *e)
{
	void *p = realloc(w->epochs, (w->epoch_count + 1) * sizeof(*w->epochs));

	if (!p)
		return -ENOMEM;
	w->epochs = p;
	memmove(w->epochs + 1, w->epochs, w->epoch_count * sizeof(*w->epochs));
	w->epochs[0] = *e;
	w->epoch_count++;
	return 0;
}

static int walk_stray(struct log_walk *w, const struct log_position *from)
{
	return walk_lost(w,
			 "the checkpoint ends at LSN %llu in segment "
			 "%08x-%08x, which is not part of the history in "
			 "%s/segments: files are missing or from elsewhere",
			 (unsigned long long)from->lsn,
			 (unsigned)(from->segment >> 32),
			 (unsigned)from->segment, w->dir);
}

static int walk_headless(struct log_walk *w, uint32_t epoch)
{
	return walk_lost(w,
			 "the records before epoch %u have been dropped from "
			 "%s/segments, and there is no checkpoint that stands "
			 "for them: restore the checkpoint from a backup",
			 (unsigned)epoch, w->dir);
}

/* The highest epoch at or below `epoch` with segments; 0: none. */
static uint32_t walk_epoch_at_most(const struct log_walk *w, uint32_t epoch)
{
	for (size_t i = w->segment_count; i-- > 0;)
		if (walk_epoch_of(w, i) <= epoch)
			return walk_epoch_of(w, i);
	return 0;
}

/* Fills w->epochs from the newest down to where reading starts. */
static int walk_path(struct log_walk *w, const struct log_position *from)
{
	uint32_t from_epoch = from ? (uint32_t)(from->segment >> 32) : 0;
	struct log_walk_epoch e = {0};
	uint32_t epoch = walk_epoch_at_most(w, UINT32_MAX);

	while (epoch) {
		struct log_frame f;
		int begun;

		e.epoch = epoch;
		e.parent = 0;
		if (epoch == from_epoch)
			return walk_push_epoch(w, &e);
		if (epoch < from_epoch)
			return walk_stray(w, from);
		begun = walk_epoch_begin(w, epoch, &f);
		if (begun < 0)
			return begun;
		if (!begun) {
			if (e.limited)
				return walk_lost(
					w,
					"epoch %u goes on from epoch %u, of "
					"which no frame is left in "
					"%s/segments",
					(unsigned)w->epochs[0].epoch,
					(unsigned)epoch, w->dir);
			epoch = walk_epoch_at_most(w, epoch - 1);
			continue;
		}
		if (!(f.flags & LOG_FRAME_EPOCH_START)) {
			/* Its beginning was dropped: only a checkpoint can
			 * stand for what was before. */
			if (from)
				return walk_stray(w, from);
			if (walk_first_of(w, epoch))
				return walk_headless(w, epoch);
			return walk_push_epoch(w, &e);
		}
		e.parent = f.parent_epoch;
		if (walk_push_epoch(w, &e))
			return -ENOMEM;
		if (from && f.first_lsn == from->lsn &&
		    !memcmp(f.prev_chain, from->chain, LOG_CHAIN_BYTES))
			return 0;
		if (from && f.first_lsn <= from->lsn)
			return walk_stray(w, from);
		if (!f.parent_epoch)
			return from ? walk_stray(w, from) : 0;
		if (f.parent_epoch >= epoch)
			return walk_lost(w, "epoch %u names %u as its parent",
					 (unsigned)epoch,
					 (unsigned)f.parent_epoch);
		e.limited = true;
		e.cut_lsn = f.first_lsn;
		memcpy(e.cut_chain, f.prev_chain, LOG_CHAIN_BYTES);
		/* A parent whose segments have all been dropped needs none. */
		if (walk_epoch_at_most(w, f.parent_epoch) != f.parent_epoch) {
			if (from)
				return walk_stray(w, from);
			return walk_first_of(w, epoch) ? walk_headless(w, epoch)
						       : 0;
		}
		epoch = f.parent_epoch;
	}
	return from ? walk_stray(w, from) : 0;
}

/* ---- up: frames ---- */

static bool walk_continues(const struct log_walk *w, const struct log_frame *f)
{
	if (!w->any)
		return true;
	return f->first_lsn == w->end.lsn &&
	       !memcmp(f->prev_chain, w->end.chain, LOG_CHAIN_BYTES);
}

static int walk_damaged(struct log_walk *w, const char *path, uint64_t offset,
			const char *proof)
{
	return walk_lost(w,
			 "%s: acknowledged data is damaged at offset %llu, "
			 "from LSN %llu on: %s; restore the file from a backup "
			 "or a peer",
			 path, (unsigned long long)offset,
			 (unsigned long long)w->end.lsn, proof);
}

/* One valid frame of the history. */
static int walk_take(struct log_walk *w, struct log_walk_segment *seg,
		     const struct log_scan *scan, const struct log_frame *f,
		     const uint8_t *raw)
{
	int err = 0;

	if (!seg->used || seg->first_lsn > f->first_lsn)
		seg->first_lsn = f->first_lsn;
	seg->used = true;
	if (w->each_frame)
		err = w->each_frame(w->ctx, seg, f, raw);
	if (err == -E_CORRUPT)
		return walk_damaged(w, scan->path, f->offset,
				    "its checksums are right but it does not "
				    "decrypt");
	if (err)
		return err;
	w->any = true;
	w->end.segment = seg->key;
	w->end.offset = f->offset + f->stored_len;
	w->end.lsn = f->first_lsn + f->record_count;
	memcpy(w->end.chain, f->chain, LOG_CHAIN_BYTES);
	seg->end_lsn = w->end.lsn;
	return 0;
}

static bool walk_at_limit(const struct log_walk *w,
			  const struct log_walk_epoch *e)
{
	return e->limited && w->any && w->end.lsn == e->cut_lsn &&
	       !memcmp(w->end.chain, e->cut_chain, LOG_CHAIN_BYTES);
}

/* Reads one segment from offset as far as it continues the history. */
static int walk_segment(struct log_walk *w, const struct log_walk_epoch *e,
			struct log_walk_segment *seg, uint64_t offset)
{
	struct log_scan scan;
	struct log_frame f;
	const uint8_t *raw;
	int err;

	if (seg->header_err) {
		log_segment_path(w->dir, seg->key, scan.path);
		return walk_lost(w,
				 "%s: the header is damaged or the file was "
				 "cut short; restore the file from a backup or "
				 "a peer",
				 scan.path);
	}
	err = log_scan_open(&scan, w->io, w->dir, w->cluster_id, seg->key,
			    false);
	if (err)
		return walk_failed(w, scan.path, err);
	while (!walk_at_limit(w, e)) {
		err = log_scan_frame(&scan, offset, &f, &raw);
		if (!err && (!walk_continues(w, &f) ||
			     memcmp(f.key_id, seg->header.key_id,
				    CRYPTO_KEY_ID_BYTES) != 0))
			err = -E_CORRUPT;
		if (err == -E_CORRUPT) {
			err = 0;
			break;
		}
		if (err) {
			walk_failed(w, scan.path, err);
			break;
		}
		offset += f.stored_len;
		err = walk_take(w, seg, &scan, &f, raw);
		if (err)
			break;
	}
	log_scan_close(&scan);
	return err;
}

/* Looks for proof that what does not follow w->end was acknowledged: in
 * segment i from offset on, then in the rest of the epoch. */
static int walk_seek_proof(struct log_walk *w, size_t i, uint64_t offset)
{
	uint32_t epoch = walk_epoch_of(w, i);
	size_t first = i;
	int err = 0;

	for (; i < w->segment_count && walk_epoch_of(w, i) == epoch; i++) {
		struct log_scan scan;
		struct log_frame f;
		char path[LOG_PATH_BYTES];

		log_segment_path(w->dir, w->segments[first].key, path);
		if (w->segments[i].header_err) {
			log_segment_path(w->dir, w->segments[i].key, path);
			return walk_damaged(w, path, 0, "its header is bad");
		}
		err = log_scan_open(&scan, w->io, w->dir, w->cluster_id,
				    w->segments[i].key, false);
		if (err)
			return walk_failed(w, scan.path, err);
		while (!(err = log_scan_find(&scan, offset, &f))) {
			w->torn = true;
			if (f.durable_lsn > w->end.lsn)
				break;
			offset = f.offset + IO_BLOCK;
		}
		log_scan_close(&scan);
		if (!err)
			return walk_damaged(w, path, w->end.offset,
					    "a later frame vouches for more");
		if (err != -ENOENT)
			return walk_failed(w, scan.path, err);
		offset = FIRST_FRAME_OFFSET;
	}
	return 0;
}

/* A mutant's: what lies behind the cut is taken for history, too. */
static int walk_past_cut(struct log_walk *w, struct log_walk_segment *seg)
{
	struct log_walk_epoch unlimited = {0};
	struct log_position cut = w->end;
	int err = seg->key == cut.segment
			  ? walk_segment(w, &unlimited, seg, cut.offset)
			  : 0;

	w->end = cut;
	return err;
}

/* Reads one epoch from segment *i, offset on; leaves *i at its end. */
static int walk_epoch(struct log_walk *w, const struct log_walk_epoch *e,
		      size_t i, uint64_t offset)
{
	size_t end = i, last = i;
	int err = 0;

	while (end < w->segment_count && walk_epoch_of(w, end) == e->epoch)
		end++;
	for (; i < end && !walk_at_limit(w, e); i++) {
		err = walk_segment(w, e, &w->segments[i], offset);
		if (err)
			return err;
		offset = FIRST_FRAME_OFFSET;
		/* The writer uses segments in order: one that adds nothing is
		 * where the epoch ends. */
		if (!w->segments[i].used)
			break;
		last = i;
	}
	if (e->limited) {
		char path[LOG_PATH_BYTES];

		if (walk_at_limit(w, e))
			return MUTANT(PAST_CUT)
				       ? walk_past_cut(w, &w->segments[last])
				       : 0;
		log_segment_path(w->dir, w->segments[last].key, path);
		return walk_damaged(w, path, w->end.offset,
				    "a later epoch goes on from further "
				    "ahead");
	}
	if (last >= end)
		return 0;
	return walk_seek_proof(w, last,
			       w->segments[last].key == w->end.segment
				       ? w->end.offset
				       : FIRST_FRAME_OFFSET);
}

/* Everything before the starting point is taken to be part of the history but
 * what was prepared and never used: what cannot be read may still hold what
 * is needed, and is not for us to delete. */
static void walk_mark_older(struct log_walk *w, size_t start)
{
	for (size_t i = 0; i < start; i++) {
		struct log_walk_segment *seg = &w->segments[i];

		seg->used = !seg->blank || seg->header_err;
		for (size_t next = i + 1; next < w->segment_count; next++)
			if (w->segments[next].first_lsn) {
				seg->end_lsn =
					base_max(seg->first_lsn,
						 w->segments[next].first_lsn);
				break;
			}
	}
}

int log_walk_run(struct log_walk *w, const struct log_position *from)
{
	size_t start;
	int err;

	if (from && !from->segment)
		from = NULL;
	w->from_key = from ? from->segment : 0;
	err = log_walk_list(w);
	if (err)
		return err;
	err = walk_path(w, from);
	if (err)
		return err;
	if (from) {
		w->end = *from;
		w->any = true;
	}
	for (size_t n = 0; n < w->epoch_count; n++) {
		const struct log_walk_epoch *e = &w->epochs[n];
		uint64_t offset = FIRST_FRAME_OFFSET;
		size_t i = walk_first_of(w, e->epoch);

		if (!n && from) {
			while (i < w->segment_count &&
			       w->segments[i].key < from->segment)
				i++;
			if (i < w->segment_count &&
			    w->segments[i].key == from->segment) {
				offset = from->offset;
				w->segments[i].used = true;
				w->segments[i].end_lsn = from->lsn;
			} else if (i == w->segment_count ||
				   w->segments[i].first_lsn != from->lsn) {
				/* Dropped, then, and that happens only once
				 * its successor holds committed frames. */
				return walk_stray(w, from);
			}
		}
		start = i;
		err = walk_epoch(w, e, i, offset);
		if (err)
			return err;
		if (!n && from && !w->segments[start].used)
			return walk_stray(w, from);
		if (!n)
			walk_mark_older(w, start);
	}
	return 0;
}

void log_walk_fini(struct log_walk *w)
{
	free(w->segments);
	free(w->epochs);
}
