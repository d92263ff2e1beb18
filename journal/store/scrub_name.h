/* journal/store/scrub_name.h: whose is what is damaged: private to the
 * scrubber. */
#ifndef JOURNAL_STORE_SCRUB_NAME_H
#define JOURNAL_STORE_SCRUB_NAME_H

#include "journal/log/verify.h"
#include "journal/store/store.h"

#define SCRUB_FOUND_MAX 64u /* places in one file; more are put together */

struct scrub_damaged {
	char file[sizeof(((struct store_damage *)0)->file)];
	uint64_t key; /* of a segment or extent file; 0: a checkpoint */
	struct log_damage found[SCRUB_FOUND_MAX];
	size_t count;
	size_t told; /* how many of them are damage */
};

/* [store] Reports each place once for every lane that has messages there, or
 * once without any. */
void scrub_name(struct store *, struct scrub_damaged *);

#endif
