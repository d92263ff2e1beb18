/* tests/unit/test_crc32c.c: both implementations against the standard and
 * against each other.  They are private, so the source is included. */
#include "tests/unit/test.h"

/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "base/crc32c.c"

static const struct vector {
	uint8_t first;
	int step;
	uint32_t crc;
} rfc3720[] = {
	{0x00, 0, 0x8a9136aa},
	{0xff, 0, 0x62a8ab43},
	{0x00, 1, 0x46dd794e},
	{0x1f, -1, 0x113fdb5c},
};

/* Bit by bit, straight from the definition. */
static uint32_t crc_by_definition(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	for (; len; len--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
	}
	return ~crc;
}

static void fill(uint8_t *buf, size_t len)
{
	uint64_t v = 0x9e3779b97f4a7c15;

	for (size_t i = 0; i < len; i++) {
		v = v * 6364136223846793005u + 1442695040888963407u;
		buf[i] = (uint8_t)(v >> 56);
	}
}

TEST("the examples of RFC 3720 B.4 come out")
{
	uint8_t buf[32];

	for (size_t i = 0; i < ARRAY_COUNT(rfc3720); i++) {
		for (int k = 0; k < 32; k++)
			buf[k] = (uint8_t)(rfc3720[i].first +
					   rfc3720[i].step * k);
		assert_int_equal(crc32c(0, buf, 32), rfc3720[i].crc);
		assert_int_equal(~crc_by_table(~0u, buf, 32), rfc3720[i].crc);
	}
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(0, NULL, 0), 0);
}

TEST("every length and alignment agrees with the definition")
{
	static uint8_t buf[1300];

	fill(buf, sizeof(buf));
	for (size_t len = 0; len < 1200; len++) {
		size_t offset = len % 9;
		uint32_t expected = crc_by_definition(buf + offset, len);

		assert_int_equal(crc32c(0, buf + offset, len), expected);
		assert_int_equal(~crc_by_table(~0u, buf + offset, len),
				 expected);
	}
}

TEST("long runs agree with the definition")
{
	static const size_t lengths[] = {6143,	6144,  6145,  6528,
					 12287, 12288, 65536, 300007};
	static uint8_t buf[300016];

	fill(buf, sizeof(buf));
	for (size_t i = 0; i < ARRAY_COUNT(lengths); i++) {
		uint32_t expected = crc_by_definition(buf + 3, lengths[i]);

		assert_int_equal(crc32c(0, buf + 3, lengths[i]), expected);
		assert_int_equal(~crc_by_table(~0u, buf + 3, lengths[i]),
				 expected);
	}
}

TEST("the processor's implementation is the one used where it exists")
{
#ifdef __x86_64__
	uint8_t buf[8192];

	if (!processor_can())
		return;
	fill(buf, sizeof(buf));
	assert_int_equal(~crc_by_processor(~0u, buf, sizeof(buf)),
			 crc_by_definition(buf, sizeof(buf)));
#endif
}

TEST("a checksum can be continued at any byte")
{
	static uint8_t buf[20000];
	uint32_t whole;

	fill(buf, sizeof(buf));
	whole = crc32c(0, buf, sizeof(buf));
	for (size_t cut = 0; cut <= sizeof(buf); cut += 37) {
		uint32_t crc = crc32c(0, buf, cut);

		crc = crc32c(crc, buf + cut, sizeof(buf) - cut);
		assert_int_equal(crc, whole);
	}
}

TEST("every single flipped bit changes the checksum")
{
	uint8_t buf[512];
	uint32_t whole;

	fill(buf, sizeof(buf));
	whole = crc32c(0, buf, sizeof(buf));
	for (size_t bit = 0; bit < 8 * sizeof(buf); bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_not_equal(crc32c(0, buf, sizeof(buf)), whole);
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

TEST_MAIN()
