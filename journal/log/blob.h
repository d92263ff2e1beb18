/* journal/log/blob.h: write-once encrypted files beside the log.
 *
 * Checkpoints and extents are streams of bytes written once, sealed like
 * frames: fresh wrapped data key, AES-256-GCM in 64 KiB chunks whose nonce is
 * the chunk's offset, CRC32C over ciphertext, and one BLAKE2b hash over the
 * file's header and every chunk's header (they hold CRC and tag), which the
 * log records.  Format: docs/format/blob.md.
 * Blocking; one thread per blob. */
#ifndef JOURNAL_LOG_BLOB_H
#define JOURNAL_LOG_BLOB_H

#include "base/crypto.h"

struct blob_identity {
	struct io *io;
	const struct crypto_key *master;
	const uint8_t *cluster_id; /* 16 bytes */
};

struct blob_writer;
/* The path must not exist. kind: up to 8 characters, checked on opening. */
MUST_CHECK int blob_create(const struct blob_identity *, const char *path,
			   const char *kind, struct blob_writer **ret);
MUST_CHECK int blob_write(struct blob_writer *, const void *data, size_t len);
/* Syncs file and directory; frees the writer, also on failure. */
MUST_CHECK int blob_finish(struct blob_writer *,
			   uint8_t ret_hash[CRYPTO_HASH_BYTES],
			   uint64_t *ret_bytes);
/* Frees the writer and removes the file. NULL-safe. */
void blob_abandon(struct blob_writer *);

struct blob_reader;
/* hash may be NULL when it is not known; otherwise the header and the headers
 * of all chunks are checked against it before this returns, so it is that
 * file; damage behind them is noticed where it is read.  -E_CORRUPT, -E_KEY,
 * -E_VERSION. */
MUST_CHECK int blob_open(const struct blob_identity *, const char *path,
			 const char *kind, const uint8_t *hash,
			 struct blob_reader **ret);
/* Exactly len bytes; -E_CORRUPT when damaged or when it ends before; the first
 * error stays. */
MUST_CHECK int blob_read(struct blob_reader *, void *buf, size_t len);
int blob_at_end(struct blob_reader *);
void blob_close(struct blob_reader *); /* NULL-safe */
/* Check structure, CRCs and hash without a key; hash may be NULL.
 * ret_offset (may be NULL): on failure, where in the file the first damage is;
 * 0 when everything fits together and it is another file. */
MUST_CHECK int blob_verify(struct io *, const char *path, const uint8_t *hash,
			   uint64_t *ret_offset);
/* Bytes written to the stream so far: where the next write begins. */
uint64_t blob_position(const struct blob_writer *);

/* ---- any place of a whole blob ---- */

#define BLOB_CHUNK_BYTES (64u * 1024u) /* of the stream, in every chunk */
#define BLOB_CHUNK_STRIDE (BLOB_CHUNK_BYTES + 32u) /* in the file */
#define BLOB_HEADER_BYTES 4096u

/* What it takes to open chunks whose bytes somebody else has read: the keys,
 * no file.  Immutable; one thread at a time. */
struct blob_keys;
/* Reads and checks the file's header. -E_CORRUPT, -E_KEY, -E_VERSION. */
MUST_CHECK int blob_keys_open(const struct blob_identity *, const char *path,
			      const char *kind, struct blob_keys **ret);
void blob_keys_free(struct blob_keys *); /* NULL-safe */
/* Where chunk `index` begins in the file. */
static inline uint64_t blob_chunk_offset(uint32_t index)
{
	return BLOB_HEADER_BYTES + (uint64_t)index * BLOB_CHUNK_STRIDE;
}
/* Opens chunk `index`, whose stored bytes begin at raw, where raw_len of the
 * file's bytes are; ret_plain has room for BLOB_CHUNK_BYTES.  -E_CORRUPT. */
MUST_CHECK int blob_open_chunk(const struct blob_keys *, uint32_t index,
			       const uint8_t *raw, size_t raw_len,
			       uint8_t *ret_plain, uint32_t *ret_len);

#endif
