/* broker/admin/cluster.c: who leads, and this broker's part in it.
 *
 * Paths: GET /api/v1/cluster, POST /api/v1/cluster/step-down. */
#include "broker/admin/internal.h"

#include <inttypes.h>
#include <string.h>

#include "base/logger.h"

#define CLUSTER "/api/v1/cluster"

static void ask(struct admin *a, struct admin_cluster *ret)
{
	*ret = (struct admin_cluster){0};
	a->options.cluster(a->options.cluster_ctx, ret);
}

/* To the millisecond: nobody wants to read more. */
static double seconds(uint64_t ns)
{
	return (double)(ns / 1000000u) / 1e3;
}

static json_t *leader_json(const struct admin_cluster *c)
{
	if (!c->epoch)
		return json_null();
	return json_pack(
		"{s:s,s:s,s:f,s:I,s:b,s:b}", "node", c->leader_node, "admin",
		c->leader_url, "silent_seconds", seconds(c->leader_silence_ns),
		"seen_at_ms", (json_int_t)c->leader_seen_ms, "locked",
		(int)c->leader_locked, "resigned", (int)c->leader_resigned);
}

static json_t *standby_json(const struct admin_cluster *c)
{
	if (strcmp(c->role, "standby"))
		return json_null();
	return json_pack("{s:I,s:I,s:f,s:I,s:s}", "applied_lsn",
			 (json_int_t)c->applied_lsn, "seen_lsn",
			 (json_int_t)c->seen_lsn, "behind_seconds",
			 seconds(c->behind_ns), "resets",
			 (json_int_t)c->follow_resets, "error",
			 c->follow_err ? err_str(c->follow_err) : "");
}

static json_t *label_json(const struct admin_label *l)
{
	json_t *failures;

	if (!l->on)
		return json_null();
	failures = json_object();
	for (unsigned i = 0; i < l->failure_count; i++)
		if (l->failures[i])
			json_object_set_new(
				failures, l->failure_names[i],
				json_integer((json_int_t)l->failures[i]));
	return json_pack("{s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "in_sync",
			 (int)l->in_sync, "requests", (json_int_t)l->requests,
			 "writes", (json_int_t)l->writes, "peers_corrected",
			 (json_int_t)l->peers_corrected, "consecutive_failures",
			 (json_int_t)l->consecutive_failures, "last_success_ms",
			 (json_int_t)l->last_success_ms, "newer_epoch",
			 (json_int_t)l->newer_epoch, "failures", failures);
}

static void show(struct admin *a, struct admin_response *r)
{
	struct admin_cluster c;

	ask(a, &c);
	api_give_json(r, 200,
		      json_pack("{s:s,s:s,s:b,s:I,s:I,s:f,s:I,s:b,s:o,s:o,s:o}",
				"node", c.node, "role", c.role, "healthy",
				(int)c.healthy, "epoch", (json_int_t)c.epoch,
				"takeovers", (json_int_t)c.takeovers,
				"takeover_seconds", seconds(c.takeover_ns),
				"elected_at_ms", (json_int_t)c.elected_ms,
				"stolen", (int)c.stolen, "leader",
				leader_json(&c), "standby", standby_json(&c),
				"label", label_json(&c.label)));
}

static void step_down(struct admin *a, struct admin_response *r)
{
	struct admin_cluster c;

	ask(a, &c);
	if (strcmp(c.role, "leader")) {
		api_give_error(r, 409, "this broker does not lead; %s does%s%s",
			       c.epoch ? c.leader_node : "nobody",
			       c.leader_url[0] ? ": ask " : "", c.leader_url);
		return;
	}
	logger_info("admin", "step-down", "node=%s epoch=%u",
		    LOGGER_QUOTE(c.node), (unsigned)c.epoch);
	a->options.step_down(a->options.cluster_ctx);
	api_give_json(r, 202,
		      json_pack("{s:s,s:s,s:I}", "node", c.node, "status",
				"stepping down", "epoch", (json_int_t)c.epoch));
}

bool cluster_answer(struct admin *a, const struct admin_request *request,
		    struct admin_response *r)
{
	bool is_step = !strcmp(request->path, CLUSTER "/step-down");

	if (!is_step && strcmp(request->path, CLUSTER))
		return false;
	if (request->method != (is_step ? ADMIN_POST : ADMIN_GET))
		api_not_allowed(r, is_step ? "POST" : "GET");
	else if (is_step)
		step_down(a, r);
	else
		show(a, r);
	return true;
}

static void label_metrics(const struct admin_label *l, struct admin_text *t)
{
	static const char failures[] = "holdfast_label_failures_total";

	if (!l->on)
		return;
	metrics_gauge(t, "holdfast_label_in_sync",
		      "1 when the pod's label says what it should, as last "
		      "seen.",
		      l->in_sync);
	metrics_counter(t, "holdfast_label_requests_total",
			"Requests to the Kubernetes API.", l->requests);
	metrics_counter(t, "holdfast_label_writes_total",
			"Times that the own pod was labelled.", l->writes);
	metrics_counter(t, "holdfast_label_peers_corrected_total",
			"Stale labels taken from other pods.",
			l->peers_corrected);
	metrics_seconds(t, "holdfast_label_last_success_time_seconds", "gauge",
			"The last answer as hoped for, since the epoch; 0: "
			"none.",
			l->last_success_ms * 1000000);
	metrics_gauge(t, "holdfast_label_newer_epoch",
		      "A peer is labelled with this later epoch; 0: none.",
		      l->newer_epoch);
	metrics_family(t, failures, "counter",
		       "Requests to the Kubernetes API that failed.");
	for (unsigned i = 0; i < l->failure_count; i++)
		admin_text_add(t, "%s{failure=\"%s\"} %" PRIu64 "\n", failures,
			       l->failure_names[i], l->failures[i]);
}

void cluster_metrics(struct admin *a, struct admin_text *t)
{
	struct admin_cluster c;

	ask(a, &c);
	metrics_family(t, "holdfast_role_info", "gauge",
		       "Always 1; this broker's name and part.");
	admin_text_add(t, "holdfast_role_info{node=\"");
	metrics_label(t, c.node);
	admin_text_add(t, "\",role=\"%s\"} 1\n", c.role);
	metrics_gauge(t, "holdfast_leader", "1 while this broker leads.",
		      !strcmp(c.role, "leader"));
	metrics_gauge(t, "holdfast_epoch",
		      "The epoch of the leader, as seen from here.", c.epoch);
	metrics_counter(t, "holdfast_takeovers_total",
			"Times that this process was elected.", c.takeovers);
	metrics_seconds(t, "holdfast_takeover_seconds", "gauge",
			"From the last election to serving clients.",
			c.takeover_ns);
	metrics_seconds(t, "holdfast_leader_silence_seconds", "gauge",
			"Since the leader's last sign of life.",
			c.leader_silence_ns);
	metrics_gauge(t, "holdfast_standby_applied_lsn",
		      "A standby's last record.", c.applied_lsn);
	metrics_gauge(t, "holdfast_standby_lag_records",
		      "Records that a standby has seen and not taken in.",
		      c.behind_ns && c.seen_lsn > c.applied_lsn
			      ? c.seen_lsn - c.applied_lsn
			      : 0);
	metrics_seconds(t, "holdfast_standby_lag_seconds", "gauge",
			"For how long a standby has not had everything.",
			c.behind_ns);
	metrics_counter(t, "holdfast_standby_resets_total",
			"Times that a standby began again from a checkpoint.",
			c.follow_resets);
	label_metrics(&c.label, t);
}
