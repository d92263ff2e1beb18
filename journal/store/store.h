/* journal/store/store.h: which messages the journal still owes to whom.
 *
 * The store is a state machine over committed records: the same apply runs
 * while the broker runs (fed by the log's committed batches, on the store
 * thread) and at recovery (fed by the log's recovery).  From its state it
 * writes checkpoints, and deletes segments in which nothing is live and which
 * the last two checkpoints cover.
 *
 * Not yet here: extents, the LMDB index and the memory bound; the place for
 * them is behind this header (store_each_message, store's apply).
 *
 * Life: store_create → store_recover → (walks) → store_start → … → store_stop
 * → store_free.  Thread: store, unless marked. */
#ifndef JOURNAL_STORE_STORE_H
#define JOURNAL_STORE_STORE_H

#include "journal/store/record.h"

struct store;

struct store_options {
	struct io *io;
	const char *dir; /* the log's directory, copied; checkpoints/ is made
			    in it */
	const struct crypto_key *master; /* borrowed until store_free() */
	uint64_t checkpoint_bytes; /* of journal between two; 0: 256 MiB */
	uint64_t checkpoint_ns;	   /* and at most this long; 0: 30 s */
	/* [store] A checkpoint could not be written or a segment not dropped;
	 * the process is to exit.  No space for a checkpoint is not a failure:
	 * it is tried again later.  A failure of the log is told by the log. */
	void (*failed)(void *ctx, int err, const char *why);
	void *ctx;
};

MUST_CHECK int store_create(const struct store_options *, struct store **ret);
/* After log_claim(): loads the newest valid checkpoint (falling back to the
 * one before with a warning), replays the log from there, and applies the
 * restart rules: uploads that never became a message are dropped, temporary
 * queues are emptied and removed (as if QUEUE_GONE had been journalled; the
 * caller need not journal it).  store_why() explains a failure; -E_LOST:
 * acknowledged data is missing. */
MUST_CHECK int store_recover(struct store *, struct log *);
const char *store_why(const struct store *);
/* NULL, or a sentence for the daemon to log at warn: which checkpoints were
 * damaged and passed over.  What was acknowledged is complete all the same. */
const char *store_warning(const struct store *);

/* Walks: between store_recover() and store_start() only. */
int store_each_address(struct store *,
		       int (*each)(void *ctx, const struct record_address *),
		       void *ctx);
int store_each_queue(struct store *,
		     int (*each)(void *ctx, const struct record_queue *),
		     void *ctx);

/* Everything it points to is borrowed until each() returns: the store's own
 * copy changes as soon as it is started. */
struct store_message {
	uint64_t ref;
	struct record_props props; /* expiry as in this queue */
	uint64_t bytes;
	struct log_loc loc; /* of the body, when upload is 0 */
	uint64_t upload;
	uint32_t piece_count;
	const struct log_loc *pieces; /* piece_count of them */
	uint32_t deliveries;
	uint32_t extra_len;
	const void *extra;
	struct record_origin origin; /* reason 0: never moved */
};
/* In ref order; nothing for a queue that is not there. */
int store_each_message(struct store *, uint64_t queue,
		       int (*each)(void *ctx, const struct store_message *),
		       void *ctx);
/* One past the largest id that any address, queue or upload ever had. */
uint64_t store_next_id(const struct store *);

/* From now on batches are taken, checkpoints written and segments dropped, on
 * the given loop, whose thread must not run yet. */
MUST_CHECK int store_start(struct store *, struct loop *store_loop);
/* [journal] log_options.committed calls this; takes the batch.  Batches that
 * come before store_start() wait for it.  Bounded:
 * when more than 64 MiB of batches wait it returns -EAGAIN once per batch
 * and has still taken it; the caller may slow down. */
int store_take(struct store *, struct log_batch *);
/* [store] Finish what is being written; done() when idle.  Before log_stop():
 * a checkpoint under way is finished by its record. */
void store_stop(struct store *, void (*done)(void *ctx), void *ctx);
void store_free(struct store *); /* NULL-safe; after its loop has ended */

struct store_stats {
	_Atomic uint64_t live_messages, live_bytes;
	_Atomic uint64_t checkpoints, checkpoint_lsn, checkpoint_bytes;
	_Atomic uint64_t applied_lsn;
	_Atomic uint64_t segments_live;
};
const struct store_stats *store_stats(const struct store *); /* [any] */

#endif
