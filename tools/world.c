/* tools/world.c: see world.h. */
#include "tools/world.h"

#include <stdarg.h>
#include <unistd.h>

#include "tools/command.h"

#define KEY_PATH_BYTES 4096u
#define KEY_DEVELOPMENT_NAME "development.key" /* as holdfastd makes it */

int world_open(const char *command, struct io **ret)
{
	const char *reason = "";
	int err = crypto_init();

	if (!err)
		err = io_create(IO_ENGINE_THREADS, ret, &reason);
	if (!err)
		return COMMAND_OK;
	fprintf(stderr, "%s: %s: %s\n", command, err_str(err), reason);
	return COMMAND_FAILED;
}

int world_load_key(const char *command, struct io *io, const char *path,
		   struct crypto_key **ret)
{
	int err = crypto_keyfile_load(io, path, ret);

	if (!err)
		return COMMAND_OK;
	fprintf(stderr,
		"%s: %s: %s; a key file holds 64 hexadecimal digits and is "
		"mode 0600\n",
		command, path, err_str(err));
	return COMMAND_FAILED;
}

int world_find_key(const char *command, struct io *io, const char *dir,
		   const char *key_file, struct crypto_key **ret)
{
	char path[KEY_PATH_BYTES];

	*ret = NULL;
	if (key_file)
		return world_load_key(command, io, key_file, ret);
	if (snprintf(path, sizeof(path), "%s/" KEY_DEVELOPMENT_NAME, dir) >=
		    (int)sizeof(path) ||
	    access(path, F_OK))
		return COMMAND_OK;
	return world_load_key(command, io, path, ret);
}

int world_cannot_look(const char *command, const char *dir, int err)
{
	const char *advice = "";

	if (err == -ENOENT || err == -ENOTDIR)
		advice = "; name the directory that --data-dir named";
	else if (err == -E_KEY)
		advice = "; this key is not the directory's";
	else if (err == -EACCES)
		advice = "; run it as the broker's user";
	fprintf(stderr, "%s: %s: %s%s\n", command, dir, err_str(err), advice);
	return COMMAND_FAILED;
}

void world_progress(const char *format, ...)
{
	va_list args;

	if (!isatty(STDERR_FILENO))
		return;
	fputs("\r\033[K", stderr);
	if (!format)
		return;
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fflush(stderr);
}
