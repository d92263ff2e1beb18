/* broker/daemon/directory.h: the data directory, and the room in it. */
#ifndef BROKER_DAEMON_DIRECTORY_H
#define BROKER_DAEMON_DIRECTORY_H

#include <stdbool.h>

#include "journal/log/log.h"

/* Makes it when it is missing: it and its entry are durable before anything is
 * put into it.  why: a sentence, on failure. */
MUST_CHECK int directory_open(struct io *, const char *dir, char *why,
			      size_t why_len);
/* Logs when publishing begins to be refused for lack of space, and when that
 * ends.  *refusing is what it said last. */
void directory_look(const struct log *, const char *dir, bool *refusing);

#endif
