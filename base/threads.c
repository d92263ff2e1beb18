/* base/threads.c: the engine for where io_uring is refused.
 *
 * Disk operations run on a pool of four threads that all loops of an io
 * share.  Sockets are non-blocking and watched edge-triggered, once for their
 * life: an operation is tried when it is started and, when the kernel says
 * "not now", again after the next edge.  An edge that comes while nothing
 * waits may be forgotten, because the next operation is tried first.
 *
 * The pool's lock guards the queue and every loop's list of finished
 * operations.  The eventfd write that announces them is made without it, so
 * that the loop does not wake into a held lock, and is counted: a loop with
 * nothing in the pool and nobody announcing may be freed.
 *
 * Crash argument: a durable write is reported only after posix_write_op(). */
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/posix.h"

#define POOL_THREADS 4
#define EVENT_BATCH 64

/* loop_op.flags of a socket's operation */
enum { CONNECT_STARTED = 1, IN_STARTED_LIST = 2 };

struct threads_io {
	struct io io;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct loop_op *queue, **queue_tail;
	bool stopping;
	unsigned thread_count;
	pthread_t threads[POOL_THREADS];
};

struct threads_loop {
	struct posix_loop posix; /* first: see posix_loop() */
	int epoll_fd, wake_fd;
	struct loop_op *started, **started_tail; /* sockets, not tried yet */
	uint64_t disk_ops;			 /* with the pool */
	/* under the pool's lock */
	struct loop_op *finished, **finished_tail;
	unsigned announcers; /* threads about to write to wake_fd */
};

static struct threads_loop *threads_loop(const struct loop *l)
{
	return container_of(posix_loop(l), struct threads_loop, posix);
}

static struct threads_io *threads_io(struct io *io)
{
	return container_of(io, struct threads_io, io);
}

static void wake_fd_write(struct threads_loop *t)
{
	uint64_t one = 1;
	ssize_t n = write(t->wake_fd, &one, sizeof(one));

	/* -EAGAIN: the counter is full, so the loop wakes in any case. */
	ASSERT(n == sizeof(one) || errno == EAGAIN || errno == EINTR);
}

static void wake_fd_clear(struct threads_loop *t)
{
	uint64_t count;
	ssize_t n = read(t->wake_fd, &count, sizeof(count));

	ASSERT(n == sizeof(count) || errno == EAGAIN || errno == EINTR);
}

/* ---- the pool ---- */

static int run_read(struct loop_op *op)
{
	int r = posix_read(op->file, op->buf, op->len, op->offset,
			   &op->progress);

	return r ? r : (int)op->progress;
}

/* Called, and returns, with the lock held. */
static void pool_finished(struct threads_io *io, struct loop_op *op)
{
	struct threads_loop *t = threads_loop(op->loop);
	bool first = !t->finished;

	op->next = NULL;
	*t->finished_tail = op;
	t->finished_tail = &op->next;
	if (!first)
		return;
	t->announcers++;
	pthread_mutex_unlock(&io->lock);
	wake_fd_write(t);
	pthread_mutex_lock(&io->lock);
	t->announcers--;
}

static void *pool_main(void *arg)
{
	struct threads_io *io = arg;

	pthread_mutex_lock(&io->lock);
	for (;;) {
		struct loop_op *op = io->queue;

		if (op) {
			io->queue = op->next;
			if (!io->queue)
				io->queue_tail = &io->queue;
			pthread_mutex_unlock(&io->lock);
			op->res = op->kind == ENGINE_READ ? run_read(op)
							  : posix_write_op(op);
			pthread_mutex_lock(&io->lock);
			pool_finished(io, op);
		} else if (io->stopping) {
			break;
		} else {
			pthread_cond_wait(&io->more, &io->lock);
		}
	}
	pthread_mutex_unlock(&io->lock);
	return NULL;
}

static void pool_submit(struct loop *l, struct loop_op *op)
{
	struct threads_io *io = threads_io(l->io);

	threads_loop(l)->disk_ops++;
	op->next = NULL;
	pthread_mutex_lock(&io->lock);
	*io->queue_tail = op;
	io->queue_tail = &op->next;
	pthread_cond_signal(&io->more);
	pthread_mutex_unlock(&io->lock);
}

/* Everything of this loop that the pool has finished, oldest first. */
static struct loop_op *pool_take(struct loop *l)
{
	struct threads_io *io = threads_io(l->io);
	struct threads_loop *t = threads_loop(l);
	struct loop_op *op;

	pthread_mutex_lock(&io->lock);
	op = t->finished;
	t->finished = NULL;
	t->finished_tail = &t->finished;
	pthread_mutex_unlock(&io->lock);
	for (struct loop_op *each = op; each; each = each->next)
		t->disk_ops--;
	return op;
}

static void pool_reap(struct loop *l)
{
	struct loop_op *op = threads_loop(l)->disk_ops ? pool_take(l) : NULL;

	while (op) {
		struct loop_op *next = op->next;

		posix_net_ready(op, op->res);
		op = next;
	}
}

/* ---- sockets ---- */

static void watch(struct threads_loop *t, struct posix_socket *s)
{
	struct epoll_event event = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
		.data.ptr = s,
	};

	s->watched = !epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, s->base.fd, &event);
}

static int try_connect(struct loop_op *op)
{
	struct sockaddr_storage peer;
	const struct sockaddr *address;
	socklen_t len;
	int err = 0;

	if (posix_socket(op->socket)->shut)
		return -ECANCELED;
	if (!(op->flags & CONNECT_STARTED)) {
		op->flags |= CONNECT_STARTED;
		address = posix_net_address(op, &len);
		if (!connect(op->fd, address, len))
			return 0;
		return errno == EINPROGRESS ? -EAGAIN : -errno;
	}
	len = sizeof(err);
	if (getsockopt(op->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		return -errno;
	if (err)
		return -err;
	/* An edge may be early; only a peer proves the connection. */
	len = sizeof(peer);
	if (!getpeername(op->fd, (struct sockaddr *)&peer, &len))
		return 0;
	return errno == ENOTCONN ? -EAGAIN : -errno;
}

static int64_t try_once(struct loop_op *op)
{
	int64_t n = 0;

	switch ((enum engine_op_kind)op->kind) {
	case ENGINE_ACCEPT:
		n = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		break;
	case ENGINE_RECV:
		n = recv(op->fd, op->buf, op->len, 0);
		break;
	case ENGINE_SEND:
		n = send(op->fd, op->buf, op->len, MSG_NOSIGNAL);
		break;
	case ENGINE_CONNECT:
		return try_connect(op);
	case ENGINE_READ:
	case ENGINE_WRITE:
	case ENGINE_WRITE_DURABLE:
		ASSERT(!"a disk operation on a socket");
	}
	return n < 0 ? -errno : n;
}

/* Leaves *slot set while the operation has to wait for an edge. */
static void try_op(struct loop_op **slot)
{
	struct loop_op *op = *slot;
	int64_t res;

	if (!op)
		return;
	do
		res = try_once(op);
	while (res == -EINTR);
	if (res == -EAGAIN && posix_socket(op->socket)->watched)
		return;
	*slot = NULL;
	posix_net_ready(op, (int)res);
}

static struct loop_op **slot_of(struct loop_op *op)
{
	struct posix_socket *s = posix_socket(op->socket);

	return op->kind == ENGINE_RECV || op->kind == ENGINE_ACCEPT ? &s->in
								    : &s->out;
}

/* The next wait() tries op. */
static void start(struct threads_loop *t, struct loop_op *op)
{
	if (op->flags & IN_STARTED_LIST)
		return;
	op->flags |= IN_STARTED_LIST;
	op->next = NULL;
	*t->started_tail = op;
	t->started_tail = &op->next;
}

static void try_started(struct threads_loop *t)
{
	struct loop_op *op = t->started;

	t->started = NULL;
	t->started_tail = &t->started;
	while (op) {
		struct loop_op *next = op->next;
		struct posix_socket *s = posix_socket(op->socket);

		op->flags &= ~IN_STARTED_LIST;
		if (!s->watched)
			watch(t, s);
		try_op(slot_of(op));
		op = next;
	}
}

static void threads_submit(struct loop *l, struct loop_op *op)
{
	switch ((enum engine_op_kind)op->kind) {
	case ENGINE_READ:
	case ENGINE_WRITE:
	case ENGINE_WRITE_DURABLE:
		pool_submit(l, op);
		return;
	case ENGINE_CONNECT:
	case ENGINE_ACCEPT:
	case ENGINE_RECV:
	case ENGINE_SEND:
		ASSERT(!*slot_of(op));
		*slot_of(op) = op;
		op->flags = 0;
		start(threads_loop(l), op);
		return;
	}
}

static void threads_write_now(struct loop *l, struct loop_op *op)
{
	try_started(threads_loop(l));
	posix_net_ready(op, posix_write_op(op));
}

/* What waits for an edge is tried once more, and then finds the end: not
 * every state of a socket has an edge to give. */
static void threads_shutdown(struct loop_socket *base)
{
	struct threads_loop *t = threads_loop(base->loop);
	struct posix_socket *s = posix_socket(base);

	posix_net_shutdown(base);
	if (s->in)
		start(t, s->in);
	if (s->out)
		start(t, s->out);
}

/* ---- waiting ---- */

static int timeout_ms(uint64_t timeout_ns)
{
	if (timeout_ns == UINT64_MAX)
		return -1;
	return (int)base_min(timeout_ns / 1000000u + !!(timeout_ns % 1000000u),
			     INT32_MAX);
}

static void handle_event(struct loop *l, const struct epoll_event *event)
{
	struct posix_socket *s = event->data.ptr;

	if (!s) {
		wake_fd_clear(threads_loop(l));
		pool_reap(l);
		return;
	}
	if (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		try_op(&s->in);
	if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		try_op(&s->out);
}

/* No callback runs before the events are handled: one could free the socket
 * that a later event is about. */
static void threads_wait(struct loop *l, uint64_t timeout_ns)
{
	struct threads_loop *t = threads_loop(l);
	struct epoll_event events[EVENT_BATCH];
	bool announced = timeout_ns;
	int count;

	try_started(t);
	if (posix_net_has_ready(l))
		timeout_ns = 0;
	count = epoll_wait(t->epoll_fd, events, EVENT_BATCH,
			   timeout_ms(timeout_ns));
	ASSERT(count >= 0 || errno == EINTR);
	if (announced)
		loop_woke(l);
	for (int i = 0; i < count; i++)
		handle_event(l, &events[i]);
	posix_net_run_ready(l);
}

static void threads_wake(struct loop *l)
{
	wake_fd_write(threads_loop(l));
}

/* ---- life ---- */

static void threads_quiesce(struct loop *l)
{
	struct threads_io *io = threads_io(l->io);
	struct threads_loop *t = threads_loop(l);
	struct pollfd poll_fd = {.fd = t->wake_fd, .events = POLLIN};

	t->started = NULL;
	t->started_tail = &t->started;
	posix_net_quiesce(l);
	while (t->disk_ops) {
		(void)pool_take(l);
		if (!t->disk_ops)
			break;
		(void)poll(&poll_fd, 1, -1);
		wake_fd_clear(t);
	}
	pthread_mutex_lock(&io->lock);
	while (t->announcers) {
		pthread_mutex_unlock(&io->lock);
		sched_yield();
		pthread_mutex_lock(&io->lock);
	}
	pthread_mutex_unlock(&io->lock);
	l->in_flight = 0;
}

static int threads_loop_init(struct loop *l)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	struct threads_loop *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->started_tail = &t->started;
	t->finished_tail = &t->finished;
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (t->wake_fd < 0 || t->epoll_fd < 0 ||
	    epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->wake_fd, &event)) {
		r = -errno;
		goto fail;
	}
	posix_net_loop_init(l, &t->posix, SOCK_NONBLOCK, threads_quiesce);
	return 0;
fail:
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	free(t);
	return r;
}

static void threads_loop_fini(struct loop *l)
{
	struct threads_loop *t = threads_loop(l);

	posix_net_loop_fini(l);
	close(t->epoll_fd);
	close(t->wake_fd);
	free(t);
}

/* Also ends a pool that was made halfway. */
static void threads_free(struct io *base)
{
	struct threads_io *io = threads_io(base);

	pthread_mutex_lock(&io->lock);
	io->stopping = true;
	pthread_cond_broadcast(&io->more);
	pthread_mutex_unlock(&io->lock);
	while (io->thread_count)
		pthread_join(io->threads[--io->thread_count], NULL);
	ASSERT(!io->queue);
	pthread_cond_destroy(&io->more);
	pthread_mutex_destroy(&io->lock);
	free(io);
}

static const struct engine_ops threads_ops = {
	POSIX_FILE_OPS,
	.name = "threads",
	.free = threads_free,
	.loop_init = threads_loop_init,
	.loop_fini = threads_loop_fini,
	.loop_start = posix_net_loop_start,
	.loop_join = posix_net_loop_join,
	.submit = threads_submit,
	.write_now = threads_write_now,
	.wait = threads_wait,
	.wake = threads_wake,
	.listen = posix_net_listen,
	.adopt = posix_net_adopt,
	.refuse = posix_net_refuse,
	.connect = posix_net_connect,
	.socket_shutdown = threads_shutdown,
	.socket_close = posix_net_close,
};

int threads_create(struct io **ret)
{
	struct threads_io *io = calloc(1, sizeof(*io));
	int r = 0;

	if (!io)
		return -ENOMEM;
	io->io.ops = &threads_ops;
	io->queue_tail = &io->queue;
	pthread_mutex_init(&io->lock, NULL);
	pthread_cond_init(&io->more, NULL);
	while (!r && io->thread_count < POOL_THREADS) {
		r = posix_thread(&io->threads[io->thread_count], "disk",
				 pool_main, io);
		io->thread_count += !r;
	}
	if (r) {
		threads_free(&io->io);
		return r;
	}
	*ret = &io->io;
	return 0;
}
