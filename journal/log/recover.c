/* journal/log/recover.c: what an earlier process acknowledged, delivered.
 *
 * The walk decides what the history is; this adds decryption, the registry,
 * and the place where the new epoch goes on.  Nothing is changed on disk:
 * a start that fails here can be tried again after a repair. */
#include "journal/log/internal.h"

struct recovery {
	struct log_opener opener;
	int (*each)(void *ctx, const struct log_record *);
	void *ctx;
	int each_err; /* from the caller's each(), not from the data */
};

static int recover_record(void *ctx, const struct log_record *rec)
{
	struct recovery *r = ctx;

	if (r->each)
		r->each_err = r->each(r->ctx, rec);
	return r->each_err;
}

static int recover_frame(void *ctx, const struct log_walk_segment *seg,
			 const struct log_frame *f, const uint8_t *raw)
{
	struct recovery *r = ctx;
	int err = log_opener_frame(&r->opener, &seg->header, f, raw);

	if (!err)
		err = log_frame_each_record(f, r->opener.plain, recover_record,
					    r);
	/* The caller's own verdict must not be taken for the data's. */
	return r->each_err ? -ECANCELED : err;
}

static int recover_register(struct log *log, const struct log_walk *walk)
{
	for (size_t i = 0; i < walk->segment_count; i++) {
		struct log_walk_segment *seg = &walk->segments[i];
		int err;

		if (seg->used && seg->header_err) {
			char path[LOG_PATH_BYTES];

			log_segment_path(log->options.dir, seg->key, path);
			log_set_why(log,
				    "%s: the header is damaged or the file "
				    "was cut short; restore the file from a "
				    "backup or a peer",
				    path);
			return -E_LOST;
		}
		if (seg->header_err) {
			memset(&seg->header, 0, sizeof(seg->header));
			seg->header.key = seg->key;
			seg->header.bytes = seg->size;
		}
		if (!seg->used)
			seg->first_lsn = seg->end_lsn = walk->end.lsn;
		err = log_segment_register(log, &seg->header, seg->first_lsn,
					   seg->end_lsn, false, !seg->used);
		if (err)
			return err;
	}
	return 0;
}

/* Sequences go on rising, above every file that there is. */
static uint32_t recover_next_sequence(const struct log_walk *walk)
{
	uint32_t sequence = 0;

	for (size_t i = 0; i < walk->segment_count; i++)
		sequence = (uint32_t)base_max(sequence,
					      (uint32_t)walk->segments[i].key);
	return sequence + 1;
}

static uint32_t recover_parent(const struct log_walk *walk,
			       const struct log_position *from)
{
	if (walk->epoch_count)
		return walk->epochs[walk->epoch_count - 1].epoch;
	return from ? (uint32_t)(from->segment >> 32) : 0;
}

/* What a deposed leader had in flight may have become visible after its file
 * was synced, and be read, and be built upon: durable it must be. */
static int recover_sync(struct log *log, const struct log_walk *walk)
{
	unsigned left = LOG_IN_FLIGHT_MAX;
	int err = 0;

	for (size_t i = walk->segment_count; !err && left && i-- > 0;) {
		char path[LOG_PATH_BYTES];
		struct io_file *file;

		if (!walk->segments[i].used)
			continue;
		left--;
		log_segment_path(walk->dir, walk->segments[i].key, path);
		err = io_open(walk->io, path, IO_READ, &file);
		if (!err) {
			err = io_sync(file);
			io_close(file);
		}
		if (err)
			log_set_why(log, "cannot sync %s (%s)", path,
				    err_str(err));
	}
	return err;
}

int log_recover(struct log *log, const struct log_position *from,
		int (*each)(void *ctx, const struct log_record *), void *ctx)
{
	struct recovery r = {.each = each, .ctx = ctx};
	struct log_walk walk = {
		.io = log->io,
		.dir = log->options.dir,
		.cluster_id = log->cluster_id,
		.below_epoch = log->epoch,
		.sync_first = true,
		.each_frame = recover_frame,
		.ctx = &r,
	};
	int err;

	ASSERT(log->claim && !log->writer);
	log->recovered = false;
	log_segment_forget_all(log);
	err = log_opener_init(&r.opener, log);
	if (err)
		return err;
	err = log_walk_run(&walk, from);
	if (r.each_err)
		err = r.each_err;
	else if (err)
		log_set_why(log, "%s", walk.why[0] ? walk.why : err_str(err));
	if (!r.each_err)
		err = log_blame(log, err);
	if (!err && MUTANT(READ_FIRST))
		err = log_claim_seal_late(log);
	if (!err)
		err = recover_sync(log, &walk);
	if (!err)
		err = recover_register(log, &walk);
	if (!err) {
		log->start = walk.end;
		if (!walk.any)
			log->start.lsn = 1; /* and a chain of zeros */
		log->parent_epoch = recover_parent(&walk, from);
		log->next_sequence = recover_next_sequence(&walk);
		log->recovered = true;
	}
	log_walk_fini(&walk);
	log_opener_fini(&r.opener);
	return err;
}
