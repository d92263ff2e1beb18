/* broker/daemon/reload.h: a changed configuration, taken as a whole or not at
 * all.  Thread: main. */
#ifndef BROKER_DAEMON_RELOAD_H
#define BROKER_DAEMON_RELOAD_H

#include "broker/daemon/wiring.h"

/* Loads source again.  When it is right and everything that changed may
 * change, it takes effect and *config is replaced (the old one freed).
 * Otherwise the log says what is in the way and nothing changes. */
void reload_run(struct wiring *, const struct config_source *,
		struct config **config);

#endif
