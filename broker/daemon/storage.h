/* broker/daemon/storage.h: is the data directory's mount fit to be shared, and
 * is this machine's name its own.
 *
 * Thread: main; storage_open() starts a thread of its own where there is
 * something to keep up. */
#ifndef BROKER_DAEMON_STORAGE_H
#define BROKER_DAEMON_STORAGE_H

#include "base/io.h"

#include <stdbool.h>

struct storage;

struct storage_options {
	struct io *io;
	const char *dir; /* borrowed until storage_close(); exists */
	bool allow_unsafe;
	const char *root;	    /* before /proc and /sys: "" but in tests */
	uint64_t beat_ns, watch_ns; /* 0: those of replication/node.h */
};

/* Logs what it finds.  -E_CONFIG: the directory must not be used like this;
 * every reason has been logged in one message.  With allow_unsafe that is a
 * warning instead. */
MUST_CHECK int storage_open(const struct storage_options *,
			    struct storage **ret);
/* NULL-safe. */
void storage_close(struct storage *);

#endif
