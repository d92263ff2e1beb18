/* tools/main.c: the `holdfast` command: finds the command and runs it. */
#include <signal.h>
#include <string.h>

#include "tools/command.h"
#include "tools/options.h"

struct command {
	const char *noun, *verb; /* verb NULL: the noun alone */
	const char *summary;
	int (*run)(int argc, char **argv);
};

static int version_run(int argc, char **argv)
{
	puts("holdfast " HOLDFAST_VERSION);
	return COMMAND_OK;
}

static const struct command commands[] = {
	{"send", NULL, "send messages to an address", send_run},
	{"receive", NULL, "print and acknowledge messages", receive_run},
	{"queue", "list", "list the queues", queue_list_run},
	{"queue", "show", "everything about one queue", queue_show_run},
	{"queue", "create", "create a durable queue", queue_create_run},
	{"queue", "delete", "delete a queue and its messages",
	 queue_delete_run},
	{"queue", "purge", "remove a queue's messages", queue_purge_run},
	{"queue", "pause", "stop delivering from a queue", queue_pause_run},
	{"queue", "resume", "deliver from a queue again", queue_resume_run},
	{"cluster", "status", "who leads, and how far the standbys are",
	 cluster_status_run},
	{"cluster", "step-down", "let another broker lead",
	 cluster_step_down_run},
	{"journal", "verify", "check a data directory without its key",
	 journal_verify_run},
	{"journal", "inspect", "list a journal's frames and records",
	 journal_inspect_run},
	{"journal", "salvage", "copy what is intact to a new directory",
	 journal_salvage_run},
	{"store", "stat", "what is queued, and what disk it takes",
	 store_stat_run},
	{"store", "verify", "check everything in a data directory",
	 store_verify_run},
	{"store", "rebuild-index", "recover with a new index, broker stopped",
	 store_rebuild_index_run},
	{"user", "hash", "hash a password for holdfast.yaml", user_hash_run},
	{"bench", "amqp", "measure a broker and check what it delivers",
	 bench_amqp_run},
	{"doctor", NULL, "is this machine fit for a broker, and how fast",
	 doctor_run},
	{"version", NULL, "print the version", version_run},
};

static void print_help(FILE *to, const char *noun)
{
	char left[40];

	fprintf(to, "Usage: holdfast %s%s [options]\n\n",
		noun ? noun : "COMMAND", noun ? " VERB" : "");
	if (!noun)
		fputs("Everything that an operator or a script does with a "
		      "Holdfast broker.\n\n",
		      to);
	for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
		const struct command *c = &commands[i];

		if (noun && strcmp(noun, c->noun) != 0)
			continue;
		snprintf(left, sizeof(left), "%s%s%s", c->noun,
			 c->verb ? " " : "", c->verb ? c->verb : "");
		fprintf(to, "  %-20s %s\n", left, c->summary);
	}
	fputs("\nEach has --help.  Exit codes: 0 done, 1 failed, 2 called "
	      "wrongly.\n",
	      to);
	if (!noun)
		fputs("\nTry it:\n"
		      "  holdfastd --data-dir ./data &\n"
		      "  holdfast send orders 'hello'\n"
		      "  holdfast receive orders\n",
		      to);
}

static bool is_noun(const char *word)
{
	for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
		if (!strcmp(commands[i].noun, word))
			return true;
	}
	return false;
}

static int wrong_verb(const char *noun, const char *verb)
{
	const char *names[ARRAY_COUNT(commands)], *near;
	unsigned count = 0;

	for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
		if (!noun)
			names[count++] = commands[i].noun;
		else if (!strcmp(commands[i].noun, noun) && commands[i].verb)
			names[count++] = commands[i].verb;
	}
	near = options_nearest(verb, names, count);
	fprintf(stderr, "holdfast: there is no command \"%s%s%s\"",
		noun ? noun : "", noun ? " " : "", verb);
	if (near)
		fprintf(stderr, " (did you mean \"%s%s%s\"?)", noun ? noun : "",
			noun ? " " : "", near);
	fprintf(stderr, "\nTry: holdfast %s%s--help\n", noun ? noun : "",
		noun ? " " : "");
	return COMMAND_USAGE;
}

static bool wants_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h") ||
	       !strcmp(word, "help");
}

int main(int argc, char **argv)
{
	const char *noun = argc > 1 ? argv[1] : NULL;
	const char *verb = argc > 2 ? argv[2] : NULL;

	signal(SIGPIPE, SIG_IGN);
	if (!noun) {
		print_help(stderr, NULL);
		return COMMAND_USAGE;
	}
	if (!strcmp(noun, "--version"))
		noun = "version";
	if (wants_help(noun)) {
		print_help(stdout, verb && is_noun(verb) ? verb : NULL);
		return COMMAND_OK;
	}
	if (!is_noun(noun))
		return wrong_verb(NULL, noun);
	for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
		const struct command *c = &commands[i];

		if (strcmp(c->noun, noun) != 0)
			continue;
		if (!c->verb)
			return c->run(argc - 2, argv + 2);
		if (verb && !strcmp(c->verb, verb))
			return c->run(argc - 3, argv + 3);
	}
	if (!verb) {
		print_help(stderr, noun);
		return COMMAND_USAGE;
	}
	if (wants_help(verb)) {
		print_help(stdout, noun);
		return COMMAND_OK;
	}
	return wrong_verb(noun, verb);
}
