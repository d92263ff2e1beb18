/* tests/unit/test_log_space.c: when publishing stops for lack of space, when it
 * goes on, and what a disk that is really full does; in the simulator. */
#include "base/sim/sim.h"
#include "tests/unit/log_harness.h"

#define MIB (1u << 20)
#define SECOND_NS 1000000000ull

struct world {
	struct sim *sim;
	struct harness h;
	uint32_t next, acked;
};

static struct harness_seen seen;

static void world_boot(struct world *w)
{
	harness_init(&w->h, sim_node_create(w->sim, "broker", 0), "data");
	w->h.options.segment_bytes = MIB;
	w->h.options.reserve_bytes = MIB;
}

static void world_init(struct world *w, uint64_t disk_bytes)
{
	struct sim_config config = sim_config_calm(11);

	config.disk_bytes = disk_bytes;
	memset(w, 0, sizeof(*w));
	w->sim = sim_create(&config);
	world_boot(w);
}

static int world_open(struct world *w)
{
	memset(&seen, 0, sizeof(seen));
	return harness_open_from(&w->h, NULL, harness_see, &seen);
}

static void world_down(struct world *w)
{
	harness_close(&w->h, true);
	harness_fini(&w->h);
	io_free(w->h.io);
}

static void world_fini(struct world *w)
{
	world_down(w);
	sim_free(w->sim);
}

/* Others fill the disk, or free it, until `bytes` are free. */
static void leave_free(struct world *w, uint64_t bytes)
{
	struct io_file *file;
	struct io_fs fs;
	uint64_t size;

	assert_int_equal(
		io_open(w->h.io, "ballast", IO_WRITE | IO_CREATE, &file), 0);
	assert_int_equal(io_size(file, &size), 0);
	assert_int_equal(io_fs_info(w->h.io, "ballast", &fs), 0);
	if (fs.bytes_free > bytes)
		assert_int_equal(
			io_allocate(file, size + fs.bytes_free - bytes), 0);
	else
		assert_int_equal(
			io_truncate(file, size + fs.bytes_free - bytes), 0);
	io_close(file);
}

static int put(struct world *w, uint32_t body_len)
{
	int err = harness_put(&w->h, w->next++, body_len);

	if (!err)
		w->acked++;
	return err;
}

/* ---- the share ---- */

TEST("others who fill the disk stop publishing, and others who free it let it "
     "go on")
{
	const struct log_stats *stats;
	struct world w;

	world_init(&w, 100 * MIB);
	w.h.options.disk_max_use_percent = 70;
	assert_int_equal(world_open(&w), 0);
	sim_run_for(w.sim, 2 * SECOND_NS);
	stats = log_stats(w.h.log);
	assert_true(log_has_space(w.h.log));
	assert_int_equal(stats->disk_total, 100 * MIB);
	/* The next segment is asked for when a quarter of this one is used, so
	 * it is not there yet and counts. */
	leave_free(&w, 32 * MIB);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_true(log_has_space(w.h.log));
	leave_free(&w, 30 * MIB - 4096);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_false(log_has_space(w.h.log));
	assert_int_equal(stats->disk_refusing, 1);
	assert_int_equal(stats->disk_free, 30 * MIB - 4096);
	/* What makes room goes on. */
	assert_int_equal(put(&w, 100), 0);
	/* What was enough before is not enough to go on. */
	leave_free(&w, 31 * MIB);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_false(log_has_space(w.h.log));
	leave_free(&w, 34 * MIB);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_true(log_has_space(w.h.log));
	assert_int_equal(stats->disk_refusing, 0);
	world_fini(&w);
}

TEST("a start on a disk beyond its share refuses before any loop has run")
{
	struct world w;

	world_init(&w, 100 * MIB);
	assert_int_equal(world_open(&w), 0);
	assert_true(log_has_space(w.h.log));
	world_down(&w);
	world_boot(&w);
	leave_free(&w, 20 * MIB);
	w.h.options.disk_max_use_percent = 70;
	assert_int_equal(world_open(&w), 0);
	assert_false(log_has_space(w.h.log));
	assert_int_equal(log_stats(w.h.log)->disk_refusing, 1);
	assert_int_equal(put(&w, 100), 0);
	world_fini(&w);
}

TEST("a share of more than all is refused")
{
	struct world w;

	world_init(&w, 100 * MIB);
	w.h.options.disk_max_use_percent = 101;
	assert_int_equal(world_open(&w), -EINVAL);
	world_fini(&w);
}

/* ---- the reserve ---- */

TEST("on a disk that stays full what is small goes on for many segments")
{
	struct world w;

	world_init(&w, 64 * MIB);
	w.h.options.segment_bytes = 8 * MIB;
	w.h.options.reserve_bytes = 16 * MIB;
	assert_int_equal(world_open(&w), 0);
	leave_free(&w, 15 * MIB);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_false(log_has_space(w.h.log));
	/* Far more than the segments that there were. */
	for (uint32_t n = 0; n < 48; n++)
		assert_int_equal(put(&w, 400000), 0);
	assert_false(log_has_space(w.h.log));
	assert_true(log_stats(w.h.log)->segments_made >= 2);
	assert_int_equal(w.h.failed_count, 0);
	world_fini(&w);
}

/* Puts until the log gives up.  Returns how many went in. */
static uint32_t put_until_failed(struct world *w)
{
	uint32_t n = 0;

	while (!put(w, 100000)) {
		assert_true(++n < 2000);
		assert_false(log_has_space(w->h.log));
	}
	assert_int_equal(w->h.failed_count, 1);
	assert_int_equal(w->h.failed_err, -ENOSPC);
	assert_non_null(strstr(w->h.failed_why, "full"));
	return n;
}

TEST("a disk that is really full ends the log cleanly, and it starts again")
{
	struct world w;

	world_init(&w, 64 * MIB);
	w.h.options.segment_bytes = 4 * MIB;
	assert_int_equal(world_open(&w), 0);
	assert_int_equal(put(&w, 1000), 0);
	leave_free(&w, 0);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_true(put_until_failed(&w) > 10);
	world_down(&w);
	/* Nothing at all: it says so. */
	world_boot(&w);
	leave_free(&w, 0);
	assert_int_not_equal(world_open(&w), 0);
	assert_true(w.h.log == NULL || log_why(w.h.log)[0]);
	world_down(&w);
	/* A little: it starts, with a first segment that fits, so that what is
	 * there can be consumed; publishing waits. */
	world_boot(&w);
	leave_free(&w, 5 * MIB / 2);
	w.h.options.segment_bytes = 8 * MIB;
	assert_int_equal(world_open(&w), 0);
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(seen.count, w.acked);
	assert_false(log_has_space(w.h.log));
	assert_int_equal(put(&w, 1000), 0);
	/* Enough: publishing goes on. */
	leave_free(&w, 30 * MIB);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_true(log_has_space(w.h.log));
	world_fini(&w);
}

/* ---- a quota ---- */

/* The next attempt at a segment makes the file and cannot allocate it, time and
 * again; asks meanwhile whether publishing is let through. */
static bool quota_lasts(struct world *w, unsigned seconds)
{
	struct sim_disk *disk = sim_disk(w->sim, 0);
	bool refused = true;

	for (unsigned i = 0; i < seconds * 50; i++) {
		sim_disk_fault_at(disk, SIM_FAULT_ENOSPC,
				  sim_disk_mutations(disk) + 2);
		sim_run_for(w->sim, SECOND_NS / 50);
		refused = refused && !log_has_space(w->h.log);
	}
	return refused;
}

static void quota_ends(struct world *w)
{
	sim_disk_fault_at(sim_disk(w->sim, 0), SIM_FAULT_ENOSPC, 0);
	sim_run_for(w->sim, 2 * SECOND_NS);
}

/* Up to the quarter of the first segment behind which the next one is asked
 * for, which then cannot be had.  Not in step with the look every second. */
static void quota_begins(struct world *w)
{
	world_init(w, 1024 * MIB);
	w->h.options.segment_bytes = 8 * MIB;
	assert_int_equal(world_open(w), 0);
	sim_run_for(w->sim, SECOND_NS * 5 / 8);
	for (int n = 0; n < 20; n++)
		assert_int_equal(put(w, 100000), 0);
	sim_disk_fault_at(sim_disk(w->sim, 0), SIM_FAULT_ENOSPC,
			  sim_disk_mutations(sim_disk(w->sim, 0)) + 3);
	assert_int_equal(put(w, 100000), 0);
	quota_lasts(w, 1);
}

TEST("a quota that the numbers do not show stops publishing for as long as it "
     "lasts")
{
	struct world w;
	uint64_t made;

	quota_begins(&w);
	made = log_stats(w.h.log)->segments_made;
	assert_true(quota_lasts(&w, 5));
	assert_int_equal(log_stats(w.h.log)->segments_made, made);
	quota_ends(&w);
	assert_true(log_has_space(w.h.log));
	/* It is made while this one fills, and then it is there. */
	assert_int_equal(log_stats(w.h.log)->segments_made, made);
	for (int n = 0; n < 45; n++)
		assert_int_equal(put(&w, 100000), 0);
	sim_run_for(w.sim, SECOND_NS);
	assert_int_equal(log_stats(w.h.log)->segments_made, made + 1);
	world_fini(&w);
}

TEST("under a quota there are small segments, and its end is noticed by one "
     "who writes nothing")
{
	struct harness_append *all[10];
	struct world w;
	uint64_t made;

	quota_begins(&w);
	made = log_stats(w.h.log)->segments_made;
	/* Near the segment's end in less time than between two attempts. */
	for (unsigned i = 0; i < ARRAY_COUNT(all); i++) {
		all[i] = harness_append_new(&w.h, w.next++, 450000);
		harness_send(&w.h, all[i]);
	}
	harness_wait(&w.h);
	for (unsigned i = 0; i < ARRAY_COUNT(all); i++) {
		assert_int_equal(all[i]->append.err, 0);
		free(all[i]);
	}
	assert_int_equal(log_stats(w.h.log)->segments_made, made);
	assert_true(quota_lasts(&w, 4));
	assert_int_equal(log_stats(w.h.log)->segments_made, made + 1);
	quota_ends(&w);
	assert_true(log_has_space(w.h.log));
	assert_int_equal(log_stats(w.h.log)->segments_made, made + 1);
	world_fini(&w);
}

/* Puts until there are so many segments, and the writer is in the last. */
static void fill_until(struct world *w, uint64_t made)
{
	for (int n = 0; log_stats(w->h.log)->segments_made < made; n++) {
		assert_true(n < 1000);
		assert_int_equal(put(w, 100000), 0);
	}
}

static void leave_quota(struct world *w, uint64_t bytes)
{
	struct sim_disk *disk = sim_disk(w->sim, 0);
	struct sim_disk_stats stats;

	sim_disk_stats(disk, &stats);
	sim_disk_quota(disk, stats.bytes_used + bytes);
}

TEST("where a quota denies a segment of full size, one that is shorter lets "
     "nobody publish")
{
	struct world w;
	uint64_t made;

	world_init(&w, 1024 * MIB);
	w.h.options.segment_bytes = 64 * MIB;
	assert_int_equal(world_open(&w), 0);
	made = log_stats(w.h.log)->segments_made;
	/* The second has 16 MiB, and is allocated already. */
	sim_run_for(w.sim, SECOND_NS);
	leave_quota(&w, 14 * MIB);
	fill_until(&w, made + 1);
	assert_true(log_has_space(w.h.log));
	/* Out of the reserve; there is room for one of 8 MiB behind it. */
	fill_until(&w, made + 2);
	assert_false(log_has_space(w.h.log));
	for (int n = 0; n < 40; n++) {
		assert_int_equal(put(&w, 100000), 0);
		assert_false(log_has_space(w.h.log));
	}
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_false(log_has_space(w.h.log));
	/* While the shorter one waits for its zeros. */
	sim_disk_quota(sim_disk(w.sim, 0), 0);
	sim_run_for(w.sim, 2 * SECOND_NS);
	assert_true(log_has_space(w.h.log));
	fill_until(&w, made + 3);
	world_fini(&w);
}

TEST_MAIN()
