/* tests/unit/test_state_faults.c: a state and its checkpoints when memory or
 * the disk fails, at every place where it can.
 *
 * Linked so that its allocations can be made to fail (base/sim/sim.h). */
#include "tests/unit/test.h"

#include "base/sim/sim.h"
#include "journal/store/checkpoint.h"
#include "tests/unit/index_twin.h"
#include "tests/unit/store_twin.h"

#define OPS 700u

/* The same records for every attempt, made once. */
struct script {
	struct model_op *ops;
	struct log_loc *locs;
	uint64_t live_messages, live_bytes; /* after them */
};

static void script_init(struct script *c)
{
	struct twin t;

	c->ops = calloc(OPS, sizeof(*c->ops));
	c->locs = calloc(OPS, sizeof(*c->locs));
	assert_true(c->ops && c->locs);
	twin_init(&t, test_seed() + 90);
	for (unsigned i = 0; i < OPS; i++) {
		if (i % 12 == 11)
			model_make_extents(&t.model, &c->ops[i]);
		else
			model_make(&t.model, &c->ops[i]);
		c->locs[i] = loc_of(i + 1, c->ops[i].body_len);
		assert_int_equal(twin_op(&t, &c->ops[i]), 0);
	}
	assert_true(t.state.run_count > 5);
	c->live_messages = t.state.live_messages;
	c->live_bytes = t.state.live_bytes;
	twin_fini(&t);
}

static void script_fini(struct script *c)
{
	free(c->ops);
	free(c->locs);
}

/* Up to the first error. */
static int script_apply(const struct script *c, struct state *s, unsigned from,
			unsigned to)
{
	int err = 0;

	for (unsigned i = from; !err && i < to; i++) {
		struct log_record r = {.lsn = i + 1,
				       .type = c->ops[i].type,
				       .meta = c->ops[i].meta,
				       .meta_len = c->ops[i].meta_len,
				       .loc = c->locs[i]};

		err = state_apply(s, &r);
	}
	return err;
}

static void assert_scripted(const struct script *c, struct state *s)
{
	state_check(s);
	assert_int_equal(s->live_messages, c->live_messages);
	assert_int_equal(s->live_bytes, c->live_bytes);
}

/* ---- memory ---- */

TEST("a state without memory at any place says so, and can be freed")
{
	unsigned failed = 0, survived = 0;
	struct script c;
	bool more = true;

	/* Few messages are many chunks of entries then, and most packed. */
	entries_sizes = (struct entries_sizes){4, 1};
	script_init(&c);
	for (uint64_t k = 1; more; k++) {
		struct index_twin index;
		struct state s;
		int err;

		index_twin_init(&index);
		state_init(&s);
		s.index = &index.index;
		s.detail_bytes_max = 1000;
		assert_int_equal(sim_alloc_fail_at(k), 0);
		err = script_apply(&c, &s, 0, OPS);
		more = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
		if (err) {
			assert_int_equal(err, -ENOMEM);
			assert_true(s.why[0]);
			failed++;
		} else { /* it went on without what it asked for */
			assert_scripted(&c, &s);
			survived += more;
		}
		state_fini(&s);
		index_twin_fini(&index);
	}
	assert_true(failed > 200 && survived > 5);
	script_fini(&c);
}

/* ---- the disk ---- */

static const uint8_t cluster_id[16] = "a test's cluster";

struct disk {
	struct sim *sim;
	struct io *io;
	struct crypto_key *master;
	struct checkpoint_place place;
};

static void disk_boot(struct disk *d)
{
	d->io = sim_node_create(d->sim, "node", 0);
	d->place = (struct checkpoint_place){
		.identity = {.io = d->io,
			     .master = d->master,
			     .cluster_id = cluster_id},
		.dir = "d",
	};
}

static void disk_init(struct disk *d, uint64_t seed)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "a key for these tests";
	struct sim_config config = sim_config_calm(seed);

	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &d->master), 0);
	d->sim = sim_create(&config);
	disk_boot(d);
	assert_int_equal(io_mkdir(d->io, "d"), 0);
	assert_int_equal(io_mkdir(d->io, "d/" CHECKPOINT_DIR), 0);
	assert_int_equal(io_sync_dir(d->io, "d"), 0);
	assert_int_equal(io_sync_dir(d->io, "/"), 0);
}

static void disk_fini(struct disk *d)
{
	assert_int_equal(sim_open_files(sim_node(d->io)), 0);
	io_free(d->io);
	sim_free(d->sim);
	crypto_key_free(d->master);
}

static int disk_write(struct disk *d, struct state *s, uint64_t lsn,
		      uint32_t epoch)
{
	struct log_position p = {
		.segment = log_segment_key(1, 1), .offset = 4096, .lsn = lsn};
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct checkpoint_file file;
	uint64_t bytes;

	return checkpoint_write(&d->place, s, &p, epoch, &file, hash, &bytes);
}

static int disk_read(struct disk *d, const char *name, struct state *s)
{
	struct log_position p;

	state_init(s);
	return checkpoint_read(&d->place, name, s, &p);
}

static int count_name(void *ctx, const char *name)
{
	++*(size_t *)ctx;
	return 0;
}

static size_t disk_names(struct disk *d)
{
	size_t count = 0;

	assert_int_equal(
		io_list(d->io, "d/" CHECKPOINT_DIR, count_name, &count), 0);
	return count;
}

TEST("a checkpoint is whole or absent when memory fails while it is written")
{
	unsigned failed = 0;
	struct script c;
	struct state s, back;
	struct disk d;
	bool more = true;

	script_init(&c);
	disk_init(&d, 1);
	state_init(&s);
	assert_int_equal(script_apply(&c, &s, 0, OPS), 0);
	for (uint32_t k = 1; more; k++) {
		size_t before = disk_names(&d);
		int err;

		assert_int_equal(sim_alloc_fail_at(k), 0);
		err = disk_write(&d, &s, 1000, k);
		more = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
		assert_true(!err || err == -ENOMEM);
		assert_int_equal(disk_names(&d), before + !err);
		failed += err != 0;
	}
	assert_true(failed > 10);
	assert_scripted(&c, &s);
	state_fini(&s);
	more = true;
	for (uint64_t k = 1; more; k++) {
		struct checkpoint_file file;
		size_t count;
		int err;

		assert_int_equal(checkpoint_list(&d.place, &file, 1, &count),
				 0);
		assert_int_equal(sim_alloc_fail_at(k), 0);
		err = disk_read(&d, file.name, &back);
		more = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
		assert_true(!err || err == -ENOMEM);
		if (!err)
			assert_scripted(&c, &back);
		failed += err != 0;
		state_fini(&back);
	}
	assert_true(failed > 100);
	disk_fini(&d);
	script_fini(&c);
}

#define OLD "00000003-0000000000000064.ckpt" /* LSN 100 */
#define NEW "00000003-00000000000000c8.ckpt" /* LSN 200 */

/* With mutation k of the second checkpoint failing; false: there are fewer. */
static bool write_with_fault(const struct script *c, enum sim_fault fault,
			     uint64_t k)
{
	struct sim_disk *disk;
	struct state s, back;
	uint64_t before;
	struct disk d;
	bool hit;
	int err;

	disk_init(&d, 100 + k);
	disk = sim_disk(d.sim, 0);
	state_init(&s);
	assert_int_equal(script_apply(c, &s, 0, OPS / 2), 0);
	assert_int_equal(disk_write(&d, &s, 100, 3), 0);
	assert_int_equal(script_apply(c, &s, OPS / 2, OPS), 0);
	before = sim_disk_mutations(disk);
	sim_disk_fault_at(disk, fault, before + k);
	err = disk_write(&d, &s, 200, 3);
	hit = sim_disk_mutations(disk) - before >= k;
	sim_disk_fault_at(disk, fault, 0);
	if (sim_is_dead(sim_node(d.io))) {
		io_free(d.io);
		sim_run_for(d.sim, 200000000);
		disk_boot(&d);
	} else if (err == -ENOSPC) {
		assert_int_equal(disk_names(&d), 1);
		err = disk_write(&d, &s, 200, 3);
		assert_int_equal(err, 0);
	} else {
		assert_true(!err || err == -EIO);
	}
	assert_int_equal(disk_read(&d, OLD, &back), 0);
	state_check(&back);
	state_fini(&back);
	if (disk_read(&d, NEW, &back)) {
		/* It was not promised. */
		assert_int_not_equal(err, 0);
	} else {
		assert_scripted(c, &back);
	}
	state_fini(&back);
	state_fini(&s);
	disk_fini(&d);
	return hit;
}

TEST("a checkpoint is whole or absent whatever fails while it is written")
{
	static const enum sim_fault faults[] = {
		SIM_FAULT_CUT, SIM_FAULT_KILL, SIM_FAULT_EIO, SIM_FAULT_ENOSPC};
	struct script c;

	script_init(&c);
	for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
		uint64_t k = 1;

		while (write_with_fault(&c, faults[i], k))
			k++;
		assert_true(k > 4);
	}
	script_fini(&c);
}

TEST("a checkpoint that is read wrongly is refused, or says the same")
{
	static const enum sim_fault faults[] = {SIM_FAULT_READ_EIO,
						SIM_FAULT_READ_FLIP};
	struct sim_disk *disk;
	struct state s, back;
	struct script c;
	struct disk d;

	script_init(&c);
	disk_init(&d, 7);
	disk = sim_disk(d.sim, 0);
	state_init(&s);
	assert_int_equal(script_apply(&c, &s, 0, OPS), 0);
	assert_int_equal(disk_write(&d, &s, 100, 3), 0);
	state_fini(&s);
	for (unsigned i = 0; i < 40; i++) {
		enum sim_fault fault = faults[i % ARRAY_COUNT(faults)];
		uint64_t before = sim_disk_reads(disk);
		int err;

		sim_disk_fault_at(disk, fault, before + 1 + i / 2 % 8);
		err = disk_read(&d, OLD, &back);
		sim_disk_fault_at(disk, fault, 0);
		if (!err)
			assert_scripted(&c, &back);
		else
			assert_true(err == -EIO || err == -E_CORRUPT ||
				    err == -E_KEY || err == -E_VERSION);
		state_fini(&back);
	}
	disk_fini(&d);
	script_fini(&c);
}

TEST_MAIN()
