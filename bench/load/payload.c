/* bench/load/payload.c: see payload.h. */
#include "bench/load/payload.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/crc32c.h"

#define POOL_BYTES (4u << 20) /* a power of two */
#define CRC_AT 12u

static const char magic_plain[4] = {'H', 'F', 'L', '0'};
static const char magic_checked[4] = {'H', 'F', 'L', '1'};

struct payload_pool {
	size_t len; /* of a body */
	uint8_t bytes[];
};

int payload_pool_create(size_t len, struct payload_pool **ret)
{
	size_t all = POOL_BYTES + len + 8;
	struct payload_pool *pool = malloc(sizeof(*pool) + all);
	uint64_t x = 88172645463325252u;

	ASSERT(len >= PAYLOAD_BYTES_MIN);
	if (!pool)
		return -ENOMEM;
	pool->len = len;
	for (size_t at = 0; at + 8 <= all; at += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		bytes_put64(pool->bytes + at, x);
	}
	*ret = pool;
	return 0;
}

void payload_pool_free(struct payload_pool *pool)
{
	free(pool);
}

void payload_make(const struct payload_pool *pool,
		  const struct payload_fields *f, bool checksum,
		  struct payload *ret)
{
	/* A prime step: neighbours share nothing, and the places take long to
	 * come round. */
	uint64_t at = f->stream * 1299709ull + f->number * 104729ull;
	uint32_t crc;

	memcpy(ret->head, checksum ? magic_checked : magic_plain, 4);
	bytes_put32(ret->head + 4, f->run);
	bytes_put32(ret->head + 8, f->stream);
	bytes_put32(ret->head + CRC_AT, 0);
	bytes_put64(ret->head + 16, f->number);
	bytes_put64(ret->head + 24, f->intended_ns);
	ret->filler = pool->bytes + (at & (POOL_BYTES - 1));
	ret->len = pool->len;
	if (!checksum)
		return;
	crc = crc32c(0, ret->head, PAYLOAD_BYTES_MIN);
	crc = crc32c(crc, ret->filler, ret->len - PAYLOAD_BYTES_MIN);
	bytes_put32(ret->head + CRC_AT, crc);
}

void payload_copy(const struct payload *p, size_t at, size_t len, uint8_t *to)
{
	ASSERT(at <= p->len && len <= p->len - at);
	if (at < PAYLOAD_BYTES_MIN) {
		size_t n = base_min(PAYLOAD_BYTES_MIN - at, len);

		memcpy(to, p->head + at, n);
		to += n;
		at += n;
		len -= n;
	}
	if (len)
		memcpy(to, p->filler + (at - PAYLOAD_BYTES_MIN), len);
}

static bool checksum_fits(const uint8_t *body, size_t len)
{
	uint8_t head[PAYLOAD_BYTES_MIN];
	uint32_t crc;

	memcpy(head, body, sizeof(head));
	bytes_put32(head + CRC_AT, 0);
	crc = crc32c(0, head, sizeof(head));
	crc = crc32c(crc, body + sizeof(head), len - sizeof(head));
	return crc == bytes_get32(body + CRC_AT);
}

enum payload_verdict payload_read(const uint8_t *body, size_t len, bool check,
				  struct payload_fields *ret)
{
	bool checked;

	if (len < PAYLOAD_BYTES_MIN)
		return PAYLOAD_FOREIGN;
	checked = !memcmp(body, magic_checked, 4);
	if (!checked && memcmp(body, magic_plain, 4) != 0)
		return PAYLOAD_FOREIGN;
	if (checked && check && !checksum_fits(body, len))
		return PAYLOAD_CORRUPT;
	ret->run = bytes_get32(body + 4);
	ret->stream = bytes_get32(body + 8);
	ret->number = bytes_get64(body + 16);
	ret->intended_ns = bytes_get64(body + 24);
	return PAYLOAD_GOOD;
}
