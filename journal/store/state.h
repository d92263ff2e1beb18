/* journal/store/state.h: the state machine over committed records.
 *
 * No I/O, no threads, no clock: a state is what the records from the first to
 * some LSN add up to, and two states that have seen the same records are the
 * same.  store.c feeds it, checkpoint.c writes it down and reads it back.
 *
 * Goals: apply is O(log n) in the queue; a plain queued message costs one
 * struct entry.  Non-goals: routing, expiry, limits (the core's), and a
 * bound on memory.
 *
 * A segment is live while it holds the body of a queued message or a piece
 * of an upload that is in progress or queued.  Each queue entry counts one
 * for its body, each piece one for itself.
 *
 * One thread at a time. */
#ifndef JOURNAL_STORE_STATE_H
#define JOURNAL_STORE_STATE_H

#include <stdbool.h>

#include "journal/store/entries.h"
#include "journal/store/idmap.h"
#include "journal/store/record.h"

struct state_upload {
	uint64_t id, bytes;
	uint32_t piece_count, capacity;
	uint32_t entries; /* that hold it */
	bool complete;	  /* an ENQUEUE has named it; else in progress */
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

struct state_queue {
	struct record_queue record; /* its name is the one below */
	struct entries entries;
	char name[];
};

struct state_segment {
	uint64_t key;
	uint64_t live; /* bodies and pieces in it; 0: this slot is free */
};

struct state {
	struct idmap addresses, queues, uploads;
	struct state_segment *segments;
	size_t segment_count, segment_capacity, segment_last;
	uint64_t next_id;
	uint64_t live_messages, live_bytes, live_segments;
	uint64_t changes; /* user records applied, CHECKPOINT aside */
	char why[192];
};

void state_init(struct state *);
void state_fini(struct state *);

/* Apply one committed record.  A queue, message or upload that is not there
 * any more is no error.  -E_CORRUPT: the record contradicts itself or what
 * came before; -E_VERSION: a type of a newer program; -ENOMEM.  After an
 * error the state is void and state.why says why. */
MUST_CHECK int state_apply(struct state *, const struct log_record *);
/* What a restart does: uploads in progress and temporary queues go.  An
 * EPOCH-START record does the same, so that a replay across restarts passes
 * through the states that the broker was in. */
void state_restart(struct state *);

/* True when a body or a piece that is needed lies in the segment. */
bool state_segment_live(const struct state *, uint64_t key);
struct log_loc state_loc(const struct state *, const struct entry_place *);
uint64_t state_entry_bytes(const struct entry *);
struct record_origin state_entry_origin(const struct entry *);

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
/* Append to the table a segment that nothing lies in yet; 0: a free slot. */
MUST_CHECK int state_put_segment(struct state *, uint64_t key);
/* A new upload without pieces; the id must be absent. */
MUST_CHECK int state_put_upload(struct state *, uint64_t id,
				struct state_upload **ret);
MUST_CHECK int state_put_piece(struct state *, struct state_upload *,
			       const struct entry_place *);
/* Append to the queue a message like `like` with these parts.
 * -E_CORRUPT when ref does not rise. */
MUST_CHECK int state_put_entry(struct state *, struct state_queue *,
			       uint64_t ref, const struct entry *like,
			       const struct state_parts *);

/* Check every rule that ties the parts together; asserts. For tests. */
void state_check(const struct state *);

#endif
