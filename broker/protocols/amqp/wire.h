/* broker/protocols/amqp/wire.h: reading AMQP 1.0 encoded values in place.
 *
 * Every byte here comes from a peer: each length is checked before use, and
 * nothing is copied.  AMQP 1.0 part 1, section 1.6.  Pure functions; [any]
 * thread.  Errors: 0 or -E_CORRUPT. */
#ifndef BROKER_PROTOCOLS_AMQP_WIRE_H
#define BROKER_PROTOCOLS_AMQP_WIRE_H

#include <stdbool.h>
#include <string.h>

#include "base/base.h"
#include "base/err.h"

struct wire {
	const uint8_t *p, *end;
};

enum wire_kind {
	WIRE_NULL,
	WIRE_BOOL,
	WIRE_UBYTE,
	WIRE_USHORT,
	WIRE_UINT,
	WIRE_ULONG,
	WIRE_TIMESTAMP,
	WIRE_FIXED, /* any other type of fixed width */
	WIRE_BINARY,
	WIRE_STRING,
	WIRE_SYMBOL,
	WIRE_LIST,
	WIRE_MAP,
	WIRE_ARRAY,
	WIRE_DESCRIBED, /* the descriptor comes next, then the value */
};

/* Encodings that readers of known types look for without wire_read(). */
enum wire_code {
	WIRE_CODE_DESCRIBED = 0x00,
	WIRE_CODE_NULL = 0x40,
	WIRE_CODE_TRUE = 0x41,
	WIRE_CODE_FALSE = 0x42,
	WIRE_CODE_UINT0 = 0x43,
	WIRE_CODE_LIST0 = 0x45,
	WIRE_CODE_UINT1 = 0x52,
	WIRE_CODE_ULONG1 = 0x53,
	WIRE_CODE_BOOL = 0x56,
	WIRE_CODE_UINT4 = 0x70,
	WIRE_CODE_BINARY1 = 0xa0,
	WIRE_CODE_BINARY4 = 0xb0,
	WIRE_CODE_LIST1 = 0xc0,
	WIRE_CODE_LIST4 = 0xd0,
};

struct wire_value {
	enum wire_kind kind;
	uint32_t count; /* elements of a list, map (keys and values) or array */
	uint64_t u;	/* value of an unsigned number, boolean, timestamp */
	/* contents of what has a length: text, or the encoded elements (for
	 * an array the element constructor comes first) */
	const uint8_t *data;
	uint32_t len;
};

static inline uint32_t wire_get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	       (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t wire_get64(const uint8_t *p)
{
	return (uint64_t)wire_get32(p) << 32 | wire_get32(p + 4);
}

static inline void wire_put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static inline size_t wire_left(const struct wire *w)
{
	return (size_t)(w->end - w->p);
}

static inline struct wire wire_of(const void *data, size_t len)
{
	const uint8_t *p = data;

	/* Nothing may be added to a null pointer, not even nothing. */
	return (struct wire){p, p ? p + len : NULL};
}

/* The elements of a list or map. */
static inline struct wire wire_inside(const struct wire_value *v)
{
	return wire_of(v->data, v->len);
}

/* A list's elements and their number; no other value will do. */
MUST_CHECK static inline int wire_read_list(struct wire *w, struct wire *ret,
					    uint32_t *ret_count)
{
	size_t left = wire_left(w), head, size;

	if (!left)
		return -E_CORRUPT;
	switch (w->p[0]) {
	case WIRE_CODE_LIST1:
		if (left < 3)
			return -E_CORRUPT;
		head = 3;
		size = 2u + w->p[1];
		*ret_count = w->p[2];
		break;
	case WIRE_CODE_LIST4:
		if (left < 9)
			return -E_CORRUPT;
		head = 9;
		size = 5u + (size_t)wire_get32(w->p + 1);
		*ret_count = wire_get32(w->p + 5);
		break;
	case WIRE_CODE_LIST0:
		head = size = 1;
		*ret_count = 0;
		break;
	default:
		return -E_CORRUPT;
	}
	if (size < head || size > left)
		return -E_CORRUPT;
	*ret = wire_of(w->p + head, size - head);
	w->p += size;
	return 0;
}

/* A binary's contents; no other value will do. */
MUST_CHECK static inline int wire_read_binary(struct wire *w, struct wire *ret)
{
	size_t left = wire_left(w), head, size;

	if (left < 2)
		return -E_CORRUPT;
	switch (w->p[0]) {
	case WIRE_CODE_BINARY1:
		head = 2;
		size = w->p[1];
		break;
	case WIRE_CODE_BINARY4:
		if (left < 5)
			return -E_CORRUPT;
		head = 5;
		size = wire_get32(w->p + 1);
		break;
	default:
		return -E_CORRUPT;
	}
	if (size > left - head)
		return -E_CORRUPT;
	*ret = wire_of(w->p + head, size);
	w->p += head + size;
	return 0;
}

/* Read one value; elements of compound values are stepped over unseen. */
MUST_CHECK int wire_read(struct wire *, struct wire_value *ret);
/* Step over one value, with its descriptor when it has one. */
MUST_CHECK int wire_skip(struct wire *);
/* Step over one value after looking at every element inside it; at most
 * WIRE_DEPTH_MAX levels. */
#define WIRE_DEPTH_MAX 32
MUST_CHECK int wire_check(struct wire *);
/* A described value's numeric descriptor; a symbolic one gives 0. */
MUST_CHECK int wire_descriptor(struct wire *, uint64_t *ret_code,
			       struct wire_value *ret_symbol);

#endif
