/* bench/load/report.h: a result as one JSON object (bench/load/README.md). */
#ifndef BENCH_LOAD_REPORT_H
#define BENCH_LOAD_REPORT_H

#include "base/json.h"
#include "bench/load/load.h"

/* A new reference.  error: the sentence when the run failed, or NULL. */
json_t *report_make(const struct load_options *, const struct load_result *,
		    const char *error);
/* Was everything as it has to be?  False: confirmed messages are lost,
 * damaged, or delivered twice without saying so. */
bool report_is_clean(const struct load_options *, const struct load_result *);

#endif
