/* journal/store/salvage_private.h: between the files of salvage.
 *
 *   salvage.c        the way from one directory to the other, the report
 *   salvage_model.c  which messages there are, as far as it can be known
 *   salvage_read.c   their bytes
 *   salvage_write.c  the new journal */
#ifndef JOURNAL_STORE_SALVAGE_PRIVATE_H
#define JOURNAL_STORE_SALVAGE_PRIVATE_H

#include "base/compress.h"
#include "journal/log/salvage.h"
#include "journal/store/checkpoint.h"
#include "journal/store/ranges.h"
#include "journal/store/salvage.h"

#define SALVAGE_WHY_BYTES 512u

/* ---- salvage_model.c ----
 *
 * Messages are named by counting.  Behind records that are lost, what a lane
 * counted there is not known: it is somewhere between nothing and all of
 * them.  So the lane's count goes on as if all had been messages of this
 * lane, and every message behind has a number that is too high by at most its
 * *slack*.  An acknowledgement is of true numbers, so such a message has left
 * for certain only when every number that it may truly have is acknowledged.
 */

#define SALVAGE_SLACK_ANY UINT64_MAX

struct salvage_reader;

struct salvage_zone {
	uint64_t first; /* number, as counted here */
	uint64_t slack;
};

struct salvage_lane {
	uint64_t base; /* true numbers from here on are not known; 0: all are */
	struct salvage_zone *zones;
	size_t zone_count;
	struct ranges acked;   /* true numbers, from base on */
	struct ranges written; /* true numbers, out of extent files */
};

struct salvage_queue {
	uint64_t id;
	struct salvage_lane lanes[RECORD_PRIORITIES];
};

enum salvage_verdict { SALVAGE_THERE, SALVAGE_DOUBTFUL, SALVAGE_LEFT };

struct salvage_model {
	const struct salvage_options *options;
	struct salvage_result *result;
	struct blob_identity identity;
	struct log_salvage *log;
	struct state state;
	struct idmap queues; /* struct salvage_queue, for those that need it */
	struct ranges gone;  /* ids of queues that were deleted */
	uint64_t gaps;
	uint64_t doubtful_id; /* ids from here on may be of lost records */
	char *why;	      /* SALVAGE_WHY_BYTES */
	struct salvage_reader *reader; /* made before loading */
};

/* Reads what there is.  options, result, identity, log, reader and why are
 * set by the caller. */
MUST_CHECK int salvage_model_load(struct salvage_model *);
void salvage_model_fini(struct salvage_model *);
enum salvage_verdict salvage_model_verdict(struct salvage_model *,
					   uint64_t queue, uint64_t ref);
/* The lane, made when missing.  NULL: no memory. */
struct salvage_lane *salvage_model_lane(struct salvage_model *, uint64_t queue,
					uint64_t ref);
/* A queue whose name is lost, unless it is known or was deleted. */
MUST_CHECK int salvage_model_nameless(struct salvage_model *, uint64_t queue);

/* ---- salvage_read.c ---- */

struct salvage_message {
	uint64_t ref;
	struct record_props props;
	uint64_t bytes;
	const void *body; /* expanded; NULL with an upload */
	bool packed;	  /* it was compressed */
	const struct state_upload *upload;
	uint32_t deliveries, extra_len;
	const void *extra;
	struct record_origin origin; /* reason 0: never moved */
};

struct salvage_visit {
	int (*message)(void *ctx, uint64_t queue,
		       const struct salvage_message *);
	/* Messages of one lane that cannot be read. */
	int (*missing)(void *ctx, uint64_t queue, uint64_t first, uint64_t last,
		       uint64_t file, uint64_t offset, int err);
	void *ctx;
};
MUST_CHECK int salvage_reader_create(struct salvage_model *,
				     struct salvage_reader **ret);
void salvage_reader_free(struct salvage_reader *); /* NULL-safe */
/* Every message of a queue that the model has, in the order of each lane.
 * Stops at and returns the first non-zero of a visit. */
MUST_CHECK int salvage_read_queue(struct salvage_reader *, struct state_queue *,
				  const struct salvage_visit *);
/* Which messages a run holds, by its number − the run's first. */
MUST_CHECK int salvage_read_refs(struct salvage_reader *, uint64_t file,
				 const struct record_run *,
				 int (*each)(void *ctx, uint32_t at),
				 void *ctx);
/* One piece of an upload, expanded; borrowed until the next call.
 * -E_CORRUPT and other damage: *ret_file and *ret_offset say where. */
MUST_CHECK int salvage_read_piece(struct salvage_reader *,
				  const struct entry_place *, const void **ret,
				  uint64_t *ret_file, uint64_t *ret_offset);
/* Expands what an extent file holds; borrowed until the next call. */
MUST_CHECK int salvage_expand(struct salvage_reader *, const void *stored,
			      uint32_t stored_len, uint32_t body_len,
			      const void **ret);
/* "segments/…" or "extents/…" of a file's key. */
void salvage_file_name(uint64_t key, char ret[64]);

/* ---- salvage_write.c ---- */

struct salvage_target;
/* A journal in options->to, with a store beside it, both running. */
MUST_CHECK int salvage_target_open(const struct salvage_options *, char *why,
				   struct salvage_target **ret);
MUST_CHECK int salvage_target_address(struct salvage_target *,
				      const struct record_address *);
MUST_CHECK int salvage_target_queue(struct salvage_target *,
				    const struct record_queue *);
/* Those with an upload come behind their pieces. upload: its new id, or 0. */
MUST_CHECK int salvage_target_message(struct salvage_target *, uint64_t queue,
				      const struct salvage_message *,
				      uint64_t upload);
MUST_CHECK int salvage_target_piece(struct salvage_target *, uint64_t upload,
				    uint32_t index, const void *data,
				    uint32_t len);
MUST_CHECK int salvage_target_abort(struct salvage_target *, uint64_t upload);
/* Everything durable and stopped; frees, also on failure. */
MUST_CHECK int salvage_target_finish(struct salvage_target *);
void salvage_target_abandon(struct salvage_target *); /* NULL-safe */

#endif
