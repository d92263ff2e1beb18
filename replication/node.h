/* replication/node.h: which machine goes by which name to the NFS server.
 *
 * An NFSv4 server tells clients apart by one string, which Linux makes from the
 * host name and, when it is set, nfs4_unique_id.  A second machine with the
 * same string is taken for the first one after a restart, and the first one's
 * locks and open files are revoked.  Nothing reports that on either side, so
 * each broker keeps a file in the shared directory, nodes/<name of the client>,
 * that says which machine it is and changes every few seconds.  Who finds there
 * another machine, and sees the file change while it looks, has proof of a
 * living namesake.  What does not change is a machine that is gone, or this one
 * before it was rebooted, and is replaced: a stale file blocks nobody.
 *
 * A machine is its kernel's boot id: brokers in containers of one node are one
 * NFS client, rightly share a file, and a restarted broker finds its own.
 *
 * Format: docs/format/node.md.  Blocking; one thread at a time. */
#ifndef REPLICATION_NODE_H
#define REPLICATION_NODE_H

#include "base/io.h"
#include "base/mount.h"

#define NODE_BEAT_NS 2000000000ull
/* Two changes of a file that changes every NODE_BEAT_NS, and some more. */
#define NODE_WATCH_NS 7000000000ull
#define NODE_RECORD_BYTES IO_BLOCK

struct node {
	char client[384]; /* the string that the server knows it by */
	char host[72];
	char machine[48]; /* machine id; may be empty */
	char boot[48];
	uint64_t beat; /* differs from one writing to the next */
};

/* What this machine is to the server of this mount.  False when that cannot be
 * known from here: not NFS 4, or the process sees the host name of a container
 * and not the machine's. */
bool node_of(const struct mount *, const struct mount_host *, struct node *ret);

/* Exactly NODE_RECORD_BYTES. */
void node_encode(const struct node *, char *ret);
/* -E_CORRUPT: not a record, or half of one. */
MUST_CHECK int node_decode(const char *record, struct node *ret);

/* Puts self's file into dir, unless another machine has it and is seen to
 * change it twice within watch_ns: -E_EXISTS, and *ret_other is that machine.
 * Only in the presence of another machine's file does it take longer than a
 * few round trips. */
MUST_CHECK int node_claim(struct io *, const char *dir, struct node *self,
			  uint64_t watch_ns, struct node *ret_other);
/* Writes self's file once more.  *ret_found is what was there before: another
 * boot id means that a namesake has come, although it should have been
 * refused; its boot is "" when there was nothing to read. */
MUST_CHECK int node_beat(struct io *, const char *dir, struct node *self,
			 struct node *ret_found);

#endif
