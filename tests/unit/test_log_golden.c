/* tests/unit/test_log_golden.c: bytes that every later version must read.
 *
 * tests/golden/journal is a log's directory as version 1 wrote it;
 * tests/golden/journal-frame.bin is one frame with nothing random in it, which
 * version 1 must go on writing bit by bit.  They are made anew, for a new
 * format version, in an empty directory and by
 *
 *	GOLDEN_WRITE=<directory> build/tests/unit/test_log_golden
 */
#include "tests/unit/log_harness.h"

#define GOLDEN "tests/golden/"
#define FRAME_BYTES (5u * IO_BLOCK)

static struct harness_seen seen;

/* ---- a frame ---- */

static void golden_frame(uint8_t *out)
{
	static uint8_t plain[FRAME_BYTES - LOG_FRAME_HEADER_BYTES];
	struct log_frame f = {
		.segment = log_segment_key(7, 0x1234),
		.offset = 3 * IO_BLOCK,
		.first_lsn = 0x1122334455667788,
		.durable_lsn = 0x1122334455667700,
		.record_count = 2,
		.payload_len = sizeof(plain),
		.stored_len = FRAME_BYTES,
	};
	struct crypto_key *key = harness_key();
	struct crypto_aead *aead;
	uint32_t second = 9000;

	harness_pattern(plain, sizeof(plain), 1);
	for (uint32_t at = 0; at < sizeof(plain); at += second) {
		uint32_t len = (uint32_t)base_min(second, sizeof(plain) - at);

		bytes_put32(plain + at, len);
		bytes_put32(plain + at + 4, 11);
		plain[at + 8] = LOG_TYPE_USER;
		plain[at + 9] = 0;
		bytes_put16(plain + at + 10, 0);
	}
	ASSERT(sizeof(plain) > second && sizeof(plain) < 3 * second);
	f.record_count = sizeof(plain) > 2 * second ? 3 : 2;
	harness_pattern(f.cluster_id, sizeof(f.cluster_id), 2);
	harness_pattern(f.prev_chain, sizeof(f.prev_chain), 3);
	crypto_key_id(key, f.key_id);
	assert_int_equal(crypto_aead_create(key, &aead), 0);
	assert_int_equal(log_frame_seal(aead, &f, plain, out), 0);
	crypto_aead_free(aead);
	crypto_key_free(key);
}

TEST("a frame is written as it always was")
{
	uint8_t made[FRAME_BYTES], golden[FRAME_BYTES];
	struct log_frame f;
	FILE *file = fopen(GOLDEN "journal-frame.bin", "rb");

	assert_non_null(file);
	assert_int_equal(fread(golden, 1, sizeof(golden), file),
			 sizeof(golden));
	fclose(file);
	golden_frame(made);
	assert_memory_equal(made, golden, sizeof(made));
	assert_int_equal(log_frame_decode(golden, &f), 0);
	assert_int_equal(log_frame_check_payload(golden, &f), 0);
	assert_int_equal(f.first_lsn, 0x1122334455667788);
}

/* ---- a directory ---- */

static struct io *golden_io(void)
{
	struct io *io = NULL;
	const char *reason;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	return io;
}

static int golden_count(void *ctx, const struct log_frame_info *f)
{
	(*(int *)ctx)++;
	assert_true(f->payload_ok);
	return 0;
}

TEST("a journal of version 1 is read")
{
	struct io *io = golden_io();
	struct crypto_key *key = harness_key();
	struct log_verify_result result;
	int frames = 0;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(log_inspect(io, GOLDEN "journal", key, NULL,
				     harness_see, &seen),
			 0);
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(seen.starts, 2);
	assert_int_equal(seen.count, 7);
	for (uint32_t i = 0; i < 7; i++)
		assert_int_equal(seen.seeds[i], i);
	assert_int_equal(log_inspect(io, GOLDEN "journal", NULL, golden_count,
				     NULL, &frames),
			 0);
	assert_true(frames >= 6);
	assert_int_equal(
		log_verify(io, GOLDEN "journal", NULL, NULL, NULL, &result), 0);
	assert_int_equal(result.damage + result.torn, 0);
	assert_int_equal(result.epochs, 2);
	assert_int_equal(result.records, result.end_lsn - 1);
	crypto_key_free(key);
	io_free(io);
}

/* ---- making them ---- */

static void golden_write_file(const char *dir, const char *name,
			      const void *data, size_t len)
{
	char path[LOG_PATH_BYTES];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "wb");
	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, len, file), len);
	fclose(file);
}

static void golden_write(const char *dir)
{
	uint8_t frame[FRAME_BYTES];
	struct io *io = golden_io();
	char journal[LOG_PATH_BYTES];
	struct harness h;

	golden_frame(frame);
	golden_write_file(dir, "journal-frame.bin", frame, sizeof(frame));
	snprintf(journal, sizeof(journal), "%s/journal", dir);
	harness_init(&h, io, journal);
	h.tiny_segment_bytes = 24 * 1024;
	h.options.compress_level = 3;
	assert_int_equal(harness_open(&h), 0);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(harness_put(&h, i, 900 * i), 0);
	harness_close(&h, true);
	assert_int_equal(harness_open(&h), 0);
	assert_int_equal(harness_put(&h, 5, 10), 0);
	assert_int_equal(harness_put(&h, 6, 0), 0);
	harness_close(&h, true);
	harness_fini(&h);
	io_free(io);
}

int main(int argc, char **argv)
{
	if (getenv("GOLDEN_WRITE")) {
		golden_write(getenv("GOLDEN_WRITE"));
		return 0;
	}
	return test_run(argc, argv);
}
