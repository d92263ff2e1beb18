/* tests/unit/test_quarantine.c: the list of what is damaged. */
#include "journal/store/internal.h"
#include "tests/unit/test.h"

static struct store *begin(void)
{
	struct store *s = calloc(1, sizeof(*s));
	const char *reason;

	assert_non_null(s);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &s->options.io, &reason),
			 0);
	assert_int_equal(quarantine_create(&s->quarantine), 0);
	return s;
}

static void end(struct store *s)
{
	quarantine_free(s->quarantine);
	io_free(s->options.io);
	free(s);
}

static struct store_damage place(uint64_t queue, uint64_t ref, const char *file,
				 uint64_t offset)
{
	struct store_damage d = {.queue = queue,
				 .first_ref = ref,
				 .last_ref = ref,
				 .offset = offset,
				 .bytes = 10,
				 .err = -E_CORRUPT};

	snprintf(d.file, sizeof(d.file), "%s", file);
	return d;
}

static void find(struct store *s, uint64_t queue, uint64_t ref,
		 const char *file, uint64_t offset)
{
	struct store_damage d = place(queue, ref, file, offset);

	store_damage_found(s, &d);
}

struct listing {
	struct store_damage all[2048];
	unsigned count, stop_at;
};

static int list_one(void *ctx, const struct store_damage *d)
{
	struct listing *l = ctx;

	l->all[l->count++] = *d;
	return l->count == l->stop_at ? 42 : 0;
}

static struct listing *list(struct store *s)
{
	static struct listing l;

	memset(&l, 0, sizeof(l));
	assert_int_equal(store_each_damage(s, list_one, &l), 0);
	assert_int_equal(l.count, s->stats.damage);
	return &l;
}

TEST("the same place found again is one place, with its first time")
{
	struct store *s = begin();
	uint64_t found_ms;

	find(s, 7, 12, "extents/a", 4096);
	found_ms = list(s)->all[0].found_ms;
	assert_true(found_ms > 1600000000000ull);
	find(s, 7, 12, "extents/a", 4096);
	/* The same messages, met from another side. */
	find(s, 7, 12, "extents/a", 8192);
	assert_int_equal(list(s)->count, 1);
	assert_int_equal(list(s)->all[0].offset, 4096);
	assert_int_equal(list(s)->all[0].found_ms, found_ms);
	find(s, 7, 13, "extents/a", 4096);
	find(s, 8, 12, "extents/a", 4096);
	find(s, 7, 12, "extents/b", 4096);
	assert_int_equal(list(s)->count, 4);
	/* Without messages the bytes are the place. */
	find(s, 0, 0, "segments/a", 4096);
	find(s, 0, 0, "segments/a", 4096);
	find(s, 0, 0, "segments/a", 8192);
	assert_int_equal(list(s)->count, 6);
	end(s);
}

TEST("what lay in a file that is gone is forgotten, and can be found anew")
{
	struct store *s = begin();

	for (unsigned i = 0; i < 10; i++)
		find(s, 1, 1 + i, i % 2 ? "extents/a" : "extents/b", 4096);
	quarantine_forget_file(s, "extents/a");
	assert_int_equal(list(s)->count, 5);
	for (unsigned i = 0; i < 5; i++)
		assert_string_equal(list(s)->all[i].file, "extents/b");
	quarantine_forget_file(s, "extents/nothing");
	assert_int_equal(list(s)->count, 5);
	find(s, 1, 2, "extents/a", 4096);
	assert_int_equal(list(s)->count, 6);
	end(s);
}

TEST("the list is bounded, keeps what it has, and takes more when there is "
     "room")
{
	struct store *s = begin();

	for (unsigned i = 0; i < 1500; i++)
		find(s, 1, 1 + i, i < 2 ? "extents/a" : "extents/b", 4096);
	assert_int_equal(list(s)->count, 1024);
	assert_int_equal(list(s)->all[1023].first_ref, 1024);
	quarantine_forget_file(s, "extents/a");
	find(s, 1, 2000, "extents/b", 4096);
	find(s, 1, 2001, "extents/b", 4096);
	find(s, 1, 2002, "extents/b", 4096);
	assert_int_equal(list(s)->count, 1024);
	assert_int_equal(list(s)->all[1023].first_ref, 2001);
	end(s);
}

TEST("a walk stops where it is told to, and may look things up meanwhile")
{
	static struct listing l;
	struct store *s = begin();

	for (unsigned i = 0; i < 9; i++)
		find(s, 1, 1 + i, "extents/a", 4096);
	memset(&l, 0, sizeof(l));
	l.stop_at = 4;
	assert_int_equal(store_each_damage(s, list_one, &l), 42);
	assert_int_equal(l.count, 4);
	end(s);
}

TEST("a file's name that is not terminated is")
{
	struct store *s = begin();
	struct store_damage d = place(1, 1, "", 0);

	memset(d.file, 'x', sizeof(d.file));
	store_damage_found(s, &d);
	assert_int_equal(strlen(list(s)->all[0].file), sizeof(d.file) - 1);
	end(s);
}

TEST_MAIN()
