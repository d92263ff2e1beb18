/* tests/unit/test_compact.c: what is moved to extent files, in the simulator,
 * with the real log, state, checkpoints and reading back. */
#include "tests/unit/compact_world.h"

#define SECOND 1000000000ull

static struct world w;

/* ---- a random workload ---- */

static uint64_t below(uint64_t n)
{
	return sim_below(w.sim, n);
}

static const struct model_message *any_message(void)
{
	const struct model_message *m;

	if (!w.model.count)
		return NULL;
	/* Mostly near the head, as consumers do. */
	m = &w.model.messages[below(below(3) ? 1 + w.model.count / 6
					     : w.model.count)];
	return m->gone ? NULL : m;
}

static uint64_t any_queue(void)
{
	return w.model.queues[below(MODEL_QUEUES)].id;
}

static void make_message(void)
{
	static const uint8_t priorities[] = {4, 4, 4, 9, 0};
	struct model_op *op = world_op(&w);

	op->id = w.next_id++;
	op->len = 16 + (uint32_t)below(below(8) ? 800 : 9000);
	op->priority = priorities[below(sizeof(priorities))];
	op->targets[op->target_count++] = any_queue();
	if (!below(6)) {
		op->targets[1] = any_queue();
		op->target_count += op->targets[1] != op->targets[0];
	}
	model_encode_enqueue(op);
}

static void make_count(const struct model_message *m)
{
	struct model_op *op = world_op(&w);

	op->queue = m->queue;
	op->ref = m->ref;
	op->deliveries = 1 + (uint32_t)below(9);
	op->extra_len = below(2) ? 0 : 1 + (uint32_t)below(MODEL_EXTRA_MAX);
	op->extra = (uint8_t)below(256);
	model_encode_count(op);
}

static void make_move(const struct model_message *m)
{
	struct model_op *op = world_op(&w);

	op->queue = m->queue;
	op->ref = m->ref;
	op->id = m->id;
	op->len = m->len;
	op->priority = (uint8_t)record_ref_priority(m->ref);
	op->reason = RECORD_REASON_EXPIRED;
	op->extra_len = (uint32_t)below(MODEL_EXTRA_MAX);
	op->extra = (uint8_t)below(256);
	op->targets[0] = any_queue();
	op->target_count = 1;
	model_encode_move(op);
}

/* One operation of a chain that takes something away; two would have to know
 * of each other. */
static void make_leaving(const struct model_message *m)
{
	uint64_t what = below(40);
	struct model_op *op;

	if (!what) {
		op = world_op(&w);
		op->queue = m->queue;
		model_encode_gone(op);
	} else if (what == 1) {
		world_make_ack(
			&w, m->queue,
			record_ref(record_ref_priority(m->ref), 1),
			record_ref(record_ref_priority(m->ref), 1u << 30));
	} else if (what < 6 && !m->pieces) {
		make_move(m);
	} else {
		world_make_ack(&w, m->queue, m->ref, m->ref + below(24));
	}
}

/* False: the process died. */
static bool work(unsigned chains)
{
	for (unsigned i = 0; i < chains; i++) {
		const struct model_message *m = any_message();

		model_squeeze(&w.model);
		for (unsigned q = 0; q < MODEL_QUEUES; q++)
			if (!w.model.queues[q].id)
				world_make_queue(&w, q);
		if (w.chain_count && !world_send(&w))
			return false;
		m = any_message();
		if (m && below(3))
			make_leaving(m);
		m = any_message();
		if (m && !below(3))
			make_count(m);
		if (!below(7))
			world_make_large(&w, any_queue(),
					 1 + (uint32_t)below(3),
					 2000 + (uint32_t)below(9000));
		while (w.chain_count < CHAIN_MAX && below(5))
			make_message();
		if (w.chain_count && !world_send(&w))
			return false;
		if (!below(6) && !world_run_for(&w, below(SECOND)))
			return false;
	}
	return true;
}

static void restart(void)
{
	assert_true(world_stop(&w));
	assert_int_equal(world_boot(&w), 0);
	assert_true(world_compare(&w));
}

TEST("after any work and restarts everything is there, wherever it lies")
{
	uint64_t copied = 0, checkpoints = 0;

	for (uint64_t seed = 0; seed < 12; seed++) {
		world_init(&w, test_seed() + seed);
		assert_int_equal(world_boot(&w), 0);
		for (unsigned round = 0; round < 5; round++) {
			assert_true(work(60));
			assert_true(world_run_for(&w, below(4 * SECOND)));
			if (below(2)) {
				restart();
				continue;
			}
			world_kill(&w);
			assert_int_equal(world_boot(&w), 0);
			assert_true(world_compare(&w));
		}
		assert_true(world_stop(&w));
		copied += w.copied;
		checkpoints += w.checkpoints;
		assert_int_equal(w.damages, 0);
		world_fini(&w);
	}
	assert_true(copied > 1000);
	assert_true(checkpoints > 50);
}

/* ---- what goes, and what stays ---- */

TEST("one message that stays does not keep the journal of all that passed it")
{
	uint64_t queue;

	world_init(&w, test_seed());
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(world_fill(&w, queue, 100, 1000));
		assert_true(world_ack(&w, queue, i * 100 + (i ? 1 : 2),
				      i * 100 + 100));
		assert_true(world_run_for(&w, SECOND / 2));
		model_squeeze(&w.model);
	}
	assert_true(world_run_for(&w, 20 * SECOND));
	assert_true(world_files(&w, "data/segments") <= 4);
	assert_int_equal(world_files(&w, "data/extents"), 1);
	restart();
	assert_int_equal(w.fetched_count, 1);
	world_fini(&w);
}

TEST("when all is consumed no extent file stays")
{
	uint64_t queue;

	world_init(&w, test_seed());
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 600, 1000));
	world_make_large(&w, queue, 3, 20000);
	assert_true(world_send(&w));
	assert_true(world_run_for(&w, 10 * SECOND));
	assert_true(world_files(&w, "data/extents") >= 4);
	restart();
	assert_true(world_ack(&w, queue, 1, 1000));
	assert_true(world_run_for(&w, 20 * SECOND));
	assert_int_equal(world_files(&w, "data/extents"), 0);
	assert_int_equal(store_stats(w.store)->extent_files, 0);
	restart();
	world_fini(&w);
}

TEST("a file of which little is left is written again, shorter")
{
	uint64_t queue, before;

	world_init(&w, test_seed());
	w.options.extent_bytes = 256 * KIB;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 1000, 999));
	assert_true(world_run_for(&w, 10 * SECOND));
	before = store_stats(w.store)->extent_bytes;
	for (uint64_t i = 1; i + 9 < 1000; i += 10)
		assert_true(world_ack(&w, queue, i, i + 7));
	assert_true(world_run_for(&w, 20 * SECOND));
	assert_true(store_stats(w.store)->extent_bytes < before / 2);
	model_squeeze(&w.model);
	restart();
	world_fini(&w);
}

TEST("many small files become few")
{
	uint64_t queue;

	world_init(&w, test_seed());
	w.options.extent_bytes = 2048 * KIB;
	w.options.hot_bytes = 1;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	for (unsigned i = 0; i < 24; i++) {
		assert_true(world_fill(&w, queue, 64, 1000));
		assert_true(world_run_for(&w, 3 * SECOND));
	}
	assert_true(world_run_for(&w, 20 * SECOND));
	assert_true(world_files(&w, "data/extents") < 16);
	restart();
	world_fini(&w);
}

TEST("what is hot is left alone")
{
	uint64_t queue;

	world_init(&w, test_seed());
	w.options.hot_bytes = 1u << 30;
	w.options.hot_ns = 1000 * SECOND;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 600, 1000));
	assert_true(world_run_for(&w, 100 * SECOND));
	assert_int_equal(store_stats(w.store)->copied_messages, 0);
	assert_true(world_run_for(&w, 1000 * SECOND));
	assert_true(store_stats(w.store)->copied_messages > 300);
	restart();
	world_fini(&w);
}

TEST("records that are still needed are not taken for dead")
{
	uint64_t queue;

	world_init(&w, test_seed());
	w.segment_bytes = 256 * KIB;
	/* A frame of eight such messages is one full block.  With the records,
	 * but not without, more than a sixteenth of this is beside bodies. */
	w.options.hot_bytes = 9840 * KIB;
	w.options.hot_ns = 1000 * SECOND;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 5000, 370));
	assert_true(world_run_for(&w, 100 * SECOND));
	assert_int_equal(store_stats(w.store)->copied_messages, 0);
	/* But they are when the messages have left. */
	for (unsigned i = 0; i < 5000; i += 250)
		assert_true(world_ack(&w, queue, i + 1, i + 125));
	assert_true(world_run_for(&w, 100 * SECOND));
	assert_true(store_stats(w.store)->copied_messages > 0);
	restart();
	world_fini(&w);
}

TEST("under memory pressure even the segment that is written to is emptied")
{
	unsigned behind = 0;
	uint64_t queue;

	world_init(&w, test_seed());
	w.segment_bytes = 4096 * KIB;
	w.options.memory_bytes = 4 * KIB;
	w.options.hot_bytes = 1u << 30;
	w.options.hot_ns = 1000 * SECOND;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(world_fill(&w, queue, 25, 100));
		behind += store_is_behind(w.store);
	}
	assert_true(behind > 0);
	assert_true(world_run_for(&w, 10 * SECOND));
	assert_true(store_stats(w.store)->copied_messages > 2000);
	assert_true(store_stats(w.store)->entries < 1000);
	assert_false(store_is_behind(w.store));
	restart();
	world_fini(&w);
}

TEST("when nothing happens, an eighth of the memory is enough")
{
	uint64_t queue;

	world_init(&w, test_seed());
	w.segment_bytes = 4096 * KIB;
	w.options.memory_bytes = 256 * KIB;
	w.options.hot_bytes = 1u << 30;
	w.options.hot_ns = 1000 * SECOND;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(world_fill(&w, queue, 100, 100));
		assert_true(world_run_for(&w, SECOND));
		assert_int_equal(store_stats(w.store)->copied_messages, 0);
	}
	assert_true(world_run_for(&w, 20 * SECOND));
	assert_true(store_stats(w.store)->copied_messages > 1000);
	assert_true(store_stats(w.store)->entries < 600);
	restart();
	world_fini(&w);
}

/* ---- what must not be lost sight of ---- */

static int first_name(void *ctx, const char *name)
{
	snprintf(ctx, 128, "data/extents/%s", name);
	return 1;
}

/* Messages in extent files, and the process stopped. */
static void history(void)
{
	uint64_t queue;

	world_init(&w, test_seed());
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 400, 1000));
	assert_true(world_run_for(&w, 10 * SECOND));
	assert_true(world_stop(&w));
}

TEST("an extent file that is gone or short refuses the start by name")
{
	struct io_file *file;
	char path[128];
	struct io *io;

	history();
	io = sim_node_create(w.sim, "operator", 0);
	assert_int_equal(io_list(io, "data/extents", first_name, path), 1);
	assert_int_equal(io_rename(io, path, "data/aside"), 0);
	assert_int_equal(world_boot(&w), -E_LOST);
	assert_non_null(strstr(w.why, path + strlen("data/")));
	assert_non_null(strstr(w.why, "backup"));
	assert_non_null(strstr(w.why, "salvage"));
	assert_int_equal(io_rename(io, "data/aside", path), 0);
	assert_int_equal(world_boot(&w), 0);
	assert_true(world_compare(&w));
	assert_true(world_stop(&w));
	assert_int_equal(io_open(io, path, IO_WRITE, &file), 0);
	assert_int_equal(io_truncate(file, 8192), 0);
	io_close(file);
	assert_int_equal(world_boot(&w), -E_LOST);
	assert_non_null(strstr(w.why, path + strlen("data/")));
	assert_non_null(strstr(w.why, "8192"));
	io_free(io);
	world_fini(&w);
}

TEST("a file that no record names is removed at the start, others are not")
{
	struct io_file *file;
	unsigned before;
	struct io *io;

	history();
	io = sim_node_create(w.sim, "operator", 0);
	before = world_files(&(struct world){.io = io}, "data/extents");
	for (unsigned i = 0; i < 3; i++) {
		static const char *const names[] = {
			"data/extents/00000001-00000099.ext",
			/* of an epoch that has left nothing else */
			"data/extents/00000777-00000001.ext",
			/* not of ours at all */
			"data/extents/readme"};

		assert_int_equal(
			io_open(io, names[i], IO_WRITE | IO_CREATE, &file), 0);
		io_close(file);
	}
	assert_int_equal(world_boot(&w), 0);
	assert_int_equal(log_epoch(w.log), 0x778);
	assert_int_equal(world_files(&w, "data/extents"), before + 1);
	assert_true(world_compare(&w));
	io_free(io);
	world_fini(&w);
}

/* ---- damage ---- */

struct place {
	uint64_t queue, ref;
	struct log_loc loc;
};

static int place_of(void *ctx, uint64_t ref, const struct entry *e)
{
	struct place *p = ctx;

	if (ref != p->ref)
		return 0;
	p->loc = state_loc(&w.store->state, &e->place);
	return 1;
}

static unsigned damage_count;
static struct store_damage damage_last;

static int note_damage(void *ctx, const struct store_damage *d)
{
	damage_count++;
	damage_last = *d;
	return 0;
}

TEST("a damaged body stays where it is, all around it is moved, once")
{
	const struct state_queue *q;
	uint64_t queue, copied;
	struct place p = {0};
	char path[128];
	uint32_t damaged = 0;

	world_init(&w, test_seed());
	w.options.hot_ns = 5 * SECOND;
	w.options.hot_bytes = 1u << 30;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	assert_true(world_fill(&w, queue, 400, 1000));
	q = idmap_get(&w.store->state.queues, queue);
	p.ref = record_ref(4, 33);
	assert_int_equal(entries_each(&q->lanes[4]->entries, place_of, &p), 1);
	snprintf(path, sizeof(path), "data/segments/%08x-%08x.log",
		 (unsigned)(p.loc.segment >> 32), (unsigned)p.loc.segment);
	assert_int_equal(sim_disk_flip(sim_disk(w.sim, 0), path,
				       (uint64_t)p.loc.frame * IO_BLOCK +
					       LOG_FRAME_HEADER_BYTES +
					       p.loc.at + 10,
				       3),
			 0);
	assert_true(world_run_for(&w, 30 * SECOND));
	copied = store_stats(w.store)->copied_messages;
	assert_true(copied > 200);
	damage_count = 0;
	assert_int_equal(store_each_damage(w.store, note_damage, NULL), 0);
	assert_true(damage_count >= 1);
	assert_int_equal(damage_last.queue, queue);
	assert_string_equal(damage_last.file, path + strlen("data/"));
	/* The segment stays for it, and is not tried over and over. */
	assert_true(world_run_for(&w, 100 * SECOND));
	assert_int_equal(store_stats(w.store)->copied_messages, copied);
	assert_true(state_file_live(&w.store->state, p.loc.segment));
	assert_true(world_stop(&w));
	assert_int_equal(world_boot(&w), 0);
	assert_true(world_fetch_all(&w));
	assert_int_equal(w.fetched_count, 400);
	for (uint32_t i = 0; i < w.fetched_count; i++)
		damaged += w.fetched[i].gone;
	/* All messages of its chunk. */
	assert_in_range(damaged, 1, 70);
	/* Consumed at last, it lets the segment go. */
	assert_true(world_ack(&w, queue, 1, 400));
	assert_true(world_run_for(&w, 30 * SECOND));
	assert_false(state_file_live(&w.store->state, p.loc.segment));
	world_fini(&w);
}

TEST("a damaged part of an extent file stays when the rest is moved on")
{
	uint64_t queue, before;
	uint32_t damaged = 0;
	char path[128] = "";

	world_init(&w, test_seed());
	w.options.extent_bytes = 256 * KIB;
	w.options.hot_bytes = 1u << 30;
	assert_int_equal(world_boot(&w), 0);
	queue = world_add_queue(&w, 0);
	/* Odd and even ids: half of it packs well. */
	assert_true(world_fill(&w, queue, 1000, 999));
	assert_true(world_run_for(&w, 10 * SECOND));
	for (size_t i = 0; i < w.store->state.file_count; i++) {
		const struct state_file *f = &w.store->state.files[i];

		if (store_is_extent(f->key) && f->bytes > 100 * KIB)
			assert_int_equal(
				extent_path("data", f->key, path, sizeof(path)),
				0);
	}
	assert_true(path[0]);
	assert_int_equal(sim_disk_flip(sim_disk(w.sim, 0), path,
				       blob_chunk_offset(1) + 1000, 3),
			 0);
	for (uint64_t i = 1; i + 9 < 1000; i += 10)
		assert_true(world_ack(&w, queue, i, i + 7));
	assert_true(world_run_for(&w, 20 * SECOND));
	damage_count = 0;
	assert_int_equal(store_each_damage(w.store, note_damage, NULL), 0);
	assert_true(damage_count >= 1);
	assert_string_equal(damage_last.file, path + strlen("data/"));
	before = store_stats(w.store)->copied_messages;
	assert_true(world_run_for(&w, 100 * SECOND));
	assert_int_equal(store_stats(w.store)->copied_messages, before);
	model_squeeze(&w.model);
	assert_true(world_stop(&w));
	assert_int_equal(world_boot(&w), 0);
	assert_true(world_fetch_all(&w));
	assert_int_equal(w.fetched_count, w.model.count);
	for (uint32_t i = 0; i < w.fetched_count; i++) {
		damaged += w.fetched[i].gone;
		if (!w.fetched[i].gone)
			assert_int_equal(w.fetched[i].id,
					 w.model.messages[i].id);
	}
	assert_in_range(damaged, 1, 60);
	world_fini(&w);
}

/* ---- stopping ---- */

TEST("a stop at any moment of the moving ends, and loses nothing")
{
	for (unsigned steps = 0; steps < 120; steps++) {
		uint64_t queue;

		world_init(&w, test_seed());
		assert_int_equal(world_boot(&w), 0);
		queue = world_add_queue(&w, 0);
		assert_true(world_fill(&w, queue, 200, 1000));
		for (unsigned i = 0; i < steps * 7; i++)
			sim_step(w.sim);
		assert_true(world_stop(&w));
		assert_int_equal(world_boot(&w), 0);
		assert_true(world_compare(&w));
		world_fini(&w);
	}
}

/* ---- faults ---- */

/* A workload with several files and checkpoints, with one fault.  False: the
 * fault's place lies behind its end. */
static bool faulty_run(enum sim_fault fault, uint64_t k)
{
	struct sim_disk *disk;
	bool alive, hit;
	int err;

	world_init(&w, test_seed());
	w.segment_bytes = 40 * KIB;
	w.options.hot_bytes = 40 * KIB;
	w.options.extent_bytes = 48 * KIB;
	w.options.checkpoint_bytes = 48 * KIB;
	disk = sim_disk(w.sim, 0);
	sim_disk_fault_at(disk, fault, k);
	alive = !world_boot(&w);
	for (unsigned round = 0; alive && round < 4; round++)
		alive = work(30) && world_run_for(&w, 3 * SECOND);
	if (alive)
		world_stop(&w);
	else if (w.io)
		world_down(&w);
	hit = sim_disk_mutations(disk) >= k;
	sim_disk_fault_at(disk, fault, 0);
	for (unsigned i = 0; i < 2; i++) {
		err = world_boot(&w);
		if (err)
			print_message("fault %d at %u: %s\n", (int)fault,
				      (unsigned)k, w.why);
		assert_int_equal(err, 0);
		assert_true(world_compare(&w));
		assert_true(work(6));
		assert_true(world_run_for(&w, 5 * SECOND));
		assert_true(world_stop(&w));
	}
	assert_int_equal(w.damages, 0);
	assert_true(!hit || w.copied);
	world_fini(&w);
	return hit;
}

/* Every place, or with TEST_STRIDE unset one in a few. */
static uint64_t stride(uint64_t otherwise)
{
	const char *text = getenv("TEST_STRIDE");

	return text ? strtoull(text, NULL, 10) : otherwise;
}

TEST("killed at any operation on the disk, everything confirmed is there")
{
	for (uint64_t k = 1; faulty_run(SIM_FAULT_KILL, k); k += stride(5))
		;
}

TEST("with the power cut at any operation, everything confirmed is there")
{
	for (uint64_t k = 1; faulty_run(SIM_FAULT_CUT, k); k += stride(5))
		;
}

TEST("whichever operation fails, everything confirmed is there")
{
	for (uint64_t k = 1; faulty_run(SIM_FAULT_EIO, k); k += stride(7))
		;
}

TEST("whichever operation finds no space, everything confirmed is there")
{
	for (uint64_t k = 1; faulty_run(SIM_FAULT_ENOSPC, k); k += stride(7))
		;
}

TEST_MAIN()
