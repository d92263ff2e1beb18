/* tests/unit/test_load_amqp.c: the load generator's AMQP 1.0 and 0.9.1,
 * against scripted peers. */
#include "bench/load/amqp_frames.h"
#include "tests/unit/load_rig.h"

/* A peer's bytes, put together value by value. */
struct script {
	uint8_t bytes[4096];
	size_t len;
};

static void add(struct script *s, const void *data, size_t len)
{
	assert_true(s->len + len <= sizeof(s->bytes));
	if (len)
		memcpy(s->bytes + s->len, data, len);
	s->len += len;
}

/* Big-endian. */
static void add_number(struct script *s, uint64_t n, unsigned bytes)
{
	while (bytes--) {
		uint8_t byte = (uint8_t)(n >> 8 * bytes);

		add(s, &byte, 1);
	}
}

static void hear(struct rig *r, struct script *s)
{
	rig_hear(r, s->bytes, s->len);
	s->len = 0;
}

/* ---- AMQP 1.0 ---- */

/* A frame of one performative; fields as encoded bytes. */
static void add_frame(struct script *s, unsigned type, unsigned code,
		      unsigned count, const void *fields, size_t len,
		      const void *payload, size_t payload_len)
{
	add_number(s, 8 + 3 + 9 + len + payload_len, 4);
	add_number(s, 2u << 24 | type << 16, 4);
	add_number(s, 0x005300u | code, 3);
	add_number(s, 0xd0, 1);
	add_number(s, len + 4, 4);
	add_number(s, count, 4);
	add(s, fields, len);
	add(s, payload, payload_len);
}

#define FIELDS(...)                                                            \
	(const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static void greet(struct rig *r, enum wire_role role, uint32_t lanes,
		  uint8_t window)
{
	struct script s = {.len = 0};

	rig_open(r, &protocol_amqp, role, lanes);
	assert_true(rig_said(r, "AMQP\3\1\0\0", 8));
	add(&s, "AMQP\3\1\0\0", 8);
	add_frame(&s, 1, SASL_MECHANISMS, 1, FIELDS(0xa3, 3, 'A', 'N', 'Y'),
		  NULL, 0);
	hear(r, &s);
	assert_true(rig_said_text(r, "ANONYMOUS"));
	add_frame(&s, 1, SASL_OUTCOME, 1, FIELDS(0x50, 0), NULL, 0);
	hear(r, &s);
	assert_true(rig_said(r, "AMQP\0\1\0\0", 8));
	add(&s, "AMQP\0\1\0\0", 8);
	/* container id, hostname, max-frame-size 512 */
	add_frame(&s, 0, OPEN, 3, FIELDS(0xa1, 1, 'p', 0x40, 0x70, 0, 0, 2, 0),
		  NULL, 0);
	/* remote channel, next-outgoing-id, incoming window */
	add_frame(&s, 0, BEGIN, 4,
		  FIELDS(0x60, 0, 0, 0x43, 0x52, window, 0x52, 100), NULL, 0);
	hear(r, &s);
	assert_true(rig_said_text(r, "q.0"));
}

/* The answer to our attach of a lane; our name for it is in the role's. */
static void attach(struct rig *r, uint8_t role, uint8_t lane, uint8_t handle)
{
	struct script s = {.len = 0};
	const uint8_t fields[] = {0xa1,
				  3,
				  'x',
				  '.',
				  (uint8_t)('0' + lane),
				  0x52,
				  handle,
				  role ? 0x41 : 0x42,
				  0x40,
				  0x40,
				  0x00,
				  0x53,
				  0x28,
				  0x45,
				  0x00,
				  0x53,
				  0x29,
				  0x45,
				  0x40,
				  0x40,
				  0x43};

	add_frame(&s, 0, ATTACH, 10, fields, sizeof(fields), NULL, 0);
	hear(r, &s);
}

/* The peer's window from `next` on, and credit of a handle from `count` on. */
static void flow(struct rig *r, uint8_t next, uint8_t window, uint8_t handle,
		 uint8_t count, uint8_t credit)
{
	struct script s = {.len = 0};

	add_frame(&s, 0, FLOW, 7,
		  FIELDS(0x52, next, 0x52, window, 0x43, 0x52, 100, 0x52,
			 handle, 0x52, count, 0x52, credit),
		  NULL, 0);
	hear(r, &s);
}

TEST("amqp: one disposition settles a range, on whichever link it was")
{
	struct script s = {.len = 0};
	struct rig r;

	greet(&r, WIRE_SENDER, 2, 50);
	attach(&r, 1, 1, 0);
	assert_int_equal(r.ready, 0);
	attach(&r, 1, 0, 1); /* handles the other way round */
	assert_int_equal(r.ready, 1);
	assert_false(wire_can_send(&r.wire, 0));
	flow(&r, 0, 50, 1, 0, 2);
	assert_true(wire_can_send(&r.wire, 0));
	assert_false(wire_can_send(&r.wire, 1));
	flow(&r, 0, 50, 0, 0, 5);
	rig_send(&r, 0);
	rig_send(&r, 1);
	rig_send(&r, 0);
	assert_false(wire_can_send(&r.wire, 0)); /* its credit is used up */
	assert_true(wire_can_send(&r.wire, 1));
	add_frame(&s, 0, DISPOSITION, 5,
		  FIELDS(0x41, 0x43, 0x52, 1, 0x41, 0x00, 0x53, 0x24, 0x45),
		  NULL, 0);
	hear(&r, &s);
	assert_true(rig_confirmed_is(&r, 0, 0, 1, WIRE_ACCEPTED));
	/* rejected, with an error: a described list of symbol and string */
	add_frame(&s, 0, DISPOSITION, 5,
		  FIELDS(0x41, 0x52, 2, 0x40, 0x41, 0x00, 0x53, 0x25, 0xc0, 14,
			 1, 0x00, 0x53, 0x1d, 0xc0, 8, 2, 0xa3, 1, 'c', 0xa1, 2,
			 'n', 'o'),
		  NULL, 0);
	hear(&r, &s);
	assert_true(rig_confirmed_is(&r, 1, 2, 2, WIRE_REJECTED));
	assert_string_equal(r.wire.remark, "no (c)");
	add_frame(&s, 0, DISPOSITION, 5,
		  FIELDS(0x41, 0x52, 3, 0x40, 0x41, 0x00, 0x53, 0x24, 0x45),
		  NULL, 0);
	hear(&r, &s);
	assert_non_null(strstr(r.wire.why, "never sent"));
	rig_close(&r);
}

TEST("amqp: a message larger than frame and window waits for the window")
{
	struct payload_fields f = {.run = 1};
	struct payload_pool *pool;
	struct rig r;

	greet(&r, WIRE_SENDER, 1, 1);
	attach(&r, 1, 0, 0);
	flow(&r, 0, 1, 0, 0, 9);
	assert_int_equal(payload_pool_create(1200, &pool), 0);
	rig_forget(&r);
	payload_make(pool, &f, false, &r.wire.payload);
	wire_send(&r.wire, 0);
	r.wire.sent++;
	/* One frame of 512 was allowed; three are needed. */
	assert_true(r.wire.out.len <= 512);
	assert_false(wire_can_send(&r.wire, 0));
	flow(&r, 1, 1, 0, 0, 9);
	assert_true(r.wire.out.len > 400 && r.wire.out.len <= 512);
	assert_false(wire_can_send(&r.wire, 0));
	flow(&r, 2, 5, 0, 0, 9);
	assert_true(wire_can_send(&r.wire, 0));
	payload_pool_free(pool);
	rig_close(&r);
}

/* A header with delivery-count 0, and "abc" as data. */
static const uint8_t message[] = {0x00, 0x53, 0x70, 0xc0, 6,	0x05, 0x41,
				  0x40, 0x40, 0x40, 0x43, 0x00, 0x53, 0x75,
				  0xa0, 3,    'a',  'b',  'c'};

static void transfer(struct script *s, uint8_t handle, uint8_t id, bool more,
		     const uint8_t *data, size_t len)
{
	const uint8_t fields[] = {0x52, handle, 0x52, id,   0xa0,
				  1,	id,	0x43, 0x42, more ? 0x41 : 0x42};

	add_frame(s, 0, TRANSFER, 6, fields, sizeof(fields), data, len);
}

TEST("amqp: deliveries of several links and frames arrive whole, once")
{
	struct script s = {.len = 0};
	struct rig r;
	static const uint8_t accept[] = {0x41, 0x70, 0, 0, 0, 7,
					 0x70, 0,    0, 0, 8};

	greet(&r, WIRE_RECEIVER, 2, 50);
	attach(&r, 0, 0, 0);
	attach(&r, 0, 1, 1);
	assert_int_equal(r.ready, 1);
	/* Two that interleave. */
	transfer(&s, 0, 7, true, message, 5);
	transfer(&s, 1, 8, true, message, 17);
	transfer(&s, 0, 7, false, message + 5, sizeof(message) - 5);
	transfer(&s, 1, 8, false, message + 17, sizeof(message) - 17);
	/* All at once, so that one flush sees both. */
	rig_forget(&r);
	wire_feed(&r.wire, s.bytes, s.len);
	wire_flush(&r.wire, 1);
	assert_int_equal(r.arrived_count, 2);
	assert_true(rig_arrived_is(&r, 0, 0, "abc", false));
	assert_true(rig_arrived_is(&r, 1, 1, "abc", false));
	assert_true(rig_said(&r, accept, sizeof(accept)));
	rig_close(&r);
}

TEST("amqp: a delivery-count above 0 is a redelivery")
{
	struct script s = {.len = 0};
	struct rig r;

	greet(&r, WIRE_RECEIVER, 1, 50);
	attach(&r, 0, 0, 0);
	transfer(&s, 0, 1, false, message, sizeof(message));
	hear(&r, &s);
	assert_false(r.arrived[0].redelivered);
	transfer(&s, 0, 2, false,
		 FIELDS(0, 0x53, 0x70, 0xc0, 7, 5, 0x41, 0x40, 0x40, 0x40, 0x52,
			2, 0, 0x53, 0x75, 0xa0, 1, 'z'));
	hear(&r, &s);
	assert_true(rig_arrived_is(&r, 1, 0, "z", true));
	rig_close(&r);
}

TEST("amqp: what the peer says when it refuses is what we say")
{
	struct script s = {.len = 0};
	struct rig r;

	greet(&r, WIRE_SENDER, 1, 50);
	/* detach: handle, closed, error */
	add_frame(&s, 0, DETACH, 3,
		  FIELDS(0x43, 0x41, 0x00, 0x53, 0x1d, 0xc0, 10, 2, 0xa3, 2,
			 'n', 'f', 0xa1, 3, 'w', 'h', 'y'),
		  NULL, 0);
	hear(&r, &s);
	assert_non_null(strstr(r.wire.why, "why (nf)"));
	rig_close(&r);
	rig_open(&r, &protocol_amqp, WIRE_SENDER, 1);
	rig_hear(&r, "HTTP/1.1", 8);
	assert_non_null(strstr(r.wire.why, "does not speak AMQP 1.0"));
	rig_close(&r);
}

TEST("amqp: a frame cut or damaged anywhere is refused, never overread")
{
	struct script s = {.len = 0};

	for (size_t at = 4; at < 40; at++) {
		struct rig r;

		greet(&r, WIRE_RECEIVER, 1, 50);
		attach(&r, 0, 0, 0);
		transfer(&s, 0, 1, false, message, sizeof(message));
		s.bytes[at] ^= 0xff;
		hear(&r, &s);
		/* It may pass for one without a body; never for a longer one,
		 * and never for two.  Sanitizers watch the reading. */
		assert_true(r.arrived_count <= 1);
		if (r.arrived_count)
			assert_true(r.arrived[0].len <= 3);
		rig_close(&r);
	}
}

/* ---- AMQP 0.9.1 ---- */

static void add_method(struct script *s, unsigned channel, unsigned class,
		       unsigned method, const void *arguments, size_t len)
{
	add_number(s, 1, 1);
	add_number(s, channel, 2);
	add_number(s, 4 + len, 4);
	add_number(s, class, 2);
	add_number(s, method, 2);
	add(s, arguments, len);
	add_number(s, 0xce, 1);
}

static void greet_rabbit(struct rig *r, enum wire_role role, uint32_t lanes)
{
	struct script s = {.len = 0};

	rig_open(r, &protocol_amqp091, role, lanes);
	assert_true(rig_said(r, "AMQP\0\0\11\1", 8));
	add_method(&s, 0, 10, 10, FIELDS(0, 9, 0, 0, 0, 0));
	hear(r, &s);
	assert_true(rig_said_text(r, "PLAIN"));
	/* 2047 channels, frames of 4096, heartbeats of 60 s */
	add_method(&s, 0, 10, 30, FIELDS(7, 0xff, 0, 0, 0x10, 0, 0, 60));
	hear(r, &s);
	add_method(&s, 0, 10, 41, FIELDS(0));
	add_method(&s, 1, 20, 11, FIELDS(0, 0, 0, 0));
	hear(r, &s);
}

TEST("amqp091: an ack with multiple confirms all before it, a nack rejects")
{
	struct script s = {.len = 0};
	struct rig r;

	greet_rabbit(&r, WIRE_SENDER, 1);
	add_method(&s, 1, 85, 11, NULL, 0);
	hear(&r, &s);
	assert_int_equal(r.ready, 1);
	for (unsigned i = 0; i < 4; i++)
		rig_send(&r, 0);
	add_method(&s, 1, 60, 80, FIELDS(0, 0, 0, 0, 0, 0, 0, 3, 1));
	add_method(&s, 1, 60, 120, FIELDS(0, 0, 0, 0, 0, 0, 0, 4, 0));
	hear(&r, &s);
	assert_true(rig_confirmed_is(&r, 0, 0, 2, WIRE_ACCEPTED));
	assert_true(rig_confirmed_is(&r, 1, 3, 3, WIRE_REJECTED));
	add_method(&s, 1, 60, 80, FIELDS(0, 0, 0, 0, 0, 0, 0, 5, 0));
	hear(&r, &s);
	assert_non_null(strstr(r.wire.why, "confirmed message 5 of 4"));
	rig_close(&r);
}

TEST("amqp091: a body is cut to the peer's frames, and put together again")
{
	struct script s = {.len = 0};
	struct payload_fields f = {.run = 1};
	struct payload_pool *pool;
	struct rig r;

	greet_rabbit(&r, WIRE_SENDER, 1);
	add_method(&s, 1, 85, 11, NULL, 0);
	hear(&r, &s);
	assert_int_equal(payload_pool_create(5000, &pool), 0);
	rig_forget(&r);
	payload_make(pool, &f, false, &r.wire.payload);
	wire_send(&r.wire, 0);
	/* 4096 with its head and end, and the rest. */
	assert_true(rig_said(&r, "\3\0\1\0\0\x0f\xf8", 7));
	assert_true(rig_said(&r, "\3\0\1\0\0\3\x90", 7));
	payload_pool_free(pool);
	rig_close(&r);

	greet_rabbit(&r, WIRE_RECEIVER, 1);
	assert_true(rig_said_text(&r, "q.0"));
	add_method(&s, 1, 60, 11, NULL, 0);
	add_method(&s, 1, 60, 21, FIELDS(1, '0'));
	hear(&r, &s);
	assert_int_equal(r.ready, 1);
	/* consumer tag, delivery tag 9, redelivered, exchange, routing key */
	add_method(&s, 1, 60, 60,
		   FIELDS(1, '0', 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 1, 'q'));
	add(&s, "\2\0\1\0\0\0\16\0\74\0\0\0\0\0\0\0\0\0\5\0\0\xce", 22);
	add(&s, "\3\0\1\0\0\0\2ab\xce", 10);
	add(&s, "\3\0\1\0\0\0\3cde\xce", 11);
	hear(&r, &s);
	assert_true(rig_arrived_is(&r, 0, 0, "abcde", true));
	assert_true(rig_said(&r, "\0\74\0\120\0\0\0\0\0\0\0\11\1\xce", 14));
	rig_close(&r);
}

TEST("amqp091: queues are declared one after another")
{
	struct script s = {.len = 0};
	struct rig r;

	greet_rabbit(&r, WIRE_SETUP, 2);
	assert_true(rig_said_text(&r, "q.0"));
	assert_true(rig_said_text(&r, "x-queue-type"));
	assert_true(rig_said_text(&r, "quorum"));
	assert_false(rig_said_text(&r, "q.1"));
	add_method(&s, 1, 50, 11, FIELDS(3, 'q', '.', '0'));
	hear(&r, &s);
	assert_true(rig_said_text(&r, "q.1"));
	add_method(&s, 1, 50, 11, FIELDS(3, 'q', '.', '1'));
	hear(&r, &s);
	assert_int_equal(r.ready, 1);
	rig_close(&r);
}

TEST("amqp091: the text of a close is what we say")
{
	struct script s = {.len = 0};
	struct rig r;

	greet_rabbit(&r, WIRE_SENDER, 1);
	add_method(&s, 1, 20, 40,
		   FIELDS(1, 0x96, 4, 'L', 'O', 'C', 'K', 0, 0, 0, 0));
	hear(&r, &s);
	assert_non_null(strstr(r.wire.why, "406 LOCK"));
	rig_close(&r);
}

TEST_MAIN()
