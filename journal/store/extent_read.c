/* journal/store/extent_read.c: see the header.
 *
 * A part is read in one piece.  Where the disk refuses it, its chunks are
 * read one by one, so that one bad sector costs the messages in one chunk. */
#include "journal/store/extent_read.h"

#include <string.h>

#define OPEN_COUNT EXTENT_READS_MAX
#define TIDY_NS 1000000000ull
#define IDLE_TURNS_MAX 5u

struct extent_open {
	uint64_t key; /* 0: free */
	struct io_file *file;
	struct blob_keys *keys;
	unsigned users, idle_turns;
	uint64_t used;
};

struct extent_files {
	const struct blob_identity *id;
	const char *dir;
	struct loop *loop;
	struct extent_open open[OPEN_COUNT];
	uint64_t clock;
	struct list reads; /* in flight */
	struct list ready; /* to be told */
	struct loop_task finish;
	struct loop_timer tidy;
};

/* ---- open files ---- */

static void open_close(struct extent_open *o)
{
	ASSERT(!o->users);
	io_close(o->file);
	blob_keys_free(o->keys);
	memset(o, 0, sizeof(*o));
}

static int open_open(struct extent_files *x, struct extent_open *o,
		     uint64_t key)
{
	char path[4096];
	int err = extent_path(x->dir, key, path, sizeof(path));

	if (!err)
		err = blob_keys_open(x->id, path, EXTENT_KIND, &o->keys);
	if (!err)
		err = io_open(x->id->io, path, IO_READ | IO_DIRECT, &o->file);
	if (err) {
		open_close(o);
		return err;
	}
	o->key = key;
	if (!x->tidy.heap_index)
		loop_timer_set(x->loop, &x->tidy, TIDY_NS);
	return 0;
}

static int files_open(struct extent_files *x, uint64_t key,
		      struct extent_open **ret)
{
	struct extent_open *victim = NULL;
	int err = 0;

	for (unsigned i = 0; i < OPEN_COUNT; i++) {
		struct extent_open *o = &x->open[i];

		if (o->key == key) {
			victim = o;
			break;
		}
		if (!o->users && (!victim || o->used < victim->used))
			victim = o;
	}
	ASSERT(victim);
	if (victim->key != key) {
		open_close(victim);
		err = open_open(x, victim, key);
	}
	if (err)
		return err;
	victim->used = ++x->clock;
	victim->idle_turns = 0;
	*ret = victim;
	return 0;
}

static void files_tidy(struct loop_timer *timer)
{
	struct extent_files *x = container_of(timer, struct extent_files, tidy);
	bool any = false;

	for (unsigned i = 0; i < OPEN_COUNT; i++) {
		struct extent_open *o = &x->open[i];

		if (!o->key)
			continue;
		if (!o->users && ++o->idle_turns > IDLE_TURNS_MAX)
			open_close(o);
		else
			any = true;
	}
	if (any)
		loop_timer_set(x->loop, &x->tidy, TIDY_NS);
}

/* ---- one read ---- */

static void read_finish(struct extent_read *r, int err)
{
	struct extent_files *x = r->files;

	if (r->open)
		r->open->users--;
	r->open = NULL;
	io_buffer_free(r->raw);
	r->raw = NULL;
	r->err = err;
	list_remove(&r->link);
	list_push(&x->ready, &r->link);
	loop_defer(x->loop, &x->finish);
}

static void files_finished(struct loop_task *task)
{
	struct extent_files *x =
		container_of(task, struct extent_files, finish);
	struct list ready;

	list_init(&ready);
	list_move_all(&ready, &x->ready);
	while (!list_empty(&ready)) {
		struct extent_read *r =
			list_entry(list_pop(&ready), struct extent_read, link);

		r->done(r, r->err);
	}
}

static void read_submit(struct extent_read *r)
{
	uint64_t start = blob_chunk_offset(r->raw_first);
	uint64_t end = blob_chunk_offset(r->raw_first + r->raw_count);

	start &= ~(uint64_t)(IO_BLOCK - 1);
	end = base_round_up(end, IO_BLOCK);
	r->raw_offset = start;
	r->raw_len = end - start;
	loop_read(r->files->loop, &r->op, r->open->file, r->raw, r->raw_len,
		  start);
}

/* got: bytes that are in raw. */
static void read_open_chunks(struct extent_read *r, size_t got)
{
	for (uint32_t i = 0; i < r->raw_count; i++) {
		uint32_t chunk = r->raw_first + i, at = chunk - r->first;
		uint64_t skip = blob_chunk_offset(chunk) - r->raw_offset;

		r->chunk_err[at] = -E_CORRUPT;
		if (skip < got)
			r->chunk_err[at] = blob_open_chunk(
				r->open->keys, chunk, r->raw + skip, got - skip,
				r->plain + (size_t)at * BLOB_CHUNK_BYTES,
				&r->chunk_len[at]);
	}
}

static void read_done(struct loop_op *op, int res)
{
	struct extent_read *r = container_of(op, struct extent_read, op);

	if (res < 0 && extent_read_is_passing(res)) {
		read_finish(r, res);
		return;
	}
	if (res < 0 && !r->one_by_one) {
		r->one_by_one = true;
		r->raw_count = 1;
		read_submit(r);
		return;
	}
	if (res < 0) {
		r->chunk_err[r->raw_first - r->first] = res;
	} else {
		r->read_bytes += (uint64_t)res;
		read_open_chunks(r, (size_t)res);
	}
	r->raw_first += r->raw_count;
	if (r->raw_first < r->first + r->count)
		read_submit(r);
	else
		read_finish(r, 0);
}

/* The file is there and its header is no use. */
static void read_headless(struct extent_read *r, int err)
{
	r->header_err = err;
	for (uint32_t i = 0; i < r->count; i++)
		r->chunk_err[i] = err;
	read_finish(r, 0);
}

void extent_read_start(struct extent_files *x, struct extent_read *r,
		       uint64_t key, uint64_t offset, uint32_t len)
{
	struct extent_read wanted = {.done = r->done, .ctx = r->ctx};
	int err;

	ASSERT(loop_is_current(x->loop));
	ASSERT(len && len <= EXTENT_RUN_BYTES && offset + len <= UINT32_MAX);
	free(r->plain);
	*r = wanted;
	r->files = x;
	r->op.done = read_done;
	list_init(&r->link);
	list_push(&x->reads, &r->link);
	r->first = (uint32_t)(offset / BLOB_CHUNK_BYTES);
	r->count = (uint32_t)((offset + len - 1) / BLOB_CHUNK_BYTES) + 1 -
		   r->first;
	err = files_open(x, key, &r->open);
	if (err == -ENOENT || extent_read_is_passing(err)) {
		read_finish(r, err);
		return;
	}
	if (err) {
		read_headless(r, err);
		return;
	}
	r->open->users++;
	r->plain = malloc((size_t)r->count * BLOB_CHUNK_BYTES);
	r->raw = io_buffer_alloc((size_t)r->count * BLOB_CHUNK_STRIDE +
				 2 * IO_BLOCK);
	if (!r->plain || !r->raw) {
		read_finish(r, -ENOMEM);
		return;
	}
	r->raw_first = r->first;
	r->raw_count = r->count;
	read_submit(r);
}

const uint8_t *extent_read_bytes(const struct extent_read *r, uint64_t offset,
				 uint64_t len, int *ret_err,
				 uint32_t *ret_chunk)
{
	uint64_t begin = (uint64_t)r->first * BLOB_CHUNK_BYTES;
	uint64_t end = offset + len;

	ASSERT(offset >= begin &&
	       end <= begin + (uint64_t)r->count * BLOB_CHUNK_BYTES);
	for (uint64_t at = offset; at < end || at == offset;) {
		uint32_t chunk = (uint32_t)(at / BLOB_CHUNK_BYTES);
		uint32_t i = chunk - r->first;
		uint64_t next = ((uint64_t)chunk + 1) * BLOB_CHUNK_BYTES;
		uint64_t have =
			i < r->count ? next - BLOB_CHUNK_BYTES + r->chunk_len[i]
				     : 0;
		int err = i < r->count ? r->chunk_err[i] : 0;

		/* The last one may hold less than is asked for. */
		if (!err && len && have < base_min(next, end))
			err = -E_CORRUPT;
		if (err) {
			*ret_err = err;
			if (ret_chunk)
				*ret_chunk = chunk;
			return NULL;
		}
		at = next;
	}
	return r->plain + (offset - begin);
}

void extent_read_fini(struct extent_read *r)
{
	free(r->plain);
	io_buffer_free(r->raw);
	r->plain = NULL;
	r->raw = NULL;
}

/* ---- life ---- */

int extent_files_create(const struct blob_identity *id, const char *dir,
			struct loop *loop, struct extent_files **ret)
{
	struct extent_files *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->id = id;
	x->dir = dir;
	x->loop = loop;
	list_init(&x->reads);
	list_init(&x->ready);
	x->finish.run = files_finished;
	x->tidy.fire = files_tidy;
	*ret = x;
	return 0;
}

void extent_files_free(struct extent_files *x)
{
	if (!x)
		return;
	loop_timer_cancel(x->loop, &x->tidy);
	loop_undefer(x->loop, &x->finish);
	for (unsigned i = 0; i < OPEN_COUNT; i++) {
		x->open[i].users = 0; /* the loop is dead, if it is not */
		open_close(&x->open[i]);
	}
	free(x);
}
