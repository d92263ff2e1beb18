/* base/io.h: everything outside the process, behind one interface.
 *
 * Disk, clock and randomness are reached only through a struct io; sockets,
 * timers, threads and asynchronous disk work only through a struct loop
 * (base/loop.h) that belongs to one.  There are three implementations:
 *
 *   io_uring  what production runs where the kernel allows it;
 *   threads   pread/pwrite/fdatasync on a small pool, epoll for sockets, for
 *             containers whose seccomp profile refuses io_uring;
 *   sim       base/sim/sim.h: a deterministic twin with seeded faults.
 *
 * The code above this line cannot tell which one it runs on.
 *
 * The calls in this header block.  They are for start-up, recovery, segment
 * rotation and tools, never for a shard's hot path.  All are [any] thread; one
 * struct io_file is used by one thread at a time unless a call says
 * otherwise.  Errors: 0 or a negative code (base/err.h). */
#ifndef BASE_IO_H
#define BASE_IO_H

#include "base/base.h"
#include "base/err.h"

struct io;
struct io_file;

enum io_engine {
	IO_ENGINE_AUTO,	 /* io_uring where it works, else threads */
	IO_ENGINE_URING, /* fail when it does not work */
	IO_ENGINE_THREADS,
};

/* O_DIRECT buffers, lengths and offsets are multiples of this. */
#define IO_BLOCK 4096u

/* Makes the world.  *ret_reason (static or owned by the io) is one English
 * sentence that says which engine was chosen and why, naming the cause when
 * io_uring was refused (seccomp, sysctl io_uring_disabled, memlock, kernel).
 * It is set on failure too. */
MUST_CHECK int io_create(enum io_engine want, struct io **ret,
			 const char **ret_reason);
void io_free(struct io *);
/* "io_uring", "threads" or "sim". */
const char *io_engine_name(const struct io *);

/* Nanoseconds on a clock that never steps back; for timers and latency. */
uint64_t io_now_ns(struct io *);
/* Milliseconds since 1970 UTC; may step; for message expiry and logs. */
uint64_t io_wall_ms(struct io *);
/* Do nothing for ns, blocking: for retries at start-up. */
void io_pause(struct io *, uint64_t ns);
/* Cryptographic randomness in production, seeded in the simulator. */
void io_random(struct io *, void *buf, size_t len);

enum io_open_flag {
	IO_READ = 0,
	IO_WRITE = 1,	  /* read and write */
	IO_CREATE = 2,	  /* mode 0600 */
	IO_EXCLUSIVE = 4, /* with IO_CREATE: -EEXIST when it is there */
	IO_DIRECT = 8,	  /* O_DIRECT where the file system takes it,
			     otherwise silently buffered, without what a
			     cache holds and calls clean: see
			     io_file_direct() */
	IO_APPEND = 16,
};

MUST_CHECK int io_open(struct io *, const char *path, unsigned flags,
		       struct io_file **ret);
/* NULL-safe.  No asynchronous operation may be in flight on the file. */
void io_close(struct io_file *);
int io_file_direct(const struct io_file *);

/* Read up to len bytes at offset.  *ret_len is short only at end of file.
 * [any number of threads at once] */
MUST_CHECK int io_read(struct io_file *, void *buf, size_t len, uint64_t offset,
		       size_t *ret_len);
/* Write all len bytes at offset (at the end with IO_APPEND), or fail.
 * Not durable until io_sync(), except that IO_APPEND files are O_DSYNC: when
 * this returns 0 on such a file the bytes are durable. */
MUST_CHECK int io_write(struct io_file *, const void *buf, size_t len,
			uint64_t offset);
/* fsync.  A failure is never retried: see invariant 3 in docs/ARCHITECTURE.md.
 */
MUST_CHECK int io_sync(struct io_file *);
/* The size as the storage (for NFS: the server) has it now, never a cached
 * one.  On NFS only an IO_APPEND file's is certain: another's may come from
 * this node while it holds a delegation of the file.  -ESTALE: an
 * IO_APPEND file that has been deleted.
 * [any number of threads at once] */
MUST_CHECK int io_size(struct io_file *, uint64_t *ret_bytes);
/* Reserve blocks and set the size; contents read as zeros.  Falls back to
 * ftruncate where fallocate is not supported. */
MUST_CHECK int io_allocate(struct io_file *, uint64_t bytes);
MUST_CHECK int io_truncate(struct io_file *, uint64_t bytes);
/* Exclusive OFD lock on the whole file; -EAGAIN when someone holds it.  Held
 * until io_close().  After a SIGKILL a ring can keep its files' locks alive
 * for tens of milliseconds: callers retry for a second before calling a lock
 * held. */
MUST_CHECK int io_lock(struct io_file *);

/* 0 also when the directory exists. */
MUST_CHECK int io_mkdir(struct io *, const char *path);
/* fsync of a directory: makes creations, renames and unlinks in it durable. */
MUST_CHECK int io_sync_dir(struct io *, const char *path);
MUST_CHECK int io_rename(struct io *, const char *from, const char *to);
MUST_CHECK int io_unlink(struct io *, const char *path);
/* Calls each() for every entry but "." and "..", in byte order of the names;
 * stops at its first non-zero return and returns that.  Every name that was
 * there before the call, and was not removed during it, is among them: on NFS
 * the server is asked, never a cache. */
MUST_CHECK int io_list(struct io *, const char *path,
		       int (*each)(void *ctx, const char *name), void *ctx);

struct io_fs {
	uint64_t bytes_total;
	uint64_t bytes_free; /* for us: f_bavail */
	uint64_t bytes_used; /* by anybody; df: used / (used + free) */
	int network;	     /* NFS, SMB, FUSE, 9p and the like */
	char name[16];	     /* "ext4", "nfs", "tmpfs", or "0x..." */
};
MUST_CHECK int io_fs_info(struct io *, const char *path, struct io_fs *ret);

/* Aligned to IO_BLOCK, zeroed; NULL when there is no memory. */
void *io_buffer_alloc(size_t bytes);
void io_buffer_free(void *);

#endif
