/* journal/store/state_detail.c: details of runs, in memory and in the index.
 *
 * Those in memory are in a list, the one that was looked at last at its end.
 * Beyond the budget the first ones are written to the index, under file and
 * offset of their run, which no other run ever has.  One that is brought back
 * keeps its place there, so that it need not be written again unless it
 * changes. */
#include <string.h>

#include "journal/store/state_private.h"

#define KEY_BYTES 13u
#define RETRY_CHANGES 1000u

static void make_key(const struct state *s, const struct state_run *r,
		     uint8_t ret[KEY_BYTES])
{
	uint64_t file = __builtin_bswap64(s->files[r->file].key);
	uint32_t offset = __builtin_bswap32(r->offset);

	ret[0] = 'D';
	memcpy(ret + 1, &file, sizeof(file));
	memcpy(ret + 9, &offset, sizeof(offset));
}

static int damaged(struct state *s, int err)
{
	return state_fail(s, err,
			  "the node-local index cannot give back what it was "
			  "given (%s); a restart rebuilds it",
			  err_str(err));
}

static int encode(const struct detail *d, void **ret, size_t *ret_len)
{
	void *buf = malloc(detail_encoded_room(d));

	if (!buf)
		return -ENOMEM;
	*ret_len = detail_encode(d, buf);
	*ret = buf;
	return 0;
}

/* ---- spilling ---- */

static void leave_memory(struct state *s, struct state_run *r)
{
	s->detail_bytes -= detail_bytes(r->detail);
	list_remove(&r->detail_link);
	detail_free(r->detail);
	r->detail = NULL;
}

static int write_out(struct state *s, const struct state_run *r)
{
	uint8_t key[KEY_BYTES];
	void *data;
	size_t len;
	int err = encode(r->detail, &data, &len);

	if (err)
		return err;
	make_key(s, r, key);
	err = s->index->ops->put(s->index, key, sizeof(key), data, len);
	free(data);
	return err;
}

static void spill(struct state *s)
{
	while (s->index && s->detail_bytes > s->detail_bytes_max &&
	       s->changes >= s->detail_retry &&
	       s->details.next != s->details.prev) {
		struct state_run *r = list_entry(s->details.next,
						 struct state_run, detail_link);

		if ((!r->indexed || r->stale) && write_out(s, r)) {
			/* It is the index's duty to keep what was there, and
			 * that is outdated now if it was anything. */
			s->detail_spill_failures++;
			s->detail_retry = s->changes + RETRY_CHANGES;
			return;
		}
		r->indexed = true;
		r->stale = false;
		leave_memory(s, r);
		s->detail_spills++;
	}
}

static void enter_memory(struct state *s, struct state_run *r, struct detail *d)
{
	r->detail = d;
	list_push(&s->details, &r->detail_link);
	s->detail_bytes += detail_bytes(d);
	spill(s);
}

/* ---- bringing back ---- */

static int read_back(struct state *s, const struct state_run *r, void **ret,
		     size_t *ret_len)
{
	uint8_t key[KEY_BYTES];
	int err;

	ASSERT(s->index);
	make_key(s, r, key);
	err = s->index->ops->get(s->index, key, sizeof(key), ret, ret_len);
	return err ? damaged(s, err) : 0;
}

static int bring_back(struct state *s, struct state_run *r)
{
	struct detail *d;
	void *data;
	size_t len;
	int err = read_back(s, r, &data, &len);

	if (err)
		return err;
	err = detail_decode(r->span, data, len, &d);
	free(data);
	if (!err && detail_live(d) != r->live) {
		detail_free(d);
		err = -E_CORRUPT;
	}
	if (err)
		return err == -ENOMEM ? state_no_memory(s) : damaged(s, err);
	r->stale = false;
	enter_memory(s, r, d);
	return 0;
}

int state_detail_get(struct state *s, struct state_run *r, struct detail **ret)
{
	int err = 0;

	if (!r->detail && r->indexed) {
		err = bring_back(s, r);
	} else if (r->detail) {
		list_remove(&r->detail_link);
		list_push(&s->details, &r->detail_link);
	}
	if (!err)
		*ret = r->detail;
	return err;
}

int state_detail_make(struct state *s, struct state_run *r, struct detail **ret)
{
	struct detail *d;
	int err = state_detail_get(s, r, &d);

	if (err)
		return err;
	if (!d) {
		ASSERT(r->live == r->span);
		if (detail_create(r->span, &d))
			return state_no_memory(s);
		enter_memory(s, r, d);
	}
	*ret = d;
	return 0;
}

void state_detail_changed(struct state *s, struct state_run *r,
			  size_t bytes_before)
{
	r->stale = true;
	s->detail_bytes += detail_bytes(r->detail) - bytes_before;
	spill(s);
}

void state_detail_set(struct state *s, struct state_run *r, struct detail *d)
{
	ASSERT(!r->detail && !r->indexed);
	if (d)
		enter_memory(s, r, d);
}

void state_detail_drop(struct state *s, struct state_run *r)
{
	uint8_t key[KEY_BYTES];

	if (r->detail)
		leave_memory(s, r);
	if (!r->indexed || !s->index)
		return;
	/* What stays there when this fails takes room and is never asked
	 * for. */
	make_key(s, r, key);
	if (s->index->ops->remove(s->index, key, sizeof(key)))
		s->detail_spill_failures++;
	r->indexed = false;
}

/* ---- for others ---- */

int state_run_detail(struct state *s, struct state_run *r,
		     const struct detail **ret)
{
	struct detail *d;
	int err = state_detail_get(s, r, &d);

	if (!err)
		*ret = d;
	return err;
}

int state_run_encoded(struct state *s, const struct state_run *r, void **ret,
		      size_t *ret_len)
{
	int err = 0;

	if (!r->detail && r->indexed)
		return read_back(s, r, ret, ret_len);
	*ret = NULL;
	*ret_len = 0;
	if (r->detail)
		err = encode(r->detail, ret, ret_len);
	return err ? state_no_memory(s) : 0;
}
