/* bench/check/world.c: see world.h. */
#include "bench/check/world.h"

#include <string.h>

#include "base/logger.h"
#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/listener.h"

#define DISK 1u
#define STEPS_MAX 100000000ull

/* Small enough that making the next one costs the simulator little, and no
 * case fills one. */
#define SEGMENT_BYTES (32ull << 20)

static const struct core_address_rule rules[] = {
	{.match = "#",
	 .routing = RECORD_ANYCAST,
	 .auto_create = true,
	 .delivery_attempts = 10},
};

void world_die(const char *what, int err)
{
	fprintf(stderr, "cost: %s: %s\n", what,
		err ? err_str(err) : "this must not happen");
	exit(1);
}

static void check(const char *what, int err)
{
	if (err)
		world_die(what, err);
}

static void on_committed(void *ctx, struct log_batch *batch)
{
	struct world *w = ctx;

	if (store_take(w->store, batch) != 0)
		world_die("the store is behind", 0);
}

static void on_failed(void *ctx, int err, const char *why)
{
	world_die(why, err);
}

void world_create(struct world *w, uint64_t seed, unsigned shard_count)
{
	struct sim_config config = {
		.seed = seed,
		.wall_start_ms = 1700000000000u,
		.step_ns_max = 10000,
		.disk_ns_min = 100000,
		.disk_ns_max = 100000,
		.net_ns_min = 20000,
		.net_ns_max = 20000,
		.keep_ppm = SIM_ALWAYS,
	};

	ASSERT(shard_count && shard_count <= WORLD_SHARDS_MAX);
	memset(w, 0, sizeof(*w));
	w->shard_count = shard_count;
	logger_configure(LOGGER_ERROR, LOGGER_TEXT);
	check("crypto", crypto_init());
	w->sim = sim_create(&config);
}

void world_boot(struct world *w)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = {7};

	w->io = sim_node_create(w->sim, "broker", DISK);
	check("key", crypto_key_create(key, &w->key));
	for (unsigned i = 0; i < w->shard_count; i++)
		check("shard", loop_create(w->io, "shard", &w->shards[i]));
	check("loop", loop_create(w->io, "journal", &w->journal_loop));
	check("loop", loop_create(w->io, "store", &w->store_loop));
	check("loop", loop_create(w->io, "extents", &w->extents_loop));
	check("loop", loop_create(w->io, "door", &w->door_loop));
}

static int recover_store(struct world *w)
{
	const struct store_options options = {
		.io = w->io,
		.dir = "data",
		.master = w->key,
		/* None is written while it is measured. */
		.checkpoint_ns = 3600ull * 1000 * 1000 * 1000,
		.failed = on_failed,
		.ctx = w,
	};
	int err = store_create(&options, &w->store);

	return err ? err : store_recover(w->store, w->log);
}

void world_recover(struct world *w)
{
	const struct log_options log_options = {
		.io = w->io,
		.dir = "data",
		.master = w->key,
		.segment_bytes = SEGMENT_BYTES,
		.committed = on_committed,
		.failed = on_failed,
		.ctx = w,
	};
	struct core_options core_options = {
		.io = w->io,
		.loops = w->shards,
		.shard_count = w->shard_count,
		.rules = rules,
		.rule_count = ARRAY_COUNT(rules),
	};

	check("directory", io_mkdir(w->io, "data"));
	check("log", log_create(&log_options, &w->log));
	check("claim", log_claim(w->log));
	check("recovery", recover_store(w));
	core_options.log = w->log;
	core_options.store = w->store;
	check("core", core_create(&core_options, &w->core));
	check("core", core_recover(w->core));
	check("log", log_start(w->log, w->journal_loop));
	check("store", store_start(w->store, w->store_loop, w->extents_loop));
}

static void make_door(struct world *w)
{
	const struct amqp_options options = {.core = w->core, .auth = w->auth};
	struct listener_options door = {.core = w->core, .loop = w->door_loop};

	check("amqp", amqp_create(&options, &w->amqp));
	door.amqp = w->amqp;
	check("listener",
	      listener_create(&door, "amqp://127.0.0.1:0", &w->listener));
	listener_start(w->listener);
	w->port = listener_port(w->listener);
}

void world_serve(struct world *w)
{
	check("auth",
	      auth_create(w->io, NULL, 0, AUTH_ANONYMOUS_ALWAYS, &w->auth));
	check("auth", auth_start(w->auth));
	make_door(w);
	for (unsigned i = 0; i < w->shard_count; i++)
		check("shard", loop_start(w->shards[i], NULL, NULL));
	check("loop", loop_start(w->extents_loop, NULL, NULL));
	check("loop", loop_start(w->store_loop, NULL, NULL));
	check("loop", loop_start(w->journal_loop, NULL, NULL));
	check("loop", loop_start(w->door_loop, NULL, NULL));
	world_settle(w);
}

void world_kill(struct world *w)
{
	sim_kill(sim_node(w->io));
}

void world_run_until(struct world *w, bool (*done)(void *ctx), void *ctx)
{
	check("nothing ends the wait",
	      sim_run_until(w->sim, done, ctx, STEPS_MAX));
}

static bool is_settled(void *ctx)
{
	struct world *w = ctx;

	return core_pending(w->core) == 0;
}

void world_settle(struct world *w)
{
	world_run_until(w, is_settled, w);
	sim_run_for(w->sim, 5000000);
	world_run_until(w, is_settled, w);
}
