/* tests/unit/compact_world.h: a log, a store and their loops in the simulator,
 * and a model that goes along.
 *
 * TEST_SEED replays a failure. */
#ifndef TESTS_UNIT_COMPACT_WORLD_H
#define TESTS_UNIT_COMPACT_WORLD_H

#include "base/sim/sim.h"
#include "journal/log/internal.h"
#include "journal/store/internal.h"
#include "tests/unit/compact_model.h"

#define KIB 1024u
#define STEPS_MAX 4000000u
#define CHAIN_MAX 8u
#define FETCHED_MAX MODEL_MESSAGES

static inline uint64_t test_seed(void)
{
	const char *text = getenv("TEST_SEED");

	return text ? strtoull(text, NULL, 10) : 20261120;
}

struct pending {
	struct log_append append;
	struct log_note note;
	struct world *world;
	struct model_op op;
	uint8_t body[MODEL_BODY_MAX];
};

struct world {
	struct sim *sim;
	struct sim_config config;
	struct store_options options; /* of the store; the rest is filled in */
	uint64_t segment_bytes;
	struct crypto_key *key;
	/* a process */
	struct io *io;
	struct log *log;
	struct store *store;
	struct loop *journal, *store_loop, *extents, *client;
	struct store_reader *reader;
	bool up; /* its loops run */
	int failed;
	char why[512];
	/* what is queued */
	struct model model, tried;
	struct pending *chain; /* CHAIN_MAX */
	uint32_t chain_count, confirmed;
	uint64_t next_id;
	bool in_doubt; /* some of the chain may be there */
	/* what the store says */
	struct model_message *fetched;
	uint32_t fetched_count;
	struct store_queue queues[MODEL_QUEUES + 2];
	unsigned queue_count;
	/* what it did, over all processes */
	uint64_t copied, checkpoints, damages;
};

static inline void world_init(struct world *w, uint64_t seed)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "the master key of a test";

	memset(w, 0, sizeof(*w));
	w->config = sim_config_calm(seed);
	w->sim = sim_create(&w->config);
	w->segment_bytes = 64 * KIB;
	w->options = (struct store_options){
		.checkpoint_bytes = 96 * KIB,
		.checkpoint_ns = 5000000000ull,
		.hot_bytes = 64 * KIB,
		.hot_ns = 2000000000ull,
		.extent_bytes = 96 * KIB,
	};
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &w->key), 0);
	w->chain = calloc(CHAIN_MAX, sizeof(*w->chain));
	w->fetched = calloc(FETCHED_MAX, sizeof(*w->fetched));
	assert_non_null(w->chain);
	assert_non_null(w->fetched);
	w->next_id = 1000;
}

static inline bool world_is_dead(const struct world *w)
{
	return w->failed || sim_is_dead(sim_node(w->io));
}

/* ---- a process ---- */

static inline void world_failed(void *ctx, int err, const char *why)
{
	struct world *w = ctx;

	if (w->failed)
		return;
	w->failed = err;
	if (getenv("TEST_TALK"))
		print_message("failed: %s\n", why);
	snprintf(w->why, sizeof(w->why), "%s", why);
}

static inline void world_committed(void *ctx, struct log_batch *batch)
{
	struct world *w = ctx;

	(void)!store_take(w->store, batch);
}

static inline int world_note_queue(void *ctx, const struct store_queue *q)
{
	struct world *w = ctx;

	assert_true(w->queue_count < ARRAY_COUNT(w->queues));
	w->queues[w->queue_count++] = *q;
	return 0;
}

static inline int world_open(struct world *w)
{
	struct log_options lo = {.io = w->io,
				 .dir = "data",
				 .master = w->key,
				 .reserve_bytes = 4096,
				 .compress_level = 1,
				 .committed = world_committed,
				 .failed = world_failed,
				 .ctx = w};
	struct store_options so = w->options;
	int err = io_mkdir(w->io, "data");

	so.io = w->io;
	so.dir = "data";
	so.master = w->key;
	so.failed = world_failed;
	so.ctx = w;
	if (!err)
		err = log_create(&lo, &w->log);
	if (!err) {
		w->log->options.segment_bytes = w->segment_bytes;
		err = log_claim(w->log);
	}
	if (!err)
		err = store_create(&so, &w->store);
	if (!err)
		err = store_recover(w->store, w->log);
	w->queue_count = 0;
	if (!err)
		err = store_each_queue(w->store, world_note_queue, w);
	if (!err)
		err = store_reader_create(w->store, w->client, &w->reader);
	if (!err)
		err = log_start(w->log, w->journal);
	if (!err)
		err = store_start(w->store, w->store_loop, w->extents);
	return err;
}

/* The end of a process, whether it has stopped, was killed, or failed. */
static inline void world_down(struct world *w)
{
	if (w->up && !sim_is_dead(sim_node(w->io)) && w->failed)
		sim_kill(sim_node(w->io));
	if (w->up) {
		loop_join(w->client);
		loop_join(w->journal);
		loop_join(w->store_loop);
		loop_join(w->extents);
	}
	if (w->store) {
		w->copied += store_stats(w->store)->copied_messages;
		w->checkpoints += store_stats(w->store)->checkpoints;
		w->damages += store_stats(w->store)->damage;
	}
	store_reader_free(w->reader);
	store_free(w->store);
	log_free(w->log);
	loop_free(w->client);
	loop_free(w->journal);
	loop_free(w->store_loop);
	loop_free(w->extents);
	io_free(w->io);
	w->reader = NULL;
	w->store = NULL;
	w->log = NULL;
	w->client = w->journal = w->store_loop = w->extents = NULL;
	w->io = NULL;
	w->up = false;
}

/* An error: the process has ended again. */
static inline int world_boot(struct world *w)
{
	int err;

	w->failed = 0;
	w->why[0] = '\0';
	w->io = sim_node_create(w->sim, "broker", 0);
	err = loop_create(w->io, "client", &w->client);
	if (!err)
		err = loop_create(w->io, "journal", &w->journal);
	if (!err)
		err = loop_create(w->io, "store", &w->store_loop);
	if (!err)
		err = loop_create(w->io, "extents", &w->extents);
	if (!err)
		err = world_open(w);
	if (err && w->store)
		snprintf(w->why, sizeof(w->why), "%s", store_why(w->store));
	if (!err)
		err = loop_start(w->client, NULL, NULL);
	if (!err)
		err = loop_start(w->journal, NULL, NULL);
	if (!err)
		err = loop_start(w->store_loop, NULL, NULL);
	if (!err)
		err = loop_start(w->extents, NULL, NULL);
	w->up = !err;
	if (err)
		world_down(w);
	return err;
}

struct world_wait {
	struct world *world;
	bool (*done)(void *ctx);
	void *ctx;
};

static inline bool world_wait_is_over(void *ctx)
{
	struct world_wait *wait = ctx;

	return world_is_dead(wait->world) || wait->done(wait->ctx);
}

/* False: the process died meanwhile. */
static inline bool world_until(struct world *w, bool (*done)(void *ctx),
			       void *ctx)
{
	struct world_wait wait = {w, done, ctx};

	assert_int_equal(
		sim_run_until(w->sim, world_wait_is_over, &wait, STEPS_MAX), 0);
	return !world_is_dead(w);
}

static inline bool world_run_for(struct world *w, uint64_t ns)
{
	sim_run_for(w->sim, ns);
	return !world_is_dead(w);
}

static inline void world_done(void *ctx)
{
	*(bool *)ctx = true;
}

static inline bool world_flag(void *ctx)
{
	return *(bool *)ctx;
}

/* As an operator would; false: it died on the way. */
static inline bool world_stop(struct world *w)
{
	bool done = false;

	if (!world_is_dead(w)) {
		store_stop(w->store, world_done, &done);
		if (world_until(w, world_flag, &done)) {
			done = false;
			log_stop(w->log, world_done, &done);
			world_until(w, world_flag, &done);
		}
	}
	done = !world_is_dead(w);
	if (done) {
		loop_stop(w->client);
		loop_stop(w->journal);
		loop_stop(w->store_loop);
		loop_stop(w->extents);
	}
	world_down(w);
	return done;
}

static inline void world_kill(struct world *w)
{
	sim_kill(sim_node(w->io));
	world_down(w);
}

static inline void world_fini(struct world *w)
{
	if (w->io)
		world_stop(w);
	sim_free(w->sim);
	crypto_key_free(w->key);
	free(w->chain);
	free(w->fetched);
}

/* ---- appending ---- */

static inline void world_noted(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct pending *p = container_of(note, struct pending, note);

	if (!p->append.err)
		p->world->confirmed++;
}

static inline bool world_is_confirmed(void *ctx)
{
	struct world *w = ctx;

	return w->confirmed == w->chain_count;
}

static inline struct model_op *world_op(struct world *w)
{
	struct pending *p = &w->chain[w->chain_count++];

	ASSERT(w->chain_count <= CHAIN_MAX);
	memset(&p->op, 0, sizeof(p->op));
	return &p->op;
}

/* Append the chain, wait, and apply it to the model.  False: the process
 * died, and how much of it is there is not known. */
static inline bool world_send(struct world *w)
{
	uint32_t count = w->chain_count;

	w->confirmed = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct pending *p = &w->chain[i];

		p->world = w;
		model_body(&p->op, p->body);
		p->note = (struct log_note){.mail.deliver = world_noted,
					    .to = w->client,
					    .append = &p->append};
		p->append = (struct log_append){
			.next = i + 1 < count ? &w->chain[i + 1].append : NULL,
			.meta = p->op.meta,
			.meta_len = p->op.meta_len,
			.body = p->op.body_len ? p->body : NULL,
			.body_len = p->op.body_len,
			.type = p->op.type,
			.note_count = 1,
			.notes = &p->note,
		};
	}
	log_append(w->log, &w->chain[0].append, &w->chain[count - 1].append);
	if (!world_until(w, world_is_confirmed, w)) {
		w->in_doubt = true;
		return false;
	}
	for (uint32_t i = 0; i < count; i++)
		model_apply(&w->model, &w->chain[i].op);
	w->chain_count = 0;
	return true;
}

/* ---- operations ---- */

static inline void world_make_queue(struct world *w, unsigned place)
{
	struct model_op *op = world_op(w);

	op->queue = w->next_id++;
	op->place = (uint8_t)place;
	model_encode_queue(op);
}

static inline void world_make_message(struct world *w, uint64_t queue,
				      uint8_t priority, uint32_t len)
{
	struct model_op *op = world_op(w);

	op->id = w->next_id++;
	op->len = len;
	op->priority = priority;
	op->targets[0] = queue;
	op->target_count = 1;
	model_encode_enqueue(op);
}

static inline void world_make_ack(struct world *w, uint64_t queue,
				  uint64_t first, uint64_t last)
{
	struct model_op *op = world_op(w);
	uint64_t bytes = 0;

	op->queue = queue;
	op->ref = first;
	op->last = last;
	for (uint32_t i = 0; i < w->model.count; i++) {
		const struct model_message *m = &w->model.messages[i];

		if (m->queue == queue && m->ref >= first && m->ref <= last &&
		    !m->gone)
			bytes += m->len;
	}
	model_encode_ack(op, bytes);
}

/* Pieces of an upload and the message that names it. */
static inline void world_make_large(struct world *w, uint64_t queue,
				    uint32_t pieces, uint32_t piece_len)
{
	uint64_t upload = w->next_id++;
	struct model_op *op;

	for (uint32_t i = 0; i < pieces; i++) {
		op = world_op(w);
		op->upload = upload;
		op->index = i;
		op->id = upload * 100 + i;
		op->body_len = piece_len + i;
		model_encode_piece(op);
	}
	op = world_op(w);
	op->upload = upload;
	op->id = upload;
	op->len = pieces * piece_len + pieces * (pieces - 1) / 2;
	op->pieces = pieces;
	op->priority = 4;
	op->targets[0] = queue;
	op->target_count = 1;
	model_encode_enqueue(op);
}

/* Up to n messages of len bytes, a chain at a time. */
static inline bool world_fill(struct world *w, uint64_t queue, unsigned n,
			      uint32_t len)
{
	for (unsigned i = 0; i < n; i++) {
		world_make_message(w, queue, 4, len);
		if ((w->chain_count == CHAIN_MAX || i + 1 == n) &&
		    !world_send(w))
			return false;
	}
	return true;
}

static inline bool world_ack(struct world *w, uint64_t queue, uint64_t first,
			     uint64_t last)
{
	world_make_ack(w, queue, record_ref(4, first), record_ref(4, last));
	return world_send(w);
}

static inline uint64_t world_add_queue(struct world *w, unsigned place)
{
	world_make_queue(w, place);
	assert_true(world_send(w));
	return w->model.queues[place].id;
}

/* ---- what the store says ---- */

struct world_fetch {
	struct store_fetch fetch;
	struct world *world;
	int err;
	bool done;
};

static inline void world_keep(struct world *w, uint64_t queue,
			      const struct store_message *m)
{
	struct model_message *kept = &w->fetched[w->fetched_count++];
	struct model_op like = {0};
	uint8_t want[MODEL_BODY_MAX];
	const uint8_t *body = m->body;

	assert_true(w->fetched_count < FETCHED_MAX);
	memset(kept, 0, sizeof(*kept));
	kept->queue = queue;
	kept->ref = m->ref;
	kept->len = (uint32_t)m->bytes;
	kept->deliveries = m->deliveries;
	kept->extra_len = m->extra_len;
	kept->extra = m->extra_len ? *(const uint8_t *)m->extra : 0;
	kept->reason = m->origin.reason;
	kept->pieces = m->piece_count;
	kept->id = m->upload;
	if (m->err) {
		kept->gone = true; /* damaged */
		return;
	}
	like.id = m->upload ? m->upload : m->props.arrived_ms;
	kept->id = like.id;
	assert_int_equal(m->props.arrived_ms, like.id);
	assert_int_equal(m->props.expiry_ms, like.id % 3 ? 0 : ~like.id);
	assert_int_equal(m->props.priority, record_ref_priority(m->ref));
	assert_int_equal(m->props.durable, 1);
	if (m->upload)
		return;
	like.body_len = kept->len;
	model_body(&like, want);
	assert_memory_equal(body, want, kept->len);
	if (m->origin.reason) {
		assert_int_equal(m->origin.address_len, 4);
		assert_memory_equal(m->origin.address, "from", 4);
		assert_int_equal(m->origin.queue_len, 6);
		assert_memory_equal(m->origin.queue, "origin", 6);
	}
}

static inline void world_fetched(struct store_fetch *f, int err)
{
	struct world_fetch *wf = container_of(f, struct world_fetch, fetch);

	for (uint32_t i = 0; !err && i < f->message_count; i++)
		world_keep(wf->world, f->queue, &f->messages[i]);
	wf->err = err;
	wf->done = true;
}

static inline bool world_fetch_is_done(void *ctx)
{
	return ((struct world_fetch *)ctx)->done;
}

struct world_piece {
	struct store_piece piece;
	int err;
	bool done;
};

static inline void world_piece_done(struct store_piece *piece, int err)
{
	struct world_piece *wp = container_of(piece, struct world_piece, piece);

	wp->err = err;
	wp->done = true;
}

static inline bool world_piece_is_done(void *ctx)
{
	return ((struct world_piece *)ctx)->done;
}

/* Reads all pieces of message m and compares.  On the heap, for a read may be
 * in flight when the process dies. */
static inline bool world_read_pieces(struct world *w,
				     const struct model_message *m)
{
	struct world_piece *wp = calloc(1, sizeof(*wp));
	uint32_t total = m->len - m->pieces * (m->pieces - 1) / 2;
	uint8_t *buf = malloc(MODEL_BODY_MAX), *want = malloc(MODEL_BODY_MAX);
	bool alive = true;

	assert_true(wp && buf && want);
	for (uint32_t i = 0; alive && i < m->pieces; i++) {
		struct model_op like = {.id = m->id * 100 + i,
					.body_len = total / m->pieces + i};

		memset(wp, 0, sizeof(*wp));
		wp->piece = (struct store_piece){.upload = m->id,
						 .index = i,
						 .buf = buf,
						 .len = like.body_len,
						 .done = world_piece_done};
		store_read_piece(w->reader, &wp->piece);
		alive = world_until(w, world_piece_is_done, wp);
		if (!alive)
			return false; /* and leave what the read may touch */
		assert_int_equal(wp->err, 0);
		model_body(&like, want);
		assert_memory_equal(buf, want, like.body_len);
	}
	free(wp);
	free(buf);
	free(want);
	return alive;
}

static inline bool world_fetch_lane(struct world *w, uint64_t queue,
				    uint64_t first, uint64_t end)
{
	struct world_fetch *wf = calloc(1, sizeof(*wf));
	bool alive = true;

	assert_non_null(wf);
	wf->world = w;
	while (alive && first < end) {
		wf->fetch = (struct store_fetch){.queue = queue,
						 .first = first,
						 .end = end,
						 .count_max = 100,
						 .bytes_max = 64 * KIB,
						 .done = world_fetched};
		wf->done = false;
		store_fetch(w->reader, &wf->fetch);
		alive = world_until(w, world_fetch_is_done, wf);
		if (!alive)
			return false;
		assert_int_equal(wf->err, 0);
		assert_true(wf->fetch.next > first);
		first = wf->fetch.next;
	}
	free(wf);
	return alive;
}

/* Everything that the queues of the last start hold.  False: it died. */
static inline bool world_fetch_all(struct world *w)
{
	w->fetched_count = 0;
	for (unsigned i = 0; i < w->queue_count; i++) {
		const struct store_queue *q = &w->queues[i];

		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			if (!world_fetch_lane(w, q->record.id,
					      q->lanes[p].first,
					      q->lanes[p].next))
				return false;
	}
	for (uint32_t i = 0; i < w->fetched_count; i++)
		if (w->fetched[i].pieces &&
		    !world_read_pieces(w, &w->fetched[i]))
			return false;
	return true;
}

/* ---- comparing ---- */

static inline int model_by_ref(const void *a, const void *b)
{
	const struct model_message *x = a, *y = b;

	if (x->queue != y->queue)
		return x->queue < y->queue ? -1 : 1;
	return x->ref < y->ref ? -1 : x->ref > y->ref;
}

static inline bool world_same_message(const struct model_message *x,
				      const struct model_message *y)
{
	return x->queue == y->queue && x->ref == y->ref && x->id == y->id &&
	       x->len == y->len && x->deliveries == y->deliveries &&
	       x->extra_len == y->extra_len &&
	       (!x->extra_len || x->extra == y->extra) &&
	       x->reason == y->reason && x->pieces == y->pieces;
}

/* As the queues were at the last start, with what was fetched since. */
static inline bool world_matches(struct world *w, struct model *m)
{
	unsigned queues = 0;

	model_squeeze(m);
	qsort(m->messages, m->count, sizeof(*m->messages), model_by_ref);
	if (m->count != w->fetched_count)
		return false;
	for (uint32_t i = 0; i < m->count; i++)
		if (!world_same_message(&m->messages[i], &w->fetched[i]))
			return false;
	for (unsigned i = 0; i < MODEL_QUEUES; i++)
		queues += m->queues[i].id != 0;
	if (queues != w->queue_count)
		return false;
	for (unsigned i = 0; i < w->queue_count; i++) {
		const struct store_queue *q = &w->queues[i];
		const struct model_queue *have = model_queue(m, q->record.id);
		uint64_t messages = 0, bytes = 0;

		for (uint32_t k = 0; k < m->count; k++) {
			if (m->messages[k].queue != q->record.id)
				continue;
			messages++;
			bytes += m->messages[k].len;
		}
		if (!have || q->messages != messages || q->bytes != bytes)
			return false;
		for (unsigned p = 0; p < RECORD_PRIORITIES; p++)
			if (q->lanes[p].next != record_ref(p, have->next[p]))
				return false;
	}
	return true;
}

/* After a start: the store is what the model says, with some prefix of what
 * was in doubt.  False: it died before that was seen. */
static inline bool world_compare(struct world *w)
{
	if (!world_fetch_all(w))
		return false;
	qsort(w->fetched, w->fetched_count, sizeof(*w->fetched), model_by_ref);
	if (!w->in_doubt) {
		assert_true(world_matches(w, &w->model));
		return true;
	}
	for (uint32_t n = 0; n <= w->chain_count; n++) {
		w->tried = w->model;
		for (uint32_t i = 0; i < n; i++)
			model_apply(&w->tried, &w->chain[i].op);
		if (n < w->confirmed || !world_matches(w, &w->tried))
			continue;
		w->model = w->tried;
		w->in_doubt = false;
		w->chain_count = 0;
		return true;
	}
	fail_msg("no prefix of what was in doubt explains what is there");
	return false;
}

/* ---- looking at the disk ---- */

static inline int world_count_file(void *ctx, const char *name)
{
	++*(unsigned *)ctx;
	return 0;
}

static inline unsigned world_files(struct world *w, const char *dir)
{
	unsigned count = 0;

	assert_int_equal(io_list(w->io, dir, world_count_file, &count), 0);
	return count;
}

#endif
