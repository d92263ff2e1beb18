/* journal/store/state_check.c: what holds between two records, for tests.
 *
 *   1. A file's count is the number of entries whose body, of runs' messages
 *      and of uploads' pieces that lie in it; its live bytes are theirs.
 *   2. An upload exists only while it is in progress or an entry holds it.
 *   3. Runs of a lane do not overlap, and no entry is a run's: only messages
 *      with an upload lie within one's numbers, and are gone there.
 *   4. A detail in memory is in the list; a run without one is all there, or
 *      has one in the index.
 *   5. The counters are the sums. */
#include "journal/store/state_private.h"

struct tally {
	struct state *state;
	uint64_t *live, *live_bytes; /* per slot */
	uint64_t messages, entries, runs, bytes, pieces, upload_entries;
	uint64_t entry_bytes;
	uint64_t details, detail_bytes;
	const struct state_lane *lane;
};

static void check_beside_runs(struct tally *t, uint64_t ref, bool has_upload)
{
	size_t index;
	struct state_run *run = state_run_from(t->lane, ref, &index);

	if (!run || run->first > ref)
		return;
	ASSERT(has_upload && (run->detail || run->indexed));
	if (run->detail)
		ASSERT(detail_is_gone(run->detail,
				      (uint32_t)(ref - run->first)));
}

static int tally_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	struct tally *t = ctx;

	ASSERT(record_ref_number(ref) < t->lane->next);
	ASSERT(record_ref_priority(ref) == e->priority);
	ASSERT(!e->expiry_ms || (t->lane->entry_expiry_min_ms &&
				 t->lane->entry_expiry_min_ms <= e->expiry_ms));
	check_beside_runs(t, ref, u != NULL);
	t->entries++;
	t->messages++;
	if (u) {
		ASSERT(idmap_get(&t->state->uploads, u->id) == u);
		t->upload_entries++;
	} else {
		ASSERT(e->place.segment < t->state->file_count);
		t->live[e->place.segment]++;
		t->live_bytes[e->place.segment] += e->place.stored_len;
	}
	return 0;
}

static void tally_run(struct tally *t, const struct state_run *r)
{
	ASSERT(r->live && r->live <= r->copied && r->copied <= r->span);
	ASSERT(record_ref_number(r->first) + r->span <= t->lane->next);
	ASSERT(r->file < t->state->file_count);
	t->live[r->file] += r->live;
	t->live_bytes[r->file] += state_run_live_bytes(r);
	t->messages += r->live;
	t->runs++;
	if (!r->detail) {
		ASSERT(r->indexed || r->live == r->span);
		return;
	}
	detail_check(r->detail);
	ASSERT(detail_live(r->detail) == r->live);
	t->details++;
	t->detail_bytes += detail_bytes(r->detail);
}

static uint64_t tally_lane(struct tally *t, const struct state_lane *lane)
{
	uint64_t before = t->messages;

	t->lane = lane;
	entries_check(&lane->entries);
	t->entry_bytes += lane->entries.bytes;
	ASSERT(lane->entries.live || !lane->entry_expiry_min_ms);
	entries_each(&lane->entries, tally_entry, t);
	ASSERT(lane->run_head <= lane->run_end &&
	       lane->run_end <= lane->run_capacity);
	for (size_t i = lane->run_head; i < lane->run_end; i++) {
		ASSERT(i == lane->run_head ||
		       state_run_last(lane->runs[i - 1]) <
			       lane->runs[i]->first);
		tally_run(t, lane->runs[i]);
	}
	ASSERT(t->messages - before == lane->live);
	return lane->live;
}

static void tally_queues(struct tally *t)
{
	const struct idmap *m = &t->state->queues;

	for (size_t i = 0; i < m->capacity; i++) {
		const struct state_queue *q = m->slots[i].value;
		uint64_t live = 0;

		if (!m->slots[i].id)
			continue;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			if (q->lanes[p])
				live += tally_lane(t, q->lanes[p]);
		ASSERT(live == q->live && (live || !q->bytes));
		t->bytes += q->bytes;
	}
}

static void tally_uploads(struct tally *t)
{
	const struct idmap *m = &t->state->uploads;
	uint64_t entries = 0;

	for (size_t i = 0; i < m->capacity; i++) {
		const struct state_upload *u = m->slots[i].value;

		if (!m->slots[i].id)
			continue;
		ASSERT(u->complete == (u->entries > 0));
		entries += u->entries;
		t->pieces += u->piece_count;
		for (uint32_t k = 0; k < u->piece_count; k++) {
			const struct entry_place *p = &u->pieces[k];

			t->live[p->segment]++;
			t->live_bytes[p->segment] += p->stored_len;
		}
	}
	ASSERT(entries == t->upload_entries);
}

static void check_files(const struct tally *t)
{
	const struct state *s = t->state;
	uint64_t files = 0;

	for (size_t i = 0; i < s->file_count; i++) {
		const struct state_file *f = &s->files[i];

		ASSERT(t->live[i] == f->live);
		ASSERT(t->live_bytes[i] == f->live_bytes);
		ASSERT(!f->dead || (!f->live && store_is_extent(f->key)));
		ASSERT(f->live || f->dead || f->listed);
		files += f->live > 0;
		if (f->live || f->dead)
			ASSERT(state_find_file(s, f->key) == f);
	}
	ASSERT(files == s->live_files);
}

void state_check(struct state *s)
{
	struct tally t = {.state = s};
	uint64_t listed = 0;

	t.live = calloc(s->file_count + 1, sizeof(*t.live));
	t.live_bytes = calloc(s->file_count + 1, sizeof(*t.live_bytes));
	ASSERT(t.live && t.live_bytes);
	tally_queues(&t);
	tally_uploads(&t);
	check_files(&t);
	list_for_each(node, &s->details)
		listed++;
	ASSERT(listed == t.details && t.detail_bytes == s->detail_bytes);
	ASSERT(t.messages == s->live_messages && t.bytes == s->live_bytes);
	ASSERT(t.entries == s->entry_count && t.runs == s->run_count);
	ASSERT(t.entry_bytes == s->entry_bytes);
	ASSERT(t.pieces == s->piece_count);
	free(t.live);
	free(t.live_bytes);
}
