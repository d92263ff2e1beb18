/* tests/unit/test_store.c: the store on a real log, in real files. */
#include "tests/unit/test.h"

#include <signal.h>

#include "base/engine.h"
#include "tests/unit/store_broker.h"

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

static bool has_moved(struct broker *b)
{
	return store_stats(b->store)->copied_messages > 0 &&
	       store_stats(b->store)->extent_files > 0;
}

TEST("on threads of their own messages are moved, and moved again")
{
	struct broker b;

	broker_init(&b);
	b.checkpoint_bytes = 300 * 1024;
	b.hot_bytes = 1;
	b.extent_bytes = 512 * 1024;
	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(broker_recover(&b), 0);
		assert_null(store_warning(b.store));
		broker_compare(&b);
		broker_start(&b);
		do
			broker_random(&b, 40);
		while (!b.failed && !has_moved(&b));
		assert_int_equal(b.failed, 0);
		broker_stop(&b);
	}
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

static bool made_three(struct broker *b)
{
	return store_stats(b->store)->checkpoints >= 3 &&
	       log_stats(b->log)->segments_dropped > 0;
}

/* How many batches a checkpoint covers is the scheduler's affair. */
static void broker_fill_until(struct broker *b, bool (*so)(struct broker *))
{
	for (unsigned i = 0; i < 100 && !so(b); i++)
		broker_fill(b, 320, 1000);
	assert_true(broker_until(b, so));
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
	broker_fill_until(b, made_three);
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

static bool made_two(struct broker *b)
{
	return store_stats(b->store)->checkpoints >= 2;
}

static int oldest_segment(void *ctx, const struct log_segment_info *info)
{
	*(uint64_t *)ctx = info->key;
	return 1;
}

TEST("a segment that is gone with messages in it refuses the start by name")
{
	char from[512], to[512], name[64];
	struct broker b;
	uint64_t key = 0;

	broker_init(&b);
	b.checkpoint_bytes = 256 * 1024;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	broker_fill(&b, 4000, 1000);
	broker_fill_until(&b, made_two);
	assert_int_equal(log_each_segment(b.log, oldest_segment, &key), 1);
	broker_stop(&b);
	snprintf(name, sizeof(name), "segments/%08x-%08x.log",
		 (unsigned)(key >> 32), (unsigned)key);
	snprintf(from, sizeof(from), "%s/%s", b.dir, name);
	snprintf(to, sizeof(to), "%s/aside", b.dir);
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(broker_recover(&b), -E_LOST);
	assert_non_null(strstr(store_why(b.store), name));
	assert_non_null(strstr(store_why(b.store), "backup"));
	broker_close(&b);
	/* Put back, it starts, with everything. */
	assert_int_equal(rename(to, from), 0);
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
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	broker_fill(&b, 4000, 1000);
	broker_drain(&b);
	broker_stop(&b);
	b.checkpoint_ns = 20 * 1000000;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	broker_fill(&b, 1, 1);
	/* From here on nothing is appended by anyone but the store, which
	 * needs two checkpoints before a segment may go. */
	assert_true(broker_until(&b, only_active));
	assert_true(store_stats(b.store)->checkpoints >= 2);
	broker_stop(&b);
	assert_int_equal(broker_recover(&b), 0);
	broker_compare(&b);
	broker_close(&b);
	broker_fini(&b);
}

TEST("what lies between two checkpoints stays until a third covers it")
{
	struct checkpoint_file files[8];
	struct broker b;

	broker_init(&b);
	b.checkpoint_bytes = 5 * MIB / 2;
	assert_int_equal(broker_recover(&b), 0);
	broker_start(&b);
	while (!made_three(&b)) {
		broker_fill(&b, 500, 1000);
		broker_drain(&b);
	}
	broker_stop(&b);
	/* Everything is consumed, and all the same the older one must do. */
	b.checkpoint_bytes = 1024 * MIB;
	broker_files(&b, files);
	broker_damage(&b, files[0].name);
	assert_int_equal(broker_recover(&b), 0);
	assert_non_null(store_warning(b.store));
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
	/* How many batches a checkpoint covers is the scheduler's affair. */
	for (unsigned i = 0; i < 200 && store_stats(b.store)->checkpoints <= 3;
	     i++) {
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
	char original[300], copy[300], command[1000];
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
						 &place, 77, files + 1, before),
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

static int find_queue(void *ctx, const struct store_queue *q)
{
	*(uint64_t *)ctx = q->record.id;
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
