/* Where an address sends: an immutable, counted list of its live queues,
 * replaced as a whole.  Behind core->lock; a producer keeps the one it has and
 * compares versions. */
#include <string.h>

#include "broker/core/internal.h"

void route_release(struct route *route)
{
	if (!route || atomic_fetch_sub(&route->holds, 1) != 1)
		return;
	for (uint32_t i = 0; i < route->multicast_count + route->anycast_count;
	     i++)
		queue_release(route->queues[i]);
	free(route);
}

/* The address's LIVE queues but `without` (or NULL). */
int route_create(struct address *address, const struct queue *without,
		 struct route **ret)
{
	struct route *route;
	uint32_t count = 0;

	list_for_each(n, &address->queues)
		count++;
	route = calloc(1, sizeof(*route) + count * sizeof(struct queue *));
	if (!route)
		return -ENOMEM;
	atomic_init(&route->holds, 1);
	for (int pass = 0; pass < 2; pass++) {
		list_for_each(n, &address->queues) {
			struct queue *q =
				list_entry(n, struct queue, address_link);
			bool multicast = q->routing == RECORD_MULTICAST;

			if (q->state != NODE_LIVE || q == without ||
			    multicast != (pass == 0))
				continue;
			route->queues[route->multicast_count +
				      route->anycast_count] = queue_hold(q);
			if (multicast)
				route->multicast_count++;
			else
				route->anycast_count++;
		}
	}
	*ret = route;
	return 0;
}

void route_install(struct address *address, struct route *route)
{
	route_release(address->route);
	route->version = atomic_load(&address->version) + 1;
	address->route = route;
	atomic_store_explicit(&address->version, route->version,
			      memory_order_release);
}

struct route *route_current(struct address *address)
{
	struct route *route;

	pthread_mutex_lock(&address->core->lock);
	route = address->route;
	if (route)
		atomic_fetch_add(&route->holds, 1);
	pthread_mutex_unlock(&address->core->lock);
	return route;
}
