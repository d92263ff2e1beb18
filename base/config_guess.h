/* base/config_guess.h: the known word closest to a mistyped one.
 * Private to base/config*.c.  Borrows every string that it is given. */
#ifndef BASE_CONFIG_GUESS_H
#define BASE_CONFIG_GUESS_H

#include "base/base.h"

/* best is the candidate closest to word when it is close; else NULL. */
struct config_guess {
	const char *word;
	const char *best;
	size_t best_len;
	unsigned best_distance;
};
void config_guess_init(struct config_guess *, const char *word);
void config_guess_offer(struct config_guess *, const char *candidate,
			size_t len);

#endif
