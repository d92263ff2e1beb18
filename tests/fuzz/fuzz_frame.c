/* tests/fuzz/fuzz_frame.c: any bytes as a frame of the log.
 *
 * The first byte chooses what the rest is.  As a header, its magic, chain
 * value and CRC are made right first, or nothing would get past them; what is
 * then accepted must keep the bounds that readers rely on.  As a payload it is
 * sealed, opened again, and taken apart into records. */
#include "base/crc32c.h"
#include "journal/log/internal.h"
#include "journal/log/verify.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum input_kind { INPUT_RAW, INPUT_HEADER, INPUT_PAYLOAD, INPUT_KIND_COUNT };

static struct crypto_aead *aead;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const uint8_t bytes[CRYPTO_KEY_BYTES] = "a key for the fuzzer";
	struct crypto_key *key;

	if (crypto_init() || crypto_key_create(bytes, &key) ||
	    crypto_aead_create(key, &aead))
		abort();
	crypto_key_free(key);
	return 0;
}

/* ---- headers ---- */

/* The places are docs/format/journal.md's. */
static void repair(uint8_t *raw, uint32_t payload_len)
{
	static const char domain[] = "holdfast frame chain 1";
	char domain_copy[sizeof(domain)];
	struct iovec parts[2] = {
		{.iov_base = domain_copy, .iov_len = sizeof(domain)},
		{.iov_base = raw, .iov_len = LOG_FRAME_HEADER_BYTES},
	};
	uint8_t chain[LOG_CHAIN_BYTES];
	uint32_t crc;

	memcpy(domain_copy, domain, sizeof(domain));
	memcpy(raw, "HFFRAME", 8);
	bytes_put16(raw + 8, 1);
	bytes_put32(raw + 160,
		    crc32c(0, raw + LOG_FRAME_HEADER_BYTES, payload_len));
	memset(raw + 128, 0, LOG_CHAIN_BYTES);
	bytes_put32(raw + 252, 0);
	crypto_hash(chain, parts, 2);
	memcpy(raw + 128, chain, sizeof(chain));
	crc = crc32c(0, raw, 252);
	bytes_put32(raw + 252, crc32c(crc, raw + 256, 256));
}

static void check_bounds(const struct log_frame *f)
{
	uint32_t sum = 0;

	ASSERT(f->stored_len >= IO_BLOCK && f->stored_len % IO_BLOCK == 0);
	ASSERT(f->stored_len <= LOG_FRAME_BYTES_MAX);
	ASSERT(f->payload_len + LOG_FRAME_HEADER_BYTES == f->stored_len);
	ASSERT(f->offset >= IO_BLOCK && f->offset % IO_BLOCK == 0);
	ASSERT(f->first_lsn && f->durable_lsn <= f->first_lsn);
	ASSERT(f->record_count &&
	       f->first_lsn + f->record_count > f->first_lsn);
	for (uint32_t i = 0; sum < f->payload_len; i++) {
		ASSERT(i < LOG_CHUNK_COUNT_MAX);
		sum += log_frame_chunk_len(f, i);
	}
	ASSERT(sum == f->payload_len);
}

static int no_record(void *ctx, const struct log_record *rec)
{
	abort(); /* nothing that the fuzzer makes up decrypts */
}

/* Returns whether the header was taken. */
static bool try_frame(uint8_t *raw, size_t len)
{
	uint8_t *plain;
	struct log_frame f;
	int err = log_frame_decode(raw, &f);

	if (err) {
		ASSERT(err == -E_CORRUPT || err == -E_VERSION);
		return false;
	}
	check_bounds(&f);
	if (f.stored_len > len || log_frame_check_payload(raw, &f))
		return true;
	plain = malloc(f.payload_len);
	if (!plain)
		abort();
	for (uint32_t at = 0, i = 0; !err && at < f.payload_len;
	     at += LOG_CHUNK_BYTES, i++)
		err = log_frame_open_chunk(aead, raw, &f, i,
					   raw + LOG_FRAME_HEADER_BYTES + at,
					   plain + at);
	ASSERT(!err || err == -E_CORRUPT);
	if (!err)
		ASSERT(log_frame_each_record(&f, plain, no_record, NULL));
	free(plain);
	return true;
}

static void run_header(const uint8_t *data, size_t size, bool made_right)
{
	size_t len = base_round_up(base_max(size, 1), IO_BLOCK);
	uint8_t *raw = calloc(1, len);

	if (!raw)
		abort();
	if (size)
		memcpy(raw, data, size);
	if (made_right) {
		uint32_t payload = bytes_get32(raw + 72);

		repair(raw, (uint32_t)base_min(payload,
					       len - LOG_FRAME_HEADER_BYTES));
	}
	/* One bit more, and it is no header any more. */
	if (try_frame(raw, len) && size) {
		raw[data[0] % 252u] ^= (uint8_t)(1u << (data[size / 2] & 7));
		ASSERT(!try_frame(raw, len));
	}
	free(raw);
}

/* ---- payloads ---- */

struct seen {
	const uint8_t *plain;
	const struct log_frame *frame;
	uint32_t count, end;
};

static int see_record(void *ctx, const struct log_record *rec)
{
	struct seen *s = ctx;
	const uint8_t *meta = rec->meta, *stored = rec->stored;
	uint8_t *body;

	ASSERT(rec->lsn == s->frame->first_lsn + s->count);
	ASSERT(rec->type != LOG_TYPE_PAD);
	ASSERT(meta >= s->plain + s->end);
	ASSERT(meta + rec->meta_len <= stored);
	ASSERT(stored == s->plain + rec->loc.at);
	ASSERT(rec->loc.stored_len <= s->frame->payload_len - rec->loc.at);
	ASSERT(rec->loc.body_len >= rec->loc.stored_len);
	s->end = rec->loc.at + rec->loc.stored_len;
	s->count++;
	body = malloc(rec->loc.body_len + 1);
	if (!body)
		abort();
	/* What was stored as it is always expands. */
	ASSERT(!log_record_expand(rec, body) ||
	       rec->loc.body_len != rec->loc.stored_len);
	free(body);
	return 0;
}

static void run_payload(const uint8_t *data, size_t size)
{
	uint32_t stored_len = (uint32_t)base_round_up(
		size + LOG_FRAME_HEADER_BYTES, IO_BLOCK);
	uint32_t count = size >= 2 ? bytes_get16(data) : 0;
	struct log_frame f = {
		.segment = log_segment_key(1, 1),
		.offset = IO_BLOCK,
		.first_lsn = 10,
		.durable_lsn = 10,
		.record_count = count,
		.payload_len = stored_len - LOG_FRAME_HEADER_BYTES,
		.stored_len = stored_len,
	};
	uint8_t *plain = calloc(1, stored_len), *raw = calloc(1, stored_len);
	uint8_t *back = calloc(1, stored_len);
	struct seen seen = {.plain = back, .frame = &f};
	struct log_frame decoded;
	int err = 0;

	if (!plain || !raw || !back)
		abort();
	if (size > 2)
		memcpy(plain, data + 2, size - 2);
	if (log_frame_seal(aead, &f, plain, raw))
		abort();
	if (!log_frame_decode(raw, &decoded)) {
		ASSERT(!memcmp(&decoded.chain, &f.chain, LOG_CHAIN_BYTES));
		ASSERT(!log_frame_check_payload(raw, &decoded));
		for (uint32_t at = 0, i = 0; at < f.payload_len;
		     at += LOG_CHUNK_BYTES, i++)
			ASSERT(!log_frame_open_chunk(
				aead, raw, &decoded, i,
				raw + LOG_FRAME_HEADER_BYTES + at, back + at));
		ASSERT(!memcmp(plain, back, f.payload_len));
		err = log_frame_each_record(&decoded, back, see_record, &seen);
		ASSERT(err ? seen.count == 0 : seen.count == count);
	} else {
		ASSERT(!count || count > f.payload_len / 12);
	}
	free(back);
	free(raw);
	free(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size || size > LOG_FRAME_BYTES_MAX - IO_BLOCK)
		return 0;
	switch ((enum input_kind)(data[0] % INPUT_KIND_COUNT)) {
	case INPUT_RAW:
		run_header(data + 1, size - 1, false);
		break;
	case INPUT_HEADER:
		run_header(data + 1, size - 1, true);
		break;
	case INPUT_PAYLOAD:
		run_payload(data + 1, size - 1);
		break;
	case INPUT_KIND_COUNT:
		break;
	}
	return 0;
}
