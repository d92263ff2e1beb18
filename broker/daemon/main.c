/* broker/daemon/main.c: holdfastd.
 *
 * The main thread puts the broker together and then only listens to signals,
 * to a changed configuration file and to the watchdog's clock.  All other
 * threads have signals blocked. */
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
};

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
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* From here on a signal does not wait for anything. */
static void signals_leave(const sigset_t *set)
{
	signal(SIGTERM, leave_now);
	signal(SIGINT, leave_now);
	signal(SIGHUP, SIG_IGN);
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

/* Until a signal asks to stop; returns that signal. */
static int serve(struct daemon_run *run, const sigset_t *set)
{
	uint64_t watchdog_ms = notify_watchdog_ms();
	uint64_t tick_ms = FILE_LOOK_MS;

	if (watchdog_ms)
		tick_ms = base_max(base_min(tick_ms, watchdog_ms), 10);
	else if (!run->source.file)
		tick_ms = 3600000;
	for (;;) {
		struct timespec tick = {
			.tv_sec = (time_t)(tick_ms / 1000),
			.tv_nsec = (long)(tick_ms % 1000) * 1000000,
		};
		int sig = sigtimedwait(set, NULL, &tick);

		if (sig == SIGHUP) {
			if (run->source.file)
				run->fingerprint =
					config_fingerprint(run->source.file);
			reload_run(run->wiring, &run->source, &run->config);
		} else if (sig > 0) {
			return sig;
		} else {
			look_at_files(run);
		}
		if (watchdog_ms && wiring_is_live(run->wiring))
			notify_send("WATCHDOG=1");
	}
}

static void announce(const struct daemon_run *run, const char *program)
{
	struct wiring_facts facts;

	wiring_describe(run->wiring, &facts);
	logger_info("daemon", "ready",
		    "version=%s listen=%s port=%u admin=%s engine=%s shards=%u "
		    "messages=%" PRIu64 " start_ms=%" PRIu64,
		    HOLDFAST_VERSION, LOGGER_QUOTE(facts.listen),
		    (unsigned)facts.port, facts.admin[0] ? facts.admin : "off",
		    facts.engine, facts.shards, facts.messages, facts.start_ms);
	banner_show(&facts, settings_of(run->config), program);
	notify_send("READY=1");
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

static int run_broker(struct daemon_run *run, const char *program)
{
	const struct settings *s = settings_of(run->config);
	sigset_t set;
	int code, sig;

	logger_configure((enum logger_level)s->log.level,
			 (enum logger_format)s->log.format);
	forbid_cores(s);
	signals_block(&set);
	if (crypto_init()) {
		logger_error("daemon", "no-crypto", "why=%s",
			     LOGGER_QUOTE("the cipher libraries do not work"));
		return WIRING_EXIT_FAILED;
	}
	code = wiring_up(s, &run->wiring);
	if (code)
		return code;
	announce(run, program);
	sig = serve(run, &set);
	signals_leave(&set);
	notify_send("STOPPING=1");
	logger_info("daemon", "stopping", "signal=%d", sig);
	s = settings_of(run->config);
	if (wiring_down(run->wiring, s->shutdown_timeout_ns)) {
		logger_warn("daemon", "stopped-early", "why=%s",
			    LOGGER_QUOTE("shutdown_timeout has passed; what "
					 "was acknowledged is safe"));
		_exit(WIRING_EXIT_FAILED);
	}
	logger_info("daemon", "stopped", "signal=%d", sig);
	return 0;
}

static int act(enum options_action action, const struct options *o,
	       const char *program)
{
	struct daemon_run run = {0};
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
		code = run_broker(&run, program);
	config_free(run.config);
	return code;
}

int main(int argc, char **argv)
{
	struct options options;
	enum options_action action = options_parse(argc, argv, &options);
	int code = act(action, &options, argv[0]);

	options_fini(&options);
	return code;
}
