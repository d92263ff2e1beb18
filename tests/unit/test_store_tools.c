/* tests/unit/test_store_tools.c: a data directory seen from outside, and what
 * `holdfast store` says of it.  The tools' files are not in the library, so
 * they are included. */
#include "tests/unit/test.h"

#include "tests/unit/log_harness.h"

#include "tools/journal_start.c"
#undef TRIES
#include "tools/store_stat.c"
#include "tools/store_view.c"
#include "tools/world.c"
#undef PATH_BYTES
#include "tools/store_verify.c"

#define ADDRESS 1u
#define ORDERS 2u
#define BILLS 3u
#define BODY_BYTES 3000u
#define RUN_MESSAGES 10u

static char dir[64];
static struct harness h;

static void path_of(char ret[256], const char *name)
{
	snprintf(ret, 256, "%s/%s", dir, name);
}

static void begin(void)
{
	const char *reason;
	struct io *io;
	char path[256];

	snprintf(dir, sizeof(dir), "/tmp/holdfast-view-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	harness_init(&h, io, dir);
	path_of(path, EXTENT_DIR);
	assert_int_equal(mkdir(path, 0700), 0);
	path_of(path, CHECKPOINT_DIR);
	assert_true(!mkdir(path, 0700) || errno == EEXIST);
}

static void end(void)
{
	char command[128];

	harness_fini(&h);
	io_free(h.io);
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	assert_int_equal(system(command), 0);
}

/* ---- what a broker would have written ---- */

static void append(uint8_t type, const void *meta, size_t meta_len,
		   uint32_t body_len)
{
	struct harness_append *a = harness_append_new(&h, 7, body_len);

	a->append.type = type;
	a->append.meta = meta;
	a->append.meta_len = (uint32_t)meta_len;
	harness_send(&h, a);
	harness_wait(&h);
	assert_int_equal(a->append.err, 0);
	free(a);
}

static void append_queue(uint64_t id, const char *name)
{
	uint8_t meta[RECORD_QUEUE_ROOM];
	struct record_queue q = {.id = id,
				 .address = ADDRESS,
				 .name = name,
				 .name_len = (uint16_t)strlen(name),
				 .routing = RECORD_ANYCAST};

	append(RECORD_QUEUE, meta, record_queue_encode(&q, meta), 0);
}

static void append_address(void)
{
	uint8_t meta[RECORD_ADDRESS_ROOM];
	struct record_address a = {.id = ADDRESS,
				   .name = "all",
				   .name_len = 3,
				   .routing = RECORD_ANYCAST};

	append(RECORD_ADDRESS, meta, record_address_encode(&a, meta), 0);
}

static const struct record_props props = {.priority = 4, .arrived_ms = 1};

static void append_message(uint64_t queue)
{
	struct record_enqueue e = {.props = props,
				   .bytes = BODY_BYTES,
				   .target_count = 1,
				   .targets = &queue};
	uint8_t meta[256];

	assert_true(record_enqueue_room(1) <= sizeof(meta));
	append(RECORD_ENQUEUE, meta, record_enqueue_encode(&e, meta),
	       BODY_BYTES);
}

static void append_ack(uint64_t queue, uint64_t first, uint64_t last)
{
	struct record_range range = {record_ref(4, first), record_ref(4, last)};
	struct record_ack a = {.queue = queue,
			       .bytes = (last - first + 1) * BODY_BYTES,
			       .range_count = 1,
			       .ranges = &range};
	uint8_t meta[256];

	append(RECORD_ACK, meta, record_ack_encode(&a, meta), 0);
}

/* ORDERS' first messages go to an extent file. */
static void move_to_extents(void)
{
	const struct blob_identity identity = {h.io, h.key,
					       log_cluster_id(h.log)};
	uint64_t key = store_file_key(log_epoch(h.log), 1);
	static uint8_t body[BODY_BYTES];
	struct extent_writer *w;
	struct record_extents record;
	uint8_t *meta;

	harness_pattern(body, sizeof(body), 7);
	assert_int_equal(extent_writer_create(&identity, dir, key, &w), 0);
	for (uint64_t n = 1; n <= RUN_MESSAGES; n++) {
		const struct extent_message m = {.ref = record_ref(4, n),
						 .props = props,
						 .body_len = BODY_BYTES,
						 .stored_len = BODY_BYTES,
						 .stored = body};

		assert_int_equal(extent_add(w, ORDERS, &m), 0);
	}
	assert_int_equal(extent_end_run(w), 0);
	assert_int_equal(extent_finish(w, &record), 0);
	assert_int_equal(record.run_count, 1);
	meta = malloc(record_extents_room(&record));
	assert_non_null(meta);
	append(RECORD_EXTENTS, meta, record_extents_encode(&record, meta), 0);
	free(meta);
	/* The record's arrays are the caller's. */
	{
		union {
			const void *in;
			void *out;
		} runs = {record.runs}, pieces = {record.pieces};

		free(runs.out);
		free(pieces.out);
	}
}

/* Two epochs; 20 orders of which 3 have left, 10 in an extent file; 5 bills. */
static void build(void)
{
	begin();
	assert_int_equal(harness_open(&h), 0);
	append_address();
	append_queue(ORDERS, "orders");
	append_queue(BILLS, "bills");
	for (int i = 0; i < 20; i++)
		append_message(ORDERS);
	harness_close(&h, true);
	assert_int_equal(harness_open(&h), 0);
	for (int i = 0; i < 5; i++)
		append_message(BILLS);
	move_to_extents();
	append_ack(ORDERS, 1, 3);
	harness_close(&h, true);
}

static struct log_position from; /* of the checkpoint */

static void write_checkpoint(void)
{
	struct store_view *v = calloc(1, sizeof(*v));
	struct checkpoint_file file;
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint64_t bytes;

	assert_non_null(v);
	assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
	from = harness_end(&h);
	/* The idle mark may have come in between, once. */
	for (int i = 0; v->end_lsn != from.lsn && i < 10; i++) {
		store_view_fini(v);
		memset(v, 0, sizeof(*v));
		io_pause(h.io, 10000000);
		assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
		from = harness_end(&h);
	}
	assert_int_equal(v->end_lsn, from.lsn);
	assert_int_equal(checkpoint_write(&v->place, &v->state, &from, 2, &file,
					  hash, &bytes),
			 0);
	store_view_fini(v);
	free(v);
}

/* ---- files ---- */

static char found_name[128];
static const char *wanted_prefix;

static int match_name(void *ctx, const char *name)
{
	if (strncmp(name, wanted_prefix, strlen(wanted_prefix)) != 0)
		return 0;
	snprintf(found_name, sizeof(found_name), "%s", name);
	return 1;
}

/* "segments/00000001-…" → its whole path. */
static const char *find_file(const char *folder, const char *prefix)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, folder);
	wanted_prefix = prefix;
	assert_int_equal(io_list(h.io, path, match_name, NULL), 1);
	snprintf(path, sizeof(path), "%s/%s/%s", dir, folder, found_name);
	return path;
}

static void flip(const char *path, long at)
{
	FILE *f = fopen(path, "r+b");
	int c;

	assert_non_null(f);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	c = fgetc(f);
	assert_true(c != EOF);
	assert_int_equal(fseek(f, at, SEEK_SET), 0);
	fputc(c ^ 0x10, f);
	assert_int_equal(fclose(f), 0);
}

/* ---- reports ---- */

static uint64_t number(json_t *o, const char *key)
{
	json_t *value = json_object_get(o, key);

	if (!json_is_integer(value))
		fail_msg("there is no number \"%s\"", key);
	return (uint64_t)json_integer_value(value);
}

static json_t *verify(bool with_key)
{
	json_t *report = NULL;

	assert_int_equal(store_verify_report(h.io, dir, with_key ? h.key : NULL,
					     &report),
			 0);
	return report;
}

static bool is_sound(json_t *report)
{
	bool sound = json_is_true(json_object_get(report, "sound"));

	assert_int_equal(number(report, "damage") == 0, sound);
	return sound;
}

/* The finding that concerns the queue; NULL: none does. */
static json_t *finding_of(json_t *report, const char *queue)
{
	json_t *f;
	size_t i;

	json_array_foreach(json_object_get(report, "findings"), i, f) {
		const char *name =
			json_string_value(json_object_get(f, "queue"));

		if (name && !strcmp(name, queue))
			return f;
	}
	return NULL;
}

static bool says(json_t *finding, const char *key, const char *part)
{
	const char *text = json_string_value(json_object_get(finding, key));

	return text && strstr(text, part);
}

/* ---- tests ---- */

TEST("a view of a directory is what its records add up to")
{
	struct store_view *v = calloc(1, sizeof(*v));
	const struct state_queue *q;

	build();
	assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
	assert_null(v->cut_short);
	assert_string_equal(v->checkpoint, "");
	assert_int_equal(v->end_lsn, h.committed_end.lsn);
	assert_int_equal(v->state.live_messages, 22);
	assert_int_equal(v->state.live_bytes, 22 * BODY_BYTES);
	assert_int_equal(v->state.run_count, 1);
	assert_int_equal(v->state.entry_count, 15);
	q = idmap_get(&v->state.queues, ORDERS);
	assert_non_null(q);
	assert_int_equal(q->record.name_len, 6);
	assert_memory_equal(q->name, "orders", 6);
	store_view_fini(v);

	write_checkpoint();
	assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
	assert_true(v->checkpoint[0] != '\0');
	assert_null(v->cut_short);
	assert_int_equal(v->state.live_messages, 22);
	assert_int_equal(v->state.run_count, 1);
	store_view_fini(v);
	store_view_fini(v);
	free(v);
	end();
}

TEST("frames beyond the place where the next epoch began are not in the view")
{
	struct store_view *v = calloc(1, sizeof(*v));
	const struct state_queue *q;
	char command[1300], path[512];

	begin();
	assert_int_equal(harness_open(&h), 0);
	append_address();
	append_queue(ORDERS, "orders");
	append_queue(BILLS, "bills");
	for (int i = 0; i < 5; i++)
		append_message(ORDERS);
	snprintf(path, sizeof(path), "%s", find_file("segments", "00000001-"));
	snprintf(command, sizeof(command), "cp '%s' '%s/before'", path, dir);
	assert_int_equal(system(command), 0);
	for (int i = 0; i < 3; i++)
		append_message(ORDERS);
	harness_close(&h, true);
	/* As if those three had never reached the disk … */
	snprintf(command, sizeof(command),
		 "cp '%s' '%s/after' && cp '%s/before' '%s'", path, dir, dir,
		 path);
	assert_int_equal(system(command), 0);
	assert_int_equal(harness_open(&h), 0);
	append_message(BILLS);
	harness_close(&h, true);
	/* … and did so afterwards. */
	snprintf(command, sizeof(command), "cp '%s/after' '%s'", dir, path);
	assert_int_equal(system(command), 0);

	assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
	assert_null(v->cut_short);
	assert_int_equal(v->state.live_messages, 6);
	q = idmap_get(&v->state.queues, BILLS);
	assert_int_equal(q->lanes[4]->live, 1);
	q = idmap_get(&v->state.queues, ORDERS);
	assert_int_equal(q->lanes[4]->live, 5);
	assert_int_equal(v->end_lsn, h.committed_end.lsn);
	store_view_fini(v);
	free(v);
	end();
}

TEST("the segment that an epoch began in may have been dropped")
{
	struct store_view *v = calloc(1, sizeof(*v));
	json_t *report;

	begin();
	assert_int_equal(harness_open(&h), 0);
	append_address();
	append_queue(ORDERS, "orders");
	for (int i = 0; i < 350; i++)
		append_message(ORDERS);
	append_ack(ORDERS, 1, 300);
	write_checkpoint();
	for (int i = 0; i < 10; i++)
		append_message(ORDERS);
	harness_close(&h, true);
	assert_int_equal(unlink(find_file("segments", "00000001-00000001")), 0);
	for (int epochs = 1; epochs <= 2; epochs++) {
		assert_int_equal(store_view_load(v, h.io, dir, h.key), 0);
		assert_null(v->cut_short);
		assert_int_equal(v->state.live_messages, 60);
		assert_int_equal(v->end_lsn, h.committed_end.lsn);
		store_view_fini(v);
		report = verify(true);
		assert_true(is_sound(report));
		json_decref(report);
		if (epochs == 1) {
			assert_int_equal(
				harness_open_from(&h, &from, NULL, NULL), 0);
			harness_close(&h, true);
		}
	}
	free(v);
	end();
}

TEST("what is not a data directory, or another's, is said to be so")
{
	struct store_view *v = calloc(1, sizeof(*v));
	uint8_t bytes[CRYPTO_KEY_BYTES] = {1};
	struct crypto_key *other;
	json_t *report;

	build();
	assert_int_equal(crypto_key_create(bytes, &other), 0);
	assert_int_equal(store_view_load(v, h.io, dir, other), -E_KEY);
	assert_int_equal(store_verify_report(h.io, dir, other, &report),
			 -E_KEY);
	assert_int_equal(store_stat_report(h.io, dir, other, &report), -E_KEY);
	assert_int_equal(store_view_load(v, h.io, "/tmp", h.key), -ENOENT);
	assert_int_equal(store_verify_report(h.io, "/tmp", NULL, &report),
			 -ENOENT);
	crypto_key_free(other);
	free(v);
	end();
}

TEST("stat counts messages, files and bytes")
{
	json_t *o;

	build();
	write_checkpoint();
	assert_int_equal(store_stat_report(h.io, dir, h.key, &o), 0);
	assert_int_equal(number(o, "live_messages"), 22);
	assert_int_equal(number(o, "live_bytes"), 22 * BODY_BYTES);
	assert_int_equal(number(o, "queues"), 2);
	assert_int_equal(number(o, "addresses"), 1);
	assert_int_equal(number(o, "entries"), 15);
	assert_int_equal(number(o, "runs"), 1);
	assert_int_equal(number(o, "details"), 1);
	assert_int_equal(number(o, "extent_files"), 1);
	assert_int_equal(number(o, "checkpoints"), 1);
	assert_true(number(o, "extent_bytes") >= RUN_MESSAGES * BODY_BYTES);
	assert_in_range(number(o, "extent_live_bytes"), 7 * BODY_BYTES,
			8 * BODY_BYTES);
	assert_int_equal(number(o, "disk_bytes"),
			 number(o, "segment_bytes") +
				 number(o, "extent_bytes") +
				 number(o, "checkpoint_bytes"));
	assert_true(json_real_value(json_object_get(o, "amplification")) > 1);
	json_decref(o);
	end();
}

TEST("a directory in order is sound, with the key and without")
{
	json_t *report;

	build();
	for (int round = 0; round < 2; round++) {
		for (int with_key = 0; with_key < 2; with_key++) {
			report = verify(with_key);
			assert_true(is_sound(report));
			assert_int_equal(number(report, "extent_files"), 1);
			assert_int_equal(number(report, "checkpoints"), round);
			assert_int_equal(number(report, "missing"), 0);
			json_decref(report);
		}
		if (!round)
			write_checkpoint();
	}
	end();
}

TEST("damage in an extent file is named with queue and messages")
{
	json_t *report, *f;

	build();
	flip(find_file(EXTENT_DIR, "00000002-"), 4096 + 32 + 2000);
	report = verify(true);
	assert_false(is_sound(report));
	f = finding_of(report, "orders");
	assert_non_null(f);
	assert_true(says(f, "kind", "damage"));
	assert_true(says(f, "file", "extents/00000002-00000001.ext"));
	assert_int_equal(number(f, "offset"), 4096);
	assert_int_equal(number(f, "queue_id"), ORDERS);
	assert_int_equal(number(f, "priority"), 4);
	assert_int_equal(number(f, "first_number"), 1);
	assert_int_equal(number(f, "last_number"), RUN_MESSAGES);
	assert_int_equal(number(f, "messages"), RUN_MESSAGES - 3);
	assert_null(finding_of(report, "bills"));
	json_decref(report);
	end();
}

TEST("without the key an extent file that ends early may be unfinished")
{
	const char *path;
	json_t *report;

	build();
	path = find_file(EXTENT_DIR, "00000002-");
	assert_int_equal(truncate(path, 4096 + 5000), 0);
	report = verify(false);
	assert_true(is_sound(report));
	assert_int_equal(number(report, "torn"), 1);
	json_decref(report);
	report = verify(true);
	assert_false(is_sound(report));
	assert_non_null(finding_of(report, "orders"));
	json_decref(report);
	end();
}

TEST("an extent file that is missing is damage; one too many is not")
{
	char path[512], stray[512], command[1100];
	json_t *report, *f;

	build();
	snprintf(path, sizeof(path), "%s", find_file(EXTENT_DIR, "00000002-"));
	snprintf(stray, sizeof(stray),
		 "%s/" EXTENT_DIR "/00000002-00000009.ext", dir);
	snprintf(command, sizeof(command), "head -c 9999 '%s' >'%s'", path,
		 stray);
	assert_int_equal(system(command), 0);
	report = verify(true);
	assert_true(is_sound(report));
	json_decref(report);

	assert_int_equal(unlink(path), 0);
	report = verify(true);
	assert_false(is_sound(report));
	assert_int_equal(number(report, "missing"), 1);
	f = finding_of(report, "orders");
	assert_non_null(f);
	assert_true(says(f, "what", "not there"));
	json_decref(report);
	end();
}

TEST("a damaged frame is named with the messages whose bodies lie in it")
{
	json_t *report, *f;
	uint64_t offset = 0;

	build();
	write_checkpoint();
	/* Bills were written in the second epoch, a frame each.  Its segment
	 * begins with a header block, then EPOCH-START's frame. */
	report = NULL;
	for (offset = 2 * 4096; offset < 12 * 4096; offset += 4096) {
		flip(find_file("segments", "00000002-"), (long)offset + 2000);
		report = verify(true);
		if (finding_of(report, "bills"))
			break;
		json_decref(report);
		report = NULL;
		flip(find_file("segments", "00000002-"), (long)offset + 2000);
	}
	assert_non_null(report);
	assert_false(is_sound(report));
	f = finding_of(report, "bills");
	assert_int_equal(number(f, "offset"), offset);
	assert_int_equal(number(f, "messages"), 1);
	assert_true(says(f, "file", "segments/00000002-"));
	assert_null(finding_of(report, "orders"));
	json_decref(report);
	end();
}

TEST("a damaged checkpoint is damage, and the journal's records are used")
{
	json_t *report;

	build();
	write_checkpoint();
	flip(find_file(CHECKPOINT_DIR, "00000002-"), 4096 + 40);
	report = verify(true);
	assert_false(is_sound(report));
	assert_int_equal(number(report, "messages"), 22);
	assert_int_equal(number(report, "damage"), 1);
	json_decref(report);
	end();
}

TEST_MAIN()
