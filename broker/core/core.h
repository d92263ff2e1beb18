/* broker/core/core.h: addresses, queues, routing and delivery.
 *
 * The core knows no protocol and does no I/O of its own: protocol adaptors
 * call it on shard threads, the journal calls back through notes, and the
 * simulator drives it as it is.
 *
 * Threads.  A *shard* is a loop that owns connections and queues.  A
 * connection's objects (producers, consumers, deliveries handed to it) belong
 * to the shard of the connection; a queue belongs to the shard on which it
 * was made.  Work between shards travels as mail inside the core; an adaptor
 * never sees it.  All calls here belong to the shard given or implied by the
 * object unless marked [any].  Callbacks never run from inside a call of the
 * same object.
 *
 * Durability.  A publication is settled, and a message delivered, only after
 * the journal has committed it; an acknowledgement is final only after its
 * record has. */
#ifndef BROKER_CORE_CORE_H
#define BROKER_CORE_CORE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/list.h"
#include "journal/store/store.h"

struct core;
struct shard;
struct delivery;

/* ---- configuration and life ---- */

/* Settings of the addresses that match; the most specific match wins as a
 * whole.  `match`: words separated by dots, * one word, # any number. */
struct core_address_rule {
	const char *match;
	uint8_t routing;	    /* RECORD_ANYCAST or RECORD_MULTICAST: when
				       the client does not say */
	bool auto_create;	    /* addresses and anycast queues */
	bool auto_delete;	    /* auto-created queues, once empty and
				       without consumers */
	uint32_t delivery_attempts; /* 0: unlimited */
	const char *dead_letter;    /* address; NULL: discard */
	const char *expiry;	    /* address; NULL: discard */
	uint64_t ttl_max_ms;	    /* 0: none */
};

struct core_options {
	struct io *io;
	struct log *log;     /* started */
	struct store *store; /* recovered; walked by core_recover() */
	struct loop **loops; /* one per shard, not running yet */
	unsigned shard_count;
	const struct core_address_rule *rules; /* copied */
	unsigned rule_count;
	uint64_t message_bytes_max; /* 0: 1 GiB */
	uint64_t memory_bytes;	    /* for queued messages; 0: 256 MiB.  What
				       is beyond is in the store only, and
				       read back when its turn comes. */
	uint64_t publish_bytes_max; /* not yet durable, per shard; 0: 32 MiB */
	uint64_t expiry_scan_ns;    /* longest time between two looks at the
				       wall clock; 0: 30 s */
	bool null_sink; /* for bench/ only: publications are settled at once
			   and go nowhere; log and store may be NULL */
};

MUST_CHECK int core_create(const struct core_options *, struct core **ret);
/* Rebuilds addresses and queues from the store, before the shards run. */
MUST_CHECK int core_recover(struct core *);
/* New rules (copied) for what is attached or delivered from now on. [any] */
MUST_CHECK int core_set_rules(struct core *, const struct core_address_rule *,
			      unsigned rule_count);
/* Records handed to the journal whose notes have not all arrived, and what the
 * store has been asked for.  Once the adaptors have closed everything, zero
 * means that all of it is durable. [any] */
uint64_t core_pending(const struct core *);
/* After all shard loops have ended.  NULL-safe. */
void core_free(struct core *);

struct shard *core_shard(struct core *, unsigned index); /* [any] */
unsigned core_shard_count(const struct core *);		 /* [any] */
struct loop *shard_loop(struct shard *);		 /* [any] */

/* ---- messages ---- */

/* A small message on its way in, and its bytes for as long as they are in
 * memory.  Messages of more than CORE_LARGE_BYTES come by upload. */
#define CORE_LARGE_BYTES (100u * 1024u)
#define CORE_PIECE_BYTES (256u * 1024u) /* largest piece of an upload */

struct message {
	/* The adaptor fills these before producer_publish(). */
	struct record_props props; /* arrived_ms is set by the core */
	void *context;		   /* given back with the outcome */
	uint32_t len;
	/* private to the core from here */
	_Atomic uint32_t holds;		/* the publication, each ref */
	_Atomic uint32_t pending_notes; /* notes and hand-overs to come */
	struct producer *producer;
	struct shard *shard;
	struct address *address; /* kept until it is settled; or NULL */
	struct large *large;	 /* of an upload; else NULL */
	struct delivery **refs;	 /* one per target */
	struct delivery *ref;	 /* refs points here when there is one target */
	int err;
	bool retried;
	bool held; /* of an upload: its pieces are not durable yet */
	struct attach *attach; /* while it waits: to find its address */
	struct message *next;
	struct loop_mail mail;
	struct log_append append;
	struct log_note note; /* when there is one target */
	void *targets;	      /* allocated when there are more */
	uint8_t meta[80];     /* the record's, when there is one target */
	uint8_t data[];	      /* len bytes, filled by the adaptor */
};

/* NULL when there is no memory. */
struct message *message_create(struct shard *, uint32_t len);
/* Drop one hold: only for a message that was never published. [any] */
void message_release(struct message *);

/* ---- naming ---- */

/* What a client asks for.  Strings are borrowed during the call.
 *
 * The core takes off "queue://" and "topic://" (they set routing), and reads
 * "address::queue" as that queue of that address. */
struct terminus {
	const char *address;   /* NULL with dynamic or anonymous */
	uint8_t routing;       /* 0: not said; else RECORD_ANYCAST/MULTICAST */
	bool dynamic;	       /* make a temporary node; its name is returned */
	const char *user;      /* for logs and, later, permissions */
	const char *container; /* client id, for logs and subscriptions */
};

/* ---- producers ---- */

enum outcome {
	OUTCOME_ACCEPTED = 1,
	OUTCOME_REJECTED,
	OUTCOME_RELEASED,
	OUTCOME_MODIFIED,
};

struct producer;
struct producer_ops {
	/* The answer to producer_attach(): err 0, -E_NOT_FOUND, -E_REFUSED,
	 * -E_EXISTS (routing differs), -E_NO_SPACE, -EINVAL (bad name) or a
	 * failure of the journal.  name is the full address (of the temporary
	 * node when dynamic). */
	void (*attached)(struct producer *, int err, const char *name);
	/* One publication's end.  ACCEPTED: durable and routed.  REJECTED: err
	 * says why (-E_NO_SPACE, -E_NOT_FOUND, -E_LIMIT).  RELEASED: not
	 * taken, may be sent again (shutdown, paused journal). */
	void (*settled)(struct producer *, void *context, enum outcome,
			int err);
	/* Too much is waiting for the disk, or no longer: stop or start
	 * reading from this producer's connection. */
	void (*flow)(struct producer *, bool blocked);
	/* After producer_detach(): no more callbacks; memory may go. */
	void (*released)(struct producer *);
};

/* Embedded by the adaptor, zeroed before attach. */
struct producer {
	const struct producer_ops *ops;
	/* private */
	struct shard *shard;
	struct address *address;
	struct route *route; /* the address's, as of the last look */
	uint32_t anycast_turn;
	uint32_t in_flight; /* publications and uploads not settled */
	/* Of these, in order: behind one whose address is being found or made,
	 * or whose pieces are not durable yet. */
	struct message *waiting_first, **waiting_tail;
	bool resolving;
	bool attached, detaching, anonymous, flow_told;
	char *last_to;	      /* anonymous: the name that address came from */
	struct queue *direct; /* of a dynamic node or address::queue */
	uint64_t direct_version; /* of the address, when direct was live */
	struct attach *attach;
	struct list link; /* among the shard's producers */
	struct loop_task release_task;
};

/* terminus.address NULL and not dynamic: an anonymous producer; each message
 * then names its own `to`.  attached() always follows. */
void producer_attach(struct shard *, struct producer *,
		     const struct terminus *);
/* Takes the message.  settled() follows exactly once, also after detach.
 * to: for anonymous producers, else NULL. */
void producer_publish(struct producer *, struct message *, const char *to);
/* Publications in flight go on; then released().  Its uploads must have been
 * finished or aborted. */
void producer_detach(struct producer *);
bool producer_blocked(const struct producer *);

/* A message too large for memory, piece by piece. */
struct upload;
/* *ret is owned by the core until finish or abort. */
MUST_CHECK int upload_begin(struct producer *, struct upload **ret);
/* Copies len (at most CORE_PIECE_BYTES) bytes into the journal's queue.
 * -E_LIMIT: message_bytes_max passed; -E_NO_SPACE.  After an error only
 * upload_abort() is allowed. */
MUST_CHECK int upload_append(struct upload *, const void *data, size_t len);
/* The message is complete: settled(context) follows. props as in message. */
void upload_finish(struct upload *, const struct record_props *, const char *to,
		   void *context);
/* Forget it; nothing of it will ever be delivered.  NULL-safe. */
void upload_abort(struct upload *);

/* ---- consumers ---- */

/* One message handed to one consumer, owned by the core, valid for the
 * adaptor from deliver() until it settles it or the consumer is released. */
struct consumer;

struct consumer_ops {
	/* As producer_ops.attached; name: "address" or "address::queue". */
	void (*attached)(struct consumer *, int err, const char *name);
	/* A message for this consumer; counts against its credit. */
	void (*deliver)(struct consumer *, struct delivery *);
	/* Answer to consumer_credit(…, drain = true): everything that was
	 * there has been delivered, what is left of the credit is void. */
	void (*drained)(struct consumer *);
	/* A settlement asked for with `confirm` is durable (err 0) or was
	 * refused. */
	void (*settled)(struct consumer *, void *context, int err);
	/* The queue was deleted under the consumer. */
	void (*gone)(struct consumer *, int err);
	/* After consumer_detach(): no more callbacks; memory may go. */
	void (*released)(struct consumer *);
};

/* Embedded by the adaptor, zeroed before attach. */
struct consumer {
	const struct consumer_ops *ops;
	/* private */
	struct shard *shard;
	struct subscriber *subscriber;
	uint64_t delivered; /* ever handed to the adaptor */
	uint32_t drains;    /* ever asked for */
	uint32_t confirms;  /* settlements whose answer is to come */
	bool attached, detaching, left;
	struct attach *attach;
	struct list deliveries; /* handed out, not settled */
	struct loop_task release_task;
};

/* attached() always follows.  A multicast address gives the consumer a
 * temporary subscription queue of its own, gone when it detaches. */
void consumer_attach(struct shard *, struct consumer *,
		     const struct terminus *);
/* The credit that the peer grants now, counted after all deliveries that
 * deliver() has handed over so far. */
void consumer_credit(struct consumer *, uint32_t credit, bool drain);
/* Unsettled deliveries go back to the queue in order; failed: the connection
 * broke, so each counts as an attempt.  Then released(). */
void consumer_detach(struct consumer *, bool failed);

struct settlement {
	enum outcome outcome;
	bool delivery_failed;	 /* MODIFIED: count the attempt */
	bool undeliverable_here; /* MODIFIED: not to this consumer again */
	const void *extra;	 /* MODIFIED: merged annotations, encoded, that
				    replace what delivery_extra() returned;
				    NULL: unchanged.  Copied. */
	uint32_t extra_len;
	bool confirm; /* call settled(context) when it is durable */
	void *context;
};
/* Ends the delivery; the pointer is void afterwards. */
void delivery_settle(struct delivery *, const struct settlement *);

/* The encoded message when it is in memory, else NULL (a large message). */
const uint8_t *delivery_data(const struct delivery *);
/* The adaptor has sent the bytes and will not ask for them again: when memory
 * is short they leave it, and are read back should the delivery return. */
void delivery_sent(struct delivery *);
uint64_t delivery_bytes(const struct delivery *);
const struct record_props *delivery_props(const struct delivery *);
/* Earlier failed attempts: AMQP's delivery-count. */
uint32_t delivery_attempts(const struct delivery *);
const void *delivery_extra(const struct delivery *, uint32_t *ret_len);
/* NULL, or where it was moved from (dead letter, expiry). */
const struct record_origin *delivery_origin(const struct delivery *);
/* Unique in its queue for the life of the broker's data: for logs. */
uint64_t delivery_ref(const struct delivery *);

/* Pieces of a large message, in order; each at most CORE_PIECE_BYTES. */
uint32_t delivery_piece_count(const struct delivery *);
uint32_t delivery_piece_bytes(const struct delivery *, uint32_t index);
struct piece_read {
	/* err 0, or else the delivery must be settled RELEASED and the link
	 * closed with an internal error; the message stays, and after
	 * -E_CORRUPT is not delivered again.  data is borrowed during the
	 * call. */
	void (*done)(struct piece_read *, int err, const void *data,
		     uint32_t len);
	/* private */
	struct store_piece read;
	struct delivery *delivery;
};
/* The delivery must not be settled and the consumer not detached while a
 * read is in flight. */
void delivery_read_piece(struct delivery *, uint32_t index,
			 struct piece_read *);

/* ---- administration ---- [any] */

struct queue_info {
	uint64_t id;
	char name[RECORD_NAME_MAX + 1];
	char address[RECORD_NAME_MAX + 1];
	uint8_t routing;
	bool paused, temporary, auto_created;
	uint32_t consumers;
	uint64_t messages;   /* in the queue, delivering included */
	uint64_t delivering; /* handed out, not settled */
	uint64_t damaged;    /* found so far: there, and never delivered */
	uint64_t bytes;
	uint64_t enqueued, acknowledged, expired, dead_lettered, redelivered;
};
/* A snapshot of every queue in name order; stops at the first non-zero. */
int core_each_queue(struct core *,
		    int (*each)(void *ctx, const struct queue_info *),
		    void *ctx);
/* -E_NOT_FOUND.  name: "queue" or "address::queue". */
MUST_CHECK int core_queue_info(struct core *, const char *name,
			       struct queue_info *ret);

enum core_command_kind {
	CORE_QUEUE_CREATE, /* durable; name, address (NULL: same), routing */
	CORE_QUEUE_DELETE, /* with its messages; consumers see gone() */
	CORE_QUEUE_PURGE,  /* ret_count: messages removed */
	CORE_QUEUE_PAUSE,  /* deliver nothing until resumed; survives */
	CORE_QUEUE_RESUME,
};
struct core_command {
	enum core_command_kind kind;
	const char *name, *address;
	uint8_t routing;
	/* [a shard's thread] After the change is durable. */
	void (*done)(struct core_command *, int err);
	uint64_t ret_count;
	/* private */
	struct core *core;
	struct attach *attach;
	struct queue *queue;
	struct loop_mail mail;
	int err;
};
/* The command and its strings are borrowed until done(). */
void core_execute(struct core *, struct core_command *);

struct core_stats {
	uint64_t addresses, queues, consumers, producers;
	uint64_t messages, message_bytes, memory_bytes;
	uint64_t published, published_bytes, delivered, delivered_bytes;
	uint64_t acknowledged, redelivered, released, dead_lettered, expired;
	uint64_t rejected, unrouted;
};
void core_stats(struct core *, struct core_stats *ret);

#endif
