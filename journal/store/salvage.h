/* journal/store/salvage.h: what is intact of a damaged data directory, put
 * into a new one.
 *
 * The broker refuses to start where something acknowledged is missing; this
 * is the way on for who has no backup and no peer.  Nothing is written to the
 * damaged directory.  Every message that can be read and is not known to have
 * left its queue is published again, under the queue's name and id, into a
 * fresh journal that a broker starts from; everything that cannot be had is
 * told.  In doubt a message is kept: it may come again, it is not lost.
 *
 * Memory is what a broker would need for the same directory, and one run of
 * messages.  Blocking; starts threads of its own. */
#ifndef JOURNAL_STORE_SALVAGE_H
#define JOURNAL_STORE_SALVAGE_H

#include <stdbool.h>

#include "base/crypto.h"

struct salvage_result {
	uint64_t queues, messages, bytes; /* written */
	uint64_t missing;      /* messages known to be there and not written */
	uint64_t lost_records; /* of the journal: with messages, or with */
			       /* acknowledgements, nobody knows */
	uint64_t maybe_again;  /* written, though perhaps acknowledged */
	uint64_t elsewhere;    /* written out of another copy than the */
			       /* one that counted, behind their queue */
	uint64_t nameless;     /* queues whose name is lost: "salvaged-<id>" */
	bool baseless; /* no checkpoint could be read, and the journal does
			  not go back to its beginning */
};

enum salvage_kind {
	SALVAGE_MESSAGES,   /* of one lane, that cannot be read */
	SALVAGE_RECORDS,    /* of the journal, first to last LSN */
	SALVAGE_CHECKPOINT, /* passed over */
	SALVAGE_EXTENTS,    /* a file not all of which can be read */
};

struct salvage_missing {
	enum salvage_kind kind;
	uint64_t queue;	  /* id; 0: not known */
	const char *name; /* of the queue, not terminated */
	uint16_t name_len;
	uint64_t first, last; /* refs, or LSNs; 0: not known */
	char file[64];	      /* "" or as in the directory */
	uint64_t offset;
	int err;
};

struct salvage_options {
	struct io *io;
	const char *dir;
	const char *to;			 /* an existing, empty directory */
	const struct crypto_key *master; /* of both */
	void (*missing)(void *ctx, const struct salvage_missing *);
	void (*progress)(void *ctx, const struct salvage_result *); /* or NULL*/
	void *ctx;
};

/* 0 also when something is missing.  Negative: it could not be done, why
 * says what stands in the way; the new directory is then to be thrown away.
 * -EAGAIN: a broker is running on the directory. */
MUST_CHECK int salvage_run(const struct salvage_options *,
			   struct salvage_result *ret, char *why,
			   size_t why_room);

#endif
