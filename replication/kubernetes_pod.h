/* replication/kubernetes_pod.h: what the Kubernetes API says about a pod that
 * concerns leadership, and the patches that change it.  No I/O.
 *
 * Label `leader`: "yes" or "no"; a Service selects `leader: "yes"`.
 * Annotation `holdfast/epoch`: the epoch for which the pod was last labelled.
 * Annotation `holdfast/since`: when it was last labelled, either way.
 *
 * For replication/kubernetes*.c and, as to names, for who reads settings.
 * [any] thread. */
#ifndef REPLICATION_KUBERNETES_POD_H
#define REPLICATION_KUBERNETES_POD_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

#define KUBERNETES_POD_TEXT_BYTES 64u

enum kubernetes_pod_label {
	KUBERNETES_POD_UNLABELLED,
	KUBERNETES_POD_NO,
	KUBERNETES_POD_YES,
	KUBERNETES_POD_OTHER, /* not a word of ours */
};

/* A pod as it was at one moment. */
struct kubernetes_pod {
	enum kubernetes_pod_label label;
	bool annotated; /* epoch_text is what stands there */
	uint64_t epoch; /* 0: none, or not a number */
	char epoch_text[KUBERNETES_POD_TEXT_BYTES];
	/* metadata.resourceVersion, an opaque text that changes whenever
	 * anything in the object does */
	char version[KUBERNETES_POD_TEXT_BYTES];
};

/* The answer to GET or PATCH of a pod.  -E_CORRUPT: not a pod, or more than
 * fits. */
MUST_CHECK int kubernetes_pod_parse(const char *json, size_t len,
				    struct kubernetes_pod *ret);

/* Is the pod labelled like this?  epoch counts for a leader only. */
bool kubernetes_pod_is(const struct kubernetes_pod *, bool leader,
		       uint64_t epoch);
/* Labelled as the leader of an epoch before `epoch`, or of none? */
bool kubernetes_pod_is_stale(const struct kubernetes_pod *, uint64_t epoch);

/* The patches; free() them; NULL: no memory.
 *
 * own_yes (merge patch) is refused by the server with 409 when the pod is not
 * exactly as seen.  own_no (merge patch) is unconditional.  peer_no (JSON
 * patch) is refused with 422 unless the peer still carries the label and the
 * epoch that were seen. */
char *kubernetes_pod_own_yes(const struct kubernetes_pod *seen, uint64_t epoch,
			     uint64_t wall_ms);
char *kubernetes_pod_own_no(uint64_t wall_ms);
char *kubernetes_pod_peer_no(const struct kubernetes_pod *seen);

/* May this be a pod's or a namespace's name?  (RFC 1123 subdomain: it then
 * needs no escaping in a URL.) */
bool kubernetes_pod_name_is_valid(const char *name);

#endif
