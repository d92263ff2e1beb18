/* bench/load/amqp.c: AMQP 1.0, for Holdfast, Artemis, RabbitMQ and others.
 *
 * One session, one link for each lane.  Nothing is declared: attaching to an
 * address makes its queue where the broker does such things.  With fan-out
 * senders attach to the topic and receivers to "topic::queue", as Holdfast and
 * Artemis have it; the setup attaches, too, so that no queue comes too late.
 *
 * Deliveries of all links share one count of delivery ids, so a delivery id is
 * the number of the message on this wire. */
#include <errno.h>
#include <string.h>

#include "bench/load/amqp_frames.h"
#include "bench/load/protocol.h"
#include "tools/bench_value.h"

#define FRAME_BYTES_MIN 512u
#define PEER_TEXT_MAX 160u

enum step {
	STEP_SASL_HEADER,
	STEP_SASL,
	STEP_HEADER,
	STEP_FRAMES,
};

struct link {
	uint32_t credit, delivery_count;
	bool attached;
	/* the delivery that is coming in several frames */
	bool in_delivery;
	uint32_t delivery_id;
	uint8_t *partial;
	size_t partial_len, partial_capacity;
};

struct amqp {
	enum step step;
	uint32_t frame_bytes_max; /* the peer's */
	uint32_t idle_ms;	  /* the peer's */
	uint32_t transfer_id;	  /* next outgoing */
	uint32_t window_end;	  /* first id that the peer does not take */
	uint32_t incoming_id;	  /* next incoming */
	uint32_t attached;
	struct link *links;
	uint32_t *lanes; /* by the peer's handle */
	/* the message that did not fit into the peer's window */
	bool stuck;
	struct payload stuck_payload;
	uint32_t stuck_lane, stuck_id;
	size_t stuck_at;
	/* received deliveries that wait for a disposition */
	bool unsettled;
	uint32_t settle_first, settle_last;
};

static const uint8_t header_amqp[8] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};
static const uint8_t header_sasl[8] = {'A', 'M', 'Q', 'P', 3, 1, 0, 0};

static void grant_credit(struct wire *w, uint32_t lane)
{
	struct amqp *a = w->part;
	struct link *l = &a->links[lane];

	amqp_frames_credit(w, lane, l->delivery_count, a->incoming_id,
			   a->transfer_id);
	l->credit = w->terms->credit;
}

static void accept_all(struct wire *w)
{
	struct amqp *a = w->part;

	if (a->unsettled)
		amqp_frames_accept(w, a->settle_first, a->settle_last);
	a->unsettled = false;
}

/* ---- sending ---- */

/* As much as the peer's window takes; where it stopped. */
static size_t send_pieces(struct wire *w, const struct payload *payload,
			  uint32_t lane, uint32_t id, size_t at)
{
	struct amqp *a = w->part;
	size_t len = amqp_frames_message_len(payload);
	size_t most = a->frame_bytes_max - AMQP_FRAMES_TRANSFER_BYTES;

	while (at < len && a->window_end != a->transfer_id) {
		size_t n = base_min(most, len - at);

		amqp_frames_transfer(w, payload, lane, id, at, n);
		a->transfer_id++;
		at += n;
	}
	return at;
}

static bool amqp_can_send(const struct wire *w, uint32_t lane)
{
	const struct amqp *a = w->part;

	return a->links[lane].credit && !a->stuck &&
	       a->window_end != a->transfer_id;
}

static void amqp_send(struct wire *w, uint32_t lane)
{
	struct amqp *a = w->part;
	size_t at = send_pieces(w, &w->payload, lane, (uint32_t)w->sent, 0);

	a->links[lane].credit--;
	a->links[lane].delivery_count++;
	if (at == amqp_frames_message_len(&w->payload))
		return;
	a->stuck = true;
	a->stuck_payload = w->payload;
	a->stuck_lane = lane;
	a->stuck_id = (uint32_t)w->sent;
	a->stuck_at = at;
}

/* The window moved: go on with what did not fit. */
static void go_on(struct wire *w)
{
	struct amqp *a = w->part;

	if (!a->stuck || w->out.len - w->out.at >= WIRE_OUT_BYTES_SOFT)
		return;
	a->stuck_at = send_pieces(w, &a->stuck_payload, a->stuck_lane,
				  a->stuck_id, a->stuck_at);
	a->stuck = a->stuck_at < amqp_frames_message_len(&a->stuck_payload);
}

/* ---- frames of the peer ---- */

/* "what: description (condition)". */
static void describe(const struct bench_value *error, char *buf, size_t buf_len)
{
	struct bench_value f[2] = {{0}};
	struct bench_cursor in = {error->bytes, error->bytes + error->len,
				  false};

	buf[0] = 0;
	if (error->kind != BENCH_VALUE_LIST)
		return;
	for (uint32_t i = 0; i < error->count && i < 2; i++)
		f[i] = bench_value_take(&in);
	if (f[0].kind != BENCH_VALUE_BYTES)
		return;
	if (f[1].kind == BENCH_VALUE_BYTES)
		snprintf(buf, buf_len, ": %.*s (%.*s)",
			 (int)base_min(f[1].len, PEER_TEXT_MAX), f[1].bytes,
			 (int)base_min(f[0].len, PEER_TEXT_MAX), f[0].bytes);
	else
		snprintf(buf, buf_len, ": %.*s",
			 (int)base_min(f[0].len, PEER_TEXT_MAX), f[0].bytes);
}

static void fail_error(struct wire *w, const char *what,
		       const struct bench_value *error)
{
	char text[2 * PEER_TEXT_MAX + 16];

	describe(error, text, sizeof(text));
	wire_fail(w, "%s%s", what, text);
}

static uint32_t number_or(const struct bench_value *v, uint32_t otherwise)
{
	return v->kind == BENCH_VALUE_NUMBER ? (uint32_t)v->number : otherwise;
}

/* The lane of a handle of the peer's; lane_count when there is none. */
static uint32_t lane_of(const struct wire *w, const struct bench_value *handle)
{
	const struct amqp *a = w->part;
	uint32_t at = number_or(handle, UINT32_MAX);

	return at < w->lane_count ? a->lanes[at] : w->lane_count;
}

static void on_open(struct wire *w, const struct bench_value *f)
{
	struct amqp *a = w->part;

	a->frame_bytes_max = (uint32_t)base_min(
		number_or(&f[2], AMQP_FRAMES_BYTES_MAX), AMQP_FRAMES_BYTES_MAX);
	a->idle_ms = number_or(&f[4], 0);
	if (a->frame_bytes_max < FRAME_BYTES_MIN)
		wire_fail(w, "the peer's max-frame-size is below 512");
}

static void on_begin(struct wire *w, const struct bench_value *f)
{
	struct amqp *a = w->part;

	a->incoming_id = number_or(&f[1], 0);
	a->window_end = number_or(&f[2], 0);
	for (uint32_t i = 0; i < w->lane_count; i++)
		amqp_frames_attach(w, i);
}

/* The answer to one of our attaches: its name ends in the lane. */
static void on_attach(struct wire *w, const struct bench_value *f)
{
	struct amqp *a = w->part;
	bool sends = w->role == WIRE_SENDER;
	uint32_t handle = number_or(&f[1], UINT32_MAX), lane = 0;
	size_t at = f[0].kind == BENCH_VALUE_BYTES ? f[0].len : 0;

	while (at && f[0].bytes[at - 1] != '.')
		at--;
	for (; at < f[0].len && lane < w->lane_count; at++)
		lane = lane * 10 + (uint32_t)(f[0].bytes[at] - '0');
	/* A null terminus announces that a detach with the reason follows. */
	if (f[sends ? 6 : 5].kind == BENCH_VALUE_NULL)
		return;
	if (lane >= w->lane_count || handle >= w->lane_count ||
	    a->links[lane].attached) {
		wire_fail(w, "the peer attached a link that was not asked for");
		return;
	}
	a->lanes[handle] = lane;
	a->links[lane].attached = true;
	if (w->role == WIRE_RECEIVER) {
		a->links[lane].delivery_count = number_or(&f[9], 0);
		grant_credit(w, lane);
	}
	if (++a->attached == w->lane_count)
		wire_become_ready(w);
}

static void on_flow(struct wire *w, const struct bench_value *f)
{
	struct amqp *a = w->part;
	uint32_t lane = lane_of(w, &f[4]);
	struct link *l;
	int32_t credit;

	a->window_end = number_or(&f[0], 0) + number_or(&f[1], 0);
	if (w->role != WIRE_SENDER || lane == w->lane_count ||
	    f[6].kind != BENCH_VALUE_NUMBER)
		return;
	l = &a->links[lane];
	credit = (int32_t)(number_or(&f[5], 0) + (uint32_t)f[6].number -
			   l->delivery_count);
	l->credit = credit > 0 ? (uint32_t)credit : 0;
}

static void on_disposition(struct wire *w, const struct bench_value *f)
{
	enum wire_outcome outcome = WIRE_RELEASED;
	uint32_t first = number_or(&f[1], 0), last = number_or(&f[2], first);
	uint64_t back = (uint32_t)((uint32_t)w->sent - first);
	char text[2 * PEER_TEXT_MAX + 16];
	struct bench_cursor in = {f[4].bytes, f[4].bytes + f[4].len, false};
	struct bench_value error;

	if (w->role != WIRE_SENDER || f[0].number == 0)
		return;
	if (back > w->sent || !back || last - first >= back) {
		wire_fail(w,
			  "the peer settled delivery %u, which was never "
			  "sent",
			  last);
		return;
	}
	if (f[4].descriptor == 0x24)
		outcome = WIRE_ACCEPTED;
	if (f[4].descriptor == 0x25) {
		outcome = WIRE_REJECTED;
		error = (struct bench_value){0};
		if (f[4].count)
			error = bench_value_take(&in);
		describe(&error, text, sizeof(text));
		wire_remark(w, text[0] ? text + 2 : "rejected",
			    text[0] ? strlen(text + 2) : 8);
	}
	if (outcome == WIRE_RELEASED)
		wire_remark(w, "released", 8);
	w->confirmed(w, w->sent - back, w->sent - back + (last - first),
		     outcome);
}

/* ---- receiving ---- */

/* The body of a message: data, or a value of bytes.  False: there is none. */
static bool find_body(const uint8_t *data, size_t len, const uint8_t **ret,
		      size_t *ret_len)
{
	struct bench_cursor c = {data, data + len, false};

	while (c.p < c.end && !c.bad) {
		struct bench_value v = bench_value_take(&c);

		if (c.bad || !v.described)
			return false;
		if ((v.descriptor == SECTION_DATA ||
		     v.descriptor == SECTION_VALUE) &&
		    v.kind == BENCH_VALUE_BYTES) {
			*ret = v.bytes;
			*ret_len = v.len;
			return true;
		}
	}
	return false;
}

/* delivery-count above 0, in the header's fifth field. */
static bool is_redelivered(const uint8_t *data, size_t len)
{
	struct bench_cursor c = {data, data + len, false};
	struct bench_value f[5];
	uint64_t code;

	return bench_value_fields(&c, f, ARRAY_COUNT(f), &code) &&
	       code == SECTION_HEADER && number_or(&f[4], 0) > 0;
}

static void keep_piece(struct wire *w, struct link *l, const uint8_t *data,
		       size_t len)
{
	if (l->partial_len + len > PAYLOAD_BYTES_MAX + 65536) {
		wire_fail(w, "the peer sent a message that is too large");
		return;
	}
	if (l->partial_len + len > l->partial_capacity) {
		l->partial_capacity = 2 * (l->partial_len + len);
		l->partial = realloc(l->partial, l->partial_capacity);
		ASSERT(l->partial);
	}
	memcpy(l->partial + l->partial_len, data, len);
	l->partial_len += len;
}

static void end_delivery(struct amqp *a, struct link *l)
{
	l->in_delivery = false;
	l->partial_len = 0;
	l->delivery_count++;
	if (l->credit)
		l->credit--;
}

static void deliver(struct wire *w, uint32_t lane, const uint8_t *data,
		    size_t len)
{
	struct amqp *a = w->part;
	struct link *l = &a->links[lane];
	const uint8_t *body = NULL;
	size_t body_len = 0;

	/* While closing: not accepted, somebody else will get it. */
	if (w->state == WIRE_CLOSING) {
		end_delivery(a, l);
		return;
	}
	if (!find_body(data, len, &body, &body_len))
		body = data; /* foreign; the owner counts it */
	w->arrived(w, lane, body, body_len, is_redelivered(data, len));
	if (a->settle_last + 1 != l->delivery_id)
		accept_all(w);
	if (!a->unsettled)
		a->settle_first = l->delivery_id;
	a->settle_last = l->delivery_id;
	a->unsettled = true;
	end_delivery(a, l);
}

static void on_transfer(struct wire *w, const struct bench_value *f,
			const uint8_t *data, size_t len)
{
	struct amqp *a = w->part;
	uint32_t lane = lane_of(w, &f[0]);
	bool more = f[5].number, aborted = f[9].number;
	struct link *l;

	a->incoming_id++;
	if (w->role != WIRE_RECEIVER || lane == w->lane_count) {
		wire_fail(w, "the peer sent a message on a link that is none");
		return;
	}
	l = &a->links[lane];
	if (!l->in_delivery) {
		l->delivery_id = number_or(&f[1], 0);
		l->in_delivery = true;
	}
	if (aborted) {
		end_delivery(a, l);
		return;
	}
	if (!more && !l->partial_len) {
		deliver(w, lane, data, len);
		return;
	}
	keep_piece(w, l, data, len);
	if (!more && !w->failed)
		deliver(w, lane, l->partial, l->partial_len);
}

static void on_goodbye(struct wire *w, uint64_t code,
		       const struct bench_value *f)
{
	bool expected = w->state == WIRE_CLOSING;

	if (code == DETACH && !expected)
		fail_error(w, "the peer closed the link", &f[2]);
	else if (code == END && !expected)
		fail_error(w, "the peer ended the session", &f[0]);
	else if (code == CLOSE && !expected)
		fail_error(w, "the peer closed the connection", &f[0]);
	if (code == CLOSE)
		w->state = WIRE_CLOSED;
}

static void on_frame(struct wire *w, const uint8_t *data, size_t len)
{
	struct bench_cursor c = {data, data + len, false};
	struct bench_value f[14];
	uint64_t code;

	if (!len)
		return; /* a heartbeat */
	if (!bench_value_fields(&c, f, ARRAY_COUNT(f), &code)) {
		wire_fail(w, "the peer sent a frame that is not AMQP 1.0");
		return;
	}
	switch (code) {
	case TRANSFER:
		on_transfer(w, f, c.p, (size_t)(c.end - c.p));
		break;
	case DISPOSITION:
		on_disposition(w, f);
		break;
	case FLOW:
		on_flow(w, f);
		break;
	case OPEN:
		on_open(w, f);
		break;
	case BEGIN:
		on_begin(w, f);
		break;
	case ATTACH:
		on_attach(w, f);
		break;
	default:
		on_goodbye(w, code, f);
	}
}

static void on_sasl_frame(struct wire *w, const uint8_t *data, size_t len)
{
	struct amqp *a = w->part;
	struct bench_cursor c = {data, data + len, false};
	struct bench_value f[4];
	uint64_t code;

	if (!bench_value_fields(&c, f, ARRAY_COUNT(f), &code)) {
		wire_fail(w, "the peer sent a SASL frame that is none");
	} else if (code == SASL_MECHANISMS) {
		amqp_frames_sasl_init(w);
	} else if (code == SASL_OUTCOME && f[0].number == 0) {
		wire_put(w, header_amqp, 8);
		amqp_frames_open(w);
		a->step = STEP_HEADER;
	} else if (code == SASL_OUTCOME) {
		wire_fail(w, "the peer refused the login (SASL outcome %u)",
			  (unsigned)f[0].number);
	}
}

static size_t on_header(struct wire *w, const uint8_t *p)
{
	struct amqp *a = w->part;
	bool sasl = a->step == STEP_SASL_HEADER;

	if (memcmp(p, sasl ? header_sasl : header_amqp, 8) != 0) {
		wire_fail(w, "the peer does not speak AMQP 1.0%s",
			  sasl ? " with SASL" : "");
		return 0;
	}
	a->step = sasl ? STEP_SASL : STEP_FRAMES;
	return 8;
}

static size_t amqp_input(struct wire *w, const uint8_t *p, size_t len)
{
	struct amqp *a = w->part;
	uint32_t size;
	unsigned offset;

	if (len < 8)
		return 0;
	if (a->step == STEP_SASL_HEADER || a->step == STEP_HEADER)
		return on_header(w, p);
	memcpy(&size, p, 4);
	size = __builtin_bswap32(size);
	offset = 4u * p[4];
	if (size < 8 || offset < 8 || offset > size ||
	    size > AMQP_FRAMES_BYTES_MAX) {
		wire_fail(w, "the peer sent a frame with a wrong size (%u)",
			  size);
		return 0;
	}
	if (len < size)
		return 0;
	if (a->step == STEP_SASL)
		on_sasl_frame(w, p + offset, size - offset);
	else
		on_frame(w, p + offset, size - offset);
	return size;
}

/* ---- the rest ---- */

static int amqp_open(struct wire *w)
{
	struct amqp *a = w->part;

	a->frame_bytes_max = FRAME_BYTES_MIN;
	a->links = calloc(w->lane_count, sizeof(*a->links));
	a->lanes = calloc(w->lane_count, sizeof(*a->lanes));
	if (!a->links || !a->lanes)
		return -ENOMEM;
	for (uint32_t i = 0; i < w->lane_count; i++)
		a->lanes[i] = w->lane_count;
	wire_put(w, header_sasl, 8);
	return 0;
}

static void amqp_flush(struct wire *w, uint64_t now_ns)
{
	struct amqp *a = w->part;

	accept_all(w);
	go_on(w);
	if (w->role == WIRE_RECEIVER && w->state == WIRE_READY) {
		for (uint32_t i = 0; i < w->lane_count; i++) {
			if (a->links[i].credit <= w->terms->credit / 2)
				grant_credit(w, i);
		}
	}
	if (w->out.at == w->out.len && a->idle_ms &&
	    now_ns - w->written_ns > (uint64_t)a->idle_ms * 300000u)
		amqp_frames_heartbeat(w);
}

static void amqp_close(struct wire *w)
{
	accept_all(w);
	amqp_frames_close(w);
}

static void amqp_fini(struct wire *w)
{
	struct amqp *a = w->part;

	for (uint32_t i = 0; a->links && i < w->lane_count; i++)
		free(a->links[i].partial);
	free(a->links);
	free(a->lanes);
}

const struct protocol protocol_amqp = {
	.name = "amqp",
	.peers = "Holdfast, ActiveMQ Artemis, RabbitMQ 4 (AMQP 1.0)",
	.port = 5672,
	.setup = PROTOCOL_SETUP_FAN_OUT,
	.fans_out = true,
	.qualifies = true,
	.part_bytes = sizeof(struct amqp),
	.open = amqp_open,
	.input = amqp_input,
	.can_send = amqp_can_send,
	.send = amqp_send,
	.flush = amqp_flush,
	.close = amqp_close,
	.fini = amqp_fini,
};
