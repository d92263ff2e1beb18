/* tests/lab/commit_steps.c: stops a broker at one step of a commit.
 *
 * To be preloaded (LD_PRELOAD) into holdfastd.  COMMIT_STEPS names a file of
 * four 32-bit words in the machine's order, shared with whoever writes it:
 *
 *   0  the step to stop at, 0: none: 1 before a durable write, 2 after it, 3
 *      before the look at the claim, 4 after it
 *   1  how many times to pass that step first
 *   2  set to 1 here, just before the process stops itself (SIGSTOP)
 *   3  1: looks at the claim are answered without asking the storage: nobody
 *      has sealed it.  For measuring what the look costs, and for showing that
 *      without it tests fail.
 *
 * The engine "threads" writes with calls that can be seen here; with io_uring
 * only the claim's steps can. */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum step {
	STEP_NONE,
	STEP_WRITE,
	STEP_WRITTEN,
	STEP_CHECK,
	STEP_CHECKED,
};

#define CLAIM_READ_BYTES_MAX 512u
#define CLAIM_BYTES 64u /* docs/format/journal.md */

struct control {
	_Atomic unsigned step, passes, stopped, blind;
};

static struct control *control;
/* The claim that this process has made last, as it called it. */
static char own_claim[4096];

static int (*next_open)(const char *, int, ...);
static ssize_t (*next_pread)(int, void *, size_t, off_t);
static ssize_t (*next_pwritev2)(int, const struct iovec *, int, off_t, int);
static int (*next_fdatasync)(int);
static int (*next_statx)(int, const char *, int, unsigned, struct statx *);

static void *next_of(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (!found) {
		fprintf(stderr, "commit_steps: there is no %s\n", name);
		abort();
	}
	return found;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("COMMIT_STEPS");
	void *at = MAP_FAILED;
	int fd;

	next_open = next_of("open");
	next_pread = next_of("pread");
	next_pwritev2 = next_of("pwritev2");
	next_fdatasync = next_of("fdatasync");
	next_statx = next_of("statx");
	if (!path)
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		at = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
			  MAP_SHARED, fd, 0);
	if (at == MAP_FAILED) {
		perror(path);
		abort();
	}
	close(fd);
	control = at;
}

static void pass(enum step step)
{
	unsigned expected = step;

	if (!control || control->step != step)
		return;
	if (control->passes) {
		control->passes--;
		return;
	}
	/* Of several threads one stops the process. */
	if (!atomic_compare_exchange_strong(&control->step, &expected,
					    STEP_NONE))
		return;
	control->stopped = 1;
	kill(getpid(), SIGSTOP);
}

static int is_own_claim(int fd)
{
	char link[64], target[sizeof(own_claim)];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, target, sizeof(target) - 1);
	if (len <= 0)
		return 0;
	target[len] = '\0';
	return own_claim[0] && !strcmp(target, own_claim);
}

__attribute__((visibility("default"))) int open(const char *path, int flags,
						...)
{
	mode_t mode = 0;
	va_list more;

	va_start(more, flags);
	if (flags & O_CREAT)
		mode = va_arg(more, mode_t);
	va_end(more);
	if ((flags & O_EXCL) && strstr(path, "/epochs/") &&
	    strlen(path) < sizeof(own_claim))
		strcpy(own_claim, path);
	return next_open(path, flags, mode);
}

__attribute__((visibility("default"))) ssize_t
pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	ssize_t n;

	if (flags & RWF_DSYNC)
		pass(STEP_WRITE);
	n = next_pwritev2(fd, iov, count, offset, flags);
	if (flags & RWF_DSYNC)
		pass(STEP_WRITTEN);
	return n;
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
	int r;

	pass(STEP_WRITE);
	r = next_fdatasync(fd);
	pass(STEP_WRITTEN);
	return r;
}

/* How a file system that need not ask is looked at. */
__attribute__((visibility("default"))) int
statx(int fd, const char *path, int flags, unsigned mask, struct statx *st)
{
	int r;

	if (!control || !(flags & AT_EMPTY_PATH) ||
	    !(flags & AT_STATX_FORCE_SYNC) || !is_own_claim(fd))
		return next_statx(fd, path, flags, mask, st);
	if (control->blind) {
		r = next_statx(fd, path, AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
			       mask, st);
		st->stx_size = CLAIM_BYTES;
		return r;
	}
	pass(STEP_CHECK);
	r = next_statx(fd, path, flags, mask, st);
	pass(STEP_CHECKED);
	return r;
}

/* How NFS is: by reading behind the end. */
__attribute__((visibility("default"))) ssize_t pread(int fd, void *buf,
						     size_t len, off_t offset)
{
	ssize_t n;

	if (!control || len > CLAIM_READ_BYTES_MAX || !is_own_claim(fd))
		return next_pread(fd, buf, len, offset);
	if (control->blind)
		return 0;
	pass(STEP_CHECK);
	n = next_pread(fd, buf, len, offset);
	pass(STEP_CHECKED);
	return n;
}
