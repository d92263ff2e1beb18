/* journal/log/claim.c: whose directory this is, and who may write to it.
 *
 * Seal, then read; write, then check.  A claim is a file that is exactly
 * LOG_CLAIM_BYTES long for as long as nobody has sealed it.  A new leader
 * makes its own claim durable, then appends a seal to every lower one, and
 * only then reads the journal.  A leader compares its claim's size with
 * LOG_CLAIM_BYTES after each write is durable and before it acknowledges.
 *
 * So: acknowledged => the check saw no seal => the next leader's seal, and
 * hence its reading, came after that write was durable => it is in what the
 * next leader reads.  Locks and clocks play no part in this.
 *
 * Claims are made in turn, one number after the other, and sealed from the
 * lowest up, each durably before the next: so below a sealed one all are, for
 * good but for that one, whose seal may still be on its way.
 *
 * Sizes only grow, and a seal is repeated until the file is longer than a
 * claim, so a claim sealed while its owner is still writing it, or torn by a
 * crash, can never again have the size that passes the check. */
#include "base/crc32c.h"
#include "journal/log/internal.h"

#define CLAIM_VERSION 1u
#define CLUSTER_BYTES 64u
#define SEAL_ATTEMPT_COUNT_MAX 8
#define LOCK_ATTEMPT_COUNT 100
#define LOCK_ATTEMPT_NS 10000000u

static const char cluster_magic[8] = "HFCLUSTR";
static const char claim_magic[8] = "HFCLAIM";
static const char seal_magic[8] = "HFSEAL";

/* ---- the cluster file ---- */

static void cluster_encode(const struct log_cluster *c,
			   uint8_t out[CLUSTER_BYTES])
{
	memset(out, 0, CLUSTER_BYTES);
	memcpy(out, cluster_magic, 8);
	bytes_put16(out + 8, CLAIM_VERSION);
	memcpy(out + 16, c->cluster_id, LOG_ID_BYTES);
	memcpy(out + 32, c->master_id, CRYPTO_KEY_ID_BYTES);
	bytes_put32(out + 60, crc32c(0, out, 60));
}

int log_cluster_load(struct io *io, const char *dir, struct log_cluster *ret)
{
	uint8_t raw[CLUSTER_BYTES + 1];
	char path[LOG_PATH_BYTES];
	struct io_file *file;
	size_t len = 0;
	int err;

	log_path(path, dir, "cluster");
	err = io_open(io, path, IO_READ, &file);
	if (err)
		return err;
	err = io_read(file, raw, sizeof(raw), 0, &len);
	io_close(file);
	if (err)
		return err;
	if (len != CLUSTER_BYTES || memcmp(raw, cluster_magic, 8) != 0 ||
	    bytes_get32(raw + 60) != crc32c(0, raw, 60))
		return -E_CORRUPT;
	if (bytes_get16(raw + 8) != CLAIM_VERSION)
		return -E_VERSION;
	memcpy(ret->cluster_id, raw + 16, LOG_ID_BYTES);
	memcpy(ret->master_id, raw + 32, CRYPTO_KEY_ID_BYTES);
	return 0;
}

/* The name goes last: a file whose sync failed, or was never reached, may read
 * well for as long as it is cached, and must not be found. */
static int cluster_write(struct log *log, const char *path)
{
	uint8_t raw[CLUSTER_BYTES];
	char fresh[LOG_PATH_BYTES];
	struct log_cluster c;
	struct io_file *file;
	int err;

	io_random(log->io, c.cluster_id, LOG_ID_BYTES);
	memcpy(c.master_id, log->master_id, CRYPTO_KEY_ID_BYTES);
	cluster_encode(&c, raw);
	log_path(fresh, log->options.dir, "cluster.new");
	err = io_unlink(log->io, fresh);
	if (err && err != -ENOENT)
		return err;
	err = io_open(log->io, fresh, IO_WRITE | IO_CREATE | IO_EXCLUSIVE,
		      &file);
	if (err)
		return err;
	err = io_write(file, raw, sizeof(raw), 0);
	if (!err)
		err = io_sync(file);
	io_close(file);
	if (!err)
		err = io_rename(log->io, fresh, path);
	return err ? err : io_sync_dir(log->io, log->options.dir);
}

static int stop_at_first(void *ctx, const char *name)
{
	return 1;
}

/* Takes leader.lock in so many attempts: after a SIGKILL a ring can keep its
 * files' locks alive for tens of milliseconds. */
static int claim_lock(struct log *log, int attempt_count, struct io_file **ret)
{
	char path[LOG_PATH_BYTES];
	struct io_file *file;
	int err;

	log_path(path, log->options.dir, "leader.lock");
	err = io_open(log->io, path, IO_WRITE | IO_CREATE, &file);
	if (err)
		return err;
	for (int i = 0;; i++) {
		err = io_lock(file);
		if (err != -EAGAIN || i + 1 >= attempt_count)
			break;
		io_pause(log->io, LOCK_ATTEMPT_NS);
	}
	if (err) {
		io_close(file);
		return err;
	}
	*ret = file;
	return 0;
}

int log_try_lock(struct log *log)
{
	return log->lock ? 0 : claim_lock(log, 1, &log->lock);
}

void log_unlock(struct log *log)
{
	io_close(log->lock);
	log->lock = NULL;
}

bool log_is_locked(const struct log *log)
{
	return log->lock;
}

/* Makes the cluster file, under the lock so that two first starts do not make
 * two.  A damaged one may be replaced for as long as there is no claim:
 * nothing can have been written under it. */
static int cluster_make(struct log *log, struct log_cluster *ret)
{
	char path[LOG_PATH_BYTES], epochs[LOG_PATH_BYTES];
	struct io_file *lock;
	int err = claim_lock(log, LOCK_ATTEMPT_COUNT, &lock);

	if (err) {
		log_set_why(log,
			    "%s/leader.lock is held by another process that "
			    "is making this directory",
			    log->options.dir);
		return err;
	}
	log_path(path, log->options.dir, "cluster");
	log_path(epochs, log->options.dir, "epochs");
	err = log_cluster_load(log->io, log->options.dir, ret);
	if (err == -E_CORRUPT || err == -ENOENT) {
		int used = io_list(log->io, epochs, stop_at_first, NULL);

		if (used == 1) {
			log_set_why(log,
				    "%s is damaged or missing but the "
				    "directory has been used: restore this "
				    "file from a backup",
				    path);
			err = -E_CORRUPT;
			goto out;
		}
		if (!used && err == -E_CORRUPT)
			used = io_unlink(log->io, path);
		/* Whoever made a directory whose parent we may not read has
		 * made it durable, too. */
		err = used ? used : log_sync_parent(log->io, log->options.dir);
		if (err == -EACCES)
			err = 0;
		if (!err)
			err = cluster_write(log, path);
		if (!err)
			err = log_cluster_load(log->io, log->options.dir, ret);
	}
	if (err)
		log_set_why(log, "cannot make %s (%s)", path, err_str(err));
out:
	io_close(lock);
	return err;
}

int log_claim_open(struct log *log)
{
	static const char *const names[] = {"segments", "epochs",
					    "checkpoints"};
	char path[LOG_PATH_BYTES];
	struct log_cluster c;
	int err = io_mkdir(log->io, log->options.dir);

	for (size_t i = 0; !err && i < ARRAY_COUNT(names); i++) {
		log_path(path, log->options.dir, names[i]);
		err = io_mkdir(log->io, path);
	}
	if (!err)
		err = io_sync_dir(log->io, log->options.dir);
	if (err) {
		log_set_why(log, "cannot make the directories in %s (%s)",
			    log->options.dir, err_str(err));
		return err;
	}
	err = log_cluster_load(log->io, log->options.dir, &c);
	if (err == -ENOENT || err == -E_CORRUPT) {
		err = cluster_make(log, &c);
		/* Whoever has made it meanwhile may lead already. */
		if (err == -EAGAIN)
			err = log_cluster_load(log->io, log->options.dir, &c);
		if (err)
			return err;
	}
	/* Whoever gave it its name may not have come to this. */
	if (!err)
		err = io_sync_dir(log->io, log->options.dir);
	if (err) {
		log_set_why(log, "cannot read %s/cluster (%s)",
			    log->options.dir, err_str(err));
		return err;
	}
	if (memcmp(c.master_id, log->master_id, CRYPTO_KEY_ID_BYTES) != 0) {
		log_set_why(log,
			    "the master key is not the one that %s was made "
			    "with: configure the right key file",
			    log->options.dir);
		return -E_KEY;
	}
	memcpy(log->cluster_id, c.cluster_id, LOG_ID_BYTES);
	return 0;
}

/* ---- claims and seals ---- */

static void claim_path(const struct log *log, uint32_t epoch,
		       char ret[LOG_PATH_BYTES])
{
	snprintf(ret, LOG_PATH_BYTES, "%s/epochs/%08x", log->options.dir,
		 (unsigned)epoch);
}

static void claim_encode(struct log *log, const char magic[8], uint32_t epoch,
			 uint8_t out[LOG_CLAIM_BYTES])
{
	memset(out, 0, LOG_CLAIM_BYTES);
	memcpy(out, magic, 8);
	bytes_put16(out + 8, CLAIM_VERSION);
	bytes_put32(out + 12, epoch);
	memcpy(out + 16, log->cluster_id, LOG_ID_BYTES);
	bytes_put64(out + 32, io_wall_ms(log->io));
	bytes_put32(out + 60, crc32c(0, out, 60));
}

/* "0000002a" and "0000002a-…": claims, segments, checkpoints, extents. */
static int claim_collect(void *ctx, const char *name)
{
	uint32_t *highest = ctx;
	unsigned epoch;
	int used = 0;

	if (sscanf(name, "%8x%n", &epoch, &used) == 1 && used == 8 &&
	    (!name[8] || name[8] == '-'))
		*highest = (uint32_t)base_max(*highest, epoch);
	return 0;
}

/* The highest number that anything here has; 0: none.  The claims alone should
 * tell, but a number that is used twice would destroy what was written under
 * it, and claims are small files that somebody may remove. */
static int claim_highest(struct log *log, uint32_t *ret)
{
	static const char *const dirs[] = {"epochs", "segments", "checkpoints",
					   "extents"};
	char path[LOG_PATH_BYTES];
	int err = 0;

	*ret = 0;
	for (size_t i = 0; !err && i < ARRAY_COUNT(dirs); i++) {
		log_path(path, log->options.dir, dirs[i]);
		err = io_list(log->io, path, claim_collect, ret);
		if (err == -ENOENT)
			err = 0;
	}
	return err;
}

/* A mutant's. */
static int claim_same(struct log *log, uint32_t epoch)
{
	char path[LOG_PATH_BYTES];

	log->epoch = epoch;
	claim_path(log, epoch, path);
	return io_open(log->io, path, IO_WRITE | IO_APPEND, &log->claim);
}

/* Creates our claim above all others, durable, and keeps it open.  The listing
 * is where to begin, not what is believed: a number that turns out to be
 * taken, by somebody who was quicker or that a cached listing does not show,
 * is passed by. */
static int claim_make(struct log *log)
{
	char path[LOG_PATH_BYTES], dir[LOG_PATH_BYTES];
	uint8_t raw[LOG_CLAIM_BYTES];
	uint32_t epoch;
	int err;

	log_path(dir, log->options.dir, "epochs");
	err = claim_highest(log, &epoch);
	if (err)
		return err;
	if (MUTANT(SAME_EPOCH) && epoch)
		return claim_same(log, epoch);
	do {
		if (epoch == UINT32_MAX)
			return -E_LIMIT;
		epoch++;
		claim_path(log, epoch, path);
		err = io_open(log->io, path,
			      IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_APPEND,
			      &log->claim);
	} while (err == -EEXIST);
	if (err)
		return err;
	claim_encode(log, claim_magic, epoch, raw);
	err = io_write(log->claim, raw, sizeof(raw), 0);
	if (!err)
		err = io_sync(log->claim);
	if (!err)
		err = io_sync_dir(log->io, dir);
	if (!err)
		log->epoch = epoch;
	return err;
}

/* Whether a claim has been sealed: 1 or 0. */
static int claim_is_sealed(struct log *log, uint32_t epoch)
{
	char path[LOG_PATH_BYTES];
	struct io_file *file;
	uint64_t size = 0;
	int err;

	claim_path(log, epoch, path);
	err = io_open(log->io, path, IO_WRITE | IO_APPEND, &file);
	if (err)
		return err;
	err = io_size(file, &size);
	io_close(file);
	return err ? err : size > LOG_CLAIM_BYTES;
}

/* Appends a seal of our own, also where there is one: another candidate's may
 * not be durable yet, and we cannot make it so from another machine. */
static int claim_seal(struct log *log, uint32_t epoch)
{
	uint8_t raw[LOG_CLAIM_BYTES];
	char path[LOG_PATH_BYTES];
	struct io_file *file;
	uint64_t size = 0;
	int err;

	claim_path(log, epoch, path);
	err = io_open(log->io, path, IO_WRITE | IO_APPEND, &file);
	if (err)
		return err;
	claim_encode(log, seal_magic, log->epoch, raw);
	for (int i = 0; !err && size <= LOG_CLAIM_BYTES; i++) {
		err = i < SEAL_ATTEMPT_COUNT_MAX
			      ? io_write(file, raw, sizeof(raw), 0)
			      : -EIO;
		if (!err)
			err = io_size(file, &size);
	}
	if (!err)
		err = io_sync(file);
	io_close(file);
	return err;
}

int log_claim_verify(struct log *log)
{
	uint64_t size;
	int err = io_size(log->claim, &size);

	if (!err && size != LOG_CLAIM_BYTES)
		err = -E_FENCED;
	return err;
}

/* Down to the first that is sealed, and up again from there.  By number, not by
 * what a listing shows: a claim that is missing is one that somebody has
 * deleted, and hides none below it. */
static int claim_seal_all(struct log *log)
{
	uint32_t epoch = log->epoch;
	int err = 0;

	while (epoch > 1 && err != 1) {
		err = claim_is_sealed(log, --epoch);
		if (err < 0 && err != -ENOENT)
			return err;
	}
	if (MUTANT(SEAL_ONE) && epoch < log->epoch)
		epoch = log->epoch - 1;
	for (err = 0; !err && epoch < log->epoch && !MUTANT(NO_SEAL); epoch++) {
		err = claim_seal(log, epoch);
		if (err == -ENOENT)
			err = 0;
	}
	return err;
}

int log_claim_seal_late(struct log *log)
{
	return claim_seal_all(log);
}

/* Claims the next epoch and seals all before it. */
static int claim_take(struct log *log)
{
	struct log_cluster c;
	int err = log_cluster_load(log->io, log->options.dir, &c);

	if (!err && memcmp(c.cluster_id, log->cluster_id, LOG_ID_BYTES) != 0)
		err = -E_CORRUPT;
	if (!err)
		err = claim_make(log);
	if (!err && !MUTANT(READ_FIRST))
		err = claim_seal_all(log);
	if (!err)
		err = log_claim_verify(log);
	if (err) {
		log_set_why(log, "cannot claim %s (%s)", log->options.dir,
			    err_str(err));
		log_claim_close(log);
	}
	return err;
}

int log_claim(struct log *log)
{
	int err = 0;

	ASSERT(!log->claim);
	if (!log->lock)
		err = claim_lock(log, LOCK_ATTEMPT_COUNT, &log->lock);
	if (err) {
		log_set_why(
			log,
			err == -EAGAIN
				? "%s/leader.lock is held by another process"
				: "cannot lock %s/leader.lock",
			log->options.dir);
		return err;
	}
	return claim_take(log);
}

int log_steal(struct log *log)
{
	ASSERT(!log->claim);
	return claim_take(log);
}

void log_claim_close(struct log *log)
{
	io_close(log->claim);
	io_close(log->lock);
	log->claim = log->lock = NULL;
}
