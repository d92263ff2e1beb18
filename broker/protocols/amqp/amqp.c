/* broker/protocols/amqp/amqp.c: what the connections have in common. */
#include "broker/protocols/amqp/amqp.h"

#include <string.h>

#include "broker/protocols/amqp/internal.h"

#define FREE_BUFFERS_MAX 64u

static void set_default32(uint32_t *value, uint32_t fallback)
{
	if (!*value)
		*value = fallback;
}

static void options_complete(struct amqp_options *o)
{
	set_default32(&o->frame_bytes_max, 128 * 1024);
	o->frame_bytes_max = (uint32_t)base_max(
		4096, base_min(o->frame_bytes_max, 1024 * 1024));
	set_default32(&o->idle_timeout_ms, 60000);
	set_default32(&o->handshake_ms, 10000);
	set_default32(&o->credit, 1000);
	set_default32(&o->credit_refill, 300);
	o->credit_refill = (uint32_t)base_min(o->credit_refill, o->credit - 1);
	if (!o->channel_max)
		o->channel_max = 255;
	o->channel_max = (uint16_t)base_min(o->channel_max, GATE_CHANNEL_MAX);
	set_default32(&o->session_window, 2048);
	set_default32(&o->session_link_max, 1024);
	set_default32(&o->connection_link_max, 4096);
	set_default32(&o->link_unsettled_max, 16384);
	if (!o->message_bytes_max)
		o->message_bytes_max = 1024ull * 1024 * 1024;
}

int amqp_create(const struct amqp_options *options, struct amqp **ret)
{
	unsigned count = core_shard_count(options->core);
	struct amqp *a = calloc(1, sizeof(*a) + count * sizeof(a->shards[0]));

	if (!a)
		return -ENOMEM;
	a->options = *options;
	options_complete(&a->options);
	a->container_id = strdup(options->container_id ? options->container_id
						       : "holdfast");
	if (!a->container_id) {
		free(a);
		return -ENOMEM;
	}
	a->options.container_id = a->container_id;
	a->shard_count = count;
	for (unsigned i = 0; i < count; i++) {
		struct amqp_shard *home = &a->shards[i];

		home->amqp = a;
		home->shard = core_shard(options->core, i);
		home->loop = shard_loop(home->shard);
		list_init(&home->connections);
	}
	*ret = a;
	return 0;
}

void amqp_free(struct amqp *a)
{
	if (!a)
		return;
	for (unsigned i = 0; i < a->shard_count; i++) {
		struct amqp_shard *home = &a->shards[i];

		ASSERT(list_empty(&home->connections));
		while (home->free_buffers) {
			struct send_buffer *b = home->free_buffers;

			home->free_buffers = b->next;
			free(b);
		}
		while (home->free_settled) {
			struct settled *settled = home->free_settled;

			home->free_settled = settled->next;
			free(settled);
		}
		free(home->scratch);
	}
	free(a->container_id);
	free(a);
}

/* ---- shared by a shard ---- */

struct send_buffer *amqp_buffer_take(struct amqp_shard *home)
{
	struct send_buffer *b = home->free_buffers;

	if (!b)
		return malloc(sizeof(*b));
	home->free_buffers = b->next;
	home->free_buffer_count--;
	return b;
}

void amqp_buffer_give(struct amqp_shard *home, struct send_buffer *b)
{
	if (!b)
		return;
	if (home->free_buffer_count >= FREE_BUFFERS_MAX) {
		free(b);
		return;
	}
	b->next = home->free_buffers;
	home->free_buffers = b;
	home->free_buffer_count++;
}

struct settled *amqp_settled_take(struct amqp_shard *home)
{
	struct settled *settled = home->free_settled;

	if (settled) {
		home->free_settled = settled->next;
		home->free_settled_count--;
	} else {
		settled = malloc(sizeof(*settled));
	}
	if (settled)
		settled->count = 0;
	return settled;
}

void amqp_settled_give(struct amqp_shard *home, struct settled *settled)
{
	if (home->free_settled_count >= FREE_BUFFERS_MAX) {
		free(settled);
		return;
	}
	settled->next = home->free_settled;
	home->free_settled = settled;
	home->free_settled_count++;
}

uint8_t *amqp_scratch(struct amqp_shard *home, size_t len)
{
	if (home->scratch_bytes < len) {
		uint8_t *more = realloc(home->scratch, len);

		if (!more)
			return NULL;
		home->scratch = more;
		home->scratch_bytes = len;
	}
	return home->scratch;
}

const char *amqp_condition(int err)
{
	switch (-err) {
	case E_NOT_FOUND:
		return "amqp:not-found";
	case E_REFUSED:
		return "amqp:unauthorized-access";
	case E_EXISTS:
		return "amqp:not-allowed";
	case E_NO_SPACE:
	case E_LIMIT:
		return "amqp:resource-limit-exceeded";
	case EINVAL:
		return "amqp:invalid-field";
	default:
		return "amqp:internal-error";
	}
}

void amqp_count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* ---- closing ---- */

static void close_arrived(struct loop_mail *mail)
{
	struct amqp_shard *home =
		container_of(mail, struct amqp_shard, close_mail);

	home->closing = true;
	list_for_each_safe(n, &home->connections)
		connection_drain(list_entry(n, struct connection, node));
}

void amqp_close_all(struct amqp *a, const char *text, uint32_t patience_ms)
{
	if (atomic_exchange(&a->close_posted, true))
		return;
	a->close_text = text;
	a->close_patience_ms = patience_ms;
	for (unsigned i = 0; i < a->shard_count; i++) {
		struct amqp_shard *home = &a->shards[i];

		home->close_mail.deliver = close_arrived;
		loop_post(home->loop, &home->close_mail);
	}
}

uint32_t amqp_connection_count(const struct amqp *a)
{
	return atomic_load(&a->connection_count);
}

void amqp_stats(const struct amqp *a, struct amqp_stats *ret)
{
	*ret = (struct amqp_stats){
		.opened = atomic_load(&a->opened),
		.closed = atomic_load(&a->closed),
		.sasl_failures = atomic_load(&a->sasl_failures),
		.protocol_errors = atomic_load(&a->protocol_errors),
		.links_refused = atomic_load(&a->links_refused),
		.presettled_lost = atomic_load(&a->presettled_lost),
	};
}
