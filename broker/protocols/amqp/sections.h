/* broker/protocols/amqp/sections.h: the parts of an encoded AMQP message.
 *
 * A message is stored as it came; the broker reads only what it needs and
 * rewrites, on redelivery, only the header and the message annotations.
 * AMQP 1.0 part 3, section 3.2.  Pure functions; [any] thread. */
#ifndef BROKER_PROTOCOLS_AMQP_SECTIONS_H
#define BROKER_PROTOCOLS_AMQP_SECTIONS_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"
#include "journal/store/record.h"

/* Offsets are from the start of the message; a section that is missing is
 * empty at the place where it would be. */
struct sections {
	uint32_t header_end;	 /* starts at 0 */
	uint32_t annotations_at; /* message annotations; the delivery
				    annotations lie before them */
	uint32_t annotations_end;
	bool durable, has_priority, has_ttl;
	uint8_t priority;
	uint32_t ttl_ms;
	uint64_t absolute_expiry_ms; /* 0: none */
	const char *to;		     /* borrowed, not terminated; may be NULL */
	uint32_t to_len;
	const uint8_t *map; /* elements of the message annotations' map */
	uint32_t map_len, map_count;
};

/* whole: data is the complete message, and every section is checked for its
 * place and length.  Otherwise it is the beginning of one, and a section that
 * does not end in it is treated as missing.  0 or -E_CORRUPT. */
MUST_CHECK int sections_scan(const void *data, size_t len, bool whole,
			     struct sections *ret);

/* Fills in expiry, priority and durable.  now_ms: wall clock; only looked at
 * where there is a ttl. */
void sections_props(const struct sections *, uint64_t now_ms,
		    struct record_props *ret);

struct sections_changes {
	uint32_t delivery_count;
	const void *extra; /* as made by sections_merge(); may be NULL */
	uint32_t extra_len;
	const struct record_origin *origin; /* may be NULL */
};
/* Room that sections_prefix() may need. */
size_t sections_prefix_room(const struct sections *,
			    const struct sections_changes *);
/* Writes the header (first-acquirer false), the delivery annotations as they
 * were and the changed message annotations; what follows in the message from
 * annotations_end on goes after it unchanged.  *ret_len bytes.  -E_CORRUPT:
 * the annotations are malformed; -ENOSPC: room is too small. */
MUST_CHECK int sections_prefix(const void *data, const struct sections *,
			       const struct sections_changes *, void *buf,
			       size_t room, size_t *ret_len);

/* Lays an encoded annotations map (what a receiver sent with `modified`) over
 * earlier extra annotations.  The result is an encoded map as well, at most
 * room bytes.  -E_CORRUPT, -E_LIMIT (does not fit). */
MUST_CHECK int sections_merge(const void *earlier, uint32_t earlier_len,
			      const void *map, size_t map_len, void *buf,
			      size_t room, uint32_t *ret_len);

#endif
