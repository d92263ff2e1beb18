/* Which addresses and queues there are, and where an address sends.
 *
 * Everything here is behind core->lock.  A record that makes or ends a name
 * is handed to the journal while the lock is held, so that the journal has
 * them in the order in which they took effect; a name is LIVE, and found,
 * only after its record is committed. */
#include <string.h>

#include "broker/core/internal.h"

#define ATTACH_TRIES_MAX 16

/* ---- rules ---- */

static const struct core_address_rule registry_builtin_rule = {
	.match = "#",
	.routing = RECORD_ANYCAST,
	.auto_create = true,
	.delivery_attempts = 10,
	.dead_letter = "DLQ",
	.expiry = "ExpiryQueue",
};

static void rules_free(struct core_address_rule *rules, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		free((char *)(uintptr_t)rules[i].match);
		free((char *)(uintptr_t)rules[i].dead_letter);
		free((char *)(uintptr_t)rules[i].expiry);
	}
	free(rules);
}

static int rule_copy(struct core_address_rule *to,
		     const struct core_address_rule *from)
{
	*to = *from;
	to->match = strdup(from->match);
	to->dead_letter = from->dead_letter ? strdup(from->dead_letter) : NULL;
	to->expiry = from->expiry ? strdup(from->expiry) : NULL;
	if (!to->match || (from->dead_letter && !to->dead_letter) ||
	    (from->expiry && !to->expiry))
		return -ENOMEM;
	return 0;
}

static const struct core_address_rule *rule_find(const struct core *core,
						 const char *name)
{
	const struct core_address_rule *best = NULL;

	for (unsigned i = 0; i < core->rule_count; i++) {
		const struct core_address_rule *rule = &core->rules[i];

		if (name_match(rule->match, name) &&
		    (!best || name_compare(rule->match, best->match) > 0))
			best = rule;
	}
	return best ? best : &registry_builtin_rule;
}

int registry_set_rules(struct core *core, const struct core_address_rule *rules,
		       unsigned rule_count)
{
	struct core_address_rule *copy, *old;
	unsigned old_count;
	int err = 0;

	copy = calloc(rule_count ? rule_count : 1, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	for (unsigned i = 0; i < rule_count && !err; i++)
		err = rule_copy(&copy[i], &rules[i]);
	if (err) {
		rules_free(copy, rule_count);
		return err;
	}
	pthread_mutex_lock(&core->lock);
	old = core->rules;
	old_count = core->rule_count;
	core->rules = copy;
	core->rule_count = rule_count;
	table_for_each(&core->addresses, node) {
		struct address *a = container_of(node, struct address, node);

		atomic_store(&a->ttl_max_ms, rule_find(core, a->name)->ttl_max_ms);
	}
	pthread_mutex_unlock(&core->lock);
	rules_free(old, old_count);
	return 0;
}

void registry_rule(struct core *core, const char *name,
		   struct core_rule_view *ret)
{
	const struct core_address_rule *rule;

	pthread_mutex_lock(&core->lock);
	rule = rule_find(core, name);
	ret->routing = rule->routing;
	ret->auto_create = rule->auto_create;
	ret->auto_delete = rule->auto_delete;
	ret->delivery_attempts = rule->delivery_attempts;
	ret->ttl_max_ms = rule->ttl_max_ms;
	snprintf(ret->dead_letter, sizeof(ret->dead_letter), "%s",
		 rule->dead_letter ? rule->dead_letter : "");
	snprintf(ret->expiry, sizeof(ret->expiry), "%s",
		 rule->expiry ? rule->expiry : "");
	pthread_mutex_unlock(&core->lock);
}

/* ---- routes ---- */

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
static int route_create(struct address *address, const struct queue *without,
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

static void route_install(struct address *address, struct route *route)
{
	route_release(address->route);
	route->version = atomic_load(&address->version) + 1;
	address->route = route;
	atomic_store_explicit(&address->version, route->version,
			      memory_order_release);
}

struct route *registry_route(struct address *address)
{
	struct route *route;

	pthread_mutex_lock(&address->core->lock);
	route = address->route;
	if (route)
		atomic_fetch_add(&route->holds, 1);
	pthread_mutex_unlock(&address->core->lock);
	return route;
}

/* ---- objects ---- */

static struct address *address_create(struct core *core, uint64_t id,
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
	atomic_init(&a->ttl_max_ms, rule_find(core, a->name)->ttl_max_ms);
	return a;
}

static void address_free(struct address *a)
{
	if (!a)
		return;
	route_release(a->route);
	free(a);
}

static struct queue *queue_create(struct core *core, uint64_t id,
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
	if (!q || atomic_fetch_sub_explicit(&q->holds, 1,
					    memory_order_acq_rel) != 1)
		return;
	free(q);
}

static void address_insert(struct address *a, enum node_state state)
{
	a->state = state;
	table_insert(&a->core->addresses, &a->node);
}

static void queue_insert(struct queue *q, struct address *a,
			 enum node_state state)
{
	q->state = state;
	q->address = a;
	table_insert(&q->core->queues, &q->node);
	list_push(&a->queues, &q->address_link);
}

/* The last trace of an address that never or no longer has queues. */
static void address_remove(struct address *a)
{
	ASSERT(list_empty(&a->queues) && list_empty(&a->waiters));
	a->state = NODE_GONE;
	table_remove(&a->core->addresses, &a->node);
	address_free(a);
}

static void queue_take_out(struct queue *q)
{
	q->state = NODE_GONE;
	table_remove(&q->core->queues, &q->node);
	list_remove(&q->address_link);
}

/* ---- waiting ---- */

static void attach_retry(struct loop_mail *mail);

static void attach_wait(struct attach *a, struct address *address)
{
	a->waiting = true;
	list_push(&address->waiters, &a->link);
}

static void attach_wake_all(struct address *address)
{
	struct list *n;

	while ((n = list_pop(&address->waiters))) {
		struct attach *a = list_entry(n, struct attach, link);

		a->mail.deliver = attach_retry;
		loop_post(a->shard->loop, &a->mail);
	}
}

/* ---- making names ---- */

/* One or two records that make an address, a queue, or both. */
struct creation {
	struct log_append address_append, queue_append;
	struct log_note note, address_note;
	struct shard *shard;
	struct address *address; /* LIVE before when only a queue is made */
	struct queue *queue;	 /* may be NULL */
	bool new_address;
	uint8_t meta[RECORD_ADDRESS_ROOM + RECORD_QUEUE_ROOM];
};

static void creation_undo(struct creation *c)
{
	if (c->queue) {
		queue_take_out(c->queue);
		queue_release(c->queue);
	}
	attach_wake_all(c->address);
	if (c->new_address)
		address_remove(c->address);
}

static void creation_committed(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct creation *c = container_of(note, struct creation, note);
	struct core *core = c->shard->core;
	struct route *route = NULL;
	int err = note->append->err;

	shard_append_done(c->shard);
	pthread_mutex_lock(&core->lock);
	if (c->queue)
		c->queue->state = NODE_LIVE;
	if (!err)
		err = route_create(c->address, NULL, &route);
	if (err) {
		creation_undo(c);
	} else {
		c->address->state = NODE_LIVE;
		route_install(c->address, route);
		attach_wake_all(c->address);
	}
	pthread_mutex_unlock(&core->lock);
	free(c);
}

static void creation_address_committed(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct creation *c = container_of(note, struct creation, address_note);

	/* The queue's note follows and does the work. */
	shard_append_done(c->shard);
}

static void creation_add(struct creation *c, struct log_append *append,
			 struct log_note *note, uint8_t type, const void *meta,
			 size_t meta_len, void (*deliver)(struct loop_mail *))
{
	append->type = type;
	append->meta = meta;
	append->meta_len = (uint32_t)meta_len;
	append->notes = note;
	append->note_count = 1;
	note->mail.deliver = deliver;
	note->to = c->shard->loop;
	note->append = append;
	shard_append(c->shard, append);
}

static void creation_submit(struct creation *c)
{
	uint8_t *meta = c->meta;

	if (c->new_address) {
		struct record_address record = {
			.id = c->address->id,
			.name = c->address->name,
			.name_len = (uint16_t)strlen(c->address->name),
			.routing = c->address->routing,
			.flags = c->address->flags,
		};
		size_t len = record_address_encode(&record, meta);

		creation_add(c, &c->address_append,
			     c->queue ? &c->address_note : &c->note,
			     RECORD_ADDRESS, meta, len,
			     c->queue ? creation_address_committed
				      : creation_committed);
		meta += len;
	}
	if (c->queue) {
		struct record_queue record = {
			.id = c->queue->id,
			.address = c->address->id,
			.name = c->queue->name,
			.name_len = (uint16_t)strlen(c->queue->name),
			.routing = c->queue->routing,
			.flags = atomic_load(&c->queue->flags),
		};

		creation_add(c, &c->queue_append, &c->note, RECORD_QUEUE, meta,
			     record_queue_encode(&record, meta),
			     creation_committed);
	}
	shard_append_flush(c->shard);
}

/* Make the address when it is NULL, and the queue when queue_name is not. */
static int creation_start(struct attach *a, struct address *address,
			  const char *queue_name, uint8_t routing,
			  uint8_t queue_flags)
{
	struct core *core = a->shard->core;
	struct creation *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->shard = a->shard;
	if (queue_name) {
		c->queue = queue_create(core, core_next_id(core), queue_name,
					strlen(queue_name));
		if (!c->queue)
			goto no_memory;
		c->queue->routing = routing;
		c->queue->shard = a->shard;
		atomic_init(&c->queue->flags, queue_flags);
		queue_start(c->queue);
	}
	if (!address) {
		address = address_create(core, core_next_id(core),
					 a->name.address,
					 strlen(a->name.address));
		if (!address)
			goto no_memory;
		address->routing = routing;
		address->flags = a->force && !a->dynamic
					 ? 0
					 : RECORD_ADDRESS_AUTO_CREATED;
		c->new_address = true;
		address_insert(address, NODE_CREATING);
	}
	c->address = address;
	if (c->queue)
		queue_insert(c->queue, address, NODE_CREATING);
	attach_wait(a, address);
	creation_submit(c);
	return -EINPROGRESS;
no_memory:
	queue_release(c->queue);
	free(c);
	return -ENOMEM;
}

/* ---- resolving ---- */

static struct queue *address_anycast_queue(struct address *address)
{
	struct queue *first = NULL;

	list_for_each(n, &address->queues) {
		struct queue *q = list_entry(n, struct queue, address_link);

		if (q->routing != RECORD_ANYCAST)
			continue;
		if (!strcmp(q->name, address->name))
			return q;
		if (!first)
			first = q;
	}
	return first;
}

static uint8_t attach_queue_flags(const struct attach *a)
{
	if (a->dynamic || a->subscription)
		return RECORD_QUEUE_AUTO_CREATED | RECORD_QUEUE_TEMPORARY;
	return a->force ? 0 : RECORD_QUEUE_AUTO_CREATED;
}

static int attach_make_queue(struct attach *a, struct address *address,
			     const char *name, uint8_t routing)
{
	if (!a->force && !a->dynamic && !a->subscription &&
	    !rule_find(a->shard->core, a->name.address)->auto_create)
		return -E_NOT_FOUND;
	if (table_find(&a->shard->core->queues, name))
		return -E_EXISTS; /* of another address */
	return creation_start(a, address, name, routing, attach_queue_flags(a));
}

static int attach_take_queue(struct attach *a, struct queue *q)
{
	if (q->state == NODE_CREATING) {
		attach_wait(a, q->address);
		return -EINPROGRESS;
	}
	q->users++;
	a->queue = queue_hold(q);
	return 0;
}

/* A multicast consumer gets a queue of its own, made under a name that the
 * next try finds. */
static int attach_subscribe(struct attach *a, struct address *address)
{
	uint64_t id = core_next_id(a->shard->core);
	size_t len = strlen(a->name.address);

	if (len > RECORD_NAME_MAX - 24)
		len = RECORD_NAME_MAX - 24;
	memcpy(a->name.queue, a->name.address, len);
	snprintf(a->name.queue + len, sizeof(a->name.queue) - len,
		 ".sub-%016llx", (unsigned long long)id);
	a->subscription = true;
	return attach_make_queue(a, address, a->name.queue, RECORD_MULTICAST);
}

static int attach_resolve_queue(struct attach *a, struct address *address,
				uint8_t routing)
{
	struct table_node *node;
	struct queue *q = NULL;

	if (a->name.queue[0]) {
		node = table_find(&a->shard->core->queues, a->name.queue);
		if (node)
			q = container_of(node, struct queue, node);
		if (q && q->address != address)
			return -E_EXISTS;
		if (!q && a->subscription)
			return -E_NOT_FOUND; /* deleted before we had it */
		if (!q)
			return attach_make_queue(a, address, a->name.queue,
						 routing);
		return attach_take_queue(a, q);
	}
	if (routing == RECORD_MULTICAST)
		return attach_subscribe(a, address);
	q = address_anycast_queue(address);
	if (!q)
		return attach_make_queue(a, address, address->name, routing);
	return attach_take_queue(a, q);
}

static int attach_new_address(struct attach *a)
{
	const struct core_address_rule *rule =
		rule_find(a->shard->core, a->name.address);
	uint8_t routing = a->routing ? a->routing : rule->routing;
	const char *queue = NULL;

	if (!a->force && !a->dynamic && !rule->auto_create)
		return -E_NOT_FOUND;
	/* A queue named by the client is made in the next try, when the
	 * address is there; here only the one that anycast always has. */
	if (!a->name.queue[0] && routing == RECORD_ANYCAST) {
		queue = a->name.address;
		if (table_find(&a->shard->core->queues, queue))
			return -E_EXISTS;
	}
	return creation_start(a, NULL, queue, routing, attach_queue_flags(a));
}

/* core->lock held.  0: resolved; -EINPROGRESS: it waits. */
static int attach_resolve(struct attach *a)
{
	struct core *core = a->shard->core;
	struct table_node *node;
	struct address *address;
	uint8_t routing = a->routing;
	int err = 0;

	if (++a->tries > ATTACH_TRIES_MAX)
		return -E_LIMIT;
	node = table_find(&core->addresses, a->name.address);
	if (!node)
		return attach_new_address(a);
	address = container_of(node, struct address, node);
	if (address->state == NODE_CREATING) {
		attach_wait(a, address);
		return -EINPROGRESS;
	}
	if (!routing)
		routing = address->routing & RECORD_ANYCAST ? RECORD_ANYCAST
							    : RECORD_MULTICAST;
	if (!(address->routing & routing))
		return -E_EXISTS;
	if (a->want_queue)
		err = attach_resolve_queue(a, address, routing);
	else if (routing == RECORD_ANYCAST && !address_anycast_queue(address))
		err = attach_make_queue(a, address, address->name, routing);
	if (err)
		return err;
	if (!a->want_queue && routing == RECORD_ANYCAST &&
	    address_anycast_queue(address)->state == NODE_CREATING) {
		attach_wait(a, address);
		return -EINPROGRESS;
	}
	address->users++;
	a->address = address;
	return 0;
}

static void attach_finish(struct loop_mail *mail)
{
	struct attach *a = container_of(mail, struct attach, mail);

	a->done(a);
}

static void attach_go(struct attach *a)
{
	struct core *core = a->shard->core;
	int err;

	pthread_mutex_lock(&core->lock);
	a->waiting = false;
	err = attach_resolve(a);
	pthread_mutex_unlock(&core->lock);
	if (err == -EINPROGRESS)
		return;
	a->err = err;
	a->mail.deliver = attach_finish;
	loop_post(a->shard->loop, &a->mail);
}

static void attach_retry(struct loop_mail *mail)
{
	attach_go(container_of(mail, struct attach, mail));
}

void registry_attach(struct attach *a)
{
	attach_go(a);
}

int registry_attach_create(struct shard *shard, const struct terminus *t,
			   struct attach **ret)
{
	struct attach *a = calloc(1, sizeof(*a));
	int err = 0;

	if (!a)
		return -ENOMEM;
	a->shard = shard;
	list_init(&a->link);
	if (t->dynamic) {
		uint8_t random[16];
		size_t len;

		io_random(shard->core->io, random, sizeof(random));
		len = (size_t)snprintf(a->name.address,
				       sizeof(a->name.address), "temp.");
		for (size_t i = 0; i < sizeof(random); i++)
			len += (size_t)snprintf(a->name.address + len, 3,
						"%02x", random[i]);
		a->dynamic = true;
		a->routing = t->routing ? t->routing : RECORD_ANYCAST;
	} else {
		err = t->address ? name_parse(t->address, &a->name) : -EINVAL;
		if (!err) {
			a->to = strdup(t->address);
			err = a->to ? 0 : -ENOMEM;
		}
		a->want_queue = a->name.queue[0];
		a->routing = a->name.routing ? a->name.routing : t->routing;
	}
	if (err) {
		free(a);
		return err;
	}
	*ret = a;
	return 0;
}

void registry_attach_free(struct attach *a)
{
	if (!a)
		return;
	ASSERT(!a->waiting);
	free(a->to);
	free(a);
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

void registry_leave_address(struct address *address)
{
	struct core *core = address->core;

	pthread_mutex_lock(&core->lock);
	ASSERT(address->users > 0);
	if (--address->users == 0) {
		if (address->state == NODE_GONE)
			address_free(address);
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
	queue_take_out(queue);
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
			address_free(address);
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

	a = address_create(core, r->id, r->name, r->name_len);
	if (!a)
		return -ENOMEM;
	if (table_find(&core->addresses, a->name)) {
		address_free(a);
		return -E_CORRUPT;
	}
	a->routing = r->routing;
	a->flags = r->flags;
	address_insert(a, NODE_LIVE);
	return 0;
}

static struct address *registry_address_by_id(struct core *core, uint64_t id)
{
	table_for_each(&core->addresses, node) {
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
	q = queue_create(core, r->id, name, r->name_len);
	if (!q)
		return -ENOMEM;
	q->routing = r->routing;
	q->shard = &core->shards[r->id % core->shard_count];
	atomic_init(&q->flags, r->flags);
	queue_start(q);
	queue_insert(q, a, NODE_LIVE);
	*ret = q;
	return 0;
}

int registry_recovered(struct core *core)
{
	table_for_each(&core->addresses, node) {
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
			address_free(container_of(n, struct address, node));
		}
	}
	table_fini(&core->queues);
	table_fini(&core->addresses);
	rules_free(core->rules, core->rule_count);
	pthread_mutex_destroy(&core->lock);
}
