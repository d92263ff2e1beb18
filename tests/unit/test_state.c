/* tests/unit/test_state.c: the store's state machine, without a log.
 *
 * Random records go into a state and into the reference of store_model.h;
 * both must then tell the same.  TEST_SEED replays a failure. */
#include "tests/unit/test.h"

#include <malloc.h>

#include "tests/unit/index_twin.h"
#include "tests/unit/store_twin.h"

/* ---- the map by itself ---- */

TEST("a map gives back what was put, while others come and go")
{
	enum { IDS = 3000 };
	static int values[IDS + 1];
	static bool there[IDS + 1];
	struct idmap map = {0};
	struct model m = {.seed = test_seed()};
	size_t count = 0;

	for (unsigned i = 0; i < 200000; i++) {
		uint64_t id = 1 + model_random(&m, IDS);

		if (there[id]) {
			assert_ptr_equal(idmap_get(&map, id), &values[id]);
			assert_ptr_equal(idmap_take(&map, id), &values[id]);
			count--;
		} else {
			assert_null(idmap_get(&map, id));
			assert_null(idmap_take(&map, id));
			assert_int_equal(idmap_put(&map, id, &values[id]), 0);
			count++;
		}
		there[id] = !there[id];
		assert_int_equal(map.count, count);
	}
	for (uint64_t id = 1; id <= IDS; id++)
		assert_ptr_equal(idmap_get(&map, id),
				 there[id] ? &values[id] : NULL);
	idmap_fini(&map);
}

static void run_twin(struct twin *t, unsigned steps)
{
	for (unsigned i = 0; i < steps; i++) {
		twin_step(t);
		if (!model_random(&t->model, 3000))
			twin_restart(t);
		if (i % 499 == 0)
			twin_compare(t);
	}
	twin_compare(t);
}

TEST("after any records the state is what a trivial model says")
{
	uint64_t messages = 0, runs = 0, pieces = 0;
	struct twin t;

	for (unsigned round = 0; round < 6; round++) {
		/* Few messages are many chunks then. */
		if (round >= 3)
			entries_sizes = (struct entries_sizes){5, 1};
		twin_init(&t, test_seed() + round);
		run_twin(&t, 8000);
		messages = base_max(messages, t.state.live_messages);
		runs = base_max(runs, t.runs_most);
		pieces += t.pieces_moved;
		twin_fini(&t);
	}
	entries_sizes = (struct entries_sizes){ENTRIES_CHUNK, ENTRIES_WIDE};
	/* Otherwise the dice would test empty queues. */
	assert_true(messages > 500 && runs > 50 && pieces > 50);
}

/* ---- details beyond memory ---- */

TEST("with next to no memory for details the state is the same")
{
	struct index_twin index;
	struct twin t;

	for (unsigned round = 0; round < 3; round++) {
		index_twin_init(&index);
		twin_init(&t, test_seed() + 30 + round);
		t.state.index = &index.index;
		t.state.detail_bytes_max = round * 500;
		run_twin(&t, 8000);
		assert_true(t.state.detail_spills > 100);
		assert_true(index.gets > 100);
		/* What has gone does not stay there. */
		assert_true(index.count <= t.state.run_count);
		twin_fini(&t);
		index_twin_fini(&index);
	}
}

TEST("an index that refuses to take details costs memory only")
{
	struct index_twin index;
	struct twin t;

	index_twin_init(&index);
	index.put_fails = 4; /* of four */
	twin_init(&t, test_seed() + 40);
	t.state.index = &index.index;
	t.state.detail_bytes_max = 500;
	run_twin(&t, 4000);
	assert_int_equal(t.state.detail_spills, 0);
	assert_true(t.state.detail_spill_failures > 0);
	assert_true(t.state.detail_bytes > 500);
	/* It is not asked again at every step. */
	assert_true(t.state.detail_spill_failures < 100);
	index.put_fails = 1;
	run_twin(&t, 8000);
	assert_true(t.state.detail_spills > 10);
	twin_fini(&t);
	index_twin_fini(&index);
}

TEST("an index that has lost a detail stops the state with a sentence")
{
	static const int errors[] = {-ENOENT, -E_CORRUPT, -EIO};
	struct index_twin index;
	struct twin t;

	for (size_t i = 0; i < ARRAY_COUNT(errors); i++) {
		int err = 0;

		index_twin_init(&index);
		twin_init(&t, test_seed() + 50 + i);
		t.state.index = &index.index;
		run_twin(&t, 2000);
		index.get_error = errors[i];
		for (unsigned k = 0; !err && k < 5000; k++)
			err = twin_try_step(&t);
		assert_int_equal(err, errors[i]);
		assert_non_null(strstr(t.state.why, "a restart rebuilds it"));
		twin_fini(&t);
		index_twin_fini(&index);
	}
}

TEST("a detail that is not the run's is found out")
{
	struct index_twin index;
	struct twin t;
	int err = 0;

	index_twin_init(&index);
	twin_init(&t, test_seed() + 60);
	t.state.index = &index.index;
	run_twin(&t, 2000);
	index.get_wrong = true;
	for (unsigned k = 0; !err && k < 5000; k++)
		err = twin_try_step(&t);
	assert_int_equal(err, -E_CORRUPT);
	assert_non_null(strstr(t.state.why, "a restart rebuilds it"));
	twin_fini(&t);
	index_twin_fini(&index);
}

/* ---- single rules ---- */

TEST("a damaged or newer record is refused with a sentence")
{
	struct state s;

	state_init(&s);
	assert_int_equal(apply(&s, 7, RECORD_ACK, "x", 1, 0), -E_CORRUPT);
	assert_non_null(strstr(s.why, "ACK record at LSN 7"));
	state_fini(&s);
	state_init(&s);
	assert_int_equal(apply(&s, 8, 200, "", 0, 0), -E_VERSION);
	assert_non_null(strstr(s.why, "a newer version"));
	state_fini(&s);
	for (uint8_t type = LOG_TYPE_USER; type < RECORD_ENQUEUE; type++) {
		state_init(&s);
		assert_int_equal(apply(&s, 8, type, "", 0, 0), -E_VERSION);
		assert_non_null(strstr(s.why, "an older version"));
		state_fini(&s);
	}
	state_init(&s);
	assert_int_equal(apply(&s, 9, LOG_TYPE_IDLE, "", 0, 0), 0);
	assert_int_equal(s.changes, 0);
	state_fini(&s);
}

TEST("a message that lacks a piece of its upload is refused")
{
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_piece(&s, 3, 9, 2, 100), -E_CORRUPT);
	state_fini(&s);
	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_message(&s, 3, 5, 9, 2, 200), -E_CORRUPT);
	assert_non_null(strstr(s.why, "lacks pieces"));
	state_fini(&s);
	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_message(&s, 3, 5, 9, 1, 99), -E_CORRUPT);
	state_fini(&s);
}

TEST("an upload keeps its segments until it is aborted or consumed")
{
	uint64_t key = loc_of(2, 1).segment;
	struct record_ack a = {.queue = 5,
			       .range_count = 1,
			       .ranges = &(struct record_range){0, 900}};
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_true(state_file_live(&s, key));
	assert_int_equal(apply(&s, 3, RECORD_UPLOAD_ABORT, meta,
			       record_upload_abort_encode(9, meta), 0),
			 0);
	assert_false(state_file_live(&s, key));
	assert_int_equal(put_piece(&s, 4, 10, 0, 100), 0);
	assert_int_equal(put_message(&s, 500, 5, 10, 1, 100), 0);
	assert_true(state_file_live(&s, key));
	assert_false(state_file_live(&s, loc_of(500, 1).segment));
	assert_int_equal(apply(&s, 600, RECORD_ACK, meta,
			       record_ack_encode(&a, meta), 0),
			 0);
	assert_false(state_file_live(&s, key));
	assert_int_equal(s.live_files, 0);
	/* Nobody is there to receive it: it goes at once. */
	assert_int_equal(put_piece(&s, 700, 11, 0, 100), 0);
	assert_int_equal(put_message(&s, 701, 6, 11, 1, 100), 0);
	assert_int_equal(s.uploads.count, 0);
	state_check(&s);
	state_fini(&s);
}

TEST("a restart drops unfinished uploads and temporary queues only")
{
	struct record_queue q = {.id = 6,
				 .address = 1,
				 .name = "t",
				 .name_len = 1,
				 .routing = RECORD_ANYCAST,
				 .flags = RECORD_QUEUE_TEMPORARY};
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(apply(&s, 2, RECORD_QUEUE, meta,
			       record_queue_encode(&q, meta), 0),
			 0);
	assert_int_equal(put_message(&s, 3, 5, 0, 0, 10), 0);
	assert_int_equal(put_message(&s, 4, 6, 0, 0, 10), 0);
	assert_int_equal(put_piece(&s, 5, 20, 0, 100), 0);
	assert_int_equal(put_piece(&s, 6, 21, 0, 100), 0);
	assert_int_equal(put_message(&s, 7, 5, 21, 1, 100), 0);
	state_restart(&s);
	assert_null(idmap_get(&s.queues, 6));
	assert_null(idmap_get(&s.uploads, 20));
	assert_non_null(idmap_get(&s.uploads, 21));
	assert_int_equal(s.live_messages, 2);
	assert_int_equal(s.next_id, 22);
	state_check(&s);
	state_fini(&s);
}

/* ---- runs: single rules ---- */

static int ack_range(struct state *s, uint64_t lsn, uint64_t first,
		     uint64_t last, uint64_t bytes)
{
	struct record_ack a = {.queue = 5,
			       .bytes = bytes,
			       .range_count = 1,
			       .ranges = &(struct record_range){first, last}};

	return apply(s, lsn, RECORD_ACK, meta, record_ack_encode(&a, meta), 0);
}

static int count_message(struct state *s, uint64_t ref, uint32_t deliveries)
{
	struct record_count c = {
		.queue = 5, .ref = ref, .deliveries = deliveries};

	return apply(s, 1, RECORD_COUNT, meta, record_count_encode(&c, meta),
		     0);
}

/* One run of queue 5, lane 0, in extent file `number`. */
static int put_run(struct state *s, uint32_t number, uint64_t first,
		   uint32_t span, uint32_t copied)
{
	struct record_run run = {.queue = 5,
				 .first = first,
				 .span = span,
				 .copied = copied,
				 .offset = 100,
				 .bytes = copied * 100};
	struct record_extents x = {.file = store_file_key(1, number),
				   .file_bytes = 1 << 20,
				   .run_count = 1,
				   .runs = &run};

	return apply(s, 1, RECORD_EXTENTS, meta,
		     record_extents_encode(&x, meta), 0);
}

/* Ten messages of ten bytes. */
static void ten_messages(struct state *s)
{
	state_init(s);
	put_queue(s, 5);
	for (uint64_t lsn = 1; lsn <= 10; lsn++)
		assert_int_equal(put_message(s, lsn, 5, 0, 0, 10), 0);
}

static const struct state_lane *lane_of(const struct state *s)
{
	const struct state_queue *q = idmap_get(&s->queues, 5);

	return q->lanes[0];
}

TEST("numbers go on rising in a queue that was empty")
{
	struct state s;

	ten_messages(&s);
	assert_int_equal(ack_range(&s, 11, 1, 10, 100), 0);
	assert_int_equal(s.live_messages, 0);
	assert_int_equal(s.live_files, 0);
	assert_int_equal(put_message(&s, 12, 5, 0, 0, 10), 0);
	assert_int_equal(state_lane_first(lane_of(&s), 0), 11);
	assert_int_equal(lane_of(&s)->next, 12);
	state_check(&s);
	state_fini(&s);
}

TEST("a message moves although it has left meanwhile")
{
	struct record_move m = {.queue = 5,
				.ref = 3,
				.bytes = 10,
				.origin.reason = RECORD_REASON_EXPIRED,
				.target_count = 1,
				.targets = (uint64_t[]){5}};
	struct entry e;
	struct state s;

	ten_messages(&s);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(apply(&s, 20 + i, RECORD_MOVE, meta,
				       record_move_encode(&m, meta), 10),
				 0);
	assert_int_equal(s.live_messages, 11);
	assert_int_equal(s.live_bytes, 110);
	assert_true(entries_get(&lane_of(&s)->entries, 11, &e));
	assert_true(entries_get(&lane_of(&s)->entries, 12, &e));
	assert_false(entries_get(&lane_of(&s)->entries, 3, &e));
	state_check(&s);
	state_fini(&s);
}

TEST("what is miscounted is gone when a queue is empty")
{
	const struct state_queue *q;
	struct state s;

	ten_messages(&s);
	q = idmap_get(&s.queues, 5);
	assert_int_equal(ack_range(&s, 11, 1, 4, 10), 0);
	assert_int_equal(q->bytes, 90);
	assert_int_equal(ack_range(&s, 12, 5, 5, 1000), 0);
	assert_int_equal(q->bytes, 0);
	assert_int_equal(put_message(&s, 13, 5, 0, 0, 10), 0);
	assert_int_equal(ack_range(&s, 14, 1, 11, 0), 0);
	assert_int_equal(q->bytes, 0);
	assert_int_equal(s.live_bytes, 0);
	state_check(&s);
	state_fini(&s);
}

TEST("a run whose file says more than is there is smaller from its start")
{
	const struct state_file *f;
	const struct detail *detail;
	const struct state_run *run;
	struct state s;

	ten_messages(&s);
	assert_int_equal(ack_range(&s, 11, 3, 3, 10), 0);
	assert_int_equal(put_run(&s, 1, 2, 4, 4), 0); /* 2 to 5 */
	run = lane_of(&s)->runs[lane_of(&s)->run_head];
	assert_int_equal(run->live, 3);
	assert_int_equal(state_run_detail(&s, lane_of(&s)->runs[0], &detail),
			 0);
	assert_true(detail_is_gone(detail, 1));
	f = state_find_file(&s, store_file_key(1, 1));
	assert_int_equal(f->live, 3);
	assert_int_equal(f->live_bytes, 300);
	assert_int_equal(f->bytes, 1 << 20);
	assert_int_equal(s.entry_count, 6);
	assert_int_equal(s.live_messages, 9);
	assert_int_equal(state_lane_first(lane_of(&s), 2), 2);
	assert_int_equal(state_lane_first(lane_of(&s), 3), 4);
	assert_int_equal(state_lane_first(lane_of(&s), 6), 6);
	state_check(&s);
	/* All of it, then a part of the next. */
	assert_int_equal(ack_range(&s, 12, 1, 7, 60), 0);
	f = state_find_file(&s, store_file_key(1, 1));
	assert_true(f->dead);
	assert_int_equal(s.run_count, 0);
	assert_int_equal(state_lane_first(lane_of(&s), 0), 8);
	state_check(&s);
	state_forget_file(&s, store_file_key(1, 1));
	assert_null(state_find_file(&s, store_file_key(1, 1)));
	state_check(&s);
	state_fini(&s);
}

TEST("a file in which nothing is left when it is recorded is dead at once")
{
	struct state s;

	ten_messages(&s);
	assert_int_equal(ack_range(&s, 11, 1, 10, 100), 0);
	assert_int_equal(put_run(&s, 1, 1, 10, 10), 0);
	assert_true(state_find_file(&s, store_file_key(1, 1))->dead);
	assert_int_equal(s.run_count, 0);
	state_check(&s);
	assert_int_equal(apply(&s, 12, RECORD_QUEUE_GONE, meta,
			       record_gone_encode(5, meta), 0),
			 0);
	assert_int_equal(put_run(&s, 2, 1, 10, 10), 0);
	assert_true(state_find_file(&s, store_file_key(1, 2))->dead);
	state_check(&s);
	state_fini(&s);
}

TEST("a count of 0 is not forgotten when its message moves to a file")
{
	const struct detail *detail;
	struct state s;

	ten_messages(&s);
	assert_int_equal(count_message(&s, 4, 3), 0);
	assert_int_equal(count_message(&s, 4, 0), 0);
	assert_int_equal(put_run(&s, 1, 1, 10, 10), 0);
	assert_int_equal(state_run_detail(&s, lane_of(&s)->runs[0], &detail),
			 0);
	assert_non_null(detail_find(detail, 3));
	assert_int_equal(detail_find(detail, 3)->deliveries, 0);
	assert_int_equal(count_message(&s, 5, 7), 0);
	/* And into the next file. */
	assert_int_equal(put_run(&s, 2, 1, 10, 10), 0);
	assert_int_equal(state_run_detail(&s, lane_of(&s)->runs[0], &detail),
			 0);
	assert_int_equal(detail_find(detail, 3)->deliveries, 0);
	assert_int_equal(detail_find(detail, 4)->deliveries, 7);
	assert_true(state_find_file(&s, store_file_key(1, 1))->dead);
	state_check(&s);
	state_fini(&s);
}

static void refused(struct state *s, int err)
{
	assert_int_equal(err, -E_CORRUPT);
	assert_true(s->why[0]);
	state_fini(s);
}

TEST("an EXTENTS record that cannot be true is refused")
{
	struct record_piece_place place = {
		.upload = 9, .stored_len = 5, .body_len = 101};
	struct record_extents x = {.file = store_file_key(1, 1),
				   .piece_count = 1,
				   .pieces = &place};
	struct state s;

	ten_messages(&s); /* behind the last number */
	refused(&s, put_run(&s, 1, 5, 7, 7));
	ten_messages(&s); /* more are there than were copied */
	refused(&s, put_run(&s, 1, 1, 10, 9));
	ten_messages(&s); /* half a run */
	assert_int_equal(put_run(&s, 1, 1, 10, 10), 0);
	refused(&s, put_run(&s, 2, 1, 5, 5));
	ten_messages(&s); /* the other half, and one is gone */
	assert_int_equal(put_run(&s, 1, 1, 10, 10), 0);
	assert_int_equal(ack_range(&s, 2, 7, 7, 10), 0);
	refused(&s, put_run(&s, 2, 6, 5, 5));
	ten_messages(&s); /* a file twice */
	assert_int_equal(put_run(&s, 1, 1, 5, 5), 0);
	refused(&s, put_run(&s, 1, 6, 5, 5));
	ten_messages(&s); /* another piece than there is */
	assert_int_equal(put_piece(&s, 11, 9, 0, 100), 0);
	refused(&s, apply(&s, 12, RECORD_EXTENTS, meta,
			  record_extents_encode(&x, meta), 0));
}

TEST("what is left of a run moves without what has left around it")
{
	struct state s;

	ten_messages(&s);
	assert_int_equal(put_run(&s, 1, 1, 10, 10), 0);
	assert_int_equal(ack_range(&s, 2, 1, 3, 30), 0);
	assert_int_equal(ack_range(&s, 3, 9, 10, 20), 0);
	assert_int_equal(put_run(&s, 2, 4, 5, 5), 0);
	assert_int_equal(s.run_count, 1);
	assert_int_equal(lane_of(&s)->runs[0]->live, 5);
	assert_null(lane_of(&s)->runs[0]->detail);
	assert_int_equal(state_lane_first(lane_of(&s), 0), 4);
	assert_int_equal(state_lane_first(lane_of(&s), 9), 0);
	state_check(&s);
	state_fini(&s);
}

TEST("runs leave whole without a look at what the index holds of them")
{
	struct index_twin index;
	struct state s;

	index_twin_init(&index);
	ten_messages(&s);
	s.index = &index.index;
	assert_int_equal(put_run(&s, 1, 1, 5, 5), 0);
	assert_int_equal(put_run(&s, 2, 6, 5, 5), 0);
	assert_int_equal(ack_range(&s, 2, 2, 2, 10), 0);
	assert_int_equal(ack_range(&s, 3, 7, 7, 10), 0);
	assert_int_equal(index.count, 1);
	index.get_error = -EIO;
	assert_int_equal(ack_range(&s, 4, 1, 10, 80), 0);
	assert_int_equal(index.count, 0);
	assert_int_equal(s.live_messages, 0);
	assert_int_equal(s.live_bytes, 0);
	assert_int_equal(s.detail_bytes, 0);
	state_check(&s);
	state_fini(&s);
	index_twin_fini(&index);
}

TEST("a million messages in runs cost next to no memory")
{
	enum { MESSAGES = 1000000, A_RUN = 1000 };
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	for (uint64_t i = 0; i < MESSAGES; i++)
		assert_int_equal(put_message(&s, 2 + i, 5, 0, 0, 1024), 0);
	assert_true(state_memory(&s) > MESSAGES * 3ull);
	for (uint32_t i = 0; i < MESSAGES / A_RUN; i++)
		assert_int_equal(put_run(&s, 1 + i, 1 + (uint64_t)i * A_RUN,
					 A_RUN, A_RUN),
				 0);
	assert_true(state_memory(&s) < MESSAGES / 5);
	assert_int_equal(s.entry_count, 0);
	assert_int_equal(s.live_messages, MESSAGES);
	assert_int_equal(ack_range(&s, 3, 1, MESSAGES, MESSAGES * 1024ull), 0);
	assert_int_equal(s.run_count, 0);
	state_check(&s);
	state_fini(&s);
}

TEST("a plain queued message costs at most 8 bytes of memory, as is told")
{
	enum { MESSAGES = 1000000 };
	size_t before, used;
	struct state s;

	if (!mallinfo2().uordblks)
		return; /* a sanitizer's allocator does not tell */
	state_init(&s);
	put_queue(&s, 5);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	for (uint64_t i = 0; i < MESSAGES; i++)
		assert_int_equal(put_message(&s, 2 + i, 5, 0, 0, 1024), 0);
	used = mallinfo2().uordblks + mallinfo2().hblkhd - before;
	if (getenv("TEST_PRINT"))
		fprintf(stderr, "%.1f bytes a message\n",
			(double)used / MESSAGES);
	assert_true(used <= 8 * (size_t)MESSAGES);
	assert_in_range(state_memory(&s), used - used / 10, used + used / 10);
	state_fini(&s);
}

TEST_MAIN()
