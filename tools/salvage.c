/* tools/salvage.c: `holdfast journal salvage`: what is intact of a damaged
 * data directory, in a new one. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/record.h"
#include "journal/store/salvage.h"
#include "tools/command.h"
#include "tools/output.h"
#include "tools/world.h"

#define KEY_DEVELOPMENT_NAME "development.key" /* as holdfastd makes it */
#define PATH_BYTES 4096u
#define WHY_BYTES 640u

struct salvaging {
	const char *command, *dir, *to, *key_file;
	unsigned format;
	struct io *io;
	struct crypto_key *key;
	json_t *missing;
};

static const char *reason_of(const struct salvage_missing *m)
{
	switch (m->kind) {
	case SALVAGE_RECORDS:
		return m->err == -ENOENT
			       ? "these records of the journal are gone: what "
				 "they published is lost, what they "
				 "acknowledged may come again"
			       : "these records of the journal cannot be read: "
				 "what they published is lost, what they "
				 "acknowledged may come again";
	case SALVAGE_CHECKPOINT:
		return "the checkpoint cannot be read and was passed over";
	case SALVAGE_EXTENTS:
		return "not everything in the file can be read";
	case SALVAGE_MESSAGES:
		break;
	}
	return m->err == -ENOENT ? "the file, or a part of the message, is gone"
				 : err_str(m->err);
}

static void on_missing(void *ctx, const struct salvage_missing *m)
{
	static const char *const kinds[] = {
		[SALVAGE_MESSAGES] = "messages",
		[SALVAGE_RECORDS] = "records",
		[SALVAGE_CHECKPOINT] = "checkpoint",
		[SALVAGE_EXTENTS] = "file",
	};
	struct salvaging *s = ctx;
	bool is_ref = m->kind == SALVAGE_MESSAGES;
	uint64_t first = is_ref ? record_ref_number(m->first) : m->first;
	uint64_t last = is_ref ? record_ref_number(m->last) : m->last;
	json_t *name = json_stringn(m->name, m->name_len);
	json_t *row = json_pack(
		"{s:s, s:o, s:I, s:I, s:I, s:I, s:s, s:I, s:s}", "kind",
		kinds[m->kind], "queue", name ? name : json_string(""),
		"queue_id", (json_int_t)m->queue, "priority",
		(json_int_t)(is_ref ? record_ref_priority(m->first) : 0),
		"first", (json_int_t)first, "last", (json_int_t)last, "file",
		m->file, "offset", (json_int_t)m->offset, "reason",
		reason_of(m));

	if (row)
		json_array_append_new(s->missing, row);
}

static void on_progress(void *ctx, const struct salvage_result *r)
{
	world_progress("%" PRIu64 " messages, %.0f MiB", r->messages,
		       (double)r->bytes / 1048576.0);
}

/* ---- the report ---- */

static json_t *result_json(const struct salvaging *s,
			   const struct salvage_result *r)
{
	return json_pack(
		"{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}",
		"dir", s->dir, "to", s->to, "intact",
		!json_array_size(s->missing), "queues", (json_int_t)r->queues,
		"messages", (json_int_t)r->messages, "bytes",
		(json_int_t)r->bytes, "missing_messages",
		(json_int_t)r->missing, "lost_records",
		(json_int_t)r->lost_records, "maybe_again",
		(json_int_t)r->maybe_again, "from_other_copies",
		(json_int_t)r->elsewhere, "nameless_queues",
		(json_int_t)r->nameless, "missing", s->missing);
}

static void print_table(const struct salvaging *s,
			const struct salvage_result *r)
{
	static const struct output_column columns[] = {
		{"kind", "KIND"},     {"queue", "QUEUE"},   {"priority", "PRI"},
		{"first", "FIRST"},   {"last", "LAST"},	    {"file", "FILE"},
		{"offset", "OFFSET"}, {"reason", "REASON"},
	};

	if (json_array_size(s->missing)) {
		output_print(OUTPUT_TABLE, s->missing, columns,
			     ARRAY_COUNT(columns));
		putchar('\n');
	}
	printf("%s: %" PRIu64 " messages (%.1f MiB) of %" PRIu64
	       " queues; %" PRIu64 " messages are missing\n",
	       s->to, r->messages, (double)r->bytes / 1048576.0, r->queues,
	       r->missing);
	if (r->lost_records)
		printf("%" PRIu64 " records of the journal are lost: what was "
		       "published in them is not here, and what was "
		       "acknowledged in them may come again\n",
		       r->lost_records);
	if (r->baseless)
		puts("No checkpoint could be read, and the journal does not go "
		     "back to its beginning:\nmessages that were acknowledged "
		     "long ago may come again, in any number");
	else if (r->maybe_again)
		printf("%" PRIu64 " messages may have been acknowledged: they "
		       "may come again\n",
		       r->maybe_again);
	if (r->elsewhere)
		printf("%" PRIu64 " messages were found in another copy: they "
		       "come behind the others of their queue\n",
		       r->elsewhere);
	if (r->nameless)
		printf("%" PRIu64 " queues have lost their names: they are "
		       "called salvaged-<id>\n",
		       r->nameless);
	if (!json_array_size(s->missing))
		puts("Everything was intact.");
}

static int report(const struct salvaging *s, const struct salvage_result *r)
{
	if (s->format == OUTPUT_TABLE) {
		print_table(s, r);
	} else {
		json_t *json = result_json(s, r);

		output_print(s->format, json, NULL, 0);
		json_decref(json);
	}
	return json_array_size(s->missing) ? COMMAND_FAILED : COMMAND_OK;
}

/* ---- the new directory ---- */

/* A development key lies beside its data, so the new data needs it too. */
static int copy_key(const struct salvaging *s)
{
	char path[PATH_BYTES], text[66];
	struct io_file *file;
	int err;

	if (s->key_file)
		return 0;
	snprintf(path, sizeof(path), "%s/" KEY_DEVELOPMENT_NAME, s->to);
	err = io_open(s->io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE, &file);
	if (err)
		return err;
	crypto_key_export(s->key, text);
	text[64] = '\n';
	err = io_write(file, text, 65, 0);
	if (!err)
		err = io_sync(file);
	io_close(file);
	crypto_zero(text, sizeof(text));
	return err ? err : io_sync_dir(s->io, s->to);
}

static int refuse_entry(void *ctx, const char *name)
{
	return 1;
}

static int make_directory(const struct salvaging *s)
{
	int err = io_mkdir(s->io, s->to);

	if (!err)
		err = io_list(s->io, s->to, refuse_entry, NULL);
	if (err == 1) {
		fprintf(stderr, "%s: %s: is not empty; name a new directory\n",
			s->command, s->to);
		return COMMAND_FAILED;
	}
	if (!err)
		err = copy_key(s);
	if (err) {
		fprintf(stderr, "%s: %s: %s\n", s->command, s->to,
			err_str(err));
		return COMMAND_FAILED;
	}
	return COMMAND_OK;
}

static int salvage(struct salvaging *s)
{
	const struct salvage_options options = {
		.io = s->io,
		.dir = s->dir,
		.to = s->to,
		.master = s->key,
		.missing = on_missing,
		.progress = on_progress,
		.ctx = s,
	};
	struct salvage_result result;
	char why[WHY_BYTES] = "";
	int err, code = make_directory(s);

	if (code)
		return code;
	err = salvage_run(&options, &result, why, sizeof(why));
	world_progress(NULL);
	if (!err)
		return report(s, &result);
	fprintf(stderr, "%s: %s\n%s: %s is not complete: remove it\n",
		s->command, why, s->command, s->to);
	return COMMAND_FAILED;
}

int journal_salvage_run(int argc, char **argv)
{
	struct salvaging s = {.command = "holdfast journal salvage"};
	const struct option table[] = {
		{"data-dir", 'd', OPTION_TEXT, &s.dir, "DIR",
		 "the damaged directory; its broker is stopped"},
		{"to", 't', OPTION_TEXT, &s.to, "NEWDIR",
		 "the new directory; it is made, or empty"},
		{"key-file", 'k', OPTION_TEXT, &s.key_file, "FILE",
		 "the master key (DIR/" KEY_DEVELOPMENT_NAME ")"},
		{"output", 'o', OPTION_CHOICE, &s.format, OUTPUT_FORMATS,
		 "how to print what is missing (table)"},
	};
	const struct options options = {
		.command = s.command,
		.words = "",
		.summary = "Copy every message that is intact from a damaged "
			   "data directory into a new one,\nand list what is "
			   "not.  Nothing is written to the damaged one.  "
			   "Exit code 0 when\neverything was intact, 1 when "
			   "something is missing.",
		.examples = "  holdfast journal salvage --data-dir "
			    "/var/lib/holdfast --to /var/lib/holdfast.new\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	int words, code;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	if (!s.dir || !s.to)
		return options_wrong(&options,
				     "--data-dir and --to are needed");
	code = world_open(s.command, &s.io);
	if (!code)
		code = world_find_key(s.command, s.io, s.dir, s.key_file,
				      &s.key);
	if (!code && !s.key) {
		fprintf(stderr,
			"%s: %s: there is no " KEY_DEVELOPMENT_NAME
			"; name the master key with --key-file\n",
			s.command, s.dir);
		code = COMMAND_FAILED;
	}
	s.missing = json_array();
	if (!code)
		code = salvage(&s);
	json_decref(s.missing);
	crypto_key_free(s.key);
	if (s.io)
		io_free(s.io);
	return code;
}
