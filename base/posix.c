/* base/posix.c: files, directories, clocks and threads of the two real
 * engines.
 *
 * Crash argument: nothing here orders writes.  A write is durable when the
 * caller's sync, or the O_DSYNC of an append file, has returned 0; a failed
 * sync is reported and never tried again, because the kernel may have marked
 * the lost pages clean. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/posix.h"

/* ---- clocks, randomness, threads ---- */

uint64_t posix_now_ns(struct io *io)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t posix_wall_ms(struct io *io)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

void posix_pause(struct io *io, uint64_t ns)
{
	struct timespec left = {.tv_sec = (time_t)(ns / 1000000000u),
				.tv_nsec = (long)(ns % 1000000000u)};

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

void posix_random(struct io *io, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = getrandom(p, len, 0);

		/* Keys and nonces come from here: going on without
		 * randomness is not an option. */
		ASSERT(n > 0 || errno == EINTR);
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
}

int posix_thread(pthread_t *ret, const char *name, void *(*run)(void *),
		 void *arg)
{
	sigset_t block, old;
	int r;

	/* Signals for the process go to the main thread; faults stay here. */
	sigfillset(&block);
	sigdelset(&block, SIGSEGV);
	sigdelset(&block, SIGBUS);
	sigdelset(&block, SIGFPE);
	sigdelset(&block, SIGILL);
	sigdelset(&block, SIGABRT);
	sigdelset(&block, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &block, &old);
	r = pthread_create(ret, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r)
		pthread_setname_np(*ret, name);
	return -r;
}

/* ---- transfers ---- */

int posix_read_step(const struct io_file *file, size_t len, size_t *progress,
		    int64_t res)
{
	if (res == -EINTR)
		return 1;
	if (res < 0)
		return (int)res;
	*progress += (size_t)res;
	/* Going on from an unaligned place would be -EINVAL with O_DIRECT; a
	 * read ends there only at the end of the file. */
	if (!res || *progress >= len || (file->direct && *progress % IO_BLOCK))
		return 0;
	return 1;
}

int posix_write_step(const struct io_file *file, size_t len, size_t *progress,
		     int64_t res)
{
	/* No error is retried, not even -EINTR: with RWF_DSYNC it may stand
	 * for a sync that failed. */
	if (res < 0)
		return (int)res;
	*progress += (size_t)res;
	if (*progress >= len)
		return 0;
	if (!res || (file->direct && *progress % IO_BLOCK))
		return -EIO;
	return 1;
}

/* ---- files ---- */

#define NFS_MAGIC 0x00006969u

/* See posix_size(). */
static int open_tail(struct io_file *file, const char *path)
{
	struct statfs st;

	if (fstatfs(file->fd, &st))
		return -errno;
	if ((uint32_t)st.f_type != NFS_MAGIC)
		return 0;
	file->tail_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return file->tail_fd < 0 ? -errno : 0;
}

int posix_open(struct io *io, const char *path, unsigned flags,
	       struct io_file **ret)
{
	int mode = (flags & IO_WRITE) ? O_RDWR : O_RDONLY;
	struct io_file *file = calloc(1, sizeof(*file));
	int r;

	if (!file)
		return -ENOMEM;
	if (flags & IO_CREATE)
		mode |= O_CREAT;
	if (flags & IO_EXCLUSIVE)
		mode |= O_EXCL;
	if (flags & IO_APPEND)
		mode |= O_APPEND | O_DSYNC;
	file->io = io;
	file->append = flags & IO_APPEND;
	file->tail_fd = -1;
	file->fd = open(path, mode | O_CLOEXEC, 0600);
	if (file->fd < 0) {
		r = -errno;
		free(file);
		return r;
	}
	/* Set afterwards: open(O_CREAT | O_EXCL | O_DIRECT) on a file system
	 * that refuses O_DIRECT leaves the file behind, and a second try
	 * could not tell it from somebody else's. */
	if ((flags & (IO_DIRECT | IO_APPEND)) == IO_DIRECT) {
		file->direct = !fcntl(file->fd, F_SETFL, O_DIRECT);
		/* After a failed sync a page can be clean and not on the disk.
		 * It is advice: where it is not taken, nothing better is. */
		if (!file->direct)
			posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	r = (flags & IO_APPEND) ? open_tail(file, path) : 0;
	if (r) {
		posix_close(file);
		return r;
	}
	*ret = file;
	return 0;
}

void posix_close(struct io_file *file)
{
	if (file->tail_fd >= 0)
		close(file->tail_fd);
	close(file->fd);
	free(file);
}

int posix_read(struct io_file *file, void *buf, size_t len, uint64_t offset,
	       size_t *ret_len)
{
	size_t progress = 0;
	int r = len > 0;

	while (r == 1) {
		ssize_t n = pread(file->fd, (uint8_t *)buf + progress,
				  base_min(len - progress, POSIX_TRANSFER_MAX),
				  (off_t)(offset + progress));

		r = posix_read_step(file, len, &progress, n < 0 ? -errno : n);
	}
	if (r)
		return r;
	*ret_len = progress;
	return 0;
}

int posix_write(struct io_file *file, const void *buf, size_t len,
		uint64_t offset)
{
	size_t progress = 0;
	int r = len > 0;

	/* On an O_APPEND file Linux ignores pwrite's offset. */
	while (r == 1) {
		ssize_t n = pwrite(file->fd, (const uint8_t *)buf + progress,
				   base_min(len - progress, POSIX_TRANSFER_MAX),
				   (off_t)(offset + progress));

		r = posix_write_step(file, len, &progress, n < 0 ? -errno : n);
	}
	return r;
}

int posix_write_op(struct loop_op *op)
{
	bool sync = op->kind == ENGINE_WRITE_DURABLE;
	int r = 1;

	while (r == 1) {
		struct iovec iov = {
			.iov_base = (uint8_t *)op->buf + op->progress,
			.iov_len = op->len - op->progress,
		};
		ssize_t n = pwritev2(op->fd, &iov, 1,
				     (off_t)(op->offset + op->progress),
				     sync && op->file->direct ? RWF_DSYNC : 0);

		r = posix_write_step(op->file, op->len, &op->progress,
				     n < 0 ? -errno : n);
	}
	if (!r && sync && !op->file->direct && fdatasync(op->fd))
		r = -errno;
	return r ? r : (int)op->len;
}

int posix_sync(struct io_file *file)
{
	return fsync(file->fd) ? -errno : 0;
}

/* The end of an append file as an NFS server has it.  A forced GETATTR is not
 * enough: while the client holds a delegation of the file it leaves the size
 * out of what it asks for, and answers with its own.  A delegation that the
 * server has revoked, because a recall was not answered in time, is held until
 * the client hears of it.  Reading with O_DIRECT goes to the server in any
 * case, also beyond what the client takes for the end, and these files only
 * grow: what can be read there is the rest of the file. */
static int tail_size(const struct io_file *file, uint64_t *size)
{
	char some[512];
	ssize_t n;

	do {
		n = pread(file->tail_fd, some, sizeof(some), (off_t)*size);
		if (n < 0 && errno != EINTR)
			return -errno;
		*size += n > 0 ? (uint64_t)n : 0;
	} while (n);
	return 0;
}

int posix_size(struct io_file *file, uint64_t *ret_bytes)
{
	int sync = file->tail_fd < 0 ? AT_STATX_FORCE_SYNC : AT_STATX_DONT_SYNC;
	struct statx st;
	uint64_t size;
	int r = 0;

	if (statx(file->fd, "", AT_EMPTY_PATH | sync, STATX_SIZE | STATX_NLINK,
		  &st))
		return -errno;
	/* Somebody has removed it: whoever opens the name now has another, and
	 * what is appended there will never be seen here. */
	if (file->append && !st.stx_nlink)
		return -ESTALE;
	size = st.stx_size;
	if (file->tail_fd >= 0)
		r = tail_size(file, &size);
	if (!r)
		*ret_bytes = size;
	return r;
}

int posix_truncate(struct io_file *file, uint64_t bytes)
{
	int r;

	do
		r = ftruncate(file->fd, (off_t)bytes) ? -errno : 0;
	while (r == -EINTR);
	return r;
}

int posix_allocate(struct io_file *file, uint64_t bytes)
{
	uint64_t size;
	int r;

	do
		r = fallocate(file->fd, 0, 0, (off_t)bytes) ? -errno : 0;
	while (r == -EINTR);
	if (r != -EOPNOTSUPP && r != -ENOSYS)
		return r;
	/* fallocate never shrinks a file, so this must not either. */
	r = posix_size(file, &size);
	if (r || size >= bytes)
		return r;
	return posix_truncate(file, bytes);
}

int posix_lock(struct io_file *file)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(file->fd, F_OFD_SETLK, &lock))
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

/* ---- directories ---- */

int posix_mkdir(struct io *io, const char *path)
{
	struct stat st;

	if (!mkdir(path, 0700))
		return 0;
	if (errno != EEXIST)
		return -errno;
	if (stat(path, &st))
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int posix_sync_dir(struct io *io, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = fsync(fd) ? -errno : 0;
	close(fd);
	return r;
}

int posix_rename(struct io *io, const char *from, const char *to)
{
	return rename(from, to) ? -errno : 0;
}

int posix_unlink(struct io *io, const char *path)
{
	return unlink(path) ? -errno : 0;
}

struct names {
	char **names;
	size_t count, capacity;
};

static void names_fini(struct names *n)
{
	for (size_t i = 0; i < n->count; i++)
		free(n->names[i]);
	free(n->names);
}

static int names_add(struct names *n, const char *name)
{
	if (n->count == n->capacity) {
		size_t capacity = n->capacity ? n->capacity * 2 : 64;
		char **grown = realloc(n->names, capacity * sizeof(char *));

		if (!grown)
			return -ENOMEM;
		n->names = grown;
		n->capacity = capacity;
	}
	n->names[n->count] = strdup(name);
	return n->names[n->count++] ? 0 : -ENOMEM;
}

/* Make the kernel ask the storage whether the directory has changed.  An NFS
 * client serves a listing from its cache, and names that were looked for and
 * not found, for as long as it holds the directory's attributes true (up to a
 * minute), and a broker that takes over has to see the newest claim and the
 * newest segment.  A forced GETATTR brings the change attribute; when that
 * differs, the cached listing and every cached name in it are void.  (Opening
 * a directory asks as well, but not with nocto, and not when the path ends at
 * the mount's top.)  The mask must name something that can be stale: for the
 * type alone nobody is asked. */
static int names_revalidate(DIR *dir)
{
	struct statx st;

	return statx(dirfd(dir), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC,
		     STATX_MTIME | STATX_SIZE, &st)
		       ? -errno
		       : 0;
}

static int names_read(struct names *n, const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	r = names_revalidate(dir);
	while (!r) {
		errno = 0;
		entry = readdir(dir);
		if (!entry) {
			r = -errno;
			break;
		}
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			r = names_add(n, entry->d_name);
	}
	closedir(dir);
	return r;
}

static int names_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Read in full first, so that each() may unlink. */
int posix_list(struct io *io, const char *path,
	       int (*each)(void *, const char *), void *ctx)
{
	struct names n = {0};
	int r = names_read(&n, path);

	if (!r && n.count)
		qsort(n.names, n.count, sizeof(char *), names_compare);
	for (size_t i = 0; !r && i < n.count; i++)
		r = each(ctx, n.names[i]);
	names_fini(&n);
	return r;
}

/* statfs(2) and linux/magic.h.  Network: another machine may hold the file
 * too, or mmap and locks are not those of a local disk. */
static const struct {
	uint32_t magic;
	int network;
	const char *name;
} file_systems[] = {
	{0x0000ef53, 0, "ext4"},     {0x58465342, 0, "xfs"},
	{0x9123683e, 0, "btrfs"},    {0x01021994, 0, "tmpfs"},
	{0x858458f6, 0, "ramfs"},    {0x794c7630, 0, "overlay"},
	{0x2fc12fc1, 0, "zfs"},	     {0xf2f52010, 0, "f2fs"},
	{0xca451a4e, 0, "bcachefs"}, {0x00006969, 1, "nfs"},
	{0xff534d42, 1, "cifs"},     {0xfe534d42, 1, "smb2"},
	{0x0000517b, 1, "smb"},	     {0x65735546, 1, "fuse"},
	{0x01021997, 1, "9p"},	     {0x00c36400, 1, "ceph"},
	{0x5346414f, 1, "afs"},	     {0x6b414653, 1, "kafs"},
	{0x0bd00bd0, 1, "lustre"},   {0x19830326, 1, "beegfs"},
	{0x01161970, 1, "gfs2"},     {0x7461636f, 1, "ocfs2"},
	{0x47504653, 1, "gpfs"},     {0x786f4256, 1, "vboxsf"},
};

int posix_fs_info(struct io *io, const char *path, struct io_fs *ret)
{
	struct statfs st;
	struct io_fs fs = {0};
	uint64_t unit;
	uint32_t magic;

	if (statfs(path, &st))
		return -errno;
	magic = (uint32_t)st.f_type;
	unit = (uint64_t)(st.f_frsize ? st.f_frsize : st.f_bsize);
	fs.bytes_total = (uint64_t)st.f_blocks * unit;
	fs.bytes_free = (uint64_t)st.f_bavail * unit;
	if (st.f_blocks > st.f_bfree)
		fs.bytes_used = (uint64_t)(st.f_blocks - st.f_bfree) * unit;
	snprintf(fs.name, sizeof(fs.name), "0x%x", magic);
	for (size_t i = 0; i < ARRAY_COUNT(file_systems); i++) {
		if (file_systems[i].magic != magic)
			continue;
		fs.network = file_systems[i].network;
		snprintf(fs.name, sizeof(fs.name), "%s", file_systems[i].name);
	}
	*ret = fs;
	return 0;
}
