/* journal/store/checkpoint_write.c: a state written down.
 *
 * Everything goes out in an order that depends on the state alone, and files
 * are numbered by their keys, so that what was seen decides what is written,
 * not how it was come by. */
#include "journal/store/checkpoint_format.h"
#include "journal/store/varint.h"

struct out {
	struct state *state;
	struct blob_writer *blob;
	struct bytes_writer w; /* over buf, behind the block's length */
	uint8_t *buf;
	/* By slot: the file's index in this checkpoint.  Slots depend on the
	 * order in which files came and went; a checkpoint does not. */
	uint32_t *files;
	uint32_t file_count;
	/* within one lane */
	uint64_t last_ref, last_arrived_ms;
};

static int flush_block(struct out *o)
{
	size_t len = bytes_written(&o->w);
	int err;

	/* An item that did not fit would be our own miscount. */
	ASSERT(!o->w.failed);
	bytes_put32(o->buf, (uint32_t)len);
	err = blob_write(o->blob, o->buf, 4 + len);
	bytes_writer_init(&o->w, o->buf + 4, CHECKPOINT_BLOCK_BYTES_MAX);
	return err;
}

/* Call after every item. */
static int end_item(struct out *o)
{
	return bytes_written(&o->w) < CHECKPOINT_BLOCK_BYTES ? 0
							     : flush_block(o);
}

struct slot {
	uint64_t key;
	size_t index;
};

static int compare_slots(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	return x->key < y->key ? -1 : x->key > y->key;
}

/* The files in use, by key; sorted has room for all slots. */
static void number_files(struct out *o, struct slot *sorted)
{
	const struct state *s = o->state;

	for (size_t i = 0; i < s->file_count; i++) {
		const struct state_file *f = &s->files[i];

		o->files[i] = UINT32_MAX;
		if (f->live || f->dead)
			sorted[o->file_count++] = (struct slot){f->key, i};
	}
	qsort(sorted, o->file_count, sizeof(*sorted), compare_slots);
	for (uint32_t i = 0; i < o->file_count; i++)
		o->files[sorted[i].index] = i;
}

static void put_header(struct out *o, const struct log_position *p)
{
	const struct state *s = o->state;
	struct bytes_writer *w = &o->w;

	bytes_write32(w, CHECKPOINT_VERSION);
	bytes_write64(w, p->segment);
	bytes_write64(w, p->offset);
	bytes_write64(w, p->lsn);
	bytes_write(w, p->chain, LOG_CHAIN_BYTES);
	bytes_write64(w, s->next_id);
	bytes_write64(w, s->live_messages);
	bytes_write32(w, o->file_count);
	bytes_write32(w, (uint32_t)s->addresses.count);
	bytes_write32(w, (uint32_t)s->uploads.count);
	bytes_write32(w, (uint32_t)s->queues.count);
}

static int write_header(struct out *o, const struct log_position *p)
{
	const struct state *s = o->state;
	struct slot *sorted = malloc((s->file_count + 1) * sizeof(*sorted));
	int err = 0;

	o->files = malloc((s->file_count + 1) * sizeof(*o->files));
	if (!sorted || !o->files) {
		free(sorted);
		return -ENOMEM;
	}
	number_files(o, sorted);
	put_header(o, p);
	for (uint32_t i = 0; !err && i < o->file_count; i++) {
		const struct state_file *f = &s->files[sorted[i].index];

		bytes_write64(&o->w, f->key);
		if (store_is_extent(f->key))
			bytes_write64(&o->w, f->bytes);
		err = end_item(o);
	}
	free(sorted);
	return err;
}

static int write_addresses(struct out *o)
{
	void **all = idmap_sorted(&o->state->addresses);
	uint8_t meta[RECORD_ADDRESS_ROOM];
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->addresses.count; i++) {
		const struct state_address *a = all[i];
		size_t len = record_address_encode(&a->record, meta);

		bytes_write16(&o->w, (uint16_t)len);
		bytes_write(&o->w, meta, len);
		err = end_item(o);
	}
	free(all);
	return err;
}

static void put_file(struct out *o, uint32_t slot)
{
	ASSERT(o->files[slot] < o->file_count);
	varint_write(&o->w, o->files[slot]);
}

static void put_place(struct out *o, const struct entry_place *p)
{
	struct bytes_writer *w = &o->w;

	put_file(o, p->segment);
	varint_write(w, p->frame);
	varint_write(w, p->at);
	varint_write(w, p->stored_len);
	varint_write(w, p->body_len);
}

static int write_uploads(struct out *o)
{
	void **all = idmap_sorted(&o->state->uploads);
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->uploads.count; i++) {
		const struct state_upload *u = all[i];

		bytes_write64(&o->w, u->id);
		bytes_write8(&o->w, u->complete);
		bytes_write32(&o->w, u->piece_count);
		err = end_item(o);
		for (uint32_t k = 0; !err && k < u->piece_count; k++) {
			put_place(o, &u->pieces[k]);
			err = end_item(o);
		}
	}
	free(all);
	return err;
}

static uint8_t entry_flags(const struct entry *e)
{
	const struct entry_more *m = e->more;
	unsigned flags = 0;

	flags |= e->durable ? ENTRY_DURABLE : 0;
	flags |= e->expiry_ms ? ENTRY_EXPIRES : 0;
	flags |= e->counted ? ENTRY_DELIVERED : 0;
	flags |= m && m->upload ? ENTRY_UPLOAD : 0;
	flags |= m && m->extra_len ? ENTRY_EXTRA : 0;
	flags |= m && m->reason ? ENTRY_MOVED : 0;
	return (uint8_t)flags;
}

static int write_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	uint8_t flags = entry_flags(e);
	struct out *o = ctx;
	struct bytes_writer *w = &o->w;

	bytes_write8(w, flags);
	bytes_write8(w, e->format);
	varint_write(w, ref - o->last_ref);
	varint_write_difference(w, e->arrived_ms, o->last_arrived_ms);
	if (flags & ENTRY_EXPIRES)
		varint_write_difference(w, e->expiry_ms, e->arrived_ms);
	if (flags & ENTRY_DELIVERED)
		varint_write(w, e->deliveries);
	if (flags & ENTRY_UPLOAD)
		bytes_write64(w, e->more->upload->id);
	else
		put_place(o, &e->place);
	if (flags & ENTRY_EXTRA) {
		bytes_write32(w, e->more->extra_len);
		bytes_write(w, e->more->data, e->more->extra_len);
	}
	if (flags & ENTRY_MOVED) {
		struct record_origin origin = state_entry_origin(e);

		bytes_write8(w, origin.reason);
		bytes_write16(w, origin.address_len);
		bytes_write16(w, origin.queue_len);
		bytes_write(w, origin.address, origin.address_len);
		bytes_write(w, origin.queue, origin.queue_len);
	}
	o->last_ref = ref;
	o->last_arrived_ms = e->arrived_ms;
	return end_item(o);
}

static int write_detail(struct out *o, const uint8_t *data, size_t len)
{
	int err = end_item(o);

	for (size_t at = 0; !err && at < len; at += CHECKPOINT_DETAIL_CHUNK) {
		bytes_write(&o->w, data + at,
			    base_min(CHECKPOINT_DETAIL_CHUNK, len - at));
		err = end_item(o);
	}
	return err;
}

/* *number: behind the run before, then behind this one. */
static int write_run(struct out *o, const struct state_run *r, uint64_t *number)
{
	struct bytes_writer *w = &o->w;
	void *detail;
	size_t len;
	int err = state_run_encoded(o->state, r, &detail, &len);

	if (err)
		return err;
	bytes_write8(w, (uint8_t)((r->expiry_min_ms ? RUN_EXPIRES : 0) |
				  (detail ? RUN_DETAIL : 0)));
	varint_write(w, record_ref_number(r->first) - *number);
	varint_write(w, r->span);
	varint_write(w, r->copied);
	varint_write(w, r->live);
	put_file(o, r->file);
	varint_write(w, r->offset);
	varint_write(w, r->bytes);
	if (r->expiry_min_ms)
		varint_write(w, r->expiry_min_ms);
	if (detail)
		varint_write(w, len);
	err = write_detail(o, detail, len);
	free(detail);
	*number = record_ref_number(r->first) + r->span;
	return err;
}

static int write_lane(struct out *o, const struct state_lane *lane,
		      unsigned priority)
{
	uint64_t number = 1;
	int err;

	bytes_write8(&o->w, (uint8_t)priority);
	varint_write(&o->w, lane->next);
	varint_write(&o->w, lane->run_end - lane->run_head);
	varint_write(&o->w, lane->entries.live);
	err = end_item(o);
	for (size_t i = lane->run_head; !err && i < lane->run_end; i++)
		err = write_run(o, lane->runs[i], &number);
	o->last_ref = record_ref(priority, 0);
	o->last_arrived_ms = 0;
	return err ? err : entries_each(&lane->entries, write_entry, o);
}

static int write_queue(struct out *o, const struct state_queue *q)
{
	uint8_t meta[RECORD_QUEUE_ROOM];
	size_t len = record_queue_encode(&q->record, meta);
	uint8_t lanes = 0;
	int err;

	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		lanes = (uint8_t)(lanes + (q->lanes[p] != NULL));
	bytes_write16(&o->w, (uint16_t)len);
	bytes_write(&o->w, meta, len);
	varint_write(&o->w, q->bytes);
	bytes_write8(&o->w, lanes);
	err = end_item(o);
	for (unsigned p = 0; !err && p < RECORD_PRIORITIES; p++)
		if (q->lanes[p])
			err = write_lane(o, q->lanes[p], p);
	return err;
}

static int write_queues(struct out *o)
{
	void **all = idmap_sorted(&o->state->queues);
	int err = all ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < o->state->queues.count; i++)
		err = write_queue(o, all[i]);
	free(all);
	return err;
}

static int write_state(struct out *o, const struct log_position *p)
{
	int err = write_header(o, p);

	if (!err)
		err = write_addresses(o);
	if (!err)
		err = write_uploads(o);
	if (!err)
		err = write_queues(o);
	if (err)
		return err;
	bytes_write32(&o->w, CHECKPOINT_END_MARK);
	return flush_block(o);
}

int checkpoint_put_state(struct state *s, const struct log_position *p,
			 struct blob_writer *blob)
{
	struct out o = {.state = s, .blob = blob};
	int err;

	o.buf = malloc(4 + CHECKPOINT_BLOCK_BYTES_MAX);
	if (!o.buf)
		return -ENOMEM;
	bytes_writer_init(&o.w, o.buf + 4, CHECKPOINT_BLOCK_BYTES_MAX);
	err = write_state(&o, p);
	crypto_zero(o.buf, 4 + CHECKPOINT_BLOCK_BYTES_MAX);
	free(o.buf);
	free(o.files);
	return err;
}
