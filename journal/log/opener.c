/* journal/log/opener.c: frames, decrypted one after the other.
 *
 * Neighbouring frames share a segment and so a data key, which is unwrapped
 * once. */
#include "journal/log/internal.h"

int log_opener_init(struct log_opener *o, struct log *log)
{
	*o = (struct log_opener){.log = log};
	o->plain = io_buffer_alloc(LOG_FRAME_BYTES_MAX);
	return o->plain ? 0 : -ENOMEM;
}

void log_opener_fini(struct log_opener *o)
{
	crypto_aead_free(o->aead);
	io_buffer_free(o->plain);
	*o = (struct log_opener){0};
}

static int opener_aead(struct log_opener *o, const struct log_segment_header *h)
{
	struct crypto_key *key;
	int err;

	if (o->aead && o->segment == h->key)
		return 0;
	crypto_aead_free(o->aead);
	o->aead = NULL;
	err = log_segment_unwrap(o->log->options.master, h, &key);
	if (err)
		return err;
	err = crypto_aead_create(key, &o->aead);
	crypto_key_free(key);
	o->segment = h->key;
	return err;
}

int log_opener_frame(struct log_opener *o, const struct log_segment_header *h,
		     const struct log_frame *f, const uint8_t *raw)
{
	int err = opener_aead(o, h);

	for (uint32_t at = 0, i = 0; !err && at < f->payload_len;
	     at += LOG_CHUNK_BYTES, i++)
		err = log_frame_open_chunk(o->aead, raw, f, i,
					   raw + LOG_FRAME_HEADER_BYTES + at,
					   o->plain + at);
	return err;
}
