/* broker/protocols/amqp/internal.h: the adaptor's structures, private to
 * broker/protocols/amqp/.
 *
 * Ownership.  A connection and all below it belong to one shard's thread.
 * Two lives meet in a link: Proton's (`pn`, until the peer and we have both
 * detached, or the connection ends) and the core's (from attach to
 * released()).  The struct is freed when both are over, the connection when
 * its last link, operation and request are. */
#ifndef BROKER_PROTOCOLS_AMQP_INTERNAL_H
#define BROKER_PROTOCOLS_AMQP_INTERNAL_H

#include <stdatomic.h>

#include "base/logger.h"
#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/amqp/gate.h"
#include "broker/protocols/amqp/proton.h"

#define AMQP_SEND_BYTES (128u * 1024u)
/* Encoded bytes given to Proton beyond what the socket has taken. */
#define AMQP_OUT_BYTES (256u * 1024u)

/* ---- adaptor (amqp.c) ---- */

struct send_buffer {
	struct send_buffer *next;
	uint8_t data[AMQP_SEND_BYTES];
};

#define AMQP_SETTLED_MAX 1022u

/* Deliveries that were settled since Proton's output was last taken. */
struct settled {
	struct settled *next;
	uint32_t count;
	pn_delivery_t *deliveries[AMQP_SETTLED_MAX];
};

/* What the connections of one shard share. */
struct amqp_shard {
	struct amqp *amqp;
	struct shard *shard;
	struct loop *loop;
	struct list connections;
	struct send_buffer *free_buffers;
	unsigned free_buffer_count;
	struct settled *free_settled;
	unsigned free_settled_count;
	uint8_t *scratch; /* for rewritten beginnings of messages */
	size_t scratch_bytes;
	struct loop_mail close_mail;
	bool closing; /* new connections are refused too */
};

struct amqp {
	struct amqp_options options;
	char *container_id;
	_Atomic uint32_t connection_count;
	_Atomic uint64_t opened, closed, sasl_failures, protocol_errors;
	_Atomic uint64_t links_refused, presettled_lost;
	_Atomic bool close_posted;
	const char *close_text; /* set before close_mail is posted */
	uint32_t close_patience_ms;
	unsigned shard_count;
	struct amqp_shard shards[];
};

/* NULL without memory.  At most one for each connection that is sending. */
struct send_buffer *amqp_buffer_take(struct amqp_shard *);
void amqp_buffer_give(struct amqp_shard *, struct send_buffer *);
/* The same of these; at most one for each connection. */
struct settled *amqp_settled_take(struct amqp_shard *);
void amqp_settled_give(struct amqp_shard *, struct settled *);
/* At least len bytes, until the next call on this shard; NULL without memory.
 */
uint8_t *amqp_scratch(struct amqp_shard *, size_t len);
/* The AMQP error condition for a code of the core. */
const char *amqp_condition(int err);
void amqp_count(_Atomic uint64_t *);

/* ---- connection (connection.c) ---- */

enum connection_state {
	CONNECTION_HANDSHAKE, /* until the peer's open */
	CONNECTION_OPEN,
	CONNECTION_CLOSING, /* our close is on its way */
	CONNECTION_DEAD,    /* Proton's part is gone or going */
};

struct connection {
	struct list node; /* home->connections */
	struct amqp *amqp;
	struct amqp_shard *home;
	struct loop *loop;
	struct loop_socket *socket;
	pn_connection_driver_t driver;
	struct gate gate;
	enum connection_state state;
	bool receiving, sending, sinking;
	bool broken; /* ended without a close: deliveries count as failed */
	bool torn, opened, alien, sasl_failed;
	bool idle_off;	   /* no idle timeout while we do not read */
	bool close_wanted; /* when the publications in flight have settled */
	bool deaf;	  /* never reconnects after a close: see connection.c */
	bool dropping;	  /* ends without a close once all is sent */
	uint32_t blocked; /* producers that wait for the disk */
	uint32_t holds;	  /* links and requests that outlive Proton */
	/* input: bytes of an unfinished frame lie at the start of Proton's
	 * input buffer, which is otherwise empty */
	size_t have, want, asked;
	bool quiet;	   /* without Proton's events: see endpoint.c */
	uint32_t calm;	   /* frames since there was a need for them */
	uint8_t sink[512]; /* for what a closed connection still sends */
	struct loop_op recv_op, send_op;
	/* output */
	struct send_buffer *out;
	size_t out_len, out_at;
	struct settled *settled; /* NULL: none */
	uint64_t fed; /* payload bytes given to Proton, not known to be sent */
	struct list hungry; /* link_out that hold deliveries */
	struct loop_task flush_task;
	struct loop_timer timer;
	uint64_t deadline_ns; /* of the handshake or of closing; 0: none */
	struct list sessions;
	uint32_t partial_bytes; /* of unfinished incoming messages */
	uint32_t in_flight;	/* publications */
	uint64_t next_tag;
	char user[AUTH_NAME_MAX + 1];
	char container[256]; /* for logs; cut */
};

/* Something happened that may need output; at the end of this iteration. */
void connection_wake(struct connection *);
/* Close with an error; both may be called anywhere, nothing is freed inside. */
void connection_close(struct connection *, const char *condition,
		      const char *text);
/* Without a word: the socket failed, or the peer is not one to talk to. */
void connection_break(struct connection *);
/* As connection_close(), when the publications in flight have been settled or
 * half of the patience is over. */
void connection_drain(struct connection *);
/* Settle a whole delivery that has come in; Proton's afterwards.  Not for what
 * goes out: Proton would take one that it has settled, and we still hold, for
 * one that is yet to be sent, and not answer a drain. */
void connection_settle(struct connection *, pn_delivery_t *);
/* A publication has been settled. */
void connection_settled(struct connection *);
/* Proton has found an error and closed. */
void connection_failed(struct connection *);
/* The peer has closed. */
void connection_remote_closed(struct connection *);
/* One more (or less) producer that waits. */
void connection_block(struct connection *, bool);
/* One reason less to keep the connection; frees it when it was the last. */
void connection_release(struct connection *);
/* Input that had to wait may go on. */
void connection_resume(struct connection *);
/* The peer has opened: remember who it is. */
void connection_opened(struct connection *, const char *container);
/* Bytes given to Proton for sending; whether more may follow. */
static inline void connection_feed(struct connection *c, size_t len)
{
	c->fed += len + 64;
}

static inline bool connection_full(const struct connection *c)
{
	return c->fed >= AMQP_OUT_BYTES;
}

/* ---- events (endpoint.c) ---- */

struct session {
	struct list node; /* connection->sessions */
	struct connection *connection;
	pn_session_t *pn;
	struct list links;
	uint32_t link_count;
	bool received; /* transfers, since its window was last renewed */
};

/* Give Proton len bytes of its input buffer, in which the gate has seen `news`,
 * and handle what comes of them. */
void endpoint_input(struct connection *, size_t len, const struct gate_news *);
/* Handle every event that Proton has. */
void endpoint_dispatch(struct connection *);
/* Proton's part of everything ends; the core is told. */
void endpoint_end_all(struct connection *);

/* ---- links (link.c) ---- */

enum link_core {
	LINK_ATTACHING,
	LINK_ATTACHED,
	LINK_DETACHING, /* released() is to come */
	LINK_RELEASED,
};

struct link {
	struct list node; /* session->links; self-linked when that is gone */
	struct connection *connection;
	struct session *session;
	pn_link_t *pn;	     /* NULL: Proton's part is over */
	uint64_t handle_key; /* the gate's, when it knows whose link it is */
	enum link_core core;
	bool sender;	    /* ours: a link_out */
	bool remote_gone;   /* the peer has detached */
	bool remote_closed; /* … and with closed = true */
	bool local_gone;    /* we have detached or closed */
};

struct link_in;
struct link_out;

void link_init(struct link *, struct session *, pn_link_t *, bool sender);
/* Answer an attach that can not be: attach without termini, then detach
 * with the error.  pn has no struct link, or one whose attach has failed. */
void link_refuse(struct connection *, pn_link_t *, const char *condition,
		 const char *text);
/* Detach an attached link because of an error. */
void link_close(struct link *, const char *condition, const char *text);
/* The peer has detached. */
void link_remote_gone(struct link *, bool closed);
/* Proton's part is over. */
void link_forget(struct link *, bool failed);
/* The core has released it. */
void link_released(struct link *);
/* Let go of the core's part (idempotent). */
void link_leave_core(struct link *, bool failed);

/* ---- producers (link_in.c) ---- */

void link_in_attach(struct session *, pn_link_t *);
void link_in_receive(struct link *);
void link_in_updated(struct link *, pn_delivery_t *);
void link_in_flow(struct link *);
/* Make Proton renew the window of each session that has used half of it or
 * more.  Only right before Proton's output is taken. */
void link_in_renew(struct connection *);
void link_in_leave(struct link *);
void link_in_free(struct link *);

/* ---- consumers (link_out.c) ---- */

void link_out_attach(struct session *, pn_link_t *);
void link_out_flow(struct link *);
void link_out_updated(struct link *, pn_delivery_t *);
/* Give Proton what waits, until the connection is full. */
void link_out_pump(struct connection *);
/* False: a read is in flight; it leaves when that has ended. */
bool link_out_leave(struct link *, bool failed);
void link_out_free(struct link *);
/* ---- SASL (sasl.c) ---- */

void sasl_start(struct connection *);

/* ---- termini (terminus.c) ---- */

struct terminus_problem {
	const char *condition, *text;
};
/* Reads what the peer asks for.  name_buf holds the address.  -EINVAL with
 * *ret_problem. */
MUST_CHECK int terminus_read(pn_link_t *, const struct connection *,
			     struct terminus *ret,
			     struct terminus_problem *ret_problem);
/* Fills in our source and target for the answer.  name: what the core says. */
void terminus_answer(pn_link_t *, const char *name);

#endif
