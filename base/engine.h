/* base/engine.h: what an implementation of the I/O seam provides.
 *
 * Private to base/: io.c and loop.c are written against this table;
 * uring.c, threads.c (sharing posix.c) and sim/ fill it in.  Nothing above
 * base includes this header. */
#ifndef BASE_ENGINE_H
#define BASE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/loop.h"

enum engine_op_kind {
	ENGINE_READ = 1,
	ENGINE_WRITE_DURABLE,
	ENGINE_WRITE,
	ENGINE_ACCEPT,
	ENGINE_CONNECT,
	ENGINE_RECV,
	ENGINE_SEND,
};

struct engine_ops {
	const char *name;
	void (*free)(struct io *);
	uint64_t (*now_ns)(struct io *);
	uint64_t (*wall_ms)(struct io *);
	void (*pause)(struct io *, uint64_t);
	void (*random)(struct io *, void *, size_t);
	/* files: the contracts are in base/io.h */
	int (*open)(struct io *, const char *, unsigned, struct io_file **);
	void (*close)(struct io_file *);
	int (*read)(struct io_file *, void *, size_t, uint64_t, size_t *);
	int (*write)(struct io_file *, const void *, size_t, uint64_t);
	int (*sync)(struct io_file *);
	int (*size)(struct io_file *, uint64_t *);
	int (*allocate)(struct io_file *, uint64_t);
	int (*truncate)(struct io_file *, uint64_t);
	int (*lock)(struct io_file *);
	int (*mkdir)(struct io *, const char *);
	int (*sync_dir)(struct io *, const char *);
	int (*rename)(struct io *, const char *, const char *);
	int (*unlink)(struct io *, const char *);
	int (*list)(struct io *, const char *, int (*)(void *, const char *),
		    void *);
	int (*fs_info)(struct io *, const char *, struct io_fs *);
	/* loops */
	int (*loop_init)(struct loop *);
	void (*loop_fini)(struct loop *);
	/* Start the OS thread (or register with the simulator's scheduler),
	 * which is to call loop_thread_main(). */
	int (*loop_start)(struct loop *);
	void (*loop_join)(struct loop *);
	/* Take an operation whose fields loop.c has filled in.  Completion
	 * goes through loop_complete() from inside wait(). */
	void (*submit)(struct loop *, struct loop_op *);
	/* A durable write, on this thread: submits what is pending, writes, and
	 * has the next wait() complete it, without blocking. */
	void (*write_now)(struct loop *, struct loop_op *);
	/* Submit what is pending, reap completions; block up to timeout_ns
	 * (0: do not block; UINT64_MAX: until something happens). */
	void (*wait)(struct loop *, uint64_t timeout_ns);
	/* Submit what is pending; true when wait() would find a completion.
	 * NULL where that cannot be seen without wait(). */
	bool (*submit_now)(struct loop *);
	/* The same, without submitting: cheap, no system call. */
	bool (*has_completions)(struct loop *);
	/* [any] End a wait() now.  Called only when the loop said that it
	 * sleeps. */
	void (*wake)(struct loop *);
	/* sockets: the contracts are in base/loop.h */
	int (*listen)(struct loop *, const char *, uint16_t,
		      struct loop_socket **);
	int (*adopt)(struct loop *, int, struct loop_socket **);
	void (*refuse)(struct loop *, int);
	int (*connect)(struct loop *, struct loop_op *, const char *, uint16_t,
		       struct loop_socket **);
	void (*socket_shutdown)(struct loop_socket *);
	void (*socket_close)(struct loop_socket *);
};

/* Each implementation embeds these first in its own structs. */
struct io {
	const struct engine_ops *ops;
};

struct io_file {
	struct io *io;
	bool direct, append;
	int fd;	     /* -1 in the simulator */
	int tail_fd; /* see posix_size(); -1: none */
};

struct loop_socket {
	struct loop *loop;
	int fd; /* -1 in the simulator */
	uint16_t port;
	bool peer_is_loopback;
	char peer[64];
};

#define LOOP_OWED_MAX 4u

struct loop {
	struct io *io;
	char name[16];
	/* owner thread */
	struct loop_task *tasks, **tasks_tail; /* run at the end */
	struct loop_timer **timers;	       /* heap, from index 1 */
	size_t timer_count, timer_capacity;
	uint64_t now_ns, wall_ms;
	uint64_t in_flight;	/* operations submitted, not completed */
	struct loop_op *writes; /* for the end of this iteration */
	bool ready; /* the next wait() completes one without blocking */
	void (*init)(void *ctx);
	void *init_ctx;
	pthread_t thread;
	bool has_thread; /* set by an implementation that made `thread` */
	/* any thread */
	_Atomic(struct loop_mail *) mailbox; /* newest first */
	_Atomic bool sleeping;		     /* a post is to call wake() */
	_Atomic bool stopping;
	_Atomic uint64_t heartbeat_ns;
	_Atomic bool waiting; /* in wait(), and not woken yet */
	_Atomic bool started; /* loop_start() or loop_run() was called */
	void *engine;	      /* the implementation's */
	/* owner thread */
	struct loop_mail *mail, **mail_tail; /* taken, oldest first */
	int task_turn; /* tasks queued now carry this value */
	/* polling before a wait */
	uint64_t poll_max_ns, poll_rest_until_ns;
	unsigned short_waits; /* in a row */
	/* posted to and still to be woken */
	struct loop *owed[LOOP_OWED_MAX];
	unsigned owed_count;
	uint64_t owed_since_ns;
};

/* loop.c, for the engines and the simulator. */
/* init, then iterate until stopped. */
void loop_thread_main(struct loop *);
/* One iteration; waits only when may_wait and nothing is left to do. */
void loop_iterate(struct loop *, bool may_wait);
/* Inside a callback: run() is called as if outside every iteration. */
void loop_step_out(void (*run)(void *ctx), void *ctx);
/* wait() calls this when it has blocked and before it completes anything:
 * reads the clocks, and tells other threads that the loop runs. */
void loop_woke(struct loop *);
/* Mail, tasks or a due timer are waiting. */
bool loop_has_work(struct loop *);
/* When the earliest timer is due; UINT64_MAX: none. */
uint64_t loop_next_timer_ns(const struct loop *);
/* Finish an operation: bookkeeping, then op->done(op, res). */
void loop_complete(struct loop_op *, int res);

/* Implementations. */
/* *ret_reason is set on failure too: why io_uring cannot be used. */
int uring_create(struct io **ret, const char **ret_reason);
int threads_create(struct io **ret);

#endif
