/* broker/admin/admin.h: health, metrics and the HTTP API, on a thread of its
 * own.  docs/configuration.md describes who may ask; docs/http-api.md what.
 *
 * The API is the only door for operators: the holdfast command uses it too.
 * Nothing here runs on a shard's thread, and no request holds a lock that a
 * shard waits for longer than the core's own snapshot functions do.
 *
 * Who may ask:  /health/... is open.  Everything else: on a loopback address
 * everyone who can connect; from elsewhere only with HTTP Basic and a user
 * that options.allow() knows.  A request that changes something also needs
 * the header "X-Holdfast: 1", which a foreign web page cannot make a browser
 * send; and a request without a user needs a Host that is an address or
 * localhost, so that a foreign name cannot be pointed at us. */
#ifndef BROKER_ADMIN_ADMIN_H
#define BROKER_ADMIN_ADMIN_H

#include "broker/core/core.h"

struct admin;

enum admin_state {
	ADMIN_STARTING, /* /health/startup and /health/ready say 503 */
	ADMIN_STANDBY,	/* both say 200 while cluster() calls it healthy */
	ADMIN_READY,
	ADMIN_DRAINING, /* /health/ready says 503 again */
};

/* The label that routes clients to the pod of whoever leads. */
#define ADMIN_FAILURES_MAX 16u
struct admin_label {
	bool on; /* there is a pod to be labelled; else all is 0 */
	bool in_sync;
	uint64_t requests, writes, peers_corrected, consecutive_failures;
	uint64_t last_success_ms; /* wall clock; 0: none yet */
	uint64_t newer_epoch;	  /* of a peer's label, above ours; 0: none */
	unsigned failure_count;
	const char *failure_names[ADMIN_FAILURES_MAX]; /* static */
	uint64_t failures[ADMIN_FAILURES_MAX];
};

/* This broker among those that share its directory. */
struct admin_cluster {
	const char *role;   /* "standby", "elected" or "leader"; static */
	const char *node;   /* this broker's name */
	bool healthy;	    /* serving, or able to take over */
	bool stolen;	    /* the leadership was taken from a silent leader */
	uint64_t takeovers; /* elections of this process */
	uint64_t takeover_ns; /* the last one: from the election to serving */
	uint64_t elected_ms;  /* wall clock; 0: never */
	/* Who leads, as its last sign says; epoch 0: nobody has yet. */
	uint32_t epoch;
	char leader_node[65], leader_url[129];
	uint64_t leader_silence_ns, leader_seen_ms;
	bool leader_locked, leader_resigned;
	/* A standby's: what it has taken in of what it has seen, and for how
	 * long it has not had everything. */
	uint64_t applied_lsn, seen_lsn, behind_ns, follow_resets;
	int follow_err, elect_err;
	uint64_t looked_ns; /* since it looked at the leader */
	struct admin_label label;
};

/* What there is from the election on; pointers are borrowed until
 * admin_free(). */
struct admin_broker {
	struct core *core;
	struct loop *const *loops; /* every loop whose liveness counts */
	unsigned loop_count;
	/* Connections open now, and accepted ever.  May be NULL. */
	void (*connections)(void *ctx, uint64_t *ret_open,
			    uint64_t *ret_accepted);
	void *ctx;
};

/* All pointers are borrowed until admin_free(). */
struct admin_options {
	const char *address; /* numeric */
	uint16_t port;	     /* 0: any, see admin_port() */
	struct io *io;
	struct log *log;
	struct store *store;
	const char *engine_reason, *data_dir;
	unsigned command_ms; /* how long to wait for a command; 0: 5000 */
	/* Is this a user with this password?  Called on the admin thread;
	 * may take long.  NULL: nobody from elsewhere. */
	bool (*allow)(void *ctx, const char *user, const char *password);
	void *ctx; /* allow()'s */
	/* Both on the admin thread. */
	void (*cluster)(void *ctx, struct admin_cluster *ret);
	/* Let another lead.  Answers at once; it happens soon. */
	void (*step_down)(void *ctx);
	void *cluster_ctx;
};

/* Binds the port and starts the thread.  On failure *ret_why is a static
 * sentence. */
MUST_CHECK int admin_create(const struct admin_options *, struct admin **ret,
			    const char **ret_why);
/* Ends the thread.  Before the core's shards are stopped, so that no command
 * is waiting for them.  NULL-safe. */
void admin_free(struct admin *);
/* From now on there is a broker, copied; once. [any] */
void admin_serve(struct admin *, const struct admin_broker *);
uint16_t admin_port(const struct admin *);
void admin_set_state(struct admin *, enum admin_state); /* [any] */
/* [any] The users have changed: ask allow() again. */
void admin_users_changed(struct admin *);

#endif
