/* broker/daemon/key.c: which master key is used.
 *
 * A key is made only in a directory that holds nothing yet: beside a journal
 * a new key would open nothing, and would hide that the old one is missing.
 * crypto_keyfile_make() has it durable before anything is sealed with it. */
#include "broker/daemon/key.h"

#include <string.h>

/* nodes/ says which machines have been here, and is made before the key. */
static int has_entry(void *ctx, const char *name)
{
	return strcmp(name, "lost+found") && strcmp(name, "nodes") ? 1 : 0;
}

static int make(struct io *io, const char *data_dir, struct key_choice *k,
		char *why, size_t why_len)
{
	int err = io_list(io, data_dir, has_entry, NULL);

	if (err > 0) {
		snprintf(why, why_len,
			 "%s has data but no %s: put the key back, or set "
			 "journal.key_file to the key that was used",
			 data_dir, KEY_DEVELOPMENT_NAME);
		return -E_KEY;
	}
	if (!err)
		err = crypto_keyfile_make(io, k->path, &k->key);
	if (err)
		snprintf(why, why_len, "%s: the key cannot be made: %s",
			 k->path, err_str(err));
	k->made = !err;
	return err;
}

int key_choose(struct io *io, const char *data_dir, const char *key_file,
	       struct key_choice *ret, char *why, size_t why_len)
{
	struct key_choice k = {.development = !key_file};
	int n, err;

	n = key_file ? snprintf(k.path, sizeof(k.path), "%s", key_file)
		     : snprintf(k.path, sizeof(k.path), "%s/%s", data_dir,
				KEY_DEVELOPMENT_NAME);
	if (n >= (int)sizeof(k.path)) {
		snprintf(why, why_len, "the path of the key file is too long");
		return -ENAMETOOLONG;
	}
	err = crypto_keyfile_load(io, k.path, &k.key);
	if (err == -ENOENT && k.development) {
		err = make(io, data_dir, &k, why, why_len);
	} else if (err == -ENOENT) {
		snprintf(why, why_len,
			 "%s: there is no key; make one with (umask 077; "
			 "openssl rand -hex 32 > %s) and keep a copy",
			 k.path, k.path);
	} else if (err == -E_KEY) {
		snprintf(why, why_len,
			 "%s: must hold 64 hexadecimal digits and be readable "
			 "by its owner only (chmod 600)",
			 k.path);
	} else if (err) {
		snprintf(why, why_len, "%s: cannot be read: %s", k.path,
			 err_str(err));
	}
	if (!err)
		*ret = k;
	return err;
}
