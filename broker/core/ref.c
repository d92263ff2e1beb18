/* Refs: one message in one queue. */
#include <string.h>

#include "broker/core/internal.h"

#define REF_EXCLUDED_MAX 64u

struct delivery *ref_create(struct queue *queue)
{
	struct delivery *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	list_init(&d->link);
	d->queue = queue_hold(queue);
	d->state = REF_COMMITTING;
	return d;
}

void ref_free(struct delivery *d)
{
	if (!d)
		return;
	ASSERT(list_empty(&d->link));
	ASSERT(d->heap_index == 0);
	if (d->counted)
		memory_add(d->queue->shard, -(int64_t)sizeof(*d));
	message_release(d->message);
	large_release(d->large);
	if (d->rare) {
		free(d->rare->extra);
		free(d->rare->origin_text);
		free(d->rare->excluded);
		free(d->rare);
	}
	queue_release(d->queue);
	free(d);
}

void ref_count(struct delivery *d)
{
	d->counted = true;
	memory_add(d->queue->shard, sizeof(*d));
}

static int ref_set_large(struct delivery *d, const struct store_message *m)
{
	d->large = large_create(m->upload);
	if (!d->large || large_reserve(d->large, m->piece_count) != 0)
		return -ENOMEM;
	memcpy(d->large->piece_bytes, m->piece_bytes,
	       m->piece_count * sizeof(*m->piece_bytes));
	d->large->piece_count = m->piece_count;
	d->large->bytes = m->bytes;
	return 0;
}

int ref_set_body(struct delivery *d, const struct store_message *m)
{
	ASSERT(m->bytes <= UINT32_MAX);
	d->message = message_create(d->queue->shard, (uint32_t)m->bytes);
	if (!d->message)
		return -ENOMEM;
	if (m->bytes)
		memcpy(d->message->data, m->body, m->bytes);
	return 0;
}

int ref_from_store(struct queue *q, const struct store_message *m,
		   bool with_body, struct delivery **ret)
{
	const struct record_origin *from = &m->origin;
	struct delivery *d = ref_create(q);
	int err = 0;

	if (!d)
		return -ENOMEM;
	d->ref = m->ref;
	d->props = m->props;
	d->bytes = m->bytes;
	d->attempts = m->deliveries;
	if (m->upload)
		err = ref_set_large(d, m);
	else if (with_body)
		err = ref_set_body(d, m);
	if (!err && m->extra_len)
		err = ref_set_extra(d, m->extra, m->extra_len);
	if (!err && from->reason)
		err = ref_set_origin(d, from->address, from->address_len,
				     from->queue, from->queue_len,
				     from->reason);
	if (err) {
		ref_free(d);
		return err;
	}
	ref_count(d);
	*ret = d;
	return 0;
}

int ref_rare(struct delivery *d, struct ref_rare **ret)
{
	if (!d->rare)
		d->rare = calloc(1, sizeof(*d->rare));
	if (!d->rare)
		return -ENOMEM;
	*ret = d->rare;
	return 0;
}

int ref_set_extra(struct delivery *d, const void *extra, uint32_t len)
{
	struct ref_rare *rare;
	void *copy = NULL;
	int err = ref_rare(d, &rare);

	if (err)
		return err;
	if (len) {
		copy = malloc(len);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, extra, len);
	}
	free(rare->extra);
	rare->extra = copy;
	rare->extra_len = len;
	return 0;
}

int ref_set_origin(struct delivery *d, const char *address, size_t address_len,
		   const char *queue, size_t queue_len, uint8_t reason)
{
	struct ref_rare *rare;
	char *text;
	int err = ref_rare(d, &rare);

	if (err)
		return err;
	text = malloc(address_len + queue_len + 2);
	if (!text)
		return -ENOMEM;
	memcpy(text, address, address_len);
	text[address_len] = '\0';
	memcpy(text + address_len + 1, queue, queue_len);
	text[address_len + 1 + queue_len] = '\0';
	free(rare->origin_text);
	rare->origin_text = text;
	rare->origin = (struct record_origin){
		.address = text,
		.address_len = (uint16_t)address_len,
		.queue = text + address_len + 1,
		.queue_len = (uint16_t)queue_len,
		.reason = reason,
	};
	return 0;
}

bool ref_excludes(const struct delivery *d, uint64_t subscriber)
{
	if (!d->rare)
		return false;
	for (uint32_t i = 0; i < d->rare->excluded_count; i++)
		if (d->rare->excluded[i] == subscriber)
			return true;
	return false;
}

/* The oldest exclusion is forgotten when there are too many: a consumer of
 * long ago may then see the message again, which AMQP allows. */
int ref_exclude(struct delivery *d, uint64_t subscriber)
{
	struct ref_rare *rare;
	int err = ref_rare(d, &rare);

	if (err)
		return err;
	if (rare->excluded_count == rare->excluded_capacity &&
	    rare->excluded_capacity < REF_EXCLUDED_MAX) {
		uint32_t capacity = rare->excluded_capacity
					    ? rare->excluded_capacity * 2
					    : 4;
		uint64_t *more = realloc(rare->excluded,
					 capacity * sizeof(*rare->excluded));

		if (!more)
			return -ENOMEM;
		rare->excluded = more;
		rare->excluded_capacity = capacity;
	}
	if (rare->excluded_count == REF_EXCLUDED_MAX) {
		memmove(rare->excluded, rare->excluded + 1,
			(REF_EXCLUDED_MAX - 1) * sizeof(uint64_t));
		rare->excluded_count--;
	}
	rare->excluded[rare->excluded_count++] = subscriber;
	return 0;
}

/* ---- what an adaptor may ask of a delivery ---- */

const uint8_t *delivery_data(const struct delivery *d)
{
	return d->message ? d->message->data : NULL;
}

void delivery_sent(struct delivery *d)
{
	struct core *core = d->queue->core;

	/* Half of the memory may be with consumers; what they hold cannot be
	 * given back when others need it. */
	if (!d->message || !memory_is_over(core, core->memory_bytes_max / 2))
		return;
	message_release(d->message);
	d->message = NULL;
}

uint64_t delivery_bytes(const struct delivery *d)
{
	return d->bytes;
}

const struct record_props *delivery_props(const struct delivery *d)
{
	return &d->props;
}

uint32_t delivery_attempts(const struct delivery *d)
{
	return d->attempts;
}

const void *delivery_extra(const struct delivery *d, uint32_t *ret_len)
{
	*ret_len = d->rare ? d->rare->extra_len : 0;
	return d->rare ? d->rare->extra : NULL;
}

const struct record_origin *delivery_origin(const struct delivery *d)
{
	return d->rare && d->rare->origin.reason ? &d->rare->origin : NULL;
}

uint64_t delivery_ref(const struct delivery *d)
{
	return d->ref;
}

uint32_t delivery_piece_count(const struct delivery *d)
{
	return d->large ? d->large->piece_count : 0;
}

uint32_t delivery_piece_bytes(const struct delivery *d, uint32_t index)
{
	ASSERT(d->large && index < d->large->piece_count);
	return d->large->piece_bytes[index];
}
