/* journal/log/blob.h: write-once encrypted files beside the log.
 *
 * Checkpoints (and, later, extents) are streams of bytes written once, sealed
 * like frames: fresh wrapped data key, AES-256-GCM in 64 KiB chunks whose
 * nonce is the chunk's offset, CRC32C over ciphertext, and one BLAKE2b hash
 * of the whole that the log records.  Format: docs/format/blob.md.
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
/* hash may be NULL when it is not known; otherwise the whole file is checked
 * against it before this returns.  -E_CORRUPT, -E_KEY, -E_VERSION. */
MUST_CHECK int blob_open(const struct blob_identity *, const char *path,
			 const char *kind, const uint8_t *hash,
			 struct blob_reader **ret);
/* Exactly len bytes; -E_CORRUPT when damaged or when it ends before. */
MUST_CHECK int blob_read(struct blob_reader *, void *buf, size_t len);
int blob_at_end(struct blob_reader *);
void blob_close(struct blob_reader *); /* NULL-safe */
/* Check structure, CRCs and hash without a key; hash may be NULL. */
MUST_CHECK int blob_verify(struct io *, const char *path, const uint8_t *hash);

#endif
