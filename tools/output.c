/* tools/output.c: see output.h. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tools/output.h"

#define COLUMN_MAX 24u
#define CELL_BYTES 1100u

/* ---- table ---- */

static const char *cell(json_t *value, char *buf, size_t len)
{
	char *text;

	switch (value ? json_typeof(value) : JSON_NULL) {
	case JSON_STRING:
		return json_string_value(value);
	case JSON_INTEGER:
		snprintf(buf, len, "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		return buf;
	case JSON_REAL:
		snprintf(buf, len, "%.6g", json_real_value(value));
		return buf;
	case JSON_TRUE:
		return "yes";
	case JSON_FALSE:
		return "no";
	case JSON_NULL:
		return "-";
	default:
		text = json_dumps(value, JSON_COMPACT);
		snprintf(buf, len, "%s", text ? text : "");
		free(text);
		return buf;
	}
}

/* Characters, not bytes, of UTF-8. */
static size_t width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

/* Control characters in a name must not reach the terminal. */
static void print_safe(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text < 32 || *text == 127 ? '?'
								  : *text);
}

static void print_cell(const char *text, size_t wide, int right)
{
	size_t pad = wide - width(text);

	for (size_t i = 0; right && i < pad; i++)
		putchar(' ');
	print_safe(text);
	for (size_t i = 0; !right && i < pad; i++)
		putchar(' ');
}

static void print_rows(json_t *rows, const struct output_column *columns,
		       unsigned count)
{
	char buf[CELL_BYTES];
	size_t wide[COLUMN_MAX], i;
	json_t *row;

	ASSERT(count <= COLUMN_MAX);
	for (unsigned c = 0; c < count; c++) {
		wide[c] = width(columns[c].title);
		json_array_foreach(rows, i, row)
			wide[c] = base_max(
				wide[c],
				width(cell(json_object_get(row, columns[c].key),
					   buf, sizeof(buf))));
	}
	for (unsigned c = 0; c < count; c++) {
		if (c)
			fputs("  ", stdout);
		print_cell(columns[c].title,
			   c + 1 < count ? wide[c] : width(columns[c].title),
			   0);
	}
	putchar('\n');
	json_array_foreach(rows, i, row) {
		for (unsigned c = 0; c < count; c++) {
			json_t *value = json_object_get(row, columns[c].key);
			const char *text = cell(value, buf, sizeof(buf));
			int right = json_is_number(value);

			if (c)
				fputs("  ", stdout);
			print_cell(text,
				   c + 1 < count || right ? wide[c]
							  : width(text),
				   right);
		}
		putchar('\n');
	}
}

static void print_members(json_t *object)
{
	char buf[CELL_BYTES];
	size_t wide = 0;
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
		wide = base_max(wide, width(key));
	json_object_foreach(object, key, value) {
		print_cell(key, wide + 2, 0);
		print_safe(cell(value, buf, sizeof(buf)));
		putchar('\n');
	}
}

/* ---- YAML ---- */

/* Plain only when nothing could be read differently. */
static int is_plain(const char *text)
{
	static const char *const words[] = {"true", "false", "null", "yes",
					    "no",   "on",    "off",  "y",
					    "n",    "~"};

	if (!text[0] || strspn(text, "0123456789.+-") > 0)
		return 0;
	for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
		if (!strcasecmp(text, words[i]))
			return 0;
	}
	return strspn(text, "abcdefghijklmnopqrstuvwxyz"
			    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			    "0123456789._/-") == strlen(text);
}

static void yaml_scalar(json_t *value)
{
	if (json_is_string(value) && is_plain(json_string_value(value)))
		fputs(json_string_value(value), stdout);
	else
		json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
	putchar('\n');
}

static void yaml_value(json_t *value, unsigned depth, int in_list);

static void yaml_indent(unsigned depth)
{
	for (unsigned i = 0; i < depth; i++)
		fputs("  ", stdout);
}

static void yaml_object(json_t *object, unsigned depth, int in_list)
{
	const char *key;
	json_t *value;
	int first = 1;

	json_object_foreach(object, key, value) {
		json_t *name = json_string(key);

		if (!(first && in_list))
			yaml_indent(depth);
		first = 0;
		if (is_plain(key))
			fputs(key, stdout);
		else
			json_dumpf(name, stdout, JSON_ENCODE_ANY);
		json_decref(name);
		putchar(':');
		if ((json_is_object(value) && json_object_size(value)) ||
		    (json_is_array(value) && json_array_size(value)))
			putchar('\n');
		else
			putchar(' ');
		yaml_value(value, depth + 1, 0);
	}
}

static void yaml_value(json_t *value, unsigned depth, int in_list)
{
	json_t *item;
	size_t i;

	if (json_is_object(value) && json_object_size(value)) {
		yaml_object(value, depth, in_list);
	} else if (json_is_array(value) && json_array_size(value)) {
		json_array_foreach(value, i, item) {
			if (!(i == 0 && in_list))
				yaml_indent(depth);
			fputs("- ", stdout);
			yaml_value(item, depth + 1, 1);
		}
	} else {
		yaml_scalar(value);
	}
}

/* ---- */

void output_print(enum output_format format, json_t *value,
		  const struct output_column *columns, unsigned column_count)
{
	switch (format) {
	case OUTPUT_TABLE:
		if (json_is_array(value))
			print_rows(value, columns, column_count);
		else
			print_members(value);
		break;
	case OUTPUT_JSON:
		json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		putchar('\n');
		break;
	case OUTPUT_YAML:
		yaml_value(value, 0, 0);
		break;
	}
}

const char *output_number(char *buf, size_t buf_len, double value)
{
	char digits[32];
	size_t len, n = 0;

	snprintf(digits, sizeof(digits), "%.0f", value < 0 ? 0 : value);
	len = strlen(digits);
	for (size_t i = 0; i < len && n + 2 < buf_len; i++) {
		if (i && (len - i) % 3 == 0)
			buf[n++] = ',';
		buf[n++] = digits[i];
	}
	buf[n] = 0;
	return buf;
}

const char *output_duration(char *buf, size_t buf_len, uint64_t ns)
{
	if (ns < 10000)
		snprintf(buf, buf_len, "%.1f µs", (double)ns / 1e3);
	else if (ns < 1000000)
		snprintf(buf, buf_len, "%.0f µs", (double)ns / 1e3);
	else if (ns < 1000000000)
		snprintf(buf, buf_len, "%.2f ms", (double)ns / 1e6);
	else
		snprintf(buf, buf_len, "%.2f s", (double)ns / 1e9);
	return buf;
}
