/* tests/unit/test_compress.c: packing, and what damage does to unpacking. */
#include "tests/unit/test.h"

#include "base/compress.h"

static struct compress *create(void)
{
	struct compress *c;

	assert_int_equal(compress_create(3, &c), 0);
	return c;
}

static void fill_text(uint8_t *buf, size_t len)
{
	static const char words[] = "order=4711 status=shipped ";

	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)words[(i + i / 977) % (sizeof(words) - 1)];
}

static void fill_noise(uint8_t *buf, size_t len)
{
	uint64_t v = 1;

	for (size_t i = 0; i < len; i++) {
		v = v * 6364136223846793005u + 1442695040888963407u;
		buf[i] = (uint8_t)(v >> 56);
	}
}

TEST("what was packed unpacks to the same bytes, with one context for all")
{
	static const size_t lengths[] = {1, 100, 4096, 65536, 1000000};
	struct compress *c = create();
	uint8_t *in = test_malloc(1000000), *out = test_malloc(1000000);
	uint8_t *packed = test_malloc(1000100);
	size_t packed_len;

	fill_text(in, 1000000);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < ARRAY_COUNT(lengths); i++) {
			assert_int_equal(compress_pack(c, in, lengths[i],
						       packed, 1000100,
						       &packed_len),
					 0);
			assert_int_equal(compress_unpack(c, packed, packed_len,
							 out, lengths[i]),
					 0);
			assert_memory_equal(in, out, lengths[i]);
		}
	}
	assert_true(packed_len < 100000);
	test_free(packed);
	test_free(out);
	test_free(in);
	compress_free(c);
}

TEST("an empty input packs and unpacks")
{
	struct compress *c = create();
	uint8_t packed[64];
	size_t len;

	assert_int_equal(compress_pack(c, "", 0, packed, sizeof(packed), &len),
			 0);
	assert_int_equal(compress_unpack(c, packed, len, packed, 0), 0);
	compress_free(c);
}

TEST("noise that would not become smaller is refused, output length untouched")
{
	struct compress *c = create();
	uint8_t in[4096], out[4096];
	size_t len = 12345;

	fill_noise(in, sizeof(in));
	assert_int_equal(
		compress_pack(c, in, sizeof(in), out, sizeof(out), &len),
		-ENOSPC);
	assert_int_equal(compress_pack(c, in, sizeof(in), out, 0, &len),
			 -ENOSPC);
	assert_int_equal(len, 12345);
	compress_free(c);
}

TEST("a result that fills the room given is refused, a little more is enough")
{
	struct compress *c = create();
	uint8_t in[4096], out[4096];
	size_t len, again;

	fill_text(in, sizeof(in));
	assert_int_equal(
		compress_pack(c, in, sizeof(in), out, sizeof(out), &len), 0);
	assert_int_equal(compress_pack(c, in, sizeof(in), out, len, &again),
			 -ENOSPC);
	/* zstd works with a few bytes of slack at its end. */
	assert_int_equal(
		compress_pack(c, in, sizeof(in), out, len + 32, &again), 0);
	assert_int_equal(again, len);
	compress_free(c);
}

TEST("an expanded size other than the expected one is damage")
{
	struct compress *c = create();
	uint8_t in[4096], packed[4096], out[4097];
	size_t len;

	fill_text(in, sizeof(in));
	assert_int_equal(
		compress_pack(c, in, sizeof(in), packed, sizeof(packed), &len),
		0);
	assert_int_equal(compress_unpack(c, packed, len, out, 4095),
			 -E_CORRUPT);
	assert_int_equal(compress_unpack(c, packed, len, out, 4097),
			 -E_CORRUPT);
	for (size_t cut = 0; cut < len; cut++)
		assert_int_equal(compress_unpack(c, packed, cut, out, 4096),
				 -E_CORRUPT);
	compress_free(c);
}

TEST("garbage is damage, and the context still works afterwards")
{
	struct compress *c = create();
	uint8_t in[512], packed[600], out[512];
	size_t len;

	fill_noise(packed, sizeof(packed));
	assert_int_equal(
		compress_unpack(c, packed, sizeof(packed), out, sizeof(out)),
		-E_CORRUPT);
	fill_text(in, sizeof(in));
	assert_int_equal(
		compress_pack(c, in, sizeof(in), packed, sizeof(packed), &len),
		0);
	assert_int_equal(compress_unpack(c, packed, len, out, sizeof(out)), 0);
	assert_memory_equal(in, out, sizeof(in));
	compress_free(c);
}

TEST("a level that zstd does not have is refused")
{
	struct compress *c = NULL;

	assert_int_equal(compress_create(1000, &c), -EINVAL);
	assert_null(c);
	compress_free(NULL);
}

TEST_MAIN()
