/* journal/log/check.c: one file, a little at a time: for scrubbing.
 *
 * Reads past the page cache, so that the disk is what is tested.  A read that
 * the disk refuses is damage like any other: it is narrowed down to the
 * blocks that cannot be had, and the rest is looked at all the same.
 *
 * In a closed segment the frames follow each other without a gap until
 * end_lsn.  Behind that there may be what a crash left unfinished, and the
 * zeros that the file was made with; neither was ever acknowledged. */
#include "base/crc32c.h"
#include "journal/log/blob.h"
#include "journal/log/internal.h"
#include "journal/log/verify.h"

#define CHECK_WINDOW_BYTES LOG_FRAME_BYTES_MAX
#define CHECK_DONE 1

/* Of a blob's header and of a chunk's: docs/format/blob.md. */
#define BLOB_AT_CRC 4092u
#define CHUNK_HEADER_BYTES (BLOB_CHUNK_STRIDE - BLOB_CHUNK_BYTES)

struct log_check {
	bool is_segment;
	uint64_t offset; /* everything before has been looked at */
	void (*found)(void *ctx, const struct log_damage *);
	void *ctx;

	/* a segment */
	struct log_scan scan;
	struct log_segment_header header;
	uint64_t lsn; /* of the next record; 0: not known */
	uint64_t end_lsn;
	bool end_is_exact, chained;
	uint8_t chain[LOG_CHAIN_BYTES];
	bool in_gap;
	uint64_t gap_offset;
	int gap_err;

	/* a blob */
	struct io_file *file;
	uint64_t size, bytes; /* as it is; as it should be, or 0 */
	uint8_t *window;
	bool last_seen, last_chunk_bad;
};

static void check_found(struct log_check *c, uint64_t offset, uint64_t bytes,
			int err)
{
	struct log_damage damage = {
		.offset = offset, .bytes = bytes, .err = err};

	c->found(c->ctx, &damage);
}

/* ---- segments ---- */

int log_check_segment(struct io *io, const char *dir, const uint8_t *cluster_id,
		      const struct log_segment_info *info, bool end_is_exact,
		      struct log_check **ret)
{
	struct log_check *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->is_segment = true;
	c->lsn = info->first_lsn;
	c->end_lsn = info->end_lsn;
	c->end_is_exact = end_is_exact;
	err = log_scan_open(&c->scan, io, dir, cluster_id, info->key, false);
	if (err) {
		free(c);
		return err;
	}
	c->scan.window_max = CHECK_WINDOW_BYTES;
	*ret = c;
	return 0;
}

/* Its key is in the header: without it nothing in the file can be read. */
static int segment_header(struct log_check *c)
{
	struct log_damage damage = {
		.bytes = c->scan.size,
		.first_lsn = c->lsn,
		.last_lsn = c->end_lsn ? c->end_lsn - 1 : 0,
	};
	uint8_t *raw = io_buffer_alloc(IO_BLOCK);
	size_t len;
	int err;

	if (!raw)
		return -ENOMEM;
	err = io_read(c->scan.file, raw, IO_BLOCK, 0, &len);
	if (!err && len < IO_BLOCK)
		err = -E_CORRUPT;
	if (!err)
		err = log_segment_header_decode(raw, &c->header);
	if (!err && (c->header.key != c->scan.key ||
		     memcmp(c->header.cluster_id, c->scan.cluster_id,
			    LOG_ID_BYTES) != 0))
		err = -E_CORRUPT;
	io_buffer_free(raw);
	if (err && err != -E_CORRUPT && err != -E_VERSION && err != -EIO)
		return err;
	c->offset = IO_BLOCK;
	if (!err)
		return 0;
	memset(&c->header, 0, sizeof(c->header));
	damage.err = err;
	c->found(c->ctx, &damage);
	return 0;
}

static void gap_begin(struct log_check *c, int err)
{
	c->in_gap = true;
	c->gap_offset = c->offset;
	c->gap_err = err;
	c->offset += IO_BLOCK;
}

/* f: the frame behind it; NULL: there is none. */
static void gap_end(struct log_check *c, const struct log_frame *f)
{
	struct log_damage damage = {
		.offset = c->gap_offset,
		.bytes = (f ? f->offset : c->scan.size) - c->gap_offset,
		.first_lsn = c->lsn,
		.err = c->gap_err,
		.only_if_live = !c->end_is_exact,
	};
	uint64_t next = f ? f->first_lsn : c->end_lsn;

	c->in_gap = false;
	if (next > c->lsn)
		damage.last_lsn = next - 1;
	if (f && f->durable_lsn > c->lsn)
		damage.only_if_live = false;
	c->found(c->ctx, &damage);
}

static int segment_gap(struct log_check *c, uint64_t bytes)
{
	uint64_t end = base_min(c->offset + bytes, c->scan.size);
	struct log_frame f;
	int err = log_scan_find_below(&c->scan, c->offset, end, &f);

	if (err == -EIO) {
		if (c->scan.narrow)
			c->offset += IO_BLOCK;
		c->scan.narrow = true;
		return 0;
	}
	if (err == -ENOENT) {
		c->offset = end;
		return 0;
	}
	/* A newer program's frame, where ours should be. */
	if (err == -E_VERSION) {
		c->offset += IO_BLOCK;
		return 0;
	}
	if (err)
		return err;
	gap_end(c, &f);
	c->offset = f.offset;
	c->lsn = f.first_lsn;
	c->chained = false;
	return 0;
}

static int segment_frame(struct log_check *c)
{
	struct log_frame f;
	const uint8_t *raw;
	int err = log_scan_frame(&c->scan, c->offset, &f, &raw);

	if (err == -EIO && !c->scan.narrow) {
		c->scan.narrow = true;
		return 0;
	}
	if (err == -E_CORRUPT || err == -E_VERSION || err == -EIO) {
		gap_begin(c, err == -EIO ? err : -E_CORRUPT);
		return 0;
	}
	if (err)
		return err;
	if ((c->header.key &&
	     memcmp(f.key_id, c->header.key_id, CRYPTO_KEY_ID_BYTES) != 0) ||
	    (c->lsn && f.first_lsn != c->lsn) ||
	    (c->chained && memcmp(f.prev_chain, c->chain, LOG_CHAIN_BYTES))) {
		struct log_damage damage = {
			.offset = f.offset,
			.bytes = f.stored_len,
			.first_lsn = f.first_lsn,
			.last_lsn = f.first_lsn + f.record_count - 1,
			.err = -E_CORRUPT,
		};

		c->found(c->ctx, &damage);
	}
	c->lsn = f.first_lsn + f.record_count;
	c->chained = true;
	memcpy(c->chain, f.chain, LOG_CHAIN_BYTES);
	c->offset += f.stored_len;
	return 0;
}

static int segment_step(struct log_check *c, uint64_t bytes)
{
	uint64_t start = c->offset;

	bytes = base_round_up(base_max(bytes, 1), IO_BLOCK);
	while (c->offset - start < bytes) {
		int err;

		if (!c->in_gap && c->end_lsn && c->lsn >= c->end_lsn)
			return CHECK_DONE;
		if (!c->offset) {
			err = segment_header(c);
		} else if (c->offset >= c->scan.size) {
			if (!c->in_gap)
				gap_begin(c, -E_CORRUPT);
			c->gap_offset = base_min(c->gap_offset, c->scan.size);
			gap_end(c, NULL);
			return CHECK_DONE;
		} else if (c->in_gap) {
			err = segment_gap(c, bytes);
		} else {
			err = segment_frame(c);
		}
		if (err)
			return err;
	}
	return 0;
}

/* ---- blobs ---- */

int log_check_blob(struct io *io, const char *path, uint64_t bytes,
		   struct log_check **ret)
{
	struct log_check *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->bytes = bytes;
	c->window = io_buffer_alloc(CHECK_WINDOW_BYTES);
	err = c->window ? io_open(io, path, IO_READ | IO_DIRECT, &c->file)
			: -ENOMEM;
	if (!err)
		err = io_size(c->file, &c->size);
	if (err) {
		log_check_free(c);
		return err;
	}
	*ret = c;
	return 0;
}

/* Makes [offset, offset + want) visible, fewer at the end of the file. */
static int blob_fill(struct log_check *c, uint64_t offset, uint64_t want,
		     const uint8_t **ret, size_t *ret_len)
{
	uint64_t start = offset & ~(uint64_t)(IO_BLOCK - 1);
	uint64_t skip = offset - start;
	size_t len;
	int err;

	want = base_min(base_round_up(skip + want, IO_BLOCK),
			CHECK_WINDOW_BYTES);
	err = io_read(c->file, c->window, want, start, &len);
	if (err)
		return err;
	*ret = c->window + skip;
	*ret_len = len > skip ? len - skip : 0;
	return 0;
}

static int blob_header(struct log_check *c)
{
	const uint8_t *raw;
	size_t len;
	int err = blob_fill(c, 0, BLOB_HEADER_BYTES, &raw, &len);

	if (!err &&
	    (len < BLOB_HEADER_BYTES || memcmp(raw, "HFBLOB\0", 8) ||
	     bytes_get32(raw + BLOB_AT_CRC) != crc32c(0, raw, BLOB_AT_CRC)))
		err = -E_CORRUPT;
	c->offset = BLOB_HEADER_BYTES;
	if (err == -E_CORRUPT || err == -EIO) {
		/* The key is in it. */
		check_found(c, 0, base_max(c->size, BLOB_HEADER_BYTES), err);
		err = 0;
	}
	return err;
}

/* One chunk, of which len bytes are at raw, all there are. */
static bool chunk_is_sound(struct log_check *c, const uint8_t *raw, size_t len)
{
	uint32_t body;
	bool last;

	if (log_blob_check_chunk(raw, len, &body, &last) ||
	    (last && c->offset + CHUNK_HEADER_BYTES + body != c->size))
		return false;
	c->last_seen = last;
	return true;
}

/* The chunks in the window; err: why there is none. */
static void blob_chunks(struct log_check *c, const uint8_t *raw, size_t len,
			int err)
{
	do {
		uint64_t left = c->size - c->offset;
		size_t here = base_min(left, BLOB_CHUNK_STRIDE);

		if (err || !chunk_is_sound(c, raw, base_min(here, len))) {
			check_found(c, c->offset, here, err ? err : -E_CORRUPT);
			c->last_chunk_bad = left <= BLOB_CHUNK_STRIDE;
		}
		c->offset += here;
		raw += base_min(here, len);
		len -= base_min(here, len);
	} while (!err && !c->last_seen && c->offset < c->size &&
		 len >= base_min(c->size - c->offset, BLOB_CHUNK_STRIDE));
}

static int blob_step(struct log_check *c, uint64_t bytes)
{
	const uint8_t *raw = NULL;
	size_t len = 0;
	int err;

	if (!c->offset)
		return blob_header(c);
	if (c->offset < c->size && !c->last_seen) {
		bytes = base_max(bytes, BLOB_CHUNK_STRIDE);
		err = blob_fill(c, c->offset, bytes, &raw, &len);
		if (err == -EIO)
			err = blob_fill(c, c->offset, BLOB_CHUNK_STRIDE, &raw,
					&len);
		if (err && err != -EIO)
			return err;
		blob_chunks(c, raw, len, err);
		return 0;
	}
	/* It ends with the chunk that says so, at the size that it had. */
	if (!c->last_seen && !c->last_chunk_bad)
		check_found(c, c->size,
			    c->bytes > c->size ? c->bytes - c->size : 0,
			    -E_CORRUPT);
	else if (c->bytes && c->bytes != c->size)
		check_found(c, base_min(c->bytes, c->size),
			    c->bytes > c->size ? c->bytes - c->size
					       : c->size - c->bytes,
			    -E_CORRUPT);
	return CHECK_DONE;
}

/* ---- both ---- */

int log_check_step(struct log_check *c, uint64_t bytes,
		   void (*found)(void *ctx, const struct log_damage *),
		   void *ctx, uint64_t *ret_bytes)
{
	uint64_t start = c->offset;
	int err;

	c->found = found;
	c->ctx = ctx;
	err = c->is_segment ? segment_step(c, bytes) : blob_step(c, bytes);
	if (err >= 0)
		*ret_bytes = c->offset - start;
	return err;
}

void log_check_free(struct log_check *c)
{
	if (!c)
		return;
	if (c->is_segment)
		log_scan_close(&c->scan);
	io_close(c->file);
	io_buffer_free(c->window);
	free(c);
}
