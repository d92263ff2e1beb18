/* What the gate lets through of the frames that come with messages: it tells
 * their fields' encodings apart itself. */
#include "tests/unit/test.h"

#include "broker/protocols/amqp/gate.h"
#include "broker/protocols/amqp/wire.h"

#define TRANSFER 0x14
#define DISPOSITION 0x15
#define FLOW 0x13

static const uint8_t opening[] =
	"AMQP\x00\x01\x00\x00"
	/* open */
	"\x00\x00\x00\x11\x02\x00\x00\x00\x00\x53\x10\xc0\x04\x01\xa1\x01"
	"c"
	/* begin: incoming-window, outgoing-window and so on */
	"\x00\x00\x00\x14\x02\x00\x00\x00\x00\x53\x11\xc0\x07\x04\x40\x43\x52"
	"\x09\x52\x09"
	/* attach "s" as handle 0, a sender, and "r" as handle 1, a receiver */
	"\x00\x00\x00\x13\x02\x00\x00\x00\x00\x53\x12\xc0\x06\x03\xa1\x01"
	"s"
	"\x43\x42"
	"\x00\x00\x00\x14\x02\x00\x00\x00\x00\x53\x12\xc0\x07\x03\xa1\x01"
	"r"
	"\x52\x01\x41";

struct rest {
	const char *bytes;
	size_t len;
	unsigned count;
};

#define REST(b, n) ((struct rest){(b), sizeof(b) - 1, (n)})

/* Of a connection that has just begun: one frame of these fields. */
static enum gate_verdict verdict_of(uint8_t code, struct rest r, bool wide,
				    struct gate *ret)
{
	uint8_t frame[256] = {[4] = 2, [9] = WIRE_CODE_ULONG1, [10] = code};
	size_t len = wide ? 20 : 14, passed;
	struct gate_news news;
	struct gate_error e;

	gate_init(ret, 65536, 7, 10);
	assert_int_equal(gate_scan(ret, opening, sizeof(opening) - 1, &passed,
				   &news, &e),
			 GATE_PASS);
	assert_int_equal(passed, sizeof(opening) - 1);
	assert_true(len + r.len <= sizeof(frame));
	frame[11] = wide ? WIRE_CODE_LIST4 : WIRE_CODE_LIST1;
	if (wide) {
		wire_put32(frame + 12, (uint32_t)r.len + 4);
		wire_put32(frame + 16, r.count);
	} else {
		frame[12] = (uint8_t)(r.len + 1);
		frame[13] = (uint8_t)r.count;
	}
	memcpy(frame + len, r.bytes, r.len);
	len += r.len;
	wire_put32(frame, (uint32_t)len);
	return gate_scan(ret, frame, len, &passed, &news, &e);
}

/* The same by a short and by a long list. */
static bool passes(uint8_t code, struct rest r)
{
	struct gate g;
	bool narrow = verdict_of(code, r, false, &g) == GATE_PASS, wide;

	gate_fini(&g);
	wide = verdict_of(code, r, true, &g) == GATE_PASS;
	gate_fini(&g);
	assert_int_equal(narrow, wide);
	return narrow;
}

TEST("a transfer's fields pass in each of their encodings")
{
	/* handle, delivery-id, delivery-tag, message-format, settled, more */
	assert_true(passes(TRANSFER, REST("\x43\x43\xa0\x01t\x43\x42\x42", 6)));
	assert_true(passes(TRANSFER,
			   REST("\x52\x00\x52\x07\xb0\x00\x00\x00\x01t\x52\x00"
				"\x56\x00\x56\x01",
				6)));
	assert_true(passes(TRANSFER,
			   REST("\x70\x00\x00\x00\x00\x70\x00\x00\x00\x07\x40"
				"\x40\x41\x40",
				6)));
	assert_true(passes(TRANSFER, REST("\x43\x43", 2)));
	/* rcv-settle-mode, state, resume, aborted, batchable */
	assert_true(passes(TRANSFER,
			   REST("\x43\x43\x40\x40\x40\x40\x50\x01\x00\x53\x24"
				"\x45\x42\x42\x41",
				11)));
	assert_true(passes(TRANSFER,
			   REST("\x43\x43\x40\x40\x40\x40\x40\x00\x80\x00\x00"
				"\x00\x00\x00\x00\x00\x24\xc0\x01\x00",
				8)));
}

TEST("a transfer with a field of another type, or cut in one, does not pass")
{
	static const struct rest wrong[] = {
		REST("\x40\x43", 2),			 /* no handle */
		REST("\x43\x40", 2),			 /* no delivery-id */
		REST("\x43", 1),			 /* nor here */
		REST("\x50\x00\x43", 2),		 /* a ubyte */
		REST("\x43\x53\x01", 2),		 /* a ulong */
		REST("\x43\x43\xa1\x01t", 3),		 /* a string */
		REST("\x43\x43\x40\x41", 4),		 /* a boolean */
		REST("\x43\x43\x40\x40\x43", 5),	 /* a number */
		REST("\x43\x43\x40\x40\x56\x02", 5),	 /* a third truth */
		REST("\x43\x43\x40\x40\x40\x40\x43", 7), /* a uint */
		REST("\x43\x43\x40\x40\x40\x40\x40\x00\x53", 8),
		REST("\x43\x43\x40\x40\x40\x40\x40\x40\x40\x43", 10),
		REST("\x43\x43\x40\x40\x40\x40\x40\x40\x40\x40\x00\x53\x24\x45",
		     11),
		REST("\x43\x43\x40\x40\x40\x40\x40\x40\x40\x40\x40\xc0\x01\x01",
		     12),	     /* a list without its element */
		REST("\x43\x52", 2), /* cut */
		REST("\x43\x70\x00\x00\x00", 2), /* cut */
		REST("\x43\x43\xa0\x02t", 3),	 /* cut */
		REST("\x43\x43\xb0\x00\x00\x00\x02t", 3),
		REST("\x43\x43\x40\x40\x56", 5), /* cut */
		REST("\x43\x43", 3),		 /* fewer than it says */
		REST("\x52\x02\x43", 2),	 /* a handle nobody has */
		REST("\x52\x01\x43", 2),	 /* a receiver's */
	};

	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
		if (passes(TRANSFER, wrong[i]))
			fail_msg("transfer %zu passed", i);
}

TEST("what follows a delivery's first transfer needs no number")
{
	struct rest next = REST("\x43\x40\x40\x40\x40\x42", 6);
	uint8_t frame[20] = {[3] = 20,
			     [4] = 2,
			     [9] = WIRE_CODE_ULONG1,
			     [10] = TRANSFER,
			     [11] = WIRE_CODE_LIST1,
			     [12] = 7,
			     [13] = 6};
	struct gate_news news;
	struct gate_error e;
	struct gate g;
	size_t len;

	memcpy(frame + 14, next.bytes, next.len);
	assert_int_equal(verdict_of(TRANSFER,
				    REST("\x43\x43\x40\x40\x40\x41", 6), false,
				    &g),
			 GATE_PASS);
	assert_int_equal(gate_scan(&g, frame, sizeof(frame), &len, &news, &e),
			 GATE_PASS);
	assert_int_equal(gate_scan(&g, frame, sizeof(frame), &len, &news, &e),
			 GATE_BAD);
	assert_int_equal(g.transfers, 2);
	gate_fini(&g);
	/* One that is aborted has no second transfer. */
	assert_int_equal(verdict_of(TRANSFER,
				    REST("\x43\x43\x40\x40\x40\x41\x40\x40\x40"
					 "\x41",
					 10),
				    false, &g),
			 GATE_PASS);
	assert_int_equal(gate_scan(&g, frame, sizeof(frame), &len, &news, &e),
			 GATE_BAD);
	gate_fini(&g);
}

TEST("dispositions and flows are looked at to their ends")
{
	/* role, first, last, settled, state, batchable */
	assert_true(
		passes(DISPOSITION,
		       REST("\x41\x43\x52\x09\x41\x00\x53\x24\x45\x42", 6)));
	assert_true(passes(DISPOSITION, REST("\x41\x43", 2)));
	assert_true(passes(DISPOSITION,
			   REST("\x41\x43\x40\x40\x00\x53\x27\xc0\x03\x02\x41"
				"\x42",
				5)));
	assert_false(passes(DISPOSITION, REST("\x40\x43", 2)));
	assert_false(passes(DISPOSITION, REST("\x41\x40", 2)));
	assert_false(passes(DISPOSITION, REST("\x41\x43\x41", 3)));
	assert_false(passes(DISPOSITION, REST("\x41\x43\x40\x40\x00\x53", 5)));
	assert_false(passes(
		DISPOSITION,
		REST("\x41\x43\x40\x40\x00\x53\x27\xc0\x02\x02\x41", 5)));
	assert_false(passes(DISPOSITION,
			    REST("\x41\x43\x40\x40\x00\x53\x24\x45\x43", 6)));
	assert_false(passes(DISPOSITION, REST("\x41\x43\x40", 2)));
	/* next-incoming-id, incoming-window, next-outgoing-id,
	 * outgoing-window, handle, delivery-count, link-credit, available,
	 * drain, echo, properties */
	assert_true(passes(FLOW, REST("\x40\x52\x09\x43\x52\x09", 4)));
	assert_true(
		passes(FLOW, REST("\x43\x52\x09\x43\x52\x09\x52\x01\x43\x52\x05"
				  "\x40\x42\x41\xc1\x01\x00",
				  11)));
	assert_false(passes(FLOW, REST("\x40\x40\x43\x52\x09", 4)));
	assert_false(passes(FLOW, REST("\x40\x52\x09\x43\x52\x09\x52\x05", 5)));
	assert_false(
		passes(FLOW, REST("\x43\x52\x09\x43\x52\x09\x43\x43\x41", 7)));
	assert_false(passes(
		FLOW, REST("\x43\x52\x09\x43\x52\x09\x43\x43\x43\x40\x43", 9)));
	assert_false(
		passes(FLOW, REST("\x43\x52\x09\x43\x52\x09\x43\x43\x43\x40\x42"
				  "\x42\xc1\x02\x02\x43",
				  11)));
	assert_false(passes(FLOW, REST("\x40\x52\x09\x43\x52\x09\x40", 4)));
}

TEST("a performative that is no list does not pass, however it is named")
{
	static const uint8_t by_ulong[] =
		"\x00\x00\x00\x18\x02\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00"
		"\x00\x00\x14\xc0\x03\x02\x43\x43\x00";
	static const uint8_t map[] =
		"\x00\x00\x00\x10\x02\x00\x00\x00\x00\x53\x14\xc1\x03\x02\x43"
		"\x43";
	static const uint8_t empty[] =
		"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14\x45";
	struct gate_news news;
	struct gate_error e;
	struct gate g;
	size_t len;

	assert_int_equal(verdict_of(TRANSFER, REST("\x43\x43", 2), false, &g),
			 GATE_PASS);
	assert_int_equal(
		gate_scan(&g, by_ulong, sizeof(by_ulong) - 1, &len, &news, &e),
		GATE_PASS);
	assert_int_equal(len, sizeof(by_ulong) - 1);
	assert_int_equal(gate_scan(&g, map, sizeof(map) - 1, &len, &news, &e),
			 GATE_BAD);
	assert_int_equal(
		gate_scan(&g, empty, sizeof(empty) - 1, &len, &news, &e),
		GATE_BAD);
	gate_fini(&g);
}

TEST_MAIN()
