/* broker/admin/http.c: the only user of libwebsockets.
 *
 * One thread, a handful of connections, plain HTTP/1.1.  The context is made
 * lean on purpose: no TLS initialisation, one small service buffer, and a
 * descriptor limit of our own, as by default its tables are sized by
 * RLIMIT_NOFILE, which is a million in many containers.
 *
 * A request's body is collected before it is answered, an answer is made
 * whole before it is sent; both are bounded. */
#include "broker/admin/internal.h"

#include <arpa/inet.h>
#include <libwebsockets.h>
#include <signal.h>
#include <string.h>

#include "base/logger.h"

#define HTTP_CONNECTIONS_MAX 64u
#define HTTP_CHUNK_BYTES 16384u
#define HTTP_IDLE_S 30

_Static_assert(ADMIN_TEXT_HEADROOM >= LWS_PRE, "room for lws before a text");

struct http {
	struct http_options options;
	struct lws_context *context;
	struct lws_vhost *vhost;
	pthread_t thread;
	_Atomic bool stopping;
	uint16_t port;
};

/* Per connection; lws gives it zeroed and reuses it for the next request. */
struct exchange {
	enum admin_method method;
	char path[ADMIN_PATH_BYTES];
	char after[RECORD_NAME_MAX + 1];
	char limit[16];
	char role[16];
	char host[256];
	char authorization[768];
	bool guarded, from_loopback;
	char *body;
	size_t body_len, body_capacity;
	struct admin_text text;
	size_t sent;
	bool answered;
};

static void exchange_clear(struct exchange *e)
{
	free(e->body);
	admin_text_fini(&e->text);
	crypto_zero(e, sizeof(*e));
}

/* ---- sending ---- */

static int add_header(struct lws *wsi, const char *name, const char *value,
		      unsigned char **p, unsigned char *end)
{
	return lws_add_http_header_by_name(wsi, (const unsigned char *)name,
					   (const unsigned char *)value,
					   (int)strlen(value), p, end);
}

/* Returns what the lws callback is to return. */
static int send_head(struct lws *wsi, struct exchange *e,
		     const struct admin_response *r)
{
	unsigned char buf[LWS_PRE + 1024];
	unsigned char *start = buf + LWS_PRE, *p = start;
	unsigned char *end = buf + sizeof(buf) - 1;

	if (lws_add_http_common_headers(wsi, r->status, r->type, e->text.len,
					&p, end) ||
	    add_header(wsi, "cache-control:", "no-store", &p, end) ||
	    add_header(wsi, "x-content-type-options:", "nosniff", &p, end) ||
	    (r->allow && add_header(wsi, "allow:", r->allow, &p, end)) ||
	    (r->ask_user &&
	     add_header(wsi, "www-authenticate:",
			"Basic realm=\"holdfast\", charset=\"UTF-8\"", &p,
			end)) ||
	    lws_finalize_write_http_header(wsi, start, &p, end))
		return -1;
	lws_callback_on_writable(wsi);
	return 0;
}

static int answer(struct lws *wsi, struct http *http, struct exchange *e)
{
	struct admin_request request = {
		.method = e->method,
		.path = e->path,
		.after = e->after,
		.limit = e->limit,
		.role = e->role,
		.body = e->body,
		.body_len = e->body_len,
		.host = e->host,
		.authorization = e->authorization,
		.guarded = e->guarded,
		.from_loopback = e->from_loopback,
	};
	struct admin_response response = {.type = "application/json"};

	e->answered = true;
	http->options.answer(http->options.ctx, &request, &response);
	if (response.text.failed) {
		admin_text_fini(&response.text);
		response.status = 500;
		response.type = "application/json";
		admin_text_add(&response.text,
			       "{\"error\":\"no memory for the answer\"}\n");
	}
	e->text = response.text;
	e->sent = 0;
	return send_head(wsi, e, &response);
}

static int refuse(struct lws *wsi, struct exchange *e, unsigned status,
		  const char *why)
{
	struct admin_response response = {
		.status = status,
		.type = "application/json",
	};

	e->answered = true;
	admin_text_add(&e->text, "{\"error\":\"%s\"}\n", why);
	return send_head(wsi, e, &response);
}

static int send_more(struct lws *wsi, struct exchange *e)
{
	size_t len = base_min(e->text.len - e->sent, HTTP_CHUNK_BYTES);
	bool last = e->sent + len == e->text.len;
	unsigned char *p;

	if (!e->answered || !e->text.data)
		return 0;
	p = (unsigned char *)e->text.data + ADMIN_TEXT_HEADROOM + e->sent;
	if (lws_write(wsi, p, len,
		      last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < (int)len)
		return -1;
	e->sent += len;
	if (!last) {
		lws_callback_on_writable(wsi);
		return 0;
	}
	exchange_clear(e);
	return lws_http_transaction_completed(wsi) ? -1 : 0;
}

/* ---- receiving ---- */

static enum admin_method method_of(struct lws *wsi)
{
	if (lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI))
		return ADMIN_GET;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_POST_URI))
		return ADMIN_POST;
	if (lws_hdr_total_length(wsi, WSI_TOKEN_DELETE_URI))
		return ADMIN_DELETE;
	return ADMIN_OTHER;
}

static bool copy_header(struct lws *wsi, enum lws_token_indexes token,
			char *buf, size_t buf_len)
{
	buf[0] = '\0';
	return !lws_hdr_total_length(wsi, token) ||
	       lws_hdr_copy(wsi, buf, (int)buf_len, token) >= 0;
}

static void copy_argument(struct lws *wsi, const char *name, char *buf,
			  size_t buf_len)
{
	char room[RECORD_NAME_MAX + 64];
	const char *value =
		lws_get_urlarg_by_name(wsi, name, room, (int)sizeof(room));

	snprintf(buf, buf_len, "%s", value ? value : "");
}

static bool peer_is_loopback(struct lws *wsi)
{
	char peer[64] = "";

	lws_get_peer_simple(wsi, peer, sizeof(peer));
	return !strncmp(peer, "127.", 4) || !strcmp(peer, "::1") ||
	       !strncmp(peer, "::ffff:127.", 11);
}

static bool has_guard(struct lws *wsi)
{
	static const char name[] = "x-holdfast:";
	char value[8] = "";
	int len = lws_hdr_custom_length(wsi, name, (int)sizeof(name) - 1);

	return len == 1 &&
	       lws_hdr_custom_copy(wsi, value, sizeof(value), name,
				   (int)sizeof(name) - 1) == 1 &&
	       value[0] == '1';
}

static int begin(struct lws *wsi, struct http *http, struct exchange *e,
		 const char *path, size_t path_len)
{
	char length[24] = "";

	exchange_clear(e);
	e->method = method_of(wsi);
	e->from_loopback = peer_is_loopback(wsi);
	e->guarded = has_guard(wsi);
	if (path_len >= sizeof(e->path))
		return refuse(wsi, e, 414, "the path is too long");
	memcpy(e->path, path, path_len);
	copy_argument(wsi, "after=", e->after, sizeof(e->after));
	copy_argument(wsi, "limit=", e->limit, sizeof(e->limit));
	copy_argument(wsi, "role=", e->role, sizeof(e->role));
	if (!copy_header(wsi, WSI_TOKEN_HOST, e->host, sizeof(e->host)) ||
	    !copy_header(wsi, WSI_TOKEN_HTTP_AUTHORIZATION, e->authorization,
			 sizeof(e->authorization)) ||
	    !copy_header(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, length,
			 sizeof(length)))
		return refuse(wsi, e, 431, "a header is too long");
	if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING))
		return refuse(wsi, e, 411, "send a Content-Length");
	if (!length[0] || !strcmp(length, "0"))
		return answer(wsi, http, e);
	if (e->method != ADMIN_POST)
		return refuse(wsi, e, 413, "this method takes no body");
	e->body_capacity = strtoul(length, NULL, 10);
	if (!e->body_capacity || e->body_capacity > ADMIN_BODY_BYTES_MAX)
		return refuse(wsi, e, 413, "the body is too large");
	e->body = malloc(e->body_capacity);
	return e->body ? 0 : -1;
}

static int take_body(struct exchange *e, const void *data, size_t len)
{
	if (e->answered)
		return 0;
	if (!e->body || len > e->body_capacity - e->body_len)
		return -1;
	memcpy(e->body + e->body_len, data, len);
	e->body_len += len;
	return 0;
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason,
		    void *user, void *in, size_t len)
{
	struct http *http = lws_context_user(lws_get_context(wsi));
	struct exchange *e = user;

	switch ((int)reason) {
	case LWS_CALLBACK_HTTP:
		return begin(wsi, http, e, in, len);
	case LWS_CALLBACK_HTTP_BODY:
		return take_body(e, in, len);
	case LWS_CALLBACK_HTTP_BODY_COMPLETION:
		return e->answered ? 0 : answer(wsi, http, e);
	case LWS_CALLBACK_HTTP_WRITEABLE:
		return send_more(wsi, e);
	case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
		return -1; /* neither websockets nor h2c here */
	case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
	case LWS_CALLBACK_CLOSED_HTTP:
		if (e)
			exchange_clear(e);
		return 0;
	default:
		return 0;
	}
}

static const struct lws_protocols protocols[] = {
	{"http", callback, sizeof(struct exchange), 0, 0, NULL, 0},
	{NULL, NULL, 0, 0, 0, NULL, 0},
};

/* ---- life ---- */

static void lws_says(int level, const char *line)
{
	logger_warn("admin", "http-library", "text=%s", LOGGER_QUOTE(line));
}

static void *thread_main(void *arg)
{
	struct http *http = arg;

	pthread_setname_np(pthread_self(), "admin");
	while (!atomic_load(&http->stopping) &&
	       lws_service(http->context, 0) >= 0)
		;
	return NULL;
}

static int open_context(struct http *h, const char **ret_why)
{
	struct lws_context_creation_info info = {
		.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
			   LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND |
			   (strchr(h->options.address, ':')
				    ? 0
				    : LWS_SERVER_OPTION_DISABLE_IPV6),
		.port = h->options.port,
		.iface = h->options.address,
		.protocols = protocols,
		.fd_limit_per_thread = HTTP_CONNECTIONS_MAX,
		.pt_serv_buf_size = 4096,
		.max_http_header_data = 6144,
		.max_http_header_pool = 8,
		.keepalive_timeout = HTTP_IDLE_S,
		.timeout_secs = HTTP_IDLE_S,
		.vhost_name = "admin",
		.server_string = "holdfast",
		.user = h,
	};

	lws_set_log_level(LLL_ERR, lws_says);
	h->context = lws_create_context(&info);
	if (!h->context) {
		*ret_why = "the HTTP library could not start";
		return -ENOMEM;
	}
	h->vhost = lws_create_vhost(h->context, &info);
	if (!h->vhost) {
		*ret_why = "the address or port is not free";
		return -EADDRINUSE;
	}
	h->port = (uint16_t)lws_get_vhost_listen_port(h->vhost);
	return 0;
}

/* Signals are for the main thread. */
static int start_thread(struct http *h)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&h->thread, NULL, thread_main, h);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -err;
}

int http_create(const struct http_options *options, struct http **ret,
		const char **ret_why)
{
	struct http *h = calloc(1, sizeof(*h));
	int err;

	if (!h) {
		*ret_why = "no memory";
		return -ENOMEM;
	}
	h->options = *options;
	err = open_context(h, ret_why);
	if (!err) {
		err = start_thread(h);
		if (err)
			*ret_why = "the thread could not be started";
	}
	if (err) {
		if (h->context)
			lws_context_destroy(h->context);
		free(h);
		return err;
	}
	*ret = h;
	return 0;
}

uint16_t http_port(const struct http *h)
{
	return h->port;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	atomic_store(&h->stopping, true);
	lws_cancel_service(h->context);
	pthread_join(h->thread, NULL);
	lws_context_destroy(h->context);
	free(h);
}
