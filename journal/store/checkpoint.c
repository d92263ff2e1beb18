/* journal/store/checkpoint.c: the files that checkpoints are.
 *
 * Crash argument.  The blob is written and synced under a temporary name and
 * then renamed; the rename is made durable before anyone is told.  Killed
 * before the rename there is a temporary file that nobody reads; killed after
 * it there is a whole checkpoint that no record names, which is as good as
 * any other, because it holds committed records only. */
#include "journal/store/checkpoint_format.h"

#include <inttypes.h>
#include <string.h>

#define KIND "STATE"
#define TEMPORARY ".tmp"

static int write_blob(const struct checkpoint_place *place, const char *path,
		      struct state *s, const struct log_position *p,
		      uint8_t ret_hash[CRYPTO_HASH_BYTES], uint64_t *ret_bytes)
{
	struct blob_writer *blob;
	int err = blob_create(&place->identity, path, KIND, &blob);

	if (err)
		return err;
	err = checkpoint_put_state(s, p, blob);
	if (!err)
		return blob_finish(blob, ret_hash, ret_bytes);
	blob_abandon(blob);
	return err;
}

static int make_path(const struct checkpoint_place *place, const char *name,
		     const char *suffix, char ret[CHECKPOINT_PATH_MAX])
{
	int n = snprintf(ret, CHECKPOINT_PATH_MAX,
			 "%s/" CHECKPOINT_DIR "%s%s%s", place->dir,
			 *name ? "/" : "", name, suffix);

	return n < 0 || n >= (int)CHECKPOINT_PATH_MAX ? -ENAMETOOLONG : 0;
}

int checkpoint_write(const struct checkpoint_place *place, struct state *s,
		     const struct log_position *p, uint32_t epoch,
		     struct checkpoint_file *ret,
		     uint8_t ret_hash[CRYPTO_HASH_BYTES], uint64_t *ret_bytes)
{
	struct io *io = place->identity.io;
	struct checkpoint_file file = {.epoch = epoch, .lsn = p->lsn};
	char path[CHECKPOINT_PATH_MAX], temporary[CHECKPOINT_PATH_MAX];
	char dir[CHECKPOINT_PATH_MAX];
	int err;

	snprintf(file.name, sizeof(file.name),
		 "%08" PRIx32 "-%016" PRIx64 ".ckpt", epoch, p->lsn);
	if (make_path(place, "", "", dir) ||
	    make_path(place, file.name, "", path) ||
	    make_path(place, file.name, TEMPORARY, temporary))
		return -ENAMETOOLONG;
	err = write_blob(place, temporary, s, p, ret_hash, ret_bytes);
	if (!err)
		err = io_rename(io, temporary, path);
	/* It has its name now, so what fails from here on is final. */
	if (!err && io_sync_dir(io, dir))
		return -EIO;
	if (!err)
		*ret = file;
	/* Half a file takes space, which may be what was missing.  Nobody
	 * reads it, so a failure to remove it changes nothing. */
	else if (io_unlink(io, temporary))
		return err;
	return err;
}

int checkpoint_read(const struct checkpoint_place *place, const char *name,
		    struct state *s, struct log_position *ret)
{
	struct log_position position = {0};
	char path[CHECKPOINT_PATH_MAX];
	struct blob_reader *blob;
	int err = make_path(place, name, "", path);

	if (!err)
		err = blob_open(&place->identity, path, KIND, NULL, &blob);
	if (err)
		return err;
	err = checkpoint_get_state(blob, s, &position);
	blob_close(blob);
	if (!err)
		*ret = position;
	return err;
}

int checkpoint_verify(const struct checkpoint_place *place, const char *name,
		      const uint8_t hash[CRYPTO_HASH_BYTES])
{
	char path[CHECKPOINT_PATH_MAX];
	int err = make_path(place, name, "", path);

	return err ? err : blob_verify(place->identity.io, path, hash, NULL);
}

/* ---- the directory ---- */

/* Exactly `digits` lower-case hexadecimal digits. */
static int parse_hex(const char *text, unsigned digits, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < digits; i++) {
		static const char all[] = "0123456789abcdef";
		const char *at = text[i] ? strchr(all, text[i]) : NULL;

		if (!at)
			return -EINVAL;
		v = v << 4 | (uint64_t)(at - all);
	}
	*ret = v;
	return 0;
}

int checkpoint_parse(const char *name, struct checkpoint_file *ret)
{
	uint64_t epoch, lsn;

	if (strlen(name) != CHECKPOINT_NAME_BYTES - 1 ||
	    parse_hex(name, 8, &epoch) || name[8] != '-' ||
	    parse_hex(name + 9, 16, &lsn) || strcmp(name + 25, ".ckpt") != 0)
		return -EINVAL;
	ret->epoch = (uint32_t)epoch;
	ret->lsn = lsn;
	memcpy(ret->name, name, CHECKPOINT_NAME_BYTES);
	return 0;
}

struct listing {
	struct checkpoint_file *files;
	size_t count, max;
};

/* Names come in rising order; the oldest makes room. */
static int list_one(void *ctx, const char *name)
{
	struct checkpoint_file file;
	struct listing *l = ctx;

	if (checkpoint_parse(name, &file))
		return 0;
	if (l->count == l->max)
		l->count--;
	memmove(l->files + 1, l->files, l->count * sizeof(file));
	l->files[0] = file;
	l->count++;
	return 0;
}

int checkpoint_list(const struct checkpoint_place *place,
		    struct checkpoint_file *ret, size_t max, size_t *ret_count)
{
	struct listing l = {.files = ret, .max = max};
	char dir[CHECKPOINT_PATH_MAX];
	int err = make_path(place, "", "", dir);

	if (!err)
		err = io_list(place->identity.io, dir, list_one, &l);
	if (!err)
		*ret_count = l.count;
	return err;
}

struct removal {
	const struct checkpoint_place *place;
	uint32_t epoch;
	const struct checkpoint_file *keep;
	size_t keep_count, removed;
};

static int remove_one(void *ctx, const char *name)
{
	struct removal *r = ctx;
	struct checkpoint_file file;
	char path[CHECKPOINT_PATH_MAX], base[CHECKPOINT_NAME_BYTES];
	int err;

	snprintf(base, sizeof(base), "%s", name);
	if (checkpoint_parse(base, &file) || file.epoch > r->epoch ||
	    (strcmp(name, base) != 0 &&
	     strcmp(name + strlen(base), TEMPORARY) != 0))
		return 0;
	for (size_t i = 0; i < r->keep_count; i++)
		if (!strcmp(name, r->keep[i].name))
			return 0;
	err = make_path(r->place, name, "", path);
	if (!err)
		err = io_unlink(r->place->identity.io, path);
	r->removed += !err;
	return err == -ENOENT ? 0 : err;
}

int checkpoint_remove_others(const struct checkpoint_place *place,
			     uint32_t epoch, const struct checkpoint_file *keep,
			     size_t keep_count)
{
	struct removal r = {place, epoch, keep, keep_count, 0};
	char dir[CHECKPOINT_PATH_MAX];
	int err = make_path(place, "", "", dir);

	if (!err)
		err = io_list(place->identity.io, dir, remove_one, &r);
	if (!err && r.removed)
		err = io_sync_dir(place->identity.io, dir);
	return err;
}
