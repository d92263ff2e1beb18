/* broker/protocols/amqp/link_out.c: links on which we send.
 *
 * The core hands deliveries over as credit allows; Proton is given them only
 * while the connection's output is below a bound, and the rest waits here.
 * What may wait is bounded too: the core is granted a window of credit, sized
 * by the messages' length, and not the peer's whole credit.
 *
 * A delivery in Proton has the core's delivery as its context until one of
 * the two is settled; `NULL` means that the core knows it no more. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

#include "broker/protocols/amqp/sections.h"

#define WINDOW_MAX 1024u
#define WINDOW_MIN 16u
#define WINDOW_BYTES (4u * 1024u * 1024u)
/* What the peer has not settled.  Proton keeps the buffer of each such
 * message, so that a receiver that settles nothing needs a bound in bytes. */
#define UNSETTLED_BYTES_MAX (128u * 1024u * 1024u)

struct link_out {
	struct link link;
	struct consumer consumer;
	struct list hungry_node; /* connection->hungry, while holding any */
	bool presettled;
	bool draining, drained; /* asked for; answered by the core */
	uint32_t granted;	/* credit that the core has left */
	int credit_seen;	/* Proton's, as of the last look */
	bool drain_seen;
	uint32_t unsettled;
	uint64_t unsettled_bytes;
	uint64_t average_bytes;
	/* a ring of deliveries that wait */
	struct delivery **waiting;
	uint32_t waiting_capacity, waiting_at, waiting_count;
	/* a large message on its way */
	struct delivery *large;
	pn_delivery_t *large_pn;
	uint32_t next_piece;
	bool reading, leave_wanted, leave_failed;
	bool large_over; /* settled by the peer, or the link is gone */
	struct settlement large_settlement;
	struct piece_read piece;
	bool rejection_logged;
};

static struct link_out *out_of(struct link *l)
{
	return container_of(l, struct link_out, link);
}

static void settle(struct link_out *out, struct delivery *d,
		   enum outcome outcome)
{
	struct settlement s = {.outcome = outcome};

	delivery_settle(d, &s);
}

/* ---- what waits ---- */

static int wait_push(struct link_out *out, struct delivery *d)
{
	if (out->waiting_count == out->waiting_capacity) {
		uint32_t capacity =
			out->waiting_capacity ? out->waiting_capacity * 2 : 64;
		struct delivery **more = calloc(capacity, sizeof(*more));

		if (!more)
			return -ENOMEM;
		for (uint32_t i = 0; i < out->waiting_count; i++)
			more[i] = out->waiting[(out->waiting_at + i) %
					       out->waiting_capacity];
		free(out->waiting);
		out->waiting = more;
		out->waiting_capacity = capacity;
		out->waiting_at = 0;
	}
	out->waiting[(out->waiting_at + out->waiting_count) %
		     out->waiting_capacity] = d;
	out->waiting_count++;
	if (list_empty(&out->hungry_node))
		list_push(&out->link.connection->hungry, &out->hungry_node);
	return 0;
}

static struct delivery *wait_pop(struct link_out *out)
{
	struct delivery *d = out->waiting[out->waiting_at];

	out->waiting_at = (out->waiting_at + 1) % out->waiting_capacity;
	out->waiting_count--;
	return d;
}

static struct delivery *wait_pop_last(struct link_out *out)
{
	out->waiting_count--;
	return out->waiting[(out->waiting_at + out->waiting_count) %
			    out->waiting_capacity];
}

/* Deliveries that Proton has not counted against its credit. */
static uint32_t uncounted(const struct link_out *out)
{
	return out->waiting_count + (out->large && out->large_pn ? 1 : 0);
}

/* ---- credit ---- */

static uint32_t window(const struct link_out *out)
{
	uint64_t each = base_max(out->average_bytes, 1);
	uint64_t n = WINDOW_BYTES / each;
	uint32_t max = out->link.connection->amqp->options.link_unsettled_max;
	uint32_t room = max > out->unsettled ? max - out->unsettled : 0;

	if (out->unsettled_bytes >= UNSETTLED_BYTES_MAX)
		return 0;
	n = base_max(WINDOW_MIN, base_min(n, WINDOW_MAX));
	n = base_min(n,
		     1 + (UNSETTLED_BYTES_MAX - out->unsettled_bytes) / each);
	return (uint32_t)base_min(n, room);
}

static bool is_live(const struct link_out *out)
{
	return out->link.pn && out->link.core == LINK_ATTACHED &&
	       !out->link.local_gone && !out->link.remote_gone;
}

/* Give the core what the peer and the window allow.  force: also when it is
 * not worth a call otherwise. */
static void grant(struct link_out *out, bool force)
{
	int64_t may;
	uint32_t want;

	if (!is_live(out))
		return;
	may = (int64_t)pn_link_credit(out->link.pn) - uncounted(out);
	want = may <= 0 ? 0 : (uint32_t)base_min((uint64_t)may, window(out));
	if (!force && (want <= out->granted || out->granted * 2 > want))
		return;
	if (out->waiting_count && want > out->granted && !force)
		return;
	out->granted = want;
	consumer_credit(&out->consumer, want, out->draining);
}

/* Proton tells of it only when nothing of the link waits for the session's
 * window, and it does not look again by itself. */
static void finish_drain(struct link_out *out)
{
	if (!out->drained || uncounted(out) || !is_live(out) ||
	    pn_link_queued(out->link.pn))
		return;
	out->drained = false;
	out->draining = false;
	pn_link_drained(out->link.pn);
	out->credit_seen = pn_link_credit(out->link.pn);
	connection_wake(out->link.connection);
}

static void on_drained(struct consumer *consumer)
{
	struct link_out *out =
		container_of(consumer, struct link_out, consumer);

	if (!is_live(out) || !out->draining)
		return;
	/* The window is used up: there may be more behind it. */
	if (out->granted == 0 && window(out) &&
	    pn_link_credit(out->link.pn) > (int64_t)uncounted(out)) {
		grant(out, true);
		return;
	}
	out->granted = 0;
	out->drained = true;
	finish_drain(out);
	if (out->drained && list_empty(&out->hungry_node))
		list_push(&out->link.connection->hungry, &out->hungry_node);
}

void link_out_flow(struct link *l)
{
	struct link_out *out = out_of(l);
	int credit = pn_link_credit(l->pn);
	bool drain = pn_link_get_drain(l->pn);

	/* Proton tells of its own sends as well. */
	if (credit == out->credit_seen && drain == out->drain_seen)
		return;
	out->credit_seen = credit;
	out->drain_seen = drain;
	out->draining = drain && credit > 0;
	out->drained = false;
	/* The peer took credit back: so do we with what it covered. */
	while (out->waiting_count && (int64_t)uncounted(out) > credit)
		settle(out, wait_pop_last(out), OUTCOME_RELEASED);
	grant(out, true);
}

/* ---- sending ---- */

/* Of a large message Proton never holds more than a few pieces. */
static uint64_t held_bytes(const struct delivery *d)
{
	return base_min(delivery_bytes(d), CORE_PIECE_BYTES);
}

static void count_settled(struct link_out *out, const struct delivery *d)
{
	out->unsettled--;
	out->unsettled_bytes -= held_bytes(d);
}

static pn_delivery_t *begin_delivery(struct link_out *out, struct delivery *d)
{
	uint64_t tag = ++out->link.connection->next_tag;
	pn_delivery_t *pn = pn_delivery(
		out->link.pn, pn_dtag((const char *)&tag, sizeof(tag)));

	if (!pn)
		return NULL;
	pn_delivery_set_context(pn, d);
	out->unsettled++;
	out->unsettled_bytes += held_bytes(d);
	return pn;
}

static void send_bytes(struct link_out *out, const void *data, size_t len)
{
	pn_link_send(out->link.pn, data, len);
	connection_feed(out->link.connection, len);
}

static bool is_changed(const struct delivery *d, struct sections_changes *ret)
{
	ret->delivery_count = delivery_attempts(d);
	ret->extra = delivery_extra(d, &ret->extra_len);
	ret->origin = delivery_origin(d);
	return ret->delivery_count || ret->extra_len || ret->origin;
}

/* Sends the beginning of a message (or all of it), rewritten when it has been
 * tried or moved before. */
static void send_beginning(struct link_out *out, const struct delivery *d,
			   const uint8_t *data, size_t len, bool whole)
{
	struct sections_changes changes;
	struct sections s;
	uint8_t *buf;
	size_t room, prefix;

	if (!is_changed(d, &changes) || sections_scan(data, len, whole, &s)) {
		send_bytes(out, data, len);
		return;
	}
	room = sections_prefix_room(&s, &changes);
	buf = amqp_scratch(out->link.connection->home, room);
	if (!buf || sections_prefix(data, &s, &changes, buf, room, &prefix)) {
		send_bytes(out, data, len);
		return;
	}
	send_bytes(out, buf, prefix);
	send_bytes(out, data + s.annotations_end, len - s.annotations_end);
}

static void sent(struct link_out *out, struct delivery *d, pn_delivery_t *pn)
{
	pn_link_t *link = out->link.pn;

	if (out->presettled) {
		pn_delivery_set_context(pn, NULL);
		pn_delivery_settle(pn); /* advances too */
		count_settled(out, d);
		settle(out, d, OUTCOME_ACCEPTED);
	} else {
		pn_link_advance(link);
		delivery_sent(d);
	}
	out->credit_seen = pn_link_credit(link);
	connection_wake(out->link.connection);
}

static void large_next(struct link_out *out);

static void send_one(struct link_out *out, struct delivery *d)
{
	const uint8_t *data = delivery_data(d);
	pn_delivery_t *pn = begin_delivery(out, d);

	if (!pn) {
		settle(out, d, OUTCOME_RELEASED);
		link_close(&out->link, "amqp:internal-error", "out of memory");
		return;
	}
	if (!data) {
		out->large = d;
		out->large_pn = pn;
		out->next_piece = 0;
		out->large_over = false;
		large_next(out);
		return;
	}
	send_beginning(out, d, data, delivery_bytes(d), true);
	sent(out, d, pn);
}

static void pump(struct link_out *out)
{
	struct connection *c = out->link.connection;

	while (out->waiting_count && !out->large && is_live(out) &&
	       !connection_full(c) && pn_link_credit(out->link.pn) > 0)
		send_one(out, wait_pop(out));
	if (!is_live(out))
		return;
	if (out->large)
		large_next(out);
	if (out->drained)
		finish_drain(out);
	else if (!out->waiting_count)
		grant(out, false);
}

void link_out_pump(struct connection *c)
{
	struct list turn = LIST_INIT(turn);
	struct list *n;

	if (c->state != CONNECTION_OPEN || connection_full(c) ||
	    list_empty(&c->hungry))
		return;
	/* Each link once, the first one last next time. */
	while ((n = list_pop(&c->hungry)))
		list_push(&turn, n);
	while ((n = list_pop(&turn))) {
		struct link_out *out =
			list_entry(n, struct link_out, hungry_node);

		pump(out);
		if (list_empty(&out->hungry_node) && out->link.pn &&
		    (out->waiting_count || out->large || out->drained))
			list_push(&c->hungry, &out->hungry_node);
	}
}

/* ---- large messages ---- */

static void large_done(struct link_out *out)
{
	out->large = NULL;
	out->large_pn = NULL;
	out->large_over = false;
}

/* The read that kept the delivery is over, and the delivery is not wanted any
 * more. */
static void large_abandon(struct link_out *out)
{
	struct delivery *d = out->large;

	if (out->large_pn && out->link.pn) {
		pn_delivery_set_context(out->large_pn, NULL);
		pn_delivery_abort(out->large_pn);
		count_settled(out, d);
	}
	large_done(out);
	/* A link that leaves returns all that is unsettled by itself. */
	if (!out->leave_wanted)
		delivery_settle(d, &out->large_settlement);
	if (is_live(out))
		link_out_flow(&out->link); /* it may have used a credit */
	connection_wake(out->link.connection);
}

static void leave_now(struct link_out *out)
{
	out->link.core = LINK_DETACHING;
	consumer_detach(&out->consumer, out->leave_failed);
}

static void on_piece(struct piece_read *read, int err, const void *data,
		     uint32_t len)
{
	struct link_out *out = container_of(read, struct link_out, piece);

	out->reading = false;
	if (err && !out->large_over) {
		out->large_over = true;
		out->large_settlement =
			(struct settlement){.outcome = OUTCOME_RELEASED};
	}
	if (out->large_over || out->leave_wanted) {
		large_abandon(out);
		if (err)
			link_close(&out->link, "amqp:internal-error",
				   "a stored message could not be read");
		if (out->leave_wanted && out->link.core < LINK_DETACHING)
			leave_now(out);
		return;
	}
	if (out->next_piece == 0)
		send_beginning(out, out->large, data, len, false);
	else
		send_bytes(out, data, len);
	out->next_piece++;
	large_next(out);
	connection_wake(out->link.connection);
}

static void large_next(struct link_out *out)
{
	if (out->reading || out->large_over)
		return;
	if (out->next_piece == delivery_piece_count(out->large)) {
		struct delivery *d = out->large;
		pn_delivery_t *pn = out->large_pn;

		large_done(out);
		sent(out, d, pn);
		if (out->waiting_count && list_empty(&out->hungry_node))
			list_push(&out->link.connection->hungry,
				  &out->hungry_node);
		return;
	}
	if (list_empty(&out->hungry_node))
		list_push(&out->link.connection->hungry, &out->hungry_node);
	if (connection_full(out->link.connection))
		return;
	out->reading = true;
	out->piece.done = on_piece;
	delivery_read_piece(out->large, out->next_piece, &out->piece);
}

/* ---- from the core ---- */

static void on_deliver(struct consumer *consumer, struct delivery *d)
{
	struct link_out *out =
		container_of(consumer, struct link_out, consumer);
	struct connection *c = out->link.connection;

	if (out->granted)
		out->granted--;
	/* What crossed a smaller credit, or the link's end, goes back. */
	if (!is_live(out) ||
	    (int64_t)uncounted(out) >= pn_link_credit(out->link.pn)) {
		settle(out, d, OUTCOME_RELEASED);
		return;
	}
	out->average_bytes = (out->average_bytes * 7 + delivery_bytes(d)) / 8;
	if (!out->waiting_count && !out->large && !connection_full(c))
		send_one(out, d);
	else if (wait_push(out, d) != 0)
		settle(out, d, OUTCOME_RELEASED);
	if (!out->waiting_count)
		grant(out, false);
}

static void on_gone(struct consumer *consumer, int err)
{
	struct link_out *out =
		container_of(consumer, struct link_out, consumer);

	link_close(&out->link, "amqp:resource-deleted",
		   "the queue was deleted");
}

static void on_confirmed(struct consumer *consumer, void *context, int err)
{
	struct link_out *out =
		container_of(consumer, struct link_out, consumer);
	pn_delivery_t *pn = context;

	if (!out->link.pn)
		return;
	pn_delivery_update(pn,
			   err ? PN_RELEASED : pn_delivery_remote_state(pn));
	pn_delivery_settle(pn);
	connection_wake(out->link.connection);
}

/* ---- outcomes ---- */

static int merge_annotations(struct link_out *out, const struct delivery *d,
			     pn_data_t *annotations, struct settlement *s)
{
	uint8_t *buf =
		amqp_scratch(out->link.connection->home, 2 * RECORD_EXTRA_MAX);
	uint32_t earlier_len;
	const void *earlier = delivery_extra(d, &earlier_len);
	ssize_t len;
	int err;

	if (!buf)
		return -ENOMEM;
	pn_data_rewind(annotations);
	len = pn_data_encode(annotations, (char *)buf, RECORD_EXTRA_MAX);
	if (len <= 0)
		return -E_LIMIT;
	err = sections_merge(earlier, earlier_len, buf, (size_t)len,
			     buf + RECORD_EXTRA_MAX, RECORD_EXTRA_MAX,
			     &s->extra_len);
	if (!err)
		s->extra = buf + RECORD_EXTRA_MAX;
	return err;
}

static void log_rejection(struct link_out *out, pn_disposition_t *remote)
{
	const char *name =
		pn_condition_get_name(pn_disposition_condition(remote));
	const char *text =
		pn_condition_get_description(pn_disposition_condition(remote));

	/* Once a link: a consumer that rejects all would fill the log. */
	logger_write(out->rejection_logged ? LOGGER_DEBUG : LOGGER_WARN, "amqp",
		     "message-rejected", "peer=%s link=%s condition=%s text=%s",
		     loop_socket_peer(out->link.connection->socket),
		     LOGGER_QUOTE(pn_link_name(out->link.pn)),
		     LOGGER_QUOTE(name ? name : ""),
		     LOGGER_QUOTE(text ? text : ""));
	out->rejection_logged = true;
}

/* False: the state does not end the delivery. */
static bool read_outcome(struct link_out *out, const struct delivery *d,
			 pn_delivery_t *pn, struct settlement *s)
{
	pn_disposition_t *remote = pn_delivery_remote(pn);

	*s = (struct settlement){.outcome = OUTCOME_RELEASED};
	switch (pn_delivery_remote_state(pn)) {
	case PN_ACCEPTED:
		s->outcome = OUTCOME_ACCEPTED;
		return true;
	case PN_REJECTED:
		s->outcome = OUTCOME_REJECTED;
		log_rejection(out, remote);
		return true;
	case PN_RELEASED:
		return true;
	case PN_MODIFIED:
		s->outcome = OUTCOME_MODIFIED;
		s->delivery_failed = pn_disposition_is_failed(remote);
		s->undeliverable_here = pn_disposition_is_undeliverable(remote);
		if (pn_data_size(pn_disposition_annotations(remote)) &&
		    merge_annotations(out, d,
				      pn_disposition_annotations(remote), s))
			s->extra = NULL;
		return true;
	default:
		/* No outcome, or one that we do not know. */
		return pn_delivery_settled(pn);
	}
}

void link_out_updated(struct link *l, pn_delivery_t *pn)
{
	struct link_out *out = out_of(l);
	struct delivery *d = pn_delivery_get_context(pn);
	struct settlement s;

	if (!d || l->local_gone || l->core != LINK_ATTACHED ||
	    !read_outcome(out, d, pn, &s)) {
		pn_delivery_clear(pn);
		return;
	}
	if (d == out->large) {
		/* Answered before it had all of it: stop sending.  The copy of
		 * the annotations does not last until the read is over. */
		s.extra = NULL;
		out->large_settlement = s;
		out->large_over = true;
		if (!out->reading)
			large_abandon(out);
		return;
	}
	pn_delivery_set_context(pn, NULL);
	count_settled(out, d);
	if (pn_delivery_settled(pn)) {
		pn_delivery_settle(pn);
	} else {
		/* The peer waits for us: settle when it is durable. */
		s.confirm = true;
		s.context = pn;
		pn_delivery_clear(pn);
	}
	delivery_settle(d, &s);
	if (!out->waiting_count && !out->granted)
		grant(out, false);
}

/* ---- attach and detach ---- */

static void on_attached(struct consumer *consumer, int err, const char *name)
{
	struct link_out *out =
		container_of(consumer, struct link_out, consumer);
	struct link *l = &out->link;
	pn_snd_settle_mode_t mode;

	if (err) {
		l->local_gone = true;
		link_refuse(l->connection, l->pn, amqp_condition(err),
			    err_str(err));
		link_leave_core(l, false);
		return;
	}
	l->core = LINK_ATTACHED;
	terminus_answer(l->pn, name);
	mode = pn_link_remote_snd_settle_mode(l->pn);
	out->presettled = mode == PN_SND_SETTLED;
	pn_link_set_snd_settle_mode(l->pn, mode);
	pn_link_set_rcv_settle_mode(l->pn,
				    pn_link_remote_rcv_settle_mode(l->pn));
	pn_link_open(l->pn);
	out->credit_seen = pn_link_credit(l->pn);
	out->drain_seen = pn_link_get_drain(l->pn);
	out->draining = out->drain_seen && out->credit_seen > 0;
	if (out->credit_seen > 0)
		grant(out, true);
	connection_wake(l->connection);
}

static void on_released(struct consumer *consumer)
{
	link_released(&container_of(consumer, struct link_out, consumer)->link);
}

static const struct consumer_ops ops = {
	.attached = on_attached,
	.deliver = on_deliver,
	.drained = on_drained,
	.settled = on_confirmed,
	.gone = on_gone,
	.released = on_released,
};

void link_out_attach(struct session *s, pn_link_t *pn)
{
	struct connection *c = s->connection;
	struct terminus_problem problem;
	struct terminus t;
	struct link_out *out;

	if (terminus_read(pn, c, &t, &problem)) {
		link_refuse(c, pn, problem.condition, problem.text);
		return;
	}
	out = calloc(1, sizeof(*out));
	if (!out) {
		link_refuse(c, pn, "amqp:internal-error", "out of memory");
		return;
	}
	link_init(&out->link, s, pn, true);
	list_init(&out->hungry_node);
	out->average_bytes = 1024;
	out->consumer.ops = &ops;
	consumer_attach(c->home->shard, &out->consumer, &t);
}

static void stop(struct link *l)
{
	struct link_out *out = out_of(l);

	/* What waits is returned by the core when the link leaves it. */
	out->waiting_count = 0;
	list_remove(&out->hungry_node);
	if (!out->large)
		return;
	if (out->large_pn && l->pn) {
		/* Without this Proton would end it as if it were whole. */
		pn_delivery_set_context(out->large_pn, NULL);
		pn_delivery_abort(out->large_pn);
	}
	out->large_pn = NULL;
	if (out->reading)
		out->large_over = true;
	else
		large_done(out);
}

bool link_out_leave(struct link *l, bool failed)
{
	struct link_out *out = out_of(l);

	stop(l);
	if (out->reading) {
		out->leave_wanted = true;
		out->leave_failed = failed;
		return false;
	}
	consumer_detach(&out->consumer, failed);
	return true;
}

void link_out_free(struct link *l)
{
	struct link_out *out = out_of(l);

	free(out->waiting);
	free(out);
}
