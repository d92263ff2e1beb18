/* bench/load/protocol.h: what the load generator asks of a protocol.
 *
 * Nothing here does I/O: input() sees bytes, and what is to be sent is put
 * into the wire's out buffer.  What the peer sends is checked; what does not
 * fit fails the wire with a sentence that says what the peer said. */
#ifndef BENCH_LOAD_PROTOCOL_H
#define BENCH_LOAD_PROTOCOL_H

#include "bench/load/wire.h"

enum protocol_setup {
	PROTOCOL_SETUP_NEVER,
	PROTOCOL_SETUP_ALWAYS,	/* queues must be declared before use */
	PROTOCOL_SETUP_FAN_OUT, /* only those behind a topic */
};

struct protocol {
	const char *name;
	const char *peers; /* for the help: who speaks it */
	uint16_t port;	   /* the usual one */
	enum protocol_setup setup;
	bool fans_out;
	bool qualifies;	   /* a queue behind a topic is "topic::queue" */
	size_t part_bytes; /* of its own state, zeroed */
	/* Connected: say hello.  May allocate; 0 or -ENOMEM. */
	int (*open)(struct wire *);
	/* Handle one unit at p; its length, or 0 when it is not whole or the
	 * wire has failed. */
	size_t (*input)(struct wire *, const uint8_t *p, size_t len);
	/* NULL: always. */
	bool (*can_send)(const struct wire *, uint32_t lane);
	/* One message with the wire's payload to a lane. */
	void (*send)(struct wire *, uint32_t lane);
	/* What waits for the end of a turn: acknowledgements, credit,
	 * heartbeats.  NULL: nothing. */
	void (*flush)(struct wire *, uint64_t now_ns);
	/* Say goodbye: the peer closes then, or the state becomes CLOSED once
	 * what was acknowledged has been heard.  What arrives meanwhile is not
	 * acknowledged and not shown. */
	void (*close)(struct wire *);
	/* What open() allocated.  NULL: nothing. */
	void (*fini)(struct wire *);
};

extern const struct protocol protocol_amqp, protocol_amqp091, protocol_nats,
	protocol_redis, protocol_beanstalk, protocol_stomp;

/* The i-th, or NULL. */
const struct protocol *protocol_at(unsigned i);

#endif
