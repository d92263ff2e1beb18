/* journal/store/merge.c: what a fetch has read, put together.
 *
 * Entries and the messages of the run are merged by ref, up to bytes_max of
 * expanded bodies; what there is no room for is for the next fetch.  A message
 * whose bytes cannot be had is there with its error, and neighbours that the
 * same damage touches are reported together. */
#include <string.h>

#include "journal/store/fetch.h"

/* ---- damage ---- */

static uint64_t job_queue(const struct job *job)
{
	return job->fetch ? job->fetch->queue : 0;
}

static void file_name(uint64_t key, char *ret, size_t room)
{
	char name[EXTENT_NAME_BYTES];

	extent_name(key, name);
	if (store_is_extent(key))
		snprintf(ret, room, EXTENT_DIR "/%s", name);
	else
		snprintf(ret, room, "segments/%08x-%08x.log",
			 (uint32_t)(key >> 32), (uint32_t)key);
}

void fetch_report(struct job *job, uint64_t key, uint64_t offset,
		  uint64_t bytes, uint64_t first, uint64_t last, int err)
{
	struct store_damage d = {
		.queue = job_queue(job),
		.first_ref = first,
		.last_ref = last,
		.offset = offset,
		.bytes = bytes,
		.err = err,
	};

	file_name(key, d.file, sizeof(d.file));
	store_damage_found(job->reader->store, &d);
}

/* ---- the run ---- */

uint32_t fetch_run_next(const struct job *job, uint32_t at)
{
	const struct detail *detail = job->plan->run.detail;

	return detail ? detail_next(detail, at) : at;
}

uint32_t fetch_run_first(const struct job *job)
{
	const struct plan *p = job->plan;

	return fetch_run_next(job,
			      (uint32_t)(p->run.want_first - p->run.first));
}

uint32_t fetch_run_end(const struct job *job)
{
	const struct plan *p = job->plan;

	return (uint32_t)(p->run.want_end - p->run.first);
}

int fetch_unpack(struct store_reader *r, const void *stored,
		 uint32_t stored_len, void *buf, uint32_t len)
{
	int err = 0;

	if (!r->compress)
		err = compress_create(1, &r->compress);
	return err ? err
		   : compress_unpack(r->compress, stored, stored_len, buf, len);
}

/* ---- results ---- */

/* Expanded bodies are made when it is known how many there are. */
struct packed {
	const void *stored;
	uint32_t stored_len, message, chunk;
};

struct merge {
	struct job *job;
	struct store_message *out;
	struct packed *packed;
	uint32_t count, packed_count;
	uint64_t bytes, expanded_bytes;
	uint32_t entry, body, wanted; /* the next ones */
	uint32_t at, at_end;	      /* of the run */
	uint64_t stop;		      /* ref that there was no room for */
	/* Neighbours that the same damage touches; err 0: none. */
	struct {
		int err;
		uint32_t chunk;
		uint64_t first, last; /* refs */
	} bad;
};

static bool merge_is_full(const struct merge *m)
{
	return m->count && m->bytes >= m->job->fetch->bytes_max;
}

static void merge_entry(struct merge *m)
{
	struct job *job = m->job;
	const struct plan_entry *e = &job->plan->entries[m->entry++];
	struct store_message *out = &m->out[m->count++];
	const struct body *b;

	*out = e->message;
	if (e->message.upload)
		return;
	b = &job->bodies[m->body++];
	ASSERT(b->loc == &e->loc);
	if (!b->err) {
		out->body = b->buf;
		m->bytes += e->loc.body_len;
		return;
	}
	out->err = b->err == -ENOENT ? -E_LOST : b->err;
	fetch_report(job, e->loc.segment, (uint64_t)e->loc.frame * IO_BLOCK,
		     e->loc.stored_len, out->ref, out->ref, out->err);
}

/* Where the bytes of a wanted message are. */
static int run_bytes(const struct job *job, const struct wanted *w,
		     const uint8_t **ret, uint32_t *ret_chunk)
{
	const struct extent_read *from = job->part.plain || job->part.header_err
						 ? &job->part
						 : &job->index;
	int err = 0;

	*ret = extent_read_bytes(from, job->plan->run.offset + w->offset,
				 w->bytes, &err, ret_chunk);
	return err;
}

static void apply_change(const struct job *job, uint32_t at,
			 struct store_message *m)
{
	const struct detail *detail = job->plan->run.detail;
	const struct detail_change *c = detail ? detail_find(detail, at) : NULL;

	if (!c)
		return;
	m->deliveries = c->deliveries;
	if (c->extra_len) {
		m->extra_len = c->extra_len;
		m->extra = c->extra;
	}
}

/* The message as it lies in the run; an error with the chunk to blame. */
static int run_message(struct merge *m, uint32_t at, struct extent_message *ret,
		       uint32_t *ret_chunk)
{
	struct job *job = m->job;
	const struct wanted *w = &job->wanted[m->wanted];
	const uint8_t *bytes;
	int err;

	*ret_chunk = job->run_err_chunk;
	if (job->run_err)
		return job->run_err;
	*ret_chunk = job->plan->run.offset / BLOB_CHUNK_BYTES;
	if (m->wanted == job->wanted_count || w->at != at)
		return -E_CORRUPT; /* the index does not know it */
	m->wanted++;
	err = run_bytes(job, w, &bytes, ret_chunk);
	if (!err) {
		*ret_chunk =
			(job->plan->run.offset + w->offset) / BLOB_CHUNK_BYTES;
		err = extent_read_message(&job->head, at, bytes, w->bytes, ret);
	}
	return err;
}

static void merge_report(struct merge *m)
{
	const struct plan *p = m->job->plan;
	uint64_t offset = blob_chunk_offset(m->bad.chunk);
	uint64_t bytes = BLOB_CHUNK_STRIDE;

	if (!m->bad.err)
		return;
	/* The same place, whichever part of the run was wanted. */
	if (m->job->run_err) {
		m->bad.first = p->run.first;
		m->bad.last = p->run.first + p->run.span - 1;
	}
	if (m->bad.err == -E_LOST) {
		offset = 0;
		bytes = p->run.file_bytes;
	} else if (m->job->index.header_err || m->job->part.header_err) {
		offset = 0;
		bytes = BLOB_HEADER_BYTES;
	}
	fetch_report(m->job, p->run.key, offset, bytes, m->bad.first,
		     m->bad.last, m->bad.err);
	m->bad.err = 0;
}

static void merge_bad(struct merge *m, uint64_t ref, int err, uint32_t chunk)
{
	if (m->bad.err != err || m->bad.chunk != chunk) {
		merge_report(m);
		m->bad.err = err;
		m->bad.chunk = chunk;
		m->bad.first = ref;
	}
	m->bad.last = ref;
}

static void note_expiry(struct store_fetch *f, uint64_t expiry_ms)
{
	if (expiry_ms && (!f->expiry_ms || expiry_ms < f->expiry_ms))
		f->expiry_ms = expiry_ms;
}

static void merge_run_message(struct merge *m)
{
	struct job *job = m->job;
	struct store_fetch *f = job->fetch;
	struct store_message *out = &m->out[m->count];
	struct extent_message e;
	uint32_t chunk, at = m->at;
	int err = run_message(m, at, &e, &chunk);

	m->at = fetch_run_next(job, at + 1);
	*out = (struct store_message){.ref = job->plan->run.first + at,
				      .err = err};
	if (err) {
		merge_bad(m, out->ref, err, chunk);
		/* When it expires, nobody knows. */
		m->count += !f->expired_ms;
		return;
	}
	if (f->expired_ms &&
	    (!e.props.expiry_ms || e.props.expiry_ms > f->expired_ms)) {
		note_expiry(f, e.props.expiry_ms);
		return;
	}
	out->props = e.props;
	out->bytes = e.body_len;
	out->deliveries = e.deliveries;
	out->extra_len = e.extra_len;
	out->extra = e.extra;
	out->origin = e.origin;
	apply_change(job, at, out);
	if (e.stored_len == e.body_len) {
		out->body = e.stored;
	} else {
		m->packed[m->packed_count++] = (struct packed){
			e.stored, e.stored_len, m->count, chunk};
		m->expanded_bytes += e.body_len;
	}
	m->bytes += e.body_len;
	m->count++;
}

static int merge_expand(struct merge *m)
{
	struct job *job = m->job;
	uint8_t *to;

	if (!m->packed_count)
		return 0;
	job->expanded = to = malloc(m->expanded_bytes);
	if (!to)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->packed_count; i++) {
		const struct packed *packed = &m->packed[i];
		struct store_message *out = &m->out[packed->message];
		int err = fetch_unpack(job->reader, packed->stored,
				       packed->stored_len, to,
				       (uint32_t)out->bytes);

		if (extent_read_is_passing(err))
			return err;
		if (err) {
			merge_bad(m, out->ref, err, packed->chunk);
			*out = (struct store_message){.ref = out->ref,
						      .err = err};
			continue;
		}
		out->body = to;
		to += out->bytes;
	}
	return 0;
}

static void merge_walk(struct merge *m)
{
	const struct plan *p = m->job->plan;

	for (;;) {
		uint64_t entry = UINT64_MAX, run = UINT64_MAX;

		if (m->entry < p->entry_count)
			entry = p->entries[m->entry].message.ref;
		if (m->at < m->at_end)
			run = p->run.first + m->at;
		if (entry == UINT64_MAX && run == UINT64_MAX)
			return;
		if (merge_is_full(m)) {
			m->stop = base_min(entry, run);
			return;
		}
		if (entry < run)
			merge_entry(m);
		else
			merge_run_message(m);
	}
}

int fetch_merge(struct job *job)
{
	struct store_fetch *f = job->fetch;
	const struct plan *p = job->plan;
	struct merge m = {.job = job};
	int err = -ENOMEM;

	job->messages =
		calloc(p->entry_count + job->there + 1, sizeof(*job->messages));
	m.packed = calloc(job->there + 1, sizeof(*m.packed));
	m.out = job->messages;
	if (m.out && m.packed) {
		if (p->run.key) {
			m.at = fetch_run_first(job);
			m.at_end = fetch_run_end(job);
		}
		merge_walk(&m);
		err = merge_expand(&m);
		merge_report(&m);
	}
	free(m.packed);
	if (err)
		return err;
	f->messages = job->messages;
	f->message_count = m.count;
	f->next = m.stop ? m.stop : p->next;
	note_expiry(f, p->expiry_ms);
	return 0;
}
