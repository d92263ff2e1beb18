/* journal/store/entries.h: the messages of one lane that lie in the journal,
 * by rising ref.
 *
 * A vector of chunks of up to 64 entries each.  Entries enter at the tail
 * and leave anywhere: leaving marks them dead, and an empty chunk is freed.
 * The last few chunks are *wide*, an array of struct entry of 56 bytes each,
 * so that what is consumed at once costs nothing more.  One that falls behind
 * them is *packed* (packed.h), unless there is no memory for that, and stays
 * so: 4 to 8 bytes an entry, everything included, for plain messages of one
 * producer.  A chunk is squeezed when half of it is dead, a packed one when
 * three quarters are, and not the first one: it is being consumed.  Finding a
 * ref takes two searches by bisection.
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
	uint8_t zero;	     /* packed.c keeps every byte */
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
	size_t bytes;  /* of memory, with what malloc() adds */
	uint64_t live, last_ref;
};

/* A zeroed struct entries is empty and usable. */

/* Append a zeroed entry; ref is larger than every one before.  *ret is valid
 * until the next call on these entries. -ENOMEM. */
MUST_CHECK int entries_push(struct entries *, uint64_t ref, struct entry **ret);
/* A copy of it; false: not there, or left. */
bool entries_get(const struct entries *, uint64_t ref, struct entry *ret);
/* Change one that is there; `to` is what entries_get() gave, but for what is
 * to change.  -ENOMEM: it is as it was. */
MUST_CHECK int entries_set(struct entries *, uint64_t ref,
			   const struct entry *to);
/* Everything with first <= ref <= last leaves; gone() sees each just before,
 * may be NULL, and must not touch these entries. */
void entries_remove(struct entries *, uint64_t first, uint64_t last,
		    void (*gone)(void *ctx, struct entry *), void *ctx);
/* The same, but those for which leaves() is false stay; it sees each, and
 * does not change those. */
void entries_remove_some(struct entries *, uint64_t first, uint64_t last,
			 bool (*leaves)(void *ctx, struct entry *), void *ctx);
/* In ref order; stops at and returns each()'s first non-zero value.  What
 * gone(), leaves() and each() see is valid until they return. */
int entries_each(const struct entries *,
		 int (*each)(void *ctx, uint64_t ref, const struct entry *),
		 void *ctx);
/* The same from the first one with ref >= first on. */
int entries_each_from(const struct entries *, uint64_t first,
		      int (*each)(void *ctx, uint64_t ref,
				  const struct entry *),
		      void *ctx);

/* Of all lanes.  Tests make both smaller, so that few messages are many
 * chunks, and most of them packed. */
struct entries_sizes {
	unsigned chunk; /* entries in one; 1 to ENTRIES_CHUNK */
	unsigned wide;	/* chunks at the end that are not packed; at least 1 */
};
#define ENTRIES_CHUNK 64u
#define ENTRIES_WIDE 4u
extern struct entries_sizes entries_sizes;

/* Check the structure's own rules; asserts. For tests. */
void entries_check(const struct entries *);

#endif
