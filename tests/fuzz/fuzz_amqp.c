/* tests/fuzz/fuzz_amqp.c: any bytes from an AMQP client.
 *
 * A connection through a listener in the simulated network, to the adaptor as
 * it runs in production and a core made of fuzz_amqp.h.  The input begins with
 * what the core is like and what the client does; the rest is bytes as they
 * are, or a list of frames whose lengths are made right, so that mutations
 * reach what is inside.  Whatever comes, the connection must come to an end
 * when the client leaves, with nothing left of it. */
#include "base/bytes.h"
#include "base/logger.h"
#include "base/sim/sim.h"
#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/amqp/wire.h"
#include "broker/protocols/listener.h"
#include "tests/fuzz/fuzz_amqp.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const int fuzz_mutations;

const int fuzz_mutations = 20;

#define PORT 5672
#define OUT_BYTES_MAX (256u * 1024u)
#define SECOND_NS 1000000000ull
#define PAUSE_COUNT_MAX 16u

enum client_flag {
	CLIENT_FRAMES = 1,    /* the input is a list of frames */
	CLIENT_OPENS = 2,     /* begins with a connection that works */
	CLIENT_SHORT = 4,     /* sends in small pieces */
	CLIENT_WAITS = 8,     /* lets the broker close when it is done */
	CLIENT_FORCED = 16,   /* the broker closes everything meanwhile */
	CLIENT_SMALL = 32,    /* the broker's limits are low */
	CLIENT_ADMITTED = 64, /* by SASL, before everything else */
	CLIENT_CALM = 128,    /* has said nothing new for a while */
};

struct client {
	struct loop *loop;
	struct loop_socket *socket;
	struct loop_op connect_op, send_op, recv_op;
	bool connected, sending, receiving, ended;
	unsigned flags;
	uint8_t out[OUT_BYTES_MAX];
	size_t out_len, out_at;
	/* It listens for a moment before it goes on from these. */
	size_t pauses[PAUSE_COUNT_MAX];
	unsigned pause_count;
	size_t limit; /* of what is sent until then */
	uint8_t in[16384];
};

static struct client client;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	logger_configure(LOGGER_ERROR, LOGGER_TEXT);
	return crypto_init() ? 1 : 0;
}

static void must(int err)
{
	if (err)
		abort();
}

/* ---- what the client says ---- */

static void put(const void *data, size_t len)
{
	if (len > OUT_BYTES_MAX - client.out_len)
		return;
	if (len)
		memcpy(client.out + client.out_len, data, len);
	client.out_len += len;
}

#define PUT(text) put(text, sizeof(text) - 1)

static void put_pause(void)
{
	if (client.pause_count < PAUSE_COUNT_MAX - 1)
		client.pauses[client.pause_count++] = client.out_len;
}

static void put_frame(uint8_t code, uint8_t channel, uint8_t count,
		      const void *fields, size_t fields_len,
		      const void *payload, size_t payload_len)
{
	uint8_t head[20] = {0};

	wire_put32(head, (uint32_t)(20 + fields_len + payload_len));
	head[4] = 2;
	head[5] = code >= 0x40;
	head[7] = channel;
	head[9] = 0x53;
	head[10] = code;
	head[11] = 0xd0;
	wire_put32(head + 12, (uint32_t)(4 + fields_len));
	wire_put32(head + 16, count);
	put(head, sizeof(head));
	put(fields, fields_len);
	put(payload, payload_len);
}

#define FRAME(code, count, fields)                                             \
	put_frame((code), 0, (count), (fields), sizeof(fields) - 1, NULL, 0)

#define TARGET "\x00\x53\x29\xc0\x04\x01\xa1\x01q"
#define SOURCE "\x00\x53\x28\xc0\x04\x01\xa1\x01q"

/* A session, a sender with handle 0, a receiver with handle 1 and credit. */
static void put_opening(void)
{
	PUT("AMQP\x00\x01\x00\x00");
	FRAME(0x10, 1,
	      "\xa1\x01"
	      "c");
	FRAME(0x11, 4, "\x40\x43\x70\x00\x00\x03\xe8\x70\x00\x00\x03\xe8");
	FRAME(0x12, 10,
	      "\xa1\x01s\x43\x42\x40\x40" SOURCE TARGET "\x40\x40\x43");
	FRAME(0x12, 7, "\xa1\x01r\x52\x01\x41\x40\x40" SOURCE TARGET);
	FRAME(0x13, 9,
	      "\x43\x70\x00\x00\x03\xe8\x43\x70\x00\x00\x03\xe8\x52\x01\x43"
	      "\x52\x20\x40\x42");
}

/* So many that the connection goes without Proton's events. */
static void put_calm(void)
{
	for (int i = 0; i < 64; i++)
		FRAME(0x13, 4,
		      "\x43\x70\x00\x00\x03\xe8\x43\x70\x00\x00\x03\xe8");
	put_pause();
}

/* Each: performative, channel, number of fields, their bytes, the payload's.
 * Performative 0: the fields are sent as they are, without a frame, and none
 * is a pause. */
static void put_frames(struct bytes_reader *r)
{
	while (bytes_left(r) >= 5) {
		uint8_t code = bytes_read8(r), channel = bytes_read8(r);
		uint8_t count = bytes_read8(r);
		size_t len = bytes_read8(r);
		size_t payload_len = bytes_read8(r);
		const uint8_t *fields, *payload;

		len = base_min(len, bytes_left(r));
		fields = bytes_read(r, len);
		payload_len = base_min(payload_len, bytes_left(r));
		payload = bytes_read(r, payload_len);
		if (code)
			put_frame(code, channel & 3, count, fields, len,
				  payload, payload_len);
		else if (len)
			put(fields, len);
		else
			put_pause();
	}
}

static void put_input(struct bytes_reader *r)
{
	client.out_len = client.out_at = client.pause_count = 0;
	if (client.flags & CLIENT_ADMITTED) {
		PUT("AMQP\x03\x01\x00\x00");
		FRAME(0x41, 2, "\xa3\x05PLAIN\xa0\x08\0ada\0pwd");
	}
	if (client.flags & CLIENT_OPENS) {
		put_opening();
		put_pause();
	}
	if (client.flags & CLIENT_CALM)
		put_calm();
	if (client.flags & CLIENT_FRAMES)
		put_frames(r);
	else
		put(r->p, bytes_left(r));
	client.pauses[client.pause_count++] = client.out_len;
}

/* ---- the client's loop ---- */

static void client_go_on(struct client *c);

static void sent(struct loop_op *op, int res)
{
	client.sending = false;
	if (res <= 0)
		client.ended = true;
	else
		client.out_at += (size_t)res;
	client_go_on(&client);
}

static void received(struct loop_op *op, int res)
{
	client.receiving = false;
	if (res <= 0)
		client.ended = true;
	client_go_on(&client);
}

static void client_go_on(struct client *c)
{
	size_t len = c->limit - c->out_at;

	if (c->ended)
		return;
	if (c->flags & CLIENT_SHORT)
		len = base_min(len, 1 + c->out_at % 37);
	if (len && !c->sending) {
		c->sending = true;
		loop_send(c->loop, &c->send_op, c->socket, c->out + c->out_at,
			  len);
	}
	if (!c->receiving) {
		c->receiving = true;
		loop_recv(c->loop, &c->recv_op, c->socket, c->in,
			  sizeof(c->in));
	}
}

static void connected(struct loop_op *op, int res)
{
	must(res);
	client.connected = true;
}

static bool is_connected(void *ctx)
{
	return client.connected;
}

/* What is to be said now is said. */
static bool is_quiet(void *ctx)
{
	return client.ended ||
	       (client.out_at == client.limit && !client.sending);
}

static bool is_over(void *ctx)
{
	return client.ended && !client.sending && !client.receiving &&
	       !amqp_connection_count(ctx) && !fake.open;
}

/* ---- the broker ---- */

struct broker {
	struct sim *sim;
	struct io *io, *client_io;
	struct loop *loop;
	struct amqp *amqp;
	struct listener *listener;
};

static void broker_up(struct broker *b, unsigned mood)
{
	struct sim_config config = sim_config_calm(1);
	struct amqp_options options = {.core = &fake.core};

	/* Latencies would only cost time, and the order that they make is
	 * not what this is about. */
	config.step_ns_max = 1000;
	b->sim = sim_create(&config);
	b->io = sim_node_create(b->sim, "broker", 0);
	b->client_io = sim_node_create(b->sim, "client", 1);
	must(loop_create(b->io, "shard", &b->loop));
	must(loop_create(b->client_io, "client", &client.loop));
	fake_init(mood, b->loop);
	if (client.flags & CLIENT_SMALL) {
		options.frame_bytes_max = 4096;
		options.credit = 3;
		options.channel_max = 2;
		options.session_link_max = 3;
		options.connection_link_max = 4;
		options.link_unsettled_max = 4;
		options.message_bytes_max = 500;
		options.session_window = 4;
	}
	must(amqp_create(&options, &b->amqp));
	must(listener_create(&(struct listener_options){.core = &fake.core,
							.amqp = b->amqp,
							.loop = b->loop},
			     "any://127.0.0.1:5672", &b->listener));
	listener_start(b->listener);
	must(loop_start(b->loop, NULL, NULL));
	must(loop_start(client.loop, NULL, NULL));
}

static void broker_down(struct broker *b)
{
	listener_stop(b->listener);
	sim_run_for(b->sim, SECOND_NS / 10);
	loop_stop(b->loop);
	loop_join(b->loop);
	loop_stop(client.loop);
	loop_join(client.loop);
	listener_free(b->listener);
	amqp_free(b->amqp);
	loop_free(b->loop);
	loop_free(client.loop);
	fake_fini();
	io_free(b->client_io);
	io_free(b->io);
	sim_free(b->sim);
}

static void talk(struct broker *b)
{
	for (unsigned i = 0; i < client.pause_count && !client.ended; i++) {
		client.limit = client.pauses[i];
		client_go_on(&client);
		/* It may be stuck for good reason: the broker need not read
		 * on. */
		if (sim_run_until(b->sim, is_quiet, NULL, 10000))
			continue;
		sim_run_for(b->sim, SECOND_NS / 100);
	}
}

/* The client has gone: nothing may remain, however long it takes. */
static void leave(struct broker *b)
{
	client.limit = client.out_at;
	loop_socket_shutdown(client.socket);
	for (int i = 0; i < 300 && !is_over(b->amqp); i++)
		sim_run_for(b->sim, SECOND_NS);
	ASSERT(is_over(b->amqp));
	loop_socket_close(client.socket);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_reader r;
	struct broker b;
	unsigned mood;

	bytes_reader_init(&r, data, size);
	memset(&client, 0, offsetof(struct client, out));
	client.limit = 0;
	client.flags = bytes_read8(&r);
	mood = bytes_read8(&r);
	put_input(&r);
	client.connect_op.done = connected;
	client.send_op.done = sent;
	client.recv_op.done = received;
	broker_up(&b, mood);
	must(loop_connect(client.loop, &client.connect_op, "127.0.0.1", PORT,
			  &client.socket));
	must(sim_run_until(b.sim, is_connected, NULL, 1000));
	talk(&b);
	if (client.flags & CLIENT_FORCED) {
		amqp_close_all(b.amqp, "the broker is going down", 500);
		sim_run_for(b.sim, SECOND_NS);
		ASSERT(!amqp_connection_count(b.amqp));
	}
	if (client.flags & CLIENT_WAITS)
		sim_run_for(b.sim, 100 * SECOND_NS);
	leave(&b);
	broker_down(&b);
	return 0;
}
