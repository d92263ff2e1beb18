/* base/config_guess.c: what an operator meant to type. */
#include "base/config_guess.h"

#include <string.h>

#define GUESS_WORD_MAX 64u

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;

	return m < c ? m : c;
}

/* Edit distance with swapped neighbours (optimal string alignment). */
static unsigned distance(const char *a, size_t a_len, const char *b,
			 size_t b_len)
{
	unsigned row[3][GUESS_WORD_MAX + 1];

	for (size_t j = 0; j <= b_len; j++)
		row[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned *now = row[i % 3], *above = row[(i - 1) % 3];
		const unsigned *over = row[(i + 1) % 3]; /* i - 2 */

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			unsigned cost = a[i - 1] != b[j - 1];

			now[j] = min3(above[j] + 1, now[j - 1] + 1,
				      above[j - 1] + cost);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
			    a[i - 2] == b[j - 1] && over[j - 2] + 1 < now[j])
				now[j] = over[j - 2] + 1;
		}
	}
	return row[a_len % 3][b_len];
}

void config_guess_init(struct config_guess *g, const char *word)
{
	size_t len = strlen(word);

	*g = (struct config_guess){
		.word = word,
		.best_distance = len < 4   ? 2
				 : len < 8 ? 3
					   : 4,
	};
}

void config_guess_offer(struct config_guess *g, const char *candidate,
			size_t len)
{
	size_t word_len = strlen(g->word);
	unsigned d;

	if (word_len > GUESS_WORD_MAX || len > GUESS_WORD_MAX)
		return;
	d = distance(g->word, word_len, candidate, len);
	if (d >= g->best_distance)
		return;
	g->best_distance = d;
	g->best = candidate;
	g->best_len = len;
}
