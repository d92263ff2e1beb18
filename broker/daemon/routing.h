/* broker/daemon/routing.h: whether the pod's label says who leads, and with
 * what (replication/kubernetes.h). */
#ifndef BROKER_DAEMON_ROUTING_H
#define BROKER_DAEMON_ROUTING_H

#include "broker/admin/admin.h"
#include "broker/daemon/settings.h"
#include "replication/kubernetes.h"

/* Of the environment; NULL: not there. */
struct routing_env {
	const char *host, *port; /* KUBERNETES_SERVICE_HOST, _PORT */
	const char *pod;	 /* POD_NAME */
};
void routing_env_read(struct routing_env *ret);

struct routing_choice {
	bool label;
	char why[512]; /* a phrase for the log, or what is wrong */
	/* With label; but for io complete.  Points to what follows, and to the
	 * settings and the environment. */
	struct kubernetes_options options;
	char api_url[320];
	const char *peers[KUBERNETES_PEERS_MAX + 1];
	char names[KUBERNETES_PEERS_MAX + 1][256];
};

/* Blocking (one look at the service account's directory).  ret stays where it
 * is.  -E_CONFIG: label cannot be done, or a name is wrong; why is then a
 * sentence for the operator. */
MUST_CHECK int routing_choose(const struct settings *,
			      const struct routing_env *,
			      struct routing_choice *ret);

/* Chooses and starts it; *ret stays NULL where the pod is not to be labelled.
 * A failure has been logged. */
MUST_CHECK int routing_start(const struct settings *, struct io *,
			     struct kubernetes **ret);
/* [any] For the admin port; NULL: there is no label. */
void routing_describe(const struct kubernetes *, struct admin_label *ret);

#endif
