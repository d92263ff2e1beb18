/* tests/sim/load_private.h: what load.c, census.c and script.c share. */
#ifndef TESTS_SIM_LOAD_PRIVATE_H
#define TESTS_SIM_LOAD_PRIVATE_H

#include "tests/sim/load.h"

#define BIT_PPM (SIM_ALWAYS / 2)

struct load_producer {
	struct rig_producer rig;
	struct load *load;
	enum model_target target;
	bool anonymous;
	uint32_t number;
};

struct load_held {
	struct delivery *delivery;
	struct model_copy *copy;
};

struct load_consumer {
	struct rig_consumer rig;
	struct load *load; /* NULL in a census */
	struct model *model;
	uint32_t life;
	enum model_queue queue;
	struct load_held *held;
	size_t held_count, held_capacity;
};

struct load_command {
	struct core_command command;
	struct model *model;
	uint32_t life;
	enum model_queue queue;
	int err;
	bool done;
};

/* As realloc(), zeroed when old is NULL; never fails. */
void *load_memory(void *old, size_t bytes);

/* NULL: refused, or the rig is dead. */
struct load_producer *load_open_producer(struct load *, enum model_target,
					 bool anonymous);
/* l is NULL in a census. */
struct load_consumer *load_open_consumer(struct rig *, struct model *,
					 struct load *l, enum model_queue);
/* What it holds goes back. */
void load_close_consumer(struct load_consumer *, bool failed);
/* model_send() with what a deposed leader's messages have in common. */
uint64_t load_announce(struct load *, struct model_sent);
void load_settle_held(struct load_consumer *, size_t i, struct settlement *);
void load_confirm(struct rig_consumer *, uint64_t context, int err);
struct model_seen load_look(struct load_consumer *, struct delivery *,
			    uint64_t id);
struct load_command *load_execute(struct rig *, struct model *,
				  enum core_command_kind, enum model_queue);

#endif
