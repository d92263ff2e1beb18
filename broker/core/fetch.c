/* Reading back: what a queue knows only by its numbers, or without the bytes.
 *
 * A queue has one fetch under way, so that its answer meets the gap as it was
 * when it was asked; a shard has a few, and queues take turns.  Nothing that
 * arrives is trusted to be wanted still: a purge or the queue's end makes it
 * void (generation, deleted), and what a walk has taken is passed over. */
#include "base/logger.h"
#include "broker/core/internal.h"

#define FETCHES_MAX 8u /* of a shard */
#define BACKOFF_NS 1000000000ull
/* A queue that goes on draining is given more each time. */
#define REFILL_REFS_MIN 64u
#define REFILL_REFS_MAX 2048u
#define REFILL_BYTES (1024u * 1024u)
#define REFILL_SHARE 64u /* of all memory, at most one part in so many */
#define REF_COST 512u	 /* of a message in memory, beside its body; about */
#define BODIES_MAX 256u
/* Over the memory limit; also the least that is asked for. */
#define SHORT_REFS 32u
#define SHORT_BYTES (64u * 1024u)
/* And not at all when so many in ready are passed over by those who are
 * hungry: excluded, or expired with nowhere to go now. */
#define PASSED_OVER_MAX 4096u

enum fetch_kind {
	FETCH_REFILL = 1,
	FETCH_BODIES,
	FETCH_LOAD,
	FETCH_EXPIRED,
};

struct fetch {
	struct store_fetch store;
	struct list link;    /* the shard's */
	struct queue *queue; /* held */
	enum fetch_kind kind;
	uint32_t generation;
};

static void fetch_done(struct store_fetch *store, int err);

/* ---- turns ---- */

static void fetch_next_turn(struct shard *s)
{
	struct list *n;

	while (s->fetch_count < FETCHES_MAX &&
	       (n = list_pop(&s->fetch_turns))) {
		struct queue *q = list_entry(n, struct queue, turn_link);

		q->fetch_turn = true;
		s->fetch_count++;
		queue_wake(q);
	}
}

void fetch_turn_over(struct queue *q)
{
	if (!q->fetch_turn)
		return;
	q->fetch_turn = false;
	q->shard->fetch_count--;
	fetch_next_turn(q->shard);
}

/* False: the queue is woken when it may. */
static bool fetch_may(struct queue *q)
{
	struct shard *s = q->shard;

	if (q->fetch || q->backoff)
		return false;
	if (q->fetch_turn || s->fetch_count < FETCHES_MAX)
		return true;
	if (list_empty(&q->turn_link))
		list_push(&s->fetch_turns, &q->turn_link);
	return false;
}

static void fetch_back_off(struct queue *q, int err)
{
	struct shard *s = q->shard;

	if (!q->fetch_failed)
		logger_warn("core", "store-not-read",
			    "queue=%s error=%s retry=1s", LOGGER_QUOTE(q->name),
			    LOGGER_QUOTE(err_str(err)));
	q->fetch_failed = true;
	q->backoff = true;
	list_remove(&q->turn_link);
	if (list_empty(&s->fetch_backoff))
		loop_timer_set(s->loop, &s->fetch_timer, BACKOFF_NS);
	list_push(&s->fetch_backoff, &q->turn_link);
}

static void fetch_again(struct loop_timer *timer)
{
	struct shard *s = container_of(timer, struct shard, fetch_timer);
	struct list *n;

	while ((n = list_pop(&s->fetch_backoff))) {
		struct queue *q = list_entry(n, struct queue, turn_link);

		q->backoff = false;
		queue_wake(q);
	}
}

/* ---- asking ---- */

/* It may: see fetch_may(). */
static bool fetch_ask(struct queue *q, enum fetch_kind kind,
		      const struct store_fetch *what)
{
	struct shard *s = q->shard;
	struct fetch *f = calloc(1, sizeof(*f));

	if (!f) {
		fetch_back_off(q, -ENOMEM);
		return false;
	}
	f->store = *what;
	f->store.queue = q->id;
	f->store.done = fetch_done;
	f->queue = queue_hold(q);
	f->kind = kind;
	f->generation = q->generation;
	if (q->fetch_turn)
		q->fetch_turn = false;
	else
		s->fetch_count++;
	list_remove(&q->turn_link);
	q->fetch = f;
	q->fetched_aside = kind == FETCH_LOAD || kind == FETCH_EXPIRED;
	list_push(&s->fetches, &f->link);
	count_add(&s->appends_started, 1);
	store_fetch(s->reader, &f->store);
	return true;
}

/* How much may come at once. */
static void fetch_size(const struct queue *q, uint32_t count_max,
		       struct store_fetch *what)
{
	uint64_t limit = q->core->memory_bytes_max;
	uint64_t bytes = base_min(REFILL_BYTES, limit / REFILL_SHARE);

	if (memory_is_over(q->core, limit)) {
		bytes = SHORT_BYTES;
		count_max = SHORT_REFS;
	}
	bytes = base_max(bytes, SHORT_BYTES);
	what->bytes_max = (uint32_t)bytes;
	what->count_max = (uint32_t)base_min(count_max, bytes / REF_COST);
}

bool fetch_refill(struct queue *q)
{
	unsigned p = 31u - (unsigned)__builtin_clz(q->gap_lanes);
	const struct lane *lane = &q->lanes[p];
	struct store_fetch what = {
		.first = record_ref(p, lane->gap_first),
		.end = record_ref(p, lane->next),
	};

	if (lane->last &&
	    q->ready_count >=
		    (list_empty(&q->hungry) ? SHORT_REFS : PASSED_OVER_MAX) &&
	    memory_is_over(q->core, q->core->memory_bytes_max)) {
		memory_wait(q);
		return false;
	}
	if (!fetch_may(q))
		return true;
	fetch_size(q, q->refill_count, &what);
	if (what.count_max == q->refill_count &&
	    q->refill_count < REFILL_REFS_MAX)
		q->refill_count *= 2;
	fetch_ask(q, FETCH_REFILL, &what);
	return true;
}

bool fetch_bodies(struct queue *q, struct delivery *d)
{
	struct store_fetch what = {.first = d->ref};
	struct list *n = &d->link;

	if (!fetch_may(q))
		return true;
	for (unsigned i = 0; i < BODIES_MAX && n != &q->ready; i++) {
		struct delivery *next = list_entry(n, struct delivery, link);

		if (record_ref_priority(next->ref) !=
		    record_ref_priority(d->ref))
			break;
		if (!next->message && !next->large)
			what.end = next->ref + 1;
		n = n->next;
	}
	fetch_size(q, BODIES_MAX, &what);
	if (fetch_ask(q, FETCH_BODIES, &what))
		q->reload = d;
	return true;
}

void fetch_load(struct delivery *d)
{
	list_push(&d->queue->loads, &d->link);
	queue_wake(d->queue);
}

bool fetch_expired(struct queue *q, uint64_t first, uint64_t end,
		   uint64_t expired_ms, uint32_t count_max)
{
	struct store_fetch what = {
		.first = first,
		.end = end,
		.count_max = count_max,
		.bytes_max = REFILL_BYTES,
		.expired_ms = expired_ms,
	};

	return fetch_may(q) && fetch_ask(q, FETCH_EXPIRED, &what);
}

void fetch_aside(struct queue *q)
{
	struct store_fetch what = {.count_max = 1, .bytes_max = REFILL_BYTES};

	if (q->fetch)
		return;
	if (list_empty(&q->loads)) {
		walk_go(q);
		return;
	}
	if (!fetch_may(q))
		return;
	what.first = list_entry(q->loads.next, struct delivery, link)->ref;
	what.end = what.first + 1;
	fetch_ask(q, FETCH_LOAD, &what);
}

/* ---- answers ---- */

static int refill_take(struct queue *q, const struct store_fetch *f)
{
	unsigned p = record_ref_priority(f->first);
	struct lane *lane = &q->lanes[p];

	/* The store has nothing, and says that there is more. */
	if (f->message_count == 0 && f->next <= f->first)
		return -EIO;
	for (uint32_t i = 0; i < f->message_count; i++) {
		const struct store_message *m = &f->messages[i];
		struct delivery *d;
		int err;

		ASSERT(m->ref >= record_ref(p, lane->gap_first) &&
		       m->ref < f->end);
		if (walk_has(q, m->ref)) {
			/* on its way out */
		} else if (m->err) {
			damage_add(q, m->ref, m->err);
		} else {
			err = ref_from_store(q, m, true, &d);
			if (err)
				return err;
			queue_refilled(d);
		}
		lane->gap_first = record_ref_number(m->ref) + 1;
	}
	ASSERT(f->next >= record_ref(p, lane->gap_first) && f->next <= f->end);
	lane->gap_first = record_ref_number(f->next);
	if (lane->gap_first == lane->next) {
		q->gap_lanes &= (uint16_t) ~(1u << p);
		lane->gap_expiry_ms = 0;
		q->refill_count = REFILL_REFS_MIN;
	}
	return 0;
}

/* In ready, and the store says that it cannot be read, or is not there. */
static void bodies_damaged(struct delivery *d, int err)
{
	queue_take(d);
	damage_ref(d, err);
}

static int bodies_take(struct queue *q, const struct store_fetch *f)
{
	struct delivery *d = q->reload;
	uint32_t i = 0;
	int err = 0;

	q->reload = NULL;
	while (d && d->ref < f->next && !err) {
		struct list *n = d->link.next;
		const struct store_message *m;

		while (i < f->message_count && f->messages[i].ref < d->ref)
			i++;
		m = i < f->message_count && f->messages[i].ref == d->ref
			    ? &f->messages[i]
			    : NULL;
		if (d->message || d->large)
			; /* it has them */
		else if (!m)
			bodies_damaged(d, -E_NOT_FOUND);
		else if (m->err)
			bodies_damaged(d, m->err);
		else
			err = ref_set_body(d, m);
		d = n == &q->ready ? NULL
				   : list_entry(n, struct delivery, link);
		/* The next lane's refs are smaller. */
		if (d && d->ref < f->first)
			d = NULL;
	}
	return err;
}

static int load_take(struct queue *q, const struct store_fetch *f)
{
	struct delivery *d;
	int err = f->message_count ? f->messages[0].err : -E_NOT_FOUND;

	if (list_empty(&q->loads))
		return 0;
	d = list_entry(q->loads.next, struct delivery, link);
	ASSERT(d->ref == f->first);
	if (!err && ref_set_body(d, &f->messages[0]) != 0)
		return -ENOMEM;
	list_remove(&d->link);
	if (err)
		damage_ref(d, err);
	else
		move_loaded(d);
	return 0;
}

static int fetch_take(struct queue *q, const struct fetch *f)
{
	switch (f->kind) {
	case FETCH_REFILL:
		return refill_take(q, &f->store);
	case FETCH_BODIES:
		return bodies_take(q, &f->store);
	case FETCH_LOAD:
		return load_take(q, &f->store);
	case FETCH_EXPIRED:
		return walk_take(q, &f->store);
	}
	ASSERT(!"kind");
}

static void fetch_done(struct store_fetch *store, int err)
{
	struct fetch *f = container_of(store, struct fetch, store);
	struct queue *q = f->queue;
	struct shard *s = q->shard;

	list_remove(&f->link);
	s->fetch_count--;
	q->fetch = NULL;
	if (!q->deleted) {
		if (!err && f->generation == q->generation)
			err = fetch_take(q, f);
		q->reload = NULL;
		if (err)
			fetch_back_off(q, err);
		else
			q->fetch_failed = false;
		walk_sweep(q);
		queue_wake(q);
	}
	fetch_next_turn(s);
	shard_append_done(s);
	queue_release(q);
	free(f);
}

/* ---- life ---- */

void fetch_start(struct queue *q)
{
	list_init(&q->loads);
	list_init(&q->turn_link);
	list_init(&q->memory_link);
	q->refill_count = REFILL_REFS_MIN;
}

void fetch_stop(struct queue *q)
{
	list_remove(&q->turn_link);
	list_remove(&q->memory_link);
	q->reload = NULL;
}

void fetch_shard_init(struct shard *s)
{
	list_init(&s->fetches);
	list_init(&s->fetch_turns);
	list_init(&s->fetch_backoff);
	s->fetch_timer.fire = fetch_again;
}

/* Of a shard whose loop has ended in the middle of things. */
void fetch_shard_fini(struct shard *s)
{
	struct list *n;

	while ((n = list_pop(&s->fetches))) {
		struct fetch *f = list_entry(n, struct fetch, link);

		queue_release(f->queue);
		free(f);
	}
}
