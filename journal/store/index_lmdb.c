/* journal/store/index_lmdb.c: the index, on LMDB.
 *
 * Crash argument: there is none to make.  The file is removed before it is
 * opened and never synced; its contents are sealed under a key that ends with
 * the process.  So it cannot be stale, and a run of garbage in its place costs
 * nothing.
 *
 * Changes are collected in a *batch* in memory and written in one transaction.
 * A transaction that fails, for want of space or otherwise, leaves the batch as
 * it was: nothing that put() has taken is lost while the process lives.
 *
 * LMDB runs without its lock file (MDB_NOLOCK): there is one thread and one
 * process, and a second one on the same directory has a file of its own, since
 * each begins by unlinking. */
#include "journal/store/index.h"

#include <lmdb.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"

#define BYTES_DEFAULT (16ull << 30)
#define BYTES_MIN (1ull << 20)
#define KEY_BYTES 16u	 /* of a BLAKE2b hash: LMDB's key */
#define COUNTER_BYTES 8u /* of a nonce; the rest is zero */
#define OVERHEAD_BYTES (COUNTER_BYTES + CRYPTO_TAG_BYTES)
#define BATCH_PUTS 128u
#define BATCH_BYTES (1024u * 1024u)
/* Removals make room: there is a place for them when puts are refused. */
#define BATCH_MAX (2 * BATCH_PUTS)
#define REFUSALS 64u /* puts, between two attempts to write when full */
/* Pages that were looked at count as the process's memory (and the kernel maps
 * 16 around each); so often they are given back. */
#define LOOKS_MAX 256u

struct change {
	uint8_t key[KEY_BYTES];
	uint8_t *sealed; /* counter, tag, ciphertext; NULL: removed */
	size_t len;
};

struct index_lmdb {
	struct index index;
	struct io *io;
	char *dir;
	struct io_file *lock;
	MDB_env *env;
	MDB_dbi dbi;
	MDB_txn *reader; /* reset between two calls; NULL: none yet */
	uint64_t bytes_max;
	struct crypto_aead *aead;
	uint8_t hash_key[CRYPTO_KEY_BYTES];
	uint64_t counter; /* of the last nonce */
	unsigned refusals, looks;
	size_t batch_count, batch_bytes;
	struct change batch[BATCH_MAX];
};

static struct index_lmdb *of(struct index *index)
{
	return container_of(index, struct index_lmdb, index);
}

static int code(int rc)
{
	switch (rc) {
	case MDB_SUCCESS:
		return 0;
	case MDB_NOTFOUND:
		return -ENOENT;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
		return -ENOSPC;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_VERSION_MISMATCH:
	case MDB_CURSOR_FULL:
	case MDB_PAGE_FULL:
		return -E_CORRUPT;
	default:
		return rc > 0 ? -rc : -EIO;
	}
}

/* ---- keys and values ---- */

static void hash_key(const struct index_lmdb *l, const void *key, size_t len,
		     uint8_t ret[KEY_BYTES])
{
	uint8_t hash[CRYPTO_HASH_BYTES], secret[CRYPTO_KEY_BYTES];
	uint8_t plain[INDEX_KEY_MAX];
	const struct iovec parts[] = {{secret, sizeof(secret)}, {plain, len}};

	ASSERT(len && len <= INDEX_KEY_MAX);
	memcpy(secret, l->hash_key, sizeof(secret));
	memcpy(plain, key, len);
	crypto_hash(hash, parts, ARRAY_COUNT(parts));
	crypto_zero(secret, sizeof(secret));
	memcpy(ret, hash, KEY_BYTES);
}

static void nonce_of(uint64_t counter, uint8_t ret[CRYPTO_NONCE_BYTES])
{
	memset(ret, 0, CRYPTO_NONCE_BYTES);
	bytes_put64(ret, counter);
}

/* The key is authenticated with it: a value in another's place does not
 * open. */
static int seal(struct index_lmdb *l, const uint8_t key[KEY_BYTES],
		const void *value, size_t len, uint8_t **ret)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES];
	uint8_t *sealed = malloc(OVERHEAD_BYTES + len);
	int err;

	if (!sealed)
		return -ENOMEM;
	nonce_of(++l->counter, nonce);
	bytes_put64(sealed, l->counter);
	err = crypto_seal(l->aead, nonce, key, KEY_BYTES, value, len,
			  sealed + OVERHEAD_BYTES, sealed + COUNTER_BYTES);
	if (err)
		free(sealed);
	else
		*ret = sealed;
	return err;
}

static int unseal(struct index_lmdb *l, const uint8_t key[KEY_BYTES],
		  const uint8_t *sealed, size_t len, void **ret,
		  size_t *ret_len)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES];
	size_t plain_len;
	void *plain;
	int err;

	if (len < OVERHEAD_BYTES)
		return -E_CORRUPT;
	plain_len = len - OVERHEAD_BYTES;
	plain = malloc(plain_len + 1);
	if (!plain)
		return -ENOMEM;
	nonce_of(bytes_get64(sealed), nonce);
	err = crypto_open(l->aead, nonce, key, KEY_BYTES,
			  sealed + OVERHEAD_BYTES, plain_len, plain,
			  sealed + COUNTER_BYTES);
	if (err) {
		free(plain);
		return err;
	}
	*ret = plain;
	*ret_len = plain_len;
	return 0;
}

/* ---- the batch ---- */

static struct change *find_change(struct index_lmdb *l,
				  const uint8_t key[KEY_BYTES])
{
	for (size_t i = 0; i < l->batch_count; i++) {
		if (!memcmp(l->batch[i].key, key, KEY_BYTES))
			return &l->batch[i];
	}
	return NULL;
}

/* Takes sealed. */
static void set_change(struct index_lmdb *l, struct change *c, uint8_t *sealed,
		       size_t len)
{
	l->batch_bytes -= c->len;
	free(c->sealed);
	c->sealed = sealed;
	c->len = len;
	l->batch_bytes += len;
}

static struct change *new_change(struct index_lmdb *l,
				 const uint8_t key[KEY_BYTES])
{
	struct change *c = &l->batch[l->batch_count++];

	*c = (struct change){0};
	memcpy(c->key, key, KEY_BYTES);
	return c;
}

/* Forget the changes that have been written: the removals, or all others. */
static void drop_changes(struct index_lmdb *l, bool removals)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->batch_count; i++) {
		if (!l->batch[i].sealed == removals)
			set_change(l, &l->batch[i], NULL, 0);
		else
			l->batch[kept++] = l->batch[i];
	}
	l->batch_count = kept;
}

/* What the tree takes; the file may be larger by what is free in it. */
static uint64_t tree_bytes(const MDB_stat *s)
{
	return (s->ms_branch_pages + s->ms_leaf_pages + s->ms_overflow_pages) *
	       (uint64_t)s->ms_psize;
}

static int change_tree(struct index_lmdb *l, MDB_txn *txn, bool removals)
{
	MDB_stat stat;
	int rc = 0;

	for (size_t i = 0; !rc && i < l->batch_count; i++) {
		struct change *c = &l->batch[i];
		MDB_val key = {KEY_BYTES, c->key};
		MDB_val value = {c->len, c->sealed};

		if (!c->sealed != removals)
			continue;
		if (!removals)
			rc = mdb_put(txn, l->dbi, &key, &value, 0);
		else
			rc = mdb_del(txn, l->dbi, &key, NULL);
		if (removals && rc == MDB_NOTFOUND)
			rc = 0;
	}
	if (!rc && !removals)
		rc = mdb_stat(txn, l->dbi, &stat);
	if (!rc && !removals && tree_bytes(&stat) > l->bytes_max)
		rc = MDB_MAP_FULL;
	return rc;
}

static int write_changes(struct index_lmdb *l, bool removals)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(l->env, NULL, 0, &txn);

	if (rc)
		return code(rc);
	rc = change_tree(l, txn, removals);
	if (rc)
		mdb_txn_abort(txn);
	else
		rc = mdb_txn_commit(txn);
	if (!rc)
		drop_changes(l, removals);
	return code(rc);
}

static void give_back_pages(struct index_lmdb *l)
{
	MDB_envinfo info;
	MDB_stat stat;

	l->looks = 0;
	if (mdb_env_info(l->env, &info) || mdb_env_stat(l->env, &stat))
		return;
	/* The pages are the file's; this only takes them out of our map. */
	(void)madvise(info.me_mapaddr, (info.me_last_pgno + 1) * stat.ms_psize,
		      MADV_DONTNEED);
}

/* Removals first, for the room that they make. */
static int flush(struct index_lmdb *l)
{
	int err;

	if (l->refusals) {
		l->refusals--;
		return -ENOSPC;
	}
	err = write_changes(l, true);
	if (!err)
		err = write_changes(l, false);
	if (err == -ENOSPC)
		l->refusals = REFUSALS;
	give_back_pages(l);
	return err;
}

/* ---- operations ---- */

static int lmdb_put(struct index *index, const void *key, size_t key_len,
		    const void *value, size_t len)
{
	struct index_lmdb *l = of(index);
	uint8_t hashed[KEY_BYTES], *sealed;
	struct change *c;
	int err;

	hash_key(l, key, key_len, hashed);
	c = find_change(l, hashed);
	if (!c &&
	    (l->batch_count >= BATCH_PUTS || l->batch_bytes >= BATCH_BYTES)) {
		err = flush(l);
		if (err)
			return err;
	}
	err = seal(l, hashed, value, len, &sealed);
	if (err)
		return err;
	set_change(l, c ? c : new_change(l, hashed), sealed,
		   OVERHEAD_BYTES + len);
	return 0;
}

static int begin_reading(struct index_lmdb *l)
{
	return l->reader ? mdb_txn_renew(l->reader)
			 : mdb_txn_begin(l->env, NULL, MDB_RDONLY, &l->reader);
}

static int lmdb_get(struct index *index, const void *key, size_t key_len,
		    void **ret, size_t *ret_len)
{
	struct index_lmdb *l = of(index);
	uint8_t hashed[KEY_BYTES];
	const struct change *c;
	MDB_val at, value;
	int err;

	hash_key(l, key, key_len, hashed);
	c = find_change(l, hashed);
	if (c)
		return c->sealed ? unseal(l, hashed, c->sealed, c->len, ret,
					  ret_len)
				 : -ENOENT;
	err = code(begin_reading(l));
	if (err)
		return err;
	at = (MDB_val){KEY_BYTES, hashed};
	err = code(mdb_get(l->reader, l->dbi, &at, &value));
	if (!err)
		err = unseal(l, hashed, value.mv_data, value.mv_size, ret,
			     ret_len);
	mdb_txn_reset(l->reader);
	if (++l->looks >= LOOKS_MAX)
		give_back_pages(l);
	return err;
}

static int lmdb_remove(struct index *index, const void *key, size_t key_len)
{
	struct index_lmdb *l = of(index);
	uint8_t hashed[KEY_BYTES];
	struct change *c;

	hash_key(l, key, key_len, hashed);
	c = find_change(l, hashed);
	l->refusals = 0;
	if (!c && l->batch_count == BATCH_MAX) {
		int err = flush(l);

		if (err)
			return err;
	}
	set_change(l, c ? c : new_change(l, hashed), NULL, 0);
	return 0;
}

/* ---- opening and closing ---- */

/* The names that LMDB gives its files. */
static int remove_files(struct io *io, const char *dir)
{
	static const char *const names[] = {"data.mdb", "lock.mdb"};
	char path[4096];
	int err = 0;

	for (size_t i = 0; !err && i < ARRAY_COUNT(names); i++) {
		if (snprintf(path, sizeof(path), "%s/%s", dir, names[i]) >=
		    (int)sizeof(path))
			return -ENAMETOOLONG;
		err = io_unlink(io, path);
		if (err == -ENOENT)
			err = 0;
	}
	return err;
}

static void lmdb_free(struct index *index)
{
	struct index_lmdb *l = of(index);

	for (size_t i = 0; i < l->batch_count; i++)
		free(l->batch[i].sealed);
	if (l->reader)
		mdb_txn_abort(l->reader);
	if (l->env) {
		mdb_env_close(l->env);
		/* The next start does it again, should it fail. */
		(void)!remove_files(l->io, l->dir);
	}
	io_close(l->lock);
	crypto_aead_free(l->aead);
	crypto_zero(l->hash_key, sizeof(l->hash_key));
	free(l->dir);
	free(l);
}

static const struct index_ops lmdb_ops = {
	.put = lmdb_put,
	.get = lmdb_get,
	.remove = lmdb_remove,
	.free = lmdb_free,
};

bool index_lmdb_refuses(const struct io_fs *fs, const char *dir, char *why,
			size_t why_room)
{
	if (!fs->network)
		return false;
	snprintf(why, why_room,
		 "%s is on a network file system (%s), where the index cannot "
		 "be: LMDB's memory map and locks do not hold there; set "
		 "index_dir to a directory on a disk of this node (a tmpfs or "
		 "an emptyDir will do: it is rebuilt at every start)",
		 dir, fs->name);
	return true;
}

/* Held for as long as the index is open: brokers that share a data directory
 * and a node must not share an index. */
static int lock_dir(struct index_lmdb *l, char *why, size_t room)
{
	char path[4096];
	int n = snprintf(path, sizeof(path), "%s/in-use", l->dir);
	int err = n < 0 || n >= (int)sizeof(path) ? -ENAMETOOLONG : 0;

	if (!err)
		err = io_open(l->io, path, IO_WRITE | IO_CREATE, &l->lock);
	if (!err)
		err = io_lock(l->lock);
	if (err == -EAGAIN)
		snprintf(why, room,
			 "another broker has its index in %s; set index_dir "
			 "to a directory of this one's own",
			 l->dir);
	return err;
}

static int make_dir(struct index_lmdb *l, const struct index_lmdb_options *o,
		    char *why, size_t room)
{
	struct io_fs fs;
	char parent[4096];
	const char *slash = strrchr(o->dir, '/');
	int err = io_fs_info(o->io, o->dir, &fs);

	if (err == -ENOENT) {
		snprintf(parent, sizeof(parent), "%.*s",
			 slash ? (int)base_max(slash - o->dir, 1) : 1,
			 slash ? o->dir : ".");
		err = io_fs_info(o->io, parent, &fs);
	}
	if (!err && index_lmdb_refuses(&fs, o->dir, why, room))
		return -EINVAL;
	if (!err)
		err = io_mkdir(o->io, o->dir);
	if (!err)
		err = lock_dir(l, why, room);
	if (!err)
		err = remove_files(o->io, o->dir);
	return err;
}

static int make_keys(struct index_lmdb *l)
{
	struct crypto_key *key;
	int err = crypto_key_random(l->io, &key);

	if (err)
		return err;
	err = crypto_aead_create(key, &l->aead);
	crypto_key_free(key);
	io_random(l->io, l->hash_key, sizeof(l->hash_key));
	return err;
}

/* Room beyond bytes_max: a removal writes copies of pages before it frees
 * any. */
static size_t map_bytes(uint64_t bytes_max)
{
	return (size_t)((bytes_max + bytes_max / 4 + (16u << 20)) &
			~(uint64_t)(IO_BLOCK - 1));
}

static int open_env(struct index_lmdb *l)
{
	MDB_txn *txn;
	int rc = mdb_env_create(&l->env);

	if (!rc)
		rc = mdb_env_set_mapsize(l->env, map_bytes(l->bytes_max));
	if (!rc)
		rc = mdb_env_open(l->env, l->dir,
				  MDB_NOLOCK | MDB_NOTLS | MDB_NOSYNC |
					  MDB_NOMETASYNC | MDB_NORDAHEAD |
					  MDB_NOMEMINIT,
				  0600);
	if (!rc)
		rc = mdb_txn_begin(l->env, NULL, 0, &txn);
	if (rc)
		return code(rc);
	rc = mdb_dbi_open(txn, NULL, 0, &l->dbi);
	if (rc)
		mdb_txn_abort(txn);
	else
		rc = mdb_txn_commit(txn);
	return code(rc);
}

int index_lmdb_open(const struct index_lmdb_options *o, struct index **ret,
		    char *why, size_t why_room)
{
	struct index_lmdb *l = calloc(1, sizeof(*l));
	int err;

	why[0] = 0;
	if (!l)
		return -ENOMEM;
	l->index.ops = &lmdb_ops;
	l->io = o->io;
	l->bytes_max = base_max(o->bytes_max ? o->bytes_max : BYTES_DEFAULT,
				BYTES_MIN);
	l->dir = strdup(o->dir);
	err = l->dir ? make_dir(l, o, why, why_room) : -ENOMEM;
	if (!err)
		err = make_keys(l);
	if (!err)
		err = open_env(l);
	if (!err) {
		*ret = &l->index;
		return 0;
	}
	if (!why[0])
		snprintf(why, why_room,
			 "the index in %s cannot be made: %s; set index_dir to "
			 "a directory on a disk of this node",
			 o->dir, err_str(err));
	lmdb_free(&l->index);
	return err;
}

void index_lmdb_stat(struct index *index, uint64_t *ret_entries,
		     uint64_t *ret_bytes)
{
	struct index_lmdb *l = of(index);
	MDB_envinfo info = {0};
	MDB_stat stat = {0};

	/* What cannot be written now is not on the disk. */
	(void)!flush(l);
	if (mdb_env_stat(l->env, &stat) || mdb_env_info(l->env, &info))
		stat = (MDB_stat){0};
	*ret_entries = stat.ms_entries;
	*ret_bytes = (info.me_last_pgno + 1) * (uint64_t)stat.ms_psize;
}
