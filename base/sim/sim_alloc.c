/* base/sim/sim_alloc.c: memory that fails when a test says so.
 *
 * The linker's --wrap sends the program's own calls here; those inside shared
 * libraries are not seen.  The simulator's allocations pass uncounted: a
 * broken simulator would prove nothing.  The real functions are weak, so that
 * a program linked without --wrap links all the same. */
#include <string.h>

#include "base/sim/world.h"

void *__real_malloc(size_t) __attribute__((weak));
void *__real_calloc(size_t, size_t) __attribute__((weak));
void *__real_realloc(void *, size_t) __attribute__((weak));
void *__real_aligned_alloc(size_t, size_t) __attribute__((weak));
int __real_posix_memalign(void **, size_t, size_t) __attribute__((weak));
char *__real_strdup(const char *) __attribute__((weak));
char *__real_strndup(const char *, size_t) __attribute__((weak));

void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
void *__wrap_aligned_alloc(size_t, size_t);
int __wrap_posix_memalign(void **, size_t, size_t);
char *__wrap_strdup(const char *);
char *__wrap_strndup(const char *, size_t);

static _Thread_local uint64_t alloc_count, alloc_fail_at;
/* Volatile: a compiler knows that calloc() looks at no variable of ours. */
static _Thread_local volatile unsigned alloc_exempt;

int sim_alloc_fail_at(uint64_t k)
{
	if (!__real_malloc)
		return -ENOTSUP;
	alloc_count = 0;
	alloc_fail_at = k;
	return 0;
}

uint64_t sim_alloc_count(void)
{
	return alloc_count;
}

static bool fails(void)
{
	if (alloc_exempt)
		return false;
	if (++alloc_count != alloc_fail_at)
		return false;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t bytes)
{
	return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *p, size_t bytes)
{
	return fails() ? NULL : __real_realloc(p, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fails() ? NULL : __real_aligned_alloc(align, bytes);
}

int __wrap_posix_memalign(void **ret, size_t align, size_t bytes)
{
	return fails() ? ENOMEM : __real_posix_memalign(ret, align, bytes);
}

char *__wrap_strdup(const char *s)
{
	return fails() ? NULL : __real_strdup(s);
}

char *__wrap_strndup(const char *s, size_t len)
{
	return fails() ? NULL : __real_strndup(s, len);
}

void *sim_alloc_zeroed(size_t bytes)
{
	void *p;

	alloc_exempt = alloc_exempt + 1;
	p = calloc(1, bytes ? bytes : 1);
	alloc_exempt = alloc_exempt - 1;
	ASSERT(p);
	return p;
}

void *sim_alloc_resize(void *old, size_t bytes)
{
	void *p;

	alloc_exempt = alloc_exempt + 1;
	p = realloc(old, bytes);
	alloc_exempt = alloc_exempt - 1;
	ASSERT(p);
	return p;
}

char *sim_alloc_text(const char *text, size_t len)
{
	char *copy = sim_alloc_zeroed(len + 1);

	memcpy(copy, text, len);
	return copy;
}

void sim_alloc_free(void *p)
{
	free(p);
}
