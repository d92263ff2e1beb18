/* Messages that will expire, in a heap by time, one per shard.  A message is
 * in it while it is ready in a queue; what a consumer holds does not expire. */
#include "broker/core/internal.h"

/* Messages expired before the loop looks at its other work again. */
#define EXPIRY_BUDGET 256
/* What has expired is written once more where it goes: not faster than the
 * journal takes it. */
#define EXPIRY_BACKLOG_MAX (8u * 1024u * 1024u)
#define EXPIRY_BUSY_MS 10u

static uint64_t expiry_due_ms(const struct delivery *d)
{
	return base_max(d->props.expiry_ms, d->retry_ms);
}

bool expiry_is_due(const struct delivery *d)
{
	return d->props.expiry_ms &&
	       loop_wall_ms(d->queue->shard->loop) >= expiry_due_ms(d);
}

static bool expiry_before(const struct delivery *a, const struct delivery *b)
{
	return expiry_due_ms(a) < expiry_due_ms(b);
}

static void expiry_place(struct shard *s, uint32_t i, struct delivery *d)
{
	s->expiry[i] = d;
	d->heap_index = i;
}

static void expiry_up(struct shard *s, uint32_t i, struct delivery *d)
{
	while (i > 1 && expiry_before(d, s->expiry[i / 2])) {
		expiry_place(s, i, s->expiry[i / 2]);
		i /= 2;
	}
	expiry_place(s, i, d);
}

static void expiry_down(struct shard *s, uint32_t i, struct delivery *d)
{
	for (;;) {
		uint32_t child = i * 2;

		if (child > s->expiry_count)
			break;
		if (child < s->expiry_count &&
		    expiry_before(s->expiry[child + 1], s->expiry[child]))
			child++;
		if (!expiry_before(s->expiry[child], d))
			break;
		expiry_place(s, i, s->expiry[child]);
		i = child;
	}
	expiry_place(s, i, d);
}

/* The wall clock can step, so it is looked at again after expiry_scan_ns at
 * the latest. */
void expiry_arm(struct shard *s)
{
	uint64_t now_ms = loop_wall_ms(s->loop), wait_ms = 0;
	uint64_t due_ms = s->gap_due_ms;

	if (s->expiry_count &&
	    (!due_ms || expiry_due_ms(s->expiry[1]) < due_ms))
		due_ms = expiry_due_ms(s->expiry[1]);
	if (!due_ms) {
		loop_timer_cancel(s->loop, &s->expiry_timer);
		return;
	}
	if (due_ms > now_ms)
		wait_ms = due_ms - now_ms;
	if (wait_ms > s->core->expiry_scan_ns / 1000000)
		wait_ms = s->core->expiry_scan_ns / 1000000;
	loop_timer_set(s->loop, &s->expiry_timer, wait_ms * 1000000);
}

int expiry_add(struct shard *s, struct delivery *d)
{
	ASSERT(d->heap_index == 0);
	if (s->expiry_count + 2 > s->expiry_capacity) {
		uint32_t capacity = s->expiry_capacity * 2 + 64;
		struct delivery **heap =
			realloc(s->expiry, capacity * sizeof(*heap));

		if (!heap)
			return -ENOMEM;
		s->expiry = heap;
		s->expiry_capacity = capacity;
	}
	expiry_up(s, ++s->expiry_count, d);
	if (d->heap_index == 1)
		expiry_arm(s);
	return 0;
}

void expiry_remove(struct shard *s, struct delivery *d)
{
	struct delivery *last;
	uint32_t i = d->heap_index;

	if (i == 0)
		return;
	d->heap_index = 0;
	last = s->expiry[s->expiry_count--];
	if (last == d)
		return;
	if (i > 1 && expiry_before(last, s->expiry[i / 2]))
		expiry_up(s, i, last);
	else
		expiry_down(s, i, last);
}

static void expiry_fire(struct loop_timer *timer)
{
	struct shard *s = container_of(timer, struct shard, expiry_timer);
	uint64_t now_ms = loop_wall_ms(s->loop);

	if (log_backlog_bytes(s->core->log) > EXPIRY_BACKLOG_MAX) {
		loop_timer_set(s->loop, timer, EXPIRY_BUSY_MS * 1000000ull);
		return;
	}
	for (int i = 0; i < EXPIRY_BUDGET && s->expiry_count; i++) {
		struct delivery *d = s->expiry[1];

		if (expiry_due_ms(d) > now_ms)
			break;
		queue_take(d);
		move_ref(d, RECORD_REASON_EXPIRED);
	}
	walk_due(s, now_ms);
	expiry_arm(s);
}

void expiry_init(struct shard *s)
{
	s->expiry_timer.fire = expiry_fire;
}

void expiry_fini(struct shard *s)
{
	ASSERT(s->expiry_count == 0);
	free(s->expiry);
}
