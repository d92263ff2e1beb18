/* The scripted part of load.h: what enumerated workloads are made of. */
#include "tests/sim/load_private.h"

static uint64_t announce(struct load_producer *p, const struct load_sent *sent,
			 uint64_t len)
{
	return load_announce(p->load,
			     (struct model_sent){.producer = p->number,
						 .target = p->target,
						 .len = len,
						 .expiry_ms = sent->expiry_ms,
						 .priority = sent->priority,
						 .large = sent->large,
						 .later = sent->large});
}

static void send_large(struct load_producer *p, const struct load_sent *sent)
{
	uint64_t len = 110000 + 8 * p->load->model->count;
	uint64_t id = announce(p, sent, len);

	if (rig_publish_large(&p->rig, id, len, 60000) != 0 &&
	    !rig_is_dead(p->load->rig))
		model_fail("a large message was not taken");
}

void load_send(struct load *l, enum model_target target,
	       const struct load_sent *sent)
{
	struct record_props props = {.priority = sent->priority,
				     .expiry_ms = sent->expiry_ms,
				     .durable = 1};
	struct load_producer *p = load_open_producer(l, target, false);

	if (!p)
		return;
	if (sent->large)
		send_large(p, sent);
	else
		rig_publish_with(&p->rig, announce(p, sent, sent->len),
				 sent->len, &props, NULL);
	rig_settle(l->rig);
	if (!rig_is_dead(l->rig))
		rig_producer_close(&p->rig);
}

void load_take(struct load *l, enum model_queue q, uint32_t count,
	       enum outcome outcome, bool failed)
{
	struct load_consumer *c = load_open_consumer(l->rig, l->model, l, q);

	if (!c)
		return;
	consumer_credit(&c->rig.consumer, count, false);
	rig_settle(l->rig);
	while (c->held_count && !rig_is_dead(l->rig)) {
		struct settlement s = {.outcome = outcome,
				       .delivery_failed = failed,
				       .confirm = outcome == OUTCOME_ACCEPTED};

		load_settle_held(c, 0, &s);
	}
	rig_settle(l->rig);
	if (!rig_is_dead(l->rig))
		load_close_consumer(c, false);
}

void load_purge(struct load *l, enum model_queue q)
{
	load_execute(l->rig, l->model, CORE_QUEUE_PURGE, q);
	rig_settle(l->rig);
}
