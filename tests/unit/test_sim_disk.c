/* The simulator's disk: what a power cut leaves of bytes, sizes and names. */
#include "tests/unit/sim_world.h"

/* ---- durability ---- */

TEST("a plain write is lost by some power cuts, kept by some, sector by sector")
{
	unsigned lost = 0, kept = 0, mixed = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 'o', 1024);
		uint8_t buf[1024];
		ssize_t len;
		unsigned n = 0;

		memset(buf, 'n', sizeof(buf));
		assert_int_equal(io_write(f, buf, sizeof(buf), 0), 0);
		sim_disk_cut(sim_disk(sim, 0));
		assert_true(sim_is_dead(sim_node(io)));
		io_close(f);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_int_equal(len, 1024);
		for (size_t i = 0; i < 2; i++) {
			bool new = all_are(buf + i * 512, 512, 'n');

			assert_true(new || all_are(buf + i * 512, 512, 'o'));
			n += new;
		}
		lost += n == 0;
		mixed += n == 1;
		kept += n == 2;
		sim_free(sim);
	}
	assert_true(lost && mixed && kept);
}

TEST("any version since the last sync may be what a power cut leaves")
{
	unsigned seen[4] = {0};

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 0, 512);
		uint8_t buf[512];
		ssize_t len;

		for (int i = 1; i < 4; i++) {
			memset(buf, i, sizeof(buf));
			assert_int_equal(io_write(f, buf, sizeof(buf), 0), 0);
		}
		sim_disk_cut(sim_disk(sim, 0));
		io_close(f);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_true(buf[0] < 4 && all_are(buf, 512, buf[0]));
		seen[buf[0]]++;
		sim_free(sim);
	}
	for (size_t i = 0; i < 4; i++)
		assert_true(seen[i]);
}

TEST("synced, appended and durably written bytes survive every power cut")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_config c = sim_config_rough(seed);
		struct sim *sim = sim_create(&c);
		struct io *io = sim_node_create(sim, "a", 0);
		struct loop *l = started_loop(io, "a");
		struct io_file *f = durable_file(io, "/f", 's', 700);
		struct io_file *a;
		static uint8_t block[IO_BLOCK];
		struct wait_op w = WAIT_OP;
		uint8_t buf[3 * IO_BLOCK];
		ssize_t len;

		a = open_file(io, "/log", IO_WRITE | IO_CREATE | IO_APPEND);
		assert_int_equal(io_sync_dir(io, "/"), 0);
		assert_int_equal(io_write(a, "hello ", 6, 0), 0);
		assert_int_equal(io_write(a, "world", 5, 0), 0);
		memset(block, 'd', sizeof(block));
		loop_write_durable(l, &w.op, f, block, IO_BLOCK, IO_BLOCK);
		assert_int_equal(finish(sim, &w), IO_BLOCK);
		sim_disk_cut(sim_disk(sim, 0));
		loop_free(l);
		io_close(f);
		io_close(a);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_int_equal(len, 2 * IO_BLOCK);
		assert_true(all_are(buf, 700, 's'));
		assert_true(all_are(buf + 700, IO_BLOCK - 700, 0));
		assert_true(all_are(buf + IO_BLOCK, IO_BLOCK, 'd'));
		read_back(sim, "/log", buf, sizeof(buf), &len);
		assert_int_equal(len, 11);
		assert_memory_equal(buf, "hello world", 11);
		sim_free(sim);
	}
}

TEST("durable writes in flight are torn at sectors, in any order, and only "
     "there")
{
	unsigned second_alone = 0, torn = 0, garbage = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct loop *l = started_loop(io, "a");
		struct io_file *f = durable_file(io, "/f", 'o', 4 * IO_BLOCK);
		static uint8_t one[IO_BLOCK], two[IO_BLOCK];
		struct wait_op w1 = WAIT_OP, w2 = WAIT_OP;
		uint8_t buf[4 * IO_BLOCK];
		unsigned new[2] = {0};
		ssize_t len;

		memset(one, 'n', sizeof(one));
		memset(two, 'n', sizeof(two));
		loop_write_durable(l, &w1.op, f, one, IO_BLOCK, IO_BLOCK);
		loop_write_durable(l, &w2.op, f, two, IO_BLOCK, 2 * IO_BLOCK);
		sim_disk_cut(sim_disk(sim, 0));
		loop_free(l);
		io_close(f);
		io_free(io);
		assert_false(w1.done || w2.done);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_int_equal(len, sizeof(buf));
		assert_true(all_are(buf, IO_BLOCK, 'o'));
		assert_true(all_are(buf + 3 * IO_BLOCK, IO_BLOCK, 'o'));
		for (size_t i = 0; i < 16; i++) {
			uint8_t *s = buf + IO_BLOCK + i * 512;

			new[i / 8] += all_are(s, 512, 'n');
			garbage +=
				!all_are(s, 512, 'n') && !all_are(s, 512, 'o');
		}
		torn += new[0] > 0 && new[0] < 8;
		second_alone += new[1] > new[0];
		sim_free(sim);
	}
	assert_true(torn && second_alone && garbage);
}

TEST("a size that was not synced may be lost, and new space reads as zeros")
{
	unsigned small = 0, large = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 'x', 100);
		static uint8_t buf[10000];
		uint64_t bytes;
		ssize_t len;

		assert_int_equal(io_allocate(f, 9000), 0);
		assert_int_equal(io_size(f, &bytes), 0);
		assert_int_equal(bytes, 9000);
		sim_disk_cut(sim_disk(sim, 0));
		io_close(f);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_true(len == 100 || len == 9000);
		assert_true(all_are(buf, 100, 'x'));
		assert_true(all_are(buf + 100, (size_t)len - 100, 0));
		small += len == 100;
		large += len == 9000;
		sim_free(sim);
	}
	assert_true(small && large);
}

TEST("a truncated file reads zeros when it grows again")
{
	struct sim *sim = world(4);
	struct io *io = sim_node_create(sim, "a", 0);
	struct io_file *f = durable_file(io, "/f", 'x', 9000);
	static uint8_t buf[10000];
	ssize_t len;

	assert_int_equal(io_truncate(f, 5000), 0);
	assert_int_equal(io_truncate(f, 9000), 0);
	assert_int_equal(io_sync(f), 0);
	io_close(f);
	sim_disk_cut(sim_disk(sim, 0));
	io_free(io);
	read_back(sim, "/f", buf, sizeof(buf), &len);
	assert_int_equal(len, 9000);
	assert_true(all_are(buf, 5000, 'x'));
	assert_true(all_are(buf + 5000, 4000, 0));
	sim_free(sim);
}

/* ---- names ---- */

TEST("a new file may vanish until its directory is synced")
{
	unsigned gone = 0, there = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_config c = sim_config_calm(seed);
		struct sim *sim;
		struct io *io;
		uint8_t buf[8];
		ssize_t len;

		c.sync_entry_ppm = 0;
		sim = sim_create(&c);
		io = sim_node_create(sim, "a", 0);
		assert_int_equal(io_mkdir(io, "/d"), 0);
		assert_int_equal(io_mkdir(io, "/d"), 0);
		assert_int_equal(io_sync_dir(io, "/"), 0);
		io_close(open_file(io, "/d/safe", IO_WRITE | IO_CREATE));
		assert_int_equal(io_sync_dir(io, "/d"), 0);
		io_close(open_file(io, "//d/./new/", IO_WRITE | IO_CREATE));
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		read_back(sim, "/d/safe", buf, sizeof(buf), &len);
		assert_int_equal(len, 0);
		read_back(sim, "/d/new", buf, sizeof(buf), &len);
		gone += len < 0;
		there += len == 0;
		sim_free(sim);
	}
	assert_true(gone && there);
}

TEST("a rename is old or new after a power cut, never neither and never both")
{
	unsigned old = 0, new = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		uint8_t buf[8] = {0};
		ssize_t from, to;

		io_close(durable_file(io, "/to", 'o', 1));
		io_close(durable_file(io, "/from", 'n', 1));
		assert_int_equal(io_rename(io, "/from", "/to"), 0);
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		read_back(sim, "/from", buf, sizeof(buf), &from);
		read_back(sim, "/to", buf, sizeof(buf), &to);
		assert_int_equal(to, 1);
		assert_int_equal(buf[0], from < 0 ? 'n' : 'o');
		old += from == 1;
		new += from < 0;
		sim_free(sim);
	}
	assert_true(old && new);
}

TEST("a file made, renamed over another and synced in its directory is there "
     "once")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f;
		uint8_t buf[8] = {0};
		ssize_t len;

		assert_int_equal(io_mkdir(io, "/d"), 0);
		assert_int_equal(io_sync_dir(io, "/"), 0);
		f = open_file(io, "/d/x", IO_WRITE | IO_CREATE);
		assert_int_equal(io_write(f, "1", 1, 0), 0);
		assert_int_equal(io_sync(f), 0);
		io_close(f);
		f = open_file(io, "/d/x.new", IO_WRITE | IO_CREATE);
		assert_int_equal(io_write(f, "2", 1, 0), 0);
		assert_int_equal(io_sync(f), 0);
		io_close(f);
		assert_int_equal(io_rename(io, "/d/x.new", "/d/x"), 0);
		assert_int_equal(io_sync_dir(io, "/d"), 0);
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		read_back(sim, "/d/x.new", buf, sizeof(buf), &len);
		assert_int_equal(len, -1);
		read_back(sim, "/d/x", buf, sizeof(buf), &len);
		assert_int_equal(len, 1);
		assert_int_equal(buf[0], '2');
		sim_free(sim);
	}
}

TEST("a file renamed over one that was never synced is not lost to it")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		uint8_t buf[8] = {0};
		ssize_t len;

		io_close(durable_file(io, "/from", 'n', 1));
		io_close(open_file(io, "/to", IO_WRITE | IO_CREATE));
		assert_int_equal(io_rename(io, "/from", "/to"), 0);
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		read_back(sim, "/from", buf, sizeof(buf), &len);
		if (len < 0)
			read_back(sim, "/to", buf, sizeof(buf), &len);
		assert_int_equal(len, 1);
		assert_int_equal(buf[0], 'n');
		sim_free(sim);
	}
}

TEST("a synced rename does not leave the name that was never synced")
{
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		uint8_t buf[8];
		ssize_t len;

		assert_int_equal(io_mkdir(io, "/from"), 0);
		assert_int_equal(io_mkdir(io, "/to"), 0);
		assert_int_equal(io_sync_dir(io, "/"), 0);
		io_close(open_file(io, "/from/x", IO_WRITE | IO_CREATE));
		assert_int_equal(io_rename(io, "/from/x", "/to/y"), 0);
		assert_int_equal(io_sync_dir(io, "/to"), 0);
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		read_back(sim, "/from/x", buf, sizeof(buf), &len);
		assert_int_equal(len, -1);
		read_back(sim, "/to/y", buf, sizeof(buf), &len);
		assert_int_equal(len, 0);
		sim_free(sim);
	}
}

static int join_names(void *ctx, const char *name)
{
	strcat(ctx, name);
	return !strcmp(name, "c") ? 7 : 0;
}

TEST("names are listed in byte order until the callback objects")
{
	struct sim *sim = world(5);
	struct io *io = sim_node_create(sim, "a", 0);
	char all[16] = "";
	struct io_file *f = NULL;

	for (const char *p = "cbdaB"; *p; p++) {
		char path[] = {'/', *p, 0};

		io_close(open_file(io, path, IO_WRITE | IO_CREATE));
	}
	assert_int_equal(io_list(io, "/", join_names, all), 7);
	assert_string_equal(all, "Babc");
	assert_int_equal(
		io_open(io, "/a", IO_CREATE | IO_EXCLUSIVE | IO_WRITE, &f),
		-EEXIST);
	assert_int_equal(io_open(io, "/none", IO_READ, &f), -ENOENT);
	assert_int_equal(io_unlink(io, "/a"), 0);
	assert_int_equal(io_unlink(io, "/a"), -ENOENT);
	assert_null(f);
	io_free(io);
	sim_free(sim);
}

TEST_MAIN()
