/* tests/sim/history.h: what the journal's files say about who led when.
 *
 * Reads every frame in the directory with log_inspect(), which decides
 * nothing, and follows the chain of hashes backwards from what the present
 * leader has committed.  So it does not share the walk (journal/log/walk.c)
 * that it is to judge. */
#ifndef TESTS_SIM_HISTORY_H
#define TESTS_SIM_HISTORY_H

#include "journal/log/log.h"

/* What one leader has committed. */
struct history_leader {
	uint32_t epoch;
	struct log_position committed; /* its end */
};

/* Ends the process (model_fail()) unless there is one history, in which every
 * EPOCH-START follows what it names as its parent and cut; all that any of
 * the leaders has committed is part of it, as far as it is still there; and
 * no frame says that more of its epoch was acknowledged than the history
 * has.  The last of the leaders is the one that leads.  io: a node of the
 * same disk. */
void history_check(struct io *, const char *dir, const struct history_leader *,
		   size_t leader_count);

#endif
