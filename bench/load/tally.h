/* bench/load/tally.h: what one thread has counted.
 *
 * Only what falls into the measured window counts for rates; a latency counts
 * by when its message was meant to be sent, so that a broker that stalls is
 * charged for all who would have come meanwhile (coordinated omission).
 *
 * One thread; merged at the end. */
#ifndef BENCH_LOAD_TALLY_H
#define BENCH_LOAD_TALLY_H

#include "bench/load/wire.h"
#include "tools/histogram.h"

#define TALLY_SECONDS_MAX 3600u

/* Nanoseconds of CLOCK_MONOTONIC; start is UINT64_MAX until it is known, end
 * stays UINT64_MAX when a count ends the measurement. */
struct tally_window {
	uint64_t start_ns, end_ns;
};

struct tally {
	uint64_t sent, settled, accepted, rejected, released;
	uint64_t confirmed; /* accepted, in the window */
	uint64_t arrived, redelivered, foreign, corrupt;
	uint64_t duplicates, out_of_order;
	uint64_t received; /* in the window */
	uint64_t first_arrival_ns, last_arrival_ns, last_confirm_ns;
	uint64_t late_max_ns; /* open loop: the generator's own delay */
	double cpu_seconds;   /* in the window */
	struct histogram confirm_ns, end_to_end_ns;
	/* by second of the window */
	uint32_t confirms[TALLY_SECONDS_MAX], arrivals[TALLY_SECONDS_MAX];
};

void tally_init(struct tally *);
void tally_confirmed(struct tally *, const struct tally_window *,
		     uint64_t now_ns, uint64_t intended_ns, enum wire_outcome);
void tally_arrived(struct tally *, const struct tally_window *, uint64_t now_ns,
		   uint64_t intended_ns);
void tally_merge(struct tally *into, const struct tally *from);

#endif
