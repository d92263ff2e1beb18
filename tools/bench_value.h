/* tools/bench_value.h: AMQP 1.0 values, read from a peer's frames.
 * OASIS AMQP 1.0 part 1, section 1.2.  A cursor is sticky: after the first
 * value that does not fit it is bad and yields nothing sensible. */
#ifndef TOOLS_BENCH_VALUE_H
#define TOOLS_BENCH_VALUE_H

#include <stdbool.h>

#include "base/base.h"

struct bench_value {
	enum {
		BENCH_VALUE_NULL,
		BENCH_VALUE_NUMBER,
		BENCH_VALUE_BYTES,
		BENCH_VALUE_LIST,
		BENCH_VALUE_OTHER
	} kind;
	uint64_t number;
	const uint8_t *bytes;
	size_t len; /* of bytes, or of a list's elements */
	uint32_t count;
	bool described;
	uint64_t descriptor;
};

struct bench_cursor {
	const uint8_t *p, *end;
	bool bad;
};

/* The next value; its bytes are borrowed from the buffer. */
struct bench_value bench_value_take(struct bench_cursor *);
/* A performative: its code and its first `count` fields, those that are
 * missing as null.  False when it is not one. */
MUST_CHECK bool bench_value_fields(struct bench_cursor *,
				   struct bench_value *fields, unsigned count,
				   uint64_t *ret_code);

#endif
