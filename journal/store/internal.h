/* journal/store/internal.h: the store from inside, private to journal/store/.
 *
 * Threads.  *store*: the state, checkpoints, plans (what lies where, as of
 * now).  *extents*: copying into extent files, removing files, scrubbing:
 * whatever blocks for long; it never sees the state, only plans.  *readers'
 * loops*: reading what a plan names. */
#ifndef JOURNAL_STORE_INTERNAL_H
#define JOURNAL_STORE_INTERNAL_H

#include "journal/store/checkpoint.h"
#include "journal/store/recovery.h"
#include "journal/store/state.h"
#include "journal/store/store.h"

struct compact;
struct scrub;
struct quarantine;

struct store {
	struct store_options options;
	char *dir;
	struct checkpoint_place place; /* identity of all blobs */
	struct log *log;
	struct state state; /* [store] */
	struct recovery recovery;
	char why[RECOVERY_TEXT_BYTES], warning[RECOVERY_TEXT_BYTES];

	/* Any thread: batches newest first, linked through their mail. */
	_Atomic(struct loop_mail *) inbox;
	_Atomic uint64_t inbox_bytes;
	_Atomic(struct loop *) loop;
	struct loop *extents_loop;
	_Atomic bool posted, behind;
	struct loop_mail mail;
	struct store_stats stats;
	struct compact *compact;       /* compact.c */
	struct scrub *scrub;	       /* scrub.c */
	struct quarantine *quarantine; /* quarantine.c */

	/* The store's loop. */
	struct log_position position; /* behind the last applied batch */
	bool positioned, failed;
	struct loop_timer timer;
	uint64_t checkpoint_at_ns;    /* when the last one was begun */
	uint64_t journal_bytes;	      /* since then */
	uint64_t touches, touched_ns; /* of the state: when it last changed */
	uint64_t changes_covered;     /* state.changes then */
	bool segments_waiting; /* dead ones that the older does not cover */
	struct checkpoint_file kept[2]; /* newest first */
	size_t kept_count;

	/* The checkpoint whose record is being committed. */
	bool recording;
	struct checkpoint_file written;
	uint64_t written_bytes;
	uint8_t meta[RECORD_CHECKPOINT_ROOM];
	struct log_append append;
	struct log_note note;

	bool stopping;
	struct loop_task stop_task;
	void (*stop_done)(void *ctx);
	void *stop_ctx;
};

/* ---- store.c ---- [store] */
/* Applies everything that has been taken, so that the state knows all that
 * anybody has been told.  NULL: the store has failed. */
struct state *store_now(struct store *);
/* The process is to exit. */
PRINTF_LIKE(3, 4)
void store_fail(struct store *, int err, const char *fmt, ...);
/* Something that was being written is done: go on with store_stop(). */
void store_idle(struct store *);

/* ---- presence.c ---- */
/* After recovery: every segment and extent file in which something is live is
 * there, and extent files as long as they were written.  -E_LOST; why is set
 * with any error. */
MUST_CHECK int presence_check(struct store *);

/* ---- compact.c: what is moved to extents, and when ---- [store] */
MUST_CHECK int compact_create(struct store *, struct compact **ret);
/* Before the loops run, once they are known. */
MUST_CHECK int compact_start(struct store *);
/* Something was applied: begin a step if one is due.  Bounded work, and next
 * to none unless a segment has been closed. */
void compact_consider(struct store *);
/* The same, with a look at all files: what is live in them has changed. */
void compact_look(struct store *);
bool compact_is_busy(const struct compact *);
/* Begin nothing more; store_idle() when nothing is under way. */
void compact_stop(struct store *);
void compact_free(struct compact *); /* NULL-safe; after the loops' end */
/* Before the loops run, after recovery and a claim check: extent files that
 * the state does not know were never recorded; away with them. */
MUST_CHECK int compact_remove_strays(struct store *);
/* Extent files in which nothing is any more.  After a claim check. */
MUST_CHECK int compact_remove_dead(struct store *);

/* ---- scrub.c ---- */
MUST_CHECK int scrub_create(struct store *, struct scrub **ret);
void scrub_start(struct store *); /* [store], once */
void scrub_stop(struct store *);  /* [store]; store_idle() when it rests */
bool scrub_is_busy(const struct scrub *);
void scrub_free(struct scrub *); /* NULL-safe; after the loops' end */

/* ---- quarantine.c ---- [any] */
MUST_CHECK int quarantine_create(struct quarantine **ret);
void quarantine_free(struct quarantine *); /* NULL-safe */
/* [store] After files were removed: what lay in them is history. */
void quarantine_forget_file(struct store *, const char *file);

/* ---- plan.c: what a fetch has to read ---- [store] */

struct plan_entry { /* a message in the journal, or in pieces */
	struct store_message message; /* strings, extra and piece_bytes belong
					 to the plan */
	struct log_loc loc;
	void *data; /* where they are; NULL: there are none */
};

struct plan { /* made on the store's thread, then the reader's alone */
	struct plan_entry *entries;
	uint32_t entry_count;
	/* The run that is to be read too, and merged by ref; key 0: none. */
	struct {
		uint64_t key; /* of its file */
		uint64_t first;
		uint32_t span, offset, bytes;
		uint64_t file_bytes;
		uint64_t want_first, want_end; /* refs: this part of it */
		struct detail *detail;	       /* NULL: all there */
	} run;
	uint64_t next;	    /* after all of it has been returned */
	uint64_t expiry_ms; /* of what was left out because it does not
			       expire yet */
	/* For a piece. */
	struct log_loc piece;
};
/* What is next in fetch's range from the ref `from` on.  A step of bounded
 * work: there may be nothing in it and more behind plan->next. */
MUST_CHECK int plan_fetch(struct state *, const struct store_fetch *,
			  uint64_t from, struct plan **ret);
/* -ENOENT: no such piece any more. */
MUST_CHECK int plan_piece(struct state *, const struct store_piece *,
			  struct plan **ret);
void plan_free(struct plan *); /* NULL-safe */

#endif
