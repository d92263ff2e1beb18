/* tools/bench_value.c: see bench_value.h. */
#include <string.h>

#include "tools/bench_value.h"

static uint64_t take_number(struct bench_cursor *c, unsigned bytes)
{
	uint64_t n = 0;

	if ((size_t)(c->end - c->p) < bytes) {
		c->bad = true;
		c->p = c->end;
		return 0;
	}
	while (bytes--)
		n = n << 8 | *c->p++;
	return n;
}

static void take_bytes(struct bench_cursor *c, size_t len,
		       struct bench_value *v)
{
	if ((size_t)(c->end - c->p) < len) {
		c->bad = true;
		len = 0;
	}
	v->bytes = c->p;
	v->len = len;
	c->p += len;
}

static void take_compound(struct bench_cursor *c, unsigned width,
			  struct bench_value *v)
{
	size_t size = take_number(c, width);

	if (size < width || c->bad) {
		c->bad = true;
		return;
	}
	v->count = (uint32_t)take_number(c, width);
	take_bytes(c, size - width, v);
}

static struct bench_value take_plain(struct bench_cursor *c, uint8_t code)
{
	struct bench_value v = {.kind = BENCH_VALUE_NUMBER};

	switch (code >> 4) {
	case 0x4:
		v.kind = code == 0x40	? BENCH_VALUE_NULL
			 : code == 0x45 ? BENCH_VALUE_LIST
					: BENCH_VALUE_NUMBER;
		v.number = code == 0x41;
		break;
	case 0x5:
		v.number = take_number(c, 1);
		break;
	case 0x6:
		v.number = take_number(c, 2);
		break;
	case 0x7:
		v.number = take_number(c, 4);
		break;
	case 0x8:
		v.number = take_number(c, 8);
		break;
	case 0x9:
		v.kind = BENCH_VALUE_OTHER;
		take_bytes(c, 16, &v);
		break;
	case 0xa:
		v.kind = BENCH_VALUE_BYTES;
		take_bytes(c, take_number(c, 1), &v);
		break;
	case 0xb:
		v.kind = BENCH_VALUE_BYTES;
		take_bytes(c, take_number(c, 4), &v);
		break;
	case 0xc:
	case 0xd:
		v.kind = code & 1 ? BENCH_VALUE_OTHER : BENCH_VALUE_LIST;
		take_compound(c, code >> 4 == 0xc ? 1 : 4, &v);
		break;
	case 0xe:
		v.kind = BENCH_VALUE_OTHER;
		take_bytes(c, take_number(c, 1), &v);
		break;
	case 0xf:
		v.kind = BENCH_VALUE_OTHER;
		take_bytes(c, take_number(c, 4), &v);
		break;
	default:
		c->bad = true;
	}
	return v;
}

struct bench_value bench_value_take(struct bench_cursor *c)
{
	struct bench_value v;
	uint64_t descriptor;
	uint8_t code = (uint8_t)take_number(c, 1);

	if (c->bad || code)
		return take_plain(c, code);
	/* Descriptors that we know are numbers; a symbol reads as 0. */
	code = (uint8_t)take_number(c, 1);
	descriptor = take_plain(c, code).number;
	v = take_plain(c, (uint8_t)take_number(c, 1));
	v.described = true;
	v.descriptor = descriptor;
	return v;
}

bool bench_value_fields(struct bench_cursor *c, struct bench_value *fields,
			unsigned count, uint64_t *ret_code)
{
	struct bench_value list = bench_value_take(c);
	struct bench_cursor in = {list.bytes, list.bytes + list.len, false};

	memset(fields, 0, count * sizeof(*fields));
	if (c->bad || !list.described || list.kind != BENCH_VALUE_LIST)
		return false;
	*ret_code = list.descriptor;
	for (uint32_t i = 0; i < list.count; i++) {
		struct bench_value v = bench_value_take(&in);

		if (in.bad)
			return false;
		if (i < count)
			fields[i] = v;
	}
	return true;
}
