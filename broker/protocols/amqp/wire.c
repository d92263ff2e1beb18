/* broker/protocols/amqp/wire.c: bounds-checked reading of AMQP values.
 *
 * Invariant: on success w->p has moved past exactly one value and is not
 * beyond w->end; on failure the reader must not be used any more. */
#include "broker/protocols/amqp/wire.h"

/* Arrays of values without width could claim any count. */
#define WIDTHLESS_COUNT_MAX 65536u

/* Kind plus one by format code; 0: no such code. */
#define KIND(k) ((uint8_t)((k) + 1))
static const uint8_t kinds[256] = {
	[0x00] = KIND(WIRE_DESCRIBED), [0x40] = KIND(WIRE_NULL),
	[0x41] = KIND(WIRE_BOOL),      [0x42] = KIND(WIRE_BOOL),
	[0x56] = KIND(WIRE_BOOL),      [0x50] = KIND(WIRE_UBYTE),
	[0x60] = KIND(WIRE_USHORT),    [0x43] = KIND(WIRE_UINT),
	[0x52] = KIND(WIRE_UINT),      [0x70] = KIND(WIRE_UINT),
	[0x44] = KIND(WIRE_ULONG),     [0x53] = KIND(WIRE_ULONG),
	[0x80] = KIND(WIRE_ULONG),     [0x83] = KIND(WIRE_TIMESTAMP),
	[0x51] = KIND(WIRE_FIXED),     [0x54] = KIND(WIRE_FIXED),
	[0x55] = KIND(WIRE_FIXED),     [0x61] = KIND(WIRE_FIXED),
	[0x71] = KIND(WIRE_FIXED),     [0x72] = KIND(WIRE_FIXED),
	[0x73] = KIND(WIRE_FIXED),     [0x74] = KIND(WIRE_FIXED),
	[0x81] = KIND(WIRE_FIXED),     [0x82] = KIND(WIRE_FIXED),
	[0x84] = KIND(WIRE_FIXED),     [0x94] = KIND(WIRE_FIXED),
	[0x98] = KIND(WIRE_FIXED),     [0xa0] = KIND(WIRE_BINARY),
	[0xb0] = KIND(WIRE_BINARY),    [0xa1] = KIND(WIRE_STRING),
	[0xb1] = KIND(WIRE_STRING),    [0xa3] = KIND(WIRE_SYMBOL),
	[0xb3] = KIND(WIRE_SYMBOL),    [0x45] = KIND(WIRE_LIST),
	[0xc0] = KIND(WIRE_LIST),      [0xd0] = KIND(WIRE_LIST),
	[0xc1] = KIND(WIRE_MAP),       [0xd1] = KIND(WIRE_MAP),
	[0xe0] = KIND(WIRE_ARRAY),     [0xf0] = KIND(WIRE_ARRAY),
};

static int kind_of(uint8_t code, enum wire_kind *ret)
{
	if (!kinds[code])
		return -E_CORRUPT;
	*ret = (enum wire_kind)(kinds[code] - 1);
	return 0;
}

static inline int read_fixed(struct wire *w, uint8_t code,
			     struct wire_value *ret)
{
	static const uint8_t widths[] = {0, 1, 2, 4, 8, 16};
	size_t width = widths[(code >> 4) - 4];

	if (wire_left(w) < width)
		return -E_CORRUPT;
	switch (width) {
	case 0:
		ret->u = code == 0x41;
		break;
	case 1:
		ret->u = w->p[0];
		if (code == 0x56 && ret->u > 1)
			return -E_CORRUPT;
		break;
	case 2:
		ret->u = (uint64_t)w->p[0] << 8 | w->p[1];
		break;
	case 4:
		ret->u = wire_get32(w->p);
		break;
	case 8:
		ret->u = wire_get64(w->p);
		break;
	default:
		break;
	}
	w->p += width;
	return 0;
}

/* Text, lists, maps, arrays: a size of one or four bytes, then, for the
 * compound ones, a count of the same width. */
static inline int read_sized(struct wire *w, uint8_t code,
			     struct wire_value *ret)
{
	bool compound = (code & 0xf0) >= 0xc0;
	size_t width = (code & 0x10) ? 4 : 1;
	uint32_t size;

	if (wire_left(w) < width)
		return -E_CORRUPT;
	size = width == 1 ? w->p[0] : wire_get32(w->p);
	w->p += width;
	if (wire_left(w) < size)
		return -E_CORRUPT;
	ret->data = w->p;
	ret->len = size;
	w->p += size;
	if (!compound)
		return 0;
	if (size < width)
		return -E_CORRUPT;
	ret->count = width == 1 ? ret->data[0] : wire_get32(ret->data);
	ret->data += width;
	ret->len -= (uint32_t)width;
	return 0;
}

int wire_read(struct wire *w, struct wire_value *ret)
{
	uint8_t code;
	int err;

	if (w->p >= w->end)
		return -E_CORRUPT;
	code = *w->p++;
	err = kind_of(code, &ret->kind);
	if (err)
		return err;
	ret->count = 0;
	ret->u = 0;
	ret->data = w->p;
	ret->len = 0;
	if (code == 0x00 || code == 0x45)
		return 0;
	return code < 0xa0 ? read_fixed(w, code, ret)
			   : read_sized(w, code, ret);
}

int wire_skip(struct wire *w)
{
	struct wire_value v;
	int err = wire_read(w, &v);

	if (err || v.kind != WIRE_DESCRIBED)
		return err;
	/* A descriptor that is itself described has no use on this wire. */
	err = wire_read(w, &v);
	if (err || v.kind == WIRE_DESCRIBED)
		return -E_CORRUPT;
	err = wire_read(w, &v);
	return err || v.kind == WIRE_DESCRIBED ? -E_CORRUPT : 0;
}

static int check(struct wire *w, unsigned depth);

static int check_array(const struct wire_value *v, unsigned depth)
{
	struct wire in = wire_inside(v);
	struct wire_value descriptor;
	uint8_t constructor[1];
	enum wire_kind kind;

	if (in.p >= in.end)
		return -E_CORRUPT;
	constructor[0] = *in.p++;
	if (constructor[0] == 0x00) {
		if (wire_read(&in, &descriptor) ||
		    descriptor.kind == WIRE_DESCRIBED || in.p >= in.end)
			return -E_CORRUPT;
		constructor[0] = *in.p++;
	}
	if (kind_of(constructor[0], &kind) || kind == WIRE_DESCRIBED)
		return -E_CORRUPT;
	if (constructor[0] >> 4 == 4)
		return v->count <= WIDTHLESS_COUNT_MAX && in.p == in.end
			       ? 0
			       : -E_CORRUPT;
	for (uint32_t i = 0; i < v->count; i++) {
		struct wire_value e = {.kind = kind};
		int err = constructor[0] < 0xa0
				  ? read_fixed(&in, constructor[0], &e)
				  : read_sized(&in, constructor[0], &e);

		if (err)
			return err;
		if (kind == WIRE_LIST || kind == WIRE_MAP ||
		    kind == WIRE_ARRAY) {
			struct wire inner = wire_inside(&e);

			if (depth + 1 > WIRE_DEPTH_MAX)
				return -E_CORRUPT;
			if (kind == WIRE_ARRAY) {
				err = check_array(&e, depth + 1);
				if (err)
					return err;
				continue;
			}
			for (uint32_t k = 0; k < e.count; k++) {
				err = check(&inner, depth + 1);
				if (err)
					return err;
			}
		}
	}
	return in.p == in.end ? 0 : -E_CORRUPT;
}

static int check(struct wire *w, unsigned depth)
{
	struct wire_value v;
	struct wire in;
	int err;

	if (depth > WIRE_DEPTH_MAX)
		return -E_CORRUPT;
	err = wire_read(w, &v);
	if (err)
		return err;
	switch (v.kind) {
	case WIRE_DESCRIBED:
		err = wire_read(w, &v);
		if (err || v.kind == WIRE_DESCRIBED || v.kind == WIRE_LIST ||
		    v.kind == WIRE_MAP || v.kind == WIRE_ARRAY)
			return -E_CORRUPT;
		return check(w, depth + 1);
	case WIRE_MAP:
		if (v.count % 2)
			return -E_CORRUPT;
		__attribute__((fallthrough));
	case WIRE_LIST:
		in = wire_inside(&v);
		for (uint32_t i = 0; i < v.count; i++) {
			err = check(&in, depth + 1);
			if (err)
				return err;
		}
		return in.p == in.end ? 0 : -E_CORRUPT;
	case WIRE_ARRAY:
		return check_array(&v, depth);
	case WIRE_NULL:
	case WIRE_BOOL:
	case WIRE_UBYTE:
	case WIRE_USHORT:
	case WIRE_UINT:
	case WIRE_ULONG:
	case WIRE_TIMESTAMP:
	case WIRE_FIXED:
	case WIRE_BINARY:
	case WIRE_STRING:
	case WIRE_SYMBOL:
		break;
	}
	return 0;
}

int wire_check(struct wire *w)
{
	return check(w, 0);
}

int wire_descriptor(struct wire *w, uint64_t *ret_code,
		    struct wire_value *ret_symbol)
{
	int err;

	if (w->p >= w->end || *w->p != 0x00)
		return -E_CORRUPT;
	w->p++;
	err = wire_read(w, ret_symbol);
	if (err)
		return err;
	if (ret_symbol->kind == WIRE_ULONG)
		*ret_code = ret_symbol->u;
	else if (ret_symbol->kind == WIRE_SYMBOL)
		*ret_code = 0;
	else
		return -E_CORRUPT;
	return 0;
}
