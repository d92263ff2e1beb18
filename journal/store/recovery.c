/* journal/store/recovery.c: from the files of a log to a state.
 *
 * A checkpoint's own checksums decide whether it is whole.  The CHECKPOINT
 * record that names it, with its hash, lies behind the position at which its
 * replay begins, so it is seen then: when it disagrees, the file is whole but
 * not ours, and recovery goes back to the one before.  A whole file without
 * a record is fine: the broker was killed between the two.
 *
 * Following is the same replay, fed by the log's tail while another process
 * writes it; files may go at any time, and then it begins again.  Recovery
 * believes what was followed only when the history that it finds, after the
 * claim, goes through that place. */
#include "journal/store/recovery.h"

#include <inttypes.h>
#include <string.h>

#include "journal/log/mutant.h"

#define RUNS_MAX 4u
#define FILES_MAX 16u /* two are kept; a crash may leave a few more */

enum attempt { ATTEMPT_DONE = 0, ATTEMPT_NEXT = 1 }; /* or an error */

static void set_warning(struct recovery *r, const char *name, const char *what)
{
	size_t used = strlen(r->warning);

	snprintf(r->warning + used, sizeof(r->warning) - used,
		 "%s" CHECKPOINT_DIR "/%s %s and was passed over",
		 used ? "; " : "", name, what);
}

static int check_hash(struct recovery *r, const struct log_record *record)
{
	struct record_checkpoint c;
	int err = record_checkpoint_decode(record->meta, record->meta_len, &c);

	if (err || !r->loaded || c.name_len != strlen(r->loaded->name) ||
	    memcmp(c.name, r->loaded->name, c.name_len) != 0)
		return err;
	err = checkpoint_verify(r->place, r->loaded->name, c.hash);
	r->mismatch = err != 0;
	return err;
}

/* The writer has a new checkpoint: what it keeps from now on, and what it
 * removes when that counts. */
static int note_checkpoint(struct recovery *r, const struct log_record *record)
{
	struct record_checkpoint c;
	struct checkpoint_file file;
	char name[CHECKPOINT_NAME_BYTES];
	int err = record_checkpoint_decode(record->meta, record->meta_len, &c);

	if (err)
		return err;
	snprintf(name, sizeof(name), "%.*s", (int)c.name_len, c.name);
	if (checkpoint_parse(name, &file))
		return -E_CORRUPT;
	for (size_t i = 0; i < r->state->file_count; i++) {
		uint64_t key = r->state->files[i].key;

		if (r->state->files[i].dead && store_is_extent(key))
			state_forget_file(r->state, key);
	}
	/* Loaded already, or what could not be. */
	if (file.lsn <= r->passed_lsn ||
	    (r->kept_count && !strcmp(r->kept[0].name, name)))
		return 0;
	r->kept[1] = r->kept[0];
	r->kept[0] = file;
	r->kept_count = base_min(r->kept_count + 1, 2);
	return 0;
}

static int replay(void *ctx, const struct log_record *record)
{
	struct recovery *r = ctx;
	int err = 0;

	/* The first record of all is an EPOCH-START at LSN 0 or 1. */
	if (!r->records++ && !r->loaded && record->lsn > 1) {
		snprintf(r->why, sizeof(r->why),
			 "no checkpoint in %s/" CHECKPOINT_DIR " can be read, "
			 "and the journal before LSN %" PRIu64
			 " has been deleted: restore a backup, or the "
			 "checkpoint files",
			 r->place->dir, record->lsn);
		return -E_LOST;
	}
	if (record->type == RECORD_CHECKPOINT)
		err = check_hash(r, record);
	if (!err)
		err = state_apply(r->state, record);
	if (!err && r->tail && record->type == RECORD_CHECKPOINT)
		err = note_checkpoint(r, record);
	if (err && r->state->why[0])
		snprintf(r->why, sizeof(r->why), "%s", r->state->why);
	return err;
}

static int replay_all(struct recovery *r, const struct log_position *from)
{
	int err;

	r->records = r->tail != NULL;
	err = log_recover(r->log, from, replay, r);
	if (err && !r->why[0])
		snprintf(r->why, sizeof(r->why), "%s", log_why(r->log));
	return err;
}

static void start_over(struct recovery *r)
{
	struct index *index = r->state->index;
	size_t detail_bytes_max = r->state->detail_bytes_max;

	/* What the index was given before is overwritten or never asked for:
	 * a new state knows only what it has given itself. */
	state_fini(r->state);
	state_init(r->state);
	r->state->index = index;
	r->state->detail_bytes_max = detail_bytes_max;
	r->why[0] = '\0';
	r->mismatch = false;
}

static bool has_gone(int err)
{
	return err == -ENOENT || err == -ESTALE;
}

static int is_damage(int err)
{
	/* The log has accepted the master key, so a checkpoint that does not
	 * open under it is not ours or not whole. */
	return err == -E_CORRUPT || err == -E_KEY || err == -EIO ||
	       has_gone(err);
}

/* ATTEMPT_NEXT: it is damaged, or has gone. */
static int load(struct recovery *r, const struct checkpoint_file *file)
{
	int err;

	start_over(r);
	r->loaded = file;
	err = checkpoint_read(r->place, file->name, r->state, &r->from);
	if (!err && r->from.lsn != file->lsn)
		err = -E_CORRUPT;
	if (is_damage(err)) {
		r->passed_lsn = base_max(r->passed_lsn, file->lsn);
		/* While another process leads, files come and go. */
		if (!r->claimed && has_gone(err))
			return ATTEMPT_NEXT;
		set_warning(r, file->name,
			    err == -EIO ? "cannot be read (input/output error)"
					: "is damaged");
		return ATTEMPT_NEXT;
	}
	if (err)
		snprintf(r->why, sizeof(r->why),
			 "%s/" CHECKPOINT_DIR "/%s cannot be loaded: %s",
			 r->place->dir, file->name,
			 err == -E_VERSION
				 ? "another version wrote it; run that one"
				 : err_str(err));
	return err;
}

static int try_file(struct recovery *r, const struct checkpoint_file *file)
{
	int err = load(r, file);

	if (err)
		return err;
	err = replay_all(r, &r->from);
	if (r->mismatch) {
		set_warning(r, file->name,
			    "is not the file that the journal has recorded");
		return ATTEMPT_NEXT;
	}
	return err;
}

static int from_the_first(struct recovery *r, size_t file_count)
{
	int err;

	start_over(r);
	r->loaded = NULL;
	err = replay_all(r, NULL);
	if (!err && !r->records && file_count) {
		snprintf(r->why, sizeof(r->why),
			 "the checkpoints in %s/" CHECKPOINT_DIR
			 " are damaged and the journal is empty: restore a "
			 "backup",
			 r->place->dir);
		return -E_LOST;
	}
	return err;
}

static int list_files(struct recovery *r, struct checkpoint_file *files,
		      size_t *ret_count)
{
	int err = checkpoint_list(r->place, files, FILES_MAX, ret_count);

	if (err)
		snprintf(r->why, sizeof(r->why),
			 "%s/" CHECKPOINT_DIR " cannot be listed: %s",
			 r->place->dir, err_str(err));
	return err;
}

static void keep(struct recovery *r, const struct checkpoint_file *files,
		 size_t count)
{
	r->kept_count = base_min(count, 2);
	memcpy(r->kept, files, r->kept_count * sizeof(*files));
}

/* ---- following ---- */

static int follow_begin(struct recovery *r)
{
	struct checkpoint_file files[FILES_MAX];
	size_t count = 0;
	int err;

	r->warning[0] = '\0';
	r->passed_lsn = 0;
	start_over(r);
	err = list_files(r, files, &count);
	if (err)
		return err;
	r->from = (struct log_position){0};
	r->kept_count = 0;
	err = ATTEMPT_NEXT;
	for (size_t i = 0; err == ATTEMPT_NEXT && i < count; i++) {
		err = load(r, &files[i]);
		if (err)
			continue;
		keep(r, &files[i], count - i);
		r->followed = files[i];
		r->loaded = &r->followed;
	}
	if (err == ATTEMPT_NEXT) {
		start_over(r);
		r->loaded = NULL;
		r->from = (struct log_position){0};
	} else if (err) {
		return err;
	}
	return log_tail_create(r->log, &r->from, &r->tail);
}

void recovery_unfollow(struct recovery *r)
{
	log_tail_free(r->tail);
	r->tail = NULL;
	r->loaded = NULL;
}

int recovery_follow(struct recovery *r, uint64_t bytes_max, bool *ret_more)
{
	bool more = false;
	int err = r->tail ? 0 : follow_begin(r);

	if (!err)
		err = log_tail_step(r->tail, bytes_max, replay, r, &more);
	if (!err) {
		*ret_more = more;
		/* Whoever writes there may have a checkpoint, and have dropped
		 * its first segments, before we see any. */
		if (!log_tail_position(r->tail)->segment)
			recovery_unfollow(r);
		return 0;
	}
	if (!r->why[0])
		snprintf(r->why, sizeof(r->why), "%s/segments: %s",
			 r->place->dir, err_str(err));
	recovery_unfollow(r);
	r->resets++;
	if (!has_gone(err))
		return err;
	/* Dropped while it was read, so there is a newer checkpoint, soon. */
	*ret_more = false;
	return 0;
}

uint64_t recovery_followed_lsn(const struct recovery *r)
{
	return r->tail ? log_tail_position(r->tail)->lsn : 0;
}

uint64_t recovery_seen_lsn(const struct recovery *r)
{
	return r->tail ? log_tail_seen_lsn(r->tail) : 0;
}

/* ATTEMPT_NEXT: what was followed is not what the history says. */
static int go_on(struct recovery *r)
{
	struct checkpoint_file files[FILES_MAX];
	struct log_position from = *log_tail_position(r->tail);
	size_t count = 0, kept = 0;
	int err;

	r->why[0] = '\0';
	err = replay_all(r, &from);
	if ((r->mismatch || err == -E_LOST || err == -E_CORRUPT) &&
	    !MUTANT(FOLLOW_UNVOUCHED))
		return ATTEMPT_NEXT;
	if (!err)
		err = list_files(r, files, &count);
	if (err)
		return err;
	/* What the other had recorded and not yet, or no more, on the disk. */
	for (size_t i = 0; i < r->kept_count; i++)
		for (size_t k = 0; k < count; k++)
			if (!strcmp(r->kept[i].name, files[k].name)) {
				r->kept[kept++] = files[k];
				break;
			}
	r->kept_count = kept;
	return 0;
}

static int run_once(struct recovery *r)
{
	struct checkpoint_file files[FILES_MAX];
	size_t count = 0;
	int err = ATTEMPT_NEXT;

	if (r->tail) {
		err = go_on(r);
		recovery_unfollow(r);
	}
	if (err != ATTEMPT_NEXT)
		return err;
	r->warning[0] = r->why[0] = '\0';
	r->kept_count = 0;
	err = list_files(r, files, &count);
	if (err)
		return err;
	for (size_t i = 0; i < count; i++) {
		err = try_file(r, &files[i]);
		if (err == ATTEMPT_NEXT)
			continue;
		keep(r, &files[i], count - i);
		r->loaded = NULL;
		return err;
	}
	return from_the_first(r, count);
}

/* A deposed leader may be deleting what it had reason to, while we list and
 * read: its last committed records and ours agree that nobody needs it. */
int recovery_run(struct recovery *r)
{
	int err = -ENOENT;

	r->claimed = true;
	for (unsigned i = 0; has_gone(err) && i < RUNS_MAX; i++)
		err = run_once(r);
	return err;
}
