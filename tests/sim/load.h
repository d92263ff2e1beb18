/* tests/sim/load.h: clients that do everything clients do, by the seed.
 *
 * A load is the clients of one incarnation: producers, consumers and an
 * administrator, who take random steps and tell the model.  Its memory is
 * never given back: it belongs to a scenario's process. */
#ifndef TESTS_SIM_LOAD_H
#define TESTS_SIM_LOAD_H

#include "tests/sim/model.h"
#include "tests/sim/rig.h"

#define LOAD_PRODUCERS 4
#define LOAD_CONSUMERS 8

struct load_options {
	unsigned steps;
	unsigned burst_max;    /* messages of one step */
	uint32_t bytes_max;    /* of a message */
	uint32_t large_ppm;    /* of steps: a message in pieces */
	uint32_t expiry_ppm;   /* of messages: they expire soon */
	uint32_t priority_ppm; /* of messages: urgent, or not at all */
	uint32_t starve_ppm;   /* of the consumers' steps: a producer's */
	unsigned consumers;    /* at once, up to LOAD_CONSUMERS */
	bool stuck; /* nobody settles the first message it was given */
	uint64_t pause_ns_max; /* between two steps */
	uint32_t long_ppm;  /* of pauses: for more than a checkpoint's time */
	uint32_t quiet_ppm; /* of steps: wait for everything */
};

struct load {
	struct rig *rig;
	struct model *model;
	struct sim *sim;
	const struct load_options *options;
	uint32_t life;
	struct load_producer *producers[LOAD_PRODUCERS];
	struct load_consumer *consumers[LOAD_CONSUMERS];
	/* Another leader is about to be at work: deliveries mean nothing, and
	 * what is confirmed sets off the next message or acknowledgement, so
	 * many times yet; no steps are needed for that. */
	bool deposed;
	unsigned momentum;
	/* The other one has sealed its claim: what is asked for from now on
	 * must not be confirmed.  It has begun to write, too: and not be
	 * seen. */
	bool sealed, cut;
	bool vanishing[MODEL_ORIGINS]; /* purges not over when deposed */
	uint64_t accepted;
};

/* The rules that the model expects. */
extern const struct core_address_rule load_rules[];
extern const unsigned load_rule_count;

struct load *load_create(struct rig *, struct model *,
			 const struct load_options *);
/* All steps, or fewer when the rig dies.  Everyone has left then, if it
 * lives. */
void load_run(struct load *);
/* Publish n messages whatever the load was about. */
void load_publish(struct load *, unsigned n);
/* Deposed: what consumers hold is accepted, up to n messages of each. */
void load_accept(struct load *, unsigned n);
/* Before model_crash(): nobody who steps asks for anything any more. */
void load_depose(struct load *, unsigned momentum);

/* One thing at a time, to its end or the rig's (script.c). */
struct load_sent {
	uint32_t len; /* at least 16; not of a large one */
	bool large;   /* in pieces; its length is the model's */
	uint8_t priority;
	uint64_t expiry_ms;
};
void load_send(struct load *, enum model_target, const struct load_sent *);
/* Up to count messages are taken and settled so. */
void load_take(struct load *, enum model_queue, uint32_t count, enum outcome,
	       bool failed);
void load_purge(struct load *, enum model_queue);

enum load_census_end {
	LOAD_LEAVE,	  /* everything stays in its queue */
	LOAD_ACCEPT_HALF, /* the sim's dice decide about each */
	LOAD_ACCEPT_ALL,
};
/* Takes every message of a recovered broker, tells the model, and then deals
 * with them.  False: the rig died. */
bool load_census(struct rig *, struct model *, enum load_census_end);

#endif
