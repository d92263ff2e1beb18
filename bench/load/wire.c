/* bench/load/wire.c: see wire.h. */
#include "bench/load/wire.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "bench/load/protocol.h"

#define IN_BYTES_FIRST (32u * 1024u)
#define IN_BYTES_READ_MAX (1u << 20) /* in one turn, so that all get one */
#define IN_BYTES_USUAL_MAX (256u * 1024u)
#define IN_BYTES_MAX (4 * PAYLOAD_BYTES_MAX)

void wire_fail(struct wire *w, const char *format, ...)
{
	va_list args;

	if (!w->failed) {
		va_start(args, format);
		vsnprintf(w->why, sizeof(w->why), format, args);
		va_end(args);
	}
	w->failed = true;
	w->state = WIRE_CLOSED;
}

void wire_remark(struct wire *w, const char *text, size_t len)
{
	if (!w->remark[0])
		snprintf(w->remark, sizeof(w->remark), "%.*s", (int)len, text);
}

void wire_become_ready(struct wire *w)
{
	if (w->state != WIRE_OPENING)
		return;
	w->state = WIRE_READY;
	w->ready(w);
}

/* ---- out ---- */

static void grow(struct wire_buffer *b, size_t more)
{
	if (b->at) {
		memmove(b->data, b->data + b->at, b->len - b->at);
		b->len -= b->at;
		b->at = 0;
	}
	if (b->len + more <= b->capacity)
		return;
	b->capacity = 2 * (b->len + more);
	b->data = realloc(b->data, b->capacity);
	ASSERT(b->data);
}

uint8_t *wire_room(struct wire *w, size_t len)
{
	if (w->out.len + len > w->out.capacity)
		grow(&w->out, len);
	return w->out.data + w->out.len;
}

void wire_commit(struct wire *w, size_t len)
{
	w->out.len += len;
}

void wire_put(struct wire *w, const void *data, size_t len)
{
	memcpy(wire_room(w, len), data, len);
	wire_commit(w, len);
}

void wire_putf(struct wire *w, const char *format, ...)
{
	size_t most = 512;
	va_list args;
	int n;

	for (;;) {
		char *to = (char *)wire_room(w, most);

		va_start(args, format);
		n = vsnprintf(to, most, format, args);
		va_end(args);
		ASSERT(n >= 0);
		if ((size_t)n < most)
			break;
		most = (size_t)n + 1;
	}
	wire_commit(w, (size_t)n);
}

void wire_put_payload(struct wire *w)
{
	payload_copy(&w->payload, 0, w->payload.len,
		     wire_room(w, w->payload.len));
	wire_commit(w, w->payload.len);
}

/* ---- the connection ---- */

static int prepare(struct wire *w)
{
	w->fd = -1;
	w->failed = false;
	w->why[0] = w->remark[0] = 0;
	w->sent = 0;
	w->in = w->out = (struct wire_buffer){0};
	w->part = calloc(1, w->protocol->part_bytes);
	if (!w->part)
		return -ENOMEM;
	w->state = WIRE_DIALING;
	return 0;
}

static void say_hello(struct wire *w)
{
	int err;

	w->state = WIRE_OPENING;
	err = w->protocol->open(w);
	if (err)
		wire_fail(w, "%s", err_str(err));
}

int wire_open_detached(struct wire *w)
{
	int err = prepare(w);

	if (!err)
		say_hello(w);
	return err;
}

int wire_open(struct wire *w, const struct sockaddr *to, socklen_t len)
{
	int err = prepare(w), on = 1;

	if (err)
		return err;
	w->fd = socket(to->sa_family,
		       SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (w->fd < 0) {
		err = -errno;
		free(w->part);
		w->part = NULL;
		w->state = WIRE_UNUSED;
		return err;
	}
	setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(w->fd, to, len) < 0 && errno != EINPROGRESS)
		wire_fail(w, "cannot connect: %s", err_str(-errno));
	return 0;
}

/* The first event on a socket that was connecting. */
static bool is_dialed(struct wire *w)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (w->state != WIRE_DIALING)
		return true;
	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err) {
		wire_fail(w, "cannot connect: %s", err_str(-err));
		return false;
	}
	say_hello(w);
	return !w->failed;
}

static void parse(struct wire *w)
{
	struct wire_buffer *in = &w->in;
	size_t n;

	while (in->at < in->len && w->state != WIRE_CLOSED &&
	       (n = w->protocol->input(w, in->data + in->at, in->len - in->at)))
		in->at += n;
	if (in->at == in->len)
		in->at = in->len = 0;
}

/* Room to read into.  A buffer that was filled grows: the peer has much to
 * say, or one unit is larger than it. */
static bool make_room(struct wire *w)
{
	struct wire_buffer *in = &w->in;
	size_t capacity = base_max(2 * in->capacity, IN_BYTES_FIRST);

	if (in->len < in->capacity)
		return true;
	if (in->at && in->capacity >= IN_BYTES_USUAL_MAX) {
		grow(in, in->at);
		return true;
	}
	if (capacity > IN_BYTES_MAX) {
		wire_fail(w, "the peer sent something larger than %u MiB",
			  IN_BYTES_MAX >> 21);
		return false;
	}
	in->data = realloc(in->data, capacity);
	ASSERT(in->data);
	in->capacity = capacity;
	return true;
}

void wire_feed(struct wire *w, const void *data, size_t len)
{
	grow(&w->in, len);
	memcpy(w->in.data + w->in.len, data, len);
	w->in.len += len;
	parse(w);
}

static void lost(struct wire *w, ssize_t got)
{
	const char *when =
		w->state == WIRE_OPENING ? " while it was being opened" : "";

	if (w->state == WIRE_CLOSING)
		w->state = WIRE_CLOSED;
	else if (got < 0)
		wire_fail(w, "the connection broke%s: %s", when,
			  err_str(-errno));
	else
		wire_fail(w, "the peer closed the connection%s", when);
}

void wire_read(struct wire *w)
{
	size_t left = IN_BYTES_READ_MAX;

	if (!is_dialed(w))
		return;
	while (left && w->state != WIRE_CLOSED && make_room(w)) {
		size_t room = w->in.capacity - w->in.len;
		ssize_t got = recv(w->fd, w->in.data + w->in.len, room, 0);

		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got <= 0) {
			lost(w, got);
			return;
		}
		w->in.len += (size_t)got;
		left -= base_min(left, (uint64_t)got);
		parse(w);
		if ((size_t)got < room)
			return;
	}
}

void wire_write(struct wire *w, uint64_t now_ns)
{
	struct wire_buffer *out = &w->out;

	if (w->fd < 0 || w->state == WIRE_CLOSED || !is_dialed(w))
		return;
	while (out->at < out->len) {
		ssize_t n = send(w->fd, out->data + out->at, out->len - out->at,
				 MSG_NOSIGNAL);

		if (n < 0) {
			if (errno == EAGAIN || errno == EINTR)
				return;
			lost(w, n);
			return;
		}
		out->at += (size_t)n;
		w->written_ns = now_ns;
	}
	out->at = out->len = 0;
}

bool wire_wants_write(const struct wire *w)
{
	return w->state == WIRE_DIALING || w->out.at < w->out.len;
}

void wire_flush(struct wire *w, uint64_t now_ns)
{
	if (w->state <= WIRE_DIALING || w->state == WIRE_CLOSED)
		return;
	if (w->protocol->flush)
		w->protocol->flush(w, now_ns);
	wire_write(w, now_ns);
}

bool wire_can_send(const struct wire *w, uint32_t lane)
{
	return w->state == WIRE_READY &&
	       w->out.len - w->out.at < WIRE_OUT_BYTES_SOFT &&
	       (!w->protocol->can_send || w->protocol->can_send(w, lane));
}

void wire_send(struct wire *w, uint32_t lane)
{
	w->protocol->send(w, lane);
}

void wire_close(struct wire *w)
{
	if (w->state <= WIRE_DIALING) {
		w->state = WIRE_CLOSED;
	} else if (w->state < WIRE_CLOSING) {
		w->state = WIRE_CLOSING;
		w->protocol->close(w);
	}
}

void wire_fini(struct wire *w)
{
	if (w->state == WIRE_UNUSED)
		return;
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	if (w->part && w->protocol->fini)
		w->protocol->fini(w);
	free(w->part);
	free(w->in.data);
	free(w->out.data);
	w->part = NULL;
	w->in = w->out = (struct wire_buffer){0};
	w->state = WIRE_UNUSED;
}

long long wire_number(const void *p)
{
	const uint8_t *at = p;
	bool negative = *at == '-';
	uint64_t n = 0;

	for (at += negative; *at >= '0' && *at <= '9'; at++)
		n = n > INT64_MAX / 20 ? n : n * 10 + (*at - '0');
	return negative ? -(long long)n : (long long)n;
}
