/* journal/store/state.h: the state machine over committed records.
 *
 * No threads, no clock, no I/O but the index it is given: a state is what the
 * records from the first to some LSN add up to, and two states that have seen
 * the same records are the same.  store.c feeds it, checkpoint.c writes it
 * down and reads it back, compact.c and plan.c read it.
 *
 * A lane (see record.h) holds its messages in two ways.  *Entries*: one
 * struct each, the body in the journal or in the pieces of an upload.  *Runs*:
 * up to a MiB of messages copied into an extent file; a run costs the same
 * however many are in it, and an EXTENTS record turns entries into runs, or
 * old runs into new.  Messages with an upload stay entries.  Entries and runs
 * may lie among each other by number, but never cover the same message.
 *
 * Bounds: memory is what entries.h says per entry, and a struct per run,
 * upload, queue.  What is known of single messages in runs (struct detail) is
 * kept up to detail_bytes_max and goes to the index beyond.
 *
 * A file (segment or extent file) is live while it holds a body of an entry,
 * a message of a run, or a piece of an upload that is in progress or queued.
 *
 * One thread at a time. */
#ifndef JOURNAL_STORE_STATE_H
#define JOURNAL_STORE_STATE_H

#include <stdbool.h>

#include "base/list.h"
#include "journal/store/detail.h"
#include "journal/store/entries.h"
#include "journal/store/extent.h"
#include "journal/store/idmap.h"
#include "journal/store/index.h"
#include "journal/store/record.h"

struct state_upload {
	uint64_t id, bytes;
	uint32_t piece_count, capacity;
	uint32_t entries; /* that hold it */
	bool complete;	  /* a message has named it; else in progress */
	struct entry_place *pieces;
};

struct entry_more {
	struct state_upload *upload; /* held; NULL: the body is at the place */
	uint32_t extra_len;
	uint16_t address_len, queue_len;
	uint8_t reason; /* 0: never moved */
	char data[];	/* extra, origin's address, origin's queue */
};

struct state_address {
	struct record_address record; /* its name is the one below */
	char name[];
};

struct state_run {
	uint64_t first; /* ref; the last is first + span - 1 */
	uint32_t span, copied, live;
	uint32_t file;		/* index into the state's files */
	uint32_t offset, bytes; /* in the file's stream */
	uint64_t expiry_min_ms; /* as in record_run */
	/* NULL: in the index when `indexed`, else all of span is there. See
	 * state_run_detail(). */
	struct detail *detail;
	struct list detail_link; /* among those in memory, coldest first */
	bool indexed;		 /* the index has an encoded detail */
	bool stale;		 /* which is older than the one in memory */
};

struct state_lane {
	uint64_t next; /* number of the next to come; from 1 */
	uint64_t live; /* messages */
	/* No entry expires before; 0: none expires. */
	uint64_t entry_expiry_min_ms;
	struct entries entries;
	struct state_run **runs;		/* by rising first */
	size_t run_head, run_end, run_capacity; /* used: [head, end) */
};

struct state_queue {
	struct record_queue record; /* its name is the one below */
	uint64_t live, bytes;	    /* messages, and theirs together */
	struct state_lane *lanes[RECORD_PRIORITIES]; /* NULL: never used */
	char name[];
};

struct state_file {
	uint64_t key;
	uint64_t live;	/* messages, bodies and pieces; 0: free, but for ... */
	uint64_t bytes; /* of an extent file, on disk */
	/* As stored, what is live; of a run by the share of its messages.  A
	 * body that several queues hold counts for each. */
	uint64_t live_bytes;
	bool dead; /* ... an extent file nothing is in, not yet removed */
	/* private to state_files.c */
	bool listed;
	uint32_t next_free;
};

struct state {
	struct idmap addresses, queues, uploads;
	struct state_file *files; /* free ones among them: live and dead tell */
	size_t file_count, file_capacity, file_last;
	struct idmap file_slots; /* key to index + 1 */
	uint32_t file_free;	 /* the first free slot */
	uint64_t next_id;
	uint64_t live_messages, live_bytes, live_files;
	uint64_t entry_count, run_count;  /* in all lanes */
	uint64_t entry_bytes;		  /* of memory, without entry_more */
	uint64_t piece_count, more_bytes; /* of uploads, of entry_more */
	uint64_t changes; /* user records applied, CHECKPOINT aside */
	uint64_t touches; /* the same, and EXTENTS aside */
	/* Details in memory.  max and index are set by the owner before the
	 * first record; index NULL: they stay in memory. */
	size_t detail_bytes, detail_bytes_max;
	struct list details;
	struct index *index;
	uint64_t detail_spills;
	/* Times that the index did not take one, which stays in memory then;
	 * it is not asked again before there have been so many changes. */
	uint64_t detail_spill_failures, detail_retry;
	char why[192];
};

void state_init(struct state *);
void state_fini(struct state *); /* also removes nothing from the index */

/* Apply one committed record.  A queue, message or upload that is not there
 * any more is no error.  -E_CORRUPT: the record contradicts itself or what
 * came before; -E_VERSION: a type of a newer program; -ENOMEM; the index's
 * own errors when a spilled detail cannot be had again.  After an error the
 * state is void and state.why says why. */
MUST_CHECK int state_apply(struct state *, const struct log_record *);
/* What a restart does: uploads in progress and temporary queues go.  An
 * EPOCH-START record does the same, so that a replay across restarts passes
 * through the states that the broker was in. */
void state_restart(struct state *);

/* True when something that is needed lies in the file. */
bool state_file_live(const struct state *, uint64_t key);
/* NULL: not known (never seen, or free). */
const struct state_file *state_find_file(const struct state *, uint64_t key);
/* An extent file that nothing is in has been removed from the disk. */
void state_forget_file(struct state *, uint64_t key);
/* A place in an extent file has frame 0, and at is the offset in its
 * stream. */
struct log_loc state_loc(const struct state *, const struct entry_place *);
uint64_t state_entry_bytes(const struct entry *);
struct record_origin state_entry_origin(const struct entry *);
/* Memory that entries, runs, details and uploads take, about. */
uint64_t state_memory(const struct state *);

/* ---- looking into lanes: plan.c, compact.c ---- */

/* The first run that ends at or behind ref; NULL: none.  The next ones follow
 * it in lane->runs. */
struct state_run *state_run_from(const struct state_lane *, uint64_t ref,
				 size_t *ret_index);
/* NULL with err 0: all of the run is there.  Brings a spilled one back;
 * borrowed until the next call that changes or looks up details.  Errors are
 * the index's, or -ENOMEM; why is set. */
MUST_CHECK int state_run_detail(struct state *, struct state_run *,
				const struct detail **ret);
/* The same encoded (detail.h), for the caller to free; nothing is brought
 * back.  NULL with err 0: all of the run is there. */
MUST_CHECK int state_run_encoded(struct state *, const struct state_run *,
				 void **ret, size_t *ret_len);
/* Ref of the first message that is there, from `first` on: an entry or in a
 * run; 0: none.  By counts alone when a detail is spilled, so it may name one
 * that has left, never skip one that is there. */
uint64_t state_lane_first(const struct state_lane *, uint64_t first);
/* The earliest expiry among the lane's messages or before; 0: none expires. */
uint64_t state_lane_expiry(const struct state_lane *);

/* ---- for checkpoint.c ---- */

/* The optional parts of an entry; borrowed. */
struct state_parts {
	struct state_upload *upload;
	const void *extra;
	uint32_t extra_len;
	struct record_origin origin;
};

/* -E_CORRUPT when the id exists with other unchangeable properties. */
MUST_CHECK int state_put_address(struct state *, const struct record_address *);
MUST_CHECK int state_put_queue(struct state *, const struct record_queue *);
/* The lane, made when missing. */
MUST_CHECK int state_put_lane(struct state *, struct state_queue *,
			      unsigned priority, struct state_lane **ret);
/* Append to the table a file that nothing lies in yet; the key must be
 * absent.  bytes: of an extent file. */
MUST_CHECK int state_put_file(struct state *, uint64_t key, uint64_t bytes);
/* All messages and pieces have been put: an extent file without any is dead.
 * -E_CORRUPT when a segment has none. */
MUST_CHECK int state_close_files(struct state *);
/* A new upload without pieces; the id must be absent. */
MUST_CHECK int state_put_upload(struct state *, uint64_t id,
				struct state_upload **ret);
MUST_CHECK int state_put_piece(struct state *, struct state_upload *,
			       const struct entry_place *);
/* Append to the lane, which is there, a message like `like` with these parts;
 * the queue's bytes stay.  -E_CORRUPT when ref does not rise, is not below
 * the lane's next, or is a run's. */
MUST_CHECK int state_put_entry(struct state *, struct state_queue *,
			       uint64_t ref, const struct entry *like,
			       const struct state_parts *);
/* Append a run to its lane, which is there; takes the detail, also on
 * failure.  -E_CORRUPT as above, or when they contradict each other. */
MUST_CHECK int state_put_run(struct state *, struct state_queue *,
			     const struct state_run *like, struct detail *);

/* Check every rule that ties the parts together; asserts. For tests. */
void state_check(struct state *);

#endif
