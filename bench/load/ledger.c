/* bench/load/ledger.c: see ledger.h. */
#include "bench/load/ledger.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"

#define HEAD_BYTES 40u
#define VERSION 1u
#define FILE_BYTES_MAX (1u << 30)
#define STREAMS_MAX (1u << 20)

static const char magic[8] = "HFLEDGER";

static int put(FILE *f, const void *data, size_t len, uint32_t *crc)
{
	*crc = crc32c(*crc, data, len);
	return fwrite(data, 1, len, f) == len ? 0 : -EIO;
}

static int put64(FILE *f, uint64_t v, uint32_t *crc)
{
	uint8_t bytes[8];

	bytes_put64(bytes, v);
	return put(f, bytes, sizeof(bytes), crc);
}

static int put_row(FILE *f, const struct marks *m, uint32_t row, uint32_t *crc)
{
	uint64_t words = (marks_end(m, row) + 63) / 64;
	int err = put64(f, words, crc);

	for (uint64_t i = 0; i < words && !err; i++)
		err = put64(f, marks_word(m, row, 64 * i), crc);
	return err;
}

static int put_all(FILE *f, const struct ledger *l)
{
	uint8_t head[HEAD_BYTES], tail[4];
	uint32_t crc = 0;
	int err;

	memcpy(head, magic, 8);
	bytes_put32(head + 8, VERSION);
	bytes_put32(head + 12, l->run);
	bytes_put32(head + 16, l->plan.queues);
	bytes_put32(head + 20, l->plan.fanout);
	bytes_put32(head + 24, l->plan.senders);
	bytes_put32(head + 28, l->plan.streams);
	bytes_put64(head + 32, l->sent);
	err = put(f, head, sizeof(head), &crc);
	for (uint32_t row = 0; row < l->plan.streams && !err; row++)
		err = put_row(f, l->accepted, row, &crc);
	if (err)
		return err;
	bytes_put32(tail, crc);
	return put(f, tail, sizeof(tail), &crc);
}

int ledger_write(const char *path, const struct ledger *l)
{
	FILE *f = fopen(path, "we");
	int err;

	if (!f)
		return -errno;
	err = put_all(f, l);
	if (fclose(f) && !err)
		err = -EIO;
	return err;
}

static int read_file(const char *path, uint8_t **ret, size_t *ret_len)
{
	FILE *f = fopen(path, "re");
	uint8_t *data = NULL;
	long len;
	int err = -EIO;

	if (!f)
		return -errno;
	if (fseek(f, 0, SEEK_END) || (len = ftell(f)) < 0 ||
	    fseek(f, 0, SEEK_SET))
		goto out;
	err = -E_CORRUPT;
	if ((size_t)len < HEAD_BYTES + 4 || (size_t)len > FILE_BYTES_MAX)
		goto out;
	err = -ENOMEM;
	data = malloc((size_t)len);
	if (!data)
		goto out;
	err = -EIO;
	if (fread(data, 1, (size_t)len, f) != (size_t)len)
		goto out;
	err = 0;
	*ret = data;
	*ret_len = (size_t)len;
	data = NULL;
out:
	free(data);
	fclose(f);
	return err;
}

static int take_row(struct bytes_reader *r, struct marks *m, uint32_t row)
{
	uint64_t words = bytes_read64(r);
	int err = 0;
	bool was;

	if (bytes_failed(r) || words > bytes_left(r) / 8)
		return -E_CORRUPT;
	for (uint64_t i = 0; i < words; i++) {
		uint64_t bits = bytes_read64(r);

		for (; bits && !err; bits &= bits - 1)
			err = marks_set(
				m, row,
				64 * i + (unsigned)__builtin_ctzll(bits), &was);
		if (err)
			return err == -ERANGE ? -E_CORRUPT : err;
	}
	return 0;
}

static int take_all(struct bytes_reader *r, struct ledger *ret)
{
	struct ledger l = {0};
	int err = 0;

	if (memcmp(bytes_read(r, 8), magic, 8) != 0)
		return -E_CORRUPT;
	if (bytes_read32(r) != VERSION)
		return -E_VERSION;
	l.run = bytes_read32(r);
	l.plan.queues = bytes_read32(r);
	l.plan.fanout = bytes_read32(r);
	l.plan.senders = bytes_read32(r);
	l.plan.streams = bytes_read32(r);
	l.sent = bytes_read64(r);
	if (!l.plan.queues || !l.plan.streams || l.plan.streams > STREAMS_MAX)
		return -E_CORRUPT;
	err = marks_create(l.plan.streams, &l.accepted);
	for (uint32_t row = 0; row < l.plan.streams && !err; row++)
		err = take_row(r, l.accepted, row);
	if (!err && bytes_left(r))
		err = -E_CORRUPT;
	if (err)
		marks_free(l.accepted);
	else
		*ret = l;
	return err;
}

int ledger_read(const char *path, struct ledger *ret)
{
	struct bytes_reader r;
	uint8_t *data = NULL;
	size_t len = 0;
	int err = read_file(path, &data, &len);

	if (err)
		return err;
	bytes_reader_init(&r, data, len - 4);
	if (crc32c(0, data, len - 4) != bytes_get32(data + len - 4))
		err = -E_CORRUPT;
	else
		err = take_all(&r, ret);
	free(data);
	return err;
}
