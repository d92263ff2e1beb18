/* tools/options.h: a table of options, parsed and explained from one place.
 *
 * Takes --name value, --name=value, -n value, -nvalue; options and words may
 * be mixed; "--" ends the options.  --help and -h are always there. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>

#include "base/base.h"

enum option_kind {
	OPTION_FLAG,	 /* into: bool, set to true */
	OPTION_TEXT,	 /* into: const char *, points into argv */
	OPTION_LIST,	 /* into: struct option_list */
	OPTION_NUMBER,	 /* into: uint64_t */
	OPTION_BYTES,	 /* into: uint64_t; "64KiB", "1MB" */
	OPTION_DURATION, /* into: uint64_t nanoseconds; "250ms", "5s", "2m" */
	OPTION_CHOICE,	 /* into: unsigned, the index in value "a|b|c" */
};

#define OPTION_LIST_MAX 64u
struct option_list {
	const char *items[OPTION_LIST_MAX];
	unsigned count;
};

struct option {
	const char *name; /* without the dashes */
	char letter;	  /* or 0 */
	enum option_kind kind;
	void *into;
	const char *value; /* what the help calls it; choices: "a|b|c" */
	const char *help;  /* one line; says the default */
};

struct options {
	const char *command;  /* "holdfast send" */
	const char *words;    /* "ADDRESS [BODY...]" */
	const char *summary;  /* a sentence or a short paragraph */
	const char *examples; /* indented lines; may be NULL */
	const struct option *table;
	unsigned count;
	unsigned words_min, words_max;
};

enum options_result {
	OPTIONS_GO,
	OPTIONS_HELP, /* help was printed on stdout: exit 0 */
	OPTIONS_BAD,  /* an error was printed on stderr: exit 2 */
};

/* Parses argv[0..argc) in place; the words that are left are argv[0..
 * *ret_words).  Targets keep their value when the option is absent. */
MUST_CHECK enum options_result options_parse(const struct options *, int argc,
					     char **argv, int *ret_words);
/* "holdfast send: sentence", a newline, and where to read more; returns the
 * exit code of a usage error. */
int options_wrong(const struct options *, const char *format, ...)
	PRINTF_LIKE(2, 3);
/* 0 or -EINVAL. */
MUST_CHECK int options_parse_bytes(const char *text, uint64_t *ret);
MUST_CHECK int options_parse_duration(const char *text, uint64_t *ret_ns);
/* The candidate most like word, or NULL when none is near. */
const char *options_nearest(const char *word, const char *const *candidates,
			    unsigned count);

#endif
