/* tests/fuzz/fuzz_sections.c: any bytes as an encoded AMQP message.
 *
 * What is accepted is rewritten, as for a redelivery, and must still be the
 * same message to a second look.  The part behind the first 0xff 0xfe, if any,
 * is used as annotations that a receiver has sent. */
#include <string.h>

#include "broker/protocols/amqp/sections.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_order(const struct sections *s, size_t len,
			const uint8_t *data)
{
	ASSERT(s->header_end <= s->annotations_at);
	ASSERT(s->annotations_at <= s->annotations_end);
	ASSERT(s->annotations_end <= len);
	if (s->map)
		ASSERT(s->map >= data && s->map + s->map_len <= data + len);
	if (s->to)
		ASSERT((const uint8_t *)s->to >= data &&
		       (const uint8_t *)s->to + s->to_len <= data + len);
}

static void check_same(const struct sections *was, const struct sections *is,
		       uint32_t delivery_count)
{
	struct record_props a, b;

	sections_props(was, 1000, &a);
	sections_props(is, 1000, &b);
	ASSERT(a.priority == b.priority && a.durable == b.durable);
	ASSERT(a.expiry_ms == b.expiry_ms && a.format == b.format);
	ASSERT(was->to_len == is->to_len);
	ASSERT(!was->to == !is->to);
	if (was->to)
		ASSERT(!memcmp(was->to, is->to, was->to_len));
}

/* The message as a consumer would get it. */
static void rewrite(const uint8_t *data, size_t len, const struct sections *s,
		    const struct sections_changes *changes)
{
	size_t room = sections_prefix_room(s, changes);
	size_t rest = len - s->annotations_end, prefix = 0;
	uint8_t *out = malloc(room + rest + 1);
	struct sections again;
	int err;

	if (!out)
		abort();
	err = sections_prefix(data, s, changes, out, room, &prefix);
	ASSERT(!err || err == -E_CORRUPT);
	if (!err) {
		ASSERT(prefix <= room);
		memcpy(out + prefix, data + s->annotations_end, rest);
		ASSERT(!sections_scan(out, prefix + rest, true, &again));
		check_same(s, &again, changes->delivery_count);
		ASSERT(again.annotations_end == prefix);
		/* With no room for the last byte it must say so. */
		if (prefix)
			ASSERT(sections_prefix(data, s, changes, out,
					       prefix - 1, &prefix) == -ENOSPC);
	}
	free(out);
}

static void run_message(const uint8_t *data, size_t len, const void *extra,
			uint32_t extra_len)
{
	struct record_origin origin = {.address = "a.b",
				       .queue = "a.b.c",
				       .address_len = 3,
				       .queue_len = 5,
				       .reason = RECORD_REASON_EXPIRED};
	struct sections_changes changes = {.delivery_count = len & 1};
	struct sections s, part;

	if (!sections_scan(data, len, false, &part))
		check_order(&part, len, data);
	if (sections_scan(data, len, true, &s))
		return;
	check_order(&s, len, data);
	ASSERT(!sections_scan(data, len, false, &part));
	ASSERT(part.annotations_end == s.annotations_end);
	rewrite(data, len, &s, &changes);
	changes.origin = &origin;
	rewrite(data, len, &s, &changes);
	changes.extra = extra;
	changes.extra_len = extra_len;
	rewrite(data, len, &s, &changes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t first[4096], second[4096];
	uint32_t first_len = 0, second_len = 0;
	const uint8_t *split = size ? memmem(data, size, "\xff\xfe", 2) : NULL;
	size_t len = split ? (size_t)(split - data) : size;
	const uint8_t *map = split ? split + 2 : NULL;
	size_t map_len = split ? size - len - 2 : 0;
	int err;

	if (map && !sections_merge(NULL, 0, map, map_len, first, sizeof(first),
				   &first_len)) {
		ASSERT(first_len && first_len <= sizeof(first));
		/* The same annotations again change nothing more. */
		err = sections_merge(first, first_len, map, map_len, second,
				     sizeof(second), &second_len);
		ASSERT(!err && second_len <= first_len);
	}
	run_message(data, len, first_len ? first : NULL, first_len);
	return 0;
}
