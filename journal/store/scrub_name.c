/* journal/store/scrub_name.c: whose is what is damaged.
 *
 * One walk over all lanes for all the damage of a file: damage is rare. */
#include "journal/store/scrub_name.h"

#include <string.h>

#include "journal/store/internal.h"

#define HITS_MAX 256u /* lanes told for one place */

struct hit {
	bool any;
	uint64_t first, last; /* refs of one lane */
};

struct naming {
	struct store *store;
	struct scrub_damaged *d;
	uint32_t file; /* index in the state's table */
	bool in_file;
	uint64_t queue;
	struct hit hits[SCRUB_FOUND_MAX];     /* in this lane, of each damage */
	uint32_t hit_counts[SCRUB_FOUND_MAX]; /* lanes told */
};

static void report(const struct naming *n, const struct log_damage *d,
		   uint64_t queue, const struct hit *hit)
{
	struct store_damage damage = {
		.queue = queue,
		.first_lsn = d->first_lsn,
		.last_lsn = d->last_lsn,
		.offset = d->offset,
		.bytes = d->bytes,
		.err = d->err,
	};

	if (hit) {
		damage.first_ref = hit->first;
		damage.last_ref = hit->last;
	}
	memcpy(damage.file, n->d->file, sizeof(damage.file));
	store_damage_found(n->store, &damage);
}

/* Whether the damage touches [offset, offset + bytes) of an extent file's
 * stream.  A chunk lost is all of its bytes; a header lost is everything. */
static bool touches_stream(const struct log_damage *d, uint64_t offset,
			   uint64_t bytes)
{
	uint64_t first, end;

	if (d->offset < BLOB_HEADER_BYTES)
		return true;
	first = (d->offset - BLOB_HEADER_BYTES) / BLOB_CHUNK_STRIDE;
	end = (d->offset + base_max(d->bytes, 1) - BLOB_HEADER_BYTES +
	       BLOB_CHUNK_STRIDE - 1) /
	      BLOB_CHUNK_STRIDE;
	return offset < end * BLOB_CHUNK_BYTES &&
	       first * BLOB_CHUNK_BYTES < offset + base_max(bytes, 1);
}

static bool touches_place(const struct naming *n, const struct log_damage *d,
			  const struct entry_place *p)
{
	uint64_t frame = (uint64_t)p->frame * IO_BLOCK;

	if (p->segment != n->file || !p->stored_len)
		return false;
	if (store_is_extent(n->d->key))
		return touches_stream(d, p->at, p->stored_len);
	return frame >= d->offset && frame - d->offset < d->bytes;
}

static bool touches_entry(const struct naming *n, const struct log_damage *d,
			  const struct entry *e)
{
	const struct state_upload *u = e->more ? e->more->upload : NULL;

	if (!u)
		return touches_place(n, d, &e->place);
	for (uint32_t i = 0; i < u->piece_count; i++)
		if (touches_place(n, d, &u->pieces[i]))
			return true;
	return false;
}

static void note_hit(struct hit *hit, uint64_t first, uint64_t last)
{
	if (!hit->any || first < hit->first)
		hit->first = first;
	if (!hit->any || last > hit->last)
		hit->last = last;
	hit->any = true;
}

static int name_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct naming *n = ctx;

	for (size_t i = 0; i < n->d->count; i++)
		if (touches_entry(n, &n->d->found[i], e))
			note_hit(&n->hits[i], ref, ref);
	return 0;
}

static void name_runs(struct naming *n, const struct state_lane *lane)
{
	for (size_t r = lane->run_head; r < lane->run_end; r++) {
		const struct state_run *run = lane->runs[r];

		if (run->file != n->file)
			continue;
		for (size_t i = 0; i < n->d->count; i++)
			if (touches_stream(&n->d->found[i], run->offset,
					   run->bytes))
				note_hit(&n->hits[i], run->first,
					 run->first + run->span - 1);
	}
}

static void name_lane(struct naming *n, const struct state_lane *lane)
{
	const struct scrub_damaged *d = n->d;
	int err;

	memset(n->hits, 0, sizeof(n->hits));
	if (store_is_extent(d->key))
		name_runs(n, lane);
	err = entries_each(&lane->entries, name_entry, n);
	ASSERT(!err);
	for (size_t i = 0; i < d->count; i++) {
		if (!n->hits[i].any)
			continue;
		if (n->hit_counts[i] < HITS_MAX)
			report(n, &d->found[i], n->queue, &n->hits[i]);
		else if (n->hit_counts[i] == HITS_MAX)
			report(n, &d->found[i], 0, NULL);
		n->hit_counts[i]++;
	}
}

static void name_in_file(struct naming *n)
{
	const struct idmap *queues = &n->store->state.queues;

	for (size_t i = 0; i < queues->capacity; i++) {
		const struct state_queue *q = queues->slots[i].value;

		if (!queues->slots[i].id)
			continue;
		n->queue = q->record.id;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			if (q->lanes[p])
				name_lane(n, q->lanes[p]);
	}
}

void scrub_name(struct store *store, struct scrub_damaged *d)
{
	const struct state *state = &store->state;
	struct naming n = {.store = store, .d = d};

	for (size_t i = 0; d->key && i < state->file_count && !n.in_file; i++) {
		n.file = (uint32_t)i;
		n.in_file = state->files[i].key == d->key;
	}
	if (n.in_file)
		name_in_file(&n);
	d->told = 0;
	for (size_t i = 0; i < d->count; i++) {
		if (!n.hit_counts[i] && d->found[i].only_if_live)
			continue;
		if (!n.hit_counts[i])
			report(&n, &d->found[i], 0, NULL);
		d->told++;
	}
}
