/* base/logger.h: the program's log, one line an event.
 *
 * Text on a terminal, JSON otherwise, on stderr.  Fields are key=value pairs
 * built by the caller's format; never payloads, never keys or passwords.
 * Lower layers return errors and log nothing above debug; the owning loop
 * logs once.  [any] thread. */
#ifndef BASE_LOGGER_H
#define BASE_LOGGER_H

#include "base/base.h"

enum logger_level { LOGGER_DEBUG, LOGGER_INFO, LOGGER_WARN, LOGGER_ERROR };
enum logger_format { LOGGER_AUTO, LOGGER_TEXT, LOGGER_JSON };

/* Before threads start; again on reload. */
void logger_configure(enum logger_level least, enum logger_format format);
/* -EINVAL for an unknown word: "debug", "info", "warn", "error". */
MUST_CHECK int logger_level_parse(const char *word, enum logger_level *ret);

/* component: "journal", "amqp", "daemon".  event: a short stable word group
 * for machines, such as "segment-sealed".  The format gives the fields as
 * `key=value key="quoted value"`; a value with spaces is put in double quotes
 * by the caller with logger_quote().  In JSON each becomes a member. */
void logger_write(enum logger_level, const char *component, const char *event,
		  const char *fields_format, ...) PRINTF_LIKE(4, 5);

#define logger_debug(...) logger_write(LOGGER_DEBUG, __VA_ARGS__)
#define logger_info(...) logger_write(LOGGER_INFO, __VA_ARGS__)
#define logger_warn(...) logger_write(LOGGER_WARN, __VA_ARGS__)
#define logger_error(...) logger_write(LOGGER_ERROR, __VA_ARGS__)

/* text in double quotes with \" \\ \n and control characters escaped, cut to
 * fit; returns buf. */
const char *logger_quote(char *buf, size_t buf_len, const char *text);
#define LOGGER_QUOTE(text) logger_quote((char[256]){0}, 256, (text))

#endif
