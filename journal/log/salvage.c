/* journal/log/salvage.c: what can be read of a damaged log.
 *
 * Recovery stops where anything acknowledged is missing.  Here the frames
 * that are whole are taken, and what lies between is counted: LSNs have no
 * gaps, so the distance to the next frame says how many records are lost.
 *
 * What belongs to the history?  An epoch ends where a later one begins, and
 * the first frame of an epoch says where that is, so the smallest LSN in any
 * later epoch is where an epoch is cut.  That is never before the true cut,
 * and beyond it only unacknowledged frames of a deposed writer could lie, at
 * LSNs that the later epoch has too: those are left out. */
#include "journal/log/salvage.h"
#include "journal/log/internal.h"

#define FIRST_FRAME_OFFSET IO_BLOCK

struct salvage_segment {
	uint64_t key;
	uint64_t begin_lsn; /* of its first frame; 0: none */
};

struct log_salvage {
	struct io *io;
	const char *dir;
	const struct crypto_key *master;
	struct log_cluster cluster;
	struct salvage_segment *segments; /* by rising key */
	size_t count, capacity;

	/* the segment that is open; key 0: none */
	uint64_t key;
	struct log_scan scan;
	struct crypto_aead *aead; /* NULL: its key cannot be had */
	int key_err;

	uint8_t *block; /* a chunk and what surrounds it, aligned */
	uint8_t *plain; /* LOG_FRAME_BYTES_MAX */
	struct {
		uint64_t key, frame;
		uint32_t index;
	} chunk; /* whose plaintext is at the beginning of plain; for bodies */

	/* walking */
	const struct log_salvage_visit *visit;
	uint64_t expected; /* LSN */
	uint64_t gap_segment, gap_offset;
	int gap_err;
	uint64_t durable_lsn;
	int visit_err; /* the caller's own, not to be taken for the data's */
};

/* ---- opening ---- */

static int collect(void *ctx, const char *name)
{
	struct log_salvage *s = ctx;
	uint64_t key;

	if (!log_segment_parse_name(name, &key))
		return 0;
	if (s->count == s->capacity) {
		size_t capacity = base_max(64, s->capacity * 2);
		void *p = realloc(s->segments, capacity * sizeof(*s->segments));

		if (!p)
			return -ENOMEM;
		s->segments = p;
		s->capacity = capacity;
	}
	s->segments[s->count++] = (struct salvage_segment){.key = key};
	return 0;
}

static int read_header(struct log_salvage *s, uint64_t key,
		       struct log_segment_header *ret)
{
	char path[LOG_PATH_BYTES];
	struct io_file *file;
	size_t len;
	int err;

	log_segment_path(s->dir, key, path);
	err = io_open(s->io, path, IO_READ | IO_DIRECT, &file);
	if (err)
		return err;
	err = io_read(file, s->block, IO_BLOCK, 0, &len);
	io_close(file);
	if (!err && len < IO_BLOCK)
		err = -E_CORRUPT;
	if (!err)
		err = log_segment_header_decode(s->block, ret);
	if (!err && ret->key != key)
		err = -E_CORRUPT;
	return err;
}

static int find_cluster(struct log_salvage *s)
{
	int err = log_cluster_load(s->io, s->dir, &s->cluster);

	if (err != -E_CORRUPT && err != -ENOENT && err != -EIO)
		return err;
	for (size_t i = 0; i < s->count; i++) {
		struct log_segment_header h;

		if (read_header(s, s->segments[i].key, &h))
			continue;
		memcpy(s->cluster.cluster_id, h.cluster_id, LOG_ID_BYTES);
		memcpy(s->cluster.master_id, h.master_id, CRYPTO_KEY_ID_BYTES);
		return 0;
	}
	return err;
}

int log_salvage_open(struct io *io, const char *dir,
		     const struct crypto_key *master, struct log_salvage **ret)
{
	struct log_salvage *s = calloc(1, sizeof(*s));
	uint8_t master_id[CRYPTO_KEY_ID_BYTES];
	char path[LOG_PATH_BYTES];
	int err;

	if (!s)
		return -ENOMEM;
	s->io = io;
	s->dir = dir;
	s->master = master;
	s->block = io_buffer_alloc(LOG_CHUNK_BYTES + 2 * IO_BLOCK);
	s->plain = malloc(LOG_FRAME_BYTES_MAX);
	err = s->block && s->plain ? 0 : -ENOMEM;
	log_path(path, dir, "segments");
	if (!err)
		err = io_list(io, path, collect, s);
	if (!err)
		err = find_cluster(s);
	crypto_key_id(master, master_id);
	if (!err && memcmp(master_id, s->cluster.master_id, sizeof(master_id)))
		err = -E_KEY;
	if (err) {
		log_salvage_close(s);
		return err;
	}
	*ret = s;
	return 0;
}

static void close_segment(struct log_salvage *s)
{
	if (s->key)
		log_scan_close(&s->scan);
	crypto_aead_free(s->aead);
	s->aead = NULL;
	s->key = 0;
}

void log_salvage_close(struct log_salvage *s)
{
	if (!s)
		return;
	close_segment(s);
	if (s->plain)
		crypto_zero(s->plain, LOG_FRAME_BYTES_MAX);
	io_buffer_free(s->block);
	free(s->plain);
	free(s->segments);
	free(s);
}

const uint8_t *log_salvage_cluster(const struct log_salvage *s)
{
	return s->cluster.cluster_id;
}

/* Without its key a segment can still be walked: headers are not secret. */
static int open_segment(struct log_salvage *s, uint64_t key)
{
	struct log_segment_header h;
	struct crypto_key *data_key;
	int err;

	if (s->key == key)
		return 0;
	close_segment(s);
	err = log_scan_open(&s->scan, s->io, s->dir, s->cluster.cluster_id, key,
			    false);
	if (err)
		return err;
	s->key = key;
	s->key_err = read_header(s, key, &h);
	if (!s->key_err)
		s->key_err = log_segment_unwrap(s->master, &h, &data_key);
	if (s->key_err)
		return s->key_err == -ENOMEM ? -ENOMEM : 0;
	err = crypto_aead_create(data_key, &s->aead);
	crypto_key_free(data_key);
	return err;
}

/* ---- parts of frames ---- */

/* Decrypts one chunk of the open segment's frame; raw is its header. */
static int read_chunk(struct log_salvage *s, const struct log_frame *f,
		      const uint8_t *raw, uint32_t index, uint8_t *plain)
{
	uint32_t len = log_frame_chunk_len(f, index);
	uint64_t at = f->offset + LOG_FRAME_HEADER_BYTES +
		      (uint64_t)index * LOG_CHUNK_BYTES;
	uint64_t start = at & ~(uint64_t)(IO_BLOCK - 1);
	size_t got, want = base_round_up(at + len - start, IO_BLOCK);
	int err = s->aead ? 0 : s->key_err;

	if (!err)
		err = io_read(s->scan.file, s->block, want, start, &got);
	if (!err && got < at + len - start)
		err = -E_CORRUPT;
	if (!err)
		err = log_frame_open_chunk(s->aead, raw, f, index,
					   s->block + (at - start), plain);
	return err;
}

/* The header alone, which is in the frame's first block. */
static int read_frame_header(struct log_salvage *s, uint64_t offset,
			     struct log_frame *ret,
			     uint8_t raw[LOG_FRAME_HEADER_BYTES])
{
	size_t got;
	int err = io_read(s->scan.file, s->block, IO_BLOCK, offset, &got);

	if (!err && got < IO_BLOCK)
		err = -E_CORRUPT;
	if (err)
		return err;
	memcpy(raw, s->block, LOG_FRAME_HEADER_BYTES);
	err = log_frame_decode(raw, ret);
	if (!err &&
	    (ret->segment != s->key || ret->offset != offset ||
	     memcmp(ret->cluster_id, s->cluster.cluster_id, LOG_ID_BYTES) != 0))
		err = -E_CORRUPT;
	return err;
}

/* ---- the walk ---- */

static void gap_begin(struct log_salvage *s, uint64_t offset, int err)
{
	if (s->gap_err)
		return;
	s->gap_err = err;
	s->gap_segment = s->key;
	s->gap_offset = offset;
}

/* Records up to `next` are missing. */
static int gap_end(struct log_salvage *s, uint64_t next)
{
	struct log_lost lost = {
		.first_lsn = s->expected,
		.last_lsn = next - 1,
		.segment = s->gap_segment,
		.offset = s->gap_offset,
		.err = s->gap_err ? s->gap_err : -ENOENT,
	};

	s->gap_err = 0;
	s->gap_segment = s->gap_offset = 0;
	if (next <= s->expected)
		return 0;
	s->expected = next;
	s->visit_err = s->visit->lost(s->visit->ctx, &lost);
	return s->visit_err ? -ECANCELED : 0;
}

static int take_record(void *ctx, const struct log_record *rec)
{
	struct log_salvage *s = ctx;

	if (rec->lsn < s->expected)
		return 0;
	s->expected = rec->lsn + 1;
	s->visit_err = s->visit->record(s->visit->ctx, rec);
	return s->visit_err ? -ECANCELED : 0;
}

static int take_whole(struct log_salvage *s, const struct log_frame *f,
		      const uint8_t *raw)
{
	int err = s->aead ? 0 : s->key_err;

	for (uint32_t at = 0, i = 0; !err && at < f->payload_len;
	     at += LOG_CHUNK_BYTES, i++)
		err = log_frame_open_chunk(s->aead, raw, f, i,
					   raw + LOG_FRAME_HEADER_BYTES + at,
					   s->plain + at);
	if (err) {
		gap_begin(s, f->offset, err);
		return 0;
	}
	err = log_frame_each_record(f, s->plain, take_record, s);
	if (err == -E_CORRUPT) {
		gap_begin(s, f->offset, err);
		err = 0;
	}
	return err;
}

/* A frame whose header is whole: the records before the first bad chunk. */
static int take_part(struct log_salvage *s, const struct log_frame *f,
		     const uint8_t *raw)
{
	uint32_t count, len = 0;
	int bad = 0, err;

	for (uint32_t i = 0; !bad && len < f->payload_len; i++) {
		bad = read_chunk(s, f, raw, i, s->plain + len);
		if (!bad)
			len += log_frame_chunk_len(f, i);
	}
	err = log_frame_each_leading(f, s->plain, len, take_record, s, &count);
	if (!err)
		gap_begin(s, f->offset, bad ? bad : -E_CORRUPT);
	return err;
}

/* Where the history goes on in another epoch. */
static uint64_t cut_of(const struct log_salvage *s, uint64_t key)
{
	uint64_t cut = UINT64_MAX;

	for (size_t i = 0; i < s->count; i++)
		if (s->segments[i].key >> 32 > key >> 32 &&
		    s->segments[i].begin_lsn)
			cut = base_min(cut, s->segments[i].begin_lsn);
	return cut;
}

/* The next frame header in the open segment, whatever the disk refuses. */
static int find_next(struct log_salvage *s, uint64_t offset,
		     struct log_frame *ret)
{
	while (offset < s->scan.size) {
		uint64_t end = s->scan.narrow ? offset + IO_BLOCK : UINT64_MAX;
		int err = log_scan_find_below(&s->scan, offset, end, ret);

		if (err == -EIO && !s->scan.narrow)
			s->scan.narrow = true;
		else if (err == -EIO || err == -E_VERSION ||
			 (err == -ENOENT && s->scan.narrow))
			offset += IO_BLOCK;
		else
			return err;
	}
	return -ENOENT;
}

/* Takes what is at *offset and moves it on.  -ENOENT: nothing follows. */
static int take_next(struct log_salvage *s, uint64_t cut, uint64_t *offset)
{
	uint8_t raw[LOG_FRAME_HEADER_BYTES];
	struct log_frame f;
	const uint8_t *whole;
	int err, bad = log_scan_frame(&s->scan, *offset, &f, &whole);

	if (bad == -EIO && !s->scan.narrow) {
		s->scan.narrow = true;
		return 0;
	}
	if (bad && bad != -EIO && bad != -E_CORRUPT && bad != -E_VERSION)
		return bad;
	if (bad && (err = read_frame_header(s, *offset, &f, raw))) {
		if (err != -EIO && err != -E_CORRUPT && err != -E_VERSION)
			return err;
		gap_begin(s, *offset, err);
		err = find_next(s, *offset + IO_BLOCK, &f);
		if (!err)
			*offset = f.offset;
		return err;
	}
	if (f.first_lsn >= cut)
		return -ENOENT;
	s->durable_lsn = base_max(s->durable_lsn, f.durable_lsn);
	*offset += f.stored_len;
	if (f.first_lsn + f.record_count <= s->expected)
		return 0;
	err = gap_end(s, f.first_lsn);
	if (err)
		return err;
	return bad ? take_part(s, &f, raw) : take_whole(s, &f, whole);
}

/* Notes where each segment begins, for the cuts. */
static int look_ahead(struct log_salvage *s)
{
	for (size_t i = 0; i < s->count; i++) {
		struct salvage_segment *seg = &s->segments[i];
		struct log_frame f = {0};
		int err;

		/* One that begins is enough for its epoch. */
		if (i && seg->key >> 32 == seg[-1].key >> 32 &&
		    seg[-1].begin_lsn) {
			seg->begin_lsn = seg[-1].begin_lsn;
			continue;
		}
		err = open_segment(s, seg->key);
		if (err == -ENOMEM)
			return err;
		if (!err)
			err = find_next(s, FIRST_FRAME_OFFSET, &f);
		if (!err)
			seg->begin_lsn = f.first_lsn;
	}
	return 0;
}

int log_salvage_walk(struct log_salvage *s, const struct log_position *from,
		     const struct log_salvage_visit *visit)
{
	int err;

	if (from && !from->segment)
		from = NULL;
	s->visit = visit;
	s->expected = from ? from->lsn : 1;
	s->gap_err = 0;
	s->durable_lsn = 0;
	s->visit_err = 0;
	s->chunk.key = 0;
	err = look_ahead(s);
	for (size_t i = 0; !err && i < s->count; i++) {
		uint64_t key = s->segments[i].key, cut = cut_of(s, key);
		uint64_t offset = FIRST_FRAME_OFFSET;

		if (from && key < from->segment)
			continue;
		if (from && key == from->segment)
			offset = from->offset;
		err = open_segment(s, key);
		if (err && err != -ENOMEM) {
			gap_begin(s, 0, err);
			err = 0;
			continue;
		}
		while (!err)
			err = take_next(s, cut, &offset);
		if (err == -ENOENT)
			err = 0;
	}
	if (!err && s->durable_lsn > s->expected)
		err = gap_end(s, s->durable_lsn);
	close_segment(s);
	return s->visit_err ? s->visit_err : err;
}

/* ---- bodies ---- */

int log_salvage_body(struct log_salvage *s, const struct log_loc *loc,
		     void *buf)
{
	uint64_t offset = (uint64_t)loc->frame * IO_BLOCK;
	uint8_t raw[LOG_FRAME_HEADER_BYTES];
	struct log_frame f;
	uint8_t *to = buf;
	uint32_t done = 0;
	int err;

	if (!loc->stored_len)
		return 0;
	err = open_segment(s, loc->segment);
	if (!err)
		err = read_frame_header(s, offset, &f, raw);
	if (err)
		return err;
	if ((uint64_t)loc->at + loc->stored_len > f.payload_len)
		return -E_CORRUPT;
	while (done < loc->stored_len) {
		uint32_t at = loc->at + done, index = at / LOG_CHUNK_BYTES;
		uint32_t skip = at % LOG_CHUNK_BYTES;
		uint32_t n = (uint32_t)base_min(loc->stored_len - done,
						log_frame_chunk_len(&f, index) -
							skip);

		if (s->chunk.key != s->key || s->chunk.frame != offset ||
		    s->chunk.index != index) {
			s->chunk.key = 0;
			err = read_chunk(s, &f, raw, index, s->plain);
			if (err)
				return err;
			s->chunk.key = s->key;
			s->chunk.frame = offset;
			s->chunk.index = index;
		}
		memcpy(to + done, s->plain + skip, n);
		done += n;
	}
	return 0;
}
