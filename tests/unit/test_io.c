/* tests/unit/test_io.c: files, directories and disk operations, on both
 * engines. */
#include "tests/unit/engines.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static struct io_file *open_file(struct io *io, const char *name,
				 unsigned flags)
{
	struct io_file *file = NULL;
	char path[512];

	assert_int_equal(
		io_open(io, test_path(path, sizeof(path), name), flags, &file),
		0);
	return file;
}

static uint64_t size_of(struct io_file *file)
{
	uint64_t bytes = 0;

	assert_int_equal(io_size(file, &bytes), 0);
	return bytes;
}

static void fill(uint8_t *buf, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525u + 1013904223u;
		buf[i] = (uint8_t)(seed >> 24);
	}
}

/* ---- opening ---- */

BOTH("a file that is not there is -ENOENT, and made once with IO_EXCLUSIVE")
{
	const unsigned make = IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT;
	struct io_file *file = NULL;
	char path[512];
	struct stat st;

	test_directory();
	test_path(path, sizeof(path), "f");
	assert_int_equal(io_open(io, path, IO_READ, &file), -ENOENT);
	assert_int_equal(io_open(io, path, make, &file), 0);
	io_close(file);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	file = NULL;
	assert_int_equal(io_open(io, path, make, &file), -EEXIST);
	assert_null(file);
	io_close(NULL);
}

BOTH("where O_DIRECT is refused the file is buffered")
{
	struct io_file *file = NULL;
	char buf[100];
	size_t len = 0;

	assert_int_equal(
		io_open(io, "/proc/self/status", IO_READ | IO_DIRECT, &file),
		0);
	assert_false(io_file_direct(file));
	assert_int_equal(io_read(file, buf, sizeof(buf), 0, &len), 0);
	assert_int_equal(len, sizeof(buf));
	io_close(file);
}

/* ---- blocking calls ---- */

BOTH("what is written is read back, short only at the end")
{
	uint8_t in[10000], out[20000];
	struct io_file *file;
	size_t len = 7;

	test_directory();
	fill(in, sizeof(in), 1);
	file = open_file(io, "f", IO_WRITE | IO_CREATE);
	assert_int_equal(io_write(file, in, sizeof(in), 500), 0);
	assert_int_equal(io_sync(file), 0);
	assert_int_equal(size_of(file), 10500);
	assert_int_equal(io_read(file, out, 10000, 500, &len), 0);
	assert_int_equal(len, 10000);
	assert_memory_equal(in, out, 10000);
	assert_int_equal(io_read(file, out, sizeof(out), 10000, &len), 0);
	assert_int_equal(len, 500);
	assert_memory_equal(in + 9500, out, 500);
	assert_int_equal(io_read(file, out, sizeof(out), 10500, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(io_truncate(file, 3), 0);
	assert_int_equal(size_of(file), 3);
	io_close(file);
}

BOTH("a direct read ends at the end of a file of odd length")
{
	uint8_t *buf = io_buffer_alloc(4 * IO_BLOCK);
	struct io_file *file;
	size_t len = 0;

	test_directory();
	file = open_file(io, "f", IO_WRITE | IO_CREATE);
	fill(buf, IO_BLOCK + 904, 2);
	assert_int_equal(io_write(file, buf, IO_BLOCK + 904, 0), 0);
	assert_int_equal(io_sync(file), 0);
	io_close(file);
	file = open_file(io, "f", IO_READ | IO_DIRECT);
	assert_int_equal(io_read(file, buf, 4 * IO_BLOCK, 0, &len), 0);
	assert_int_equal(len, IO_BLOCK + 904);
	io_close(file);
	io_buffer_free(buf);
}

BOTH("an allocated file has its size, reads as zeros and never shrinks")
{
	struct io_file *file;
	uint8_t buf[IO_BLOCK];
	size_t len = 0;

	test_directory();
	file = open_file(io, "f", IO_WRITE | IO_CREATE);
	assert_int_equal(io_allocate(file, 1 << 20), 0);
	assert_int_equal(size_of(file), 1 << 20);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(io_read(file, buf, sizeof(buf), 65536, &len), 0);
	assert_int_equal(len, sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(io_allocate(file, 4096), 0);
	assert_int_equal(size_of(file), 1 << 20);
	io_close(file);
}

BOTH("an append file is O_DSYNC and grows at its end, whatever the offset")
{
	struct io_file *one, *two;
	char buf[16];
	size_t len = 0;
	int fd, flags;

	test_directory();
	one = open_file(io, "f", IO_WRITE | IO_CREATE | IO_APPEND);
	two = open_file(io, "f", IO_WRITE | IO_APPEND);
	/* The next descriptor is the lowest free one: its neighbour below is
	 * that of `two`. */
	fd = dup(0) - 1;
	close(fd + 1);
	flags = fcntl(fd, F_GETFL);
	assert_int_equal(flags & (O_APPEND | O_DSYNC), O_APPEND | O_DSYNC);
	assert_int_equal(io_write(one, "one", 3, 0), 0);
	assert_int_equal(io_write(two, "two", 3, 0), 0);
	assert_int_equal(io_write(one, "one", 3, 0), 0);
	assert_int_equal(io_read(one, buf, sizeof(buf), 0, &len), 0);
	assert_int_equal(len, 9);
	assert_memory_equal(buf, "onetwoone", 9);
	io_close(one);
	io_close(two);
}

BOTH("a write that meets a limit halfway fails with the limit's error")
{
	struct rlimit old,
		limit = {.rlim_cur = 6000, .rlim_max = RLIM_INFINITY};
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file;
	uint8_t buf[8192];
	int r;

	test_directory();
	fill(buf, sizeof(buf), 3);
	file = open_file(io, "f", IO_WRITE | IO_CREATE);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	r = io_write(file, buf, sizeof(buf), 0);
	loop_write_durable(l, &e.op, file, buf, sizeof(buf), 0);
	(void)engines_wait(l, &e);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	signal(SIGXFSZ, handler);
	assert_int_equal(r, -EFBIG);
	assert_int_equal(e.res, -EFBIG);
	assert_int_equal(size_of(file), 6000);
	io_close(file);
	loop_free(l);
}

/* ---- locks ---- */

BOTH("a locked file cannot be locked by another open until it is closed")
{
	struct io_file *one, *two, *three;

	test_directory();
	one = open_file(io, "lock", IO_WRITE | IO_CREATE);
	two = open_file(io, "lock", IO_WRITE);
	three = open_file(io, "lock", IO_WRITE);
	assert_int_equal(io_lock(one), 0);
	assert_int_equal(io_lock(one), 0);
	assert_int_equal(io_lock(two), -EAGAIN);
	/* Unlike a POSIX lock it survives the close of another descriptor. */
	io_close(two);
	assert_int_equal(io_lock(three), -EAGAIN);
	io_close(one);
	assert_int_equal(io_lock(three), 0);
	io_close(three);
}

BOTH("a lock that a killed process held can soon be taken")
{
	struct io_file *file;
	int ready[2], r = -EAGAIN, status;
	char byte;
	pid_t child;

	test_directory();
	file = open_file(io, "lock", IO_WRITE | IO_CREATE);
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (!child) {
		struct flock lock = {.l_type = F_WRLCK};
		char path[512];
		int fd = open(test_path(path, sizeof(path), "lock"), O_RDWR);

		if (fcntl(fd, F_OFD_SETLK, &lock) ||
		    write(ready[1], "x", 1) < 0)
			_exit(1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(io_lock(file), -EAGAIN);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	for (int i = 0; r == -EAGAIN && i < 1000; i++) {
		r = io_lock(file);
		if (r)
			usleep(1000);
	}
	assert_int_equal(r, 0);
	close(ready[0]);
	close(ready[1]);
	io_close(file);
}

/* ---- directories ---- */

struct listing {
	struct io *io;
	char text[256];
	int stop_after, count;
	int remove;
};

static int list_one(void *ctx, const char *name)
{
	struct listing *list = ctx;
	char path[512];

	strcat(list->text, name);
	strcat(list->text, " ");
	if (list->remove &&
	    io_unlink(list->io, test_path(path, sizeof(path), name)))
		return -1;
	return ++list->count == list->stop_after ? 42 : 0;
}

BOTH("a directory is listed in byte order, until each() stops it")
{
	static const char *const names[] = {"b",  "a", "Z",	  "a0",
					    "10", "9", ".hidden", "\xc3\xa4"};
	struct listing list = {.io = io};
	const char *dir = test_directory();

	for (size_t i = 0; i < ARRAY_COUNT(names); i++)
		io_close(open_file(io, names[i], IO_WRITE | IO_CREATE));
	assert_int_equal(io_list(io, dir, list_one, &list), 0);
	assert_string_equal(list.text, ".hidden 10 9 Z a a0 b \xc3\xa4 ");
	list = (struct listing){.io = io, .stop_after = 3, .remove = 1};
	assert_int_equal(io_list(io, dir, list_one, &list), 42);
	assert_string_equal(list.text, ".hidden 10 9 ");
	list = (struct listing){.io = io, .remove = 1};
	assert_int_equal(io_list(io, dir, list_one, &list), 0);
	assert_string_equal(list.text, "Z a a0 b \xc3\xa4 ");
	list = (struct listing){.io = io};
	assert_int_equal(io_list(io, dir, list_one, &list), 0);
	assert_string_equal(list.text, "");
	assert_int_equal(io_list(io, "/nowhere/at/all", list_one, &list),
			 -ENOENT);
}

BOTH("directories are made once, files are renamed and removed")
{
	char dir[512], from[512], to[512];
	struct stat st;

	test_directory();
	test_path(dir, sizeof(dir), "d");
	test_path(from, sizeof(from), "d/from");
	test_path(to, sizeof(to), "d/to");
	assert_int_equal(io_mkdir(io, from), -ENOENT);
	assert_int_equal(io_mkdir(io, dir), 0);
	assert_int_equal(io_mkdir(io, dir), 0);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	io_close(open_file(io, "d/from", IO_WRITE | IO_CREATE));
	assert_int_equal(io_mkdir(io, from), -ENOTDIR);
	assert_int_equal(io_rename(io, from, to), 0);
	assert_int_equal(io_rename(io, from, to), -ENOENT);
	assert_int_equal(io_sync_dir(io, dir), 0);
	assert_int_equal(io_sync_dir(io, to), -ENOTDIR);
	assert_int_equal(io_unlink(io, to), 0);
	assert_int_equal(io_unlink(io, to), -ENOENT);
}

BOTH("a file system tells its name, size and whether it is remote")
{
	struct io_fs fs = {0};

	assert_int_equal(io_fs_info(io, test_directory(), &fs), 0);
	assert_true(fs.bytes_total > 0 && fs.bytes_free <= fs.bytes_total);
	assert_int_equal(io_fs_info(io, "/proc", &fs), 0);
	assert_string_equal(fs.name, "0x9fa0");
	assert_int_equal(fs.network, 0);
	assert_int_equal(io_fs_info(io, "/dev/shm", &fs), 0);
	assert_string_equal(fs.name, "tmpfs");
	assert_int_equal(io_fs_info(io, "/nowhere", &fs), -ENOENT);
}

BOTH("buffers are aligned and zeroed, clocks run, random bytes differ")
{
	uint8_t *buf = io_buffer_alloc(IO_BLOCK + 1), a[32] = {0}, b[32] = {0};
	uint64_t now_ns = io_now_ns(io);

	assert_int_equal((uintptr_t)buf % IO_BLOCK, 0);
	for (size_t i = 0; i < 2 * IO_BLOCK; i++)
		assert_int_equal(buf[i], 0);
	io_buffer_free(buf);
	io_random(io, a, sizeof(a));
	io_random(io, b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	assert_true(io_now_ns(io) >= now_ns);
	assert_true(io_wall_ms(io) > 1700000000000u);
}

BOTH("a pause lasts as long as it says")
{
	uint64_t before = io_now_ns(io);

	io_pause(io, 0);
	io_pause(io, 3000000);
	assert_true(io_now_ns(io) >= before + 3000000);
}

/* ---- operations on a loop ---- */

typedef void write_fn(struct loop *, struct loop_op *, struct io_file *,
		      const void *buf, size_t len, uint64_t offset);

static void durable_round_trip(struct io *io, unsigned flags, write_fn *write)
{
	const size_t len = 16 * IO_BLOCK;
	uint8_t *in = io_buffer_alloc(len), *out = io_buffer_alloc(2 * len);
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file;

	test_directory();
	fill(in, len, 4);
	file = open_file(io, "f", IO_WRITE | IO_CREATE | flags);
	write(l, &e.op, file, in, len, 3 * IO_BLOCK);
	assert_int_equal(e.done_count, 0);
	assert_int_equal(engines_wait(l, &e), len);
	loop_write(l, &e.op, file, in, IO_BLOCK, 0);
	assert_int_equal(engines_wait(l, &e), IO_BLOCK);
	loop_read(l, &e.op, file, out, len, 3 * IO_BLOCK);
	assert_int_equal(engines_wait(l, &e), len);
	assert_memory_equal(in, out, len);
	/* Short at the end, nothing beyond it. */
	loop_read(l, &e.op, file, out, 2 * len, 4 * IO_BLOCK);
	assert_int_equal(engines_wait(l, &e), len - IO_BLOCK);
	assert_memory_equal(in + IO_BLOCK, out, len - IO_BLOCK);
	loop_read(l, &e.op, file, out, len, 100 * len);
	assert_int_equal(engines_wait(l, &e), 0);
	write(l, &e.op, file, in, 0, 0);
	assert_int_equal(engines_wait(l, &e), 0);
	io_close(file);
	loop_free(l);
	io_buffer_free(in);
	io_buffer_free(out);
}

BOTH("a durable write into a direct file is read back")
{
	durable_round_trip(io, IO_DIRECT, loop_write_durable);
	durable_round_trip(io, IO_DIRECT, loop_write_durable_now);
}

BOTH("a durable write into a buffered file is read back")
{
	durable_round_trip(io, 0, loop_write_durable);
	durable_round_trip(io, 0, loop_write_durable_now);
}

BOTH("a durable write is not done when its sync fails")
{
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file = NULL;

	/* A device that takes every write and refuses every sync. */
	assert_int_equal(io_open(io, "/dev/null", IO_WRITE, &file), 0);
	loop_write(l, &e.op, file, "x", 1, 0);
	assert_int_equal(engines_wait(l, &e), 1);
	loop_write_durable(l, &e.op, file, "x", 1, 0);
	assert_int_equal(engines_wait(l, &e), -EINVAL);
	loop_write_durable_now(l, &e.op, file, "x", 1, 0);
	assert_int_equal(engines_wait(l, &e), -EINVAL);
	assert_int_equal(io_sync(file), -EINVAL);
	io_close(file);
	loop_free(l);
}

BOTH("an operation reads to the odd end of a direct file")
{
	uint8_t *buf = io_buffer_alloc(4 * IO_BLOCK);
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file;

	test_directory();
	file = open_file(io, "f", IO_WRITE | IO_CREATE);
	assert_int_equal(io_write(file, buf, IO_BLOCK + 904, 0), 0);
	io_close(file);
	file = open_file(io, "f", IO_READ | IO_DIRECT);
	loop_read(l, &e.op, file, buf, 4 * IO_BLOCK, 0);
	assert_int_equal(engines_wait(l, &e), IO_BLOCK + 904);
	io_close(file);
	loop_free(l);
	io_buffer_free(buf);
}

BOTH("an operation that cannot work reports the kernel's error")
{
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file;
	char buf[16] = "";

	test_directory();
	io_close(open_file(io, "f", IO_WRITE | IO_CREATE));
	file = open_file(io, "f", IO_READ);
	loop_write_durable(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -EBADF);
	loop_write_durable_now(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -EBADF);
	loop_write(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -EBADF);
	io_close(file);
	assert_int_equal(io_open(io, "/dev/full", IO_WRITE, &file), 0);
	loop_write_durable(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -ENOSPC);
	loop_write_durable_now(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -ENOSPC);
	assert_int_equal(io_write(file, buf, sizeof(buf), 0), -ENOSPC);
	io_close(file);
	assert_int_equal(io_open(io, test_directory(), IO_READ, &file), 0);
	loop_read(l, &e.op, file, buf, sizeof(buf), 0);
	assert_int_equal(engines_wait(l, &e), -EISDIR);
	io_close(file);
	loop_free(l);
}

#define MANY 1000

struct many {
	struct engines_op ops[MANY];
	int left;
};

static struct many *many;

static void many_done(struct loop_op *op, int res)
{
	engines_op_done(op, res);
	many->left--;
}

BOTH("more operations than a ring holds are started at once, before a thread")
{
	uint8_t *in = io_buffer_alloc(IO_BLOCK * MANY);
	uint8_t *out = io_buffer_alloc(IO_BLOCK * MANY);
	struct loop *l = engines_loop(io);
	struct io_file *file;

	test_directory();
	fill(in, IO_BLOCK * MANY, 5);
	file = open_file(io, "f", IO_WRITE | IO_CREATE | IO_DIRECT);
	for (int write = 1; write >= 0; write--) {
		many = calloc(1, sizeof(*many));
		many->left = MANY;
		for (size_t i = 0; i < MANY; i++) {
			struct loop_op *op = &many->ops[i].op;

			op->done = many_done;
			if (write)
				loop_write(l, op, file, in + i * IO_BLOCK,
					   IO_BLOCK, i * IO_BLOCK);
			else
				loop_read(l, op, file, out + i * IO_BLOCK,
					  IO_BLOCK, i * IO_BLOCK);
		}
		while (many->left)
			loop_run(l);
		for (size_t i = 0; i < MANY; i++) {
			assert_int_equal(many->ops[i].done_count, 1);
			assert_int_equal(many->ops[i].res, IO_BLOCK);
		}
		free(many);
	}
	assert_memory_equal(in, out, IO_BLOCK * MANY);
	io_close(file);
	loop_free(l);
	io_buffer_free(in);
	io_buffer_free(out);
}

/* ---- choosing ---- */

/* In a child, as a filter cannot be taken off again. */
static void with_refused(long call, int err, int (*check)(int err),
			 const char *what)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {ARRAY_COUNT(code), code};
	int status = -1;
	pid_t child = fork();

	if (!child) {
		if (err &&
		    (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		     prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)))
			_exit(99);
		_exit(check(err));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("%s: status %#x", what, status);
}

static int check_seccomp(int err)
{
	const char *reason = NULL;
	struct io *io = NULL;

	if (io_create(IO_ENGINE_URING, &io, &reason) != -err || io)
		return 1;
	if (!reason || !strstr(reason, "seccomp"))
		return 2;
	reason = NULL;
	if (io_create(IO_ENGINE_AUTO, &io, &reason))
		return 3;
	if (strcmp(io_engine_name(io), "threads"))
		return 4;
	if (!reason || !strstr(reason, "seccomp"))
		return 5;
	io_free(io);
	return 0;
}

TEST("a seccomp profile that refuses io_uring is named and worked around")
{
	with_refused(SYS_io_uring_setup, EPERM, check_seccomp, "EPERM");
	with_refused(SYS_io_uring_setup, ENOSYS, check_seccomp, "ENOSYS");
}

static int check_allocate(int unused)
{
	struct io_file *file;
	uint64_t bytes = 0;
	const char *reason;
	char path[512];
	struct io *io;

	if (io_create(IO_ENGINE_THREADS, &io, &reason) ||
	    io_open(io, test_path(path, sizeof(path), "f"),
		    IO_WRITE | IO_CREATE, &file))
		return 1;
	if (io_allocate(file, 100000) || io_size(file, &bytes) ||
	    bytes != 100000)
		return 2;
	if (io_allocate(file, 4096) || io_size(file, &bytes) || bytes != 100000)
		return 3;
	io_close(file);
	io_free(io);
	return 0;
}

TEST("where blocks cannot be reserved an allocated file still has its size")
{
	test_directory();
	with_refused(SYS_fallocate, EOPNOTSUPP, check_allocate, "fallocate");
}

/* As many loops as a small pod has: either all of them get a ring, or the
 * threads were chosen before. */
static int check_memlock(int unused)
{
	struct rlimit limit = {65536, 65536};
	struct loop *loops[8];
	const char *reason;
	struct io *io;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) || setgid(65534) || setuid(65534))
		return 10;
	if (io_create(IO_ENGINE_AUTO, &io, &reason))
		return 11;
	for (size_t i = 0; i < ARRAY_COUNT(loops); i++) {
		if (loop_create(io, "test", &loops[i]))
			return 12;
	}
	for (size_t i = 0; i < ARRAY_COUNT(loops); i++)
		loop_free(loops[i]);
	io_free(io);
	return 0;
}

TEST("every loop starts under a memlock limit of 64 KiB")
{
	/* Only root may become somebody that the limit holds for. */
	if (getuid())
		skip();
	with_refused(0, 0, check_memlock, "memlock");
}

TEST("threads are used when they are asked for")
{
	const char *reason = NULL;
	struct io *io = NULL;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	assert_string_equal(io_engine_name(io), "threads");
	assert_non_null(strstr(reason, "configuration"));
	io_free(io);
	io_free(NULL);
}

TEST_MAIN()
