/* base/sim/sim.c: the world: configuration, chance, the trace, the clock and
 * the order in which things happen. */
#include <string.h>

#include "base/sim/world.h"

/* ---- chance: xoshiro256** by Blackman and Vigna, seeded by splitmix64 ---- */

static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = (*x += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void rng_seed(struct sim_rng *r, uint64_t seed, uint64_t stream)
{
	uint64_t x = seed;

	x = splitmix(&x) ^ stream;
	for (size_t i = 0; i < ARRAY_COUNT(r->s); i++)
		r->s[i] = splitmix(&x);
}

static uint64_t rotate(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

uint64_t sim_rng_next(struct sim_rng *r)
{
	uint64_t *s = r->s;
	uint64_t result = rotate(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

/* The remainder's bias is far below what any test here could see. */
uint64_t sim_rng_below(struct sim_rng *r, uint64_t n)
{
	return n ? sim_rng_next(r) % n : 0;
}

uint64_t sim_rng_between(struct sim_rng *r, uint64_t lo, uint64_t hi)
{
	return hi > lo ? lo + sim_rng_below(r, hi - lo + 1) : lo;
}

bool sim_rng_chance(struct sim_rng *r, uint32_t ppm)
{
	return ppm && sim_rng_below(r, SIM_ALWAYS) < ppm;
}

void sim_rng_fill(struct sim_rng *r, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		uint64_t x = sim_rng_next(r);
		size_t n = base_min(len, sizeof(x));

		memcpy(p, &x, n);
		p += n;
		len -= n;
	}
}

/* ---- the trace ---- */

static uint64_t mix(uint64_t h, uint64_t x)
{
	h = (h ^ x) * 0x9fb21c651e98df25u;
	return h ^ (h >> 32);
}

/* Lanes, so that a multiplication need not wait for the one before. */
uint64_t sim_hash_bytes(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t lane[8] = {len, 1, 2, 3, 4, 5, 6, 7}, x[8] = {0}, h = 0;

	for (; len >= sizeof(x); len -= sizeof(x), p += sizeof(x)) {
		memcpy(x, p, sizeof(x));
		for (size_t i = 0; i < ARRAY_COUNT(x); i++)
			lane[i] = mix(lane[i], x[i]);
	}
	memset(x, 0, sizeof(x));
	if (len)
		memcpy(x, p, len);
	for (size_t i = 0; i < ARRAY_COUNT(x); i++)
		h = mix(h, mix(lane[i], x[i]));
	return h;
}

void sim_trace_event(struct sim *sim, const char *what, uint64_t who,
		     uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t h = sim->trace_hash;

	for (const char *p = what; *p; p++)
		h = (h ^ (uint8_t)*p) * 0x100000001b3u;
	h = mix(h, sim->now_ns);
	h = mix(h, who);
	h = mix(h, a);
	h = mix(h, b);
	sim->trace_hash = mix(h, c);
	if (sim->print)
		fprintf(sim->print, "%12llu %-14s %llu: %llu %llu %llx\n",
			(unsigned long long)sim->now_ns, what,
			(unsigned long long)who, (unsigned long long)a,
			(unsigned long long)b, (unsigned long long)c);
}

uint64_t sim_trace_hash(const struct sim *sim)
{
	return sim->trace_hash;
}

void sim_trace_note(struct sim *sim, const char *what, uint64_t a, uint64_t b)
{
	sim_trace_event(sim, what, 0, a, b, 0);
}

void sim_trace_print(struct sim *sim, FILE *to)
{
	sim->print = to;
}

/* ---- events: a binary heap by time, then by lot ---- */

static bool sooner(const struct sim_event *a, const struct sim_event *b)
{
	if (a->due_ns != b->due_ns)
		return a->due_ns < b->due_ns;
	return a->order < b->order;
}

static void heap_put(struct sim *sim, size_t i, struct sim_event *e)
{
	sim->heap[i] = e;
	e->index = i;
}

static void heap_place(struct sim *sim, size_t i, struct sim_event *e)
{
	while (i > 1 && sooner(e, sim->heap[i / 2])) {
		heap_put(sim, i, sim->heap[i / 2]);
		i /= 2;
	}
	for (;;) {
		size_t child = i * 2;

		if (child > sim->heap_count)
			break;
		if (child < sim->heap_count &&
		    sooner(sim->heap[child + 1], sim->heap[child]))
			child++;
		if (!sooner(sim->heap[child], e))
			break;
		heap_put(sim, i, sim->heap[child]);
		i = child;
	}
	heap_put(sim, i, e);
}

void sim_schedule(struct sim *sim, struct sim_event *e, uint64_t after_ns)
{
	ASSERT(!e->index);
	if (sim->heap_count + 1 >= sim->heap_capacity) {
		sim->heap_capacity = sim->heap_capacity * 2 + 64;
		sim->heap = sim_alloc_resize(
			sim->heap,
			sim->heap_capacity * sizeof(struct sim_event *));
	}
	e->due_ns = sim->now_ns + after_ns;
	e->order = sim_rng_next(&sim->schedule);
	heap_place(sim, ++sim->heap_count, e);
}

void sim_unschedule(struct sim *sim, struct sim_event *e)
{
	size_t i = e->index;
	struct sim_event *last;

	if (!i)
		return;
	e->index = 0;
	last = sim->heap[sim->heap_count--];
	if (last != e)
		heap_place(sim, i, last);
}

void sim_fire_due(struct sim *sim)
{
	while (sim->heap_count && sim->heap[1]->due_ns <= sim->now_ns) {
		struct sim_event *e = sim->heap[1];

		sim_unschedule(sim, e);
		e->fire(e);
	}
}

/* ---- running ---- */

/* The next loop to run, by lot; and when the earliest timer is due. */
static struct sim_loop *pick_loop(struct sim *sim, uint64_t *ret_timer_ns)
{
	struct sim_loop *picked = NULL;
	uint64_t count = 0;

	*ret_timer_ns = UINT64_MAX;
	list_for_each(at, &sim->loops) {
		struct sim_loop *l = list_entry(at, struct sim_loop, link);

		if (l->running || l->node->paused)
			continue;
		if (sim_node_loop_runnable(l)) {
			if (!sim_rng_below(&sim->schedule, ++count))
				picked = l;
		} else {
			*ret_timer_ns = base_min(*ret_timer_ns,
						 loop_next_timer_ns(l->loop));
		}
	}
	return picked;
}

bool sim_step(struct sim *sim)
{
	struct sim_loop *l;
	uint64_t next_ns;

	sim->steps++;
	sim_fire_due(sim);
	l = pick_loop(sim, &next_ns);
	if (l) {
		sim->now_ns += sim_rng_between(&sim->schedule, 0,
					       sim->config.step_ns_max);
		sim_node_loop_iterate(l);
		return true;
	}
	if (sim->heap_count)
		next_ns = base_min(next_ns, sim->heap[1]->due_ns);
	if (next_ns == UINT64_MAX)
		return false;
	sim->now_ns = base_max(sim->now_ns, next_ns);
	sim_fire_due(sim);
	return true;
}

int sim_run_until(struct sim *sim, bool (*done)(void *ctx), void *ctx,
		  uint64_t steps_max)
{
	for (;;) {
		if (done && done(ctx))
			return 0;
		if (!steps_max--)
			return -ETIMEDOUT;
		if (!sim_step(sim))
			return done && done(ctx) ? 0 : -EDEADLK;
	}
}

struct sim_alarm {
	struct sim_event event;
	bool rung;
};

static void alarm_fire(struct sim_event *e)
{
	container_of(e, struct sim_alarm, event)->rung = true;
}

void sim_run_for(struct sim *sim, uint64_t ns)
{
	struct sim_alarm alarm = {.event.fire = alarm_fire};

	sim_schedule(sim, &alarm.event, ns);
	while (!alarm.rung)
		sim_step(sim);
}

void sim_stuck(struct sim *sim, const char *who)
{
	fprintf(stderr,
		"simulation: %s waits for what can never happen "
		"(seed %llu, %llu ns)\n",
		who, (unsigned long long)sim->config.seed,
		(unsigned long long)sim->now_ns);
	abort();
}

/* ---- the world ---- */

struct sim_config sim_config_calm(uint64_t seed)
{
	return (struct sim_config){
		.seed = seed,
		.wall_start_ms = 1700000000000u,
		.step_ns_max = 2000,
		.disk_ns_min = 20000,
		.disk_ns_max = 400000,
		.slow_ns_max = 20000000,
		.slow_ppm = 2000,
		.net_ns_min = 10000,
		.net_ns_max = 200000,
		.keep_ppm = 500000,
		.garbage_ppm = 50000,
		.sync_entry_ppm = 500000,
		.partial_ppm = 200000,
	};
}

struct sim_config sim_config_rough(uint64_t seed)
{
	struct sim_config c = sim_config_calm(seed);
	struct sim_rng r;

	rng_seed(&r, seed, 'r');
	c.disk_ns_min = sim_rng_between(&r, 0, 100000);
	c.disk_ns_max = c.disk_ns_min + sim_rng_between(&r, 0, 5000000);
	c.slow_ppm = (uint32_t)sim_rng_between(&r, 0, 50000);
	c.slow_ns_max = sim_rng_between(&r, 1000000, 2000000000);
	c.net_ns_max = c.net_ns_min + sim_rng_between(&r, 0, 20000000);
	if (sim_rng_chance(&r, 500000))
		c.linger_ns_max = sim_rng_between(&r, 1000000, 500000000);
	c.no_direct = sim_rng_chance(&r, 200000);
	c.keep_ppm = (uint32_t)sim_rng_below(&r, SIM_ALWAYS + 1);
	c.garbage_ppm = (uint32_t)sim_rng_below(&r, 300000);
	c.sync_entry_ppm = (uint32_t)sim_rng_below(&r, SIM_ALWAYS + 1);
	c.partial_ppm = (uint32_t)sim_rng_below(&r, 900000);
	c.socket_bytes = 1u << sim_rng_between(&r, 8, 17);
	return c;
}

struct sim *sim_create(const struct sim_config *config)
{
	struct sim *sim = sim_alloc_zeroed(sizeof(*sim));

	sim->config = *config;
	if (!sim->config.disk_bytes)
		sim->config.disk_bytes = (uint64_t)1 << 40;
	if (!sim->config.socket_bytes)
		sim->config.socket_bytes = 65536;
	rng_seed(&sim->schedule, config->seed, 's');
	rng_seed(&sim->fault, config->seed, 'f');
	rng_seed(&sim->app, config->seed, 'a');
	sim->now_ns = 1000000000;
	sim->trace_hash = config->seed;
	sim->next_port = 20000;
	list_init(&sim->loops);
	list_init(&sim->nodes);
	list_init(&sim->listeners);
	list_init(&sim->op_pool);
	return sim;
}

void sim_free(struct sim *sim)
{
	struct list *at;

	if (!sim)
		return;
	ASSERT(list_empty(&sim->nodes));
	for (size_t i = 0; i < SIM_DISKS_MAX; i++)
		sim_disk_free(sim->disks[i]);
	while ((at = list_pop(&sim->op_pool)))
		sim_alloc_free(list_entry(at, struct sim_op, link));
	sim_alloc_free(sim->heap);
	sim_alloc_free(sim);
}

uint64_t sim_seed(const struct sim *sim)
{
	return sim->config.seed;
}

uint64_t sim_now_ns(const struct sim *sim)
{
	return sim->now_ns;
}

uint64_t sim_steps(const struct sim *sim)
{
	return sim->steps;
}

uint64_t sim_random(struct sim *sim)
{
	return sim_rng_next(&sim->app);
}

uint64_t sim_below(struct sim *sim, uint64_t n)
{
	return sim_rng_below(&sim->app, n);
}

bool sim_chance(struct sim *sim, uint32_t ppm)
{
	return sim_rng_chance(&sim->app, ppm);
}
