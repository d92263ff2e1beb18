/* bench/load/stomp.c: STOMP 1.2, for ActiveMQ Classic.
 *
 * A message is a SEND with a receipt that says its number; persistent.  A
 * receiver subscribes with ack:client-individual and a prefetch of its credit.
 * Fan-out is Classic's: the topic VirtualTopic.NAME, from which each of the
 * queues Consumer.<n>.VirtualTopic.NAME gets a copy once it exists, which is
 * what the setup sees to.
 *
 * https://stomp.github.io/stomp-specification-1.2.html */
#include <string.h>

#include "bench/load/protocol.h"

#define HEAD_BYTES_MAX 16384u
#define PEER_TEXT_MAX 200

struct stomp {
	uint32_t subscribed; /* receipts that have come */
	bool connected;
};

struct text {
	const char *at;
	size_t len;
};

struct frame {
	struct text command;
	const char *headers, *end; /* lines "name:value" */
	const uint8_t *body;
	size_t body_len;
};

/* The first header of this name counts (STOMP 1.2, Repeated Header Entries).
 * Its value is as it came: escapes are neither needed nor removed, so that an
 * ack id goes back as it was. */
static struct text header(const struct frame *f, const char *name)
{
	size_t name_len = strlen(name);

	for (const char *at = f->headers; at < f->end;) {
		const char *eol = memchr(at, '\n', (size_t)(f->end - at));
		size_t len = (size_t)((eol ? eol : f->end) - at);

		if (len > name_len && at[name_len] == ':' &&
		    !memcmp(at, name, name_len)) {
			struct text t = {at + name_len + 1, len - name_len - 1};

			if (t.len && t.at[t.len - 1] == '\r')
				t.len--;
			return t;
		}
		at += len + 1;
	}
	return (struct text){NULL, 0};
}

static bool is(struct text t, const char *word)
{
	return t.at && t.len == strlen(word) && !memcmp(t.at, word, t.len);
}

static uint64_t number(struct text t)
{
	return t.at ? (uint64_t)wire_number(t.at) : UINT64_MAX;
}

static int stomp_open(struct wire *w)
{
	const struct wire_terms *t = w->terms;

	wire_putf(w, "CONNECT\naccept-version:1.2\nhost:%s\nheart-beat:0,0\n",
		  t->host);
	if (t->user)
		wire_putf(w, "login:%s\npasscode:%s\n", t->user,
			  t->password ? t->password : "");
	wire_put(w, "\n\0\n", 3);
	return 0;
}

/* ---- destinations ---- */

static void put_target(struct wire *w, uint32_t lane)
{
	if (w->terms->topic)
		wire_putf(w, "destination:/topic/VirtualTopic.%s\n",
			  w->terms->topic);
	else
		wire_putf(w, "destination:/queue/%s\n", w->lanes[lane].address);
}

static void put_source(struct wire *w, uint32_t lane)
{
	if (w->terms->topic)
		wire_putf(w, "destination:/queue/Consumer.%u.VirtualTopic.%s\n",
			  w->lanes[lane].number, w->terms->topic);
	else
		wire_putf(w, "destination:/queue/%s\n", w->lanes[lane].queue);
}

static void subscribe(struct wire *w)
{
	for (uint32_t i = 0; i < w->lane_count; i++) {
		wire_putf(w,
			  "SUBSCRIBE\nid:%u\nack:client-individual\n"
			  "activemq.prefetchSize:%u\nreceipt:sub-%u\n",
			  i, w->terms->credit, i);
		put_source(w, i);
		wire_put(w, "\n\0", 2);
	}
}

static void stomp_send(struct wire *w, uint32_t lane)
{
	wire_putf(w, "SEND\n");
	put_target(w, lane);
	wire_putf(w, "persistent:true\nreceipt:%llu\ncontent-length:%zu\n\n",
		  (unsigned long long)w->sent, w->payload.len);
	wire_put_payload(w);
	wire_put(w, "\0", 1);
}

/* ---- frames of the peer ---- */

static void fail_error(struct wire *w, const struct frame *f)
{
	struct text t = header(f, "message");

	if (!t.at)
		t = (struct text){(const char *)f->body, f->body_len};
	wire_fail(w, "the peer said \"%.*s\"",
		  (int)base_min(t.len, PEER_TEXT_MAX), t.at);
}

static void on_connected(struct wire *w)
{
	struct stomp *s = w->part;

	s->connected = true;
	if (w->role == WIRE_SENDER)
		wire_become_ready(w);
	else
		subscribe(w);
}

static void on_receipt(struct wire *w, const struct frame *f)
{
	struct stomp *s = w->part;
	struct text id = header(f, "receipt-id");

	if (is(id, "bye")) {
		w->state = WIRE_CLOSED;
	} else if (w->role != WIRE_SENDER) {
		if (++s->subscribed == w->lane_count)
			wire_become_ready(w);
	} else if (number(id) >= w->sent) {
		wire_fail(w,
			  "the peer confirmed \"%.*s\", which was never sent",
			  (int)base_min(id.len, PEER_TEXT_MAX),
			  id.at ? id.at : "");
	} else {
		w->confirmed(w, number(id), number(id), WIRE_ACCEPTED);
	}
}

static void on_message(struct wire *w, const struct frame *f)
{
	struct text ack = header(f, "ack");
	uint64_t lane = number(header(f, "subscription"));

	if (!ack.at || lane >= w->lane_count) {
		wire_fail(w, "the peer sent a MESSAGE without ack or with an "
			     "unknown subscription");
		return;
	}
	/* A queue is made by subscribing; what is in it is not ours yet. */
	if (w->role == WIRE_SETUP || w->state == WIRE_CLOSING)
		return; /* not acknowledged: somebody else will get it */
	w->arrived(w, (uint32_t)lane, f->body, f->body_len,
		   is(header(f, "redelivered"), "true"));
	wire_putf(w, "ACK\nid:%.*s\n\n", (int)ack.len, ack.at);
	wire_put(w, "\0", 1);
}

static void on_frame(struct wire *w, const struct frame *f)
{
	if (is(f->command, "RECEIPT"))
		on_receipt(w, f);
	else if (is(f->command, "MESSAGE"))
		on_message(w, f);
	else if (is(f->command, "CONNECTED"))
		on_connected(w);
	else if (is(f->command, "ERROR"))
		fail_error(w, f);
	else
		wire_fail(w, "the peer sent a frame \"%.*s\"",
			  (int)base_min(f->command.len, 40), f->command.at);
}

/* Where the empty line after the headers ends; NULL: not yet. */
static const uint8_t *find_body(const uint8_t *p, size_t len)
{
	const uint8_t *end = p + base_min(len, HEAD_BYTES_MAX);

	for (const uint8_t *at = p; (at = memchr(at, '\n', (size_t)(end - at)));
	     at++) {
		if (at + 1 < end && at[1] == '\n')
			return at + 2;
		if (at + 2 < end && at[1] == '\r' && at[2] == '\n')
			return at + 3;
	}
	return NULL;
}

static size_t stomp_input(struct wire *w, const uint8_t *p, size_t len)
{
	const uint8_t *body, *eol, *nul;
	struct frame f;
	uint64_t length;

	if (*p == '\n' || *p == '\r')
		return 1; /* between frames, and heartbeats */
	body = find_body(p, len);
	if (!body) {
		if (len >= HEAD_BYTES_MAX)
			wire_fail(w, "the peer does not speak STOMP");
		return 0;
	}
	eol = memchr(p, '\n', len);
	f.command = (struct text){(const char *)p, (size_t)(eol - p)};
	if (f.command.len && eol[-1] == '\r')
		f.command.len--;
	f.headers = (const char *)eol + 1;
	f.end = (const char *)body - 1;
	f.body = body;
	length = number(header(&f, "content-length"));
	if (length != UINT64_MAX) {
		if (length > PAYLOAD_BYTES_MAX) {
			wire_fail(w, "the peer sent a body that is too large");
			return 0;
		}
		if ((size_t)(p + len - body) < length + 1)
			return 0;
		f.body_len = length;
	} else {
		nul = memchr(body, 0, (size_t)(p + len - body));
		if (!nul)
			return 0;
		f.body_len = (size_t)(nul - body);
	}
	on_frame(w, &f);
	return (size_t)(body - p) + f.body_len + 1;
}

static void stomp_close(struct wire *w)
{
	wire_putf(w, "DISCONNECT\nreceipt:bye\n\n");
	wire_put(w, "\0", 1);
}

const struct protocol protocol_stomp = {
	.name = "stomp",
	.peers = "ActiveMQ Classic",
	.port = 61613,
	.setup = PROTOCOL_SETUP_FAN_OUT,
	.fans_out = true,
	.part_bytes = sizeof(struct stomp),
	.open = stomp_open,
	.input = stomp_input,
	.send = stomp_send,
	.close = stomp_close,
};
