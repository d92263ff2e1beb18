/* tests/unit/test_fetch.c: messages read back, wherever they lie.
 *
 * A real log, a real state and real extent files; of the store itself only
 * what fetching asks of it, below: the state as of now, and an ear for damage.
 * A model knows of every message what must come back. */
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

static void apply(struct rig *r, uint8_t type, const void *meta, size_t len,
		  const struct log_loc *loc)
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

static struct log_loc journal(struct rig *r, const void *body, uint32_t len)
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

static void piece_bytes(uint64_t upload, uint32_t index, uint8_t *data,
			uint32_t len)
{
	harness_pattern(data, len, (uint32_t)(upload * 100 + index));
	if (index % 2)
		memset(data, 'p', len);
}

static void enqueue_upload(struct rig *r, struct known *k)
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
static void enqueue(struct rig *r, uint32_t len)
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

static void ack(struct rig *r, uint64_t first, uint64_t last)
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

static void count(struct rig *r, uint64_t number, uint32_t deliveries,
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
static struct record_extents make_extent(struct rig *r, uint64_t first,
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

static void apply_extent(struct rig *r, struct record_extents *record)
{
	uint8_t *meta = malloc(record_extents_room(record));

	apply(r, RECORD_EXTENTS, meta, record_extents_encode(record, meta),
	      NULL);
	free(meta);
	extent_free_record(record);
}

static void move(struct rig *r, uint64_t first, uint64_t last)
{
	struct record_extents record = make_extent(r, first, last, false);

	apply_extent(r, &record);
}

/* ---- life ---- */

static void rig_names(struct rig *r)
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
static void rig_open(struct rig *r)
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

static struct rig *rig_create(uint64_t seed)
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

static void rig_free(struct rig *r)
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

static void check_message(struct rig *r, const struct store_message *m)
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

static bool is_wanted(const struct rig *r, uint64_t number)
{
	const struct known *k = &r->known[number];
	uint64_t expiry = k->item.m.props.expiry_ms;

	if (!k->there)
		return false;
	return !r->fetch.expired_ms ||
	       (expiry && expiry <= r->fetch.expired_ms);
}

static void fetched(struct store_fetch *f, int err)
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

static int fetch(struct rig *r, uint64_t first, uint64_t end,
		 uint32_t count_max, uint32_t bytes_max, uint64_t expired_ms)
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
static unsigned fetch_all(struct rig *r, uint64_t first, uint64_t end,
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

static void piece_read(struct store_piece *p, int err)
{
	struct rig *r = container_of(p, struct rig, piece);

	r->done = true;
	r->err = err;
	loop_stop(r->h.main);
}

static int read_piece(struct rig *r, uint64_t upload, uint32_t index,
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

static void read_pieces(struct rig *r)
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

static uint32_t some_len(struct rig *r)
{
	static const uint32_t lens[] = {0, 1, 40, 300, 300, 1000, 5000, 70000};

	return lens[sim_below(r->sim, ARRAY_COUNT(lens))] +
	       (uint32_t)sim_below(r->sim, 50);
}

/* About [first, last], but whole runs, and none of them into several. */
static void move_some(struct rig *r, uint64_t first, uint64_t last, bool pieces)
{
	struct state_queue *q = idmap_get(&r->store.state.queues, QUEUE);
	struct state_lane *lane = q->lanes[4];
	struct record_extents record;
	bool again = false;

	last = base_min(last, r->next - 1);
	for (size_t i = 0; lane && i < lane->run_end; i++) {
		struct state_run *run =
			i < lane->run_head ? NULL : lane->runs[i];
		uint64_t from, to;

		if (!run)
			continue;
		from = record_ref_number(run->first);
		to = from + run->span - 1;
		if (to < first || from > last)
			continue;
		if (!r->known[from].there || !r->known[to].there)
			return;
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

static void churn(struct rig *r, unsigned steps)
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

TEST("every window of any lane is fetched as it is, with every limit")
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct rig *r = rig_create(seed);

		churn(r, 60);
		fetch_all(r, 1, r->next, UINT32_MAX, UINT32_MAX, 0);
		fetch_all(r, 1, r->next, 1, 1, 0);
		fetch_all(r, 1, r->next, 7, UINT32_MAX, 0);
		fetch_all(r, 1, r->next, UINT32_MAX, 20000, 0);
		for (int i = 0; i < 60; i++) {
			uint64_t first = 1 + sim_below(r->sim, r->next);
			uint64_t end = first + 1 + sim_below(r->sim, 100);

			fetch_all(r, first, base_min(end, r->next),
				  1 + (uint32_t)sim_below(r->sim, 30),
				  (uint32_t)sim_below(r->sim, 100000), 0);
		}
		read_pieces(r);
		assert_int_equal(r->damage_count, 0);
		rig_free(r);
	}
}

TEST("what has expired until a time is fetched, and when the next one will")
{
	for (uint64_t seed = 20; seed <= 26; seed++) {
		struct rig *r = rig_create(seed);

		churn(r, 60);
		for (uint64_t now = 900; now < 2100; now += 100) {
			uint64_t least = 0, told = 0;

			for (uint32_t n = 1; n < r->next; n++) {
				uint64_t at =
					r->known[n].item.m.props.expiry_ms;

				if (r->known[n].there && at > now &&
				    (!least || at < least))
					least = at;
			}
			for (uint64_t first = 1; first < r->next;) {
				assert_int_equal(fetch(r, first, r->next, 20,
						       100000, now),
						 0);
				first = record_ref_number(r->fetch.next);
				if (r->fetch.expiry_ms &&
				    (!told || r->fetch.expiry_ms < told))
					told = r->fetch.expiry_ms;
			}
			/* A run may remember one that has left. */
			assert_true(told <= least || !least);
			assert_true(!least || told > now);
		}
		rig_free(r);
	}
}

TEST("a queue, a lane, an upload that is not there: nothing, and an end")
{
	struct rig *r = rig_create(1);

	enqueue(r, 10);
	r->fetch = (struct store_fetch){
		.queue = QUEUE + 1,
		.first = record_ref(4, 1),
		.end = record_ref(4, 2),
		.count_max = 10,
		.bytes_max = 10,
		.done = fetched,
	};
	r->known[1].there = false;
	r->done = false;
	store_fetch(r->reader, &r->fetch);
	while (!r->done)
		loop_run(r->h.main);
	assert_int_equal(r->err, 0);
	assert_int_equal(r->fetch.message_count, 0);
	assert_int_equal(r->fetch.next, record_ref(4, 2));
	assert_int_equal(read_piece(r, 99, 0, 10), -ENOENT);
	r->store.failed = true;
	assert_int_equal(fetch(r, 1, 2, 1, 1, 0), -E_LATCHED);
	assert_int_equal(read_piece(r, 99, 0, 10), -E_LATCHED);
	rig_free(r);
}

BOTH("messages and pieces come back on threads and a disk")
{
	struct rig *r = calloc(1, sizeof(*r));
	struct record_extents record;

	rig = r;
	harness_init(&r->h, io, test_directory());
	rig_open(r);
	for (uint32_t i = 1; i < 600; i++)
		enqueue(r, i % 50 ? i * 37 % 2000 : UINT32_MAX);
	fetch_all(r, 1, r->next, 100, 100000, 0);
	record = make_extent(r, 1, 400, true);
	apply_extent(r, &record);
	for (uint32_t i = 1; i < 600; i += 7)
		count(r, i, i, i % 3 ? 0 : 20);
	ack(r, 100, 130);
	fetch_all(r, 1, r->next, 1000, 10000000, 0);
	fetch_all(r, 1, r->next, 13, 10000, 0);
	read_pieces(r);
	assert_int_equal(r->damage_count, 0);
	rig_free(r);
}

/* ---- reading little ---- */

TEST("one message of a run is read without the others")
{
	struct rig *r = rig_create(3);
	uint64_t before;

	for (int i = 0; i < 900; i++)
		enqueue(r, 1000);
	move(r, 1, 900);
	assert_int_equal(r->store.state.run_count, 1);
	for (uint64_t n = 1; n <= 900; n += 89) {
		before = r->store.stats.fetch_read_bytes;
		assert_int_equal(fetch(r, n, 901, 1, 1000, 0), 0);
		assert_int_equal(r->fetch.message_count, 1);
		assert_true(r->store.stats.fetch_read_bytes - before <
			    5 * BLOB_CHUNK_BYTES);
	}
	/* And a whole run by one read, once. */
	before = r->store.stats.fetch_read_bytes;
	assert_int_equal(fetch_all(r, 1, 901, 1000, 4000000, 0), 1);
	assert_true(r->store.stats.fetch_read_bytes - before <
		    EXTENT_RUN_BYTES + 2 * BLOB_CHUNK_BYTES);
	rig_free(r);
}

TEST("many that are asked for at once all end")
{
	enum { MANY = 60 };
	struct rig *r = rig_create(4);
	struct many {
		struct rig r; /* for its fetch alone */
	} *many = calloc(MANY, sizeof(*many));
	unsigned done = 0;

	churn(r, 80);
	for (unsigned i = 0; i < MANY; i++) {
		many[i].r.h.main = r->h.main;
		many[i].r.known = r->known;
		many[i].r.errs = r->errs;
		many[i].r.next = r->next;
		many[i].r.fetch = (struct store_fetch){
			.queue = QUEUE,
			.first = record_ref(4, 1 + i * (r->next - 1) / MANY),
			.end = record_ref(4, r->next),
			.count_max = 50,
			.bytes_max = 200000,
			.done = fetched,
		};
		store_fetch(r->reader, &many[i].r.fetch);
	}
	while (done < MANY) {
		loop_run(r->h.main);
		done = 0;
		for (unsigned i = 0; i < MANY; i++)
			done += many[i].r.done;
	}
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(many[i].r.err, 0);
	free(many);
	rig_free(r);
}

struct nap {
	struct loop_timer timer;
	struct rig *rig;
	bool over;
};

static void nap_over(struct loop_timer *timer)
{
	struct nap *nap = container_of(timer, struct nap, timer);

	nap->over = true;
	loop_stop(nap->rig->h.main);
}

static void nap(struct rig *r)
{
	struct nap nap = {.timer.fire = nap_over, .rig = r};

	loop_timer_set(r->h.main, &nap.timer, 20000000000ull);
	while (!nap.over)
		loop_run(r->h.main);
}

TEST("files that are not read any more are closed")
{
	struct rig *r = rig_create(5);
	unsigned before;

	enqueue(r, 100);
	move(r, 1, 1);
	nap(r); /* the log has settled */
	before = sim_open_files(sim_node(r->h.io));
	fetch_all(r, 1, 2, 10, 1000, 0);
	assert_int_equal(sim_open_files(sim_node(r->h.io)), before + 1);
	nap(r);
	assert_int_equal(sim_open_files(sim_node(r->h.io)), before);
	fetch_all(r, 1, 2, 10, 1000, 0);
	rig_free(r);
}

/* ---- files that go ---- */

static void path_of(uint32_t file, char *ret, size_t room)
{
	assert_int_equal(
		extent_path("data", store_file_key(1, file), ret, room), 0);
}

static void move_on_second_ask(struct rig *r)
{
	if (r->asked == 2)
		move(r, 1, r->next - 1);
}

TEST("what has moved between plan and read is read where it is now")
{
	struct rig *r = rig_create(6);
	char path[256];

	for (int i = 0; i < 200; i++)
		enqueue(r, 500);
	move(r, 1, 200);
	path_of(1, path, sizeof(path));
	assert_int_equal(io_unlink(r->h.io, path), 0);
	r->asked = 0;
	r->on_ask = move_on_second_ask;
	assert_int_equal(fetch(r, 1, 201, 1000, 1000000, 0), 0);
	assert_int_equal(r->fetch.message_count, 200);
	assert_int_equal(r->asked, 2);
	assert_int_equal(r->damage_count, 0);
	r->on_ask = NULL;
	rig_free(r);
}

TEST("a file that is named and not there is lost, after some tries")
{
	struct rig *r = rig_create(7);
	char path[256];

	for (int i = 0; i < 20; i++)
		enqueue(r, 500);
	enqueue(r, UINT32_MAX);
	for (int i = 0; i < 20; i++)
		enqueue(r, 500);
	{
		struct record_extents record = make_extent(r, 1, 30, true);

		apply_extent(r, &record);
	}
	path_of(1, path, sizeof(path));
	assert_int_equal(io_unlink(r->h.io, path), 0);
	r->asked = 0;
	r->may_fail = true;
	fetch_all(r, 1, r->next, 1000, 1000000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n <= 30 && n != 21 ? -E_LOST : 0);
	assert_true(r->asked >= 8 && r->asked < 20);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].queue, QUEUE);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 1));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 30));
	assert_string_equal(r->damage[0].file, "extents/00000001-00000001.ext");
	assert_int_equal(read_piece(r, r->known[21].upload, 0,
				    r->known[21].piece_bytes[0]),
			 -E_CORRUPT);
	assert_int_equal(r->damage_count, 2);
	rig_free(r);
}

/* ---- damage ---- */

/* Which messages of the only run have no byte in the chunk. */
struct touching {
	struct rig *r;
	uint64_t from, to; /* of the stream, past the run's offset */
	bool *touched;	   /* by number */
};

static int note_touched(void *ctx, uint32_t at, uint32_t offset, uint32_t bytes)
{
	struct touching *t = ctx;

	t->touched[1 + at] =
		offset < t->to && (uint64_t)offset + bytes > t->from;
	return 0;
}

static void find_touched(struct rig *r, const char *path, uint64_t from,
			 uint64_t to, bool *touched)
{
	struct touching t = {r, from, to, touched};
	uint8_t *data = malloc(EXTENT_RUN_BYTES);
	struct extent_head head;
	struct blob_reader *b;

	assert_int_equal(blob_open(&r->store.place.identity, path, EXTENT_KIND,
				   NULL, &b),
			 0);
	assert_int_equal(blob_read(b, data, EXTENT_HEAD_BYTES), 0);
	assert_int_equal(extent_read_head(data, EXTENT_HEAD_BYTES, &head), 0);
	assert_int_equal(blob_read(b, data, head.index_bytes), 0);
	assert_int_equal(extent_read_index(&head, data, note_touched, &t), 0);
	if (from < EXTENT_HEAD_BYTES + head.index_bytes)
		for (uint32_t n = 1; n < r->next; n++)
			touched[n] = true;
	blob_close(b);
	free(data);
}

TEST("damage at any place of an extent file: an error for each message that "
     "it touches, for no other, and no wrong byte")
{
	struct rig *r = rig_create(8);
	bool *touched = calloc(REFS_MAX, 1);
	char path[256];
	uint64_t size;
	struct io_file *file;

	for (int i = 0; i < 400; i++)
		enqueue(r, (uint32_t)(i * 37 % 1500));
	ack(r, 20, 29);
	move(r, 1, 400);
	ack(r, 50, 55);
	assert_int_equal(r->store.state.run_count, 1);
	path_of(1, path, sizeof(path));
	assert_int_equal(io_open(r->h.io, path, IO_READ, &file), 0);
	assert_int_equal(io_size(file, &size), 0);
	io_close(file);
	assert_true(size > 3 * BLOB_CHUNK_STRIDE);
	r->may_fail = true;
	for (uint64_t at = 0; at < size; at += 911) {
		uint64_t chunk =
			at < BLOB_HEADER_BYTES
				? 0
				: (at - BLOB_HEADER_BYTES) / BLOB_CHUNK_STRIDE;
		uint32_t count_max = at % 3 ? 1000 : 9, wrong = 0;

		find_touched(r, path, chunk * BLOB_CHUNK_BYTES,
			     (chunk + 1) * BLOB_CHUNK_BYTES, touched);
		assert_int_equal(sim_disk_flip(r->disk, path, at, at % 8), 0);
		store_reader_free(r->reader);
		assert_int_equal(
			store_reader_create(&r->store, r->h.main, &r->reader),
			0);
		r->damage_count = 0;
		fetch_all(r, 1, r->next, count_max, 4000000, 0);
		for (uint32_t n = 1; n < r->next; n++) {
			bool bad = touched[n] || at < BLOB_HEADER_BYTES;

			if (!r->known[n].there)
				continue;
			wrong += bad;
			assert_int_equal(r->errs[n], bad ? -E_CORRUPT : 0);
		}
		assert_int_equal(wrong > 0, r->damage_count > 0);
		for (size_t i = 0; i < r->damage_count; i++) {
			assert_int_equal(r->damage[i].err, -E_CORRUPT);
			assert_true(at >= r->damage[i].offset &&
				    at < r->damage[i].offset +
						    r->damage[i].bytes);
		}
		assert_int_equal(sim_disk_flip(r->disk, path, at, at % 8), 0);
	}
	free(touched);
	rig_free(r);
}

TEST("a body that is damaged in the journal is told with its place")
{
	struct rig *r = rig_create(9);
	struct log_loc loc;
	char path[64];

	for (int i = 0; i < 5; i++)
		enqueue(r, 100);
	loc = state_loc(&r->store.state,
			&entries_find(&((struct state_queue *)idmap_get(
						&r->store.state.queues, QUEUE))
					       ->lanes[4]
					       ->entries,
				      record_ref(4, 3))
				 ->place);
	snprintf(path, sizeof(path), "segments/%08x-%08x.log",
		 (uint32_t)(loc.segment >> 32), (uint32_t)loc.segment);
	{
		char full[128];

		snprintf(full, sizeof(full), "data/%s", path);
		assert_int_equal(sim_disk_flip(r->disk, full,
					       loc.frame * (uint64_t)IO_BLOCK +
						       LOG_FRAME_HEADER_BYTES +
						       loc.at,
					       1),
				 0);
	}
	r->may_fail = true;
	fetch_all(r, 1, r->next, 10, 10000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n == 3 ? -E_CORRUPT : 0);
	assert_int_equal(r->damage_count, 1);
	assert_string_equal(r->damage[0].file, path);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 3));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 3));
	assert_int_equal(r->damage[0].offset, loc.frame * (uint64_t)IO_BLOCK);
	rig_free(r);
}

TEST("a message that its run's index does not know is damage, not a gap")
{
	struct rig *r = rig_create(12);
	struct record_extents record;

	for (int i = 0; i < 10; i++)
		enqueue(r, 100);
	r->known[5].there = false;
	record = make_extent(r, 1, 10, false);
	r->known[5].there = true;
	((struct record_run *)(uintptr_t)record.runs)->copied++;
	apply_extent(r, &record);
	r->may_fail = true;
	fetch_all(r, 1, r->next, 10, 10000, 0);
	for (uint32_t n = 1; n < r->next; n++)
		assert_int_equal(r->errs[n], n == 5 ? -E_CORRUPT : 0);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].first_ref, record_ref(4, 5));
	assert_int_equal(r->damage[0].last_ref, record_ref(4, 5));
	rig_free(r);
}

TEST("a damaged piece is told, and one that is sound is read")
{
	struct rig *r = rig_create(13);
	struct record_extents record;
	const struct known *k;
	char path[256];

	enqueue(r, UINT32_MAX);
	k = &r->known[1];
	record = make_extent(r, 1, 1, true);
	apply_extent(r, &record);
	path_of(1, path, sizeof(path));
	assert_int_equal(
		sim_disk_flip(r->disk, path, blob_chunk_offset(0) + 90, 3), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0]),
			 -E_CORRUPT);
	assert_int_equal(r->damage_count, 1);
	assert_int_equal(r->damage[0].err, -E_CORRUPT);
	assert_int_equal(r->damage[0].offset, blob_chunk_offset(0));
	assert_int_equal(
		sim_disk_flip(r->disk, path, blob_chunk_offset(0) + 90, 3), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0]), 0);
	assert_int_equal(read_piece(r, k->upload, 0, k->piece_bytes[0] - 1),
			 -EINVAL);
	rig_free(r);
}

/* ---- faults ---- */

TEST("an error at any read of the disk: the others come, and no wrong byte")
{
	static const enum sim_fault faults[] = {SIM_FAULT_READ_EIO,
						SIM_FAULT_READ_FLIP};
	struct rig *r = rig_create(10);

	churn(r, 60);
	r->may_fail = true;
	for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
		bool reached = true;

		for (uint64_t k = 1; reached; k++) {
			uint64_t before = sim_disk_reads(r->disk);

			store_reader_free(r->reader);
			assert_int_equal(store_reader_create(&r->store,
							     r->h.main,
							     &r->reader),
					 0);
			sim_disk_fault_at(r->disk, faults[i], before + k);
			fetch_all(r, 1, r->next, 100, 1000000, 0);
			reached = sim_disk_reads(r->disk) >= before + k;
			sim_disk_fault_at(r->disk, faults[i], 0);
			for (uint32_t n = 1; n < r->next; n++)
				assert_true(!r->errs[n] ||
					    r->errs[n] == -E_CORRUPT ||
					    (i == 0 && r->errs[n] == -EIO));
		}
	}
	/* It was the reading, not the data. */
	r->may_fail = false;
	fetch_all(r, 1, r->next, 100, 1000000, 0);
	rig_free(r);
}

TEST("without memory at any allocation: an error, and the next try is right")
{
	struct rig *r = rig_create(11);
	bool reached = true;

	churn(r, 40);
	for (uint64_t k = 1; reached; k++) {
		uint64_t first = 1;

		/* One failure, wherever it meets a fetch. */
		store_reader_free(r->reader);
		assert_int_equal(
			store_reader_create(&r->store, r->h.main, &r->reader),
			0);
		assert_int_equal(sim_alloc_fail_at(k), 0);
		while (first < r->next) {
			int err = fetch(r, first, r->next, 200, 4000000, 0);

			if (err)
				assert_int_equal(err, -ENOMEM);
			else
				first = record_ref_number(r->fetch.next);
		}
		reached = sim_alloc_count() >= k;
		assert_int_equal(sim_alloc_fail_at(0), 0);
	}
	assert_int_equal(r->damage_count, 0);
	rig_free(r);
}

TEST_MAIN()
