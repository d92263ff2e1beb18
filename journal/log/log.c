/* journal/log/log.c: life, options, the latch, and batches.
 *
 * The latch is one atomic that only ever goes from 0 to the first error.
 * Whoever sets it, on any thread, has also written the sentence that explains
 * it; the journal thread learns of it by mail, fails what is waiting, and
 * calls failed().  The writer looks at the atomic before it acknowledges, so
 * nothing is acknowledged after it is set by the journal thread itself. */
#include <stdarg.h>

#include "journal/log/internal.h"

#define SEGMENT_BYTES_DEFAULT (128u * 1024u * 1024u)
#define RESERVE_BYTES_DEFAULT (64u * 1024u * 1024u)
#define MAX_USE_PERCENT_DEFAULT 90u
#define IN_FLIGHT_DEFAULT 3u
#define COMPRESS_BYTES_MIN_DEFAULT 512u

void log_path(char ret[LOG_PATH_BYTES], const char *dir, const char *name)
{
	snprintf(ret, LOG_PATH_BYTES, "%s/%s", dir, name);
}

int log_sync_parent(struct io *io, const char *path)
{
	char dir[LOG_PATH_BYTES];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	for (size_t len = strlen(dir); len > 1 && dir[len - 1] == '/';)
		dir[--len] = '\0';
	slash = strrchr(dir, '/');
	if (!slash)
		return io_sync_dir(io, ".");
	slash[slash == dir] = '\0';
	return io_sync_dir(io, dir);
}

void log_set_why(struct log *log, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&log->mutex);
	va_start(args, format);
	vsnprintf(log->why, sizeof(log->why), format, args);
	va_end(args);
	pthread_mutex_unlock(&log->mutex);
}

/* Of the last log_create() that failed on this thread. */
static _Thread_local char create_why[LOG_WHY_BYTES];

const char *log_why(const struct log *log)
{
	return log ? log->why : create_why;
}

/* Only a claim that we hold tells us anything. */
static bool log_is_fenced(struct log *log)
{
	return log->claim && log_claim_verify(log) == -E_FENCED;
}

#define FENCED_WHY "another process has claimed %s; this one must stop"

int log_blame(struct log *log, int err)
{
	if (!err || err == -E_FENCED || !log_is_fenced(log))
		return err;
	log_set_why(log, FENCED_WHY, log->options.dir);
	return -E_FENCED;
}

void log_latch(struct log *log, int err, const char *format, ...)
{
	char why[LOG_WHY_BYTES];
	va_list args;
	int none = 0;

	ASSERT(err < 0);
	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	if (err == -E_FENCED || log_is_fenced(log)) {
		err = -E_FENCED;
		snprintf(why, sizeof(why), FENCED_WHY, log->options.dir);
	}
	pthread_mutex_lock(&log->mutex);
	if (atomic_compare_exchange_strong(&log->latched, &none, err)) {
		memcpy(log->why, why, sizeof(why));
		if (log->loop)
			loop_post(log->loop, &log->latch_mail);
	}
	pthread_mutex_unlock(&log->mutex);
}

static void log_latch_delivered(struct loop_mail *mail)
{
	struct log *log = container_of(mail, struct log, latch_mail);
	char why[LOG_WHY_BYTES];

	/* First: the process is to end there, before an append that may be
	 * durable after all is told of as one that failed. */
	if (log->options.failed) {
		pthread_mutex_lock(&log->mutex);
		memcpy(why, log->why, sizeof(why));
		pthread_mutex_unlock(&log->mutex);
		log->options.failed(log->options.ctx, log->latched, why);
	}
	log_writer_latched(log->writer);
}

static int log_set_options(struct log *log, const struct log_options *options)
{
	struct log_options *o = &log->options;

	*o = *options;
	if (strlen(o->dir) > LOG_PATH_BYTES - 64) {
		log_set_why(log, "the path of the data directory is too long");
		return -ENAMETOOLONG;
	}
	if (!o->segment_bytes)
		o->segment_bytes = SEGMENT_BYTES_DEFAULT;
	if (!o->frame_bytes_max)
		o->frame_bytes_max = LOG_FRAME_BYTES_MAX;
	if (!o->frames_in_flight)
		o->frames_in_flight = IN_FLIGHT_DEFAULT;
	if (!o->compress_bytes_min)
		o->compress_bytes_min = COMPRESS_BYTES_MIN_DEFAULT;
	if (!o->reserve_bytes)
		o->reserve_bytes = RESERVE_BYTES_DEFAULT;
	if (!o->disk_max_use_percent)
		o->disk_max_use_percent = MAX_USE_PERCENT_DEFAULT;
	if (o->segment_bytes < LOG_SEGMENT_BYTES_MIN ||
	    o->segment_bytes > LOG_SEGMENT_BYTES_MAX ||
	    o->frame_bytes_max < IO_BLOCK ||
	    o->frame_bytes_max > LOG_FRAME_BYTES_MAX ||
	    o->frames_in_flight > LOG_IN_FLIGHT_MAX ||
	    o->disk_max_use_percent > 100) {
		log_set_why(log, "the sizes of segments or frames, the "
				 "frames in flight, or the share of the disk, "
				 "are out of bounds");
		return -EINVAL;
	}
	o->segment_bytes &= ~(uint64_t)(IO_BLOCK - 1);
	o->frame_bytes_max &= ~(IO_BLOCK - 1);
	return 0;
}

int log_create(const struct log_options *options, struct log **ret)
{
	struct log *log = calloc(1, sizeof(*log));
	int err;

	if (!log)
		return -ENOMEM;
	pthread_mutex_init(&log->mutex, NULL);
	log->io = options->io;
	log->latch_mail.deliver = log_latch_delivered;
	log->next_sequence = 1;
	err = log_set_options(log, options);
	if (!err) {
		crypto_key_id(options->master, log->master_id);
		err = log_claim_open(log);
	}
	if (err) {
		snprintf(create_why, sizeof(create_why), "%s",
			 log->why[0] ? log->why : err_str(err));
		log_free(log);
		return err;
	}
	*ret = log;
	return 0;
}

/* From now on a latch is told by mail.  One that came before is this call's
 * result: a claim may be lost while its owner still recovers. */
static int log_use_loop(struct log *log, struct loop *journal)
{
	int err;

	pthread_mutex_lock(&log->mutex);
	err = log->latched;
	if (!err)
		log->loop = journal;
	pthread_mutex_unlock(&log->mutex);
	return err;
}

int log_start(struct log *log, struct loop *journal)
{
	int err;

	ASSERT(log->claim && log->recovered && !log->loop);
	/* The loop is set last: until then an error is this call's result, and
	 * no mail of ours is left behind in a loop that may outlive us. */
	err = log_writer_create(log, &log->writer);
	if (!err)
		err = log_writer_start(log->writer);
	if (!err)
		err = log_segment_sweep(log);
	if (!err)
		err = log_prepare_create(log, &log->prepare);
	if (!err)
		err = log_use_loop(log, journal);
	if (!err) {
		log_writer_begin(log->writer);
		return 0;
	}
	if (!log->why[0])
		log_set_why(log, "cannot start the log in %s (%s)",
			    log->options.dir, err_str(err));
	return log_blame(log, err);
}

bool log_is_started(const struct log *log)
{
	return log->loop;
}

void log_close(struct log *log)
{
	log_prepare_stop(log->prepare);
}

void log_free(struct log *log)
{
	if (!log)
		return;
	log_prepare_free(log->prepare);
	log_writer_free(log->writer);
	log_claim_close(log);
	log_segment_forget_all(log);
	free(log->segments);
	pthread_mutex_destroy(&log->mutex);
	free(log);
}

uint64_t log_backlog_bytes(const struct log *log)
{
	return log->backlog_bytes;
}

int log_has_space(const struct log *log)
{
	return !log->stats.disk_refusing;
}

uint32_t log_epoch(const struct log *log)
{
	return log->epoch;
}

const uint8_t *log_cluster_id(const struct log *log)
{
	return log->cluster_id;
}

const struct log_stats *log_stats(const struct log *log)
{
	return &log->stats;
}

int log_check_claim(struct log *log)
{
	int err;

	if (log->latched)
		return log->latched == -E_FENCED ? -E_FENCED : -E_LATCHED;
	err = log_claim_verify(log);
	log->stats.claim_checks++;
	if (err)
		log_latch(log, err,
			  err == -ESTALE
				  ? "the claim in %s/epochs has been deleted "
				    "(%s): nothing there may be removed while "
				    "a broker runs; start again"
				  : "cannot check the claim in %s (%s)",
			  log->options.dir, err_str(err));
	return err;
}

void log_fail(struct log *log, int err, const char *why)
{
	log_latch(log, err, "%s: %s (%s)", log->options.dir, why, err_str(err));
}

/* ---- batches ----
 *
 * data is a run of frames: u64 segment, u64 offset, u64 first LSN, u32 count,
 * then count records: u8 type, u32 meta_len, u32 at, u32 stored_len,
 * u32 body_len, meta. */

#define BATCH_FRAME_BYTES 28u
#define BATCH_RECORD_BYTES 17u

struct log_batch *log_batch_create(void)
{
	return calloc(1, sizeof(struct log_batch));
}

void log_batch_free(struct log_batch *b)
{
	if (!b)
		return;
	free(b->data);
	free(b);
}

static uint8_t *batch_reserve(struct log_batch *b, size_t len)
{
	uint8_t *p;

	if (b->capacity - b->len < len) {
		size_t capacity = base_max(b->capacity * 2, b->len + len);
		uint8_t *data;

		capacity = base_max(capacity, 512);
		data = realloc(b->data, capacity);
		if (!data)
			return NULL;
		b->data = data;
		b->capacity = capacity;
	}
	p = b->data + b->len;
	b->len += len;
	return p;
}

int log_batch_add_frame(struct log_batch *b, uint64_t segment, uint64_t offset,
			uint64_t first_lsn, size_t *ret_count_at)
{
	uint8_t *p = batch_reserve(b, BATCH_FRAME_BYTES);

	if (!p)
		return -ENOMEM;
	if (!b->first_lsn)
		b->first_lsn = first_lsn;
	bytes_put64(p, segment);
	bytes_put64(p + 8, offset);
	bytes_put64(p + 16, first_lsn);
	bytes_put32(p + 24, 0);
	*ret_count_at = (size_t)(p + 24 - b->data);
	return 0;
}

int log_batch_add(struct log_batch *b, size_t count_at, uint8_t type,
		  const void *meta, uint32_t meta_len,
		  const struct log_loc *loc)
{
	uint8_t *p = batch_reserve(b, BATCH_RECORD_BYTES + meta_len);

	if (!p)
		return -ENOMEM;
	p[0] = type;
	bytes_put32(p + 1, meta_len);
	bytes_put32(p + 5, loc->at);
	bytes_put32(p + 9, loc->stored_len);
	bytes_put32(p + 13, loc->body_len);
	if (meta_len)
		memcpy(p + BATCH_RECORD_BYTES, meta, meta_len);
	p = b->data + count_at;
	bytes_put32(p, bytes_get32(p) + 1);
	return 0;
}

int log_batch_each(const struct log_batch *b,
		   int (*each)(void *ctx, const struct log_record *), void *ctx)
{
	struct bytes_reader r;

	bytes_reader_init(&r, b->data, b->len);
	while (bytes_left(&r)) {
		struct log_record rec = {0};
		uint64_t offset;
		uint32_t count;

		rec.loc.segment = bytes_read64(&r);
		offset = bytes_read64(&r);
		rec.loc.frame = (uint32_t)(offset / IO_BLOCK);
		rec.lsn = bytes_read64(&r);
		count = bytes_read32(&r);
		for (; count; count--, rec.lsn++) {
			int err;

			rec.type = bytes_read8(&r);
			rec.meta_len = bytes_read32(&r);
			rec.loc.at = bytes_read32(&r);
			rec.loc.stored_len = bytes_read32(&r);
			rec.loc.body_len = bytes_read32(&r);
			rec.meta = bytes_read(&r, rec.meta_len);
			ASSERT(!bytes_failed(&r));
			err = each(ctx, &rec);
			if (err)
				return err;
		}
	}
	return 0;
}
