/* tools/bench_wire.h: one AMQP 1.0 connection with one link, for load.
 *
 * A client that does only what a load generator needs, in as few instructions
 * as that takes, so that what is measured is the broker: frames are written
 * by hand into one buffer, a batch of deliveries is settled by one
 * disposition, and one send() carries hundreds of transfers.  What the peer
 * sends is checked; anything unexpected fails the connection with a sentence.
 *
 * OASIS AMQP 1.0 part 1 (types), 2 (transport) and 5 (SASL).  One thread. */
#ifndef TOOLS_BENCH_WIRE_H
#define TOOLS_BENCH_WIRE_H

#include "tools/amqp_client.h"

enum bench_wire_state {
	BENCH_WIRE_SASL_HEADER,
	BENCH_WIRE_SASL,
	BENCH_WIRE_HEADER,
	BENCH_WIRE_OPENING, /* until the peer has attached our link */
	BENCH_WIRE_READY,
	BENCH_WIRE_CLOSING,
	BENCH_WIRE_CLOSED,
};

enum bench_wire_outcome {
	BENCH_WIRE_ACCEPTED,
	BENCH_WIRE_REJECTED,
	BENCH_WIRE_RELEASED,
	BENCH_WIRE_OTHER,
};

struct bench_wire {
	/* the owner's, before bench_wire_open() */
	bool sends;
	uint32_t credit_max; /* of a receiver */
	void *ctx;
	/* Deliveries first..last (delivery ids, from 0 on) were settled. */
	void (*settled)(struct bench_wire *, uint32_t first, uint32_t last,
			enum bench_wire_outcome);
	/* A whole message; data is borrowed during the call.  It is accepted
	 * by the next flush. */
	void (*message)(struct bench_wire *, const uint8_t *data, size_t len);
	/* readable */
	int fd;
	enum bench_wire_state state;
	bool failed;
	char why[512];
	uint32_t credit; /* of a sender: transfers it may still begin */
	/* private */
	const struct amqp_access *access;
	const char *address;
	uint8_t *in, *out, *partial; /* partial: of a message, in or out */
	size_t in_len, in_capacity, out_at, out_len, out_capacity;
	size_t partial_at, partial_len, partial_capacity;
	uint32_t frame_max;   /* the peer's */
	uint32_t idle_ms;     /* the peer's */
	uint32_t transfer_id; /* next outgoing transfer id */
	uint32_t delivery_id; /* next outgoing delivery id */
	uint32_t window_end; /* first transfer id that the peer does not take */
	uint32_t incoming_id; /* next incoming transfer id */
	uint32_t delivery_count;
	bool in_delivery, unsettled;
	uint32_t current_id, settle_first, settle_last;
	uint64_t written_ns;
};

/* Dials (blocking) and queues the first bytes.  access and address are
 * borrowed until bench_wire_fini(). */
MUST_CHECK int bench_wire_open(struct bench_wire *,
			       const struct amqp_access *access,
			       const char *address);
/* Read once and handle what came. */
void bench_wire_read(struct bench_wire *);
/* A sender with credit, room in the peer's window and in the buffer. */
bool bench_wire_can_send(const struct bench_wire *);
/* Queue one unsettled message; its delivery id is the count of those before.
 * What the peer's window does not take yet is kept and follows. */
void bench_wire_send(struct bench_wire *, const void *message, size_t len);
/* Settle what was received, renew credit, write.  now for heartbeats. */
void bench_wire_flush(struct bench_wire *, uint64_t now_ns);
bool bench_wire_wants_write(const struct bench_wire *);
/* Queue detach and close; goes on with read and flush until CLOSED. */
void bench_wire_close(struct bench_wire *);
void bench_wire_fini(struct bench_wire *);

#endif
