/* tools/journal.c: `holdfast journal verify` and `… inspect`: a data
 * directory seen from outside.  Nothing is written, no lock is taken. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "journal/log/verify.h"
#include "journal/store/checkpoint.h"
#include "tools/command.h"
#include "tools/journal_record.h"
#include "tools/journal_start.h"
#include "tools/output.h"
#include "tools/world.h"

/* ---- verify ---- */

struct verifying {
	const char *command, *dir;
	struct io *io;
	unsigned format;
	json_t *findings;
	struct log_verify_result result;
	uint64_t checkpoints, damage;
	struct journal_start start;
};

static void on_finding(void *ctx, const struct log_finding *f)
{
	struct verifying *v = ctx;

	json_array_append_new(
		v->findings,
		json_pack("{s:s, s:s, s:I, s:I, s:s}", "kind",
			  f->kind == LOG_FINDING_DAMAGE ? "damage" : "torn",
			  "file", f->file, "offset", (json_int_t)f->offset,
			  "lsn", (json_int_t)f->lsn, "what", f->what));
}

static void forget_findings(void *ctx)
{
	struct verifying *v = ctx;

	json_array_clear(v->findings);
}

static void print_finding(json_t *f)
{
	const char *kind = json_string_value(json_object_get(f, "kind"));
	json_int_t lsn = json_integer_value(json_object_get(f, "lsn"));

	printf("%-7s %s:%" JSON_INTEGER_FORMAT,
	       kind && !strcmp(kind, "damage") ? "DAMAGE" : "torn",
	       json_string_value(json_object_get(f, "file")),
	       json_integer_value(json_object_get(f, "offset")));
	if (lsn)
		printf(" (LSN %" JSON_INTEGER_FORMAT ")", lsn);
	printf(": %s\n", json_string_value(json_object_get(f, "what")));
}

static void verify_checkpoints(struct verifying *v)
{
	for (size_t i = 0; i < v->start.file_count; i++) {
		char path[CHECKPOINT_PATH_MAX];
		struct log_finding finding = {.kind = LOG_FINDING_DAMAGE,
					      .file = path,
					      .lsn = v->start.files[i].lsn};
		int err;

		snprintf(path, sizeof(path), "%s/%s/%s", v->dir, CHECKPOINT_DIR,
			 v->start.files[i].name);
		err = blob_verify(v->io, path, NULL, &finding.offset);
		v->checkpoints++;
		/* Gone: a broker at work has written a newer one. */
		if (!err || err == -ENOENT)
			continue;
		v->damage++;
		finding.what = err == -E_CORRUPT ? "the checkpoint is damaged"
						 : err_str(err);
		on_finding(v, &finding);
	}
}

static void print_verdict(const struct verifying *v)
{
	const struct log_verify_result *r = &v->result;
	uint64_t damage = r->damage + v->damage;

	if (v->format != OUTPUT_TABLE) {
		json_t *report = json_pack(
			"{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
			"s:I, s:I, s:O}",
			"dir", v->dir, "sound", damage == 0, "segments",
			(json_int_t)r->segments, "frames",
			(json_int_t)r->frames, "records",
			(json_int_t)r->records, "bytes", (json_int_t)r->bytes,
			"first_lsn", (json_int_t)r->first_lsn, "end_lsn",
			(json_int_t)r->end_lsn, "epochs", (json_int_t)r->epochs,
			"checkpoints", (json_int_t)v->checkpoints, "damage",
			(json_int_t)damage, "torn", (json_int_t)r->torn,
			"findings", v->findings);

		output_print(v->format, report, NULL, 0);
		json_decref(report);
		return;
	}
	for (size_t i = 0; i < json_array_size(v->findings); i++)
		print_finding(json_array_get(v->findings, i));
	printf("%s: %s\n%" PRIu64 " segments, %" PRIu64 " frames, %" PRIu64
	       " records, %.1f MiB, %" PRIu64 " checkpoints\nLSN %" PRIu64
	       " to %" PRIu64 ", %" PRIu32 " epochs; %" PRIu64
	       " damaged, %" PRIu64 " torn writes "
	       "(harmless)\n",
	       v->dir, damage ? "DAMAGED" : "sound", r->segments, r->frames,
	       r->records, (double)r->bytes / 1048576.0, v->checkpoints,
	       r->first_lsn, r->end_lsn, r->epochs, damage, r->torn);
	if (damage)
		puts("Restore the damaged files from a backup or a peer; do "
		     "not delete anything by hand.");
}

int journal_verify_run(int argc, char **argv)
{
	struct verifying v = {.command = "holdfast journal verify"};
	const struct option table[] = {
		{"output", 'o', OPTION_CHOICE, &v.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = v.command,
		.words = "DIR",
		.summary = "Check every frame and checkpoint of a data "
			   "directory, without its key: checksums,\nchains, "
			   "epochs, and that nothing acknowledged is missing.  "
			   "Exit code 1 when\nsomething is damaged.",
		.examples = "  holdfast journal verify /var/lib/holdfast\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	int words, code, err;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	v.dir = argv[0];
	code = world_open(v.command, &v.io);
	if (code)
		return code;
	v.findings = json_array();
	err = journal_start_verify(&v.start, v.io, v.dir, on_finding,
				   forget_findings, &v, &v.result);
	if (err) {
		code = world_cannot_look(v.command, v.dir, err);
	} else {
		verify_checkpoints(&v);
		print_verdict(&v);
		code = v.result.damage + v.damage ? COMMAND_FAILED : COMMAND_OK;
	}
	json_decref(v.findings);
	io_free(v.io);
	return code;
}

/* ---- inspect ---- */

struct inspecting {
	unsigned format;
	bool bodies, has_key;
};

static void print_line(json_t *line)
{
	json_dumpf(line, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(line);
}

static int print_frame(void *ctx, const struct log_frame_info *f)
{
	const struct inspecting *in = ctx;
	char segment[20];

	snprintf(segment, sizeof(segment), "%08x-%08x",
		 (unsigned)(f->segment >> 32), (unsigned)f->segment);
	if (in->format) {
		print_line(json_pack(
			"{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "kind",
			"frame", "segment", segment, "offset",
			(json_int_t)f->offset, "lsn", (json_int_t)f->first_lsn,
			"records", (json_int_t)f->record_count, "durable_lsn",
			(json_int_t)f->durable_lsn, "payload",
			(json_int_t)f->payload_len, "stored",
			(json_int_t)f->stored_len, "sound", f->payload_ok));
		return ferror(stdout) ? -EPIPE : 0;
	}
	printf("frame %s:%" PRIu64 "  LSN %" PRIu64 "  %" PRIu32
	       " records  %" PRIu32 " bytes  durable below %" PRIu64,
	       segment, f->offset, f->first_lsn, f->record_count, f->stored_len,
	       f->durable_lsn);
	if (f->epoch_start)
		printf("  begins epoch %u after %u",
		       (unsigned)(f->segment >> 32), f->parent_epoch);
	puts(f->payload_ok ? "" : "  DAMAGED");
	return ferror(stdout) ? -EPIPE : 0;
}

static int print_record(void *ctx, const struct log_record *r)
{
	const struct inspecting *in = ctx;
	json_t *line = journal_record_json(r, in->bodies);
	const char *key;
	json_t *value;

	if (!line)
		return -ENOMEM;
	if (in->format) {
		print_line(line);
		return ferror(stdout) ? -EPIPE : 0;
	}
	printf("  %" PRIu64 "  %-13s", r->lsn,
	       json_string_value(json_object_get(line, "type")));
	json_object_foreach(line, key, value) {
		char *text;

		if (!strcmp(key, "kind") || !strcmp(key, "lsn") ||
		    !strcmp(key, "type"))
			continue;
		text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		printf(" %s=%s", key, text ? text : "");
		free(text);
	}
	putchar('\n');
	json_decref(line);
	return ferror(stdout) ? -EPIPE : 0;
}

static int inspect(const char *command, const char *dir, const char *key_file,
		   struct inspecting *in)
{
	struct crypto_key *key = NULL;
	struct io *io;
	int err, code = world_open(command, &io);

	if (code)
		return code;
	if (key_file) {
		code = world_load_key(command, io, key_file, &key);
		if (code) {
			io_free(io);
			return code;
		}
	}
	err = log_inspect(io, dir, key, print_frame, key ? print_record : NULL,
			  in);
	crypto_key_free(key);
	io_free(io);
	if (err == -EPIPE)
		return COMMAND_OK;
	return err ? world_cannot_look(command, dir, err) : COMMAND_OK;
}

int journal_inspect_run(int argc, char **argv)
{
	struct inspecting in = {0};
	const char *key_file = NULL;
	const struct option table[] = {
		{"key-file", 'k', OPTION_TEXT, &key_file, "FILE",
		 "the master key: list the records too"},
		{"bodies", 0, OPTION_FLAG, &in.bodies, NULL,
		 "print message bodies (needs --key-file)"},
		{"output", 'o', OPTION_CHOICE, &in.format, "text|json",
		 "lines, or one JSON object a line (text)"},
	};
	const struct options options = {
		.command = "holdfast journal inspect",
		.words = "DIR",
		.summary = "List the frames of a journal in file order, and "
			   "with its key their records.",
		.examples = "  holdfast journal inspect data\n"
			    "  holdfast journal inspect data --key-file "
			    "data/development.key -o json\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	int words;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	if (in.bodies && !key_file)
		return options_wrong(&options, "--bodies needs --key-file");
	return inspect(options.command, argv[0], key_file, &in);
}
