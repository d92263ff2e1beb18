/* broker/admin/store.c: what the store holds, and what of it is damaged.
 *
 * Paths: /api/v1/store, /api/v1/damage, /api/v1/scrub.  The journal knows
 * queues by number alone; names are added here, as they are now. */
#include "broker/admin/internal.h"

#include <string.h>

struct damage_list {
	json_t *array;
	struct damage_row {
		uint64_t queue;
		json_t *json; /* borrowed from the array */
	} * rows;
	size_t count, capacity;
	bool failed;
};

static json_t *damage_json(const struct store_damage *d)
{
	return json_pack(
		"{s:I,s:n,s:I,s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:s,s:I}", "queue_id",
		(json_int_t)d->queue, "queue", "priority",
		(json_int_t)record_ref_priority(d->first_ref), "first_number",
		(json_int_t)record_ref_number(d->first_ref), "last_number",
		(json_int_t)record_ref_number(d->last_ref), "first_lsn",
		(json_int_t)d->first_lsn, "last_lsn", (json_int_t)d->last_lsn,
		"file", d->file, "offset", (json_int_t)d->offset, "bytes",
		(json_int_t)d->bytes, "error", err_str(d->err), "found_at_ms",
		(json_int_t)d->found_ms);
}

static int take_damage(void *ctx, const struct store_damage *d)
{
	struct damage_list *l = ctx;
	json_t *json = damage_json(d);

	if (l->count == l->capacity) {
		size_t capacity = l->capacity ? l->capacity * 2 : 64;
		void *p = realloc(l->rows, capacity * sizeof(*l->rows));

		if (!p) {
			json_decref(json);
			return -ENOMEM;
		}
		l->rows = p;
		l->capacity = capacity;
	}
	if (!json || json_array_append_new(l->array, json))
		return -ENOMEM;
	l->rows[l->count++] = (struct damage_row){d->queue, json};
	return 0;
}

static int name_rows(void *ctx, const struct queue_info *q)
{
	struct damage_list *l = ctx;

	for (size_t i = 0; i < l->count; i++) {
		json_t *name;

		if (!l->rows[i].queue || l->rows[i].queue != q->id)
			continue;
		/* A name that is no UTF-8 stays unsaid; the id is there. */
		name = json_string(q->name);
		if (name && json_object_set_new(l->rows[i].json, "queue", name))
			l->failed = true;
	}
	return 0;
}

static void damage(struct admin *a, struct admin_response *r)
{
	struct damage_list l = {.array = json_array()};
	int err = l.array ? store_each_damage(a->options.store, take_damage, &l)
			  : -ENOMEM;

	if (!err && l.count)
		core_each_queue(a->broker.core, name_rows, &l);
	free(l.rows);
	if (err || l.failed) {
		json_decref(l.array);
		r->text.failed = true;
		return;
	}
	api_give_json(r, 200, json_pack("{s:o}", "damage", l.array));
}

static json_t *scrub_json(const struct store_stats *s)
{
	return json_pack("{s:I,s:I,s:I,s:I}", "rounds",
			 (json_int_t)s->scrub_rounds, "finished_at_ms",
			 (json_int_t)s->scrub_finished_ms, "files",
			 (json_int_t)s->scrub_files, "bytes",
			 (json_int_t)s->scrub_bytes);
}

static void stat(struct admin *a, struct admin_response *r)
{
	const struct store_stats *s = store_stats(a->options.store);
	const struct log_stats *log = log_stats(a->options.log);
	json_t *json = json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,"
		"s:I,s:I,s:I,s:I,s:o}",
		"live_messages", (json_int_t)s->live_messages, "live_bytes",
		(json_int_t)s->live_bytes, "entries", (json_int_t)s->entries,
		"runs", (json_int_t)s->runs, "memory_bytes",
		(json_int_t)s->memory_bytes, "index_spills",
		(json_int_t)s->index_spills, "files", (json_int_t)s->files_live,
		"extent_files", (json_int_t)s->extent_files, "extent_bytes",
		(json_int_t)s->extent_bytes, "extent_live_bytes",
		(json_int_t)s->extent_live_bytes, "copied_messages",
		(json_int_t)s->copied_messages, "copied_bytes",
		(json_int_t)s->copied_bytes, "applied_lsn",
		(json_int_t)s->applied_lsn, "checkpoint_lsn",
		(json_int_t)s->checkpoint_lsn, "checkpoint_bytes",
		(json_int_t)s->checkpoint_bytes, "checkpoints",
		(json_int_t)s->checkpoints, "journal_bytes",
		(json_int_t)log->disk_bytes, "behind",
		(json_int_t)store_is_behind(a->options.store), "damage",
		(json_int_t)s->damage, "scrub", scrub_json(s));

	api_give_json(r, 200, json);
}

bool store_answer(struct admin *a, const struct admin_request *request,
		  struct admin_response *r)
{
	const char *path = request->path;
	bool is_scrub = !strcmp(path, "/api/v1/scrub");

	if (!is_scrub && strcmp(path, "/api/v1/store") &&
	    strcmp(path, "/api/v1/damage"))
		return false;
	if (request->method != (is_scrub ? ADMIN_POST : ADMIN_GET)) {
		api_not_allowed(r, is_scrub ? "POST" : "GET");
	} else if (is_scrub) {
		store_scrub_now(a->options.store);
		api_give_json(r, 202, json_pack("{s:b}", "scrubbing", 1));
	} else if (!strcmp(path, "/api/v1/store")) {
		stat(a, r);
	} else {
		damage(a, r);
	}
	return true;
}
