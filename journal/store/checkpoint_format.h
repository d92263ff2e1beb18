/* journal/store/checkpoint_format.h: what writing and reading a checkpoint
 * share, private to checkpoint*.c.
 *
 * The stream is a sequence of blocks, each a length and that many bytes of
 * whole items, so that neither side ever holds more than one block and an
 * item is decoded from memory. */
#ifndef JOURNAL_STORE_CHECKPOINT_FORMAT_H
#define JOURNAL_STORE_CHECKPOINT_FORMAT_H

#include "journal/store/checkpoint.h"

#define CHECKPOINT_VERSION 2u
#define CHECKPOINT_END_MARK 0x21444e45u /* "END!" */

#define CHECKPOINT_BLOCK_BYTES 65536u /* flushed when this full */
/* The largest item is an entry with all its parts. */
#define CHECKPOINT_ITEM_BYTES_MAX                                              \
	(RECORD_EXTRA_MAX + 2 * RECORD_NAME_MAX + 256u)
#define CHECKPOINT_BLOCK_BYTES_MAX                                             \
	(CHECKPOINT_BLOCK_BYTES + CHECKPOINT_ITEM_BYTES_MAX)

enum entry_flag {
	ENTRY_DURABLE = 1,
	ENTRY_EXPIRES = 2,
	ENTRY_DELIVERED = 4,
	ENTRY_UPLOAD = 8,
	ENTRY_EXTRA = 16,
	ENTRY_MOVED = 32,
	ENTRY_FLAGS = 63,
};

enum run_flag {
	RUN_EXPIRES = 1,
	RUN_DETAIL = 2,
	RUN_FLAGS = 3,
};

#define CHECKPOINT_DETAIL_CHUNK 65536u /* a detail is so many bytes an item */
#define DETAIL_BYTES_MAX (1u << 30)

/* Everything, into a blob that has been created, or from one. */
MUST_CHECK int checkpoint_put_state(struct state *, const struct log_position *,
				    struct blob_writer *);
MUST_CHECK int checkpoint_get_state(struct blob_reader *, struct state *,
				    struct log_position *ret);

#endif
