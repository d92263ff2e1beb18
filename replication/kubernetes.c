/* replication/kubernetes.c: the thread, the requests and what is said about
 * them.  What to do next is decided in kubernetes_plan.c.
 *
 * The lock guards what is wanted and whether it has been reached; no request
 * is made under it.  `generation` counts what was wanted: a request made for an
 * earlier one is given up. */
#include "replication/kubernetes.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/crypto.h"
#include "base/http_client.h"
#include "base/logger.h"
#include "replication/kubernetes_plan.h"

/* A bound token has some 1,200 bytes. */
#define TOKEN_BYTES 16384u
/* etcd takes 1.5 MiB. */
#define ANSWER_BYTES_MAX (4u << 20)
#define STOP_RETRY_MS 100u
/* Others change pods, too; so often in a row is worth a line. */
#define CONFLICTS_LOGGED 5u

struct kubernetes {
	struct io *io;
	char *api_url, *token_file, *ca_file;
	char namespace[254];
	char *pods[1 + KUBERNETES_PEERS_MAX]; /* 0 is our own */
	unsigned peer_count;
	struct http_client *client;
	struct kubernetes_stats stats;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* something else is wanted */
	pthread_cond_t reached;
	bool want_leader, stopping;
	uint64_t want_epoch, stop_ms;
	_Atomic uint64_t generation;
	uint64_t reached_generation;

	/* The thread's own. */
	struct kubernetes_plan plan;
	uint64_t taken; /* the generation that the plan is for */
	unsigned said;	/* bits: failures logged since all was well */
	uint64_t said_newer_epoch;
	char why[256]; /* of the last failure */
	unsigned status;
};

static const char *const failure_names[] = {
	[KUBERNETES_UNREACHABLE] = "unreachable",
	[KUBERNETES_TIMED_OUT] = "timed-out",
	[KUBERNETES_UNTRUSTED] = "untrusted",
	[KUBERNETES_NO_CREDENTIALS] = "no-credentials",
	[KUBERNETES_UNAUTHORIZED] = "unauthorized",
	[KUBERNETES_FORBIDDEN] = "forbidden",
	[KUBERNETES_NOT_FOUND] = "not-found",
	[KUBERNETES_CONFLICT] = "conflict",
	[KUBERNETES_THROTTLED] = "throttled",
	[KUBERNETES_SERVER_ERROR] = "server-error",
	[KUBERNETES_REJECTED] = "rejected",
};

const char *kubernetes_failure_name(enum kubernetes_failure f)
{
	ASSERT(f < KUBERNETES_FAILURE_COUNT);
	return failure_names[f];
}

static uint64_t now_ms(struct kubernetes *k)
{
	return io_now_ns(k->io) / 1000000;
}

/* ---- the service account ---- */

/* The text of a small file, without the white space at its end.  -EBADMSG: not
 * printable, or longer than fits. */
static int read_text(struct io *io, const char *path, char *ret, size_t size)
{
	struct io_file *file;
	size_t len = 0;
	int err = io_open(io, path, IO_READ, &file);

	if (err)
		return err;
	err = io_read(file, ret, size, 0, &len);
	io_close(file);
	if (err)
		return err;
	if (len == size)
		return -EBADMSG;
	while (len && (ret[len - 1] == '\n' || ret[len - 1] == ' ' ||
		       ret[len - 1] == '\r'))
		len--;
	ret[len] = '\0';
	/* It becomes part of a header or a URL. */
	for (size_t i = 0; i < len; i++)
		if (ret[i] <= ' ' || ret[i] > '~')
			return -EBADMSG;
	return len ? 0 : -EBADMSG;
}

/* ---- requests ---- */

static bool is_superseded(void *ctx)
{
	struct kubernetes *k = ctx;

	return atomic_load(&k->generation) != k->taken;
}

static enum kubernetes_failure failure_of_error(int err)
{
	switch (err) {
	case -ETIMEDOUT:
		return KUBERNETES_TIMED_OUT;
	case -EKEYREJECTED:
		return KUBERNETES_UNTRUSTED;
	case -EMSGSIZE:
		return KUBERNETES_REJECTED;
	default:
		return KUBERNETES_UNREACHABLE;
	}
}

static enum kubernetes_failure failure_of_status(unsigned status, bool is_test)
{
	switch (status) {
	case 401:
		return KUBERNETES_UNAUTHORIZED;
	case 403:
		return KUBERNETES_FORBIDDEN;
	case 404:
		return KUBERNETES_NOT_FOUND;
	case 409:
		return KUBERNETES_CONFLICT;
	case 422: /* a JSON patch whose test failed */
		return is_test ? KUBERNETES_CONFLICT : KUBERNETES_REJECTED;
	case 429:
		return KUBERNETES_THROTTLED;
	default:
		return status >= 500 ? KUBERNETES_SERVER_ERROR
				     : KUBERNETES_REJECTED;
	}
}

static void understand(struct kubernetes *k, const struct http_answer *a,
		       bool is_test, struct kubernetes_plan_outcome *o)
{
	k->status = a->status;
	o->failure = KUBERNETES_FAILURE_COUNT;
	if (a->status < 200 || a->status > 299) {
		o->failure = failure_of_status(a->status, is_test);
		o->has_retry_after = a->has_retry_after;
		o->retry_after_ms = a->retry_after_ms;
		snprintf(k->why, sizeof(k->why), "%.200s",
			 a->len ? a->body : "");
	} else if (kubernetes_pod_parse(a->body, a->len, &o->pod)) {
		o->failure = KUBERNETES_REJECTED;
		snprintf(k->why, sizeof(k->why), "the answer is not a pod");
	}
}

/* body NULL: GET. */
static void perform(struct kubernetes *k, unsigned target, const char *body,
		    uint64_t ms_max, bool (*cancelled)(void *),
		    struct kubernetes_plan_outcome *o)
{
	static const char *const headers[] = {"Accept: application/json", NULL};
	char url[1024], token[TOKEN_BYTES];
	struct http_request request = {
		.method = body ? "PATCH" : "GET",
		.url = url,
		.https_only = true,
		.ca_file = k->ca_file,
		.bearer = token,
		.headers = headers,
		.body = body,
		.body_len = body ? strlen(body) : 0,
		.content_type = target ? "application/json-patch+json"
				       : "application/merge-patch+json",
		.connect_ms_max = ms_max,
		.total_ms_max = ms_max,
		.answer_bytes_max = ANSWER_BYTES_MAX,
		.cancelled = cancelled,
		.ctx = k,
	};
	struct http_answer answer;
	int err;

	k->status = 0;
	snprintf(url, sizeof(url), "%s/api/v1/namespaces/%s/pods/%s%s",
		 k->api_url, k->namespace, k->pods[target],
		 body ? "?fieldManager=holdfast" : "");
	err = read_text(k->io, k->token_file, token, sizeof(token));
	if (err) {
		snprintf(k->why, sizeof(k->why), "%.180s: %s", k->token_file,
			 err_str(err));
		o->failure = KUBERNETES_NO_CREDENTIALS;
		return;
	}
	atomic_fetch_add(&k->stats.requests, 1);
	err = http_client_perform(k->client, &request, &answer);
	crypto_zero(token, sizeof(token));
	if (err) {
		snprintf(k->why, sizeof(k->why), "%s", answer.why);
		o->cancelled = err == -ECANCELED;
		o->failure = failure_of_error(err);
	} else {
		understand(k, &answer, body && target, o);
	}
	http_client_clear(&answer);
}

static char *patch_for(struct kubernetes *k, unsigned target)
{
	const struct kubernetes_plan *p = &k->plan;
	const struct kubernetes_pod *seen = &p->targets[target].seen;
	uint64_t wall_ms = io_wall_ms(k->io);

	if (target)
		return kubernetes_pod_peer_no(seen);
	return p->leader ? kubernetes_pod_own_yes(seen, p->epoch, wall_ms)
			 : kubernetes_pod_own_no(wall_ms);
}

/* ---- what is said ---- */

static void say_failure(struct kubernetes *k, unsigned target,
			enum kubernetes_failure f)
{
	const char *pod = k->pods[target];

	if (f == KUBERNETES_CONFLICT &&
	    k->plan.targets[target].failures < CONFLICTS_LOGGED) {
		logger_debug("kubernetes", "conflict", "pod=%s", pod);
		return;
	}
	if (k->said & 1u << f)
		return;
	k->said |= 1u << f;
	switch (f) {
	case KUBERNETES_FORBIDDEN:
		logger_error("kubernetes", "forbidden",
			     "pod=%s namespace=%s why=%s hint=%s", pod,
			     k->namespace, LOGGER_QUOTE(k->why),
			     LOGGER_QUOTE("the pod's service account needs a "
					  "Role with apiGroups [\"\"], "
					  "resources [pods], verbs [get, "
					  "patch] and every broker pod in "
					  "resourceNames; it is tried again"));
		break;
	case KUBERNETES_NOT_FOUND:
		logger_error("kubernetes", "pod-not-found",
			     "pod=%s namespace=%s hint=%s", pod, k->namespace,
			     LOGGER_QUOTE("the pod was replaced, or "
					  "kubernetes.pod or POD_NAME is not "
					  "its name; nothing is labelled "
					  "until leadership changes"));
		break;
	default:
		logger_warn("kubernetes", "api-failed",
			    "failure=%s pod=%s status=%u why=%s hint=%s",
			    failure_names[f], pod, k->status,
			    LOGGER_QUOTE(k->why),
			    LOGGER_QUOTE("it is tried again; leadership does "
					 "not depend on it"));
		break;
	}
}

/* Every change of a label is a line. */
static void say_written(struct kubernetes *k, unsigned target,
			const struct kubernetes_pod *was)
{
	const struct kubernetes_plan *p = &k->plan;

	if (target) {
		atomic_fetch_add(&k->stats.peers_corrected, 1);
		logger_warn("kubernetes", "peer-corrected",
			    "pod=%s leader=no was_epoch=%s epoch=%" PRIu64,
			    k->pods[target], LOGGER_QUOTE(was->epoch_text),
			    p->epoch);
		return;
	}
	atomic_fetch_add(&k->stats.label_writes, 1);
	if (p->leader)
		logger_info("kubernetes", "labelled",
			    "pod=%s leader=yes epoch=%" PRIu64, k->pods[0],
			    p->epoch);
	else
		logger_info("kubernetes", "labelled", "pod=%s leader=no",
			    k->pods[0]);
}

static void say_read(struct kubernetes *k, unsigned target, bool was_wanted,
		     const struct kubernetes_pod *pod)
{
	const struct kubernetes_plan *p = &k->plan;

	if (!target && was_wanted && !p->targets[0].is_wanted)
		logger_warn("kubernetes", "label-lost", "pod=%s hint=%s",
			    k->pods[0],
			    LOGGER_QUOTE("somebody else changed the label; it "
					 "is written again"));
	if (!target || pod->label != KUBERNETES_POD_YES ||
	    pod->epoch <= p->epoch)
		return;
	atomic_store(&k->stats.newer_epoch,
		     base_max(pod->epoch, atomic_load(&k->stats.newer_epoch)));
	if (k->said_newer_epoch == pod->epoch)
		return;
	k->said_newer_epoch = pod->epoch;
	logger_warn("kubernetes", "newer-leader",
		    "pod=%s its_epoch=%" PRIu64 " epoch=%" PRIu64 " hint=%s",
		    k->pods[target], pod->epoch, p->epoch,
		    LOGGER_QUOTE("this broker has been replaced, or the data "
				 "was restored from a backup; in the second "
				 "case: kubectl label --overwrite pod NAME "
				 "leader=no"));
}

/* ---- a step ---- */

static void publish(struct kubernetes *k)
{
	bool in_sync = kubernetes_plan_in_sync(&k->plan);

	pthread_mutex_lock(&k->lock);
	if (atomic_load(&k->generation) == k->taken) {
		atomic_store(&k->stats.in_sync, in_sync);
		k->reached_generation = in_sync ? k->taken : 0;
		if (in_sync)
			pthread_cond_broadcast(&k->reached);
	}
	pthread_mutex_unlock(&k->lock);
	if (k->said && kubernetes_plan_is_settled(&k->plan)) {
		k->said = 0;
		logger_info("kubernetes", "api-recovered", "pod=%s",
			    k->pods[0]);
	}
}

static void count(struct kubernetes *k, unsigned target,
		  const struct kubernetes_plan_outcome *o)
{
	if (o->failure == KUBERNETES_FAILURE_COUNT) {
		atomic_store(&k->stats.last_success_wall_ms, io_wall_ms(k->io));
		atomic_store(&k->stats.consecutive_failures, 0);
		return;
	}
	atomic_fetch_add(&k->stats.failures[o->failure], 1);
	if (o->failure != KUBERNETES_CONFLICT)
		atomic_fetch_add(&k->stats.consecutive_failures, 1);
	say_failure(k, target, o->failure);
}

static void execute(struct kubernetes *k,
		    const struct kubernetes_plan_step *step)
{
	struct kubernetes_plan_target *t = &k->plan.targets[step->target];
	struct kubernetes_plan_outcome o = {.failure = KUBERNETES_UNREACHABLE};
	struct kubernetes_pod was = t->seen;
	bool was_wanted = t->is_wanted;
	bool write = step->act == KUBERNETES_PLAN_WRITE;
	char *body = write ? patch_for(k, step->target) : NULL;
	uint32_t random;

	if (write && !body)
		snprintf(k->why, sizeof(k->why), "no memory");
	else
		perform(k, step->target, body, KUBERNETES_REQUEST_MS,
			is_superseded, &o);
	free(body);
	io_random(k->io, &random, sizeof(random));
	kubernetes_plan_done(&k->plan, step, &o, now_ms(k), random);
	if (o.cancelled)
		return;
	/* A peer that is not there is no failure. */
	if (!step->target || o.failure != KUBERNETES_NOT_FOUND)
		count(k, step->target, &o);
	if (o.failure == KUBERNETES_FAILURE_COUNT) {
		if (!write)
			say_read(k, step->target, was_wanted, &o.pod);
		else if (t->is_wanted)
			say_written(k, step->target, &was);
	}
	publish(k);
}

/* ---- the thread ---- */

/* False: it is to stop. */
static bool take_wanted(struct kubernetes *k)
{
	uint64_t generation, epoch;
	bool leader, stopping;

	pthread_mutex_lock(&k->lock);
	generation = atomic_load(&k->generation);
	leader = k->want_leader;
	epoch = k->want_epoch;
	stopping = k->stopping;
	pthread_mutex_unlock(&k->lock);
	if (stopping)
		return false;
	if (generation != k->taken) {
		k->taken = generation;
		kubernetes_plan_want(&k->plan, leader, epoch, now_ms(k));
	}
	return true;
}

static struct timespec in_ms(uint64_t ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)(ms / 1000);
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

static void wait_for_change(struct kubernetes *k, uint64_t until_ms)
{
	uint64_t now = now_ms(k);
	struct timespec until =
		in_ms(until_ms > now ? base_min(until_ms - now, 3600000) : 0);

	pthread_mutex_lock(&k->lock);
	while (atomic_load(&k->generation) == k->taken &&
	       pthread_cond_timedwait(&k->changed, &k->lock, &until) !=
		       ETIMEDOUT)
		;
	pthread_mutex_unlock(&k->lock);
}

static bool is_worth_another_try(enum kubernetes_failure f)
{
	return f == KUBERNETES_UNREACHABLE || f == KUBERNETES_UNAUTHORIZED ||
	       f == KUBERNETES_SERVER_ERROR || f == KUBERNETES_NO_CREDENTIALS;
}

/* What the plan has asked for last may have been written, or may yet be. */
static void write_last_no(struct kubernetes *k)
{
	struct kubernetes_plan_outcome o = {.failure = KUBERNETES_UNREACHABLE};
	uint64_t end_ms = k->stop_ms + KUBERNETES_STOP_MS, now;
	char *body = kubernetes_pod_own_no(io_wall_ms(k->io));

	snprintf(k->why, sizeof(k->why), "no time or memory was left");
	while (body && (now = now_ms(k)) < end_ms) {
		perform(k, 0, body, end_ms - now, NULL, &o);
		if (o.failure == KUBERNETES_FAILURE_COUNT) {
			k->plan.leader = false;
			say_written(k, 0, &o.pod);
			break;
		}
		if (!is_worth_another_try(o.failure))
			break;
		io_pause(k->io, STOP_RETRY_MS * 1000000ull);
	}
	free(body);
	if (o.failure != KUBERNETES_FAILURE_COUNT)
		logger_warn("kubernetes", "label-left",
			    "pod=%s failure=%s why=%s hint=%s", k->pods[0],
			    failure_names[o.failure], LOGGER_QUOTE(k->why),
			    LOGGER_QUOTE("the next leader corrects it, and so "
					 "does the next start"));
}

static void *thread_main(void *arg)
{
	struct kubernetes *k = arg;

	while (take_wanted(k)) {
		struct kubernetes_plan_step step =
			kubernetes_plan_next(&k->plan, now_ms(k));

		if (step.act == KUBERNETES_PLAN_WAIT)
			wait_for_change(k, step.until_ms);
		else
			execute(k, &step);
	}
	if (k->plan.leader || !kubernetes_plan_in_sync(&k->plan))
		write_last_no(k);
	return NULL;
}

/* ---- life ---- */

static int check(const struct kubernetes_options *o,
		 char why[KUBERNETES_WHY_BYTES])
{
	const char *wrong = NULL;

	if (strncmp(o->api_url, "https://", 8) != 0 || !o->api_url[8])
		wrong = "the API's URL must begin with https://";
	else if (strlen(o->api_url) > 300)
		wrong = "the API's URL is too long";
	else if (!kubernetes_pod_name_is_valid(o->pod))
		wrong = "the pod's name is not one that Kubernetes gives";
	else if (o->peer_count > KUBERNETES_PEERS_MAX)
		wrong = "there are too many peers";
	for (unsigned i = 0; !wrong && i < o->peer_count; i++) {
		if (!kubernetes_pod_name_is_valid(o->peers[i]))
			wrong = "a peer's name is not one that Kubernetes "
				"gives";
		else if (!strcmp(o->peers[i], o->pod))
			wrong = "the pod is among its own peers";
	}
	if (!wrong)
		return 0;
	snprintf(why, KUBERNETES_WHY_BYTES, "%s", wrong);
	return -EINVAL;
}

static int copy_options(struct kubernetes *k,
			const struct kubernetes_options *o)
{
	size_t len = strlen(o->api_url);
	bool ok;

	while (o->api_url[len - 1] == '/')
		len--;
	k->io = o->io;
	k->api_url = strndup(o->api_url, len);
	if (asprintf(&k->token_file, "%s/token", o->account_dir) < 0)
		k->token_file = NULL;
	if (asprintf(&k->ca_file, "%s/ca.crt", o->account_dir) < 0)
		k->ca_file = NULL;
	k->pods[0] = strdup(o->pod);
	k->client = http_client_create();
	ok = k->api_url && k->token_file && k->ca_file && k->pods[0] &&
	     k->client;
	for (unsigned i = 0; ok && i < o->peer_count; i++) {
		k->pods[1 + i] = strdup(o->peers[i]);
		ok = k->pods[1 + i] != NULL;
	}
	k->peer_count = o->peer_count;
	return ok ? 0 : -ENOMEM;
}

static int read_namespace(struct kubernetes *k, const char *dir,
			  char why[KUBERNETES_WHY_BYTES])
{
	char path[512];
	int err;

	snprintf(path, sizeof(path), "%s/namespace", dir);
	err = read_text(k->io, path, k->namespace, sizeof(k->namespace));
	if (!err && !kubernetes_pod_name_is_valid(k->namespace))
		err = -EBADMSG;
	if (err)
		snprintf(why, KUBERNETES_WHY_BYTES,
			 "cannot read %.120s: %s; the pod needs a service "
			 "account whose token is mounted",
			 path, err_str(err));
	return err;
}

static void init_threads(struct kubernetes *k)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k->changed, &attr);
	pthread_cond_init(&k->reached, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&k->lock, NULL);
}

int kubernetes_create(const struct kubernetes_options *o,
		      struct kubernetes **ret,
		      char ret_why[KUBERNETES_WHY_BYTES])
{
	struct kubernetes *k;
	int err = check(o, ret_why);

	if (err)
		return err;
	k = calloc(1, sizeof(*k));
	snprintf(ret_why, KUBERNETES_WHY_BYTES, "no memory");
	if (!k)
		return -ENOMEM;
	init_threads(k);
	err = copy_options(k, o);
	if (!err)
		err = read_namespace(k, o->account_dir, ret_why);
	if (err) {
		kubernetes_free(k);
		return err;
	}
	k->taken = 1;
	atomic_store(&k->generation, 1);
	kubernetes_plan_init(&k->plan, k->peer_count,
			     o->level_ms ? o->level_ms
					 : KUBERNETES_PLAN_LEVEL_MS);
	*ret = k;
	return 0;
}

int kubernetes_start(struct kubernetes *k)
{
	sigset_t all, before;
	int err;

	/* Signals are for the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&k->thread, NULL, thread_main, k);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!err)
		pthread_setname_np(k->thread, "kubernetes");
	return -err;
}

/* With the lock held. */
static void change(struct kubernetes *k)
{
	atomic_fetch_add(&k->generation, 1);
	atomic_store(&k->stats.in_sync, false);
	pthread_cond_signal(&k->changed);
	http_client_wake(k->client);
}

void kubernetes_set(struct kubernetes *k, bool leader, uint64_t epoch)
{
	pthread_mutex_lock(&k->lock);
	if (leader != k->want_leader || (leader && epoch != k->want_epoch)) {
		k->want_leader = leader;
		k->want_epoch = epoch;
		atomic_store(&k->stats.leader, leader);
		atomic_store(&k->stats.newer_epoch, 0);
		change(k);
	}
	pthread_mutex_unlock(&k->lock);
}

bool kubernetes_wait(struct kubernetes *k, uint64_t ms)
{
	struct timespec until = in_ms(ms);
	bool reached;

	pthread_mutex_lock(&k->lock);
	while (k->reached_generation != atomic_load(&k->generation) &&
	       pthread_cond_timedwait(&k->reached, &k->lock, &until) !=
		       ETIMEDOUT)
		;
	reached = k->reached_generation == atomic_load(&k->generation);
	pthread_mutex_unlock(&k->lock);
	return reached;
}

void kubernetes_stop(struct kubernetes *k)
{
	pthread_mutex_lock(&k->lock);
	k->stopping = true;
	k->stop_ms = now_ms(k);
	change(k);
	pthread_mutex_unlock(&k->lock);
	pthread_join(k->thread, NULL);
}

void kubernetes_free(struct kubernetes *k)
{
	if (!k)
		return;
	http_client_free(k->client);
	for (unsigned i = 0; i <= KUBERNETES_PEERS_MAX; i++)
		free(k->pods[i]);
	free(k->api_url);
	free(k->token_file);
	free(k->ca_file);
	pthread_cond_destroy(&k->changed);
	pthread_cond_destroy(&k->reached);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

const struct kubernetes_stats *kubernetes_stats(const struct kubernetes *k)
{
	return &k->stats;
}
