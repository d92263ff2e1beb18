/* tests/unit/test_checkpoint.c: states written down and read back.
 *
 * tests/golden/checkpoint-1.ckpt is a version 1 checkpoint of golden_state()
 * below.  When it cannot be read any more, old stores cannot either: add a
 * decoder, do not replace the file. */
#include "tests/unit/test.h"

#include "journal/store/checkpoint.h"
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

#define GOLDEN "tests/golden/checkpoint-1.ckpt"
#define GOLDEN_NAME "00000003-0000000000000064.ckpt" /* LSN 100 */

/* One of everything. */
static void golden_state(struct state *s)
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
	struct record_enqueue e = {
		.props = {1700000060000, 1700000000000, 9, 1, 2, 0},
		.bytes = 77,
		.target_count = 2,
		.targets = (uint64_t[]){5, 6}};
	struct record_count c = {.queue = 5,
				 .ref = 12,
				 .deliveries = 3,
				 .extra = "annotated",
				 .extra_len = 9};
	struct record_move m = {
		.queue = 6,
		.ref = 12,
		.origin = {"orders", "temp", 6, 4, RECORD_REASON_REJECTED},
		.expiry_ms = 1600000000000,
		.target_count = 1,
		.targets = (uint64_t[]){5}};

	assert_int_equal(apply(s, 2, RECORD_ADDRESS, meta,
			       record_address_encode(&a, meta), 0),
			 0);
	put_queue(s, 5);
	assert_int_equal(apply(s, 3, RECORD_QUEUE, meta,
			       record_queue_encode(&t, meta), 0),
			 0);
	assert_int_equal(put_message(s, 10, 5, 0, 0, 1024), 0);
	assert_int_equal(put_message(s, 11, 5, 0, 0, 1), 0);
	assert_int_equal(apply(s, 12, RECORD_ENQUEUE, meta,
			       record_enqueue_encode(&e, meta), 77),
			 0);
	assert_int_equal(apply(s, 13, RECORD_COUNT, meta,
			       record_count_encode(&c, meta), 0),
			 0);
	assert_int_equal(apply(s, 14, RECORD_MOVE, meta,
			       record_move_encode(&m, meta), 0),
			 0);
	assert_int_equal(put_piece(s, 20, 40, 0, 1000), 0);
	assert_int_equal(put_piece(s, 21, 40, 1, 500), 0);
	assert_int_equal(put_piece(s, 22, 41, 0, 100), 0);
	assert_int_equal(put_message(s, 30, 6, 40, 2, 1500), 0);
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

/* Everything that a state says, as text that the caller frees. */
static char *dump(const struct state *s)
{
	char *text = NULL;
	size_t len;
	struct dump d = {open_memstream(&text, &len), s};
	void **all = idmap_sorted(&s->addresses);

	fprintf(d.out, "next %llu\n", (unsigned long long)s->next_id);
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
	for (size_t i = 0; i < s->queues.count; i++) {
		const struct state_queue *q = all[i];

		fprintf(d.out, "queue %llu of %llu %.*s %u %u\n",
			(unsigned long long)q->record.id,
			(unsigned long long)q->record.address,
			q->record.name_len, q->name, q->record.routing,
			q->record.flags);
		entries_each(&q->entries, dump_entry, &d);
	}
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
	char path[512], *have, *expected;
	struct state s;
	struct files f;

	files_init(&f, test_directory());
	state_init(&s);
	golden_state(&s);
	expected = dump(&s);
	state_fini(&s);
	state_init(&s);
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/" GOLDEN_NAME,
		 f.place.dir);
	copy_file(GOLDEN, path);
	assert_int_equal(checkpoint_read(&f.place, GOLDEN_NAME, &s, &p), 0);
	have = dump(&s);
	assert_string_equal(have, expected);
	assert_memory_equal(&p, &want, sizeof(p));
	state_check(&s);
	free(have);
	free(expected);
	state_fini(&s);
	files_fini(&f);
}

TEST_MAIN()
