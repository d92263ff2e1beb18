/* tests/unit/test_blob.c: write-once files beside the log. */
#include "base/sim/sim.h"
#include "journal/log/blob.h"
#include "tests/unit/log_harness.h"

#define CHUNK_BYTES 65536u
#define FIRST_CHUNK_AT 4096u

static const uint8_t cluster[16] = "a cluster's name";

struct blobs {
	struct sim *sim;
	struct io *io;
	struct blob_identity id;
	struct crypto_key *key;
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint64_t bytes;
};

static void blobs_init(struct blobs *b)
{
	struct sim_config config = sim_config_calm(1);

	b->sim = sim_create(&config);
	b->io = sim_node_create(b->sim, "blobs", 0);
	b->key = harness_key();
	b->id = (struct blob_identity){
		.io = b->io, .master = b->key, .cluster_id = cluster};
	assert_int_equal(io_mkdir(b->io, "d"), 0);
}

static void blobs_fini(struct blobs *b)
{
	assert_int_equal(sim_open_files(sim_node(b->io)), 0);
	crypto_key_free(b->key);
	io_free(b->io);
	sim_free(b->sim);
}

/* Written in pieces of odd sizes. */
static void blobs_make(struct blobs *b, const char *path, size_t len)
{
	uint8_t *data = malloc(len + 1);
	struct blob_writer *w = NULL;
	size_t piece = 1;

	harness_pattern(data, len, (uint32_t)len);
	assert_int_equal(blob_create(&b->id, path, "test", &w), 0);
	for (size_t at = 0; at < len; piece = piece * 7 % 50021 + 1) {
		size_t n = base_min(piece, len - at);

		assert_int_equal(blob_write(w, data + at, n), 0);
		at += n;
	}
	assert_int_equal(blob_finish(w, b->hash, &b->bytes), 0);
	free(data);
}

static int blobs_read(struct blobs *b, const char *path, size_t len,
		      const uint8_t *hash)
{
	uint8_t *data = malloc(len + 1), *want = malloc(len + 1);
	struct blob_reader *r = NULL;
	int err = blob_open(&b->id, path, "test", hash, &r);

	for (size_t at = 0, n; !err && at < len; at += n) {
		n = base_min(30011, len - at);
		err = blob_at_end(r) ? -E_CORRUPT : blob_read(r, data + at, n);
	}
	if (!err && !blob_at_end(r))
		err = -E_CORRUPT;
	if (!err) {
		harness_pattern(want, len, (uint32_t)len);
		assert_memory_equal(data, want, len);
		/* There is nothing behind the end. */
		assert_int_equal(blob_read(r, data, 1), -E_CORRUPT);
	}
	blob_close(r);
	free(data);
	free(want);
	return err;
}

TEST("blobs of any size come back")
{
	static const size_t sizes[] = {
		0,
		1,
		1000,
		CHUNK_BYTES - 1,
		CHUNK_BYTES,
		CHUNK_BYTES + 1,
		8 * CHUNK_BYTES,
		3000000,
	};
	struct blobs b;

	blobs_init(&b);
	for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
		blobs_make(&b, "d/b", sizes[i]);
		assert_int_equal(blob_verify(b.io, "d/b", b.hash, NULL), 0);
		assert_int_equal(blob_verify(b.io, "d/b", NULL, NULL), 0);
		assert_int_equal(blobs_read(&b, "d/b", sizes[i], b.hash), 0);
		assert_int_equal(blobs_read(&b, "d/b", sizes[i], NULL), 0);
		b.hash[3] ^= 1;
		assert_int_equal(blob_verify(b.io, "d/b", b.hash, NULL),
				 -E_CORRUPT);
		assert_int_equal(blobs_read(&b, "d/b", sizes[i], b.hash),
				 -E_CORRUPT);
		assert_int_equal(io_unlink(b.io, "d/b"), 0);
	}
	blobs_fini(&b);
}

TEST("any bit that flips in a blob is noticed, with and without a hash")
{
	struct blobs b;

	blobs_init(&b);
	blobs_make(&b, "d/b", 5000);
	for (uint64_t at = 0; at < b.bytes; at++) {
		struct sim_disk *disk = sim_disk(b.sim, 0);
		unsigned bit = (unsigned)(at * 5 % 8);

		assert_int_equal(sim_disk_flip(disk, "d/b", at, bit), 0);
		assert_int_equal(blob_verify(b.io, "d/b", b.hash, NULL),
				 -E_CORRUPT);
		assert_true(blob_verify(b.io, "d/b", NULL, NULL) < 0);
		assert_true(blobs_read(&b, "d/b", 5000, NULL) < 0);
		assert_int_equal(sim_disk_flip(disk, "d/b", at, bit), 0);
	}
	assert_int_equal(blob_verify(b.io, "d/b", b.hash, NULL), 0);
	blobs_fini(&b);
}

TEST("a blob cut short at any length is noticed")
{
	struct blobs b;

	blobs_init(&b);
	blobs_make(&b, "d/b", CHUNK_BYTES + 300);
	for (uint64_t len = b.bytes; len-- > 0;) {
		struct io_file *file;

		if (len > FIRST_CHUNK_AT + 100 && len % 97 &&
		    len < b.bytes - 700)
			continue;
		assert_int_equal(io_open(b.io, "d/b", IO_WRITE, &file), 0);
		assert_int_equal(io_truncate(file, len), 0);
		io_close(file);
		assert_int_equal(blob_verify(b.io, "d/b", NULL, NULL),
				 -E_CORRUPT);
		assert_int_equal(blobs_read(&b, "d/b", CHUNK_BYTES + 300, NULL),
				 -E_CORRUPT);
	}
	blobs_fini(&b);
}

TEST("a blob opens for its own key, cluster and kind only")
{
	static const uint8_t other_cluster[16] = "another cluster";
	uint8_t other_bytes[CRYPTO_KEY_BYTES] = {7};
	struct crypto_key *other_key;
	struct blob_reader *r = NULL;
	struct blob_writer *w = NULL;
	struct blob_identity id;
	struct blobs b;

	blobs_init(&b);
	blobs_make(&b, "d/b", 100);
	assert_int_equal(crypto_key_create(other_bytes, &other_key), 0);
	id = b.id;
	id.master = other_key;
	assert_int_equal(blob_open(&id, "d/b", "test", b.hash, &r), -E_KEY);
	id = b.id;
	id.cluster_id = other_cluster;
	assert_int_equal(blob_open(&id, "d/b", "test", b.hash, &r), -E_CORRUPT);
	assert_int_equal(blob_open(&b.id, "d/b", "tesu", b.hash, &r),
			 -E_CORRUPT);
	assert_int_equal(blob_open(&b.id, "d/c", "test", b.hash, &r), -ENOENT);
	assert_null(r);
	assert_int_equal(blob_create(&b.id, "d/b", "test", &w), -EEXIST);
	assert_null(w);
	crypto_key_free(other_key);
	blobs_fini(&b);
}

TEST("an abandoned blob leaves no file")
{
	struct blob_writer *w = NULL;
	struct blobs b;

	blobs_init(&b);
	assert_int_equal(blob_create(&b.id, "d/b", "test", &w), 0);
	assert_int_equal(blob_write(w, cluster, sizeof(cluster)), 0);
	blob_abandon(w);
	assert_int_equal(blob_verify(b.io, "d/b", NULL, NULL), -ENOENT);
	blobs_fini(&b);
}

TEST("a finished blob survives a power cut; a fault never yields half of one")
{
	for (uint64_t k = 1; k < 60; k++) {
		uint8_t data[1000] = {0}, hash[CRYPTO_HASH_BYTES];
		struct sim_config config = sim_config_calm(k);
		struct sim *sim = sim_create(&config);
		struct io *io = sim_node_create(sim, "writer", 0);
		struct crypto_key *key = harness_key();
		struct blob_identity id = {
			.io = io, .master = key, .cluster_id = cluster};
		enum sim_fault fault = k % 2 ? SIM_FAULT_CUT : SIM_FAULT_EIO;
		struct blob_writer *w = NULL;
		uint64_t bytes;
		int err;

		assert_int_equal(io_mkdir(io, "d"), 0);
		assert_int_equal(io_sync_dir(io, "."), 0);
		sim_disk_fault_at(sim_disk(sim, 0), fault,
				  sim_disk_mutations(sim_disk(sim, 0)) + k / 2 +
					  1);
		err = blob_create(&id, "d/b", "test", &w);
		for (int i = 0; !err && i < 2000; i++)
			err = blob_write(w, data, sizeof(data));
		if (w && err)
			blob_abandon(w);
		else if (!err)
			err = blob_finish(w, hash, &bytes);
		sim_disk_fault_at(sim_disk(sim, 0), fault, 0);
		sim_disk_cut(sim_disk(sim, 0));
		io_free(io);
		io = sim_node_create(sim, "reader", 0);
		if (!err)
			assert_int_equal(blob_verify(io, "d/b", hash, NULL), 0);
		crypto_key_free(key);
		io_free(io);
		sim_free(sim);
	}
}

TEST_MAIN()
