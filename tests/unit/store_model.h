/* tests/unit/store_model.h: a trivial reference for the store.
 *
 * Arrays and linear searches, no sharing, no counters: simple enough to be
 * right by reading it.  It makes random operations, encodes them as records,
 * and applies the operation as it was meant, without decoding.
 *
 * Several operations may be made before the first is applied, as a broker
 * does that has many appends in flight.  An EXTENTS is made of what is there,
 * and applied to what is left by then. */
#ifndef TESTS_UNIT_STORE_MODEL_H
#define TESTS_UNIT_STORE_MODEL_H

#include <stdbool.h>

#include "journal/store/extent.h"
#include "journal/store/store.h"

#define MODEL_QUEUES 12u
#define MODEL_ADDRESSES 6u
/* Room for what is made before it is applied. */
#define MODEL_PLACES 96u
#define MODEL_PIECES 6u
#define MODEL_TARGETS 3u
#define MODEL_RANGES 3u
#define MODEL_BODY_MAX 3000u
#define MODEL_RUNS 8u	/* in one EXTENTS */
#define MODEL_PLACED 3u /* pieces in one */

struct model_notes {
	uint32_t deliveries, extra_len;
	char extra[16];
};

struct model_message {
	uint64_t ref, bytes, upload;
	struct record_props props;
	struct log_loc loc;
	struct model_notes notes;
	uint8_t reason;
	char from[16];
	/* The run it lies in, and what it says there. */
	uint64_t file; /* 0: none */
	uint32_t offset;
	struct model_notes copied;
};

struct model_queue {
	uint64_t id; /* 0: none */
	uint8_t flags;
	char name[16];
	uint64_t bytes, numbers[RECORD_PRIORITIES]; /* given out */
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
	uint64_t queue, ref, upload;
	struct record_props props;
	uint64_t targets[MODEL_TARGETS];
	struct record_range ranges[MODEL_RANGES];
	uint32_t target_count, range_count, index, deliveries, extra_len;
	uint64_t bytes;
	uint32_t body_len;
	uint8_t reason, flags;
	char extra[16], from[16], name[16];
	/* EXTENTS */
	uint64_t file;
	struct record_run runs[MODEL_RUNS];
	struct record_piece_place places[MODEL_PLACED];
	uint32_t run_count, place_count;
	uint8_t meta[512];
	uint32_t meta_len;
};

/* A message as an extent file has it. */
struct model_copy {
	uint64_t queue, ref;
	struct model_notes notes;
};

struct model {
	uint64_t seed, next_id;
	uint64_t made, applied; /* operations */
	struct model_queue queues[MODEL_PLACES];
	struct model_queue addresses[MODEL_PLACES]; /* id, flags, name */
	struct model_upload *uploads;
	size_t upload_count, upload_capacity;
	/* Of the EXTENTS that was made last. */
	struct model_copy *copies;
	size_t copy_count, copy_capacity;
	uint32_t file_count; /* extent files so far */
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
	free(m->copies);
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

static inline uint8_t model_any_priority(struct model *m)
{
	return (uint8_t)(model_random(m, 4) ? 4 : model_random(m, 10));
}

static inline uint64_t model_any_ref(struct model *m, uint64_t queue)
{
	struct model_queue *q = model_queue(m, queue);

	if (!q || !q->count || !model_random(m, 20))
		return record_ref(model_any_priority(m),
				  1 + model_random(m, 2000));
	/* Mostly near the head, as consumers do. */
	if (model_random(m, 3))
		return q->messages[model_random(m, 1 + q->count / 8)].ref;
	return q->messages[model_random(m, q->count)].ref;
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
	op->props.priority = model_any_priority(m);
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

static inline bool model_in_ranges(const struct model_op *op, uint64_t ref)
{
	for (uint32_t i = 0; i < op->range_count; i++) {
		if (ref >= op->ranges[i].first && ref <= op->ranges[i].last)
			return true;
	}
	return false;
}

static inline void model_make_range(struct model *m, struct model_op *op)
{
	struct record_range *r = &op->ranges[op->range_count++];
	unsigned priority;

	r->first = r->last = model_any_ref(m, op->queue);
	priority = record_ref_priority(r->first);
	if (!model_random(m, 6))
		r->last += model_random(m, 8);
	else if (!model_random(m, 300)) /* all up to here */
		r->first = record_ref(priority, model_random(m, 2));
	else if (!model_random(m, 1000)) /* the whole lane */
		*r = (struct record_range){record_ref(priority, 0),
					   record_ref(priority + 1, 0) - 1};
}

static inline void model_make_ack(struct model *m, struct model_op *op)
{
	const struct model_queue *q;
	struct record_ack a;
	uint32_t ranges = (uint32_t)model_random(m, MODEL_RANGES);

	op->queue = model_any_queue(m);
	q = model_queue(m, op->queue);
	while (op->range_count < ranges)
		model_make_range(m, op);
	for (size_t i = 0; q && i < q->count; i++) {
		if (model_in_ranges(op, q->messages[i].ref))
			op->bytes += q->messages[i].bytes;
	}
	if (!model_random(m, 100)) /* a miscount is forgiven */
		op->bytes += model_random(m, 5000);
	a = (struct record_ack){.queue = op->queue,
				.bytes = op->bytes,
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

/* What moves, or something else when it has left. */
static inline void model_make_moved(struct model *m, struct model_op *op)
{
	const struct model_message *found = model_find(m, op->queue, op->ref);

	/* What is in flight may let go of the upload. */
	if (found && found->upload && m->made != m->applied)
		found = NULL;
	if (!found) {
		model_make_props(m, op);
		op->body_len = 1 + (uint32_t)model_random(m, MODEL_BODY_MAX);
		op->bytes = op->body_len;
		return;
	}
	op->props = found->props;
	op->props.expiry_ms = model_random(m, 2) * 1800000000000u;
	if (!model_random(m, 10))
		op->props.priority = model_any_priority(m);
	op->bytes = found->bytes;
	op->upload = found->upload;
	if (op->upload)
		op->index = model_upload(m, op->upload)->count;
	else
		op->body_len = (uint32_t)found->bytes;
	if (!op->extra_len) {
		op->extra_len = found->notes.extra_len;
		memcpy(op->extra, found->notes.extra, sizeof(op->extra));
	}
}

static inline void model_make_move(struct model *m, struct model_op *op)
{
	struct record_move v;

	op->queue = model_any_queue(m);
	op->ref = model_any_ref(m, op->queue);
	op->reason = (uint8_t)(1 + model_random(m, 4));
	snprintf(op->from, sizeof(op->from), "from%u",
		 (unsigned)model_random(m, 1000));
	model_make_extra(m, op);
	model_make_targets(m, op);
	model_make_moved(m, op);
	v = (struct record_move){
		.queue = op->queue,
		.ref = op->ref,
		.props = op->props,
		.upload = op->upload,
		.bytes = op->bytes,
		.piece_count = op->index,
		.origin = {.address = op->from,
			   .queue = op->from + 1,
			   .address_len = (uint16_t)strlen(op->from),
			   .queue_len = (uint16_t)(strlen(op->from) - 1),
			   .reason = op->reason},
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

/* The next operation; later ones may be made before it is applied. */
static inline void model_make(struct model *m, struct model_op *op)
{
	uint64_t dice = model_random(m, 1000);

	memset(op, 0, sizeof(*op));
	m->made++;
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
	} else {
		op->type = RECORD_ENQUEUE;
		model_make_enqueue(m, op);
	}
}

/* ---- moving to an extent file ---- */

static inline void model_note_copy(struct model *m, uint64_t queue,
				   const struct model_message *n)
{
	if (m->copy_count == m->copy_capacity) {
		m->copy_capacity = m->copy_capacity * 2 + 64;
		m->copies = realloc(m->copies,
				    m->copy_capacity * sizeof(*m->copies));
		assert_non_null(m->copies);
	}
	m->copies[m->copy_count++] =
		(struct model_copy){queue, n->ref, n->notes};
}

/* The next message of the lane that has a body of its own, from i on. */
static inline size_t model_movable(const struct model_queue *q,
				   unsigned priority, size_t i)
{
	while (i < q->count && (q->messages[i].upload ||
				q->messages[i].props.priority != priority))
		i++;
	return i;
}

/* A run that is there moves with all that is left of it. */
static inline bool model_same_run(const struct model_message *a,
				  const struct model_message *b)
{
	return a->file && a->file == b->file && a->offset == b->offset;
}

/* One run of a lane's messages from the i-th of the queue on.  Returns the
 * place behind it. */
static inline size_t model_make_run(struct model *m, struct model_op *op,
				    const struct model_queue *q, size_t i,
				    uint32_t *offset)
{
	struct record_run *r = &op->runs[op->run_count];
	unsigned priority = q->messages[i].props.priority;
	uint64_t want = 1 + model_random(m, model_random(m, 3) ? 10 : 100);
	const struct model_message *last = NULL;

	*r = (struct record_run){
		.queue = q->id, .first = q->messages[i].ref, .offset = *offset};
	for (; i < q->count; i = model_movable(q, priority, i + 1)) {
		const struct model_message *n = &q->messages[i];
		uint64_t expiry_ms = n->props.expiry_ms;

		if (r->copied >= want && !model_same_run(last, n))
			break;
		last = n;
		model_note_copy(m, q->id, n);
		r->copied++;
		r->bytes += 20 + (uint32_t)model_random(m, 50);
		if (expiry_ms &&
		    (!r->expiry_min_ms || expiry_ms < r->expiry_min_ms))
			r->expiry_min_ms = expiry_ms;
	}
	r->span = (uint32_t)(last->ref - r->first) + 1;
	*offset += r->bytes;
	op->run_count++;
	return i;
}

static inline void model_make_runs(struct model *m, struct model_op *op,
				   uint64_t id, unsigned priority,
				   uint32_t *offset)
{
	const struct model_queue *q = model_queue(m, id);
	size_t i, before;

	if (!q || !q->count)
		return;
	i = model_movable(q, priority,
			  model_random(m, 2) ? 0 : model_random(m, q->count));
	/* From the first of its run. */
	for (before = 0; i < q->count && before < i; before++) {
		if (model_same_run(&q->messages[before], &q->messages[i]))
			i = before;
	}
	while (i < q->count && op->run_count < MODEL_RUNS && model_random(m, 5))
		i = model_make_run(m, op, q, i, offset);
}

static inline void model_make_place(struct model *m, struct model_op *op,
				    uint32_t *offset)
{
	struct record_piece_place *p = &op->places[op->place_count];
	size_t back = 1 + model_random(m, 12);
	const struct model_upload *u;

	if (back > m->upload_count)
		return;
	u = &m->uploads[m->upload_count - back];
	if (!u->count)
		return;
	*p = (struct record_piece_place){
		.upload = u->id,
		.index = (uint32_t)model_random(m, u->count),
		.offset = *offset,
		.stored_len = 1 + (uint32_t)model_random(m, 5000)};
	p->body_len = u->pieces[p->index].body_len;
	for (uint32_t i = 0; i < op->place_count; i++) {
		if (op->places[i].upload == p->upload &&
		    op->places[i].index == p->index)
			return;
	}
	*offset += p->stored_len;
	op->place_count++;
}

/* Only when the one before has been applied. */
static inline void model_make_extents(struct model *m, struct model_op *op)
{
	uint64_t done[MODEL_RUNS];
	uint32_t lanes = 1 + (uint32_t)model_random(m, 4), offset = 0;
	struct record_extents x = {.file_bytes = 1u << 20};

	memset(op, 0, sizeof(*op));
	op->type = RECORD_EXTENTS;
	op->file = store_file_key(1, ++m->file_count);
	m->made++;
	m->copy_count = 0;
	for (uint32_t i = 0; i < lanes; i++) {
		uint64_t id = model_any_queue(m);
		bool twice = false;

		done[i] = id;
		for (uint32_t k = 0; k < i; k++)
			twice |= done[k] == id;
		if (!twice)
			model_make_runs(m, op, id, model_any_priority(m),
					&offset);
	}
	for (uint32_t i = 0; i < MODEL_PLACED; i++)
		model_make_place(m, op, &offset);
	x.file = op->file;
	x.run_count = op->run_count;
	x.piece_count = op->place_count;
	x.runs = op->runs;
	x.pieces = op->places;
	assert_true(record_extents_room(&x) <= sizeof(op->meta));
	op->meta_len = (uint32_t)record_extents_encode(&x, op->meta);
}

/* ---- applying them ---- */

static inline void model_put(struct model *m, uint64_t queue,
			     const struct model_message *message)
{
	unsigned priority = message->props.priority;
	struct model_queue *q = model_queue(m, queue);

	if (!q)
		return;
	if (q->count == q->capacity) {
		q->capacity = q->capacity * 2 + 16;
		q->messages =
			realloc(q->messages, q->capacity * sizeof(*message));
		assert_non_null(q->messages);
	}
	q->messages[q->count] = *message;
	q->messages[q->count++].ref =
		record_ref(priority, ++q->numbers[priority]);
	q->bytes += message->bytes;
}

/* True when something left. */
static inline bool model_remove(struct model_queue *q, uint64_t first,
				uint64_t last)
{
	size_t n = 0, before = q ? q->count : 0;

	for (size_t i = 0; i < before; i++) {
		if (q->messages[i].ref < first || q->messages[i].ref > last)
			q->messages[n++] = q->messages[i];
	}
	if (q)
		q->count = n;
	return n < before;
}

static inline void model_forget_bytes(struct model_queue *q, uint64_t bytes)
{
	if (q)
		q->bytes -= q->count ? base_min(bytes, q->bytes) : q->bytes;
}

static inline void model_ack(struct model *m, const struct model_op *op)
{
	struct model_queue *q = model_queue(m, op->queue);

	for (uint32_t i = 0; i < op->range_count; i++)
		model_remove(q, op->ranges[i].first, op->ranges[i].last);
	model_forget_bytes(q, op->bytes);
}

static inline void model_count(struct model *m, const struct model_op *op)
{
	struct model_message *found = model_find(m, op->queue, op->ref);

	if (!found)
		return;
	found->notes.deliveries = op->deliveries;
	if (!op->extra_len)
		return;
	found->notes.extra_len = op->extra_len;
	memcpy(found->notes.extra, op->extra, sizeof(op->extra));
}

/* ENQUEUE, and MOVE but for where it comes from. */
static inline void model_enqueue(struct model *m, const struct model_op *op,
				 const struct log_loc *loc)
{
	struct model_message n = {.bytes = op->bytes,
				  .upload = op->upload,
				  .props = op->props,
				  .reason = op->reason,
				  .notes.extra_len = op->extra_len};

	memcpy(n.from, op->from, sizeof(n.from));
	memcpy(n.notes.extra, op->extra, sizeof(n.notes.extra));
	if (op->upload)
		model_upload(m, op->upload)->in_progress = false;
	else
		n.loc = *loc;
	for (uint32_t i = 0; i < op->target_count; i++)
		model_put(m, op->targets[i], &n);
}

static inline void model_move(struct model *m, const struct model_op *op,
			      const struct log_loc *loc)
{
	struct model_queue *from = model_queue(m, op->queue);

	model_enqueue(m, op, loc);
	if (model_remove(from, op->ref, op->ref))
		model_forget_bytes(from, op->bytes);
}

static inline const struct model_copy *
model_copied(const struct model *m, uint64_t queue, uint64_t ref)
{
	for (size_t i = 0; i < m->copy_count; i++) {
		if (m->copies[i].queue == queue && m->copies[i].ref == ref)
			return &m->copies[i];
	}
	return NULL;
}

static inline void model_extents(struct model *m, const struct model_op *op)
{
	for (uint32_t i = 0; i < op->run_count; i++) {
		const struct record_run *r = &op->runs[i];
		struct model_queue *q = model_queue(m, r->queue);

		for (size_t k = 0; q && k < q->count; k++) {
			struct model_message *had = &q->messages[k];

			if (had->upload || had->ref < r->first ||
			    had->ref >= r->first + r->span)
				continue;
			had->file = op->file;
			had->offset = r->offset;
			had->copied = model_copied(m, q->id, had->ref)->notes;
		}
	}
	for (uint32_t i = 0; i < op->place_count; i++) {
		const struct record_piece_place *p = &op->places[i];

		model_upload(m, p->upload)->pieces[p->index] =
			(struct log_loc){.segment = op->file,
					 .at = p->offset,
					 .stored_len = p->stored_len,
					 .body_len = p->body_len};
	}
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
			places[i].id = places[i].count = 0;
			places[i].bytes = 0;
			memset(places[i].numbers, 0, sizeof(places[i].numbers));
		}
	}
}

static inline void model_apply(struct model *m, const struct model_op *op,
			       const struct log_loc *loc)
{
	struct model_upload *u;

	m->applied++;
	switch ((enum record_type)op->type) {
	case RECORD_ENQUEUE:
		model_enqueue(m, op, loc);
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
		model_ack(m, op);
		break;
	case RECORD_COUNT:
		model_count(m, op);
		break;
	case RECORD_MOVE:
		model_move(m, op, loc);
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
	case RECORD_EXTENTS:
		model_extents(m, op);
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

static inline void model_assert_notes(const struct model_notes *want,
				      uint32_t deliveries, uint32_t extra_len,
				      const void *extra)
{
	assert_int_equal(deliveries, want->deliveries);
	assert_int_equal(extra_len, want->extra_len);
	if (extra_len)
		assert_memory_equal(extra, want->extra, extra_len);
}

/* But for its bytes. */
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
	model_assert_notes(&want->notes, have->deliveries, have->extra_len,
			   have->extra);
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
	if (!want->upload)
		return;
	u = model_upload(m, want->upload);
	assert_int_equal(have->piece_count, u->count);
	for (uint32_t i = 0; i < u->count; i++)
		assert_int_equal(have->piece_bytes[i], u->pieces[i].body_len);
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

/* A segment or an extent file. */
static inline bool model_file_live(const struct model *m, uint64_t key)
{
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &m->queues[i];

		for (size_t k = 0; q->id && k < q->count; k++) {
			const struct model_message *n = &q->messages[k];

			if (!n->upload &&
			    (n->file ? n->file : n->loc.segment) == key)
				return true;
		}
	}
	for (size_t i = 0; i < m->upload_count; i++) {
		const struct model_upload *u = &m->uploads[i];
		bool here = false;

		for (uint32_t k = 0; k < u->count; k++)
			here |= u->pieces[k].segment == key;
		if (here && model_upload_live(m, u))
			return true;
	}
	return false;
}

#endif
