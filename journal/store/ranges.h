/* journal/store/ranges.h: a set of numbers, as the ranges that it is made of.
 *
 * Memory is one pair for each range; neighbours become one.  A zeroed set is
 * empty and usable. */
#ifndef JOURNAL_STORE_RANGES_H
#define JOURNAL_STORE_RANGES_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

struct range {
	uint64_t first, last; /* inclusive */
};

struct ranges {
	struct range *items; /* by rising first; neither touching nor empty */
	size_t count, capacity;
};

void ranges_fini(struct ranges *);
/* first <= last. -ENOMEM. */
MUST_CHECK int ranges_add(struct ranges *, uint64_t first, uint64_t last);
bool ranges_contain(const struct ranges *, uint64_t first, uint64_t last);
bool ranges_touch(const struct ranges *, uint64_t first, uint64_t last);
/* Calls each for the parts of [first, last] that are not in the set; stops at
 * and returns its first non-zero value. */
int ranges_each_missing(const struct ranges *, uint64_t first, uint64_t last,
			int (*each)(void *ctx, uint64_t first, uint64_t last),
			void *ctx);

#endif
