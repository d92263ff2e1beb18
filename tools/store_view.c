/* tools/store_view.c: see store_view.h.
 *
 * History: every EPOCH-START names its parent and lies right behind the
 * parent's last record.  So the newest epoch and its parents, each up to where
 * its child begins, are what the next broker would read; frames beyond are what
 * nobody was promised. */
#include "tools/store_view.h"

#include <inttypes.h>
#include <string.h>

#include "journal/log/verify.h"

#define FILES_MAX 16u
#define TRIES 8 /* beside a broker that goes on */

struct epoch {
	uint32_t epoch, parent;
	uint64_t start_lsn;
	uint64_t end_lsn; /* exclusive; 0: not in the history */
};

struct replay {
	struct store_view *view;
	struct epoch *epochs;
	size_t count, capacity;
	uint64_t next;	 /* LSN of the next record; 0: from the first */
	bool in_history; /* the frame at hand */
};

/* ---- the history ---- */

static struct epoch *find_epoch(struct replay *r, uint32_t epoch)
{
	for (size_t i = r->count; i; i--) {
		if (r->epochs[i - 1].epoch == epoch)
			return &r->epochs[i - 1];
	}
	return NULL;
}

/* *ret is valid until the next call. */
static int need_epoch(struct replay *r, uint32_t epoch, struct epoch **ret)
{
	*ret = find_epoch(r, epoch);
	if (*ret)
		return 0;
	if (r->count == r->capacity) {
		size_t capacity = r->capacity ? 2 * r->capacity : 64;
		struct epoch *p = realloc(r->epochs, capacity * sizeof(*p));

		if (!p)
			return -ENOMEM;
		r->epochs = p;
		r->capacity = capacity;
	}
	r->epochs[r->count] = (struct epoch){.epoch = epoch};
	*ret = &r->epochs[r->count++];
	return 0;
}

static int note_epoch(void *ctx, const struct log_frame_info *f)
{
	struct epoch *e;
	int err;

	if (!f->payload_ok)
		return 0;
	err = need_epoch(ctx, (uint32_t)(f->segment >> 32), &e);
	if (!err && f->epoch_start) {
		e->parent = f->parent_epoch;
		e->start_lsn = f->first_lsn;
	}
	return err;
}

/* An epoch whose EPOCH-START has been dropped with its segment is in the
 * history all the same; its own parents lie before every checkpoint. */
static int follow_parents(struct replay *r)
{
	uint64_t end_lsn = UINT64_MAX;
	uint32_t epoch = 0;
	int err = 0;

	for (size_t i = 0; i < r->count; i++)
		epoch = (uint32_t)base_max(epoch, r->epochs[i].epoch);
	while (epoch && !err) {
		struct epoch *e;

		err = need_epoch(r, epoch, &e);
		if (err)
			break;
		e->end_lsn = end_lsn;
		end_lsn = e->start_lsn;
		/* Parents are smaller; anything else would go on for ever. */
		epoch = e->parent < epoch ? e->parent : 0;
	}
	return err;
}

static int take_frame(void *ctx, const struct log_frame_info *f)
{
	struct replay *r = ctx;
	const struct epoch *e = find_epoch(r, (uint32_t)(f->segment >> 32));

	r->in_history = f->payload_ok && e && f->first_lsn < e->end_lsn;
	return 0;
}

static int take_record(void *ctx, const struct log_record *record)
{
	struct replay *r = ctx;
	struct store_view *v = r->view;
	int err;

	if (!r->in_history || v->cut_short || record->lsn < r->next)
		return 0;
	if (r->next ? record->lsn > r->next : record->lsn > 1) {
		snprintf(v->text, sizeof(v->text),
			 "the journal's records from LSN %" PRIu64
			 " to %" PRIu64 " cannot be read",
			 r->next, record->lsn - 1);
		v->cut_short = v->text;
		return 0;
	}
	err = state_apply(&v->state, record);
	if (err == -ENOMEM)
		return err;
	if (err) {
		snprintf(v->text, sizeof(v->text), "LSN %" PRIu64 ": %s",
			 record->lsn,
			 v->state.why[0] ? v->state.why : err_str(err));
		v->cut_short = v->text;
		return 0;
	}
	r->next = record->lsn + 1;
	return 0;
}

static int replay_journal(struct store_view *v, const struct crypto_key *master,
			  uint64_t from_lsn)
{
	struct replay r = {.view = v, .next = from_lsn};
	int err = log_inspect(v->io, v->dir, NULL, note_epoch, NULL, &r);

	if (!err)
		err = follow_parents(&r);
	if (!err)
		err = log_inspect(v->io, v->dir, master, take_frame,
				  take_record, &r);
	if (err == -E_CORRUPT) {
		v->cut_short = "a frame of the journal does not decrypt";
		err = 0;
	}
	free(r.epochs);
	v->end_lsn = r.next;
	return err;
}

/* ---- loading ---- */

static int load_checkpoint(struct store_view *v, uint64_t *ret_lsn)
{
	struct checkpoint_file files[FILES_MAX];
	struct log_position position;
	size_t count = 0;
	int err = checkpoint_list(&v->place, files, FILES_MAX, &count);

	if (err && err != -ENOENT)
		return err;
	for (size_t i = 0; i < count; i++) {
		err = checkpoint_read(&v->place, files[i].name, &v->state,
				      &position);
		if (!err) {
			snprintf(v->checkpoint, sizeof(v->checkpoint), "%s",
				 files[i].name);
			*ret_lsn = position.lsn;
			return 0;
		}
		state_fini(&v->state);
		state_init(&v->state);
		if (err == -ENOMEM || err == -E_VERSION)
			return err;
	}
	*ret_lsn = 0; /* from the first record, if that is still there */
	return 0;
}

static int try_load(struct store_view *v, const struct crypto_key *master)
{
	uint64_t lsn = 0;
	int err = load_checkpoint(v, &lsn);

	return err ? err : replay_journal(v, master, lsn);
}

static void start_over(struct store_view *v)
{
	state_fini(&v->state);
	state_init(&v->state);
	v->checkpoint[0] = '\0';
	v->cut_short = NULL;
	v->end_lsn = 0;
}

/* Beside a broker that goes on, files go after they were listed (-ENOENT),
 * checkpoints are overtaken, and a frame may be seen half written.  What is
 * damaged for good cuts two attempts short at the same place. */
static int load(struct store_view *v, const struct crypto_key *master)
{
	uint64_t stuck_lsn = UINT64_MAX;
	int err;

	for (int i = 1;; i++) {
		err = try_load(v, master);
		if (i == TRIES || (err && err != -ENOENT) ||
		    (!err && (!v->cut_short || v->end_lsn == stuck_lsn)))
			break;
		stuck_lsn = err ? UINT64_MAX : v->end_lsn;
		start_over(v);
	}
	if (!err && v->cut_short && !v->checkpoint[0] && !v->end_lsn)
		return -E_CORRUPT; /* nothing could be read */
	return err;
}

int store_view_load(struct store_view *v, struct io *io, const char *dir,
		    const struct crypto_key *master)
{
	int err;

	*v = (struct store_view){.io = io, .dir = dir};
	state_init(&v->state);
	err = log_identity(io, dir, v->cluster_id);
	if (!err) {
		v->place = (struct checkpoint_place){
			.identity = {io, master, v->cluster_id}, .dir = dir};
		err = load(v, master);
	}
	if (err)
		store_view_fini(v);
	return err;
}

void store_view_fini(struct store_view *v)
{
	if (v->io)
		state_fini(&v->state);
	*v = (struct store_view){0};
}

/* ---- what lies where ---- */

struct part { /* of a file */
	const struct state *state;
	uint64_t key;
	uint64_t begin, end; /* in a segment, or in an extent file's stream */
	struct store_view_hit hit;
};

static void add_hit(struct part *p, uint64_t first, uint64_t last,
		    uint64_t messages)
{
	struct store_view_hit *h = &p->hit;

	h->first = h->messages ? base_min(h->first, first) : first;
	h->last = base_max(h->last, last);
	h->messages += messages;
}

static bool lies_in(const struct part *p, const struct entry_place *place)
{
	uint64_t at;

	if (place->segment >= p->state->file_count ||
	    p->state->files[place->segment].key != p->key)
		return false;
	if (!store_is_extent(p->key)) {
		at = (uint64_t)place->frame * IO_BLOCK;
		return at >= p->begin && at < p->end;
	}
	return place->at < p->end &&
	       place->at + base_max(place->stored_len, 1) > p->begin;
}

static int look_at_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct part *p = ctx;
	const struct state_upload *u = e->more ? e->more->upload : NULL;
	bool hit = !u && lies_in(p, &e->place);

	for (uint32_t i = 0; u && !hit && i < u->piece_count; i++)
		hit = lies_in(p, &u->pieces[i]);
	if (hit)
		add_hit(p, ref, ref, 1);
	return 0;
}

static void look_at_lane(struct part *p, const struct state_lane *lane)
{
	(void)entries_each(&lane->entries, look_at_entry, p);
	for (size_t i = lane->run_head; i < lane->run_end; i++) {
		const struct state_run *run = lane->runs[i];

		if (p->state->files[run->file].key == p->key &&
		    run->offset < p->end &&
		    (uint64_t)run->offset + run->bytes > p->begin)
			add_hit(p, run->first, run->first + run->span - 1,
				run->live);
	}
}

/* A chunk that is touched is lost as a whole. */
static uint64_t stream_begin(uint64_t offset)
{
	return offset < BLOB_HEADER_BYTES
		       ? 0
		       : (offset - BLOB_HEADER_BYTES) / BLOB_CHUNK_STRIDE *
				 BLOB_CHUNK_BYTES;
}

void store_view_each_hit(const struct store_view *v, uint64_t file_key,
			 uint64_t offset, uint64_t bytes,
			 void (*each)(void *ctx, const struct store_view_hit *),
			 void *ctx)
{
	uint64_t end =
		bytes > UINT64_MAX - offset ? UINT64_MAX : offset + bytes;
	struct part p = {.state = &v->state,
			 .key = file_key,
			 .begin = offset,
			 .end = base_max(end, offset + 1)};
	void **queues = idmap_sorted(&v->state.queues);

	if (store_is_extent(file_key)) {
		/* Without its header no part of a file can be read. */
		p.end = offset < BLOB_HEADER_BYTES || p.end == UINT64_MAX
				? UINT64_MAX
				: stream_begin(p.end - 1) + BLOB_CHUNK_BYTES;
		p.begin = stream_begin(offset);
	}
	for (size_t i = 0; queues && i < v->state.queues.count; i++) {
		const struct state_queue *q = queues[i];

		for (unsigned n = 0; n < RECORD_PRIORITIES; n++) {
			p.hit = (struct store_view_hit){.queue = q};
			if (q->lanes[n])
				look_at_lane(&p, q->lanes[n]);
			if (p.hit.messages)
				each(ctx, &p.hit);
		}
	}
	free(queues);
}
