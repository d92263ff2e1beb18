/* journal/store/extent.c: writing extent files, and reading runs.
 *
 * The stream is runs and pieces without gaps, each behind a head of 32 bytes,
 * then a table of where each of them begins, then a footer.  The journal's
 * EXTENTS record says the same and more; heads and table are there so that a
 * file can be read without the journal, and around damage.
 * Byte tables: docs/format/extent.md.
 *
 * Crash argument: the blob's.  Nothing refers to the file before
 * extent_finish() has made it durable and an EXTENTS record that names its
 * hash is committed; a file without a record is removed at the next start.
 *
 * What is read was authenticated by the blob, so it is what some program
 * wrote; it is checked all the same, as it may not have been this one. */
#include "journal/store/extent.h"

#include <string.h>

#include "base/bytes.h"
#include "journal/store/extent_format.h"

#define BODY_BYTES_MAX LOG_RECORD_BYTES_MAX
#define VARINT_BYTES 10u
/* What a message has beside body and annotations, with its place in the
 * index, at most. */
#define HEADER_BYTES_MAX (7u * VARINT_BYTES + 7u + 2u * RECORD_NAME_MAX)

_Static_assert(EXTENT_HEAD_BYTES + HEADER_BYTES_MAX + RECORD_EXTRA_MAX +
			       BODY_BYTES_MAX <=
		       EXTENT_RUN_BYTES,
	       "any message fits into a run");

/* ---- varints: unsigned LEB128 ---- */

static size_t put_varint(uint8_t *p, uint64_t v)
{
	size_t len = 0;

	for (; v >= 0x80; v >>= 7)
		p[len++] = (uint8_t)(v | 0x80);
	p[len++] = (uint8_t)v;
	return len;
}

static uint64_t read_varint(struct bytes_reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = bytes_read8(r);

		if (shift == 63 && byte > 1)
			break;
		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return v;
	}
	r->failed = 1;
	return 0;
}

static uint32_t read_varint32(struct bytes_reader *r)
{
	uint64_t v = read_varint(r);

	if (v > UINT32_MAX)
		r->failed = 1;
	return (uint32_t)v;
}

/* ---- names ---- */

void extent_name(uint64_t key, char ret[EXTENT_NAME_BYTES])
{
	snprintf(ret, EXTENT_NAME_BYTES, "%08x-%08x.ext",
		 (uint32_t)((key & ~STORE_EXTENT_BIT) >> 32), (uint32_t)key);
}

int extent_path(const char *dir, uint64_t key, char *ret, size_t room)
{
	char name[EXTENT_NAME_BYTES];
	int len;

	extent_name(key, name);
	len = snprintf(ret, room, "%s/" EXTENT_DIR "/%s", dir, name);
	return len < 0 || (size_t)len >= room ? -ENAMETOOLONG : 0;
}

static int parse_hex8(const char *text, uint32_t *ret)
{
	uint32_t v = 0;

	for (int i = 0; i < 8; i++) {
		static const char digits[] = "0123456789abcdef";
		const char *at = strchr(digits, text[i]);

		if (!at || !*at)
			return -EINVAL;
		v = v << 4 | (uint32_t)(at - digits);
	}
	*ret = v;
	return 0;
}

int extent_parse_name(const char *name, uint64_t *ret_key)
{
	uint32_t epoch, number;

	if (strlen(name) != EXTENT_NAME_BYTES - 1 || parse_hex8(name, &epoch) ||
	    name[8] != '-' || parse_hex8(name + 9, &number) ||
	    strcmp(name + 17, ".ext") != 0 || epoch >> 31)
		return -EINVAL;
	*ret_key = store_file_key(epoch, number);
	return 0;
}

/* ---- writing ---- */

/* A growing array of bytes. */
struct heap {
	uint8_t *data;
	size_t len, capacity;
};

static int heap_reserve(struct heap *h, size_t more)
{
	size_t capacity = h->capacity ? h->capacity : 4096;
	uint8_t *grown;

	while (capacity - h->len < more)
		capacity *= 2;
	if (capacity == h->capacity)
		return 0;
	grown = realloc(h->data, capacity);
	if (!grown)
		return -ENOMEM;
	h->data = grown;
	h->capacity = capacity;
	return 0;
}

static void heap_free(struct heap *h)
{
	if (h->data)
		crypto_zero(h->data, h->capacity);
	free(h->data);
	memset(h, 0, sizeof(*h));
}

struct extent_writer {
	struct blob_writer *blob;
	uint64_t key;
	int err; /* the first one, for good */
	/* What has been written. */
	struct record_run *runs;
	struct record_piece_place *pieces;
	uint32_t run_count, run_capacity, piece_count, piece_capacity;
	uint32_t *items; /* where each of them begins */
	uint32_t item_count, item_capacity;
	/* The run that is being gathered; copied 0: none. */
	struct record_run run;
	uint64_t last; /* ref */
	struct heap index, bodies;
};

int extent_writer_create(const struct blob_identity *id, const char *dir,
			 uint64_t key, struct extent_writer **ret)
{
	struct extent_writer *w;
	char path[4096];
	int err = extent_path(dir, key, path, sizeof(path));

	ASSERT(store_is_extent(key));
	if (err)
		return err;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->key = key;
	err = blob_create(id, path, EXTENT_KIND, &w->blob);
	if (err) {
		free(w);
		return err;
	}
	*ret = w;
	return 0;
}

static void writer_free(struct extent_writer *w)
{
	heap_free(&w->index);
	heap_free(&w->bodies);
	free(w->runs);
	free(w->pieces);
	free(w->items);
	free(w);
}

/* Room for one more in an array. */
static int make_room(void **array, uint32_t count, uint32_t *capacity,
		     size_t size)
{
	uint32_t wanted = *capacity ? *capacity * 2 : 64;
	void *grown;

	if (count < *capacity)
		return 0;
	grown = realloc(*array, wanted * size);
	if (!grown)
		return -ENOMEM;
	*array = grown;
	*capacity = wanted;
	return 0;
}

static int note_item(struct extent_writer *w)
{
	void *items = w->items;
	int err = make_room(&items, w->item_count, &w->item_capacity,
			    sizeof(*w->items));

	w->items = items;
	if (!err)
		w->items[w->item_count++] = (uint32_t)blob_position(w->blob);
	return err;
}

uint64_t extent_bytes(const struct extent_writer *w)
{
	return blob_position(w->blob) + w->index.len + w->bodies.len;
}

uint32_t extent_run_count(const struct extent_writer *w)
{
	return w->run_count + (w->run.copied ? 1 : 0);
}

uint32_t extent_piece_count(const struct extent_writer *w)
{
	return w->piece_count;
}

static int write_run(struct extent_writer *w)
{
	uint8_t head[EXTENT_HEAD_BYTES];
	struct record_run *run = &w->run;
	void *runs = w->runs;
	int err = make_room(&runs, w->run_count, &w->run_capacity,
			    sizeof(*w->runs));

	w->runs = runs;
	if (!err)
		err = note_item(w);
	if (err)
		return err;
	run->offset = (uint32_t)blob_position(w->blob);
	run->bytes = (uint32_t)(sizeof(head) + w->index.len + w->bodies.len);
	run->span = (uint32_t)(w->last - run->first) + 1;
	bytes_put32(head + AT_HEAD_MAGIC, EXTENT_RUN_MAGIC);
	bytes_put32(head + AT_RUN_COUNT, run->copied);
	bytes_put64(head + AT_RUN_QUEUE, run->queue);
	bytes_put64(head + AT_RUN_FIRST, run->first);
	bytes_put32(head + AT_RUN_INDEX_BYTES, (uint32_t)w->index.len);
	bytes_put32(head + AT_RUN_BYTES, run->bytes);
	err = blob_write(w->blob, head, sizeof(head));
	if (!err)
		err = blob_write(w->blob, w->index.data, w->index.len);
	if (!err)
		err = blob_write(w->blob, w->bodies.data, w->bodies.len);
	if (!err)
		w->runs[w->run_count++] = *run;
	return err;
}

int extent_end_run(struct extent_writer *w)
{
	if (!w->err && w->run.copied)
		w->err = write_run(w);
	memset(&w->run, 0, sizeof(w->run));
	w->index.len = w->bodies.len = 0;
	return w->err;
}

/* Everything of a message but its body. */
static size_t encode_message(const struct extent_message *m, uint8_t *p)
{
	const struct record_origin *o = &m->origin;
	size_t at = 2;
	unsigned flags = 0;

	flags |= m->props.durable ? MESSAGE_DURABLE : 0;
	flags |= m->props.expiry_ms ? MESSAGE_EXPIRES : 0;
	flags |= m->deliveries ? MESSAGE_DELIVERED : 0;
	flags |= m->extra_len ? MESSAGE_EXTRA : 0;
	flags |= o->reason ? MESSAGE_MOVED : 0;
	flags |= m->stored_len != m->body_len ? MESSAGE_PACKED : 0;
	p[0] = (uint8_t)flags;
	p[1] = m->props.format;
	at += put_varint(p + at, m->props.arrived_ms);
	if (flags & MESSAGE_EXPIRES)
		at += put_varint(p + at, m->props.expiry_ms);
	if (flags & MESSAGE_DELIVERED)
		at += put_varint(p + at, m->deliveries);
	if (flags & MESSAGE_PACKED)
		at += put_varint(p + at, m->body_len);
	if (flags & MESSAGE_EXTRA) {
		at += put_varint(p + at, m->extra_len);
		memcpy(p + at, m->extra, m->extra_len);
		at += m->extra_len;
	}
	if (flags & MESSAGE_MOVED) {
		p[at++] = o->reason;
		bytes_put16(p + at, o->address_len);
		bytes_put16(p + at + 2, o->queue_len);
		at += 4;
		if (o->address_len)
			memcpy(p + at, o->address, o->address_len);
		at += o->address_len;
		if (o->queue_len)
			memcpy(p + at, o->queue, o->queue_len);
		at += o->queue_len;
	}
	return at;
}

static bool starts_run(const struct extent_writer *w, uint64_t queue,
		       uint64_t ref, size_t bytes)
{
	const struct record_run *run = &w->run;

	return !run->copied || run->queue != queue ||
	       record_ref_priority(run->first) != record_ref_priority(ref) ||
	       ref - run->first >= EXTENT_SPAN_MAX ||
	       EXTENT_HEAD_BYTES + w->index.len + w->bodies.len + bytes >
		       EXTENT_RUN_BYTES;
}

static bool has_room(const struct extent_writer *w, size_t bytes)
{
	return extent_bytes(w) + EXTENT_HEAD_BYTES + bytes +
		       4ull * (w->item_count + 2) + EXTENT_FOOTER_BYTES <
	       UINT32_MAX;
}

static void add_message(struct extent_writer *w, uint64_t queue,
			const struct extent_message *m)
{
	struct record_run *run = &w->run;
	uint8_t *p = w->bodies.data + w->bodies.len;
	size_t len = encode_message(m, p);
	uint64_t step = m->ref - w->last;

	if (m->stored_len)
		memcpy(p + len, m->stored, m->stored_len);
	len += m->stored_len;
	if (!run->copied) {
		run->queue = queue;
		run->first = m->ref;
		step = 0;
	}
	w->bodies.len += len;
	w->index.len += put_varint(w->index.data + w->index.len, step);
	w->index.len += put_varint(w->index.data + w->index.len, len);
	run->copied++;
	if (m->props.expiry_ms &&
	    (!run->expiry_min_ms || m->props.expiry_ms < run->expiry_min_ms))
		run->expiry_min_ms = m->props.expiry_ms;
	w->last = m->ref;
}

int extent_add(struct extent_writer *w, uint64_t queue,
	       const struct extent_message *m)
{
	size_t bytes_max;

	ASSERT(record_ref_number(m->ref) &&
	       record_ref_priority(m->ref) == m->props.priority);
	if (w->err)
		return w->err;
	if (m->body_len > BODY_BYTES_MAX || m->stored_len > m->body_len ||
	    m->extra_len > RECORD_EXTRA_MAX ||
	    m->origin.address_len > RECORD_NAME_MAX ||
	    m->origin.queue_len > RECORD_NAME_MAX)
		return -EINVAL;
	bytes_max = HEADER_BYTES_MAX + m->extra_len + m->stored_len;
	if (!has_room(w, bytes_max))
		return -E_LIMIT;
	if (starts_run(w, queue, m->ref, bytes_max)) {
		if (extent_run_count(w) == RECORD_RUN_MAX)
			return -E_LIMIT;
		if (extent_end_run(w))
			return w->err;
	} else {
		ASSERT(m->ref > w->last);
	}
	w->err = heap_reserve(&w->index, 2 * VARINT_BYTES);
	if (!w->err)
		w->err = heap_reserve(&w->bodies, bytes_max);
	if (!w->err)
		add_message(w, queue, m);
	return w->err;
}

int extent_add_piece(struct extent_writer *w, uint64_t upload, uint32_t index,
		     const void *stored, uint32_t stored_len, uint32_t body_len)
{
	uint8_t head[EXTENT_HEAD_BYTES] = {0};
	void *pieces = w->pieces;

	if (w->err)
		return w->err;
	if (body_len > BODY_BYTES_MAX || stored_len > body_len)
		return -EINVAL;
	if (w->piece_count == RECORD_RUN_MAX || !has_room(w, stored_len))
		return -E_LIMIT;
	if (extent_end_run(w))
		return w->err;
	w->err = make_room(&pieces, w->piece_count, &w->piece_capacity,
			   sizeof(*w->pieces));
	w->pieces = pieces;
	if (!w->err)
		w->err = note_item(w);
	bytes_put32(head + AT_HEAD_MAGIC, EXTENT_PIECE_MAGIC);
	bytes_put32(head + AT_PIECE_INDEX, index);
	bytes_put64(head + AT_PIECE_UPLOAD, upload);
	bytes_put32(head + AT_PIECE_STORED, stored_len);
	bytes_put32(head + AT_PIECE_BODY, body_len);
	if (!w->err)
		w->err = blob_write(w->blob, head, sizeof(head));
	if (w->err)
		return w->err;
	w->pieces[w->piece_count++] = (struct record_piece_place){
		.upload = upload,
		.index = index,
		.offset = (uint32_t)blob_position(w->blob),
		.stored_len = stored_len,
		.body_len = body_len,
	};
	w->err = blob_write(w->blob, stored, stored_len);
	return w->err;
}

static int write_table(struct extent_writer *w)
{
	uint32_t at = (uint32_t)blob_position(w->blob);
	uint8_t bytes[EXTENT_FOOTER_BYTES];

	for (uint32_t i = 0; i < w->item_count && !w->err; i++) {
		bytes_put32(bytes, w->items[i]);
		w->err = blob_write(w->blob, bytes, 4);
	}
	bytes_put32(bytes + AT_FOOTER_MAGIC, EXTENT_FOOTER_MAGIC);
	bytes_put32(bytes + AT_FOOTER_COUNT, w->item_count);
	bytes_put32(bytes + AT_FOOTER_TABLE, at);
	bytes_put32(bytes + AT_FOOTER_ZERO, 0);
	if (!w->err)
		w->err = blob_write(w->blob, bytes, sizeof(bytes));
	return w->err;
}

int extent_finish(struct extent_writer *w, struct record_extents *ret)
{
	struct record_extents r = {.file = w->key};
	int err = extent_end_run(w);

	if (!err)
		err = write_table(w);
	if (err) {
		extent_abandon(w);
		return err;
	}
	err = blob_finish(w->blob, r.hash, &r.file_bytes);
	if (!err) {
		r.runs = w->runs;
		r.run_count = w->run_count;
		r.pieces = w->pieces;
		r.piece_count = w->piece_count;
		w->runs = NULL;
		w->pieces = NULL;
		*ret = r;
	}
	writer_free(w);
	return err;
}

void extent_free_record(struct record_extents *r)
{
	free((void *)(uintptr_t)r->runs);
	free((void *)(uintptr_t)r->pieces);
	r->runs = NULL;
	r->pieces = NULL;
	r->run_count = r->piece_count = 0;
}

void extent_abandon(struct extent_writer *w)
{
	if (!w)
		return;
	blob_abandon(w->blob);
	writer_free(w);
}

/* ---- reading ---- */

int extent_read_head(const void *data, size_t len, struct extent_head *ret)
{
	const uint8_t *p = data;
	struct extent_head h;

	if (len < EXTENT_HEAD_BYTES ||
	    bytes_get32(p + AT_HEAD_MAGIC) != EXTENT_RUN_MAGIC)
		return -E_CORRUPT;
	h.count = bytes_get32(p + AT_RUN_COUNT);
	h.queue = bytes_get64(p + AT_RUN_QUEUE);
	h.first = bytes_get64(p + AT_RUN_FIRST);
	h.index_bytes = bytes_get32(p + AT_RUN_INDEX_BYTES);
	h.bytes = bytes_get32(p + AT_RUN_BYTES);
	if (!h.queue || !record_ref_number(h.first) ||
	    record_ref_priority(h.first) >= RECORD_PRIORITIES || !h.count ||
	    h.count > EXTENT_SPAN_MAX || h.bytes > EXTENT_RUN_BYTES ||
	    h.bytes < EXTENT_HEAD_BYTES ||
	    h.index_bytes > h.bytes - EXTENT_HEAD_BYTES)
		return -E_CORRUPT;
	*ret = h;
	return 0;
}

/* One entry of the index; *at and *offset are the ones before, then its own;
 * the first has *bytes 0. */
static int index_next(const struct extent_head *h, struct bytes_reader *r,
		      bool first, uint32_t *at, uint32_t *offset,
		      uint32_t *bytes)
{
	uint32_t step = read_varint32(r);
	uint64_t begin = (uint64_t)*offset + *bytes;
	uint32_t len = read_varint32(r);

	if (bytes_failed(r) || !step != first ||
	    (uint64_t)*at + step >= EXTENT_SPAN_MAX || begin + len > h->bytes)
		return -E_CORRUPT;
	*at += step;
	*offset = (uint32_t)begin;
	*bytes = len;
	return 0;
}

int extent_read_index(const struct extent_head *h, const void *index,
		      int (*each)(void *ctx, uint32_t at, uint32_t offset,
				  uint32_t bytes),
		      void *ctx)
{
	int (*visit)(void *, uint32_t, uint32_t, uint32_t) = NULL;

	/* All of it is checked before any of it is told. */
	for (int pass = 0; pass < 2; pass++, visit = each) {
		uint32_t at = 0, bytes = 0;
		uint32_t offset = EXTENT_HEAD_BYTES + h->index_bytes;
		struct bytes_reader r;

		bytes_reader_init(&r, index, h->index_bytes);
		for (uint32_t i = 0; i < h->count; i++) {
			int err = index_next(h, &r, !i, &at, &offset, &bytes);

			if (!err && visit)
				err = visit(ctx, at, offset, bytes);
			if (err)
				return err;
		}
		if (bytes_left(&r) || offset + bytes != h->bytes)
			return -E_CORRUPT;
	}
	return 0;
}

static void read_origin(struct bytes_reader *r, struct record_origin *ret)
{
	ret->reason = bytes_read8(r);
	ret->address_len = bytes_read16(r);
	ret->queue_len = bytes_read16(r);
	if (!ret->reason || ret->reason > RECORD_REASON_ADMIN ||
	    ret->address_len > RECORD_NAME_MAX ||
	    ret->queue_len > RECORD_NAME_MAX)
		r->failed = 1;
	ret->address = bytes_read(r, ret->address_len);
	ret->queue = bytes_read(r, ret->queue_len);
}

int extent_read_message(const struct extent_head *h, uint32_t at,
			const void *data, size_t len,
			struct extent_message *ret)
{
	struct extent_message m = {.ref = h->first + at};
	struct bytes_reader r;
	unsigned flags;

	bytes_reader_init(&r, data, len);
	flags = bytes_read8(&r);
	m.props.format = bytes_read8(&r);
	m.props.priority = (uint8_t)record_ref_priority(m.ref);
	m.props.durable = flags & MESSAGE_DURABLE;
	m.props.arrived_ms = read_varint(&r);
	if (flags & MESSAGE_EXPIRES)
		m.props.expiry_ms = read_varint(&r);
	if (flags & MESSAGE_DELIVERED)
		m.deliveries = read_varint32(&r);
	if (flags & MESSAGE_PACKED)
		m.body_len = read_varint32(&r);
	if (flags & MESSAGE_EXTRA) {
		m.extra_len = read_varint32(&r);
		m.extra = bytes_read(&r, m.extra_len);
	}
	if (flags & MESSAGE_MOVED)
		read_origin(&r, &m.origin);
	if (bytes_failed(&r) || (flags & ~MESSAGE_FLAGS) ||
	    m.extra_len > RECORD_EXTRA_MAX || bytes_left(&r) > BODY_BYTES_MAX)
		return -E_CORRUPT;
	m.stored_len = (uint32_t)bytes_left(&r);
	m.stored = r.p;
	if (!(flags & MESSAGE_PACKED))
		m.body_len = m.stored_len;
	else if (m.body_len <= m.stored_len || m.body_len > BODY_BYTES_MAX)
		return -E_CORRUPT;
	*ret = m;
	return 0;
}
