/* journal/store/idmap.h: from a 64-bit id to a pointer.
 *
 * Open addressing with linear probing; at most three quarters full.  Id 0 is
 * never stored.  The owner of the map is the only thread that touches it. */
#ifndef JOURNAL_STORE_IDMAP_H
#define JOURNAL_STORE_IDMAP_H

#include "base/base.h"
#include "base/err.h"

struct idmap_slot {
	uint64_t id;
	void *value;
};

struct idmap {
	struct idmap_slot *slots; /* capacity of them, a power of two */
	size_t capacity, count;
};

/* A zeroed map is empty and usable. Values are the caller's. */
void idmap_fini(struct idmap *);
void *idmap_get(const struct idmap *, uint64_t id); /* NULL: absent */
/* The id must be absent. -ENOMEM. */
MUST_CHECK int idmap_put(struct idmap *, uint64_t id, void *value);
/* Returns what was there, or NULL. */
void *idmap_take(struct idmap *, uint64_t id);
/* All values in order of their ids, in an array that the caller frees; NULL
 * with no memory, never NULL for an empty map. */
void **idmap_sorted(const struct idmap *);

#endif
