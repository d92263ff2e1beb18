/* tests/unit/core_clients.h: producers and consumers for tests of the core. */
#ifndef TESTS_UNIT_CORE_CLIENTS_H
#define TESTS_UNIT_CORE_CLIENTS_H

#include "tests/unit/core_twin.h"

#define HELD_MAX 8192u

/* ---- messages: an id, and bytes that follow from it ---- */

static inline uint8_t body_byte(uint64_t id, uint64_t at)
{
	return (uint8_t)((id * 0x9e3779b97f4a7c15ull + at * 0x2545f491) >> 24);
}

static inline void body_fill(uint8_t *data, uint64_t len, uint64_t id)
{
	assert_true(len >= 8);
	memcpy(data, &id, 8);
	for (uint64_t i = 8; i < len; i++)
		data[i] = body_byte(id, i);
}

static inline uint64_t body_check(const uint8_t *data, uint64_t len)
{
	uint64_t id;

	assert_true(len >= 8);
	memcpy(&id, data, 8);
	for (uint64_t i = 8; i < len; i++)
		if (data[i] != body_byte(id, i))
			fail_msg("message %llu is not what was sent",
				 (unsigned long long)id);
	return id;
}

/* ---- producers ---- */

struct source {
	struct producer producer;
	struct shard *shard;
	int attach_err;
	unsigned accepted, rejected, released;
	bool blocked, gone;
	void (*settled)(uint64_t id, bool accepted);
};

static inline struct source *source_of(struct producer *p)
{
	return container_of(p, struct source, producer);
}

static inline void source_attached(struct producer *p, int err,
				   const char *name)
{
	source_of(p)->attach_err = err;
}

static inline void source_settled(struct producer *p, void *context,
				  enum outcome outcome, int err)
{
	struct source *s = source_of(p);

	s->accepted += outcome == OUTCOME_ACCEPTED;
	s->rejected += outcome == OUTCOME_REJECTED;
	s->released += outcome == OUTCOME_RELEASED;
	if (s->settled)
		s->settled((uint64_t)(uintptr_t)context,
			   outcome == OUTCOME_ACCEPTED);
}

static inline void source_flow(struct producer *p, bool blocked)
{
	source_of(p)->blocked = blocked;
}

static inline void source_released(struct producer *p)
{
	source_of(p)->gone = true;
}

static const struct producer_ops source_ops = {
	.attached = source_attached,
	.settled = source_settled,
	.flow = source_flow,
	.released = source_released,
};

static inline void source_open(struct source *s, unsigned shard,
			       const char *name)
{
	struct terminus t = {.address = name};

	memset(s, 0, sizeof(*s));
	s->shard = core_shard(twin.core, shard);
	s->producer.ops = &source_ops;
	s->attach_err = 1;
	producer_attach(s->shard, &s->producer, &t);
	twin_settle();
	assert_int_equal(s->attach_err, 0);
}

struct letter {
	uint64_t id, expiry_ms;
	uint32_t len;
	uint8_t priority;
	const char *to;
};

static inline void source_send(struct source *s, const struct letter *l)
{
	struct message *m = message_create(s->shard, l->len);

	assert_non_null(m);
	body_fill(m->data, l->len, l->id);
	m->props = (struct record_props){.expiry_ms = l->expiry_ms,
					 .priority = l->priority,
					 .durable = 1};
	m->context = (void *)(uintptr_t)l->id;
	producer_publish(&s->producer, m, l->to);
}

static inline void source_send_large(struct source *s, const struct letter *l,
				     uint32_t piece_len)
{
	struct record_props props = {.expiry_ms = l->expiry_ms,
				     .priority = l->priority,
				     .durable = 1};
	uint8_t *data = malloc(l->len);
	struct upload *u;

	assert_non_null(data);
	body_fill(data, l->len, l->id);
	assert_int_equal(upload_begin(&s->producer, &u), 0);
	for (uint32_t at = 0; at < l->len; at += piece_len)
		assert_int_equal(
			upload_append(u, data + at,
				      base_min(piece_len, l->len - at)),
			0);
	free(data);
	upload_finish(u, &props, l->to, (void *)(uintptr_t)l->id);
}

static inline void source_close(struct source *s)
{
	producer_detach(&s->producer);
	twin_settle();
	assert_true(s->gone);
}

/* count messages of len bytes with these ids, in small portions. */
static inline void source_send_many(struct source *s, uint64_t first,
				    unsigned count, uint32_t len,
				    uint8_t priority)
{
	for (unsigned i = 0; i < count; i++) {
		source_send(s, &(struct letter){.id = first + i,
						.len = len,
						.priority = priority});
		if (i % 100 == 99)
			sim_run_for(twin.sim, 300000);
	}
	twin_settle();
}

/* ---- consumers ---- */

struct sink {
	struct consumer consumer;
	int attach_err, piece_err;
	bool released, gone;
	bool answered; /* drained, and nothing asked for since */
	unsigned drained, delivered, confirmed;
	struct delivery *held[HELD_MAX];
	uint64_t ids[HELD_MAX];
	unsigned count;
	/* of the piece that is being read */
	struct piece_read piece;
	uint8_t *at;
	bool read;
};

static inline struct sink *sink_of(struct consumer *c)
{
	return container_of(c, struct sink, consumer);
}

static inline void sink_attached(struct consumer *c, int err, const char *name)
{
	sink_of(c)->attach_err = err;
}

static inline void sink_deliver(struct consumer *c, struct delivery *d)
{
	struct sink *s = sink_of(c);
	uint64_t id = 0;

	assert_true(s->count < HELD_MAX);
	assert_false(s->answered);
	if (delivery_data(d))
		id = body_check(delivery_data(d), delivery_bytes(d));
	else
		assert_true(delivery_piece_count(d) > 0);
	s->held[s->count] = d;
	s->ids[s->count++] = id;
	s->delivered++;
	delivery_sent(d);
}

static inline void sink_drained(struct consumer *c)
{
	sink_of(c)->drained++;
	sink_of(c)->answered = true;
}

static inline void sink_settled(struct consumer *c, void *context, int err)
{
	sink_of(c)->confirmed += !err;
}

static inline void sink_gone(struct consumer *c, int err)
{
	sink_of(c)->gone = true;
}

static inline void sink_released(struct consumer *c)
{
	sink_of(c)->released = true;
}

static const struct consumer_ops sink_ops = {
	.attached = sink_attached,
	.deliver = sink_deliver,
	.drained = sink_drained,
	.settled = sink_settled,
	.gone = sink_gone,
	.released = sink_released,
};

static inline void sink_open(struct sink *s, unsigned shard, const char *name)
{
	struct terminus t = {.address = name};

	memset(s, 0, sizeof(*s));
	s->consumer.ops = &sink_ops;
	s->attach_err = 1;
	consumer_attach(core_shard(twin.core, shard), &s->consumer, &t);
	twin_settle();
	assert_int_equal(s->attach_err, 0);
}

static inline void sink_credit(struct sink *s, uint32_t credit, bool drain)
{
	s->answered = false;
	consumer_credit(&s->consumer, credit, drain);
}

/* What came by it. */
static inline unsigned sink_take(struct sink *s, uint32_t credit)
{
	unsigned before = s->count;

	sink_credit(s, credit, false);
	twin_settle();
	return s->count - before;
}

static inline void sink_settle(struct sink *s, unsigned i,
			       const struct settlement *how)
{
	struct delivery *d = s->held[i];

	s->count--;
	memmove(&s->held[i], &s->held[i + 1],
		(s->count - i) * sizeof(s->held[0]));
	memmove(&s->ids[i], &s->ids[i + 1], (s->count - i) * sizeof(s->ids[0]));
	delivery_settle(d, how);
}

static inline void sink_settle_all(struct sink *s, enum outcome outcome)
{
	const struct settlement how = {.outcome = outcome,
				       .confirm = outcome == OUTCOME_ACCEPTED};

	while (s->count)
		sink_settle(s, s->count - 1, &how);
	twin_settle();
}

static inline void sink_close(struct sink *s, bool failed)
{
	s->count = 0;
	consumer_detach(&s->consumer, failed);
	twin_settle();
	assert_true(s->released);
}

static inline void sink_piece_done(struct piece_read *p, int err,
				   const void *data, uint32_t len)
{
	struct sink *s = container_of(p, struct sink, piece);

	s->piece_err = err;
	s->read = true;
	if (err)
		return;
	memcpy(s->at, data, len);
	s->at += len;
}

/* The id of held message i, which is large. */
static inline uint64_t sink_read_large(struct sink *s, unsigned i)
{
	struct delivery *d = s->held[i];
	uint8_t *data = malloc(delivery_bytes(d));
	uint64_t id = 0;

	assert_non_null(data);
	s->at = data;
	s->piece_err = 0;
	s->piece.done = sink_piece_done;
	for (uint32_t k = 0; k < delivery_piece_count(d) && !s->piece_err;
	     k++) {
		s->read = false;
		delivery_read_piece(d, k, &s->piece);
		assert_false(s->read);
		twin_settle();
		assert_true(s->read);
	}
	if (!s->piece_err) {
		assert_int_equal(s->at - data, delivery_bytes(d));
		id = body_check(data, delivery_bytes(d));
	}
	free(data);
	return id;
}

/* ---- administration ---- */

static inline struct queue_info info_of(const char *name)
{
	struct queue_info info;

	assert_int_equal(core_queue_info(twin.core, name, &info), 0);
	return info;
}

static inline uint64_t memory_bytes(void)
{
	struct core_stats stats;

	core_stats(twin.core, &stats);
	return stats.memory_bytes;
}

struct command {
	struct core_command core;
	bool done;
	int err;
};

static inline void command_done(struct core_command *core, int err)
{
	struct command *c = container_of(core, struct command, core);

	c->done = true;
	c->err = err;
}

static inline void command_begin(struct command *c, enum core_command_kind kind,
				 const char *name)
{
	memset(c, 0, sizeof(*c));
	c->core.kind = kind;
	c->core.name = name;
	c->core.done = command_done;
	core_execute(twin.core, &c->core);
}

/* How many messages went. */
static inline uint64_t command_run(enum core_command_kind kind,
				   const char *name)
{
	struct command c;

	command_begin(&c, kind, name);
	twin_settle();
	assert_true(c.done);
	assert_int_equal(c.err, 0);
	return c.core.ret_count;
}

/* What the core says of a queue is what the store has. */
static inline void check_queue(const char *name)
{
	const struct twin_name *q = twin_queue(name);
	struct queue_info info = info_of(name);

	assert_non_null(q);
	assert_int_equal(info.messages, q->live);
	assert_int_equal(info.bytes, q->bytes);
}

#endif
