/* journal/store/state_file.c: which files hold what is needed.
 *
 * A slot whose segment holds nothing is free, but keeps its key until it is
 * needed for another: the segment that is being written becomes empty and
 * live again all the time.  Dead extent files stay in their slots until they
 * are removed from the disk. */
#include "journal/store/state_private.h"

#define NONE STATE_NO_FILE

static void *slot_value(size_t index)
{
	return (void *)(uintptr_t)(index + 1);
}

/* SIZE_MAX: none. */
static size_t find_slot(const struct state *s, uint64_t key)
{
	size_t i = s->file_last;

	if (i < s->file_count && s->files[i].key == key)
		return i;
	return (size_t)(uintptr_t)idmap_get(&s->file_slots, key) - 1;
}

static bool in_use(const struct state_file *f)
{
	return f->live || f->dead;
}

static int grow(struct state *s)
{
	size_t capacity = s->file_capacity ? s->file_capacity * 2 : 16;
	struct state_file *grown;

	if (s->file_count < s->file_capacity)
		return 0;
	if (capacity >= NONE)
		return state_fail(s, -E_LIMIT, "too many files");
	grown = realloc(s->files, capacity * sizeof(*grown));
	if (!grown)
		return state_no_memory(s);
	s->files = grown;
	s->file_capacity = capacity;
	return 0;
}

int state_put_file(struct state *s, uint64_t key, uint64_t bytes)
{
	int err;

	ASSERT(key);
	if (find_slot(s, key) != SIZE_MAX)
		return state_fail(s, -E_CORRUPT, "a file is listed twice");
	err = grow(s);
	if (err)
		return err;
	if (idmap_put(&s->file_slots, key, slot_value(s->file_count)))
		return state_no_memory(s);
	s->files[s->file_count++] =
		(struct state_file){.key = key, .bytes = bytes};
	return 0;
}

static void list_free(struct state *s, uint32_t index)
{
	struct state_file *f = &s->files[index];

	if (f->listed)
		return;
	f->listed = true;
	f->next_free = s->file_free;
	s->file_free = index;
}

/* Of those listed some are in use again. */
static size_t take_free(struct state *s)
{
	while (s->file_free != NONE) {
		uint32_t index = s->file_free;
		struct state_file *f = &s->files[index];

		s->file_free = f->next_free;
		f->listed = false;
		if (in_use(f))
			continue;
		idmap_take(&s->file_slots, f->key);
		return index;
	}
	return SIZE_MAX;
}

int state_file_slot(struct state *s, uint64_t key, uint32_t *ret_index)
{
	size_t i = find_slot(s, key);
	int err = 0;

	if (i == SIZE_MAX) {
		i = take_free(s);
		if (i == SIZE_MAX) {
			i = s->file_count;
			err = state_put_file(s, key, 0);
		} else if (idmap_put(&s->file_slots, key, slot_value(i))) {
			err = state_no_memory(s);
		} else {
			s->files[i] = (struct state_file){.key = key};
		}
	}
	if (err)
		return err;
	s->file_last = i;
	*ret_index = (uint32_t)i;
	return 0;
}

void state_file_rest(struct state *s, uint32_t index)
{
	struct state_file *f = &s->files[index];

	if (f->live)
		return;
	if (store_is_extent(f->key))
		f->dead = true;
	else
		list_free(s, index);
}

void state_file_hold(struct state *s, uint32_t index, uint64_t count,
		     uint64_t bytes)
{
	struct state_file *f = &s->files[index];

	ASSERT(index < s->file_count && count);
	s->live_files += !f->live;
	f->live += count;
	f->live_bytes += bytes;
}

void state_file_release(struct state *s, uint32_t index, uint64_t count,
			uint64_t bytes)
{
	struct state_file *f = &s->files[index];

	ASSERT(index < s->file_count && f->live >= count);
	f->live -= count;
	f->live_bytes -= bytes;
	if (f->live || !count)
		return;
	s->live_files--;
	state_file_rest(s, index);
}

int state_close_files(struct state *s)
{
	for (size_t i = 0; i < s->file_count; i++) {
		if (s->files[i].live)
			continue;
		if (!store_is_extent(s->files[i].key))
			return state_fail(s, -E_CORRUPT,
					  "nothing is in a segment");
		state_file_rest(s, (uint32_t)i);
	}
	return 0;
}

const struct state_file *state_find_file(const struct state *s, uint64_t key)
{
	size_t i = find_slot(s, key);

	return i != SIZE_MAX && in_use(&s->files[i]) ? &s->files[i] : NULL;
}

bool state_file_live(const struct state *s, uint64_t key)
{
	const struct state_file *f = state_find_file(s, key);

	return f && f->live;
}

void state_forget_file(struct state *s, uint64_t key)
{
	size_t i = find_slot(s, key);

	ASSERT(i != SIZE_MAX && s->files[i].dead && !s->files[i].live);
	s->files[i].dead = false;
	list_free(s, (uint32_t)i);
}

int state_file_place(struct state *s, const struct log_loc *loc,
		     struct entry_place *ret)
{
	uint32_t index = 0;
	int err;

	/* The log names segments, and no record lies in an extent file. */
	if (!loc->segment || store_is_extent(loc->segment))
		return -E_CORRUPT;
	err = state_file_slot(s, loc->segment, &index);
	if (err)
		return err;
	*ret = (struct entry_place){
		.segment = index,
		.frame = loc->frame,
		.at = loc->at,
		.stored_len = loc->stored_len,
		.body_len = loc->body_len,
	};
	return 0;
}

struct log_loc state_loc(const struct state *s, const struct entry_place *p)
{
	ASSERT(p->segment < s->file_count);
	return (struct log_loc){
		.segment = s->files[p->segment].key,
		.frame = p->frame,
		.at = p->at,
		.stored_len = p->stored_len,
		.body_len = p->body_len,
	};
}
