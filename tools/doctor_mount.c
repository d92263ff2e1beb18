/* tools/doctor_mount.c: see doctor_mount.h. */
#include "tools/doctor_mount.h"

#include <inttypes.h>
#include <string.h>

#include "journal/store/index.h"
#include "replication/mount_check.h"
#include "replication/node.h"
#include "tools/output.h"

/* Above these a call is slow, in words. */
#define LOCK_SLOW_NS 100000000ull
#define CHECK_SLOW_NS 10000000ull
#define CREATE_SLOW_NS 100000000ull
#define SEAL_SLOW_NS 100000000ull

static void say_point(const struct doctor_report *r, const struct mount *m)
{
	char found[900], version[24] = "";

	if (m->is_nfs && m->nfs.major)
		snprintf(version, sizeof(version), ", version %u.%u",
			 m->nfs.major, m->nfs.minor);
	snprintf(found, sizeof(found), "%s on %.400s, from %.400s%s", m->type,
		 m->point, m->source, version);
	r->say(r->ctx, DOCTOR_OK, "mount", NULL, found);
}

static void say_client(const struct doctor_report *r, const struct mount *m,
		       const struct mount_host *h)
{
	struct node n;
	char found[512];

	if (!node_of(m, h, &n))
		return;
	snprintf(found, sizeof(found),
		 "the server knows this machine as \"%s\"; no other may have "
		 "that name",
		 n.client);
	r->say(r->ctx, DOCTOR_OK, "NFS client", NULL, found);
}

void doctor_mount_explain(const struct doctor_report *r, const struct mount *m,
			  const struct mount_host *h, const struct io_fs *fs)
{
	static const enum doctor_verdict verdicts[] = {
		[MOUNT_NOTE] = DOCTOR_OK,
		[MOUNT_WARN] = DOCTOR_WARN,
		[MOUNT_REFUSE] = DOCTOR_FAIL,
	};
	struct mount_findings findings;
	char found[640];

	if (m->found)
		say_point(r, m);
	say_client(r, m, h);
	mount_check(m, h, fs, &findings);
	for (unsigned i = 0; i < findings.count; i++) {
		const struct mount_finding *f = &findings.items[i];

		/* The line about the file system says it already. */
		if (!strcmp(f->name, "memory"))
			continue;
		if (f->severity == MOUNT_NOTE)
			snprintf(found, sizeof(found), "%s: %s; %s", f->what,
				 f->why, f->todo);
		else
			snprintf(found, sizeof(found), "%s: %s", f->what,
				 f->why);
		r->say(r->ctx, verdicts[f->severity], f->name, f->todo, found);
	}
}

void doctor_mount_index(const struct doctor_report *r, struct io *io,
			const char *data_dir, const char *index_dir)
{
	char dir[4096], found[4500];
	struct io_fs fs;
	int err;

	if (index_dir)
		snprintf(dir, sizeof(dir), "%s", index_dir);
	else
		snprintf(dir, sizeof(dir), "%s/index", data_dir);
	err = io_fs_info(io, dir, &fs);
	if (err == -ENOENT) {
		/* The broker makes the last part of the path. */
		char *slash = strrchr(dir, '/');
		char parent[4096];

		snprintf(parent, sizeof(parent), "%.*s",
			 slash ? (int)base_max(slash - dir, 1) : 1,
			 slash ? dir : ".");
		err = io_fs_info(io, parent, &fs);
	}
	if (err) {
		snprintf(found, sizeof(found), "%s: %s", dir, err_str(err));
		r->say(r->ctx, DOCTOR_FAIL, "index dir",
		       "set index_dir to a directory on a disk of this node",
		       found);
	} else if (index_lmdb_refuses(&fs, dir, found, sizeof(found))) {
		r->say(r->ctx, DOCTOR_FAIL, "index dir",
		       "set index_dir (here --index-dir) to a directory of "
		       "this node",
		       found);
	} else {
		snprintf(found, sizeof(found), "%s, %s", dir, fs.name);
		r->say(r->ctx, DOCTOR_OK, "index dir", NULL, found);
	}
}

/* ---- round trips ---- */

static void say_trip(const struct doctor_report *r, const char *what,
		     const struct doctor_trip *trip, uint64_t slow_ns,
		     const char *consequence, const char *advice)
{
	bool slow = trip->p50_ns > slow_ns;
	char a[32], b[32], found[400];

	snprintf(found, sizeof(found), "%s (p99 %s), %s: %s",
		 output_duration(a, sizeof(a), trip->p50_ns),
		 output_duration(b, sizeof(b), trip->p99_ns),
		 slow ? "slow" : "good", consequence);
	r->say_trip(r->ctx, slow ? DOCTOR_WARN : DOCTOR_OK, what,
		    slow ? advice : NULL, found, trip);
}

static void say_reach(const struct doctor_report *r,
		      const struct doctor_trips *t)
{
	char found[256];

	if (!t->counted) {
		r->say(r->ctx, DOCTOR_WARN, "check reach",
		       "let this command see /proc/self/mountstats",
		       "how many of the checks reached the server cannot be "
		       "counted");
		return;
	}
	snprintf(found, sizeof(found),
		 "%" PRIu64 " checks sent %" PRIu64 " READs to the server",
		 t->check.count, t->check_calls);
	/* Others may have asked, too; but none may be missing. */
	r->say(r->ctx,
	       t->check_calls < t->check.count ? DOCTOR_FAIL : DOCTOR_OK,
	       "check reach",
	       "some are answered from a cache, so a broker that was "
	       "superseded would go on; use another kernel or file system",
	       found);
}

void doctor_mount_trips(const struct doctor_report *r, const struct mount *m,
			const struct doctor_trips *t)
{
	static const char closer[] =
		"use storage that is closer, or a faster network";

	say_trip(r, "claim check", &t->check, CHECK_SLOW_NS,
		 "every confirmation waits for one after its write", closer);
	if (m->is_nfs)
		say_reach(r, t);
	say_trip(r, "lock", &t->lock, LOCK_SLOW_NS,
		 "a start and a take-over wait for a few", closer);
	say_trip(r, "new file", &t->create, CREATE_SLOW_NS,
		 "a take-over waits for one, and the next segment is made "
		 "ahead of time",
		 closer);
	say_trip(r, "seal", &t->seal, SEAL_SLOW_NS,
		 "a take-over waits for one for each broker before it", closer);
}
