/* journal/store/record.h: what the journal's records mean.
 *
 * Each record is a meta part, encoded here field by field, and for three
 * types a body that this layer does not look into.  Byte tables:
 * docs/format/records.md.  Pure functions; [any] thread.
 *
 * A message in a queue is named by (queue id, ref).  The messages of one
 * priority in a queue are a *lane*; a ref is the lane and the message's number
 * in it.  Numbers begin at 1 and are given out without gaps, in the order of
 * the records that put messages there (ENQUEUE, MOVE), so whoever sees the
 * records in order knows every ref without being told, refs rise along a lane,
 * neighbours differ by one, and none is ever used twice. */
#ifndef JOURNAL_STORE_RECORD_H
#define JOURNAL_STORE_RECORD_H

#include "journal/log/log.h"

/* Types 16 to 27 had other meanings before extents, and are not read. */
enum record_type {
	/* A message: body = the encoded message, or empty when its bytes are
	 * the PIECE records of upload `upload`. */
	RECORD_ENQUEUE = LOG_TYPE_USER + 16,
	RECORD_PIECE,	     /* part of a large message; body = bytes */
	RECORD_UPLOAD_ABORT, /* the pieces of `upload` are garbage */
	RECORD_ACK,	     /* messages leave a queue for good */
	RECORD_COUNT,	     /* delivery count and annotations of a message */
	RECORD_MOVE,	     /* leaves one queue, enters others: one record;
				body as with ENQUEUE */
	RECORD_ADDRESS,	     /* an address exists with these properties */
	RECORD_ADDRESS_GONE,
	RECORD_QUEUE,	   /* a queue exists with these properties */
	RECORD_QUEUE_GONE, /* with everything in it */
	RECORD_EXTENTS,	   /* messages and pieces lie in another file now */
	RECORD_CHECKPOINT, /* a checkpoint file and its hash */
};

#define RECORD_NAME_MAX 1024u	/* bytes of an address or queue name */
#define RECORD_TARGET_MAX 4096u /* queues that one message enters */
#define RECORD_RANGE_MAX 4096u	/* ranges in one ACK */
#define RECORD_EXTRA_MAX 65536u /* bytes of annotations */
#define RECORD_RUN_MAX 4096u	/* runs, and pieces, in one EXTENTS */
#define RECORD_RUN_BYTES_MAX (4u * 1024u * 1024u) /* and messages, of a run */

/* ---- refs ---- */

#define RECORD_PRIORITIES 10u /* lanes of a queue; higher goes first */
#define RECORD_NUMBER_BITS 56u

static inline uint64_t record_ref(unsigned priority, uint64_t number)
{
	return (uint64_t)priority << RECORD_NUMBER_BITS | number;
}

static inline unsigned record_ref_priority(uint64_t ref)
{
	return (unsigned)(ref >> RECORD_NUMBER_BITS);
}

static inline uint64_t record_ref_number(uint64_t ref)
{
	return ref & ((1ull << RECORD_NUMBER_BITS) - 1);
}

/* What the broker needs to know of a message without reading its body. */
struct record_props {
	uint64_t expiry_ms;  /* wall clock; 0: never */
	uint64_t arrived_ms; /* wall clock at the broker */
	uint8_t priority;    /* 0–9; 4 is normal.  Names the lane. */
	uint8_t durable;     /* as the sender marked it */
	uint8_t format;	     /* 0: AMQP 1.0 encoded message */
	uint8_t reserved;
};

struct record_enqueue {
	struct record_props props;
	uint64_t upload;	 /* 0: the body is in this record */
	uint64_t bytes;		 /* of the whole message */
	uint32_t piece_count;	 /* at least 1 with an upload, else 0 */
	uint32_t target_count;	 /* at least 1 */
	const uint64_t *targets; /* queue ids.  Encoding: borrowed.  Decoding:
				    see record_enqueue_target() */
	const uint8_t *targets_encoded;
};

struct record_piece {
	uint64_t upload;
	uint32_t index; /* from 0 */
};

struct record_range {
	uint64_t first, last; /* refs of one lane, inclusive */
};

/* Messages in the ranges that have left before are no error.  Without ranges
 * it changes nothing: a mark in the stream. */
struct record_ack {
	uint64_t queue;
	uint64_t bytes; /* of the messages that leave by it, together */
	uint32_t range_count;
	const struct record_range *ranges; /* encoding */
	const uint8_t *ranges_encoded;	   /* decoding: record_ack_range() */
};

struct record_count {
	uint64_t queue, ref;
	uint32_t deliveries; /* from now on, not added */
	uint32_t extra_len;  /* 0: what the message has stays as it is */
	const void *extra;   /* opaque to the journal: the protocol's encoded
				annotations that override the message's own */
};

enum record_reason {
	RECORD_REASON_ATTEMPTS = 1, /* too many delivery attempts */
	RECORD_REASON_REJECTED,	    /* a consumer rejected it */
	RECORD_REASON_EXPIRED,
	RECORD_REASON_ADMIN,
};

/* Where a moved message came from. */
struct record_origin {
	const char *address, *queue; /* not terminated when decoded */
	uint16_t address_len, queue_len;
	uint8_t reason;
};

/* In the new queues the message has no deliveries yet.  It enters them also
 * when it has left the first meanwhile. */
struct record_move {
	uint64_t queue, ref;	   /* left */
	struct record_props props; /* in the new queues */
	uint64_t upload;	   /* as in record_enqueue */
	uint64_t bytes;
	uint32_t piece_count;
	struct record_origin origin;
	uint32_t extra_len; /* all of its annotations; 0: none */
	const void *extra;
	uint32_t target_count; /* at least 1 */
	const uint64_t *targets;
	const uint8_t *targets_encoded;
};

enum record_routing { RECORD_ANYCAST = 1, RECORD_MULTICAST = 2 };

struct record_address {
	uint64_t id;
	const char *name;
	uint16_t name_len;
	uint8_t routing; /* or-ed record_routing */
	uint8_t flags;	 /* RECORD_ADDRESS_AUTO… */
};

enum record_address_flag { RECORD_ADDRESS_AUTO_CREATED = 1 };

struct record_queue {
	uint64_t id;	  /* ids are never reused */
	uint64_t address; /* id */
	const char *name;
	uint16_t name_len;
	uint8_t routing; /* RECORD_ANYCAST or RECORD_MULTICAST */
	uint8_t flags;
};

enum record_queue_flag {
	RECORD_QUEUE_AUTO_CREATED = 1,
	RECORD_QUEUE_TEMPORARY = 2, /* gone after a restart */
	RECORD_QUEUE_PAUSED = 4,
};

struct record_queue_gone {
	uint64_t queue;
};

/* Part of an extent file: messages of one lane, by rising number.  Every
 * message with a body of its own that is in the lane from `first` on for
 * `span` numbers, and is still there when the record is applied, lies in the
 * run from now on; messages with an upload stay as they were. */
struct record_run {
	uint64_t queue, first;	/* ref */
	uint32_t span;		/* numbers from first to the last one copied */
	uint32_t copied;	/* messages in it */
	uint32_t offset, bytes; /* in the file's stream (extent.h) */
	uint64_t expiry_min_ms; /* of those that expire; 0: none does */
};

/* One piece of an upload that lies in an extent file from now on. */
struct record_piece_place {
	uint64_t upload;
	uint32_t index, offset; /* in the file's stream */
	uint32_t stored_len, body_len;
};

struct record_extents {
	uint64_t file;	     /* its key: store_file_key() */
	uint64_t file_bytes; /* its size on disk */
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint32_t run_count, piece_count;
	const struct record_run *runs;		 /* encoding */
	const struct record_piece_place *pieces; /* encoding */
	/* decoding: record_extents_each() */
	const uint8_t *encoded;
	size_t encoded_len;
};

struct record_checkpoint {
	uint64_t lsn; /* everything below is in it */
	uint8_t hash[CRYPTO_HASH_BYTES];
	const char *name; /* file name */
	uint16_t name_len;
};

/* Encoders write into buf and return the length; the needed room is at most
 * what record_*_room() says.  They assert on our own mistakes.
 * Decoders check everything: 0 or -E_CORRUPT; what they return is borrowed
 * from the meta. */
size_t record_enqueue_room(uint32_t target_count);
size_t record_enqueue_encode(const struct record_enqueue *, void *buf);
MUST_CHECK int record_enqueue_decode(const void *meta, size_t len,
				     struct record_enqueue *ret);
uint64_t record_enqueue_target(const struct record_enqueue *, uint32_t index);

#define RECORD_PIECE_ROOM 16u
size_t record_piece_encode(const struct record_piece *, void *buf);
MUST_CHECK int record_piece_decode(const void *meta, size_t len,
				   struct record_piece *ret);
/* UPLOAD_ABORT carries the upload id alone. */
#define RECORD_UPLOAD_ABORT_ROOM 8u
size_t record_upload_abort_encode(uint64_t upload, void *buf);
MUST_CHECK int record_upload_abort_decode(const void *meta, size_t len,
					  uint64_t *ret_upload);

size_t record_ack_room(uint32_t range_count);
size_t record_ack_encode(const struct record_ack *, void *buf);
MUST_CHECK int record_ack_decode(const void *meta, size_t len,
				 struct record_ack *ret);
struct record_range record_ack_range(const struct record_ack *, uint32_t index);

size_t record_count_room(uint32_t extra_len);
size_t record_count_encode(const struct record_count *, void *buf);
MUST_CHECK int record_count_decode(const void *meta, size_t len,
				   struct record_count *ret);

size_t record_move_room(const struct record_move *);
size_t record_move_encode(const struct record_move *, void *buf);
MUST_CHECK int record_move_decode(const void *meta, size_t len,
				  struct record_move *ret);
uint64_t record_move_target(const struct record_move *, uint32_t index);

#define RECORD_ADDRESS_ROOM (32u + RECORD_NAME_MAX)
size_t record_address_encode(const struct record_address *, void *buf);
MUST_CHECK int record_address_decode(const void *meta, size_t len,
				     struct record_address *ret);
/* ADDRESS_GONE and QUEUE_GONE carry an id alone. */
#define RECORD_GONE_ROOM 8u
size_t record_gone_encode(uint64_t id, void *buf);
MUST_CHECK int record_gone_decode(const void *meta, size_t len,
				  uint64_t *ret_id);

#define RECORD_QUEUE_ROOM (32u + RECORD_NAME_MAX)
size_t record_queue_encode(const struct record_queue *, void *buf);
MUST_CHECK int record_queue_decode(const void *meta, size_t len,
				   struct record_queue *ret);

size_t record_extents_room(const struct record_extents *);
size_t record_extents_encode(const struct record_extents *, void *buf);
/* Checks all of it. */
MUST_CHECK int record_extents_decode(const void *meta, size_t len,
				     struct record_extents *ret);
/* Runs first, then pieces; stops at the first non-zero and returns it. */
int record_extents_each(const struct record_extents *,
			int (*run)(void *ctx, const struct record_run *),
			int (*piece)(void *ctx,
				     const struct record_piece_place *),
			void *ctx);

#define RECORD_CHECKPOINT_ROOM 320u
size_t record_checkpoint_encode(const struct record_checkpoint *, void *buf);
MUST_CHECK int record_checkpoint_decode(const void *meta, size_t len,
					struct record_checkpoint *ret);

/* "ENQUEUE" and so on, for journal inspect; NULL when unknown. */
const char *record_type_name(uint8_t type);

#endif
