/* tools/output.h: one value, as a table, JSON or YAML. */
#ifndef TOOLS_OUTPUT_H
#define TOOLS_OUTPUT_H

#include "base/json.h"
#include "tools/options.h"

#define OUTPUT_FORMATS "table|json|yaml"
enum output_format { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML };

struct output_column {
	const char *key;   /* of the object */
	const char *title; /* "MESSAGES" */
};

/* An array of objects becomes rows of the given columns; an object becomes
 * lines "key  value" of all its members (columns then give the order and may
 * be NULL).  JSON and YAML show everything. */
void output_print(enum output_format, json_t *,
		  const struct output_column *columns, unsigned column_count);
/* 1234567 becomes "1,234,567"; returns buf. */
const char *output_number(char *buf, size_t buf_len, double value);
/* Nanoseconds as "254 µs"; returns buf. */
const char *output_duration(char *buf, size_t buf_len, uint64_t ns);

#endif
