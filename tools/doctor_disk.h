/* tools/doctor_disk.h: what a durable write costs in a directory.
 * As the journal writes: one at a time, O_DIRECT where it is taken, into
 * blocks that have been written before. */
#ifndef TOOLS_DOCTOR_DISK_H
#define TOOLS_DOCTOR_DISK_H

#include <stdbool.h>

#include "base/io.h"

struct doctor_disk {
	bool direct;
	uint64_t small_p50_ns, small_p99_ns, small_mean_ns; /* 4 KiB */
	uint64_t large_p50_ns;				    /* 256 KiB */
	double large_bytes_per_second;
};

/* Takes about two seconds; the probe file is removed. */
MUST_CHECK int doctor_disk_measure(struct io *, const char *dir,
				   struct doctor_disk *ret);

#endif
