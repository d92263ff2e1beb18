/* tests/unit/core_twin.h: a log and a store for tests of the core: simple,
 * slow, in memory, and without mercy.
 *
 * The log commits in order, after a random while.  The store keeps every
 * message that was ever committed, counts numbers by itself, and asserts what
 * the core's records promise: that what leaves is there or has left before,
 * and how many bytes leave.  What it answers is as of the time it was asked,
 * comes later, and is often less than was asked for. */
#ifndef TESTS_UNIT_CORE_TWIN_H
#define TESTS_UNIT_CORE_TWIN_H

#include "tests/unit/test.h"

#include "base/logger.h"
#include "base/sim/sim.h"
#include "broker/core/core.h"

#define TWIN_NAMES 64u
#define TWIN_PIECES 64u
#define TWIN_UPLOADS 2048u
#define TWIN_SHARDS 2u

struct twin_message {
	bool gone, damaged;
	struct record_props props;
	uint64_t bytes, upload;
	uint8_t *body;
	uint32_t piece_count, deliveries, extra_len;
	void *extra;
	char address[64], queue[64];
	uint8_t reason;
};

struct twin_lane {
	struct twin_message *messages; /* of number, from 1 */
	uint64_t count, capacity;
};

struct twin_name {
	uint64_t id, address; /* address 0: it is one */
	char name[RECORD_NAME_MAX + 1];
	uint8_t routing, flags;
	uint64_t live, bytes;
	struct twin_lane lanes[RECORD_PRIORITIES];
};

struct twin_upload {
	uint64_t id;
	uint32_t count;
	uint32_t lens[TWIN_PIECES];
	uint8_t *data[TWIN_PIECES];
	bool aborted;
};

struct log {
	struct loop_mail mail;
	bool posted, held;
	struct log_append *first, **tail;
	uint64_t lsn;
};

struct store {
	uint64_t next_id;
	unsigned fetches, fetched, answers_failing;
	bool behind, fetches_held, piece_damaged, piece_refused;
	struct store_fetch *waiting[64];
	unsigned waiting_count;
};

struct store_reader {
	struct loop *loop;
};

static struct twin {
	struct sim *sim;
	struct io *io;
	struct loop *loops[TWIN_SHARDS], *side; /* log and store */
	struct core *core;
	struct log log;
	struct store store;
	struct twin_name names[TWIN_NAMES];
	unsigned name_count;
	struct twin_upload uploads[TWIN_UPLOADS];
	unsigned upload_count;
	bool no_space;
	uint64_t backlog_bytes;
} twin;

static inline struct twin_name *twin_find(uint64_t id)
{
	for (unsigned i = 0; i < twin.name_count; i++)
		if (twin.names[i].id == id)
			return &twin.names[i];
	return NULL;
}

static inline struct twin_name *twin_queue(const char *name)
{
	for (unsigned i = 0; i < twin.name_count; i++)
		if (twin.names[i].id && twin.names[i].address &&
		    !strcmp(twin.names[i].name, name))
			return &twin.names[i];
	return NULL;
}

static inline struct twin_message *twin_message(struct twin_name *q,
						uint64_t ref)
{
	struct twin_lane *lane = &q->lanes[record_ref_priority(ref)];

	assert_in_range(record_ref_number(ref), 1, lane->count);
	return &lane->messages[record_ref_number(ref) - 1];
}

static inline struct twin_upload *twin_upload(uint64_t id)
{
	for (unsigned i = 0; i < twin.upload_count; i++)
		if (twin.uploads[i].id == id)
			return &twin.uploads[i];
	assert_true(twin.upload_count < TWIN_UPLOADS);
	twin.uploads[twin.upload_count].id = id;
	return &twin.uploads[twin.upload_count++];
}

/* ---- the records ---- */

static inline void *twin_copy(const void *data, size_t len)
{
	void *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	if (len)
		memcpy(copy, data, len);
	return copy;
}

static inline struct twin_message *twin_add(uint64_t queue, unsigned priority)
{
	struct twin_name *q = twin_find(queue);
	struct twin_lane *lane;

	if (!q)
		return NULL;
	lane = &q->lanes[priority];
	if (lane->count == lane->capacity) {
		lane->capacity = lane->capacity * 2 + 64;
		lane->messages =
			realloc(lane->messages,
				lane->capacity * sizeof(*lane->messages));
		assert_non_null(lane->messages);
	}
	memset(&lane->messages[lane->count], 0, sizeof(*lane->messages));
	q->live++;
	return &lane->messages[lane->count++];
}

static inline uint64_t twin_remove(struct twin_name *q, uint64_t ref)
{
	struct twin_message *m = twin_message(q, ref);

	if (m->gone)
		return 0;
	m->gone = true;
	q->live--;
	q->bytes -= m->bytes;
	return m->bytes;
}

static inline void apply_enqueue(const struct log_append *a)
{
	struct record_enqueue r;

	assert_int_equal(record_enqueue_decode(a->meta, a->meta_len, &r), 0);
	for (uint32_t i = 0; i < r.target_count; i++) {
		uint64_t id = record_enqueue_target(&r, i);
		struct twin_message *m = twin_add(id, r.props.priority);

		if (!m)
			continue;
		m->props = r.props;
		m->bytes = r.bytes;
		m->upload = r.upload;
		m->piece_count = r.piece_count;
		if (!r.upload)
			assert_int_equal(r.bytes, a->body_len);
		m->body = twin_copy(a->body, a->body_len);
		twin_find(id)->bytes += r.bytes;
	}
}

static inline void apply_move(const struct log_append *a)
{
	struct record_move r;
	struct twin_name *from;

	assert_int_equal(record_move_decode(a->meta, a->meta_len, &r), 0);
	from = twin_find(r.queue);
	if (from) {
		const struct twin_message *m = twin_message(from, r.ref);

		assert_int_equal(m->bytes, r.bytes);
		assert_int_equal(m->upload, r.upload);
		assert_int_equal(m->piece_count, r.piece_count);
		if (!r.upload)
			assert_memory_equal(m->body, a->body, r.bytes);
		twin_remove(from, r.ref);
	}
	for (uint32_t i = 0; i < r.target_count; i++) {
		uint64_t id = record_move_target(&r, i);
		struct twin_message *m = twin_add(id, r.props.priority);

		if (!m)
			continue;
		m->props = r.props;
		m->bytes = r.bytes;
		m->upload = r.upload;
		m->piece_count = r.piece_count;
		m->body = twin_copy(a->body, a->body_len);
		m->extra = twin_copy(r.extra, r.extra_len);
		m->extra_len = r.extra_len;
		m->reason = r.origin.reason;
		snprintf(m->address, sizeof(m->address), "%.*s",
			 r.origin.address_len, r.origin.address);
		snprintf(m->queue, sizeof(m->queue), "%.*s", r.origin.queue_len,
			 r.origin.queue);
		twin_find(id)->bytes += r.bytes;
	}
}

static inline void apply_ack(const struct log_append *a)
{
	struct record_ack r;
	struct twin_name *q;
	uint64_t bytes = 0;

	assert_int_equal(record_ack_decode(a->meta, a->meta_len, &r), 0);
	q = twin_find(r.queue);
	if (!q)
		return;
	for (uint32_t i = 0; i < r.range_count; i++) {
		struct record_range range = record_ack_range(&r, i);

		for (uint64_t ref = range.first; ref <= range.last; ref++)
			bytes += twin_remove(q, ref);
	}
	assert_int_equal(bytes, r.bytes);
}

static inline void apply_count(const struct log_append *a)
{
	struct record_count r;
	struct twin_name *q;
	struct twin_message *m;

	assert_int_equal(record_count_decode(a->meta, a->meta_len, &r), 0);
	q = twin_find(r.queue);
	if (!q)
		return;
	m = twin_message(q, r.ref);
	m->deliveries = r.deliveries;
	if (r.extra_len) {
		free(m->extra);
		m->extra = twin_copy(r.extra, r.extra_len);
		m->extra_len = r.extra_len;
	}
}

static inline void twin_put_name(uint64_t id, uint64_t address,
				 const char *name, uint16_t name_len,
				 uint8_t routing, uint8_t flags)
{
	struct twin_name *n = twin_find(id);

	if (!n) {
		assert_true(twin.name_count < TWIN_NAMES);
		n = &twin.names[twin.name_count++];
	}
	n->id = id;
	n->address = address;
	snprintf(n->name, sizeof(n->name), "%.*s", name_len, name);
	n->routing = routing;
	n->flags = flags;
}

static inline void apply_name(const struct log_append *a)
{
	struct record_address address;
	struct record_queue queue;

	if (a->type == RECORD_ADDRESS) {
		assert_int_equal(
			record_address_decode(a->meta, a->meta_len, &address),
			0);
		twin_put_name(address.id, 0, address.name, address.name_len,
			      address.routing, address.flags);
	} else {
		assert_int_equal(
			record_queue_decode(a->meta, a->meta_len, &queue), 0);
		twin_put_name(queue.id, queue.address, queue.name,
			      queue.name_len, queue.routing, queue.flags);
	}
}

static inline void apply_gone(const struct log_append *a)
{
	struct twin_name *n;
	uint64_t id;

	assert_int_equal(record_gone_decode(a->meta, a->meta_len, &id), 0);
	n = twin_find(id);
	if (n)
		n->id = 0;
}

static inline void apply_piece(const struct log_append *a)
{
	struct record_piece r;
	struct twin_upload *u;

	assert_int_equal(record_piece_decode(a->meta, a->meta_len, &r), 0);
	u = twin_upload(r.upload);
	assert_int_equal(r.index, u->count);
	assert_true(u->count < TWIN_PIECES);
	u->lens[u->count] = a->body_len;
	u->data[u->count++] = twin_copy(a->body, a->body_len);
}

static inline void twin_apply(const struct log_append *a)
{
	uint64_t id;

	switch ((enum record_type)a->type) {
	case RECORD_ENQUEUE:
		apply_enqueue(a);
		return;
	case RECORD_PIECE:
		apply_piece(a);
		return;
	case RECORD_UPLOAD_ABORT:
		assert_int_equal(
			record_upload_abort_decode(a->meta, a->meta_len, &id),
			0);
		twin_upload(id)->aborted = true;
		return;
	case RECORD_ACK:
		apply_ack(a);
		return;
	case RECORD_COUNT:
		apply_count(a);
		return;
	case RECORD_MOVE:
		apply_move(a);
		return;
	case RECORD_ADDRESS:
	case RECORD_QUEUE:
		apply_name(a);
		return;
	case RECORD_ADDRESS_GONE:
	case RECORD_QUEUE_GONE:
		apply_gone(a);
		return;
	case RECORD_EXTENTS:
	case RECORD_CHECKPOINT:
		break;
	}
	fail_msg("record type %u", a->type);
}

/* ---- the log ---- */

static inline void twin_post_commit(void);

static inline void twin_commit(struct loop_mail *mail)
{
	struct log *log = container_of(mail, struct log, mail);
	struct log_append *a = log->first;

	log->posted = false;
	if (log->held)
		return;
	if (sim_chance(twin.sim, SIM_ALWAYS / 2)) {
		twin_post_commit();
		return;
	}
	log->first = NULL;
	log->tail = &log->first;
	for (struct log_append *each = a; each; each = each->next) {
		each->err = 0;
		each->lsn = ++log->lsn;
		twin_apply(each);
	}
	while (a) {
		struct log_append *next = a->next;
		struct log_note *notes = a->notes;
		unsigned count = a->note_count;

		for (unsigned i = 0; i < count; i++)
			loop_post(notes[i].to, &notes[i].mail);
		a = next;
	}
}

static inline void twin_post_commit(void)
{
	if (twin.log.posted)
		return;
	twin.log.posted = true;
	twin.log.mail.deliver = twin_commit;
	loop_post(twin.side, &twin.log.mail);
}

static inline void twin_hold_log(bool hold)
{
	twin.log.held = hold;
	if (!hold)
		twin_post_commit();
}

void log_append(struct log *log, struct log_append *first,
		struct log_append *last)
{
	*log->tail = first;
	last->next = NULL;
	log->tail = &last->next;
	twin_post_commit();
}

void log_append_here(struct log *log, struct loop *here,
		     struct log_append *first, struct log_append *last)
{
	log_append(log, first, last);
}

int log_has_space(const struct log *log)
{
	return !twin.no_space;
}

uint64_t log_backlog_bytes(const struct log *log)
{
	return twin.backlog_bytes;
}

/* ---- the store ---- */

struct plan { /* what an answer points to */
	struct store_message *messages;
	void *parts[3 * 4096];
	unsigned part_count;
};

static inline const void *plan_keep(struct plan *plan, const void *data,
				    size_t len)
{
	void *copy = twin_copy(data, len);

	assert_true(plan->part_count < 3 * 4096);
	plan->parts[plan->part_count++] = copy;
	return copy;
}

static inline void plan_add(struct plan *plan, struct store_fetch *f,
			    uint64_t ref, const struct twin_message *m)
{
	struct store_message *to = &plan->messages[f->message_count++];

	memset(to, 0, sizeof(*to));
	to->ref = ref;
	if (m->damaged) {
		to->err = -E_CORRUPT;
		return;
	}
	to->props = m->props;
	to->bytes = m->bytes;
	to->deliveries = m->deliveries;
	to->upload = m->upload;
	if (m->upload) {
		to->piece_count = m->piece_count;
		to->piece_bytes = plan_keep(plan, twin_upload(m->upload)->lens,
					    m->piece_count * sizeof(uint32_t));
	} else {
		to->body = plan_keep(plan, m->body, m->bytes);
	}
	if (m->extra_len) {
		to->extra = plan_keep(plan, m->extra, m->extra_len);
		to->extra_len = m->extra_len;
	}
	to->origin = (struct record_origin){
		.address = m->address,
		.address_len = (uint16_t)strlen(m->address),
		.queue = m->queue,
		.queue_len = (uint16_t)strlen(m->queue),
		.reason = m->reason};
}

/* In a random place, sometimes before it must. */
static inline bool plan_is_full(const struct store_fetch *f, uint64_t bytes)
{
	return f->message_count &&
	       (f->message_count == f->count_max || bytes >= f->bytes_max ||
		f->message_count == 4096 ||
		sim_chance(twin.sim, SIM_ALWAYS / 100));
}

static inline void plan_make(struct store_fetch *f)
{
	struct plan *plan = f->plan;
	struct twin_name *q = twin_find(f->queue);
	uint64_t bytes = 0, ref = f->first;

	for (; q && ref < f->end; ref++) {
		const struct twin_message *m = twin_message(q, ref);
		uint64_t expiry_ms = m->props.expiry_ms;

		if (m->gone)
			continue;
		if (f->expired_ms &&
		    (!expiry_ms || expiry_ms > f->expired_ms)) {
			if (expiry_ms &&
			    (!f->expiry_ms || f->expiry_ms > expiry_ms))
				f->expiry_ms = expiry_ms;
			continue;
		}
		if (plan_is_full(f, bytes))
			break;
		plan_add(plan, f, ref, m);
		bytes += m->bytes;
	}
	twin.store.fetched += f->message_count;
	f->next = q ? ref : f->end;
	f->messages = plan->messages;
}

static inline void plan_drop(struct plan *plan)
{
	while (plan->part_count)
		free(plan->parts[--plan->part_count]);
	free(plan->messages);
	free(plan);
}

static inline void twin_answer(struct loop_mail *mail)
{
	struct store_fetch *f = container_of(mail, struct store_fetch, mail);
	struct plan *plan = f->plan;
	int err = 0;

	if (twin.store.answers_failing) {
		twin.store.answers_failing--;
		f->message_count = 0;
		err = -EIO;
	}
	f->done(f, err);
	plan_drop(plan);
}

static inline void twin_asked(struct loop_mail *mail)
{
	struct store_fetch *f = container_of(mail, struct store_fetch, mail);

	if (sim_chance(twin.sim, SIM_ALWAYS / 2)) {
		loop_post(twin.side, mail);
		return;
	}
	if (!f->plan) {
		f->plan = calloc(1, sizeof(*f->plan));
		assert_non_null(f->plan);
		f->plan->messages = calloc(4096, sizeof(*f->plan->messages));
		assert_non_null(f->plan->messages);
		plan_make(f);
		if (twin.store.fetches_held) {
			assert_true(twin.store.waiting_count < 64);
			twin.store.waiting[twin.store.waiting_count++] = f;
			return;
		}
		loop_post(twin.side, mail);
		return;
	}
	mail->deliver = twin_answer;
	loop_post(f->reader->loop, mail);
}

/* Answers are as old as the hold. */
static inline void twin_hold_fetches(bool hold)
{
	twin.store.fetches_held = hold;
	while (!hold && twin.store.waiting_count)
		loop_post(
			twin.side,
			&twin.store.waiting[--twin.store.waiting_count]->mail);
}

void store_fetch(struct store_reader *reader, struct store_fetch *f)
{
	assert_true(f->first < f->end && f->count_max && f->bytes_max);
	assert_int_equal(record_ref_priority(f->first),
			 record_ref_priority(f->end));
	f->reader = reader;
	f->plan = NULL;
	f->message_count = 0;
	f->expiry_ms = 0;
	f->mail.deliver = twin_asked;
	twin.store.fetches++;
	loop_post(twin.side, &f->mail);
}

static inline void twin_piece_answer(struct loop_mail *mail)
{
	struct store_piece *p = container_of(mail, struct store_piece, mail);

	p->done(p, twin.store.piece_damaged   ? -E_CORRUPT
		   : twin.store.piece_refused ? -EIO
					      : 0);
}

static inline void twin_piece_asked(struct loop_mail *mail)
{
	struct store_piece *p = container_of(mail, struct store_piece, mail);
	const struct twin_upload *u = twin_upload(p->upload);

	assert_true(p->index < u->count && p->len == u->lens[p->index]);
	memcpy(p->buf, u->data[p->index], p->len);
	mail->deliver = twin_piece_answer;
	loop_post(p->reader->loop, mail);
}

void store_read_piece(struct store_reader *reader, struct store_piece *p)
{
	p->reader = reader;
	p->mail.deliver = twin_piece_asked;
	loop_post(twin.side, &p->mail);
}

int store_reader_create(struct store *s, struct loop *loop,
			struct store_reader **ret)
{
	*ret = calloc(1, sizeof(**ret));
	assert_non_null(*ret);
	(*ret)->loop = loop;
	return 0;
}

void store_reader_free(struct store_reader *reader)
{
	free(reader);
}

bool store_is_behind(const struct store *s)
{
	return s->behind;
}

uint64_t store_next_id(const struct store *s)
{
	uint64_t next = 1;

	for (unsigned i = 0; i < twin.name_count; i++)
		next = base_max(next, twin.names[i].id + 1);
	for (unsigned i = 0; i < twin.upload_count; i++)
		next = base_max(next, twin.uploads[i].id + 1);
	return next + 1000; /* ids of what is gone */
}

int store_each_address(struct store *s,
		       int (*each)(void *ctx, const struct record_address *),
		       void *ctx)
{
	int ret = 0;

	for (unsigned i = 0; !ret && i < twin.name_count; i++) {
		const struct twin_name *n = &twin.names[i];

		if (n->id && !n->address)
			ret = each(ctx, &(struct record_address){
						.id = n->id,
						.name = n->name,
						.name_len = (uint16_t)strlen(
							n->name),
						.routing = n->routing,
						.flags = n->flags});
	}
	return ret;
}

static inline void twin_walk_lane(const struct twin_lane *from,
				  unsigned priority, struct store_lane *to)
{
	to->next = record_ref(priority, from->count + 1);
	to->first = to->next;
	for (uint64_t i = from->count; i-- > 0;) {
		const struct twin_message *m = &from->messages[i];

		if (m->gone)
			continue;
		to->first = record_ref(priority, i + 1);
		to->messages++;
		if (m->props.expiry_ms &&
		    (!to->expiry_ms || to->expiry_ms > m->props.expiry_ms))
			to->expiry_ms = m->props.expiry_ms;
	}
}

int store_each_queue(struct store *s,
		     int (*each)(void *ctx, const struct store_queue *),
		     void *ctx)
{
	int ret = 0;

	for (unsigned i = 0; !ret && i < twin.name_count; i++) {
		const struct twin_name *n = &twin.names[i];
		struct store_queue q = {
			.record = {.id = n->id,
				   .address = n->address,
				   .name = n->name,
				   .name_len = (uint16_t)strlen(n->name),
				   .routing = n->routing,
				   .flags = n->flags},
			.messages = n->live,
			.bytes = n->bytes,
		};

		if (!n->id || !n->address)
			continue;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			twin_walk_lane(&n->lanes[p], p, &q.lanes[p]);
		ret = each(ctx, &q);
	}
	return ret;
}

/* ---- a broker's life ---- */

static inline void twin_start(const struct core_options *options)
{
	struct core_options o = *options;

	twin.io = sim_node_create(twin.sim, "broker", 0);
	for (unsigned i = 0; i < TWIN_SHARDS; i++)
		assert_int_equal(loop_create(twin.io, "shard", &twin.loops[i]),
				 0);
	assert_int_equal(loop_create(twin.io, "side", &twin.side), 0);
	twin.log.tail = &twin.log.first;
	o.io = twin.io;
	o.log = &twin.log;
	o.store = &twin.store;
	o.loops = twin.loops;
	o.shard_count = TWIN_SHARDS;
	assert_int_equal(core_create(&o, &twin.core), 0);
	assert_int_equal(core_recover(twin.core), 0);
	for (unsigned i = 0; i < TWIN_SHARDS; i++)
		assert_int_equal(loop_start(twin.loops[i], NULL, NULL), 0);
	assert_int_equal(loop_start(twin.side, NULL, NULL), 0);
}

static inline bool twin_is_settled(void *ctx)
{
	return core_pending(twin.core) == 0;
}

/* A few rounds: what is done may begin the next thing. */
static inline void twin_settle(void)
{
	for (int i = 0; i < 20; i++) {
		sim_run_for(twin.sim, 1000000);
		if (twin.store.fetches_held || twin.log.held)
			continue;
		assert_int_equal(sim_run_until(twin.sim, twin_is_settled, NULL,
					       10000000),
				 0);
	}
}

static inline void twin_stop(void)
{
	twin_settle();
	for (unsigned i = 0; i < TWIN_SHARDS; i++)
		loop_stop(twin.loops[i]);
	loop_stop(twin.side);
	for (unsigned i = 0; i < TWIN_SHARDS; i++)
		loop_join(twin.loops[i]);
	loop_join(twin.side);
	core_free(twin.core);
	for (unsigned i = 0; i < TWIN_SHARDS; i++)
		loop_free(twin.loops[i]);
	loop_free(twin.side);
	io_free(twin.io);
	/* Temporary queues do not survive. */
	for (unsigned i = 0; i < twin.name_count; i++)
		if (twin.names[i].flags & RECORD_QUEUE_TEMPORARY)
			twin.names[i].id = 0;
}

static inline void twin_begin(uint64_t seed)
{
	struct sim_config config = sim_config_calm(seed);

	logger_configure(LOGGER_ERROR, LOGGER_TEXT);
	memset(&twin, 0, sizeof(twin));
	twin.sim = sim_create(&config);
}

static inline void twin_end(void)
{
	for (unsigned i = 0; i < twin.name_count; i++)
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
			struct twin_lane *lane = &twin.names[i].lanes[p];

			for (uint64_t k = 0; k < lane->count; k++) {
				free(lane->messages[k].body);
				free(lane->messages[k].extra);
			}
			free(lane->messages);
		}
	for (unsigned i = 0; i < twin.upload_count; i++)
		for (uint32_t k = 0; k < twin.uploads[i].count; k++)
			free(twin.uploads[i].data[k]);
	sim_free(twin.sim);
}

#endif
