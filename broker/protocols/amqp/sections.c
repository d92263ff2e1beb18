/* broker/protocols/amqp/sections.c: scanning and rewriting of messages.
 *
 * The scanner looks at the outermost structure only: section descriptors in
 * their order and the sizes that the encoding carries.  It costs a fraction of
 * a microsecond for a common message, which is why Proton's own decoder, which
 * builds a tree, is not used here. */
#include "broker/protocols/amqp/sections.h"

#include "broker/protocols/amqp/wire.h"

enum section {
	SECTION_HEADER = 0x70,
	SECTION_DELIVERY_ANNOTATIONS,
	SECTION_MESSAGE_ANNOTATIONS,
	SECTION_PROPERTIES,
	SECTION_APPLICATION_PROPERTIES,
	SECTION_DATA,
	SECTION_SEQUENCE,
	SECTION_VALUE,
	SECTION_FOOTER,
};

/* Artemis' names for where a dead or expired message came from. */
#define KEY_ADDRESS "x-opt-ORIG-ADDRESS"
#define KEY_QUEUE "x-opt-ORIG-QUEUE"

/* Keys are compared pair by pair; this bounds the work. */
#define EXTRA_COUNT_MAX 512u

static bool same_text(const struct wire_value *v, const char *text)
{
	size_t len = strlen(text);

	return v->len == len && memcmp(v->data, text, len) == 0;
}

static uint64_t section_code(uint64_t code, const struct wire_value *symbol)
{
	static const char *const names[] = {
		"amqp:header:list",
		"amqp:delivery-annotations:map",
		"amqp:message-annotations:map",
		"amqp:properties:list",
		"amqp:application-properties:map",
		"amqp:data:binary",
		"amqp:amqp-sequence:list",
		"amqp:amqp-value:*",
		"amqp:footer:map",
	};

	if (symbol->kind == WIRE_ULONG)
		return code;
	for (size_t i = 0; i < ARRAY_COUNT(names); i++)
		if (same_text(symbol, names[i]))
			return SECTION_HEADER + i;
	return 0;
}

static int scan_header(struct wire *w, struct sections *s)
{
	struct wire_value v;
	struct wire in;
	uint32_t count;

	if (wire_read_list(w, &in, &count))
		return -E_CORRUPT;
	for (uint32_t i = 0; i < count; i++) {
		/* Most have this field alone. */
		if (i == 0 && wire_left(&in) && *in.p == WIRE_CODE_TRUE) {
			s->durable = true;
			in.p++;
			continue;
		}
		if (wire_read(&in, &v))
			return -E_CORRUPT;
		if (v.kind == WIRE_NULL)
			continue;
		switch (i) {
		case 0:
			if (v.kind != WIRE_BOOL)
				return -E_CORRUPT;
			s->durable = v.u;
			break;
		case 1:
			if (v.kind != WIRE_UBYTE)
				return -E_CORRUPT;
			s->has_priority = true;
			s->priority = (uint8_t)v.u;
			break;
		case 2:
			if (v.kind != WIRE_UINT)
				return -E_CORRUPT;
			s->has_ttl = true;
			s->ttl_ms = (uint32_t)v.u;
			break;
		default:
			break;
		}
	}
	return 0;
}

static int scan_properties(struct wire *w, struct sections *s)
{
	struct wire_value v;
	struct wire in;
	uint32_t count;

	if (wire_read_list(w, &in, &count))
		return -E_CORRUPT;
	for (uint32_t i = 0; i < count && i <= 8; i++) {
		if (wire_read(&in, &v))
			return -E_CORRUPT;
		if (v.kind == WIRE_DESCRIBED)
			return -E_CORRUPT;
		if (i == 2 && v.kind != WIRE_NULL) {
			/* An address is "*": text is what we can route. */
			if (v.kind != WIRE_STRING && v.kind != WIRE_SYMBOL)
				continue;
			s->to = (const char *)v.data;
			s->to_len = v.len;
		} else if (i == 8 && v.kind != WIRE_NULL) {
			if (v.kind != WIRE_TIMESTAMP)
				return -E_CORRUPT;
			s->absolute_expiry_ms = v.u;
		}
	}
	return 0;
}

static int scan_section(uint64_t code, struct wire *w, struct sections *s)
{
	struct wire_value v;
	struct wire inside;
	uint32_t count;

	switch (code) {
	case SECTION_HEADER:
		return scan_header(w, s);
	case SECTION_PROPERTIES:
		return scan_properties(w, s);
	case SECTION_MESSAGE_ANNOTATIONS:
		if (wire_read(w, &v) || v.kind != WIRE_MAP || v.count % 2)
			return -E_CORRUPT;
		s->map = v.data;
		s->map_len = v.len;
		s->map_count = v.count;
		return 0;
	case SECTION_DELIVERY_ANNOTATIONS:
	case SECTION_APPLICATION_PROPERTIES:
	case SECTION_FOOTER:
		return wire_read(w, &v) || v.kind != WIRE_MAP || v.count % 2
			       ? -E_CORRUPT
			       : 0;
	case SECTION_DATA:
		return wire_read_binary(w, &inside);
	case SECTION_SEQUENCE:
		return wire_read_list(w, &inside, &count);
	case SECTION_VALUE:
		return wire_skip(w);
	default:
		return -E_CORRUPT;
	}
}

/* Sections come in the order of their codes; only data and sequence sections
 * repeat, and the three kinds of body do not mix. */
static bool may_follow(uint64_t last, uint64_t code)
{
	bool body = code >= SECTION_DATA && code <= SECTION_VALUE;
	bool after_body = last >= SECTION_DATA && last <= SECTION_VALUE;

	if (body && after_body)
		return code == last && code != SECTION_VALUE;
	return code > last;
}

/* The next section's code, 0 where its name is none of ours. */
static inline int next_section(struct wire *w, uint64_t *ret)
{
	struct wire_value symbol;
	int err;

	/* As nearly all write it: by a number of one byte. */
	if (wire_left(w) >= 3 && w->p[0] == WIRE_CODE_DESCRIBED &&
	    w->p[1] == WIRE_CODE_ULONG1) {
		*ret = w->p[2];
		w->p += 3;
		return 0;
	}
	err = wire_descriptor(w, ret, &symbol);
	if (!err)
		*ret = section_code(*ret, &symbol);
	return err;
}

int sections_scan(const void *data, size_t len, bool whole,
		  struct sections *ret)
{
	struct sections s = {0}, before;
	struct wire w = wire_of(data, len);
	uint64_t last = 0;

	if (len > UINT32_MAX)
		return -E_CORRUPT;
	while (w.p < w.end) {
		uint64_t code;
		uint32_t at = (uint32_t)(w.p - (const uint8_t *)data), end;

		if (!whole)
			before = s;
		if (next_section(&w, &code))
			goto broken;
		if (code < SECTION_HEADER || code > SECTION_FOOTER ||
		    !may_follow(last, code))
			return -E_CORRUPT;
		if (!whole && code > SECTION_PROPERTIES)
			break;
		if (scan_section(code, &w, &s))
			goto broken;
		last = code;
		end = (uint32_t)(w.p - (const uint8_t *)data);
		if (code == SECTION_HEADER) {
			s.header_end = end;
		} else if (code == SECTION_MESSAGE_ANNOTATIONS) {
			s.annotations_at = at;
		}
		if (code <= SECTION_MESSAGE_ANNOTATIONS)
			s.annotations_end = end;
		continue;
	broken:
		/* The beginning of a long message may stop anywhere. */
		if (whole)
			return -E_CORRUPT;
		s = before;
		break;
	}
	/* A message without any section has no body and is not a message. */
	if (whole && last == 0)
		return -E_CORRUPT;
	if (!s.map)
		s.annotations_at = s.annotations_end;
	*ret = s;
	return 0;
}

void sections_props(const struct sections *s, uint64_t now_ms,
		    struct record_props *ret)
{
	ret->priority = s->has_priority ? (uint8_t)base_min(s->priority, 9) : 4;
	ret->durable = s->durable;
	ret->format = 0;
	ret->expiry_ms = 0;
	if (s->absolute_expiry_ms)
		ret->expiry_ms = s->absolute_expiry_ms;
	else if (s->has_ttl && s->ttl_ms)
		ret->expiry_ms = now_ms + s->ttl_ms;
}

/* ---- writing ---- */

struct writer {
	uint8_t *p, *end;
	bool failed;
};

static void put(struct writer *w, const void *data, size_t len)
{
	if (w->failed || (size_t)(w->end - w->p) < len) {
		w->failed = true;
		return;
	}
	if (len)
		memcpy(w->p, data, len);
	w->p += len;
}

static void put_byte(struct writer *w, uint8_t v)
{
	put(w, &v, 1);
}

static void put_be32(struct writer *w, uint32_t v)
{
	uint8_t b[4];

	wire_put32(b, v);
	put(w, b, sizeof(b));
}

static void put_header(struct writer *w, const struct sections *s,
		       uint32_t delivery_count)
{
	uint8_t *size;

	put(w, "\x00\x53\x70\xc0\x00\x05", 6);
	if (w->failed)
		return;
	size = w->p - 2;
	put_byte(w, s->durable ? 0x41 : 0x42);
	if (s->has_priority) {
		put_byte(w, 0x50);
		put_byte(w, s->priority);
	} else {
		put_byte(w, 0x40);
	}
	if (s->has_ttl) {
		put_byte(w, 0x70);
		put_be32(w, s->ttl_ms);
	} else {
		put_byte(w, 0x40);
	}
	put_byte(w, 0x42); /* first-acquirer */
	put_byte(w, 0x70);
	put_be32(w, delivery_count);
	if (!w->failed)
		*size = (uint8_t)(w->p - size - 1);
}

struct pair {
	struct wire_value key;
	const uint8_t *at;
	size_t len; /* key and value, encoded */
};

static int next_pair(struct wire *w, struct pair *ret)
{
	ret->at = w->p;
	if (wire_read(w, &ret->key) || ret->key.kind == WIRE_DESCRIBED ||
	    wire_skip(w))
		return -E_CORRUPT;
	ret->len = (size_t)(w->p - ret->at);
	return 0;
}

static bool same_key(const struct wire_value *a, const struct wire_value *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == WIRE_SYMBOL || a->kind == WIRE_STRING)
		return a->len == b->len &&
		       memcmp(a->data, b->data, a->len) == 0;
	return a->u == b->u;
}

static int map_of(const void *data, size_t len, struct wire *ret_in,
		  uint32_t *ret_count)
{
	struct wire w = wire_of(data, len);
	struct wire_value v;

	*ret_in = (struct wire){0};
	*ret_count = 0;
	if (!len)
		return 0;
	if (wire_read(&w, &v) || v.kind != WIRE_MAP || v.count % 2 ||
	    w.p != w.end)
		return -E_CORRUPT;
	*ret_in = wire_inside(&v);
	*ret_count = v.count;
	return 0;
}

/* 1: key is among the pairs; 0: it is not. */
static int has_key(struct wire in, uint32_t count, const struct wire_value *key)
{
	struct pair p;

	for (uint32_t i = 0; i < count; i += 2) {
		if (next_pair(&in, &p))
			return -E_CORRUPT;
		if (same_key(&p.key, key))
			return 1;
	}
	return 0;
}

/* Copies the pairs whose keys are neither in `over` nor, with an origin, one
 * of its two names. */
static int put_pairs(struct writer *w, struct wire in, uint32_t count,
		     struct wire over, uint32_t over_count, bool origin,
		     uint32_t *put_count)
{
	struct pair p;

	for (uint32_t i = 0; i < count; i += 2) {
		int found;

		if (next_pair(&in, &p))
			return -E_CORRUPT;
		found = has_key(over, over_count, &p.key);
		if (found < 0)
			return found;
		if (found || (origin && p.key.kind == WIRE_SYMBOL &&
			      (same_text(&p.key, KEY_ADDRESS) ||
			       same_text(&p.key, KEY_QUEUE))))
			continue;
		put(w, p.at, p.len);
		*put_count += 2;
	}
	return 0;
}

static void put_text_pair(struct writer *w, const char *key, const char *text,
			  uint16_t len)
{
	put_byte(w, 0xa3);
	put_byte(w, (uint8_t)strlen(key));
	put(w, key, strlen(key));
	put_byte(w, 0xb1);
	put_be32(w, len);
	put(w, text, len);
}

static uint8_t *open_map(struct writer *w)
{
	put_byte(w, 0xd1);
	put(w, "\0\0\0\0\0\0\0\0", 8);
	return w->failed ? NULL : w->p - 8;
}

static void close_map(struct writer *w, uint8_t *size, uint32_t count)
{
	if (w->failed)
		return;
	wire_put32(size, (uint32_t)(w->p - size - 4));
	wire_put32(size + 4, count);
}

static int put_annotations(struct writer *w, const struct sections *s,
			   const struct sections_changes *c)
{
	struct wire in = {s->map, s->map ? s->map + s->map_len : NULL};
	struct wire over, none = {0};
	uint32_t over_count, count = 0;
	uint8_t *size;
	int err = map_of(c->extra, c->extra_len, &over, &over_count);

	if (err)
		return err;
	put(w, "\x00\x53\x72", 3);
	size = open_map(w);
	err = put_pairs(w, in, s->map_count, over, over_count, c->origin,
			&count);
	if (!err)
		err = put_pairs(w, over, over_count, none, 0, c->origin,
				&count);
	if (err)
		return err;
	if (c->origin) {
		put_text_pair(w, KEY_ADDRESS, c->origin->address,
			      c->origin->address_len);
		put_text_pair(w, KEY_QUEUE, c->origin->queue,
			      c->origin->queue_len);
		count += 4;
	}
	close_map(w, size, count);
	return 0;
}

size_t sections_prefix_room(const struct sections *s,
			    const struct sections_changes *c)
{
	size_t room = 128 + s->annotations_end + c->extra_len;

	if (c->origin)
		room += c->origin->address_len + c->origin->queue_len;
	return room;
}

int sections_prefix(const void *data, const struct sections *s,
		    const struct sections_changes *c, void *buf, size_t room,
		    size_t *ret_len)
{
	struct writer w = {buf, (uint8_t *)buf + room, false};
	int err = 0;

	put_header(&w, s, c->delivery_count);
	put(&w, (const uint8_t *)data + s->header_end,
	    s->annotations_at - s->header_end);
	if (s->map || c->extra_len || c->origin)
		err = put_annotations(&w, s, c);
	if (err)
		return err;
	if (w.failed)
		return -ENOSPC;
	*ret_len = (size_t)(w.p - (uint8_t *)buf);
	return 0;
}

int sections_merge(const void *earlier, uint32_t earlier_len, const void *map,
		   size_t map_len, void *buf, size_t room, uint32_t *ret_len)
{
	struct writer w = {buf, (uint8_t *)buf + room, false};
	struct wire old, new, none = {0};
	uint32_t old_count, new_count, count = 0;
	uint8_t *size;
	int err = map_of(earlier, earlier_len, &old, &old_count);

	if (!err)
		err = map_of(map, map_len, &new, &new_count);
	if (err)
		return err;
	if (old_count + (uint64_t)new_count > EXTRA_COUNT_MAX)
		return -E_LIMIT;
	size = open_map(&w);
	err = put_pairs(&w, old, old_count, new, new_count, false, &count);
	if (!err)
		err = put_pairs(&w, new, new_count, none, 0, false, &count);
	if (err)
		return err;
	close_map(&w, size, count);
	if (w.failed)
		return -E_LIMIT;
	*ret_len = (uint32_t)(w.p - (uint8_t *)buf);
	return 0;
}
