/* bench/load/wire.h: one connection of the load generator.
 *
 * Bytes in, bytes out, and what both ends want; what they mean is the
 * protocol's (protocol.h).  A wire either sends to its lanes, or receives from
 * them, or declares them before the others come.  It never blocks; its owner
 * polls.  One thread: its owner's.
 *
 * A failure is latched with a sentence; the first one stays. */
#ifndef BENCH_LOAD_WIRE_H
#define BENCH_LOAD_WIRE_H

#include <stdbool.h>
#include <sys/socket.h>

#include "bench/load/payload.h"
#include "bench/load/plan.h"

struct protocol;

/* A sender stops filling a buffer that holds so much. */
#define WIRE_OUT_BYTES_SOFT (256u * 1024u)

#define WIRE_ANY_LANE UINT32_MAX

enum wire_role { WIRE_SETUP, WIRE_SENDER, WIRE_RECEIVER };

enum wire_state {
	WIRE_UNUSED,
	WIRE_DIALING,
	WIRE_OPENING, /* connected; the protocol introduces itself */
	WIRE_READY,   /* may send, or will receive; setup: all is declared */
	WIRE_CLOSING,
	WIRE_CLOSED,
};

enum wire_outcome { WIRE_ACCEPTED, WIRE_REJECTED, WIRE_RELEASED };

struct wire_buffer {
	uint8_t *data;
	size_t at, len, capacity; /* what counts is at..len */
};

/* What the protocols need to know of the whole run. */
struct wire_terms {
	const char *host; /* for protocols that name it */
	const char *user; /* NULL: without a login, or the protocol's own */
	const char *password;
	const char *topic; /* the address with fan-out, else NULL */
	const char *tag;   /* of this run; letters and digits */
	uint32_t credit;   /* of a receiver: messages it may hold */
	bool classic;	   /* amqp091: classic queues instead of quorum */
};

struct wire {
	/* the owner's, before wire_open() */
	const struct protocol *protocol;
	const struct wire_terms *terms;
	enum wire_role role;
	uint32_t index; /* among those of its role */
	const struct lane *lanes;
	uint32_t lane_count;
	void *owner;
	/* Became READY. */
	void (*ready)(struct wire *);
	/* Messages first..last, counted from 0 in the order of sending on this
	 * wire, have their outcome; those that had it before are skipped. */
	void (*confirmed)(struct wire *, uint64_t first, uint64_t last,
			  enum wire_outcome);
	/* A whole body, borrowed during the call.  The protocol acknowledges
	 * it by the end of its next flush.  A lane may be WIRE_ANY_LANE: the
	 * peer did not say. */
	void (*arrived)(struct wire *, uint32_t lane, const uint8_t *body,
			size_t len, bool redelivered);
	/* the owner's, before each send: the body, and at once after it: + 1 */
	struct payload payload;
	uint64_t sent;
	/* readable */
	int fd;
	enum wire_state state;
	bool failed;
	char why[400];	  /* the failure */
	char remark[200]; /* the first message that was not accepted: why */
	/* the protocol's */
	void *part;
	struct wire_buffer in, out;
	uint64_t written_ns; /* last time something went out */
};

/* Takes no descriptor yet; all of the owner's fields are set. */
MUST_CHECK int wire_open(struct wire *, const struct sockaddr *, socklen_t);
/* The same without a socket: bytes come by wire_feed() and stay in out. */
MUST_CHECK int wire_open_detached(struct wire *);
/* The descriptor is readable, writable or broken. */
void wire_read(struct wire *);
void wire_write(struct wire *, uint64_t now_ns);
void wire_feed(struct wire *, const void *data, size_t len);
/* Acknowledge, renew credit, write.  After every turn in which something
 * happened, and at least once a second. */
void wire_flush(struct wire *, uint64_t now_ns);
bool wire_can_send(const struct wire *, uint32_t lane);
void wire_send(struct wire *, uint32_t lane);
bool wire_wants_write(const struct wire *);
/* Say goodbye; CLOSED follows. */
void wire_close(struct wire *);
void wire_fini(struct wire *);

/* ---- for protocols ---- */

void wire_fail(struct wire *, const char *format, ...) PRINTF_LIKE(2, 3);
/* Keep the first reason for which a message was not accepted. */
void wire_remark(struct wire *, const char *text, size_t len);
void wire_become_ready(struct wire *);
/* `len` bytes at the end of out that may be written; they count after
 * wire_commit(). */
uint8_t *wire_room(struct wire *, size_t len);
void wire_commit(struct wire *, size_t len);
void wire_put(struct wire *, const void *data, size_t len);
void wire_putf(struct wire *, const char *format, ...) PRINTF_LIKE(2, 3);
/* The whole body. */
void wire_put_payload(struct wire *);

/* The decimal number at p, with a sign or none; it ends at the first byte that
 * is no digit, which must be there. */
long long wire_number(const void *p);

#endif
