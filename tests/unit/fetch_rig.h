/* tests/unit/fetch_rig.h: messages of one lane wherever they may lie, and a
 * model of what must come back when they are fetched.
 *
 * A real log, a real state and real extent files; of the store itself only
 * what fetching asks of it, below: the state as of now, and an ear for damage.
 * A model knows of every message what it is. */
#ifndef TESTS_UNIT_FETCH_RIG_H
#define TESTS_UNIT_FETCH_RIG_H

#include "tests/unit/extent_items.h"

#include "journal/store/internal.h"

#define QUEUE 7u
#define REFS_MAX 4000u
#define NUMBER_LEN_MAX 200000u

struct known { /* a message by its number; index 0 is none */
	bool there;
	struct item item;
	uint32_t deliveries;
	uint64_t upload;
	uint32_t piece_count;
	uint32_t *piece_bytes;
	uint8_t extra[32];
	uint32_t extra_len;
};

struct rig {
	struct sim *sim;
	struct sim_disk *disk;
	struct harness h;
	struct store store;
	struct loop *store_loop;
	struct store_reader *reader;
	uint64_t lsn;
	struct known *known;
	uint32_t next; /* number */
	uint32_t files;
	uint64_t uploads;
	/* What store_now() does on its way. */
	unsigned asked;
	void (*on_ask)(struct rig *);
	struct store_damage damage[64];
	size_t damage_count;
	/* The request that runs. */
	struct store_fetch fetch;
	struct store_piece piece;
	bool done;
	int err;
	/* Errors by number, as fetched. */
	int *errs;
	bool may_fail; /* messages may have errors */
};

static struct rig *rig;

/* ---- the store, as far as fetching sees it ---- */

struct state *store_now(struct store *s)
{
	assert_ptr_equal(s, &rig->store);
	rig->asked++;
	if (rig->on_ask)
		rig->on_ask(rig);
	return s->failed ? NULL : &s->state;
}

void store_damage_found(struct store *s, const struct store_damage *d)
{
	if (rig->damage_count < ARRAY_COUNT(rig->damage))
		rig->damage[rig->damage_count++] = *d;
}

/* ---- records ---- */

static inline void apply(struct rig *r, uint8_t type, const void *meta,
			 size_t len, const struct log_loc *loc)
{
	struct log_record rec = {.lsn = ++r->lsn,
				 .type = type,
				 .meta = meta,
				 .meta_len = (uint32_t)len};

	if (loc)
		rec.loc = *loc;
	if (state_apply(&r->store.state, &rec))
		fail_msg("%s", r->store.state.why);
}

static inline struct log_loc journal(struct rig *r, const void *body,
				     uint32_t len)
{
	struct harness_append *a = harness_append_new(&r->h, 1, len);
	struct log_loc loc;

	memcpy(a->body, body, len);
	harness_send(&r->h, a);
	harness_wait(&r->h);
	assert_int_equal(a->append.err, 0);
	loc = a->append.loc;
	free(a);
	return loc;
}

static inline void piece_bytes(uint64_t upload, uint32_t index, uint8_t *data,
			       uint32_t len)
{
	harness_pattern(data, len, (uint32_t)(upload * 100 + index));
	if (index % 2)
		memset(data, 'p', len);
}

static inline void enqueue_upload(struct rig *r, struct known *k)
{
	uint8_t meta[RECORD_PIECE_ROOM], *data = malloc(NUMBER_LEN_MAX);

	k->upload = 1000 + ++r->uploads;
	k->piece_count = 1 + (uint32_t)r->uploads % 3;
	k->piece_bytes = calloc(k->piece_count, sizeof(uint32_t));
	for (uint32_t i = 0; i < k->piece_count; i++) {
		struct record_piece piece = {k->upload, i};
		uint32_t len = 10 + (uint32_t)(k->upload * 7919 + i) % 150000;
		struct log_loc loc;

		piece_bytes(k->upload, i, data, len);
		loc = journal(r, data, len);
		apply(r, RECORD_PIECE, meta, record_piece_encode(&piece, meta),
		      &loc);
		k->piece_bytes[i] = len;
	}
	free(data);
}

/* The next message of the lane; with an upload when len is UINT32_MAX. */
static inline void enqueue(struct rig *r, uint32_t len)
{
	struct known *k = &r->known[r->next];
	bool upload = len == UINT32_MAX;
	uint64_t queue = QUEUE;
	struct record_enqueue e = {.target_count = 1, .targets = &queue};
	uint8_t meta[256];
	struct log_loc loc = {0};

	assert_true(r->next < REFS_MAX);
	k->item = item_make(QUEUE, record_ref(4, r->next), upload ? 0 : len);
	/* These come by COUNT and MOVE alone. */
	k->item.m.deliveries = 0;
	k->item.m.extra_len = 0;
	memset(&k->item.m.origin, 0, sizeof(k->item.m.origin));
	e.props = k->item.m.props;
	if (upload) {
		enqueue_upload(r, k);
		e.upload = k->upload;
		e.piece_count = k->piece_count;
		for (uint32_t i = 0; i < k->piece_count; i++)
			e.bytes += k->piece_bytes[i];
	} else {
		e.bytes = len;
		loc = journal(r, k->item.body, len);
		/* In an extent it lies as it did in the journal. */
		if (loc.stored_len == loc.body_len) {
			k->item.m.stored_len = len;
			free((void *)(uintptr_t)k->item.m.stored);
			k->item.m.stored = malloc(len + 1);
			memcpy((void *)(uintptr_t)k->item.m.stored,
			       k->item.body, len);
		}
	}
	apply(r, RECORD_ENQUEUE, meta, record_enqueue_encode(&e, meta), &loc);
	k->there = true;
	r->next++;
}

static inline void ack(struct rig *r, uint64_t first, uint64_t last)
{
	struct record_range range = {record_ref(4, first), record_ref(4, last)};
	struct record_ack a = {
		.queue = QUEUE, .range_count = 1, .ranges = &range};
	uint8_t meta[64];

	for (uint64_t n = first; n <= last && n < r->next; n++) {
		if (r->known[n].there)
			a.bytes += r->known[n].item.m.body_len;
		r->known[n].there = false;
	}
	apply(r, RECORD_ACK, meta, record_ack_encode(&a, meta), NULL);
}

static inline void count(struct rig *r, uint64_t number, uint32_t deliveries,
			 uint32_t extra_len)
{
	struct known *k = &r->known[number];
	struct record_count c = {.queue = QUEUE,
				 .ref = record_ref(4, number),
				 .deliveries = deliveries,
				 .extra_len = extra_len,
				 .extra = k->extra};
	uint8_t meta[256];

	if (extra_len) {
		harness_pattern(k->extra, extra_len, deliveries);
		k->extra_len = extra_len;
	}
	k->deliveries = deliveries;
	apply(r, RECORD_COUNT, meta, record_count_encode(&c, meta), NULL);
}

/* What is in [first, last] goes to an extent file of its own. */
static inline struct record_extents make_extent(struct rig *r, uint64_t first,
						uint64_t last, bool pieces)
{
	uint64_t key = store_file_key(1, ++r->files);
	struct record_extents record;
	struct extent_writer *w;
	uint8_t *data = malloc(NUMBER_LEN_MAX);

	assert_int_equal(extent_writer_create(&r->store.place.identity,
					      r->store.dir, key, &w),
			 0);
	for (uint64_t n = first; n <= last && n < r->next; n++) {
		struct known *k = &r->known[n];
		struct extent_message m = k->item.m;

		if (!k->there || k->upload)
			continue;
		m.deliveries = k->deliveries;
		m.extra = k->extra;
		m.extra_len = k->extra_len;
		assert_int_equal(extent_add(w, QUEUE, &m), 0);
	}
	for (uint64_t n = first; pieces && n <= last && n < r->next; n++) {
		struct known *k = &r->known[n];

		for (uint32_t i = 0; k->there && i < k->piece_count; i++) {
			uint32_t len = k->piece_bytes[i];

			piece_bytes(k->upload, i, data, len);
			assert_int_equal(extent_add_piece(w, k->upload, i, data,
							  len, len),
					 0);
		}
	}
	free(data);
	assert_int_equal(extent_finish(w, &record), 0);
	return record;
}

static inline void apply_extent(struct rig *r, struct record_extents *record)
{
	uint8_t *meta = malloc(record_extents_room(record));

	apply(r, RECORD_EXTENTS, meta, record_extents_encode(record, meta),
	      NULL);
	free(meta);
	extent_free_record(record);
}

static inline void move(struct rig *r, uint64_t first, uint64_t last)
{
	struct record_extents record = make_extent(r, first, last, false);

	apply_extent(r, &record);
}

/* ---- life ---- */

static inline void rig_names(struct rig *r)
{
	struct record_address a = {
		.id = 1, .name = "a", .name_len = 1, .routing = RECORD_ANYCAST};
	struct record_queue q = {.id = QUEUE,
				 .address = 1,
				 .name = "q",
				 .name_len = 1,
				 .routing = RECORD_ANYCAST};
	uint8_t meta[RECORD_QUEUE_ROOM];

	apply(r, RECORD_ADDRESS, meta, record_address_encode(&a, meta), NULL);
	apply(r, RECORD_QUEUE, meta, record_queue_encode(&q, meta), NULL);
}

/* r->h.options may have been changed. */
static inline void rig_open(struct rig *r)
{
	struct io *io = r->h.io;
	char path[512];

	r->h.options.compress_level = 1;
	assert_int_equal(harness_open(&r->h), 0);
	snprintf(path, sizeof(path), "%s/extents", r->h.dir);
	assert_int_equal(io_mkdir(io, path), 0);
	assert_int_equal(loop_create(io, "store", &r->store_loop), 0);
	assert_int_equal(loop_start(r->store_loop, NULL, NULL), 0);
	r->store.dir = strdup(r->h.dir);
	r->store.log = r->h.log;
	r->store.loop = r->store_loop;
	r->store.place.dir = r->store.dir;
	r->store.place.identity =
		(struct blob_identity){.io = io,
				       .master = r->h.key,
				       .cluster_id = log_cluster_id(r->h.log)};
	state_init(&r->store.state);
	r->known = calloc(REFS_MAX, sizeof(*r->known));
	r->errs = calloc(REFS_MAX, sizeof(*r->errs));
	r->next = 1;
	rig_names(r);
	assert_int_equal(store_reader_create(&r->store, r->h.main, &r->reader),
			 0);
}

static inline struct rig *rig_create(uint64_t seed)
{
	struct sim_config config = sim_config_calm(seed);
	struct rig *r = calloc(1, sizeof(*r));

	rig = r;
	r->sim = sim_create(&config);
	r->disk = sim_disk(r->sim, 0);
	harness_init(&r->h, sim_node_create(r->sim, "broker", 0), "data");
	rig_open(r);
	return r;
}

static inline void rig_free(struct rig *r)
{
	struct io *io = r->h.io;

	store_reader_free(r->reader);
	loop_stop(r->store_loop);
	loop_join(r->store_loop);
	loop_free(r->store_loop);
	harness_close(&r->h, true);
	harness_fini(&r->h);
	state_check(&r->store.state);
	state_fini(&r->store.state);
	for (uint32_t i = 1; i < r->next; i++) {
		item_free(&r->known[i].item);
		free(r->known[i].piece_bytes);
	}
	free(r->known);
	free(r->errs);
	free(r->store.dir);
	if (r->sim) {
		assert_int_equal(sim_open_files(sim_node(io)), 0);
		io_free(io);
	}
	sim_free(r->sim);
	free(r);
	rig = NULL;
}

/* ---- fetching ---- */

static inline void check_message(struct rig *r, const struct store_message *m)
{
	uint64_t number = record_ref_number(m->ref);
	struct known *k = &r->known[number];

	assert_int_equal(record_ref_priority(m->ref), 4);
	assert_true(number && number < r->next && k->there);
	r->errs[number] = m->err;
	if (m->err) {
		assert_true(r->may_fail);
		assert_null(m->body);
		return;
	}
	assert_int_equal(m->props.expiry_ms, k->item.m.props.expiry_ms);
	assert_int_equal(m->props.arrived_ms, k->item.m.props.arrived_ms);
	assert_int_equal(m->props.priority, 4);
	assert_int_equal(m->props.durable, k->item.m.props.durable);
	assert_int_equal(m->deliveries, k->deliveries);
	assert_int_equal(m->extra_len, k->extra_len);
	if (k->extra_len)
		assert_memory_equal(m->extra, k->extra, k->extra_len);
	assert_int_equal(m->origin.reason, 0);
	assert_int_equal(m->upload, k->upload);
	assert_int_equal(m->piece_count, k->piece_count);
	if (k->upload) {
		assert_null(m->body);
		assert_memory_equal(m->piece_bytes, k->piece_bytes,
				    k->piece_count * sizeof(uint32_t));
		return;
	}
	assert_int_equal(m->bytes, k->item.m.body_len);
	assert_non_null(m->body);
	assert_memory_equal(m->body, k->item.body, k->item.m.body_len);
}

static inline bool is_wanted(const struct rig *r, uint64_t number)
{
	const struct known *k = &r->known[number];
	uint64_t expiry = k->item.m.props.expiry_ms;

	if (!k->there)
		return false;
	return !r->fetch.expired_ms ||
	       (expiry && expiry <= r->fetch.expired_ms);
}

static inline void fetched(struct store_fetch *f, int err)
{
	struct rig *r = container_of(f, struct rig, fetch);
	uint64_t number = record_ref_number(f->first), bytes = 0;

	assert_false(r->done);
	r->done = true;
	r->err = err;
	loop_stop(r->h.main);
	if (err)
		return;
	assert_true(f->message_count <= f->count_max);
	assert_true(f->next > f->first && f->next <= f->end);
	for (uint32_t i = 0; i < f->message_count; i++) {
		const struct store_message *m = &f->messages[i];

		/* Nothing is left out, and nothing comes too early. */
		while (!is_wanted(r, number) &&
		       number < record_ref_number(m->ref))
			number++;
		assert_int_equal(record_ref_number(m->ref), number);
		assert_true(is_wanted(r, number));
		assert_true(!i || bytes < f->bytes_max);
		check_message(r, m);
		bytes += m->body ? m->bytes : 0;
		number++;
	}
	for (; number < record_ref_number(f->next); number++)
		assert_false(is_wanted(r, number) && !r->may_fail);
	if (!f->expired_ms)
		assert_true(f->message_count || f->next == f->end);
}

static inline int fetch(struct rig *r, uint64_t first, uint64_t end,
			uint32_t count_max, uint32_t bytes_max,
			uint64_t expired_ms)
{
	r->fetch = (struct store_fetch){
		.queue = QUEUE,
		.first = record_ref(4, first),
		.end = record_ref(4, end),
		.count_max = count_max,
		.bytes_max = bytes_max,
		.expired_ms = expired_ms,
		.done = fetched,
	};
	r->done = false;
	store_fetch(r->reader, &r->fetch);
	assert_false(r->done);
	while (!r->done)
		loop_run(r->h.main);
	return r->err;
}

/* Everything in [first, end), in as many fetches as it takes; returns how
 * many there were. */
static inline unsigned fetch_all(struct rig *r, uint64_t first, uint64_t end,
				 uint32_t count_max, uint32_t bytes_max,
				 uint64_t expired_ms)
{
	unsigned fetches = 0;

	memset(r->errs, 0, REFS_MAX * sizeof(*r->errs));
	while (first < end) {
		assert_int_equal(
			fetch(r, first, end, count_max, bytes_max, expired_ms),
			0);
		first = record_ref_number(r->fetch.next);
		fetches++;
	}
	return fetches;
}

/* ---- pieces ---- */

static inline void piece_read(struct store_piece *p, int err)
{
	struct rig *r = container_of(p, struct rig, piece);

	r->done = true;
	r->err = err;
	loop_stop(r->h.main);
}

static inline int read_piece(struct rig *r, uint64_t upload, uint32_t index,
			     uint32_t len)
{
	uint8_t *buf = malloc(len + 1), *want = malloc(len + 1);

	buf[len] = 0xaa;
	r->piece = (struct store_piece){.upload = upload,
					.index = index,
					.buf = buf,
					.len = len,
					.done = piece_read};
	r->done = false;
	store_read_piece(r->reader, &r->piece);
	while (!r->done)
		loop_run(r->h.main);
	piece_bytes(upload, index, want, len);
	if (!r->err)
		assert_memory_equal(buf, want, len);
	assert_int_equal(buf[len], 0xaa);
	free(buf);
	free(want);
	return r->err;
}

static inline void read_pieces(struct rig *r)
{
	for (uint32_t n = 1; n < r->next; n++) {
		const struct known *k = &r->known[n];

		for (uint32_t i = 0; k->there && i < k->piece_count; i++)
			assert_int_equal(
				read_piece(r, k->upload, i, k->piece_bytes[i]),
				0);
	}
}

/* ---- a lane of everything ---- */

static inline uint32_t some_len(struct rig *r)
{
	static const uint32_t lens[] = {0, 1, 40, 300, 300, 1000, 5000, 70000};

	return lens[sim_below(r->sim, ARRAY_COUNT(lens))] +
	       (uint32_t)sim_below(r->sim, 50);
}

/* About [first, last], but whole runs, and none of them into several. */
static inline void move_some(struct rig *r, uint64_t first, uint64_t last,
			     bool pieces)
{
	struct state_queue *q = idmap_get(&r->store.state.queues, QUEUE);
	struct state_lane *lane = q->lanes[4];
	struct record_extents record;
	bool again = false;

	last = base_min(last, r->next - 1);
	for (size_t i = lane ? lane->run_head : 0; lane && i < lane->run_end;
	     i++) {
		uint64_t from = record_ref_number(lane->runs[i]->first);
		uint64_t to = from + lane->runs[i]->span - 1;

		if (to < first || from > last)
			continue;
		first = base_min(first, from);
		last = base_max(last, to);
		again = true;
	}
	record = make_extent(r, first, last, pieces);
	if (again && record.run_count > 1)
		extent_free_record(&record);
	else
		apply_extent(r, &record);
}

static inline void churn(struct rig *r, unsigned steps)
{
	for (unsigned i = 0; i < steps; i++) {
		uint64_t first = 1 + sim_below(r->sim, r->next);
		uint64_t some = 1 + sim_below(r->sim, 40);

		switch (sim_below(r->sim, 8)) {
		case 0:
		case 1:
		case 2:
			for (uint64_t n = 0; n < some / 2; n++)
				enqueue(r, sim_below(r->sim, 12) ? some_len(r)
								 : UINT32_MAX);
			break;
		case 3:
			ack(r, first, first + some / 6);
			break;
		case 4:
		case 5:
			if (first < r->next && r->known[first].there)
				count(r, first, (uint32_t)some,
				      some % 3 ? 0 : (uint32_t)some % 32);
			break;
		default:
			move_some(r, first, first + 4 * some, some % 2);
		}
		state_check(&r->store.state);
	}
}

#endif
