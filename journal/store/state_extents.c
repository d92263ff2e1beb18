/* journal/store/state_extents.c: what moves by an EXTENTS record.
 *
 * The record says which numbers were looked at and where the copies are.  Who
 * was there then, and has left since, is not in it: what is there now decides.
 * So the new run begins with nothing in it, and everything that is still in
 * the lane is added, with what has become of it. */
#include "journal/store/state_private.h"

#include <inttypes.h>

struct extents {
	struct state *state;
	uint64_t lsn;
	uint32_t file; /* index */
};

/* One run in the making. */
struct merge {
	struct state *state;
	const struct record_run *record;
	uint64_t last; /* ref */
	struct state_lane *lane;
	size_t run_from, run_at, run_to; /* of lane->runs, that vanish */
	struct detail *detail;
	bool torn; /* a message of an old run would be left behind */
};

static int refuse(struct extents *x, const struct record_run *r)
{
	return state_fail(x->state, -E_CORRUPT,
			  "the EXTENTS record at LSN %" PRIu64
			  " moves messages of queue %" PRIu64
			  " that cannot have been copied",
			  x->lsn, r->queue);
}

/* ---- gathering what is there ---- */

struct shift {
	struct merge *merge;
	uint32_t by;
};

static int add_change(void *ctx, const struct detail_change *c)
{
	const struct shift *shift = ctx;
	struct detail_change moved = *c;

	moved.at += shift->by;
	return detail_change(shift->merge->detail, &moved);
}

/* A run moves as a whole: what of it lies outside of the new one has left. */
static int merge_run(struct merge *m, struct state_run *run)
{
	/* Modulo 2^32: the old one may begin before the new one. */
	struct shift shift = {m, (uint32_t)(run->first - m->record->first)};
	struct detail *old;
	int err = state_detail_get(m->state, run, &old);

	if (err)
		return err;
	if (!old) {
		m->torn |= run->first < m->record->first ||
			   state_run_last(run) > m->last;
		return m->torn ? 0
			       : detail_add(m->detail, shift.by,
					    shift.by + (run->span - 1));
	}
	for (uint32_t at = detail_next(old, 0); !err && at < run->span;
	     at = detail_next(old, at + 1)) {
		m->torn |= run->first + at < m->record->first ||
			   run->first + at > m->last;
		if (m->torn)
			return 0;
		err = detail_add(m->detail, shift.by + at, shift.by + at);
	}
	return err ? err : detail_each_change(old, add_change, &shift);
}

static int merge_runs_before(struct merge *m, uint64_t ref)
{
	int err = 0;

	for (; !err && m->run_at < m->run_to; m->run_at++) {
		if (m->lane->runs[m->run_at]->first > ref)
			break;
		err = merge_run(m, m->lane->runs[m->run_at]);
	}
	return err;
}

static int merge_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct merge *m = ctx;
	struct detail_change change = {.deliveries = e->deliveries};
	int err;

	if (ref > m->last)
		return 1;
	if (e->more && e->more->upload)
		return 0;
	err = merge_runs_before(m, ref);
	change.at = (uint32_t)(ref - m->record->first);
	if (!err)
		err = detail_add(m->detail, change.at, change.at);
	if (e->more) {
		change.extra_len = e->more->extra_len;
		change.extra = e->more->data;
	}
	/* The copy may have been made before it was set back to 0. */
	if (!err && (e->counted || change.extra_len))
		err = detail_change(m->detail, &change);
	return err;
}

static int merge_all(struct merge *m)
{
	int err = detail_create_empty(m->record->span, &m->detail);

	if (!err)
		err = entries_each_from(&m->lane->entries, m->record->first,
					merge_entry, m);
	if (err >= 0)
		err = merge_runs_before(m, m->last);
	/* The index's errors have said why. */
	return err == -ENOMEM ? state_no_memory(m->state) : err;
}

/* ---- moving it ---- */

static bool forget_moved(void *ctx, struct entry *e)
{
	if (e->more && e->more->upload)
		return false;
	state_entry_forget(ctx, e);
	return true;
}

static void forget_old(struct merge *m)
{
	struct state_lane *lane = m->lane;
	size_t bytes_before = lane->entries.bytes;

	entries_remove_some(&lane->entries, m->record->first, m->last,
			    forget_moved, m->state);
	state_entries_changed(m->state, lane, bytes_before);
	if (!lane->entries.live)
		lane->entry_expiry_min_ms = 0;
	for (size_t i = m->run_from; i < m->run_to; i++)
		state_run_drop(m->state, lane->runs[i]);
	state_run_cut(lane, m->run_from, m->run_to);
}

/* Takes the detail. */
static int place_run(struct extents *x, struct merge *m)
{
	const struct record_run *r = m->record;
	struct state_run *run = calloc(1, sizeof(*run));
	struct detail *detail = m->detail;
	size_t index;
	int err;

	m->detail = NULL;
	if (!run) {
		detail_free(detail);
		return state_no_memory(x->state);
	}
	run->first = r->first;
	run->span = r->span;
	run->copied = r->copied;
	run->live = detail_live(detail);
	run->file = x->file;
	run->offset = r->offset;
	run->bytes = r->bytes;
	run->expiry_min_ms = r->expiry_min_ms;
	forget_old(m);
	(void)state_run_from(m->lane, r->first, &index);
	err = state_run_insert(x->state, m->lane, index, run);
	if (err) {
		free(run);
		detail_free(detail);
		return err;
	}
	if (run->live == run->span && !detail_has_changes(detail)) {
		detail_free(detail);
		detail = NULL;
	}
	state_detail_set(x->state, run, detail);
	return 0;
}

static bool find_old(struct extents *x, struct merge *m)
{
	(void)state_run_from(m->lane, m->record->first, &m->run_from);
	m->run_at = m->run_to = m->run_from;
	for (; m->run_to < m->lane->run_end; m->run_to++) {
		const struct state_run *run = m->lane->runs[m->run_to];

		if (run->first > m->last)
			break;
		if (run->file == x->file)
			return false;
	}
	return true;
}

static int apply_run(void *ctx, const struct record_run *r)
{
	struct extents *x = ctx;
	struct merge m = {.state = x->state, .record = r};
	const struct state_queue *q = idmap_get(&x->state->queues, r->queue);
	int err;

	if (!q)
		return 0;
	m.lane = q->lanes[record_ref_priority(r->first)];
	if (!m.lane || record_ref_number(r->first) + r->span > m.lane->next)
		return refuse(x, r);
	m.last = r->first + r->span - 1;
	if (!find_old(x, &m))
		return refuse(x, r);
	err = merge_all(&m);
	if (!err && (m.torn || detail_live(m.detail) > r->copied))
		err = refuse(x, r);
	if (!err && detail_live(m.detail))
		err = place_run(x, &m);
	detail_free(m.detail);
	return err;
}

static int apply_piece(void *ctx, const struct record_piece_place *p)
{
	struct extents *x = ctx;

	return state_upload_move(x->state, x->file, p);
}

int state_extents_apply(struct state *s, const struct log_record *r)
{
	struct extents x = {.state = s, .lsn = r->lsn};
	struct record_extents e;
	int err = record_extents_decode(r->meta, r->meta_len, &e);

	if (err)
		return err;
	if (state_find_file(s, e.file))
		return state_fail(s, -E_CORRUPT,
				  "the EXTENTS record at LSN %" PRIu64
				  " names a file that is known already",
				  r->lsn);
	err = state_file_slot(s, e.file, &x.file);
	if (err)
		return err;
	s->files[x.file].bytes = e.file_bytes;
	err = record_extents_each(&e, apply_run, apply_piece, &x);
	/* Everything in it may have left since. */
	state_file_rest(s, x.file);
	return err;
}
