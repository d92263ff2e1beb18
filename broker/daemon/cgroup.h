/* broker/daemon/cgroup.h: what the process's control group may take
 * (cgroups(7), version 1 or 2).
 *
 * Its own limit and those of the groups above it count.  root is put before
 * /proc and /sys: "" but in tests.  ret_file: of the limit that was found. */
#ifndef BROKER_DAEMON_CGROUP_H
#define BROKER_DAEMON_CGROUP_H

#include <stdbool.h>

#include "base/base.h"

#define CGROUP_PATH_BYTES 4096u

/* The least limit of memory, in bytes; 0: none. */
uint64_t cgroup_memory(const char *root, char ret_file[CGROUP_PATH_BYTES]);
/* Whether processor time is rationed: who has used up a period's share does
 * not run for the rest of it. */
bool cgroup_rations_processor(const char *root,
			      char ret_file[CGROUP_PATH_BYTES]);

#endif
