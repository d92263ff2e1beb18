/* tests/unit/test_state.c: the store's state machine, without a log.
 *
 * Random records go into a state and into the reference of store_model.h;
 * both must then tell the same.  TEST_SEED replays a failure. */
#include "tests/unit/test.h"

#include <malloc.h>

#include "tests/unit/store_twin.h"

/* ---- the map and the ordered entries by themselves ---- */

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

static int count_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	uint64_t *sum = ctx;

	*sum += ref;
	return 0;
}

TEST("entries leave in any order and the structure stays sound")
{
	enum { REFS = 5000 };
	static uint64_t refs[REFS];
	struct model m = {.seed = test_seed() + 1};
	struct entries e = {0};
	struct entry *entry;

	for (unsigned round = 0; round < 3; round++) {
		uint64_t ref = e.last_ref, sum = 0, found = 0;

		for (unsigned i = 0; i < REFS; i++) {
			/* Far apart now and then: differences are 32 bits. */
			ref += 1 + model_random(&m, 5) +
			       (model_random(&m, 500) ? 0 : 1ull << 32);
			refs[i] = ref;
			sum += ref;
			assert_int_equal(entries_push(&e, ref, &entry), 0);
		}
		entries_check(&e);
		for (unsigned i = REFS; i > 0; i--) {
			unsigned k = (unsigned)model_random(&m, i);

			assert_non_null(entries_find(&e, refs[k]));
			entries_remove(&e, refs[k], refs[k], NULL, NULL);
			assert_null(entries_find(&e, refs[k]));
			assert_int_equal(e.live, i - 1);
			sum -= refs[k];
			refs[k] = refs[i - 1];
			if (i % 97)
				continue;
			entries_check(&e);
			found = 0;
			entries_each(&e, count_entry, &found);
			assert_int_equal(found, sum);
		}
		assert_null(e.slots);
	}
}

TEST("a range takes what is in it and nothing else")
{
	struct entries e = {0};
	struct entry *entry;

	for (uint64_t ref = 10; ref <= 3000; ref += 10)
		assert_int_equal(entries_push(&e, ref, &entry), 0);
	entries_remove(&e, 0, 9, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 11, 19, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 100, 1990, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_check(&e);
	assert_non_null(entries_find(&e, 90));
	assert_null(entries_find(&e, 100));
	assert_null(entries_find(&e, 1990));
	assert_non_null(entries_find(&e, 2000));
	entries_remove(&e, 3001, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_remove(&e, 0, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 0);
	entries_check(&e);
}

TEST("after any records the state is what a trivial model says")
{
	uint64_t most = 0;
	struct twin t;

	for (unsigned round = 0; round < 6; round++) {
		twin_init(&t, test_seed() + round);
		for (unsigned i = 0; i < 8000; i++) {
			twin_step(&t);
			if (!model_random(&t.model, 3000))
				twin_restart(&t);
			most = base_max(most, t.state.live_messages);
			if (i % 499 == 0)
				twin_compare(&t);
		}
		twin_compare(&t);
		twin_fini(&t);
	}
	/* Otherwise the dice would test empty queues. */
	assert_true(most > 500);
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
	assert_non_null(strstr(s.why, "newer version"));
	state_fini(&s);
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
	assert_true(state_segment_live(&s, key));
	assert_int_equal(apply(&s, 3, RECORD_UPLOAD_ABORT, meta,
			       record_upload_abort_encode(9, meta), 0),
			 0);
	assert_false(state_segment_live(&s, key));
	assert_int_equal(put_piece(&s, 4, 10, 0, 100), 0);
	assert_int_equal(put_message(&s, 500, 5, 10, 1, 100), 0);
	assert_true(state_segment_live(&s, key));
	assert_false(state_segment_live(&s, loc_of(500, 1).segment));
	assert_int_equal(apply(&s, 600, RECORD_ACK, meta,
			       record_ack_encode(&a, meta), 0),
			 0);
	assert_false(state_segment_live(&s, key));
	assert_int_equal(s.live_segments, 0);
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

TEST("a plain queued message costs at most 64 bytes of memory")
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
	assert_true(used <= 64 * (size_t)MESSAGES);
	state_fini(&s);
}

TEST_MAIN()
