/* tests/unit/store_twin.h: a state and its reference, fed the same records.
 *
 * TEST_SEED replays a failure. */
#ifndef TESTS_UNIT_STORE_TWIN_H
#define TESTS_UNIT_STORE_TWIN_H

#include "journal/store/state.h"
#include "tests/unit/store_model.h"

#define RECORDS_A_SEGMENT 400u

static inline uint64_t test_seed(void)
{
	const char *text = getenv("TEST_SEED");

	return text ? strtoull(text, NULL, 10) : 20240607;
}

struct twin {
	struct state state;
	struct model model;
	uint64_t lsn;
};

static inline void twin_init(struct twin *t, uint64_t seed)
{
	memset(t, 0, sizeof(*t));
	state_init(&t->state);
	t->model.seed = seed;
}

static inline void twin_fini(struct twin *t)
{
	state_fini(&t->state);
	model_fini(&t->model);
}

static inline struct log_loc loc_of(uint64_t lsn, uint32_t body_len)
{
	return (struct log_loc){
		.segment = log_segment_key(
			1, (uint32_t)(1 + lsn / RECORDS_A_SEGMENT)),
		.frame = (uint32_t)(1 + lsn % RECORDS_A_SEGMENT),
		.at = (uint32_t)(lsn % 77),
		.stored_len = body_len / 2 + 1,
		.body_len = body_len,
	};
}

static inline int apply(struct state *s, uint64_t lsn, uint8_t type,
			const void *meta, size_t len, uint32_t body_len)
{
	struct log_record r = {.lsn = lsn,
			       .type = type,
			       .meta = meta,
			       .meta_len = (uint32_t)len,
			       .loc = loc_of(lsn, body_len)};

	return state_apply(s, &r);
}

static inline void twin_step(struct twin *t)
{
	struct model_op op;
	struct log_loc loc;

	model_make(&t->model, &op);
	t->lsn++;
	loc = loc_of(t->lsn, op.body_len);
	assert_int_equal(apply(&t->state, t->lsn, op.type, op.meta, op.meta_len,
			       op.body_len),
			 0);
	model_apply(&t->model, &op, t->lsn, &loc);
}

static inline void twin_restart(struct twin *t)
{
	t->lsn++;
	assert_int_equal(
		apply(&t->state, t->lsn, LOG_TYPE_EPOCH_START, "", 0, 0), 0);
	model_restart(&t->model);
}

struct comparison {
	struct twin *twin;
	const struct model_queue *queue;
	size_t at;
};

static inline int compare_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct comparison *c = ctx;
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	struct log_loc pieces[MODEL_PIECES] = {0};
	struct store_message m = {
		.ref = ref,
		.props = {.expiry_ms = e->expiry_ms,
			  .arrived_ms = e->arrived_ms,
			  .priority = e->priority,
			  .durable = e->durable,
			  .format = e->format},
		.bytes = state_entry_bytes(e),
		.deliveries = e->deliveries,
		.extra_len = e->more ? e->more->extra_len : 0,
		.extra = e->more ? e->more->data : NULL,
		.origin = state_entry_origin(e),
		.pieces = pieces,
	};

	if (u) {
		m.upload = u->id;
		m.piece_count = u->piece_count;
		for (uint32_t i = 0; i < u->piece_count; i++)
			pieces[i] = state_loc(&c->twin->state, &u->pieces[i]);
	} else {
		m.loc = state_loc(&c->twin->state, &e->place);
	}
	assert_true(c->at < c->queue->count);
	model_assert_message(&c->twin->model, &c->queue->messages[c->at++], &m);
	return 0;
}

static inline size_t compare_names(const struct idmap *map,
				   const struct model_queue *places,
				   bool queues)
{
	size_t count = 0;

	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &places[i];
		const void *have = q->id ? idmap_get(map, q->id) : NULL;
		const struct state_address *a = have;
		const struct state_queue *b = have;

		if (!q->id)
			continue;
		count++;
		assert_non_null(have);
		assert_int_equal(queues ? b->record.flags : a->record.flags,
				 q->flags);
		assert_memory_equal(queues ? b->name : a->name, q->name,
				    strlen(q->name));
	}
	assert_int_equal(map->count, count);
	return count;
}

static inline void twin_compare(struct twin *t)
{
	uint64_t messages = 0, bytes = 0;

	state_check(&t->state);
	assert_true(t->state.next_id <= t->model.next_id);
	compare_names(&t->state.addresses, t->model.addresses, false);
	compare_names(&t->state.queues, t->model.queues, true);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &t->model.queues[i];
		struct comparison c = {t, q, 0};
		const struct state_queue *have;

		if (!q->id)
			continue;
		have = idmap_get(&t->state.queues, q->id);
		entries_each(&have->entries, compare_entry, &c);
		assert_int_equal(c.at, q->count);
		messages += q->count;
		for (size_t k = 0; k < q->count; k++)
			bytes += q->messages[k].bytes;
	}
	assert_int_equal(t->state.live_messages, messages);
	assert_int_equal(t->state.live_bytes, bytes);
	for (uint64_t lsn = 0; lsn <= t->lsn; lsn += RECORDS_A_SEGMENT) {
		uint64_t key = loc_of(lsn, 1).segment;

		assert_int_equal(state_segment_live(&t->state, key),
				 model_segment_live(&t->model, key));
	}
}

/* ---- single records ---- */

static uint8_t meta[4096] UNUSED;

static inline void put_queue(struct state *s, uint64_t id)
{
	struct record_queue q = {.id = id,
				 .address = 1,
				 .name = "q",
				 .name_len = 1,
				 .routing = RECORD_ANYCAST};

	assert_int_equal(apply(s, 1, RECORD_QUEUE, meta,
			       record_queue_encode(&q, meta), 0),
			 0);
}

static inline int put_message(struct state *s, uint64_t lsn, uint64_t queue,
			      uint64_t upload, uint32_t piece_count,
			      uint64_t bytes)
{
	struct record_enqueue e = {.upload = upload,
				   .bytes = bytes,
				   .piece_count = piece_count,
				   .target_count = 1,
				   .targets = &queue};

	return apply(s, lsn, RECORD_ENQUEUE, meta,
		     record_enqueue_encode(&e, meta),
		     upload ? 0 : (uint32_t)bytes);
}

static inline int put_piece(struct state *s, uint64_t lsn, uint64_t upload,
			    uint32_t index, uint32_t bytes)
{
	struct record_piece p = {.upload = upload, .index = index};

	return apply(s, lsn, RECORD_PIECE, meta, record_piece_encode(&p, meta),
		     bytes);
}

#endif
