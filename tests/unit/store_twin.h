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
	struct state *shadow; /* is fed the same; NULL: none */
	struct model model;
	uint64_t lsn;
	/* An EXTENTS that was made and not applied; type 0: none. */
	struct model_op moving;
	unsigned moving_in; /* steps */
	uint64_t runs_most, pieces_moved;
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

/* Applies it to the states, not to the model. */
static inline int twin_record(struct twin *t, uint8_t type, const void *meta,
			      size_t len, uint32_t body_len)
{
	int err;

	t->lsn++;
	err = apply(&t->state, t->lsn, type, meta, len, body_len);
	if (t->shadow)
		assert_int_equal(
			apply(t->shadow, t->lsn, type, meta, len, body_len),
			err);
	return err;
}

static inline int twin_op(struct twin *t, const struct model_op *op)
{
	int err =
		twin_record(t, op->type, op->meta, op->meta_len, op->body_len);
	struct log_loc loc = loc_of(t->lsn, op->body_len);

	if (!err)
		model_apply(&t->model, op, &loc);
	return err;
}

/* The error, which leaves the state void, is not the model's. */
static inline int twin_try_step(struct twin *t)
{
	struct model_op op;
	int err;

	if (!t->moving.type && !model_random(&t->model, 15)) {
		model_make_extents(&t->model, &t->moving);
		t->moving_in = (unsigned)model_random(&t->model, 15);
	}
	if (t->moving.type && !t->moving_in--) {
		err = twin_op(t, &t->moving);
		t->pieces_moved += t->moving.place_count;
		t->moving.type = 0;
		t->runs_most = base_max(t->runs_most, t->state.run_count);
		return err;
	}
	model_make(&t->model, &op);
	return twin_op(t, &op);
}

static inline void twin_step(struct twin *t)
{
	assert_int_equal(twin_try_step(t), 0);
}

static inline void twin_restart(struct twin *t)
{
	assert_int_equal(twin_record(t, LOG_TYPE_EPOCH_START, "", 0, 0), 0);
	model_restart(&t->model);
}

static inline void compare_entry(struct twin *t,
				 const struct model_message *want,
				 const struct entry *e)
{
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	uint32_t piece_bytes[MODEL_PIECES] = {0};
	struct store_message have = {
		.ref = want->ref,
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
		.piece_bytes = piece_bytes,
	};
	struct log_loc loc;

	if (u) {
		have.upload = u->id;
		have.piece_count = u->piece_count;
		assert_true(u->piece_count <= MODEL_PIECES);
		for (uint32_t i = 0; i < u->piece_count; i++) {
			loc = state_loc(&t->state, &u->pieces[i]);
			piece_bytes[i] = loc.body_len;
			model_assert_loc(
				&loc,
				&model_upload(&t->model, u->id)->pieces[i]);
		}
	} else {
		loc = state_loc(&t->state, &e->place);
		model_assert_loc(&loc, &want->loc);
	}
	model_assert_message(&t->model, want, &have);
}

/* What the run's bytes say, and what has become of it since. */
static inline void compare_in_run(struct twin *t,
				  const struct model_message *want,
				  const struct state_lane *lane)
{
	size_t index;
	struct state_run *run = state_run_from(lane, want->ref, &index);
	const struct detail_change *change = NULL;
	struct model_notes notes = want->copied;
	const struct detail *detail;
	uint32_t at;

	assert_non_null(run);
	assert_true(run->first <= want->ref);
	assert_int_equal(t->state.files[run->file].key, want->file);
	assert_int_equal(run->offset, want->offset);
	assert_true(!want->props.expiry_ms ||
		    (run->expiry_min_ms &&
		     run->expiry_min_ms <= want->props.expiry_ms));
	assert_int_equal(state_run_detail(&t->state, run, &detail), 0);
	at = (uint32_t)(want->ref - run->first);
	if (detail) {
		assert_false(detail_is_gone(detail, at));
		change = detail_find(detail, at);
	}
	if (change)
		notes.deliveries = change->deliveries;
	if (change && change->extra_len) {
		notes.extra_len = change->extra_len;
		memcpy(notes.extra, change->extra, change->extra_len);
	}
	model_assert_notes(&want->notes, notes.deliveries, notes.extra_len,
			   notes.extra);
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

static inline void compare_lane(struct twin *t, const struct model_queue *q,
				unsigned priority,
				const struct state_lane *lane)
{
	uint64_t count = 0, expiry_ms = 0, at = 0;

	for (size_t i = 0; i < q->count; i++) {
		const struct model_message *want = &q->messages[i];
		struct entry e;

		if (want->props.priority != priority)
			continue;
		count++;
		if (want->props.expiry_ms &&
		    (!expiry_ms || want->props.expiry_ms < expiry_ms))
			expiry_ms = want->props.expiry_ms;
		assert_non_null(lane);
		/* It may name one that has left, never skip this one. */
		at = state_lane_first(lane, at);
		assert_true(at && at <= want->ref);
		at = want->ref + 1;
		if (want->file == 0) {
			assert_true(entries_get(&lane->entries, want->ref, &e));
			compare_entry(t, want, &e);
			continue;
		}
		assert_false(entries_get(&lane->entries, want->ref, &e));
		compare_in_run(t, want, lane);
	}
	assert_int_equal(lane ? lane->live : 0, count);
	assert_int_equal(lane ? lane->next : 1, q->numbers[priority] + 1);
	if (expiry_ms) {
		assert_true(state_lane_expiry(lane));
		assert_true(state_lane_expiry(lane) <= expiry_ms);
	}
}

static inline void compare_files(struct twin *t)
{
	for (uint64_t lsn = 0; lsn <= t->lsn; lsn += RECORDS_A_SEGMENT) {
		uint64_t key = loc_of(lsn, 1).segment;

		assert_int_equal(state_file_live(&t->state, key),
				 model_file_live(&t->model, key));
	}
	for (uint32_t i = 1; i <= t->model.file_count; i++) {
		uint64_t key = store_file_key(1, i);
		const struct state_file *f = state_find_file(&t->state, key);
		bool live = model_file_live(&t->model, key);

		assert_int_equal(f && f->live, live);
		if (live || (t->moving.type && key == t->moving.file))
			continue;
		/* Until it is forgotten, in any order. */
		assert_true(!f || f->dead);
		if (f && !t->shadow && model_random(&t->model, 2))
			state_forget_file(&t->state, key);
	}
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
		const struct state_queue *have;

		if (!q->id)
			continue;
		have = idmap_get(&t->state.queues, q->id);
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			compare_lane(t, q, p, have->lanes[p]);
		assert_int_equal(have->live, q->count);
		assert_int_equal(have->bytes, q->bytes);
		messages += q->count;
		bytes += q->bytes;
	}
	assert_int_equal(t->state.live_messages, messages);
	assert_int_equal(t->state.live_bytes, bytes);
	compare_files(t);
	state_check(&t->state);
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
