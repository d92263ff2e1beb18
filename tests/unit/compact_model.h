/* tests/unit/compact_model.h: queues as a list of messages, for tests of what
 * is moved to extent files.
 *
 * Operations are made as records and applied to the model as they were meant.
 * After a crash a prefix of those that were sent is there, so the model keeps
 * the operations that nobody has confirmed and can try each prefix. */
#ifndef TESTS_UNIT_COMPACT_MODEL_H
#define TESTS_UNIT_COMPACT_MODEL_H

#include <stdbool.h>

#include "journal/store/store.h"
#include "tests/unit/test.h"

#define MODEL_MESSAGES 6000u
#define MODEL_QUEUES 4u
#define MODEL_TARGETS 2u
#define MODEL_PIECES 4u
#define MODEL_BODY_MAX 24000u
#define MODEL_EXTRA_MAX 12u

struct model_message {
	uint64_t queue, ref;
	uint64_t id; /* its bytes follow from it */
	uint32_t len, deliveries, extra_len;
	uint32_t pieces; /* 0: the body is in one */
	uint8_t extra, reason;
	bool gone;
};

struct model_queue {
	uint64_t id; /* 0: none */
	uint64_t next[RECORD_PRIORITIES];
};

struct model {
	struct model_message messages[MODEL_MESSAGES];
	uint32_t count;
	struct model_queue queues[MODEL_QUEUES];
};

struct model_op {
	uint8_t type;
	uint64_t queue, ref, last, upload;
	uint64_t targets[MODEL_TARGETS];
	uint32_t target_count;
	uint8_t priority, reason, place;
	uint64_t id; /* of the message; of a piece: of its bytes */
	uint32_t len, deliveries, extra_len, index, pieces;
	uint8_t extra;
	uint8_t meta[512];
	uint32_t meta_len, body_len;
};

static inline void model_bytes(uint8_t *p, uint64_t id, uint64_t len)
{
	for (uint64_t i = 0; i < len; i++)
		p[i] = i < 8 ? (uint8_t)(id >> 8 * i)
			     : (uint8_t)((id * 0x9e3779b97f4a7c15ull +
					  i * 0x2545f491) >>
					 24);
}

/* Half of them pack well, so that both forms are moved. */
static inline void model_body(const struct model_op *op, uint8_t *p)
{
	model_bytes(p, op->id, op->body_len);
	if (op->id % 2 && op->body_len > 600)
		memset(p + 300, 'x', op->body_len - 300);
}

static inline struct model_queue *model_queue(struct model *m, uint64_t id)
{
	for (unsigned i = 0; i < MODEL_QUEUES; i++)
		if (id && m->queues[i].id == id)
			return &m->queues[i];
	return NULL;
}

static inline void model_enter(struct model *m, const struct model_op *op)
{
	for (uint32_t i = 0; i < op->target_count; i++) {
		struct model_queue *q = model_queue(m, op->targets[i]);

		if (!q)
			continue;
		assert_true(m->count < MODEL_MESSAGES);
		m->messages[m->count++] = (struct model_message){
			.queue = q->id,
			.ref = record_ref(op->priority,
					  q->next[op->priority]++),
			.id = op->id,
			.len = op->len,
			.pieces = op->pieces,
			.reason = op->reason,
			.extra_len = op->extra_len,
			.extra = op->extra,
		};
	}
}

static inline struct model_message *model_find(struct model *m, uint64_t queue,
					       uint64_t ref)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct model_message *found = &m->messages[i];

		if (found->queue == queue && found->ref == ref && !found->gone)
			return found;
	}
	return NULL;
}

static inline void model_leave(struct model *m, uint64_t queue, uint64_t first,
			       uint64_t last)
{
	for (uint32_t i = 0; i < m->count; i++)
		if (m->messages[i].queue == queue &&
		    m->messages[i].ref >= first && m->messages[i].ref <= last)
			m->messages[i].gone = true;
}

/* Forget what has left, so that there is room. */
static inline void model_squeeze(struct model *m)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < m->count; i++)
		if (!m->messages[i].gone)
			m->messages[kept++] = m->messages[i];
	m->count = kept;
}

static inline void model_apply(struct model *m, const struct model_op *op)
{
	struct model_message *found;
	struct model_queue *q;

	switch ((enum record_type)op->type) {
	case RECORD_ENQUEUE:
		model_enter(m, op);
		break;
	case RECORD_ACK:
		model_leave(m, op->queue, op->ref, op->last);
		break;
	case RECORD_COUNT:
		found = model_find(m, op->queue, op->ref);
		if (!found)
			break;
		found->deliveries = op->deliveries;
		if (op->extra_len) {
			found->extra_len = op->extra_len;
			found->extra = op->extra;
		}
		break;
	case RECORD_MOVE:
		model_leave(m, op->queue, op->ref, op->ref);
		model_enter(m, op);
		break;
	case RECORD_QUEUE:
		q = &m->queues[op->place];
		*q = (struct model_queue){.id = op->queue};
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			q->next[p] = 1;
		break;
	case RECORD_QUEUE_GONE:
		model_leave(m, op->queue, 0, UINT64_MAX);
		model_queue(m, op->queue)->id = 0;
		break;
	case RECORD_PIECE:
	case RECORD_UPLOAD_ABORT:
	case RECORD_ADDRESS:
	case RECORD_ADDRESS_GONE:
	case RECORD_EXTENTS:
	case RECORD_CHECKPOINT:
		break;
	}
}

/* ---- encoding ---- */

static inline void model_encode_queue(struct model_op *op)
{
	char name[16];
	struct record_queue q = {
		.id = op->queue,
		.address = 1,
		.name = name,
		.routing = RECORD_ANYCAST,
	};

	snprintf(name, sizeof(name), "q%u", (unsigned)op->queue);
	q.name_len = (uint16_t)strlen(name);
	op->type = RECORD_QUEUE;
	op->meta_len = (uint32_t)record_queue_encode(&q, op->meta);
}

static inline struct record_props model_props(const struct model_op *op)
{
	return (struct record_props){.priority = op->priority,
				     .durable = 1,
				     .arrived_ms = op->id,
				     .expiry_ms = op->id % 3 ? 0 : ~op->id};
}

static inline void model_encode_enqueue(struct model_op *op)
{
	struct record_enqueue e = {
		.props = model_props(op),
		.upload = op->upload,
		.bytes = op->len,
		.piece_count = op->pieces,
		.target_count = op->target_count,
		.targets = op->targets,
	};

	op->type = RECORD_ENQUEUE;
	op->body_len = op->upload ? 0 : op->len;
	op->meta_len = (uint32_t)record_enqueue_encode(&e, op->meta);
}

static inline void model_encode_piece(struct model_op *op)
{
	struct record_piece p = {.upload = op->upload, .index = op->index};

	op->type = RECORD_PIECE;
	op->meta_len = (uint32_t)record_piece_encode(&p, op->meta);
}

static inline void model_encode_ack(struct model_op *op, uint64_t bytes)
{
	struct record_range range = {op->ref, op->last};
	struct record_ack a = {.queue = op->queue,
			       .bytes = bytes,
			       .range_count = 1,
			       .ranges = &range};

	op->type = RECORD_ACK;
	op->meta_len = (uint32_t)record_ack_encode(&a, op->meta);
}

static inline void model_encode_count(struct model_op *op)
{
	uint8_t extra[MODEL_EXTRA_MAX];
	struct record_count c = {.queue = op->queue,
				 .ref = op->ref,
				 .deliveries = op->deliveries,
				 .extra_len = op->extra_len,
				 .extra = extra};

	memset(extra, op->extra, sizeof(extra));
	op->type = RECORD_COUNT;
	op->meta_len = (uint32_t)record_count_encode(&c, op->meta);
}

static inline void model_encode_move(struct model_op *op)
{
	uint8_t extra[MODEL_EXTRA_MAX];
	struct record_move v = {
		.queue = op->queue,
		.ref = op->ref,
		.props = model_props(op),
		.bytes = op->len,
		.origin = {.address = "from",
			   .queue = "origin",
			   .address_len = 4,
			   .queue_len = 6,
			   .reason = op->reason},
		.extra_len = op->extra_len,
		.extra = extra,
		.target_count = op->target_count,
		.targets = op->targets,
	};

	memset(extra, op->extra, sizeof(extra));
	op->type = RECORD_MOVE;
	op->body_len = op->len;
	op->meta_len = (uint32_t)record_move_encode(&v, op->meta);
}

static inline void model_encode_gone(struct model_op *op)
{
	op->type = RECORD_QUEUE_GONE;
	op->meta_len = (uint32_t)record_gone_encode(op->queue, op->meta);
}

#endif
