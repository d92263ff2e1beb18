/* journal/store/copy.c: writing what is moved into an extent file.
 *
 * Bodies in a segment are read in the order in which they lie there, many at
 * a time, each frame once, and written in the order of the lanes.  Runs of an
 * extent file are read whole, one after the other.
 *
 * Crash argument: nothing outside knows the file before extent_finish() has
 * made it durable and a record that names it is committed.  Until then it is
 * a stray, which the next start removes; all it holds is still where it was. */
#include "journal/store/copy.h"

#include <inttypes.h>
#include <string.h>

#include "journal/store/internal.h"

#define READS_MAX 64u
/* What must stay free for what gives space back: acknowledgements, in small
 * segments, and checkpoints. */
#define SPARE_BYTES (16u * 1024u * 1024u)

struct copy_read {
	struct log_read read;
	struct copier *copier;
	struct copy_item *item;
};

/* The extent file that is read from. */
struct copy_source {
	uint64_t key; /* 0: none is open */
	char name[64];
	struct blob_keys *keys;
	struct io_file *file;
};

/* Chunks of its stream. */
struct copy_span {
	uint64_t start; /* in the stream, of the first chunk */
	uint32_t first, count;
	uint8_t *plain;
	bool *bad;
};

struct copier {
	struct store *store;
	struct loop *loop;
	struct log_reader *reader;
	struct copy_step *step;
	struct extent_writer *writer;
	struct copy_source source;
	/* Reading a segment. */
	struct copy_item **order;
	size_t order_count, order_at;
	uint8_t *arena;
	struct copy_read reads[READS_MAX];
	size_t in_flight;
};

/* ---- steps ---- */

static int grow(void **array, size_t *capacity, size_t count, size_t unit)
{
	size_t wanted = *capacity ? *capacity * 2 : 64;
	void *grown;

	if (count < *capacity)
		return 0;
	grown = realloc(*array, wanted * unit);
	if (!grown)
		return -ENOMEM;
	*array = grown;
	*capacity = wanted;
	return 0;
}

int copy_add_item(struct copy_step *step, struct copy_item **ret)
{
	void *array = step->items;
	int err = grow(&array, &step->item_capacity, step->item_count,
		       sizeof(*step->items));

	step->items = array;
	if (err)
		return err;
	*ret = &step->items[step->item_count++];
	memset(*ret, 0, sizeof(**ret));
	return 0;
}

int copy_add_run(struct copy_step *step, struct copy_run **ret)
{
	void *array = step->runs;
	int err = grow(&array, &step->run_capacity, step->run_count,
		       sizeof(*step->runs));

	step->runs = array;
	if (err)
		return err;
	*ret = &step->runs[step->run_count++];
	memset(*ret, 0, sizeof(**ret));
	return 0;
}

void copy_step_clear(struct copy_step *step)
{
	for (size_t i = 0; i < step->item_count; i++)
		free(step->items[i].parts);
	for (size_t i = 0; i < step->run_count; i++)
		detail_free(step->runs[i].detail);
	free(step->items);
	free(step->runs);
	step->items = NULL;
	step->runs = NULL;
	step->item_count = step->item_capacity = 0;
	step->run_count = step->run_capacity = 0;
	step->bytes = 0;
}

/* ---- damage ---- */

static bool is_damage(int err)
{
	return err == -E_CORRUPT || err == -EIO || err == -E_KEY;
}

static void report(struct copier *c, const struct store_damage *like,
		   uint64_t source)
{
	struct store_damage d = *like;
	char name[EXTENT_NAME_BYTES];

	if (store_is_extent(source)) {
		extent_name(source, name);
		snprintf(d.file, sizeof(d.file), EXTENT_DIR "/%s", name);
	} else {
		snprintf(d.file, sizeof(d.file), "segments/%08x-%08x.log",
			 (unsigned)(source >> 32), (unsigned)source);
	}
	store_damage_found(c->store, &d);
}

static void report_item(struct copier *c, const struct copy_item *item)
{
	struct store_damage d = {
		.queue = item->queue,
		.first_ref = item->ref,
		.last_ref = item->ref,
		.offset = (uint64_t)item->loc.frame * IO_BLOCK,
		.bytes = item->loc.stored_len,
		.err = item->err,
	};

	if (store_is_extent(item->loc.segment))
		d.offset = blob_chunk_offset(item->loc.at / BLOB_CHUNK_BYTES);
	report(c, &d, item->loc.segment);
}

static void report_run(struct copier *c, const struct copy_run *run,
		       uint64_t first, uint64_t last, uint64_t stream_offset,
		       uint64_t bytes, int err)
{
	struct store_damage d = {
		.queue = run->queue,
		.first_ref = first,
		.last_ref = last,
		.offset = blob_chunk_offset(
			(uint32_t)(stream_offset / BLOB_CHUNK_BYTES)),
		.bytes = bytes,
		.err = err,
	};

	report(c, &d, c->step->source);
}

/* ---- writing ---- */

static int writer_open(struct copier *c)
{
	if (c->writer)
		return 0;
	return extent_writer_create(&c->store->place.identity, c->store->dir,
				    c->step->key, &c->writer);
}

/* The record that will name the runs and pieces has room for so many. */
static bool has_room(const struct copier *c)
{
	return extent_run_count(c->writer) + 2 <= RECORD_RUN_MAX &&
	       extent_piece_count(c->writer) < RECORD_RUN_MAX;
}

static void count_copied(struct copier *c, uint64_t messages, uint64_t bytes)
{
	c->store->stats.copied_messages += messages;
	c->store->stats.copied_bytes += bytes;
}

static int write_message(struct copier *c, const struct copy_item *item)
{
	struct extent_message m = {
		.ref = item->ref,
		.props = item->props,
		.deliveries = item->deliveries,
		.body_len = item->loc.body_len,
		.stored_len = item->loc.stored_len,
		.stored = item->stored,
	};
	int err = item->begin ? extent_end_run(c->writer) : 0;

	if (item->parts) {
		m.extra = item->parts->extra;
		m.extra_len = item->parts->extra_len;
		m.origin = item->parts->origin;
	}
	if (!err)
		err = extent_add(c->writer, item->queue, &m);
	if (!err)
		count_copied(c, 1, m.stored_len);
	return err;
}

static int write_piece(struct copier *c, const struct copy_item *item)
{
	int err = extent_add_piece(c->writer, item->upload, item->index,
				   item->stored, item->loc.stored_len,
				   item->loc.body_len);

	if (!err)
		count_copied(c, 0, item->loc.stored_len);
	return err;
}

static int write_item(struct copier *c, const struct copy_item *item)
{
	if (!item->err)
		return item->upload ? write_piece(c, item)
				    : write_message(c, item);
	if (is_damage(item->err))
		report_item(c, item);
	else if (item->err != -ENOENT)
		return item->err;
	/* What was left out is in no run. */
	return extent_end_run(c->writer);
}

static int write_items(struct copier *c)
{
	struct copy_step *step = c->step;
	int err = 0;

	for (size_t i = 0; !err && i < step->item_count; i++) {
		if (!has_room(c)) {
			step->full = true;
			break;
		}
		err = write_item(c, &step->items[i]);
	}
	return err;
}

/* ---- reading an extent file ---- */

static void source_close(struct copy_source *s)
{
	blob_keys_free(s->keys);
	io_close(s->file);
	memset(s, 0, sizeof(*s));
}

static int source_open(struct copier *c, uint64_t key)
{
	struct copy_source *s = &c->source;
	struct io *io = c->store->options.io;
	char path[CHECKPOINT_PATH_MAX];
	int err;

	if (s->key == key)
		return 0;
	source_close(s);
	err = extent_path(c->store->dir, key, path, sizeof(path));
	if (!err)
		err = blob_keys_open(&c->store->place.identity, path,
				     EXTENT_KIND, &s->keys);
	if (!err)
		err = io_open(io, path, IO_READ | IO_DIRECT, &s->file);
	if (err)
		source_close(s);
	else
		s->key = key;
	return err;
}

static void span_free(struct copy_span *span)
{
	free(span->plain);
	free(span->bad);
	memset(span, 0, sizeof(*span));
}

/* Chunks [first, first + count) of the span from one read; what of them is
 * there and opens is good. */
static int span_read(struct copy_source *s, struct copy_span *span,
		     uint32_t first, uint32_t count, uint64_t stream_end)
{
	uint64_t at = blob_chunk_offset(span->first + first);
	uint64_t start = at & ~(uint64_t)(IO_BLOCK - 1);
	uint64_t end = base_round_up(
		blob_chunk_offset(span->first + first + count), IO_BLOCK);
	uint8_t *raw = io_buffer_alloc(end - start);
	size_t got = 0;
	int err = raw ? 0 : -ENOMEM;

	if (!err)
		err = io_read(s->file, raw, end - start, start, &got);
	for (uint32_t i = first; !err && i < first + count; i++) {
		uint64_t skip = blob_chunk_offset(span->first + i) - start;
		uint64_t stream = span->start + (uint64_t)i * BLOB_CHUNK_BYTES;
		uint32_t len = 0;
		int bad = got > skip
				  ? blob_open_chunk(s->keys, span->first + i,
						    raw + skip,
						    base_min(got - skip,
							     BLOB_CHUNK_STRIDE),
						    span->plain + stream -
							    span->start,
						    &len)
				  : -E_CORRUPT;

		span->bad[i] =
			bad ||
			stream + len <
				base_min(stream + BLOB_CHUNK_BYTES, stream_end);
	}
	io_buffer_free(raw);
	return err;
}

/* Stream bytes [offset, offset + bytes), chunk by chunk when the disk does
 * not give all of them.  -ENOMEM */
static int span_load(struct copy_source *s, uint64_t offset, uint64_t bytes,
		     struct copy_span *ret)
{
	struct copy_span span = {
		.first = (uint32_t)(offset / BLOB_CHUNK_BYTES),
	};
	int err;

	span.start = (uint64_t)span.first * BLOB_CHUNK_BYTES;
	span.count = (uint32_t)((offset + bytes - span.start +
				 BLOB_CHUNK_BYTES - 1) /
				BLOB_CHUNK_BYTES);
	span.plain = malloc((size_t)span.count * BLOB_CHUNK_BYTES + 1);
	span.bad = calloc(span.count + 1, sizeof(*span.bad));
	err = span.plain && span.bad ? 0 : -ENOMEM;
	if (!err)
		err = span_read(s, &span, 0, span.count, offset + bytes);
	for (uint32_t i = 0; err && err != -ENOMEM && i < span.count; i++) {
		int one = span_read(s, &span, i, 1, offset + bytes);

		span.bad[i] |= one != 0;
		if (one == -ENOMEM || i + 1 == span.count)
			err = one == -ENOMEM ? one : 0;
	}
	if (err)
		span_free(&span);
	else
		*ret = span;
	return err;
}

/* NULL: damaged. */
static const uint8_t *span_data(const struct copy_span *span, uint64_t offset,
				uint64_t bytes)
{
	uint64_t end = span->start + (uint64_t)span->count * BLOB_CHUNK_BYTES;

	if (offset < span->start || offset + bytes > end)
		return NULL;
	for (uint64_t i = (offset - span->start) / BLOB_CHUNK_BYTES;
	     bytes &&
	     i <= (offset + bytes - 1 - span->start) / BLOB_CHUNK_BYTES;
	     i++)
		if (span->bad[i])
			return NULL;
	return span->plain + (offset - span->start);
}

/* ---- runs ---- */

struct run_copy {
	struct copier *copier;
	const struct copy_run *run;
	const struct copy_span *span;
	struct extent_head head;
	bool begun;
};

static int copy_from_run(struct run_copy *rc, uint64_t ref,
			 struct extent_message *m)
{
	struct copier *c = rc->copier;
	const struct detail_change *change = NULL;
	int err = 0;

	if (rc->run->detail)
		change = detail_find(rc->run->detail,
				     (uint32_t)(ref - rc->run->first));
	if (change) {
		m->deliveries = change->deliveries;
		if (change->extra_len) {
			m->extra = change->extra;
			m->extra_len = change->extra_len;
		}
	}
	if (rc->run->begin && !rc->begun)
		err = extent_end_run(c->writer);
	rc->begun = true;
	if (!err)
		err = extent_add(c->writer, rc->run->queue, m);
	if (!err)
		count_copied(c, 1, m->stored_len);
	return err;
}

static int copy_indexed(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct run_copy *rc = ctx;
	const struct copy_run *run = rc->run;
	uint64_t ref = rc->head.first + at;
	uint64_t where = (uint64_t)run->offset + offset;
	struct extent_message m;
	const uint8_t *data;
	int err = -E_CORRUPT;

	if (ref < run->first || ref - run->first >= run->span ||
	    (run->detail &&
	     detail_is_gone(run->detail, (uint32_t)(ref - run->first))))
		return 0;
	if (!has_room(rc->copier)) {
		rc->copier->step->full = true;
		return 1;
	}
	data = span_data(rc->span, where, bytes);
	if (data)
		err = extent_read_message(&rc->head, at, data, bytes, &m);
	if (!err)
		return copy_from_run(rc, ref, &m);
	report_run(rc->copier, run, ref, ref, where, bytes, err);
	return extent_end_run(rc->copier->writer);
}

/* What is not known to be somebody's by the index is damaged as a whole. */
static int run_is_damaged(struct copier *c, const struct copy_run *run, int err)
{
	report_run(c, run, run->first, run->first + run->span - 1, run->offset,
		   run->bytes, err);
	return extent_end_run(c->writer);
}

static int copy_loaded_run(struct copier *c, const struct copy_run *run,
			   const struct copy_span *span)
{
	struct run_copy rc = {.copier = c, .run = run, .span = span};
	const uint8_t *head = span_data(span, run->offset, EXTENT_HEAD_BYTES);
	const uint8_t *index = NULL;
	int err = -E_CORRUPT;

	if (head)
		err = extent_read_head(head, EXTENT_HEAD_BYTES, &rc.head);
	if (!err && (rc.head.queue != run->queue ||
		     record_ref_priority(rc.head.first) !=
			     record_ref_priority(run->first)))
		err = -E_CORRUPT;
	if (!err)
		index = span_data(span,
				  (uint64_t)run->offset + EXTENT_HEAD_BYTES,
				  rc.head.index_bytes);
	if (!index)
		return run_is_damaged(c, run, -E_CORRUPT);
	err = extent_read_index(&rc.head, index, copy_indexed, &rc);
	if (err == -E_CORRUPT)
		err = run_is_damaged(c, run, err);
	return err > 0 ? 0 : err;
}

static int copy_run(struct copier *c, const struct copy_run *run)
{
	struct copy_span span;
	int err = source_open(c, c->step->source);

	if (err == -ENOENT) /* all of it has left meanwhile */
		return extent_end_run(c->writer);
	if (is_damage(err))
		return run_is_damaged(c, run, err);
	if (!err)
		err = span_load(&c->source, run->offset, run->bytes, &span);
	if (err)
		return err;
	err = copy_loaded_run(c, run, &span);
	span_free(&span);
	return err;
}

static int copy_runs(struct copier *c)
{
	struct copy_step *step = c->step;
	int err = 0;

	for (size_t i = 0; !err && !step->full && i < step->run_count; i++)
		err = copy_run(c, &step->runs[i]);
	return err;
}

/* A piece that lies in an extent file already. */
static int copy_piece(struct copier *c, struct copy_item *item)
{
	struct copy_span span = {0};
	int err = source_open(c, item->loc.segment);
	const uint8_t *data;

	if (!err)
		err = span_load(&c->source, item->loc.at, item->loc.stored_len,
				&span);
	item->err = err;
	if (!err) {
		data = span_data(&span, item->loc.at, item->loc.stored_len);
		item->err = data ? 0 : -E_CORRUPT;
		item->stored = span.plain + (item->loc.at - span.start);
	}
	err = write_item(c, item);
	item->stored = NULL;
	span_free(&span);
	return err;
}

static int copy_pieces(struct copier *c)
{
	struct copy_step *step = c->step;
	int err = 0;

	for (size_t i = 0; !err && !step->full && i < step->item_count; i++) {
		if (has_room(c))
			err = copy_piece(c, &step->items[i]);
		else
			step->full = true;
	}
	return err;
}

/* ---- reading a segment ---- */

static int by_place(const void *a, const void *b)
{
	const struct copy_item *const *x = a, *const *y = b;
	const struct log_loc *l = &(*x)->loc, *m = &(*y)->loc;

	if (l->frame != m->frame)
		return l->frame < m->frame ? -1 : 1;
	return l->at < m->at ? -1 : l->at > m->at;
}

static void end_window(struct copier *c, int err);
static void read_more(struct copier *c);

static void read_done(struct log_read *read, int err)
{
	struct copy_read *r = container_of(read, struct copy_read, read);
	struct copier *c = r->copier;

	r->item->err = err;
	r->item = NULL;
	c->in_flight--;
	read_more(c);
}

static void read_next(struct copier *c, struct copy_read *r)
{
	struct copy_item *item = c->order[c->order_at++];
	/* As stored, compressed or not. */
	struct log_loc raw = item->loc;

	raw.body_len = raw.stored_len;
	r->item = item;
	c->in_flight++;
	log_read(c->reader, &r->read, &raw, item->stored);
}

static void read_more(struct copier *c)
{
	for (size_t i = 0; i < READS_MAX && c->order_at < c->order_count; i++)
		if (!c->reads[i].item)
			read_next(c, &c->reads[i]);
	if (!c->in_flight)
		end_window(c, write_items(c));
}

/* Where each body goes, and the order in which they are read. */
static int prepare_reads(struct copier *c)
{
	struct copy_step *step = c->step;
	uint64_t bytes = 0;

	for (size_t i = 0; i < step->item_count; i++)
		bytes += step->items[i].loc.stored_len;
	c->order = calloc(step->item_count + 1, sizeof(struct copy_item *));
	c->arena = malloc(bytes + 1);
	if (!c->order || !c->arena)
		return -ENOMEM;
	bytes = 0;
	for (size_t i = 0; i < step->item_count; i++) {
		struct copy_item *item = &step->items[i];

		item->stored = c->arena + bytes;
		bytes += item->loc.stored_len;
		if (item->loc.stored_len)
			c->order[c->order_count++] = item;
	}
	qsort(c->order, c->order_count, sizeof(struct copy_item *), by_place);
	return 0;
}

/* ---- a step ---- */

static void returned(struct loop_mail *mail)
{
	struct copy_step *step = container_of(mail, struct copy_step, mail);

	step->done(step);
}

static void give_back(struct copier *c, int err)
{
	struct copy_step *step = c->step;

	if (err && c->writer) {
		extent_abandon(c->writer);
		c->writer = NULL;
	}
	c->step = NULL;
	step->err = err;
	step->mail.deliver = returned;
	loop_post(c->store->loop, &step->mail);
}

static void forget_reads(struct copier *c)
{
	free(c->order);
	free(c->arena);
	c->order = NULL;
	c->arena = NULL;
	c->order_count = c->order_at = 0;
}

static void end_window(struct copier *c, int err)
{
	struct copy_step *step = c->step;

	forget_reads(c);
	source_close(&c->source);
	if (!err) {
		step->file_bytes = extent_bytes(c->writer);
		step->file_runs = extent_run_count(c->writer);
		step->file_pieces = extent_piece_count(c->writer);
	}
	give_back(c, err);
}

static int check_space(struct copier *c)
{
	struct io_fs fs;
	int err = io_fs_info(c->store->options.io, c->store->dir, &fs);

	if (err)
		return err;
	return fs.bytes_free < SPARE_BYTES + 2 * c->step->bytes ? -ENOSPC : 0;
}

static void copy_window(struct copier *c)
{
	struct copy_step *step = c->step;
	int err = check_space(c);

	step->full = false;
	if (!err)
		err = writer_open(c);
	if (!err && store_is_extent(step->source)) {
		err = copy_runs(c);
		if (!err)
			err = copy_pieces(c);
	} else if (!err) {
		err = prepare_reads(c);
		if (!err) {
			read_more(c);
			return;
		}
	}
	end_window(c, err);
}

static int finish_file(struct copier *c)
{
	struct extent_writer *w = c->writer;

	ASSERT(w);
	c->writer = NULL;
	c->step->record.file = c->step->key;
	return extent_finish(w, &c->step->record);
}

static void deliver_step(struct loop_mail *mail)
{
	struct copy_step *step = container_of(mail, struct copy_step, mail);
	struct copier *c = step->copier;

	ASSERT(loop_is_current(c->loop) && !c->step);
	c->step = step;
	switch (step->kind) {
	case COPY_WINDOW:
		copy_window(c);
		break;
	case COPY_FINISH:
		give_back(c, finish_file(c));
		break;
	case COPY_ABANDON:
		extent_abandon(c->writer);
		c->writer = NULL;
		give_back(c, 0);
		break;
	}
}

void copier_run(struct copier *c, struct copy_step *step)
{
	step->copier = c;
	step->err = 0;
	step->mail.deliver = deliver_step;
	loop_post(c->loop, &step->mail);
}

/* ---- life ---- */

int copier_create(struct store *store, struct loop *loop, struct copier **ret)
{
	struct copier *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->store = store;
	c->loop = loop;
	for (size_t i = 0; i < READS_MAX; i++) {
		c->reads[i].copier = c;
		c->reads[i].read.done = read_done;
	}
	err = log_reader_create(store->log, loop, &c->reader);
	if (err)
		free(c);
	else
		*ret = c;
	return err;
}

void copier_free(struct copier *c)
{
	if (!c)
		return;
	/* Before the arena: what was in flight when the loop ended goes. */
	log_reader_free(c->reader);
	forget_reads(c);
	source_close(&c->source);
	extent_abandon(c->writer);
	free(c);
}
