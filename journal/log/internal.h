/* journal/log/internal.h: what the files of the log share; private to it.
 *
 *   log.c      life, options, the latch
 *   claim.c    cluster file, leader.lock, epochs, seals, the claim check
 *   frame.c    frame header and payload: pure functions
 *   segment.c  segment files, and the registry of those that exist
 *   prepare.c  makes the next segment on a thread of its own
 *   writer.c   group commit
 *   rotate.c   from one segment to the next
 *   build.c    frames out of appends
 *   notes.c    telling of a commit
 *   walk.c     finds the one history in a directory, without a key
 *   opener.c   frames, decrypted one after the other
 *   recover.c  walk + decryption
 *   tail.c     what another process appends, as it does
 *   reader.c   bodies, read back on any loop
 *   verify.c   for the tools
 *   check.c    one file, a little at a time: for scrubbing
 *   salvage.c  what can be read of a damaged log
 *   blob.c     write-once files beside the log
 *
 * Byte tables: docs/format/journal.md. */
#ifndef JOURNAL_LOG_INTERNAL_H
#define JOURNAL_LOG_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/compress.h"
#include "base/list.h"
#include "journal/log/log.h"
#include "journal/log/mutant.h"

#define LOG_ID_BYTES 16u
#define LOG_PATH_BYTES 1024u
#define LOG_WHY_BYTES 512u

/* ---- frame.c ---- */

#define LOG_FRAME_HEADER_BYTES 512u
#define LOG_FRAME_BYTES_MAX (1024u * 1024u) /* on disk, header included */
#define LOG_CHUNK_BYTES (64u * 1024u)
#define LOG_CHUNK_COUNT_MAX 16u
#define LOG_RECORD_HEADER_BYTES 12u
#define LOG_FRAME_AAD_BYTES 132u
#define LOG_IN_FLIGHT_MAX 4u

enum log_frame_flag { LOG_FRAME_EPOCH_START = 1 };
enum log_record_flag { LOG_RECORD_COMPRESSED = 1 };
enum log_nonce_role { LOG_NONCE_FRAME = 1, LOG_NONCE_BLOB = 2 };

struct log_frame {
	uint8_t cluster_id[LOG_ID_BYTES];
	uint8_t key_id[CRYPTO_KEY_ID_BYTES]; /* of the data key */
	uint64_t segment, offset;
	uint64_t first_lsn;
	uint64_t durable_lsn; /* records below it were acknowledged */
	uint32_t record_count;
	uint32_t payload_len, stored_len;
	uint32_t parent_epoch; /* with LOG_FRAME_EPOCH_START */
	uint16_t flags;
	uint8_t prev_chain[LOG_CHAIN_BYTES];
	uint8_t chain[LOG_CHAIN_BYTES];
};

/* Encrypts plain (f->payload_len bytes) and completes the frame in out
 * (f->stored_len bytes); sets f->chain. */
MUST_CHECK int log_frame_seal(struct crypto_aead *, struct log_frame *f,
			      const uint8_t *plain, uint8_t *out);
/* Checks the 512 bytes by themselves: bounds, CRC, chain value.  -E_CORRUPT,
 * or -E_VERSION for a frame of a newer program. */
MUST_CHECK int log_frame_decode(const uint8_t *raw, struct log_frame *ret);
/* CRC of the stored payload, which follows the header in raw. */
MUST_CHECK int log_frame_check_payload(const uint8_t *raw,
				       const struct log_frame *);
/* Decrypts chunk `index`; in is its ciphertext, out its plaintext. */
MUST_CHECK int log_frame_open_chunk(struct crypto_aead *, const uint8_t *raw,
				    const struct log_frame *, uint32_t index,
				    const uint8_t *in, uint8_t *out);
uint32_t log_frame_chunk_len(const struct log_frame *, uint32_t index);
/* Calls each() for every record of a decrypted payload but padding; the
 * structure of the whole is checked first. */
MUST_CHECK int
log_frame_each_record(const struct log_frame *, const uint8_t *plain,
		      int (*each)(void *ctx, const struct log_record *),
		      void *ctx);
/* The same for as many records as lie wholly in the first len bytes, and are
 * sound: of a frame whose rest cannot be had. */
MUST_CHECK int log_frame_each_leading(const struct log_frame *,
				      const uint8_t *plain, uint32_t len,
				      int (*each)(void *ctx,
						  const struct log_record *),
				      void *ctx, uint32_t *ret_count);
/* The blob's chunk that begins here, of which `have` bytes are there: header
 * and CRC.  0 or -E_CORRUPT.  Implemented by blob.c. */
MUST_CHECK int log_blob_check_chunk(const uint8_t *chunk, size_t have,
				    uint32_t *ret_len, bool *ret_last);
void log_nonce(uint8_t ret[CRYPTO_NONCE_BYTES], enum log_nonce_role,
	       uint64_t offset);

/* ---- segment.c ---- */

#define LOG_SEGMENT_BYTES_MIN (1024u * 1024u)
#define LOG_SEGMENT_BYTES_MAX (1024u * 1024u * 1024u)

struct log_segment_header {
	uint8_t cluster_id[LOG_ID_BYTES];
	uint64_t key;
	uint64_t bytes;
	uint64_t made_ms;
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
	uint8_t key_id[CRYPTO_KEY_ID_BYTES];
	uint8_t wrapped[CRYPTO_WRAPPED_BYTES];
};

void log_segment_header_encode(const struct log_segment_header *,
			       uint8_t out[IO_BLOCK]);
MUST_CHECK int log_segment_header_decode(const uint8_t raw[IO_BLOCK],
					 struct log_segment_header *ret);
MUST_CHECK int log_segment_wrap(struct io *, const struct crypto_key *master,
				const struct crypto_key *key,
				struct log_segment_header *);
MUST_CHECK int log_segment_unwrap(const struct crypto_key *master,
				  const struct log_segment_header *,
				  struct crypto_key **ret);
void log_segment_path(const char *dir, uint64_t key, char ret[LOG_PATH_BYTES]);
/* False for a name that is not a segment's. */
bool log_segment_parse_name(const char *name, uint64_t *ret_key);

/* A segment file open for writing: prepared, current, or rotated away with
 * frames still in flight. */
struct log_sink {
	struct log_segment_header header;
	struct io_file *file;
	struct crypto_aead *aead;
	unsigned in_flight; /* journal thread */
	bool rotated;
};
/* Creates `<name>.tmp`, allocated, with its header written but not synced. */
MUST_CHECK int log_sink_begin(struct log *, uint64_t key, uint64_t bytes,
			      struct log_sink **ret);
/* Write zeros over [offset, offset + len). */
MUST_CHECK int log_sink_zero(struct log_sink *, const void *zeros,
			     uint64_t offset, uint64_t len);
/* Syncs, gives the file its name, syncs the directory. */
MUST_CHECK int log_sink_publish(struct log *, struct log_sink *);
/* Closes and removes a file that was not published. */
void log_sink_abandon(struct log *, struct log_sink *);
void log_sink_close(struct log_sink *); /* NULL-safe */

/* The registry.  Fields marked [m] are guarded by log.mutex, the others do
 * not change. */
struct log_segment {
	struct log_segment_header header;
	uint64_t first_lsn; /* [m] */
	uint64_t end_lsn;   /* [m] */
	bool active;	    /* [m] */
	bool outside;	    /* holds no record of the history */
	_Atomic bool dropped;
	_Atomic unsigned refs;
};
/* Appends to the registry; keys must rise. */
MUST_CHECK int log_segment_register(struct log *,
				    const struct log_segment_header *,
				    uint64_t first_lsn, uint64_t end_lsn,
				    bool active, bool outside);
void log_segment_forget_all(struct log *);
/* [any] With a reference, or NULL. */
struct log_segment *log_segment_get(struct log *, uint64_t key);
void log_segment_put(struct log_segment *);
/* [journal] The history has gone on into `key` at `lsn`: what is before it
 * is no longer active. */
void log_segment_passed(struct log *, uint64_t key, uint64_t lsn);
/* Removes what recovery found to lie outside the history, and remains of
 * segments that were never published.  After EPOCH-START is committed. */
MUST_CHECK int log_segment_sweep(struct log *);

/* ---- claim.c ---- */

#define LOG_CLAIM_BYTES 64u

/* Makes or reads the directory layout and the cluster file. */
MUST_CHECK int log_claim_open(struct log *);
/* For a mutant: seals every lower claim, late. */
MUST_CHECK int log_claim_seal_late(struct log *);
/* 0, -E_FENCED, or an I/O error; latches nothing. [any] */
MUST_CHECK int log_claim_verify(struct log *);
void log_claim_close(struct log *);

struct log_cluster {
	uint8_t cluster_id[LOG_ID_BYTES];
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
};
/* -ENOENT, -E_CORRUPT, -E_VERSION. */
MUST_CHECK int log_cluster_load(struct io *, const char *dir,
				struct log_cluster *ret);

/* ---- prepare.c ---- */

struct log_prepare;
/* A loop of its own that makes segments ahead of time. */
MUST_CHECK int log_prepare_create(struct log *, struct log_prepare **ret);
/* Ends its thread; what that has posted to the journal may still be on its way.
 * NULL-safe. */
void log_prepare_stop(struct log_prepare *);
/* The same, when the journal loop has ended. */
void log_prepare_free(struct log_prepare *);
/* [journal] Make the segment `key` of so many bytes; at most one at a time.
 * Its zeros are written while the one before fills from `from` to `to`, which
 * log_prepare_progress() tells. */
void log_prepare_ask(struct log_prepare *, uint64_t key, uint64_t bytes,
		     uint64_t from, uint64_t to);
/* [who has entered the writer] The segment that is written is full up to
 * here. */
void log_prepare_progress(struct log_prepare *, uint64_t offset);
/* [journal] Stop zeroing, hand over soon. */
void log_prepare_hurry(struct log_prepare *);
/* [journal] The same, and take from the reserve when there is no room. */
void log_prepare_need(struct log_prepare *);
/* [journal] Look again: no_reserve has changed.  Implemented by the writer. */
void log_writer_nudge(struct log *);
/* [journal] What came of it: implemented by the writer.  Takes the sink. */
void log_writer_prepared(struct log *, struct log_sink *, int err);

/* ---- writer.c ---- */

struct log_writer;
MUST_CHECK int log_writer_create(struct log *, struct log_writer **ret);
void log_writer_free(struct log_writer *); /* NULL-safe */
/* Makes EPOCH-START durable and checked, blocking. */
MUST_CHECK int log_writer_start(struct log_writer *);
/* Once log->loop is set: tells committed() of EPOCH-START, soon. */
void log_writer_begin(struct log_writer *);
/* [journal] Fail everything, soon. */
void log_writer_latched(struct log_writer *);

/* ---- walk.c ---- */

/* One segment file under examination. */
struct log_scan {
	struct io *io;
	struct io_file *file;
	uint64_t size;
	uint64_t key;
	const uint8_t *cluster_id;
	uint8_t *window;
	uint64_t window_bytes, window_offset, window_len;
	uint64_t window_max; /* 0: LOG_SCAN_BYTES; may be set after opening */
	bool narrow; /* read no more than what is asked for: where the disk
			has bad blocks */
	char path[LOG_PATH_BYTES];
};
#define LOG_SCAN_BYTES (4u * LOG_FRAME_BYTES_MAX)

MUST_CHECK int log_scan_open(struct log_scan *, struct io *, const char *dir,
			     const uint8_t *cluster_id, uint64_t key,
			     bool sync_first);
void log_scan_close(struct log_scan *);
/* The file's own header.  -E_CORRUPT: damaged, another file's, or the file is
 * shorter than it says; -E_VERSION; I/O errors. */
MUST_CHECK int log_scan_segment_header(struct log_scan *,
				       struct log_segment_header *ret);
/* 0 and a frame that is whole and belongs here; *ret_raw is valid until the
 * next call.  -E_CORRUPT: there is none at offset.  Others: I/O errors. */
MUST_CHECK int log_scan_frame(struct log_scan *, uint64_t offset,
			      struct log_frame *ret, const uint8_t **ret_raw);
/* The next offset at or after `offset` with a valid frame header; -ENOENT
 * when there is none. */
MUST_CHECK int log_scan_find(struct log_scan *, uint64_t offset,
			     struct log_frame *ret);
/* The same, and before `end`. */
MUST_CHECK int log_scan_find_below(struct log_scan *, uint64_t offset,
				   uint64_t end, struct log_frame *ret);

struct log_walk_segment {
	uint64_t key;
	struct log_segment_header header;
	int header_err;
	uint64_t size;
	bool blank; /* nothing was ever written where its first frame goes */
	bool used;  /* holds records of the history */
	uint64_t first_lsn, end_lsn;
};

struct log_walk_epoch {
	uint32_t epoch, parent;
	bool limited; /* a later epoch says where this one ends: */
	uint64_t cut_lsn;
	uint8_t cut_chain[LOG_CHAIN_BYTES];
};

/* The one history of a directory.  It needs no key; recovery adds
 * decryption in each_frame. */
struct log_walk {
	struct io *io;
	const char *dir;
	const uint8_t *cluster_id;
	uint32_t below_epoch; /* ours; 0: look at all */
	bool sync_first;
	/* Non-zero ends the walk.  -E_CORRUPT counts as damage. */
	int (*each_frame)(void *ctx, const struct log_walk_segment *,
			  const struct log_frame *, const uint8_t *raw);
	void *ctx;
	uint64_t from_key; /* segments from here on are synced first */
	/* results */
	struct log_walk_segment *segments;
	size_t segment_count, segment_capacity;
	struct log_walk_epoch *epochs; /* the history's, oldest first */
	size_t epoch_count;
	struct log_position end; /* after the last frame of the history */
	bool any;		 /* end is set */
	bool torn;		 /* something unacknowledged lies after it */
	char why[LOG_WHY_BYTES];
};
/* from may be NULL.  -E_LOST with a sentence in why. */
MUST_CHECK int log_walk_run(struct log_walk *, const struct log_position *from);
void log_walk_fini(struct log_walk *);
/* Lists the segments and reads their headers; part of log_walk_run(). */
MUST_CHECK int log_walk_list(struct log_walk *);

/* ---- opener.c ---- */

struct log_opener {
	struct log *log;
	uint64_t segment; /* whose key aead has */
	struct crypto_aead *aead;
	uint8_t *plain; /* of the last frame; LOG_FRAME_BYTES_MAX */
};
MUST_CHECK int log_opener_init(struct log_opener *, struct log *);
void log_opener_fini(struct log_opener *);
/* Decrypts a frame that the scan has found whole.  -E_CORRUPT, -E_KEY. */
MUST_CHECK int log_opener_frame(struct log_opener *,
				const struct log_segment_header *,
				const struct log_frame *, const uint8_t *raw);

/* ---- log.c ---- */

struct log {
	struct log_options options;
	struct io *io;
	struct loop *loop; /* journal */
	uint8_t cluster_id[LOG_ID_BYTES];
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];

	struct io_file *lock, *claim;
	uint32_t epoch;

	/* Where recovery ended, then where EPOCH-START goes. */
	bool recovered;
	uint32_t parent_epoch;
	uint32_t next_sequence;
	struct log_position start;
	bool network; /* another machine's directory; by log_rotate_start() */

	struct log_writer *writer;
	struct log_prepare *prepare;

	pthread_mutex_t mutex;
	struct log_segment **segments; /* [m] by key */
	size_t segment_count, segment_capacity;
	char why[LOG_WHY_BYTES]; /* [m] while the log runs */

	_Atomic int latched; /* 0 or the first error */
	struct loop_mail latch_mail;
	_Atomic uint64_t backlog_bytes;
	_Atomic int no_reserve; /* not even a small segment can be made */
	_Atomic(struct log_append *) incoming; /* newest first */
	struct loop_mail incoming_mail;
	struct log_stats stats;
};

void log_set_why(struct log *, const char *format, ...) PRINTF_LIKE(2, 3);
/* [any] The first caller wins.  err -E_FENCED is kept, the rest becomes
 * -E_LATCHED for appends. */
void log_latch(struct log *, int err, const char *format, ...)
	PRINTF_LIKE(3, 4);
/* dir/name[/more], cut to fit. */
void log_path(char ret[LOG_PATH_BYTES], const char *dir, const char *name);
/* fsync of the directory that holds path. */
MUST_CHECK int log_sync_parent(struct io *, const char *path);
struct log_batch *log_batch_create(void);
/* One frame's heading in a batch, then its records. */
MUST_CHECK int log_batch_add_frame(struct log_batch *, uint64_t segment,
				   uint64_t offset, uint64_t first_lsn,
				   size_t *ret_count_at);
MUST_CHECK int log_batch_add(struct log_batch *, size_t count_at, uint8_t type,
			     const void *meta, uint32_t meta_len,
			     const struct log_loc *);

#endif
