/* tools/doctor_mount.h: the part of `holdfast doctor` that is about sharing a
 * directory: its mount, the index's place, and what the calls cost on which
 * leadership rests. */
#ifndef TOOLS_DOCTOR_MOUNT_H
#define TOOLS_DOCTOR_MOUNT_H

#include "base/io.h"
#include "base/mount.h"
#include "tools/doctor_trips.h"

enum doctor_verdict { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

/* Where findings go.  advice: what to do; NULL when it is ok. */
struct doctor_report {
	void (*say)(void *ctx, enum doctor_verdict, const char *what,
		    const char *advice, const char *found);
	/* The same for a measurement. */
	void (*say_trip)(void *ctx, enum doctor_verdict, const char *what,
			 const char *advice, const char *found,
			 const struct doctor_trip *);
	void *ctx;
};

void doctor_mount_explain(const struct doctor_report *, const struct mount *,
			  const struct mount_host *, const struct io_fs *);
/* index_dir: NULL for the one in data_dir. */
void doctor_mount_index(const struct doctor_report *, struct io *,
			const char *data_dir, const char *index_dir);
void doctor_mount_trips(const struct doctor_report *, const struct mount *,
			const struct doctor_trips *);

#endif
