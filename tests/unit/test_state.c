/* tests/unit/test_state.c: the store's state machine, without a log.
 *
 * Random records go into a state and into the reference of store_model.h;
 * both must then tell the same.  TEST_SEED replays a failure. */
#include "tests/unit/test.h"

#include <malloc.h>

#include "journal/store/checkpoint.h"
#include "tests/unit/store_model.h"

#define RECORDS_A_SEGMENT 400u

static uint64_t test_seed(void)
{
	const char *text = getenv("TEST_SEED");

	return text ? strtoull(text, NULL, 10) : 20240607;
}

/* ---- the map and the ordered entries by themselves ---- */

TEST("a map gives back what was put, while others come and go")
{
	enum { IDS = 3000 };
	static int values[IDS + 1];
	static bool there[IDS + 1];
	struct idmap map = {0};
	struct model m = {.seed = test_seed()};
	size_t count = 0;

	for (unsigned i = 0; i < 200000; i++) {
		uint64_t id = 1 + model_random(&m, IDS);

		if (there[id]) {
			assert_ptr_equal(idmap_get(&map, id), &values[id]);
			assert_ptr_equal(idmap_take(&map, id), &values[id]);
			count--;
		} else {
			assert_null(idmap_get(&map, id));
			assert_null(idmap_take(&map, id));
			assert_int_equal(idmap_put(&map, id, &values[id]), 0);
			count++;
		}
		there[id] = !there[id];
		assert_int_equal(map.count, count);
	}
	for (uint64_t id = 1; id <= IDS; id++)
		assert_ptr_equal(idmap_get(&map, id),
				 there[id] ? &values[id] : NULL);
	idmap_fini(&map);
}

static int count_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	uint64_t *sum = ctx;

	*sum += ref;
	return 0;
}

TEST("entries leave in any order and the structure stays sound")
{
	enum { REFS = 5000 };
	static uint64_t refs[REFS];
	struct model m = {.seed = test_seed() + 1};
	struct entries e = {0};
	struct entry *entry;

	for (unsigned round = 0; round < 3; round++) {
		uint64_t ref = e.last_ref, sum = 0, found = 0;

		for (unsigned i = 0; i < REFS; i++) {
			/* Far apart now and then: differences are 32 bits. */
			ref += 1 + model_random(&m, 5) +
			       (model_random(&m, 500) ? 0 : 1ull << 32);
			refs[i] = ref;
			sum += ref;
			assert_int_equal(entries_push(&e, ref, &entry), 0);
		}
		entries_check(&e);
		for (unsigned i = REFS; i > 0; i--) {
			unsigned k = (unsigned)model_random(&m, i);

			assert_non_null(entries_find(&e, refs[k]));
			entries_remove(&e, refs[k], refs[k], NULL, NULL);
			assert_null(entries_find(&e, refs[k]));
			assert_int_equal(e.live, i - 1);
			sum -= refs[k];
			refs[k] = refs[i - 1];
			if (i % 97)
				continue;
			entries_check(&e);
			found = 0;
			entries_each(&e, count_entry, &found);
			assert_int_equal(found, sum);
		}
		assert_null(e.slots);
	}
}

TEST("a range takes what is in it and nothing else")
{
	struct entries e = {0};
	struct entry *entry;

	for (uint64_t ref = 10; ref <= 3000; ref += 10)
		assert_int_equal(entries_push(&e, ref, &entry), 0);
	entries_remove(&e, 0, 9, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 11, 19, NULL, NULL);
	assert_int_equal(e.live, 300);
	entries_remove(&e, 100, 1990, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_check(&e);
	assert_non_null(entries_find(&e, 90));
	assert_null(entries_find(&e, 100));
	assert_null(entries_find(&e, 1990));
	assert_non_null(entries_find(&e, 2000));
	entries_remove(&e, 3001, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 110);
	entries_remove(&e, 0, UINT64_MAX, NULL, NULL);
	assert_int_equal(e.live, 0);
	entries_check(&e);
}

/* ---- the state against the model ---- */

struct twin {
	struct state state;
	struct model model;
	uint64_t lsn;
};

static void twin_init(struct twin *t, uint64_t seed)
{
	memset(t, 0, sizeof(*t));
	state_init(&t->state);
	t->model.seed = seed;
}

static void twin_fini(struct twin *t)
{
	state_fini(&t->state);
	model_fini(&t->model);
}

static struct log_loc loc_of(uint64_t lsn, uint32_t body_len)
{
	return (struct log_loc){
		.segment = log_segment_key(
			1, (uint32_t)(1 + lsn / RECORDS_A_SEGMENT)),
		.frame = (uint32_t)(1 + lsn % RECORDS_A_SEGMENT),
		.at = (uint32_t)(lsn % 77),
		.stored_len = body_len / 2 + 1,
		.body_len = body_len,
	};
}

static int apply(struct state *s, uint64_t lsn, uint8_t type, const void *meta,
		 size_t len, uint32_t body_len)
{
	struct log_record r = {.lsn = lsn,
			       .type = type,
			       .meta = meta,
			       .meta_len = (uint32_t)len,
			       .loc = loc_of(lsn, body_len)};

	return state_apply(s, &r);
}

static void twin_step(struct twin *t)
{
	struct model_op op;
	struct log_loc loc;

	model_make(&t->model, &op);
	t->lsn++;
	loc = loc_of(t->lsn, op.body_len);
	assert_int_equal(apply(&t->state, t->lsn, op.type, op.meta, op.meta_len,
			       op.body_len),
			 0);
	model_apply(&t->model, &op, t->lsn, &loc);
}

static void twin_restart(struct twin *t)
{
	t->lsn++;
	assert_int_equal(
		apply(&t->state, t->lsn, LOG_TYPE_EPOCH_START, "", 0, 0), 0);
	model_restart(&t->model);
}

struct comparison {
	struct twin *twin;
	const struct model_queue *queue;
	size_t at;
};

static int compare_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct comparison *c = ctx;
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	struct log_loc pieces[MODEL_PIECES] = {0};
	struct store_message m = {
		.ref = ref,
		.props = {.expiry_ms = e->expiry_ms,
			  .arrived_ms = e->arrived_ms,
			  .priority = e->priority,
			  .durable = e->durable,
			  .format = e->format},
		.bytes = state_entry_bytes(e),
		.deliveries = e->deliveries,
		.extra_len = e->more ? e->more->extra_len : 0,
		.extra = e->more ? e->more->data : NULL,
		.origin = state_entry_origin(e),
		.pieces = pieces,
	};

	if (u) {
		m.upload = u->id;
		m.piece_count = u->piece_count;
		for (uint32_t i = 0; i < u->piece_count; i++)
			pieces[i] = state_loc(&c->twin->state, &u->pieces[i]);
	} else {
		m.loc = state_loc(&c->twin->state, &e->place);
	}
	assert_true(c->at < c->queue->count);
	model_assert_message(&c->twin->model, &c->queue->messages[c->at++], &m);
	return 0;
}

static size_t compare_names(const struct idmap *map,
			    const struct model_queue *places, bool queues)
{
	size_t count = 0;

	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &places[i];
		const void *have = q->id ? idmap_get(map, q->id) : NULL;
		const struct state_address *a = have;
		const struct state_queue *b = have;

		if (!q->id)
			continue;
		count++;
		assert_non_null(have);
		assert_int_equal(queues ? b->record.flags : a->record.flags,
				 q->flags);
		assert_memory_equal(queues ? b->name : a->name, q->name,
				    strlen(q->name));
	}
	assert_int_equal(map->count, count);
	return count;
}

static void twin_compare(struct twin *t)
{
	uint64_t messages = 0, bytes = 0;

	state_check(&t->state);
	assert_true(t->state.next_id <= t->model.next_id);
	compare_names(&t->state.addresses, t->model.addresses, false);
	compare_names(&t->state.queues, t->model.queues, true);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &t->model.queues[i];
		struct comparison c = {t, q, 0};
		const struct state_queue *have;

		if (!q->id)
			continue;
		have = idmap_get(&t->state.queues, q->id);
		entries_each(&have->entries, compare_entry, &c);
		assert_int_equal(c.at, q->count);
		messages += q->count;
		for (size_t k = 0; k < q->count; k++)
			bytes += q->messages[k].bytes;
	}
	assert_int_equal(t->state.live_messages, messages);
	assert_int_equal(t->state.live_bytes, bytes);
	for (uint64_t lsn = 0; lsn <= t->lsn; lsn += RECORDS_A_SEGMENT) {
		uint64_t key = loc_of(lsn, 1).segment;

		assert_int_equal(state_segment_live(&t->state, key),
				 model_segment_live(&t->model, key));
	}
}

TEST("after any records the state is what a trivial model says")
{
	uint64_t most = 0;
	struct twin t;

	for (unsigned round = 0; round < 6; round++) {
		twin_init(&t, test_seed() + round);
		for (unsigned i = 0; i < 8000; i++) {
			twin_step(&t);
			if (!model_random(&t.model, 3000))
				twin_restart(&t);
			most = base_max(most, t.state.live_messages);
			if (i % 499 == 0)
				twin_compare(&t);
		}
		twin_compare(&t);
		twin_fini(&t);
	}
	/* Otherwise the dice would test empty queues. */
	assert_true(most > 500);
}

/* ---- single rules ---- */

static uint8_t meta[4096];

static void put_queue(struct state *s, uint64_t id)
{
	struct record_queue q = {.id = id,
				 .address = 1,
				 .name = "q",
				 .name_len = 1,
				 .routing = RECORD_ANYCAST};

	assert_int_equal(apply(s, 1, RECORD_QUEUE, meta,
			       record_queue_encode(&q, meta), 0),
			 0);
}

static int put_message(struct state *s, uint64_t lsn, uint64_t queue,
		       uint64_t upload, uint32_t piece_count, uint64_t bytes)
{
	struct record_enqueue e = {.upload = upload,
				   .bytes = bytes,
				   .piece_count = piece_count,
				   .target_count = 1,
				   .targets = &queue};

	return apply(s, lsn, RECORD_ENQUEUE, meta,
		     record_enqueue_encode(&e, meta),
		     upload ? 0 : (uint32_t)bytes);
}

static int put_piece(struct state *s, uint64_t lsn, uint64_t upload,
		     uint32_t index, uint32_t bytes)
{
	struct record_piece p = {.upload = upload, .index = index};

	return apply(s, lsn, RECORD_PIECE, meta, record_piece_encode(&p, meta),
		     bytes);
}

TEST("a damaged or newer record is refused with a sentence")
{
	struct state s;

	state_init(&s);
	assert_int_equal(apply(&s, 7, RECORD_ACK, "x", 1, 0), -E_CORRUPT);
	assert_non_null(strstr(s.why, "ACK record at LSN 7"));
	state_fini(&s);
	state_init(&s);
	assert_int_equal(apply(&s, 8, 200, "", 0, 0), -E_VERSION);
	assert_non_null(strstr(s.why, "newer version"));
	state_fini(&s);
	state_init(&s);
	assert_int_equal(apply(&s, 9, LOG_TYPE_IDLE, "", 0, 0), 0);
	assert_int_equal(s.changes, 0);
	state_fini(&s);
}

TEST("a message that lacks a piece of its upload is refused")
{
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_piece(&s, 3, 9, 2, 100), -E_CORRUPT);
	state_fini(&s);
	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_message(&s, 3, 5, 9, 2, 200), -E_CORRUPT);
	assert_non_null(strstr(s.why, "lacks pieces"));
	state_fini(&s);
	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_int_equal(put_message(&s, 3, 5, 9, 1, 99), -E_CORRUPT);
	state_fini(&s);
}

TEST("an upload keeps its segments until it is aborted or consumed")
{
	uint64_t key = loc_of(2, 1).segment;
	struct record_ack a = {.queue = 5,
			       .range_count = 1,
			       .ranges = &(struct record_range){0, 900}};
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(put_piece(&s, 2, 9, 0, 100), 0);
	assert_true(state_segment_live(&s, key));
	assert_int_equal(apply(&s, 3, RECORD_UPLOAD_ABORT, meta,
			       record_upload_abort_encode(9, meta), 0),
			 0);
	assert_false(state_segment_live(&s, key));
	assert_int_equal(put_piece(&s, 4, 10, 0, 100), 0);
	assert_int_equal(put_message(&s, 500, 5, 10, 1, 100), 0);
	assert_true(state_segment_live(&s, key));
	assert_false(state_segment_live(&s, loc_of(500, 1).segment));
	assert_int_equal(apply(&s, 600, RECORD_ACK, meta,
			       record_ack_encode(&a, meta), 0),
			 0);
	assert_false(state_segment_live(&s, key));
	assert_int_equal(s.live_segments, 0);
	/* Nobody is there to receive it: it goes at once. */
	assert_int_equal(put_piece(&s, 700, 11, 0, 100), 0);
	assert_int_equal(put_message(&s, 701, 6, 11, 1, 100), 0);
	assert_int_equal(s.uploads.count, 0);
	state_check(&s);
	state_fini(&s);
}

TEST("a restart drops unfinished uploads and temporary queues only")
{
	struct record_queue q = {.id = 6,
				 .address = 1,
				 .name = "t",
				 .name_len = 1,
				 .routing = RECORD_ANYCAST,
				 .flags = RECORD_QUEUE_TEMPORARY};
	struct state s;

	state_init(&s);
	put_queue(&s, 5);
	assert_int_equal(apply(&s, 2, RECORD_QUEUE, meta,
			       record_queue_encode(&q, meta), 0),
			 0);
	assert_int_equal(put_message(&s, 3, 5, 0, 0, 10), 0);
	assert_int_equal(put_message(&s, 4, 6, 0, 0, 10), 0);
	assert_int_equal(put_piece(&s, 5, 20, 0, 100), 0);
	assert_int_equal(put_piece(&s, 6, 21, 0, 100), 0);
	assert_int_equal(put_message(&s, 7, 5, 21, 1, 100), 0);
	state_restart(&s);
	assert_null(idmap_get(&s.queues, 6));
	assert_null(idmap_get(&s.uploads, 20));
	assert_non_null(idmap_get(&s.uploads, 21));
	assert_int_equal(s.live_messages, 2);
	assert_int_equal(s.next_id, 22);
	state_check(&s);
	state_fini(&s);
}

TEST("a plain queued message costs at most 64 bytes of memory")
{
	enum { MESSAGES = 1000000 };
	size_t before, used;
	struct state s;

	if (!mallinfo2().uordblks)
		return; /* a sanitizer's allocator does not tell */
	state_init(&s);
	put_queue(&s, 5);
	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	for (uint64_t i = 0; i < MESSAGES; i++)
		assert_int_equal(put_message(&s, 2 + i, 5, 0, 0, 1024), 0);
	used = mallinfo2().uordblks + mallinfo2().hblkhd - before;
	if (getenv("TEST_PRINT"))
		fprintf(stderr, "%.1f bytes a message\n",
			(double)used / MESSAGES);
	assert_true(used <= 64 * (size_t)MESSAGES);
	state_fini(&s);
}

/* ---- checkpoints ---- */

static const uint8_t cluster_id[16] = "a test's cluster";

struct files {
	struct io *io;
	struct crypto_key *master;
	struct checkpoint_place place;
};

static void files_init(struct files *f, const char *dir)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] =
		"a test's master key, 32 bytes..";
	char path[512];
	const char *reason;

	assert_int_equal(crypto_init(), 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &f->io, &reason), 0);
	assert_int_equal(crypto_key_create(key, &f->master), 0);
	f->place = (struct checkpoint_place){
		.identity = {.io = f->io,
			     .master = f->master,
			     .cluster_id = cluster_id},
		.dir = dir,
	};
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR, dir);
	assert_int_equal(io_mkdir(f->io, path), 0);
}

static void files_fini(struct files *f)
{
	crypto_key_free(f->master);
	io_free(f->io);
}

static struct log_position position_at(uint64_t lsn)
{
	return (struct log_position){.segment = log_segment_key(1, 7),
				     .offset = 12288,
				     .lsn = lsn,
				     .chain = {1, 2, 3, [31] = 9}};
}

static void save(struct files *f, const struct state *s, uint64_t lsn,
		 struct checkpoint_file *ret)
{
	struct log_position p = position_at(lsn);
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint64_t bytes;

	assert_int_equal(
		checkpoint_write(&f->place, s, &p, 3, ret, hash, &bytes), 0);
	assert_int_equal(checkpoint_verify(&f->place, ret->name, hash), 0);
	hash[0] ^= 1;
	assert_int_not_equal(checkpoint_verify(&f->place, ret->name, hash), 0);
}

TEST("a state goes on from its checkpoint as if nothing had happened")
{
	struct log_position p, want;
	struct checkpoint_file file;
	struct files f;
	struct twin t;

	files_init(&f, test_directory());
	twin_init(&t, test_seed() + 77);
	for (unsigned i = 0; i < 40; i++) {
		for (uint64_t n = model_random(&t.model, 900); n; n--)
			twin_step(&t);
		t.lsn++;
		save(&f, &t.state, t.lsn, &file);
		state_fini(&t.state);
		state_init(&t.state);
		assert_int_equal(
			checkpoint_read(&f.place, file.name, &t.state, &p), 0);
		want = position_at(t.lsn);
		assert_memory_equal(&p, &want, sizeof(p));
		twin_compare(&t);
	}
	twin_fini(&t);
	files_fini(&f);
}

TEST("an empty state has a checkpoint too")
{
	struct checkpoint_file file;
	struct log_position p;
	struct files f;
	struct state s;

	files_init(&f, test_directory());
	state_init(&s);
	save(&f, &s, 1, &file);
	assert_string_equal(file.name, "00000003-0000000000000001.ckpt");
	assert_int_equal(checkpoint_read(&f.place, file.name, &s, &p), 0);
	assert_int_equal(s.next_id, 1);
	state_fini(&s);
	files_fini(&f);
}

TEST("the largest annotations and names fit a checkpoint")
{
	static char extra[RECORD_EXTRA_MAX], name[RECORD_NAME_MAX];
	static uint8_t large[RECORD_EXTRA_MAX + 8192];
	struct record_move m = {
		.queue = 5,
		.ref = 2,
		.origin = {name, name, sizeof(name), sizeof(name), 1},
		.extra = extra,
		.extra_len = sizeof(extra),
		.target_count = 1,
		.targets = (uint64_t[]){5}};
	struct checkpoint_file file;
	struct log_position p;
	struct files f;
	struct state s;

	memset(extra, 'x', sizeof(extra));
	memset(name, 'n', sizeof(name));
	files_init(&f, test_directory());
	state_init(&s);
	put_queue(&s, 5);
	for (uint64_t lsn = 2; lsn < 20; lsn += 2) {
		m.ref = lsn;
		assert_int_equal(put_message(&s, lsn, 5, 0, 0, 10), 0);
		assert_int_equal(apply(&s, lsn + 1, RECORD_MOVE, large,
				       record_move_encode(&m, large), 0),
				 0);
	}
	save(&f, &s, 20, &file);
	state_fini(&s);
	state_init(&s);
	assert_int_equal(checkpoint_read(&f.place, file.name, &s, &p), 0);
	assert_int_equal(s.live_messages, 9);
	state_check(&s);
	state_fini(&s);
	files_fini(&f);
}

TEST("a checkpoint damaged at any byte is refused or means the same")
{
	struct checkpoint_file file;
	struct log_position p;
	char path[512];
	struct files f;
	struct twin t;
	struct stat st;
	int fd;

	files_init(&f, test_directory());
	twin_init(&t, test_seed() + 5);
	for (unsigned i = 0; i < 300; i++)
		twin_step(&t);
	save(&f, &t.state, t.lsn + 1, &file);
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s", f.place.dir,
		 file.name);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t at = 0; at < st.st_size; at += 13) {
		uint8_t byte, bad;
		int err;

		assert_int_equal(pread(fd, &byte, 1, at), 1);
		bad = byte ^ (uint8_t)(1 << at % 8);
		assert_int_equal(pwrite(fd, &bad, 1, at), 1);
		state_fini(&t.state);
		state_init(&t.state);
		err = checkpoint_read(&f.place, file.name, &t.state, &p);
		if (!err) /* padding that nothing is read from */
			twin_compare(&t);
		else
			assert_true(err == -E_CORRUPT || err == -E_KEY ||
				    err == -E_VERSION);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	for (off_t len = st.st_size - 1; len >= 0; len -= 1 + st.st_size / 50) {
		assert_int_equal(ftruncate(fd, len), 0);
		state_fini(&t.state);
		state_init(&t.state);
		assert_int_not_equal(
			checkpoint_read(&f.place, file.name, &t.state, &p), 0);
	}
	close(fd);
	twin_fini(&t);
	files_fini(&f);
}

TEST("only checkpoints are listed, newest first, and only others removed")
{
	static const char *const names[] = {
		"00000001-0000000000000005.ckpt",
		"00000001-00000000000000ff.ckpt",
		"00000002-0000000000000001.ckpt",
		"00000002-0000000000000001.ckpt.tmp",
		"00000002-000000000000000A.ckpt",
		"notes.txt",
		"00000002-0000000000000001.ckpt.old"};
	struct checkpoint_file files[2];
	char path[512];
	struct files f;
	size_t count;

	files_init(&f, test_directory());
	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s",
			 f.place.dir, names[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	assert_int_equal(checkpoint_list(&f.place, files, 2, &count), 0);
	assert_int_equal(count, 2);
	assert_string_equal(files[0].name, names[2]);
	assert_string_equal(files[1].name, names[1]);
	assert_int_equal(files[1].lsn, 255);
	assert_int_equal(files[1].epoch, 1);
	assert_int_equal(checkpoint_remove_others(&f.place, files, 2), 0);
	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s",
			 f.place.dir, names[i]);
		assert_int_equal(access(path, F_OK) == 0, i != 0 && i != 3);
	}
	files_fini(&f);
}

TEST_MAIN()
