/* bench/journal.c: the journal against the device, in the same run.
 *
 * Four measurements a round, in alternating order, so that a device that
 * drifts drifts for both sides:
 *
 *   device, one write     4 KiB durable writes, one at a time
 *   journal, window 1     1 KiB records, one at a time (a 4 KiB frame each)
 *   device, saturated     writes as large as the journal's frames were, as
 *                         many in flight as it keeps
 *   journal, saturated    1 KiB records, WINDOW of them waiting
 *
 * The device side is the same base/ loop: O_DIRECT and RWF_DSYNC into blocks
 * that have been written before.  The journal encrypts, checksums, chains and
 * checks its claim; the device side does none of it. */
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "journal/log/log.h"

#define RECORD_BYTES 1024u
#define META_BYTES 40u
#define WINDOW 8192u
#define DEVICE_BYTES (256u << 20)
#define DEVICE_WRITE_MAX (2u << 20)
#define DEVICE_IN_FLIGHT 3u
#define ROUNDS_MAX 101u

struct result {
	double rate;   /* writes or records a second */
	double bytes;  /* of the disk, a second */
	double p50_us; /* of one write or record; window 1 only */
	double p99_us;
};

struct bench {
	struct io *io;
	char dir[3072];
	uint64_t phase_ns;
	/* the journal */
	struct crypto_key *key;
	struct log *log;
	struct loop *journal;
	char *log_dir;
	/* the device */
	struct io_file *file;
	uint8_t *buf;
};

__attribute__((noreturn)) static void die(const char *what, int err)
{
	fprintf(stderr, "bench journal: %s: %s\n", what, err_str(err));
	exit(1);
}

/* ---- latencies ---- */

#define SAMPLES_MAX 262144u

struct samples {
	uint32_t count;
	uint32_t us[SAMPLES_MAX]; /* tenths */
};

static struct samples samples;

static void sample(uint64_t ns)
{
	if (samples.count < SAMPLES_MAX)
		samples.us[samples.count++] = (uint32_t)(ns / 100);
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static double sample_quantile(double fraction)
{
	if (!samples.count)
		return 0;
	qsort(samples.us, samples.count, sizeof(uint32_t), compare_u32);
	return samples.us[(size_t)(fraction * (samples.count - 1))] / 10.0;
}

/* ---- device ---- */

struct device_op {
	struct loop_op op;
	struct device *device;
	uint64_t begun_ns;
};

struct device {
	struct bench *bench;
	struct loop *loop;
	size_t write_bytes;
	unsigned in_flight, running;
	uint64_t offset, count, begun_ns, ended_ns;
	bool sampled;
	struct device_op ops[DEVICE_IN_FLIGHT];
};

static void device_next(struct device_op *op)
{
	struct device *d = op->device;

	if (d->offset + d->write_bytes > DEVICE_BYTES)
		d->offset = 0;
	op->begun_ns = io_now_ns(d->bench->io);
	loop_write_durable(d->loop, &op->op, d->bench->file, d->bench->buf,
			   d->write_bytes, d->offset);
	d->offset += d->write_bytes;
}

static void device_written(struct loop_op *op, int res)
{
	struct device_op *o = container_of(op, struct device_op, op);
	struct device *d = o->device;
	uint64_t now = io_now_ns(d->bench->io);

	if (res < 0)
		die("a write to the device file", res);
	d->count++;
	d->ended_ns = now;
	if (d->sampled)
		sample(now - o->begun_ns);
	if (now - d->begun_ns < d->bench->phase_ns)
		device_next(o);
	else if (!--d->running)
		loop_stop(d->loop);
}

static void device_begin(void *ctx)
{
	struct device *d = ctx;

	d->begun_ns = io_now_ns(d->bench->io);
	d->running = d->in_flight;
	for (unsigned i = 0; i < d->in_flight; i++) {
		d->ops[i].device = d;
		d->ops[i].op.done = device_written;
		device_next(&d->ops[i]);
	}
}

static struct result measure_device(struct bench *b, size_t write_bytes,
				    unsigned in_flight)
{
	struct device d = {.bench = b,
			   .write_bytes = write_bytes,
			   .in_flight = in_flight,
			   .sampled = in_flight == 1};
	struct result r;
	double seconds;
	int err;

	samples.count = 0;
	err = loop_create(b->io, "device", &d.loop);
	if (!err)
		err = loop_start(d.loop, device_begin, &d);
	if (err)
		die("the device loop", err);
	loop_join(d.loop);
	loop_free(d.loop);
	seconds = (double)(d.ended_ns - d.begun_ns) / 1e9;
	r.rate = (double)d.count / seconds;
	r.bytes = r.rate * (double)write_bytes;
	r.p50_us = sample_quantile(0.5);
	r.p99_us = sample_quantile(0.99);
	return r;
}

static void open_device(struct bench *b)
{
	char path[4096];
	int err;

	snprintf(path, sizeof(path), "%s/device", b->dir);
	err = io_open(b->io, path,
		      IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT,
		      &b->file);
	if (err)
		die(path, err);
	b->buf = io_buffer_alloc(DEVICE_WRITE_MAX);
	if (!b->buf)
		die("memory", -ENOMEM);
	io_random(b->io, b->buf, DEVICE_WRITE_MAX);
	err = io_allocate(b->file, DEVICE_BYTES);
	for (uint64_t at = 0; !err && at < DEVICE_BYTES; at += DEVICE_WRITE_MAX)
		err = io_write(b->file, b->buf, DEVICE_WRITE_MAX, at);
	if (!err)
		err = io_sync(b->file);
	if (err)
		die(path, err);
}

/* ---- journal ---- */

struct slot {
	struct log_append append;
	struct log_note note;
	struct client *client;
	uint64_t begun_ns;
};

/* Keeps `window` records waiting.  What is done in one iteration of its loop
 * is appended again in one call, as a shard does. */
struct client {
	struct bench *bench;
	struct loop *loop;
	struct loop_task again;
	struct slot *slots;
	struct log_append *first, *last;
	unsigned window, running;
	uint64_t count, begun_ns, ended_ns;
	uint8_t meta[META_BYTES], body[RECORD_BYTES];
};

static void client_queue(struct client *c, struct slot *s)
{
	s->append.next = NULL;
	if (c->first)
		c->last->next = &s->append;
	else
		c->first = &s->append;
	c->last = &s->append;
}

static void client_append(struct loop_task *task)
{
	struct client *c = container_of(task, struct client, again);
	struct log_append *first = c->first;

	c->first = NULL;
	if (first)
		log_append(c->bench->log, first, c->last);
}

static void client_noted(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct slot *s = container_of(note, struct slot, note);
	struct client *c = s->client;
	uint64_t now = io_now_ns(c->bench->io);

	if (s->append.err)
		die("an append", s->append.err);
	c->count++;
	c->ended_ns = now;
	if (c->window == 1)
		sample(now - s->begun_ns);
	if (now - c->begun_ns < c->bench->phase_ns) {
		s->begun_ns = now;
		client_queue(c, s);
		loop_defer(c->loop, &c->again);
	} else if (!--c->running) {
		loop_stop(c->loop);
	}
}

static void client_begin(void *ctx)
{
	struct client *c = ctx;

	c->begun_ns = io_now_ns(c->bench->io);
	c->running = c->window;
	for (unsigned i = 0; i < c->window; i++) {
		struct slot *s = &c->slots[i];

		s->client = c;
		s->begun_ns = c->begun_ns;
		s->note.mail.deliver = client_noted;
		s->note.to = c->loop;
		s->note.append = &s->append;
		s->append.meta = c->meta;
		s->append.meta_len = META_BYTES;
		s->append.body = c->body;
		s->append.body_len = RECORD_BYTES;
		s->append.type = LOG_TYPE_USER;
		s->append.note_count = 1;
		s->append.notes = &s->note;
		client_queue(c, s);
	}
	client_append(&c->again);
}

struct droppable {
	uint64_t keys[1024];
	size_t count;
};

static int note_segment(void *ctx, const struct log_segment_info *info)
{
	struct droppable *d = ctx;

	if (!info->active && d->count < ARRAY_COUNT(d->keys))
		d->keys[d->count++] = info->key;
	return 0;
}

/* What was written is of no use; without this a run would fill the disk. */
static void drop_segments(struct bench *b)
{
	struct droppable d = {.count = 0};
	int err;

	log_each_segment(b->log, note_segment, &d);
	if (!d.count)
		return;
	err = log_drop(b->log, d.keys, d.count);
	if (err)
		die("dropping segments", err);
}

static struct result measure_journal(struct bench *b, unsigned window,
				     double *ret_frame_bytes)
{
	const struct log_stats *stats = log_stats(b->log);
	struct client c = {.bench = b, .window = window};
	uint64_t frames = stats->frames, bytes = stats->disk_bytes;
	struct result r;
	double seconds;
	int err;

	samples.count = 0;
	io_random(b->io, c.body, sizeof(c.body));
	c.again.run = client_append;
	c.slots = calloc(window, sizeof(*c.slots));
	if (!c.slots)
		die("memory", -ENOMEM);
	err = loop_create(b->io, "client", &c.loop);
	if (!err)
		err = loop_start(c.loop, client_begin, &c);
	if (err)
		die("the client loop", err);
	loop_join(c.loop);
	loop_free(c.loop);
	free(c.slots);
	frames = stats->frames - frames;
	bytes = stats->disk_bytes - bytes;
	seconds = (double)(c.ended_ns - c.begun_ns) / 1e9;
	r.rate = (double)c.count / seconds;
	r.bytes = (double)bytes / seconds;
	r.p50_us = sample_quantile(0.5);
	r.p99_us = sample_quantile(0.99);
	*ret_frame_bytes = (double)bytes / (double)base_max(frames, 1);
	return r;
}

static void on_committed(void *ctx, struct log_batch *batch)
{
	log_batch_free(batch);
}

static void on_failed(void *ctx, int err, const char *why)
{
	fprintf(stderr, "bench journal: %s\n", why);
	exit(1);
}

static void open_journal(struct bench *b)
{
	int err;

	err = crypto_key_random(b->io, &b->key);
	if (err)
		die("a key", err);
	if (asprintf(&b->log_dir, "%s/journal", b->dir) < 0)
		die("memory", -ENOMEM);
	err = io_mkdir(b->io, b->log_dir);
	if (!err)
		err = log_create(
			&(struct log_options){
				.io = b->io,
				.dir = b->log_dir,
				.master = b->key,
				.committed = on_committed,
				.failed = on_failed,
				.ctx = b,
			},
			&b->log);
	if (!err)
		err = log_claim(b->log);
	if (!err)
		err = log_recover(b->log, NULL, NULL, NULL);
	if (!err)
		err = loop_create(b->io, "journal", &b->journal);
	if (!err)
		err = log_start(b->log, b->journal);
	if (!err)
		err = loop_start(b->journal, NULL, NULL);
	if (err)
		die(b->log ? log_why(b->log) : b->log_dir, err);
}

struct stopping {
	struct loop_mail mail;
	struct bench *bench;
};

static void log_stopped(void *ctx)
{
	struct bench *b = ctx;

	loop_stop(b->journal);
}

static void stop_log(struct loop_mail *mail)
{
	struct bench *b = container_of(mail, struct stopping, mail)->bench;

	log_stop(b->log, log_stopped, b);
}

static void close_journal(struct bench *b)
{
	struct stopping s = {.mail.deliver = stop_log, .bench = b};

	loop_post(b->journal, &s.mail);
	loop_join(b->journal);
	loop_free(b->journal);
	log_free(b->log);
	crypto_key_free(b->key);
	free(b->log_dir);
}

/* ---- rounds ---- */

enum side { DEVICE_ONE, JOURNAL_ONE, DEVICE_MANY, JOURNAL_MANY, SIDES };

struct rounds {
	unsigned count;
	struct result results[SIDES][ROUNDS_MAX];
	double frame_bytes[ROUNDS_MAX];
};

static void run_round(struct bench *b, struct rounds *all, unsigned round)
{
	double frame_bytes = 0;
	size_t write_bytes;

	for (unsigned i = 0; i < 2; i++) {
		/* Each side goes first every other round. */
		if ((i + round) % 2)
			all->results[DEVICE_ONE][round] =
				measure_device(b, IO_BLOCK, 1);
		else
			all->results[JOURNAL_ONE][round] =
				measure_journal(b, 1, &frame_bytes);
	}
	/* The device needs the journal's frame size, so the first round's
	 * order is fixed; later rounds use the last one's. */
	for (unsigned i = 0; i < 2; i++) {
		if ((i + round) % 2 == 0) {
			all->results[JOURNAL_MANY][round] = measure_journal(
				b, WINDOW, &all->frame_bytes[round]);
			drop_segments(b);
			continue;
		}
		frame_bytes = all->frame_bytes[i ? round : round - 1];
		write_bytes = base_round_up((uint64_t)frame_bytes, IO_BLOCK);
		all->results[DEVICE_MANY][round] = measure_device(
			b, base_min(write_bytes, DEVICE_WRITE_MAX),
			DEVICE_IN_FLIGHT);
	}
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

struct spread {
	double median, least, most;
};

static struct spread spread_of(const double *values, unsigned count)
{
	double sorted[ROUNDS_MAX];

	memcpy(sorted, values, count * sizeof(*values));
	qsort(sorted, count, sizeof(*sorted), compare_double);
	return (struct spread){.median = sorted[count / 2],
			       .least = sorted[0],
			       .most = sorted[count - 1]};
}

static struct spread spread_rates(const struct rounds *all, enum side side)
{
	double values[ROUNDS_MAX] = {0};

	for (unsigned i = 0; i < all->count; i++)
		values[i] = all->results[side][i].rate;
	return spread_of(values, all->count);
}

static struct spread spread_bytes(const struct rounds *all, enum side side)
{
	double values[ROUNDS_MAX] = {0};

	for (unsigned i = 0; i < all->count; i++)
		values[i] = all->results[side][i].bytes;
	return spread_of(values, all->count);
}

/* Ratios within a round, so that drift between rounds cancels. */
static struct spread spread_ratio(const struct rounds *all, enum side ours,
				  enum side theirs, bool bytes)
{
	double values[ROUNDS_MAX] = {0};

	for (unsigned i = 0; i < all->count; i++) {
		const struct result *a = &all->results[ours][i];
		const struct result *b = &all->results[theirs][i];

		values[i] = bytes ? a->bytes / b->bytes : a->rate / b->rate;
	}
	return spread_of(values, all->count);
}

static double median_p(const struct rounds *all, enum side side, bool p99)
{
	double values[ROUNDS_MAX] = {0};

	for (unsigned i = 0; i < all->count; i++)
		values[i] = p99 ? all->results[side][i].p99_us
				: all->results[side][i].p50_us;
	return spread_of(values, all->count).median;
}

static void print_table(const struct rounds *all, const char *engine)
{
	struct spread d1 = spread_rates(all, DEVICE_ONE);
	struct spread j1 = spread_rates(all, JOURNAL_ONE);
	struct spread r1 = spread_ratio(all, JOURNAL_ONE, DEVICE_ONE, false);
	struct spread dm = spread_bytes(all, DEVICE_MANY);
	struct spread jm = spread_bytes(all, JOURNAL_MANY);
	struct spread rm = spread_ratio(all, JOURNAL_MANY, DEVICE_MANY, true);
	struct spread records = spread_rates(all, JOURNAL_MANY);

	printf("journal against device, %s, %u rounds: median (least to "
	       "most)\n",
	       engine, all->count);
	printf("one at a time   device   %.0f /s (%.0f to %.0f)   p50 %.0f "
	       "µs p99 %.0f µs\n",
	       d1.median, d1.least, d1.most, median_p(all, DEVICE_ONE, false),
	       median_p(all, DEVICE_ONE, true));
	printf("                journal  %.0f /s (%.0f to %.0f)   p50 %.0f "
	       "µs p99 %.0f µs\n",
	       j1.median, j1.least, j1.most, median_p(all, JOURNAL_ONE, false),
	       median_p(all, JOURNAL_ONE, true));
	printf("                ratio    %.2f (%.2f to %.2f)\n", r1.median,
	       r1.least, r1.most);
	printf("saturated       device   %.0f MB/s (%.0f to %.0f)   writes "
	       "of about %.0f KiB, %u in flight\n",
	       dm.median / 1e6, dm.least / 1e6, dm.most / 1e6,
	       all->frame_bytes[all->count - 1] / 1024, DEVICE_IN_FLIGHT);
	printf("                journal  %.0f MB/s (%.0f to %.0f)   %.0f "
	       "records/s of 1 KiB\n",
	       jm.median / 1e6, jm.least / 1e6, jm.most / 1e6, records.median);
	printf("                ratio    %.2f (%.2f to %.2f)\n", rm.median,
	       rm.least, rm.most);
}

static json_t *spread_json(struct spread s)
{
	return json_pack("{s:f, s:f, s:f}", "median", s.median, "min", s.least,
			 "max", s.most);
}

static void print_json(const struct rounds *all, const char *engine)
{
	json_t *o = json_pack(
		"{s:s, s:i, s:o, s:o, s:o, s:f, s:f, s:o, s:o, s:o, s:o}",
		"engine", engine, "rounds", (int)all->count,
		"device_one_per_second",
		spread_json(spread_rates(all, DEVICE_ONE)),
		"journal_one_per_second",
		spread_json(spread_rates(all, JOURNAL_ONE)), "one_ratio",
		spread_json(spread_ratio(all, JOURNAL_ONE, DEVICE_ONE, false)),
		"device_one_p50_us", median_p(all, DEVICE_ONE, false),
		"journal_one_p50_us", median_p(all, JOURNAL_ONE, false),
		"device_bytes_per_second",
		spread_json(spread_bytes(all, DEVICE_MANY)),
		"journal_bytes_per_second",
		spread_json(spread_bytes(all, JOURNAL_MANY)), "saturated_ratio",
		spread_json(spread_ratio(all, JOURNAL_MANY, DEVICE_MANY, true)),
		"journal_records_per_second",
		spread_json(spread_rates(all, JOURNAL_MANY)));

	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static int usage(void)
{
	fputs("usage: bench/journal [--dir DIR] [--rounds N] [--ms N] "
	      "[--json]\n"
	      "Measures the journal against the device in a new directory "
	      "below DIR (build/tmp).\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static struct rounds all = {.count = 5};
	static struct bench b = {.phase_ns = 1000000000u};
	const char *below = "build/tmp", *reason;
	bool json = false;
	int err;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			json = true;
		else if (!strcmp(argv[i], "--dir") && i + 1 < argc)
			below = argv[++i];
		else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
			all.count = (unsigned)atoi(argv[++i]);
		else if (!strcmp(argv[i], "--ms") && i + 1 < argc)
			b.phase_ns = strtoull(argv[++i], NULL, 10) * 1000000u;
		else
			return usage();
	}
	if (all.count < 1 || all.count > ROUNDS_MAX || !b.phase_ns)
		return usage();
	err = crypto_init();
	if (!err)
		err = io_create(IO_ENGINE_AUTO, &b.io, &reason);
	if (err)
		die("input and output", err);
	snprintf(b.dir, sizeof(b.dir), "%s/bench-journal-%d", below,
		 (int)getpid());
	err = io_mkdir(b.io, b.dir);
	if (err)
		die(b.dir, err);
	open_device(&b);
	open_journal(&b);
	for (unsigned i = 0; i < all.count; i++)
		run_round(&b, &all, i);
	if (json)
		print_json(&all, io_engine_name(b.io));
	else
		print_table(&all, io_engine_name(b.io));
	close_journal(&b);
	io_close(b.file);
	io_buffer_free(b.buf);
	io_free(b.io);
	return 0;
}
