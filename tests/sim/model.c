/* See model.h. */
#include "tests/sim/model.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define MODEL_MESSAGES_MAX 20000u
#define ID(m) ((unsigned long long)(m))

static const char *const queue_names[MODEL_QUEUES] = {
	[MODEL_A] = "a",
	[MODEL_B] = "b",
	[MODEL_C] = "c",
	[MODEL_AUTO] = "auto.q",
	[MODEL_X] = "m::x",
	[MODEL_Y] = "m::y",
	[MODEL_D] = "d",
	[MODEL_DLQ] = "DLQ",
	[MODEL_EXPIRY] = "ExpiryQueue",
};

static const char *const target_names[MODEL_TARGETS] = {
	[MODEL_TO_A] = "a",	    [MODEL_TO_B] = "b",
	[MODEL_TO_C] = "c",	    [MODEL_TO_AUTO] = "auto.q",
	[MODEL_TO_M] = "topic://m", [MODEL_TO_X] = "m::x",
	[MODEL_TO_D] = "d",
};

/* Which of the queues a message to the target enters. */
static bool routes_to(enum model_target t, enum model_queue q)
{
	switch (t) {
	case MODEL_TO_A:
		return q == MODEL_A;
	case MODEL_TO_B:
		return q == MODEL_B;
	case MODEL_TO_C:
		return q == MODEL_C;
	case MODEL_TO_AUTO:
		return q == MODEL_AUTO;
	case MODEL_TO_M:
		return q == MODEL_X || q == MODEL_Y;
	case MODEL_TO_D:
		return q == MODEL_D;
	case MODEL_TO_X:
		return q == MODEL_X;
	case MODEL_TARGETS:
		break;
	}
	return false;
}

void model_fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "the oracle: ");
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	fflush(NULL);
	_exit(MODEL_EXIT);
}

void model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	m->life = 1;
}

const char *model_queue_name(enum model_queue q)
{
	return queue_names[q];
}

const char *model_target_name(enum model_target t)
{
	return target_names[t];
}

static struct model_message *message_of(struct model *m, uint64_t id)
{
	if (!id || id > m->count)
		model_fail("message %llu was never sent", ID(id));
	return &m->messages[id - 1];
}

#define for_each_message(m, id) for (uint64_t id = 1; id <= (m)->count; id++)

/* ---- publishing ---- */

uint64_t model_send(struct model *m, const struct model_sent *sent)
{
	struct model_message *msg;
	uint64_t id = m->count + 1;
	bool multicast = sent->target == MODEL_TO_M;

	/* Copies are pointed to: the array never moves. */
	if (!m->messages) {
		m->capacity = MODEL_MESSAGES_MAX;
		m->messages = calloc(m->capacity, sizeof(*m->messages));
		if (!m->messages) /* meant for the broker, and comes once */
			m->messages = calloc(m->capacity, sizeof(*m->messages));
	}
	if (!m->messages || m->count == m->capacity)
		model_fail("more messages than the model has room for");
	msg = &m->messages[m->count++];
	msg->len = sent->len;
	msg->expiry_ms = sent->expiry_ms;
	msg->producer = sent->producer;
	msg->priority = sent->priority;
	msg->large = sent->large;
	/* A topic without subscriptions takes anything, and asks nobody. */
	msg->late = sent->late && !multicast;
	for (unsigned q = 0; q < MODEL_ORIGINS; q++) {
		const struct model_queue_state *state = &m->queues[q];
		struct model_copy *c = &msg->copies[q];

		c->id = id;
		if (!routes_to(sent->target, q) || sent->never)
			continue;
		/* A producer of a single queue has it made when it is not
		 * there; a topic sends to the subscriptions there are. */
		c->possible =
			!multicast || sent->later || state->exists != MODEL_NO;
		c->expected = !multicast || state->exists == MODEL_YES;
		c->gone_possible = state->vanishing > 0 ||
				   (sent->vanishing && sent->vanishing[q]);
	}
	return id;
}

void model_settled(struct model *m, uint64_t id, enum outcome outcome)
{
	struct model_message *msg = message_of(m, id);

	if (msg->confirmed || msg->refused)
		model_fail("message %llu was settled twice", ID(id));
	if (outcome == OUTCOME_ACCEPTED && msg->late)
		model_fail("message %llu was sent to a leader that had been "
			   "sealed, and was confirmed",
			   ID(id));
	if (outcome == OUTCOME_ACCEPTED) {
		msg->confirmed = true;
		m->confirmed++;
	} else if (outcome == OUTCOME_REJECTED) {
		msg->refused = true;
	}
}

uint64_t model_large(const struct model *m, uint64_t len)
{
	for_each_message(m, id) if (m->messages[id - 1].large &&
				    m->messages[id - 1].len == len) return id;
	return 0;
}

/* ---- consuming ---- */

static enum model_queue origin_queue(struct model *m,
				     const struct model_seen *s)
{
	const char *name = s->origin ? s->origin->queue : NULL;

	if (s->queue < MODEL_ORIGINS)
		return s->queue;
	if (!name)
		model_fail("message %llu is in %s and does not say from where",
			   ID(s->id), queue_names[s->queue]);
	/* A dead letter can expire where it is: one of those it may be. */
	if (s->origin->queue_len == 3 && !memcmp(name, "DLQ", 3))
		for (unsigned q = 0; q < MODEL_ORIGINS; q++) {
			const struct model_copy *c =
				&message_of(m, s->id)->copies[q];

			if (c->possible && c->dead_possible && !c->found &&
			    !c->held && !c->gone)
				return q;
		}
	for (unsigned q = 0; q < MODEL_ORIGINS; q++) {
		const char *own = strstr(queue_names[q], "::");

		own = own ? own + 2 : queue_names[q];
		if (strlen(own) == s->origin->queue_len &&
		    !memcmp(own, name, s->origin->queue_len))
			return q;
	}
	model_fail("message %llu came to %s from an unknown queue \"%.*s\"",
		   ID(s->id), queue_names[s->queue], s->origin->queue_len,
		   name);
}

struct model_copy *model_find(struct model *m, const struct model_seen *s)
{
	return &message_of(m, s->id)->copies[origin_queue(m, s)];
}

/* Can this copy be where it was seen? */
static void check_place(struct model *m, const struct model_seen *s,
			const struct model_copy *c)
{
	struct model_message *msg = message_of(m, s->id);
	const char *name = queue_names[s->queue];

	if (!c->possible)
		model_fail("message %llu is in %s, where it was not sent",
			   ID(s->id), name);
	if (msg->refused)
		model_fail("message %llu is in %s, and was refused", ID(s->id),
			   name);
	if (c->gone)
		model_fail("message %llu is in %s, and its %s was confirmed",
			   ID(s->id), name,
			   c->ack_asked ? "acknowledgement" : "removal");
	if (s->queue == MODEL_DLQ && !c->dead_possible)
		model_fail("message %llu is a dead letter without cause",
			   ID(s->id));
	if (s->queue == MODEL_EXPIRY &&
	    (!msg->expiry_ms || s->now_ms < msg->expiry_ms))
		model_fail("message %llu expired at %llu, it is %llu",
			   ID(s->id), ID(msg->expiry_ms), ID(s->now_ms));
	if (s->queue < MODEL_ORIGINS && c->dead)
		model_fail("message %llu is in %s again, and was a dead letter",
			   ID(s->id), name);
}

/* Counts do not go down while this incarnation lives, nor below what was
 * durable; they never pass what was asked for. */
static void check_attempts(struct model_copy *c, const struct model_seen *s)
{
	if (s->queue >= MODEL_ORIGINS)
		return;
	if (s->attempts > c->fails)
		model_fail("message %llu in %s counts %u attempts, only %u "
			   "have failed",
			   ID(s->id), queue_names[s->queue], s->attempts,
			   c->fails);
	if (s->attempts < c->fails_seen)
		model_fail("message %llu in %s counts %u attempts, it had %u",
			   ID(s->id), queue_names[s->queue], s->attempts,
			   c->fails_seen);
	c->fails_seen = s->attempts;
}

static uint64_t *last_of(uint64_t last[MODEL_PRODUCERS_MAX][MODEL_LEVELS],
			 const struct model_message *msg)
{
	return &last[msg->producer % MODEL_PRODUCERS_MAX][msg->priority / 4];
}

static void check_first(struct model *m, const struct model_seen *s,
			const struct model_copy *c)
{
	const struct model_message *msg = &m->messages[s->id - 1];
	uint64_t *last;

	if (s->queue >= MODEL_ORIGINS || c->delivered || msg->large ||
	    m->queues[s->queue].opened > 1)
		return;
	last = last_of(m->last_first[s->queue], msg);
	if (*last > s->id)
		model_fail("%s delivers message %llu for the first time behind "
			   "%llu of the same producer",
			   queue_names[s->queue], ID(s->id), ID(*last));
	*last = s->id;
}

struct model_copy *model_delivered(struct model *m, const struct model_seen *s)
{
	struct model_copy *c = model_find(m, s);

	check_place(m, s, c);
	check_attempts(c, s);
	if (c->held)
		model_fail("message %llu of %s is with two consumers",
			   ID(s->id), queue_names[s->queue]);
	/* In one incarnation what was asked for holds before it is durable. */
	if (c->ack_asked && c->ack_life == m->life)
		model_fail("message %llu of %s was delivered after its "
			   "acknowledgement",
			   ID(s->id), queue_names[s->queue]);
	check_first(m, s, c);
	c->held = true;
	c->delivered = true;
	c->dying &= s->queue >= MODEL_ORIGINS || !m->cramped;
	c->served_life = m->life;
	m->delivered++;
	return c;
}

void model_settling(struct model *m, struct model_copy *c, enum outcome outcome,
		    bool failed)
{
	c->held = false;
	if (outcome == OUTCOME_ACCEPTED) {
		c->ack_asked = true;
		c->gone_possible = true;
		c->ack_life = m->life;
	} else if (outcome == OUTCOME_REJECTED) {
		c->dead_possible = true;
		c->dying = true;
	} else if (outcome == OUTCOME_MODIFIED && failed) {
		c->fails++;
		c->fails_seen++;
		if (c->fails >= MODEL_ATTEMPTS)
			c->dead_possible = true;
		c->dying |= c->fails_seen >= MODEL_ATTEMPTS;
	}
}

void model_consumer_opened(struct model *m, enum model_queue q)
{
	m->queues[q].consumers++;
	m->queues[q].opened++;
}

void model_consumer_closed(struct model *m, enum model_queue q)
{
	m->queues[q].consumers--;
}

void model_deposed_accepts(struct model_copy *c, uint32_t life)
{
	c->ack_asked = true;
	c->gone_possible = true;
	c->ack_life = base_max(c->ack_life, life);
}

void model_ack_confirmed(struct model *m, struct model_copy *c, uint32_t life)
{
	if (!c->ack_asked)
		model_fail("an acknowledgement of message %llu was confirmed "
			   "and never asked for",
			   ID(c->id));
	/* A deposed leader's late word. */
	if (c->served_life > life)
		model_fail("message %llu was acknowledged by one leader and "
			   "served by the next",
			   ID(c->id));
	c->gone = true;
	m->acked++;
}

/* ---- commands ---- */

void model_queue_asked(struct model *m, enum model_queue q)
{
	if (m->queues[q].exists == MODEL_NO)
		m->queues[q].exists = MODEL_MAYBE;
}

void model_queue_made(struct model *m, enum model_queue q)
{
	m->queues[q].exists = m->queues[q].deleting ? MODEL_MAYBE : MODEL_YES;
}

/* It certainly waits in the queue, and nothing else is about to take it. */
static bool certainly_ready(const struct model_message *msg,
			    const struct model_copy *c)
{
	return msg->confirmed && c->expected && !c->held && !c->dead_possible &&
	       !msg->expiry_ms && !c->gone_possible;
}

static void vanish(struct model *m, enum model_queue q, bool all)
{
	m->queues[q].vanishing++;
	for_each_message(m, id)
	{
		struct model_message *msg = &m->messages[id - 1];
		struct model_copy *c = &msg->copies[q];

		if (!c->possible)
			continue;
		/* A deletion takes what consumers hold, too. */
		c->vanishing |= certainly_ready(msg, c) && all;
		c->gone_possible = true;
	}
}

void model_purge(struct model *m, enum model_queue q)
{
	vanish(m, q, !m->queues[q].consumers);
}

void model_delete(struct model *m, enum model_queue q)
{
	m->queues[q].deleting = true;
	m->queues[q].exists = MODEL_MAYBE;
	vanish(m, q, true);
}

void model_command_done(struct model *m, enum model_queue q, int err,
			bool deleted)
{
	if (m->queues[q].vanishing)
		m->queues[q].vanishing--;
	if (deleted)
		m->queues[q].deleting = false;
	for_each_message(m, id)
	{
		struct model_copy *c = &m->messages[id - 1].copies[q];

		if (c->vanishing && !err)
			c->gone = true;
		if (!m->queues[q].vanishing)
			c->vanishing = false;
	}
}

/* ---- incarnations ---- */

void model_crash(struct model *m)
{
	m->life++;
	m->crashes++;
	for (unsigned q = 0; q < MODEL_QUEUES; q++) {
		m->queues[q].vanishing = 0;
		m->queues[q].deleting = false;
		m->queues[q].consumers = 0;
		m->queues[q].opened = 0;
	}
	memset(m->last_first, 0, sizeof(m->last_first));
	for_each_message(m, id) for (unsigned q = 0; q < MODEL_ORIGINS; q++)
	{
		struct model_copy *c = &m->messages[id - 1].copies[q];

		c->held = false;
		c->dying = false;
		c->vanishing = false;
		c->fails_seen = c->fails_durable;
	}
}

void model_quiet(struct model *m)
{
	for_each_message(m, id) for (unsigned q = 0; q < MODEL_ORIGINS; q++)
	{
		struct model_copy *c = &m->messages[id - 1].copies[q];

		if (c->held || m->forgetful)
			continue;
		c->fails_durable = c->fails_seen;
		c->dead |= c->dying && !m->cramped;
	}
}

/* ---- census ---- */

void model_census_begin(struct model *m)
{
	for_each_message(m, id) for (unsigned q = 0; q < MODEL_ORIGINS; q++)
		m->messages[id - 1]
			.copies[q]
			.found = 0;
	memset(m->last_found, 0, sizeof(m->last_found));
	memset(m->lowest, UINT8_MAX, sizeof(m->lowest));
}

void model_census_see(struct model *m, const struct model_seen *s,
		      struct model_copy *c)
{
	const struct model_message *msg = message_of(m, s->id);
	uint64_t *last;

	check_place(m, s, c);
	if (c->found++)
		model_fail("message %llu of %s is there twice, now in %s",
			   ID(s->id), queue_names[c - msg->copies],
			   queue_names[s->queue]);
	if (s->queue >= MODEL_ORIGINS)
		return;
	if (msg->priority > m->lowest[s->queue])
		model_fail("in %s message %llu of priority %u comes behind one "
			   "of priority %u",
			   queue_names[s->queue], ID(s->id), msg->priority,
			   m->lowest[s->queue]);
	m->lowest[s->queue] = msg->priority;
	/* After a start a queue is in the order of the journal; the pieces of
	 * a large message precede it there by any time. */
	if (msg->large)
		return;
	last = last_of(m->last_found[s->queue], msg);
	if (*last > s->id)
		model_fail("in %s message %llu comes behind %llu of the same "
			   "producer",
			   queue_names[s->queue], ID(s->id), ID(*last));
	*last = s->id;
}

void model_census_end(struct model *m, uint64_t now_ms, uint64_t unserved)
{
	uint64_t missing = 0, first = 0;
	const char *where = "";

	if (unserved && !m->damaged)
		model_fail("%llu messages are counted and not delivered",
			   ID(unserved));
	for_each_message(m, id) for (unsigned q = 0; q < MODEL_ORIGINS; q++)
	{
		const struct model_message *msg = &m->messages[id - 1];
		const struct model_copy *c = &msg->copies[q];

		if (!msg->confirmed || !c->expected || c->gone_possible ||
		    c->found)
			continue;
		if (!missing++) {
			first = id;
			where = queue_names[q];
		}
	}
	if (missing > unserved)
		model_fail("%llu confirmed messages are nowhere, the first is "
			   "%llu of %s",
			   ID(missing), ID(first), where);
	/* What is delivered from now on is looked for anew. */
	for_each_message(m, id) for (unsigned q = 0; q < MODEL_ORIGINS; q++)
		m->messages[id - 1]
			.copies[q]
			.found = 0;
}
