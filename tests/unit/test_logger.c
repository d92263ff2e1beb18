/* tests/unit/test_logger.c: lines as they leave the process. */
#include "tests/unit/test.h"

#include <pthread.h>

#include "base/json.h"
#include "base/err.h"
#include "base/logger.h"

/* stderr goes to a file between begin() and end(). */
static int saved_stderr, log_fd;

static void begin(enum logger_level least, enum logger_format format)
{
	char path[512];

	test_directory();
	log_fd = open(test_path(path, sizeof(path), "log"),
		      O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(log_fd >= 0);
	saved_stderr = dup(STDERR_FILENO);
	assert_true(dup2(log_fd, STDERR_FILENO) >= 0);
	logger_configure(least, format);
}

static size_t end(char *buf, size_t buf_len)
{
	ssize_t n;

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	n = pread(log_fd, buf, buf_len - 1, 0);
	close(log_fd);
	assert_true(n >= 0);
	buf[n] = '\0';
	return (size_t)n;
}

/* The one line of the log as an object; decref'ed by the caller. */
static json_t *end_json(void)
{
	static char text[32768];
	json_error_t error;
	json_t *object;
	size_t len = end(text, sizeof(text));

	assert_true(len > 0 && text[len - 1] == '\n');
	assert_ptr_equal(strchr(text, '\n'), text + len - 1);
	object = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	if (!object)
		fail_msg("%s: %s", error.text, text);
	return object;
}

static const char *member(json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	if (!value)
		fail_msg("no string \"%s\"", key);
	return value;
}

TEST("a line off a terminal is one JSON object with the fields as members")
{
	json_t *object;

	begin(LOGGER_INFO, LOGGER_AUTO);
	logger_info("journal", "segment-sealed",
		    "segment=%s bytes=%d ratio=0.75 ok=true id=007 at=12e5 "
		    "peer=%s",
		    "0001-0002.log", -42, LOGGER_QUOTE("a b"));
	object = end_json();
	assert_string_equal(member(object, "level"), "info");
	assert_string_equal(member(object, "component"), "journal");
	assert_string_equal(member(object, "event"), "segment-sealed");
	assert_string_equal(member(object, "segment"), "0001-0002.log");
	assert_int_equal(json_integer_value(json_object_get(object, "bytes")),
			 -42);
	assert_true(json_is_real(json_object_get(object, "ratio")));
	assert_true(json_is_true(json_object_get(object, "ok")));
	assert_string_equal(member(object, "id"), "007");
	assert_string_equal(member(object, "at"), "12e5");
	assert_string_equal(member(object, "peer"), "a b");
	json_decref(object);
}

TEST("the time is RFC 3339 in UTC with milliseconds")
{
	json_t *object;
	const char *time;

	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("daemon", "started", "pid=1");
	object = end_json();
	time = member(object, "time");
	assert_int_equal(strlen(time), 24);
	for (size_t i = 0; i < 24; i++) {
		char want = "dddd-dd-ddTdd:dd:dd.dddZ"[i];

		if (want == 'd')
			assert_in_range(time[i], '0', '9');
		else
			assert_int_equal(time[i], want);
	}
	json_decref(object);
}

TEST("hostile text survives quoting and stays inside its value")
{
	static const char hostile[] = "\"} \\ \n\r\t\x01\x7f key=value "
				      "\xc3\xa9 \xff \xed\xa0\x80 end";
	json_t *object;

	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("amqp", "refused", "name=%s after=1",
		    LOGGER_QUOTE(hostile));
	object = end_json();
	assert_string_equal(member(object, "name"),
			    "\"} \\ \n\r\t\x01\x7f key=value \xc3\xa9 "
			    "\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
			    "end");
	assert_int_equal(json_integer_value(json_object_get(object, "after")),
			 1);
	assert_null(json_object_get(object, "key"));
	json_decref(object);
}

TEST("unquoted hostile bytes cannot break the object either")
{
	json_t *object;

	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("amqp", "odd", "a=\"unterminated \\");
	object = end_json();
	assert_string_equal(member(object, "a"), "unterminated \\");
	json_decref(object);

	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("amqp", "odd", "word x\"y=z\"w\x02 b=\"\\q\\u12\" =c d=");
	object = end_json();
	assert_true(json_is_true(json_object_get(object, "word")));
	assert_string_equal(member(object, "x\"y"), "z\"w\x02");
	assert_string_equal(member(object, "b"), "\\q\\u12");
	assert_string_equal(member(object, "d"), "");
	json_decref(object);
}

TEST("a field may not take the place of our own members")
{
	json_t *object;

	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("amqp", "odd", "level=fake event=fake time=fake");
	object = end_json();
	assert_string_equal(member(object, "level"), "info");
	assert_string_equal(member(object, "field_level"), "fake");
	json_decref(object);
}

TEST("fields that are too long are cut and the line is still valid JSON")
{
	char bad[4001];
	json_t *object;

	memset(bad, 1, sizeof(bad) - 1);
	bad[sizeof(bad) - 1] = '\0';
	begin(LOGGER_INFO, LOGGER_JSON);
	logger_info("amqp", "long", "a=%s", bad);
	object = end_json();
	assert_true(strlen(member(object, "a")) > 2000);
	json_decref(object);

	for (int len = 1990; len < 2060; len++) {
		memset(bad, 'x', sizeof(bad) - 1);
		memcpy(bad + len - 2, "\\\"", 2);
		begin(LOGGER_INFO, LOGGER_JSON);
		logger_info("amqp", "long", "a=\"%s\" b=\"\xc3\xa9\"", bad);
		json_decref(end_json());
	}
}

TEST("text is one readable line without control characters")
{
	char text[512];

	begin(LOGGER_INFO, LOGGER_TEXT);
	logger_warn("journal", "slow-sync", "ms=%d file=a\nb\x1b[31m", 812);
	end(text, sizeof(text));
	assert_string_equal(text + 24,
			    " warn  journal: slow-sync ms=812 file=a b [31m\n");
	begin(LOGGER_INFO, LOGGER_TEXT);
	logger_info("daemon", "ready", " ");
	end(text, sizeof(text));
	assert_string_equal(text + 24, " info  daemon: ready\n");
}

TEST("levels below the least are not written")
{
	char text[512];

	begin(LOGGER_WARN, LOGGER_TEXT);
	logger_debug("a", "one", " ");
	logger_info("a", "two", " ");
	assert_int_equal(end(text, sizeof(text)), 0);
	begin(LOGGER_DEBUG, LOGGER_TEXT);
	logger_debug("a", "one", " ");
	assert_true(end(text, sizeof(text)) > 0);
}

TEST("level words are parsed, others refused")
{
	enum logger_level level = LOGGER_INFO;

	assert_int_equal(logger_level_parse("debug", &level), 0);
	assert_int_equal(level, LOGGER_DEBUG);
	assert_int_equal(logger_level_parse("ERROR", &level), 0);
	assert_int_equal(level, LOGGER_ERROR);
	assert_int_equal(logger_level_parse("loud", &level), -EINVAL);
	assert_int_equal(level, LOGGER_ERROR);
}

TEST("a quoted text is cut to its buffer and always closed")
{
	char buf[16];

	for (size_t len = 3; len <= sizeof(buf); len++) {
		const char *quoted =
			logger_quote(buf, len, "ab\"\\\n\x01zzzzz");
		size_t n = strlen(quoted);

		assert_true(n < len && n >= 2);
		assert_int_equal(quoted[0], '"');
		assert_int_equal(quoted[n - 1], '"');
	}
	assert_string_equal(logger_quote(buf, sizeof(buf), "a\"b\\c\n\x02"),
			    "\"a\\\"b\\\\c\\n\"");
}

static void *write_lines(void *arg)
{
	for (int i = 0; i < 200; i++)
		logger_info("thread", "line", "writer=%d number=%d",
			    *(int *)arg, i);
	return NULL;
}

TEST("lines of several threads do not mix")
{
	static char text[1 << 20];
	int numbers[4], seen[4] = {0}, writer, number, lines = 0, used;
	pthread_t threads[4];

	begin(LOGGER_INFO, LOGGER_TEXT);
	for (int i = 0; i < 4; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines,
						&numbers[i]),
				 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	end(text, sizeof(text));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		used = 0;
		sscanf(line + 24, " info  thread: line writer=%d number=%d%n",
		       &writer, &number, &used);
		assert_int_equal(line[24 + used], '\0');
		assert_in_range(writer, 0, 3);
		assert_int_equal(number, seen[writer]++);
		lines++;
	}
	assert_int_equal(lines, 800);
}

TEST("every error code has a phrase")
{
	for (int code = E_CORRUPT; code < E_CODE_END; code++) {
		assert_non_null(err_str(-code));
		assert_null(strstr(err_str(-code), "unknown"));
	}
	assert_string_equal(err_str(-ENOENT), "No such file or directory");
	assert_string_equal(err_str(0), "success");
	assert_string_equal(err_str(-E_CODE_END), "unknown error -4108");
	assert_string_equal(err_str(7), "unknown error 7");
	assert_string_equal(err_str(-3000), "unknown error -3000");
	assert_string_equal(err_str(INT32_MIN), "unknown error -2147483648");
}

TEST_MAIN()
