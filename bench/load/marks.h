/* bench/load/marks.h: one bit for each message of each stream.
 *
 * Rows of bits that grow as they are set.  Any thread may set and read any
 * bit at any time. */
#ifndef BENCH_LOAD_MARKS_H
#define BENCH_LOAD_MARKS_H

#include <stdbool.h>

#include "base/base.h"

#define MARKS_ROW_MAX (1ull << 27) /* bits in a row */

struct marks;

/* 0 or -ENOMEM. */
MUST_CHECK int marks_create(uint32_t rows, struct marks **ret);
void marks_free(struct marks *);
uint32_t marks_rows(const struct marks *);
/* 0 and whether it was set before; -ERANGE beyond the row's bound, -ENOMEM. */
MUST_CHECK int marks_set(struct marks *, uint32_t row, uint64_t at,
			 bool *ret_was);
bool marks_get(const struct marks *, uint32_t row, uint64_t at);
/* Bits at..at+63, at being a multiple of 64. */
uint64_t marks_word(const struct marks *, uint32_t row, uint64_t at);
/* One above the highest bit that is set; 0: none is. */
uint64_t marks_end(const struct marks *, uint32_t row);
uint64_t marks_count(const struct marks *, uint32_t row);

#endif
