/* tests/unit/test_log.c: the log on both real engines. */
#include "tests/unit/log_harness.h"

#include <sched.h>
#include <semaphore.h>

static struct harness_seen seen;

static void expect_seeds(uint32_t count)
{
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(seen.count, count);
	for (uint32_t i = 0; i < count && i < ARRAY_COUNT(seen.seeds); i++)
		assert_int_equal(seen.seeds[i], i);
}

static void reopen(struct harness *h)
{
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(harness_open_from(h, NULL, harness_see, &seen), 0);
}

/* count appends sent at once, in one chain each of up to three. */
static void put_burst(struct harness *h, uint32_t first, uint32_t count,
		      uint32_t len_step)
{
	struct harness_append **all =
		calloc(count, sizeof(struct harness_append *));
	uint64_t lsn = 0;

	for (uint32_t i = 0; i < count; i++)
		all[i] = harness_append_new(h, first + i,
					    (i * len_step) % 300000);
	for (uint32_t i = 0; i < count;) {
		uint32_t n = (uint32_t)base_min(1 + i % 3, count - i);

		for (uint32_t k = 0; k + 1 < n; k++)
			all[i + k]->append.next = &all[i + k + 1]->append;
		h->pending += (int)n;
		log_append(h->log, &all[i]->append, &all[i + n - 1]->append);
		i += n;
	}
	harness_wait(h);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(all[i]->append.err, 0);
		assert_true(all[i]->append.lsn > lsn);
		lsn = all[i]->append.lsn;
		free(all[i]);
	}
	free(all);
}

BOTH("what was acknowledged is there after a restart, in order")
{
	struct harness h;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	put_burst(&h, 0, 100, 0);
	put_burst(&h, 100, 50, 977);
	assert_int_equal(harness_put(&h, 150, 500000), 0);
	harness_close(&h, true);
	assert_true(h.stopped);
	assert_int_equal(h.batch_gaps, 0);
	assert_int_equal(h.failed_count, 0);

	reopen(&h);
	expect_seeds(151);
	assert_int_equal(seen.starts, 1);
	assert_int_equal(log_epoch(h.log), 2);
	put_burst(&h, 151, 49, 20011);
	harness_close(&h, true);
	assert_int_equal(h.batch_gaps, 0);

	reopen(&h);
	expect_seeds(200);
	assert_int_equal(seen.starts, 2);
	harness_close(&h, true);
	harness_fini(&h);
}

/* ---- several loops that append ---- */

#define WRITERS 3
#define WRITER_APPENDS 400u

struct appender {
	struct harness *h;
	struct loop *loop;
	struct loop_mail mail; /* begin, then over */
	struct harness_append *a;
	uint32_t sent, wrong;
	uint64_t lsn;
	bool here;
};

static struct appender appenders[WRITERS];

static void appender_over(struct loop_mail *mail)
{
	struct appender *p = container_of(mail, struct appender, mail);

	if (--p->h->pending == 0)
		loop_stop(p->h->main);
}

static void appender_note(struct loop_mail *mail);

/* Small ones, and some that are too large to be written here. */
static void appender_send(struct appender *p)
{
	uint32_t index = (uint32_t)(p - appenders);
	uint32_t bytes = p->sent % 50 == 7 ? 40000 : p->sent * 13 % 2000;

	p->a = harness_append_new(p->h, p->sent * WRITERS + index, bytes);
	p->a->note.to = p->loop;
	p->a->note.mail.deliver = appender_note;
	p->sent++;
	if (p->here)
		log_append_here(p->h->log, p->loop, &p->a->append,
				&p->a->append);
	else
		log_append(p->h->log, &p->a->append, &p->a->append);
}

static void appender_note(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct harness_append *a =
		container_of(note, struct harness_append, note);
	struct appender *p = &appenders[a->seed % WRITERS];

	if (a->append.err || a->append.lsn <= p->lsn)
		p->wrong++;
	p->lsn = a->append.lsn;
	free(a);
	if (p->sent < WRITER_APPENDS) {
		appender_send(p);
		return;
	}
	p->a = NULL;
	p->mail.deliver = appender_over;
	loop_post(p->h->main, &p->mail);
}

static void appender_begin(struct loop_mail *mail)
{
	appender_send(container_of(mail, struct appender, mail));
}

BOTH("loops that write by themselves and the journal thread make one log")
{
	bool found[WRITERS * WRITER_APPENDS] = {0};
	struct harness h;
	struct harness_stop stop = {.mail.deliver = harness_stop_mail, .h = &h};

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	h.pending = WRITERS;
	for (int i = 0; i < WRITERS; i++) {
		appenders[i] = (struct appender){
			.h = &h,
			.loop = engines_loop(io),
			.mail.deliver = appender_begin,
			.here = i > 0,
		};
		assert_int_equal(loop_start(appenders[i].loop, NULL, NULL), 0);
		loop_post(appenders[i].loop, &appenders[i].mail);
	}
	harness_wait(&h);
	/* Nothing of a loop goes while another may still be waking it. */
	loop_post(h.journal, &stop.mail);
	loop_join(h.journal);
	for (int i = 0; i < WRITERS; i++) {
		loop_stop(appenders[i].loop);
		loop_join(appenders[i].loop);
		loop_free(appenders[i].loop);
		assert_int_equal(appenders[i].wrong, 0);
	}
	harness_close(&h, false);
	assert_int_equal(h.batch_gaps, 0);
	assert_int_equal(h.failed_count, 0);

	reopen(&h);
	assert_int_equal(seen.wrong, 0);
	assert_int_equal(seen.count, WRITERS * WRITER_APPENDS);
	for (uint32_t i = 0; i < seen.count; i++) {
		assert_true(seen.seeds[i] < ARRAY_COUNT(found));
		assert_false(found[seen.seeds[i]]);
		found[seen.seeds[i]] = true;
	}
	harness_close(&h, true);
	harness_fini(&h);
}

BOTH("compressed bodies come back expanded")
{
	struct harness h;
	struct harness_append *a;
	uint8_t body[10000];

	harness_init(&h, io, test_directory());
	h.options.compress_level = 3;
	assert_int_equal(harness_open(&h), 0);
	a = harness_append_new(&h, 0, sizeof(body));
	/* A pattern that zstd can make smaller, of the seed's own bytes. */
	for (size_t i = 0; i < sizeof(body); i++)
		a->body[i] = (uint8_t)(i / 1000);
	memcpy(body, a->body, sizeof(body));
	harness_send(&h, a);
	harness_wait(&h);
	assert_int_equal(a->append.err, 0);
	assert_true(a->append.loc.stored_len < sizeof(body) / 4);
	assert_int_equal(a->append.loc.body_len, sizeof(body));
	free(a);
	put_burst(&h, 1, 10, 1000);
	harness_close(&h, true);
	reopen(&h);
	/* The first one's bytes are not its seed's, and that is all. */
	assert_int_equal(seen.wrong, 1);
	assert_int_equal(seen.count, 11);
	harness_close(&h, true);
	harness_fini(&h);
}

/* ---- reading ---- */

struct reading {
	struct log_read read;
	struct harness *h;
	int err;
	uint8_t *buf;
};

static void reading_done(struct log_read *read, int err)
{
	struct reading *r = container_of(read, struct reading, read);

	r->err = err;
	if (--r->h->pending == 0)
		loop_stop(r->h->main);
}

static void read_all(struct harness *h, struct log_reader *reader,
		     struct reading *r, const struct log_loc *locs,
		     uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		r[i].h = h;
		r[i].err = 1;
		r[i].read.done = reading_done;
		r[i].buf = malloc(locs[i].body_len + 1);
		h->pending++;
		log_read(reader, &r[i].read, &locs[i], r[i].buf);
	}
	harness_wait(h);
}

static void check_all(struct reading *r, const struct log_loc *locs,
		      uint32_t count)
{
	uint8_t *want = malloc(LOG_RECORD_BYTES_MAX);

	for (uint32_t i = 0; i < count; i++) {
		harness_pattern(want, locs[i].body_len, i);
		assert_int_equal(r[i].err, 0);
		assert_memory_equal(r[i].buf, want, locs[i].body_len);
		free(r[i].buf);
	}
	free(want);
}

struct locs {
	struct log_loc locs[400];
	uint32_t count;
};

static int locs_collect(void *ctx, const struct log_record *rec)
{
	struct locs *l = ctx;

	if (rec->type == LOG_TYPE_USER)
		l->locs[l->count++] = rec->loc;
	return 0;
}

BOTH("bodies are read back, before and after a restart")
{
	struct log_reader *reader = NULL;
	struct reading *r = calloc(400, sizeof(*r));
	struct locs *l = calloc(1, sizeof(*l));
	struct harness h;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	for (uint32_t i = 0; i < 400; i++) {
		struct harness_append *a = harness_append_new(
			&h, i, i % 50 == 49 ? 400000 : i * 37);

		harness_send(&h, a);
		if (i % 7 == 0 || i == 399)
			harness_wait(&h);
		/* Leaked on purpose until its loc is known. */
		r[i].buf = (uint8_t *)a;
	}
	for (uint32_t i = 0; i < 400; i++) {
		struct harness_append *a = (void *)r[i].buf;

		assert_int_equal(a->append.err, 0);
		l->locs[i] = a->append.loc;
		free(a);
	}
	assert_true(l->locs[399].segment > l->locs[0].segment + 3);
	assert_int_equal(log_reader_create(h.log, h.main, &reader), 0);
	read_all(&h, reader, r, l->locs, 400);
	check_all(r, l->locs, 400);
	/* Again, from the caches, one at a time. */
	for (uint32_t i = 0; i < 400; i++) {
		read_all(&h, reader, r + i, l->locs + i, 1);
		assert_int_equal(r[i].err, 0);
	}
	check_all(r, l->locs, 400);
	log_reader_free(reader);
	harness_close(&h, true);

	l->count = 0;
	assert_int_equal(harness_open_from(&h, NULL, locs_collect, l), 0);
	assert_int_equal(l->count, 400);
	assert_int_equal(log_reader_create(h.log, h.main, &reader), 0);
	read_all(&h, reader, r, l->locs, 400);
	check_all(r, l->locs, 400);
	log_reader_free(reader);
	harness_close(&h, true);
	harness_fini(&h);
	free(l);
	free(r);
}

/* ---- segments ---- */

struct segment_list {
	struct log_segment_info infos[200];
	uint32_t count;
};

static int segment_collect(void *ctx, const struct log_segment_info *info)
{
	struct segment_list *l = ctx;

	l->infos[l->count++] = *info;
	return 0;
}

static int never(void *ctx, const struct log_record *rec)
{
	int *count = ctx;

	*count += rec->type == LOG_TYPE_USER;
	return 0;
}

BOTH("dropped segments are gone, and recovery goes on from a position")
{
	struct segment_list l = {0};
	struct log_position from;
	struct harness h;
	uint64_t key;
	int count = 0;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	put_burst(&h, 0, 60, 49999);
	assert_int_equal(log_each_segment(h.log, segment_collect, &l), 0);
	assert_true(l.count >= 4);
	for (uint32_t i = 0; i + 1 < l.count; i++)
		if (!l.infos[i].active)
			assert_int_equal(l.infos[i].end_lsn,
					 l.infos[i + 1].first_lsn);
	assert_true(l.infos[l.count - 1].active);
	assert_int_equal(l.infos[l.count - 1].end_lsn, 0);
	key = l.infos[l.count - 1].key;
	assert_int_equal(log_drop(h.log, &key, 1), -EINVAL);
	for (uint32_t i = 0; i < l.count && !l.infos[i].active; i++) {
		key = l.infos[i].key;
		assert_int_equal(log_drop(h.log, &key, 1), 0);
		assert_int_equal(log_drop(h.log, &key, 1), -EINVAL);
	}
	harness_close(&h, true);
	from = h.committed_end;

	/* Everything is before `from`; the log goes on there. */
	assert_int_equal(harness_open_from(&h, &from, never, &count), 0);
	assert_int_equal(count, 0);
	put_burst(&h, 1000, 5, 100);
	harness_close(&h, true);
	assert_int_equal(harness_open_from(&h, &from, never, &count), 0);
	assert_int_equal(count, 5);
	harness_close(&h, true);

	/* A position from elsewhere is refused. */
	from.lsn += 3;
	assert_int_equal(harness_open_from(&h, &from, never, &count), -E_LOST);
	assert_true(strlen(log_why(h.log)) > 20);
	harness_close(&h, true);
	harness_fini(&h);
}

BOTH("a segment missing from the middle is noticed")
{
	struct segment_list l = {0};
	char path[LOG_PATH_BYTES];
	struct harness h;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	put_burst(&h, 0, 60, 49999);
	assert_int_equal(log_each_segment(h.log, segment_collect, &l), 0);
	harness_close(&h, true);
	log_segment_path(h.dir, l.infos[1].key, path);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(harness_open(&h), -E_LOST);
	harness_close(&h, true);
	harness_fini(&h);
}

/* ---- claims ---- */

BOTH("a deposed leader acknowledges nothing and says why")
{
	struct harness old, new;
	char path[LOG_PATH_BYTES];
	const char *dir = test_directory();

	harness_init(&old, io, dir);
	harness_init(&new, io, dir);
	assert_int_equal(harness_open(&old), 0);
	assert_int_equal(harness_put(&old, 0, 100), 0);
	/* Locks are not what safety rests on: pretend that this one broke. */
	assert_int_equal(unlink(test_path(path, sizeof(path), "leader.lock")),
			 0);
	reopen(&new);
	expect_seeds(1);
	assert_int_equal(harness_put(&old, 77, 100), -E_FENCED);
	assert_int_equal(harness_put(&old, 78, 100), -E_FENCED);
	assert_int_equal(log_check_claim(old.log), -E_FENCED);
	assert_int_equal(old.failed_count, 1);
	assert_int_equal(old.failed_err, -E_FENCED);
	assert_non_null(strstr(old.failed_why, dir));
	assert_int_equal(harness_put(&new, 1, 100), 0);
	harness_close(&new, true);
	harness_close(&old, true);

	reopen(&new);
	expect_seeds(2);
	harness_close(&new, true);
	harness_fini(&new);
	harness_fini(&old);
}

BOTH("a held lock refuses the second claim")
{
	struct harness a, b;
	const char *dir = test_directory();

	harness_init(&a, io, dir);
	harness_init(&b, io, dir);
	assert_int_equal(harness_open(&a), 0);
	assert_int_equal(harness_open(&b), -EAGAIN);
	assert_non_null(strstr(log_why(b.log), "leader.lock"));
	harness_close(&b, true);
	assert_int_equal(harness_put(&a, 0, 1), 0);
	harness_close(&a, true);
	harness_fini(&a);
	harness_fini(&b);
}

BOTH("another master key is refused before anything is touched")
{
	uint8_t other[CRYPTO_KEY_BYTES] = {1};
	struct crypto_key *key;
	struct harness h;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	harness_close(&h, true);
	assert_int_equal(crypto_key_create(other, &key), 0);
	h.options.master = key;
	assert_int_equal(harness_open(&h), -E_KEY);
	assert_non_null(strstr(log_why(NULL), "master key"));
	harness_close(&h, true);
	crypto_key_free(key);
	harness_fini(&h);
}

/* ---- looking from outside ---- */

static void count_finding(void *ctx, const struct log_finding *f)
{
	(*(int *)ctx)++;
}

struct inspected {
	uint64_t frames, records;
};

static int inspect_frame(void *ctx, const struct log_frame_info *f)
{
	((struct inspected *)ctx)->frames += f->payload_ok;
	return 0;
}

static int inspect_record(void *ctx, const struct log_record *rec)
{
	((struct inspected *)ctx)->records++;
	return 0;
}

BOTH("verify finds nothing wrong, while the log is in use and afterwards")
{
	struct log_verify_result result;
	struct inspected inspected = {0};
	struct harness h;
	int findings = 0;

	harness_init(&h, io, test_directory());
	assert_int_equal(harness_open(&h), 0);
	put_burst(&h, 0, 60, 49999);
	assert_int_equal(
		log_verify(io, h.dir, NULL, count_finding, &findings, &result),
		0);
	assert_int_equal(findings, 0);
	harness_close(&h, true);
	assert_int_equal(harness_open(&h), 0);
	assert_int_equal(harness_put(&h, 60, 1), 0);
	harness_close(&h, true);
	assert_int_equal(
		log_verify(io, h.dir, NULL, count_finding, &findings, &result),
		0);
	assert_int_equal(findings, 0);
	assert_int_equal(result.epochs, 2);
	assert_int_equal(result.first_lsn, 1);
	assert_int_equal(result.end_lsn, h.committed_end.lsn);
	assert_int_equal(result.records, result.end_lsn - 1);
	assert_int_equal(log_inspect(io, h.dir, h.key, inspect_frame,
				     inspect_record, &inspected),
			 0);
	assert_int_equal(inspected.frames, result.frames);
	assert_int_equal(inspected.records, result.records);
	harness_fini(&h);
}

/* ---- closing ---- */

struct closing {
	struct harness h;
	struct loop_mail begun, made, last;
	sem_t stopped, go_on;
};

/* The next segment is asked for in this iteration. */
static void closing_begun(struct loop_mail *mail)
{
	struct closing *c = container_of(mail, struct closing, begun);

	loop_post(c->h.journal, &c->made);
}

static void closing_last(struct loop_mail *mail)
{
	struct closing *c = container_of(mail, struct closing, last);

	loop_stop(c->h.journal);
}

static void closing_stopped(void *ctx)
{
	struct closing *c = ctx;

	loop_post(c->h.journal, &c->last);
	sem_post(&c->stopped);
	sem_wait(&c->go_on);
}

static void closing_made(struct loop_mail *mail)
{
	struct closing *c = container_of(mail, struct closing, made);

	log_prepare_hurry(c->h.log->prepare);
	while (log_stats(c->h.log)->segments_made < 2)
		sched_yield();
	log_stop(c->h.log, closing_stopped, c);
}

BOTH("a segment that is ready when the log is closed finds the log still there")
{
	struct closing c = {.begun.deliver = closing_begun,
			    .made.deliver = closing_made,
			    .last.deliver = closing_last};

	harness_init(&c.h, io, test_directory());
	c.h.options.segment_bytes = 9u << 20;
	sem_init(&c.stopped, 0, 0);
	sem_init(&c.go_on, 0, 0);
	assert_int_equal(log_create(&c.h.options, &c.h.log), 0);
	assert_int_equal(log_claim(c.h.log), 0);
	assert_int_equal(log_recover(c.h.log, NULL, NULL, NULL), 0);
	assert_int_equal(loop_create(io, "journal", &c.h.journal), 0);
	assert_int_equal(log_start(c.h.log, c.h.journal), 0);
	loop_post(c.h.journal, &c.begun);
	assert_int_equal(loop_start(c.h.journal, NULL, NULL), 0);
	sem_wait(&c.stopped);
	log_close(c.h.log);
	sem_post(&c.go_on);
	loop_join(c.h.journal);
	log_free(c.h.log);
	loop_free(c.h.journal);
	harness_fini(&c.h);
}

TEST_MAIN()
