/* broker/protocols/amqp/endpoint.c: Proton's events, and sessions. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

static const char anonymous_relay[] = "ANONYMOUS-RELAY";

static void put_symbol_key(pn_data_t *d, const char *key, const char *value)
{
	pn_data_put_symbol(d, pn_bytes(strlen(key), key));
	pn_data_put_string(d, pn_bytes(strlen(value), value));
}

static void on_open(struct connection *c, pn_connection_t *pn)
{
	const char *container = pn_connection_remote_container(pn);
	pn_data_t *d = pn_connection_offered_capabilities(pn);

	pn_data_put_array(d, false, PN_SYMBOL);
	pn_data_enter(d);
	pn_data_put_symbol(d,
			   pn_bytes(strlen(anonymous_relay), anonymous_relay));
	pn_data_exit(d);
	d = pn_connection_properties(pn);
	pn_data_put_map(d);
	pn_data_enter(d);
	put_symbol_key(d, "product", "holdfast");
	put_symbol_key(d, "version", HOLDFAST_VERSION);
	pn_data_exit(d);
	connection_opened(c, container ? container : "");
	pn_connection_open(pn);
}

/* ---- sessions ---- */

static void on_session_open(struct connection *c, pn_session_t *pn)
{
	const struct amqp_options *o = &c->amqp->options;
	struct session *s = calloc(1, sizeof(*s));

	if (!s) {
		connection_close(c, "amqp:internal-error", "out of memory");
		return;
	}
	s->connection = c;
	s->pn = pn;
	list_init(&s->links);
	list_push(&c->sessions, &s->node);
	pn_session_set_context(pn, s);
	pn_session_set_incoming_capacity(pn, (size_t)o->session_window *
						     o->frame_bytes_max);
	pn_session_open(pn);
}

static void session_end(struct session *s, bool failed)
{
	list_for_each_safe(n, &s->links)
		link_forget(list_entry(n, struct link, node), failed);
	pn_session_set_context(s->pn, NULL);
	list_remove(&s->node);
	free(s);
}

static void on_session_close(struct connection *c, pn_session_t *pn)
{
	struct session *s = pn_session_get_context(pn);

	if (!s)
		return;
	session_end(s, false);
	pn_session_close(pn);
	pn_session_free(pn);
	connection_wake(c);
}

void endpoint_end_all(struct connection *c)
{
	list_for_each_safe(n, &c->sessions)
		session_end(list_entry(n, struct session, node), c->broken);
}

/* ---- links ---- */

static void on_link_open(struct connection *c, pn_link_t *pn)
{
	struct session *s = pn_session_get_context(pn_link_session(pn));
	bool known;
	struct link *l;
	uint64_t key;

	/* Proton tells of attaches in the order in which they came. */
	known = gate_next_attach(&c->gate, &key);
	if (!s || c->state != CONNECTION_OPEN || c->close_wanted)
		return;
	if (s->link_count >= c->amqp->options.session_link_max) {
		link_refuse(c, pn, "amqp:resource-limit-exceeded",
			    "too many links on this session");
		return;
	}
	if (pn_link_is_sender(pn))
		link_out_attach(s, pn);
	else
		link_in_attach(s, pn);
	l = pn_link_get_context(pn);
	if (l && known) {
		l->handle_key = key;
		gate_own(&c->gate, key, l);
	}
}

static void on_link_gone(pn_link_t *pn, bool closed)
{
	struct link *l = pn_link_get_context(pn);

	if (l)
		link_remote_gone(l, closed);
	else if (pn_link_state(pn) & PN_LOCAL_CLOSED)
		pn_link_free(pn); /* it was refused at once */
}

static void flowed(struct link *l)
{
	if (l->local_gone)
		return;
	if (l->sender)
		link_out_flow(l);
	else
		link_in_flow(l);
}

static void on_link_flow(pn_link_t *pn)
{
	struct link *l = pn_link_get_context(pn);

	if (l)
		flowed(l);
}

static void on_updated(pn_delivery_t *d)
{
	struct link *l = pn_link_get_context(pn_delivery_link(d));

	if (l && l->sender)
		link_out_updated(l, d);
	else if (l)
		link_in_updated(l, d);
}

static void on_delivery(pn_delivery_t *d)
{
	pn_link_t *pn = pn_delivery_link(d);
	struct link *l = pn_link_get_context(pn);

	if (pn_delivery_updated(d))
		on_updated(d);
	if (pn_link_is_sender(pn))
		return;
	if (l)
		link_in_receive(l);
	else /* sent before the peer has seen that the link is gone */
		pn_delivery_settle(d);
}

static void handle(struct connection *c, pn_event_t *e)
{
	switch (pn_event_type(e)) {
	case PN_DELIVERY:
		on_delivery(pn_event_delivery(e));
		break;
	case PN_LINK_FLOW:
		on_link_flow(pn_event_link(e));
		break;
	case PN_LINK_REMOTE_OPEN:
		on_link_open(c, pn_event_link(e));
		break;
	case PN_LINK_REMOTE_CLOSE:
		on_link_gone(pn_event_link(e), true);
		break;
	case PN_LINK_REMOTE_DETACH:
		on_link_gone(pn_event_link(e), false);
		break;
	case PN_SESSION_REMOTE_OPEN:
		on_session_open(c, pn_event_session(e));
		break;
	case PN_SESSION_REMOTE_CLOSE:
		on_session_close(c, pn_event_session(e));
		break;
	case PN_CONNECTION_REMOTE_OPEN:
		on_open(c, pn_event_connection(e));
		break;
	case PN_CONNECTION_REMOTE_CLOSE:
		connection_remote_closed(c);
		break;
	case PN_TRANSPORT_ERROR:
		connection_failed(c);
		break;
	default:
		break;
	}
}

/* ---- without events ----
 *
 * An event costs Proton more than what it tells of, and transfers, flows and
 * dispositions bring one each: a sixth of what a message costs.  The gate has
 * read these frames already and says which links they name; which deliveries
 * have a new outcome is in Proton's work list.  So a connection whose peer
 * sends nothing else has its events turned off.
 *
 * They are back before Proton sees any other frame.  It then tells of every
 * session and link that there is, once more, which nobody listens to but which
 * costs; so they are turned off only after as many frames as make up for it.
 *
 * What else may happen meanwhile is that Proton gives the connection up: then
 * the transport has a condition. */

static void set_quiet(struct connection *c, bool quiet)
{
	c->quiet = quiet;
	c->calm = 0;
	pn_connection_collect(c->driver.connection,
			      quiet ? NULL : c->driver.collector);
}

/* Handling one may take it off the list, and none but it.  Proton would have
 * its events used instead of the list; that is what is too dear. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static void take_updates(struct connection *c)
{
	pn_delivery_t *d = pn_work_head(c->driver.connection), *next;

	for (; d; d = next) {
		next = pn_work_next(d);
		if (pn_delivery_updated(d))
			on_updated(d);
	}
}

#pragma GCC diagnostic pop

static void take_news(struct connection *c, const struct gate_news *news)
{
	for (uint32_t i = 0; i < news->touched_count; i++) {
		struct link *l = news->touched[i]->owner;

		if (!l)
			continue; /* it ended by what came before */
		if (news->touched[i]->news & GATE_TRANSFER)
			link_in_receive(l);
		if (news->touched[i]->news & GATE_FLOW)
			flowed(l);
	}
	if (news->dispositions)
		take_updates(c);
}

void endpoint_input(struct connection *c, size_t len,
		    const struct gate_news *news)
{
	if (news->other) {
		c->calm = 0;
		if (c->quiet)
			set_quiet(c, false);
	} else if (!c->quiet) {
		c->calm += news->frames;
		if (c->calm > 2 * (c->gate.handle_count + 8)) {
			endpoint_dispatch(c);
			set_quiet(c, true);
		}
	}
	pn_connection_driver_read_done(&c->driver, len);
	if (c->quiet)
		take_news(c, news);
	endpoint_dispatch(c);
	gate_forget_attaches(&c->gate);
}

void endpoint_dispatch(struct connection *c)
{
	pn_event_t *e;

	if (c->quiet) {
		if (c->state < CONNECTION_CLOSING &&
		    pn_condition_is_set(
			    pn_transport_condition(c->driver.transport)))
			connection_failed(c);
		return;
	}
	while ((e = pn_connection_driver_next_event(&c->driver)))
		handle(c, e);
}
