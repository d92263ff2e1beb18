/* tests/unit/sim_world.h: what the tests of the simulator share. */
#ifndef TESTS_UNIT_SIM_WORLD_H
#define TESTS_UNIT_SIM_WORLD_H

#include "tests/unit/test.h"

#include "base/sim/sim.h"

#define SEEDS 60u
#define STEPS 200000u

static inline struct sim *world(uint64_t seed)
{
	struct sim_config c = sim_config_calm(seed);

	return sim_create(&c);
}

static inline struct io_file *open_file(struct io *io, const char *path,
					unsigned flags)
{
	struct io_file *f = NULL;

	assert_int_equal(io_open(io, path, flags, &f), 0);
	return f;
}

/* A file of len bytes of value, durable with its name. */
static inline struct io_file *durable_file(struct io *io, const char *path,
					   int value, size_t len)
{
	struct io_file *f = open_file(io, path, IO_WRITE | IO_CREATE);
	uint8_t *buf = malloc(len);

	memset(buf, value, len);
	assert_int_equal(io_write(f, buf, len, 0), 0);
	assert_int_equal(io_sync(f), 0);
	assert_int_equal(io_sync_dir(io, "/"), 0);
	free(buf);
	return f;
}

/* *ret_len: -1 when the file is not there. */
static inline void read_back(struct sim *sim, const char *path, uint8_t *buf,
			     size_t cap, ssize_t *ret_len)
{
	struct io *io = sim_node_create(sim, "reader", 0);
	struct io_file *f;
	size_t len;

	*ret_len = -1;
	if (!io_open(io, path, IO_READ, &f)) {
		assert_int_equal(io_read(f, buf, cap, 0, &len), 0);
		*ret_len = (ssize_t)len;
		io_close(f);
	}
	io_free(io);
}

static inline bool all_are(const uint8_t *p, size_t len, int value)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != value)
			return false;
	return true;
}

struct wait_op {
	struct loop_op op;
	bool done;
	int res;
};

static inline void wait_done(struct loop_op *op, int res)
{
	struct wait_op *w = container_of(op, struct wait_op, op);

	w->done = true;
	w->res = res;
}

#define WAIT_OP                                                                \
	{                                                                      \
		.op.done = wait_done                                           \
	}

static inline bool is_done(void *ctx)
{
	return ((struct wait_op *)ctx)->done;
}

static inline int finish(struct sim *sim, struct wait_op *w)
{
	assert_int_equal(sim_run_until(sim, is_done, w, STEPS), 0);
	return w->res;
}

static inline struct loop *started_loop(struct io *io, const char *name)
{
	struct loop *l = NULL;

	assert_int_equal(loop_create(io, name, &l), 0);
	assert_int_equal(loop_start(l, NULL, NULL), 0);
	return l;
}

static inline void end_loop(struct loop *l)
{
	loop_stop(l);
	loop_join(l);
	loop_free(l);
}

#endif
