/* base/sim/sim.h: a deterministic world behind the I/O seam.
 *
 * A *world* (struct sim) has a virtual clock, disks, a network and nodes.  A
 * *node* is one incarnation of one process: its struct io reaches one disk
 * and the network, and every loop made on it is run by the world, all on the
 * calling OS thread, one iteration at a time, in an order that the seed
 * decides.  Equal seed and equal calls give the same trace, bit by bit.
 *
 * Time moves when nothing can run, by the latency of a blocking call, and by
 * up to step_ns_max for each iteration of a loop, so that a loop that polls
 * by deferring tasks sees time pass.
 *
 * The disk.  Files are sectors of 512 bytes.  What a process reads back at
 * once is not what a power cut leaves:
 *
 *   write                each sector is kept or lost, independently
 *   durable write, sync, kept, once it has returned or completed
 *     append
 *   in flight at the cut each sector is old, new or (garbage_ppm) garbage or
 *                        half new, in any order across operations
 *   size                 old or new, until a sync or a durable write
 *   create, rename,      kept or lost as one, until io_sync_dir(); io_sync()
 *     unlink, mkdir      of the file may do too (sync_entry_ppm)
 *   overwritten before   an intermediate value may be the one that is kept
 *     a sync
 *   truncated            old sectors may come back one by one when the new
 *                        size is lost; harsher than real file systems
 *
 * A killed process leaves all of its completed calls; each operation in
 * flight happens, happens for a prefix of its sectors, or does not, at once
 * or up to linger_ns_max later, and its locks last as long.
 * A failed sync leaves each dirty sector durable or marked clean without
 * being durable: a second sync does not help, and only opening the file with
 * IO_DIRECT (see base/io.h) shows what the disk has.
 * Reads see any part of writes in flight, and go on seeing it.
 *
 * Loops of a dead node run no more.  The iteration during which the node died
 * goes to its end, with every I/O call failing with -EIO and every new
 * operation vanishing; completions that were waiting are dropped.  After that
 * the harness frees the incarnation's objects: loop_free(), io_close(),
 * loop_socket_close() and io_free() work as always and touch the disk no
 * more.
 *
 * Everything here belongs to the one thread that made the world. */
#ifndef BASE_SIM_SIM_H
#define BASE_SIM_SIM_H

#include <stdbool.h>

#include "base/loop.h"

struct sim;
struct sim_disk;
struct sim_node;

/* Probabilities are parts per million. */
#define SIM_ALWAYS 1000000u

struct sim_config {
	uint64_t seed;
	/* time */
	uint64_t wall_start_ms;
	uint64_t step_ns_max; /* cost of one iteration */
	uint64_t disk_ns_min, disk_ns_max;
	uint64_t slow_ns_max; /* latency of a slow disk operation */
	uint32_t slow_ppm;
	uint64_t net_ns_min, net_ns_max;
	uint64_t linger_ns_max; /* what a kill may leave behind, for so long */
	/* Of blocking calls: while it waits, the other loops run.  Only for
	 * code that holds no mutex across I/O: there is one OS thread. */
	uint32_t interleave_ppm;
	/* disks */
	uint64_t disk_bytes; /* 0: 1 TiB */
	bool no_direct;	     /* IO_DIRECT is refused: io_file_direct() is 0 */
	bool network_fs;     /* what io_fs_info() says */
	uint32_t keep_ppm;   /* a sector, size or entry survives a power cut */
	uint32_t garbage_ppm;
	uint32_t sync_entry_ppm;
	uint32_t write_eio_ppm, sync_eio_ppm, read_eio_ppm;
	/* Lies: acknowledged and dropped; written elsewhere in the same file,
	 * or into another; a bit of the file flips after a write. */
	uint32_t lost_ppm, misdirect_ppm, stray_ppm, flip_ppm;
	/* network */
	uint32_t partial_ppm;  /* a transfer is cut short */
	uint32_t socket_bytes; /* receive buffer; 0: 64 KiB */
};

/* A healthy world: latencies vary, power cuts tear, nothing else fails. */
struct sim_config sim_config_calm(uint64_t seed);
/* Its parameters are drawn from the seed: slow disks, lingering kills, small
 * socket buffers, biased tearing.  No I/O errors and no lies, which the
 * caller adds when its oracle knows of them. */
struct sim_config sim_config_rough(uint64_t seed);

/* ---- world ---- */

/* Never fails: without memory for itself the simulator aborts, and injected
 * allocation failures do not reach it. */
struct sim *sim_create(const struct sim_config *);
/* Every node must have been freed.  NULL-safe. */
void sim_free(struct sim *);
uint64_t sim_seed(const struct sim *);
uint64_t sim_now_ns(const struct sim *);
/* Numbers for the workload, from a stream of their own. */
uint64_t sim_random(struct sim *);
uint64_t sim_below(struct sim *, uint64_t n); /* 0 when n is 0 */
bool sim_chance(struct sim *, uint32_t ppm);

/* Running hash of everything that happened: operations with their data,
 * results and times, iterations, deaths. */
uint64_t sim_trace_hash(const struct sim *);
/* Mix an event of the workload into the trace. */
void sim_trace_note(struct sim *, const char *what, uint64_t a, uint64_t b);
/* Also print every event, one a line; NULL: no more.  Borrowed. */
void sim_trace_print(struct sim *, FILE *);

/* ---- running ---- */

/* One iteration of one loop, or one move of the clock.  False: nothing can
 * happen any more by itself. */
bool sim_step(struct sim *);
/* Until done(ctx) is true: 0; -EDEADLK when nothing can happen any more;
 * -ETIMEDOUT after steps_max steps.  done may be NULL: then only the others. */
MUST_CHECK int sim_run_until(struct sim *, bool (*done)(void *ctx), void *ctx,
			     uint64_t steps_max);
/* Until the clock has moved on by ns. */
void sim_run_for(struct sim *, uint64_t ns);
uint64_t sim_steps(const struct sim *);

/* loop_run() and loop_join() work too, by running the rest of the world
 * while they wait; a wait that nothing can end (the join of a paused node's
 * loop, say) stops the program.  A real sleep is only real: code that retries
 * calls io_pause(), which takes virtual time. */

/* ---- nodes ---- */

/* The node's io; io_free() frees the node, whose loops must have been freed.
 * Files and sockets left open are closed.  disk is a number: equal numbers
 * share a disk, which is made, empty, when it is first named. */
struct io *sim_node_create(struct sim *, const char *name, unsigned disk);
struct sim_node *sim_node(struct io *);
/* SIGKILL now. */
void sim_kill(struct sim_node *);
bool sim_is_dead(const struct sim_node *);
/* SIGSTOP: its loops do not run; its operations in flight go on.  With
 * stall_io (a paused machine, a cut NFS mount) they, too, wait until
 * sim_resume(), and then happen. */
void sim_pause(struct sim_node *, bool stall_io);
void sim_resume(struct sim_node *);
/* The server has expired its locks; the node does not know. */
void sim_drop_locks(struct sim_node *);
/* No bytes from or to its sockets on other nodes, nor news of their end,
 * until healed.  What waits is tried again every 10 ms, so the world is not
 * idle meanwhile. */
void sim_net_cut(struct sim_node *, bool cut);
/* Move its wall clock. */
void sim_wall_step(struct sim_node *, int64_t ms);
/* Open now; for tests of leaks. */
unsigned sim_open_files(const struct sim_node *);
unsigned sim_open_sockets(const struct sim_node *);

/* ---- disks and faults ---- */

struct sim_disk *sim_disk(struct sim *, unsigned disk);
/* Every node on the disk dies, and what was not durable is decided. */
void sim_disk_cut(struct sim_disk *);

/* Mutations are counted when they reach the disk: a blocking call that
 * creates, writes, resizes, renames, unlinks or syncs; an asynchronous write
 * when it would complete.  Reads: io_read(), io_size() and loop_read(). */
uint64_t sim_disk_mutations(const struct sim_disk *);
/* before() is called before each mutation is counted, and may set a fault for
 * it; NULL: no more. */
void sim_disk_watch(struct sim_disk *, void (*before)(void *ctx), void *ctx);
/* about() is called when a node's blocking call or operation, of any kind but
 * closing a file, is about to take effect on the disk.  Nothing of it has been
 * decided yet, so about() may run the world: what it does comes first.  The
 * caller stands still meanwhile, but its node's other loops do only when it is
 * paused.  about() may pause or kill the node or cut the disk; the call fails
 * then, or waits, as it would at any other time.  NULL: no more. */
void sim_disk_watch_calls(struct sim_disk *,
			  void (*about)(void *ctx, struct sim_node *),
			  void *ctx);
uint64_t sim_disk_reads(const struct sim_disk *);

enum sim_fault {
	SIM_FAULT_CUT = 1,   /* power is cut with mutation k in flight */
	SIM_FAULT_KILL,	     /* its process is killed with it in flight */
	SIM_FAULT_EIO,	     /* it fails, half done */
	SIM_FAULT_ENOSPC,    /* it fails, not done; syncs cannot */
	SIM_FAULT_LOST,	     /* a write is acknowledged and dropped */
	SIM_FAULT_MISDIRECT, /* a write goes elsewhere in its file */
	SIM_FAULT_STRAY,     /* a write goes into another file */
	SIM_FAULT_ROT,	     /* with it, one bit of what is stored anywhere
				flips for good */
	SIM_FAULT_BAD,	     /* with it, one sector stored anywhere cannot be
				read any more until it is written again */
	SIM_FAULT_SLOW,	     /* what is begun next takes slow_ns_max */
	SIM_FAULT_READ_EIO,  /* read k fails, once */
	SIM_FAULT_READ_FLIP, /* read k returns one wrong bit, once */
	SIM_FAULT_END,
};
/* Do it at the k-th mutation (or read) of this disk, counted from its
 * beginning, once; 0: never.  One setting for each fault. */
void sim_disk_fault_at(struct sim_disk *, enum sim_fault, uint64_t k);

/* Flip one bit of what is stored.  -ENOENT, -EINVAL beyond the end. */
MUST_CHECK int sim_disk_flip(struct sim_disk *, const char *path,
			     uint64_t offset, unsigned bit);
/* Reading the sector that holds offset fails with -EIO until it is written.
 * As above. */
MUST_CHECK int sim_disk_spoil(struct sim_disk *, const char *path,
			      uint64_t offset);
/* Flip a bit, or spoil a sector, on any page that is not zeros, by lot.
 * False: there is none. */
bool sim_disk_rot(struct sim_disk *, bool spoil);
/* From now on the disk has room for so many bytes; what is there stays. */
void sim_disk_resize(struct sim_disk *, uint64_t bytes);
/* From now on no more than so many bytes may be used, and the numbers of the
 * file system do not tell (-EDQUOT); 0: no quota. */
void sim_disk_quota(struct sim_disk *, uint64_t bytes);
/* What has been done to the disk, by setting or by probability; an oracle
 * asks this before it calls a loss a bug. */
struct sim_disk_stats {
	uint64_t cuts, write_errors, sync_errors, read_errors;
	uint64_t lost, misdirected, flips, bad_sectors, slow;
	uint64_t sectors_torn; /* garbage or half new */
	uint64_t bytes_used;
};
void sim_disk_stats(const struct sim_disk *, struct sim_disk_stats *ret);

/* ---- allocation failures ---- */

/* The k-th allocation from now on the calling thread returns NULL, once;
 * 0: none.  -ENOTSUP unless the program was linked with
 *   -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc
 *   -Wl,--wrap=posix_memalign,--wrap=strdup,--wrap=strndup
 * Allocations inside shared libraries and of the simulator do not count. */
MUST_CHECK int sim_alloc_fail_at(uint64_t k);
/* Allocations counted since sim_alloc_fail_at(); for a sweep's end. */
uint64_t sim_alloc_count(void);

#endif
