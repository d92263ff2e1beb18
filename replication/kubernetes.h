/* replication/kubernetes.h: the pod's label says who leads.
 *
 * A Service that selects `leader: "yes"` sends clients to the broker that
 * leads.  The broker labels its own pod: yes when it begins to lead, no when it
 * ends, and again whenever it finds the label different.  While it leads it
 * also takes the label from peers that carry it for an earlier epoch, such as
 * a pod on a node that has died.
 *
 * The label routes; it decides nothing.  Who leads is decided on the storage,
 * and a leader that cannot reach the API goes on leading.  Nothing here calls
 * back.
 *
 * Why no leader of a later epoch loses its label to an earlier one.  A leader
 * writes label and epoch of its own pod in one request, so whatever any reader
 * sees together belongs together.  A peer is changed only by a JSON patch that
 * first tests the label and the very epoch that was read, and found to be
 * lower; test and change are one atomic step of the API server, whenever the
 * request arrives.  If the peer has become leader of a later epoch meanwhile,
 * its epoch differs and the patch is refused as a whole.  Epochs are never used
 * twice, so "the same epoch again" cannot be another term.  A pod that was
 * replaced under the same name carries neither.
 *
 * Why a request that was given up does no harm.  Its own pod is written by one
 * process, one request at a time; a `yes` names the resourceVersion that it
 * replaces, and every `no` changes that (it carries the time).  A `yes` that
 * arrives late is refused.  A `no` that arrives late can take the label from a
 * pod that leads again: the next look, level_ms later at most, gives it back.
 *
 * Limits: restored from a backup with lower epochs, a cluster does not correct
 * a peer that still carries a higher one; that is logged (newer-leader).
 *
 * When all is well it costs one GET every level_ms, and one for each peer while
 * it leads.  No request takes longer than KUBERNETES_REQUEST_MS; the token is
 * read again for each.  Threads: one of its own; the calls say who may make
 * them. */
#ifndef REPLICATION_KUBERNETES_H
#define REPLICATION_KUBERNETES_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/io.h"

#define KUBERNETES_ACCOUNT_DIR "/var/run/secrets/kubernetes.io/serviceaccount"
#define KUBERNETES_PEERS_MAX 63u
#define KUBERNETES_REQUEST_MS 2000u
#define KUBERNETES_STOP_MS 1000u

struct kubernetes;

/* Copied, but for io. */
struct kubernetes_options {
	struct io *io;	     /* outlives the kubernetes */
	const char *api_url; /* "https://10.96.0.1:443" */
	/* Where token, ca.crt and namespace are: KUBERNETES_ACCOUNT_DIR. */
	const char *account_dir;
	const char *pod;	  /* its own name */
	const char *const *peers; /* the other brokers' names */
	unsigned peer_count;
	uint64_t level_ms; /* between looks; 0: 10 s */
};

enum kubernetes_failure {
	KUBERNETES_UNREACHABLE,	   /* no connection, or it broke */
	KUBERNETES_TIMED_OUT,	   /* no answer in KUBERNETES_REQUEST_MS */
	KUBERNETES_UNTRUSTED,	   /* not the API server, says ca.crt */
	KUBERNETES_NO_CREDENTIALS, /* no token to be read */
	KUBERNETES_UNAUTHORIZED,   /* 401 */
	KUBERNETES_FORBIDDEN,	   /* 403 */
	KUBERNETES_NOT_FOUND,	   /* 404 */
	KUBERNETES_CONFLICT,	   /* somebody changed the pod meanwhile */
	KUBERNETES_THROTTLED,	   /* 429 */
	KUBERNETES_SERVER_ERROR,   /* 5xx */
	KUBERNETES_REJECTED,	   /* any other answer but a pod as written */
	KUBERNETES_FAILURE_COUNT,
};

/* "unreachable", "timed-out"... for logs and metrics' labels. */
const char *kubernetes_failure_name(enum kubernetes_failure);

struct kubernetes_stats {
	/* What is wanted, and whether the pod was labelled so when it was
	 * last looked at. */
	_Atomic bool leader, in_sync;
	_Atomic uint64_t requests, label_writes, peers_corrected;
	_Atomic uint64_t failures[KUBERNETES_FAILURE_COUNT];
	_Atomic uint64_t consecutive_failures;
	_Atomic uint64_t last_success_wall_ms; /* 0: none yet */
	/* The highest epoch above our own that a peer was labelled with since
	 * we lead; 0: none.  Worth a look at the claim, nothing more. */
	_Atomic uint64_t newer_epoch;
};

/* Checks the options and reads the namespace; blocking.  On failure why says
 * what is missing and what to do.
 *   -EINVAL   a name or URL that cannot be one;
 *   -errno    the service account's directory cannot be read. */
#define KUBERNETES_WHY_BYTES 256u
MUST_CHECK int kubernetes_create(const struct kubernetes_options *,
				 struct kubernetes **ret,
				 char ret_why[KUBERNETES_WHY_BYTES]);
/* Starts the thread, which begins by writing `no`: a label outlives the
 * container that it was written for. */
MUST_CHECK int kubernetes_start(struct kubernetes *);
/* [any] Whether this broker leads, and for which epoch.  Waits for nothing. */
void kubernetes_set(struct kubernetes *, bool leader, uint64_t epoch);
/* [any] Waits until the pod is labelled as last set, ms at most; false when
 * it is not. */
MUST_CHECK bool kubernetes_wait(struct kubernetes *, uint64_t ms);
/* Writes `no` if it can in KUBERNETES_STOP_MS, and ends the thread.  After a
 * start only, once. */
void kubernetes_stop(struct kubernetes *);
/* NULL-safe; stopped or never started. */
void kubernetes_free(struct kubernetes *);
/* [any] */
const struct kubernetes_stats *kubernetes_stats(const struct kubernetes *);

#endif
