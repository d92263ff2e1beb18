/* journal/store/plan.c: what a fetch has to read.
 *
 * A plan is a copy of what the state knows of the next messages of a lane:
 * entries, and the part of at most one run that lies among them.  It is made
 * on the store's thread in a bounded number of steps, so that no reader holds
 * up the applying of records, and is true as of that moment: a file that it
 * names may be gone when it is read, and then another plan is asked for. */
#include <string.h>

#include "journal/store/internal.h"

#define ENTRIES_LOOKED_AT_MAX 16384u
#define RUNS_LOOKED_AT_MAX 4096u /* by their heads */
#define DETAILS_LOOKED_AT_MAX 64u

struct planning {
	struct state *state;
	const struct store_fetch *fetch;
	const struct state_lane *lane;
	struct plan *plan;
	uint32_t capacity; /* of plan->entries */
	uint64_t limit;	   /* ref; not beyond */
	/* The run; NULL: none. */
	const struct state_run *run;
	const struct detail *detail;   /* NULL: all there */
	uint32_t at, at_first, at_end; /* at: the next that is there */
	uint64_t run_each;	       /* bytes of a message, about */
	/* So far. */
	uint64_t bytes;
	uint32_t count, looked_at;
	uint64_t stop; /* where the plan ends early; 0: not yet */
};

static void note_expiry(uint64_t *least, uint64_t expiry_ms)
{
	if (expiry_ms && (!*least || expiry_ms < *least))
		*least = expiry_ms;
}

static bool is_full(const struct planning *g)
{
	return g->count == g->fetch->count_max ||
	       (g->count && g->bytes >= g->fetch->bytes_max);
}

/* ---- the run ---- */

static uint32_t next_there(const struct planning *g, uint32_t at)
{
	return g->detail ? detail_next(g->detail, at) : at;
}

/* The part of the run that the fetch is about; false: nothing is there. */
static int enter_run(struct planning *g, struct state_run *run, uint64_t from,
		     bool *ret_any)
{
	uint64_t end = base_min(run->first + run->span, g->fetch->end);
	int err = state_run_detail(g->state, run, &g->detail);

	if (err)
		return err;
	g->at_end = (uint32_t)(end - run->first);
	g->at = next_there(g, from > run->first ? (uint32_t)(from - run->first)
						: 0);
	g->at_first = g->at;
	*ret_any = g->at < g->at_end;
	return 0;
}

/* The first run that may hold something, and how far the plan goes: to the
 * run behind it. */
static int choose_run(struct planning *g, uint64_t from)
{
	const struct store_fetch *f = g->fetch;
	const struct state_lane *lane = g->lane;
	unsigned heads = 0, details = 0;
	size_t i = 0;

	g->limit = f->end;
	if (!state_run_from(lane, from, &i))
		return 0;
	for (; i < lane->run_end && lane->runs[i]->first < f->end; i++) {
		struct state_run *run = lane->runs[i];
		bool any = false;
		int err = 0;

		if (g->run || ++heads > RUNS_LOOKED_AT_MAX ||
		    details == DETAILS_LOOKED_AT_MAX) {
			g->limit = run->first;
			return 0;
		}
		if (f->expired_ms && (!run->expiry_min_ms ||
				      run->expiry_min_ms > f->expired_ms)) {
			note_expiry(&g->plan->expiry_ms, run->expiry_min_ms);
			continue;
		}
		details++;
		err = enter_run(g, run, from, &any);
		if (err)
			return err;
		if (any) {
			g->run = run;
			g->run_each = base_max(1, run->bytes / run->copied);
		}
	}
	return 0;
}

/* Everything of the run before ref; false: the plan is full before that. */
static bool take_run_until(struct planning *g, uint64_t ref)
{
	if (!g->run)
		return true;
	while (g->at < g->at_end && g->run->first + g->at < ref) {
		if (is_full(g)) {
			g->stop = g->run->first + g->at;
			return false;
		}
		g->count++;
		g->bytes += g->run_each;
		g->at = next_there(g, g->at + 1);
	}
	return true;
}

static int keep_run(struct planning *g)
{
	const struct state_run *run = g->run;
	struct plan *p = g->plan;
	uint32_t end;

	if (!run || g->at == g->at_first)
		return 0;
	ASSERT(run->file < g->state->file_count);
	end = (uint32_t)base_min(g->at, g->at_end);
	p->run.key = g->state->files[run->file].key;
	p->run.file_bytes = g->state->files[run->file].bytes;
	p->run.first = run->first;
	p->run.span = run->span;
	p->run.offset = run->offset;
	p->run.bytes = run->bytes;
	p->run.want_first = run->first + g->at_first;
	p->run.want_end = run->first + end;
	return g->detail ? detail_copy(g->detail, g->at_first, end - 1,
				       &p->run.detail)
			 : 0;
}

/* ---- entries ---- */

static int grow(struct planning *g)
{
	uint32_t wanted = g->capacity ? g->capacity * 2 : 16;
	struct plan_entry *grown;

	if (g->plan->entry_count < g->capacity)
		return 0;
	grown = realloc(g->plan->entries, wanted * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	g->plan->entries = grown;
	g->capacity = wanted;
	return 0;
}

static void copy_bytes(uint8_t **to, const void *from, size_t len)
{
	if (len)
		memcpy(*to, from, len);
	*to += len;
}

/* What lies behind pointers, in one allocation. */
static int copy_more(struct plan_entry *to, const struct entry *e)
{
	const struct entry_more *more = e->more;
	const struct state_upload *upload = more->upload;
	struct store_message *m = &to->message;
	struct record_origin origin = state_entry_origin(e);
	uint32_t piece_count = upload ? upload->piece_count : 0;
	size_t len = (size_t)piece_count * sizeof(uint32_t) + more->extra_len +
		     origin.address_len + origin.queue_len;
	uint8_t *p = malloc(len + 1);
	uint32_t *piece_bytes = (void *)p;

	if (!p)
		return -ENOMEM;
	to->data = p;
	for (uint32_t i = 0; i < piece_count; i++)
		piece_bytes[i] = upload->pieces[i].body_len;
	p += (size_t)piece_count * sizeof(uint32_t);
	if (upload) {
		m->upload = upload->id;
		m->piece_count = piece_count;
		m->piece_bytes = piece_bytes;
	}
	m->extra_len = more->extra_len;
	m->extra = more->extra_len ? p : NULL;
	copy_bytes(&p, more->data, more->extra_len);
	m->origin = origin;
	m->origin.address = (char *)p;
	copy_bytes(&p, origin.address, origin.address_len);
	m->origin.queue = (char *)p;
	copy_bytes(&p, origin.queue, origin.queue_len);
	return 0;
}

static int take_entry(struct planning *g, uint64_t ref, const struct entry *e)
{
	struct plan_entry *to;
	int err = grow(g);

	if (err)
		return err;
	to = &g->plan->entries[g->plan->entry_count];
	*to = (struct plan_entry){
		.message = {.ref = ref,
			    .props = {.expiry_ms = e->expiry_ms,
				      .arrived_ms = e->arrived_ms,
				      .priority = e->priority,
				      .durable = e->durable,
				      .format = e->format},
			    .bytes = state_entry_bytes(e),
			    .deliveries = e->deliveries},
	};
	if (e->more)
		err = copy_more(to, e);
	if (err)
		return err;
	if (to->message.upload) {
		g->bytes +=
			(uint64_t)to->message.piece_count * sizeof(uint32_t);
	} else {
		to->loc = state_loc(g->state, &e->place);
		g->bytes += e->place.body_len;
	}
	g->plan->entry_count++;
	g->count++;
	return 0;
}

/* 1: the plan ends here. */
static int look_at_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct planning *g = ctx;
	uint64_t expired_ms = g->fetch->expired_ms;

	if (ref >= g->limit || !take_run_until(g, ref))
		return 1;
	if (is_full(g) || g->looked_at++ == ENTRIES_LOOKED_AT_MAX) {
		g->stop = ref;
		return 1;
	}
	if (expired_ms && (!e->expiry_ms || e->expiry_ms > expired_ms)) {
		note_expiry(&g->plan->expiry_ms, e->expiry_ms);
		return 0;
	}
	return take_entry(g, ref, e);
}

/* False: no entry can expire in time. */
static bool has_entries(struct planning *g)
{
	uint64_t least = g->lane->entry_expiry_min_ms;

	if (!g->fetch->expired_ms)
		return true;
	if (least && least <= g->fetch->expired_ms)
		return true;
	note_expiry(&g->plan->expiry_ms, least);
	return false;
}

static int fill(struct planning *g, uint64_t from)
{
	int err = choose_run(g, from);

	if (!err && has_entries(g))
		err = entries_each_from(&g->lane->entries, from, look_at_entry,
					g);
	if (err < 0)
		return err;
	if (!g->stop)
		take_run_until(g, g->limit);
	g->plan->next = g->stop ? g->stop : g->limit;
	return keep_run(g);
}

int plan_fetch(struct state *s, const struct store_fetch *f, uint64_t from,
	       struct plan **ret)
{
	const struct state_queue *q = idmap_get(&s->queues, f->queue);
	unsigned priority = record_ref_priority(f->first);
	struct planning g = {.state = s, .fetch = f};
	int err = 0;

	ASSERT(priority < RECORD_PRIORITIES && f->count_max);
	g.plan = calloc(1, sizeof(*g.plan));
	if (!g.plan)
		return -ENOMEM;
	g.plan->next = base_max(from, f->end);
	g.lane = q ? q->lanes[priority] : NULL;
	if (g.lane && from < f->end)
		err = fill(&g, from);
	if (err) {
		plan_free(g.plan);
		return err;
	}
	*ret = g.plan;
	return 0;
}

int plan_piece(struct state *s, const struct store_piece *piece,
	       struct plan **ret)
{
	const struct state_upload *u = idmap_get(&s->uploads, piece->upload);
	struct plan *p;

	if (!u || piece->index >= u->piece_count)
		return -ENOENT;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->piece = state_loc(s, &u->pieces[piece->index]);
	*ret = p;
	return 0;
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->entry_count; i++)
		free(p->entries[i].data);
	free(p->entries);
	detail_free(p->run.detail);
	free(p);
}
