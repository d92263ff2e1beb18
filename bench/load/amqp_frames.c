/* bench/load/amqp_frames.c: see amqp_frames.h. */
#include "bench/load/amqp_frames.h"

#include <string.h>

#define MESSAGE_HEAD_BYTES 15u

/* ---- values ---- */

static void put8(struct wire *w, unsigned v)
{
	uint8_t byte = (uint8_t)v;

	wire_put(w, &byte, 1);
}

static void put32(struct wire *w, uint32_t v)
{
	v = __builtin_bswap32(v);
	wire_put(w, &v, 4);
}

static void put_uint(struct wire *w, uint32_t v)
{
	put8(w, 0x70);
	put32(w, v);
}

static void put_bytes(struct wire *w, unsigned type, const void *data,
		      size_t len)
{
	put8(w, type);
	put32(w, (uint32_t)len);
	wire_put(w, data, len);
}

static void put_string(struct wire *w, const char *text)
{
	put_bytes(w, 0xb1, text, strlen(text));
}

static void put_nulls(struct wire *w, unsigned count)
{
	while (count--)
		put8(w, 0x40);
}

/* Offsets into what is in out, because it may move. */
static size_t mark(const struct wire *w)
{
	return w->out.len - w->out.at;
}

static void patch(struct wire *w, size_t at, size_t value)
{
	uint32_t v = __builtin_bswap32((uint32_t)value);

	memcpy(w->out.data + w->out.at + at, &v, 4);
}

static size_t begin_frame(struct wire *w, unsigned type)
{
	size_t begun = mark(w);

	put32(w, 0);
	put32(w, 2u << 24 | type << 16);
	return begun;
}

static void end_frame(struct wire *w, size_t begun)
{
	patch(w, begun, mark(w) - begun);
}

/* A described list32; returns where its size belongs. */
static size_t begin_list(struct wire *w, unsigned code, uint32_t count)
{
	size_t begun;

	put8(w, 0x00);
	put8(w, 0x53);
	put8(w, code);
	put8(w, 0xd0);
	begun = mark(w);
	put32(w, 0);
	put32(w, count);
	return begun;
}

static void end_list(struct wire *w, size_t begun)
{
	patch(w, begun, mark(w) - begun - 4);
}

/* ---- what we say ---- */

void amqp_frames_sasl_init(struct wire *w)
{
	const struct wire_terms *t = w->terms;
	size_t frame = begin_frame(w, 1), list = begin_list(w, SASL_INIT, 2);
	char login[600];
	int n;

	if (t->user) {
		put_bytes(w, 0xb3, "PLAIN", 5);
		n = snprintf(login, sizeof(login), "%c%s%c%s", 0, t->user, 0,
			     t->password ? t->password : "");
		put_bytes(w, 0xb0, login,
			  base_min((size_t)n, sizeof(login) - 1));
	} else {
		put_bytes(w, 0xb3, "ANONYMOUS", 9);
		put_bytes(w, 0xb0, "load", 4);
	}
	end_list(w, list);
	end_frame(w, frame);
}

void amqp_frames_open(struct wire *w)
{
	size_t frame = begin_frame(w, 0), list = begin_list(w, OPEN, 4);
	char id[96];

	snprintf(id, sizeof(id), "load-%s-%d-%u", w->terms->tag, (int)w->role,
		 w->index);
	put_string(w, id);
	put_string(w, w->terms->host);
	put_uint(w, AMQP_FRAMES_BYTES_MAX);
	put8(w, 0x60); /* channel-max 0 */
	put8(w, 0);
	put8(w, 0);
	end_list(w, list);
	end_frame(w, frame);

	frame = begin_frame(w, 0);
	list = begin_list(w, BEGIN, 4);
	put_nulls(w, 1);
	put_uint(w, 0);
	put_uint(w, AMQP_FRAMES_WINDOW);
	put_uint(w, AMQP_FRAMES_WINDOW);
	end_list(w, list);
	end_frame(w, frame);
}

/* Source and target; the far one has the address.  The capability says what
 * is to be made where nothing is yet. */
static void put_terminus(struct wire *w, bool source, bool ours, uint32_t lane)
{
	const char *kind = w->terms->topic ? "topic" : "queue";
	uint32_t fields = ours ? 1 : source ? 11 : 7;
	size_t list = begin_list(w, source ? 0x28 : 0x29, fields);

	if (ours) {
		put_nulls(w, 1);
	} else {
		put_string(w, source ? w->lanes[lane].queue
				     : w->lanes[lane].address);
		put_nulls(w, fields - 2);
		put_bytes(w, 0xb3, kind, strlen(kind));
	}
	end_list(w, list);
}

void amqp_frames_attach(struct wire *w, uint32_t lane)
{
	bool sends = w->role == WIRE_SENDER;
	size_t frame = begin_frame(w, 0),
	       list = begin_list(w, ATTACH, sends ? 10 : 7);
	char name[96];

	snprintf(name, sizeof(name), "load-%s-%d-%u.%u", w->terms->tag,
		 (int)w->role, w->index, lane);
	put_string(w, name);
	put_uint(w, lane);
	put8(w, sends ? 0x42 : 0x41); /* role */
	put8(w, 0x50);
	put8(w, 0); /* sender settles: unsettled */
	put8(w, 0x50);
	put8(w, 0); /* receiver settles: first */
	put_terminus(w, true, sends, lane);
	put_terminus(w, false, !sends, lane);
	if (sends) {
		put_nulls(w, 1); /* unsettled */
		put8(w, 0x42);	 /* incomplete-unsettled */
		put_uint(w, 0);	 /* initial-delivery-count */
	}
	end_list(w, list);
	end_frame(w, frame);
}

void amqp_frames_credit(struct wire *w, uint32_t lane, uint32_t delivery_count,
			uint32_t incoming_id, uint32_t transfer_id)
{
	size_t frame = begin_frame(w, 0), list = begin_list(w, FLOW, 7);

	put_uint(w, incoming_id);
	put_uint(w, AMQP_FRAMES_WINDOW);
	put_uint(w, transfer_id);
	put_uint(w, AMQP_FRAMES_WINDOW);
	put_uint(w, lane);
	put_uint(w, delivery_count);
	put_uint(w, w->terms->credit);
	end_list(w, list);
	end_frame(w, frame);
}

void amqp_frames_accept(struct wire *w, uint32_t first, uint32_t last)
{
	size_t frame = begin_frame(w, 0), list = begin_list(w, DISPOSITION, 5);
	static const uint8_t accepted[4] = {0x00, 0x53, 0x24, 0x45};

	put8(w, 0x41); /* as the receiver */
	put_uint(w, first);
	put_uint(w, last);
	put8(w, 0x41); /* settled */
	wire_put(w, accepted, sizeof(accepted));
	end_list(w, list);
	end_frame(w, frame);
}

void amqp_frames_close(struct wire *w)
{
	size_t frame = begin_frame(w, 0), list = begin_list(w, CLOSE, 0);

	end_list(w, list);
	end_frame(w, frame);
}

void amqp_frames_heartbeat(struct wire *w)
{
	end_frame(w, begin_frame(w, 0));
}

/* ---- messages ---- */

/* Header (durable) and the start of a data section. */
static void make_head(size_t body_len, uint8_t head[MESSAGE_HEAD_BYTES])
{
	static const uint8_t start[] = {
		0x00, 0x53, SECTION_HEADER, 0xc0,	  0x02, 0x01,
		0x41, 0x00, 0x53,	    SECTION_DATA, 0xb0};
	uint32_t len = __builtin_bswap32((uint32_t)body_len);

	_Static_assert(sizeof(start) + 4 == MESSAGE_HEAD_BYTES, "head");
	memcpy(head, start, sizeof(start));
	memcpy(head + sizeof(start), &len, 4);
}

/* Bytes at..at+len of head and body. */
static void copy_message(const struct payload *p, size_t at, size_t len,
			 uint8_t *to)
{
	uint8_t head[MESSAGE_HEAD_BYTES];

	if (at < sizeof(head)) {
		size_t n = base_min(sizeof(head) - at, len);

		make_head(p->len, head);
		memcpy(to, head + at, n);
		at += n;
		to += n;
		len -= n;
	}
	if (len)
		payload_copy(p, at - sizeof(head), len, to);
}

static uint8_t *at32(uint8_t *p, unsigned code, uint32_t v)
{
	*p = (uint8_t)code;
	v = __builtin_bswap32(v);
	memcpy(p + 1, &v, 4);
	return p + 5;
}

size_t amqp_frames_message_len(const struct payload *p)
{
	return p->len + MESSAGE_HEAD_BYTES;
}

/* The hot path, so it is written in one go. */
void amqp_frames_transfer(struct wire *w, const struct payload *payload,
			  uint32_t lane, uint32_t id, size_t at, size_t len)
{
	bool more = at + len < amqp_frames_message_len(payload);
	uint8_t *frame = wire_room(w, AMQP_FRAMES_TRANSFER_BYTES + len);
	static const uint8_t start[] = {2, 0, 0, 0, 0x00, 0x53, TRANSFER, 0xc0};
	uint8_t *list = frame + 4 + sizeof(start), *p;

	memcpy(frame + 4, start, sizeof(start));
	list[1] = 6; /* fields */
	p = at32(list + 2, 0x70, lane);
	p = at32(p, 0x70, id);
	if (at == 0) {
		p[0] = 0xa0; /* delivery-tag */
		p = at32(p + 1, 4, id);
		*p++ = 0x43; /* message-format */
	} else {
		*p++ = 0x40;
		*p++ = 0x40;
	}
	*p++ = 0x42; /* unsettled */
	*p++ = more ? 0x41 : 0x42;
	list[0] = (uint8_t)(p - list - 1);
	copy_message(payload, at, len, p);
	p += len;
	patch(w, mark(w), (size_t)(p - frame));
	wire_commit(w, (size_t)(p - frame));
}
