/* From a name to an address or queue, made on the way when the rules allow.
 *
 * An attach looks up under core->lock.  What is missing is inserted as
 * CREATING, its record handed to the journal while the lock is held (so that
 * the journal has names in the order in which they took effect), and the
 * attach waits at the address with all others; when the record is committed
 * all of them look again. */
#include <string.h>

#include "broker/core/internal.h"

#define ATTACH_TRIES_MAX 16

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
	bool new_address, committed;
	uint8_t meta[RECORD_ADDRESS_ROOM + RECORD_QUEUE_ROOM];
};

static void creation_undo(struct creation *c)
{
	if (c->queue) {
		registry_remove_queue(c->queue);
		queue_stop(c->queue);
		queue_release(c->queue);
	}
	attach_wake_all(c->address);
	if (c->new_address)
		registry_remove_address(c->address);
}

static void creation_committed(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct creation *c = container_of(note, struct creation, note);
	struct core *core = c->shard->core;
	struct route *route = NULL;
	int err = note->append->err;

	if (!c->committed)
		shard_append_done(c->shard);
	c->committed = true;
	pthread_mutex_lock(&core->lock);
	if (c->queue)
		c->queue->state = NODE_LIVE;
	if (!err && route_create(c->address, NULL, &route) != 0) {
		/* The journal has it, so there is no way back: under another
		 * id the name would be there twice.  Until there is memory. */
		if (c->queue)
			c->queue->state = NODE_CREATING;
		pthread_mutex_unlock(&core->lock);
		loop_post(c->shard->loop, mail);
		return;
	}
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
		c->queue =
			registry_queue_create(core, core_next_id(core),
					      queue_name, strlen(queue_name));
		if (!c->queue)
			goto no_memory;
		c->queue->routing = routing;
		c->queue->shard = a->shard;
		atomic_init(&c->queue->flags, queue_flags);
		queue_start(c->queue);
	}
	if (!address) {
		address = registry_address_create(core, core_next_id(core),
						  a->name.address,
						  strlen(a->name.address));
		if (!address)
			goto no_memory;
		address->routing = routing;
		address->flags = a->force && !a->dynamic
					 ? 0
					 : RECORD_ADDRESS_AUTO_CREATED;
		c->new_address = true;
		registry_add_address(address, NODE_CREATING);
	}
	c->address = address;
	if (c->queue)
		registry_add_queue(c->queue, address, NODE_CREATING);
	attach_wait(a, address);
	creation_submit(c);
	return -EINPROGRESS;
no_memory:
	if (c->queue)
		queue_stop(c->queue);
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
	    !rules_find(a->shard->core, a->name.address)->auto_create)
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
		rules_find(a->shard->core, a->name.address);
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

void attach_start(struct attach *a)
{
	attach_go(a);
}

int attach_create(struct shard *shard, const struct terminus *t,
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
		len = (size_t)snprintf(a->name.address, sizeof(a->name.address),
				       "temp.");
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

void attach_free(struct attach *a)
{
	if (!a)
		return;
	ASSERT(!a->waiting);
	free(a->to);
	free(a);
}
