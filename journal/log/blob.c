/* journal/log/blob.c: write-once encrypted files beside the log.
 *
 * A blob is a header block and a row of chunks, each with its length, CRC and
 * tag; the last chunk says that it is the last.  The data key is fresh and
 * wrapped in the header; a chunk's nonce is its offset in the file, and its
 * additional data bind it to the header, its place and its length.  The hash
 * is over the header and the chunks' headers: they hold a CRC and a tag of
 * every byte, so it costs nothing beside the encryption.
 *
 * Writing goes around the page cache where the file system lets it: what is
 * written once and read seldom is not to push other pages out, and the sync
 * at the end has little left to do.
 *
 * Crash argument: a blob exists for the rest of the system only when a
 * committed record names its hash, and that record is appended after
 * blob_finish() has synced file and directory.  What a crash leaves half
 * written has no such record, and no valid last chunk either. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "journal/log/blob.h"
#include "journal/log/internal.h"

#define BLOB_VERSION 2u
#define CHUNK_HEADER_BYTES (BLOB_CHUNK_STRIDE - BLOB_CHUNK_BYTES)
#define WRITE_BYTES (1024u * 1024u) /* a multiple of IO_BLOCK */
#define VERIFY_CHUNKS 8u	    /* read at once */
#define KIND_BYTES 8u
#define CHUNK_AAD_BYTES (CRYPTO_HASH_BYTES + 16u)

enum blob_at {
	AT_MAGIC = 0,
	AT_VERSION = 8,
	AT_KIND = 16,
	AT_CLUSTER = 24,
	AT_MASTER_ID = 40,
	AT_KEY_ID = 56,
	AT_WRAPPED = 72,
	AT_CRC = 4092,
};

enum chunk_at {
	AT_LEN = 0,
	AT_FLAGS = 4,
	AT_CHUNK_CRC = 8,
	AT_RESERVED = 12,
	AT_TAG = 16,
};

enum chunk_flag { CHUNK_LAST = 1 };

static const char blob_magic[8] = "HFBLOB";
static const char wrap_domain[] = "holdfast blob key 1";

#define WRAP_AAD_BYTES (sizeof(wrap_domain) + LOG_ID_BYTES + KIND_BYTES)

static void blob_wrap_aad(const uint8_t *raw, uint8_t ret[WRAP_AAD_BYTES])
{
	memcpy(ret, wrap_domain, sizeof(wrap_domain));
	memcpy(ret + sizeof(wrap_domain), raw + AT_CLUSTER, LOG_ID_BYTES);
	memcpy(ret + sizeof(wrap_domain) + LOG_ID_BYTES, raw + AT_KIND,
	       KIND_BYTES);
}

/* Header hash, offset, length, flags. */
static void chunk_aad(const uint8_t *header_hash, uint64_t offset,
		      const uint8_t *chunk, uint8_t ret[CHUNK_AAD_BYTES])
{
	memcpy(ret, header_hash, CRYPTO_HASH_BYTES);
	bytes_put64(ret + CRYPTO_HASH_BYTES, offset);
	memcpy(ret + CRYPTO_HASH_BYTES + 8, chunk, 8);
}

static uint32_t chunk_crc(const uint8_t *chunk, uint32_t len)
{
	uint32_t crc = crc32c(0, chunk, AT_CHUNK_CRC);

	return crc32c(crc, chunk + AT_RESERVED,
		      CHUNK_HEADER_BYTES - AT_RESERVED + len);
}

static void blob_hash_header(const uint8_t *raw, uint8_t ret[CRYPTO_HASH_BYTES])
{
	uint8_t copy[BLOB_HEADER_BYTES];
	struct iovec part = {.iov_base = copy, .iov_len = sizeof(copy)};

	memcpy(copy, raw, sizeof(copy));
	crypto_hash(ret, &part, 1);
}

static void blob_kind(const char *kind, uint8_t ret[KIND_BYTES])
{
	size_t len = strlen(kind);

	ASSERT(len <= KIND_BYTES);
	memset(ret, 0, KIND_BYTES);
	memcpy(ret, kind, len);
}

/* ---- writing ---- */

struct blob_writer {
	struct io *io;
	struct io_file *file;
	struct crypto_aead *aead;
	struct crypto_hasher *hasher;
	uint8_t header_hash[CRYPTO_HASH_BYTES];
	char path[LOG_PATH_BYTES];
	uint8_t *plain; /* BLOB_CHUNK_BYTES */
	uint32_t plain_len;
	uint8_t *buf; /* WRITE_BYTES */
	size_t buf_len;
	uint64_t offset;   /* of buf in the file; a multiple of IO_BLOCK */
	uint64_t position; /* in the stream */
	int err;	   /* the first one, for good */
};

static void writer_free(struct blob_writer *w)
{
	io_close(w->file);
	crypto_aead_free(w->aead);
	if (w->hasher)
		crypto_hasher_finish(w->hasher, NULL);
	if (w->plain)
		crypto_zero(w->plain, BLOB_CHUNK_BYTES);
	free(w->plain);
	io_buffer_free(w->buf);
	free(w);
}

/* Whole blocks; what is left of the last one stays in the buffer. */
static int writer_flush(struct blob_writer *w)
{
	size_t whole = w->buf_len & ~(size_t)(IO_BLOCK - 1);

	if (w->err || !whole)
		return w->err;
	w->err = io_write(w->file, w->buf, whole, w->offset);
	w->buf_len -= whole;
	memmove(w->buf, w->buf + whole, w->buf_len);
	w->offset += whole;
	return w->err;
}

/* The file's last, broken block.  Around the page cache it is written whole,
 * and the file cut to its size. */
static int writer_flush_end(struct blob_writer *w)
{
	size_t len = w->buf_len;
	int direct = io_file_direct(w->file);

	if (w->err || !len)
		return w->err;
	if (direct) {
		len = base_round_up(len, IO_BLOCK);
		memset(w->buf + w->buf_len, 0, len - w->buf_len);
	}
	w->err = io_write(w->file, w->buf, len, w->offset);
	w->offset += w->buf_len;
	w->buf_len = 0;
	if (!w->err && direct)
		w->err = io_truncate(w->file, w->offset);
	return w->err;
}

static int writer_chunk(struct blob_writer *w, const void *plain, uint32_t len,
			uint32_t flags)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[CHUNK_AAD_BYTES];
	uint8_t *chunk;
	uint64_t offset;

	if (w->buf_len + CHUNK_HEADER_BYTES + len > WRITE_BYTES)
		writer_flush(w);
	if (w->err)
		return w->err;
	chunk = w->buf + w->buf_len;
	offset = w->offset + w->buf_len;
	memset(chunk, 0, CHUNK_HEADER_BYTES);
	bytes_put32(chunk + AT_LEN, len);
	bytes_put32(chunk + AT_FLAGS, flags);
	log_nonce(nonce, LOG_NONCE_BLOB, offset);
	chunk_aad(w->header_hash, offset, chunk, aad);
	w->err = crypto_seal(w->aead, nonce, aad, sizeof(aad), plain, len,
			     chunk + CHUNK_HEADER_BYTES, chunk + AT_TAG);
	bytes_put32(chunk + AT_CHUNK_CRC, chunk_crc(chunk, len));
	crypto_hasher_add(w->hasher, chunk, CHUNK_HEADER_BYTES);
	w->buf_len += CHUNK_HEADER_BYTES + len;
	return w->err;
}

static int writer_header(struct blob_writer *w, const struct blob_identity *id,
			 const char *kind)
{
	uint8_t aad[WRAP_AAD_BYTES];
	struct crypto_key *key;
	uint8_t *raw = w->buf;
	int err = crypto_key_random(id->io, &key);

	if (err)
		return err;
	memset(raw, 0, BLOB_HEADER_BYTES);
	memcpy(raw + AT_MAGIC, blob_magic, sizeof(blob_magic));
	bytes_put16(raw + AT_VERSION, BLOB_VERSION);
	blob_kind(kind, raw + AT_KIND);
	memcpy(raw + AT_CLUSTER, id->cluster_id, LOG_ID_BYTES);
	crypto_key_id(id->master, raw + AT_MASTER_ID);
	crypto_key_id(key, raw + AT_KEY_ID);
	blob_wrap_aad(raw, aad);
	err = crypto_wrap(id->io, id->master, key, aad, sizeof(aad),
			  raw + AT_WRAPPED);
	if (!err)
		err = crypto_aead_create(key, &w->aead);
	crypto_key_free(key);
	bytes_put32(raw + AT_CRC, crc32c(0, raw, AT_CRC));
	blob_hash_header(raw, w->header_hash);
	crypto_hasher_add(w->hasher, raw, BLOB_HEADER_BYTES);
	w->buf_len = BLOB_HEADER_BYTES;
	return err;
}

int blob_create(const struct blob_identity *id, const char *path,
		const char *kind, struct blob_writer **ret)
{
	struct blob_writer *w;
	int err;

	if (strlen(path) >= LOG_PATH_BYTES)
		return -ENAMETOOLONG;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->io = id->io;
	snprintf(w->path, sizeof(w->path), "%s", path);
	w->plain = malloc(BLOB_CHUNK_BYTES);
	w->buf = io_buffer_alloc(WRITE_BYTES);
	err = w->plain && w->buf ? 0 : -ENOMEM;
	if (!err)
		err = crypto_hasher_create(&w->hasher);
	if (!err)
		err = writer_header(w, id, kind);
	if (!err)
		err = io_open(id->io, path,
			      IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT,
			      &w->file);
	if (err) {
		writer_free(w);
		return err;
	}
	*ret = w;
	return 0;
}

int blob_write(struct blob_writer *w, const void *data, size_t len)
{
	const uint8_t *p = data;

	w->position += len;
	while (len && !w->err) {
		size_t n = base_min(len, BLOB_CHUNK_BYTES - w->plain_len);

		if (n == BLOB_CHUNK_BYTES) {
			writer_chunk(w, p, BLOB_CHUNK_BYTES, 0);
		} else {
			memcpy(w->plain + w->plain_len, p, n);
			w->plain_len += (uint32_t)n;
		}
		p += n;
		len -= n;
		if (w->plain_len == BLOB_CHUNK_BYTES) {
			writer_chunk(w, w->plain, BLOB_CHUNK_BYTES, 0);
			w->plain_len = 0;
		}
	}
	return w->err;
}

uint64_t blob_position(const struct blob_writer *w)
{
	return w->position;
}

int blob_finish(struct blob_writer *w, uint8_t ret_hash[CRYPTO_HASH_BYTES],
		uint64_t *ret_bytes)
{
	int err = writer_chunk(w, w->plain, w->plain_len, CHUNK_LAST);

	if (!err)
		err = writer_flush(w);
	if (!err)
		err = writer_flush_end(w);
	if (!err)
		err = io_sync(w->file);
	if (!err)
		err = log_sync_parent(w->io, w->path);
	if (!err) {
		crypto_hasher_finish(w->hasher, ret_hash);
		w->hasher = NULL;
		*ret_bytes = w->offset;
	}
	writer_free(w);
	return err;
}

void blob_abandon(struct blob_writer *w)
{
	int err;

	if (!w)
		return;
	/* Should it stay behind, no record names it. */
	err = io_unlink(w->io, w->path);
	(void)err;
	writer_free(w);
}

/* ---- chunks ---- */

/* What 32 bytes tell by themselves: 0 or -E_CORRUPT. */
static int chunk_header_check(const uint8_t *chunk, uint32_t *ret_len,
			      bool *ret_last)
{
	uint32_t len = bytes_get32(chunk + AT_LEN);
	uint32_t flags = bytes_get32(chunk + AT_FLAGS);

	if (len > BLOB_CHUNK_BYTES || (flags & ~CHUNK_LAST) ||
	    bytes_get32(chunk + AT_RESERVED) ||
	    (!(flags & CHUNK_LAST) && len != BLOB_CHUNK_BYTES))
		return -E_CORRUPT;
	*ret_len = len;
	*ret_last = flags & CHUNK_LAST;
	return 0;
}

int log_blob_check_chunk(const uint8_t *chunk, size_t have, uint32_t *ret_len,
			 bool *ret_last)
{
	uint32_t len;
	bool last;
	int err;

	if (have < CHUNK_HEADER_BYTES)
		return -E_CORRUPT;
	err = chunk_header_check(chunk, &len, &last);
	if (err)
		return err;
	if (have - CHUNK_HEADER_BYTES < len ||
	    bytes_get32(chunk + AT_CHUNK_CRC) != chunk_crc(chunk, len))
		return -E_CORRUPT;
	*ret_len = len;
	*ret_last = last;
	return 0;
}

static int read_exactly(struct io_file *file, void *buf, size_t len,
			uint64_t offset)
{
	size_t got;
	int err = io_read(file, buf, len, offset, &got);

	if (err)
		return err;
	return got == len ? 0 : -E_CORRUPT;
}

static int blob_read_header(struct io_file *file, uint8_t *raw)
{
	int err = read_exactly(file, raw, BLOB_HEADER_BYTES, 0);

	if (err)
		return err;
	if (memcmp(raw, blob_magic, sizeof(blob_magic)) != 0 ||
	    bytes_get32(raw + AT_CRC) != crc32c(0, raw, AT_CRC))
		return -E_CORRUPT;
	if (bytes_get16(raw + AT_VERSION) != BLOB_VERSION)
		return -E_VERSION;
	return 0;
}

static int blob_open_file(struct io *io, const char *path,
			  struct io_file **ret_file, uint64_t *ret_size)
{
	struct io_file *file;
	int err = io_open(io, path, IO_READ, &file);

	if (err)
		return err;
	err = io_size(file, ret_size);
	if (err) {
		io_close(file);
		return err;
	}
	*ret_file = file;
	return 0;
}

/* ---- verifying ---- */

struct blob_check {
	struct io_file *file;
	uint64_t size, offset; /* of what is looked at */
	struct crypto_hasher *hasher;
	uint8_t *buf; /* VERIFY_CHUNKS chunks */
	bool last;
};

/* Some chunks, with their CRCs. */
static int check_chunks(struct blob_check *c)
{
	size_t got, at = 0;
	int err = io_read(c->file, c->buf, VERIFY_CHUNKS * BLOB_CHUNK_STRIDE,
			  c->offset, &got);

	if (err)
		return err;
	do {
		uint32_t len;

		err = log_blob_check_chunk(c->buf + at, got - at, &len,
					   &c->last);
		if (err)
			return err;
		crypto_hasher_add(c->hasher, c->buf + at, CHUNK_HEADER_BYTES);
		at += CHUNK_HEADER_BYTES + len;
		if (c->last && c->offset + CHUNK_HEADER_BYTES + len != c->size)
			return -E_CORRUPT;
		c->offset += CHUNK_HEADER_BYTES + len;
	} while (!c->last && at < VERIFY_CHUNKS * BLOB_CHUNK_STRIDE);
	return 0;
}

/* One chunk's header alone. */
static int check_chunk_header(struct blob_check *c)
{
	uint32_t len;
	int err = read_exactly(c->file, c->buf, CHUNK_HEADER_BYTES, c->offset);

	if (!err)
		err = chunk_header_check(c->buf, &len, &c->last);
	if (err)
		return err;
	crypto_hasher_add(c->hasher, c->buf, CHUNK_HEADER_BYTES);
	c->offset += CHUNK_HEADER_BYTES + len;
	return c->last && c->offset != c->size ? -E_CORRUPT : 0;
}

/* Header and chunks against the hash, if there is one, by the given look at
 * some of them. */
static int blob_check(struct io_file *file, uint64_t size, const uint8_t *hash,
		      int (*look)(struct blob_check *), uint64_t *ret_offset)
{
	struct blob_check c = {.file = file, .size = size};
	uint8_t found[CRYPTO_HASH_BYTES] = {0};
	int err = -ENOMEM;

	c.buf = malloc(VERIFY_CHUNKS * BLOB_CHUNK_STRIDE);
	if (c.buf)
		err = crypto_hasher_create(&c.hasher);
	if (!err)
		err = blob_read_header(file, c.buf);
	if (!err) {
		crypto_hasher_add(c.hasher, c.buf, BLOB_HEADER_BYTES);
		c.offset = BLOB_HEADER_BYTES;
	}
	while (!err && !c.last)
		err = look(&c);
	if (c.hasher)
		crypto_hasher_finish(c.hasher, found);
	if (!err && hash && memcmp(found, hash, sizeof(found)) != 0) {
		err = -E_CORRUPT;
		c.offset = 0;
	}
	free(c.buf);
	if (err && ret_offset)
		*ret_offset = c.offset;
	return err;
}

int blob_verify(struct io *io, const char *path, const uint8_t *hash,
		uint64_t *ret_offset)
{
	struct io_file *file;
	uint64_t size;
	int err = blob_open_file(io, path, &file, &size);

	if (err) {
		if (ret_offset)
			*ret_offset = 0;
		return err;
	}
	err = blob_check(file, size, hash, check_chunks, ret_offset);
	io_close(file);
	return err;
}

/* ---- keys ---- */

struct blob_keys {
	struct crypto_aead *aead;
	uint8_t header_hash[CRYPTO_HASH_BYTES];
};

/* raw: a header that blob_read_header() has checked. */
static int keys_unwrap(const struct blob_identity *id, const char *kind,
		       const uint8_t *raw, struct blob_keys *ret)
{
	uint8_t aad[WRAP_AAD_BYTES], wanted[KIND_BYTES];
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
	struct crypto_key *key;
	int err;

	blob_kind(kind, wanted);
	if (memcmp(raw + AT_KIND, wanted, KIND_BYTES) != 0 ||
	    memcmp(raw + AT_CLUSTER, id->cluster_id, LOG_ID_BYTES) != 0)
		return -E_CORRUPT;
	crypto_key_id(id->master, master_id);
	if (memcmp(raw + AT_MASTER_ID, master_id, sizeof(master_id)) != 0)
		return -E_KEY;
	blob_hash_header(raw, ret->header_hash);
	blob_wrap_aad(raw, aad);
	err = crypto_unwrap(id->master, raw + AT_WRAPPED, aad, sizeof(aad),
			    &key);
	if (err)
		return err;
	err = crypto_aead_create(key, &ret->aead);
	crypto_key_free(key);
	return err;
}

static int keys_open(const struct blob_identity *id, struct io_file *file,
		     const char *kind, struct blob_keys **ret)
{
	struct blob_keys *k = calloc(1, sizeof(*k));
	uint8_t *raw = malloc(BLOB_HEADER_BYTES);
	int err = k && raw ? 0 : -ENOMEM;

	if (!err)
		err = blob_read_header(file, raw);
	if (!err)
		err = keys_unwrap(id, kind, raw, k);
	free(raw);
	if (err) {
		blob_keys_free(k);
		return err;
	}
	*ret = k;
	return 0;
}

int blob_keys_open(const struct blob_identity *id, const char *path,
		   const char *kind, struct blob_keys **ret)
{
	struct io_file *file;
	int err = io_open(id->io, path, IO_READ, &file);

	if (err)
		return err;
	err = keys_open(id, file, kind, ret);
	io_close(file);
	return err;
}

void blob_keys_free(struct blob_keys *k)
{
	if (!k)
		return;
	crypto_aead_free(k->aead);
	free(k);
}

int blob_open_chunk(const struct blob_keys *k, uint32_t index,
		    const uint8_t *raw, size_t raw_len, uint8_t *ret_plain,
		    uint32_t *ret_len)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[CHUNK_AAD_BYTES];
	uint64_t offset = blob_chunk_offset(index);
	uint32_t len;
	bool last;
	int err = log_blob_check_chunk(raw, raw_len, &len, &last);

	if (err)
		return err;
	log_nonce(nonce, LOG_NONCE_BLOB, offset);
	chunk_aad(k->header_hash, offset, raw, aad);
	err = crypto_open(k->aead, nonce, aad, sizeof(aad),
			  raw + CHUNK_HEADER_BYTES, len, ret_plain,
			  raw + AT_TAG);
	if (!err)
		*ret_len = len;
	return err;
}

/* ---- reading from end to end ---- */

struct blob_reader {
	struct io_file *file;
	struct blob_keys *keys;
	uint64_t size;	/* of the file */
	uint32_t index; /* of the next chunk */
	uint8_t *buf;	/* one chunk with its header */
	uint8_t *plain; /* BLOB_CHUNK_BYTES */
	uint32_t plain_len, plain_at;
	bool last;
	int err;
};

int blob_open(const struct blob_identity *id, const char *path,
	      const char *kind, const uint8_t *hash, struct blob_reader **ret)
{
	struct blob_reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->buf = malloc(BLOB_CHUNK_STRIDE);
	r->plain = malloc(BLOB_CHUNK_BYTES);
	err = r->buf && r->plain ? 0 : -ENOMEM;
	if (!err)
		err = blob_open_file(id->io, path, &r->file, &r->size);
	if (!err && hash)
		err = blob_check(r->file, r->size, hash, check_chunk_header,
				 NULL);
	if (!err)
		err = keys_open(id, r->file, kind, &r->keys);
	if (err) {
		blob_close(r);
		return err;
	}
	*ret = r;
	return 0;
}

static int reader_next(struct blob_reader *r)
{
	uint64_t offset = blob_chunk_offset(r->index);
	uint32_t len;
	size_t got;

	if (r->err)
		return r->err;
	if (r->last)
		return r->err = -E_CORRUPT;
	r->err = io_read(r->file, r->buf, BLOB_CHUNK_STRIDE, offset, &got);
	if (!r->err)
		r->err = blob_open_chunk(r->keys, r->index, r->buf, got,
					 r->plain, &len);
	if (r->err)
		return r->err;
	r->last = bytes_get32(r->buf + AT_FLAGS) & CHUNK_LAST;
	if (r->last && offset + CHUNK_HEADER_BYTES + len != r->size)
		return r->err = -E_CORRUPT;
	r->index++;
	r->plain_len = len;
	r->plain_at = 0;
	return 0;
}

int blob_read(struct blob_reader *r, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len) {
		size_t n;

		if (r->plain_at == r->plain_len) {
			int err = reader_next(r);

			if (err)
				return err;
			continue;
		}
		n = base_min(len, r->plain_len - r->plain_at);
		memcpy(p, r->plain + r->plain_at, n);
		r->plain_at += (uint32_t)n;
		p += n;
		len -= n;
	}
	return 0;
}

int blob_at_end(struct blob_reader *r)
{
	if (r->plain_at < r->plain_len)
		return 0;
	/* The last chunk may be empty, so it has to be looked at. */
	if (!r->last && reader_next(r))
		return 0;
	return r->last && r->plain_at == r->plain_len;
}

void blob_close(struct blob_reader *r)
{
	if (!r)
		return;
	io_close(r->file);
	blob_keys_free(r->keys);
	if (r->plain)
		crypto_zero(r->plain, BLOB_CHUNK_BYTES);
	free(r->plain);
	free(r->buf);
	free(r);
}
