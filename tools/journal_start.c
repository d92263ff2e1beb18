/* tools/journal_start.c: see journal_start.h. */
#include "tools/journal_start.h"

#include <string.h>

#include "journal/log/verify.h"

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

int journal_start_find(struct journal_start *s, struct io *io, const char *dir)
{
	const struct checkpoint_place place = {.identity = {.io = io},
					       .dir = dir};
	int err;

	*s = (struct journal_start){0};
	err = checkpoint_list(&place, s->files, JOURNAL_START_FILES_MAX,
			      &s->file_count);
	if (err == -ENOENT)
		err = 0;
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
