/* base/crypto.h: the only user of OpenSSL's ciphers and of libsodium.
 *
 * Bulk data: AES-256-GCM (NIST SP 800-38D) by OpenSSL.  Key wrapping:
 * XChaCha20-Poly1305 by libsodium, whose 192-bit nonce may be random.
 * Hashes: BLAKE2b-256 (RFC 7693).  Passwords: Argon2id (RFC 9106).
 * All [any] thread; one struct crypto_aead is used by one thread at a time. */
#ifndef BASE_CRYPTO_H
#define BASE_CRYPTO_H

#include <sys/uio.h>

#include "base/io.h"

#define CRYPTO_KEY_BYTES 32u
#define CRYPTO_NONCE_BYTES 12u
#define CRYPTO_TAG_BYTES 16u
#define CRYPTO_HASH_BYTES 32u
#define CRYPTO_KEY_ID_BYTES 16u
#define CRYPTO_WRAPPED_BYTES (24u + CRYPTO_KEY_BYTES + 16u)
#define CRYPTO_PASSWORD_HASH_BYTES 128u

/* Once, before any other call here. */
MUST_CHECK int crypto_init(void);

/* A 256-bit key in locked memory that is zeroed when freed and is left out
 * of core dumps.  Where locking fails (RLIMIT_MEMLOCK) it is still zeroed. */
struct crypto_key;
MUST_CHECK int crypto_key_create(const void *bytes32, struct crypto_key **ret);
MUST_CHECK int crypto_key_random(struct io *, struct crypto_key **ret);
/* NULL-safe. */
void crypto_key_free(struct crypto_key *);
/* A commitment to the key (keyed-less BLAKE2b with a domain string), so that
 * a wrong key is told from damage. */
void crypto_key_id(const struct crypto_key *, uint8_t ret[CRYPTO_KEY_ID_BYTES]);
/* Hexadecimal text, 64 digits, for the key file only. */
void crypto_key_export(const struct crypto_key *, char ret_hex[65]);

/* Master key file: 64 hexadecimal digits and a newline, mode 0600.
 * load: -ENOENT when absent, -E_KEY when the contents are not a key or the
 * file can be read by group or others.  For a process that is not root, one of
 * root's may be read by its group (a Kubernetes Secret).  make: writes, syncs
 * file and directory, before it returns. */
MUST_CHECK int crypto_keyfile_load(struct io *, const char *path,
				   struct crypto_key **ret);
MUST_CHECK int crypto_keyfile_make(struct io *, const char *path,
				   struct crypto_key **ret);

/* A keyed cipher context; key schedule done once. */
struct crypto_aead;
MUST_CHECK int crypto_aead_create(const struct crypto_key *,
				  struct crypto_aead **ret);
void crypto_aead_free(struct crypto_aead *);
/* out has len bytes and may be in itself. */
MUST_CHECK int crypto_seal(struct crypto_aead *,
			   const uint8_t nonce[CRYPTO_NONCE_BYTES],
			   const void *aad, size_t aad_len, const void *in,
			   size_t len, void *out,
			   uint8_t tag[CRYPTO_TAG_BYTES]);
/* -E_CORRUPT when the tag does not match; out is then zeroed. */
MUST_CHECK int crypto_open(struct crypto_aead *,
			   const uint8_t nonce[CRYPTO_NONCE_BYTES],
			   const void *aad, size_t aad_len, const void *in,
			   size_t len, void *out,
			   const uint8_t tag[CRYPTO_TAG_BYTES]);

MUST_CHECK int crypto_wrap(struct io *, const struct crypto_key *master,
			   const struct crypto_key *key, const void *aad,
			   size_t aad_len, uint8_t ret[CRYPTO_WRAPPED_BYTES]);
/* -E_KEY when it does not open under this master key. */
MUST_CHECK int crypto_unwrap(const struct crypto_key *master,
			     const uint8_t wrapped[CRYPTO_WRAPPED_BYTES],
			     const void *aad, size_t aad_len,
			     struct crypto_key **ret);

/* BLAKE2b-256 over the concatenation of the parts. */
void crypto_hash(uint8_t ret[CRYPTO_HASH_BYTES], const struct iovec *parts,
		 int part_count);
/* The same, fed piece by piece. */
struct crypto_hasher;
MUST_CHECK int crypto_hasher_create(struct crypto_hasher **ret);
void crypto_hasher_add(struct crypto_hasher *, const void *data, size_t len);
/* Frees the hasher; ret may be NULL to abandon it. */
void crypto_hasher_finish(struct crypto_hasher *,
			  uint8_t ret[CRYPTO_HASH_BYTES]);

/* Argon2id text ("$argon2id$v=19$...").  Takes tens of milliseconds and
 * 64 MiB by design (libsodium's interactive limits). */
MUST_CHECK int crypto_password_hash(const char *password,
				    char ret[CRYPTO_PASSWORD_HASH_BYTES]);
/* 0, or -E_REFUSED. */
MUST_CHECK int crypto_password_verify(const char *hash, const char *password);
int crypto_password_hash_is_valid(const char *hash);

void crypto_zero(void *, size_t len);

#endif
