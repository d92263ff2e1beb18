/* tools/queue.c: `holdfast queue …`: queues through the admin API. */
#include <string.h>

#include "tools/command.h"
#include "tools/admin_client.h"
#include "tools/output.h"

#define QUEUES_PATH "/api/v1/queues"

struct queue_command {
	struct http_access access;
	unsigned format, routing;
	const char *address;
};

static const struct output_column columns[] = {
	{"name", "NAME"},
	{"address", "ADDRESS"},
	{"routing", "ROUTING"},
	{"messages", "MESSAGES"},
	{"delivering", "DELIVERING"},
	{"consumers", "CONSUMERS"},
	{"bytes", "BYTES"},
	{"paused", "PAUSED"},
};

/* Words in argv; a result other than GO is turned into *ret_code. */
static bool parse(const struct options *options, int argc, char **argv,
		  int *ret_code)
{
	int words;

	switch (options_parse(options, argc, argv, &words)) {
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

/* The API gives a page at a time; the next begins after the last name. */
static int fetch_all(const struct options *options,
		     const struct queue_command *q, json_t *into)
{
	bool more = true;

	while (more) {
		json_t *last = json_array_get(into, json_array_size(into) - 1);
		const char *after =
			json_string_value(json_object_get(last, "name"));
		json_t *answer = NULL, *page;
		int code;

		code = admin_client_request(
			options->command, &q->access, "GET",
			QUEUES_PATH "?limit=10000&after=", after ? after : "",
			NULL, NULL, &answer);
		if (code)
			return code;
		page = json_object_get(answer, "queues");
		if (!json_is_array(page)) {
			fprintf(stderr,
				"%s: the answer has no list of queues; is %s "
				"Holdfast's admin API?\n",
				options->command, q->access.admin);
			json_decref(answer);
			return COMMAND_FAILED;
		}
		more = json_is_true(json_object_get(answer, "more")) &&
		       json_array_size(page);
		json_array_extend(into, page);
		json_decref(answer);
	}
	return COMMAND_OK;
}

int queue_list_run(int argc, char **argv)
{
	struct queue_command q = {.access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(q.access),
		{"output", 'o', OPTION_CHOICE, &q.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = "holdfast queue list",
		.words = "",
		.summary = "List the queues.",
		.examples = "  holdfast queue list -o json\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	json_t *list;
	int code;

	if (!parse(&options, argc, argv, &code))
		return code;
	list = json_array();
	code = fetch_all(&options, &q, list);
	if (!code)
		output_print(q.format, list, columns, ARRAY_COUNT(columns));
	json_decref(list);
	return code;
}

int queue_show_run(int argc, char **argv)
{
	struct queue_command q = {.access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(q.access),
		{"output", 'o', OPTION_CHOICE, &q.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = "holdfast queue show",
		.words = "QUEUE",
		.summary = "Show everything about one queue.",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	json_t *answer = NULL;
	int code;

	if (!parse(&options, argc, argv, &code))
		return code;
	code = admin_client_request(options.command, &q.access, "GET",
				    QUEUES_PATH, argv[0], NULL, NULL, &answer);
	if (code)
		return code;
	output_print(q.format, answer, NULL, 0);
	json_decref(answer);
	return COMMAND_OK;
}

/* One act on one queue that answers with an object or nothing. */
static int act(const struct options *options, const struct queue_command *q,
	       const char *method, const char *queue, const char *suffix,
	       json_t *body, const char *said)
{
	json_t *answer = NULL, *count;
	int code;

	code = admin_client_request(options->command, &q->access, method,
				    QUEUES_PATH, queue, suffix, body, &answer);
	if (code)
		return code;
	if (q->format != OUTPUT_TABLE && answer) {
		output_print(q->format, answer, NULL, 0);
	} else {
		const char *name = queue ? queue
					 : json_string_value(json_object_get(
						   body, "name"));

		count = json_object_get(answer, "removed");
		if (json_is_integer(count))
			printf("%s: %s (%lld messages)\n", name, said,
			       (long long)json_integer_value(count));
		else
			printf("%s: %s\n", name, said);
	}
	json_decref(answer);
	return COMMAND_OK;
}

struct verb {
	const char *command, *summary, *method, *suffix, *said;
};

static int run_verb(const struct verb *verb, int argc, char **argv)
{
	struct queue_command q = {.access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(q.access),
		{"output", 'o', OPTION_CHOICE, &q.format, OUTPUT_FORMATS,
		 "how to print the answer (table)"},
	};
	const struct options options = {
		.command = verb->command,
		.words = "QUEUE",
		.summary = verb->summary,
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	int code;

	if (!parse(&options, argc, argv, &code))
		return code;
	return act(&options, &q, verb->method, argv[0], verb->suffix, NULL,
		   verb->said);
}

int queue_purge_run(int argc, char **argv)
{
	static const struct verb verb = {
		"holdfast queue purge",
		"Remove every message that is in the queue now, for good.",
		"POST", "/purge", "purged"};

	return run_verb(&verb, argc, argv);
}

int queue_pause_run(int argc, char **argv)
{
	static const struct verb verb = {
		"holdfast queue pause",
		"Deliver nothing from this queue until it is resumed, also "
		"after a restart.  Sending\nto it goes on.",
		"POST", "/pause", "paused"};

	return run_verb(&verb, argc, argv);
}

int queue_resume_run(int argc, char **argv)
{
	static const struct verb verb = {"holdfast queue resume",
					 "Deliver from this queue again.",
					 "POST", "/resume", "resumed"};

	return run_verb(&verb, argc, argv);
}

int queue_delete_run(int argc, char **argv)
{
	static const struct verb verb = {
		"holdfast queue delete",
		"Delete the queue with everything in it.  Its consumers are "
		"detached.",
		"DELETE", "", "deleted"};

	return run_verb(&verb, argc, argv);
}

int queue_create_run(int argc, char **argv)
{
	static const char *const routings[] = {"anycast", "multicast"};
	struct queue_command q = {.access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(q.access),
		{"address", 0, OPTION_TEXT, &q.address, "ADDRESS",
		 "the address that it gets messages from (its name)"},
		{"routing", 0, OPTION_CHOICE, &q.routing, "anycast|multicast",
		 "share an address, or get everything (anycast)"},
		{"output", 'o', OPTION_CHOICE, &q.format, OUTPUT_FORMATS,
		 "how to print the answer (table)"},
	};
	const struct options options = {
		.command = "holdfast queue create",
		.words = "QUEUE",
		.summary = "Create a durable queue.",
		.examples = "  holdfast queue create orders\n"
			    "  holdfast queue create audit --address orders "
			    "--routing multicast\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	json_t *body;
	int code;

	if (!parse(&options, argc, argv, &code))
		return code;
	body = json_pack("{s:s, s:s, s:s}", "name", argv[0], "address",
			 q.address ? q.address : argv[0], "routing",
			 routings[q.routing]);
	if (!body) {
		fprintf(stderr, "%s: \"%s\" is not UTF-8\n", options.command,
			argv[0]);
		return COMMAND_FAILED;
	}
	code = act(&options, &q, "POST", NULL, NULL, body, "created");
	json_decref(body);
	return code;
}
