/* journal/store/scrub.c: reads everything that is kept, once in a while.
 *
 * A *round* goes over the checkpoints, the extent files and the closed
 * segments in the order of their names.  It runs on the extents loop, a slice
 * at a time with a pause after each, so that copying goes first.  Which file
 * comes next, and what lies in a damaged part, only the store's thread knows:
 * it is asked by mail.
 *
 * Nothing is repaired and nothing deleted: damage is reported and stays.
 * Where a round has got to is kept in a small text file.  It is written
 * without a sync: when it is lost or garbage the round starts over, and
 * nothing else depends on it. */
#include <inttypes.h>
#include <string.h>

#include "base/logger.h"
#include "journal/log/verify.h"
#include "journal/store/internal.h"
#include "journal/store/scrub_name.h"

#define SLICE_BYTES (1024u * 1024u)
#define RATE_MAX_DEFAULT (32u * 1024u * 1024u)
#define RATE_MIN (1024u * 1024u)
#define IDLE_NS 60000000000ull
#define START_NS 30000000000ull
#define RETRY_NS 10000000000ull
#define RETRY_COUNT_MAX 5u
#define NAME_BYTES sizeof(((struct scrub_damaged *)0)->file)
#define PROGRESS_NAME "scrub"
#define PROGRESS_BYTES_MAX 512u

enum scrub_kind { SCRUB_CHECKPOINT, SCRUB_EXTENTS, SCRUB_SEGMENT };

struct scrub_target {
	enum scrub_kind kind;
	char name[NAME_BYTES]; /* "segments/..." */
	uint64_t key, bytes;
	struct log_segment_info info; /* of a segment */
	bool end_is_exact;
};

enum scrub_state {
	SCRUB_IDLE,   /* until the next round is due */
	SCRUB_ASKING, /* the store's thread looks for the next file */
	SCRUB_READING,
	SCRUB_NAMING, /* the store's thread looks whose the damage is */
	SCRUB_RESTED,
};

struct scrub {
	struct store *store;
	struct loop_mail begin, now, end, rest;
	_Atomic bool now_posted, started;
	bool rested; /* [store] */

	/* The extents loop, but for what a question lends to the store. */
	struct loop_timer timer;
	struct loop_mail question;
	enum scrub_state state;
	bool begun, stopping;
	bool hurried;			  /* somebody waits for this round */
	uint64_t started_ms, finished_ms; /* this round or the last one */
	bool in_round;
	char position[NAME_BYTES]; /* the last file that is done */
	uint64_t round_files, round_bytes, round_damage;
	uint64_t total_bytes; /* to read in a round */
	struct scrub_target target;
	bool any; /* there is a target */
	struct log_check *check;
	unsigned tries;
	struct scrub_damaged damaged; /* of the target */
};

int scrub_create(struct store *store, struct scrub **ret)
{
	struct scrub *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->store = store;
	*ret = s;
	return 0;
}

void scrub_free(struct scrub *s)
{
	if (!s)
		return;
	log_check_free(s->check);
	free(s);
}

bool scrub_is_busy(const struct scrub *s)
{
	return s->started && !s->rested;
}

/* ---- where a round has got to ---- */

static void progress_path(const struct scrub *s, const char *suffix,
			  char ret[CHECKPOINT_PATH_MAX])
{
	snprintf(ret, CHECKPOINT_PATH_MAX, "%s/" PROGRESS_NAME "%s",
		 s->store->dir, suffix);
}

static void progress_load(struct scrub *s)
{
	char path[CHECKPOINT_PATH_MAX], text[PROGRESS_BYTES_MAX + 1];
	uint64_t started, finished, files, bytes, damage;
	char position[NAME_BYTES];
	struct io_file *file;
	size_t len = 0;
	int err;

	progress_path(s, "", path);
	err = io_open(s->store->options.io, path, IO_READ, &file);
	if (err)
		return;
	err = io_read(file, text, PROGRESS_BYTES_MAX, 0, &len);
	io_close(file);
	if (err)
		return;
	text[len] = '\0';
	if (sscanf(text,
		   "holdfast scrub 1\nstarted %" SCNu64 "\nfinished %" SCNu64
		   "\nposition %63s\nfiles %" SCNu64 "\nbytes %" SCNu64
		   "\ndamage %" SCNu64 "\n",
		   &started, &finished, position, &files, &bytes,
		   &damage) != 6 ||
	    started > io_wall_ms(s->store->options.io))
		return;
	s->started_ms = started;
	s->finished_ms = finished;
	s->in_round = finished < started;
	s->round_files = files;
	s->round_bytes = bytes;
	s->round_damage = damage;
	if (strcmp(position, "-") != 0)
		memcpy(s->position, position, sizeof(position));
	s->store->stats.scrub_finished_ms = finished;
}

static void progress_save(struct scrub *s)
{
	char path[CHECKPOINT_PATH_MAX], tmp[CHECKPOINT_PATH_MAX];
	char text[PROGRESS_BYTES_MAX];
	struct io_file *file;
	int err, len;

	progress_path(s, "", path);
	progress_path(s, ".tmp", tmp);
	len = snprintf(text, sizeof(text),
		       "holdfast scrub 1\nstarted %" PRIu64
		       "\nfinished %" PRIu64 "\nposition %s\nfiles %" PRIu64
		       "\nbytes %" PRIu64 "\ndamage %" PRIu64 "\n",
		       s->started_ms, s->finished_ms,
		       s->position[0] ? s->position : "-", s->round_files,
		       s->round_bytes, s->round_damage);
	err = io_open(s->store->options.io, tmp, IO_WRITE | IO_CREATE, &file);
	if (!err) {
		err = io_truncate(file, 0);
		if (!err)
			err = io_write(file, text, (size_t)len, 0);
		io_close(file);
	}
	if (!err)
		err = io_rename(s->store->options.io, tmp, path);
	if (err)
		logger_debug("store", "scrub-progress", "error=%s",
			     LOGGER_QUOTE(err_str(err)));
}

/* ---- what is next: on the store's thread ---- */

struct choosing {
	struct scrub *scrub;
	struct log_segment_info previous;
};

static void consider(struct scrub *s, const struct scrub_target *t)
{
	s->total_bytes += t->bytes;
	if (strcmp(t->name, s->position) <= 0)
		return;
	if (s->any && strcmp(t->name, s->target.name) >= 0)
		return;
	s->target = *t;
	s->any = true;
}

static void consider_segment(struct choosing *c, bool end_is_exact)
{
	struct scrub_target t = {
		.kind = SCRUB_SEGMENT,
		.key = c->previous.key,
		.bytes = c->previous.bytes,
		.info = c->previous,
		.end_is_exact = end_is_exact,
	};

	if (c->previous.active || c->previous.end_lsn <= c->previous.first_lsn)
		return;
	snprintf(t.name, sizeof(t.name), "segments/%08x-%08x.log",
		 (unsigned)(t.key >> 32), (unsigned)t.key);
	consider(c->scrub, &t);
}

/* Where a segment's records end is known exactly when it was closed by this
 * process, or when the one after it is the next in sequence. */
static int choose_segment(void *ctx, const struct log_segment_info *info)
{
	struct choosing *c = ctx;
	uint32_t epoch = log_epoch(c->scrub->store->log);
	uint64_t key = c->previous.key;

	if (key)
		consider_segment(c, key >> 32 == epoch ||
					    (uint32_t)info->key ==
						    (uint32_t)key + 1);
	c->previous = *info;
	return 0;
}

static void choose_checkpoints(struct scrub *s)
{
	const struct store *store = s->store;

	for (size_t i = 0; i < store->kept_count; i++) {
		struct scrub_target t = {.kind = SCRUB_CHECKPOINT};

		snprintf(t.name, sizeof(t.name), CHECKPOINT_DIR "/%s",
			 store->kept[i].name);
		t.info.first_lsn = store->kept[i].lsn;
		consider(s, &t);
	}
}

static void extents_target(uint64_t key, char ret[NAME_BYTES])
{
	char name[EXTENT_NAME_BYTES];

	extent_name(key, name);
	snprintf(ret, NAME_BYTES, EXTENT_DIR "/%s", name);
}

static void choose_extents(struct scrub *s)
{
	const struct state *state = &s->store->state;

	for (size_t i = 0; i < state->file_count; i++) {
		const struct state_file *f = &state->files[i];
		struct scrub_target t = {.kind = SCRUB_EXTENTS,
					 .key = f->key,
					 .bytes = f->bytes};

		if (!store_is_extent(f->key) || !f->live)
			continue;
		extents_target(f->key, t.name);
		consider(s, &t);
	}
}

static void reply(struct scrub *s, void (*deliver)(struct loop_mail *))
{
	s->question.deliver = deliver;
	loop_post(s->store->extents_loop, &s->question);
}

static void asked(struct loop_mail *mail);
static void named(struct loop_mail *mail);

static void choose(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, question);
	struct choosing c = {.scrub = s};

	s->any = false;
	s->total_bytes = 0;
	choose_checkpoints(s);
	choose_extents(s);
	if (!log_each_segment(s->store->log, choose_segment, &c) &&
	    c.previous.key)
		consider_segment(&c, c.previous.key >> 32 ==
					     log_epoch(s->store->log));
	reply(s, asked);
}

/* ---- whose is it: on the store's thread ---- */

static int is_target(void *ctx, const struct log_segment_info *info)
{
	const struct scrub_target *t = ctx;

	return info->key == t->key;
}

/* What has been removed meanwhile is not damaged. */
static bool target_is_there(struct scrub *s)
{
	const struct store *store = s->store;
	const struct state_file *f;

	switch (s->target.kind) {
	case SCRUB_CHECKPOINT:
		for (size_t i = 0; i < store->kept_count; i++)
			if (!strcmp(s->target.name + sizeof(CHECKPOINT_DIR),
				    store->kept[i].name))
				return true;
		return false;
	case SCRUB_EXTENTS:
		f = state_find_file(&store->state, s->target.key);
		return f && f->live;
	case SCRUB_SEGMENT:
		return log_each_segment(store->log, is_target, &s->target) == 1;
	}
	return false;
}

static void name_damage(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, question);

	if (target_is_there(s))
		scrub_name(s->store, &s->damaged);
	else
		s->damaged.told = 0;
	reply(s, named);
}

/* ---- a round: on the extents loop ---- */

static uint64_t scrub_rate(const struct scrub *s)
{
	const struct store_options *o = &s->store->options;
	uint64_t most =
		o->scrub_bytes_per_s ? o->scrub_bytes_per_s : RATE_MAX_DEFAULT;
	uint64_t seconds = o->scrub_ns / 2000000000u;
	uint64_t rate = seconds ? s->total_bytes / seconds : most;

	if (s->hurried)
		return most;
	/* Evenly, in half of the time, but not so slowly that short-lived
	 * files are never met. */
	return base_min(base_max(rate, RATE_MIN), most);
}

static void set_timer(struct scrub *s, uint64_t ns)
{
	loop_timer_set(s->store->extents_loop, &s->timer, ns);
}

static void ask(struct scrub *s)
{
	s->state = SCRUB_ASKING;
	s->question.deliver = choose;
	loop_post(s->store->loop, &s->question);
}

static uint64_t round_due_in_ns(const struct scrub *s)
{
	uint64_t now_ms = io_wall_ms(s->store->options.io);
	uint64_t due_ms = s->started_ms + s->store->options.scrub_ns / 1000000;

	return due_ms > now_ms ? (due_ms - now_ms) * 1000000 : 0;
}

static void become_idle(struct scrub *s)
{
	uint64_t due =
		s->store->options.scrub_ns ? round_due_in_ns(s) : UINT64_MAX;

	s->state = SCRUB_IDLE;
	set_timer(s, base_min(base_max(due, 1000000), IDLE_NS));
}

static void round_begin(struct scrub *s)
{
	if (!s->in_round) {
		s->in_round = true;
		s->started_ms = io_wall_ms(s->store->options.io);
		s->round_files = s->round_bytes = s->round_damage = 0;
		s->position[0] = '\0';
	}
	ask(s);
}

static void round_end(struct scrub *s)
{
	struct store_stats *stats = &s->store->stats;
	uint64_t now = io_wall_ms(s->store->options.io);

	s->finished_ms = base_max(now, s->started_ms);
	s->in_round = s->hurried = false;
	s->position[0] = '\0';
	stats->scrub_rounds++;
	stats->scrub_finished_ms = s->finished_ms;
	progress_save(s);
	logger_info("store", "scrub-finished",
		    "files=%" PRIu64 " bytes=%" PRIu64 " damage=%" PRIu64
		    " seconds=%" PRIu64,
		    s->round_files, s->round_bytes, s->round_damage,
		    (s->finished_ms - s->started_ms) / 1000);
	become_idle(s);
}

static void file_end(struct scrub *s)
{
	log_check_free(s->check);
	s->check = NULL;
	s->tries = 0;
	memcpy(s->position, s->target.name, sizeof(s->position));
	progress_save(s);
	ask(s);
}

/* Damage to be named goes first, then the next file. */
static void file_done(struct scrub *s)
{
	s->round_files++;
	s->store->stats.scrub_files++;
	if (!s->damaged.count) {
		file_end(s);
		return;
	}
	s->state = SCRUB_NAMING;
	s->question.deliver = name_damage;
	loop_post(s->store->loop, &s->question);
}

static void rest(struct scrub *s);

static void named(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, question);

	s->round_damage += s->damaged.told;
	s->damaged.count = 0;
	if (s->stopping)
		rest(s);
	else
		file_end(s);
}

static void on_found(void *ctx, const struct log_damage *d)
{
	struct scrub *s = ctx;
	struct log_damage *found = s->damaged.found;
	struct log_damage *last = &found[SCRUB_FOUND_MAX - 1];

	if (s->damaged.count < SCRUB_FOUND_MAX) {
		found[s->damaged.count++] = *d;
		return;
	}
	last->bytes =
		base_max(last->bytes, d->offset + d->bytes - last->offset);
	last->last_lsn = base_max(last->last_lsn, d->last_lsn);
	last->only_if_live &= d->only_if_live;
}

/* The file could not be looked at, which says nothing about it. */
static void try_later(struct scrub *s, int err)
{
	log_check_free(s->check);
	s->check = NULL;
	s->damaged.count = 0;
	if (++s->tries < RETRY_COUNT_MAX) {
		set_timer(s, RETRY_NS);
		return;
	}
	logger_warn("store", "scrub-skipped", "file=%s error=%s",
		    LOGGER_QUOTE(s->target.name), LOGGER_QUOTE(err_str(err)));
	file_end(s);
}

static int file_open(struct scrub *s)
{
	const struct scrub_target *t = &s->target;
	struct io *io = s->store->options.io;
	char path[CHECKPOINT_PATH_MAX];

	if (t->kind == SCRUB_SEGMENT)
		return log_check_segment(io, s->store->dir,
					 s->store->place.identity.cluster_id,
					 &t->info, t->end_is_exact, &s->check);
	snprintf(path, sizeof(path), "%s/%s", s->store->dir, t->name);
	return log_check_blob(io, path, t->bytes, &s->check);
}

static void read_slice(struct scrub *s)
{
	struct log_damage whole = {.bytes = base_max(s->target.bytes, 1),
				   .err = -EIO};
	uint64_t bytes = 0;
	int err = s->check ? 0 : file_open(s);

	if (err == -ENOENT) { /* removed meanwhile */
		file_end(s);
		return;
	}
	if (err == -EIO) {
		on_found(s, &whole);
		file_done(s);
		return;
	}
	if (!err)
		err = log_check_step(s->check, SLICE_BYTES, on_found, s,
				     &bytes);
	if (err < 0) {
		try_later(s, err);
		return;
	}
	s->round_bytes += bytes;
	s->store->stats.scrub_bytes += bytes;
	if (err)
		file_done(s);
	else
		set_timer(s, bytes * 1000000000u / scrub_rate(s));
}

static void asked(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, question);

	if (s->stopping) {
		rest(s);
	} else if (!s->any) {
		round_end(s);
	} else {
		s->state = SCRUB_READING;
		s->damaged.count = 0;
		s->damaged.key =
			s->target.kind == SCRUB_CHECKPOINT ? 0 : s->target.key;
		memcpy(s->damaged.file, s->target.name, NAME_BYTES);
		set_timer(s, 0);
	}
}

/* ---- what is gone is history ---- */

static int forget_if_gone(void *ctx, const struct store_damage *d)
{
	struct scrub *s = ctx;
	char path[CHECKPOINT_PATH_MAX];
	struct io_file *file;
	int err;

	if (!d->file[0])
		return 0;
	snprintf(path, sizeof(path), "%s/%s", s->store->dir, d->file);
	err = io_open(s->store->options.io, path, IO_READ, &file);
	if (!err)
		io_close(file);
	else if (err == -ENOENT)
		quarantine_forget_file(s->store, d->file);
	return 0;
}

/* Whoever reads a file that is being removed may report it afterwards. */
static void forget_removed(struct scrub *s)
{
	int err = 0;

	if (s->store->stats.damage)
		err = store_each_damage(s->store, forget_if_gone, s);
	(void)err; /* no memory: in a minute */
}

/* ---- life ---- */

static void timer_fired(struct loop_timer *timer)
{
	struct scrub *s = container_of(timer, struct scrub, timer);

	if (s->state == SCRUB_READING) {
		read_slice(s);
		return;
	}
	ASSERT(s->state == SCRUB_IDLE);
	forget_removed(s);
	if (s->store->options.scrub_ns && (s->in_round || !round_due_in_ns(s)))
		round_begin(s);
	else
		become_idle(s);
}

static void begin(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, begin);
	uint64_t ns = base_min(s->store->options.scrub_ns / 16, START_NS);

	s->begun = true;
	progress_load(s);
	become_idle(s);
	/* A start has other things to do first. */
	if (s->store->options.scrub_ns)
		set_timer(s, base_max(ns, 1));
}

static void begin_now(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, now);

	s->now_posted = false;
	s->hurried = true;
	if (s->begun && !s->stopping && s->state == SCRUB_IDLE) {
		loop_timer_cancel(s->store->extents_loop, &s->timer);
		round_begin(s);
	}
}

void store_scrub_now(struct store *store)
{
	struct scrub *s = store->scrub;

	if (s->started && !atomic_exchange(&s->now_posted, true))
		loop_post(store->extents_loop, &s->now);
}

static void has_rested(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, rest);

	s->rested = true;
	store_idle(s->store);
}

static void rest(struct scrub *s)
{
	s->state = SCRUB_RESTED;
	log_check_free(s->check);
	s->check = NULL;
	loop_post(s->store->loop, &s->rest);
}

static void end(struct loop_mail *mail)
{
	struct scrub *s = container_of(mail, struct scrub, end);

	s->stopping = true;
	loop_timer_cancel(s->store->extents_loop, &s->timer);
	if (s->state == SCRUB_IDLE || s->state == SCRUB_READING)
		rest(s);
}

void scrub_start(struct store *store)
{
	struct scrub *s = store->scrub;

	s->timer.fire = timer_fired;
	s->begin.deliver = begin;
	s->now.deliver = begin_now;
	s->end.deliver = end;
	s->rest.deliver = has_rested;
	s->started = true;
	loop_post(store->extents_loop, &s->begin);
}

void scrub_stop(struct store *store)
{
	if (store->scrub->started)
		loop_post(store->extents_loop, &store->scrub->end);
}
