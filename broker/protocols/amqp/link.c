/* broker/protocols/amqp/link.c: what producers and consumers share: the order
 * in which the peer, Proton and the core let go of a link.
 *
 * A detach by the peer is answered after the core has released the link:
 * outcomes of what was in flight come first, and what was not settled is back
 * in its queue before the peer can ask for it again. */
#include "broker/protocols/amqp/internal.h"

void link_init(struct link *l, struct session *s, pn_link_t *pn, bool sender)
{
	l->connection = s->connection;
	l->session = s;
	l->pn = pn;
	l->sender = sender;
	l->core = LINK_ATTACHING;
	list_push(&s->links, &l->node);
	s->link_count++;
	s->connection->holds++;
	pn_link_set_context(pn, l);
	/* Proton counts a link's users (deliveries, events) and, whenever they
	 * are none, goes up to the connection to find that it has to be kept;
	 * that is each message's way, twice, unless there is one that stays. */
	pn_incref(pn);
}

static void maybe_free(struct link *l)
{
	struct connection *c = l->connection;

	if (l->pn || l->core != LINK_RELEASED)
		return;
	if (l->session)
		l->session->link_count--;
	list_remove(&l->node);
	if (l->sender)
		link_out_free(l);
	else
		link_in_free(l);
	connection_release(c);
}

void link_leave_core(struct link *l, bool failed)
{
	if (l->core >= LINK_DETACHING)
		return;
	if (!l->sender)
		link_in_leave(l);
	else if (!link_out_leave(l, failed))
		return;
	l->core = LINK_DETACHING;
}

/* Proton frees what belongs to the link; we forget it. */
static void let_go(struct link *l)
{
	pn_link_t *pn = l->pn;

	pn_link_set_context(pn, NULL);
	gate_disown(&l->connection->gate, l->handle_key, l);
	l->pn = NULL;
	pn_link_free(pn);
	pn_decref(pn);
	connection_wake(l->connection);
}

static void answer_detach(struct link *l)
{
	if (!l->local_gone) {
		l->local_gone = true;
		if (l->remote_closed)
			pn_link_close(l->pn);
		else
			pn_link_detach(l->pn);
	}
	let_go(l);
}

void link_released(struct link *l)
{
	l->core = LINK_RELEASED;
	if (l->pn && l->remote_gone)
		answer_detach(l);
	maybe_free(l);
}

void link_remote_gone(struct link *l, bool closed)
{
	l->remote_gone = true;
	l->remote_closed = closed;
	link_leave_core(l, false);
	if (l->local_gone || l->core == LINK_RELEASED)
		answer_detach(l);
	maybe_free(l);
}

void link_forget(struct link *l, bool failed)
{
	pn_link_t *pn = l->pn;

	if (pn) {
		pn_link_set_context(pn, NULL);
		gate_disown(&l->connection->gate, l->handle_key, l);
	}
	link_leave_core(l, failed);
	l->pn = NULL;
	if (pn)
		pn_decref(pn);
	l->session = NULL;
	list_remove(&l->node);
	maybe_free(l);
}

static void set_condition(pn_link_t *pn, const char *condition,
			  const char *text)
{
	pn_condition_t *c = pn_link_condition(pn);

	pn_condition_set_name(c, condition);
	pn_condition_set_description(c, text);
}

void link_refuse(struct connection *c, pn_link_t *pn, const char *condition,
		 const char *text)
{
	amqp_count(&c->amqp->links_refused);
	/* Ours would be enough, but go-amqp waits for the detach that says why
	 * only when both are missing. */
	pn_terminus_set_type(pn_link_source(pn), PN_UNSPECIFIED);
	pn_terminus_set_type(pn_link_target(pn), PN_UNSPECIFIED);
	pn_link_open(pn);
	set_condition(pn, condition, text);
	pn_link_close(pn);
	connection_wake(c);
}

void link_close(struct link *l, const char *condition, const char *text)
{
	if (!l->pn || l->local_gone)
		return;
	l->local_gone = true;
	logger_warn("amqp", "link-closed",
		    "peer=%s link=%s condition=%s text=%s",
		    loop_socket_peer(l->connection->socket),
		    LOGGER_QUOTE(pn_link_name(l->pn)), condition,
		    LOGGER_QUOTE(text));
	if (!(pn_link_state(l->pn) & PN_LOCAL_ACTIVE)) {
		link_refuse(l->connection, l->pn, condition, text);
	} else {
		set_condition(l->pn, condition, text);
		pn_link_close(l->pn);
	}
	link_leave_core(l, false);
	connection_wake(l->connection);
}
