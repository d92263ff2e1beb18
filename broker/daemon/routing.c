/* broker/daemon/routing.c: see routing.h. */
#include "broker/daemon/routing.h"

#include <string.h>
#include <unistd.h>

#include "base/logger.h"
#include "replication/kubernetes_pod.h"

void routing_env_read(struct routing_env *ret)
{
	*ret = (struct routing_env){
		.host = getenv("KUBERNETES_SERVICE_HOST"),
		.port = getenv("KUBERNETES_SERVICE_PORT"),
		.pod = getenv("POD_NAME"),
	};
}

static bool is_filled(const char *text)
{
	return text && text[0];
}

static const char *find_api(const struct settings *s,
			    const struct routing_env *env, char *buf,
			    size_t len)
{
	const char *port = is_filled(env->port) ? env->port : "443";
	bool ipv6 = is_filled(env->host) && strchr(env->host, ':');

	if (s->kubernetes.api)
		return s->kubernetes.api;
	if (!is_filled(env->host))
		return NULL;
	snprintf(buf, len, ipv6 ? "https://[%s]:%s" : "https://%s:%s",
		 env->host, port);
	return buf;
}

static bool has_token(const struct settings *s)
{
	char path[1024];

	snprintf(path, sizeof(path), "%s/token", s->kubernetes.service_account);
	return !access(path, R_OK);
}

static void add_peer(struct routing_choice *c, const char *name)
{
	if (strcmp(name, c->options.pod) != 0)
		c->peers[c->options.peer_count++] = name;
}

/* "holdfast-2" of 3: holdfast-0 and holdfast-1. */
static int number_peers(struct routing_choice *c, uint64_t replicas)
{
	const char *pod = c->options.pod, *dash = strrchr(pod, '-');

	if (!dash || !dash[1] ||
	    strspn(dash + 1, "0123456789") != strlen(dash + 1)) {
		snprintf(c->why, sizeof(c->why),
			 "kubernetes.replicas needs a pod of a StatefulSet, "
			 "whose name ends in -0, -1...; this one is called "
			 "%.100s; name the pods in kubernetes.peers instead",
			 pod);
		return -E_CONFIG;
	}
	for (unsigned i = 0; i < replicas; i++) {
		snprintf(c->names[i], sizeof(c->names[i]), "%.*s-%u",
			 (int)(dash - pod), pod, i);
		add_peer(c, c->names[i]);
	}
	return 0;
}

static int set_peers(const struct settings *s, struct routing_choice *c)
{
	c->options.peers = c->peers;
	for (size_t i = 0; i < s->kubernetes.peers.count; i++)
		add_peer(c, s->kubernetes.peers.items[i]);
	if (s->kubernetes.replicas)
		return number_peers(c, s->kubernetes.replicas);
	if (c->options.peer_count > KUBERNETES_PEERS_MAX) {
		snprintf(c->why, sizeof(c->why),
			 "kubernetes.peers names more than %u other pods",
			 KUBERNETES_PEERS_MAX);
		return -E_CONFIG;
	}
	return 0;
}

/* NULL, or what keeps the pod from being labelled. */
static const char *find_obstacle(const struct settings *s,
				 const struct routing_choice *c)
{
	if (!c->options.api_url)
		return "this is not a Kubernetes pod "
		       "(KUBERNETES_SERVICE_HOST is not set)";
	if (!is_filled(c->options.pod))
		return "the pod's name is not known (set POD_NAME by the "
		       "downward API, or kubernetes.pod)";
	if (!has_token(s))
		return "there is no token to be read in "
		       "kubernetes.service_account "
		       "(automountServiceAccountToken"
		       " in the pod's spec)";
	return NULL;
}

int routing_choose(const struct settings *s, const struct routing_env *env,
		   struct routing_choice *ret)
{
	const char *obstacle;
	int err;

	*ret = (struct routing_choice){.why = "kubernetes.routing is none"};
	if (s->kubernetes.routing == SETTINGS_ROUTING_NONE)
		return 0;
	ret->options.api_url =
		find_api(s, env, ret->api_url, sizeof(ret->api_url));
	ret->options.account_dir = s->kubernetes.service_account;
	ret->options.pod = s->kubernetes.pod ? s->kubernetes.pod : env->pod;
	obstacle = find_obstacle(s, ret);
	if (obstacle && s->kubernetes.routing == SETTINGS_ROUTING_AUTO) {
		snprintf(ret->why, sizeof(ret->why), "%s", obstacle);
		return 0;
	}
	if (obstacle) {
		snprintf(ret->why, sizeof(ret->why),
			 "kubernetes.routing: label cannot be done: %s",
			 obstacle);
		return -E_CONFIG;
	}
	if (!kubernetes_pod_name_is_valid(ret->options.pod)) {
		snprintf(ret->why, sizeof(ret->why),
			 "POD_NAME is not a pod's name: %.100s",
			 ret->options.pod);
		return -E_CONFIG;
	}
	err = set_peers(s, ret);
	if (err)
		return err;
	ret->label = true;
	snprintf(ret->why, sizeof(ret->why), "pod %.253s and %u peers",
		 ret->options.pod, ret->options.peer_count);
	return 0;
}

static int start(struct routing_choice *c, struct io *io,
		 struct kubernetes **ret)
{
	char why[KUBERNETES_WHY_BYTES];
	struct kubernetes *k = NULL;
	int err;

	c->options.io = io;
	err = kubernetes_create(&c->options, &k, why);
	if (err) {
		snprintf(c->why, sizeof(c->why), "%s", why);
		return err;
	}
	err = kubernetes_start(k);
	if (err) {
		snprintf(c->why, sizeof(c->why), "a thread cannot be started");
		kubernetes_free(k);
		return err;
	}
	*ret = k;
	return 0;
}

int routing_start(const struct settings *s, struct io *io,
		  struct kubernetes **ret)
{
	struct routing_choice *c = malloc(sizeof(*c));
	struct routing_env env;
	int err;

	if (!c)
		return -ENOMEM;
	routing_env_read(&env);
	err = routing_choose(s, &env, c);
	if (!err && c->label)
		err = start(c, io, ret);
	if (err)
		logger_error("daemon", "no-label", "error=%s why=%s",
			     LOGGER_QUOTE(err_str(err)), LOGGER_QUOTE(c->why));
	else
		logger_info("daemon", "routing", "label=%s why=%s",
			    c->label ? "true" : "false", LOGGER_QUOTE(c->why));
	free(c);
	return err;
}

void routing_describe(const struct kubernetes *k, struct admin_label *ret)
{
	const struct kubernetes_stats *s;

	_Static_assert(KUBERNETES_FAILURE_COUNT <= ADMIN_FAILURES_MAX,
		       "every failure has its place");
	*ret = (struct admin_label){.on = k != NULL};
	if (!k)
		return;
	s = kubernetes_stats(k);
	ret->in_sync = s->in_sync;
	ret->requests = s->requests;
	ret->writes = s->label_writes;
	ret->peers_corrected = s->peers_corrected;
	ret->consecutive_failures = s->consecutive_failures;
	ret->last_success_ms = s->last_success_wall_ms;
	ret->newer_epoch = s->newer_epoch;
	ret->failure_count = KUBERNETES_FAILURE_COUNT;
	for (unsigned i = 0; i < KUBERNETES_FAILURE_COUNT; i++) {
		ret->failures[i] = s->failures[i];
		ret->failure_names[i] =
			kubernetes_failure_name((enum kubernetes_failure)i);
	}
}
