/* journal/store/fetch.c: messages and pieces, read back on the asker's loop.
 *
 * A request goes to the store's thread, which answers with a plan (plan.c),
 * and comes back to be read: bodies in segments by a log_reader, a part of a
 * run from an extent file.  What is read is merged by ref.  A file that has
 * gone meanwhile was emptied by the moving of what was in it: a new plan says
 * where it is now.  A file that is named again and again, and is not there,
 * has been lost.
 *
 * Damage concerns the messages that it touches, each of which is returned
 * with its error, and is reported once for every place, when it has been read
 * twice: a bit may flip on its way; what passes, as a
 * lack of memory, ends the request, which may be made again.
 *
 * At most READING_MAX requests are being read at a time, each with one part
 * of a run and BODIES_MAX bodies in flight; the others wait, with their
 * plans. */
#include <string.h>

#include "journal/store/fetch.h"

#define READING_MAX 4u /* at most EXTENT_READS_MAX */
#define BODIES_MAX 256u
#define PLANS_MAX 8u
/* Bytes of index for a number, about; a part this much smaller than its run
 * is read after looking into the index. */
#define INDEX_EACH 4u
#define SMALL_PART 4u

static void job_ask(struct job *job);
static void job_serve(struct job *job);
static void reader_pump(struct store_reader *r);

/* ---- jobs ---- */

static void job_reset(struct job *job)
{
	extent_read_fini(&job->index);
	extent_read_fini(&job->part);
	memset(&job->index, 0, sizeof(job->index));
	memset(&job->part, 0, sizeof(job->part));
	plan_free(job->plan);
	free(job->bodies);
	free(job->body_data);
	free(job->wanted);
	free(job->messages);
	free(job->expanded);
	job->plan = NULL;
	job->bodies = NULL;
	job->body_data = NULL;
	job->wanted = NULL;
	job->messages = NULL;
	job->expanded = NULL;
	job->body_count = job->body_next = job->wanted_count = 0;
	job->there = 0;
	job->run_err = 0;
	job->gone = false;
}

static void job_free(struct job *job)
{
	list_remove(&job->link);
	job_reset(job);
	free(job);
}

/* The request is the caller's again. */
static void job_end(struct job *job, int err)
{
	struct store_fetch *fetch = job->fetch;
	struct store_piece *piece = job->piece;

	if (fetch && err) {
		fetch->messages = NULL;
		fetch->message_count = 0;
	}
	/* What it points to lives until done() returns, and done() may ask
	 * for more. */
	if (fetch)
		fetch->done(fetch, err);
	else
		piece->done(piece, err);
	job_free(job);
}

/* ---- bodies in segments ---- */

static void job_step_done(struct job *job)
{
	if (--job->pending == 0)
		job_serve(job);
}

static void job_next_bodies(struct job *job);

static void body_done(struct log_read *read, int err)
{
	struct body *b = container_of(read, struct body, read);
	struct job *job = b->job;

	b->err = err;
	if (err == -ENOENT)
		job->gone = true;
	else if (extent_read_is_passing(err))
		job->err = err;
	job_next_bodies(job);
	job_step_done(job);
}

static void job_next_bodies(struct job *job)
{
	struct store_stats *stats = &job->reader->store->stats;

	while (job->body_next < job->body_count && job->pending <= BODIES_MAX &&
	       !job->err && !(job->gone && job->plans < PLANS_MAX)) {
		struct body *b = &job->bodies[job->body_next++];

		job->pending++;
		stats->fetch_read_bytes += b->loc->stored_len;
		log_read(job->reader->log, &b->read, b->loc, b->buf);
	}
}

static int job_prepare_bodies(struct job *job)
{
	const struct plan *p = job->plan;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < p->entry_count; i++) {
		if (p->entries[i].message.upload)
			continue;
		job->body_count++;
		bytes += p->entries[i].loc.body_len;
	}
	job->bodies = calloc(job->body_count + 1, sizeof(*job->bodies));
	job->body_data = malloc(bytes + 1);
	if (!job->bodies || !job->body_data)
		return -ENOMEM;
	bytes = 0;
	for (uint32_t i = 0, n = 0; i < p->entry_count; i++) {
		const struct plan_entry *e = &p->entries[i];

		if (e->message.upload)
			continue;
		job->bodies[n++] = (struct body){.read.done = body_done,
						 .job = job,
						 .err = -EAGAIN,
						 .loc = &e->loc,
						 .buf = job->body_data + bytes};
		bytes += e->loc.body_len;
	}
	return 0;
}

/* ---- the run ---- */

/* Nothing of the run: its head or its index is damaged. */
static void run_failed(struct job *job, int err, uint32_t chunk)
{
	job->run_err = err;
	job->run_err_chunk = chunk;
	job->wanted_count = 0;
}

static int run_want(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct job *job = ctx;

	/* Both rise; what is there and not in the index is found missing
	 * when the messages are made. */
	if (at >= fetch_run_end(job) || at < fetch_run_first(job) ||
	    fetch_run_next(job, at) != at)
		return 0;
	ASSERT(job->wanted_count < job->there);
	job->wanted[job->wanted_count++] = (struct wanted){at, offset, bytes};
	return 0;
}

static void run_read_part(struct job *job)
{
	const struct plan *p = job->plan;
	const struct wanted *first = &job->wanted[0];
	const struct wanted *last = &job->wanted[job->wanted_count - 1];
	uint64_t offset = p->run.offset + first->offset;
	uint32_t len = last->offset + last->bytes - first->offset;
	uint64_t have = (uint64_t)job->index.count * BLOB_CHUNK_BYTES;

	/* It may have come with the index. */
	if (!len ||
	    offset + len <=
		    (uint64_t)job->index.first * BLOB_CHUNK_BYTES + have)
		return;
	job->pending++;
	extent_read_start(job->reader->files, &job->part, p->run.key, offset,
			  len);
}

/* The head and the index are here, or cannot be had. */
static void run_look_into(struct job *job)
{
	const struct plan *p = job->plan;
	const struct extent_head *head = &job->head;
	uint32_t chunk = p->run.offset / BLOB_CHUNK_BYTES;
	const uint8_t *bytes;
	int err = 0;

	bytes = extent_read_bytes(&job->index, p->run.offset, EXTENT_HEAD_BYTES,
				  &err, &chunk);
	if (bytes)
		err = extent_read_head(bytes, EXTENT_HEAD_BYTES, &job->head);
	if (!err &&
	    (head->queue != job->fetch->queue || head->first != p->run.first ||
	     head->bytes != p->run.bytes))
		err = -E_CORRUPT;
	if (err) {
		run_failed(job, err, chunk);
		return;
	}
	if (p->run.offset + EXTENT_HEAD_BYTES + head->index_bytes >
	    ((uint64_t)job->index.first + job->index.count) *
		    BLOB_CHUNK_BYTES) {
		job->pending++;
		extent_read_start(job->reader->files, &job->index, p->run.key,
				  p->run.offset,
				  EXTENT_HEAD_BYTES + head->index_bytes);
		return;
	}
	bytes = extent_read_bytes(&job->index,
				  p->run.offset + EXTENT_HEAD_BYTES,
				  head->index_bytes, &err, &chunk);
	if (bytes)
		err = extent_read_index(head, bytes, run_want, job);
	if (err)
		run_failed(job, err, chunk);
	else if (job->wanted_count)
		run_read_part(job);
}

static void run_read_done(struct extent_read *read, int err)
{
	struct job *job = read->ctx;

	job->reader->store->stats.fetch_read_bytes += read->read_bytes;
	if (err == -ENOENT) {
		job->gone = true;
		run_failed(job, -E_LOST, 0);
	} else if (err) {
		job->err = err;
	} else if (read == &job->index) {
		run_look_into(job);
	}
	job_step_done(job);
}

static int job_prepare_run(struct job *job)
{
	const struct plan *p = job->plan;
	uint64_t wanted = p->run.want_end - p->run.want_first;
	uint64_t index = EXTENT_HEAD_BYTES + (uint64_t)INDEX_EACH * p->run.span;
	uint32_t len = p->run.bytes;

	for (uint32_t at = fetch_run_first(job); at < fetch_run_end(job);
	     at = fetch_run_next(job, at + 1))
		job->there++;
	job->wanted = calloc(job->there + 1, sizeof(*job->wanted));
	if (!job->wanted)
		return -ENOMEM;
	/* The plan's numbers are a checkpoint's or a record's. */
	if (len < EXTENT_HEAD_BYTES || len > EXTENT_RUN_BYTES ||
	    (uint64_t)p->run.offset + len > UINT32_MAX) {
		run_failed(job, -E_CORRUPT, p->run.offset / BLOB_CHUNK_BYTES);
		return 0;
	}
	if (wanted * SMALL_PART < p->run.span && index * SMALL_PART < len)
		len = (uint32_t)index;
	job->index.done = job->part.done = run_read_done;
	job->index.ctx = job->part.ctx = job;
	job->pending++;
	extent_read_start(job->reader->files, &job->index, p->run.key,
			  p->run.offset, len);
	return 0;
}

/* ---- serving ---- */

static void fetch_serve(struct job *job)
{
	struct store_stats *stats = &job->reader->store->stats;
	struct store_fetch *f = job->fetch;
	int err = fetch_merge(job);

	/* The plan was in vain; there may be something behind it. */
	if (!err && !f->message_count && !f->expired_ms && f->next < f->end) {
		job->from = f->next;
		job->plans = 0;
		job->again = false;
		job_ask(job);
		return;
	}
	for (uint32_t i = 0; !err && i < f->message_count; i++) {
		const struct store_message *m = &f->messages[i];

		stats->fetched_messages += !m->err;
		stats->fetched_bytes += m->body ? m->bytes : 0;
	}
	job_end(job, err);
}

/* ---- pieces ---- */

static void piece_serve(struct job *job)
{
	const struct log_loc *loc = &job->plan->piece;
	struct store_piece *piece = job->piece;
	uint64_t offset = (uint64_t)loc->frame * IO_BLOCK;
	uint64_t bytes = loc->stored_len;
	const uint8_t *stored;
	uint32_t chunk = 0;
	int err = job->run_err;

	if (!store_is_extent(loc->segment)) {
		err = job->bodies[0].err;
		err = err == -ENOENT ? -E_LOST : err;
	} else if (!err && loc->stored_len) {
		stored = extent_read_bytes(&job->index, loc->at,
					   loc->stored_len, &err, &chunk);
		if (stored && loc->stored_len == loc->body_len)
			memcpy(piece->buf, stored, loc->body_len);
		else if (stored)
			err = fetch_unpack(job->reader, stored, loc->stored_len,
					   piece->buf, loc->body_len);
		offset = stored ? blob_chunk_offset(loc->at / BLOB_CHUNK_BYTES)
				: blob_chunk_offset(chunk);
		bytes = BLOB_CHUNK_STRIDE;
	}
	if (err && !extent_read_is_passing(err)) {
		fetch_report(job, loc->segment, err == -E_LOST ? 0 : offset,
			     bytes, 0, 0, err);
		err = -E_CORRUPT;
	}
	job_end(job, err);
}

static void piece_read_done(struct extent_read *read, int err)
{
	struct job *job = read->ctx;

	job->reader->store->stats.fetch_read_bytes += read->read_bytes;
	if (err == -ENOENT) {
		job->gone = true;
		job->run_err = -E_LOST;
	} else if (err) {
		job->err = err;
	}
	job_step_done(job);
}

static int job_prepare_piece(struct job *job)
{
	const struct log_loc *loc = &job->plan->piece;

	if (job->piece->len != loc->body_len)
		return -EINVAL;
	if (!store_is_extent(loc->segment)) {
		job->bodies = calloc(1, sizeof(*job->bodies));
		if (!job->bodies)
			return -ENOMEM;
		job->body_count = 1;
		job->bodies[0] = (struct body){.read.done = body_done,
					       .job = job,
					       .loc = loc,
					       .buf = job->piece->buf};
	} else if (loc->stored_len > loc->body_len ||
		   loc->body_len > LOG_RECORD_BYTES_MAX ||
		   (uint64_t)loc->at + loc->stored_len > UINT32_MAX) {
		job->run_err = -E_CORRUPT;
	} else if (loc->stored_len) {
		job->index.done = piece_read_done;
		job->index.ctx = job;
		job->pending++;
		extent_read_start(job->reader->files, &job->index, loc->segment,
				  loc->at, loc->stored_len);
	}
	return 0;
}

/* ---- the way of a job ---- */

static bool read_is_damaged(const struct extent_read *read)
{
	for (uint32_t i = 0; i < read->count; i++)
		if (read->chunk_err[i])
			return true;
	return read->header_err;
}

static bool job_is_damaged(const struct job *job)
{
	for (uint32_t i = 0; i < job->body_next; i++)
		if (job->bodies[i].err && job->bodies[i].err != -ENOENT)
			return true;
	return job->run_err || read_is_damaged(&job->index) ||
	       read_is_damaged(&job->part);
}

/* Everything of the plan has been read, or some of it is not there. */
static void job_serve(struct job *job)
{
	struct store_reader *r = job->reader;

	r->reading--;
	if (job->err)
		job_end(job, job->err);
	else if (job->gone && job->plans < PLANS_MAX)
		job_ask(job);
	else if (!job->again && job_is_damaged(job)) {
		job->again = true;
		job_ask(job);
	} else if (job->fetch)
		fetch_serve(job);
	else
		piece_serve(job);
	reader_pump(r);
}

static void job_start(struct job *job)
{
	job->pending = 1; /* ours, until all have begun */
	list_remove(&job->link);
	list_push(&job->reader->jobs, &job->link);
	job->reader->reading++;
	if (job->piece)
		job->err = job_prepare_piece(job);
	else
		job->err = job_prepare_bodies(job);
	if (!job->err && job->fetch && job->plan->run.key)
		job->err = job_prepare_run(job);
	job_next_bodies(job);
	job_step_done(job);
}

static void reader_pump(struct store_reader *r)
{
	/* What needs no reading is served from here: not one in another. */
	if (r->pumping)
		return;
	r->pumping = true;
	while (r->reading < READING_MAX && !list_empty(&r->waiting))
		job_start(list_entry(r->waiting.next, struct job, link));
	r->pumping = false;
}

static void job_planned(struct loop_mail *mail)
{
	struct job *job = container_of(mail, struct job, mail);
	struct store_reader *r = job->reader;

	if (job->err) {
		job_end(job, job->err);
		return;
	}
	list_remove(&job->link);
	list_push(&r->waiting, &job->link);
	reader_pump(r);
}

/* [store] */
static void job_plan(struct loop_mail *mail)
{
	struct job *job = container_of(mail, struct job, mail);
	struct state *state = store_now(job->reader->store);

	if (!state)
		job->err = -E_LATCHED;
	else if (job->fetch)
		job->err = plan_fetch(state, job->fetch, job->from, &job->plan);
	else
		job->err = plan_piece(state, job->piece, &job->plan);
	mail->deliver = job_planned;
	loop_post(job->reader->loop, mail);
}

static void job_ask(struct job *job)
{
	struct loop *to = atomic_load(&job->reader->store->loop);

	ASSERT(to);
	job_reset(job);
	job->plans++;
	job->mail.deliver = job_plan;
	loop_post(to, &job->mail);
}

static struct job *job_create(struct store_reader *r)
{
	struct job *job = calloc(1, sizeof(*job));

	ASSERT(loop_is_current(r->loop));
	if (!job)
		return NULL;
	job->reader = r;
	list_init(&job->link);
	list_push(&r->jobs, &job->link);
	return job;
}

static void fetch_without_memory(struct loop_mail *mail)
{
	struct store_fetch *f = container_of(mail, struct store_fetch, mail);

	f->done(f, -ENOMEM);
}

void store_fetch(struct store_reader *r, struct store_fetch *f)
{
	struct job *job = job_create(r);

	f->messages = NULL;
	f->message_count = 0;
	f->next = f->first;
	f->expiry_ms = 0;
	if (!job) {
		f->mail.deliver = fetch_without_memory;
		loop_post(r->loop, &f->mail);
		return;
	}
	job->fetch = f;
	job->from = f->first;
	job_ask(job);
}

static void piece_without_memory(struct loop_mail *mail)
{
	struct store_piece *p = container_of(mail, struct store_piece, mail);

	p->done(p, -ENOMEM);
}

void store_read_piece(struct store_reader *r, struct store_piece *piece)
{
	struct job *job = job_create(r);

	if (!job) {
		piece->mail.deliver = piece_without_memory;
		loop_post(r->loop, &piece->mail);
		return;
	}
	job->piece = piece;
	job_ask(job);
}

/* ---- life ---- */

int store_reader_create(struct store *s, struct loop *loop,
			struct store_reader **ret)
{
	struct store_reader *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->store = s;
	r->loop = loop;
	list_init(&r->jobs);
	list_init(&r->waiting);
	err = log_reader_create(s->log, loop, &r->log);
	if (!err)
		err = extent_files_create(&s->place.identity, s->dir, loop,
					  &r->files);
	if (err) {
		store_reader_free(r);
		return err;
	}
	*ret = r;
	return 0;
}

void store_reader_free(struct store_reader *r)
{
	if (!r)
		return;
	log_reader_free(r->log);
	extent_files_free(r->files);
	/* Only where the loop died with its process, in the simulator. */
	list_move_all(&r->jobs, &r->waiting);
	while (!list_empty(&r->jobs))
		job_free(list_entry(r->jobs.next, struct job, link));
	compress_free(r->compress);
	free(r);
}
