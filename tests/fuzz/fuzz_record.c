/* tests/fuzz/fuzz_record.c: any bytes as records, and as a checkpoint.
 *
 * The first byte chooses.  Records are a type, the lengths of meta and body,
 * and the meta: each is decoded, encoded again, and applied to a state, which
 * must keep its own rules and survive being written as a checkpoint and read
 * back.  A checkpoint is its plaintext, put into a blob that is in order. */
#include <string.h>

#include "base/bytes.h"
#include "base/sim/sim.h"
#include "journal/store/checkpoint.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const int fuzz_mutations;

const int fuzz_mutations = 20;

#define NAME "00000001-0000000000001388.ckpt"
#define PATH "d/" CHECKPOINT_DIR "/" NAME
#define RECORD_COUNT_MAX 2000u

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

/* ---- codecs ---- */

/* The encoding of what was decoded must be what it was decoded from. */
static void check_again(const void *meta, size_t len, size_t again_len,
			void *again)
{
	ASSERT(again_len == len && !memcmp(again, meta, len));
	free(again);
}

static void *room_for(size_t bytes)
{
	void *p = malloc(bytes);

	if (!p)
		abort();
	return p;
}

/* With ids and ranges in arrays, as an encoder takes them. */
static void again_enqueue(const void *meta, size_t len)
{
	struct record_enqueue e;
	uint64_t *ids;
	void *buf;

	if (record_enqueue_decode(meta, len, &e))
		return;
	ids = room_for(e.target_count * sizeof(*ids));
	for (uint32_t i = 0; i < e.target_count; i++)
		ids[i] = record_enqueue_target(&e, i);
	e.targets = ids;
	buf = room_for(record_enqueue_room(e.target_count));
	check_again(meta, len, record_enqueue_encode(&e, buf), buf);
	free(ids);
}

static void again_ack(const void *meta, size_t len)
{
	struct record_range *ranges;
	struct record_ack a;
	void *buf;

	if (record_ack_decode(meta, len, &a))
		return;
	ranges = room_for(a.range_count * sizeof(*ranges) + 1);
	for (uint32_t i = 0; i < a.range_count; i++)
		ranges[i] = record_ack_range(&a, i);
	a.ranges = ranges;
	buf = room_for(record_ack_room(a.range_count));
	check_again(meta, len, record_ack_encode(&a, buf), buf);
	free(ranges);
}

static void again_move(const void *meta, size_t len)
{
	struct record_move m;
	uint64_t *ids;
	void *buf;

	if (record_move_decode(meta, len, &m))
		return;
	ids = room_for(m.target_count * sizeof(*ids));
	for (uint32_t i = 0; i < m.target_count; i++)
		ids[i] = record_move_target(&m, i);
	m.targets = ids;
	buf = room_for(record_move_room(&m));
	check_again(meta, len, record_move_encode(&m, buf), buf);
	free(ids);
}

struct again_extents {
	struct record_run *runs;
	struct record_piece_place *pieces;
	uint32_t run_count, piece_count;
};

static int again_run(void *ctx, const struct record_run *r)
{
	struct again_extents *a = ctx;

	a->runs[a->run_count++] = *r;
	return 0;
}

static int again_place(void *ctx, const struct record_piece_place *p)
{
	struct again_extents *a = ctx;

	a->pieces[a->piece_count++] = *p;
	return 0;
}

static void again_extents(const void *meta, size_t len)
{
	struct again_extents a = {0};
	struct record_extents x;
	void *buf;

	if (record_extents_decode(meta, len, &x))
		return;
	a.runs = room_for(x.run_count * sizeof(*a.runs) + 1);
	a.pieces = room_for(x.piece_count * sizeof(*a.pieces) + 1);
	must(record_extents_each(&x, again_run, again_place, &a));
	ASSERT(a.run_count == x.run_count && a.piece_count == x.piece_count);
	x.runs = a.runs;
	x.pieces = a.pieces;
	buf = room_for(record_extents_room(&x));
	check_again(meta, len, record_extents_encode(&x, buf), buf);
	free(a.runs);
	free(a.pieces);
}

#define AGAIN(name, room)                                                      \
	static void again_##name(const void *meta, size_t len)                 \
	{                                                                      \
		struct record_##name rec;                                      \
		void *buf;                                                     \
                                                                               \
		if (record_##name##_decode(meta, len, &rec))                   \
			return;                                                \
		buf = room_for(room);                                          \
		check_again(meta, len, record_##name##_encode(&rec, buf),      \
			    buf);                                              \
	}

AGAIN(piece, RECORD_PIECE_ROOM)
AGAIN(count, record_count_room(rec.extra_len))
AGAIN(address, RECORD_ADDRESS_ROOM)
AGAIN(queue, RECORD_QUEUE_ROOM)
AGAIN(checkpoint, RECORD_CHECKPOINT_ROOM)

static void again_id(const void *meta, size_t len)
{
	uint8_t buf[8];
	uint64_t id;

	if (!record_gone_decode(meta, len, &id))
		ASSERT(record_gone_encode(id, buf) == len &&
		       !memcmp(buf, meta, len));
	if (!record_upload_abort_decode(meta, len, &id))
		ASSERT(record_upload_abort_encode(id, buf) == len &&
		       !memcmp(buf, meta, len));
}

static void again_any(const void *meta, size_t len)
{
	again_enqueue(meta, len);
	again_piece(meta, len);
	again_id(meta, len);
	again_ack(meta, len);
	again_count(meta, len);
	again_move(meta, len);
	again_address(meta, len);
	again_queue(meta, len);
	again_extents(meta, len);
	again_checkpoint(meta, len);
}

/* ---- a directory for checkpoints ---- */

struct place {
	struct sim *sim;
	struct io *io;
	struct checkpoint_place place;
};

static void place_init(struct place *p)
{
	struct sim_config config = sim_config_calm(1);

	p->sim = sim_create(&config);
	p->io = sim_node_create(p->sim, "fuzz", 0);
	p->place = (struct checkpoint_place){
		.identity = {.io = p->io, .master = key, .cluster_id = cluster},
		.dir = "d",
	};
	must(io_mkdir(p->io, "d"));
	must(io_mkdir(p->io, "d/" CHECKPOINT_DIR));
}

static void place_fini(struct place *p)
{
	ASSERT(!sim_open_files(sim_node(p->io)));
	io_free(p->io);
	sim_free(p->sim);
}

/* A state that is written and read back is the same. */
static void check_round_trip(struct state *s, uint64_t lsn)
{
	struct log_position at = {
		.segment = log_segment_key(1, 1), .offset = 4096, .lsn = lsn};
	uint8_t hash[CRYPTO_HASH_BYTES], hash_again[CRYPTO_HASH_BYTES];
	struct checkpoint_file file;
	struct log_position back;
	struct state again;
	struct place p;
	uint64_t bytes, bytes_again;

	place_init(&p);
	must(checkpoint_write(&p.place, s, &at, 1, &file, hash, &bytes));
	must(checkpoint_verify(&p.place, file.name, hash));
	state_init(&again);
	must(checkpoint_read(&p.place, file.name, &again, &back));
	ASSERT(back.lsn == at.lsn && back.offset == at.offset);
	state_check(&again);
	ASSERT(again.next_id == s->next_id);
	ASSERT(again.live_messages == s->live_messages);
	ASSERT(again.live_bytes == s->live_bytes);
	ASSERT(again.live_files == s->live_files);
	ASSERT(again.entry_count == s->entry_count);
	ASSERT(again.run_count == s->run_count);
	ASSERT(again.queues.count == s->queues.count);
	ASSERT(again.addresses.count == s->addresses.count);
	ASSERT(again.uploads.count == s->uploads.count);
	/* What is read can be written, and is no longer for it. */
	must(checkpoint_write(&p.place, &again, &at, 2, &file, hash_again,
			      &bytes_again));
	ASSERT(bytes_again == bytes);
	state_fini(&again);
	place_fini(&p);
}

/* ---- inputs ---- */

static int apply(struct state *s, struct bytes_reader *r, uint64_t lsn)
{
	struct log_record rec = {.lsn = lsn, .type = bytes_read8(r)};
	unsigned where = bytes_read8(r);
	uint8_t *meta;
	int err;

	rec.meta_len = bytes_read16(r);
	rec.loc = (struct log_loc){
		.segment = log_segment_key(1, 1 + where % 5),
		.frame = (uint32_t)lsn,
		.at = where,
		.stored_len = where,
		.body_len = where,
	};
	if (bytes_failed(r))
		return 1;
	rec.meta_len = (uint32_t)base_min(rec.meta_len, bytes_left(r));
	/* Of exactly its size, so that a sanitizer sees the end. */
	meta = room_for(base_max(rec.meta_len, 1));
	if (rec.meta_len)
		memcpy(meta, bytes_read(r, rec.meta_len), rec.meta_len);
	rec.meta = meta;
	again_any(meta, rec.meta_len);
	err = state_apply(s, &rec);
	ASSERT(!err || err == -E_CORRUPT || err == -E_VERSION);
	ASSERT(!err || s->why[0]);
	free(meta);
	return err;
}

static void run_records(struct bytes_reader *r, bool restart)
{
	struct state s;
	uint64_t lsn = 0;
	int err = 0;

	state_init(&s);
	while (!err && bytes_left(r) && lsn < RECORD_COUNT_MAX)
		err = apply(&s, r, ++lsn);
	if (err >= 0) {
		state_check(&s);
		if (restart) {
			state_restart(&s);
			state_check(&s);
		}
		check_round_trip(&s, lsn + 1);
	}
	state_fini(&s);
}

static void run_checkpoint(const uint8_t *data, size_t size)
{
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct log_position position;
	struct blob_writer *w;
	uint64_t bytes;
	struct state s;
	struct place p;
	int err;

	place_init(&p);
	must(blob_create(&p.place.identity, PATH, "STATE", &w));
	must(blob_write(w, data, size));
	must(blob_finish(w, hash, &bytes));
	state_init(&s);
	err = checkpoint_read(&p.place, NAME, &s, &position);
	ASSERT(!err || err == -E_CORRUPT || err == -E_VERSION);
	if (!err) {
		state_check(&s);
		check_round_trip(&s, position.lsn);
	}
	state_fini(&s);
	place_fini(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes_reader r;

	if (!size)
		return 0;
	bytes_reader_init(&r, data + 1, size - 1);
	if (data[0] % 3 == 2)
		run_checkpoint(data + 1, size - 1);
	else
		run_records(&r, data[0] % 3 == 1);
	return 0;
}
