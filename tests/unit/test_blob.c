/* tests/unit/test_blob.c: write-once files beside the log. */
#include "base/sim/sim.h"
#include "journal/log/blob.h"
#include "tests/unit/log_harness.h"

#define CHUNK_BYTES BLOB_CHUNK_BYTES
#define FIRST_CHUNK_AT BLOB_HEADER_BYTES
#define GOLDEN "tests/golden/blob-2.bin"
#define GOLDEN_BYTES 3000u

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

/* ---- chunks ---- */

static uint8_t *blobs_raw(struct blobs *b, const char *path)
{
	uint8_t *raw = malloc(b->bytes);
	struct io_file *file;
	size_t got;

	assert_int_equal(io_open(b->io, path, IO_READ, &file), 0);
	assert_int_equal(io_read(file, raw, b->bytes, 0, &got), 0);
	assert_int_equal(got, b->bytes);
	io_close(file);
	return raw;
}

TEST("the hash is of the header and of the chunks' headers")
{
	const size_t len = 2 * CHUNK_BYTES + 777;
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct crypto_hasher *hasher;
	struct blobs b;
	uint8_t *raw;

	blobs_init(&b);
	blobs_make(&b, "d/b", len);
	raw = blobs_raw(&b, "d/b");
	assert_int_equal(crypto_hasher_create(&hasher), 0);
	crypto_hasher_add(hasher, raw, BLOB_HEADER_BYTES);
	for (uint32_t i = 0; i < 3; i++)
		crypto_hasher_add(hasher, raw + blob_chunk_offset(i), 32);
	crypto_hasher_finish(hasher, hash);
	assert_memory_equal(hash, b.hash, sizeof(hash));
	free(raw);
	blobs_fini(&b);
}

TEST("verifying tells where the damage begins")
{
	const size_t len = 20 * CHUNK_BYTES + 9;
	struct blobs b;

	blobs_init(&b);
	blobs_make(&b, "d/b", len);
	for (uint32_t i = 0; i <= 20; i++) {
		struct sim_disk *disk = sim_disk(b.sim, 0);
		uint64_t at = blob_chunk_offset(i) + (i % 2 ? 3 : 40);
		uint64_t offset = 1;

		assert_int_equal(sim_disk_flip(disk, "d/b", at, 3), 0);
		assert_int_equal(blob_verify(b.io, "d/b", NULL, &offset),
				 -E_CORRUPT);
		assert_int_equal(offset, blob_chunk_offset(i));
		assert_int_equal(sim_disk_flip(disk, "d/b", at, 3), 0);
	}
	for (int i = 0; i < 2; i++) {
		uint64_t offset = 1;

		/* Another file's hash, and no file. */
		b.hash[0]++;
		assert_true(blob_verify(b.io, i ? "d/x" : "d/b", b.hash,
					&offset) < 0);
		assert_int_equal(offset, 0);
	}
	blobs_fini(&b);
}

TEST("a blob opens by its hash also when its contents are damaged, which is "
     "noticed on reading")
{
	const size_t len = 3 * CHUNK_BYTES;
	struct blob_reader *r;
	struct blobs b;
	uint8_t *data = malloc(len);

	blobs_init(&b);
	blobs_make(&b, "d/b", len);
	assert_int_equal(sim_disk_flip(sim_disk(b.sim, 0), "d/b",
				       blob_chunk_offset(1) + 1000, 0),
			 0);
	assert_int_equal(blob_open(&b.id, "d/b", "test", b.hash, &r), 0);
	assert_int_equal(blob_read(r, data, CHUNK_BYTES), 0);
	assert_int_equal(blob_read(r, data, 1), -E_CORRUPT);
	/* And it stays so. */
	assert_int_equal(blob_read(r, data, 1), -E_CORRUPT);
	assert_false(blob_at_end(r));
	blob_close(r);
	free(data);
	blobs_fini(&b);
}

TEST("any chunk opens by itself, at its own place in its own file")
{
	const size_t len = 3 * CHUNK_BYTES + 5000;
	uint8_t *plain = malloc(CHUNK_BYTES), *want = malloc(len);
	struct blob_keys *keys = NULL, *other = NULL;
	uint8_t *raw;
	struct blobs b;

	blobs_init(&b);
	blobs_make(&b, "d/a", len);
	blobs_make(&b, "d/b", len);
	raw = blobs_raw(&b, "d/b");
	harness_pattern(want, len, (uint32_t)len);
	assert_int_equal(blob_keys_open(&b.id, "d/c", "test", &keys), -ENOENT);
	assert_int_equal(blob_keys_open(&b.id, "d/b", "tesu", &keys),
			 -E_CORRUPT);
	assert_int_equal(blob_keys_open(&b.id, "d/b", "test", &keys), 0);
	assert_int_equal(blob_keys_open(&b.id, "d/a", "test", &other), 0);
	for (uint32_t i = 4; i-- > 0;) {
		const uint8_t *at = raw + blob_chunk_offset(i);
		size_t rest = b.bytes - blob_chunk_offset(i);
		uint32_t got = 0, here = i == 3 ? 5000 : CHUNK_BYTES;

		assert_int_equal(
			blob_open_chunk(keys, i, at, rest, plain, &got), 0);
		assert_int_equal(got, here);
		assert_memory_equal(plain, want + i * CHUNK_BYTES, here);
		assert_int_equal(blob_open_chunk(keys, i, at, 32 + here - 1,
						 plain, &got),
				 -E_CORRUPT);
		assert_int_equal(blob_open_chunk(keys, i, at, 31, plain, &got),
				 -E_CORRUPT);
		assert_int_equal(
			blob_open_chunk(keys, i + 1, at, rest, plain, &got),
			-E_CORRUPT);
		assert_int_equal(
			blob_open_chunk(other, i, at, rest, plain, &got),
			-E_CORRUPT);
	}
	blob_keys_free(keys);
	blob_keys_free(other);
	free(plain);
	free(want);
	free(raw);
	blobs_fini(&b);
}

TEST("the position is what has been written to the stream")
{
	struct blob_writer *w = NULL;
	uint8_t *data = calloc(1, 3 * CHUNK_BYTES);
	struct blobs b;

	blobs_init(&b);
	assert_int_equal(blob_create(&b.id, "d/b", "test", &w), 0);
	assert_int_equal(blob_position(w), 0);
	assert_int_equal(blob_write(w, data, 7), 0);
	assert_int_equal(blob_position(w), 7);
	assert_int_equal(blob_write(w, data, 3 * CHUNK_BYTES), 0);
	assert_int_equal(blob_position(w), 3 * CHUNK_BYTES + 7);
	blob_abandon(w);
	free(data);
	blobs_fini(&b);
}

TEST("a blob is written the same way where the page cache cannot be avoided")
{
	struct sim_config config = sim_config_calm(1);
	struct blobs b;

	memset(&b, 0, sizeof(b));
	config.no_direct = true;
	b.sim = sim_create(&config);
	b.io = sim_node_create(b.sim, "blobs", 0);
	b.key = harness_key();
	b.id = (struct blob_identity){
		.io = b.io, .master = b.key, .cluster_id = cluster};
	assert_int_equal(io_mkdir(b.io, "d"), 0);
	blobs_make(&b, "d/b", 3000001);
	assert_int_equal(blobs_read(&b, "d/b", 3000001, b.hash), 0);
	blobs_fini(&b);
}

/* ---- golden ---- */

static struct io *golden_io(void)
{
	struct io *io = NULL;
	const char *reason;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	return io;
}

TEST("a blob of version 2 is read, one of version 1 is told by its version")
{
	struct blobs b = {.io = golden_io(), .key = harness_key()};
	struct blob_reader *r = NULL;

	b.id = (struct blob_identity){
		.io = b.io, .master = b.key, .cluster_id = cluster};
	assert_int_equal(blobs_read(&b, GOLDEN, GOLDEN_BYTES, NULL), 0);
	assert_int_equal(blob_open(&b.id,
				   "tests/golden/journal/checkpoints/blob",
				   "golden", NULL, &r),
			 -E_VERSION);
	crypto_key_free(b.key);
	io_free(b.io);
}

/* GOLDEN_WRITE=<directory> build/tests/unit/test_blob */
int main(int argc, char **argv)
{
	const char *dir = getenv("GOLDEN_WRITE");
	struct blobs b = {0};
	char path[4096];

	if (!dir)
		return test_run(argc, argv);
	b.io = golden_io();
	b.key = harness_key();
	b.id = (struct blob_identity){
		.io = b.io, .master = b.key, .cluster_id = cluster};
	snprintf(path, sizeof(path), "%s/blob-2.bin", dir);
	blobs_make(&b, path, GOLDEN_BYTES);
	crypto_key_free(b.key);
	io_free(b.io);
	return 0;
}
