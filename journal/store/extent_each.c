/* journal/store/extent_each.c: an extent file, read from end to end.
 *
 * The file is taken to be damaged anywhere.  A chunk either opens, and then
 * its bytes are what was written, or it does not, and then what touches it is
 * left out.  The table at the end says where to go on behind a run whose head
 * is lost; when the table itself is lost, the heads lead from one to the
 * next. */
#include <string.h>

#include "base/bytes.h"
#include "journal/store/extent_format.h"

#define NO_CHUNK UINT32_MAX

struct walk {
	const struct extent_visit *visit;
	struct io_file *file;
	struct blob_keys *keys;
	uint64_t stream_bytes;
	bool damaged;
	/* The last chunk that was opened. */
	uint32_t chunk, chunk_len;
	uint8_t *raw, *plain;
	/* The run that is being told. */
	struct extent_head head;
	uint64_t offset;
	uint8_t *message;
	bool stopped; /* by a visit, or an error that is not damage */
};

/* Brings a chunk; -E_CORRUPT when it does not open. */
static int walk_chunk(struct walk *w, uint32_t index)
{
	size_t got;
	int err;

	if (w->chunk == index)
		return 0;
	w->chunk = NO_CHUNK;
	err = io_read(w->file, w->raw, BLOB_CHUNK_STRIDE,
		      blob_chunk_offset(index), &got);
	if (!err)
		err = blob_open_chunk(w->keys, index, w->raw, got, w->plain,
				      &w->chunk_len);
	if (!err)
		w->chunk = index;
	return err;
}

/* Bytes of the stream; -E_CORRUPT when any of them cannot be had. */
static int walk_read(struct walk *w, uint64_t offset, void *buf, size_t len)
{
	uint8_t *p = buf;

	if (offset + len > w->stream_bytes)
		return -E_CORRUPT;
	while (len) {
		uint32_t at = (uint32_t)(offset % BLOB_CHUNK_BYTES);
		size_t n = base_min(len, BLOB_CHUNK_BYTES - at);
		int err = walk_chunk(w, (uint32_t)(offset / BLOB_CHUNK_BYTES));

		if (err)
			return err;
		if (at + n > w->chunk_len)
			return -E_CORRUPT;
		memcpy(p, w->plain + at, n);
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* Damage is noted and passed over; other errors end the walk. */
static int pass_over(struct walk *w, int err)
{
	/* A sector that cannot be read harms what lies in it, no more. */
	if (err != -E_CORRUPT && err != -EIO)
		return err;
	w->damaged = true;
	return 0;
}

static int tell_message(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct extent_message m;
	struct walk *w = ctx;
	int err;

	err = walk_read(w, w->offset + offset, w->message, bytes);
	if (!err)
		err = extent_read_message(&w->head, at, w->message, bytes, &m);
	if (err)
		err = pass_over(w, err);
	else if (w->visit->message)
		err = w->visit->message(w->visit->ctx, w->head.queue, &m);
	w->stopped = err != 0;
	return err;
}

static int tell_run(struct walk *w, uint64_t offset, const uint8_t *head,
		    uint64_t *ret_next)
{
	uint8_t *index;
	int err = extent_read_head(head, EXTENT_HEAD_BYTES, &w->head);

	if (err)
		return pass_over(w, err);
	*ret_next = offset + w->head.bytes;
	w->offset = offset;
	index = malloc(w->head.index_bytes + 1);
	if (!index)
		return -ENOMEM;
	err = walk_read(w, offset + EXTENT_HEAD_BYTES, index,
			w->head.index_bytes);
	if (!err)
		err = extent_read_index(&w->head, index, tell_message, w);
	if (err && !w->stopped)
		err = pass_over(w, err);
	free(index);
	return err;
}

static int tell_piece(struct walk *w, uint64_t offset, const uint8_t *head,
		      uint64_t *ret_next)
{
	uint32_t stored_len = bytes_get32(head + AT_PIECE_STORED);
	uint32_t body_len = bytes_get32(head + AT_PIECE_BODY);
	int err;

	if (body_len > LOG_RECORD_BYTES_MAX || stored_len > body_len ||
	    bytes_get64(head + AT_PIECE_ZERO))
		return pass_over(w, -E_CORRUPT);
	*ret_next = offset + EXTENT_HEAD_BYTES + stored_len;
	err = walk_read(w, offset + EXTENT_HEAD_BYTES, w->message, stored_len);
	if (err)
		return pass_over(w, err);
	return w->visit->piece
		       ? w->visit->piece(w->visit->ctx,
					 bytes_get64(head + AT_PIECE_UPLOAD),
					 bytes_get32(head + AT_PIECE_INDEX),
					 body_len, w->message, stored_len)
		       : 0;
}

/* *ret_next is where the next one begins; 0 when that is not known. */
static int tell_item(struct walk *w, uint64_t offset, uint64_t *ret_next)
{
	uint8_t head[EXTENT_HEAD_BYTES];
	int err = walk_read(w, offset, head, sizeof(head));

	*ret_next = 0;
	if (err)
		return pass_over(w, err);
	if (bytes_get32(head + AT_HEAD_MAGIC) == EXTENT_PIECE_MAGIC)
		return tell_piece(w, offset, head, ret_next);
	return tell_run(w, offset, head, ret_next);
}

/* The table of a file in order.  *ret is NULL when it cannot be had, and then
 * *ret_end the end of what may be runs and pieces. */
static int read_table(struct walk *w, uint32_t **ret, uint32_t *ret_count,
		      uint64_t *ret_end)
{
	uint8_t footer[EXTENT_FOOTER_BYTES];
	uint64_t at = w->stream_bytes - sizeof(footer);
	uint32_t *table, count;
	int err;

	*ret = NULL;
	*ret_end = w->stream_bytes;
	if (w->stream_bytes < sizeof(footer))
		return pass_over(w, -E_CORRUPT);
	err = walk_read(w, at, footer, sizeof(footer));
	if (err)
		return pass_over(w, err);
	count = bytes_get32(footer + AT_FOOTER_COUNT);
	if (bytes_get32(footer + AT_FOOTER_MAGIC) != EXTENT_FOOTER_MAGIC ||
	    bytes_get32(footer + AT_FOOTER_ZERO) ||
	    count > 2 * RECORD_RUN_MAX ||
	    bytes_get32(footer + AT_FOOTER_TABLE) + 4ull * count != at)
		return pass_over(w, -E_CORRUPT);
	*ret_end = at - 4ull * count;
	table = malloc(4ull * count + 1);
	if (!table)
		return -ENOMEM;
	err = walk_read(w, *ret_end, table, 4ull * count);
	if (err) {
		free(table);
		return pass_over(w, err);
	}
	for (uint32_t i = 0; i < count; i++)
		table[i] = bytes_get32(&table[i]);
	*ret = table;
	*ret_count = count;
	return 0;
}

static int walk_items(struct walk *w)
{
	uint64_t end, next = 0;
	uint32_t *table, count = 0;
	int err = read_table(w, &table, &count, &end);

	for (uint32_t i = 0; table && i < count && !err; i++) {
		/* What lies between two heads is not explained by them. */
		if (next && next != table[i])
			err = pass_over(w, -E_CORRUPT);
		if (!err)
			err = tell_item(w, table[i], &next);
	}
	if (table && next && next != end && !err)
		err = pass_over(w, -E_CORRUPT);
	/* The end is not known exactly: the table is not a head. */
	for (uint64_t at = 0; !table && at < end && !err; at = next) {
		err = tell_item(w, at, &next);
		if (!next)
			break;
	}
	free(table);
	return err;
}

static int walk_open(struct walk *w, const struct blob_identity *id,
		     const char *path)
{
	uint64_t size, whole, rest;
	int err = io_open(id->io, path, IO_READ, &w->file);

	if (!err)
		err = io_size(w->file, &size);
	if (!err)
		err = blob_keys_open(id, path, EXTENT_KIND, &w->keys);
	if (err)
		return err;
	size = size > BLOB_HEADER_BYTES ? size - BLOB_HEADER_BYTES : 0;
	whole = size / BLOB_CHUNK_STRIDE;
	rest = size % BLOB_CHUNK_STRIDE;
	w->stream_bytes = whole * BLOB_CHUNK_BYTES;
	rest -= base_min(rest, BLOB_CHUNK_STRIDE - BLOB_CHUNK_BYTES);
	w->stream_bytes += rest;
	w->chunk = NO_CHUNK;
	w->raw = malloc(BLOB_CHUNK_STRIDE);
	w->plain = malloc(BLOB_CHUNK_BYTES);
	w->message = malloc(EXTENT_RUN_BYTES);
	return w->raw && w->plain && w->message ? 0 : -ENOMEM;
}

int extent_each(const struct blob_identity *id, const char *path,
		const struct extent_visit *visit)
{
	struct walk w = {.visit = visit};
	int err = walk_open(&w, id, path);

	if (!err)
		err = walk_items(&w);
	io_close(w.file);
	blob_keys_free(w.keys);
	free(w.raw);
	if (w.plain)
		crypto_zero(w.plain, BLOB_CHUNK_BYTES);
	if (w.message)
		crypto_zero(w.message, EXTENT_RUN_BYTES);
	free(w.plain);
	free(w.message);
	return err ? err : w.damaged ? -E_CORRUPT : 0;
}
