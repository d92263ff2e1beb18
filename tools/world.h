/* tools/world.h: what commands that read files begin with, and say when they
 * cannot.  Each returns an exit code, and has then printed why. */
#ifndef TOOLS_WORLD_H
#define TOOLS_WORLD_H

#include <stdbool.h>

#include "base/crypto.h"

/* io_free() it. */
MUST_CHECK int world_open(const char *command, struct io **ret);
MUST_CHECK int world_load_key(const char *command, struct io *,
			      const char *path, struct crypto_key **ret);
/* key_file, or when that is NULL the development key in dir.  Neither: *ret is
 * NULL and the result COMMAND_OK. */
MUST_CHECK int world_find_key(const char *command, struct io *, const char *dir,
			      const char *key_file, struct crypto_key **ret);
/* Prints why the directory cannot be looked at. */
int world_cannot_look(const char *command, const char *dir, int err);

/* One line on a terminal's standard error, written over again and again; NULL
 * removes it. */
void world_progress(const char *format, ...) PRINTF_LIKE(1, 2);

#endif
