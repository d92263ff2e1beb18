/* journal/store/fetch.h: a request while it is being read; private to fetch.c
 * (its way) and merge.c (its results).  On the reader's loop. */
#ifndef JOURNAL_STORE_FETCH_H
#define JOURNAL_STORE_FETCH_H

#include "base/compress.h"
#include "journal/store/extent_read.h"
#include "journal/store/internal.h"

struct store_reader {
	struct store *store;
	struct loop *loop;
	struct log_reader *log;
	struct extent_files *files;
	struct compress *compress;
	struct list jobs;    /* with the store, or being read */
	struct list waiting; /* with a plan */
	unsigned reading;
	bool pumping;
};

/* A body in a segment. */
struct body {
	struct log_read read;
	struct job *job;
	const struct log_loc *loc;
	void *buf;
	int err;
};

/* A message of the run that is wanted, as the index says. */
struct wanted {
	uint32_t at, offset, bytes;
};

struct job {
	struct list link;
	struct loop_mail mail;
	struct store_reader *reader;
	struct store_fetch *fetch; /* or */
	struct store_piece *piece;
	uint64_t from; /* ref */
	unsigned plans;
	struct plan *plan;
	int err;    /* ends it */
	bool gone;  /* a file was not there */
	bool again; /* something seemed damaged, and is read once more */
	unsigned pending;

	struct body *bodies; /* of the plan's entries, in their order */
	uint32_t body_count, body_next;
	uint8_t *body_data;

	struct extent_read index, part; /* a whole run: in index alone */
	struct extent_head head;
	int run_err; /* nothing of the run can be had */
	uint32_t run_err_chunk;
	uint32_t there; /* messages of the run that are wanted */
	struct wanted *wanted;
	uint32_t wanted_count;

	struct store_message *messages;
	uint8_t *expanded;
};

/* ---- the part of the run that is wanted, as numbers from its first ---- */

/* The next one at or behind `at` that was there when the plan was made. */
uint32_t fetch_run_next(const struct job *, uint32_t at);
uint32_t fetch_run_first(const struct job *);
uint32_t fetch_run_end(const struct job *); /* exclusive */

/* ---- merge.c ---- */

/* Everything that could be read is there: makes the fetch's results and
 * reports what could not.  An error ends the fetch. */
MUST_CHECK int fetch_merge(struct job *);
MUST_CHECK int fetch_unpack(struct store_reader *, const void *stored,
			    uint32_t stored_len, void *buf, uint32_t len);
void fetch_report(struct job *, uint64_t key, uint64_t offset, uint64_t bytes,
		  uint64_t first, uint64_t last, int err);

#endif
