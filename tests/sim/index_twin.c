/* See index_twin.h: a list in each of a few buckets. */
#include "tests/sim/index_twin.h"

#include <string.h>

#include "base/list.h"

#define BUCKETS 64u

struct twin_entry {
	struct list link;
	size_t key_len, len;
	uint8_t bytes[]; /* key, value */
};

struct index_twin {
	struct index index;
	struct sim *sim;
	struct index_twin_faults faults;
	uint64_t count, corrupted;
	struct list buckets[BUCKETS];
};

static struct index_twin *twin_of(struct index *index)
{
	return container_of(index, struct index_twin, index);
}

static struct list *bucket_of(struct index_twin *t, const void *key, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const uint8_t *)key)[i]) * 16777619u;
	return &t->buckets[h % BUCKETS];
}

static struct twin_entry *find(struct index_twin *t, const void *key,
			       size_t key_len)
{
	ASSERT(key_len && key_len <= INDEX_KEY_MAX);
	list_for_each(at, bucket_of(t, key, key_len)) {
		struct twin_entry *e = list_entry(at, struct twin_entry, link);

		if (e->key_len == key_len && !memcmp(e->bytes, key, key_len))
			return e;
	}
	return NULL;
}

static void drop(struct index_twin *t, struct twin_entry *e)
{
	list_remove(&e->link);
	free(e);
	t->count--;
}

static int twin_put(struct index *index, const void *key, size_t key_len,
		    const void *value, size_t len)
{
	struct index_twin *t = twin_of(index);
	struct twin_entry *e, *old = find(t, key, key_len);

	if (sim_chance(t->sim, t->faults.full_ppm))
		return -ENOSPC;
	e = malloc(sizeof(*e) + key_len + len);
	if (!e)
		return -ENOMEM;
	e->key_len = key_len;
	e->len = len;
	memcpy(e->bytes, key, key_len);
	if (len)
		memcpy(e->bytes + key_len, value, len);
	if (old)
		drop(t, old);
	list_push(bucket_of(t, key, key_len), &e->link);
	t->count++;
	return 0;
}

static int twin_get(struct index *index, const void *key, size_t key_len,
		    void **ret, size_t *ret_len)
{
	struct index_twin *t = twin_of(index);
	struct twin_entry *e = find(t, key, key_len);
	void *copy;

	if (!e)
		return -ENOENT;
	if (sim_chance(t->sim, t->faults.corrupt_ppm)) {
		t->corrupted++;
		return -E_CORRUPT;
	}
	copy = malloc(e->len ? e->len : 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, e->bytes + e->key_len, e->len);
	*ret = copy;
	*ret_len = e->len;
	return 0;
}

static int twin_remove(struct index *index, const void *key, size_t key_len)
{
	struct index_twin *t = twin_of(index);
	struct twin_entry *e = find(t, key, key_len);

	if (!e)
		return -ENOENT;
	drop(t, e);
	return 0;
}

static void twin_free(struct index *index)
{
	struct index_twin *t = twin_of(index);

	for (size_t i = 0; i < BUCKETS; i++)
		while (!list_empty(&t->buckets[i]))
			drop(t, list_entry(t->buckets[i].next,
					   struct twin_entry, link));
	free(t);
}

static const struct index_ops twin_ops = {
	.put = twin_put,
	.get = twin_get,
	.remove = twin_remove,
	.free = twin_free,
};

int index_twin_create(struct sim *sim, const struct index_twin_faults *faults,
		      struct index **ret)
{
	struct index_twin *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->index.ops = &twin_ops;
	t->sim = sim;
	t->faults = *faults;
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&t->buckets[i]);
	*ret = &t->index;
	return 0;
}

uint64_t index_twin_corrupted(struct index *index)
{
	return twin_of(index)->corrupted;
}

uint64_t index_twin_count(struct index *index)
{
	return twin_of(index)->count;
}
