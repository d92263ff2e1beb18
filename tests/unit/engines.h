/* tests/unit/engines.h: run a test of the I/O seam on both real engines.
 *
 *	BOTH("a read at the end is short") { ... io ... }
 *
 * makes two tests.  Where the machine refuses io_uring that one is skipped,
 * with the reason. */
#ifndef TESTS_UNIT_ENGINES_H
#define TESTS_UNIT_ENGINES_H

#include "tests/unit/test.h"

#include "base/loop.h"

static inline void engines_run(enum io_engine engine, void (*body)(struct io *))
{
	const char *reason = NULL;
	struct io *io = NULL;
	int r = io_create(engine, &io, &reason);

	if (engine == IO_ENGINE_URING && (r == -EPERM || r == -ENOSYS)) {
		print_message("%s\n", reason);
		skip();
	}
	assert_int_equal(r, 0);
	assert_string_equal(io_engine_name(io),
			    engine == IO_ENGINE_URING ? "io_uring" : "threads");
	body(io);
	io_free(io);
}

#define BOTH_(sentence, body)                                                  \
	static void body(struct io *io);                                       \
	TEST_NAMED(sentence " (io_uring)", TEST_PASTE(body, _uring))           \
	{                                                                      \
		engines_run(IO_ENGINE_URING, body);                            \
	}                                                                      \
	TEST_NAMED(sentence " (threads)", TEST_PASTE(body, _threads))          \
	{                                                                      \
		engines_run(IO_ENGINE_THREADS, body);                          \
	}                                                                      \
	static void body(struct io *io)
#define BOTH(sentence) BOTH_(sentence, TEST_PASTE(both_at_line_, __LINE__))

/* An operation that ends the loop_run() it was waited for with. */
struct engines_op {
	struct loop_op op;
	int res;
	int done_count;
};

static inline void engines_op_done(struct loop_op *op, int res)
{
	struct engines_op *e = container_of(op, struct engines_op, op);

	e->res = res;
	e->done_count++;
	loop_stop(op->loop);
}

#define ENGINES_OP                                                             \
	{                                                                      \
		.op = {.done = engines_op_done }                               \
	}

/* Run the loop on this thread until the operation is done. */
static inline int engines_wait(struct loop *l, struct engines_op *e)
{
	while (!e->done_count)
		loop_run(l);
	assert_int_equal(e->done_count, 1);
	e->done_count = 0;
	return e->res;
}

static inline struct loop *engines_loop(struct io *io)
{
	struct loop *l = NULL;

	assert_int_equal(loop_create(io, "test", &l), 0);
	return l;
}

static inline int engines_fd_count(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

#endif
