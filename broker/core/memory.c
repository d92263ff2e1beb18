/* Memory for queued messages: who has it, and who gives it back.
 *
 * Over the limit, what no consumer is about to take goes back to the store,
 * from the ends of the queues, a little from each in turn.  Giving back is
 * forgetting: the message is in the journal anyway, and the gap at the end of
 * its lane says so.
 *
 * When nothing at all has happened for a second, memory is over its limit at a
 * thirty-second of it: a backlog that nobody wants now is read back from the
 * disk when somebody does, a MiB at a time, and needs no memory until then. */
#include "broker/core/internal.h"

#define DELTA_MAX (16 * 1024)
#define RECLAIM_REFS 512u    /* given back in one iteration */
#define RECLAIM_QUEUES 1024u /* asked in one iteration */
#define RECLAIM_EACH 64u     /* of one queue, before the next one's turn */
#define RECLAIM_REST_NS 50000000ull
#define MEMORY_WAIT_NS 10000000ull
#define QUIET_LOOK_NS 1000000000ull
#define QUIET_SHARE 32u
#define TRIM_BYTES (4u * 1024u * 1024u) /* given back: the kernel's turn */

static bool quiet_would_help(const struct core *core)
{
	return memory_is_over(core, core->memory_bytes_max / QUIET_SHARE);
}

/* Something that changes whenever a message moves. */
static uint64_t core_activity(const struct core *core)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < core->shard_count; i++) {
		const struct shard *s = &core->shards[i];

		sum += count_get(&s->appends_started) +
		       count_get(&s->published) + count_get(&s->delivered);
	}
	return sum;
}

/* The sum is looked at by everybody, so that it is not written for every
 * message. */
void memory_add(struct shard *s, int64_t bytes)
{
	s->memory_delta += bytes;
	if (s->memory_delta < DELTA_MAX && s->memory_delta > -DELTA_MAX)
		return;
	atomic_fetch_add_explicit(&s->core->memory_bytes,
				  (uint64_t)s->memory_delta,
				  memory_order_relaxed);
	s->memory_delta = 0;
	if (!s->quiet_timer.heap_index && quiet_would_help(s->core))
		loop_timer_set(s->loop, &s->quiet_timer, QUIET_LOOK_NS);
}

/* Somewhat below the limit, so that what is freed lasts for a while. */
static bool reclaim_goal_is_met(const struct shard *s)
{
	const struct core *core = s->core;

	if (s->quiet)
		return !quiet_would_help(core);
	return !memory_is_over(core, core->memory_bytes_max -
					     core->memory_bytes_max / 8);
}

/* Nobody takes from it now. */
static bool queue_rests(const struct queue *q)
{
	return list_empty(&q->hungry) || q->held || queue_is_paused(q);
}

static uint32_t reclaim_queue(struct queue *q)
{
	uint32_t count = 0;

	/* What a fetch brings must find the gap where it was. */
	if (!q->ready_count || q->fetch || !queue_rests(q))
		return 0;
	/* With nothing out, and every count durable, the store knows each of
	 * them as it is. */
	if (q->out_count == 0 && q->counts_pending == 0)
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			q->lanes[p].out_last = 0;
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		while (count < RECLAIM_EACH && queue_give_back(q, p))
			count++;
	return count;
}

static void quiet_end(struct shard *s)
{
	uint64_t bytes = atomic_load(&s->core->memory_bytes);

	if (s->quiet && bytes + TRIM_BYTES < s->quiet_bytes)
		base_memory_trim();
	s->quiet = false;
}

static void reclaim_run(struct loop_task *task)
{
	struct shard *s = container_of(task, struct shard, reclaim_task);
	uint32_t refs = 0;

	if (s->quiet && core_activity(s->core) != s->quiet_activity)
		quiet_end(s);
	for (uint32_t i = 0; i < RECLAIM_QUEUES && refs < RECLAIM_REFS; i++) {
		struct list *n = s->queues.next;
		uint32_t count;

		if (reclaim_goal_is_met(s)) {
			quiet_end(s);
			return;
		}
		if (s->reclaim_vain >= s->queue_count) {
			/* All that is left is on its way to somebody. */
			s->reclaim_vain = 0;
			s->reclaim_rest_ns =
				loop_now_ns(s->loop) + RECLAIM_REST_NS;
			quiet_end(s);
			return;
		}
		list_remove(n);
		list_push(&s->queues, n);
		count = reclaim_queue(list_entry(n, struct queue, shard_link));
		s->reclaim_vain = count ? 0 : s->reclaim_vain + 1;
		refs += count;
	}
	loop_defer(s->loop, &s->reclaim_task);
}

static void reclaim_begin(struct shard *s)
{
	if (!s->reclaim_task.queued &&
	    loop_now_ns(s->loop) >= s->reclaim_rest_ns)
		loop_defer(s->loop, &s->reclaim_task);
}

static void quiet_look(struct loop_timer *timer)
{
	struct shard *s = container_of(timer, struct shard, quiet_timer);
	uint64_t activity = core_activity(s->core);

	if (!quiet_would_help(s->core))
		return;
	if (activity != s->quiet_activity) {
		s->quiet_activity = activity;
		loop_timer_set(s->loop, timer, QUIET_LOOK_NS);
		return;
	}
	s->quiet = true;
	s->quiet_bytes = atomic_load(&s->core->memory_bytes);
	s->reclaim_rest_ns = 0;
	reclaim_begin(s);
}

static void reclaim_asked(struct loop_mail *mail)
{
	struct shard *s = container_of(mail, struct shard, reclaim_mail);

	atomic_store(&s->reclaim_posted, false);
	reclaim_begin(s);
}

/* The one that notices may not be the one that has it. */
void memory_reclaim(struct shard *s)
{
	struct core *core = s->core;

	if (s->reclaim_task.queued || loop_now_ns(s->loop) < s->reclaim_rest_ns)
		return;
	reclaim_begin(s);
	for (unsigned i = 0; i < core->shard_count; i++) {
		struct shard *other = &core->shards[i];

		if (other == s || atomic_exchange(&other->reclaim_posted, true))
			continue;
		other->reclaim_mail.deliver = reclaim_asked;
		loop_post(other->loop, &other->reclaim_mail);
	}
}

void memory_wait(struct queue *q)
{
	struct shard *s = q->shard;

	if (!list_empty(&q->memory_link))
		return;
	if (list_empty(&s->memory_waiting))
		loop_timer_set(s->loop, &s->memory_timer, MEMORY_WAIT_NS);
	list_push(&s->memory_waiting, &q->memory_link);
}

static void memory_look(struct loop_timer *timer)
{
	struct shard *s = container_of(timer, struct shard, memory_timer);
	struct list *n;

	if (memory_is_over(s->core, s->core->memory_bytes_max)) {
		memory_reclaim(s);
		loop_timer_set(s->loop, &s->memory_timer, MEMORY_WAIT_NS);
		return;
	}
	while ((n = list_pop(&s->memory_waiting))) {
		struct queue *q = list_entry(n, struct queue, memory_link);

		q->held = false;
		queue_wake(q);
	}
}

void memory_shard_init(struct shard *s)
{
	list_init(&s->queues);
	list_init(&s->memory_waiting);
	s->reclaim_task.run = reclaim_run;
	s->memory_timer.fire = memory_look;
	s->quiet_timer.fire = quiet_look;
}
