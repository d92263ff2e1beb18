/* base/logger.c: one event, one line, one write(2), so that lines of several
 * threads (and of several processes on one pipe) do not mix.  Nothing here
 * allocates or locks: it also runs when an assertion has failed. */
#include "base/logger.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"

#define FIELDS_BYTES_MAX 2048
/* Worst case in JSON: every byte of a value becomes \u00xx. */
#define LINE_BYTES_MAX (6 * FIELDS_BYTES_MAX + 1024)

static _Atomic int least_level = LOGGER_INFO;
static _Atomic int line_format = LOGGER_AUTO;

static const char *const level_words[] = {
	[LOGGER_DEBUG] = "debug",
	[LOGGER_INFO] = "info",
	[LOGGER_WARN] = "warn",
	[LOGGER_ERROR] = "error",
};

void logger_configure(enum logger_level least, enum logger_format format)
{
	if (format == LOGGER_AUTO)
		format = isatty(STDERR_FILENO) ? LOGGER_TEXT : LOGGER_JSON;
	atomic_store(&least_level, (int)least);
	atomic_store(&line_format, (int)format);
}

int logger_level_parse(const char *word, enum logger_level *ret)
{
	for (size_t i = 0; i < ARRAY_COUNT(level_words); i++) {
		if (!strcasecmp(word, level_words[i])) {
			*ret = (enum logger_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* ---- a line under construction; what does not fit is cut ---- */

struct line {
	size_t len;
	char text[LINE_BYTES_MAX];
};

static void line_add(struct line *l, const char *text, size_t len)
{
	/* Two bytes stay free for the end of the line. */
	if (len > sizeof(l->text) - 2 - l->len)
		len = sizeof(l->text) - 2 - l->len;
	memcpy(l->text + l->len, text, len);
	l->len += len;
}

static void line_puts(struct line *l, const char *text)
{
	line_add(l, text, strlen(text));
}

static void line_add_time(struct line *l)
{
	struct timespec now;
	struct tm tm;
	char text[48];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
		 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		 tm.tm_min, tm.tm_sec, (int)(now.tv_nsec / 1000000));
	line_puts(l, text);
}

/* Bytes of the UTF-8 sequence at p (RFC 3629), 0 when it is not one. */
static size_t utf8_len(const char *text, size_t left)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (n == 1)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4 || left < n)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

/* One character of a value, as JSON wants it.  Returns the bytes consumed. */
static size_t line_add_json_char(struct line *l, const char *p, size_t left)
{
	char escape[8];
	size_t n;

	if (*p == '"' || *p == '\\') {
		line_add(l, "\\", 1);
		line_add(l, p, 1);
		return 1;
	}
	n = utf8_len(p, left);
	if (!n) {
		line_puts(l, "\\ufffd");
		return 1;
	}
	if ((uint8_t)*p < 0x20 || *p == 0x7f) {
		snprintf(escape, sizeof(escape), "\\u%04x", (uint8_t)*p);
		line_puts(l, escape);
		return 1;
	}
	line_add(l, p, n);
	return n;
}

static void line_add_json_string(struct line *l, const char *p, size_t len)
{
	size_t at = 0;

	line_add(l, "\"", 1);
	while (at < len)
		at += line_add_json_char(l, p + at, len - at);
	line_add(l, "\"", 1);
}

/* ---- fields ---- */

struct field {
	const char *key, *value;
	size_t key_len, value_len;
	int quoted; /* value is what stands between the quotes, still escaped */
};

static const char *skip_spaces(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* The next `key=value`; NULL at the end.  A word without `=` is a key whose
 * value is true; a quote that was cut off ends with the text. */
static const char *field_next(const char *p, struct field *f)
{
	p = skip_spaces(p);
	if (!*p)
		return NULL;
	f->key = p;
	f->key_len = strcspn(p, "= \t\r\n");
	p += f->key_len;
	f->quoted = 0;
	if (*p != '=') {
		f->value = "true";
		f->value_len = 4;
		return p;
	}
	p++;
	if (*p != '"') {
		f->value = p;
		f->value_len = strcspn(p, " \t\r\n");
		return p + f->value_len;
	}
	f->quoted = 1;
	f->value = ++p;
	while (*p && *p != '"')
		p += *p == '\\' && p[1] ? 2 : 1;
	f->value_len = (size_t)(p - f->value);
	return *p ? p + 1 : p;
}

/* A number that JSON can say in the same digits (RFC 8259 section 6, without
 * exponents: 12e5 is more likely an identifier). */
static int is_json_number(const char *p, size_t len)
{
	const char *end = p + len, *digits;

	if (p < end && *p == '-')
		p++;
	digits = p;
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	if (p == digits || (*digits == '0' && p - digits > 1))
		return 0;
	if (p == end)
		return 1;
	if (*p++ != '.')
		return 0;
	digits = p;
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p == end && p > digits;
}

/* The length of an escape that logger_quote() makes and JSON knows, or 0. */
static size_t escape_len(const char *p, size_t left)
{
	if (left < 2 || *p != '\\')
		return 0;
	if (strchr("\"\\nrt", p[1]))
		return 2;
	if (p[1] != 'u' || left < 6)
		return 0;
	for (int i = 2; i < 6; i++) {
		if (!strchr("0123456789abcdefABCDEF", p[i]))
			return 0;
	}
	return 6;
}

static void line_add_json_value(struct line *l, const struct field *f)
{
	size_t at = 0, n;

	if (!f->quoted) {
		if (is_json_number(f->value, f->value_len) ||
		    (f->value_len == 4 && !memcmp(f->value, "true", 4)) ||
		    (f->value_len == 5 && !memcmp(f->value, "false", 5)))
			line_add(l, f->value, f->value_len);
		else
			line_add_json_string(l, f->value, f->value_len);
		return;
	}
	line_add(l, "\"", 1);
	while (at < f->value_len) {
		n = escape_len(f->value + at, f->value_len - at);
		if (n) {
			line_add(l, f->value + at, n);
			at += n;
		} else {
			at += line_add_json_char(l, f->value + at,
						 f->value_len - at);
		}
	}
	line_add(l, "\"", 1);
}

/* Our own members come first; a field of the same name must not make the
 * object ambiguous. */
static int key_is_taken(const struct field *f)
{
	static const char *const taken[] = {"time", "level", "component",
					    "event"};

	for (size_t i = 0; i < ARRAY_COUNT(taken); i++) {
		if (strlen(taken[i]) == f->key_len &&
		    !memcmp(taken[i], f->key, f->key_len))
			return 1;
	}
	return 0;
}

static void line_add_json_field(struct line *l, const struct field *f)
{
	char key[64];

	line_add(l, ",", 1);
	snprintf(key, sizeof(key), "%s%.*s", key_is_taken(f) ? "field_" : "",
		 (int)base_min(f->key_len, 48), f->key);
	line_add_json_string(l, key, strlen(key));
	line_add(l, ":", 1);
	line_add_json_value(l, f);
}

/* ---- lines ---- */

static void line_make_json(struct line *l, enum logger_level level,
			   const char *component, const char *event,
			   const char *fields)
{
	struct field f;

	line_puts(l, "{\"time\":\"");
	line_add_time(l);
	line_puts(l, "\",\"level\":\"");
	line_puts(l, level_words[level]);
	line_puts(l, "\",\"component\":");
	line_add_json_string(l, component, strlen(component));
	line_puts(l, ",\"event\":");
	line_add_json_string(l, event, strlen(event));
	while ((fields = field_next(fields, &f)))
		line_add_json_field(l, &f);
	line_add(l, "}", 1);
}

static void line_make_text(struct line *l, enum logger_level level,
			   const char *component, const char *event,
			   const char *fields)
{
	size_t start;

	line_add_time(l);
	line_add(l, " ", 1);
	line_puts(l, level_words[level]);
	line_add(l, "      ", 6 - strlen(level_words[level]));
	line_puts(l, component);
	line_add(l, ": ", 2);
	line_puts(l, event);
	fields = skip_spaces(fields);
	if (!*fields)
		return;
	line_add(l, " ", 1);
	start = l->len;
	line_puts(l, fields);
	/* A terminal obeys control characters, whoever sent them. */
	for (size_t i = start; i < l->len; i++) {
		if ((uint8_t)l->text[i] < 0x20 || l->text[i] == 0x7f)
			l->text[i] = ' ';
	}
}

void logger_write(enum logger_level level, const char *component,
		  const char *event, const char *fields_format, ...)
{
	char fields[FIELDS_BYTES_MAX];
	int saved_errno = errno;
	struct line l;
	va_list args;

	if ((int)level <
	    atomic_load_explicit(&least_level, memory_order_relaxed))
		return;
	if (atomic_load(&line_format) == LOGGER_AUTO)
		logger_configure((enum logger_level)atomic_load(&least_level),
				 LOGGER_AUTO);
	fields[0] = '\0';
	va_start(args, fields_format);
	if (fields_format)
		vsnprintf(fields, sizeof(fields), fields_format, args);
	va_end(args);
	l.len = 0;
	if (atomic_load(&line_format) == LOGGER_TEXT)
		line_make_text(&l, level, component, event, fields);
	else
		line_make_json(&l, level, component, event, fields);
	l.text[l.len++] = '\n';
	/* A log that cannot be written is no reason to stop. */
	while (write(STDERR_FILENO, l.text, l.len) < 0 && errno == EINTR)
		;
	errno = saved_errno;
}

const char *logger_quote(char *buf, size_t buf_len, const char *text)
{
	size_t at = 0;

	ASSERT(buf_len >= 3);
	buf[at++] = '"';
	for (; *text; text++) {
		char escape[8] = {*text};

		if (*text == '"' || *text == '\\')
			snprintf(escape, sizeof(escape), "\\%c", *text);
		else if (*text == '\n')
			memcpy(escape, "\\n", 3);
		else if ((uint8_t)*text < 0x20 || *text == 0x7f)
			snprintf(escape, sizeof(escape), "\\u%04x",
				 (uint8_t)*text);
		/* The closing quote and the terminator always fit. */
		if (at + strlen(escape) + 2 > buf_len)
			break;
		memcpy(buf + at, escape, strlen(escape));
		at += strlen(escape);
	}
	buf[at++] = '"';
	buf[at] = '\0';
	return buf;
}
