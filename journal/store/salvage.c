/* journal/store/salvage.c: from a damaged directory to a new one.
 *
 * First the model: which messages there are.  Then, queue by queue, each is
 * read and published again.  What could not be read is looked for once more
 * in extent files that the model does not know: a file is removed only after
 * a record says that another has its messages, and that record may be lost.
 * What is still missing then is told. */
#include "journal/store/salvage.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "journal/store/salvage_private.h"

#define ROW_COUNT_MAX 100000u
#define PROGRESS_MESSAGES 4096u

/* Messages of one lane that could not be read. */
struct row {
	uint64_t queue, first, last; /* refs */
	uint64_t file, offset;
	int err;
};

struct salvage {
	const struct salvage_options *options;
	struct salvage_result result;
	struct salvage_model model;
	struct salvage_reader *reader;
	struct salvage_target *target;
	uint64_t next_id;
	struct ranges uploads; /* ids that have been used */
	struct row *rows;
	size_t row_count, row_capacity;
	struct salvage_visit visit;
	char why[SALVAGE_WHY_BYTES];
};

static PRINTF_LIKE(3, 4) int refuse(struct salvage *s, int err,
				    const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(s->why, sizeof(s->why), format, args);
	va_end(args);
	return err;
}

/* ---- what is missing ---- */

static int note_missing(void *ctx, uint64_t queue, uint64_t first,
			uint64_t last, uint64_t file, uint64_t offset, int err)
{
	struct salvage *s = ctx;
	struct row *r = s->row_count ? &s->rows[s->row_count - 1] : NULL;

	if (r && r->queue == queue && r->last + 1 == first && r->file == file &&
	    r->offset == offset && r->err == err) {
		r->last = last;
		return 0;
	}
	if (s->row_count == s->row_capacity) {
		size_t capacity = s->row_capacity ? s->row_capacity * 2 : 64;

		r = realloc(s->rows, capacity * sizeof(*s->rows));
		if (!r)
			return -ENOMEM;
		s->rows = r;
		s->row_capacity = capacity;
	}
	s->rows[s->row_count++] =
		(struct row){queue, first, last, file, offset, err};
	/* Too many to look for again: told at once. */
	if (s->row_count > ROW_COUNT_MAX)
		return refuse(s, -E_LIMIT,
			      "more than %u places are damaged: restore a "
			      "backup",
			      ROW_COUNT_MAX);
	return 0;
}

struct telling {
	struct salvage *s;
	const struct row *row;
};

static int tell_part(void *ctx, uint64_t first, uint64_t last)
{
	const struct telling *t = ctx;
	const struct row *row = t->row;
	unsigned priority = record_ref_priority(row->first);
	const struct state_queue *q =
		idmap_get(&t->s->model.state.queues, row->queue);
	struct salvage_missing missing = {
		.kind = SALVAGE_MESSAGES,
		.queue = row->queue,
		.name = q ? q->name : "",
		.name_len = q ? q->record.name_len : 0,
		.first = record_ref(priority, first),
		.last = record_ref(priority, last),
		.offset = row->offset,
		.err = row->err,
	};

	salvage_file_name(row->file, missing.file);
	t->s->result.missing += last - first + 1;
	t->s->options->missing(t->s->options->ctx, &missing);
	return 0;
}

/* What was found elsewhere is not missing. */
static int tell_rows(struct salvage *s)
{
	int err = 0;

	for (size_t i = 0; !err && i < s->row_count; i++) {
		const struct row *row = &s->rows[i];
		const struct salvage_lane *lane =
			salvage_model_lane(&s->model, row->queue, row->first);
		struct telling t = {.s = s, .row = row};

		err = lane ? ranges_each_missing(&lane->written,
						 record_ref_number(row->first),
						 record_ref_number(row->last),
						 tell_part, &t)
			   : -ENOMEM;
	}
	return err;
}

/* ---- messages ---- */

/* A message of its own for every queue: the first keeps the id. */
static int upload_id(struct salvage *s, const struct state_upload *u,
		     uint64_t *ret)
{
	*ret = ranges_contain(&s->uploads, u->id, u->id) ? s->next_id++ : u->id;
	return ranges_add(&s->uploads, *ret, *ret);
}

/* Its pieces.  *ret 0: they are not all there. */
static int write_upload(struct salvage *s, uint64_t queue,
			const struct salvage_message *m, uint64_t *ret)
{
	const struct state_upload *u = m->upload;
	uint64_t id, file, offset;
	int err = upload_id(s, u, &id);

	*ret = 0;
	for (uint32_t i = 0; !err && i < u->piece_count; i++) {
		const struct entry_place *p = &u->pieces[i];
		const void *data;

		err = salvage_read_piece(s->reader, p, &data, &file, &offset);
		if (err == -ENOMEM)
			return err;
		if (err) {
			err = note_missing(s, queue, m->ref, m->ref, file,
					   offset, err);
			return err || !i ? err
					 : salvage_target_abort(s->target, id);
		}
		err = salvage_target_piece(s->target, id, i, data, p->body_len);
	}
	if (!err)
		*ret = id;
	return err;
}

static int write_message(struct salvage *s, uint64_t queue,
			 const struct salvage_message *m)
{
	uint64_t upload = 0;
	int err = m->upload ? write_upload(s, queue, m, &upload) : 0;

	if (err || (m->upload && !upload))
		return err;
	err = salvage_target_message(s->target, queue, m, upload);
	if (err)
		return err;
	s->result.messages++;
	s->result.bytes += m->bytes;
	if (s->options->progress && s->result.messages % PROGRESS_MESSAGES == 0)
		s->options->progress(s->options->ctx, &s->result);
	return 0;
}

static int on_message(void *ctx, uint64_t queue,
		      const struct salvage_message *m)
{
	struct salvage *s = ctx;
	int err;

	switch (salvage_model_verdict(&s->model, queue, m->ref)) {
	case SALVAGE_LEFT:
		return 0;
	case SALVAGE_DOUBTFUL:
		err = write_message(s, queue, m);
		s->result.maybe_again += !err;
		return err;
	case SALVAGE_THERE:
		break;
	}
	return write_message(s, queue, m);
}

static int on_missing(void *ctx, uint64_t queue, uint64_t first, uint64_t last,
		      uint64_t file, uint64_t offset, int err)
{
	struct salvage *s = ctx;

	/* What lies in one place was counted in one way. */
	if (salvage_model_verdict(&s->model, queue, first) == SALVAGE_LEFT &&
	    first == last)
		return 0;
	return note_missing(s, queue, first, last, file, offset, err);
}

/* ---- names ---- */

static int write_names(struct salvage *s)
{
	void **addresses = idmap_sorted(&s->model.state.addresses);
	void **queues = idmap_sorted(&s->model.state.queues);
	int err = addresses && queues ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < s->model.state.addresses.count; i++) {
		const struct state_address *a = addresses[i];

		err = salvage_target_address(s->target, &a->record);
	}
	for (size_t i = 0; !err && i < s->model.state.queues.count; i++) {
		const struct state_queue *q = queues[i];

		err = salvage_target_queue(s->target, &q->record);
		s->result.queues += !err;
	}
	free(addresses);
	free(queues);
	return err;
}

static int write_queues(struct salvage *s)
{
	void **queues = idmap_sorted(&s->model.state.queues);
	int err = queues ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < s->model.state.queues.count; i++)
		err = salvage_read_queue(s->reader, queues[i], &s->visit);
	free(queues);
	return err;
}

/* ---- extent files that the model does not know ---- */

struct strays {
	struct salvage *s;
	uint64_t *keys;
	size_t count, capacity;
	uint64_t pieces;
};

static int collect_stray(void *ctx, const char *name)
{
	struct strays *x = ctx;
	const struct state_file *f;
	uint64_t key, *grown;

	if (extent_parse_name(name, &key))
		return 0;
	f = state_find_file(&x->s->model.state, key);
	if (f && f->live)
		return 0;
	if (x->count == x->capacity) {
		size_t capacity = x->capacity ? x->capacity * 2 : 64;

		grown = realloc(x->keys, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		x->keys = grown;
		x->capacity = capacity;
	}
	x->keys[x->count++] = key;
	return 0;
}

static bool is_missing(const struct salvage *s, uint64_t queue, uint64_t ref)
{
	for (size_t i = 0; i < s->row_count; i++)
		if (s->rows[i].queue == queue && s->rows[i].first <= ref &&
		    s->rows[i].last >= ref)
			return true;
	return false;
}

static int stray_message(void *ctx, uint64_t queue,
			 const struct extent_message *x)
{
	struct strays *strays = ctx;
	struct salvage *s = strays->s;
	uint64_t number = record_ref_number(x->ref);
	struct salvage_lane *lane =
		salvage_model_lane(&s->model, queue, x->ref);
	struct salvage_message m = {
		.ref = x->ref,
		.props = x->props,
		.bytes = x->body_len,
		.packed = x->stored_len != x->body_len,
		.deliveries = x->deliveries,
		.extra = x->extra,
		.extra_len = x->extra_len,
		.origin = x->origin,
	};
	bool wanted;
	int err;

	if (!lane)
		return -ENOMEM;
	/* Without a beginning every message that is not known to have left is
	 * wanted; else those that are known to be missing. */
	wanted = s->result.baseless
			 ? !ranges_contain(&lane->acked, number, number)
			 : is_missing(s, queue, x->ref);
	if (!wanted || ranges_contain(&lane->written, number, number) ||
	    ranges_contain(&s->model.gone, queue, queue))
		return 0;
	err = salvage_expand(s->reader, x->stored, x->stored_len, x->body_len,
			     &m.body);
	if (err)
		return err == -ENOMEM ? err : 0;
	if (!idmap_get(&s->model.state.queues, queue)) {
		const struct state_address *a;
		const struct state_queue *q;

		err = salvage_model_nameless(&s->model, queue);
		q = idmap_get(&s->model.state.queues, queue);
		if (err || !q)
			return err;
		a = idmap_get(&s->model.state.addresses, q->record.address);
		err = salvage_target_address(s->target, &a->record);
		if (!err)
			err = salvage_target_queue(s->target, &q->record);
		s->result.queues++;
	}
	if (!err)
		err = write_message(s, queue, &m);
	if (err)
		return err;
	if (s->result.baseless)
		s->result.maybe_again++;
	else
		s->result.elsewhere++;
	return ranges_add(&lane->written, number, number);
}

static int read_stray(struct strays *x, uint64_t key)
{
	const struct extent_visit visit = {.message = stray_message, .ctx = x};
	struct salvage *s = x->s;
	struct salvage_missing missing = {.kind = SALVAGE_EXTENTS, .name = ""};
	char path[CHECKPOINT_PATH_MAX];
	int err = extent_path(s->options->dir, key, path, sizeof(path));

	if (!err)
		err = extent_each(&s->model.identity, path, &visit);
	if (err != -E_CORRUPT && err != -EIO && err != -E_KEY)
		return err;
	/* A file that never counted may well be unfinished. */
	if (!s->result.baseless)
		return 0;
	salvage_file_name(key, missing.file);
	missing.err = err;
	s->options->missing(s->options->ctx, &missing);
	return 0;
}

static int read_strays(struct salvage *s)
{
	struct strays x = {.s = s};
	char path[CHECKPOINT_PATH_MAX];
	int err;

	if (!s->row_count && !s->result.baseless)
		return 0;
	snprintf(path, sizeof(path), "%s/" EXTENT_DIR, s->options->dir);
	err = io_list(s->options->io, path, collect_stray, &x);
	if (err == -ENOENT)
		err = 0;
	/* The newest copy of a message knows its last attempts. */
	while (!err && x.count)
		err = read_stray(&x, x.keys[--x.count]);
	free(x.keys);
	return err;
}

/* ---- the whole ---- */

/* The lock is the broker's; it is held until the end, and nothing written. */
static int lock_source(struct salvage *s, struct io_file **ret)
{
	char path[CHECKPOINT_PATH_MAX];
	struct io_file *file;
	int err;

	snprintf(path, sizeof(path), "%s/leader.lock", s->options->dir);
	err = io_open(s->options->io, path, IO_WRITE, &file);
	if (err) /* nobody can have locked it, or we may not write */
		return 0;
	for (int tries = 0;; tries++) {
		err = io_lock(file);
		if (err != -EAGAIN || tries == 10)
			break;
		io_pause(s->options->io, 100000000);
	}
	if (err == -EAGAIN) {
		io_close(file);
		return refuse(s, err,
			      "a broker is running on %s; stop it first",
			      s->options->dir);
	}
	*ret = file;
	return 0;
}

static int find_entry(void *ctx, const char *name)
{
	return strcmp(name, "development.key") ? 1 : 0;
}

static int check_target(struct salvage *s)
{
	int err = io_list(s->options->io, s->options->to, find_entry, NULL);

	if (err == 1)
		return refuse(s, -EEXIST, "%s is not empty", s->options->to);
	return err ? refuse(s, err, "%s cannot be listed: %s", s->options->to,
			    err_str(err))
		   : 0;
}

static int open_source(struct salvage *s)
{
	const struct salvage_options *o = s->options;
	struct salvage_model *m = &s->model;
	int err = log_salvage_open(o->io, o->dir, o->master, &m->log);

	if (err)
		return refuse(s, err, "%s cannot be read: %s%s", o->dir,
			      err_str(err),
			      err == -E_KEY ? "; this key is not the "
					      "directory's"
					    : "");
	m->options = o;
	m->result = &s->result;
	m->why = s->why;
	m->identity = (struct blob_identity){
		.io = o->io,
		.master = o->master,
		.cluster_id = log_salvage_cluster(m->log),
	};
	return 0;
}

static int copy_all(struct salvage *s)
{
	int err = salvage_reader_create(&s->model, &s->reader);

	s->model.reader = s->reader;
	if (!err)
		err = salvage_model_load(&s->model);
	if (err)
		return err;
	s->next_id = s->model.state.next_id;
	/* Extent files may still tell of queues that nothing else knows. */
	if (s->result.baseless)
		s->next_id += 1ull << 32;
	s->visit = (struct salvage_visit){
		.message = on_message, .missing = on_missing, .ctx = s};
	err = salvage_target_open(s->options, s->why, &s->target);
	if (!err)
		err = write_names(s);
	if (!err)
		err = write_queues(s);
	if (!err)
		err = read_strays(s);
	if (!err)
		err = tell_rows(s);
	if (!err) {
		err = salvage_target_finish(s->target);
		s->target = NULL;
	}
	return err;
}

int salvage_run(const struct salvage_options *options,
		struct salvage_result *ret, char *why, size_t why_room)
{
	struct salvage s = {.options = options};
	struct io_file *lock = NULL;
	int err = lock_source(&s, &lock);

	if (!err)
		err = check_target(&s);
	if (!err)
		err = open_source(&s);
	if (!err) {
		err = copy_all(&s);
		salvage_target_abandon(s.target);
		salvage_reader_free(s.reader);
		salvage_model_fini(&s.model);
		log_salvage_close(s.model.log);
	}
	io_close(lock);
	ranges_fini(&s.uploads);
	free(s.rows);
	if (!err)
		*ret = s.result;
	else
		snprintf(why, why_room, "%s", s.why[0] ? s.why : err_str(err));
	return err;
}
