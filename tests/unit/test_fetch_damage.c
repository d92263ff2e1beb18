/* tests/unit/test_fetch_damage.c: messages read back from files that have
 * gone or are damaged, by disks that fail, and without memory.
 *
 * One rule for all: each message comes as it is or with an error, and an error
 * only where there is a reason. */
#include "tests/unit/fetch_rig.h"

/* ---- files that go ---- */

static void path_of(uint32_t file, char *ret, size_t room)
{
	assert_int_equal(
		extent_path("data", store_file_key(1, file), ret, room), 0);
}

static void move_on_second_ask(struct rig *r)
{
	if (r->asked == 2)
		move(r, 1, r->next - 1);
}

TEST("what has moved between plan and read is read where it is now")
{
	struct rig *r = rig_create(6);
	char path[256];

	for (int i = 0; i < 200; i++)
		enqueue(r, 500);
	move(r, 1, 200);
	path_of(1, path, sizeof(path));
	assert_int_equal(io_unlink(r->h.io, path), 0);
	r->asked = 0;
	r->on_ask = move_on_second_ask;
	assert_int_equal(fetch(r, 1, 201, 1000, 1000000, 0), 0);
	assert_int_equal(r->fetch.message_count, 200);
	assert_int_equal(r->asked, 2);
	assert_int_equal(r->damage_count, 0);
	r->on_ask = NULL;
	rig_free(r);
}

TEST("a file that is named and not there is lost, after some tries")
{
	struct rig *r = rig_create(7);
	char path[256];

	for (int i = 0; i < 20; i++)
		enqueue(r, 500);
	enqueue(r, UINT32_MAX);
	for (int i = 0; i < 20; i++)
		enqueue(r, 500);
	{
		struct record_extents record = make_extent(r, 1, 30, true);

		apply_extent(r, &record);
	}
	path_of(1, path, sizeof(path));
	assert_int_equal(io_unlink(r->h.io, path), 0);
	r->asked = 0;
	r->may_fail = true;
	fetch_all(r, 1, r->next, 1000, 1000000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n <= 30 && n != 21 ? -E_LOST : 0);
	assert_true(r->asked >= 8 && r->asked < 20);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].queue, QUEUE);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 1));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 30));
	assert_string_equal(r->damage[0].file, "extents/00000001-00000001.ext");
	assert_int_equal(read_piece(r, r->known[21].upload, 0,
				    r->known[21].piece_bytes[0]),
			 -E_CORRUPT);
	assert_int_equal(r->damage_count, 2);
	rig_free(r);
}

/* ---- damage ---- */

/* Which messages of the only run have no byte in the chunk. */
struct touching {
	struct rig *r;
	uint64_t from, to; /* of the stream, past the run's offset */
	bool *touched;	   /* by number */
};

static int note_touched(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct touching *t = ctx;

	t->touched[1 + at] =
		offset < t->to && (uint64_t)offset + bytes > t->from;
	return 0;
}

static void find_touched(struct rig *r, const char *path, uint64_t from,
			 uint64_t to, bool *touched)
{
	struct touching t = {r, from, to, touched};
	uint8_t *data = malloc(EXTENT_RUN_BYTES);
	struct extent_head head;
	struct blob_reader *b;

	assert_int_equal(blob_open(&r->store.place.identity, path, EXTENT_KIND,
				   NULL, &b),
			 0);
	assert_int_equal(blob_read(b, data, EXTENT_HEAD_BYTES), 0);
	assert_int_equal(extent_read_head(data, EXTENT_HEAD_BYTES, &head), 0);
	assert_int_equal(blob_read(b, data, head.index_bytes), 0);
	assert_int_equal(extent_read_index(&head, data, note_touched, &t), 0);
	if (from < EXTENT_HEAD_BYTES + head.index_bytes)
		for (uint32_t n = 1; n < r->next; n++)
			touched[n] = true;
	blob_close(b);
	free(data);
}

TEST("damage at any place of an extent file: an error for each message that "
     "it touches, for no other, and no wrong byte")
{
	struct rig *r = rig_create(8);
	bool *touched = calloc(REFS_MAX, 1);
	char path[256];
	uint64_t size;
	struct io_file *file;

	for (int i = 0; i < 400; i++)
		enqueue(r, (uint32_t)(i * 37 % 1500));
	ack(r, 20, 29);
	move(r, 1, 400);
	ack(r, 50, 55);
	assert_int_equal(r->store.state.run_count, 1);
	path_of(1, path, sizeof(path));
	assert_int_equal(io_open(r->h.io, path, IO_READ, &file), 0);
	assert_int_equal(io_size(file, &size), 0);
	io_close(file);
	assert_true(size > 3 * BLOB_CHUNK_STRIDE);
	r->may_fail = true;
	for (uint64_t at = 0; at < size; at += 911) {
		uint64_t chunk =
			at < BLOB_HEADER_BYTES
				? 0
				: (at - BLOB_HEADER_BYTES) / BLOB_CHUNK_STRIDE;
		uint32_t count_max = at % 3 ? 1000 : 9, wrong = 0;

		find_touched(r, path, chunk * BLOB_CHUNK_BYTES,
			     (chunk + 1) * BLOB_CHUNK_BYTES, touched);
		assert_int_equal(sim_disk_flip(r->disk, path, at, at % 8), 0);
		store_reader_free(r->reader);
		assert_int_equal(
			store_reader_create(&r->store, r->h.main, &r->reader),
			0);
		r->damage_count = 0;
		fetch_all(r, 1, r->next, count_max, 4000000, 0);
		for (uint32_t n = 1; n < r->next; n++) {
			bool bad = touched[n] || at < BLOB_HEADER_BYTES;

			if (!r->known[n].there)
				continue;
			wrong += bad;
			assert_int_equal(r->errs[n], bad ? -E_CORRUPT : 0);
		}
		assert_int_equal(wrong > 0, r->damage_count > 0);
		for (size_t i = 0; i < r->damage_count; i++) {
			assert_int_equal(r->damage[i].err, -E_CORRUPT);
			assert_true(at >= r->damage[i].offset &&
				    at < r->damage[i].offset +
						    r->damage[i].bytes);
		}
		assert_int_equal(sim_disk_flip(r->disk, path, at, at % 8), 0);
	}
	free(touched);
	rig_free(r);
}

TEST("a body that is damaged in the journal is told with its place")
{
	struct rig *r = rig_create(9);
	const struct state_queue *q;
	struct entry e;
	struct log_loc loc;
	char path[64];

	for (int i = 0; i < 5; i++)
		enqueue(r, 100);
	q = idmap_get(&r->store.state.queues, QUEUE);
	assert_true(entries_get(&q->lanes[4]->entries, record_ref(4, 3), &e));
	loc = state_loc(&r->store.state, &e.place);
	snprintf(path, sizeof(path), "segments/%08x-%08x.log",
		 (uint32_t)(loc.segment >> 32), (uint32_t)loc.segment);
	{
		char full[128];

		snprintf(full, sizeof(full), "data/%s", path);
		assert_int_equal(sim_disk_flip(r->disk, full,
					       loc.frame * (uint64_t)IO_BLOCK +
						       LOG_FRAME_HEADER_BYTES +
						       loc.at,
					       1),
				 0);
	}
	r->may_fail = true;
	fetch_all(r, 1, r->next, 10, 10000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n == 3 ? -E_CORRUPT : 0);
	assert_int_equal(r->damage_count, 1);
	assert_string_equal(r->damage[0].file, path);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 3));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 3));
	assert_int_equal(r->damage[0].offset, loc.frame * (uint64_t)IO_BLOCK);
	rig_free(r);
}

TEST("a message that its run's index does not know is damage, not a gap")
{
	struct rig *r = rig_create(12);
	struct record_extents record;

	for (int i = 0; i < 10; i++)
		enqueue(r, 100);
	r->known[5].there = false;
	record = make_extent(r, 1, 10, false);
	r->known[5].there = true;
	((struct record_run *)(uintptr_t)record.runs)->copied++;
	apply_extent(r, &record);
	r->may_fail = true;
	fetch_all(r, 1, r->next, 10, 10000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n == 5 ? -E_CORRUPT : 0);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 5));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 5));
	rig_free(r);
}

TEST("a damaged piece is told, and one that is sound is read")
{
	struct rig *r = rig_create(13);
	struct record_extents record;
	const struct known *k;
	char path[256];

	enqueue(r, UINT32_MAX);
	k = &r->known[1];
	record = make_extent(r, 1, 1, true);
	apply_extent(r, &record);
	path_of(1, path, sizeof(path));
	assert_int_equal(
		sim_disk_flip(r->disk, path, blob_chunk_offset(0) + 90, 3), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0]),
			 -E_CORRUPT);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].err, -E_CORRUPT);
	assert_int_equal(r->damage[0].offset, blob_chunk_offset(0));
	assert_int_equal(
		sim_disk_flip(r->disk, path, blob_chunk_offset(0) + 90, 3), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0]), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0] - 1),
			 -EINVAL);
	rig_free(r);
}

/* ---- faults ---- */

TEST("an error at any read of the disk: the others come, and no wrong byte")
{
	static const enum sim_fault faults[] = {SIM_FAULT_READ_EIO,
						SIM_FAULT_READ_FLIP};
	struct rig *r = rig_create(10);

	churn(r, 60);
	r->may_fail = true;
	for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
		bool reached = true;

		for (uint64_t k = 1; reached; k++) {
			uint64_t before = sim_disk_reads(r->disk);

			store_reader_free(r->reader);
			assert_int_equal(store_reader_create(&r->store,
							     r->h.main,
							     &r->reader),
					 0);
			sim_disk_fault_at(r->disk, faults[i], before + k);
			fetch_all(r, 1, r->next, 100, 1000000, 0);
			reached = sim_disk_reads(r->disk) >= before + k;
			sim_disk_fault_at(r->disk, faults[i], 0);
			for (uint32_t n = 1; n < r->next; n++)
				assert_true(!r->errs[n] ||
					    r->errs[n] == -E_CORRUPT ||
					    (i == 0 && r->errs[n] == -EIO));
		}
	}
	/* It was the reading, not the data. */
	r->may_fail = false;
	fetch_all(r, 1, r->next, 100, 1000000, 0);
	rig_free(r);
}

TEST("without memory at any allocation: an error, and the next try is right")
{
	struct rig *r = rig_create(11);
	bool reached = true;

	churn(r, 40);
	for (uint64_t k = 1; reached; k++) {
		uint64_t first = 1;

		/* One failure, wherever it meets a fetch. */
		store_reader_free(r->reader);
		assert_int_equal(
			store_reader_create(&r->store, r->h.main, &r->reader),
			0);
		assert_int_equal(sim_alloc_fail_at(k), 0);
		while (first < r->next) {
			int err = fetch(r, first, r->next, 200, 4000000, 0);

			if (err)
				assert_int_equal(err, -ENOMEM);
			else
				first = record_ref_number(r->fetch.next);
		}
		reached = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
	}
	assert_int_equal(r->damage_count, 0);
	rig_free(r);
}

TEST_MAIN()
