/* tests/unit/test_record.c: the codecs of journal/store/record.h.
 *
 * tests/golden/records.txt has one line for each sample below: its name and
 * its bytes in hexadecimal.  A difference means that old journals cannot be
 * read any more: add a decoder, do not change the line. */
#include "tests/unit/test.h"

#include "base/bytes.h"
#include "journal/store/record.h"

#define GOLDEN "tests/golden/records.txt"
#define META_MAX 300000u

static uint8_t meta[META_MAX];

static const uint64_t targets[] = {7, 8, 0x1122334455667788};
/* The first message of priority 0, some of priority 4. */
static const struct record_range ranges[] = {
	{1, 1}, {0x0400000000000005, 0x0400000000000009}};

static const struct record_enqueue enqueue = {
	.props = {.expiry_ms = 1700000060000,
		  .arrived_ms = 1700000000000,
		  .priority = 9,
		  .durable = 1,
		  .format = 0},
	.bytes = 1234,
	.target_count = 3,
	.targets = targets,
};
static const struct record_enqueue enqueue_upload = {
	.props = {.arrived_ms = 1700000000000, .priority = 4},
	.upload = 42,
	.bytes = 1 << 20,
	.piece_count = 4,
	.target_count = 1,
	.targets = targets,
};
static const struct record_piece piece = {.upload = 42, .index = 3};
static const struct record_ack ack = {
	.queue = 7, .bytes = 4321, .range_count = 2, .ranges = ranges};
static const struct record_count count = {.queue = 7,
					  .ref = 0x0400000000000063,
					  .deliveries = 3,
					  .extra_len = 5,
					  .extra = "extra"};
static const struct record_move move = {
	.queue = 7,
	.ref = 0x0900000000000063,
	.props = {.expiry_ms = 1700000060000,
		  .arrived_ms = 1700000000000,
		  .priority = 9,
		  .durable = 1},
	.bytes = 1234,
	.origin = {.address = "orders",
		   .queue = "orders.eu",
		   .address_len = 6,
		   .queue_len = 9,
		   .reason = RECORD_REASON_ATTEMPTS},
	.extra_len = 2,
	.extra = "ex",
	.target_count = 2,
	.targets = targets,
};
static const struct record_run runs[] = {
	{.queue = 7,
	 .first = 0x0400000000000001,
	 .span = 1000,
	 .copied = 900,
	 .offset = 0,
	 .bytes = 1 << 20,
	 .expiry_min_ms = 1700000060000},
	{.queue = 8,
	 .first = 0x0900000000000010,
	 .span = 1,
	 .copied = 1,
	 .offset = 1 << 20,
	 .bytes = 100},
};
static const struct record_piece_place places[] = {
	{.upload = 42,
	 .index = 3,
	 .offset = 1 << 21,
	 .stored_len = 1000,
	 .body_len = 2000},
};
static const struct record_extents extents = {
	.file = 0x8000000100000002,
	.file_bytes = 3 << 20,
	.hash = {8, 7, 6, [31] = 1},
	.run_count = 2,
	.piece_count = 1,
	.runs = runs,
	.pieces = places,
};
static const struct record_address address = {.id = 3,
					      .name = "orders",
					      .name_len = 6,
					      .routing = RECORD_ANYCAST |
							 RECORD_MULTICAST,
					      .flags = 1};
static const struct record_queue queue = {.id = 4,
					  .address = 3,
					  .name = "orders.eu",
					  .name_len = 9,
					  .routing = RECORD_ANYCAST,
					  .flags = RECORD_QUEUE_PAUSED};
static const struct record_checkpoint checkpoint = {
	.lsn = 5000,
	.hash = {1, 2, 3, 4, 5, 6, 7, 8, [31] = 255},
	.name = "00000001-0000000000001388.ckpt",
	.name_len = 30};

struct sample {
	const char *name;
	uint8_t type;
};

static const struct sample samples[] = {
	{"ENQUEUE", RECORD_ENQUEUE},
	{"ENQUEUE-upload", RECORD_ENQUEUE},
	{"PIECE", RECORD_PIECE},
	{"UPLOAD_ABORT", RECORD_UPLOAD_ABORT},
	{"ACK", RECORD_ACK},
	{"COUNT", RECORD_COUNT},
	{"MOVE", RECORD_MOVE},
	{"ADDRESS", RECORD_ADDRESS},
	{"ADDRESS_GONE", RECORD_ADDRESS_GONE},
	{"QUEUE", RECORD_QUEUE},
	{"QUEUE_GONE", RECORD_QUEUE_GONE},
	{"EXTENTS", RECORD_EXTENTS},
	{"CHECKPOINT", RECORD_CHECKPOINT},
};

static size_t encode(const struct sample *s)
{
	switch ((enum record_type)s->type) {
	case RECORD_ENQUEUE:
		return record_enqueue_encode(
			strchr(s->name, '-') ? &enqueue_upload : &enqueue,
			meta);
	case RECORD_PIECE:
		return record_piece_encode(&piece, meta);
	case RECORD_UPLOAD_ABORT:
		return record_upload_abort_encode(42, meta);
	case RECORD_ACK:
		return record_ack_encode(&ack, meta);
	case RECORD_COUNT:
		return record_count_encode(&count, meta);
	case RECORD_MOVE:
		return record_move_encode(&move, meta);
	case RECORD_ADDRESS:
		return record_address_encode(&address, meta);
	case RECORD_ADDRESS_GONE:
	case RECORD_QUEUE_GONE:
		return record_gone_encode(4, meta);
	case RECORD_QUEUE:
		return record_queue_encode(&queue, meta);
	case RECORD_EXTENTS:
		return record_extents_encode(&extents, meta);
	case RECORD_CHECKPOINT:
		return record_checkpoint_encode(&checkpoint, meta);
	}
	return 0;
}

union any {
	struct record_enqueue enqueue;
	struct record_piece piece;
	uint64_t id;
	struct record_ack ack;
	struct record_count count;
	struct record_move move;
	struct record_address address;
	struct record_queue queue;
	struct record_extents extents;
	struct record_checkpoint checkpoint;
};

static int decode(uint8_t type, const void *data, size_t len, union any *ret)
{
	switch ((enum record_type)type) {
	case RECORD_ENQUEUE:
		return record_enqueue_decode(data, len, &ret->enqueue);
	case RECORD_PIECE:
		return record_piece_decode(data, len, &ret->piece);
	case RECORD_UPLOAD_ABORT:
		return record_upload_abort_decode(data, len, &ret->id);
	case RECORD_ACK:
		return record_ack_decode(data, len, &ret->ack);
	case RECORD_COUNT:
		return record_count_decode(data, len, &ret->count);
	case RECORD_MOVE:
		return record_move_decode(data, len, &ret->move);
	case RECORD_ADDRESS:
		return record_address_decode(data, len, &ret->address);
	case RECORD_ADDRESS_GONE:
	case RECORD_QUEUE_GONE:
		return record_gone_decode(data, len, &ret->id);
	case RECORD_QUEUE:
		return record_queue_decode(data, len, &ret->queue);
	case RECORD_EXTENTS:
		return record_extents_decode(data, len, &ret->extents);
	case RECORD_CHECKPOINT:
		return record_checkpoint_decode(data, len, &ret->checkpoint);
	}
	return -E_VERSION;
}

/* In memory of exactly this size, so that a sanitizer sees a byte too far. */
static int decode_exact(uint8_t type, const void *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	union any any;
	int err;

	assert_non_null(copy);
	memcpy(copy, data, len);
	err = decode(type, copy, len, &any);
	free(copy);
	return err;
}

TEST("every record's bytes are those of the golden file")
{
	char line[8192], name[64];
	FILE *golden = fopen(GOLDEN, "r");

	assert_non_null(golden);
	for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
		size_t len = encode(&samples[i]);
		char text[8192];
		int at = snprintf(text, sizeof(text), "%s ", samples[i].name);

		for (size_t k = 0; k < len; k++)
			at += snprintf(text + at, sizeof(text) - (size_t)at,
				       "%02x", meta[k]);
		snprintf(text + at, sizeof(text) - (size_t)at, "\n");
		assert_non_null(fgets(line, sizeof(line), golden));
		assert_int_equal(sscanf(line, "%63s", name), 1);
		assert_string_equal(line, text);
	}
	assert_null(fgets(line, sizeof(line), golden));
	fclose(golden);
}

static int same_run(void *ctx, const struct record_run *r)
{
	unsigned *i = ctx;

	assert_memory_equal(r, &runs[*i], sizeof(*r));
	++*i;
	return 0;
}

static int same_place(void *ctx, const struct record_piece_place *p)
{
	unsigned *i = ctx;

	assert_int_equal(*i, ARRAY_COUNT(runs));
	assert_memory_equal(p, &places[0], sizeof(*p));
	return 77;
}

TEST("a ref is a priority and a number")
{
	uint64_t last = record_ref(9, (1ull << 56) - 1);

	assert_int_equal(record_ref_priority(last), 9);
	assert_int_equal(record_ref_number(last), (1ull << 56) - 1);
	assert_int_equal(record_ref(0, 1), 1);
	assert_true(record_ref(4, 1) > record_ref(3, (1ull << 56) - 1));
}

TEST("what is encoded is decoded")
{
	unsigned seen = 0;
	union any a;

	assert_int_equal(decode(RECORD_ENQUEUE, meta, encode(&samples[0]), &a),
			 0);
	assert_int_equal(a.enqueue.props.expiry_ms, enqueue.props.expiry_ms);
	assert_int_equal(a.enqueue.props.arrived_ms, enqueue.props.arrived_ms);
	assert_int_equal(a.enqueue.props.priority, 9);
	assert_int_equal(a.enqueue.props.durable, 1);
	assert_int_equal(a.enqueue.bytes, 1234);
	assert_int_equal(a.enqueue.target_count, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(record_enqueue_target(&a.enqueue, i),
				 targets[i]);
	assert_int_equal(decode(RECORD_ACK, meta, encode(&samples[4]), &a), 0);
	assert_int_equal(a.ack.queue, 7);
	assert_int_equal(a.ack.range_count, 2);
	assert_int_equal(a.ack.bytes, 4321);
	assert_int_equal(record_ack_range(&a.ack, 1).first, ranges[1].first);
	assert_int_equal(record_ack_range(&a.ack, 1).last, ranges[1].last);
	assert_int_equal(decode(RECORD_COUNT, meta, encode(&samples[5]), &a),
			 0);
	assert_int_equal(a.count.deliveries, 3);
	assert_memory_equal(a.count.extra, "extra", 5);
	assert_int_equal(decode(RECORD_MOVE, meta, encode(&samples[6]), &a), 0);
	assert_int_equal(a.move.ref, move.ref);
	assert_int_equal(a.move.props.expiry_ms, move.props.expiry_ms);
	assert_int_equal(a.move.props.priority, 9);
	assert_int_equal(a.move.bytes, 1234);
	assert_int_equal(a.move.upload, 0);
	assert_int_equal(a.move.origin.reason, RECORD_REASON_ATTEMPTS);
	assert_memory_equal(a.move.origin.address, "orders", 6);
	assert_memory_equal(a.move.origin.queue, "orders.eu", 9);
	assert_memory_equal(a.move.extra, "ex", 2);
	assert_int_equal(record_move_target(&a.move, 1), 8);
	assert_int_equal(decode(RECORD_QUEUE, meta, encode(&samples[9]), &a),
			 0);
	assert_int_equal(a.queue.id, 4);
	assert_int_equal(a.queue.address, 3);
	assert_int_equal(a.queue.flags, RECORD_QUEUE_PAUSED);
	assert_memory_equal(a.queue.name, "orders.eu", 9);
	assert_int_equal(decode(RECORD_EXTENTS, meta, encode(&samples[11]), &a),
			 0);
	assert_int_equal(a.extents.file, extents.file);
	assert_int_equal(a.extents.file_bytes, extents.file_bytes);
	assert_memory_equal(a.extents.hash, extents.hash, 32);
	assert_int_equal(
		record_extents_each(&a.extents, same_run, same_place, &seen),
		77);
	assert_int_equal(
		decode(RECORD_CHECKPOINT, meta, encode(&samples[12]), &a), 0);
	assert_int_equal(a.checkpoint.lsn, 5000);
	assert_memory_equal(a.checkpoint.hash, checkpoint.hash, 32);
}

TEST("a record cut at any byte, or with one too many, is refused")
{
	for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
		size_t len = encode(&samples[i]);

		assert_int_equal(decode_exact(samples[i].type, meta, len), 0);
		for (size_t cut = 0; cut < len; cut++)
			assert_int_equal(
				decode_exact(samples[i].type, meta, cut),
				-E_CORRUPT);
		meta[len] = 0;
		assert_int_equal(decode_exact(samples[i].type, meta, len + 1),
				 -E_CORRUPT);
	}
}

/* Encode sample i, change one field, decode. */
static int with8(size_t i, size_t at, uint8_t v)
{
	size_t len = encode(&samples[i]);

	meta[at] = v;
	return decode_exact(samples[i].type, meta, len);
}

static int with32(size_t i, size_t at, uint32_t v)
{
	size_t len = encode(&samples[i]);

	bytes_put32(meta + at, v);
	return decode_exact(samples[i].type, meta, len);
}

static int with64(size_t i, size_t at, uint64_t v)
{
	size_t len = encode(&samples[i]);

	bytes_put64(meta + at, v);
	return decode_exact(samples[i].type, meta, len);
}

TEST("a field outside its values is refused")
{
	assert_int_equal(with8(0, 16, 10), -E_CORRUPT); /* priority */
	assert_int_equal(with8(0, 17, 2), -E_CORRUPT);	/* durable */
	assert_int_equal(with8(0, 19, 1), -E_CORRUPT);	/* reserved */
	assert_int_equal(with64(0, 20, 1), -E_CORRUPT); /* no pieces */
	assert_int_equal(with32(1, 36, 0), -E_CORRUPT);
	assert_int_equal(with32(0, 40, 0), -E_CORRUPT); /* targets */
	assert_int_equal(with32(0, 40, RECORD_TARGET_MAX + 1), -E_CORRUPT);
	assert_int_equal(with32(0, 40, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with64(0, 44, 0), -E_CORRUPT); /* target 0 */
	assert_int_equal(with64(2, 0, 0), -E_CORRUPT);	/* upload 0 */
	assert_int_equal(with64(3, 0, 0), -E_CORRUPT);
	assert_int_equal(with64(4, 0, 0), -E_CORRUPT);	/* queue 0 */
	assert_int_equal(with32(4, 16, 1), -E_CORRUPT); /* ranges */
	assert_int_equal(with32(4, 16, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with64(4, 20, 2), -E_CORRUPT); /* 2 to 1 */
	assert_int_equal(with8(4, 35, 1), -E_CORRUPT);	/* two lanes */
	assert_int_equal(with64(5, 8, 0), -E_CORRUPT);	/* ref 0 */
	assert_int_equal(with8(5, 15, 10), -E_CORRUPT); /* no such lane */
	assert_int_equal(with32(5, 20, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with8(6, 15, 10), -E_CORRUPT); /* no such lane */
	assert_int_equal(with8(6, 32, 10), -E_CORRUPT); /* priority */
	assert_int_equal(with64(6, 36, 1), -E_CORRUPT); /* no pieces */
	assert_int_equal(with8(6, 56, 0), -E_CORRUPT);	/* reason */
	assert_int_equal(with8(6, 56, 5), -E_CORRUPT);
	assert_int_equal(with32(6, 65, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with8(7, 8, 0), -E_CORRUPT); /* routing */
	assert_int_equal(with8(7, 8, 4), -E_CORRUPT);
	assert_int_equal(with8(7, 9, 2), -E_CORRUPT);  /* flags */
	assert_int_equal(with8(7, 12, 0), -E_CORRUPT); /* zero in name */
	assert_int_equal(with8(9, 16, 3), -E_CORRUPT);
	assert_int_equal(with8(9, 17, 8), -E_CORRUPT);
	assert_int_equal(with64(9, 8, 0), -E_CORRUPT);	 /* address 0 */
	assert_int_equal(with8(11, 7, 0), -E_CORRUPT);	 /* a segment */
	assert_int_equal(with32(11, 48, 1), -E_CORRUPT); /* runs */
	assert_int_equal(with32(11, 48, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with32(11, 52, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with64(11, 56, 0), -E_CORRUPT);   /* queue 0 */
	assert_int_equal(with8(11, 71, 10), -E_CORRUPT);   /* no such lane */
	assert_int_equal(with32(11, 72, 899), -E_CORRUPT); /* copied more */
	assert_int_equal(with32(11, 72, 0), -E_CORRUPT);
	assert_int_equal(with32(11, 76, 0), -E_CORRUPT);
	assert_int_equal(with32(11, 80, UINT32_MAX), -E_CORRUPT); /* end */
	assert_int_equal(with32(11, 84, 899), -E_CORRUPT); /* too short */
	assert_int_equal(with32(11, 84, RECORD_RUN_BYTES_MAX + 1), -E_CORRUPT);
	/* numbers beyond the last */
	assert_int_equal(with64(11, 64, record_ref(5, 0) - 999), -E_CORRUPT);
	assert_int_equal(with64(11, 136, 0), -E_CORRUPT); /* upload 0 */
	assert_int_equal(with32(11, 148, UINT32_MAX), -E_CORRUPT);
	assert_int_equal(with8(12, 42, '/'), -E_CORRUPT); /* path */
}

TEST("the largest of everything fits its room")
{
	static uint64_t many[RECORD_TARGET_MAX];
	static struct record_range wide[RECORD_RANGE_MAX];
	static char extra[RECORD_EXTRA_MAX];
	static char name[RECORD_NAME_MAX];
	struct record_enqueue e = enqueue;
	struct record_ack a = {
		.queue = 1, .range_count = RECORD_RANGE_MAX, .ranges = wide};
	struct record_move m = move;
	struct record_queue q = queue;
	static struct record_run every_run[RECORD_RUN_MAX];
	static struct record_piece_place every_place[RECORD_RUN_MAX];
	struct record_extents x = extents;
	size_t len;

	memset(name, 'n', sizeof(name));
	for (size_t i = 0; i < RECORD_TARGET_MAX; i++)
		many[i] = i + 1;
	e.target_count = m.target_count = RECORD_TARGET_MAX;
	e.targets = m.targets = many;
	m.extra = extra;
	m.extra_len = sizeof(extra);
	m.origin.address = m.origin.queue = name;
	m.origin.address_len = m.origin.queue_len = sizeof(name);
	q.name = name;
	q.name_len = sizeof(name);
	len = record_enqueue_encode(&e, meta);
	assert_true(len <= record_enqueue_room(e.target_count));
	assert_int_equal(decode_exact(RECORD_ENQUEUE, meta, len), 0);
	len = record_ack_encode(&a, meta);
	assert_true(len <= record_ack_room(a.range_count));
	assert_int_equal(decode_exact(RECORD_ACK, meta, len), 0);
	len = record_move_encode(&m, meta);
	assert_true(len <= record_move_room(&m));
	assert_int_equal(decode_exact(RECORD_MOVE, meta, len), 0);
	for (size_t i = 0; i < RECORD_RUN_MAX; i++) {
		every_run[i] = runs[0];
		every_place[i] = places[0];
	}
	x.run_count = x.piece_count = RECORD_RUN_MAX;
	x.runs = every_run;
	x.pieces = every_place;
	len = record_extents_encode(&x, meta);
	assert_true(len <= record_extents_room(&x));
	assert_int_equal(decode_exact(RECORD_EXTENTS, meta, len), 0);
	len = record_queue_encode(&q, meta);
	assert_true(len <= RECORD_QUEUE_ROOM);
	assert_int_equal(decode_exact(RECORD_QUEUE, meta, len), 0);
	len = record_checkpoint_encode(&checkpoint, meta);
	assert_true(len <= RECORD_CHECKPOINT_ROOM);
}

TEST("random damage is decoded or refused, and nothing worse")
{
	uint64_t seed = 0x9e3779b97f4a7c15;
	size_t refused = 0;

	for (unsigned round = 0; round < 100000; round++) {
		const struct sample *s = &samples[round % ARRAY_COUNT(samples)];
		size_t len = encode(s);

		for (unsigned k = 0; k < 3; k++) {
			seed = seed * 6364136223846793005u +
			       1442695040888963407u;
			meta[(seed >> 33) % len] = (uint8_t)(seed >> 17);
		}
		refused += decode_exact(s->type, meta, len) == -E_CORRUPT;
	}
	assert_true(refused > 10000 && refused < 90000);
}

TEST("every record type has a name and no other has")
{
	for (unsigned type = 0; type < 256; type++) {
		int known = type >= RECORD_ENQUEUE && type <= RECORD_CHECKPOINT;

		assert_int_equal(record_type_name((uint8_t)type) != NULL,
				 known);
	}
	assert_string_equal(record_type_name(RECORD_MOVE), "MOVE");
}

TEST_MAIN()
