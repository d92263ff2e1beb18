/* tests/unit/test_settings.c: the broker's table of settings.  The daemon's
 * files are not in the library, so they are included. */
#include "tests/unit/test.h"

#include "broker/daemon/settings.c"

static struct config_errors errors;

static struct config *load(const char *const *sets, size_t count)
{
	const struct config_source source = {.sets = sets, .set_count = count};
	struct config *c = NULL;

	errors = (struct config_errors){0};
	if (settings_load(&source, &c, &errors))
		return NULL;
	return c;
}

static void refused(const char *set, const char *with)
{
	struct config *c = load(&set, 1);

	if (c)
		fail_msg("%s was taken", set);
	if (!strstr(errors.text, with))
		fail_msg("%s: \"%s\" does not say \"%s\"", set, errors.text,
			 with);
}

static void is_percent(const char *text, unsigned want)
{
	unsigned percent = 0;

	assert_null(settings_parse_percent(text, &percent));
	assert_int_equal(percent, want);
}

TEST("without any setting the defaults are those of the manual")
{
	struct config *c = load(NULL, 0);
	const struct settings *s;

	assert_non_null(c);
	s = settings_of(c);
	assert_null(s->index_dir);
	is_percent(s->disk_max_use, 90);
	assert_int_equal(s->limits.memory_bytes, 0);
	assert_int_equal(s->store.hot_bytes, 4 * GIB);
	assert_int_equal(s->store.hot_ns, 60 * SECOND);
	assert_int_equal(s->store.extent_bytes, 64 * MIB);
	assert_int_equal(s->scrub.interval_ns, 7 * DAY);
	assert_int_equal(s->scrub.bytes_per_s, 32 * MIB);
	config_free(c);
}

TEST("a share of the disk is a percentage, with its sign or without")
{
	unsigned percent = 7;
	static const char *const wrong[] = {"",	    "0",    "0%",    "101%",
					    "90 %", "-1",   "9e1",   "90%%",
					    "0x10", "1000", "ninety"};

	is_percent("90", 90);
	is_percent("90%", 90);
	is_percent("1%", 1);
	is_percent("100", 100);
	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
		assert_non_null(settings_parse_percent(wrong[i], &percent));
		assert_int_equal(percent, 7);
	}
	refused("disk_max_use=120%", "percentage");
}

TEST("the store's settings are taken and have bounds")
{
	static const char *const sets[] = {
		"index_dir=/fast/index", "store.hot_size=1GiB",
		"store.hot_time=5m",	 "store.extent_file_size=1MiB",
		"scrub.interval=0",	 "scrub.rate=1MiB",
		"limits.memory=100MiB",	 "disk_max_use=75"};
	struct config *c = load(sets, ARRAY_COUNT(sets));
	const struct settings *s;

	assert_non_null(c);
	s = settings_of(c);
	assert_string_equal(s->index_dir, "/fast/index");
	assert_int_equal(s->store.hot_bytes, GIB);
	assert_int_equal(s->store.hot_ns, 300 * SECOND);
	assert_int_equal(s->store.extent_bytes, MIB);
	assert_int_equal(s->scrub.interval_ns, 0);
	assert_int_equal(s->scrub.bytes_per_s, MIB);
	assert_int_equal(s->limits.memory_bytes, 100 * MIB);
	is_percent(s->disk_max_use, 75);
	config_free(c);
	refused("limits.memory=512KiB", "at least 1MiB");
	refused("store.hot_size=10", "store.hot_size");
	refused("store.extent_file_size=2GiB", "store.extent_file_size");
	refused("scrub.rate=0", "scrub.rate");
}

TEST_MAIN()
