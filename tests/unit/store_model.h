/* tests/unit/store_model.h: a trivial reference for the store.
 *
 * Arrays and linear searches, no sharing, no counters: simple enough to be
 * right by reading it.  It makes random operations, encodes them as records,
 * and applies the operation as it was meant, without decoding.
 *
 * Several operations may be made before the first is applied, as a broker
 * does that has many appends in flight. */
#ifndef TESTS_UNIT_STORE_MODEL_H
#define TESTS_UNIT_STORE_MODEL_H

#include <stdbool.h>

#include "journal/store/store.h"

#define MODEL_QUEUES 12u
#define MODEL_ADDRESSES 6u
/* Room for what is made before it is applied. */
#define MODEL_PLACES 96u
#define MODEL_PIECES 6u
#define MODEL_TARGETS 3u
#define MODEL_RANGES 3u
#define MODEL_BODY_MAX 3000u

struct model_message {
	uint64_t ref, bytes, upload;
	struct record_props props;
	struct log_loc loc;
	uint32_t deliveries, extra_len;
	char extra[16];
	uint8_t reason;
	char from[16];
};

struct model_queue {
	uint64_t id; /* 0: none */
	uint8_t flags;
	char name[16];
	struct model_message *messages;
	size_t count, capacity;
};

struct model_upload {
	uint64_t id;
	/* as made so far */
	uint32_t made_count;
	uint64_t made_bytes;
	bool made_end;
	/* as applied so far */
	bool in_progress;
	uint32_t count;
	struct log_loc pieces[MODEL_PIECES];
};

struct model_op {
	uint8_t type;
	uint64_t queue, ref, upload, upto;
	struct record_props props;
	uint64_t targets[MODEL_TARGETS];
	struct record_range ranges[MODEL_RANGES];
	uint32_t target_count, range_count, index, deliveries, extra_len;
	uint64_t bytes, expiry_ms;
	uint32_t body_len;
	uint8_t reason, flags;
	char extra[16], from[16], name[16];
	uint8_t meta[512];
	uint32_t meta_len;
};

struct model {
	uint64_t seed, next_id;
	struct model_queue queues[MODEL_PLACES];
	struct model_queue addresses[MODEL_PLACES]; /* id, flags, name */
	struct model_upload *uploads;
	size_t upload_count, upload_capacity;
};

static inline uint64_t model_random(struct model *m, uint64_t below)
{
	m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
	return (m->seed >> 33) % below;
}

static inline void model_fini(struct model *m)
{
	for (size_t i = 0; i < MODEL_PLACES; i++)
		free(m->queues[i].messages);
	free(m->uploads);
	memset(m, 0, sizeof(*m));
}

static inline struct model_queue *model_queue(struct model *m, uint64_t id)
{
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		if (id && m->queues[i].id == id)
			return &m->queues[i];
	}
	return NULL;
}

static inline struct model_upload *model_upload(struct model *m, uint64_t id)
{
	for (size_t i = 0; i < m->upload_count; i++) {
		if (m->uploads[i].id == id)
			return &m->uploads[i];
	}
	return NULL;
}

/* ---- making operations ---- */

/* Now and then one that never was. */
static inline uint64_t model_any_queue(struct model *m)
{
	uint64_t id = m->queues[model_random(m, MODEL_QUEUES)].id;

	return id && model_random(m, 50) ? id : 1 + model_random(m, 1000);
}

static inline uint64_t model_any_ref(struct model *m, uint64_t queue)
{
	struct model_queue *q = model_queue(m, queue);

	if (!q || !q->count || !model_random(m, 20))
		return 1 + model_random(m, 100000);
	/* Mostly near the head, as consumers do. */
	if (model_random(m, 3))
		return q->messages[model_random(m, 1 + q->count / 8)].ref;
	return q->messages[model_random(m, q->count)].ref;
}

static inline void model_make_targets(struct model *m, struct model_op *op)
{
	uint32_t n = 1 + (uint32_t)model_random(m, 10) / 8;

	n += !model_random(m, 12);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t id = model_any_queue(m);
		bool twice = false;

		for (uint32_t k = 0; k < op->target_count; k++)
			twice |= op->targets[k] == id;
		if (!twice)
			op->targets[op->target_count++] = id;
	}
}

static inline void model_make_props(struct model *m, struct model_op *op)
{
	op->props.arrived_ms = 1700000000000u + model_random(m, 100000);
	if (!model_random(m, 4))
		op->props.expiry_ms =
			1600000000000u + model_random(m, 1u << 30);
	op->props.priority = (uint8_t)model_random(m, 10);
	op->props.durable = (uint8_t)model_random(m, 2);
	op->props.format = (uint8_t)model_random(m, 3);
}

static inline void model_make_extra(struct model *m, struct model_op *op)
{
	op->extra_len =
		model_random(m, 3)
			? 0
			: 1 + (uint32_t)model_random(m, sizeof(op->extra) - 1);
	memset(op->extra, 'a' + (int)model_random(m, 26), sizeof(op->extra));
}

static inline void model_make_enqueue(struct model *m, struct model_op *op)
{
	struct record_enqueue e;

	model_make_props(m, op);
	model_make_targets(m, op);
	if (!op->upload) {
		op->body_len = 1 + (uint32_t)model_random(m, MODEL_BODY_MAX);
		op->bytes = op->body_len;
	}
	e = (struct record_enqueue){.props = op->props,
				    .upload = op->upload,
				    .bytes = op->bytes,
				    .piece_count = op->index,
				    .target_count = op->target_count,
				    .targets = op->targets};
	op->meta_len = (uint32_t)record_enqueue_encode(&e, op->meta);
}

static inline void model_new_upload(struct model *m)
{
	if (m->upload_count == m->upload_capacity) {
		m->upload_capacity = m->upload_capacity * 2 + 16;
		m->uploads = realloc(m->uploads,
				     m->upload_capacity * sizeof(*m->uploads));
		assert_non_null(m->uploads);
	}
	m->uploads[m->upload_count++] =
		(struct model_upload){.id = m->next_id++};
}

static inline void model_make_upload(struct model *m, struct model_op *op)
{
	struct model_upload *u = NULL;
	struct record_piece p;

	for (size_t i = m->upload_count; i && m->upload_count - i < 4; i--) {
		if (!m->uploads[i - 1].made_end && model_random(m, 2))
			u = &m->uploads[i - 1];
	}
	if (!u) {
		model_new_upload(m);
		u = &m->uploads[m->upload_count - 1];
	}
	op->upload = u->id;
	if (u->made_count && !model_random(m, 12)) {
		u->made_end = true;
		op->type = RECORD_UPLOAD_ABORT;
		op->meta_len =
			(uint32_t)record_upload_abort_encode(u->id, op->meta);
		return;
	}
	if (u->made_count == MODEL_PIECES ||
	    (u->made_count && !model_random(m, 4))) {
		u->made_end = true;
		op->type = RECORD_ENQUEUE;
		op->bytes = u->made_bytes;
		op->index = u->made_count;
		model_make_enqueue(m, op);
		return;
	}
	op->type = RECORD_PIECE;
	op->index = u->made_count++;
	op->body_len = 1 + (uint32_t)model_random(m, MODEL_BODY_MAX);
	u->made_bytes += op->body_len;
	p = (struct record_piece){.upload = u->id, .index = op->index};
	op->meta_len = (uint32_t)record_piece_encode(&p, op->meta);
}

static inline void model_make_ack(struct model *m, struct model_op *op)
{
	struct record_ack a;

	op->queue = model_any_queue(m);
	op->range_count = 1 + (uint32_t)model_random(m, MODEL_RANGES);
	for (uint32_t i = 0; i < op->range_count; i++) {
		op->ranges[i].first = model_any_ref(m, op->queue);
		op->ranges[i].last =
			op->ranges[i].first +
			(model_random(m, 3) ? 0 : model_random(m, 12));
	}
	a = (struct record_ack){.queue = op->queue,
				.range_count = op->range_count,
				.ranges = op->ranges};
	op->meta_len = (uint32_t)record_ack_encode(&a, op->meta);
}

static inline void model_make_count(struct model *m, struct model_op *op)
{
	struct record_count c;

	op->queue = model_any_queue(m);
	op->ref = model_any_ref(m, op->queue);
	op->deliveries = (uint32_t)model_random(m, 9);
	model_make_extra(m, op);
	c = (struct record_count){.queue = op->queue,
				  .ref = op->ref,
				  .deliveries = op->deliveries,
				  .extra_len = op->extra_len,
				  .extra = op->extra};
	op->meta_len = (uint32_t)record_count_encode(&c, op->meta);
}

static inline void model_make_move(struct model *m, struct model_op *op)
{
	struct record_move v;

	op->queue = model_any_queue(m);
	op->ref = model_any_ref(m, op->queue);
	op->reason = (uint8_t)(1 + model_random(m, 4));
	op->expiry_ms = model_random(m, 2) * 1800000000000u;
	snprintf(op->from, sizeof(op->from), "from%u",
		 (unsigned)model_random(m, 1000));
	model_make_extra(m, op);
	model_make_targets(m, op);
	v = (struct record_move){
		.queue = op->queue,
		.ref = op->ref,
		.origin = {.address = op->from,
			   .queue = op->from + 1,
			   .address_len = (uint16_t)strlen(op->from),
			   .queue_len = (uint16_t)(strlen(op->from) - 1),
			   .reason = op->reason},
		.expiry_ms = op->expiry_ms,
		.extra_len = op->extra_len,
		.extra = op->extra,
		.target_count = op->target_count,
		.targets = op->targets};
	op->meta_len = (uint32_t)record_move_encode(&v, op->meta);
}

/* A new one in an empty place, or new flags for the one that is there. */
static inline void model_make_name(struct model *m, struct model_op *op,
				   const struct model_queue *had, char kind)
{
	op->queue = had->id ? had->id : m->next_id++;
	snprintf(op->name, sizeof(op->name), "%c%u", kind, (unsigned)op->queue);
}

static inline void model_make_queue(struct model *m, struct model_op *op,
				    bool temporary_too)
{
	struct model_queue *had = &m->queues[model_random(m, MODEL_QUEUES)];
	struct record_queue q;

	model_make_name(m, op, had, 'q');
	op->flags = model_random(m, 2) ? RECORD_QUEUE_PAUSED : 0;
	if (had->id)
		op->flags |= had->flags & RECORD_QUEUE_TEMPORARY;
	else if (temporary_too && !model_random(m, 5))
		op->flags |= RECORD_QUEUE_TEMPORARY;
	q = (struct record_queue){.id = op->queue,
				  .address = 1,
				  .name = op->name,
				  .name_len = (uint16_t)strlen(op->name),
				  .routing = RECORD_ANYCAST,
				  .flags = op->flags};
	op->meta_len = (uint32_t)record_queue_encode(&q, op->meta);
}

static inline void model_make_address(struct model *m, struct model_op *op)
{
	struct model_queue *had =
		&m->addresses[model_random(m, MODEL_ADDRESSES)];
	struct record_address a;

	if (had->id && !model_random(m, 3)) {
		op->type = RECORD_ADDRESS_GONE;
		op->queue = had->id;
		op->meta_len =
			(uint32_t)record_gone_encode(op->queue, op->meta);
		return;
	}
	model_make_name(m, op, had, 'a');
	op->flags = (uint8_t)model_random(m, 2);
	a = (struct record_address){.id = op->queue,
				    .name = op->name,
				    .name_len = (uint16_t)strlen(op->name),
				    .routing = RECORD_MULTICAST,
				    .flags = op->flags};
	op->meta_len = (uint32_t)record_address_encode(&a, op->meta);
}

static inline void model_make_purge(struct model *m, struct model_op *op)
{
	struct record_purge p;

	op->queue = model_any_queue(m);
	op->upto = model_any_ref(m, op->queue);
	p = (struct record_purge){.queue = op->queue, .upto = op->upto};
	op->meta_len = (uint32_t)record_purge_encode(&p, op->meta);
}

/* The next operation; later ones may be made before it is applied. */
static inline void model_make(struct model *m, struct model_op *op)
{
	uint64_t dice = model_random(m, 1000);

	memset(op, 0, sizeof(*op));
	if (!m->next_id)
		m->next_id = 2; /* address 1 is every queue's */
	if (dice < 430) {
		op->type = RECORD_ENQUEUE;
		model_make_enqueue(m, op);
	} else if (dice < 560) {
		model_make_upload(m, op);
	} else if (dice < 830) {
		op->type = RECORD_ACK;
		model_make_ack(m, op);
	} else if (dice < 900) {
		op->type = RECORD_COUNT;
		model_make_count(m, op);
	} else if (dice < 950) {
		op->type = RECORD_MOVE;
		model_make_move(m, op);
	} else if (dice < 980) {
		op->type = RECORD_QUEUE;
		model_make_queue(m, op, true);
	} else if (dice < 990) {
		op->type = RECORD_ADDRESS;
		model_make_address(m, op);
	} else if (dice < 992) {
		op->type = RECORD_QUEUE_GONE;
		op->queue = model_any_queue(m);
		op->meta_len =
			(uint32_t)record_gone_encode(op->queue, op->meta);
	} else if (dice < 994) {
		op->type = RECORD_PURGE;
		model_make_purge(m, op);
	} else {
		op->type = RECORD_ENQUEUE;
		model_make_enqueue(m, op);
	}
}

/* ---- applying them ---- */

static inline void model_put(struct model *m, uint64_t queue,
			     const struct model_message *message)
{
	struct model_queue *q = model_queue(m, queue);

	if (!q)
		return;
	if (q->count == q->capacity) {
		q->capacity = q->capacity * 2 + 16;
		q->messages =
			realloc(q->messages, q->capacity * sizeof(*message));
		assert_non_null(q->messages);
	}
	q->messages[q->count++] = *message;
}

static inline void model_remove(struct model_queue *q, uint64_t first,
				uint64_t last)
{
	size_t n = 0;

	for (size_t i = 0; q && i < q->count; i++) {
		if (q->messages[i].ref < first || q->messages[i].ref > last)
			q->messages[n++] = q->messages[i];
	}
	if (q)
		q->count = n;
}

static inline void model_enqueue(struct model *m, const struct model_op *op,
				 uint64_t lsn, const struct log_loc *loc)
{
	struct model_message n = {.ref = lsn,
				  .bytes = op->bytes,
				  .upload = op->upload,
				  .props = op->props};

	if (op->upload)
		model_upload(m, op->upload)->in_progress = false;
	else
		n.loc = *loc;
	for (uint32_t i = 0; i < op->target_count; i++)
		model_put(m, op->targets[i], &n);
}

static inline struct model_message *model_find(struct model *m, uint64_t queue,
					       uint64_t ref)
{
	struct model_queue *q = model_queue(m, queue);

	for (size_t i = 0; q && i < q->count; i++) {
		if (q->messages[i].ref == ref)
			return &q->messages[i];
	}
	return NULL;
}

static inline void model_move(struct model *m, const struct model_op *op,
			      uint64_t lsn)
{
	struct model_message *found = model_find(m, op->queue, op->ref), n;

	if (!found)
		return;
	n = *found;
	n.ref = lsn;
	n.deliveries = 0;
	n.props.expiry_ms = op->expiry_ms;
	n.reason = op->reason;
	memcpy(n.from, op->from, sizeof(n.from));
	if (op->extra_len) {
		n.extra_len = op->extra_len;
		memcpy(n.extra, op->extra, sizeof(n.extra));
	}
	model_remove(model_queue(m, op->queue), op->ref, op->ref);
	for (uint32_t i = 0; i < op->target_count; i++)
		model_put(m, op->targets[i], &n);
}

static inline void model_name(struct model_queue *places, size_t count,
			      const struct model_op *op)
{
	struct model_queue *place = NULL;

	for (size_t i = 0; i < count; i++) {
		if (places[i].id == op->queue)
			place = &places[i];
	}
	for (size_t i = 0; i < count && !place; i++) {
		if (!places[i].id)
			place = &places[i];
	}
	assert_non_null(place);
	place->id = op->queue;
	place->flags = op->flags;
	memcpy(place->name, op->name, sizeof(place->name));
}

static inline void model_gone(struct model_queue *places, size_t count,
			      uint64_t id)
{
	for (size_t i = 0; i < count; i++) {
		if (places[i].id == id) {
			places[i].id = 0;
			places[i].count = 0;
		}
	}
}

static inline void model_apply(struct model *m, const struct model_op *op,
			       uint64_t lsn, const struct log_loc *loc)
{
	struct model_upload *u;
	struct model_message *found;

	switch ((enum record_type)op->type) {
	case RECORD_ENQUEUE:
		model_enqueue(m, op, lsn, loc);
		break;
	case RECORD_PIECE:
		u = model_upload(m, op->upload);
		u->in_progress = true;
		u->pieces[u->count++] = *loc;
		break;
	case RECORD_UPLOAD_ABORT:
		model_upload(m, op->upload)->in_progress = false;
		break;
	case RECORD_ACK:
		for (uint32_t i = 0; i < op->range_count; i++)
			model_remove(model_queue(m, op->queue),
				     op->ranges[i].first, op->ranges[i].last);
		break;
	case RECORD_COUNT:
		found = model_find(m, op->queue, op->ref);
		if (found)
			found->deliveries = op->deliveries;
		if (found && op->extra_len) {
			found->extra_len = op->extra_len;
			memcpy(found->extra, op->extra, sizeof(found->extra));
		}
		break;
	case RECORD_MOVE:
		model_move(m, op, lsn);
		break;
	case RECORD_QUEUE:
		model_name(m->queues, MODEL_PLACES, op);
		break;
	case RECORD_ADDRESS:
		model_name(m->addresses, MODEL_PLACES, op);
		break;
	case RECORD_QUEUE_GONE:
		model_gone(m->queues, MODEL_PLACES, op->queue);
		break;
	case RECORD_ADDRESS_GONE:
		model_gone(m->addresses, MODEL_PLACES, op->queue);
		break;
	case RECORD_PURGE:
		model_remove(model_queue(m, op->queue), 0, op->upto);
		break;
	case RECORD_CHECKPOINT:
		break;
	}
}

/* What a restart does. */
static inline void model_restart(struct model *m)
{
	for (size_t i = 0; i < m->upload_count; i++) {
		m->uploads[i].in_progress = false;
		m->uploads[i].made_end = true;
	}
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		if (m->queues[i].flags & RECORD_QUEUE_TEMPORARY)
			model_gone(m->queues, MODEL_PLACES, m->queues[i].id);
	}
}

/* ---- comparing ---- */

static inline void model_assert_loc(const struct log_loc *have,
				    const struct log_loc *want)
{
	assert_int_equal(have->segment, want->segment);
	assert_int_equal(have->frame, want->frame);
	assert_int_equal(have->at, want->at);
	assert_int_equal(have->stored_len, want->stored_len);
	assert_int_equal(have->body_len, want->body_len);
}

static inline void model_assert_message(struct model *m,
					const struct model_message *want,
					const struct store_message *have)
{
	const struct model_upload *u;

	assert_int_equal(have->ref, want->ref);
	assert_int_equal(have->bytes, want->bytes);
	assert_int_equal(have->props.arrived_ms, want->props.arrived_ms);
	assert_int_equal(have->props.expiry_ms, want->props.expiry_ms);
	assert_int_equal(have->props.priority, want->props.priority);
	assert_int_equal(have->props.durable, want->props.durable);
	assert_int_equal(have->props.format, want->props.format);
	assert_int_equal(have->deliveries, want->deliveries);
	assert_int_equal(have->extra_len, want->extra_len);
	if (want->extra_len)
		assert_memory_equal(have->extra, want->extra, want->extra_len);
	assert_int_equal(have->origin.reason, want->reason);
	if (want->reason) {
		size_t len = strlen(want->from);

		assert_int_equal(have->origin.address_len, len);
		assert_int_equal(have->origin.queue_len, len - 1);
		assert_memory_equal(have->origin.address, want->from, len);
		assert_memory_equal(have->origin.queue, want->from + 1,
				    len - 1);
	}
	assert_int_equal(have->upload, want->upload);
	if (!want->upload) {
		model_assert_loc(&have->loc, &want->loc);
		return;
	}
	u = model_upload(m, want->upload);
	assert_int_equal(have->piece_count, u->count);
	for (uint32_t i = 0; i < u->count; i++)
		model_assert_loc(&have->pieces[i], &u->pieces[i]);
}

/* True when a queue holds the upload, or it is still coming in. */
static inline bool model_upload_live(const struct model *m,
				     const struct model_upload *u)
{
	if (u->in_progress)
		return true;
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &m->queues[i];

		for (size_t k = 0; q->id && k < q->count; k++) {
			if (q->messages[k].upload == u->id)
				return true;
		}
	}
	return false;
}

static inline bool model_segment_live(const struct model *m, uint64_t segment)
{
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &m->queues[i];

		for (size_t k = 0; q->id && k < q->count; k++) {
			if (!q->messages[k].upload &&
			    q->messages[k].loc.segment == segment)
				return true;
		}
	}
	for (size_t i = 0; i < m->upload_count; i++) {
		const struct model_upload *u = &m->uploads[i];
		bool here = false;

		for (uint32_t k = 0; k < u->count; k++)
			here |= u->pieces[k].segment == segment;
		if (here && model_upload_live(m, u))
			return true;
	}
	return false;
}

#endif
