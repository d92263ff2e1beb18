/* journal/store/recovery.h: from the files of a log to a state.
 *
 * Loads the newest checkpoint that is whole, falling back to older ones and,
 * when the journal is still there from its first record, to none at all; then
 * replays the journal behind it.  Never falls back silently, and never starts
 * with less than what was acknowledged.
 *
 * Before the log is claimed the state can follow another process that writes
 * it; recovery then goes on from there and replays only what is left.
 *
 * Blocking; the thread that owns the store before it is started. */
#ifndef JOURNAL_STORE_RECOVERY_H
#define JOURNAL_STORE_RECOVERY_H

#include "journal/store/checkpoint.h"

#define RECOVERY_TEXT_BYTES 512u

struct recovery {
	const struct checkpoint_place *place;
	struct log *log;     /* claimed, for recovery_run() */
	struct state *state; /* initialised; the result.  Its index and
				detail_bytes_max stay as they were set */
	/* The checkpoint that was used and the one before it, newest first;
	 * the latter is known by name only. */
	struct checkpoint_file kept[2];
	size_t kept_count;
	char warning[RECOVERY_TEXT_BYTES]; /* "" or what was passed over */
	char why[RECOVERY_TEXT_BYTES];	   /* after a failure */
	uint64_t resets; /* times that following began again */
	/* private */
	struct log_position from;
	const struct checkpoint_file *loaded;
	struct checkpoint_file followed; /* what loaded is while following */
	struct log_tail *tail;		 /* not NULL: following */
	uint64_t passed_lsn; /* of the newest file that was passed over */
	bool claimed;	     /* recovery_run() has been called */
	uint64_t records;
	bool mismatch; /* the journal knows another hash of the file */
};

/* Fill in the first three; zero the rest.  Takes in about bytes_max more of
 * what the log's writer has acknowledged; the first time, and again when it
 * was left behind, from the newest checkpoint.  *ret_more: there may be more
 * already.  After an error why is set, and the next call begins again. */
MUST_CHECK int recovery_follow(struct recovery *, uint64_t bytes_max,
			       bool *ret_more);
/* What is taken in ends here, and what has been seen of the log here. */
uint64_t recovery_followed_lsn(const struct recovery *);
uint64_t recovery_seen_lsn(const struct recovery *);
/* Follow no more; the state stays as it is. */
void recovery_unfollow(struct recovery *);

/* After recovery_follow(), or as that.  -E_LOST: acknowledged data is
 * missing; -E_VERSION; -E_CORRUPT; -ENOMEM; I/O errors.  why is set. */
MUST_CHECK int recovery_run(struct recovery *);

#endif
