/* tests/unit/test_sim_run.c: whole programs in the simulator: one seed is one
 * trace, every crash point is reached, sockets are hostile and complete. */
#include "tests/unit/test.h"

#include "base/sim/sim.h"

#define STEPS 1000000u

/* ---- a small log, right or wrong ---- */

#define RECORDS 12u

/* Appends blocks one after another, two in flight, and counts as acknowledged
 * the prefix that is complete.  A block is its number, repeated. */
struct writer {
	struct io *io;
	struct loop *loop;
	struct io_file *file;
	bool careless; /* acknowledges plain writes */
	bool failed;
	unsigned next, done_upto;
	bool done[RECORDS];
	unsigned acknowledged;
	struct loop_op ops[RECORDS];
	uint8_t *blocks[RECORDS];
};

static void writer_go(struct writer *w);

static void writer_done(struct loop_op *op, int res)
{
	struct writer *w = NULL;
	unsigned i;

	memcpy(&w, (uint8_t *)op->buf + IO_BLOCK, sizeof(w));
	i = (unsigned)(op - w->ops);
	if (res != (int)IO_BLOCK) {
		w->failed = true;
		return;
	}
	w->done[i] = true;
	while (w->done_upto < RECORDS && w->done[w->done_upto])
		w->done_upto++;
	if (!w->failed)
		w->acknowledged = w->done_upto;
	writer_go(w);
}

static void writer_go(struct writer *w)
{
	while (w->next < RECORDS && w->next < w->done_upto + 2 && !w->failed) {
		unsigned i = w->next++;
		void (*write)(struct loop *, struct loop_op *, struct io_file *,
			      const void *, size_t, uint64_t) =
			w->careless ? loop_write : loop_write_durable;

		w->ops[i].done = writer_done;
		write(w->loop, &w->ops[i], w->file, w->blocks[i], IO_BLOCK,
		      (uint64_t)i * IO_BLOCK);
	}
}

static void writer_init(void *ctx)
{
	struct writer *w = ctx;
	int r = io_mkdir(w->io, "/log");

	if (!r)
		r = io_sync_dir(w->io, "/");
	if (!r)
		r = io_open(w->io, "/log/1", IO_WRITE | IO_CREATE | IO_DIRECT,
			    &w->file);
	if (!r)
		r = io_allocate(w->file, RECORDS * IO_BLOCK);
	if (!r)
		r = io_sync(w->file);
	if (!r)
		r = io_sync_dir(w->io, "/log");
	w->failed = r != 0;
	writer_go(w);
}

static bool writer_over(void *ctx)
{
	struct writer *w = ctx;

	return w->acknowledged == RECORDS || sim_is_dead(sim_node(w->io)) ||
	       w->failed;
}

static void writer_run(struct writer *w, struct sim *sim, bool careless)
{
	memset(w, 0, sizeof(*w));
	w->careless = careless;
	w->io = sim_node_create(sim, "writer", 0);
	for (unsigned i = 0; i < RECORDS; i++) {
		/* The writer hides behind the block that the disk sees. */
		w->blocks[i] = io_buffer_alloc(2 * IO_BLOCK);
		memset(w->blocks[i], (int)i + 1, IO_BLOCK);
		memcpy(w->blocks[i] + IO_BLOCK, &w, sizeof(w));
	}
	assert_int_equal(loop_create(w->io, "writer", &w->loop), 0);
	assert_int_equal(loop_start(w->loop, writer_init, w), 0);
	assert_int_equal(sim_run_until(sim, writer_over, w, STEPS), 0);
}

static void writer_free(struct writer *w)
{
	loop_stop(w->loop);
	loop_join(w->loop);
	loop_free(w->loop);
	io_close(w->file);
	for (unsigned i = 0; i < RECORDS; i++)
		io_buffer_free(w->blocks[i]);
	io_free(w->io);
}

/* How many blocks a reader finds from the start. */
static unsigned blocks_there(struct sim *sim)
{
	struct io *io = sim_node_create(sim, "reader", 0);
	static uint8_t buf[RECORDS * IO_BLOCK];
	struct io_file *f;
	size_t len = 0;
	unsigned n = 0;

	if (!io_open(io, "/log/1", IO_READ, &f)) {
		assert_int_equal(io_read(f, buf, sizeof(buf), 0, &len), 0);
		io_close(f);
	}
	for (; n < len / IO_BLOCK; n++)
		for (size_t i = 0; i < IO_BLOCK; i++)
			if (buf[n * IO_BLOCK + i] != n + 1)
				goto out;
out:
	io_free(io);
	return n;
}

/* Losses over every crash point of some seeds; *ret_points: their number. */
static unsigned sweep(bool careless, enum sim_fault fault, unsigned *ret_points)
{
	unsigned lost = 0;

	*ret_points = 0;
	for (uint64_t seed = 1; seed <= 10; seed++) {
		for (uint64_t k = 1;; k++) {
			struct sim_config c = sim_config_rough(seed);
			struct sim *sim = sim_create(&c);
			struct writer w;
			bool reached;

			sim_disk_fault_at(sim_disk(sim, 0), fault, k);
			writer_run(&w, sim, careless);
			reached = sim_is_dead(sim_node(w.io));
			sim_disk_cut(sim_disk(sim, 0));
			lost += blocks_there(sim) < w.acknowledged;
			writer_free(&w);
			sim_free(sim);
			if (!reached)
				break;
			++*ret_points;
		}
	}
	return lost;
}

TEST("a right log loses nothing at any crash point, and every point is reached")
{
	unsigned points;

	/* mkdir, sync, create, allocate, sync, sync, and the records */
	assert_int_equal(sweep(false, SIM_FAULT_CUT, &points), 0);
	assert_int_equal(points, 10 * (6 + RECORDS));
	assert_int_equal(sweep(false, SIM_FAULT_KILL, &points), 0);
	assert_int_equal(points, 10 * (6 + RECORDS));
}

TEST("a log that acknowledges before it is durable is caught")
{
	unsigned points;

	assert_true(sweep(true, SIM_FAULT_CUT, &points) > 0);
}

TEST("an I/O error at any point reaches the program and kills nothing else")
{
	unsigned errors = 0;

	for (uint64_t k = 1; k <= 6 + RECORDS; k++) {
		struct sim_config c = sim_config_calm(k);
		struct sim *sim = sim_create(&c);
		struct writer w;

		sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_EIO, k);
		writer_run(&w, sim, false);
		errors += w.failed;
		assert_false(sim_is_dead(sim_node(w.io)));
		writer_free(&w);
		sim_free(sim);
	}
	assert_int_equal(errors, 6 + RECORDS);
}

/* ---- two nodes talk ---- */

#define TALK_BYTES 50000u

/* The server sends back what it gets; the client sends TALK_BYTES and counts
 * what comes back. */
struct talker {
	struct loop *loop;
	struct loop_socket *socket, *listener;
	struct loop_op io_op, in_op;
	uint8_t in[3000], out[3000];
	size_t sent, received, echoing, echoed;
	bool client, over, sending;
	int err, accepted;
};

static void talk_recv(struct talker *t);

static struct talker *talker_of_in(struct loop_op *op)
{
	return container_of(op, struct talker, in_op);
}

static void client_send(struct talker *t);

static void client_sent(struct loop_op *op, int res)
{
	struct talker *t = container_of(op, struct talker, io_op);

	t->sending = false;
	if (res < 0) {
		t->err = res;
		t->over = true;
		return;
	}
	t->sent += (size_t)res;
	client_send(t);
}

static void client_send(struct talker *t)
{
	size_t n = base_min(sizeof(t->out), TALK_BYTES - t->sent);

	if (!n)
		return;
	for (size_t i = 0; i < n; i++)
		t->out[i] = (uint8_t)((t->sent + i) * 7);
	t->io_op.done = client_sent;
	t->sending = true;
	loop_send(t->loop, &t->io_op, t->socket, t->out, n);
}

static void echo_sent(struct loop_op *op, int res)
{
	struct talker *t = container_of(op, struct talker, io_op);

	t->sending = false;
	if (res < 0) {
		t->err = res;
		t->over = true;
		return;
	}
	t->echoed += (size_t)res;
	if (t->echoed == t->echoing) {
		talk_recv(t);
		return;
	}
	t->sending = true;
	loop_send(t->loop, op, t->socket, t->in + t->echoed,
		  t->echoing - t->echoed);
}

static void talk_received(struct loop_op *op, int res)
{
	struct talker *t = talker_of_in(op);

	if (res <= 0) {
		t->err = res;
		t->over = true;
		return;
	}
	if (t->client) {
		for (int i = 0; i < res; i++, t->received++)
			if (t->in[i] != (uint8_t)(t->received * 7))
				t->err = -EBADMSG;
		t->over = t->received == TALK_BYTES || t->err;
		if (!t->over)
			talk_recv(t);
		return;
	}
	t->echoing = (size_t)res;
	t->echoed = 0;
	t->io_op.done = echo_sent;
	t->sending = true;
	loop_send(t->loop, &t->io_op, t->socket, t->in, t->echoing);
}

static void talk_recv(struct talker *t)
{
	t->in_op.done = talk_received;
	loop_recv(t->loop, &t->in_op, t->socket, t->in, sizeof(t->in));
}

static void server_accepted(struct loop_op *op, int res)
{
	struct talker *t = container_of(op, struct talker, io_op);

	t->accepted = res;
	if (res < 0 || loop_adopt(t->loop, res, &t->socket)) {
		t->over = true;
		return;
	}
	talk_recv(t);
}

static void server_init(void *ctx)
{
	struct talker *t = ctx;

	if (loop_listen(t->loop, "0.0.0.0", 5672, &t->listener)) {
		t->over = true;
		return;
	}
	t->io_op.done = server_accepted;
	loop_accept(t->loop, &t->io_op, t->listener);
}

static void client_connected(struct loop_op *op, int res)
{
	struct talker *t = container_of(op, struct talker, io_op);

	t->err = res;
	t->over = res != 0;
	if (!res) {
		client_send(t);
		talk_recv(t);
	}
}

static void client_init(void *ctx)
{
	struct talker *t = ctx;

	t->client = true;
	t->io_op.done = client_connected;
	if (loop_connect(t->loop, &t->io_op, "127.0.0.1", 5672, &t->socket))
		t->over = true;
}

static bool talk_over(void *ctx)
{
	return ((struct talker *)ctx)->over;
}

static void talk_start(struct talker *t, struct io *io, void (*init)(void *ctx))
{
	memset(t, 0, sizeof(*t));
	assert_int_equal(loop_create(io, "talk", &t->loop), 0);
	assert_int_equal(loop_start(t->loop, init, t), 0);
}

static void talk_end(struct talker *t)
{
	loop_stop(t->loop);
	loop_join(t->loop);
	loop_free(t->loop);
	/* After its loop: only the memory is left. */
	loop_socket_close(t->socket);
	loop_socket_close(t->listener);
}

static bool idle_server(void *ctx)
{
	return ((struct talker *)ctx)->listener != NULL;
}

TEST("a stream arrives whole and in order through partial transfers")
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_config c = sim_config_rough(seed);
		struct sim *sim = sim_create(&c);
		struct io *a = sim_node_create(sim, "a", 0);
		struct io *b = sim_node_create(sim, "b", 1);
		struct talker server, client;

		talk_start(&server, a, server_init);
		assert_int_equal(
			sim_run_until(sim, idle_server, &server, STEPS), 0);
		talk_start(&client, b, client_init);
		assert_int_equal(sim_run_until(sim, talk_over, &client, STEPS),
				 0);
		assert_int_equal(client.err, 0);
		assert_int_equal(client.received, TALK_BYTES);
		assert_true(loop_socket_peer_is_loopback(server.socket));
		assert_string_equal(loop_socket_peer(client.socket),
				    "127.0.0.1:5672");
		assert_int_equal(loop_socket_port(server.listener), 5672);
		loop_socket_close(client.socket);
		client.socket = NULL;
		assert_int_equal(sim_run_until(sim, talk_over, &server, STEPS),
				 0);
		talk_end(&client);
		talk_end(&server);
		assert_int_equal(sim_open_sockets(sim_node(a)), 0);
		io_free(a);
		io_free(b);
		sim_free(sim);
	}
}

TEST("nobody listening is refused, and a listener's shutdown ends its accept")
{
	struct sim_config c = sim_config_calm(1);
	struct sim *sim = sim_create(&c);
	struct io *a = sim_node_create(sim, "a", 0);
	struct talker server, client;

	talk_start(&client, a, client_init);
	assert_int_equal(sim_run_until(sim, talk_over, &client, STEPS), 0);
	assert_int_equal(client.err, -ECONNREFUSED);
	talk_start(&server, a, server_init);
	assert_int_equal(sim_run_until(sim, idle_server, &server, STEPS), 0);
	loop_socket_shutdown(server.listener);
	assert_int_equal(sim_run_until(sim, talk_over, &server, STEPS), 0);
	assert_true(server.accepted < 0);
	talk_end(&client);
	talk_end(&server);
	io_free(a);
	sim_free(sim);
}

TEST("a peer's death ends a stream; a cut network only delays it")
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim_config c = sim_config_calm(seed);
		struct sim *sim = sim_create(&c);
		struct io *a = sim_node_create(sim, "a", 0);
		struct io *b = sim_node_create(sim, "b", 1);
		struct talker server, client;
		size_t received;

		talk_start(&server, a, server_init);
		assert_int_equal(
			sim_run_until(sim, idle_server, &server, STEPS), 0);
		talk_start(&client, b, client_init);
		sim_run_for(sim, 1000000);
		sim_net_cut(sim_node(b), true);
		sim_run_for(sim, 10000000);
		received = client.received;
		sim_run_for(sim, 1000000000);
		assert_int_equal(client.received, received);
		assert_false(client.over);
		if (seed % 2) {
			/* Whoever is cut off hears of no death either. */
			sim_kill(sim_node(a));
			sim_run_for(sim, 1000000000);
			assert_false(client.over);
		}
		sim_net_cut(sim_node(b), false);
		sim_run_for(sim, seed * 300000);
		sim_kill(sim_node(a));
		if (!client.over)
			assert_int_equal(
				sim_run_until(sim, talk_over, &client, STEPS),
				0);
		assert_true(client.err <= 0);
		talk_end(&server);
		talk_end(&client);
		io_free(a);
		io_free(b);
		sim_free(sim);
	}
}

/* ---- dying inside a callback ---- */

struct martyr {
	struct io *io;
	struct loop *loop;
	struct io_file *file;
	struct loop_task task;
	struct loop_timer timer;
	struct loop_mail mail;
	struct loop_op op;
	uint8_t block[IO_BLOCK];
	int write_err;
	unsigned ran_after;
};

static void martyr_task(struct loop_task *t)
{
	container_of(t, struct martyr, task)->ran_after++;
}

static void martyr_timer(struct loop_timer *t)
{
	container_of(t, struct martyr, timer)->ran_after++;
}

static void martyr_mail(struct loop_mail *m)
{
	container_of(m, struct martyr, mail)->ran_after++;
}

static void martyr_op(struct loop_op *op, int res)
{
	container_of(op, struct martyr, op)->ran_after++;
}

static void martyr_init(void *ctx)
{
	struct martyr *m = ctx;

	m->task.run = martyr_task;
	m->timer.fire = martyr_timer;
	m->mail.deliver = martyr_mail;
	m->op.done = martyr_op;
	loop_defer(m->loop, &m->task);
	loop_timer_set(m->loop, &m->timer, 0);
	loop_post(m->loop, &m->mail);
	loop_write_durable(m->loop, &m->op, m->file, m->block, 512, 0);
	m->write_err = io_write(m->file, "x", 1, 0);
	/* The dead may still ask; nothing comes of it. */
	loop_read(m->loop, &m->op, m->file, m->block, 512, 0);
}

TEST("no callback of a dead node runs, however it dies")
{
	for (int cut = 0; cut < 2; cut++) {
		struct sim_config c = sim_config_calm(1);
		struct sim *sim = sim_create(&c);
		struct sim_disk *disk = sim_disk(sim, 0);
		struct martyr m = {.io = sim_node_create(sim, "m", 0)};

		c.linger_ns_max = 1000;
		assert_int_equal(
			io_open(m.io, "/f", IO_WRITE | IO_CREATE, &m.file), 0);
		assert_int_equal(loop_create(m.io, "m", &m.loop), 0);
		sim_disk_fault_at(disk, cut ? SIM_FAULT_CUT : SIM_FAULT_KILL,
				  sim_disk_mutations(disk) + 1);
		assert_int_equal(loop_start(m.loop, martyr_init, &m), 0);
		assert_int_equal(sim_run_until(sim, NULL, NULL, STEPS),
				 -EDEADLK);
		assert_true(sim_is_dead(sim_node(m.io)));
		assert_int_equal(m.write_err, -EIO);
		assert_int_equal(m.ran_after, 0);
		loop_undefer(m.loop, &m.task);
		loop_timer_cancel(m.loop, &m.timer);
		loop_join(m.loop);
		loop_free(m.loop);
		io_close(m.file);
		io_free(m.io);
		sim_free(sim);
	}
}

/* ---- one seed, one trace ---- */

static uint64_t whole_run(uint64_t seed)
{
	struct sim_config c = sim_config_rough(seed);
	struct sim *sim;
	struct io *a, *b;
	struct talker server, client;
	struct writer w;
	uint64_t hash;
	uint8_t noise[8];

	c.interleave_ppm = 300000;
	c.write_eio_ppm = 10000;
	c.flip_ppm = 10000;
	sim = sim_create(&c);
	a = sim_node_create(sim, "a", 1);
	b = sim_node_create(sim, "b", 2);
	io_random(a, noise, sizeof(noise));
	talk_start(&server, a, server_init);
	sim_run_for(sim, 1000);
	talk_start(&client, b, client_init);
	sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_CUT, sim_below(sim, 20));
	writer_run(&w, sim, false);
	sim_trace_note(sim, "acknowledged", w.acknowledged, noise[0]);
	sim_run_for(sim, 50000000);
	sim_kill(sim_node(a));
	sim_run_for(sim, 50000000);
	/* What the writer left may land, and count, while the reader reads. */
	sim_disk_fault_at(sim_disk(sim, 0), SIM_FAULT_CUT, 0);
	(void)blocks_there(sim);
	hash = sim_trace_hash(sim);
	writer_free(&w);
	talk_end(&server);
	talk_end(&client);
	io_free(a);
	io_free(b);
	sim_free(sim);
	return hash;
}

TEST("equal seeds give equal traces, and other seeds other ones")
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		void *shift = malloc(seed * 1000);
		uint64_t hash = whole_run(seed);

		free(shift);
		assert_true(hash == whole_run(seed));
		assert_true(hash != whole_run(seed + 1000));
	}
}

/* ---- allocation failures ---- */

TEST("every allocation of a call can be made to fail, and the world holds")
{
	struct sim_config c = sim_config_calm(1);
	struct sim *sim = sim_create(&c);
	struct io *io = sim_node_create(sim, "a", 0);
	struct io_file *f = NULL;
	struct loop *l = NULL;
	uint64_t k = 0;

	if (sim_alloc_fail_at(0) == -ENOTSUP) {
		/* Linked without --wrap: it must say so and do nothing. */
		assert_int_equal(sim_alloc_count(), 0);
		io_free(io);
		sim_free(sim);
		return;
	}
	assert_int_equal(sim_alloc_fail_at(1), 0);
	assert_int_equal(io_open(io, "/f", IO_WRITE | IO_CREATE, &f), -ENOMEM);
	assert_null(f);
	assert_int_equal(io_open(io, "/f", IO_WRITE | IO_CREATE, &f), 0);
	assert_int_equal(sim_alloc_count(), 2);
	do {
		assert_int_equal(sim_alloc_fail_at(++k), 0);
	} while (loop_create(io, "a", &l) == -ENOMEM);
	assert_int_equal(k, 3);
	assert_int_equal(sim_alloc_fail_at(0), 0);
	loop_free(l);
	io_close(f);
	io_free(io);
	sim_free(sim);
}

TEST_MAIN()
