/* journal/store/copy.h: writing what is moved into an extent file.
 *
 * The extents loop's half of compact.c.  It sees no state: a *step* names
 * what to read and where it lies, as of the moment it was planned, and what
 * is not there any more by then is left out.  What is damaged is reported and
 * left out, too, and a run never covers it: the run ends before it and
 * another begins behind it.  One step at a time; at most one file is written.
 *
 * Steps are made and looked at on the store's thread. */
#ifndef JOURNAL_STORE_COPY_H
#define JOURNAL_STORE_COPY_H

#include "journal/store/detail.h"
#include "journal/store/extent.h"

struct store;
struct copier;

#define COPY_BYTES_MAX (16u * 1024u * 1024u) /* read by a step, about */
#define COPY_ITEMS_MAX 32768u

enum copy_kind {
	COPY_WINDOW,  /* into the file, which is made when there is none */
	COPY_FINISH,  /* the file: durable, and what it holds in `record` */
	COPY_ABANDON, /* the file is removed */
};

/* What few messages have; one allocation. */
struct copy_parts {
	struct record_origin origin;
	const void *extra;
	uint32_t extra_len;
	char data[];
};

/* A message that lies in a segment, or a piece of an upload. */
struct copy_item {
	uint64_t queue, ref;
	uint64_t upload; /* 0: a message; else a piece, wherever it lies */
	uint32_t index;	 /* of the piece */
	uint32_t deliveries;
	struct record_props props;
	struct log_loc loc;	  /* segment: the file's key */
	struct copy_parts *parts; /* owned; NULL: none */
	bool begin;		  /* no run may hold it and the one before it */
	int err;		  /* private to copy.c, as is the next */
	uint8_t *stored;
};

/* A run of an extent file. */
struct copy_run {
	uint64_t queue, first;
	uint32_t span, offset, bytes;
	bool begin;
	struct detail *detail; /* owned; NULL: all there, as written */
};

struct copy_step {
	enum copy_kind kind;
	uint64_t key;	 /* of the file to write */
	uint64_t source; /* key of the file to read */
	/* Runs first, then items; messages by queue, lane and number. */
	struct copy_run *runs;
	size_t run_count, run_capacity;
	struct copy_item *items;
	size_t item_count, item_capacity;
	uint64_t bytes;			  /* of both */
	void (*done)(struct copy_step *); /* [store] */

	/* Results.  After an error there is no file any more; -ENOSPC and
	 * -ENOMEM may pass. */
	int err;
	bool full; /* the file could not take all of it */
	uint64_t file_bytes;
	uint32_t file_runs, file_pieces;
	struct record_extents record; /* FINISH; its arrays are the caller's */

	/* private */
	struct loop_mail mail;
	struct copier *copier;
};

MUST_CHECK int copy_add_item(struct copy_step *, struct copy_item **ret);
MUST_CHECK int copy_add_run(struct copy_step *, struct copy_run **ret);
/* Frees runs and items; the step may be filled again. */
void copy_step_clear(struct copy_step *);

/* Before the loops run. */
MUST_CHECK int copier_create(struct store *, struct loop *extents,
			     struct copier **ret);
/* [store] The step is the copier's until done(). */
void copier_run(struct copier *, struct copy_step *);
/* After the loops' end; removes an unfinished file.  NULL-safe. */
void copier_free(struct copier *);

#endif
