/* broker/daemon/main.c: holdfastd.
 *
 * The main thread puts the broker together and then only listens to signals,
 * one of which says that it is to lead, to a changed configuration file and to
 * the watchdog's clock.  All other threads have signals blocked. */
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/logger.h"
#include "broker/daemon/banner.h"
#include "broker/daemon/notify.h"
#include "broker/daemon/options.h"
#include "broker/daemon/reload.h"

#define FILE_LOOK_MS 2000u
#define STANDBY_TELL_MS 200u

/* Names that begin with HOLDFAST_ and are not settings. */
static const char *const env_others[] = {
	"HOLDFAST_CONFIG",   "HOLDFAST_URL",  "HOLDFAST_USER",
	"HOLDFAST_PASSWORD", "HOLDFAST_TEST", NULL,
};

struct daemon_run {
	struct config_source source;
	struct config *config;
	struct wiring *wiring;
	uint64_t fingerprint; /* of the configuration files */
	const char *program;
	bool leads;
};

/* Those that the main thread waits for. */
static void own_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, WIRING_SIGNAL);
}

/* ---- a new process ---- */

static char **arguments;
static _Atomic bool ending; /* a signal has asked us to stop */

/* The same program with the same arguments and process id, and nothing else of
 * this one: all descriptors close, all threads end.  Our signals stay blocked,
 * so that one that is pending is taken there.  Called on any thread. */
static void restart(void)
{
	sigset_t set;

	if (ending)
		return;
	own_signals(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	/* LMDB's are without O_CLOEXEC. */
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	execv("/proc/self/exe", arguments);
	logger_error("daemon", "not-restarted", "error=%s",
		     LOGGER_QUOTE(strerror(errno)));
}

/* ---- configuration ---- */

static int load(const struct options *o, struct config_source *source,
		struct config **ret)
{
	struct config_errors *errors = calloc(1, sizeof(*errors));
	int err;

	*source = (struct config_source){
		.file = o->config_file,
		.env_prefix = "HOLDFAST_",
		.env = environ,
		.env_others = env_others,
		.sets = o->sets,
		.set_count = o->set_count,
	};
	err = errors ? settings_load(source, ret, errors) : -ENOMEM;
	if (err && errors && errors->count) {
		fprintf(stderr, "%s\n", errors->text);
		if (errors->count > CONFIG_ERRORS_MAX)
			fprintf(stderr, "and %u more\n",
				errors->count - CONFIG_ERRORS_MAX);
	} else if (err) {
		fprintf(stderr, "holdfastd: %s\n", err_str(err));
	}
	free(errors);
	return err;
}

/* ---- signals ---- */

static void leave_now(int sig)
{
	_exit(128 + sig);
}

static void signals_block(sigset_t *set)
{
	own_signals(set);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* From here on a signal does not wait for anything. */
static void signals_leave(const sigset_t *set)
{
	signal(SIGTERM, leave_now);
	signal(SIGINT, leave_now);
	signal(SIGHUP, SIG_IGN);
	signal(WIRING_SIGNAL, SIG_IGN);
	pthread_sigmask(SIG_UNBLOCK, set, NULL);
}

/* ---- the life of the broker ---- */

static void look_at_files(struct daemon_run *run)
{
	uint64_t now;

	if (!run->source.file)
		return;
	now = config_fingerprint(run->source.file);
	/* 0: the file is being replaced; look again. */
	if (!now || now == run->fingerprint)
		return;
	run->fingerprint = now;
	reload_run(run->wiring, &run->source, &run->config);
}

static void announce(const struct daemon_run *run)
{
	struct wiring_facts facts;

	wiring_describe(run->wiring, &facts);
	logger_info("daemon", "ready",
		    "version=%s node=%s epoch=%u listen=%s port=%u admin=%s "
		    "engine=%s shards=%u messages=%" PRIu64
		    " start_ms=%" PRIu64,
		    HOLDFAST_VERSION, LOGGER_QUOTE(facts.node),
		    (unsigned)facts.epoch, LOGGER_QUOTE(facts.listen),
		    (unsigned)facts.port, facts.admin[0] ? facts.admin : "off",
		    facts.engine, facts.shards, facts.messages, facts.start_ms);
	banner_show(&facts, settings_of(run->config), run->program);
	notify_send("READY=1\nSTATUS=leads");
}

static void announce_standby(struct daemon_run *run)
{
	char leader[80], status[128];

	wiring_leader(run->wiring, leader, sizeof(leader));
	logger_info("daemon", "standing-by", "version=%s leader=%s",
		    HOLDFAST_VERSION, LOGGER_QUOTE(leader));
	if (wiring_has_namesake(run->wiring))
		logger_warn("daemon", "same-name", "node=%s why=%s",
			    LOGGER_QUOTE(leader),
			    LOGGER_QUOTE("this broker and the leader have one "
					 "name; give each its own with --set "
					 "node=NAME, or nobody can tell them "
					 "apart"));
	snprintf(status, sizeof(status), "READY=1\nSTATUS=stands by; %s leads",
		 leader);
	notify_send(status);
}

enum { SERVE_FAILED = -1, SERVE_STEP_DOWN = 0 }; /* or a signal */

/* WIRING_SIGNAL: goes on with SERVE_STEP_DOWN, *ret_code != 0, or serving. */
static bool take_news(struct daemon_run *run, int *ret_code)
{
	for (;;) {
		switch (wiring_news(run->wiring)) {
		case WIRING_NOTHING:
			return true;
		case WIRING_STEP_DOWN:
			return false;
		case WIRING_ELECTED:
			*ret_code = wiring_lead(run->wiring);
			if (*ret_code)
				return false;
			run->leads = true;
			announce(run);
			break;
		}
	}
}

/* Until a signal asks to stop, or another is to lead, or leading failed. */
static int serve(struct daemon_run *run, const sigset_t *set, int *ret_code)
{
	uint64_t watchdog_ms = notify_watchdog_ms();
	uint64_t tick_ms = FILE_LOOK_MS;
	bool told = false;

	if (watchdog_ms)
		tick_ms = base_max(base_min(tick_ms, watchdog_ms), 10);
	for (;;) {
		/* Who is alone leads at once, and nobody is told of a
		 * standby. */
		uint64_t ms = run->leads || told ? tick_ms : STANDBY_TELL_MS;
		struct timespec tick = {
			.tv_sec = (time_t)(ms / 1000),
			.tv_nsec = (long)(ms % 1000) * 1000000,
		};
		int sig = sigtimedwait(set, NULL, &tick);

		if (sig == SIGHUP) {
			if (run->source.file)
				run->fingerprint =
					config_fingerprint(run->source.file);
			reload_run(run->wiring, &run->source, &run->config);
		} else if (sig == WIRING_SIGNAL) {
			if (!take_news(run, ret_code))
				return *ret_code ? SERVE_FAILED
						 : SERVE_STEP_DOWN;
		} else if (sig > 0) {
			return sig;
		} else if (errno == EINTR) {
			continue;
		} else if (!run->leads && !told) {
			announce_standby(run);
			told = true;
		} else {
			look_at_files(run);
			wiring_look(run->wiring);
		}
		if (watchdog_ms && wiring_is_live(run->wiring))
			notify_send("WATCHDOG=1");
	}
}

/* Memory holds messages and keys in the clear, so a core file would undo the
 * encryption of the disk.  (A sanitizer's leak check needs to be traceable.) */
static void forbid_cores(const struct settings *s)
{
#ifndef __SANITIZE_ADDRESS__
	if (!s->core_dumps)
		prctl(PR_SET_DUMPABLE, 0);
#endif
}

/* One life: standing by, perhaps leading, and the end of both.  *ret_again: it
 * has stepped down, and stands by again. */
static int live(struct daemon_run *run, const sigset_t *set, bool *ret_again)
{
	struct wiring_hooks hooks = {.restart = restart, .yield = *ret_again};
	const struct settings *s = settings_of(run->config);
	int code, sig;

	*ret_again = false;
	run->leads = false;
	code = wiring_up(s, &hooks, &run->wiring);
	if (code)
		return code;
	sig = serve(run, set, &code);
	if (sig > 0) {
		ending = true;
		signals_leave(set);
		notify_send("STOPPING=1");
	}
	if (sig == SERVE_STEP_DOWN)
		logger_info("daemon", "stepping-down", "why=%s",
			    LOGGER_QUOTE("asked to let another lead"));
	else
		logger_info("daemon", "stopping", "signal=%d",
			    sig > 0 ? sig : 0);
	s = settings_of(run->config);
	if (wiring_down(run->wiring, s->shutdown_timeout_ns)) {
		logger_warn("daemon", "stopped-early", "why=%s",
			    LOGGER_QUOTE("shutdown_timeout has passed; what "
					 "was acknowledged is safe"));
		_exit(WIRING_EXIT_FAILED);
	}
	*ret_again = sig == SERVE_STEP_DOWN;
	if (!*ret_again)
		logger_info("daemon", "stopped", "signal=%d",
			    sig > 0 ? sig : 0);
	return code;
}

static int run_broker(struct daemon_run *run)
{
	const struct settings *s = settings_of(run->config);
	bool again = false;
	sigset_t set;
	int code = 0;

	logger_configure((enum logger_level)s->log.level,
			 (enum logger_format)s->log.format);
	forbid_cores(s);
	signals_block(&set);
	if (crypto_init()) {
		logger_error("daemon", "no-crypto", "why=%s",
			     LOGGER_QUOTE("the cipher libraries do not work"));
		return WIRING_EXIT_FAILED;
	}
	do
		code = live(run, &set, &again);
	while (again);
	return code;
}

static int act(enum options_action action, const struct options *o,
	       const char *program)
{
	struct daemon_run run = {.program = program};
	int code = 0;

	if (action == OPTIONS_DONE)
		return 0;
	/* Looked at before it is read: a change in between is seen later. */
	if (o->config_file)
		run.fingerprint = config_fingerprint(o->config_file);
	if (action == OPTIONS_WRONG || load(o, &run.source, &run.config))
		return WIRING_EXIT_CONFIG;
	if (action == OPTIONS_PRINT)
		config_print(run.config, stdout);
	else if (action == OPTIONS_RUN)
		code = run_broker(&run);
	config_free(run.config);
	return code;
}

int main(int argc, char **argv)
{
	struct options options;
	enum options_action action;
	int code;

	/* One may be left of the process that this one has been, and of a name
	 * that was found through /proc/self/exe. */
	alarm(0);
	prctl(PR_SET_NAME, "holdfastd");
	arguments = argv;
	action = options_parse(argc, argv, &options);
	code = act(action, &options, argv[0]);

	options_fini(&options);
	return code;
}
