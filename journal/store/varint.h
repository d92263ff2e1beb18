/* journal/store/varint.h: small numbers in few bytes.
 *
 * Unsigned LEB128 of at most ten bytes.  A *difference* may be negative: it is
 * zigzag-coded, modulo 2^64.  Readers and writers are base/bytes.h's, sticky
 * as there.  Pure; [any] thread. */
#ifndef JOURNAL_STORE_VARINT_H
#define JOURNAL_STORE_VARINT_H

#include "base/bytes.h"

#define VARINT_MAX 10u /* bytes */

static inline void varint_write(struct bytes_writer *w, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		bytes_write8(w, (uint8_t)(v | 0x80));
	bytes_write8(w, (uint8_t)v);
}

static inline uint64_t varint_read(struct bytes_reader *r)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = bytes_read8(r);

		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return v;
	}
	r->failed = 1;
	return 0;
}

/* Larger ones fail. */
static inline uint32_t varint_read32(struct bytes_reader *r)
{
	uint64_t v = varint_read(r);

	if (v > UINT32_MAX)
		r->failed = 1;
	return (uint32_t)v;
}

static inline void varint_write_difference(struct bytes_writer *w, uint64_t v,
					   uint64_t from)
{
	uint64_t d = v - from;

	varint_write(w, d << 1 ^ (d >> 63 ? UINT64_MAX : 0));
}

static inline uint64_t varint_read_difference(struct bytes_reader *r,
					      uint64_t from)
{
	uint64_t z = varint_read(r);

	return from + (z >> 1 ^ (z & 1 ? UINT64_MAX : 0));
}

#endif
