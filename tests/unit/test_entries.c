/* tests/unit/test_entries.c: the entries of a lane by themselves, and the
 * packed table.
 *
 * Random calls go to the entries and to an array of all that ever were; both
 * must then tell the same.  TEST_SEED replays a failure.
 *
 * Linked so that allocations can be made to fail (base/sim/sim.h). */
#include "tests/unit/test.h"

#include "base/sim/sim.h"
#include "journal/store/packed.h"
#include "tests/unit/store_twin.h"

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
	struct entry *entry, copy;

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

			assert_true(entries_get(&e, refs[k], &copy));
			entries_remove(&e, refs[k], refs[k], NULL, NULL);
			assert_false(entries_get(&e, refs[k], &copy));
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
	struct entry *entry, copy;

	for (uint64_t ref = 10; ref <= 3000; ref += 10)
		assert_int_equal(entries_push(&e, ref, &entry), 0);
	entries_remove(&e, 0, 9, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 11, 19, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 100, 1990, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_check(&e);
	assert_true(entries_get(&e, 90, &copy));
	assert_false(entries_get(&e, 100, &copy));
	assert_false(entries_get(&e, 1990, &copy));
	assert_true(entries_get(&e, 2000, &copy));
	entries_remove(&e, 3001, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_remove(&e, 0, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 0);
	entries_check(&e);
}

static bool has_format(void *ctx, struct entry *e)
{
	return e->format;
}

TEST("some of a range stay, and looking goes on from any ref")
{
	struct entries e = {0};
	struct entry *entry, copy;
	uint64_t sum = 0;

	for (uint64_t ref = 1; ref <= 1000; ref++) {
		assert_int_equal(entries_push(&e, ref, &entry), 0);
		entry->format = ref % 3 == 0;
	}
	entries_remove_some(&e, 101, 900, has_format, NULL);
	entries_check(&e);
	assert_int_equal(e.live, 1000 - 267);
	assert_false(entries_get(&e, 300, &copy));
	assert_true(entries_get(&e, 301, &copy));
	assert_true(entries_get(&e, 99, &copy));
	entries_each_from(&e, 998, count_entry, &sum);
	assert_int_equal(sum, 998 + 999 + 1000);
	entries_remove(&e, 0, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.bytes, 0);
}

/* ---- against an array ---- */

enum { EVER_MAX = 40000 };

struct pair {
	struct model dice;
	struct entries entries;
	struct entry all[EVER_MAX]; /* ref_delta: not kept */
	uint64_t refs[EVER_MAX];
	bool left[EVER_MAX];
	size_t count, begin; /* nothing is there before begin */
	size_t at;	     /* of the next that a callback is to see */
	uint64_t last;	     /* up to here */
	struct entry like;   /* the next one pushed is about like this */
	unsigned failed;     /* for lack of memory */
};

static struct pair pair;

static uint64_t dice(uint64_t below)
{
	return model_random(&pair.dice, below);
}

static void pair_init(uint64_t seed)
{
	memset(&pair, 0, sizeof(pair));
	pair.dice.seed = seed;
	pair.like = (struct entry){
		.arrived_ms = 1700000000000ull,
		.place = {.segment = 3,
			  .frame = 1,
			  .body_len = 1024,
			  .stored_len = 1024},
		.priority = 4,
		.durable = 1,
	};
}

/* Mostly as messages of one producer follow each other, and sometimes not. */
static void change_like(struct entry *e)
{
	e->place.at += e->place.stored_len + 60;
	if (!dice(10))
		e->arrived_ms += dice(3);
	if (!dice(100)) {
		e->place.frame += 1 + (uint32_t)dice(200);
		e->place.at = 40;
	}
	if (!dice(1000))
		*e = (struct entry){
			.arrived_ms = e->arrived_ms - 500 + dice(1000),
			.expiry_ms = dice(2) ? e->arrived_ms + dice(100000) : 0,
			.place = {.segment = (uint32_t)dice(UINT32_MAX),
				  .frame = (uint32_t)dice(100000),
				  .at = (uint32_t)dice(1 << 20),
				  .stored_len = (uint32_t)dice(5000),
				  .body_len = (uint32_t)dice(5000)},
			.priority = (uint8_t)dice(10),
			.format = (uint8_t)dice(3),
			.durable = dice(2) & 1,
		};
	if (!dice(300))
		memset(&e->place, (int)dice(2) * 255, sizeof(e->place));
	if (!dice(300))
		e->more = dice(2) ? (void *)&pair.all[dice(EVER_MAX)] : NULL;
}

static void pair_push(void)
{
	uint64_t ref = pair.count ? pair.refs[pair.count - 1] : dice(1000);
	struct entry *e;

	if (pair.count == EVER_MAX)
		return;
	ref += 1 + (dice(50) ? 0 : dice(1000)) +
	       (dice(2000) ? 0 : 1ull << (20 + dice(20)));
	change_like(&pair.like);
	if (entries_push(&pair.entries, ref, &e)) {
		pair.failed++;
		return;
	}
	pair.like.ref_delta = e->ref_delta;
	*e = pair.like;
	pair.all[pair.count] = pair.like;
	pair.refs[pair.count++] = ref;
}

/* Any, mostly near the beginning; the last refs are asked for, too, and some
 * that never were. */
static uint64_t pair_any_ref(void)
{
	size_t there = pair.count - pair.begin;

	if (!there || !dice(50))
		return dice(pair.entries.last_ref + 1000);
	if (dice(2))
		return pair.refs[pair.begin + dice(1 + there / 50)];
	return pair.refs[pair.begin + dice(there)];
}

static size_t pair_find(uint64_t ref)
{
	size_t low = pair.begin, high = pair.count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (pair.refs[mid] < ref)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void assert_same(const struct entry *want, const struct entry *have)
{
	struct entry a = *want, b = *have;

	a.ref_delta = b.ref_delta = 0;
	assert_memory_equal(&a, &b, sizeof(a));
}

/* What a callback is to see next: UINT64_MAX when nothing. */
static uint64_t pair_next(void)
{
	while (pair.at < pair.count && pair.left[pair.at])
		pair.at++;
	if (pair.at == pair.count || pair.refs[pair.at] > pair.last)
		return UINT64_MAX;
	return pair.refs[pair.at];
}

static void see_gone(void *ctx, struct entry *e)
{
	assert_true(pair_next() != UINT64_MAX);
	assert_same(&pair.all[pair.at], e);
	pair.left[pair.at++] = true;
	e->more = NULL; /* as its owner does */
}

static bool see_some(void *ctx, struct entry *e)
{
	bool leaves = *(uint64_t *)ctx >> e->place.at % 64 & 1;

	assert_true(pair_next() != UINT64_MAX);
	assert_same(&pair.all[pair.at], e);
	pair.left[pair.at++] = leaves;
	return leaves;
}

static int see(void *ctx, uint64_t ref, const struct entry *e)
{
	unsigned *count = ctx;

	assert_int_equal(ref, pair_next());
	assert_same(&pair.all[pair.at++], e);
	return --*count == 0;
}

static void pair_look(uint64_t first)
{
	unsigned count = dice(4) ? 1 + (unsigned)dice(3) : UINT32_MAX;
	int stopped;

	pair.at = pair_find(first);
	pair.last = UINT64_MAX;
	stopped = entries_each_from(&pair.entries, first, see, &count);
	assert_int_equal(stopped, count == 0);
	assert_true(stopped || pair_next() == UINT64_MAX);
}

static void pair_remove(void)
{
	uint64_t first = pair_any_ref(), some = dice(UINT64_MAX);

	pair.at = pair_find(first);
	pair.last = first;
	if (!dice(4))
		pair.last += dice(10);
	else if (!dice(40))
		pair.last += dice(2000);
	if (dice(3))
		entries_remove(&pair.entries, first, pair.last, see_gone, NULL);
	else
		entries_remove_some(&pair.entries, first, pair.last, see_some,
				    &some);
	assert_int_equal(pair_next(), UINT64_MAX);
	while (pair.begin < pair.count && pair.left[pair.begin])
		pair.begin++;
}

/* As deliveries are counted, and now and then anything else. */
static void pair_change(void)
{
	uint64_t ref = pair_any_ref();
	size_t at = pair_find(ref);
	bool there = at < pair.count && pair.refs[at] == ref && !pair.left[at];
	struct entry e;

	assert_int_equal(entries_get(&pair.entries, ref, &e), there);
	if (!there)
		return;
	assert_same(&pair.all[at], &e);
	e.deliveries = (uint32_t)dice(dice(100) ? 3 : UINT32_MAX);
	e.counted = 1;
	if (!dice(10))
		e.more = (void *)&pair.all[dice(EVER_MAX)];
	if (!dice(50))
		e.place.at = (uint32_t)dice(UINT32_MAX);
	if (entries_set(&pair.entries, ref, &e)) {
		pair.failed++;
		assert_true(entries_get(&pair.entries, ref, &e));
		assert_same(&pair.all[at], &e);
		return;
	}
	pair.all[at] = e;
}

static void pair_compare(void)
{
	unsigned all = UINT32_MAX;
	uint64_t live = 0;

	entries_check(&pair.entries);
	for (size_t i = pair.begin; i < pair.count; i++)
		live += !pair.left[i];
	assert_int_equal(pair.entries.live, live);
	pair.at = 0;
	pair.last = UINT64_MAX;
	assert_int_equal(entries_each(&pair.entries, see, &all), 0);
	assert_int_equal(pair_next(), UINT64_MAX);
}

static void pair_step(void)
{
	/* It grows for a while, and then becomes shorter. */
	bool grows = pair.count / 6000 % 2 == 0;

	for (uint64_t n = dice(20); n && (grows || !dice(4)); n--)
		pair_push();
	if (!dice(grows ? 4 : 1))
		pair_remove();
	if (!dice(5))
		pair_change();
	if (!dice(8))
		pair_look(pair_any_ref());
}

static void pair_fini(void)
{
	entries_remove(&pair.entries, 0, UINT64_MAX, NULL, NULL);
	assert_int_equal(pair.entries.bytes, 0);
	assert_null(pair.entries.slots);
}

static const struct entries_sizes sizes_normal = {ENTRIES_CHUNK, ENTRIES_WIDE};
static const struct entries_sizes all_sizes[] = {
	{64, 4}, {64, 1}, {5, 1}, {1, 1}, {17, 2}};

TEST("whatever is done to entries, they are what a plain array says")
{
	for (unsigned i = 0; i < ARRAY_COUNT(all_sizes); i++) {
		pair_init(test_seed() + 10 + i);
		entries_sizes = all_sizes[i];
		for (unsigned k = 0; pair.count < EVER_MAX; k++) {
			pair_step();
			if (k % 199 == 0)
				pair_compare();
		}
		pair_compare();
		pair_fini();
	}
	entries_sizes = sizes_normal;
}

TEST("entries without memory at any place are as they were, or larger")
{
	enum { STEPS = 300 };
	unsigned failed = 0, survived = 0;
	bool more = true;

	entries_sizes = (struct entries_sizes){8, 1};
	for (uint64_t k = 1; more; k++) {
		pair_init(test_seed() + 20);
		assert_int_equal(sim_alloc_fail_at(k), 0);
		for (unsigned i = 0; i < STEPS; i++)
			pair_step();
		more = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
		pair_compare();
		failed += pair.failed;
		survived += more && !pair.failed;
		pair_fini();
	}
	assert_true(failed > 50 && survived > 50);
	entries_sizes = sizes_normal;
}

/* ---- what they cost ---- */

struct cost {
	struct entries entries;
	struct entry like;
	uint64_t ref;
};

static void cost_push(struct cost *c, uint32_t frame_bytes)
{
	struct entry *e;
	uint32_t ref_delta;

	c->like.place.at += c->like.place.stored_len + 48;
	if (c->like.place.at > frame_bytes) {
		c->like.place.frame += frame_bytes / 4096 + 1;
		c->like.place.at = 0;
		c->like.arrived_ms++;
	}
	assert_int_equal(entries_push(&c->entries, ++c->ref, &e), 0);
	ref_delta = e->ref_delta;
	*e = c->like;
	e->ref_delta = ref_delta;
}

static double cost_of(uint32_t frame_bytes, uint32_t body_len, uint64_t ttl_ms,
		      uint32_t body_spread)
{
	struct cost c = {
		.like = {.arrived_ms = 1700000000000ull, .priority = 4}};
	struct model m = {.seed = test_seed()};
	double each;

	for (unsigned i = 0; i < 100000; i++) {
		c.like.place.body_len = c.like.place.stored_len =
			body_len +
			(uint32_t)(body_spread ? model_random(&m, body_spread)
					       : 0);
		if (ttl_ms)
			c.like.expiry_ms = c.like.arrived_ms + ttl_ms;
		cost_push(&c, frame_bytes);
	}
	entries_check(&c.entries);
	each = (double)c.entries.bytes / (double)c.entries.live;
	entries_remove(&c.entries, 0, UINT64_MAX, NULL, NULL);
	if (getenv("TEST_PRINT"))
		fprintf(stderr, "%u in frames of %u: %.2f bytes\n", body_len,
			frame_bytes, each);
	return each;
}

TEST("a plain message costs eight bytes")
{
	assert_true(cost_of(700 << 10, 1024, 0, 0) <= 8);
	assert_true(cost_of(700 << 10, 100, 0, 0) <= 8);
	assert_true(cost_of(4096, 1024, 0, 0) <= 8);
	assert_true(cost_of(1, 1024, 0, 0) <= 8);
	/* And what makes it dearer. */
	assert_true(cost_of(700 << 10, 1024, 60000, 0) <= 9);
	assert_true(cost_of(700 << 10, 1024, 0, 2000) <= 10);
}

TEST("what is left of many costs little more than if it were few")
{
	struct cost c = {.like = {.priority = 4}};
	uint64_t every = 64;

	for (unsigned i = 0; i < 64000; i++)
		cost_push(&c, 700 << 10);
	for (uint64_t ref = 1; ref < c.ref; ref += every)
		entries_remove(&c.entries, ref + 1, ref + every - 1, NULL,
			       NULL);
	entries_check(&c.entries);
	assert_int_equal(c.entries.live, 1000);
	assert_true(c.entries.bytes < 1000 * 160);
	entries_remove(&c.entries, 0, UINT64_MAX, NULL, NULL);
}

TEST_MAIN()
