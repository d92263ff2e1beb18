/* Consumers: the connection's side of a subscription.
 *
 * When queue and connection share a shard the two sides call each other; when
 * they do not, the same calls travel as mail.  Mail from one shard to another
 * keeps its order, so "left" arrives after every delivery that was on its
 * way, and the memory of both sides ends there. */
#include "broker/core/internal.h"

static bool subscriber_is_local(const struct subscriber *s)
{
	return s->shard == s->queue->shard;
}

/* ---- attach ---- */

static void consumer_release_maybe(struct consumer *c)
{
	if (c->detaching && c->left && c->confirms == 0)
		loop_defer(c->shard->loop, &c->release_task);
}

static void consumer_release(struct loop_task *task)
{
	struct consumer *c = container_of(task, struct consumer, release_task);

	c->ops->released(c);
}

static void subscriber_joined(struct loop_mail *mail)
{
	queue_join(container_of(mail, struct subscriber, join_mail));
}

static int consumer_subscribe(struct consumer *c, struct queue *q)
{
	struct subscriber *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	list_init(&s->link);
	list_init(&s->hungry_link);
	s->queue = q;
	s->consumer = c;
	s->shard = c->shard;
	s->home = q->shard->loop;
	s->id = core_next_id(c->shard->core);
	c->subscriber = s;
	if (subscriber_is_local(s)) {
		queue_join(s);
	} else {
		s->join_mail.deliver = subscriber_joined;
		loop_post(q->shard->loop, &s->join_mail);
	}
	return 0;
}

static void consumer_attached(struct attach *a)
{
	struct consumer *c = a->context;
	char name[2 * RECORD_NAME_MAX + 4] = "";
	int err = a->err;

	c->attach = NULL;
	if (!err && (c->detaching || consumer_subscribe(c, a->queue) != 0)) {
		err = -ENOMEM;
		registry_leave_queue(a->queue);
	}
	if (c->detaching) {
		c->left = true;
		consumer_release_maybe(c);
	} else {
		if (err) {
			c->left = true;
		} else if (a->name.queue[0] && !a->subscription) {
			snprintf(name, sizeof(name), "%s::%s", a->name.address,
				 a->name.queue);
		} else {
			snprintf(name, sizeof(name), "%s", a->name.address);
		}
		c->attached = !err;
		c->ops->attached(c, err, name);
	}
	attach_free(a);
}

static void consumer_attach_failed(struct loop_task *task)
{
	struct consumer *c = container_of(task, struct consumer, release_task);

	/* attach_create() refuses only names. */
	c->release_task.run = consumer_release;
	if (c->detaching)
		consumer_release_maybe(c);
	else
		c->ops->attached(c, -EINVAL, "");
}

void consumer_attach(struct shard *shard, struct consumer *c,
		     const struct terminus *t)
{
	c->shard = shard;
	list_init(&c->deliveries);
	c->release_task.run = consumer_release;
	if (attach_create(shard, t, &c->attach) != 0) {
		c->left = true;
		c->release_task.run = consumer_attach_failed;
		loop_defer(shard->loop, &c->release_task);
		return;
	}
	c->attach->want_queue = true;
	c->attach->done = consumer_attached;
	c->attach->context = c;
	attach_start(c->attach);
}

/* ---- detach ---- */

static void subscriber_leaves(struct loop_mail *mail)
{
	queue_leave(container_of(mail, struct subscriber, life_mail));
}

static void subscriber_left(struct loop_mail *mail)
{
	struct subscriber *s = container_of(mail, struct subscriber, life_mail);
	struct consumer *c = s->consumer;

	free(s);
	c->subscriber = NULL;
	c->left = true;
	consumer_release_maybe(c);
}

/* Always by mail, also at home: what the caller of queue_leave() still holds
 * of the subscriber must stay until it returns. */
void consumer_tell_left(struct subscriber *s)
{
	s->life_mail.deliver = subscriber_left;
	loop_post(s->shard->loop, &s->life_mail);
}

void consumer_detach(struct consumer *c, bool failed)
{
	struct settlement back = {
		.outcome = failed ? OUTCOME_MODIFIED : OUTCOME_RELEASED,
		.delivery_failed = failed,
	};
	struct subscriber *s = c->subscriber;

	ASSERT(!c->detaching);
	c->detaching = true;
	/* Last first, so that each goes back to the very head. */
	while (!list_empty(&c->deliveries))
		delivery_settle(
			list_entry(c->deliveries.prev, struct delivery, link),
			&back);
	if (!s) {
		consumer_release_maybe(c);
		return;
	}
	if (subscriber_is_local(s)) {
		queue_leave(s);
	} else {
		s->life_mail.deliver = subscriber_leaves;
		loop_post(s->queue->shard->loop, &s->life_mail);
	}
}

/* ---- credit ---- */

static void subscriber_wants(struct loop_mail *mail)
{
	struct subscriber *s = container_of(mail, struct subscriber, want_mail);

	atomic_store(&s->want_posted, false);
	queue_want(s, atomic_load(&s->want_limit), atomic_load(&s->want_drain));
}

void consumer_credit(struct consumer *c, uint32_t credit, bool drain)
{
	struct subscriber *s = c->subscriber;
	uint32_t number = 0;

	if (!s || c->detaching)
		return;
	if (drain)
		number = ++c->drains ? c->drains : ++c->drains;
	if (subscriber_is_local(s)) {
		queue_want(s, c->delivered + credit, number);
		return;
	}
	atomic_store(&s->want_limit, c->delivered + credit);
	atomic_store(&s->want_drain, number);
	if (!atomic_exchange(&s->want_posted, true)) {
		s->want_mail.deliver = subscriber_wants;
		loop_post(s->queue->shard->loop, &s->want_mail);
	}
}

/* The queue's side: the mail is home. */
static void subscriber_drained_back(struct loop_mail *mail)
{
	struct subscriber *s =
		container_of(mail, struct subscriber, drained_mail);
	uint32_t next = s->drained_next;

	s->drained_away = false;
	s->drained_next = 0;
	if (next)
		consumer_tell_drained(s, next);
}

/* What was answered may have been asked for again meanwhile, with more
 * deliveries on their way: only the last answer counts. */
static void subscriber_drained(struct loop_mail *mail)
{
	struct subscriber *s =
		container_of(mail, struct subscriber, drained_mail);
	struct consumer *c = s->consumer;
	bool last = s->drained == c->drains;

	/* The queue's side may be gone by the time it would come back. */
	if (c->detaching)
		return;
	mail->deliver = subscriber_drained_back;
	loop_post(s->home, mail);
	if (last)
		c->ops->drained(c);
}

void consumer_tell_drained(struct subscriber *s, uint32_t drain)
{
	if (s->drained_away) {
		s->drained_next = drain;
		return;
	}
	s->drained_away = true;
	s->drained = drain;
	s->drained_mail.deliver = subscriber_drained;
	loop_post(s->shard->loop, &s->drained_mail);
}

static void subscriber_gone(struct loop_mail *mail)
{
	struct subscriber *s = container_of(mail, struct subscriber, gone_mail);

	if (!s->consumer->detaching)
		s->consumer->ops->gone(s->consumer, -E_NOT_FOUND);
}

void consumer_tell_gone(struct subscriber *s)
{
	s->gone_mail.deliver = subscriber_gone;
	loop_post(s->shard->loop, &s->gone_mail);
}

/* ---- deliveries ---- */

static void delivery_send_back(struct delivery *d);

static void consumer_take(struct consumer *c, struct delivery *d)
{
	if (c->detaching) {
		d->outcome = OUTCOME_RELEASED;
		delivery_send_back(d);
		return;
	}
	c->delivered++;
	list_push(&c->deliveries, &d->link);
	c->ops->deliver(c, d);
}

static void delivery_arrived(struct loop_mail *mail)
{
	struct delivery *d = container_of(mail, struct delivery, mail);

	consumer_take(d->consumer, d);
}

void consumer_hand(struct subscriber *s, struct delivery *d)
{
	if (subscriber_is_local(s)) {
		consumer_take(s->consumer, d);
		return;
	}
	d->mail.deliver = delivery_arrived;
	loop_post(s->shard->loop, &d->mail);
}

static void delivery_settled(struct loop_mail *mail)
{
	queue_settle(container_of(mail, struct delivery, mail));
}

static void delivery_send_back(struct delivery *d)
{
	if (d->queue->shard == d->consumer->shard) {
		queue_settle(d);
		return;
	}
	d->mail.deliver = delivery_settled;
	loop_post(d->queue->shard->loop, &d->mail);
}

static void confirm_arrived(struct loop_mail *mail)
{
	struct confirm *confirm = container_of(mail, struct confirm, mail);
	struct consumer *c = confirm->consumer;

	c->confirms--;
	if (!c->detaching)
		c->ops->settled(c, confirm->context, confirm->err);
	consumer_release_maybe(c);
	free(confirm);
}

void consumer_confirm(struct confirm *confirm, int err)
{
	confirm->err = err;
	confirm->mail.deliver = confirm_arrived;
	loop_post(confirm->consumer->shard->loop, &confirm->mail);
}

/* Only an acknowledgement waits for the journal; the other outcomes have
 * nothing to promise. */
static void delivery_ask_confirm(struct delivery *d, const struct settlement *s)
{
	struct confirm *confirm = calloc(1, sizeof(*confirm));

	/* Without memory the peer keeps the delivery unsettled, and settles it
	 * when the link ends. */
	if (!confirm)
		return;
	confirm->consumer = d->consumer;
	confirm->context = s->context;
	d->consumer->confirms++;
	if (s->outcome == OUTCOME_ACCEPTED)
		d->confirm = confirm;
	else
		consumer_confirm(confirm, 0);
}

void delivery_settle(struct delivery *d, const struct settlement *s)
{
	list_remove(&d->link);
	d->outcome = (uint8_t)s->outcome;
	d->failed = s->outcome == OUTCOME_MODIFIED && s->delivery_failed;
	d->undeliverable =
		s->outcome == OUTCOME_MODIFIED && s->undeliverable_here;
	d->extra_changed = false;
	if (s->outcome == OUTCOME_MODIFIED && s->extra)
		d->extra_changed =
			ref_set_extra(d, s->extra, s->extra_len) == 0;
	if (s->confirm)
		delivery_ask_confirm(d, s);
	delivery_send_back(d);
}

/* ---- pieces ---- */

static void piece_arrived(struct store_piece *read, int err)
{
	struct piece_read *p = container_of(read, struct piece_read, read);
	struct delivery *d = p->delivery;
	void *buf = read->buf;

	read->buf = NULL;
	/* Kept, named, and not served again: it would close the link of
	 * whoever comes next, and the next. */
	if (err == -E_CORRUPT)
		d->damaged = true;
	p->done(p, err, err ? NULL : buf, err ? 0 : read->len);
	free(buf);
}

static void piece_failed(struct loop_mail *mail)
{
	piece_arrived(container_of(mail, struct store_piece, mail), -ENOMEM);
}

void delivery_read_piece(struct delivery *d, uint32_t index,
			 struct piece_read *p)
{
	struct shard *shard = d->consumer->shard;
	struct store_piece *read = &p->read;

	ASSERT(d->large && index < d->large->piece_count);
	p->delivery = d;
	read->upload = d->large->upload;
	read->index = index;
	read->len = d->large->piece_bytes[index];
	read->buf = malloc(read->len ? read->len : 1);
	read->done = piece_arrived;
	if (!read->buf) {
		read->mail.deliver = piece_failed;
		loop_post(shard->loop, &read->mail);
		return;
	}
	store_read_piece(shard->reader, read);
}
