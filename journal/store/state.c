/* journal/store/state.c: the state machine over committed records.
 *
 * Rules that state_check() verifies:
 *   1. A segment's count is the number of entries whose body, plus the number
 *      of uploads' pieces, that lie in it.
 *   2. An upload exists only while it is in progress or an entry holds it.
 *   3. The counters of live messages, bytes and segments are the sums. */
#include "journal/store/state.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#define UPLOAD_PIECES_MAX (1u << 26)

/* Keep the first sentence: it is the closest to the cause. */
static PRINTF_LIKE(3, 4) int fail(struct state *s, int err, const char *fmt,
				  ...)
{
	va_list args;

	if (!s->why[0]) {
		va_start(args, fmt);
		vsnprintf(s->why, sizeof(s->why), fmt, args);
		va_end(args);
	}
	return err;
}

static int no_memory(struct state *s)
{
	return fail(s, -ENOMEM, "no memory for the message index");
}

static void saw_id(struct state *s, uint64_t id)
{
	s->next_id = base_max(s->next_id, id + 1);
}

/* ---- segments ---- */

int state_put_segment(struct state *s, uint64_t key)
{
	size_t capacity = s->segment_capacity;
	struct state_segment *grown;

	if (s->segment_count == capacity) {
		capacity = capacity ? capacity * 2 : 16;
		grown = realloc(s->segments, capacity * sizeof(*grown));
		if (!grown)
			return no_memory(s);
		s->segments = grown;
		s->segment_capacity = capacity;
	}
	s->segments[s->segment_count++] = (struct state_segment){key, 0};
	return 0;
}

/* The slot of the segment, taking a free one when it has none.  It stays the
 * segment's only once something in it is held. */
static int find_segment(struct state *s, uint64_t key, uint32_t *ret_index)
{
	size_t i = s->segment_last, free_slot = SIZE_MAX;
	int err;

	ASSERT(key);
	if (i < s->segment_count && s->segments[i].key == key) {
		*ret_index = (uint32_t)i;
		return 0;
	}
	for (i = 0; i < s->segment_count && s->segments[i].key != key; i++)
		if (!s->segments[i].live)
			free_slot = i;
	if (i == s->segment_count && free_slot != SIZE_MAX) {
		i = free_slot;
		s->segments[i].key = key;
	} else if (i == s->segment_count) {
		err = state_put_segment(s, key);
		if (err)
			return err;
	}
	s->segment_last = i;
	*ret_index = (uint32_t)i;
	return 0;
}

static void hold_segment(struct state *s, uint32_t index)
{
	ASSERT(index < s->segment_count);
	s->live_segments += !s->segments[index].live++;
}

static void release_segment(struct state *s, uint32_t index)
{
	ASSERT(index < s->segment_count && s->segments[index].live);
	s->live_segments -= !--s->segments[index].live;
}

bool state_segment_live(const struct state *s, uint64_t key)
{
	for (size_t i = 0; i < s->segment_count; i++)
		if (s->segments[i].key == key && s->segments[i].live)
			return true;
	return false;
}

static int place_of(struct state *s, const struct log_loc *loc,
		    struct entry_place *ret)
{
	uint32_t segment = 0;
	int err = find_segment(s, loc->segment, &segment);

	if (err)
		return err;
	*ret = (struct entry_place){
		.segment = segment,
		.frame = loc->frame,
		.at = loc->at,
		.stored_len = loc->stored_len,
		.body_len = loc->body_len,
	};
	return 0;
}

struct log_loc state_loc(const struct state *s, const struct entry_place *p)
{
	ASSERT(p->segment < s->segment_count);
	return (struct log_loc){
		.segment = s->segments[p->segment].key,
		.frame = p->frame,
		.at = p->at,
		.stored_len = p->stored_len,
		.body_len = p->body_len,
	};
}

/* ---- uploads ---- */

int state_put_upload(struct state *s, uint64_t id, struct state_upload **ret)
{
	struct state_upload *u = calloc(1, sizeof(*u));

	if (!u)
		return no_memory(s);
	u->id = id;
	if (idmap_put(&s->uploads, id, u)) {
		free(u);
		return no_memory(s);
	}
	saw_id(s, id);
	*ret = u;
	return 0;
}

int state_put_piece(struct state *s, struct state_upload *u,
		    const struct entry_place *place)
{
	struct entry_place *grown;
	uint32_t capacity;

	if (u->piece_count == u->capacity) {
		capacity = u->capacity ? u->capacity * 2 : 4;
		if (capacity > UPLOAD_PIECES_MAX)
			return fail(s, -E_CORRUPT,
				    "upload %" PRIu64 " has too many pieces",
				    u->id);
		grown = realloc(u->pieces, capacity * sizeof(*grown));
		if (!grown)
			return no_memory(s);
		u->pieces = grown;
		u->capacity = capacity;
	}
	u->pieces[u->piece_count++] = *place;
	u->bytes += place->body_len;
	hold_segment(s, place->segment);
	return 0;
}

static void free_upload(struct state *s, struct state_upload *u)
{
	for (uint32_t i = 0; i < u->piece_count; i++)
		release_segment(s, u->pieces[i].segment);
	idmap_take(&s->uploads, u->id);
	free(u->pieces);
	free(u);
}

static int apply_piece(struct state *s, const struct log_record *r)
{
	struct record_piece p;
	struct state_upload *u;
	struct entry_place place;
	int err = record_piece_decode(r->meta, r->meta_len, &p);

	if (err)
		return err;
	u = idmap_get(&s->uploads, p.upload);
	/* The tail of an upload that has been aborted. */
	if (!u && p.index)
		return 0;
	if (u && (u->complete || p.index != u->piece_count))
		return fail(s, -E_CORRUPT,
			    "piece %" PRIu32 " of upload %" PRIu64
			    " at LSN %" PRIu64 " is out of order",
			    p.index, p.upload, r->lsn);
	if (!u)
		err = state_put_upload(s, p.upload, &u);
	if (!err)
		err = place_of(s, &r->loc, &place);
	return err ? err : state_put_piece(s, u, &place);
}

static int apply_upload_abort(struct state *s, const struct log_record *r)
{
	struct state_upload *u;
	uint64_t id;
	int err = record_upload_abort_decode(r->meta, r->meta_len, &id);

	if (err)
		return err;
	saw_id(s, id);
	u = idmap_get(&s->uploads, id);
	if (u && !u->complete)
		free_upload(s, u);
	return 0;
}

/* ---- entries ---- */

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

static struct state_parts parts_of(const struct entry *e)
{
	struct state_parts p = {0};

	if (!e->more)
		return p;
	p.upload = e->more->upload;
	p.extra = e->more->data;
	p.extra_len = e->more->extra_len;
	p.origin = state_entry_origin(e);
	return p;
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
		return no_memory(s);
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

int state_put_entry(struct state *s, struct state_queue *q, uint64_t ref,
		    const struct entry *like, const struct state_parts *parts)
{
	struct entry_more *more;
	struct entry *e;
	uint32_t ref_delta;
	int err;

	if (ref <= q->entries.last_ref)
		return fail(s, -E_CORRUPT,
			    "ref %" PRIu64 " enters queue %" PRIu64
			    " behind ref %" PRIu64,
			    ref, q->record.id, q->entries.last_ref);
	err = make_more(s, parts, &more);
	if (err)
		return err;
	if (entries_push(&q->entries, ref, &e)) {
		free(more);
		return no_memory(s);
	}
	ref_delta = e->ref_delta;
	*e = *like;
	e->ref_delta = ref_delta;
	e->dead = 0;
	e->more = more;
	if (parts->upload)
		parts->upload->entries++;
	else
		hold_segment(s, e->place.segment);
	s->live_messages++;
	s->live_bytes += state_entry_bytes(e);
	return 0;
}

/* An entry leaves its queue for good. */
static void forget_entry(void *ctx, struct entry *e)
{
	struct state_upload *u = e->more ? e->more->upload : NULL;
	struct state *s = ctx;

	s->live_messages--;
	s->live_bytes -= state_entry_bytes(e);
	if (!u)
		release_segment(s, e->place.segment);
	else if (!--u->entries)
		free_upload(s, u);
	free(e->more);
	e->more = NULL;
}

static int enqueue_upload(struct state *s, const struct record_enqueue *e,
			  uint64_t lsn, struct state_upload **ret)
{
	struct state_upload *u = idmap_get(&s->uploads, e->upload);

	saw_id(s, e->upload);
	if (!u || u->piece_count != e->piece_count || u->bytes != e->bytes)
		return fail(s, -E_CORRUPT,
			    "the message at LSN %" PRIu64
			    " lacks pieces of its upload %" PRIu64,
			    lsn, e->upload);
	u->complete = true;
	*ret = u;
	return 0;
}

static int apply_enqueue(struct state *s, const struct log_record *r)
{
	struct state_parts parts = {0};
	struct entry like = {0};
	struct record_enqueue e;
	int err = record_enqueue_decode(r->meta, r->meta_len, &e);

	if (err)
		return err;
	like.arrived_ms = e.props.arrived_ms;
	like.expiry_ms = e.props.expiry_ms;
	like.priority = e.props.priority;
	like.format = e.props.format;
	like.durable = e.props.durable;
	if (e.upload)
		err = enqueue_upload(s, &e, r->lsn, &parts.upload);
	else if (e.bytes != r->loc.body_len)
		err = -E_CORRUPT;
	else
		err = place_of(s, &r->loc, &like.place);
	for (uint32_t i = 0; !err && i < e.target_count; i++) {
		struct state_queue *q;

		q = idmap_get(&s->queues, record_enqueue_target(&e, i));
		if (q)
			err = state_put_entry(s, q, r->lsn, &like, &parts);
	}
	if (!err && parts.upload && !parts.upload->entries)
		free_upload(s, parts.upload);
	return err;
}

static int apply_ack(struct state *s, const struct log_record *r)
{
	struct state_queue *q;
	struct record_ack a;
	int err = record_ack_decode(r->meta, r->meta_len, &a);

	if (err)
		return err;
	q = idmap_get(&s->queues, a.queue);
	for (uint32_t i = 0; q && i < a.range_count; i++) {
		struct record_range range = record_ack_range(&a, i);

		entries_remove(&q->entries, range.first, range.last,
			       forget_entry, s);
	}
	return 0;
}

static int apply_count(struct state *s, const struct log_record *r)
{
	struct entry_more *more;
	struct state_parts parts;
	struct record_count c;
	struct state_queue *q;
	struct entry *e;
	int err = record_count_decode(r->meta, r->meta_len, &c);

	if (err)
		return err;
	q = idmap_get(&s->queues, c.queue);
	e = q ? entries_find(&q->entries, c.ref) : NULL;
	if (!e)
		return 0;
	e->deliveries = c.deliveries;
	if (!c.extra_len)
		return 0;
	parts = parts_of(e);
	parts.extra = c.extra;
	parts.extra_len = c.extra_len;
	err = make_more(s, &parts, &more);
	if (err)
		return err;
	free(e->more);
	e->more = more;
	return 0;
}

static int apply_move(struct state *s, const struct log_record *r)
{
	struct state_queue *from, *q;
	struct state_parts parts;
	struct record_move m;
	struct entry like;
	struct entry *e;
	int err = record_move_decode(r->meta, r->meta_len, &m);

	if (err)
		return err;
	from = idmap_get(&s->queues, m.queue);
	e = from ? entries_find(&from->entries, m.ref) : NULL;
	if (!e)
		return 0;
	/* By value: entering a queue may move the entries of `from`. The parts
	 * stay until the entry leaves. */
	like = *e;
	like.expiry_ms = m.expiry_ms;
	like.deliveries = 0;
	parts = parts_of(e);
	parts.origin = m.origin;
	if (m.extra_len) {
		parts.extra = m.extra;
		parts.extra_len = m.extra_len;
	}
	for (uint32_t i = 0; !err && i < m.target_count; i++) {
		q = idmap_get(&s->queues, record_move_target(&m, i));
		if (q)
			err = state_put_entry(s, q, r->lsn, &like, &parts);
	}
	/* Last, so that what the message holds is never let go in between. */
	entries_remove(&from->entries, m.ref, m.ref, forget_entry, s);
	return err;
}

static int apply_purge(struct state *s, const struct log_record *r)
{
	struct record_purge p;
	struct state_queue *q;
	int err = record_purge_decode(r->meta, r->meta_len, &p);

	if (err)
		return err;
	q = idmap_get(&s->queues, p.queue);
	if (q)
		entries_remove(&q->entries, 0, p.upto, forget_entry, s);
	return 0;
}

/* ---- addresses and queues ---- */

int state_put_address(struct state *s, const struct record_address *a)
{
	struct state_address *had = idmap_get(&s->addresses, a->id);
	struct state_address *n;

	saw_id(s, a->id);
	if (had && (had->record.name_len != a->name_len ||
		    memcmp(had->name, a->name, a->name_len)))
		return fail(s, -E_CORRUPT,
			    "address id %" PRIu64 " is used twice", a->id);
	if (had) {
		had->record.routing = a->routing;
		had->record.flags = a->flags;
		return 0;
	}
	n = malloc(sizeof(*n) + a->name_len);
	if (!n)
		return no_memory(s);
	n->record = *a;
	n->record.name = n->name;
	memcpy(n->name, a->name, a->name_len);
	if (idmap_put(&s->addresses, a->id, n)) {
		free(n);
		return no_memory(s);
	}
	return 0;
}

int state_put_queue(struct state *s, const struct record_queue *q)
{
	struct state_queue *had = idmap_get(&s->queues, q->id), *n;

	saw_id(s, q->id);
	if (had && (had->record.address != q->address ||
		    had->record.name_len != q->name_len ||
		    memcmp(had->name, q->name, q->name_len)))
		return fail(s, -E_CORRUPT, "queue id %" PRIu64 " is used twice",
			    q->id);
	if (had) {
		had->record.routing = q->routing;
		had->record.flags = q->flags;
		return 0;
	}
	n = malloc(sizeof(*n) + q->name_len);
	if (!n)
		return no_memory(s);
	n->record = *q;
	n->record.name = n->name;
	n->entries = (struct entries){0};
	memcpy(n->name, q->name, q->name_len);
	if (idmap_put(&s->queues, q->id, n)) {
		free(n);
		return no_memory(s);
	}
	return 0;
}

static void drop_queue(struct state *s, uint64_t id)
{
	struct state_queue *q = idmap_take(&s->queues, id);

	if (!q)
		return;
	entries_remove(&q->entries, 0, UINT64_MAX, forget_entry, s);
	free(q);
}

static int apply_address(struct state *s, const struct log_record *r)
{
	struct record_address a;
	int err = record_address_decode(r->meta, r->meta_len, &a);

	return err ? err : state_put_address(s, &a);
}

static int apply_queue(struct state *s, const struct log_record *r)
{
	struct record_queue q;
	int err = record_queue_decode(r->meta, r->meta_len, &q);

	return err ? err : state_put_queue(s, &q);
}

static int apply_gone(struct state *s, const struct log_record *r)
{
	uint64_t id;
	int err = record_gone_decode(r->meta, r->meta_len, &id);

	if (err)
		return err;
	if (r->type == RECORD_QUEUE_GONE)
		drop_queue(s, id);
	else
		free(idmap_take(&s->addresses, id));
	return 0;
}

void state_restart(struct state *s)
{
	struct idmap *m = &s->uploads;

	/* Taking an id moves others within the map, so each find starts over
	 * at the slot that was just emptied. */
	for (size_t i = 0; i < m->capacity;) {
		struct state_upload *u =
			m->slots[i].id ? m->slots[i].value : NULL;
		if (u && !u->complete)
			free_upload(s, u);
		else
			i++;
	}
	m = &s->queues;
	for (size_t i = 0; i < m->capacity;) {
		struct state_queue *q =
			m->slots[i].id ? m->slots[i].value : NULL;
		if (q && q->record.flags & RECORD_QUEUE_TEMPORARY)
			drop_queue(s, q->record.id);
		else
			i++;
	}
}

/* ---- the machine ---- */

static int apply_user(struct state *s, const struct log_record *r)
{
	struct record_checkpoint c;

	switch ((enum record_type)r->type) {
	case RECORD_ENQUEUE:
		return apply_enqueue(s, r);
	case RECORD_PIECE:
		return apply_piece(s, r);
	case RECORD_UPLOAD_ABORT:
		return apply_upload_abort(s, r);
	case RECORD_ACK:
		return apply_ack(s, r);
	case RECORD_COUNT:
		return apply_count(s, r);
	case RECORD_MOVE:
		return apply_move(s, r);
	case RECORD_ADDRESS:
		return apply_address(s, r);
	case RECORD_QUEUE:
		return apply_queue(s, r);
	case RECORD_ADDRESS_GONE:
	case RECORD_QUEUE_GONE:
		return apply_gone(s, r);
	case RECORD_PURGE:
		return apply_purge(s, r);
	case RECORD_CHECKPOINT:
		return record_checkpoint_decode(r->meta, r->meta_len, &c);
	}
	return fail(s, -E_VERSION,
		    "the record at LSN %" PRIu64
		    " has type %u, which a newer version wrote; run that one",
		    r->lsn, r->type);
}

int state_apply(struct state *s, const struct log_record *r)
{
	int err;

	if (r->type == LOG_TYPE_EPOCH_START)
		state_restart(s);
	if (r->type < LOG_TYPE_USER)
		return 0;
	err = apply_user(s, r);
	if (err)
		return fail(s, err,
			    "the %s record at LSN %" PRIu64
			    " cannot be applied: its contents are damaged",
			    record_type_name(r->type), r->lsn);
	s->changes += r->type != RECORD_CHECKPOINT;
	return 0;
}

void state_init(struct state *s)
{
	*s = (struct state){.next_id = 1};
}

void state_fini(struct state *s)
{
	struct idmap *m = &s->queues;

	for (size_t i = 0; i < m->capacity;)
		if (m->slots[i].id)
			drop_queue(s, m->slots[i].id);
		else
			i++;
	m = &s->uploads;
	for (size_t i = 0; i < m->capacity;)
		if (m->slots[i].id)
			free_upload(s, m->slots[i].value);
		else
			i++;
	for (size_t i = 0; i < s->addresses.capacity; i++)
		if (s->addresses.slots[i].id)
			free(s->addresses.slots[i].value);
	idmap_fini(&s->queues);
	idmap_fini(&s->uploads);
	idmap_fini(&s->addresses);
	free(s->segments);
	*s = (struct state){0};
}

/* ---- checking ---- */

struct tally {
	const struct state *state;
	uint64_t *live; /* per segment slot */
	uint64_t messages, bytes, upload_entries;
};

static int tally_entry(void *ctx, uint64_t ref, const struct entry *e)
{
	struct tally *t = ctx;

	t->messages++;
	t->bytes += state_entry_bytes(e);
	if (e->more && e->more->upload) {
		ASSERT(idmap_get(&t->state->uploads, e->more->upload->id) ==
		       e->more->upload);
		t->upload_entries++;
	} else {
		ASSERT(e->place.segment < t->state->segment_count);
		t->live[e->place.segment]++;
	}
	return 0;
}

static void check_uploads(struct tally *t)
{
	const struct idmap *m = &t->state->uploads;
	uint64_t entries = 0;

	for (size_t i = 0; i < m->capacity; i++) {
		const struct state_upload *u = m->slots[i].value;

		if (!m->slots[i].id)
			continue;
		ASSERT(u->complete == (u->entries > 0));
		entries += u->entries;
		for (uint32_t k = 0; k < u->piece_count; k++)
			t->live[u->pieces[k].segment]++;
	}
	ASSERT(entries == t->upload_entries);
}

void state_check(const struct state *s)
{
	struct tally t = {.state = s};
	uint64_t segments = 0;

	t.live = calloc(s->segment_count + 1, sizeof(*t.live));
	ASSERT(t.live);
	for (size_t i = 0; i < s->queues.capacity; i++) {
		const struct state_queue *q = s->queues.slots[i].value;

		if (!s->queues.slots[i].id)
			continue;
		entries_check(&q->entries);
		entries_each(&q->entries, tally_entry, &t);
	}
	check_uploads(&t);
	for (size_t i = 0; i < s->segment_count; i++) {
		ASSERT(t.live[i] == s->segments[i].live);
		segments += t.live[i] > 0;
	}
	ASSERT(t.messages == s->live_messages && t.bytes == s->live_bytes);
	ASSERT(segments == s->live_segments);
	free(t.live);
}
