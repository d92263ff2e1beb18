/* tests/unit/amqp_rig.h: the AMQP adaptor on real sockets, between a core
 * that is made of the functions below and a client of bytes. */
#ifndef TESTS_UNIT_AMQP_RIG_H
#define TESTS_UNIT_AMQP_RIG_H

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
	unsigned producers, consumers, sent;
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
	/* a drain is answered in the turn of the loop that settles a delivery
	 */
	bool drain_waits;
	struct loop_task drain_task;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER,
	  .changed = PTHREAD_COND_INITIALIZER};

struct delivery {
	struct list link;
	struct consumer *consumer;
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

static void consumer_drain(struct loop_task *task)
{
	struct consumer *c = fake.consumer;

	if (!c || c->detaching || !fake.draining)
		return;
	fake.draining = false;
	fake.credit = 0;
	c->ops->drained(c);
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
	if (!fake.drain_waits)
		consumer_drain(NULL);
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
	if (fake.drain_waits) {
		fake.drain_task.run = consumer_drain;
		loop_defer(the_core.shard.loop, &fake.drain_task);
	}
	list_remove(&d->link);
	free(d);
}

const uint8_t *delivery_data(const struct delivery *d)
{
	return fake.body;
}

void delivery_sent(struct delivery *d)
{
	COUNT(sent, 1);
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
	uint32_t idle_timeout_ms; /* set before rig_up(); 0: the usual */
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
	assert_int_equal(
		amqp_create(&(struct amqp_options){.core = &the_core,
						   .auth = rig.auth,
						   .idle_timeout_ms =
							   rig.idle_timeout_ms},
			    &rig.amqp),
		0);
	assert_int_equal(
		listener_create(
			&(struct listener_options){.core = &the_core,
						   .amqp = rig.amqp,
						   .loop = the_core.shard.loop},
			"any://127.0.0.1:0", &rig.listener),
		0);
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
		ssize_t n =
			send(c->fd, c->out + at, c->out_len - at, MSG_NOSIGNAL);

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
	put_frame((c), 0, (code), (count), (fields), sizeof(fields) - 1, NULL, \
		  0)

#define AMQP_HEADER "AMQP\x00\x01\x00\x00"
#define SASL_HEADER "AMQP\x03\x01\x00\x00"
#define WHOLE_MESSAGE "\x00\x53\x77\xa1\x05hello"

static void put_open(struct client *c)
{
	PUT(c, AMQP_HEADER);
	FRAME(c, 0x10, 1,
	      "\xa1\x01"
	      "c");
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
	uint8_t fields[] = {
		0x43, 0x70, 0,	  0,	  3,	0xe8,
		0x43, 0x70, 0,	  0,	  3,	0xe8,
		0x43, 0x43, 0x52, credit, 0x40, drain ? 0x41 : 0x42};

	put_frame(c, 0, 0x13, 9, fields, sizeof(fields), NULL, 0);
}

static void put_transfer(struct client *c, uint8_t id, bool settled, bool more,
			 bool aborted, const void *payload, size_t len)
{
	uint8_t fields[] = {0x43,
			    0x52,
			    id,
			    0xa0,
			    1,
			    id,
			    0x43,
			    settled ? 0x41 : 0x42,
			    more ? 0x41 : 0x42,
			    0x40,
			    0x40,
			    0x42,
			    aborted ? 0x41 : 0x42};

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
			     : recv(c->fd, c->in + left, sizeof(c->in) - left,
				    0);
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

#endif
