/* tests/unit/test_ranges.c: sets of numbers against a plain array. */
#include "journal/store/ranges.h"
#include "tests/unit/test.h"

#define SPACE 64u

static int clear_bits(void *ctx, uint64_t first, uint64_t last)
{
	bool *missing = ctx;

	for (uint64_t n = first; n <= last; n++) {
		assert_true(n < SPACE);
		assert_true(missing[n]);
		missing[n] = false;
	}
	return 0;
}

static void compare(const struct ranges *r, const bool *set)
{
	for (uint64_t first = 0; first < SPACE; first++)
		for (uint64_t last = first; last < SPACE; last++) {
			bool missing[SPACE] = {false};
			bool all = true, any = false;

			for (uint64_t n = first; n <= last; n++) {
				all &= set[n];
				any |= set[n];
				missing[n] = !set[n];
			}
			assert_int_equal(ranges_contain(r, first, last), all);
			assert_int_equal(ranges_touch(r, first, last), any);
			assert_int_equal(ranges_each_missing(r, first, last,
							     clear_bits,
							     missing),
					 0);
			for (uint64_t n = first; n <= last; n++)
				assert_false(missing[n]);
		}
	for (size_t i = 1; i < r->count; i++)
		assert_true(r->items[i].first > r->items[i - 1].last + 1);
}

TEST("a set of ranges is the set of its numbers, whatever was added how")
{
	unsigned seed = 7;

	for (int round = 0; round < 60; round++) {
		struct ranges r = {0};
		bool set[SPACE] = {false};

		for (int step = 0; step < 12; step++) {
			uint64_t first = (uint64_t)rand_r(&seed) % SPACE;
			uint64_t last = first + (uint64_t)rand_r(&seed) % 9u;

			last = last < SPACE ? last : SPACE - 1;
			assert_int_equal(ranges_add(&r, first, last), 0);
			for (uint64_t n = first; n <= last; n++)
				set[n] = true;
			compare(&r, set);
		}
		ranges_fini(&r);
	}
}

TEST("the ends of the number space are numbers like others")
{
	struct ranges r = {0};

	assert_int_equal(ranges_add(&r, UINT64_MAX, UINT64_MAX), 0);
	assert_int_equal(ranges_add(&r, 0, 0), 0);
	assert_int_equal(r.count, 2);
	assert_true(ranges_contain(&r, 0, 0));
	assert_true(ranges_contain(&r, UINT64_MAX, UINT64_MAX));
	assert_int_equal(ranges_add(&r, 1, UINT64_MAX - 1), 0);
	assert_int_equal(r.count, 1);
	assert_true(ranges_contain(&r, 0, UINT64_MAX));
	ranges_fini(&r);
}

TEST_MAIN()
