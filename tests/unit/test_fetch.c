/* tests/unit/test_fetch.c: messages read back, wherever they lie. */
#include "tests/unit/fetch_rig.h"

TEST("every window of any lane is fetched as it is, with every limit")
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct rig *r = rig_create(seed);

		churn(r, 60);
		fetch_all(r, 1, r->next, UINT32_MAX, UINT32_MAX, 0);
		fetch_all(r, 1, r->next, 1, 1, 0);
		fetch_all(r, 1, r->next, 7, UINT32_MAX, 0);
		fetch_all(r, 1, r->next, UINT32_MAX, 20000, 0);
		for (int i = 0; i < 60; i++) {
			uint64_t first = 1 + sim_below(r->sim, r->next);
			uint64_t end = first + 1 + sim_below(r->sim, 100);

			fetch_all(r, first, base_min(end, r->next),
				  1 + (uint32_t)sim_below(r->sim, 30),
				  (uint32_t)sim_below(r->sim, 100000), 0);
		}
		read_pieces(r);
		assert_int_equal(r->damage_count, 0);
		rig_free(r);
	}
}

TEST("what has expired until a time is fetched, and when the next one will")
{
	for (uint64_t seed = 20; seed <= 26; seed++) {
		struct rig *r = rig_create(seed);

		churn(r, 60);
		for (uint64_t now = 900; now < 2100; now += 100) {
			uint64_t least = 0, told = 0;

			for (uint32_t n = 1; n < r->next; n++) {
				uint64_t at =
					r->known[n].item.m.props.expiry_ms;

				if (r->known[n].there && at > now &&
				    (!least || at < least))
					least = at;
			}
			for (uint64_t first = 1; first < r->next;) {
				assert_int_equal(fetch(r, first, r->next, 20,
						       100000, now),
						 0);
				first = record_ref_number(r->fetch.next);
				if (r->fetch.expiry_ms &&
				    (!told || r->fetch.expiry_ms < told))
					told = r->fetch.expiry_ms;
			}
			/* A run may remember one that has left. */
			assert_true(told <= least || !least);
			assert_true(!least || told > now);
		}
		rig_free(r);
	}
}

TEST("a queue, a lane, an upload that is not there: nothing, and an end")
{
	struct rig *r = rig_create(1);

	enqueue(r, 10);
	r->fetch = (struct store_fetch){
		.queue = QUEUE + 1,
		.first = record_ref(4, 1),
		.end = record_ref(4, 2),
		.count_max = 10,
		.bytes_max = 10,
		.done = fetched,
	};
	r->known[1].there = false;
	r->done = false;
	store_fetch(r->reader, &r->fetch);
	while (!r->done)
		loop_run(r->h.main);
	assert_int_equal(r->err, 0);
	assert_int_equal(r->fetch.message_count, 0);
	assert_int_equal(r->fetch.next, record_ref(4, 2));
	assert_int_equal(read_piece(r, 99, 0, 10), -ENOENT);
	r->store.failed = true;
	assert_int_equal(fetch(r, 1, 2, 1, 1, 0), -E_LATCHED);
	assert_int_equal(read_piece(r, 99, 0, 10), -E_LATCHED);
	rig_free(r);
}

BOTH("messages and pieces come back on threads and a disk")
{
	struct rig *r = calloc(1, sizeof(*r));
	struct record_extents record;

	rig = r;
	harness_init(&r->h, io, test_directory());
	rig_open(r);
	for (uint32_t i = 1; i < 600; i++)
		enqueue(r, i % 50 ? i * 37 % 2000 : UINT32_MAX);
	fetch_all(r, 1, r->next, 100, 100000, 0);
	record = make_extent(r, 1, 400, true);
	apply_extent(r, &record);
	for (uint32_t i = 1; i < 600; i += 7)
		count(r, i, i, i % 3 ? 0 : 20);
	ack(r, 100, 130);
	fetch_all(r, 1, r->next, 1000, 10000000, 0);
	fetch_all(r, 1, r->next, 13, 10000, 0);
	read_pieces(r);
	assert_int_equal(r->damage_count, 0);
	rig_free(r);
}

/* ---- reading little ---- */

TEST("one message of a run is read without the others")
{
	struct rig *r = rig_create(3);
	uint64_t before;

	for (int i = 0; i < 900; i++)
		enqueue(r, 1000);
	move(r, 1, 900);
	assert_int_equal(r->store.state.run_count, 1);
	for (uint64_t n = 1; n <= 900; n += 89) {
		before = r->store.stats.fetch_read_bytes;
		assert_int_equal(fetch(r, n, 901, 1, 1000, 0), 0);
		assert_int_equal(r->fetch.message_count, 1);
		assert_true(r->store.stats.fetch_read_bytes - before <
			    5 * BLOB_CHUNK_BYTES);
	}
	/* And a whole run by one read, once. */
	before = r->store.stats.fetch_read_bytes;
	assert_int_equal(fetch_all(r, 1, 901, 1000, 4000000, 0), 1);
	assert_true(r->store.stats.fetch_read_bytes - before <
		    EXTENT_RUN_BYTES + 2 * BLOB_CHUNK_BYTES);
	rig_free(r);
}

TEST("many that are asked for at once all end")
{
	enum { MANY = 60 };
	struct rig *r = rig_create(4);
	struct many {
		struct rig r; /* for its fetch alone */
	} *many = calloc(MANY, sizeof(*many));
	unsigned done = 0;

	churn(r, 80);
	for (unsigned i = 0; i < MANY; i++) {
		many[i].r.h.main = r->h.main;
		many[i].r.known = r->known;
		many[i].r.errs = r->errs;
		many[i].r.next = r->next;
		many[i].r.fetch = (struct store_fetch){
			.queue = QUEUE,
			.first = record_ref(4, 1 + i * (r->next - 1) / MANY),
			.end = record_ref(4, r->next),
			.count_max = 50,
			.bytes_max = 200000,
			.done = fetched,
		};
		store_fetch(r->reader, &many[i].r.fetch);
	}
	while (done < MANY) {
		loop_run(r->h.main);
		done = 0;
		for (unsigned i = 0; i < MANY; i++)
			done += many[i].r.done;
	}
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(many[i].r.err, 0);
	free(many);
	rig_free(r);
}

struct nap {
	struct loop_timer timer;
	struct rig *rig;
	bool over;
};

static void nap_over(struct loop_timer *timer)
{
	struct nap *nap = container_of(timer, struct nap, timer);

	nap->over = true;
	loop_stop(nap->rig->h.main);
}

static void nap(struct rig *r)
{
	struct nap nap = {.timer.fire = nap_over, .rig = r};

	loop_timer_set(r->h.main, &nap.timer, 20000000000ull);
	while (!nap.over)
		loop_run(r->h.main);
}

TEST("files that are not read any more are closed")
{
	struct rig *r = rig_create(5);
	unsigned before;

	enqueue(r, 100);
	move(r, 1, 1);
	nap(r); /* the log has settled */
	before = sim_open_files(sim_node(r->h.io));
	fetch_all(r, 1, 2, 10, 1000, 0);
	assert_int_equal(sim_open_files(sim_node(r->h.io)), before + 1);
	nap(r);
	assert_int_equal(sim_open_files(sim_node(r->h.io)), before);
	fetch_all(r, 1, 2, 10, 1000, 0);
	rig_free(r);
}

TEST_MAIN()
