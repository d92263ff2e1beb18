/* base/err.h: one error convention from the kernel to the caller.
 *
 * A function that can fail returns 0 or a negative code: -errno, or minus one
 * of the project codes below, which lie above the errno range.  errno is read
 * once, at the system call.  Outputs (ret_*) are untouched on failure. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <errno.h>

enum err_code {
	E_CORRUPT = 4096, /* bytes that fail a checksum, tag or bound */
	E_FENCED,	  /* a later epoch has sealed our claim */
	E_KEY,		  /* the master key is not the one that was used */
	E_LATCHED,	  /* the journal failed earlier; nothing more is done */
	E_NO_SPACE,	  /* disk limit reached: publish later, consume now */
	E_LIMIT,	  /* a configured limit was reached */
	E_VERSION,	  /* a format newer than this program */
	E_CONFIG,	  /* the operator's configuration is wrong */
	E_NOT_FOUND,	  /* no such address or queue */
	E_REFUSED,	  /* not allowed for this user, or by policy */
	E_EXISTS,	  /* exists with other properties */
	E_LOST,		  /* acknowledged data is damaged or missing */
	E_CODE_END,
};

/* A short English phrase for a negative code; never NULL; static storage or
 * thread-local. */
const char *err_str(int err);

#endif
