/* A message leaves its queue for another address: one MOVE record takes it
 * out of the one and puts it into the others, so that a crash finds it in
 * exactly one place.  The record carries the message: where it was may go. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

/* What has expired and cannot be moved is not tried again at once. */
#define MOVE_RETRY_MS 10000u

struct move {
	struct log_append append;
	struct delivery *ref;	 /* the message where it was */
	struct address *address; /* where it goes; users counted */
	struct queue *direct;	 /* of it, when the rule names a queue */
	struct route *route;	 /* held: keeps the queues */
	uint32_t target_count;
	_Atomic uint32_t notes_left;
	struct delivery **refs; /* one per target */
	struct log_note *notes; /* one per target, and one for the source */
	uint8_t *meta;
};

static void move_free(struct move *m)
{
	if (!m)
		return;
	if (m->direct)
		registry_leave_queue(m->direct);
	else if (m->address)
		registry_leave_address(m->address);
	route_release(m->route);
	free(m->refs);
	free(m->notes);
	free(m->meta);
	free(m);
}

static void move_note_done(struct move *m, struct shard *shard)
{
	if (atomic_fetch_sub(&m->notes_left, 1) != 1)
		return;
	shard_append_done(shard);
	move_free(m);
}

static void move_arrived(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct move *m = container_of(note->append, struct move, append);
	struct delivery *d = m->refs[note - m->notes];
	struct shard *shard = d->queue->shard;

	if (note->append->err) {
		ref_free(d);
	} else {
		queue_enqueue(d->queue, d);
	}
	move_note_done(m, shard);
}

static void move_left(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct move *m = container_of(note->append, struct move, append);
	struct delivery *d = m->ref;
	struct queue *q = d->queue;
	struct shard *shard = q->shard;

	if (!note->append->err && !q->deleted) {
		count_sub(&q->messages, 1);
		count_sub(&q->bytes, d->bytes);
	}
	queue_hold(q);
	if (d->walked)
		walk_over(d);
	queue_out_end(d);
	ref_free(d);
	queue_maybe_delete(q);
	queue_release(q);
	move_note_done(m, shard);
}

static struct delivery *move_ref_copy(const struct delivery *from,
				      struct queue *to, uint8_t reason)
{
	const struct queue *q = from->queue;
	struct delivery *d = ref_create(to);

	if (!d)
		return NULL;
	d->props = from->props;
	d->bytes = from->bytes;
	if (reason == RECORD_REASON_EXPIRED)
		d->props.expiry_ms = 0;
	if (from->message) {
		message_hold(from->message);
		d->message = from->message;
	}
	if (from->large)
		d->large = large_hold(from->large);
	if (ref_set_origin(d, q->address->name, strlen(q->address->name),
			   q->name, strlen(q->name), reason) != 0 ||
	    (from->rare && from->rare->extra_len &&
	     ref_set_extra(d, from->rare->extra, from->rare->extra_len) != 0)) {
		ref_free(d);
		return NULL;
	}
	return d;
}

static int move_encode(struct move *m, uint8_t reason)
{
	const struct delivery *d = m->ref;
	const struct queue *q = d->queue;
	struct record_move record = {
		.queue = q->id,
		.ref = d->ref,
		.props = m->refs[0]->props,
		.bytes = d->bytes,
		.origin = {.address = q->address->name,
			   .address_len = (uint16_t)strlen(q->address->name),
			   .queue = q->name,
			   .queue_len = (uint16_t)strlen(q->name),
			   .reason = reason},
		.target_count = m->target_count,
	};
	uint64_t *targets = calloc(m->target_count, sizeof(*targets));

	if (!targets)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->target_count; i++)
		targets[i] = m->refs[i]->queue->id;
	record.targets = targets;
	record.extra = delivery_extra(d, &record.extra_len);
	if (d->large) {
		record.upload = d->large->upload;
		record.piece_count = d->large->piece_count;
	} else {
		m->append.body = d->message->data;
		m->append.body_len = d->message->len;
	}
	m->meta = malloc(record_move_room(&record));
	if (m->meta) {
		m->append.meta = m->meta;
		m->append.meta_len =
			(uint32_t)record_move_encode(&record, m->meta);
	}
	free(targets);
	return m->meta ? 0 : -ENOMEM;
}

static int move_add_target(struct move *m, struct queue *to, uint8_t reason)
{
	struct delivery *d = move_ref_copy(m->ref, to, reason);
	struct log_note *note = &m->notes[m->target_count];

	if (!d)
		return -ENOMEM;
	note->mail.deliver = move_arrived;
	note->to = to->shard->loop;
	note->append = &m->append;
	m->refs[m->target_count++] = d;
	return 0;
}

static int move_add_route(struct move *m, uint8_t reason)
{
	const struct route *route = m->route;
	uint32_t count = route->multicast_count + (route->anycast_count > 0);
	int err = 0;

	for (uint32_t i = 0; i < count && !err; i++)
		err = move_add_target(m, route->queues[i], reason);
	return err;
}

/* Builds and submits the record.  On failure the message is where it was. */
static int move_submit(struct move *m, uint8_t reason)
{
	struct shard *shard = m->ref->queue->shard;
	struct log_note *last;
	uint32_t room = m->route->multicast_count + 1;
	int err = 0;

	if (!m->direct && room > RECORD_TARGET_MAX)
		return -E_LIMIT;
	/* The reserve is for what makes room. */
	if (!log_has_space(shard->core->log))
		return -E_NO_SPACE;
	m->refs = calloc(room, sizeof(*m->refs));
	m->notes = calloc(room + 1, sizeof(*m->notes));
	if (!m->refs || !m->notes)
		return -ENOMEM;
	if (m->direct)
		err = move_add_target(m, m->direct, reason);
	else
		err = move_add_route(m, reason);
	if (!err && m->target_count == 0)
		err = -E_NOT_FOUND;
	if (!err)
		err = move_encode(m, reason);
	if (err) {
		while (m->target_count)
			ref_free(m->refs[--m->target_count]);
		return err;
	}
	last = &m->notes[m->target_count];
	last->mail.deliver = move_left;
	last->to = shard->loop;
	last->append = &m->append;
	atomic_init(&m->notes_left, m->target_count + 1);
	m->append.type = RECORD_MOVE;
	m->append.notes = m->notes;
	m->append.note_count = (uint16_t)(m->target_count + 1);
	shard_append(shard, &m->append);
	return 0;
}

/* It stays where it was. */
static void move_later(struct delivery *d)
{
	d->retry_ms = loop_wall_ms(d->queue->shard->loop) + MOVE_RETRY_MS;
	if (d->walked)
		walk_back(d);
	else
		queue_return(d);
}

static void move_resolved(struct attach *a)
{
	struct delivery *d = a->context;
	struct queue *q = d->queue;
	struct move *m = NULL;
	int err = a->err;

	if (!err) {
		m = calloc(1, sizeof(*m));
		if (m) {
			m->ref = d;
			m->address = a->address;
			m->direct = a->queue;
			m->route = route_current(a->address);
		} else if (a->queue) {
			registry_leave_queue(a->queue);
		} else {
			registry_leave_address(a->address);
		}
	}
	if (q->deleted) {
		ref_free(d);
		goto out;
	}
	if (!err)
		err = m && m->route ? move_submit(m, d->outcome) : -ENOMEM;
	if (!err) {
		m = NULL; /* its notes free it */
	} else if (err == -E_NOT_FOUND) {
		/* A multicast address to which nobody subscribes. */
		ack_add(d);
	} else {
		logger_write(err == -E_NO_SPACE ? LOGGER_DEBUG : LOGGER_ERROR,
			     "core", "move-failed",
			     "queue=%s ref=%llu to=%s error=%s",
			     LOGGER_QUOTE(q->name), (unsigned long long)d->ref,
			     LOGGER_QUOTE(a->name.address),
			     LOGGER_QUOTE(err_str(err)));
		move_later(d);
	}
out:
	move_free(m);
	attach_free(a);
}

static void move_begin(struct delivery *d)
{
	struct queue *q = d->queue;
	struct core_rule_view rule;
	struct terminus terminus = {0};
	struct attach *a;

	rules_view(q->core, q->address->name, &rule);
	terminus.address = d->outcome == RECORD_REASON_EXPIRED
				   ? rule.expiry
				   : rule.dead_letter;
	/* Nowhere to go, or here already: its life ends. */
	if (!terminus.address[0] ||
	    !strcmp(terminus.address, q->address->name)) {
		ack_add(d);
		return;
	}
	if (!d->message && !d->large) {
		fetch_load(d);
		return;
	}
	if (attach_create(q->shard, &terminus, &a) != 0) {
		move_later(d);
		return;
	}
	a->force = true;
	a->context = d;
	a->done = move_resolved;
	attach_start(a);
}

void move_loaded(struct delivery *d)
{
	move_begin(d);
}

void move_ref(struct delivery *d, enum record_reason reason)
{
	struct queue *q = d->queue;

	d->state = REF_MOVING;
	d->outcome = (uint8_t)reason;
	if (reason == RECORD_REASON_EXPIRED) {
		count_add(&q->expired, 1);
		count_add(&q->shard->expired, 1);
	} else {
		count_add(&q->dead_lettered, 1);
		count_add(&q->shard->dead_lettered, 1);
	}
	move_begin(d);
}
