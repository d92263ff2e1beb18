/* journal/store/record.c: the codecs of docs/format/records.md.
 *
 * An encoder asserts, because what it is given was checked when it entered
 * the broker.  A decoder believes nothing: every length is checked before it
 * is used or multiplied, every enumeration against its values, and a meta
 * part must end exactly where its last field does. */
#include "journal/store/record.h"

#include "base/bytes.h"
#include "journal/store/extent.h"

#define ENQUEUE_FIXED 44u
#define ACK_FIXED 20u
#define COUNT_FIXED 24u
#define MOVE_FIXED 69u
#define EXTENTS_FIXED 56u
#define RANGE_BYTES 16u
#define TARGET_BYTES 8u
#define RUN_BYTES 40u
#define PLACE_BYTES 24u

#define ROUTING_MASK (RECORD_ANYCAST | RECORD_MULTICAST)
#define ADDRESS_FLAGS RECORD_ADDRESS_AUTO_CREATED
#define QUEUE_FLAGS                                                            \
	(RECORD_QUEUE_AUTO_CREATED | RECORD_QUEUE_TEMPORARY |                  \
	 RECORD_QUEUE_PAUSED)
#define FILE_NAME_MAX 255u

static int decoded(const struct bytes_reader *r)
{
	return bytes_failed(r) || bytes_left(r) ? -E_CORRUPT : 0;
}

static size_t encoded(const struct bytes_writer *w)
{
	ASSERT(!w->failed);
	return bytes_written(w);
}

/* Names travel through C strings in the broker, so a zero byte in one could
 * only be damage. */
static int name_ok(const void *name, size_t len, size_t len_max)
{
	return name && len <= len_max && !memchr(name, 0, len);
}

static int ref_ok(uint64_t ref)
{
	return record_ref_priority(ref) < RECORD_PRIORITIES &&
	       record_ref_number(ref);
}

static void put_ids(struct bytes_writer *w, const uint64_t *ids, uint32_t count)
{
	uint8_t *p = bytes_reserve(w, (size_t)count * TARGET_BYTES);

	for (uint32_t i = 0; p && i < count; i++)
		bytes_put64(p + i * TARGET_BYTES, ids[i]);
}

static int ids_ok(const uint8_t *ids, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (!bytes_get64(ids + i * TARGET_BYTES))
			return 0;
	return 1;
}

/* ---- ENQUEUE ---- */

static int props_ok(const struct record_props *p)
{
	return p->priority <= 9 && p->durable <= 1 && !p->reserved;
}

static void put_props(struct bytes_writer *w, const struct record_props *p)
{
	bytes_write64(w, p->expiry_ms);
	bytes_write64(w, p->arrived_ms);
	bytes_write8(w, p->priority);
	bytes_write8(w, p->durable);
	bytes_write8(w, p->format);
	bytes_write8(w, p->reserved);
}

static void get_props(struct bytes_reader *r, struct record_props *p)
{
	p->expiry_ms = bytes_read64(r);
	p->arrived_ms = bytes_read64(r);
	p->priority = bytes_read8(r);
	p->durable = bytes_read8(r);
	p->format = bytes_read8(r);
	p->reserved = bytes_read8(r);
}

static int enqueue_ok(const struct record_enqueue *e)
{
	return props_ok(&e->props) && e->target_count &&
	       e->target_count <= RECORD_TARGET_MAX &&
	       !e->upload == !e->piece_count;
}

size_t record_enqueue_room(uint32_t target_count)
{
	return ENQUEUE_FIXED + (size_t)target_count * TARGET_BYTES;
}

size_t record_enqueue_encode(const struct record_enqueue *e, void *buf)
{
	struct bytes_writer w;

	ASSERT(enqueue_ok(e));
	bytes_writer_init(&w, buf, record_enqueue_room(e->target_count));
	put_props(&w, &e->props);
	bytes_write64(&w, e->upload);
	bytes_write64(&w, e->bytes);
	bytes_write32(&w, e->piece_count);
	bytes_write32(&w, e->target_count);
	put_ids(&w, e->targets, e->target_count);
	return encoded(&w);
}

int record_enqueue_decode(const void *meta, size_t len,
			  struct record_enqueue *ret)
{
	struct record_enqueue e = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	get_props(&r, &e.props);
	e.upload = bytes_read64(&r);
	e.bytes = bytes_read64(&r);
	e.piece_count = bytes_read32(&r);
	e.target_count = bytes_read32(&r);
	if (bytes_failed(&r) || !enqueue_ok(&e))
		return -E_CORRUPT;
	e.targets_encoded =
		bytes_read(&r, (size_t)e.target_count * TARGET_BYTES);
	if (decoded(&r) || !ids_ok(e.targets_encoded, e.target_count))
		return -E_CORRUPT;
	*ret = e;
	return 0;
}

uint64_t record_enqueue_target(const struct record_enqueue *e, uint32_t index)
{
	ASSERT(index < e->target_count);
	return bytes_get64(e->targets_encoded + (size_t)index * TARGET_BYTES);
}

/* ---- PIECE, UPLOAD_ABORT ---- */

size_t record_piece_encode(const struct record_piece *p, void *buf)
{
	struct bytes_writer w;

	ASSERT(p->upload);
	bytes_writer_init(&w, buf, RECORD_PIECE_ROOM);
	bytes_write64(&w, p->upload);
	bytes_write32(&w, p->index);
	return encoded(&w);
}

int record_piece_decode(const void *meta, size_t len, struct record_piece *ret)
{
	struct record_piece p;
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	p.upload = bytes_read64(&r);
	p.index = bytes_read32(&r);
	if (decoded(&r) || !p.upload)
		return -E_CORRUPT;
	*ret = p;
	return 0;
}

static size_t encode_id(uint64_t id, void *buf)
{
	ASSERT(id);
	bytes_put64(buf, id);
	return 8;
}

static int decode_id(const void *meta, size_t len, uint64_t *ret_id)
{
	if (len != 8 || !bytes_get64(meta))
		return -E_CORRUPT;
	*ret_id = bytes_get64(meta);
	return 0;
}

size_t record_upload_abort_encode(uint64_t upload, void *buf)
{
	return encode_id(upload, buf);
}

int record_upload_abort_decode(const void *meta, size_t len,
			       uint64_t *ret_upload)
{
	return decode_id(meta, len, ret_upload);
}

/* ---- ACK ---- */

static int range_ok(const struct record_range *r)
{
	return r->first <= r->last &&
	       record_ref_priority(r->first) == record_ref_priority(r->last) &&
	       record_ref_priority(r->first) < RECORD_PRIORITIES;
}

size_t record_ack_room(uint32_t range_count)
{
	return ACK_FIXED + (size_t)range_count * RANGE_BYTES;
}

size_t record_ack_encode(const struct record_ack *a, void *buf)
{
	struct bytes_writer w;

	ASSERT(a->queue && a->range_count <= RECORD_RANGE_MAX);
	bytes_writer_init(&w, buf, record_ack_room(a->range_count));
	bytes_write64(&w, a->queue);
	bytes_write64(&w, a->bytes);
	bytes_write32(&w, a->range_count);
	for (uint32_t i = 0; i < a->range_count; i++) {
		ASSERT(range_ok(&a->ranges[i]));
		bytes_write64(&w, a->ranges[i].first);
		bytes_write64(&w, a->ranges[i].last);
	}
	return encoded(&w);
}

struct record_range record_ack_range(const struct record_ack *a, uint32_t index)
{
	const uint8_t *p;

	ASSERT(index < a->range_count);
	p = a->ranges_encoded + (size_t)index * RANGE_BYTES;
	return (struct record_range){bytes_get64(p), bytes_get64(p + 8)};
}

int record_ack_decode(const void *meta, size_t len, struct record_ack *ret)
{
	struct record_ack a = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	a.queue = bytes_read64(&r);
	a.bytes = bytes_read64(&r);
	a.range_count = bytes_read32(&r);
	if (bytes_failed(&r) || !a.queue || a.range_count > RECORD_RANGE_MAX)
		return -E_CORRUPT;
	a.ranges_encoded = bytes_read(&r, (size_t)a.range_count * RANGE_BYTES);
	if (decoded(&r))
		return -E_CORRUPT;
	for (uint32_t i = 0; i < a.range_count; i++) {
		struct record_range range = record_ack_range(&a, i);

		if (!range_ok(&range))
			return -E_CORRUPT;
	}
	*ret = a;
	return 0;
}

/* ---- COUNT ---- */

size_t record_count_room(uint32_t extra_len)
{
	return COUNT_FIXED + (size_t)extra_len;
}

size_t record_count_encode(const struct record_count *c, void *buf)
{
	struct bytes_writer w;

	ASSERT(c->queue && ref_ok(c->ref) && c->extra_len <= RECORD_EXTRA_MAX);
	bytes_writer_init(&w, buf, record_count_room(c->extra_len));
	bytes_write64(&w, c->queue);
	bytes_write64(&w, c->ref);
	bytes_write32(&w, c->deliveries);
	bytes_write32(&w, c->extra_len);
	bytes_write(&w, c->extra, c->extra_len);
	return encoded(&w);
}

int record_count_decode(const void *meta, size_t len, struct record_count *ret)
{
	struct record_count c = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	c.queue = bytes_read64(&r);
	c.ref = bytes_read64(&r);
	c.deliveries = bytes_read32(&r);
	c.extra_len = bytes_read32(&r);
	if (bytes_failed(&r) || !c.queue || !ref_ok(c.ref) ||
	    c.extra_len > RECORD_EXTRA_MAX)
		return -E_CORRUPT;
	c.extra = bytes_read(&r, c.extra_len);
	if (decoded(&r))
		return -E_CORRUPT;
	*ret = c;
	return 0;
}

/* ---- MOVE ---- */

static int move_ok(const struct record_move *m)
{
	return m->queue && ref_ok(m->ref) && props_ok(&m->props) &&
	       !m->upload == !m->piece_count && m->target_count &&
	       m->target_count <= RECORD_TARGET_MAX &&
	       m->extra_len <= RECORD_EXTRA_MAX &&
	       m->origin.address_len <= RECORD_NAME_MAX &&
	       m->origin.queue_len <= RECORD_NAME_MAX &&
	       m->origin.reason >= RECORD_REASON_ATTEMPTS &&
	       m->origin.reason <= RECORD_REASON_ADMIN;
}

size_t record_move_room(const struct record_move *m)
{
	return MOVE_FIXED + (size_t)m->target_count * TARGET_BYTES +
	       m->origin.address_len + m->origin.queue_len + m->extra_len;
}

size_t record_move_encode(const struct record_move *m, void *buf)
{
	struct bytes_writer w;

	ASSERT(move_ok(m));
	bytes_writer_init(&w, buf, record_move_room(m));
	bytes_write64(&w, m->queue);
	bytes_write64(&w, m->ref);
	put_props(&w, &m->props);
	bytes_write64(&w, m->upload);
	bytes_write64(&w, m->bytes);
	bytes_write32(&w, m->piece_count);
	bytes_write8(&w, m->origin.reason);
	bytes_write16(&w, m->origin.address_len);
	bytes_write16(&w, m->origin.queue_len);
	bytes_write32(&w, m->extra_len);
	bytes_write32(&w, m->target_count);
	put_ids(&w, m->targets, m->target_count);
	bytes_write(&w, m->origin.address, m->origin.address_len);
	bytes_write(&w, m->origin.queue, m->origin.queue_len);
	bytes_write(&w, m->extra, m->extra_len);
	return encoded(&w);
}

int record_move_decode(const void *meta, size_t len, struct record_move *ret)
{
	struct record_move m = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	m.queue = bytes_read64(&r);
	m.ref = bytes_read64(&r);
	get_props(&r, &m.props);
	m.upload = bytes_read64(&r);
	m.bytes = bytes_read64(&r);
	m.piece_count = bytes_read32(&r);
	m.origin.reason = bytes_read8(&r);
	m.origin.address_len = bytes_read16(&r);
	m.origin.queue_len = bytes_read16(&r);
	m.extra_len = bytes_read32(&r);
	m.target_count = bytes_read32(&r);
	if (bytes_failed(&r) || !move_ok(&m))
		return -E_CORRUPT;
	m.targets_encoded =
		bytes_read(&r, (size_t)m.target_count * TARGET_BYTES);
	m.origin.address = bytes_read(&r, m.origin.address_len);
	m.origin.queue = bytes_read(&r, m.origin.queue_len);
	m.extra = bytes_read(&r, m.extra_len);
	if (decoded(&r) || !ids_ok(m.targets_encoded, m.target_count) ||
	    !name_ok(m.origin.address, m.origin.address_len, RECORD_NAME_MAX) ||
	    !name_ok(m.origin.queue, m.origin.queue_len, RECORD_NAME_MAX))
		return -E_CORRUPT;
	*ret = m;
	return 0;
}

uint64_t record_move_target(const struct record_move *m, uint32_t index)
{
	ASSERT(index < m->target_count);
	return bytes_get64(m->targets_encoded + (size_t)index * TARGET_BYTES);
}

/* ---- ADDRESS, QUEUE and their ends ---- */

static int address_ok(const struct record_address *a)
{
	return a->id && a->routing && !(a->routing & ~ROUTING_MASK) &&
	       !(a->flags & ~ADDRESS_FLAGS) && a->name_len &&
	       name_ok(a->name, a->name_len, RECORD_NAME_MAX);
}

size_t record_address_encode(const struct record_address *a, void *buf)
{
	struct bytes_writer w;

	ASSERT(address_ok(a));
	bytes_writer_init(&w, buf, RECORD_ADDRESS_ROOM);
	bytes_write64(&w, a->id);
	bytes_write8(&w, a->routing);
	bytes_write8(&w, a->flags);
	bytes_write16(&w, a->name_len);
	bytes_write(&w, a->name, a->name_len);
	return encoded(&w);
}

int record_address_decode(const void *meta, size_t len,
			  struct record_address *ret)
{
	struct record_address a = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	a.id = bytes_read64(&r);
	a.routing = bytes_read8(&r);
	a.flags = bytes_read8(&r);
	a.name_len = bytes_read16(&r);
	a.name = bytes_read(&r, a.name_len);
	if (decoded(&r) || !address_ok(&a))
		return -E_CORRUPT;
	*ret = a;
	return 0;
}

size_t record_gone_encode(uint64_t id, void *buf)
{
	return encode_id(id, buf);
}

int record_gone_decode(const void *meta, size_t len, uint64_t *ret_id)
{
	return decode_id(meta, len, ret_id);
}

static int queue_ok(const struct record_queue *q)
{
	return q->id && q->address &&
	       (q->routing == RECORD_ANYCAST ||
		q->routing == RECORD_MULTICAST) &&
	       !(q->flags & ~QUEUE_FLAGS) && q->name_len &&
	       name_ok(q->name, q->name_len, RECORD_NAME_MAX);
}

size_t record_queue_encode(const struct record_queue *q, void *buf)
{
	struct bytes_writer w;

	ASSERT(queue_ok(q));
	bytes_writer_init(&w, buf, RECORD_QUEUE_ROOM);
	bytes_write64(&w, q->id);
	bytes_write64(&w, q->address);
	bytes_write8(&w, q->routing);
	bytes_write8(&w, q->flags);
	bytes_write16(&w, q->name_len);
	bytes_write(&w, q->name, q->name_len);
	return encoded(&w);
}

int record_queue_decode(const void *meta, size_t len, struct record_queue *ret)
{
	struct record_queue q = {0};
	struct bytes_reader r;

	bytes_reader_init(&r, meta, len);
	q.id = bytes_read64(&r);
	q.address = bytes_read64(&r);
	q.routing = bytes_read8(&r);
	q.flags = bytes_read8(&r);
	q.name_len = bytes_read16(&r);
	q.name = bytes_read(&r, q.name_len);
	if (decoded(&r) || !queue_ok(&q))
		return -E_CORRUPT;
	*ret = q;
	return 0;
}

/* ---- EXTENTS ---- */

static int run_ok(const struct record_run *r)
{
	return r->queue && ref_ok(r->first) && r->copied &&
	       r->copied <= r->span && r->copied <= r->bytes &&
	       r->bytes <= RECORD_RUN_BYTES_MAX &&
	       r->offset <= UINT32_MAX - r->bytes &&
	       record_ref_number(r->first) + r->span <=
		       1ull << RECORD_NUMBER_BITS;
}

static int place_ok(const struct record_piece_place *p)
{
	return p->upload && p->offset <= UINT32_MAX - p->stored_len;
}

static int extents_ok(const struct record_extents *e)
{
	return store_is_extent(e->file) && e->run_count <= RECORD_RUN_MAX &&
	       e->piece_count <= RECORD_RUN_MAX;
}

static void put_run(struct bytes_writer *w, const struct record_run *r)
{
	bytes_write64(w, r->queue);
	bytes_write64(w, r->first);
	bytes_write32(w, r->span);
	bytes_write32(w, r->copied);
	bytes_write32(w, r->offset);
	bytes_write32(w, r->bytes);
	bytes_write64(w, r->expiry_min_ms);
}

static void get_run(struct bytes_reader *r, struct record_run *ret)
{
	ret->queue = bytes_read64(r);
	ret->first = bytes_read64(r);
	ret->span = bytes_read32(r);
	ret->copied = bytes_read32(r);
	ret->offset = bytes_read32(r);
	ret->bytes = bytes_read32(r);
	ret->expiry_min_ms = bytes_read64(r);
}

static void put_place(struct bytes_writer *w,
		      const struct record_piece_place *p)
{
	bytes_write64(w, p->upload);
	bytes_write32(w, p->index);
	bytes_write32(w, p->offset);
	bytes_write32(w, p->stored_len);
	bytes_write32(w, p->body_len);
}

static void get_place(struct bytes_reader *r, struct record_piece_place *ret)
{
	ret->upload = bytes_read64(r);
	ret->index = bytes_read32(r);
	ret->offset = bytes_read32(r);
	ret->stored_len = bytes_read32(r);
	ret->body_len = bytes_read32(r);
}

size_t record_extents_room(const struct record_extents *e)
{
	return EXTENTS_FIXED + (size_t)e->run_count * RUN_BYTES +
	       (size_t)e->piece_count * PLACE_BYTES;
}

size_t record_extents_encode(const struct record_extents *e, void *buf)
{
	struct bytes_writer w;

	ASSERT(extents_ok(e));
	bytes_writer_init(&w, buf, record_extents_room(e));
	bytes_write64(&w, e->file);
	bytes_write64(&w, e->file_bytes);
	bytes_write(&w, e->hash, sizeof(e->hash));
	bytes_write32(&w, e->run_count);
	bytes_write32(&w, e->piece_count);
	for (uint32_t i = 0; i < e->run_count; i++) {
		ASSERT(run_ok(&e->runs[i]));
		put_run(&w, &e->runs[i]);
	}
	for (uint32_t i = 0; i < e->piece_count; i++) {
		ASSERT(place_ok(&e->pieces[i]));
		put_place(&w, &e->pieces[i]);
	}
	return encoded(&w);
}

static int check_run(void *ctx, const struct record_run *r)
{
	return run_ok(r) ? 0 : -E_CORRUPT;
}

static int check_place(void *ctx, const struct record_piece_place *p)
{
	return place_ok(p) ? 0 : -E_CORRUPT;
}

int record_extents_decode(const void *meta, size_t len,
			  struct record_extents *ret)
{
	struct record_extents e = {0};
	struct bytes_reader r;
	const void *hash;

	bytes_reader_init(&r, meta, len);
	e.file = bytes_read64(&r);
	e.file_bytes = bytes_read64(&r);
	hash = bytes_read(&r, sizeof(e.hash));
	e.run_count = bytes_read32(&r);
	e.piece_count = bytes_read32(&r);
	if (bytes_failed(&r) || !extents_ok(&e))
		return -E_CORRUPT;
	memcpy(e.hash, hash, sizeof(e.hash));
	e.encoded_len = record_extents_room(&e) - EXTENTS_FIXED;
	e.encoded = bytes_read(&r, e.encoded_len);
	if (decoded(&r) ||
	    record_extents_each(&e, check_run, check_place, NULL))
		return -E_CORRUPT;
	*ret = e;
	return 0;
}

int record_extents_each(const struct record_extents *e,
			int (*run)(void *ctx, const struct record_run *),
			int (*piece)(void *ctx,
				     const struct record_piece_place *),
			void *ctx)
{
	struct bytes_reader r;
	int err = 0;

	bytes_reader_init(&r, e->encoded, e->encoded_len);
	for (uint32_t i = 0; !err && i < e->run_count; i++) {
		struct record_run one;

		get_run(&r, &one);
		err = run(ctx, &one);
	}
	for (uint32_t i = 0; !err && i < e->piece_count; i++) {
		struct record_piece_place one;

		get_place(&r, &one);
		err = piece(ctx, &one);
	}
	ASSERT(!bytes_failed(&r));
	return err;
}

/* ---- CHECKPOINT ---- */

static int checkpoint_ok(const struct record_checkpoint *c)
{
	return c->name_len && name_ok(c->name, c->name_len, FILE_NAME_MAX) &&
	       !memchr(c->name, '/', c->name_len);
}

size_t record_checkpoint_encode(const struct record_checkpoint *c, void *buf)
{
	struct bytes_writer w;

	ASSERT(checkpoint_ok(c));
	bytes_writer_init(&w, buf, RECORD_CHECKPOINT_ROOM);
	bytes_write64(&w, c->lsn);
	for (size_t i = 0; i < sizeof(c->hash); i++)
		bytes_write8(&w, c->hash[i]);
	bytes_write16(&w, c->name_len);
	bytes_write(&w, c->name, c->name_len);
	return encoded(&w);
}

int record_checkpoint_decode(const void *meta, size_t len,
			     struct record_checkpoint *ret)
{
	struct record_checkpoint c = {0};
	struct bytes_reader r;
	const void *hash;

	bytes_reader_init(&r, meta, len);
	c.lsn = bytes_read64(&r);
	hash = bytes_read(&r, sizeof(c.hash));
	c.name_len = bytes_read16(&r);
	c.name = bytes_read(&r, c.name_len);
	if (decoded(&r) || !checkpoint_ok(&c))
		return -E_CORRUPT;
	memcpy(c.hash, hash, sizeof(c.hash));
	*ret = c;
	return 0;
}

const char *record_type_name(uint8_t type)
{
	switch ((enum record_type)type) {
	case RECORD_ENQUEUE:
		return "ENQUEUE";
	case RECORD_PIECE:
		return "PIECE";
	case RECORD_UPLOAD_ABORT:
		return "UPLOAD_ABORT";
	case RECORD_ACK:
		return "ACK";
	case RECORD_COUNT:
		return "COUNT";
	case RECORD_MOVE:
		return "MOVE";
	case RECORD_ADDRESS:
		return "ADDRESS";
	case RECORD_ADDRESS_GONE:
		return "ADDRESS_GONE";
	case RECORD_QUEUE:
		return "QUEUE";
	case RECORD_QUEUE_GONE:
		return "QUEUE_GONE";
	case RECORD_EXTENTS:
		return "EXTENTS";
	case RECORD_CHECKPOINT:
		return "CHECKPOINT";
	}
	return NULL;
}
