/* journal/log/writer.h: the writer's state, shared by writer.c, which decides
 * when and where, rotate.c, which has room made, build.c, which makes the
 * bytes, and notes.c, which tells.
 *
 * Thread: whoever has entered the writer (writer.c) owns all of it but what is
 * marked: the journal thread, or a loop that has appended. */
#ifndef JOURNAL_LOG_WRITER_H
#define JOURNAL_LOG_WRITER_H

#include "journal/log/internal.h"

enum log_slot_state { SLOT_FREE, SLOT_WRITING, SLOT_WRITTEN };

struct log_slot {
	struct loop_op op;
	struct log_writer *writer;
	enum log_slot_state state;
	int res;	   /* of the write, once it is over; */
	_Atomic bool over; /* both by the loop that wrote */
	struct log_sink *sink;
	struct log_frame frame;
	uint8_t *buf; /* LOG_FRAME_BYTES_MAX */
	struct log_append *first, *last;
	struct log_batch *batch;
	uint64_t payload_bytes;
	uint64_t built_ns;
};

enum log_next_state { NEXT_NONE, NEXT_ASKED, NEXT_READY };

struct log_writer {
	struct log *log;
	struct log_slot slots[LOG_IN_FLIGHT_MAX];
	unsigned slot_head, slot_count; /* the ring's used part */
	unsigned ops_in_flight;
	uint32_t frame_bytes; /* moving average of the last frames */
	uint32_t lone_frames; /* of one record each, in a row */
	uint32_t lone_us;     /* moving average of what they took */
	uint8_t *plain;	      /* LOG_FRAME_BYTES_MAX */
	struct compress *compress;

	struct log_append *waiting, **waiting_tail;
	uint64_t waiting_bytes;

	/* Where the next frame goes. */
	struct log_sink *sink;
	uint64_t offset;
	uint64_t next_lsn;
	uint8_t chain[LOG_CHAIN_BYTES];
	uint64_t durable_lsn; /* end of what is acknowledged */
	uint64_t passed;      /* segment of the last committed frame */

	enum log_next_state next_state;
	struct log_sink *next;
	uint32_t next_sequence;

	struct log_batch *start_batch; /* EPOCH-START, until it is told */
	uint64_t commit_ns;	       /* of the last commit */
	bool idle_wanted;	       /* it was not an idle mark */
	bool idle_armed; /* the timer runs, or the journal thread will see
			    to it */
	bool next_due;	 /* the journal thread is to see to the segment */
	bool failed;
	bool stopping;
	struct loop *on; /* of who has entered */

	/* any thread */
	_Atomic bool entered;
	_Atomic bool again; /* somebody came in vain meanwhile */
	struct loop_mail pump_mail, idle_mail;
	_Atomic bool pump_posted, idle_posted;

	/* journal thread; what has come there and waits for the pump */
	struct loop_task pump;
	struct loop_timer idle_timer;
	bool incoming_due, latch_due, idle_due;
	struct log_sink *prepared;
	void (*stop_done)(void *ctx);
	void *stop_ctx;
};

static inline uint64_t log_append_bytes(const struct log_append *a)
{
	return LOG_RECORD_HEADER_BYTES + a->meta_len + a->body_len;
}

/* ---- rotate.c ---- */

/* [journal] Asks for the next segment, and hurries the one that was asked for
 * when this one is nearly full. */
void log_rotate_ask(struct log_writer *);
/* That is to be done. */
bool log_rotate_is_due(const struct log_writer *);
/* [journal] 1 when a record of `bytes` can be written now; 0 when the next
 * segment is still being made; negative when there will be none. */
MUST_CHECK int log_rotate_room(struct log_writer *, uint64_t bytes);
/* Closes what is rotated away, once nothing is in flight on it. */
void log_rotate_unref(struct log_sink *);
/* Before the loop runs: the first segment of the epoch.  It may use the
 * reserve, and be shorter than others: a broker with a full disk must be able
 * to start, so that its messages can be consumed. */
MUST_CHECK int log_rotate_start(struct log_writer *);

/* ---- notes.c ---- */

/* Notes of one commit, gathered by loop so that each is woken once.  Begins as
 * zeros. */
struct log_notes {
	struct {
		struct loop *to;
		struct loop_mail *first, *last;
	} chains[32];
	unsigned count, latest;
};
/* Gathers what a list of appends is to be told.  Appends are gone once their
 * notes are posted, and that may be before log_notes_post(), so the list has
 * been walked by then. */
void log_notes_tell(struct log *, struct log_append *first, int err,
		    struct log_notes *);
void log_notes_post(struct log_notes *);

/* ---- build.c ---- */

/* Payload bytes that a frame of at most frame_bytes_max may have at the
 * current offset. */
uint32_t log_build_room(const struct log_writer *, uint32_t frame_bytes_max);
/* A frame of one record of the log's own, sealed in the slot's buffer; the
 * writer's offset, LSN and chain value move on behind it. */
MUST_CHECK int log_build_own(struct log_writer *, struct log_slot *,
			     uint8_t type, const void *meta, uint32_t meta_len);
/* The same of what waits, as much as fits.  The first record does; the caller
 * has seen to it. */
MUST_CHECK int log_build_waiting(struct log_writer *, struct log_slot *);

#endif
