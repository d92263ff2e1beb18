/* bench/load/load.h: one measurement, from its options to its figures. */
#ifndef BENCH_LOAD_LOAD_H
#define BENCH_LOAD_LOAD_H

#include "bench/load/judge.h"
#include "bench/load/plan.h"
#include "bench/load/protocol.h"
#include "bench/load/tally.h"

#define LOAD_CONNECTIONS_MAX 20000u
#define LOAD_QUEUES_MAX 100000u
#define LOAD_THREADS_MAX 64u
#define LOAD_WINDOW_MAX 1000000u

enum load_mode { LOAD_PUBLISH, LOAD_CONSUME, LOAD_BOTH };

struct load_options {
	const struct protocol *protocol;
	const char *host;
	uint16_t port;
	const char *user, *password; /* NULL: none */
	const char *prefix;	     /* of addresses and queues */
	const char *receive_prefix;  /* of what is received from */
	const char *ledger;	     /* a file, or NULL */
	enum load_mode mode;
	uint32_t queues, fanout;
	uint32_t senders, receivers; /* as the mode has them */
	uint32_t threads;
	uint32_t window, credit;
	size_t size;
	uint64_t count;	     /* measured messages; 0: by time */
	uint64_t measure_ns; /* 0: by count, or until nothing comes */
	uint64_t warm_up_ns;
	uint64_t patience_ns; /* so long without progress is the end */
	uint64_t wait_ns;     /* go on trying to connect for so long */
	uint64_t rate;	      /* messages a second, all senders; 0: closed */
	bool verifies;
	bool until_broken; /* losing the peer ends the run, and is no error */
	bool classic;	   /* amqp091: classic queues */
};

struct load_result {
	struct tally tally;
	struct judge_verdict verdict; /* when verifying */
	/* CLOCK_MONOTONIC; 0: it did not come to that */
	uint64_t begun_ns, ready_ns, measure_start_ns, broken_ns;
	double publish_seconds, receive_seconds;
	double cpu_seconds_all; /* of the process, from begin to end */
	uint32_t run;
	bool expects;	  /* confirmed messages are known: lost means lost */
	bool short_of;	  /* ended by patience, not by what was asked for */
	char broken[512]; /* until_broken: what ended it */
	char remark[256]; /* why the first message was not accepted */
};

/* 0, or a negative code with a sentence that names the peer in why. */
MUST_CHECK int load_run(const struct load_options *, struct load_result *ret,
			char *why, size_t why_len);

#endif
