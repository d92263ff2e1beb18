/* journal/log/build.c: what waits, as the next frame.
 *
 * Records are laid down one behind the other in a plain buffer, compressed
 * where asked and where it helps, padded to a block by a PAD record so that
 * the padding, too, is ciphertext, and sealed into the slot's buffer.  On the
 * way each append learns its LSN and place, and the batch gets its copy. */
#include "journal/log/writer.h"

/* Padding is a record, so room for its heading is kept in every frame. */
#define PAD_BYTES LOG_RECORD_HEADER_BYTES

static struct log_append *waiting_pop(struct log_writer *w)
{
	struct log_append *a = w->waiting;

	w->waiting = a->next;
	if (!w->waiting)
		w->waiting_tail = &w->waiting;
	w->waiting_bytes -= log_append_bytes(a);
	a->next = NULL;
	return a;
}

/* Lays one record down at plain + at; returns its total length and fills
 * loc but for segment and frame. */
static uint32_t record_put(struct log_writer *w, uint32_t at, uint8_t type,
			   const struct log_append *a, struct log_loc *loc)
{
	const struct log_options *o = &w->log->options;
	uint8_t *p = w->plain + at;
	uint32_t head = LOG_RECORD_HEADER_BYTES, flags = 0;
	size_t stored = a->body_len;

	if (w->compress && !a->no_compress &&
	    a->body_len >= o->compress_bytes_min && a->body_len > 8) {
		uint8_t *out = p + head + 4 + a->meta_len;

		if (!compress_pack(w->compress, a->body, a->body_len, out,
				   a->body_len - 8, &stored)) {
			flags = LOG_RECORD_COMPRESSED;
			bytes_put32(p + head, a->body_len);
			head += 4;
		} else {
			stored = a->body_len;
		}
	}
	if (a->meta_len)
		memcpy(p + head, a->meta, a->meta_len);
	if (!flags && a->body_len)
		memcpy(p + head + a->meta_len, a->body, a->body_len);
	bytes_put32(p, head + a->meta_len + (uint32_t)stored);
	bytes_put32(p + 4, a->meta_len);
	p[8] = type;
	p[9] = (uint8_t)flags;
	bytes_put16(p + 10, 0);
	loc->at = at + head + a->meta_len;
	loc->stored_len = (uint32_t)stored;
	loc->body_len = a->body_len;
	return head + a->meta_len + (uint32_t)stored;
}

/* Fills the gap up to the block with a PAD record. */
static void frame_pad(struct log_writer *w, struct log_frame *f, uint32_t len)
{
	uint32_t total = len + LOG_FRAME_HEADER_BYTES, gap;

	f->stored_len = (uint32_t)base_round_up(total, IO_BLOCK);
	gap = f->stored_len - total;
	if (gap && gap < PAD_BYTES) {
		f->stored_len += IO_BLOCK;
		gap += IO_BLOCK;
	}
	f->payload_len = f->stored_len - LOG_FRAME_HEADER_BYTES;
	if (!gap)
		return;
	memset(w->plain + len, 0, gap);
	bytes_put32(w->plain + len, gap);
	w->plain[len + 8] = LOG_TYPE_PAD;
}

uint32_t log_build_room(const struct log_writer *w, uint32_t frame_bytes_max)
{
	uint64_t left = w->sink->header.bytes - w->offset;

	left = base_min(left, frame_bytes_max);
	if (left < IO_BLOCK)
		return 0;
	return (uint32_t)left - LOG_FRAME_HEADER_BYTES - PAD_BYTES;
}

static void frame_begin(struct log_writer *w, struct log_slot *s)
{
	struct log_frame *f = &s->frame;

	memset(f, 0, sizeof(*f));
	memcpy(f->cluster_id, w->log->cluster_id, LOG_ID_BYTES);
	memcpy(f->key_id, w->sink->header.key_id, CRYPTO_KEY_ID_BYTES);
	memcpy(f->prev_chain, w->chain, LOG_CHAIN_BYTES);
	f->segment = w->sink->header.key;
	f->offset = w->offset;
	f->first_lsn = w->next_lsn;
	f->durable_lsn = w->durable_lsn;
	s->first = s->last = NULL;
	s->batch = NULL;
	s->payload_bytes = 0;
	s->sink = w->sink;
}

/* Seals what lies in plain and moves on to the place behind it. */
static int frame_end(struct log_writer *w, struct log_slot *s, uint32_t len)
{
	struct log_frame *f = &s->frame;
	int err;

	frame_pad(w, f, len);
	err = log_frame_seal(w->sink->aead, f, w->plain, s->buf);
	if (err)
		return err;
	w->offset += f->stored_len;
	w->next_lsn += f->record_count;
	memcpy(w->chain, f->chain, LOG_CHAIN_BYTES);
	if (s->batch) {
		s->batch->end.segment = f->segment;
		s->batch->end.offset = w->offset;
		s->batch->end.lsn = w->next_lsn;
		memcpy(s->batch->end.chain, f->chain, LOG_CHAIN_BYTES);
		s->batch->stored_bytes += f->stored_len;
	}
	return 0;
}

static int batch_begin(struct log_writer *w, struct log_slot *s,
		       size_t *count_at)
{
	if (!w->log->options.committed)
		return 0;
	s->batch = log_batch_create();
	if (!s->batch)
		return -ENOMEM;
	return log_batch_add_frame(s->batch, s->frame.segment, s->frame.offset,
				   s->frame.first_lsn, count_at);
}

int log_build_own(struct log_writer *w, struct log_slot *s, uint8_t type,
		  const void *meta, uint32_t meta_len)
{
	struct log_append own = {.meta = meta, .meta_len = meta_len};
	struct log_loc loc;
	size_t count_at = 0;
	uint32_t len;
	int err;

	frame_begin(w, s);
	if (type == LOG_TYPE_EPOCH_START) {
		s->frame.flags = LOG_FRAME_EPOCH_START;
		s->frame.parent_epoch = w->log->parent_epoch;
	}
	len = record_put(w, 0, type, &own, &loc);
	s->frame.record_count = 1;
	s->payload_bytes = len;
	err = batch_begin(w, s, &count_at);
	if (!err && s->batch)
		err = log_batch_add(s->batch, count_at, type, meta, meta_len,
				    &loc);
	return err ? err : frame_end(w, s, len);
}

int log_build_waiting(struct log_writer *w, struct log_slot *s)
{
	uint32_t room = log_build_room(w, w->log->options.frame_bytes_max);
	uint32_t room_max = log_build_room(w, LOG_FRAME_BYTES_MAX);
	size_t count_at = 0;
	uint32_t len = 0;
	int err;

	frame_begin(w, s);
	err = batch_begin(w, s, &count_at);
	while (!err && w->waiting &&
	       log_append_bytes(w->waiting) <= (len ? room : room_max) - len) {
		struct log_append *a = waiting_pop(w);

		a->lsn = w->next_lsn + s->frame.record_count++;
		a->loc.segment = s->frame.segment;
		a->loc.frame = (uint32_t)(s->frame.offset / IO_BLOCK);
		len += record_put(w, len, a->type, a, &a->loc);
		if (s->batch)
			err = log_batch_add(s->batch, count_at, a->type,
					    a->meta, a->meta_len, &a->loc);
		if (s->last)
			s->last->next = a;
		else
			s->first = a;
		s->last = a;
		if (len >= room)
			break;
	}
	s->payload_bytes = len;
	return err ? err : frame_end(w, s, len);
}
