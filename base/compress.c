/* base/compress.c: zstd with contexts that are made once and reused. */
#include "base/compress.h"

#include <zstd.h>
#include <zstd_errors.h>

struct compress {
	ZSTD_CCtx *pack;
	ZSTD_DCtx *unpack;
};

int compress_create(int level, struct compress **ret)
{
	struct compress *c;

	if (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel())
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->pack = ZSTD_createCCtx();
	c->unpack = ZSTD_createDCtx();
	if (!c->pack || !c->unpack ||
	    ZSTD_isError(ZSTD_CCtx_setParameter(
		    c->pack, ZSTD_c_compressionLevel, level))) {
		compress_free(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void compress_free(struct compress *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->pack);
	ZSTD_freeDCtx(c->unpack);
	free(c);
}

int compress_pack(struct compress *c, const void *in, size_t len, void *out,
		  size_t out_len, size_t *ret_len)
{
	size_t n;

	if (!out_len)
		return -ENOSPC;
	/* One byte less than there is: a result that saves nothing does not
	 * fit. */
	n = ZSTD_compress2(c->pack, out, out_len - 1, in, len);
	if (!ZSTD_isError(n)) {
		*ret_len = n;
		return 0;
	}
	if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall)
		return -ENOSPC;
	if (ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation)
		return -ENOMEM;
	return -EIO;
}

int compress_unpack(struct compress *c, const void *in, size_t len, void *out,
		    size_t out_len)
{
	size_t n = ZSTD_decompressDCtx(c->unpack, out, out_len, in, len);

	if (ZSTD_isError(n) &&
	    ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation)
		return -ENOMEM;
	if (ZSTD_isError(n) || n != out_len)
		return -E_CORRUPT;
	return 0;
}
