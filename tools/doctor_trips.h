/* tools/doctor_trips.h: what the small calls cost on which leadership rests,
 * and whether they reach the storage.  Each is tried for at most half a second.
 */
#ifndef TOOLS_DOCTOR_TRIPS_H
#define TOOLS_DOCTOR_TRIPS_H

#include <stdbool.h>

#include "base/io.h"

struct doctor_trip {
	uint64_t p50_ns, p99_ns;
	uint64_t count;
};

struct doctor_trips {
	struct doctor_trip lock;   /* OFD lock and unlock */
	struct doctor_trip check;  /* the size of an open file, asked anew */
	struct doctor_trip create; /* a new file, O_EXCL */
	struct doctor_trip seal;   /* a short durable append */
	bool counted;		   /* check_calls is known */
	uint64_t check_calls;	   /* READs sent while checking */
};

/* In files that it makes in dir and removes.  point: the mount point of dir
 * when that is NFS, whose calls are then counted; else NULL.  An error names
 * the call that failed in *ret_what. */
MUST_CHECK int doctor_trips_measure(struct io *, const char *dir,
				    const char *point, struct doctor_trips *ret,
				    const char **ret_what);

#endif
