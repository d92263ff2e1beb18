/* Large messages: journalled piece by piece as they arrive.
 *
 * Crash argument: a PIECE record belongs to nobody until the ENQUEUE record
 * that names its upload is durable, and that record is handed to the journal
 * only after every piece has been committed.  A restart forgets the uploads
 * that never got so far. */
#include <string.h>

#include "broker/core/internal.h"

struct upload {
	struct producer *producer;
	struct shard *shard;
	struct large *large;
	struct message *message; /* what it becomes */
	uint32_t pieces_in_flight;
	bool finishing, aborted;
	int err;
};

struct piece {
	struct log_append append;
	struct log_note note;
	struct upload *upload;
	uint32_t index, len;
	uint8_t meta[RECORD_PIECE_ROOM];
	uint8_t data[];
};

struct upload_goodbye {
	struct log_append append;
	struct log_note note;
	struct shard *shard;
	uint8_t meta[RECORD_UPLOAD_ABORT_ROOM];
};

int upload_begin(struct producer *p, struct upload **ret)
{
	struct core *core = p->shard->core;
	struct upload *u;

	ASSERT(p->attached && !p->detaching);
	if (!core->null_sink && !log_has_space(core->log))
		return -E_NO_SPACE;
	u = calloc(1, sizeof(*u));
	if (!u)
		return -ENOMEM;
	u->large = large_create(core_next_id(core));
	u->message = message_create(p->shard, 0);
	if (!u->large || !u->message) {
		large_release(u->large);
		message_release(u->message);
		free(u);
		return -ENOMEM;
	}
	u->producer = p;
	u->shard = p->shard;
	p->in_flight++;
	*ret = u;
	return 0;
}

static void upload_free(struct upload *u)
{
	struct producer *p = u->producer;

	large_release(u->large);
	message_release(u->message);
	free(u);
	p->in_flight--;
	producer_release_maybe(p);
}

static void goodbye_committed(struct loop_mail *mail)
{
	struct upload_goodbye *g =
		container_of(mail, struct upload_goodbye, note.mail);

	shard_append_done(g->shard);
	free(g);
}

void upload_discard(struct shard *s, const struct large *large)
{
	struct upload_goodbye *g;

	if (large->piece_count == 0 || s->core->null_sink)
		return;
	g = calloc(1, sizeof(*g));
	if (!g)
		return;
	g->shard = s;
	g->append.type = RECORD_UPLOAD_ABORT;
	g->append.meta = g->meta;
	g->append.meta_len =
		(uint32_t)record_upload_abort_encode(large->upload, g->meta);
	g->append.notes = &g->note;
	g->append.note_count = 1;
	g->note.mail.deliver = goodbye_committed;
	g->note.to = s->loop;
	g->note.append = &g->append;
	shard_append(s, &g->append);
}

/* No piece is on its way: the message, which has kept its place among the
 * producer's, may go on. */
static void upload_complete(struct upload *u)
{
	struct message *m = u->message;

	u->message = NULL;
	m->held = false;
	if (!m->err)
		m->err = u->err;
	producer_go_on(u->producer);
	upload_free(u);
}

static void upload_go_on(struct upload *u)
{
	if (u->pieces_in_flight)
		return;
	if (u->aborted)
		upload_free(u);
	else if (u->finishing)
		upload_complete(u);
}

static void piece_committed(struct loop_mail *mail)
{
	struct piece *piece = container_of(mail, struct piece, note.mail);
	struct upload *u = piece->upload;

	shard_append_done(u->shard);
	producer_bytes_sub(u->shard, piece->len);
	u->large->piece_bytes[piece->index] = piece->len;
	if (piece->append.err)
		u->err = piece->append.err;
	u->pieces_in_flight--;
	free(piece);
	upload_go_on(u);
}

static int upload_check(struct upload *u, size_t len)
{
	struct core *core = u->shard->core;

	if (u->err)
		return u->err;
	if (u->large->bytes + len > core->message_bytes_max)
		return -E_LIMIT;
	if (!core->null_sink && !log_has_space(core->log))
		return -E_NO_SPACE;
	return large_reserve(u->large, u->large->piece_count + 1);
}

int upload_append(struct upload *u, const void *data, size_t len)
{
	struct record_piece record = {
		.upload = u->large->upload,
		.index = u->large->piece_count,
	};
	struct piece *piece;
	int err;

	ASSERT(len <= CORE_PIECE_BYTES && !u->finishing && !u->aborted);
	err = upload_check(u, len);
	if (err || len == 0)
		return err;
	if (u->shard->core->null_sink) {
		u->large->bytes += len;
		return 0;
	}
	piece = malloc(sizeof(*piece) + len);
	if (!piece)
		return -ENOMEM;
	memset(piece, 0, sizeof(*piece));
	memcpy(piece->data, data, len);
	piece->upload = u;
	piece->index = record.index;
	piece->len = (uint32_t)len;
	piece->append.type = RECORD_PIECE;
	piece->append.meta = piece->meta;
	piece->append.meta_len =
		(uint32_t)record_piece_encode(&record, piece->meta);
	piece->append.body = piece->data;
	piece->append.body_len = (uint32_t)len;
	piece->append.notes = &piece->note;
	piece->append.note_count = 1;
	piece->note.mail.deliver = piece_committed;
	piece->note.to = u->shard->loop;
	piece->note.append = &piece->append;
	u->large->piece_count++;
	u->large->bytes += len;
	u->pieces_in_flight++;
	producer_bytes_add(u->shard, len);
	shard_append(u->shard, &piece->append);
	return 0;
}

void upload_finish(struct upload *u, const struct record_props *props,
		   const char *to, void *context)
{
	struct message *m = u->message;

	ASSERT(!u->finishing && !u->aborted);
	m->props = *props;
	m->context = context;
	m->large = large_hold(u->large);
	m->held = true;
	u->finishing = true;
	producer_submit(u->producer, m, to);
	upload_go_on(u);
}

void upload_abort(struct upload *u)
{
	if (!u)
		return;
	ASSERT(!u->finishing && !u->aborted);
	u->aborted = true;
	upload_discard(u->shard, u->large);
	upload_go_on(u);
}
