/* base/bytes.h: little-endian fields, encoded and decoded one by one.
 *
 * Formats on disk and between nodes are written with these and never by
 * copying a struct.  A reader is sticky: after the first read past the end it
 * yields zeros and bytes_failed() is true, so a decoder checks once, at its
 * end.  A writer is sticky in the same way. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <string.h>

#include "base/base.h"

static inline void bytes_put16(void *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void bytes_put32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline void bytes_put64(void *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t bytes_get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t bytes_get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t bytes_get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "the codecs above copy; a big-endian port swaps here");

struct bytes_reader {
	const uint8_t *p, *end;
	int failed;
};

static inline void bytes_reader_init(struct bytes_reader *r, const void *data,
				     size_t len)
{
	r->p = data;
	r->end = r->p + len;
	r->failed = 0;
}

static inline size_t bytes_left(const struct bytes_reader *r)
{
	return (size_t)(r->end - r->p);
}

static inline int bytes_failed(const struct bytes_reader *r)
{
	return r->failed;
}

/* The next len bytes, borrowed from the buffer; NULL when there are fewer. */
static inline const void *bytes_read(struct bytes_reader *r, size_t len)
{
	const uint8_t *p = r->p;

	if (r->failed || bytes_left(r) < len) {
		r->failed = 1;
		return NULL;
	}
	r->p += len;
	return p;
}

static inline uint8_t bytes_read8(struct bytes_reader *r)
{
	const uint8_t *p = bytes_read(r, 1);

	return p ? *p : 0;
}

static inline uint16_t bytes_read16(struct bytes_reader *r)
{
	const void *p = bytes_read(r, 2);

	return p ? bytes_get16(p) : 0;
}

static inline uint32_t bytes_read32(struct bytes_reader *r)
{
	const void *p = bytes_read(r, 4);

	return p ? bytes_get32(p) : 0;
}

static inline uint64_t bytes_read64(struct bytes_reader *r)
{
	const void *p = bytes_read(r, 8);

	return p ? bytes_get64(p) : 0;
}

/* Writes into a fixed buffer. */
struct bytes_writer {
	uint8_t *start, *p, *end;
	int failed;
};

static inline void bytes_writer_init(struct bytes_writer *w, void *data,
				     size_t len)
{
	w->start = w->p = data;
	w->end = w->p + len;
	w->failed = 0;
}

static inline size_t bytes_written(const struct bytes_writer *w)
{
	return (size_t)(w->p - w->start);
}

static inline void *bytes_reserve(struct bytes_writer *w, size_t len)
{
	uint8_t *p = w->p;

	if (w->failed || (size_t)(w->end - w->p) < len) {
		w->failed = 1;
		return NULL;
	}
	w->p += len;
	return p;
}

static inline void bytes_write(struct bytes_writer *w, const void *data,
			       size_t len)
{
	void *p = bytes_reserve(w, len);

	if (p && len)
		memcpy(p, data, len);
}

static inline void bytes_write8(struct bytes_writer *w, uint8_t v)
{
	bytes_write(w, &v, 1);
}

static inline void bytes_write16(struct bytes_writer *w, uint16_t v)
{
	bytes_write(w, &v, 2);
}

static inline void bytes_write32(struct bytes_writer *w, uint32_t v)
{
	bytes_write(w, &v, 4);
}

static inline void bytes_write64(struct bytes_writer *w, uint64_t v)
{
	bytes_write(w, &v, 8);
}

#endif
