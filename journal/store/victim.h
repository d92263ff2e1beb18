/* journal/store/victim.h: what of a file is still needed, window by window.
 *
 * A victim is a segment or an extent file that is to be emptied.  It is looked
 * through once for the lanes and uploads that have something in it; then each
 * plan takes the next part, bounded in bytes and messages, into a step for
 * copy.c.  Between two plans the state may change in any way but one: it must
 * not apply an EXTENTS record.
 *
 * Part of compact.c's work; thread: store. */
#ifndef JOURNAL_STORE_VICTIM_H
#define JOURNAL_STORE_VICTIM_H

#include "journal/store/copy.h"
#include "journal/store/state.h"

struct victim_lane {
	uint64_t queue;
	uint64_t next; /* ref: everything before has been planned */
	uint64_t last; /* ref of the last that was; 0: none */
};

struct victim_piece {
	uint64_t upload;
	uint32_t index;
};

struct victim {
	uint64_t key; /* 0: none */
	struct victim_lane *lanes;
	size_t lane_count, lane_capacity, lane_at;
	struct victim_piece *pieces;
	size_t piece_count, piece_capacity, piece_at;
	/* Of a segment: frames that are looked at together, so that what is
	 * read for one plan lies close together. */
	uint64_t frame_end, window_end, window_frames;
};

/* bytes: of a segment, up to where it is to be emptied.  -ENOMEM */
MUST_CHECK int victim_begin(struct victim *, const struct state *, uint64_t key,
			    uint64_t bytes);
/* Into an empty step; one that stays empty: all has been planned.  At most so
 * many runs and pieces will come of it, and a few more runs where they are
 * split for their size.  -ENOMEM, and the index's errors. */
MUST_CHECK int victim_plan(struct victim *, struct state *, uint32_t runs_max,
			   uint32_t pieces_max, struct copy_step *);
void victim_end(struct victim *); /* none now; harmless when it was none */

#endif
