/* base/loop.c: what every implementation of the I/O seam shares.
 *
 * Mail is a Treiber stack: a sender pushes, the owner takes everything with
 * one exchange and turns it round.  Nothing is ever popped singly, so there
 * is no ABA.  A sleeping loop is woken by exactly one sender: the loop
 * announces its sleep, then looks at the mailbox once more; a sender pushes,
 * then looks at the announcement.  Both are sequentially consistent, so one
 * of them sees the other.
 *
 * Polling.  To be woken costs tens of microseconds where processors sleep when
 * they are idle, and so does waking.  So a loop whose last waits were short
 * looks for work for a while before it sleeps.  It offers its processor to
 * others all the time: when one of them takes it for long, polling costs more
 * than it brings and stops for POLL_REST_NS. */
#include <sched.h>
#include <string.h>

#include "base/engine.h"

#define POLL_AFTER 3	       /* short waits in a row */
#define POLL_SPIN 16	       /* looks between two offers */
#define POLL_TAKEN_NS 50000ull /* somebody else had the processor */
#define POLL_REST_NS 5000000ull
#define OWED_NS 10000000ull
#define MAIL_BUDGET 1024 /* deliveries in one iteration */

/* The loop whose callbacks run on this thread. */
static _Thread_local struct loop *current;

int loop_create(struct io *io, const char *name, struct loop **ret)
{
	struct loop *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->io = io;
	snprintf(l->name, sizeof(l->name), "%.15s", name);
	l->tasks_tail = &l->tasks;
	l->mail_tail = &l->mail;
	l->task_turn = 1;
	loop_woke(l);
	r = io->ops->loop_init(l);
	if (r) {
		free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	ASSERT(!atomic_load(&l->started));
	l->io->ops->loop_fini(l);
	free(l->timers);
	free(l);
}

int loop_start(struct loop *l, void (*init)(void *ctx), void *ctx)
{
	int r;

	ASSERT(!atomic_load(&l->started));
	l->init = init;
	l->init_ctx = ctx;
	atomic_store(&l->started, true);
	r = l->io->ops->loop_start(l);
	if (r)
		atomic_store(&l->started, false);
	return r;
}

/* Push done by the caller; see the argument at the top. */
static void wake_if_sleeping(struct loop *l)
{
	if (atomic_load(&l->sleeping) && atomic_exchange(&l->sleeping, false))
		l->io->ops->wake(l);
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stopping, true);
	wake_if_sleeping(l);
}

void loop_join(struct loop *l)
{
	if (!atomic_load(&l->started))
		return;
	ASSERT(current != l);
	l->io->ops->loop_join(l);
	atomic_store(&l->started, false);
}

static void pay_owed(struct loop *l)
{
	while (l->owed_count)
		wake_if_sleeping(l->owed[--l->owed_count]);
}

void loop_run(struct loop *l)
{
	struct loop *outer = current;
	bool was_started = atomic_exchange(&l->started, true);

	current = l;
	do
		loop_iterate(l, true);
	while (!atomic_exchange(&l->stopping, false));
	pay_owed(l);
	current = outer;
	if (!was_started)
		atomic_store(&l->started, false);
}

void loop_thread_main(struct loop *l)
{
	current = l;
	loop_woke(l);
	if (l->init)
		l->init(l->init_ctx);
	loop_run(l);
	current = NULL;
}

struct io *loop_io(struct loop *l)
{
	return l->io;
}

void loop_set_poll(struct loop *l, uint64_t ns)
{
	ASSERT(!atomic_load(&l->started));
	l->poll_max_ns = l->io->ops->has_completions ? ns : 0;
}

const char *loop_name(const struct loop *l)
{
	return l->name;
}

int loop_is_current(const struct loop *l)
{
	if (current == l)
		return 1;
	if (!atomic_load_explicit(&l->started, memory_order_relaxed))
		return 1;
	/* The simulator's loops have no thread of their own: outside every
	 * iteration it is the scheduler or the test that speaks. */
	return !l->has_thread && !current;
}

uint64_t loop_now_ns(struct loop *l)
{
	if (current != l)
		l->now_ns = l->io->ops->now_ns(l->io);
	return l->now_ns;
}

uint64_t loop_wall_ms(struct loop *l)
{
	if (current != l)
		l->wall_ms = l->io->ops->wall_ms(l->io);
	return l->wall_ms;
}

uint64_t loop_heartbeat_ns(const struct loop *l, int *ret_waiting)
{
	/* In this order: a loop that was just woken is seen with its new
	 * heartbeat, never as running with the one from before its sleep. */
	*ret_waiting = atomic_load(&l->waiting);
	return atomic_load(&l->heartbeat_ns);
}

/* ---- deferred work ---- */

void loop_defer(struct loop *l, struct loop_task *task)
{
	ASSERT(loop_is_current(l));
	if (task->queued)
		return;
	task->queued = l->task_turn;
	task->next = NULL;
	*l->tasks_tail = task;
	l->tasks_tail = &task->next;
}

void loop_undefer(struct loop *l, struct loop_task *task)
{
	struct loop_task **at = &l->tasks;

	ASSERT(loop_is_current(l));
	if (!task->queued)
		return;
	while (*at != task)
		at = &(*at)->next;
	*at = task->next;
	if (!*at)
		l->tasks_tail = at;
	task->queued = 0;
}

/* The tasks that are queued now, and not those that they queue: those carry
 * the other turn's number and wait for the next iteration. */
static void run_tasks(struct loop *l)
{
	int turn = l->task_turn;

	l->task_turn = 3 - turn;
	while (l->tasks && l->tasks->queued == turn) {
		struct loop_task *task = l->tasks;

		loop_undefer(l, task);
		task->run(task);
	}
}

/* ---- mail ---- */

static void mailbox_push(struct loop *to, struct loop_mail *first,
			 struct loop_mail *last)
{
	struct loop_mail *newest = NULL, *mail = first, *head;

	/* The mailbox is newest first, so the chain goes in backwards; its
	 * first element is then the one that points at what was there. */
	last->next = NULL;
	while (mail) {
		struct loop_mail *next = mail->next;

		mail->next = newest;
		newest = mail;
		mail = next;
	}
	ASSERT(newest == last);
	head = atomic_load_explicit(&to->mailbox, memory_order_relaxed);
	do
		first->next = head;
	while (!atomic_compare_exchange_weak(&to->mailbox, &head, newest));
}

void loop_post_chain(struct loop *to, struct loop_mail *first,
		     struct loop_mail *last)
{
	mailbox_push(to, first, last);
	wake_if_sleeping(to);
}

void loop_post(struct loop *to, struct loop_mail *mail)
{
	loop_post_chain(to, mail, mail);
}

void loop_post_patiently(struct loop *to, struct loop_mail *mail)
{
	struct loop *l = current;

	if (!l || to == l) {
		loop_post(to, mail);
		return;
	}
	mailbox_push(to, mail, mail);
	for (unsigned i = 0; i < l->owed_count; i++)
		if (l->owed[i] == to)
			return;
	if (l->owed_count == LOOP_OWED_MAX)
		pay_owed(l);
	if (!l->owed_count)
		l->owed_since_ns = l->now_ns;
	l->owed[l->owed_count++] = to;
}

static void take_mail(struct loop *l)
{
	struct loop_mail *mail, *oldest = NULL, *newest;

	if (!atomic_load_explicit(&l->mailbox, memory_order_relaxed))
		return;
	newest = mail = atomic_exchange(&l->mailbox, NULL);
	while (mail) {
		struct loop_mail *next = mail->next;

		mail->next = oldest;
		oldest = mail;
		mail = next;
	}
	*l->mail_tail = oldest;
	l->mail_tail = &newest->next;
}

static void deliver_mail(struct loop *l)
{
	take_mail(l);
	for (int i = 0; l->mail && i < MAIL_BUDGET; i++) {
		struct loop_mail *mail = l->mail;

		l->mail = mail->next;
		if (!l->mail)
			l->mail_tail = &l->mail;
		mail->deliver(mail);
	}
}

/* ---- timers: a binary heap ---- */

static void heap_put(struct loop *l, size_t i, struct loop_timer *t)
{
	l->timers[i] = t;
	t->heap_index = i;
}

static void heap_up(struct loop *l, size_t i, struct loop_timer *t)
{
	while (i > 1 && t->due_ns < l->timers[i / 2]->due_ns) {
		heap_put(l, i, l->timers[i / 2]);
		i /= 2;
	}
	heap_put(l, i, t);
}

static void heap_down(struct loop *l, size_t i, struct loop_timer *t)
{
	for (;;) {
		size_t child = i * 2;

		if (child > l->timer_count)
			break;
		if (child < l->timer_count &&
		    l->timers[child + 1]->due_ns < l->timers[child]->due_ns)
			child++;
		if (t->due_ns <= l->timers[child]->due_ns)
			break;
		heap_put(l, i, l->timers[child]);
		i = child;
	}
	heap_put(l, i, t);
}

void loop_timer_cancel(struct loop *l, struct loop_timer *t)
{
	size_t i = t->heap_index;
	struct loop_timer *moved;

	ASSERT(loop_is_current(l));
	if (!i)
		return;
	ASSERT(i <= l->timer_count && l->timers[i] == t);
	t->heap_index = 0;
	moved = l->timers[l->timer_count--];
	if (moved == t)
		return;
	if (i > 1 && moved->due_ns < l->timers[i / 2]->due_ns)
		heap_up(l, i, moved);
	else
		heap_down(l, i, moved);
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t after_ns)
{
	uint64_t now_ns = loop_now_ns(l);

	loop_timer_cancel(l, t);
	t->due_ns = now_ns + base_min(after_ns, UINT64_MAX - 1 - now_ns);
	if (l->timer_count + 1 >= l->timer_capacity) {
		size_t capacity =
			l->timer_capacity ? l->timer_capacity * 2 : 64;
		struct loop_timer **grown = realloc(
			l->timers, capacity * sizeof(struct loop_timer *));

		/* Eight bytes for each connection: when that is not to be
		 * had, nothing else is. */
		ASSERT(grown);
		l->timers = grown;
		l->timer_capacity = capacity;
	}
	heap_up(l, ++l->timer_count, t);
}

uint64_t loop_next_timer_ns(const struct loop *l)
{
	return l->timer_count ? l->timers[1]->due_ns : UINT64_MAX;
}

/* At most as many as were armed before: a timer that arms itself again for
 * now must not keep the others, and the I/O, waiting. */
static void fire_timers(struct loop *l)
{
	size_t budget = l->timer_count;

	while (budget-- && l->timer_count &&
	       l->timers[1]->due_ns <= l->now_ns) {
		struct loop_timer *t = l->timers[1];

		loop_timer_cancel(l, t);
		t->fire(t);
	}
}

/* ---- iterations ---- */

void loop_woke(struct loop *l)
{
	l->now_ns = l->io->ops->now_ns(l->io);
	l->wall_ms = l->io->ops->wall_ms(l->io);
	atomic_store_explicit(&l->heartbeat_ns, l->now_ns,
			      memory_order_release);
	atomic_store_explicit(&l->waiting, false, memory_order_release);
	atomic_store_explicit(&l->sleeping, false, memory_order_release);
}

bool loop_has_work(struct loop *l)
{
	return l->mail || l->tasks || atomic_load(&l->mailbox) ||
	       (l->timer_count &&
		l->timers[1]->due_ns <= l->io->ops->now_ns(l->io));
}

/* ---- polling ---- */

static bool has_news(struct loop *l)
{
	return atomic_load_explicit(&l->mailbox, memory_order_relaxed) ||
	       l->io->ops->has_completions(l) ||
	       atomic_load_explicit(&l->stopping, memory_order_relaxed);
}

/* True: there is something to do. */
static bool poll_until(struct loop *l, uint64_t begun_ns, uint64_t until_ns)
{
	uint64_t last_ns = begun_ns, now_ns;

	for (;;) {
		for (int i = 0; i < POLL_SPIN; i++) {
			if (has_news(l))
				return true;
			base_cpu_relax();
		}
		sched_yield();
		now_ns = l->io->ops->now_ns(l->io);
		if (now_ns - last_ns > POLL_TAKEN_NS) {
			l->poll_rest_until_ns = now_ns + POLL_REST_NS;
			l->short_waits = 0;
			return has_news(l);
		}
		if (now_ns >= until_ns)
			break;
		last_ns = now_ns;
	}
	l->short_waits = 0;
	return false;
}

/* True: there is something to do, and no need to block. */
static bool poll_first(struct loop *l)
{
	uint64_t now_ns, until_ns;

	if (l->short_waits < POLL_AFTER || loop_has_work(l))
		return false;
	if (l->io->ops->submit_now(l))
		return true;
	now_ns = l->io->ops->now_ns(l->io);
	until_ns = base_min(now_ns + l->poll_max_ns, loop_next_timer_ns(l));
	return poll_until(l, now_ns, until_ns);
}

/* A wait that began at begun_ns is over. */
static void poll_learn(struct loop *l, uint64_t begun_ns)
{
	if (l->now_ns - begun_ns > l->poll_max_ns)
		l->short_waits = 0;
	else if (l->now_ns >= l->poll_rest_until_ns)
		l->short_waits++;
}

/* How long wait() may block.  When it is not zero the loop is announced as
 * sleeping, and every post from then on wakes it. */
static uint64_t prepare_sleep(struct loop *l)
{
	uint64_t now_ns, due_ns = loop_next_timer_ns(l);

	if (l->ready || loop_has_work(l))
		return 0;
	if (l->owed_count)
		due_ns = base_min(due_ns, l->owed_since_ns + OWED_NS);
	atomic_store(&l->waiting, true);
	atomic_store(&l->sleeping, true);
	if (atomic_load(&l->mailbox) || atomic_load(&l->stopping))
		return 0;
	if (due_ns == UINT64_MAX)
		return UINT64_MAX;
	now_ns = l->io->ops->now_ns(l->io);
	return due_ns > now_ns ? due_ns - now_ns : 0;
}

/* Last, when everything else of this iteration has been started. */
static void write_now(struct loop *l)
{
	struct loop_op *op;

	while ((op = l->writes)) {
		l->writes = op->next;
		atomic_store(&l->waiting, true);
		l->io->ops->write_now(l, op);
		loop_woke(l);
	}
}

void loop_iterate(struct loop *l, bool may_wait)
{
	struct loop *outer = current;
	uint64_t timeout_ns = 0, begun_ns = 0;

	current = l;
	if (may_wait && !(l->poll_max_ns && poll_first(l))) {
		timeout_ns = prepare_sleep(l);
		if (l->poll_max_ns)
			begun_ns = l->io->ops->now_ns(l->io);
	}
	if (!timeout_ns)
		loop_woke(l);
	l->io->ops->wait(l, timeout_ns);
	if (timeout_ns && l->poll_max_ns)
		poll_learn(l, begun_ns);
	/* The simulator's wait() does not block, and leaves this to us. */
	if (atomic_load_explicit(&l->waiting, memory_order_relaxed))
		loop_woke(l);
	deliver_mail(l);
	fire_timers(l);
	run_tasks(l);
	write_now(l);
	if (l->owed_count && l->now_ns - l->owed_since_ns >= OWED_NS)
		pay_owed(l);
	current = outer;
}

void loop_step_out(void (*run)(void *ctx), void *ctx)
{
	struct loop *outer = current;

	current = NULL;
	run(ctx);
	current = outer;
}

/* ---- operations ---- */

static void op_init(struct loop *l, struct loop_op *op,
		    enum engine_op_kind kind)
{
	ASSERT(loop_is_current(l));
	op->loop = l;
	op->kind = (int)kind;
	op->next = NULL;
	op->progress = 0;
	op->res = 0;
	op->flags = 0;
	op->len = 0;
	op->buf = NULL;
	op->offset = 0;
	l->in_flight++;
}

void loop_complete(struct loop_op *op, int res)
{
	ASSERT(op->loop->in_flight);
	op->loop->in_flight--;
	op->done(op, res);
}

static void disk_op_init(struct loop *l, struct loop_op *op,
			 struct io_file *file, void *buf, size_t len,
			 uint64_t offset, enum engine_op_kind kind)
{
	ASSERT(len <= INT32_MAX);
	ASSERT(!file->direct || !((uintptr_t)buf % IO_BLOCK || len % IO_BLOCK ||
				  offset % IO_BLOCK));
	op_init(l, op, kind);
	op->file = file;
	op->fd = file->fd;
	op->buf = buf;
	op->len = len;
	op->offset = offset;
}

static void disk_op(struct loop *l, struct loop_op *op, struct io_file *file,
		    void *buf, size_t len, uint64_t offset,
		    enum engine_op_kind kind)
{
	disk_op_init(l, op, file, buf, len, offset, kind);
	l->io->ops->submit(l, op);
}

/* The op holds one pointer for both directions; a write only reads it. */
static void *unconst(const void *p)
{
	void *q;

	memcpy(&q, &p, sizeof(q));
	return q;
}

void loop_read(struct loop *l, struct loop_op *op, struct io_file *file,
	       void *buf, size_t len, uint64_t offset)
{
	disk_op(l, op, file, buf, len, offset, ENGINE_READ);
}

void loop_write_durable(struct loop *l, struct loop_op *op,
			struct io_file *file, const void *buf, size_t len,
			uint64_t offset)
{
	disk_op(l, op, file, unconst(buf), len, offset, ENGINE_WRITE_DURABLE);
}

void loop_write_durable_now(struct loop *l, struct loop_op *op,
			    struct io_file *file, const void *buf, size_t len,
			    uint64_t offset)
{
	disk_op_init(l, op, file, unconst(buf), len, offset,
		     ENGINE_WRITE_DURABLE);
	if (current != l) {
		l->io->ops->write_now(l, op);
		return;
	}
	op->next = l->writes;
	l->writes = op;
}

void loop_write(struct loop *l, struct loop_op *op, struct io_file *file,
		const void *buf, size_t len, uint64_t offset)
{
	disk_op(l, op, file, unconst(buf), len, offset, ENGINE_WRITE);
}

static void socket_op(struct loop *l, struct loop_op *op,
		      struct loop_socket *socket, void *buf, size_t len,
		      enum engine_op_kind kind)
{
	ASSERT(socket->loop == l);
	op_init(l, op, kind);
	op->socket = socket;
	op->fd = socket->fd;
	op->buf = buf;
	op->len = base_min(len, INT32_MAX);
	l->io->ops->submit(l, op);
}

void loop_accept(struct loop *l, struct loop_op *op,
		 struct loop_socket *listener)
{
	socket_op(l, op, listener, NULL, 0, ENGINE_ACCEPT);
}

void loop_recv(struct loop *l, struct loop_op *op, struct loop_socket *socket,
	       void *buf, size_t len)
{
	socket_op(l, op, socket, buf, len, ENGINE_RECV);
}

void loop_send(struct loop *l, struct loop_op *op, struct loop_socket *socket,
	       const void *buf, size_t len)
{
	socket_op(l, op, socket, unconst(buf), len, ENGINE_SEND);
}

int loop_connect(struct loop *l, struct loop_op *op, const char *address,
		 uint16_t port, struct loop_socket **ret)
{
	int r;

	op_init(l, op, ENGINE_CONNECT);
	r = l->io->ops->connect(l, op, address, port, ret);
	if (r)
		l->in_flight--;
	return r;
}

int loop_listen(struct loop *l, const char *address, uint16_t port,
		struct loop_socket **ret)
{
	ASSERT(loop_is_current(l));
	return l->io->ops->listen(l, address, port, ret);
}

int loop_adopt(struct loop *l, int token, struct loop_socket **ret)
{
	ASSERT(loop_is_current(l));
	return l->io->ops->adopt(l, token, ret);
}

void loop_refuse(struct loop *l, int token)
{
	l->io->ops->refuse(l, token);
}

uint16_t loop_socket_port(const struct loop_socket *s)
{
	return s->port;
}

const char *loop_socket_peer(const struct loop_socket *s)
{
	return s->peer;
}

int loop_socket_peer_is_loopback(const struct loop_socket *s)
{
	return s->peer_is_loopback;
}

/* A socket whose loop was freed has nothing left to stop, and is only memory.
 */
void loop_socket_shutdown(struct loop_socket *s)
{
	if (!s->loop)
		return;
	ASSERT(loop_is_current(s->loop));
	s->loop->io->ops->socket_shutdown(s);
}

void loop_socket_close(struct loop_socket *s)
{
	if (!s)
		return;
	if (!s->loop) {
		free(s);
		return;
	}
	ASSERT(loop_is_current(s->loop));
	s->loop->io->ops->socket_close(s);
}
