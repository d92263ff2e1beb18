/* bench/load/amqp_frames.h: the AMQP 1.0 frames that the load generator
 * writes.
 *
 * Written by hand for the reason given in tools/bench_wire.h: a library costs
 * more than the broker that is to be measured.  Each function appends whole
 * frames to the wire's out buffer and keeps no state.
 *
 * OASIS AMQP 1.0 parts 1 (types), 2 (transport), 3 (messages), 5 (SASL). */
#ifndef BENCH_LOAD_AMQP_FRAMES_H
#define BENCH_LOAD_AMQP_FRAMES_H

#include "bench/load/wire.h"

#define AMQP_FRAMES_BYTES_MAX (256u * 1024u) /* of a frame for us */
#define AMQP_FRAMES_WINDOW 0x7fffffffu	     /* of the session, both ways */
#define AMQP_FRAMES_TRANSFER_BYTES 48u /* of a transfer besides the message */

/* Codes of what frames say: parts 2 and 5. */
enum amqp_performative {
	OPEN = 0x10,
	BEGIN = 0x11,
	ATTACH = 0x12,
	FLOW = 0x13,
	TRANSFER = 0x14,
	DISPOSITION = 0x15,
	DETACH = 0x16,
	END = 0x17,
	CLOSE = 0x18,
	SASL_MECHANISMS = 0x40,
	SASL_INIT = 0x41,
	SASL_OUTCOME = 0x44,
};

/* Of message sections: part 3, section 3.2. */
enum amqp_section {
	SECTION_HEADER = 0x70,
	SECTION_DATA = 0x75,
	SECTION_VALUE = 0x77,
};

/* PLAIN when there is a user, else ANONYMOUS. */
void amqp_frames_sasl_init(struct wire *);
/* Open and begin, of channel 0. */
void amqp_frames_open(struct wire *);
/* The link of a lane; its handle is the lane, its name ends in ".<lane>". */
void amqp_frames_attach(struct wire *, uint32_t lane);
/* All of the wire's credit, from this delivery on. */
void amqp_frames_credit(struct wire *, uint32_t lane, uint32_t delivery_count,
			uint32_t incoming_id, uint32_t transfer_id);
/* Accept and settle these deliveries. */
void amqp_frames_accept(struct wire *, uint32_t first, uint32_t last);
/* How long the message with this body is: a header that says durable, and one
 * data section. */
size_t amqp_frames_message_len(const struct payload *);
/* Its bytes at..at+len as one transfer of delivery `id`. */
void amqp_frames_transfer(struct wire *, const struct payload *, uint32_t lane,
			  uint32_t id, size_t at, size_t len);
void amqp_frames_close(struct wire *);
void amqp_frames_heartbeat(struct wire *);

#endif
