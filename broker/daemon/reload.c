/* broker/daemon/reload.c: load beside the old configuration, compare, apply
 * what can fail first, and only then let go of the old one. */
#include "broker/daemon/reload.h"

#include <string.h>

#include "base/logger.h"

struct changes {
	unsigned count;
	char fixed[512]; /* names of those that need a restart */
	char names[512]; /* of all */
};

static void add_name(char list[512], const char *name)
{
	size_t len = strlen(list);

	snprintf(list + len, 512 - len, "%s%s", len ? " " : "", name);
}

static void note_change(void *ctx, const struct config_key *key)
{
	struct changes *c = ctx;

	c->count++;
	add_name(c->names, key->path);
	if (!(key->flags & CONFIG_RELOADABLE))
		add_name(c->fixed, key->path);
}

static void say_errors(struct config_errors *errors)
{
	char *rest = errors->text, *line;

	while ((line = strsep(&rest, "\n")))
		logger_error("daemon", "reload-refused", "why=%s",
			     LOGGER_QUOTE(line));
}

void reload_run(struct wiring *w, const struct config_source *source,
		struct config **config)
{
	struct config_errors *errors = calloc(1, sizeof(*errors));
	struct changes changes = {0};
	const struct settings *s;
	struct config *fresh;
	int err;

	if (!errors)
		return;
	err = settings_load(source, &fresh, errors);
	if (err) {
		if (errors->count)
			say_errors(errors);
		else
			logger_error("daemon", "reload-refused", "why=%s",
				     LOGGER_QUOTE(err_str(err)));
		free(errors);
		return;
	}
	free(errors);
	config_compare(*config, fresh, note_change, &changes);
	if (changes.fixed[0]) {
		logger_error("daemon", "reload-refused", "why=%s settings=%s",
			     LOGGER_QUOTE("these need a restart; nothing has "
					  "been changed"),
			     LOGGER_QUOTE(changes.fixed));
		config_free(fresh);
		return;
	}
	s = settings_of(fresh);
	err = wiring_reload(w, s);
	if (err) {
		logger_error("daemon", "reload-refused", "why=%s",
			     LOGGER_QUOTE(err_str(err)));
		config_free(fresh);
		return;
	}
	logger_configure((enum logger_level)s->log.level,
			 (enum logger_format)s->log.format);
	logger_info("daemon", "reloaded", "changes=%u settings=%s",
		    changes.count, LOGGER_QUOTE(changes.names));
	config_free(*config);
	*config = fresh;
}
