/* bench/check/world.h: a whole broker and its network, in the simulator.
 *
 * One node runs what holdfastd wires together: log, store, core, the AMQP
 * adaptor and a listener, with production's limits.  Disk, network and clock
 * are the simulator's, so that the same program executes the same instructions
 * on every machine.  Latencies are constant; the order in which loops run is
 * by the seed.
 *
 * Everything runs on the calling thread.  What fails stops the program: a
 * figure of a broker that did not work is of no use. */
#ifndef BENCH_CHECK_WORLD_H
#define BENCH_CHECK_WORLD_H

#include "base/sim/sim.h"
#include "broker/core/core.h"

#define WORLD_SHARDS_MAX 2

struct world {
	struct sim *sim;
	struct io *io;
	struct crypto_key *key;
	unsigned shard_count;
	struct loop *shards[WORLD_SHARDS_MAX];
	struct loop *journal_loop, *store_loop, *extents_loop, *door_loop;
	struct log *log;
	struct store *store;
	struct core *core;
	struct auth *auth;
	struct amqp *amqp;
	struct listener *listener;
	uint16_t port;
};

__attribute__((noreturn)) void world_die(const char *what, int err);

/* An empty disk, and no broker yet. */
void world_create(struct world *, uint64_t seed, unsigned shard_count);
/* A process that has not looked at the disk yet: its node and loops. */
void world_boot(struct world *);
/* It claims the directory, recovers, and is about to run: what a start costs
 * that has something to read. */
void world_recover(struct world *);
/* Its loops run, and clients are let in at world->port. */
void world_serve(struct world *);
/* SIGKILL.  What was in its memory is not given back. */
void world_kill(struct world *);

/* Until done(ctx). */
void world_run_until(struct world *, bool (*done)(void *ctx), void *ctx);
/* Until the core has nothing under way, and 5 ms of the world's time longer,
 * so that the store has taken in what was committed. */
void world_settle(struct world *);

#endif
