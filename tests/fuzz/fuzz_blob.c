/* tests/fuzz/fuzz_blob.c: blobs that were damaged on disk.
 *
 * The input begins with three numbers: how long a valid blob to make, what to
 * do to it, and how many edits follow; the rest is edits.  With "repair" each
 * edited header and chunk gets a right CRC, so that what is behind the CRCs
 * is reached.  Whatever is read must be what was written, or an error.  In
 * another kind of input the bytes are the file. */
#include "base/crc32c.h"
#include "base/bytes.h"
#include "base/sim/sim.h"
#include "journal/log/blob.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const int fuzz_mutations;

const int fuzz_mutations = 20;

#define HEADER_BYTES 4096u
#define CHUNK_HEADER_BYTES 32u
#define PATH "d/b"

enum input_flag { INPUT_IS_FILE = 1, INPUT_REPAIR = 2, INPUT_CUT = 4 };

static const uint8_t cluster[16] = "a fuzzer's name";
static struct crypto_key *key;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t bytes[CRYPTO_KEY_BYTES] = "a key for the fuzzer";

	if (crypto_init() || crypto_key_create(bytes, &key))
		abort();
	return 0;
}

static void must(int err)
{
	if (err)
		abort();
}

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)(at * 2654435761u >> 24);
}

static void put_file(struct io *io, const uint8_t *data, size_t len)
{
	struct io_file *file;

	must(io_open(io, PATH, IO_WRITE | IO_CREATE, &file));
	must(io_truncate(file, 0));
	if (len)
		must(io_write(file, data, len, 0));
	io_close(file);
}

static uint8_t *get_file(struct io *io, uint64_t len)
{
	uint8_t *data = malloc(len + 1);
	struct io_file *file;
	size_t got;

	if (!data)
		abort();
	must(io_open(io, PATH, IO_READ, &file));
	must(io_read(file, data, len, 0, &got));
	ASSERT(got == len);
	io_close(file);
	return data;
}

/* CRCs as if the edits had been meant. */
static void repair(uint8_t *raw, uint64_t len)
{
	uint64_t at = HEADER_BYTES;

	if (len < HEADER_BYTES)
		return;
	bytes_put32(raw + 4092, crc32c(0, raw, 4092));
	while (len - at >= CHUNK_HEADER_BYTES) {
		uint8_t *chunk = raw + at;
		uint32_t chunk_len = bytes_get32(chunk), crc;

		if (chunk_len > len - at - CHUNK_HEADER_BYTES)
			break;
		crc = crc32c(0, chunk, 8);
		bytes_put32(chunk + 8,
			    crc32c(crc, chunk + 12,
				   CHUNK_HEADER_BYTES - 12 + chunk_len));
		at += CHUNK_HEADER_BYTES + chunk_len;
	}
}

static void check_err(int err)
{
	ASSERT(!err || err == -E_CORRUPT || err == -E_VERSION || err == -E_KEY);
}

/* Reads it to its end, in pieces that do not match its chunks. */
static int read_back(const struct blob_identity *id, const uint8_t *hash,
		     uint64_t want_len, bool made_up)
{
	struct blob_reader *r;
	uint8_t piece[5003];
	uint64_t at = 0;
	int err = blob_open(id, PATH, "fuzz", hash, &r);

	check_err(err);
	if (err)
		return err;
	while (!err && at < want_len && !blob_at_end(r)) {
		size_t n = base_min(sizeof(piece), want_len - at);

		err = blob_read(r, piece, n);
		check_err(err);
		for (size_t i = 0; !err && !made_up && i < n; i++)
			ASSERT(piece[i] == pattern(at + i));
		at += n;
	}
	if (!err && (at != want_len || !blob_at_end(r)))
		err = -E_CORRUPT;
	blob_close(r);
	return err;
}

static void run_file(const struct blob_identity *id, const uint8_t *data,
		     size_t size, bool repaired)
{
	uint8_t *copy = malloc(size + 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	if (repaired)
		repair(copy, size);
	put_file(id->io, copy, size);
	free(copy);
	check_err(blob_verify(id->io, PATH, NULL, NULL));
	(void)read_back(id, NULL, 100000, true);
}

static void run_edits(const struct blob_identity *id, struct bytes_reader *r,
		      unsigned flags)
{
	uint64_t len = bytes_read32(r) % 200000, bytes;
	struct blob_writer *w;
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint8_t *raw, *before, *plain = malloc(len + 1);
	bool same;

	if (!plain)
		abort();
	for (uint64_t i = 0; i < len; i++)
		plain[i] = pattern(i);
	must(blob_create(id, PATH, "fuzz", &w));
	must(blob_write(w, plain, len));
	must(blob_finish(w, hash, &bytes));
	free(plain);
	raw = get_file(id->io, bytes);
	before = get_file(id->io, bytes);
	while (bytes_left(r) >= 4) {
		uint64_t at = bytes_read32(r);

		/* Bytes that matter lie at the edges, so most go there. */
		if (at & 1)
			at = (at >> 1) % (HEADER_BYTES + CHUNK_HEADER_BYTES);
		else
			at >>= 1;
		raw[at % bytes] = bytes_read8(r);
	}
	if (flags & INPUT_REPAIR)
		repair(raw, bytes);
	same = !memcmp(raw, before, bytes);
	if (flags & INPUT_CUT) {
		same = false;
		bytes--;
	}
	put_file(id->io, raw, bytes);
	free(raw);
	free(before);
	if (same) {
		must(blob_verify(id->io, PATH, hash, NULL));
		must(read_back(id, hash, len, false));
		must(read_back(id, NULL, len, false));
	} else {
		check_err(blob_verify(id->io, PATH, NULL, NULL));
		ASSERT(blob_verify(id->io, PATH, hash, NULL));
		ASSERT(read_back(id, hash, len, false));
		ASSERT(read_back(id, NULL, len, false));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sim_config config = sim_config_calm(1);
	struct sim *sim = sim_create(&config);
	struct io *io = sim_node_create(sim, "fuzz", 0);
	struct blob_identity id = {
		.io = io, .master = key, .cluster_id = cluster};
	struct bytes_reader r;
	unsigned flags;

	bytes_reader_init(&r, data, size);
	flags = bytes_read8(&r);
	must(io_mkdir(io, "d"));
	if (flags & INPUT_IS_FILE)
		run_file(&id, r.p, bytes_left(&r), flags & INPUT_REPAIR);
	else
		run_edits(&id, &r, flags);
	ASSERT(!sim_open_files(sim_node(io)));
	io_free(io);
	sim_free(sim);
	return 0;
}
