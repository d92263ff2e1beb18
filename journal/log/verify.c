/* journal/log/verify.c: a log's directory, seen from outside.
 *
 * Each file is examined by itself first: every frame that can be found, and
 * every gap between two of them.  Then the history is walked as recovery
 * would walk it, which adds what only the whole can tell: cuts, continuity
 * from file to file, and watermarks.  A broker may be writing meanwhile, so
 * a walk that disagrees with the watermarks is repeated, and believed once it
 * ends twice at the same place. */
#include "base/crc32c.h"
#include "journal/log/internal.h"
#include "journal/log/verify.h"

#define WALK_ATTEMPT_COUNT_MAX 10
#define CLAIM_MAGIC "HFCLAIM"

struct verify {
	struct io *io;
	const char *dir;
	uint8_t cluster_id[LOG_ID_BYTES];
	void (*found)(void *ctx, const struct log_finding *);
	void *ctx;
	struct log_verify_result result;
};

static void verify_found(struct verify *v, enum log_finding_kind kind,
			 const char *file, uint64_t offset, uint64_t lsn,
			 const char *what)
{
	struct log_finding finding = {
		.kind = kind,
		.file = file,
		.offset = offset,
		.lsn = lsn,
		.what = what,
	};

	if (kind == LOG_FINDING_DAMAGE)
		v->result.damage++;
	else
		v->result.torn++;
	if (v->found)
		v->found(v->ctx, &finding);
}

/* ---- one file ---- */

/* Between two frames of one file there is never anything else: a frame that
 * a later one vouches for is damaged, another was not finished. */
static int verify_gap(struct verify *v, struct log_scan *scan, uint64_t offset,
		      uint64_t lsn, uint64_t *ret_next)
{
	struct log_frame f;
	uint64_t at = offset;
	int err;

	while (!(err = log_scan_find(scan, at, &f))) {
		const uint8_t *raw;

		err = log_scan_frame(scan, f.offset, &f, &raw);
		if (!err)
			break;
		if (err != -E_CORRUPT)
			return err;
		at = f.offset + IO_BLOCK;
	}
	if (err)
		return err;
	*ret_next = f.offset;
	if (f.durable_lsn > lsn)
		verify_found(v, LOG_FINDING_DAMAGE, scan->path, offset, lsn,
			     "a frame that a later one says was acknowledged "
			     "is damaged");
	else
		verify_found(v, LOG_FINDING_TORN, scan->path, offset, lsn,
			     "a write was not finished, and nothing in it or "
			     "after it was acknowledged");
	return 0;
}

static int verify_frames(struct verify *v, struct log_scan *scan,
			 const struct log_segment_header *h)
{
	uint8_t chain[LOG_CHAIN_BYTES];
	uint64_t offset = IO_BLOCK, lsn = 0;
	struct log_frame f;
	const uint8_t *raw;

	for (;;) {
		int err = log_scan_frame(scan, offset, &f, &raw);

		if (err == -E_CORRUPT) {
			err = verify_gap(v, scan, offset, lsn, &offset);
			if (err)
				return err == -ENOENT ? 0 : err;
			lsn = 0;
			continue;
		}
		if (err)
			return err;
		if (memcmp(f.key_id, h->key_id, CRYPTO_KEY_ID_BYTES) != 0)
			verify_found(v, LOG_FINDING_DAMAGE, scan->path, offset,
				     f.first_lsn,
				     "the frame was not made with this "
				     "segment's key");
		if (lsn && (f.first_lsn != lsn ||
			    memcmp(f.prev_chain, chain, sizeof(chain)) != 0))
			verify_found(v, LOG_FINDING_DAMAGE, scan->path, offset,
				     f.first_lsn,
				     "the frame does not continue the one "
				     "before it");
		lsn = f.first_lsn + f.record_count;
		memcpy(chain, f.chain, sizeof(chain));
		offset += f.stored_len;
		v->result.frames++;
		v->result.records += f.record_count;
		v->result.bytes += f.stored_len;
	}
}

static int verify_segment(struct verify *v, const struct log_walk_segment *seg)
{
	struct log_scan scan;
	int err = log_scan_open(&scan, v->io, v->dir, v->cluster_id, seg->key,
				false);

	/* A broker may have dropped it since. */
	if (err == -ENOENT)
		return 0;
	if (err)
		return err;
	v->result.segments++;
	if (seg->header_err)
		verify_found(v, LOG_FINDING_DAMAGE, scan.path, 0,
			     seg->first_lsn,
			     seg->header_err == -E_VERSION
				     ? "the file was written by a newer version"
				     : "the header is damaged or the file was "
				       "cut short");
	err = verify_frames(v, &scan, &seg->header);
	log_scan_close(&scan);
	return err;
}

/* ---- the whole ---- */

static int verify_history(struct verify *v, const struct log_position *from)
{
	uint64_t end_lsn = 0;

	for (int i = 0;; i++) {
		struct log_walk walk = {
			.io = v->io,
			.dir = v->dir,
			.cluster_id = v->cluster_id,
		};
		int err = log_walk_run(&walk, from);

		v->result.end_lsn = walk.any ? walk.end.lsn : 1;
		v->result.epochs = (uint32_t)walk.epoch_count;
		v->result.first_lsn = 0;
		for (size_t n = 0; n < walk.segment_count; n++)
			if (walk.segments[n].used && !v->result.first_lsn)
				v->result.first_lsn =
					walk.segments[n].first_lsn;
		if ((err == -E_LOST || err == -ENOENT) &&
		    walk.end.lsn != end_lsn && i < WALK_ATTEMPT_COUNT_MAX) {
			end_lsn = walk.end.lsn;
			log_walk_fini(&walk);
			continue;
		}
		if (err == -E_LOST) {
			char path[LOG_PATH_BYTES];

			if (walk.end.segment)
				log_segment_path(v->dir, walk.end.segment,
						 path);
			else
				log_path(path, v->dir, "segments");
			verify_found(v, LOG_FINDING_DAMAGE, path,
				     walk.end.offset, walk.end.lsn, walk.why);
			err = 0;
		}
		log_walk_fini(&walk);
		return err;
	}
}

static int verify_claim(void *ctx, const char *name)
{
	struct verify *v = ctx;
	uint8_t raw[LOG_CLAIM_BYTES];
	char path[LOG_PATH_BYTES], dir[LOG_PATH_BYTES];
	struct io_file *file;
	size_t len;
	int err;

	log_path(dir, v->dir, "epochs");
	snprintf(path, sizeof(path), "%.900s/%.64s", dir, name);
	err = io_open(v->io, path, IO_READ, &file);
	if (err)
		return err;
	err = io_read(file, raw, sizeof(raw), 0, &len);
	io_close(file);
	if (err)
		return err;
	/* A claim sealed before it was whole begins otherwise, and its epoch
	 * has no frames. */
	if (len < LOG_CLAIM_BYTES || memcmp(raw, CLAIM_MAGIC, 8) != 0 ||
	    bytes_get32(raw + 60) != crc32c(0, raw, 60))
		verify_found(v, LOG_FINDING_TORN, path, 0, 0,
			     "the claim was not finished, or is damaged; its "
			     "epoch is closed either way");
	return 0;
}

int log_verify(struct io *io, const char *dir, const struct log_position *from,
	       void (*found)(void *ctx, const struct log_finding *), void *ctx,
	       struct log_verify_result *ret)
{
	struct verify v = {.io = io, .dir = dir, .found = found, .ctx = ctx};
	char path[LOG_PATH_BYTES];
	struct log_cluster cluster;
	struct log_walk walk = {.io = io, .dir = dir};
	int err = log_cluster_load(io, dir, &cluster);

	log_path(path, dir, "cluster");
	if (err == -E_CORRUPT) {
		verify_found(&v, LOG_FINDING_DAMAGE, path, 0, 0,
			     "the cluster file is damaged");
		*ret = v.result;
		return 0;
	}
	if (err)
		return err;
	memcpy(v.cluster_id, cluster.cluster_id, LOG_ID_BYTES);
	log_path(path, dir, "epochs");
	err = io_list(io, path, verify_claim, &v);
	walk.cluster_id = v.cluster_id;
	if (!err)
		err = log_walk_list(&walk);
	for (size_t i = 0; !err && i < walk.segment_count; i++)
		err = verify_segment(&v, &walk.segments[i]);
	log_walk_fini(&walk);
	if (!err)
		err = verify_history(&v, from);
	if (!err)
		*ret = v.result;
	return err;
}

/* ---- inspection ---- */

struct inspect {
	const struct crypto_key *master;
	int (*frame)(void *ctx, const struct log_frame_info *);
	int (*record)(void *ctx, const struct log_record *);
	void *ctx;
	struct crypto_aead *aead;
	uint8_t *plain;
};

static int inspect_frame(struct inspect *in, const struct log_frame *f,
			 bool payload_ok)
{
	struct log_frame_info info = {
		.segment = f->segment,
		.offset = f->offset,
		.first_lsn = f->first_lsn,
		.durable_lsn = f->durable_lsn,
		.record_count = f->record_count,
		.payload_len = f->payload_len,
		.stored_len = f->stored_len,
		.epoch_start = f->flags & LOG_FRAME_EPOCH_START,
		.parent_epoch = f->parent_epoch,
		.payload_ok = payload_ok,
	};

	memcpy(info.prev_chain, f->prev_chain, LOG_CHAIN_BYTES);
	memcpy(info.chain, f->chain, LOG_CHAIN_BYTES);
	return in->frame ? in->frame(in->ctx, &info) : 0;
}

static int inspect_records(struct inspect *in, const struct log_frame *f,
			   const uint8_t *raw)
{
	int err = 0;

	for (uint32_t at = 0, i = 0; !err && at < f->payload_len;
	     at += LOG_CHUNK_BYTES, i++)
		err = log_frame_open_chunk(in->aead, raw, f, i,
					   raw + LOG_FRAME_HEADER_BYTES + at,
					   in->plain + at);
	return err ? err
		   : log_frame_each_record(f, in->plain, in->record, in->ctx);
}

static int inspect_key(struct inspect *in, const struct log_walk_segment *seg)
{
	struct crypto_key *key;
	int err;

	crypto_aead_free(in->aead);
	in->aead = NULL;
	if (!in->master || !in->record || seg->header_err)
		return 0;
	err = log_segment_unwrap(in->master, &seg->header, &key);
	if (err)
		return err;
	err = crypto_aead_create(key, &in->aead);
	crypto_key_free(key);
	return err;
}

static int inspect_segment(struct inspect *in, const struct log_walk *walk,
			   const struct log_walk_segment *seg)
{
	struct log_scan scan;
	uint64_t offset = IO_BLOCK;
	struct log_frame f;
	int err = inspect_key(in, seg);

	if (!err)
		err = log_scan_open(&scan, walk->io, walk->dir,
				    walk->cluster_id, seg->key, false);
	if (err)
		return err;
	while (!(err = log_scan_find(&scan, offset, &f))) {
		const uint8_t *raw;
		int bad = log_scan_frame(&scan, f.offset, &f, &raw);

		err = bad && bad != -E_CORRUPT ? bad
					       : inspect_frame(in, &f, !bad);
		if (!err && !bad && in->aead)
			err = inspect_records(in, &f, raw);
		if (err)
			break;
		offset = f.offset + (bad ? IO_BLOCK : f.stored_len);
	}
	log_scan_close(&scan);
	return err == -ENOENT ? 0 : err;
}

int log_inspect(struct io *io, const char *dir, const struct crypto_key *master,
		int (*frame)(void *ctx, const struct log_frame_info *),
		int (*record)(void *ctx, const struct log_record *), void *ctx)
{
	struct inspect in = {
		.master = master,
		.frame = frame,
		.record = record,
		.ctx = ctx,
	};
	struct log_walk walk = {.io = io, .dir = dir};
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
	struct log_cluster cluster;
	int err = log_cluster_load(io, dir, &cluster);

	if (err)
		return err;
	if (master) {
		crypto_key_id(master, master_id);
		if (memcmp(master_id, cluster.master_id, sizeof(master_id)))
			return -E_KEY;
	}
	in.plain = malloc(LOG_FRAME_BYTES_MAX);
	if (!in.plain)
		return -ENOMEM;
	walk.cluster_id = cluster.cluster_id;
	err = log_walk_list(&walk);
	for (size_t i = 0; !err && i < walk.segment_count; i++)
		err = inspect_segment(&in, &walk, &walk.segments[i]);
	log_walk_fini(&walk);
	crypto_aead_free(in.aead);
	free(in.plain);
	return err;
}

int log_identity(struct io *io, const char *dir, uint8_t *ret_id)
{
	struct log_cluster cluster;
	int err = log_cluster_load(io, dir, &cluster);

	if (!err)
		memcpy(ret_id, cluster.cluster_id, LOG_ID_BYTES);
	return err;
}

int log_record_expand(const struct log_record *rec, void *buf)
{
	struct compress *c;
	int err;

	if (rec->loc.stored_len == rec->loc.body_len) {
		if (rec->loc.body_len)
			memcpy(buf, rec->stored, rec->loc.body_len);
		return 0;
	}
	err = compress_create(1, &c);
	if (err)
		return err;
	err = compress_unpack(c, rec->stored, rec->loc.stored_len, buf,
			      rec->loc.body_len);
	compress_free(c);
	return err;
}
