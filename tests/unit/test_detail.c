/* tests/unit/test_detail.c: bits and changes of a run, against an array.
 *
 * TEST_SEED replays a failure. */
#include "tests/unit/test.h"

#include "journal/store/detail.h"

#define SPAN_MAX 3000u

struct reference {
	uint32_t span;
	bool there[SPAN_MAX], changed[SPAN_MAX];
	uint32_t deliveries[SPAN_MAX], extra_len[SPAN_MAX];
	char extra[SPAN_MAX][8];
	uint64_t seed;
};

static uint64_t roll(struct reference *r, uint64_t below)
{
	r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
	return (r->seed >> 33) % below;
}

static void reference_init(struct reference *r, uint32_t span, uint64_t seed)
{
	const char *text = getenv("TEST_SEED");

	memset(r, 0, sizeof(*r));
	r->span = span;
	r->seed = seed + (text ? strtoull(text, NULL, 10) : 20240607);
}

static void compare(const struct reference *r, const struct detail *d)
{
	uint32_t live = 0, next = r->span;

	detail_check(d);
	for (uint32_t at = r->span; at-- > 0;) {
		const struct detail_change *c = detail_find(d, at);

		live += r->there[at];
		if (r->there[at])
			next = at;
		assert_int_equal(detail_is_gone(d, at), !r->there[at]);
		assert_int_equal(detail_next(d, at), next);
		assert_int_equal(c != NULL, r->there[at] && r->changed[at]);
		if (!c)
			continue;
		assert_int_equal(c->deliveries, r->deliveries[at]);
		assert_int_equal(c->extra_len, r->extra_len[at]);
		if (c->extra_len)
			assert_memory_equal(c->extra, r->extra[at],
					    c->extra_len);
	}
	assert_int_equal(detail_live(d), live);
}

static void change(struct reference *r, struct detail *d, uint32_t at)
{
	struct detail_change c = {.at = at, .deliveries = (uint32_t)roll(r, 9)};
	char extra[8];

	if (!r->there[at])
		return;
	memset(extra, 'a' + (int)roll(r, 26), sizeof(extra));
	if (roll(r, 2)) {
		c.extra_len = 1 + (uint32_t)roll(r, sizeof(extra));
		c.extra = extra;
		r->extra_len[at] = c.extra_len;
		memcpy(r->extra[at], extra, sizeof(extra));
	}
	r->changed[at] = true;
	r->deliveries[at] = c.deliveries;
	assert_int_equal(detail_change(d, &c), 0);
}

static void remove_some(struct reference *r, struct detail *d)
{
	uint32_t first = (uint32_t)roll(r, r->span), last = first, were = 0;

	if (!roll(r, 4))
		last += (uint32_t)roll(r, r->span - first);
	if (!roll(r, 10)) { /* the head goes, as consumers do it */
		last = first;
		first = 0;
	}
	last = (uint32_t)base_min(last, first + 1 + r->span / 8);
	last = (uint32_t)base_min(last, r->span - 1);
	for (uint32_t at = first; at <= last; at++) {
		were += r->there[at];
		r->there[at] = r->changed[at] = false;
		r->extra_len[at] = 0;
	}
	assert_int_equal(detail_remove(d, first, last), were);
}

/* Through bytes, which must not be longer than promised. */
static void recode(const struct reference *r, struct detail **d)
{
	size_t room = detail_encoded_room(*d), len;
	struct detail *again;
	void *buf = malloc(room), *exact;

	assert_non_null(buf);
	len = detail_encode(*d, buf);
	assert_true(len <= room);
	exact = malloc(len);
	assert_non_null(exact);
	memcpy(exact, buf, len);
	assert_int_equal(detail_decode(r->span, exact, len, &again), 0);
	for (size_t cut = 0; cut < len; cut += 1 + len / 50) {
		struct detail *none;

		assert_int_equal(detail_decode(r->span, exact, cut, &none),
				 -E_CORRUPT);
	}
	free(exact);
	free(buf);
	detail_free(*d);
	*d = again;
}

static void copy_part(struct reference *r, const struct detail *d)
{
	static struct reference part;
	uint32_t first = (uint32_t)roll(r, r->span);
	uint32_t last = first + (uint32_t)roll(r, r->span - first);
	struct detail *copy;

	part = *r;
	for (uint32_t at = 0; at < r->span; at++)
		part.there[at] &= at >= first && at <= last;
	assert_int_equal(detail_copy(d, first, last, &copy), 0);
	compare(&part, copy);
	detail_free(copy);
}

TEST("whatever leaves and changes, a detail says what an array says")
{
	static const uint32_t spans[] = {1,  2,	 31,  32,   33,	 63,
					 64, 65, 500, 1000, 2999};
	static struct reference r;
	struct detail *d;

	for (size_t i = 0; i < ARRAY_COUNT(spans); i++) {
		reference_init(&r, spans[i], i);
		assert_int_equal(detail_create(spans[i], &d), 0);
		memset(r.there, 1, spans[i]);
		compare(&r, d);
		for (unsigned k = 0; k < 400; k++) {
			if (roll(&r, 3))
				remove_some(&r, d);
			else
				change(&r, d, (uint32_t)roll(&r, r.span));
			if (k % 7 == 0)
				compare(&r, d);
			if (k % 31 == 0)
				recode(&r, &d);
			if (k % 23 == 0)
				copy_part(&r, d);
		}
		compare(&r, d);
		detail_free(d);
	}
}

TEST("what is added in order is there, and only that")
{
	static struct reference r;
	struct detail *d;

	for (unsigned round = 0; round < 50; round++) {
		reference_init(&r, 1 + round * 59, round);
		assert_int_equal(detail_create_empty(r.span, &d), 0);
		for (uint32_t at = 0; at < r.span; at++) {
			uint32_t last =
				at + (uint32_t)(roll(&r, 80) * !roll(&r, 3));

			if (last >= r.span)
				break;
			assert_int_equal(detail_add(d, at, last), 0);
			memset(r.there + at, 1, last - at + 1);
			at = last + (uint32_t)roll(&r, 3) * 40;
		}
		compare(&r, d);
		recode(&r, &d);
		compare(&r, d);
		detail_free(d);
	}
}

TEST("a few messages in a huge span take little memory")
{
	const uint32_t span = UINT32_MAX;
	struct detail *d;

	assert_int_equal(detail_create_empty(span, &d), 0);
	for (uint64_t at = 0; at < span; at += 10000019)
		assert_int_equal(detail_add(d, (uint32_t)at, (uint32_t)at), 0);
	assert_int_equal(detail_add(d, span - 1, span - 1), 0);
	assert_true(detail_bytes(d) < 16384);
	assert_true(detail_encoded_room(d) < 16384);
	detail_check(d);
	assert_false(detail_is_gone(d, span - 1));
	assert_int_equal(detail_next(d, span - 5), span - 1);
	assert_int_equal(detail_remove(d, 0, span - 2), 430);
	assert_int_equal(detail_live(d), 1);
	detail_check(d);
	detail_free(d);
}

TEST("memory shrinks as messages leave")
{
	struct detail *d;
	size_t most;

	assert_int_equal(detail_create(100000, &d), 0);
	most = detail_bytes(d);
	assert_true(most < 100000 / 4 + 200);
	for (uint32_t at = 0; at < 99000; at++)
		assert_int_equal(detail_remove(d, at, at), 1);
	assert_true(detail_bytes(d) < most / 20);
	detail_free(d);
}

TEST("bytes that contradict themselves are refused")
{
	static const struct {
		uint8_t bytes[12];
		size_t len;
	} bad[] = {
		{{1, 0, 0, 0}, 4},		/* an interval of nothing */
		{{1, 0, 101, 0}, 4},		/* behind the span */
		{{1, 60, 41, 0}, 4},		/* the same */
		{{2, 0, 1, 0, 1, 0}, 6},	/* no gap between two */
		{{1, 0, 100, 0, 0}, 5},		/* a byte too many */
		{{1, 0, 50, 1, 60, 0, 0}, 7},	/* changed, and gone */
		{{1, 0, 100, 1, 100, 0, 0}, 7}, /* behind the span */
		{{1, 0, 9, 2, 1, 0, 0, 0, 0, 0}, 10}, /* twice the same */
		{{1, 0, 100, 1, 1, 0, 5, 'x'}, 8},    /* annotations cut */
	};
	static const uint8_t good[] = {1, 0, 100, 1, 1, 3, 1, 'x'};
	struct detail *d;

	assert_int_equal(detail_decode(100, good, sizeof(good), &d), 0);
	assert_int_equal(detail_find(d, 1)->deliveries, 3);
	detail_free(d);
	for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
		assert_int_equal(
			detail_decode(100, bad[i].bytes, bad[i].len, &d),
			-E_CORRUPT);
}

TEST("random bytes are decoded or refused, and nothing worse")
{
	static struct reference r;
	uint8_t bytes[64];
	unsigned good = 0;

	reference_init(&r, 1, 5);
	for (unsigned round = 0; round < 200000; round++) {
		size_t len = roll(&r, roll(&r, 2) ? 8 : sizeof(bytes));
		struct detail *d;

		for (size_t i = 0; i < len; i++)
			bytes[i] = (uint8_t)roll(&r, roll(&r, 2) ? 4 : 256);
		if (detail_decode(100, bytes, len, &d))
			continue;
		good++;
		detail_check(d);
		detail_free(d);
	}
	assert_true(good > 100);
}

TEST_MAIN()
