/* tools/store.c: `holdfast store stat`, `… verify` and `… rebuild-index`. */
#include <inttypes.h>
#include <string.h>

#include "journal/log/verify.h"
#include "journal/store/store.h"
#include "tools/command.h"
#include "tools/admin_client.h"
#include "tools/output.h"
#include "tools/store_stat.h"
#include "tools/store_verify.h"
#include "tools/world.h"

#define PATH_BYTES 4096u
#define MIB 1048576.0

struct store_command {
	const char *name, *dir, *key_file, *index_dir;
	struct http_access access;
	unsigned format;
	struct io *io;
	struct crypto_key *key; /* NULL: none given, none found */
};

/* Words in argv; a result other than GO is turned into *ret_code. */
static bool parse(const struct options *options, int argc, char **argv,
		  int *ret_words, int *ret_code)
{
	switch (options_parse(options, argc, argv, ret_words)) {
	case OPTIONS_HELP:
		*ret_code = COMMAND_OK;
		return false;
	case OPTIONS_BAD:
		*ret_code = COMMAND_USAGE;
		return false;
	case OPTIONS_GO:
		break;
	}
	return true;
}

static int open_dir(struct store_command *c)
{
	int code = world_open(c->name, &c->io);

	return code ? code
		    : world_find_key(c->name, c->io, c->dir, c->key_file,
				     &c->key);
}

static void close_dir(struct store_command *c)
{
	crypto_key_free(c->key);
	if (c->io)
		io_free(c->io);
}

static int needs_key(const struct store_command *c)
{
	fprintf(stderr,
		"%s: %s has no development.key; name the master key with "
		"--key-file (journal.key_file of the broker)\n",
		c->name, c->dir);
	return COMMAND_FAILED;
}

/* ---- stat ---- */

static int stat_broker(struct store_command *c)
{
	json_t *answer = NULL;
	int code = admin_client_request(c->name, &c->access, "GET",
					"/api/v1/store", NULL, NULL, NULL,
					&answer);

	if (code)
		return code;
	output_print(c->format, answer, NULL, 0);
	json_decref(answer);
	return COMMAND_OK;
}

static int stat_dir(struct store_command *c)
{
	json_t *report;
	int err, code = open_dir(c);

	if (!code && !c->key)
		code = needs_key(c);
	if (!code) {
		err = store_stat_report(c->io, c->dir, c->key, &report);
		if (err) {
			code = world_cannot_look(c->name, c->dir, err);
		} else {
			output_print(c->format, report, NULL, 0);
			json_decref(report);
		}
	}
	close_dir(c);
	return code;
}

int store_stat_run(int argc, char **argv)
{
	struct store_command c = {.name = "holdfast store stat",
				  .access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(c.access),
		{"key-file", 'k', OPTION_TEXT, &c.key_file, "FILE",
		 "the master key (DIR/development.key)"},
		{"output", 'o', OPTION_CHOICE, &c.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = c.name,
		.words = "[DIR]",
		.summary = "What is queued, and what disk it takes: of a "
			   "running broker, or with DIR of a\ndata directory, "
			   "whether or not a broker is running on it.",
		.examples = "  holdfast store stat\n"
			    "  holdfast store stat /var/lib/holdfast -k "
			    "/etc/holdfast/master.key -o json\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_max = 1,
	};
	int words, code;

	if (!parse(&options, argc, argv, &words, &code))
		return code;
	if (!words)
		return stat_broker(&c);
	c.dir = argv[0];
	return stat_dir(&c);
}

/* ---- verify ---- */

static uint64_t number(json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static void print_finding(json_t *f)
{
	const char *kind = json_string_value(json_object_get(f, "kind"));
	json_t *queue = json_object_get(f, "queue");

	printf("%-7s %s:%" PRIu64,
	       kind && !strcmp(kind, "damage") ? "DAMAGE" : "torn",
	       json_string_value(json_object_get(f, "file")),
	       number(f, "offset"));
	if (number(f, "lsn"))
		printf(" (LSN %" PRIu64 ")", number(f, "lsn"));
	if (queue) {
		char *name = json_dumps(queue, JSON_ENCODE_ANY);

		printf(": queue %s (%" PRIu64 ") priority %" PRIu64 ", %" PRIu64
		       " messages from %" PRIu64 " to %" PRIu64,
		       name ? name : "", number(f, "queue_id"),
		       number(f, "priority"), number(f, "messages"),
		       number(f, "first_number"), number(f, "last_number"));
		free(name);
	}
	printf(": %s\n", json_string_value(json_object_get(f, "what")));
}

static void print_report(const struct store_command *c, json_t *report)
{
	bool sound = json_is_true(json_object_get(report, "sound"));
	json_t *findings = json_object_get(report, "findings");

	if (c->format != OUTPUT_TABLE) {
		output_print(c->format, report, NULL, 0);
		return;
	}
	for (size_t i = 0; i < json_array_size(findings); i++)
		print_finding(json_array_get(findings, i));
	printf("%s: %s\n%" PRIu64 " segments with %" PRIu64 " frames, %.1f "
	       "MiB; %" PRIu64 " extent files, %.1f MiB; %" PRIu64
	       " checkpoints\n%" PRIu64 " damaged, %" PRIu64
	       " torn writes (harmless)\n",
	       c->dir, sound ? "sound" : "DAMAGED", number(report, "segments"),
	       number(report, "frames"), (double)number(report, "bytes") / MIB,
	       number(report, "extent_files"),
	       (double)number(report, "extent_bytes") / MIB,
	       number(report, "checkpoints"), number(report, "damage"),
	       number(report, "torn"));
	if (json_is_true(json_object_get(report, "with_key")))
		printf("%" PRIu64 " messages in %" PRIu64
		       " queues: every file they lie in is there: %s\n",
		       number(report, "messages"), number(report, "queues"),
		       number(report, "missing") ? "NO" : "yes");
	else
		puts("Without the key it was not checked whether a file is "
		     "missing; --key-file names it.");
	if (!sound)
		puts("Restore the damaged files from a backup or a peer; do "
		     "not delete anything by hand.\n`holdfast journal salvage` "
		     "copies what is intact to a new directory.");
}

int store_verify_run(int argc, char **argv)
{
	struct store_command c = {.name = "holdfast store verify"};
	const struct option table[] = {
		{"key-file", 'k', OPTION_TEXT, &c.key_file, "FILE",
		 "the master key (DIR/development.key)"},
		{"output", 'o', OPTION_CHOICE, &c.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = c.name,
		.words = "DIR",
		.summary = "Check everything in a data directory: journal, "
			   "checkpoints, extent files, and\nwith the key that "
			   "nothing queued lies in a file that is missing; "
			   "damage is named\nby file, queue and messages.  "
			   "Exit code 1 when something is damaged.",
		.examples = "  holdfast store verify /var/lib/holdfast -k "
			    "/etc/holdfast/master.key\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	json_t *report;
	int words, code, err;

	if (!parse(&options, argc, argv, &words, &code))
		return code;
	c.dir = argv[0];
	code = open_dir(&c);
	if (!code) {
		err = store_verify_report(c.io, c.dir, c.key, &report);
		if (err) {
			code = world_cannot_look(c.name, c.dir, err);
		} else {
			print_report(&c, report);
			code = json_is_true(json_object_get(report, "sound"))
				       ? COMMAND_OK
				       : COMMAND_FAILED;
			json_decref(report);
		}
	}
	close_dir(&c);
	return code;
}

/* ---- rebuild-index ---- */

struct rebuild {
	struct log *log;
	struct index *index;
	struct store *store;
	char why[512];
};

static int rebuild_open(struct store_command *c, struct rebuild *r)
{
	struct log_options options = {
		.io = c->io, .dir = c->dir, .master = c->key};
	char made[PATH_BYTES];
	uint8_t id[16];
	/* Not a data directory: it must not become one. */
	int err = log_identity(c->io, c->dir, id);

	if (err) {
		snprintf(r->why, sizeof(r->why),
			 "%s; name the directory that "
			 "--data-dir named",
			 err_str(err));
		return err;
	}
	err = log_create(&options, &r->log);
	if (err) {
		snprintf(r->why, sizeof(r->why), "%s", log_why(NULL));
		return err;
	}
	err = log_claim(r->log);
	if (err) {
		snprintf(r->why, sizeof(r->why), "%s",
			 err == -EAGAIN
				 ? "a broker is running on it, and its index "
				   "is in use; stop it first"
				 : log_why(r->log));
		return err;
	}
	snprintf(made, sizeof(made), "%s/index", c->dir);
	return index_lmdb_open(
		&(struct index_lmdb_options){
			.io = c->io, .dir = c->index_dir ? c->index_dir : made},
		&r->index, r->why, sizeof(r->why));
}

static int rebuild_run(struct store_command *c, struct rebuild *r)
{
	struct store_options options = {
		.io = c->io, .dir = c->dir, .master = c->key};
	int err;

	options.index = r->index;
	err = store_create(&options, &r->store);
	if (err) {
		snprintf(r->why, sizeof(r->why), "%s", err_str(err));
		return err;
	}
	err = store_recover(r->store, r->log);
	if (err) {
		const char *why = store_why(r->store);

		snprintf(r->why, sizeof(r->why), "%s",
			 why && why[0] ? why : log_why(r->log));
	} else if (store_warning(r->store)) {
		fprintf(stderr, "%s: %s\n", c->name, store_warning(r->store));
	}
	return err;
}

static int count_queue(void *ctx, const struct store_queue *q)
{
	uint64_t *counts = ctx;

	counts[0]++;
	counts[1] += q->messages;
	return 0;
}

static void rebuild_print(struct store_command *c, struct rebuild *r,
			  uint64_t took_ns)
{
	uint64_t counts[2] = {0}, entries, bytes;
	const struct store_stats *stats = store_stats(r->store);
	json_t *o;

	(void)store_each_queue(r->store, count_queue, counts);
	index_lmdb_stat(r->index, &entries, &bytes);
	if (c->format == OUTPUT_TABLE) {
		printf("%" PRIu64 " messages in %" PRIu64 " queues; %" PRIu64
		       " runs in extent files, %" PRIu64 " of them with "
		       "details in the index (%.1f MiB); %.2f s\n",
		       counts[1], counts[0],
		       (uint64_t)atomic_load(&stats->runs), entries,
		       (double)bytes / MIB, (double)took_ns / 1e9);
		return;
	}
	o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "dir", c->dir,
		      "queues", (json_int_t)counts[0], "messages",
		      (json_int_t)counts[1], "runs",
		      (json_int_t)atomic_load(&stats->runs), "details",
		      (json_int_t)entries, "index_bytes", (json_int_t)bytes,
		      "seconds", (double)took_ns / 1e9);
	output_print(c->format, o, NULL, 0);
	json_decref(o);
}

static int rebuild(struct store_command *c)
{
	struct rebuild r = {0};
	uint64_t begun_ns = io_now_ns(c->io);
	int err = rebuild_open(c, &r);

	if (!err) {
		world_progress("recovering …");
		err = rebuild_run(c, &r);
		world_progress(NULL);
	}
	if (!err)
		rebuild_print(c, &r, io_now_ns(c->io) - begun_ns);
	else
		fprintf(stderr, "%s: %s: %s\n", c->name, c->dir, r.why);
	store_free(r.store);
	index_free(r.index);
	log_free(r.log);
	return err ? COMMAND_FAILED : COMMAND_OK;
}

int store_rebuild_index_run(int argc, char **argv)
{
	struct store_command c = {.name = "holdfast store rebuild-index"};
	const struct option table[] = {
		{"key-file", 'k', OPTION_TEXT, &c.key_file, "FILE",
		 "the master key (DIR/development.key)"},
		{"index-dir", 0, OPTION_TEXT, &c.index_dir, "DIR",
		 "the broker's index_dir (DIR/index)"},
		{"output", 'o', OPTION_CHOICE, &c.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = c.name,
		.words = "DIR",
		.summary = "Recover a data directory with a new, empty index, "
			   "as every start of the broker\ndoes by itself: to "
			   "see that it works and how long it takes.  The "
			   "broker must be\nstopped.  An index that is "
			   "missing or damaged never needs this.",
		.examples = "  holdfast store rebuild-index "
			    "/var/lib/holdfast\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	int words, code;

	if (!parse(&options, argc, argv, &words, &code))
		return code;
	c.dir = argv[0];
	code = open_dir(&c);
	if (!code && !c.key)
		code = needs_key(&c);
	if (!code)
		code = rebuild(&c);
	close_dir(&c);
	return code;
}
