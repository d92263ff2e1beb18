/* journal/store/checkpoint_read.c: a state read back.
 *
 * The blob's checksums have vouched for the bytes, but nothing here relies on
 * that: counts are believed one item at a time, and what contradicts itself
 * or another item is damage. */
#include "journal/store/checkpoint_format.h"
#include "journal/store/varint.h"

struct in {
	struct state *state;
	struct blob_reader *blob;
	struct bytes_reader r;
	uint8_t *buf;
	uint64_t messages; /* from the header */
	uint32_t files, addresses, uploads, queues;
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
	if (!len || len > CHECKPOINT_BLOCK_BYTES_MAX)
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
	if (bytes_read32(r) != CHECKPOINT_VERSION)
		return bytes_failed(r) ? -E_CORRUPT : -E_VERSION;
	ret->segment = bytes_read64(r);
	ret->offset = bytes_read64(r);
	ret->lsn = bytes_read64(r);
	chain = bytes_read(r, LOG_CHAIN_BYTES);
	if (chain)
		memcpy(ret->chain, chain, LOG_CHAIN_BYTES);
	in->state->next_id = bytes_read64(r);
	in->messages = bytes_read64(r);
	in->files = bytes_read32(r);
	in->addresses = bytes_read32(r);
	in->uploads = bytes_read32(r);
	in->queues = bytes_read32(r);
	return bytes_failed(r) || !in->state->next_id ? -E_CORRUPT : 0;
}

/* The table grows as keys arrive, not by the count, which is unproven. */
static int read_files(struct in *in)
{
	uint64_t last = 0;
	int err = 0;

	for (uint32_t i = 0; !err && i < in->files; i++) {
		uint64_t key, bytes = 0;

		err = begin_item(in);
		if (err)
			break;
		key = bytes_read64(&in->r);
		if (store_is_extent(key))
			bytes = bytes_read64(&in->r);
		if (bytes_failed(&in->r) || key <= last)
			return -E_CORRUPT;
		last = key;
		err = state_put_file(in->state, key, bytes);
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

	ret->segment = varint_read32(r);
	ret->frame = varint_read32(r);
	ret->at = varint_read32(r);
	ret->stored_len = varint_read32(r);
	ret->body_len = varint_read32(r);
	if (bytes_failed(r) || ret->segment >= in->state->file_count)
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

/* The place of a body, which no extent file holds by itself. */
static int get_segment_place(struct in *in, struct entry_place *ret)
{
	int err = get_place(in, ret);

	if (!err && store_is_extent(in->state->files[ret->segment].key))
		err = -E_CORRUPT;
	return err;
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
	*like = (struct entry){.priority = (uint8_t)record_ref_priority(*ref)};
	flags = bytes_read8(r);
	like->format = bytes_read8(r);
	step = varint_read(r);
	like->arrived_ms = varint_read_difference(r, arrived_ms);
	if (flags & ENTRY_EXPIRES)
		like->expiry_ms = varint_read_difference(r, like->arrived_ms);
	if (flags & ENTRY_DELIVERED)
		like->deliveries = varint_read32(r);
	like->durable = !!(flags & ENTRY_DURABLE);
	like->counted = !!(flags & ENTRY_DELIVERED);
	if (bytes_failed(r) || flags > ENTRY_FLAGS || !step ||
	    step >> RECORD_NUMBER_BITS)
		return -E_CORRUPT;
	*ref += step;
	if (flags & ENTRY_UPLOAD) {
		parts.upload = idmap_get(&in->state->uploads, bytes_read64(r));
		if (!parts.upload || !parts.upload->complete)
			return -E_CORRUPT;
	} else {
		err = get_segment_place(in, &like->place);
	}
	if (!err)
		err = get_parts(in, flags, &parts);
	return err ? err : state_put_entry(in->state, q, *ref, like, &parts);
}

/* The items behind a run's.  The buffer grows as they come. */
static int read_detail(struct in *in, uint32_t span, uint32_t len,
		       struct detail **ret)
{
	uint8_t *data = NULL, *grown;
	const void *chunk;
	uint32_t at = 0;
	int err = 0;

	while (!err && at < len) {
		uint32_t n =
			(uint32_t)base_min(CHECKPOINT_DETAIL_CHUNK, len - at);

		err = begin_item(in);
		chunk = err ? NULL : bytes_read(&in->r, n);
		grown = chunk ? realloc(data, at + n) : NULL;
		if (!grown) {
			err = err ? err : chunk ? -ENOMEM : -E_CORRUPT;
			break;
		}
		data = grown;
		memcpy(data + at, chunk, n);
		at += n;
	}
	if (!err)
		err = detail_decode(span, data, len, ret);
	free(data);
	return err;
}

/* *ref comes in as the one behind the run before. */
static int read_run(struct in *in, struct state_queue *q, uint64_t *ref)
{
	struct bytes_reader *r = &in->r;
	struct state_run like = {0};
	struct detail *detail = NULL;
	uint32_t detail_len = 0;
	uint64_t step;
	unsigned flags;
	int err = begin_item(in);

	if (err)
		return err;
	flags = bytes_read8(r);
	step = varint_read(r);
	like.span = varint_read32(r);
	like.copied = varint_read32(r);
	like.live = varint_read32(r);
	like.file = varint_read32(r);
	like.offset = varint_read32(r);
	like.bytes = varint_read32(r);
	if (flags & RUN_EXPIRES)
		like.expiry_min_ms = varint_read(r);
	if (flags & RUN_DETAIL)
		detail_len = varint_read32(r);
	if (bytes_failed(r) || flags > RUN_FLAGS || !like.span ||
	    like.bytes > RECORD_RUN_BYTES_MAX ||
	    !(flags & RUN_EXPIRES) != !like.expiry_min_ms ||
	    !(flags & RUN_DETAIL) != !detail_len ||
	    detail_len > DETAIL_BYTES_MAX || step >> RECORD_NUMBER_BITS)
		return -E_CORRUPT;
	like.first = *ref + step;
	if (record_ref_priority(like.first) != record_ref_priority(*ref))
		return -E_CORRUPT;
	*ref = like.first + like.span;
	if (detail_len)
		err = read_detail(in, like.span, detail_len, &detail);
	return err ? err : state_put_run(in->state, q, &like, detail);
}

static int read_lane(struct in *in, struct state_queue *q, unsigned *priority)
{
	struct bytes_reader *r = &in->r;
	uint64_t next, run_count, entry_count, ref;
	struct state_lane *lane;
	struct entry like = {0};
	unsigned before = *priority;
	int err = begin_item(in);

	if (err)
		return err;
	*priority = bytes_read8(r);
	next = varint_read(r);
	run_count = varint_read(r);
	entry_count = varint_read(r);
	if (bytes_failed(r) || *priority >= RECORD_PRIORITIES ||
	    (before < RECORD_PRIORITIES && *priority <= before) || !next ||
	    next > 1ull << RECORD_NUMBER_BITS)
		return -E_CORRUPT;
	err = state_put_lane(in->state, q, *priority, &lane);
	if (!err)
		lane->next = next;
	ref = record_ref(*priority, 1);
	for (uint64_t i = 0; !err && i < run_count; i++)
		err = read_run(in, q, &ref);
	ref = record_ref(*priority, 0);
	for (uint64_t i = 0; !err && i < entry_count; i++)
		err = read_entry(in, q, &ref, &like);
	return err;
}

static int read_queue(struct in *in)
{
	unsigned lanes, priority = RECORD_PRIORITIES;
	struct state_queue *q;
	struct record_queue record;
	const void *meta;
	uint64_t bytes;
	size_t len;
	int err = begin_item(in);

	if (err)
		return err;
	meta = read_meta(in, &len);
	if (!meta || record_queue_decode(meta, len, &record) ||
	    idmap_get(&in->state->queues, record.id))
		return -E_CORRUPT;
	bytes = varint_read(&in->r);
	lanes = bytes_read8(&in->r);
	if (bytes_failed(&in->r) || lanes > RECORD_PRIORITIES)
		return -E_CORRUPT;
	err = state_put_queue(in->state, &record);
	if (err)
		return err;
	q = idmap_get(&in->state->queues, record.id);
	for (unsigned i = 0; !err && i < lanes; i++)
		err = read_lane(in, q, &priority);
	if (!err && bytes && !q->live)
		err = -E_CORRUPT;
	q->bytes = bytes;
	in->state->live_bytes += bytes;
	return err;
}

/* What no single item shows. */
static int read_end(struct in *in)
{
	const struct idmap *m = &in->state->uploads;
	int err = begin_item(in);

	if (err)
		return err;
	if (bytes_read32(&in->r) != CHECKPOINT_END_MARK ||
	    bytes_failed(&in->r) || bytes_left(&in->r) ||
	    !blob_at_end(in->blob) || in->messages != in->state->live_messages)
		return -E_CORRUPT;
	for (size_t i = 0; i < m->capacity; i++) {
		const struct state_upload *u = m->slots[i].value;

		if (m->slots[i].id && u->complete != (u->entries > 0))
			return -E_CORRUPT;
	}
	return state_close_files(in->state);
}

static int read_state(struct in *in, struct log_position *ret)
{
	int err = read_header(in, ret);

	if (!err)
		err = read_files(in);
	if (!err)
		err = read_addresses(in);
	for (uint32_t i = 0; !err && i < in->uploads; i++)
		err = read_upload(in);
	for (uint32_t i = 0; !err && i < in->queues; i++)
		err = read_queue(in);
	return err ? err : read_end(in);
}

int checkpoint_get_state(struct blob_reader *blob, struct state *s,
			 struct log_position *ret)
{
	struct in in = {.state = s, .blob = blob};
	int err;

	in.buf = malloc(CHECKPOINT_BLOCK_BYTES_MAX);
	if (!in.buf)
		return -ENOMEM;
	bytes_reader_init(&in.r, in.buf, 0);
	err = read_state(&in, ret);
	crypto_zero(in.buf, CHECKPOINT_BLOCK_BYTES_MAX);
	free(in.buf);
	return err;
}
