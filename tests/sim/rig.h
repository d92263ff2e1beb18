/* tests/sim/rig.h: a whole broker below the protocols, on a simulated node.
 *
 * A rig is one incarnation of holdfastd: log, store, core and their loops on
 * one sim node.  Fake producers and consumers drive the core as a protocol
 * adaptor would.  Everything runs on the calling thread.
 *
 * After rig_kill() memory of what was in flight is not given back: programs
 * that kill run each scenario in a child process. */
#ifndef TESTS_SIM_RIG_H
#define TESTS_SIM_RIG_H

#include "base/sim/sim.h"
#include "broker/core/core.h"
#include "replication/member.h"
#include "tests/sim/index_twin.h"

#define RIG_SHARDS_MAX 4

struct rig;

struct rig_options {
	unsigned disk, shard_count; /* 0: 1 shard */
	/* Take over without the lock, from an owner that may be at work. */
	bool steal;
	/* Every claim before its own has been sealed: while rig_take_over()
	 * runs, or when a member is elected. */
	void (*claimed)(void *ctx, struct rig *);
	void *ctx;
	/* Standing by it follows the leader, so often; 0: not. */
	uint64_t follow_ns;
	/* Not 0: it is a member (replication/member.h), which follows, looks,
	 * and decides when to claim. */
	uint64_t takeover_after_ns;
	uint64_t segment_bytes;	   /* 0: 1 MiB */
	uint64_t checkpoint_bytes; /* 0: 1 MiB */
	uint64_t checkpoint_ns;	   /* 0: 1 s */
	uint64_t memory_bytes;	   /* 0: the core's default */
	uint64_t expiry_scan_ns;   /* 0: the core's default */
	/* The store's, as in struct store_options. */
	uint64_t hot_bytes, hot_ns, extent_bytes, store_memory_bytes, scrub_ns;
	struct index_twin_faults index_faults;
	int64_t wall_skew_ms;
	int compress_level;
	const struct core_address_rule *rules;
	unsigned rule_count;
};

struct rig {
	struct rig_options options;
	struct sim *sim;
	struct io *io;
	struct crypto_key *key;
	struct loop *loops[RIG_SHARDS_MAX], *journal_loop, *store_loop;
	struct loop *extents_loop, *follow_loop;
	struct loop_timer follow_timer;
	bool following; /* now, on the follow loop */
	struct member *member;
	bool elected;
	struct index *index;
	struct log *log;
	struct store *store;
	struct core *core;
	unsigned shard_count;
	bool scrubs;
	uint32_t epoch;		       /* 0: nothing is claimed */
	struct log_position committed; /* what has been: its end; or zeros */
	bool moved; /* ... a record that says where messages have been moved */
	int failed; /* the log's or the store's, 0 while all is well */
	char why[512];
	/* While rig_start() ran: its node died; its index was damaged. */
	bool died, index_failed;
	/* Set by the caller: waits end as if the node were dead, and `away` is
	 * set, once the world has made so many steps; 0: never. */
	uint64_t away_at_step;
	bool away;
};

/* How few messages of a lane the stores of all rigs pack (entries.h), by the
 * seed; two of three pack nearly all.  Before the first rig. */
void rig_size_entries(uint64_t seed);
/* 0, or what opening or recovery said (rig->why explains).  A failure leaves
 * nothing to stop. */
int rig_start(struct rig *, struct sim *, const struct rig_options *);
/* The same in two steps, with the first of which it stands by: others may
 * lead.  A member must have been elected before the second.  A rig that has
 * followed, or been a member, is killed in the end, not stopped. */
int rig_stand_by(struct rig *, struct sim *, const struct rig_options *);
int rig_take_over(struct rig *);
/* Everything in flight ends, loops stop, memory goes: 0.  -EIO: it died or
 * failed on the way, and is to be killed. */
int rig_stop(struct rig *);
/* The process is gone, now. */
void rig_kill(struct rig *);
/* Run until nothing is pending in the core, or the node is dead. */
void rig_settle(struct rig *);
/* Until the clock has moved on by ns, or less when it goes away. */
void rig_run_for(struct rig *, uint64_t ns);
/* It failed, died or went away: nothing more is to be expected of it. */
bool rig_is_dead(const struct rig *);

/* ---- clients ---- */

struct rig_producer {
	struct producer producer;
	struct rig *rig;
	struct shard *shard;
	int attach_err; /* 1: no answer yet */
	char name[RECORD_NAME_MAX + 1];
	uint64_t accepted, rejected, released;
	int last_err;
	bool blocked, gone;
	/* Called for each settlement, when set. */
	void (*settled)(struct rig_producer *, uint64_t id, enum outcome, int);
	void *ctx;
};

/* Attaches and waits for the answer; the producer's memory stays the
 * caller's.  name NULL: anonymous. */
int rig_producer_open(struct rig *, struct rig_producer *, unsigned shard,
		      const char *name, uint8_t routing);
/* A message of len bytes (at least 16) that carries id; see rig_check(). */
void rig_publish(struct rig_producer *, uint64_t id, uint32_t len,
		 uint64_t expiry_ms, const char *to);
/* The same with these properties. */
void rig_publish_with(struct rig_producer *, uint64_t id, uint32_t len,
		      const struct record_props *, const char *to);
/* The same by upload, in pieces of piece_len. */
int rig_publish_large(struct rig_producer *, uint64_t id, uint64_t len,
		      uint32_t piece_len);
void rig_producer_close(struct rig_producer *);

struct rig_consumer {
	struct consumer consumer;
	struct rig *rig;
	struct shard *shard;
	int attach_err;
	char name[2 * RECORD_NAME_MAX + 4];
	/* What was delivered and is not settled, in order. */
	struct delivery **held;
	uint64_t *held_ids;
	size_t held_count, held_capacity;
	uint64_t delivered, drained, confirmed;
	bool gone, released;
	/* When set it is called for each delivery, which is then not held;
	 * it settles, now or later. */
	void (*deliver)(struct rig_consumer *, struct delivery *, uint64_t id);
	void (*confirm)(struct rig_consumer *, uint64_t id, int err);
	void *ctx;
};

int rig_consumer_open(struct rig *, struct rig_consumer *, unsigned shard,
		      const char *name, uint8_t routing);
/* Settle held delivery i and take it out of the list. */
void rig_settle_held(struct rig_consumer *, size_t i,
		     const struct settlement *);
void rig_accept(struct rig_consumer *, size_t i);
void rig_consumer_close(struct rig_consumer *, bool failed);

/* The id in a message's bytes; stops the program when they are not what
 * rig_publish() made. */
uint64_t rig_check(const uint8_t *data, uint64_t len);
void rig_fill(uint8_t *data, uint64_t len, uint64_t id);
/* Reads a large delivery to its end and checks it: the id, or 0 on error. */
uint64_t rig_read_large(struct rig_consumer *, struct delivery *);

#endif
