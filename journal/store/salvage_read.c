/* journal/store/salvage_read.c: the bytes of what the model says is there.
 *
 * Damage costs no more than the chunk of 64 KiB that it lies in: the messages
 * that touch it are missing, the others of the same run are not. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/salvage_private.h"

struct run_item {
	uint32_t at, offset, bytes; /* in the run */
};

/* An extent file, and the chunks of it that were read last. */
struct chunks {
	uint64_t key; /* 0: none */
	struct io_file *file;
	struct blob_keys *keys;
	uint8_t *plain;
	int *errs; /* of each of them */
	uint32_t first, count, capacity;
};

struct salvage_reader {
	struct salvage_model *m;
	struct compress *compress;
	uint8_t *raw; /* one chunk as it lies in the file */
	/* Pieces are asked for while a run is being told. */
	struct chunks runs, pieces;
	uint8_t *stored, *expanded;
	size_t stored_room, expanded_room;
	struct run_item *items;
	uint32_t item_count, item_capacity;
};

int salvage_reader_create(struct salvage_model *m, struct salvage_reader **ret)
{
	struct salvage_reader *r = calloc(1, sizeof(*r));
	int err = -ENOMEM;

	if (!r)
		return -ENOMEM;
	r->m = m;
	r->raw = malloc(BLOB_CHUNK_STRIDE);
	if (r->raw)
		err = compress_create(1, &r->compress);
	if (err) {
		salvage_reader_free(r);
		return err;
	}
	*ret = r;
	return 0;
}

static void close_file(struct chunks *c)
{
	io_close(c->file);
	blob_keys_free(c->keys);
	c->file = NULL;
	c->keys = NULL;
	c->key = 0;
}

static void free_chunks(struct chunks *c)
{
	if (c->plain)
		crypto_zero(c->plain, (size_t)c->capacity * BLOB_CHUNK_BYTES);
	free(c->plain);
	free(c->errs);
	c->plain = NULL;
	c->errs = NULL;
	c->capacity = c->count = 0;
}

void salvage_reader_free(struct salvage_reader *r)
{
	if (!r)
		return;
	close_file(&r->runs);
	close_file(&r->pieces);
	free_chunks(&r->runs);
	free_chunks(&r->pieces);
	compress_free(r->compress);
	free(r->raw);
	free(r->stored);
	free(r->expanded);
	free(r->items);
	free(r);
}

void salvage_file_name(uint64_t key, char ret[64])
{
	char name[EXTENT_NAME_BYTES];

	if (store_is_extent(key)) {
		extent_name(key, name);
		snprintf(ret, 64, EXTENT_DIR "/%s", name);
	} else {
		snprintf(ret, 64, "segments/%08x-%08x.log",
			 (unsigned)(key >> 32), (unsigned)key);
	}
}

static int make_room(uint8_t **buf, size_t *room, size_t want)
{
	uint8_t *grown;

	if (*buf && *room >= want)
		return 0;
	grown = realloc(*buf, base_max(want, 4096));
	if (!grown)
		return -ENOMEM;
	*buf = grown;
	*room = base_max(want, 4096);
	return 0;
}

int salvage_expand(struct salvage_reader *r, const void *stored,
		   uint32_t stored_len, uint32_t body_len, const void **ret)
{
	int err;

	if (stored_len == body_len) {
		*ret = stored;
		return 0;
	}
	if (body_len > LOG_RECORD_BYTES_MAX)
		return -E_CORRUPT;
	err = make_room(&r->expanded, &r->expanded_room, body_len);
	if (!err)
		err = compress_unpack(r->compress, stored, stored_len,
				      r->expanded, body_len);
	if (!err)
		*ret = r->expanded;
	return err;
}

/* ---- extent files ---- */

static int open_file(struct salvage_reader *r, struct chunks *c, uint64_t key)
{
	const struct salvage_options *o = r->m->options;
	char path[CHECKPOINT_PATH_MAX];
	int err;

	if (c->key == key)
		return 0;
	close_file(c);
	err = extent_path(o->dir, key, path, sizeof(path));
	if (!err)
		err = io_open(o->io, path, IO_READ, &c->file);
	if (!err)
		err = blob_keys_open(&r->m->identity, path, EXTENT_KIND,
				     &c->keys);
	if (err)
		close_file(c);
	else
		c->key = key;
	return err;
}

static int make_chunks(struct chunks *c, uint32_t count)
{
	if (count <= c->capacity)
		return 0;
	free_chunks(c);
	c->plain = malloc((size_t)count * BLOB_CHUNK_BYTES);
	c->errs = malloc(count * sizeof(*c->errs));
	if (!c->plain || !c->errs) {
		free_chunks(c);
		return -ENOMEM;
	}
	c->capacity = count;
	return 0;
}

/* Opens the chunks that hold [offset, offset + bytes) of the stream; each has
 * its own error. */
static int read_chunks(struct salvage_reader *r, struct chunks *c, uint64_t key,
		       uint64_t offset, uint64_t bytes)
{
	uint64_t first = offset / BLOB_CHUNK_BYTES;
	uint64_t last = (offset + base_max(bytes, 1) - 1) / BLOB_CHUNK_BYTES;
	uint32_t len;
	size_t got;
	int err = open_file(r, c, key);

	c->count = 0;
	if (!err)
		err = make_chunks(c, (uint32_t)(last - first) + 1);
	if (err)
		return err;
	c->first = (uint32_t)first;
	c->count = (uint32_t)(last - first) + 1;
	for (uint32_t i = 0; i < c->count; i++) {
		uint8_t *plain = c->plain + (size_t)i * BLOB_CHUNK_BYTES;
		uint32_t index = c->first + i;

		err = io_read(c->file, r->raw, BLOB_CHUNK_STRIDE,
			      blob_chunk_offset(index), &got);
		if (!err)
			err = blob_open_chunk(c->keys, index, r->raw, got,
					      plain, &len);
		/* The last one is shorter: what it lacks is not there. */
		if (!err && len < BLOB_CHUNK_BYTES)
			memset(plain + len, 0, BLOB_CHUNK_BYTES - len);
		if (err == -ENOMEM)
			return err;
		c->errs[i] = err;
	}
	return 0;
}

/* What of the chunks that were read lies at `offset`, or why it cannot be
 * had, and where in the file that is. */
static int chunks_at(const struct chunks *c, uint64_t offset, uint64_t bytes,
		     const uint8_t **ret, uint64_t *ret_offset)
{
	uint64_t start = (uint64_t)c->first * BLOB_CHUNK_BYTES;
	uint64_t end = start + (uint64_t)c->count * BLOB_CHUNK_BYTES;

	if (offset < start || offset > end || bytes > end - offset)
		return -E_CORRUPT;
	for (uint32_t i = 0; i < c->count; i++) {
		uint64_t at = start + (uint64_t)i * BLOB_CHUNK_BYTES;

		if (!c->errs[i] || at + BLOB_CHUNK_BYTES <= offset ||
		    at >= offset + base_max(bytes, 1))
			continue;
		*ret_offset = blob_chunk_offset(c->first + i);
		return c->errs[i];
	}
	*ret = c->plain + (offset - start);
	return 0;
}

/* ---- one lane: entries and runs by rising ref ---- */

struct lane_walk {
	struct salvage_reader *reader;
	struct state_queue *queue;
	struct state_lane *lane;
	const struct salvage_visit *visit;
	size_t next_run;
	/* the run that was read; NULL: none */
	struct state_run *run;
	struct extent_head head;
	uint32_t next_item;
};

static int missing(const struct lane_walk *w, uint64_t first, uint64_t last,
		   uint64_t file, uint64_t offset, int err)
{
	return err == -ENOMEM
		       ? err
		       : w->visit->missing(w->visit->ctx, w->queue->record.id,
					   first, last, file, offset, err);
}

static int note_item(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct salvage_reader *r = ctx;

	if (r->item_count == r->item_capacity) {
		uint32_t capacity =
			r->item_capacity ? r->item_capacity * 2 : 1024;
		void *p = realloc(r->items, capacity * sizeof(*r->items));

		if (!p)
			return -ENOMEM;
		r->items = p;
		r->item_capacity = capacity;
	}
	r->items[r->item_count++] = (struct run_item){at, offset, bytes};
	return 0;
}

static uint64_t file_key(const struct lane_walk *w, uint32_t index)
{
	return w->reader->m->state.files[index].key;
}

static int run_index(struct lane_walk *w, uint64_t *ret_offset)
{
	struct salvage_reader *r = w->reader;
	const struct state_run *run = w->run;
	const uint8_t *data;
	int err;

	*ret_offset = 0;
	r->item_count = 0;
	err = read_chunks(r, &r->runs, file_key(w, run->file), run->offset,
			  run->bytes);
	if (!err)
		err = chunks_at(&r->runs, run->offset, EXTENT_HEAD_BYTES, &data,
				ret_offset);
	if (!err)
		err = extent_read_head(data, EXTENT_HEAD_BYTES, &w->head);
	if (!err &&
	    (w->head.queue != w->queue->record.id ||
	     w->head.first != run->first || w->head.bytes != run->bytes ||
	     w->head.index_bytes > run->bytes - EXTENT_HEAD_BYTES))
		err = -E_CORRUPT;
	if (!err)
		err = chunks_at(&r->runs, run->offset,
				EXTENT_HEAD_BYTES + w->head.index_bytes, &data,
				ret_offset);
	return err ? err
		   : extent_read_index(&w->head, data + EXTENT_HEAD_BYTES,
				       note_item, r);
}

/* Nothing of the run can be had: all that is still there is missing. */
static int run_missing(struct lane_walk *w, uint64_t offset, int why)
{
	const struct state_run *run = w->run;
	const struct detail *detail;
	uint32_t at = 0;
	int err = state_run_detail(&w->reader->m->state, w->run, &detail);

	while (!err && at < run->span) {
		uint32_t first = detail ? detail_next(detail, at) : at;
		uint32_t last = first;

		if (first >= run->span)
			break;
		while (last + 1 < run->span &&
		       !(detail && detail_is_gone(detail, last + 1)))
			last++;
		err = missing(w, run->first + first, run->first + last,
			      file_key(w, run->file), offset, why);
		at = last + 1;
	}
	return err;
}

static int next_run(struct lane_walk *w)
{
	uint64_t offset;
	int err;

	w->run = w->lane->runs[w->next_run++];
	w->next_item = 0;
	err = run_index(w, &offset);
	if (!err)
		return 0;
	if (err != -ENOMEM)
		err = run_missing(w, offset, err);
	w->run = NULL;
	return err;
}

static int run_message(struct lane_walk *w, const struct run_item *item)
{
	struct salvage_reader *r = w->reader;
	uint64_t ref = w->run->first + item->at, offset = 0;
	const struct detail_change *change;
	struct salvage_message m = {0};
	const struct detail *detail;
	struct extent_message x = {0};
	const uint8_t *data;
	int err = state_run_detail(&r->m->state, w->run, &detail);

	if (err || (detail && detail_is_gone(detail, item->at)))
		return err;
	err = chunks_at(&r->runs, (uint64_t)w->run->offset + item->offset,
			item->bytes, &data, &offset);
	if (!err)
		err = extent_read_message(&w->head, item->at, data, item->bytes,
					  &x);
	if (!err)
		err = salvage_expand(r, x.stored, x.stored_len, x.body_len,
				     &m.body);
	if (err)
		return missing(w, ref, ref, file_key(w, w->run->file), offset,
			       err);
	m.ref = ref;
	m.props = x.props;
	m.bytes = x.body_len;
	m.packed = x.stored_len != x.body_len;
	m.deliveries = x.deliveries;
	m.extra = x.extra;
	m.extra_len = x.extra_len;
	m.origin = x.origin;
	change = detail ? detail_find(detail, item->at) : NULL;
	if (change) {
		m.deliveries = change->deliveries;
		if (change->extra_len) {
			m.extra = change->extra;
			m.extra_len = change->extra_len;
		}
	}
	return w->visit->message(w->visit->ctx, w->queue->record.id, &m);
}

/* Everything of runs with a ref below `end`. */
static int runs_below(struct lane_walk *w, uint64_t end)
{
	int err = 0;

	while (!err) {
		const struct run_item *item;

		if (!w->run) {
			if (w->next_run >= w->lane->run_end ||
			    w->lane->runs[w->next_run]->first >= end)
				return 0;
			err = next_run(w);
			continue;
		}
		if (w->next_item == w->reader->item_count) {
			w->run = NULL;
			continue;
		}
		item = &w->reader->items[w->next_item];
		if (w->run->first + item->at >= end)
			return 0;
		w->next_item++;
		if (item->at < w->run->span)
			err = run_message(w, item);
	}
	return err;
}

/* ---- a run that the state does not know yet ---- */

struct refs {
	int (*each)(void *ctx, uint32_t at);
	void *ctx;
};

static int tell_ref(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	const struct refs *refs = ctx;

	return refs->each(refs->ctx, at);
}

int salvage_read_refs(struct salvage_reader *r, uint64_t file,
		      const struct record_run *run,
		      int (*each)(void *ctx, uint32_t at), void *ctx)
{
	struct refs refs = {each, ctx};
	struct extent_head head = {0};
	const uint8_t *data;
	uint64_t offset;
	int err = read_chunks(r, &r->runs, file, run->offset, run->bytes);

	if (!err)
		err = chunks_at(&r->runs, run->offset, EXTENT_HEAD_BYTES, &data,
				&offset);
	if (!err)
		err = extent_read_head(data, EXTENT_HEAD_BYTES, &head);
	if (!err && (head.queue != run->queue || head.first != run->first ||
		     head.bytes != run->bytes ||
		     head.index_bytes > run->bytes - EXTENT_HEAD_BYTES))
		err = -E_CORRUPT;
	if (!err)
		err = chunks_at(&r->runs, run->offset,
				EXTENT_HEAD_BYTES + head.index_bytes, &data,
				&offset);
	return err ? err
		   : extent_read_index(&head, data + EXTENT_HEAD_BYTES,
				       tell_ref, &refs);
}

/* ---- entries ---- */

static int read_body(struct salvage_reader *r, const struct entry_place *p,
		     const void **ret)
{
	struct log_loc loc = state_loc(&r->m->state, p);
	int err = make_room(&r->stored, &r->stored_room, loc.stored_len);

	if (!err)
		err = log_salvage_body(r->m->log, &loc, r->stored);
	return err ? err
		   : salvage_expand(r, r->stored, loc.stored_len, loc.body_len,
				    ret);
}

static int walk_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct lane_walk *w = ctx;
	struct salvage_message m = {
		.ref = ref,
		.props.expiry_ms = e->expiry_ms,
		.props.arrived_ms = e->arrived_ms,
		.props.priority = e->priority,
		.props.durable = e->durable,
		.props.format = e->format,
		.bytes = state_entry_bytes(e),
		.packed = e->place.stored_len != e->place.body_len,
		.deliveries = e->deliveries,
		.origin = state_entry_origin(e),
	};
	int err = runs_below(w, ref);

	if (err)
		return err;
	if (e->more) {
		m.upload = e->more->upload;
		m.extra_len = e->more->extra_len;
		m.extra = m.extra_len ? e->more->data : NULL;
	}
	if (!m.upload) {
		err = read_body(w->reader, &e->place, &m.body);
		if (err)
			return missing(
				w, ref, ref, file_key(w, e->place.segment),
				(uint64_t)e->place.frame * IO_BLOCK, err);
	}
	return w->visit->message(w->visit->ctx, w->queue->record.id, &m);
}

int salvage_read_queue(struct salvage_reader *r, struct state_queue *q,
		       const struct salvage_visit *visit)
{
	int err = 0;

	for (unsigned p = 0; !err && p < RECORD_PRIORITIES; p++) {
		struct lane_walk w = {
			.reader = r,
			.queue = q,
			.lane = q->lanes[p],
			.visit = visit,
		};

		if (!w.lane)
			continue;
		w.next_run = w.lane->run_head;
		err = entries_each(&w.lane->entries, walk_entry, &w);
		if (!err)
			err = runs_below(&w, UINT64_MAX);
	}
	return err;
}

int salvage_read_piece(struct salvage_reader *r, const struct entry_place *p,
		       const void **ret, uint64_t *ret_file,
		       uint64_t *ret_offset)
{
	uint64_t key = r->m->state.files[p->segment].key;
	const uint8_t *data;
	int err;

	*ret_file = key;
	*ret_offset = (uint64_t)p->frame * IO_BLOCK;
	if (!store_is_extent(key))
		return read_body(r, p, ret);
	err = read_chunks(r, &r->pieces, key, p->at, p->stored_len);
	if (!err)
		err = chunks_at(&r->pieces, p->at, p->stored_len, &data,
				ret_offset);
	return err ? err
		   : salvage_expand(r, data, p->stored_len, p->body_len, ret);
}
