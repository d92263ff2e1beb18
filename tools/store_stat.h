/* tools/store_stat.h: how much of a data directory's disk holds what. */
#ifndef TOOLS_STORE_STAT_H
#define TOOLS_STORE_STAT_H

#include "base/crypto.h"
#include "base/json.h"

/* A new reference: counts of what is queued, files and their bytes, and
 * "amplification": bytes on disk for each byte of a live message (null when
 * there is none).  Names as in GET /api/v1/store where they mean the same.
 * Negative when it could not look. */
MUST_CHECK int store_stat_report(struct io *, const char *dir,
				 const struct crypto_key *key, json_t **ret);

#endif
