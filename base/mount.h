/* base/mount.h: what the kernel says of the mount that a directory lies on, and
 * of this machine as an NFS client.
 *
 * Facts only; what they mean for a broker is in replication/mount_check.h.
 * Everything is read from files below /proc, /sys and /etc; what is not there
 * is unknown, and never an error.  root is put before those names: "" but in
 * tests.  [any] thread; blocking; for start-up and tools.
 *
 * Sources: proc(5) (mountinfo, mountstats), nfs(5), module parameters of the
 * kernel's NFS client, and the kernel's client-identifier document. */
#ifndef BASE_MOUNT_H
#define BASE_MOUNT_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

#define MOUNT_PATH_BYTES 4096u

enum mount_known { MOUNT_UNKNOWN, MOUNT_NO, MOUNT_YES };

/* The options in force, as the kernel shows them (it leaves out "hard"). */
struct mount_nfs {
	unsigned major, minor; /* 0.0: not said */
	bool soft, softerr;
	bool softreval; /* a GETATTR that times out is answered from cache */
	bool nolock;
	char local_lock[16]; /* "none", "flock", "posix", "all"; "": not said */
	bool nocto, noac, nosharecache, udp;
	unsigned timeo_tenths, retrans;
	char clientaddr[64];
};

struct mount {
	bool found;
	uint64_t id;
	char type[32];
	char point[MOUNT_PATH_BYTES];  /* in this mount namespace */
	char source[MOUNT_PATH_BYTES]; /* "server:/export" */
	bool read_only;
	bool is_nfs;
	struct mount_nfs nfs; /* when is_nfs */
};

/* What is looked for in a mountinfo.  id: the mount's number (statx,
 * STATX_MNT_ID), exact when the kernel tells it; 0: go by path, the longest
 * mount point that covers it, the last of several on one point, which is the
 * one on top.  An id that the text does not have counts as 0. */
struct mount_key {
	uint64_t id;
	const char *path; /* absolute, without links and dots */
};

/* Finds key in the text of a mountinfo.  Lines that make no sense are skipped.
 * False: *ret is untouched. */
bool mount_parse(const char *text, size_t len, const struct mount_key *,
		 struct mount *ret);
/* The mount that dir, which must exist, lies on; found is false when nothing
 * says.  With a root, dir is an absolute path of that other system. */
void mount_read(const char *root, const char *dir, struct mount *ret);

struct mount_host {
	char name[72]; /* the host name */
	/* The name is the machine's own, and so the one that its NFS client
	 * uses, and not that of a container. */
	enum mount_known name_is_machines;
	char machine_id[48], boot_id[48]; /* "": unknown */
	char unique_id[128];		  /* nfs.nfs4_unique_id */
	char identifier[128];		  /* of this network namespace */
	enum mount_known recover_lost_locks;
};

void mount_host_read(const char *root, struct mount_host *ret);

/* How many calls of this operation ("GETATTR") the mount on point has sent to
 * its server so far, from the text of a mountstats.  False: it does not say. */
bool mount_stats_parse(const char *text, size_t len, const char *point,
		       const char *operation, uint64_t *ret_calls);
bool mount_stats_read(const char *root, const char *point,
		      const char *operation, uint64_t *ret_calls);

#endif
