/* journal/store/extent.h: messages that stay, in files of their own.
 *
 * An extent file is a blob (journal/log/blob.h) of kind EXTENTS whose stream
 * is a sequence of *runs* and *pieces*.  A run holds messages of one lane by
 * rising number: up to about 1 MiB that is read in one go.  Every run begins
 * with an index, so that one message is found without reading the others, and
 * says whose it is, so that a file can be understood without the journal.
 * Bodies are copied as they were stored, compressed or not.
 * Format: docs/format/extent.md.
 *
 * Written once, on one thread; read by anyone, any number of times. */
#ifndef JOURNAL_STORE_EXTENT_H
#define JOURNAL_STORE_EXTENT_H

#include <stdbool.h>

#include "journal/log/blob.h"
#include "journal/store/record.h"

#define EXTENT_DIR "extents"
#define EXTENT_KIND "EXTENTS"
#define EXTENT_RUN_BYTES (1024u * 1024u) /* no run is larger */
#define EXTENT_SPAN_MAX 131072u /* numbers from a run's first to its last */
#define EXTENT_NAME_BYTES 22u	/* 8 + '-' + 8 + ".ext" + zero */

/* Files by key, as log_segment_key(), with the top bit set for extents. */
#define STORE_EXTENT_BIT (1ull << 63)

static inline uint64_t store_file_key(uint32_t epoch, uint32_t number)
{
	return STORE_EXTENT_BIT | (uint64_t)epoch << 32 | number;
}

static inline bool store_is_extent(uint64_t key)
{
	return key & STORE_EXTENT_BIT;
}

/* "<dir>/extents/<epoch>-<number>.ext".  -ENAMETOOLONG */
MUST_CHECK int extent_path(const char *dir, uint64_t key, char *ret,
			   size_t room);
/* Just the name, as it appears in messages for people. */
void extent_name(uint64_t key, char ret[EXTENT_NAME_BYTES]);
/* -EINVAL: not such a name. */
MUST_CHECK int extent_parse_name(const char *name, uint64_t *ret_key);

/* One message as it lies in a run. */
struct extent_message {
	uint64_t ref;
	struct record_props props;
	uint32_t deliveries;
	uint32_t extra_len;
	const void *extra;	     /* borrowed */
	struct record_origin origin; /* strings borrowed */
	uint32_t body_len;	     /* when expanded */
	uint32_t stored_len;
	const void
		*stored; /* borrowed; NULL when only the rest was asked for */
};

/* ---- writing ---- */

struct extent_writer;
/* The file must not exist; the directory must. */
MUST_CHECK int extent_writer_create(const struct blob_identity *,
				    const char *dir, uint64_t key,
				    struct extent_writer **ret);
/* Messages of one lane come in rising order without another lane's between
 * them; a run ends when it is full, when the lane changes, and by
 * extent_end_run().  Copies.  -E_LIMIT: as many runs or pieces are in the file
 * as one record can name, or 4 GiB: finish, and go on in another; -EINVAL:
 * larger than any message.  Other errors are final: only abandon is left. */
MUST_CHECK int extent_add(struct extent_writer *, uint64_t queue,
			  const struct extent_message *);
MUST_CHECK int extent_end_run(struct extent_writer *);
/* A piece of an upload; ends the run. */
MUST_CHECK int extent_add_piece(struct extent_writer *, uint64_t upload,
				uint32_t index, const void *stored,
				uint32_t stored_len, uint32_t body_len);
/* So far, with what is not in a run yet. */
uint64_t extent_bytes(const struct extent_writer *);
uint32_t extent_run_count(const struct extent_writer *);
uint32_t extent_piece_count(const struct extent_writer *);
/* Everything durable, file and directory.  ret->runs and pieces belong to
 * the caller, who frees both; also on failure the writer is gone, and a file
 * that nobody knows may be left. */
MUST_CHECK int extent_finish(struct extent_writer *,
			     struct record_extents *ret);
void extent_free_record(struct record_extents *); /* runs and pieces */
void extent_abandon(struct extent_writer *); /* removes the file; NULL-safe */

/* ---- reading: from bytes of the stream ----
 *
 * Pure.  A run's stream bytes are [offset, offset + bytes). */

#define EXTENT_HEAD_BYTES 32u /* of a run: enough to know its index's size */

struct extent_head {
	uint64_t queue, first; /* ref */
	uint32_t count, index_bytes;
	uint32_t bytes; /* of the whole run */
};
MUST_CHECK int extent_read_head(const void *data, size_t len,
				struct extent_head *ret);
/* Calls each for every message: its number − first's, and where its bytes
 * are, from the run's beginning.  index: index_bytes behind the head.
 * -E_CORRUPT when it contradicts itself; stops at the first non-zero. */
MUST_CHECK int extent_read_index(const struct extent_head *, const void *index,
				 int (*each)(void *ctx, uint32_t at,
					     uint32_t offset, uint32_t bytes),
				 void *ctx);
/* One message's bytes.  The ref is head's first + at. */
MUST_CHECK int extent_read_message(const struct extent_head *, uint32_t at,
				   const void *data, size_t len,
				   struct extent_message *ret);

/* ---- reading a file from end to end: scrubbing and salvage ----
 *
 * Blocking.  Runs and pieces in the order of the file, as the file itself
 * tells.  Damage is left out, and the reading goes on behind it: what is told
 * is right.  -E_CORRUPT: not everything could be told; other errors of the
 * file's header are as with blob_open(); stops at the first non-zero that a
 * visit returns, and returns it. */
struct extent_visit {
	int (*message)(void *ctx, uint64_t queue,
		       const struct extent_message *);
	int (*piece)(void *ctx, uint64_t upload, uint32_t index,
		     uint32_t body_len, const void *stored,
		     uint32_t stored_len);
	void *ctx;
};
MUST_CHECK int extent_each(const struct blob_identity *, const char *path,
			   const struct extent_visit *);

#endif
