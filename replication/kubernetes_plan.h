/* replication/kubernetes_plan.h: what to ask of the Kubernetes API next.
 *
 * The decisions of replication/kubernetes.c without its I/O: the caller says
 * what is wanted and how each step ended, and is told the next step.  Targets
 * are numbered: 0 is the own pod, 1 to peer_count are the peers.
 *
 * It works by level: what a pod carries is looked at again and again, and
 * compared with what is wanted now; no single change, and no answer, has to
 * arrive.
 *
 * Owner: one thread.  Times are milliseconds of a clock that does not step. */
#ifndef REPLICATION_KUBERNETES_PLAN_H
#define REPLICATION_KUBERNETES_PLAN_H

#include "replication/kubernetes.h"
#include "replication/kubernetes_pod.h"

#define KUBERNETES_PLAN_BACKOFF_MS 200u
#define KUBERNETES_PLAN_BACKOFF_MS_MAX 10000u
/* A server may ask for patience (Retry-After), up to this. */
#define KUBERNETES_PLAN_RETRY_AFTER_MS_MAX 30000u
#define KUBERNETES_PLAN_LEVEL_MS 10000u

enum kubernetes_plan_act {
	KUBERNETES_PLAN_WAIT,  /* until_ms, or for a change of what is wanted */
	KUBERNETES_PLAN_READ,  /* GET the target */
	KUBERNETES_PLAN_WRITE, /* PATCH it; seen is its last reading */
};

struct kubernetes_plan_step {
	enum kubernetes_plan_act act;
	unsigned target;
	uint64_t until_ms; /* of WAIT; UINT64_MAX: only for a change */
};

/* How a step ended. */
struct kubernetes_plan_outcome {
	/* KUBERNETES_FAILURE_COUNT: it did not fail, and pod is the target
	 * after it. */
	enum kubernetes_failure failure;
	bool cancelled; /* what is wanted has changed meanwhile */
	struct kubernetes_pod pod;
	bool has_retry_after;
	uint64_t retry_after_ms;
};

struct kubernetes_plan_target {
	bool write;	/* the next step for it, else read */
	bool is_wanted; /* when it was last looked at */
	uint64_t due_ms;
	unsigned failures; /* in a row, its own */
	struct kubernetes_pod seen;
};

struct kubernetes_plan {
	bool leader;
	uint64_t epoch;
	bool gone; /* no such pod: nothing is done until the next change */
	uint64_t level_ms;
	/* Nothing is asked before this; failures in a row that concern the
	 * API as a whole. */
	uint64_t hold_ms;
	bool hold_is_asked; /* by the server: a change does not end it */
	unsigned failures;
	unsigned peer_count;
	struct kubernetes_plan_target targets[1 + KUBERNETES_PEERS_MAX];
};

/* Wanted from the beginning: not leader. */
void kubernetes_plan_init(struct kubernetes_plan *, unsigned peer_count,
			  uint64_t level_ms);
/* Everything is looked at again, at once. */
void kubernetes_plan_want(struct kubernetes_plan *, bool leader, uint64_t epoch,
			  uint64_t now_ms);
struct kubernetes_plan_step kubernetes_plan_next(const struct kubernetes_plan *,
						 uint64_t now_ms);
/* random: any number, for the jitter. */
void kubernetes_plan_done(struct kubernetes_plan *,
			  const struct kubernetes_plan_step *,
			  const struct kubernetes_plan_outcome *,
			  uint64_t now_ms, uint32_t random);
/* The own pod was labelled as wanted when it was last looked at. */
bool kubernetes_plan_in_sync(const struct kubernetes_plan *);
/* And so were the peers, as far as they matter, and nothing has failed
 * since. */
bool kubernetes_plan_is_settled(const struct kubernetes_plan *);

/* After so many failures in a row (1, 2...): doubling, with a jitter that only
 * shortens, by up to a half. */
uint64_t kubernetes_plan_backoff(unsigned failures, uint32_t random);

#endif
