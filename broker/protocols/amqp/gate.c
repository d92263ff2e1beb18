/* broker/protocols/amqp/gate.c: checking frames before Proton sees them.
 *
 * AMQP 1.0 part 2 (transport) for frames and performatives, part 5 for SASL.
 *
 * Invariant: the handle table holds exactly the links that Proton has mapped
 * for this peer, and `partial` is true only while Proton, too, waits for more
 * transfers of a delivery; so Proton's assertion that the first of several
 * transfers carries a delivery-id can not fail. */
#include "broker/protocols/amqp/gate.h"

#include "broker/protocols/amqp/wire.h"

enum performative {
	P_OPEN = 0x10,
	P_BEGIN,
	P_ATTACH,
	P_FLOW,
	P_TRANSFER,
	P_DISPOSITION,
	P_DETACH,
	P_END,
	P_CLOSE,
	P_SASL_INIT = 0x41,
};

#define FRAME_AMQP 0u
#define FRAME_SASL 1u
#define TAG_BYTES_MAX 32u /* part 2, section 2.8.7 */

static const char decode_error[] = "amqp:decode-error";
static const char framing_error[] = "amqp:connection:framing-error";
static const char not_allowed[] = "amqp:not-allowed";

void gate_init(struct gate *g, uint32_t frame_bytes_max, uint16_t channel_max,
	       uint32_t link_max)
{
	memset(g, 0, sizeof(*g));
	g->frame_bytes_max = frame_bytes_max;
	g->channel_max = channel_max;
	g->link_max = link_max;
}

void gate_fini(struct gate *g)
{
	free(g->handles);
	free(g->attached);
	g->handles = NULL;
	g->attached = NULL;
	g->handle_capacity = g->attached_capacity = 0;
}

void gate_authenticated(struct gate *g)
{
	ASSERT(g->phase == GATE_SASL_ANSWER);
	g->phase = GATE_AMQP_HEADER;
}

uint32_t gate_frame_bytes(const uint8_t *data, size_t len)
{
	return len < 4 ? 0 : wire_get32(data);
}

/* ---- handles ---- */

static uint32_t slot_of(const struct gate *g, uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) &
	       (g->handle_capacity - 1);
}

static struct gate_handle *handle_find(const struct gate *g, uint64_t key)
{
	if (!g->handle_capacity)
		return NULL;
	for (uint32_t i = slot_of(g, key);;
	     i = (i + 1) & (g->handle_capacity - 1)) {
		struct gate_handle *h = &g->handles[i];

		if (!h->used)
			return NULL;
		if (h->key == key)
			return h;
	}
}

static void handle_place(struct gate *g, const struct gate_handle *h)
{
	uint32_t i = slot_of(g, h->key);

	while (g->handles[i].used)
		i = (i + 1) & (g->handle_capacity - 1);
	g->handles[i] = *h;
	g->handle_count++;
}

static int handle_add(struct gate *g, uint64_t key, bool sender)
{
	struct gate_handle h = {.key = key, .used = true, .sender = sender};

	if (g->handle_count * 2 >= g->handle_capacity) {
		struct gate_handle *old = g->handles;
		uint32_t old_capacity = g->handle_capacity;
		uint32_t capacity = old_capacity ? old_capacity * 2 : 16;
		struct gate_handle *new = calloc(capacity, sizeof(*new));

		if (!new)
			return -ENOMEM;
		g->handles = new;
		g->handle_capacity = capacity;
		g->handle_count = 0;
		for (uint32_t i = 0; i < old_capacity; i++)
			if (old[i].used)
				handle_place(g, &old[i]);
		free(old);
	}
	handle_place(g, &h);
	return 0;
}

/* Closes the gap, so that a search may stop at the first free slot. */
static void handle_remove(struct gate *g, struct gate_handle *h)
{
	uint32_t mask = g->handle_capacity - 1;
	uint32_t hole = (uint32_t)(h - g->handles);

	for (uint32_t i = (hole + 1) & mask; g->handles[i].used;
	     i = (i + 1) & mask) {
		uint32_t home = slot_of(g, g->handles[i].key);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			g->handles[hole] = g->handles[i];
			hole = i;
		}
	}
	g->handles[hole].used = false;
	g->handle_count--;
}

static void handles_remove_channel(struct gate *g, uint16_t channel)
{
	for (uint32_t i = 0; i < g->handle_capacity;) {
		struct gate_handle *h = &g->handles[i];

		if (h->used && h->key >> 32 == channel)
			handle_remove(g, h); /* looks at i again */
		else
			i++;
	}
}

/* ---- whose links they are ---- */

static int attached_push(struct gate *g, uint64_t key)
{
	if (g->attached_count == g->attached_capacity) {
		uint32_t capacity =
			g->attached_capacity ? g->attached_capacity * 2 : 16;
		uint64_t *more = realloc(g->attached, capacity * sizeof(*more));

		if (!more)
			return -ENOMEM;
		g->attached = more;
		g->attached_capacity = capacity;
	}
	g->attached[g->attached_count++] = key;
	return 0;
}

bool gate_next_attach(struct gate *g, uint64_t *ret_key)
{
	if (g->attached_at == g->attached_count)
		return false;
	*ret_key = g->attached[g->attached_at++];
	return true;
}

void gate_forget_attaches(struct gate *g)
{
	g->attached_at = g->attached_count = 0;
}

void gate_own(struct gate *g, uint64_t key, void *owner)
{
	struct gate_handle *h = handle_find(g, key);

	if (h)
		h->owner = owner;
}

void gate_disown(struct gate *g, uint64_t key, const void *owner)
{
	struct gate_handle *h = handle_find(g, key);

	if (h && h->owner == owner)
		h->owner = NULL;
}

static void touch(struct gate *g, struct gate_handle *h, uint8_t what,
		  struct gate_news *news)
{
	if (!h->owner) {
		news->other = true;
		return;
	}
	if (h->scan != g->scan) {
		h->scan = g->scan;
		h->news = 0;
		news->touched[news->touched_count++] = h;
	}
	h->news |= what;
}

static bool channel_used(const struct gate *g, uint16_t channel)
{
	return channel <= g->channel_max &&
	       (g->channels[channel / 8] >> (channel % 8) & 1);
}

/* ---- performatives ---- */

struct fields {
	struct wire in;
	uint32_t left;
};

/* The next field; null when the list has ended. */
static int next(struct fields *f, struct wire_value *ret)
{
	if (!f->left) {
		*ret = (struct wire_value){.kind = WIRE_NULL};
		return 0;
	}
	f->left--;
	return wire_read(&f->in, ret);
}

static int next_kind(struct fields *f, enum wire_kind kind, bool required,
		     struct wire_value *ret)
{
	int err = next(f, ret);

	if (err)
		return err;
	if (ret->kind == WIRE_NULL)
		return required ? -E_CORRUPT : 0;
	return ret->kind == kind ? 0 : -E_CORRUPT;
}

/* ---- fields of the frames that come with messages ----
 *
 * A field of a known type has few encodings, and these frames come by the
 * million: they are told apart here without the general reader. */

/* The encoding of the next field; that of null when the list has ended. */
static inline int next_code(struct fields *f, uint8_t *ret)
{
	if (!f->left) {
		*ret = WIRE_CODE_NULL;
		return 0;
	}
	if (f->in.p >= f->in.end)
		return -E_CORRUPT;
	f->left--;
	*ret = *f->in.p++;
	return 0;
}

/* *ret is 0 where the field is null; ret_present may be NULL. */
static inline int next_uint(struct fields *f, bool required, uint32_t *ret,
			    bool *ret_present)
{
	uint8_t code;

	if (next_code(f, &code))
		return -E_CORRUPT;
	*ret = 0;
	if (ret_present)
		*ret_present = code != WIRE_CODE_NULL;
	switch (code) {
	case WIRE_CODE_UINT1:
		if (!wire_left(&f->in))
			return -E_CORRUPT;
		*ret = *f->in.p++;
		return 0;
	case WIRE_CODE_UINT4:
		if (wire_left(&f->in) < 4)
			return -E_CORRUPT;
		*ret = wire_get32(f->in.p);
		f->in.p += 4;
		return 0;
	case WIRE_CODE_UINT0:
		return 0;
	case WIRE_CODE_NULL:
		return required ? -E_CORRUPT : 0;
	default:
		return -E_CORRUPT;
	}
}

/* Nothing where the field is null. */
static inline int next_binary(struct fields *f, struct wire *ret)
{
	*ret = wire_of(NULL, 0);
	if (!f->left)
		return 0;
	f->left--;
	if (wire_left(&f->in) && *f->in.p == WIRE_CODE_NULL) {
		f->in.p++;
		return 0;
	}
	return wire_read_binary(&f->in, ret);
}

static inline int next_bool(struct fields *f, bool required, bool *ret)
{
	uint8_t code;

	if (next_code(f, &code))
		return -E_CORRUPT;
	*ret = code == WIRE_CODE_TRUE;
	switch (code) {
	case WIRE_CODE_TRUE:
	case WIRE_CODE_FALSE:
		return 0;
	case WIRE_CODE_BOOL:
		if (!wire_left(&f->in) || *f->in.p > 1)
			return -E_CORRUPT;
		*ret = *f->in.p++ != 0;
		return 0;
	case WIRE_CODE_NULL:
		return required ? -E_CORRUPT : 0;
	default:
		return -E_CORRUPT;
	}
}

/* Whatever the field holds, every element of it is well formed. */
static inline int next_any(struct fields *f)
{
	if (!f->left)
		return 0;
	f->left--;
	if (wire_left(&f->in) && *f->in.p == WIRE_CODE_NULL) {
		f->in.p++;
		return 0;
	}
	return wire_check(&f->in);
}

/* A delivery's state: mostly an outcome without fields, by its number. */
static inline int next_state(struct fields *f)
{
	const uint8_t *p = f->in.p;

	if (f->left && wire_left(&f->in) >= 4 && p[0] == WIRE_CODE_DESCRIBED &&
	    p[1] == WIRE_CODE_ULONG1 && p[3] == WIRE_CODE_LIST0) {
		f->left--;
		f->in.p += 4;
		return 0;
	}
	return next_any(f);
}

/* Fields that the protocol does not know yet. */
static inline int next_rest(struct fields *f)
{
	while (f->left)
		if (next_any(f))
			return -E_CORRUPT;
	return 0;
}

#define FAIL(e, c, t)                                                          \
	do {                                                                   \
		*(e) = (struct gate_error){(c), (t)};                          \
		return -E_CORRUPT;                                             \
	} while (0)

static int pass_begin(struct gate *g, uint16_t channel, struct fields *f,
		      struct gate_error *e)
{
	struct wire_value v;

	if (channel > g->channel_max)
		FAIL(e, framing_error, "channel number above channel-max");
	if (channel_used(g, channel))
		FAIL(e, framing_error, "the channel is in use");
	if (next(f, &v) || v.kind != WIRE_NULL)
		FAIL(e, not_allowed, "begin answers a session not begun here");
	for (int i = 0; i < 3; i++)
		if (next_kind(f, WIRE_UINT, true, &v))
			FAIL(e, decode_error, "begin lacks a mandatory field");
	g->channels[channel / 8] |= (uint8_t)(1u << (channel % 8));
	return 0;
}

static int pass_attach(struct gate *g, uint16_t channel, struct fields *f,
		       struct gate_error *e)
{
	struct wire_value name, handle, role;
	uint64_t key;

	if (next_kind(f, WIRE_STRING, true, &name) ||
	    next_kind(f, WIRE_UINT, true, &handle) ||
	    next_kind(f, WIRE_BOOL, true, &role))
		FAIL(e, decode_error, "attach lacks a mandatory field");
	if (memchr(name.data, 0, name.len))
		FAIL(e, "amqp:invalid-field",
		     "a link name contains zero bytes");
	key = (uint64_t)channel << 32 | (uint32_t)handle.u;
	if (handle.u > INT32_MAX)
		FAIL(e, "amqp:session:errant-link", "handle out of range");
	if (handle_find(g, key))
		FAIL(e, "amqp:session:handle-in-use", "the handle is in use");
	if (g->handle_count >= g->link_max)
		FAIL(e, "amqp:resource-limit-exceeded",
		     "too many links on this connection");
	if (handle_add(g, key, !role.u) || attached_push(g, key))
		FAIL(e, "amqp:internal-error", "out of memory");
	return 0;
}

static int pass_detach(struct gate *g, uint16_t channel, struct fields *f,
		       struct gate_error *e)
{
	struct gate_handle *h;
	struct wire_value v;

	if (next_kind(f, WIRE_UINT, true, &v))
		FAIL(e, decode_error, "detach without a handle");
	h = handle_find(g, (uint64_t)channel << 32 | (uint32_t)v.u);
	if (!h)
		FAIL(e, "amqp:session:unattached-handle", "no such handle");
	handle_remove(g, h);
	return 0;
}

static int pass_transfer(struct gate *g, uint16_t channel, struct fields *f,
			 struct gate_news *news, struct gate_error *e)
{
	uint32_t handle, id, format;
	struct wire tag;
	struct wire_value mode;
	bool has_id, settled, more, aborted, flag;
	struct gate_handle *h;

	if (next_uint(f, true, &handle, NULL) ||
	    next_uint(f, false, &id, &has_id) || next_binary(f, &tag) ||
	    next_uint(f, false, &format, NULL) ||
	    next_bool(f, false, &settled) || next_bool(f, false, &more))
		FAIL(e, decode_error, "malformed transfer");
	if (wire_left(&tag) > TAG_BYTES_MAX)
		FAIL(e, "amqp:invalid-field",
		     "a delivery tag has more than 32 bytes");
	aborted = false;
	/* Few have more: rcv-settle-mode, state, resume, aborted, batchable */
	if (f->left &&
	    (next_kind(f, WIRE_UBYTE, false, &mode) || next_state(f) ||
	     next_bool(f, false, &flag) || next_bool(f, false, &aborted) ||
	     next_bool(f, false, &flag) || next_rest(f)))
		FAIL(e, decode_error, "malformed transfer");
	h = handle_find(g, (uint64_t)channel << 32 | handle);
	if (!h)
		FAIL(e, "amqp:session:unattached-handle", "no such handle");
	if (!h->sender)
		FAIL(e, not_allowed, "transfer on a receiving link");
	if (!h->partial && !has_id)
		FAIL(e, "amqp:invalid-field",
		     "the first transfer of a delivery has no delivery-id");
	h->partial = more && !aborted;
	g->transfers++;
	touch(g, h, GATE_TRANSFER, news);
	return 0;
}

static int pass_flow(struct gate *g, uint16_t channel, struct fields *f,
		     struct gate_news *news, struct gate_error *e)
{
	struct gate_handle *h = NULL;
	uint32_t handle, v;
	bool has_handle, flag;

	if (next_uint(f, false, &v, NULL) || next_uint(f, true, &v, NULL) ||
	    next_uint(f, true, &v, NULL) || next_uint(f, true, &v, NULL) ||
	    next_uint(f, false, &handle, &has_handle))
		FAIL(e, decode_error, "malformed flow");
	if (has_handle)
		h = handle_find(g, (uint64_t)channel << 32 | handle);
	if (has_handle && !h)
		FAIL(e, "amqp:session:unattached-handle", "no such handle");
	for (int i = 0; i < 3; i++) /* delivery-count, credit, available */
		if (next_uint(f, false, &v, NULL))
			FAIL(e, decode_error, "malformed flow");
	if (next_bool(f, false, &flag) || next_bool(f, false, &flag) ||
	    next_rest(f) || wire_left(&f->in))
		FAIL(e, decode_error, "malformed flow");
	if (h)
		touch(g, h, GATE_FLOW, news);
	return 0;
}

static int pass_disposition(struct fields *f, struct gate_error *e)
{
	uint32_t v;
	bool flag;

	if (next_bool(f, true, &flag) || next_uint(f, true, &v, NULL) ||
	    next_uint(f, false, &v, NULL) || next_bool(f, false, &flag) ||
	    next_state(f) || next_bool(f, false, &flag) || next_rest(f) ||
	    wire_left(&f->in))
		FAIL(e, decode_error, "malformed disposition");
	return 0;
}

static int pass_open(struct fields *f, struct gate_error *e)
{
	struct wire_value container, v;

	if (next_kind(f, WIRE_STRING, true, &container) ||
	    next_kind(f, WIRE_STRING, false, &v) ||
	    next_kind(f, WIRE_UINT, false, &v) ||
	    next_kind(f, WIRE_USHORT, false, &v) ||
	    next_kind(f, WIRE_UINT, false, &v))
		FAIL(e, decode_error, "malformed open");
	if (container.len > 1024)
		FAIL(e, "amqp:invalid-field",
		     "the container id has more than 1024 bytes");
	return 0;
}

static int pass_performative(struct gate *g, uint64_t code, uint16_t channel,
			     struct fields *f, struct gate_news *news,
			     struct gate_error *e)
{
	if (g->phase == GATE_OPEN && code != P_OPEN && code != P_CLOSE)
		FAIL(e, not_allowed, "the first frame must be an open");
	if (code >= P_ATTACH && code <= P_END && !channel_used(g, channel))
		FAIL(e, not_allowed, "no session on this channel");
	if (code == P_TRANSFER)
		return pass_transfer(g, channel, f, news, e);
	if (code == P_FLOW)
		return pass_flow(g, channel, f, news, e);
	if (code == P_DISPOSITION) {
		news->dispositions = true;
		return pass_disposition(f, e);
	}
	news->other = true;
	switch (code) {
	case P_OPEN:
		if (g->phase != GATE_OPEN)
			FAIL(e, not_allowed, "a second open");
		if (pass_open(f, e))
			return -E_CORRUPT;
		g->phase = GATE_FRAMES;
		return 0;
	case P_BEGIN:
		return pass_begin(g, channel, f, e);
	case P_ATTACH:
		return pass_attach(g, channel, f, e);
	case P_DETACH:
		return pass_detach(g, channel, f, e);
	case P_END:
		handles_remove_channel(g, channel);
		g->channels[channel / 8] &= (uint8_t) ~(1u << (channel % 8));
		return 0;
	case P_CLOSE:
		g->phase = GATE_CLOSED;
		return 0;
	default:
		FAIL(e, not_allowed, "unknown performative");
	}
}

/* The performative's code and its fields; every field of it is well formed,
 * or it is of a kind of which pass_performative() looks at each. */
static int open_performative(const uint8_t *data, size_t len, uint64_t *ret,
			     struct fields *ret_fields, struct gate_error *e)
{
	struct wire w = wire_of(data, len), whole;
	struct wire_value v;

	if (len >= 3 && data[0] == WIRE_CODE_DESCRIBED &&
	    data[1] == WIRE_CODE_ULONG1) {
		*ret = data[2];
		w.p += 3;
	} else if (wire_descriptor(&w, ret, &v) || v.kind != WIRE_ULONG) {
		FAIL(e, decode_error, "a frame without a performative");
	}
	whole = w;
	if (wire_read_list(&w, &ret_fields->in, &ret_fields->left))
		FAIL(e, decode_error, "a performative is not a list");
	/* The others may carry maps and arrays of any shape. */
	if (*ret != P_TRANSFER && *ret != P_DISPOSITION && *ret != P_FLOW &&
	    wire_check(&whole))
		FAIL(e, decode_error, "a malformed performative");
	return 0;
}

/* One whole frame. */
static int pass_frame(struct gate *g, const uint8_t *frame, uint32_t len,
		      struct gate_news *news, struct gate_error *e)
{
	size_t offset = 4u * frame[4];
	uint16_t channel = (uint16_t)(frame[6] << 8 | frame[7]);
	struct wire_value v;
	struct fields f;
	uint64_t code;
	bool sasl = g->phase == GATE_SASL;

	if (offset < 8 || offset > len)
		FAIL(e, framing_error, "bad data offset");
	if (frame[5] != (sasl ? FRAME_SASL : FRAME_AMQP))
		FAIL(e, framing_error, "unexpected frame type");
	if (offset == len) {
		if (sasl)
			FAIL(e, framing_error, "an empty SASL frame");
		return 0; /* a heartbeat */
	}
	if (open_performative(frame + offset, len - offset, &code, &f, e))
		return -E_CORRUPT;
	if (!sasl)
		return pass_performative(g, code, channel, &f, news, e);
	news->other = true;
	if (code != P_SASL_INIT || next_kind(&f, WIRE_SYMBOL, true, &v))
		FAIL(e, framing_error, "expected a sasl-init frame");
	g->phase = GATE_SASL_ANSWER;
	return 0;
}

/* 1: it is one of ours; 0: need more; -E_CORRUPT: it is not. */
static int pass_header(struct gate *g, const uint8_t *data, size_t len)
{
	static const uint8_t amqp[] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};
	static const uint8_t sasl[] = {'A', 'M', 'Q', 'P', 3, 1, 0, 0};
	size_t n = base_min(len, GATE_HEADER_BYTES);

	if (memcmp(data, amqp, n) == 0) {
		if (g->phase == GATE_PROTOCOL && g->sasl_required &&
		    n == GATE_HEADER_BYTES)
			return -E_CORRUPT;
		if (n == GATE_HEADER_BYTES)
			g->phase = GATE_OPEN;
		return n == GATE_HEADER_BYTES;
	}
	if (g->phase == GATE_PROTOCOL && memcmp(data, sasl, n) == 0) {
		if (n == GATE_HEADER_BYTES)
			g->phase = GATE_SASL;
		return n == GATE_HEADER_BYTES;
	}
	return -E_CORRUPT;
}

enum gate_verdict gate_scan(struct gate *g, const uint8_t *data, size_t len,
			    size_t *ret_len, struct gate_news *ret_news,
			    struct gate_error *ret_error)
{
	size_t done = 0;

	*ret_len = 0;
	ret_news->other = ret_news->dispositions = false;
	ret_news->frames = ret_news->touched_count = 0;
	g->scan++;
	while (done < len) {
		const uint8_t *p = data + done;
		size_t left = len - done;
		uint32_t size;

		if (g->phase == GATE_CLOSED)
			return GATE_DROP;
		if (g->phase == GATE_SASL_ANSWER)
			return GATE_PAUSE;
		if (g->phase == GATE_PROTOCOL || g->phase == GATE_AMQP_HEADER) {
			int n = pass_header(g, p, left);

			if (n < 0)
				return GATE_ALIEN;
			if (n == 0)
				return GATE_PASS;
			done += GATE_HEADER_BYTES;
			*ret_len = done;
			ret_news->other = true;
			continue;
		}
		if (left < 4)
			return GATE_PASS;
		size = wire_get32(p);
		*ret_error = (struct gate_error){framing_error,
						 "frame size out of bounds"};
		if (size < 8 || size > g->frame_bytes_max)
			return GATE_BAD;
		if (left < size)
			return GATE_PASS;
		/* Room in the list first; the rest is another scan's. */
		if (ret_news->touched_count == GATE_TOUCHED_MAX)
			return GATE_PASS;
		if (pass_frame(g, p, size, ret_news, ret_error))
			return GATE_BAD;
		done += size;
		*ret_len = done;
		ret_news->frames++;
	}
	return g->phase == GATE_SASL_ANSWER ? GATE_PAUSE : GATE_PASS;
}
