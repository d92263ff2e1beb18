/* tools/store_view.h: what a data directory's store holds, seen from outside.
 *
 * The newest checkpoint that is whole, and the journal's history behind it:
 * what the broker would recover, without its claim.  Nothing is written, no
 * lock is taken; a broker may be at work in the directory meanwhile, then the
 * view is of some moment since it was begun.  Needs the key.  Blocking. */
#ifndef TOOLS_STORE_VIEW_H
#define TOOLS_STORE_VIEW_H

#include "journal/store/checkpoint.h"

struct store_view {
	struct io *io;
	const char *dir;
	uint8_t cluster_id[16];
	struct checkpoint_place place;
	struct state state;
	char checkpoint[CHECKPOINT_NAME_BYTES]; /* ""; none was needed */
	uint64_t end_lsn;			/* everything below is in it */
	/* NULL, or why the journal's history could not be followed to its
	 * end. */
	const char *cut_short;
	char text[256];
};

/* io, dir and master are borrowed.  -ENOENT: not a data directory; -E_KEY;
 * -E_CORRUPT: no checkpoint can be read; -ENOMEM. */
MUST_CHECK int store_view_load(struct store_view *, struct io *,
			       const char *dir,
			       const struct crypto_key *master);
void store_view_fini(struct store_view *); /* also of a zeroed one */

/* Messages of one lane that lie in a part of a file. */
struct store_view_hit {
	const struct state_queue *queue;
	uint64_t first, last; /* refs */
	uint64_t messages;
};
/* What is needed of the bytes [offset, offset + bytes) of a file, as they are
 * counted in the file: for each lane that has something there. */
void store_view_each_hit(const struct store_view *, uint64_t file_key,
			 uint64_t offset, uint64_t bytes,
			 void (*each)(void *ctx, const struct store_view_hit *),
			 void *ctx);

#endif
