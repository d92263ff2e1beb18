/* The simulator's disk: lies, rot, and slowness. */
#include "tests/unit/sim_world.h"

static size_t count_blocks(const uint8_t *p, size_t len, int value)
{
	size_t n = 0;

	for (size_t i = 0; i + IO_BLOCK <= len; i += IO_BLOCK)
		n += all_are(p + i, IO_BLOCK, value);
	return n;
}

TEST("a stray write spares its file and overwrites a block of another")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct sim_disk *disk = sim_disk(sim, 0);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 'o', 4 * IO_BLOCK);
		struct io_file *g = durable_file(io, "/g", 'o', 4 * IO_BLOCK);
		static uint8_t n[IO_BLOCK], buf[8 * IO_BLOCK];
		struct sim_disk_stats stats;
		size_t len;

		memset(n, 'n', sizeof(n));
		sim_disk_fault_at(disk, SIM_FAULT_STRAY,
				  sim_disk_mutations(disk) + 1);
		assert_int_equal(io_write(f, n, IO_BLOCK, 0), 0);
		assert_int_equal(io_read(f, buf, sizeof(buf), 0, &len), 0);
		assert_int_equal(len, 4 * IO_BLOCK);
		assert_true(all_are(buf, len, 'o'));
		assert_int_equal(io_read(g, buf, sizeof(buf), 0, &len), 0);
		assert_int_equal(len, 4 * IO_BLOCK);
		assert_int_equal(count_blocks(buf, len, 'n'), 1);
		assert_int_equal(count_blocks(buf, len, 'o'), 3);
		sim_disk_stats(disk, &stats);
		assert_int_equal(stats.misdirected, 1);
		io_close(f);
		io_close(g);
		io_free(io);
		sim_free(sim);
	}
}

TEST("a stray write of a world by chance hits some file or none")
{
	struct sim_config c = sim_config_calm(1);
	struct sim *sim;
	struct sim_disk_stats stats;
	struct io *io;
	struct io_file *f;

	c.stray_ppm = SIM_ALWAYS;
	sim = sim_create(&c);
	io = sim_node_create(sim, "a", 0);
	f = open_file(io, "/f", IO_WRITE | IO_CREATE);
	assert_int_equal(io_write(f, "x", 1, 0), 0);
	sim_disk_stats(sim_disk(sim, 0), &stats);
	assert_int_equal(stats.misdirected, 1);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST("a spoilt sector cannot be read, by call or operation, until it is "
     "written")
{
	struct sim *sim = world(3);
	struct sim_disk *disk = sim_disk(sim, 0);
	struct io *io = sim_node_create(sim, "a", 0);
	struct loop *l = started_loop(io, "a");
	struct io_file *f = durable_file(io, "/f", 'o', 4 * IO_BLOCK);
	struct wait_op w = WAIT_OP;
	static uint8_t buf[4 * IO_BLOCK];
	struct sim_disk_stats stats;
	size_t len;

	assert_int_equal(sim_disk_spoil(disk, "/f", IO_BLOCK + 700), 0);
	assert_int_equal(sim_disk_spoil(disk, "/g", 0), -ENOENT);
	assert_int_equal(sim_disk_spoil(disk, "/f", sizeof(buf)), -EINVAL);
	assert_int_equal(io_read(f, buf, IO_BLOCK + 512, 0, &len), 0);
	assert_int_equal(io_read(f, buf, IO_BLOCK + 513, 0, &len), -EIO);
	assert_int_equal(io_read(f, buf, 512, IO_BLOCK + 512, &len), -EIO);
	assert_int_equal(io_read(f, buf, 512, IO_BLOCK + 1024, &len), 0);
	loop_read(l, &w.op, f, buf, IO_BLOCK, IO_BLOCK);
	assert_int_equal(finish(sim, &w), -EIO);
	/* A power cut heals nothing. */
	end_loop(l);
	sim_disk_cut(disk);
	io_close(f);
	io_free(io);
	io = sim_node_create(sim, "b", 0);
	f = open_file(io, "/f", IO_WRITE);
	assert_int_equal(io_read(f, buf, 4 * IO_BLOCK, 0, &len), -EIO);
	memset(buf, 'n', 512);
	assert_int_equal(io_write(f, buf, 512, IO_BLOCK + 512), 0);
	assert_int_equal(io_read(f, buf, 4 * IO_BLOCK, 0, &len), 0);
	assert_int_equal(buf[IO_BLOCK + 512], 'n');
	sim_disk_stats(disk, &stats);
	assert_int_equal(stats.bad_sectors, 1);
	assert_int_equal(stats.read_errors, 4);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST("rot flips one bit of what is stored, for good and past a power cut")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct sim_disk *disk = sim_disk(sim, 0);
		struct io *io = sim_node_create(sim, "a", 0);
		static uint8_t buf[8 * IO_BLOCK];
		unsigned bits = 0;
		struct io_file *f;
		ssize_t len;

		assert_false(sim_disk_rot(disk, false));
		f = durable_file(io, "/f", 'o', 2 * IO_BLOCK);
		io_close(durable_file(io, "/zeros", 0, 2 * IO_BLOCK));
		io_close(durable_file(io, "/g", 'o', 2 * IO_BLOCK));
		sim_disk_fault_at(disk, SIM_FAULT_ROT,
				  sim_disk_mutations(disk) + 1);
		assert_int_equal(io_write(f, "o", 1, 0), 0);
		sim_disk_cut(disk);
		io_close(f);
		io_free(io);
		for (const char *name = "fg"; *name; name++) {
			char path[3] = {'/', *name, 0};

			read_back(sim, path, buf, sizeof(buf), &len);
			assert_int_equal(len, 2 * IO_BLOCK);
			for (ssize_t i = 0; i < len; i++)
				bits += (unsigned)__builtin_popcount(buf[i] ^
								     'o');
		}
		assert_int_equal(bits, 1);
		sim_free(sim);
	}
}

TEST("a disk that fills up refuses, and goes on when it has room again")
{
	struct sim *sim = world(5);
	struct sim_disk *disk = sim_disk(sim, 0);
	struct io *io = sim_node_create(sim, "a", 0);
	struct io_file *f = durable_file(io, "/f", 'o', 4 * IO_BLOCK);
	struct io_fs fs;

	sim_disk_resize(disk, 2 * IO_BLOCK);
	assert_int_equal(io_write(f, "x", 1, 5 * IO_BLOCK), -ENOSPC);
	assert_int_equal(io_write(f, "x", 1, 0), 0); /* has its blocks */
	assert_int_equal(io_fs_info(io, "/", &fs), 0);
	assert_int_equal(fs.bytes_free, 0);
	assert_int_equal(fs.bytes_used, 4 * IO_BLOCK);
	sim_disk_resize(disk, 8 * IO_BLOCK);
	assert_int_equal(io_write(f, "x", 1, 5 * IO_BLOCK), 0);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST("opened with IO_DIRECT a file shows what a failed sync left on the disk")
{
	unsigned old = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_config c = sim_config_calm(seed);
		struct sim *sim;
		struct io *io;
		struct io_file *f, *d;
		uint8_t buf[512], now[512];
		ssize_t got;
		size_t len;

		c.no_direct = seed % 2;
		sim = sim_create(&c);
		io = sim_node_create(sim, "a", 0);
		f = durable_file(io, "/f", 'o', 512);
		memset(buf, 'n', sizeof(buf));
		assert_int_equal(io_write(f, buf, sizeof(buf), 0), 0);
		sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_EIO,
				  sim_disk_mutations(sim_disk(sim, 0)) + 1);
		assert_int_equal(io_sync(f), -EIO);
		assert_int_equal(io_sync(f), 0);
		assert_int_equal(io_read(f, now, sizeof(now), 0, &len), 0);
		assert_true(all_are(now, 512, 'n'));
		d = open_file(io, "/f", IO_READ | IO_DIRECT);
		assert_int_equal(io_read(d, now, sizeof(now), 0, &len), 0);
		old += all_are(now, 512, 'o');
		sim_disk_cut(sim_disk(sim, 0));
		io_close(f);
		io_close(d);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &got);
		assert_memory_equal(buf, now, 512);
		sim_free(sim);
	}
	assert_in_range(old, 10, SEEDS - 10);
}

/* ---- slowness ---- */

struct ticking {
	struct loop *loop;
	struct loop_timer timer;
	unsigned ticks;
};

static void tick(struct loop_timer *timer)
{
	struct ticking *t = container_of(timer, struct ticking, timer);

	t->ticks++;
	loop_timer_set(t->loop, timer, 10000000);
}

static void begin_ticking(void *ctx)
{
	struct ticking *t = ctx;

	loop_timer_set(t->loop, &t->timer, 10000000);
}

static unsigned ticks_during_slow_sync(uint32_t interleave_ppm)
{
	struct sim_config c = sim_config_calm(6);
	struct ticking t = {.timer.fire = tick};
	struct sim_disk_stats stats;
	struct sim *sim;
	struct io *io;
	struct io_file *f;
	uint64_t begun_ns;
	unsigned ticks;

	c.interleave_ppm = interleave_ppm;
	c.slow_ns_max = 3000000000ull;
	c.slow_ppm = 0;
	sim = sim_create(&c);
	io = sim_node_create(sim, "a", 0);
	f = durable_file(io, "/f", 'o', IO_BLOCK);
	assert_int_equal(loop_create(io, "ticks", &t.loop), 0);
	assert_int_equal(loop_start(t.loop, begin_ticking, &t), 0);
	sim_run_for(sim, 1000000);
	ticks = t.ticks;
	begun_ns = sim_now_ns(sim);
	sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_SLOW,
			  sim_disk_mutations(sim_disk(sim, 0)) + 1);
	assert_int_equal(io_sync(f), 0);
	assert_true(sim_now_ns(sim) - begun_ns >= 3000000000ull);
	ticks = t.ticks - ticks;
	begun_ns = sim_now_ns(sim);
	assert_int_equal(io_sync(f), 0);
	assert_true(sim_now_ns(sim) - begun_ns < 1000000000ull);
	sim_disk_stats(sim_disk(sim, 0), &stats);
	assert_int_equal(stats.slow, 1);
	end_loop(t.loop);
	io_close(f);
	io_free(io);
	sim_free(sim);
	return ticks;
}

TEST("a call can take seconds, and the other loops go on meanwhile")
{
	assert_true(ticks_during_slow_sync(SIM_ALWAYS) >= 250);
	assert_int_equal(ticks_during_slow_sync(0), 0);
}

TEST("an operation can take seconds, and others overtake it")
{
	struct sim_config c = sim_config_calm(7);
	struct wait_op slow = WAIT_OP, quick = WAIT_OP;
	static uint8_t block[IO_BLOCK];
	struct sim *sim;
	struct loop *l;
	struct io *io;
	struct io_file *f;

	c.slow_ns_max = 5000000000ull;
	c.slow_ppm = 0;
	sim = sim_create(&c);
	io = sim_node_create(sim, "a", 0);
	l = started_loop(io, "a");
	f = durable_file(io, "/f", 'o', 4 * IO_BLOCK);
	sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_SLOW,
			  sim_disk_mutations(sim_disk(sim, 0)) + 1);
	loop_write_durable(l, &slow.op, f, block, IO_BLOCK, 0);
	loop_write_durable(l, &quick.op, f, block, IO_BLOCK, IO_BLOCK);
	assert_int_equal(finish(sim, &quick), IO_BLOCK);
	assert_false(slow.done);
	assert_int_equal(finish(sim, &slow), IO_BLOCK);
	assert_true(sim_now_ns(sim) >= 5000000000ull);
	end_loop(l);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST_MAIN()
