/* The AMQP adaptor: what it says on the wire, and what it asks of the core. */
#include "tests/unit/amqp_rig.h"

TEST("a run of publications is answered by one disposition")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.hold = 100;
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	a = expect(&c, 0x12);
	assert_int_equal(a.fields[10].kind, WIRE_ULONG); /* max-message-size */
	assert_true(a.fields[10].u == 1024ull * 1024 * 1024);
	a = expect(&c, 0x13);
	assert_int_equal(a.fields[6].u, 1000);
	for (uint8_t i = 0; i < 100; i++)
		put_transfer(&c, i, false, false, false, WHOLE_MESSAGE,
			     sizeof(WHOLE_MESSAGE) - 1);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[0].u, 1); /* we are the receiver */
	assert_int_equal(a.fields[1].u, 0);
	assert_int_equal(a.fields[2].u, 99);
	assert_int_equal(a.fields[3].u, 1);
	assert_int_equal(a.fields[4].u, 0x24);
	assert_int_equal(fake.published, 100);
	assert_int_equal(fake.priority, 4);
	client_close(&c);
	rig_down();
}

TEST("a publication that is refused names the reason")
{
	struct wire_value inside, v;
	struct client c;
	struct answer a;
	struct wire w;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.outcome = OUTCOME_REJECTED;
	fake.outcome_err = -E_NO_SPACE;
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_transfer(&c, 0, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x25);
	w = wire_of(a.fields[4].data, a.fields[4].len);
	assert_int_equal(wire_descriptor(&w, &inside.u, &v), 0);
	assert_int_equal(wire_read(&w, &inside), 0);
	inside.kind = WIRE_DESCRIBED;
	inside.u = 0x1d;
	assert_condition(&inside, "amqp:resource-limit-exceeded");
	client_close(&c);
	rig_down();
}

TEST("a malformed message is rejected and its connection goes on")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_transfer(&c, 0, false, false, false, "\x00\x53\x99\x41", 4);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x25);
	put_transfer(&c, 1, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x24);
	assert_int_equal(fake.published, 1);
	client_close(&c);
	rig_down();
}

TEST("a message of several frames arrives whole, and an aborted one not at all")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_transfer(&c, 0, false, true, false, "\x00\x53\x77", 3);
	put_transfer(&c, 0, false, true, true, "\xa1\x05", 2);
	put_transfer(&c, 1, false, true, false, "\x00\x53\x77", 3);
	put_transfer(&c, 1, false, true, false, "\xa1\x05", 2);
	put_transfer(&c, 1, false, false, false, "hello", 5);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[1].u, 1);
	assert_int_equal(a.fields[4].u, 0x24);
	assert_int_equal(fake.published, 1);
	assert_int_equal(fake.published_bytes, sizeof(WHOLE_MESSAGE) - 1);
	client_close(&c);
	rig_down();
}

TEST("a large message is uploaded in pieces while it arrives")
{
	static uint8_t piece[32 * 1024];
	unsigned total = 0;
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	/* data section, binary of 640 KiB */
	put_transfer(&c, 0, false, true, false,
		     "\x00\x53\x75\xb0\x00\x0a\x00\x00", 8);
	for (int i = 0; i < 20; i++) {
		put_transfer(&c, 0, false, i < 19, false, piece, sizeof(piece));
		flush(&c);
		total += sizeof(piece);
	}
	expect(&c, 0x15);
	assert_int_equal(fake.uploads, 1);
	assert_int_equal(fake.upload_bytes, total + 8);
	assert_int_equal(fake.upload_pieces_over, 0);
	assert_int_equal(fake.published, 0);
	/* One that its sender gives up. */
	put_transfer(&c, 1, false, true, false,
		     "\x00\x53\x75\xb0\x00\x0a\x00\x00", 8);
	for (int i = 0; i < 19; i++) {
		put_transfer(&c, 1, false, true, i == 18, piece, sizeof(piece));
		flush(&c);
	}
	put_transfer(&c, 2, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	expect(&c, 0x15);
	assert_int_equal(fake.upload_aborts, 1);
	assert_int_equal(fake.uploads, 1);
	client_close(&c);
	rig_down();
}

/* A sender that begins no burst of frames without room for all of it. */
struct burst_sender {
	struct client client;
	uint64_t sent, room; /* frames since the begin */
	uint64_t messages, credit;
};

static void burst_wait(struct burst_sender *s, unsigned frames)
{
	while (s->sent + frames > s->room || s->messages >= s->credit) {
		struct answer a = expect(&s->client, 0x13);

		s->room = a.fields[0].u + a.fields[1].u;
		assert_true(a.fields[6].u <= 1001);
		s->credit = a.fields[5].u + a.fields[6].u;
	}
}

static void burst_frame(struct burst_sender *s, bool more, const char *payload,
			size_t len)
{
	uint8_t fields[] = {0x43, 0x70, 0,   0,	   0,	 0,
			    0xa0, 1,	't', 0x43, 0x42, more ? 0x41 : 0x42};

	wire_put32(fields + 2, (uint32_t)s->messages);
	put_frame(&s->client, 0, 0x14, 6, fields, sizeof(fields), payload, len);
	s->sent++;
}

static void burst_message(struct burst_sender *s, unsigned frames,
			  unsigned burst)
{
	for (unsigned i = 0; i < frames; i++) {
		if (i % burst == 0) {
			flush(&s->client);
			burst_wait(s, burst);
		}
		burst_frame(s, i + 1 < frames, i ? "" : WHOLE_MESSAGE,
			    i ? 0 : sizeof(WHOLE_MESSAGE) - 1);
	}
	s->messages++;
}

static void burst_start(struct burst_sender *s)
{
	memset(s, 0, sizeof(*s));
	client_connect(&s->client);
	put_open(&s->client);
	put_sender(&s->client);
	burst_wait(s, 1);
}

TEST("a sender that wants room for a whole message never waits for good")
{
	static struct burst_sender s;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	burst_start(&s);
	for (int i = 0; i < 1000; i++)
		burst_message(&s, 10, 10);
	flush(&s.client);
	WAIT_FOR(fake.published == 1000);
	client_close(&s.client);
	rig_down();
}

TEST("the window is renewed within messages larger than it, credit is not")
{
	static struct burst_sender s;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	burst_start(&s);
	for (int i = 0; i < 8; i++)
		burst_message(&s, 9000, 1000);
	flush(&s.client);
	WAIT_FOR(fake.published == 8);
	client_close(&s.client);
	rig_down();
}

TEST("a link that can not be is attached without its terminus, then closed")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.attach_err = -E_NOT_FOUND;
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	a = expect(&c, 0x12);
	assert_int_equal(a.fields[6].kind, WIRE_NULL); /* target */
	a = expect(&c, 0x16);
	assert_int_equal(a.fields[1].u, 1);
	assert_condition(&a.fields[2], "amqp:not-found");
	FRAME(&c, 0x16, 2, "\x43\x41");
	client_close(&c);
	rig_down();
}

TEST("a detach is answered after the outcomes, with the same closed flag")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.hold = 1000; /* answered by the detach */
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_transfer(&c, 0, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	FRAME(&c, 0x16, 1, "\x43");
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x24);
	a = expect(&c, 0x16);
	assert_false(a.fields[1].u);
	client_close(&c);
	rig_down();
}

TEST("a delivery goes out as stored, and its outcome comes back")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = 4;
	client_connect(&c);
	put_open(&c);
	put_receiver(&c);
	expect(&c, 0x12);
	put_flow(&c, 4, false);
	for (int i = 0; i < 4; i++) {
		a = expect(&c, 0x14);
		assert_int_equal(a.payload_len, sizeof(WHOLE_MESSAGE) - 1);
		assert_memory_equal(a.payload, WHOLE_MESSAGE, a.payload_len);
		assert_int_equal(a.fields[2].len, 8); /* tag */
	}
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
	assert_int_equal(fake.sent, 4);
	client_close(&c);
	WAIT_FOR(fake.detached == 1);
	assert_int_equal(fake.failed_detached, 0);
	rig_down();
}

TEST("a delivery tried before says so in its header")
{
	struct client c;
	struct answer a;
	struct wire w;
	struct wire_value v;
	uint64_t code;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = 1;
	fake.attempts = 2;
	client_connect(&c);
	put_open(&c);
	put_receiver(&c);
	put_flow(&c, 1, false);
	a = expect(&c, 0x14);
	w = wire_of(a.payload, a.payload_len);
	assert_int_equal(wire_descriptor(&w, &code, &v), 0);
	assert_int_equal(code, 0x70);
	assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(wire_left(&w), sizeof(WHOLE_MESSAGE) - 1);
	assert_memory_equal(w.p, WHOLE_MESSAGE, wire_left(&w));
	w = wire_inside(&v);
	for (int i = 0; i < 5; i++)
		assert_int_equal(wire_read(&w, &v), 0);
	assert_int_equal(v.u, 2);
	client_close(&c);
	rig_down();
}

TEST("a receiver that leaves the settling to us is answered when it is durable")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = 1;
	client_connect(&c);
	put_open(&c);
	put_receiver(&c);
	put_flow(&c, 1, false);
	expect(&c, 0x14);
	FRAME(&c, 0x15, 5, "\x41\x43\x43\x42\x00\x53\x24\x45");
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[0].u, 0);
	assert_int_equal(a.fields[3].u, 1);
	assert_int_equal(a.fields[4].u, 0x24);
	assert_int_equal(fake.confirmed, 1);
	client_close(&c);
	rig_down();
}

TEST("draining sends what there is and gives the rest of the credit back")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = 2;
	client_connect(&c);
	put_open(&c);
	put_receiver(&c);
	put_flow(&c, 10, true);
	expect(&c, 0x14);
	expect(&c, 0x14);
	do {
		a = expect(&c, 0x13);
	} while (a.fields[4].kind == WIRE_NULL);
	assert_int_equal(a.fields[5].u, 10); /* delivery-count */
	assert_int_equal(a.fields[6].u, 0);
	client_close(&c);
	rig_down();
}

TEST("deliveries of a connection that breaks count as failed")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	memcpy(fake.body, WHOLE_MESSAGE, sizeof(WHOLE_MESSAGE) - 1);
	fake.body_len = sizeof(WHOLE_MESSAGE) - 1;
	fake.to_deliver = 1;
	client_connect(&c);
	put_open(&c);
	put_receiver(&c);
	put_flow(&c, 1, false);
	expect(&c, 0x14);
	close(c.fd);
	WAIT_FOR(fake.failed_detached == 1);
	rig_down();
}

/* After the headers, an open and a begin. */
TEST("wrong frames close their connection with a reason, and no other")
{
	static const struct {
		uint8_t code, count;
		const char *fields;
		size_t len;
		const char *condition;
	} cases[] = {
		/* a second open */
		{0x10, 1,
		 "\xa1\x01"
		 "c",
		 3, "amqp:not-allowed"},
		/* begin on a channel in use */
		{0x11, 4, "\x40\x43\x43\x43", 4,
		 "amqp:connection:framing-error"},
		/* transfer: more to come, without a delivery-id */
		{0x14, 6, "\x43\x40\x40\x40\x42\x41", 6,
		 "amqp:session:unattached-handle"},
		{0x16, 2, "\x43\x41", 2, "amqp:session:unattached-handle"},
		{0x30, 0, "", 0, "amqp:not-allowed"},
		/* a list that claims a field more than it has */
		{0x13, 9, "\x43\x43\x43\x43", 4, "amqp:decode-error"},
	};
	struct client good;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&good);
	put_open(&good);
	put_sender(&good);
	expect(&good, 0x13);
	for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
		struct client c;
		struct answer a;

		client_connect(&c);
		put_open(&c);
		put_frame(&c, 0, cases[i].code, cases[i].count, cases[i].fields,
			  cases[i].len, NULL, 0);
		a = expect(&c, 0x18);
		assert_condition(&a.fields[0], cases[i].condition);
		close(c.fd);
	}
	put_transfer(&good, 0, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	expect(&good, 0x15);
	client_close(&good);
	rig_down();
}

TEST("a first transfer without a delivery-id does not reach Proton's assertion")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_frame(&c, 0, 0x14, 6, "\x43\x40\xa0\x01t\x43\x42\x41", 8, "x", 1);
	a = expect(&c, 0x18);
	assert_condition(&a.fields[0], "amqp:invalid-field");
	close(c.fd);
	rig_down();
}

TEST("AMQP frames before authentication are not looked at")
{
	struct client c;
	const uint8_t *p;
	size_t len;

	rig_up(AUTH_ANONYMOUS_NEVER);
	client_connect(&c);
	PUT(&c, SASL_HEADER);
	FRAME(&c, 0x10, 1,
	      "\xa1\x01"
	      "c");
	FRAME(&c, 0x11, 4, "\x40\x43\x43\x43");
	flush(&c);
	while (next_frame(&c, &p, &len))
		assert_true(len == 8 || p[5] == 1);
	close(c.fd);
	/* Nor without a SASL layer at all. */
	client_connect(&c);
	put_open(&c);
	flush(&c);
	assert_true(next_frame(&c, &p, &len));
	assert_int_equal(len, 8);
	assert_memory_equal(p, SASL_HEADER, 8);
	assert_false(next_frame(&c, &p, &len));
	close(c.fd);
	rig_down();
}

static uint64_t authenticate(struct client *c, const char *plain, size_t len)
{
	uint8_t fields[64] = "\xa3\x05PLAIN\xa0";

	fields[8] = (uint8_t)len;
	memcpy(fields + 9, plain, len);
	client_connect(c);
	PUT(c, SASL_HEADER);
	put_frame(c, 1, 0x41, 2, fields, 9 + len, NULL, 0);
	return expect(c, 0x44).fields[0].u;
}

TEST("the right password opens the door, again at once, and a wrong one never")
{
	struct client c;

	rig_up(AUTH_ANONYMOUS_NEVER);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(authenticate(&c, "\0ada\0secret", 11), 0);
		put_open(&c);
		expect(&c, 0x11);
		client_close(&c);
		assert_int_equal(authenticate(&c, "\0ada\0secreT", 11), 1);
		close(c.fd);
	}
	assert_int_equal(authenticate(&c, "\0bob\0secret", 11), 1);
	close(c.fd);
	assert_int_equal(authenticate(&c, "ada", 3), 1);
	close(c.fd);
	/* Without users nobody gets in. */
	assert_int_equal(auth_reload(rig.auth, NULL, 0, AUTH_ANONYMOUS_NEVER),
			 0);
	assert_int_equal(authenticate(&c, "\0ada\0secret", 11), 1);
	close(c.fd);
	rig_down();
}

TEST("what does not speak AMQP is told so in one line")
{
	struct client c;
	const char line[] = "Holdfast: this port speaks AMQP 1.0 only\r\n";

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	PUT(&c, "GET / HTTP/1.1\r\n\r\n");
	flush(&c);
	assert_int_equal(recv(c.fd, c.in, sizeof(line) - 1, MSG_WAITALL),
			 sizeof(line) - 1);
	assert_memory_equal(c.in, line, sizeof(line) - 1);
	assert_int_equal(recv(c.fd, c.in, 1, 0), 0);
	close(c.fd);
	/* AMQP 0-9-1 learns what is spoken here. */
	client_connect(&c);
	PUT(&c, "AMQP\x00\x00\x09\x01");
	flush(&c);
	assert_int_equal(recv(c.fd, c.in, 8, MSG_WAITALL), 8);
	assert_memory_equal(c.in, SASL_HEADER, 8);
	close(c.fd);
	rig_down();
}

TEST("closing all answers what is in flight and says why")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	fake.hold = 2;
	client_connect(&c);
	put_open(&c);
	put_sender(&c);
	expect(&c, 0x13);
	put_transfer(&c, 0, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	flush(&c);
	WAIT_FOR(fake.published == 1);
	amqp_close_all(rig.amqp, "going", 20000);
	put_transfer(&c, 1, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	a = expect(&c, 0x15);
	assert_int_equal(a.fields[4].u, 0x24);
	a = expect(&c, 0x18);
	assert_condition(&a.fields[0], "amqp:connection:forced");
	FRAME(&c, 0x18, 0, "");
	flush(&c);
	assert_int_equal(recv(c.fd, c.in, 1, 0), 0);
	close(c.fd);
	rig_down();
}

/* The count of deliveries is what credit is reckoned from. */
static void put_sender_flow(struct client *c, uint32_t delivery_count)
{
	uint8_t fields[] = {0x43, 0x70, 0,    0,    3, 0xe8, 0x43, 0x70, 0,   0,
			    3,	  0xe8, 0x43, 0x70, 0, 0,    0,	   0,	 0x43};

	wire_put32(fields + 14, delivery_count);
	put_frame(c, 0, 0x13, 7, fields, sizeof(fields), NULL, 0);
}

TEST("a transfer on a link that is not attached yet is one without credit")
{
	struct client c;
	struct answer a;

	rig_up(AUTH_ANONYMOUS_ALWAYS);
	client_connect(&c);
	put_open(&c);
	expect(&c, 0x11);
	put_sender(&c);
	put_transfer(&c, 0, false, false, false, WHOLE_MESSAGE,
		     sizeof(WHOLE_MESSAGE) - 1);
	put_sender_flow(&c, 0); /* as if it had not been sent */
	a = expect(&c, 0x16);
	assert_condition(&a.fields[2], "amqp:link:transfer-limit-exceeded");
	assert_int_equal(fake.published, 0);
	client_close(&c);
	rig_down();
}

TEST("a sender can not give itself credit, nor give back what it has not")
{
	static const uint32_t counts[] = {0xfffffe0d, 0x80000001, 0x7fffffff,
					  2000};

	for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
		struct client c;
		struct answer a;

		rig_up(AUTH_ANONYMOUS_ALWAYS);
		client_connect(&c);
		put_open(&c);
		put_sender(&c);
		do {
			a = expect(&c, 0x13);
		} while (a.fields[4].kind == WIRE_NULL);
		assert_int_equal(a.fields[6].u, 1000);
		put_transfer(&c, 0, false, false, false, WHOLE_MESSAGE,
			     sizeof(WHOLE_MESSAGE) - 1);
		expect(&c, 0x15);
		put_sender_flow(&c, counts[i]);
		do {
			a = expect(&c, 0x13);
		} while (a.fields[5].u != counts[i]);
		assert_int_equal(a.fields[6].u, 999);
		client_close(&c);
		rig_down();
	}
}

TEST_MAIN()
