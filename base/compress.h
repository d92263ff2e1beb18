/* base/compress.h: the only user of zstd.
 * A struct compress belongs to one thread. */
#ifndef BASE_COMPRESS_H
#define BASE_COMPRESS_H

#include "base/base.h"
#include "base/err.h"

struct compress;
MUST_CHECK int compress_create(int level, struct compress **ret);
void compress_free(struct compress *);
/* Into out of out_len bytes.  *ret_len is the size used.  -ENOSPC when the
 * result would not be smaller than out_len: the caller stores it plain. */
MUST_CHECK int compress_pack(struct compress *, const void *in, size_t len,
			     void *out, size_t out_len, size_t *ret_len);
/* out_len is the exact expanded size; anything else is -E_CORRUPT. */
MUST_CHECK int compress_unpack(struct compress *, const void *in, size_t len,
			       void *out, size_t out_len);

#endif
