/* See history.h. */
#include "tests/sim/history.h"

#include <stdlib.h>
#include <string.h>

#include "journal/log/verify.h"
#include "tests/sim/model.h"

struct history {
	struct log_frame_info *frames;
	size_t count, capacity;
};

static int collect(void *ctx, const struct log_frame_info *f)
{
	struct history *h = ctx;

	if (!f->payload_ok)
		return 0;
	if (h->count == h->capacity) {
		h->capacity = h->capacity * 2 + 256;
		h->frames =
			realloc(h->frames, h->capacity * sizeof(*h->frames));
		if (!h->frames)
			model_fail("the test has no memory");
	}
	h->frames[h->count++] = *f;
	return 0;
}

static uint32_t epoch_of(const struct log_frame_info *f)
{
	return (uint32_t)(f->segment >> 32);
}

static uint64_t end_of(const struct log_frame_info *f)
{
	return f->first_lsn + f->record_count;
}

/* The frame that ends at lsn with this chain value; NULL: there is none. */
static const struct log_frame_info *find_end(const struct history *h,
					     uint64_t lsn, const uint8_t *chain)
{
	for (size_t i = 0; i < h->count; i++)
		if (end_of(&h->frames[i]) == lsn &&
		    !memcmp(h->frames[i].chain, chain, LOG_CHAIN_BYTES))
			return &h->frames[i];
	return NULL;
}

/* More of an epoch than the history goes on from must not have been
 * acknowledged by anybody. */
static void check_watermarks(const struct history *h, uint32_t epoch,
			     uint64_t cut_lsn)
{
	for (size_t i = 0; i < h->count; i++)
		if (epoch_of(&h->frames[i]) == epoch &&
		    h->frames[i].durable_lsn > cut_lsn)
			model_fail(
				"epoch %u was cut at LSN %llu, and LSN %llu "
				"of it says that %llu was acknowledged",
				(unsigned)epoch, (unsigned long long)cut_lsn,
				(unsigned long long)h->frames[i].first_lsn,
				(unsigned long long)h->frames[i].durable_lsn);
}

/* What this leader has committed must end within or at the end of its own
 * epoch's part of the history, which is [first, cut). */
static void check_leader(const struct history_leader *l,
			 const struct log_frame_info *f)
{
	if (l->committed.lsn == end_of(f) &&
	    memcmp(l->committed.chain, f->chain, LOG_CHAIN_BYTES) != 0)
		model_fail("the leader of epoch %u has committed another "
			   "history up to LSN %llu",
			   (unsigned)l->epoch,
			   (unsigned long long)l->committed.lsn);
}

static void check_cut(const struct history *h, const struct log_frame_info *f,
		      const struct history_leader *leaders, size_t count)
{
	const struct log_frame_info *before =
		find_end(h, f->first_lsn, f->prev_chain);

	if (before && epoch_of(before) != f->parent_epoch)
		model_fail("epoch %u names %u as its parent and goes on from "
			   "epoch %u",
			   (unsigned)epoch_of(f), (unsigned)f->parent_epoch,
			   (unsigned)epoch_of(before));
	check_watermarks(h, f->parent_epoch, f->first_lsn);
	for (size_t i = 0; i < count; i++) {
		if (leaders[i].epoch >= epoch_of(f))
			continue;
		if (leaders[i].epoch > f->parent_epoch &&
		    leaders[i].committed.lsn)
			model_fail("epoch %u goes on from epoch %u and passes "
				   "over the leader of epoch %u",
				   (unsigned)epoch_of(f),
				   (unsigned)f->parent_epoch,
				   (unsigned)leaders[i].epoch);
		if (leaders[i].committed.lsn > f->first_lsn)
			model_fail(
				"epoch %u begins at LSN %llu, and the leader "
				"of epoch %u has committed up to %llu",
				(unsigned)epoch_of(f),
				(unsigned long long)f->first_lsn,
				(unsigned)leaders[i].epoch,
				(unsigned long long)leaders[i].committed.lsn);
	}
}

void history_check(struct io *io, const char *dir,
		   const struct history_leader *leaders, size_t leader_count)
{
	const struct history_leader *last = &leaders[leader_count - 1];
	const struct log_frame_info *f, *next = NULL;
	struct history h = {0};
	int err = -ENOENT;

	/* Somebody may be removing files meanwhile. */
	for (int i = 0; i < 20 && err == -ENOENT; i++) {
		h.count = 0;
		err = log_inspect(io, dir, NULL, collect, NULL, &h);
	}
	if (err)
		model_fail("the frames cannot be looked at: %s", err_str(err));
	f = find_end(&h, last->committed.lsn, last->committed.chain);
	if (!f && last->committed.lsn)
		model_fail("what the leader of epoch %u has committed up to "
			   "LSN %llu is not there",
			   (unsigned)last->epoch,
			   (unsigned long long)last->committed.lsn);
	/* Until what is before has been dropped. */
	for (; f; next = f, f = find_end(&h, f->first_lsn, f->prev_chain)) {
		if (next && epoch_of(f) != epoch_of(next) && !next->epoch_start)
			model_fail("LSN %llu of epoch %u follows epoch %u, and "
				   "begins no epoch",
				   (unsigned long long)next->first_lsn,
				   (unsigned)epoch_of(next),
				   (unsigned)epoch_of(f));
		for (size_t i = 0; i < leader_count; i++)
			check_leader(&leaders[i], f);
		if (f->epoch_start)
			check_cut(&h, f, leaders, leader_count);
	}
	free(h.frames);
}
