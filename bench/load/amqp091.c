/* bench/load/amqp091.c: AMQP 0.9.1, for RabbitMQ.
 *
 * One connection, one channel.  A queue is durable and a quorum queue (or a
 * classic one, on request); messages are persistent and published with
 * confirms through the default exchange, or with fan-out through a durable
 * fanout exchange.  Acknowledgements of a turn become one, with `multiple`.
 * The setup declares one after another: RabbitMQ 3.10 fails when a quorum
 * queue is declared twice at the same time.
 *
 * https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf */
#include <string.h>

#include "bench/load/protocol.h"

#define FRAME_METHOD 1u
#define FRAME_HEADER 2u
#define FRAME_BODY 3u
#define FRAME_HEARTBEAT 8u
#define FRAME_END 0xceu
#define FRAME_BYTES_MAX (16u << 20)
#define FRAME_BYTES_OURS (128u * 1024u)
#define PEER_TEXT_MAX 200
#define REPLY_SUCCESS 200u

#define METHOD(class, method) ((uint32_t)(class) << 16 | (method))
enum method {
	CONNECTION_START = METHOD(10, 10),
	CONNECTION_START_OK = METHOD(10, 11),
	CONNECTION_TUNE = METHOD(10, 30),
	CONNECTION_TUNE_OK = METHOD(10, 31),
	CONNECTION_OPEN = METHOD(10, 40),
	CONNECTION_OPEN_OK = METHOD(10, 41),
	CONNECTION_CLOSE = METHOD(10, 50),
	CONNECTION_CLOSE_OK = METHOD(10, 51),
	CHANNEL_OPEN = METHOD(20, 10),
	CHANNEL_OPEN_OK = METHOD(20, 11),
	CHANNEL_CLOSE = METHOD(20, 40),
	EXCHANGE_DECLARE = METHOD(40, 10),
	EXCHANGE_DECLARE_OK = METHOD(40, 11),
	QUEUE_DECLARE = METHOD(50, 10),
	QUEUE_DECLARE_OK = METHOD(50, 11),
	QUEUE_BIND = METHOD(50, 20),
	QUEUE_BIND_OK = METHOD(50, 21),
	BASIC_QOS = METHOD(60, 10),
	BASIC_QOS_OK = METHOD(60, 11),
	BASIC_CONSUME = METHOD(60, 20),
	BASIC_CONSUME_OK = METHOD(60, 21),
	BASIC_CANCEL = METHOD(60, 30),
	BASIC_PUBLISH = METHOD(60, 40),
	BASIC_DELIVER = METHOD(60, 60),
	BASIC_ACK = METHOD(60, 80),
	BASIC_NACK = METHOD(60, 120),
	CONFIRM_SELECT = METHOD(85, 10),
	CONFIRM_SELECT_OK = METHOD(85, 11),
};

struct amqp091 {
	uint32_t frame_bytes_max;
	uint32_t declared, consumed;
	/* the delivery whose frames are coming */
	bool in_delivery, redelivered;
	uint32_t lane;
	uint64_t tag, body_size;
	uint8_t *body; /* of several frames */
	size_t body_len, body_capacity;
	uint64_t acknowledge; /* up to this tag; 0: nothing */
};

/* ---- fields, big-endian; a cursor is sticky ---- */

struct cursor {
	const uint8_t *p, *end;
	bool bad;
};

static uint64_t take(struct cursor *c, unsigned bytes)
{
	uint64_t n = 0;

	if ((size_t)(c->end - c->p) < bytes) {
		c->bad = true;
		c->p = c->end;
		return 0;
	}
	while (bytes--)
		n = n << 8 | *c->p++;
	return n;
}

static const char *take_text(struct cursor *c, size_t *ret_len)
{
	size_t len = take(c, 1);
	const char *text = (const char *)c->p;

	if ((size_t)(c->end - c->p) < len) {
		c->bad = true;
		len = 0;
	}
	c->p += len;
	*ret_len = len;
	return text;
}

static void put(struct wire *w, uint64_t n, unsigned bytes)
{
	uint8_t *p = wire_room(w, bytes);

	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(n >> 8 * (bytes - 1 - i));
	wire_commit(w, bytes);
}

static void put_short(struct wire *w, const char *text)
{
	size_t len = base_min(strlen(text), 255);

	put(w, len, 1);
	wire_put(w, text, len);
}

static void put_long(struct wire *w, const char *text, size_t len)
{
	put(w, len, 4);
	wire_put(w, text, len);
}

/* Where the frame's size belongs, as an offset that survives growth. */
static size_t begin_frame(struct wire *w, unsigned type, unsigned channel)
{
	put(w, type, 1);
	put(w, channel, 2);
	put(w, 0, 4);
	return w->out.len - w->out.at;
}

static void end_frame(struct wire *w, size_t begun)
{
	uint8_t *start = w->out.data + w->out.at + begun;
	uint32_t size = (uint32_t)(w->out.data + w->out.len - start);

	size = __builtin_bswap32(size);
	memcpy(start - 4, &size, 4);
	put(w, FRAME_END, 1);
}

static size_t begin_method(struct wire *w, enum method method)
{
	size_t begun = begin_frame(w, FRAME_METHOD, method >> 16 != 10);

	put(w, method, 4);
	return begun;
}

/* ---- what we say ---- */

/* One client property: without it RabbitMQ refuses a login by hanging up. */
static void put_properties(struct wire *w)
{
	static const char outer[] = "capabilities";
	static const char inner[] = "authentication_failure_close";
	uint32_t inner_len = 1 + sizeof(inner) - 1 + 2;

	put(w, 1 + sizeof(outer) - 1 + 1 + 4 + inner_len, 4);
	put_short(w, outer);
	put(w, 'F', 1);
	put(w, inner_len, 4);
	put_short(w, inner);
	put(w, 't', 1);
	put(w, 1, 1);
}

static void put_start_ok(struct wire *w)
{
	const struct wire_terms *t = w->terms;
	const char *user = t->user ? t->user : "guest";
	const char *password = t->user ? t->password : "guest";
	size_t begun = begin_method(w, CONNECTION_START_OK);
	char login[600];
	int n;

	put_properties(w);
	put_short(w, "PLAIN");
	n = snprintf(login, sizeof(login), "%c%s%c%s", 0, user, 0,
		     password ? password : "");
	put_long(w, login, base_min((size_t)n, sizeof(login) - 1));
	put_short(w, "en_US");
	end_frame(w, begun);
}

static void put_open(struct wire *w, struct cursor *tune)
{
	struct amqp091 *a = w->part;
	uint64_t channels = take(tune, 2), frame = take(tune, 4);
	size_t begun;

	if (!frame || frame > FRAME_BYTES_OURS)
		frame = FRAME_BYTES_OURS;
	a->frame_bytes_max = (uint32_t)base_max(frame, 4096);
	begun = begin_method(w, CONNECTION_TUNE_OK);
	put(w, channels, 2);
	put(w, a->frame_bytes_max, 4);
	put(w, 0, 2); /* no heartbeats */
	end_frame(w, begun);
	begun = begin_method(w, CONNECTION_OPEN);
	put_short(w, "/");
	put_short(w, "");
	put(w, 0, 1);
	end_frame(w, begun);
	begun = begin_method(w, CHANNEL_OPEN);
	put_short(w, "");
	end_frame(w, begun);
}

static void put_queue(struct wire *w)
{
	struct amqp091 *a = w->part;
	const char *type = w->terms->classic ? "classic" : "quorum";
	size_t begun = begin_method(w, QUEUE_DECLARE);

	put(w, 0, 2);
	put_short(w, w->lanes[a->declared].queue);
	put(w, 2, 1); /* durable */
	put(w, 1 + 12 + 1 + 4 + strlen(type), 4);
	put_short(w, "x-queue-type");
	put(w, 'S', 1);
	put_long(w, type, strlen(type));
	end_frame(w, begun);
}

static void put_exchange(struct wire *w)
{
	size_t begun = begin_method(w, EXCHANGE_DECLARE);

	put(w, 0, 2);
	put_short(w, w->terms->topic);
	put_short(w, "fanout");
	put(w, 2, 1); /* durable */
	put(w, 0, 4);
	end_frame(w, begun);
}

static void put_bind(struct wire *w)
{
	struct amqp091 *a = w->part;
	size_t begun = begin_method(w, QUEUE_BIND);

	put(w, 0, 2);
	put_short(w, w->lanes[a->declared].queue);
	put_short(w, w->terms->topic);
	put_short(w, "");
	put(w, 0, 1);
	put(w, 0, 4);
	end_frame(w, begun);
}

static void put_consume(struct wire *w)
{
	size_t begun = begin_method(w, BASIC_QOS);
	char tag[16];

	put(w, 0, 4);
	put(w, base_min(w->terms->credit, 65535), 2);
	put(w, 0, 1);
	end_frame(w, begun);
	for (uint32_t i = 0; i < w->lane_count; i++) {
		begun = begin_method(w, BASIC_CONSUME);
		put(w, 0, 2);
		put_short(w, w->lanes[i].queue);
		snprintf(tag, sizeof(tag), "%u", i);
		put_short(w, tag);
		put(w, 0, 1); /* with acknowledgements */
		put(w, 0, 4);
		end_frame(w, begun);
	}
}

static void put_confirm_select(struct wire *w)
{
	size_t begun = begin_method(w, CONFIRM_SELECT);

	put(w, 0, 1);
	end_frame(w, begun);
}

static void amqp091_send(struct wire *w, uint32_t lane)
{
	const struct amqp091 *a = w->part;
	size_t most = a->frame_bytes_max - 8;
	size_t begun = begin_method(w, BASIC_PUBLISH);

	put(w, 0, 2);
	put_short(w, w->terms->topic ? w->terms->topic : "");
	put_short(w, w->terms->topic ? "" : w->lanes[lane].address);
	put(w, 0, 1);
	end_frame(w, begun);
	begun = begin_frame(w, FRAME_HEADER, 1);
	put(w, 60, 2);
	put(w, 0, 2);
	put(w, w->payload.len, 8);
	put(w, 0x1000, 2); /* delivery-mode: */
	put(w, 2, 1);	   /* persistent */
	end_frame(w, begun);
	for (size_t at = 0; at < w->payload.len; at += most) {
		size_t n = base_min(most, w->payload.len - at);

		begun = begin_frame(w, FRAME_BODY, 1);
		payload_copy(&w->payload, at, n, wire_room(w, n));
		wire_commit(w, n);
		end_frame(w, begun);
	}
}

/* ---- methods of the peer ---- */

static void fail_close(struct wire *w, const char *what, struct cursor *c)
{
	unsigned code = (unsigned)take(c, 2);
	size_t len;
	const char *text = take_text(c, &len);

	wire_fail(w, "the peer closed the %s: %u %.*s", what, code,
		  (int)base_min(len, PEER_TEXT_MAX), text);
}

static void on_channel(struct wire *w)
{
	switch (w->role) {
	case WIRE_SETUP:
		if (w->terms->topic)
			put_exchange(w);
		else
			put_queue(w);
		break;
	case WIRE_SENDER:
		put_confirm_select(w);
		break;
	case WIRE_RECEIVER:
		put_consume(w);
		break;
	}
}

static void on_declared(struct wire *w)
{
	struct amqp091 *a = w->part;

	if (++a->declared < w->lane_count)
		put_queue(w);
	else
		wire_become_ready(w);
}

static void on_outcome(struct wire *w, struct cursor *c,
		       enum wire_outcome outcome)
{
	uint64_t tag = take(c, 8);
	bool multiple = take(c, 1) & 1;

	if (c->bad || !tag || tag > w->sent) {
		wire_fail(w, "the peer confirmed message %llu of %llu",
			  (unsigned long long)tag, (unsigned long long)w->sent);
		return;
	}
	if (outcome == WIRE_REJECTED)
		wire_remark(w, "basic.nack", 10);
	w->confirmed(w, multiple ? 0 : tag - 1, tag - 1, outcome);
}

static void on_deliver(struct wire *w, struct cursor *c)
{
	struct amqp091 *a = w->part;
	size_t len;
	const char *consumer = take_text(c, &len);
	uint64_t lane = 0;

	for (size_t i = 0; i < len && lane < w->lane_count; i++)
		lane = lane * 10 + (uint64_t)(consumer[i] - '0');
	a->tag = take(c, 8);
	a->redelivered = take(c, 1) & 1;
	if (c->bad || lane >= w->lane_count || a->in_delivery) {
		wire_fail(w, "the peer sent a delivery that is none");
		return;
	}
	a->lane = (uint32_t)lane;
	a->in_delivery = true;
	a->body_size = UINT64_MAX; /* until the header */
	a->body_len = 0;
}

static void on_method(struct wire *w, struct cursor *c)
{
	struct amqp091 *a = w->part;
	uint32_t method = (uint32_t)take(c, 4);

	switch (method) {
	case CONNECTION_START:
		put_start_ok(w);
		break;
	case CONNECTION_TUNE:
		put_open(w, c);
		break;
	case CONNECTION_CLOSE:
		fail_close(w, "connection", c);
		break;
	case CONNECTION_CLOSE_OK:
		w->state = WIRE_CLOSED;
		break;
	case CHANNEL_OPEN_OK:
		on_channel(w);
		break;
	case CHANNEL_CLOSE:
		fail_close(w, "channel", c);
		break;
	case EXCHANGE_DECLARE_OK:
		put_queue(w);
		break;
	case QUEUE_DECLARE_OK:
		if (w->terms->topic)
			put_bind(w);
		else
			on_declared(w);
		break;
	case QUEUE_BIND_OK:
		on_declared(w);
		break;
	case CONFIRM_SELECT_OK:
		wire_become_ready(w);
		break;
	case BASIC_CONSUME_OK:
		if (++a->consumed == w->lane_count)
			wire_become_ready(w);
		break;
	case BASIC_CANCEL:
		wire_fail(w, "the peer cancelled a consumer: its queue is "
			     "gone");
		break;
	case BASIC_DELIVER:
		on_deliver(w, c);
		break;
	case BASIC_ACK:
		on_outcome(w, c, WIRE_ACCEPTED);
		break;
	case BASIC_NACK:
		on_outcome(w, c, WIRE_REJECTED);
		break;
	case CONNECTION_OPEN_OK:
	case BASIC_QOS_OK:
		break;
	default:
		wire_fail(w, "the peer sent method %u.%u", method >> 16,
			  method & 0xffff);
	}
}

/* ---- content ---- */

static void deliver(struct wire *w, const uint8_t *body)
{
	struct amqp091 *a = w->part;

	a->in_delivery = false;
	/* While closing: not acknowledged, somebody else will get it. */
	if (w->state == WIRE_CLOSING)
		return;
	w->arrived(w, a->lane, body, a->body_size, a->redelivered);
	a->acknowledge = a->tag;
}

static void on_header(struct wire *w, struct cursor *c)
{
	struct amqp091 *a = w->part;

	take(c, 4);
	a->body_size = take(c, 8);
	if (c->bad || !a->in_delivery || a->body_size > PAYLOAD_BYTES_MAX)
		wire_fail(w, "the peer sent a header that belongs to nothing");
	else if (!a->body_size)
		deliver(w, c->p);
}

static void on_body(struct wire *w, struct cursor *c)
{
	struct amqp091 *a = w->part;
	size_t len = (size_t)(c->end - c->p);

	if (!a->in_delivery || a->body_size == UINT64_MAX ||
	    len > a->body_size - a->body_len) {
		wire_fail(w, "the peer sent a body that belongs to nothing");
		return;
	}
	if (len == a->body_size) {
		deliver(w, c->p);
		return;
	}
	if (a->body_capacity < a->body_size) {
		free(a->body);
		a->body_capacity = a->body_size;
		a->body = malloc(a->body_capacity);
		ASSERT(a->body);
	}
	memcpy(a->body + a->body_len, c->p, len);
	a->body_len += len;
	if (a->body_len == a->body_size)
		deliver(w, a->body);
}

static size_t amqp091_input(struct wire *w, const uint8_t *p, size_t len)
{
	struct cursor c = {p, p + len, false};
	unsigned type;
	uint64_t size;

	if (len < 7)
		return 0;
	if (!memcmp(p, "AMQP", 4)) {
		wire_fail(w, "the peer does not speak AMQP 0.9.1");
		return 0;
	}
	type = (unsigned)take(&c, 1);
	take(&c, 2);
	size = take(&c, 4);
	if (size > FRAME_BYTES_MAX) {
		wire_fail(w, "the peer sent a frame with a wrong size");
		return 0;
	}
	if (len - 7 < size + 1)
		return 0;
	if (p[7 + size] != FRAME_END) {
		wire_fail(w, "the peer sent a frame without its end");
		return 0;
	}
	c.end = p + 7 + size;
	if (type == FRAME_METHOD)
		on_method(w, &c);
	else if (type == FRAME_HEADER)
		on_header(w, &c);
	else if (type == FRAME_BODY)
		on_body(w, &c);
	else if (type != FRAME_HEARTBEAT)
		wire_fail(w, "the peer sent a frame of type %u", type);
	return 7 + size + 1;
}

static int amqp091_open(struct wire *w)
{
	static const uint8_t greeting[8] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};

	wire_put(w, greeting, sizeof(greeting));
	return 0;
}

static void amqp091_flush(struct wire *w, uint64_t now_ns)
{
	struct amqp091 *a = w->part;
	size_t begun;

	if (!a->acknowledge)
		return;
	begun = begin_method(w, BASIC_ACK);
	put(w, a->acknowledge, 8);
	put(w, 1, 1);
	end_frame(w, begun);
	a->acknowledge = 0;
}

static void amqp091_close(struct wire *w)
{
	size_t begun;

	amqp091_flush(w, 0);
	begun = begin_method(w, CONNECTION_CLOSE);
	put(w, REPLY_SUCCESS, 2);
	put_short(w, "");
	put(w, 0, 4);
	end_frame(w, begun);
}

static void amqp091_fini(struct wire *w)
{
	free(((struct amqp091 *)w->part)->body);
}

const struct protocol protocol_amqp091 = {
	.name = "amqp091",
	.peers = "RabbitMQ (quorum or classic queues)",
	.port = 5672,
	.setup = PROTOCOL_SETUP_ALWAYS,
	.fans_out = true,
	.part_bytes = sizeof(struct amqp091),
	.open = amqp091_open,
	.input = amqp091_input,
	.send = amqp091_send,
	.flush = amqp091_flush,
	.close = amqp091_close,
	.fini = amqp091_fini,
};
