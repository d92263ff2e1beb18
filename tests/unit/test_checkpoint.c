/* tests/unit/test_checkpoint.c: states written down and read back.
 *
 * tests/golden/checkpoint-2.ckpt is a version 2 checkpoint of golden_state()
 * below.  When it cannot be read any more, old stores cannot either: add a
 * decoder, do not replace the file. */
#include "tests/unit/test.h"

#include "journal/store/checkpoint.h"
#include "tests/unit/index_twin.h"
#include "tests/unit/store_twin.h"

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

static void save_as(struct files *f, struct state *s, uint64_t lsn,
		    uint32_t epoch, struct checkpoint_file *ret)
{
	struct log_position p = position_at(lsn);
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint64_t bytes;

	assert_int_equal(
		checkpoint_write(&f->place, s, &p, epoch, ret, hash, &bytes),
		0);
	assert_int_equal(checkpoint_verify(&f->place, ret->name, hash), 0);
	hash[0] ^= 1;
	assert_int_not_equal(checkpoint_verify(&f->place, ret->name, hash), 0);
}

static void save(struct files *f, struct state *s, uint64_t lsn,
		 struct checkpoint_file *ret)
{
	save_as(f, s, lsn, 3, ret);
}

/* What is in the file, decrypted; the caller frees it. */
static uint8_t *plaintext(struct files *f, const struct checkpoint_file *file,
			  size_t *ret_len)
{
	struct blob_reader *blob;
	uint8_t *data = NULL;
	char path[512];
	size_t len = 0;

	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s", f->place.dir,
		 file->name);
	assert_int_equal(
		blob_open(&f->place.identity, path, "STATE", NULL, &blob), 0);
	while (!blob_at_end(blob)) {
		uint8_t head[4];
		uint32_t n;

		assert_int_equal(blob_read(blob, head, sizeof(head)), 0);
		memcpy(&n, head, sizeof(n));
		data = realloc(data, len + sizeof(head) + n);
		assert_non_null(data);
		memcpy(data + len, head, sizeof(head));
		assert_int_equal(blob_read(blob, data + len + 4, n), 0);
		len += sizeof(head) + n;
	}
	blob_close(blob);
	*ret_len = len;
	return data;
}

static void assert_same_plaintext(struct files *f,
				  const struct checkpoint_file *a,
				  const struct checkpoint_file *b)
{
	size_t len, other_len;
	uint8_t *data = plaintext(f, a, &len);
	uint8_t *other = plaintext(f, b, &other_len);

	assert_int_equal(len, other_len);
	assert_memory_equal(data, other, len);
	free(data);
	free(other);
}

/* Again and again: writes the state, reads it into the shadow, and lets both
 * go on; the shadow then writes the same. */
static void follow(struct files *f, struct twin *t)
{
	struct checkpoint_file file, other;
	struct log_position p, want;

	for (unsigned i = 0; i < 40; i++) {
		struct index *index = t->shadow->index;

		for (uint64_t n = model_random(&t->model, 700); n; n--)
			twin_step(t);
		t->lsn++;
		save_as(f, &t->state, t->lsn, 3, &file);
		save_as(f, t->shadow, t->lsn, 4, &other);
		assert_same_plaintext(f, &file, &other);
		state_fini(t->shadow);
		state_init(t->shadow);
		t->shadow->index = index;
		assert_int_equal(
			checkpoint_read(&f->place, file.name, t->shadow, &p),
			0);
		want = position_at(t->lsn);
		assert_memory_equal(&p, &want, sizeof(p));
		state_check(t->shadow);
		twin_compare(t);
	}
}

TEST("a state goes on from its checkpoint as if nothing had happened")
{
	struct state shadow;
	struct files f;
	struct twin t;

	files_init(&f, test_directory());
	twin_init(&t, test_seed() + 77);
	state_init(&shadow);
	t.shadow = &shadow;
	follow(&f, &t);
	assert_true(t.state.live_messages > 100 && t.runs_most > 10);
	/* The model knows whether it is right; now the one that was read. */
	state_fini(&t.state);
	t.state = shadow;
	list_init(&t.state.details);
	list_move_all(&t.state.details, &shadow.details);
	t.shadow = NULL;
	twin_compare(&t);
	twin_fini(&t);
	files_fini(&f);
}

TEST("what is in the index is in the checkpoint, and back again")
{
	struct index_twin index;
	struct state shadow;
	struct files f;
	struct twin t;

	files_init(&f, test_directory());
	index_twin_init(&index);
	twin_init(&t, test_seed() + 78);
	state_init(&shadow);
	shadow.index = &index.index; /* and no memory for any detail */
	t.shadow = &shadow;
	follow(&f, &t);
	assert_true(index.puts > 100 && index.gets > 100);
	state_fini(&shadow);
	index_twin_fini(&index);
	twin_fini(&t);
	files_fini(&f);
}

TEST("a detail that the index has lost cannot be written down")
{
	struct log_position p = position_at(100000);
	struct checkpoint_file file;
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct index_twin index;
	struct files f;
	struct twin t;
	uint64_t bytes;

	files_init(&f, test_directory());
	index_twin_init(&index);
	twin_init(&t, test_seed() + 79);
	t.state.index = &index.index;
	for (unsigned i = 0; i < 3000; i++)
		twin_step(&t);
	assert_true(index.count > 0);
	index.get_error = -E_CORRUPT;
	assert_int_equal(checkpoint_write(&f.place, &t.state, &p, 3, &file,
					  hash, &bytes),
			 -E_CORRUPT);
	assert_non_null(strstr(t.state.why, "a restart rebuilds it"));
	twin_fini(&t);
	index_twin_fini(&index);
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
		.bytes = 10,
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
		m.ref = lsn - 1; /* every message is a number, and so is this */
		assert_int_equal(put_message(&s, lsn, 5, 0, 0, 10), 0);
		assert_int_equal(apply(&s, lsn + 1, RECORD_MOVE, large,
				       record_move_encode(&m, large), 10),
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

TEST("a run in which everything is annotated fits a checkpoint")
{
	static char extra[RECORD_EXTRA_MAX];
	static uint8_t large[RECORD_EXTRA_MAX + 8192];
	struct record_run run = {
		.queue = 5, .first = 1, .span = 9, .copied = 9, .bytes = 900};
	struct record_extents x = {
		.file = store_file_key(1, 1), .run_count = 1, .runs = &run};
	struct record_count c = {
		.queue = 5, .extra = extra, .extra_len = sizeof(extra)};
	struct checkpoint_file file, again;
	struct log_position p;
	struct files f;
	struct state s;

	files_init(&f, test_directory());
	state_init(&s);
	put_queue(&s, 5);
	for (uint64_t lsn = 2; lsn < 11; lsn++)
		assert_int_equal(put_message(&s, lsn, 5, 0, 0, 10), 0);
	assert_int_equal(apply(&s, 11, RECORD_EXTENTS, large,
			       record_extents_encode(&x, large), 0),
			 0);
	for (c.ref = 1; c.ref < 10; c.ref++) {
		memset(extra, 'a' + (int)c.ref, sizeof(extra));
		assert_int_equal(apply(&s, 11 + c.ref, RECORD_COUNT, large,
				       record_count_encode(&c, large), 0),
				 0);
	}
	assert_true(s.detail_bytes > 9 * sizeof(extra));
	save_as(&f, &s, 30, 3, &file);
	state_fini(&s);
	state_init(&s);
	assert_int_equal(checkpoint_read(&f.place, file.name, &s, &p), 0);
	assert_int_equal(s.live_messages, 9);
	assert_true(s.detail_bytes > 9 * sizeof(extra));
	state_check(&s);
	save_as(&f, &s, 30, 4, &again);
	assert_same_plaintext(&f, &file, &again);
	state_fini(&s);
	files_fini(&f);
}

TEST("a checkpoint of the version before is told from a damaged one")
{
	static const uint8_t old[] = {92, 0, 0, 0, 1, 0, 0, 0, [95] = 0};
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct blob_writer *blob;
	struct log_position p;
	uint64_t bytes;
	char path[512];
	struct files f;
	struct state s;

	files_init(&f, test_directory());
	snprintf(path, sizeof(path),
		 "%s/" CHECKPOINT_DIR "/00000001-0000000000000005.ckpt",
		 f.place.dir);
	assert_int_equal(blob_create(&f.place.identity, path, "STATE", &blob),
			 0);
	assert_int_equal(blob_write(blob, old, sizeof(old)), 0);
	assert_int_equal(blob_finish(blob, hash, &bytes), 0);
	state_init(&s);
	assert_int_equal(checkpoint_read(&f.place,
					 "00000001-0000000000000005.ckpt", &s,
					 &p),
			 -E_VERSION);
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
	assert_true(t.state.run_count > 0);
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
			state_check(&t.state);
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
	assert_int_equal(checkpoint_remove_others(&f.place, 2, files, 2), 0);
	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s",
			 f.place.dir, names[i]);
		assert_int_equal(access(path, F_OK) == 0, i != 0 && i != 3);
	}
	files_fini(&f);
}

TEST("a leader that was slow to remove files leaves its successor's")
{
	static const char *const names[] = {
		"00000002-0000000000000001.ckpt",
		"00000003-0000000000000005.ckpt",
		"00000003-0000000000000009.ckpt.tmp"};
	struct checkpoint_file none;
	char path[512];
	struct files f;

	files_init(&f, test_directory());
	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s",
			 f.place.dir, names[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	assert_int_equal(checkpoint_remove_others(&f.place, 2, &none, 0), 0);
	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s",
			 f.place.dir, names[i]);
		assert_int_equal(access(path, F_OK) == 0, i != 0);
	}
	files_fini(&f);
}

/* ---- the golden checkpoint ---- */

#define GOLDEN "tests/golden/checkpoint-2.ckpt"
#define GOLDEN_NAME "00000003-0000000000000064.ckpt" /* LSN 100 */

/* One of everything. */
static void golden_names(struct state *s)
{
	struct record_address a = {.id = 1,
				   .name = "orders",
				   .name_len = 6,
				   .routing = RECORD_ANYCAST,
				   .flags = 1};
	struct record_queue t = {.id = 6,
				 .address = 1,
				 .name = "temp",
				 .name_len = 4,
				 .routing = RECORD_MULTICAST,
				 .flags = RECORD_QUEUE_TEMPORARY |
					  RECORD_QUEUE_PAUSED};

	assert_int_equal(apply(s, 2, RECORD_ADDRESS, meta,
			       record_address_encode(&a, meta), 0),
			 0);
	put_queue(s, 5);
	assert_int_equal(apply(s, 3, RECORD_QUEUE, meta,
			       record_queue_encode(&t, meta), 0),
			 0);
}

static void golden_messages(struct state *s)
{
	struct record_enqueue e = {
		.props = {1700000060000, 1700000000000, 9, 1, 2, 0},
		.bytes = 77,
		.target_count = 2,
		.targets = (uint64_t[]){5, 6}};
	struct record_count c = {.queue = 5,
				 .ref = record_ref(9, 1),
				 .deliveries = 3,
				 .extra = "annotated",
				 .extra_len = 9};
	struct record_move m = {
		.queue = 6,
		.ref = record_ref(9, 1),
		.props = {1600000000000, 1700000000000, 9, 1, 2, 0},
		.bytes = 77,
		.origin = {"orders", "temp", 6, 4, RECORD_REASON_REJECTED},
		.target_count = 1,
		.targets = (uint64_t[]){5}};

	assert_int_equal(put_message(s, 10, 5, 0, 0, 1024), 0);
	assert_int_equal(put_message(s, 11, 5, 0, 0, 1), 0);
	assert_int_equal(apply(s, 12, RECORD_ENQUEUE, meta,
			       record_enqueue_encode(&e, meta), 77),
			 0);
	assert_int_equal(apply(s, 13, RECORD_COUNT, meta,
			       record_count_encode(&c, meta), 0),
			 0);
	assert_int_equal(apply(s, 14, RECORD_MOVE, meta,
			       record_move_encode(&m, meta), 77),
			 0);
	assert_int_equal(put_piece(s, 20, 40, 0, 1000), 0);
	assert_int_equal(put_piece(s, 21, 40, 1, 500), 0);
	assert_int_equal(put_piece(s, 22, 41, 0, 100), 0);
	assert_int_equal(put_message(s, 30, 6, 40, 2, 1500), 0);
}

/* Queue 5, lane 0: numbers 3 to 12 into a run, 5 has left, 6 is counted; one
 * file in which nothing is left. */
static void golden_extents(struct state *s)
{
	struct record_piece_place place = {.upload = 40,
					   .index = 1,
					   .offset = 5000,
					   .stored_len = 300,
					   .body_len = 500};
	struct record_run run = {.queue = 5,
				 .first = 3,
				 .span = 10,
				 .copied = 10,
				 .offset = 32,
				 .bytes = 4000,
				 .expiry_min_ms = 1700000060000};
	struct record_extents x = {.file = store_file_key(3, 1),
				   .file_bytes = 8192,
				   .run_count = 1,
				   .piece_count = 1,
				   .runs = &run,
				   .pieces = &place};
	struct record_ack a = {.queue = 5,
			       .bytes = 100,
			       .range_count = 1,
			       .ranges = &(struct record_range){5, 5}};
	struct record_count c = {
		.queue = 5, .ref = 6, .deliveries = 2, .extra = "x"};

	for (uint64_t lsn = 31; lsn < 42; lsn++)
		assert_int_equal(put_message(s, lsn, 5, 0, 0, 100), 0);
	assert_int_equal(apply(s, 42, RECORD_EXTENTS, meta,
			       record_extents_encode(&x, meta), 0),
			 0);
	assert_int_equal(
		apply(s, 43, RECORD_ACK, meta, record_ack_encode(&a, meta), 0),
		0);
	c.extra_len = 1;
	assert_int_equal(apply(s, 44, RECORD_COUNT, meta,
			       record_count_encode(&c, meta), 0),
			 0);
	x.file = store_file_key(3, 2);
	x.run_count = x.piece_count = 0;
	assert_int_equal(apply(s, 45, RECORD_EXTENTS, meta,
			       record_extents_encode(&x, meta), 0),
			 0);
}

static void golden_state(struct state *s)
{
	golden_names(s);
	golden_messages(s);
	golden_extents(s);
	state_check(s);
}

static void dump_place(FILE *out, const struct state *s,
		       const struct entry_place *p)
{
	struct log_loc l = state_loc(s, p);

	fprintf(out, " at %llx.%u+%u %u/%u", (unsigned long long)l.segment,
		l.frame, l.at, l.stored_len, l.body_len);
}

struct dump {
	FILE *out;
	const struct state *state;
};

static int dump_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct record_origin o = state_entry_origin(e);
	struct dump *d = ctx;

	fprintf(d->out, " %llu: %llu %llu %u %u %u %u", (unsigned long long)ref,
		(unsigned long long)e->arrived_ms,
		(unsigned long long)e->expiry_ms, e->deliveries, e->priority,
		e->format, e->durable);
	if (e->more && e->more->upload)
		fprintf(d->out, " upload %llu",
			(unsigned long long)e->more->upload->id);
	else
		dump_place(d->out, d->state, &e->place);
	if (e->more && e->more->extra_len)
		fprintf(d->out, " %.*s", (int)e->more->extra_len,
			e->more->data);
	if (o.reason)
		fprintf(d->out, " from %.*s::%.*s %u", o.address_len, o.address,
			o.queue_len, o.queue, o.reason);
	fputc('\n', d->out);
	return 0;
}

static int dump_change(void *ctx, const struct detail_change *c)
{
	struct dump *d = ctx;

	fprintf(d->out, " %u: %u %.*s", c->at, c->deliveries, (int)c->extra_len,
		c->extra_len ? (const char *)c->extra : "");
	return 0;
}

static void dump_run(struct dump *d, const struct state_run *r)
{
	fprintf(d->out,
		" run %llu+%u %u/%u in %llx at %u+%u expires %llu, gone",
		(unsigned long long)r->first, r->span, r->live, r->copied,
		(unsigned long long)d->state->files[r->file].key, r->offset,
		r->bytes, (unsigned long long)r->expiry_min_ms);
	for (uint32_t at = 0; r->detail && at < r->span; at++) {
		if (detail_is_gone(r->detail, at))
			fprintf(d->out, " %u", at);
	}
	if (r->detail)
		detail_each_change(r->detail, dump_change, d);
	fputc('\n', d->out);
}

static void dump_queue(struct dump *d, const struct state_queue *q)
{
	fprintf(d->out, "queue %llu of %llu %.*s %u %u, %llu bytes\n",
		(unsigned long long)q->record.id,
		(unsigned long long)q->record.address, q->record.name_len,
		q->name, q->record.routing, q->record.flags,
		(unsigned long long)q->bytes);
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
		const struct state_lane *lane = q->lanes[p];

		if (!lane)
			continue;
		fprintf(d->out, "lane %u next %llu\n", p,
			(unsigned long long)lane->next);
		for (size_t i = lane->run_head; i < lane->run_end; i++)
			dump_run(d, lane->runs[i]);
		entries_each(&lane->entries, dump_entry, d);
	}
}

/* By key. */
static void dump_files(struct dump *d)
{
	const struct state *s = d->state;
	uint64_t last = 0;

	for (size_t i = 0; i < s->file_count; i++) {
		const struct state_file *least = NULL;

		for (size_t k = 0; k < s->file_count; k++) {
			const struct state_file *f = &s->files[k];

			if ((f->live || f->dead) && f->key > last &&
			    (!least || f->key < least->key))
				least = f;
		}
		if (!least)
			break;
		last = least->key;
		fprintf(d->out, "file %llx live %llu/%llu of %llu %s\n",
			(unsigned long long)least->key,
			(unsigned long long)least->live,
			(unsigned long long)least->live_bytes,
			(unsigned long long)least->bytes,
			least->dead ? "dead" : "");
	}
}

/* Everything that a state says, as text that the caller frees. */
static char *dump(const struct state *s)
{
	char *text = NULL;
	size_t len;
	struct dump d = {open_memstream(&text, &len), s};
	void **all = idmap_sorted(&s->addresses);

	fprintf(d.out, "next %llu\n", (unsigned long long)s->next_id);
	dump_files(&d);
	for (size_t i = 0; i < s->addresses.count; i++) {
		const struct state_address *a = all[i];

		fprintf(d.out, "address %llu %.*s %u %u\n",
			(unsigned long long)a->record.id, a->record.name_len,
			a->name, a->record.routing, a->record.flags);
	}
	free(all);
	all = idmap_sorted(&s->uploads);
	for (size_t i = 0; i < s->uploads.count; i++) {
		const struct state_upload *u = all[i];

		fprintf(d.out, "upload %llu %u", (unsigned long long)u->id,
			u->complete);
		for (uint32_t k = 0; k < u->piece_count; k++)
			dump_place(d.out, s, &u->pieces[k]);
		fputc('\n', d.out);
	}
	free(all);
	all = idmap_sorted(&s->queues);
	for (size_t i = 0; i < s->queues.count; i++)
		dump_queue(&d, all[i]);
	free(all);
	fclose(d.out);
	return text;
}

static void copy_file(const char *from, const char *to)
{
	static char buf[1 << 20];
	int in = open(from, O_RDONLY), out;
	ssize_t len;

	assert_true(in >= 0);
	len = read(in, buf, sizeof(buf));
	assert_true(len > 0 && len < (ssize_t)sizeof(buf));
	out = open(to, O_CREAT | O_WRONLY, 0600);
	assert_true(out >= 0);
	assert_int_equal(write(out, buf, (size_t)len), len);
	close(in);
	close(out);
}

TEST("the golden checkpoint still says what it said")
{
	struct log_position p, want = position_at(100);
	struct checkpoint_file golden, written;
	char path[512], *have, *expected;
	struct state s;
	struct files f;

	files_init(&f, test_directory());
	state_init(&s);
	golden_state(&s);
	expected = dump(&s);
	save_as(&f, &s, 100, 4, &written);
	state_fini(&s);
	state_init(&s);
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/" GOLDEN_NAME,
		 f.place.dir);
	copy_file(GOLDEN, path);
	assert_int_equal(checkpoint_read(&f.place, GOLDEN_NAME, &s, &p), 0);
	have = dump(&s);
	assert_string_equal(have, expected);
	assert_int_equal(checkpoint_parse(GOLDEN_NAME, &golden), 0);
	assert_same_plaintext(&f, &golden, &written);
	assert_memory_equal(&p, &want, sizeof(p));
	state_check(&s);
	free(have);
	free(expected);
	state_fini(&s);
	files_fini(&f);
}

TEST_MAIN()
