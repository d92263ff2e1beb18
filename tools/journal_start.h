/* tools/journal_start.h: from where on a data directory's history is owed.
 *
 * Behind a checkpoint segments may be dropped one by one, so an unbroken
 * history is owed only from the newest one on.  Its name tells its LSN, and
 * the frame that begins there is where replay goes on: no key is needed. */
#ifndef TOOLS_JOURNAL_START_H
#define TOOLS_JOURNAL_START_H

#include <stdbool.h>

#include "journal/log/verify.h"
#include "journal/store/checkpoint.h"

#define JOURNAL_START_FILES_MAX 16u

struct journal_start {
	struct checkpoint_file files[JOURNAL_START_FILES_MAX];
	size_t file_count; /* checkpoints, newest first */
	bool found;	   /* else from the first record that there is */
	struct log_position position; /* for log_verify() */
	/* private */
	struct log_position positions[JOURNAL_START_FILES_MAX];
};

/* log_verify() from there on, beside a broker that goes on: when checkpoints
 * were written and segments dropped while it looked, what it missed is no
 * damage, and it begins again after again(ctx), with which the caller forgets
 * what it has been told. */
MUST_CHECK int
journal_start_verify(struct journal_start *, struct io *, const char *dir,
		     void (*found)(void *ctx, const struct log_finding *),
		     void (*again)(void *ctx), void *ctx,
		     struct log_verify_result *ret);
/* Newest first; none is no error. */
MUST_CHECK int journal_start_list(struct io *, const char *dir,
				  struct checkpoint_file *ret, size_t max,
				  size_t *ret_count);

#endif
