/* broker/admin/admin.c: the life of the admin thread, and growing text. */
#include "broker/admin/internal.h"

#include <stdarg.h>
#include <string.h>

/* ---- text ---- */

static bool text_room(struct admin_text *t, size_t more)
{
	size_t want = t->len + more + 1, capacity = t->capacity;
	char *data;

	if (t->failed)
		return false;
	if (want <= capacity)
		return true;
	if (want > ADMIN_TEXT_BYTES_MAX) {
		t->failed = true;
		return false;
	}
	capacity = base_max(want, capacity * 2);
	data = realloc(t->data, ADMIN_TEXT_HEADROOM + capacity);
	if (!data) {
		t->failed = true;
		return false;
	}
	t->data = data;
	t->capacity = capacity;
	return true;
}

void admin_text_write(struct admin_text *t, const char *data, size_t len)
{
	if (!text_room(t, len))
		return;
	memcpy(t->data + ADMIN_TEXT_HEADROOM + t->len, data, len);
	t->len += len;
}

void admin_text_add(struct admin_text *t, const char *format, ...)
{
	va_list ap, again;
	int n;

	va_start(ap, format);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, format, ap);
	if (n >= 0 && text_room(t, (size_t)n)) {
		vsnprintf(t->data + ADMIN_TEXT_HEADROOM + t->len, (size_t)n + 1,
			  format, again);
		t->len += (size_t)n;
	}
	va_end(again);
	va_end(ap);
}

void admin_text_fini(struct admin_text *t)
{
	free(t->data);
	*t = (struct admin_text){0};
}

/* ---- life ---- */

static void answer(void *ctx, const struct admin_request *request,
		   struct admin_response *response)
{
	api_answer(ctx, request, response);
}

int admin_create(const struct admin_options *options, struct admin **ret,
		 const char **ret_why)
{
	struct admin *a = calloc(1, sizeof(*a));
	int err;

	if (!a) {
		*ret_why = "no memory";
		return -ENOMEM;
	}
	a->options = *options;
	a->started_ns = io_now_ns(options->io);
	a->started_wall_ms = io_wall_ms(options->io);
	io_random(options->io, a->salt, sizeof(a->salt));
	err = http_create(
		&(struct http_options){
			.address = options->address,
			.port = options->port,
			.answer = answer,
			.ctx = a,
		},
		&a->http, ret_why);
	if (err) {
		free(a);
		return err;
	}
	*ret = a;
	return 0;
}

void admin_free(struct admin *a)
{
	if (!a)
		return;
	http_free(a->http);
	crypto_zero(a, sizeof(*a));
	free(a);
}

void admin_serve(struct admin *a, const struct admin_broker *broker)
{
	a->broker = *broker;
	a->serving = true;
}

uint16_t admin_port(const struct admin *a)
{
	return http_port(a->http);
}

void admin_set_state(struct admin *a, enum admin_state state)
{
	atomic_store(&a->state, (int)state);
}

void admin_users_changed(struct admin *a)
{
	atomic_fetch_add(&a->users_version, 1);
}
