/* tests/unit/test_scrub.c: rounds of scrubbing in the simulator, beside the
 * real log, store and copying. */
#include "tests/unit/compact_world.h"

#define SECOND 1000000000ull
#define NAMES_MAX 64u

static struct world w;

/* ---- a broker with something everywhere ---- */

/* moved: what is queued goes to extent files, else it stays in segments. */
static void begin_where(uint64_t seed, uint64_t scrub_ns, bool moved)
{
	world_init(&w, seed);
	if (!moved) {
		w.options.hot_bytes = 1ull << 40;
		w.options.hot_ns = 1ull << 60;
	}
	w.options.scrub_ns = scrub_ns;
	w.options.scrub_bytes_per_s = 1ull << 40;
	assert_int_equal(world_boot(&w), 0);
	for (unsigned i = 0; i < 2; i++)
		world_add_queue(&w, i);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(world_fill(&w, w.model.queues[i % 2].id, 60, 2500));
		world_make_large(&w, w.model.queues[0].id, 3, 9000);
		assert_true(world_send(&w));
		assert_true(world_run_for(&w, 8 * SECOND));
	}
	assert_true(world_ack(&w, w.model.queues[1].id, 1, 5));
	assert_true(world_fill(&w, w.model.queues[1].id, 40, 2500));
	/* So that no file is being written. */
	assert_true(world_run_for(&w, 12 * SECOND));
	assert_int_equal(store_stats(w.store)->extent_files > 0, moved);
	assert_true(store_stats(w.store)->checkpoints >= 2);
}

static void begin_with(uint64_t seed, uint64_t scrub_ns)
{
	begin_where(seed, scrub_ns, true);
}

static void begin(void)
{
	begin_with(test_seed(), 3600 * SECOND);
}

static void end(void)
{
	assert_true(world_stop(&w));
	world_fini(&w);
}

static uint64_t rounds_wanted;

static bool is_round_over(void *ctx)
{
	return store_stats(w.store)->scrub_rounds >= rounds_wanted;
}

static void scrub(void)
{
	rounds_wanted = store_stats(w.store)->scrub_rounds + 1;
	store_scrub_now(w.store);
	assert_true(world_until(&w, is_round_over, NULL));
}

struct names {
	char all[NAMES_MAX][64];
	unsigned count;
	const char *dir;
};

static int note_name(void *ctx, const char *name)
{
	struct names *n = ctx;

	assert_true(n->count < NAMES_MAX);
	snprintf(n->all[n->count++], 64, "%.20s/%.40s", n->dir, name);
	return 0;
}

static void list(struct names *n, const char *dir)
{
	char path[64];

	n->dir = dir;
	snprintf(path, sizeof(path), "data/%s", dir);
	assert_int_equal(io_list(w.io, path, note_name, n), 0);
}

static uint64_t size_of(const char *name)
{
	struct io_file *file;
	char path[80];
	uint64_t bytes;

	snprintf(path, sizeof(path), "data/%s", name);
	assert_int_equal(io_open(w.io, path, IO_READ, &file), 0);
	assert_int_equal(io_size(file, &bytes), 0);
	io_close(file);
	return bytes;
}

/* One with room for damage. */
static const char *largest(const struct names *n)
{
	const char *best = n->all[0];

	for (unsigned i = 0; i < n->count; i++)
		if (size_of(n->all[i]) > size_of(best))
			best = n->all[i];
	return best;
}

/* False: the file is gone. */
static bool flip(const char *name, uint64_t at)
{
	char path[80];
	int err;

	snprintf(path, sizeof(path), "data/%s", name);
	err = sim_disk_flip(sim_disk(w.sim, 0), path, at, 2);
	assert_true(!err || err == -ENOENT);
	return !err;
}

static struct store_damage places[1024];
static unsigned place_count;

static int note_place(void *ctx, const struct store_damage *d)
{
	assert_true(place_count < ARRAY_COUNT(places));
	places[place_count++] = *d;
	return 0;
}

static unsigned damage(void)
{
	place_count = 0;
	assert_int_equal(store_each_damage(w.store, note_place, NULL), 0);
	return place_count;
}

static bool touches(const struct store_damage *d, const char *name, uint64_t at)
{
	return !strcmp(d->file, name) && d->offset <= at &&
	       at < d->offset + d->bytes;
}

/* The places from `from` on that cover a byte; every other is a surprise. */
static unsigned expect_at(unsigned from, const char *name, uint64_t at)
{
	unsigned hits = 0;

	damage();
	for (unsigned i = from; i < place_count; i++) {
		if (!touches(&places[i], name, at))
			fail_msg("%s:%llu is called damaged, not %s:%llu",
				 places[i].file,
				 (unsigned long long)places[i].offset, name,
				 (unsigned long long)at);
		hits++;
	}
	return hits;
}

/* ---- what is sound ---- */

TEST("a round over sound files finds nothing, and reads all of them")
{
	const struct store_stats *s;
	struct names names = {.count = 0};
	uint64_t bytes = 0;

	begin();
	s = store_stats(w.store);
	scrub();
	assert_int_equal(s->damage, 0);
	list(&names, EXTENT_DIR);
	list(&names, CHECKPOINT_DIR);
	for (unsigned i = 0; i < names.count; i++)
		bytes += size_of(names.all[i]);
	assert_true(names.count >= 3);
	assert_true(s->scrub_files >= names.count);
	assert_true(s->scrub_bytes > bytes);
	assert_true(s->scrub_finished_ms > 0);
	end();
}

TEST("rounds come by themselves, and asking during one begins no other")
{
	const struct store_stats *s;

	begin_with(test_seed(), 100 * SECOND);
	s = store_stats(w.store);
	assert_true(world_run_for(&w, 1000 * SECOND));
	assert_true(s->scrub_rounds >= 8);
	assert_true(s->scrub_rounds <= 11);
	rounds_wanted = s->scrub_rounds + 1;
	for (int i = 0; i < 5; i++)
		store_scrub_now(w.store);
	assert_true(world_until(&w, is_round_over, NULL));
	assert_true(world_run_for(&w, SECOND));
	assert_int_equal(s->scrub_rounds, rounds_wanted);
	assert_int_equal(s->damage, 0);
	end();
}

TEST("without an interval there is no round but those that are asked for")
{
	begin_with(test_seed(), 0);
	assert_true(world_run_for(&w, 100000 * SECOND));
	assert_int_equal(store_stats(w.store)->scrub_bytes, 0);
	scrub();
	assert_true(store_stats(w.store)->scrub_bytes > 0);
	end();
}

TEST("what is written and moved during rounds is never called damaged")
{
	for (uint64_t seed = 1; seed < 5; seed++) {
		uint64_t queue;

		begin_with(test_seed() + seed, 20 * SECOND);
		queue = w.model.queues[0].id;
		for (unsigned i = 0; i < 25; i++) {
			assert_true(world_fill(&w, queue, 24, 2000));
			assert_true(world_ack(&w, queue, 1, 20 * i + 10));
			model_squeeze(&w.model);
			assert_true(world_run_for(&w, 2 * SECOND));
		}
		assert_true(store_stats(w.store)->scrub_rounds > 1);
		assert_int_equal(damage(), 0);
		/* Also what a restart has left behind. */
		world_kill(&w);
		assert_int_equal(world_boot(&w), 0);
		scrub();
		assert_int_equal(damage(), 0);
		end();
	}
}

/* ---- what is not ---- */

TEST("a flipped bit in an extent file is found, with queue and messages")
{
	struct names names = {.count = 0};
	unsigned known = 0, named = 0, tried = 0;

	begin();
	list(&names, EXTENT_DIR);
	for (unsigned i = 0; i < names.count; i++) {
		uint64_t bytes = size_of(names.all[i]);

		for (uint64_t at = 9; at < bytes; at += 21911) {
			unsigned hits;

			flip(names.all[i], at);
			scrub();
			hits = expect_at(known, names.all[i], at);
			/* A chunk that was met before is known. */
			for (unsigned k = known; k < place_count; k++)
				named += places[k].queue &&
					 places[k].first_ref <=
						 places[k].last_ref;
			tried += hits > 0;
			known = place_count;
			flip(names.all[i], at);
		}
	}
	assert_true(tried >= names.count);
	assert_true(named >= tried);
	for (unsigned i = 0; i < known; i++)
		if (places[i].queue)
			assert_non_null(model_queue(&w.model, places[i].queue));
	scrub();
	assert_int_equal(damage(), known);
	end();
}

TEST("the messages that are named are those whose bytes are damaged")
{
	struct names names = {.count = 0};

	begin();
	list(&names, EXTENT_DIR);
	for (unsigned i = 0; i < names.count; i++)
		flip(names.all[i], base_min(5000, size_of(names.all[i]) - 1));
	scrub();
	damage();
	/* What a consumer cannot read has been named by the round before. */
	w.queue_count = 0;
	assert_true(world_stop(&w));
	assert_int_equal(world_boot(&w), 0);
	w.fetched_count = 0;
	for (unsigned i = 0; i < w.queue_count; i++)
		assert_true(world_fetch_lane(&w, w.queues[i].record.id,
					     w.queues[i].lanes[4].first,
					     w.queues[i].lanes[4].next));
	assert_true(w.fetched_count > 0);
	for (uint32_t i = 0; i < w.fetched_count; i++) {
		const struct model_message *m = &w.fetched[i];
		bool is_named = false;

		for (unsigned k = 0; k < place_count; k++)
			is_named |= places[k].queue == m->queue &&
				    places[k].first_ref <= m->ref &&
				    places[k].last_ref >= m->ref;
		if (m->gone)
			assert_true(is_named);
	}
	end();
}

TEST("a flipped bit in a closed segment is found, with its records")
{
	struct names names = {.count = 0};
	unsigned known = 0, found = 0, named = 0;

	begin_where(test_seed(), 3600 * SECOND, false);
	list(&names, "segments");
	/* The newest are being written or made ready. */
	for (unsigned i = 0; i + 2 < names.count; i++) {
		for (uint64_t at = 9; at < 60000; at += 9001) {
			if (!flip(names.all[i], at))
				break;
			scrub();
			found += expect_at(known, names.all[i], at) > 0;
			for (unsigned k = known; k < place_count; k++) {
				assert_true(places[k].first_lsn);
				assert_true(places[k].first_lsn <=
					    places[k].last_lsn);
				named += places[k].queue != 0;
			}
			known = place_count;
			flip(names.all[i], at);
		}
	}
	assert_true(found >= names.count);
	assert_true(named >= names.count);
	end();
}

TEST("a damaged checkpoint is found, and forgotten once it is gone")
{
	struct names names = {.count = 0};

	begin();
	/* Nothing changes any more, so no other is written. */
	assert_true(world_run_for(&w, 20 * SECOND));
	list(&names, CHECKPOINT_DIR);
	assert_int_equal(names.count, 2);
	flip(names.all[0], 4096 + 50);
	scrub();
	assert_int_equal(expect_at(0, names.all[0], 4096 + 50), 1);
	assert_int_equal(places[0].queue, 0);
	for (int i = 0; i < 3; i++) {
		assert_true(world_fill(&w, w.model.queues[0].id, 40, 3000));
		assert_true(world_run_for(&w, 20 * SECOND));
	}
	assert_true(world_run_for(&w, 120 * SECOND));
	assert_int_equal(damage(), 0);
	end();
}

TEST("a sector that the disk cannot read is named, and nobody dies of it")
{
	struct names names = {.count = 0};
	const char *name;
	char path[80];

	begin();
	list(&names, EXTENT_DIR);
	name = largest(&names);
	snprintf(path, sizeof(path), "data/%s", name);
	assert_int_equal(sim_disk_spoil(sim_disk(w.sim, 0), path, 4096 + 9000),
			 0);
	scrub();
	assert_true(expect_at(0, name, 4096 + 9000) > 0);
	assert_int_equal(places[0].err, -EIO);
	end();
}

TEST("any single read that fails during a round leaves the broker running")
{
	struct sim_disk *disk;

	begin();
	/* Only the scrubber reads. */
	assert_true(world_run_for(&w, 60 * SECOND));
	disk = sim_disk(w.sim, 0);
	for (uint64_t k = 1; k < 60; k++) {
		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO,
				  sim_disk_reads(disk) + k);
		scrub();
		sim_disk_fault_at(disk, SIM_FAULT_READ_EIO, 0);
	}
	damage();
	for (unsigned i = 0; i < place_count; i++)
		assert_int_equal(places[i].err, -EIO);
	end();
}

TEST("a full disk keeps no round from going on")
{
	begin();
	sim_disk_resize(sim_disk(w.sim, 0), 1);
	scrub();
	assert_int_equal(damage(), 0);
	sim_disk_resize(sim_disk(w.sim, 0), 1ull << 40);
	end();
}

/* ---- progress ---- */

static void read_progress(char *text, size_t room)
{
	struct io_file *file;
	size_t len;

	assert_int_equal(io_open(w.io, "data/scrub", IO_READ, &file), 0);
	assert_int_equal(io_read(file, text, room - 1, 0, &len), 0);
	io_close(file);
	text[len] = '\0';
}

static bool is_under_way(void *ctx)
{
	return store_stats(w.store)->scrub_files >= 2;
}

TEST("a round goes on behind the last file after a restart")
{
	const struct store_stats *s;
	char text[600], position[80] = "";
	uint64_t all;

	begin_with(test_seed(), 3600 * SECOND);
	scrub();
	all = store_stats(w.store)->scrub_files;
	assert_true(all >= 4);
	assert_true(world_stop(&w));
	w.options.scrub_bytes_per_s = 10000;
	assert_int_equal(world_boot(&w), 0);
	store_scrub_now(w.store);
	assert_true(world_until(&w, is_under_way, NULL));
	assert_true(world_stop(&w));
	w.options.scrub_bytes_per_s = 1ull << 40;
	assert_int_equal(world_boot(&w), 0);
	s = store_stats(w.store);
	read_progress(text, sizeof(text));
	assert_non_null(strstr(text, "holdfast scrub 1\n"));
	assert_int_equal(
		sscanf(strstr(text, "position"), "position %79s", position), 1);
	assert_string_not_equal(position, "-");
	assert_int_equal(s->scrub_rounds, 0);
	scrub();
	/* The segments that a restart has closed come on top. */
	assert_true(s->scrub_files < all + 2);
	assert_true(s->scrub_files > 0);
	read_progress(text, sizeof(text));
	assert_non_null(strstr(text, "position -\n"));
	end();
}

TEST("a lost or garbled note of the progress only makes a round start over")
{
	static const char *const texts[] = {
		"",
		"garbage",
		"holdfast scrub 1\nstarted 99999999999999\nfinished 0\n"
		"position zzz\nfiles 1\nbytes 1\ndamage 0\n",
		"holdfast scrub 1\nstarted 1\nfinished 0\nposition zzz\n"
		"files 1\nbytes 1\ndamage 0\n",
		"holdfast scrub 2\nstarted 1\n",
	};

	begin();
	scrub();
	for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
		struct io_file *file;

		assert_true(world_stop(&w));
		w.io = sim_node_create(w.sim, "editor", 0);
		assert_int_equal(io_open(w.io, "data/scrub", IO_WRITE, &file),
				 0);
		assert_int_equal(io_truncate(file, 0), 0);
		assert_int_equal(io_write(file, texts[i], strlen(texts[i]), 0),
				 0);
		io_close(file);
		io_free(w.io);
		assert_int_equal(world_boot(&w), 0);
		scrub();
		scrub();
		assert_true(store_stats(w.store)->scrub_files >= 3);
		assert_int_equal(damage(), 0);
	}
	end();
}

/* ---- the end ---- */

TEST("a stop at any moment of a round ends it, and leaves nothing open")
{
	struct names names = {.count = 0};

	begin();
	list(&names, EXTENT_DIR);
	flip(largest(&names), 5000); /* so that there is something to name */
	for (unsigned steps = 0; steps < 240; steps += 3) {
		store_scrub_now(w.store);
		for (unsigned i = 0; i < steps; i++)
			sim_step(w.sim);
		assert_true(world_stop(&w));
		assert_int_equal(world_boot(&w), 0);
	}
	end();
}

TEST("a kill at any moment of a round loses nothing")
{
	begin();
	for (unsigned steps = 0; steps < 200; steps += 5) {
		store_scrub_now(w.store);
		for (unsigned i = 0; i < steps; i++)
			sim_step(w.sim);
		world_kill(&w);
		assert_int_equal(world_boot(&w), 0);
	}
	assert_true(world_compare(&w));
	end();
}

TEST_MAIN()
