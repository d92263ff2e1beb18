/* tests/unit/test_log_verify.c: what log_verify() finds in directories that
 * were damaged, each in one way. */
#include "base/crc32c.h"
#include "base/sim/sim.h"
#include "tests/unit/log_harness.h"

#define FRAME_COUNT_MAX 64u

struct found {
	uint64_t damage, torn;
	char first[256]; /* what the first one says */
	char file[LOG_PATH_BYTES];
	uint64_t offset;
};

/* A journal of two epochs, and its frames in file order. */
struct journal {
	struct sim *sim;
	struct io *io;
	struct harness h;
	uint8_t cluster_id[LOG_ID_BYTES];
	struct log_frame_info frames[FRAME_COUNT_MAX];
	unsigned frame_count;
};

static int note_frame(void *ctx, const struct log_frame_info *f)
{
	struct journal *j = ctx;

	assert_true(j->frame_count < FRAME_COUNT_MAX);
	j->frames[j->frame_count++] = *f;
	return 0;
}

/* The last appends go out together, so that frames are in flight together:
 * those do not vouch for one another. */
static void journal_init(struct journal *j)
{
	struct sim_config config = sim_config_calm(11);

	memset(j, 0, sizeof(*j));
	j->sim = sim_create(&config);
	j->io = sim_node_create(j->sim, "broker", 0);
	harness_init(&j->h, j->io, "data");
	j->h.options.frame_bytes_max = 160u * 1024u;
	for (int life = 0; life < 2; life++) {
		/* The first epoch goes on into a second segment. */
		uint32_t together = life ? 3 : 12;
		struct harness_append *all[12];

		assert_int_equal(harness_open(&j->h), 0);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(harness_put(&j->h, i, 900 * i), 0);
		for (uint32_t i = 0; i < together; i++) {
			all[i] = harness_append_new(&j->h, 10 + i, 120000);
			harness_send(&j->h, all[i]);
		}
		harness_wait(&j->h);
		memcpy(j->cluster_id, log_cluster_id(j->h.log), LOG_ID_BYTES);
		harness_close(&j->h, true);
		for (uint32_t i = 0; i < together; i++)
			free(all[i]);
	}
	assert_int_equal(log_inspect(j->io, "data", NULL, note_frame, NULL, j),
			 0);
}

static void journal_fini(struct journal *j)
{
	assert_int_equal(sim_open_files(sim_node(j->io)), 0);
	harness_fini(&j->h);
	io_free(j->io);
	sim_free(j->sim);
}

static void note_finding(void *ctx, const struct log_finding *f)
{
	struct found *found = ctx;

	if (!found->damage && !found->torn) {
		snprintf(found->first, sizeof(found->first), "%s", f->what);
		snprintf(found->file, sizeof(found->file), "%s", f->file);
		found->offset = f->offset;
	}
	if (f->kind == LOG_FINDING_DAMAGE)
		found->damage++;
	else
		found->torn++;
}

static struct found verify(struct journal *j, struct log_verify_result *ret)
{
	struct log_verify_result result;
	struct found found = {0};

	assert_int_equal(
		log_verify(j->io, "data", NULL, note_finding, &found, &result),
		0);
	assert_int_equal(result.damage, found.damage);
	assert_int_equal(result.torn, found.torn);
	if (ret)
		*ret = result;
	return found;
}

static void expect_damage(struct journal *j, const char *path, uint64_t offset,
			  const char *what)
{
	struct found found = verify(j, NULL);

	assert_true(found.damage >= 1);
	assert_string_equal(found.file, path);
	assert_int_equal(found.offset, offset);
	if (!strstr(found.first, what))
		fail_msg("\"%s\" does not say \"%s\"", found.first, what);
}

static void flip(struct journal *j, const char *path, uint64_t at)
{
	assert_int_equal(sim_disk_flip(sim_disk(j->sim, 0), path, at, 3), 0);
}

static void write_at(struct journal *j, const char *path, const void *data,
		     size_t len, uint64_t offset)
{
	struct io_file *file;

	assert_int_equal(io_open(j->io, path, IO_WRITE, &file), 0);
	assert_int_equal(io_write(file, data, len, offset), 0);
	io_close(file);
}

static void read_block(struct journal *j, const char *path,
		       uint8_t raw[IO_BLOCK])
{
	struct io_file *file;
	size_t len;

	assert_int_equal(io_open(j->io, path, IO_READ, &file), 0);
	assert_int_equal(io_read(file, raw, IO_BLOCK, 0, &len), 0);
	assert_int_equal(len, IO_BLOCK);
	io_close(file);
}

static void path_of(const struct log_frame_info *f, char ret[LOG_PATH_BYTES])
{
	log_segment_path("data", f->segment, ret);
}

TEST("a whole journal has no findings, and its sums are right")
{
	struct log_verify_result result;
	uint64_t records = 0, bytes = 0;
	struct found found;
	struct journal j;

	journal_init(&j);
	found = verify(&j, &result);
	assert_int_equal(found.damage + found.torn, 0);
	for (unsigned i = 0; i < j.frame_count; i++) {
		records += j.frames[i].record_count;
		bytes += j.frames[i].stored_len;
	}
	assert_int_equal(result.frames, j.frame_count);
	assert_int_equal(result.records, records);
	assert_int_equal(result.bytes, bytes);
	assert_int_equal(result.epochs, 2);
	assert_int_equal(result.first_lsn, 1);
	assert_int_equal(result.end_lsn, records + 1);
	journal_fini(&j);
}

TEST("what is not a journal is no journal without findings")
{
	struct log_verify_result result;
	struct journal j;

	journal_init(&j);
	assert_int_equal(
		log_verify(j.io, "elsewhere", NULL, NULL, NULL, &result),
		-ENOENT);
	journal_fini(&j);
}

TEST("a damaged cluster file is damage")
{
	struct journal j;

	journal_init(&j);
	flip(&j, "data/cluster", 20);
	expect_damage(&j, "data/cluster", 0, "the cluster file is damaged");
	journal_fini(&j);
}

TEST("a damaged claim is harmless, and said")
{
	struct found found;
	struct journal j;

	journal_init(&j);
	flip(&j, "data/epochs/00000001", 20);
	found = verify(&j, NULL);
	assert_int_equal(found.damage, 0);
	assert_int_equal(found.torn, 1);
	assert_string_equal(found.file, "data/epochs/00000001");
	journal_fini(&j);
}

TEST("a damaged segment header, or a short file, is damage")
{
	char path[LOG_PATH_BYTES];
	uint8_t raw[IO_BLOCK];
	struct io_file *file;
	struct journal j;
	uint64_t bytes;

	journal_init(&j);
	path_of(&j.frames[0], path);
	flip(&j, path, 50);
	expect_damage(&j, path, 0, "header is damaged");
	flip(&j, path, 50);
	read_block(&j, path, raw);
	bytes_put16(raw + 8, 2);
	bytes_put32(raw + 4092, crc32c(0, raw, 4092));
	write_at(&j, path, raw, sizeof(raw), 0);
	expect_damage(&j, path, 0, "newer version");
	bytes_put16(raw + 8, 1);
	bytes_put32(raw + 4092, crc32c(0, raw, 4092));
	write_at(&j, path, raw, sizeof(raw), 0);
	assert_int_equal(verify(&j, NULL).damage, 0);
	assert_int_equal(io_open(j.io, path, IO_WRITE, &file), 0);
	assert_int_equal(io_size(file, &bytes), 0);
	assert_int_equal(io_truncate(file, bytes - IO_BLOCK), 0);
	io_close(file);
	expect_damage(&j, path, 0, "cut short");
	journal_fini(&j);
}

TEST("a damaged frame that a later one vouches for is damage")
{
	char path[LOG_PATH_BYTES];
	struct journal j;

	journal_init(&j);
	for (unsigned i = 0; i < 4; i++) {
		path_of(&j.frames[i], path);
		flip(&j, path, j.frames[i].offset + 700);
		expect_damage(&j, path, j.frames[i].offset,
			      i ? "a later one says was acknowledged" : "");
		flip(&j, path, j.frames[i].offset + 700);
	}
	assert_int_equal(verify(&j, NULL).damage, 0);
	journal_fini(&j);
}

/* As a crash would leave it: of two frames that were in flight together only
 * the second has arrived, and nothing was written after them. */
TEST("an unfinished write that nothing vouches for is torn and harmless")
{
	const struct log_frame_info *a = NULL, *b = NULL;
	static uint8_t zeros[LOG_FRAME_BYTES_MAX];
	struct log_verify_result result;
	char path[LOG_PATH_BYTES];
	struct found found;
	struct journal j;

	journal_init(&j);
	for (unsigned i = 1; i < j.frame_count; i++)
		if (j.frames[i].durable_lsn <= j.frames[i - 1].first_lsn &&
		    j.frames[i].segment == j.frames[i - 1].segment &&
		    !j.frames[i].epoch_start) {
			a = &j.frames[i - 1];
			b = &j.frames[i];
		}
	assert_non_null(a);
	for (const struct log_frame_info *f = b + 1;
	     f < j.frames + j.frame_count; f++) {
		path_of(f, path);
		write_at(&j, path, zeros, f->stored_len, f->offset);
	}
	path_of(a, path);
	flip(&j, path, a->offset + 700);
	found = verify(&j, &result);
	assert_int_equal(found.damage, 0);
	assert_int_equal(found.torn, 1);
	assert_int_equal(found.offset, a->offset);
	assert_string_equal(found.file, path);
	assert_int_equal(result.end_lsn, a->first_lsn);
	journal_fini(&j);
}

TEST("a missing segment is damage that the whole history shows")
{
	const struct log_frame_info *start = NULL;
	char path[LOG_PATH_BYTES];
	struct found found;
	struct journal j;

	journal_init(&j);
	for (unsigned i = 1; i < j.frame_count; i++)
		if (j.frames[i].epoch_start)
			start = &j.frames[i];
	assert_non_null(start);
	/* The last one of the first epoch, whose end the second has named. */
	path_of(start - 1, path);
	assert_int_equal(io_unlink(j.io, path), 0);
	found = verify(&j, NULL);
	assert_true(found.damage >= 1);
	assert_int_equal(found.torn, 0);
	journal_fini(&j);
}

/* One more frame behind the last, sealed as the broker would. */
static void append_odd(struct journal *j, bool other_key, bool other_chain,
		       uint64_t lsn_gap)
{
	const struct log_frame_info *last = &j->frames[j->frame_count - 1];
	static uint8_t plain[IO_BLOCK], out[IO_BLOCK];
	struct log_segment_header header;
	char path[LOG_PATH_BYTES];
	struct crypto_key *key;
	struct crypto_aead *aead;
	struct log_frame f = {
		.segment = last->segment,
		.offset = last->offset + last->stored_len,
		.first_lsn = last->first_lsn + last->record_count + lsn_gap,
		.record_count = 1,
		.payload_len = IO_BLOCK - LOG_FRAME_HEADER_BYTES,
		.stored_len = IO_BLOCK,
	};

	f.durable_lsn = f.first_lsn;
	path_of(last, path);
	read_block(j, path, out);
	assert_int_equal(log_segment_header_decode(out, &header), 0);
	assert_int_equal(log_segment_unwrap(j->h.key, &header, &key), 0);
	assert_int_equal(crypto_aead_create(key, &aead), 0);
	crypto_key_id(other_key ? j->h.key : key, f.key_id);
	memcpy(f.cluster_id, j->cluster_id, LOG_ID_BYTES);
	memcpy(f.prev_chain, last->chain, LOG_CHAIN_BYTES);
	f.prev_chain[0] ^= other_chain;
	bytes_put32(plain, f.payload_len);
	plain[8] = LOG_TYPE_USER;
	assert_int_equal(log_frame_seal(aead, &f, plain, out), 0);
	write_at(j, path, out, sizeof(out), f.offset);
	crypto_aead_free(aead);
	crypto_key_free(key);
}

TEST("a frame that does not belong to those before it is damage")
{
	static const struct {
		bool key, chain;
		uint64_t gap;
		const char *what;
	} odd[] = {
		{true, false, 0, "this segment's key"},
		{false, true, 0, "does not continue"},
		{false, false, 5, "does not continue"},
	};

	for (size_t i = 0; i < ARRAY_COUNT(odd); i++) {
		const struct log_frame_info *last;
		char path[LOG_PATH_BYTES];
		struct journal j;

		journal_init(&j);
		last = &j.frames[j.frame_count - 1];
		path_of(last, path);
		append_odd(&j, odd[i].key, odd[i].chain, odd[i].gap);
		expect_damage(&j, path, last->offset + last->stored_len,
			      odd[i].what);
		journal_fini(&j);
	}
}

TEST_MAIN()
