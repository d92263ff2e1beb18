/* broker/daemon/key.c: which master key is used.
 *
 * A key is made only in a directory that holds nothing yet: beside a journal
 * a new key would open nothing, and would hide that the old one is missing.
 * crypto_keyfile_make() has it durable before anything is sealed with it.  Of
 * brokers that start at once in an empty directory one makes it, under the lock
 * that a leader holds later. */
#include "broker/daemon/key.h"

#include <string.h>

#define LOCK_ATTEMPTS 300
#define LOCK_ATTEMPT_NS 10000000u

/* nodes/ says which machines have been here, and is made before the key. */
static int has_entry(void *ctx, const char *name)
{
	return strcmp(name, "lost+found") && strcmp(name, "nodes") &&
			       strcmp(name, "leader.lock")
		       ? 1
		       : 0;
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

/* Unless somebody else does meanwhile. */
static int make_alone(struct io *io, const char *data_dir, struct key_choice *k,
		      char *why, size_t why_len)
{
	struct io_file *lock;
	char path[1100];
	int err;

	snprintf(path, sizeof(path), "%s/leader.lock", data_dir);
	err = io_open(io, path, IO_WRITE | IO_CREATE, &lock);
	if (err) {
		snprintf(why, why_len, "%s cannot be made: %s", path,
			 err_str(err));
		return err;
	}
	for (int i = 0;; i++) {
		int locked = io_lock(lock);

		err = crypto_keyfile_load(io, k->path, &k->key);
		if (err == -ENOENT && !locked)
			err = make(io, data_dir, k, why, why_len);
		if (err != -ENOENT || i == LOCK_ATTEMPTS)
			break;
		io_pause(io, LOCK_ATTEMPT_NS);
	}
	if (err && !why[0])
		snprintf(why, why_len, "%s: %s", k->path, err_str(err));
	io_close(lock);
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
		why[0] = '\0';
		err = make_alone(io, data_dir, &k, why, why_len);
	} else if (err == -ENOENT) {
		snprintf(why, why_len,
			 "%s: there is no key; make one with (umask 077; "
			 "openssl rand -hex 32 > %s) and keep a copy",
			 k.path, k.path);
	} else if (err == -E_KEY) {
		snprintf(why, why_len,
			 "%s: must hold 64 hexadecimal digits and be readable "
			 "by its owner only (chmod 600), or belong to root and "
			 "be readable by a group (chmod 440)",
			 k.path);
	} else if (err) {
		snprintf(why, why_len, "%s: cannot be read: %s", k.path,
			 err_str(err));
	}
	if (!err)
		*ret = k;
	return err;
}
