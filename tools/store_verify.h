/* tools/store_verify.h: everything on a data directory's disk, checked.
 *
 * The journal, the checkpoints and the extent files; with the key also what
 * decrypts, that every file is there in which something queued lies, and whose
 * messages a damage concerns.  Nothing is written, no lock is taken. */
#ifndef TOOLS_STORE_VERIFY_H
#define TOOLS_STORE_VERIFY_H

#include "base/crypto.h"
#include "base/json.h"

/* key may be NULL.  *ret_report: a new reference: counts, "sound", and
 * "findings", each with "kind": "damage" or "torn" (harmless), "file",
 * "offset", "bytes", "lsn", "what"; and "queue", "queue_id", "priority",
 * "first_number", "last_number", "messages" when a damage is known to concern
 * them: one finding for each queue and priority.  Negative when it could not
 * look. */
MUST_CHECK int store_verify_report(struct io *, const char *dir,
				   const struct crypto_key *key,
				   json_t **ret_report);

#endif
