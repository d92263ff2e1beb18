/* The census of load.h: everything that a recovered broker has. */
#include "tests/sim/load_private.h"

/* It waits so long for the next message. */
#define CENSUS_IDLE_NS 30000000000ull
#define CENSUS_LOOK_NS 100000000ull

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

/* Takes all that one queue has. */
static struct load_consumer *census_take(struct rig *r, struct model *m,
					 enum model_queue q, uint64_t *unserved)
{
	struct queue_info info;
	struct load_consumer *c;
	uint64_t idle_ns = 0;

	if (!census_has(r, m, q, &info))
		return NULL;
	c = load_open_consumer(r, m, NULL, q);
	if (!c && m->forgetful && !rig_is_dead(r))
		c = load_open_consumer(r, m, NULL, q);
	if (!c && !rig_is_dead(r))
		model_fail("nobody can attach to the queue %s",
			   model_queue_name(q));
	if (!c)
		return NULL;
	consumer_credit(&c->rig.consumer, 1000000, false);
	/* Bodies may have to be read back, from a slow disk. */
	while (!rig_is_dead(r) && idle_ns < CENSUS_IDLE_NS) {
		size_t before = c->held_count;

		rig_settle(r);
		if (core_queue_info(r->core, model_queue_name(q), &info) != 0)
			model_fail("the queue %s went with a consumer attached",
				   model_queue_name(q));
		if (info.messages == c->held_count)
			break;
		rig_run_for(r, CENSUS_LOOK_NS);
		idle_ns =
			c->held_count == before ? idle_ns + CENSUS_LOOK_NS : 0;
	}
	if (rig_is_dead(r))
		return NULL;
	if (info.messages < c->held_count)
		model_fail("the queue %s counts %llu messages and has "
			   "delivered %zu",
			   model_queue_name(q),
			   (unsigned long long)info.messages, c->held_count);
	*unserved += info.messages - c->held_count;
	return c;
}

static bool census_look(struct load_consumer *c)
{
	for (size_t i = 0; i < c->held_count; i++) {
		struct delivery *d = c->held[i].delivery;
		uint64_t id = c->held[i].copy->id;
		struct model_seen seen;

		if (delivery_piece_count(d)) {
			uint64_t read = rig_read_large(&c->rig, d);

			if (!read && c->model->forgetful)
				read = rig_read_large(&c->rig, d);
			if (rig_is_dead(c->rig.rig))
				return false;
			if (read != id && (read || !c->model->damaged))
				model_fail("large message %llu reads as %llu",
					   (unsigned long long)id,
					   (unsigned long long)read);
		}
		seen = load_look(c, d, id);
		if (model_census_see(c->model, &seen) != c->held[i].copy)
			model_fail("message %llu changed its origin",
				   (unsigned long long)id);
	}
	return true;
}

static void census_settle(struct load_consumer *c, enum load_census_end end)
{
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
}

bool load_census(struct rig *r, struct model *m, enum load_census_end end)
{
	struct load_consumer *consumers[MODEL_QUEUES] = {NULL};
	uint64_t unserved = 0;

	rig_settle(r);
	if (!rig_is_dead(r))
		census_resume(r, m);
	model_census_begin(m);
	for (unsigned q = 0; q < MODEL_QUEUES && !rig_is_dead(r); q++)
		consumers[q] =
			census_take(r, m, (enum model_queue)q, &unserved);
	if (rig_is_dead(r))
		return false;
	for (unsigned q = 0; q < MODEL_QUEUES; q++)
		if (consumers[q] && !census_look(consumers[q]))
			return false;
	model_census_end(m, io_wall_ms(r->io), unserved);
	for (unsigned q = 0; q < MODEL_QUEUES; q++)
		if (consumers[q])
			census_settle(consumers[q], end);
	rig_settle(r);
	for (unsigned q = 0; q < MODEL_QUEUES && !rig_is_dead(r); q++)
		if (consumers[q])
			load_close_consumer(consumers[q], false);
	rig_settle(r);
	if (rig_is_dead(r))
		return false;
	model_quiet(m);
	return true;
}
