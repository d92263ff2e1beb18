/* tests/unit/test_sim.c: the model must be as hostile as it says, and no
 * more. */
#include "tests/unit/sim_world.h"

/* ---- loops and time ---- */

struct ticker {
	struct loop_timer timer;
	struct loop *loop;
	uint64_t fired_ns;
};

static void tick(struct loop_timer *t)
{
	struct ticker *k = container_of(t, struct ticker, timer);

	k->fired_ns = loop_now_ns(k->loop);
}

static bool ticked(void *ctx)
{
	return ((struct ticker *)ctx)->fired_ns != 0;
}

TEST("a timer of an hour fires at once in real time and after an hour in "
     "virtual")
{
	struct sim *sim = world(1);
	struct io *io = sim_node_create(sim, "a", 0);
	struct loop *l = started_loop(io, "a");
	struct ticker k = {.timer.fire = tick, .loop = l};
	uint64_t start_ns = sim_now_ns(sim), hour_ns = 3600000000000u;
	uint64_t wall_ms = io_wall_ms(io);

	loop_timer_set(l, &k.timer, hour_ns);
	assert_int_equal(sim_run_until(sim, ticked, &k, 100), 0);
	assert_true(k.fired_ns >= start_ns + hour_ns);
	assert_true(k.fired_ns < start_ns + hour_ns + 1000000);
	assert_in_range(io_wall_ms(io) - wall_ms, 3600000, 3600001);
	end_loop(l);
	io_free(io);
	sim_free(sim);
}

struct poller {
	struct loop_task task;
	struct loop *loop;
	uint64_t until_ns;
	uint64_t fired_ns; /* as in struct ticker, for the same predicate */
};

static void poll_again(struct loop_task *t)
{
	struct poller *p = container_of(t, struct poller, task);

	if (loop_now_ns(p->loop) < p->until_ns)
		loop_defer(p->loop, t);
	else
		p->fired_ns = loop_now_ns(p->loop);
}

static bool polled(void *ctx)
{
	return ((struct poller *)ctx)->fired_ns != 0;
}

TEST("a loop that polls by deferring tasks sees time pass")
{
	struct sim *sim = world(2);
	struct io *io = sim_node_create(sim, "a", 0);
	struct loop *l = started_loop(io, "a");
	struct poller p = {.task.run = poll_again, .loop = l};

	p.until_ns = sim_now_ns(sim) + 1000000;
	loop_defer(l, &p.task);
	assert_int_equal(sim_run_until(sim, polled, &p, 100000), 0);
	end_loop(l);
	io_free(io);
	sim_free(sim);
}

struct letter {
	struct loop_mail mail;
	char who, *log;
};

static void letter_deliver(struct loop_mail *m)
{
	struct letter *t = container_of(m, struct letter, mail);
	size_t n = strlen(t->log);

	t->log[n] = t->who;
}

TEST("loops run in an order that the seed decides")
{
	char first[3] = "";

	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct loop *a = started_loop(io, "a");
		struct loop *b = started_loop(io, "b");
		char log[4] = "";
		struct letter la = {{NULL, letter_deliver}, 'a', log};
		struct letter lb = {{NULL, letter_deliver}, 'b', log};

		loop_post(a, &la.mail);
		loop_post(b, &lb.mail);
		assert_int_equal(sim_run_until(sim, NULL, NULL, 100), -EDEADLK);
		assert_int_equal(strlen(log), 2);
		first[log[0] - 'a'] = 'x';
		end_loop(a);
		end_loop(b);
		io_free(io);
		sim_free(sim);
	}
	assert_int_equal(first[0], 'x');
	assert_int_equal(first[1], 'x');
}

static void stop_now(struct loop_op *op, int res)
{
	wait_done(op, res);
	loop_stop(op->loop);
}

TEST("loop_run on the calling thread runs the world while it waits")
{
	struct sim *sim = world(3);
	struct io *io = sim_node_create(sim, "a", 0);
	struct loop *mine = NULL;
	struct io_file *f = durable_file(io, "/f", 1, 4096);
	static uint8_t buf[4096];
	struct wait_op w = {.op.done = stop_now};

	assert_int_equal(loop_create(io, "mine", &mine), 0);
	loop_read(mine, &w.op, f, buf, sizeof(buf), 0);
	loop_run(mine);
	assert_true(w.done);
	assert_int_equal(w.res, 4096);
	assert_true(all_are(buf, sizeof(buf), 1));
	loop_free(mine);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

/* ---- kills, locks, zombies ---- */

TEST("a kill keeps what was completed and at most a prefix of what was not")
{
	unsigned none = 0, part = 0, whole = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct io *io = sim_node_create(sim, "a", 0);
		struct loop *l = started_loop(io, "a");
		struct io_file *f = durable_file(io, "/f", 'o', 2 * IO_BLOCK);
		static uint8_t block[IO_BLOCK];
		uint8_t buf[2 * IO_BLOCK];
		struct wait_op w = WAIT_OP;
		size_t n = 0;
		ssize_t len;

		memset(block, 'n', sizeof(block));
		assert_int_equal(io_write(f, "plain", 5, 0), 0);
		loop_write_durable(l, &w.op, f, block, IO_BLOCK, IO_BLOCK);
		sim_kill(sim_node(io));
		memset(block, 'X', sizeof(block));
		assert_int_equal(io_write(f, "dead", 4, 0), -EIO);
		loop_free(l);
		io_close(f);
		io_free(io);
		assert_int_equal(sim_run_until(sim, NULL, NULL, 10), -EDEADLK);
		read_back(sim, "/f", buf, sizeof(buf), &len);
		assert_memory_equal(buf, "plain", 5);
		while (n < 8 && all_are(buf + IO_BLOCK + n * 512, 512, 'n'))
			n++;
		assert_true(all_are(buf + IO_BLOCK + n * 512,
				    IO_BLOCK - n * 512, 'o'));
		none += n == 0;
		part += n && n < 8;
		whole += n == 8;
		assert_false(w.done);
		sim_free(sim);
	}
	assert_true(none && part && whole);
}

TEST("what a killed process left may land after the next one has started")
{
	unsigned late = 0, lock_late = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim_config c = sim_config_calm(seed);
		struct sim *sim;
		struct io *io, *next;
		struct loop *l;
		struct io_file *f;
		static uint8_t block[IO_BLOCK];
		struct wait_op w = WAIT_OP;
		uint8_t before[IO_BLOCK], after[IO_BLOCK];
		size_t len;
		int r;

		c.linger_ns_max = 50000000;
		c.disk_ns_max = c.disk_ns_min;
		sim = sim_create(&c);
		io = sim_node_create(sim, "a", 0);
		l = started_loop(io, "a");
		f = durable_file(io, "/f", 'o', IO_BLOCK);
		assert_int_equal(io_lock(f), 0);
		memset(block, 'n', sizeof(block));
		loop_write_durable(l, &w.op, f, block, IO_BLOCK, 0);
		sim_kill(sim_node(io));
		memset(block, 'X', sizeof(block));
		loop_free(l);
		io_close(f);
		io_free(io);
		next = sim_node_create(sim, "b", 0);
		f = open_file(next, "/f", IO_WRITE);
		assert_int_equal(io_read(f, before, IO_BLOCK, 0, &len), 0);
		r = io_lock(f);
		lock_late += r == -EAGAIN;
		sim_run_for(sim, 60000000);
		assert_int_equal(io_read(f, after, IO_BLOCK, 0, &len), 0);
		late += memcmp(before, after, IO_BLOCK) != 0;
		for (size_t i = 0; i < IO_BLOCK; i++)
			assert_true(after[i] == 'o' || after[i] == 'n');
		assert_int_equal(io_lock(f), 0);
		io_close(f);
		io_free(next);
		sim_free(sim);
	}
	assert_true(late && lock_late);
}

TEST("a pause takes virtual time, and a lock that lingers ends meanwhile")
{
	struct sim_config config = sim_config_calm(6);
	struct sim *sim;
	struct io *a, *b;
	struct io_file *fa, *fb;
	uint64_t before, pauses = 0;

	config.linger_ns_max = 500000000;
	sim = sim_create(&config);
	a = sim_node_create(sim, "a", 0);
	b = sim_node_create(sim, "b", 0);
	fa = open_file(a, "/l", IO_WRITE | IO_CREATE);
	fb = open_file(b, "/l", IO_WRITE);
	before = io_now_ns(a);
	io_pause(a, 7000000);
	assert_int_equal(io_now_ns(a), before + 7000000);
	assert_int_equal(io_lock(fa), 0);
	sim_kill(sim_node(a));
	/* The dead wait for nothing. */
	before = io_now_ns(b);
	io_pause(a, 7000000);
	assert_int_equal(io_now_ns(b), before);
	while (io_lock(fb)) {
		io_pause(b, 10000000);
		assert_true(++pauses <= 50);
	}
	assert_true(pauses);
	io_close(fa);
	io_close(fb);
	io_free(a);
	io_free(b);
	sim_free(sim);
}

TEST("a lock belongs to its open file and goes with it")
{
	struct sim *sim = world(6);
	struct io *a = sim_node_create(sim, "a", 0);
	struct io *b = sim_node_create(sim, "b", 0);
	struct io_file *fa = open_file(a, "/l", IO_WRITE | IO_CREATE);
	struct io_file *fa2 = open_file(a, "/l", IO_WRITE);
	struct io_file *fb = open_file(b, "/l", IO_WRITE);

	assert_int_equal(io_lock(fa), 0);
	assert_int_equal(io_lock(fa), 0);
	assert_int_equal(io_lock(fa2), -EAGAIN);
	assert_int_equal(io_lock(fb), -EAGAIN);
	io_close(fa);
	assert_int_equal(io_lock(fb), 0);
	assert_int_equal(io_lock(fa2), -EAGAIN);
	sim_drop_locks(sim_node(b));
	assert_int_equal(io_lock(fa2), 0);
	sim_kill(sim_node(a));
	assert_int_equal(io_lock(fb), 0);
	assert_int_equal(sim_open_files(sim_node(a)), 1);
	io_close(fa2);
	assert_int_equal(sim_open_files(sim_node(a)), 0);
	io_close(fb);
	io_free(a);
	io_free(b);
	sim_free(sim);
}

TEST("a paused node does nothing; stalled writes land after it has resumed")
{
	struct sim *sim = world(7);
	struct io *io = sim_node_create(sim, "zombie", 0);
	struct loop *l = started_loop(io, "a");
	struct io_file *f = durable_file(io, "/f", 'o', 512);
	static uint8_t n[512];
	uint8_t buf[512];
	struct wait_op w = WAIT_OP;
	ssize_t len;

	memset(n, 'n', sizeof(n));
	loop_write_durable(l, &w.op, f, n, 512, 0);
	sim_pause(sim_node(io), false);
	sim_run_for(sim, 1000000000);
	assert_false(w.done);
	read_back(sim, "/f", buf, 512, &len);
	assert_true(all_are(buf, 512, 'n'));
	sim_resume(sim_node(io));
	assert_int_equal(finish(sim, &w), 512);

	w.done = false;
	memset(n, 'm', sizeof(n));
	loop_write_durable(l, &w.op, f, n, 512, 512);
	sim_pause(sim_node(io), true);
	sim_run_for(sim, 1000000000);
	sim_resume(sim_node(io));
	assert_int_equal(finish(sim, &w), 512);
	end_loop(l);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

/* ---- faults ---- */

TEST("the faults asked for happen to the operation asked for")
{
	struct sim *sim = world(8);
	struct sim_disk *disk = sim_disk(sim, 0);
	struct io *io = sim_node_create(sim, "a", 0);
	struct io_file *f = durable_file(io, "/f", 'o', 8 * IO_BLOCK);
	static uint8_t n[IO_BLOCK], buf[8 * IO_BLOCK];
	struct sim_disk_stats stats;
	size_t len, wrong = 0;

	memset(n, 'n', sizeof(n));
	sim_disk_fault_at(disk, SIM_FAULT_EIO, sim_disk_mutations(disk) + 2);
	assert_int_equal(io_write(f, n, 512, 0), 0);
	assert_int_equal(io_write(f, n, 512, 0), -EIO);
	assert_int_equal(io_write(f, n, 512, 0), 0);
	sim_disk_fault_at(disk, SIM_FAULT_ENOSPC, sim_disk_mutations(disk) + 1);
	assert_int_equal(io_write(f, n, 512, 512), -ENOSPC);
	sim_disk_fault_at(disk, SIM_FAULT_LOST, sim_disk_mutations(disk) + 1);
	assert_int_equal(io_write(f, n, IO_BLOCK, IO_BLOCK), 0);
	assert_int_equal(io_read(f, buf, IO_BLOCK, IO_BLOCK, &len), 0);
	assert_true(all_are(buf, IO_BLOCK, 'o'));
	sim_disk_fault_at(disk, SIM_FAULT_READ_EIO, sim_disk_reads(disk) + 1);
	assert_int_equal(io_read(f, buf, 512, 0, &len), -EIO);
	sim_disk_fault_at(disk, SIM_FAULT_READ_FLIP, sim_disk_reads(disk) + 1);
	assert_int_equal(io_read(f, buf, 512, 0, &len), 0);
	for (size_t i = 0; i < 512; i++)
		wrong += buf[i] != 'n';
	assert_int_equal(wrong, 1);
	assert_int_equal(io_read(f, buf, 512, 0, &len), 0);
	assert_true(all_are(buf, 512, 'n'));
	assert_int_equal(sim_disk_flip(disk, "/f", 3, 0), 0);
	assert_int_equal(sim_disk_flip(disk, "/none", 3, 0), -ENOENT);
	assert_int_equal(sim_disk_flip(disk, "/f", sizeof(buf), 0), -EINVAL);
	assert_int_equal(io_read(f, buf, 512, 0, &len), 0);
	assert_int_equal(buf[3], 'n' ^ 1);
	sim_disk_stats(disk, &stats);
	assert_int_equal(stats.write_errors, 1);
	assert_int_equal(stats.read_errors, 1);
	assert_int_equal(stats.lost, 1);
	assert_int_equal(stats.flips, 2);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST("a misdirected write spares its target and damages its file elsewhere")
{
	unsigned elsewhere = 0;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *sim = world(seed);
		struct sim_disk *disk = sim_disk(sim, 0);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 'o', 8 * IO_BLOCK);
		static uint8_t n[IO_BLOCK], buf[9 * IO_BLOCK];
		size_t len, wrong = 0;

		memset(n, 'n', sizeof(n));
		sim_disk_fault_at(disk, SIM_FAULT_MISDIRECT,
				  sim_disk_mutations(disk) + 1);
		assert_int_equal(io_write(f, n, IO_BLOCK, 0), 0);
		assert_int_equal(io_read(f, buf, sizeof(buf), 0, &len), 0);
		for (size_t i = 0; i < len; i += IO_BLOCK)
			wrong += all_are(buf + i, IO_BLOCK, 'n');
		assert_int_equal(wrong, 1);
		elsewhere += !all_are(buf, IO_BLOCK, 'n');
		io_close(f);
		io_free(io);
		sim_free(sim);
	}
	assert_true(elsewhere >= 10);
}

TEST("after a failed sync a second one does not make the data durable")
{
	unsigned lost = 0;

	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct sim *sim = world(seed);
		struct sim_disk *disk = sim_disk(sim, 0);
		struct io *io = sim_node_create(sim, "a", 0);
		struct io_file *f = durable_file(io, "/f", 'o', 512);
		uint8_t buf[512];
		ssize_t got;
		size_t len;

		memset(buf, 'n', sizeof(buf));
		assert_int_equal(io_write(f, buf, sizeof(buf), 0), 0);
		sim_disk_fault_at(disk, SIM_FAULT_EIO,
				  sim_disk_mutations(disk) + 1);
		assert_int_equal(io_sync(f), -EIO);
		assert_int_equal(io_sync(f), 0);
		assert_int_equal(io_read(f, buf, sizeof(buf), 0, &len), 0);
		assert_true(all_are(buf, 512, 'n'));
		sim_disk_cut(disk);
		io_close(f);
		io_free(io);
		read_back(sim, "/f", buf, sizeof(buf), &got);
		lost += all_are(buf, 512, 'o');
		sim_free(sim);
	}
	assert_in_range(lost, 10, SEEDS - 10);
}

TEST("a full disk refuses writes until something is deleted")
{
	struct sim_config c = sim_config_calm(9);
	struct sim *sim;
	struct io *io;
	struct io_file *f, *g;
	struct io_fs fs;

	c.disk_bytes = 64 * IO_BLOCK;
	sim = sim_create(&c);
	io = sim_node_create(sim, "a", 0);
	f = open_file(io, "/f", IO_WRITE | IO_CREATE);
	assert_int_equal(io_allocate(f, 60 * IO_BLOCK), 0);
	g = open_file(io, "/g", IO_WRITE | IO_CREATE);
	assert_int_equal(io_allocate(g, 5 * IO_BLOCK), -ENOSPC);
	assert_int_equal(io_write(g, "x", 1, 5 * IO_BLOCK), -ENOSPC);
	assert_int_equal(io_fs_info(io, "/", &fs), 0);
	assert_int_equal(fs.bytes_free, 4 * IO_BLOCK);
	io_close(f);
	assert_int_equal(io_unlink(io, "/f"), 0);
	assert_int_equal(io_sync_dir(io, "/"), 0);
	assert_int_equal(io_write(g, "x", 1, 5 * IO_BLOCK), 0);
	io_close(g);
	io_free(io);
	sim_free(sim);
}

TEST_MAIN()
