/* Which addresses and queues there are.
 *
 * Everything here is behind core->lock.  A record that ends a name is handed
 * to the journal while the lock is held, so that the journal has them in the
 * order in which they took effect; a name is found only while it is LIVE. */
#include <string.h>

#include "broker/core/internal.h"

/* ---- objects ---- */

struct address *registry_address_create(struct core *core, uint64_t id,
					const char *name, size_t name_len)
{
	struct address *a = calloc(1, sizeof(*a) + name_len + 1);

	if (!a)
		return NULL;
	memcpy(a->name, name, name_len);
	a->node.name = a->name;
	a->core = core;
	a->id = id;
	list_init(&a->queues);
	list_init(&a->waiters);
	atomic_init(&a->ttl_max_ms, rules_find(core, a->name)->ttl_max_ms);
	return a;
}

void registry_address_free(struct address *a)
{
	if (!a)
		return;
	route_release(a->route);
	free(a);
}

struct queue *registry_queue_create(struct core *core, uint64_t id,
				    const char *name, size_t name_len)
{
	struct queue *q = calloc(1, sizeof(*q) + name_len + 1);

	if (!q)
		return NULL;
	memcpy(q->name, name, name_len);
	q->node.name = q->name;
	q->core = core;
	q->id = id;
	atomic_init(&q->holds, 1); /* the registry's */
	list_init(&q->address_link);
	return q;
}

struct queue *queue_hold(struct queue *q)
{
	atomic_fetch_add_explicit(&q->holds, 1, memory_order_relaxed);
	return q;
}

void queue_release(struct queue *q)
{
	if (!q ||
	    atomic_fetch_sub_explicit(&q->holds, 1, memory_order_acq_rel) != 1)
		return;
	free(q);
}

void registry_add_address(struct address *a, enum node_state state)
{
	a->state = state;
	table_insert(&a->core->addresses, &a->node);
}

void registry_add_queue(struct queue *q, struct address *a,
			enum node_state state)
{
	q->state = state;
	q->address = a;
	table_insert(&q->core->queues, &q->node);
	list_push(&a->queues, &q->address_link);
}

/* The last trace of an address that never or no longer has queues. */
void registry_remove_address(struct address *a)
{
	ASSERT(list_empty(&a->queues) && list_empty(&a->waiters));
	a->state = NODE_GONE;
	table_remove(&a->core->addresses, &a->node);
	registry_address_free(a);
}

void registry_remove_queue(struct queue *q)
{
	q->state = NODE_GONE;
	table_remove(&q->core->queues, &q->node);
	list_remove(&q->address_link);
}

/* ---- leaving ---- */

/* Its automatic queues may want to go. */
static void address_tell_unused(struct address *address)
{
	list_for_each(n, &address->queues) {
		struct queue *q = list_entry(n, struct queue, address_link);

		if (q->unused_posted || q->state != NODE_LIVE ||
		    !(atomic_load(&q->flags) & RECORD_QUEUE_AUTO_CREATED))
			continue;
		q->unused_posted = true;
		q->unused_mail.deliver = queue_unused;
		loop_post(queue_hold(q)->shard->loop, &q->unused_mail);
	}
}

struct address *registry_hold_address(struct address *address)
{
	pthread_mutex_lock(&address->core->lock);
	address->users++;
	pthread_mutex_unlock(&address->core->lock);
	return address;
}

void registry_leave_address(struct address *address)
{
	struct core *core = address->core;

	pthread_mutex_lock(&core->lock);
	ASSERT(address->users > 0);
	if (--address->users == 0) {
		if (address->state == NODE_GONE)
			registry_address_free(address);
		else
			address_tell_unused(address);
	}
	pthread_mutex_unlock(&core->lock);
}

void registry_leave_queue(struct queue *queue)
{
	struct address *address = queue->address;

	pthread_mutex_lock(&queue->core->lock);
	ASSERT(queue->users > 0);
	queue->users--;
	pthread_mutex_unlock(&queue->core->lock);
	registry_leave_address(address);
	queue_release(queue);
}

struct goodbye {
	struct log_append queue_append, address_append;
	struct log_note queue_note, address_note;
	struct shard *shard;
	struct core_command *command;
	unsigned left;
	uint8_t queue_meta[RECORD_GONE_ROOM], address_meta[RECORD_GONE_ROOM];
};

static void goodbye_done(struct goodbye *g, int err)
{
	shard_append_done(g->shard);
	if (--g->left)
		return;
	if (g->command)
		g->command->done(g->command, err);
	free(g);
}

static void goodbye_queue_committed(struct loop_mail *mail)
{
	struct goodbye *g = container_of(mail, struct goodbye, queue_note.mail);

	goodbye_done(g, g->queue_append.err);
}

static void goodbye_address_committed(struct loop_mail *mail)
{
	struct goodbye *g =
		container_of(mail, struct goodbye, address_note.mail);

	goodbye_done(g, g->address_append.err);
}

static void goodbye_add(struct goodbye *g, struct log_append *append,
			struct log_note *note, uint8_t type, uint8_t *meta,
			uint64_t id, void (*deliver)(struct loop_mail *))
{
	append->type = type;
	append->meta = meta;
	append->meta_len = (uint32_t)record_gone_encode(id, meta);
	append->notes = note;
	append->note_count = 1;
	note->mail.deliver = deliver;
	note->to = g->shard->loop;
	note->append = append;
	g->left++;
	shard_append(g->shard, append);
}

/* The address goes with its last queue when it was made automatically and
 * nobody uses it. */
static bool address_ends(const struct address *address)
{
	return list_empty(&address->queues) && list_empty(&address->waiters) &&
	       address->flags & RECORD_ADDRESS_AUTO_CREATED &&
	       !(address->routing & RECORD_MULTICAST);
}

int registry_delete_queue(struct queue *queue, enum registry_delete when,
			  struct core_command *command)
{
	struct core *core = queue->core;
	struct address *address;
	struct route *route = NULL;
	struct goodbye *g = calloc(1, sizeof(*g));
	int err = 0;

	if (!g)
		return -ENOMEM;
	g->shard = queue->shard;
	g->command = command;
	pthread_mutex_lock(&core->lock);
	address = queue->address;
	if (queue->state != NODE_LIVE)
		err = -E_NOT_FOUND;
	else if ((when != REGISTRY_DELETE_ALWAYS && queue->users) ||
		 (when == REGISTRY_DELETE_UNUSED && address->users))
		err = -EBUSY;
	else
		err = route_create(address, queue, &route);
	if (err) {
		pthread_mutex_unlock(&core->lock);
		free(g);
		return err;
	}
	registry_remove_queue(queue);
	route_install(address, route);
	goodbye_add(g, &g->queue_append, &g->queue_note, RECORD_QUEUE_GONE,
		    g->queue_meta, queue->id, goodbye_queue_committed);
	if (address_ends(address)) {
		goodbye_add(g, &g->address_append, &g->address_note,
			    RECORD_ADDRESS_GONE, g->address_meta, address->id,
			    goodbye_address_committed);
		address->state = NODE_GONE;
		table_remove(&core->addresses, &address->node);
		if (address->users == 0)
			registry_address_free(address);
	}
	shard_append_flush(g->shard);
	pthread_mutex_unlock(&core->lock);
	queue_release(queue); /* the registry's hold */
	return 0;
}

bool registry_queue_is_live(struct queue *q)
{
	bool live;

	pthread_mutex_lock(&q->core->lock);
	live = q->state == NODE_LIVE;
	pthread_mutex_unlock(&q->core->lock);
	return live;
}

struct queue *registry_find_queue(struct core *core, const char *name)
{
	struct name_parts parts;
	struct table_node *node;
	struct queue *q = NULL;

	if (name_parse(name, &parts) != 0)
		return NULL;
	pthread_mutex_lock(&core->lock);
	node = table_find(&core->queues,
			  parts.queue[0] ? parts.queue : parts.address);
	if (node)
		q = container_of(node, struct queue, node);
	if (q && (q->state != NODE_LIVE ||
		  (parts.queue[0] && strcmp(q->address->name, parts.address))))
		q = NULL;
	if (q)
		queue_hold(q);
	pthread_mutex_unlock(&core->lock);
	return q;
}

/* ---- start and end ---- */

int registry_recover_address(struct core *core, const struct record_address *r)
{
	struct address *a;

	a = registry_address_create(core, r->id, r->name, r->name_len);
	if (!a)
		return -ENOMEM;
	if (table_find(&core->addresses, a->name)) {
		registry_address_free(a);
		return -E_CORRUPT;
	}
	a->routing = r->routing;
	a->flags = r->flags;
	registry_add_address(a, NODE_LIVE);
	return 0;
}

static struct address *registry_address_by_id(struct core *core, uint64_t id)
{
	table_for_each(&core->addresses, node)
	{
		struct address *a = container_of(node, struct address, node);

		if (a->id == id)
			return a;
	}
	return NULL;
}

int registry_recover_queue(struct core *core, const struct record_queue *r,
			   struct queue **ret)
{
	struct address *a;
	struct table_node *node;
	struct queue *q;
	char name[RECORD_NAME_MAX + 1];

	if (r->name_len > RECORD_NAME_MAX)
		return -E_CORRUPT;
	memcpy(name, r->name, r->name_len);
	name[r->name_len] = '\0';
	/* Most queues have the name of their address. */
	node = table_find(&core->addresses, name);
	a = node ? container_of(node, struct address, node) : NULL;
	if (!a || a->id != r->address)
		a = registry_address_by_id(core, r->address);
	if (!a || table_find(&core->queues, name))
		return -E_CORRUPT;
	q = registry_queue_create(core, r->id, name, r->name_len);
	if (!q)
		return -ENOMEM;
	q->routing = r->routing;
	q->shard = &core->shards[r->id % core->shard_count];
	atomic_init(&q->flags, r->flags);
	queue_start(q);
	registry_add_queue(q, a, NODE_LIVE);
	*ret = q;
	return 0;
}

int registry_recovered(struct core *core)
{
	table_for_each(&core->addresses, node)
	{
		struct address *a = container_of(node, struct address, node);
		struct route *route;
		int err = route_create(a, NULL, &route);

		if (err)
			return err;
		route_install(a, route);
	}
	return 0;
}

int registry_init(struct core *core)
{
	int err = table_init(&core->addresses);

	if (err)
		return err;
	err = table_init(&core->queues);
	if (err) {
		table_fini(&core->addresses);
		return err;
	}
	pthread_mutex_init(&core->lock, NULL);
	return 0;
}

void registry_free(struct core *core)
{
	for (size_t i = 0; i < core->queues.bucket_count; i++) {
		struct table_node *n = core->queues.buckets[i], *next;

		for (; n; n = next) {
			struct queue *q = container_of(n, struct queue, node);

			next = n->next;
			list_remove(&q->address_link);
			queue_release(q);
		}
	}
	for (size_t i = 0; i < core->addresses.bucket_count; i++) {
		struct table_node *n = core->addresses.buckets[i], *next;

		for (; n; n = next) {
			next = n->next;
			registry_address_free(
				container_of(n, struct address, node));
		}
	}
	table_fini(&core->queues);
	table_fini(&core->addresses);
	rules_free(core->rules, core->rule_count);
	pthread_mutex_destroy(&core->lock);
}
