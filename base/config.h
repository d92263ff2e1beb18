/* base/config.h: from files, environment and arguments to a struct.
 *
 * A module describes its settings in a table: the key's path, its type, where
 * it lives in a struct, its default and one sentence of help.  From that one
 * table come parsing, defaults, bounds, error messages, --print-config and
 * the answer to "may this change without a restart?".
 *
 * Sources, each overriding those before it: defaults, the file, the
 * *.yaml files in conf.d/ beside it in byte order, PREFIX_SECTION__KEY in the
 * environment, --set section.key=value.  A key is replaced as a whole: lists
 * do not merge.
 *
 * Every secret KEY can be given as KEY_file, a file whose contents (without
 * the newline at the end) are the value.
 *
 * It is read before there is a struct io (which engine to use is a setting),
 * so this module opens its few files itself.  Blocking; [any] thread. */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

enum config_type {
	CONFIG_STRING,	 /* char *; NULL when it has no default */
	CONFIG_BOOL,	 /* bool */
	CONFIG_INT,	 /* uint64_t */
	CONFIG_SIZE,	 /* uint64_t bytes: 64MiB, 4KiB, 10GB, 512 */
	CONFIG_DURATION, /* uint64_t nanoseconds: 30s, 250ms, 5m, 1h, 7d */
	CONFIG_ENUM,	 /* int, from words */
	CONFIG_LIST,	 /* struct config_list */
	CONFIG_MAPS,	 /* struct config_maps of the structs of `each` */
};

struct config_list {
	char **items;
	size_t count;
};

struct config_maps {
	void *items; /* count structs of each->bytes */
	size_t count;
};

struct config_word {
	const char *word; /* NULL ends the array */
	int value;
};

enum config_flag {
	CONFIG_SECRET = 1,     /* never printed; also as KEY_file */
	CONFIG_RELOADABLE = 2, /* takes effect without a restart */
	CONFIG_REQUIRED = 4,   /* in a list of maps */
	CONFIG_NAMES_ITEM = 8, /* in a list of maps: must differ between them */
};

struct config_table;

struct config_key {
	const char *path; /* "journal.segment_size", lower case */
	enum config_type type;
	unsigned flags;
	size_t offset;
	const char *fallback; /* as an operator would write it; NULL: empty */
	uint64_t least, most; /* of numbers; most 0: no bound */
	const struct config_word *words;
	const struct config_table *each;
	/* Looks at a STRING or at each item of a LIST: NULL, or a sentence
	 * that says what is wrong with it (static). */
	const char *(*check)(const char *text);
	const char *help;
};

struct config_table {
	const struct config_key *keys;
	size_t key_count;
	size_t bytes; /* of the struct */
};

struct config_source {
	const char *file;	       /* NULL: none; else it must exist */
	const char *env_prefix;	       /* "HOLDFAST_"; NULL: no environment */
	char *const *env;	       /* "NAME=value" strings, NULL ends */
	const char *const *env_others; /* names with the prefix that belong to
					  others; NULL ends; may be NULL */
	const char *const *sets;       /* "section.key=value" */
	size_t set_count;
};

struct config;

/* Every mistake found, one per line ("holdfast.yaml:12:5: unknown key
 * "lisen" (did you mean "listen"?)"), at most CONFIG_ERRORS_MAX of them. */
#define CONFIG_ERRORS_MAX 20u
struct config_errors {
	char text[8192];
	size_t len;
	unsigned count;
};

/* -E_CONFIG with ret_errors filled, or -ENOMEM.  table, and the strings of
 * source until this returns, are borrowed. */
MUST_CHECK int config_load(const struct config_table *,
			   const struct config_source *, struct config **ret,
			   struct config_errors *ret_errors);
/* Secrets are zeroed.  NULL-safe. */
void config_free(struct config *);
/* The table's struct; belongs to the config. */
const void *config_values(const struct config *);
/* "default", "holdfast.yaml:3:1", "HOLDFAST_LISTEN" or "--set listen". */
const char *config_origin(const struct config *, const char *path);
/* Everything in effect, as YAML with each value's origin as a comment;
 * secrets as "<redacted>". */
void config_print(const struct config *, FILE *);
/* Calls each() for every key whose value differs. */
void config_compare(const struct config *was, const struct config *is,
		    void (*each)(void *ctx, const struct config_key *),
		    void *ctx);
/* Adds a line, for checks that span keys: where is config_origin()'s. */
void config_errors_add(struct config_errors *, const char *where,
		       const char *format, ...) PRINTF_LIKE(3, 4);
/* A number that changes when the file or anything in its conf.d does: size,
 * inode and times.  0 when the file is not there. */
uint64_t config_fingerprint(const char *file);

#endif
