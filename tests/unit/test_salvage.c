/* tests/unit/test_salvage.c: what is intact of a damaged directory comes over,
 * what is not is listed, and nothing is invented. */
#include "journal/log/verify.h"
#include "journal/store/salvage.h"
#include "tests/unit/compact_world.h"

#define SECOND 1000000000ull
#define MISSING_MAX 512u

static struct world w;

/* The record that put a message there, by the message's id. */
static uint64_t lsn_of[4 * MODEL_MESSAGES];
#define LSN_BASE 1000u

static struct salvage_missing missing[MISSING_MAX];
static unsigned missing_count;
static struct salvage_result result;
static char why[512];

/* ---- content ---- */

static bool send_chain(void)
{
	uint32_t count = w.chain_count;

	if (!world_send(&w))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		const struct pending *p = &w.chain[i];

		if (p->op.type == RECORD_ENQUEUE) {
			assert_true(p->op.id - LSN_BASE < ARRAY_COUNT(lsn_of));
			lsn_of[p->op.id - LSN_BASE] = p->append.lsn;
		}
	}
	return true;
}

static void fill(uint64_t queue, unsigned n, uint32_t len, uint8_t priority)
{
	for (unsigned i = 0; i < n; i++) {
		world_make_message(&w, queue, priority, len);
		if (w.chain_count == CHAIN_MAX || i + 1 == n)
			assert_true(send_chain());
	}
}

static void fill_large(uint64_t queue, uint32_t pieces)
{
	world_make_large(&w, queue, pieces, 7000);
	assert_true(send_chain());
}

static void change_some(void)
{
	for (uint32_t i = 3; i < w.model.count; i += 17) {
		const struct model_message *m = &w.model.messages[i];
		struct model_op *op;

		if (m->gone)
			continue;
		op = world_op(&w);
		op->queue = m->queue;
		op->ref = m->ref;
		op->deliveries = 1 + i % 5;
		op->extra_len = i % 2 ? 7 : 0;
		op->extra = (uint8_t)i;
		model_encode_count(op);
		assert_true(send_chain());
	}
}

static void move_some(uint64_t to)
{
	for (uint32_t i = 5; i < 120 && i < w.model.count; i += 29) {
		const struct model_message *m = &w.model.messages[i];
		struct model_op *op;

		if (m->gone || m->pieces)
			continue;
		op = world_op(&w);
		op->queue = m->queue;
		op->ref = m->ref;
		op->id = m->id;
		op->len = m->len;
		op->priority = (uint8_t)record_ref_priority(m->ref);
		op->reason = RECORD_REASON_ATTEMPTS;
		op->extra_len = 5;
		op->extra = 9;
		op->targets[0] = to;
		op->target_count = 1;
		model_encode_move(op);
		assert_true(send_chain());
	}
}

/* Two queues, two priorities, messages in extent files, in closed segments and
 * in the newest, large ones, some consumed, some changed, some moved. */
static void begin(uint64_t seed)
{
	uint64_t a, b;

	world_init(&w, seed);
	assert_int_equal(world_boot(&w), 0);
	a = world_add_queue(&w, 0);
	b = world_add_queue(&w, 1);
	fill(a, 60, 1500, 4);
	fill(b, 40, 700, 9);
	fill_large(a, 3);
	assert_true(world_run_for(&w, 12 * SECOND));
	change_some();
	move_some(b);
	assert_true(world_ack(&w, a, 1, 9));
	fill(a, 60, 1100, 4);
	fill_large(b, 2);
	assert_true(world_run_for(&w, 12 * SECOND));
	assert_true(store_stats(w.store)->extent_files > 0);
	assert_true(world_ack(&w, a, 30, 41));
	fill(a, 16, 900, 4);
	fill(b, 8, 900, 4);
	assert_true(world_ack(&w, a, 100, 103));
	fill_large(a, 2);
	assert_true(world_stop(&w));
	model_squeeze(&w.model);
	w.io = sim_node_create(w.sim, "tool", 0);
}

static void end(void)
{
	assert_int_equal(sim_open_files(sim_node(w.io)), 0);
	io_free(w.io);
	w.io = NULL;
	world_fini(&w);
}

/* ---- salvaging ---- */

static void note(void *ctx, const struct salvage_missing *m)
{
	assert_true(missing_count < MISSING_MAX);
	missing[missing_count] = *m;
	missing[missing_count++].name = NULL;
}

static int salvage(void)
{
	const struct salvage_options options = {
		.io = w.io,
		.dir = "data",
		.to = "fresh",
		.master = w.key,
		.missing = note,
	};

	missing_count = 0;
	why[0] = '\0';
	memset(&result, 0, sizeof(result));
	assert_int_equal(io_mkdir(w.io, "fresh"), 0);
	return salvage_run(&options, &result, why, sizeof(why));
}

struct moving {
	const char *dir;
};

static int remove_file(void *ctx, const char *name)
{
	const struct moving *m = ctx;
	char path[128];

	snprintf(path, sizeof(path), "data/%.20s/%.60s", m->dir, name);
	return io_unlink(w.io, path);
}

static int move_file(void *ctx, const char *name)
{
	const struct moving *m = ctx;
	char from[128], to[128];

	snprintf(from, sizeof(from), "fresh/%.20s/%.60s", m->dir, name);
	snprintf(to, sizeof(to), "data/%.20s/%.60s", m->dir, name);
	return io_rename(w.io, from, to);
}

/* The new directory takes the place of the old one, and a broker starts. */
static void start_on_it(void)
{
	static const char *const dirs[] = {"segments", "epochs", "checkpoints",
					   "extents"};
	char path[64];

	assert_int_equal(sim_open_files(sim_node(w.io)), 0);
	for (size_t i = 0; i < ARRAY_COUNT(dirs); i++) {
		struct moving m = {dirs[i]};

		snprintf(path, sizeof(path), "data/%.20s", dirs[i]);
		assert_int_equal(io_list(w.io, path, remove_file, &m), 0);
		snprintf(path, sizeof(path), "fresh/%.20s", dirs[i]);
		assert_int_equal(io_list(w.io, path, move_file, &m), 0);
	}
	assert_int_equal(io_rename(w.io, "fresh/cluster", "data/cluster"), 0);
	io_free(w.io);
	if (world_boot(&w))
		fail_msg("the new directory does not start: %s", w.why);
	assert_true(world_fetch_all(&w));
	qsort(w.fetched, w.fetched_count, sizeof(*w.fetched), model_by_ref);
	qsort(w.model.messages, w.model.count, sizeof(*w.model.messages),
	      model_by_ref);
}

static void stop_it(void)
{
	assert_true(world_stop(&w));
	w.io = sim_node_create(w.sim, "tool", 0);
}

static bool is_listed(uint64_t queue, uint64_t ref)
{
	for (unsigned i = 0; i < missing_count; i++)
		if (missing[i].kind == SALVAGE_MESSAGES &&
		    missing[i].queue == queue && missing[i].first <= ref &&
		    missing[i].last >= ref)
			return true;
	return false;
}

static bool is_lost(uint64_t id)
{
	for (unsigned i = 0; i < missing_count; i++)
		if (missing[i].kind == SALVAGE_RECORDS &&
		    missing[i].first <= lsn_of[id - LSN_BASE] &&
		    missing[i].last >= lsn_of[id - LSN_BASE])
			return true;
	return false;
}

static const struct model_message *find(const struct model_message *all,
					uint32_t count, uint64_t queue,
					uint64_t id, unsigned *ret_count)
{
	const struct model_message *found = NULL;

	*ret_count = 0;
	for (uint32_t i = 0; i < count; i++)
		if (all[i].queue == queue && all[i].id == id && !all[i].gone) {
			found = &all[i];
			++*ret_count;
		}
	return found;
}

static void compare_message(const struct model_message *f,
			    const struct model_message *m)
{
	assert_false(f->gone);
	assert_int_equal(f->queue, m->queue);
	assert_int_equal(f->id, m->id);
	assert_int_equal(record_ref_priority(f->ref),
			 record_ref_priority(m->ref));
	assert_int_equal(f->len, m->len);
	assert_int_equal(f->pieces, m->pieces);
	assert_int_equal(f->extra_len, m->extra_len);
	assert_int_equal(f->extra, m->extra);
	assert_int_equal(f->reason, m->reason);
	/* Another copy may be older than the last attempts. */
	if (!result.elsewhere)
		assert_int_equal(f->deliveries, m->deliveries);
}

/* The same messages in the same order, with all that belongs to them, but for
 * those that are listed; what was found elsewhere is behind. */
static void compare_exactly(void)
{
	uint32_t k = 0, listed = 0;

	for (uint32_t i = 0; i < w.model.count; i++) {
		const struct model_message *m = &w.model.messages[i];
		const struct model_message *f = &w.fetched[k];
		unsigned count;

		if (is_listed(m->queue, m->ref)) {
			listed++;
			continue;
		}
		assert_true(k < w.fetched_count);
		k++;
		if (result.elsewhere) {
			f = find(w.fetched, w.fetched_count, m->queue, m->id,
				 &count);
			assert_int_equal(count, 1);
		}
		compare_message(f, m);
	}
	assert_int_equal(k, w.fetched_count);
	assert_int_equal(listed, result.missing);
	assert_int_equal(result.messages, w.fetched_count);
}

/* What is owed for certain is there, or listed. */
static void compare_loosely(void)
{
	for (uint32_t i = 0; i < w.model.count; i++) {
		const struct model_message *m = &w.model.messages[i];
		unsigned count;

		if (m->pieces || m->reason || is_lost(m->id) ||
		    is_listed(m->queue, m->ref))
			continue;
		find(w.fetched, w.fetched_count, m->queue, m->id, &count);
		if (!count)
			fail_msg("message %llu of queue %llu, LSN %llu, is "
				 "lost in silence",
				 (unsigned long long)m->id,
				 (unsigned long long)m->queue,
				 (unsigned long long)lsn_of[m->id - LSN_BASE]);
	}
}

/* ---- files ---- */

struct names {
	char all[64][64];
	unsigned count;
	const char *dir;
};

static int note_name(void *ctx, const char *name)
{
	struct names *n = ctx;

	assert_true(n->count < 64);
	snprintf(n->all[n->count++], 64, "data/%.20s/%.36s", n->dir, name);
	return 0;
}

static void list(struct names *n, const char *dir)
{
	char path[64];

	n->count = 0;
	n->dir = dir;
	snprintf(path, sizeof(path), "data/%s", dir);
	assert_int_equal(io_list(w.io, path, note_name, n), 0);
}

static uint64_t size_of(const char *path)
{
	struct io_file *file;
	uint64_t bytes;

	assert_int_equal(io_open(w.io, path, IO_READ, &file), 0);
	assert_int_equal(io_size(file, &bytes), 0);
	io_close(file);
	return bytes;
}

static void flip(const char *path, uint64_t at)
{
	assert_int_equal(sim_disk_flip(sim_disk(w.sim, 0), path, at, 4), 0);
}

/* ---- tests ---- */

TEST("an intact directory comes over whole")
{
	begin(test_seed());
	if (salvage())
		fail_msg("%s", why);
	assert_int_equal(missing_count, 0);
	assert_int_equal(result.queues, 2);
	assert_int_equal(result.lost_records, 0);
	assert_int_equal(result.maybe_again, 0);
	start_on_it();
	assert_int_equal(w.queue_count, 2);
	compare_exactly();
	stop_it();
	end();
}

TEST("damage in an extent file costs what lies in it, and that is listed")
{
	for (unsigned n = 0; n < 12; n++) {
		struct names names;
		uint64_t bytes;

		begin(test_seed());
		list(&names, EXTENT_DIR);
		bytes = size_of(names.all[n % names.count]);
		flip(names.all[n % names.count], bytes * (n + 1) / 14);
		if (salvage())
			fail_msg("%s", why);
		assert_int_equal(result.lost_records, 0);
		start_on_it();
		compare_exactly();
		stop_it();
		end();
	}
}

TEST("an extent file that is gone costs what lay in it")
{
	struct names names;

	begin(test_seed());
	list(&names, EXTENT_DIR);
	for (unsigned i = 0; i < names.count; i++)
		assert_int_equal(io_unlink(w.io, names.all[i]), 0);
	if (salvage())
		fail_msg("%s", why);
	assert_true(result.missing > 0);
	start_on_it();
	compare_exactly();
	stop_it();
	end();
}

TEST("a segment damaged anywhere costs no message that can be read")
{
	struct names names;
	unsigned damaged = 0;

	for (unsigned n = 0; n < 40; n++) {
		uint64_t bytes;

		begin(test_seed() + n);
		list(&names, "segments");
		bytes = size_of(names.all[n % names.count]);
		flip(names.all[n % names.count],
		     sim_below(w.sim, n % 2 ? bytes : bytes / 3));
		if (salvage())
			fail_msg("%s", why);
		damaged += missing_count > 0;
		start_on_it();
		if (result.lost_records)
			compare_loosely();
		else
			compare_exactly();
		stop_it();
		end();
	}
	assert_true(damaged > 5);
}

TEST("a sector that cannot be read costs what lies in it")
{
	for (unsigned n = 0; n < 24; n++) {
		struct names names;
		uint64_t bytes;

		begin(test_seed() + 100 + n);
		list(&names, n % 2 ? "segments" : EXTENT_DIR);
		bytes = size_of(names.all[n % names.count]);
		assert_int_equal(sim_disk_spoil(sim_disk(w.sim, 0),
						names.all[n % names.count],
						sim_below(w.sim, bytes)),
				 0);
		if (salvage())
			fail_msg("%s", why);
		start_on_it();
		if (result.lost_records)
			compare_loosely();
		else
			compare_exactly();
		stop_it();
		end();
	}
}

TEST("the newest checkpoint is not needed, and its damage is told")
{
	struct names names;

	begin(test_seed());
	list(&names, CHECKPOINT_DIR);
	assert_int_equal(names.count, 2);
	flip(names.all[1], 4096 + 40);
	if (salvage())
		fail_msg("%s", why);
	assert_int_equal(missing_count, 1);
	assert_int_equal(missing[0].kind, SALVAGE_CHECKPOINT);
	assert_int_equal(result.lost_records, 0);
	start_on_it();
	compare_exactly();
	stop_it();
	end();
}

TEST("without any checkpoint everything that can be read comes, under numbers")
{
	struct names names;

	begin(test_seed());
	list(&names, CHECKPOINT_DIR);
	for (unsigned i = 0; i < names.count; i++)
		flip(names.all[i], 4096 + 40);
	if (salvage())
		fail_msg("%s", why);
	assert_true(result.baseless || !result.lost_records);
	start_on_it();
	if (result.baseless) {
		assert_int_equal(result.nameless, 2);
		compare_loosely();
	} else {
		compare_exactly();
	}
	stop_it();
	end();
}

/* ---- records that are lost ---- */

struct frames {
	struct log_frame_info all[400];
	unsigned count;
};

static int note_frame(void *ctx, const struct log_frame_info *f)
{
	struct frames *frames = ctx;

	assert_true(frames->count < ARRAY_COUNT(frames->all));
	frames->all[frames->count++] = *f;
	return 0;
}

static void damage_frame(const struct log_frame_info *f, uint64_t at)
{
	char path[LOG_PATH_BYTES];

	log_segment_path("data", f->segment, path);
	flip(path, f->offset + at);
}

/* All of it in the journal, without a checkpoint. */
static uint64_t begin_plain(uint64_t seed)
{
	uint64_t a;

	world_init(&w, seed);
	w.options.checkpoint_bytes = 1ull << 40;
	w.options.checkpoint_ns = 1ull << 60;
	w.options.hot_bytes = 1ull << 40;
	w.options.hot_ns = 1ull << 60;
	assert_int_equal(world_boot(&w), 0);
	a = world_add_queue(&w, 0);
	return a;
}

static void end_plain(void)
{
	assert_true(world_stop(&w));
	model_squeeze(&w.model);
	w.io = sim_node_create(w.sim, "tool", 0);
}

TEST("behind lost records nothing live is taken for what was acknowledged")
{
	unsigned again = 0;

	for (unsigned n = 0; n < 40; n++) {
		uint64_t a = begin_plain(test_seed() + n);
		struct frames frames = {.count = 0};
		const struct log_frame_info *f;
		uint64_t b = world_add_queue(&w, 1);
		uint32_t kept = 0;

		for (unsigned i = 1; i <= 12; i++) {
			fill(a, 8, 300, 4);
			fill(b, 3, 300, 4);
			if (i % 3 == 0)
				assert_true(world_ack(&w, a, 1, 5 * i));
			if (i % 4 == 0)
				assert_true(world_ack(&w, b, 3 * i - 2, 3 * i));
		}
		end_plain();
		assert_int_equal(log_inspect(w.io, "data", NULL, note_frame,
					     NULL, &frames),
				 0);
		/* Behind the queues, whose names are in the first frames. */
		f = &frames.all[4 + sim_below(w.sim, frames.count - 5)];
		damage_frame(f, sim_below(w.sim, f->stored_len));
		if (n % 4 == 3) {
			f = &frames.all[4 + sim_below(w.sim, frames.count - 5)];
			damage_frame(f, 40);
		}
		if (salvage())
			fail_msg("%s", why);
		start_on_it();
		compare_loosely();
		for (uint32_t i = 0; i < w.model.count; i++)
			kept += !w.model.messages[i].gone;
		again += w.fetched_count > kept - result.lost_records;
		/* Each of them once. */
		for (uint32_t i = 0; i < w.fetched_count; i++) {
			unsigned count;

			find(w.fetched, w.fetched_count, w.fetched[i].queue,
			     w.fetched[i].id, &count);
			assert_int_equal(count, 1);
		}
		stop_it();
		end();
	}
	assert_true(again > 0);
}

TEST("a lost record brings back no more than it can make doubtful")
{
	for (unsigned n = 0; n < 8; n++) {
		uint64_t a = begin_plain(test_seed() + n);
		struct frames frames = {.count = 0};
		unsigned back = 0;

		fill(a, 80, 300, 4);
		fill(a, 80, 300, 4);
		assert_true(world_ack(&w, a, 1, 150));
		fill(a, 10, 300, 4);
		end_plain();
		assert_int_equal(log_inspect(w.io, "data", NULL, note_frame,
					     NULL, &frames),
				 0);
		damage_frame(&frames.all[8 + n], 700);
		assert_int_equal(salvage(), 0);
		assert_int_equal(result.lost_records,
				 frames.all[8 + n].record_count);
		start_on_it();
		compare_loosely();
		for (uint32_t i = 0; i < w.fetched_count; i++) {
			unsigned count;

			find(w.model.messages, w.model.count,
			     w.fetched[i].queue, w.fetched[i].id, &count);
			back += !count;
		}
		assert_true(back <= 2 * result.lost_records);
		stop_it();
		end();
	}
}

/* named: a later record tells the queue's name again, as a pause does. */
static void lose_beginning(bool named)
{
	uint64_t a = begin_plain(test_seed());
	struct names names;

	for (unsigned i = 0; i < 40; i++)
		fill(a, 8, 700, 4);
	assert_true(world_ack(&w, a, 1, 20));
	if (named) {
		world_op(&w)->queue = a;
		model_encode_queue(&w.chain[0].op);
		assert_true(send_chain());
	}
	end_plain();
	list(&names, "segments");
	assert_true(names.count > 2);
	assert_int_equal(io_unlink(w.io, names.all[0]), 0);
	if (salvage())
		fail_msg("%s", why);
	assert_true(result.baseless);
	assert_int_equal(result.nameless, !named);
	assert_true(result.messages > 100);
	start_on_it();
	assert_int_equal(w.fetched_count, result.messages);
	assert_int_equal(w.queue_count, 1);
	compare_loosely();
	stop_it();
	end();
}

TEST("records of the journal's beginning that are gone leave the rest usable")
{
	lose_beginning(false);
}

TEST("a queue that has lost its name gets it back from any record that has it")
{
	lose_beginning(true);
}

TEST("what was acknowledged in records that can be read does not come again")
{
	struct names names;

	/* Only bodies are damaged: nothing that is gone may return. */
	for (unsigned n = 0; n < 6; n++) {
		begin(test_seed() + n);
		list(&names, EXTENT_DIR);
		flip(names.all[0], 4096 + 33 + 1000 * n);
		if (salvage())
			fail_msg("%s", why);
		start_on_it();
		for (uint32_t i = 0; i < w.fetched_count; i++) {
			const struct model_message *f = &w.fetched[i];
			unsigned count;

			if (f->pieces)
				continue;
			find(w.model.messages, w.model.count, f->queue, f->id,
			     &count);
			assert_int_equal(count, 1);
		}
		stop_it();
		end();
	}
}

TEST("any amount of damage anywhere gives what is left, or a reason")
{
	unsigned done = 0;

	for (unsigned n = 0; n < 60; n++) {
		begin(test_seed() + 1000 + n);
		for (uint64_t k = sim_below(w.sim, 1 + n % 20) + 1; k; k--)
			sim_disk_rot(sim_disk(w.sim, 0),
				     sim_chance(w.sim, 200000));
		if (salvage()) {
			assert_true(why[0]);
			end();
			continue;
		}
		done++;
		start_on_it();
		if (!result.baseless)
			compare_loosely();
		stop_it();
		end();
	}
	assert_true(done > 30);
}

TEST("a directory of which nothing but names is left gives an empty broker")
{
	struct names names;

	begin(test_seed());
	list(&names, EXTENT_DIR);
	for (unsigned i = 0; i < names.count; i++)
		assert_int_equal(io_unlink(w.io, names.all[i]), 0);
	list(&names, "segments");
	for (unsigned i = 0; i < names.count; i++)
		assert_int_equal(io_unlink(w.io, names.all[i]), 0);
	if (salvage())
		fail_msg("%s", why);
	assert_int_equal(result.messages, 0);
	assert_int_equal(result.queues, 2);
	assert_true(result.missing > 50);
	start_on_it();
	assert_int_equal(w.fetched_count, 0);
	stop_it();
	end();
}

TEST("nothing is written to the damaged directory, and a broker is not raced")
{
	struct names before, after;
	struct io_file *lock;

	begin(test_seed());
	list(&before, "segments");
	assert_int_equal(io_open(w.io, "data/leader.lock", IO_WRITE, &lock), 0);
	assert_int_equal(io_lock(lock), 0);
	assert_int_equal(salvage(), -EAGAIN);
	assert_non_null(strstr(why, "a broker is running"));
	io_close(lock);
	assert_int_equal(salvage(), 0);
	list(&after, "segments");
	assert_int_equal(before.count, after.count);
	for (unsigned i = 0; i < before.count; i++)
		assert_string_equal(before.all[i], after.all[i]);
	/* And never into what is there. */
	assert_int_equal(salvage(), -EEXIST);
	end();
}

TEST("a key that is not the directory's is refused before anything is made")
{
	static const uint8_t other[CRYPTO_KEY_BYTES] = "another key";
	struct crypto_key *right;
	struct names names;

	begin(test_seed());
	right = w.key;
	assert_int_equal(crypto_key_create(other, &w.key), 0);
	assert_int_equal(salvage(), -E_KEY);
	crypto_key_free(w.key);
	w.key = right;
	names.count = 0;
	assert_int_equal(io_list(w.io, "fresh", note_name, &names), 0);
	assert_int_equal(names.count, 0);
	end();
}

TEST("a full disk ends it with a reason")
{
	struct sim_disk_stats stats;

	begin(test_seed());
	sim_disk_stats(sim_disk(w.sim, 0), &stats);
	sim_disk_resize(sim_disk(w.sim, 0), stats.bytes_used + 300000);
	assert_true(salvage() < 0);
	assert_true(why[0]);
	end();
}

TEST_MAIN()
