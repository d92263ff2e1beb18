/* tests/sim/model.h: what the clients of a broker know, and what follows.
 *
 * The oracle of the crash tests.  The workload tells it what it asked for and
 * what it was told; whenever a message is delivered, and when a recovered
 * broker has been emptied, it says whether that can be.  It knows nothing of
 * journals: only that a confirmed message is in exactly one place until its
 * acknowledgement was asked for, that a confirmed acknowledgement is final,
 * and so on.  A contradiction prints a sentence and ends the process with
 * MODEL_EXIT. */
#ifndef TESTS_SIM_MODEL_H
#define TESTS_SIM_MODEL_H

#include "broker/core/core.h"

#define MODEL_EXIT 3
#define MODEL_ATTEMPTS 4u /* of the rules that the workload sets */
#define MODEL_PRODUCERS_MAX 256u
#define MODEL_LEVELS 3u /* of the priorities 0, 4 and 9 */

/* Where messages can be. */
enum model_queue {
	MODEL_A, /* anycast, made by whoever attaches */
	MODEL_B,
	MODEL_C,    /* made and deleted by command */
	MODEL_AUTO, /* deleted by itself when empty and unused */
	MODEL_X,    /* two subscriptions of the multicast address m */
	MODEL_Y,
	MODEL_D,       /* anycast; consumers come seldom */
	MODEL_ORIGINS, /* those above are published to */
	MODEL_DLQ = MODEL_ORIGINS,
	MODEL_EXPIRY,
	MODEL_QUEUES,
};

/* Where a producer sends. */
enum model_target {
	MODEL_TO_A,
	MODEL_TO_B,
	MODEL_TO_C,
	MODEL_TO_AUTO,
	MODEL_TO_M,
	MODEL_TO_D,
	MODEL_TO_X, /* m::x, past the other subscription */
	MODEL_TARGETS,
};

/* One message in one of the queues it was routed to; it may have moved to the
 * dead letters or the expired since. */
struct model_copy {
	uint64_t id;
	bool expected;	    /* is there once the message is confirmed */
	bool possible;	    /* may be there */
	bool gone_possible; /* something that was asked for may remove it */
	bool gone;	    /* ... and that was confirmed */
	bool vanishing;	    /* will be gone when the command is confirmed */
	bool ack_asked;
	bool dead_possible;	/* rejected, or enough failed attempts */
	bool dying;		/* ... asked of this incarnation */
	bool dead;		/* ... and durable */
	bool held;		/* a consumer of this incarnation has it */
	bool delivered;		/* ever */
	uint32_t fails;		/* ever asked for */
	uint32_t fails_seen;	/* at least so many, as long as this lives */
	uint32_t fails_durable; /* at least so many for ever */
	uint32_t served_life;	/* the last incarnation that delivered it */
	uint32_t ack_life;	/* ... that was asked to forget it */
	uint32_t found;		/* times, in the present census */
};

struct model_message {
	uint64_t len, expiry_ms;
	uint32_t producer;
	uint8_t priority;
	bool large, confirmed, refused;
	bool late; /* sent to a leader that another one had sealed */
	struct model_copy copies[MODEL_ORIGINS];
};

struct model_queue_state {
	enum { MODEL_NO, MODEL_MAYBE, MODEL_YES } exists;
	bool paused;
	unsigned vanishing; /* purges and deletions under way */
	bool deleting;
	unsigned consumers; /* attached now, or not yet released */
	unsigned opened;    /* consumers since the start: with more than one
			       there is no order among first deliveries */
};

struct model {
	struct model_message *messages; /* id - 1 */
	uint64_t count, capacity;
	struct model_queue_state queues[MODEL_QUEUES];
	uint32_t life; /* incarnations so far */
	uint32_t producers;
	bool damaged; /* the disk has lied or rotted: refusing to serve some
			 messages is right, serving wrong ones never */
	bool rotting; /* ... and goes on doing so: what was served may have been
			 damaged afterwards */
	bool forgetful; /* memory fails: counts and dead letters, which nobody
			   confirms, may be left out */
	bool cramped; /* the disk may be full: what was rejected may stay where
			 it is, as long as nothing can be made of it */
	/* Of each producer the last message of each priority, in a census and
	 * by deliveries. */
	uint64_t last_found[MODEL_ORIGINS][MODEL_PRODUCERS_MAX][MODEL_LEVELS];
	uint64_t last_first[MODEL_ORIGINS][MODEL_PRODUCERS_MAX][MODEL_LEVELS];
	uint8_t lowest[MODEL_ORIGINS]; /* priority seen in the census */
	uint64_t confirmed, acked, delivered, crashes; /* for summaries */
};

void model_init(struct model *);

const char *model_queue_name(enum model_queue); /* as a consumer names it */
const char *model_target_name(enum model_target);

__attribute__((noreturn))
PRINTF_LIKE(1, 2) void model_fail(const char *fmt, ...);

/* ---- publishing ---- */

/* A message is about to be handed over: its id.  later: it is routed at some
 * time between now and its settlement. */
struct model_sent {
	uint32_t producer;
	enum model_target target;
	uint64_t len, expiry_ms;
	uint8_t priority;
	bool large, later;
	/* To a leader that has been deposed.  late: it was sealed before; so
	 * it must not confirm.  never: its successor has begun to write, too;
	 * so nobody may ever see the message.  vanishing: purges that may not
	 * be over when it comes to the queue; or NULL. */
	bool late, never;
	const bool *vanishing; /* [MODEL_ORIGINS] */
};
uint64_t model_send(struct model *, const struct model_sent *);
void model_settled(struct model *, uint64_t id, enum outcome);
/* The id of a large message, known by its length; 0: none. */
uint64_t model_large(const struct model *, uint64_t len);

/* ---- consuming ---- */

/* What a delivery says of itself. */
struct model_seen {
	enum model_queue queue; /* where the consumer is */
	uint64_t id;
	const struct record_origin *origin;
	uint32_t attempts;
	uint64_t now_ms;
};
struct model_copy *model_find(struct model *, const struct model_seen *);
/* Checks, and marks it held. */
struct model_copy *model_delivered(struct model *, const struct model_seen *);
/* Before it is settled. */
void model_settling(struct model *, struct model_copy *, enum outcome,
		    bool failed);
/* The same of a deposed leader's consumer that accepts, which has been handed
 * the message in its leader's life. */
void model_deposed_accepts(struct model_copy *, uint32_t life);
void model_ack_confirmed(struct model *, struct model_copy *, uint32_t life);

void model_consumer_opened(struct model *, enum model_queue);
void model_consumer_closed(struct model *, enum model_queue);

/* ---- commands ---- */

/* A client asks for it, by an attach or a command. */
void model_queue_asked(struct model *, enum model_queue);
/* It is made or found. */
void model_queue_made(struct model *, enum model_queue);
void model_purge(struct model *, enum model_queue);
void model_delete(struct model *, enum model_queue);
/* err 0: it is durable. */
void model_command_done(struct model *, enum model_queue, int err,
			bool deleted);

/* ---- incarnations ---- */

/* Everything in memory is gone. */
void model_crash(struct model *);
/* Nothing is pending: what was asked for is durable. */
void model_quiet(struct model *);

/* ---- a census of a recovered broker ---- */

void model_census_begin(struct model *);
/* One message that is there, in the order of its queue; the copy that it was
 * delivered as. */
void model_census_see(struct model *, const struct model_seen *,
		      struct model_copy *);
/* All have been seen; `unserved`: messages that the broker counts and does
 * not deliver, right only for a damaged disk. */
void model_census_end(struct model *, uint64_t now_ms, uint64_t unserved);

#endif
