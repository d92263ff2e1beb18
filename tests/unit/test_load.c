/* tests/unit/test_load.c: what the load generator counts and verifies:
 * bench/load's plan, payload, marks, ledger, tally and judge. */
#include "tests/unit/test.h"

#include "base/err.h"
#include "bench/load/internal.h"
#include "bench/load/judge.h"
#include "bench/load/ledger.h"
#include "bench/load/report.h"

/* ---- plan ---- */

/* Every stream belongs to one lane of one sender, every source to a receiver,
 * and a stream comes out of the queue that it went into. */
static void check_plan(struct plan p)
{
	uint32_t streams = plan_sender_streams(&p), seen[64] = {0}, total = 0;
	uint32_t sources[64] = {0};

	p.streams = streams;
	for (uint32_t s = 0; s < p.senders; s++) {
		for (uint32_t l = 0; l < plan_sender_lanes(&p, s); l++) {
			uint32_t stream = plan_sender_stream(&p, s, l);

			assert_true(stream < streams);
			seen[stream]++;
			total++;
		}
	}
	assert_int_equal(total, streams);
	for (uint32_t i = 0; i < streams; i++)
		assert_int_equal(seen[i], 1);
	for (uint32_t r = 0; r < p.receivers; r++) {
		for (uint32_t l = 0; l < plan_receiver_lanes(&p, r); l++) {
			uint32_t source = plan_receiver_source(&p, r, l);

			sources[source]++;
			assert_int_equal(plan_receiver_lane(&p, r, source), l);
		}
	}
	for (uint32_t i = 0; i < plan_sources(&p); i++)
		assert_true(sources[i] >= 1);
	for (uint32_t s = 0; s < streams; s++) {
		uint32_t from = 0;

		for (uint32_t i = 0; i < plan_sources(&p); i++)
			from += plan_is_from(&p, s, i);
		assert_int_equal(from, plan_copies(&p));
		assert_true(plan_source_place(&p, s) < plan_source_streams(&p));
	}
}

TEST("every stream has one sender and one queue, every queue a receiver")
{
	for (uint32_t queues = 1; queues <= 12; queues++) {
		for (uint32_t senders = 1; senders <= 9; senders++) {
			for (uint32_t receivers = 1; receivers <= 9;
			     receivers++)
				check_plan(
					(struct plan){.queues = queues,
						      .senders = senders,
						      .receivers = receivers});
		}
	}
}

TEST("with fan-out each queue has every stream")
{
	for (uint32_t fanout = 1; fanout <= 9; fanout++)
		check_plan((struct plan){.queues = 1,
					 .fanout = fanout,
					 .senders = 3,
					 .receivers = fanout + fanout / 2});
}

/* ---- payload ---- */

static struct payload_pool *pool_of(size_t len)
{
	struct payload_pool *pool;

	assert_int_equal(payload_pool_create(len, &pool), 0);
	return pool;
}

static void make_body(const struct payload_pool *pool, uint32_t run,
		      uint32_t stream, uint64_t number, bool checksum,
		      uint8_t *body)
{
	struct payload_fields f = {.run = run,
				   .stream = stream,
				   .number = number,
				   .intended_ns = 1000 + number};
	struct payload p;

	payload_make(pool, &f, checksum, &p);
	payload_copy(&p, 0, p.len, body);
}

TEST("a body says what was put into it, whichever way it was copied")
{
	struct payload_pool *pool = pool_of(100);
	uint8_t body[100], pieces[100];
	struct payload_fields f = {.run = 7, .stream = 3, .number = 1ull << 40};
	struct payload_fields got = {0};
	struct payload p;

	payload_make(pool, &f, true, &p);
	payload_copy(&p, 0, 100, body);
	for (size_t step = 1; step <= 100; step++) {
		memset(pieces, 0, sizeof(pieces));
		for (size_t at = 0; at < 100; at += step)
			payload_copy(&p, at, base_min(step, 100 - at),
				     pieces + at);
		assert_memory_equal(pieces, body, 100);
	}
	assert_int_equal(payload_read(body, 100, true, &got), PAYLOAD_GOOD);
	assert_int_equal(got.run, 7);
	assert_int_equal(got.stream, 3);
	assert_true(got.number == 1ull << 40);
	payload_pool_free(pool);
}

TEST("a body with any bit flipped is corrupt, or no longer one of ours")
{
	struct payload_pool *pool = pool_of(64);
	struct payload_fields f;
	uint8_t body[64];

	make_body(pool, 1, 2, 3, true, body);
	for (unsigned bit = 0; bit < 64 * 8; bit++) {
		/* From a checked body to an unchecked one is one bit. */
		if (bit == 3 * 8)
			continue;
		body[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_not_equal(payload_read(body, 64, true, &f),
				     PAYLOAD_GOOD);
		body[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(payload_read(body, 64, true, &f), PAYLOAD_GOOD);
	assert_int_equal(payload_read(body, 63, true, &f), PAYLOAD_CORRUPT);
	assert_int_equal(payload_read(body, 31, true, &f), PAYLOAD_FOREIGN);
	payload_pool_free(pool);
}

TEST("neighbouring bodies share no filler")
{
	struct payload_pool *pool = pool_of(4096);
	static uint8_t a[4096], b[4096];

	for (uint64_t n = 0; n < 50; n++) {
		make_body(pool, 1, 0, n, false, a);
		make_body(pool, 1, 0, n + 1, false, b);
		assert_null(memmem(a, sizeof(a), b + 2048, 16));
		assert_null(memmem(b, sizeof(b), a + 2048, 16));
	}
	payload_pool_free(pool);
}

/* ---- marks ---- */

TEST("marks are set once, far apart, and counted")
{
	static const uint64_t places[] = {0,	   1,	     63,
					  64,	   65535,    65536,
					  1000000, 99999999, MARKS_ROW_MAX - 1};
	struct marks *m;
	bool was;

	assert_int_equal(marks_create(3, &m), 0);
	assert_int_equal(marks_end(m, 1), 0);
	for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
		assert_int_equal(marks_set(m, 1, places[i], &was), 0);
		assert_false(was);
		assert_int_equal(marks_set(m, 1, places[i], &was), 0);
		assert_true(was);
		assert_true(marks_get(m, 1, places[i]));
		assert_false(marks_get(m, 0, places[i]));
		assert_int_equal(marks_count(m, 1), i + 1);
		assert_true(marks_end(m, 1) == places[i] + 1);
	}
	assert_int_equal(marks_set(m, 1, MARKS_ROW_MAX, &was), -ERANGE);
	assert_int_equal(marks_set(m, 3, 0, &was), -ERANGE);
	assert_false(marks_get(m, 1, MARKS_ROW_MAX));
	marks_free(m);
}

static void *set_every_third(void *arg)
{
	struct marks *m = arg;
	uintptr_t fresh = 0;

	for (uint64_t at = 0; at < 300000; at += 3) {
		bool was = false;

		if (!marks_set(m, 0, at, &was) && !was)
			fresh++;
	}
	return (void *)fresh;
}

TEST("of two threads that set the same marks, each is first for its own")
{
	struct marks *m;
	pthread_t threads[2];
	uintptr_t total = 0;

	assert_int_equal(marks_create(1, &m), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, set_every_third, m),
			0);
	for (unsigned i = 0; i < 2; i++) {
		void *fresh;

		pthread_join(threads[i], &fresh);
		total += (uintptr_t)fresh;
	}
	assert_int_equal(total, 100000);
	assert_int_equal(marks_count(m, 0), 100000);
	marks_free(m);
}

/* ---- ledger ---- */

static void write_ledger(const char *path)
{
	struct ledger l = {.run = 99,
			   .plan = {.queues = 2, .senders = 2, .streams = 3},
			   .sent = 200};
	bool was;

	assert_int_equal(marks_create(3, &l.accepted), 0);
	for (uint64_t at = 0; at < 100; at += 7)
		assert_int_equal(marks_set(l.accepted, 0, at, &was), 0);
	assert_int_equal(marks_set(l.accepted, 2, 70000, &was), 0);
	assert_int_equal(ledger_write(path, &l), 0);
	marks_free(l.accepted);
}

TEST("a ledger that was written is read back")
{
	struct ledger l;
	char path[300];

	test_directory();
	write_ledger(test_path(path, sizeof(path), "ledger"));
	assert_int_equal(ledger_read(path, &l), 0);
	assert_int_equal(l.run, 99);
	assert_int_equal(l.plan.queues, 2);
	assert_int_equal(l.plan.streams, 3);
	assert_int_equal(l.sent, 200);
	assert_int_equal(marks_count(l.accepted, 0), 15);
	assert_int_equal(marks_count(l.accepted, 1), 0);
	assert_true(marks_get(l.accepted, 2, 70000));
	marks_free(l.accepted);
	assert_int_equal(ledger_read("/nonexistent/ledger", &l), -ENOENT);
}

TEST("a ledger that was cut or damaged anywhere is refused")
{
	struct ledger l;
	char path[300], other[300];
	uint8_t data[16384];
	size_t len;
	FILE *f;

	test_directory();
	write_ledger(test_path(path, sizeof(path), "ledger"));
	test_path(other, sizeof(other), "other");
	f = fopen(path, "re");
	assert_non_null(f);
	len = fread(data, 1, sizeof(data), f);
	fclose(f);
	for (size_t at = 0; at < len; at += at < 80 ? 1 : 97) {
		size_t keep = at % 2 ? at : len;

		data[at] ^= 0x20;
		f = fopen(other, "we");
		assert_non_null(f);
		assert_int_equal(fwrite(data, 1, keep, f), keep);
		fclose(f);
		assert_int_equal(ledger_read(other, &l), -E_CORRUPT);
		data[at] ^= 0x20;
	}
}

/* ---- tally ---- */

TEST("only what falls into the window counts for the rate")
{
	static struct tally t;
	struct tally_window w = {1000, 2000};

	tally_init(&t);
	tally_confirmed(&t, &w, 999, 990, WIRE_ACCEPTED);
	tally_confirmed(&t, &w, 1000, 990, WIRE_ACCEPTED);
	tally_confirmed(&t, &w, 1999, 1500, WIRE_REJECTED);
	tally_confirmed(&t, &w, 2000, 1999, WIRE_ACCEPTED);
	assert_int_equal(t.settled, 4);
	assert_int_equal(t.accepted, 3);
	assert_int_equal(t.rejected, 1);
	/* A refusal is no confirmation. */
	assert_int_equal(t.confirmed, 1);
	/* By when they were meant to be sent: the last one. */
	assert_int_equal(t.confirm_ns.count, 1);
	assert_int_equal(t.confirm_ns.most, 1);
}

TEST("a merged tally keeps the earliest and the latest")
{
	static struct tally a, b;
	struct tally_window w = {1000, UINT64_MAX};

	tally_init(&a);
	tally_init(&b);
	tally_arrived(&b, &w, 5000, 4000);
	tally_arrived(&b, &w, 3000000000u, 4000);
	tally_merge(&a, &b);
	tally_merge(&b, &a);
	assert_int_equal(a.first_arrival_ns, 5000);
	assert_int_equal(b.last_arrival_ns, 3000000000u);
	assert_int_equal(b.received, 4);
	assert_int_equal(a.arrivals[0], 1);
	assert_int_equal(a.arrivals[2], 1);
}

/* ---- the schedule of an open loop ---- */

TEST("what is due at a time is due at that time, and not earlier")
{
	static const uint64_t rates[] = {1, 3, 7, 1000, 30000, 999999, 1 << 20};
	struct load_options o = {0};
	struct run r = {.o = &o, .start_ns = 123456789, .measure_ns = 0};

	for (size_t i = 0; i < ARRAY_COUNT(rates); i++) {
		o.rate = rates[i];
		for (uint64_t n = 0; n < 5000; n++) {
			uint64_t at_ns = sender_due_ns(&r, n);

			assert_true(sender_due(&r, at_ns) >= n + 1);
			if (n)
				assert_true(sender_due(&r, at_ns - 1) <= n);
		}
	}
	assert_int_equal(sender_due(&r, r.start_ns - 1), 0);
}

TEST("after the window nothing more becomes due")
{
	struct load_options o = {.rate = 1000, .measure_ns = 1000000000};
	struct run r = {.o = &o, .start_ns = 5, .measure_ns = 5};

	assert_int_equal(sender_due(&r, 5 + 2000000000ull),
			 sender_due(&r, 5 + 1000000000ull));
}

/* ---- judge ---- */

struct court {
	struct plan plan;
	struct judge judge;
	struct judge_order order;
	struct tally tally;
	struct payload_pool *pool;
	struct judge_verdict verdict;
};

static void convene(struct court *c, uint32_t queues, uint32_t fanout)
{
	memset(c, 0, sizeof(*c));
	c->plan = (struct plan){.queues = queues,
				.fanout = fanout,
				.senders = 2,
				.receivers = fanout ? fanout : queues};
	c->plan.streams = plan_sender_streams(&c->plan);
	c->pool = pool_of(48);
	tally_init(&c->tally);
	assert_int_equal(judge_init(&c->judge, &c->plan, 5, true, true), 0);
	assert_int_equal(judge_order_init(&c->order, &c->plan, 1), 0);
}

static void adjourn(struct court *c)
{
	judge_fini(&c->judge);
	judge_order_fini(&c->order);
	payload_pool_free(c->pool);
}

static enum judge_arrival arrive(struct court *c, uint32_t run, uint32_t stream,
				 uint64_t number, uint32_t source)
{
	struct payload_fields f;
	uint8_t body[48];

	make_body(c->pool, run, stream, number, true, body);
	return judge_arrived(&c->judge, &c->order, &c->tally, source, source,
			     body, sizeof(body), &f);
}

TEST("confirmed and not there is lost; there and not confirmed is kept")
{
	static struct court c;

	convene(&c, 1, 0);
	for (uint64_t n = 0; n < 1000; n++)
		judge_accepted(&c.judge, 0, n);
	for (uint64_t n = 0; n < 1003; n++) {
		if (n != 17 && n != 999)
			assert_int_equal(arrive(&c, 5, 0, n, 0), JUDGE_NEW);
	}
	judge_finish(&c.judge, &c.verdict);
	assert_int_equal(c.verdict.confirmed, 1000);
	assert_int_equal(c.verdict.lost, 2);
	assert_int_equal(c.verdict.kept, 3);
	assert_int_equal(c.verdict.unique, 1001);
	assert_int_equal(c.verdict.gaps, 2);
	assert_int_equal(c.tally.out_of_order, 0);
	adjourn(&c);
}

TEST("twice is a duplicate, earlier than its predecessor is out of order")
{
	static struct court c;

	convene(&c, 1, 0);
	assert_int_equal(arrive(&c, 5, 0, 0, 0), JUDGE_NEW);
	assert_int_equal(arrive(&c, 5, 0, 2, 0), JUDGE_NEW);
	assert_int_equal(arrive(&c, 5, 0, 1, 0), JUDGE_NEW);
	assert_int_equal(arrive(&c, 5, 0, 2, 0), JUDGE_AGAIN);
	/* Another stream has an order of its own. */
	assert_int_equal(arrive(&c, 5, 1, 0, 0), JUDGE_NEW);
	assert_int_equal(c.tally.out_of_order, 1);
	assert_int_equal(c.tally.duplicates, 1);
	adjourn(&c);
}

TEST("another run is foreign, another queue's message is corrupt")
{
	static struct court c;

	convene(&c, 2, 0);
	assert_int_equal(arrive(&c, 6, 0, 0, 0), JUDGE_FOREIGN);
	assert_int_equal(arrive(&c, 5, 2, 0, 0), JUDGE_FOREIGN);
	assert_int_equal(arrive(&c, 5, 0, 0, 1), JUDGE_CORRUPT);
	assert_int_equal(arrive(&c, 5, 1, 0, 1), JUDGE_NEW);
	assert_int_equal(c.tally.foreign, 2);
	assert_int_equal(c.tally.corrupt, 1);
	adjourn(&c);
}

TEST("with fan-out a message is lost for each queue that lacks it")
{
	static struct court c;

	convene(&c, 1, 3);
	judge_accepted(&c.judge, 1, 0);
	assert_int_equal(arrive(&c, 5, 1, 0, 0), JUDGE_NEW);
	assert_int_equal(arrive(&c, 5, 1, 0, 1), JUDGE_NEW);
	assert_int_equal(arrive(&c, 5, 1, 0, 1), JUDGE_AGAIN);
	judge_finish(&c.judge, &c.verdict);
	assert_int_equal(c.verdict.confirmed, 3);
	assert_int_equal(c.verdict.lost, 1);
	adjourn(&c);
}

TEST("a consumer that knows no run verifies that of the first message")
{
	static struct court c;

	convene(&c, 1, 0);
	c.judge.run = 0;
	assert_int_equal(arrive(&c, 8, 0, 0, 0), JUDGE_NEW);
	assert_int_equal(arrive(&c, 9, 0, 1, 0), JUDGE_FOREIGN);
	assert_int_equal(arrive(&c, 8, 0, 1, 0), JUDGE_NEW);
	adjourn(&c);
}

/* ---- report ---- */

TEST("a report has the percentiles, the spectrum and the verdict")
{
	static struct load_result r;
	struct load_options o = {.protocol = &protocol_redis,
				 .host = "h",
				 .prefix = "p",
				 .mode = LOAD_BOTH,
				 .size = 100,
				 .verifies = true};
	json_t *j, *latency;
	double last = -1;
	size_t i;
	json_t *point;

	tally_init(&r.tally);
	for (uint64_t n = 1; n <= 100000; n++)
		histogram_add(&r.tally.confirm_ns, n * 1000);
	r.tally.confirmed = 100000;
	r.publish_seconds = 2;
	r.expects = true;
	j = report_make(&o, &r, NULL);
	assert_true(json_is_true(json_object_get(j, "ok")));
	latency = json_object_get(json_object_get(j, "publish"), "latency_us");
	assert_true(json_real_value(json_object_get(latency, "p50")) >= 50000);
	assert_true(json_real_value(json_object_get(latency, "p50")) < 50500);
	assert_true(json_real_value(json_object_get(latency, "p99.99")) >=
		    99990);
	assert_true(json_real_value(json_object_get(latency, "max")) == 100000);
	json_array_foreach(json_object_get(latency, "spectrum"), i, point) {
		double at = json_real_value(json_array_get(point, 0));

		assert_true(at > last);
		last = at;
	}
	assert_true(last == 1.0);
	json_decref(j);
	r.verdict.lost = 1;
	assert_false(report_is_clean(&o, &r));
}

TEST_MAIN()
