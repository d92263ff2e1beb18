/* bench/load/worker.c: one thread, one epoll loop, its share of the wires.
 *
 * A turn: read what has come; for each wire to which something happened, fill
 * its window, flush it, and ask epoll for what it needs.  Wires to which
 * nothing happened cost nothing, so that a thousand of them are measured like
 * one. */
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "bench/load/internal.h"

#define EVENTS_MAX 256
#define OPENING_MAX 64u /* at a time: a peer's backlog is finite */
#define REDIAL_NS 3000000u
#define TICK_NS 1000000000u /* heartbeats, renewed credit */
#define COUNT_NS 1000000u   /* between looks at who is done */
#define NAP_NS 10000000u    /* a phase is noticed so soon */
#define NAP_SHORT_NS 500000u
#define CLOSE_NS_MAX 3000000000u

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void worker_touch(struct member *m)
{
	if (m->is_dirty)
		return;
	m->is_dirty = true;
	list_push(&m->worker->dirty, &m->dirty);
}

static void touch_all(struct worker *w)
{
	for (uint32_t i = 0; i < w->count; i++) {
		if (w->members[i].wire.state > WIRE_DIALING)
			worker_touch(&w->members[i]);
	}
}

/* ---- opening ---- */

static void on_ready(struct wire *wire)
{
	struct member *m = wire->owner;
	struct worker *w = m->worker;

	m->is_ready = true;
	worker_touch(m);
	if (m == &w->setup)
		return;
	w->opening--;
	atomic_fetch_add(&w->progress.ready, 1);
}

static void watch(struct member *m)
{
	struct worker *w = m->worker;
	uint32_t events = EPOLLIN;
	struct epoll_event e = {.data.ptr = m};

	if (m->wire.fd < 0 || m->wire.state == WIRE_CLOSED)
		return;
	if (wire_wants_write(&m->wire))
		events |= EPOLLOUT;
	if (events == m->events)
		return;
	e.events = events;
	if (epoll_ctl(w->epoll, m->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD,
		      m->wire.fd, &e))
		wire_fail(&m->wire, "epoll: %s", err_str(-errno));
	m->events = events;
}

static void open_member(struct member *m)
{
	struct worker *w = m->worker;
	struct run *r = w->run;
	int err;

	m->events = 0;
	if (m != &w->setup)
		w->opening++;
	err = wire_open(&m->wire, (const struct sockaddr *)&r->to, r->to_len);
	if (err) {
		run_fail(r, &m->wire, err);
		return;
	}
	watch(m);
	worker_touch(m);
}

static void open_some(struct worker *w)
{
	if (w->now_ns < w->redial_ns)
		return;
	if (w->phase == PHASE_SETUP && w->index == 0 &&
	    w->setup.wire.state == WIRE_UNUSED && !w->progress.setup_done)
		open_member(&w->setup);
	if (w->phase != PHASE_CONNECTING)
		return;
	for (; w->open_at < w->count && w->opening < OPENING_MAX;
	     w->open_at++) {
		if (w->members[w->open_at].wire.state == WIRE_UNUSED)
			open_member(&w->members[w->open_at]);
	}
}

/* ---- failures ---- */

/* A peer that is still starting: forget this attempt. */
static void redial(struct member *m)
{
	struct worker *w = m->worker;

	if (m->is_ready)
		atomic_fetch_sub(&w->progress.ready, 1);
	else if (m != &w->setup)
		w->opening--;
	m->is_ready = false;
	wire_fini(&m->wire);
	w->redial_ns = w->now_ns + REDIAL_NS;
	if (m != &w->setup)
		w->open_at = (uint32_t)base_min(w->open_at,
						(uint64_t)(m - w->members));
}

static void on_failed(struct member *m)
{
	struct worker *w = m->worker;
	struct run *r = w->run;

	switch (w->phase) {
	case PHASE_SETUP:
	case PHASE_CONNECTING:
		if (w->now_ns - r->begun_ns < r->o->wait_ns)
			redial(m);
		else
			run_fail(r, &m->wire, 0);
		return;
	case PHASE_RUNNING:
	case PHASE_FINISHING:
		if (r->o->until_broken)
			run_break(r, &m->wire, w->now_ns);
		else
			run_fail(r, &m->wire, 0);
		return;
	case PHASE_CLOSING:
	case PHASE_ENDED:
		return;
	}
}

static void on_closed(struct member *m)
{
	struct worker *w = m->worker;

	if (m->wire.failed && !m->is_counted_closed) {
		m->is_counted_closed = true;
		on_failed(m);
		if (m->wire.state == WIRE_UNUSED)
			m->is_counted_closed = false;
	}
	if (m == &w->setup && m->wire.state == WIRE_CLOSED && !m->wire.failed) {
		wire_fini(&m->wire);
		atomic_store(&w->progress.setup_done, true);
	} else if (m->wire.state == WIRE_CLOSED && m->events) {
		epoll_ctl(w->epoll, EPOLL_CTL_DEL, m->wire.fd, NULL);
		m->events = 0;
	}
}

/* ---- turns ---- */

static void serve(struct member *m)
{
	struct worker *w = m->worker;
	bool more = false;

	m->is_dirty = false;
	if (m == &w->setup && m->wire.state == WIRE_READY)
		wire_close(&m->wire);
	if (m->wire.role == WIRE_SENDER && m->wire.state == WIRE_READY)
		more = sender_fill(m, run_now_ns());
	wire_flush(&m->wire, w->now_ns);
	if (m->wire.remark[0])
		run_remark(w->run, &m->wire);
	/* Nothing will call for what did not fit into the buffer, now that it
	 * has gone out. */
	if (more && !wire_wants_write(&m->wire))
		worker_touch(m);
	if (m->wire.state == WIRE_CLOSED)
		on_closed(m);
	else
		watch(m);
}

static void serve_dirty(struct worker *w)
{
	struct list now, *n;

	list_init(&now);
	list_move_all(&now, &w->dirty);
	while ((n = list_pop(&now)))
		serve(list_entry(n, struct member, dirty));
}

/* Open loop: whose messages have become due. */
static void mark_due(struct worker *w)
{
	struct run *r = w->run;
	uint64_t due = sender_due(r, w->now_ns), late_ns;

	for (; w->due < due; w->due++) {
		uint32_t sender = (uint32_t)(w->due % r->plan.senders);
		struct member *m;

		if (sender % r->o->threads != w->index)
			continue;
		m = &w->members[w->first_sender + sender / r->o->threads];
		m->due++;
		worker_touch(m);
		late_ns = w->now_ns - sender_due_ns(r, w->due);
		w->tally.late_max_ns = base_max(w->tally.late_max_ns, late_ns);
	}
}

/* With a count: what follows the warm-up is counted. */
static void set_quotas(struct worker *w)
{
	const struct run *r = w->run;

	for (uint32_t i = w->first_sender; i < w->count; i++) {
		struct member *m = &w->members[i];
		uint64_t share = r->o->count / r->plan.senders;

		share += m->wire.index < r->o->count % r->plan.senders;
		m->quota = m->wire.sent + share;
		worker_touch(m);
	}
	w->has_quota = true;
}

static void watch_time(struct worker *w)
{
	const struct run *r = w->run;

	w->window = run_window(r);
	if (!w->has_cpu_start && w->now_ns >= w->window.start_ns) {
		w->has_cpu_start = true;
		w->cpu_start = cpu_seconds();
	}
	if (w->has_cpu_start && !w->has_cpu_end &&
	    (w->now_ns >= w->window.end_ns || w->phase >= PHASE_CLOSING)) {
		w->has_cpu_end = true;
		w->tally.cpu_seconds = cpu_seconds() - w->cpu_start;
	}
	if (r->o->count && r->plan.senders && !w->has_quota &&
	    w->phase >= PHASE_RUNNING && w->now_ns >= w->window.start_ns)
		set_quotas(w);
	if (r->o->rate && r->start_ns && w->phase < PHASE_CLOSING)
		mark_due(w);
	if (w->now_ns - w->flushed_ns >= TICK_NS) {
		w->flushed_ns = w->now_ns;
		touch_all(w);
	}
}

static void count(struct worker *w)
{
	uint32_t sending = 0, open = 0;

	if (w->now_ns - w->counted_ns < COUNT_NS)
		return;
	w->counted_ns = w->now_ns;
	for (uint32_t i = 0; i < w->count; i++) {
		open += w->members[i].wire.state != WIRE_CLOSED;
		if (i >= w->first_sender)
			sending += !sender_is_done(&w->members[i]);
	}
	/* In this order: whoever sees the phase sees what belongs to it, and
	 * whoever sees that nobody sends sees all that was accepted. */
	atomic_store(&w->progress.accepted, w->tally.accepted);
	atomic_store(&w->progress.arrived, w->tally.arrived);
	atomic_store(&w->progress.moved,
		     w->tally.sent + w->tally.settled + w->tally.arrived);
	atomic_store(&w->progress.sending, sending);
	atomic_store(&w->progress.closed, !open);
	atomic_store(&w->progress.phase, (int)w->phase);
}

static void change_phase(struct worker *w, enum phase phase)
{
	w->phase = phase;
	w->counted_ns = 0;
	if (phase == PHASE_CLOSING) {
		for (uint32_t i = 0; i < w->count; i++)
			wire_close(&w->members[i].wire);
	}
	touch_all(w);
}

static void nap(struct worker *w, struct epoll_event *events, int *ret_count)
{
	uint64_t ns = NAP_NS, due_ns;
	struct timespec t;

	if (w->phase <= PHASE_CONNECTING)
		ns = NAP_SHORT_NS;
	if (w->run->o->rate &&
	    (w->phase == PHASE_RUNNING || w->phase == PHASE_FINISHING)) {
		due_ns = sender_due_ns(w->run, w->due);
		if (due_ns <= w->now_ns)
			due_ns = w->now_ns; /* at once */
		if (due_ns <= w->window.end_ns)
			ns = base_min(ns, due_ns - w->now_ns);
	}
	if (!list_empty(&w->dirty))
		ns = 0;
	t = (struct timespec){.tv_nsec = (long)ns};
	*ret_count = epoll_pwait2(w->epoll, events, EVENTS_MAX, &t, NULL);
	if (*ret_count < 0)
		*ret_count = 0;
}

static void turn(struct worker *w)
{
	struct epoll_event events[EVENTS_MAX];
	enum phase phase;
	int n;

	open_some(w);
	serve_dirty(w);
	nap(w, events, &n);
	w->now_ns = run_now_ns();
	phase = run_phase(w->run);
	if (phase != w->phase)
		change_phase(w, phase);
	watch_time(w);
	for (int i = 0; i < n; i++) {
		struct member *m = events[i].data.ptr;

		w->now_ns = run_now_ns();
		if (events[i].events & EPOLLOUT)
			wire_write(&m->wire, w->now_ns);
		if (events[i].events & ~(uint32_t)EPOLLOUT)
			wire_read(&m->wire);
		worker_touch(m);
	}
	count(w);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	uint64_t close_ns = UINT64_MAX;

	prctl(PR_SET_TIMERSLACK, 1);
	w->now_ns = w->flushed_ns = run_now_ns();
	w->phase = run_phase(w->run);
	while (w->phase != PHASE_ENDED) {
		turn(w);
		if (w->phase == PHASE_CLOSING && close_ns == UINT64_MAX)
			close_ns = w->now_ns + CLOSE_NS_MAX;
		if (w->now_ns >= close_ns)
			atomic_store(&w->progress.closed, true);
	}
	return NULL;
}

/* ---- life ---- */

static int lay_lanes(struct member *m)
{
	const struct run *r = m->worker->run;
	struct wire *w = &m->wire;

	switch (w->role) {
	case WIRE_SETUP:
		w->lane_count = plan_sources(&r->plan);
		break;
	case WIRE_SENDER:
		w->lane_count = plan_sender_lanes(&r->plan, w->index);
		break;
	case WIRE_RECEIVER:
		w->lane_count = plan_receiver_lanes(&r->plan, w->index);
		break;
	}
	m->lanes = calloc(w->lane_count, sizeof(*m->lanes));
	if (!m->lanes)
		return -ENOMEM;
	for (uint32_t i = 0; i < w->lane_count; i++) {
		if (w->role == WIRE_SETUP)
			m->lanes[i] = r->sources[i];
		else if (w->role == WIRE_RECEIVER)
			m->lanes[i] = r->sources[plan_receiver_source(
				&r->plan, w->index, i)];
		else if (r->plan.fanout)
			m->lanes[i] = r->topic;
		else
			m->lanes[i] =
				r->sources[plan_sender_stream(&r->plan,
							      w->index, i) %
					   r->plan.queues];
	}
	w->lanes = m->lanes;
	return 0;
}

static int member_init(struct worker *worker, struct member *m,
		       enum wire_role role, uint32_t index)
{
	int err;

	m->worker = worker;
	list_init(&m->dirty);
	m->wire = (struct wire){
		.protocol = worker->run->o->protocol,
		.terms = &worker->run->terms,
		.role = role,
		.index = index,
		.owner = m,
		.ready = on_ready,
		.fd = -1,
	};
	err = lay_lanes(m);
	if (!err && role == WIRE_SENDER)
		err = sender_init(m);
	if (!err && role == WIRE_RECEIVER)
		err = receiver_init(m);
	return err;
}

static uint32_t share(uint32_t all, const struct worker *w)
{
	uint32_t threads = w->run->o->threads;

	return w->index < all ? (all - w->index - 1) / threads + 1 : 0;
}

int worker_create(struct run *r, uint32_t index, struct worker **ret)
{
	struct worker *w = calloc(1, sizeof(*w));
	int err = 0;

	if (!w)
		return -ENOMEM;
	w->run = r;
	w->index = index;
	w->window = run_window(r);
	list_init(&w->dirty);
	tally_init(&w->tally);
	w->first_sender = share(r->plan.receivers, w);
	w->count = w->first_sender + share(r->plan.senders, w);
	w->members = calloc(base_max(w->count, 1), sizeof(*w->members));
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!w->members || w->epoll < 0)
		err = !w->members ? -ENOMEM : -errno;
	for (uint32_t i = 0; i < w->count && !err; i++) {
		bool sends = i >= w->first_sender;
		uint32_t nth = sends ? i - w->first_sender : i;

		err = member_init(w, &w->members[i],
				  sends ? WIRE_SENDER : WIRE_RECEIVER,
				  index + nth * r->o->threads);
	}
	if (!err && index == 0)
		err = member_init(w, &w->setup, WIRE_SETUP, 0);
	if (err)
		worker_free(w);
	else
		*ret = w;
	return err;
}

int worker_start(struct worker *w)
{
	int err = pthread_create(&w->thread, NULL, worker_main, w);

	w->started = !err;
	return -err;
}

static void member_fini(struct member *m)
{
	wire_fini(&m->wire);
	sender_fini(m);
	receiver_fini(m);
	free(m->lanes);
}

void worker_join(struct worker *w)
{
	if (w && w->started)
		pthread_join(w->thread, NULL);
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	for (uint32_t i = 0; w->members && i < w->count; i++)
		member_fini(&w->members[i]);
	member_fini(&w->setup);
	free(w->members);
	if (w->epoll >= 0)
		close(w->epoll);
	free(w);
}
