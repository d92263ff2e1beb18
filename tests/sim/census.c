/* The census of load.h: everything that a recovered broker has. */
#include "journal/log/blob.h"
#include "tests/sim/load_private.h"

/* It waits so long for the next message. */
#define CENSUS_IDLE_NS 30000000000ull
#define CENSUS_LOOK_NS 100000000ull

/* One queue's. */
struct taking {
	struct load_consumer *consumer; /* NULL: there is no such queue */
	struct queue_info info;
	uint64_t unserved;
	size_t looked; /* at so many of those held */
	/* Of all that was delivered. */
	uint64_t *refs;
	size_t ref_count, ref_capacity;
};

struct census {
	struct rig *rig;
	struct model *model;
	enum load_census_end end;
	struct taking queues[MODEL_QUEUES];
};

/* Every command that came back; paused queues deliver nothing. */
static void census_resume(struct rig *r, struct model *m)
{
	for (unsigned q = 0; q < MODEL_QUEUES; q++)
		load_execute(r, m, CORE_QUEUE_RESUME, (enum model_queue)q);
	rig_settle(r);
}

/* Does the queue exist as the model believes? */
static bool census_has(struct rig *r, struct model *m, enum model_queue q,
		       struct queue_info *info)
{
	int err = core_queue_info(r->core, model_queue_name(q), info);

	if (err && m->queues[q].exists == MODEL_YES && q != MODEL_AUTO)
		model_fail("the queue %s is gone", model_queue_name(q));
	if (!err && m->queues[q].exists == MODEL_NO && q < MODEL_ORIGINS)
		model_fail("nobody made the queue %s", model_queue_name(q));
	m->queues[q].exists = err ? MODEL_NO : MODEL_YES;
	return !err;
}

static void note_ref(struct taking *t, uint64_t ref)
{
	if (t->ref_count == t->ref_capacity) {
		t->ref_capacity = t->ref_capacity * 2 + 64;
		t->refs = load_memory(t->refs,
				      t->ref_capacity * sizeof(*t->refs));
	}
	t->refs[t->ref_count++] = ref;
}

static int count_place(void *ctx, const struct store_damage *d)
{
	(void)d;
	++*(unsigned *)ctx;
	return 0;
}

/* Named now: once it is accepted its files may go, and their damage with
 * them. */
static void census_unread(struct taking *t)
{
	struct load_consumer *c = t->consumer;
	struct store *store = c->rig.rig->store;
	unsigned places = 0;

	(void)store_each_damage(store, count_place, &places);
	if (!places && !store_stats(store)->copied_bytes)
		model_fail("a large message of %s cannot be read, and the "
			   "store names no damage",
			   c->rig.name);
}

/* Its bytes have been looked at when it was delivered, but for a large one's.
 * By value: more may come meanwhile.  False: the rig is dead. */
static bool census_look_at(struct taking *t, struct load_held held)
{
	struct load_consumer *c = t->consumer;
	struct delivery *d = held.delivery;
	uint64_t id = held.copy->id;
	struct model_seen seen;

	if (delivery_piece_count(d)) {
		uint64_t read = rig_read_large(&c->rig, d);

		/* What an injected failure leaves undone is done again. */
		if (!read && (c->model->forgetful || c->model->damaged))
			read = rig_read_large(&c->rig, d);
		if (rig_is_dead(c->rig.rig))
			return false;
		if (read != id && (read || !c->model->damaged))
			model_fail("large message %llu reads as %llu",
				   (unsigned long long)id,
				   (unsigned long long)read);
		if (!read)
			census_unread(t);
	} else {
		note_ref(t, delivery_ref(d));
	}
	seen = load_look(c, d, id);
	model_census_see(c->model, &seen, held.copy);
	return true;
}

static bool census_look(struct taking *t)
{
	for (; t->looked < t->consumer->held_count; t->looked++)
		if (!census_look_at(t, t->consumer->held[t->looked]))
			return false;
	return true;
}

static void census_settle(struct taking *t, enum load_census_end end)
{
	struct load_consumer *c = t->consumer;
	struct sim *sim = c->rig.rig->sim;

	c->rig.confirm = load_confirm;
	for (size_t i = 0; i < c->held_count;) {
		struct settlement s = {.outcome = OUTCOME_ACCEPTED,
				       .confirm = true};

		if (end == LOAD_ACCEPT_ALL ||
		    (end == LOAD_ACCEPT_HALF && sim_chance(sim, BIT_PPM)))
			load_settle_held(c, i, &s);
		else
			i++;
	}
	t->looked = c->held_count;
}

/* Attached, with credit for everything.  False: there is no such queue, or
 * the rig is dead. */
static bool census_open(struct census *x, enum model_queue q)
{
	struct taking *t = &x->queues[q];

	if (!census_has(x->rig, x->model, q, &t->info))
		return false;
	t->consumer = load_open_consumer(x->rig, x->model, NULL, q);
	if (!t->consumer && x->model->forgetful && !rig_is_dead(x->rig))
		t->consumer = load_open_consumer(x->rig, x->model, NULL, q);
	if (!t->consumer && !rig_is_dead(x->rig))
		model_fail("nobody can attach to the queue %s",
			   model_queue_name(q));
	if (t->consumer)
		consumer_credit(&t->consumer->rig.consumer, 1000000, false);
	return t->consumer;
}

/* Takes all that one queue has.  What is to be accepted is accepted as it
 * comes: a broker with little memory hands out no more before that. */
static void census_take(struct census *x, enum model_queue q)
{
	struct taking *t = &x->queues[q];
	struct rig *r = x->rig;
	struct load_consumer *c;
	uint64_t idle_ns = 0;

	if (!census_open(x, q))
		return;
	c = t->consumer;
	/* Bodies may have to be read back, from a slow disk. */
	while (!rig_is_dead(r) && idle_ns < CENSUS_IDLE_NS) {
		uint64_t before = c->rig.delivered;

		rig_settle(r);
		if (core_queue_info(r->core, model_queue_name(q), &t->info))
			model_fail("the queue %s went with a consumer attached",
				   model_queue_name(q));
		if (t->info.messages == c->held_count &&
		    (x->end != LOAD_ACCEPT_ALL || !c->held_count))
			break;
		if (x->end == LOAD_ACCEPT_ALL && census_look(t))
			census_settle(t, x->end);
		rig_run_for(r, CENSUS_LOOK_NS);
		idle_ns = c->rig.delivered == before ? idle_ns + CENSUS_LOOK_NS
						     : 0;
	}
	if (rig_is_dead(r))
		return;
	if (t->info.messages < c->held_count)
		model_fail("the queue %s counts %llu messages and has "
			   "delivered %zu",
			   model_queue_name(q),
			   (unsigned long long)t->info.messages, c->held_count);
	t->unserved = t->info.messages - c->held_count;
}

/* ---- damage ---- */

struct naming {
	struct census *census;
	uint64_t named[MODEL_QUEUES]; /* refs */
	uint64_t places;
};

static int name_damage(void *ctx, const struct store_damage *d)
{
	struct naming *n = ctx;

	n->places++;
	for (unsigned q = 0; q < MODEL_QUEUES; q++) {
		const struct taking *t = &n->census->queues[q];

		if (!t->consumer || t->info.id != d->queue || !d->first_ref)
			continue;
		n->named[q] += d->last_ref - d->first_ref + 1;
		/* The scrubber names from the first to the last, copying all
		 * of a run; readers, exactly what lies in a chunk. */
		if (n->census->rig->scrubs || n->census->model->rotting ||
		    d->bytes != BLOB_CHUNK_STRIDE)
			continue;
		for (size_t i = 0; i < t->ref_count; i++)
			if (t->refs[i] >= d->first_ref &&
			    t->refs[i] <= d->last_ref)
				model_fail("%s has delivered what the store "
					   "calls damaged in %s",
					   model_queue_name(q), d->file);
	}
	return 0;
}

/* What is kept back is what the store names, and nothing else; what it names
 * may have left before.  What was copied before it rotted, and moved after it
 * was found damaged, is whole again for the store; the core keeps it back, and
 * counts it, until the next start. */
static void census_damage(struct census *x)
{
	struct naming n = {.census = x};
	bool moved = store_stats(x->rig->store)->copied_bytes > 0;

	(void)store_each_damage(x->rig->store, name_damage, &n);
	if (n.places && !x->model->damaged)
		model_fail("the store speaks of damage, and there is none");
	for (unsigned q = 0; q < MODEL_QUEUES; q++) {
		const struct taking *t = &x->queues[q];

		if (t->unserved > n.named[q] &&
		    (!moved || t->unserved > t->info.damaged))
			model_fail("%s keeps %llu messages back, and the store "
				   "names %llu",
				   model_queue_name(q),
				   (unsigned long long)t->unserved,
				   (unsigned long long)n.named[q]);
	}
}

/* ---- all of it ---- */

static void census_free(struct census *x)
{
	for (unsigned q = 0; q < MODEL_QUEUES; q++)
		free(x->queues[q].refs);
}

static bool census_run(struct census *x)
{
	struct rig *r = x->rig;
	uint64_t unserved = 0;

	rig_settle(r);
	if (!rig_is_dead(r))
		census_resume(r, x->model);
	model_census_begin(x->model);
	for (unsigned q = 0; q < MODEL_QUEUES && !rig_is_dead(r); q++)
		census_take(x, (enum model_queue)q);
	if (rig_is_dead(r))
		return false;
	for (unsigned q = 0; q < MODEL_QUEUES; q++) {
		if (x->queues[q].consumer && !census_look(&x->queues[q]))
			return false;
		unserved += x->queues[q].unserved;
	}
	census_damage(x);
	model_census_end(x->model, io_wall_ms(r->io), unserved);
	for (unsigned q = 0; q < MODEL_QUEUES; q++)
		if (x->queues[q].consumer)
			census_settle(&x->queues[q], x->end);
	rig_settle(r);
	for (unsigned q = 0; q < MODEL_QUEUES && !rig_is_dead(r); q++)
		if (x->queues[q].consumer)
			load_close_consumer(x->queues[q].consumer, false);
	rig_settle(r);
	if (rig_is_dead(r))
		return false;
	model_quiet(x->model);
	return true;
}

bool load_census(struct rig *r, struct model *m, enum load_census_end end)
{
	struct census x = {.rig = r, .model = m, .end = end};
	bool done = census_run(&x);

	census_free(&x);
	return done;
}
