/* base/sim/sim_net.c: stream sockets in memory.
 *
 * A stream is two sockets that know each other; each holds what it has not
 * received yet.  An operation waits at its socket until it can do something,
 * then for a latency, and then does as much as is possible, or less.  Every
 * change of state ends in kick(), which schedules what has become possible.
 * A listener is found by port, and by address unless it listens on any. */
#include <string.h>

#include "base/sim/world.h"

#define BACKLOG_MAX 128u
#define CUT_RETRY_NS 10000000u /* how often a cut network is looked at */

static struct sim_socket *socket_of(struct loop_socket *s)
{
	return container_of(s, struct sim_socket, socket);
}

static struct sim_node *node_of(struct loop *l)
{
	return container_of(l->io, struct sim_node, io);
}

static void trace(struct sim_socket *s, const char *what, uint64_t a,
		  uint64_t b)
{
	sim_trace_event(s->node->sim, what, s->id, a, b, 0);
}

/* ---- readiness ---- */

static bool can_recv(const struct sim_socket *s)
{
	return s->in.len || s->shut || s->peer_shut || s->reset;
}

static bool can_send(const struct sim_socket *s)
{
	return s->shut || s->reset || !s->peer || s->peer->shut ||
	       s->peer->in.len < s->node->sim->config.socket_bytes;
}

static bool can_accept(const struct sim_socket *s)
{
	return s->shut || !list_empty(&s->backlog);
}

static void schedule(struct sim_socket *s, struct sim_op *op)
{
	struct sim *sim = s->node->sim;

	if (op && !op->event.index && !op->held)
		sim_schedule(sim, &op->event,
			     sim_rng_between(&sim->schedule,
					     sim->config.net_ns_min,
					     sim->config.net_ns_max));
}

static void kick(struct sim_socket *s)
{
	if (!s)
		return;
	if (can_recv(s))
		schedule(s, s->recv);
	if ((s->connected || s->shut) && can_send(s))
		schedule(s, s->send);
	if (s->listening && can_accept(s))
		schedule(s, s->accept);
}

/* Nothing passes a cut network, neither bytes nor the news of an end; what
 * has arrived can be read.  A stalled node does nothing. */
static bool hold(struct sim_op *op)
{
	struct sim_socket *s = op->socket, *peer = s->peer;
	bool apart = s->node->net_cut || (peer && peer->node->net_cut);

	if (sim_op_hold(op))
		return true;
	if (!apart || s->shut || (peer && peer->node == s->node))
		return false;
	if (op == s->recv && s->in.len)
		return false;
	sim_schedule(s->node->sim, &op->event, CUT_RETRY_NS);
	return true;
}

/* ---- transfers ---- */

static size_t transfer_len(struct sim *sim, size_t len)
{
	if (len > 1 && sim_rng_chance(&sim->fault, sim->config.partial_ppm))
		return 1 + sim_rng_below(&sim->fault, len);
	return len;
}

static void pipe_put(struct sim_pipe *p, const uint8_t *data, size_t n,
		     size_t capacity)
{
	size_t at = (p->head + p->len) % capacity;
	size_t first = base_min(n, capacity - at);

	if (!p->data)
		p->data = sim_alloc_zeroed(capacity);
	memcpy(p->data + at, data, first);
	memcpy(p->data, data + first, n - first);
	p->len += n;
}

static void pipe_get(struct sim_pipe *p, uint8_t *data, size_t n,
		     size_t capacity)
{
	size_t first = base_min(n, capacity - p->head);

	memcpy(data, p->data + p->head, first);
	memcpy(data + first, p->data, n - first);
	p->head = (p->head + n) % capacity;
	p->len -= n;
}

static void recv_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct sim_socket *s = op->socket;
	struct sim *sim = s->node->sim;
	size_t n = base_min(op->op->len, s->in.len);
	int res;

	if (hold(op) || !can_recv(s))
		return;
	if (s->shut) {
		res = 0;
	} else if (n) {
		n = transfer_len(sim, n);
		pipe_get(&s->in, op->op->buf, n, sim->config.socket_bytes);
		res = (int)n;
	} else {
		res = s->reset ? -ECONNRESET : 0;
	}
	s->recv = NULL;
	op->socket = NULL;
	sim_trace_event(sim, "recv", s->id, (uint64_t)(int64_t)res,
			res > 0 ? sim_hash_bytes(op->op->buf, n) : 0, 0);
	sim_op_finish(op, res);
	kick(s->peer);
}

static void send_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct sim_socket *s = op->socket, *peer = s->peer;
	struct sim *sim = s->node->sim;
	uint32_t capacity = sim->config.socket_bytes;
	int res;

	if (hold(op) || !can_send(s))
		return;
	if (!s->shut && !s->reset && peer && !peer->shut) {
		size_t n = base_min(op->op->len, capacity - peer->in.len);

		ASSERT(sim_hash_bytes(op->op->buf, op->op->len) ==
		       op->data_hash);
		n = transfer_len(sim, n);
		pipe_put(&peer->in, op->op->buf, n, capacity);
		res = (int)n;
	} else {
		res = s->reset ? -ECONNRESET : -EPIPE;
	}
	s->send = NULL;
	op->socket = NULL;
	trace(s, "send", (uint64_t)(int64_t)res, op->data_hash);
	sim_op_finish(op, res);
	kick(peer);
}

/* ---- making sockets ---- */

static void socket_init(struct sim_socket *s, struct sim_node *n,
			struct loop *l)
{
	s->socket.loop = l;
	s->socket.fd = -1;
	s->node = n;
	s->id = ++n->sim->serial;
	list_init(&s->listener_link);
	list_init(&s->backlog);
	list_init(&s->backlog_link);
	list_push(&n->sockets, &s->link);
}

static int socket_create(struct loop *l, struct sim_socket **ret)
{
	struct sim_socket *s;

	if (node_of(l)->dead)
		return -EIO;
	/* By malloc: loop.c frees the socket of a loop that is gone. */
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	socket_init(s, node_of(l), l);
	*ret = s;
	return 0;
}

static bool is_any(const char *address)
{
	return !*address || !strcmp(address, "0.0.0.0") ||
	       !strcmp(address, "::") || !strcmp(address, "*");
}

static bool is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strcmp(address, "::1") ||
	       !strcmp(address, "localhost");
}

static struct sim_socket *find_listener(struct sim *sim, const char *address,
					uint16_t port)
{
	list_for_each(at, &sim->listeners) {
		struct sim_socket *s =
			list_entry(at, struct sim_socket, listener_link);

		if (s->socket.port != port)
			continue;
		if (is_any(s->address) || is_any(address) ||
		    !strcmp(s->address, address) ||
		    (is_loopback(s->address) && is_loopback(address)))
			return s;
	}
	return NULL;
}

int sim_net_listen(struct loop *l, const char *address, uint16_t port,
		   struct loop_socket **ret)
{
	struct sim *sim = node_of(l)->sim;
	struct sim_socket *s;
	int r;

	if (port && find_listener(sim, address, port))
		return -EADDRINUSE;
	r = socket_create(l, &s);
	if (r)
		return r;
	while (!port) {
		port = sim->next_port++;
		if (find_listener(sim, "", port))
			port = 0;
	}
	snprintf(s->address, sizeof(s->address), "%s", address);
	s->socket.port = port;
	s->listening = true;
	list_push(&sim->listeners, &s->listener_link);
	trace(s, "listen", port, 0);
	*ret = &s->socket;
	return 0;
}

static void accept_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct sim_socket *s = op->socket;
	int res = -EINVAL;

	if (sim_op_hold(op) || !can_accept(s))
		return;
	if (!s->shut) {
		struct list *at = list_pop(&s->backlog);

		s->backlog_count--;
		res = list_entry(at, struct sim_socket, backlog_link)->token;
	}
	s->accept = NULL;
	op->socket = NULL;
	trace(s, "accept", (uint64_t)(int64_t)res, 0);
	sim_op_finish(op, res);
}

static void name_peers(struct sim_socket *client, struct sim_socket *server)
{
	bool near = is_loopback(client->address);

	server->socket.peer_is_loopback = near;
	client->socket.peer_is_loopback = near;
	if (near)
		snprintf(server->socket.peer, sizeof(server->socket.peer),
			 "127.0.0.1:%u", client->socket.port);
	else
		snprintf(server->socket.peer, sizeof(server->socket.peer),
			 "10.0.%u.%u:%u",
			 (unsigned)client->node->id / 256 % 256,
			 (unsigned)client->node->id % 256, client->socket.port);
	snprintf(client->socket.peer, sizeof(client->socket.peer), "%.40s:%u",
		 client->address, server->socket.port);
}

static int connect_now(struct sim_socket *client, uint16_t port)
{
	struct sim *sim = client->node->sim;
	struct sim_socket *server, *l;

	l = find_listener(sim, client->address, port);
	if (client->shut)
		return -ECANCELED;
	if (!l || l->shut || l->backlog_count == BACKLOG_MAX)
		return -ECONNREFUSED;
	if (l->node != client->node &&
	    (l->node->net_cut || client->node->net_cut))
		return -EHOSTUNREACH;
	server = sim_alloc_zeroed(sizeof(*server));
	socket_init(server, l->node, NULL);
	server->token = (int)(server->id & INT32_MAX);
	server->socket.port = port;
	client->socket.port = sim->next_port++;
	server->peer = client;
	client->peer = server;
	server->connected = client->connected = true;
	name_peers(client, server);
	list_push(&l->backlog, &server->backlog_link);
	l->backlog_count++;
	kick(l);
	return 0;
}

static void connect_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct sim_socket *s = op->socket;
	int res;

	if (sim_op_hold(op))
		return;
	res = connect_now(s, s->socket.port);
	s->connect = NULL;
	op->socket = NULL;
	trace(s, "connect", (uint64_t)(int64_t)res, 0);
	sim_op_finish(op, res);
}

int sim_net_connect(struct loop *l, struct loop_op *lop, const char *address,
		    uint16_t port, struct loop_socket **ret)
{
	struct sim_socket *s;
	int r = socket_create(l, &s);

	if (r)
		return r;
	snprintf(s->address, sizeof(s->address), "%s", address);
	s->socket.port = port; /* the peer's, until it has one */
	s->connect = sim_op_start(l, lop, connect_fire);
	ASSERT(s->connect);
	s->connect->socket = s;
	schedule(s, s->connect);
	*ret = &s->socket;
	return 0;
}

static struct sim_socket *find_token(struct sim_node *n, int token)
{
	list_for_each(at, &n->sockets) {
		struct sim_socket *s = list_entry(at, struct sim_socket, link);

		if (s->token == token && !s->socket.loop)
			return s;
	}
	return NULL;
}

int sim_net_adopt(struct loop *l, int token, struct loop_socket **ret)
{
	struct sim_socket *s = find_token(node_of(l), token);

	/* A dead node's tokens went with it. */
	if (node_of(l)->dead)
		return -EIO;
	ASSERT(s);
	s->token = 0;
	s->socket.loop = l;
	*ret = &s->socket;
	return 0;
}

void sim_net_refuse(struct loop *l, int token)
{
	struct sim_socket *s = find_token(node_of(l), token);

	if (s)
		sim_net_close(&s->socket);
}

/* ---- operations ---- */

void sim_net_submit(struct loop *l, struct loop_op *lop)
{
	struct sim_socket *s = socket_of(lop->socket);
	struct sim_op *op, **slot;

	if (lop->kind == ENGINE_ACCEPT) {
		op = sim_op_start(l, lop, accept_fire);
		slot = &s->accept;
	} else if (lop->kind == ENGINE_RECV) {
		op = sim_op_start(l, lop, recv_fire);
		slot = &s->recv;
	} else {
		op = sim_op_start(l, lop, send_fire);
		slot = &s->send;
	}
	if (!op)
		return;
	if (lop->kind == ENGINE_SEND)
		op->data_hash = sim_hash_bytes(lop->buf, lop->len);
	/* At most one of each is in flight. */
	ASSERT(!*slot);
	*slot = op;
	op->socket = s;
	kick(s);
}

void sim_net_forget(struct sim_op *op)
{
	struct sim_socket *s = op->socket;

	if (s->recv == op)
		s->recv = NULL;
	if (s->send == op)
		s->send = NULL;
	if (s->accept == op)
		s->accept = NULL;
	if (s->connect == op)
		s->connect = NULL;
	op->socket = NULL;
}

/* ---- ending ---- */

static void refuse_backlog(struct sim_socket *s)
{
	struct list *at;

	while ((at = list_pop(&s->backlog)))
		sim_net_close(&list_entry(at, struct sim_socket, backlog_link)
				       ->socket);
	s->backlog_count = 0;
}

void sim_net_shutdown(struct loop_socket *socket)
{
	struct sim_socket *s = socket_of(socket);

	if (s->shut)
		return;
	s->shut = true;
	list_remove(&s->listener_link);
	refuse_backlog(s);
	kick(s);
	schedule(s, s->connect);
	if (s->peer) {
		s->peer->peer_shut = true;
		kick(s->peer);
	}
}

/* Everything but the struct itself. */
static void detach(struct sim_socket *s)
{
	struct sim_socket *peer = s->peer;

	trace(s, "close", 0, 0);
	list_remove(&s->listener_link);
	list_remove(&s->backlog_link);
	refuse_backlog(s);
	if (peer) {
		/* TCP resets when what it had received was not read. */
		if (s->in.len)
			peer->reset = true;
		peer->peer_shut = true;
		peer->peer = NULL;
		s->peer = NULL;
		kick(peer);
	}
	list_remove(&s->link);
	sim_alloc_free(s->in.data);
	memset(&s->in, 0, sizeof(s->in));
}

void sim_net_orphan(struct sim_socket *s)
{
	detach(s);
	s->socket.loop = NULL;
}

void sim_net_close(struct loop_socket *socket)
{
	struct sim_socket *s = socket_of(socket);

	ASSERT(!s->recv && !s->send && !s->accept && !s->connect);
	detach(s);
	free(s);
}

void sim_net_die(struct sim_node *n)
{
	list_for_each_safe(at, &n->sockets) {
		struct sim_socket *s = list_entry(at, struct sim_socket, link);

		s->shut = true;
		list_remove(&s->listener_link);
		while (list_pop(&s->backlog)) {
		}
		s->backlog_count = 0;
		if (!s->peer)
			continue;
		s->peer->peer_shut = true;
		if (s->in.len || sim_rng_next(&n->sim->fault) & 1)
			s->peer->reset = true;
		kick(s->peer);
	}
}
