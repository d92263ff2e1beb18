/* See load.h. */
#include "tests/sim/load_private.h"

#include <string.h>

const struct core_address_rule load_rules[] = {
	{.match = "#",
	 .routing = RECORD_ANYCAST,
	 .auto_create = true,
	 .delivery_attempts = MODEL_ATTEMPTS,
	 .dead_letter = "DLQ",
	 .expiry = "ExpiryQueue"},
	{.match = "m",
	 .routing = RECORD_MULTICAST,
	 .auto_create = true,
	 .delivery_attempts = MODEL_ATTEMPTS,
	 .dead_letter = "DLQ",
	 .expiry = "ExpiryQueue"},
	{.match = "auto.#",
	 .routing = RECORD_ANYCAST,
	 .auto_create = true,
	 .auto_delete = true,
	 .delivery_attempts = MODEL_ATTEMPTS,
	 .dead_letter = "DLQ",
	 .expiry = "ExpiryQueue"},
};
const unsigned load_rule_count = ARRAY_COUNT(load_rules);

void *load_memory(void *old, size_t bytes)
{
	void *p = realloc(old, bytes);

	/* A failure may be meant for the broker, and comes once. */
	if (!p)
		p = realloc(old, bytes);
	if (!p)
		model_fail("the test has no memory");
	if (!old)
		memset(p, 0, bytes);
	return p;
}

static uint8_t routing_of(enum model_queue q)
{
	return q == MODEL_X || q == MODEL_Y ? RECORD_MULTICAST : RECORD_ANYCAST;
}

/* ---- producers ---- */

static void publish_one(struct load_producer *);

static bool is_attached(const struct load_producer *p)
{
	for (size_t i = 0; i < LOAD_PRODUCERS; i++)
		if (p->load->producers[i] == p)
			return true;
	return false;
}

static void load_settled(struct rig_producer *rp, uint64_t id, enum outcome o,
			 int err)
{
	struct load_producer *p = container_of(rp, struct load_producer, rig);

	model_settled(p->load->model, id, o);
	p->load->accepted += o == OUTCOME_ACCEPTED;
	if (o == OUTCOME_ACCEPTED && p->load->deposed && p->load->momentum &&
	    is_attached(p)) {
		p->load->momentum--;
		publish_one(p);
	}
}

static enum model_queue target_queue(enum model_target t)
{
	static const enum model_queue queues[MODEL_TARGETS] = {
		[MODEL_TO_A] = MODEL_A,	     [MODEL_TO_B] = MODEL_B,
		[MODEL_TO_C] = MODEL_C,	     [MODEL_TO_AUTO] = MODEL_AUTO,
		[MODEL_TO_M] = MODEL_QUEUES, [MODEL_TO_X] = MODEL_X,
		[MODEL_TO_D] = MODEL_D,
	};

	return queues[t];
}

struct load_producer *
load_open_producer(struct load *l, enum model_target target, bool anonymous)
{
	struct load_producer *p = load_memory(NULL, sizeof(*p));
	unsigned shard = (unsigned)sim_below(l->sim, l->rig->shard_count);
	uint8_t routing = target == MODEL_TO_X ? RECORD_MULTICAST : 0;
	int err;

	p->load = l;
	p->target = target;
	p->anonymous = anonymous;
	p->number = l->model->producers++;
	if (!anonymous && target_queue(target) != MODEL_QUEUES)
		model_queue_asked(l->model, target_queue(target));
	err = rig_producer_open(l->rig, &p->rig, shard,
				anonymous ? NULL : model_target_name(target),
				routing);
	p->rig.settled = load_settled;
	if (rig_is_dead(l->rig))
		return NULL;
	if (err) {
		rig_producer_close(&p->rig);
		return NULL;
	}
	/* What a deposed leader finds is its own memory. */
	if (!anonymous && target_queue(target) != MODEL_QUEUES && !l->deposed)
		model_queue_made(l->model, target_queue(target));
	return p;
}

static void step_producer(struct load *l)
{
	size_t i = sim_below(l->sim, LOAD_PRODUCERS);
	struct load_producer *p = l->producers[i];

	l->producers[i] = NULL;
	if (p)
		rig_producer_close(&p->rig);
	else
		l->producers[i] = load_open_producer(
			l, (enum model_target)sim_below(l->sim, MODEL_TARGETS),
			sim_chance(l->sim, 200000));
}

static struct load_producer *some_producer(struct load *l)
{
	size_t i = sim_below(l->sim, LOAD_PRODUCERS);

	for (size_t k = 0; k < LOAD_PRODUCERS; k++)
		if (l->producers[(i + k) % LOAD_PRODUCERS])
			return l->producers[(i + k) % LOAD_PRODUCERS];
	return l->producers[i] = load_open_producer(
		       l, (enum model_target)sim_below(l->sim, MODEL_TARGETS),
		       false);
}

static uint8_t some_priority(struct load *l)
{
	if (!sim_chance(l->sim, l->options->priority_ppm))
		return 4;
	return sim_chance(l->sim, BIT_PPM) ? 9 : 0;
}

uint64_t load_announce(struct load *l, struct model_sent sent)
{
	sent.late = l->sealed;
	sent.never = l->cut;
	sent.vanishing = l->vanishing;
	return model_send(l->model, &sent);
}

static void publish_one(struct load_producer *p)
{
	struct load *l = p->load;
	uint64_t len = 16 + sim_below(l->sim, l->options->bytes_max), id;
	struct record_props props = {.priority = some_priority(l),
				     .durable = 1};
	const char *to = NULL;

	/* An anonymous producer may change its mind with each message. */
	if (p->anonymous && sim_chance(l->sim, 300000))
		p->target = (enum model_target)sim_below(l->sim, MODEL_TO_X);
	if (p->anonymous) {
		to = model_target_name(p->target);
		if (target_queue(p->target) != MODEL_QUEUES)
			model_queue_asked(l->model, target_queue(p->target));
	}
	if (sim_chance(l->sim, l->options->expiry_ppm))
		props.expiry_ms =
			io_wall_ms(l->rig->io) + sim_below(l->sim, 300);
	id = load_announce(
		l, (struct model_sent){.producer = p->number,
				       .target = p->target,
				       .len = len,
				       .expiry_ms = props.expiry_ms,
				       .priority = props.priority,
				       .later = p->anonymous ||
						p->target == MODEL_TO_M});
	rig_publish_with(&p->rig, id, (uint32_t)len, &props, to);
}

static void step_publish(struct load *l)
{
	struct load_producer *p = some_producer(l);
	uint64_t n = 1 + sim_below(l->sim, l->options->burst_max);

	while (p && n-- && !rig_is_dead(l->rig))
		publish_one(p);
}

void load_publish(struct load *l, unsigned n)
{
	struct load_producer *p = some_producer(l);

	while (p && n--)
		publish_one(p);
}

/* In pieces, with pauses; some are given up half way. */
static void step_large(struct load *l)
{
	struct record_props props = {.priority = some_priority(l),
				     .durable = 1};
	struct load_producer *p = some_producer(l);
	uint32_t piece = 20000 + (uint32_t)sim_below(l->sim, 50000);
	bool give_up = sim_chance(l->sim, 300000);
	struct upload *u;
	uint64_t len, id;
	uint8_t *data;
	int err;

	if (!p || p->anonymous || rig_is_dead(l->rig) ||
	    upload_begin(&p->rig.producer, &u) != 0)
		return;
	len = 100000 + 8 * l->model->count + sim_below(l->sim, 8);
	id = load_announce(l, (struct model_sent){.producer = p->number,
						  .target = p->target,
						  .len = len,
						  .priority = props.priority,
						  .large = true,
						  .later = true});
	data = load_memory(NULL, len);
	rig_fill(data, len, id);
	err = 0;
	for (uint64_t at = 0; !err && at < len; at += piece) {
		if (give_up && at > len / 2)
			break;
		err = upload_append(u, data + at, base_min(piece, len - at));
		if (sim_chance(l->sim, 300000))
			rig_run_for(l->rig, sim_below(l->sim, 2000000));
	}
	free(data);
	if (rig_is_dead(l->rig))
		return;
	if (err || give_up) {
		upload_abort(u);
		model_settled(l->model, id, OUTCOME_REJECTED);
	} else {
		upload_finish(u, &props, NULL, (void *)(uintptr_t)id);
	}
}

/* ---- consumers ---- */

struct model_seen load_look(struct load_consumer *c, struct delivery *d,
			    uint64_t id)
{
	struct model_seen seen = {
		.queue = c->queue,
		.id = id ? id : model_large(c->model, delivery_bytes(d)),
		.origin = delivery_origin(d),
		.attempts = delivery_attempts(d),
		.now_ms = io_wall_ms(c->rig.rig->io),
	};

	if (!seen.id)
		model_fail("%s delivers %llu bytes that nobody sent",
			   model_queue_name(c->queue),
			   (unsigned long long)delivery_bytes(d));
	return seen;
}

static void load_deliver(struct rig_consumer *rc, struct delivery *d,
			 uint64_t id)
{
	struct load_consumer *c = container_of(rc, struct load_consumer, rig);
	struct model_seen seen;

	if (c->load && c->load->deposed)
		return;
	if (c->held_count == c->held_capacity) {
		c->held_capacity = c->held_capacity * 2 + 64;
		c->held = load_memory(c->held,
				      c->held_capacity * sizeof(*c->held));
	}
	seen = load_look(c, d, id);
	delivery_sent(d);
	c->held[c->held_count].delivery = d;
	c->held[c->held_count++].copy = model_delivered(c->model, &seen);
}

/* For a deposed leader, whose deliveries the next one makes again. */
static void accept_late(struct load_consumer *c)
{
	struct load_held held = c->held[0];
	struct settlement s = {.outcome = OUTCOME_ACCEPTED, .confirm = true};

	memmove(&c->held[0], &c->held[1], --c->held_count * sizeof(*c->held));
	model_deposed_accepts(held.copy, c->life);
	s.context = c->load->sealed ? NULL : held.copy;
	delivery_settle(held.delivery, &s);
}

void load_accept(struct load *l, unsigned n)
{
	for (size_t i = 0; i < LOAD_CONSUMERS; i++)
		for (unsigned k = 0;
		     k < n && l->consumers[i] && l->consumers[i]->held_count;
		     k++)
			accept_late(l->consumers[i]);
}

void load_confirm(struct rig_consumer *rc, uint64_t context, int err)
{
	struct load_consumer *c = container_of(rc, struct load_consumer, rig);

	if (err)
		return;
	if (!context)
		model_fail("a leader that had been sealed was asked for an "
			   "acknowledgement, and confirmed it");
	model_ack_confirmed(c->model, (void *)(uintptr_t)context, c->life);
	if (c->load && c->load->deposed && c->load->momentum && c->held_count) {
		c->load->momentum--;
		accept_late(c);
	}
}

struct load_consumer *load_open_consumer(struct rig *r, struct model *m,
					 struct load *l, enum model_queue q)
{
	struct load_consumer *c = load_memory(NULL, sizeof(*c));
	unsigned shard = (unsigned)sim_below(r->sim, r->shard_count);
	int err;

	c->load = l;
	c->model = m;
	c->life = m->life;
	c->queue = q;
	model_queue_asked(m, q);
	err = rig_consumer_open(r, &c->rig, shard, model_queue_name(q),
				routing_of(q));
	c->rig.deliver = load_deliver;
	if (rig_is_dead(r))
		return NULL;
	if (err) {
		rig_consumer_close(&c->rig, false);
		return NULL;
	}
	if (l)
		c->rig.confirm = load_confirm;
	model_consumer_opened(m, q);
	model_queue_made(m, q);
	return c;
}

void load_close_consumer(struct load_consumer *c, bool failed)
{
	failed = failed && c->queue < MODEL_ORIGINS;
	for (size_t i = 0; i < c->held_count; i++)
		model_settling(c->model, c->held[i].copy,
			       failed ? OUTCOME_MODIFIED : OUTCOME_RELEASED,
			       failed);
	c->held_count = 0;
	rig_consumer_close(&c->rig, failed);
	if (!rig_is_dead(c->rig.rig))
		model_consumer_closed(c->model, c->queue);
}

static enum model_queue some_queue(struct load *l)
{
	enum model_queue q = (enum model_queue)sim_below(l->sim, MODEL_QUEUES);

	return q == MODEL_D && !sim_chance(l->sim, 100000) ? MODEL_A : q;
}

static void step_consumer(struct load *l)
{
	size_t i = sim_below(l->sim, l->options->consumers);
	struct load_consumer *c = l->consumers[i];

	l->consumers[i] = NULL;
	if (c)
		load_close_consumer(c, sim_chance(l->sim, BIT_PPM));
	else
		l->consumers[i] =
			load_open_consumer(l->rig, l->model, l, some_queue(l));
	c = l->consumers[i];
	if (c)
		consumer_credit(&c->rig.consumer,
				(uint32_t)sim_below(l->sim, 100), false);
}

static struct settlement some_verdict(struct load *l, enum model_queue q)
{
	static const uint8_t extra[] = "annotations";
	uint64_t dice = sim_below(l->sim, 100);
	struct settlement s = {.outcome = OUTCOME_ACCEPTED, .confirm = true};

	if (q >= MODEL_ORIGINS || dice < 60)
		return s;
	if (dice < 70) {
		s.outcome = OUTCOME_RELEASED;
	} else if (dice < 78) {
		s.outcome = OUTCOME_REJECTED;
		s.confirm = false;
	} else {
		s.outcome = OUTCOME_MODIFIED;
		s.delivery_failed = dice < 95;
		s.undeliverable_here = dice % 7 == 0;
		s.extra = dice % 2 ? extra : NULL;
		s.extra_len = dice % 2 ? sizeof(extra) : 0;
		s.confirm = false;
	}
	if (s.outcome != OUTCOME_ACCEPTED)
		s.confirm = false;
	return s;
}

void load_settle_held(struct load_consumer *c, size_t i, struct settlement *s)
{
	struct load_held held = c->held[i];

	memmove(&c->held[i], &c->held[i + 1],
		(--c->held_count - i) * sizeof(*c->held));
	s->context = held.copy;
	model_settling(c->model, held.copy, s->outcome, s->delivery_failed);
	delivery_settle(held.delivery, s);
}

/* What one consumer holds, mostly in order. */
static void step_settle(struct load *l)
{
	struct load_consumer *c =
		l->consumers[sim_below(l->sim, l->options->consumers)];
	uint64_t n = 1 + sim_below(l->sim, 30);
	size_t stuck = l->options->stuck;

	if (!c)
		return;
	while (n-- && c->held_count > stuck && !rig_is_dead(l->rig)) {
		struct settlement s = some_verdict(l, c->queue);
		bool order = sim_chance(l->sim, 800000);
		size_t i = order ? 0 : sim_below(l->sim, c->held_count - stuck);

		load_settle_held(c, stuck + i, &s);
	}
	consumer_credit(&c->rig.consumer, (uint32_t)sim_below(l->sim, 100),
			sim_chance(l->sim, 200000));
}

/* ---- the administrator ---- */

static void command_done(struct core_command *command, int err)
{
	struct load_command *c =
		container_of(command, struct load_command, command);

	c->err = err;
	c->done = true;
	/* A deposed leader's late word: its successor's queues are what
	 * counts. */
	if (c->life != c->model->life)
		return;
	switch (command->kind) {
	case CORE_QUEUE_CREATE:
		if (!err)
			model_queue_made(c->model, c->queue);
		return;
	case CORE_QUEUE_DELETE:
	case CORE_QUEUE_PURGE:
		model_command_done(c->model, c->queue, err,
				   command->kind == CORE_QUEUE_DELETE);
		return;
	case CORE_QUEUE_PAUSE:
	case CORE_QUEUE_RESUME:
		return;
	}
}

struct load_command *load_execute(struct rig *r, struct model *m,
				  enum core_command_kind kind,
				  enum model_queue q)
{
	struct load_command *c = load_memory(NULL, sizeof(*c));
	const char *name = model_queue_name(q);

	c->model = m;
	c->life = m->life;
	c->queue = q;
	c->command.kind = kind;
	c->command.name = name;
	if (q == MODEL_X || q == MODEL_Y) {
		c->command.name = q == MODEL_X ? "x" : "y";
		c->command.address = "m";
		c->command.routing = RECORD_MULTICAST;
	}
	c->command.done = command_done;
	if (kind == CORE_QUEUE_CREATE)
		model_queue_asked(m, q);
	if (kind == CORE_QUEUE_PURGE)
		model_purge(m, q);
	if (kind == CORE_QUEUE_DELETE)
		model_delete(m, q);
	core_execute(r->core, &c->command);
	return c;
}

static void step_command(struct load *l)
{
	uint64_t dice = sim_below(l->sim, 10);
	enum model_queue q = (enum model_queue)sim_below(l->sim, MODEL_ORIGINS);

	if (dice < 3)
		load_execute(l->rig, l->model, CORE_QUEUE_PURGE, q);
	else if (dice < 5)
		load_execute(l->rig, l->model, CORE_QUEUE_CREATE, q);
	else if (dice < 6)
		load_execute(l->rig, l->model, CORE_QUEUE_DELETE,
			     sim_chance(l->sim, BIT_PPM) ? MODEL_C : MODEL_Y);
	else if (dice < 7)
		load_execute(l->rig, l->model, CORE_QUEUE_PAUSE, q);
	else
		load_execute(l->rig, l->model, CORE_QUEUE_RESUME, q);
}

/* ---- all of them ---- */

struct load *load_create(struct rig *r, struct model *m,
			 const struct load_options *o)
{
	struct load *l = load_memory(NULL, sizeof(*l));

	l->rig = r;
	l->model = m;
	l->sim = r->sim;
	l->options = o;
	l->life = m->life;
	return l;
}

void load_depose(struct load *l, unsigned momentum)
{
	l->deposed = true;
	l->momentum = momentum;
	for (unsigned q = 0; q < MODEL_ORIGINS; q++)
		l->vanishing[q] = l->model->queues[q].vanishing > 0;
}

static void load_pause(struct load *l)
{
	uint64_t ns = sim_below(l->sim, l->options->pause_ns_max);

	if (sim_chance(l->sim, l->options->long_ppm))
		ns += 1200000000ull;
	rig_run_for(l->rig, ns);
}

static void load_step(struct load *l)
{
	uint64_t dice = sim_below(l->sim, 100);

	if (dice >= 40 && dice < 94 &&
	    sim_chance(l->sim, l->options->starve_ppm))
		dice = 0;
	if (sim_chance(l->sim, l->options->large_ppm))
		step_large(l);
	else if (sim_chance(l->sim, l->options->quiet_ppm))
		rig_settle(l->rig);
	else if (dice < 40)
		step_publish(l);
	else if (dice < 70)
		step_settle(l);
	else if (dice < 80)
		step_producer(l);
	else if (dice < 94)
		step_consumer(l);
	else
		step_command(l);
}

static void load_leave(struct load *l)
{
	for (size_t i = 0; i < LOAD_PRODUCERS && !rig_is_dead(l->rig); i++) {
		struct load_producer *p = l->producers[i];

		l->producers[i] = NULL;
		if (p)
			rig_producer_close(&p->rig);
	}
	for (size_t i = 0; i < LOAD_CONSUMERS && !rig_is_dead(l->rig); i++)
		if (l->consumers[i])
			load_close_consumer(l->consumers[i],
					    sim_chance(l->sim, BIT_PPM));
	rig_settle(l->rig);
	if (!rig_is_dead(l->rig))
		model_quiet(l->model);
}

void load_run(struct load *l)
{
	for (unsigned i = 0; i < l->options->steps && !rig_is_dead(l->rig);
	     i++) {
		load_step(l);
		if (rig_is_dead(l->rig))
			break;
		load_pause(l);
	}
	if (!rig_is_dead(l->rig))
		load_leave(l);
}
