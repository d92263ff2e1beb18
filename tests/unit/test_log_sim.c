/* tests/unit/test_log_sim.c: the log against faults, in the simulator.
 *
 * One oracle for all sweeps: what was acknowledged is there afterwards, in
 * order and unchanged; what is there was appended; and a failure to start is
 * allowed only where the fault damages what was stored. */
#include "base/sim/sim.h"
#include "tests/unit/log_harness.h"

#define TINY_BYTES (32u * 1024u)
#define STEPS_MAX 2000000u

struct world {
	struct sim *sim;
	struct harness h;
	bool acked[4096];
	bool sent[4096];
	uint32_t next;
	bool here;
	bool alone; /* one append at a time */
};

static struct harness_seen seen;

static bool node_dead(void *ctx)
{
	return sim_is_dead(sim_node(ctx));
}

static void world_boot(struct world *w)
{
	struct io *io = sim_node_create(w->sim, "broker", 0);

	harness_init(&w->h, io, "data");
	w->h.tiny_segment_bytes = TINY_BYTES;
	w->h.here = w->here;
	w->h.is_dead = node_dead;
	w->h.is_dead_ctx = io;
}

/* The process ends: by log_stop() when it lives, else as it lies. */
static void world_down(struct world *w)
{
	harness_close(&w->h, !node_dead(w->h.io));
	harness_fini(&w->h);
	io_free(w->h.io);
}

static void world_init(struct world *w, const struct sim_config *config)
{
	memset(w, 0, sizeof(*w));
	w->sim = sim_create(config);
}

static void world_fini(struct world *w)
{
	sim_free(w->sim);
}

/* Bursts of a few sizes, over several segments; stops at the first failure. */
static void world_work(struct world *w, uint32_t burst_count)
{
	for (uint32_t n = 0; n < burst_count; n++) {
		struct harness_append *all[8];
		uint32_t count = w->alone ? 1 : 1 + n % 8;
		bool ok = true;

		for (uint32_t i = 0; i < count; i++) {
			uint32_t seed = w->next++;

			ASSERT(seed < ARRAY_COUNT(w->sent));
			w->sent[seed] = true;
			all[i] = harness_append_new(&w->h, seed,
						    (seed * 613) % 6000);
			harness_send(&w->h, all[i]);
		}
		harness_wait(&w->h);
		for (uint32_t i = 0; i < count; i++) {
			/* A dead process has told nobody. */
			if (w->h.pending || all[i]->append.err)
				ok = false;
			else
				w->acked[all[i]->seed] = true;
		}
		if (!node_dead(w->h.io))
			for (uint32_t i = 0; i < count; i++)
				free(all[i]);
		else {
			/* Borrowed by a log that is freed below. */
			world_down(w);
			for (uint32_t i = 0; i < count; i++)
				free(all[i]);
			world_boot(w);
			return;
		}
		if (!ok)
			return;
	}
}

static void expect_oracle(struct world *w)
{
	uint32_t at = 0, last = 0;

	assert_int_equal(seen.wrong, 0);
	for (uint32_t i = 0; i < seen.count; i++) {
		uint32_t seed = seen.seeds[i];

		assert_true(!i || seed > last);
		last = seed;
		assert_true(seed < w->next && w->sent[seed]);
		for (; at < seed; at++)
			assert_false(w->acked[at]);
		at = seed + 1;
	}
	for (; at < w->next; at++)
		assert_false(w->acked[at]);
}

static int world_open(struct world *w)
{
	memset(&seen, 0, sizeof(seen));
	return harness_open_from(&w->h, NULL, harness_see, &seen);
}

/* Two lives with a fault in them, then a healthy one that must start. */
static bool sweep_once(enum sim_fault fault, uint64_t k, uint64_t seed,
		       bool here, bool alone)
{
	struct sim_config config = sim_config_calm(seed);
	struct world w;
	bool reached;

	world_init(&w, &config);
	w.here = here;
	w.alone = alone;
	sim_disk_fault_at(sim_disk(w.sim, 0), fault, k);
	for (int life = 0; life < 2; life++) {
		world_boot(&w);
		if (!world_open(&w)) {
			expect_oracle(&w);
			world_work(&w, 12);
		}
		world_down(&w);
	}
	reached = sim_disk_mutations(sim_disk(w.sim, 0)) >= k;
	sim_disk_fault_at(sim_disk(w.sim, 0), fault, 0);
	world_boot(&w);
	if (world_open(&w)) {
		print_message("fault %d at %llu: %s\n", (int)fault,
			      (unsigned long long)k, log_why(w.h.log));
		fail();
	}
	expect_oracle(&w);
	world_work(&w, 3);
	assert_true(w.acked[w.next - 1]);
	world_down(&w);
	world_fini(&w);
	return reached;
}

static void sweep_as(enum sim_fault fault, uint64_t seed, bool here, bool alone)
{
	uint64_t k = 1;

	while (sweep_once(fault, k, seed, here, alone))
		k++;
	print_message("fault %d: %llu places\n", (int)fault,
		      (unsigned long long)k);
	assert_true(k > 50);
}

/* The journal thread writes all, or most is written by the loop that appends.
 */
static void sweep(enum sim_fault fault, uint64_t seed)
{
	sweep_as(fault, seed, false, false);
	sweep_as(fault, seed, true, false);
}

TEST("power cut at every mutation loses nothing acknowledged")
{
	for (uint64_t seed = 1; seed <= 4; seed++)
		sweep(SIM_FAULT_CUT, seed);
}

TEST("a kill at every mutation loses nothing acknowledged")
{
	sweep(SIM_FAULT_KILL, 11);
}

TEST("an I/O error at every mutation latches and loses nothing")
{
	sweep(SIM_FAULT_EIO, 21);
}

TEST("so it is when a loop waits for each of its appends")
{
	sweep_as(SIM_FAULT_CUT, 41, true, true);
	sweep_as(SIM_FAULT_KILL, 42, true, true);
	sweep_as(SIM_FAULT_EIO, 43, true, true);
}

TEST("no space at every mutation loses nothing")
{
	sweep(SIM_FAULT_ENOSPC, 31);
}

/* How many of 40 lone appends their thread waited for itself. */
static uint64_t waits(uint64_t disk_ns, bool here)
{
	struct sim_config config = sim_config_calm(6);
	struct world w;
	uint64_t count;

	config.disk_ns_min = disk_ns / 2;
	config.disk_ns_max = disk_ns;
	world_init(&w, &config);
	w.alone = true;
	w.here = here;
	world_boot(&w);
	assert_int_equal(world_open(&w), 0);
	world_work(&w, 40);
	assert_true(w.acked[39]);
	count = log_stats(w.h.log)->waits;
	world_down(&w);
	world_fini(&w);
	return count;
}

TEST("a loop waits for its lone appends where the device is fast, and only "
     "there")
{
	uint64_t fast = waits(50000, true);

	assert_in_range(fast, 20, 40);
	assert_int_equal(waits(5000000, true), 0);
	assert_int_equal(waits(50000, false), 0);
}

/* ---- a small journal, and every way to damage it ---- */

static struct crypto_key *no_key;

struct small {
	struct world w;
	struct io *io;
	uint8_t cluster_id[LOG_ID_BYTES];
	uint64_t key; /* of the one segment that is examined */
	char path[LOG_PATH_BYTES];
	uint64_t acked_end; /* file offset behind the last acknowledged frame */
	uint64_t acked_lsn; /* and the LSN there */
	uint64_t idle_end;
};

static int small_frame(void *ctx, const struct log_frame_info *f)
{
	struct small *s = ctx;

	s->key = f->segment;
	s->acked_end = s->idle_end;
	s->acked_lsn = f->first_lsn;
	s->idle_end = f->offset + f->stored_len;
	return 0;
}

/* EPOCH-START, three frames of one record, an idle mark. */
static void small_init(struct small *s)
{
	struct sim_config config = sim_config_calm(5);

	memset(s, 0, sizeof(*s));
	world_init(&s->w, &config);
	world_boot(&s->w);
	assert_int_equal(world_open(&s->w), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(harness_put(&s->w.h, i, 1000 + 1500 * i), 0);
	memcpy(s->cluster_id, log_cluster_id(s->w.h.log), LOG_ID_BYTES);
	harness_close(&s->w.h, true);
	s->io = s->w.h.io;
	assert_int_equal(
		log_inspect(s->io, "data", no_key, small_frame, NULL, s), 0);
	log_segment_path("data", s->key, s->path);
}

static void small_fini(struct small *s)
{
	harness_fini(&s->w.h);
	io_free(s->io);
	world_fini(&s->w);
}

/* Walks as recovery does; the LSN reached, or 0 when damage was reported. */
static uint64_t small_walk(struct small *s)
{
	struct log_walk walk = {
		.io = s->io,
		.dir = "data",
		.cluster_id = s->cluster_id,
	};
	int err = log_walk_run(&walk, NULL);
	uint64_t lsn = walk.end.lsn;

	log_walk_fini(&walk);
	assert_true(!err || err == -E_LOST);
	return err ? 0 : lsn;
}

static void small_write(struct small *s, const void *data, size_t len,
			uint64_t offset)
{
	struct io_file *file;

	assert_int_equal(io_open(s->io, s->path, IO_WRITE, &file), 0);
	assert_int_equal(io_write(file, data, len, offset), 0);
	io_close(file);
}

static uint8_t *small_read(struct small *s, uint64_t *ret_len)
{
	uint8_t *data = malloc(TINY_BYTES);
	struct io_file *file;
	size_t len;

	assert_int_equal(io_open(s->io, s->path, IO_READ, &file), 0);
	assert_int_equal(io_read(file, data, TINY_BYTES, 0, &len), 0);
	io_close(file);
	*ret_len = len;
	return data;
}

TEST("any bit that flips in acknowledged data is noticed")
{
	struct small s;
	uint64_t whole;

	small_init(&s);
	whole = small_walk(&s);
	assert_int_equal(whole, s.acked_lsn + 1);
	for (uint64_t at = 0; at < s.idle_end + 64; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			uint64_t lsn;

			/* All bits of headers, one of each other byte. */
			if (at % IO_BLOCK >= LOG_FRAME_HEADER_BYTES &&
			    bit != at % 8)
				continue;
			assert_int_equal(sim_disk_flip(sim_disk(s.w.sim, 0),
						       s.path, at, bit),
					 0);
			lsn = small_walk(&s);
			if (at < s.acked_end)
				assert_int_equal(lsn, 0);
			else
				assert_true(lsn >= s.acked_lsn);
			assert_int_equal(sim_disk_flip(sim_disk(s.w.sim, 0),
						       s.path, at, bit),
					 0);
		}
	assert_int_equal(small_walk(&s), whole);
	small_fini(&s);
}

TEST("a segment cut short at any length is noticed")
{
	struct small s;
	struct io_file *file;
	uint8_t *data;
	uint64_t len;

	small_init(&s);
	data = small_read(&s, &len);
	assert_int_equal(len, TINY_BYTES);
	assert_int_equal(io_open(s.io, s.path, IO_WRITE, &file), 0);
	for (uint64_t cut = len; cut-- > 0;) {
		if (cut % 512 > 2 && cut % 512 < 510 && cut % 37)
			continue;
		assert_int_equal(io_truncate(file, cut), 0);
		assert_int_equal(small_walk(&s), 0);
	}
	assert_int_equal(io_write(file, data, len, 0), 0);
	assert_true(small_walk(&s) > s.acked_lsn);
	io_close(file);
	free(data);
	small_fini(&s);
}

TEST("a frame torn at any byte is absent after recovery, and only it")
{
	struct small s;
	uint8_t *data, *torn;
	uint64_t len, start;

	small_init(&s);
	data = small_read(&s, &len);
	/* Without the mark, the last record's frame is the tail. */
	torn = calloc(1, TINY_BYTES);
	small_write(&s, torn, s.idle_end - s.acked_end, s.acked_end);
	assert_int_equal(small_walk(&s), s.acked_lsn);
	start = s.acked_end - 2 * IO_BLOCK; /* 4 KB of body: two blocks */
	for (uint64_t at = 0; at < 2 * IO_BLOCK; at++) {
		/* New up to `at`; behind it zeros. */
		memcpy(torn, data + start, at);
		memset(torn + at, 0, 2 * IO_BLOCK - at);
		if (!memcmp(torn, data + start, 2 * IO_BLOCK))
			continue;
		small_write(&s, torn, 2 * IO_BLOCK, start);
		assert_int_equal(small_walk(&s), s.acked_lsn - 1);
		/* The other way round: its beginning is missing. */
		memset(torn, 0, at + 1);
		memcpy(torn + at + 1, data + start + at + 1,
		       2 * IO_BLOCK - at - 1);
		small_write(&s, torn, 2 * IO_BLOCK, start);
		assert_int_equal(small_walk(&s), s.acked_lsn - 1);
	}
	free(torn);
	free(data);
	small_fini(&s);
}

/* ---- reading under faults ---- */

static bool recover_read_fault(enum sim_fault fault, uint64_t k)
{
	struct sim_config config = sim_config_calm(41);
	struct world w;
	uint64_t before;
	bool reached;
	int err;

	world_init(&w, &config);
	for (int life = 0; life < 2; life++) {
		world_boot(&w);
		assert_int_equal(world_open(&w), 0);
		world_work(&w, 4);
		world_down(&w);
	}
	world_boot(&w);
	before = sim_disk_reads(sim_disk(w.sim, 0));
	sim_disk_fault_at(sim_disk(w.sim, 0), fault, before + k);
	err = world_open(&w);
	reached = sim_disk_reads(sim_disk(w.sim, 0)) >= before + k;
	if (!err)
		expect_oracle(&w);
	else
		assert_true(reached);
	world_down(&w);
	sim_disk_fault_at(sim_disk(w.sim, 0), fault, 0);
	/* Whatever it was, it has damaged nothing. */
	world_boot(&w);
	assert_int_equal(world_open(&w), 0);
	expect_oracle(&w);
	world_down(&w);
	world_fini(&w);
	return reached;
}

TEST("a read error or a flipped bit at every read of recovery loses nothing")
{
	uint64_t k = 1;

	while (recover_read_fault(SIM_FAULT_READ_EIO, k))
		k++;
	assert_true(k > 10);
	for (k = 1; recover_read_fault(SIM_FAULT_READ_FLIP, k);)
		k++;
}

/* ---- rough worlds ---- */

/* Lives that end by power cuts, kills and stops at random moments. */
static void rough_world(uint64_t seed)
{
	struct sim_config config = sim_config_rough(seed);
	struct world w;

	world_init(&w, &config);
	w.here = seed % 2;
	for (int life = 0; life < 12 && w.next < 3000; life++) {
		uint64_t now = sim_disk_mutations(sim_disk(w.sim, 0));
		enum sim_fault fault = sim_chance(w.sim, 500000)
					       ? SIM_FAULT_CUT
					       : SIM_FAULT_KILL;
		int err;

		if (life != 11)
			sim_disk_fault_at(sim_disk(w.sim, 0), fault,
					  now + 1 + sim_below(w.sim, 120));
		world_boot(&w);
		err = world_open(&w);
		if (!err) {
			expect_oracle(&w);
			world_work(&w, 20);
		} else if (!node_dead(w.h.io) && err != -EAGAIN) {
			print_message("seed %llu, life %d: %s\n",
				      (unsigned long long)seed, life,
				      log_why(w.h.log));
			fail();
		}
		world_down(&w);
		sim_disk_fault_at(sim_disk(w.sim, 0), fault, 0);
		sim_run_for(w.sim, 200000000);
	}
	world_fini(&w);
}

TEST("many lives in rough worlds lose nothing acknowledged")
{
	for (uint64_t seed = 100; seed < 160; seed++)
		rough_world(seed);
}

/* ---- what lies before a checkpoint ---- */

struct first_segment {
	uint64_t key, end_lsn;
	size_t count;
};

static int first_segment(void *ctx, const struct log_segment_info *info)
{
	struct first_segment *f = ctx;

	if (!f->count++) {
		f->key = info->key;
		f->end_lsn = info->end_lsn;
	}
	return 0;
}

TEST("a segment before the checkpoint whose first frame is damaged is kept")
{
	struct sim_config config = sim_config_calm(5);
	struct first_segment before = {0}, after = {0};
	struct log_position from;
	char path[LOG_PATH_BYTES];
	struct world w;

	world_init(&w, &config);
	world_boot(&w);
	assert_int_equal(world_open(&w), 0);
	for (uint32_t i = 0; i < 60; i++)
		assert_int_equal(harness_put(&w.h, i, 3000), 0);
	from = w.h.committed_end;
	log_each_segment(w.h.log, first_segment, &before);
	assert_true(before.count > 2);
	log_segment_path("data", before.key, path);
	world_down(&w);
	assert_int_equal(
		sim_disk_flip(sim_disk(w.sim, 0), path, IO_BLOCK + 100, 3), 0);
	world_boot(&w);
	assert_int_equal(harness_open_from(&w.h, &from, NULL, NULL), 0);
	log_each_segment(w.h.log, first_segment, &after);
	assert_int_equal(after.key, before.key);
	assert_int_equal(after.end_lsn, before.end_lsn);
	world_down(&w);
	world_fini(&w);
}

/* ---- zombies ---- */

/* A leader is paused at a random moment, its locks expire, another takes
 * over and works; then the first wakes up and goes on writing. */
static void zombie_world(uint64_t seed)
{
	struct sim_config config = sim_config_rough(seed);
	struct harness_append *all[32];
	struct harness old, new;
	struct sim *sim = sim_create(&config);
	struct io *io_old = sim_node_create(sim, "old", 0);
	struct io *io_new = sim_node_create(sim, "new", 0);
	bool acked[64] = {0};
	uint32_t next = 32;
	bool late = false;

	harness_init(&old, io_old, "data");
	harness_init(&new, io_new, "data");
	old.tiny_segment_bytes = new.tiny_segment_bytes = TINY_BYTES;
	old.here = new.here = seed % 2;
	assert_int_equal(harness_open(&old), 0);
	for (uint32_t i = 0; i < 32; i++) {
		all[i] = harness_append_new(&old, i, (i * 613) % 6000);
		harness_send(&old, all[i]);
	}
	sim_run_for(sim, sim_below(sim, 3000000));
	sim_pause(sim_node(io_old), sim_chance(sim, 500000));
	sim_drop_locks(sim_node(io_old));
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(harness_open_from(&new, NULL, harness_see, &seen), 0);
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(harness_put(&new, next++, 500), 0);
	sim_resume(sim_node(io_old));
	harness_wait(&old);
	for (uint32_t i = 0; i < 32; i++) {
		acked[i] = !all[i]->append.err;
		late |= acked[i] && i >= seen.count;
	}
	/* What the old leader acknowledged, before or after, the new one had
	 * read before it began. */
	assert_false(late);
	assert_int_equal(harness_put(&new, next++, 500), 0);
	harness_close(&new, true);
	harness_close(&old, true);
	if (old.failed_count)
		assert_int_equal(old.failed_err, -E_FENCED);
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(harness_open_from(&new, NULL, harness_see, &seen), 0);
	assert_int_equal(seen.wrong, 0);
	assert_true(seen.count >= 2);
	assert_int_equal(seen.seeds[seen.count - 1], next - 1);
	for (uint32_t i = 0; i + 2 < seen.count; i++)
		assert_int_equal(seen.seeds[i], i);
	for (uint32_t i = seen.count - 2; i < 32; i++)
		assert_false(acked[i]);
	harness_close(&new, true);
	for (uint32_t i = 0; i < 32; i++)
		free(all[i]);
	harness_fini(&old);
	harness_fini(&new);
	io_free(io_old);
	io_free(io_new);
	sim_free(sim);
}

TEST("a leader that sleeps through a takeover acknowledges nothing more")
{
	for (uint64_t seed = 1; seed <= 300; seed++)
		zombie_world(seed);
}

static struct loop_mail end_mail;
static bool ended, ended_late;

static void end_delivered(struct loop_mail *mail)
{
	ended = true;
}

/* A process would end here: what is posted later nobody would see. */
static void end_failed(void *ctx, int err, const char *why)
{
	struct harness *h = ctx;

	assert_int_equal(err, -E_FENCED);
	end_mail.deliver = end_delivered;
	loop_post(h->main, &end_mail);
}

static void end_note(struct loop_mail *mail)
{
	ended_late |= !ended;
	harness_note(mail);
}

TEST("a failure is told to the process before it is told to any append")
{
	struct sim_config config = sim_config_calm(5);
	struct harness_append *a;
	struct io_file *claim;
	uint8_t seal[LOG_CLAIM_BYTES] = {0};
	struct world w;

	world_init(&w, &config);
	world_boot(&w);
	w.h.options.failed = end_failed;
	assert_int_equal(world_open(&w), 0);
	assert_int_equal(io_open(w.h.io, "data/epochs/00000001",
				 IO_WRITE | IO_APPEND, &claim),
			 0);
	assert_int_equal(io_write(claim, seal, sizeof(seal), 0), 0);
	io_close(claim);
	ended = ended_late = false;
	a = harness_append_new(&w.h, 1, 100);
	a->note.mail.deliver = end_note;
	harness_send(&w.h, a);
	harness_wait(&w.h);
	assert_int_equal(a->append.err, -E_FENCED);
	assert_true(ended);
	assert_false(ended_late);
	free(a);
	world_down(&w);
	world_fini(&w);
}

/* ---- space ---- */

TEST("the beginning of an epoch is told of while nothing is appended")
{
	struct sim_config config = sim_config_calm(5);
	struct world w;

	world_init(&w, &config);
	for (uint64_t lsn = 2; lsn < 5; lsn++) {
		world_boot(&w);
		assert_int_equal(world_open(&w), 0);
		assert_int_equal(w.h.committed_lsn, 0);
		sim_run_for(w.sim, 1000000);
		assert_int_equal(w.h.committed_lsn, lsn);
		assert_int_equal(w.h.committed_end.lsn, lsn);
		assert_int_equal(w.h.committed_end.segment >> 32, lsn - 1);
		world_down(&w);
		assert_int_equal(w.h.batch_gaps, 0);
	}
	world_fini(&w);
}

TEST("a full disk stops publishing early, and clears when there is room")
{
	struct sim_config config = sim_config_calm(3);
	struct world w;
	struct io_file *file;
	struct io_fs fs;
	uint32_t n;

	config.disk_bytes = 8u << 20;
	world_init(&w, &config);
	world_boot(&w);
	assert_int_equal(world_open(&w), 0);
	assert_int_equal(
		io_open(w.h.io, "ballast", IO_WRITE | IO_CREATE, &file), 0);
	assert_int_equal(io_fs_info(w.h.io, "data", &fs), 0);
	assert_int_equal(io_allocate(file, fs.bytes_free - TINY_BYTES), 0);
	for (n = 0; n < 200 && log_has_space(w.h.log); n++)
		assert_int_equal(harness_put(&w.h, w.next++, 500), 0);
	assert_true(n < 200);
	/* Small records still go in. */
	for (int i = 0; i < 3; i++)
		assert_int_equal(harness_put(&w.h, w.next++, 10), 0);
	assert_int_equal(io_truncate(file, 0), 0);
	sim_run_for(w.sim, 3000000000ull);
	assert_true(log_has_space(w.h.log));
	for (n = 0; n < 50; n++)
		assert_int_equal(harness_put(&w.h, w.next++, 500), 0);
	io_close(file);
	world_down(&w);
	world_fini(&w);
}

TEST("a start on a disk that is too full is known before anything is appended")
{
	struct sim_config config = sim_config_calm(3);
	struct world w;
	struct io_file *file;
	struct io_fs fs;

	config.disk_bytes = 64u << 20;
	world_init(&w, &config);
	world_boot(&w);
	assert_int_equal(world_open(&w), 0);
	sim_run_for(w.sim, 1000000000ull);
	assert_true(log_has_space(w.h.log));
	world_down(&w);
	world_boot(&w);
	/* The first segment of all is small, and so fits; the next does not. */
	w.h.options.segment_bytes = (16u << 20);
	w.h.tiny_segment_bytes = 0;
	assert_int_equal(
		io_open(w.h.io, "ballast", IO_WRITE | IO_CREATE, &file), 0);
	assert_int_equal(io_fs_info(w.h.io, "data", &fs), 0);
	assert_int_equal(io_allocate(file, fs.bytes_free - (16u << 20)), 0);
	assert_int_equal(world_open(&w), 0);
	sim_run_for(w.sim, 1000000000ull);
	assert_false(log_has_space(w.h.log));
	assert_int_equal(w.h.failed_count, 0);
	assert_int_equal(io_truncate(file, 0), 0);
	sim_run_for(w.sim, 3000000000ull);
	assert_true(log_has_space(w.h.log));
	assert_int_equal(harness_put(&w.h, w.next++, 500), 0);
	io_close(file);
	world_down(&w);
	world_fini(&w);
}

TEST("the next segment gets its zeros at the pace at which this one fills")
{
	struct sim_config config = sim_config_calm(44);
	const struct log_stats *stats;
	struct world w;
	uint64_t idle, made;

	world_init(&w, &config);
	world_boot(&w);
	w.h.tiny_segment_bytes = 0;
	w.h.options.segment_bytes = 64u << 20;
	assert_int_equal(world_open(&w), 0);
	stats = log_stats(w.h.log);
	sim_run_for(w.sim, 1000000000ull);
	made = stats->segments_made;
	/* Who is idle writes none. */
	idle = sim_disk_mutations(sim_disk(w.sim, 0));
	sim_run_for(w.sim, 10000000000ull);
	assert_int_equal(sim_disk_mutations(sim_disk(w.sim, 0)), idle);
	/* A put takes 25 blocks: 82 go into the first segment's 8 MiB.  At
	 * three quarters of the second's 16 MiB there is a third one, before
	 * its seven eighths would hurry that. */
	for (int n = 0; n < 82 + 110; n++)
		assert_int_equal(harness_put(&w.h, w.next++, 100000), 0);
	sim_run_for(w.sim, 1000000000ull);
	assert_int_equal(stats->segments_made, made + 1);
	for (int n = 0; n < 18; n++)
		assert_int_equal(harness_put(&w.h, w.next++, 100000), 0);
	sim_run_for(w.sim, 1000000000ull);
	assert_int_equal(stats->segments_made, made + 2);
	world_down(&w);
	world_fini(&w);
}

static int unlink_claim(void *ctx, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "data/epochs/%s", name);
	return io_unlink(ctx, path);
}

TEST("with its claims deleted a directory's epochs go on rising")
{
	struct sim_config config = sim_config_calm(60);
	struct world w;

	world_init(&w, &config);
	for (uint32_t epoch = 1; epoch < 6; epoch++) {
		world_boot(&w);
		assert_int_equal(world_open(&w), 0);
		assert_int_equal(log_epoch(w.h.log), epoch);
		assert_int_equal(seen.count, w.next);
		assert_int_equal(harness_put(&w.h, w.next++, 500), 0);
		assert_int_equal(
			io_list(w.h.io, "data/epochs", unlink_claim, w.h.io),
			0);
		world_down(&w);
	}
	world_fini(&w);
}

static int claim_sizes(void *ctx, const char *name)
{
	struct io_file *file;
	char path[64];
	uint64_t bytes;

	snprintf(path, sizeof(path), "data/epochs/%s", name);
	assert_int_equal(io_open(ctx, path, IO_READ, &file), 0);
	assert_int_equal(io_size(file, &bytes), 0);
	io_close(file);
	/* Its own 64 bytes; one seal, and for those that were met first and
	 * sealed already one more. */
	assert_true(bytes >= 64 && bytes <= 64 * 3);
	return 0;
}

TEST("a claim is sealed once or twice, however many come after it")
{
	struct sim_config config = sim_config_calm(61);
	struct world w;

	world_init(&w, &config);
	for (uint32_t epoch = 1; epoch < 20; epoch++) {
		world_boot(&w);
		assert_int_equal(world_open(&w), 0);
		assert_int_equal(
			io_list(w.h.io, "data/epochs", claim_sizes, w.h.io), 0);
		world_down(&w);
	}
	world_fini(&w);
}

TEST_MAIN()
