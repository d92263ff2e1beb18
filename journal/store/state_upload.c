/* journal/store/state_upload.c: messages too large for one record.
 *
 * An upload exists while it is in progress or an entry holds it; its pieces
 * lie in segments, or in extent files once they have been moved. */
#include <inttypes.h>

#include "journal/store/state_private.h"

#define PIECES_MAX (1u << 26)

int state_put_upload(struct state *s, uint64_t id, struct state_upload **ret)
{
	struct state_upload *u = calloc(1, sizeof(*u));

	state_saw_id(s, id);
	if (!u)
		return state_no_memory(s);
	u->id = id;
	if (idmap_put(&s->uploads, id, u)) {
		free(u);
		return state_no_memory(s);
	}
	*ret = u;
	return 0;
}

int state_put_piece(struct state *s, struct state_upload *u,
		    const struct entry_place *place)
{
	struct entry_place *grown;
	uint32_t capacity;

	if (u->piece_count == u->capacity) {
		capacity = u->capacity ? u->capacity * 2 : 4;
		if (capacity > PIECES_MAX)
			return state_fail(s, -E_CORRUPT,
					  "upload %" PRIu64
					  " has too many pieces",
					  u->id);
		grown = realloc(u->pieces, capacity * sizeof(*grown));
		if (!grown)
			return state_no_memory(s);
		u->pieces = grown;
		u->capacity = capacity;
	}
	u->pieces[u->piece_count++] = *place;
	u->bytes += place->body_len;
	s->piece_count++;
	state_file_hold(s, place->segment, 1, place->stored_len);
	return 0;
}

void state_upload_free(struct state *s, struct state_upload *u)
{
	for (uint32_t i = 0; i < u->piece_count; i++)
		state_file_release(s, u->pieces[i].segment, 1,
				   u->pieces[i].stored_len);
	s->piece_count -= u->piece_count;
	idmap_take(&s->uploads, u->id);
	free(u->pieces);
	free(u);
}

int state_upload_piece(struct state *s, const struct log_record *r)
{
	struct record_piece p;
	struct state_upload *u;
	struct entry_place place;
	int err = record_piece_decode(r->meta, r->meta_len, &p);

	if (err)
		return err;
	u = idmap_get(&s->uploads, p.upload);
	/* The tail of an upload that has been aborted. */
	if (!u && p.index)
		return 0;
	if (u && (u->complete || p.index != u->piece_count))
		return state_fail(s, -E_CORRUPT,
				  "piece %" PRIu32 " of upload %" PRIu64
				  " at LSN %" PRIu64 " is out of order",
				  p.index, p.upload, r->lsn);
	if (!u)
		err = state_put_upload(s, p.upload, &u);
	if (!err)
		err = state_file_place(s, &r->loc, &place);
	return err ? err : state_put_piece(s, u, &place);
}

int state_upload_abort(struct state *s, const struct log_record *r)
{
	struct state_upload *u;
	uint64_t id;
	int err = record_upload_abort_decode(r->meta, r->meta_len, &id);

	if (err)
		return err;
	state_saw_id(s, id);
	u = idmap_get(&s->uploads, id);
	if (u && !u->complete)
		state_upload_free(s, u);
	return 0;
}

int state_upload_name(struct state *s, uint64_t id, uint32_t piece_count,
		      uint64_t bytes, uint64_t lsn, struct state_upload **ret)
{
	struct state_upload *u = idmap_get(&s->uploads, id);

	state_saw_id(s, id);
	if (!u || u->piece_count != piece_count || u->bytes != bytes)
		return state_fail(s, -E_CORRUPT,
				  "the message at LSN %" PRIu64
				  " lacks pieces of its upload %" PRIu64,
				  lsn, id);
	u->complete = true;
	*ret = u;
	return 0;
}

int state_upload_move(struct state *s, uint32_t index,
		      const struct record_piece_place *p)
{
	struct state_upload *u = idmap_get(&s->uploads, p->upload);
	struct entry_place *place;

	if (!u || p->index >= u->piece_count)
		return 0;
	place = &u->pieces[p->index];
	if (place->body_len != p->body_len || place->segment == index)
		return state_fail(s, -E_CORRUPT,
				  "piece %" PRIu32 " of upload %" PRIu64
				  " was copied as something else",
				  p->index, p->upload);
	state_file_release(s, place->segment, 1, place->stored_len);
	*place = (struct entry_place){
		.segment = index,
		.at = p->offset,
		.stored_len = p->stored_len,
		.body_len = p->body_len,
	};
	state_file_hold(s, index, 1, p->stored_len);
	return 0;
}
