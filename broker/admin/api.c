/* broker/admin/api.c: from a request to an answer.
 *
 * Paths: /health/live, /health/ready, /health/startup, /metrics,
 * /api/v1/status, /api/v1/queues[/NAME[/purge|pause|resume]]; store.c has
 * /api/v1/store, /api/v1/damage and /api/v1/scrub, cluster.c /api/v1/cluster.
 * A standby answers about itself, and says who leads when asked for more.
 *
 * A command to the core is finished by a shard once it is durable.  The admin
 * thread waits for that, but not for ever: when the wait is given up, the
 * command's memory belongs to whoever finishes second. */
#include "broker/admin/internal.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/json.h"

#define COMMAND_MS 5000u
#define LOOP_STUCK_NS 10000000000ull
#define LIST_DEFAULT 1000u
#define LIST_MAX 10000u

#define QUEUES "/api/v1/queues"

/* ---- answers ---- */

void api_give_json(struct admin_response *r, unsigned status, json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	r->status = status;
	r->type = "application/json";
	if (text) {
		admin_text_write(&r->text, text, strlen(text));
		admin_text_write(&r->text, "\n", 1);
	} else {
		r->text.failed = true;
	}
	free(text);
	json_decref(json);
}

void api_give_error(struct admin_response *r, unsigned status,
		    const char *format, ...)
{
	char text[RECORD_NAME_MAX + 256];
	json_t *message;
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);

	/* A name from outside may be no UTF-8, which JSON cannot carry. */
	message = json_string(text);
	if (!message)
		message = json_string("the name is not UTF-8");
	api_give_json(r, status, json_pack("{s:o}", "error", message));
}

static unsigned status_of(int err)
{
	switch (-err) {
	case 0:
		return 200;
	case EINVAL:
		return 400;
	case E_REFUSED:
		return 403;
	case E_NOT_FOUND:
		return 404;
	case E_EXISTS:
	case EEXIST:
	case EBUSY:
		return 409;
	case E_LATCHED:
	case E_FENCED:
	case ECANCELED:
		return 503;
	case ETIMEDOUT:
		return 504;
	case E_NO_SPACE:
	case E_LIMIT:
		return 507;
	default:
		return 500;
	}
}

/* ---- commands ---- */

struct command {
	struct core_command core;
	pthread_mutex_t lock;
	pthread_cond_t ready;
	int err;
	bool finished, abandoned;
	char *name, *address;
};

static void command_free(struct command *c)
{
	if (!c)
		return;
	pthread_cond_destroy(&c->ready);
	pthread_mutex_destroy(&c->lock);
	free(c->name);
	free(c->address);
	free(c);
}

static struct command *command_create(enum core_command_kind kind,
				      const char *name, const char *address,
				      uint8_t routing)
{
	pthread_condattr_t attr;
	struct command *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->ready, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&c->lock, NULL);
	c->name = strdup(name);
	c->address = address ? strdup(address) : NULL;
	if (!c->name || (address && !c->address)) {
		command_free(c);
		return NULL;
	}
	c->core.kind = kind;
	c->core.name = c->name;
	c->core.address = c->address;
	c->core.routing = routing;
	return c;
}

/* [a shard's thread] */
static void command_done(struct core_command *core, int err)
{
	struct command *c = container_of(core, struct command, core);
	bool abandoned;

	pthread_mutex_lock(&c->lock);
	c->err = err;
	c->finished = true;
	abandoned = c->abandoned;
	pthread_cond_signal(&c->ready);
	pthread_mutex_unlock(&c->lock);
	if (abandoned)
		command_free(c);
}

static struct timespec command_deadline(const struct admin *a)
{
	unsigned ms = a->options.command_ms;
	struct timespec t;

	if (!ms)
		ms = COMMAND_MS;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	return t;
}

static int run_command(struct admin *a, enum core_command_kind kind,
		       const char *name, const char *address, uint8_t routing,
		       uint64_t *ret_count)
{
	struct command *c = command_create(kind, name, address, routing);
	struct timespec until;
	int err;

	if (!c)
		return -ENOMEM;
	c->core.done = command_done;
	until = command_deadline(a);
	core_execute(a->broker.core, &c->core);
	pthread_mutex_lock(&c->lock);
	while (!c->finished &&
	       pthread_cond_timedwait(&c->ready, &c->lock, &until) != ETIMEDOUT)
		;
	if (!c->finished) {
		c->abandoned = true;
		pthread_mutex_unlock(&c->lock);
		return -ETIMEDOUT;
	}
	err = c->err;
	*ret_count = c->core.ret_count;
	pthread_mutex_unlock(&c->lock);
	command_free(c);
	return err;
}

/* ---- health ---- */

static void health_live(struct admin *a, struct admin_response *r)
{
	uint64_t now = io_now_ns(a->options.io);

	for (unsigned i = 0; a->serving && i < a->broker.loop_count; i++) {
		int waiting = 0;
		uint64_t beat = loop_heartbeat_ns(a->broker.loops[i], &waiting);

		if (waiting || now < beat || now - beat < LOOP_STUCK_NS)
			continue;
		api_give_error(r, 503,
			       "the %s thread has been busy with one thing for "
			       "%" PRIu64 " s",
			       loop_name(a->broker.loops[i]),
			       (now - beat) / 1000000000u);
		return;
	}
	api_give_json(r, 200, json_pack("{s:s}", "status", "live"));
}

static void health_standby(struct admin *a, struct admin_response *r,
			   bool startup)
{
	struct admin_cluster c = {0};

	a->options.cluster(a->options.cluster_ctx, &c);
	if (!startup && !c.healthy) {
		if (c.elect_err)
			api_give_error(r, 503,
				       "this broker cannot take over: %s",
				       err_str(c.elect_err));
		else
			api_give_error(r, 503,
				       "this standby has not seen its storage "
				       "for %" PRIu64 " s",
				       c.looked_ns / 1000000000u);
		return;
	}
	api_give_json(r, 200, json_pack("{s:s}", "status", "standby"));
}

static void health_state(struct admin *a, const struct admin_request *request,
			 struct admin_response *r, bool startup)
{
	bool as_leader = !startup && !strcmp(request->role, "leader");

	if (request->role[0] && !as_leader) {
		api_give_error(r, 400,
			       "there is /health/ready?role=leader, and no "
			       "other role");
		return;
	}

	switch ((enum admin_state)atomic_load(&a->state)) {
	case ADMIN_STANDBY:
		if (as_leader)
			api_give_error(r, 503, "this broker stands by");
		else
			health_standby(a, r, startup);
		return;
	case ADMIN_STARTING:
		api_give_error(r, 503, "the broker is starting");
		return;
	case ADMIN_DRAINING:
		if (startup)
			break;
		api_give_error(r, 503, "the broker is shutting down");
		return;
	case ADMIN_READY:
		break;
	}
	api_give_json(
		r, 200,
		json_pack("{s:s}", "status", startup ? "started" : "ready"));
}

static void health(struct admin *a, const struct admin_request *request,
		   const char *what, struct admin_response *r)
{
	if (!strcmp(what, "live"))
		health_live(a, r);
	else if (!strcmp(what, "ready"))
		health_state(a, request, r, false);
	else if (!strcmp(what, "startup"))
		health_state(a, request, r, true);
	else
		api_give_error(r, 404,
			       "there is /health/live, /health/ready and "
			       "/health/startup");
}

/* ---- status ---- */

static const char *state_name(struct admin *a)
{
	switch ((enum admin_state)atomic_load(&a->state)) {
	case ADMIN_STARTING:
		return "starting";
	case ADMIN_STANDBY:
		return "standby";
	case ADMIN_READY:
		return "ready";
	case ADMIN_DRAINING:
		return "draining";
	}
	return "unknown";
}

static json_t *status_json(struct admin *a)
{
	const struct admin_options *o = &a->options;
	const uint8_t *id = log_cluster_id(o->log);
	struct admin_cluster c = {0};
	char cluster[33];

	for (int i = 0; i < 16; i++)
		snprintf(cluster + 2 * i, 3, "%02x", id[i]);
	o->cluster(o->cluster_ctx, &c);
	return json_pack(
		"{s:s,s:s,s:f,s:I,s:s,s:s,s:I,s:s,s:s,s:s,s:s}", "version",
		HOLDFAST_VERSION, "state", state_name(a), "uptime_seconds",
		(double)(io_now_ns(o->io) - a->started_ns) / 1e9,
		"started_at_ms", (json_int_t)a->started_wall_ms, "role", c.role,
		"node", c.node, "epoch", (json_int_t)c.epoch, "engine",
		io_engine_name(o->io), "engine_reason", o->engine_reason,
		"cluster_id", cluster, "data_dir", o->data_dir);
}

static json_t *status_serving_json(struct admin *a)
{
	struct core_stats s = {0};

	core_stats(a->broker.core, &s);
	return json_pack(
		"{s:I,s:b,s:I,s:I,s:I,s:I,s:I,s:I}", "shards",
		(json_int_t)core_shard_count(a->broker.core), "has_space",
		log_has_space(a->options.log), "queues", (json_int_t)s.queues,
		"addresses", (json_int_t)s.addresses, "consumers",
		(json_int_t)s.consumers, "producers", (json_int_t)s.producers,
		"messages", (json_int_t)s.messages, "message_bytes",
		(json_int_t)s.message_bytes);
}

static void status(struct admin *a, struct admin_response *r)
{
	json_t *json = status_json(a);

	if (a->serving && json) {
		json_t *more = status_serving_json(a);

		if (!more || json_object_update(json, more)) {
			json_decref(json);
			json = NULL;
		}
		json_decref(more);
	}
	api_give_json(r, 200, json);
}

/* ---- queues ---- */

static const char *routing_name(uint8_t routing)
{
	return routing == RECORD_MULTICAST ? "multicast" : "anycast";
}

/* NULL also for a name that JSON cannot carry. */
static json_t *queue_json(const struct queue_info *q)
{
	return json_pack(
		"{s:I,s:s,s:s,s:s,s:b,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,"
		"s:I,s:I}",
		"id", (json_int_t)q->id, "name", q->name, "address", q->address,
		"routing", routing_name(q->routing), "paused", (int)q->paused,
		"temporary", (int)q->temporary, "auto_created",
		(int)q->auto_created, "consumers", (json_int_t)q->consumers,
		"messages", (json_int_t)q->messages, "delivering",
		(json_int_t)q->delivering, "bytes", (json_int_t)q->bytes,
		"enqueued", (json_int_t)q->enqueued, "acknowledged",
		(json_int_t)q->acknowledged, "expired", (json_int_t)q->expired,
		"dead_lettered", (json_int_t)q->dead_lettered, "redelivered",
		(json_int_t)q->redelivered);
}

struct listing {
	const char *after;
	unsigned limit, count;
	bool more;
	json_t *array;
};

static int list_one(void *ctx, const struct queue_info *q)
{
	struct listing *l = ctx;
	json_t *json;

	if (l->after[0] && strcmp(q->name, l->after) <= 0)
		return 0;
	if (l->count == l->limit) {
		l->more = true;
		return 1;
	}
	json = queue_json(q);
	if (json && !json_array_append_new(l->array, json))
		l->count++;
	return 0;
}

static void queues_list(struct admin *a, const struct admin_request *request,
			struct admin_response *r)
{
	struct listing l = {.after = request->after, .limit = LIST_DEFAULT};
	char *end;

	if (request->limit[0]) {
		unsigned long n = strtoul(request->limit, &end, 10);

		if (*end || !n || n > LIST_MAX) {
			api_give_error(r, 400, "limit must be from 1 to %u",
				       LIST_MAX);
			return;
		}
		l.limit = (unsigned)n;
	}
	l.array = json_array();
	core_each_queue(a->broker.core, list_one, &l);
	api_give_json(
		r, 200,
		json_pack("{s:o,s:b}", "queues", l.array, "more", (int)l.more));
}

static void queue_get(struct admin *a, const char *name,
		      struct admin_response *r)
{
	struct queue_info *q = calloc(1, sizeof(*q));
	int err = q ? core_queue_info(a->broker.core, name, q) : -ENOMEM;

	if (err == -E_NOT_FOUND)
		api_give_error(r, 404, "there is no queue \"%s\"", name);
	else if (err)
		api_give_error(r, status_of(err), "%s", err_str(err));
	else
		api_give_json(r, 200, queue_json(q));
	free(q);
}

static void give_failure(struct admin_response *r, const char *name, int err)
{
	if (err == -E_NOT_FOUND)
		api_give_error(r, 404, "there is no queue \"%s\"", name);
	else if (err == -E_EXISTS || err == -EEXIST)
		api_give_error(r, 409, "\"%s\" exists with other properties",
			       name);
	else if (err == -ETIMEDOUT)
		api_give_error(r, 504,
			       "not confirmed in time; it may still happen");
	else
		api_give_error(r, status_of(err), "\"%s\": %s", name,
			       err_str(err));
}

static void queue_create(struct admin *a, const char *path_name,
			 const struct admin_request *request,
			 struct admin_response *r)
{
	const char *name = path_name, *address = NULL, *routing = "anycast";
	uint64_t count = 0;
	json_t *body = NULL;
	json_error_t why;
	int err;

	if (request->body_len) {
		body = json_loadb(request->body, request->body_len,
				  JSON_REJECT_DUPLICATES, &why);
		if (!body ||
		    json_unpack_ex(body, &why, JSON_STRICT, "{s?s,s?s,s?s}",
				   "name", &name, "address", &address,
				   "routing", &routing)) {
			api_give_error(r, 400, "the body: %s", why.text);
			goto out;
		}
	}
	if (!name || !name[0] || (path_name && strcmp(name, path_name))) {
		api_give_error(r, 400,
			       name && name[0]
				       ? "the name in the body is not the "
					 "one in the path"
				       : "a queue needs a \"name\"");
		goto out;
	}
	if (strcmp(routing, "anycast") && strcmp(routing, "multicast")) {
		api_give_error(r, 400,
			       "routing must be \"anycast\" or \"multicast\"");
		goto out;
	}
	err = run_command(a, CORE_QUEUE_CREATE, name, address,
			  !strcmp(routing, "multicast") ? RECORD_MULTICAST
							: RECORD_ANYCAST,
			  &count);
	if (err)
		give_failure(r, name, err);
	else
		api_give_json(r, 201,
			      json_pack("{s:s,s:s,s:s}", "name", name,
					"address", address ? address : name,
					"routing", routing));
out:
	json_decref(body);
}

static void queue_command(struct admin *a, enum core_command_kind kind,
			  const char *name, struct admin_response *r)
{
	uint64_t count = 0;
	int err = run_command(a, kind, name, NULL, 0, &count);

	if (err) {
		give_failure(r, name, err);
		return;
	}
	switch (kind) {
	case CORE_QUEUE_PURGE:
		api_give_json(r, 200,
			      json_pack("{s:s,s:I}", "name", name, "removed",
					(json_int_t)count));
		return;
	case CORE_QUEUE_PAUSE:
	case CORE_QUEUE_RESUME:
		api_give_json(r, 200,
			      json_pack("{s:s,s:b}", "name", name, "paused",
					kind == CORE_QUEUE_PAUSE));
		return;
	case CORE_QUEUE_DELETE:
	case CORE_QUEUE_CREATE:
		api_give_json(
			r, 200,
			json_pack("{s:s,s:b}", "name", name, "deleted", 1));
		return;
	}
}

static bool action_of(const char *word, enum core_command_kind *ret)
{
	if (!strcmp(word, "purge"))
		*ret = CORE_QUEUE_PURGE;
	else if (!strcmp(word, "pause"))
		*ret = CORE_QUEUE_PAUSE;
	else if (!strcmp(word, "resume"))
		*ret = CORE_QUEUE_RESUME;
	else
		return false;
	return true;
}

void api_not_allowed(struct admin_response *r, const char *allow)
{
	r->allow = allow;
	api_give_error(r, 405, "this takes %s", allow);
}

/* POST: a known action behind the last slash is one; anything else, slashes
 * included, is the name of a queue to make. */
static void queue_post(struct admin *a, const char *name,
		       const struct admin_request *request,
		       struct admin_response *r)
{
	const char *slash = strrchr(name, '/');
	enum core_command_kind kind;
	char *queue;

	if (!slash || slash == name || !action_of(slash + 1, &kind)) {
		queue_create(a, name, request, r);
		return;
	}
	queue = strndup(name, (size_t)(slash - name));
	if (!queue) {
		r->text.failed = true;
		return;
	}
	queue_command(a, kind, queue, r);
	free(queue);
}

static void queues(struct admin *a, const struct admin_request *request,
		   struct admin_response *r)
{
	const char *name = request->path + strlen(QUEUES);

	name += *name == '/';
	switch (request->method) {
	case ADMIN_GET:
		if (*name)
			queue_get(a, name, r);
		else
			queues_list(a, request, r);
		return;
	case ADMIN_POST:
		if (*name)
			queue_post(a, name, request, r);
		else
			queue_create(a, NULL, request, r);
		return;
	case ADMIN_DELETE:
		if (*name)
			queue_command(a, CORE_QUEUE_DELETE, name, r);
		else
			api_not_allowed(r, "GET, POST");
		return;
	case ADMIN_OTHER:
		api_not_allowed(r, *name ? "GET, POST, DELETE" : "GET, POST");
		return;
	}
}

/* ---- routes ---- */

static bool starts_with(const char *path, const char *start)
{
	return !strncmp(path, start, strlen(start));
}

static bool refuse(struct admin *a, const struct admin_request *request,
		   struct admin_response *r)
{
	const char *why;
	unsigned code = access_check(a, request, &why);

	if (code) {
		r->ask_user = code == 401;
		api_give_error(r, code, "%s", why);
	}
	return code;
}

/* What only a leader can answer. */
static bool stands_by(struct admin *a, const struct admin_request *request,
		      struct admin_response *r)
{
	struct admin_cluster c = {0};

	if (a->serving || !strcmp(request->path, "/metrics") ||
	    !strcmp(request->path, "/api/v1/status"))
		return false;
	a->options.cluster(a->options.cluster_ctx, &c);
	if (c.epoch)
		api_give_error(r, 503, "this broker stands by; %s leads%s%s",
			       c.leader_node, c.leader_url[0] ? ": ask " : "",
			       c.leader_url);
	else
		api_give_error(r, 503, "this broker is not leading yet");
	return true;
}

void api_answer(struct admin *a, const struct admin_request *request,
		struct admin_response *r)
{
	const char *path = request->path;
	size_t queues_len = strlen(QUEUES);

	if (starts_with(path, "/health/")) {
		if (request->method == ADMIN_GET)
			health(a, request, path + strlen("/health/"), r);
		else
			api_not_allowed(r, "GET");
		return;
	}
	if (refuse(a, request, r) || cluster_answer(a, request, r) ||
	    stands_by(a, request, r))
		return;
	if (starts_with(path, QUEUES) &&
	    (!path[queues_len] || path[queues_len] == '/')) {
		queues(a, request, r);
		return;
	}
	if (store_answer(a, request, r))
		return;
	if (strcmp(path, "/metrics") && strcmp(path, "/api/v1/status")) {
		api_give_error(
			r, 404,
			"nothing is here; there is /health/live, /metrics, "
			"/api/v1/status, /api/v1/cluster, /api/v1/store, "
			"/api/v1/damage, "
			"/api/v1/scrub and " QUEUES);
		return;
	}
	if (request->method != ADMIN_GET) {
		api_not_allowed(r, "GET");
		return;
	}
	if (!strcmp(path, "/api/v1/status")) {
		status(a, r);
		return;
	}
	r->status = 200;
	r->type = "text/plain; version=0.0.4; charset=utf-8";
	metrics_write(a, &r->text);
}
