/* journal/log/frame.c: one group commit as bytes, and back.
 *
 * The first 128 bytes of a header are known before encryption and are the
 * additional data of every chunk; with the chunk's index they bind it to its
 * cluster, segment, offset, LSN, watermark and predecessor.  The chain value
 * then covers those bytes, the payload's CRC and the tags, so a chain without
 * a key proves the same order that the tags prove with one. */
#include "base/crc32c.h"
#include "journal/log/internal.h"

#define FRAME_VERSION 1u

enum frame_at {
	AT_MAGIC = 0,
	AT_VERSION = 8,
	AT_FLAGS = 10,
	AT_PARENT = 12,
	AT_CLUSTER = 16,
	AT_SEGMENT = 32,
	AT_EPOCH = 40,
	AT_COUNT = 44,
	AT_OFFSET = 48,
	AT_FIRST_LSN = 56,
	AT_DURABLE_LSN = 64,
	AT_PAYLOAD_LEN = 72,
	AT_STORED_LEN = 76,
	AT_KEY_ID = 80,
	AT_PREV_CHAIN = 96,
	AT_CHAIN = 128,
	AT_PAYLOAD_CRC = 160,
	AT_RESERVED = 164,
	AT_HEADER_CRC = 252,
	AT_TAGS = 256,
};

static const char frame_magic[8] = "HFFRAME";
static const char chain_domain[] = "holdfast frame chain 1";

void log_nonce(uint8_t ret[CRYPTO_NONCE_BYTES], enum log_nonce_role role,
	       uint64_t offset)
{
	bytes_put32(ret, role);
	bytes_put64(ret + 4, offset);
}

static uint32_t frame_chunk_count(uint32_t payload_len)
{
	return (payload_len + LOG_CHUNK_BYTES - 1) / LOG_CHUNK_BYTES;
}

uint32_t log_frame_chunk_len(const struct log_frame *f, uint32_t index)
{
	uint32_t start = index * LOG_CHUNK_BYTES;

	ASSERT(start < f->payload_len);
	return (uint32_t)base_min(LOG_CHUNK_BYTES, f->payload_len - start);
}

static void frame_aad(const uint8_t *raw, uint32_t index,
		      uint8_t ret[LOG_FRAME_AAD_BYTES])
{
	memcpy(ret, raw, AT_CHAIN);
	bytes_put32(ret + AT_CHAIN, index);
}

static void frame_chain(const uint8_t *raw, uint8_t ret[LOG_CHAIN_BYTES])
{
	uint8_t copy[LOG_FRAME_HEADER_BYTES];
	struct iovec parts[2] = {
		{.iov_base = copy, .iov_len = sizeof(chain_domain)},
		{.iov_base = copy, .iov_len = sizeof(copy)},
	};
	uint8_t domain[sizeof(chain_domain)];

	memcpy(domain, chain_domain, sizeof(domain));
	parts[0].iov_base = domain;
	memcpy(copy, raw, sizeof(copy));
	memset(copy + AT_CHAIN, 0, LOG_CHAIN_BYTES);
	memset(copy + AT_HEADER_CRC, 0, 4);
	crypto_hash(ret, parts, 2);
}

static uint32_t frame_header_crc(const uint8_t *raw)
{
	uint32_t crc = crc32c(0, raw, AT_HEADER_CRC);

	return crc32c(crc, raw + AT_TAGS, LOG_FRAME_HEADER_BYTES - AT_TAGS);
}

static void frame_encode(const struct log_frame *f, uint8_t *raw)
{
	memset(raw, 0, LOG_FRAME_HEADER_BYTES);
	memcpy(raw + AT_MAGIC, frame_magic, sizeof(frame_magic));
	bytes_put16(raw + AT_VERSION, FRAME_VERSION);
	bytes_put16(raw + AT_FLAGS, f->flags);
	bytes_put32(raw + AT_PARENT, f->parent_epoch);
	memcpy(raw + AT_CLUSTER, f->cluster_id, LOG_ID_BYTES);
	bytes_put64(raw + AT_SEGMENT, f->segment);
	bytes_put32(raw + AT_EPOCH, (uint32_t)(f->segment >> 32));
	bytes_put32(raw + AT_COUNT, f->record_count);
	bytes_put64(raw + AT_OFFSET, f->offset);
	bytes_put64(raw + AT_FIRST_LSN, f->first_lsn);
	bytes_put64(raw + AT_DURABLE_LSN, f->durable_lsn);
	bytes_put32(raw + AT_PAYLOAD_LEN, f->payload_len);
	bytes_put32(raw + AT_STORED_LEN, f->stored_len);
	memcpy(raw + AT_KEY_ID, f->key_id, CRYPTO_KEY_ID_BYTES);
	memcpy(raw + AT_PREV_CHAIN, f->prev_chain, LOG_CHAIN_BYTES);
}

int log_frame_seal(struct crypto_aead *aead, struct log_frame *f,
		   const uint8_t *plain, uint8_t *out)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[LOG_FRAME_AAD_BYTES];
	uint8_t *payload = out + LOG_FRAME_HEADER_BYTES;
	uint32_t count = frame_chunk_count(f->payload_len);

	ASSERT(f->stored_len % IO_BLOCK == 0);
	ASSERT(f->payload_len + LOG_FRAME_HEADER_BYTES == f->stored_len);
	ASSERT(count <= LOG_CHUNK_COUNT_MAX);
	frame_encode(f, out);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = i * LOG_CHUNK_BYTES;
		int err;

		log_nonce(nonce, LOG_NONCE_FRAME,
			  f->offset + LOG_FRAME_HEADER_BYTES + at);
		frame_aad(out, i, aad);
		err = crypto_seal(aead, nonce, aad, sizeof(aad), plain + at,
				  log_frame_chunk_len(f, i), payload + at,
				  out + AT_TAGS + i * CRYPTO_TAG_BYTES);
		if (err)
			return err;
	}
	bytes_put32(out + AT_PAYLOAD_CRC, crc32c(0, payload, f->payload_len));
	frame_chain(out, f->chain);
	memcpy(out + AT_CHAIN, f->chain, LOG_CHAIN_BYTES);
	bytes_put32(out + AT_HEADER_CRC, frame_header_crc(out));
	return 0;
}

static bool frame_all_zero(const uint8_t *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

int log_frame_decode(const uint8_t *raw, struct log_frame *ret)
{
	struct log_frame f = {0};
	uint8_t chain[LOG_CHAIN_BYTES];
	size_t tags;

	if (memcmp(raw, frame_magic, sizeof(frame_magic)) != 0 ||
	    bytes_get32(raw + AT_HEADER_CRC) != frame_header_crc(raw))
		return -E_CORRUPT;
	if (bytes_get16(raw + AT_VERSION) != FRAME_VERSION)
		return -E_VERSION;
	f.flags = bytes_get16(raw + AT_FLAGS);
	f.parent_epoch = bytes_get32(raw + AT_PARENT);
	memcpy(f.cluster_id, raw + AT_CLUSTER, LOG_ID_BYTES);
	f.segment = bytes_get64(raw + AT_SEGMENT);
	f.record_count = bytes_get32(raw + AT_COUNT);
	f.offset = bytes_get64(raw + AT_OFFSET);
	f.first_lsn = bytes_get64(raw + AT_FIRST_LSN);
	f.durable_lsn = bytes_get64(raw + AT_DURABLE_LSN);
	f.payload_len = bytes_get32(raw + AT_PAYLOAD_LEN);
	f.stored_len = bytes_get32(raw + AT_STORED_LEN);
	memcpy(f.key_id, raw + AT_KEY_ID, CRYPTO_KEY_ID_BYTES);
	memcpy(f.prev_chain, raw + AT_PREV_CHAIN, LOG_CHAIN_BYTES);
	memcpy(f.chain, raw + AT_CHAIN, LOG_CHAIN_BYTES);

	if (bytes_get32(raw + AT_EPOCH) != f.segment >> 32 ||
	    (f.flags & ~LOG_FRAME_EPOCH_START) || f.stored_len % IO_BLOCK ||
	    f.stored_len < IO_BLOCK || f.stored_len > LOG_FRAME_BYTES_MAX ||
	    f.payload_len != f.stored_len - LOG_FRAME_HEADER_BYTES ||
	    f.record_count == 0 ||
	    f.record_count > f.payload_len / LOG_RECORD_HEADER_BYTES ||
	    f.first_lsn == 0 || f.first_lsn + f.record_count < f.first_lsn ||
	    f.durable_lsn > f.first_lsn || f.offset % IO_BLOCK ||
	    f.offset < IO_BLOCK ||
	    !frame_all_zero(raw + AT_RESERVED, AT_HEADER_CRC - AT_RESERVED))
		return -E_CORRUPT;
	tags = frame_chunk_count(f.payload_len) * CRYPTO_TAG_BYTES;
	if (!frame_all_zero(raw + AT_TAGS + tags,
			    LOG_FRAME_HEADER_BYTES - AT_TAGS - tags))
		return -E_CORRUPT;
	frame_chain(raw, chain);
	if (memcmp(chain, f.chain, sizeof(chain)) != 0)
		return -E_CORRUPT;
	*ret = f;
	return 0;
}

int log_frame_check_payload(const uint8_t *raw, const struct log_frame *f)
{
	uint32_t crc = crc32c(0, raw + LOG_FRAME_HEADER_BYTES, f->payload_len);

	return crc == bytes_get32(raw + AT_PAYLOAD_CRC) ? 0 : -E_CORRUPT;
}

int log_frame_open_chunk(struct crypto_aead *aead, const uint8_t *raw,
			 const struct log_frame *f, uint32_t index,
			 const uint8_t *in, uint8_t *out)
{
	uint8_t nonce[CRYPTO_NONCE_BYTES], aad[LOG_FRAME_AAD_BYTES];

	log_nonce(nonce, LOG_NONCE_FRAME,
		  f->offset + LOG_FRAME_HEADER_BYTES +
			  (uint64_t)index * LOG_CHUNK_BYTES);
	frame_aad(raw, index, aad);
	return crypto_open(aead, nonce, aad, sizeof(aad), in,
			   log_frame_chunk_len(f, index), out,
			   raw + AT_TAGS + index * CRYPTO_TAG_BYTES);
}

/* Decodes the record at `at`; its total length in *ret_len. */
static int frame_record(const struct log_frame *f, const uint8_t *plain,
			uint32_t at, struct log_record *ret, uint32_t *ret_len)
{
	struct log_record rec = {0};
	struct bytes_reader r;
	uint32_t len, flags;

	if (f->payload_len - at < LOG_RECORD_HEADER_BYTES)
		return -E_CORRUPT;
	len = bytes_get32(plain + at);
	if (len < LOG_RECORD_HEADER_BYTES || len > f->payload_len - at)
		return -E_CORRUPT;
	bytes_reader_init(&r, plain + at + 4, len - 4);
	rec.meta_len = bytes_read32(&r);
	rec.type = bytes_read8(&r);
	flags = bytes_read8(&r);
	if (bytes_read16(&r) != 0 || (flags & ~LOG_RECORD_COMPRESSED))
		return -E_CORRUPT;
	if (flags & LOG_RECORD_COMPRESSED)
		rec.loc.body_len = bytes_read32(&r);
	rec.meta = bytes_read(&r, rec.meta_len);
	if (bytes_failed(&r))
		return -E_CORRUPT;
	rec.stored = r.p;
	rec.loc.stored_len = (uint32_t)bytes_left(&r);
	if (!(flags & LOG_RECORD_COMPRESSED))
		rec.loc.body_len = rec.loc.stored_len;
	else if (rec.loc.body_len <= rec.loc.stored_len ||
		 rec.loc.body_len > LOG_RECORD_BYTES_MAX)
		return -E_CORRUPT;
	rec.loc.at = (uint32_t)(r.p - plain);
	rec.loc.segment = f->segment;
	rec.loc.frame = (uint32_t)(f->offset / IO_BLOCK);
	*ret = rec;
	*ret_len = len;
	return 0;
}

int log_frame_each_record(const struct log_frame *f, const uint8_t *plain,
			  int (*each)(void *ctx, const struct log_record *),
			  void *ctx)
{
	struct log_record rec;
	uint32_t at = 0, len, count = 0;
	int err;

	while (at < f->payload_len) {
		err = frame_record(f, plain, at, &rec, &len);
		if (err)
			return err;
		at += len;
		if (rec.type != LOG_TYPE_PAD)
			count++;
		else if (at != f->payload_len)
			return -E_CORRUPT;
	}
	if (count != f->record_count)
		return -E_CORRUPT;
	at = 0;
	for (uint32_t i = 0; i < count; i++) {
		err = frame_record(f, plain, at, &rec, &len);
		ASSERT(!err);
		at += len;
		rec.lsn = f->first_lsn + i;
		err = each(ctx, &rec);
		if (err)
			return err;
	}
	return 0;
}

int log_frame_each_leading(const struct log_frame *f, const uint8_t *plain,
			   uint32_t len,
			   int (*each)(void *ctx, const struct log_record *),
			   void *ctx, uint32_t *ret_count)
{
	struct log_frame part = *f;
	uint32_t at = 0, size, count = 0;
	struct log_record rec;
	int err = 0;

	part.payload_len = len;
	while (at < len && count < f->record_count &&
	       !frame_record(&part, plain, at, &rec, &size) &&
	       rec.type != LOG_TYPE_PAD) {
		rec.lsn = f->first_lsn + count;
		err = each(ctx, &rec);
		if (err)
			return err;
		at += size;
		count++;
	}
	*ret_count = count;
	return 0;
}
