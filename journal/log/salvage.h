/* journal/log/salvage.h: what can be read of a damaged log.
 *
 * For the tools, while no broker is at work.  Nothing is written.  What is
 * told is authentic and belongs to the one history; what is missing in it is
 * told as well.  Blocking; one thread. */
#ifndef JOURNAL_LOG_SALVAGE_H
#define JOURNAL_LOG_SALVAGE_H

#include "journal/log/log.h"

struct log_salvage;

/* -E_KEY: not this directory's key.  -ENOENT: no log's directory.  Works
 * without the cluster file when a segment tells what is in it. */
MUST_CHECK int log_salvage_open(struct io *, const char *dir,
				const struct crypto_key *master,
				struct log_salvage **ret);
void log_salvage_close(struct log_salvage *);			/* NULL-safe */
const uint8_t *log_salvage_cluster(const struct log_salvage *); /* 16 bytes */

/* Records of the history that cannot be had. */
struct log_lost {
	uint64_t first_lsn, last_lsn;
	uint64_t segment; /* 0: not known */
	uint64_t offset;  /* in it */
	int err;	  /* -E_CORRUPT, -EIO, -E_KEY; -ENOENT: it is gone */
};

struct log_salvage_visit {
	int (*record)(void *ctx, const struct log_record *);
	int (*lost)(void *ctx, const struct log_lost *);
	void *ctx;
};
/* Everything from there on (NULL: from the first there ever was), in order of
 * LSN; every LSN up to the last that is known to have been acknowledged is
 * told or lost.  Stops at the first non-zero of a visit and returns it. */
MUST_CHECK int log_salvage_walk(struct log_salvage *,
				const struct log_position *from,
				const struct log_salvage_visit *);
/* The body as it is stored, loc->stored_len bytes: needs only its own parts of
 * the frame.  -E_CORRUPT, -EIO, -E_KEY, -ENOENT. */
MUST_CHECK int log_salvage_body(struct log_salvage *, const struct log_loc *,
				void *buf);

#endif
