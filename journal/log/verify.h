/* journal/log/verify.h: look at a log's directory from outside.
 *
 * For the tools.  Nothing is written, no lock is taken; a broker may be at
 * work in the directory meanwhile.  Blocking; [any] thread. */
#ifndef JOURNAL_LOG_VERIFY_H
#define JOURNAL_LOG_VERIFY_H

#include <stdbool.h>

#include "journal/log/log.h"

enum log_finding_kind {
	LOG_FINDING_DAMAGE, /* acknowledged data, or a file that guards it */
	LOG_FINDING_TORN,   /* an unfinished write; harmless */
};

struct log_finding {
	enum log_finding_kind kind;
	const char *file; /* path */
	uint64_t offset;
	uint64_t lsn;	  /* 0: not known */
	const char *what; /* a sentence */
};

struct log_verify_result {
	uint64_t segments, frames, records, bytes; /* of frames */
	uint64_t first_lsn, end_lsn;		   /* of the history */
	uint32_t epochs;			   /* in the history */
	uint64_t damage, torn;			   /* findings */
};

/* Needs no key: CRCs, chain values, LSNs, watermarks, epochs and cuts of
 * every frame; the cluster file, claims and seals.  `from`, when not NULL, is
 * where the newest checkpoint ends: history before it may have been dropped
 * in part.  0 also when there are findings; negative when it could not look
 * (-ENOENT: not a log's directory). */
MUST_CHECK int log_verify(struct io *, const char *dir,
			  const struct log_position *from,
			  void (*found)(void *ctx, const struct log_finding *),
			  void *ctx, struct log_verify_result *ret);

/* The directory's cluster id, 16 bytes.  -ENOENT: not a log's directory;
 * -E_CORRUPT. */
MUST_CHECK int log_identity(struct io *, const char *dir, uint8_t *ret_id);

struct log_frame_info {
	uint64_t segment, offset;
	uint64_t first_lsn, durable_lsn;
	uint32_t record_count;
	uint32_t payload_len, stored_len;
	int epoch_start;
	uint32_t parent_epoch; /* with epoch_start */
	uint8_t prev_chain[LOG_CHAIN_BYTES], chain[LOG_CHAIN_BYTES];
	int payload_ok; /* its CRC is right */
};

/* Every frame in every segment, in file order, whether or not it belongs to
 * the history.  With a master key record() is called for each record of a
 * frame after frame(), with stored bodies; either may be NULL.  Stops at the
 * first non-zero return and returns it.  -E_KEY: not this directory's key;
 * -E_CORRUPT: a frame whose CRC is right does not decrypt. */
MUST_CHECK int
log_inspect(struct io *, const char *dir, const struct crypto_key *master,
	    int (*frame)(void *ctx, const struct log_frame_info *),
	    int (*record)(void *ctx, const struct log_record *), void *ctx);

/* ---- one file, a little at a time: for scrubbing ----
 *
 * Needs no key.  Blocking, but for the bytes of one step only. */

struct log_damage {
	uint64_t offset, bytes;	      /* in the file */
	uint64_t first_lsn, last_lsn; /* 0: not known */
	int err;	   /* -E_CORRUPT, or -EIO: the disk cannot read it */
	bool only_if_live; /* it is damage if something needed lies there, and
			      else perhaps a write that was never finished */
};

struct log_check;
/* A closed segment.  end_is_exact: info->end_lsn is where the records in it
 * end; else it may lie behind that, as segments in between are gone.
 * -ENOENT: it has been dropped. */
MUST_CHECK int log_check_segment(struct io *, const char *dir,
				 const uint8_t *cluster_id,
				 const struct log_segment_info *info,
				 bool end_is_exact, struct log_check **ret);
/* A finished blob; bytes: its size, 0 when not known. */
MUST_CHECK int log_check_blob(struct io *, const char *path, uint64_t bytes,
			      struct log_check **ret);
/* Looks at about `bytes` more and says in *ret_bytes how many it was.  0: go
 * on; 1: that was all; negative: it cannot go on, and that is not the file's
 * fault (-ENOMEM). */
MUST_CHECK int log_check_step(struct log_check *, uint64_t bytes,
			      void (*found)(void *ctx,
					    const struct log_damage *),
			      void *ctx, uint64_t *ret_bytes);
void log_check_free(struct log_check *); /* NULL-safe */

/* Expands a body that log_inspect() or log_recover() delivered; buf has
 * rec->loc.body_len bytes. */
MUST_CHECK int log_record_expand(const struct log_record *rec, void *buf);

#endif
