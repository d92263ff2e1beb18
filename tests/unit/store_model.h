/* tests/unit/store_model.h: a trivial reference for the store.
 *
 * It makes random operations, encodes them as records, and applies the
 * operation as it was meant (store_model_apply.h), without decoding.
 *
 * Several operations may be made before the first is applied, as a broker
 * does that has many appends in flight.  An EXTENTS is made of what is there,
 * and applied to what is left by then. */
#ifndef TESTS_UNIT_STORE_MODEL_H
#define TESTS_UNIT_STORE_MODEL_H

#include "tests/unit/store_model_apply.h"

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

#endif
