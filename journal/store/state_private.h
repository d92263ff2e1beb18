/* journal/store/state_private.h: the state from inside, private to state*.c.
 *
 * state.c: the machine, addresses, queues.  state_file.c: the table of files.
 * state_upload.c: uploads and their pieces.  state_detail.c: details of runs,
 * in memory and in the index.  state_lane.c: entries and runs of a lane.
 * state_extents.c: what moves by an EXTENTS record.  state_check.c: the rules
 * that tie them together. */
#ifndef JOURNAL_STORE_STATE_PRIVATE_H
#define JOURNAL_STORE_STATE_PRIVATE_H

#include "journal/store/state.h"

/* ---- state.c ---- */
/* Sets why, unless it is set: the first sentence is the closest to the cause.
 * Returns err. */
PRINTF_LIKE(3, 4) int state_fail(struct state *, int err, const char *fmt, ...);
int state_no_memory(struct state *);
static inline void state_saw_id(struct state *s, uint64_t id)
{
	s->next_id = base_max(s->next_id, id + 1);
}

/* ---- state_file.c ---- */
#define STATE_NO_FILE UINT32_MAX /* state.file_free: none */
/* The file's slot, taking a free one when it has none.  It stays the file's
 * only once something in it is held: state_file_rest() when that is over. */
MUST_CHECK int state_file_slot(struct state *, uint64_t key,
			       uint32_t *ret_index);
void state_file_rest(struct state *, uint32_t index);
/* So many live messages or pieces in it, and bytes of theirs. */
void state_file_hold(struct state *, uint32_t index, uint64_t count,
		     uint64_t bytes);
void state_file_release(struct state *, uint32_t index, uint64_t count,
			uint64_t bytes);
MUST_CHECK int state_file_place(struct state *, const struct log_loc *,
				struct entry_place *ret);

/* ---- state_upload.c ---- */
MUST_CHECK int state_upload_piece(struct state *, const struct log_record *);
MUST_CHECK int state_upload_abort(struct state *, const struct log_record *);
/* The upload that a message at this LSN names, which is complete now. */
MUST_CHECK int state_upload_name(struct state *, uint64_t id,
				 uint32_t piece_count, uint64_t bytes,
				 uint64_t lsn, struct state_upload **ret);
void state_upload_free(struct state *, struct state_upload *);
/* The piece lies at offset in the extent file `index` now. */
MUST_CHECK int state_upload_move(struct state *, uint32_t index,
				 const struct record_piece_place *);

/* ---- state_detail.c ---- */
/* NULL: all there.  Valid until the next call that looks one up. */
MUST_CHECK int state_detail_get(struct state *, struct state_run *,
				struct detail **ret);
/* To be changed: made when all are there.  state_detail_changed() follows,
 * with what detail_bytes() was before. */
MUST_CHECK int state_detail_make(struct state *, struct state_run *,
				 struct detail **ret);
void state_detail_changed(struct state *, struct state_run *,
			  size_t bytes_before);
/* Give a run that has none a detail, which may be NULL: all there. */
void state_detail_set(struct state *, struct state_run *, struct detail *);
/* The run is going. */
void state_detail_drop(struct state *, struct state_run *);

/* ---- state_lane.c ---- */
/* A message at the lane's end; ret_ref is its name.  The queue's bytes rise
 * by `bytes`. */
MUST_CHECK int state_lane_push(struct state *, struct state_queue *,
			       const struct entry *like,
			       const struct state_parts *, uint64_t bytes);
/* What is there of [first, last] leaves the queue for good; refs of one
 * lane. */
MUST_CHECK int state_lane_remove(struct state *, struct state_queue *,
				 uint64_t first, uint64_t last);
/* The queue's messages have left, which had so many bytes. */
void state_lane_forget_bytes(struct state *, struct state_queue *,
			     uint64_t bytes);
void state_lane_free(struct state *, struct state_queue *, unsigned priority);
/* New deliveries and annotations of a message, if it is there. */
MUST_CHECK int state_lane_count(struct state *, struct state_queue *,
				const struct record_count *);
/* The lane's entries.bytes were so many. */
static inline void state_entries_changed(struct state *s,
					 const struct state_lane *lane,
					 size_t bytes_before)
{
	s->entry_bytes += lane->entries.bytes - bytes_before;
}
/* An entry gives back what it holds. */
void state_entry_forget(struct state *, struct entry *);
static inline uint64_t state_run_last(const struct state_run *r)
{
	return r->first + r->span - 1;
}
static inline uint64_t state_run_live_bytes(const struct state_run *r)
{
	return (uint64_t)r->bytes * r->live / r->copied;
}
/* Put it among the others of the lane, at this index; holds the file. */
MUST_CHECK int state_run_insert(struct state *, struct state_lane *,
				size_t index, struct state_run *);
/* Take [from, to) of lane->runs, which the caller has dropped or will. */
void state_run_cut(struct state_lane *, size_t from, size_t to);
/* Releases everything; the run is not in a lane any more. */
void state_run_drop(struct state *, struct state_run *);

/* ---- state_extents.c ---- */
MUST_CHECK int state_extents_apply(struct state *, const struct log_record *);

#endif
