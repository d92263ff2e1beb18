/* The AMQP adaptor on real sockets, against a core made of the functions
 * below: what is said on the wire, in bytes. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

#include "base/logger.h"
#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/amqp/wire.h"
#include "broker/protocols/listener.h"

/* ---- a core with one shard and one queue of what the test puts in ---- */

struct shard {
	struct loop *loop;
};

struct core {
	struct shard shard;
};

static struct fake {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* counted */
	unsigned published, published_bytes, accepted, rejected, released;
	unsigned modified_failed, uploads, upload_bytes, upload_pieces_over;
	unsigned upload_aborts, detached, failed_detached, confirmed;
	unsigned producers, consumers;
	uint32_t credit;
	bool draining;
	char to[64];
	uint8_t priority;
	/* asked of it */
	enum outcome outcome;
	int outcome_err, attach_err;
	unsigned hold; /* publications answered only when so many wait */
	unsigned held_count;
	struct {
		struct producer *producer;
		void *context;
	} held[4096];
	/* a message to deliver */
	uint8_t body[512];
	uint32_t body_len, attempts, to_deliver;
	struct consumer *consumer;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER,
	  .changed = PTHREAD_COND_INITIALIZER};

struct delivery {
	struct list link;
	struct consumer *consumer;
	void *context;
};

static struct core the_core;

#define COUNT(field, n)                                                        \
	do {                                                                   \
		pthread_mutex_lock(&fake.lock);                                \
		fake.field += (n);                                             \
		pthread_cond_broadcast(&fake.changed);                         \
		pthread_mutex_unlock(&fake.lock);                              \
	} while (0)

/* Later, on the shard's loop. */
struct later {
	struct loop_mail mail;
	void (*run)(void *);
	void *arg;
};

static void later_arrived(struct loop_mail *mail)
{
	struct later *l = container_of(mail, struct later, mail);

	l->run(l->arg);
	free(l);
}

static void later(void (*run)(void *), void *arg)
{
	struct later *l = calloc(1, sizeof(*l));

	l->mail.deliver = later_arrived;
	l->run = run;
	l->arg = arg;
	loop_post(the_core.shard.loop, &l->mail);
}

struct shard *core_shard(struct core *c, unsigned index)
{
	return &c->shard;
}

unsigned core_shard_count(const struct core *c)
{
	return 1;
}

struct loop *shard_loop(struct shard *s)
{
	return s->loop;
}

struct message *message_create(struct shard *s, uint32_t len)
{
	struct message *m = calloc(1, sizeof(*m) + len);

	m->len = len;
	return m;
}

void message_release(struct message *m)
{
	free(m);
}

static void producer_answer(void *arg)
{
	struct producer *p = arg;

	if (!p->detaching)
		p->ops->attached(p, fake.attach_err, "temporary.name");
}

void producer_attach(struct shard *s, struct producer *p,
		     const struct terminus *t)
{
	COUNT(producers, 1);
	later(producer_answer, p);
}

static void answer_held(void *arg)
{
	for (unsigned i = 0; i < fake.held_count; i++) {
		struct producer *p = fake.held[i].producer;

		p->ops->settled(p, fake.held[i].context, fake.outcome,
				fake.outcome_err);
	}
	fake.held_count = 0;
}

static void hold_answer(struct producer *p, void *context)
{
	fake.held[fake.held_count].producer = p;
	fake.held[fake.held_count++].context = context;
	if (fake.held_count >= fake.hold)
		later(answer_held, NULL);
}

void producer_publish(struct producer *p, struct message *m, const char *to)
{
	pthread_mutex_lock(&fake.lock);
	fake.published++;
	fake.published_bytes += m->len;
	fake.priority = m->props.priority;
	snprintf(fake.to, sizeof(fake.to), "%s", to ? to : "");
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	hold_answer(p, m->context);
	free(m);
}

static void producer_end(void *arg)
{
	struct producer *p = arg;

	COUNT(detached, 1);
	p->ops->released(p);
}

void producer_detach(struct producer *p)
{
	p->detaching = true;
	if (fake.held_count)
		answer_held(NULL);
	later(producer_end, p);
}

struct upload {
	struct producer *producer;
};

int upload_begin(struct producer *p, struct upload **ret)
{
	*ret = calloc(1, sizeof(**ret));
	(*ret)->producer = p;
	return 0;
}

int upload_append(struct upload *u, const void *data, size_t len)
{
	COUNT(upload_bytes, (unsigned)len);
	COUNT(upload_pieces_over, len > CORE_PIECE_BYTES);
	return 0;
}

void upload_finish(struct upload *u, const struct record_props *props,
		   const char *to, void *context)
{
	COUNT(uploads, 1);
	hold_answer(u->producer, context);
	free(u);
}

void upload_abort(struct upload *u)
{
	if (u)
		COUNT(upload_aborts, 1);
	free(u);
}

static void consumer_answer(void *arg)
{
	struct consumer *c = arg;

	if (!c->detaching)
		c->ops->attached(c, fake.attach_err, "temporary.name");
}

void consumer_attach(struct shard *s, struct consumer *c,
		     const struct terminus *t)
{
	COUNT(consumers, 1);
	list_init(&c->deliveries);
	fake.consumer = c;
	later(consumer_answer, c);
}

static void consumer_feed(void *arg)
{
	struct consumer *c = fake.consumer;

	while (c && !c->detaching && fake.credit && fake.to_deliver) {
		struct delivery *d = calloc(1, sizeof(*d));

		d->consumer = c;
		list_push(&c->deliveries, &d->link);
		fake.credit--;
		fake.to_deliver--;
		c->ops->deliver(c, d);
	}
	if (c && !c->detaching && fake.draining) {
		fake.draining = false;
		fake.credit = 0;
		c->ops->drained(c);
	}
}

void consumer_credit(struct consumer *c, uint32_t credit, bool drain)
{
	fake.credit = credit;
	fake.draining = drain;
	later(consumer_feed, NULL);
}

static void consumer_end(void *arg)
{
	struct consumer *c = arg;

	COUNT(detached, 1);
	c->ops->released(c);
}

void consumer_detach(struct consumer *c, bool failed)
{
	struct list *n;

	c->detaching = true;
	fake.consumer = NULL;
	while ((n = list_pop(&c->deliveries)))
		free(list_entry(n, struct delivery, link));
	COUNT(failed_detached, failed);
	later(consumer_end, c);
}

struct confirmation {
	struct consumer *consumer;
	void *context;
};

static void confirm(void *arg)
{
	struct confirmation *c = arg;

	c->consumer->ops->settled(c->consumer, c->context, 0);
	free(c);
}

void delivery_settle(struct delivery *d, const struct settlement *s)
{
	pthread_mutex_lock(&fake.lock);
	fake.accepted += s->outcome == OUTCOME_ACCEPTED;
	fake.rejected += s->outcome == OUTCOME_REJECTED;
	fake.released += s->outcome == OUTCOME_RELEASED;
	fake.modified_failed +=
		s->outcome == OUTCOME_MODIFIED && s->delivery_failed;
	fake.confirmed += s->confirm;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	if (s->confirm) {
		struct confirmation *c = calloc(1, sizeof(*c));

		*c = (struct confirmation){d->consumer, s->context};
		later(confirm, c);
	}
	list_remove(&d->link);
	free(d);
}

const uint8_t *delivery_data(const struct delivery *d)
{
	return fake.body;
}

uint64_t delivery_bytes(const struct delivery *d)
{
	return fake.body_len;
}

uint32_t delivery_attempts(const struct delivery *d)
{
	return fake.attempts;
}

const void *delivery_extra(const struct delivery *d, uint32_t *ret_len)
{
	*ret_len = 0;
	return NULL;
}

const struct record_origin *delivery_origin(const struct delivery *d)
{
	return NULL;
}

void delivery_set_context(struct delivery *d, void *context)
{
	d->context = context;
}

uint32_t delivery_piece_count(const struct delivery *d)
{
	return 0;
}

void delivery_read_piece(struct delivery *d, uint32_t index,
			 struct piece_read *p)
{
	abort();
}

/* ---- the broker around it ---- */

static struct rig {
	struct io *io;
	struct auth *auth;
	struct amqp *amqp;
	struct listener *listener;
} rig;

static void rig_up(enum auth_anonymous policy)
{
	static char hash[CRYPTO_PASSWORD_HASH_BYTES];
	struct auth_user user = {"ada", hash};
	const char *reason;

	logger_configure(LOGGER_ERROR, LOGGER_TEXT);
	memset(&fake.published, 0,
	       sizeof(fake) - offsetof(struct fake, published));
	fake.outcome = OUTCOME_ACCEPTED;
	assert_int_equal(crypto_init(), 0);
	if (!hash[0])
		assert_int_equal(crypto_password_hash("secret", hash), 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &rig.io, &reason), 0);
	assert_int_equal(auth_create(rig.io, &user, 1, policy, &rig.auth), 0);
	assert_int_equal(auth_start(rig.auth), 0);
	assert_int_equal(loop_create(rig.io, "shard", &the_core.shard.loop), 0);
	assert_int_equal(amqp_create(&(struct amqp_options){.core = &the_core,
							    .auth = rig.auth},
				     &rig.amqp), 0);
	assert_int_equal(
		listener_create(&(struct listener_options){
					.core = &the_core,
					.amqp = rig.amqp,
					.loop = the_core.shard.loop},
				"any://127.0.0.1:0", &rig.listener), 0);
	listener_start(rig.listener);
	assert_int_equal(loop_start(the_core.shard.loop, NULL, NULL), 0);
}

static void sleep_a_little(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void rig_down(void)
{
	unsigned spins = 0;

	listener_stop(rig.listener);
	amqp_close_all(rig.amqp, "the test is over", 100);
	while (amqp_connection_count(rig.amqp) && spins++ < 10000)
		sleep_a_little();
	assert_int_equal(amqp_connection_count(rig.amqp), 0);
	loop_stop(the_core.shard.loop);
	loop_join(the_core.shard.loop);
	auth_stop(rig.auth);
	listener_free(rig.listener);
	amqp_free(rig.amqp);
	loop_free(the_core.shard.loop);
	auth_free(rig.auth);
	io_free(rig.io);
}

/* Waits for the shard to get there. */
#define WAIT_FOR(condition)                                                    \
	do {                                                                   \
		struct timespec until;                                         \
		int late = 0;                                                  \
		clock_gettime(CLOCK_REALTIME, &until);                         \
		until.tv_sec += 10;                                            \
		pthread_mutex_lock(&fake.lock);                                \
		while (!(condition) && !late)                                  \
			late = pthread_cond_timedwait(&fake.changed,           \
						      &fake.lock, &until);     \
		pthread_mutex_unlock(&fake.lock);                              \
		if (late)                                                      \
			fail_msg("never: %s", #condition);                     \
	} while (0)

/* ---- a client of bytes ---- */

struct client {
	int fd;
	uint8_t out[1 << 16];
	size_t out_len;
	uint8_t in[1 << 16];
	size_t in_len, in_at;
	bool ended;
};

static void client_connect(struct client *c)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(listener_port(rig.listener)),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 10};

	memset(c, 0, sizeof(*c));
	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(c->fd >= 0);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof(to)), 0);
}

static void put(struct client *c, const void *data, size_t len)
{
	assert_true(c->out_len + len <= sizeof(c->out));
	if (len)
		memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
}

#define PUT(c, text) put((c), (text), sizeof(text) - 1)

static void flush(struct client *c)
{
	size_t at = 0;

	while (at < c->out_len) {
		ssize_t n = send(c->fd, c->out + at, c->out_len - at,
				 MSG_NOSIGNAL);

		if (n <= 0)
			break; /* the broker has had enough */
		at += (size_t)n;
	}
	c->out_len = 0;
}

/* A performative as list32 of the encoded fields, with a payload after it. */
static void put_frame(struct client *c, uint8_t type, uint8_t code,
		      uint8_t count, const void *fields, size_t fields_len,
		      const void *payload, size_t payload_len)
{
	uint8_t head[20] = {0};

	wire_put32(head, (uint32_t)(20 + fields_len + payload_len));
	head[4] = 2;
	head[5] = type;
	head[9] = 0x53;
	head[10] = code;
	head[11] = 0xd0;
	wire_put32(head + 12, (uint32_t)(4 + fields_len));
	wire_put32(head + 16, count);
	put(c, head, sizeof(head));
	put(c, fields, fields_len);
	put(c, payload, payload_len);
}

#define FRAME(c, code, count, fields)                                          \
	put_frame((c), 0, (code), (count), (fields), sizeof(fields) - 1, NULL, 0)

#define AMQP_HEADER "AMQP\x00\x01\x00\x00"
#define SASL_HEADER "AMQP\x03\x01\x00\x00"
#define WHOLE_MESSAGE "\x00\x53\x77\xa1\x05hello"

static void put_open(struct client *c)
{
	PUT(c, AMQP_HEADER);
	FRAME(c, 0x10, 1, "\xa1\x01" "c");
	/* begin: next-outgoing-id 0, windows 1000 */
	FRAME(c, 0x11, 4, "\x40\x43\x70\x00\x00\x03\xe8\x70\x00\x00\x03\xe8");
}

/* A sender of ours to "q", handle 0. */
static void put_sender(struct client *c)
{
	FRAME(c, 0x12, 10,
	      "\xa1\x01s\x43\x42\x40\x40\x00\x53\x28\xc0\x04\x01\xa1\x01x"
	      "\x00\x53\x29\xc0\x04\x01\xa1\x01q\x40\x40\x43");
}

/* A receiver of ours from "q", handle 0. */
static void put_receiver(struct client *c)
{
	FRAME(c, 0x12, 7,
	      "\xa1\x01r\x43\x41\x40\x40\x00\x53\x28\xc0\x04\x01\xa1\x01q"
	      "\x00\x53\x29\xc0\x04\x01\xa1\x01x");
}

static void put_flow(struct client *c, uint8_t credit, bool drain)
{
	uint8_t fields[] = {0x43, 0x70, 0, 0, 3, 0xe8, 0x43, 0x70, 0, 0, 3,
			    0xe8, 0x43, 0x43, 0x52, credit, 0x40,
			    drain ? 0x41 : 0x42};

	put_frame(c, 0, 0x13, 9, fields, sizeof(fields), NULL, 0);
}

static void put_transfer(struct client *c, uint8_t id, bool settled, bool more,
			 bool aborted, const void *payload, size_t len)
{
	uint8_t fields[] = {0x43, 0x52, id, 0xa0, 1, id, 0x43,
			    settled ? 0x41 : 0x42, more ? 0x41 : 0x42, 0x40,
			    0x40, 0x42, aborted ? 0x41 : 0x42};

	put_frame(c, 0, 0x14, 10, fields, sizeof(fields), payload, len);
}

/* One frame or header: true while there is one. */
static bool next_frame(struct client *c, const uint8_t **ret, size_t *ret_len)
{
	for (;;) {
		size_t left = c->in_len - c->in_at;
		const uint8_t *p = c->in + c->in_at;
		ssize_t n;

		if (left >= 8) {
			size_t size = memcmp(p, "AMQP", 4) ? wire_get32(p) : 8;

			if (left >= size) {
				*ret = p;
				*ret_len = size;
				c->in_at += size;
				return true;
			}
		}
		memmove(c->in, p, left);
		c->in_at = 0;
		c->in_len = left;
		n = c->ended ? 0
			     : recv(c->fd, c->in + left, sizeof(c->in) - left, 0);
		if (n <= 0) {
			c->ended = true;
			return false;
		}
		c->in_len += (size_t)n;
	}
}

struct answer {
	uint64_t code;
	struct wire_value fields[12];
	const uint8_t *payload;
	size_t payload_len;
};

/* The next frame with this performative. */
static struct answer expect(struct client *c, uint64_t code)
{
	struct answer a = {0};
	const uint8_t *p;
	size_t len;

	flush(c);
	while (next_frame(c, &p, &len)) {
		struct wire w = wire_of(p + 8, len - 8), in;
		struct wire_value v;

		if (len == 8)
			continue;
		assert_int_equal(wire_descriptor(&w, &a.code, &v), 0);
		assert_int_equal(wire_read(&w, &v), 0);
		if (a.code != code)
			continue;
		in = wire_inside(&v);
		for (uint32_t i = 0; i < v.count && i < 12; i++) {
			a.fields[i].data = in.p;
			assert_int_equal(wire_read(&in, &a.fields[i]), 0);
			if (a.fields[i].kind == WIRE_DESCRIBED) {
				struct wire_value inner;

				assert_int_equal(wire_read(&in, &inner), 0);
				a.fields[i].u = inner.u;
				assert_int_equal(wire_read(&in, &inner), 0);
				a.fields[i].data = inner.data;
				a.fields[i].len = inner.len;
			}
		}
		a.payload = w.p;
		a.payload_len = wire_left(&w);
		return a;
	}
	fail_msg("the broker never sent performative 0x%x", (unsigned)code);
	return a;
}

static void assert_condition(const struct wire_value *error, const char *name)
{
	struct wire in = wire_inside(error);
	struct wire_value v;

	assert_int_equal(error->kind, WIRE_DESCRIBED);
	assert_int_equal(error->u, 0x1d);
	assert_int_equal(wire_read(&in, &v), 0);
	assert_int_equal(v.len, strlen(name));
	assert_memory_equal(v.data, name, v.len);
}

static void client_close(struct client *c)
{
	FRAME(c, 0x18, 0, "");
	expect(c, 0x18);
	close(c->fd);
}

/* ---- tests ---- */

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
	FRAME(&c, 0x15, 5, "\x41\x52\x02\x52\x02\x41\x00\x53\x27\xc0\x02\x01\x41");
	FRAME(&c, 0x15, 4, "\x41\x52\x03\x52\x03\x41");
	flush(&c);
	WAIT_FOR(fake.accepted == 1 && fake.released == 2 &&
		 fake.modified_failed == 1);
	assert_int_equal(fake.confirmed, 0);
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
		{0x10, 1, "\xa1\x01" "c", 3, "amqp:not-allowed"},
		/* begin on a channel in use */
		{0x11, 4, "\x40\x43\x43\x43", 4, "amqp:connection:framing-error"},
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
	FRAME(&c, 0x10, 1, "\xa1\x01" "c");
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
	assert_int_equal(auth_reload(rig.auth, NULL, 0, AUTH_ANONYMOUS_NEVER), 0);
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

TEST_MAIN()
