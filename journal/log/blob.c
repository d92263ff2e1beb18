/* journal/log/blob.c: write-once encrypted files beside the log.
 *
 * A blob is a header block and a run of chunks, each with its length, CRC and
 * tag; the last chunk says that it is the last.  The data key is fresh and
 * wrapped in the header; a chunk's nonce is its offset in the file, and its
 * additional data bind it to the header, its place and its length.
 *
 * Crash argument: a blob exists for the rest of the system only when a
 * committed record names its hash, and that record is appended after
 * blob_finish() has synced file and directory.  What a crash leaves half
 * written has no such record, and no valid last chunk either. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "journal/log/blob.h"
#include "journal/log/internal.h"

#define BLOB_VERSION 1u
#define BLOB_HEADER_BYTES 4096u
#define BLOB_CHUNK_BYTES (64u * 1024u)
#define CHUNK_HEADER_BYTES 32u
#define BLOB_BUFFER_BYTES (8u * (BLOB_CHUNK_BYTES + CHUNK_HEADER_BYTES))
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
	uint8_t *buf; /* BLOB_BUFFER_BYTES */
	size_t buf_len;
	uint64_t offset; /* of buf in the file */
	int err;	 /* the first one, for good */
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
	free(w->buf);
	free(w);
}

static int writer_flush(struct blob_writer *w)
{
	if (!w->err && w->buf_len) {
		crypto_hasher_add(w->hasher, w->buf, w->buf_len);
		w->err = io_write(w->file, w->buf, w->buf_len, w->offset);
	}
	w->offset += w->buf_len;
	w->buf_len = 0;
	return w->err;
}

static int writer_chunk(struct blob_writer *w, uint32_t flags)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[CHUNK_AAD_BYTES];
	uint8_t *chunk;
	uint64_t offset;

	if (w->buf_len + CHUNK_HEADER_BYTES + w->plain_len > BLOB_BUFFER_BYTES)
		writer_flush(w);
	if (w->err)
		return w->err;
	chunk = w->buf + w->buf_len;
	offset = w->offset + w->buf_len;
	memset(chunk, 0, CHUNK_HEADER_BYTES);
	bytes_put32(chunk + AT_LEN, w->plain_len);
	bytes_put32(chunk + AT_FLAGS, flags);
	log_nonce(nonce, LOG_NONCE_BLOB, offset);
	chunk_aad(w->header_hash, offset, chunk, aad);
	w->err = crypto_seal(w->aead, nonce, aad, sizeof(aad), w->plain,
			     w->plain_len, chunk + CHUNK_HEADER_BYTES,
			     chunk + AT_TAG);
	bytes_put32(chunk + AT_CHUNK_CRC, chunk_crc(chunk, w->plain_len));
	w->buf_len += CHUNK_HEADER_BYTES + w->plain_len;
	w->plain_len = 0;
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
	w->buf = malloc(BLOB_BUFFER_BYTES);
	err = w->plain && w->buf ? 0 : -ENOMEM;
	if (!err)
		err = crypto_hasher_create(&w->hasher);
	if (!err)
		err = writer_header(w, id, kind);
	if (!err)
		err = io_open(id->io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE,
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

	while (len && !w->err) {
		size_t n = base_min(len, BLOB_CHUNK_BYTES - w->plain_len);

		memcpy(w->plain + w->plain_len, p, n);
		w->plain_len += (uint32_t)n;
		p += n;
		len -= n;
		if (w->plain_len == BLOB_CHUNK_BYTES)
			writer_chunk(w, 0);
	}
	return w->err;
}

int blob_finish(struct blob_writer *w, uint8_t ret_hash[CRYPTO_HASH_BYTES],
		uint64_t *ret_bytes)
{
	int err = writer_chunk(w, CHUNK_LAST);

	if (!err)
		err = writer_flush(w);
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

/* ---- reading ---- */

struct blob_reader {
	struct io_file *file;
	struct crypto_aead *aead;
	uint64_t size, offset; /* of the file; of the next chunk */
	uint8_t header_hash[CRYPTO_HASH_BYTES];
	uint8_t *buf;	/* one chunk with its header */
	uint8_t *plain; /* BLOB_CHUNK_BYTES */
	uint32_t plain_len, plain_at;
	bool last;
	int err;
};

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

/* Reads and checks the chunk at offset into buf. */
static int blob_read_chunk(struct io_file *file, uint64_t size, uint64_t offset,
			   uint8_t *buf, uint32_t *ret_len, bool *ret_last)
{
	uint32_t len, flags;
	size_t got;
	int err = io_read(file, buf, CHUNK_HEADER_BYTES + BLOB_CHUNK_BYTES,
			  offset, &got);

	if (err)
		return err;
	if (got < CHUNK_HEADER_BYTES)
		return -E_CORRUPT;
	len = bytes_get32(buf + AT_LEN);
	flags = bytes_get32(buf + AT_FLAGS);
	if (len > BLOB_CHUNK_BYTES || got - CHUNK_HEADER_BYTES < len ||
	    (flags & ~CHUNK_LAST) || bytes_get32(buf + AT_RESERVED) ||
	    (!(flags & CHUNK_LAST) && len != BLOB_CHUNK_BYTES) ||
	    bytes_get32(buf + AT_CHUNK_CRC) != chunk_crc(buf, len))
		return -E_CORRUPT;
	if ((flags & CHUNK_LAST) && offset + CHUNK_HEADER_BYTES + len != size)
		return -E_CORRUPT;
	*ret_len = len;
	*ret_last = flags & CHUNK_LAST;
	return 0;
}

/* Every CRC, and the hash when it is given. */
static int blob_check(struct io_file *file, uint64_t size, const uint8_t *hash)
{
	uint8_t *buf = malloc(CHUNK_HEADER_BYTES + BLOB_CHUNK_BYTES);
	uint64_t offset = BLOB_HEADER_BYTES;
	struct crypto_hasher *hasher = NULL;
	uint8_t found[CRYPTO_HASH_BYTES];
	bool last = false;
	int err = -ENOMEM;

	if (buf)
		err = crypto_hasher_create(&hasher);
	if (!err)
		err = blob_read_header(file, buf);
	if (!err)
		crypto_hasher_add(hasher, buf, BLOB_HEADER_BYTES);
	while (!err && !last) {
		uint32_t len;

		err = blob_read_chunk(file, size, offset, buf, &len, &last);
		if (err)
			break;
		crypto_hasher_add(hasher, buf, CHUNK_HEADER_BYTES + len);
		offset += CHUNK_HEADER_BYTES + len;
	}
	if (hasher)
		crypto_hasher_finish(hasher, found);
	if (!err && hash && memcmp(found, hash, sizeof(found)) != 0)
		err = -E_CORRUPT;
	free(buf);
	return err;
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

int blob_verify(struct io *io, const char *path, const uint8_t *hash)
{
	struct io_file *file;
	uint64_t size;
	int err = blob_open_file(io, path, &file, &size);

	if (err)
		return err;
	err = blob_check(file, size, hash);
	io_close(file);
	return err;
}

static int reader_header(struct blob_reader *r, const struct blob_identity *id,
			 const char *kind)
{
	uint8_t aad[WRAP_AAD_BYTES], wanted[KIND_BYTES];
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
	struct crypto_key *key;
	int err = blob_read_header(r->file, r->buf);

	if (err)
		return err;
	blob_kind(kind, wanted);
	if (memcmp(r->buf + AT_KIND, wanted, KIND_BYTES) != 0 ||
	    memcmp(r->buf + AT_CLUSTER, id->cluster_id, LOG_ID_BYTES) != 0)
		return -E_CORRUPT;
	crypto_key_id(id->master, master_id);
	if (memcmp(r->buf + AT_MASTER_ID, master_id, sizeof(master_id)) != 0)
		return -E_KEY;
	blob_hash_header(r->buf, r->header_hash);
	blob_wrap_aad(r->buf, aad);
	err = crypto_unwrap(id->master, r->buf + AT_WRAPPED, aad, sizeof(aad),
			    &key);
	if (err)
		return err;
	err = crypto_aead_create(key, &r->aead);
	crypto_key_free(key);
	return err;
}

int blob_open(const struct blob_identity *id, const char *path,
	      const char *kind, const uint8_t *hash, struct blob_reader **ret)
{
	struct blob_reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->buf = malloc(CHUNK_HEADER_BYTES + BLOB_CHUNK_BYTES);
	r->plain = malloc(BLOB_CHUNK_BYTES);
	err = r->buf && r->plain ? 0 : -ENOMEM;
	if (!err)
		err = blob_open_file(id->io, path, &r->file, &r->size);
	if (!err && hash)
		err = blob_check(r->file, r->size, hash);
	if (!err)
		err = reader_header(r, id, kind);
	if (err) {
		blob_close(r);
		return err;
	}
	r->offset = BLOB_HEADER_BYTES;
	*ret = r;
	return 0;
}

static int reader_next(struct blob_reader *r)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[CHUNK_AAD_BYTES];
	uint32_t len;

	if (r->err)
		return r->err;
	if (r->last)
		return r->err = -E_CORRUPT;
	r->err = blob_read_chunk(r->file, r->size, r->offset, r->buf, &len,
				 &r->last);
	if (r->err)
		return r->err;
	log_nonce(nonce, LOG_NONCE_BLOB, r->offset);
	chunk_aad(r->header_hash, r->offset, r->buf, aad);
	r->err = crypto_open(r->aead, nonce, aad, sizeof(aad),
			     r->buf + CHUNK_HEADER_BYTES, len, r->plain,
			     r->buf + AT_TAG);
	if (r->err)
		return r->err;
	r->offset += CHUNK_HEADER_BYTES + len;
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
	crypto_aead_free(r->aead);
	if (r->plain)
		crypto_zero(r->plain, BLOB_CHUNK_BYTES);
	free(r->plain);
	free(r->buf);
	free(r);
}
