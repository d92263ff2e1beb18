/* broker/daemon/wiring.c: start in the order in which each part can rely on
 * those before it, stop in an order that lets each finish.
 *
 * Up: directory, key, log, index, store, users, admin, and membership: the
 * broker stands by.  Lead, once elected (the claim is made then): recovery,
 * core, the threads, and only then the listeners: a client that can connect can
 * be served. Down: listeners and connections, admin, store, log, membership,
 * threads, memory.
 *
 * A failed journal is the end of the process (invariant 3): the thread that
 * sees it says so once, clients are let go, and it leaves through _exit(), or,
 * deposed, by becoming a new process that stands by; so nothing else can be
 * acknowledged or written any more. */
#include "broker/daemon/wiring.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/logger.h"
#include "broker/admin/admin.h"
#include "broker/daemon/cgroup.h"
#include "broker/daemon/cluster.h"
#include "broker/daemon/directory.h"
#include "broker/daemon/endpoints.h"
#include "broker/daemon/memory.h"
#include "broker/daemon/milestone.h"
#include "broker/daemon/notify.h"
#include "broker/daemon/process.h"
#include "broker/daemon/routing.h"
#include "broker/daemon/storage.h"
#include "replication/member.h"

#define SHARDS_MAX 64u
/* A synced write takes less on what a broker should run on. */
#define POLL_NS 250000ull
#define LIVE_NS 10000000000ull
#define INDEXES_MAX 16u
#define LEAVE_S 5
#define LISTEN_RETRY_NS 1000000000ull

/* Of this process, over several lives. */
static _Atomic uint64_t elections;

struct wiring {
	const struct settings *settings; /* replaced by a reload */
	char *data_dir; /* lent to parts that outlive the settings */
	uint64_t begun_ns;
	struct io *io;
	const char *engine_reason;
	struct key_choice key;
	struct memory_choice memory;
	struct storage *storage;
	struct log *log;
	struct index *index;
	struct store *store;
	struct core *core;
	struct endpoints *endpoints;
	struct admin *admin;
	struct member *member;
	struct kubernetes *kubernetes; /* NULL: no pod is labelled */
	const struct wiring_hooks *hooks;
	pthread_t main_thread;
	char node[65];
	_Atomic bool elected, step_down, leaving;
	struct loop *journal_loop, *store_loop;
	/* Copies, syncs and reads whole files: it may be busy with one thing
	 * for long, and nobody's health depends on it. */
	struct loop *extents_loop;
	bool extents_running;
	struct loop *shards[SHARDS_MAX];
	unsigned shard_count;
	struct loop *running[SHARDS_MAX + 2]; /* threads started */
	unsigned running_count;
	bool log_started, store_started, refusing;
	char admin_at[80];
	uint64_t start_ms;
	/* shutdown */
	struct milestone log_stopped, store_stopped, shard_passed;
	struct loop_mail stop_mail;
};

/* ---- failures ---- */

/* The first one to come here ends the process; others wait for that.  Whatever
 * blocks on the way, a log that nobody reads or a dead disk, it ends. */
static void leave_begin(struct wiring *w)
{
	if (atomic_exchange(&w->leaving, true))
		for (;;)
			pause();
	alarm(LEAVE_S);
}

/* [journal, store or leadership thread; main while it recovers] */
static void leave_deposed(struct wiring *w)
{
	leave_begin(w);
	logger_error("daemon", "fenced", "node=%s epoch=%u why=%s",
		     LOGGER_QUOTE(w->node), (unsigned)log_epoch(w->log),
		     LOGGER_QUOTE("another broker has taken over this "
				  "directory; nothing was acknowledged since. "
				  " This one stands by"));
	endpoints_abandon(w->endpoints, "another broker has taken over");
	w->hooks->restart();
	_exit(WIRING_EXIT_FENCED);
}

static void on_failed(void *ctx, int err, const char *why)
{
	struct wiring *w = ctx;

	if (err == -E_FENCED)
		leave_deposed(w);
	leave_begin(w);
	logger_error("daemon", "journal-failed", "error=%s why=%s",
		     LOGGER_QUOTE(err_str(err)), LOGGER_QUOTE(why));
	endpoints_abandon(w->endpoints, "the broker's journal has failed");
	_exit(WIRING_EXIT_FAILED);
}

/* [watchdog thread] */
static void on_stalled(void *ctx, const char *what, uint64_t ns)
{
	struct wiring *w = ctx;

	leave_begin(w);
	logger_error("daemon", "storage-stalled", "what=%s seconds=%llu why=%s",
		     LOGGER_QUOTE(what), (unsigned long long)(ns / 1000000000u),
		     LOGGER_QUOTE("the storage of data_dir does not answer; "
				  "this broker exits so that another can "
				  "lead: look at the mount, then start it "
				  "again"));
	endpoints_abandon(w->endpoints, "the broker's storage does not answer");
	_exit(WIRING_EXIT_STALLED);
}

/* [leadership thread] The main thread recovers, which may take longer than
 * systemd's watchdog allows. */
static void on_recovering(void *ctx)
{
	notify_send("WATCHDOG=1");
}

/* [leadership thread] */
static void on_elected(void *ctx)
{
	struct wiring *w = ctx;

	elections++;
	w->elected = true;
	pthread_kill(w->main_thread, WIRING_SIGNAL);
}

static int failed(int err, const char *event, const char *why)
{
	logger_error("daemon", event, "error=%s why=%s",
		     LOGGER_QUOTE(err_str(err)), LOGGER_QUOTE(why));
	return err;
}

/* [journal or shard] The store bounds what it has not taken in; where it falls
 * behind, the thread that commits is the one that can slow everybody down. */
static void on_committed(void *ctx, struct log_batch *batch)
{
	struct wiring *w = ctx;

	if (store_take(w->store, batch) == -EAGAIN)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- start ---- */

static int open_directory(struct wiring *w)
{
	char why[700];
	int err = directory_open(w->io, w->data_dir, why, sizeof(why));

	return err ? failed(err, "no-directory", why) : 0;
}

static int check_storage(struct wiring *w)
{
	return storage_open(
		&(struct storage_options){
			.io = w->io,
			.dir = w->data_dir,
			.allow_unsafe = w->settings->storage.allow_unsafe_mount,
			.root = "",
		},
		&w->storage);
}

/* Of the limit, 3/8 go to messages on their way, 3/16 to what is known of those
 * that wait; the rest is for connections, queues, buffers and the allocator. */
static uint64_t core_memory(const struct wiring *w)
{
	return w->memory.bytes / 8 * 3;
}

static uint64_t store_memory(const struct wiring *w)
{
	return w->memory.bytes / 16 * 3;
}

static int choose_memory(struct wiring *w)
{
	memory_choose(w->settings->limits.memory_bytes, "", &w->memory);
	memory_tell(&w->memory);
	return 0;
}

/* Brokers of one node may share the setting; each takes a directory that
 * nobody uses. */
static int open_index(struct wiring *w)
{
	const char *dir = w->settings->index_dir;
	char base[4000], made[4096], why[700] = "";
	int err = -EAGAIN;

	snprintf(base, sizeof(base), dir ? "%s" : "%s/index",
		 dir ? dir : w->data_dir);
	for (unsigned n = 1; err == -EAGAIN && n <= INDEXES_MAX; n++) {
		if (n == 1)
			snprintf(made, sizeof(made), "%s", base);
		else
			snprintf(made, sizeof(made), "%s.%u", base, n);
		err = index_lmdb_open(
			&(struct index_lmdb_options){.io = w->io, .dir = made},
			&w->index, why, sizeof(why));
	}
	return err ? failed(err, "no-index", why) : 0;
}

static int open_journal(struct wiring *w)
{
	const struct settings *s = w->settings;
	unsigned percent = 0; /* the table has checked it */
	const char *wrong = settings_parse_percent(s->disk_max_use, &percent);
	struct log_options options = {
		.io = w->io,
		.dir = w->data_dir,
		.master = w->key.key,
		.segment_bytes = s->journal.segment_bytes,
		.compress_level = (int)s->journal.compress_level,
		.reserve_bytes = s->journal.reserve_bytes,
		.disk_max_use_percent = percent,
		.committed = on_committed,
		.failed = on_failed,
		.ctx = w,
	};
	int err;

	ASSERT(!wrong);
	err = log_create(&options, &w->log);
	return err ? failed(err, "no-journal", log_why(NULL)) : 0;
}

static int make_store(struct wiring *w)
{
	const struct settings *s = w->settings;
	struct store_options options = {
		.io = w->io,
		.dir = w->data_dir,
		.master = w->key.key,
		.index = w->index,
		.memory_bytes = store_memory(w),
		.checkpoint_bytes = s->journal.checkpoint_bytes,
		.checkpoint_ns = s->journal.checkpoint_ns,
		.hot_bytes = s->store.hot_bytes,
		.hot_ns = s->store.hot_ns,
		.extent_bytes = s->store.extent_bytes,
		.scrub_ns = s->scrub.interval_ns,
		.scrub_bytes_per_s = s->scrub.bytes_per_s,
		.failed = on_failed,
		.ctx = w,
	};
	int err = store_create(&options, &w->store);

	return err ? failed(err, "no-store", "the store cannot be opened") : 0;
}

static int recover(struct wiring *w)
{
	int err = store_recover(w->store, w->log);

	if (err) {
		const char *why = store_why(w->store);

		return failed(err, "not-recovered",
			      why && why[0] ? why : log_why(w->log));
	}
	if (store_warning(w->store))
		logger_warn("daemon", "recovered-around-damage", "why=%s",
			    LOGGER_QUOTE(store_warning(w->store)));
	return 0;
}

/* Processor time that is rationed is not for looking whether there is work. */
static void set_polling(struct wiring *w)
{
	char file[CGROUP_PATH_BYTES];

	if (cgroup_rations_processor("", file)) {
		logger_info("daemon", "no-polling", "limit=%s", file);
		return;
	}
	for (unsigned i = 0; i < w->shard_count; i++)
		loop_set_poll(w->shards[i], POLL_NS);
}

static int make_loops(struct wiring *w)
{
	int err = loop_create(w->io, "journal", &w->journal_loop);

	if (!err)
		err = loop_create(w->io, "store", &w->store_loop);
	if (!err)
		err = loop_create(w->io, "extents", &w->extents_loop);
	for (unsigned n = process_shard_count(w->settings, SHARDS_MAX);
	     !err && n; n--) {
		char name[16];

		snprintf(name, sizeof(name), "shard-%u", w->shard_count);
		err = loop_create(w->io, name, &w->shards[w->shard_count]);
		w->shard_count += !err;
	}
	if (err)
		return failed(err, "no-threads",
			      "an event loop cannot be made");
	set_polling(w);
	return 0;
}

static int make_core(struct wiring *w)
{
	const struct settings *s = w->settings;
	struct core_address_rule *rules;
	unsigned rule_count;
	int err = settings_rules(s, &rules, &rule_count);

	if (err)
		return failed(err, "no-core", "the address rules");
	err = core_create(
		&(struct core_options){
			.io = w->io,
			.log = w->log,
			.store = w->store,
			.loops = w->shards,
			.shard_count = w->shard_count,
			.rules = rules,
			.rule_count = rule_count,
			.message_bytes_max = s->limits.message_bytes,
			.memory_bytes = core_memory(w),
			.expiry_scan_ns = s->expiry_scan_ns,
		},
		&w->core);
	free(rules);
	if (!err)
		err = core_recover(w->core);
	return err ? failed(err, "no-core", "the queues cannot be rebuilt") : 0;
}

static int start_loop(struct wiring *w, struct loop *loop)
{
	int err = loop_start(loop, NULL, NULL);

	if (err)
		return failed(err, "no-threads", "a thread cannot be started");
	w->running[w->running_count++] = loop;
	return 0;
}

static int start_threads(struct wiring *w)
{
	int err = log_start(w->log, w->journal_loop);

	if (err)
		return failed(err, "no-journal", log_why(w->log));
	w->log_started = true;
	err = store_start(w->store, w->store_loop, w->extents_loop);
	if (err)
		return failed(err, "no-store", store_why(w->store));
	w->store_started = true;
	err = loop_start(w->extents_loop, NULL, NULL);
	if (err)
		return failed(err, "no-threads", "a thread cannot be started");
	w->extents_running = true;
	err = start_loop(w, w->store_loop);
	if (!err)
		err = start_loop(w, w->journal_loop);
	for (unsigned i = 0; !err && i < w->shard_count; i++)
		err = start_loop(w, w->shards[i]);
	return err;
}

/* [admin] */
static void on_cluster(void *ctx, struct admin_cluster *ret)
{
	struct wiring *w = ctx;

	cluster_describe(w->member, w->node, ret);
	routing_describe(w->kubernetes, &ret->label);
	ret->takeovers = elections;
}

/* [admin] */
static void on_step_down(void *ctx)
{
	struct wiring *w = ctx;

	w->step_down = true;
	pthread_kill(w->main_thread, WIRING_SIGNAL);
}

static int start_admin(struct wiring *w)
{
	const struct settings *s = w->settings;
	struct settings_listen at;
	const char *why = "";
	char text[256];
	bool off;
	int err;

	if (settings_parse_admin(s->admin, &off, &at) || off)
		return 0;
	err = admin_create(
		&(struct admin_options){
			.address = at.address,
			.port = at.port,
			.io = w->io,
			.log = w->log,
			.store = w->store,
			.engine_reason = w->engine_reason,
			.data_dir = w->data_dir,
			.allow = endpoints_allow,
			.ctx = w->endpoints,
			.cluster = on_cluster,
			.step_down = on_step_down,
			.cluster_ctx = w,
		},
		&w->admin, &why);
	if (err) {
		snprintf(text, sizeof(text),
			 "admin %s: %s; choose another with --admin, or off",
			 s->admin, why);
		return failed(err, "no-admin", text);
	}
	/* Others are told a name that leads here. */
	if (!strcmp(at.address, "0.0.0.0") || !strcmp(at.address, "::"))
		snprintf(at.address, sizeof(at.address), "%.63s", w->node);
	snprintf(w->admin_at, sizeof(w->admin_at),
		 strchr(at.address, ':') ? "http://[%s]:%u" : "http://%s:%u",
		 at.address, (unsigned)admin_port(w->admin));
	return 0;
}

static int start_label(struct wiring *w)
{
	return routing_start(w->settings, w->io, &w->kubernetes);
}

static int join_others(struct wiring *w)
{
	const struct settings *s = w->settings;
	int err = member_create(
		&(struct member_options){
			.io = w->io,
			.dir = w->data_dir,
			.log = w->log,
			.store = w->store,
			.node = w->node,
			.url = w->admin_at,
			.takeover_after_ns = s->takeover_after_ns,
			.storage_timeout_ns = s->storage_timeout_ns,
			.yield = w->hooks->yield,
			.elected = on_elected,
			.recovering = on_recovering,
			.stalled = on_stalled,
			.ctx = w,
		},
		&w->member);

	if (!err)
		err = member_start(w->member);
	if (err)
		return failed(err, "no-threads", "a thread cannot be started");
	if (w->admin)
		admin_set_state(w->admin, ADMIN_STANDBY);
	return 0;
}

static int serve_admin(struct wiring *w)
{
	if (w->admin)
		admin_serve(w->admin,
			    &(struct admin_broker){
				    .core = w->core,
				    .loops = w->running,
				    .loop_count = w->running_count,
				    .connections = endpoints_connections,
				    .ctx = w->endpoints,
			    });
	return 0;
}

static int open_endpoints(struct wiring *w)
{
	uint64_t until_ns = io_now_ns(w->io) + LISTEN_RETRY_NS;
	char why[256] = "";
	int err;

	/* On one host the port may still be that of the leader before. */
	for (;;) {
		err = endpoints_open(w->endpoints, w->settings, why,
				     sizeof(why));
		if (err != -EADDRINUSE || io_now_ns(w->io) > until_ns)
			break;
		io_pause(w->io, 10000000);
	}
	return err ? failed(err, "no-listener", why) : 0;
}

static int make_endpoints(struct wiring *w)
{
	int err = endpoints_create(w->io, w->settings, &w->endpoints);

	return err ? failed(err, "no-users", "the users cannot be set up") : 0;
}

static int attach_endpoints(struct wiring *w)
{
	int err = endpoints_attach(w->endpoints, w->core, w->settings);

	return err ? failed(err, "no-protocols", "no memory") : 0;
}

static int choose_key(struct wiring *w)
{
	char why[1200] = "";
	int err = key_choose(w->io, w->settings->data_dir,
			     w->settings->journal.key_file, &w->key, why,
			     sizeof(why));

	if (err)
		return failed(err, "no-key", why);
	if (w->key.development)
		logger_warn("daemon",
			    w->key.made ? "development-key-made"
					: "development-key",
			    "file=%s meaning=%s", LOGGER_QUOTE(w->key.path),
			    LOGGER_QUOTE("whoever can read the data can read "
					 "this key; set journal.key_file to "
					 "one kept elsewhere"));
	return 0;
}

static int make_io(struct wiring *w)
{
	int err = io_create((enum io_engine)w->settings->engine, &w->io,
			    &w->engine_reason);

	if (err)
		return failed(err, "no-engine",
			      w->engine_reason ? w->engine_reason
					       : "no I/O engine works here");
	w->begun_ns = io_now_ns(w->io);
	logger_info("daemon", "engine", "engine=%s reason=%s",
		    io_engine_name(w->io), LOGGER_QUOTE(w->engine_reason));
	return 0;
}

static int take_steps(struct wiring *w, int (*const *steps)(struct wiring *),
		      size_t count)
{
	for (size_t i = 0; i < count; i++) {
		int err = steps[i](w);

		if (err)
			return err;
	}
	return 0;
}

static void choose_node(struct wiring *w)
{
	if (w->settings->node)
		snprintf(w->node, sizeof(w->node), "%s", w->settings->node);
	else if (gethostname(w->node, sizeof(w->node) - 1))
		snprintf(w->node, sizeof(w->node), "unnamed");
}

int wiring_up(const struct settings *settings, const struct wiring_hooks *hooks,
	      struct wiring **ret)
{
	static int (*const steps[])(struct wiring *) = {
		make_io,	choose_memory, open_directory, check_storage,
		choose_key,	open_journal,  open_index,     make_store,
		make_endpoints, start_label,   start_admin,    join_others,
	};
	struct wiring *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return WIRING_EXIT_FAILED;
	w->settings = settings;
	w->hooks = hooks;
	w->main_thread = pthread_self();
	w->data_dir = strdup(settings->data_dir);
	if (!w->data_dir) {
		free(w);
		return WIRING_EXIT_FAILED;
	}
	choose_node(w);
	milestone_init(&w->log_stopped);
	milestone_init(&w->store_stopped);
	milestone_init(&w->shard_passed);
	process_raise_file_limit(settings);
	err = take_steps(w, steps, ARRAY_COUNT(steps));
	if (err) {
		if (wiring_down(w, 5000000000ull))
			_exit(WIRING_EXIT_FAILED);
		return err == -E_CONFIG ? WIRING_EXIT_CONFIG
					: WIRING_EXIT_FAILED;
	}
	*ret = w;
	return 0;
}

enum wiring_news wiring_news(struct wiring *w)
{
	if (atomic_exchange(&w->step_down, false))
		return WIRING_STEP_DOWN;
	if (atomic_exchange(&w->elected, false))
		return WIRING_ELECTED;
	return WIRING_NOTHING;
}

int wiring_lead(struct wiring *w)
{
	static int (*const steps[])(struct wiring *) = {
		recover,       make_loops,  make_core,	    attach_endpoints,
		start_threads, serve_admin, open_endpoints,
	};
	int err = take_steps(w, steps, ARRAY_COUNT(steps));

	if (err == -E_FENCED)
		leave_deposed(w);
	if (err)
		return WIRING_EXIT_FAILED;
	w->start_ms = (io_now_ns(w->io) - w->begun_ns) / 1000000;
	member_serves(w->member);
	if (w->admin)
		admin_set_state(w->admin, ADMIN_READY);
	/* Last: clients come by it. */
	if (w->kubernetes)
		kubernetes_set(w->kubernetes, true, log_epoch(w->log));
	return 0;
}

/* ---- reload ---- */

int wiring_reload(struct wiring *w, const struct settings *settings)
{
	struct core_address_rule *rules;
	unsigned rule_count;
	int err = settings_rules(settings, &rules, &rule_count);

	if (err)
		return err;
	if (w->core)
		err = core_set_rules(w->core, rules, rule_count);
	free(rules);
	if (!err)
		err = endpoints_reload(w->endpoints, settings);
	if (err) {
		/* Back to the rules that were there. */
		if (w->core &&
		    !settings_rules(w->settings, &rules, &rule_count)) {
			if (core_set_rules(w->core, rules, rule_count))
				logger_error("daemon", "reload-half-done",
					     "why=%s",
					     LOGGER_QUOTE("no memory"));
			free(rules);
		}
		return err;
	}
	w->settings = settings;
	if (w->admin)
		admin_users_changed(w->admin);
	return 0;
}

/* ---- stop ---- */

static void stop_log(struct loop_mail *mail)
{
	struct wiring *w = container_of(mail, struct wiring, stop_mail);

	log_stop(w->log, milestone_reach, &w->log_stopped);
}

static void stop_store(struct loop_mail *mail)
{
	struct wiring *w = container_of(mail, struct wiring, stop_mail);

	store_stop(w->store, milestone_reach, &w->store_stopped);
}

static bool stop_on(struct wiring *w, struct loop *loop,
		    void (*deliver)(struct loop_mail *),
		    struct milestone *stopped, const struct timespec *until)
{
	bool runs = false;

	for (unsigned i = 0; i < w->running_count; i++)
		runs |= w->running[i] == loop;
	if (!runs)
		return true;
	w->stop_mail = (struct loop_mail){.deliver = deliver};
	loop_post(loop, &w->stop_mail);
	return milestone_wait(stopped, until);
}

static void pass_shard(struct loop_mail *mail)
{
	struct wiring *w = container_of(mail, struct wiring, stop_mail);

	milestone_reach(&w->shard_passed);
}

static bool is_late(const struct timespec *until)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > until->tv_sec ||
	       (now.tv_sec == until->tv_sec && now.tv_nsec >= until->tv_nsec);
}

/* The connections are gone; what they set off on other shards (their last
 * acknowledgements, what goes back to its queue) has a way to go to the
 * journal.  Two rounds through all shards see it handed over. */
static bool settle_core(struct wiring *w, const struct timespec *until)
{
	for (unsigned i = 0; i < 2 * w->shard_count; i++) {
		w->shard_passed.done = false;
		if (!stop_on(w, w->shards[i % w->shard_count], pass_shard,
			     &w->shard_passed, until))
			return false;
	}
	while (core_pending(w->core)) {
		if (is_late(until))
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return true;
}

static bool finish(struct wiring *w, uint64_t timeout_ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(timeout_ns / 1000000000u) + 1;
	if (w->admin)
		admin_set_state(w->admin, ADMIN_DRAINING);
	/* First: no more clients are sent here. */
	if (w->kubernetes)
		kubernetes_stop(w->kubernetes);
	if (w->endpoints && w->running_count &&
	    endpoints_drain(w->endpoints, timeout_ns))
		return false;
	if (w->core && w->log_started && !settle_core(w, &until))
		return false;
	admin_free(w->admin);
	w->admin = NULL;
	/* The store first: a checkpoint that it writes ends with a record. */
	if (w->store_started &&
	    !stop_on(w, w->store_loop, stop_store, &w->store_stopped, &until))
		return false;
	if (w->log_started &&
	    !stop_on(w, w->journal_loop, stop_log, &w->log_stopped, &until))
		return false;
	if (w->log_started)
		log_close(w->log);
	/* Nothing is written from here on: another may lead. */
	return !w->member || (!member_resign(w->member, timeout_ns) &&
			      !member_stop(w->member, timeout_ns));
}

static void release(struct wiring *w)
{
	for (unsigned i = 0; i < w->running_count; i++)
		loop_stop(w->running[i]);
	if (w->extents_running)
		loop_stop(w->extents_loop);
	for (unsigned i = 0; i < w->running_count; i++)
		loop_join(w->running[i]);
	if (w->extents_running)
		loop_join(w->extents_loop);
	endpoints_free(w->endpoints);
	kubernetes_free(w->kubernetes);
	member_free(w->member);
	core_free(w->core);
	store_free(w->store);
	index_free(w->index);
	log_free(w->log);
	for (unsigned i = 0; i < w->shard_count; i++)
		loop_free(w->shards[i]);
	if (w->extents_loop)
		loop_free(w->extents_loop);
	if (w->store_loop)
		loop_free(w->store_loop);
	if (w->journal_loop)
		loop_free(w->journal_loop);
	crypto_key_free(w->key.key);
	storage_close(w->storage);
	if (w->io)
		io_free(w->io);
	milestone_fini(&w->log_stopped);
	milestone_fini(&w->store_stopped);
	milestone_fini(&w->shard_passed);
	free(w->data_dir);
	free(w);
}

int wiring_down(struct wiring *w, uint64_t timeout_ns)
{
	if (!finish(w, timeout_ns))
		return -ETIMEDOUT;
	release(w);
	return 0;
}

/* ---- questions ---- */

bool wiring_is_live(struct wiring *w)
{
	uint64_t now = io_now_ns(w->io);

	for (unsigned i = 0; i < w->running_count; i++) {
		int waiting = 0;
		uint64_t beat = loop_heartbeat_ns(w->running[i], &waiting);

		if (!waiting && now > beat && now - beat > LIVE_NS)
			return false;
	}
	return true;
}

bool wiring_has_namesake(struct wiring *w)
{
	struct member_status s;

	member_status(w->member, &s);
	return s.role == MEMBER_STANDBY && s.leader.epoch &&
	       !s.leader.resigned && !strcmp(s.leader.node, w->node);
}

void wiring_look(struct wiring *w)
{
	if (w->log_started)
		directory_look(w->log, w->data_dir, &w->refusing);
}

void wiring_leader(struct wiring *w, char *ret, size_t ret_len)
{
	struct member_status s;

	member_status(w->member, &s);
	snprintf(ret, ret_len, "%s",
		 s.leader.epoch ? s.leader.node : "nobody yet");
}

void wiring_describe(const struct wiring *w, struct wiring_facts *ret)
{
	*ret = (struct wiring_facts){
		.engine = io_engine_name(w->io),
		.engine_reason = w->engine_reason,
		.listen = endpoints_describe(w->endpoints),
		.port = endpoints_port(w->endpoints),
		.key = &w->key,
		.start_ms = w->start_ms,
		.messages = atomic_load(&store_stats(w->store)->live_messages),
		.shards = w->shard_count,
	};
	snprintf(ret->admin, sizeof(ret->admin), "%s", w->admin_at);
	snprintf(ret->node, sizeof(ret->node), "%s", w->node);
	ret->epoch = log_epoch(w->log);
}
