/* tests/unit/index_twin.h: an index in memory, which fails when told to. */
#ifndef TESTS_UNIT_INDEX_TWIN_H
#define TESTS_UNIT_INDEX_TWIN_H

#include <stdbool.h>

#include "base/err.h"
#include "journal/store/index.h"

struct index_twin_slot {
	uint8_t key[INDEX_KEY_MAX];
	size_t key_len, len;
	void *value;
};

struct index_twin {
	struct index index;
	struct index_twin_slot *slots;
	size_t count, capacity;
	unsigned put_fails; /* so many of four */
	int get_error;	    /* 0: none */
	bool get_wrong;	    /* what is returned is another's */
	uint64_t puts, gets;
};

static inline struct index_twin_slot *
index_twin_find(struct index_twin *t, const void *key, size_t key_len)
{
	for (size_t i = 0; i < t->count; i++) {
		if (t->slots[i].key_len == key_len &&
		    !memcmp(t->slots[i].key, key, key_len))
			return &t->slots[i];
	}
	return NULL;
}

static inline int index_twin_put(struct index *index, const void *key,
				 size_t key_len, const void *value, size_t len)
{
	struct index_twin *t = (struct index_twin *)index;
	struct index_twin_slot *s = index_twin_find(t, key, key_len);
	void *copy;

	assert_true(key_len <= INDEX_KEY_MAX);
	if (t->puts++ % 4 < t->put_fails)
		return -ENOSPC;
	if (!s && t->count == t->capacity) {
		size_t capacity = t->capacity * 2 + 16;
		void *grown = realloc(t->slots, capacity * sizeof(*t->slots));

		if (!grown)
			return -ENOMEM;
		t->slots = grown;
		t->capacity = capacity;
	}
	copy = malloc(len + 1);
	if (!copy)
		return -ENOMEM;
	if (!s) {
		s = &t->slots[t->count++];
		*s = (struct index_twin_slot){.key_len = key_len};
		memcpy(s->key, key, key_len);
	}
	free(s->value);
	s->value = copy;
	memcpy(copy, value, len);
	s->len = len;
	return 0;
}

static inline int index_twin_get(struct index *index, const void *key,
				 size_t key_len, void **ret, size_t *ret_len)
{
	struct index_twin *t = (struct index_twin *)index;
	struct index_twin_slot *s = index_twin_find(t, key, key_len);

	t->gets++;
	if (t->get_error || !s)
		return t->get_error ? t->get_error : -ENOENT;
	if (t->get_wrong && t->count > 1)
		s = &t->slots[(size_t)(s - t->slots + 1) % t->count];
	*ret = malloc(s->len + 1);
	if (!*ret)
		return -ENOMEM;
	memcpy(*ret, s->value, s->len);
	*ret_len = s->len;
	return 0;
}

static inline int index_twin_remove(struct index *index, const void *key,
				    size_t key_len)
{
	struct index_twin *t = (struct index_twin *)index;
	struct index_twin_slot *s = index_twin_find(t, key, key_len);

	if (!s)
		return 0;
	free(s->value);
	*s = t->slots[--t->count];
	return 0;
}

static inline void index_twin_free(struct index *index)
{
}

static inline void index_twin_init(struct index_twin *t)
{
	static const struct index_ops ops = {
		.put = index_twin_put,
		.get = index_twin_get,
		.remove = index_twin_remove,
		.free = index_twin_free,
	};

	memset(t, 0, sizeof(*t));
	t->index.ops = &ops;
}

static inline void index_twin_fini(struct index_twin *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->slots[i].value);
	free(t->slots);
}

#endif
