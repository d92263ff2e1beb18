/* tests/unit/test_log_check.c: one file, a little at a time: whatever is
 * damaged is found, where it is, and nothing else. */
#include "base/sim/sim.h"
#include "journal/log/blob.h"
#include "tests/unit/log_harness.h"

#define FRAMES_MAX 64u
#define FOUND_MAX 64u

struct journal {
	struct sim *sim;
	struct io *io;
	struct harness h;
	uint8_t cluster_id[LOG_ID_BYTES];
	struct log_frame_info frames[FRAMES_MAX];
	unsigned frame_count;
	struct log_segment_info info; /* of the first segment */
	char path[LOG_PATH_BYTES];
};

struct found {
	struct log_damage all[FOUND_MAX];
	unsigned count;
	uint64_t bytes;
	unsigned steps;
};

static int note_frame(void *ctx, const struct log_frame_info *f)
{
	struct journal *j = ctx;

	if (j->frame_count && f->segment != j->frames[0].segment)
		return 0;
	assert_true(j->frame_count < FRAMES_MAX);
	j->frames[j->frame_count++] = *f;
	return 0;
}

static int note_segment(void *ctx, const struct log_segment_info *info)
{
	struct journal *j = ctx;

	j->info = *info;
	return 1;
}

static void journal_init(struct journal *j)
{
	struct sim_config config = sim_config_calm(17);

	memset(j, 0, sizeof(*j));
	j->sim = sim_create(&config);
	j->io = sim_node_create(j->sim, "broker", 0);
	harness_init(&j->h, j->io, "data");
	j->h.options.frame_bytes_max = 160u * 1024u;
	assert_int_equal(harness_open(&j->h), 0);
	/* Into a second segment. */
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(harness_put(&j->h, i, 4000 * i), 0);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(harness_put(&j->h, 100 + i, 120000), 0);
	memcpy(j->cluster_id, log_cluster_id(j->h.log), LOG_ID_BYTES);
	assert_int_equal(log_each_segment(j->h.log, note_segment, j), 1);
	assert_false(j->info.active);
	harness_close(&j->h, true);
	assert_int_equal(log_inspect(j->io, "data", NULL, note_frame, NULL, j),
			 0);
	assert_int_equal(j->frames[0].segment, j->info.key);
	assert_true(j->frame_count > 10);
	log_segment_path("data", j->info.key, j->path);
}

static void journal_fini(struct journal *j)
{
	assert_int_equal(sim_open_files(sim_node(j->io)), 0);
	harness_fini(&j->h);
	io_free(j->io);
	sim_free(j->sim);
}

static void on_found(void *ctx, const struct log_damage *d)
{
	struct found *f = ctx;

	assert_true(f->count < FOUND_MAX);
	f->all[f->count++] = *d;
}

static struct found run(struct log_check *c, uint64_t step)
{
	struct found f = {.count = 0};
	int err = 0;

	while (!err) {
		uint64_t bytes = 0;

		err = log_check_step(c, step, on_found, &f, &bytes);
		f.bytes += bytes;
		f.steps++;
		assert_true(f.steps < 100000);
	}
	assert_int_equal(err, 1);
	log_check_free(c);
	return f;
}

static struct found check(struct journal *j, bool exact, uint64_t step)
{
	struct log_check *c = NULL;

	assert_int_equal(log_check_segment(j->io, "data", j->cluster_id,
					   &j->info, exact, &c),
			 0);
	return run(c, step);
}

static void flip(struct journal *j, const char *path, uint64_t at)
{
	assert_int_equal(sim_disk_flip(sim_disk(j->sim, 0), path, at, 5), 0);
}

/* ---- segments ---- */

TEST("a closed segment that is whole has no damage, in steps of any size")
{
	static const uint64_t steps[] = {1, 5000, 65536, 1 << 20, 1 << 30};
	struct journal j;

	journal_init(&j);
	for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
		struct found f = check(&j, true, steps[i]);
		const struct log_frame_info *last =
			&j.frames[j.frame_count - 1];

		assert_int_equal(f.count, 0);
		assert_int_equal(f.bytes, last->offset + last->stored_len);
		/* The end may lie further on when others are gone between. */
		j.info.end_lsn += 3;
		for (f = check(&j, false, steps[i]); f.count; f.count--)
			assert_true(f.all[f.count - 1].only_if_live);
		j.info.end_lsn -= 3;
	}
	journal_fini(&j);
}

TEST("a flipped bit in any block of a frame is found there, with its records")
{
	struct journal j;

	journal_init(&j);
	for (unsigned i = 0; i < j.frame_count; i++) {
		const struct log_frame_info *frame = &j.frames[i];

		for (uint64_t at = frame->offset + 100;
		     at < frame->offset + frame->stored_len; at += IO_BLOCK) {
			struct found f;

			flip(&j, j.path, at);
			f = check(&j, true, 100000);
			assert_int_equal(f.count, 1);
			assert_int_equal(f.all[0].err, -E_CORRUPT);
			assert_false(f.all[0].only_if_live);
			assert_int_equal(f.all[0].offset, frame->offset);
			assert_int_equal(f.all[0].first_lsn, frame->first_lsn);
			assert_int_equal(f.all[0].last_lsn,
					 frame->first_lsn +
						 frame->record_count - 1);
			assert_true(f.all[0].bytes >= frame->stored_len);
			if (i + 1 < j.frame_count)
				assert_int_equal(f.all[0].bytes,
						 frame->stored_len);
			flip(&j, j.path, at);
		}
	}
	assert_int_equal(check(&j, true, 100000).count, 0);
	journal_fini(&j);
}

TEST("a damaged header makes the whole segment damaged, as its key is lost")
{
	struct journal j;
	struct found f;

	journal_init(&j);
	flip(&j, j.path, 100);
	f = check(&j, true, 100000);
	assert_int_equal(f.count, 1);
	assert_int_equal(f.all[0].offset, 0);
	assert_int_equal(f.all[0].first_lsn, j.info.first_lsn);
	assert_int_equal(f.all[0].last_lsn, j.info.end_lsn - 1);
	assert_true(f.all[0].bytes > j.frames[j.frame_count - 1].offset);
	journal_fini(&j);
}

TEST("a sector that the disk cannot read is damage, and the rest is looked at")
{
	struct journal j;
	struct found f;

	journal_init(&j);
	flip(&j, j.path, j.frames[2].offset);
	assert_int_equal(
		sim_disk_spoil(sim_disk(j.sim, 0), j.path, j.frames[6].offset),
		0);
	flip(&j, j.path, j.frames[9].offset + 600);
	f = check(&j, true, 100000);
	assert_int_equal(f.count, 3);
	assert_int_equal(f.all[0].first_lsn, j.frames[2].first_lsn);
	assert_int_equal(f.all[0].err, -E_CORRUPT);
	assert_int_equal(f.all[1].first_lsn, j.frames[6].first_lsn);
	assert_int_equal(f.all[1].offset, j.frames[6].offset);
	assert_int_equal(f.all[1].err, -EIO);
	assert_int_equal(f.all[2].first_lsn, j.frames[9].first_lsn);
	journal_fini(&j);
}

TEST("a segment that is cut short is damaged from there to its end")
{
	struct journal j;
	struct io_file *file;
	struct found f;

	journal_init(&j);
	assert_int_equal(io_open(j.io, j.path, IO_WRITE, &file), 0);
	assert_int_equal(io_truncate(file, j.frames[4].offset), 0);
	io_close(file);
	f = check(&j, true, 100000);
	assert_int_equal(f.count, 1);
	assert_int_equal(f.all[0].offset, j.frames[4].offset);
	assert_int_equal(f.all[0].first_lsn, j.frames[4].first_lsn);
	assert_int_equal(f.all[0].last_lsn, j.info.end_lsn - 1);
	journal_fini(&j);
}

TEST("another segment's bytes under this one's name are damage")
{
	struct journal j;
	uint64_t key;

	journal_init(&j);
	/* As if a copy had gone to the wrong place. */
	key = j.info.key;
	j.info.key = log_segment_key((uint32_t)(key >> 32), 9999);
	{
		char to[LOG_PATH_BYTES];

		log_segment_path("data", j.info.key, to);
		assert_int_equal(io_rename(j.io, j.path, to), 0);
	}
	assert_true(check(&j, true, 100000).count > 0);
	journal_fini(&j);
}

TEST("no read that fails once is damage, and none ends the process")
{
	struct journal j;
	struct sim_disk *disk;

	journal_init(&j);
	disk = sim_disk(j.sim, 0);
	for (uint64_t k = 1; k < 40; k++) {
		struct log_check *c = NULL;
		struct found f;
		int err;

		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO,
				  sim_disk_reads(disk) + k);
		err = log_check_segment(j.io, "data", j.cluster_id, &j.info,
					true, &c);
		if (err) {
			assert_int_equal(err, -EIO);
			continue;
		}
		f = run(c, 65536);
		for (unsigned i = 0; i < f.count; i++)
			assert_int_equal(f.all[i].err, -EIO);
		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO, 0);
	}
	journal_fini(&j);
}

TEST("a segment that is gone is no damage")
{
	struct log_check *c;
	struct journal j;

	journal_init(&j);
	assert_int_equal(io_unlink(j.io, j.path), 0);
	assert_int_equal(log_check_segment(j.io, "data", j.cluster_id, &j.info,
					   true, &c),
			 -ENOENT);
	journal_fini(&j);
}

/* ---- blobs ---- */

static uint64_t make_blob(struct journal *j, uint32_t len)
{
	const struct blob_identity id = {
		.io = j->io, .master = j->h.key, .cluster_id = j->cluster_id};
	uint8_t *data = malloc(len + 1), hash[CRYPTO_HASH_BYTES];
	struct blob_writer *w = NULL;
	uint64_t bytes = 0;

	(void)!io_unlink(j->io, "data/blob");
	harness_pattern(data, len, 3);
	assert_int_equal(blob_create(&id, "data/blob", "TEST", &w), 0);
	assert_int_equal(blob_write(w, data, len), 0);
	assert_int_equal(blob_finish(w, hash, &bytes), 0);
	free(data);
	return bytes;
}

static struct found check_blob(struct journal *j, uint64_t bytes)
{
	struct log_check *c = NULL;

	assert_int_equal(log_check_blob(j->io, "data/blob", bytes, &c), 0);
	return run(c, 1 << 20);
}

TEST("a blob of any length that is whole has no damage")
{
	static const uint32_t lens[] = {0,	 1,	 65535,	 65536,
					65537,	 131072, 700000, 1048576,
					1048577, 2200000};
	struct journal j;

	journal_init(&j);
	for (size_t i = 0; i < ARRAY_COUNT(lens); i++) {
		uint64_t bytes = make_blob(&j, lens[i]);

		assert_int_equal(check_blob(&j, bytes).count, 0);
		assert_int_equal(check_blob(&j, 0).count, 0);
		assert_int_equal(check_blob(&j, bytes).bytes, bytes);
		assert_int_equal(check_blob(&j, bytes + 1).count, 1);
	}
	journal_fini(&j);
}

TEST("a flipped bit anywhere in a blob is found in its chunk, and only there")
{
	struct journal j;
	uint64_t bytes;

	journal_init(&j);
	bytes = make_blob(&j, 1200000);
	for (uint64_t at = 5; at < bytes; at += at < 70000 ? 997 : 9973) {
		struct found f;

		flip(&j, "data/blob", at);
		f = check_blob(&j, bytes);
		assert_int_equal(f.count, 1);
		if (at < BLOB_HEADER_BYTES) {
			assert_int_equal(f.all[0].offset, 0);
			assert_int_equal(f.all[0].bytes, bytes);
		} else {
			assert_true(f.all[0].offset <= at);
			assert_true(f.all[0].offset + f.all[0].bytes > at);
			assert_true(f.all[0].bytes <= BLOB_CHUNK_STRIDE);
		}
		flip(&j, "data/blob", at);
	}
	journal_fini(&j);
}

TEST("chunks of a blob that cannot be read are told one by one")
{
	struct journal j;
	uint64_t bytes;
	struct found f;

	journal_init(&j);
	bytes = make_blob(&j, 1200000);
	assert_int_equal(sim_disk_spoil(sim_disk(j.sim, 0), "data/blob",
					blob_chunk_offset(3) + 40000),
			 0);
	flip(&j, "data/blob", blob_chunk_offset(5) + 77);
	f = check_blob(&j, bytes);
	assert_int_equal(f.count, 2);
	assert_int_equal(f.all[0].offset, blob_chunk_offset(3));
	assert_int_equal(f.all[0].err, -EIO);
	assert_int_equal(f.all[1].offset, blob_chunk_offset(5));
	assert_int_equal(f.all[1].err, -E_CORRUPT);
	journal_fini(&j);
}

TEST("a blob that is cut short or too long is damaged, wherever it is cut")
{
	struct journal j;

	journal_init(&j);
	for (uint64_t cut = 1; cut < 200000; cut += 13331) {
		uint64_t bytes = make_blob(&j, 200000);
		struct io_file *file;

		assert_int_equal(io_open(j.io, "data/blob", IO_WRITE, &file),
				 0);
		assert_int_equal(io_truncate(file, bytes - cut), 0);
		io_close(file);
		assert_true(check_blob(&j, bytes).count > 0);
		assert_true(check_blob(&j, 0).count > 0);
	}
	for (uint64_t more = 1; more < 100000; more += 33333) {
		uint64_t bytes = make_blob(&j, 200000);
		struct io_file *file;

		assert_int_equal(io_open(j.io, "data/blob", IO_WRITE, &file),
				 0);
		assert_int_equal(io_truncate(file, bytes + more), 0);
		io_close(file);
		assert_true(check_blob(&j, bytes).count > 0);
	}
	journal_fini(&j);
}

TEST_MAIN()
