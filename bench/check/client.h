/* bench/check/client.h: an AMQP 1.0 client, on a node of its own.
 *
 * It writes frames by hand and uses nothing of the broker's AMQP code: what
 * that code costs is to be counted for the broker alone.  One connection, one
 * session, links 0…n-1 that all send or all receive; link i is of the queue
 * "q<i>", with base_queue added to i.
 *
 * Each message's body begins with a number; the sum of those that were
 * delivered tells whether they are the ones that were sent.
 *
 * What the broker does wrong stops the program.  OASIS AMQP 1.0, part 2. */
#ifndef BENCH_CHECK_CLIENT_H
#define BENCH_CHECK_CLIENT_H

#include "bench/check/world.h"

#define CLIENT_LINKS_MAX 1000u

struct client_link {
	uint32_t handle; /* the broker's, in its frames */
	uint32_t credit, delivery_count;
	bool attached;
};

struct client {
	struct world *world;
	struct loop *loop;
	struct loop_socket *socket;
	struct loop_op connect_op, send_op, recv_op;
	bool connected, sending, begun, receives;
	uint8_t *out;
	size_t out_len, out_at, out_capacity;
	uint8_t in[1 << 18];
	size_t in_len;
	uint32_t link_count, attached, turn;
	struct client_link links[CLIENT_LINKS_MAX];
	/* the session */
	uint32_t next_outgoing, next_incoming, window_end;
	/* sending */
	uint32_t size, window, to_send, unsettled;
	uint64_t accepted, sent_sum;
	/* receiving; deliveries are numbered from 0 without gaps */
	bool accepts;	 /* each delivery at once */
	uint32_t credit; /* is kept up at this when accepts */
	uint32_t settled;
	uint64_t delivered, delivered_bytes, delivered_sum;
};

/* Connects and attaches its links; waits until all of them can go on. */
struct client *client_open(struct world *, bool receives, uint32_t link_count,
			   uint32_t base_queue);
/* SIGKILL; before the broker's, whose death would be taken for an error. */
void client_kill(struct client *);

/* Messages with bodies of `size` bytes, over the links in turn, at most
 * `window` not yet accepted; waits until all are. */
void client_publish(struct client *, uint32_t count, uint32_t size,
		    uint32_t window);
/* Begins only; client_is_done() ends it. */
void client_publish_begin(struct client *, uint32_t count, uint32_t size,
			  uint32_t window);
bool client_is_done(void *client);

/* Give each link so much credit, and wait for count deliveries. */
void client_receive(struct client *, uint32_t credit, uint32_t count);
/* From now on each delivery is accepted when it comes, and the one link's
 * credit renewed when half of it is used. */
void client_consume(struct client *, uint32_t credit);
/* Accept the next `count` deliveries, `each` of them with a frame. */
void client_accept(struct client *, uint32_t count, uint32_t each);

#endif
