/* base/crypto_aead.c: AES-256-GCM by OpenSSL.
 *
 * The key schedule and GCM's hash tables cost more than sealing a small
 * frame, so a context is keyed once for each direction and only the nonce
 * changes from call to call. */
#include <limits.h>
#include <stdatomic.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>

#include "base/crypto_key.h"

struct crypto_aead {
	EVP_CIPHER_CTX *seal, *open;
};

/* Fetched once: an implicit fetch for each context takes a global lock. */
static _Atomic(EVP_CIPHER *) aes_256_gcm;

int crypto_aead_init(void)
{
	EVP_CIPHER *cipher, *none = NULL;

	if (atomic_load(&aes_256_gcm))
		return 0;
	cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	if (!cipher) {
		ERR_clear_error();
		return -ENOSYS;
	}
	if (!atomic_compare_exchange_strong(&aes_256_gcm, &none, cipher))
		EVP_CIPHER_free(cipher);
	return 0;
}

int crypto_aead_create(const struct crypto_key *key, struct crypto_aead **ret)
{
	EVP_CIPHER *cipher = atomic_load(&aes_256_gcm);
	struct crypto_aead *a;

	ASSERT(cipher);
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->seal = EVP_CIPHER_CTX_new();
	a->open = EVP_CIPHER_CTX_new();
	if (!a->seal || !a->open ||
	    !EVP_EncryptInit_ex(a->seal, cipher, NULL, key->bytes, NULL) ||
	    !EVP_DecryptInit_ex(a->open, cipher, NULL, key->bytes, NULL)) {
		ERR_clear_error();
		crypto_aead_free(a);
		return -ENOMEM;
	}
	*ret = a;
	return 0;
}

void crypto_aead_free(struct crypto_aead *a)
{
	if (!a)
		return;
	EVP_CIPHER_CTX_free(a->seal);
	EVP_CIPHER_CTX_free(a->open);
	free(a);
}

int crypto_seal(struct crypto_aead *a, const uint8_t nonce[CRYPTO_NONCE_BYTES],
		const void *aad, size_t aad_len, const void *in, size_t len,
		void *out, uint8_t tag[CRYPTO_TAG_BYTES])
{
	uint8_t none[1];
	int n;

	ASSERT(len <= INT_MAX && aad_len <= INT_MAX);
	if (!EVP_EncryptInit_ex(a->seal, NULL, NULL, NULL, nonce))
		goto failed;
	if (aad_len && !EVP_EncryptUpdate(a->seal, NULL, &n, aad, (int)aad_len))
		goto failed;
	if (len && !EVP_EncryptUpdate(a->seal, out, &n, in, (int)len))
		goto failed;
	if (!EVP_EncryptFinal_ex(a->seal, none, &n) ||
	    !EVP_CIPHER_CTX_ctrl(a->seal, EVP_CTRL_AEAD_GET_TAG,
				 CRYPTO_TAG_BYTES, tag))
		goto failed;
	return 0;
failed:
	ERR_clear_error();
	return -EIO;
}

int crypto_open(struct crypto_aead *a, const uint8_t nonce[CRYPTO_NONCE_BYTES],
		const void *aad, size_t aad_len, const void *in, size_t len,
		void *out, const uint8_t tag[CRYPTO_TAG_BYTES])
{
	uint8_t expected[CRYPTO_TAG_BYTES], none[1];
	int n, err = -EIO;

	ASSERT(len <= INT_MAX && aad_len <= INT_MAX);
	memcpy(expected, tag, sizeof(expected));
	if (!EVP_DecryptInit_ex(a->open, NULL, NULL, NULL, nonce))
		goto failed;
	if (aad_len && !EVP_DecryptUpdate(a->open, NULL, &n, aad, (int)aad_len))
		goto failed;
	if (len && !EVP_DecryptUpdate(a->open, out, &n, in, (int)len))
		goto failed;
	if (!EVP_CIPHER_CTX_ctrl(a->open, EVP_CTRL_AEAD_SET_TAG,
				 CRYPTO_TAG_BYTES, expected))
		goto failed;
	if (EVP_DecryptFinal_ex(a->open, none, &n) <= 0) {
		err = -E_CORRUPT;
		goto failed;
	}
	return 0;
failed:
	/* Nothing that was not authenticated is released. */
	if (len)
		crypto_zero(out, len);
	ERR_clear_error();
	return err;
}
