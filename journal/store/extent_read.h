/* journal/store/extent_read.h: parts of extent files, read on one loop.
 *
 * Keeps a few files open, each with its keys; one that has not been read for
 * some seconds is closed, so that a file that was removed gives its space
 * back.  Everything belongs to the loop. */
#ifndef JOURNAL_STORE_EXTENT_READ_H
#define JOURNAL_STORE_EXTENT_READ_H

#include <stdbool.h>

#include "base/list.h"
#include "base/loop.h"
#include "journal/store/extent.h"

/* Reads in flight at once; the caller keeps to it. */
#define EXTENT_READS_MAX 8u
#define EXTENT_READ_CHUNKS (EXTENT_RUN_BYTES / BLOB_CHUNK_BYTES + 2u)

struct extent_files;
/* Identity and dir are borrowed until extent_files_free(). */
MUST_CHECK int extent_files_create(const struct blob_identity *,
				   const char *dir, struct loop *,
				   struct extent_files **ret);
void extent_files_free(struct extent_files *); /* nothing in flight; or its
						  loop is dead.  NULL-safe */

/* Errors that say nothing about the file: the same may be read later. */
static inline bool extent_read_is_passing(int err)
{
	return err == -ENOMEM || err == -EAGAIN || err == -EMFILE ||
	       err == -ENFILE || err == -EINTR;
}

struct extent_open;

/* Caller-owned; zeroed before its first use. */
struct extent_read {
	/* err: 0, and each chunk has its own error, or there is nothing:
	 * -ENOENT: no such file; -ENOMEM, -EMFILE, -EAGAIN: try again later. */
	void (*done)(struct extent_read *, int err);
	void *ctx; /* for done() */
	/* results */
	uint8_t *plain;	       /* the stream's bytes from chunk `first` on */
	uint32_t first, count; /* chunks */
	/* 0; -E_CORRUPT, -EIO, and -E_KEY, -E_VERSION of the file's header */
	int chunk_err[EXTENT_READ_CHUNKS];
	uint32_t chunk_len[EXTENT_READ_CHUNKS];
	int header_err;	     /* 0, or why no chunk could be opened */
	uint64_t read_bytes; /* from the disk */
	/* private */
	struct list link;
	struct loop_op op;
	struct extent_files *files;
	struct extent_open *open;
	uint8_t *raw;
	uint64_t raw_offset;
	uint32_t raw_first, raw_count; /* chunks */
	size_t raw_len;
	bool one_by_one; /* to see which sectors cannot be read */
	int err;
};

/* Bytes [offset, offset + len) of the file's stream, len at least 1 and at
 * most EXTENT_RUN_BYTES.  What an earlier read has left is freed.  done()
 * follows, never from inside. */
void extent_read_start(struct extent_files *, struct extent_read *,
		       uint64_t key, uint64_t offset, uint32_t len);
/* The bytes at a place that was read; NULL when a chunk has an error:
 * *ret_err, and *ret_chunk (may be NULL) which. */
const uint8_t *extent_read_bytes(const struct extent_read *, uint64_t offset,
				 uint64_t len, int *ret_err,
				 uint32_t *ret_chunk);
void extent_read_fini(struct extent_read *); /* frees the results */

#endif
