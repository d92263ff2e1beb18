/* tools/password.h: a password from a terminal without echo, or from a file.
 */
#ifndef TOOLS_PASSWORD_H
#define TOOLS_PASSWORD_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

/* The first line of the file.  "-" is standard input; when that is a terminal
 * the password is asked for there, twice when `twice`.  -EINVAL: empty, or the
 * two differ; -E2BIG: does not fit. */
MUST_CHECK int password_read(const char *path, bool twice, char *buf,
			     size_t buf_len);

#endif
