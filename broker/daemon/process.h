/* broker/daemon/process.h: what the kernel gives this process. */
#ifndef BROKER_DAEMON_PROCESS_H
#define BROKER_DAEMON_PROCESS_H

#include "broker/daemon/settings.h"

/* Room for limits.connections descriptors, or a warning. */
void process_raise_file_limit(const struct settings *);
/* As set, or one for each processor that we may run on; at most `most`. */
unsigned process_shard_count(const struct settings *, unsigned most);

#endif
