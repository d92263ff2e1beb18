/* tools/store_verify.c: see store_verify.h.
 *
 * A broker may be at work meanwhile: a file that is gone when it is looked at
 * is damage only if a second, later view of the store still needs it. */
#include "tools/store_verify.h"

#include <inttypes.h>
#include <string.h>

#include "journal/log/verify.h"
#include "tools/journal_start.h"
#include "tools/store_view.h"
#include "tools/world.h"

#define STEP_BYTES (1024u * 1024u)
#define PATH_BYTES 4096u

struct verify {
	struct io *io;
	const char *dir;
	const struct crypto_key *key;
	struct store_view view; /* with has_view */
	bool has_view;
	bool blind; /* there is a key, and yet no view */
	json_t *findings;
	struct log_verify_result journal;
	uint64_t damage, torn;
	uint64_t checkpoints, extent_files, extent_bytes, missing;

	/* the file at hand */
	const char *name;  /* "extents/…" */
	uint64_t file_key; /* 0: nobody's messages lie there */
	uint64_t file_bytes;
	bool damaged;
};

struct finding {
	const char *kind, *file, *what;
	uint64_t offset, bytes, lsn;
};

/* ---- findings ---- */

static json_t *add_finding(struct verify *v, const struct finding *f)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s}", "kind", f->kind,
			      "file", f->file, "offset", (json_int_t)f->offset,
			      "bytes", (json_int_t)f->bytes, "lsn",
			      (json_int_t)f->lsn, "what", f->what);

	json_array_append_new(v->findings, o);
	return o;
}

struct naming {
	struct verify *v;
	const struct finding *finding;
	unsigned count;
};

static void name_hit(void *ctx, const struct store_view_hit *hit)
{
	struct naming *n = ctx;
	const struct state_queue *q = hit->queue;
	json_t *o = add_finding(n->v, n->finding), *name;

	n->count++;
	name = json_stringn(q->name, q->record.name_len);
	json_object_set_new(o, "queue", name ? name : json_string("?"));
	json_object_set_new(o, "queue_id",
			    json_integer((json_int_t)q->record.id));
	json_object_set_new(o, "priority",
			    json_integer(record_ref_priority(hit->first)));
	json_object_set_new(
		o, "first_number",
		json_integer((json_int_t)record_ref_number(hit->first)));
	json_object_set_new(
		o, "last_number",
		json_integer((json_int_t)record_ref_number(hit->last)));
	json_object_set_new(o, "messages",
			    json_integer((json_int_t)hit->messages));
}

/* One finding for each lane that it concerns, or one without any. */
static void add_damage(struct verify *v, const struct finding *f,
		       uint64_t file_key)
{
	struct naming n = {v, f, 0};

	v->damage++;
	if (v->has_view && file_key)
		store_view_each_hit(&v->view, file_key, f->offset,
				    f->bytes ? f->bytes : 1, name_hit, &n);
	if (!n.count)
		add_finding(v, f);
}

/* ---- the journal ---- */

static uint64_t segment_key_of(const char *path)
{
	const char *name = strrchr(path, '/');
	unsigned epoch, sequence;
	int end = 0;

	name = name ? name + 1 : path;
	if (sscanf(name, "%8x-%8x.log%n", &epoch, &sequence, &end) != 2 ||
	    !end || name[end])
		return 0;
	return log_segment_key(epoch, sequence);
}

/* As messages for people name files: from the directory on. */
static const char *below(const struct verify *v, const char *path)
{
	size_t len = strlen(v->dir);

	if (strncmp(path, v->dir, len) != 0)
		return path;
	path += len;
	return path + strspn(path, "/");
}

static void on_journal(void *ctx, const struct log_finding *f)
{
	struct verify *v = ctx;
	struct finding finding = {
		.kind = f->kind == LOG_FINDING_DAMAGE ? "damage" : "torn",
		.file = below(v, f->file),
		.what = f->what,
		.offset = f->offset,
		.lsn = f->lsn,
	};

	if (f->kind == LOG_FINDING_DAMAGE) {
		add_damage(v, &finding, segment_key_of(f->file));
		return;
	}
	v->torn++;
	add_finding(v, &finding);
}

static void forget_journal(void *ctx)
{
	struct verify *v = ctx;

	json_array_clear(v->findings);
	v->damage = v->torn = 0;
}

static int verify_journal(struct verify *v, struct journal_start *start)
{
	world_progress("the journal …");
	return journal_start_verify(start, v->io, v->dir, on_journal,
				    forget_journal, v, &v->journal);
}

/* ---- checkpoints and extent files ---- */

static const char *damage_text(int err)
{
	return err == -E_CORRUPT ? "the bytes do not match their checksum"
				 : err_str(err);
}

static void on_damage(void *ctx, const struct log_damage *d)
{
	struct verify *v = ctx;
	struct finding f = {
		.kind = "damage",
		.file = v->name,
		.what = damage_text(d->err),
		.offset = d->offset,
		.bytes = d->bytes,
	};

	v->damaged = true;
	/* A broker at work is writing one; a crash may have left one. */
	if (!v->has_view && store_is_extent(v->file_key) &&
	    d->err == -E_CORRUPT && d->offset + d->bytes >= v->file_bytes) {
		f.kind = "torn";
		f.what = "it ends early: it was never finished, or it is "
			 "damaged; with the key this can be told apart";
		v->torn++;
		add_finding(v, &f);
		return;
	}
	add_damage(v, &f, v->file_key);
}

/* -ENOENT: it has been removed meanwhile. */
static int check_blob(struct verify *v, const char *path)
{
	const struct state_file *known =
		v->has_view ? state_find_file(&v->view.state, v->file_key)
			    : NULL;
	struct log_check *check;
	uint64_t bytes;
	int err = log_check_blob(v->io, path, known ? known->bytes : 0, &check);

	v->damaged = false;
	if (err == -E_CORRUPT || err == -EIO || err == -E_VERSION) {
		on_damage(v, &(struct log_damage){.err = err});
		return 0;
	}
	if (err)
		return err;
	do {
		err = log_check_step(check, STEP_BYTES, on_damage, v, &bytes);
	} while (!err);
	log_check_free(check);
	return err < 0 ? err : 0;
}

static int verify_checkpoints(struct verify *v,
			      const struct journal_start *start)
{
	int err = 0;

	v->file_key = 0;
	for (size_t i = 0; !err && i < start->file_count; i++) {
		char path[PATH_BYTES], name[64];

		snprintf(name, sizeof(name), CHECKPOINT_DIR "/%s",
			 start->files[i].name);
		snprintf(path, sizeof(path), "%s/%s", v->dir, name);
		v->name = name;
		v->checkpoints++;
		err = check_blob(v, path);
		/* Gone: a broker at work has written a newer one. */
		if (err == -ENOENT)
			err = 0;
	}
	return err;
}

static int ignore_message(void *ctx, uint64_t queue,
			  const struct extent_message *m)
{
	return 0;
}

static int ignore_piece(void *ctx, uint64_t upload, uint32_t index,
			uint32_t body_len, const void *stored,
			uint32_t stored_len)
{
	return 0;
}

/* The checksums are right: what is said in it, and under which key? */
static int read_extent(struct verify *v, const char *path)
{
	const struct extent_visit visit = {.message = ignore_message,
					   .piece = ignore_piece};
	const struct blob_identity identity = {v->io, v->key,
					       v->view.cluster_id};
	int err = extent_each(&identity, path, &visit);

	if (err == -E_CORRUPT || err == -E_KEY || err == -E_VERSION)
		add_damage(v,
			   &(struct finding){
				   .kind = "damage",
				   .file = v->name,
				   .what = err == -E_KEY
						   ? "it was written under "
						     "another key"
						   : "its contents contradict "
						     "themselves",
				   .bytes = UINT64_MAX},
			   v->file_key);
	else if (err)
		return err;
	return 0;
}

static int verify_extent(void *ctx, const char *file)
{
	struct verify *v = ctx;
	char path[PATH_BYTES], name[64];
	struct io_file *f;
	int err;

	if (extent_parse_name(file, &v->file_key))
		return 0; /* not ours */
	snprintf(name, sizeof(name), EXTENT_DIR "/%s", file);
	snprintf(path, sizeof(path), "%s/%s", v->dir, name);
	v->name = name;
	world_progress("extent file %" PRIu64 " …", v->extent_files + 1);
	err = io_open(v->io, path, IO_READ, &f);
	if (!err) {
		err = io_size(f, &v->file_bytes);
		io_close(f);
	}
	/* What nothing lies in may be one that a broker is writing, or that a
	 * crash left: nobody needs it. */
	if (!err && v->has_view &&
	    !state_file_live(&v->view.state, v->file_key))
		return 0;
	if (!err)
		err = check_blob(v, path);
	if (!err && v->has_view && !v->damaged)
		err = read_extent(v, path);
	if (err)
		return err == -ENOENT ? 0 : err;
	v->extent_files++;
	v->extent_bytes += v->file_bytes;
	return 0;
}

static int verify_extents(struct verify *v)
{
	char path[PATH_BYTES];
	int err;

	snprintf(path, sizeof(path), "%s/" EXTENT_DIR, v->dir);
	err = io_list(v->io, path, verify_extent, v);
	return err == -ENOENT ? 0 : err;
}

/* ---- what is needed and not there ---- */

static void file_name(uint64_t key, char *ret, size_t room)
{
	char name[EXTENT_NAME_BYTES];

	if (store_is_extent(key)) {
		extent_name(key, name);
		snprintf(ret, room, EXTENT_DIR "/%s", name);
	} else {
		snprintf(ret, room, "segments/%08x-%08x.log",
			 (unsigned)(key >> 32), (unsigned)key);
	}
}

static int is_there(struct verify *v, const struct state_file *file,
		    bool *ret_there, bool *ret_short)
{
	char path[PATH_BYTES], name[64];
	struct io_file *f;
	uint64_t bytes = 0;
	int err;

	file_name(file->key, name, sizeof(name));
	snprintf(path, sizeof(path), "%s/%s", v->dir, name);
	err = io_open(v->io, path, IO_READ, &f);
	*ret_there = err != -ENOENT;
	*ret_short = false;
	if (err)
		return err == -ENOENT ? 0 : err;
	err = io_size(f, &bytes);
	io_close(f);
	*ret_short = !err && store_is_extent(file->key) && bytes < file->bytes;
	return err;
}

/* Keys of the files that are needed and not there as they should be, for the
 * caller to free. */
static int list_missing(struct verify *v, uint64_t **ret, size_t *ret_count)
{
	const struct state *s = &v->view.state;
	uint64_t *keys = calloc(s->file_count + 1, sizeof(*keys));
	size_t count = 0;
	int err = keys ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < s->file_count; i++) {
		bool there = true, too_short = false;

		if (!s->files[i].live)
			continue;
		err = is_there(v, &s->files[i], &there, &too_short);
		if (!err && (!there || too_short))
			keys[count++] = s->files[i].key;
	}
	if (err) {
		free(keys);
		return err;
	}
	*ret = keys;
	*ret_count = count;
	return 0;
}

static int say_missing(struct verify *v, uint64_t key)
{
	struct finding f = {.kind = "damage", .bytes = UINT64_MAX};
	const struct state_file *file = state_find_file(&v->view.state, key);
	bool there = true, too_short = false;
	char name[64];
	int err;

	if (!file || !file->live)
		return 0;
	err = is_there(v, file, &there, &too_short);
	if (err || (there && !too_short))
		return err;
	file_name(key, name, sizeof(name));
	f.file = name;
	f.what = there ? "the file is too short" : "the file is not there";
	v->missing++;
	add_damage(v, &f, key);
	return 0;
}

static int load_view(struct verify *v)
{
	int err;

	if (v->has_view)
		store_view_fini(&v->view);
	v->has_view = false;
	world_progress("what is queued …");
	err = store_view_load(&v->view, v->io, v->dir, v->key);
	v->has_view = !err;
	return err;
}

/* What makes a file needless is committed before it is removed.  So one that is
 * needed by a view that was loaded after it was seen to be missing is missing.
 */
static int cross_check(struct verify *v)
{
	uint64_t *keys;
	size_t count;
	int err = list_missing(v, &keys, &count);

	if (err)
		return err;
	if (count)
		err = load_view(v);
	for (size_t i = 0; !err && i < count; i++)
		err = say_missing(v, keys[i]);
	free(keys);
	return err;
}

/* ---- all of it ---- */

static json_t *make_report(struct verify *v)
{
	const struct log_verify_result *r = &v->journal;
	json_t *o = json_pack(
		"{s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:I, s:I}",
		"dir", v->dir, "sound", v->damage == 0, "with_key", v->has_view,
		"segments", (json_int_t)r->segments, "frames",
		(json_int_t)r->frames, "records", (json_int_t)r->records,
		"bytes", (json_int_t)r->bytes, "first_lsn",
		(json_int_t)r->first_lsn, "end_lsn", (json_int_t)r->end_lsn,
		"epochs", (json_int_t)r->epochs, "checkpoints",
		(json_int_t)v->checkpoints, "extent_files",
		(json_int_t)v->extent_files, "extent_bytes",
		(json_int_t)v->extent_bytes, "missing", (json_int_t)v->missing,
		"damage", (json_int_t)v->damage, "torn", (json_int_t)v->torn);

	if (!o)
		return NULL;
	if (v->has_view) {
		const struct state *s = &v->view.state;

		json_object_set_new(o, "queues",
				    json_integer((json_int_t)s->queues.count));
		json_object_set_new(o, "messages",
				    json_integer((json_int_t)s->live_messages));
	}
	if (v->has_view && v->view.cut_short)
		json_object_set_new(o, "cut_short",
				    json_string(v->view.cut_short));
	json_object_set(o, "findings", v->findings);
	return o;
}

/* Without a checkpoint that can be read nothing is known of queues; the files
 * are checked all the same, and tell why. */
static int begin_view(struct verify *v)
{
	int err = v->key ? load_view(v) : 0;

	v->blind = err == -E_CORRUPT || err == -E_VERSION;
	return v->blind ? 0 : err;
}

static void say_blind(struct verify *v)
{
	v->damage++;
	add_finding(v,
		    &(struct finding){.kind = "damage",
				      .file = CHECKPOINT_DIR,
				      .what = "no checkpoint can be read, so "
					      "it is not known which messages "
					      "are queued"});
}

int store_verify_report(struct io *io, const char *dir,
			const struct crypto_key *key, json_t **ret_report)
{
	struct verify v = {.io = io, .dir = dir, .key = key};
	struct journal_start *start = calloc(1, sizeof(*start));
	int err;

	v.findings = json_array();
	if (!start || !v.findings) {
		err = -ENOMEM;
		goto out;
	}
	err = begin_view(&v);
	/* First: it may begin again. */
	if (!err)
		err = verify_journal(&v, start);
	if (!err && v.blind)
		say_blind(&v);
	if (!err)
		err = verify_checkpoints(&v, start);
	if (!err)
		err = verify_extents(&v);
	if (!err && v.has_view)
		err = cross_check(&v);
	if (!err && v.has_view && v.view.cut_short && !v.damage)
		add_damage(&v,
			   &(struct finding){.kind = "damage",
					     .file = "segments",
					     .lsn = v.view.end_lsn,
					     .what = v.view.cut_short},
			   0);
	if (!err && !(*ret_report = make_report(&v)))
		err = -ENOMEM;
out:
	world_progress(NULL);
	if (v.has_view)
		store_view_fini(&v.view);
	json_decref(v.findings);
	free(start);
	return err;
}
