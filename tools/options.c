/* tools/options.c: see options.h. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "tools/options.h"

#define NEAREST_WORD_MAX 40u

static unsigned distance(const char *a, const char *b)
{
	unsigned row[NEAREST_WORD_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > NEAREST_WORD_MAX || b_len > NEAREST_WORD_MAX)
		return NEAREST_WORD_MAX;
	for (size_t j = 0; j <= b_len; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_len];
}

const char *options_nearest(const char *word, const char *const *candidates,
			    unsigned count)
{
	const char *best = NULL;
	unsigned least = 3;

	for (unsigned i = 0; i < count; i++) {
		unsigned d = distance(word, candidates[i]);

		if (d < least && d < strlen(candidates[i])) {
			least = d;
			best = candidates[i];
		}
	}
	return best;
}

int options_wrong(const struct options *o, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", o->command);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nTry: %s --help\n", o->command);
	return 2;
}

static void print_left(const struct option *option)
{
	char left[48];

	if (option->letter)
		snprintf(left, sizeof(left), "-%c, --%s %s", option->letter,
			 option->name, option->value ? option->value : "");
	else
		snprintf(left, sizeof(left), "    --%s %s", option->name,
			 option->value ? option->value : "");
	if (strlen(left) <= 28)
		printf("  %-28s %s\n", left, option->help);
	else
		printf("  %s\n  %-28s %s\n", left, "", option->help);
}

static void print_help(const struct options *o)
{
	printf("Usage: %s%s%s%s\n\n%s\n", o->command,
	       o->count ? " [options]" : "", o->words[0] ? " " : "", o->words,
	       o->summary);
	printf("\nOptions:\n");
	for (unsigned i = 0; i < o->count; i++)
		print_left(&o->table[i]);
	printf("  %-28s %s\n", "-h, --help", "this text");
	if (o->examples)
		printf("\nExamples:\n%s", o->examples);
}

struct unit {
	const char *name;
	uint64_t factor;
};

static int parse_scaled(const char *text, const struct unit *units,
			unsigned unit_count, uint64_t *ret)
{
	char *end;
	unsigned long long n;

	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	for (unsigned i = 0; i < unit_count; i++) {
		uint64_t scaled;

		if (strcmp(end, units[i].name) != 0)
			continue;
		if (__builtin_mul_overflow(n, units[i].factor, &scaled))
			return -EINVAL;
		*ret = scaled;
		return 0;
	}
	return -EINVAL;
}

int options_parse_bytes(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {
		{"", 1},	   {"B", 1},
		{"K", 1024},	   {"KiB", 1024},
		{"M", 1048576},	   {"MiB", 1048576},
		{"G", 1073741824}, {"GiB", 1073741824},
		{"KB", 1000},	   {"kB", 1000},
		{"MB", 1000000},   {"GB", 1000000000},
	};

	return parse_scaled(text, units, ARRAY_COUNT(units), ret);
}

int options_parse_duration(const char *text, uint64_t *ret_ns)
{
	static const struct unit units[] = {
		{"", 1000000000},      {"s", 1000000000},  {"ms", 1000000},
		{"us", 1000},	       {"m", 60000000000}, {"h", 3600000000000},
		{"d", 86400000000000},
	};

	return parse_scaled(text, units, ARRAY_COUNT(units), ret_ns);
}

static int parse_choice(const char *choices, const char *text, unsigned *ret)
{
	unsigned index = 0;

	for (const char *at = choices;; index++) {
		size_t len = strcspn(at, "|");

		if (strlen(text) == len && memcmp(at, text, len) == 0) {
			*ret = index;
			return 0;
		}
		if (!at[len])
			return -EINVAL;
		at += len + 1;
	}
}

/* 0, or -EINVAL with the sentence printed. */
static int take(const struct options *o, const struct option *option,
		const char *text)
{
	struct option_list *list;

	switch (option->kind) {
	case OPTION_FLAG:
		*(bool *)option->into = true;
		return 0;
	case OPTION_TEXT:
		*(const char **)option->into = text;
		return 0;
	case OPTION_LIST:
		list = option->into;
		if (list->count == OPTION_LIST_MAX) {
			options_wrong(o, "more than %u --%s", OPTION_LIST_MAX,
				      option->name);
			return -EINVAL;
		}
		list->items[list->count++] = text;
		return 0;
	case OPTION_NUMBER:
		if (parse_scaled(text, &(struct unit){"", 1}, 1,
				 option->into) == 0)
			return 0;
		options_wrong(o, "--%s wants a whole number, not \"%s\"",
			      option->name, text);
		return -EINVAL;
	case OPTION_BYTES:
		if (options_parse_bytes(text, option->into) == 0)
			return 0;
		options_wrong(o,
			      "--%s wants a size such as 1024, 64KiB or "
			      "200MiB, not \"%s\"",
			      option->name, text);
		return -EINVAL;
	case OPTION_DURATION:
		if (options_parse_duration(text, option->into) == 0)
			return 0;
		options_wrong(o,
			      "--%s wants a time such as 250ms, 5s or 2m, "
			      "not \"%s\"",
			      option->name, text);
		return -EINVAL;
	case OPTION_CHOICE:
		if (parse_choice(option->value, text, option->into) == 0)
			return 0;
		options_wrong(o, "--%s wants one of %s, not \"%s\"",
			      option->name, option->value, text);
		return -EINVAL;
	}
	return -EINVAL;
}

static const struct option *find_long(const struct options *o, const char *name,
				      size_t len)
{
	for (unsigned i = 0; i < o->count; i++) {
		const char *known = o->table[i].name;

		if (strlen(known) == len && memcmp(known, name, len) == 0)
			return &o->table[i];
	}
	return NULL;
}

static const struct option *find_short(const struct options *o, char letter)
{
	for (unsigned i = 0; i < o->count; i++) {
		if (o->table[i].letter == letter)
			return &o->table[i];
	}
	return NULL;
}

static void unknown(const struct options *o, const char *argument)
{
	const char *names[64], *near;
	unsigned count = 0;
	char word[64];

	for (; count < o->count && count < ARRAY_COUNT(names); count++)
		names[count] = o->table[count].name;
	snprintf(word, sizeof(word), "%.*s", (int)strcspn(argument, "=") - 2,
		 argument + 2);
	near = argument[1] == '-' ? options_nearest(word, names, count) : NULL;
	if (near)
		options_wrong(o, "unknown option %s (did you mean --%s?)",
			      argument, near);
	else
		options_wrong(o, "unknown option %s", argument);
}

/* Handle the option at argv[*at]; moves *at over its value. */
static enum options_result parse_one(const struct options *o, int argc,
				     char **argv, int *at)
{
	const char *argument = argv[*at], *value = NULL;
	const struct option *option;

	if (!strcmp(argument, "--help") || !strcmp(argument, "-h")) {
		print_help(o);
		return OPTIONS_HELP;
	}
	if (argument[1] == '-') {
		size_t len = strcspn(argument + 2, "=");

		option = find_long(o, argument + 2, len);
		if (argument[2 + len] == '=')
			value = argument + 2 + len + 1;
	} else {
		option = find_short(o, argument[1]);
		if (argument[2])
			value = argument + 2;
	}
	if (!option) {
		unknown(o, argument);
		return OPTIONS_BAD;
	}
	if (option->kind == OPTION_FLAG) {
		if (value) {
			options_wrong(o, "--%s takes no value", option->name);
			return OPTIONS_BAD;
		}
	} else if (!value) {
		if (*at + 1 == argc) {
			options_wrong(o, "--%s wants a value: %s", option->name,
				      option->value);
			return OPTIONS_BAD;
		}
		value = argv[++*at];
	}
	return take(o, option, value) ? OPTIONS_BAD : OPTIONS_GO;
}

enum options_result options_parse(const struct options *o, int argc,
				  char **argv, int *ret_words)
{
	int words = 0;
	bool only_words = false;

	for (int at = 0; at < argc; at++) {
		enum options_result result;

		if (only_words || argv[at][0] != '-' || !argv[at][1]) {
			argv[words++] = argv[at];
			continue;
		}
		if (!strcmp(argv[at], "--")) {
			only_words = true;
			continue;
		}
		result = parse_one(o, argc, argv, &at);
		if (result != OPTIONS_GO)
			return result;
	}
	if ((unsigned)words < o->words_min) {
		options_wrong(o, "something is missing: %s %s", o->command,
			      o->words);
		return OPTIONS_BAD;
	}
	if ((unsigned)words > o->words_max) {
		options_wrong(o, "unexpected \"%s\"", argv[o->words_max]);
		return OPTIONS_BAD;
	}
	*ret_words = words;
	return OPTIONS_GO;
}
