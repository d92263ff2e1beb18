/* Reading and rewriting encoded messages, and the values they consist of. */
#include "tests/unit/test.h"

#include "broker/protocols/amqp/sections.h"
#include "broker/protocols/amqp/wire.h"

#define HEADER "\x00\x53\x70\xc0\x07\x04\x41\x50\x07\x52\x64\x42"
#define DELIVERY_ANNOTATIONS                                                   \
	"\x00\x53\x71\xc1\x07\x02\xa3\x01"                                     \
	"d"                                                                    \
	"\xa1\x01"                                                             \
	"v"
#define ANNOTATIONS                                                            \
	"\x00\x53\x72\xc1\x0d\x04\xa3\x01"                                     \
	"a"                                                                    \
	"\xa1\x01"                                                             \
	"1"                                                                    \
	"\xa3\x01"                                                             \
	"b"                                                                    \
	"\xa1\x01"                                                             \
	"2"
#define PROPERTIES                                                             \
	"\x00\x53\x73\xc0\x16\x09\x40\x40\xa1\x03"                             \
	"abc"                                                                  \
	"\x40\x40\x40\x40\x40\x83\x00\x00\x00\x00\x00\x00\x30\x39"
#define BODY "\x00\x53\x75\xa0\x03xyz"
#define MESSAGE HEADER DELIVERY_ANNOTATIONS ANNOTATIONS PROPERTIES BODY

/* Long enough for every test; what follows a string literal's end is not
 * read because the length is given. */
#define TEXT(t) (t), (sizeof(t) - 1)

TEST("every field that the broker needs is read from a full message")
{
	struct sections s;
	struct record_props props;

	assert_int_equal(sections_scan(TEXT(MESSAGE), true, &s), 0);
	assert_true(s.durable);
	assert_true(s.has_priority);
	assert_int_equal(s.priority, 7);
	assert_true(s.has_ttl);
	assert_int_equal(s.ttl_ms, 100);
	assert_int_equal(s.absolute_expiry_ms, 12345);
	assert_int_equal(s.to_len, 3);
	assert_memory_equal(s.to, "abc", 3);
	assert_int_equal(s.header_end, sizeof(HEADER) - 1);
	assert_int_equal(s.annotations_at,
			 sizeof(HEADER DELIVERY_ANNOTATIONS) - 1);
	assert_int_equal(s.annotations_end,
			 sizeof(HEADER DELIVERY_ANNOTATIONS ANNOTATIONS) - 1);
	sections_props(&s, 1000, &props);
	assert_int_equal(props.expiry_ms, 12345);
	assert_int_equal(props.priority, 7);
	assert_int_equal(props.durable, 1);
}

TEST("a time to live counts from now, and the default priority is 4")
{
	struct record_props props;
	struct sections s;

	assert_int_equal(
		sections_scan(TEXT("\x00\x53\x70\xc0\x07\x03\x40\x40\x70"
				   "\x00\x00\x03\xe8" BODY),
			      true, &s),
		-E_CORRUPT);
	assert_int_equal(
		sections_scan(TEXT("\x00\x53\x70\xc0\x08\x03\x40\x40\x70"
				   "\x00\x00\x03\xe8" BODY),
			      true, &s),
		0);
	sections_props(&s, 5, &props);
	assert_int_equal(props.expiry_ms, 1005);
	assert_int_equal(props.priority, 4);
}

TEST("symbolic descriptors name sections as well")
{
	struct sections s;

	assert_int_equal(sections_scan(TEXT("\x00\xa3\x10"
					    "amqp:header:list"
					    "\xc0\x02\x01\x41"
					    "\x00\xa3\x10"
					    "amqp:data:binary"
					    "\xa0\x00"),
				       true, &s),
			 0);
	assert_true(s.durable);
}

TEST("a message cut at any byte is malformed unless it ends with a section")
{
	static const char whole[] = MESSAGE;
	struct sections s;
	size_t good = 0;

	for (size_t len = 0; len < sizeof(whole); len++) {
		/* A copy of its own, so that a sanitizer sees an overrun. */
		char *copy = malloc(len ? len : 1);

		memcpy(copy, whole, len);
		good += sections_scan(copy, len, true, &s) == 0;
		assert_int_equal(sections_scan(copy, len, false, &s), 0);
		assert_true(s.annotations_end <= len);
		free(copy);
	}
	assert_int_equal(good, 5);
}

TEST("any byte changed never reads outside the message")
{
	static const char whole[] = MESSAGE;
	size_t len = sizeof(whole) - 1;
	struct sections s;

	for (size_t at = 0; at < len; at++) {
		for (int value = 0; value < 256; value++) {
			char *copy = malloc(len);

			memcpy(copy, whole, len);
			copy[at] = (char)value;
			if (sections_scan(copy, len, true, &s) == 0)
				assert_true(s.annotations_end <= len);
			free(copy);
		}
	}
}

TEST("sections out of order, twice or of mixed bodies are malformed")
{
	struct sections s;

	assert_int_equal(sections_scan(TEXT(BODY HEADER), true, &s),
			 -E_CORRUPT);
	assert_int_equal(sections_scan(TEXT(HEADER HEADER BODY), true, &s),
			 -E_CORRUPT);
	assert_int_equal(sections_scan(TEXT(BODY "\x00\x53\x77\x41"), true, &s),
			 -E_CORRUPT);
	assert_int_equal(sections_scan(TEXT(BODY BODY), true, &s), 0);
	assert_int_equal(sections_scan(TEXT("\x00\x53\x77\x41\x00\x53\x77\x41"),
				       true, &s),
			 -E_CORRUPT);
}

static size_t prefix(const char *message, size_t len,
		     const struct sections_changes *c, uint8_t *buf,
		     struct sections *s)
{
	size_t room, ret;

	assert_int_equal(sections_scan(message, len, true, s), 0);
	room = sections_prefix_room(s, c);
	assert_int_equal(sections_prefix(message, s, c, buf, room, &ret), 0);
	return ret;
}

TEST("a rewritten header counts deliveries and keeps the rest")
{
	struct sections_changes c = {.delivery_count = 3};
	uint8_t buf[4096];
	struct sections s, again;
	struct wire w;
	struct wire_value v;
	uint64_t code;
	size_t n = prefix(TEXT(MESSAGE), &c, buf, &s);

	memcpy(buf + n, &MESSAGE[s.annotations_end],
	       sizeof(MESSAGE) - 1 - s.annotations_end);
	n += sizeof(MESSAGE) - 1 - s.annotations_end;
	assert_int_equal(sections_scan(buf, n, true, &again), 0);
	assert_true(again.durable);
	assert_int_equal(again.priority, 7);
	assert_int_equal(again.ttl_ms, 100);
	assert_int_equal(again.map_count, 4);
	assert_int_equal(again.absolute_expiry_ms, 12345);
	w = wire_of(buf, n);
	assert_int_equal(wire_descriptor(&w, &code, &v), 0);
	assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(v.count, 5);
	w = wire_inside(&v);
	for (int i = 0; i < 3; i++)
		assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(v.kind, WIRE_BOOL);
	assert_int_equal(v.u, 0);
	assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(v.u, 3);
}

static bool map_has(struct wire in, uint32_t count, const char *key,
		    const char *text)
{
	struct wire_value k, v;
	int found = 0;

	for (uint32_t i = 0; i < count; i += 2) {
		assert_int_equal(wire_read(&in, &k), 0);
		assert_int_equal(wire_read(&in, &v), 0);
		if (k.len == strlen(key) && !memcmp(k.data, key, k.len)) {
			found++;
			assert_int_equal(v.len, strlen(text));
			assert_memory_equal(v.data, text, v.len);
		}
	}
	assert_true(found <= 1);
	return found == 1;
}

TEST("extra annotations replace those of the same name, and the origin is "
     "added")
{
	static const char extra[] = "\xc1\x0d\x04\xa3\x01"
				    "b"
				    "\xa1\x01"
				    "9"
				    "\xa3\x01"
				    "c"
				    "\xa1\x01"
				    "3";
	struct record_origin origin = {.address = "addr",
				       .address_len = 4,
				       .queue = "que",
				       .queue_len = 3,
				       .reason = RECORD_REASON_EXPIRED};
	struct sections_changes c = {.extra = extra,
				     .extra_len = sizeof(extra) - 1,
				     .origin = &origin};
	uint8_t buf[4096];
	struct sections s, again;
	struct wire in;
	size_t n = prefix(TEXT(MESSAGE), &c, buf, &s);

	memcpy(buf + n, BODY, sizeof(BODY) - 1);
	assert_int_equal(sections_scan(buf, n + sizeof(BODY) - 1, true, &again),
			 0);
	assert_int_equal(again.map_count, 10);
	in = wire_of(again.map, again.map_len);
	assert_true(map_has(in, again.map_count, "a", "1"));
	assert_true(map_has(in, again.map_count, "b", "9"));
	assert_true(map_has(in, again.map_count, "c", "3"));
	assert_true(map_has(in, again.map_count, "x-opt-ORIG-ADDRESS", "addr"));
	assert_true(map_has(in, again.map_count, "x-opt-ORIG-QUEUE", "que"));
}

TEST("a message without header or annotations gets those that it needs")
{
	struct record_origin origin = {
		.address = "a", .address_len = 1, .queue = "q", .queue_len = 1};
	struct sections_changes c = {.delivery_count = 1, .origin = &origin};
	uint8_t buf[4096];
	struct sections s, again;
	size_t n = prefix(TEXT(BODY), &c, buf, &s);

	assert_int_equal(s.annotations_end, 0);
	memcpy(buf + n, BODY, sizeof(BODY) - 1);
	assert_int_equal(sections_scan(buf, n + sizeof(BODY) - 1, true, &again),
			 0);
	assert_int_equal(again.map_count, 4);
}

TEST("annotations of several failures are laid over each other")
{
	static const char first[] = "\xc1\x0d\x04\xa3\x01"
				    "a"
				    "\xa1\x01"
				    "1"
				    "\xa3\x01"
				    "b"
				    "\xa1\x01"
				    "2";
	static const char second[] = "\xc1\x07\x02\xa3\x01"
				     "a"
				     "\xa1\x01"
				     "5";
	uint8_t one[256], two[256];
	uint32_t one_len, two_len;
	struct wire_value v;
	struct wire w;

	assert_int_equal(sections_merge(NULL, 0, TEXT(first), one, sizeof(one),
					&one_len),
			 0);
	assert_int_equal(sections_merge(one, one_len, TEXT(second), two,
					sizeof(two), &two_len),
			 0);
	w = wire_of(two, two_len);
	assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(v.count, 4);
	assert_true(map_has(wire_inside(&v), 4, "a", "5"));
	assert_true(map_has(wire_inside(&v), 4, "b", "2"));
	assert_int_equal(
		sections_merge(one, one_len, TEXT(second), two, 10, &two_len),
		-E_LIMIT);
	assert_int_equal(sections_merge(NULL, 0, TEXT("\xa1\x01x"), two,
					sizeof(two), &two_len),
			 -E_CORRUPT);
}

TEST("values nested deeper than the limit are refused, not followed")
{
	uint8_t deep[10 * (WIRE_DEPTH_MAX + 8)];
	size_t levels = WIRE_DEPTH_MAX + 8;
	struct wire w;

	/* Each level: list32, its size, count 1. */
	for (size_t i = 0; i < levels; i++) {
		uint8_t *p = deep + 9 * i;

		p[0] = 0xd0;
		wire_put32(p + 1, (uint32_t)(4 + 9 * (levels - i - 1) + 1));
		wire_put32(p + 5, 1);
	}
	deep[9 * levels] = 0x40;
	w = wire_of(deep, 9 * levels + 1);
	assert_int_equal(wire_check(&w), -E_CORRUPT);
	w = wire_of(deep + 9 * 8, 9 * (levels - 8) + 1);
	assert_int_equal(wire_check(&w), 0);
	memset(deep, 0, sizeof(deep));
	w = wire_of(deep, sizeof(deep));
	assert_int_equal(wire_check(&w), -E_CORRUPT);
}

TEST("an array that claims more elements than it has bytes is refused")
{
	struct wire w =
		wire_of(TEXT("\xf0\x00\x00\x00\x06\x7f\xff\xff\xff\x50\x01"));

	assert_int_equal(wire_check(&w), -E_CORRUPT);
	w = wire_of(TEXT("\xf0\x00\x00\x00\x05\x7f\xff\xff\xff\x41"));
	assert_int_equal(wire_check(&w), -E_CORRUPT);
	w = wire_of(TEXT("\xe0\x05\x02\xa3\x01"
			 "a"
			 "\x00"));
	assert_int_equal(wire_check(&w), 0);
}

TEST_MAIN()
