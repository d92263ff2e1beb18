/* bench/load/redis.c: Redis streams (RESP2).
 *
 * A queue is a stream with the consumer group "g0"; with fan-out one stream
 * has the groups "g0", "g1", ….  A message is XADD, confirmed by its reply; a
 * receiver XREADGROUPs and XACKs.  Without fan-out it deletes, too: that is
 * what makes a stream a queue.  Commands are pipelined, replies come in order.
 *
 * A receiver begins with what an earlier consumer of its name got and did not
 * acknowledge: that is Redis's redelivery. */
#include <errno.h>
#include <string.h>

#include "bench/load/protocol.h"

#define READ_COUNT_MAX 1000u
#define REPLIES_MAX 16u /* of a receiver, under way */
#define DEPTH_MAX 8u
#define BLOCK_MS 500u
#define ID_BYTES_MAX 48u
#define PEER_TEXT_MAX 160

enum reply_kind { REPLY_AUTH, REPLY_GROUP, REPLY_READ, REPLY_DONE };

struct ids {
	char *text; /* "$15\r\n1526985054069-0\r\n", … */
	size_t len, capacity;
	uint32_t count;
};

struct redis {
	uint64_t confirmed;
	uint32_t declared;
	bool logged_in, reading;
	bool history;	 /* reading what was delivered before */
	struct ids *ids; /* by lane: to be acknowledged */
	enum reply_kind replies[REPLIES_MAX];
	unsigned reply_at, reply_count;
};

/* ---- RESP2 ---- */

struct resp {
	char type;
	long long n;	     /* of an integer; length of bulk and array */
	const uint8_t *text; /* of a line or bulk */
	size_t len;
};

/* One head (and a bulk's bytes) at p; its length, 0 when it is not whole, or
 * SIZE_MAX when it is not RESP. */
static size_t take(const uint8_t *p, size_t len, struct resp *ret)
{
	const uint8_t *end = memchr(p, '\n', base_min(len, 65536));
	size_t head;

	if (!end)
		return len >= 65536 ? SIZE_MAX : 0;
	head = (size_t)(end - p) + 1;
	if (head < 3 || end[-1] != '\r')
		return SIZE_MAX;
	*ret = (struct resp){
		.type = (char)p[0], .text = p + 1, .len = head - 3};
	if (!ret->type || !strchr("+-:$*", ret->type))
		return SIZE_MAX;
	if (ret->type == '+' || ret->type == '-')
		return head;
	ret->n = wire_number(p + 1);
	if (ret->type == ':' || ret->type == '*' || ret->n < 0)
		return ret->n < -1 && ret->type != ':' ? SIZE_MAX : head;
	if (ret->n > (long long)PAYLOAD_BYTES_MAX)
		return SIZE_MAX;
	ret->text = p + head;
	ret->len = (size_t)ret->n;
	return len - head >= ret->len + 2 ? head + ret->len + 2 : 0;
}

/* The length of a whole reply, with all that is nested in it. */
static size_t measure(const uint8_t *p, size_t len, unsigned depth)
{
	struct resp r;
	size_t at = take(p, len, &r), n;

	if (!at || at == SIZE_MAX || r.type != '*')
		return at;
	if (depth == DEPTH_MAX)
		return SIZE_MAX;
	for (long long i = 0; i < r.n; i++) {
		if (at == len)
			return 0;
		n = measure(p + at, len - at, depth + 1);
		if (!n || n == SIZE_MAX)
			return n;
		at += n;
	}
	return at;
}

static void put_bulk(struct wire *w, const char *text)
{
	wire_putf(w, "$%zu\r\n%s\r\n", strlen(text), text);
}

static void put_number(struct wire *w, uint64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	put_bulk(w, text);
}

static void put_group(struct wire *w, uint32_t lane)
{
	char name[16];

	snprintf(name, sizeof(name), "g%u", w->lanes[lane].number);
	put_bulk(w, name);
}

/* ---- commands ---- */

static void expect(struct redis *r, enum reply_kind kind)
{
	ASSERT(r->reply_count < REPLIES_MAX);
	r->replies[(r->reply_at + r->reply_count++) % REPLIES_MAX] = kind;
}

static void put_auth(struct wire *w)
{
	const struct wire_terms *t = w->terms;

	if (t->user) {
		wire_putf(w, "*3\r\n");
		put_bulk(w, "AUTH");
		put_bulk(w, t->user);
	} else {
		wire_putf(w, "*2\r\n");
		put_bulk(w, "AUTH");
	}
	put_bulk(w, t->password ? t->password : "");
	expect(w->part, REPLY_AUTH);
}

static void put_declare(struct wire *w)
{
	struct redis *r = w->part;

	wire_putf(w, "*6\r\n$6\r\nXGROUP\r\n$6\r\nCREATE\r\n");
	put_bulk(w, w->lanes[r->declared].address);
	put_group(w, r->declared);
	put_bulk(w, "0");
	put_bulk(w, "MKSTREAM");
	expect(r, REPLY_GROUP);
}

static void put_read(struct wire *w)
{
	struct redis *r = w->part;
	uint32_t count = (uint32_t)base_min(
		READ_COUNT_MAX, base_max(1, w->terms->credit / w->lane_count));

	wire_putf(w, "*%u\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n",
		  9 + 2 * w->lane_count);
	put_group(w, 0);
	wire_putf(w, "$%d\r\nc%u\r\n", snprintf(NULL, 0, "c%u", w->index),
		  w->index);
	put_bulk(w, "COUNT");
	put_number(w, count);
	put_bulk(w, "BLOCK");
	put_number(w, BLOCK_MS);
	put_bulk(w, "STREAMS");
	for (uint32_t i = 0; i < w->lane_count; i++)
		put_bulk(w, w->lanes[i].address);
	for (uint32_t i = 0; i < w->lane_count; i++)
		put_bulk(w, r->history ? "0" : ">");
	expect(r, REPLY_READ);
	r->reading = true;
}

static void put_acknowledge(struct wire *w, uint32_t lane)
{
	struct redis *r = w->part;
	struct ids *ids = &r->ids[lane];
	const char *address = w->lanes[lane].address;

	wire_putf(w, "*%u\r\n$4\r\nXACK\r\n", 3 + ids->count);
	put_bulk(w, address);
	put_group(w, lane);
	wire_put(w, ids->text, ids->len);
	expect(r, REPLY_DONE);
	if (!w->terms->topic) {
		wire_putf(w, "*%u\r\n$4\r\nXDEL\r\n", 2 + ids->count);
		put_bulk(w, address);
		wire_put(w, ids->text, ids->len);
		expect(r, REPLY_DONE);
	}
	ids->len = ids->count = 0;
}

static int redis_open(struct wire *w)
{
	struct redis *r = w->part;

	r->history = true;
	r->logged_in = !w->terms->user && !w->terms->password;
	if (w->role == WIRE_RECEIVER) {
		r->ids = calloc(w->lane_count, sizeof(*r->ids));
		if (!r->ids)
			return -ENOMEM;
	}
	if (!r->logged_in)
		put_auth(w);
	else if (w->role == WIRE_SETUP)
		put_declare(w);
	else
		wire_become_ready(w);
	return 0;
}

static void redis_send(struct wire *w, uint32_t lane)
{
	const char *key = w->lanes[lane].address;

	wire_putf(w,
		  "*5\r\n$4\r\nXADD\r\n$%zu\r\n%s\r\n$1\r\n*\r\n$1\r\nd\r\n"
		  "$%zu\r\n",
		  strlen(key), key, w->payload.len);
	wire_put_payload(w);
	wire_put(w, "\r\n", 2);
}

/* ---- replies ---- */

static void fail_reply(struct wire *w, const char *what, const uint8_t *p,
		       size_t len)
{
	const uint8_t *end = memchr(p, '\r', len);
	size_t n = end ? (size_t)(end - p) : len;

	wire_fail(w, "%s: the peer said \"%.*s\"", what,
		  (int)base_min(n, PEER_TEXT_MAX), (const char *)p);
}

static void keep_id(struct ids *ids, const struct resp *id)
{
	if (ids->len + ID_BYTES_MAX > ids->capacity) {
		ids->capacity = 2 * (ids->len + ID_BYTES_MAX);
		ids->text = realloc(ids->text, ids->capacity);
		ASSERT(ids->text);
	}
	ids->len += (size_t)snprintf(ids->text + ids->len, ID_BYTES_MAX,
				     "$%zu\r\n%.*s\r\n", id->len, (int)id->len,
				     (const char *)id->text);
	ids->count++;
}

/* Sticky: once bad, everything reads as an empty array. */
struct cursor {
	const uint8_t *p, *end;
	bool bad;
};

static struct resp next(struct cursor *c, char type)
{
	struct resp r = {.type = '*'};
	size_t n = c->bad ? SIZE_MAX : take(c->p, (size_t)(c->end - c->p), &r);

	if (!n || n == SIZE_MAX || r.type != type) {
		c->bad = true;
		return (struct resp){.type = type};
	}
	c->p += n;
	return r;
}

/* [id, [field, value]]; the values are nil when it was deleted. */
static void on_entry(struct wire *w, struct cursor *c, uint32_t lane)
{
	struct redis *r = w->part;
	struct resp id, fields, value = {0};

	if (next(c, '*').n != 2)
		c->bad = true;
	id = next(c, '$');
	fields = next(c, '*');
	for (long long i = 0; i < fields.n; i++)
		value = next(c, '$');
	if (c->bad || id.len + 16 > ID_BYTES_MAX || id.n < 0) {
		c->bad = true;
		return;
	}
	if (w->state != WIRE_READY)
		return; /* not acknowledged: it can be read again */
	keep_id(&r->ids[lane], &id);
	if (fields.n > 0)
		w->arrived(w, lane, value.text, value.len, r->history);
}

/* Streams come in the order in which they were named. */
static uint32_t lane_of(const struct wire *w, const struct resp *name,
			uint32_t from)
{
	for (uint32_t i = from; i < w->lane_count; i++) {
		const char *address = w->lanes[i].address;

		if (strlen(address) == name->len &&
		    !memcmp(address, name->text, name->len))
			return i;
	}
	return w->lane_count;
}

static void on_read(struct wire *w, const uint8_t *p, size_t len)
{
	struct redis *r = w->part;
	struct cursor c = {p, p + len, false};
	struct resp streams = next(&c, '*');
	uint64_t entries = 0;
	uint32_t lane = 0;

	for (long long i = 0; i < streams.n && !c.bad; i++) {
		struct resp name, list;

		if (next(&c, '*').n != 2)
			c.bad = true;
		name = next(&c, '$');
		list = next(&c, '*');
		lane = c.bad ? w->lane_count : lane_of(w, &name, lane);
		if (lane == w->lane_count)
			break;
		for (long long j = 0; j < list.n && !c.bad; j++, entries++)
			on_entry(w, &c, lane);
	}
	if (c.bad || lane == w->lane_count) {
		fail_reply(w, "XREADGROUP", p, len);
		return;
	}
	r->reading = false;
	if (r->history && !entries)
		r->history = false;
}

static void on_group(struct wire *w, const uint8_t *p, size_t len)
{
	struct redis *r = w->part;

	if (p[0] == '-' && memcmp(p, "-BUSYGROUP", base_min(len, 10)) != 0) {
		fail_reply(w, "XGROUP CREATE", p, len);
		return;
	}
	if (++r->declared < w->lane_count)
		put_declare(w);
	else
		wire_become_ready(w);
}

static void on_auth(struct wire *w, const uint8_t *p, size_t len)
{
	struct redis *r = w->part;

	if (p[0] == '-') {
		fail_reply(w, "the login was refused", p, len);
		return;
	}
	r->logged_in = true;
	if (w->role == WIRE_SETUP)
		put_declare(w);
	else
		wire_become_ready(w);
}

static void on_ordered(struct wire *w, const uint8_t *p, size_t len)
{
	struct redis *r = w->part;
	enum reply_kind kind = r->replies[r->reply_at];

	if (!r->reply_count) {
		fail_reply(w, "an unexpected reply", p, len);
		return;
	}
	r->reply_at = (r->reply_at + 1) % REPLIES_MAX;
	r->reply_count--;
	switch (kind) {
	case REPLY_AUTH:
		on_auth(w, p, len);
		break;
	case REPLY_GROUP:
		on_group(w, p, len);
		break;
	case REPLY_READ:
		on_read(w, p, len);
		break;
	case REPLY_DONE:
		if (p[0] == '-')
			fail_reply(w, "XACK or XDEL", p, len);
		break;
	}
}

static size_t redis_input(struct wire *w, const uint8_t *p, size_t len)
{
	struct redis *r = w->part;
	size_t n = measure(p, len, 0);

	if (n == SIZE_MAX) {
		fail_reply(w, "the peer does not speak RESP", p, len);
		return 0;
	}
	if (!n)
		return 0;
	if (w->role != WIRE_SENDER || !r->logged_in) {
		on_ordered(w, p, n);
	} else if (p[0] == '$') {
		w->confirmed(w, r->confirmed, r->confirmed, WIRE_ACCEPTED);
		r->confirmed++;
	} else {
		wire_remark(w, (const char *)p + 1, n - 3);
		w->confirmed(w, r->confirmed, r->confirmed, WIRE_REJECTED);
		r->confirmed++;
	}
	return n;
}

/* Acknowledgements travel with the next read, which therefore follows them. */
static void redis_flush(struct wire *w, uint64_t now_ns)
{
	struct redis *r = w->part;

	if (w->role != WIRE_RECEIVER || w->state < WIRE_READY)
		return;
	for (uint32_t i = 0; i < w->lane_count && !r->reading; i++) {
		if (r->reply_count + 3 > REPLIES_MAX)
			return; /* the others follow when there are replies */
		if (r->ids[i].count)
			put_acknowledge(w, i);
	}
	if (w->state == WIRE_READY && !r->reading)
		put_read(w);
	/* A read that blocks would answer with messages that nobody wants. */
	if (w->state == WIRE_CLOSING && r->reply_count == (r->reading ? 1 : 0))
		w->state = WIRE_CLOSED;
}

static void redis_close(struct wire *w)
{
	if (w->role != WIRE_RECEIVER)
		w->state = WIRE_CLOSED;
}

static void redis_fini(struct wire *w)
{
	struct redis *r = w->part;

	for (uint32_t i = 0; r->ids && i < w->lane_count; i++)
		free(r->ids[i].text);
	free(r->ids);
}

const struct protocol protocol_redis = {
	.name = "redis",
	.peers = "Redis streams",
	.port = 6379,
	.setup = PROTOCOL_SETUP_ALWAYS,
	.fans_out = true,
	.part_bytes = sizeof(struct redis),
	.open = redis_open,
	.input = redis_input,
	.send = redis_send,
	.flush = redis_flush,
	.close = redis_close,
	.fini = redis_fini,
};
