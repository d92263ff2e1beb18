/* tools/bench_load.h: drives senders and receivers against an AMQP 1.0 broker
 * and checks every message.
 *
 * One thread, one connection for each sender and receiver.  Each message
 * carries a run id, its sender, a sequence number and the time it was sent.
 * A confirmed message that never arrives is lost, one that arrives twice is a
 * duplicate; both are counted exactly, by one bit a message. */
#ifndef TOOLS_BENCH_LOAD_H
#define TOOLS_BENCH_LOAD_H

#include "tools/amqp_client.h"
#include "tools/histogram.h"

#define BENCH_LOAD_SIZE_MIN 32u
#define BENCH_LOAD_LINKS_MAX 256u

struct bench_load_options {
	const struct amqp_access *access;
	const char *address;
	uint64_t queues; /* addresses ADDRESS.0, ADDRESS.1, …; 1: ADDRESS */
	uint64_t senders, receivers;
	uint64_t window; /* unconfirmed messages of each sender */
	uint64_t credit; /* of each receiver */
	uint64_t size;	 /* of the body */
	uint64_t count;	 /* measured messages in all; 0: by time */
	uint64_t measure_ns, warm_up_ns;
	uint64_t patience_ns; /* no progress for so long is the end */
	bool leave;	      /* leave what was not received in the queues */
	bool shows_progress;
};

/* Everything between the end of the warm-up and the end of the measurement,
 * but for the verdict, which is about the whole run. */
struct bench_load_result {
	double seconds;
	uint64_t confirmed, received;
	double receive_seconds;
	struct histogram confirm_ns, end_to_end_ns;
	double client_cpu_seconds;
	/* after a run without receivers, what emptied the queues */
	uint64_t drained;
	double drain_seconds;
	/* verdict */
	uint64_t sent, accepted, rejected, released, arrived;
	uint64_t lost, duplicates, out_of_order, foreign;
};

/* 0, or a negative code with the sentence in why. */
MUST_CHECK int bench_load_run(const struct bench_load_options *,
			      struct bench_load_result *ret, char *why,
			      size_t why_len);

#endif
