/* journal/log/reader.c: bodies, read back on one loop.
 *
 * A fetch brings the chunks that one read needs; reads that need the same
 * chunks meanwhile wait for it instead of asking again.  Two small caches
 * make the common case cheap, a queue that is consumed in order: frame
 * headers that have been verified, and the last decrypted chunks.  Both are
 * bounded and belong to the reader's loop.
 *
 * Each open segment has its own descriptor, key schedule and reference; one
 * that was dropped is let go when it is next looked at, or by a timer. */
#include "journal/log/internal.h"

#define OPEN_COUNT 8
#define HEADER_COUNT 64 /* a power of two */
#define PLAIN_COUNT 16
#define AHEAD_CHUNKS 8u /* read at once where reading goes on in order */
#define TIDY_NS 1000000000ull
#define IDLE_TURNS_MAX 5

struct open_segment {
	struct log_segment *segment; /* NULL: free */
	struct io_file *file;
	struct crypto_aead *aead;
	unsigned fetch_count;
	unsigned idle_turns;
	uint64_t used; /* the reader's clock of uses */
};

struct header_entry {
	uint64_t segment;
	uint32_t frame; /* 0: free */
	uint8_t raw[LOG_FRAME_HEADER_BYTES];
};

struct plain_entry {
	uint64_t segment, used;
	uint32_t frame, index; /* frame 0: free */
	uint32_t len;
	uint8_t *data; /* LOG_CHUNK_BYTES */
};

enum fetch_state { FETCH_HEADER, FETCH_CHUNKS };

struct fetch {
	struct list link;
	struct loop_op op;
	struct log_reader *reader;
	struct open_segment *open;
	enum fetch_state state;
	uint32_t frame;
	uint32_t first, last; /* chunks */
	uint32_t need;	      /* bytes of the payload, before more is known */
	bool in_order;	      /* goes on where the fetch before it ended */
	struct log_read *reads;
	uint8_t *block;
	uint64_t block_offset;
	size_t block_len;
	uint8_t header[LOG_FRAME_HEADER_BYTES];
	struct log_frame known; /* the header, once it is here */
};

struct log_reader {
	struct log *log;
	struct loop *loop;
	struct compress *compress;
	struct open_segment open[OPEN_COUNT];
	struct header_entry headers[HEADER_COUNT];
	struct plain_entry plains[PLAIN_COUNT];
	uint64_t clock;
	/* The fetch that was begun last. */
	uint64_t last_segment;
	uint32_t last_frame, last_chunk;
	uint32_t next_frame; /* behind it, when all of it was read; 0 */
	struct list fetches;
	struct log_read *stalled, **stalled_tail; /* no slot free to open */
	struct log_read *ready, **ready_tail;
	struct loop_task finish;
	struct loop_timer tidy;
};

static void reader_finish(struct log_reader *r, struct log_read *read, int err)
{
	read->err = err;
	read->next = NULL;
	*r->ready_tail = read;
	r->ready_tail = &read->next;
	loop_defer(r->loop, &r->finish);
}

/* ---- open segments ---- */

static void open_close(struct log_reader *r, struct open_segment *o)
{
	uint64_t key = o->segment->header.key;

	ASSERT(!o->fetch_count);
	for (int i = 0; i < HEADER_COUNT; i++)
		if (r->headers[i].segment == key)
			r->headers[i].frame = 0;
	for (int i = 0; i < PLAIN_COUNT; i++)
		if (r->plains[i].segment == key)
			r->plains[i].frame = 0;
	io_close(o->file);
	crypto_aead_free(o->aead);
	log_segment_put(o->segment);
	memset(o, 0, sizeof(*o));
}

static int open_open(struct log_reader *r, struct open_segment *o, uint64_t key)
{
	struct log_segment *seg = log_segment_get(r->log, key);
	char path[LOG_PATH_BYTES];
	struct crypto_key *data_key;
	int err;

	if (!seg)
		return -ENOENT;
	log_segment_path(r->log->options.dir, key, path);
	err = log_segment_unwrap(r->log->options.master, &seg->header,
				 &data_key);
	if (err)
		goto fail;
	err = crypto_aead_create(data_key, &o->aead);
	crypto_key_free(data_key);
	if (err)
		goto fail;
	err = io_open(r->log->io, path, IO_READ | IO_DIRECT, &o->file);
	if (err) {
		crypto_aead_free(o->aead);
		o->aead = NULL;
		goto fail;
	}
	o->segment = seg;
	if (!r->tidy.heap_index)
		loop_timer_set(r->loop, &r->tidy, TIDY_NS);
	return 0;
fail:
	log_segment_put(seg);
	return err;
}

/* -EAGAIN: all places are taken by segments with fetches in flight. */
static int reader_open(struct log_reader *r, uint64_t key,
		       struct open_segment **ret)
{
	struct open_segment *victim = NULL;
	int err;

	for (int i = 0; i < OPEN_COUNT; i++) {
		struct open_segment *o = &r->open[i];

		if (o->segment && o->segment->header.key == key) {
			*ret = o;
			return 0;
		}
		if (o->fetch_count)
			continue;
		if (!victim || !o->segment ||
		    (victim->segment && o->used < victim->used))
			victim = o;
	}
	if (!victim)
		return -EAGAIN;
	if (victim->segment)
		open_close(r, victim);
	err = open_open(r, victim, key);
	if (err)
		return err;
	*ret = victim;
	return 0;
}

static void reader_tidy(struct loop_timer *timer)
{
	struct log_reader *r = container_of(timer, struct log_reader, tidy);
	bool any = false;

	for (int i = 0; i < OPEN_COUNT; i++) {
		struct open_segment *o = &r->open[i];

		if (!o->segment)
			continue;
		o->idle_turns++;
		if (!o->fetch_count &&
		    (o->segment->dropped || o->idle_turns > IDLE_TURNS_MAX))
			open_close(r, o);
		else
			any = true;
	}
	if (any)
		loop_timer_set(r->loop, &r->tidy, TIDY_NS);
}

/* ---- caches ---- */

static struct header_entry *reader_header(struct log_reader *r,
					  uint64_t segment, uint32_t frame)
{
	uint64_t hash = (segment * 0x9e3779b97f4a7c15ull) ^
			(frame * 0xff51afd7ed558ccdull);

	return &r->headers[(hash >> 32) % HEADER_COUNT];
}

static struct plain_entry *plain_find(struct log_reader *r, uint64_t segment,
				      uint32_t frame, uint32_t index)
{
	for (int i = 0; i < PLAIN_COUNT; i++) {
		struct plain_entry *p = &r->plains[i];

		if (p->frame == frame && p->index == index &&
		    p->segment == segment)
			return p;
	}
	return NULL;
}

static struct plain_entry *plain_victim(struct log_reader *r)
{
	struct plain_entry *victim = &r->plains[0];

	for (int i = 0; i < PLAIN_COUNT; i++) {
		if (!r->plains[i].frame)
			return &r->plains[i];
		if (r->plains[i].used < victim->used)
			victim = &r->plains[i];
	}
	return victim;
}

/* ---- serving ---- */

static uint32_t loc_first(const struct log_loc *loc)
{
	return loc->at / LOG_CHUNK_BYTES;
}

static uint32_t loc_last(const struct log_loc *loc)
{
	return loc->stored_len
		       ? (loc->at + loc->stored_len - 1) / LOG_CHUNK_BYTES
		       : loc_first(loc);
}

/* What a stored body becomes in the caller's buffer. */
static int body_expand(struct log_reader *r, const struct log_read *read,
		       const uint8_t *stored)
{
	const struct log_loc *loc = &read->loc;
	int err;

	if (loc->stored_len == loc->body_len)
		return 0; /* is already there */
	if (!r->compress) {
		err = compress_create(1, &r->compress);
		if (err)
			return err;
	}
	return compress_unpack(r->compress, stored, loc->stored_len, read->buf,
			       loc->body_len);
}

/* Copies the part of the stored body that lies in one chunk. */
static void body_copy(uint8_t *to, const struct log_loc *loc, uint32_t index,
		      const uint8_t *chunk, uint32_t chunk_len)
{
	uint64_t chunk_at = (uint64_t)index * LOG_CHUNK_BYTES;
	uint64_t start = base_max(loc->at, chunk_at);
	uint64_t end = base_min((uint64_t)loc->at + loc->stored_len,
				chunk_at + chunk_len);

	if (start < end)
		memcpy(to + (start - loc->at), chunk + (start - chunk_at),
		       end - start);
}

/* Everything from decrypted chunks; -ENOENT when one is not there. */
static int serve_from_cache(struct log_reader *r, struct log_read *read)
{
	const struct log_loc *loc = &read->loc;
	bool packed = loc->stored_len != loc->body_len;
	uint8_t *stored = read->buf;
	int err = 0;

	for (uint32_t i = loc_first(loc); i <= loc_last(loc); i++)
		if (!plain_find(r, loc->segment, loc->frame, i))
			return -ENOENT;
	if (packed) {
		stored = malloc(loc->stored_len);
		if (!stored)
			return -ENOMEM;
	}
	for (uint32_t i = loc_first(loc); i <= loc_last(loc); i++) {
		struct plain_entry *p =
			plain_find(r, loc->segment, loc->frame, i);
		uint64_t end = (uint64_t)loc->at + loc->stored_len;

		p->used = ++r->clock;
		if (i == loc_last(loc) &&
		    end > (uint64_t)i * LOG_CHUNK_BYTES + p->len)
			err = -E_CORRUPT;
		else
			body_copy(stored, loc, i, p->data, p->len);
	}
	if (!err)
		err = body_expand(r, read, stored);
	if (packed)
		free(stored);
	return err;
}

/* ---- fetching ---- */

static void reader_start(struct log_reader *r, struct log_read *read);

static void fetch_end(struct fetch *f, int err)
{
	struct log_reader *r = f->reader;
	struct log_read *read = f->reads, *stalled;

	list_remove(&f->link);
	f->open->fetch_count--;
	while (read) {
		struct log_read *next = read->next;

		reader_finish(r, read, err ? err : read->err);
		read = next;
	}
	io_buffer_free(f->block);
	free(f);
	stalled = r->stalled;
	r->stalled = NULL;
	r->stalled_tail = &r->stalled;
	while (stalled) {
		struct log_read *next = stalled->next;

		reader_start(r, stalled);
		stalled = next;
	}
}

/* How far the payload is read: whole chunks of a frame that is known. */
static uint64_t fetch_end_offset(const struct fetch *f)
{
	uint64_t payload =
		(uint64_t)f->frame * IO_BLOCK + LOG_FRAME_HEADER_BYTES;

	if (f->state == FETCH_HEADER)
		return payload + f->need;
	return payload + base_min(((uint64_t)f->last + 1) * LOG_CHUNK_BYTES,
				  f->known.payload_len);
}

static int fetch_submit(struct fetch *f)
{
	uint64_t start = (uint64_t)f->frame * IO_BLOCK;
	uint64_t end = base_min(base_round_up(fetch_end_offset(f), IO_BLOCK),
				f->open->segment->header.bytes);

	if (f->state == FETCH_CHUNKS) {
		start += LOG_FRAME_HEADER_BYTES +
			 (uint64_t)f->first * LOG_CHUNK_BYTES;
		start &= ~(uint64_t)(IO_BLOCK - 1);
	}
	if (start >= end)
		return -E_CORRUPT;
	if (f->block_len < end - start) {
		io_buffer_free(f->block);
		f->block_len = 0;
		f->block = io_buffer_alloc(end - start);
		if (!f->block)
			return -ENOMEM;
	}
	f->block_len = end - start;
	f->block_offset = start;
	loop_read(f->reader->loop, &f->op, f->open->file, f->block,
		  f->block_len, start);
	return 0;
}

/* Where reading goes on in order, more of the frame at once. */
static void fetch_look_ahead(struct fetch *f)
{
	const struct log_frame *frame = &f->known;
	uint32_t last = frame->payload_len
				? (frame->payload_len - 1) / LOG_CHUNK_BYTES
				: 0;
	uint32_t wanted = f->first + AHEAD_CHUNKS - 1;

	if (f->in_order)
		f->last = base_max(f->last, base_min(last, wanted));
	if (f->frame == f->reader->last_frame &&
	    f->open->segment->header.key == f->reader->last_segment) {
		f->reader->last_chunk = f->last;
		if (f->last >= last)
			f->reader->next_frame =
				f->frame + frame->stored_len / IO_BLOCK;
	}
}

/* The header is here: what it says is known from now on. */
static int fetch_know(struct fetch *f)
{
	struct log_frame *known = &f->known;
	int err = log_frame_decode(f->header, known);

	if (err)
		return err;
	if (known->segment != f->open->segment->header.key ||
	    known->offset != (uint64_t)f->frame * IO_BLOCK ||
	    memcmp(known->cluster_id, f->reader->log->cluster_id,
		   LOG_ID_BYTES) ||
	    memcmp(known->key_id, f->open->segment->header.key_id,
		   CRYPTO_KEY_ID_BYTES))
		return -E_CORRUPT;
	f->state = FETCH_CHUNKS;
	fetch_look_ahead(f);
	return 0;
}

static void fetch_keep_header(struct fetch *f)
{
	uint64_t segment = f->open->segment->header.key;
	struct header_entry *h = reader_header(f->reader, segment, f->frame);

	h->segment = segment;
	h->frame = f->frame;
	memcpy(h->raw, f->header, sizeof(h->raw));
}

/* Decrypts chunk `index` into a cache entry. */
static int fetch_open_chunk(struct fetch *f, const struct log_frame *frame,
			    uint32_t index, struct plain_entry **ret)
{
	uint64_t at = frame->offset + LOG_FRAME_HEADER_BYTES +
		      (uint64_t)index * LOG_CHUNK_BYTES;
	struct plain_entry *p;
	uint32_t len;
	int err;

	if ((uint64_t)index * LOG_CHUNK_BYTES >= frame->payload_len)
		return -E_CORRUPT;
	len = log_frame_chunk_len(frame, index);
	if (at + len > f->block_offset + f->block_len)
		return -E_CORRUPT;
	p = plain_victim(f->reader);
	p->frame = 0;
	if (!p->data) {
		p->data = malloc(LOG_CHUNK_BYTES);
		if (!p->data)
			return -ENOMEM;
	}
	err = log_frame_open_chunk(f->open->aead, f->header, frame, index,
				   f->block + (at - f->block_offset), p->data);
	if (err)
		return err;
	p->segment = frame->segment;
	p->frame = f->frame;
	p->index = index;
	p->len = len;
	p->used = ++f->reader->clock;
	*ret = p;
	return 0;
}

/* A body may have more chunks than the cache has places, so parts are copied
 * out as they are decrypted. */
static int fetch_serve(struct fetch *f, const struct log_frame *frame)
{
	for (struct log_read *read = f->reads; read; read = read->next) {
		const struct log_loc *loc = &read->loc;

		read->err = 0;
		read->packed = NULL;
		if ((uint64_t)loc->at + loc->stored_len > frame->payload_len)
			read->err = -E_CORRUPT;
		else if (loc->stored_len != loc->body_len) {
			read->packed = malloc(loc->stored_len);
			if (!read->packed)
				read->err = -ENOMEM;
		}
	}
	for (uint32_t i = f->first; i <= f->last; i++) {
		struct plain_entry *p;
		int err = fetch_open_chunk(f, frame, i, &p);

		if (err == -E_CORRUPT &&
		    (uint64_t)i * LOG_CHUNK_BYTES >= frame->payload_len)
			break; /* each read has been told already */
		if (err)
			return err;
		for (struct log_read *read = f->reads; read; read = read->next)
			if (!read->err)
				body_copy(read->packed ? read->packed
						       : read->buf,
					  &read->loc, i, p->data, p->len);
	}
	for (struct log_read *read = f->reads; read; read = read->next)
		if (!read->err)
			read->err = body_expand(f->reader, read, read->packed);
	return 0;
}

static void fetch_free_packed(struct fetch *f)
{
	for (struct log_read *read = f->reads; read; read = read->next) {
		free(read->packed);
		read->packed = NULL;
	}
}

static void fetch_done(struct loop_op *op, int res)
{
	struct fetch *f = container_of(op, struct fetch, op);
	int err = res < 0 ? res : 0;

	if (!err && (size_t)res != f->block_len)
		err = -E_CORRUPT;
	if (!err && f->state == FETCH_HEADER) {
		memcpy(f->header, f->block, sizeof(f->header));
		err = fetch_know(f);
		if (!err)
			fetch_keep_header(f);
		if (!err &&
		    fetch_end_offset(f) > f->block_offset + f->block_len) {
			err = fetch_submit(f);
			if (!err)
				return;
		}
	}
	if (!err) {
		err = fetch_serve(f, &f->known);
		fetch_free_packed(f);
	}
	fetch_end(f, err);
}

static int fetch_start(struct log_reader *r, struct log_read *read,
		       struct open_segment *o)
{
	struct header_entry *h =
		reader_header(r, read->loc.segment, read->loc.frame);
	struct fetch *f = calloc(1, sizeof(*f));
	int err = 0;

	if (!f)
		return -ENOMEM;
	f->reader = r;
	f->open = o;
	f->op.done = fetch_done;
	f->frame = read->loc.frame;
	f->first = loc_first(&read->loc);
	f->last = loc_last(&read->loc);
	f->state = FETCH_HEADER;
	if (f->first == 0)
		f->need = (uint32_t)base_min((uint64_t)read->loc.at +
						     read->loc.stored_len,
					     LOG_CHUNK_BYTES);
	f->in_order = r->last_segment == read->loc.segment &&
		      (r->last_frame == f->frame
			       ? f->first == r->last_chunk + 1
			       : r->next_frame == f->frame && f->first == 0);
	r->last_segment = read->loc.segment;
	r->last_frame = f->frame;
	r->last_chunk = f->last;
	r->next_frame = 0;
	if (h->frame == f->frame && h->segment == read->loc.segment) {
		memcpy(f->header, h->raw, sizeof(f->header));
		err = fetch_know(f);
	}
	if (!err)
		err = fetch_submit(f);
	if (err) {
		io_buffer_free(f->block);
		free(f);
		return err;
	}
	f->reads = read;
	read->next = NULL;
	o->fetch_count++;
	list_push(&r->fetches, &f->link);
	return 0;
}

/* Until the frame's header is here a fetch can still become larger. */
static bool fetch_covers(struct fetch *f, const struct log_loc *loc)
{
	uint32_t last = loc_last(loc);

	if (f->open->segment->header.key != loc->segment ||
	    f->frame != loc->frame || f->first > loc_first(loc))
		return false;
	if (f->state == FETCH_HEADER && last - f->first < AHEAD_CHUNKS)
		f->last = base_max(f->last, last);
	return f->last >= last;
}

static void reader_start(struct log_reader *r, struct log_read *read)
{
	const struct log_loc *loc = &read->loc;
	struct open_segment *o;
	int err = serve_from_cache(r, read);

	if (err != -ENOENT) {
		reader_finish(r, read, err);
		return;
	}
	list_for_each(at, &r->fetches) {
		struct fetch *f = list_entry(at, struct fetch, link);

		if (fetch_covers(f, loc)) {
			read->next = f->reads;
			f->reads = read;
			return;
		}
	}
	err = reader_open(r, loc->segment, &o);
	if (err == -EAGAIN) {
		read->next = NULL;
		*r->stalled_tail = read;
		r->stalled_tail = &read->next;
		return;
	}
	if (!err) {
		o->used = ++r->clock;
		o->idle_turns = 0;
		err = fetch_start(r, read, o);
	}
	if (err)
		reader_finish(r, read, err);
}

void log_read(struct log_reader *r, struct log_read *read,
	      const struct log_loc *loc, void *buf)
{
	ASSERT(loop_is_current(r->loop));
	read->reader = r;
	read->loc = *loc;
	read->buf = buf;
	read->packed = NULL;
	if (!loc->frame || loc->stored_len > LOG_FRAME_BYTES_MAX ||
	    loc->at > LOG_FRAME_BYTES_MAX || loc->stored_len > loc->body_len) {
		reader_finish(r, read, -E_CORRUPT);
		return;
	}
	if (!loc->body_len) {
		reader_finish(r, read, 0);
		return;
	}
	reader_start(r, read);
}

static void reader_finished(struct loop_task *task)
{
	struct log_reader *r = container_of(task, struct log_reader, finish);
	struct log_read *read = r->ready;

	r->ready = NULL;
	r->ready_tail = &r->ready;
	while (read) {
		struct log_read *next = read->next;

		read->done(read, read->err);
		read = next;
	}
}

/* ---- life ---- */

int log_reader_create(struct log *log, struct loop *loop,
		      struct log_reader **ret)
{
	struct log_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->log = log;
	r->loop = loop;
	r->stalled_tail = &r->stalled;
	r->ready_tail = &r->ready;
	r->finish.run = reader_finished;
	r->tidy.fire = reader_tidy;
	list_init(&r->fetches);
	*ret = r;
	return 0;
}

void log_reader_free(struct log_reader *r)
{
	if (!r)
		return;
	loop_timer_cancel(r->loop, &r->tidy);
	loop_undefer(r->loop, &r->finish);
	/* Only where the loop died with its process, in the simulator. */
	while (!list_empty(&r->fetches)) {
		struct fetch *f =
			list_entry(list_pop(&r->fetches), struct fetch, link);

		f->open->fetch_count--;
		fetch_free_packed(f);
		io_buffer_free(f->block);
		free(f);
	}
	for (int i = 0; i < OPEN_COUNT; i++)
		if (r->open[i].segment)
			open_close(r, &r->open[i]);
	for (int i = 0; i < PLAIN_COUNT; i++) {
		if (r->plains[i].data)
			crypto_zero(r->plains[i].data, LOG_CHUNK_BYTES);
		free(r->plains[i].data);
	}
	compress_free(r->compress);
	free(r);
}
