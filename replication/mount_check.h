/* replication/mount_check.h: what a mount means for a broker's data directory.
 *
 * Pure: facts in, findings out.  What is refused is certain to break what the
 * broker relies on: that a lock is the server's, that a write is on disk when
 * it has returned, and that a look at a file's size reaches the server.  A
 * guess is a warning.  [any] thread. */
#ifndef REPLICATION_MOUNT_CHECK_H
#define REPLICATION_MOUNT_CHECK_H

#include "base/io.h"
#include "base/mount.h"

enum mount_severity { MOUNT_NOTE, MOUNT_WARN, MOUNT_REFUSE };

#define MOUNT_FINDINGS_MAX 20u
#define MOUNT_WHAT_BYTES 256u

struct mount_finding {
	enum mount_severity severity;
	const char *name;	     /* "soft": a short stable word */
	char what[MOUNT_WHAT_BYTES]; /* found here */
	const char *why;	     /* what it endangers */
	const char *todo;
};

struct mount_findings {
	struct mount_finding items[MOUNT_FINDINGS_MAX];
	unsigned count;
};

/* fs: of the same directory.  The findings come in no order of severity. */
void mount_check(const struct mount *, const struct mount_host *,
		 const struct io_fs *fs, struct mount_findings *ret);
unsigned mount_check_count(const struct mount_findings *, enum mount_severity);

/* Whether this machine's NFS client can have a name of its own only by its host
 * name, and that is one which any machine may have. */
bool mount_check_is_nameless(const struct mount_host *);

#endif
