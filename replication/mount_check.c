/* replication/mount_check.c: see mount_check.h. */
#include "replication/mount_check.h"

#include <stdarg.h>
#include <string.h>

/* Longer than this, the first request after a cut of the network may wait
 * for a minute after the network is back. */
#define TIMEO_TENTHS_MAX 150u

static void add(struct mount_findings *f, struct mount_finding finding,
		const char *format, ...) PRINTF_LIKE(3, 4);
static void add(struct mount_findings *f, struct mount_finding finding,
		const char *format, ...)
{
	va_list args;

	ASSERT(f->count < MOUNT_FINDINGS_MAX);
	va_start(args, format);
	vsnprintf(finding.what, sizeof(finding.what), format, args);
	va_end(args);
	f->items[f->count++] = finding;
}

#define ADD(f, severity_, name_, why_, todo_, ...)                             \
	add(f,                                                                 \
	    (struct mount_finding){.severity = (severity_),                    \
				   .name = (name_),                            \
				   .why = (why_),                              \
				   .todo = (todo_)},                           \
	    __VA_ARGS__)

/* ---- NFS ---- */

static void check_version(const struct mount_nfs *n, struct mount_findings *f)
{
	if (!n->major)
		ADD(f, MOUNT_WARN, "version",
		    "below 4.1 there are no sessions, so a request that is "
		    "repeated may be carried out twice",
		    "mount with vers=4.2 or vers=4.1",
		    "the NFS version cannot be seen");
	else if (n->major < 4)
		ADD(f, MOUNT_REFUSE, "version",
		    "there the locks of a node that has died are never given "
		    "up, and a repeated request may be carried out twice",
		    "mount with vers=4.2 or vers=4.1",
		    "NFS version %u, older than 4.1", n->major);
	else if (n->major == 4 && n->minor < 1)
		ADD(f, MOUNT_REFUSE, "version",
		    "it has no sessions, so a request that is repeated after "
		    "a lost answer may be carried out twice",
		    "mount with vers=4.2 or vers=4.1",
		    "NFS version %u.%u, older than 4.1", n->major, n->minor);
}

static void check_soft(const struct mount_nfs *n, struct mount_findings *f)
{
	if (n->soft || n->softerr)
		ADD(f, MOUNT_REFUSE, "soft",
		    "a write that times out is reported as failed, and the "
		    "server may still carry it out later; nfs(5) warns of "
		    "silent corruption",
		    "mount with hard", "mounted %s",
		    n->soft ? "soft" : "softerr");
	if (n->softreval)
		ADD(f, MOUNT_REFUSE, "softreval",
		    "a question that the server does not answer in time is "
		    "answered from this node's cache, and that is how the "
		    "broker would learn that another one has taken over",
		    "mount with hard and without softreval",
		    "mounted softreval");
}

static void check_locks(const struct mount_nfs *n, const struct mount_host *h,
			struct mount_findings *f)
{
	const char *local = n->local_lock;

	if (n->nolock)
		ADD(f, MOUNT_REFUSE, "nolock",
		    "locks are then known to this node alone, so brokers on "
		    "two nodes each get the lock",
		    "mount without nolock", "mounted nolock");
	if (!strcmp(local, "flock"))
		ADD(f, MOUNT_REFUSE, "local_lock",
		    "flock(2) is then known to this node alone, and nothing "
		    "here needs that",
		    "mount without local_lock", "mounted local_lock=flock");
	else if (local[0] && strcmp(local, "none") != 0)
		ADD(f, MOUNT_REFUSE, "local_lock",
		    "locks are then known to this node alone, so brokers on "
		    "two nodes each get the lock",
		    "mount without local_lock", "mounted local_lock=%s", local);
	if (h->recover_lost_locks == MOUNT_YES)
		ADD(f, MOUNT_REFUSE, "recover_lost_locks",
		    "a lock that the server gave to another node is then "
		    "taken again without a word",
		    "set nfs.recover_lost_locks=0 (/etc/modprobe.d, or the "
		    "kernel's command line) and mount again",
		    "the kernel's NFS client has recover_lost_locks=1");
}

bool mount_check_is_nameless(const struct mount_host *h)
{
	static const char *const common[] = {"", "(none)", "localhost",
					     "localhost4", "localhost6"};

	if (h->unique_id[0] || h->identifier[0])
		return false;
	for (size_t i = 0; i < ARRAY_COUNT(common); i++) {
		if (!strcmp(h->name, common[i]))
			return true;
	}
	return !strncmp(h->name, "localhost.", 10);
}

/* RFC 8881, section 2.4: a server takes clients with one owner string for one
 * client that has started anew, and forgets what the first one held. */
static void check_identity(const struct mount_host *h, struct mount_findings *f)
{
	static const char why[] =
		"the server tells NFS clients apart by this name; two nodes "
		"with one name are one client to it, and each revokes the "
		"other's locks and open files";

	if (h->unique_id[0] || h->identifier[0])
		return;
	if (h->name_is_machines != MOUNT_YES)
		ADD(f, MOUNT_NOTE, "identity", why,
		    "make sure that the nodes have different host names, or "
		    "set nfs.nfs4_unique_id on each",
		    "this process has a host name of its own (%.64s), so the "
		    "node's, which its NFS client uses, cannot be seen",
		    h->name);
	else if (mount_check_is_nameless(h))
		ADD(f, MOUNT_REFUSE, "identity", why,
		    "give the node a host name of its own, or set "
		    "nfs.nfs4_unique_id, and mount again",
		    "the host name is \"%.64s\" and nfs.nfs4_unique_id is not "
		    "set",
		    h->name);
}

static void check_comfort(const struct mount_nfs *n, struct mount_findings *f)
{
	if (n->udp)
		ADD(f, MOUNT_WARN, "udp",
		    "a datagram that comes late can be taken for another's "
		    "answer",
		    "mount with proto=tcp", "mounted over UDP");
	if (n->nocto)
		ADD(f, MOUNT_WARN, "nocto",
		    "a file that another node has written may be read from "
		    "an old cache after it is opened",
		    "mount without nocto", "mounted nocto");
	if (n->noac)
		ADD(f, MOUNT_NOTE, "noac",
		    "it makes every look at a file a round trip; the broker "
		    "asks the server itself where that matters",
		    "mount without noac", "mounted noac");
	if (n->nosharecache)
		ADD(f, MOUNT_NOTE, "nosharecache",
		    "two mounts of the export on this node then cache apart",
		    "mount without nosharecache, unless something else needs "
		    "it",
		    "mounted nosharecache");
	if (n->timeo_tenths > TIMEO_TENTHS_MAX)
		ADD(f, MOUNT_NOTE, "timeo",
		    "after a cut of the network the first request may wait "
		    "for a minute although the network is back",
		    "timeo=50,retrans=2 makes it seconds; with hard nothing "
		    "is given up sooner",
		    "timeo=%u, in tenths of a second", n->timeo_tenths);
}

static void check_nfs(const struct mount *m, const struct mount_host *h,
		      struct mount_findings *f)
{
	check_version(&m->nfs, f);
	check_soft(&m->nfs, f);
	check_locks(&m->nfs, h, f);
	if (m->nfs.major >= 4)
		check_identity(h, f);
	check_comfort(&m->nfs, f);
	ADD(f, MOUNT_NOTE, "export",
	    "a server that exports async confirms writes that are only in its "
	    "memory, and loses them with its power",
	    "make sure that the server exports it sync",
	    "whether the server writes before it answers cannot be seen from "
	    "here");
}

/* ---- others ---- */

static void check_other(const struct mount *m, const struct io_fs *fs,
			struct mount_findings *f)
{
	if (fs->network)
		ADD(f, MOUNT_WARN, "network",
		    "the broker needs that a write is on disk when it has "
		    "returned, that O_EXCL is exclusive among nodes, and that "
		    "a look at a size reaches the server; it is tried on NFS "
		    "4.1 and 4.2, and on local disks",
		    "keep to one node here, or use NFS", "%s",
		    m->found ? m->type : fs->name);
	else if (!strcmp(fs->name, "tmpfs") || !strcmp(fs->name, "ramfs"))
		ADD(f, MOUNT_WARN, "memory",
		    "nothing in it survives a restart of the machine",
		    "put the data directory on a disk", "%s", fs->name);
	else if (!strcmp(fs->name, "overlay"))
		ADD(f, MOUNT_WARN, "overlay", "it goes away with the container",
		    "mount a volume for the data directory",
		    "the container's own layer (overlay)");
}

void mount_check(const struct mount *m, const struct mount_host *h,
		 const struct io_fs *fs, struct mount_findings *ret)
{
	ret->count = 0;
	if (m->found && m->read_only)
		ADD(ret, MOUNT_REFUSE, "read-only",
		    "the broker cannot write there", "mount with rw",
		    "mounted read-only");
	if (m->is_nfs)
		check_nfs(m, h, ret);
	else if (!m->found && !strcmp(fs->name, "nfs"))
		ADD(ret, MOUNT_WARN, "unseen",
		    "whether it is mounted hard, with locks of the server and "
		    "with version 4.1 or later, is not known",
		    "let the broker see /proc/self/mountinfo, or check the "
		    "options by hand",
		    "NFS, with options that cannot be seen");
	else
		check_other(m, fs, ret);
}

unsigned mount_check_count(const struct mount_findings *f,
			   enum mount_severity severity)
{
	unsigned n = 0;

	for (unsigned i = 0; i < f->count; i++)
		n += f->items[i].severity == severity;
	return n;
}
