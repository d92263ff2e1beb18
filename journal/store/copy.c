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

#include "journal/store/extent_read.h"
#include "journal/store/internal.h"

/* Enough to have the next frames on their way while one is taken apart. */
#define READS_MAX 2048u
#define READ_BYTES_MAX (4u * 1024u * 1024u)
/* What must stay free for what gives space back: acknowledgements, in small
 * segments, and checkpoints. */
#define SPARE_BYTES (16u * 1024u * 1024u)
/* A run is closed when a message might not fit, however small it is in the
 * end: by so much at most (extent.c). */
#define RUN_MARGIN_BYTES 4096u

struct copy_read {
	struct log_read read;
	struct copier *copier;
	struct copy_item *item;
};

struct copier {
	struct store *store;
	struct loop *loop;
	struct log_reader *reader;
	struct copy_step *step;
	struct extent_writer *writer;
	/* Reading an extent file. */
	struct extent_files *files;
	struct extent_read part;
	size_t run_at, item_at;
	uint64_t run_first; /* ref */
	uint64_t run_bytes; /* of runs joined in the one that is written, at
			       most; 0: none is to be joined */
	/* Reading a segment. */
	struct copy_item **order;
	size_t order_count, order_at;
	uint8_t *arena;
	struct copy_read reads[READS_MAX];
	struct copy_read *idle[READS_MAX];
	size_t idle_count;
	uint64_t in_flight_bytes;
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

/* What comes next is in no run with what was before. */
static int end_run(struct copier *c)
{
	c->run_bytes = 0;
	return extent_end_run(c->writer);
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
	return end_run(c);
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

/* ---- reading an extent file ----
 *
 * A run moves as a whole or stays as a whole, so that one run never lies in
 * two files: it is looked through first, and stays when something in it is
 * damaged. */

struct run_copy {
	struct copier *copier;
	const struct copy_run *run;
	struct extent_head head;
	int64_t bytes, grown; /* what of it is moved, and by how much more than
				 it was, for what has changed */
	/* Damaged messages, neighbours so far. */
	uint64_t bad_first, bad_last, bad_offset, bad_bytes;
	int bad_err; /* the last one; 0: nothing is damaged */
};

static void flush_bad(struct run_copy *rc)
{
	if (rc->bad_first)
		report_run(rc->copier, rc->run, rc->bad_first, rc->bad_last,
			   rc->bad_offset, rc->bad_bytes, rc->bad_err);
	rc->bad_first = 0;
}

static void note_bad(struct run_copy *rc, uint64_t ref, uint64_t offset,
		     uint64_t bytes, int err)
{
	if (!rc->bad_first) {
		rc->bad_first = ref;
		rc->bad_offset = offset;
		rc->bad_bytes = 0;
	}
	rc->bad_last = ref;
	rc->bad_bytes += bytes;
	rc->bad_err = err;
}

/* With what has changed of it since it was written. */
static int read_message(struct run_copy *rc, uint32_t at, uint32_t offset,
			uint32_t bytes, struct extent_message *ret)
{
	const struct copy_run *run = rc->run;
	const struct detail_change *change = NULL;
	const uint8_t *data;
	int err = 0;

	data = extent_read_bytes(&rc->copier->part,
				 (uint64_t)run->offset + offset, bytes, &err,
				 NULL);
	if (data)
		err = extent_read_message(&rc->head, at, data, bytes, ret);
	if (err)
		return err;
	if (run->detail)
		change = detail_find(run->detail, at);
	if (!change)
		return 0;
	/* A varint of 32 bits takes five bytes at most. */
	if (change->deliveries != ret->deliveries)
		rc->grown += 5;
	ret->deliveries = change->deliveries;
	if (change->extra_len) {
		rc->grown += (int64_t)change->extra_len - ret->extra_len;
		rc->grown += change->extra_len == ret->extra_len ? 0 : 5;
		ret->extra = change->extra;
		ret->extra_len = change->extra_len;
	}
	return 0;
}

static bool is_wanted(const struct copy_run *run, uint32_t at)
{
	return at < run->span &&
	       !(run->detail && detail_is_gone(run->detail, at));
}

static int look_at_message(void *ctx, uint32_t at, uint32_t offset,
			   uint32_t bytes)
{
	struct run_copy *rc = ctx;
	struct extent_message m;
	int err;

	if (!is_wanted(rc->run, at))
		return 0;
	err = read_message(rc, at, offset, bytes, &m);
	if (err)
		note_bad(rc, rc->run->first + at,
			 (uint64_t)rc->run->offset + offset, bytes, err);
	else
		flush_bad(rc);
	rc->bytes += bytes;
	return 0;
}

static int copy_message(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct run_copy *rc = ctx;
	struct extent_message m;
	int err;

	if (!is_wanted(rc->run, at))
		return 0;
	err = read_message(rc, at, offset, bytes, &m);
	if (!err)
		err = extent_add(rc->copier->writer, rc->run->queue, &m);
	if (!err)
		count_copied(rc->copier, 1, m.stored_len);
	return err;
}

/* The index behind the head; NULL: damaged. */
static const uint8_t *read_index(struct run_copy *rc, int *ret_err)
{
	const struct extent_read *part = &rc->copier->part;
	const struct copy_run *run = rc->run;
	struct extent_head *head = &rc->head;
	const uint8_t *data = extent_read_bytes(
		part, run->offset, EXTENT_HEAD_BYTES, ret_err, NULL);

	if (!data)
		return NULL;
	*ret_err = extent_read_head(data, EXTENT_HEAD_BYTES, head);
	if (!*ret_err &&
	    (head->bytes != run->bytes || head->queue != run->queue ||
	     head->first != run->first))
		*ret_err = -E_CORRUPT;
	if (*ret_err)
		return NULL;
	return extent_read_bytes(part,
				 (uint64_t)run->offset + EXTENT_HEAD_BYTES,
				 head->index_bytes, ret_err, NULL);
}

/* Into the run that is being written, or a new one, without being split:
 * false: what has changed in it makes it too large for one. */
static bool place_run(struct copier *c, struct run_copy *rc, bool *ret_joins)
{
	const struct copy_run *run = rc->run;
	uint64_t bytes =
		EXTENT_HEAD_BYTES + rc->head.index_bytes +
		(uint64_t)(rc->bytes + (rc->grown > 0 ? rc->grown : 0));

	/* Where it was alone it may be again. */
	if (rc->grown > 0 && bytes + RUN_MARGIN_BYTES > EXTENT_RUN_BYTES)
		return false;
	*ret_joins =
		!run->begin && c->run_bytes &&
		run->first + run->span - c->run_first <= EXTENT_SPAN_MAX &&
		c->run_bytes + bytes + RUN_MARGIN_BYTES <= EXTENT_RUN_BYTES;
	if (!*ret_joins) {
		c->run_first = run->first;
		c->run_bytes = 0;
	}
	c->run_bytes += bytes;
	return true;
}

static int copy_run(struct copier *c, const struct copy_run *run)
{
	struct run_copy rc = {.copier = c, .run = run};
	uint32_t before;
	bool joins = false;
	int err = 0;
	const uint8_t *index = read_index(&rc, &err);

	if (index)
		err = extent_read_index(&rc.head, index, look_at_message, &rc);
	flush_bad(&rc);
	if (err) {
		/* Without its index nobody knows what is where. */
		report_run(c, run, run->first, run->first + run->span - 1,
			   run->offset, run->bytes, err);
		return end_run(c);
	}
	if (rc.bad_err || !place_run(c, &rc, &joins))
		return end_run(c);
	if (!joins)
		err = extent_end_run(c->writer);
	before = extent_run_count(c->writer);
	if (!err)
		err = extent_read_index(&rc.head, index, copy_message, &rc);
	ASSERT(err || extent_run_count(c->writer) <= before + !joins);
	return err;
}

/* A piece that lies in an extent file already. */
static int copy_piece(struct copier *c, struct copy_item *item, int err)
{
	const struct log_loc *loc = &item->loc;
	uint64_t part_at = (uint64_t)c->part.first * BLOB_CHUNK_BYTES;

	item->err = err;
	if (!err && loc->stored_len &&
	    extent_read_bytes(&c->part, loc->at, loc->stored_len, &item->err,
			      NULL))
		item->stored = c->part.plain + (loc->at - part_at);
	return write_item(c, item);
}

static void end_window(struct copier *c, int err);
static void next_part(struct copier *c, int err);

/* err: -ENOENT: the file has gone, as all of it has left meanwhile. */
static void part_done(struct extent_read *part, int err)
{
	struct copier *c = container_of(part, struct copier, part);
	struct copy_step *step = c->step;

	if (err && err != -ENOENT) {
		next_part(c, err);
		return;
	}
	if (c->run_at < step->run_count) {
		const struct copy_run *run = &step->runs[c->run_at++];

		err = err ? end_run(c) : copy_run(c, run);
	} else {
		err = copy_piece(c, &step->items[c->item_at++], err);
	}
	next_part(c, err);
}

static void next_part(struct copier *c, int err)
{
	struct copy_step *step = c->step;

	while (!err && !step->full) {
		const struct copy_run *run = &step->runs[c->run_at];
		struct copy_item *item = &step->items[c->item_at];

		step->full = !has_room(c);
		if (step->full) {
			break;
		} else if (c->run_at < step->run_count) {
			extent_read_start(c->files, &c->part, step->source,
					  run->offset, run->bytes);
			return;
		} else if (c->item_at == step->item_count) {
			break;
		} else if (item->loc.stored_len) {
			extent_read_start(c->files, &c->part, step->source,
					  item->loc.at, item->loc.stored_len);
			return;
		}
		c->item_at++;
		err = copy_piece(c, item, 0);
	}
	end_window(c, err);
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

static void read_more(struct copier *c);

static void read_done(struct log_read *read, int err)
{
	struct copy_read *r = container_of(read, struct copy_read, read);
	struct copier *c = r->copier;

	r->item->err = err;
	c->in_flight_bytes -= r->item->loc.stored_len;
	r->item = NULL;
	c->idle[c->idle_count++] = r;
	read_more(c);
}

static void read_next(struct copier *c, struct copy_read *r)
{
	struct copy_item *item = c->order[c->order_at++];
	/* As stored, compressed or not. */
	struct log_loc raw = item->loc;

	raw.body_len = raw.stored_len;
	r->item = item;
	c->in_flight_bytes += raw.stored_len;
	log_read(c->reader, &r->read, &raw, item->stored);
}

static void read_more(struct copier *c)
{
	while (c->idle_count && c->order_at < c->order_count &&
	       c->in_flight_bytes < READ_BYTES_MAX)
		read_next(c, c->idle[--c->idle_count]);
	if (c->idle_count == READS_MAX)
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
	extent_read_fini(&c->part);
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
	c->run_bytes = 0;
	if (!err)
		err = writer_open(c);
	if (!err && !store_is_extent(step->source))
		err = prepare_reads(c);
	if (err) {
		end_window(c, err);
	} else if (store_is_extent(step->source)) {
		c->run_at = c->item_at = 0;
		next_part(c, 0);
	} else {
		read_more(c);
	}
}

static int finish_file(struct copier *c)
{
	struct extent_writer *w = c->writer;
	char path[CHECKPOINT_PATH_MAX];
	int err, ignored;

	ASSERT(w);
	c->writer = NULL;
	err = extent_finish(w, &c->step->record);
	/* What it has left is in the way when the disk is full.  Should it
	 * stay, no record names it. */
	if (err &&
	    !extent_path(c->store->dir, c->step->key, path, sizeof(path))) {
		ignored = io_unlink(c->store->options.io, path);
		(void)ignored;
	}
	return err;
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
		c->idle[c->idle_count++] = &c->reads[i];
	}
	c->part.done = part_done;
	err = log_reader_create(store->log, loop, &c->reader);
	if (!err)
		err = extent_files_create(&store->place.identity, store->dir,
					  loop, &c->files);
	if (err)
		copier_free(c);
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
	extent_files_free(c->files);
	extent_read_fini(&c->part);
	forget_reads(c);
	extent_abandon(c->writer);
	free(c);
}
