/* tests/unit/store_model_apply.h: what a store is to know, as a trivial model,
 * and how records change it.
 *
 * Arrays and linear searches, no sharing, no counters: simple enough to be
 * right by reading it. */
#ifndef TESTS_UNIT_STORE_MODEL_APPLY_H
#define TESTS_UNIT_STORE_MODEL_APPLY_H

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

/* ---- applying operations ---- */

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
