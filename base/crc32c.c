/* base/crc32c.c: CRC-32C by table and by processor.
 *
 * The crc32 instruction takes three cycles and can start every cycle, so
 * three independent streams keep it busy.  Their results are joined by
 * multiplying with x^(8n) mod P, where n is the number of bytes that follow:
 * one carry-less multiplication and one more crc32 instruction, which
 * reduces the product.  (V. Gopal et al., "Fast CRC Computation for iSCSI
 * Polynomial Using CRC32 Instruction", Intel 2011.) */
#include "base/crc32c.h"

#include <pthread.h>

#include "base/bytes.h"

#define POLYNOMIAL 0x82f63b78u /* bits reflected */

/* ---- by table: eight bytes a step ---- */

static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_fill(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (int bit = 0; bit < 8; bit++)
			v = (v >> 1) ^ (v & 1 ? POLYNOMIAL : 0);
		table[0][i] = v;
	}
	for (uint32_t i = 0; i < 256; i++) {
		for (int k = 1; k < 8; k++) {
			uint32_t v = table[k - 1][i];

			table[k][i] = (v >> 8) ^ table[0][v & 0xff];
		}
	}
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *p, size_t len)
{
	pthread_once(&table_once, table_fill);
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v = bytes_get64(p) ^ crc;

		crc = 0;
		for (int k = 0; k < 8; k++)
			crc ^= table[7 - k][(v >> (8 * k)) & 0xff];
	}
	for (; len; p++, len--)
		crc = (crc >> 8) ^ table[0][(crc ^ *p) & 0xff];
	return crc;
}

/* ---- by processor ---- */

#ifdef __x86_64__

#include <immintrin.h>

#define HARDWARE __attribute__((target("sse4.2,pclmul")))

/* x^(8n - 33) mod P, bits reflected: the product of two reflected 32-bit
 * values is one place off, and the reducing crc32 multiplies by x^32. */
#define SHORT_BYTES 128
#define SHIFT_128 0x0d3b6092
#define SHIFT_256 0xb9e02b86
#define LONG_BYTES 2048
#define SHIFT_2048 0xa51b6135
#define SHIFT_4096 0x82f89c77

HARDWARE static inline uint32_t crc_shift(uint32_t crc, uint32_t factor)
{
	__m128i product = _mm_clmulepi64_si128(
		_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)factor), 0);

	return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three adjacent runs of `run` bytes. */
HARDWARE static inline uint32_t crc_three(uint32_t crc, const uint8_t *p,
					  size_t run, uint32_t shift_one,
					  uint32_t shift_two)
{
	uint64_t a = crc, b = 0, c = 0;

	for (size_t i = 0; i < run; i += 8) {
		a = _mm_crc32_u64(a, bytes_get64(p + i));
		b = _mm_crc32_u64(b, bytes_get64(p + run + i));
		c = _mm_crc32_u64(c, bytes_get64(p + 2 * run + i));
	}
	return crc_shift((uint32_t)a, shift_two) ^
	       crc_shift((uint32_t)b, shift_one) ^ (uint32_t)c;
}

HARDWARE static uint32_t crc_by_processor(uint32_t crc, const uint8_t *p,
					  size_t len)
{
	uint64_t wide;

	while (len >= 3 * LONG_BYTES) {
		crc = crc_three(crc, p, LONG_BYTES, SHIFT_2048, SHIFT_4096);
		p += 3 * LONG_BYTES;
		len -= 3 * LONG_BYTES;
	}
	while (len >= 3 * SHORT_BYTES) {
		crc = crc_three(crc, p, SHORT_BYTES, SHIFT_128, SHIFT_256);
		p += 3 * SHORT_BYTES;
		len -= 3 * SHORT_BYTES;
	}
	wide = crc;
	for (; len >= 8; p += 8, len -= 8)
		wide = _mm_crc32_u64(wide, bytes_get64(p));
	crc = (uint32_t)wide;
	for (; len; p++, len--)
		crc = _mm_crc32_u8(crc, *p);
	return crc;
}

static int processor_can(void)
{
	return __builtin_cpu_supports("sse4.2") &&
	       __builtin_cpu_supports("pclmul");
}

#else

#define crc_by_processor crc_by_table

static int processor_can(void)
{
	return 0;
}

#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
	crc = ~crc;
	if (processor_can())
		return ~crc_by_processor(crc, data, len);
	return ~crc_by_table(crc, data, len);
}
