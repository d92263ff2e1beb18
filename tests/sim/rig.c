/* See rig.h. */
#include "tests/sim/rig.h"

#include <string.h>

#include "journal/log/mutant.h"
#include "journal/store/entries.h"

#define STEPS_MAX 20000000ull

void rig_size_entries(uint64_t seed)
{
	static const struct entries_sizes sizes[] = {
		{ENTRIES_CHUNK, ENTRIES_WIDE}, {3, 1}, {9, 2}};

	entries_sizes = sizes[seed % ARRAY_COUNT(sizes)];
}

static void rig_die(const char *what, const char *detail)
{
	fprintf(stderr, "rig: %s: %s\n", what, detail);
	abort();
}

static int look_for_moves(void *ctx, const struct log_record *record)
{
	*(bool *)ctx |= record->type == RECORD_EXTENTS;
	return 0;
}

static void rig_committed(void *ctx, struct log_batch *batch)
{
	struct rig *r = ctx;

	/* Two mutants say so too early. */
	if (!MUTANT(STORE_FIRST) && !MUTANT(DELETE_UNCHECKED))
		r->committed = batch->end;
	if (log_batch_each(batch, look_for_moves, &r->moved))
		rig_die("committed", "a batch does not end");
	if (store_take(r->store, batch) != 0)
		return; /* taken, and slow: the simulator does not mind */
}

static void rig_failed(void *ctx, int err, const char *why)
{
	struct rig *r = ctx;

	if (r->failed)
		return;
	r->failed = err;
	snprintf(r->why, sizeof(r->why), "%s", why);
}

static void rig_free(struct rig *r)
{
	core_free(r->core);
	store_free(r->store);
	log_free(r->log);
	for (unsigned i = 0; i < r->shard_count; i++)
		if (r->loops[i])
			loop_free(r->loops[i]);
	if (r->journal_loop)
		loop_free(r->journal_loop);
	if (r->store_loop)
		loop_free(r->store_loop);
	if (r->extents_loop)
		loop_free(r->extents_loop);
	index_free(r->index);
	crypto_key_free(r->key);
	io_free(r->io);
}

/* It does not start.  One that followed is only killed: see rig.h. */
static void rig_give_up(struct rig *r)
{
	r->died = sim_is_dead(sim_node(r->io));
	r->index_failed = r->index && index_twin_corrupted(r->index);
	if (r->follow_loop || r->member)
		rig_kill(r);
	else
		rig_free(r);
}

/* ---- standing by ---- */

static int rig_open_files(struct rig *r)
{
	const struct rig_options *o = &r->options;
	struct log_options lo = {
		.io = r->io,
		.dir = "data",
		.master = r->key,
		.segment_bytes = o->segment_bytes ? o->segment_bytes : 1 << 20,
		.compress_level = o->compress_level,
		.reserve_bytes = 1 << 20,
		.committed = rig_committed,
		.failed = rig_failed,
		.ctx = r,
	};
	struct store_options so = {
		.io = r->io,
		.dir = "data",
		.master = r->key,
		.checkpoint_bytes =
			o->checkpoint_bytes ? o->checkpoint_bytes : 1 << 20,
		.checkpoint_ns =
			o->checkpoint_ns ? o->checkpoint_ns : 1000000000,
		.index = r->index,
		.memory_bytes = o->store_memory_bytes,
		.hot_bytes = o->hot_bytes,
		.hot_ns = o->hot_ns,
		.extent_bytes = o->extent_bytes,
		.scrub_ns = o->scrub_ns,
		.failed = rig_failed,
		.ctx = r,
	};
	int err = io_mkdir(r->io, "data");

	if (!err)
		err = log_create(&lo, &r->log);
	if (err)
		snprintf(r->why, sizeof(r->why), "%s", log_why(NULL));
	return err ? err : store_create(&so, &r->store);
}

/* What cannot be followed now can be later; the store knows why. */
static void rig_follows(struct loop_timer *timer)
{
	struct rig *r = container_of(timer, struct rig, follow_timer);
	bool more = false;
	int err;

	r->following = true;
	err = store_follow(r->store, r->log, 1 << 18, &more);
	r->following = false;
	if (!r->options.follow_ns)
		return;
	loop_timer_set(r->follow_loop, timer,
		       more && !err ? 0 : r->options.follow_ns);
}

static void rig_elected(void *ctx)
{
	struct rig *r = ctx;

	r->elected = true;
	r->epoch = log_epoch(r->log);
	if (r->options.claimed)
		r->options.claimed(r->options.ctx, r);
}

static void rig_stalled(void *ctx, const char *what, uint64_t ns)
{
	(void)ns;
	rig_failed(ctx, -ETIMEDOUT, what);
}

static int rig_follow(struct rig *r)
{
	int err;

	if (r->options.takeover_after_ns) {
		struct member_options mo = {
			.io = r->io,
			.dir = "data",
			.log = r->log,
			.store = r->store,
			.node = "rig",
			.url = "",
			.takeover_after_ns = r->options.takeover_after_ns,
			.storage_timeout_ns = r->options.takeover_after_ns / 2,
			.elected = rig_elected,
			.stalled = rig_stalled,
			.ctx = r,
		};

		err = member_create(&mo, &r->member);
		return err ? err : member_start(r->member);
	}
	if (!r->options.follow_ns)
		return 0;
	err = loop_create(r->io, "follow", &r->follow_loop);
	if (err)
		return err;
	r->follow_timer.fire = rig_follows;
	loop_timer_set(r->follow_loop, &r->follow_timer, 0);
	return loop_start(r->follow_loop, NULL, NULL);
}

int rig_stand_by(struct rig *r, struct sim *sim, const struct rig_options *o)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = {7};
	int err;

	memset(r, 0, sizeof(*r));
	r->options = *o;
	r->sim = sim;
	r->shard_count = o->shard_count ? o->shard_count : 1;
	r->scrubs = o->scrub_ns;
	r->io = sim_node_create(sim, "broker", o->disk);
	sim_wall_step(sim_node(r->io), o->wall_skew_ms);
	err = crypto_init();
	if (!err)
		err = crypto_key_create(key, &r->key);
	for (unsigned i = 0; i < r->shard_count && !err; i++)
		err = loop_create(r->io, "shard", &r->loops[i]);
	if (!err)
		err = loop_create(r->io, "journal", &r->journal_loop);
	if (!err)
		err = loop_create(r->io, "store", &r->store_loop);
	if (!err)
		err = loop_create(r->io, "extents", &r->extents_loop);
	if (!err)
		err = index_twin_create(sim, &o->index_faults, &r->index);
	if (!err)
		err = rig_open_files(r);
	if (!err)
		err = rig_follow(r);
	if (err)
		rig_give_up(r);
	return err;
}

/* ---- leading ---- */

static int rig_claim(struct rig *r)
{
	int err = r->options.steal ? log_steal(r->log) : log_claim(r->log);

	if (err)
		return err;
	r->epoch = log_epoch(r->log);
	if (r->options.claimed)
		r->options.claimed(r->options.ctx, r);
	return 0;
}

static int rig_recover(struct rig *r)
{
	struct core_options co = {
		.io = r->io,
		.loops = r->loops,
		.shard_count = r->shard_count,
		.rules = r->options.rules,
		.rule_count = r->options.rule_count,
		.memory_bytes = r->options.memory_bytes,
		.expiry_scan_ns = r->options.expiry_scan_ns,
		.log = r->log,
		.store = r->store,
	};
	int err = store_recover(r->store, r->log);

	if (err) {
		snprintf(r->why, sizeof(r->why), "%s", store_why(r->store));
		return err;
	}
	err = core_create(&co, &r->core);
	if (!err)
		err = core_recover(r->core);
	if (!err && !MUTANT(STRAYS_EARLY))
		err = log_start(r->log, r->journal_loop);
	if (err)
		return err;
	err = store_start(r->store, r->store_loop, r->extents_loop);
	if (err)
		snprintf(r->why, sizeof(r->why), "%s", store_why(r->store));
	if (!err && MUTANT(STRAYS_EARLY))
		err = log_start(r->log, r->journal_loop);
	return err;
}

int rig_take_over(struct rig *r)
{
	int err;

	r->options.follow_ns = 0;
	if (r->follow_loop)
		loop_timer_cancel(r->follow_loop, &r->follow_timer);
	err = r->member ? 0 : rig_claim(r);
	if (!err)
		err = rig_recover(r);
	for (unsigned i = 0; i < r->shard_count && !err; i++)
		err = loop_start(r->loops[i], NULL, NULL);
	if (!err)
		err = loop_start(r->journal_loop, NULL, NULL);
	if (!err)
		err = loop_start(r->store_loop, NULL, NULL);
	if (!err)
		err = loop_start(r->extents_loop, NULL, NULL);
	if (!err && r->member)
		member_serves(r->member);
	if (err && !r->why[0])
		snprintf(r->why, sizeof(r->why), "%s", log_why(r->log));
	if (err)
		rig_give_up(r);
	return err;
}

int rig_start(struct rig *r, struct sim *sim, const struct rig_options *o)
{
	int err = rig_stand_by(r, sim, o);

	return err ? err : rig_take_over(r);
}

static void rig_look_away(struct rig *r)
{
	if (r->away_at_step && sim_steps(r->sim) >= r->away_at_step)
		r->away = true;
}

bool rig_is_dead(const struct rig *r)
{
	return r->failed || r->away || sim_is_dead(sim_node(r->io));
}

static bool rig_is_settled(void *ctx)
{
	struct rig *r = ctx;

	return core_pending(r->core) == 0;
}

struct rig_wait {
	struct rig *rig;
	bool (*done)(void *);
	void *ctx;
};

static bool rig_wait_is_over(void *ctx)
{
	struct rig_wait *w = ctx;

	rig_look_away(w->rig);
	return rig_is_dead(w->rig) || w->done(w->ctx);
}

static void rig_run(struct rig *r, bool (*done)(void *), void *ctx)
{
	struct rig_wait wait = {.rig = r, .done = done, .ctx = ctx};
	int err = sim_run_until(r->sim, rig_wait_is_over, &wait, STEPS_MAX);

	if (err)
		rig_die("nothing ends the wait", err_str(err));
}

/* Whoever wants to go away at a step gets looked at often. */
#define LOOK_NS 5000ull

void rig_run_for(struct rig *r, uint64_t ns)
{
	uint64_t end_ns = sim_now_ns(r->sim) + ns;

	rig_look_away(r);
	if (!r->away_at_step) {
		sim_run_for(r->sim, ns);
		return;
	}
	while (!r->away && sim_now_ns(r->sim) < end_ns) {
		sim_run_for(r->sim, LOOK_NS);
		rig_look_away(r);
	}
}

void rig_settle(struct rig *r)
{
	/* A few rounds: what a note sets off may start the next record. */
	for (int i = 0; i < 20; i++) {
		rig_run_for(r, 2000000);
		rig_run(r, rig_is_settled, r);
		if (rig_is_dead(r))
			return;
	}
}

static void rig_done(void *ctx)
{
	*(bool *)ctx = true;
}

static bool rig_flag(void *ctx)
{
	return *(bool *)ctx;
}

int rig_stop(struct rig *r)
{
	bool done = false;

	rig_settle(r);
	/* The store appends, so it goes first. */
	if (!rig_is_dead(r)) {
		store_stop(r->store, rig_done, &done);
		rig_run(r, rig_flag, &done);
	}
	done = false;
	if (!rig_is_dead(r)) {
		log_stop(r->log, rig_done, &done);
		rig_run(r, rig_flag, &done);
	}
	if (rig_is_dead(r))
		return -EIO;
	for (unsigned i = 0; i < r->shard_count; i++)
		loop_stop(r->loops[i]);
	loop_stop(r->journal_loop);
	loop_stop(r->store_loop);
	loop_stop(r->extents_loop);
	for (unsigned i = 0; i < r->shard_count; i++)
		loop_join(r->loops[i]);
	loop_join(r->journal_loop);
	loop_join(r->store_loop);
	loop_join(r->extents_loop);
	if (rig_is_dead(r))
		return -EIO;
	rig_free(r);
	return 0;
}

void rig_kill(struct rig *r)
{
	if (!sim_is_dead(sim_node(r->io)))
		sim_kill(sim_node(r->io));
	/* Its memory goes with the scenario's process; see rig.h. */
}

/* ---- message bytes ---- */

static uint8_t rig_byte(uint64_t id, uint64_t at)
{
	return (uint8_t)((id * 0x9e3779b97f4a7c15ull + at * 0x2545f491) >> 24);
}

void rig_fill(uint8_t *data, uint64_t len, uint64_t id)
{
	memcpy(data, &id, 8);
	memcpy(data + 8, &len, 8);
	for (uint64_t i = 16; i < len; i++)
		data[i] = rig_byte(id, i);
}

uint64_t rig_check(const uint8_t *data, uint64_t len)
{
	uint64_t id, said;

	if (len < 16)
		rig_die("message", "too short");
	memcpy(&id, data, 8);
	memcpy(&said, data + 8, 8);
	if (said != len)
		rig_die("message", "length");
	for (uint64_t i = 16; i < len; i++)
		if (data[i] != rig_byte(id, i))
			rig_die("message", "bytes");
	return id;
}

/* ---- producers ---- */

static void producer_attached(struct producer *producer, int err,
			      const char *name)
{
	struct rig_producer *p =
		container_of(producer, struct rig_producer, producer);

	p->attach_err = err;
	snprintf(p->name, sizeof(p->name), "%s", name);
}

static void producer_settled(struct producer *producer, void *context,
			     enum outcome outcome, int err)
{
	struct rig_producer *p =
		container_of(producer, struct rig_producer, producer);

	p->accepted += outcome == OUTCOME_ACCEPTED;
	p->rejected += outcome == OUTCOME_REJECTED;
	p->released += outcome == OUTCOME_RELEASED;
	p->last_err = err;
	if (p->settled)
		p->settled(p, (uint64_t)(uintptr_t)context, outcome, err);
}

static void producer_flow(struct producer *producer, bool blocked)
{
	container_of(producer, struct rig_producer, producer)->blocked =
		blocked;
}

static void producer_released(struct producer *producer)
{
	container_of(producer, struct rig_producer, producer)->gone = true;
}

static const struct producer_ops rig_producer_ops = {
	.attached = producer_attached,
	.settled = producer_settled,
	.flow = producer_flow,
	.released = producer_released,
};

static bool producer_is_answered(void *ctx)
{
	struct rig_producer *p = ctx;

	return p->attach_err != 1;
}

int rig_producer_open(struct rig *r, struct rig_producer *p, unsigned shard,
		      const char *name, uint8_t routing)
{
	struct terminus t = {.address = name, .routing = routing};

	memset(p, 0, sizeof(*p));
	p->rig = r;
	p->shard = core_shard(r->core, shard);
	p->producer.ops = &rig_producer_ops;
	p->attach_err = 1;
	producer_attach(p->shard, &p->producer, &t);
	rig_run(r, producer_is_answered, p);
	return p->attach_err;
}

void rig_publish(struct rig_producer *p, uint64_t id, uint32_t len,
		 uint64_t expiry_ms, const char *to)
{
	struct record_props props = {
		.expiry_ms = expiry_ms, .priority = 4, .durable = 1};

	rig_publish_with(p, id, len, &props, to);
}

void rig_publish_with(struct rig_producer *p, uint64_t id, uint32_t len,
		      const struct record_props *props, const char *to)
{
	struct message *m = message_create(p->shard, len);

	/* An injected failure comes once. */
	if (!m)
		m = message_create(p->shard, len);
	if (!m)
		rig_die("message", "no memory");
	rig_fill(m->data, len, id);
	m->props = *props;
	m->context = (void *)(uintptr_t)id;
	producer_publish(&p->producer, m, to);
}

int rig_publish_large(struct rig_producer *p, uint64_t id, uint64_t len,
		      uint32_t piece_len)
{
	struct record_props props = {.priority = 4, .durable = 1};
	uint8_t *data = malloc(len);
	struct upload *u;
	int err;

	if (!data)
		rig_die("message", "no memory");
	rig_fill(data, len, id);
	err = upload_begin(&p->producer, &u);
	for (uint64_t at = 0; !err && at < len; at += piece_len)
		err = upload_append(u, data + at,
				    base_min(piece_len, len - at));
	free(data);
	if (!err)
		upload_finish(u, &props, NULL, (void *)(uintptr_t)id);
	return err;
}

static bool producer_is_gone(void *ctx)
{
	struct rig_producer *p = ctx;

	return p->gone;
}

void rig_producer_close(struct rig_producer *p)
{
	producer_detach(&p->producer);
	rig_run(p->rig, producer_is_gone, p);
}

/* ---- consumers ---- */

static void consumer_attached(struct consumer *consumer, int err,
			      const char *name)
{
	struct rig_consumer *c =
		container_of(consumer, struct rig_consumer, consumer);

	c->attach_err = err;
	snprintf(c->name, sizeof(c->name), "%s", name);
}

static void consumer_deliver(struct consumer *consumer, struct delivery *d)
{
	struct rig_consumer *c =
		container_of(consumer, struct rig_consumer, consumer);
	uint64_t id = 0;

	c->delivered++;
	if (delivery_data(d))
		id = rig_check(delivery_data(d), delivery_bytes(d));
	if (c->deliver) {
		c->deliver(c, d, id);
		return;
	}
	delivery_sent(d);
	if (c->held_count == c->held_capacity) {
		c->held_capacity = c->held_capacity * 2 + 16;
		c->held = realloc(c->held, c->held_capacity * sizeof(*c->held));
		c->held_ids = realloc(c->held_ids,
				      c->held_capacity * sizeof(*c->held_ids));
		if (!c->held || !c->held_ids)
			rig_die("held", "no memory");
	}
	c->held[c->held_count] = d;
	c->held_ids[c->held_count++] = id;
}

static void consumer_drained(struct consumer *consumer)
{
	container_of(consumer, struct rig_consumer, consumer)->drained++;
}

static void consumer_settled(struct consumer *consumer, void *context, int err)
{
	struct rig_consumer *c =
		container_of(consumer, struct rig_consumer, consumer);

	c->confirmed += !err;
	if (c->confirm)
		c->confirm(c, (uint64_t)(uintptr_t)context, err);
}

static void consumer_gone(struct consumer *consumer, int err)
{
	container_of(consumer, struct rig_consumer, consumer)->gone = true;
}

static void consumer_released(struct consumer *consumer)
{
	container_of(consumer, struct rig_consumer, consumer)->released = true;
}

static const struct consumer_ops rig_consumer_ops = {
	.attached = consumer_attached,
	.deliver = consumer_deliver,
	.drained = consumer_drained,
	.settled = consumer_settled,
	.gone = consumer_gone,
	.released = consumer_released,
};

static bool consumer_is_answered(void *ctx)
{
	struct rig_consumer *c = ctx;

	return c->attach_err != 1;
}

int rig_consumer_open(struct rig *r, struct rig_consumer *c, unsigned shard,
		      const char *name, uint8_t routing)
{
	struct terminus t = {.address = name, .routing = routing};

	memset(c, 0, sizeof(*c));
	c->rig = r;
	c->shard = core_shard(r->core, shard);
	c->consumer.ops = &rig_consumer_ops;
	c->attach_err = 1;
	consumer_attach(c->shard, &c->consumer, &t);
	rig_run(r, consumer_is_answered, c);
	return c->attach_err;
}

void rig_settle_held(struct rig_consumer *c, size_t i,
		     const struct settlement *s)
{
	struct delivery *d = c->held[i];

	c->held_count--;
	memmove(&c->held[i], &c->held[i + 1],
		(c->held_count - i) * sizeof(*c->held));
	memmove(&c->held_ids[i], &c->held_ids[i + 1],
		(c->held_count - i) * sizeof(*c->held_ids));
	delivery_settle(d, s);
}

void rig_accept(struct rig_consumer *c, size_t i)
{
	struct settlement s = {.outcome = OUTCOME_ACCEPTED,
			       .confirm = true,
			       .context = (void *)(uintptr_t)c->held_ids[i]};

	rig_settle_held(c, i, &s);
}

static bool consumer_is_released(void *ctx)
{
	struct rig_consumer *c = ctx;

	return c->released;
}

void rig_consumer_close(struct rig_consumer *c, bool failed)
{
	c->held_count = 0;
	consumer_detach(&c->consumer, failed);
	rig_run(c->rig, consumer_is_released, c);
	free(c->held);
	free(c->held_ids);
	c->held = NULL;
	c->held_ids = NULL;
	c->held_capacity = 0;
}

/* ---- large messages ---- */

/* On the heap: a read may end after its reader has gone away. */
struct rig_reading {
	struct piece_read piece;
	uint8_t *data, *at;
	int err;
	bool done;
};

static void piece_done(struct piece_read *piece, int err, const void *data,
		       uint32_t len)
{
	struct rig_reading *reading =
		container_of(piece, struct rig_reading, piece);

	reading->err = err;
	if (!err) {
		memcpy(reading->at, data, len);
		reading->at += len;
	}
	reading->done = true;
}

static bool reading_is_done(void *ctx)
{
	struct rig_reading *reading = ctx;

	return reading->done;
}

uint64_t rig_read_large(struct rig_consumer *c, struct delivery *d)
{
	struct rig_reading *reading = calloc(1, sizeof(*reading));
	uint64_t len = delivery_bytes(d), id = 0;

	if (reading)
		reading->data = malloc(len);
	if (!reading || !reading->data)
		rig_die("message", "no memory");
	reading->piece.done = piece_done;
	reading->at = reading->data;
	for (uint32_t i = 0; i < delivery_piece_count(d) && !reading->err;
	     i++) {
		reading->done = false;
		delivery_read_piece(d, i, &reading->piece);
		rig_run(c->rig, reading_is_done, reading);
		if (!reading->done)
			return 0;
	}
	if (!reading->err && reading->at == reading->data + len)
		id = rig_check(reading->data, len);
	free(reading->data);
	free(reading);
	return id;
}
