/* tests/unit/store_broker.h: a log, a store, their two threads and a client
 * thread, and a model that goes along.  TEST_SEED replays a failure. */
#ifndef TESTS_UNIT_STORE_BROKER_H
#define TESTS_UNIT_STORE_BROKER_H

#include <sched.h>
#include <semaphore.h>
#include <time.h>

#include "journal/store/internal.h"
#include "tests/unit/store_model.h"

#define MIB (1024u * 1024u)
#define CHAIN 32u

static inline uint64_t test_seed(void)
{
	const char *text = getenv("TEST_SEED");

	return text ? strtoull(text, NULL, 10) : 20240607;
}

/* ---- a broker ---- */

struct broker {
	const char *dir;
	uint64_t checkpoint_bytes, checkpoint_ns;
	uint64_t hot_bytes, hot_ns, extent_bytes;
	struct io *io;
	struct crypto_key *master;
	struct log *log;
	struct store *store;
	struct loop *journal, *store_loop, *extents, *client;
	struct model model;
	sem_t done;
	_Atomic uint32_t waiting;
	_Atomic int failed;
	struct loop_mail mail;
	int fault_at; /* of the calls in store_recover() */
};

/* The call that fails, counted down; see the faults below. */
static _Atomic int fault_countdown;

static inline void broker_failed(void *ctx, int err, const char *why)
{
	struct broker *b = ctx;

	b->failed = err;
}

static inline void broker_committed(void *ctx, struct log_batch *batch)
{
	struct broker *b = ctx;

	if (store_take(b->store, batch))
		b->failed = -EAGAIN;
}

static inline void broker_init(struct broker *b)
{
	static const uint8_t key[CRYPTO_KEY_BYTES] = "the master key of a test";
	const char *reason;

	memset(b, 0, sizeof(*b));
	b->dir = test_directory();
	b->model.seed = test_seed();
	b->checkpoint_bytes = 1024 * MIB;
	b->checkpoint_ns = 3600 * 1000000000ull;
	/* Nothing is moved unless a test wants it. */
	b->hot_bytes = 1ull << 40;
	b->hot_ns = 3600 * 1000000000ull;
	sem_init(&b->done, 0, 0);
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(key, &b->master), 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &b->io, &reason), 0);
}

static inline void broker_fini(struct broker *b)
{
	model_fini(&b->model);
	crypto_key_free(b->master);
	io_free(b->io);
	sem_destroy(&b->done);
}

static inline void broker_close(struct broker *b)
{
	/* The log first: its own thread posts to the journal's loop. */
	log_free(b->log);
	store_free(b->store);
	loop_free(b->journal);
	loop_free(b->store_loop);
	loop_free(b->extents);
	loop_free(b->client);
	b->journal = b->store_loop = b->extents = b->client = NULL;
	b->log = NULL;
	b->store = NULL;
}

/* A store and a log that claims nothing yet. */
static inline int broker_create(struct broker *b)
{
	struct log_options log = {.io = b->io,
				  .dir = b->dir,
				  .master = b->master,
				  .segment_bytes = MIB,
				  .reserve_bytes = MIB,
				  .committed = broker_committed,
				  .failed = broker_failed,
				  .ctx = b};
	struct store_options store = {.io = b->io,
				      .dir = b->dir,
				      .master = b->master,
				      .checkpoint_bytes = b->checkpoint_bytes,
				      .checkpoint_ns = b->checkpoint_ns,
				      .hot_bytes = b->hot_bytes,
				      .hot_ns = b->hot_ns,
				      .extent_bytes = b->extent_bytes,
				      .failed = broker_failed,
				      .ctx = b};

	b->failed = 0;
	assert_int_equal(store_create(&store, &b->store), 0);
	return log_create(&log, &b->log);
}

/* Claims and recovers; the result is store_recover()'s. */
static inline int broker_take_over(struct broker *b)
{
	int err = log_claim(b->log);

	if (err)
		return err;
	fault_countdown = b->fault_at;
	err = store_recover(b->store, b->log);
	fault_countdown = 0;
	return err;
}

static inline int broker_recover(struct broker *b)
{
	int err = broker_create(b);

	return err ? err : broker_take_over(b);
}

static inline void broker_start(struct broker *b)
{
	assert_int_equal(loop_create(b->io, "journal", &b->journal), 0);
	assert_int_equal(loop_create(b->io, "store", &b->store_loop), 0);
	assert_int_equal(loop_create(b->io, "extents", &b->extents), 0);
	assert_int_equal(loop_create(b->io, "client", &b->client), 0);
	assert_int_equal(log_start(b->log, b->journal), 0);
	assert_int_equal(store_start(b->store, b->store_loop, b->extents), 0);
	assert_int_equal(loop_start(b->extents, NULL, NULL), 0);
	assert_int_equal(loop_start(b->store_loop, NULL, NULL), 0);
	assert_int_equal(loop_start(b->journal, NULL, NULL), 0);
	assert_int_equal(loop_start(b->client, NULL, NULL), 0);
}

static inline void broker_done(void *ctx)
{
	struct broker *b = ctx;

	sem_post(&b->done);
}

static inline void stop_store(struct loop_mail *mail)
{
	struct broker *b = container_of(mail, struct broker, mail);

	store_stop(b->store, broker_done, b);
}

static inline void stop_log(struct loop_mail *mail)
{
	struct broker *b = container_of(mail, struct broker, mail);

	log_stop(b->log, broker_done, b);
}

static inline void broker_wait(struct broker *b)
{
	while (sem_wait(&b->done))
		assert_int_equal(errno, EINTR);
}

static inline void broker_stop(struct broker *b)
{
	b->mail.deliver = stop_store;
	loop_post(b->store_loop, &b->mail);
	broker_wait(b);
	b->mail.deliver = stop_log;
	loop_post(b->journal, &b->mail);
	broker_wait(b);
	loop_stop(b->journal);
	loop_join(b->journal);
	loop_stop(b->store_loop);
	loop_join(b->store_loop);
	loop_stop(b->extents);
	loop_join(b->extents);
	loop_stop(b->client);
	loop_join(b->client);
	broker_close(b);
	model_restart(&b->model);
}

/* ---- appending ---- */

struct pending {
	struct log_append append;
	struct log_note note;
	struct broker *broker;
	struct model_op op;
	uint8_t body[MODEL_BODY_MAX];
};

static inline void pending_noted(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct pending *p = container_of(note, struct pending, note);

	if (atomic_fetch_sub(&p->broker->waiting, 1) == 1)
		sem_post(&p->broker->done);
}

/* Append what all[].op say as one chain, wait, apply to the model. */
static inline void broker_append(struct broker *b, struct pending *all,
				 uint32_t count)
{
	b->waiting = count;
	for (uint32_t i = 0; i < count; i++) {
		struct pending *p = &all[i];

		p->broker = b;
		memset(p->body, (int)(p->op.props.arrived_ms & 0xff),
		       p->op.body_len);
		p->note = (struct log_note){.mail.deliver = pending_noted,
					    .to = b->client,
					    .append = &p->append};
		p->append = (struct log_append){
			.next = i + 1 < count ? &all[i + 1].append : NULL,
			.meta = p->op.meta,
			.meta_len = p->op.meta_len,
			.body = p->op.body_len ? p->body : NULL,
			.body_len = p->op.body_len,
			.type = p->op.type,
			.note_count = 1,
			.notes = &p->note,
		};
	}
	log_append(b->log, &all[0].append, &all[count - 1].append);
	broker_wait(b);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(all[i].append.err, 0);
		model_apply(&b->model, &all[i].op, &all[i].append.loc);
	}
}

static inline void broker_random(struct broker *b, unsigned chains)
{
	struct pending *all = calloc(CHAIN, sizeof(*all));

	assert_non_null(all);
	for (unsigned i = 0; i < chains; i++) {
		uint32_t n = 1 + (uint32_t)model_random(&b->model, CHAIN);

		for (uint32_t k = 0; k < n; k++)
			model_make(&b->model, &all[k].op);
		broker_append(b, all, n);
	}
	free(all);
}

/* A queue, when there is none, and messages in it. */
static inline void broker_fill(struct broker *b, unsigned messages,
			       uint32_t bytes)
{
	struct pending *all = calloc(CHAIN, sizeof(*all));
	uint64_t queue = b->model.queues[0].id;

	assert_non_null(all);
	if (!queue) {
		b->model.next_id = 2;
		all[0].op.type = RECORD_QUEUE;
		model_make_queue(&b->model, &all[0].op, false);
		broker_append(b, all, 1);
		queue = b->model.queues[0].id;
	}
	for (unsigned done = 0; done < messages; done += CHAIN) {
		for (uint32_t k = 0; k < CHAIN; k++) {
			struct model_op *op = &all[k].op;
			struct record_enqueue e = {.bytes = bytes,
						   .target_count = 1,
						   .targets = &queue};

			memset(op, 0, sizeof(*op));
			op->type = RECORD_ENQUEUE;
			op->body_len = bytes;
			op->bytes = bytes;
			op->targets[0] = queue;
			op->target_count = 1;
			op->meta_len =
				(uint32_t)record_enqueue_encode(&e, op->meta);
		}
		broker_append(b, all, CHAIN);
	}
	free(all);
}

/* Everything in the filled queue leaves. */
static inline void broker_drain(struct broker *b)
{
	struct pending *p = calloc(1, sizeof(*p));
	struct record_range all = {record_ref(0, 1), record_ref(1, 0) - 1};
	struct record_ack ack = {.queue = b->model.queues[0].id,
				 .bytes = b->model.queues[0].bytes,
				 .range_count = 1,
				 .ranges = &all};

	assert_non_null(p);
	p->op.type = RECORD_ACK;
	p->op.queue = ack.queue;
	p->op.bytes = ack.bytes;
	p->op.ranges[0] = all;
	p->op.range_count = 1;
	p->op.meta_len = (uint32_t)record_ack_encode(&ack, p->op.meta);
	broker_append(b, p, 1);
	free(p);
}

/* ---- looking ---- */

/* Until it is so, or give up after a minute. */
static inline bool broker_until(struct broker *b, bool (*so)(struct broker *))
{
	time_t deadline = time(NULL) + 60;

	while (!so(b)) {
		if (b->failed || time(NULL) > deadline)
			return false;
		sched_yield();
	}
	return true;
}

static inline int compare_queue(void *ctx, const struct store_queue *q)
{
	const struct model_queue *want = model_queue(ctx, q->record.id);
	uint64_t messages = 0;

	assert_non_null(want);
	assert_int_equal(q->record.flags, want->flags);
	assert_int_equal(q->record.name_len, strlen(want->name));
	assert_memory_equal(q->record.name, want->name, q->record.name_len);
	assert_int_equal(q->messages, want->count);
	assert_int_equal(q->bytes, want->bytes);
	for (unsigned p = 0; p < RECORD_PRIORITIES; p++) {
		const struct store_lane *lane = &q->lanes[p];

		assert_int_equal(lane->next,
				 record_ref(p, want->numbers[p] + 1));
		assert_true(lane->first <= lane->next);
		if (!lane->messages)
			assert_int_equal(lane->first, lane->next);
		messages += lane->messages;
	}
	assert_int_equal(messages, q->messages);
	return 0;
}

static inline int count_address(void *ctx, const struct record_address *a)
{
	size_t *count = ctx;

	++*count;
	return 0;
}

/* What the state has of it, unless it has been moved to an extent file: then
 * only that it is there. */
static inline void compare_message(struct broker *b,
				   const struct state_queue *q,
				   const struct model_message *want)
{
	struct state *s = &b->store->state;
	struct state_lane *lane = q->lanes[record_ref_priority(want->ref)];
	const struct detail *detail;
	struct entry e;
	struct state_run *run;
	struct log_loc loc;
	size_t index;

	assert_non_null(lane);
	if (!entries_get(&lane->entries, want->ref, &e)) {
		run = state_run_from(lane, want->ref, &index);
		assert_true(run && run->first <= want->ref);
		assert_int_equal(state_run_detail(s, run, &detail), 0);
		if (detail)
			assert_false(detail_is_gone(
				detail, (uint32_t)(want->ref - run->first)));
		return;
	}
	assert_int_equal(e.arrived_ms, want->props.arrived_ms);
	assert_int_equal(e.expiry_ms, want->props.expiry_ms);
	assert_int_equal(state_entry_bytes(&e), want->bytes);
	model_assert_notes(&want->notes, e.deliveries,
			   e.more ? e.more->extra_len : 0,
			   e.more ? e.more->data : NULL);
	assert_int_equal(e.more && e.more->upload ? e.more->upload->id : 0,
			 want->upload);
	if (want->upload)
		return;
	loc = state_loc(s, &e.place);
	model_assert_loc(&loc, &want->loc);
}

/* Between store_recover() and store_start(). */
static inline void broker_compare(struct broker *b)
{
	struct model *m = &b->model;
	size_t addresses = 0, want = 0;

	state_check(&b->store->state);
	assert_int_equal(store_each_queue(b->store, compare_queue, m), 0);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *have = &m->queues[i];
		const struct state_queue *q =
			idmap_get(&b->store->state.queues, have->id);

		want += m->addresses[i].id != 0;
		if (!have->id)
			continue;
		assert_non_null(q);
		for (size_t k = 0; k < have->count; k++)
			compare_message(b, q, &have->messages[k]);
	}
	assert_int_equal(
		store_each_address(b->store, count_address, &addresses), 0);
	assert_int_equal(addresses, want);
}

struct presence {
	uint64_t keys[512];
	size_t count;
};

static inline int note_segment(void *ctx, const struct log_segment_info *info)
{
	struct presence *p = ctx;

	assert_true(p->count < ARRAY_COUNT(p->keys));
	p->keys[p->count++] = info->key;
	return 0;
}

static inline bool segment_is_there(const struct presence *p, uint64_t key)
{
	for (size_t i = 0; i < p->count; i++) {
		if (p->keys[i] == key)
			return true;
	}
	return false;
}

/* What a queue still owes lies in segments that exist. */
static inline void broker_check_segments(struct broker *b)
{
	struct presence p = {.count = 0};

	assert_int_equal(log_each_segment(b->log, note_segment, &p), 0);
	for (size_t i = 0; i < MODEL_PLACES; i++) {
		const struct model_queue *q = &b->model.queues[i];

		for (size_t k = 0; q->id && k < q->count; k++) {
			const struct model_upload *u =
				model_upload(&b->model, q->messages[k].upload);

			if (!u)
				assert_true(segment_is_there(
					&p, q->messages[k].loc.segment));
			for (uint32_t n = 0; u && n < u->count; n++)
				assert_true(segment_is_there(
					&p, u->pieces[n].segment));
		}
	}
}

/* Names of the checkpoint files, newest first. */
static inline size_t broker_files(struct broker *b,
				  struct checkpoint_file files[8])
{
	struct checkpoint_place place = {.identity.io = b->io, .dir = b->dir};
	size_t count;

	assert_int_equal(checkpoint_list(&place, files, 8, &count), 0);
	return count;
}

static inline void broker_path(struct broker *b, const char *name,
			       char ret[512])
{
	snprintf(ret, 512, "%s/" CHECKPOINT_DIR "/%s", b->dir, name);
}

static inline void broker_damage(struct broker *b, const char *name)
{
	char path[512];
	struct stat st;
	uint8_t byte;
	int fd;

	broker_path(b, name, path);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	/* Somewhere in the last chunk's ciphertext. */
	assert_int_equal(pread(fd, &byte, 1, st.st_size / 2), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, st.st_size / 2), 1);
	close(fd);
}

#endif
