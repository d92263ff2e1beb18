/* bench/load/main.c: holdfast-load: the command line. */
#include <string.h>
#include <sys/resource.h>

#include "base/err.h"
#include "bench/load/report.h"
#include "tools/options.h"

#define EXIT_OK 0
#define EXIT_FAILED 1 /* could not run */
#define EXIT_USAGE 2
#define EXIT_UNCLEAN 3 /* ran, and what arrived is not what was confirmed */

/* As they come from the command line. */
struct settings {
	struct load_options load;
	const char *url, *json;
	unsigned protocol, mode;
	uint64_t connections, receivers, queues, fanout, threads;
	uint64_t window, credit, size;
	char host[256];
};

static const struct options *usage; /* for sentences about wrong options */

/* HOST:PORT, HOST, [v6]:PORT, with or without a scheme in front. */
static bool split_url(struct settings *s)
{
	const char *at = strstr(s->url, "://"), *end;
	unsigned long port = s->load.protocol->port;
	char *rest;
	size_t len;

	at = at ? at + 3 : s->url;
	if (*at == '[') {
		end = strchr(++at, ']');
		if (!end)
			return false;
		len = (size_t)(end++ - at);
	} else {
		len = strcspn(at, ":/");
		end = at + len;
	}
	if (!len || len >= sizeof(s->host))
		return false;
	memcpy(s->host, at, len);
	s->host[len] = 0;
	if (*end == ':') {
		port = strtoul(end + 1, &rest, 10);
		if (rest == end + 1 || (*rest && *rest != '/') || !port ||
		    port > 65535)
			return false;
	}
	s->load.host = s->host;
	s->load.port = (uint16_t)port;
	return true;
}

/* What goes into frames of text: no spaces, quotes or control characters. */
static bool is_plain(const char *text)
{
	for (; text && *text; text++) {
		if ((unsigned char)*text <= ' ' || *text == '"' ||
		    *text == '\\' || *text == 127)
			return false;
	}
	return true;
}

static int check_ranges(const struct settings *s)
{
	uint64_t links = base_max(s->connections, s->receivers);

	if (!s->connections || links > LOAD_CONNECTIONS_MAX)
		return options_wrong(
			usage, "--connections and --receivers are 1 to %u",
			LOAD_CONNECTIONS_MAX);
	if (!s->queues || s->queues > LOAD_QUEUES_MAX || s->fanout > 1000)
		return options_wrong(usage,
				     "--queues is 1 to %u, --fanout 1 to "
				     "1000",
				     LOAD_QUEUES_MAX);
	if (!s->threads || s->threads > LOAD_THREADS_MAX)
		return options_wrong(usage, "--threads is 1 to %u",
				     LOAD_THREADS_MAX);
	if (!s->window || s->window > LOAD_WINDOW_MAX ||
	    s->credit > LOAD_WINDOW_MAX)
		return options_wrong(usage, "--window and --credit are 1 to %u",
				     LOAD_WINDOW_MAX);
	if (s->size < PAYLOAD_BYTES_MIN || s->size > PAYLOAD_BYTES_MAX)
		return options_wrong(usage, "--size is %u bytes to %u MiB",
				     PAYLOAD_BYTES_MIN,
				     PAYLOAD_BYTES_MAX >> 20);
	if (s->load.rate > 100000000)
		return options_wrong(usage, "--rate is 1 to 100000000");
	if (s->load.measure_ns > TALLY_SECONDS_MAX * 1000000000ull)
		return options_wrong(usage, "--seconds is at most %u",
				     TALLY_SECONDS_MAX);
	return 0;
}

static int check_sense(const struct settings *s)
{
	const struct load_options *o = &s->load;
	bool consumes = o->mode == LOAD_CONSUME;

	if (o->count && o->measure_ns)
		return options_wrong(usage, "--count and --seconds exclude "
					    "each other");
	if (!consumes && !o->count && !o->measure_ns)
		return options_wrong(usage, "say how much: --count or "
					    "--seconds");
	if (consumes && (o->rate || o->until_broken))
		return options_wrong(usage, "--rate and --until-broken are "
					    "for publishing");
	if (consumes && !o->measure_ns && o->warm_up_ns)
		return options_wrong(usage, "--warmup needs --seconds when "
					    "only consuming");
	if (consumes && o->ledger && !o->verifies)
		return options_wrong(usage, "--ledger needs --verify when "
					    "consuming");
	if (consumes && o->ledger && (o->count || o->measure_ns))
		return options_wrong(usage, "a ledger says how much there is: "
					    "no --count, no --seconds");
	if (o->fanout && !o->protocol->fans_out)
		return options_wrong(usage, "%s has no fan-out",
				     o->protocol->name);
	if (o->fanout && o->queues > 1)
		return options_wrong(usage, "--fanout has one address: no "
					    "--queues");
	if (o->fanout && o->receivers && o->receivers < o->fanout)
		return options_wrong(usage,
				     "each of %u queues needs a "
				     "receiver: --receivers",
				     o->fanout);
	if (o->classic && o->protocol != &protocol_amqp091)
		return options_wrong(usage, "--classic is for amqp091");
	if (strcmp(o->receive_prefix, o->prefix) != 0 &&
	    o->protocol != &protocol_amqp)
		return options_wrong(usage, "--receive-prefix is for amqp");
	if (!is_plain(o->user) || !is_plain(o->password) ||
	    !is_plain(o->prefix) || !is_plain(o->receive_prefix))
		return options_wrong(usage, "names and passwords are without "
					    "spaces, quotes and backslashes");
	if (strlen(o->prefix) > 180 || strlen(o->receive_prefix) > 180)
		return options_wrong(usage, "a name is at most 180 bytes");
	if ((o->user && strlen(o->user) > 255) ||
	    (o->password && strlen(o->password) > 255))
		return options_wrong(usage, "user and password are at most "
					    "255 bytes");
	return 0;
}

/* From what was said to what will be done; 0 or an exit code. */
static int settle(struct settings *s)
{
	struct load_options *o = &s->load;
	int code;

	o->protocol = protocol_at(s->protocol);
	o->mode = (enum load_mode)s->mode;
	if (!split_url(s))
		return options_wrong(usage, "\"%s\" is not HOST:PORT", s->url);
	code = check_ranges(s);
	if (code)
		return code;
	o->queues = (uint32_t)s->queues;
	o->fanout = (uint32_t)s->fanout;
	o->senders = o->mode == LOAD_CONSUME ? 0 : (uint32_t)s->connections;
	o->receivers = (uint32_t)(s->receivers ? s->receivers : s->connections);
	if (o->mode == LOAD_PUBLISH)
		o->receivers = 0;
	/* Without a connection, a thread would have nothing to do. */
	o->threads = (uint32_t)base_min(s->threads,
					base_max(o->senders, o->receivers));
	o->window = (uint32_t)s->window;
	o->credit = (uint32_t)(s->credit ? s->credit : s->window);
	o->size = s->size;
	if (!o->receive_prefix)
		o->receive_prefix = o->prefix;
	return check_sense(s);
}

static int show(json_t *report, const char *path)
{
	FILE *f = path ? fopen(path, "we") : stdout;
	int err = 0;

	if (!f) {
		err = -errno;
	} else {
		if (json_dumpf(report, f,
			       JSON_INDENT(1) | JSON_REAL_PRECISION(10)) ||
		    fputc('\n', f) == EOF || fflush(f))
			err = -EIO;
		if (path && fclose(f) && !err)
			err = -EIO;
	}
	if (err)
		fprintf(stderr, "%s: cannot write %s: %s\n", usage->command,
			path ? path : "the report", err_str(err));
	return err;
}

/* A thousand connections need as many descriptors. */
static void raise_limits(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int measure(const struct settings *s)
{
	static struct load_result result;
	const struct tally *t = &result.tally;
	char why[640];
	json_t *report;
	int err, code = EXIT_OK;

	raise_limits();
	err = load_run(&s->load, &result, why, sizeof(why));
	if (err) {
		fprintf(stderr, "%s: %s\n", usage->command, why);
		code = EXIT_FAILED;
	} else if (!report_is_clean(&s->load, &result)) {
		fprintf(stderr, "%s: %llu lost, %llu twice, %llu damaged%s\n",
			usage->command, (unsigned long long)result.verdict.lost,
			(unsigned long long)t->duplicates,
			(unsigned long long)t->corrupt,
			result.short_of ? "; ended because nothing moved" : "");
		code = EXIT_UNCLEAN;
	}
	report = report_make(&s->load, &result, err ? why : NULL);
	if (show(report, s->json) && !code)
		code = EXIT_FAILED;
	json_decref(report);
	return code;
}

/* "amqp|amqp091|…", for the option. */
static const char *protocol_names(void)
{
	static char names[128];
	const struct protocol *p;

	for (unsigned i = 0; (p = protocol_at(i)); i++) {
		size_t len = strlen(names);

		snprintf(names + len, sizeof(names) - len, "%s%s", i ? "|" : "",
			 p->name);
	}
	return names;
}

int main(int argc, char **argv)
{
	struct settings s = {
		.load = {.prefix = "load", .patience_ns = 15000000000u},
		.url = "127.0.0.1",
		.connections = 1,
		.queues = 1,
		.threads = 1,
		.window = 1000,
		.size = 1024,
	};
	struct load_options *o = &s.load;
	const struct option table[] = {
		{"protocol", 0, OPTION_CHOICE, &s.protocol, protocol_names(),
		 "amqp (1.0), amqp091, nats, redis, beanstalk or stomp"},
		{"url", 'u', OPTION_TEXT, &s.url, "HOST:PORT",
		 "the broker (127.0.0.1 and the protocol's usual port)"},
		{"user", 0, OPTION_TEXT, &o->user, "NAME",
		 "log in (amqp091: guest)"},
		{"password", 0, OPTION_TEXT, &o->password, "TEXT",
		 "with this password"},
		{"mode", 0, OPTION_CHOICE, &s.mode, "publish|consume|both",
		 "what is done (publish)"},
		{"prefix", 0, OPTION_TEXT, &o->prefix, "NAME",
		 "the queue, or NAME.0, NAME.1, … with --queues (load)"},
		{"receive-prefix", 0, OPTION_TEXT, &o->receive_prefix, "NAME",
		 "what is received from, when it is called otherwise"},
		{"queues", 0, OPTION_NUMBER, &s.queues, "N",
		 "spread over N queues (1)"},
		{"fanout", 0, OPTION_NUMBER, &s.fanout, "N",
		 "one address with N queues: each gets every message"},
		{"connections", 'c', OPTION_NUMBER, &s.connections, "N",
		 "senders; receivers when only consuming (1)"},
		{"receivers", 'r', OPTION_NUMBER, &s.receivers, "N",
		 "receiving connections (as many as --connections)"},
		{"threads", 0, OPTION_NUMBER, &s.threads, "N",
		 "threads of the generator (1)"},
		{"window", 'w', OPTION_NUMBER, &s.window, "N",
		 "unconfirmed messages of each sender (1000)"},
		{"credit", 0, OPTION_NUMBER, &s.credit, "N",
		 "messages ahead of each receiver (as --window)"},
		{"size", 's', OPTION_BYTES, &s.size, "BYTES",
		 "of each body, 32 or more (1024)"},
		{"count", 'n', OPTION_NUMBER, &o->count, "N",
		 "measure N messages"},
		{"seconds", 0, OPTION_DURATION, &o->measure_ns, "TIME",
		 "measure for this long"},
		{"warmup", 0, OPTION_DURATION, &o->warm_up_ns, "TIME",
		 "load for so long before measuring (0)"},
		{"rate", 0, OPTION_NUMBER, &o->rate, "N",
		 "open loop: N messages a second in all (0: closed loop)"},
		{"patience", 0, OPTION_DURATION, &o->patience_ns, "TIME",
		 "nothing moves for so long: that is the end (15s)"},
		{"wait", 0, OPTION_DURATION, &o->wait_ns, "TIME",
		 "try to connect for so long (0)"},
		{"verify", 0, OPTION_FLAG, &o->verifies, NULL,
		 "checksums, losses, duplicates and order"},
		{"ledger", 0, OPTION_TEXT, &o->ledger, "FILE",
		 "publishing writes there what was confirmed; consuming reads"},
		{"until-broken", 0, OPTION_FLAG, &o->until_broken, NULL,
		 "losing the broker ends the run and is no error"},
		{"classic", 0, OPTION_FLAG, &o->classic, NULL,
		 "amqp091: classic queues instead of quorum queues"},
		{"json", 0, OPTION_TEXT, &s.json, "FILE",
		 "write the report there (standard output)"},
	};
	const struct options options = {
		.command = "holdfast-load",
		.words = "",
		.summary =
			"Load a message broker and report on it in JSON "
			"(bench/load/README.md).\nDurable messages, each one "
			"confirmed.  Exit code 1: it could not run; 3: "
			"messages\nwere lost, damaged or came twice.",
		.examples =
			"  holdfast-load --window 1 --seconds 5 --warmup 1\n"
			"  holdfast-load --protocol nats --mode both -c 4 "
			"--queues 4 --seconds 5 --verify\n"
			"  holdfast-load --protocol redis --rate 20000 "
			"--seconds 10\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	int words, code;

	usage = &options;
	switch (options_parse(&options, argc - 1, argv + 1, &words)) {
	case OPTIONS_HELP:
		return EXIT_OK;
	case OPTIONS_BAD:
		return EXIT_USAGE;
	case OPTIONS_GO:
		break;
	}
	code = settle(&s);
	return code ? code : measure(&s);
}
