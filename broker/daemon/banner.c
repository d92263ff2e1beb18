/* broker/daemon/banner.c: one screen for a person. */
#include "broker/daemon/banner.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* "build/holdfast" for "build/holdfastd": what can be pasted works. */
static void show_commands(const struct wiring_facts *f, const char *program)
{
	size_t len = strlen(program);
	char url[64] = "";

	if (len && program[len - 1] == 'd')
		len--;
	if (f->port != 5672)
		snprintf(url, sizeof(url), " --url amqp://127.0.0.1:%u",
			 (unsigned)f->port);
	fprintf(stderr,
		"\n  Try it, in another terminal:\n"
		"    %.*s send%s orders 'hello'\n"
		"    %.*s receive%s orders\n\n",
		(int)len, program, url, (int)len, program, url);
}

static void show_key(const struct key_choice *key)
{
	fprintf(stderr, "  key        %s\n", key->path);
	if (key->development)
		fputs("             a development key: what is on disk is "
		      "encrypted, but whoever\n"
		      "             can read the data can read this key "
		      "beside it.  For production\n"
		      "             set journal.key_file to a key kept "
		      "elsewhere.\n",
		      stderr);
}

void banner_show(const struct wiring_facts *f, const struct settings *s,
		 const char *program)
{
	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr,
		"\n  Holdfast " HOLDFAST_VERSION "\n\n  listens on %s\n",
		f->listen);
	if (s->anonymous == SETTINGS_ANONYMOUS_LOOPBACK)
		fputs("             without a user from this host only\n",
		      stderr);
	if (s->anonymous == SETTINGS_ANONYMOUS_ALWAYS)
		fputs("             without a user from everywhere\n", stderr);
	fprintf(stderr, "  admin      %s\n", f->admin[0] ? f->admin : "off");
	fprintf(stderr, "  data       %s, %" PRIu64 " messages\n", s->data_dir,
		f->messages);
	show_key(f->key);
	fprintf(stderr, "  I/O        %s\n", f->engine_reason);
	show_commands(f, program);
}
