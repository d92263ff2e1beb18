/* tests/fuzz/fuzz_amqp.h: a broker core for fuzz_amqp.c, and who may connect.
 *
 * Included once.  It keeps the contract of broker/core/core.h towards the
 * adaptor as loosely as that allows, and asserts that the adaptor keeps its
 * side: what was detached is not used, what is being read is not settled.
 * There is one queue; what is published goes to whoever has credit. */
#ifndef TESTS_FUZZ_FUZZ_AMQP_H
#define TESTS_FUZZ_FUZZ_AMQP_H

#include <string.h>

#include "broker/core/core.h"
#include "broker/protocols/auth.h"

#define FAKE_PIECE_BYTES 9000u
#define FAKE_QUEUE_MAX 64u
#define FAKE_ATTEMPTS_MAX 3u
#define FAKE_UPLOAD_MAX (1u << 20)

/* What the input decides about the core. */
enum fake_mood {
	FAKE_REFUSES = 1,  /* some attachments */
	FAKE_OUTCOMES = 2, /* other than accepted */
	FAKE_HOLDS = 4,	   /* settles late, and all at once */
	FAKE_BLOCKS = 8,   /* tells producers to wait, now and then */
	FAKE_PIECES = 16,  /* gives every message in pieces */
	FAKE_DAMAGED = 32, /* some pieces cannot be read */
	FAKE_ANONYMOUS = 64,
};

struct shard {
	struct loop *loop;
};

struct core {
	struct shard shard;
};

struct delivery {
	struct list link;
	struct consumer *consumer;
	unsigned reading;
	bool sent; /* its bytes are not asked for any more */
	uint32_t attempts;
	uint8_t *extra;
	uint32_t extra_len;
	size_t len;
	uint8_t *data;
};

/* What core.h leaves opaque is ours. */
struct subscriber {
	struct consumer *consumer;
	uint32_t credit;
	bool drain;
	struct list link;
};

struct upload {
	struct producer *producer;
	uint8_t *data;
	size_t len;
};

struct fake_settled {
	struct list link;
	struct producer *producer;
	void *context;
};

static struct fake {
	struct core core;
	unsigned mood, turn;
	unsigned open; /* producers, consumers and uploads */
	struct list queue, subscribers, held;
	unsigned queued;
} fake;

static inline void *fake_alloc(size_t bytes)
{
	void *p = calloc(1, bytes ? bytes : 1);

	if (!p)
		abort();
	return p;
}

/* True now and then, for equal inputs equally. */
static inline bool fake_sometimes(unsigned mood)
{
	return (fake.mood & mood) && ++fake.turn % 3 == 0;
}

struct fake_later {
	struct loop_mail mail;
	void (*run)(void *);
	void *arg;
};

static void fake_arrived(struct loop_mail *mail)
{
	struct fake_later *l = container_of(mail, struct fake_later, mail);

	l->run(l->arg);
	free(l);
}

static void fake_later(void (*run)(void *), void *arg)
{
	struct fake_later *l = fake_alloc(sizeof(*l));

	l->mail.deliver = fake_arrived;
	l->run = run;
	l->arg = arg;
	loop_post(fake.core.shard.loop, &l->mail);
}

static void fake_delivery_free(struct delivery *d)
{
	ASSERT(!d->reading);
	list_remove(&d->link);
	free(d->extra);
	free(d->data);
	free(d);
}

static void fake_init(unsigned mood, struct loop *loop)
{
	memset(&fake, 0, sizeof(fake));
	fake.mood = mood;
	fake.core.shard.loop = loop;
	list_init(&fake.queue);
	list_init(&fake.subscribers);
	list_init(&fake.held);
}

static void fake_fini(void)
{
	struct list *n;

	ASSERT(!fake.open && list_empty(&fake.subscribers) &&
	       list_empty(&fake.held));
	while ((n = list_pop(&fake.queue)))
		fake_delivery_free(list_entry(n, struct delivery, link));
}

/* ---- who may connect ---- */

bool auth_allows_anonymous(const struct auth *a, bool loopback)
{
	return fake.mood & FAKE_ANONYMOUS;
}

bool auth_has_users(const struct auth *a)
{
	return true;
}

static void fake_verified(void *arg)
{
	struct auth_request *r = arg;

	r->done(r, strcmp(r->user, "ada") ? -E_REFUSED : 0);
}

void auth_verify(struct auth *a, struct auth_request *r)
{
	ASSERT(strlen(r->user) <= AUTH_NAME_MAX);
	ASSERT(strlen(r->password) <= AUTH_PASSWORD_MAX);
	crypto_zero(r->password, sizeof(r->password));
	fake_later(fake_verified, r);
}

/* ---- the queue ---- */

static void fake_feed(void *arg)
{
	list_for_each_safe(at, &fake.subscribers) {
		struct subscriber *s = list_entry(at, struct subscriber, link);
		struct consumer *c = s->consumer;
		struct list *n;

		while (!c->detaching && s->credit &&
		       (n = list_pop(&fake.queue))) {
			struct delivery *d =
				list_entry(n, struct delivery, link);

			fake.queued--;
			d->consumer = c;
			list_push(&c->deliveries, &d->link);
			s->credit--;
			c->delivered++;
			c->ops->deliver(c, d);
		}
		if (s->drain && !c->detaching) {
			s->drain = false;
			s->credit = 0;
			c->ops->drained(c);
		}
	}
}

static void fake_enqueue(struct delivery *d)
{
	list_remove(&d->link);
	if (d->attempts >= FAKE_ATTEMPTS_MAX || fake.queued >= FAKE_QUEUE_MAX) {
		fake_delivery_free(d);
		return;
	}
	d->consumer = NULL;
	d->sent = false;
	list_push(&fake.queue, &d->link);
	fake.queued++;
	fake_later(fake_feed, NULL);
}

static void fake_publish(const void *data, size_t len)
{
	struct delivery *d = fake_alloc(sizeof(*d));

	list_init(&d->link);
	d->data = fake_alloc(len);
	d->len = len;
	if (len)
		memcpy(d->data, data, len);
	fake_enqueue(d);
}

struct shard *core_shard(struct core *c, unsigned index)
{
	ASSERT(!index);
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

/* ---- producers ---- */

struct message *message_create(struct shard *s, uint32_t len)
{
	struct message *m = fake_alloc(sizeof(*m) + len);

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

	if (p->detaching)
		return;
	p->attached = !fake_sometimes(FAKE_REFUSES);
	p->ops->attached(p, p->attached ? 0 : -E_NOT_FOUND, "a.name");
}

void producer_attach(struct shard *s, struct producer *p,
		     const struct terminus *t)
{
	ASSERT(!t->address || strlen(t->address) < 100000);
	fake.open++;
	fake_later(producer_answer, p);
}

static void producer_settle_all(void *arg)
{
	static const enum outcome outcomes[] = {
		OUTCOME_REJECTED, OUTCOME_RELEASED, OUTCOME_MODIFIED};
	struct list *n;

	while ((n = list_pop(&fake.held))) {
		struct fake_settled *s =
			list_entry(n, struct fake_settled, link);
		bool odd = fake_sometimes(FAKE_OUTCOMES);
		enum outcome o =
			odd ? outcomes[fake.turn / 3 % 3] : OUTCOME_ACCEPTED;

		s->producer->in_flight--;
		s->producer->ops->settled(s->producer, s->context, o,
					  o == OUTCOME_REJECTED ? -E_NO_SPACE
								: 0);
		free(s);
	}
}

static void producer_unblock(void *arg)
{
	struct producer *p = arg;

	p->flow_told = false;
	if (!p->detaching)
		p->ops->flow(p, false);
}

static void producer_block(void *arg)
{
	struct producer *p = arg;

	if (!p->detaching)
		p->ops->flow(p, true);
	fake_later(producer_unblock, p);
}

static void producer_settle_later(struct producer *p, void *context)
{
	struct fake_settled *s = fake_alloc(sizeof(*s));

	s->producer = p;
	s->context = context;
	p->in_flight++;
	list_push(&fake.held, &s->link);
	if (!(fake.mood & FAKE_HOLDS) || p->in_flight > 5)
		fake_later(producer_settle_all, NULL);
	if (!p->flow_told && fake_sometimes(FAKE_BLOCKS)) {
		p->flow_told = true;
		fake_later(producer_block, p);
	}
}

void producer_publish(struct producer *p, struct message *m, const char *to)
{
	ASSERT(p->attached && !p->detaching);
	ASSERT(m->len <= CORE_LARGE_BYTES && m->props.priority <= 9);
	fake_publish(m->data, m->len);
	producer_settle_later(p, m->context);
	free(m);
}

static void producer_end(void *arg)
{
	struct producer *p = arg;

	/* Its blocking and its publications come to their end before. */
	if (p->in_flight || p->flow_told) {
		fake_later(producer_end, p);
		return;
	}
	fake.open--;
	p->ops->released(p);
}

void producer_detach(struct producer *p)
{
	ASSERT(!p->detaching);
	p->detaching = true;
	fake_later(producer_settle_all, NULL);
	fake_later(producer_end, p);
}

/* ---- uploads ---- */

int upload_begin(struct producer *p, struct upload **ret)
{
	ASSERT(p->attached && !p->detaching);
	if (fake_sometimes(FAKE_REFUSES))
		return -E_NO_SPACE;
	fake.open++;
	*ret = fake_alloc(sizeof(**ret));
	(*ret)->producer = p;
	return 0;
}

int upload_append(struct upload *u, const void *data, size_t len)
{
	uint8_t *more;

	ASSERT(len <= CORE_PIECE_BYTES);
	if (u->len + len > FAKE_UPLOAD_MAX)
		return -E_LIMIT;
	more = realloc(u->data, u->len + len + 1);
	if (!more)
		abort();
	memcpy(more + u->len, data, len);
	u->data = more;
	u->len += len;
	return 0;
}

static void upload_free(struct upload *u)
{
	fake.open--;
	free(u->data);
	free(u);
}

void upload_finish(struct upload *u, const struct record_props *props,
		   const char *to, void *context)
{
	ASSERT(!u->producer->detaching && props->priority <= 9);
	fake_publish(u->data, u->len);
	producer_settle_later(u->producer, context);
	upload_free(u);
}

void upload_abort(struct upload *u)
{
	if (u) {
		ASSERT(!u->producer->detaching);
		upload_free(u);
	}
}

/* ---- consumers ---- */

static void consumer_answer(void *arg)
{
	struct consumer *c = arg;

	if (c->detaching)
		return;
	c->attached = !fake_sometimes(FAKE_REFUSES);
	c->ops->attached(c, c->attached ? 0 : -E_REFUSED, "a.name");
}

void consumer_attach(struct shard *s, struct consumer *c,
		     const struct terminus *t)
{
	fake.open++;
	list_init(&c->deliveries);
	c->subscriber = fake_alloc(sizeof(*c->subscriber));
	c->subscriber->consumer = c;
	list_push(&fake.subscribers, &c->subscriber->link);
	fake_later(consumer_answer, c);
}

void consumer_credit(struct consumer *c, uint32_t credit, bool drain)
{
	ASSERT(c->attached && !c->detaching);
	c->subscriber->credit = credit;
	c->subscriber->drain = drain;
	fake_later(fake_feed, NULL);
}

static void consumer_end(void *arg)
{
	struct consumer *c = arg;

	if (c->confirms) {
		fake_later(consumer_end, c);
		return;
	}
	list_remove(&c->subscriber->link);
	free(c->subscriber);
	fake.open--;
	c->ops->released(c);
}

void consumer_detach(struct consumer *c, bool failed)
{
	ASSERT(!c->detaching);
	c->detaching = true;
	while (!list_empty(&c->deliveries)) {
		struct delivery *d =
			list_entry(c->deliveries.next, struct delivery, link);

		ASSERT(!d->reading);
		d->attempts += failed;
		fake_enqueue(d);
	}
	fake_later(consumer_end, c);
}

struct fake_confirm {
	struct consumer *consumer;
	void *context;
};

static void consumer_confirm(void *arg)
{
	struct fake_confirm *f = arg;

	f->consumer->confirms--;
	f->consumer->ops->settled(f->consumer, f->context, 0);
	free(f);
}

void delivery_settle(struct delivery *d, const struct settlement *s)
{
	struct consumer *c = d->consumer;

	ASSERT(c && !c->detaching && !d->reading);
	if (s->confirm) {
		struct fake_confirm *f = fake_alloc(sizeof(*f));

		f->consumer = c;
		f->context = s->context;
		c->confirms++;
		fake_later(consumer_confirm, f);
	}
	if (s->outcome == OUTCOME_MODIFIED && s->extra) {
		ASSERT(s->extra_len && s->extra_len <= RECORD_EXTRA_MAX);
		free(d->extra);
		d->extra = fake_alloc(s->extra_len);
		d->extra_len = s->extra_len;
		memcpy(d->extra, s->extra, s->extra_len);
	}
	if (s->outcome == OUTCOME_ACCEPTED || s->outcome == OUTCOME_REJECTED) {
		fake_delivery_free(d);
		return;
	}
	/* So that nothing goes round for ever. */
	d->attempts++;
	fake_enqueue(d);
}

void delivery_sent(struct delivery *d)
{
	ASSERT(!d->sent && !d->consumer->detaching);
	d->sent = true;
}

const uint8_t *delivery_data(const struct delivery *d)
{
	ASSERT(!d->sent);
	return fake.mood & FAKE_PIECES || d->len > CORE_LARGE_BYTES ? NULL
								    : d->data;
}

uint64_t delivery_bytes(const struct delivery *d)
{
	return d->len;
}

uint32_t delivery_attempts(const struct delivery *d)
{
	return d->attempts;
}

const void *delivery_extra(const struct delivery *d, uint32_t *ret_len)
{
	*ret_len = d->extra_len;
	return d->extra;
}

const struct record_origin *delivery_origin(const struct delivery *d)
{
	static const struct record_origin origin = {.address = "ab",
						    .queue = "abc",
						    .address_len = 2,
						    .queue_len = 3,
						    .reason = 1};

	return d->len % 4 == 3 ? &origin : NULL;
}

uint32_t delivery_piece_count(const struct delivery *d)
{
	return (uint32_t)((d->len + FAKE_PIECE_BYTES - 1) / FAKE_PIECE_BYTES);
}

struct fake_read {
	struct delivery *delivery;
	struct piece_read *read;
	uint32_t index;
};

static void piece_done(void *arg)
{
	struct fake_read *f = arg;
	struct fake_read copy = *f;
	struct delivery *d = copy.delivery;
	size_t at = (size_t)copy.index * FAKE_PIECE_BYTES;
	int err = fake_sometimes(FAKE_DAMAGED) ? -E_CORRUPT : 0;

	free(f);
	d->reading--;
	copy.read->done(copy.read, err, err ? NULL : d->data + at,
			(uint32_t)base_min(FAKE_PIECE_BYTES, d->len - at));
}

void delivery_read_piece(struct delivery *d, uint32_t index,
			 struct piece_read *p)
{
	struct fake_read *f = fake_alloc(sizeof(*f));

	ASSERT(index < delivery_piece_count(d) && !d->consumer->detaching);
	*f = (struct fake_read){d, p, index};
	d->reading++;
	fake_later(piece_done, f);
}

#endif
