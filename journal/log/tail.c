/* journal/log/tail.c: what another process appends, read as it does so.
 *
 * A frame is delivered once a later one vouches for it: durable_lsn says what
 * its writer had acknowledged when it was built, and an idle mark follows the
 * last commit within milliseconds.  So nothing is delivered that a later
 * leader's cut could leave out.  At most LOG_IN_FLIGHT_MAX frames are built
 * beyond what is acknowledged; that many are held here until then.
 *
 * Every step begins again behind the last frame that was delivered, so that
 * what was only held is looked for anew: a frame without a voucher may belong
 * to a leader that was deposed, and its place in the history to another's.
 * Frames that such a leader has written beyond the cut are read, and left,
 * when the EPOCH-START is met that names the cut.
 *
 * Nothing is locked or written.  Files go while they are read: what was not
 * read in time is in a checkpoint, and the caller begins again with that. */
#include "journal/log/internal.h"

#define FIRST_FRAME_OFFSET IO_BLOCK
#define HELD_COUNT_MAX (LOG_IN_FLIGHT_MAX + 1)

struct tail_held {
	struct log_segment_header header;
	struct log_frame frame;
	uint8_t *raw; /* LOG_FRAME_BYTES_MAX; NULL until it is needed */
};

struct log_tail {
	struct log *log;
	struct log_position at; /* behind what was delivered */
	uint64_t seen_lsn;	/* end of the last frame met */
	/* Of one step: where an epoch ends, as its successor says; 0: not
	 * known. */
	uint32_t cut_epoch;
	uint64_t cut_lsn;
	struct log_opener opener;
	struct tail_held held[HELD_COUNT_MAX]; /* a ring */
	unsigned held_head, held_count;
	/* The segment being read; key 0: none. */
	struct log_scan scan;
	struct log_segment_header header;
	uint64_t open;
	/* Of one listing, in order. */
	uint64_t *keys;
	size_t key_count, key_capacity;
};

int log_tail_create(struct log *log, const struct log_position *from,
		    struct log_tail **ret)
{
	struct log_tail *t = calloc(1, sizeof(*t));
	int err = t ? log_opener_init(&t->opener, log) : -ENOMEM;

	if (err) {
		free(t);
		return err;
	}
	t->log = log;
	if (from)
		t->at = *from;
	if (!t->at.segment)
		t->at.lsn = 1; /* and a chain of zeros */
	t->seen_lsn = t->at.lsn;
	*ret = t;
	return 0;
}

static void tail_close(struct log_tail *t)
{
	if (t->open)
		log_scan_close(&t->scan);
	t->open = 0;
}

void log_tail_free(struct log_tail *t)
{
	if (!t)
		return;
	tail_close(t);
	for (unsigned i = 0; i < HELD_COUNT_MAX; i++)
		io_buffer_free(t->held[i].raw);
	log_opener_fini(&t->opener);
	free(t->keys);
	free(t);
}

const struct log_position *log_tail_position(const struct log_tail *t)
{
	return &t->at;
}

uint64_t log_tail_seen_lsn(const struct log_tail *t)
{
	return t->seen_lsn;
}

/* ---- files ---- */

static int tail_open(struct log_tail *t, uint64_t key)
{
	struct log *log = t->log;
	int err;

	if (t->open == key)
		return 0;
	tail_close(t);
	err = log_scan_open(&t->scan, log->io, log->options.dir,
			    log->cluster_id, key, false);
	if (err)
		return err;
	t->open = key;
	t->scan.window_max = LOG_FRAME_BYTES_MAX;
	/* Where nothing new is to be expected, one block tells. */
	t->scan.narrow = true;
	err = log_scan_segment_header(&t->scan, &t->header);
	if (err)
		tail_close(t);
	return err;
}

static int tail_collect(void *ctx, const char *name)
{
	struct log_tail *t = ctx;
	uint64_t key;

	if (!log_segment_parse_name(name, &key))
		return 0;
	if (t->key_count == t->key_capacity) {
		size_t capacity = base_max(64, t->key_capacity * 2);
		void *p = realloc(t->keys, capacity * sizeof(*t->keys));

		if (!p)
			return -ENOMEM;
		t->keys = p;
		t->key_capacity = capacity;
	}
	t->keys[t->key_count++] = key;
	return 0;
}

static int tail_list(struct log_tail *t)
{
	char path[LOG_PATH_BYTES];

	t->key_count = 0;
	log_path(path, t->log->options.dir, "segments");
	return io_list(t->log->io, path, tail_collect, t);
}

/* ---- the next frame ---- */

static bool tail_continues(const struct log_position *p,
			   const struct log_frame *f)
{
	return f->first_lsn == p->lsn &&
	       !memcmp(f->prev_chain, p->chain, LOG_CHAIN_BYTES);
}

/* The frame at offset of the open segment: 1 and it, 0 when none is there. */
static int tail_frame(struct log_tail *t, uint64_t offset,
		      struct log_frame *ret, const uint8_t **ret_raw)
{
	int err = log_scan_frame(&t->scan, offset, ret, ret_raw);

	if (err == -E_CORRUPT)
		return 0;
	if (err)
		return err;
	return !memcmp(ret->key_id, t->header.key_id, CRYPTO_KEY_ID_BYTES);
}

static bool tail_is_cut(const struct log_tail *t, const struct log_position *p)
{
	return p->segment && t->cut_epoch == p->segment >> 32 &&
	       p->lsn >= t->cut_lsn;
}

/* The first frame of the segment at keys[i]: 1, or 0 when there is none. */
static int tail_first(struct log_tail *t, size_t i, struct log_frame *ret,
		      const uint8_t **ret_raw)
{
	int found = tail_open(t, t->keys[i]);

	/* Dropped since it was listed, or its header is not whole: somebody
	 * who recovers will say so. */
	if (found == -ENOENT || found == -E_CORRUPT)
		return 0;
	return found ? found : tail_frame(t, FIRST_FRAME_OFFSET, ret, ret_raw);
}

/* The EPOCH-START of the newest epoch at or below `epoch` that has one: 1, or
 * 0.  One whose first segment has been dropped has none here. */
static int tail_start_of(struct log_tail *t, uint64_t epoch, bool exact,
			 struct log_frame *ret, const uint8_t **ret_raw)
{
	for (size_t i = t->key_count; i-- > 0;) {
		int found;

		if (t->keys[i] >> 32 > epoch ||
		    (i && t->keys[i - 1] >> 32 == t->keys[i] >> 32))
			continue;
		if (exact && t->keys[i] >> 32 != epoch)
			return 0;
		found = tail_first(t, i, ret, ret_raw);
		if (found < 0)
			return found;
		if (found && ret->flags & LOG_FRAME_EPOCH_START)
			return 1;
		if (exact)
			return 0;
	}
	return 0;
}

/* The child of `epoch` on the way to the newest epoch that has begun: 1 and its
 * first frame, 0 when there is none newer, -ENOENT when the way does not lead
 * here or a part of it has been dropped. */
static int tail_child(struct log_tail *t, uint64_t epoch, struct log_frame *ret,
		      const uint8_t **ret_raw)
{
	int found = tail_start_of(t, UINT32_MAX, false, ret, ret_raw);

	if (found == 1 && ret->segment >> 32 <= epoch)
		found = 0;
	while (found == 1 && ret->parent_epoch > epoch) {
		found = tail_start_of(t, ret->parent_epoch, true, ret, ret_raw);
		if (!found)
			found = -ENOENT;
	}
	if (found == 1 && ret->parent_epoch != epoch)
		found = -ENOENT;
	return found;
}

/* p's epoch goes on in the child that begins with `start`. */
static int tail_enter(struct log_tail *t, const struct log_position *p,
		      const struct log_frame *start)
{
	if (tail_continues(p, start))
		return 1;
	if (start->first_lsn > p->lsn)
		return 0;
	/* It says that p's epoch ends before p.  What was delivered was
	 * acknowledged, and no cut leaves that out. */
	if (start->first_lsn < t->at.lsn ||
	    (start->first_lsn == t->at.lsn && !tail_continues(&t->at, start)) ||
	    (t->cut_epoch == start->parent_epoch &&
	     t->cut_lsn == start->first_lsn))
		return -ESTALE;
	t->cut_epoch = start->parent_epoch;
	t->cut_lsn = start->first_lsn;
	return -EAGAIN;
}

/* The next segment of p's own epoch: 1 and its first frame when that goes on
 * from p; 0; -ENOENT when it shows that what goes on from p has been dropped.
 */
static int tail_next_segment(struct log_tail *t, const struct log_position *p,
			     struct log_frame *ret, const uint8_t **ret_raw)
{
	for (size_t i = 0; i < t->key_count; i++) {
		int found;

		if (t->keys[i] <= p->segment)
			continue;
		if (t->keys[i] >> 32 != p->segment >> 32)
			break;
		found = tail_first(t, i, ret, ret_raw);
		if (found != 1 || tail_continues(p, ret))
			return found;
		/* It was acknowledged, and p's segment ended before it was
		 * looked at here: a frame between the two is in neither. */
		return ret->durable_lsn > p->lsn ? -ENOENT : 0;
	}
	return 0;
}

/* p's segment holds no more: what goes on from there in another? */
static int tail_hop(struct log_tail *t, const struct log_position *p,
		    struct log_frame *ret, const uint8_t **ret_raw)
{
	uint64_t epoch = p->segment >> 32;
	int child, found = tail_list(t);

	if (found)
		return found;
	child = tail_child(t, epoch, ret, ret_raw);
	if (child == 1) {
		found = tail_enter(t, p, ret);
		if (found)
			return found;
	}
	if (child < 0 && child != -ENOENT)
		return child;
	if (p->segment && !tail_is_cut(t, p)) {
		found = tail_next_segment(t, p, ret, ret_raw);
		if (found)
			return found;
	}
	/* Where nothing was delivered yet the way was perhaps a wrong one. */
	if (child == -ENOENT && epoch == t->at.segment >> 32 && t->at.segment)
		return -ENOENT;
	return 0;
}

/* 1 and the frame behind p, 0 when there is none yet. */
static int tail_next(struct log_tail *t, const struct log_position *p,
		     struct log_frame *ret, const uint8_t **ret_raw)
{
	int found;

	*ret = (struct log_frame){0};
	if (p->segment && !tail_is_cut(t, p)) {
		found = tail_open(t, p->segment);
		if (!found)
			found = tail_frame(t, p->offset, ret, ret_raw);
		if (found == 1 && !tail_continues(p, ret))
			found = 0;
		if (found && found != -ENOENT && found != -E_CORRUPT)
			return found;
		*ret = (struct log_frame){0};
	}
	return tail_hop(t, p, ret, ret_raw);
}

/* ---- steps ---- */

static void tail_position(const struct log_frame *f, struct log_position *ret)
{
	ret->segment = f->segment;
	ret->offset = f->offset + f->stored_len;
	ret->lsn = f->first_lsn + f->record_count;
	memcpy(ret->chain, f->chain, LOG_CHAIN_BYTES);
}

static int tail_hold(struct log_tail *t, const struct log_frame *f,
		     const uint8_t *raw)
{
	struct tail_held *h =
		&t->held[(t->held_head + t->held_count) % HELD_COUNT_MAX];

	if (!h->raw)
		h->raw = io_buffer_alloc(LOG_FRAME_BYTES_MAX);
	if (!h->raw)
		return -ENOMEM;
	h->header = t->header;
	h->frame = *f;
	memcpy(h->raw, raw, f->stored_len);
	t->held_count++;
	return 0;
}

/* Delivers what is held and lies below durable_lsn. */
static int tail_deliver(struct log_tail *t, uint64_t durable_lsn,
			int (*each)(void *ctx, const struct log_record *),
			void *ctx, uint64_t *bytes)
{
	while (t->held_count) {
		struct tail_held *h = &t->held[t->held_head];
		const struct log_frame *f = &h->frame;
		int err;

		if (f->first_lsn + f->record_count > durable_lsn)
			break;
		err = log_opener_frame(&t->opener, &h->header, f, h->raw);
		if (!err)
			err = log_frame_each_record(f, t->opener.plain, each,
						    ctx);
		if (err)
			return err;
		tail_position(f, &t->at);
		*bytes += f->stored_len;
		t->held_head = (t->held_head + 1) % HELD_COUNT_MAX;
		t->held_count--;
	}
	return 0;
}

int log_tail_step(struct log_tail *t, uint64_t bytes_max,
		  int (*each)(void *ctx, const struct log_record *), void *ctx,
		  bool *ret_more)
{
	struct log_position ahead = t->at;
	uint64_t bytes = 0;
	int found = 0, err = 0;

	t->held_head = t->held_count = 0;
	t->cut_epoch = 0;
	/* What was not there the last time may be now. */
	t->scan.window_len = 0;
	t->scan.narrow = true;
	while (!err && bytes < bytes_max && t->held_count < HELD_COUNT_MAX) {
		struct log_frame f;
		const uint8_t *raw;

		found = tail_next(t, &ahead, &f, &raw);
		if (found == -EAGAIN) {
			ahead = t->at;
			t->held_head = t->held_count = 0;
			continue;
		}
		if (found <= 0)
			break;
		t->scan.narrow = false;
		tail_position(&f, &ahead);
		t->seen_lsn = base_max(t->seen_lsn, ahead.lsn);
		err = tail_hold(t, &f, raw);
		/* An EPOCH-START's is the cut, which its writer has read and
		 * may never have led from. */
		if (!err && (MUTANT(FOLLOW_UNVOUCHED) ||
			     !(f.flags & LOG_FRAME_EPOCH_START)))
			err = tail_deliver(t,
					   MUTANT(FOLLOW_UNVOUCHED)
						   ? UINT64_MAX
						   : f.durable_lsn,
					   each, ctx, &bytes);
	}
	if (!err && found < 0)
		err = found;
	if (!err)
		*ret_more = bytes >= bytes_max;
	return err;
}
