/* journal/store/victim.c: what of a file is still needed, window by window.
 *
 * An EXTENTS record says of each run: every message of the lane between its
 * first and its last that is still there lies in it.  So two messages may go
 * into one run only when nothing that stays elsewhere lies between them: no
 * entry that is not in the plan, and no run of another file.  Whatever a plan
 * is not sure of begins a new run (`begin`).
 *
 * Along a lane entries lie in the journal in the order of their numbers, for
 * both follow the order of the records.  So a lane's entries in a part of a
 * segment are neighbours, and the first is found by bisection. */
#include "journal/store/victim.h"

#include <string.h>

/* Frames of a window; more when most of them are dead. */
#define WINDOW_FRAMES (COPY_BYTES_MAX / IO_BLOCK)

enum walk { WALK_ON = 0, WALK_LANE_DONE = 1, WALK_FULL = 2 }; /* or an error */

struct planning {
	struct victim *victim;
	struct state *state;
	struct copy_step *step;
	uint32_t runs_left, pieces_left;
	struct victim_lane *at;
	const struct state_lane *lane;
};

static bool is_movable(const struct entry *e)
{
	return !e->more || !e->more->upload;
}

static uint64_t file_key(const struct state *s, uint32_t file)
{
	return s->files[file].key;
}

/* ---- finding lanes ---- */

struct probe {
	bool found;
	uint64_t ref;
	struct entry_place place;
};

static int probe_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct probe *p = ctx;

	if (!is_movable(e))
		return 0;
	p->found = true;
	p->ref = ref;
	p->place = e->place;
	return 1;
}

/* The first movable entry at or behind ref. */
static bool probe_from(const struct state_lane *lane, uint64_t ref,
		       struct probe *ret)
{
	ret->found = false;
	(void)entries_each_from(&lane->entries, ref, probe_entry, ret);
	return ret->found;
}

/* The first movable entry in segment `key`; 0: none. */
static uint64_t first_in_segment(const struct state *s,
				 const struct state_lane *lane,
				 unsigned priority, uint64_t key)
{
	uint64_t low = record_ref(priority, 1);
	uint64_t high = record_ref(priority, lane->next);
	struct probe p;

	/* Mostly the oldest segment is asked for, so look at the front. */
	if (!lane->entries.live || !probe_from(lane, low, &p) ||
	    file_key(s, p.place.segment) > key)
		return 0;
	if (file_key(s, p.place.segment) == key)
		return p.ref;
	for (low = p.ref + 1; low < high;) {
		uint64_t mid = low + (high - low) / 2;

		if (!probe_from(lane, mid, &p) ||
		    file_key(s, p.place.segment) >= key)
			high = mid;
		else
			low = p.ref + 1;
	}
	if (!probe_from(lane, low, &p))
		return 0;
	return file_key(s, p.place.segment) == key ? p.ref : 0;
}

/* The first run in extent file `key`; 0: none. */
static uint64_t first_in_extent(const struct state *s,
				const struct state_lane *lane, uint64_t key)
{
	for (size_t i = lane->run_head; i < lane->run_end; i++) {
		const struct state_run *run = lane->runs[i];

		if (run->live && file_key(s, run->file) == key)
			return run->first;
	}
	return 0;
}

static int add_lane(struct victim *v, uint64_t queue, uint64_t next)
{
	struct victim_lane *grown;
	size_t capacity = v->lane_capacity ? v->lane_capacity * 2 : 16;

	if (v->lane_count == v->lane_capacity) {
		grown = realloc(v->lanes, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		v->lanes = grown;
		v->lane_capacity = capacity;
	}
	v->lanes[v->lane_count++] =
		(struct victim_lane){.queue = queue, .next = next};
	return 0;
}

static int find_lanes(struct victim *v, const struct state *s)
{
	void **queues = idmap_sorted(&s->queues);
	int err = queues ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < s->queues.count; i++) {
		const struct state_queue *q = queues[i];

		for (unsigned p = 0; !err && p < RECORD_PRIORITIES; p++) {
			const struct state_lane *lane = q->lanes[p];
			uint64_t ref = 0;

			if (lane && store_is_extent(v->key))
				ref = first_in_extent(s, lane, v->key);
			else if (lane)
				ref = first_in_segment(s, lane, p, v->key);
			if (ref)
				err = add_lane(v, q->record.id, ref);
		}
	}
	free(queues);
	return err;
}

/* ---- finding pieces ---- */

static int add_piece(struct victim *v, uint64_t upload, uint32_t index)
{
	struct victim_piece *grown;
	size_t capacity = v->piece_capacity ? v->piece_capacity * 2 : 16;

	if (v->piece_count == v->piece_capacity) {
		grown = realloc(v->pieces, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		v->pieces = grown;
		v->piece_capacity = capacity;
	}
	v->pieces[v->piece_count++] =
		(struct victim_piece){.upload = upload, .index = index};
	return 0;
}

static int find_pieces(struct victim *v, const struct state *s)
{
	void **uploads = idmap_sorted(&s->uploads);
	int err = uploads ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < s->uploads.count; i++) {
		const struct state_upload *u = uploads[i];

		for (uint32_t k = 0; !err && k < u->piece_count; k++)
			if (file_key(s, u->pieces[k].segment) == v->key)
				err = add_piece(v, u->id, k);
	}
	free(uploads);
	return err;
}

/* ---- beginning ---- */

/* So many frames that a window gives about one full step. */
static uint64_t window_frames(const struct victim *v, const struct state *s)
{
	const struct state_file *f = state_find_file(s, v->key);
	uint64_t windows = 1;

	if (f)
		windows += base_max(f->live / COPY_ITEMS_MAX,
				    f->live_bytes / COPY_BYTES_MAX);
	return base_max(WINDOW_FRAMES, v->frame_end / windows + 1);
}

int victim_begin(struct victim *v, const struct state *s, uint64_t key,
		 uint64_t bytes)
{
	int err;

	memset(v, 0, sizeof(*v));
	v->key = key;
	if (!store_is_extent(key)) {
		v->frame_end = (bytes + IO_BLOCK - 1) / IO_BLOCK;
		v->window_frames = window_frames(v, s);
	}
	err = find_lanes(v, s);
	if (!err)
		err = find_pieces(v, s);
	if (err)
		victim_end(v);
	else if (!store_is_extent(key))
		v->lane_at = v->lane_count; /* of no window yet */
	return err;
}

void victim_end(struct victim *v)
{
	free(v->lanes);
	free(v->pieces);
	memset(v, 0, sizeof(*v));
}

/* ---- planning ---- */

static bool is_full(const struct planning *p)
{
	return p->step->bytes >= COPY_BYTES_MAX ||
	       p->step->item_count >= COPY_ITEMS_MAX;
}

/* Nothing that stays where it is lies between two refs of the lane; `to`
 * belongs to run `self` when that is not NULL. */
static bool is_clear(const struct planning *p, uint64_t from, uint64_t to,
		     const struct state_run *self)
{
	const struct state_run *run;
	struct probe probe;
	size_t index;

	if (!from)
		return false;
	if (from + 1 == to)
		return true;
	run = state_run_from(p->lane, from + 1, &index);
	if (run && run != self && run->first < to)
		return false;
	/* A segment's entries are met one after the other. */
	if (!self)
		return true;
	return !probe_from(p->lane, from + 1, &probe) || probe.ref > to;
}

static struct copy_parts *copy_parts_of(const struct entry_more *more)
{
	size_t len =
		(size_t)more->extra_len + more->address_len + more->queue_len;
	struct copy_parts *parts = malloc(sizeof(*parts) + len);

	if (!parts)
		return NULL;
	memcpy(parts->data, more->data, len);
	parts->extra = parts->data;
	parts->extra_len = more->extra_len;
	parts->origin = (struct record_origin){
		.address = parts->data + more->extra_len,
		.queue = parts->data + more->extra_len + more->address_len,
		.address_len = more->address_len,
		.queue_len = more->queue_len,
		.reason = more->reason,
	};
	return parts;
}

static int plan_message(struct planning *p, uint64_t ref, const struct entry *e)
{
	struct victim_lane *at = p->at;
	struct copy_item *item;
	int err = copy_add_item(p->step, &item);

	if (err)
		return err;
	item->queue = at->queue;
	item->ref = ref;
	item->deliveries = e->deliveries;
	item->props = (struct record_props){
		.expiry_ms = e->expiry_ms,
		.arrived_ms = e->arrived_ms,
		.priority = e->priority,
		.durable = e->durable,
		.format = e->format,
	};
	item->loc = state_loc(p->state, &e->place);
	item->begin = !is_clear(p, at->last, ref, NULL);
	if (e->more) {
		item->parts = copy_parts_of(e->more);
		if (!item->parts)
			return -ENOMEM;
	}
	p->runs_left -= item->begin;
	p->step->bytes += item->loc.stored_len;
	at->last = ref;
	at->next = ref + 1;
	return 0;
}

static int plan_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct planning *p = ctx;

	if (!is_movable(e))
		return WALK_ON;
	if (file_key(p->state, e->place.segment) != p->victim->key ||
	    e->place.frame >= p->victim->window_end) {
		p->at->next = ref;
		return WALK_LANE_DONE;
	}
	if (is_full(p) || !p->runs_left)
		return WALK_FULL;
	return plan_message(p, ref, e);
}

static int plan_run(struct planning *p, struct state_run *run)
{
	const struct detail *detail;
	struct victim_lane *at = p->at;
	struct copy_run *r;
	int err = state_run_detail(p->state, run, &detail);

	if (!err)
		err = copy_add_run(p->step, &r);
	if (!err && detail)
		err = detail_copy(detail, 0, run->span - 1, &r->detail);
	if (err)
		return err;
	r->queue = at->queue;
	r->first = run->first;
	r->span = run->span;
	r->offset = run->offset;
	r->bytes = run->bytes;
	r->begin = !is_clear(p, at->last, run->first, run);
	/* One more when it goes across the end of one that it continues. */
	p->runs_left -= base_min(p->runs_left, 2);
	p->step->bytes += run->bytes;
	at->last = run->first + run->span - 1;
	at->next = run->first + run->span;
	return 0;
}

static int plan_runs(struct planning *p)
{
	size_t i;

	if (!state_run_from(p->lane, p->at->next, &i))
		return WALK_ON;
	for (; i < p->lane->run_end; i++) {
		struct state_run *run = p->lane->runs[i];
		int err;

		if (!run->live ||
		    file_key(p->state, run->file) != p->victim->key)
			continue;
		if (is_full(p) || !p->runs_left)
			return WALK_FULL;
		err = plan_run(p, run);
		if (err)
			return err;
	}
	return WALK_ON;
}

static int plan_lane(struct planning *p)
{
	const struct state_queue *q =
		idmap_get(&p->state->queues, p->at->queue);

	p->lane = q ? q->lanes[record_ref_priority(p->at->next)] : NULL;
	if (!p->lane)
		return WALK_ON;
	if (store_is_extent(p->victim->key))
		return plan_runs(p);
	return entries_each_from(&p->lane->entries, p->at->next, plan_entry, p);
}

/* WALK_ON: through with them. */
static int plan_lanes(struct planning *p)
{
	struct victim *v = p->victim;

	for (; v->lane_at < v->lane_count; v->lane_at++) {
		int walk;

		p->at = &v->lanes[v->lane_at];
		walk = plan_lane(p);
		if (walk == WALK_FULL || walk < 0)
			return walk;
	}
	return WALK_ON;
}

static int plan_pieces(struct planning *p)
{
	struct victim *v = p->victim;

	for (; v->piece_at < v->piece_count; v->piece_at++) {
		const struct victim_piece *piece = &v->pieces[v->piece_at];
		const struct state_upload *u =
			idmap_get(&p->state->uploads, piece->upload);
		struct copy_item *item;
		int err;

		if (!u || piece->index >= u->piece_count ||
		    file_key(p->state, u->pieces[piece->index].segment) !=
			    v->key)
			continue;
		if (is_full(p) || !p->pieces_left || !p->runs_left)
			return WALK_FULL;
		err = copy_add_item(p->step, &item);
		if (err)
			return err;
		item->upload = piece->upload;
		item->index = piece->index;
		item->loc = state_loc(p->state, &u->pieces[piece->index]);
		p->step->bytes += item->loc.stored_len;
		p->pieces_left--;
	}
	return WALK_ON;
}

static bool is_empty(const struct copy_step *step)
{
	return !step->item_count && !step->run_count;
}

int victim_plan(struct victim *v, struct state *s, uint32_t runs_max,
		uint32_t pieces_max, struct copy_step *step)
{
	struct planning p = {.victim = v,
			     .state = s,
			     .step = step,
			     .runs_left = runs_max,
			     .pieces_left = pieces_max};
	int walk = WALK_ON;

	ASSERT(is_empty(step) && runs_max);
	step->source = v->key;
	do {
		if (v->lane_at == v->lane_count &&
		    v->window_end < v->frame_end) {
			v->window_end += v->window_frames;
			v->lane_at = 0;
		}
		walk = plan_lanes(&p);
	} while (walk == WALK_ON && is_empty(step) &&
		 v->window_end < v->frame_end);
	/* A window of a segment by itself, for its messages are read in the
	 * order in which they lie. */
	if (walk == WALK_ON && (is_empty(step) || store_is_extent(v->key)))
		walk = plan_pieces(&p);
	return walk < 0 ? walk : 0;
}
