/* tools/bench_wire.c: see bench_wire.h. */
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "tools/bench_value.h"
#include "tools/bench_wire.h"

#define FRAME_MAX (256u * 1024u) /* ours */
#define IN_BYTES (512u * 1024u)
#define OUT_BYTES_SOFT (256u * 1024u)
#define MESSAGE_BYTES_MAX (1u << 30)
#define WINDOW 0x7fffffffu
#define TRANSFER_HEAD_BYTES 40u

enum performative {
	OPEN = 0x10,
	BEGIN = 0x11,
	ATTACH = 0x12,
	FLOW = 0x13,
	TRANSFER = 0x14,
	DISPOSITION = 0x15,
	DETACH = 0x16,
	END = 0x17,
	CLOSE = 0x18,
	SASL_MECHANISMS = 0x40,
	SASL_INIT = 0x41,
	SASL_OUTCOME = 0x44,
};

static const uint8_t header_amqp[8] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};
static const uint8_t header_sasl[8] = {'A', 'M', 'Q', 'P', 3, 1, 0, 0};

static void fail(struct bench_wire *w, const char *format, ...)
	PRINTF_LIKE(2, 3);
static void fail(struct bench_wire *w, const char *format, ...)
{
	va_list args;

	if (!w->failed) {
		va_start(args, format);
		vsnprintf(w->why, sizeof(w->why), format, args);
		va_end(args);
	}
	w->failed = true;
	w->state = BENCH_WIRE_CLOSED;
}

/* ---- writing ---- */

static void grow_out(struct bench_wire *w, size_t more)
{
	if (w->out_at) {
		memmove(w->out, w->out + w->out_at, w->out_len - w->out_at);
		w->out_len -= w->out_at;
		w->out_at = 0;
	}
	if (w->out_len + more > w->out_capacity) {
		w->out_capacity = 2 * (w->out_len + more);
		w->out = realloc(w->out, w->out_capacity);
		ASSERT(w->out);
	}
}

static uint8_t *room(struct bench_wire *w, size_t more)
{
	if (w->out_len + more > w->out_capacity)
		grow_out(w, more);
	return w->out + w->out_len;
}

static uint8_t *put8(uint8_t *p, unsigned v)
{
	*p = (uint8_t)v;
	return p + 1;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
	return p + 4;
}

static uint8_t *put_uint(uint8_t *p, uint32_t v)
{
	return put32(put8(p, 0x70), v);
}

static uint8_t *put_text(uint8_t *p, unsigned type, const char *text,
			 size_t len)
{
	p = put32(put8(p, type), (uint32_t)len);
	memcpy(p, text, len);
	return p + len;
}

/* Described list32 with a place for its size. */
static uint8_t *put_list(uint8_t *p, unsigned code, uint32_t count,
			 uint8_t **ret_size)
{
	p = put8(put8(put8(put8(p, 0x00), 0x53), code), 0xd0);
	*ret_size = p;
	return put32(put32(p, 0), count);
}

static void end_list(uint8_t *size, const uint8_t *end)
{
	put32(size, (uint32_t)(end - size - 4));
}

static uint8_t *begin_frame(struct bench_wire *w, unsigned type, size_t most)
{
	uint8_t *p = room(w, most + 8);

	return put8(put8(put8(put8(p + 4, 2), type), 0), 0);
}

static void end_frame(struct bench_wire *w, uint8_t *end)
{
	uint8_t *frame = w->out + w->out_len;

	put32(frame, (uint32_t)(end - frame));
	w->out_len += (size_t)(end - frame);
}

static void put_header(struct bench_wire *w, const uint8_t header[8])
{
	memcpy(room(w, 8), header, 8);
	w->out_len += 8;
}

static void write_sasl_init(struct bench_wire *w)
{
	const struct amqp_access *a = w->access;
	bool plain = a->user_text[0] != 0;
	uint8_t *p = begin_frame(w, 1, 700), *size;
	size_t user_len = strlen(a->user_text);
	size_t password_len = strlen(a->password);

	p = put_list(p, SASL_INIT, 2, &size);
	if (plain) {
		p = put_text(p, 0xb3, "PLAIN", 5);
		p = put8(p, 0xb0);
		p = put32(p, (uint32_t)(user_len + password_len + 2));
		p = put8(p, 0);
		memcpy(p, a->user_text, user_len);
		p = put8(p + user_len, 0);
		memcpy(p, a->password, password_len);
		p += password_len;
	} else {
		p = put_text(p, 0xb3, "ANONYMOUS", 9);
		p = put_text(p, 0xb0, "bench", 5);
	}
	end_list(size, p);
	end_frame(w, p);
}

static void write_open(struct bench_wire *w)
{
	uint8_t *p = begin_frame(w, 0, 512), *size;
	char id[64];
	int n = snprintf(id, sizeof(id), "holdfast-bench-%d-%d", (int)getpid(),
			 w->fd);

	p = put_list(p, OPEN, 4, &size);
	p = put_text(p, 0xb1, id, (size_t)n);
	p = put_text(p, 0xb1, w->access->host, strlen(w->access->host));
	p = put_uint(p, FRAME_MAX);
	p = put8(put8(put8(p, 0x60), 0), 0); /* channel-max 0 */
	end_list(size, p);
	end_frame(w, p);

	p = begin_frame(w, 0, 64);
	p = put_list(p, BEGIN, 4, &size);
	p = put8(p, 0x40);
	p = put_uint(p, 0);
	p = put_uint(p, WINDOW);
	p = put_uint(p, WINDOW);
	end_list(size, p);
	end_frame(w, p);
}

static void write_attach(struct bench_wire *w)
{
	size_t address_len = strlen(w->address);
	uint8_t *p = begin_frame(w, 0, 2 * address_len + 256), *size, *inner;

	p = put_list(p, ATTACH, w->sends ? 10 : 7, &size);
	p = put_text(p, 0xb1, "bench", 5);
	p = put_uint(p, 0);
	p = put8(p, w->sends ? 0x42 : 0x41); /* role */
	p = put8(put8(p, 0x50), 0);	     /* unsettled */
	p = put8(put8(p, 0x50), 0);	     /* first */
	for (unsigned i = 0; i < 2; i++) {
		bool theirs = (i == 1) == w->sends;

		p = put_list(p, 0x28 + i, 1, &inner);
		p = theirs ? put_text(p, 0xb1, w->address, address_len)
			   : put8(p, 0x40);
		end_list(inner, p);
	}
	if (w->sends) {
		p = put8(p, 0x40); /* unsettled map */
		p = put8(p, 0x42); /* incomplete-unsettled */
		p = put_uint(p, 0);
	}
	end_list(size, p);
	end_frame(w, p);
}

static void write_credit(struct bench_wire *w)
{
	uint8_t *p = begin_frame(w, 0, 64), *size;

	p = put_list(p, FLOW, 7, &size);
	p = put_uint(p, w->incoming_id);
	p = put_uint(p, WINDOW);
	p = put_uint(p, w->transfer_id);
	p = put_uint(p, WINDOW);
	p = put_uint(p, 0);
	p = put_uint(p, w->delivery_count);
	p = put_uint(p, w->credit_max);
	end_list(size, p);
	end_frame(w, p);
	w->credit = w->credit_max;
}

static void write_accept(struct bench_wire *w)
{
	uint8_t *p = begin_frame(w, 0, 64), *size;

	p = put_list(p, DISPOSITION, 5, &size);
	p = put8(p, 0x41);
	p = put_uint(p, w->settle_first);
	p = put_uint(p, w->settle_last);
	p = put8(p, 0x41);
	p = put8(put8(put8(put8(p, 0x00), 0x53), 0x24), 0x45);
	end_list(size, p);
	end_frame(w, p);
	w->unsettled = false;
}

/* Up to 256 bytes of head; the list is list8 because it fits. */
static void write_transfer(struct bench_wire *w, const uint8_t *data,
			   size_t len, bool first, bool more)
{
	uint8_t *p = begin_frame(w, 0, TRANSFER_HEAD_BYTES + len), *size;

	p = put8(put8(put8(put8(p, 0x00), 0x53), TRANSFER), 0xc0);
	size = p;
	p = put8(put8(p, 0), 6);
	p = put8(p, 0x43); /* handle 0 */
	p = put_uint(p, w->delivery_id);
	if (first) {
		p = put32(put8(put8(p, 0xa0), 4), w->delivery_id);
		p = put8(p, 0x43);
	} else {
		p = put8(put8(p, 0x40), 0x40);
	}
	p = put8(p, 0x42);
	p = put8(p, more ? 0x41 : 0x42);
	*size = (uint8_t)(p - size - 1);
	memcpy(p, data, len);
	end_frame(w, p + len);
	w->transfer_id++;
}

bool bench_wire_can_send(const struct bench_wire *w)
{
	return w->state == BENCH_WIRE_READY && w->credit && !w->partial_len &&
	       w->window_end != w->transfer_id &&
	       w->out_len - w->out_at < OUT_BYTES_SOFT;
}

static void keep_partial(struct bench_wire *w, const uint8_t *data, size_t len);

/* As much of a message from `at` on as the peer's window takes. */
static size_t write_pieces(struct bench_wire *w, const uint8_t *message,
			   size_t at, size_t len)
{
	size_t piece = w->frame_max - TRANSFER_HEAD_BYTES;

	while (at < len && w->window_end != w->transfer_id) {
		size_t n = base_min(piece, len - at);

		write_transfer(w, message + at, n, at == 0, at + n < len);
		at += n;
	}
	return at;
}

static void finish_send(struct bench_wire *w)
{
	w->delivery_id++;
	w->credit--;
}

void bench_wire_send(struct bench_wire *w, const void *message, size_t len)
{
	size_t at = write_pieces(w, message, 0, len);

	if (at == len) {
		finish_send(w);
		return;
	}
	keep_partial(w, message, len);
	w->partial_at = at;
}

/* The window moved: go on with the message that did not fit. */
static void go_on_sending(struct bench_wire *w)
{
	if (!w->sends || !w->partial_len ||
	    w->out_len - w->out_at >= OUT_BYTES_SOFT)
		return;
	w->partial_at =
		write_pieces(w, w->partial, w->partial_at, w->partial_len);
	if (w->partial_at < w->partial_len)
		return;
	w->partial_len = 0;
	finish_send(w);
}

/* ---- frames of the peer ---- */

static void fail_with_error(struct bench_wire *w, const char *what,
			    const struct bench_value *error)
{
	struct bench_value fields[2] = {{0}};
	struct bench_cursor in = {error->bytes, error->bytes + error->len,
				  false};

	if (error->kind == BENCH_VALUE_LIST) {
		for (uint32_t i = 0; i < error->count && i < 2; i++)
			fields[i] = bench_value_take(&in);
	}
	if (fields[0].kind != BENCH_VALUE_BYTES)
		fail(w, "%s", what);
	else if (fields[1].kind == BENCH_VALUE_BYTES)
		fail(w, "%s: %.*s (%.*s)", what, (int)fields[1].len,
		     fields[1].bytes, (int)fields[0].len, fields[0].bytes);
	else
		fail(w, "%s: %.*s", what, (int)fields[0].len, fields[0].bytes);
}

static uint32_t number_or(const struct bench_value *v, uint32_t otherwise)
{
	return v->kind == BENCH_VALUE_NUMBER ? (uint32_t)v->number : otherwise;
}

static void on_flow(struct bench_wire *w, const struct bench_value *f)
{
	uint32_t next_incoming = number_or(&f[0], 0);

	w->window_end = next_incoming + number_or(&f[1], 0);
	if (w->sends && f[4].kind == BENCH_VALUE_NUMBER &&
	    f[6].kind == BENCH_VALUE_NUMBER) {
		uint32_t seen = number_or(&f[5], 0);
		int32_t credit = (int32_t)(seen + (uint32_t)f[6].number -
					   w->delivery_id);

		w->credit = credit > 0 ? (uint32_t)credit : 0;
	}
}

static void on_attach(struct bench_wire *w, const struct bench_value *f)
{
	const struct bench_value *theirs = w->sends ? &f[6] : &f[5];

	/* A null terminus announces that a detach with the reason follows. */
	if (theirs->kind == BENCH_VALUE_NULL)
		return;
	w->delivery_count = number_or(&f[9], 0);
	w->state = BENCH_WIRE_READY;
	if (!w->sends)
		write_credit(w);
}

static void on_disposition(struct bench_wire *w, const struct bench_value *f)
{
	enum bench_wire_outcome outcome = BENCH_WIRE_OTHER;
	uint32_t first = number_or(&f[1], 0);

	if (!w->sends || f[0].number == 0)
		return;
	switch (f[4].descriptor) {
	case 0x24:
		outcome = BENCH_WIRE_ACCEPTED;
		break;
	case 0x25:
		outcome = BENCH_WIRE_REJECTED;
		break;
	case 0x26:
		outcome = BENCH_WIRE_RELEASED;
		break;
	default:
		break;
	}
	w->settled(w, first, number_or(&f[2], first), outcome);
}

static void keep_partial(struct bench_wire *w, const uint8_t *data, size_t len)
{
	if (w->partial_len + len > MESSAGE_BYTES_MAX) {
		fail(w, "a message is larger than 1 GiB");
		return;
	}
	if (w->partial_len + len > w->partial_capacity) {
		w->partial_capacity = 2 * (w->partial_len + len);
		w->partial = realloc(w->partial, w->partial_capacity);
		ASSERT(w->partial);
	}
	memcpy(w->partial + w->partial_len, data, len);
	w->partial_len += len;
}

static void finish_delivery(struct bench_wire *w)
{
	w->in_delivery = false;
	w->partial_len = 0;
	w->delivery_count++;
	if (w->credit)
		w->credit--;
	if (w->unsettled && w->settle_last + 1 != w->current_id)
		write_accept(w);
	if (!w->unsettled)
		w->settle_first = w->current_id;
	w->settle_last = w->current_id;
	w->unsettled = true;
}

static void on_transfer(struct bench_wire *w, const struct bench_value *f,
			const uint8_t *data, size_t len)
{
	bool more = f[5].number, aborted = f[9].number;

	w->incoming_id++;
	if (!w->in_delivery) {
		w->current_id = number_or(&f[1], 0);
		w->in_delivery = true;
	}
	if (aborted) {
		w->in_delivery = false;
		w->partial_len = 0;
		w->delivery_count++;
		if (w->credit)
			w->credit--;
		return;
	}
	if (more) {
		keep_partial(w, data, len);
		return;
	}
	if (w->partial_len) {
		keep_partial(w, data, len);
		w->message(w, w->partial, w->partial_len);
	} else {
		w->message(w, data, len);
	}
	finish_delivery(w);
}

static void on_frame(struct bench_wire *w, const uint8_t *data, size_t len)
{
	struct bench_cursor c = {data, data + len, false};
	struct bench_value f[14];
	uint64_t code;

	if (!len)
		return; /* a heartbeat */
	if (!bench_value_fields(&c, f, ARRAY_COUNT(f), &code)) {
		fail(w, "the broker sent a frame that is not AMQP 1.0");
		return;
	}
	switch (code) {
	case TRANSFER:
		if (w->state == BENCH_WIRE_READY)
			on_transfer(w, f, c.p, (size_t)(c.end - c.p));
		break;
	case DISPOSITION:
		on_disposition(w, f);
		break;
	case FLOW:
		on_flow(w, f);
		break;
	case OPEN:
		w->frame_max = (uint32_t)base_min(number_or(&f[2], FRAME_MAX),
						  FRAME_MAX);
		if (w->frame_max < 512)
			fail(w, "the broker's max-frame-size is below 512");
		w->idle_ms = number_or(&f[4], 0);
		break;
	case BEGIN:
		w->incoming_id = number_or(&f[1], 0);
		w->window_end = number_or(&f[2], 0);
		write_attach(w);
		break;
	case ATTACH:
		on_attach(w, f);
		break;
	case DETACH:
		if (w->state != BENCH_WIRE_CLOSING)
			fail_with_error(w, "the broker closed the link", &f[2]);
		break;
	case END:
		if (w->state != BENCH_WIRE_CLOSING)
			fail_with_error(w, "the broker ended the session",
					&f[0]);
		break;
	case CLOSE:
		if (w->state != BENCH_WIRE_CLOSING)
			fail_with_error(w, "the broker closed the connection",
					&f[0]);
		w->state = BENCH_WIRE_CLOSED;
		break;
	default:
		break;
	}
}

static void on_sasl_frame(struct bench_wire *w, const uint8_t *data, size_t len)
{
	struct bench_cursor c = {data, data + len, false};
	struct bench_value f[4];
	uint64_t code;

	if (!bench_value_fields(&c, f, ARRAY_COUNT(f), &code)) {
		fail(w, "the broker sent a SASL frame that is not AMQP 1.0");
	} else if (code == SASL_MECHANISMS) {
		write_sasl_init(w);
	} else if (code == SASL_OUTCOME && f[0].number == 0) {
		put_header(w, header_amqp);
		write_open(w);
		w->state = BENCH_WIRE_HEADER;
	} else if (code == SASL_OUTCOME) {
		fail(w, "the broker refused the login; give --user and "
			"--password-file");
	}
}

static bool expect_header(struct bench_wire *w, const uint8_t *p,
			  const uint8_t want[8])
{
	if (memcmp(p, want, 8) == 0)
		return true;
	fail(w, "the peer does not speak AMQP 1.0%s",
	     want == header_sasl ? " with SASL" : "");
	return false;
}

/* Handle one header or frame at p; its length, or 0 when it is not whole. */
static size_t handle(struct bench_wire *w, const uint8_t *p, size_t len)
{
	uint32_t size;
	unsigned offset;

	if (len < 8)
		return 0;
	if (w->state == BENCH_WIRE_SASL_HEADER) {
		if (expect_header(w, p, header_sasl))
			w->state = BENCH_WIRE_SASL;
		return 8;
	}
	if (w->state == BENCH_WIRE_HEADER) {
		if (expect_header(w, p, header_amqp))
			w->state = BENCH_WIRE_OPENING;
		return 8;
	}
	memcpy(&size, p, 4);
	size = __builtin_bswap32(size);
	offset = 4u * p[4];
	if (size < 8 || offset < 8 || offset > size || size > FRAME_MAX) {
		fail(w, "the broker sent a frame with a wrong size (%u)", size);
		return 0;
	}
	if (len < size)
		return 0;
	if (w->state == BENCH_WIRE_SASL)
		on_sasl_frame(w, p + offset, size - offset);
	else
		on_frame(w, p + offset, size - offset);
	return size;
}

/* ---- socket ---- */

void bench_wire_read(struct bench_wire *w)
{
	size_t at = 0, n;
	ssize_t got;

	got = recv(w->fd, w->in + w->in_len, w->in_capacity - w->in_len, 0);
	if (got <= 0) {
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (w->state == BENCH_WIRE_CLOSING)
			w->state = BENCH_WIRE_CLOSED;
		else
			fail(w, "the connection broke: %s",
			     got ? err_str(-errno) : "closed by the broker");
		return;
	}
	w->in_len += (size_t)got;
	while (w->state != BENCH_WIRE_CLOSED &&
	       (n = handle(w, w->in + at, w->in_len - at)))
		at += n;
	memmove(w->in, w->in + at, w->in_len - at);
	w->in_len -= at;
}

void bench_wire_flush(struct bench_wire *w, uint64_t now_ns)
{
	if (w->state == BENCH_WIRE_CLOSED)
		return;
	if (w->unsettled)
		write_accept(w);
	go_on_sending(w);
	if (w->state == BENCH_WIRE_READY && !w->sends &&
	    w->credit <= w->credit_max / 2)
		write_credit(w);
	if (w->out_at == w->out_len && w->idle_ms &&
	    now_ns - w->written_ns > (uint64_t)w->idle_ms * 300000u)
		end_frame(w, begin_frame(w, 0, 0));
	while (w->out_at < w->out_len) {
		ssize_t n = send(w->fd, w->out + w->out_at,
				 w->out_len - w->out_at, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				fail(w, "the connection broke: %s",
				     err_str(-errno));
			return;
		}
		w->out_at += (size_t)n;
		w->written_ns = now_ns;
	}
	w->out_at = w->out_len = 0;
}

bool bench_wire_wants_write(const struct bench_wire *w)
{
	return w->out_at < w->out_len;
}

int bench_wire_open(struct bench_wire *w, const struct amqp_access *access,
		    const char *address)
{
	int err;

	w->access = access;
	w->address = address;
	w->fd = -1;
	w->state = BENCH_WIRE_SASL_HEADER;
	w->frame_max = 512;
	err = amqp_client_dial(access, &w->fd, w->why, sizeof(w->why));
	if (err) {
		w->failed = true;
		w->state = BENCH_WIRE_CLOSED;
		return err;
	}
	w->in_capacity = IN_BYTES;
	w->in = malloc(w->in_capacity);
	if (!w->in)
		return -ENOMEM;
	put_header(w, header_sasl);
	return 0;
}

void bench_wire_close(struct bench_wire *w)
{
	uint8_t *p, *size;

	if (w->state == BENCH_WIRE_CLOSED)
		return;
	if (w->unsettled)
		write_accept(w);
	p = begin_frame(w, 0, 64);
	p = put_list(p, DETACH, 2, &size);
	p = put_uint(p, 0);
	p = put8(p, 0x41);
	end_list(size, p);
	end_frame(w, p);
	p = begin_frame(w, 0, 32);
	p = put_list(p, CLOSE, 0, &size);
	end_list(size, p);
	end_frame(w, p);
	w->state = BENCH_WIRE_CLOSING;
}

void bench_wire_fini(struct bench_wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	free(w->in);
	free(w->out);
	free(w->partial);
	w->in = w->out = w->partial = NULL;
}
