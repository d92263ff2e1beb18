/* journal/store/entries.h: the messages of one lane that lie in the journal,
 * by rising ref.
 *
 * A vector of chunks of up to 64 entries each.  Entries enter at the tail
 * and leave anywhere: leaving marks them dead, and a chunk that is half dead
 * is squeezed, an empty one freed.  56 bytes an entry and about one of
 * overhead while a queue is consumed in order; finding a ref takes two
 * binary searches.  Refs are kept as differences to the chunk's base.
 *
 * The owner of the queue is the only thread that touches it. */
#ifndef JOURNAL_STORE_ENTRIES_H
#define JOURNAL_STORE_ENTRIES_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

struct entry_more; /* what few messages have: journal/store/state.h */

/* struct log_loc, with the segment as an index into the state's table. */
struct entry_place {
	uint32_t segment, frame, at, stored_len, body_len;
};

struct entry {
	uint64_t arrived_ms, expiry_ms;
	struct entry_more *more;  /* NULL for a plain message */
	uint32_t ref_delta;	  /* private to entries.c */
	struct entry_place place; /* of the body, without an upload */
	uint32_t deliveries;
	uint8_t priority, format;
	uint8_t durable : 1;
	uint8_t counted : 1; /* deliveries were set, if only to 0 */
	uint8_t dead;	     /* private to entries.c */
};

struct entries_chunk;
struct entries_slot {
	uint64_t base;		     /* no ref in the chunk is smaller */
	struct entries_chunk *chunk; /* NULL: all have left */
};
struct entries {
	struct entries_slot *slots; /* used: [head, end) */
	size_t head, end, capacity;
	size_t hollow; /* of the used, without a chunk */
	uint64_t live, last_ref;
};

/* A zeroed struct entries is empty and usable. */

/* Append a zeroed entry; ref is larger than every one before.  *ret is valid
 * until the next call on these entries. -ENOMEM. */
MUST_CHECK int entries_push(struct entries *, uint64_t ref, struct entry **ret);
/* NULL: not there, or left. Valid until the next call. */
struct entry *entries_find(const struct entries *, uint64_t ref);
/* Everything with first <= ref <= last leaves; gone() sees each just before,
 * may be NULL, and must not touch these entries. */
void entries_remove(struct entries *, uint64_t first, uint64_t last,
		    void (*gone)(void *ctx, struct entry *), void *ctx);
/* The same, but those for which leaves() is false stay; it sees each. */
void entries_remove_some(struct entries *, uint64_t first, uint64_t last,
			 bool (*leaves)(void *ctx, struct entry *), void *ctx);
/* In ref order; stops at and returns each()'s first non-zero value. */
int entries_each(const struct entries *,
		 int (*each)(void *ctx, uint64_t ref, const struct entry *),
		 void *ctx);
/* The same from the first one with ref >= first on. */
int entries_each_from(const struct entries *, uint64_t first,
		      int (*each)(void *ctx, uint64_t ref,
				  const struct entry *),
		      void *ctx);
size_t entries_bytes(const struct entries *); /* of memory */
/* Check the structure's own rules; asserts. For tests. */
void entries_check(const struct entries *);

#endif
