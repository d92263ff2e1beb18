/* tests/unit/extent_items.h: messages and pieces to put into extent files,
 * made from a number, so that whoever reads them back knows what is right. */
#ifndef TESTS_UNIT_EXTENT_ITEMS_H
#define TESTS_UNIT_EXTENT_ITEMS_H

#include "base/compress.h"
#include "base/sim/sim.h"
#include "journal/store/extent.h"
#include "tests/unit/log_harness.h"

#define ITEM_BODY_MAX LOG_RECORD_BYTES_MAX

struct item { /* owns what its message points to */
	uint64_t queue;
	struct extent_message m;
	uint8_t *body; /* expanded */
};

static inline uint64_t item_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* Every kind of message: what is in it depends on queue and ref alone. */
static inline struct item item_make(uint64_t queue, uint64_t ref, uint32_t len)
{
	static const char address[] = "an address", name[] = "a queue";
	uint64_t x = item_mix(queue * 1000003 + ref);
	struct item item = {.queue = queue};
	struct extent_message *m = &item.m;
	uint8_t *extra = NULL, *stored;
	struct compress *c = NULL;
	size_t packed;

	item.body = malloc(len + 1);
	stored = malloc(len + 1);
	harness_pattern(item.body, len, (uint32_t)x);
	if (x % 3 == 0)
		memset(item.body + len / 4, 'r', len - len / 4);
	m->ref = ref;
	m->props = (struct record_props){
		.arrived_ms = x >> 20,
		.expiry_ms = x % 5 ? 0 : 1000 + x % 1000,
		.priority = (uint8_t)record_ref_priority(ref),
		.durable = x >> 7 & 1,
		.format = 0,
	};
	m->deliveries = x % 4 ? 0 : (uint32_t)(x >> 9);
	if (x % 7 == 0) {
		m->extra_len = 1 + (uint32_t)(x >> 33) % 300;
		extra = malloc(m->extra_len);
		harness_pattern(extra, m->extra_len, (uint32_t)x + 1);
		m->extra = extra;
	}
	if (x % 11 == 0)
		m->origin = (struct record_origin){
			.address = address,
			.queue = name,
			.address_len = (uint16_t)strlen(address),
			.queue_len = (uint16_t)(x % 22 ? strlen(name) : 0),
			.reason = (uint8_t)(1 + x / 11 % 4),
		};
	m->body_len = m->stored_len = len;
	memcpy(stored, item.body, len);
	if (len > 64 && x % 3 == 0) {
		assert_int_equal(compress_create(1, &c), 0);
		if (!compress_pack(c, item.body, len, stored, len, &packed))
			m->stored_len = (uint32_t)packed;
		compress_free(c);
	}
	m->stored = stored;
	return item;
}

static inline void item_free(struct item *item)
{
	free(item->body);
	free((void *)(uintptr_t)item->m.stored);
	free((void *)(uintptr_t)item->m.extra);
}

static inline void item_check(const struct item *want, uint64_t queue,
			      const struct extent_message *m)
{
	const struct extent_message *w = &want->m;

	assert_int_equal(queue, want->queue);
	assert_int_equal(m->ref, w->ref);
	assert_int_equal(m->props.expiry_ms, w->props.expiry_ms);
	assert_int_equal(m->props.arrived_ms, w->props.arrived_ms);
	assert_int_equal(m->props.priority, w->props.priority);
	assert_int_equal(m->props.durable, w->props.durable);
	assert_int_equal(m->props.format, w->props.format);
	assert_int_equal(m->deliveries, w->deliveries);
	assert_int_equal(m->extra_len, w->extra_len);
	if (w->extra_len)
		assert_memory_equal(m->extra, w->extra, w->extra_len);
	assert_int_equal(m->origin.reason, w->origin.reason);
	assert_int_equal(m->origin.address_len, w->origin.address_len);
	assert_int_equal(m->origin.queue_len, w->origin.queue_len);
	if (w->origin.address_len)
		assert_memory_equal(m->origin.address, w->origin.address,
				    w->origin.address_len);
	if (w->origin.queue_len)
		assert_memory_equal(m->origin.queue, w->origin.queue,
				    w->origin.queue_len);
	assert_int_equal(m->body_len, w->body_len);
	assert_int_equal(m->stored_len, w->stored_len);
	assert_memory_equal(m->stored, w->stored, w->stored_len);
}

#endif
