/* journal/log/segment.c: segment files, and the registry of those that exist.
 *
 * A file is made under `<name>.tmp`: allocated, its header block written (and
 * as much of the rest zeroed as there is time for), synced, then renamed and
 * the directory synced.  Only then may a frame be written.  So a crash leaves
 * either a temporary name, which never held a frame, or a file whose header
 * and wrapped data key are durable: a bad header under the final name is
 * damage, never a torn creation.
 *
 * Zeroing ends before the file is handed to the writer, so no zero can ever
 * land on a block that has been written. */
#include "base/crc32c.h"
#include "journal/log/internal.h"

#define SEGMENT_VERSION 1u

enum segment_at {
	AT_MAGIC = 0,
	AT_VERSION = 8,
	AT_CLUSTER = 16,
	AT_KEY = 32,
	AT_BYTES = 40,
	AT_MASTER_ID = 48,
	AT_KEY_ID = 64,
	AT_WRAPPED = 80,
	AT_MADE_MS = 152,
	AT_END = 160,
	AT_CRC = 4092,
};

static const char segment_magic[8] = "HFSEG";
static const char wrap_domain[] = "holdfast segment key 1";

void log_segment_header_encode(const struct log_segment_header *h,
			       uint8_t out[IO_BLOCK])
{
	memset(out, 0, IO_BLOCK);
	memcpy(out + AT_MAGIC, segment_magic, sizeof(segment_magic));
	bytes_put16(out + AT_VERSION, SEGMENT_VERSION);
	memcpy(out + AT_CLUSTER, h->cluster_id, LOG_ID_BYTES);
	bytes_put64(out + AT_KEY, h->key);
	bytes_put64(out + AT_BYTES, h->bytes);
	memcpy(out + AT_MASTER_ID, h->master_id, CRYPTO_KEY_ID_BYTES);
	memcpy(out + AT_KEY_ID, h->key_id, CRYPTO_KEY_ID_BYTES);
	memcpy(out + AT_WRAPPED, h->wrapped, CRYPTO_WRAPPED_BYTES);
	bytes_put64(out + AT_MADE_MS, h->made_ms);
	bytes_put32(out + AT_CRC, crc32c(0, out, AT_CRC));
}

int log_segment_header_decode(const uint8_t raw[IO_BLOCK],
			      struct log_segment_header *ret)
{
	struct log_segment_header h;

	if (memcmp(raw, segment_magic, sizeof(segment_magic)) != 0 ||
	    bytes_get32(raw + AT_CRC) != crc32c(0, raw, AT_CRC))
		return -E_CORRUPT;
	if (bytes_get16(raw + AT_VERSION) != SEGMENT_VERSION)
		return -E_VERSION;
	memcpy(h.cluster_id, raw + AT_CLUSTER, LOG_ID_BYTES);
	h.key = bytes_get64(raw + AT_KEY);
	h.bytes = bytes_get64(raw + AT_BYTES);
	memcpy(h.master_id, raw + AT_MASTER_ID, CRYPTO_KEY_ID_BYTES);
	memcpy(h.key_id, raw + AT_KEY_ID, CRYPTO_KEY_ID_BYTES);
	memcpy(h.wrapped, raw + AT_WRAPPED, CRYPTO_WRAPPED_BYTES);
	h.made_ms = bytes_get64(raw + AT_MADE_MS);
	if (h.bytes < 2 * IO_BLOCK || h.bytes > LOG_SEGMENT_BYTES_MAX ||
	    h.bytes % IO_BLOCK)
		return -E_CORRUPT;
	*ret = h;
	return 0;
}

/* What a data key is wrapped with: it opens for its own segment only. */
#define WRAP_AAD_BYTES (sizeof(wrap_domain) + LOG_ID_BYTES + 8)

static void segment_wrap_aad(const struct log_segment_header *h,
			     uint8_t ret[WRAP_AAD_BYTES])
{
	memcpy(ret, wrap_domain, sizeof(wrap_domain));
	memcpy(ret + sizeof(wrap_domain), h->cluster_id, LOG_ID_BYTES);
	bytes_put64(ret + sizeof(wrap_domain) + LOG_ID_BYTES, h->key);
}

int log_segment_wrap(struct io *io, const struct crypto_key *master,
		     const struct crypto_key *key, struct log_segment_header *h)
{
	uint8_t aad[WRAP_AAD_BYTES];

	segment_wrap_aad(h, aad);
	return crypto_wrap(io, master, key, aad, sizeof(aad), h->wrapped);
}

int log_segment_unwrap(const struct crypto_key *master,
		       const struct log_segment_header *h,
		       struct crypto_key **ret)
{
	uint8_t aad[WRAP_AAD_BYTES];

	segment_wrap_aad(h, aad);
	return crypto_unwrap(master, h->wrapped, aad, sizeof(aad), ret);
}

void log_segment_path(const char *dir, uint64_t key, char ret[LOG_PATH_BYTES])
{
	snprintf(ret, LOG_PATH_BYTES, "%s/segments/%08x-%08x.log", dir,
		 (unsigned)(key >> 32), (unsigned)key);
}

static void segment_tmp_path(const char *dir, uint64_t key,
			     char ret[LOG_PATH_BYTES])
{
	snprintf(ret, LOG_PATH_BYTES, "%s/segments/%08x-%08x.tmp", dir,
		 (unsigned)(key >> 32), (unsigned)key);
}

static int segment_hex8(const char *s, uint32_t *ret)
{
	uint32_t v = 0;

	for (int i = 0; i < 8; i++) {
		char c = s[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint32_t)(c - 'a' + 10);
		else
			return -EINVAL;
	}
	*ret = v;
	return 0;
}

static bool segment_parse(const char *name, const char *suffix,
			  uint64_t *ret_key)
{
	uint32_t epoch, sequence;

	if (strlen(name) != 17 + strlen(suffix) || name[8] != '-' ||
	    segment_hex8(name, &epoch) || segment_hex8(name + 9, &sequence) ||
	    strcmp(name + 17, suffix) != 0)
		return false;
	*ret_key = log_segment_key(epoch, sequence);
	return true;
}

bool log_segment_parse_name(const char *name, uint64_t *ret_key)
{
	return segment_parse(name, ".log", ret_key);
}

/* ---- making ---- */

static int sink_header(struct log *log, struct log_sink *s, uint64_t key,
		       uint64_t bytes)
{
	struct crypto_key *data_key;
	int err;

	s->header.key = key;
	s->header.bytes = bytes;
	s->header.made_ms = io_wall_ms(log->io);
	memcpy(s->header.cluster_id, log->cluster_id, LOG_ID_BYTES);
	memcpy(s->header.master_id, log->master_id, CRYPTO_KEY_ID_BYTES);
	err = crypto_key_random(log->io, &data_key);
	if (err)
		return err;
	crypto_key_id(data_key, s->header.key_id);
	err = log_segment_wrap(log->io, log->options.master, data_key,
			       &s->header);
	if (!err)
		err = crypto_aead_create(data_key, &s->aead);
	crypto_key_free(data_key);
	return err;
}

int log_sink_begin(struct log *log, uint64_t key, uint64_t bytes,
		   struct log_sink **ret)
{
	struct log_sink *s = calloc(1, sizeof(*s));
	uint8_t *block = io_buffer_alloc(IO_BLOCK);
	char path[LOG_PATH_BYTES];
	int err = -ENOMEM;

	if (!s || !block)
		goto fail;
	err = sink_header(log, s, key, bytes);
	if (err)
		goto fail;
	segment_tmp_path(log->options.dir, key, path);
	err = io_open(log->io, path,
		      IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT,
		      &s->file);
	if (err)
		goto fail;
	log_segment_header_encode(&s->header, block);
	/* The lock lets a conforming NFS server refuse a deposed leader's
	 * late writes; safety does not rest on it. */
	err = io_lock(s->file);
	if (!err)
		err = io_allocate(s->file, bytes);
	if (!err)
		err = io_write(s->file, block, IO_BLOCK, 0);
	if (err) {
		log_sink_abandon(log, s);
		s = NULL;
		goto fail;
	}
	io_buffer_free(block);
	*ret = s;
	return 0;
fail:
	io_buffer_free(block);
	log_sink_close(s);
	return err;
}

int log_sink_zero(struct log_sink *s, const void *zeros, uint64_t offset,
		  uint64_t len)
{
	ASSERT(offset >= IO_BLOCK);
	return io_write(s->file, zeros, len, offset);
}

int log_sink_publish(struct log *log, struct log_sink *s)
{
	char from[LOG_PATH_BYTES], to[LOG_PATH_BYTES], dir[LOG_PATH_BYTES];
	int err;

	segment_tmp_path(log->options.dir, s->header.key, from);
	log_segment_path(log->options.dir, s->header.key, to);
	log_path(dir, log->options.dir, "segments");
	err = io_sync(s->file);
	if (!err)
		err = io_rename(log->io, from, to);
	if (!err)
		err = io_sync_dir(log->io, dir);
	if (!err)
		log->stats.segments_made++;
	return err;
}

void log_sink_abandon(struct log *log, struct log_sink *s)
{
	char path[LOG_PATH_BYTES];
	int err;

	segment_tmp_path(log->options.dir, s->header.key, path);
	/* A file that stays behind is removed by the next start's sweep. */
	err = io_unlink(log->io, path);
	(void)err;
	log_sink_close(s);
}

void log_sink_close(struct log_sink *s)
{
	if (!s)
		return;
	io_close(s->file);
	crypto_aead_free(s->aead);
	free(s);
}

/* ---- the registry ---- */

int log_segment_register(struct log *log, const struct log_segment_header *h,
			 uint64_t first_lsn, uint64_t end_lsn, bool active,
			 bool outside)
{
	struct log_segment *seg = calloc(1, sizeof(*seg));

	if (!seg)
		return -ENOMEM;
	seg->header = *h;
	seg->first_lsn = first_lsn;
	seg->end_lsn = end_lsn;
	seg->active = active;
	seg->outside = outside;
	seg->refs = 1;
	pthread_mutex_lock(&log->mutex);
	if (log->segment_count == log->segment_capacity) {
		size_t capacity = base_max(16, log->segment_capacity * 2);
		void *p = realloc(log->segments,
				  capacity * sizeof(*log->segments));

		if (!p) {
			pthread_mutex_unlock(&log->mutex);
			free(seg);
			return -ENOMEM;
		}
		log->segments = p;
		log->segment_capacity = capacity;
	}
	if (log->segment_count)
		ASSERT(log->segments[log->segment_count - 1]->header.key <
		       h->key);
	log->segments[log->segment_count++] = seg;
	pthread_mutex_unlock(&log->mutex);
	return 0;
}

void log_segment_forget_all(struct log *log)
{
	for (size_t i = 0; i < log->segment_count; i++)
		log_segment_put(log->segments[i]);
	log->segment_count = 0;
}

/* [m] Index of key, or segment_count. */
static size_t segment_find(const struct log *log, uint64_t key)
{
	size_t low = 0, high = log->segment_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (log->segments[mid]->header.key < key)
			low = mid + 1;
		else
			high = mid;
	}
	if (low < log->segment_count && log->segments[low]->header.key == key)
		return low;
	return log->segment_count;
}

struct log_segment *log_segment_get(struct log *log, uint64_t key)
{
	struct log_segment *seg = NULL;
	size_t i;

	pthread_mutex_lock(&log->mutex);
	i = segment_find(log, key);
	if (i < log->segment_count) {
		seg = log->segments[i];
		seg->refs++;
	}
	pthread_mutex_unlock(&log->mutex);
	return seg;
}

void log_segment_put(struct log_segment *seg)
{
	if (seg && --seg->refs == 0)
		free(seg);
}

void log_segment_passed(struct log *log, uint64_t key, uint64_t lsn)
{
	pthread_mutex_lock(&log->mutex);
	for (size_t i = log->segment_count; i-- > 0;) {
		struct log_segment *seg = log->segments[i];

		if (seg->header.key >= key)
			continue;
		if (!seg->active)
			break;
		seg->active = false;
		seg->end_lsn = lsn;
	}
	pthread_mutex_unlock(&log->mutex);
}

int log_each_segment(struct log *log,
		     int (*each)(void *ctx, const struct log_segment_info *),
		     void *ctx)
{
	struct log_segment_info *infos;
	size_t count;
	int err = 0;

	pthread_mutex_lock(&log->mutex);
	count = log->segment_count;
	infos = calloc(count + 1, sizeof(*infos));
	for (size_t i = 0; infos && i < count; i++) {
		const struct log_segment *seg = log->segments[i];

		infos[i].key = seg->header.key;
		infos[i].first_lsn = seg->first_lsn;
		infos[i].end_lsn = seg->active ? 0 : seg->end_lsn;
		infos[i].bytes = seg->header.bytes;
		infos[i].active = seg->active;
	}
	pthread_mutex_unlock(&log->mutex);
	if (!infos)
		return -ENOMEM;
	for (size_t i = 0; !err && i < count; i++)
		err = each(ctx, &infos[i]);
	free(infos);
	return err;
}

/* Takes one segment off the registry; NULL when it is not there, or active. */
static struct log_segment *segment_take(struct log *log, uint64_t key)
{
	struct log_segment *seg = NULL;
	size_t i;

	pthread_mutex_lock(&log->mutex);
	i = segment_find(log, key);
	if (i < log->segment_count && !log->segments[i]->active) {
		seg = log->segments[i];
		seg->dropped = true;
		memmove(&log->segments[i], &log->segments[i + 1],
			(log->segment_count - i - 1) * sizeof(*log->segments));
		log->segment_count--;
	}
	pthread_mutex_unlock(&log->mutex);
	return seg;
}

int log_drop(struct log *log, const uint64_t *keys, size_t key_count)
{
	char path[LOG_PATH_BYTES], dir[LOG_PATH_BYTES];
	int err = MUTANT(DELETE_UNCHECKED) ? 0 : log_check_claim(log);

	for (size_t i = 0; !err && i < key_count; i++) {
		struct log_segment *seg = segment_take(log, keys[i]);

		if (!seg)
			return -EINVAL;
		log_segment_path(log->options.dir, keys[i], path);
		/* Our predecessor may have come to it first, when it was
		 * stopped between its look at the claim and this. */
		err = io_unlink(log->io, path);
		if (err == -ENOENT)
			err = 0;
		log_segment_put(seg);
		if (err)
			log_latch(log, err,
				  "cannot delete %s (%s): the disk or its "
				  "permissions need attention",
				  path, err_str(err));
		else
			log->stats.segments_dropped++;
	}
	if (err || !key_count)
		return err;
	log_path(dir, log->options.dir, "segments");
	err = io_sync_dir(log->io, dir);
	if (err)
		log_latch(log, err, "cannot sync the directory %s (%s)", dir,
			  err_str(err));
	return err;
}

struct segment_sweep {
	struct log *log;
	uint64_t *keys;
	size_t count, capacity;
};

static int sweep_tmp(void *ctx, const char *name)
{
	struct segment_sweep *sweep = ctx;
	char path[LOG_PATH_BYTES];
	uint64_t key;
	int err;

	/* Only names of lower epochs: the thread that prepares segments may
	 * be at work on ours. */
	if (!segment_parse(name, ".tmp", &key) ||
	    key >> 32 >= sweep->log->epoch)
		return 0;
	segment_tmp_path(sweep->log->options.dir, key, path);
	/* Its owner may still be at work, and give it its name just now. */
	err = io_unlink(sweep->log->io, path);
	return err == -ENOENT ? 0 : err;
}

static int sweep_collect(void *ctx, const struct log_segment_info *info)
{
	struct segment_sweep *sweep = ctx;
	struct log_segment *seg = log_segment_get(sweep->log, info->key);
	bool outside = seg && seg->outside && !info->active;

	log_segment_put(seg);
	if (!outside)
		return 0;
	if (sweep->count == sweep->capacity) {
		size_t capacity = base_max(16, sweep->capacity * 2);
		uint64_t *keys = realloc(sweep->keys, capacity * sizeof(*keys));

		if (!keys)
			return -ENOMEM;
		sweep->keys = keys;
		sweep->capacity = capacity;
	}
	sweep->keys[sweep->count++] = info->key;
	return 0;
}

int log_segment_sweep(struct log *log)
{
	struct segment_sweep sweep = {.log = log};
	char dir[LOG_PATH_BYTES];
	int err;

	log_path(dir, log->options.dir, "segments");
	err = io_list(log->io, dir, sweep_tmp, &sweep);
	if (!err)
		err = log_each_segment(log, sweep_collect, &sweep);
	if (!err)
		err = log_drop(log, sweep.keys, sweep.count);
	free(sweep.keys);
	return err;
}
