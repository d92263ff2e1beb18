/* tools/journal_start.h: from where on a data directory's history is owed.
 *
 * Behind a checkpoint segments may be dropped one by one, so an unbroken
 * history is owed only from the newest one on.  Its name tells its LSN, and
 * the frame that begins there is where replay goes on: no key is needed. */
#ifndef TOOLS_JOURNAL_START_H
#define TOOLS_JOURNAL_START_H

#include <stdbool.h>

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

MUST_CHECK int journal_start_find(struct journal_start *, struct io *,
				  const char *dir);

#endif
