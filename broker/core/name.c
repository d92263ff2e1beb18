/* Names of addresses and queues, and the patterns that rules match them by.
 * Pure functions. */
#include <string.h>

#include "broker/core/internal.h"

static bool name_take_prefix(const char **text, const char *prefix)
{
	size_t len = strlen(prefix);

	if (strncmp(*text, prefix, len) != 0)
		return false;
	*text += len;
	return true;
}

static int name_copy(char *to, const char *from, size_t len)
{
	if (len == 0 || len > RECORD_NAME_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)from[i] < 0x20 || from[i] == 0x7f)
			return -EINVAL;
	memcpy(to, from, len);
	to[len] = '\0';
	return 0;
}

int name_parse(const char *text, struct name_parts *ret)
{
	const char *colons;
	struct name_parts parts = {0};
	int err;

	if (name_take_prefix(&text, "queue://"))
		parts.routing = RECORD_ANYCAST;
	else if (name_take_prefix(&text, "topic://"))
		parts.routing = RECORD_MULTICAST;
	colons = strstr(text, "::");
	if (colons) {
		err = name_copy(parts.queue, colons + 2, strlen(colons + 2));
		if (err)
			return err;
		err = name_copy(parts.address, text, (size_t)(colons - text));
	} else {
		err = name_copy(parts.address, text, strlen(text));
	}
	if (err)
		return err;
	*ret = parts;
	return 0;
}

static size_t word_len(const char *s)
{
	return strcspn(s, ".");
}

/* Backtracks only to the last '#', so that the time is bounded by the product
 * of the two lengths. */
bool name_match(const char *pattern, const char *name)
{
	const char *star = NULL, *resume = NULL;
	bool name_done = false;

	for (;;) {
		size_t p = word_len(pattern), n = word_len(name);
		bool pattern_done = *pattern == '\0';

		if (p == 1 && pattern[0] == '#') {
			if (pattern[1] == '\0')
				return true;
			star = pattern + 2;
			resume = name;
			pattern = star;
			continue;
		}
		if (name_done) {
			if (pattern_done)
				return true;
			return false;
		}
		if (!pattern_done && ((p == 1 && pattern[0] == '*') ||
				      (p == n && !memcmp(pattern, name, n)))) {
			bool pattern_ends = pattern[p] == '\0';
			bool name_ends = name[n] == '\0';

			if (pattern_ends && name_ends)
				return true;
			if (!pattern_ends) {
				pattern += p + 1;
				if (name_ends)
					name_done = true;
				else
					name += n + 1;
				continue;
			}
		}
		if (!star)
			return false;
		n = word_len(resume);
		if (resume[n] == '\0')
			return false;
		resume += n + 1;
		name = resume;
		pattern = star;
	}
}

static int word_rank(const char *word, size_t len)
{
	if (len == 0)
		return 0;
	if (len == 1 && word[0] == '#')
		return 1;
	if (len == 1 && word[0] == '*')
		return 2;
	return 3;
}

int name_compare(const char *a, const char *b)
{
	for (;;) {
		size_t al = word_len(a), bl = word_len(b);
		int difference = word_rank(a, al) - word_rank(b, bl);

		if (difference)
			return difference;
		if (a[al] == '\0' || b[bl] == '\0')
			return (a[al] != '\0') - (b[bl] != '\0');
		a += al + 1;
		b += bl + 1;
	}
}
