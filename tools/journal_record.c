/* tools/journal_record.c: see journal_record.h. */
#include <inttypes.h>
#include <string.h>

#include "journal/log/verify.h"
#include "journal/store/extent.h"
#include "tools/journal_record.h"

static const char *type_name(uint8_t type)
{
	switch (type) {
	case LOG_TYPE_PAD:
		return "pad";
	case LOG_TYPE_EPOCH_START:
		return "epoch-start";
	case LOG_TYPE_IDLE:
		return "idle";
	case RECORD_ENQUEUE:
		return "enqueue";
	case RECORD_PIECE:
		return "piece";
	case RECORD_UPLOAD_ABORT:
		return "upload-abort";
	case RECORD_ACK:
		return "ack";
	case RECORD_COUNT:
		return "count";
	case RECORD_MOVE:
		return "move";
	case RECORD_ADDRESS:
		return "address";
	case RECORD_ADDRESS_GONE:
		return "address-gone";
	case RECORD_QUEUE:
		return "queue";
	case RECORD_QUEUE_GONE:
		return "queue-gone";
	case RECORD_EXTENTS:
		return "extents";
	case RECORD_CHECKPOINT:
		return "checkpoint";
	default:
		return "unknown";
	}
}

static void set_number(json_t *o, const char *key, uint64_t value)
{
	json_object_set_new(o, key, json_integer((json_int_t)value));
}

/* Not every byte of a name or body is UTF-8. */
static void set_bytes(json_t *o, const char *key, const void *data, size_t len)
{
	json_t *text = json_stringn(data ? data : "", len);
	const uint8_t *bytes = data;
	char *escaped, *at;

	if (text) {
		json_object_set_new(o, key, text);
		return;
	}
	escaped = malloc(4 * len + 1);
	if (!escaped)
		return;
	at = escaped;
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] >= 32 && bytes[i] < 127)
			*at++ = (char)bytes[i];
		else
			at += snprintf(at, 5, "\\x%02x", bytes[i]);
	}
	*at = 0;
	json_object_set_new(o, key,
			    json_stringn(escaped, (size_t)(at - escaped)));
	free(escaped);
}

/* "4:17": priority and number. */
static json_t *ref_json(uint64_t ref)
{
	return json_sprintf("%u:%" PRIu64, record_ref_priority(ref),
			    record_ref_number(ref));
}

static int show_enqueue(json_t *o, const struct log_record *r)
{
	struct record_enqueue e;
	json_t *targets;
	int err = record_enqueue_decode(r->meta, r->meta_len, &e);

	if (err)
		return err;
	targets = json_array();
	for (uint32_t i = 0; i < e.target_count; i++)
		json_array_append_new(
			targets,
			json_integer((json_int_t)record_enqueue_target(&e, i)));
	json_object_set_new(o, "queues", targets);
	set_number(o, "bytes", e.bytes);
	if (e.upload) {
		set_number(o, "upload", e.upload);
		set_number(o, "pieces", e.piece_count);
	}
	if (e.props.expiry_ms)
		set_number(o, "expiry_ms", e.props.expiry_ms);
	set_number(o, "priority", e.props.priority);
	return 0;
}

static int show_ack(json_t *o, const struct log_record *r)
{
	struct record_ack a;
	json_t *ranges;
	int err = record_ack_decode(r->meta, r->meta_len, &a);

	if (err)
		return err;
	set_number(o, "queue", a.queue);
	set_number(o, "bytes", a.bytes);
	ranges = json_array();
	for (uint32_t i = 0; i < a.range_count; i++) {
		struct record_range range = record_ack_range(&a, i);

		json_array_append_new(ranges,
				      json_pack("[o, o]", ref_json(range.first),
						ref_json(range.last)));
	}
	json_object_set_new(o, "refs", ranges);
	return 0;
}

static int show_move(json_t *o, const struct log_record *r)
{
	struct record_move m;
	json_t *targets;
	int err = record_move_decode(r->meta, r->meta_len, &m);

	if (err)
		return err;
	set_number(o, "queue", m.queue);
	json_object_set_new(o, "ref", ref_json(m.ref));
	set_bytes(o, "from_queue", m.origin.queue, m.origin.queue_len);
	set_number(o, "reason", m.origin.reason);
	targets = json_array();
	for (uint32_t i = 0; i < m.target_count; i++)
		json_array_append_new(
			targets,
			json_integer((json_int_t)record_move_target(&m, i)));
	json_object_set_new(o, "queues", targets);
	return 0;
}

static int add_run(void *ctx, const struct record_run *run)
{
	return json_array_append_new(
		ctx,
		json_pack("{s:I, s:o, s:I, s:I, s:I, s:I}", "queue",
			  (json_int_t)run->queue, "first", ref_json(run->first),
			  "span", (json_int_t)run->span, "copied",
			  (json_int_t)run->copied, "offset",
			  (json_int_t)run->offset, "bytes",
			  (json_int_t)run->bytes));
}

static int skip_piece(void *ctx, const struct record_piece_place *piece)
{
	return 0;
}

static int show_extents(json_t *o, const struct log_record *r)
{
	struct record_extents e;
	char name[EXTENT_NAME_BYTES];
	json_t *runs;
	int err = record_extents_decode(r->meta, r->meta_len, &e);

	if (err)
		return err;
	extent_name(e.file, name);
	json_object_set_new(o, "file", json_string(name));
	set_number(o, "bytes", e.file_bytes);
	set_number(o, "pieces", e.piece_count);
	runs = json_array();
	err = record_extents_each(&e, add_run, skip_piece, runs);
	json_object_set_new(o, "runs", runs);
	return err;
}

static int show_small(json_t *o, const struct log_record *r)
{
	struct record_piece piece;
	struct record_count count;
	uint64_t id;
	int err;

	switch (r->type) {
	case RECORD_PIECE:
		err = record_piece_decode(r->meta, r->meta_len, &piece);
		if (!err) {
			set_number(o, "upload", piece.upload);
			set_number(o, "index", piece.index);
		}
		return err;
	case RECORD_COUNT:
		err = record_count_decode(r->meta, r->meta_len, &count);
		if (!err) {
			set_number(o, "queue", count.queue);
			json_object_set_new(o, "ref", ref_json(count.ref));
			set_number(o, "deliveries", count.deliveries);
		}
		return err;
	case RECORD_UPLOAD_ABORT:
		err = record_upload_abort_decode(r->meta, r->meta_len, &id);
		break;
	default:
		err = record_gone_decode(r->meta, r->meta_len, &id);
		break;
	}
	if (!err)
		set_number(o, "id", id);
	return err;
}

static int show_named(json_t *o, const struct log_record *r)
{
	struct record_address address;
	struct record_queue queue;
	struct record_checkpoint checkpoint;
	int err;

	switch (r->type) {
	case RECORD_ADDRESS:
		err = record_address_decode(r->meta, r->meta_len, &address);
		if (!err) {
			set_number(o, "id", address.id);
			set_bytes(o, "name", address.name, address.name_len);
		}
		return err;
	case RECORD_QUEUE:
		err = record_queue_decode(r->meta, r->meta_len, &queue);
		if (!err) {
			set_number(o, "id", queue.id);
			set_number(o, "address", queue.address);
			set_bytes(o, "name", queue.name, queue.name_len);
			set_number(o, "flags", queue.flags);
		}
		return err;
	default:
		err = record_checkpoint_decode(r->meta, r->meta_len,
					       &checkpoint);
		if (!err) {
			set_number(o, "below", checkpoint.lsn);
			set_bytes(o, "name", checkpoint.name,
				  checkpoint.name_len);
		}
		return err;
	}
}

static int show(json_t *o, const struct log_record *r)
{
	switch (r->type) {
	case RECORD_ENQUEUE:
		return show_enqueue(o, r);
	case RECORD_ACK:
		return show_ack(o, r);
	case RECORD_MOVE:
		return show_move(o, r);
	case RECORD_EXTENTS:
		return show_extents(o, r);
	case RECORD_PIECE:
	case RECORD_COUNT:
	case RECORD_UPLOAD_ABORT:
	case RECORD_ADDRESS_GONE:
	case RECORD_QUEUE_GONE:
		return show_small(o, r);
	case RECORD_ADDRESS:
	case RECORD_QUEUE:
	case RECORD_CHECKPOINT:
		return show_named(o, r);
	default:
		return 0;
	}
}

json_t *journal_record_json(const struct log_record *r, int with_body)
{
	json_t *o = json_pack("{s:s, s:I, s:s}", "kind", "record", "lsn",
			      (json_int_t)r->lsn, "type", type_name(r->type));
	void *body;

	if (!o)
		return NULL;
	if (show(o, r))
		json_object_set_new(o, "damaged", json_true());
	if (!r->loc.body_len)
		return o;
	set_number(o, "body_bytes", r->loc.body_len);
	if (!with_body)
		return o;
	body = malloc(r->loc.body_len);
	if (body && log_record_expand(r, body) == 0)
		set_bytes(o, "body", body, r->loc.body_len);
	else
		json_object_set_new(o, "damaged", json_true());
	free(body);
	return o;
}
