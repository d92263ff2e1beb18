/* journal/store/presence.c: whether every file is there that is needed.
 *
 * A replay opens no segment that lies wholly before the checkpoint, and no
 * extent file at all, so one of those could be gone without anyone noticing
 * before a consumer does.  Only names and sizes are looked at: the bytes are
 * checked by whoever reads them, and by the scrubber. */
#include <inttypes.h>
#include <string.h>

#include "journal/store/internal.h"

/* What is needed and not there. */
struct missing {
	struct store *store;
	uint64_t files, messages;
	uint64_t key;	  /* the oldest of them */
	bool is_short;	  /* that one is there, but not all of it */
	uint64_t bytes;	  /* of it */
	size_t at;	  /* in sorted */
	uint64_t *sorted; /* keys of live segments */
	size_t count;
};

static void note_missing(struct missing *m, const struct state_file *f,
			 bool is_short, uint64_t bytes)
{
	m->messages += f->live;
	if (m->files++ && m->key < f->key)
		return;
	m->key = f->key;
	m->is_short = is_short;
	m->bytes = bytes;
}

static void note_segments_before(struct missing *m, uint64_t key)
{
	for (; m->at < m->count && m->sorted[m->at] < key; m->at++)
		note_missing(
			m, state_find_file(&m->store->state, m->sorted[m->at]),
			false, 0);
}

static int meet_segment(void *ctx, const struct log_segment_info *info)
{
	struct missing *m = ctx;

	note_segments_before(m, info->key);
	if (m->at < m->count && m->sorted[m->at] == info->key)
		m->at++;
	return 0;
}

static int by_key(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int check_segments(struct missing *m)
{
	const struct state *state = &m->store->state;
	int err;

	m->sorted = calloc(state->file_count + 1, sizeof(*m->sorted));
	if (!m->sorted)
		return -ENOMEM;
	for (size_t i = 0; i < state->file_count; i++) {
		const struct state_file *f = &state->files[i];

		if (f->live && !store_is_extent(f->key))
			m->sorted[m->count++] = f->key;
	}
	qsort(m->sorted, m->count, sizeof(*m->sorted), by_key);
	err = log_each_segment(m->store->log, meet_segment, m);
	if (!err)
		note_segments_before(m, UINT64_MAX);
	free(m->sorted);
	m->sorted = NULL;
	return err;
}

static int check_extent(struct missing *m, const struct state_file *f)
{
	struct store *s = m->store;
	char path[CHECKPOINT_PATH_MAX];
	struct io_file *file;
	uint64_t bytes = 0;
	int err = extent_path(s->dir, f->key, path, sizeof(path));

	if (!err)
		err = io_open(s->options.io, path, IO_READ, &file);
	if (err == -ENOENT) {
		note_missing(m, f, false, 0);
		return 0;
	}
	if (!err) {
		err = io_size(file, &bytes);
		io_close(file);
	}
	if (!err && bytes != f->bytes)
		note_missing(m, f, true, bytes);
	if (err)
		snprintf(s->why, sizeof(s->why), "%.400s cannot be opened: %s",
			 path, err_str(err));
	return err;
}

static int refuse_missing(const struct missing *m)
{
	struct store *s = m->store;
	char name[64], extent[EXTENT_NAME_BYTES], what[64] = "is missing";

	if (store_is_extent(m->key)) {
		extent_name(m->key, extent);
		snprintf(name, sizeof(name), EXTENT_DIR "/%s", extent);
	} else {
		snprintf(name, sizeof(name), "segments/%08x-%08x.log",
			 (unsigned)(m->key >> 32), (unsigned)m->key);
	}
	if (m->is_short)
		snprintf(what, sizeof(what),
			 "has %" PRIu64 " bytes and should have %" PRIu64,
			 m->bytes, state_find_file(&s->state, m->key)->bytes);
	snprintf(s->why, sizeof(s->why),
		 "%s %s in %.200s (%" PRIu64 " such files in all), and with it "
		 "%" PRIu64 " queued messages or parts of them: restore it "
		 "from a backup, or copy what is left to a new directory with "
		 "\"holdfast journal salvage\"",
		 name, what, s->dir, m->files, m->messages);
	return -E_LOST;
}

int presence_check(struct store *s)
{
	struct missing m = {.store = s};
	int err = check_segments(&m);

	if (err)
		snprintf(s->why, sizeof(s->why),
			 "the segments in %.300s cannot be looked through: %s",
			 s->dir, err_str(err));
	for (size_t i = 0; !err && i < s->state.file_count; i++) {
		const struct state_file *f = &s->state.files[i];

		if (f->live && store_is_extent(f->key))
			err = check_extent(&m, f);
	}
	return err ? err : m.files ? refuse_missing(&m) : 0;
}
