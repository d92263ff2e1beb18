/* base/posix.h: what the two real engines share.
 *
 * Private to base/: uring.c and threads.c fill their tables with these, and
 * differ in how they submit and wait.  The contracts are in base/io.h and
 * base/loop.h; here is only what an engine must know beside them. */
#ifndef BASE_POSIX_H
#define BASE_POSIX_H

#include <sys/socket.h>

#include "base/engine.h"
#include "base/list.h"

/* The blocking half of struct engine_ops, for both tables.  The including
 * table goes on after it. */
#define POSIX_FILE_OPS                                                         \
	.now_ns = posix_now_ns, .wall_ms = posix_wall_ms,                      \
	.pause = posix_pause, .random = posix_random, .open = posix_open,      \
	.close = posix_close, .read = posix_read, .write = posix_write,        \
	.sync = posix_sync, .size = posix_size, .allocate = posix_allocate,    \
	.truncate = posix_truncate, .lock = posix_lock, .mkdir = posix_mkdir,  \
	.sync_dir = posix_sync_dir, .rename = posix_rename,                    \
	.unlink = posix_unlink, .list = posix_list, .fs_info = posix_fs_info

uint64_t posix_now_ns(struct io *);
uint64_t posix_wall_ms(struct io *);
void posix_pause(struct io *, uint64_t);
void posix_random(struct io *, void *, size_t);
int posix_open(struct io *, const char *, unsigned, struct io_file **);
void posix_close(struct io_file *);
int posix_read(struct io_file *, void *, size_t, uint64_t, size_t *);
int posix_write(struct io_file *, const void *, size_t, uint64_t);
int posix_sync(struct io_file *);
int posix_size(struct io_file *, uint64_t *);
int posix_allocate(struct io_file *, uint64_t);
int posix_truncate(struct io_file *, uint64_t);
int posix_lock(struct io_file *);
int posix_mkdir(struct io *, const char *);
int posix_sync_dir(struct io *, const char *);
int posix_rename(struct io *, const char *, const char *);
int posix_unlink(struct io *, const char *);
int posix_list(struct io *, const char *, int (*)(void *, const char *),
	       void *);
int posix_fs_info(struct io *, const char *, struct io_fs *);

/* The next piece of a transfer: at most this many bytes in one call. */
#define POSIX_TRANSFER_MAX ((size_t)1 << 30)

/* What one read or write call means for a transfer.  res: the call's result,
 * negative for -errno; *progress is brought forward.  Returns 1 when the
 * transfer goes on, 0 when it is complete, or a negative code. */
int posix_read_step(const struct io_file *, size_t len, size_t *progress,
		    int64_t res);
int posix_write_step(const struct io_file *, size_t len, size_t *progress,
		     int64_t res);
/* A whole ENGINE_WRITE or ENGINE_WRITE_DURABLE, blocking; what done() is to be
 * told.  A durable write is one pwritev2 with RWF_DSYNC on an O_DIRECT file,
 * otherwise pwrite to the end and then fdatasync. */
int posix_write_op(struct loop_op *);

/* ---- threads (posix.c) ---- */

/* Make an OS thread with signals left to the main thread. */
MUST_CHECK int posix_thread(pthread_t *ret, const char *name,
			    void *(*run)(void *), void *arg);

/* ---- sockets and loops (posix_net.c) ---- */

/* First in what loop->engine points to. */
struct posix_loop {
	struct list sockets;		     /* struct posix_socket.node */
	struct loop_op *ready, **ready_tail; /* to complete, res is set */
	int socket_flags;		     /* SOCK_NONBLOCK or 0 */
	/* Wait for or cancel everything in flight, without callbacks.  On the
	 * loop's thread before it ends, and again when the loop is freed. */
	void (*quiesce)(struct loop *);
};

struct posix_socket {
	struct loop_socket base;
	struct list node;
	bool shut;
	/* while connecting */
	struct loop_op *connecting;
	struct addrinfo *addresses, *address; /* all, and the one tried */
	struct posix_resolve *resolve;	      /* until the name is resolved */
	/* threads.c: what waits for readiness */
	bool watched;
	struct loop_op *in, *out;
};

void posix_net_loop_init(struct loop *, struct posix_loop *, int socket_flags,
			 void (*quiesce)(struct loop *));
/* Quiesces, then closes and orphans the sockets. */
void posix_net_loop_fini(struct loop *);
/* The sockets' half of quiesce(): ends them, and forgets what is ready and
 * which names are being resolved.  What the kernel holds ends soon. */
void posix_net_quiesce(struct loop *);
int posix_net_loop_start(struct loop *);
void posix_net_loop_join(struct loop *);
/* Complete op from inside the next wait(), with res. */
void posix_net_ready(struct loop_op *, int res);
bool posix_net_has_ready(const struct loop *);
/* Complete what was ready when this was called. */
void posix_net_run_ready(struct loop *);

int posix_net_listen(struct loop *, const char *, uint16_t,
		     struct loop_socket **);
int posix_net_adopt(struct loop *, int, struct loop_socket **);
void posix_net_refuse(struct loop *, int);
/* Makes the socket, resolves a host name on a thread of its own, then calls
 * the table's submit() with op->fd set and posix_net_address(). */
int posix_net_connect(struct loop *, struct loop_op *, const char *, uint16_t,
		      struct loop_socket **);
const struct sockaddr *posix_net_address(const struct loop_op *,
					 socklen_t *ret_len);
/* The attempt ended with res: try the next address, or complete op.  From
 * inside wait(). */
void posix_net_connected(struct loop_op *, int res);
void posix_net_shutdown(struct loop_socket *);
void posix_net_close(struct loop_socket *);

static inline struct posix_loop *posix_loop(const struct loop *l)
{
	return l->engine;
}

static inline struct posix_socket *posix_socket(struct loop_socket *s)
{
	return container_of(s, struct posix_socket, base);
}

#endif
