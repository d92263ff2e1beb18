/* tests/interop/label.c: the leadership label's module on its own, led by
 * check_kubernetes.py.
 *
 *   label URL ACCOUNT_DIR POD PEER,PEER,... LEVEL_MS
 *
 * Commands on stdin, an answer on stdout for each: `lead EPOCH` and `follow`
 * (ok), `wait MS` (yes or no), `stats` (JSON), `stop` (ok, and the end). */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/logger.h"
#include "replication/kubernetes.h"

static void print_stats(const struct kubernetes_stats *s)
{
	json_t *failures = json_object();
	char *text;
	json_t *all;

	for (unsigned i = 0; i < KUBERNETES_FAILURE_COUNT; i++)
		json_object_set_new(
			failures,
			kubernetes_failure_name((enum kubernetes_failure)i),
			json_integer((json_int_t)s->failures[i]));
	all = json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
			"leader", (int)s->leader, "in_sync", (int)s->in_sync,
			"requests", (json_int_t)s->requests, "label_writes",
			(json_int_t)s->label_writes, "peers_corrected",
			(json_int_t)s->peers_corrected, "consecutive_failures",
			(json_int_t)s->consecutive_failures,
			"last_success_wall_ms",
			(json_int_t)s->last_success_wall_ms, "newer_epoch",
			(json_int_t)s->newer_epoch, "failures", failures);
	text = json_dumps(all, JSON_COMPACT);
	puts(text ? text : "");
	free(text);
	json_decref(all);
}

static void obey(struct kubernetes *k)
{
	char line[64];
	uint64_t n;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "lead %" SCNu64, &n) == 1) {
			kubernetes_set(k, true, n);
			puts("ok");
		} else if (!strcmp(line, "follow\n")) {
			kubernetes_set(k, false, 0);
			puts("ok");
		} else if (sscanf(line, "wait %" SCNu64, &n) == 1) {
			puts(kubernetes_wait(k, n) ? "yes" : "no");
		} else if (!strcmp(line, "stats\n")) {
			print_stats(kubernetes_stats(k));
		} else {
			break;
		}
		fflush(stdout);
	}
}

static unsigned split(char *text, const char *names[KUBERNETES_PEERS_MAX])
{
	unsigned count = 0;
	char *name;

	while (count < KUBERNETES_PEERS_MAX && (name = strsep(&text, ",")))
		if (*name)
			names[count++] = name;
	return count;
}

int main(int argc, char **argv)
{
	const char *peers[KUBERNETES_PEERS_MAX], *reason, *engine;
	char why[KUBERNETES_WHY_BYTES];
	struct kubernetes_options options;
	struct kubernetes *k = NULL;
	struct io *io;
	int err;

	if (argc != 6) {
		fputs("usage: label URL DIR POD PEERS LEVEL_MS\n", stderr);
		return 2;
	}
	logger_configure(LOGGER_DEBUG, LOGGER_JSON);
	/* As holdfastd, which run-tests has try both. */
	engine = getenv("HOLDFAST_ENGINE");
	if (io_create(engine && !strcmp(engine, "threads") ? IO_ENGINE_THREADS
							   : IO_ENGINE_AUTO,
		      &io, &reason)) {
		fprintf(stderr, "label: %s\n", reason);
		return 1;
	}
	options = (struct kubernetes_options){
		.io = io,
		.api_url = argv[1],
		.account_dir = argv[2],
		.pod = argv[3],
		.peers = peers,
		.peer_count = split(argv[4], peers),
		.level_ms = strtoull(argv[5], NULL, 10),
	};
	err = kubernetes_create(&options, &k, why);
	if (!err) {
		snprintf(why, sizeof(why), "no thread");
		err = kubernetes_start(k);
	}
	if (err) {
		fprintf(stderr, "label: %s\n", why);
		kubernetes_free(k);
		io_free(io);
		return 1;
	}
	obey(k);
	kubernetes_stop(k);
	puts("ok");
	kubernetes_free(k);
	io_free(io);
	return 0;
}
