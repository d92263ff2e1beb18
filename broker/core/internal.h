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
	struct loop *home;   /* of the queue */
	uint64_t id;
	uint64_t sent, limit;
	uint32_t drain; /* the consumer's number of it; 0: not asked for */
	/* drained_mail carries `drained` to the consumer, and comes back when
	 * it has been read; until then another answer waits here. */
	uint32_t drained, drained_next;
	bool drained_away;
	/* from the consumer's shard, coalesced */
	_Atomic uint64_t want_limit;
	_Atomic uint32_t want_drain;
	_Atomic bool want_posted;
	struct loop_mail want_mail;
	struct loop_mail join_mail; /* may be on its way when it leaves */
	struct loop_mail life_mail; /* leaving, then left */
	struct loop_mail drained_mail, gone_mail;
};

/* The messages of one priority.  A message that is queued is in one of these
 * places: in `ready`; *out*, which means taken from there and not yet gone or
 * back (handed out, being acknowledged or moved); damaged; or in the *gap*,
 * the numbers from gap_first on, of which only the store knows.
 *
 * Everything in ready, and everything out but what a walk (walk.c) has taken
 * from the gap, is below gap_first.  No gap: gap_first == next. */
struct lane {
	uint64_t next;		/* number of the next to come; from 1 */
	uint64_t gap_first;	/* number */
	uint64_t out_last;	/* number: nothing above it is out */
	uint64_t gap_expiry_ms; /* none in the gap expires before; 0: none */
	struct delivery *last;	/* of those in ready; NULL: none is */
};

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
	struct list shard_link; /* among its queues */
	struct list ready;	/* refs by priority, then number */
	struct lane lanes[RECORD_PRIORITIES];
	uint16_t gap_lanes;	   /* bit p: lane p has a gap */
	struct delivery *returned; /* the last that came back, if it is there */
	uint64_t ready_count, ready_bytes;
	uint64_t out_count, out_bytes;
	uint32_t counts_pending; /* COUNT records not committed */
	uint32_t generation; /* what was asked of the store before is void */
	struct list subscribers, hungry;
	bool deleted;
	bool held; /* handing out waits for settlements, or for memory */
	/* reading back (fetch.c) */
	bool backoff;	    /* the store could not; soon again */
	bool fetch_failed;  /* and it has been said */
	bool fetch_turn;    /* one of the shard's fetches is kept for it */
	bool fetched_aside; /* the last one was not for a consumer */
	uint32_t refill_count;
	struct fetch *fetch;	 /* under way */
	struct list turn_link;	 /* waits for a turn, or in backoff */
	struct list memory_link; /* waits for memory */
	struct delivery *reload; /* the first in ready that it brings */
	struct list loads;	 /* refs that cannot move without their body */
	struct walk *walk;
	struct record_range *damaged; /* by rising ref */
	uint32_t damaged_ranges, damaged_capacity;
	struct list acks; /* refs to acknowledge at the end of the iteration */
	struct list *acked;  /* the last that was put in there, or NULL */
	struct purge *purge; /* follows the last of them */
	struct loop_task dispatch_task, ack_task;
	/* nobody uses its address any more: core->lock, then the shard */
	struct loop_mail unused_mail;
	bool unused_posted;
	/* counters; written by the queue's shard */
	core_counter messages, delivering, bytes, consumers, damage;
	core_counter enqueued, acknowledged, expired, dead_lettered,
		redelivered;
	char name[];
};

/* The pieces of a large message, shared by its refs and its upload. */
struct large {
	_Atomic uint32_t holds;
	uint64_t upload, bytes;
	uint32_t piece_count, piece_capacity;
	uint32_t *piece_bytes;
};

/* What few messages have. */
struct ref_rare {
	void *extra;
	uint32_t extra_len;
	struct record_origin origin; /* reason 0: none; strings owned */
	char *origin_text;
	uint32_t excluded_count, excluded_capacity;
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
	uint64_t ref;	     /* its name in the queue, and its place */
	struct queue *queue; /* held */
	uint64_t subscriber; /* id of the one it is handed to */
	struct consumer *consumer;
	struct message *message; /* the bytes, when in memory */
	struct large *large;
	struct ref_rare *rare;
	struct confirm *confirm;
	struct record_props props;
	uint64_t bytes;
	uint64_t retry_ms; /* expired, and could not be moved: not before */
	uint32_t attempts;
	uint32_t heap_index; /* in the shard's expiry heap; 0: not there */
	uint8_t state, outcome;
	bool failed, undeliverable, extra_changed, damaged;
	bool counted; /* in memory_bytes */
	bool walked;  /* taken from the gap, because it expires */
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
	struct store_reader *reader; /* NULL in a null sink */
	unsigned index;
	struct list producers;
	uint64_t publish_bytes; /* not yet durable */
	bool blocked;
	struct loop_timer flow_timer; /* while the store is behind */
	struct log_append *appends_first, *appends_last;
	struct message *settle_first, **settle_tail; /* without a record */
	struct loop_task append_task, settle_task, flow_task;
	/* queues and their memory (memory.c) */
	struct list queues; /* those to be asked next for memory first */
	uint32_t queue_count;
	uint32_t reclaim_vain;	    /* queues asked since one gave something */
	uint64_t reclaim_rest_ns;   /* none had anything: not before */
	int64_t memory_delta;	    /* not yet in core->memory_bytes */
	uint64_t memory_made;	    /* bytes of messages, for message.c */
	uint64_t memory_most;	    /* what memory_bytes was at most then */
	struct list memory_waiting; /* queues */
	struct loop_task reclaim_task;
	struct loop_mail reclaim_mail;
	_Atomic bool reclaim_posted;
	struct loop_timer memory_timer;
	struct loop_timer quiet_timer; /* is anything going on? */
	uint64_t quiet_activity;       /* when it was last asked */
	uint64_t quiet_bytes;	       /* in memory when it began */
	bool quiet;		       /* nothing is: nearly all goes back */
	/* reading back (fetch.c) */
	struct list fetches, fetch_turns, fetch_backoff;
	uint32_t fetch_count; /* with the turns that are kept */
	struct loop_timer fetch_timer;
	/* expiry: a heap by time, from index 1; and what is in gaps */
	uint64_t gap_due_ms; /* 0: nothing there expires */
	uint32_t walk_count;
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
/* What the store has read; with_body: the bytes too, when it has any. */
MUST_CHECK int ref_from_store(struct queue *, const struct store_message *,
			      bool with_body, struct delivery **ret);
/* Copies what the store has read. */
MUST_CHECK int ref_set_body(struct delivery *, const struct store_message *);
/* It is in a queue: its memory counts. [the queue's shard] */
void ref_count(struct delivery *);
MUST_CHECK int ref_rare(struct delivery *, struct ref_rare **ret);
MUST_CHECK int ref_set_extra(struct delivery *, const void *, uint32_t len);
MUST_CHECK int ref_set_origin(struct delivery *, const char *address,
			      size_t address_len, const char *queue,
			      size_t queue_len, uint8_t reason);
bool ref_excludes(const struct delivery *, uint64_t subscriber);
MUST_CHECK int ref_exclude(struct delivery *, uint64_t subscriber);

/* ---- queue.c ---- [the queue's shard] */
void queue_start(struct queue *); /* after its fields are set */
void queue_stop(struct queue *);  /* it ends, or never was */
/* The record is committed: the message is in the queue.  Takes the ref. */
void queue_enqueue(struct queue *, struct delivery *);
/* The consumer's verdict is in the ref. */
void queue_settle(struct delivery *);
/* At start: what is there is in the store. */
void queue_recover(struct queue *, const struct store_queue *);
/* Back into its place. */
void queue_return(struct delivery *);
/* Has come from the gap: to the end of its lane. */
void queue_refilled(struct delivery *);
/* Out of ready: it is going to be handed out, acknowledged or moved. */
void queue_take(struct delivery *);
/* What was out is so no more: it has gone, or is back. */
void queue_out_end(struct delivery *);
/* The last of the lane in ready goes back to the gap; false: it must not. */
bool queue_give_back(struct queue *, unsigned priority);
void queue_join(struct subscriber *);
void queue_leave(struct subscriber *);
void queue_want(struct subscriber *, uint64_t limit, uint32_t drain);
/* Out of the registry already: drop its messages, tell its consumers. */
void queue_forget(struct queue *);
void queue_free_messages(struct queue *); /* at the very end */
/* Delete it when nobody needs it and the rules or its kind say so. */
void queue_maybe_delete(struct queue *);
void queue_unused(struct loop_mail *);
static inline bool queue_is_paused(const struct queue *q)
{
	return atomic_load_explicit(&q->flags, memory_order_relaxed) &
	       RECORD_QUEUE_PAUSED;
}

/* ---- dispatch.c ---- [the queue's shard] */
void dispatch_start(struct queue *);
void queue_wake(struct queue *); /* dispatch at the end of the iteration */
/* Something of it was settled. */
void dispatch_settled(struct queue *);

/* ---- fetch.c: reading back from the store ---- [the queue's shard]
 *
 * One fetch at a time for each queue and a few for each shard, in turn.  Those
 * that begin one return true when the queue's dispatch will be woken by
 * something that is under way. */
void fetch_start(struct queue *);
/* The gap's beginning, of the highest lane that has one, into ready. */
bool fetch_refill(struct queue *);
/* The bodies of d, which is in ready, and of those behind it. */
bool fetch_bodies(struct queue *, struct delivery *d);
/* The ref cannot move without its body: move_loaded() or damage follows. */
void fetch_load(struct delivery *);
/* What is not for a consumer: loads, and walks. */
void fetch_aside(struct queue *);
/* At the end of a dispatch: a turn that it had and did not need. */
void fetch_turn_over(struct queue *);
/* Numbers of a lane that a walk wants to see. */
bool fetch_expired(struct queue *, uint64_t first, uint64_t end,
		   uint64_t expired_ms, uint32_t count_max);
void fetch_stop(struct queue *);
void fetch_shard_init(struct shard *);
void fetch_shard_fini(struct shard *);

/* ---- memory.c ---- [shard] */
void memory_add(struct shard *, int64_t bytes);
static inline bool memory_is_over(const struct core *core, uint64_t limit)
{
	return atomic_load_explicit(&core->memory_bytes, memory_order_relaxed) >
	       limit;
}
/* The limit is passed: queues give back what nobody waits for. */
void memory_reclaim(struct shard *);
/* Wake the queue when there is memory again. */
void memory_wait(struct queue *);
void memory_shard_init(struct shard *);

/* ---- damage.c ---- [the queue's shard] */
/* There, and never to be served. */
void damage_add(struct queue *, uint64_t ref, int err);
/* The same for a ref that is in no list; frees it. */
void damage_ref(struct delivery *, int err);
void damage_clear(struct queue *);

/* ---- ack.c ---- [the queue's shard] */
void ack_start(struct queue *);
/* The message leaves for good, when the record is durable. */
void ack_add(struct delivery *);
/* Everything that is not out leaves; the command ends when that is durable. */
void ack_purge(struct queue *, struct core_command *);
/* The queue is gone: what has no record yet gets none. */
void ack_forget(struct queue *);
void ack_free(struct queue *);

/* ---- move.c ---- [the queue's shard] */
/* Dead letter or expiry: leaves for the address that the rules name.  The ref
 * is in no list. */
void move_ref(struct delivery *, enum record_reason);
/* It has its body now. */
void move_loaded(struct delivery *);

/* ---- expiry.c ---- [shard] */
bool expiry_is_due(const struct delivery *);
MUST_CHECK int expiry_add(struct shard *, struct delivery *);
void expiry_remove(struct shard *, struct delivery *);
/* Look at the clock again when the next one is due. */
void expiry_arm(struct shard *);
void expiry_init(struct shard *);
void expiry_fini(struct shard *);

/* ---- walk.c: what expires in gaps ---- [the queue's shard] */
#define WALK_REFS_MAX 256u /* of a queue, taken from its gaps, not gone yet */
/* A message that expires then is in the gap; 0: it does not. */
void walk_note(struct queue *, unsigned priority, uint64_t expiry_ms);
/* Queues in whose gaps something may have expired begin to look. [shard] */
void walk_due(struct shard *, uint64_t now_ms);
/* Ask the store for the next; true: something is under way. */
bool walk_go(struct queue *);
/* The answer. 0, or -ENOMEM: it could not take all. */
MUST_CHECK int walk_take(struct queue *, const struct store_fetch *);
/* It has been taken from the gap, and is not gone yet. */
bool walk_has(const struct queue *, uint64_t ref);
/* What has been taken of a lane's gap, by rising ref; the count. */
uint32_t walk_refs(const struct queue *, unsigned priority,
		   uint64_t refs[WALK_REFS_MAX]);
/* A ref that was taken from the gap has gone for good. */
void walk_over(struct delivery *);
/* It could not go, and is not to be looked at before retry_ms: back to where
 * it was, or into ready when the gap begins behind it by now.  Takes it. */
void walk_back(struct delivery *);
/* A fetch has ended: what is gone cannot come back in it any more. */
void walk_sweep(struct queue *);
void walk_stop(struct queue *); /* the gap is no more */
void walk_free(struct queue *);

/* ---- consumer.c ---- [the queue's shard] */
void consumer_hand(struct subscriber *, struct delivery *);
/* Everything that was there when it asked for this drain is on its way. */
void consumer_tell_drained(struct subscriber *, uint32_t drain);
void consumer_tell_gone(struct subscriber *);
/* The queue has let go of it; nothing follows. */
void consumer_tell_left(struct subscriber *);
void consumer_confirm(struct confirm *, int err);

/* ---- upload.c ---- [shard] */
/* These pieces never become a message: their files may go before the next
 * restart would let them. */
void upload_discard(struct shard *, const struct large *);

/* ---- producer.c ---- [shard] */
void producer_shard_init(struct shard *);
void producer_release_maybe(struct producer *);
/* Route and journal, after what came before it.  A message that is `held`
 * keeps its place, and all that follow wait, until producer_go_on(). */
void producer_submit(struct producer *, struct message *, const char *to);
void producer_go_on(struct producer *);
/* Bytes handed to, and back from, the journal: for flow(). */
void producer_bytes_add(struct shard *, uint64_t bytes);
void producer_bytes_sub(struct shard *, uint64_t bytes);

#endif
