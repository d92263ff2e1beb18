/* base/err.c: phrases for error codes. */
#include "base/err.h"

#include <string.h>

#include "base/base.h"

static const char *const phrases[] = {
	[E_CORRUPT - E_CORRUPT] = "damaged data",
	[E_FENCED - E_CORRUPT] = "a later leader has taken over",
	[E_KEY - E_CORRUPT] = "wrong or unreadable master key",
	[E_LATCHED - E_CORRUPT] = "the journal has failed",
	[E_NO_SPACE - E_CORRUPT] = "disk limit reached",
	[E_LIMIT - E_CORRUPT] = "a configured limit was reached",
	[E_VERSION - E_CORRUPT] = "format newer than this program",
	[E_CONFIG - E_CORRUPT] = "invalid configuration",
	[E_NOT_FOUND - E_CORRUPT] = "not found",
	[E_REFUSED - E_CORRUPT] = "not allowed",
	[E_EXISTS - E_CORRUPT] = "exists with other properties",
	[E_LOST - E_CORRUPT] = "acknowledged data is damaged or missing",
};

_Static_assert(ARRAY_COUNT(phrases) == E_CODE_END - E_CORRUPT,
	       "every project code has a phrase");

const char *err_str(int err)
{
	static _Thread_local char unknown[32];
	const char *text;

	if (err <= -E_CORRUPT && err > -E_CODE_END)
		return phrases[-err - E_CORRUPT];
	if (err == 0)
		return "success";
	text = err < 0 && err > -E_CORRUPT ? strerrordesc_np(-err) : NULL;
	if (text)
		return text;
	snprintf(unknown, sizeof(unknown), "unknown error %d", err);
	return unknown;
}
