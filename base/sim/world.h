/* base/sim/world.h: the simulator's own structures.
 *
 * Private to base/sim/.  sim.c: world, random numbers, trace, scheduler.
 * sim_node.c: life of nodes and loops.  sim_inode.c: contents of one file.
 * sim_dir.c: names.  sim_disk.c: faults and power cuts.  sim_file.c: file
 * calls and operations.  sim_net.c: sockets. */
#ifndef BASE_SIM_WORLD_H
#define BASE_SIM_WORLD_H

#include "base/engine.h"
#include "base/list.h"
#include "base/sim/sim.h"

#define SIM_SECTOR_BYTES 512u
#define SIM_PAGE_BYTES 4096u
#define SIM_PAGE_SECTORS (SIM_PAGE_BYTES / SIM_SECTOR_BYTES)
#define SIM_DISKS_MAX 16u
#define SIM_INTERLEAVE_DEPTH_MAX 3u

/* ---- memory (sim_alloc.c): never fails, never counted ---- */

void *sim_alloc_zeroed(size_t bytes);
void *sim_alloc_resize(void *, size_t bytes);
char *sim_alloc_text(const char *text, size_t len);
void sim_alloc_free(void *);

/* ---- world (sim.c) ---- */

struct sim_rng {
	uint64_t s[4]; /* xoshiro256** */
};

/* Something that happens at a time.  Equal times: in a drawn order. */
struct sim_event {
	void (*fire)(struct sim_event *);
	uint64_t due_ns;
	uint64_t order;
	size_t index; /* in the heap, from 1; 0: not scheduled */
};

struct sim {
	struct sim_config config;
	/* Streams are apart so that one more fault draw does not change what
	 * the workload does. */
	struct sim_rng schedule, fault, app;
	uint64_t now_ns, steps, trace_hash, serial;
	FILE *print;
	struct sim_event **heap; /* from index 1 */
	size_t heap_count, heap_capacity;
	struct list loops; /* started and not finished */
	struct list nodes;
	struct sim_disk *disks[SIM_DISKS_MAX];
	struct list listeners, op_pool;
	uint16_t next_port;
	unsigned depth; /* of interleaved steps */
};

uint64_t sim_rng_next(struct sim_rng *);
uint64_t sim_rng_below(struct sim_rng *, uint64_t n);
/* At least lo, at most hi. */
uint64_t sim_rng_between(struct sim_rng *, uint64_t lo, uint64_t hi);
bool sim_rng_chance(struct sim_rng *, uint32_t ppm);
void sim_rng_fill(struct sim_rng *, void *, size_t);
uint64_t sim_hash_bytes(const void *, size_t);
void sim_trace_event(struct sim *, const char *what, uint64_t who, uint64_t a,
		     uint64_t b, uint64_t c);
void sim_schedule(struct sim *, struct sim_event *, uint64_t after_ns);
void sim_unschedule(struct sim *, struct sim_event *);
/* Fire what is due now; runs no callbacks of loops. */
void sim_fire_due(struct sim *);
__attribute__((noreturn)) void sim_stuck(struct sim *, const char *who);

/* ---- nodes and loops (sim_node.c) ---- */

struct sim_node {
	struct io io;
	struct sim *sim;
	struct sim_disk *disk;
	uint64_t id;
	char name[16];
	bool dead, paused, stalled, net_cut;
	int64_t wall_skew_ms;
	struct list link;
	struct list loops, files, sockets;
	struct list held; /* operations that wait for sim_resume() */
};

struct sim_loop {
	struct loop *loop;
	struct sim_node *node;
	uint64_t id;
	bool started, initialised, running;
	struct list link;      /* sim.loops */
	struct list node_link; /* node.loops */
	struct list ops;       /* in flight */
	struct list ready;     /* to be completed */
};

/* A write on its way to the disk. */
struct sim_write {
	struct list link; /* disk.writes */
	struct sim_inode *inode;
	const uint8_t *data;
	size_t len;
	uint64_t offset;
	bool durable, append;
};

struct sim_op {
	struct sim_event event;
	struct list link; /* loop.ops, loop.ready, node.held or the pool */
	struct loop_op *op;
	struct sim_loop *loop;
	struct sim_write write; /* write.inode: also for reads */
	uint64_t data_hash;
	struct sim_socket *socket;
	int res;
	bool held;
	bool firing; /* sim_op_about() is under way, and gives it back */
};

struct sim_op *sim_op_start(struct loop *, struct loop_op *,
			    void (*fire)(struct sim_event *));
/* To the ready list of its loop. */
void sim_op_finish(struct sim_op *, int res);
/* Forget it without its callback. */
void sim_op_free(struct sim_op *);
/* A disk operation is about to take effect.  False: it is gone with its node.
 */
bool sim_op_about(struct sim_op *);
/* True when its node is stalled: it is kept and will fire again. */
bool sim_op_hold(struct sim_op *);
void sim_node_disk_latency(struct sim_node *, struct sim_event *);
/* Start of every blocking call: time passes.  -EIO when the node is dead. */
int sim_node_block(struct sim_node *);
/* Dead, with a power cut or a kill; the disk is told by the caller. */
void sim_node_die(struct sim_node *, bool cut);
int sim_node_loop_init(struct loop *);
void sim_node_loop_fini(struct loop *);
int sim_node_loop_start(struct loop *);
void sim_node_loop_join(struct loop *);
void sim_node_loop_wait(struct loop *, uint64_t timeout_ns);
void sim_node_loop_wake(struct loop *);
bool sim_node_loop_runnable(struct sim_loop *);
void sim_node_loop_iterate(struct sim_loop *);
void sim_node_free(struct io *);

/* ---- contents (sim_inode.c) ---- */

struct sim_page {
	struct list link; /* inode.dirty_pages while old is set */
	uint8_t *old;	  /* what is durable, while that may differ */
	uint64_t index;
	uint8_t dirty; /* bit a sector: not durable yet */
	uint8_t lost;  /* bit a sector: clean, but not durable: a failed sync */
	uint8_t bad;   /* bit a sector: reading it fails */
	uint8_t now[SIM_PAGE_BYTES];
};

struct sim_entry {
	char *name;
	struct sim_inode *inode; /* counted */
};

struct sim_table {
	struct sim_entry *entries; /* by name */
	size_t count, capacity;
};

struct sim_inode {
	struct sim_disk *disk;
	struct list link; /* disk.inodes */
	uint64_t id, refs;
	bool is_dir, syncing;
	uint64_t size, size_durable, charged;
	struct sim_page **pages; /* NULL: zeros */
	uint64_t page_count;
	struct list dirty_pages;
	struct sim_lock *lock;
	struct sim_table names, names_durable;
};

struct sim_inode *sim_inode_create(struct sim_disk *, bool is_dir);
void sim_inode_hold(struct sim_inode *);
void sim_inode_release(struct sim_inode *);
/* -ENOSPC when the disk cannot take that size, -EDQUOT when the quota
 * forbids it. */
int sim_inode_room(const struct sim_inode *, uint64_t size);
void sim_inode_resize(struct sim_inode *, uint64_t size);
size_t sim_inode_read(struct sim_inode *, void *, size_t, uint64_t offset);
uint64_t sim_inode_write_sectors(const struct sim_write *);
/* Sectors [first, first + count) of the write. */
void sim_inode_apply(const struct sim_write *, uint64_t first, uint64_t count,
		     bool durable);
void sim_inode_sync(struct sim_inode *);
/* A sync that fails: some of it is durable, all of it is clean. */
void sim_inode_sync_fail(struct sim_inode *);
/* What only a cache has after a failed sync is read no more. */
void sim_inode_uncache(struct sim_inode *);
void sim_inode_flip(struct sim_inode *, uint64_t offset, unsigned bit);
void sim_inode_spoil(struct sim_inode *, uint64_t offset);
/* A spoilt sector is among these bytes. */
bool sim_inode_is_bad(const struct sim_inode *, size_t len, uint64_t offset);
/* Those that are not zeros. */
uint64_t sim_inode_pages(const struct sim_inode *);
/* Offset of a byte other than zero, by lot; false when there is none. */
bool sim_inode_any(const struct sim_inode *, uint64_t *ret_offset);
/* Power cut: a write in flight; then the whole file. */
void sim_inode_cut_write(const struct sim_write *);
void sim_inode_cut(struct sim_inode *);

/* ---- names (sim_dir.c) ---- */

/* A change of names that is not durable: from goes, to comes. */
struct sim_change {
	struct list link; /* disk.changes, oldest first */
	struct sim_inode *inode, *from, *to;
	char *from_name, *to_name;
};

#define SIM_NAME_BYTES 256u

/* Follows all of path but its last name. */
int sim_dir_parent(struct sim_disk *, const char *path,
		   struct sim_inode **ret_dir, char ret_name[SIM_NAME_BYTES]);
/* Borrowed. */
int sim_dir_lookup(struct sim_disk *, const char *path, struct sim_inode **ret);
struct sim_inode *sim_dir_find(const struct sim_table *, const char *name);
/* Takes a hold of its own on inode. */
void sim_dir_link(struct sim_inode *dir, const char *name,
		  struct sim_inode *inode);
void sim_dir_unlink(struct sim_inode *dir, const char *name);
void sim_dir_rename(struct sim_inode *from, const char *from_name,
		    struct sim_inode *to, const char *to_name);
/* What is pending about this directory or this file becomes durable. */
void sim_dir_sync(struct sim_inode *);
void sim_dir_table_clear(struct sim_table *);
void sim_dir_cut(struct sim_disk *);
/* The world ends. */
void sim_dir_drop_changes(struct sim_disk *);

/* ---- disks (sim_disk.c) ---- */

struct sim_disk {
	struct sim *sim;
	unsigned number;
	struct sim_inode *root;
	struct list inodes, writes, changes, locks;
	struct list orphans; /* writes of the dead that may still land */
	uint64_t mutations, reads, bytes_max;
	uint64_t quota_bytes; /* 0: none */
	uint64_t fault_at[SIM_FAULT_END];
	void (*watch)(void *ctx);
	void (*watch_calls)(void *ctx, struct sim_node *);
	void *watch_ctx, *watch_calls_ctx;
	struct sim_disk_stats stats;
};

/* An OFD lock; file is NULL when its process is dead and it lingers. */
struct sim_lock {
	struct sim_event event;
	struct list link;
	struct sim_inode *inode; /* counted */
	struct sim_file *file;
};

enum sim_verdict {
	SIM_GO = 1,
	SIM_DEAD, /* the node died of it, with everything in flight */
	SIM_EIO,
	SIM_ENOSPC,
	SIM_LOST,
	SIM_MISDIRECT,
	SIM_STRAY,
};

enum sim_mutation { SIM_WRITES, SIM_SYNCS, SIM_NAMES };

void sim_disk_free(struct sim_disk *);
/* A call or an operation of the node is about to take effect. */
void sim_disk_about(struct sim_node *);
/* Count one mutation of the node and say what becomes of it. */
enum sim_verdict sim_disk_mutate(struct sim_node *, enum sim_mutation);
/* Count one read; 0 or -EIO.  *ret_flip: one bit is to be wrong. */
int sim_disk_read(struct sim_node *, bool *ret_flip);
/* Carry a write out: 0, -EIO, -ENOSPC; SIM_DEAD's answer is -EIO with
 * *ret_dead set, and then the write is gone. */
int sim_disk_write(struct sim_node *, struct sim_write *, bool *ret_dead);
/* Its process or its loop is gone: the write happens, partly or not at all,
 * and for a dead process perhaps later. */
void sim_disk_abandon(struct sim_node *, struct sim_write *);
/* Show a part of the writes in flight to a reader. */
void sim_disk_expose(struct sim_inode *);
void sim_disk_lock_drop(struct sim_lock *);
/* Its process is dead. */
void sim_disk_lock_linger(struct sim_lock *);

/* ---- files (sim_file.c) ---- */

struct sim_file {
	struct io_file file;
	struct sim_node *node;
	struct list link; /* node.files */
	struct sim_inode *inode;
	struct sim_lock *lock;
	unsigned flags;
};

int sim_file_open(struct io *, const char *, unsigned, struct io_file **);
void sim_file_close(struct io_file *);
int sim_file_read(struct io_file *, void *, size_t, uint64_t, size_t *);
int sim_file_write(struct io_file *, const void *, size_t, uint64_t);
int sim_file_sync(struct io_file *);
int sim_file_size(struct io_file *, uint64_t *);
int sim_file_allocate(struct io_file *, uint64_t);
int sim_file_truncate(struct io_file *, uint64_t);
int sim_file_lock(struct io_file *);
int sim_file_mkdir(struct io *, const char *);
int sim_file_sync_dir(struct io *, const char *);
int sim_file_rename(struct io *, const char *, const char *);
int sim_file_unlink(struct io *, const char *);
int sim_file_list(struct io *, const char *, int (*)(void *, const char *),
		  void *);
int sim_file_fs_info(struct io *, const char *, struct io_fs *);
/* ENGINE_READ, ENGINE_WRITE, ENGINE_WRITE_DURABLE. */
void sim_file_submit(struct loop *, struct loop_op *);

/* ---- sockets (sim_net.c) ---- */

struct sim_pipe {
	uint8_t *data; /* ring of config.socket_bytes, made when needed */
	size_t head, len;
};

struct sim_socket {
	struct loop_socket socket;
	struct sim_node *node;
	struct list link; /* node.sockets */
	uint64_t id;
	char address[64];
	/* a listener */
	bool listening;
	struct list listener_link; /* sim.listeners */
	struct list backlog;	   /* connected, not accepted */
	unsigned backlog_count;
	/* a stream */
	struct list backlog_link;
	int token; /* accepted, not adopted */
	struct sim_socket *peer;
	struct sim_pipe in;
	bool connected, shut, peer_shut, reset;
	struct sim_op *recv, *send, *accept, *connect;
};

int sim_net_listen(struct loop *, const char *, uint16_t,
		   struct loop_socket **);
int sim_net_adopt(struct loop *, int, struct loop_socket **);
void sim_net_refuse(struct loop *, int);
int sim_net_connect(struct loop *, struct loop_op *, const char *, uint16_t,
		    struct loop_socket **);
void sim_net_shutdown(struct loop_socket *);
void sim_net_close(struct loop_socket *);
/* ENGINE_ACCEPT, ENGINE_RECV, ENGINE_SEND. */
void sim_net_submit(struct loop *, struct loop_op *);
/* The operation is being forgotten. */
void sim_net_forget(struct sim_op *);
/* Its loop goes: leave only what loop_socket_close() will free(). */
void sim_net_orphan(struct sim_socket *);
/* The node is dead: its peers find out. */
void sim_net_die(struct sim_node *);

#endif
