/* Messages on their way in, and their bytes while they are in memory. */
#include <string.h>

#include "broker/core/internal.h"

/* While there are more messages than ever, the heap has to grow for them;
 * otherwise they take the place of others, and what the heap once had it has
 * still, if not in memory.  With its refs one takes half as much again. */
static void heap_ahead(struct shard *s, uint64_t bytes)
{
	uint64_t now;

	s->memory_made += bytes;
	if (s->memory_made < BASE_AHEAD_BYTES / 2)
		return;
	s->memory_made = 0;
	now = atomic_load_explicit(&s->core->memory_bytes,
				   memory_order_relaxed);
	if (now <= s->memory_most)
		return;
	s->memory_most = now;
	base_memory_ahead();
}

struct message *message_create(struct shard *shard, uint32_t len)
{
	struct message *m;

	heap_ahead(shard, sizeof(*m) + len);
	m = malloc(sizeof(*m) + len);
	if (!m)
		return NULL;
	memset(m, 0, offsetof(struct message, meta));
	m->len = len;
	m->shard = shard;
	atomic_init(&m->holds, 1);
	atomic_fetch_add_explicit(&shard->core->memory_bytes, sizeof(*m) + len,
				  memory_order_relaxed);
	return m;
}

void message_hold(struct message *m)
{
	atomic_fetch_add_explicit(&m->holds, 1, memory_order_relaxed);
}

void message_release(struct message *m)
{
	if (!m ||
	    atomic_fetch_sub_explicit(&m->holds, 1, memory_order_acq_rel) != 1)
		return;
	atomic_fetch_sub_explicit(&m->shard->core->memory_bytes,
				  sizeof(*m) + m->len, memory_order_relaxed);
	free(m->targets);
	free(m);
}

struct large *large_create(uint64_t upload)
{
	struct large *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->upload = upload;
	atomic_init(&l->holds, 1);
	return l;
}

int large_reserve(struct large *l, uint32_t piece_count)
{
	uint32_t capacity = l->piece_capacity ? l->piece_capacity : 16;
	uint32_t *more;

	if (piece_count <= l->piece_capacity)
		return 0;
	while (capacity < piece_count)
		capacity *= 2;
	more = realloc(l->piece_bytes, capacity * sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->piece_bytes = more;
	l->piece_capacity = capacity;
	return 0;
}

struct large *large_hold(struct large *l)
{
	atomic_fetch_add_explicit(&l->holds, 1, memory_order_relaxed);
	return l;
}

void large_release(struct large *l)
{
	if (!l ||
	    atomic_fetch_sub_explicit(&l->holds, 1, memory_order_acq_rel) != 1)
		return;
	free(l->piece_bytes);
	free(l);
}
