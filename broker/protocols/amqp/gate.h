/* broker/protocols/amqp/gate.h: what may pass from the wire into Proton.
 *
 * Proton 0.37 trusts its peer in places: it dispatches AMQP frames while
 * SASL is still going on, asserts on a transfer without a delivery-id, follows
 * nested values as deep as they go, and lets a second `open` replace the
 * first.  Debian builds it with assertions on, so one bad peer could end the
 * process.  The gate looks at each frame first: order, layer, channel and
 * handle in use, and the shape of every field.  What passes is well formed.
 *
 * Pure state, no I/O; owned by one connection. */
#ifndef BROKER_PROTOCOLS_AMQP_GATE_H
#define BROKER_PROTOCOLS_AMQP_GATE_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

#define GATE_CHANNEL_MAX 1023u
#define GATE_HEADER_BYTES 8u

enum gate_phase {
	GATE_PROTOCOL,	  /* the first protocol header */
	GATE_SASL,	  /* sasl-init */
	GATE_SASL_ANSWER, /* nothing passes until gate_authenticated() */
	GATE_AMQP_HEADER, /* the header after SASL */
	GATE_OPEN,
	GATE_FRAMES,
	GATE_CLOSED, /* after close: the rest is dropped */
};

/* What frames have done to a link. */
#define GATE_TRANSFER 1u
#define GATE_FLOW 2u

struct gate_handle {
	uint64_t key; /* channel << 32 | handle */
	void *owner;  /* as gate_own() says; NULL: nobody yet */
	bool used, sender, partial;
	uint8_t news; /* GATE_… of the scan that listed it last */
	uint64_t scan;
};

#define GATE_TOUCHED_MAX 256u

/* What gate_scan() has seen in the frames that it passes.  Good until the next
 * scan. */
struct gate_news {
	/* Not only transfers, flows and dispositions, or some of a link that
	 * has no owner: what follows says not all. */
	bool other;
	bool dispositions;
	uint32_t frames;
	/* links that transfers and flows name, each once */
	uint32_t touched_count;
	struct gate_handle *touched[GATE_TOUCHED_MAX];
};

struct gate {
	enum gate_phase phase;
	bool sasl_required; /* AMQP without it counts as another protocol */
	uint32_t frame_bytes_max;
	uint16_t channel_max;
	uint32_t link_max; /* of the connection */
	uint8_t channels[(GATE_CHANNEL_MAX + 1) / 8];
	struct gate_handle *handles; /* open addressing; a power of two */
	uint32_t handle_capacity, handle_count;
	uint32_t transfers; /* passed; the owner sets it back */
	uint64_t scan;
	/* handles of the attaches that have passed, in their order */
	uint64_t *attached;
	uint32_t attached_capacity, attached_count, attached_at;
};

void gate_init(struct gate *, uint32_t frame_bytes_max, uint16_t channel_max,
	       uint32_t link_max);
void gate_fini(struct gate *);

enum gate_verdict {
	GATE_PASS,  /* *ret_len bytes are whole and good; 0: need more */
	GATE_PAUSE, /* after *ret_len bytes, wait for gate_authenticated() */
	GATE_DROP,  /* the connection is closed; forget the bytes */
	GATE_ALIEN, /* not AMQP 1.0: answer with our header and close */
	GATE_BAD,   /* after *ret_len bytes; *ret_condition says why */
};

struct gate_error {
	const char *condition; /* an AMQP error condition */
	const char *text;
};

enum gate_verdict gate_scan(struct gate *, const uint8_t *data, size_t len,
			    size_t *ret_len, struct gate_news *ret_news,
			    struct gate_error *ret_error);
/* The SASL outcome was positive. */
void gate_authenticated(struct gate *);

/* Whose link a handle is.  The attaches that have passed are taken in their
 * order, by gate_next_attach() as long as it returns true, before the next
 * scan; gate_forget_attaches() drops what is left of them. */
bool gate_next_attach(struct gate *, uint64_t *ret_key);
void gate_forget_attaches(struct gate *);
/* The handle may be gone by then.  owner: borrowed until gate_disown(). */
void gate_own(struct gate *, uint64_t key, void *owner);
void gate_disown(struct gate *, uint64_t key, const void *owner);

/* Length of the frame that begins at data, when four bytes are there. */
uint32_t gate_frame_bytes(const uint8_t *data, size_t len);

#endif
