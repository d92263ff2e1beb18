/* journal/store/checkpoint.h: a state written down, and read back.
 *
 * A checkpoint is a write-once blob (journal/log/blob.h) in the log's
 * checkpoints/ directory that holds everything the records below its LSN add
 * up to, and the position at which replay goes on.  It is written under a
 * temporary name and renamed when it is durable, so that a file with a
 * checkpoint's name was once whole: if it is not now, it is damaged, not torn.
 * Format: docs/format/checkpoint.md.
 *
 * Blocking; one thread per call.  Errors: 0 or a negative code. */
#ifndef JOURNAL_STORE_CHECKPOINT_H
#define JOURNAL_STORE_CHECKPOINT_H

#include "journal/log/blob.h"
#include "journal/store/state.h"

#define CHECKPOINT_DIR "checkpoints"
#define CHECKPOINT_PATH_MAX 4096u
#define CHECKPOINT_NAME_BYTES 31u /* 8 + '-' + 16 + ".ckpt" + zero */

/* One file, as its name tells. */
struct checkpoint_file {
	uint32_t epoch;
	uint64_t lsn;
	char name[CHECKPOINT_NAME_BYTES];
};

/* The directory's path and what seals the files; strings are borrowed. */
struct checkpoint_place {
	struct blob_identity identity;
	const char *dir; /* the log's; files are in CHECKPOINT_DIR below */
};

/* Writes, syncs and renames; file->epoch and position->lsn make the name.
 * One (epoch, lsn) is written at most once.  After -ENOSPC nothing is left
 * behind and a later try may succeed; any other failure is final.  The state
 * does not change; when its index cannot give back a detail, its why is set.
 * States that have seen the same records write the same plaintext. */
MUST_CHECK int checkpoint_write(const struct checkpoint_place *, struct state *,
				const struct log_position *, uint32_t epoch,
				struct checkpoint_file *ret,
				uint8_t ret_hash[CRYPTO_HASH_BYTES],
				uint64_t *ret_bytes);
/* Into an initialised, empty state, which is void after a failure.
 * -E_CORRUPT, -E_KEY, -E_VERSION, -ENOENT and I/O errors. */
MUST_CHECK int checkpoint_read(const struct checkpoint_place *,
			       const char *name, struct state *,
			       struct log_position *ret);
/* Check a file against its hash, without reading the state. */
MUST_CHECK int checkpoint_verify(const struct checkpoint_place *,
				 const char *name,
				 const uint8_t hash[CRYPTO_HASH_BYTES]);

/* -EINVAL when it is not a checkpoint's name. */
MUST_CHECK int checkpoint_parse(const char *name, struct checkpoint_file *ret);
/* The newest checkpoints, newest first, at most `max` of them. */
MUST_CHECK int checkpoint_list(const struct checkpoint_place *,
			       struct checkpoint_file *ret, size_t max,
			       size_t *ret_count);
/* Remove every checkpoint and temporary file up to our epoch but the ones
 * named; syncs the directory.  The caller has just checked the claim: should
 * it be lost meanwhile, the files of later epochs are its new owner's. */
MUST_CHECK int checkpoint_remove_others(const struct checkpoint_place *,
					uint32_t epoch,
					const struct checkpoint_file *keep,
					size_t keep_count);

#endif
