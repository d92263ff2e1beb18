/* tests/unit/test_load_run.c: whole runs of the load generator, against a
 * broker that loses, doubles, damages, stalls and dies when told to. */
#include "tests/unit/load_peer.h"

#include "bench/load/load.h"
#include "bench/load/report.h"

static struct load_result result;
static char why[640];

static struct load_options options(const struct peer *p)
{
	return (struct load_options){.protocol = &protocol_beanstalk,
				     .host = "127.0.0.1",
				     .port = p->port,
				     .prefix = "q",
				     .receive_prefix = "q",
				     .mode = LOAD_BOTH,
				     .queues = 1,
				     .senders = 1,
				     .receivers = 1,
				     .threads = 1,
				     .window = 10,
				     .credit = 10,
				     .size = 64,
				     .count = 500,
				     .patience_ns = 10000000000u,
				     .verifies = true};
}

TEST("a broker that keeps its promises is found clean")
{
	struct peer p = {.puts = 0};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.senders = 3;
	o.receivers = 4;
	o.queues = 2;
	o.threads = 2;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_true(report_is_clean(&o, &result));
	assert_int_equal(result.tally.confirmed, 500);
	assert_int_equal(result.tally.received, 500);
	assert_int_equal(result.verdict.unique, 500);
	assert_int_equal(result.tally.confirm_ns.count, 500);
	assert_int_equal(result.tally.end_to_end_ns.count, 500);
	assert_int_equal(p.puts, 500);
	peer_stop(&p);
}

TEST("more queues than connections: every one is used, in order")
{
	struct peer p = {.puts = 0};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.queues = 7;
	o.senders = 2;
	o.receivers = 1;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_int_equal(result.verdict.unique, 500);
	assert_int_equal(result.tally.out_of_order, 0);
	assert_int_equal(result.tally.corrupt, 0);
	peer_stop(&p);
}

TEST("a lost, a doubled and a damaged message are each found")
{
	struct peer p = {.lose_at = 100, .double_at = 200, .damage_at = 300};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.patience_ns = 300000000;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_false(report_is_clean(&o, &result));
	/* The damaged one is not there either. */
	assert_int_equal(result.verdict.lost, 2);
	assert_int_equal(result.tally.duplicates, 1);
	assert_int_equal(result.tally.corrupt, 1);
	assert_true(result.short_of);
	peer_stop(&p);
}

TEST("a message that overtakes another is out of order")
{
	struct peer p = {.swap_at = 100};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.mode = LOAD_PUBLISH;
	o.receivers = 0;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	o.mode = LOAD_CONSUME;
	o.senders = 0;
	o.receivers = 1;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_int_equal(result.verdict.unique, 500);
	assert_int_equal(result.tally.out_of_order, 1);
	assert_int_equal(result.verdict.gaps, 0);
	peer_stop(&p);
}

TEST("what the broker refuses is counted and its reason kept")
{
	struct peer p = {.refuse_at = 7};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_int_equal(result.tally.rejected, 1);
	assert_int_equal(result.tally.accepted, 499);
	assert_int_equal(result.verdict.lost, 0);
	assert_string_equal(result.remark, "DRAINING");
	peer_stop(&p);
}

TEST("a stall is charged to all that were meant to be sent meanwhile")
{
	/* 1000 a second; 300 ms of silence in the middle.  A closed loop with
	 * a window of 1 sees one slow message; the truth is about 300. */
	struct peer p = {.stall_at = 200, .stall_ms = 300};
	struct peer q = {.stall_at = 200, .stall_ms = 300};
	struct load_options o;
	uint64_t p99_ns;

	peer_start(&p);
	o = options(&p);
	o.mode = LOAD_PUBLISH;
	o.receivers = 0;
	o.window = 1;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	p99_ns = histogram_quantile(&result.tally.confirm_ns, 0.99);
	assert_true(p99_ns < 150000000u);
	peer_stop(&p);

	peer_start(&q);
	o = options(&q);
	o.mode = LOAD_PUBLISH;
	o.receivers = 0;
	o.rate = 1000;
	o.count = 0;
	o.measure_ns = 600000000;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	/* Half of the window of 600 ms began during the stall. */
	assert_true(histogram_quantile(&result.tally.confirm_ns, 0.8) >
		    100000000u);
	assert_true(result.tally.confirm_ns.most >= 290000000u);
	/* Everything that was due was sent, and counted once. */
	assert_int_equal(result.tally.confirm_ns.count, result.tally.sent);
	assert_int_equal(result.tally.sent, 600);
	peer_stop(&q);
}

TEST("a broker that vanishes fails the run, and says which connection")
{
	struct peer p = {.vanish_at = 50};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	assert_true(load_run(&o, &result, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, "beanstalk 127.0.0.1:"));
	assert_non_null(strstr(why, "the peer closed the connection"));
	peer_stop(&p);
}

TEST("until broken: what was confirmed is in the ledger, and is found later")
{
	struct peer p = {.vanish_at = 50};
	struct load_options o;
	char path[300];

	test_directory();
	peer_start(&p);
	o = options(&p);
	o.mode = LOAD_PUBLISH;
	o.receivers = 0;
	o.until_broken = true;
	o.ledger = test_path(path, sizeof(path), "ledger");
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_true(result.broken[0]);
	assert_true(result.tally.accepted <= 49);

	o.mode = LOAD_CONSUME;
	o.senders = 0;
	o.receivers = 2;
	o.until_broken = false;
	o.count = 0;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_true(report_is_clean(&o, &result));
	assert_int_equal(result.verdict.lost, 0);
	/* The broker had all 49; some had not been told yet. */
	assert_int_equal(result.verdict.unique, 49);
	assert_int_equal(result.verdict.kept + result.verdict.confirmed, 49);
	peer_stop(&p);
}

TEST("a broker that is not there yet is waited for, or not")
{
	struct peer p = {.late_ms = 300};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.count = 10;
	assert_true(load_run(&o, &result, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, "cannot connect"));
	o.wait_ns = 10000000000u;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_true(report_is_clean(&o, &result));
	peer_stop(&p);
}

TEST("a consumer without a number ends when nothing comes, and is clean")
{
	struct peer p = {.puts = 0};
	struct load_options o;

	peer_start(&p);
	o = options(&p);
	o.mode = LOAD_PUBLISH;
	o.receivers = 0;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	o.mode = LOAD_CONSUME;
	o.senders = 0;
	o.receivers = 1;
	o.count = 0;
	o.patience_ns = 300000000;
	assert_int_equal(load_run(&o, &result, why, sizeof(why)), 0);
	assert_int_equal(result.tally.received, 500);
	assert_false(result.short_of);
	peer_stop(&p);
}

TEST_MAIN()
