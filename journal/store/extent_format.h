/* journal/store/extent_format.h: where things lie in an extent file's stream.
 * Private to extent.c and extent_each.c.  Tables: docs/format/extent.md. */
#ifndef JOURNAL_STORE_EXTENT_FORMAT_H
#define JOURNAL_STORE_EXTENT_FORMAT_H

#include "journal/store/extent.h"

#define EXTENT_RUN_MAGIC 0x4e555248u	/* "HRUN" */
#define EXTENT_PIECE_MAGIC 0x45435048u	/* "HPCE" */
#define EXTENT_FOOTER_MAGIC 0x4c425448u /* "HTBL" */
#define EXTENT_FOOTER_BYTES 16u

enum extent_run_at {
	AT_HEAD_MAGIC = 0, /* of pieces, too */
	AT_RUN_COUNT = 4,
	AT_RUN_QUEUE = 8,
	AT_RUN_FIRST = 16,
	AT_RUN_INDEX_BYTES = 24,
	AT_RUN_BYTES = 28,
};

enum extent_piece_at {
	AT_PIECE_INDEX = 4,
	AT_PIECE_UPLOAD = 8,
	AT_PIECE_STORED = 16,
	AT_PIECE_BODY = 20,
	AT_PIECE_ZERO = 24, /* eight bytes */
};

enum extent_footer_at {
	AT_FOOTER_MAGIC = 0,
	AT_FOOTER_COUNT = 4,
	AT_FOOTER_TABLE = 8,
	AT_FOOTER_ZERO = 12,
};

enum extent_message_flag {
	MESSAGE_DURABLE = 1,
	MESSAGE_EXPIRES = 2,
	MESSAGE_DELIVERED = 4,
	MESSAGE_EXTRA = 8,
	MESSAGE_MOVED = 16,
	MESSAGE_PACKED = 32,
	MESSAGE_FLAGS = 63,
};

#endif
