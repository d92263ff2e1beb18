/* tests/unit/test_tools.c: the parts of the command line that need no broker:
 * latency histogram and option parser.  They are not in the library, so they
 * are included. */
#include <string.h>

#include "tests/unit/test.h"

#include "tools/histogram.c"
#include "tools/options.c"

TEST("a histogram's quantile is at most one percent above the true value")
{
	static struct histogram h;

	histogram_init(&h);
	for (uint64_t i = 1; i <= 1000000; i++)
		histogram_add(&h, i * 37);
	for (unsigned percent = 1; percent <= 100; percent++) {
		uint64_t truth = percent * 10000ull * 37;
		uint64_t found = histogram_quantile(&h, percent / 100.0);

		assert_true(found >= truth);
		assert_true(found <= truth + truth / 100);
	}
	assert_int_equal(h.least, 37);
	assert_int_equal(h.most, 37000000);
}

TEST("small values are exact, the largest fits, an empty histogram is zero")
{
	static struct histogram h, other;

	histogram_init(&h);
	assert_int_equal(histogram_quantile(&h, 0.5), 0);
	for (uint64_t i = 0; i < 100; i++)
		histogram_add(&h, i);
	assert_int_equal(histogram_quantile(&h, 0.5), 49);
	histogram_init(&other);
	histogram_add(&other, UINT64_MAX);
	histogram_merge(&h, &other);
	assert_int_equal(h.count, 101);
	assert_true(histogram_quantile(&h, 1) == UINT64_MAX);
}

TEST("every value falls into the bucket whose bounds hold it")
{
	uint64_t below = 0;

	for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
		uint64_t top = bucket_top(bucket);

		assert_int_equal(bucket_of(top), bucket);
		if (bucket)
			assert_int_equal(bucket_of(below + 1), bucket);
		below = top;
	}
	assert_true(below == UINT64_MAX);
}

struct parsed {
	bool flag;
	const char *text;
	uint64_t number, bytes, time_ns;
	unsigned choice;
	struct option_list list;
	int words;
};

static enum options_result parse(struct parsed *p, int argc, char **argv)
{
	const struct option table[] = {
		{"flag", 'f', OPTION_FLAG, &p->flag, NULL, ""},
		{"text", 't', OPTION_TEXT, &p->text, "T", ""},
		{"number", 'n', OPTION_NUMBER, &p->number, "N", ""},
		{"bytes", 0, OPTION_BYTES, &p->bytes, "B", ""},
		{"time", 0, OPTION_DURATION, &p->time_ns, "D", ""},
		{"output", 'o', OPTION_CHOICE, &p->choice, "table|json|yaml",
		 ""},
		{"list", 'l', OPTION_LIST, &p->list, "L", ""},
	};
	const struct options options = {.command = "test",
					.words = "",
					.summary = "",
					.table = table,
					.count = ARRAY_COUNT(table),
					.words_max = 2};
	enum options_result result;
	FILE *quiet = stderr;

	/* Usage errors are printed; here only their codes matter. */
	stderr = fopen("/dev/null", "w");
	result = options_parse(&options, argc, argv, &p->words);
	fclose(stderr);
	stderr = quiet;
	return result;
}

/* The parser wants an argv that it may reorder, and keeps pointers into it. */
static enum options_result parse_all(struct parsed *p, const char *const *from,
				     int count)
{
	static char text[16][64];
	char *argv[16];

	for (int i = 0; i < count; i++) {
		snprintf(text[i], sizeof(text[i]), "%s", from[i]);
		argv[i] = text[i];
	}
	return parse(p, count, argv);
}

#define PARSE(p, ...)                                                          \
	parse_all(p, (const char *const[]){__VA_ARGS__},                       \
		  (int)ARRAY_COUNT(((const char *const[]){__VA_ARGS__})))

TEST("options are taken in every spelling, mixed with words")
{
	struct parsed p = {0};

	assert_int_equal(PARSE(&p, "word", "--text=a=b", "-n", "7", "--bytes",
			       "64KiB", "--time=250ms", "-ojson", "-f", "-lx",
			       "--list", "y", "--", "-n"),
			 OPTIONS_GO);
	assert_string_equal(p.text, "a=b");
	assert_int_equal(p.number, 7);
	assert_int_equal(p.bytes, 65536);
	assert_int_equal(p.time_ns, 250000000);
	assert_int_equal(p.choice, 1);
	assert_true(p.flag);
	assert_int_equal(p.list.count, 2);
	assert_string_equal(p.list.items[1], "y");
	assert_int_equal(p.words, 2);
}

TEST("what is wrong is refused")
{
	struct parsed p = {0};

	assert_int_equal(PARSE(&p, "--nummer", "7"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--number"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--number=7x"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--number=-7"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--number=", "7"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--number=99999999999999999999"),
			 OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--bytes=99999999999GiB"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--time=5 s"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--output=jso"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "--flag=yes"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "-x"), OPTIONS_BAD);
	assert_int_equal(PARSE(&p, "1", "2", "3"), OPTIONS_BAD);
}

TEST("the nearest word is found, and none is when nothing is near")
{
	static const char *const words[] = {"send", "receive", "queue"};

	assert_string_equal(options_nearest("sned", words, 3), "send");
	assert_string_equal(options_nearest("recieve", words, 3), "receive");
	assert_null(options_nearest("bench", words, 3));
}

TEST_MAIN()
