/* journal/store/ranges.c: see ranges.h. */
#include "journal/store/ranges.h"

#include <string.h>

void ranges_fini(struct ranges *r)
{
	free(r->items);
	memset(r, 0, sizeof(*r));
}

/* Index of the first range that ends at or behind n. */
static size_t find(const struct ranges *r, uint64_t n)
{
	size_t low = 0, high = r->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (r->items[mid].last < n)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int make_room(struct ranges *r)
{
	size_t capacity = r->capacity ? r->capacity * 2 : 8;
	struct range *grown;

	if (r->count < r->capacity)
		return 0;
	grown = realloc(r->items, capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	r->items = grown;
	r->capacity = capacity;
	return 0;
}

int ranges_add(struct ranges *r, uint64_t first, uint64_t last)
{
	/* A neighbour that ends just before is met too. */
	size_t i = find(r, first ? first - 1 : 0), end = i;
	int err;

	ASSERT(first <= last);
	while (end < r->count &&
	       (last == UINT64_MAX || r->items[end].first <= last + 1))
		end++;
	if (i == end) {
		err = make_room(r);
		if (err)
			return err;
		memmove(&r->items[i + 1], &r->items[i],
			(r->count - i) * sizeof(*r->items));
		r->items[i] = (struct range){first, last};
		r->count++;
		return 0;
	}
	r->items[i].first = base_min(r->items[i].first, first);
	r->items[i].last = base_max(r->items[end - 1].last, last);
	memmove(&r->items[i + 1], &r->items[end],
		(r->count - end) * sizeof(*r->items));
	r->count -= end - i - 1;
	return 0;
}

bool ranges_contain(const struct ranges *r, uint64_t first, uint64_t last)
{
	size_t i = find(r, first);

	return i < r->count && r->items[i].first <= first &&
	       r->items[i].last >= last;
}

bool ranges_touch(const struct ranges *r, uint64_t first, uint64_t last)
{
	size_t i = find(r, first);

	return i < r->count && r->items[i].first <= last;
}

int ranges_each_missing(const struct ranges *r, uint64_t first, uint64_t last,
			int (*each)(void *ctx, uint64_t first, uint64_t last),
			void *ctx)
{
	for (size_t i = find(r, first); first <= last; i++) {
		uint64_t end = last;
		int err;

		if (i < r->count && r->items[i].first <= last) {
			if (r->items[i].first <= first) {
				if (r->items[i].last >= last)
					return 0;
				first = r->items[i].last + 1;
				continue;
			}
			end = r->items[i].first - 1;
		}
		err = each(ctx, first, end);
		if (err || end == last)
			return err;
		first = end + 1;
		i--; /* the range that ended it is next */
	}
	return 0;
}
