/* journal/store/detail.c: which messages of a run are gone, and what has
 * changed of the others.
 *
 * The bits are a sorted array of words that have at least one message, so
 * that a run which spans a million numbers for two messages costs two words.
 * Removing leaves empty words behind; they are squeezed out once they are
 * half.
 *
 * Rules that detail_check() verifies:
 *   1. Words rise strictly by index, and end before span.
 *   2. `live` and `hollow` are the sums; the first and the last used word are
 *      not empty.
 *   3. Changes rise strictly, each of a message that is there. */
#include "journal/store/detail.h"

#include <string.h>

#include "journal/store/record.h"
#include "journal/store/varint.h"

#define WORD_BITS 32u
#define CHANGE_ROOM (3u * VARINT_MAX) /* encoded, without annotations */

struct word {
	uint32_t index, bits; /* of numbers [index * 32, …), 1: there */
};

struct change {
	struct detail_change seen;
	void *extra; /* the same as seen.extra, owned */
};

struct detail {
	uint32_t span, live;
	uint32_t head, end, capacity; /* words used: [head, end) */
	uint32_t hollow;	      /* of the used, without a bit */
	uint32_t change_count, change_capacity;
	size_t extra_bytes;
	struct word *words;
	struct change *changes;
};

int detail_create_empty(uint32_t span, struct detail **ret)
{
	struct detail *d = calloc(1, sizeof(*d));

	ASSERT(span);
	if (!d)
		return -ENOMEM;
	d->span = span;
	*ret = d;
	return 0;
}

int detail_create(uint32_t span, struct detail **ret)
{
	struct detail *d;
	int err = detail_create_empty(span, &d);

	if (err)
		return err;
	err = detail_add(d, 0, span - 1);
	if (err)
		detail_free(d);
	else
		*ret = d;
	return err;
}

void detail_free(struct detail *d)
{
	if (!d)
		return;
	for (uint32_t i = 0; i < d->change_count; i++)
		free(d->changes[i].extra);
	free(d->changes);
	free(d->words);
	free(d);
}

size_t detail_bytes(const struct detail *d)
{
	return sizeof(*d) + d->capacity * sizeof(*d->words) +
	       d->change_capacity * sizeof(*d->changes) + d->extra_bytes;
}

uint32_t detail_live(const struct detail *d)
{
	return d->live;
}

bool detail_has_changes(const struct detail *d)
{
	return d->change_count > 0;
}

/* ---- bits ---- */

/* Bits first to last of a word. */
static uint32_t mask(uint32_t first, uint32_t last)
{
	return UINT32_MAX << first & UINT32_MAX >> (WORD_BITS - 1 - last);
}

/* The part of [first, last] that is in word `index`. */
static uint32_t mask_in(uint32_t index, uint32_t first, uint32_t last)
{
	uint32_t from = first / WORD_BITS == index ? first % WORD_BITS : 0;
	uint32_t to =
		last / WORD_BITS == index ? last % WORD_BITS : WORD_BITS - 1;

	return mask(from, to);
}

/* Position of the first word whose index is not smaller; end when none. */
static uint32_t find_word(const struct detail *d, uint32_t index)
{
	uint32_t low = d->head, high = d->end;

	if (low == high || index <= d->words[low].index)
		return low;
	/* Mostly there are no gaps. */
	if (index - d->words[low].index < high - low) {
		uint32_t guess = low + (index - d->words[low].index);

		if (d->words[guess].index == index)
			return guess;
		high = guess;
	}
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (d->words[mid].index < index)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool detail_is_gone(const struct detail *d, uint32_t at)
{
	uint32_t pos = find_word(d, at / WORD_BITS);

	return pos == d->end || d->words[pos].index != at / WORD_BITS ||
	       !(d->words[pos].bits >> at % WORD_BITS & 1);
}

uint32_t detail_next(const struct detail *d, uint32_t at)
{
	uint32_t index = at / WORD_BITS;

	for (uint32_t pos = find_word(d, index); pos < d->end; pos++) {
		uint32_t bits = d->words[pos].bits;

		if (d->words[pos].index == index)
			bits &= UINT32_MAX << at % WORD_BITS;
		if (bits)
			return d->words[pos].index * WORD_BITS +
			       (uint32_t)__builtin_ctz(bits);
	}
	return d->span;
}

static int reserve_words(struct detail *d, uint32_t more)
{
	uint64_t need = (uint64_t)d->end + more, capacity = d->capacity;
	struct word *grown;

	if (need <= capacity)
		return 0;
	/* Exactly what is asked for first: most are filled in one go. */
	capacity = capacity ? base_max(capacity * 2, need) : need;
	if (capacity > UINT32_MAX)
		return -ENOMEM;
	grown = realloc(d->words, capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	d->words = grown;
	d->capacity = (uint32_t)capacity;
	return 0;
}

int detail_add(struct detail *d, uint32_t first, uint32_t last)
{
	uint32_t index = first / WORD_BITS, last_index = last / WORD_BITS;
	int err;

	ASSERT(first <= last && last < d->span);
	ASSERT(d->head == d->end || index >= d->words[d->end - 1].index);
	err = reserve_words(d, last_index - index + 1);
	if (err)
		return err;
	for (; index <= last_index; index++) {
		uint32_t bits = mask_in(index, first, last);

		if (d->head == d->end || d->words[d->end - 1].index != index)
			d->words[d->end++] = (struct word){index, 0};
		ASSERT(d->words[d->end - 1].bits < (bits & -bits));
		d->words[d->end - 1].bits |= bits;
		d->live += (uint32_t)__builtin_popcount(bits);
	}
	return 0;
}

static void squeeze_words(struct detail *d)
{
	uint32_t n = 0;

	for (; d->head < d->end && !d->words[d->head].bits; d->hollow--)
		d->head++;
	for (; d->end > d->head && !d->words[d->end - 1].bits; d->hollow--)
		d->end--;
	if (d->end - d->head > d->capacity / 2 &&
	    d->hollow <= (d->end - d->head) / 2)
		return;
	for (uint32_t i = d->head; i < d->end; i++)
		if (d->words[i].bits)
			d->words[n++] = d->words[i];
	d->head = d->hollow = 0;
	d->end = n;
	if (n && n <= d->capacity / 2) {
		struct word *less = realloc(d->words, n * sizeof(*less));

		if (less) { /* otherwise it stays larger than it has to be */
			d->words = less;
			d->capacity = n;
		}
	}
}

/* ---- changes ---- */

/* Position of the first change that is not before `at`. */
static uint32_t find_change(const struct detail *d, uint32_t at)
{
	uint32_t low = 0, high = d->change_count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (d->changes[mid].seen.at < at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const struct detail_change *detail_find(const struct detail *d, uint32_t at)
{
	uint32_t pos = find_change(d, at);

	return pos < d->change_count && d->changes[pos].seen.at == at
		       ? &d->changes[pos].seen
		       : NULL;
}

int detail_each_change(const struct detail *d,
		       int (*each)(void *ctx, const struct detail_change *),
		       void *ctx)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < d->change_count; i++)
		err = each(ctx, &d->changes[i].seen);
	return err;
}

static int reserve_change(struct detail *d)
{
	uint32_t capacity = d->change_capacity ? d->change_capacity * 2 : 2;
	struct change *grown;

	if (d->change_count < d->change_capacity)
		return 0;
	grown = realloc(d->changes, capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	d->changes = grown;
	d->change_capacity = capacity;
	return 0;
}

int detail_change(struct detail *d, const struct detail_change *c)
{
	uint32_t pos = find_change(d, c->at);
	struct change *had;
	void *extra = NULL;
	int err = reserve_change(d);

	ASSERT(!detail_is_gone(d, c->at));
	if (err)
		return err;
	if (c->extra_len) {
		extra = malloc(c->extra_len);
		if (!extra)
			return -ENOMEM;
		memcpy(extra, c->extra, c->extra_len);
	}
	had = &d->changes[pos];
	if (pos == d->change_count || had->seen.at != c->at) {
		memmove(had + 1, had, (d->change_count - pos) * sizeof(*had));
		*had = (struct change){.seen.at = c->at};
		d->change_count++;
	}
	had->seen.deliveries = c->deliveries;
	if (!c->extra_len)
		return 0;
	d->extra_bytes += (size_t)c->extra_len - had->seen.extra_len;
	free(had->extra);
	had->extra = extra;
	had->seen.extra = extra;
	had->seen.extra_len = c->extra_len;
	return 0;
}

static void remove_changes(struct detail *d, uint32_t first, uint32_t last)
{
	uint32_t from = find_change(d, first), to = from;

	for (; to < d->change_count && d->changes[to].seen.at <= last; to++) {
		d->extra_bytes -= d->changes[to].seen.extra_len;
		free(d->changes[to].extra);
	}
	if (to == from)
		return;
	memmove(&d->changes[from], &d->changes[to],
		(d->change_count - to) * sizeof(*d->changes));
	d->change_count -= to - from;
}

uint32_t detail_remove(struct detail *d, uint32_t first, uint32_t last)
{
	uint32_t removed = 0;

	ASSERT(first <= last && last < d->span);
	for (uint32_t pos = find_word(d, first / WORD_BITS);
	     pos < d->end && d->words[pos].index <= last / WORD_BITS; pos++) {
		struct word *w = &d->words[pos];
		uint32_t bits = w->bits & mask_in(w->index, first, last);

		if (!bits)
			continue;
		removed += (uint32_t)__builtin_popcount(bits);
		w->bits &= ~bits;
		d->hollow += !w->bits;
	}
	if (!removed)
		return 0;
	d->live -= removed;
	if (d->change_count)
		remove_changes(d, first, last);
	squeeze_words(d);
	return removed;
}

/* ---- as bytes: intervals of what is there, then changes ---- */

struct interval {
	uint32_t first, end;
};

/* The first number at or behind `at` that is gone, or span. */
static uint32_t next_gone(const struct detail *d, uint32_t at)
{
	uint32_t index = at / WORD_BITS;

	for (uint32_t pos = find_word(d, index);
	     pos < d->end && d->words[pos].index == index; pos++, index++) {
		uint32_t gone = ~d->words[pos].bits;

		if (index == at / WORD_BITS)
			gone &= UINT32_MAX << at % WORD_BITS;
		if (gone)
			return index * WORD_BITS +
			       (uint32_t)__builtin_ctz(gone);
	}
	/* No overflow: span is below 2^32, so its last word is never full. */
	return index * WORD_BITS;
}

/* The next one at or behind `from`; first == span: none. */
static struct interval next_interval(const struct detail *d, uint32_t from)
{
	struct interval v = {d->span, d->span};

	v.first = detail_next(d, from);
	if (v.first < d->span)
		v.end = next_gone(d, v.first);
	return v;
}

static uint32_t count_intervals(const struct detail *d)
{
	uint32_t count = 0;

	for (struct interval v = next_interval(d, 0); v.first < d->span;
	     v = next_interval(d, v.end))
		count++;
	return count;
}

size_t detail_encoded_room(const struct detail *d)
{
	return 2 * VARINT_MAX + (size_t)count_intervals(d) * 2 * VARINT_MAX +
	       (size_t)d->change_count * CHANGE_ROOM + d->extra_bytes;
}

size_t detail_encode(const struct detail *d, void *buf)
{
	struct bytes_writer w;
	uint32_t at = 0;

	bytes_writer_init(&w, buf, detail_encoded_room(d));
	varint_write(&w, count_intervals(d));
	for (struct interval v = next_interval(d, 0); v.first < d->span;
	     v = next_interval(d, v.end)) {
		varint_write(&w, v.first - at);
		varint_write(&w, v.end - v.first);
		at = v.end;
	}
	varint_write(&w, d->change_count);
	at = 0;
	for (uint32_t i = 0; i < d->change_count; i++) {
		const struct detail_change *c = &d->changes[i].seen;

		varint_write(&w, c->at - at);
		varint_write(&w, c->deliveries);
		varint_write(&w, c->extra_len);
		bytes_write(&w, c->extra, c->extra_len);
		at = c->at;
	}
	ASSERT(!w.failed);
	return bytes_written(&w);
}

static int decode_bits(struct detail *d, struct bytes_reader *r)
{
	uint32_t count = varint_read32(r);
	uint64_t at = 0;
	int err = 0;

	for (uint32_t i = 0; !err && i < count; i++) {
		uint32_t gone = varint_read32(r), there = varint_read32(r);

		if (bytes_failed(r) || !there || (i && !gone) ||
		    at + gone + there > d->span ||
		    there > RECORD_RUN_BYTES_MAX - d->live)
			return -E_CORRUPT;
		at += gone;
		err = detail_add(d, (uint32_t)at, (uint32_t)(at + there - 1));
		at += there;
	}
	return err;
}

static int decode_changes(struct detail *d, struct bytes_reader *r)
{
	uint32_t count = varint_read32(r);
	struct detail_change c = {0};
	int err = 0;

	for (uint32_t i = 0; !err && i < count; i++) {
		uint32_t step = varint_read32(r);

		c.deliveries = varint_read32(r);
		c.extra_len = varint_read32(r);
		c.extra = bytes_read(r, c.extra_len);
		if (bytes_failed(r) || (i && !step) ||
		    c.extra_len > RECORD_EXTRA_MAX || step >= d->span - c.at)
			return -E_CORRUPT;
		c.at += step;
		if (detail_is_gone(d, c.at))
			return -E_CORRUPT;
		err = detail_change(d, &c);
	}
	return err;
}

int detail_decode(uint32_t span, const void *data, size_t len,
		  struct detail **ret)
{
	struct bytes_reader r;
	struct detail *d;
	int err = detail_create_empty(span, &d);

	if (err)
		return err;
	bytes_reader_init(&r, data, len);
	err = decode_bits(d, &r);
	if (!err)
		err = decode_changes(d, &r);
	if (!err && (bytes_failed(&r) || bytes_left(&r)))
		err = -E_CORRUPT;
	if (err)
		detail_free(d);
	else
		*ret = d;
	return err;
}

int detail_copy(const struct detail *d, uint32_t first, uint32_t last,
		struct detail **ret)
{
	struct detail *copy;
	uint32_t from = find_word(d, first / WORD_BITS), to = from;
	int err = detail_create_empty(d->span, &copy);

	if (err)
		return err;
	ASSERT(first <= last && last < d->span);
	while (to < d->end && d->words[to].index <= last / WORD_BITS)
		to++;
	err = reserve_words(copy, to - from);
	for (uint32_t pos = from; !err && pos < to; pos++) {
		struct word w = d->words[pos];

		w.bits &= mask_in(w.index, first, last);
		copy->live += (uint32_t)__builtin_popcount(w.bits);
		if (w.bits)
			copy->words[copy->end++] = w;
	}
	for (uint32_t i = find_change(d, first);
	     !err && i < d->change_count && d->changes[i].seen.at <= last; i++)
		err = detail_change(copy, &d->changes[i].seen);
	if (err)
		detail_free(copy);
	else
		*ret = copy;
	return err;
}

void detail_check(const struct detail *d)
{
	uint32_t live = 0, hollow = 0;
	size_t extra_bytes = 0;

	ASSERT(d->span && d->head <= d->end && d->end <= d->capacity);
	for (uint32_t i = d->head; i < d->end; i++) {
		const struct word *w = &d->words[i];

		ASSERT(i == d->head || w->index > w[-1].index);
		ASSERT(w->index <= (d->span - 1) / WORD_BITS);
		live += (uint32_t)__builtin_popcount(w->bits);
		hollow += !w->bits;
	}
	if (d->head < d->end) {
		const struct word *last = &d->words[d->end - 1];

		ASSERT(d->words[d->head].bits && last->bits);
		ASSERT(last->index * WORD_BITS + WORD_BITS - 1 -
			       (uint32_t)__builtin_clz(last->bits) <
		       d->span);
	}
	ASSERT(live == d->live && hollow == d->hollow);
	for (uint32_t i = 0; i < d->change_count; i++) {
		const struct detail_change *c = &d->changes[i].seen;

		ASSERT(!i || c->at > d->changes[i - 1].seen.at);
		ASSERT(!detail_is_gone(d, c->at));
		ASSERT(c->extra == d->changes[i].extra);
		extra_bytes += c->extra_len;
	}
	ASSERT(extra_bytes == d->extra_bytes);
}
