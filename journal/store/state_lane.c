/* journal/store/state_lane.c: the messages of a lane, as entries and runs.
 *
 * What enters is always the largest number so far, so both arrays only grow
 * at their ends, but for runs that replace others (state_extents.c).  What
 * leaves takes its share of the files, counters and memory with it at once:
 * nothing is swept later. */
#include "journal/store/state_private.h"

#include <inttypes.h>
#include <string.h>

/* ---- what few entries have ---- */

uint64_t state_entry_bytes(const struct entry *e)
{
	return e->more && e->more->upload ? e->more->upload->bytes
					  : e->place.body_len;
}

struct record_origin state_entry_origin(const struct entry *e)
{
	const struct entry_more *m = e->more;

	if (!m || !m->reason)
		return (struct record_origin){0};
	return (struct record_origin){
		.address = m->data + m->extra_len,
		.queue = m->data + m->extra_len + m->address_len,
		.address_len = m->address_len,
		.queue_len = m->queue_len,
		.reason = m->reason,
	};
}

static size_t more_bytes(const struct entry_more *m)
{
	return m ? sizeof(*m) + m->extra_len + m->address_len + m->queue_len
		 : 0;
}

static void free_more(struct state *s, struct entry_more *m)
{
	s->more_bytes -= more_bytes(m);
	free(m);
}

/* NULL with err 0 when there are no parts. */
static int make_more(struct state *s, const struct state_parts *p,
		     struct entry_more **ret)
{
	const struct record_origin *o = &p->origin;
	struct entry_more *m;
	char *at;

	*ret = NULL;
	if (!p->upload && !p->extra_len && !o->reason)
		return 0;
	m = malloc(sizeof(*m) + p->extra_len + o->address_len + o->queue_len);
	if (!m)
		return state_no_memory(s);
	m->upload = p->upload;
	m->extra_len = p->extra_len;
	m->address_len = o->address_len;
	m->queue_len = o->queue_len;
	m->reason = o->reason;
	at = m->data;
	if (p->extra_len)
		memcpy(at, p->extra, p->extra_len);
	at += p->extra_len;
	if (o->address_len)
		memcpy(at, o->address, o->address_len);
	at += o->address_len;
	if (o->queue_len)
		memcpy(at, o->queue, o->queue_len);
	*ret = m;
	return 0;
}

/* ---- lanes ---- */

int state_put_lane(struct state *s, struct state_queue *q, unsigned priority,
		   struct state_lane **ret)
{
	struct state_lane *lane = q->lanes[priority];

	ASSERT(priority < RECORD_PRIORITIES);
	if (!lane) {
		lane = calloc(1, sizeof(*lane));
		if (!lane)
			return state_no_memory(s);
		lane->next = 1;
		q->lanes[priority] = lane;
	}
	*ret = lane;
	return 0;
}

void state_entry_forget(struct state *s, struct entry *e)
{
	struct state_upload *u = e->more ? e->more->upload : NULL;

	s->entry_count--;
	if (!u)
		state_file_release(s, e->place.segment, 1, e->place.stored_len);
	else if (!--u->entries)
		state_upload_free(s, u);
	free_more(s, e->more);
}

/* At the end of the lane's entries, and nowhere else. */
static int push_entry(struct state *s, struct state_queue *q,
		      struct state_lane *lane, uint64_t ref,
		      const struct entry *like, const struct state_parts *parts)
{
	struct entry_more *more;
	struct entry *e;
	size_t bytes_before = lane->entries.bytes;
	uint32_t ref_delta;
	int err = make_more(s, parts, &more);

	if (err)
		return err;
	err = entries_push(&lane->entries, ref, &e);
	state_entries_changed(s, lane, bytes_before);
	if (err) {
		free(more);
		return state_no_memory(s);
	}
	ref_delta = e->ref_delta;
	*e = *like;
	e->ref_delta = ref_delta;
	e->more = more;
	s->more_bytes += more_bytes(more);
	if (parts->upload)
		parts->upload->entries++;
	else
		state_file_hold(s, e->place.segment, 1, e->place.stored_len);
	if (e->expiry_ms && (!lane->entry_expiry_min_ms ||
			     e->expiry_ms < lane->entry_expiry_min_ms))
		lane->entry_expiry_min_ms = e->expiry_ms;
	s->entry_count++;
	s->live_messages++;
	lane->live++;
	q->live++;
	return 0;
}

int state_lane_push(struct state *s, struct state_queue *q,
		    const struct entry *like, const struct state_parts *parts,
		    uint64_t bytes)
{
	struct state_lane *lane = q->lanes[like->priority];
	int err;

	if (!lane) {
		err = state_put_lane(s, q, like->priority, &lane);
		if (err)
			return err;
	}
	if (lane->next >> RECORD_NUMBER_BITS)
		return state_fail(s, -E_CORRUPT,
				  "queue %" PRIu64 " is out of numbers",
				  q->record.id);
	err = push_entry(s, q, lane, record_ref(like->priority, lane->next),
			 like, parts);
	if (err)
		return err;
	lane->next++;
	q->bytes += bytes;
	s->live_bytes += bytes;
	return 0;
}

int state_put_entry(struct state *s, struct state_queue *q, uint64_t ref,
		    const struct entry *like, const struct state_parts *parts)
{
	struct state_lane *lane = q->lanes[like->priority];
	const struct detail *detail = NULL;
	struct state_run *run;
	size_t index;
	int err = 0;

	if (!lane || record_ref_priority(ref) != like->priority ||
	    ref <= lane->entries.last_ref || !record_ref_number(ref) ||
	    record_ref_number(ref) >= lane->next)
		return state_fail(s, -E_CORRUPT,
				  "ref %" PRIx64 " of queue %" PRIu64
				  " is out of order",
				  ref, q->record.id);
	run = state_run_from(lane, ref, &index);
	if (run && run->first <= ref) {
		err = state_run_detail(s, run, &detail);
		if (!err &&
		    (!parts->upload || !detail ||
		     !detail_is_gone(detail, (uint32_t)(ref - run->first))))
			err = state_fail(s, -E_CORRUPT,
					 "ref %" PRIx64 " of queue %" PRIu64
					 " is in two places",
					 ref, q->record.id);
	}
	return err ? err : push_entry(s, q, lane, ref, like, parts);
}

uint64_t state_lane_expiry(const struct state_lane *lane)
{
	uint64_t least = lane->entry_expiry_min_ms;

	for (size_t i = lane->run_head; i < lane->run_end; i++) {
		uint64_t ms = lane->runs[i]->expiry_min_ms;

		if (ms && (!least || ms < least))
			least = ms;
	}
	return least;
}

/* ---- runs ---- */

struct state_run *state_run_from(const struct state_lane *lane, uint64_t ref,
				 size_t *ret_index)
{
	size_t low = lane->run_head, high = lane->run_end;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (state_run_last(lane->runs[mid]) < ref)
			low = mid + 1;
		else
			high = mid;
	}
	*ret_index = low;
	return low < lane->run_end ? lane->runs[low] : NULL;
}

static int reserve_run(struct state *s, struct state_lane *lane)
{
	size_t used = lane->run_end - lane->run_head, capacity;
	struct state_run **grown;

	if (lane->run_end < lane->run_capacity)
		return 0;
	if (lane->run_head > lane->run_capacity / 2) {
		memmove(lane->runs, lane->runs + lane->run_head,
			used * sizeof(struct state_run *));
		lane->run_head = 0;
		lane->run_end = used;
		return 0;
	}
	capacity = lane->run_capacity ? lane->run_capacity * 2 : 2;
	grown = realloc(lane->runs, capacity * sizeof(struct state_run *));
	if (!grown)
		return state_no_memory(s);
	lane->runs = grown;
	lane->run_capacity = capacity;
	return 0;
}

int state_run_insert(struct state *s, struct state_lane *lane, size_t index,
		     struct state_run *run)
{
	size_t at = index - lane->run_head;
	int err = reserve_run(s, lane);

	if (err)
		return err;
	index = lane->run_head + at; /* the used ones may have moved */
	memmove(lane->runs + index + 1, lane->runs + index,
		(lane->run_end - index) * sizeof(struct state_run *));
	lane->runs[index] = run;
	lane->run_end++;
	s->run_count++;
	state_file_hold(s, run->file, run->live, state_run_live_bytes(run));
	return 0;
}

void state_run_cut(struct state_lane *lane, size_t from, size_t to)
{
	if (from == lane->run_head) {
		lane->run_head = to;
	} else {
		memmove(lane->runs + from, lane->runs + to,
			(lane->run_end - to) * sizeof(struct state_run *));
		lane->run_end -= to - from;
	}
	if (lane->run_head < lane->run_end)
		return;
	free(lane->runs);
	lane->runs = NULL;
	lane->run_head = lane->run_end = lane->run_capacity = 0;
}

void state_run_drop(struct state *s, struct state_run *run)
{
	state_file_release(s, run->file, run->live, state_run_live_bytes(run));
	state_detail_drop(s, run);
	s->run_count--;
	free(run);
}

static bool run_ok(const struct state *s, const struct state_lane *lane,
		   unsigned priority, const struct state_run *like,
		   const struct detail *detail)
{
	const struct state_run *last = NULL;

	if (lane && lane->run_end > lane->run_head)
		last = lane->runs[lane->run_end - 1];
	return lane && priority < RECORD_PRIORITIES && like->span &&
	       record_ref_number(like->first) &&
	       record_ref_number(like->first) + like->span <= lane->next &&
	       (!last || like->first > state_run_last(last)) && like->live &&
	       like->live <= like->copied && like->copied <= like->span &&
	       like->copied <= like->bytes && like->file < s->file_count &&
	       store_is_extent(s->files[like->file].key) &&
	       (detail ? detail_live(detail) : like->span) == like->live;
}

int state_put_run(struct state *s, struct state_queue *q,
		  const struct state_run *like, struct detail *detail)
{
	unsigned priority = record_ref_priority(like->first);
	struct state_lane *lane =
		priority < RECORD_PRIORITIES ? q->lanes[priority] : NULL;
	struct state_run *run = NULL;
	int err = 0;

	if (!run_ok(s, lane, priority, like, detail))
		err = state_fail(s, -E_CORRUPT,
				 "a run of queue %" PRIu64
				 " contradicts itself or its lane",
				 q->record.id);
	if (!err) {
		run = malloc(sizeof(*run));
		err = run ? 0 : state_no_memory(s);
	}
	if (!err) {
		*run = *like;
		run->detail = NULL;
		run->indexed = run->stale = false;
		err = state_run_insert(s, lane, lane->run_end, run);
	}
	if (err) {
		free(run);
		detail_free(detail);
		return err;
	}
	state_detail_set(s, run, detail);
	s->live_messages += run->live;
	lane->live += run->live;
	q->live += run->live;
	return 0;
}

/* ---- leaving ---- */

struct leaving {
	struct state *state;
	uint64_t count;
};

static void leave_entry(void *ctx, struct entry *e)
{
	struct leaving *l = ctx;

	state_entry_forget(l->state, e);
	l->count++;
}

/* Part of the run; it stays when something is left. */
static int leave_part(struct leaving *l, struct state_run *run, uint64_t first,
		      uint64_t last)
{
	uint64_t bytes = state_run_live_bytes(run);
	struct detail *detail;
	size_t bytes_before;
	uint32_t removed;
	int err = state_detail_make(l->state, run, &detail);

	if (err)
		return err;
	bytes_before = detail_bytes(detail);
	first = base_max(first, run->first);
	last = base_min(last, state_run_last(run));
	removed = detail_remove(detail, (uint32_t)(first - run->first),
				(uint32_t)(last - run->first));
	state_detail_changed(l->state, run, bytes_before);
	if (!removed)
		return 0;
	run->live -= removed;
	l->count += removed;
	state_file_release(l->state, run->file, removed,
			   bytes - state_run_live_bytes(run));
	return 0;
}

static int leave_runs(struct leaving *l, struct state_lane *lane,
		      uint64_t first, uint64_t last)
{
	size_t from, kept, i;
	int err = 0;

	if (lane->run_head == lane->run_end ||
	    !state_run_from(lane, first, &from))
		return 0;
	kept = i = from;
	for (; i < lane->run_end && lane->runs[i]->first <= last; i++) {
		struct state_run *run = lane->runs[i];

		if (first <= run->first && state_run_last(run) <= last) {
			l->count += run->live;
			state_run_drop(l->state, run);
			continue;
		}
		err = leave_part(l, run, first, last);
		if (err)
			break;
		if (run->live)
			lane->runs[kept++] = run;
		else
			state_run_drop(l->state, run);
	}
	state_run_cut(lane, kept, i);
	return err;
}

void state_lane_forget_bytes(struct state *s, struct state_queue *q,
			     uint64_t bytes)
{
	/* When nothing is left nothing of it is, whatever was counted. */
	bytes = q->live ? base_min(bytes, q->bytes) : q->bytes;
	q->bytes -= bytes;
	s->live_bytes -= bytes;
}

int state_lane_remove(struct state *s, struct state_queue *q, uint64_t first,
		      uint64_t last)
{
	struct state_lane *lane = q->lanes[record_ref_priority(first)];
	struct leaving l = {s, 0};
	size_t bytes_before;
	int err;

	if (!lane)
		return 0;
	bytes_before = lane->entries.bytes;
	entries_remove(&lane->entries, first, last, leave_entry, &l);
	state_entries_changed(s, lane, bytes_before);
	err = leave_runs(&l, lane, first, last);
	if (!lane->entries.live)
		lane->entry_expiry_min_ms = 0;
	s->live_messages -= l.count;
	lane->live -= l.count;
	q->live -= l.count;
	return err;
}

void state_lane_free(struct state *s, struct state_queue *q, unsigned priority)
{
	struct state_lane *lane = q->lanes[priority];

	if (!lane)
		return;
	/* Whole runs need no detail, so nothing can fail. */
	if (state_lane_remove(s, q, record_ref(priority, 0),
			      record_ref(priority + 1, 0) - 1))
		ASSERT(!"unreachable");
	free(lane);
	q->lanes[priority] = NULL;
}

/* ---- counting ---- */

/* e: a copy of it. */
static int count_entry(struct state *s, struct state_lane *lane,
		       struct entry *e, const struct record_count *c)
{
	struct state_parts parts = {
		.upload = e->more ? e->more->upload : NULL,
		.extra = c->extra,
		.extra_len = c->extra_len,
		.origin = state_entry_origin(e),
	};
	size_t bytes_before = lane->entries.bytes;
	struct entry_more *before = e->more;
	int err;

	e->deliveries = c->deliveries;
	e->counted = 1;
	if (c->extra_len) {
		err = make_more(s, &parts, &e->more);
		if (err)
			return err;
	}
	err = entries_set(&lane->entries, c->ref, e);
	state_entries_changed(s, lane, bytes_before);
	if (e->more != before) {
		s->more_bytes += more_bytes(e->more);
		/* Whichever is not the entry's. */
		free_more(s, err ? e->more : before);
	}
	return err ? state_no_memory(s) : 0;
}

static int count_in_run(struct state *s, struct state_run *run,
			const struct record_count *c)
{
	struct detail_change change = {
		.at = (uint32_t)(c->ref - run->first),
		.deliveries = c->deliveries,
		.extra_len = c->extra_len,
		.extra = c->extra,
	};
	struct detail *detail;
	size_t bytes_before;
	int err = state_detail_make(s, run, &detail);

	if (err)
		return err;
	if (detail_is_gone(detail, change.at))
		return 0;
	bytes_before = detail_bytes(detail);
	if (detail_change(detail, &change))
		err = state_no_memory(s);
	state_detail_changed(s, run, bytes_before);
	return err;
}

int state_lane_count(struct state *s, struct state_queue *q,
		     const struct record_count *c)
{
	struct state_lane *lane = q->lanes[record_ref_priority(c->ref)];
	struct state_run *run;
	struct entry e;
	size_t index;

	if (!lane)
		return 0;
	if (entries_get(&lane->entries, c->ref, &e))
		return count_entry(s, lane, &e, c);
	run = state_run_from(lane, c->ref, &index);
	return run && run->first <= c->ref ? count_in_run(s, run, c) : 0;
}

/* ---- looking ---- */

static int note_ref(void *ctx, uint64_t ref, const struct entry *e)
{
	*(uint64_t *)ctx = ref;
	return 1;
}

static uint64_t first_in_runs(const struct state_lane *lane, uint64_t first)
{
	size_t i;

	for ((void)state_run_from(lane, first, &i); i < lane->run_end; i++) {
		const struct state_run *run = lane->runs[i];
		uint64_t from = base_max(first, run->first);
		uint32_t at = (uint32_t)(from - run->first);

		if (run->detail)
			at = detail_next(run->detail, at);
		if (at < run->span)
			return run->first + at;
	}
	return 0;
}

uint64_t state_lane_first(const struct state_lane *lane, uint64_t first)
{
	uint64_t entry = 0, run = first_in_runs(lane, first);

	entries_each_from(&lane->entries, first, note_ref, &entry);
	return entry && (!run || entry < run) ? entry : run;
}

uint64_t state_memory(const struct state *s)
{
	/* A run has a place in its lane, and the allocator wants something for
	 * each block. */
	return s->entry_bytes + s->run_count * (sizeof(struct state_run) + 24) +
	       s->detail_bytes + s->more_bytes +
	       s->piece_count * sizeof(struct entry_place) +
	       s->uploads.count * (sizeof(struct state_upload) + 32);
}
