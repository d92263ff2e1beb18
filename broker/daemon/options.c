/* broker/daemon/options.c: every argument but the file's name is a --set in
 * disguise, so that there is one place where values are checked. */
#include "broker/daemon/options.h"

#include <getopt.h>
#include <string.h>

enum {
	OPT_DATA_DIR = 256,
	OPT_LISTEN,
	OPT_ADMIN,
	OPT_CONFIG,
	OPT_SET,
	OPT_CHECK,
	OPT_PRINT,
	OPT_VERSION,
	OPT_HELP,
};

static const struct option long_options[] = {
	{"data-dir", required_argument, NULL, OPT_DATA_DIR},
	{"listen", required_argument, NULL, OPT_LISTEN},
	{"admin", required_argument, NULL, OPT_ADMIN},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"set", required_argument, NULL, OPT_SET},
	{"check-config", no_argument, NULL, OPT_CHECK},
	{"print-config", no_argument, NULL, OPT_PRINT},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, OPT_HELP},
	{NULL, 0, NULL, 0},
};

static const char help[] =
	"Usage: holdfastd [options]\n"
	"\n"
	"A durable message broker: AMQP 1.0 in front, one encrypted journal\n"
	"behind.\n"
	"\n"
	"  --data-dir DIR      where the journal is (/var/lib/holdfast)\n"
	"  --listen URL        amqp://ADDRESS:PORT or any://ADDRESS:PORT; "
	"again\n"
	"                      for more (amqp://127.0.0.1:5672)\n"
	"  --admin ADDR:PORT   health, metrics, HTTP API (127.0.0.1:8161), or "
	"off\n"
	"  --config FILE       YAML configuration; conf.d/*.yaml beside it "
	"too\n"
	"  --set KEY=VALUE     any setting, such as "
	"journal.segment_size=64MiB\n"
	"  --check-config      say what is wrong with the configuration; 0 or "
	"2\n"
	"  --print-config      print the configuration in effect\n"
	"  --version, --help\n"
	"\n"
	"Settings come from, each overriding the one before: the defaults, "
	"the\n"
	"file, conf.d, HOLDFAST_SECTION__KEY in the environment, arguments.\n"
	"\n"
	"  holdfastd --data-dir ./data\n"
	"  holdfastd --config /etc/holdfast/holdfast.yaml --check-config\n"
	"\n"
	"Signals: TERM and INT finish and stop, again stops at once; HUP "
	"reads\n"
	"the configuration again.  More: man holdfastd, man holdfast.yaml\n";

static bool add_set(struct options *o, const char *set)
{
	if (o->set_count == OPTIONS_SETS_MAX) {
		fputs("holdfastd: too many arguments\n", stderr);
		return false;
	}
	o->sets[o->set_count++] = set;
	return true;
}

static bool add_made(struct options *o, char *set)
{
	if (!set || o->made_count == OPTIONS_SETS_MAX) {
		fputs("holdfastd: too many arguments\n", stderr);
		free(set);
		return false;
	}
	o->made[o->made_count++] = set;
	return add_set(o, set);
}

static bool add_key(struct options *o, const char *key, const char *value)
{
	char *set;

	return add_made(o,
			asprintf(&set, "%s=%s", key, value) < 0 ? NULL : set);
}

/* All --listen arguments are one list. */
static bool add_listen(char **listen, const char *value)
{
	char *longer;

	if (asprintf(&longer, "%s%s%s", *listen ? *listen : "listen=",
		     *listen ? "," : "", value) < 0)
		return false;
	free(*listen);
	*listen = longer;
	return true;
}

static enum options_action parse(int argc, char **argv, struct options *o,
				 char **listen)
{
	enum options_action action = OPTIONS_RUN;
	bool ok = true;
	int opt;

	while (ok &&
	       (opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (opt) {
		case OPT_DATA_DIR:
			ok = add_key(o, "data_dir", optarg);
			break;
		case OPT_ADMIN:
			ok = add_key(o, "admin", optarg);
			break;
		case OPT_LISTEN:
			ok = add_listen(listen, optarg);
			break;
		case OPT_CONFIG:
			o->config_file = optarg;
			break;
		case OPT_SET:
			ok = add_set(o, optarg);
			break;
		case OPT_CHECK:
			action = OPTIONS_CHECK;
			break;
		case OPT_PRINT:
			action = OPTIONS_PRINT;
			break;
		case OPT_VERSION:
			puts("holdfastd " HOLDFAST_VERSION);
			return OPTIONS_DONE;
		case OPT_HELP:
			fputs(help, stdout);
			return OPTIONS_DONE;
		default:
			fputs("Try: holdfastd --help\n", stderr);
			return OPTIONS_WRONG;
		}
	}
	if (ok && optind < argc) {
		fprintf(stderr,
			"holdfastd: \"%s\" is not an option\n"
			"Try: holdfastd --help\n",
			argv[optind]);
		ok = false;
	}
	return ok ? action : OPTIONS_WRONG;
}

enum options_action options_parse(int argc, char **argv, struct options *ret)
{
	enum options_action action;
	char *listen = NULL;

	*ret = (struct options){0};
	action = parse(argc, argv, ret, &listen);
	if (listen && action != OPTIONS_DONE && action != OPTIONS_WRONG) {
		if (!add_made(ret, listen))
			action = OPTIONS_WRONG;
	} else {
		free(listen);
	}
	if (!ret->config_file)
		ret->config_file = getenv("HOLDFAST_CONFIG");
	if (ret->config_file && !ret->config_file[0])
		ret->config_file = NULL;
	return action;
}

void options_fini(struct options *o)
{
	for (size_t i = 0; i < o->made_count; i++)
		free(o->made[i]);
	*o = (struct options){0};
}
