/* broker/daemon/options.h: holdfastd's arguments.  Text for users is in
 * options.c and in holdfastd(8). */
#ifndef BROKER_DAEMON_OPTIONS_H
#define BROKER_DAEMON_OPTIONS_H

#include <stdbool.h>

#include "base/base.h"

#define OPTIONS_SETS_MAX 128u

enum options_action {
	OPTIONS_RUN,
	OPTIONS_CHECK,
	OPTIONS_PRINT,
	OPTIONS_DONE,  /* --help or --version: exit 0 */
	OPTIONS_WRONG, /* an error was printed: exit 2 */
};

struct options {
	const char *config_file;	    /* NULL: none */
	const char *sets[OPTIONS_SETS_MAX]; /* section.key=value */
	size_t set_count;
	/* storage of sets made from other arguments */
	char *made[OPTIONS_SETS_MAX];
	size_t made_count;
};

/* The result lives until options_fini(), which also follows a failure. */
enum options_action options_parse(int argc, char **argv, struct options *ret);
void options_fini(struct options *);

#endif
