/* Producers: from a publication to its record, and from the record's commit
 * to the queues and the confirmation.
 *
 * A publication becomes one ENQUEUE record with one note per queue.  Notes
 * arrive at a queue's shard in LSN order, so every queue sees its messages in
 * the order of the journal, whichever shard published them; the last note
 * sends the publication home to be settled.  Nothing is settled, and nothing
 * delivered, before that. */
#include <string.h>

#include "broker/core/internal.h"

/* While the store is behind, how often it is asked whether it still is. */
#define BEHIND_LOOK_NS 5000000ull

/* ---- settling ---- */

void producer_release_maybe(struct producer *p)
{
	if (p->detaching && p->in_flight == 0 && !p->attach)
		loop_defer(p->shard->loop, &p->release_task);
}

/* Lets go of where it sends. */
static void producer_leave(struct producer *p)
{
	route_release(p->route);
	p->route = NULL;
	if (p->direct)
		registry_leave_queue(p->direct);
	else if (p->address)
		registry_leave_address(p->address);
	p->direct = NULL;
	p->address = NULL;
}

/* Sends where the attach has led. */
static void producer_enter(struct producer *p, struct attach *a)
{
	producer_leave(p);
	p->address = a->address;
	p->direct = a->queue;
	p->direct_version = 0;
}

static void producer_release(struct loop_task *task)
{
	struct producer *p = container_of(task, struct producer, release_task);

	list_remove(&p->link);
	count_sub(&p->shard->producer_count, 1);
	producer_leave(p);
	free(p->last_to);
	p->ops->released(p);
}

static void message_settle(struct message *m)
{
	struct producer *p = m->producer;
	struct shard *s = m->shard;
	enum outcome outcome = OUTCOME_ACCEPTED;

	if (m->err == -E_LATCHED || m->err == -E_FENCED)
		outcome = OUTCOME_RELEASED;
	else if (m->err)
		outcome = OUTCOME_REJECTED;
	if (outcome == OUTCOME_ACCEPTED) {
		count_add(&s->published, 1);
		count_add(&s->published_bytes,
			  m->large ? m->large->bytes : m->len);
	} else {
		count_add(&s->rejected, 1);
		if (m->large && outcome == OUTCOME_REJECTED)
			upload_discard(s, m->large);
	}
	large_release(m->large);
	if (m->address)
		registry_leave_address(m->address);
	p->ops->settled(p, m->context, outcome, m->err);
	p->in_flight--;
	producer_release_maybe(p);
	message_release(m);
}

static void message_came_home(struct loop_mail *mail)
{
	struct message *m = container_of(mail, struct message, mail);

	producer_bytes_sub(m->shard, m->len);
	message_settle(m);
}

/* Settled at the end of the iteration, without a record. */
static void message_settle_later(struct message *m, int err)
{
	struct shard *s = m->shard;

	m->err = err;
	m->next = NULL;
	*s->settle_tail = m;
	s->settle_tail = &m->next;
	loop_defer(s->loop, &s->settle_task);
}

static void shard_settle(struct loop_task *task)
{
	struct shard *s = container_of(task, struct shard, settle_task);
	struct message *m = s->settle_first;

	s->settle_first = NULL;
	s->settle_tail = &s->settle_first;
	while (m) {
		struct message *next = m->next;

		message_settle(m);
		m = next;
	}
}

/* ---- back-pressure ---- */

static void shard_tell_flow(struct loop_task *task)
{
	struct shard *s = container_of(task, struct shard, flow_task);

	list_for_each_safe(n, &s->producers) {
		struct producer *p = list_entry(n, struct producer, link);

		if (!p->attached || p->detaching || p->flow_told == s->blocked)
			continue;
		p->flow_told = s->blocked;
		p->ops->flow(p, s->blocked);
	}
}

void producer_bytes_add(struct shard *s, uint64_t bytes)
{
	struct core *core = s->core;

	s->publish_bytes += bytes;
	if (!s->blocked && (s->publish_bytes > core->publish_bytes_max ||
			    store_is_behind(core->store))) {
		s->blocked = true;
		loop_defer(s->loop, &s->flow_task);
	}
}

static void flow_unblock(struct shard *s)
{
	struct core *core = s->core;

	if (!s->blocked || s->publish_bytes > core->publish_bytes_max / 2)
		return;
	if (store_is_behind(core->store)) {
		loop_timer_set(s->loop, &s->flow_timer, BEHIND_LOOK_NS);
		return;
	}
	s->blocked = false;
	loop_defer(s->loop, &s->flow_task);
}

static void flow_look(struct loop_timer *timer)
{
	flow_unblock(container_of(timer, struct shard, flow_timer));
}

void producer_bytes_sub(struct shard *s, uint64_t bytes)
{
	ASSERT(s->publish_bytes >= bytes);
	s->publish_bytes -= bytes;
	flow_unblock(s);
}

bool producer_blocked(const struct producer *p)
{
	return p->shard->blocked;
}

void producer_shard_init(struct shard *s)
{
	list_init(&s->producers);
	s->settle_tail = &s->settle_first;
	s->settle_task.run = shard_settle;
	s->flow_task.run = shard_tell_flow;
	s->flow_timer.fire = flow_look;
}

/* ---- the record ---- */

static void publish_committed(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct message *m = container_of(note->append, struct message, append);
	struct delivery *d = m->refs[note - m->append.notes];
	struct shard *here = d->queue->shard;

	if (m->append.err) {
		ref_free(d);
	} else {
		queue_enqueue(d->queue, d);
	}
	if (atomic_fetch_sub_explicit(&m->pending_notes, 1,
				      memory_order_acq_rel) != 1)
		return;
	m->err = m->append.err;
	shard_append_done(here);
	if (here == m->shard) {
		message_came_home(&m->mail);
	} else {
		m->mail.deliver = message_came_home;
		loop_post(m->shard->loop, &m->mail);
	}
}

static int publish_add_target(struct message *m, struct log_note *note,
			      uint32_t index, struct queue *q)
{
	struct delivery *d = ref_create(q);

	if (!d)
		return -ENOMEM;
	d->props = m->props;
	if (m->large) {
		d->large = large_hold(m->large);
		d->bytes = m->large->bytes;
	} else {
		message_hold(m);
		d->message = m;
		d->bytes = m->len;
	}
	note->mail.deliver = publish_committed;
	note->to = q->shard->loop;
	note->append = &m->append;
	m->refs[index] = d;
	return 0;
}

/* Room for the notes, refs and meta of a record with many targets. */
static int publish_room(struct message *m, uint32_t count, uint8_t **ret_meta)
{
	size_t notes = count * sizeof(struct log_note);
	size_t refs = count * sizeof(struct delivery *);
	uint8_t *room;

	if (count == 1 && record_enqueue_room(1) <= sizeof(m->meta)) {
		m->append.notes = &m->note;
		m->refs = &m->ref;
		*ret_meta = m->meta;
		return 0;
	}
	room = malloc(notes + refs + record_enqueue_room(count));
	if (!room)
		return -ENOMEM;
	m->targets = room;
	m->append.notes = (struct log_note *)(void *)room;
	m->refs = (struct delivery **)(void *)(room + notes);
	*ret_meta = room + notes + refs;
	return 0;
}

static int publish_targets(struct message *m, struct queue *const *queues,
			   uint32_t count)
{
	struct record_enqueue record = {
		.props = m->props,
		.bytes = m->len,
		.target_count = count,
	};
	uint64_t one, *ids = &one;
	uint8_t *meta;
	uint32_t done = 0;
	int err = publish_room(m, count, &meta);

	if (!err && count > 1) {
		ids = malloc(count * sizeof(*ids));
		if (!ids)
			err = -ENOMEM;
	}
	for (; !err && done < count; done++) {
		err = publish_add_target(m, &m->append.notes[done], done,
					 queues[done]);
		if (err)
			break;
		ids[done] = queues[done]->id;
	}
	if (err) {
		while (done)
			ref_free(m->refs[--done]);
		if (ids != &one)
			free(ids);
		return err;
	}
	if (m->large) {
		record.upload = m->large->upload;
		record.bytes = m->large->bytes;
		record.piece_count = m->large->piece_count;
	}
	record.targets = ids;
	m->append.type = RECORD_ENQUEUE;
	m->append.meta = meta;
	m->append.meta_len = (uint32_t)record_enqueue_encode(&record, meta);
	m->append.body = m->data;
	m->append.body_len = m->len;
	m->append.note_count = (uint16_t)count;
	atomic_store_explicit(&m->pending_notes, count, memory_order_relaxed);
	if (ids != &one)
		free(ids);
	/* An anonymous producer may turn to another address before this is
	 * committed, and a queue that nobody uses may delete itself. */
	if (m->producer->anonymous)
		m->address = registry_hold_address(m->producer->address);
	producer_bytes_add(m->shard, m->len);
	shard_append(m->shard, &m->append);
	return 0;
}

static void publish_routed(struct producer *p, struct message *m);

/* An attach in search of an address for this message. */
static int publish_attach(struct producer *p, struct message *m,
			  const struct terminus *t,
			  void (*done)(struct attach *), struct attach **ret)
{
	int err = attach_create(p->shard, t, ret);

	if (err)
		return err;
	(*ret)->context = m;
	(*ret)->done = done;
	return 0;
}

static void publish_search(struct producer *p, struct attach *a)
{
	p->resolving = true;
	attach_start(a);
}

static void publish_re_resolved(struct attach *a)
{
	struct message *m = a->context;
	struct producer *p = m->producer;

	p->resolving = false;
	if (a->err) {
		message_settle_later(m, a->err);
	} else {
		/* The address has its queue again, or is there again. */
		producer_enter(p, a);
		publish_routed(p, m);
	}
	attach_free(a);
	producer_go_on(p);
}

static void publish_re_resolve(struct producer *p, struct message *m)
{
	struct terminus t = {.address = p->address->name,
			     .routing = RECORD_ANYCAST};
	struct attach *a;
	int err = m->retried
			  ? -E_NOT_FOUND
			  : publish_attach(p, m, &t, publish_re_resolved, &a);

	if (err) {
		message_settle_later(m, err);
		return;
	}
	m->retried = true;
	publish_search(p, a);
}

static bool producer_route_current(struct producer *p)
{
	uint64_t version = atomic_load_explicit(&p->address->version,
						memory_order_acquire);

	if (p->route && p->route->version == version)
		return true;
	route_release(p->route);
	p->route = route_current(p->address);
	return p->route != NULL;
}

/* Straight to one queue, unless it has been deleted. */
static int publish_direct(struct producer *p, struct message *m)
{
	uint64_t version = atomic_load_explicit(&p->address->version,
						memory_order_acquire);

	if (p->direct_version != version) {
		if (!registry_queue_is_live(p->direct))
			return -E_NOT_FOUND;
		p->direct_version = version;
	}
	return publish_targets(m, &p->direct, 1);
}

/* To all multicast queues, and to one of the anycast queues: the first after
 * them in the route, or, where there are only those, each in turn. */
static int publish_route(struct producer *p, struct message *m)
{
	const struct route *route = p->route;
	uint32_t count = route->multicast_count;
	struct queue *one;

	if (count == 0) {
		one = route->queues[p->anycast_turn++ % route->anycast_count];
		return publish_targets(m, &one, 1);
	}
	if (route->anycast_count)
		count++;
	if (count > RECORD_TARGET_MAX)
		return -E_LIMIT;
	return publish_targets(m, route->queues, count);
}

static void publish_limit_ttl(struct producer *p, struct message *m)
{
	uint64_t ttl_max_ms = atomic_load_explicit(&p->address->ttl_max_ms,
						   memory_order_relaxed);
	uint64_t latest = m->props.arrived_ms + ttl_max_ms;

	if (ttl_max_ms && (!m->props.expiry_ms || m->props.expiry_ms > latest))
		m->props.expiry_ms = latest;
}

static void publish_routed(struct producer *p, struct message *m)
{
	int err;

	publish_limit_ttl(p, m);
	if (p->direct) {
		err = publish_direct(p, m);
	} else if (!producer_route_current(p)) {
		err = -E_NOT_FOUND;
	} else if (p->route->multicast_count + p->route->anycast_count) {
		err = publish_route(p, m);
	} else if (p->address->routing & RECORD_ANYCAST) {
		publish_re_resolve(p, m);
		return;
	} else {
		/* A topic without subscribers: nobody wants it. */
		count_add(&p->shard->unrouted, 1);
		if (m->large)
			upload_discard(p->shard, m->large);
		message_settle_later(m, 0);
		return;
	}
	if (err)
		message_settle_later(m, err);
}

/* ---- in turn ----
 *
 * While the address of one message is being found or made, or its pieces are
 * on their way to the disk, the rest wait behind it, so that the order stays.
 * An anonymous producer's messages wait with an attach of their own, which
 * remembers the address and is needed when that is another one. */

static void publish_resolved(struct attach *a)
{
	struct message *m = a->context;
	struct producer *p = m->producer;

	p->resolving = false;
	if (a->err) {
		message_settle_later(m, a->err);
	} else {
		producer_enter(p, a);
		free(p->last_to);
		p->last_to = a->to;
		a->to = NULL;
		publish_routed(p, m);
	}
	attach_free(a);
	producer_go_on(p);
}

/* Where an anonymous producer's last message went, or a named one's go. */
static bool producer_is_there(const struct producer *p, const char *to)
{
	return !p->anonymous || (p->last_to && to && !strcmp(to, p->last_to));
}

static struct message *producer_pop(struct producer *p)
{
	struct message *m = p->waiting_first;

	p->waiting_first = m->next;
	if (!p->waiting_first)
		p->waiting_tail = &p->waiting_first;
	return m;
}

void producer_go_on(struct producer *p)
{
	while (!p->resolving && p->waiting_first && !p->waiting_first->held) {
		struct message *m = producer_pop(p);
		struct attach *a = m->attach;

		m->attach = NULL;
		if (a && !m->err && !producer_is_there(p, a->to)) {
			publish_search(p, a);
			return;
		}
		if (m->err || p->shard->core->null_sink)
			message_settle_later(m, m->err);
		else
			publish_routed(p, m);
		attach_free(a);
	}
}

static void publish_in_turn(struct producer *p, struct message *m,
			    const char *to)
{
	struct terminus t = {.address = to};

	if (!p->resolving && !p->waiting_first && !m->held &&
	    producer_is_there(p, to)) {
		publish_routed(p, m);
		return;
	}
	if (p->anonymous) {
		int err = to ? publish_attach(p, m, &t, publish_resolved,
					      &m->attach)
			     : -E_NOT_FOUND;

		if (err && !m->held) {
			message_settle_later(m, err);
			return;
		}
		m->err = err; /* it is told when its pieces are over */
	}
	m->next = NULL;
	*p->waiting_tail = m;
	p->waiting_tail = &m->next;
	producer_go_on(p);
}

/* Why it cannot be taken, whatever its address. */
static int publish_check(const struct core *core, const struct message *m)
{
	uint64_t bytes = m->large ? m->large->bytes : m->len;

	if (bytes > core->message_bytes_max)
		return -E_LIMIT;
	return log_has_space(core->log) ? 0 : -E_NO_SPACE;
}

void producer_submit(struct producer *p, struct message *m, const char *to)
{
	struct core *core = p->shard->core;

	m->producer = p;
	m->props.arrived_ms = loop_wall_ms(p->shard->loop);
	if (m->props.priority >= RECORD_PRIORITIES)
		m->props.priority = RECORD_PRIORITIES - 1;
	p->in_flight++;
	if (!m->err && !core->null_sink)
		m->err = publish_check(core, m);
	if (!m->held && (m->err || core->null_sink))
		message_settle_later(m, m->err);
	else
		publish_in_turn(p, m, to);
}

void producer_publish(struct producer *p, struct message *m, const char *to)
{
	ASSERT(p->attached && !p->detaching);
	producer_submit(p, m, to);
}

/* ---- attach and detach ---- */

/* flow() tells of changes, and what was said before this one was there it has
 * not heard. */
static void producer_join_flow(struct producer *p)
{
	if (p->attached && p->shard->blocked)
		loop_defer(p->shard->loop, &p->shard->flow_task);
}

static void producer_attached(struct attach *a)
{
	struct producer *p = a->context;

	p->attach = NULL;
	if (!a->err) {
		producer_enter(p, a);
		p->attached = true;
	}
	producer_join_flow(p);
	if (p->detaching)
		producer_release_maybe(p);
	else
		p->ops->attached(p, a->err, a->err ? "" : a->name.address);
	attach_free(a);
}

/* The answer for an anonymous producer, or to a name that is refused. */
static void producer_answer(struct loop_task *task)
{
	struct producer *p = container_of(task, struct producer, release_task);

	p->release_task.run = producer_release;
	if (p->detaching) {
		producer_release_maybe(p);
		return;
	}
	p->attached = p->anonymous;
	producer_join_flow(p);
	p->ops->attached(p, p->anonymous ? 0 : -EINVAL, "");
}

void producer_attach(struct shard *shard, struct producer *p,
		     const struct terminus *t)
{
	p->shard = shard;
	p->waiting_tail = &p->waiting_first;
	list_push(&shard->producers, &p->link);
	count_add(&shard->producer_count, 1);
	p->release_task.run = producer_release;
	p->anonymous = !t->address && !t->dynamic;
	if (p->anonymous || attach_create(shard, t, &p->attach) != 0) {
		p->release_task.run = producer_answer;
		loop_defer(shard->loop, &p->release_task);
		return;
	}
	p->attach->want_queue |= t->dynamic;
	p->attach->done = producer_attached;
	p->attach->context = p;
	attach_start(p->attach);
}

void producer_detach(struct producer *p)
{
	ASSERT(!p->detaching);
	p->detaching = true;
	if (!p->release_task.queued)
		producer_release_maybe(p);
}
