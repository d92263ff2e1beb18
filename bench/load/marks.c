/* bench/load/marks.c: see marks.h.
 *
 * A row is a directory of chunks.  A chunk is installed once, by whoever sets
 * its first bit, and stays; so readers need no lock. */
#include "bench/load/marks.h"

#include <errno.h>
#include <stdatomic.h>

#define CHUNK_BITS (1u << 16)
#define CHUNK_WORDS (CHUNK_BITS / 64)
#define CHUNKS ((unsigned)(MARKS_ROW_MAX / CHUNK_BITS))

struct chunk {
	_Atomic uint64_t words[CHUNK_WORDS];
};

struct marks {
	uint32_t rows;
	_Atomic(struct chunk *) chunks[]; /* rows × CHUNKS */
};

int marks_create(uint32_t rows, struct marks **ret)
{
	struct marks *m;

	m = calloc(1,
		   sizeof(*m) + (size_t)rows * CHUNKS * sizeof(m->chunks[0]));
	if (!m)
		return -ENOMEM;
	m->rows = rows;
	*ret = m;
	return 0;
}

void marks_free(struct marks *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < (size_t)m->rows * CHUNKS; i++)
		free(m->chunks[i]);
	free(m);
}

uint32_t marks_rows(const struct marks *m)
{
	return m->rows;
}

static struct chunk *find(const struct marks *m, uint32_t row, uint64_t at)
{
	if (row >= m->rows || at >= MARKS_ROW_MAX)
		return NULL;
	return atomic_load_explicit(
		&m->chunks[(size_t)row * CHUNKS + at / CHUNK_BITS],
		memory_order_acquire);
}

static struct chunk *install(struct marks *m, uint32_t row, uint64_t at)
{
	struct chunk *made = calloc(1, sizeof(*made)), *old = NULL;

	if (!made)
		return NULL;
	if (atomic_compare_exchange_strong(
		    &m->chunks[(size_t)row * CHUNKS + at / CHUNK_BITS], &old,
		    made))
		return made;
	free(made);
	return old;
}

int marks_set(struct marks *m, uint32_t row, uint64_t at, bool *ret_was)
{
	uint64_t mask = 1ull << (at & 63);
	struct chunk *c = find(m, row, at);

	if (row >= m->rows || at >= MARKS_ROW_MAX)
		return -ERANGE;
	if (!c)
		c = install(m, row, at);
	if (!c)
		return -ENOMEM;
	*ret_was = atomic_fetch_or_explicit(&c->words[at % CHUNK_BITS / 64],
					    mask, memory_order_relaxed) &
		   mask;
	return 0;
}

uint64_t marks_word(const struct marks *m, uint32_t row, uint64_t at)
{
	const struct chunk *c = find(m, row, at);

	return c ? atomic_load_explicit(&c->words[at % CHUNK_BITS / 64],
					memory_order_relaxed)
		 : 0;
}

bool marks_get(const struct marks *m, uint32_t row, uint64_t at)
{
	return marks_word(m, row, at) >> (at & 63) & 1;
}

uint64_t marks_end(const struct marks *m, uint32_t row)
{
	for (uint64_t chunk = CHUNKS; chunk-- > 0;) {
		if (!find(m, row, chunk * CHUNK_BITS))
			continue;
		for (uint64_t word = CHUNK_WORDS; word-- > 0;) {
			uint64_t at = chunk * CHUNK_BITS + word * 64;
			uint64_t bits = marks_word(m, row, at);

			if (bits)
				return at + 64 -
				       (unsigned)__builtin_clzll(bits);
		}
	}
	return 0;
}

uint64_t marks_count(const struct marks *m, uint32_t row)
{
	uint64_t count = 0, end = marks_end(m, row);

	for (uint64_t at = 0; at < end; at += 64)
		count += (unsigned)__builtin_popcountll(marks_word(m, row, at));
	return count;
}
