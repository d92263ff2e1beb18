/* tools/journal_start.c: see journal_start.h. */
#include "tools/journal_start.h"

#include <string.h>

#define TRIES 8

static int note_frame(void *ctx, const struct log_frame_info *f)
{
	struct journal_start *s = ctx;

	for (size_t i = 0; i < s->file_count; i++) {
		struct log_position *p = &s->positions[i];

		if (f->first_lsn != s->files[i].lsn || !f->payload_ok)
			continue;
		p->segment = f->segment;
		p->offset = f->offset;
		p->lsn = f->first_lsn;
		memcpy(p->chain, f->prev_chain, LOG_CHAIN_BYTES);
	}
	return 0;
}

int journal_start_list(struct io *io, const char *dir,
		       struct checkpoint_file *ret, size_t max,
		       size_t *ret_count)
{
	const struct checkpoint_place place = {.identity = {.io = io},
					       .dir = dir};
	int err;

	*ret_count = 0;
	err = checkpoint_list(&place, ret, max, ret_count);
	return err == -ENOENT ? 0 : err;
}

static int find_start(struct journal_start *s, struct io *io, const char *dir)
{
	int err;

	*s = (struct journal_start){0};
	err = journal_start_list(io, dir, s->files, JOURNAL_START_FILES_MAX,
				 &s->file_count);
	if (!err)
		err = log_inspect(io, dir, NULL, note_frame, NULL, s);
	for (size_t i = 0; !err && i < s->file_count && !s->found; i++) {
		if (!s->positions[i].segment)
			continue;
		s->found = true;
		s->position = s->positions[i];
	}
	return err;
}

/* Has a checkpoint been written since? */
static bool is_overtaken(const struct journal_start *s, struct io *io,
			 const char *dir)
{
	struct checkpoint_file newest;
	size_t count;

	return !journal_start_list(io, dir, &newest, 1, &count) && count &&
	       (!s->file_count || strcmp(newest.name, s->files[0].name) != 0);
}

int journal_start_verify(struct journal_start *s, struct io *io,
			 const char *dir,
			 void (*found)(void *ctx, const struct log_finding *),
			 void (*again)(void *ctx), void *ctx,
			 struct log_verify_result *ret)
{
	uint8_t id[16];
	int err = log_identity(io, dir, id);

	if (err) /* -ENOENT: not a data directory */
		return err;
	for (int i = 1;; i++) {
		err = find_start(s, io, dir);
		if (!err)
			err = log_verify(io, dir,
					 s->found ? &s->position : NULL, found,
					 ctx, ret);
		/* -ENOENT: a segment has gone since it was listed. */
		if (i == TRIES || (err && err != -ENOENT) ||
		    (!err && (!ret->damage || !is_overtaken(s, io, dir))))
			return err;
		again(ctx);
	}
}
