/* tests/unit/test_leadership.c: who leads, and when another takes over.
 *
 * Brokers are nodes of a simulated world that share a disk; here they only
 * claim, look and beat. */
#include "tests/unit/test.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/sim/sim.h"
#include "replication/leadership.h"

#define SECOND 1000000000ull
#define MS 1000000ull
#define AFTER_NS (2 * SECOND)

struct node {
	struct io *io;
	struct crypto_key *key;
	struct log *log;
	struct leadership *l;
};

static struct sim *world(uint64_t seed)
{
	struct sim_config config = sim_config_calm(seed);

	return sim_create(&config);
}

static void node_init(struct node *n, struct sim *sim, const char *name)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "a key";
	struct log_options options = {.dir = "data"};

	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &n->key), 0);
	n->io = sim_node_create(sim, name, 0);
	options.io = n->io;
	options.master = n->key;
	assert_int_equal(log_create(&options, &n->log), 0);
	assert_int_equal(leadership_create(
				 &(struct leadership_options){
					 .io = n->io,
					 .dir = "data",
					 .log = n->log,
					 .node = name,
					 .url = "http://there",
					 .takeover_after_ns = AFTER_NS,
				 },
				 &n->l),
			 0);
}

static void node_fini(struct node *n)
{
	leadership_free(n->l);
	log_free(n->log);
	assert_int_equal(sim_open_files(sim_node(n->io)), 0);
	io_free(n->io);
	crypto_key_free(n->key);
}

static enum leadership_verdict look(struct node *n)
{
	enum leadership_verdict verdict;

	assert_int_equal(leadership_look(n->l, &verdict), 0);
	return verdict;
}

/* What the last of many looks says. */
static enum leadership_verdict look_for(struct sim *sim, struct node *n,
					uint64_t ns)
{
	uint64_t until = sim_now_ns(sim) + ns;
	enum leadership_verdict verdict = LEADERSHIP_WAIT;

	while (sim_now_ns(sim) < until) {
		verdict = look(n);
		if (verdict == LEADERSHIP_TAKE)
			return verdict;
		sim_run_for(sim, leadership_look_ns(n->l));
	}
	return verdict;
}

static void lead(struct node *n)
{
	assert_int_equal(look(n), LEADERSHIP_TAKE);
	assert_int_equal(log_claim(n->log), 0);
	assert_int_equal(leadership_beat(n->l), 0);
}

static void steal(struct node *n)
{
	assert_int_equal(log_steal(n->log), 0);
	assert_int_equal(leadership_beat(n->l), 0);
}

TEST("a broker alone leads at once")
{
	struct sim *sim = world(1);
	struct leadership_leader who;
	struct node a;

	node_init(&a, sim, "a");
	leadership_leader(a.l, &who);
	assert_int_equal(who.epoch, 0);
	lead(&a);
	leadership_leader(a.l, &who);
	assert_int_equal(who.epoch, 1);
	assert_true(who.locked && !who.resigned);
	assert_string_equal(who.node, "a");
	assert_string_equal(who.url, "http://there");
	node_fini(&a);
	sim_free(sim);
}

TEST("while a leader beats others wait, and know who it is")
{
	struct sim *sim = world(2);
	struct leadership_leader who;
	struct node a, b;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(look(&b), LEADERSHIP_WAIT);
		sim_run_for(sim, leadership_beat_ns(a.l));
		assert_int_equal(leadership_beat(a.l), 0);
	}
	leadership_leader(b.l, &who);
	assert_string_equal(who.node, "a");
	assert_true(who.silence_ns <= 2 * leadership_beat_ns(a.l));
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a leader that is killed is followed at once")
{
	struct sim *sim = world(3);
	struct node a, b;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(look(&b), LEADERSHIP_WAIT);
	sim_kill(sim_node(a.io));
	sim_run_for(sim, 100 * MS); /* what a kill leaves behind */
	lead(&b);
	assert_int_equal(log_epoch(b.log), 2);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a silent leader is stolen from after takeover_after, and is fenced")
{
	struct sim *sim = world(4);
	struct node a, b;
	uint64_t since, now;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(look(&b), LEADERSHIP_WAIT);
	since = sim_now_ns(sim);
	while (look(&b) == LEADERSHIP_WAIT)
		sim_run_for(sim, leadership_look_ns(b.l));
	now = sim_now_ns(sim);
	assert_true(now - since >= AFTER_NS);
	assert_true(now - since <= AFTER_NS + 200 * MS);
	assert_int_equal(look(&b), LEADERSHIP_STEAL);
	steal(&b);
	assert_int_equal(leadership_beat(a.l), -E_FENCED);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a leader without the lock gets it when it becomes free")
{
	struct sim *sim = world(5);
	struct node a, b, c;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	node_init(&c, sim, "c");
	lead(&a);
	steal(&b);
	assert_false(log_is_locked(b.log));
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	sim_kill(sim_node(a.io));
	sim_run_for(sim, 100 * MS);
	assert_int_equal(leadership_beat(b.l), 0);
	assert_true(log_is_locked(b.log));
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	node_fini(&a);
	node_fini(&b);
	node_fini(&c);
	sim_free(sim);
}

TEST("who gets the lock lets it go while the leader beats without it")
{
	struct sim *sim = world(6);
	struct node a, b, c;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	node_init(&c, sim, "c");
	lead(&a);
	steal(&b);
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	sim_kill(sim_node(a.io));
	sim_run_for(sim, 100 * MS);
	/* b has not beaten since; its sign says that it has no lock. */
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	assert_false(log_is_locked(c.log));
	/* Until it is silent for too long. */
	assert_int_equal(look_for(sim, &c, AFTER_NS + 300 * MS),
			 LEADERSHIP_TAKE);
	assert_true(log_is_locked(c.log));
	node_fini(&a);
	node_fini(&b);
	node_fini(&c);
	sim_free(sim);
}

TEST("a lost lock is taken by another, and the old leader is fenced")
{
	struct sim *sim = world(7);
	struct node a, b;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(look(&b), LEADERSHIP_WAIT);
	sim_drop_locks(sim_node(a.io));
	lead(&b);
	assert_int_equal(leadership_beat(a.l), -E_FENCED);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a deposed leader's late sign is not news")
{
	struct sim *sim = world(8);
	struct leadership_sign old;
	struct leadership_leader who;
	struct io_file *file;
	struct node a, b, c;
	uint8_t *block = io_buffer_alloc(IO_BLOCK);

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	node_init(&c, sim, "c");
	lead(&a);
	assert_int_equal(leadership_read(a.io, "data", &old), 0);
	steal(&b);
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	/* a's write, begun before, arrives. */
	old.beat += 100;
	leadership_encode(&old, block);
	assert_int_equal(io_open(a.io, "data/leader.lock", IO_WRITE, &file), 0);
	assert_int_equal(io_write(file, block, IO_BLOCK, 0), 0);
	io_close(file);
	sim_run_for(sim, SECOND);
	assert_int_equal(look(&c), LEADERSHIP_WAIT);
	leadership_leader(c.l, &who);
	assert_string_equal(who.node, "b");
	assert_true(who.silence_ns >= SECOND);
	io_buffer_free(block);
	node_fini(&a);
	node_fini(&b);
	node_fini(&c);
	sim_free(sim);
}

TEST("who resigns is followed at once, and does not come back at once")
{
	struct sim *sim = world(9);
	struct node a, b;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(look(&b), LEADERSHIP_WAIT);
	leadership_resign(a.l);
	leadership_yield(a.l);
	assert_int_equal(look(&a), LEADERSHIP_WAIT);
	lead(&b);
	assert_int_equal(look(&a), LEADERSHIP_WAIT);
	node_fini(&b);
	node_fini(&a);
	sim_free(sim);
}

TEST("who steps down and is alone leads again after takeover_after")
{
	struct sim *sim = world(10);
	struct node a;

	node_init(&a, sim, "a");
	leadership_yield(a.l);
	for (uint64_t begin = sim_now_ns(sim);
	     sim_now_ns(sim) - begin + 100 * MS < AFTER_NS;) {
		assert_int_equal(look(&a), LEADERSHIP_WAIT);
		sim_run_for(sim, 50 * MS);
	}
	sim_run_for(sim, 200 * MS);
	lead(&a);
	node_fini(&a);
	sim_free(sim);
}

TEST("a leader that beats rarely is given time")
{
	struct sim *sim = world(11);
	struct leadership_sign slow;
	struct io_file *file;
	struct node a, b;
	uint8_t *block = io_buffer_alloc(IO_BLOCK);

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(leadership_read(a.io, "data", &slow), 0);
	slow.beat_ms = 1000; /* another configuration: 4 s of patience */
	slow.beat++;
	leadership_encode(&slow, block);
	assert_int_equal(io_open(a.io, "data/leader.lock", IO_WRITE, &file), 0);
	assert_int_equal(io_write(file, block, IO_BLOCK, 0), 0);
	io_close(file);
	assert_int_equal(look(&b), LEADERSHIP_WAIT);
	assert_int_equal(look_for(sim, &b, AFTER_NS + SECOND), LEADERSHIP_WAIT);
	assert_int_equal(look_for(sim, &b, 2 * SECOND), LEADERSHIP_STEAL);
	io_buffer_free(block);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a time in which a standby could not look is not the leader's silence")
{
	struct sim *sim = world(13);
	struct node a, b;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	assert_int_equal(look_for(sim, &b, SECOND / 2), LEADERSHIP_WAIT);
	sim_run_for(sim, 10 * AFTER_NS); /* b stands still; a, too */
	assert_int_equal(look_for(sim, &b, SECOND / 2), LEADERSHIP_WAIT);
	assert_int_equal(look_for(sim, &b, SECOND), LEADERSHIP_STEAL);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a standby whose looks all take long steals as well")
{
	struct sim *sim = world(14);
	struct node a, b;
	int looks = 0;

	node_init(&a, sim, "a");
	node_init(&b, sim, "b");
	lead(&a);
	while (look(&b) == LEADERSHIP_WAIT && looks < 20) {
		sim_run_for(sim, AFTER_NS);
		looks++;
	}
	assert_int_equal(look(&b), LEADERSHIP_STEAL);
	assert_true(looks >= 3 && looks <= 6);
	node_fini(&a);
	node_fini(&b);
	sim_free(sim);
}

TEST("a sign is what its table says, and no bit of it may be wrong")
{
	struct leadership_sign s = {.epoch = 7,
				    .beat_ms = 1000,
				    .beat = 42,
				    .wall_ms = 1796037000000,
				    .locked = true,
				    .node = "holdfast-0",
				    .url = "http://127.0.0.1:8161"};
	struct leadership_sign back;
	uint8_t raw[LEADERSHIP_SIGN_BYTES];

	memset(s.cluster_id, 0xab, sizeof(s.cluster_id));
	leadership_encode(&s, raw);
	assert_memory_equal(raw, "HFLEADER\x01\x00\x01\x00\x07\x00\x00\x00",
			    16);
	assert_int_equal(bytes_get64(raw + 32), 42);
	assert_int_equal(bytes_get64(raw + 40), 1796037000000);
	assert_int_equal(bytes_get32(raw + 48), 1000);
	assert_string_equal((char *)raw + 64, "holdfast-0");
	assert_string_equal((char *)raw + 128, "http://127.0.0.1:8161");
	assert_int_equal(leadership_decode(raw, &back), 0);
	assert_memory_equal(&back.cluster_id, &s.cluster_id, 16);
	assert_true(back.locked && !back.resigned);
	assert_string_equal(back.node, s.node);
	assert_string_equal(back.url, s.url);
	for (unsigned bit = 0; bit < 8 * LEADERSHIP_SIGN_BYTES; bit++) {
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(leadership_decode(raw, &back), -E_CORRUPT);
		raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

TEST("whichever operation fails, a look says so or is right")
{
	for (uint64_t k = 1; k < 12; k++) {
		struct sim *sim = world(12);
		struct sim_disk *disk = sim_disk(sim, 0);
		enum leadership_verdict verdict = LEADERSHIP_WAIT;
		struct node a, b;
		int err;

		node_init(&a, sim, "a");
		node_init(&b, sim, "b");
		lead(&a);
		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO,
				  sim_disk_reads(disk) + k);
		err = leadership_look(b.l, &verdict);
		assert_true(err == -EIO ||
			    (!err && verdict == LEADERSHIP_WAIT));
		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO, 0);
		assert_int_equal(look(&b), LEADERSHIP_WAIT);
		node_fini(&a);
		node_fini(&b);
		sim_free(sim);
	}
}

TEST("a sign of a newer version does not keep everybody from leading for ever")
{
	struct leadership_sign sign = {.epoch = 7, .beat = 1, .locked = true};
	uint8_t *block = io_buffer_alloc(IO_BLOCK);
	struct sim *sim = world(40);
	struct io_file *file;
	struct node a;

	node_init(&a, sim, "a");
	leadership_encode(&sign, block);
	bytes_put16(block + 8, 2);
	bytes_put32(block + 508, crc32c(0, block, 508));
	assert_int_equal(
		io_open(a.io, "data/leader.lock", IO_WRITE | IO_CREATE, &file),
		0);
	assert_int_equal(io_write(file, block, IO_BLOCK, 0), 0);
	io_close(file);
	assert_int_equal(look_for(sim, &a, AFTER_NS + SECOND), LEADERSHIP_TAKE);
	node_fini(&a);
	io_buffer_free(block);
	sim_free(sim);
}

TEST_MAIN()
