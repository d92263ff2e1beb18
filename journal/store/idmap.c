/* journal/store/idmap.c: from a 64-bit id to a pointer. */
#include "journal/store/idmap.h"

#define CAPACITY_MIN 16u

/* Ids are small consecutive numbers; a multiplication by 2^64 / golden ratio
 * spreads them over the high bits. */
static size_t home(const struct idmap *m, uint64_t id)
{
	return (size_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (m->capacity - 1);
}

void idmap_fini(struct idmap *m)
{
	free(m->slots);
	*m = (struct idmap){0};
}

static struct idmap_slot *find(const struct idmap *m, uint64_t id)
{
	size_t i;

	if (!m->capacity)
		return NULL;
	for (i = home(m, id); m->slots[i].id && m->slots[i].id != id;)
		i = (i + 1) & (m->capacity - 1);
	return &m->slots[i];
}

void *idmap_get(const struct idmap *m, uint64_t id)
{
	const struct idmap_slot *s = find(m, id);

	return s && s->id ? s->value : NULL;
}

static int resize(struct idmap *m, size_t capacity)
{
	struct idmap bigger = {.capacity = capacity, .count = m->count};

	bigger.slots = calloc(capacity, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->capacity; i++)
		if (m->slots[i].id)
			*find(&bigger, m->slots[i].id) = m->slots[i];
	free(m->slots);
	*m = bigger;
	return 0;
}

int idmap_put(struct idmap *m, uint64_t id, void *value)
{
	struct idmap_slot *s;
	int err;

	ASSERT(id && value);
	if (m->count + 1 > m->capacity / 4 * 3) {
		err = resize(m, m->capacity ? m->capacity * 2 : CAPACITY_MIN);
		if (err)
			return err;
	}
	s = find(m, id);
	ASSERT(!s->id);
	*s = (struct idmap_slot){id, value};
	m->count++;
	return 0;
}

void *idmap_take(struct idmap *m, uint64_t id)
{
	struct idmap_slot *s = find(m, id);
	size_t hole, i, mask = m->capacity - 1;
	void *value;

	if (!s || !s->id)
		return NULL;
	value = s->value;
	hole = (size_t)(s - m->slots);
	m->count--;
	/* Close the gap: a slot moves back into the hole unless its home lies
	 * cyclically after the hole, so that every probe still ends right. */
	for (i = (hole + 1) & mask; m->slots[i].id; i = (i + 1) & mask) {
		size_t at = home(m, m->slots[i].id);

		if (((i - at) & mask) < ((i - hole) & mask))
			continue;
		m->slots[hole] = m->slots[i];
		hole = i;
	}
	m->slots[hole] = (struct idmap_slot){0};
	return value;
}

static int compare(const void *a, const void *b)
{
	const struct idmap_slot *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

void **idmap_sorted(const struct idmap *m)
{
	struct idmap_slot *slots = malloc((m->count + 1) * sizeof(*slots));
	void **values = malloc((m->count + 1) * sizeof(*values));
	size_t n = 0;

	if (!slots || !values) {
		free(slots);
		free(values);
		return NULL;
	}
	for (size_t i = 0; i < m->capacity; i++)
		if (m->slots[i].id)
			slots[n++] = m->slots[i];
	ASSERT(n == m->count);
	qsort(slots, n, sizeof(*slots), compare);
	for (size_t i = 0; i < n; i++)
		values[i] = slots[i].value;
	free(slots);
	return values;
}
