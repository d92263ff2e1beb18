/* tools/histogram.h: latencies in logarithmic buckets.
 *
 * Values up to 2^7 are exact; above, each power of two has 128 buckets, so a
 * percentile is at most 0.8 % above the true value (the idea is HdrHistogram's;
 * G. Tene).  Fixed size, no allocation after creation. */
#ifndef TOOLS_HISTOGRAM_H
#define TOOLS_HISTOGRAM_H

#include "base/base.h"

#define HISTOGRAM_SUB_BITS 7u
#define HISTOGRAM_BUCKETS ((64u - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS)

struct histogram {
	uint64_t count, total, least, most;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_init(struct histogram *);
void histogram_add(struct histogram *, uint64_t value);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* The value that `fraction` (0 to 1) of all are not above; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *, double fraction);

#endif
