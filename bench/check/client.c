/* bench/check/client.c: see client.h. */
#include "bench/check/client.h"

#include <string.h>

#define SEND_BYTES_MAX 65536u
#define SESSION_WINDOW 0x7fffffffu

enum performative {
	OPEN = 0x10,
	BEGIN = 0x11,
	ATTACH = 0x12,
	FLOW = 0x13,
	TRANSFER = 0x14,
	DISPOSITION = 0x15,
};

#define ACCEPTED 0x24

/* Header (durable) and the start of a data section, whose length follows. */
static const uint8_t message_head[] = {0x00, 0x53, 0x70, 0xc0, 0x02, 0x01,
				       0x41, 0x00, 0x53, 0x75, 0xb0};
#define MESSAGE_HEAD_BYTES (sizeof(message_head) + 4)

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return __builtin_bswap32(v);
}

static void set32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
}

/* ---- frames out ---- */

static uint8_t *room(struct client *c, size_t len)
{
	uint8_t *p;

	if (c->out_len + len > c->out_capacity) {
		c->out_capacity = (c->out_len + len) * 2;
		c->out = realloc(c->out, c->out_capacity);
		if (!c->out)
			world_die("client", -ENOMEM);
	}
	p = c->out + c->out_len;
	c->out_len += len;
	return p;
}

static void put(struct client *c, const void *data, size_t len)
{
	memcpy(room(c, len), data, len);
}

#define PUT(c, text) put((c), (text), sizeof(text) - 1)

static void put_uint(struct client *c, uint32_t v)
{
	uint8_t *p = room(c, 5);

	p[0] = 0x70;
	set32(p + 1, v);
}

static void put_text(struct client *c, const char *text)
{
	uint8_t len = (uint8_t)strlen(text);

	PUT(c, "\xa1");
	put(c, &len, 1);
	put(c, text, len);
}

/* Where the frame begins; its sizes are filled in by end_frame(). */
static size_t begin_frame(struct client *c, uint8_t code, uint8_t fields)
{
	uint8_t head[20] = {
		[4] = 2, [9] = 0x53, [10] = code, [11] = 0xd0, [19] = fields};

	put(c, head, sizeof(head));
	return c->out_len - sizeof(head);
}

/* payload_len: of what stands behind the list. */
static void end_frame(struct client *c, size_t begun, size_t payload_len)
{
	size_t len = c->out_len - begun;

	set32(c->out + begun, (uint32_t)len);
	set32(c->out + begun + 12, (uint32_t)(len - 16 - payload_len));
}

static void put_open(struct client *c)
{
	size_t at;

	PUT(c, "AMQP\x00\x01\x00\x00");
	at = begin_frame(c, OPEN, 1);
	put_text(c, c->receives ? "receiver" : "sender");
	end_frame(c, at, 0);
	at = begin_frame(c, BEGIN, 4);
	PUT(c, "\x40");
	put_uint(c, 0);
	put_uint(c, SESSION_WINDOW);
	put_uint(c, SESSION_WINDOW);
	end_frame(c, at, 0);
}

static void put_attach(struct client *c, uint32_t link, uint32_t queue)
{
	size_t at = begin_frame(c, ATTACH, c->receives ? 7 : 10), end;
	char text[32];

	snprintf(text, sizeof(text), "%u", link);
	put_text(c, text);
	put_uint(c, link);
	if (c->receives)
		PUT(c, "\x41\x50\x00\x50\x00");
	else
		PUT(c, "\x42\x50\x00\x50\x00");
	snprintf(text, sizeof(text), "q%u", queue);
	for (int target = 0; target < 2; target++) {
		PUT(c, "\x00\x53");
		put(c, target ? "\x29" : "\x28", 1);
		PUT(c, "\xc0\x00\x01");
		end = c->out_len;
		put_text(c, target != (int)c->receives ? text : "here");
		c->out[end - 2] = (uint8_t)(c->out_len - end + 1);
	}
	if (!c->receives)
		PUT(c, "\x40\x42\x43");
	end_frame(c, at, 0);
}

static void put_credit(struct client *c, uint32_t link, uint32_t credit)
{
	size_t at = begin_frame(c, FLOW, 7);

	put_uint(c, c->next_incoming);
	put_uint(c, SESSION_WINDOW);
	put_uint(c, c->next_outgoing);
	put_uint(c, SESSION_WINDOW);
	put_uint(c, link);
	put_uint(c, c->links[link].delivery_count);
	put_uint(c, credit);
	c->links[link].credit = credit;
	end_frame(c, at, 0);
}

static void put_accepted(struct client *c, uint32_t first, uint32_t last)
{
	size_t at = begin_frame(c, DISPOSITION, 5);

	PUT(c, "\x41"); /* as the receiver */
	put_uint(c, first);
	put_uint(c, last);
	PUT(c, "\x41\x00\x53\x24\x45"); /* settled, accepted */
	end_frame(c, at, 0);
}

static void put_transfer(struct client *c, uint32_t link)
{
	size_t at = begin_frame(c, TRANSFER, 6), payload;
	uint64_t number = c->next_outgoing;
	uint8_t *p;

	put_uint(c, link);
	put_uint(c, c->next_outgoing);
	p = room(c, 6); /* the tag */
	p[0] = 0xa0;
	p[1] = 4;
	set32(p + 2, c->next_outgoing);
	PUT(c, "\x43\x42\x42"); /* format 0, not settled, no more */
	payload = c->out_len;
	put(c, message_head, sizeof(message_head));
	set32(room(c, 4), c->size);
	p = room(c, c->size);
	/* Nothing that could be compressed, and the same in every run. */
	for (uint32_t i = 0; i < c->size; i += 8) {
		uint64_t v = (number + i) * 0x9e3779b97f4a7c15ull;

		v = i ? v ^ v >> 29 : number;
		memcpy(p + i, &v, base_min(8, c->size - i));
	}
	end_frame(c, at, c->out_len - payload);
	c->sent_sum += number;
	c->next_outgoing++;
}

static void flush(struct client *c)
{
	if (c->sending || !c->connected || c->out_at == c->out_len)
		return;
	c->sending = true;
	loop_send(c->loop, &c->send_op, c->socket, c->out + c->out_at,
		  base_min(c->out_len - c->out_at, SEND_BYTES_MAX));
}

/* What credit, window and the session allow.  Only while nothing is being
 * sent: the bytes must not move. */
static void pump(struct client *c)
{
	uint32_t tried = 0;

	while (!c->sending && c->to_send && c->unsettled < c->window &&
	       c->next_outgoing != c->window_end && tried < c->link_count) {
		uint32_t link = c->turn++ % c->link_count;

		if (!c->links[link].credit) {
			tried++;
			continue;
		}
		tried = 0;
		c->links[link].credit--;
		c->links[link].delivery_count++;
		c->to_send--;
		c->unsettled++;
		put_transfer(c, link);
	}
	flush(c);
}

static void accept_all(struct client *c)
{
	while (c->settled < c->delivered) {
		put_accepted(c, c->settled, c->settled);
		c->settled++;
	}
	if (c->links[0].credit <= c->credit / 2)
		put_credit(c, 0, c->credit);
}

static void go_on(struct client *c)
{
	if (!c->sending && c->accepts)
		accept_all(c);
	pump(c);
}

static void sent(struct loop_op *op, int res)
{
	struct client *c = container_of(op, struct client, send_op);

	if (res <= 0)
		world_die("client: send", res);
	c->sending = false;
	c->out_at += (size_t)res;
	if (c->out_at == c->out_len)
		c->out_at = c->out_len = 0;
	go_on(c);
}

/* ---- frames in ---- */

struct value {
	uint64_t n;
	const uint8_t *data; /* of a string */
	bool null;
};

/* The next field of those types that the broker's frames have before what is
 * of interest here; moves *p. */
static struct value next(const uint8_t **p, const uint8_t *end)
{
	static const uint8_t none[8];
	struct value v = {0};
	const uint8_t *at = *p;
	size_t width = 0;

	if (at >= end) {
		v.null = true;
		return v;
	}
	switch (*at++) {
	case 0x40:
		v.null = true;
		break;
	case 0x41:
		v.n = 1;
		break;
	case 0x42:
	case 0x43:
	case 0x44:
		break;
	case 0x50:
	case 0x52:
	case 0x53:
	case 0x56:
		width = 1;
		break;
	case 0x60:
		width = 2;
		break;
	case 0x70:
		width = 4;
		break;
	case 0x80:
		width = 8;
		break;
	case 0xa0:
	case 0xa1:
		v.n = *at++;
		v.data = at;
		at += v.n;
		*p = at;
		return v;
	default:
		world_die("client: a field of a type it does not know", 0);
	}
	if (at + width > end)
		at = none;
	for (size_t i = 0; i < width; i++)
		v.n = v.n << 8 | at[i];
	*p = at + width;
	return v;
}

static void attached(struct client *c, const uint8_t *p, const uint8_t *end)
{
	struct value name = next(&p, end), handle = next(&p, end);
	char text[16];
	unsigned long link;

	if (!name.data || name.n >= sizeof(text))
		world_die("client: attach without a name of ours", 0);
	snprintf(text, sizeof(text), "%.*s", (int)name.n,
		 (const char *)name.data);
	link = strtoul(text, NULL, 10);
	if (link >= c->link_count || c->links[link].attached)
		world_die("client: attach of another link", 0);
	c->links[link].attached = true;
	c->links[link].handle = (uint32_t)handle.n;
	c->attached++;
}

/* Handles are given out in the order of attaching, as a rule. */
static struct client_link *link_of(struct client *c, uint32_t handle)
{
	if (handle < c->link_count && c->links[handle].handle == handle)
		return &c->links[handle];
	for (uint32_t i = 0; i < c->link_count; i++)
		if (c->links[i].attached && c->links[i].handle == handle)
			return &c->links[i];
	world_die("client: a handle that is none", 0);
}

static void flowed(struct client *c, const uint8_t *p, const uint8_t *end)
{
	struct value f[7];
	struct client_link *link;

	for (size_t i = 0; i < ARRAY_COUNT(f); i++)
		f[i] = next(&p, end);
	c->window_end = (uint32_t)((f[0].null ? 0 : f[0].n) + f[1].n);
	if (f[4].null || c->receives)
		return;
	link = link_of(c, (uint32_t)f[4].n);
	link->credit = (uint32_t)((f[5].null ? 0 : f[5].n) + f[6].n) -
		       link->delivery_count;
}

static void disposed(struct client *c, const uint8_t *p, const uint8_t *end)
{
	uint64_t first, last;
	struct value v;

	(void)next(&p, end); /* role */
	first = next(&p, end).n;
	v = next(&p, end);
	last = v.null ? first : v.n;
	if (!next(&p, end).n || p + 4 > end || p[0] != 0x00 || p[1] != 0x53 ||
	    p[2] != ACCEPTED)
		world_die("client: a message was not accepted", 0);
	c->accepted += last - first + 1;
	c->unsettled -= (uint32_t)(last - first + 1);
}

static void delivered(struct client *c, const uint8_t *p, const uint8_t *list,
		      const uint8_t *end)
{
	struct client_link *link = link_of(c, (uint32_t)next(&p, list).n);
	struct value id = next(&p, list);
	uint64_t number;

	(void)next(&p, list); /* tag */
	(void)next(&p, list); /* format */
	(void)next(&p, list); /* settled */
	if (id.null || id.n != c->delivered || next(&p, list).n)
		world_die("client: a delivery out of order or in pieces", 0);
	if ((size_t)(end - list) < MESSAGE_HEAD_BYTES + 8 ||
	    memcmp(list, message_head, sizeof(message_head)) != 0 ||
	    get32(list + sizeof(message_head)) !=
		    (size_t)(end - list) - MESSAGE_HEAD_BYTES)
		world_die("client: not a message that was sent", 0);
	memcpy(&number, list + MESSAGE_HEAD_BYTES, 8);
	c->delivered++;
	c->delivered_sum += number;
	c->delivered_bytes += (size_t)(end - list) - MESSAGE_HEAD_BYTES;
	c->next_incoming++;
	link->credit--;
	link->delivery_count++;
}

static void frame(struct client *c, const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len, *list;

	if (len == 8) /* a heartbeat */
		return;
	if (len < 12 || p[4] != 2 || p[8] != 0x00 || p[9] != 0x53)
		world_die("client: a frame that is none", 0);
	list = p + 11;
	switch (*list) {
	case 0x45:
		p = list + 1;
		list = p;
		break;
	case 0xc0:
		p = list + 3;
		list += 2 + list[1];
		break;
	case 0xd0:
		p = list + 9;
		list += 5 + get32(list + 1);
		break;
	default:
		world_die("client: a performative that is no list", 0);
	}
	if (list > end)
		world_die("client: a frame that is cut", 0);
	switch (end[-(ptrdiff_t)len + 10]) {
	case OPEN:
		return;
	case BEGIN:
		(void)next(&p, list);
		(void)next(&p, list);
		c->window_end = (uint32_t)next(&p, list).n;
		c->begun = true;
		return;
	case ATTACH:
		attached(c, p, list);
		return;
	case FLOW:
		flowed(c, p, list);
		return;
	case TRANSFER:
		delivered(c, p, list, end);
		return;
	case DISPOSITION:
		disposed(c, p, list);
		return;
	}
	world_die("client: the broker ends a link or the connection", 0);
}

/* ---- the connection ---- */

static void start_recv(struct client *c)
{
	loop_recv(c->loop, &c->recv_op, c->socket, c->in + c->in_len,
		  sizeof(c->in) - c->in_len);
}

static void received(struct loop_op *op, int res)
{
	struct client *c = container_of(op, struct client, recv_op);
	size_t at = 0;

	if (res <= 0)
		world_die("client: the connection ends", res);
	c->in_len += (size_t)res;
	while (c->in_len - at >= 8) {
		const uint8_t *p = c->in + at;
		size_t len = memcmp(p, "AMQP", 4) ? get32(p) : 8;

		if (len < 8 || len > sizeof(c->in))
			world_die("client: a frame too long", 0);
		if (c->in_len - at < len)
			break;
		if (len > 8)
			frame(c, p, len);
		at += len;
	}
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
	start_recv(c);
	go_on(c);
}

static void connected(struct loop_op *op, int res)
{
	struct client *c = container_of(op, struct client, connect_op);

	if (res)
		world_die("client: connect", res);
	c->connected = true;
	start_recv(c);
	flush(c);
}

static bool is_attached(void *ctx)
{
	struct client *c = ctx;

	if (!c->begun || c->attached < c->link_count)
		return false;
	/* A link that has no credit yet is not let go on. */
	for (uint32_t i = 0; i < c->link_count && !c->receives; i++)
		if (!c->links[i].credit)
			return false;
	return true;
}

struct client *client_open(struct world *w, bool receives, uint32_t link_count,
			   uint32_t base_queue)
{
	struct client *c = calloc(1, sizeof(*c));
	struct io *io = sim_node_create(w->sim, "client", 2);
	int err;

	if (!c)
		world_die("client", -ENOMEM);
	ASSERT(link_count <= CLIENT_LINKS_MAX);
	c->world = w;
	c->receives = receives;
	c->link_count = link_count;
	c->connect_op.done = connected;
	c->send_op.done = sent;
	c->recv_op.done = received;
	err = loop_create(io, "client", &c->loop);
	if (!err)
		err = loop_start(c->loop, NULL, NULL);
	if (!err)
		err = loop_connect(c->loop, &c->connect_op, "127.0.0.1",
				   w->port, &c->socket);
	if (err)
		world_die("client", err);
	put_open(c);
	for (uint32_t i = 0; i < link_count; i++)
		put_attach(c, i, base_queue + i);
	world_run_until(w, is_attached, c);
	world_settle(w);
	return c;
}

void client_kill(struct client *c)
{
	sim_kill(sim_node(loop_io(c->loop)));
}

/* ---- work ---- */

void client_publish_begin(struct client *c, uint32_t count, uint32_t size,
			  uint32_t window)
{
	c->to_send = count;
	c->size = size;
	c->window = window;
	pump(c);
}

bool client_is_done(void *ctx)
{
	struct client *c = ctx;

	return !c->to_send && !c->unsettled;
}

void client_publish(struct client *c, uint32_t count, uint32_t size,
		    uint32_t window)
{
	client_publish_begin(c, count, size, window);
	world_run_until(c->world, client_is_done, c);
	world_settle(c->world);
}

struct awaited {
	struct client *client;
	uint64_t delivered;
};

static bool has_received(void *ctx)
{
	struct awaited *a = ctx;

	return a->client->delivered >= a->delivered;
}

void client_receive(struct client *c, uint32_t credit, uint32_t count)
{
	struct awaited a = {c, c->delivered + count};

	ASSERT(!c->sending);
	for (uint32_t i = 0; i < c->link_count; i++)
		put_credit(c, i, credit);
	flush(c);
	world_run_until(c->world, has_received, &a);
	world_settle(c->world);
}

void client_consume(struct client *c, uint32_t credit)
{
	ASSERT(!c->sending && c->link_count == 1);
	c->accepts = true;
	c->credit = credit;
	put_credit(c, 0, credit);
	flush(c);
}

void client_accept(struct client *c, uint32_t count, uint32_t each)
{
	uint32_t end = c->settled + count;

	ASSERT(!c->sending && end <= c->delivered);
	while (c->settled < end) {
		uint32_t n = (uint32_t)base_min(each, end - c->settled);

		put_accepted(c, c->settled, c->settled + n - 1);
		c->settled += n;
	}
	flush(c);
	/* Its last bytes must have left before the core can have nothing to
	 * do. */
	while (c->sending)
		sim_step(c->world->sim);
	world_settle(c->world);
}
