/* tests/unit/test_load_text.c: the load generator's protocols of text: Redis,
 * NATS, beanstalk and STOMP, against scripted peers. */
#include "tests/unit/load_rig.h"

/* ---- Redis ---- */

TEST("redis: each reply confirms the next message, an error rejects it")
{
	struct rig r;

	rig_open(&r, &protocol_redis, WIRE_SENDER, 1);
	assert_int_equal(r.ready, 1);
	for (unsigned i = 0; i < 3; i++)
		rig_send(&r, 0);
	assert_true(rig_said_text(&r, "*5\r\n$4\r\nXADD\r\n$3\r\nq.0\r\n$1\r\n*"
				      "\r\n$1\r\nd\r\n$32\r\n"));
	rig_hear_text(&r, "$3\r\n1-0\r\n-OOM command not allowed\r\n"
			  "$3\r\n1-1\r\n");
	assert_int_equal(r.confirmed_count, 3);
	assert_true(rig_confirmed_is(&r, 0, 0, 0, WIRE_ACCEPTED));
	assert_true(rig_confirmed_is(&r, 1, 1, 1, WIRE_REJECTED));
	assert_true(rig_confirmed_is(&r, 2, 2, 2, WIRE_ACCEPTED));
	assert_string_equal(r.wire.remark, "OOM command not allowed");
	rig_close(&r);
}

TEST("redis: a receiver reads what it was given before, then what is new")
{
	struct rig r;

	rig_open(&r, &protocol_redis, WIRE_RECEIVER, 2);
	wire_flush(&r.wire, 1);
	assert_true(
		rig_said_text(&r, "q.0\r\n$3\r\nq.1\r\n$1\r\n0\r\n$1\r\n0"));
	rig_hear_text(&r, "*2\r\n*2\r\n$3\r\nq.0\r\n*0\r\n"
			  "*2\r\n$3\r\nq.1\r\n*2\r\n"
			  "*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nd\r\n$3\r\nabc\r\n"
			  "*2\r\n$3\r\n6-0\r\n*-1\r\n");
	assert_int_equal(r.arrived_count, 1);
	assert_true(rig_arrived_is(&r, 0, 1, "abc", true));
	/* The deleted one, too, is acknowledged. */
	assert_true(rig_said_text(&r,
				  "*5\r\n$4\r\nXACK\r\n$3\r\nq.1\r\n$2\r\ng0"
				  "\r\n$3\r\n5-0\r\n$3\r\n6-0\r\n"));
	assert_true(rig_said_text(&r, "XDEL"));
	assert_true(rig_said_text(&r, "$1\r\n0\r\n$1\r\n0\r\n"));
	rig_hear_text(&r, ":2\r\n:2\r\n*2\r\n*2\r\n$3\r\nq.0\r\n*0\r\n*2\r\n"
			  "$3\r\nq.1\r\n*0\r\n");
	assert_true(rig_said_text(&r, "$1\r\n>\r\n$1\r\n>\r\n"));
	assert_false(rig_said_text(&r, "XACK"));
	rig_hear_text(&r, "*1\r\n*2\r\n$3\r\nq.0\r\n*1\r\n*2\r\n$3\r\n7-0\r\n"
			  "*2\r\n$1\r\nd\r\n$2\r\nxy\r\n");
	assert_true(rig_arrived_is(&r, 1, 0, "xy", false));
	rig_close(&r);
}

TEST("redis: queues are declared in turn; one that exists is as good")
{
	struct rig r;

	rig_open(&r, &protocol_redis, WIRE_SETUP, 2);
	assert_true(rig_said_text(&r, "XGROUP"));
	rig_hear_text(&r, "+OK\r\n");
	assert_true(rig_said_text(&r, "q.1"));
	assert_int_equal(r.ready, 0);
	rig_hear_text(&r, "-BUSYGROUP Consumer Group name already exists\r\n");
	assert_int_equal(r.ready, 1);
	rig_close(&r);
}

TEST("redis: what it says when it is not ready is what we say")
{
	struct rig r;

	rig_open(&r, &protocol_redis, WIRE_SETUP, 1);
	rig_hear_text(&r, "-LOADING Redis is loading the dataset\r\n");
	assert_true(r.wire.failed);
	assert_non_null(strstr(r.wire.why, "LOADING Redis is loading"));
	rig_close(&r);
	rig_open(&r, &protocol_redis, WIRE_SENDER, 1);
	rig_hear_text(&r, "HTTP/1.1 400 Bad Request\r\n");
	assert_non_null(strstr(r.wire.why, "does not speak RESP"));
	rig_close(&r);
}

TEST("redis: nonsense fails the wire and is never read beyond its end")
{
	static const char *const nonsense[] = {
		"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
		"$99999999999\r\n",
		"*-7\r\n",
		"*2\r\n:1\r\n:2\r\n",
		"*1\r\n*2\r\n$3\r\nzzz\r\n*0\r\n",
		"$5\n",
		"\r\n"};
	struct rig r;

	for (size_t i = 0; i < ARRAY_COUNT(nonsense); i++) {
		rig_open(&r, &protocol_redis, WIRE_RECEIVER, 1);
		wire_flush(&r.wire, 1);
		rig_hear_text(&r, nonsense[i]);
		assert_true(r.wire.failed);
		assert_int_equal(r.arrived_count, 0);
		rig_close(&r);
	}
}

/* ---- NATS ---- */

static void greet_nats(struct rig *r, enum wire_role role, uint32_t lanes)
{
	rig_open(r, &protocol_nats, role, lanes);
	rig_hear_text(r, "INFO {\"server_id\":\"x\"}\r\n");
	assert_true(rig_said_text(r, "CONNECT {"));
	assert_true(rig_said_text(r, "SUB _INBOX.tag"));
	assert_int_equal(r->ready, 0);
	rig_hear_text(r, "PONG\r\n");
}

TEST("nats: a reply confirms the message that its subject names")
{
	struct rig r;

	greet_nats(&r, WIRE_SENDER, 1);
	assert_int_equal(r.ready, 1);
	for (unsigned i = 0; i < 3; i++)
		rig_send(&r, 0);
	assert_true(rig_said_text(&r, "PUB q.0 _INBOX.tags0.2 32\r\n"));
	rig_hear_text(&r, "MSG _INBOX.tags0.2 1 13\r\n{\"stream\":\"q\"\r\n"
			  "PING\r\n"
			  "MSG _INBOX.tags0.0 1 12\r\n{\"error\":{}}\r\n"
			  "HMSG _INBOX.tags0.1 1 16 16\r\n"
			  "NATS/1.0 503\r\n\r\n\r\n");
	assert_false(r.wire.failed);
	assert_true(rig_confirmed_is(&r, 0, 2, 2, WIRE_ACCEPTED));
	assert_true(rig_confirmed_is(&r, 1, 0, 0, WIRE_REJECTED));
	assert_true(rig_confirmed_is(&r, 2, 1, 1, WIRE_REJECTED));
	assert_true(rig_said_text(&r, "PONG\r\n"));
	rig_hear_text(&r, "MSG _INBOX.tags0.3 1 2\r\n{}\r\n");
	assert_true(r.wire.failed);
	rig_close(&r);
}

TEST("nats: a receiver acknowledges each message and asks for more")
{
	struct rig r;

	greet_nats(&r, WIRE_RECEIVER, 2);
	assert_int_equal(r.ready, 1);
	assert_true(rig_said_text(&r, "MSG.NEXT.q_0.c0 _INBOX.tagr0.0 "));
	assert_true(rig_said_text(&r, "MSG.NEXT.q_1.c0 _INBOX.tagr0.1 "));
	assert_true(rig_said_text(&r, "{\"batch\":5,"));
	rig_hear_text(&r, "MSG q.1 2 $JS.ACK.q_1.c0.1.7.7.1.0 3\r\nabc\r\n"
			  "MSG q.0 1 $JS.ACK.q_0.c0.2.8.8.1.0 2\r\nxy\r\n");
	assert_true(rig_arrived_is(&r, 0, 1, "abc", false));
	assert_true(rig_arrived_is(&r, 1, 0, "xy", true));
	assert_true(rig_said_text(
		&r, "PUB $JS.ACK.q_0.c0.2.8.8.1.0 4\r\n+ACK\r\n"));
	assert_false(rig_said_text(&r, "MSG.NEXT"));
	/* Ten were asked for; when five are left, five more. */
	for (unsigned i = 0; i < 4; i++)
		rig_hear_text(&r,
			      "MSG q.0 1 $JS.ACK.q_0.c0.1.9.9.1.0 1\r\nz\r\n");
	assert_true(rig_said_text(&r, "MSG.NEXT.q_0.c0"));
	/* A request that ended is asked again. */
	rig_hear_text(&r, "HMSG _INBOX.tagr0.1 2 27 27\r\n"
			  "NATS/1.0 408 Request Ti\r\n\r\n\r\n");
	assert_false(r.wire.failed);
	assert_true(rig_said_text(&r, "MSG.NEXT.q_1.c0"));
	rig_close(&r);
}

TEST("nats: stream and consumer are declared, and what is refused is said")
{
	struct rig r;

	greet_nats(&r, WIRE_SETUP, 1);
	assert_true(rig_said_text(&r, "$JS.API.STREAM.CREATE.q_0 "));
	assert_true(rig_said_text(&r, "\"subjects\":[\"q.0\"]"));
	rig_hear_text(&r, "MSG _INBOX.tagd0.0 1 2\r\n{}\r\n");
	assert_true(rig_said_text(&r, "CONSUMER.DURABLE.CREATE.q_0.c0"));
	rig_hear_text(&r, "MSG _INBOX.tagd0.0 1 2\r\n{}\r\n");
	assert_int_equal(r.ready, 1);
	rig_close(&r);
	greet_nats(&r, WIRE_SETUP, 1);
	rig_hear_text(&r, "MSG _INBOX.tagd0.0 1 24\r\n"
			  "{\"error\":{\"code\":10065}} \r\n");
	assert_non_null(strstr(r.wire.why, "10065"));
	rig_close(&r);
	rig_open(&r, &protocol_nats, WIRE_SENDER, 1);
	rig_hear_text(&r, "INFO {}\r\n-ERR 'Authorization Violation'\r\n");
	assert_non_null(strstr(r.wire.why, "Authorization Violation"));
	rig_close(&r);
}

/* ---- beanstalk ---- */

TEST("beanstalk: INSERTED confirms, and other answers say why not")
{
	struct rig r;

	rig_open(&r, &protocol_beanstalk, WIRE_SENDER, 2);
	rig_hear_text(&r, "USING default\r\n");
	assert_int_equal(r.ready, 1);
	rig_send(&r, 0);
	assert_true(rig_said_text(&r, "use q.0\r\nput 1024 0 3600 32\r\n"));
	rig_send(&r, 0);
	assert_false(rig_said_text(&r, "use"));
	rig_send(&r, 1);
	assert_true(rig_said_text(&r, "use q.1\r\n"));
	rig_hear_text(&r, "USING q.0\r\nINSERTED 1\r\nJOB_TOO_BIG\r\n"
			  "USING q.1\r\nINSERTED 2\r\n");
	assert_true(rig_confirmed_is(&r, 0, 0, 0, WIRE_ACCEPTED));
	assert_true(rig_confirmed_is(&r, 1, 1, 1, WIRE_REJECTED));
	assert_true(rig_confirmed_is(&r, 2, 2, 2, WIRE_ACCEPTED));
	assert_string_equal(r.wire.remark, "JOB_TOO_BIG");
	rig_close(&r);
}

TEST("beanstalk: a job is deleted before the next is reserved")
{
	struct rig r;

	rig_open(&r, &protocol_beanstalk, WIRE_RECEIVER, 1);
	assert_true(rig_said_text(&r, "watch q.0\r\nignore default\r\n"));
	rig_hear_text(&r, "WATCHING 2\r\nWATCHING 1\r\n");
	assert_int_equal(r.ready, 1);
	assert_true(rig_said_text(&r, "reserve\r\n"));
	rig_hear_text(&r, "RESERVED 17 5\r\na\r\nbc\r\n");
	assert_true(rig_arrived_is(&r, 0, 0, "a\r\nbc", false));
	assert_true(rig_said_text(&r, "delete 17\r\nreserve\r\n"));
	rig_hear_text(&r, "NOT_FOUND\r\n");
	assert_non_null(strstr(r.wire.why, "NOT_FOUND"));
	rig_close(&r);
}

/* ---- STOMP ---- */

TEST("stomp: a receipt confirms the message whose number it has")
{
	struct rig r;

	rig_open(&r, &protocol_stomp, WIRE_SENDER, 1);
	assert_true(rig_said_text(&r, "CONNECT\naccept-version:1.2\n"));
	rig_hear(&r, "CONNECTED\nversion:1.2\n\n\0\n", 25);
	assert_int_equal(r.ready, 1);
	rig_send(&r, 0);
	rig_send(&r, 0);
	assert_true(rig_said_text(&r, "SEND\ndestination:/queue/q.0\n"
				      "persistent:true\nreceipt:1\n"
				      "content-length:32\n\n"));
	rig_hear(&r, "RECEIPT\r\nreceipt-id:1\r\n\r\n\0\n\n", 28);
	assert_true(rig_confirmed_is(&r, 0, 1, 1, WIRE_ACCEPTED));
	rig_hear(&r, "ERROR\nmessage:no space\n\nlong\0", 29);
	assert_non_null(strstr(r.wire.why, "no space"));
	rig_close(&r);
}

TEST("stomp: an ack id goes back as it came, escapes and all")
{
	static const char message[] = "MESSAGE\nsubscription:1\n"
				      "ack:ID\\chost-1\nredelivered:true\n"
				      "content-length:3\n\na\0b";
	struct rig r;

	rig_open(&r, &protocol_stomp, WIRE_RECEIVER, 2);
	rig_hear(&r, "CONNECTED\nversion:1.2\n\n\0", 24);
	assert_true(rig_said_text(&r, "ack:client-individual\n"
				      "activemq.prefetchSize:10\n"));
	rig_hear(&r, "RECEIPT\nreceipt-id:sub-0\n\n\0", 27);
	assert_int_equal(r.ready, 0);
	rig_hear(&r, "RECEIPT\nreceipt-id:sub-1\n\n\0", 27);
	assert_int_equal(r.ready, 1);
	rig_hear(&r, message, sizeof(message)); /* with the final NUL */
	assert_int_equal(r.arrived_count, 1);
	assert_int_equal(r.arrived[0].len, 3);
	assert_memory_equal(r.arrived[0].body, "a\0b", 3);
	assert_true(r.arrived[0].redelivered);
	assert_int_equal(r.arrived[0].lane, 1);
	assert_true(rig_said(&r, "ACK\nid:ID\\chost-1\n\n\0", 20));
	rig_close(&r);
}

TEST("stomp: with fan-out the names are those of virtual topics")
{
	struct rig r;

	rig_open(&r, &protocol_stomp, WIRE_SENDER, 1);
	r.terms.topic = "t";
	rig_hear(&r, "CONNECTED\nversion:1.2\n\n\0", 24);
	rig_send(&r, 0);
	assert_true(rig_said_text(&r, "destination:/topic/VirtualTopic.t\n"));
	rig_close(&r);
	rig_open(&r, &protocol_stomp, WIRE_RECEIVER, 1);
	r.terms.topic = "t";
	r.lanes[0].number = 3;
	rig_hear(&r, "CONNECTED\nversion:1.2\n\n\0", 24);
	assert_true(rig_said_text(
		&r, "destination:/queue/Consumer.3.VirtualTopic.t\n"));
	rig_close(&r);
}

/* ---- all ---- */

TEST("while it closes, a receiver neither shows nor acknowledges a message")
{
	static const char message[] = "MESSAGE\nsubscription:0\nack:1\n\nabc";
	struct rig r;

	greet_nats(&r, WIRE_RECEIVER, 1);
	wire_close(&r.wire);
	rig_hear_text(&r, "MSG q.0 1 $JS.ACK.q_0.c0.1.7.7.1.0 3\r\nabc\r\n");
	assert_int_equal(r.arrived_count, 0);
	assert_false(rig_said_text(&r, "+ACK"));
	rig_hear_text(&r, "PONG\r\n");
	assert_int_equal(r.wire.state, WIRE_CLOSED);
	assert_false(r.wire.failed);
	rig_close(&r);

	rig_open(&r, &protocol_stomp, WIRE_RECEIVER, 1);
	rig_hear(&r, "CONNECTED\nversion:1.2\n\n\0", 24);
	rig_hear(&r, "RECEIPT\nreceipt-id:sub-0\n\n\0", 27);
	wire_close(&r.wire);
	rig_hear(&r, message, sizeof(message));
	assert_int_equal(r.arrived_count, 0);
	assert_false(rig_said_text(&r, "ACK"));
	rig_hear(&r, "RECEIPT\nreceipt-id:bye\n\n\0", 25);
	assert_int_equal(r.wire.state, WIRE_CLOSED);
	rig_close(&r);
}

TEST_MAIN()
