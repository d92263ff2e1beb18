/* tools/amqp_client.c: see amqp_client.h. */
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/crypto.h"
#include "tools/amqp_client.h"
#include "tools/amqp_sasl.h"
#include "tools/password.h"

#define READ_BYTES (128u * 1024u)
#define CLOSE_NS_MAX 5000000000ull

uint64_t amqp_client_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- where ---- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decode text[0..len) into out; false when it does not fit. */
static bool decode(const char *text, size_t len, char *out, size_t out_len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '%' && i + 2 < len + 0 &&
		    hex_digit(text[i + 1]) >= 0 &&
		    hex_digit(text[i + 2]) >= 0) {
			c = (char)(hex_digit(text[i + 1]) << 4 |
				   hex_digit(text[i + 2]));
			i += 2;
		}
		if (n + 1 >= out_len || !c)
			return false;
		out[n++] = c;
	}
	out[n] = 0;
	return true;
}

/* [amqp://][user[:password]@]host[:port][/] */
static bool split_url(struct amqp_access *a)
{
	const char *at = a->url, *end, *mark, *colon;

	if (!strncmp(at, "amqp://", 7))
		at += 7;
	else if (strstr(at, "://"))
		return false;
	end = at + strcspn(at, "/?");
	mark = memrchr(at, '@', (size_t)(end - at));
	if (mark) {
		colon = memchr(at, ':', (size_t)(mark - at));
		if (!decode(at, (size_t)((colon ? colon : mark) - at),
			    a->user_text, sizeof(a->user_text)))
			return false;
		if (colon && !decode(colon + 1, (size_t)(mark - colon - 1),
				     a->password, sizeof(a->password)))
			return false;
		at = mark + 1;
	}
	snprintf(a->port, sizeof(a->port), "5672");
	if (*at == '[') {
		mark = memchr(at, ']', (size_t)(end - at));
		if (!mark)
			return false;
		snprintf(a->host, sizeof(a->host), "%.*s", (int)(mark - at - 1),
			 at + 1);
		colon = mark[1] == ':' ? mark + 1 : NULL;
	} else {
		colon = memchr(at, ':', (size_t)(end - at));
		snprintf(a->host, sizeof(a->host), "%.*s",
			 (int)((colon ? colon : end) - at), at);
	}
	if (colon)
		snprintf(a->port, sizeof(a->port), "%.*s",
			 (int)(end - colon - 1), colon + 1);
	return a->host[0] && a->port[0] &&
	       strspn(a->port, "0123456789") == strlen(a->port);
}

int amqp_client_access(const char *command, struct amqp_access *a)
{
	int err;

	if (!split_url(a)) {
		fprintf(stderr,
			"%s: \"%s\" is not a broker's URL; it looks like "
			"amqp://127.0.0.1:5672\n",
			command, a->url);
		return 2;
	}
	if (a->user)
		snprintf(a->user_text, sizeof(a->user_text), "%s", a->user);
	if (a->password_file && !a->user_text[0]) {
		fprintf(stderr, "%s: --password-file needs --user\n", command);
		return 2;
	}
	if (!a->password_file)
		return 0;
	err = password_read(a->password_file, false, a->password,
			    sizeof(a->password));
	if (err) {
		fprintf(stderr, "%s: cannot read the password from %s: %s\n",
			command, a->password_file, err_str(err));
		return 1;
	}
	return 0;
}

static int dial_one(const struct addrinfo *to, int timeout_ms, int *ret_fd)
{
	int fd, err = 0, on = 1;
	socklen_t err_len = sizeof(err);
	struct pollfd wait;

	fd = socket(to->ai_family,
		    to->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, to->ai_addr, to->ai_addrlen) < 0) {
		err = -errno;
		if (err != -EINPROGRESS)
			goto fail;
		wait = (struct pollfd){.fd = fd, .events = POLLOUT};
		err = -ETIMEDOUT;
		if (poll(&wait, 1, timeout_ms) != 1)
			goto fail;
		err = 0;
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &err_len);
		err = -err;
		if (err)
			goto fail;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	*ret_fd = fd;
	return 0;
fail:
	close(fd);
	return err;
}

int amqp_client_dial(const struct amqp_access *a, int *ret_fd, char *why,
		     size_t why_len)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	int err = -EHOSTUNREACH, res;

	res = getaddrinfo(a->host, a->port, &hints, &list);
	if (res) {
		snprintf(why, why_len, "cannot find %s: %s", a->host,
			 gai_strerror(res));
		return -EHOSTUNREACH;
	}
	for (struct addrinfo *at = list; at; at = at->ai_next) {
		err = dial_one(at, (int)(a->connect_ns / 1000000u), ret_fd);
		if (!err)
			break;
	}
	freeaddrinfo(list);
	if (err)
		snprintf(why, why_len, "cannot connect to %s port %s: %s%s",
			 a->host, a->port, err_str(err),
			 err == -ECONNREFUSED
				 ? "; is holdfastd running there? (--url)"
				 : "");
	return err;
}

/* ---- failures ---- */

void amqp_client_fail(struct amqp_client *c, const char *format, ...)
{
	va_list args;

	if (c->failed)
		return;
	c->failed = true;
	va_start(args, format);
	vsnprintf(c->why, sizeof(c->why), format, args);
	va_end(args);
}

void amqp_client_fail_condition(struct amqp_client *c, const char *what,
				pn_condition_t *condition)
{
	const char *name, *text, *advice = "";

	if (!pn_condition_is_set(condition)) {
		amqp_client_fail(c, "%s", what);
		return;
	}
	name = pn_condition_get_name(condition);
	text = pn_condition_get_description(condition);
	if (name && !strcmp(name, "amqp:unauthorized-access"))
		advice = "; give --user and --password-file";
	amqp_client_fail(c, "%s: %s (%s)%s", what,
			 text && text[0] ? text : name,
			 name ? name : "no condition", advice);
}

/* ---- the connection ---- */

static void dispatch_own(struct amqp_client *c, pn_event_t *event)
{
	pn_condition_t *condition;

	switch ((int)pn_event_type(event)) {
	case PN_CONNECTION_REMOTE_CLOSE:
		condition = pn_connection_remote_condition(
			pn_event_connection(event));
		if (!c->closing || pn_condition_is_set(condition))
			amqp_client_fail_condition(
				c, "the broker closed the connection",
				condition);
		pn_connection_close(pn_event_connection(event));
		break;
	case PN_SESSION_REMOTE_CLOSE:
		if (!c->closing)
			amqp_client_fail_condition(
				c, "the broker ended the session",
				pn_session_remote_condition(
					pn_event_session(event)));
		pn_session_close(pn_event_session(event));
		break;
	case PN_TRANSPORT_ERROR:
		condition = pn_transport_condition(pn_event_transport(event));
		if (!c->closing)
			amqp_client_fail_condition(c, "the connection broke",
						   condition);
		break;
	case PN_TRANSPORT_CLOSED:
		if (!c->closing)
			amqp_client_fail(c, "the broker closed the connection");
		break;
	default:
		break;
	}
}

static void dispatch(struct amqp_client *c)
{
	pn_event_t *event;

	while ((event = pn_connection_driver_next_event(&c->driver))) {
		if (c->event)
			c->event(c, event);
		dispatch_own(c, event);
	}
	if (c->turn && !c->closing && !c->failed) {
		c->turn(c);
		while ((event = pn_connection_driver_next_event(&c->driver))) {
			if (c->event)
				c->event(c, event);
			dispatch_own(c, event);
		}
	}
}

static void read_some(struct amqp_client *c)
{
	pn_rwbytes_t room =
		pn_connection_driver_read_buffer_sized(&c->driver, READ_BYTES);
	ssize_t n;

	if (!room.size)
		return;
	n = recv(c->fd, room.start, room.size, 0);
	if (n > 0)
		pn_connection_driver_read_done(&c->driver, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		pn_connection_driver_read_close(&c->driver);
}

/* True when something went out: there is room for more. */
static bool write_some(struct amqp_client *c)
{
	bool wrote = false;

	for (;;) {
		pn_bytes_t out = pn_connection_driver_write_buffer(&c->driver);
		ssize_t n;

		if (!out.size)
			break;
		n = send(c->fd, out.start, out.size, MSG_NOSIGNAL);
		if (n < 0) {
			if (errno == EAGAIN || errno == EINTR)
				break;
			pn_connection_driver_write_close(&c->driver);
			break;
		}
		pn_connection_driver_write_done(&c->driver, (size_t)n);
		wrote = true;
	}
	if (pn_connection_driver_write_closed(&c->driver))
		shutdown(c->fd, SHUT_WR);
	return wrote;
}

int amqp_client_open(struct amqp_client *c, struct amqp_access *a)
{
	pn_connection_t *connection;
	char container[64];
	int err;

	c->fd = -1;
	err = amqp_client_dial(a, &c->fd, c->why, sizeof(c->why));
	if (err) {
		c->failed = true;
		return err;
	}
	if (pn_connection_driver_init(&c->driver, NULL, NULL)) {
		amqp_client_fail(c, "out of memory");
		close(c->fd);
		c->fd = -1;
		return -ENOMEM;
	}
	connection = c->driver.connection;
	snprintf(container, sizeof(container), "holdfast-%d-%llx",
		 (int)getpid(), (unsigned long long)amqp_client_now_ns());
	pn_connection_set_container(connection, container);
	pn_connection_set_hostname(connection, a->host);
	amqp_sasl_use(c->driver.transport, connection, a->user_text,
		      a->password);
	pn_transport_set_max_frame(c->driver.transport, READ_BYTES);
	pn_connection_driver_bind(&c->driver);
	pn_connection_open(connection);
	c->ticked_ms = 0;
	return 0;
}

/* Heartbeats: the engine says when it wants to be asked again. */
static int tick(struct amqp_client *c, int timeout_ms)
{
	uint64_t now_ms = amqp_client_now_ns() / 1000000u;
	int64_t due = pn_transport_tick(c->driver.transport, (int64_t)now_ms);

	if (due > 0 && due - (int64_t)now_ms < timeout_ms)
		timeout_ms = (int)(due - (int64_t)now_ms);
	return timeout_ms < 0 ? 0 : timeout_ms;
}

void amqp_client_run(struct amqp_client *c, int timeout_ms)
{
	struct pollfd wait = {.fd = c->fd};

	dispatch(c);
	timeout_ms = tick(c, timeout_ms);
	/* turn() may have more to say at once; do not wait for the peer. */
	if (write_some(c))
		timeout_ms = 0;
	if (pn_connection_driver_finished(&c->driver)) {
		dispatch(c);
		c->finished = true;
		return;
	}
	if (!pn_connection_driver_read_closed(&c->driver) &&
	    pn_connection_driver_read_buffer(&c->driver).size)
		wait.events |= POLLIN;
	if (pn_connection_driver_write_buffer(&c->driver).size)
		wait.events |= POLLOUT;
	if (poll(&wait, 1, timeout_ms) > 0) {
		if (wait.revents & (POLLIN | POLLHUP | POLLERR))
			read_some(c);
	}
	dispatch(c);
	write_some(c);
	if (pn_connection_driver_finished(&c->driver)) {
		dispatch(c);
		c->finished = true;
	}
}

void amqp_client_close(struct amqp_client *c)
{
	uint64_t until = amqp_client_now_ns() + CLOSE_NS_MAX;

	c->closing = true;
	pn_connection_close(c->driver.connection);
	while (!c->finished && amqp_client_now_ns() < until)
		amqp_client_run(c, 100);
}

void amqp_client_fini(struct amqp_client *c)
{
	if (c->fd < 0)
		return;
	pn_connection_driver_destroy(&c->driver);
	close(c->fd);
	c->fd = -1;
}
