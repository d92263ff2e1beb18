/* journal/store/salvage_model.c: which messages there are, as far as it can
 * be known.
 *
 * The newest checkpoint that is whole, and behind it every record that can be
 * read, go into a state as at recovery.  What a state would refuse, as
 * records before are lost, is taken apart first: see salvage_private.h for
 * what becomes of numbers. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/salvage_private.h"

#define FILES_MAX 16u
/* A queue that never was: what leaves it changes nothing. */
#define NO_QUEUE UINT64_MAX

/* ---- lanes ---- */

static struct salvage_queue *queue_of(struct salvage_model *m, uint64_t id)
{
	struct salvage_queue *q = idmap_get(&m->queues, id);

	if (q)
		return q;
	q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	q->id = id;
	/* Without a beginning nothing can be counted. */
	for (unsigned p = 0; m->result->baseless && p < RECORD_PRIORITIES; p++)
		q->lanes[p].base = 1;
	if (idmap_put(&m->queues, id, q)) {
		free(q);
		return NULL;
	}
	return q;
}

struct salvage_lane *salvage_model_lane(struct salvage_model *m, uint64_t queue,
					uint64_t ref)
{
	struct salvage_queue *q = queue_of(m, queue);
	unsigned priority = record_ref_priority(ref);

	return q && priority < RECORD_PRIORITIES ? &q->lanes[priority] : NULL;
}

/* NULL: true numbers are known. */
static struct salvage_lane *loose_lane(struct salvage_model *m, uint64_t queue,
				       uint64_t ref)
{
	struct salvage_queue *q = idmap_get(&m->queues, queue);
	unsigned priority = record_ref_priority(ref);
	struct salvage_lane *lane;

	if (!q && m->result->baseless)
		q = queue_of(m, queue);
	lane = q && priority < RECORD_PRIORITIES ? &q->lanes[priority] : NULL;
	return lane && lane->base ? lane : NULL;
}

static bool is_loose(struct salvage_model *m, uint64_t queue, uint64_t ref)
{
	const struct salvage_lane *lane = loose_lane(m, queue, ref);

	return lane && record_ref_number(ref) >= lane->base;
}

enum salvage_verdict salvage_model_verdict(struct salvage_model *m,
					   uint64_t queue, uint64_t ref)
{
	const struct salvage_lane *lane = loose_lane(m, queue, ref);
	uint64_t number = record_ref_number(ref), slack = SALVAGE_SLACK_ANY;

	if (!lane || number < lane->base)
		return SALVAGE_THERE;
	for (size_t i = 0; i < lane->zone_count; i++)
		if (number >= lane->zones[i].first)
			slack = lane->zones[i].slack;
	if (slack == SALVAGE_SLACK_ANY)
		return SALVAGE_DOUBTFUL;
	if (ranges_contain(&lane->acked, number - slack, number))
		return SALVAGE_LEFT;
	return ranges_touch(&lane->acked, number - slack, number)
		       ? SALVAGE_DOUBTFUL
		       : SALVAGE_THERE;
}

static int add_slack(struct salvage_lane *loose, struct state_lane *lane,
		     uint64_t records)
{
	struct salvage_zone zone = {.slack = records};
	struct salvage_zone *grown;

	if (loose->zone_count)
		zone.slack += loose->zones[loose->zone_count - 1].slack;
	grown = realloc(loose->zones,
			(loose->zone_count + 1) * sizeof(*loose->zones));
	if (!grown)
		return -ENOMEM;
	loose->zones = grown;
	if (!loose->base)
		loose->base = lane->next;
	lane->next += records;
	zone.first = lane->next;
	loose->zones[loose->zone_count++] = zone;
	return 0;
}

static int loosen_queue(struct salvage_model *m, struct state_queue *q,
			uint64_t records)
{
	struct salvage_queue *loose = queue_of(m, q->record.id);

	if (!loose)
		return -ENOMEM;
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
		struct state_lane *lane;
		int err = state_put_lane(&m->state, q, p, &lane);

		if (!err)
			err = add_slack(&loose->lanes[p], lane, records);
		if (err)
			return err;
	}
	return 0;
}

static void tell(struct salvage_model *m, const struct salvage_missing *what)
{
	m->options->missing(m->options->ctx, what);
}

static int lost_records(void *ctx, const struct log_lost *lost)
{
	struct salvage_missing missing = {
		.kind = SALVAGE_RECORDS,
		.name = "",
		.first = lost->first_lsn,
		.last = lost->last_lsn,
		.offset = lost->offset,
		.err = lost->err,
	};
	uint64_t records = lost->last_lsn - lost->first_lsn + 1;
	struct salvage_model *m = ctx;
	int err = 0;

	if (lost->segment)
		salvage_file_name(lost->segment, missing.file);
	tell(m, &missing);
	m->result->lost_records += records;
	if (!m->gaps++)
		m->doubtful_id = m->state.next_id;
	/* Nothing is known of what was before. */
	if (lost->first_lsn <= 1) {
		m->result->baseless = true;
		m->doubtful_id = 0;
	}
	if (m->result->baseless)
		return 0;
	for (size_t i = 0; !err && i < m->state.queues.capacity; i++)
		if (m->state.queues.slots[i].id)
			err = loosen_queue(m, m->state.queues.slots[i].value,
					   records);
	return err;
}

/* ---- names ---- */

static uint16_t nameless(uint64_t id, char name[32])
{
	return (uint16_t)snprintf(name, 32, "salvaged-%" PRIu64, id);
}

static int nameless_address(struct salvage_model *m, uint64_t id)
{
	char name[32];
	struct record_address a = {
		.id = id,
		.name = name,
		.routing = RECORD_ANYCAST | RECORD_MULTICAST,
	};

	if (idmap_get(&m->state.addresses, id))
		return 0;
	a.name_len =
		(uint16_t)snprintf(name, sizeof(name), "salvaged-%" PRIu64, id);
	return state_put_address(&m->state, &a);
}

int salvage_model_nameless(struct salvage_model *m, uint64_t id)
{
	char name[32];
	/* Ids are of one space: no address can have a queue's. */
	struct record_queue q = {
		.id = id,
		.address = id,
		.name = name,
		.routing = RECORD_ANYCAST,
	};
	int err;

	if (!id || id < m->doubtful_id || ranges_contain(&m->gone, id, id) ||
	    idmap_get(&m->state.queues, id))
		return 0;
	err = nameless_address(m, id);
	q.name_len =
		(uint16_t)snprintf(name, sizeof(name), "salvaged-%" PRIu64, id);
	if (!err)
		err = state_put_queue(&m->state, &q);
	if (!err)
		m->result->nameless++;
	return err;
}

/* ---- records behind a gap ---- */

static int apply(struct salvage_model *m, const struct log_record *rec)
{
	int err = state_apply(&m->state, rec);

	if (err) {
		snprintf(m->why, SALVAGE_WHY_BYTES,
			 "record %" PRIu64 " cannot be understood: %s",
			 rec->lsn,
			 m->state.why[0] ? m->state.why : err_str(err));
	}
	return err;
}

static int apply_changed(struct salvage_model *m, const struct log_record *rec,
			 const void *meta, size_t len)
{
	struct log_record changed = *rec;

	changed.meta = meta;
	changed.meta_len = (uint32_t)len;
	return apply(m, &changed);
}

static bool has_upload(const struct salvage_model *m, uint64_t id,
		       uint32_t piece_count, uint64_t bytes)
{
	const struct state_upload *u;

	if (!id)
		return true;
	u = idmap_get(&m->state.uploads, id);
	return u && u->piece_count == piece_count && u->bytes == bytes;
}

/* A message that cannot be put together still has its numbers. */
static int count_lost(struct salvage_model *m, uint64_t queue,
		      unsigned priority, const struct log_record *rec)
{
	struct state_queue *q = idmap_get(&m->state.queues, queue);
	struct salvage_missing missing = {
		.kind = SALVAGE_MESSAGES,
		.queue = queue,
		.offset = (uint64_t)rec->loc.frame * IO_BLOCK,
		.err = -ENOENT,
	};
	struct state_lane *lane;
	int err;

	if (!q)
		return 0;
	err = state_put_lane(&m->state, q, priority, &lane);
	if (err)
		return err;
	missing.name = q->name;
	missing.name_len = q->record.name_len;
	missing.first = missing.last = record_ref(priority, lane->next++);
	salvage_file_name(rec->loc.segment, missing.file);
	m->result->missing++;
	tell(m, &missing);
	return 0;
}

static int take_enqueue(struct salvage_model *m, const struct log_record *rec)
{
	struct record_enqueue e;
	int err = record_enqueue_decode(rec->meta, rec->meta_len, &e);
	bool whole;

	if (err)
		return apply(m, rec);
	whole = has_upload(m, e.upload, e.piece_count, e.bytes);
	for (uint32_t i = 0; !err && i < e.target_count; i++) {
		uint64_t queue = record_enqueue_target(&e, i);

		err = salvage_model_nameless(m, queue);
		if (!err && !whole)
			err = count_lost(m, queue, e.props.priority, rec);
	}
	return err || !whole ? err : apply(m, rec);
}

static int leave_loose(struct salvage_model *m, uint64_t queue, uint64_t first,
		       uint64_t last)
{
	struct salvage_lane *lane = loose_lane(m, queue, first);

	return lane ? ranges_add(&lane->acked, record_ref_number(first),
				 record_ref_number(last))
		    : 0;
}

static int take_move(struct salvage_model *m, const struct log_record *rec)
{
	struct record_move v;
	uint64_t *targets;
	uint8_t *meta;
	bool whole;
	int err = record_move_decode(rec->meta, rec->meta_len, &v);

	if (err)
		return apply(m, rec);
	targets = malloc(v.target_count * sizeof(*targets));
	meta = malloc(record_move_room(&v));
	err = targets && meta ? 0 : -ENOMEM;
	whole = has_upload(m, v.upload, v.piece_count, v.bytes);
	for (uint32_t i = 0; !err && i < v.target_count; i++) {
		targets[i] = record_move_target(&v, i);
		err = salvage_model_nameless(m, targets[i]);
		if (!err && !whole)
			err = count_lost(m, targets[i], v.props.priority, rec);
	}
	v.targets = targets;
	if (!err && is_loose(m, v.queue, v.ref)) {
		err = leave_loose(m, v.queue, v.ref, v.ref);
		v.queue = NO_QUEUE;
	}
	if (!err && whole)
		err = apply_changed(m, rec, meta, record_move_encode(&v, meta));
	free(targets);
	free(meta);
	return err;
}

/* The part of a range whose true numbers are known stays; what is behind is
 * noted.  False: nothing stays. */
static int split_range(struct salvage_model *m, uint64_t queue,
		       struct record_range *r, bool *ret_stays)
{
	const struct salvage_lane *lane = loose_lane(m, queue, r->first);
	uint64_t base;
	int err;

	*ret_stays = true;
	if (!lane || record_ref_number(r->last) < lane->base)
		return 0;
	base = record_ref(record_ref_priority(r->first), lane->base);
	err = leave_loose(m, queue, base_max(r->first, base), r->last);
	*ret_stays = r->first < base;
	r->last = base - 1;
	return err;
}

static int take_ack(struct salvage_model *m, const struct log_record *rec)
{
	struct record_range *ranges;
	struct record_ack a;
	uint32_t kept = 0;
	uint8_t *meta;
	int err = record_ack_decode(rec->meta, rec->meta_len, &a);

	if (err)
		return apply(m, rec);
	ranges = malloc((a.range_count + 1) * sizeof(*ranges));
	meta = malloc(record_ack_room(a.range_count));
	err = ranges && meta ? 0 : -ENOMEM;
	for (uint32_t i = 0; !err && i < a.range_count; i++) {
		struct record_range r = record_ack_range(&a, i);
		bool stays;

		err = split_range(m, a.queue, &r, &stays);
		if (!err && stays)
			ranges[kept++] = r;
	}
	if (!err && kept) {
		a.ranges = ranges;
		a.range_count = kept;
		err = apply_changed(m, rec, meta, record_ack_encode(&a, meta));
	}
	free(ranges);
	free(meta);
	return err;
}

static int take_count(struct salvage_model *m, const struct log_record *rec)
{
	struct record_count c;
	int err = record_count_decode(rec->meta, rec->meta_len, &c);

	return !err && is_loose(m, c.queue, c.ref) ? 0 : apply(m, rec);
}

static int take_piece(struct salvage_model *m, const struct log_record *rec)
{
	const struct state_upload *u;
	struct record_piece p;
	int err = record_piece_decode(rec->meta, rec->meta_len, &p);

	if (err)
		return apply(m, rec);
	u = idmap_get(&m->state.uploads, p.upload);
	if (u ? u->complete || u->piece_count != p.index : p.index != 0)
		return 0; /* what came before is lost */
	return apply(m, rec);
}

/* The name of what had lost it. */
static int name_queue(struct salvage_model *m, const struct record_queue *q)
{
	struct state_queue *n = idmap_get(&m->state.queues, q->id), *grown;
	int err;

	if (!n || n->record.address != q->id || q->address == q->id)
		return 0;
	idmap_take(&m->state.queues, q->id);
	/* The name is its last member. */
	grown = realloc(n, sizeof(*n) + q->name_len);
	if (grown)
		n = grown;
	err = idmap_put(&m->state.queues, q->id, n);
	ASSERT(!err); /* there is room where something was taken */
	if (!grown)
		return -ENOMEM;
	m->result->nameless--;
	n->record = *q;
	n->record.name = n->name;
	memcpy(n->name, q->name, q->name_len);
	free(idmap_take(&m->state.addresses, q->id));
	return 0;
}

static int take_queue(struct salvage_model *m, const struct log_record *rec)
{
	struct record_queue q;
	int err = record_queue_decode(rec->meta, rec->meta_len, &q);

	if (err)
		return apply(m, rec);
	err = nameless_address(m, q.address);
	if (!err)
		err = name_queue(m, &q);
	return err ? err : apply(m, rec);
}

static int take_address(struct salvage_model *m, const struct log_record *rec)
{
	struct record_address a;
	struct state_address *had;
	char name[32];
	int len, err = record_address_decode(rec->meta, rec->meta_len, &a);

	if (err)
		return apply(m, rec);
	had = idmap_get(&m->state.addresses, a.id);
	len = nameless(a.id, name);
	if (had && had->record.name_len == len && !memcmp(had->name, name, len))
		free(idmap_take(&m->state.addresses, a.id));
	return apply(m, rec);
}

static int take_queue_gone(struct salvage_model *m,
			   const struct log_record *rec)
{
	uint64_t id;
	int err = record_gone_decode(rec->meta, rec->meta_len, &id);

	if (!err)
		err = ranges_add(&m->gone, id, id);
	return err && err != -E_CORRUPT ? err : apply(m, rec);
}

struct keeping {
	struct salvage_model *m;
	const struct log_record *rec;
	uint64_t file;
	struct record_run *runs;
	struct record_piece_place *pieces;
	uint32_t run_count, piece_count;
};

/* A run in the making: what of its range is not in it has left before, though
 * the record that said so may be lost. */
struct copied {
	struct salvage_model *m;
	const struct record_run *run;
	uint64_t next, end; /* refs */
	struct ranges left;
};

static int note_upload(void *ctx, uint64_t ref, const struct entry *e)
{
	struct copied *c = ctx;
	int err = 0;

	if (ref >= c->end)
		return 1;
	/* These are never copied. */
	if (!e->more || !e->more->upload)
		return 0;
	if (ref > c->next)
		err = ranges_add(&c->left, c->next, ref - 1);
	c->next = ref + 1;
	return err;
}

/* Everything before `end` that has not been told yet. */
static int note_left(struct copied *c, uint64_t end)
{
	const struct state_queue *q =
		idmap_get(&c->m->state.queues, c->run->queue);
	const struct state_lane *lane =
		q ? q->lanes[record_ref_priority(c->run->first)] : NULL;
	int err = 0;

	c->end = end;
	if (lane && c->next < end)
		err = entries_each_from(&lane->entries, c->next, note_upload,
					c);
	if (err >= 0 && c->next < end)
		err = ranges_add(&c->left, c->next, end - 1);
	return err < 0 ? err : 0;
}

static int note_copied(void *ctx, uint32_t at)
{
	struct copied *c = ctx;
	int err = note_left(c, c->run->first + at);

	c->next = c->run->first + at + 1;
	return err;
}

static int apply_left(struct copied *c, const struct log_record *rec)
{
	int err = 0;

	for (size_t i = 0; !err && i < c->left.count; i++) {
		const struct record_range range = {c->left.items[i].first,
						   c->left.items[i].last};
		const struct record_ack ack = {.queue = c->run->queue,
					       .range_count = 1,
					       .ranges = &range};
		struct log_record made = *rec;
		uint8_t meta[64];

		ASSERT(record_ack_room(1) <= sizeof(meta));
		made.type = RECORD_ACK;
		made.meta = meta;
		made.meta_len = (uint32_t)record_ack_encode(&ack, meta);
		err = apply(c->m, &made);
	}
	return err;
}

/* Whether an older run lies only partly in the new one.  Runs move as a
 * whole, so a record in between is lost. */
static int is_torn(struct salvage_model *m, const struct record_run *run,
		   bool *ret)
{
	const struct state_queue *q = idmap_get(&m->state.queues, run->queue);
	const struct state_lane *lane =
		q ? q->lanes[record_ref_priority(run->first)] : NULL;
	uint64_t last = run->first + run->span - 1;
	const struct detail *detail;
	int err = 0;

	*ret = false;
	for (size_t i = lane ? lane->run_head : 0;
	     !err && lane && i < lane->run_end; i++) {
		struct state_run *old = lane->runs[i];

		if (old->first > last)
			break;
		if (old->first + old->span <= run->first)
			continue;
		err = state_run_detail(&m->state, old, &detail);
		for (uint32_t at = 0; !err && !*ret && at < old->span; at++) {
			uint64_t ref = old->first + at;

			*ret = (ref < run->first || ref > last) &&
			       !(detail && detail_is_gone(detail, at));
		}
	}
	return err;
}

/* Where true numbers are not known a message stays where it was written: that
 * segment is kept until two checkpoints lie behind. */
static int keep_run(void *ctx, const struct record_run *run)
{
	struct keeping *k = ctx;
	struct copied c = {.m = k->m, .run = run, .next = run->first};
	bool torn = false;
	int err;

	if (is_loose(k->m, run->queue, run->first + run->span - 1))
		return 0;
	err = salvage_read_refs(k->m->reader, k->file, run, note_copied, &c);
	if (!err)
		err = note_left(&c, run->first + run->span);
	if (err && err != -ENOMEM) {
		/* Not readable: of no use to anybody. */
		ranges_fini(&c.left);
		return 0;
	}
	if (!err)
		err = is_torn(k->m, run, &torn);
	if (!err && !torn)
		err = apply_left(&c, k->rec);
	if (!err && !torn)
		k->runs[k->run_count++] = *run;
	ranges_fini(&c.left);
	return err;
}

static int keep_piece(void *ctx, const struct record_piece_place *p)
{
	struct keeping *k = ctx;
	const struct state_upload *u =
		idmap_get(&k->m->state.uploads, p->upload);

	if (u && p->index < u->piece_count)
		k->pieces[k->piece_count++] = *p;
	return 0;
}

static int take_extents(struct salvage_model *m, const struct log_record *rec)
{
	struct keeping k = {.m = m, .rec = rec};
	struct record_extents x;
	uint8_t *meta = NULL;
	int err = record_extents_decode(rec->meta, rec->meta_len, &x);

	if (err)
		return apply(m, rec);
	k.file = x.file;
	k.runs = calloc(x.run_count + 1, sizeof(*k.runs));
	k.pieces = calloc(x.piece_count + 1, sizeof(*k.pieces));
	meta = malloc(record_extents_room(&x));
	err = k.runs && k.pieces && meta ? 0 : -ENOMEM;
	if (!err)
		err = record_extents_each(&x, keep_run, keep_piece, &k);
	x.runs = k.runs;
	x.run_count = k.run_count;
	x.pieces = k.pieces;
	x.piece_count = k.piece_count;
	if (!err && (x.run_count || x.piece_count))
		err = apply_changed(m, rec, meta,
				    record_extents_encode(&x, meta));
	free(k.runs);
	free(k.pieces);
	free(meta);
	return err;
}

static int take_record(void *ctx, const struct log_record *rec)
{
	struct salvage_model *m = ctx;

	if (!m->gaps)
		return rec->type == RECORD_QUEUE_GONE ? take_queue_gone(m, rec)
						      : apply(m, rec);
	switch (rec->type) {
	case RECORD_ENQUEUE:
		return take_enqueue(m, rec);
	case RECORD_MOVE:
		return take_move(m, rec);
	case RECORD_ACK:
		return take_ack(m, rec);
	case RECORD_COUNT:
		return take_count(m, rec);
	case RECORD_PIECE:
		return take_piece(m, rec);
	case RECORD_ADDRESS:
		return take_address(m, rec);
	case RECORD_QUEUE:
		return take_queue(m, rec);
	case RECORD_QUEUE_GONE:
		return take_queue_gone(m, rec);
	case RECORD_EXTENTS:
		return take_extents(m, rec);
	default:
		return apply(m, rec);
	}
}

/* ---- loading ---- */

static bool is_damage(int err)
{
	return err == -E_CORRUPT || err == -E_KEY || err == -EIO ||
	       err == -ENOENT || err == -E_VERSION;
}

/* The newest checkpoint that can be read. */
static int load_checkpoint(struct salvage_model *m, struct log_position *ret,
			   bool *ret_any)
{
	const struct checkpoint_place place = {.identity = m->identity,
					       .dir = m->options->dir};
	struct checkpoint_file files[FILES_MAX];
	size_t count = 0;
	int err = checkpoint_list(&place, files, FILES_MAX, &count);

	*ret_any = false;
	if (err && !is_damage(err))
		return err;
	for (size_t i = 0; i < count; i++) {
		struct salvage_missing missing = {.kind = SALVAGE_CHECKPOINT,
						  .name = "",
						  .first = files[i].lsn,
						  .last = files[i].lsn};

		err = checkpoint_read(&place, files[i].name, &m->state, ret);
		if (!err) {
			*ret_any = true;
			return 0;
		}
		if (!is_damage(err))
			return err;
		snprintf(missing.file, sizeof(missing.file),
			 CHECKPOINT_DIR "/%s", files[i].name);
		missing.err = err;
		tell(m, &missing);
		state_fini(&m->state);
		state_init(&m->state);
	}
	return 0;
}

int salvage_model_load(struct salvage_model *m)
{
	const struct log_salvage_visit visit = {
		.record = take_record, .lost = lost_records, .ctx = m};
	struct log_position from;
	bool any;
	int err;

	state_init(&m->state);
	err = load_checkpoint(m, &from, &any);
	if (!err)
		err = log_salvage_walk(m->log, any ? &from : NULL, &visit);
	if (!err)
		state_restart(&m->state);
	else if (!m->why[0])
		snprintf(m->why, SALVAGE_WHY_BYTES,
			 "the journal cannot be read: %s", err_str(err));
	return err;
}

void salvage_model_fini(struct salvage_model *m)
{
	for (size_t i = 0; i < m->queues.capacity; i++) {
		struct salvage_queue *q = m->queues.slots[i].value;

		if (!m->queues.slots[i].id)
			continue;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
			free(q->lanes[p].zones);
			ranges_fini(&q->lanes[p].acked);
			ranges_fini(&q->lanes[p].written);
		}
		free(q);
	}
	idmap_fini(&m->queues);
	ranges_fini(&m->gone);
	state_fini(&m->state);
}
