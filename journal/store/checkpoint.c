/* journal/store/checkpoint.c: a state written down, and read back.
 *
 * The stream is a sequence of blocks, each a length and that many bytes of
 * whole items, so that neither side ever holds more than one block and an
 * item is decoded from memory.
 *
 * Crash argument.  The blob is written and synced under a temporary name and
 * then renamed; the rename is made durable before anyone is told.  Killed
 * before the rename there is a temporary file that nobody reads; killed after
 * it there is a whole checkpoint that no record names, which is as good as
 * any other, because it holds committed records only. */
#include "journal/store/checkpoint.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"

#define KIND "STATE"
#define VERSION 1u
#define END_MARK 0x21444e45u /* "END!" */
#define TEMPORARY ".tmp"

#define BLOCK_BYTES 65536u /* flushed when this full */
/* The largest item is an entry with all its parts. */
#define ITEM_BYTES_MAX (RECORD_EXTRA_MAX + 2 * RECORD_NAME_MAX + 256u)
#define BLOCK_BYTES_MAX (BLOCK_BYTES + ITEM_BYTES_MAX)

enum entry_flag {
	ENTRY_DURABLE = 1,
	ENTRY_EXPIRES = 2,
	ENTRY_DELIVERED = 4,
	ENTRY_UPLOAD = 8,
	ENTRY_EXTRA = 16,
	ENTRY_MOVED = 32,
	ENTRY_FLAGS = 63,
};

/* ---- varints: LEB128, at most ten bytes ---- */

static void put_varint(struct bytes_writer *w, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		bytes_write8(w, (uint8_t)(v | 0x80));
	bytes_write8(w, (uint8_t)v);
}

static uint64_t get_varint(struct bytes_reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = bytes_read8(r);

		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return v;
	}
	r->failed = 1;
	return 0;
}

/* Differences may be negative: zigzag. */
static void put_difference(struct bytes_writer *w, uint64_t v, uint64_t from)
{
	uint64_t d = v - from;

	put_varint(w, d << 1 ^ (d >> 63 ? UINT64_MAX : 0));
}

static uint64_t get_difference(struct bytes_reader *r, uint64_t from)
{
	uint64_t z = get_varint(r);

	return from + (z >> 1 ^ (z & 1 ? UINT64_MAX : 0));
}

static uint32_t get_varint32(struct bytes_reader *r)
{
	uint64_t v = get_varint(r);

	if (v > UINT32_MAX)
		r->failed = 1;
	return (uint32_t)v;
}

/* ---- writing ---- */

struct out {
	const struct state *state;
	struct blob_writer *blob;
	struct bytes_writer w; /* over buf, behind the block's length */
	uint8_t *buf;
	/* within one queue */
	uint64_t last_ref, last_arrived_ms;
};

static int flush_block(struct out *o)
{
	size_t len = bytes_written(&o->w);
	int err;

	/* An item that did not fit would be our own miscount. */
	ASSERT(!o->w.failed);
	bytes_put32(o->buf, (uint32_t)len);
	err = blob_write(o->blob, o->buf, 4 + len);
	bytes_writer_init(&o->w, o->buf + 4, BLOCK_BYTES_MAX);
	return err;
}

/* Call after every item. */
static int end_item(struct out *o)
{
	return bytes_written(&o->w) < BLOCK_BYTES ? 0 : flush_block(o);
}

static int write_header(struct out *o, const struct log_position *p)
{
	const struct state *s = o->state;
	struct bytes_writer *w = &o->w;
	int err = 0;

	bytes_write32(w, VERSION);
	bytes_write64(w, p->segment);
	bytes_write64(w, p->offset);
	bytes_write64(w, p->lsn);
	bytes_write(w, p->chain, LOG_CHAIN_BYTES);
	bytes_write64(w, s->next_id);
	bytes_write64(w, s->live_messages);
	bytes_write32(w, (uint32_t)s->segment_count);
	bytes_write32(w, (uint32_t)s->addresses.count);
	bytes_write32(w, (uint32_t)s->uploads.count);
	bytes_write32(w, (uint32_t)s->queues.count);
	for (size_t i = 0; !err && i < s->segment_count; i++) {
		const struct state_segment *g = &s->segments[i];

		bytes_write64(w, g->live ? g->key : 0);
		err = end_item(o);
	}
	return err;
}

static int write_addresses(struct out *o)
{
	void **all = idmap_sorted(&o->state->addresses);
	uint8_t meta[RECORD_ADDRESS_ROOM];
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->addresses.count; i++) {
		const struct state_address *a = all[i];
		size_t len = record_address_encode(&a->record, meta);

		bytes_write16(&o->w, (uint16_t)len);
		bytes_write(&o->w, meta, len);
		err = end_item(o);
	}
	free(all);
	return err;
}

static void put_place(struct bytes_writer *w, const struct entry_place *p)
{
	put_varint(w, p->segment);
	put_varint(w, p->frame);
	put_varint(w, p->at);
	put_varint(w, p->stored_len);
	put_varint(w, p->body_len);
}

static int write_uploads(struct out *o)
{
	void **all = idmap_sorted(&o->state->uploads);
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->uploads.count; i++) {
		const struct state_upload *u = all[i];

		bytes_write64(&o->w, u->id);
		bytes_write8(&o->w, u->complete);
		bytes_write32(&o->w, u->piece_count);
		err = end_item(o);
		for (uint32_t k = 0; !err && k < u->piece_count; k++) {
			put_place(&o->w, &u->pieces[k]);
			err = end_item(o);
		}
	}
	free(all);
	return err;
}

static uint8_t entry_flags(const struct entry *e)
{
	const struct entry_more *m = e->more;
	unsigned flags = 0;

	flags |= e->durable ? ENTRY_DURABLE : 0;
	flags |= e->expiry_ms ? ENTRY_EXPIRES : 0;
	flags |= e->deliveries ? ENTRY_DELIVERED : 0;
	flags |= m && m->upload ? ENTRY_UPLOAD : 0;
	flags |= m && m->extra_len ? ENTRY_EXTRA : 0;
	flags |= m && m->reason ? ENTRY_MOVED : 0;
	return (uint8_t)flags;
}

static int write_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	uint8_t flags = entry_flags(e);
	struct out *o = ctx;
	struct bytes_writer *w = &o->w;

	bytes_write8(w, flags);
	bytes_write8(w, e->priority);
	bytes_write8(w, e->format);
	put_varint(w, ref - o->last_ref);
	put_difference(w, e->arrived_ms, o->last_arrived_ms);
	if (flags & ENTRY_EXPIRES)
		put_difference(w, e->expiry_ms, e->arrived_ms);
	if (flags & ENTRY_DELIVERED)
		put_varint(w, e->deliveries);
	if (flags & ENTRY_UPLOAD)
		bytes_write64(w, e->more->upload->id);
	else
		put_place(w, &e->place);
	if (flags & ENTRY_EXTRA) {
		bytes_write32(w, e->more->extra_len);
		bytes_write(w, e->more->data, e->more->extra_len);
	}
	if (flags & ENTRY_MOVED) {
		struct record_origin origin = state_entry_origin(e);

		bytes_write8(w, origin.reason);
		bytes_write16(w, origin.address_len);
		bytes_write16(w, origin.queue_len);
		bytes_write(w, origin.address, origin.address_len);
		bytes_write(w, origin.queue, origin.queue_len);
	}
	o->last_ref = ref;
	o->last_arrived_ms = e->arrived_ms;
	return end_item(o);
}

static int write_queues(struct out *o)
{
	void **all = idmap_sorted(&o->state->queues);
	uint8_t meta[RECORD_QUEUE_ROOM];
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->queues.count; i++) {
		const struct state_queue *q = all[i];
		size_t len = record_queue_encode(&q->record, meta);

		bytes_write16(&o->w, (uint16_t)len);
		bytes_write(&o->w, meta, len);
		bytes_write64(&o->w, q->entries.live);
		err = end_item(o);
		o->last_ref = o->last_arrived_ms = 0;
		if (!err)
			err = entries_each(&q->entries, write_entry, o);
	}
	free(all);
	return err;
}

static int write_state(struct out *o, const struct log_position *p)
{
	int err = write_header(o, p);

	if (!err)
		err = write_addresses(o);
	if (!err)
		err = write_uploads(o);
	if (!err)
		err = write_queues(o);
	if (err)
		return err;
	bytes_write32(&o->w, END_MARK);
	return flush_block(o);
}

static int write_blob(const struct checkpoint_place *place, const char *path,
		      const struct state *s, const struct log_position *p,
		      uint8_t ret_hash[CRYPTO_HASH_BYTES], uint64_t *ret_bytes)
{
	struct out o = {.state = s};
	int err;

	o.buf = malloc(4 + BLOCK_BYTES_MAX);
	if (!o.buf)
		return -ENOMEM;
	bytes_writer_init(&o.w, o.buf + 4, BLOCK_BYTES_MAX);
	err = blob_create(&place->identity, path, KIND, &o.blob);
	if (!err) {
		err = write_state(&o, p);
		if (err)
			blob_abandon(o.blob);
		else
			err = blob_finish(o.blob, ret_hash, ret_bytes);
	}
	crypto_zero(o.buf, 4 + BLOCK_BYTES_MAX);
	free(o.buf);
	return err;
}

static int make_path(const struct checkpoint_place *place, const char *name,
		     const char *suffix, char ret[CHECKPOINT_PATH_MAX])
{
	int n = snprintf(ret, CHECKPOINT_PATH_MAX,
			 "%s/" CHECKPOINT_DIR "%s%s%s", place->dir,
			 *name ? "/" : "", name, suffix);

	return n < 0 || n >= (int)CHECKPOINT_PATH_MAX ? -ENAMETOOLONG : 0;
}

int checkpoint_write(const struct checkpoint_place *place,
		     const struct state *s, const struct log_position *p,
		     uint32_t epoch, struct checkpoint_file *ret,
		     uint8_t ret_hash[CRYPTO_HASH_BYTES], uint64_t *ret_bytes)
{
	struct io *io = place->identity.io;
	struct checkpoint_file file = {.epoch = epoch, .lsn = p->lsn};
	char path[CHECKPOINT_PATH_MAX], temporary[CHECKPOINT_PATH_MAX];
	char dir[CHECKPOINT_PATH_MAX];
	int err;

	snprintf(file.name, sizeof(file.name),
		 "%08" PRIx32 "-%016" PRIx64 ".ckpt", epoch, p->lsn);
	if (make_path(place, "", "", dir) ||
	    make_path(place, file.name, "", path) ||
	    make_path(place, file.name, TEMPORARY, temporary))
		return -ENAMETOOLONG;
	err = write_blob(place, temporary, s, p, ret_hash, ret_bytes);
	if (!err)
		err = io_rename(io, temporary, path);
	if (!err)
		err = io_sync_dir(io, dir);
	if (!err)
		*ret = file;
	/* Half a file takes space, which may be what was missing.  Nobody
	 * reads it, so a failure to remove it changes nothing. */
	else if (io_unlink(io, temporary))
		return err;
	return err;
}

/* ---- reading ---- */

struct in {
	struct state *state;
	struct blob_reader *blob;
	struct bytes_reader r;
	uint8_t *buf;
	uint64_t lsn, messages; /* from the header */
	uint32_t segments, addresses, uploads, queues;
};

/* Call before every item. */
static int begin_item(struct in *in)
{
	uint8_t len_bytes[4];
	uint32_t len;
	int err;

	if (bytes_left(&in->r))
		return 0;
	err = blob_read(in->blob, len_bytes, sizeof(len_bytes));
	if (err)
		return err;
	len = bytes_get32(len_bytes);
	if (!len || len > BLOCK_BYTES_MAX)
		return -E_CORRUPT;
	err = blob_read(in->blob, in->buf, len);
	if (!err)
		bytes_reader_init(&in->r, in->buf, len);
	return err;
}

static int read_header(struct in *in, struct log_position *ret)
{
	struct bytes_reader *r = &in->r;
	const void *chain;
	int err = begin_item(in);

	if (err)
		return err;
	if (bytes_read32(r) != VERSION)
		return bytes_failed(r) ? -E_CORRUPT : -E_VERSION;
	ret->segment = bytes_read64(r);
	ret->offset = bytes_read64(r);
	ret->lsn = in->lsn = bytes_read64(r);
	chain = bytes_read(r, LOG_CHAIN_BYTES);
	if (chain)
		memcpy(ret->chain, chain, LOG_CHAIN_BYTES);
	in->state->next_id = bytes_read64(r);
	in->messages = bytes_read64(r);
	in->segments = bytes_read32(r);
	in->addresses = bytes_read32(r);
	in->uploads = bytes_read32(r);
	in->queues = bytes_read32(r);
	return bytes_failed(r) || !in->state->next_id ? -E_CORRUPT : 0;
}

/* The table grows as keys arrive, not by the count, which is unproven. */
static int read_segments(struct in *in)
{
	struct state *s = in->state;
	int err = 0;

	for (uint32_t i = 0; !err && i < in->segments; i++) {
		uint64_t key;

		err = begin_item(in);
		if (err)
			break;
		key = bytes_read64(&in->r);
		if (bytes_failed(&in->r))
			return -E_CORRUPT;
		err = state_put_segment(s, key);
	}
	return err;
}

/* A record's meta part behind its 16-bit length; NULL when it is short. */
static const void *read_meta(struct in *in, size_t *ret_len)
{
	*ret_len = bytes_read16(&in->r);
	return bytes_read(&in->r, *ret_len);
}

static int read_addresses(struct in *in)
{
	struct record_address a;
	const void *meta;
	size_t len;
	int err = 0;

	for (uint32_t i = 0; !err && i < in->addresses; i++) {
		err = begin_item(in);
		if (err)
			break;
		meta = read_meta(in, &len);
		if (!meta || record_address_decode(meta, len, &a) ||
		    idmap_get(&in->state->addresses, a.id))
			return -E_CORRUPT;
		err = state_put_address(in->state, &a);
	}
	return err;
}

static int get_place(struct in *in, struct entry_place *ret)
{
	struct bytes_reader *r = &in->r;

	ret->segment = get_varint32(r);
	ret->frame = get_varint32(r);
	ret->at = get_varint32(r);
	ret->stored_len = get_varint32(r);
	ret->body_len = get_varint32(r);
	if (bytes_failed(r) || ret->segment >= in->state->segment_count ||
	    !in->state->segments[ret->segment].key)
		return -E_CORRUPT;
	return 0;
}

static int read_upload(struct in *in)
{
	struct entry_place place;
	struct state_upload *u;
	uint32_t piece_count;
	uint8_t complete;
	uint64_t id;
	int err = begin_item(in);

	if (err)
		return err;
	id = bytes_read64(&in->r);
	complete = bytes_read8(&in->r);
	piece_count = bytes_read32(&in->r);
	if (bytes_failed(&in->r) || !id || complete > 1 ||
	    idmap_get(&in->state->uploads, id))
		return -E_CORRUPT;
	err = state_put_upload(in->state, id, &u);
	if (err)
		return err;
	u->complete = complete;
	for (uint32_t i = 0; !err && i < piece_count; i++) {
		err = begin_item(in);
		if (!err)
			err = get_place(in, &place);
		if (!err)
			err = state_put_piece(in->state, u, &place);
	}
	return err;
}

static int get_parts(struct in *in, unsigned flags, struct state_parts *ret)
{
	struct bytes_reader *r = &in->r;
	struct record_origin *o = &ret->origin;

	if (flags & ENTRY_EXTRA) {
		ret->extra_len = bytes_read32(r);
		if (!ret->extra_len || ret->extra_len > RECORD_EXTRA_MAX)
			return -E_CORRUPT;
		ret->extra = bytes_read(r, ret->extra_len);
	}
	if (flags & ENTRY_MOVED) {
		o->reason = bytes_read8(r);
		o->address_len = bytes_read16(r);
		o->queue_len = bytes_read16(r);
		o->address = bytes_read(r, o->address_len);
		o->queue = bytes_read(r, o->queue_len);
		if (!o->reason || o->address_len > RECORD_NAME_MAX ||
		    o->queue_len > RECORD_NAME_MAX)
			return -E_CORRUPT;
	}
	return bytes_failed(r) ? -E_CORRUPT : 0;
}

/* *ref and like->arrived_ms come in as those of the entry before. */
static int read_entry(struct in *in, struct state_queue *q, uint64_t *ref,
		      struct entry *like)
{
	struct bytes_reader *r = &in->r;
	struct state_parts parts = {0};
	uint64_t step, arrived_ms = like->arrived_ms;
	unsigned flags;
	int err = begin_item(in);

	if (err)
		return err;
	*like = (struct entry){0};
	flags = bytes_read8(r);
	like->priority = bytes_read8(r);
	like->format = bytes_read8(r);
	step = get_varint(r);
	like->arrived_ms = get_difference(r, arrived_ms);
	if (flags & ENTRY_EXPIRES)
		like->expiry_ms = get_difference(r, like->arrived_ms);
	if (flags & ENTRY_DELIVERED)
		like->deliveries = get_varint32(r);
	like->durable = !!(flags & ENTRY_DURABLE);
	if (bytes_failed(r) || flags > ENTRY_FLAGS || like->priority > 9 ||
	    !step || step >= in->lsn - *ref)
		return -E_CORRUPT;
	*ref += step;
	if (flags & ENTRY_UPLOAD) {
		parts.upload = idmap_get(&in->state->uploads, bytes_read64(r));
		if (!parts.upload || !parts.upload->complete)
			return -E_CORRUPT;
	} else {
		err = get_place(in, &like->place);
	}
	if (!err)
		err = get_parts(in, flags, &parts);
	return err ? err : state_put_entry(in->state, q, *ref, like, &parts);
}

static int read_queue(struct in *in)
{
	uint64_t ref = 0, entry_count;
	struct entry like = {0};
	struct record_queue q;
	const void *meta;
	size_t len;
	int err = begin_item(in);

	if (err)
		return err;
	meta = read_meta(in, &len);
	if (!meta || record_queue_decode(meta, len, &q) ||
	    idmap_get(&in->state->queues, q.id))
		return -E_CORRUPT;
	entry_count = bytes_read64(&in->r);
	if (bytes_failed(&in->r))
		return -E_CORRUPT;
	err = state_put_queue(in->state, &q);
	for (uint64_t i = 0; !err && i < entry_count; i++)
		err = read_entry(in, idmap_get(&in->state->queues, q.id), &ref,
				 &like);
	return err;
}

/* What no single item shows. */
static int read_end(struct in *in)
{
	const struct idmap *m = &in->state->uploads;
	int err = begin_item(in);

	if (err)
		return err;
	if (bytes_read32(&in->r) != END_MARK || bytes_failed(&in->r) ||
	    bytes_left(&in->r) || !blob_at_end(in->blob) ||
	    in->messages != in->state->live_messages)
		return -E_CORRUPT;
	for (size_t i = 0; i < m->capacity; i++) {
		const struct state_upload *u = m->slots[i].value;

		if (m->slots[i].id && u->complete != (u->entries > 0))
			return -E_CORRUPT;
	}
	return 0;
}

static int read_state(struct in *in, struct log_position *ret)
{
	int err = read_header(in, ret);

	if (!err)
		err = read_segments(in);
	if (!err)
		err = read_addresses(in);
	for (uint32_t i = 0; !err && i < in->uploads; i++)
		err = read_upload(in);
	for (uint32_t i = 0; !err && i < in->queues; i++)
		err = read_queue(in);
	return err ? err : read_end(in);
}

int checkpoint_read(const struct checkpoint_place *place, const char *name,
		    struct state *s, struct log_position *ret)
{
	struct log_position position = {0};
	struct in in = {.state = s};
	char path[CHECKPOINT_PATH_MAX];
	int err = make_path(place, name, "", path);

	if (err)
		return err;
	in.buf = malloc(BLOCK_BYTES_MAX);
	if (!in.buf)
		return -ENOMEM;
	bytes_reader_init(&in.r, in.buf, 0);
	err = blob_open(&place->identity, path, KIND, NULL, &in.blob);
	if (!err) {
		err = read_state(&in, &position);
		blob_close(in.blob);
	}
	crypto_zero(in.buf, BLOCK_BYTES_MAX);
	free(in.buf);
	if (!err)
		*ret = position;
	return err;
}

int checkpoint_verify(const struct checkpoint_place *place, const char *name,
		      const uint8_t hash[CRYPTO_HASH_BYTES])
{
	char path[CHECKPOINT_PATH_MAX];
	int err = make_path(place, name, "", path);

	return err ? err : blob_verify(place->identity.io, path, hash);
}

/* ---- the directory ---- */

/* Exactly `digits` lower-case hexadecimal digits. */
static int parse_hex(const char *text, unsigned digits, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < digits; i++) {
		static const char all[] = "0123456789abcdef";
		const char *at = text[i] ? strchr(all, text[i]) : NULL;

		if (!at)
			return -EINVAL;
		v = v << 4 | (uint64_t)(at - all);
	}
	*ret = v;
	return 0;
}

int checkpoint_parse(const char *name, struct checkpoint_file *ret)
{
	uint64_t epoch, lsn;

	if (strlen(name) != CHECKPOINT_NAME_BYTES - 1 ||
	    parse_hex(name, 8, &epoch) || name[8] != '-' ||
	    parse_hex(name + 9, 16, &lsn) || strcmp(name + 25, ".ckpt") != 0)
		return -EINVAL;
	ret->epoch = (uint32_t)epoch;
	ret->lsn = lsn;
	memcpy(ret->name, name, CHECKPOINT_NAME_BYTES);
	return 0;
}

struct listing {
	struct checkpoint_file *files;
	size_t count, max;
};

/* Names come in rising order; the oldest makes room. */
static int list_one(void *ctx, const char *name)
{
	struct checkpoint_file file;
	struct listing *l = ctx;

	if (checkpoint_parse(name, &file))
		return 0;
	if (l->count == l->max)
		l->count--;
	memmove(l->files + 1, l->files, l->count * sizeof(file));
	l->files[0] = file;
	l->count++;
	return 0;
}

int checkpoint_list(const struct checkpoint_place *place,
		    struct checkpoint_file *ret, size_t max, size_t *ret_count)
{
	struct listing l = {.files = ret, .max = max};
	char dir[CHECKPOINT_PATH_MAX];
	int err = make_path(place, "", "", dir);

	if (!err)
		err = io_list(place->identity.io, dir, list_one, &l);
	if (!err)
		*ret_count = l.count;
	return err;
}

struct removal {
	const struct checkpoint_place *place;
	uint32_t epoch;
	const struct checkpoint_file *keep;
	size_t keep_count, removed;
};

static int remove_one(void *ctx, const char *name)
{
	struct removal *r = ctx;
	struct checkpoint_file file;
	char path[CHECKPOINT_PATH_MAX], base[CHECKPOINT_NAME_BYTES];
	int err;

	snprintf(base, sizeof(base), "%s", name);
	if (checkpoint_parse(base, &file) || file.epoch > r->epoch ||
	    (strcmp(name, base) != 0 &&
	     strcmp(name + strlen(base), TEMPORARY) != 0))
		return 0;
	for (size_t i = 0; i < r->keep_count; i++)
		if (!strcmp(name, r->keep[i].name))
			return 0;
	err = make_path(r->place, name, "", path);
	if (!err)
		err = io_unlink(r->place->identity.io, path);
	r->removed += !err;
	return err == -ENOENT ? 0 : err;
}

int checkpoint_remove_others(const struct checkpoint_place *place,
			     uint32_t epoch, const struct checkpoint_file *keep,
			     size_t keep_count)
{
	struct removal r = {place, epoch, keep, keep_count, 0};
	char dir[CHECKPOINT_PATH_MAX];
	int err = make_path(place, "", "", dir);

	if (!err)
		err = io_list(place->identity.io, dir, remove_one, &r);
	if (!err && r.removed)
		err = io_sync_dir(place->identity.io, dir);
	return err;
}
