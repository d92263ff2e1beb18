/* tests/unit/log_harness.h: a log with its loop and its appends, for tests.
 *
 * The same code drives a real engine and the simulator: the journal loop runs
 * on a thread of its own where there is one, and the test's own loop takes
 * the notes on the calling thread. */
#ifndef TESTS_UNIT_LOG_HARNESS_H
#define TESTS_UNIT_LOG_HARNESS_H

#include <pthread.h>

#include "tests/unit/engines.h"

#include "journal/log/internal.h"
#include "journal/log/verify.h"

#define HARNESS_SEGMENT_BYTES (1024u * 1024u)

struct harness {
	struct io *io;
	const char *dir;
	struct crypto_key *key;
	struct loop *journal, *main;
	struct log *log;
	struct log_options options;
	uint64_t tiny_segment_bytes; /* below what options allow; 0: unset */
	bool started;
	_Atomic bool stopped;
	bool here; /* the main loop writes by itself where it may */
	bool (*is_dead)(void *ctx); /* the simulator's kill */
	void *is_dead_ctx;
	int pending; /* notes not delivered yet */
	_Atomic int failed_err;
	_Atomic int failed_count;
	char failed_why[LOG_WHY_BYTES];
	/* what committed() has told */
	uint64_t committed_lsn;
	int batch_gaps;
	pthread_mutex_t end_lock; /* of the one below */
	struct log_position committed_end;
};

struct harness_append {
	struct log_append append;
	struct log_note note;
	struct harness *h;
	uint32_t seed;
	uint8_t meta[16];
	uint8_t body[];
};

static inline struct crypto_key *harness_key(void)
{
	uint8_t bytes[CRYPTO_KEY_BYTES];
	struct crypto_key *key = NULL;

	assert_int_equal(crypto_init(), 0);
	memset(bytes, 0x5a, sizeof(bytes));
	assert_int_equal(crypto_key_create(bytes, &key), 0);
	return key;
}

static inline int harness_batch_record(void *ctx, const struct log_record *rec)
{
	struct harness *h = ctx;

	if (h->committed_lsn && rec->lsn != h->committed_lsn)
		h->batch_gaps++;
	h->committed_lsn = rec->lsn + 1;
	return 0;
}

static inline void harness_committed(void *ctx, struct log_batch *batch)
{
	struct harness *h = ctx;

	if (log_batch_each(batch, harness_batch_record, h) ||
	    batch->end.lsn != h->committed_lsn)
		h->batch_gaps++;
	pthread_mutex_lock(&h->end_lock);
	h->committed_end = batch->end;
	pthread_mutex_unlock(&h->end_lock);
	log_batch_free(batch);
}

/* While the journal runs, whose idle mark comes when it likes. */
static inline struct log_position harness_end(struct harness *h)
{
	struct log_position end;

	pthread_mutex_lock(&h->end_lock);
	end = h->committed_end;
	pthread_mutex_unlock(&h->end_lock);
	return end;
}

static inline void harness_failed(void *ctx, int err, const char *why)
{
	struct harness *h = ctx;

	h->failed_err = err;
	h->failed_count++;
	snprintf(h->failed_why, sizeof(h->failed_why), "%s", why);
}

static inline void harness_init(struct harness *h, struct io *io,
				const char *dir)
{
	memset(h, 0, sizeof(*h));
	pthread_mutex_init(&h->end_lock, NULL);
	h->io = io;
	h->dir = dir;
	h->key = harness_key();
	h->options = (struct log_options){
		.io = io,
		.dir = dir,
		.master = h->key,
		.segment_bytes = HARNESS_SEGMENT_BYTES,
		.reserve_bytes = 4096,
		/* Of a disk that is not ours alone. */
		.disk_max_use_percent = 100,
		.committed = harness_committed,
		.failed = harness_failed,
		.ctx = h,
	};
}

/* Everything up to a running journal; an error leaves it half open, for
 * harness_close(). */
static inline int
harness_open_from(struct harness *h, const struct log_position *from,
		  int (*each)(void *, const struct log_record *), void *ctx)
{
	int err = log_create(&h->options, &h->log);

	h->started = h->stopped = false;
	h->committed_lsn = 0;
	h->pending = 0;
	if (!err && h->tiny_segment_bytes)
		h->log->options.segment_bytes = h->tiny_segment_bytes;
	if (!err)
		err = log_claim(h->log);
	if (!err)
		err = log_recover(h->log, from, each, ctx);
	if (!err)
		err = loop_create(h->io, "journal", &h->journal);
	if (!err)
		err = loop_create(h->io, "main", &h->main);
	if (!err)
		err = log_start(h->log, h->journal);
	if (!err)
		err = loop_start(h->journal, NULL, NULL);
	h->started = !err;
	return err;
}

static inline int harness_open(struct harness *h)
{
	return harness_open_from(h, NULL, NULL, NULL);
}

static inline void harness_stopped(void *ctx)
{
	struct harness *h = ctx;

	h->stopped = true;
	loop_stop(h->journal);
	if (h->here)
		loop_stop(h->main);
}

struct harness_stop {
	struct loop_mail mail;
	struct harness *h;
};

static inline void harness_stop_mail(struct loop_mail *mail)
{
	struct harness_stop *s = container_of(mail, struct harness_stop, mail);

	log_stop(s->h->log, harness_stopped, s->h);
}

/* clean: through log_stop(), with an idle mark; otherwise the process is dead
 * (only the simulator can do that and go on). */
static inline void harness_close(struct harness *h, bool clean)
{
	struct harness_stop stop = {.mail.deliver = harness_stop_mail, .h = h};

	if (h->started) {
		if (clean)
			loop_post(h->journal, &stop.mail);
		/* A write that the main loop began is its to end. */
		while (clean && h->here && !h->stopped &&
		       !(h->is_dead && h->is_dead(h->is_dead_ctx)))
			loop_run(h->main);
		loop_join(h->journal);
	}
	log_free(h->log);
	h->log = NULL;
	loop_free(h->journal);
	loop_free(h->main);
	h->journal = h->main = NULL;
	h->started = false;
}

static inline void harness_fini(struct harness *h)
{
	crypto_key_free(h->key);
}

static inline void harness_note(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct harness_append *a =
		container_of(note, struct harness_append, note);

	if (--a->h->pending == 0)
		loop_stop(a->h->main);
}

static inline void harness_pattern(uint8_t *p, size_t len, uint32_t seed)
{
	uint32_t x = seed * 2654435761u + 1;

	for (size_t i = 0; i < len; i++) {
		x = x * 1664525u + 1013904223u;
		p[i] = (uint8_t)(x >> 24);
	}
}

static inline struct harness_append *
harness_append_new(struct harness *h, uint32_t seed, uint32_t body_len)
{
	struct harness_append *a = calloc(1, sizeof(*a) + body_len);

	a->h = h;
	a->seed = seed;
	harness_pattern(a->meta, sizeof(a->meta), ~seed);
	bytes_put32(a->meta, seed);
	harness_pattern(a->body, body_len, seed);
	a->append.type = LOG_TYPE_USER;
	a->append.meta = a->meta;
	a->append.meta_len = sizeof(a->meta);
	a->append.body = a->body;
	a->append.body_len = body_len;
	a->append.notes = &a->note;
	a->append.note_count = 1;
	a->note.append = &a->append;
	a->note.to = h->main;
	a->note.mail.deliver = harness_note;
	return a;
}

static inline void harness_send(struct harness *h, struct harness_append *a)
{
	h->pending++;
	if (h->here && a->seed % 4 != 3)
		log_append_here(h->log, h->main, &a->append, &a->append);
	else
		log_append(h->log, &a->append, &a->append);
}

static inline void harness_wait(struct harness *h)
{
	while (h->pending && !(h->is_dead && h->is_dead(h->is_dead_ctx)))
		loop_run(h->main);
}

/* One append to its end; its error. */
static inline int harness_put(struct harness *h, uint32_t seed,
			      uint32_t body_len)
{
	struct harness_append *a = harness_append_new(h, seed, body_len);
	int err;

	harness_send(h, a);
	harness_wait(h);
	err = a->append.err;
	free(a);
	return err;
}

/* Collects the seeds of user records as they are recovered, checking each
 * byte of meta and body on the way. */
struct harness_seen {
	uint32_t seeds[65536];
	uint32_t count;
	uint32_t wrong;
	uint64_t lsn; /* of the next record, once there was one */
	uint32_t starts;
};

static inline int harness_see(void *ctx, const struct log_record *rec)
{
	struct harness_seen *s = ctx;
	uint8_t meta[16];
	uint8_t *body, *want;
	uint32_t seed;

	if (s->lsn && rec->lsn != s->lsn)
		s->wrong++;
	s->lsn = rec->lsn + 1;
	if (rec->type == LOG_TYPE_EPOCH_START)
		s->starts++;
	if (rec->type != LOG_TYPE_USER)
		return 0;
	if (rec->meta_len != sizeof(meta)) {
		s->wrong++;
		return 0;
	}
	seed = bytes_get32(rec->meta);
	harness_pattern(meta, sizeof(meta), ~seed);
	bytes_put32(meta, seed);
	body = malloc(rec->loc.body_len + 1);
	want = malloc(rec->loc.body_len + 1);
	harness_pattern(want, rec->loc.body_len, seed);
	if (memcmp(meta, rec->meta, sizeof(meta)) != 0 ||
	    log_record_expand(rec, body) ||
	    memcmp(body, want, rec->loc.body_len) != 0)
		s->wrong++;
	free(body);
	free(want);
	if (s->count < ARRAY_COUNT(s->seeds))
		s->seeds[s->count] = seed;
	s->count++;
	return 0;
}

#endif
