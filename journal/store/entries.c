/* journal/store/entries.c: the messages of one lane, by rising ref.
 *
 * Rules that entries_check() verifies:
 *   1. Bases rise strictly along the used slots; all refs in a chunk are at
 *      least its base and below the next slot's base.
 *   2. A chunk has at least one live entry; its entries' refs rise strictly.
 *   3. The first and the last used slot have a chunk, and when nothing is
 *      live there are no slots at all. */
#include "journal/store/entries.h"

#include <string.h>

#define CHUNK_MAX 64u
#define CHUNK_MIN 4u

struct entries_chunk {
	uint16_t count, live, capacity;
	struct entry entries[];
};

_Static_assert(sizeof(struct entry) == 56, "the price of a queued message");

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

/* The first entry, dead or not, of the chunk whose ref is >= ref. */
static unsigned entry_for(const struct entries_slot *s, uint64_t ref)
{
	unsigned low = 0, high = s->chunk->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (s->base + s->chunk->entries[mid].ref_delta < ref)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct entries_chunk *resize(struct entries_chunk *c, unsigned capacity)
{
	int is_new = !c;

	c = realloc(c, sizeof(*c) + capacity * sizeof(c->entries[0]));
	if (!c)
		return NULL;
	if (is_new)
		c->count = c->live = 0;
	c->capacity = (uint16_t)capacity;
	return c;
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
	e->slots = slots;
	e->capacity = capacity;
	return 0;
}

static int push_slot(struct entries *e, uint64_t base)
{
	/* A queue's first chunk is small, because most queues are. */
	unsigned capacity = e->head == e->end ? CHUNK_MIN : CHUNK_MAX;
	struct entries_chunk *c = resize(NULL, capacity);
	int err;

	if (!c)
		return -ENOMEM;
	/* Last: an array of slots none of which is used is nobody's. */
	err = reserve_slot(e);
	if (err) {
		free(c);
		return err;
	}
	e->slots[e->end++] = (struct entries_slot){base, c};
	return 0;
}

int entries_push(struct entries *e, uint64_t ref, struct entry **ret)
{
	struct entries_slot *s = NULL;
	struct entries_chunk *c;
	int err;

	ASSERT(ref > e->last_ref);
	if (e->end > e->head)
		s = &e->slots[e->end - 1];
	if (!s || s->chunk->count == CHUNK_MAX || ref - s->base > UINT32_MAX) {
		err = push_slot(e, ref);
		if (err)
			return err;
		s = &e->slots[e->end - 1];
	} else if (s->chunk->count == s->chunk->capacity) {
		c = resize(s->chunk, s->chunk->capacity * 2 > CHUNK_MAX
					     ? CHUNK_MAX
					     : s->chunk->capacity * 2);
		if (!c)
			return -ENOMEM;
		s->chunk = c;
	}
	c = s->chunk;
	*ret = &c->entries[c->count++];
	**ret = (struct entry){.ref_delta = (uint32_t)(ref - s->base)};
	c->live++;
	e->live++;
	e->last_ref = ref;
	return 0;
}

struct entry *entries_find(const struct entries *e, uint64_t ref)
{
	const struct entries_slot *s;
	unsigned i;

	if (e->head == e->end)
		return NULL;
	s = &e->slots[slot_for(e, ref)];
	if (!s->chunk || s->base > ref)
		return NULL;
	i = entry_for(s, ref);
	if (i == s->chunk->count || s->chunk->entries[i].dead ||
	    s->base + s->chunk->entries[i].ref_delta != ref)
		return NULL;
	return &s->chunk->entries[i];
}

/* Squeeze the dead out of a chunk that is half dead. */
static void squeeze_chunk(struct entries_slot *s)
{
	struct entries_chunk *c = s->chunk;
	unsigned n = 0, capacity = CHUNK_MIN;

	if (c->live * 2u > c->count || c->capacity == CHUNK_MIN)
		return;
	for (unsigned i = 0; i < c->count; i++)
		if (!c->entries[i].dead)
			c->entries[n++] = c->entries[i];
	ASSERT(n == c->live);
	c->count = (uint16_t)n;
	while (capacity < n)
		capacity *= 2;
	c = resize(c, capacity);
	if (c) /* otherwise it merely stays larger than it has to be */
		s->chunk = c;
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
	     i < c->count && s->base + c->entries[i].ref_delta <= r->last;
	     i++) {
		if (c->entries[i].dead)
			continue;
		if (r->leaves && !r->leaves(r->ctx, &c->entries[i]))
			continue;
		if (r->gone)
			r->gone(r->ctx, &c->entries[i]);
		c->entries[i].dead = 1;
		removed++;
	}
	c->live = (uint16_t)(c->live - removed);
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
			squeeze_chunk(s);
			continue;
		}
		free(s->chunk);
		s->chunk = NULL;
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
			const struct entry *entry = &s->chunk->entries[k];
			int err;

			if (entry->dead)
				continue;
			err = each(ctx, s->base + entry->ref_delta, entry);
			if (err)
				return err;
		}
	}
	return 0;
}

size_t entries_bytes(const struct entries *e)
{
	size_t bytes = e->capacity * sizeof(*e->slots);

	for (size_t i = e->head; i < e->end; i++)
		if (e->slots[i].chunk)
			bytes += sizeof(struct entries_chunk) +
				 e->slots[i].chunk->capacity *
					 sizeof(struct entry);
	return bytes;
}

static unsigned check_chunk(const struct entries_slot *s, uint64_t *ret_last)
{
	const struct entries_chunk *c = s->chunk;
	unsigned live = 0;

	ASSERT(c->count && c->count <= c->capacity && c->capacity <= CHUNK_MAX);
	for (unsigned i = 0; i < c->count; i++) {
		uint64_t ref = s->base + c->entries[i].ref_delta;

		ASSERT(i == 0 || ref > *ret_last);
		live += !c->entries[i].dead;
		*ret_last = ref;
	}
	ASSERT(live && live == c->live);
	return live;
}

void entries_check(const struct entries *e)
{
	uint64_t live = 0, last = 0;
	size_t hollow = 0;

	ASSERT(e->head <= e->end && e->end <= e->capacity);
	ASSERT((e->head == e->end) == (e->live == 0));
	for (size_t i = e->head; i < e->end; i++) {
		ASSERT(i == e->head || e->slots[i].base > last);
		last = base_max(last, e->slots[i].base);
		if (e->slots[i].chunk)
			live += check_chunk(&e->slots[i], &last);
		else
			hollow++;
	}
	ASSERT(live == e->live && hollow == e->hollow && last <= e->last_ref);
	if (e->head < e->end)
		ASSERT(e->slots[e->head].chunk && e->slots[e->end - 1].chunk);
}
