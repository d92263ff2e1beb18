/* broker/daemon/banner.h: what somebody at a terminal wants to know first. */
#ifndef BROKER_DAEMON_BANNER_H
#define BROKER_DAEMON_BANNER_H

#include "broker/daemon/wiring.h"

/* One screen on stderr when that is a terminal, else nothing. */
void banner_show(const struct wiring_facts *, const struct settings *,
		 const char *program);

#endif
