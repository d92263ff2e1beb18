/* tests/sim/index_twin.h: the store's index, in memory, with faults.
 *
 * Empty when made, as every index is.  What it is told to do wrong is drawn
 * from the world's seed. */
#ifndef TESTS_SIM_INDEX_TWIN_H
#define TESTS_SIM_INDEX_TWIN_H

#include "base/sim/sim.h"
#include "journal/store/index.h"

struct index_twin_faults {
	uint32_t full_ppm;    /* a put finds no space */
	uint32_t corrupt_ppm; /* what is got is damaged, and the process ends */
};

/* -ENOMEM */
MUST_CHECK int index_twin_create(struct sim *, const struct index_twin_faults *,
				 struct index **ret);
/* How often it has said -E_CORRUPT. */
uint64_t index_twin_corrupted(struct index *);
/* Entries in it. */
uint64_t index_twin_count(struct index *);

#endif
