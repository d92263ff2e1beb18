/* broker/core/internal.h: the core's structures, private to broker/core/.
 *
 * Ownership.  The registry (addresses, queues by name, rules, routes) is
 * behind core->lock.  Everything of a queue but its counters belongs to the
 * queue's shard; everything of a producer or consumer to its connection's
 * shard.  A *ref* is one message in one queue: it belongs to the queue's
 * shard, except while it is handed to a consumer, when it belongs to the
 * consumer's shard; it travels between them as mail. */
#ifndef BROKER_CORE_INTERNAL_H
#define BROKER_CORE_INTERNAL_H

#include <pthread.h>

#include "broker/core/core.h"

/* ---- counters: one writer, any reader ---- */

typedef _Atomic uint64_t core_counter;

static inline void count_add(core_counter *c, uint64_t n)
{
	atomic_store_explicit(c,
			      atomic_load_explicit(c, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline void count_sub(core_counter *c, uint64_t n)
{
	atomic_store_explicit(c,
			      atomic_load_explicit(c, memory_order_relaxed) - n,
			      memory_order_relaxed);
}

static inline uint64_t count_get(const core_counter *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

/* ---- names (name.c, pure) ---- */

struct name_parts {
	char address[RECORD_NAME_MAX + 1];
	char queue[RECORD_NAME_MAX + 1]; /* "" unless address::queue */
	uint8_t routing;		 /* from a prefix; 0: none */
};
/* -EINVAL: empty, too long, or with control characters. */
MUST_CHECK int name_parse(const char *text, struct name_parts *ret);
/* Does "a.*.#" match the name? */
bool name_match(const char *pattern, const char *name);
/* > 0: pattern a is more specific than b, for patterns that both match. */
int name_compare(const char *a, const char *b);

/* ---- tables (table.c): intrusive hash by name ---- */

struct table_node {
	struct table_node *next;
	uint64_t hash;
	const char *name;
};

struct table {
	struct table_node **buckets;
	size_t bucket_count, node_count;
};
MUST_CHECK int table_init(struct table *);
void table_fini(struct table *);
struct table_node *table_find(const struct table *, const char *name);
/* The name must not be there.  Growing is best effort: never fails. */
void table_insert(struct table *, struct table_node *);
void table_remove(struct table *, struct table_node *);
/* Every node, in no order; the body may not change the table. */
#define table_for_each(t, node)                                                \
	for (size_t node##_i = 0; node##_i < (t)->bucket_count; node##_i++)    \
		for (struct table_node *node = (t)->buckets[node##_i]; node;   \
		     node = node->next)

/* ---- registry ---- */

enum node_state { NODE_CREATING = 1, NODE_LIVE, NODE_GONE };

/* Where an address sends: immutable, shared, counted. */
struct route {
	_Atomic uint32_t holds;
	uint64_t version;
	uint32_t multicast_count, anycast_count;
	struct queue *queues[]; /* multicast first; held */
};

struct address { /* core->lock */
	struct table_node node;
	struct core *core;
	uint64_t id;
	enum node_state state;
	uint8_t routing;
	uint8_t flags;
	uint32_t users; /* producers, attaches and moves under way */
	struct route *route;
	_Atomic uint64_t version; /* of route; read without the lock */
	_Atomic uint64_t ttl_max_ms;
	struct list queues;
	struct list waiters; /* struct attach */
	char name[];
};

/* A consumer as its queue sees it.  Made and freed on the consumer's shard;
 * in between the queue's shard has it, from its joining to its leaving. */
struct subscriber {
	struct list link;	 /* all of the queue's */
	struct list hungry_link; /* those with credit, in turn */
	struct queue *queue;	 /* held, users counted */
	struct consumer *consumer;
	struct shard *shard; /* of the consumer */
	uint64_t id;
	uint64_t sent, limit;
	bool drain;
	/* from the consumer's shard, coalesced */
	_Atomic uint64_t want_limit;
	_Atomic bool want_drain, want_posted, drained_posted;
	struct loop_mail want_mail;
	struct loop_mail join_mail; /* may be on its way when it leaves */
	struct loop_mail life_mail; /* leaving, then left */
	struct loop_mail drained_mail, gone_mail;
};

#define PRIORITY_COUNT 10u

struct queue {
	struct table_node node; /* core->lock */
	struct list address_link;
	enum node_state state;
	uint32_t users; /* attached consumers and attaches under way */
	/* constant */
	struct core *core;
	struct shard *shard;
	struct address *address; /* held by the registry while bound */
	uint64_t id;
	uint8_t routing;
	_Atomic uint8_t flags;
	_Atomic uint32_t holds;
	/* the queue's shard */
	struct list ready;		       /* refs by priority, then seq */
	struct delivery *last[PRIORITY_COUNT]; /* of each priority's run */
	struct delivery *returned; /* the last that came back, if it is there */
	struct list subscribers, hungry;
	uint64_t next_seq, ready_count;
	uint32_t loading; /* reads of bodies under way */
	uint64_t loading_bytes;
	bool deleted;
	struct list acks; /* refs to acknowledge at the end of the iteration */
	struct list *acked; /* the last that was put in there, or NULL */
	struct core_command *purge; /* rides on the last of them */
	struct loop_task dispatch_task, ack_task;
	/* nobody uses its address any more: core->lock, then the shard */
	struct loop_mail unused_mail;
	bool unused_posted;
	/* counters; written by the queue's shard */
	core_counter messages, delivering, bytes, consumers;
	core_counter enqueued, acknowledged, expired, dead_lettered,
		redelivered;
	char name[];
};

/* The pieces of a large message, shared by its refs and its upload. */
struct large {
	_Atomic uint32_t holds;
	uint64_t upload, bytes;
	uint32_t piece_count, piece_capacity;
	struct log_loc *pieces;
};

/* What few messages have. */
struct ref_rare {
	void *extra;
	uint32_t extra_len;
	struct record_origin origin; /* reason 0: none; strings owned */
	char *origin_text;
	uint32_t excluded_count;
	uint64_t *excluded; /* subscriber ids */
};

enum ref_state {
	REF_COMMITTING = 1, /* its record is in the journal's hands */
	REF_READY,
	REF_HANDED, /* with a consumer, or on the way there or back */
	REF_ACKING,
	REF_MOVING,
};

/* The answer to a settlement asked for with confirm. */
struct confirm {
	struct loop_mail mail;
	struct consumer *consumer;
	void *context;
	int err;
};

/* One message in one queue; what core.h calls a delivery. */
struct delivery {
	struct list link;
	struct loop_mail mail;
	uint64_t lsn; /* its name in the journal */
	uint64_t seq; /* its place in the queue; neighbours differ by one */
	struct queue *queue; /* held */
	uint64_t subscriber; /* id of the one it is handed to */
	struct consumer *consumer;
	struct message *message; /* the bytes, when in memory */
	struct body_load *load;	 /* a read of them under way */
	struct large *large;
	struct ref_rare *rare;
	struct confirm *confirm;
	struct log_loc loc;
	struct record_props props;
	uint64_t bytes;
	uint64_t retry_ms; /* expired, and could not be moved: not before */
	uint32_t attempts;
	uint32_t heap_index; /* in the shard's expiry heap; 0: not there */
	uint8_t state, outcome;
	bool failed, undeliverable, extra_changed, damaged;
};

/* A name on its way to an address and, for consumers and commands, a queue:
 * looks both up, makes them when the rules allow, and then calls done on the
 * shard that asked. */
struct attach {
	struct list link; /* an address's waiters; core->lock */
	struct loop_mail mail;
	struct shard *shard;
	struct name_parts name;
	char *to; /* as the client wrote it; may be NULL */
	uint8_t routing;
	bool dynamic;	   /* a temporary node; name is made here */
	bool want_queue;   /* the result is a queue, else an address */
	bool force;	   /* make it whatever the rules say */
	bool subscription; /* a queue of its own was made for it */
	bool waiting;
	uint8_t tries;
	int err;
	struct address *address; /* result: users counted */
	struct queue *queue;	 /* result: users counted and held */
	void (*done)(struct attach *);
	void *context;
};

struct shard {
	struct core *core;
	struct loop *loop;
	struct log_reader *reader;
	unsigned index;
	struct list producers;
	uint64_t publish_bytes; /* not yet durable */
	bool blocked;
	struct log_append *appends_first, *appends_last;
	struct message *settle_first, **settle_tail; /* without a record */
	struct loop_task append_task, settle_task, flow_task;
	/* expiry: a heap by time, from index 1 */
	struct delivery **expiry;
	uint32_t expiry_count, expiry_capacity;
	struct loop_timer expiry_timer;
	/* counters; written by this shard */
	core_counter appends_started, appends_ended, producer_count;
	core_counter published, published_bytes, delivered, delivered_bytes;
	core_counter acknowledged, redelivered, released, dead_lettered,
		expired;
	core_counter rejected, unrouted;
};

struct core {
	struct io *io;
	struct log *log;
	struct store *store;
	uint64_t message_bytes_max, memory_bytes_max, publish_bytes_max;
	uint64_t expiry_scan_ns;
	bool null_sink;
	unsigned shard_count;
	struct shard *shards;
	_Atomic uint64_t next_id;
	_Atomic uint64_t memory_bytes;
	pthread_mutex_t lock;
	struct table addresses, queues;
	struct core_address_rule *rules; /* strings owned */
	unsigned rule_count;
};

/* ---- core.c ---- */
uint64_t core_next_id(struct core *);
/* Hand a record to the journal at the end of this iteration. [shard] */
void shard_append(struct shard *, struct log_append *);
/* Hand what waits to the journal now. [shard] */
void shard_append_flush(struct shard *);
/* The last note of an append has arrived on this shard. */
void shard_append_done(struct shard *);

/* ---- message.c ---- */
void message_hold(struct message *);
struct large *large_create(uint64_t upload);
MUST_CHECK int large_reserve(struct large *, uint32_t piece_count);
struct large *large_hold(struct large *);
void large_release(struct large *); /* NULL-safe */

/* ---- rules.c ---- */
struct core_rule_view {
	uint8_t routing;
	bool auto_create, auto_delete;
	uint32_t delivery_attempts;
	uint64_t ttl_max_ms;
	char dead_letter[RECORD_NAME_MAX + 1]; /* "": discard */
	char expiry[RECORD_NAME_MAX + 1];
};
/* A copy.  Takes core->lock. */
void rules_view(struct core *, const char *name, struct core_rule_view *ret);
/* Takes core->lock. */
MUST_CHECK int rules_set(struct core *, const struct core_address_rule *,
			 unsigned rule_count);
/* core->lock held; never NULL. */
const struct core_address_rule *rules_find(const struct core *,
					   const char *name);
void rules_free(struct core_address_rule *, unsigned count);

/* ---- route.c ---- */
/* The current one, held.  Takes core->lock. */
struct route *route_current(struct address *);
void route_release(struct route *); /* NULL-safe */
/* core->lock held: the address's LIVE queues but `without` (or NULL). */
MUST_CHECK int route_create(struct address *, const struct queue *without,
			    struct route **ret);
/* core->lock held. */
void route_install(struct address *, struct route *);

/* ---- attach.c ---- [shard] */
/* Zeroed, with the names of the terminus parsed.  -EINVAL, -ENOMEM */
MUST_CHECK int attach_create(struct shard *, const struct terminus *,
			     struct attach **ret);
/* done() follows on the shard, never from inside.  Takes core->lock. */
void attach_start(struct attach *);
void attach_free(struct attach *);

/* ---- registry.c ---- */
/* Taking core->lock: */
/* One more user of an address that has one. */
struct address *registry_hold_address(struct address *);
/* Counted users of an address or queue go. */
void registry_leave_address(struct address *);
void registry_leave_queue(struct queue *);
enum registry_delete {
	REGISTRY_DELETE_ALWAYS,
	REGISTRY_DELETE_WITHOUT_CONSUMERS,
	REGISTRY_DELETE_UNUSED, /* nobody attached to its address either */
};
/* Takes the queue out of the registry and journals that it is gone. [the
 * queue's shard]  0; -E_NOT_FOUND when somebody was faster; -EBUSY.
 * The command, if any, ends when the record is durable. */
MUST_CHECK int registry_delete_queue(struct queue *, enum registry_delete,
				     struct core_command *);
bool registry_queue_is_live(struct queue *);
struct queue *registry_find_queue(struct core *, const char *name); /* held */
/* With core->lock held: */
struct address *registry_address_create(struct core *, uint64_t id,
					const char *name, size_t name_len);
void registry_address_free(struct address *);
struct queue *registry_queue_create(struct core *, uint64_t id,
				    const char *name, size_t name_len);
void registry_add_address(struct address *, enum node_state);
void registry_add_queue(struct queue *, struct address *, enum node_state);
/* Out of the tables; a removed address is freed. */
void registry_remove_address(struct address *);
void registry_remove_queue(struct queue *);
/* Before the shards run: */
MUST_CHECK int registry_init(struct core *);
MUST_CHECK int registry_recover_address(struct core *,
					const struct record_address *);
MUST_CHECK int registry_recover_queue(struct core *,
				      const struct record_queue *,
				      struct queue **ret);
/* All are there: make the routes. */
MUST_CHECK int registry_recovered(struct core *);
void registry_free(struct core *);
/* [any] */
struct queue *queue_hold(struct queue *);
void queue_release(struct queue *); /* NULL-safe */

/* ---- ref.c ---- */
struct delivery *ref_create(struct queue *); /* holds the queue */
void ref_free(struct delivery *);
MUST_CHECK int ref_rare(struct delivery *, struct ref_rare **ret);
MUST_CHECK int ref_set_extra(struct delivery *, const void *, uint32_t len);
MUST_CHECK int ref_set_origin(struct delivery *, const char *address,
			      size_t address_len, const char *queue,
			      size_t queue_len, uint8_t reason);
bool ref_excludes(const struct delivery *, uint64_t subscriber);
MUST_CHECK int ref_exclude(struct delivery *, uint64_t subscriber);

/* ---- queue.c ---- [the queue's shard] */
void queue_start(struct queue *); /* after its fields are set */
/* The record is committed: the message is in the queue.  Takes the ref. */
void queue_enqueue(struct queue *, struct delivery *);
/* The consumer's verdict is in the ref. */
void queue_settle(struct delivery *);
/* At start: it was there. */
void queue_recover(struct queue *, struct delivery *);
/* Back into its place. */
void queue_return(struct delivery *);
void queue_wake(struct queue *); /* dispatch at the end of the iteration */
void queue_remove_ready(struct delivery *);
void queue_join(struct subscriber *);
void queue_leave(struct subscriber *);
void queue_want(struct subscriber *, uint64_t limit, bool drain);
/* Out of the registry already: drop its messages, tell its consumers. */
void queue_forget(struct queue *);
void queue_free_messages(struct queue *); /* at the very end */
bool queue_is_expired(const struct delivery *);
/* Delete it when nobody needs it and the rules or its kind say so. */
void queue_maybe_delete(struct queue *);
void queue_unused(struct loop_mail *);

/* ---- ack.c ---- [the queue's shard] */
void ack_start(struct queue *);
/* The message leaves for good, when the record is durable. */
void ack_add(struct delivery *);
/* Everything that is ready leaves; the command ends when that is durable. */
void ack_purge(struct queue *, struct core_command *);

/* ---- load.c ---- [the queue's shard] */
/* Bring the bytes of the next messages from d on into memory. */
void load_ahead(struct queue *, struct delivery *);
void load_forget(struct delivery *);

/* ---- move.c ---- [the queue's shard] */
/* Dead letter or expiry: leaves for the address that the rules name.  The ref
 * is in no list. */
void move_ref(struct delivery *, enum record_reason);

/* ---- expiry.c ---- [shard] */
MUST_CHECK int expiry_add(struct shard *, struct delivery *);
void expiry_remove(struct shard *, struct delivery *);
void expiry_init(struct shard *);
void expiry_fini(struct shard *);

/* ---- consumer.c ---- [the queue's shard] */
void consumer_hand(struct subscriber *, struct delivery *);
void consumer_tell_drained(struct subscriber *);
void consumer_tell_gone(struct subscriber *);
/* The queue has let go of it; nothing follows. */
void consumer_tell_left(struct subscriber *);
void consumer_confirm(struct confirm *, int err);

/* ---- producer.c ---- [shard] */
void producer_shard_init(struct shard *);
void producer_release_maybe(struct producer *);
/* Route and journal; the message's data or large is complete. */
void producer_submit(struct producer *, struct message *, const char *to);
/* Bytes handed to, and back from, the journal: for flow(). */
void producer_bytes_add(struct shard *, uint64_t bytes);
void producer_bytes_sub(struct shard *, uint64_t bytes);

#endif
