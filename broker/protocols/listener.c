/* broker/protocols/listener.c: accepting, counting, sniffing, handing over.
 *
 * An accepted socket is a token until a shard adopts it.  What is under way
 * between accept and the adaptor is counted, so that the connection limit
 * holds while mail is on its way. */
#include "broker/protocols/listener.h"

#include <stdatomic.h>
#include <string.h>

#include "base/logger.h"
#include "broker/protocols/amqp/amqp.h"

#define SNIFF_NS (10ull * 1000 * 1000 * 1000)
/* Enough for what others say first: a socket closed with unread bytes would
 * be reset, and the answer lost with it. */
#define SNIFF_BYTES 1024u

struct listener {
	struct listener_options options;
	bool sniff; /* any:// */
	char url[128];
	struct loop_socket *socket;
	uint16_t port;
	struct loop_op accept_op;
	bool accepting, full_logged, error_logged;
	struct loop_timer retry_timer;
	unsigned next_shard;
	_Atomic bool stopping;
	struct loop_mail stop_mail;
	_Atomic uint32_t under_way;
};

/* One connection between accept and the adaptor. */
struct arrival {
	struct loop_mail mail;
	struct listener *listener;
	struct loop *loop;
	unsigned shard;
	int token;
	/* any:// */
	struct loop_socket *socket;
	struct loop_op op;
	struct loop_timer timer;
	uint8_t data[SNIFF_BYTES];
	size_t len;
	bool answered;
};

static void accept_next(struct listener *l);

static void arrival_end(struct arrival *a)
{
	loop_timer_cancel(a->loop, &a->timer);
	atomic_fetch_sub(&a->listener->under_way, 1);
	free(a);
}

/* ---- sniffing ---- */

static void arrival_close(struct arrival *a)
{
	loop_socket_close(a->socket);
	arrival_end(a);
}

static void answer_sent(struct loop_op *op, int res)
{
	arrival_close(container_of(op, struct arrival, op));
}

static const char *protocol_name(const struct arrival *a)
{
	static const struct {
		const char *begins, *name;
	} known[] = {
		{"CONN", "STOMP"}, {"STOM", "STOMP"},	{"GET ", "HTTP"},
		{"POST", "HTTP"},  {"HEAD", "HTTP"},	{"PUT ", "HTTP"},
		{"OPTI", "HTTP"},  {"\x16\x03", "TLS"}, {"\x10", "MQTT"},
	};

	for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
		size_t n = strlen(known[i].begins);

		if (a->len >= n && !memcmp(a->data, known[i].begins, n))
			return known[i].name;
	}
	return "unknown";
}

static void answer_other(struct arrival *a)
{
	static const char line[] =
		"Holdfast: this port speaks AMQP 1.0 only\r\n";

	logger_warn("listener", "wrong-protocol",
		    "listen=%s peer=%s protocol=%s", a->listener->url,
		    loop_socket_peer(a->socket), protocol_name(a));
	a->answered = true;
	a->op.done = answer_sent;
	loop_send(a->loop, &a->op, a->socket, line, sizeof(line) - 1);
}

static void sniffed(struct loop_op *op, int res)
{
	struct arrival *a = container_of(op, struct arrival, op);

	if (res <= 0) {
		arrival_close(a);
		return;
	}
	a->len += (size_t)res;
	if (memcmp(a->data, "AMQP", base_min(a->len, 4)) != 0) {
		answer_other(a);
		return;
	}
	if (a->len < 4) {
		loop_recv(a->loop, op, a->socket, a->data + a->len,
			  sizeof(a->data) - a->len);
		return;
	}
	amqp_accept(a->listener->options.amqp, a->shard, a->socket, a->data,
		    a->len);
	arrival_end(a);
}

static void sniff_timeout(struct loop_timer *timer)
{
	struct arrival *a = container_of(timer, struct arrival, timer);

	/* The operation in flight ends with this, and the arrival with it. */
	loop_socket_shutdown(a->socket);
}

/* ---- on the shard ---- */

static void arrived(struct loop_mail *mail)
{
	struct arrival *a = container_of(mail, struct arrival, mail);
	struct listener *l = a->listener;

	if (atomic_load(&l->stopping)) {
		loop_refuse(a->loop, a->token);
		arrival_end(a);
		return;
	}
	if (loop_adopt(a->loop, a->token, &a->socket) != 0) {
		arrival_end(a);
		return;
	}
	if (!l->sniff) {
		amqp_accept(l->options.amqp, a->shard, a->socket, NULL, 0);
		arrival_end(a);
		return;
	}
	a->op.done = sniffed;
	a->timer.fire = sniff_timeout;
	loop_timer_set(a->loop, &a->timer, SNIFF_NS);
	loop_recv(a->loop, &a->op, a->socket, a->data, sizeof(a->data));
}

/* ---- accepting ---- */

static void hand_over(struct listener *l, int token)
{
	struct arrival *a = calloc(1, sizeof(*a));
	struct shard *shard;

	if (!a) {
		loop_refuse(l->options.loop, token);
		return;
	}
	a->listener = l;
	a->token = token;
	a->shard = l->next_shard++ % core_shard_count(l->options.core);
	shard = core_shard(l->options.core, a->shard);
	a->loop = shard_loop(shard);
	a->mail.deliver = arrived;
	atomic_fetch_add(&l->under_way, 1);
	loop_post(a->loop, &a->mail);
}

static bool is_full(struct listener *l)
{
	uint32_t count = amqp_connection_count(l->options.amqp) +
			 atomic_load(&l->under_way);

	if (count < l->options.connection_max) {
		l->full_logged = false;
		return false;
	}
	if (!l->full_logged)
		logger_warn("listener", "connection-limit",
			    "listen=%s limit=%u", l->url,
			    l->options.connection_max);
	l->full_logged = true;
	return true;
}

static void retry(struct loop_timer *timer)
{
	accept_next(container_of(timer, struct listener, retry_timer));
}

static void accepted(struct loop_op *op, int res)
{
	struct listener *l = container_of(op, struct listener, accept_op);

	l->accepting = false;
	if (atomic_load(&l->stopping)) {
		if (res >= 0)
			loop_refuse(l->options.loop, res);
		loop_socket_close(l->socket);
		l->socket = NULL;
		return;
	}
	if (res < 0) {
		/* Out of descriptors, most likely: trying at once would spin.
		 */
		if (!l->error_logged)
			logger_warn("listener", "accept-failed",
				    "listen=%s error=%s", l->url,
				    LOGGER_QUOTE(err_str(res)));
		l->error_logged = true;
		loop_timer_set(l->options.loop, &l->retry_timer,
			       100ull * 1000 * 1000);
		return;
	}
	l->error_logged = false;
	if (is_full(l))
		loop_refuse(l->options.loop, res);
	else
		hand_over(l, res);
	accept_next(l);
}

static void accept_next(struct listener *l)
{
	if (atomic_load(&l->stopping) || l->accepting)
		return;
	l->accepting = true;
	loop_accept(l->options.loop, &l->accept_op, l->socket);
}

/* ---- life ---- */

/* scheme://ADDRESS:PORT, where an IPv6 address is in brackets. */
static int parse_url(struct listener *l, const char *url, char *host,
		     size_t host_size, uint16_t *ret_port)
{
	const char *at, *colon;
	char *end;
	unsigned long port;
	size_t len;

	if (strncmp(url, "amqp://", 7) != 0 && strncmp(url, "any://", 6) != 0)
		return -E_CONFIG;
	l->sniff = url[1] == 'n';
	at = strstr(url, "://") + 3;
	colon = strrchr(at, ':');
	if (!colon || colon == at || !colon[1])
		return -E_CONFIG;
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > UINT16_MAX)
		return -E_CONFIG;
	len = (size_t)(colon - at);
	if (at[0] == '[' && colon[-1] == ']') {
		at++;
		len -= 2;
	}
	if (!len || len >= host_size)
		return -E_CONFIG;
	memcpy(host, at, len);
	host[len] = '\0';
	*ret_port = (uint16_t)port;
	return 0;
}

int listener_create(const struct listener_options *options, const char *url,
		    struct listener **ret)
{
	struct listener *l = calloc(1, sizeof(*l));
	char host[256];
	uint16_t port;
	int err;

	if (!l)
		return -ENOMEM;
	l->options = *options;
	if (!l->options.connection_max)
		l->options.connection_max = 10000;
	snprintf(l->url, sizeof(l->url), "%s", url);
	l->accept_op.done = accepted;
	l->retry_timer.fire = retry;
	err = parse_url(l, url, host, sizeof(host), &port);
	if (!err)
		err = loop_listen(options->loop, host, port, &l->socket);
	if (err) {
		free(l);
		return err;
	}
	l->port = loop_socket_port(l->socket);
	*ret = l;
	return 0;
}

void listener_start(struct listener *l)
{
	logger_info("listener", "listening", "listen=%s port=%u", l->url,
		    l->port);
	accept_next(l);
}

static void stop_arrived(struct loop_mail *mail)
{
	struct listener *l = container_of(mail, struct listener, stop_mail);

	loop_timer_cancel(l->options.loop, &l->retry_timer);
	/* The accept in flight ends with this, and closes the socket. */
	if (l->accepting) {
		loop_socket_shutdown(l->socket);
	} else {
		loop_socket_close(l->socket);
		l->socket = NULL;
	}
}

void listener_stop(struct listener *l)
{
	if (atomic_exchange(&l->stopping, true))
		return;
	l->stop_mail.deliver = stop_arrived;
	loop_post(l->options.loop, &l->stop_mail);
}

void listener_free(struct listener *l)
{
	if (!l)
		return;
	loop_socket_close(l->socket);
	free(l);
}

uint16_t listener_port(const struct listener *l)
{
	return l->port;
}
