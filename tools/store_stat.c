/* tools/store_stat.c: see store_stat.h. */
#include "tools/store_stat.h"

#include <string.h>

#include "tools/store_view.h"
#include "tools/world.h"

#define PATH_BYTES 4096u

struct folder { /* of files */
	struct io *io;
	char path[PATH_BYTES];
	uint64_t count, bytes;
};

static int add_file(void *ctx, const char *name)
{
	struct folder *f = ctx;
	char path[PATH_BYTES + 256];
	struct io_file *file;
	uint64_t bytes;
	int err;

	snprintf(path, sizeof(path), "%s/%s", f->path, name);
	err = io_open(f->io, path, IO_READ, &file);
	if (!err) {
		err = io_size(file, &bytes);
		io_close(file);
	}
	if (err) /* gone: a broker at work has removed it */
		return err == -ENOENT ? 0 : err;
	f->count++;
	f->bytes += bytes;
	return 0;
}

static int add_up(struct folder *f, struct io *io, const char *dir,
		  const char *name)
{
	int err;

	*f = (struct folder){.io = io};
	if (snprintf(f->path, sizeof(f->path), "%s/%s", dir, name) >=
	    (int)sizeof(f->path))
		return -ENAMETOOLONG;
	err = io_list(io, f->path, add_file, f);
	return err == -ENOENT ? 0 : err;
}

static uint64_t count_details(const struct state *s)
{
	void **queues = idmap_sorted(&s->queues);
	uint64_t count = 0;

	for (size_t i = 0; queues && i < s->queues.count; i++) {
		const struct state_queue *q = queues[i];

		for (unsigned n = 0; n < RECORD_PRIORITIES; n++) {
			const struct state_lane *lane = q->lanes[n];

			for (size_t k = lane ? lane->run_head : 0;
			     lane && k < lane->run_end; k++)
				count += lane->runs[k]->detail != NULL;
		}
	}
	free(queues);
	return count;
}

static void set(json_t *o, const char *key, uint64_t value)
{
	json_object_set_new(o, key, json_integer((json_int_t)value));
}

static json_t *make(const struct store_view *v, const struct folder *segments,
		    const struct folder *extents,
		    const struct folder *checkpoints)
{
	const struct state *s = &v->state;
	uint64_t disk = segments->bytes + extents->bytes + checkpoints->bytes;
	uint64_t extent_live = 0;
	json_t *o = json_object();

	if (!o)
		return NULL;
	for (size_t i = 0; i < s->file_count; i++) {
		if (s->files[i].live && store_is_extent(s->files[i].key))
			extent_live += s->files[i].live_bytes;
	}
	json_object_set_new(o, "dir", json_string(v->dir));
	json_object_set_new(o, "checkpoint",
			    v->checkpoint[0] ? json_string(v->checkpoint)
					     : json_null());
	set(o, "applied_lsn", v->end_lsn ? v->end_lsn - 1 : 0);
	if (v->cut_short)
		json_object_set_new(o, "cut_short", json_string(v->cut_short));
	set(o, "addresses", s->addresses.count);
	set(o, "queues", s->queues.count);
	set(o, "live_messages", s->live_messages);
	set(o, "live_bytes", s->live_bytes);
	set(o, "entries", s->entry_count);
	set(o, "runs", s->run_count);
	set(o, "details", count_details(s));
	set(o, "uploads", s->uploads.count);
	set(o, "files", s->live_files);
	set(o, "segment_files", segments->count);
	set(o, "segment_bytes", segments->bytes);
	set(o, "extent_files", extents->count);
	set(o, "extent_bytes", extents->bytes);
	set(o, "extent_live_bytes", extent_live);
	set(o, "checkpoints", checkpoints->count);
	set(o, "checkpoint_bytes", checkpoints->bytes);
	set(o, "disk_bytes", disk);
	set(o, "dead_bytes", disk - base_min(disk, s->live_bytes));
	json_object_set_new(
		o, "amplification",
		s->live_bytes ? json_real((double)disk / (double)s->live_bytes)
			      : json_null());
	return o;
}

int store_stat_report(struct io *io, const char *dir,
		      const struct crypto_key *key, json_t **ret)
{
	struct store_view *view = calloc(1, sizeof(*view));
	struct folder segments, extents, checkpoints;
	int err;

	if (!view)
		return -ENOMEM;
	world_progress("what is queued …");
	err = store_view_load(view, io, dir, key);
	world_progress(NULL);
	if (!err)
		err = add_up(&segments, io, dir, "segments");
	if (!err)
		err = add_up(&extents, io, dir, EXTENT_DIR);
	if (!err)
		err = add_up(&checkpoints, io, dir, CHECKPOINT_DIR);
	if (!err && !(*ret = make(view, &segments, &extents, &checkpoints)))
		err = -ENOMEM;
	store_view_fini(view);
	free(view);
	return err;
}
