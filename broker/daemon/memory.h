/* broker/daemon/memory.h: how much memory the broker gives itself. */
#ifndef BROKER_DAEMON_MEMORY_H
#define BROKER_DAEMON_MEMORY_H

#include "base/base.h"

struct memory_choice {
	uint64_t bytes;
	uint64_t cgroup_bytes; /* the control group's limit; 0: none */
	char why[192];	       /* a phrase for the log */
};

/* configured: limits.memory; 0: the smaller of 256 MiB and half of what the
 * process's control group may take (cgroups(7), version 1 or 2: the least of
 * its own limit and those above it).  root is put before /proc and /sys: ""
 * but in tests. */
void memory_choose(uint64_t configured, const char *root,
		   struct memory_choice *ret);
/* To the log. */
void memory_tell(const struct memory_choice *);

#endif
