/* bench/load/plan.h: who sends to which queue, and who receives from it.
 *
 * A stream is what one sender sends to one queue: numbers 0, 1, 2, … that a
 * receiver of that queue must see in order.  There are as many streams as
 * senders or queues, whichever is more: sender i has the streams i, i +
 * senders, …, stream s goes to queue s mod queues.  Receivers likewise.
 *
 * With fan-out there is one address; each of `fanout` queues behind it gets a
 * copy of every message, and every sender has one stream.
 *
 * Values only: any thread. */
#ifndef BENCH_LOAD_PLAN_H
#define BENCH_LOAD_PLAN_H

#include <stdbool.h>

#include "base/base.h"

struct plan {
	uint32_t queues;    /* 1 with fan-out */
	uint32_t fanout;    /* 0: none */
	uint32_t senders;   /* 0 when nothing is published */
	uint32_t receivers; /* 0 when nothing is consumed */
	/* Of the senders, or more when others have published. */
	uint32_t streams;
};

/* One queue as one connection sees it. */
struct lane {
	const char *address; /* what is sent to */
	const char *queue;   /* what is received from */
	uint32_t number;     /* which of the copies; 0 without fan-out */
};

/* How many streams the senders of this plan have. */
uint32_t plan_sender_streams(const struct plan *);
/* How many queues can be received from. */
uint32_t plan_sources(const struct plan *);
/* Copies of each message: 1 without fan-out. */
uint32_t plan_copies(const struct plan *);

uint32_t plan_sender_lanes(const struct plan *, uint32_t sender);
uint32_t plan_sender_stream(const struct plan *, uint32_t sender,
			    uint32_t lane);
uint32_t plan_receiver_lanes(const struct plan *, uint32_t receiver);
/* The source (0 … sources - 1) of a receiver's lane. */
uint32_t plan_receiver_source(const struct plan *, uint32_t receiver,
			      uint32_t lane);
/* The lane through which a receiver gets a source that is its own. */
uint32_t plan_receiver_lane(const struct plan *, uint32_t receiver,
			    uint32_t source);
/* May messages of this stream come out of this source? */
bool plan_is_from(const struct plan *, uint32_t stream, uint32_t source);
/* Streams that come out of one source, at most; and the place of a stream
 * among them. */
uint32_t plan_source_streams(const struct plan *);
uint32_t plan_source_place(const struct plan *, uint32_t stream);

#endif
