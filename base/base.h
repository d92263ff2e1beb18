/* base/base.h: the few macros that every file uses.
 * Nothing here has state; any thread may use all of it. */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))

#define ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline uint64_t base_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t base_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Round n up to a multiple of unit, a power of two. */
static inline uint64_t base_round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) & ~(unit - 1);
}

/* In a loop that waits for another thread to write something. */
static inline void base_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Give what malloc() keeps for later back to the kernel, where it can.  Takes
 * milliseconds: for when nothing else is to be done. */
void base_memory_trim(void);
/* Let the calling thread's heap grow by BASE_AHEAD_BYTES at once, where there
 * is less in it.  By itself malloc() grows the heap of every thread but the
 * first by single pages, with a system call for each. */
#define BASE_AHEAD_BYTES (96u * 1024u)
void base_memory_ahead(void);

/* Our own mistakes stop the process, in release builds too.  Bytes from a
 * disk, a peer or an operator are checked and answered with an error, never
 * asserted. */
#define ASSERT(cond)                                                           \
	do {                                                                   \
		if (__builtin_expect(!(cond), 0))                              \
			base_assert_failed(#cond, __FILE__, __LINE__);         \
	} while (0)

__attribute__((noreturn)) void base_assert_failed(const char *cond,
						  const char *file, int line);

#endif
