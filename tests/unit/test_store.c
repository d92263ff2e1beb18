/* tests/unit/test_store.c: the store on a real log, in real files.
 *
 * A broker here is a log, a store, their two threads and a client thread.
 * TEST_SEED replays a failure. */
#include "tests/unit/test.h"

#include <semaphore.h>
#include <signal.h>
#include <time.h>

#include "base/engine.h"
#include "journal/store/checkpoint.h"
#include "tests/unit/store_model.h"

#define MIB (1024u * 1024u)
#define CHAIN 32u

static uint64_t test_seed(void)
{
	const char *text = getenv("TEST_SEED");

	return text ? strtoull(text, NULL, 10) : 20240607;
}

/* ---- a broker ---- */

struct broker {
	const char *dir;
	uint64_t checkpoint_bytes, checkpoint_ns;
	struct io *io;
	struct crypto_key *master;
	struct log *log;
	struct store *store;
	struct loop *journal, *store_loop, *client;
	struct model model;
	sem_t done;
	_Atomic uint32_t waiting;
	_Atomic int failed;
	struct loop_mail mail;
	int fault_at; /* of the calls in store_recover() */
};

/* The call that fails, counted down; see the faults below. */
static _Atomic int fault_countdown;

static void broker_failed(void *ctx, int err, const char *why)
{
	struct broker *b = ctx;

	b->failed = err;
}

static void broker_committed(void *ctx, struct log_batch *batch)
{
	struct broker *b = ctx;

	if (store_take(b->store, batch))
		b->failed = -EAGAIN;
}

static void broker_init(struct broker *b)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "the master key of a test";
	const char *reason;

	memset(b, 0, sizeof(*b));
	b->dir = test_directory();
	b->model.seed = test_seed();
	b->checkpoint_bytes = 1024 * MIB;
	b->checkpoint_ns = 3600 * 1000000000ull;
	sem_init(&b->done, 0, 0);
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &b->master), 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &b->io, &reason), 0);
}

static void broker_fini(struct broker *b)
{
	model_fini(&b->model);
	crypto_key_free(b->master);
	io_free(b->io);
	sem_destroy(&b->done);
}

static void broker_close(struct broker *b)
{
	loop_free(b->journal);
	loop_free(b->store_loop);
	loop_free(b->client);
	log_free(b->log);
	store_free(b->store);
	b->journal = b->store_loop = b->client = NULL;
	b->log = NULL;
	b->store = NULL;
}

/* Up to store_recover(), whose result it returns. */
static int broker_recover(struct broker *b)
{
	struct log_options log = {.io = b->io,
				  .dir = b->dir,
				  .master = b->master,
				  .segment_bytes = MIB,
				  .reserve_bytes = MIB,
				  .committed = broker_committed,
				  .failed = broker_failed,
				  .ctx = b};
	struct store_options store = {.io = b->io,
				      .dir = b->dir,
				      .master = b->master,
				      .checkpoint_bytes = b->checkpoint_bytes,
				      .checkpoint_ns = b->checkpoint_ns,
				      .failed = broker_failed,
				      .ctx = b};
	int err;

	b->failed = 0;
	assert_int_equal(store_create(&store, &b->store), 0);
	err = log_create(&log, &b->log);
	if (!err)
		err = log_claim(b->log);
	if (err)
		return err;
	fault_countdown = b->fault_at;
	err = store_recover(b->store, b->log);
	fault_countdown = 0;
	return err;
}

static void broker_start(struct broker *b)
{
	assert_int_equal(loop_create(b->io, "journal", &b->journal), 0);
	assert_int_equal(loop_create(b->io, "store", &b->store_loop), 0);
	assert_int_equal(loop_create(b->io, "client", &b->client), 0);
	assert_int_equal(log_start(b->log, b->journal), 0);
	assert_int_equal(store_start(b->store, b->store_loop), 0);
	assert_int_equal(loop_start(b->store_loop, NULL, NULL), 0);
	assert_int_equal(loop_start(b->journal, NULL, NULL), 0);
	assert_int_equal(loop_start(b->client, NULL, NULL), 0);
}

static void broker_done(void *ctx)
{
	struct broker *b = ctx;

	sem_post(&b->done);
}

static void stop_store(struct loop_mail *mail)
{
	struct broker *b = container_of(mail, struct broker, mail);

	store_stop(b->store, broker_done, b);
}

static void stop_log(struct loop_mail *mail)
{
	struct broker *b = container_of(mail, struct broker, mail);

	log_stop(b->log, broker_done, b);
}

static void broker_wait(struct broker *b)
{
	while (sem_wait(&b->done))
		assert_int_equal(errno, EINTR);
}

static void broker_stop(struct broker *b)
{
	b->mail.deliver = stop_store;
	loop_post(b->store_loop, &b->mail);
	broker_wait(b);
	b->mail.deliver = stop_log;
	loop_post(b->journal, &b->mail);
	broker_wait(b);
	loop_stop(b->journal);
	loop_join(b->journal);
	loop_stop(b->store_loop);
	loop_join(b->store_loop);
	loop_stop(b->client);
	loop_join(b->client);
	broker_close(b);
	model_restart(&b->model);
}

/* ---- appending ---- */

struct pending {
	struct log_append append;
	struct log_note note;
	struct broker *broker;
	struct model_op op;
	uint8_t body[MODEL_BODY_MAX];
};

static void pending_noted(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct pending *p = container_of(note, struct pending, note);

	if (atomic_fetch_sub(&p->broker->waiting, 1) == 1)
		sem_post(&p->broker->done);
}

/* Append what all[].op say as one chain, wait, apply to the model. */
static void broker_append(struct broker *b, struct pending *all, uint32_t count)
{
	b->waiting = count;
	for (uint32_t i = 0; i < count; i++) {
		struct pending *p = &all[i];

		p->broker = b;
		memset(p->body, (int)(p->op.props.arrived_ms & 0xff),
		       p->op.body_len);
		p->note = (struct log_note){.mail.deliver = pending_noted,
					    .to = b->client,
					    .append = &p->append};
		p->append = (struct log_append){
			.next = i + 1 < count ? &all[i + 1].append : NULL,
			.meta = p->op.meta,
			.meta_len = p->op.meta_len,
			.body = p->op.body_len ? p->body : NULL,
			.body_len = p->op.body_len,
			.type = p->op.type,
			.note_count = 1,
			.notes = &p->note,
		};
	}
	log_append(b->log, &all[0].append, &all[count - 1].append);
	broker_wait(b);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(all[i].append.err, 0);
		model_apply(&b->model, &all[i].op, all[i].append.lsn,
			    &all[i].append.loc);
	}
}

static void broker_random(struct broker *b, unsigned chains)
{
	struct pending *all = calloc(CHAIN, sizeof(*all));

	assert_non_null(all);
	for (unsigned i = 0; i < chains; i++) {
		uint32_t n = 1 + (uint32_t)model_random(&b->model, CHAIN);

		for (uint32_t k = 0; k < n; k++)
			model_make(&b->model, &all[k].op);
		broker_append(b, all, n);
	}
	free(all);
}

/* A queue, when there is none, and messages in it. */
static void broker_fill(struct broker *b, unsigned messages, uint32_t bytes)
{
	struct pending *all = calloc(CHAIN, sizeof(*all));
	uint64_t queue = b->model.queues[0].id;

	assert_non_null(all);
	if (!queue) {
		b->model.next_id = 2;
		all[0].op.type = RECORD_QUEUE;
		model_make_queue(&b->model, &all[0].op, false);
		broker_append(b, all, 1);
		queue = b->model.queues[0].id;
	}
	for (unsigned done = 0; done < messages; done += CHAIN) {
		for (uint32_t k = 0; k < CHAIN; k++) {
			struct model_op *op = &all[k].op;
			struct record_enqueue e = {.bytes = bytes,
						   .target_count = 1,
						   .targets = &queue};

			memset(op, 0, sizeof(*op));
			op->type = RECORD_ENQUEUE;
			op->body_len = bytes;
			op->bytes = bytes;
			op->targets[0] = queue;
			op->target_count = 1;
			op->meta_len =
				(uint32_t)record_enqueue_encode(&e, op->meta);
		}
		broker_append(b, all, CHAIN);
	}
	free(all);
}

/* Everything in the filled queue leaves. */
static void broker_drain(struct broker *b)
{
	struct pending *p = calloc(1, sizeof(*p));
	struct record_purge purge = {.queue = b->model.queues[0].id,
				     .upto = UINT64_MAX};

	assert_non_null(p);
	p->op.type = RECORD_PURGE;
	p->op.queue = purge.queue;
	p->op.upto = purge.upto;
	p->op.meta_len = (uint32_t)record_purge_encode(&purge, p->op.meta);
	broker_append(b, p, 1);
	free(p);
}

/* ---- looking ---- */

/* Until it is so, or give up after a minute. */
static bool broker_until(struct broker *b, bool (*so)(struct broker *))
{
	time_t deadline = time(NULL) + 60;

	while (!so(b)) {
		if (b->failed || time(NULL) > deadline)
			return false;
		sched_yield();
	}
	return true;
}

struct comparison {
	struct model *model;
	const struct model_queue *queue;
	size_t at;
};

static int compare_message(void *ctx, const struct store_message *m)
{
	struct comparison *c = ctx;

	assert_true(c->at < c->queue->count);
	model_assert_message(c->model, &c->queue->messages[c->at++], m);
	return 0;
}

static int compare_queue(void *ctx, const struct record_queue *q)
{
	const struct model_queue *want = model_queue(ctx, q->id);

	assert_non_null(want);
	assert_int_equal(q->flags, want->flags);
	assert_int_equal(q->name_len, strlen(want->name));
	assert_memory_equal(q->name, want->name, q->name_len);
	return 0;
}

static int count_address(void *ctx, const struct record_address *a)
{
	size_t *count = ctx;

	++*count;
	return 0;
}

static void broker_compare(struct broker *b)
{
	struct model *m = &b->model;
	size_t addresses = 0, want = 0;

	assert_int_equal(store_each_queue(b->store, compare_queue, m), 0);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		struct comparison c = {m, &m->queues[i], 0};

		want += m->addresses[i].id != 0;
		if (!c.queue->id)
			continue;
		assert_int_equal(store_each_message(b->store, c.queue->id,
						    compare_message, &c),
				 0);
		assert_int_equal(c.at, c.queue->count);
	}
	assert_int_equal(
		store_each_address(b->store, count_address, &addresses), 0);
	assert_int_equal(addresses, want);
}

struct presence {
	uint64_t keys[512];
	size_t count;
};

static int note_segment(void *ctx, const struct log_segment_info *info)
{
	struct presence *p = ctx;

	assert_true(p->count < ARRAY_COUNT(p->keys));
	p->keys[p->count++] = info->key;
	return 0;
}

static bool segment_is_there(const struct presence *p, uint64_t key)
{
	for (size_t i = 0; i < p->count; i++) {
		if (p->keys[i] == key)
			return true;
	}
	return false;
}

/* What a queue still owes lies in segments that exist. */
static void broker_check_segments(struct broker *b)
{
	struct presence p = {.count = 0};

	assert_int_equal(log_each_segment(b->log, note_segment, &p), 0);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &b->model.queues[i];

		for (size_t k = 0; q->id && k < q->count; k++) {
			const struct model_upload *u =
				model_upload(&b->model, q->messages[k].upload);

			if (!u)
				assert_true(segment_is_there(
					&p, q->messages[k].loc.segment));
			for (uint32_t n = 0; u && n < u->count; n++)
				assert_true(segment_is_there(
					&p, u->pieces[n].segment));
		}
	}
}

/* Names of the checkpoint files, newest first. */
static size_t broker_files(struct broker *b, struct checkpoint_file files[8])
{
	struct checkpoint_place place = {.identity.io = b->io, .dir = b->dir};
	size_t count;

	assert_int_equal(checkpoint_list(&place, files, 8, &count), 0);
	return count;
}

static void broker_path(struct broker *b, const char *name, char ret[512])
{
	snprintf(ret, 512, "%s/" CHECKPOINT_DIR "/%s", b->dir, name);
}

static void broker_damage(struct broker *b, const char *name)
{
	char path[512];
	struct stat st;
	uint8_t byte;
	int fd;

	broker_path(b, name, path);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	/* Somewhere in the last chunk's ciphertext. */
	assert_int_equal(pread(fd, &byte, 1, st.st_size / 2), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, st.st_size / 2), 1);
	close(fd);
}

/* ---- tests ---- */

TEST("after any records and restarts the store is what a model says")
{
	uint64_t dropped = 0, checkpoints = 0;
	struct broker b;

	broker_init(&b);
	b.checkpoint_bytes = 300 * 1024;
	for (unsigned round = 0; round < 8; round++) {
		assert_int_equal(broker_recover(&b), 0);
		assert_null(store_warning(b.store));
		broker_compare(&b);
		broker_start(&b);
		broker_random(&b, 30 + (unsigned)model_random(&b.model, 120));
		broker_check_segments(&b);
		assert_int_equal(b.failed, 0);
		dropped += log_stats(b.log)->segments_dropped;
		checkpoints += store_stats(b.store)->checkpoints;
		broker_stop(&b);
	}
	assert_true(checkpoints > 8);
	assert_true(dropped > 2);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

static bool made_three(struct broker *b)
{
	return store_stats(b->store)->checkpoints >= 3;
}

/* Segments dropped, checkpoints on disk, tail behind them; stopped. */
static void broker_history(struct broker *b)
{
	b->checkpoint_bytes = 256 * 1024;
	assert_int_equal(broker_recover(b), 0);
	broker_start(b);
	broker_fill(b, 4000, 1000);
	broker_drain(b);
	broker_fill(b, 4000, 1000);
	assert_true(broker_until(b, made_three));
	assert_true(log_stats(b->log)->segments_dropped > 0);
	broker_stop(b);
	b->checkpoint_bytes = 1024 * MIB;
}

TEST("a damaged newest checkpoint falls back to the one before, and says so")
{
	struct checkpoint_file files[8];
	struct broker b;

	broker_init(&b);
	broker_history(&b);
	assert_true(broker_files(&b, files) >= 2);
	broker_damage(&b, files[0].name);
	assert_int_equal(broker_recover(&b), 0);
	assert_non_null(store_warning(b.store));
	assert_non_null(strstr(store_warning(b.store), files[0].name));
	broker_compare(&b);
	/* And the broker goes on from there. */
	broker_start(&b);
	broker_fill(&b, 500, 1000);
	broker_stop(&b);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

TEST("with both checkpoints damaged and segments gone the start is refused")
{
	struct checkpoint_file files[8];
	struct broker b;
	size_t count;

	broker_init(&b);
	broker_history(&b);
	count = broker_files(&b, files);
	for (size_t i = 0; i < count; i++)
		broker_damage(&b, files[i].name);
	assert_int_equal(broker_recover(&b), -E_LOST);
	assert_true(strlen(store_why(b.store)) > 20);
	broker_close(&b);
	/* The refusal has changed nothing: repaired, it starts. */
	for (size_t i = 0; i < count; i++)
		broker_damage(&b, files[i].name);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

static bool made_one(struct broker *b)
{
	return store_stats(b->store)->checkpoints >= 1;
}

TEST("a damaged only checkpoint is no loss while the journal is whole")
{
	struct checkpoint_file files[8];
	struct broker b;

	broker_init(&b);
	b.checkpoint_bytes = 100 * 1024;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	broker_fill(&b, 128, 1000);
	assert_true(broker_until(&b, made_one));
	broker_stop(&b);
	assert_int_equal(broker_files(&b, files), 1);
	broker_damage(&b, files[0].name);
	assert_int_equal(broker_recover(&b), 0);
	assert_non_null(store_warning(b.store));
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

TEST("a whole checkpoint that the journal does not know is passed over")
{
	struct checkpoint_file files[8], file;
	struct checkpoint_place place;
	struct log_position position;
	uint8_t hash[CRYPTO_HASH_BYTES];
	char path[512], target[512], other[300];
	struct state state;
	struct broker b;
	uint64_t bytes;

	broker_init(&b);
	broker_history(&b);
	broker_files(&b, files);
	/* The same state written again has another key, so another hash. */
	assert_int_equal(broker_recover(&b), 0);
	place = (struct checkpoint_place){
		.identity = {.io = b.io,
			     .master = b.master,
			     .cluster_id = log_cluster_id(b.log)},
		.dir = b.dir};
	state_init(&state);
	assert_int_equal(
		checkpoint_read(&place, files[0].name, &state, &position), 0);
	snprintf(other, sizeof(other), "%s/other", b.dir);
	assert_int_equal(mkdir(other, 0700), 0);
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR, other);
	assert_int_equal(mkdir(path, 0700), 0);
	place.dir = other;
	assert_int_equal(checkpoint_write(&place, &state, &position,
					  files[0].epoch, &file, hash, &bytes),
			 0);
	state_fini(&state);
	broker_close(&b);
	assert_string_equal(file.name, files[0].name);
	snprintf(path, sizeof(path), "%s/" CHECKPOINT_DIR "/%s", other,
		 file.name);
	broker_path(&b, file.name, target);
	assert_int_equal(rename(path, target), 0);
	assert_int_equal(broker_recover(&b), 0);
	assert_non_null(store_warning(b.store));
	assert_non_null(strstr(store_warning(b.store), "recorded"));
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

static bool only_active(struct broker *b)
{
	return log_stats(b->log)->segments_dropped >= 3;
}

TEST("an idle broker gives back the segments that nobody needs")
{
	struct broker b;

	broker_init(&b);
	b.checkpoint_ns = 20 * 1000000;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	broker_fill(&b, 4000, 1000);
	broker_drain(&b);
	/* Nothing more is appended by anyone but the store. */
	assert_true(broker_until(&b, only_active));
	assert_true(store_stats(b.store)->checkpoints >= 2);
	broker_stop(&b);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

TEST("at most three checkpoint files are there, whatever happens")
{
	struct checkpoint_file files[8];
	struct broker b;

	broker_init(&b);
	b.checkpoint_bytes = 64 * 1024;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	for (unsigned i = 0; i < 10; i++) {
		broker_fill(&b, 200, 1000);
		assert_true(broker_files(&b, files) <= 3);
	}
	assert_true(store_stats(b.store)->checkpoints > 3);
	broker_stop(&b);
	assert_true(broker_files(&b, files) <= 3);
	broker_fini(&b);
}

/* ---- faults ---- */

/* The engine's table with a hole in it: the k-th call that touches a
 * checkpoint, or any call, fails. */
static struct engine_ops faulty;
static const struct engine_ops *sound;
static _Atomic int fault_err, fault_checkpoint_err;
static _Atomic unsigned fault_hits;

static int fault(void)
{
	if (fault_countdown && --fault_countdown == 0) {
		fault_hits++;
		return fault_err;
	}
	return 0;
}

static int fault_open(struct io *io, const char *path, unsigned flags,
		      struct io_file **ret)
{
	int err = fault();

	if (!err && fault_checkpoint_err && flags & IO_CREATE &&
	    strstr(path, "/" CHECKPOINT_DIR "/")) {
		fault_hits++;
		err = fault_checkpoint_err;
	}
	return err ? err : sound->open(io, path, flags, ret);
}

static int fault_read(struct io_file *f, void *buf, size_t len, uint64_t at,
		      size_t *ret)
{
	int err = fault();

	return err ? err : sound->read(f, buf, len, at, ret);
}

static int fault_write(struct io_file *f, const void *buf, size_t len,
		       uint64_t at)
{
	int err = fault();

	return err ? err : sound->write(f, buf, len, at);
}

static int fault_sync(struct io_file *f)
{
	int err = fault();

	return err ? err : sound->sync(f);
}

static int fault_size(struct io_file *f, uint64_t *ret)
{
	int err = fault();

	return err ? err : sound->size(f, ret);
}

static int fault_rename(struct io *io, const char *from, const char *to)
{
	int err = fault();

	return err ? err : sound->rename(io, from, to);
}

static int fault_sync_dir(struct io *io, const char *path)
{
	int err = fault();

	return err ? err : sound->sync_dir(io, path);
}

static int fault_list(struct io *io, const char *path,
		      int (*each)(void *, const char *), void *ctx)
{
	int err = fault();

	return err ? err : sound->list(io, path, each, ctx);
}

static void fault_install(struct io *io)
{
	sound = io->ops;
	faulty = *sound;
	faulty.open = fault_open;
	faulty.read = fault_read;
	faulty.write = fault_write;
	faulty.sync = fault_sync;
	faulty.size = fault_size;
	faulty.rename = fault_rename;
	faulty.sync_dir = fault_sync_dir;
	faulty.list = fault_list;
	io->ops = &faulty;
	fault_countdown = fault_checkpoint_err = 0;
	fault_hits = 0;
}

TEST("whichever call fails during recovery, the state is right or refused")
{
	unsigned refused = 0, recovered = 0;
	char original[300], copy[300], command[700];
	struct broker b;

	broker_init(&b);
	snprintf(original, sizeof(original), "%s/original", b.dir);
	snprintf(copy, sizeof(copy), "%s/copy", b.dir);
	snprintf(command, sizeof(command), "rm -rf '%s'; cp -r '%s' '%s'", copy,
		 original, copy);
	assert_int_equal(mkdir(original, 0700), 0);
	b.dir = original;
	broker_history(&b);
	b.dir = copy;
	fault_install(b.io);
	fault_err = -EIO;
	do {
		int err;

		/* Every attempt claims an epoch, so each has its own copy. */
		assert_int_equal(system(command), 0);
		b.fault_at++;
		fault_hits = 0;
		err = broker_recover(&b);
		if (!err) {
			broker_compare(&b);
			recovered += fault_hits > 0;
		} else {
			assert_int_equal(fault_hits, 1);
			assert_true(strlen(store_why(b.store)) > 10);
			refused++;
		}
		broker_close(&b);
	} while (fault_hits);
	assert_true(refused > 5);
	assert_true(recovered >= 1); /* a checkpoint that cannot be read */
	broker_fini(&b);
}

TEST("whichever call fails while a checkpoint is written, the rest is whole")
{
	struct checkpoint_file files[8], file;
	struct checkpoint_place place;
	struct log_position position;
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct state state;
	struct broker b;
	uint64_t bytes;
	size_t before;
	int err;

	broker_init(&b);
	broker_history(&b);
	before = broker_files(&b, files);
	assert_int_equal(broker_recover(&b), 0);
	place = (struct checkpoint_place){
		.identity = {.io = b.io,
			     .master = b.master,
			     .cluster_id = log_cluster_id(b.log)},
		.dir = b.dir};
	state_init(&state);
	assert_int_equal(
		checkpoint_read(&place, files[0].name, &state, &position), 0);
	fault_install(b.io);
	for (int k = 1;; k++) {
		fault_err = k % 2 ? -EIO : -ENOSPC;
		fault_countdown = k;
		err = checkpoint_write(&place, &state, &position, 77, &file,
				       hash, &bytes);
		fault_countdown = 0;
		if (!err)
			break;
		assert_int_equal(err, fault_err);
		/* After the rename it may be there, whole; before, not. */
		if (broker_files(&b, files) != before) {
			assert_int_equal(files[0].epoch, 77);
			state_fini(&state);
			state_init(&state);
			assert_int_equal(checkpoint_read(&place, files[0].name,
							 &state, &position),
					 0);
			assert_int_equal(checkpoint_remove_others(
						 &place, files + 1, before),
					 0);
		}
	}
	assert_true(fault_hits >= 5);
	assert_int_equal(checkpoint_verify(&place, file.name, hash), 0);
	state_fini(&state);
	broker_close(&b);
	broker_fini(&b);
}

static bool hit(struct broker *b)
{
	return fault_hits > 0;
}

TEST("no space for a checkpoint is no failure, and it is tried again")
{
	struct broker b;

	broker_init(&b);
	fault_install(b.io);
	b.checkpoint_ns = 10 * 1000000;
	assert_int_equal(broker_recover(&b), 0);
	fault_checkpoint_err = -ENOSPC;
	broker_start(&b);
	broker_fill(&b, 64, 1000);
	assert_true(broker_until(&b, hit));
	broker_fill(&b, 64, 1000);
	assert_int_equal(b.failed, 0);
	assert_int_equal(store_stats(b.store)->checkpoints, 0);
	fault_checkpoint_err = 0;
	assert_true(broker_until(&b, made_one));
	broker_stop(&b);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

static bool has_failed(struct broker *b)
{
	return b->failed != 0;
}

TEST("any other failure of a checkpoint is told once, and nothing is lost")
{
	struct broker b;

	broker_init(&b);
	fault_install(b.io);
	b.checkpoint_ns = 10 * 1000000;
	assert_int_equal(broker_recover(&b), 0);
	fault_checkpoint_err = -EIO;
	broker_start(&b);
	broker_fill(&b, 64, 1000);
	(void)broker_until(&b, has_failed);
	assert_int_equal(b.failed, -EIO);
	assert_non_null(strstr(store_why(b.store), "checkpoint"));
	broker_fill(&b, 64, 1000);
	fault_checkpoint_err = 0;
	broker_stop(&b);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

/* ---- kill ---- */

struct shared {
	_Atomic uint64_t asked, committed, drains_asked, drains_committed;
	_Atomic uint64_t committed_at_drain, asked_at_drain;
};

/* Fills and drains one queue until it is killed. */
static void victim(struct broker *b, struct shared *s)
{
	uint64_t asked = s->asked;

	broker_start(b);
	for (unsigned i = 1;; i++) {
		s->asked = asked += CHAIN;
		broker_fill(b, CHAIN, 1000);
		s->committed = asked;
		if (i % 40)
			continue;
		s->drains_asked++;
		s->asked_at_drain = asked;
		broker_drain(b);
		s->committed_at_drain = asked;
		s->drains_committed++;
	}
}

static int find_queue(void *ctx, const struct record_queue *q)
{
	*(uint64_t *)ctx = q->id;
	return 0;
}

TEST("killed at any moment, the store keeps what was committed")
{
	char dir[256];
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(s != MAP_FAILED);
	snprintf(dir, sizeof(dir), "%s", test_directory());
	for (unsigned round = 0; round < 8; round++) {
		uint64_t live, base, target;
		struct broker b;
		int status;
		pid_t child;

		/* What is queued now was settled by the round before. */
		base = s->committed;
		target = base + 300 + round * 397;
		child = fork();
		assert_true(child >= 0);
		if (!child) {
			const char *reason;
			uint64_t id = 0;

			memset(&b, 0, sizeof(b));
			b.dir = dir;
			b.checkpoint_bytes = 200 * 1024;
			b.checkpoint_ns = 3600 * 1000000000ull;
			sem_init(&b.done, 0, 0);
			if (crypto_init() ||
			    crypto_key_create((const uint8_t[32]){"killed"},
					      &b.master) ||
			    io_create(IO_ENGINE_THREADS, &b.io, &reason) ||
			    broker_recover(&b))
				_exit(9);
			store_each_queue(b.store, find_queue, &id);
			b.model.queues[0].id = id;
			b.model.next_id = 2;
			victim(&b, s);
		}
		while (s->committed < target &&
		       !waitpid(child, &status, WNOHANG))
			sched_yield();
		kill(child, SIGKILL);
		if (s->committed < target)
			fail_msg("the victim ended by itself");
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		/* Look at it from a process of its own: this one must not
		 * have threads when it forks. */
		child = fork();
		if (!child) {
			const char *reason;

			memset(&b, 0, sizeof(b));
			b.dir = dir;
			sem_init(&b.done, 0, 0);
			if (crypto_init() ||
			    crypto_key_create((const uint8_t[32]){"killed"},
					      &b.master) ||
			    io_create(IO_ENGINE_THREADS, &b.io, &reason))
				_exit(9);
			if (broker_recover(&b) || store_warning(b.store))
				_exit(8);
			live = store_stats(b.store)->live_messages;
			if (live > s->asked - s->committed_at_drain)
				_exit(7);
			if (s->drains_asked == s->drains_committed &&
			    live < s->committed - s->committed_at_drain)
				_exit(6);
			/* From here on, what was in doubt is settled. */
			s->committed_at_drain = 0;
			s->asked_at_drain = 0;
			s->drains_asked = s->drains_committed = 0;
			s->asked = s->committed = live;
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
	munmap(s, sizeof(*s));
}

/* ---- the inbox ---- */

TEST("batches that nobody applies are counted, taken, and told of")
{
	struct store_options options = {.dir = "/nowhere"};
	struct store *s;

	assert_int_equal(store_create(&options, &s), 0);
	for (unsigned i = 0; i < 5; i++) {
		struct log_batch *b = calloc(1, sizeof(*b));

		assert_non_null(b);
		b->len = b->capacity = 20 * MIB;
		b->data = malloc(b->len);
		assert_non_null(b->data);
		assert_int_equal(store_take(s, b), i < 3 ? 0 : -EAGAIN);
	}
	store_free(s);
}

TEST_MAIN()
