/* journal/store/detail.h: which messages of a run are gone, and what has
 * changed of the others.
 *
 * A run without a detail is as it was written and all there.  A detail is one
 * bit for each number of the run, and a sorted array of the few messages
 * whose delivery count or annotations have changed since.  Numbers are given
 * as *at*: number − the run's first.  A run may span far more numbers than
 * there are messages in it, so words without a bit take no memory: it is two
 * bits a number at best, and at most eight bytes a message that is there.
 *
 * Owner: the thread of the state it is part of. */
#ifndef JOURNAL_STORE_DETAIL_H
#define JOURNAL_STORE_DETAIL_H

#include <stdbool.h>

#include "base/base.h"
#include "base/bytes.h"
#include "base/err.h"

struct detail;

struct detail_change {
	uint32_t at, deliveries;
	uint32_t extra_len; /* 0: the annotations are as written */
	const void *extra;
};

/* All there; nothing there.  span is at least 1. -ENOMEM. */
MUST_CHECK int detail_create(uint32_t span, struct detail **ret);
MUST_CHECK int detail_create_empty(uint32_t span, struct detail **ret);
void detail_free(struct detail *);	     /* NULL-safe */
size_t detail_bytes(const struct detail *);  /* of memory */
uint32_t detail_live(const struct detail *); /* how many are there */
bool detail_has_changes(const struct detail *);

bool detail_is_gone(const struct detail *, uint32_t at);
/* [first, last] are there from now on: behind all that are. */
MUST_CHECK int detail_add(struct detail *, uint32_t first, uint32_t last);
/* How many of [first, last] were there until now. */
uint32_t detail_remove(struct detail *, uint32_t first, uint32_t last);
/* The first that is there at or behind `at`; span when none. */
uint32_t detail_next(const struct detail *, uint32_t at);
/* Of a message that is there.  Copies; replaces an earlier one, whose
 * annotations stay when extra_len is 0. */
MUST_CHECK int detail_change(struct detail *, const struct detail_change *);
/* NULL: none, borrowed until the next call. */
const struct detail_change *detail_find(const struct detail *, uint32_t at);
/* By rising at; stops at and returns each()'s first non-zero value. */
int detail_each_change(const struct detail *,
		       int (*each)(void *ctx, const struct detail_change *),
		       void *ctx);

/* For the checkpoint and the index: runs of bits, then changes.  Decoding
 * checks everything: -E_CORRUPT. */
size_t detail_encoded_room(const struct detail *);
size_t detail_encode(const struct detail *, void *buf);
MUST_CHECK int detail_decode(uint32_t span, const void *data, size_t len,
			     struct detail **ret);
/* A copy of [first, last] alone, for a reader on another thread; `at` stays
 * counted from the run's first. */
MUST_CHECK int detail_copy(const struct detail *, uint32_t first, uint32_t last,
			   struct detail **ret);
void detail_check(const struct detail *); /* asserts; for tests */

#endif
