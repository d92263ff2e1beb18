/* What the core promises, on a simulated node: routing, order, credit,
 * outcomes, dead letters, expiry, large messages, and all of it again after a
 * restart. */
#include "tests/unit/test.h"

#include "tests/sim/rig.h"

static const struct rig_options two_shards = {.shard_count = 2};

static void accept_all(struct rig_consumer *c)
{
	while (c->held_count)
		rig_accept(c, 0);
}

/* Everything now in the queue, in order; held by the consumer. */
static size_t fetch(struct rig_consumer *c, uint32_t credit)
{
	size_t before = c->held_count;

	consumer_credit(&c->consumer, credit, false);
	rig_settle(c->rig);
	return c->held_count - before;
}

static void publish_many(struct rig_producer *p, uint64_t first, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		rig_publish(p, first + i, 100 + i % 50, 0, NULL);
	rig_settle(p->rig);
}

static void run(void (*body)(struct sim *))
{
	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct sim_config config = sim_config_calm(seed);
		struct sim *sim = sim_create(&config);

		rig_size_entries(seed);
		body(sim);
		sim_free(sim);
	}
}

static void queue_info_of(struct rig *r, const char *name,
			  struct queue_info *ret)
{
	assert_int_equal(core_queue_info(r->core, name, ret), 0);
}

static void body_order(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	struct queue_info info;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	publish_many(&p, 1, 1000);
	assert_int_equal(p.accepted, 1000);
	/* The consumer lives on the other shard than the queue. */
	assert_int_equal(rig_consumer_open(&r, &c, 1, "a", 0), 0);
	assert_int_equal(fetch(&c, 10), 10);
	assert_int_equal(fetch(&c, 2000), 990);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(c.held_ids[i], i + 1);
	accept_all(&c);
	rig_settle(&r);
	assert_int_equal(c.confirmed, 1000);
	queue_info_of(&r, "a", &info);
	assert_int_equal(info.messages, 0);
	assert_int_equal(info.acknowledged, 1000);
	rig_producer_close(&p);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a queue delivers in order, within credit, and across shards")
{
	run(body_order);
}

static void body_restart(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	publish_many(&p, 1, 300);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "a", 0), 0);
	assert_int_equal(fetch(&c, 100), 100);
	for (unsigned i = 0; i < 50; i++)
		rig_accept(&c, i); /* every other one of the first hundred */
	rig_settle(&r);
	assert_int_equal(c.confirmed, 50);
	rig_producer_close(&p);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "a", 0), 0);
	assert_int_equal(fetch(&c, 1000), 250);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(c.held_ids[i], 2 * i + 2);
	for (unsigned i = 50; i < 250; i++)
		assert_int_equal(c.held_ids[i], 51 + i);
	accept_all(&c);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("after a restart a queue holds what was not acknowledged, in order")
{
	run(body_restart);
}

static void body_topic(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c[3];

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(
			rig_consumer_open(&r, &c[i], i % 2, "topic://t", 0), 0);
	assert_int_equal(rig_producer_open(&r, &p, 1, "t", RECORD_MULTICAST),
			 0);
	publish_many(&p, 1, 100);
	assert_int_equal(p.accepted, 100);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fetch(&c[i], 1000), 100);
		for (unsigned k = 0; k < 100; k++)
			assert_int_equal(c[i].held_ids[k], k + 1);
		accept_all(&c[i]);
	}
	rig_settle(&r);
	for (unsigned i = 0; i < 3; i++)
		rig_consumer_close(&c[i], false);
	publish_many(&p, 101, 10);
	assert_int_equal(p.accepted, 110);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
	/* Subscriptions of consumers do not come back. */
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	struct core_stats stats;

	core_stats(r.core, &stats);
	assert_int_equal(stats.queues, 0);
	assert_int_equal(stats.messages, 0);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("every subscriber of a topic gets every message")
{
	run(body_topic);
}

static void body_outcomes(struct sim *sim)
{
	struct settlement failed = {.outcome = OUTCOME_MODIFIED,
				    .delivery_failed = true,
				    .extra = "note",
				    .extra_len = 4};
	struct settlement release = {.outcome = OUTCOME_RELEASED};
	struct settlement reject = {.outcome = OUTCOME_REJECTED};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c, dead;
	uint32_t len;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "a", 0), 0);
	publish_many(&p, 1, 3);
	assert_int_equal(fetch(&c, 3), 3);
	rig_settle_held(&c, 0, &failed);
	rig_settle_held(&c, 0, &release);
	rig_settle_held(&c, 0, &reject);
	rig_settle(&r);
	assert_int_equal(fetch(&c, 3), 2);
	assert_int_equal(c.held_ids[0], 1);
	assert_int_equal(delivery_attempts(c.held[0]), 1);
	assert_memory_equal(delivery_extra(c.held[0], &len), "note", 4);
	assert_int_equal(len, 4);
	assert_int_equal(c.held_ids[1], 2);
	assert_int_equal(delivery_attempts(c.held[1]), 0);
	rig_settle_held(&c, 1, &release);
	rig_settle_held(&c, 0, &release);
	rig_settle(&r);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);

	/* The count and the annotations were journalled. */
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "a", 0), 0);
	for (unsigned attempt = 1; attempt < 10; attempt++) {
		assert_int_equal(fetch(&c, 1), 1);
		assert_int_equal(c.held_ids[0], 1);
		assert_int_equal(delivery_attempts(c.held[0]), attempt);
		assert_memory_equal(delivery_extra(c.held[0], &len), "note", 4);
		rig_settle_held(&c, 0, &failed);
		rig_settle(&r);
	}
	assert_int_equal(fetch(&c, 10), 1);
	assert_int_equal(c.held_ids[0], 2);
	assert_int_equal(rig_consumer_open(&r, &dead, 1, "DLQ", 0), 0);
	assert_int_equal(fetch(&dead, 10), 2);
	assert_int_equal(dead.held_ids[0], 3);
	assert_int_equal(dead.held_ids[1], 1);
	assert_int_equal(delivery_origin(dead.held[0])->reason,
			 RECORD_REASON_REJECTED);
	assert_int_equal(delivery_origin(dead.held[1])->reason,
			 RECORD_REASON_ATTEMPTS);
	assert_string_equal(delivery_origin(dead.held[1])->queue, "a");
	rig_consumer_close(&dead, true);
	rig_consumer_close(&c, true);
	assert_int_equal(rig_stop(&r), 0);

	/* A broken connection counts as an attempt; dead letters stay dead. */
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "a", 0), 0);
	assert_int_equal(fetch(&c, 10), 1);
	assert_int_equal(delivery_attempts(c.held[0]), 1);
	assert_int_equal(rig_consumer_open(&r, &dead, 1, "DLQ", 0), 0);
	assert_int_equal(fetch(&dead, 10), 2);
	assert_string_equal(delivery_origin(dead.held[1])->address, "a");
	rig_consumer_close(&dead, false);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("release, reject and modify do what AMQP says, and survive")
{
	run(body_outcomes);
}

static void body_undeliverable_here(struct sim *sim)
{
	struct settlement not_here = {.outcome = OUTCOME_MODIFIED,
				      .undeliverable_here = true};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer a, b;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	assert_int_equal(rig_consumer_open(&r, &a, 0, "q", 0), 0);
	assert_int_equal(rig_consumer_open(&r, &b, 1, "q", 0), 0);
	publish_many(&p, 1, 2);
	assert_int_equal(fetch(&a, 1), 1);
	rig_settle_held(&a, 0, &not_here);
	rig_settle(&r);
	/* It goes on with the next, and leaves the first to the other. */
	assert_int_equal(fetch(&a, 5), 1);
	assert_int_equal(a.held_ids[0], 2);
	assert_int_equal(fetch(&b, 5), 1);
	assert_int_equal(b.held_ids[0], 1);
	assert_int_equal(delivery_attempts(b.held[0]), 0);
	accept_all(&a);
	accept_all(&b);
	rig_consumer_close(&a, false);
	rig_consumer_close(&b, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a message undeliverable here goes to another consumer")
{
	run(body_undeliverable_here);
}

static void body_expiry(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	uint64_t now;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	now = io_wall_ms(r.io);
	rig_publish(&p, 1, 64, now + 50, NULL);
	rig_publish(&p, 2, 64, 0, NULL);
	rig_publish(&p, 3, 64, now + 60000, NULL);
	rig_settle(&r);
	sim_run_for(sim, 200 * 1000000ull);
	rig_settle(&r);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "ExpiryQueue", 0), 0);
	assert_int_equal(fetch(&c, 10), 1);
	assert_int_equal(c.held_ids[0], 1);
	assert_int_equal(delivery_origin(c.held[0])->reason,
			 RECORD_REASON_EXPIRED);
	assert_int_equal(delivery_props(c.held[0])->expiry_ms, 0);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	assert_int_equal(fetch(&c, 10), 2);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("what has expired moves to the expiry address without a consumer")
{
	run(body_expiry);
}

static void body_large(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	struct upload *u;
	uint8_t some[1000] = {0};

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	rig_publish(&p, 1, 64, 0, NULL);
	assert_int_equal(rig_publish_large(&p, 2, 3 * 1000 * 1000, 256 * 1024),
			 0);
	assert_int_equal(upload_begin(&p.producer, &u), 0);
	assert_int_equal(upload_append(u, some, sizeof(some)), 0);
	upload_abort(u);
	rig_settle(&r);
	assert_int_equal(p.accepted, 2);
	rig_publish(&p, 3, 64, 0, NULL);
	rig_settle(&r);
	rig_producer_close(&p);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	assert_int_equal(fetch(&c, 10), 3);
	assert_int_equal(rig_read_large(&c, c.held[1]), 2);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "q", 0), 0);
	assert_int_equal(fetch(&c, 10), 3);
	assert_int_equal(rig_read_large(&c, c.held[1]), 2);
	accept_all(&c);
	rig_settle(&r);
	assert_int_equal(c.confirmed, 3);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a large message travels in pieces and survives a restart")
{
	run(body_large);
}

static void body_names(struct sim *sim)
{
	struct rig r;
	struct rig_producer p, direct, nobody;
	struct rig_consumer c, d;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(
		rig_consumer_open(&r, &c, 0, "m::one", RECORD_MULTICAST), 0);
	assert_int_equal(
		rig_consumer_open(&r, &d, 1, "m::two", RECORD_MULTICAST), 0);
	assert_string_equal(d.name, "m::two");
	assert_int_equal(rig_producer_open(&r, &p, 0, "topic://m", 0), 0);
	assert_int_equal(rig_producer_open(&r, &direct, 1, "m::two", 0), 0);
	publish_many(&p, 1, 2);
	publish_many(&direct, 10, 1);
	assert_int_equal(fetch(&c, 10), 2);
	assert_int_equal(fetch(&d, 10), 3);
	assert_int_equal(d.held_ids[2], 10);
	/* An anonymous producer names the address with each message. */
	assert_int_equal(rig_producer_open(&r, &nobody, 1, NULL, 0), 0);
	for (unsigned i = 0; i < 10; i++)
		rig_publish(&nobody, 20 + i, 64, 0,
			    i % 2 ? "fresh" : "topic://m");
	rig_publish(&nobody, 30, 64, 0, "bad\nname");
	rig_publish(&nobody, 31, 64, 0, NULL);
	rig_settle(&r);
	assert_int_equal(nobody.accepted, 10);
	assert_int_equal(nobody.rejected, 2);
	assert_int_equal(c.held_count, 7); /* the credit was there */
	rig_consumer_close(&c, false);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "fresh", 0), 0);
	assert_int_equal(fetch(&c, 10), 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(c.held_ids[i], 21 + 2 * i);
	rig_producer_close(&p);
	assert_int_equal(
		rig_producer_open(&r, &p, 0, "fresh", RECORD_MULTICAST),
		-E_EXISTS);
	rig_producer_close(&p);
	assert_int_equal(rig_producer_open(&r, &p, 0, "", 0), -EINVAL);
	rig_producer_close(&p);
	rig_producer_close(&nobody);
	rig_producer_close(&direct);
	rig_consumer_close(&c, false);
	rig_consumer_close(&d, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("prefixes, address::queue and anonymous producers find their queues")
{
	run(body_names);
}

struct command_result {
	struct core_command command;
	int err;
	bool done;
};

static void command_done(struct core_command *command, int err)
{
	struct command_result *result =
		container_of(command, struct command_result, command);

	result->err = err;
	result->done = true;
}

static int execute(struct rig *r, enum core_command_kind kind, const char *name,
		   uint64_t *ret_count)
{
	struct command_result result = {
		.command = {.kind = kind, .name = name, .done = command_done}};

	core_execute(r->core, &result.command);
	rig_settle(r);
	assert_true(result.done);
	if (ret_count)
		*ret_count = result.command.ret_count;
	return result.err;
}

static void body_commands(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	uint64_t count;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(execute(&r, CORE_QUEUE_PURGE, "q", NULL),
			 -E_NOT_FOUND);
	assert_int_equal(execute(&r, CORE_QUEUE_CREATE, "q", NULL), 0);
	assert_int_equal(execute(&r, CORE_QUEUE_PURGE, "q", &count), 0);
	assert_int_equal(count, 0);
	assert_int_equal(rig_producer_open(&r, &p, 1, "q", 0), 0);
	publish_many(&p, 1, 100);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	assert_int_equal(fetch(&c, 10), 10);
	assert_int_equal(execute(&r, CORE_QUEUE_PURGE, "q", &count), 0);
	assert_int_equal(count, 90);
	assert_int_equal(execute(&r, CORE_QUEUE_PAUSE, "q", NULL), 0);
	publish_many(&p, 101, 10);
	assert_int_equal(fetch(&c, 100), 0);
	consumer_credit(&c.consumer, 100, true);
	rig_settle(&r);
	assert_int_equal(c.drained, 1);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "q", 0), 0);
	assert_int_equal(fetch(&c, 100), 0);
	assert_int_equal(execute(&r, CORE_QUEUE_RESUME, "q", NULL), 0);
	rig_settle(&r);
	assert_int_equal(c.held_count, 20);
	assert_int_equal(execute(&r, CORE_QUEUE_DELETE, "q", &count), 0);
	assert_int_equal(count, 20);
	assert_true(c.gone);
	accept_all(&c);
	rig_consumer_close(&c, false);
	assert_int_equal(rig_stop(&r), 0);
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(execute(&r, CORE_QUEUE_PURGE, "q", NULL),
			 -E_NOT_FOUND);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("create, purge, pause, resume and delete are durable")
{
	run(body_commands);
}

static void body_memory(struct sim *sim)
{
	struct rig_options small = {
		.shard_count = 2, .memory_bytes = 100000, .compress_level = 1};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	struct core_stats stats;

	assert_int_equal(rig_start(&r, sim, &small), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	for (unsigned i = 0; i < 100; i++)
		publish_many(&p, 1 + 30 * i, 30);
	core_stats(r.core, &stats);
	assert_true(stats.memory_bytes < 300000);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	for (unsigned i = 0; i < 3000; i += 100) {
		assert_int_equal(fetch(&c, 100), 100);
		for (unsigned k = 0; k < 100; k++)
			assert_int_equal(c.held_ids[k], i + k + 1);
		accept_all(&c);
	}
	rig_settle(&r);
	assert_int_equal(c.confirmed, 3000);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("beyond the memory limit bodies are read back, in order")
{
	run(body_memory);
}

/* Also what is with a consumer, which has sent it on, and comes back. */
static void body_memory_held(struct sim *sim)
{
	struct rig_options small = {.shard_count = 2, .memory_bytes = 600000};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	struct core_stats stats;

	assert_int_equal(rig_start(&r, sim, &small), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	for (unsigned i = 0; i < 100; i++)
		publish_many(&p, 1 + 30 * i, 30);
	for (unsigned turn = 0; turn < 2; turn++) {
		assert_int_equal(rig_consumer_open(&r, &c, turn, "q", 0), 0);
		assert_int_equal(fetch(&c, 3000), 3000);
		for (unsigned i = 0; i < 3000; i++)
			assert_int_equal(c.held_ids[i], i + 1);
		core_stats(r.core, &stats);
		assert_true(stats.memory_bytes < 800000);
		if (turn)
			accept_all(&c);
		rig_consumer_close(&c, false);
		rig_settle(&r);
	}
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("beyond the memory limit a body that was sent leaves, and comes back")
{
	run(body_memory_held);
}

static void body_drain(struct sim *sim)
{
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	publish_many(&p, 1, 5);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	consumer_credit(&c.consumer, 10, true);
	rig_settle(&r);
	assert_int_equal(c.held_count, 5);
	assert_int_equal(c.drained, 1);
	publish_many(&p, 6, 1);
	assert_int_equal(c.held_count, 5); /* the rest of the credit is void */
	consumer_credit(&c.consumer, 0, true);
	rig_settle(&r);
	assert_int_equal(c.drained, 2);
	assert_int_equal(fetch(&c, 1), 1);
	accept_all(&c);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a drain delivers what is there and voids the rest of the credit")
{
	run(body_drain);
}

static void body_give_back(struct sim *sim)
{
	const struct settlement released = {.outcome = OUTCOME_RELEASED};
	struct rig_consumer c[3], all;
	struct rig_producer p;
	struct rig r;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	publish_many(&p, 1, 300);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rig_consumer_open(&r, &c[i], i % 2, "a", 0),
				 0);
	for (unsigned i = 0; i < 60; i++)
		assert_int_equal(fetch(&c[i % 3], 5), 5);
	/* Some one by one from anywhere, the rest as each of them leaves. */
	for (unsigned i = 0; i < 90; i++)
		rig_settle_held(&c[i % 3], sim_below(sim, 100 - i / 3),
				&released);
	for (unsigned i = 0; i < 3; i++)
		rig_consumer_close(&c[i], false);
	assert_int_equal(rig_consumer_open(&r, &all, 1, "a", 0), 0);
	assert_int_equal(fetch(&all, 1000), 300);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(all.held_ids[i], i + 1);
	while (all.held_count)
		rig_accept(&all, sim_below(sim, all.held_count));
	rig_settle(&r);
	assert_int_equal(all.confirmed, 300);
	rig_consumer_close(&all, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
	/* Acknowledged in any order, none comes again. */
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &all, 0, "a", 0), 0);
	assert_int_equal(fetch(&all, 1000), 0);
	rig_consumer_close(&all, false);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("what several consumers give back is in its old order")
{
	run(body_give_back);
}

static void body_damaged_large(struct sim *sim)
{
	const struct settlement released = {.outcome = OUTCOME_RELEASED};
	struct rig_producer p;
	struct rig_consumer c;
	struct rig r;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	assert_int_equal(rig_publish_large(&p, 1, 600000, 200000), 0);
	rig_settle(&r);
	publish_many(&p, 2, 1);
	assert_int_equal(sim_disk_flip(sim_disk(sim, 0),
				       "data/segments/00000001-00000001.log",
				       300000, 1),
			 0);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "a", 0), 0);
	assert_int_equal(fetch(&c, 10), 2);
	assert_int_equal(rig_read_large(&c, c.held[0]), 0);
	rig_settle_held(&c, 0, &released);
	rig_settle(&r);
	assert_int_equal(c.held_count, 1);
	assert_int_equal(c.held_ids[0], 2);
	assert_int_equal(c.delivered, 2);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a large message that is damaged is handed out once, and not again")
{
	run(body_damaged_large);
}

static void body_flow(struct sim *sim)
{
	struct rig_producer p, late, anonymous;
	struct rig r;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	for (unsigned i = 0; i < 600; i++)
		rig_publish(&p, i + 1, 100000, 0, NULL);
	assert_int_equal(rig_producer_open(&r, &late, 0, "a", 0), 0);
	assert_int_equal(rig_producer_open(&r, &anonymous, 0, NULL, 0), 0);
	rig_run_for(&r, 10000000);
	assert_true(producer_blocked(&late.producer));
	assert_true(p.blocked);
	assert_true(late.blocked);
	assert_true(anonymous.blocked);
	rig_settle(&r);
	assert_int_equal(p.accepted, 600);
	assert_false(p.blocked || late.blocked || anonymous.blocked);
	rig_producer_close(&p);
	rig_producer_close(&late);
	rig_producer_close(&anonymous);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("a producer that comes while others wait for the disk waits too")
{
	run(body_flow);
}

static void body_expiry_refused(struct sim *sim)
{
	struct rig_producer p, other;
	struct queue_info info;
	struct rig_consumer c;
	struct rig r;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	/* The name is taken by a queue of another address. */
	assert_int_equal(rig_producer_open(&r, &other, 0, "b::ExpiryQueue", 0),
			 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "a", 0), 0);
	rig_publish(&p, 1, 32, 1, NULL);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "a", 0), 0);
	assert_int_equal(fetch(&c, 10), 0);
	rig_run_for(&r, 25000000000);
	queue_info_of(&r, "a", &info);
	assert_int_equal(info.messages, 1);
	assert_in_range(info.expired, 2, 4);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	rig_producer_close(&other);
	assert_int_equal(rig_stop(&r), 0);
}

TEST("what has expired and cannot be moved is tried again, but not at once")
{
	run(body_expiry_refused);
}

static void body_full_disk(struct sim *sim)
{
	struct rig_options options = {.shard_count = 2,
				      .checkpoint_bytes = 64 << 20,
				      .checkpoint_ns = 60000000000ull};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;
	uint64_t sent = 0, taken = 0;

	assert_int_equal(rig_start(&r, sim, &options), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	while (!p.rejected && sent < 1000) {
		rig_publish(&p, ++sent, 60000, 0, NULL);
		rig_settle(&r);
	}
	assert_int_equal(p.rejected, 1);
	assert_int_equal(p.last_err, -E_NO_SPACE);
	assert_int_equal(p.accepted, sent - 1);
	/* One at a time: each acknowledgement takes a block of the reserve, and
	 * only what they free can make room for the next. */
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	while (taken < p.accepted) {
		assert_int_equal(fetch(&c, 1), 1);
		assert_int_equal(c.held_ids[0], taken + 1);
		rig_accept(&c, 0);
		rig_settle(&r);
		assert_int_equal(c.confirmed, ++taken);
	}
	for (unsigned i = 0; i < 20 && p.accepted < sent; i++) {
		sim_run_for(sim, 1000000000);
		rig_publish(&p, sent, 60000, 0, NULL);
		rig_settle(&r);
	}
	assert_int_equal(p.accepted, sent);
	assert_int_equal(r.failed, 0);
	rig_producer_close(&p);
	rig_consumer_close(&c, false);
	rig_stop(&r);
}

TEST("on a full disk publishing stops, consuming goes on, and makes room")
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct sim_config config = sim_config_calm(seed);
		struct sim *sim;

		config.disk_bytes = 24 << 20;
		sim = sim_create(&config);
		body_full_disk(sim);
		sim_free(sim);
	}
}

static void publish_priority(struct rig_producer *p, uint64_t id,
			     uint8_t priority)
{
	struct message *m = message_create(p->shard, 64);

	assert_non_null(m);
	rig_fill(m->data, 64, id);
	m->props = (struct record_props){.priority = priority};
	m->context = (void *)(uintptr_t)id;
	producer_publish(&p->producer, m, NULL);
}

static void check_priorities(const struct rig_consumer *c)
{
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(c->held_ids[i], 3 * (i % 10) + (i < 10	  ? 2
								 : i < 20 ? 1
									  : 3));
}

static void body_priority(struct sim *sim)
{
	struct settlement release = {.outcome = OUTCOME_RELEASED};
	struct rig r;
	struct rig_producer p;
	struct rig_consumer c;

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_producer_open(&r, &p, 0, "q", 0), 0);
	/* 1, 4, 7, … are normal, 2, 5, 8, … urgent, 3, 6, 9, … can wait. */
	for (unsigned id = 1; id <= 30; id++)
		publish_priority(&p, id, id % 3 == 1 ? 4 : id % 3 == 2 ? 9 : 0);
	rig_settle(&r);
	assert_int_equal(rig_consumer_open(&r, &c, 1, "q", 0), 0);
	assert_int_equal(fetch(&c, 30), 30);
	check_priorities(&c);
	/* Given back from the middle outwards, each finds its place again. */
	while (c.held_count)
		rig_settle_held(&c, c.held_count / 2, &release);
	rig_settle(&r);
	assert_int_equal(fetch(&c, 30), 30);
	check_priorities(&c);
	rig_consumer_close(&c, false);
	rig_producer_close(&p);
	rig_stop(&r);

	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "q", 0), 0);
	assert_int_equal(fetch(&c, 30), 30);
	check_priorities(&c);
	accept_all(&c);
	rig_settle(&r);
	assert_int_equal(c.confirmed, 30);
	rig_consumer_close(&c, false);
	rig_stop(&r);
	assert_int_equal(rig_start(&r, sim, &two_shards), 0);
	assert_int_equal(rig_consumer_open(&r, &c, 0, "q", 0), 0);
	assert_int_equal(fetch(&c, 30), 0);
	rig_consumer_close(&c, false);
	rig_stop(&r);
}

TEST("higher priorities come first, in order within each, also after a restart")
{
	run(body_priority);
}

TEST_MAIN()
