/* journal/store/compact.c: what is moved to extent files, and when.
 *
 * A *job* writes one extent file.  It empties one victim after the other,
 * window by window (victim.h, copy.h), until the file is full or nothing is
 * due; then the file is made durable, and a record says what lies in it.  When
 * the record comes back with a committed batch the state moves everything at
 * once, as it will in every replay.  Until the next job nothing is remembered
 * but which files could not be emptied, because something in them is damaged.
 *
 * Due are, in this order: the oldest closed segments, while more is known of
 * single messages than there is memory for (then the active one, too), while
 * closed segments hold more than hot_bytes, or when they were closed hot_ns
 * ago; the emptiest of them, while what is dead in them is more than a
 * sixteenth of hot_bytes: a backlog that grows is not copied while nothing
 * would be gained; extent files less than half live; many small ones.  Without
 * space for another segment: only what gives back more than it takes, cheapest
 * first.
 *
 * Crash argument.  (1) The file is synced, with its directory, before the
 * record is appended: a committed record names a file that is whole.  (2)
 * Nothing in the old place counts as moved before the record is committed: a
 * crash before that leaves a stray, and every message where it was.  (3) What
 * has left meanwhile is gone from the state, and the record does not bring it
 * back.  (4) An extent file is removed when no committed record leaves
 * anything in it, after a claim check; a replay from an older checkpoint does
 * not read it.  A segment is (store.c), only when both checkpoints lie behind
 * it.  (5) A file's number is never used twice: epochs are not, and within
 * one they rise. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/copy.h"
#include "journal/store/internal.h"
#include "journal/store/victim.h"

#define PASSED_MAX 64u
/* Runs that a plan may give beyond what it was told: see victim_plan(). */
#define RUN_SLACK (2u * (COPY_BYTES_MAX / EXTENT_RUN_BYTES) + 8u)
#define QUIET_NS 4000000000ull
#define QUIET_SHARE 8u	 /* of the memory, when nothing happens */
#define DEAD_RATIO 16u	 /* of hot_bytes, what may be dead in it */
#define RECORD_BYTES 64u /* of a message's in the journal, without its body */
#define SMALL_FILES_MIN 16u /* worth a merge */
#define SMALL_RATIO 8u	    /* of extent_bytes */
#define SMALL_BYTES_MIN (32u * 1024u)
/* Without space a file is kept short, so that what it frees comes soon. */
#define TIGHT_BYTES (16u * 1024u * 1024u)
#define ENTRIES_AGAIN 1024u
#define RETRY_NS 1000000000ull
#define RETRY_LATER_NS (10u * 1000000000ull)

enum compact_at {
	AT_REST,
	AT_WINDOW,  /* a step is with the copier */
	AT_FINISH,  /* so is the file's end */
	AT_ABANDON, /* or its removal */
	AT_RECORD,  /* the record is being committed */
	AT_RETRY,   /* waits for space or memory */
};

/* A segment in which something is needed. */
struct candidate {
	uint64_t key, bytes;
	uint64_t closed_ns; /* when that was first seen */
	bool active;
};

struct compact {
	struct store *store;
	struct copier *copier;
	struct copy_step step;
	enum compact_at at;
	bool look, stopping;
	bool freed; /* much memory, since it was last trimmed */
	uint64_t seen_segment;
	uint64_t entries_vain; /* nothing was found to be moved at fewer */
	struct loop_timer timer;
	unsigned failures; /* in a row */

	/* The job. */
	bool open; /* a file is being written */
	bool merging;
	uint32_t number;
	struct victim victim;
	uint64_t passed[PASSED_MAX]; /* victims that were planned whole */
	size_t passed_count;
	uint64_t planned; /* entries that the record will turn into runs */
	uint8_t *meta;
	struct log_append append;
	struct log_note note;

	struct candidate *candidates;
	size_t candidate_count, candidate_capacity;
	uint64_t *left; /* files that cannot be emptied */
	size_t left_count, left_capacity;
};

static void next_step(struct compact *c);

/* ---- looking ---- */

static bool is_among(const uint64_t *keys, size_t count, uint64_t key)
{
	for (size_t i = 0; i < count; i++)
		if (keys[i] == key)
			return true;
	return false;
}

static bool is_set_aside(const struct compact *c, uint64_t key)
{
	return is_among(c->passed, c->passed_count, key) ||
	       is_among(c->left, c->left_count, key);
}

struct look {
	struct compact *compact;
	struct candidate *found;
	size_t count, capacity, at;
	uint64_t now_ns;
};

static int look_at_segment(void *ctx, const struct log_segment_info *info)
{
	struct look *l = ctx;
	struct compact *c = l->compact;
	struct store *s = c->store;
	struct candidate *grown;
	size_t capacity = l->capacity ? l->capacity * 2 : 16;
	uint64_t closed_ns = l->now_ns;
	bool active = info->key == s->position.segment;

	/* Ours, but still empty; or gone. */
	if ((!active && (info->active || !info->end_lsn)) ||
	    !state_file_live(&s->state, info->key))
		return 0;
	while (l->at < c->candidate_count &&
	       c->candidates[l->at].key < info->key)
		l->at++;
	if (l->at < c->candidate_count &&
	    c->candidates[l->at].key == info->key &&
	    !c->candidates[l->at].active)
		closed_ns = c->candidates[l->at].closed_ns;
	if (l->count == l->capacity) {
		grown = realloc(l->found, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		l->found = grown;
		l->capacity = capacity;
	}
	l->found[l->count++] = (struct candidate){
		.key = info->key,
		.bytes = active ? s->position.offset : info->bytes,
		.closed_ns = closed_ns,
		.active = active,
	};
	return 0;
}

static int look_at_segments(struct compact *c)
{
	struct look l = {.compact = c, .now_ns = loop_now_ns(c->store->loop)};
	int err = log_each_segment(c->store->log, look_at_segment, &l);

	if (err) {
		free(l.found);
		return err;
	}
	free(c->candidates);
	c->candidates = l.found;
	c->candidate_count = l.count;
	c->candidate_capacity = l.capacity;
	return 0;
}

/* What was damaged may have been consumed, purged, or its queue deleted. */
static void forget_left(struct compact *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->left_count; i++)
		if (state_file_live(&c->store->state, c->left[i]))
			c->left[kept++] = c->left[i];
	c->left_count = kept;
}

/* ---- choosing ---- */

/* Of so many entries, were all alike. */
static uint64_t entry_memory(const struct compact *c, uint64_t entries)
{
	const struct state *s = &c->store->state;

	if (!s->entry_count)
		return 0;
	return (uint64_t)((double)s->entry_bytes / (double)s->entry_count *
			  (double)entries);
}

/* Nobody has done anything to a message for a while. */
static bool is_quiet(const struct compact *c)
{
	const struct store *s = c->store;

	return loop_now_ns(s->loop) - s->touched_ns >= QUIET_NS;
}

static uint64_t memory_share(const struct compact *c)
{
	uint64_t bytes = c->store->options.memory_bytes;

	return is_quiet(c) ? bytes / QUIET_SHARE : bytes;
}

static bool is_pressed(const struct compact *c)
{
	uint64_t memory = state_memory(&c->store->state);

	return memory > memory_share(c) + entry_memory(c, c->planned);
}

/* The oldest closed segment that is not set aside; the active one with
 * *ret_active. */
static const struct candidate *oldest(const struct compact *c,
				      uint64_t *ret_closed_bytes,
				      const struct candidate **ret_active)
{
	const struct candidate *first = NULL;

	*ret_closed_bytes = 0;
	*ret_active = NULL;
	for (size_t i = 0; i < c->candidate_count; i++) {
		const struct candidate *found = &c->candidates[i];

		if (is_set_aside(c, found->key))
			continue;
		if (found->active) {
			*ret_active = found;
			continue;
		}
		if (!first)
			first = found;
		*ret_closed_bytes += found->bytes;
	}
	return first;
}

/* A segment is closed by what is published, and that may be waiting for
 * memory: then the active one's messages are moved, too. */
static bool is_crowded(const struct compact *c, const struct candidate *active)
{
	const struct store *s = c->store;
	const struct state_file *f = state_find_file(&s->state, active->key);

	return f && entry_memory(c, f->live) > memory_share(c) / 4;
}

/* The closed one with the largest dead share, if they are worth it together. */
static const struct candidate *emptiest(const struct compact *c)
{
	const struct candidate *best = NULL;
	uint64_t all_dead = 0;
	double best_share = 0;

	for (size_t i = 0; i < c->candidate_count; i++) {
		const struct candidate *found = &c->candidates[i];
		const struct state_file *f =
			state_find_file(&c->store->state, found->key);
		/* Of small messages half is records, which are not dead. */
		uint64_t live = f ? f->live_bytes + f->live * RECORD_BYTES : 0;
		uint64_t dead;
		double share;

		if (found->active || is_set_aside(c, found->key) ||
		    live >= found->bytes)
			continue;
		dead = found->bytes - live;
		share = (double)dead / (double)found->bytes;
		all_dead += dead;
		if (share > best_share) {
			best = found;
			best_share = share;
		}
	}
	return all_dead > c->store->options.hot_bytes / DEAD_RATIO ? best
								   : NULL;
}

static const struct candidate *choose_segment(const struct compact *c)
{
	const struct store_options *o = &c->store->options;
	const struct candidate *first, *active;
	/* What is nearly old enough goes along, for a fuller file. */
	uint64_t old_ns = c->open ? o->hot_ns - o->hot_ns / 4 : o->hot_ns;
	uint64_t closed_bytes;
	bool pressed = is_pressed(c);

	first = oldest(c, &closed_bytes, &active);
	if (first && (pressed || closed_bytes > o->hot_bytes ||
		      loop_now_ns(c->store->loop) - first->closed_ns >= old_ns))
		return first;
	if (pressed && active && is_crowded(c, active))
		return active;
	return emptiest(c);
}

static bool is_extent_victim(const struct compact *c,
			     const struct state_file *f)
{
	return f->live && store_is_extent(f->key) && !is_set_aside(c, f->key);
}

/* Merged when there are many, and not looked at otherwise: of one with little
 * in it the next would be no shorter, for what every file has beside. */
static bool is_small(const struct compact *c, const struct state_file *f)
{
	return f->bytes < base_max(c->store->options.extent_bytes / SMALL_RATIO,
				   SMALL_BYTES_MIN);
}

/* The one that is the least live, if it is less than half. */
static const struct state_file *choose_hollow(const struct compact *c)
{
	const struct state *s = &c->store->state;
	const struct state_file *best = NULL;

	for (size_t i = 0; i < s->file_count; i++) {
		const struct state_file *f = &s->files[i];

		if (!is_extent_victim(c, f) || is_small(c, f) ||
		    f->live_bytes * 2 >= f->bytes)
			continue;
		if (!best || f->live_bytes * (best->bytes / IO_BLOCK) <
				     best->live_bytes * (f->bytes / IO_BLOCK))
			best = f;
	}
	return best;
}

static const struct state_file *choose_small(struct compact *c)
{
	const struct state *s = &c->store->state;
	const struct state_file *first = NULL;
	size_t count = 0;

	for (size_t i = 0; i < s->file_count; i++) {
		const struct state_file *f = &s->files[i];

		if (!is_extent_victim(c, f) || !is_small(c, f))
			continue;
		if (!first)
			first = f;
		count++;
	}
	if (count < SMALL_FILES_MIN && !c->merging)
		return NULL;
	c->merging = first != NULL;
	return first;
}

/* The segment that gives back the most for the least. */
static const struct candidate *choose_cheap(const struct compact *c,
					    uint64_t *ret_live_bytes)
{
	const struct candidate *best = NULL;

	for (size_t i = 0; i < c->candidate_count; i++) {
		const struct candidate *found = &c->candidates[i];
		const struct state_file *f =
			state_find_file(&c->store->state, found->key);
		uint64_t live = f ? f->live_bytes : 0;

		if (found->active || is_set_aside(c, found->key) ||
		    live * 2 >= found->bytes)
			continue;
		if (!best || live < *ret_live_bytes) {
			best = found;
			*ret_live_bytes = live;
		}
	}
	return best;
}

struct choice {
	uint64_t key, bytes;
};

static bool choose(struct compact *c, struct choice *ret)
{
	const struct candidate *segment;
	const struct state_file *extent;
	uint64_t live_bytes = 0;

	if (c->passed_count == PASSED_MAX)
		return false;
	if (log_has_space(c->store->log)) {
		segment = choose_segment(c);
		extent = segment ? NULL : choose_hollow(c);
		if (!segment && !extent)
			extent = choose_small(c);
	} else {
		segment = choose_cheap(c, &live_bytes);
		extent = choose_hollow(c);
		if (segment && extent && extent->live_bytes > live_bytes)
			extent = NULL;
	}
	if (extent)
		*ret = (struct choice){.key = extent->key};
	else if (segment)
		*ret = (struct choice){segment->key, segment->bytes};
	return extent || segment;
}

/* ---- rest ---- */

static void set_timer(struct compact *c)
{
	const struct candidate *first, *active;
	uint64_t bytes, age_ns, hot_ns = c->store->options.hot_ns;
	uint64_t after_ns = UINT64_MAX;

	first = oldest(c, &bytes, &active);
	if (first) {
		age_ns = loop_now_ns(c->store->loop) - first->closed_ns;
		after_ns = age_ns < hot_ns ? hot_ns - age_ns : RETRY_NS;
	}
	if (!is_quiet(c))
		after_ns = base_min(after_ns, QUIET_NS);
	if (after_ns == UINT64_MAX)
		loop_timer_cancel(c->store->loop, &c->timer);
	else
		loop_timer_set(c->store->loop, &c->timer, after_ns);
}

/* Nothing is under way any more. */
static void rest(struct compact *c)
{
	c->at = AT_REST;
	if (c->stopping) {
		store_idle(c->store);
		return;
	}
	if (c->store->failed)
		return;
	set_timer(c);
	if (c->freed && is_quiet(c)) {
		c->freed = false;
		base_memory_trim();
	}
}

static void retry_later(struct compact *c)
{
	if (c->stopping || c->store->failed) {
		rest(c);
		return;
	}
	c->at = AT_RETRY;
	loop_timer_set(c->store->loop, &c->timer,
		       c->failures++ ? RETRY_LATER_NS : RETRY_NS);
}

/* ---- the end of a job ---- */

static void forget_job(struct compact *c)
{
	victim_end(&c->victim);
	copy_step_clear(&c->step);
	c->open = c->merging = false;
	c->passed_count = 0;
	c->planned = 0;
}

/* A file that was planned whole and is still needed holds what cannot be
 * read.  Without memory to remember that, not so soon again. */
static int leave_behind(struct compact *c)
{
	for (size_t i = 0; i < c->passed_count; i++) {
		uint64_t key = c->passed[i], *grown;
		size_t capacity = c->left_capacity ? c->left_capacity * 2 : 16;

		if (key == c->store->position.segment ||
		    !state_file_live(&c->store->state, key))
			continue;
		if (c->left_count == c->left_capacity) {
			grown = realloc(c->left, capacity * sizeof(*grown));
			if (!grown)
				return -ENOMEM;
			c->left = grown;
			c->left_capacity = capacity;
		}
		c->left[c->left_count++] = key;
	}
	return 0;
}

static void job_done(struct compact *c)
{
	int err = leave_behind(c);

	forget_job(c);
	if (err || c->stopping || c->store->failed) {
		retry_later(c);
		return;
	}
	c->failures = 0;
	c->at = AT_REST;
	c->look = c->freed = true;
	compact_consider(c->store);
}

/* err: why there is no file any more. */
static void job_failed(struct compact *c, int err)
{
	forget_job(c);
	if (err != -ENOSPC && err != -EDQUOT && err != -ENOMEM)
		store_fail(c->store, err,
			   "an extent file in %s/" EXTENT_DIR
			   " cannot be written: %s",
			   c->store->dir, err_str(err));
	retry_later(c);
}

/* ---- the record ---- */

static void recorded(struct loop_mail *mail)
{
	struct log_note *note = container_of(mail, struct log_note, mail);
	struct compact *c = container_of(note, struct compact, note);
	struct store *s = c->store;

	ASSERT(loop_is_current(s->loop) && c->at == AT_RECORD);
	free(c->meta);
	c->meta = NULL;
	/* A journal that failed has told the daemon itself. */
	if (c->append.err)
		s->failed = true;
	/* Its batch has been taken before this note was sent. */
	if (!s->failed)
		(void)store_now(s);
	job_done(c);
}

static int append_record(struct compact *c)
{
	struct record_extents *r = &c->step.record;

	c->meta = malloc(record_extents_room(r));
	if (!c->meta)
		return -ENOMEM;
	c->note = (struct log_note){
		.mail.deliver = recorded,
		.to = c->store->loop,
		.append = &c->append,
	};
	c->append = (struct log_append){
		.type = RECORD_EXTENTS,
		.meta = c->meta,
		.meta_len = (uint32_t)record_extents_encode(r, c->meta),
		.note_count = 1,
		.notes = &c->note,
	};
	c->at = AT_RECORD;
	log_append(c->store->log, &c->append, &c->append);
	return 0;
}

/* ---- steps ---- */

static void run_step(struct compact *c, enum copy_kind kind, enum compact_at at)
{
	c->at = at;
	c->step.kind = kind;
	copier_run(c->copier, &c->step);
}

/* A file in which nothing is, because all of it was damaged or has left, is
 * not worth a record. */
static void end_file(struct compact *c)
{
	if (c->step.file_runs || c->step.file_pieces)
		run_step(c, COPY_FINISH, AT_FINISH);
	else
		run_step(c, COPY_ABANDON, AT_ABANDON);
}

static void finished(struct compact *c)
{
	int err = c->step.err;

	c->open = false;
	if (!err) {
		if (!c->store->failed && !c->stopping)
			err = append_record(c);
		extent_free_record(&c->step.record);
	}
	if (err)
		job_failed(c, err);
	else if (c->at != AT_RECORD)
		job_done(c);
}

static uint64_t file_bytes_max(const struct compact *c)
{
	uint64_t bytes = c->store->options.extent_bytes;

	return log_has_space(c->store->log) ? bytes
					    : base_min(bytes, TIGHT_BYTES);
}

static bool is_full(const struct compact *c)
{
	return c->step.full || c->step.file_bytes >= file_bytes_max(c) ||
	       c->step.file_runs + RUN_SLACK + 1 >= RECORD_RUN_MAX ||
	       c->step.file_pieces >= RECORD_RUN_MAX;
}

static void window_done(struct compact *c)
{
	copy_step_clear(&c->step);
	if (c->step.err) {
		c->open = false;
		job_failed(c, c->step.err);
	} else if (c->stopping || c->store->failed) {
		run_step(c, COPY_ABANDON, AT_ABANDON);
	} else if (is_full(c)) {
		end_file(c);
	} else {
		next_step(c);
	}
}

static void step_done(struct copy_step *step)
{
	struct compact *c = container_of(step, struct compact, step);

	ASSERT(loop_is_current(c->store->loop));
	switch (c->at) {
	case AT_WINDOW:
		window_done(c);
		break;
	case AT_FINISH:
		finished(c);
		break;
	case AT_ABANDON:
		c->open = false;
		job_done(c);
		break;
	case AT_REST:
	case AT_RECORD:
	case AT_RETRY:
		ASSERT(false);
	}
}

static void open_file(struct compact *c)
{
	if (c->open)
		return;
	c->open = true;
	c->step.key = store_file_key(log_epoch(c->store->log), ++c->number);
	c->step.file_bytes = 0;
	c->step.file_runs = c->step.file_pieces = 0;
}

/* Plan the next window of this victim; false: there is none. */
static int plan_window(struct compact *c, bool *ret_any)
{
	uint32_t runs = c->open ? c->step.file_runs : 0;
	uint32_t pieces = c->open ? c->step.file_pieces : 0;
	int err = victim_plan(&c->victim, &c->store->state,
			      RECORD_RUN_MAX - RUN_SLACK - runs,
			      RECORD_RUN_MAX - pieces, &c->step);

	*ret_any = c->step.item_count || c->step.run_count;
	if (!store_is_extent(c->victim.key))
		c->planned += c->step.item_count;
	return err;
}

/* Choose and plan until there is something to copy.  Bounded: a victim is
 * chosen once in a job. */
static void next_step(struct compact *c)
{
	struct choice choice;
	bool any = false;
	int err = 0;

	while (!err && !any) {
		if (!c->victim.key) {
			if (!choose(c, &choice))
				break;
			err = victim_begin(&c->victim, &c->store->state,
					   choice.key, choice.bytes);
		}
		if (!err)
			err = plan_window(c, &any);
		if (!err && !any) {
			c->passed[c->passed_count++] = c->victim.key;
			victim_end(&c->victim);
		}
	}
	if (any && !err) {
		open_file(c);
		run_step(c, COPY_WINDOW, AT_WINDOW);
	} else if (c->open) {
		/* Without memory for more: what there is counts. */
		copy_step_clear(&c->step);
		end_file(c);
	} else if (err) {
		job_failed(c, err);
	} else {
		(void)leave_behind(c);
		forget_job(c);
		c->entries_vain = c->store->state.entry_count + ENTRIES_AGAIN;
		rest(c);
	}
}

void compact_consider(struct store *s)
{
	struct compact *c = s->compact;
	int err;

	if (c->at != AT_REST || c->stopping || s->failed || !s->positioned)
		return;
	if (!c->timer.heap_index)
		loop_timer_set(s->loop, &c->timer, QUIET_NS);
	/* Small messages fill memory long before they fill a segment; but
	 * what cannot be moved is not looked at again for every batch. */
	if (!c->look && s->position.segment == c->seen_segment &&
	    (!is_pressed(c) || s->state.entry_count < c->entries_vain))
		return;
	c->look = false;
	c->seen_segment = s->position.segment;
	forget_left(c);
	err = look_at_segments(c);
	if (err)
		job_failed(c, err);
	else
		next_step(c);
}

void compact_look(struct store *s)
{
	s->compact->look = true;
	compact_consider(s);
}

static void timer_fired(struct loop_timer *timer)
{
	struct compact *c = container_of(timer, struct compact, timer);

	if (c->at == AT_RETRY)
		c->at = AT_REST;
	compact_look(c->store);
}

/* ---- life ---- */

int compact_create(struct store *s, struct compact **ret)
{
	struct compact *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->store = s;
	c->timer.fire = timer_fired;
	c->step.done = step_done;
	*ret = c;
	return 0;
}

int compact_start(struct store *s)
{
	s->compact->look = true;
	return copier_create(s, s->extents_loop, &s->compact->copier);
}

bool compact_is_busy(const struct compact *c)
{
	return c->at != AT_REST && c->at != AT_RETRY;
}

void compact_stop(struct store *s)
{
	s->compact->stopping = true;
	loop_timer_cancel(s->loop, &s->compact->timer);
}

void compact_free(struct compact *c)
{
	if (!c)
		return;
	copier_free(c->copier);
	victim_end(&c->victim);
	copy_step_clear(&c->step);
	extent_free_record(&c->step.record);
	free(c->meta);
	free(c->candidates);
	free(c->left);
	free(c);
}

/* ---- files that go ---- */

struct strays {
	struct store *store;
	bool removed;
};

static int remove_extent(struct store *s, uint64_t key)
{
	char path[CHECKPOINT_PATH_MAX];
	int err = extent_path(s->dir, key, path, sizeof(path));

	if (!err)
		err = io_unlink(s->options.io, path);
	return err == -ENOENT ? 0 : err;
}

static int consider_stray(void *ctx, const char *name)
{
	struct strays *t = ctx;
	struct store *s = t->store;
	uint64_t key;

	/* Should the claim be lost meanwhile, the files of later epochs are
	 * their owner's. */
	if (extent_parse_name(name, &key) ||
	    (uint32_t)((key & ~STORE_EXTENT_BIT) >> 32) > log_epoch(s->log) ||
	    state_find_file(&s->state, key))
		return 0;
	t->removed = true;
	return remove_extent(s, key);
}

int compact_remove_strays(struct store *s)
{
	struct strays t = {.store = s};
	char path[CHECKPOINT_PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/" EXTENT_DIR, s->dir);
	int err;

	if (n < 0 || n >= (int)sizeof(path))
		return -ENAMETOOLONG;
	err = io_list(s->options.io, path, consider_stray, &t);
	return err || !t.removed ? err : io_sync_dir(s->options.io, path);
}

/* Not synced: should one come back after a crash, it is dead or a stray. */
int compact_remove_dead(struct store *s)
{
	int err = 0;

	for (size_t i = 0; !err && i < s->state.file_count; i++) {
		uint64_t key = s->state.files[i].key;
		char name[EXTENT_NAME_BYTES], file[64];

		if (!s->state.files[i].dead || !store_is_extent(key))
			continue;
		err = remove_extent(s, key);
		if (err)
			break;
		extent_name(key, name);
		snprintf(file, sizeof(file), EXTENT_DIR "/%s", name);
		state_forget_file(&s->state, key);
		quarantine_forget_file(s, file);
	}
	return err;
}
