/* tests/unit/test_log_reader.c: bodies read back while the disk misbehaves.
 *
 * One rule for all: a read ends with the bytes that were appended or with
 * -E_CORRUPT or the disk's own error, and what failed once may be read
 * again. */
#include "base/sim/sim.h"
#include "tests/unit/log_harness.h"

/* Within a chunk, over several chunks, compressed, and empty. */
static const uint32_t lengths[] = {30, 3000, 100000, 200000, 0, 70000, 65536};

#define BODY_COUNT ARRAY_COUNT(lengths)

struct bodies {
	struct sim *sim;
	struct sim_disk *disk;
	struct io *io;
	struct harness h;
	struct log_loc locs[BODY_COUNT];
	uint8_t *data[BODY_COUNT];
};

struct reading {
	struct log_read read;
	struct bodies *bodies;
	int err;
	bool done;
};

static void bodies_init(struct bodies *b)
{
	struct sim_config config = sim_config_calm(21);

	memset(b, 0, sizeof(*b));
	b->sim = sim_create(&config);
	b->disk = sim_disk(b->sim, 0);
	b->io = sim_node_create(b->sim, "broker", 0);
	harness_init(&b->h, b->io, "data");
	b->h.options.compress_level = 1;
	assert_int_equal(harness_open(&b->h), 0);
	for (uint32_t i = 0; i < BODY_COUNT; i++) {
		struct harness_append *a =
			harness_append_new(&b->h, i, lengths[i]);

		/* The last but one shrinks. */
		if (i == BODY_COUNT - 2)
			memset(a->body, 'z', lengths[i]);
		b->data[i] = malloc(lengths[i] + 1);
		memcpy(b->data[i], a->body, lengths[i]);
		harness_send(&b->h, a);
		harness_wait(&b->h);
		assert_int_equal(a->append.err, 0);
		b->locs[i] = a->append.loc;
		free(a);
	}
	assert_true(b->locs[BODY_COUNT - 2].stored_len < 70000);
}

static void bodies_fini(struct bodies *b)
{
	harness_close(&b->h, true);
	harness_fini(&b->h);
	for (uint32_t i = 0; i < BODY_COUNT; i++)
		free(b->data[i]);
	assert_int_equal(sim_open_files(sim_node(b->io)), 0);
	io_free(b->io);
	sim_free(b->sim);
}

static void reading_done(struct log_read *read, int err)
{
	struct reading *r = container_of(read, struct reading, read);

	r->err = err;
	r->done = true;
	loop_stop(r->bodies->h.main);
}

/* The error, when what came is right or nothing came. */
static int read_one(struct bodies *b, struct log_reader *reader, uint32_t i)
{
	struct reading r = {.read.done = reading_done, .bodies = b};
	uint8_t *buf = malloc(lengths[i] + 1);

	memset(buf, 0xee, lengths[i] + 1);
	log_read(reader, &r.read, &b->locs[i], buf);
	while (!r.done)
		loop_run(b->h.main);
	if (!r.err)
		assert_memory_equal(buf, b->data[i], lengths[i]);
	assert_int_equal(buf[lengths[i]], 0xee);
	free(buf);
	return r.err;
}

/* Every body through a new reader, with the k-th read of the disk faulty;
 * then again.  Returns the number of reads that failed, and whether there was
 * a k-th. */
static unsigned read_with_fault(struct bodies *b, enum sim_fault fault,
				uint64_t k, bool *ret_reached)
{
	uint64_t before = sim_disk_reads(b->disk);
	struct log_reader *reader;
	unsigned failed = 0;

	sim_disk_fault_at(b->disk, fault, before + k);
	assert_int_equal(log_reader_create(b->h.log, b->h.main, &reader), 0);
	for (uint32_t i = 0; i < BODY_COUNT; i++) {
		int err = read_one(b, reader, i);

		if (err)
			assert_int_equal(err, fault == SIM_FAULT_READ_EIO
						      ? -EIO
						      : -E_CORRUPT);
		failed += err != 0;
	}
	*ret_reached = sim_disk_reads(b->disk) >= before + k;
	sim_disk_fault_at(b->disk, fault, 0);
	/* It was the read that failed, not the data. */
	for (uint32_t i = 0; i < BODY_COUNT; i++)
		assert_int_equal(read_one(b, reader, i), 0);
	log_reader_free(reader);
	return failed;
}

static unsigned sweep(enum sim_fault fault, uint64_t *ret_reads)
{
	unsigned failed = 0;
	bool reached = true;
	struct bodies b;

	bodies_init(&b);
	for (uint64_t k = 1; reached; k++) {
		unsigned n = read_with_fault(&b, fault, k, &reached);

		/* One fault harms one body. */
		assert_true(n <= 1);
		failed += n;
		*ret_reads = k - !reached;
	}
	bodies_fini(&b);
	return failed;
}

TEST("an error at any read is told, and harms no other body")
{
	uint64_t reads;
	unsigned failed = sweep(SIM_FAULT_READ_EIO, &reads);

	assert_true(reads >= BODY_COUNT - 2);
	assert_int_equal(failed, reads);
}

TEST("a bit that flips on its way from the disk never becomes wrong bytes")
{
	uint64_t reads;
	unsigned failed = sweep(SIM_FAULT_READ_FLIP, &reads);

	/* Some flips hit bytes that nobody looks at. */
	assert_true(failed > 0 && failed <= reads);
}

TEST("a bit that has flipped on the disk is damage for good")
{
	struct log_reader *reader;
	char path[LOG_PATH_BYTES];
	unsigned failed = 0;
	struct bodies b;

	bodies_init(&b);
	for (uint32_t i = 0; i < BODY_COUNT; i++) {
		const struct log_loc *loc = &b.locs[i];
		uint64_t at = (uint64_t)loc->frame * IO_BLOCK +
			      LOG_FRAME_HEADER_BYTES + loc->at +
			      loc->stored_len / 2;

		log_segment_path("data", loc->segment, path);
		assert_int_equal(sim_disk_flip(b.disk, path, at, 1), 0);
		assert_int_equal(log_reader_create(b.h.log, b.h.main, &reader),
				 0);
		for (int turn = 0; lengths[i] && turn < 3; turn++) {
			assert_int_equal(read_one(&b, reader, i), -E_CORRUPT);
			failed++;
		}
		assert_int_equal(sim_disk_flip(b.disk, path, at, 1), 0);
		assert_int_equal(read_one(&b, reader, i), 0);
		log_reader_free(reader);
	}
	assert_int_equal(failed, 3 * (BODY_COUNT - 1));
	bodies_fini(&b);
}

TEST_MAIN()
