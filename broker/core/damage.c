/* Messages that are in a queue and cannot be read: never served, never
 * forgotten.  Purging or deleting the queue is what removes them. */
#include <string.h>

#include "base/logger.h"
#include "broker/core/internal.h"

/* With more than that in one queue the rest is only counted, and a purge
 * leaves it for the next start. */
#define DAMAGE_RANGES_MAX 2048u

/* Index of the first range that ends at or behind ref. */
static uint32_t damage_search(const struct queue *q, uint64_t ref)
{
	uint32_t low = 0, high = q->damaged_ranges;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (q->damaged[middle].last < ref)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int damage_insert(struct queue *q, uint32_t at, uint64_t ref)
{
	if (q->damaged_ranges == DAMAGE_RANGES_MAX)
		return -E_LIMIT;
	if (q->damaged_ranges == q->damaged_capacity) {
		uint32_t capacity = q->damaged_capacity * 2 + 4;
		struct record_range *more =
			realloc(q->damaged, capacity * sizeof(*more));

		if (!more)
			return -ENOMEM;
		q->damaged = more;
		q->damaged_capacity = capacity;
	}
	memmove(&q->damaged[at + 1], &q->damaged[at],
		(q->damaged_ranges - at) * sizeof(*q->damaged));
	q->damaged[at] = (struct record_range){.first = ref, .last = ref};
	q->damaged_ranges++;
	return 0;
}

void damage_add(struct queue *q, uint64_t ref, int err)
{
	uint32_t at = damage_search(q, ref);
	bool before = at > 0 && q->damaged[at - 1].last + 1 == ref;
	bool behind = at < q->damaged_ranges && q->damaged[at].first <= ref + 1;

	if (behind && q->damaged[at].first <= ref)
		return; /* known */
	count_add(&q->damage, 1);
	if (before && behind) {
		q->damaged[at - 1].last = q->damaged[at].last;
		q->damaged_ranges--;
		memmove(&q->damaged[at], &q->damaged[at + 1],
			(q->damaged_ranges - at) * sizeof(*q->damaged));
	} else if (before) {
		q->damaged[at - 1].last = ref;
	} else if (behind) {
		q->damaged[at].first = ref;
	} else {
		if (damage_insert(q, at, ref) != 0)
			logger_debug("core", "damage-only-counted", "queue=%s",
				     LOGGER_QUOTE(q->name));
		/* Neighbours are not named one by one. */
		logger_error("core", "message-damaged",
			     "queue=%s ref=%llu error=%s",
			     LOGGER_QUOTE(q->name), (unsigned long long)ref,
			     LOGGER_QUOTE(err_str(err)));
	}
}

void damage_ref(struct delivery *d, int err)
{
	struct queue *q = d->queue;

	if (d->walked)
		walk_over(d);
	queue_out_end(d);
	damage_add(q, d->ref, err);
	ref_free(d);
}

void damage_clear(struct queue *q)
{
	free(q->damaged);
	q->damaged = NULL;
	q->damaged_ranges = q->damaged_capacity = 0;
	count_sub(&q->damage, count_get(&q->damage));
}
