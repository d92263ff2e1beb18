/* base/crypto_sodium.c: keys in memory and in files, key wrapping, hashes and
 * passwords, by libsodium.
 *
 * Keys live in slots of locked pages between guard pages.  libsodium's own
 * guarded allocation would lock a page for every key, and in a pod that may
 * lock 64 KiB a broker with many segments would run out after sixteen.
 *
 * Crash argument of crypto_keyfile_make(): the key is written and synced
 * under another name and renamed, so that the path holds a whole key or
 * nothing; the directory is synced before anyone encrypts with it.  An
 * existing key file is never replaced: its loss would be the loss of all data.
 * What two processes could still do to each other between those steps is
 * caught by reading the file back before the key is handed out. */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* libsodium has a crypto_hash() of its own (SHA-512), which nothing calls. */
#define crypto_hash sodium_crypto_hash
#include <sodium.h>
#undef crypto_hash

#include "base/crypto_key.h"
#include "base/engine.h"

#define KEY_HEX_DIGITS (2 * CRYPTO_KEY_BYTES)
#define KEY_PAGE_BYTES 4096u
#define KEYS_PER_PAGE (KEY_PAGE_BYTES / sizeof(struct crypto_key))
#define WRAP_NONCE_BYTES crypto_aead_xchacha20poly1305_ietf_NPUBBYTES

_Static_assert(CRYPTO_WRAPPED_BYTES ==
		       WRAP_NONCE_BYTES + CRYPTO_KEY_BYTES +
			       crypto_aead_xchacha20poly1305_ietf_ABYTES,
	       "a wrapped key is nonce, key, tag");
_Static_assert(CRYPTO_PASSWORD_HASH_BYTES == crypto_pwhash_STRBYTES,
	       "password hashes are libsodium's strings");

/* ---- keys in memory ---- */

struct key_page {
	struct key_page *next;
	struct crypto_key *slots;
	uint64_t used[KEYS_PER_PAGE / 64];
};

static pthread_mutex_t key_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct key_page *key_pages; /* never given back: one serves 128 keys */

static struct key_page *key_page_create(void)
{
	size_t unit = (size_t)sysconf(_SC_PAGESIZE);
	struct key_page *page = calloc(1, sizeof(*page));
	uint8_t *map;

	if (!page)
		return NULL;
	map = mmap(NULL, 3 * unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		   0);
	if (map == MAP_FAILED)
		goto free_page;
	if (mprotect(map + unit, unit, PROT_READ | PROT_WRITE))
		goto unmap;
	/* Both are best effort: RLIMIT_MEMLOCK may be 0. */
	(void)mlock(map + unit, unit);
	(void)madvise(map + unit, unit, MADV_DONTDUMP);
	page->slots = (struct crypto_key *)(void *)(map + unit);
	return page;
unmap:
	munmap(map, 3 * unit);
free_page:
	free(page);
	return NULL;
}

static struct crypto_key *key_page_take(struct key_page *page)
{
	for (size_t i = 0; i < ARRAY_COUNT(page->used); i++) {
		int bit;

		if (page->used[i] == UINT64_MAX)
			continue;
		bit = __builtin_ctzll(~page->used[i]);
		page->used[i] |= UINT64_C(1) << bit;
		return &page->slots[i * 64 + (size_t)bit];
	}
	return NULL;
}

static struct crypto_key *key_alloc(void)
{
	struct crypto_key *key = NULL;
	struct key_page *page;

	pthread_mutex_lock(&key_mutex);
	for (page = key_pages; page && !key; page = page->next)
		key = key_page_take(page);
	if (!key) {
		page = key_page_create();
		if (page) {
			page->next = key_pages;
			key_pages = page;
			key = key_page_take(page);
		}
	}
	pthread_mutex_unlock(&key_mutex);
	return key;
}

void crypto_key_free(struct crypto_key *key)
{
	struct key_page *page;
	uint64_t bit;
	size_t i;

	if (!key)
		return;
	sodium_memzero(key, sizeof(*key));
	pthread_mutex_lock(&key_mutex);
	for (page = key_pages; page; page = page->next) {
		if (key >= page->slots && key < page->slots + KEYS_PER_PAGE)
			break;
	}
	ASSERT(page);
	i = (size_t)(key - page->slots);
	bit = UINT64_C(1) << (i % 64);
	ASSERT(page->used[i / 64] & bit);
	page->used[i / 64] &= ~bit;
	pthread_mutex_unlock(&key_mutex);
}

int crypto_key_create(const void *bytes32, struct crypto_key **ret)
{
	struct crypto_key *key = key_alloc();

	if (!key)
		return -ENOMEM;
	memcpy(key->bytes, bytes32, sizeof(key->bytes));
	*ret = key;
	return 0;
}

int crypto_key_random(struct io *io, struct crypto_key **ret)
{
	struct crypto_key *key = key_alloc();

	if (!key)
		return -ENOMEM;
	io_random(io, key->bytes, sizeof(key->bytes));
	*ret = key;
	return 0;
}

void crypto_key_id(const struct crypto_key *key,
		   uint8_t ret[CRYPTO_KEY_ID_BYTES])
{
	static const char domain[] = "holdfast key id 1";
	crypto_generichash_state state;

	crypto_generichash_init(&state, NULL, 0, CRYPTO_KEY_ID_BYTES);
	crypto_generichash_update(&state, (const uint8_t *)domain,
				  sizeof(domain));
	crypto_generichash_update(&state, key->bytes, sizeof(key->bytes));
	crypto_generichash_final(&state, ret, CRYPTO_KEY_ID_BYTES);
	sodium_memzero(&state, sizeof(state));
}

void crypto_key_export(const struct crypto_key *key, char ret_hex[65])
{
	sodium_bin2hex(ret_hex, KEY_HEX_DIGITS + 1, key->bytes,
		       sizeof(key->bytes));
}

/* ---- keys in files ---- */

/* The simulator's files have no descriptor, and no other users.  A group may
 * read what belongs to root, when that is how we read it: so a Kubernetes
 * Secret is mounted for a process that is not root. */
static int keyfile_check_mode(const struct io_file *file)
{
	mode_t refused = S_IRGRP | S_IWGRP | S_IRWXO;
	struct stat st;

	if (file->fd < 0)
		return 0;
	if (fstat(file->fd, &st))
		return -errno;
	if (!st.st_uid && geteuid())
		refused &= ~(mode_t)S_IRGRP;
	return st.st_mode & refused ? -E_KEY : 0;
}

static int keyfile_parse(const char *text, size_t len, struct crypto_key **ret)
{
	struct crypto_key *key;
	size_t bin_len;

	if (len == KEY_HEX_DIGITS + 1 && text[KEY_HEX_DIGITS] == '\n')
		len--;
	if (len != KEY_HEX_DIGITS)
		return -E_KEY;
	key = key_alloc();
	if (!key)
		return -ENOMEM;
	if (sodium_hex2bin(key->bytes, sizeof(key->bytes), text, len, NULL,
			   &bin_len, NULL) ||
	    bin_len != sizeof(key->bytes)) {
		crypto_key_free(key);
		return -E_KEY;
	}
	*ret = key;
	return 0;
}

int crypto_keyfile_load(struct io *io, const char *path,
			struct crypto_key **ret)
{
	char text[KEY_HEX_DIGITS + 2];
	struct io_file *file;
	size_t len;
	int err;

	err = io_open(io, path, IO_READ, &file);
	if (err)
		return err;
	err = keyfile_check_mode(file);
	if (!err)
		err = io_read(file, text, sizeof(text), 0, &len);
	if (!err)
		err = keyfile_parse(text, len, ret);
	sodium_memzero(text, sizeof(text));
	io_close(file);
	return err;
}

/* 0 when there is nothing at path. */
static int keyfile_absent(struct io *io, const char *path)
{
	struct io_file *file;
	int err = io_open(io, path, IO_READ, &file);

	if (err)
		return err == -ENOENT ? 0 : err;
	io_close(file);
	return -EEXIST;
}

static int keyfile_write(struct io *io, const char *path, const char *temporary,
			 const struct crypto_key *key)
{
	char text[KEY_HEX_DIGITS + 1];
	struct io_file *file;
	int err;

	err = io_open(io, temporary, IO_WRITE | IO_CREATE, &file);
	if (err)
		return err;
	err = io_lock(file);
	if (err)
		goto close;
	/* Looked at under the lock: nobody else is about to rename. */
	err = keyfile_absent(io, path);
	if (err)
		goto close;
	crypto_key_export(key, text);
	text[KEY_HEX_DIGITS] = '\n';
	err = io_truncate(file, 0);
	if (!err)
		err = io_write(file, text, sizeof(text), 0);
	sodium_memzero(text, sizeof(text));
	if (!err)
		err = io_sync(file);
	if (!err)
		err = io_rename(io, temporary, path);
close:
	io_close(file);
	return err;
}

static int keyfile_sync_directory(struct io *io, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory;
	int err;

	if (!slash)
		return io_sync_dir(io, ".");
	directory = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	if (!directory)
		return -ENOMEM;
	err = io_sync_dir(io, directory);
	free(directory);
	return err;
}

int crypto_keyfile_make(struct io *io, const char *path,
			struct crypto_key **ret)
{
	struct crypto_key *key = NULL, *stored = NULL;
	char *temporary = NULL;
	int err;

	err = keyfile_absent(io, path);
	if (err)
		return err;
	if (asprintf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	err = crypto_key_random(io, &key);
	if (err)
		goto out;
	err = keyfile_write(io, path, temporary, key);
	if (!err)
		err = keyfile_sync_directory(io, path);
	if (!err)
		err = crypto_keyfile_load(io, path, &stored);
	if (err)
		goto out;
	if (sodium_memcmp(key->bytes, stored->bytes, sizeof(key->bytes))) {
		err = -EAGAIN;
		goto out;
	}
	*ret = stored;
	stored = NULL;
out:
	crypto_key_free(stored);
	crypto_key_free(key);
	free(temporary);
	return err;
}

/* ---- wrapping ---- */

int crypto_wrap(struct io *io, const struct crypto_key *master,
		const struct crypto_key *key, const void *aad, size_t aad_len,
		uint8_t ret[CRYPTO_WRAPPED_BYTES])
{
	uint8_t nonce[WRAP_NONCE_BYTES];

	io_random(io, nonce, sizeof(nonce));
	memcpy(ret, nonce, sizeof(nonce));
	crypto_aead_xchacha20poly1305_ietf_encrypt(
		ret + sizeof(nonce), NULL, key->bytes, sizeof(key->bytes), aad,
		aad_len, NULL, nonce, master->bytes);
	return 0;
}

int crypto_unwrap(const struct crypto_key *master,
		  const uint8_t wrapped[CRYPTO_WRAPPED_BYTES], const void *aad,
		  size_t aad_len, struct crypto_key **ret)
{
	struct crypto_key *key = key_alloc();

	if (!key)
		return -ENOMEM;
	if (crypto_aead_xchacha20poly1305_ietf_decrypt(
		    key->bytes, NULL, NULL, wrapped + WRAP_NONCE_BYTES,
		    CRYPTO_WRAPPED_BYTES - WRAP_NONCE_BYTES, aad, aad_len,
		    wrapped, master->bytes)) {
		crypto_key_free(key);
		return -E_KEY;
	}
	*ret = key;
	return 0;
}

/* ---- hashes ---- */

struct crypto_hasher {
	crypto_generichash_state state;
};

void crypto_hash(uint8_t ret[CRYPTO_HASH_BYTES], const struct iovec *parts,
		 int part_count)
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, NULL, 0, CRYPTO_HASH_BYTES);
	for (int i = 0; i < part_count; i++)
		crypto_generichash_update(&state, parts[i].iov_base,
					  parts[i].iov_len);
	crypto_generichash_final(&state, ret, CRYPTO_HASH_BYTES);
}

int crypto_hasher_create(struct crypto_hasher **ret)
{
	struct crypto_hasher *h =
		aligned_alloc(_Alignof(struct crypto_hasher), sizeof(*h));

	if (!h)
		return -ENOMEM;
	crypto_generichash_init(&h->state, NULL, 0, CRYPTO_HASH_BYTES);
	*ret = h;
	return 0;
}

void crypto_hasher_add(struct crypto_hasher *h, const void *data, size_t len)
{
	crypto_generichash_update(&h->state, data, len);
}

void crypto_hasher_finish(struct crypto_hasher *h,
			  uint8_t ret[CRYPTO_HASH_BYTES])
{
	if (ret)
		crypto_generichash_final(&h->state, ret, CRYPTO_HASH_BYTES);
	sodium_memzero(h, sizeof(*h));
	free(h);
}

/* ---- passwords ---- */

int crypto_password_hash(const char *password,
			 char ret[CRYPTO_PASSWORD_HASH_BYTES])
{
	char text[CRYPTO_PASSWORD_HASH_BYTES];

	if (crypto_pwhash_str(text, password, strlen(password),
			      crypto_pwhash_OPSLIMIT_INTERACTIVE,
			      crypto_pwhash_MEMLIMIT_INTERACTIVE))
		return -ENOMEM;
	memcpy(ret, text, sizeof(text));
	return 0;
}

int crypto_password_verify(const char *hash, const char *password)
{
	if (!crypto_password_hash_is_valid(hash) ||
	    crypto_pwhash_str_verify(hash, password, strlen(password)))
		return -E_REFUSED;
	return 0;
}

int crypto_password_hash_is_valid(const char *hash)
{
	static const char prefix[] = "$argon2id$";

	if (strncmp(hash, prefix, sizeof(prefix) - 1) ||
	    strlen(hash) >= CRYPTO_PASSWORD_HASH_BYTES)
		return 0;
	/* -1 means that it cannot be parsed; other limits than ours are
	 * fine. */
	return crypto_pwhash_str_needs_rehash(
		       hash, crypto_pwhash_OPSLIMIT_INTERACTIVE,
		       crypto_pwhash_MEMLIMIT_INTERACTIVE) >= 0;
}

/* ---- the rest ---- */

int crypto_init(void)
{
	if (sodium_init() < 0)
		return -ENOSYS;
	return crypto_aead_init();
}

void crypto_zero(void *p, size_t len)
{
	sodium_memzero(p, len);
}
