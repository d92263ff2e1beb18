/* tests/fuzz/fuzz_segment.c: a log's directory, made up frame by frame.
 *
 * The input is a program: begin segments and epochs, append frames, leave
 * holes, cut, flip and remove.  The frames are sealed with a real key, so the
 * walk gets to see what only a broker or an attacker with the disk could
 * write.  The simulator's disk holds the files.
 *
 * What must hold for every directory: nothing crashes or reads out of bounds;
 * the key-less walk and recovery with the key agree on where the history ends;
 * and a history that was written by the rules is found whole. */
#include "base/crc32c.h"
#include "base/sim/sim.h"
#include "journal/log/internal.h"
#include "journal/log/verify.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const int fuzz_mutations;

const int fuzz_mutations = 3;

#define DIR "d"
#define SEGMENT_COUNT_MAX 12u
#define SEGMENT_BLOCKS_MAX 12u
#define FRAME_COUNT_MAX 64u
#define RECORD_BYTES 16u

enum step {
	STEP_FRAME,	/* goes on from the last */
	STEP_SEGMENT,	/* the next one, of this epoch */
	STEP_EPOCH,	/* a later one, which goes on from the last frame */
	STEP_ODD_FRAME, /* breaks a rule of the caller's choice */
	STEP_ODD_EPOCH, /* goes on from an earlier frame */
	STEP_FLIP,
	STEP_CUT,
	STEP_REMOVE,
	STEP_HEADER, /* a byte of a segment's header, with a right CRC */
	STEP_COUNT,
};

struct made_segment {
	uint64_t key;
	uint64_t bytes, used;
	bool removed;
	uint8_t data[SEGMENT_BLOCKS_MAX * IO_BLOCK];
};

struct making {
	struct sim *sim;
	struct io *io;
	uint8_t cluster_id[LOG_ID_BYTES];
	struct made_segment segments[SEGMENT_COUNT_MAX];
	unsigned segment_count;
	uint32_t epoch, sequence;
	struct log_position at; /* where the next frame goes */
	struct log_position all[FRAME_COUNT_MAX]; /* ends of frames */
	unsigned frame_count;
	uint64_t durable_lsn;
	bool odd; /* by no broker's rules any more */
};

static struct crypto_key *master, *data_key;
static struct crypto_aead *aead;
static struct making making;

static void must(int err)
{
	if (err)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t one[CRYPTO_KEY_BYTES] = "a master key";
	static const uint8_t two[CRYPTO_KEY_BYTES] = "a data key";

	must(crypto_init());
	must(crypto_key_create(one, &master));
	must(crypto_key_create(two, &data_key));
	must(crypto_aead_create(data_key, &aead));
	return 0;
}

/* ---- making ---- */

static struct made_segment *segment_last(struct making *m)
{
	return m->segment_count ? &m->segments[m->segment_count - 1] : NULL;
}

static void make_segment(struct making *m, unsigned blocks)
{
	struct log_segment_header h = {
		.bytes = (2 + blocks % (SEGMENT_BLOCKS_MAX - 1)) * IO_BLOCK,
	};
	struct made_segment *s;

	if (m->segment_count == SEGMENT_COUNT_MAX)
		return;
	s = &m->segments[m->segment_count++];
	memset(s->data, 0, sizeof(s->data));
	s->removed = false;
	s->bytes = h.bytes;
	s->key = h.key = log_segment_key(m->epoch, ++m->sequence);
	s->used = IO_BLOCK;
	memcpy(h.cluster_id, m->cluster_id, LOG_ID_BYTES);
	crypto_key_id(master, h.master_id);
	crypto_key_id(data_key, h.key_id);
	must(log_segment_wrap(m->io, master, data_key, &h));
	log_segment_header_encode(&h, s->data);
}

/* count records of a few bytes, and padding. */
static void fill_payload(uint8_t *plain, uint32_t len, uint32_t count,
			 const uint8_t *first_meta, uint32_t first_len)
{
	uint32_t at = 0;

	memset(plain, 0, len);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t meta_len = !i && first_meta ? first_len : 4;

		bytes_put32(plain + at, LOG_RECORD_HEADER_BYTES + meta_len);
		bytes_put32(plain + at + 4, meta_len);
		plain[at + 8] =
			!i && first_meta ? LOG_TYPE_EPOCH_START : LOG_TYPE_USER;
		if (!i && first_meta)
			memcpy(plain + at + LOG_RECORD_HEADER_BYTES, first_meta,
			       first_len);
		at += LOG_RECORD_HEADER_BYTES + meta_len;
	}
	if (at < len)
		bytes_put32(plain + at, len - at);
}

/* How a frame departs from the rules: bits of a byte. */
enum oddity {
	ODD_LSN = 1,
	ODD_CHAIN = 2,
	ODD_DURABLE = 4,
	ODD_HOLE = 8,
	ODD_TYPE = 16,
	ODD_KEY = 32,
	ODD_TORN = 64,
	ODD_FLAGS = 128,
};

static void make_frame(struct making *m, unsigned count, unsigned odd,
		       uint32_t parent)
{
	struct made_segment *s = segment_last(m);
	static uint8_t plain[2 * IO_BLOCK];
	uint8_t meta[12 + LOG_CHAIN_BYTES];
	struct log_frame f = {.segment = s ? s->key : 0};

	if (!s || m->frame_count == FRAME_COUNT_MAX)
		return;
	f.stored_len = count & 0x80 ? 2 * IO_BLOCK : IO_BLOCK;
	if (odd & ODD_HOLE && s->used + IO_BLOCK < s->bytes)
		s->used += IO_BLOCK;
	if (s->used + f.stored_len > s->bytes)
		return;
	f.offset = s->used;
	f.payload_len = f.stored_len - LOG_FRAME_HEADER_BYTES;
	f.record_count = parent ? 1 : 1 + count % 100;
	f.first_lsn = m->at.lsn + (odd & ODD_LSN ? 3 : 0);
	f.durable_lsn = odd & ODD_DURABLE ? f.first_lsn : m->durable_lsn;
	memcpy(f.cluster_id, m->cluster_id, LOG_ID_BYTES);
	crypto_key_id(odd & ODD_KEY ? master : data_key, f.key_id);
	memcpy(f.prev_chain, m->at.chain, LOG_CHAIN_BYTES);
	f.prev_chain[5] ^= odd & ODD_CHAIN ? 1 : 0;
	if (parent || odd & ODD_FLAGS) {
		f.flags = LOG_FRAME_EPOCH_START;
		f.parent_epoch = parent == UINT32_MAX ? 0 : parent;
	}
	bytes_put32(meta, f.parent_epoch);
	bytes_put64(meta + 4, f.first_lsn);
	memcpy(meta + 12, f.prev_chain, LOG_CHAIN_BYTES);
	fill_payload(plain, f.payload_len,
		     f.record_count + (odd & ODD_TYPE ? 1 : 0),
		     parent ? meta : NULL, sizeof(meta));
	must(log_frame_seal(aead, &f, plain, s->data + s->used));
	if (odd & ODD_TORN)
		memset(s->data + s->used + f.stored_len - 512, 0, 512);
	s->used += f.stored_len;
	m->at = (struct log_position){.segment = s->key,
				      .offset = s->used,
				      .lsn = f.first_lsn + f.record_count};
	memcpy(m->at.chain, f.chain, LOG_CHAIN_BYTES);
	m->all[m->frame_count++] = m->at;
	/* Frames may be in flight together, so not all is known durable. */
	if (count & 0x40 || parent)
		m->durable_lsn = m->at.lsn;
}

static void make_epoch(struct making *m, unsigned blocks, unsigned skip)
{
	uint32_t parent = m->epoch;

	if (m->segment_count == SEGMENT_COUNT_MAX ||
	    m->frame_count == FRAME_COUNT_MAX)
		return;
	m->epoch += 1 + skip % 3;
	make_segment(m, blocks);
	make_frame(m, 0, 0, parent ? parent : UINT32_MAX);
}

static void spoil(struct making *m, enum step step, unsigned a, unsigned b)
{
	struct made_segment *s;

	if (!m->segment_count)
		return;
	s = &m->segments[a % m->segment_count];
	m->odd = true;
	if (step == STEP_FLIP)
		s->data[(b * 37u) % sizeof(s->data)] ^= (uint8_t)(1 + a);
	if (step == STEP_CUT)
		s->bytes = base_min(s->bytes, b * 128u);
	if (step == STEP_REMOVE)
		s->removed = true;
	if (step == STEP_HEADER) {
		s->data[b % 200u] ^= (uint8_t)(1 + a);
		bytes_put32(s->data + 4092, crc32c(0, s->data, 4092));
	}
}

static void make_step(struct making *m, struct bytes_reader *r)
{
	enum step step = bytes_read8(r) % STEP_COUNT;
	unsigned a = bytes_read8(r), b = bytes_read8(r);
	unsigned at;

	switch (step) {
	case STEP_FRAME:
		make_frame(m, a, 0, 0);
		break;
	case STEP_SEGMENT:
		/* A broker leaves no segment of an epoch without a frame. */
		if (segment_last(m) && segment_last(m)->used == IO_BLOCK)
			break;
		make_segment(m, a);
		break;
	case STEP_EPOCH:
		make_epoch(m, a, b);
		break;
	case STEP_ODD_FRAME:
		m->odd = true;
		make_frame(m, a, b, 0);
		break;
	case STEP_ODD_EPOCH:
		m->odd = true;
		at = m->frame_count ? a % m->frame_count : 0;
		if (m->frame_count)
			m->at = m->all[at];
		m->epoch = (uint32_t)base_max(m->epoch, m->at.segment >> 32);
		make_segment(m, b);
		m->epoch++;
		make_segment(m, b);
		make_frame(m, 0, 0, (uint32_t)(m->at.segment >> 32));
		break;
	case STEP_FLIP:
	case STEP_CUT:
	case STEP_REMOVE:
	case STEP_HEADER:
		spoil(m, step, a, b);
		break;
	case STEP_COUNT:
		break;
	}
}

static void put_file(struct io *io, const char *path, const void *data,
		     size_t len)
{
	struct io_file *file;

	must(io_open(io, path, IO_WRITE | IO_CREATE, &file));
	must(io_truncate(file, 0));
	if (len)
		must(io_write(file, data, len, 0));
	io_close(file);
}

/* So that recovery, which claims, gets a later epoch. */
static void put_claim(struct making *m)
{
	uint8_t raw[LOG_CLAIM_BYTES] = "HFCLAIM";
	char path[64];

	snprintf(path, sizeof(path), DIR "/epochs/%08x", (unsigned)m->epoch);
	bytes_put16(raw + 8, 1);
	bytes_put32(raw + 12, m->epoch);
	memcpy(raw + 16, m->cluster_id, LOG_ID_BYTES);
	bytes_put32(raw + 60, crc32c(0, raw, 60));
	put_file(m->io, path, raw, sizeof(raw));
}

static void put_all(struct making *m)
{
	for (unsigned i = 0; i < m->segment_count; i++) {
		struct made_segment *s = &m->segments[i];
		char path[LOG_PATH_BYTES];

		log_segment_path(DIR, s->key, path);
		if (!s->removed)
			put_file(m->io, path, s->data, s->bytes);
	}
	put_claim(m);
}

/* ---- looking ---- */

struct seen {
	uint64_t frames, records, lsn, damage, torn;
};

static void see_finding(void *ctx, const struct log_finding *f)
{
	struct seen *s = ctx;

	ASSERT(f->what[0] && f->file[0]);
	if (f->kind == LOG_FINDING_DAMAGE)
		s->damage++;
	else
		s->torn++;
}

static int see_frame(void *ctx, const struct log_frame_info *f)
{
	struct seen *s = ctx;

	s->frames++;
	return 0;
}

static int see_record(void *ctx, const struct log_record *rec)
{
	struct seen *s = ctx;

	ASSERT(!s->lsn || rec->lsn == s->lsn);
	s->lsn = rec->lsn + 1;
	s->records++;
	return 0;
}

static int ignore_record(void *ctx, const struct log_record *rec)
{
	return 0;
}

/* Recovery, once with the key and from the beginning or from a position. */
static int recover(struct making *m, const struct log_options *options,
		   const struct log_position *from, struct seen *seen)
{
	struct log *log;
	int err;

	must(log_create(options, &log));
	must(log_claim(log));
	err = log_recover(log, from, see_record, seen);
	ASSERT(!err || err == -E_LOST || err == -E_KEY || err == -E_VERSION);
	ASSERT(!err || log_why(log)[0]);
	log_free(log);
	return err;
}

static void look(struct making *m, const struct log_options *options,
		 const struct log_position *from)
{
	struct seen found = {0}, frames = {0}, recovered = {0};
	struct log_verify_result result;
	int err, lost;

	err = log_verify(m->io, DIR, from, see_finding, &found, &result);
	ASSERT(!err || err == -E_VERSION);
	if (err)
		return;
	ASSERT(found.damage == result.damage && found.torn == result.torn);
	err = log_inspect(m->io, DIR, master, see_frame, ignore_record,
			  &frames);
	ASSERT(!err || err == -E_CORRUPT || err == -E_KEY || err == -E_VERSION);
	ASSERT(err || frames.frames >= result.frames);
	lost = recover(m, options, from, &recovered);
	/* The key adds proofs, so it may only find more. */
	if (!lost && recovered.lsn)
		ASSERT(recovered.lsn == result.end_lsn);
	if (lost == -E_LOST)
		ASSERT(result.damage || err);
	if (m->odd)
		return;
	ASSERT(!lost && !result.damage && !result.torn);
	ASSERT(result.end_lsn == (m->frame_count ? m->at.lsn : 1));
	if (!from && m->frame_count)
		ASSERT(recovered.records == m->at.lsn - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sim_config config = sim_config_calm(1);
	struct log_options options = {
		.dir = DIR, .master = master, .segment_bytes = 1 << 20};
	struct making *m = &making;
	struct bytes_reader r;
	struct log *log;
	unsigned from;

	m->segment_count = m->frame_count = 0;
	m->odd = false;
	m->epoch = m->sequence = 0;
	m->at = (struct log_position){.lsn = 1};
	m->durable_lsn = 1;
	m->sim = sim_create(&config);
	options.io = m->io = sim_node_create(m->sim, "fuzz", 0);
	must(log_create(&options, &log));
	memcpy(m->cluster_id, log_cluster_id(log), LOG_ID_BYTES);
	log_free(log);
	bytes_reader_init(&r, data, size);
	from = bytes_read8(&r);
	make_epoch(m, bytes_read8(&r), 0);
	while (bytes_left(&r))
		make_step(m, &r);
	put_all(m);
	look(m, &options, NULL);
	if (from < m->frame_count)
		look(m, &options, &m->all[from]);
	ASSERT(!sim_open_files(sim_node(m->io)));
	io_free(m->io);
	sim_free(m->sim);
	return 0;
}
