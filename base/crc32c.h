/* base/crc32c.h: CRC-32C (Castagnoli, RFC 3720 appendix B.4).
 * SSE4.2 with three interleaved streams where the processor has it, a table
 * otherwise.  [any] */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Start with crc 0; feed the result back to continue. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
