/* journal/store/packed.h: entries of a lane in few bytes each, for entries.c.
 *
 * A table: entry i is row i, and all rows are equally long, so that any one
 * is found at once, and changed where it is when its new numbers fit.  A
 * column is a number of struct entry, kept as the difference to the least of
 * the table in as few bytes as the largest difference needs: none when all
 * are alike.  Neighbours in a lane are alike in nearly everything, so a plain
 * message takes 2 to 6 bytes, and the table itself 71.
 *
 * Pure; [any] thread. */
#ifndef JOURNAL_STORE_PACKED_H
#define JOURNAL_STORE_PACKED_H

#include <stdbool.h>

#include "journal/store/entries.h"

#define PACKED_ROWS_MAX 64u

struct packed_form {
	/* Of the columns, four bits each, the first in the lowest. */
	uint64_t widths : 56;
	uint64_t row_bytes : 8;
	struct entry least; /* of each column */
};

struct packed {
	struct packed_form form;
	uint8_t rows[];
};

/* What is to be packed; the caller fills in count, at least 1, and entries,
 * whose ref_deltas rise strictly. */
struct packing {
	unsigned count;
	struct entry entries[PACKED_ROWS_MAX];
	struct packed_form form; /* private */
};
/* Returns the bytes that packed_write() needs, which comes next. */
size_t packed_prepare(struct packing *);
void packed_write(const struct packing *, struct packed *to);

size_t packed_bytes(const struct packed *, unsigned count);
void packed_get(const struct packed *, unsigned at, struct entry *ret);
uint32_t packed_ref_delta(const struct packed *, unsigned at);
/* The first row whose ref_delta is not smaller; count: none. */
unsigned packed_find(const struct packed *, unsigned count, uint64_t ref_delta);
/* Change row `at`.  False: it does not fit, and nothing has changed. */
MUST_CHECK bool packed_set(struct packed *, unsigned at, const struct entry *);

#endif
