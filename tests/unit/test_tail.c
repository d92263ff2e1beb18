/* tests/unit/test_tail.c: following a log that another process writes.
 *
 * Two nodes on one simulated disk: "leader" appends, "standby" follows.  One
 * rule for all: what the tail delivers was acknowledged, comes once, in order
 * and without a gap, and recovery from its position finds the rest. */
#include "base/sim/sim.h"
#include "tests/unit/log_harness.h"

#define ALL_BYTES (1ull << 30)

struct pair {
	struct sim *sim;
	struct io *io, *standby;
	struct harness h;
	struct log *log; /* the standby's */
	struct log_tail *tail;
	struct harness_seen seen;
};

static struct log_options standby_options(struct pair *p)
{
	struct log_options o = p->h.options;

	o.io = p->standby;
	return o;
}

static void pair_init(struct pair *p, uint64_t seed)
{
	struct sim_config config = sim_config_calm(seed);
	struct log_options options;

	memset(p, 0, sizeof(*p));
	p->sim = sim_create(&config);
	p->io = sim_node_create(p->sim, "leader", 0);
	p->standby = sim_node_create(p->sim, "standby", 0);
	harness_init(&p->h, p->io, "data");
	assert_int_equal(harness_open(&p->h), 0);
	options = standby_options(p);
	assert_int_equal(log_create(&options, &p->log), 0);
	assert_int_equal(log_tail_create(p->log, NULL, &p->tail), 0);
}

static void pair_fini(struct pair *p)
{
	log_tail_free(p->tail);
	log_free(p->log);
	harness_close(&p->h, p->h.started);
	harness_fini(&p->h);
	assert_int_equal(sim_open_files(sim_node(p->io)), 0);
	assert_int_equal(sim_open_files(sim_node(p->standby)), 0);
	io_free(p->io);
	io_free(p->standby);
	sim_free(p->sim);
}

static int follow(struct pair *p)
{
	bool more = true;
	int err = 0;

	while (!err && more)
		err = log_tail_step(p->tail, ALL_BYTES, harness_see, &p->seen,
				    &more);
	assert_int_equal(p->seen.wrong, 0);
	return err;
}

static void put_many(struct pair *p, uint32_t from, uint32_t count,
		     uint32_t bytes)
{
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(harness_put(&p->h, from + i, bytes), 0);
}

static void expect_seeds(const struct pair *p, uint32_t count)
{
	assert_int_equal(p->seen.count, count);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(p->seen.seeds[i], i);
}

TEST("a tail delivers what was acknowledged, once and in order")
{
	struct pair p;

	pair_init(&p, 1);
	for (uint32_t i = 0; i < 10; i++) {
		put_many(&p, i * 7, 7, 100 * (i + 1));
		assert_int_equal(follow(&p), 0);
		/* All but what no later frame vouches for. */
		assert_true(p.seen.count <= (i + 1) * 7);
		assert_true(p.seen.count + LOG_IN_FLIGHT_MAX >= (i + 1) * 7);
	}
	sim_run_for(p.sim, 100000000); /* the idle mark */
	assert_int_equal(follow(&p), 0);
	expect_seeds(&p, 70);
	assert_int_equal(p.seen.starts, 1);
	pair_fini(&p);
}

TEST("a tail goes from segment to segment")
{
	struct pair p;

	pair_init(&p, 2);
	for (uint32_t i = 0; i < 40; i++) {
		put_many(&p, i * 5, 5, 50000);
		assert_int_equal(follow(&p), 0);
	}
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	expect_seeds(&p, 200);
	assert_true(log_tail_position(p.tail)->segment > log_segment_key(1, 5));
	pair_fini(&p);
}

TEST("a frame that nothing vouches for is seen and not delivered")
{
	struct pair p;
	uint32_t delivered;

	pair_init(&p, 3);
	put_many(&p, 0, 3, 100);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	delivered = p.seen.count;
	assert_int_equal(delivered, 3);
	/* Killed before the next frame or an idle mark. */
	assert_int_equal(harness_put(&p.h, 3, 100), 0);
	sim_kill(sim_node(p.io));
	assert_int_equal(follow(&p), 0);
	assert_int_equal(p.seen.count, 3);
	assert_int_equal(log_tail_seen_lsn(p.tail),
			 log_tail_position(p.tail)->lsn + 1);
	/* It was acknowledged all the same: recovery has it. */
	assert_int_equal(log_claim(p.log), 0);
	assert_int_equal(log_recover(p.log, log_tail_position(p.tail),
				     harness_see, &p.seen),
			 0);
	expect_seeds(&p, 4);
	p.h.started = false;
	pair_fini(&p);
}

TEST("a tail goes on in the epoch of the next leader")
{
	struct pair p;

	pair_init(&p, 4);
	for (uint32_t i = 0; i < 5; i++) {
		put_many(&p, i * 4, 4, 1000);
		if (i % 2)
			assert_int_equal(follow(&p), 0);
		harness_close(&p.h, true);
		assert_int_equal(harness_open(&p.h), 0);
	}
	sim_run_for(p.sim, 100000000);
	put_many(&p, 20, 1, 10);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	expect_seeds(&p, 21);
	assert_int_equal(p.seen.starts, 6);
	pair_fini(&p);
}

TEST("a tail that was left behind says so")
{
	struct pair p;
	uint64_t key = log_segment_key(1, 1);

	pair_init(&p, 5);
	put_many(&p, 0, 3, 100);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	put_many(&p, 3, 120, 50000);
	assert_int_equal(log_drop(p.h.log, &key, 1), 0);
	key = log_segment_key(1, 2);
	assert_int_equal(log_drop(p.h.log, &key, 1), 0);
	/* On Linux an open file stays readable; a standby that opens anew
	 * does not find it. */
	log_tail_free(p.tail);
	{
		struct log_position at = {.segment = log_segment_key(1, 1),
					  .offset = IO_BLOCK,
					  .lsn = 1};

		assert_int_equal(log_tail_create(p.log, &at, &p.tail), 0);
	}
	assert_int_equal(follow(&p), -ENOENT);
	pair_fini(&p);
}

TEST("a deposed leader's frames beyond the cut are never delivered")
{
	struct pair p;
	struct harness other;
	struct log_options options;
	uint32_t i;

	pair_init(&p, 6);
	put_many(&p, 0, 5, 100);
	assert_int_equal(follow(&p), 0);
	/* Another steals, and goes on where the first stopped... */
	harness_init(&other, sim_node_create(p.sim, "other", 0), "data");
	options = other.options;
	assert_int_equal(log_create(&options, &other.log), 0);
	assert_int_equal(log_steal(other.log), 0);
	assert_int_equal(log_recover(other.log, NULL, NULL, NULL), 0);
	/* ... while the first goes on writing, to no avail. */
	assert_int_equal(harness_put(&p.h, 99, 100), -E_FENCED);
	assert_int_equal(loop_create(other.io, "journal", &other.journal), 0);
	assert_int_equal(loop_create(other.io, "main", &other.main), 0);
	assert_int_equal(log_start(other.log, other.journal), 0);
	assert_int_equal(loop_start(other.journal, NULL, NULL), 0);
	other.started = true;
	for (i = 5; i < 9; i++)
		assert_int_equal(harness_put(&other, i, 100), 0);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	expect_seeds(&p, 9);
	assert_int_equal(p.seen.starts, 2);
	harness_close(&other, true);
	io_free(other.io);
	harness_fini(&other);
	pair_fini(&p);
}

TEST("failed reads and allocations are told, and what comes then is right")
{
	for (uint64_t k = 1; k < 60; k++) {
		struct pair p;
		int err;

		pair_init(&p, 7);
		put_many(&p, 0, 12, 20000);
		sim_run_for(p.sim, 100000000);
		sim_disk_fault_at(sim_disk(p.sim, 0), SIM_FAULT_READ_EIO,
				  sim_disk_reads(sim_disk(p.sim, 0)) + k);
		err = follow(&p);
		assert_true(!err || err == -EIO);
		sim_disk_fault_at(sim_disk(p.sim, 0), SIM_FAULT_READ_EIO, 0);
		assert_int_equal(follow(&p), 0);
		expect_seeds(&p, 12);
		pair_fini(&p);
	}
}

TEST("a tail says so too when its own segment is still there")
{
	struct pair p;
	uint64_t key = log_segment_key(1, 2);

	pair_init(&p, 8);
	put_many(&p, 0, 3, 100);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	/* Segment 1 holds something live; 2 does not, and goes unread. */
	put_many(&p, 3, 120, 50000);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(log_drop(p.h.log, &key, 1), 0);
	assert_int_equal(follow(&p), -ENOENT);
	pair_fini(&p);
}

TEST("a segment that a deposed leader has deleted is no failure to drop")
{
	struct pair p;
	uint64_t key = log_segment_key(1, 2);

	pair_init(&p, 9);
	put_many(&p, 0, 120, 50000);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(
		io_unlink(p.standby, "data/segments/00000001-00000002.log"), 0);
	assert_int_equal(log_drop(p.h.log, &key, 1), 0);
	assert_int_equal(log_check_claim(p.h.log), 0);
	pair_fini(&p);
}

static void other_recover(struct harness *h, struct pair *p, const char *name)
{
	harness_init(h, sim_node_create(p->sim, name, 0), "data");
	assert_int_equal(log_create(&h->options, &h->log), 0);
	assert_int_equal(log_steal(h->log), 0);
	assert_int_equal(log_recover(h->log, NULL, NULL, NULL), 0);
	assert_int_equal(loop_create(h->io, "journal", &h->journal), 0);
	assert_int_equal(loop_create(h->io, "main", &h->main), 0);
}

TEST("an epoch that was deposed before it began does not hold a tail up")
{
	struct harness early, late;
	struct pair p;

	pair_init(&p, 10);
	put_many(&p, 0, 5, 100);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	/* One reads, then a frame of the first's becomes durable, then another
	 * reads; the one that was too early writes its beginning all the same.
	 */
	other_recover(&early, &p, "early");
	assert_int_equal(harness_put(&p.h, 5, 100), -E_FENCED);
	other_recover(&late, &p, "late");
	assert_int_equal(log_start(early.log, early.journal), -E_FENCED);
	assert_int_equal(follow(&p), 0);
	assert_int_equal(log_start(late.log, late.journal), 0);
	assert_int_equal(loop_start(late.journal, NULL, NULL), 0);
	late.started = true;
	for (uint32_t i = 6; i < 9; i++)
		assert_int_equal(harness_put(&late, i, 100), 0);
	sim_run_for(p.sim, 100000000);
	assert_int_equal(follow(&p), 0);
	expect_seeds(&p, 9);
	harness_close(&early, false);
	io_free(early.io);
	harness_fini(&early);
	harness_close(&late, true);
	io_free(late.io);
	harness_fini(&late);
	pair_fini(&p);
}

TEST_MAIN()
