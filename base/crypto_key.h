/* base/crypto_key.h: between crypto_sodium.c, which keeps keys, and
 * crypto_aead.c, which uses them.  Nothing else includes this header. */
#ifndef BASE_CRYPTO_KEY_H
#define BASE_CRYPTO_KEY_H

#include "base/crypto.h"

struct crypto_key {
	uint8_t bytes[CRYPTO_KEY_BYTES];
};

/* The part of crypto_init() that belongs to OpenSSL. */
MUST_CHECK int crypto_aead_init(void);

#endif
