/* tests/unit/test_member.c: brokers that share a directory, as members.
 *
 * Most of it on real files and threads; what a storage that hangs does, in a
 * simulated world. */
#include "tests/unit/test.h"

#include <semaphore.h>
#include <time.h>

#include "base/engine.h"
#include "base/sim/sim.h"
#include "replication/member.h"

#define SECOND 1000000000ull
#define AFTER_NS (400u * 1000000ull)

struct party {
	struct io *io;
	struct crypto_key *key;
	struct log *log;
	struct store *store;
	struct member *member;
	sem_t elected;
	_Atomic int elections, stalls;
	uint64_t stalled_ns;
};

static void on_failed(void *ctx, int err, const char *why)
{
}

static void on_elected(void *ctx)
{
	struct party *p = ctx;

	p->elections++;
	sem_post(&p->elected);
}

static void on_stalled(void *ctx, const char *what, uint64_t ns)
{
	struct party *p = ctx;

	if (!p->stalls++)
		p->stalled_ns = ns;
}

static void party_open(struct party *p, struct io *io, const char *dir)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "a key";

	memset(p, 0, sizeof(*p));
	sem_init(&p->elected, 0, 0);
	p->io = io;
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &p->key), 0);
	assert_int_equal(log_create(
				 &(struct log_options){
					 .io = io,
					 .dir = dir,
					 .master = p->key,
					 .failed = on_failed,
				 },
				 &p->log),
			 0);
	assert_int_equal(store_create(
				 &(struct store_options){
					 .io = io,
					 .dir = dir,
					 .master = p->key,
					 .failed = on_failed,
				 },
				 &p->store),
			 0);
}

static void party_join(struct party *p, const char *dir, const char *name)
{
	assert_int_equal(member_create(
				 &(struct member_options){
					 .io = p->io,
					 .dir = dir,
					 .log = p->log,
					 .store = p->store,
					 .node = name,
					 .url = "",
					 .takeover_after_ns = AFTER_NS,
					 .storage_timeout_ns = 5 * SECOND,
					 .elected = on_elected,
					 .stalled = on_stalled,
					 .ctx = p,
				 },
				 &p->member),
			 0);
	assert_int_equal(member_start(p->member), 0);
}

static void party_init(struct party *p, const char *dir, const char *name)
{
	const char *reason;
	struct io *io;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	party_open(p, io, dir);
	party_join(p, dir, name);
}

static void party_fini(struct party *p)
{
	if (p->member)
		assert_int_equal(member_stop(p->member, 100 * SECOND), 0);
	member_free(p->member);
	store_free(p->store);
	log_free(p->log);
	crypto_key_free(p->key);
	io_free(p->io);
	sem_destroy(&p->elected);
}

/* Within ten seconds, or the test fails. */
static bool elected(struct party *p)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	while (sem_timedwait(&p->elected, &until))
		if (errno != EINTR)
			return false;
	return true;
}

static struct member_status status(struct party *p)
{
	struct member_status s;

	member_status(p->member, &s);
	return s;
}

TEST("who is alone is elected, and leads once it serves")
{
	const char *dir = test_directory();
	struct party a;

	party_init(&a, dir, "a");
	assert_true(elected(&a));
	assert_int_equal(status(&a).role, MEMBER_ELECTED);
	assert_false(member_is_healthy(a.member));
	member_serves(a.member);
	assert_int_equal(status(&a).role, MEMBER_LEADER);
	assert_true(member_is_healthy(a.member));
	assert_false(status(&a).stolen);
	assert_string_equal(status(&a).leader.node, "a");
	assert_int_equal(member_resign(a.member, SECOND), 0);
	party_fini(&a);
}

TEST("a second one stands by until the first resigns")
{
	const char *dir = test_directory();
	struct party a, b;

	party_init(&a, dir, "a");
	assert_true(elected(&a));
	party_init(&b, dir, "b");
	while (status(&b).leader.epoch != 1)
		sched_yield();
	/* Several times takeover_after, in which a is not silent. */
	for (uint64_t beat = status(&b).leader.beat;
	     status(&b).leader.beat < beat + 20;)
		sched_yield();
	assert_int_equal(status(&b).role, MEMBER_STANDBY);
	assert_true(member_is_healthy(b.member));
	assert_int_equal(b.elections, 0);
	assert_int_equal(member_resign(a.member, SECOND), 0);
	assert_true(elected(&b));
	assert_int_equal(log_epoch(b.log), 2);
	assert_false(status(&b).stolen);
	party_fini(&a);
	party_fini(&b);
}

TEST("a leader that holds the lock and is silent is stolen from")
{
	const char *dir = test_directory(), *reason;
	struct party a, b;
	struct io *io;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	party_open(&a, io, dir);
	assert_int_equal(log_claim(a.log), 0);
	party_init(&b, dir, "b");
	assert_true(elected(&b));
	assert_true(status(&b).stolen);
	assert_int_equal(log_check_claim(a.log), -E_FENCED);
	party_fini(&a);
	/* The lock is free now, and b takes it. */
	while (!status(&b).leader.locked)
		sched_yield();
	party_fini(&b);
}

TEST("a storage that does not answer is told by a thread that does not ask it")
{
	struct sim_config config = sim_config_calm(3);
	struct sim_disk *disk;
	struct party *p = calloc(1, sizeof(*p));
	struct sim *sim;

	config.slow_ns_max = 60 * SECOND;
	config.interleave_ppm = SIM_ALWAYS;
	sim = sim_create(&config);
	disk = sim_disk(sim, 0);
	party_open(p, sim_node_create(sim, "a", 0), "data");
	party_join(p, "data", "a");
	sim_run_for(sim, 3 * SECOND);
	assert_int_equal(p->elections, 1);
	assert_int_equal(p->stalls, 0);
	/* Of writes and reads that take a minute, one is enough. */
	for (int i = 0; i < 200 && !p->stalls; i++) {
		sim_disk_fault_at(disk, SIM_FAULT_SLOW,
				  sim_disk_mutations(disk) + 1);
		sim_run_for(sim, SECOND);
	}
	assert_true(p->stalls > 0);
	assert_true(p->stalled_ns > 5 * SECOND);
	assert_true(p->stalled_ns < 8 * SECOND);
	sim_run_for(sim, 120 * SECOND);
	party_fini(p);
	free(p);
	sim_free(sim);
}

TEST("whatever write of an election fails, the next one goes well")
{
	for (uint64_t k = 1; k < 25; k++) {
		struct sim_config config = sim_config_calm(k);
		struct party *p = calloc(1, sizeof(*p));
		struct sim_disk *disk;
		struct sim *sim;

		config.interleave_ppm = SIM_ALWAYS;
		sim = sim_create(&config);
		disk = sim_disk(sim, 0);
		party_open(p, sim_node_create(sim, "a", 0), "data");
		party_join(p, "data", "a");
		/* For example: the claim is made, and then its first sign
		 * cannot be written, or another has sealed it meanwhile. */
		sim_disk_fault_at(disk, SIM_FAULT_EIO,
				  sim_disk_mutations(disk) + k);
		sim_run_for(sim, 10 * SECOND);
		printf("k=%u elections=%d\n", (unsigned)k, p->elections);
		assert_int_equal(p->elections, 1);
		party_fini(p);
		free(p);
		sim_free(sim);
	}
}

TEST_MAIN()
