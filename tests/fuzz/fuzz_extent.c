/* tests/fuzz/fuzz_extent.c: the stream of an extent file that some other
 * program wrote.
 *
 * The first byte says what the rest is: a run (head, index, messages), or a
 * stream that is put into a blob in order and read from end to end, with a
 * right footer behind it or without.  Whatever is told must lie within bounds;
 * every byte that is told is touched, for the sanitizers. */
#include "base/bytes.h"
#include "base/sim/sim.h"
#include "journal/store/extent_format.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const int fuzz_mutations;

const int fuzz_mutations = 100;

#define PATH "d/extents/00000001-00000001.ext"

static const uint8_t cluster[16] = "a fuzzer's name";
static struct crypto_key *key;
static volatile unsigned touched;

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

static void touch(const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		touched += p[i];
}

static int on_message(void *ctx, uint64_t queue, const struct extent_message *m)
{
	ASSERT(queue && record_ref_number(m->ref));
	ASSERT(m->props.priority == record_ref_priority(m->ref));
	ASSERT(m->stored_len <= m->body_len &&
	       m->body_len <= LOG_RECORD_BYTES_MAX);
	ASSERT(m->extra_len <= RECORD_EXTRA_MAX);
	ASSERT(m->origin.address_len <= RECORD_NAME_MAX &&
	       m->origin.queue_len <= RECORD_NAME_MAX);
	touch(m->stored, m->stored_len);
	touch(m->extra, m->extra_len);
	touch(m->origin.address, m->origin.address_len);
	touch(m->origin.queue, m->origin.queue_len);
	return 0;
}

static int on_piece(void *ctx, uint64_t upload, uint32_t index,
		    uint32_t body_len, const void *stored, uint32_t stored_len)
{
	ASSERT(stored_len <= body_len && body_len <= LOG_RECORD_BYTES_MAX);
	touch(stored, stored_len);
	return 0;
}

/* ---- one run ---- */

struct run {
	struct extent_head head;
	const uint8_t *data;
	size_t len;
	uint32_t count, last_at, end;
};

static int on_indexed(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct run *r = ctx;
	struct extent_message m;

	ASSERT(!r->count || at > r->last_at);
	ASSERT(at < EXTENT_SPAN_MAX && offset == r->end);
	ASSERT((uint64_t)offset + bytes <= r->head.bytes);
	r->last_at = at;
	r->end = offset + bytes;
	r->count++;
	if (r->end <= r->len &&
	    !extent_read_message(&r->head, at, r->data + offset, bytes, &m))
		return on_message(NULL, r->head.queue, &m);
	return 0;
}

static void run_run(const uint8_t *data, size_t len)
{
	struct run r = {.data = data, .len = len};
	int err = extent_read_head(data, len, &r.head);

	ASSERT(!err || err == -E_CORRUPT);
	if (err || r.head.index_bytes > len - EXTENT_HEAD_BYTES)
		return;
	ASSERT(r.head.bytes <= EXTENT_RUN_BYTES);
	r.end = EXTENT_HEAD_BYTES + r.head.index_bytes;
	err = extent_read_index(&r.head, data + EXTENT_HEAD_BYTES, on_indexed,
				&r);
	ASSERT(!err || (err == -E_CORRUPT && !r.count));
	ASSERT(err || (r.count == r.head.count && r.end == r.head.bytes));
}

/* ---- a file ---- */

static void run_file(const uint8_t *data, size_t len, bool footer)
{
	struct sim_config config = sim_config_calm(1);
	struct sim *sim = sim_create(&config);
	struct io *io = sim_node_create(sim, "fuzz", 0);
	struct blob_identity id = {
		.io = io, .master = key, .cluster_id = cluster};
	struct extent_visit visit = {.message = on_message, .piece = on_piece};
	uint8_t hash[CRYPTO_HASH_BYTES], end[EXTENT_FOOTER_BYTES] = {0};
	struct blob_writer *w;
	uint64_t bytes;
	int err;

	must(io_mkdir(io, "d"));
	must(io_mkdir(io, "d/extents"));
	must(blob_create(&id, PATH, EXTENT_KIND, &w));
	must(blob_write(w, data, len));
	if (footer) {
		/* The last bytes of the input are the table. */
		uint32_t count = (uint32_t)(len / 4 % 4);

		bytes_put32(end + AT_FOOTER_MAGIC, EXTENT_FOOTER_MAGIC);
		bytes_put32(end + AT_FOOTER_COUNT, count);
		bytes_put32(end + AT_FOOTER_TABLE, (uint32_t)len - 4 * count);
		must(blob_write(w, end, sizeof(end)));
	}
	must(blob_finish(w, hash, &bytes));
	err = extent_each(&id, PATH, &visit);
	ASSERT(!err || err == -E_CORRUPT);
	ASSERT(!sim_open_files(sim_node(io)));
	io_free(io);
	sim_free(sim);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] % 3 == 0)
		run_run(data + 1, size - 1);
	else
		run_file(data + 1, size - 1, data[0] % 3 == 1);
	return 0;
}
