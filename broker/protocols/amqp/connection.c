/* broker/protocols/amqp/connection.c: one connection's bytes and life.
 *
 * Input goes straight into Proton's buffer; only whole frames that the gate
 * has passed are handed on, so Proton's own buffer is empty between reads and
 * an unfinished frame lies at its start.  Output is collected at the end of
 * the loop's iteration, so that hundreds of dispositions leave in one write,
 * and is copied into a buffer of ours, so that Proton may go on while a send
 * is in flight.
 *
 * Nothing is freed from inside a call that others make into a connection:
 * ends are marked here and carried out in the flush task. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

#define CLOSE_PATIENCE_MS 5000u
#define ERROR_PATIENCE_MS 1000u
#define NS_PER_MS 1000000ull

static void on_recv(struct loop_op *op, int res);
static void on_send(struct loop_op *op, int res);

/* ---- settling ----
 *
 * A settled delivery has its dispositions to write and its place in Proton's
 * tables to leave.  Proton takes a reference and drops it again at each of
 * these steps, to see whether that was the last, and finalizes the delivery
 * each time for nothing.  With a reference of ours, until the output has been
 * taken, only the last time is left.  Without memory for the list, or when that
 * is full, it takes just longer. */

void connection_settle(struct connection *c, pn_delivery_t *d)
{
	if (!c->settled)
		c->settled = amqp_settled_take(c->home);
	if (c->settled && c->settled->count < AMQP_SETTLED_MAX) {
		pn_incref(d);
		c->settled->deliveries[c->settled->count++] = d;
	}
	pn_delivery_settle(d);
}

static void release_settled(struct connection *c)
{
	if (!c->settled)
		return;
	for (uint32_t i = 0; i < c->settled->count; i++)
		pn_decref(c->settled->deliveries[i]);
	amqp_settled_give(c->home, c->settled);
	c->settled = NULL;
}

/* ---- ends ---- */

static void maybe_free(struct connection *c)
{
	if (!c->torn || c->receiving || c->sending)
		return;
	if (c->socket) {
		release_settled(c);
		pn_connection_driver_destroy(&c->driver);
		loop_socket_close(c->socket);
		c->socket = NULL;
		amqp_buffer_give(c->home, c->out);
		c->out = NULL;
		gate_fini(&c->gate);
	}
	if (c->holds)
		return;
	loop_undefer(c->loop, &c->flush_task);
	loop_timer_cancel(c->loop, &c->timer);
	list_remove(&c->node);
	amqp_count(&c->amqp->closed);
	atomic_fetch_sub(&c->amqp->connection_count, 1);
	free(c);
}

void connection_release(struct connection *c)
{
	ASSERT(c->holds);
	c->holds--;
	maybe_free(c);
}

static void tear_down(struct connection *c)
{
	if (c->torn)
		return;
	endpoint_end_all(c);
	loop_timer_cancel(c->loop, &c->timer);
	loop_socket_shutdown(c->socket);
	if (c->opened)
		logger_info("amqp", "connection-closed",
			    "peer=%s user=%s container=%s clean=%s",
			    loop_socket_peer(c->socket), LOGGER_QUOTE(c->user),
			    LOGGER_QUOTE(c->container),
			    c->broken ? "false" : "true");
	/* The last: links that the core had let go before are freed above, and
	 * the connection with the last of them, were this said already. */
	c->torn = true;
}

static void set_dead(struct connection *c)
{
	c->state = CONNECTION_DEAD;
	connection_wake(c);
}

void connection_break(struct connection *c)
{
	if (c->state == CONNECTION_DEAD)
		return;
	if (c->state != CONNECTION_CLOSING)
		c->broken = true;
	set_dead(c);
}

static void arm_timer(struct connection *c);

static void set_closing(struct connection *c, uint32_t patience_ms)
{
	c->state = CONNECTION_CLOSING;
	c->deadline_ns = loop_now_ns(c->loop) + patience_ms * NS_PER_MS;
	arm_timer(c);
	connection_wake(c);
}

void connection_close(struct connection *c, const char *condition,
		      const char *text)
{
	pn_connection_t *pn = c->driver.connection;

	if (c->state >= CONNECTION_CLOSING)
		return;
	/* Without the AMQP layer there is no frame to say it with. */
	if (c->gate.phase < GATE_OPEN) {
		connection_break(c);
		return;
	}
	set_closing(c, c->close_wanted
			       ? (uint32_t)base_max(
					 c->amqp->close_patience_ms / 2, 1)
			       : ERROR_PATIENCE_MS);
	if (c->gate.phase == GATE_OPEN) {
		/* Proton holds its close back until the peer's open, except
		 * when it believes to have found the error itself. */
		pn_connection_driver_errorf(&c->driver, condition, "%s", text);
		pn_connection_driver_read_close(&c->driver);
		return;
	}
	pn_connection_open(pn);
	pn_condition_set_name(pn_connection_condition(pn), condition);
	pn_condition_set_description(pn_connection_condition(pn), text);
	pn_connection_close(pn);
}

/* Proton's Python binding (0.37) stops reading after a close that it did not
 * ask for, also after a forced one, and so never notices that the socket is
 * gone: its consumers would hang for good over every restart.  When the socket
 * just ends it reconnects, as every client that can reconnect does.  It says
 * nothing of itself, so it is known by what all of Proton's bindings say. */
static bool is_deaf(pn_connection_t *pn)
{
	return pn_transport_remote_channel_max(pn_connection_transport(pn)) ==
		       32767 &&
	       pn_data_size(pn_connection_remote_properties(pn)) == 0;
}

static void close_forced(struct connection *c)
{
	if (c->deaf && c->state == CONNECTION_OPEN) {
		c->dropping = true;
		set_closing(c, CLOSE_PATIENCE_MS);
		return;
	}
	connection_close(c, "amqp:connection:forced", c->amqp->close_text);
}

void connection_drain(struct connection *c)
{
	if (c->state >= CONNECTION_CLOSING)
		return;
	c->close_wanted = true;
	if (c->in_flight == 0 || c->state == CONNECTION_HANDSHAKE) {
		close_forced(c);
		return;
	}
	c->deadline_ns = loop_now_ns(c->loop) +
			 c->amqp->close_patience_ms / 2 * NS_PER_MS;
	arm_timer(c);
}

void connection_settled(struct connection *c)
{
	ASSERT(c->in_flight);
	c->in_flight--;
	if (c->close_wanted && c->in_flight == 0 && c->state == CONNECTION_OPEN)
		close_forced(c);
	connection_wake(c);
}

void connection_failed(struct connection *c)
{
	pn_condition_t *why = pn_transport_condition(c->driver.transport);
	const char *name = pn_condition_get_name(why);
	const char *text = pn_condition_get_description(why);

	if (c->state >= CONNECTION_CLOSING)
		return;
	if (!c->sasl_failed) {
		amqp_count(&c->amqp->protocol_errors);
		logger_warn("amqp", "protocol-error",
			    "peer=%s user=%s condition=%s text=%s",
			    loop_socket_peer(c->socket), LOGGER_QUOTE(c->user),
			    LOGGER_QUOTE(name ? name : ""),
			    LOGGER_QUOTE(text ? text : ""));
	}
	c->broken = true;
	set_closing(c, ERROR_PATIENCE_MS);
}

void connection_remote_closed(struct connection *c)
{
	pn_connection_t *pn = c->driver.connection;

	pn_connection_open(pn);
	pn_connection_close(pn);
	if (c->state < CONNECTION_CLOSING)
		set_closing(c, CLOSE_PATIENCE_MS);
	connection_wake(c);
}

/* ---- time ---- */

/* Proton wants milliseconds above zero. */
static int64_t now_ms(struct connection *c)
{
	return (int64_t)(loop_now_ns(c->loop) / NS_PER_MS) + 1;
}

static void arm_timer(struct connection *c)
{
	uint64_t now = loop_now_ns(c->loop), after = UINT64_MAX;
	uint32_t remote;

	if (c->torn)
		return;
	if (c->deadline_ns)
		after = c->deadline_ns > now ? c->deadline_ns - now : 0;
	if (c->state == CONNECTION_OPEN) {
		int64_t due = pn_transport_tick(c->driver.transport, now_ms(c));

		if (due > 0)
			after = base_min(after,
					 due > now_ms(c)
						 ? (uint64_t)(due - now_ms(c)) *
							   NS_PER_MS
						 : NS_PER_MS);
		/* Proton measures from when it is asked, so ask often enough
		 * for a heartbeat in good time. */
		remote = pn_transport_get_remote_idle_timeout(
			c->driver.transport);
		if (remote)
			after = base_min(after,
					 base_max(remote / 4, 1) * NS_PER_MS);
	}
	if (after != UINT64_MAX)
		loop_timer_set(c->loop, &c->timer, after);
}

static void on_timer(struct loop_timer *timer)
{
	struct connection *c = container_of(timer, struct connection, timer);

	if (c->deadline_ns && loop_now_ns(c->loop) >= c->deadline_ns) {
		switch (c->state) {
		case CONNECTION_HANDSHAKE:
			logger_warn("amqp", "handshake-timeout", "peer=%s",
				    loop_socket_peer(c->socket));
			connection_break(c);
			return;
		case CONNECTION_OPEN:
			close_forced(c);
			return;
		case CONNECTION_CLOSING:
			set_dead(c);
			return;
		case CONNECTION_DEAD:
			return;
		}
	}
	arm_timer(c);
	connection_wake(c);
}

/* ---- output ---- */

static void start_recv(struct connection *c);

void connection_wake(struct connection *c)
{
	loop_defer(c->loop, &c->flush_task);
}

static void send_rest(struct connection *c)
{
	c->sending = true;
	loop_send(c->loop, &c->send_op, c->socket, c->out->data + c->out_at,
		  c->out_len - c->out_at);
}

/* Moves what Proton has into our buffer.  True: Proton has no more. */
static bool collect(struct connection *c)
{
	c->out_len = c->out_at = 0;
	for (;;) {
		pn_bytes_t b = pn_connection_driver_write_buffer(&c->driver);
		size_t space = AMQP_SEND_BYTES - c->out_len;

		if (!b.size)
			return true;
		if (b.size > space) {
			if (c->out_len)
				return false;
			b.size = space;
		}
		memcpy(c->out->data + c->out_len, b.start, b.size);
		c->out_len += b.size;
		pn_connection_driver_write_done(&c->driver, b.size);
	}
}

static void recount_fed(struct connection *c)
{
	c->fed = 0;
	list_for_each(n, &c->sessions) {
		struct session *s = list_entry(n, struct session, node);

		c->fed += pn_session_outgoing_bytes(s->pn);
	}
}

static void send_more(struct connection *c)
{
	if (c->sending || !c->socket)
		return;
	c->out = amqp_buffer_take(c->home);
	if (!c->out) {
		connection_break(c);
		return;
	}
	link_in_renew(c);
	if (collect(c))
		recount_fed(c);
	release_settled(c);
	if (c->out_len) {
		send_rest(c);
		return;
	}
	amqp_buffer_give(c->home, c->out);
	c->out = NULL;
}

static void on_send(struct loop_op *op, int res)
{
	struct connection *c = container_of(op, struct connection, send_op);

	c->sending = false;
	if (c->state == CONNECTION_DEAD) {
		connection_wake(c);
		maybe_free(c);
		return;
	}
	if (res <= 0 || c->alien) {
		connection_break(c);
		return;
	}
	c->out_at += (size_t)res;
	if (c->out_at < c->out_len) {
		send_rest(c);
		return;
	}
	amqp_buffer_give(c->home, c->out);
	c->out = NULL;
	connection_wake(c);
}

/* Everything is said: our close has left, and the peer's has come or its side
 * is shut. */
static bool is_finished(const struct connection *c)
{
	if (c->dropping)
		return !c->sending;
	return !c->sending && !c->alien &&
	       pn_transport_head_closed(c->driver.transport) &&
	       (c->sasl_failed ||
		(pn_connection_state(c->driver.connection) & PN_REMOTE_CLOSED));
}

static void on_flush(struct loop_task *task)
{
	struct connection *c =
		container_of(task, struct connection, flush_task);

	if (c->state != CONNECTION_DEAD) {
		endpoint_dispatch(c);
		link_out_pump(c);
		send_more(c);
		/* The last write may have made room, and it made events. */
		if (c->state != CONNECTION_DEAD) {
			link_out_pump(c);
			endpoint_dispatch(c);
		}
		if (c->state != CONNECTION_DEAD && is_finished(c))
			c->state = CONNECTION_DEAD;
	}
	if (c->state == CONNECTION_DEAD) {
		tear_down(c);
		maybe_free(c);
	} else {
		start_recv(c);
	}
}

/* ---- input ---- */

static void start_recv(struct connection *c)
{
	pn_rwbytes_t b;

	if (c->receiving || c->alien || c->state == CONNECTION_DEAD)
		return;
	c->sinking = pn_connection_driver_read_closed(&c->driver) ||
		     c->gate.phase == GATE_CLOSED;
	if (c->sinking) {
		c->receiving = true;
		loop_recv(c->loop, &c->recv_op, c->socket, c->sink,
			  sizeof(c->sink));
		return;
	}
	if (c->blocked && c->state == CONNECTION_OPEN)
		return;
	if (c->gate.phase == GATE_SASL_ANSWER)
		return;
	b = pn_connection_driver_read_buffer_sized(&c->driver, c->want);
	if (b.size <= c->have) {
		connection_break(c); /* no memory for a larger buffer */
		return;
	}
	c->receiving = true;
	c->asked = b.size - c->have;
	loop_recv(c->loop, &c->recv_op, c->socket, b.start + c->have, c->asked);
}

/* Tell a peer that does not speak AMQP 1.0 what is spoken here, as AMQP 1.0
 * part 2, section 2.2 wants it, and go. */
static void answer_alien(struct connection *c)
{
	static const char header[] = "AMQP\x03\x01\x00\x00";

	logger_warn("amqp", "wrong-protocol", "peer=%s",
		    loop_socket_peer(c->socket));
	amqp_count(&c->amqp->protocol_errors);
	if (c->sending) {
		connection_break(c);
		return;
	}
	c->alien = true;
	c->sending = true;
	loop_send(c->loop, &c->send_op, c->socket, header, 8);
}

static void refuse_input(struct connection *c, const struct gate_error *e)
{
	amqp_count(&c->amqp->protocol_errors);
	logger_warn("amqp", "protocol-error",
		    "peer=%s user=%s condition=%s text=%s",
		    loop_socket_peer(c->socket), LOGGER_QUOTE(c->user),
		    e->condition, LOGGER_QUOTE(e->text));
	connection_close(c, e->condition, e->text);
	c->broken = true;
	c->have = 0;
	/* What follows can not be told apart any more. */
	c->gate.phase = GATE_CLOSED;
}

/* Hand to Proton what the gate passes of the bytes in its buffer. */
static void process_input(struct connection *c)
{
	while (c->have && c->state != CONNECTION_DEAD) {
		pn_rwbytes_t b = pn_connection_driver_read_buffer(&c->driver);
		struct gate_news news;
		struct gate_error e;
		enum gate_verdict verdict;
		size_t len;

		if (!b.size) {
			c->have = 0; /* Proton takes no more */
			return;
		}
		verdict = gate_scan(&c->gate, (const uint8_t *)b.start, c->have,
				    &len, &news, &e);
		if (len) {
			endpoint_input(c, len, &news);
			memmove(b.start, b.start + len, c->have - len);
			c->have -= len;
		}
		switch (verdict) {
		case GATE_PASS:
			if (!len)
				return;
			break;
		case GATE_PAUSE:
			if (c->gate.phase == GATE_SASL_ANSWER)
				return;
			break; /* it was answered at once */
		case GATE_DROP:
			c->have = 0;
			return;
		case GATE_ALIEN:
			answer_alien(c);
			c->have = 0;
			return;
		case GATE_BAD:
			refuse_input(c, &e);
			return;
		}
	}
}

/* Proton refuses some frames without saying why. */
static void check_silent_refusal(struct connection *c)
{
	if (c->state < CONNECTION_CLOSING &&
	    pn_connection_driver_read_closed(&c->driver) &&
	    !pn_condition_is_set(pn_transport_condition(c->driver.transport)))
		connection_close(c, "amqp:decode-error",
				 "a frame could not be decoded");
}

static void after_input(struct connection *c)
{
	const pn_rwbytes_t b =
		c->have ? pn_connection_driver_read_buffer(&c->driver)
			: (pn_rwbytes_t){0, NULL};

	if (c->have && b.size)
		c->want = base_max(
			c->want,
			gate_frame_bytes((const uint8_t *)b.start, c->have));
	check_silent_refusal(c);
	connection_wake(c);
	start_recv(c);
}

static void on_recv(struct loop_op *op, int res)
{
	struct connection *c = container_of(op, struct connection, recv_op);

	c->receiving = false;
	if (c->state == CONNECTION_DEAD) {
		maybe_free(c);
		return;
	}
	if (res <= 0) {
		connection_break(c);
		return;
	}
	if (c->sinking) {
		start_recv(c);
		return;
	}
	if (c->idle_off && !c->blocked) {
		c->idle_off = false;
		pn_transport_set_idle_timeout(c->driver.transport,
					      c->amqp->options.idle_timeout_ms);
	}
	c->have += (size_t)res;
	/* A full buffer says that there is more: read in larger pieces. */
	if ((size_t)res == c->asked)
		c->want =
			base_min(c->want * 4, c->amqp->options.frame_bytes_max);
	process_input(c);
	after_input(c);
}

void connection_resume(struct connection *c)
{
	if (c->state == CONNECTION_DEAD)
		return;
	process_input(c);
	after_input(c);
}

/* While we do not read, silence is our doing and not the peer's death. */
void connection_block(struct connection *c, bool blocked)
{
	if (blocked) {
		if (c->blocked++ == 0 && !c->idle_off && c->driver.transport) {
			c->idle_off = true;
			pn_transport_set_idle_timeout(c->driver.transport, 0);
		}
		return;
	}
	ASSERT(c->blocked);
	if (--c->blocked == 0 && !c->torn)
		start_recv(c);
}

void connection_opened(struct connection *c, const char *container)
{
	snprintf(c->container, sizeof(c->container), "%s", container);
	if (!c->user[0])
		snprintf(c->user, sizeof(c->user), "anonymous");
	c->deaf = is_deaf(c->driver.connection);
	c->opened = true;
	c->state = CONNECTION_OPEN;
	c->deadline_ns = 0;
	loop_timer_cancel(c->loop, &c->timer);
	arm_timer(c);
	logger_info("amqp", "connection-opened", "peer=%s user=%s container=%s",
		    loop_socket_peer(c->socket), LOGGER_QUOTE(c->user),
		    LOGGER_QUOTE(c->container));
}

/* ---- beginning ---- */

static void ignore_log(intptr_t context, pn_log_subsystem_t subsystem,
		       pn_log_level_t level, const char *message)
{
}

static int setup_proton(struct connection *c)
{
	const struct amqp_options *o = &c->amqp->options;
	pn_transport_t *t;

	if (pn_connection_driver_init(&c->driver, NULL, NULL) != 0)
		return -ENOMEM;
	t = c->driver.transport;
	pn_transport_set_server(t);
	/* What matters arrives as events and is logged once, here. */
	pn_logger_set_log_sink(pn_transport_logger(t), ignore_log, 0);
	pn_logger_reset_mask(pn_transport_logger(t), PN_SUBSYSTEM_ALL,
			     PN_LEVEL_ALL);
	pn_transport_set_max_frame(t, o->frame_bytes_max);
	pn_transport_set_channel_max(t, o->channel_max);
	pn_transport_set_idle_timeout(t, o->idle_timeout_ms);
	sasl_start(c);
	pn_connection_set_container(c->driver.connection, o->container_id);
	pn_connection_set_context(c->driver.connection, c);
	pn_connection_driver_bind(&c->driver);
	return 0;
}

static struct connection *connection_create(struct amqp_shard *home,
					    struct loop_socket *socket)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->amqp = home->amqp;
	c->home = home;
	c->loop = home->loop;
	c->socket = socket;
	c->want = 8192;
	c->recv_op.done = on_recv;
	c->send_op.done = on_send;
	c->flush_task.run = on_flush;
	c->timer.fire = on_timer;
	list_init(&c->hungry);
	list_init(&c->sessions);
	gate_init(&c->gate, c->amqp->options.frame_bytes_max,
		  c->amqp->options.channel_max,
		  c->amqp->options.connection_link_max);
	if (setup_proton(c) != 0) {
		free(c);
		return NULL;
	}
	list_push(&home->connections, &c->node);
	atomic_fetch_add(&c->amqp->connection_count, 1);
	amqp_count(&c->amqp->opened);
	return c;
}

void amqp_accept(struct amqp *a, unsigned shard_index,
		 struct loop_socket *socket, const void *data, size_t len)
{
	struct amqp_shard *home = &a->shards[shard_index];
	struct connection *c;
	pn_rwbytes_t b;

	ASSERT(shard_index < a->shard_count && len <= 4096);
	c = home->closing ? NULL : connection_create(home, socket);
	if (!c) {
		loop_socket_close(socket);
		return;
	}
	c->deadline_ns =
		loop_now_ns(c->loop) + a->options.handshake_ms * NS_PER_MS;
	arm_timer(c);
	b = pn_connection_driver_read_buffer(&c->driver);
	if (b.size < len) {
		connection_break(c);
		return;
	}
	if (len)
		memcpy(b.start, data, len);
	c->have = len;
	process_input(c);
	after_input(c);
}
