/* journal/store/entries.c: the messages of one lane, by rising ref.
 *
 * Rules that entries_check() verifies:
 *   1. Bases rise strictly along the used slots; all refs in a chunk are at
 *      least its base and below the next slot's base.
 *   2. A chunk has at least one live entry; its entries' refs rise strictly.
 *   3. The first and the last used slot have a chunk, and when nothing is
 *      live there are no slots at all.
 *   4. The bytes are those of all slots and chunks.
 *
 * Leaving needs no memory: it is a bit in the chunk's head, in either form.
 * Where a chunk is made smaller, or packed, it stays as it is without. */
#include "journal/store/entries.h"

#include <string.h>

#include "journal/store/packed.h"

#define CHUNK_MAX ENTRIES_CHUNK
#define CHUNK_MIN 4u

struct entries_sizes entries_sizes = {ENTRIES_CHUNK, ENTRIES_WIDE};

struct entries_chunk {
	uint64_t dead; /* a bit for each entry */
	uint8_t count, live;
	uint8_t capacity; /* 0: packed */
	/* struct entry[capacity], or struct packed */
	_Alignas(uint64_t) uint8_t data[];
};

_Static_assert(sizeof(struct entry) == 56, "the price of a wide entry");
_Static_assert(CHUNK_MAX <= PACKED_ROWS_MAX, "one chunk, one table");

/* ---- one chunk ---- */

static struct entry *wide_of(struct entries_chunk *c)
{
	return (struct entry *)c->data;
}

static struct packed *packed_of(struct entries_chunk *c)
{
	return (struct packed *)c->data;
}

static bool is_dead(const struct entries_chunk *c, unsigned at)
{
	return c->dead >> at & 1;
}

static uint64_t ref_at(const struct entries_slot *s, unsigned at)
{
	return s->base + (s->chunk->capacity
				  ? wide_of(s->chunk)[at].ref_delta
				  : packed_ref_delta(packed_of(s->chunk), at));
}

/* The entry itself, or a copy. */
static struct entry *entry_at(struct entries_chunk *c, unsigned at,
			      struct entry *copy)
{
	if (c->capacity)
		return &wide_of(c)[at];
	packed_get(packed_of(c), at, copy);
	return copy;
}

/* The first entry, dead or not, of the chunk whose ref is >= ref. */
static unsigned entry_for(const struct entries_slot *s, uint64_t ref)
{
	struct entries_chunk *c = s->chunk;
	unsigned low = 0, high = c->count;

	if (ref <= s->base)
		return 0;
	if (!c->capacity)
		return packed_find(packed_of(c), high, ref - s->base);
	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (s->base + wide_of(c)[mid].ref_delta < ref)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* ---- memory ---- */

/* Of a block with room for so many. */
static size_t block_bytes(size_t bytes)
{
	return bytes ? base_max(32, (bytes + 8 + 15) / 16 * 16) : 0;
}

static size_t chunk_bytes(struct entries_chunk *c)
{
	size_t data = 0;

	if (!c)
		return 0;
	data = c->capacity ? c->capacity * sizeof(struct entry)
			   : packed_bytes(packed_of(c), c->count);
	return block_bytes(sizeof(*c) + data);
}

static size_t slots_bytes(size_t capacity)
{
	return block_bytes(capacity * sizeof(struct entries_slot));
}

static struct entries_chunk *resize(struct entries *e, struct entries_chunk *c,
				    unsigned capacity)
{
	size_t before = chunk_bytes(c);
	struct entries_chunk *resized =
		realloc(c, sizeof(*c) + capacity * sizeof(struct entry));

	if (!resized)
		return NULL;
	if (!c)
		memset(resized, 0, sizeof(*resized));
	resized->capacity = (uint8_t)capacity;
	e->bytes += chunk_bytes(resized) - before;
	return resized;
}

static void replace_chunk(struct entries *e, struct entries_slot *s,
			  struct entries_chunk *by)
{
	e->bytes += chunk_bytes(by) - chunk_bytes(s->chunk);
	free(s->chunk);
	s->chunk = by;
}

/* ---- packing ---- */

/* What is live of it. */
static void gather(struct entries_chunk *c, struct packing *ret)
{
	struct entry copy;

	ret->count = 0;
	for (unsigned i = 0; i < c->count; i++)
		if (!is_dead(c, i))
			ret->entries[ret->count++] = *entry_at(c, i, &copy);
}

/* NULL: no memory, or it would not be less than so many bytes. */
static struct entries_chunk *make_packed(struct packing *p, size_t less_than)
{
	size_t bytes = sizeof(struct entries_chunk) + packed_prepare(p);
	struct entries_chunk *c;

	if (block_bytes(bytes) >= less_than)
		return NULL;
	c = malloc(bytes);
	if (!c)
		return NULL;
	memset(c, 0, sizeof(*c));
	c->count = c->live = (uint8_t)p->count;
	packed_write(p, packed_of(c));
	return c;
}

static void pack(struct entries *e, struct entries_slot *s)
{
	struct packing p;
	struct entries_chunk *c;

	gather(s->chunk, &p);
	c = make_packed(&p, chunk_bytes(s->chunk));
	if (c)
		replace_chunk(e, s, c);
}

/* The chunk that has just fallen behind the wide ones. */
static void pack_behind(struct entries *e)
{
	struct entries_slot *s;

	if (e->end - e->head <= entries_sizes.wide)
		return;
	s = &e->slots[e->end - 1 - entries_sizes.wide];
	if (s->chunk && s->chunk->capacity)
		pack(e, s);
}

/* ---- slots ---- */

/* The last used slot whose base is <= ref; head when all are larger. */
static size_t slot_for(const struct entries *e, uint64_t ref)
{
	size_t low = e->head, high = e->end;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (e->slots[mid].base <= ref)
			low = mid;
		else
			high = mid;
	}
	return low;
}

/* Room for one more slot: shift the used ones down, or grow. */
static int reserve_slot(struct entries *e)
{
	size_t used = e->end - e->head;
	struct entries_slot *slots;
	size_t capacity;

	if (e->end < e->capacity)
		return 0;
	if (e->head > e->capacity / 2) {
		memmove(e->slots, e->slots + e->head, used * sizeof(*e->slots));
		e->head = 0;
		e->end = used;
		return 0;
	}
	capacity = e->capacity ? e->capacity * 2 : 2;
	slots = realloc(e->slots, capacity * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	e->bytes += slots_bytes(capacity) - slots_bytes(e->capacity);
	e->slots = slots;
	e->capacity = capacity;
	return 0;
}

static int push_slot(struct entries *e, uint64_t base)
{
	/* A queue's first chunk is small, because most queues are. */
	unsigned capacity = e->head == e->end ? CHUNK_MIN : CHUNK_MAX;
	struct entries_chunk *c = resize(e, NULL, capacity);
	int err;

	if (!c)
		return -ENOMEM;
	/* Last: an array of slots none of which is used is nobody's. */
	err = reserve_slot(e);
	if (err) {
		e->bytes -= chunk_bytes(c);
		free(c);
		return err;
	}
	e->slots[e->end++] = (struct entries_slot){base, c};
	pack_behind(e);
	return 0;
}

/* ---- entering ---- */

static bool has_room(const struct entries_slot *s, uint64_t ref)
{
	return s->chunk->capacity && s->chunk->count < entries_sizes.chunk &&
	       ref - s->base <= UINT32_MAX;
}

int entries_push(struct entries *e, uint64_t ref, struct entry **ret)
{
	struct entries_slot *s = NULL;
	struct entries_chunk *c;
	int err;

	ASSERT(ref > e->last_ref);
	if (e->end > e->head)
		s = &e->slots[e->end - 1];
	if (!s || !has_room(s, ref)) {
		err = push_slot(e, ref);
		if (err)
			return err;
		s = &e->slots[e->end - 1];
	} else if (s->chunk->count == s->chunk->capacity) {
		c = resize(
			e, s->chunk,
			(unsigned)base_min(s->chunk->capacity * 2u, CHUNK_MAX));
		if (!c)
			return -ENOMEM;
		s->chunk = c;
	}
	c = s->chunk;
	*ret = &wide_of(c)[c->count++];
	**ret = (struct entry){.ref_delta = (uint32_t)(ref - s->base)};
	c->live++;
	e->live++;
	e->last_ref = ref;
	return 0;
}

/* ---- one entry ---- */

/* False: not there. */
static bool find(const struct entries *e, uint64_t ref,
		 struct entries_slot **ret_slot, unsigned *ret_at)
{
	struct entries_slot *s;
	unsigned i;

	if (e->head == e->end)
		return false;
	s = &e->slots[slot_for(e, ref)];
	if (!s->chunk || s->base > ref)
		return false;
	i = entry_for(s, ref);
	*ret_slot = s;
	*ret_at = i;
	return i < s->chunk->count && !is_dead(s->chunk, i) &&
	       ref_at(s, i) == ref;
}

bool entries_get(const struct entries *e, uint64_t ref, struct entry *ret)
{
	struct entries_slot *s;
	unsigned at;

	if (!find(e, ref, &s, &at))
		return false;
	*ret = *entry_at(s->chunk, at, ret);
	return true;
}

int entries_set(struct entries *e, uint64_t ref, const struct entry *to)
{
	struct entries_slot *s;
	struct entries_chunk *c;
	struct packing p;
	unsigned at;

	if (!find(e, ref, &s, &at))
		ASSERT(!"there");
	ASSERT(s->base + to->ref_delta == ref);
	if (s->chunk->capacity) {
		wide_of(s->chunk)[at] = *to;
		return 0;
	}
	if (packed_set(packed_of(s->chunk), at, to))
		return 0;
	gather(s->chunk, &p);
	for (at = 0; p.entries[at].ref_delta != to->ref_delta;)
		at++;
	p.entries[at] = *to;
	c = make_packed(&p, SIZE_MAX);
	if (!c)
		return -ENOMEM;
	replace_chunk(e, s, c);
	return 0;
}

/* ---- leaving ---- */

/* The dead go; so does room for more than twice what is left. */
static void squeeze_wide(struct entries *e, struct entries_slot *s)
{
	struct entries_chunk *c = s->chunk;
	unsigned n = 0, capacity = CHUNK_MIN;

	if (c->live * 2u > c->count || c->capacity == CHUNK_MIN)
		return;
	for (unsigned i = 0; i < c->count; i++)
		if (!is_dead(c, i))
			wide_of(c)[n++] = wide_of(c)[i];
	ASSERT(n == c->live);
	c->count = (uint8_t)n;
	c->dead = 0;
	while (capacity < n)
		capacity *= 2;
	c = resize(e, c, capacity);
	if (c) /* otherwise it merely stays larger than it has to be */
		s->chunk = c;
}

static void squeeze_chunk(struct entries *e, struct entries_slot *s)
{
	if (s->chunk->capacity)
		squeeze_wide(e, s);
	else if (s->chunk->live * 4u <= s->chunk->count &&
		 s != &e->slots[e->head])
		pack(e, s);
}

/* Drop slots without a chunk: at the ends always, in the middle when they are
 * more than half. */
static void squeeze_slots(struct entries *e)
{
	size_t n = e->head;

	while (e->head < e->end && !e->slots[e->head].chunk) {
		e->head++;
		e->hollow--;
	}
	while (e->end > e->head && !e->slots[e->end - 1].chunk) {
		e->end--;
		e->hollow--;
	}
	if (e->head == e->end) {
		free(e->slots);
		e->bytes -= slots_bytes(e->capacity);
		e->slots = NULL;
		e->head = e->end = e->capacity = 0;
		return;
	}
	if (e->hollow <= (e->end - e->head) / 2)
		return;
	n = e->head;
	for (size_t i = e->head; i < e->end; i++)
		if (e->slots[i].chunk)
			e->slots[n++] = e->slots[i];
	e->end = n;
	e->hollow = 0;
}

struct removal {
	uint64_t first, last;
	/* One of them, or none. */
	void (*gone)(void *ctx, struct entry *);
	bool (*leaves)(void *ctx, struct entry *);
	void *ctx;
};

/* Returns how many left the chunk. */
static unsigned remove_from(struct entries_slot *s, const struct removal *r)
{
	struct entries_chunk *c = s->chunk;
	unsigned removed = 0;

	for (unsigned i = entry_for(s, r->first);
	     i < c->count && ref_at(s, i) <= r->last; i++) {
		struct entry copy, *entry;

		if (is_dead(c, i))
			continue;
		entry = entry_at(c, i, &copy);
		if (r->leaves && !r->leaves(r->ctx, entry))
			continue;
		if (r->gone)
			r->gone(r->ctx, entry);
		c->dead |= 1ull << i;
		removed++;
	}
	c->live = (uint8_t)(c->live - removed);
	return removed;
}

static void remove_all(struct entries *e, const struct removal *r)
{
	if (e->head == e->end || r->first > r->last)
		return;
	for (size_t i = slot_for(e, r->first);
	     i < e->end && e->slots[i].base <= r->last; i++) {
		struct entries_slot *s = &e->slots[i];

		if (!s->chunk)
			continue;
		e->live -= remove_from(s, r);
		if (s->chunk->live) {
			squeeze_chunk(e, s);
			continue;
		}
		replace_chunk(e, s, NULL);
		e->hollow++;
	}
	squeeze_slots(e);
}

void entries_remove(struct entries *e, uint64_t first, uint64_t last,
		    void (*gone)(void *ctx, struct entry *), void *ctx)
{
	const struct removal r = {
		.first = first, .last = last, .gone = gone, .ctx = ctx};

	remove_all(e, &r);
}

void entries_remove_some(struct entries *e, uint64_t first, uint64_t last,
			 bool (*leaves)(void *ctx, struct entry *), void *ctx)
{
	const struct removal r = {
		.first = first, .last = last, .leaves = leaves, .ctx = ctx};

	remove_all(e, &r);
}

/* ---- looking ---- */

int entries_each(const struct entries *e,
		 int (*each)(void *ctx, uint64_t ref, const struct entry *),
		 void *ctx)
{
	return entries_each_from(e, 0, each, ctx);
}

int entries_each_from(const struct entries *e, uint64_t first,
		      int (*each)(void *ctx, uint64_t ref,
				  const struct entry *),
		      void *ctx)
{
	if (e->head == e->end)
		return 0;
	for (size_t i = slot_for(e, first); i < e->end; i++) {
		const struct entries_slot *s = &e->slots[i];
		unsigned k = s->chunk ? entry_for(s, first) : 0;

		for (; s->chunk && k < s->chunk->count; k++) {
			struct entry copy;
			const struct entry *entry;
			int err;

			if (is_dead(s->chunk, k))
				continue;
			entry = entry_at(s->chunk, k, &copy);
			err = each(ctx, s->base + entry->ref_delta, entry);
			if (err)
				return err;
		}
	}
	return 0;
}

static unsigned check_chunk(const struct entries_slot *s, uint64_t *ret_last)
{
	const struct entries_chunk *c = s->chunk;
	unsigned live = 0;

	ASSERT(c->count && c->count <= CHUNK_MAX && c->capacity <= CHUNK_MAX);
	ASSERT(!c->capacity || c->count <= c->capacity);
	for (unsigned i = 0; i < c->count; i++) {
		uint64_t ref = ref_at(s, i);

		ASSERT(i == 0 || ref > *ret_last);
		ASSERT(entry_for(s, ref) == i);
		live += !is_dead(c, i);
		*ret_last = ref;
	}
	ASSERT(live && live == c->live);
	return live;
}

void entries_check(const struct entries *e)
{
	uint64_t live = 0, last = 0;
	size_t hollow = 0, bytes = slots_bytes(e->capacity);

	ASSERT(e->head <= e->end && e->end <= e->capacity);
	ASSERT((e->head == e->end) == (e->live == 0));
	for (size_t i = e->head; i < e->end; i++) {
		ASSERT(i == e->head || e->slots[i].base > last);
		last = base_max(last, e->slots[i].base);
		bytes += chunk_bytes(e->slots[i].chunk);
		if (e->slots[i].chunk)
			live += check_chunk(&e->slots[i], &last);
		else
			hollow++;
	}
	ASSERT(live == e->live && hollow == e->hollow && last <= e->last_ref);
	ASSERT(bytes == e->bytes);
	if (e->head < e->end)
		ASSERT(e->slots[e->head].chunk && e->slots[e->end - 1].chunk);
}
