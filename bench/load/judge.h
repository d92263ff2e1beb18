/* bench/load/judge.h: whether what was confirmed has arrived, once, in order.
 *
 * Any thread; the bits are shared (marks.h), the order is kept by each
 * receiver. */
#ifndef BENCH_LOAD_JUDGE_H
#define BENCH_LOAD_JUDGE_H

#include <stdatomic.h>

#include "bench/load/marks.h"
#include "bench/load/payload.h"
#include "bench/load/plan.h"
#include "bench/load/tally.h"

struct judge {
	const struct plan *plan;
	bool verifies;		/* else only the run is looked at */
	_Atomic uint32_t run;	/* 0: that of the first message */
	struct marks *accepted; /* a row for each stream; may be NULL */
	struct marks *seen;	/* a row for each stream and copy */
	_Atomic int err;	/* bits could not be kept */
};

/* The order that one receiver has seen: by lane and place of the stream. */
struct judge_order {
	uint64_t *next; /* number after the last one seen */
	uint32_t places;
};

enum judge_arrival {
	JUDGE_NEW,
	JUDGE_AGAIN,   /* a duplicate */
	JUDGE_FOREIGN, /* of another run, or none of ours */
	JUDGE_CORRUPT, /* damaged, or in a queue it was not sent to */
};

struct judge_verdict {
	uint64_t lost;	    /* confirmed and not there */
	uint64_t kept;	    /* there and not confirmed, which is allowed */
	uint64_t gaps;	    /* numbers that are missing below the highest */
	uint64_t confirmed; /* messages, times copies */
	uint64_t unique;    /* arrived, without duplicates */
};

/* expects: what was confirmed is known.  0 or -ENOMEM. */
MUST_CHECK int judge_init(struct judge *, const struct plan *, uint32_t run,
			  bool verifies, bool expects);
void judge_fini(struct judge *);
MUST_CHECK int judge_order_init(struct judge_order *, const struct plan *,
				uint32_t lanes);
void judge_order_fini(struct judge_order *);

void judge_accepted(struct judge *, uint32_t stream, uint64_t number);
/* source is plan.h's, or WIRE_ANY_LANE when the peer did not say which.
 * Counts into t what is wrong.  ret is set unless FOREIGN or CORRUPT. */
enum judge_arrival judge_arrived(struct judge *, struct judge_order *,
				 struct tally *t, uint32_t receiver,
				 uint32_t source, const uint8_t *body,
				 size_t len, struct payload_fields *ret);
void judge_finish(const struct judge *, struct judge_verdict *ret);

#endif
