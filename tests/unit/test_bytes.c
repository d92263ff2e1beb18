/* tests/unit/test_bytes.c: fields in little-endian order, sticky ends. */
#include "tests/unit/test.h"

#include "base/bytes.h"

TEST("fields are written little-endian and read back")
{
	static const uint8_t expected[] = {0x01, 0x03, 0x02, 0x07, 0x06,
					   0x05, 0x04, 0x0f, 0x0e, 0x0d,
					   0x0c, 0x0b, 0x0a, 0x09, 0x08};
	uint8_t buf[sizeof(expected)];
	struct bytes_writer w;
	struct bytes_reader r;

	bytes_writer_init(&w, buf, sizeof(buf));
	bytes_write8(&w, 0x01);
	bytes_write16(&w, 0x0203);
	bytes_write32(&w, 0x04050607);
	bytes_write64(&w, UINT64_C(0x08090a0b0c0d0e0f));
	assert_false(w.failed);
	assert_int_equal(bytes_written(&w), sizeof(expected));
	assert_memory_equal(buf, expected, sizeof(expected));

	bytes_reader_init(&r, buf, sizeof(buf));
	assert_int_equal(bytes_read8(&r), 0x01);
	assert_int_equal(bytes_read16(&r), 0x0203);
	assert_int_equal(bytes_read32(&r), 0x04050607);
	assert_true(bytes_read64(&r) == UINT64_C(0x08090a0b0c0d0e0f));
	assert_int_equal(bytes_left(&r), 0);
	assert_false(bytes_failed(&r));
}

TEST("a reader that passed the end yields zeros and stays failed")
{
	static const uint8_t data[] = {1, 2, 3};
	struct bytes_reader r;

	bytes_reader_init(&r, data, sizeof(data));
	assert_int_equal(bytes_read32(&r), 0);
	assert_true(bytes_failed(&r));
	/* Even what would fit is not given out any more. */
	assert_int_equal(bytes_read8(&r), 0);
	assert_null(bytes_read(&r, 0));
	assert_true(bytes_failed(&r));
}

TEST("a read whose length overflows a pointer is refused")
{
	static const uint8_t data[] = {1, 2, 3};
	struct bytes_reader r;

	bytes_reader_init(&r, data, sizeof(data));
	assert_null(bytes_read(&r, SIZE_MAX));
	assert_true(bytes_failed(&r));
}

TEST("a writer never passes the end of its buffer")
{
	uint8_t buf[8] = {0};
	struct bytes_writer w;

	bytes_writer_init(&w, buf, 6);
	bytes_write32(&w, 0xffffffff);
	bytes_write32(&w, 0xffffffff);
	assert_true(w.failed);
	bytes_write8(&w, 0xff);
	assert_int_equal(bytes_written(&w), 4);
	for (size_t i = 4; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
}

TEST("sizes round up to a power of two")
{
	assert_int_equal(base_round_up(0, 4096), 0);
	assert_int_equal(base_round_up(1, 4096), 4096);
	assert_int_equal(base_round_up(4096, 4096), 4096);
	assert_int_equal(base_round_up(4097, 4096), 8192);
}

TEST_MAIN()
