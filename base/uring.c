/* base/uring.c: the io_uring engine, and the only user of liburing.
 *
 * One ring per loop.  It is made disabled by loop_create(), so that a refusal
 * is reported there, and enabled by the first wait(): with SINGLE_ISSUER the
 * kernel then takes entries from that thread alone.  Operations that are
 * started before (log_start() runs on the main thread) lie in the submission
 * queue, or in the backlog once that is full, until the thread comes.
 *
 * One iteration costs one io_uring_enter(): it submits everything that the
 * callbacks started and waits for what comes back.
 *
 * user_data is the struct loop_op, except for the two small tags below.
 * kernel_ops counts the ops that the kernel holds; it is zero before a loop's
 * memory goes, so no completion can arrive late.
 *
 * Crash argument: a durable write on an O_DIRECT file is one entry with
 * RWF_DSYNC.  On a buffered file the fdatasync is submitted when the whole
 * write has completed, never linked to it: a short write would break the
 * link, and entries without one are not ordered. */
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/posix.h"

#define RING_ENTRIES 256u
#define RING_ENTRIES_SMALL 64u /* two locked pages instead of seven */
#define RING_BYTES_MAX 65536u  /* more than a ring of 256 entries locks */
#define REAP_BATCH 64
#define REAP_BUDGET 512 /* completions in one iteration */
#define OTHER_LOOPS 6	/* beside the shards, when probing memlock */

enum { TAG_WAKE = 1, TAG_CANCEL = 2 };

/* loop_op.flags of a durable write on a buffered file */
enum { WRITING = 0, SYNCING = 1 };

struct uring_io {
	struct io io;
	unsigned entries;
	unsigned flags;
};

struct uring_loop {
	struct posix_loop posix; /* first: see posix_loop() */
	struct io_uring ring;
	struct loop_op *backlog, **backlog_tail;
	uint64_t kernel_ops;
	uint64_t wake_count; /* where the eventfd is read to */
	int wake_fd;
	bool wake_posted;
	bool cancel_due; /* a connecting socket was shut down */
	bool enabled;
	bool ended;	 /* quiesced: nothing is submitted any more */
	pthread_t owner; /* when enabled */
};

static struct uring_loop *uring_loop(const struct loop *l)
{
	return container_of(posix_loop(l), struct uring_loop, posix);
}

/* ---- submission ---- */

static struct io_uring_sqe *get_sqe(struct uring_loop *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (sqe || !u->enabled)
		return sqe;
	/* What this returns does not matter: either there is room now, or
	 * the caller puts its op off. */
	(void)io_uring_submit(&u->ring);
	return io_uring_get_sqe(&u->ring);
}

static void prepare(struct io_uring_sqe *sqe, const struct loop_op *op)
{
	uint8_t *at = (uint8_t *)op->buf + op->progress;
	unsigned len =
		(unsigned)base_min(op->len - op->progress, POSIX_TRANSFER_MAX);
	uint64_t offset = op->offset + op->progress;
	const struct sockaddr *address;
	socklen_t address_len;

	switch ((enum engine_op_kind)op->kind) {
	case ENGINE_READ:
		io_uring_prep_read(sqe, op->fd, at, len, offset);
		break;
	case ENGINE_WRITE_DURABLE:
		if (op->flags == SYNCING) {
			io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
			break;
		}
		io_uring_prep_write(sqe, op->fd, at, len, offset);
		if (op->file->direct)
			sqe->rw_flags = RWF_DSYNC;
		break;
	case ENGINE_WRITE:
		io_uring_prep_write(sqe, op->fd, at, len, offset);
		break;
	case ENGINE_ACCEPT:
		io_uring_prep_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC);
		break;
	case ENGINE_CONNECT:
		address = posix_net_address(op, &address_len);
		io_uring_prep_connect(sqe, op->fd, address, address_len);
		break;
	case ENGINE_RECV:
		io_uring_prep_recv(sqe, op->fd, op->buf, op->len, 0);
		break;
	case ENGINE_SEND:
		io_uring_prep_send(sqe, op->fd, op->buf, op->len, MSG_NOSIGNAL);
		break;
	}
}

static bool try_submit(struct uring_loop *u, struct loop_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(u);

	if (!sqe)
		return false;
	prepare(sqe, op);
	io_uring_sqe_set_data(sqe, op);
	u->kernel_ops++;
	return true;
}

static void uring_submit(struct loop *l, struct loop_op *op)
{
	struct uring_loop *u = uring_loop(l);

	if (!u->backlog && !u->ended && try_submit(u, op))
		return;
	op->next = NULL;
	*u->backlog_tail = op;
	u->backlog_tail = &op->next;
}

static void submit_backlog(struct uring_loop *u)
{
	while (u->backlog) {
		struct loop_op *next = u->backlog->next;

		if (!try_submit(u, u->backlog))
			return;
		u->backlog = next;
		if (!next)
			u->backlog_tail = &u->backlog;
	}
}

static void uring_write_now(struct loop *l, struct loop_op *op)
{
	struct uring_loop *u = uring_loop(l);

	if (!u->enabled || u->ended) {
		uring_submit(l, op);
		return;
	}
	submit_backlog(u);
	/* What this returns does not matter: what is not taken now is still
	 * there when the loop waits. */
	if (io_uring_sq_ready(&u->ring))
		(void)io_uring_submit(&u->ring);
	posix_net_ready(op, posix_write_op(op));
}

static void submit_wake(struct uring_loop *u)
{
	struct io_uring_sqe *sqe;

	if (u->wake_posted)
		return;
	sqe = get_sqe(u);
	if (!sqe)
		return;
	io_uring_prep_read(sqe, u->wake_fd, &u->wake_count,
			   sizeof(u->wake_count), 0);
	io_uring_sqe_set_data64(sqe, TAG_WAKE);
	u->wake_posted = true;
}

/* A connect does not end by shutdown() alone: before 6.x the kernel would
 * start it again. */
static void submit_cancels(struct uring_loop *u)
{
	if (!u->cancel_due)
		return;
	list_for_each(pos, &u->posix.sockets) {
		struct posix_socket *s =
			list_entry(pos, struct posix_socket, node);
		struct io_uring_sqe *sqe;

		if (!s->shut || !s->connecting || s->resolve)
			continue;
		sqe = get_sqe(u);
		if (!sqe)
			return;
		io_uring_prep_cancel(sqe, s->connecting, 0);
		io_uring_sqe_set_data64(sqe, TAG_CANCEL);
	}
	u->cancel_due = false;
}

static void uring_shutdown(struct loop_socket *base)
{
	posix_net_shutdown(base);
	if (posix_socket(base)->connecting)
		uring_loop(base->loop)->cancel_due = true;
}

/* ---- completion ---- */

static void disk_completed(struct loop *l, struct loop_op *op, int res)
{
	int r;

	if (op->flags == SYNCING) {
		loop_complete(op, res < 0 ? res : (int)op->len);
		return;
	}
	if (op->kind == ENGINE_READ)
		r = posix_read_step(op->file, op->len, &op->progress, res);
	else
		r = posix_write_step(op->file, op->len, &op->progress, res);
	if (!r && op->kind == ENGINE_WRITE_DURABLE && !op->file->direct) {
		op->flags = SYNCING;
		r = 1;
	}
	if (r == 1)
		uring_submit(l, op);
	else
		loop_complete(op, r < 0 ? r : (int)op->progress);
}

static void completed(struct loop *l, struct loop_op *op, int res)
{
	switch ((enum engine_op_kind)op->kind) {
	case ENGINE_READ:
	case ENGINE_WRITE_DURABLE:
	case ENGINE_WRITE:
		disk_completed(l, op, res);
		break;
	case ENGINE_CONNECT:
		posix_net_connected(op, res);
		break;
	case ENGINE_ACCEPT:
	case ENGINE_RECV:
	case ENGINE_SEND:
		if (res == -EINTR)
			uring_submit(l, op);
		else
			loop_complete(op, res);
		break;
	}
}

/* Copied out and given back to the kernel before any callback runs. */
static unsigned take_cqes(struct uring_loop *u, struct io_uring_cqe **cqes,
			  uint64_t *ret_data, int *ret_res)
{
	unsigned count = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_BATCH);

	for (unsigned i = 0; i < count; i++) {
		ret_data[i] = cqes[i]->user_data;
		ret_res[i] = cqes[i]->res;
		if (ret_data[i] == TAG_WAKE)
			u->wake_posted = false;
		else if (ret_data[i] != TAG_CANCEL)
			u->kernel_ops--;
	}
	io_uring_cq_advance(&u->ring, count);
	return count;
}

static struct loop_op *op_of(uint64_t data)
{
	return (struct loop_op *)(uintptr_t)data;
}

static void reap(struct loop *l)
{
	struct uring_loop *u = uring_loop(l);
	struct io_uring_cqe *cqes[REAP_BATCH];
	uint64_t data[REAP_BATCH];
	int res[REAP_BATCH];
	unsigned count = REAP_BATCH;

	for (unsigned done = 0; done < REAP_BUDGET && count == REAP_BATCH;
	     done += count) {
		count = take_cqes(u, cqes, data, res);
		for (unsigned i = 0; i < count; i++) {
			if (data[i] > TAG_CANCEL)
				completed(l, op_of(data[i]), res[i]);
		}
	}
}

/* ---- waiting ---- */

static void enable(struct uring_loop *u)
{
	unsigned workers[2] = {8, 4}; /* bounded by pids.max in a container */

	u->owner = pthread_self();
	u->enabled = true;
	/* liburing 2.3 declares io_uring_enable_rings() and does not export
	 * it. */
	ASSERT(!syscall(SYS_io_uring_register, u->ring.ring_fd,
			IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	(void)io_uring_register_iowq_max_workers(&u->ring, workers);
}

/* Without blocking there may be nothing to enter the kernel for. */
static int enter_now(struct io_uring *ring)
{
	unsigned flags = IO_URING_READ_ONCE(*ring->sq.kflags);

	if (!io_uring_sq_ready(ring) &&
	    !(flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
		return 0;
	return io_uring_submit_and_get_events(ring);
}

static int enter(struct io_uring *ring, uint64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;

	if (!timeout_ns)
		return enter_now(ring);
	if (timeout_ns == UINT64_MAX)
		return io_uring_submit_and_wait(ring, 1);
	ts.tv_sec = (long long)(timeout_ns / 1000000000u);
	ts.tv_nsec = (long long)(timeout_ns % 1000000000u);
	return io_uring_submit_and_wait_timeout(ring, &cqe, 1, &ts, NULL);
}

/* What io_uring_enter() may say in good health; anything else means that
 * completions are lost, and with them the right to go on. */
static void check_enter(int r)
{
	ASSERT(r >= 0 || r == -ETIME || r == -EINTR || r == -EAGAIN ||
	       r == -EBUSY);
}

static void submit_pending(struct uring_loop *u)
{
	if (!u->enabled)
		enable(u);
	submit_backlog(u);
	submit_cancels(u);
	submit_wake(u);
}

static bool uring_has_completions(struct loop *l)
{
	struct io_uring *ring = &uring_loop(l)->ring;

	return io_uring_cq_ready(ring) ||
	       (IO_URING_READ_ONCE(*ring->sq.kflags) &
		(IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

static bool uring_submit_now(struct loop *l)
{
	struct uring_loop *u = uring_loop(l);

	submit_pending(u);
	check_enter(enter_now(&u->ring));
	return u->backlog || !u->wake_posted || posix_net_has_ready(l) ||
	       uring_has_completions(l);
}

static void uring_wait(struct loop *l, uint64_t timeout_ns)
{
	struct uring_loop *u = uring_loop(l);
	bool announced = timeout_ns;

	submit_pending(u);
	if (u->backlog || !u->wake_posted || posix_net_has_ready(l))
		timeout_ns = 0;
	check_enter(enter(&u->ring, timeout_ns));
	if (announced)
		loop_woke(l);
	posix_net_run_ready(l);
	reap(l);
}

static void uring_wake(struct loop *l)
{
	uint64_t one = 1;
	ssize_t n = write(uring_loop(l)->wake_fd, &one, sizeof(one));

	ASSERT(n == sizeof(one) || errno == EINTR || errno == EAGAIN);
}

/* ---- life of a loop ---- */

static void discard_cqes(struct uring_loop *u)
{
	struct io_uring_cqe *cqes[REAP_BATCH];
	uint64_t data[REAP_BATCH];
	int res[REAP_BATCH];
	unsigned count = take_cqes(u, cqes, data, res);

	for (unsigned i = 0; i < count; i++) {
		if (data[i] > TAG_CANCEL && res[i] >= 0 &&
		    op_of(data[i])->kind == ENGINE_ACCEPT)
			close(res[i]);
	}
}

static void uring_quiesce(struct loop *l)
{
	struct uring_loop *u = uring_loop(l);

	u->backlog = NULL;
	u->backlog_tail = &u->backlog;
	/* An entry that was prepared for a ring that was never enabled is
	 * only memory. */
	if (!u->enabled || u->ended) {
		posix_net_quiesce(l);
		l->in_flight = 0;
		return;
	}
	ASSERT(pthread_equal(u->owner, pthread_self()));
	u->ended = true;
	list_for_each(pos, &u->posix.sockets)
		list_entry(pos, struct posix_socket, node)->shut = true;
	u->cancel_due = true;
	while (u->cancel_due) {
		submit_cancels(u);
		check_enter(enter(&u->ring, 0));
		discard_cqes(u);
	}
	posix_net_quiesce(l);
	uring_wake(l);
	while (u->kernel_ops || u->wake_posted) {
		check_enter(enter(&u->ring, UINT64_MAX));
		discard_cqes(u);
	}
	l->in_flight = 0;
}

static int ring_make(const struct uring_io *io, unsigned entries,
		     struct io_uring *ring)
{
	struct io_uring_params params = {.flags = io->flags};

	return io_uring_queue_init_params(entries, ring, &params);
}

/* A closed ring gives its locked memory back tens of milliseconds later, so
 * -ENOMEM is believed only when it stays. */
static int ring_make_patiently(const struct uring_io *io, struct io_uring *ring)
{
	int r = ring_make(io, io->entries, ring);

	for (int i = 0; r == -ENOMEM && i < 50; i++) {
		usleep(10000);
		r = ring_make(io, RING_ENTRIES_SMALL, ring);
	}
	return r;
}

static int uring_loop_init(struct loop *l)
{
	struct uring_loop *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->backlog_tail = &u->backlog;
	/* Not O_NONBLOCK: the read that is posted on it is to wait. */
	u->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (u->wake_fd < 0) {
		r = -errno;
		goto fail;
	}
	r = ring_make_patiently(container_of(l->io, struct uring_io, io),
				&u->ring);
	if (r)
		goto fail_fd;
	posix_net_loop_init(l, &u->posix, 0, uring_quiesce);
	return 0;
fail_fd:
	close(u->wake_fd);
fail:
	free(u);
	return r;
}

static void uring_loop_fini(struct loop *l)
{
	struct uring_loop *u = uring_loop(l);

	posix_net_loop_fini(l);
	io_uring_queue_exit(&u->ring);
	close(u->wake_fd);
	free(u);
}

static void uring_free(struct io *io)
{
	free(container_of(io, struct uring_io, io));
}

static const struct engine_ops uring_ops = {
	POSIX_FILE_OPS,
	.name = "io_uring",
	.free = uring_free,
	.loop_init = uring_loop_init,
	.loop_fini = uring_loop_fini,
	.loop_start = posix_net_loop_start,
	.loop_join = posix_net_loop_join,
	.submit = uring_submit,
	.write_now = uring_write_now,
	.wait = uring_wait,
	.submit_now = uring_submit_now,
	.has_completions = uring_has_completions,
	.wake = uring_wake,
	.listen = posix_net_listen,
	.adopt = posix_net_adopt,
	.refuse = posix_net_refuse,
	.connect = posix_net_connect,
	.socket_shutdown = uring_shutdown,
	.socket_close = posix_net_close,
};

/* ---- may we? ---- */

/* The number after `key` at the start of a line, or -1. */
static int proc_number(const char *path, const char *key)
{
	FILE *file = fopen(path, "re");
	char line[256];
	int number = -1;

	if (!file)
		return -1;
	while (number < 0 && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, key, strlen(key)))
			number = atoi(line + strlen(key));
	}
	fclose(file);
	return number;
}

static const char *refusal(int err)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		if (proc_number("/proc/sys/kernel/io_uring_disabled", "") > 0)
			return "io_uring is not used: the sysctl "
			       "kernel.io_uring_disabled forbids it";
		if (proc_number("/proc/self/status", "Seccomp:") > 0)
			return "io_uring is not used: a seccomp profile "
			       "refuses it (allow io_uring_setup, "
			       "io_uring_enter and io_uring_register)";
		return "io_uring is not used: a security module refuses it";
	case ENOSYS:
		if (proc_number("/proc/self/status", "Seccomp:") > 0)
			return "io_uring is not used: a seccomp profile "
			       "answers that the kernel has none (allow "
			       "io_uring_setup, io_uring_enter and "
			       "io_uring_register)";
		return "io_uring is not used: the kernel has none";
	case ENOMEM:
		return "io_uring is not used: its rings do not fit in the "
		       "locked memory that is allowed (raise ulimit -l, "
		       "RLIMIT_MEMLOCK)";
	case EMFILE:
	case ENFILE:
		return "io_uring is not used: too many open files (raise "
		       "ulimit -n, RLIMIT_NOFILE)";
	default:
		return "io_uring is not used: the kernel's is too old "
		       "(Linux 5.11 or later is needed)";
	}
}

static const unsigned wanted_flags[] = {
	/* 6.1 */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL |
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
		IORING_SETUP_TASKRUN_FLAG,
	/* 5.19 */
	IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL |
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
	IORING_SETUP_R_DISABLED,
};

static const int wanted_ops[] = {
	IORING_OP_READ,	   IORING_OP_WRITE,	   IORING_OP_FSYNC,
	IORING_OP_ACCEPT,  IORING_OP_RECV,	   IORING_OP_SEND,
	IORING_OP_CONNECT, IORING_OP_ASYNC_CANCEL,
};

static int check_ring(struct io_uring *ring)
{
	unsigned features = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP |
			    IORING_FEAT_FAST_POLL | IORING_FEAT_SUBMIT_STABLE;
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	int r = 0;

	if (!probe || (ring->features & features) != features)
		r = -EOPNOTSUPP;
	for (size_t i = 0; !r && i < ARRAY_COUNT(wanted_ops); i++) {
		if (!io_uring_opcode_supported(probe, wanted_ops[i]))
			r = -EOPNOTSUPP;
	}
	io_uring_free_probe(probe);
	return r;
}

static int probe_kernel(struct uring_io *io)
{
	struct io_uring ring;
	int r = -EINVAL;

	io->entries = RING_ENTRIES;
	for (size_t i = 0; r == -EINVAL && i < ARRAY_COUNT(wanted_flags); i++) {
		io->flags = wanted_flags[i];
		r = ring_make(io, io->entries, &ring);
		if (r == -ENOMEM) {
			io->entries = RING_ENTRIES_SMALL;
			r = ring_make(io, io->entries, &ring);
		}
	}
	if (r)
		return r;
	r = check_ring(&ring);
	io_uring_queue_exit(&ring);
	return r;
}

static int make_and_drop(const struct uring_io *io, unsigned entries,
			 unsigned count)
{
	struct io_uring *rings = calloc(count, sizeof(*rings));
	unsigned made = 0;
	int r = rings ? 0 : -ENOMEM;

	while (!r && made < count) {
		r = ring_make(io, entries, &rings[made]);
		made += !r;
	}
	while (made)
		io_uring_queue_exit(&rings[--made]);
	free(rings);
	return r;
}

/* Where little memory may be locked, one ring may fit and eight not: try as
 * many as there will be loops, before it is too late to choose threads. */
static int probe_memlock(struct uring_io *io)
{
	unsigned count = OTHER_LOOPS;
	struct rlimit limit;
	cpu_set_t cpus;
	int r;

	if (!sched_getaffinity(0, sizeof(cpus), &cpus))
		count += (unsigned)CPU_COUNT(&cpus);
	if (getrlimit(RLIMIT_MEMLOCK, &limit) ||
	    limit.rlim_cur / RING_BYTES_MAX >= count)
		return 0;
	r = make_and_drop(io, io->entries, count);
	if (r != -ENOMEM)
		return r;
	io->entries = RING_ENTRIES_SMALL;
	for (int i = 0; r == -ENOMEM && i < 20; i++) {
		usleep(10000); /* see ring_make_patiently() */
		r = make_and_drop(io, io->entries, count);
	}
	return r;
}

int uring_create(struct io **ret, const char **ret_reason)
{
	struct uring_io *io = calloc(1, sizeof(*io));
	int r;

	if (!io)
		return -ENOMEM;
	io->io.ops = &uring_ops;
	r = probe_kernel(io);
	if (!r)
		r = probe_memlock(io);
	if (r) {
		*ret_reason = refusal(r);
		free(io);
		return r;
	}
	*ret_reason = "io_uring is used: the kernel offers every operation "
		      "that is needed";
	*ret = &io->io;
	return 0;
}
