/* tests/unit/test_extent.c: extent files, written and read. */
#include "tests/unit/extent_items.h"

#include "journal/store/extent_format.h"

#define KEY store_file_key(3, 0x1234)
#define PATH "d/extents/00000003-00001234.ext"
#define GOLDEN "tests/golden/extent-1.ext"
#define ITEMS_MAX 20000u

static const uint8_t cluster[16] = "a cluster's name";

struct files {
	struct sim *sim;
	struct io *io;
	struct blob_identity id;
	struct crypto_key *key;
	struct item *items; /* in the order they were added */
	uint32_t count;
	uint32_t pieces; /* added behind the messages */
	struct record_extents record;
};

static void files_init_on(struct files *f, struct sim *sim, struct io *io)
{
	memset(f, 0, sizeof(*f));
	f->sim = sim;
	f->io = io;
	f->key = harness_key();
	f->id = (struct blob_identity){
		.io = io, .master = f->key, .cluster_id = cluster};
	f->items = calloc(ITEMS_MAX, sizeof(*f->items));
}

static void files_init(struct files *f)
{
	struct sim_config config = sim_config_calm(1);
	struct sim *sim = sim_create(&config);

	files_init_on(f, sim, sim_node_create(sim, "extents", 0));
	assert_int_equal(io_mkdir(f->io, "d"), 0);
	assert_int_equal(io_mkdir(f->io, "d/extents"), 0);
}

static void files_fini(struct files *f)
{
	for (uint32_t i = 0; i < f->count; i++)
		item_free(&f->items[i]);
	free(f->items);
	extent_free_record(&f->record);
	crypto_key_free(f->key);
	if (f->sim)
		assert_int_equal(sim_open_files(sim_node(f->io)), 0);
	io_free(f->io);
	sim_free(f->sim);
}

static void files_item(struct files *f, uint64_t queue, uint64_t ref,
		       uint32_t len)
{
	assert_true(f->count < ITEMS_MAX);
	f->items[f->count++] = item_make(queue, ref, len);
}

/* Several queues and priorities, gaps, every length from none to the most. */
static void files_mix(struct files *f, uint32_t per_lane)
{
	static const uint32_t lens[] = {0, 1, 300, 64, 5000, 1, 70000, 0};

	for (uint64_t queue = 1; queue < 4; queue++)
		for (unsigned priority = 3; priority < 5; priority++) {
			uint64_t number = queue * 7;

			for (uint32_t i = 0; i < per_lane; i++) {
				uint64_t x = item_mix(queue + i * 97);

				files_item(f, queue,
					   record_ref(priority, number),
					   lens[x % 8] + (uint32_t)x % 50);
				number += 1 + (x >> 13) % 3;
			}
		}
}

static void piece_make(uint32_t i, uint8_t *data, uint32_t *ret_len)
{
	static const uint32_t lens[] = {1, 262144, 65536 - 32, 0, 999};

	*ret_len = lens[i % ARRAY_COUNT(lens)];
	harness_pattern(data, *ret_len, i + 7777);
}

static int files_write(struct files *f, const char *dir)
{
	uint8_t *piece = malloc(ITEM_BODY_MAX);
	struct extent_writer *w;
	int err = extent_writer_create(&f->id, dir, KEY, &w);

	if (err) {
		free(piece);
		return err;
	}
	for (uint32_t i = 0; !err && i < f->count; i++)
		err = extent_add(w, f->items[i].queue, &f->items[i].m);
	for (uint32_t i = 0; !err && i < f->pieces; i++) {
		uint32_t len;

		piece_make(i, piece, &len);
		err = extent_add_piece(w, 50 + i / 3, i % 3, piece, len,
				       len + i % 2);
	}
	free(piece);
	if (!err)
		return extent_finish(w, &f->record);
	extent_abandon(w);
	return err;
}

/* ---- what extent_each() tells ---- */

struct telling {
	struct files *f;
	uint32_t next, told, pieces;
	bool gaps; /* damage: some may be left out */
};

static int tell_message(void *ctx, uint64_t queue,
			const struct extent_message *m)
{
	struct telling *t = ctx;

	while (t->gaps && t->next < t->f->count &&
	       (t->f->items[t->next].m.ref != m->ref ||
		t->f->items[t->next].queue != queue))
		t->next++;
	assert_true(t->next < t->f->count);
	item_check(&t->f->items[t->next++], queue, m);
	t->told++;
	return 0;
}

static int tell_piece(void *ctx, uint64_t upload, uint32_t index,
		      uint32_t body_len, const void *stored,
		      uint32_t stored_len)
{
	uint32_t i = (uint32_t)(upload - 50) * 3 + index, len;
	uint8_t *piece = malloc(ITEM_BODY_MAX);
	struct telling *t = ctx;

	assert_true(i < t->f->pieces);
	piece_make(i, piece, &len);
	assert_int_equal(stored_len, len);
	assert_int_equal(body_len, len + i % 2);
	assert_memory_equal(stored, piece, len);
	free(piece);
	t->pieces++;
	return 0;
}

static int files_each(struct files *f, const char *path, bool gaps,
		      struct telling *ret)
{
	struct extent_visit visit = {
		.message = tell_message, .piece = tell_piece, .ctx = ret};

	*ret = (struct telling){.f = f, .gaps = gaps};
	return extent_each(&f->id, path, &visit);
}

/* ---- what the record says ---- */

static uint8_t *read_stream(struct files *f, const char *path, size_t *ret_len)
{
	struct blob_reader *r;
	size_t len = 0, room = 1 << 20;
	uint8_t *data = malloc(room);

	assert_int_equal(
		blob_open(&f->id, path, EXTENT_KIND, f->record.hash, &r), 0);
	while (!blob_at_end(r)) {
		if (len == room)
			data = realloc(data, room *= 2);
		assert_int_equal(blob_read(r, data + len++, 1), 0);
	}
	blob_close(r);
	*ret_len = len;
	return data;
}

struct run_check {
	struct files *f;
	const struct record_run *run;
	const struct extent_head *head;
	const uint8_t *data; /* of the run */
	uint32_t item, count;
	uint64_t expiry_min_ms;
};

static int check_indexed(void *ctx, uint32_t at, uint32_t offset,
			 uint32_t bytes)
{
	struct run_check *c = ctx;
	const struct item *item = &c->f->items[c->item++];
	struct extent_message m;
	uint64_t expiry = item->m.props.expiry_ms;

	assert_int_equal(
		extent_read_message(c->head, at, c->data + offset, bytes, &m),
		0);
	item_check(item, c->head->queue, &m);
	if (expiry && (!c->expiry_min_ms || expiry < c->expiry_min_ms))
		c->expiry_min_ms = expiry;
	c->count++;
	return 0;
}

static void check_record(struct files *f, const char *path)
{
	size_t len;
	uint8_t *data = read_stream(f, path, &len);
	struct run_check c = {.f = f};

	assert_int_equal(f->record.file, KEY);
	for (uint32_t i = 0; i < f->record.run_count; i++) {
		const struct record_run *run = &f->record.runs[i];
		struct extent_head head;

		c.run = run;
		c.head = &head;
		c.data = data + run->offset;
		c.count = 0;
		c.expiry_min_ms = 0;
		assert_true(run->offset + (uint64_t)run->bytes <= len);
		assert_true(run->bytes <= EXTENT_RUN_BYTES);
		assert_true(run->span <= EXTENT_SPAN_MAX);
		assert_int_equal(
			extent_read_head(c.data, EXTENT_HEAD_BYTES, &head), 0);
		assert_int_equal(head.queue, run->queue);
		assert_int_equal(head.first, run->first);
		assert_int_equal(head.bytes, run->bytes);
		assert_int_equal(head.count, run->copied);
		assert_int_equal(run->first, f->items[c.item].m.ref);
		assert_int_equal(extent_read_index(&head,
						   c.data + EXTENT_HEAD_BYTES,
						   check_indexed, &c),
				 0);
		assert_int_equal(c.count, run->copied);
		assert_int_equal(run->span,
				 f->items[c.item - 1].m.ref - run->first + 1);
		assert_int_equal(c.expiry_min_ms, run->expiry_min_ms);
	}
	assert_int_equal(c.item, f->count);
	for (uint32_t i = 0; i < f->record.piece_count; i++) {
		const struct record_piece_place *p = &f->record.pieces[i];
		uint8_t *piece = malloc(ITEM_BODY_MAX);
		uint32_t piece_len;

		piece_make(i, piece, &piece_len);
		assert_int_equal(p->upload, 50 + i / 3);
		assert_int_equal(p->index, i % 3);
		assert_int_equal(p->stored_len, piece_len);
		assert_int_equal(p->body_len, piece_len + i % 2);
		assert_memory_equal(data + p->offset, piece, piece_len);
		free(piece);
	}
	assert_int_equal(f->record.piece_count, f->pieces);
	free(data);
}

/* ---- tests ---- */

TEST("names of extent files are made and parsed")
{
	char name[EXTENT_NAME_BYTES], path[64];
	uint64_t key = 0;

	extent_name(KEY, name);
	assert_string_equal(name, "00000003-00001234.ext");
	assert_int_equal(extent_path("d", KEY, path, sizeof(path)), 0);
	assert_string_equal(path, PATH);
	assert_int_equal(extent_path("d", KEY, path, strlen(PATH)),
			 -ENAMETOOLONG);
	assert_int_equal(extent_parse_name(name, &key), 0);
	assert_int_equal(key, KEY);
	assert_true(store_is_extent(key));
	assert_false(store_is_extent(log_segment_key(3, 0x1234)));
	assert_int_equal(extent_parse_name("00000003-00001234.exu", &key),
			 -EINVAL);
	assert_int_equal(extent_parse_name("0000003-000001234.ext", &key),
			 -EINVAL);
	assert_int_equal(extent_parse_name("0000000G-00001234.ext", &key),
			 -EINVAL);
	assert_int_equal(extent_parse_name("00000003-00001234.ext2", &key),
			 -EINVAL);
	assert_int_equal(extent_parse_name("80000003-00001234.ext", &key),
			 -EINVAL);
	assert_int_equal(extent_parse_name("", &key), -EINVAL);
}

TEST("messages and pieces come back, by the record and by the file alone")
{
	struct telling told;
	struct files f;

	files_init(&f);
	files_mix(&f, 200);
	f.pieces = 8;
	assert_int_equal(files_write(&f, "d"), 0);
	check_record(&f, PATH);
	assert_int_equal(blob_verify(f.io, PATH, f.record.hash, NULL), 0);
	assert_int_equal(files_each(&f, PATH, false, &told), 0);
	assert_int_equal(told.told, f.count);
	assert_int_equal(told.pieces, f.pieces);
	files_fini(&f);
}

TEST("an extent file may be empty, or hold nothing but pieces")
{
	struct telling told;

	for (uint32_t pieces = 0; pieces < 5; pieces += 4) {
		struct files f;

		files_init(&f);
		f.pieces = pieces;
		assert_int_equal(files_write(&f, "d"), 0);
		check_record(&f, PATH);
		assert_int_equal(files_each(&f, PATH, false, &told), 0);
		assert_int_equal(told.pieces, pieces);
		files_fini(&f);
	}
}

TEST("the largest message fits, and no larger one")
{
	static const char name[RECORD_NAME_MAX] = "x";
	struct extent_writer *w;
	struct item item;
	struct files f;
	uint8_t *extra = calloc(1, RECORD_EXTRA_MAX);

	files_init(&f);
	item = item_make(1, record_ref(9, 5), ITEM_BODY_MAX);
	item.m.stored_len = ITEM_BODY_MAX;
	free((void *)(uintptr_t)item.m.extra);
	item.m.extra = extra;
	item.m.extra_len = RECORD_EXTRA_MAX;
	item.m.origin = (struct record_origin){name, name, RECORD_NAME_MAX,
					       RECORD_NAME_MAX, 1};
	free((void *)(uintptr_t)item.m.stored);
	item.m.stored = malloc(ITEM_BODY_MAX);
	memcpy((void *)(uintptr_t)item.m.stored, item.body, ITEM_BODY_MAX);
	f.items[f.count++] = item;
	assert_int_equal(extent_writer_create(&f.id, "d", KEY, &w), 0);
	item.m.body_len++;
	assert_int_equal(extent_add(w, 1, &item.m), -EINVAL);
	item.m.body_len -= 2;
	assert_int_equal(extent_add(w, 1, &item.m), -EINVAL);
	item.m.body_len++;
	item.m.extra_len++;
	assert_int_equal(extent_add(w, 1, &item.m), -EINVAL);
	item.m.extra_len--;
	item.m.origin.queue_len++;
	assert_int_equal(extent_add(w, 1, &item.m), -EINVAL);
	/* That was refused, and spoiled nothing. */
	item.m.origin.queue_len--;
	assert_int_equal(extent_add(w, 1, &item.m), 0);
	assert_int_equal(extent_run_count(w), 1);
	assert_true(extent_bytes(w) > ITEM_BODY_MAX);
	assert_int_equal(extent_finish(w, &f.record), 0);
	check_record(&f, PATH);
	files_fini(&f);
}

TEST("a run ends before its span is larger than a detail may be")
{
	struct telling told;
	struct files f;

	files_init(&f);
	files_item(&f, 1, record_ref(4, 1), 10);
	files_item(&f, 1, record_ref(4, EXTENT_SPAN_MAX), 10);
	files_item(&f, 1, record_ref(4, EXTENT_SPAN_MAX + 1), 10);
	files_item(&f, 1, record_ref(4, 1ull << 40), 10);
	assert_int_equal(files_write(&f, "d"), 0);
	assert_int_equal(f.record.run_count, 3);
	assert_int_equal(f.record.runs[0].span, EXTENT_SPAN_MAX);
	check_record(&f, PATH);
	assert_int_equal(files_each(&f, PATH, false, &told), 0);
	files_fini(&f);
}

TEST("a file takes as many runs and pieces as a record can name, not one more")
{
	uint8_t byte = 1;
	struct extent_writer *w;
	struct telling told;
	struct item more;
	struct files f;

	files_init(&f);
	for (uint64_t queue = 1; queue <= RECORD_RUN_MAX; queue++)
		files_item(&f, queue, record_ref(4, queue), 3);
	more = item_make(RECORD_RUN_MAX + 1, record_ref(4, 1), 3);
	assert_int_equal(extent_writer_create(&f.id, "d", KEY, &w), 0);
	for (uint32_t i = 0; i < f.count; i++)
		assert_int_equal(extent_add(w, f.items[i].queue, &f.items[i].m),
				 0);
	assert_int_equal(extent_add(w, more.queue, &more.m), -E_LIMIT);
	item_free(&more);
	for (uint32_t i = 0; i < RECORD_RUN_MAX; i++)
		assert_int_equal(extent_add_piece(w, 9, i, &byte, 1, 1), 0);
	assert_int_equal(extent_add_piece(w, 9, 0, &byte, 1, 1), -E_LIMIT);
	assert_int_equal(extent_piece_count(w), RECORD_RUN_MAX);
	assert_int_equal(extent_finish(w, &f.record), 0);
	assert_int_equal(f.record.run_count, RECORD_RUN_MAX);
	assert_int_equal(f.record.piece_count, RECORD_RUN_MAX);
	f.record.piece_count = 0;
	check_record(&f, PATH);
	{
		struct extent_visit visit = {.message = tell_message,
					     .ctx = &told};

		told = (struct telling){.f = &f};
		assert_int_equal(extent_each(&f.id, PATH, &visit), 0);
		assert_int_equal(told.told, f.count);
	}
	files_fini(&f);
}

/* Messages of which no byte lies in the given part of the stream, by where
 * their run's index says that they are. */
struct untouched {
	struct run_check c;
	uint64_t from, to;
	uint32_t count;
};

static int count_untouched(void *ctx, uint32_t at, uint32_t offset,
			   uint32_t bytes)
{
	struct untouched *u = ctx;
	uint64_t begin = u->c.run->offset + (uint64_t)offset;

	u->count += begin + bytes <= u->from || begin >= u->to;
	return 0;
}

static uint32_t files_untouched(struct files *f, const uint8_t *data,
				uint64_t from, uint64_t to)
{
	struct untouched u = {.from = from, .to = to};

	for (uint32_t i = 0; i < f->record.run_count; i++) {
		const struct record_run *run = &f->record.runs[i];
		struct extent_head head;
		uint64_t index_end;

		u.c.run = run;
		assert_int_equal(extent_read_head(data + run->offset,
						  EXTENT_HEAD_BYTES, &head),
				 0);
		index_end = run->offset + EXTENT_HEAD_BYTES +
			    (uint64_t)head.index_bytes;
		if (run->offset < to && index_end > from)
			continue; /* all of it */
		assert_int_equal(extent_read_index(&head,
						   data + run->offset +
							   EXTENT_HEAD_BYTES,
						   count_untouched, &u),
				 0);
	}
	return u.count;
}

TEST("damage at any place costs what lies in its chunk, and nothing else")
{
	struct telling told;
	struct files f;
	uint8_t *data;
	size_t len;

	files_init(&f);
	files_mix(&f, 60);
	f.pieces = 3;
	assert_int_equal(files_write(&f, "d"), 0);
	data = read_stream(&f, PATH, &len);
	for (uint64_t at = 0; at < f.record.file_bytes; at += 4093) {
		struct sim_disk *disk = sim_disk(f.sim, 0);
		uint64_t chunk =
			at < BLOB_HEADER_BYTES
				? 0
				: (at - BLOB_HEADER_BYTES) / BLOB_CHUNK_STRIDE;
		uint64_t from = chunk * BLOB_CHUNK_BYTES, offset = 1;

		assert_int_equal(sim_disk_flip(disk, PATH, at, at % 8), 0);
		assert_int_equal(files_each(&f, PATH, true, &told), -E_CORRUPT);
		assert_int_equal(
			blob_verify(f.io, PATH, f.record.hash, &offset),
			-E_CORRUPT);
		if (at < BLOB_HEADER_BYTES) {
			assert_int_equal(told.told, 0);
			assert_int_equal(offset, 0);
		} else {
			uint32_t whole = files_untouched(
				&f, data, from, from + BLOB_CHUNK_BYTES);

			assert_int_equal(told.told, whole);
			assert_int_equal(offset,
					 blob_chunk_offset((uint32_t)chunk));
		}
		assert_int_equal(sim_disk_flip(disk, PATH, at, at % 8), 0);
	}
	assert_int_equal(files_each(&f, PATH, false, &told), 0);
	free(data);
	files_fini(&f);
}

TEST("a file cut short tells what is before the cut")
{
	struct telling told;
	struct files f;
	uint32_t before = UINT32_MAX;

	files_init(&f);
	files_mix(&f, 40);
	assert_int_equal(files_write(&f, "d"), 0);
	for (uint64_t len = f.record.file_bytes - 1; len > 5000;
	     len -= base_min(len, 17321)) {
		struct io_file *file;

		assert_int_equal(io_open(f.io, PATH, IO_WRITE, &file), 0);
		assert_int_equal(io_truncate(file, len), 0);
		io_close(file);
		assert_int_equal(files_each(&f, PATH, true, &told), -E_CORRUPT);
		assert_true(told.told <= before);
		before = told.told;
	}
	files_fini(&f);
}

static int stop_at_message(void *ctx, uint64_t queue,
			   const struct extent_message *m)
{
	return ++*(int *)ctx == 3 ? -E_CORRUPT : 0;
}

TEST("a visit ends the reading with its own error")
{
	struct extent_visit visit = {.message = stop_at_message};
	struct files f;
	int count = 0;

	files_init(&f);
	files_mix(&f, 10);
	assert_int_equal(files_write(&f, "d"), 0);
	visit.ctx = &count;
	assert_int_equal(extent_each(&f.id, PATH, &visit), -E_CORRUPT);
	assert_int_equal(count, 3);
	files_fini(&f);
}

TEST("a fault at any step of writing: no file, or one that nobody knows")
{
	static const enum sim_fault faults[] = {SIM_FAULT_CUT, SIM_FAULT_EIO,
						SIM_FAULT_ENOSPC};
	bool finished = false;

	for (uint64_t k = 1; !finished; k++) {
		finished = true;
		for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
			struct sim_disk *disk;
			struct telling told;
			struct files f;
			int err;

			files_init(&f);
			files_mix(&f, 40);
			f.pieces = 4;
			disk = sim_disk(f.sim, 0);
			assert_int_equal(io_sync_dir(f.io, "."), 0);
			assert_int_equal(io_sync_dir(f.io, "d"), 0);
			sim_disk_fault_at(disk, faults[i],
					  sim_disk_mutations(disk) + k);
			err = files_write(&f, "d");
			finished = finished && !err;
			sim_disk_fault_at(disk, faults[i], 0);
			sim_disk_cut(disk);
			crypto_key_free(f.key);
			io_free(f.io);
			f.io = sim_node_create(f.sim, "reader", 0);
			f.key = harness_key();
			f.id.io = f.io;
			f.id.master = f.key;
			if (!err) {
				assert_int_equal(blob_verify(f.io, PATH,
							     f.record.hash,
							     NULL),
						 0);
				assert_int_equal(
					files_each(&f, PATH, false, &told), 0);
			}
			files_fini(&f);
		}
	}
}

TEST("what is no run's head or index is refused")
{
	uint8_t head[EXTENT_HEAD_BYTES];
	struct extent_head h;
	struct files f;
	uint8_t *data;
	size_t len;

	files_init(&f);
	files_mix(&f, 5);
	assert_int_equal(files_write(&f, "d"), 0);
	data = read_stream(&f, PATH, &len);
	assert_int_equal(extent_read_head(data, 31, &h), -E_CORRUPT);
	for (size_t at = 0; at < EXTENT_HEAD_BYTES; at += 4) {
		memcpy(head, data, sizeof(head));
		memset(head + at, 0xff, 4);
		/* A queue's id may be anything, and the ref's lower half. */
		if (at != AT_RUN_QUEUE && at != AT_RUN_QUEUE + 4 &&
		    at != AT_RUN_FIRST)
			assert_int_equal(
				extent_read_head(head, sizeof(head), &h),
				-E_CORRUPT);
	}
	assert_int_equal(extent_read_head(data, len, &h), 0);
	/* Another number of bytes, and an index cut or with more in it. */
	h.bytes--;
	assert_int_equal(extent_read_index(&h, data + EXTENT_HEAD_BYTES,
					   check_indexed, NULL),
			 -E_CORRUPT);
	h.bytes++;
	h.count++;
	assert_int_equal(extent_read_index(&h, data + EXTENT_HEAD_BYTES,
					   check_indexed, NULL),
			 -E_CORRUPT);
	h.count -= 2;
	assert_int_equal(extent_read_index(&h, data + EXTENT_HEAD_BYTES,
					   check_indexed, NULL),
			 -E_CORRUPT);
	free(data);
	files_fini(&f);
}

/* ---- golden ---- */

static void golden_init(struct files *f)
{
	const char *reason;
	struct io *io;

	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	files_init_on(f, NULL, io);
	for (uint64_t i = 1; i <= 30; i++)
		files_item(f, 1 + i / 12, record_ref((unsigned)(i / 7), 2 * i),
			   (uint32_t)i * 11);
	f->pieces = 1;
}

TEST("an extent file of version 1 is read")
{
	struct telling told;
	struct files f;

	golden_init(&f);
	assert_int_equal(files_each(&f, GOLDEN, false, &told), 0);
	assert_int_equal(told.told, f.count);
	assert_int_equal(told.pieces, f.pieces);
	files_fini(&f);
}

/* GOLDEN_WRITE=<directory> build/tests/unit/test_extent: extents/ is in it. */
int main(int argc, char **argv)
{
	struct files f;

	if (!getenv("GOLDEN_WRITE"))
		return test_run(argc, argv);
	golden_init(&f);
	if (files_write(&f, getenv("GOLDEN_WRITE")))
		return 1;
	files_fini(&f);
	return 0;
}
