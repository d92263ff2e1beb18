/* Queues whose messages are mostly in the store: windows and gaps, reading
 * back, memory, expiry, damage. */
#include "tests/unit/core_clients.h"

#define LIMIT 300000u /* bytes of memory; about 300 messages of 500 */

static const struct core_options small = {.memory_bytes = LIMIT};
static const struct core_options plenty = {.memory_bytes = 0};

#define SEEDS 8u
#define EACH_SEED                                                              \
	for (uint64_t seed = (twin_begin(1), 1); seed <= SEEDS;                \
	     twin_end(), ++seed <= SEEDS ? twin_begin(seed) : (void)0)

TEST("a queue beyond memory is delivered in order, from a window")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 5000, 500, 4);
		assert_int_equal(p.accepted, 5000);
		assert_in_range(memory_bytes(), 1, LIMIT);
		assert_int_equal(info_of("q").messages, 5000);
		sink_open(&c, (unsigned)seed % 2, "q");
		for (unsigned at = 0; at < 5000; at += 100) {
			assert_int_equal(sink_take(&c, 100), 100);
			for (unsigned i = 0; i < 100; i++)
				assert_int_equal(c.ids[i], at + i + 1);
			assert_in_range(memory_bytes(), 0, LIMIT * 5 / 4);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		assert_int_equal(c.confirmed, 5000);
		assert_int_equal(sink_take(&c, 100), 0);
		check_queue("q");
		assert_int_equal(info_of("q").messages, 0);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what nobody touches for a while leaves memory, and is all there")
{
	static struct sink c;
	struct source p;
	uint64_t before;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 200, 500, 4);
		before = memory_bytes();
		assert_in_range(before, 100000, LIMIT);
		sim_run_for(twin.sim, 3000000000);
		assert_in_range(memory_bytes(), 0, LIMIT / 16);
		source_send_many(&p, 201, 100, 500, 4);
		sink_open(&c, (unsigned)seed % 2, "q");
		for (unsigned at = 0; at < 300; at += 100) {
			assert_int_equal(sink_take(&c, 100), 100);
			for (unsigned i = 0; i < 100; i++)
				assert_int_equal(c.ids[i], at + i + 1);
			/* What a consumer has stays with it. */
			sim_run_for(twin.sim, 3000000000);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		assert_int_equal(c.confirmed, 300);
		check_queue("q");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a consumer that keeps up sees what arrives behind a gap, in order")
{
	static struct sink c;
	struct source p;
	uint64_t next = 1;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		sink_open(&c, 1, "q");
		next = 1;
		for (unsigned i = 0; i < 1000; i++) {
			source_send(&p, &(struct letter){.id = 1001 + i,
							 .len = 500,
							 .priority = 4});
			sink_credit(&c, 3, false);
			sim_run_for(twin.sim, 100000);
			for (unsigned k = 0; k < c.count; k++)
				assert_int_equal(c.ids[k], next++);
			while (c.count)
				sink_settle(
					&c, 0,
					&(struct settlement){
						.outcome = OUTCOME_ACCEPTED});
		}
		while (sink_take(&c, 500)) {
			for (unsigned k = 0; k < c.count; k++)
				assert_int_equal(c.ids[k], next++);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		assert_int_equal(next, 2001);
		check_queue("q");
		/* The gap has closed: nothing is read back any more. */
		twin.store.fetches = 0;
		source_send_many(&p, 1, 10, 500, 4);
		assert_int_equal(c.count, 10);
		assert_int_equal(twin.store.fetches, 0);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a higher priority goes first, also when only the store knows of it")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		source_send_many(&p, 2001, 1000, 500, 9);
		source_send_many(&p, 1001, 500, 500, 4);
		source_send_many(&p, 5001, 100, 500, 0);
		sink_open(&c, 0, "q");
		for (unsigned at = 0; at < 2600; at += 100) {
			uint64_t first = at < 1000   ? 2001 + at
					 : at < 2500 ? at - 999
						     : at + 2501;

			assert_int_equal(sink_take(&c, 100), 100);
			for (unsigned i = 0; i < 100; i++)
				assert_int_equal(c.ids[i], first + i);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		check_queue("q");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a restart makes no refs, and counts on where it was")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		source_send_many(&p, 2001, 10, 500, 7);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 100), 100);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
		twin_start(&small);
		assert_int_equal(memory_bytes(), 0);
		check_queue("q");
		source_open(&p, 1, "q");
		source_send_many(&p, 1001, 100, 500, 4);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 200), 200);
		for (unsigned i = 0; i < 200; i++)
			assert_int_equal(c.ids[i], 91 + i);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		while (sink_take(&c, 300))
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		assert_int_equal(c.delivered, 1010);
		check_queue("q");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what consumers hold is bounded; settling lets the rest come")
{
	static struct sink c;
	struct source p;
	unsigned seen = 0;

	twin_begin(1);
	twin_start(&small);
	source_open(&p, 0, "q");
	source_send_many(&p, 1, 6000, 100, 4);
	sink_open(&c, 1, "q");
	while (sink_take(&c, 6000)) {
		/* Some 150 bytes each, and never far over the limit. */
		assert_in_range(c.count, 100, 4000);
		assert_in_range(memory_bytes(), 0, LIMIT * 3 / 2);
		for (unsigned i = 0; i < c.count; i++)
			assert_int_equal(c.ids[i], ++seen);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		sink_credit(&c, 0, false);
		twin_settle();
		for (unsigned i = 0; i < c.count; i++)
			assert_int_equal(c.ids[i], ++seen);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
	}
	assert_int_equal(seen, 6000);
	sink_close(&c, false);
	source_close(&p);
	twin_stop();
	twin_end();
}

TEST("what comes back without its body is read again, in its place")
{
	static struct sink c, d;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		sink_open(&c, 1, "q");
		sink_open(&d, 0, "q");
		/* Each has every other one. */
		for (unsigned i = 0; i < 100; i++) {
			assert_int_equal(sink_take(&c, 1), 1);
			assert_int_equal(sink_take(&d, 1), 1);
		}
		sink_close(&c, false);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 150), 150);
		for (unsigned i = 0; i < 150; i++)
			assert_int_equal(c.ids[i],
					 i < 100 ? 2 * i + 1 : 101 + i);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		sink_settle_all(&d, OUTCOME_ACCEPTED);
		assert_int_equal(info_of("q").messages, 750);
		check_queue("q");
		sink_close(&d, false);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what is rejected takes its body along, also when that has left memory")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		source_send_large(&p,
				  &(struct letter){.id = 5000,
						   .len = 300000,
						   .priority = 9},
				  100000);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 201), 201);
		assert_int_equal(c.ids[0], 0);
		assert_int_equal(sink_read_large(&c, 0), 5000);
		sink_settle_all(&c, OUTCOME_REJECTED);
		check_queue("q");
		check_queue("DLQ");
		assert_int_equal(info_of("q").messages, 800);
		sink_close(&c, false);
		sink_open(&c, 0, "DLQ");
		assert_int_equal(sink_take(&c, 300), 201);
		assert_int_equal(sink_read_large(&c, 0), 5000);
		for (unsigned i = 1; i < 201; i++) {
			const struct record_origin *from =
				delivery_origin(c.held[i]);

			assert_int_equal(from->reason, RECORD_REASON_REJECTED);
			assert_in_range(c.ids[i], 1, 200);
		}
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		check_queue("DLQ");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a purge takes the window, the gap and what a fetch is bringing")
{
	static struct sink c;
	struct source p;
	struct command purge;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		source_send_many(&p, 1001, 500, 300, 6);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 10), 10);
		twin_hold_fetches(true);
		assert_in_range(sink_take(&c, 1000), 0, 990);
		command_begin(&purge, CORE_QUEUE_PURGE, "q");
		twin_settle();
		source_send_many(&p, 3001, 50, 500, 4);
		twin_hold_fetches(false);
		twin_settle();
		assert_true(purge.done);
		assert_int_equal(purge.err, 0);
		/* What was out stays, and what came later has come. */
		assert_int_equal(purge.core.ret_count, 1550 - c.count);
		for (unsigned i = c.count - 50; i < c.count; i++)
			assert_int_equal(c.ids[i], 3001 + i - (c.count - 50));
		check_queue("q");
		assert_int_equal(info_of("q").messages, c.count);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		check_queue("q");
		assert_int_equal(info_of("q").messages, 0);
		assert_int_equal(command_run(CORE_QUEUE_PURGE, "q"), 0);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("memory is not taken from a queue that is being read back")
{
	static struct sink c;
	struct source p, other;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_open(&other, 1, "r");
		source_send_many(&p, 1, 1000, 500, 4);
		sink_open(&c, 1, "q");
		twin_hold_fetches(true);
		assert_int_equal(sink_take(&c, 150), 150);
		assert_int_equal(twin.store.waiting_count, 1);
		source_send_many(&other, 5001, 1000, 500, 4);
		twin_hold_fetches(false);
		twin_settle();
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		for (unsigned at = 150; at < 1000; at += 50) {
			assert_int_equal(sink_take(&c, 50), 50);
			for (unsigned i = 0; i < 50; i++)
				assert_int_equal(c.ids[i], at + i + 1);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		check_queue("q");
		sink_close(&c, false);
		check_queue("r");
		source_close(&other);
		source_close(&p);
		twin_stop();
	}
}

TEST("a queue is deleted while it is being read back")
{
	static struct sink c;
	struct source p;
	struct command delete;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		sink_open(&c, 1, "q");
		twin_hold_fetches(true);
		sink_credit(&c, 1000, false);
		sim_run_for(twin.sim, 5000000);
		command_begin(&delete, CORE_QUEUE_DELETE, "q");
		sim_run_for(twin.sim, 5000000);
		twin_hold_fetches(false);
		twin_settle();
		assert_true(delete.done && c.gone);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a store that cannot be read is asked again, and nothing is lost")
{
	static struct sink c;
	struct source p;
	uint64_t before_ns;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		sink_open(&c, 1, "q");
		twin.store.answers_failing = 3;
		before_ns = sim_now_ns(twin.sim);
		sink_credit(&c, 1000, false);
		for (unsigned i = 0; i < 6000 && c.count < 450; i++)
			sim_run_for(twin.sim, 1000000);
		assert_true(sim_now_ns(twin.sim) - before_ns >= 3000000000ull);
		for (unsigned i = 0; i < 450; i++)
			assert_int_equal(c.ids[i], i + 1);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what is damaged is counted, never delivered, and goes by a purge")
{
	static struct sink c;
	struct source p;
	struct queue_info info;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 1000, 500, 4);
		for (unsigned i = 0; i < 40; i++)
			twin_message(twin_queue("q"),
				     record_ref(4, 501 + i + (i > 20 ? 5 : 0)))
				->damaged = true;
		sink_open(&c, 1, "q");
		for (unsigned i = 0; i < 8; i++) {
			sink_take(&c, 100);
			for (unsigned k = 0; k < c.count; k++)
				assert_false(c.ids[k] > 500 && c.ids[k] <= 521);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		assert_int_equal(c.confirmed, 800);
		info = info_of("q");
		assert_int_equal(info.damaged, 40);
		assert_int_equal(info.messages, 200);
		check_queue("q");
		assert_int_equal(command_run(CORE_QUEUE_PURGE, "q"), 200);
		assert_int_equal(info_of("q").damaged, 0);
		check_queue("q");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("a large message whose piece cannot be read now stays; damaged, it rests")
{
	static struct sink c;
	struct source p;

	twin_begin(1);
	twin_start(&plenty);
	source_open(&p, 0, "q");
	source_send_large(&p, &(struct letter){.id = 1, .len = 250000}, 100000);
	sink_open(&c, 1, "q");
	assert_int_equal(sink_take(&c, 1), 1);
	twin.store.piece_refused = true;
	assert_int_equal(sink_read_large(&c, 0), 0);
	assert_int_equal(c.piece_err, -EIO);
	twin.store.piece_refused = false;
	sink_settle_all(&c, OUTCOME_RELEASED);
	assert_int_equal(sink_take(&c, 1), 1);
	assert_int_equal(sink_read_large(&c, 0), 1);
	twin.store.piece_damaged = true;
	assert_int_equal(sink_read_large(&c, 0), 0);
	sink_settle_all(&c, OUTCOME_RELEASED);
	assert_int_equal(sink_take(&c, 1), 0);
	assert_int_equal(info_of("q").damaged, 1);
	assert_int_equal(info_of("q").messages, 1);
	sink_close(&c, false);
	source_close(&p);
	twin_stop();
	twin_end();
}

/* ---- expiry ---- */

static uint64_t now_ms(void)
{
	return loop_wall_ms(twin.loops[0]);
}

/* Every third one expires soon, every third one later. */
static void send_expiring(struct source *p, unsigned count)
{
	uint64_t soon_ms = now_ms() + 2000;

	for (unsigned i = 0; i < count; i++) {
		source_send(p,
			    &(struct letter){
				    .id = i + 1,
				    .len = 500,
				    .priority = 4,
				    .expiry_ms = i % 3 == 0   ? soon_ms
						 : i % 3 == 1 ? soon_ms + 20000
							      : 0});
		if (i % 100 == 99)
			sim_run_for(twin.sim, 300000);
	}
	twin_settle();
}

TEST("what expires in the gap moves where the rule says, and no sooner")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		send_expiring(&p, 3000);
		assert_int_equal(info_of("q").messages, 3000);
		sim_run_for(twin.sim, 10000000000ull);
		twin_settle();
		check_queue("q");
		check_queue("ExpiryQueue");
		assert_int_equal(info_of("q").messages, 2000);
		assert_int_equal(info_of("q").expired, 1000);
		assert_int_equal(info_of("ExpiryQueue").messages, 1000);
		sim_run_for(twin.sim, 20000000000ull);
		twin_settle();
		assert_int_equal(info_of("q").messages, 1000);
		check_queue("q");
		sink_open(&c, 1, "q");
		for (unsigned i = 0; i < 10; i++) {
			assert_int_equal(sink_take(&c, 100), 100);
			for (unsigned k = 0; k < 100; k++)
				assert_int_equal(c.ids[k],
						 3 * (100 * i + k) + 3);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		check_queue("q");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what expires in the gap and has nowhere to go is acknowledged")
{
	static const struct core_address_rule rule = {
		.match = "#", .routing = RECORD_ANYCAST, .auto_create = true};
	struct core_options options = small;
	struct source p;

	options.rules = &rule;
	options.rule_count = 1;
	EACH_SEED
	{
		twin_start(&options);
		source_open(&p, 0, "q");
		send_expiring(&p, 3000);
		/* Known from the store after a restart, too. */
		source_close(&p);
		twin_stop();
		twin_start(&options);
		sim_run_for(twin.sim, 10000000000ull);
		twin_settle();
		assert_int_equal(info_of("q").messages, 2000);
		assert_int_equal(info_of("q").acknowledged, 1000);
		check_queue("q");
		twin_stop();
	}
}

TEST("what has expired and cannot move now stays where it is, in order")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		send_expiring(&p, 600);
		twin.no_space = true;
		sim_run_for(twin.sim, 5000000000ull);
		twin_settle();
		assert_int_equal(info_of("q").messages, 600);
		/* A consumer passes over them while they try. */
		sink_open(&c, 1, "q");
		sink_take(&c, 200);
		sim_run_for(twin.sim, 11000000000ull);
		sink_take(&c, 200);
		assert_int_equal(c.count, 400);
		for (unsigned i = 0; i < 400; i++)
			assert_int_equal(c.ids[i], i / 2 * 3 + i % 2 + 2);
		assert_int_equal(info_of("q").messages, 600);
		twin.no_space = false;
		sim_run_for(twin.sim, 30000000000ull);
		twin_settle();
		assert_int_equal(info_of("q").messages, 400);
		assert_int_equal(info_of("ExpiryQueue").messages, 200);
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		check_queue("q");
		check_queue("ExpiryQueue");
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("what a refill has passed over, and could not move, is not forgotten")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&plenty);
		source_open(&p, 0, "q");
		send_expiring(&p, 600);
		source_close(&p);
		twin_stop();
		twin_start(&plenty);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 10), 10);
		twin_hold_fetches(true);
		twin.no_space = true;
		sim_run_for(twin.sim, 5000000000ull);
		/* The walk is answered, then the refill waits while what was
		 * taken fails to move. */
		sink_credit(&c, 300, false);
		sim_run_for(twin.sim, 1000000);
		twin_hold_fetches(false);
		twin_hold_fetches(true);
		sim_run_for(twin.sim, 10000000);
		assert_true(twin.store.waiting_count > 0);
		twin_hold_fetches(false);
		twin_settle();
		assert_int_equal(info_of("q").messages, 600);
		twin.no_space = false;
		sim_run_for(twin.sim, 14000000000ull);
		twin_settle();
		/* The ten had it before it expired. */
		assert_int_equal(info_of("ExpiryQueue").messages, 196);
		assert_int_equal(info_of("q").messages, 404);
		check_queue("q");
		sink_close(&c, false);
		twin_stop();
	}
}

/* ---- flow and order ---- */

TEST("producers wait while the store is behind, and go on when it is not")
{
	struct source p;

	twin_begin(1);
	twin_start(&plenty);
	source_open(&p, 0, "q");
	twin.store.behind = true;
	source_send_many(&p, 1, 10, 100, 4);
	assert_true(p.blocked);
	assert_int_equal(p.accepted, 10);
	sim_run_for(twin.sim, 50000000);
	assert_true(p.blocked);
	twin.store.behind = false;
	sim_run_for(twin.sim, 10000000);
	assert_false(p.blocked);
	source_close(&p);
	twin_stop();
	twin_end();
}

TEST("a small message does not overtake a large one of the same producer")
{
	static struct sink c;
	struct source p, anonymous;

	EACH_SEED
	{
		twin_start(&plenty);
		source_open(&p, 0, "q");
		source_open(&anonymous, 0, NULL);
		twin_hold_log(true);
		for (unsigned i = 0; i < 10; i++) {
			struct letter l = {
				.id = 2 * i + 1, .len = 250000, .priority = 4};

			source_send_large(&p, &l, 100000);
			l.to = i % 3 ? "third" : "other";
			source_send_large(&anonymous, &l, 100000);
			l.id++;
			l.len = 100;
			source_send(&p, &(struct letter){.id = l.id,
							 .len = 100,
							 .priority = 4});
			source_send(&anonymous, &l);
		}
		twin_hold_log(false);
		twin_settle();
		assert_int_equal(p.accepted, 20);
		assert_int_equal(anonymous.accepted, 20);
		sink_open(&c, 1, "other");
		assert_int_equal(sink_take(&c, 100), 8);
		for (unsigned i = 0; i < 8; i++)
			assert_int_equal(c.ids[i] ? c.ids[i]
						  : sink_read_large(&c, i),
					 i / 2 * 6 + i % 2 + 1);
		sink_close(&c, false);
		sink_open(&c, 1, "q");
		assert_int_equal(sink_take(&c, 100), 20);
		for (unsigned i = 0; i < 20; i++)
			assert_int_equal(c.ids[i] ? c.ids[i]
						  : sink_read_large(&c, i),
					 i + 1);
		sink_close(&c, false);
		source_close(&anonymous);
		source_close(&p);
		twin_stop();
	}
}

TEST("an upload that fails at its end lets those behind it go on")
{
	struct source p;

	twin_begin(1);
	twin_start(&plenty);
	source_open(&p, 0, NULL);
	/* No such name; the other goes where it is sent. */
	source_send_large(
		&p, &(struct letter){.id = 1, .len = 200000, .to = ""}, 100000);
	source_send(&p, &(struct letter){.id = 2, .len = 100, .to = "q"});
	twin_settle();
	assert_int_equal(p.rejected, 1);
	assert_int_equal(p.accepted, 1);
	assert_true(twin.uploads[0].aborted);
	source_close(&p);
	twin_stop();
	twin_end();
}

TEST("a drain is answered after what it asked for, each time")
{
	static struct sink c;
	struct source p;

	EACH_SEED
	{
		twin_start(&small);
		source_open(&p, 0, "q");
		source_send_many(&p, 1, 500, 500, 4);
		sink_open(&c, 1, "q");
		for (unsigned i = 0; i < 40; i++) {
			unsigned asked = (unsigned)sim_below(twin.sim, 4) + 1;
			unsigned want = 0, most = 0, drained = c.drained;

			/* Again before the first is answered; nothing may
			 * come behind an answer. */
			for (unsigned k = 0; k < asked; k++) {
				want = sim_below(twin.sim, 2)
					       ? (unsigned)sim_below(twin.sim,
								     12)
					       : 0;
				sink_credit(&c, want, true);
				want += c.delivered;
				most = (unsigned)base_max(most, want);
				for (uint64_t n = sim_below(twin.sim, 8); n;
				     n--)
					sim_step(twin.sim);
			}
			twin_settle();
			assert_in_range(c.drained, drained, drained + asked);
			assert_in_range(c.delivered, 0, most);
			/* Used up, there is nothing to be answered. */
			if (c.delivered < want)
				assert_true(c.answered);
			sink_settle_all(&c, OUTCOME_ACCEPTED);
		}
		sink_credit(&c, 1000, true);
		twin_settle();
		sink_settle_all(&c, OUTCOME_ACCEPTED);
		assert_int_equal(c.delivered, 500);
		sink_close(&c, false);
		source_close(&p);
		twin_stop();
	}
}

TEST("many queues over the limit share the memory, and lose nothing")
{
	static struct sink c;
	struct source p[12];
	char name[16];

	EACH_SEED
	{
		twin_start(&small);
		for (unsigned i = 0; i < 12; i++) {
			snprintf(name, sizeof(name), "q%u", i);
			source_open(&p[i], i % 2, name);
			source_send_many(&p[i], 1, 200, 500, 4);
			assert_in_range(memory_bytes(), 1, LIMIT);
		}
		for (unsigned i = 0; i < 12; i++) {
			snprintf(name, sizeof(name), "q%u", i);
			sink_open(&c, i % 3 == 0, name);
			for (unsigned at = 0; at < 200; at += 50) {
				assert_int_equal(sink_take(&c, 50), 50);
				for (unsigned k = 0; k < 50; k++)
					assert_int_equal(c.ids[k], at + k + 1);
				sink_settle_all(&c, OUTCOME_ACCEPTED);
			}
			check_queue(name);
			sink_close(&c, false);
			source_close(&p[i]);
		}
		twin_stop();
	}
}

TEST_MAIN()
