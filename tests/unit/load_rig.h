/* tests/unit/load_rig.h: a wire of the load generator without a socket, and a
 * record of what its protocol told the owner. */
#ifndef TESTS_UNIT_LOAD_RIG_H
#define TESTS_UNIT_LOAD_RIG_H

#include "bench/load/protocol.h"
#include "tests/unit/test.h"

#define RIG_LANES 4u
#define RIG_EVENTS 64u

struct rig {
	struct wire wire;
	struct wire_terms terms;
	struct lane lanes[RIG_LANES];
	struct payload_pool *pool;
	unsigned ready;
	struct {
		uint64_t first, last;
		enum wire_outcome outcome;
	} confirmed[RIG_EVENTS];
	unsigned confirmed_count;
	struct {
		uint32_t lane;
		char body[64];
		size_t len;
		bool redelivered;
	} arrived[RIG_EVENTS];
	unsigned arrived_count;
};

static inline void rig_ready(struct wire *w)
{
	((struct rig *)w->owner)->ready++;
}

static inline void rig_confirmed(struct wire *w, uint64_t first, uint64_t last,
				 enum wire_outcome outcome)
{
	struct rig *r = w->owner;

	assert_true(r->confirmed_count < RIG_EVENTS);
	r->confirmed[r->confirmed_count].first = first;
	r->confirmed[r->confirmed_count].last = last;
	r->confirmed[r->confirmed_count++].outcome = outcome;
}

static inline void rig_arrived(struct wire *w, uint32_t lane,
			       const uint8_t *body, size_t len,
			       bool redelivered)
{
	struct rig *r = w->owner;

	assert_true(r->arrived_count < RIG_EVENTS);
	r->arrived[r->arrived_count].lane = lane;
	r->arrived[r->arrived_count].len = len;
	r->arrived[r->arrived_count].redelivered = redelivered;
	memcpy(r->arrived[r->arrived_count].body, body, base_min(len, 64));
	r->arrived_count++;
}

static inline void rig_open(struct rig *r, const struct protocol *protocol,
			    enum wire_role role, uint32_t lanes)
{
	static const char *const names[RIG_LANES] = {"q.0", "q.1", "q.2",
						     "q.3"};

	memset(r, 0, sizeof(*r));
	r->terms = (struct wire_terms){.host = "h", .tag = "tag", .credit = 10};
	for (uint32_t i = 0; i < RIG_LANES; i++)
		r->lanes[i] =
			(struct lane){.address = names[i], .queue = names[i]};
	r->wire = (struct wire){.protocol = protocol,
				.terms = &r->terms,
				.role = role,
				.lanes = r->lanes,
				.lane_count = lanes,
				.owner = r,
				.ready = rig_ready,
				.confirmed = rig_confirmed,
				.arrived = rig_arrived};
	assert_int_equal(payload_pool_create(32, &r->pool), 0);
	assert_int_equal(wire_open_detached(&r->wire), 0);
}

static inline void rig_close(struct rig *r)
{
	wire_fini(&r->wire);
	payload_pool_free(r->pool);
}

static inline void rig_forget(struct rig *r)
{
	r->wire.out.at = r->wire.out.len = 0;
}

/* What it says after this was said to it, one byte at a time: a protocol must
 * not mind how bytes are cut. */
static inline void rig_hear(struct rig *r, const void *data, size_t len)
{
	const uint8_t *p = data;

	rig_forget(r);
	for (size_t i = 0; i < len; i++)
		wire_feed(&r->wire, p + i, 1);
	wire_flush(&r->wire, 1);
}

static inline void rig_hear_text(struct rig *r, const char *text)
{
	rig_hear(r, text, strlen(text));
}

static inline bool rig_said(const struct rig *r, const void *data, size_t len)
{
	const struct wire_buffer *out = &r->wire.out;

	return out->len > out->at &&
	       memmem(out->data + out->at, out->len - out->at, data, len);
}

static inline bool rig_said_text(const struct rig *r, const char *text)
{
	return rig_said(r, text, strlen(text));
}

/* Send one message; what is said is the whole of it. */
static inline void rig_send(struct rig *r, uint32_t lane)
{
	struct payload_fields f = {.run = 1, .number = r->wire.sent};

	rig_forget(r);
	assert_true(wire_can_send(&r->wire, lane));
	payload_make(r->pool, &f, false, &r->wire.payload);
	wire_send(&r->wire, lane);
	r->wire.sent++;
}

static inline bool rig_confirmed_is(const struct rig *r, unsigned at,
				    uint64_t first, uint64_t last,
				    enum wire_outcome outcome)
{
	return at < r->confirmed_count && r->confirmed[at].first == first &&
	       r->confirmed[at].last == last &&
	       r->confirmed[at].outcome == outcome;
}

static inline bool rig_arrived_is(const struct rig *r, unsigned at,
				  uint32_t lane, const char *body,
				  bool redelivered)
{
	return at < r->arrived_count && r->arrived[at].lane == lane &&
	       r->arrived[at].len == strlen(body) &&
	       !memcmp(r->arrived[at].body, body, strlen(body)) &&
	       r->arrived[at].redelivered == redelivered;
}

#endif
