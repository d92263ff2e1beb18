/* base/base.c: what a failed assertion leaves behind, and what malloc() keeps.
 */
#include "base/base.h"

#include <execinfo.h>
#include <malloc.h>
#include <unistd.h>

#include "base/logger.h"

/* The process state is not to be trusted any more: nothing here allocates or
 * takes a lock of ours.  The addresses are for addr2line when the symbols
 * are missing. */
void base_assert_failed(const char *cond, const char *file, int line)
{
	void *frames[64];
	int count;

	logger_error("base", "assertion-failed",
		     "condition=%s file=%s line=%d pid=%d", LOGGER_QUOTE(cond),
		     file, line, (int)getpid());
	count = backtrace(frames, (int)ARRAY_COUNT(frames));
	backtrace_symbols_fd(frames, count, STDERR_FILENO);
	abort();
}

void base_memory_trim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/* Less than what malloc() would rather map by itself.  What is freed at the
 * heap's end stays in the heap, up to as much again. */
void base_memory_ahead(void)
{
#ifdef __GLIBC__
	void *p = malloc(BASE_AHEAD_BYTES);

	/* Or the compiler leaves both out. */
	__asm__ volatile("" : : "r"(p) : "memory");
	free(p);
#endif
}
