/* A core under random loads, over a store that counts everything itself
 * (core_twin.h): nothing twice, nothing lost, every byte accounted for. */
#include "tests/unit/core_clients.h"

#define SEEDS 150u
#define QUEUES 3u
#define STEPS 250u
#define IDS_MAX 20000u

static const char *const names[QUEUES + 2] = {"a", "b", "c", "DLQ",
					      "ExpiryQueue"};

enum fate { FATE_NONE, FATE_SENT, FATE_QUEUED, FATE_GONE, FATE_MAYBE };

static struct {
	uint64_t limit, next_id;
	uint8_t fate[IDS_MAX]; /* MAYBE: a purge may have taken it */
	bool held[IDS_MAX];
	/* Of each producer and lane, the last that a consumer saw as new. */
	uint64_t last[2 * QUEUES][RECORD_PRIORITIES];
	bool seen[IDS_MAX];
	uint8_t priority[IDS_MAX], source[IDS_MAX];
	uint8_t fails[IDS_MAX];
	struct source sources[2 * QUEUES];
	struct sink sinks[QUEUES + 2];
	bool open[QUEUES + 2];
	struct command purges[64];
	unsigned purge_count;
} world;

static uint64_t dice(uint64_t n)
{
	return sim_below(twin.sim, n);
}

static void settled(uint64_t id, bool accepted)
{
	assert_true(world.fate[id] == FATE_SENT ||
		    world.fate[id] == FATE_MAYBE);
	if (!accepted)
		world.fate[id] = FATE_GONE;
	else if (world.fate[id] == FATE_SENT)
		world.fate[id] = FATE_QUEUED;
}

static void step_send(void)
{
	unsigned from = (unsigned)dice(2 * QUEUES);
	struct letter l = {.len = 8 + (uint32_t)dice(2000)};

	for (uint64_t n = dice(60); n; n--) {
		assert_true(world.next_id < IDS_MAX);
		l.id = world.next_id++;
		l.priority = dice(3) ? 4 : (uint8_t)dice(10);
		l.expiry_ms =
			dice(10) ? 0 : loop_wall_ms(twin.loops[0]) + dice(400);
		world.fate[l.id] = FATE_SENT;
		world.priority[l.id] = l.priority;
		world.source[l.id] = (uint8_t)from;
		if (dice(40) || twin.no_space) {
			source_send(&world.sources[from], &l);
			continue;
		}
		l.len += 120000;
		l.expiry_ms = 0;
		world.fate[l.id] = FATE_MAYBE; /* not read */
		source_send_large(&world.sources[from], &l, 70000);
		l.len -= 120000;
	}
}

/* What came: once, and what is new in the order it was sent. */
static void look(unsigned q, unsigned from)
{
	struct sink *s = &world.sinks[q];

	for (unsigned i = from; i < s->count; i++) {
		uint64_t id = s->ids[i];
		uint64_t *last =
			&world.last[world.source[id]][world.priority[id]];

		if (!id)
			continue;
		assert_true(world.fate[id] != FATE_GONE);
		assert_false(world.held[id]);
		world.held[id] = true;
		if (q >= QUEUES)
			continue;
		assert_int_equal(delivery_attempts(s->held[i]),
				 world.fails[id]);
		if (world.seen[id])
			continue;
		world.seen[id] = true;
		assert_true(*last < id);
		*last = id;
	}
}

static void step_credit(unsigned q)
{
	struct sink *s = &world.sinks[q];
	unsigned before = s->count;

	sink_credit(s, (uint32_t)dice(120), dice(4) == 0);
	sim_run_for(twin.sim, dice(400000));
	sink_credit(s, 0, false);
	twin_settle();
	look(q, before);
}

static void step_settle(unsigned q)
{
	struct sink *s = &world.sinks[q];

	for (uint64_t n = dice(100); n && s->count; n--) {
		struct settlement how = {.outcome = OUTCOME_ACCEPTED,
					 .confirm = true};
		uint64_t what = q < QUEUES ? dice(20) : 0;
		unsigned i = dice(3) ? 0 : (unsigned)dice(s->count);
		uint64_t id = s->ids[i];

		if (what == 17) {
			how.outcome = OUTCOME_RELEASED;
		} else if (what == 18) {
			how.outcome = OUTCOME_REJECTED;
		} else if (what == 19) {
			how.outcome = OUTCOME_MODIFIED;
			how.delivery_failed = true;
			how.undeliverable_here = dice(4) == 0;
			how.extra = "more";
			how.extra_len = 4;
		}
		how.confirm = how.outcome == OUTCOME_ACCEPTED;
		if (id) {
			world.held[id] = false;
			world.fails[id] += how.delivery_failed;
			if (how.outcome == OUTCOME_ACCEPTED)
				world.fate[id] = FATE_GONE;
		}
		sink_settle(s, i, &how);
	}
}

static void step_attach(unsigned q)
{
	struct sink *s = &world.sinks[q];

	if (!world.open[q]) {
		if (q >= QUEUES && !twin_queue(names[q]))
			return;
		sink_open(s, (unsigned)dice(2), names[q]);
	} else {
		bool failed = q < QUEUES && dice(2);

		twin_hold_log(false); /* for what it confirms */
		for (unsigned i = 0; i < s->count; i++) {
			world.held[s->ids[i]] = false;
			world.fails[s->ids[i]] += failed;
		}
		sink_close(s, failed);
	}
	world.open[q] = !world.open[q];
}

static void step_purge(unsigned q)
{
	if (world.purge_count == 64 || !twin_queue(names[q]))
		return;
	for (uint64_t id = 1; id < world.next_id; id++)
		if (world.fate[id] == FATE_QUEUED ||
		    world.fate[id] == FATE_SENT)
			world.fate[id] = FATE_MAYBE;
	command_begin(&world.purges[world.purge_count++], CORE_QUEUE_PURGE,
		      names[q]);
}

static void step_damage(void)
{
	struct twin_name *q = twin_queue(names[dice(QUEUES)]);
	struct twin_lane *lane = &q->lanes[4];

	if (!lane->count)
		return;
	for (uint64_t i = dice(lane->count), n = dice(20); n && i < lane->count;
	     n--, i++) {
		uint64_t id;

		if (lane->messages[i].gone || lane->messages[i].upload)
			continue;
		memcpy(&id, lane->messages[i].body, 8);
		if (world.fate[id] == FATE_QUEUED)
			world.fate[id] = FATE_MAYBE;
		lane->messages[i].damaged = true;
	}
}

static void begin_life(void)
{
	struct core_options options = {.memory_bytes = world.limit};

	twin_start(&options);
	for (unsigned i = 0; i < 2 * QUEUES; i++) {
		source_open(&world.sources[i], (unsigned)dice(2), names[i / 2]);
		world.sources[i].settled = settled;
	}
}

static void let_go(void)
{
	twin.no_space = false;
	twin.store.answers_failing = 0;
	twin_hold_fetches(false);
	twin_hold_log(false);
}

static void check_all(void)
{
	let_go();
	twin_settle();
	for (unsigned q = 0; q < QUEUES + 2; q++)
		if (twin_queue(names[q]))
			check_queue(names[q]);
	for (unsigned i = 0; i < world.purge_count; i++)
		assert_true(world.purges[i].done && !world.purges[i].err);
	world.purge_count = 0;
}

static void end_life(void)
{
	let_go();
	for (unsigned q = 0; q < QUEUES + 2; q++)
		if (world.open[q])
			step_attach(q);
	for (unsigned i = 0; i < 2 * QUEUES; i++)
		source_close(&world.sources[i]);
	check_all();
	twin_stop();
}

static void step(bool with_damage)
{
	unsigned q = (unsigned)dice(QUEUES + 2);

	switch (dice(with_damage ? 27 : 26)) {
	case 0 ... 6:
		step_send();
		break;
	case 7 ... 11:
		if (world.open[q])
			step_credit(q);
		break;
	case 12 ... 15:
		if (world.open[q])
			step_settle(q);
		break;
	case 16 ... 18:
		step_attach(q);
		break;
	case 19:
		if (dice(4) == 0)
			step_purge(q);
		break;
	case 20:
		twin.store.answers_failing = (unsigned)dice(3);
		break;
	case 21:
		sim_run_for(twin.sim, dice(2000000000));
		break;
	case 22:
		if (dice(8) == 0) {
			end_life();
			begin_life();
		}
		break;
	case 23:
		twin_hold_log(dice(2));
		break;
	case 24:
		twin_hold_fetches(dice(2));
		break;
	case 25:
		twin.no_space = dice(4) == 0;
		break;
	default:
		step_damage();
	}
	sim_run_for(twin.sim, dice(1500000));
}

/* Everything that can be had, until nothing comes any more. */
static void take_all(bool with_damage)
{
	for (unsigned q = 0; q < QUEUES + 2; q++) {
		struct sink *s = &world.sinks[q];
		unsigned idle = 0;

		if (!twin_queue(names[q]))
			continue;
		if (world.open[q])
			step_attach(q);
		sink_open(s, (unsigned)dice(2), names[q]);
		while (idle < 8) {
			sink_credit(s, 1000, false);
			sim_run_for(twin.sim, 500000000);
			idle = s->count ? 0 : idle + 1;
			look(q, 0);
			for (unsigned i = 0; i < s->count; i++)
				if (s->ids[i]) {
					world.held[s->ids[i]] = false;
					world.fate[s->ids[i]] = FATE_GONE;
				}
			sink_settle_all(s, OUTCOME_ACCEPTED);
		}
		check_queue(names[q]);
		if (!with_damage)
			assert_int_equal(info_of(names[q]).messages, 0);
		assert_int_equal(info_of(names[q]).messages,
				 info_of(names[q]).damaged);
		sink_close(s, false);
	}
	for (uint64_t id = 1; id < world.next_id; id++)
		assert_int_not_equal(world.fate[id], FATE_QUEUED);
}

static void run(uint64_t seed, bool with_damage)
{
	twin_begin(seed);
	memset(&world, 0, sizeof(world));
	world.next_id = 1;
	world.limit = 20000 + dice(400000);
	begin_life();
	for (unsigned i = 0; i < STEPS; i++)
		step(with_damage);
	let_go();
	if (dice(2)) {
		end_life();
		begin_life();
	}
	/* What could not be moved is tried again. */
	sim_run_for(twin.sim, 45000000000ull);
	take_all(with_damage);
	end_life();
	twin_end();
}

TEST("whatever is done, every message is somewhere, once")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++)
		run(seed, false);
}

TEST("with damage, what is kept back is what is damaged")
{
	for (uint64_t seed = 1001; seed <= 1000 + SEEDS; seed++)
		run(seed, true);
}

TEST_MAIN()
