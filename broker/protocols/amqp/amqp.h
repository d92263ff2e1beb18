/* broker/protocols/amqp/amqp.h: the AMQP 1.0 adaptor.
 *
 * Turns AMQP connections into producers and consumers of broker/core, with
 * Qpid Proton as the protocol engine.  A connection lives on one shard, with
 * everything that belongs to it.
 *
 * Spoken: SASL ANONYMOUS and PLAIN; producers to an address, to a temporary
 * node or to none (ANONYMOUS-RELAY); consumers of queues and of multicast
 * addresses; capabilities queue, topic, temporary-queue, temporary-topic;
 * credit, drain, both settlement modes of both ends; messages of any length.
 * Refused with amqp:not-implemented: transactions, message selectors,
 * no-local, browsing, durable and shared subscriptions.  Proton 0.37 does not
 * tell the message-format of a transfer: every message is taken and sent as
 * format 0.
 *
 * A delivery that its receiver settles without naming an outcome is released:
 * the engine does not tell a source's default-outcome, and a message must not
 * be lost by silence. */
#ifndef BROKER_PROTOCOLS_AMQP_AMQP_H
#define BROKER_PROTOCOLS_AMQP_AMQP_H

#include "broker/core/core.h"
#include "broker/protocols/auth.h"

struct amqp;

struct amqp_options {
	struct core *core;
	struct auth *auth;
	const char *container_id;     /* copied; NULL: "holdfast" */
	uint32_t frame_bytes_max;     /* 0: 128 KiB; 4 KiB to 1 MiB */
	uint32_t idle_timeout_ms;     /* 0: 60000; half of it is advertised */
	uint32_t handshake_ms;	      /* until open; 0: 10000 */
	uint32_t credit;	      /* for producers; 0: 1000 */
	uint32_t credit_refill;	      /* at this rest; 0: 300 */
	uint16_t channel_max;	      /* 0: 255; at most 1023 */
	uint32_t session_window;      /* frames; 0: 2048 */
	uint32_t session_link_max;    /* 0: 1024 */
	uint32_t connection_link_max; /* 0: 4096 */
	uint32_t link_unsettled_max;  /* each direction; 0: 16384 */
	uint64_t message_bytes_max;   /* 0: 1 GiB; advertised and enforced */
};

/* Before the shards run. */
MUST_CHECK int amqp_create(const struct amqp_options *, struct amqp **ret);
/* After the shards have ended, when no connection is open.  NULL-safe. */
void amqp_free(struct amqp *);

/* Take a connection on its shard's thread.  Takes the socket in every case.
 * data: len bytes (at most 4096) that were read from it already. */
void amqp_accept(struct amqp *, unsigned shard_index, struct loop_socket *,
		 const void *data, size_t len);

/* [any] Ask every connection to close with amqp:connection:forced and the
 * given text (static storage); publications in flight are settled first where
 * the journal is quick enough.  A peer that does not answer within
 * patience_ms is cut off. */
void amqp_close_all(struct amqp *, const char *text, uint32_t patience_ms);
/* [any] Connections that have not ended; 0 after amqp_close_all() means that
 * nothing of the adaptor is left on any shard. */
uint32_t amqp_connection_count(const struct amqp *);

struct amqp_stats {
	uint64_t opened, closed, sasl_failures, protocol_errors;
	uint64_t links_refused;
	uint64_t presettled_lost; /* sent settled, and could not be stored */
};
void amqp_stats(const struct amqp *, struct amqp_stats *ret); /* [any] */

#endif
