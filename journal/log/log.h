/* journal/log/log.h: append-only, encrypted, group-committed log.
 *
 * One process appends; what it has acknowledged survives any crash, and the
 * next process to claim the directory reads exactly that.  Format:
 * docs/format/journal.md.  Argument: docs/ARCHITECTURE.md.
 *
 * Non-goals: the log does not know a queue, an index, or what a record means;
 * it knows its own record types below LOG_TYPE_USER.
 *
 * Life:  log_create → (log_try_lock, log_tail_…) → log_claim or log_steal
 *        → log_recover → log_start → log_append… → log_stop → log_free.
 *
 * Errors: 0 or a negative code.  Any write, sync or claim-check failure
 * latches the log: every append in flight and every later one fails with
 * -E_LATCHED (or -E_FENCED), the failed() callback runs once, and the process
 * is to exit.  Nothing is ever retried. */
#ifndef JOURNAL_LOG_LOG_H
#define JOURNAL_LOG_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/crypto.h"
#include "base/loop.h"

struct log;

#define LOG_RECORD_BYTES_MAX (512u * 1024u) /* meta and body together */
#define LOG_CHAIN_BYTES CRYPTO_HASH_BYTES

/* Record types.  The log's own are below LOG_TYPE_USER. */
enum log_type {
	LOG_TYPE_PAD = 0,	  /* fills a frame to IO_BLOCK */
	LOG_TYPE_EPOCH_START = 1, /* first record of an epoch */
	LOG_TYPE_IDLE = 2,	  /* closes the ambiguous tail */
	LOG_TYPE_USER = 16,
};

/* A segment's name as a number: epoch << 32 | sequence.  Sequences go on
 * rising across epochs, so both parts order segments the same way within one
 * history. */
static inline uint64_t log_segment_key(uint32_t epoch, uint32_t sequence)
{
	return (uint64_t)epoch << 32 | sequence;
}

/* Where a record's body lies. */
struct log_loc {
	uint64_t segment;
	uint32_t frame;	     /* frame's offset in the segment / IO_BLOCK */
	uint32_t at;	     /* body's offset in the frame's plaintext */
	uint32_t stored_len; /* bytes there */
	uint32_t body_len;   /* bytes when expanded; larger when compressed */
};

/* A place between frames: reading goes on here. */
struct log_position {
	uint64_t segment; /* 0: from the first segment there is */
	uint64_t offset;  /* in the segment */
	uint64_t lsn;	  /* of the next record */
	uint8_t chain[LOG_CHAIN_BYTES];
};

struct log_record {
	uint64_t lsn;
	uint8_t type;
	const void *meta; /* borrowed for the duration of the call */
	uint32_t meta_len;
	struct log_loc loc;
	/* The stored body (maybe compressed: loc.stored_len bytes) during
	 * recovery and inspection; NULL in a committed batch. */
	const void *stored;
};

/* The records of one or more committed frames, without their bodies, in LSN
 * order.  Made by the journal thread, given to options.committed(), freed by
 * whoever took it. */
struct log_batch {
	struct loop_mail mail; /* for the taker's use */
	struct log_position end;
	uint64_t first_lsn;
	uint64_t stored_bytes; /* disk bytes of these frames */
	/* private */
	size_t len, capacity;
	uint8_t *data;
};
/* Stops at and returns each()'s first non-zero value. */
int log_batch_each(const struct log_batch *,
		   int (*each)(void *ctx, const struct log_record *),
		   void *ctx);
void log_batch_free(struct log_batch *);

/* ---- opening ---- */

struct log_options {
	struct io *io;
	const char *dir;		 /* borrowed until log_free() */
	const struct crypto_key *master; /* borrowed until log_free() */
	uint64_t segment_bytes;		 /* 0: 128 MiB; 1 MiB to 1 GiB */
	uint32_t frame_bytes_max;	 /* 0: 1 MiB, the payload limit */
	unsigned frames_in_flight;	 /* 0: 3; 1 to 4 */
	int compress_level;		 /* 0: never compress */
	uint32_t compress_bytes_min;	 /* 0: 512 */
	/* Publishing stops (log_has_space()) when, with the next segment made,
	 * less than reserve_bytes of the file system would be free (0: 64
	 * MiB), or more than this share of it used, as df counts: used by
	 * anybody / (used + free for us).  0: 90.  It goes on by itself when
	 * there is room again, and 1 % of the file system more.  What makes
	 * room, small segments and checkpoints, may use all that is free. */
	uint64_t reserve_bytes;
	unsigned disk_max_use_percent;
	/* [journal, or a loop of log_append_here(); one at a time] Takes the
	 * batch.  Runs after the claim check and before
	 * any note of these records is posted.  Batches have no gap in LSN;
	 * the first is EPOCH_START's, as soon as the loop runs.  May be NULL.
	 */
	void (*committed)(void *ctx, struct log_batch *);
	/* [journal] Once, before any append is told of the failure; the
	 * process is expected to exit.  why is a sentence for an operator
	 * that names the file and what to do. */
	void (*failed)(void *ctx, int err, const char *why);
	void *ctx;
};

/* Makes the directory layout and the cluster id when they are missing.
 * -E_KEY: the master key is not this directory's. */
MUST_CHECK int log_create(const struct log_options *, struct log **ret);
/* leader.lock says who is to lead; it decides when to claim, and nothing is
 * safe because of it.  One attempt to take it; 0 also when it is held
 * already, -EAGAIN when another process holds it.  Held until log_unlock() or
 * log_free(). [the thread that claims; later the one that leads] */
MUST_CHECK int log_try_lock(struct log *);
void log_unlock(struct log *);
bool log_is_locked(const struct log *);
/* Claims the next epoch and seals all lower claims, with leader.lock, which is
 * taken (retrying for a second) when it is not held yet.  -EAGAIN: another
 * process holds it. */
MUST_CHECK int log_claim(struct log *);
/* The same without the lock, of an owner that gives no sign of life.  Safe at
 * any time: whoever led until now is fenced. */
MUST_CHECK int log_steal(struct log *);
/* After log_claim().  Verifies and delivers every acknowledged record from
 * `from` on, in order and with no gap in LSN, so the log's own types
 * (EPOCH_START, IDLE) are among them; NULL: from the first that there is.
 * Deletes nothing.
 * -E_LOST: acknowledged data is damaged; log_why() says what and where.
 * Stops at each()'s first non-zero return.  May be called again until
 * log_start(), from elsewhere; the last call counts. */
MUST_CHECK int log_recover(struct log *, const struct log_position *from,
			   int (*each)(void *ctx, const struct log_record *),
			   void *ctx);
/* Opens the first segment of this epoch, makes EPOCH-START durable and
 * checked; then appends are taken on `journal`, whose thread must not run yet
 * or must be the caller. */
MUST_CHECK int log_start(struct log *, struct loop *journal);
/* log_start() has been called, and was right. */
bool log_is_started(const struct log *);
/* Append no more; on the journal thread, after everything in flight has
 * completed, writes an idle mark and calls done(ctx). [journal] */
void log_stop(struct log *, void (*done)(void *ctx), void *ctx);
/* After log_stop() is done: nothing is made ready any more, nothing written.
 * [any, not a loop] */
void log_close(struct log *);
/* After the journal loop has ended, and after log_stop() has said that it is
 * done, or the loop has been freed. NULL-safe. */
void log_free(struct log *);
/* A sentence for an operator about the last error of the calls above;
 * storage of the log.  NULL: about the last log_create() that failed on this
 * thread. */
const char *log_why(const struct log *);

/* ---- following another process ---- */

/* Reads what a leader appends to the same directory, without a claim, and
 * delivers what it has acknowledged, in order and without a gap.  After
 * log_create(); blocking; one thread. */
struct log_tail;
/* from: where a checkpoint ends; NULL or segment 0: from the first record. */
MUST_CHECK int log_tail_create(struct log *, const struct log_position *from,
			       struct log_tail **ret);
void log_tail_free(struct log_tail *); /* NULL-safe */
/* Delivers about `bytes_max` of frames, or what there is.  *ret_more: there
 * may be more already.  -ENOENT, -ESTALE: what comes next has been dropped, or
 * the history goes on elsewhere; begin again from a newer checkpoint.  Stops
 * at each()'s first non-zero return.  After an error of each() the tail is
 * void; after others it may be tried again. */
MUST_CHECK int log_tail_step(struct log_tail *, uint64_t bytes_max,
			     int (*each)(void *ctx, const struct log_record *),
			     void *ctx, bool *ret_more);
/* Behind what has been delivered; log_recover() goes on from there. */
const struct log_position *log_tail_position(const struct log_tail *);
/* End of the last frame that was seen, acknowledged or not. */
uint64_t log_tail_seen_lsn(const struct log_tail *);

/* ---- appending ---- */

struct log_append;

/* Tells one loop that one append is done.  Notes of all appends arrive at a
 * loop in LSN order. */
struct log_note {
	struct loop_mail mail; /* deliver: set by the caller */
	struct loop *to;
	struct log_append *append;
};

/* Embedded by the caller.  Everything it points to, and itself, is borrowed
 * from log_append() until its last note has been delivered. */
struct log_append {
	struct log_append *next; /* chains appends for one log_append() call */
	const void *meta;
	const void *body;
	uint32_t meta_len, body_len;
	uint8_t type;
	uint8_t no_compress;
	uint16_t note_count;	/* at least 1 */
	struct log_note *notes; /* array */
	/* results, valid in the notes' deliver() */
	int err; /* 0, -E_LATCHED or -E_FENCED */
	uint64_t lsn;
	struct log_loc loc;
};

/* [any] Queue a chain of appends first→…→last, in that order and contiguous
 * in LSN with respect to each other in the order given (others may come
 * between two calls, never inside one).  Every note of every append is
 * delivered exactly once, later, never from inside this call. */
void log_append(struct log *, struct log_append *first,
		struct log_append *last);

/* The same from a loop that does nothing for long: when a little is appended
 * while nothing else is being written, this loop writes and commits it itself,
 * without a hand-over to the journal thread and back. [here]  The loop must go
 * on until log_stop() has said that it is done, and end before log_free(). */
void log_append_here(struct log *, struct loop *here, struct log_append *first,
		     struct log_append *last);

/* [any] Bytes queued or in flight; for back-pressure. */
uint64_t log_backlog_bytes(const struct log *);
/* [any] 0: no room for another segment, or too little is left for others; it
 * is looked at on log_start(), every second, and for every segment.  Small
 * records (acknowledgements, checkpoints) still go on in the segment that is
 * left and in small ones; publishing must be refused with -E_NO_SPACE until
 * it is 1 again. */
int log_has_space(const struct log *);
uint32_t log_epoch(const struct log *);
const uint8_t *log_cluster_id(const struct log *); /* 16 bytes */

/* ---- reading ---- */

/* Reads bodies on one loop.  Frames are verified and decrypted on that
 * loop's thread. */
struct log_reader;
MUST_CHECK int log_reader_create(struct log *, struct loop *,
				 struct log_reader **ret);
void log_reader_free(struct log_reader *); /* nothing in flight; NULL-safe */

struct log_read {
	/* 0; -E_CORRUPT: the bytes are damaged; -EIO: the disk refuses them;
	 * -ENOENT: the segment has gone; -ENOMEM, -EMFILE, …: try again.
	 * buf is filled with 0 only. */
	void (*done)(struct log_read *, int err);
	/* private */
	struct log_reader *reader;
	struct log_loc loc;
	void *buf;
	uint8_t *packed;
	struct log_read *next;
	int err;
};
/* Reads and expands the body at loc into buf (loc.body_len bytes). */
void log_read(struct log_reader *, struct log_read *, const struct log_loc *loc,
	      void *buf);

/* ---- segments ---- */

struct log_segment_info {
	uint64_t key;
	uint64_t first_lsn, end_lsn; /* end is exclusive; 0 while active */
	uint64_t bytes;
	int active;
};
/* [any] A snapshot in order; stops at each()'s first non-zero return. */
int log_each_segment(struct log *,
		     int (*each)(void *ctx, const struct log_segment_info *),
		     void *ctx);
/* [any but shards] Deletes whole segments that are not active, after a claim
 * check.  Reads in flight finish first (the file is unlinked, its descriptor
 * stays until then).  The caller has made sure by committed records that
 * nothing in them is needed.  -E_FENCED latches the log. */
MUST_CHECK int log_drop(struct log *, const uint64_t *keys, size_t key_count);
/* [any] The claim check alone: 0, or -E_FENCED / an I/O error, which latch. */
MUST_CHECK int log_check_claim(struct log *);
/* [any] The storage has failed elsewhere: latch.  why is a sentence. */
void log_fail(struct log *, int err, const char *why);
/* [any] What is behind an error: err, or -E_FENCED, and log_why() says so,
 * when the claim has been sealed.  A successor removes files and writes
 * others, so a deposed leader, or a candidate that was overtaken, may meet
 * anything, and none of it is a fault of the disk. */
MUST_CHECK int log_blame(struct log *, int err);

struct log_stats {
	_Atomic uint64_t frames, records, payload_bytes, disk_bytes, syncs;
	_Atomic uint64_t claim_checks, segments_made, segments_dropped;
	/* power-of-two histogram of commit latency: bucket i counts commits
	 * of < 2^i microseconds */
	_Atomic uint64_t commit_us[32];
	_Atomic uint64_t commit_us_total;
	/* io_now_ns() when the oldest write in flight was begun; 0: none. */
	_Atomic uint64_t write_begun_ns;
	/* Frames for which the thread that appended waited in the kernel. */
	_Atomic uint64_t waits;
	/* Claim checks by group commits, and what they took together. */
	_Atomic uint64_t commit_checks, commit_check_ns;
	/* When it was last looked at: the file system's used and free bytes
	 * together, the free ones; and whether publishing is refused. */
	_Atomic uint64_t disk_total, disk_free, disk_refusing;
};
const struct log_stats *log_stats(const struct log *);

#endif
