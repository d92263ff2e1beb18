/* journal/store/recovery.c: from the files of a claimed log to a state.
 *
 * A checkpoint's own checksums decide whether it is whole.  The CHECKPOINT
 * record that names it, with its hash, lies behind the position at which its
 * replay begins, so it is seen then: when it disagrees, the file is whole but
 * not ours, and recovery goes back to the one before.  A whole file without
 * a record is fine: the broker was killed between the two. */
#include "journal/store/recovery.h"

#include <inttypes.h>
#include <string.h>

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
	if (err && r->state->why[0])
		snprintf(r->why, sizeof(r->why), "%s", r->state->why);
	return err;
}

static int replay_all(struct recovery *r, const struct log_position *from)
{
	int err;

	r->records = 0;
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

static int is_damage(int err)
{
	/* The log has accepted the master key, so a checkpoint that does not
	 * open under it is not ours or not whole. */
	return err == -E_CORRUPT || err == -E_KEY || err == -EIO ||
	       err == -ENOENT;
}

static int try_file(struct recovery *r, const struct checkpoint_file *file)
{
	int err;

	start_over(r);
	r->loaded = file;
	err = checkpoint_read(r->place, file->name, r->state, &r->from);
	if (!err && r->from.lsn != file->lsn)
		err = -E_CORRUPT;
	if (is_damage(err)) {
		set_warning(r, file->name,
			    err == -EIO ? "cannot be read (input/output error)"
					: "is damaged");
		return ATTEMPT_NEXT;
	}
	if (err) {
		snprintf(r->why, sizeof(r->why),
			 "%s/" CHECKPOINT_DIR "/%s cannot be loaded: %s",
			 r->place->dir, file->name,
			 err == -E_VERSION
				 ? "another version wrote it; run that one"
				 : err_str(err));
		return err;
	}
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

int recovery_run(struct recovery *r)
{
	struct checkpoint_file files[FILES_MAX];
	size_t count = 0;
	int err = checkpoint_list(r->place, files, FILES_MAX, &count);

	if (err) {
		snprintf(r->why, sizeof(r->why),
			 "%s/" CHECKPOINT_DIR " cannot be listed: %s",
			 r->place->dir, err_str(err));
		return err;
	}
	for (size_t i = 0; i < count; i++) {
		err = try_file(r, &files[i]);
		if (err == ATTEMPT_NEXT)
			continue;
		r->kept_count = i + 1 < count ? 2 : 1;
		memcpy(r->kept, &files[i], r->kept_count * sizeof(files[i]));
		r->loaded = NULL;
		return err;
	}
	return from_the_first(r, count);
}
