/* bench/load/payload.h: what every message carries.
 *
 * Bytes, little-endian:
 *   0  4  "HFL1", or "HFL0" when there is no checksum
 *   4  4  run: tells the messages of one run from those of another
 *   8  4  stream (plan.h)
 *  12  4  CRC-32C of the whole body with zeros here; 0 without a checksum
 *  16  8  number in the stream, from 0
 *  24  8  when it was meant to be sent: nanoseconds of CLOCK_MONOTONIC
 *  32  –  random bytes, others in each message, so that a broker that
 *         compresses gains nothing
 *
 * Any thread; the pool does not change after it was made. */
#ifndef BENCH_LOAD_PAYLOAD_H
#define BENCH_LOAD_PAYLOAD_H

#include <stdbool.h>

#include "base/base.h"

#define PAYLOAD_BYTES_MIN 32u
#define PAYLOAD_BYTES_MAX (64u << 20)

struct payload {
	uint8_t head[PAYLOAD_BYTES_MIN];
	const uint8_t *filler; /* of the pool */
	size_t len;	       /* of the whole body */
};

struct payload_fields {
	uint32_t run, stream;
	uint64_t number, intended_ns;
};

enum payload_verdict {
	PAYLOAD_GOOD,	 /* fields are set; its checksum, if any, fits */
	PAYLOAD_FOREIGN, /* not one of ours */
	PAYLOAD_CORRUPT, /* ours, and damaged */
};

struct payload_pool;

/* For bodies of `len` bytes.  0 or -ENOMEM. */
MUST_CHECK int payload_pool_create(size_t len, struct payload_pool **ret);
void payload_pool_free(struct payload_pool *);
/* Makes the next body; it borrows from the pool. */
void payload_make(const struct payload_pool *, const struct payload_fields *,
		  bool checksum, struct payload *ret);
/* Bytes at..at+len of the body. */
void payload_copy(const struct payload *, size_t at, size_t len, uint8_t *to);
/* check: also the checksum, when the body has one. */
enum payload_verdict payload_read(const uint8_t *body, size_t len, bool check,
				  struct payload_fields *ret);

#endif
