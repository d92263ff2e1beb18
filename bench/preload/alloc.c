/* bench/preload/alloc.c: counts a program's allocations.
 *
 * Preloaded by bench/run.py.  The count is 8 bytes in the file that
 * ALLOC_COUNT names, shared, so that it can be read while the program runs.
 * glibc calls these names for strdup() and the like too. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static _Atomic uint64_t before, *count = &before;

__attribute__((constructor)) static void open_count(void)
{
	const char *path = getenv("ALLOC_COUNT");
	int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	void *map;

	if (fd < 0 || ftruncate(fd, 8))
		return;
	map = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map != MAP_FAILED)
		count = map;
}

static void add(void)
{
	atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
}

void *malloc(size_t bytes)
{
	add();
	return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
	add();
	return __libc_calloc(n, bytes);
}

void *realloc(void *old, size_t bytes)
{
	add();
	return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	add();
	return __libc_memalign(alignment, bytes);
}
