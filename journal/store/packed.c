/* See packed.h.
 *
 * Two numbers are not kept as they are, because they follow from others:
 * ref_delta as what it is ahead of the row's number, which is nothing while
 * the numbers of a lane have no gap; stored_len as what it is less than
 * body_len, which is nothing without compression. */
#include "journal/store/packed.h"

#include <stddef.h>
#include <string.h>

#include "base/bytes.h"

/* A column is read and written as a whole word, the last one, too. */
#define SLACK_BYTES (sizeof(uint64_t) - 1)

struct column {
	uint8_t offset, bytes; /* in struct entry */
};

#define COLUMN(member)                                                         \
	{                                                                      \
		offsetof(struct entry, member),                                \
			sizeof(((struct entry *)0)->member)                    \
	}

/* The ref's is the first, so that it begins a row. */
static const struct column columns[] = {
	COLUMN(ref_delta),
	COLUMN(arrived_ms),
	COLUMN(expiry_ms),
	COLUMN(more),
	COLUMN(place.segment),
	COLUMN(place.frame),
	COLUMN(place.at),
	COLUMN(place.stored_len),
	COLUMN(place.body_len),
	COLUMN(deliveries),
	/* With the bytes behind it, for all four are seldom unlike. */
	{offsetof(struct entry, priority), 4},
};
#define COLUMN_COUNT ARRAY_COUNT(columns)

#define ENTRY_WORDS (sizeof(struct entry) / sizeof(uint64_t))

_Static_assert(sizeof(struct entry) == 56 &&
		       offsetof(struct entry, priority) == 52 &&
		       sizeof(void *) == sizeof(uint64_t),
	       "every byte is a column's");

static inline uint64_t column_get(const struct entry *e, struct column c)
{
	const uint8_t *p = (const uint8_t *)e + c.offset;

	return c.bytes == 8 ? bytes_get64(p) : bytes_get32(p);
}

static inline void column_put(struct entry *e, struct column c, uint64_t v)
{
	uint8_t *p = (uint8_t *)e + c.offset;

	if (c.bytes == 8)
		bytes_put64(p, v);
	else
		bytes_put32(p, (uint32_t)v);
}

/* As it is kept in row `at`, and back: the same but for ref_delta. */
static inline void turn_lengths(struct entry *e)
{
	e->place.stored_len = e->place.body_len - e->place.stored_len;
}

/* ---- widths ---- */

static inline unsigned width_of(uint64_t v)
{
	return v ? (71u - (unsigned)__builtin_clzll(v)) / 8 : 0;
}

static inline uint64_t mask_of(unsigned width)
{
	return UINT64_MAX >> (64 - 8 * width);
}

/* Column by column, those of no width left out: `left` begins as all widths;
 * false: no more. */
static inline bool next_column(uint64_t *left, unsigned *ret_column,
			       unsigned *ret_width)
{
	unsigned column;

	if (!*left)
		return false;
	column = (unsigned)__builtin_ctzll(*left) / 4;
	*ret_column = column;
	*ret_width = *left >> 4 * column & 15;
	*left &= ~(15ull << 4 * column);
	return true;
}

/* ---- packing ---- */

/* A bit is set where not all entries are like the first. */
static void find_unlike(const struct packing *p, struct entry *ret)
{
	uint64_t first[ENTRY_WORDS], words[ENTRY_WORDS];
	uint64_t unlike[ENTRY_WORDS] = {0};

	memcpy(first, &p->entries[0], sizeof(first));
	for (unsigned i = 1; i < p->count; i++) {
		memcpy(words, &p->entries[i], sizeof(words));
#pragma GCC unroll 8
		for (unsigned k = 0; k < ENTRY_WORDS; k++)
			unlike[k] |= words[k] ^ first[k];
	}
	memcpy(ret, unlike, sizeof(*ret));
}

static void choose_width(struct packing *p, unsigned column)
{
	struct column c = columns[column];
	uint64_t least = column_get(&p->entries[0], c), most = least;
	uint64_t width;

	for (unsigned i = 1; i < p->count; i++) {
		uint64_t v = column_get(&p->entries[i], c);

		least = base_min(least, v);
		most = base_max(most, v);
	}
	width = width_of(most - least);
	column_put(&p->form.least, c, least);
	p->form.widths |= width << 4 * column;
	p->form.row_bytes += width;
}

size_t packed_prepare(struct packing *p)
{
	struct entry unlike;

	ASSERT(p->count && p->count <= PACKED_ROWS_MAX);
	for (unsigned i = 0; i < p->count; i++) {
		p->entries[i].ref_delta -= i;
		turn_lengths(&p->entries[i]);
	}
	find_unlike(p, &unlike);
	p->form = (struct packed_form){.least = p->entries[0]};
	for (unsigned k = 0; k < COLUMN_COUNT; k++)
		if (column_get(&unlike, columns[k]))
			choose_width(p, k);
	return sizeof(p->form) + p->count * p->form.row_bytes + SLACK_BYTES;
}

void packed_write(const struct packing *p, struct packed *to)
{
	uint8_t *at = to->rows;

	to->form = p->form;
	for (unsigned i = 0; i < p->count; i++) {
		uint64_t left = p->form.widths;
		unsigned k, width;

		/* What a word writes beyond its column is overwritten. */
		for (; next_column(&left, &k, &width); at += width)
			bytes_put64(at, column_get(&p->entries[i], columns[k]) -
						column_get(&p->form.least,
							   columns[k]));
	}
}

/* ---- using it ---- */

size_t packed_bytes(const struct packed *p, unsigned count)
{
	return sizeof(p->form) + count * p->form.row_bytes + SLACK_BYTES;
}

void packed_get(const struct packed *p, unsigned at, struct entry *ret)
{
	const uint8_t *from = p->rows + at * p->form.row_bytes;
	uint64_t left = p->form.widths;
	unsigned k, width;

	*ret = p->form.least;
	for (; next_column(&left, &k, &width); from += width)
		column_put(ret, columns[k],
			   column_get(ret, columns[k]) +
				   (bytes_get64(from) & mask_of(width)));
	ret->ref_delta += at;
	turn_lengths(ret);
}

uint32_t packed_ref_delta(const struct packed *p, unsigned at)
{
	unsigned width = p->form.widths & 15;
	uint32_t ref_delta = p->form.least.ref_delta + at;

	if (width)
		ref_delta += (uint32_t)(bytes_get64(p->rows +
						    at * p->form.row_bytes) &
					mask_of(width));
	return ref_delta;
}

unsigned packed_find(const struct packed *p, unsigned count, uint64_t ref_delta)
{
	uint32_t first = p->form.least.ref_delta;
	unsigned low = 0, high = count;

	if (ref_delta <= first)
		return 0;
	/* Row i is at least i behind the first. */
	high = (unsigned)base_min(count, ref_delta - first);
	if (!(p->form.widths & 15))
		return high;
	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (packed_ref_delta(p, mid) < ref_delta)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool packed_set(struct packed *p, unsigned at, const struct entry *e)
{
	uint8_t *to = p->rows + at * p->form.row_bytes;
	struct entry row = *e;

	row.ref_delta -= at;
	turn_lengths(&row);
	for (unsigned k = 0; k < COLUMN_COUNT; k++) {
		unsigned width = p->form.widths >> 4 * k & 15;
		uint64_t v = column_get(&row, columns[k]);
		uint64_t least = column_get(&p->form.least, columns[k]);

		/* What is less than the least is 8 bytes more. */
		if (width_of(v - least) > width)
			return false;
		column_put(&row, columns[k], v - least);
	}
	for (unsigned k = 0; k < COLUMN_COUNT; k++) {
		unsigned width = p->form.widths >> 4 * k & 15;
		uint8_t word[sizeof(uint64_t)];

		bytes_put64(word, column_get(&row, columns[k]));
		memcpy(to, word, width);
		to += width;
	}
	return true;
}
