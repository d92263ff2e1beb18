/* journal/store/recovery.h: from the files of a claimed log to a state.
 *
 * Loads the newest checkpoint that is whole, falling back to older ones and,
 * when the journal is still there from its first record, to none at all; then
 * replays the journal behind it.  Never falls back silently, and never starts
 * with less than what was acknowledged.
 *
 * Blocking; the thread that owns the store before it is started. */
#ifndef JOURNAL_STORE_RECOVERY_H
#define JOURNAL_STORE_RECOVERY_H

#include "journal/store/checkpoint.h"

#define RECOVERY_TEXT_BYTES 512u

struct recovery {
	const struct checkpoint_place *place;
	struct log *log;     /* claimed */
	struct state *state; /* initialised; the result.  Its index and
				detail_bytes_max stay as they were set */
	/* The checkpoint that was used and the one before it, newest first;
	 * the latter is known by name only. */
	struct checkpoint_file kept[2];
	size_t kept_count;
	char warning[RECOVERY_TEXT_BYTES]; /* "" or what was passed over */
	char why[RECOVERY_TEXT_BYTES];	   /* after a failure */
	/* private */
	struct log_position from;
	const struct checkpoint_file *loaded;
	uint64_t records;
	bool mismatch; /* the journal knows another hash of the file */
};

/* Fill in the first three; zero the rest.  -E_LOST: acknowledged data is
 * missing; -E_VERSION; -E_CORRUPT; -ENOMEM; I/O errors.  why is set. */
MUST_CHECK int recovery_run(struct recovery *);

#endif
