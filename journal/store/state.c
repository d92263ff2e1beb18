/* journal/store/state.c: the state machine over committed records.
 *
 * The other parts of it, and what each is for: state_private.h.  The rules
 * that hold between two records: state_check.c. */
#include "journal/store/state_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

int state_fail(struct state *s, int err, const char *fmt, ...)
{
	va_list args;

	if (!s->why[0]) {
		va_start(args, fmt);
		vsnprintf(s->why, sizeof(s->why), fmt, args);
		va_end(args);
	}
	return err;
}

int state_no_memory(struct state *s)
{
	return state_fail(s, -ENOMEM, "no memory for the message index");
}

/* ---- messages ---- */

/* One that enters queues: by ENQUEUE, or from another queue by MOVE. */
struct arrival {
	const struct record_props *props;
	uint64_t upload, bytes;
	uint32_t piece_count;
	struct entry like;
	struct state_parts parts;
};

static int begin_arrival(struct state *s, const struct log_record *r,
			 struct arrival *a)
{
	a->like.arrived_ms = a->props->arrived_ms;
	a->like.expiry_ms = a->props->expiry_ms;
	a->like.priority = a->props->priority;
	a->like.format = a->props->format;
	a->like.durable = a->props->durable & 1;
	if (a->upload)
		return state_upload_name(s, a->upload, a->piece_count, a->bytes,
					 r->lsn, &a->parts.upload);
	if (a->bytes != r->loc.body_len)
		return -E_CORRUPT;
	return state_file_place(s, &r->loc, &a->like.place);
}

static int put_arrival(struct state *s, const struct arrival *a, uint64_t queue)
{
	struct state_queue *q = idmap_get(&s->queues, queue);

	return q ? state_lane_push(s, q, &a->like, &a->parts, a->bytes) : 0;
}

/* Nobody may have been there to receive it. */
static void end_arrival(struct state *s, const struct arrival *a)
{
	if (!a->upload)
		state_file_rest(s, a->like.place.segment);
	else if (!a->parts.upload->entries)
		state_upload_free(s, a->parts.upload);
}

static int apply_enqueue(struct state *s, const struct log_record *r)
{
	struct record_enqueue e;
	struct arrival a = {.props = &e.props};
	int err = record_enqueue_decode(r->meta, r->meta_len, &e);

	if (err)
		return err;
	a.upload = e.upload;
	a.bytes = e.bytes;
	a.piece_count = e.piece_count;
	err = begin_arrival(s, r, &a);
	if (err)
		return err;
	for (uint32_t i = 0; !err && i < e.target_count; i++)
		err = put_arrival(s, &a, record_enqueue_target(&e, i));
	end_arrival(s, &a);
	return err;
}

/* The source lets go last, so that what the message holds stays in between;
 * whether it is still there does not matter. */
static int apply_move(struct state *s, const struct log_record *r)
{
	struct record_move m;
	struct arrival a = {.props = &m.props};
	struct state_queue *from;
	uint64_t live;
	int err = record_move_decode(r->meta, r->meta_len, &m);

	if (err)
		return err;
	a.upload = m.upload;
	a.bytes = m.bytes;
	a.piece_count = m.piece_count;
	a.parts.extra = m.extra;
	a.parts.extra_len = m.extra_len;
	a.parts.origin = m.origin;
	err = begin_arrival(s, r, &a);
	if (err)
		return err;
	for (uint32_t i = 0; !err && i < m.target_count; i++)
		err = put_arrival(s, &a, record_move_target(&m, i));
	end_arrival(s, &a);
	from = err ? NULL : idmap_get(&s->queues, m.queue);
	if (!from)
		return err;
	live = from->live;
	err = state_lane_remove(s, from, m.ref, m.ref);
	if (from->live < live)
		state_lane_forget_bytes(s, from, m.bytes);
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
	if (!q)
		return 0;
	for (uint32_t i = 0; !err && i < a.range_count; i++) {
		struct record_range range = record_ack_range(&a, i);

		err = state_lane_remove(s, q, range.first, range.last);
	}
	state_lane_forget_bytes(s, q, a.bytes);
	return err;
}

static int apply_count(struct state *s, const struct log_record *r)
{
	struct record_count c;
	struct state_queue *q;
	int err = record_count_decode(r->meta, r->meta_len, &c);

	if (err)
		return err;
	q = idmap_get(&s->queues, c.queue);
	return q ? state_lane_count(s, q, &c) : 0;
}

/* ---- addresses and queues ---- */

int state_put_address(struct state *s, const struct record_address *a)
{
	struct state_address *had = idmap_get(&s->addresses, a->id);
	struct state_address *n;

	state_saw_id(s, a->id);
	if (had && (had->record.name_len != a->name_len ||
		    memcmp(had->name, a->name, a->name_len)))
		return state_fail(s, -E_CORRUPT,
				  "address id %" PRIu64 " is used twice",
				  a->id);
	if (had) {
		had->record.routing = a->routing;
		had->record.flags = a->flags;
		return 0;
	}
	n = malloc(sizeof(*n) + a->name_len);
	if (!n)
		return state_no_memory(s);
	n->record = *a;
	n->record.name = n->name;
	memcpy(n->name, a->name, a->name_len);
	if (idmap_put(&s->addresses, a->id, n)) {
		free(n);
		return state_no_memory(s);
	}
	return 0;
}

int state_put_queue(struct state *s, const struct record_queue *q)
{
	struct state_queue *had = idmap_get(&s->queues, q->id), *n;

	state_saw_id(s, q->id);
	if (had && (had->record.address != q->address ||
		    had->record.name_len != q->name_len ||
		    memcmp(had->name, q->name, q->name_len)))
		return state_fail(s, -E_CORRUPT,
				  "queue id %" PRIu64 " is used twice", q->id);
	if (had) {
		had->record.routing = q->routing;
		had->record.flags = q->flags;
		return 0;
	}
	n = calloc(1, sizeof(*n) + q->name_len);
	if (!n)
		return state_no_memory(s);
	n->record = *q;
	n->record.name = n->name;
	memcpy(n->name, q->name, q->name_len);
	if (idmap_put(&s->queues, q->id, n)) {
		free(n);
		return state_no_memory(s);
	}
	return 0;
}

static void drop_queue(struct state *s, uint64_t id)
{
	struct state_queue *q = idmap_take(&s->queues, id);

	if (!q)
		return;
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
		state_lane_free(s, q, p);
	state_lane_forget_bytes(s, q, 0);
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
			state_upload_free(s, u);
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
		return state_upload_piece(s, r);
	case RECORD_UPLOAD_ABORT:
		return state_upload_abort(s, r);
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
	case RECORD_EXTENTS:
		return state_extents_apply(s, r);
	case RECORD_CHECKPOINT:
		return record_checkpoint_decode(r->meta, r->meta_len, &c);
	}
	return state_fail(s, -E_VERSION,
			  "the record at LSN %" PRIu64
			  " has type %u, which %s version wrote; run that one",
			  r->lsn, r->type,
			  r->type < RECORD_ENQUEUE ? "an older" : "a newer");
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
		return state_fail(
			s, err,
			"the %s record at LSN %" PRIu64
			" cannot be applied: its contents are damaged",
			record_type_name(r->type), r->lsn);
	s->changes += r->type != RECORD_CHECKPOINT;
	s->touches += r->type != RECORD_CHECKPOINT && r->type != RECORD_EXTENTS;
	return 0;
}

void state_init(struct state *s)
{
	*s = (struct state){.next_id = 1, .file_free = STATE_NO_FILE};
	list_init(&s->details);
}

void state_fini(struct state *s)
{
	struct idmap *m = &s->queues;

	/* What it holds is nobody's business any more, and thrown away by
	 * its owner. */
	s->index = NULL;
	for (size_t i = 0; i < m->capacity;)
		if (m->slots[i].id)
			drop_queue(s, m->slots[i].id);
		else
			i++;
	m = &s->uploads;
	for (size_t i = 0; i < m->capacity;)
		if (m->slots[i].id)
			state_upload_free(s, m->slots[i].value);
		else
			i++;
	for (size_t i = 0; i < s->addresses.capacity; i++)
		if (s->addresses.slots[i].id)
			free(s->addresses.slots[i].value);
	idmap_fini(&s->queues);
	idmap_fini(&s->uploads);
	idmap_fini(&s->addresses);
	idmap_fini(&s->file_slots);
	free(s->files);
	*s = (struct state){0};
}
