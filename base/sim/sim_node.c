/* base/sim/sim_node.c: the life of nodes, their loops and what is in flight.
 *
 * An operation is in exactly one place: in flight (its event scheduled, or
 * parked at a socket), held by a stalled node, or ready for its loop.  A node
 * that dies empties all three at once and takes the pending mail, timers and
 * tasks out of its loops, so that an iteration that is under way ends with
 * the callback that it is in. */
#include <string.h>

#include "base/sim/world.h"

static struct sim_node *node_of(struct io *io)
{
	return container_of(io, struct sim_node, io);
}

static uint64_t node_now_ns(struct io *io)
{
	return node_of(io)->sim->now_ns;
}

static uint64_t node_wall_ms(struct io *io)
{
	struct sim_node *n = node_of(io);

	return n->sim->config.wall_start_ms + n->sim->now_ns / 1000000 +
	       (uint64_t)n->wall_skew_ms;
}

static void node_random(struct io *io, void *buf, size_t len)
{
	sim_rng_fill(&node_of(io)->sim->app, buf, len);
}

static void node_submit(struct loop *l, struct loop_op *op)
{
	switch ((enum engine_op_kind)op->kind) {
	case ENGINE_READ:
	case ENGINE_WRITE:
	case ENGINE_WRITE_DURABLE:
		sim_file_submit(l, op);
		return;
	case ENGINE_ACCEPT:
	case ENGINE_RECV:
	case ENGINE_SEND:
		sim_net_submit(l, op);
		return;
	case ENGINE_CONNECT: /* comes by sim_net_connect() */
		break;
	}
	ASSERT(!"an operation of unknown kind");
}

static void node_pause(struct io *io, uint64_t ns);

static const struct engine_ops node_ops = {
	.name = "sim",
	.free = sim_node_free,
	.now_ns = node_now_ns,
	.wall_ms = node_wall_ms,
	.pause = node_pause,
	.random = node_random,
	.open = sim_file_open,
	.close = sim_file_close,
	.read = sim_file_read,
	.write = sim_file_write,
	.sync = sim_file_sync,
	.size = sim_file_size,
	.allocate = sim_file_allocate,
	.truncate = sim_file_truncate,
	.lock = sim_file_lock,
	.mkdir = sim_file_mkdir,
	.sync_dir = sim_file_sync_dir,
	.rename = sim_file_rename,
	.unlink = sim_file_unlink,
	.list = sim_file_list,
	.fs_info = sim_file_fs_info,
	.loop_init = sim_node_loop_init,
	.loop_fini = sim_node_loop_fini,
	.loop_start = sim_node_loop_start,
	.loop_join = sim_node_loop_join,
	.submit = node_submit,
	.write_now = node_submit, /* whatever a thread that waits may see */
	.wait = sim_node_loop_wait,
	.wake = sim_node_loop_wake,
	.listen = sim_net_listen,
	.adopt = sim_net_adopt,
	.refuse = sim_net_refuse,
	.connect = sim_net_connect,
	.socket_shutdown = sim_net_shutdown,
	.socket_close = sim_net_close,
};

/* ---- nodes ---- */

struct io *sim_node_create(struct sim *sim, const char *name, unsigned disk)
{
	struct sim_node *n = sim_alloc_zeroed(sizeof(*n));

	n->io.ops = &node_ops;
	n->sim = sim;
	n->disk = sim_disk(sim, disk);
	n->id = ++sim->serial;
	snprintf(n->name, sizeof(n->name), "%.15s", name);
	list_init(&n->loops);
	list_init(&n->files);
	list_init(&n->sockets);
	list_init(&n->held);
	list_push(&sim->nodes, &n->link);
	sim_trace_event(sim, "start", n->id, disk, 0, 0);
	return &n->io;
}

struct sim_node *sim_node(struct io *io)
{
	ASSERT(io->ops == &node_ops);
	return node_of(io);
}

void sim_node_free(struct io *io)
{
	struct sim_node *n = node_of(io);

	ASSERT(list_empty(&n->loops));
	while (!list_empty(&n->files))
		sim_file_close(&list_entry(n->files.next, struct sim_file, link)
					->file);
	while (!list_empty(&n->sockets))
		sim_net_close(
			&list_entry(n->sockets.next, struct sim_socket, link)
				 ->socket);
	list_remove(&n->link);
	sim_alloc_free(n);
}

bool sim_is_dead(const struct sim_node *n)
{
	return n->dead;
}

void sim_wall_step(struct sim_node *n, int64_t ms)
{
	n->wall_skew_ms += ms;
}

void sim_net_cut(struct sim_node *n, bool cut)
{
	n->net_cut = cut;
	sim_trace_event(n->sim, "net-cut", n->id, cut, 0, 0);
}

static unsigned count(const struct list *l)
{
	unsigned n = 0;

	list_for_each(at, l)
		n++;
	return n;
}

unsigned sim_open_files(const struct sim_node *n)
{
	return count(&n->files);
}

unsigned sim_open_sockets(const struct sim_node *n)
{
	return count(&n->sockets);
}

void sim_pause(struct sim_node *n, bool stall_io)
{
	n->paused = true;
	n->stalled = stall_io;
	sim_trace_event(n->sim, "pause", n->id, stall_io, 0, 0);
}

void sim_resume(struct sim_node *n)
{
	struct list *at;

	n->paused = n->stalled = false;
	sim_trace_event(n->sim, "resume", n->id, 0, 0, 0);
	while ((at = list_pop(&n->held))) {
		struct sim_op *op = list_entry(at, struct sim_op, link);

		op->held = false;
		list_push(&op->loop->ops, &op->link);
		sim_node_disk_latency(n, &op->event);
	}
}

/* What is left of a process at its last moment: everything that a later
 * callback of it could come from. */
static void empty_loop(struct loop *l)
{
	while (l->tasks) {
		struct loop_task *task = l->tasks;

		l->tasks = task->next;
		task->queued = 0;
	}
	l->tasks_tail = &l->tasks;
	while (l->timer_count)
		l->timers[l->timer_count--]->heap_index = 0;
	l->mail = NULL;
	l->mail_tail = &l->mail;
	atomic_store(&l->mailbox, NULL);
	/* For a caller of loop_run(), and so that nobody need join it. */
	atomic_store(&l->stopping, true);
	atomic_store(&l->started, false);
}

static void drop_ops(struct sim_node *n, struct list *ops, bool cut)
{
	while (!list_empty(ops)) {
		struct sim_op *op = list_entry(ops->next, struct sim_op, link);

		/* A power cut has already decided about the writes. */
		if (!cut && op->write.data && ops != &op->loop->ready)
			sim_disk_abandon(n, &op->write);
		sim_op_free(op);
	}
}

void sim_node_die(struct sim_node *n, bool cut)
{
	if (n->dead)
		return;
	n->dead = true;
	sim_trace_event(n->sim, cut ? "cut" : "kill", n->id, 0, 0, 0);
	drop_ops(n, &n->held, cut);
	list_for_each(at, &n->loops) {
		struct sim_loop *l = list_entry(at, struct sim_loop, node_link);

		drop_ops(n, &l->ops, cut);
		drop_ops(n, &l->ready, cut);
		l->loop->in_flight = 0;
		l->started = false;
		list_remove(&l->link);
		empty_loop(l->loop);
	}
	list_for_each(at, &n->files) {
		struct sim_file *f = list_entry(at, struct sim_file, link);

		if (f->lock && cut)
			sim_disk_lock_drop(f->lock);
		else if (f->lock)
			sim_disk_lock_linger(f->lock);
	}
	sim_net_die(n);
}

void sim_kill(struct sim_node *n)
{
	sim_node_die(n, false);
}

void sim_drop_locks(struct sim_node *n)
{
	list_for_each(at, &n->files) {
		struct sim_file *f = list_entry(at, struct sim_file, link);

		if (f->lock)
			sim_disk_lock_drop(f->lock);
	}
}

/* ---- time that a node spends ---- */

static uint64_t disk_latency(struct sim_node *n)
{
	struct sim_config *c = &n->sim->config;
	struct sim_disk *d = n->disk;
	uint64_t ns = sim_rng_between(&n->sim->schedule, c->disk_ns_min,
				      c->disk_ns_max);

	if (sim_rng_chance(&n->sim->fault, c->slow_ppm))
		ns += sim_rng_below(&n->sim->fault, c->slow_ns_max);
	if (d->fault_at[SIM_FAULT_SLOW] &&
	    d->mutations + 1 >= d->fault_at[SIM_FAULT_SLOW]) {
		d->fault_at[SIM_FAULT_SLOW] = 0;
		d->stats.slow++;
		ns += c->slow_ns_max;
	}
	return ns;
}

void sim_node_disk_latency(struct sim_node *n, struct sim_event *e)
{
	sim_schedule(n->sim, e, disk_latency(n));
}

/* A blocking call waits; the others go on meanwhile, or stand still. */
static void wait_blocked(struct sim_node *n, uint64_t ns)
{
	struct sim *sim = n->sim;

	if (sim->depth < SIM_INTERLEAVE_DEPTH_MAX &&
	    sim_rng_chance(&sim->schedule, sim->config.interleave_ppm)) {
		sim->depth++;
		sim_run_for(sim, ns);
		sim->depth--;
		return;
	}
	sim->now_ns += ns;
	sim_fire_due(sim);
}

int sim_node_block(struct sim_node *n)
{
	if (n->dead)
		return -EIO;
	wait_blocked(n, disk_latency(n));
	if (!n->dead)
		sim_disk_about(n);
	return n->dead ? -EIO : 0;
}

static void node_pause(struct io *io, uint64_t ns)
{
	struct sim_node *n = node_of(io);

	if (n->dead)
		return;
	wait_blocked(n, ns);
}

/* ---- operations ---- */

static struct sim_loop *loop_of(struct loop *l)
{
	return l->engine;
}

struct sim_op *sim_op_start(struct loop *loop, struct loop_op *lop,
			    void (*fire)(struct sim_event *))
{
	struct sim_loop *l = loop_of(loop);
	struct list *pooled;
	struct sim_op *op;

	/* The dead may submit in their last callback; nothing comes of it. */
	if (l->node->dead)
		return NULL;
	pooled = list_pop(&l->node->sim->op_pool);
	op = pooled ? list_entry(pooled, struct sim_op, link)
		    : sim_alloc_zeroed(sizeof(*op));
	memset(op, 0, sizeof(*op));
	op->event.fire = fire;
	op->op = lop;
	op->loop = l;
	list_init(&op->write.link);
	list_push(&l->ops, &op->link);
	return op;
}

void sim_op_finish(struct sim_op *op, int res)
{
	struct sim_loop *l = op->loop;

	op->res = res;
	list_remove(&op->link);
	/* Completions overtake one another. */
	if (sim_rng_next(&l->node->sim->schedule) & 1)
		list_push(&l->ready, &op->link);
	else
		list_push_front(&l->ready, &op->link);
}

void sim_op_free(struct sim_op *op)
{
	struct sim *sim = op->loop->node->sim;

	sim_unschedule(sim, &op->event);
	if (op->socket)
		sim_net_forget(op);
	list_remove(&op->write.link);
	if (op->write.inode)
		sim_inode_release(op->write.inode);
	list_remove(&op->link);
	/* Nobody may be given it while its event is under way. */
	if (!op->firing)
		list_push(&sim->op_pool, &op->link);
}

bool sim_op_about(struct sim_op *op)
{
	struct sim_node *n = op->loop->node;

	/* Only when it is resumed. */
	if (n->stalled)
		return true;
	op->firing = true;
	sim_disk_about(n);
	op->firing = false;
	if (n->dead)
		list_push(&n->sim->op_pool, &op->link);
	return !n->dead;
}

bool sim_op_hold(struct sim_op *op)
{
	if (!op->loop->node->stalled)
		return false;
	op->held = true;
	list_remove(&op->link);
	list_push(&op->loop->node->held, &op->link);
	return true;
}

/* ---- loops ---- */

int sim_node_loop_init(struct loop *loop)
{
	struct sim_node *n = node_of(loop->io);
	struct sim_loop *l;

	if (n->dead)
		return -EIO;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->loop = loop;
	l->node = n;
	l->id = ++n->sim->serial;
	list_init(&l->link);
	list_init(&l->ops);
	list_init(&l->ready);
	list_push(&n->loops, &l->node_link);
	loop->engine = l;
	return 0;
}

/* Its thread has ended: what is still in flight has no callback any more. */
static void give_up(struct sim_loop *l)
{
	struct sim_node *n = l->node;

	list_for_each_safe(at, &n->held) {
		struct sim_op *op = list_entry(at, struct sim_op, link);

		if (op->loop != l)
			continue;
		list_remove(&op->link);
		list_push(&l->ops, &op->link);
	}
	drop_ops(n, &l->ops, n->dead);
	drop_ops(n, &l->ready, n->dead);
	l->loop->in_flight = 0;
}

void sim_node_loop_fini(struct loop *loop)
{
	struct sim_loop *l = loop_of(loop);
	struct sim_node *n = l->node;

	ASSERT(!l->running);
	give_up(l);
	list_for_each_safe(at, &n->sockets) {
		struct sim_socket *s = list_entry(at, struct sim_socket, link);

		/* What is left of it is freed by loop_socket_close(). */
		if (s->socket.loop == loop)
			sim_net_orphan(s);
	}
	list_remove(&l->link);
	list_remove(&l->node_link);
	free(l);
}

int sim_node_loop_start(struct loop *loop)
{
	struct sim_loop *l = loop_of(loop);

	if (l->node->dead)
		return -EIO;
	l->started = true;
	l->initialised = false;
	list_push(&l->node->sim->loops, &l->link);
	return 0;
}

bool sim_node_loop_runnable(struct sim_loop *l)
{
	return !l->initialised || !list_empty(&l->ready) ||
	       atomic_load(&l->loop->stopping) || loop_has_work(l->loop);
}

void sim_node_loop_iterate(struct sim_loop *l)
{
	sim_trace_event(l->node->sim, "run", l->id, 0, 0, 0);
	l->running = true;
	loop_iterate(l->loop, false);
	l->running = false;
	if (l->started && atomic_exchange(&l->loop->stopping, false)) {
		l->started = false;
		list_remove(&l->link);
		give_up(l);
	}
}

void sim_node_loop_join(struct loop *loop)
{
	struct sim_loop *l = loop_of(loop);
	struct sim *sim = l->node->sim;

	while (l->started)
		if (!sim_step(sim))
			sim_stuck(sim, "loop_join()");
}

/* Some or all of what is ready: the kernel, too, posts as it likes. */
static void complete_ready(struct sim_loop *l)
{
	struct sim *sim = l->node->sim;
	struct list *at;

	while ((at = list_pop(&l->ready))) {
		struct sim_op *op = list_entry(at, struct sim_op, link);
		struct loop_op *lop = op->op;
		int res = op->res;

		sim_trace_event(sim, "done", l->id, (uint64_t)lop->kind,
				(uint64_t)(int64_t)res, 0);
		sim_op_free(op);
		loop_complete(lop, res);
		if (!sim_rng_below(&sim->schedule, 16))
			break;
	}
}

static void alarm_fire(struct sim_event *e)
{
}

/* On a loop that the caller runs, with loop_run(): the world goes on. */
static void wait_for_world(struct sim_loop *l, uint64_t timeout_ns)
{
	struct sim *sim = l->node->sim;
	struct sim_event alarm = {.fire = alarm_fire};

	ASSERT(!l->started);
	if (timeout_ns != UINT64_MAX)
		sim_schedule(sim, &alarm, timeout_ns);
	while (!sim_node_loop_runnable(l) &&
	       (alarm.index || timeout_ns == UINT64_MAX))
		if (!sim_step(sim))
			sim_stuck(sim, l->loop->name);
	sim_unschedule(sim, &alarm);
	loop_woke(l->loop);
}

void sim_node_loop_wait(struct loop *loop, uint64_t timeout_ns)
{
	struct sim_loop *l = loop_of(loop);

	if (l->node->dead)
		return;
	if (!l->initialised && l->started) {
		l->initialised = true;
		if (loop->init)
			loop->init(loop->init_ctx);
	}
	l->initialised = true;
	if (timeout_ns)
		wait_for_world(l, timeout_ns);
	if (!l->node->dead)
		complete_ready(l);
}

/* The scheduler looks for itself. */
void sim_node_loop_wake(struct loop *loop)
{
}
