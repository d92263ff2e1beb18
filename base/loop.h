/* base/loop.h: one thread's event loop.
 *
 * A thread of Holdfast is a loop with a name: it owns sockets, timers,
 * operations in flight and a mailbox, and everything it does is a callback
 * from loop_run().  In production each loop has its own OS thread; in the
 * simulator all loops run on one, in an order that the seed decides.
 *
 * All calls belong to the loop's own thread unless marked [any].  Callbacks
 * never run from inside the call that starts an operation.
 *
 * One iteration: wait, completions, mail, timers, then deferred tasks. */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <sys/uio.h>

#include "base/io.h"

struct loop;
struct loop_socket;

/* ---- life ---- */

MUST_CHECK int loop_create(struct io *, const char *name, struct loop **ret);
/* The loop must not be running, and no thread may still be posting to it.
 * Operations still in flight are waited for or cancelled, without their
 * callbacks.  Sockets that are still open end here, and loop_socket_close()
 * may and must still be called on them.  A loop that ran by loop_run() is
 * freed on the thread that ran it.  NULL-safe. */
void loop_free(struct loop *);
/* Start the loop's thread, once.  init(ctx) runs first, on that thread; it may
 * be NULL.  What is still in flight when the thread ends is given up as by
 * loop_free(). */
MUST_CHECK int loop_start(struct loop *, void (*init)(void *ctx), void *ctx);
/* [any] Ask the thread to leave loop_run() after this iteration. */
void loop_stop(struct loop *);
/* [any other thread] Wait until the thread has ended. */
void loop_join(struct loop *);
/* Run on the calling thread until loop_stop(). */
void loop_run(struct loop *);
struct io *loop_io(struct loop *);
/* Before the loop starts: before it blocks it is to look for work again and
 * again, for at most `ns` (0, the default: never).  What a loop waits for often
 * comes within microseconds, and being woken costs more than that.  It does so
 * only while that pays: when the last waits were short, and when nobody else
 * wanted the processor meanwhile.  An idle loop blocks.  The engine may not
 * be able to look, and then this does nothing. */
void loop_set_poll(struct loop *, uint64_t ns);
const char *loop_name(const struct loop *);
/* True on the loop's thread (and always when it has no thread yet). */
int loop_is_current(const struct loop *);
/* Monotonic nanoseconds, read once per iteration. */
uint64_t loop_now_ns(struct loop *);
/* Wall-clock milliseconds, read once per iteration. */
uint64_t loop_wall_ms(struct loop *);
/* [any] Monotonic ns at the start of the current or last iteration, and
 * whether the loop is waiting; for /health/live. */
uint64_t loop_heartbeat_ns(const struct loop *, int *ret_waiting);

/* ---- deferred work ---- */

struct loop_task {
	void (*run)(struct loop_task *);
	struct loop_task *next; /* private */
	int queued;		/* private; zero-initialised */
};
/* Run once, at the end of this iteration, after all callbacks; queueing it
 * again meanwhile is a no-op.  A task queued by a task runs in the next
 * iteration, which then does not wait. */
void loop_defer(struct loop *, struct loop_task *);
/* Forget a queued task, so that its memory may go. */
void loop_undefer(struct loop *, struct loop_task *);

/* ---- mail: hand-off between threads ---- */

/* Embedded in the object that travels; the sender gives up the object until
 * the receiver's callback.  Mail between one sender and one receiver arrives
 * in order.  The mailbox allocates nothing: what bounds it is that every mail
 * sits in an object that its module counts against a limit. */
struct loop_mail {
	struct loop_mail *next;
	void (*deliver)(struct loop_mail *);
};
/* [any] */
void loop_post(struct loop *to, struct loop_mail *);
/* [any] A chain first→…→last linked by next, with one wake-up. */
void loop_post_chain(struct loop *to, struct loop_mail *first,
		     struct loop_mail *last);
/* The same as loop_post(), but a receiver that sleeps is woken about ten
 * milliseconds later: for what nobody waits for, so that the system call is off
 * the way of those who do wait, and one is enough for many.  From outside of a
 * loop's thread: loop_post(). */
void loop_post_patiently(struct loop *to, struct loop_mail *);

/* ---- timers ---- */

struct loop_timer {
	void (*fire)(struct loop_timer *);
	uint64_t due_ns;   /* private */
	size_t heap_index; /* private; 0 = not armed; zero-initialise */
};
/* Arm, or re-arm, to fire once. */
void loop_timer_set(struct loop *, struct loop_timer *, uint64_t after_ns);
void loop_timer_cancel(struct loop *, struct loop_timer *);

/* ---- operations ---- */

/* Embedded by the caller.  From the call until done() the kernel owns the op
 * and its buffer; neither may be freed, moved or reused. */
struct loop_op {
	/* res: bytes, or a descriptor, or a negative code. */
	void (*done)(struct loop_op *, int res);
	/* private to the engine */
	struct loop *loop;
	int kind;
	int fd;
	union {
		struct io_file *file;
		struct loop_socket *socket;
	};
	union {
		void *buf;
		const struct iovec *iov;
	};
	size_t len; /* bytes, or iovec count */
	uint64_t offset;
	struct loop_op *next;
	int res;
	int flags;
	size_t progress; /* bytes done of a partial transfer */
};

/* Disk.  Read is complete unless at end of file.  Write is durable (data and
 * the metadata needed to read it back) when res == len; res is then exactly
 * len, and anything else is an error code: a short write that cannot be
 * completed is -EIO.  With O_DIRECT files buf, len and offset are multiples
 * of IO_BLOCK. */
void loop_read(struct loop *, struct loop_op *, struct io_file *, void *buf,
	       size_t len, uint64_t offset);
void loop_write_durable(struct loop *, struct loop_op *, struct io_file *,
			const void *buf, size_t len, uint64_t offset);
/* The same for a small one that the caller has nothing to do but to wait for:
 * its thread waits in the kernel, at the end of this iteration (outside of one:
 * at once), and done() follows without a wait in the next one.  That saves the
 * wake-ups between the disk's interrupt, a worker of the kernel and the loop;
 * meanwhile the loop does nothing else, so it is for devices that answer in a
 * fraction of a millisecond.  What the loop has started before is on its way.
 */
void loop_write_durable_now(struct loop *, struct loop_op *, struct io_file *,
			    const void *buf, size_t len, uint64_t offset);
/* Plain write, not durable by itself; for zeroing ahead. */
void loop_write(struct loop *, struct loop_op *, struct io_file *,
		const void *buf, size_t len, uint64_t offset);

/* Sockets.  A socket belongs to the loop that it was made or adopted on.
 * At most one receive and one send are in flight on each. */
MUST_CHECK int loop_listen(struct loop *, const char *address, uint16_t port,
			   struct loop_socket **ret);
/* The port actually bound, for port 0. */
uint16_t loop_socket_port(const struct loop_socket *);
/* "127.0.0.1:5672" of the peer; storage of the socket. */
const char *loop_socket_peer(const struct loop_socket *);
/* True when the peer's address is 127.0.0.0/8 or ::1. */
int loop_socket_peer_is_loopback(const struct loop_socket *);
/* done(res): res >= 0 is a token for loop_adopt() on any loop. */
void loop_accept(struct loop *, struct loop_op *, struct loop_socket *listener);
/* Takes the token, also on failure.  TCP_NODELAY is set. */
MUST_CHECK int loop_adopt(struct loop *, int token, struct loop_socket **ret);
/* Give back an accepted token that is not wanted. */
void loop_refuse(struct loop *, int token);
/* done(0) when connected; the socket is made at once and is closed by the
 * caller in every case.  address is numeric or a host name. */
MUST_CHECK int loop_connect(struct loop *, struct loop_op *,
			    const char *address, uint16_t port,
			    struct loop_socket **ret);
/* res: bytes received, 0 at end of stream. */
void loop_recv(struct loop *, struct loop_op *, struct loop_socket *, void *buf,
	       size_t len);
/* res: bytes sent, possibly fewer than asked. */
void loop_send(struct loop *, struct loop_op *, struct loop_socket *,
	       const void *buf, size_t len);
/* Make what is in flight on it complete soon (with 0 or an error). */
void loop_socket_shutdown(struct loop_socket *);
/* Nothing may be in flight.  NULL-safe. */
void loop_socket_close(struct loop_socket *);

#endif
