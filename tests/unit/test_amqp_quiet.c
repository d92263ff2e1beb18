/* The AMQP adaptor on connections that have sent nothing but messages for a
 * while, on which it goes without Proton's events. */
#include "tests/unit/amqp_rig.h"

/* More than it takes with the few links here.  These name no link; what comes
 * in the same bytes as an attach does not count. */
static void calm(struct client *c)
{
	for (int i = 0; i < 64; i++)
		FRAME(c, 0x13, 4,
		      "\x43\x70\x00\x00\x03\xe8\x43\x70\x00\x00\x03\xe8");
	flush(c);
}

static void connect_sender(struct client *c)
{
	client_connect(c);
	put_open(c);
	put_sender(c);
	expect(c, 0x12);
	calm(c);
}

static void connect_receiver(struct client *c, uint32_t to_deliver)
{
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = to_deliver;
	client_connect(c);
	put_open(c);
	put_receiver(c);
	expect(c, 0x12);
	calm(c);
}

static void put_message(struct client *c, uint8_t id, bool settled)
{
	put_transfer(c, id, settled, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
}

TEST("messages are taken: whole, in pieces, aborted and settled ones")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_message(&c, 0, false);
	put_transfer(&c, 1, false, true, false, "\x00\x53\x77", 3);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 0);
	put_transfer(&c, 1, false, true, false, "\xa1\x05", 2);
	put_transfer(&c, 1, false, false, false, "hello", 5);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 1);
	assert_int_equal(a.fields[4].u, 0x24);
	put_message(&c, 2, true);
	put_transfer(&c, 3, false, true, false, "\x00\x53\x77", 3);
	put_transfer(&c, 3, false, true, true, "\xa1\x05", 2);
	put_message(&c, 4, false);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 4);
	assert_int_equal(fake.published, 4);
	client_close(&c);
	rig_down();
}

TEST("a malformed message is rejected, and credit comes back")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_transfer(&c, 0, false, false, false, "\x00\x53\x79", 3);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x25);
	/* The sender gives up all credit but 1: it gets new one. */
	{
		uint8_t flow[] = {0x43, 0x70, 0,    0,	 3,    0xe8,
				  0x43, 0x70, 0,    0,	 3,    0xe8,
				  0x43, 0x70, 0,    0,	 0x03, 0xe7,
				  0x52, 1,    0x40, 0x42};

		put_frame(&c, 0, 0x13, 9, flow, sizeof(flow), NULL, 0);
	}
	do {
		a = expect(&c, 0x13);
	} while (a.fields[5].u != 999);
	assert_int_equal(a.fields[6].u, 1000);
	client_close(&c);
	rig_down();
}

TEST("a delivery goes out, and each outcome comes back")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_receiver(&c, 5);
	put_flow(&c, 5, false);
	for (int i = 0; i < 5; i++)
		expect(&c, 0x14);
	/* accepted; released; modified, failed; settled without a state */
	FRAME(&c, 0x15, 5, "\x41\x43\x43\x41\x00\x53\x24\x45");
	FRAME(&c, 0x15, 5, "\x41\x52\x01\x52\x01\x41\x00\x53\x26\x45");
	FRAME(&c, 0x15, 5,
	      "\x41\x52\x02\x52\x02\x41\x00\x53\x27\xc0\x02\x01\x41");
	FRAME(&c, 0x15, 4, "\x41\x52\x03\x52\x03\x41");
	flush(&c);
	WAIT_FOR(fake.accepted == 1 && fake.released == 2 &&
		 fake.modified_failed == 1);
	assert_int_equal(fake.confirmed, 0);
	/* Not settled by the receiver: we are the ones to do it. */
	FRAME(&c, 0x15, 5, "\x41\x52\x04\x52\x04\x42\x00\x53\x24\x45");
	expect(&c, 0x15);
	assert_int_equal(fake.confirmed, 1);
	client_close(&c);
	rig_down();
}

static struct answer expect_drained(struct client *c)
{
	struct answer a;

	do {
		a = expect(c, 0x13);
	} while (a.fields[4].kind == WIRE_NULL);
	return a;
}

TEST("draining sends what there is and gives the rest of the credit back")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_receiver(&c, 2);
	put_flow(&c, 10, true);
	expect(&c, 0x14);
	expect(&c, 0x14);
	a = expect_drained(&c);
	assert_int_equal(a.fields[5].u, 10); /* delivery-count */
	assert_int_equal(a.fields[6].u, 0);
	client_close(&c);
	rig_down();
}

/* The answer to a drain leaves in one go with what settles the last delivery,
 * which must not hold it back. */
TEST("a drain is answered along with a settlement by us")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_receiver(&c, 2);
	put_flow(&c, 5, false);
	expect(&c, 0x14);
	expect(&c, 0x14);
	/* Both answers of the core come in one turn of the loop. */
	FRAME(&c, 0x15, 5, "\x41\x43\x52\x01\x42\x00\x53\x24\x45");
	put_flow(&c, 5, true);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[2].u, 1);
	assert_true(a.fields[3].u);
	a = expect_drained(&c);
	assert_int_equal(a.fields[5].u, 5);
	assert_int_equal(a.fields[6].u, 0);
	assert_int_equal(fake.confirmed, 2);
	client_close(&c);
	rig_down();
}

TEST("a drain is answered along with a settlement by the receiver")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.drain_waits = true;
	connect_receiver(&c, 2);
	put_flow(&c, 5, false);
	expect(&c, 0x14);
	expect(&c, 0x14);
	put_flow(&c, 5, true);
	FRAME(&c, 0x15, 5, "\x41\x43\x52\x01\x41\x00\x53\x24\x45");
	a = expect_drained(&c);
	assert_int_equal(a.fields[5].u, 5);
	assert_int_equal(a.fields[6].u, 0);
	assert_int_equal(fake.accepted, 2);
	client_close(&c);
	rig_down();
}

TEST("links come and go, and a handle is another's after that")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_message(&c, 0, false);
	expect(&c, 0x15);
	/* Another link with the same handle, all in the same bytes. */
	put_message(&c, 1, false);
	FRAME(&c, 0x16, 2, "\x43\x41");
	FRAME(&c, 0x12, 10,
	      "\xa1\x01t\x43\x42\x40\x40\x00\x53\x28\xc0\x04\x01\xa1\x01x"
	      "\x00\x53\x29\xc0\x04\x01\xa1\x01q\x40\x40\x43");
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 1);
	expect(&c, 0x16); /* the attach is answered before or after */
	calm(&c);
	put_message(&c, 2, false);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 2);
	/* A second link beside it, and one more message for each. */
	FRAME(&c, 0x12, 10,
	      "\xa1\x01s\x52\x07\x42\x40\x40\x00\x53\x28\xc0\x04\x01\xa1\x01x"
	      "\x00\x53\x29\xc0\x04\x01\xa1\x01q\x40\x40\x43");
	expect(&c, 0x12);
	calm(&c);
	put_message(&c, 3, false);
	put_frame(&c, 0, 0x14, 3, "\x52\x07\x52\x04\xa0\x01t", 7, WHOLE_MESSAGE,
		  sizeof(WHOLE_MESSAGE) - 1);
	flush(&c);
	WAIT_FOR(fake.published == 5);
	/* The end of the session takes both along. */
	FRAME(&c, 0x17, 0, "");
	expect(&c, 0x17);
	client_close(&c);
	rig_down();
}

TEST("messages for a link that was refused are none, and the others go on")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	/* From no address: refused without a link of ours. */
	FRAME(&c, 0x12, 7,
	      "\xa1\x01u\x52\x01\x41\x40\x40\x40"
	      "\x00\x53\x29\xc0\x04\x01\xa1\x01x");
	expect(&c, 0x16);
	calm(&c);
	{
		uint8_t flow[] = {0x43, 0x52, 9,    0x43, 0x52, 9,
				  0x52, 0x01, 0x43, 0x52, 5};

		put_frame(&c, 0, 0x13, 7, flow, sizeof(flow), NULL, 0);
	}
	put_message(&c, 0, false);
	expect(&c, 0x15);
	client_close(&c);
	rig_down();
}

TEST("what Proton alone finds wrong ends the connection with its reason")
{
	struct amqp_stats stats;
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_message(&c, 0, false);
	expect(&c, 0x15);
	put_message(&c, 9, false); /* 1 is next */
	a = expect(&c, 0x18);
	assert_condition(&a.fields[0], "amqp:session:invalid-field");
	amqp_stats(rig.amqp, &stats);
	assert_int_equal(stats.protocol_errors, 1);
	close(c.fd);
	rig_down();
}

TEST("a peer that has fallen silent is let go")
{
	struct client c;
	struct answer a;

	rig.idle_timeout_ms = 200;
	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_message(&c, 0, false);
	expect(&c, 0x15);
	a = expect(&c, 0x18);
	assert_condition(&a.fields[0], "amqp:resource-limit-exceeded");
	close(c.fd);
	rig_down();
	rig.idle_timeout_ms = 0;
}

TEST("a connection that breaks is noticed, and its deliveries count as failed")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_receiver(&c, 1);
	put_flow(&c, 1, false);
	expect(&c, 0x14);
	close(c.fd);
	WAIT_FOR(fake.failed_detached == 1);
	rig_down();
}

TEST("closing all answers what is in flight and says why")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	connect_sender(&c);
	put_message(&c, 0, false);
	expect(&c, 0x15);
	amqp_close_all(rig.amqp, "the test is over", 100);
	a = expect(&c, 0x18);
	assert_condition(&a.fields[0], "amqp:connection:forced");
	FRAME(&c, 0x18, 0, "");
	flush(&c);
	close(c.fd);
	rig_down();
}

/* ---- messages, and what ends them, in the same bytes ---- */

enum ending {
	END_LINK,
	END_SESSION,
	END_CONNECTION,
	END_SOCKET,
	ENDINGS,
};

static void put_ending(struct client *c, enum ending e)
{
	switch (e) {
	case END_LINK:
		FRAME(c, 0x16, 2, "\x43\x41");
		break;
	case END_SESSION:
		FRAME(c, 0x17, 0, "");
		break;
	case END_CONNECTION:
		FRAME(c, 0x18, 0, "");
		break;
	case END_SOCKET:
	case ENDINGS:
		break;
	}
	flush(c);
}

TEST("messages count that come right before the end, settled ones and others")
{
	for (enum ending e = 0; e < ENDINGS; e++) {
		struct client c;

		rig_up(AUTH_ANONYMOUS_ALWAYS);
		connect_sender(&c);
		for (uint8_t i = 0; i < 100; i++)
			put_message(&c, i, i % 2);
		put_transfer(&c, 100, false, true, false, "\x00\x53\x77", 3);
		put_ending(&c, e);
		if (e != END_SOCKET)
			expect(&c, 0x16 + e);
		close(c.fd);
		WAIT_FOR(fake.published == 100 && fake.detached == 1);
		assert_int_equal(fake.uploads, 0);
		rig_down();
	}
}

TEST("outcomes count that come right before the end, and the rest goes back")
{
	for (enum ending e = 0; e < ENDINGS; e++) {
		struct client c;

		rig_up(AUTH_ANONYMOUS_ALWAYS);
		connect_receiver(&c, 6);
		put_flow(&c, 10, false);
		for (int i = 0; i < 6; i++)
			expect(&c, 0x14);
		/* 0 to 3: settled by the receiver, 4: by us, 5: not at all */
		FRAME(&c, 0x15, 5, "\x41\x43\x52\x03\x41\x00\x53\x24\x45");
		FRAME(&c, 0x15, 5, "\x41\x52\x04\x52\x04\x42\x00\x53\x24\x45");
		put_flow(&c, 10, true);
		put_ending(&c, e);
		if (e != END_SOCKET)
			expect(&c, 0x16 + e);
		close(c.fd);
		WAIT_FOR(fake.accepted == 5 && fake.detached == 1);
		assert_int_equal(fake.released, 0);
		assert_int_equal(fake.failed_detached, e == END_SOCKET);
		rig_down();
	}
}

TEST("a connection breaks while messages wait for their answers")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.hold = 1000;
	connect_sender(&c);
	for (uint8_t i = 0; i < 200; i++)
		put_message(&c, i, false);
	flush(&c);
	WAIT_FOR(fake.published == 200);
	/* They are answered as the link leaves the core, and told nobody. */
	close(c.fd);
	WAIT_FOR(fake.detached == 1);
	assert_int_equal(fake.held_count, 0);
	rig_down();
}

TEST_MAIN()
