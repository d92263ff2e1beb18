/* tests/unit/test_follow.c: a store that follows another's log, and takes over
 * from it.
 *
 * Both are on real files in one directory; the model is the leader's, and
 * passes to whoever leads next. */
#include "tests/unit/test.h"

#include "base/engine.h"
#include "tests/unit/store_broker.h"

#define STEP_BYTES (256u * 1024u)

/* A second broker on the same directory, that has claimed nothing. */
static struct broker *standby_create(const struct broker *leader)
{
	struct broker *s = malloc(sizeof(*s));
	const char *reason;

	assert_non_null(s);
	*s = *leader;
	s->store = NULL;
	s->log = NULL;
	s->journal = s->store_loop = s->extents = s->client = NULL;
	sem_init(&s->done, 0, 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &s->io, &reason), 0);
	assert_int_equal(broker_create(s), 0);
	return s;
}

static void follow(struct broker *s)
{
	bool more = true;

	while (more)
		assert_int_equal(
			store_follow(s->store, s->log, STEP_BYTES, &more), 0);
}

/* The leader stops; s leads, and the model is its from now on. */
static int succeed(struct broker *b, struct broker *s)
{
	broker_stop(b);
	s->model = b->model;
	io_free(b->io);
	sem_destroy(&b->done);
	free(b);
	return broker_take_over(s);
}

static struct broker *first(uint64_t checkpoint_bytes)
{
	struct broker *b = malloc(sizeof(*b));

	assert_non_null(b);
	broker_init(b);
	b->checkpoint_bytes = checkpoint_bytes;
	return b;
}

static void last(struct broker *b)
{
	broker_close(b);
	broker_fini(b);
	free(b);
}

static void rounds(struct broker *b, unsigned follow_one_in)
{
	uint64_t followed = 0;

	assert_int_equal(broker_recover(b), 0);
	for (unsigned round = 0; round < 6; round++) {
		struct broker *s = standby_create(b);

		broker_start(b);
		for (unsigned i = 0; i < 30; i++) {
			broker_random(b,
				      1 + (unsigned)model_random(&b->model, 6));
			if (!model_random(&b->model, follow_one_in))
				follow(s);
		}
		assert_int_equal(b->failed, 0);
		followed += store_stats(s->store)->applied_lsn;
		assert_int_equal(succeed(b, s), 0);
		assert_null(store_warning(s->store));
		broker_compare(s);
		b = s;
	}
	assert_true(followed > 100);
	last(b);
}

TEST("a follower that takes over has what a model says")
{
	rounds(first(300 * 1024), 2);
}

TEST("so has one that is left behind now and then")
{
	rounds(first(100 * 1024), 15);
}

TEST("so has one whose leader moves messages to extents")
{
	struct broker *b = first(300 * 1024);

	b->hot_bytes = 1;
	b->extent_bytes = 512 * 1024;
	rounds(b, 3);
}

TEST("what was followed is not replayed again")
{
	struct broker *b = first(1ull << 30), *s;

	assert_int_equal(broker_recover(b), 0);
	broker_start(b);
	s = standby_create(b);
	broker_random(b, 100);
	/* The leader's store is told of what was committed a little later. */
	while (store_stats(b->store)->applied_lsn < log_stats(b->log)->records)
		usleep(1000);
	/* The idle mark vouches for the last frame. */
	while (store_stats(s->store)->applied_lsn + 1 <
	       store_stats(b->store)->applied_lsn)
		follow(s);
	assert_true(store_stats(s->store)->applied_lsn > 100);
	assert_true(store_stats(s->store)->seen_lsn >=
		    store_stats(s->store)->applied_lsn);
	assert_int_equal(succeed(b, s), 0);
	/* The idle marks of the end, and no more. */
	assert_true(s->store->recovery.records <= 4);
	assert_int_equal(store_stats(s->store)->follow_resets, 0);
	broker_compare(s);
	last(s);
}

TEST("before anybody has written there is nothing to follow")
{
	struct broker *b = first(50 * 1024), *s;
	bool more = true;

	assert_int_equal(broker_create(b), 0);
	s = standby_create(b);
	assert_int_equal(store_follow(s->store, s->log, STEP_BYTES, &more), 0);
	assert_false(more);
	assert_int_equal(store_stats(s->store)->applied_lsn, 0);
	/* It has a checkpoint, and its first segment no more, before the
	 * follower looks again. */
	assert_int_equal(broker_take_over(b), 0);
	broker_start(b);
	while (log_stats(b->log)->segments_dropped < 2)
		broker_random(b, 20);
	/* What the leader removes just now is looked for again. */
	do
		follow(s);
	while (!store_stats(s->store)->applied_lsn);
	assert_int_equal(succeed(b, s), 0);
	broker_compare(s);
	last(s);
}

TEST_MAIN()
