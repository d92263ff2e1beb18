/* broker/daemon/key.h: the master key, configured or made for development. */
#ifndef BROKER_DAEMON_KEY_H
#define BROKER_DAEMON_KEY_H

#include <stdbool.h>

#include "base/crypto.h"

#define KEY_DEVELOPMENT_NAME "development.key"

struct key_choice {
	struct crypto_key *key; /* to be freed by the caller */
	char path[512];
	bool development; /* lies beside the data */
	bool made;	  /* just now */
};
/* key_file NULL: data_dir/development.key, made when the directory is new.
 * On failure why holds a sentence for the operator. */
MUST_CHECK int key_choose(struct io *, const char *data_dir,
			  const char *key_file, struct key_choice *ret,
			  char *why, size_t why_len);

#endif
