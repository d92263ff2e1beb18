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
	if (!rare->excluded) {
		rare->excluded = calloc(REF_EXCLUDED_MAX, sizeof(uint64_t));
		if (!rare->excluded)
			return -ENOMEM;
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

	if (!d->message ||
	    atomic_load_explicit(&core->memory_bytes, memory_order_relaxed) <=
		    core->memory_bytes_max)
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
	return d->lsn;
}

uint32_t delivery_piece_count(const struct delivery *d)
{
	return d->large ? d->large->piece_count : 0;
}

uint32_t delivery_piece_bytes(const struct delivery *d, uint32_t index)
{
	ASSERT(d->large && index < d->large->piece_count);
	return d->large->pieces[index].body_len;
}
