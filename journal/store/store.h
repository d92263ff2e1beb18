/* journal/store/store.h: which messages the journal still owes to whom.
 *
 * The store is a state machine over committed records: the same apply runs
 * while the broker runs (fed by the log's committed batches, on the store
 * thread) and at recovery (fed by the log's recovery).  From its state it
 * writes checkpoints, moves what stays long from segments into extent files,
 * and deletes files in which nothing is live.
 *
 * Nobody outside knows where a message lies: it is asked for by (queue, ref)
 * and read by a store_reader, on the asker's own loop.
 *
 * Life: store_create → (store_follow…) → store_recover → (walks) → store_start
 * → … → store_stop → store_free.  Thread: store, unless marked. */
#ifndef JOURNAL_STORE_STORE_H
#define JOURNAL_STORE_STORE_H

#include <stdbool.h>

#include "journal/store/index.h"
#include "journal/store/record.h"

struct store;

struct store_options {
	struct io *io;
	const char *dir; /* the log's directory, copied; checkpoints/ and
			    extents/ are made in it */
	const struct crypto_key *master; /* borrowed until store_free() */
	struct index *index;   /* empty; owned by the caller until store_free();
				  NULL: everything stays in memory */
	uint64_t memory_bytes; /* for what is known of queued messages; 0:
				  64 MiB.  A quarter more:
				  store_is_behind() */
	uint64_t checkpoint_bytes; /* of journal between two; 0: 256 MiB */
	uint64_t checkpoint_ns;	   /* and at most this long; 0: 30 s */
	/* What of the journal's closed segments is left alone: messages that
	 * are consumed soon are never copied. */
	uint64_t hot_bytes;    /* 0: 4 GiB; of it a sixteenth may be dead */
	uint64_t hot_ns;       /* 0: 60 s */
	uint64_t extent_bytes; /* an extent file is closed once this large; 0:
				  64 MiB */
	uint64_t scrub_ns; /* everything is read once in this time; 0: never */
	uint64_t scrub_bytes_per_s; /* and not faster; 0: 32 MiB */
	/* [store] A checkpoint could not be written or a file not dropped; the
	 * process is to exit.  No space for a checkpoint or an extent is not a
	 * failure: it is tried again later.  A failure of the log is told by
	 * the log. */
	void (*failed)(void *ctx, int err, const char *why);
	void *ctx;
};

MUST_CHECK int store_create(const struct store_options *, struct store **ret);
/* Before log_claim(), while another process leads: takes in about bytes_max
 * more of what it has acknowledged, so that store_recover() has little left to
 * do. Blocking.  *ret_more: there may be more already; else ask again soon.
 * After an error store_why() explains it, and the next call begins anew. */
MUST_CHECK int store_follow(struct store *, struct log *, uint64_t bytes_max,
			    bool *ret_more);
/* After log_claim(): goes on from what was followed, where the history does;
 * else loads the newest valid checkpoint (falling back to the one before with a
 * warning), replays the log from there, and applies the restart rules: uploads
 * that never became a message are dropped, temporary queues are emptied and
 * removed (as if QUEUE_GONE had been journalled; the caller need not journal
 * it).  store_why() explains a failure; -E_LOST: acknowledged data is missing.
 */
MUST_CHECK int store_recover(struct store *, struct log *);
const char *store_why(const struct store *);
/* NULL, or a sentence for the daemon to log at warn: which checkpoints were
 * damaged and passed over.  What was acknowledged is complete all the same. */
const char *store_warning(const struct store *);

/* ---- walks: between store_recover() and store_start() only ---- */

int store_each_address(struct store *,
		       int (*each)(void *ctx, const struct record_address *),
		       void *ctx);

struct store_lane {
	uint64_t first; /* ref at which to begin; what is there is from here
			   on, and everything before is gone */
	uint64_t next;	/* ref of the next message to come; first == next:
			   nothing is there */
	uint64_t messages;
	uint64_t expiry_ms; /* no message expires before; 0: none expires */
};
struct store_queue {
	struct record_queue record;
	uint64_t messages, bytes;
	struct store_lane lanes[RECORD_PRIORITIES];
};
int store_each_queue(struct store *,
		     int (*each)(void *ctx, const struct store_queue *),
		     void *ctx);
/* One past the largest id that any address, queue or upload ever had. */
uint64_t store_next_id(const struct store *);

/* ---- running ---- */

/* From now on batches are taken, checkpoints written, messages moved to
 * extents, files dropped and scrubbed; on the given loops, whose threads must
 * not run yet.  What blocks on extent files runs on the second.
 * After log_start(): extent files that no record names go now, and what
 * recovery has read is all there will ever be of it only once EPOCH-START has
 * been committed.  A deposed leader's last record may still become durable
 * before that, and be part of what another one reads. */
MUST_CHECK int store_start(struct store *, struct loop *store_loop,
			   struct loop *extents_loop);
/* [journal] log_options.committed calls this; takes the batch.  Batches that
 * come before store_start() wait for it.  Bounded: when more than 64 MiB of
 * batches wait it returns -EAGAIN once per batch and has still taken it; the
 * caller may slow down. */
int store_take(struct store *, struct log_batch *);
/* [any] More is known of single messages than memory is there for, until the
 * moving to extents has caught up: publishing is to wait. */
bool store_is_behind(const struct store *);
/* [store] Finish what is being written; done() when idle.  Before log_stop():
 * a checkpoint under way is finished by its record.  Readers are idle. */
void store_stop(struct store *, void (*done)(void *ctx), void *ctx);
void store_free(struct store *); /* NULL-safe; after its loops have ended */

/* ---- reading messages back ---- */

/* One per loop that reads.  Everything runs on that loop. */
struct store_reader;
MUST_CHECK int store_reader_create(struct store *, struct loop *,
				   struct store_reader **ret);
void store_reader_free(struct store_reader *); /* nothing in flight; NULL-safe*/

/* Everything it points to is borrowed until done() returns. */
struct store_message {
	uint64_t ref;
	int err; /* 0; -E_CORRUPT and other damage: it is there, and cannot be
		    read; only ref is valid.  store_each_damage() knows more */
	struct record_props props; /* expiry as in this queue */
	uint64_t bytes;
	const void *body; /* bytes of it; NULL with an upload */
	uint64_t upload;  /* 0, or its pieces' */
	uint32_t piece_count;
	const uint32_t *piece_bytes; /* piece_count of them */
	uint32_t deliveries;
	uint32_t extra_len;
	const void *extra;
	struct record_origin origin; /* reason 0: never moved */
};

/* The messages of one lane from `first` on, in order, that were committed and
 * had not left when it was asked; at least one if there is one before `end`. */
struct store_fetch {
	/* the caller's */
	uint64_t queue, first, end; /* refs of one lane; end is exclusive, and
				       nothing at or behind it is returned */
	uint32_t count_max;
	uint32_t bytes_max;  /* of bodies; the last may go beyond */
	uint64_t expired_ms; /* 0, or only those that expire until then */
	/* err: 0; -ENOMEM, -EIO, …: nothing is known, ask again later. */
	void (*done)(struct store_fetch *, int err);
	/* results */
	const struct store_message *messages;
	uint32_t message_count;
	uint64_t next;	    /* where to go on: everything before it has been
			       returned (or is gone, or does not expire yet) */
	uint64_t expiry_ms; /* with expired_ms: of what has been passed over the
			       earliest, 0: none */
	/* private */
	struct loop_mail mail;
	struct store_reader *reader;
	struct plan *plan;
};
/* done() follows, never from inside this call. */
void store_fetch(struct store_reader *, struct store_fetch *);

struct store_piece {
	/* the caller's */
	uint64_t upload;
	uint32_t index;
	void *buf; /* room for the piece, expanded: as piece_bytes says */
	uint32_t len;
	/* err: 0; -E_CORRUPT: damaged; others: ask again later. */
	void (*done)(struct store_piece *, int err);
	/* private */
	struct loop_mail mail;
	struct store_reader *reader;
	struct plan *plan;
};
void store_read_piece(struct store_reader *, struct store_piece *);

/* ---- damage ---- */

/* Something acknowledged that cannot be read.  It stays where it is, and is
 * never served; purging or deleting its queue is what removes it. */
struct store_damage {
	uint64_t queue;		      /* 0: not known, or several */
	uint64_t first_ref, last_ref; /* 0: not known */
	uint64_t first_lsn, last_lsn; /* 0: not known (in an extent file) */
	char file[64];		      /* "segments/…", "extents/…" */
	uint64_t offset, bytes;	      /* in the file */
	int err;
	uint64_t found_ms; /* wall clock, the first time */
};
/* [any] Remembers it and logs it once.  found_ms is set here. */
void store_damage_found(struct store *, const struct store_damage *);
/* [any] Stops at and returns each()'s first non-zero value. */
int store_each_damage(struct store *,
		      int (*each)(void *ctx, const struct store_damage *),
		      void *ctx);

/* [any] Begin a round of scrubbing now, unless one is under way, and go as
 * fast as is allowed. */
void store_scrub_now(struct store *);

/* ---- what it counts ---- [any] */

struct store_stats {
	_Atomic uint64_t live_messages, live_bytes;
	_Atomic uint64_t checkpoints, checkpoint_lsn, checkpoint_bytes;
	_Atomic uint64_t applied_lsn;
	/* While following: the end of what was seen, and new beginnings. */
	_Atomic uint64_t seen_lsn, follow_resets;
	_Atomic uint64_t files_live;
	_Atomic uint64_t memory_bytes, entries, runs;
	_Atomic uint64_t extent_files, extent_bytes, extent_live_bytes;
	_Atomic uint64_t copied_messages, copied_bytes; /* into extents, ever */
	_Atomic uint64_t fetched_messages, fetched_bytes; /* of bodies */
	_Atomic uint64_t fetch_read_bytes; /* from the disk for that */
	_Atomic uint64_t index_spills;
	_Atomic uint64_t scrub_bytes, scrub_files, scrub_rounds;
	_Atomic uint64_t scrub_finished_ms; /* wall clock of the last round */
	_Atomic uint64_t damage;	    /* places found and still there */
};
const struct store_stats *store_stats(const struct store *);

#endif
