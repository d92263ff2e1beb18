/* An intrusive hash table by name.  Names come from clients, so the hash is
 * keyed with a random value of this process. */
#include <string.h>

#include "broker/core/internal.h"

#define TABLE_BUCKETS_MIN 64u

static uint64_t table_hash(const char *name)
{
	/* FNV-1a, then mixed; the key is the address of a static, which
	 * differs from process to process where addresses are random. */
	static const char key;
	uint64_t h = 14695981039346656037ull ^ (uint64_t)(uintptr_t)&key;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 1099511628211ull;
	h ^= h >> 32;
	return h * 0x9e3779b97f4a7c15ull;
}

int table_init(struct table *t)
{
	t->buckets = calloc(TABLE_BUCKETS_MIN, sizeof(struct table_node *));
	if (!t->buckets)
		return -ENOMEM;
	t->bucket_count = TABLE_BUCKETS_MIN;
	t->node_count = 0;
	return 0;
}

void table_fini(struct table *t)
{
	free(t->buckets);
	t->buckets = NULL;
}

static struct table_node **table_bucket(const struct table *t, uint64_t hash)
{
	return &t->buckets[(hash >> 20) & (t->bucket_count - 1)];
}

struct table_node *table_find(const struct table *t, const char *name)
{
	uint64_t hash = table_hash(name);

	for (struct table_node *n = *table_bucket(t, hash); n; n = n->next)
		if (n->hash == hash && !strcmp(n->name, name))
			return n;
	return NULL;
}

static void table_grow(struct table *t)
{
	struct table bigger = {.bucket_count = t->bucket_count * 2,
			       .node_count = t->node_count};

	bigger.buckets =
		calloc(bigger.bucket_count, sizeof(struct table_node *));
	if (!bigger.buckets)
		return; /* longer chains, nothing worse */
	for (size_t i = 0; i < t->bucket_count; i++) {
		struct table_node *n = t->buckets[i], *next;

		for (; n; n = next) {
			struct table_node **b = table_bucket(&bigger, n->hash);

			next = n->next;
			n->next = *b;
			*b = n;
		}
	}
	free(t->buckets);
	*t = bigger;
}

void table_insert(struct table *t, struct table_node *n)
{
	struct table_node **b;

	if (t->node_count >= t->bucket_count)
		table_grow(t);
	n->hash = table_hash(n->name);
	b = table_bucket(t, n->hash);
	n->next = *b;
	*b = n;
	t->node_count++;
}

void table_remove(struct table *t, struct table_node *n)
{
	struct table_node **p = table_bucket(t, n->hash);

	while (*p != n) {
		ASSERT(*p);
		p = &(*p)->next;
	}
	*p = n->next;
	n->next = NULL;
	t->node_count--;
}
