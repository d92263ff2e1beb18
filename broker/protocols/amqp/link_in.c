/* broker/protocols/amqp/link_in.c: links on which the peer sends.
 *
 * A message that arrives whole and is small goes from Proton's buffer into its
 * final place with one copy.  A larger one is gathered in pieces and handed to
 * the journal as it comes, so it never lies in memory as a whole.
 *
 * The context of a publication is Proton's delivery, or NULL when the peer
 * sent it settled.  Proton keeps an unsettled delivery for as long as it keeps
 * the link, so the pointer is good while l->pn is. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

#include "broker/protocols/amqp/sections.h"

/* Unfinished messages of one connection, in memory. */
#define PARTIAL_BYTES_MAX (64u * CORE_PIECE_BYTES)

struct link_in {
	struct link link;
	struct producer producer;
	bool anonymous, blocked;
	bool refusal_logged;
	bool lent;  /* one credit more than was meant: see nudge() */
	int leeway; /* credit taken back, which the peer may still use */
	uint32_t unsettled;
	/* the message that is arriving in several pieces */
	uint8_t *partial; /* CORE_PIECE_BYTES */
	uint32_t partial_len;
	uint64_t total;
	struct upload *upload;
	struct record_props props; /* of the upload */
	char *to;		   /* of the upload, when anonymous */
	const char *refusal;	   /* condition: the rest is discarded */
	const char *refusal_text;
};

static struct link_in *in_of(struct link *l)
{
	return container_of(l, struct link_in, link);
}

/* ---- outcomes ---- */

static void answer(struct link_in *in, pn_delivery_t *d, uint64_t state)
{
	pn_delivery_update(d, state);
	/* Settle mode second: the sender settles first. */
	if (pn_link_rcv_settle_mode(in->link.pn) != PN_RCV_SECOND ||
	    pn_delivery_settled(d))
		connection_settle(in->link.connection, d);
	connection_wake(in->link.connection);
}

/* Refuse a delivery that has arrived; it is Proton's current one. */
static void reject(struct link_in *in, pn_delivery_t *d, const char *condition,
		   const char *text)
{
	pn_condition_t *c;

	if (pn_delivery_settled(d)) {
		amqp_count(&in->link.connection->amqp->presettled_lost);
		pn_delivery_settle(d);
		return;
	}
	if (pn_delivery_current(d))
		pn_link_advance(in->link.pn);
	c = pn_disposition_condition(pn_delivery_local(d));
	pn_condition_set_name(c, condition);
	pn_condition_set_description(c, text);
	answer(in, d, PN_REJECTED);
}

static void replenish(struct link_in *in)
{
	struct connection *c = in->link.connection;
	const struct amqp_options *o = &c->amqp->options;
	int credit;

	if (!in->link.pn || in->link.core != LINK_ATTACHED ||
	    in->link.local_gone || c->close_wanted)
		return;
	credit = pn_link_credit(in->link.pn);
	if (credit > (int)o->credit_refill ||
	    in->unsettled >= o->link_unsettled_max)
		return;
	pn_link_flow(in->link.pn, (int)o->credit - credit);
	in->lent = false;
	connection_wake(c);
}

/* ---- the session's window ---- */

/* Proton states the window anew only in a flow, and sends a flow only when
 * the window is used up or a link's credit has changed.  A sender that waits
 * for room for a whole message would wait for good on a window that is nearly
 * used up.  So one credit is lent, and the next time taken back. */
static void nudge(struct link_in *in)
{
	uint32_t enough = in->link.connection->amqp->options.credit_refill;
	bool back = in->lent && pn_link_credit(in->link.pn) > (int)enough;

	pn_link_flow(in->link.pn, back ? -1 : 1);
	in->lent = !back;
	if (back)
		in->leeway = 1;
}

static void renew(struct session *s)
{
	list_for_each(n, &s->links) {
		struct link *l = list_entry(n, struct link, node);

		if (l->sender || !l->pn || l->core != LINK_ATTACHED ||
		    l->local_gone)
			continue;
		nudge(in_of(l));
		s->received = false;
		return;
	}
}

/* The transfers are those of all sessions: at worst a window is renewed too
 * early. */
void link_in_renew(struct connection *c)
{
	if (c->gate.transfers < c->amqp->options.session_window / 2 ||
	    c->state != CONNECTION_OPEN)
		return;
	c->gate.transfers = 0;
	list_for_each(n, &c->sessions) {
		struct session *s = list_entry(n, struct session, node);

		if (s->received)
			renew(s);
	}
}

/* Once a link: an operator must hear of a full disk, but not of each message
 * that it costs. */
static void log_refusal(struct link_in *in, int err)
{
	struct connection *c = in->link.connection;

	logger_write(in->refusal_logged ? LOGGER_DEBUG : LOGGER_WARN, "amqp",
		     "publication-refused",
		     "user=%s container=%s link=%s condition=%s text=%s",
		     LOGGER_QUOTE(c->user), LOGGER_QUOTE(c->container),
		     LOGGER_QUOTE(in->link.pn ? pn_link_name(in->link.pn) : ""),
		     amqp_condition(err), LOGGER_QUOTE(err_str(err)));
	in->refusal_logged = true;
}

static void on_settled(struct producer *p, void *context, enum outcome outcome,
		       int err)
{
	struct link_in *in = container_of(p, struct link_in, producer);
	struct connection *c = in->link.connection;
	pn_delivery_t *d = context;

	in->unsettled--;
	if (outcome == OUTCOME_REJECTED)
		log_refusal(in, err);
	if (!d) {
		if (outcome != OUTCOME_ACCEPTED)
			amqp_count(&c->amqp->presettled_lost);
	} else if (in->link.pn) {
		switch (outcome) {
		case OUTCOME_ACCEPTED:
			answer(in, d, PN_ACCEPTED);
			break;
		case OUTCOME_REJECTED:
			reject(in, d, amqp_condition(err), err_str(err));
			break;
		case OUTCOME_RELEASED:
		case OUTCOME_MODIFIED:
			answer(in, d, PN_RELEASED);
			break;
		}
	}
	replenish(in);
	connection_settled(c);
}

/* ---- publishing ---- */

/* The address that an anonymous producer's message names. */
static int copy_to(const struct sections *s, char ret[RECORD_NAME_MAX + 1])
{
	if (!s->to || !s->to_len || s->to_len > RECORD_NAME_MAX ||
	    memchr(s->to, 0, s->to_len))
		return -EINVAL;
	memcpy(ret, s->to, s->to_len);
	ret[s->to_len] = '\0';
	return 0;
}

/* Few messages need the time. */
static void take_props(struct link_in *in, const struct sections *s,
		       struct record_props *ret)
{
	struct loop *loop = in->link.connection->loop;

	sections_props(s, s->has_ttl ? loop_wall_ms(loop) : 0, ret);
}

static void started(struct link_in *in)
{
	in->unsettled++;
	in->link.connection->in_flight++;
}

static void publish(struct link_in *in, pn_delivery_t *d, struct message *m)
{
	char to[RECORD_NAME_MAX + 1];
	struct sections s;

	if (sections_scan(m->data, m->len, true, &s)) {
		message_release(m);
		reject(in, d, "amqp:decode-error", "the message is malformed");
		return;
	}
	if (in->anonymous && copy_to(&s, to)) {
		message_release(m);
		reject(in, d, "amqp:invalid-field",
		       "the message names no address in its `to`");
		return;
	}
	take_props(in, &s, &m->props);
	m->context = pn_delivery_settled(d) ? NULL : d;
	if (m->context)
		pn_link_advance(in->link.pn);
	else
		connection_settle(in->link.connection, d);
	started(in);
	producer_publish(&in->producer, m, in->anonymous ? to : NULL);
}

static void receive_whole(struct link_in *in, pn_delivery_t *d, size_t len)
{
	struct message *m =
		message_create(in->link.connection->home->shard, (uint32_t)len);

	if (!m) {
		reject(in, d, "amqp:resource-limit-exceeded", "out of memory");
		return;
	}
	if (pn_link_recv(in->link.pn, (char *)m->data, len) != (ssize_t)len &&
	    len) {
		message_release(m);
		reject(in, d, "amqp:internal-error", "short read");
		return;
	}
	publish(in, d, m);
}

/* ---- in pieces ---- */

static void partial_end(struct link_in *in)
{
	if (in->partial)
		in->link.connection->partial_bytes -= CORE_PIECE_BYTES;
	free(in->partial);
	free(in->to);
	in->partial = NULL;
	in->to = NULL;
	in->upload = NULL;
	in->partial_len = 0;
	in->total = 0;
	in->refusal = NULL;
}

static void partial_drop(struct link_in *in)
{
	upload_abort(in->upload);
	partial_end(in);
}

/* What follows of this message is read and thrown away. */
static void refuse_rest(struct link_in *in, const char *condition,
			const char *text)
{
	upload_abort(in->upload);
	in->upload = NULL;
	in->partial_len = 0;
	in->refusal = condition;
	in->refusal_text = text;
}

static void upload_start(struct link_in *in)
{
	char to[RECORD_NAME_MAX + 1] = "";
	struct sections s;
	int err;

	if (sections_scan(in->partial, in->partial_len, false, &s)) {
		refuse_rest(in, "amqp:decode-error",
			    "the message is malformed");
		return;
	}
	if (in->anonymous && copy_to(&s, to)) {
		refuse_rest(in, "amqp:invalid-field",
			    "the message names no address in its `to`");
		return;
	}
	in->to = in->anonymous ? strdup(to) : NULL;
	take_props(in, &s, &in->props);
	err = in->anonymous && !in->to
		      ? -ENOMEM
		      : upload_begin(&in->producer, &in->upload);
	if (err)
		refuse_rest(in, amqp_condition(err), err_str(err));
}

/* Hand the bytes gathered so far to the journal. */
static void upload_push(struct link_in *in)
{
	int err;

	if (in->refusal || !in->partial_len)
		return;
	if (!in->upload)
		upload_start(in);
	if (in->refusal)
		return;
	err = upload_append(in->upload, in->partial, in->partial_len);
	in->partial_len = 0;
	if (err)
		refuse_rest(in, amqp_condition(err), err_str(err));
}

static int partial_begin(struct link_in *in)
{
	struct connection *c = in->link.connection;

	if (in->partial)
		return 0;
	if (c->partial_bytes >= PARTIAL_BYTES_MAX)
		return -E_LIMIT;
	in->partial = malloc(CORE_PIECE_BYTES);
	if (!in->partial)
		return -ENOMEM;
	c->partial_bytes += CORE_PIECE_BYTES;
	return 0;
}

/* False: the link has been closed. */
static bool gather(struct link_in *in)
{
	const struct amqp_options *o = &in->link.connection->amqp->options;
	ssize_t n;

	if (partial_begin(in) != 0) {
		link_close(&in->link, "amqp:resource-limit-exceeded",
			   "too many unfinished messages");
		return false;
	}
	for (;;) {
		if (in->partial_len == CORE_PIECE_BYTES)
			upload_push(in);
		if (in->refusal)
			in->partial_len = 0;
		n = pn_link_recv(in->link.pn,
				 (char *)in->partial + in->partial_len,
				 CORE_PIECE_BYTES - in->partial_len);
		if (n <= 0)
			return true;
		in->partial_len += (uint32_t)n;
		in->total += (uint64_t)n;
		if (in->total > o->message_bytes_max) {
			link_close(&in->link, "amqp:link:message-size-exceeded",
				   "the message is larger than the link's "
				   "max-message-size");
			return false;
		}
	}
}

static void finish_upload(struct link_in *in, pn_delivery_t *d)
{
	void *context = pn_delivery_settled(d) ? NULL : d;
	struct upload *upload;
	char *to = in->to;

	upload_push(in);
	if (in->refusal) {
		reject(in, d, in->refusal, in->refusal_text);
		partial_end(in);
		return;
	}
	upload = in->upload;
	in->to = NULL;
	if (context)
		pn_link_advance(in->link.pn);
	else
		connection_settle(in->link.connection, d);
	started(in);
	upload_finish(upload, &in->props, to, context);
	free(to);
	partial_end(in);
}

static void finish_gathered(struct link_in *in, pn_delivery_t *d)
{
	struct message *m;

	if (in->refusal || in->upload || in->total > CORE_LARGE_BYTES) {
		finish_upload(in, d);
		return;
	}
	m = message_create(in->link.connection->home->shard, in->partial_len);
	if (!m) {
		reject(in, d, "amqp:resource-limit-exceeded", "out of memory");
	} else {
		memcpy(m->data, in->partial, in->partial_len);
		publish(in, d, m);
	}
	partial_end(in);
}

/* ---- events ---- */

/* Take what there is of the current delivery; false: wait for more. */
static bool receive_one(struct link_in *in, pn_delivery_t *d)
{
	size_t pending = pn_delivery_pending(d);
	bool partial = pn_delivery_partial(d);

	if (pn_delivery_aborted(d)) {
		partial_drop(in);
		pn_delivery_settle(d);
		return true;
	}
	if (!partial && !in->partial && pending <= CORE_LARGE_BYTES) {
		receive_whole(in, d, pending);
		return true;
	}
	if (!gather(in))
		return false;
	if (partial)
		return false;
	finish_gathered(in, d);
	return true;
}

void link_in_receive(struct link *l)
{
	struct link_in *in = in_of(l);
	pn_delivery_t *d;

	if (l->session)
		l->session->received = true;
	while (l->pn && (d = pn_link_current(l->pn))) {
		if (l->local_gone) {
			pn_delivery_settle(d);
			continue;
		}
		/* Until it is attached it has no credit, whatever Proton has
		 * made of the peer's flows. */
		if (l->core != LINK_ATTACHED ||
		    pn_link_queued(l->pn) >
			    pn_link_credit(l->pn) + in->leeway) {
			partial_drop(in);
			link_close(l, "amqp:link:transfer-limit-exceeded",
				   "a transfer without credit");
			continue;
		}
		if (!receive_one(in, d) && !l->local_gone)
			break;
	}
	replenish(in);
}

void link_in_updated(struct link *l, pn_delivery_t *d)
{
	/* Settle mode second: our outcome is out, the sender has settled. */
	if (pn_delivery_settled(d) && pn_delivery_local_state(d))
		pn_delivery_settle(d);
	else
		pn_delivery_clear(d);
}

void link_in_flow(struct link *l)
{
	/* The sender gave credit back.  Proton also believes one that gives
	 * more than it has, or counts its deliveries backwards, which would be
	 * credit that it gives itself: that much is undone. */
	struct link_in *in = in_of(l);
	int given_back = pn_link_drained(l->pn);

	if (given_back < 0 || pn_link_credit(l->pn) + in->leeway < 0)
		pn_link_flow(l->pn, given_back);
	replenish(in);
}

static void on_flow(struct producer *p, bool blocked)
{
	struct link_in *in = container_of(p, struct link_in, producer);

	if (in->blocked == blocked)
		return;
	in->blocked = blocked;
	connection_block(in->link.connection, blocked);
}

/* ---- attach and detach ---- */

static void on_attached(struct producer *p, int err, const char *name)
{
	struct link_in *in = container_of(p, struct link_in, producer);
	struct link *l = &in->link;
	pn_rcv_settle_mode_t mode;

	if (err) {
		l->local_gone = true;
		link_refuse(l->connection, l->pn, amqp_condition(err),
			    err_str(err));
		link_leave_core(l, false);
		return;
	}
	l->core = LINK_ATTACHED;
	terminus_answer(l->pn, name);
	mode = pn_link_remote_rcv_settle_mode(l->pn);
	pn_link_set_rcv_settle_mode(
		l->pn, mode == PN_RCV_SECOND ? PN_RCV_SECOND : PN_RCV_FIRST);
	pn_link_set_snd_settle_mode(l->pn,
				    pn_link_remote_snd_settle_mode(l->pn));
	pn_link_set_max_message_size(
		l->pn, l->connection->amqp->options.message_bytes_max);
	pn_link_open(l->pn);
	pn_link_flow(l->pn, (int)l->connection->amqp->options.credit);
	connection_wake(l->connection);
}

static void on_released(struct producer *p)
{
	link_released(&container_of(p, struct link_in, producer)->link);
}

static const struct producer_ops ops = {
	.attached = on_attached,
	.settled = on_settled,
	.flow = on_flow,
	.released = on_released,
};

void link_in_attach(struct session *s, pn_link_t *pn)
{
	struct connection *c = s->connection;
	struct terminus_problem problem;
	struct terminus t;
	struct link_in *in;

	if (terminus_read(pn, c, &t, &problem)) {
		link_refuse(c, pn, problem.condition, problem.text);
		return;
	}
	in = calloc(1, sizeof(*in));
	if (!in) {
		link_refuse(c, pn, "amqp:internal-error", "out of memory");
		return;
	}
	link_init(&in->link, s, pn, false);
	in->anonymous = !t.address && !t.dynamic;
	in->producer.ops = &ops;
	producer_attach(c->home->shard, &in->producer, &t);
}

void link_in_leave(struct link *l)
{
	struct link_in *in = in_of(l);

	partial_drop(in);
	if (in->blocked) {
		in->blocked = false;
		connection_block(l->connection, false);
	}
	producer_detach(&in->producer);
}

void link_in_free(struct link *l)
{
	free(in_of(l));
}
