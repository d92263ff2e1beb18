/* bench/load/nats.c: NATS JetStream.
 *
 * A queue is a stream (work-queue retention, on file) with the durable pull
 * consumer "c0"; with fan-out one stream with interest retention has the
 * consumers "c0", "c1", ….  A message is a PUB with a reply subject that says
 * its number; JetStream's answer on that subject confirms it.  A receiver asks
 * for half of its credit at a time and answers each message with +ACK.
 *
 * https://docs.nats.io/reference/reference-protocols/nats-protocol and
 * https://docs.nats.io/reference/reference-protocols/nats_api_reference */
#include <errno.h>
#include <string.h>

#include "bench/load/protocol.h"

#define LINE_BYTES_MAX 8192u
#define PEER_TEXT_MAX 200
#define NAME_BYTES 256u
#define EXPIRES_NS 3600000000000ull

enum step { STEP_HELLO, STEP_STREAM, STEP_CONSUMER, STEP_DONE };

struct pull {
	uint32_t wanted; /* asked for and not yet come */
};

struct nats {
	char inbox[96];
	enum step step;
	bool connected;
	uint32_t declared, consumer; /* of the lane: fan-out has several */
	struct pull *pulls;	     /* by lane */
};

/* A stream's name has no dots. */
static const char *stream_name(const struct wire *w, uint32_t lane,
			       char buf[NAME_BYTES])
{
	snprintf(buf, NAME_BYTES, "%s", w->lanes[lane].address);
	for (char *at = buf; *at; at++) {
		if (strchr(".*> \t/\\", *at))
			*at = '_';
	}
	return buf;
}

static void fail_text(struct wire *w, const char *what, const uint8_t *p,
		      size_t len)
{
	wire_fail(w, "%s: the peer said \"%.*s\"", what,
		  (int)base_min(len, PEER_TEXT_MAX), (const char *)p);
}

static bool contains(const uint8_t *p, size_t len, const char *word)
{
	return memmem(p, len, word, strlen(word)) != NULL;
}

static int nats_open(struct wire *w)
{
	static const char *const roles[] = {"d", "s", "r"};
	struct nats *n = w->part;

	snprintf(n->inbox, sizeof(n->inbox), "_INBOX.%s%s%u", w->terms->tag,
		 roles[w->role], w->index);
	if (w->role == WIRE_RECEIVER) {
		n->pulls = calloc(w->lane_count, sizeof(*n->pulls));
		if (!n->pulls)
			return -ENOMEM;
	}
	return 0;
}

/* ---- what we say ---- */

static void put_connect(struct wire *w)
{
	const struct wire_terms *t = w->terms;
	struct nats *n = w->part;

	wire_putf(w, "CONNECT {\"verbose\":false,\"pedantic\":false,"
		     "\"lang\":\"c\",\"version\":\"1\",\"protocol\":1,"
		     "\"headers\":true,\"no_responders\":true");
	if (t->user)
		wire_putf(w, ",\"user\":\"%s\",\"pass\":\"%s\"", t->user,
			  t->password ? t->password : "");
	wire_putf(w, "}\r\n");
	if (w->role == WIRE_RECEIVER) {
		for (uint32_t i = 0; i < w->lane_count; i++)
			wire_putf(w, "SUB %s.%u %u\r\n", n->inbox, i, i + 1);
	} else {
		wire_putf(w, "SUB %s.* 1\r\n", n->inbox);
	}
	/* Its PONG shows that all of this was understood. */
	wire_putf(w, "PING\r\n");
}

static void put_request(struct wire *w, const char *subject, const char *json)
{
	struct nats *n = w->part;

	wire_putf(w, "PUB %s %s.0 %zu\r\n%s\r\n", subject, n->inbox,
		  strlen(json), json);
}

static void put_stream(struct wire *w)
{
	struct nats *n = w->part;
	char stream[NAME_BYTES], subject[NAME_BYTES + 40], json[1024];

	stream_name(w, n->declared, stream);
	snprintf(subject, sizeof(subject), "$JS.API.STREAM.CREATE.%s", stream);
	snprintf(json, sizeof(json),
		 "{\"name\":\"%s\",\"subjects\":[\"%s\"],\"retention\":\"%s\","
		 "\"storage\":\"file\",\"num_replicas\":1,\"max_consumers\":-1,"
		 "\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":0,"
		 "\"discard\":\"new\"}",
		 stream, w->lanes[n->declared].address,
		 w->terms->topic ? "interest" : "workqueue");
	put_request(w, subject, json);
	n->step = STEP_STREAM;
}

static void put_consumer(struct wire *w)
{
	struct nats *n = w->part;
	uint32_t number = w->lanes[n->declared].number;
	char stream[NAME_BYTES], subject[NAME_BYTES + 60], json[1024];

	stream_name(w, n->declared, stream);
	snprintf(subject, sizeof(subject),
		 "$JS.API.CONSUMER.DURABLE.CREATE.%s.c%u", stream, number);
	snprintf(json, sizeof(json),
		 "{\"stream_name\":\"%s\",\"config\":{\"durable_name\":\"c%u\","
		 "\"deliver_policy\":\"all\",\"ack_policy\":\"explicit\","
		 "\"ack_wait\":60000000000,\"max_deliver\":-1,"
		 "\"replay_policy\":\"instant\",\"max_ack_pending\":-1,"
		 "\"max_waiting\":2048}}",
		 stream, number);
	put_request(w, subject, json);
	n->step = STEP_CONSUMER;
}

static void nats_send(struct wire *w, uint32_t lane)
{
	struct nats *n = w->part;

	wire_putf(w, "PUB %s %s.%llu %zu\r\n", w->lanes[lane].address, n->inbox,
		  (unsigned long long)w->sent, w->payload.len);
	wire_put_payload(w);
	wire_put(w, "\r\n", 2);
}

static void put_pull(struct wire *w, uint32_t lane, uint32_t count)
{
	struct nats *n = w->part;
	char stream[NAME_BYTES], json[96];

	snprintf(json, sizeof(json), "{\"batch\":%u,\"expires\":%llu}", count,
		 EXPIRES_NS);
	wire_putf(w, "PUB $JS.API.CONSUMER.MSG.NEXT.%s.c%u %s.%u %zu\r\n%s\r\n",
		  stream_name(w, lane, stream), w->lanes[lane].number, n->inbox,
		  lane, strlen(json), json);
	n->pulls[lane].wanted += count;
}

/* ---- what the peer says ---- */

struct text {
	const char *at;
	size_t len;
};

/* The words of a line; where they end something else than a digit follows.
 * Returns how many there are, at most `most`. */
static unsigned split(const uint8_t *p, size_t len, struct text *words,
		      unsigned most)
{
	const char *at = (const char *)p, *end = at + len;
	unsigned count = 0;

	while (count < most) {
		while (at < end && (*at == ' ' || *at == '\t'))
			at++;
		if (at == end)
			break;
		words[count].at = at;
		while (at < end && *at != ' ' && *at != '\t')
			at++;
		words[count].len = (size_t)(at - words[count].at);
		count++;
	}
	return count;
}

struct message {
	struct text subject, reply; /* reply may be empty */
	uint32_t sid;
	const uint8_t *headers, *body;
	size_t header_len, body_len;
};

static void on_confirmation(struct wire *w, const struct message *m)
{
	const char *dot = memrchr(m->subject.at, '.', m->subject.len);
	uint64_t at = dot ? (uint64_t)wire_number(dot + 1) : UINT64_MAX;
	enum wire_outcome outcome = WIRE_ACCEPTED;

	if (at >= w->sent) {
		wire_fail(w, "the peer confirmed %.*s, which was never sent",
			  (int)base_min(m->subject.len, PEER_TEXT_MAX),
			  m->subject.at);
		return;
	}
	if (m->header_len || contains(m->body, m->body_len, "\"error\"")) {
		/* A status without a body: 503, nobody listens. */
		if (m->body_len)
			wire_remark(w, (const char *)m->body, m->body_len);
		else
			wire_remark(w, "no stream has this subject", 26);
		outcome = WIRE_REJECTED;
	}
	w->confirmed(w, at, at, outcome);
}

static void on_declared(struct wire *w, const struct message *m)
{
	struct nats *n = w->part;
	bool wrong = contains(m->body, m->body_len, "\"error\"");

	if (m->header_len && !m->body_len) {
		wire_fail(w, "nobody answers for JetStream; is it enabled "
			     "(nats-server -js)?");
	} else if (wrong && n->step == STEP_STREAM) {
		fail_text(w, "the stream cannot be made", m->body, m->body_len);
	} else if (wrong) {
		fail_text(w, "the consumer cannot be made", m->body,
			  m->body_len);
	} else if (n->step == STEP_STREAM) {
		put_consumer(w);
	} else if (++n->declared == w->lane_count) {
		n->step = STEP_DONE;
		wire_become_ready(w);
	} else if (w->terms->topic) {
		put_consumer(w); /* one stream for all */
	} else {
		put_stream(w);
	}
}

/* "$JS.ACK.<stream>.<consumer>.<delivered>.…": delivered counts from 1. */
static bool is_redelivered(struct text reply)
{
	unsigned dots = 0;

	for (size_t i = 0; i < reply.len; i++) {
		if (reply.at[i] == '.' && ++dots == 4)
			return wire_number(reply.at + i + 1) > 1;
	}
	return false;
}

static void on_delivery(struct wire *w, const struct message *m)
{
	struct nats *n = w->part;
	uint32_t lane = m->sid - 1;

	if (m->sid < 1 || lane >= w->lane_count) {
		wire_fail(w, "a message for subscription %u, which is none",
			  m->sid);
		return;
	}
	if (!m->reply.len) {
		/* A status: 404, 408 and 409 end a request. */
		if (contains(m->headers, m->header_len, " 409 ") &&
		    !contains(m->headers, m->header_len, "Exceeded"))
			fail_text(w, "the request for messages failed",
				  m->headers, m->header_len);
		n->pulls[lane].wanted = 0;
		return;
	}
	if (w->state != WIRE_READY)
		return; /* not acknowledged: somebody else will get it */
	if (n->pulls[lane].wanted)
		n->pulls[lane].wanted--;
	w->arrived(w, lane, m->body, m->body_len, is_redelivered(m->reply));
	wire_putf(w, "PUB %.*s 4\r\n+ACK\r\n", (int)m->reply.len, m->reply.at);
}

static void on_message(struct wire *w, const struct message *m)
{
	switch (w->role) {
	case WIRE_SETUP:
		on_declared(w, m);
		break;
	case WIRE_SENDER:
		on_confirmation(w, m);
		break;
	case WIRE_RECEIVER:
		on_delivery(w, m);
		break;
	}
}

/* "MSG <subject> <sid> [reply] <bytes>", or HMSG with one number more, in
 * `line` bytes, and what follows. */
static size_t take_message(struct wire *w, const uint8_t *p, size_t line,
			   size_t len, bool has_headers)
{
	struct message m = {0};
	struct text words[7];
	unsigned count = split(p, line - 2, words, ARRAY_COUNT(words));
	unsigned numbers = has_headers ? 2 : 1;
	size_t all;

	if (count != 3 + numbers && count != 4 + numbers) {
		fail_text(w, "a message that is none", p, line - 2);
		return 0;
	}
	all = (uint64_t)wire_number(words[count - 1].at);
	if (has_headers)
		m.header_len = (uint64_t)wire_number(words[count - 2].at);
	if (all > PAYLOAD_BYTES_MAX || m.header_len > all) {
		fail_text(w, "a message that is too large", p, line - 2);
		return 0;
	}
	if (len - line < all + 2)
		return 0;
	m.subject = words[1];
	m.sid = (uint32_t)strtoul(words[2].at, NULL, 10);
	if (count == 4 + numbers)
		m.reply = words[3];
	m.headers = p + line;
	m.body = m.headers + m.header_len;
	m.body_len = all - m.header_len;
	on_message(w, &m);
	return line + all + 2;
}

static void on_pong(struct wire *w)
{
	struct nats *n = w->part;

	if (w->state == WIRE_CLOSING)
		w->state = WIRE_CLOSED;
	if (n->connected)
		return;
	n->connected = true;
	if (w->role == WIRE_SETUP)
		put_stream(w);
	else
		wire_become_ready(w);
}

static size_t nats_input(struct wire *w, const uint8_t *p, size_t len)
{
	const uint8_t *end = memchr(p, '\n', base_min(len, 65536));
	size_t line = end ? (size_t)(end - p) + 1 : 0;

	if (!end) {
		if (len >= 65536)
			fail_text(w, "the peer is not a NATS server", p, len);
		return 0;
	}
	if (line >= 5 && !memcmp(p, "INFO ", 5)) {
		if (!((struct nats *)w->part)->connected)
			put_connect(w);
	} else if (line < 3 || end[-1] != '\r' || line > LINE_BYTES_MAX) {
		fail_text(w, "the peer is not a NATS server", p, line);
	} else if (!memcmp(p, "MSG ", 4)) {
		return take_message(w, p, line, len, false);
	} else if (line > 5 && !memcmp(p, "HMSG ", 5)) {
		return take_message(w, p, line, len, true);
	} else if (!memcmp(p, "PING", 4)) {
		wire_putf(w, "PONG\r\n");
	} else if (!memcmp(p, "PONG", 4)) {
		on_pong(w);
	} else if (!memcmp(p, "-ERR", 4)) {
		fail_text(w, "refused", p, line - 2);
	} else if (memcmp(p, "+OK", 3) != 0) {
		fail_text(w, "the peer is not a NATS server", p, line - 2);
	}
	return line;
}

static void nats_flush(struct wire *w, uint64_t now_ns)
{
	struct nats *n = w->part;
	uint32_t credit = w->terms->credit, half = (credit + 1) / 2;

	if (w->role != WIRE_RECEIVER || w->state != WIRE_READY)
		return;
	for (uint32_t i = 0; i < w->lane_count; i++) {
		if (n->pulls[i].wanted == 0)
			put_pull(w, i, half);
		if (n->pulls[i].wanted <= credit - half && credit > half)
			put_pull(w, i, credit - half);
	}
}

/* NATS knows no goodbye; a PONG comes after all that we said was read. */
static void nats_close(struct wire *w)
{
	wire_putf(w, "PING\r\n");
}

static void nats_fini(struct wire *w)
{
	free(((struct nats *)w->part)->pulls);
}

const struct protocol protocol_nats = {
	.name = "nats",
	.peers = "NATS JetStream",
	.port = 4222,
	.setup = PROTOCOL_SETUP_ALWAYS,
	.fans_out = true,
	.part_bytes = sizeof(struct nats),
	.open = nats_open,
	.input = nats_input,
	.send = nats_send,
	.flush = nats_flush,
	.close = nats_close,
	.fini = nats_fini,
};
