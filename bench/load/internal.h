/* bench/load/internal.h: what the threads of one run share.
 *
 * The coordinator (run.c, the calling thread) moves the phase; workers
 * (worker.c, one epoll loop each) own their wires and counts.  What both touch
 * is atomic.  Connection i belongs to worker i mod threads. */
#ifndef BENCH_LOAD_INTERNAL_H
#define BENCH_LOAD_INTERNAL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bench/load/load.h"

enum phase {
	PHASE_SETUP,	  /* worker 0 declares the queues */
	PHASE_CONNECTING, /* until every wire is ready */
	PHASE_RUNNING,
	PHASE_FINISHING, /* nothing new; what is under way comes to its end */
	PHASE_CLOSING,
	PHASE_ENDED,
};

/* What the coordinator wants to know of a worker, written by the worker. */
struct progress {
	_Atomic uint64_t moved; /* sent + settled + arrived */
	_Atomic uint64_t accepted, arrived;
	_Atomic uint32_t ready;	  /* wires that are */
	_Atomic uint32_t sending; /* senders that are not done */
	_Atomic bool setup_done, closed;
	_Atomic int phase; /* for which the rest is true */
};

struct run {
	const struct load_options *o;
	struct plan plan;
	struct wire_terms terms;
	struct judge judge;
	struct payload_pool *pool; /* NULL when nothing is published */
	uint32_t id;
	char tag[24];
	struct sockaddr_storage to;
	socklen_t to_len;
	struct lane *sources; /* by plan_sources(), the queues */
	struct lane topic;    /* what senders have with fan-out */
	_Atomic int phase;
	_Atomic uint64_t start_ns;   /* of the load, with its warm-up */
	_Atomic uint64_t measure_ns; /* UINT64_MAX: not known yet */
	uint64_t begun_ns;
	pthread_mutex_t lock;
	/* under the lock */
	bool failed, broken;
	uint64_t broken_ns;
	char why[512], remark[256];
};

/* The first one counts. */
void run_fail(struct run *, const struct wire *, int err);
void run_break(struct run *, const struct wire *, uint64_t now_ns);
void run_remark(struct run *, const struct wire *);
/* The window, as far as it is known. */
struct tally_window run_window(const struct run *);
static inline enum phase run_phase(const struct run *r)
{
	return (enum phase)atomic_load_explicit(&r->phase,
						memory_order_acquire);
}
/* CLOCK_MONOTONIC. */
uint64_t run_now_ns(void);

/* ---- a connection and what it does ---- */

struct slot {
	uint64_t intended_ns;
	bool settled;
};

struct member {
	struct wire wire;
	struct worker *worker;
	struct list dirty;
	bool is_dirty, is_ready, is_counted_closed;
	uint32_t events; /* what epoll was asked for */
	struct lane *lanes;
	/* of a sender */
	struct slot *slots;
	uint64_t slot_mask;
	uint64_t oldest, settled; /* oldest: first that is not settled */
	uint64_t quota;		  /* stop at this many; UINT64_MAX: never */
	uint64_t due;		  /* open loop: messages that are due */
	/* of a receiver */
	struct judge_order order;
};

/* sender.c */
MUST_CHECK int sender_init(struct member *);
void sender_fini(struct member *);
/* Send what window, schedule and peer allow; true: the buffer is what ended
 * it, so there may be more. */
bool sender_fill(struct member *, uint64_t now_ns);
/* Nothing to send any more and nothing under way? */
bool sender_is_done(const struct member *);
/* How many messages of all senders are due at this time, in an open loop. */
uint64_t sender_due(const struct run *, uint64_t now_ns);
/* When the message of this number, of all senders, is due. */
uint64_t sender_due_ns(const struct run *, uint64_t number);

/* receiver.c */
MUST_CHECK int receiver_init(struct member *);
void receiver_fini(struct member *);

/* worker.c */
struct worker {
	struct run *run;
	uint32_t index;
	pthread_t thread;
	bool started;
	int epoll;
	struct member *members; /* receivers first, then senders */
	uint32_t count, first_sender;
	struct member setup;
	uint32_t open_at, opening; /* next to be opened; being opened */
	uint64_t redial_ns;
	struct list dirty;
	uint64_t now_ns, due, flushed_ns, counted_ns;
	enum phase phase; /* as last seen */
	bool has_quota, has_cpu_start, has_cpu_end;
	double cpu_start;
	struct tally_window window;
	struct tally tally;
	struct progress progress;
};

MUST_CHECK int worker_create(struct run *, uint32_t index, struct worker **);
MUST_CHECK int worker_start(struct worker *);
/* Waits for its thread, which ends with the phase; NULL-safe. */
void worker_join(struct worker *);
/* After the join. */
void worker_free(struct worker *);
void worker_touch(struct member *);

#endif
