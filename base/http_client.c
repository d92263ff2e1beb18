/* base/http_client.c: see http_client.h.
 *
 * The multi interface is used for a single transfer because it is the one that
 * another thread can wake.
 *
 * The library is loaded by whoever needs it first: it brings some twenty others
 * along, four megabytes resident, and a broker outside Kubernetes never asks
 * anybody anything. */
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/http_client.h"

/* Without a wake-up it waits for the socket or curl's own next timer. */
#define POLL_MS 60000

struct http_client {
	CURLM *multi;
	CURL *easy;
};

struct transfer {
	const struct http_request *request;
	struct http_answer *answer;
	size_t capacity;
	bool too_long, no_memory;
	char why[CURL_ERROR_SIZE];
};

/* ---- life ---- */

#undef curl_multi_setopt
#undef curl_easy_setopt
#undef curl_easy_getinfo

#define CURL_CALLS(X)                                                          \
	X(global_init)                                                         \
	X(multi_init)                                                          \
	X(multi_cleanup)                                                       \
	X(multi_setopt)                                                        \
	X(multi_wakeup)                                                        \
	X(multi_add_handle)                                                    \
	X(multi_remove_handle)                                                 \
	X(multi_perform)                                                       \
	X(multi_poll)                                                          \
	X(multi_info_read)                                                     \
	X(easy_init)                                                           \
	X(easy_cleanup)                                                        \
	X(easy_reset)                                                          \
	X(easy_setopt)                                                         \
	X(easy_getinfo)                                                        \
	X(easy_strerror)                                                       \
	X(slist_append)                                                        \
	X(slist_free_all)

#define CURL_POINTER(name) __typeof__(curl_##name) *name;
static struct {
	CURL_CALLS(CURL_POINTER)
} curl;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool loaded;

static void load(void)
{
	void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);

	if (!library)
		return;
#define CURL_LOAD(name)                                                        \
	curl.name = (__typeof__(curl.name))dlsym(library, "curl_" #name);      \
	if (!curl.name)                                                        \
		return;
	CURL_CALLS(CURL_LOAD)
	loaded = curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

struct http_client *http_client_create(void)
{
	struct http_client *h;

	h = calloc(1, sizeof(*h));
	pthread_once(&once, load);
	if (!h || !loaded)
		return h; /* http_client_perform() says why it cannot */
	h->multi = curl.multi_init();
	h->easy = curl.easy_init();
	if (!h->multi || !h->easy) {
		http_client_free(h);
		return NULL;
	}
	/* One connection is kept. */
	curl.multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, 1L);
	return h;
}

void http_client_free(struct http_client *h)
{
	if (!h)
		return;
	if (loaded) {
		curl.easy_cleanup(h->easy);
		curl.multi_cleanup(h->multi);
	}
	free(h);
}

void http_client_wake(struct http_client *h)
{
	if (loaded)
		curl.multi_wakeup(h->multi);
}

void http_client_clear(struct http_answer *a)
{
	free(a->body);
	*a = (struct http_answer){0};
}

char *http_client_escape(const char *text)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-._~";
	char *escaped = malloc(3 * strlen(text) + 1), *p = escaped;

	if (!escaped)
		return NULL;
	for (; *text; text++) {
		if (strchr(plain, *text))
			*p++ = *text;
		else
			p += sprintf(p, "%%%02X", (uint8_t)*text);
	}
	*p = '\0';
	return escaped;
}

/* ---- the answer ---- */

static size_t take(char *data, size_t size, size_t count, void *ctx)
{
	struct transfer *t = ctx;
	struct http_answer *a = t->answer;
	size_t len = size * count;

	/* Anything but len ends the transfer. */
	if (len > t->request->answer_bytes_max - a->len) {
		t->too_long = true;
		return 0;
	}
	if (a->len + len + 1 > t->capacity) {
		size_t capacity = 2 * (a->len + len + 1);
		char *more = realloc(a->body, capacity);

		if (!more) {
			t->no_memory = true;
			return 0;
		}
		a->body = more;
		t->capacity = capacity;
	}
	memcpy(a->body + a->len, data, len);
	a->len += len;
	a->body[a->len] = '\0';
	return len;
}

/* A keep-alive connection that the server has closed is tried again on a new
 * one by curl itself; what arrives here has failed. */
static int error_of(const struct transfer *t, CURLcode res)
{
	if (t->too_long)
		return -EMSGSIZE;
	if (t->no_memory)
		return -ENOMEM;
	switch ((int)res) {
	case CURLE_OK:
		return 0;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_COULDNT_CONNECT:
	case CURLE_COULDNT_RESOLVE_HOST:
		return -ECONNREFUSED;
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return -ECONNRESET;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_ISSUER_ERROR:
		return -EKEYREJECTED;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		return -EINVAL;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

static void finish(CURL *easy, struct transfer *t, CURLcode res, int err)
{
	struct http_answer *a = t->answer;
	curl_off_t retry_after_s = 0;
	long status = 0;

	if (err) {
		const char *why = t->why[0] ? t->why : curl.easy_strerror(res);

		if (err == -ECANCELED)
			why = "given up by the caller";
		else if (t->too_long)
			why = "the answer is too long";
		http_client_clear(a);
		snprintf(a->why, sizeof(a->why), "%s", why);
		return;
	}
	curl.easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl.easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after_s);
	a->status = (unsigned)status;
	a->has_retry_after = retry_after_s > 0;
	/* A year is as good as any time that does not come. */
	if (retry_after_s > 0)
		a->retry_after_ms =
			1000 * base_min((uint64_t)retry_after_s, 365 * 86400);
}

/* ---- the request ---- */

static bool add_header(struct curl_slist **list, const char *text)
{
	struct curl_slist *more = curl.slist_append(*list, text);

	if (!more)
		return false;
	*list = more;
	return true;
}

static int set_headers(CURL *easy, const struct http_request *r,
		       struct curl_slist **list)
{
	char type[128];
	bool ok = true;

	for (size_t i = 0; ok && r->headers && r->headers[i]; i++)
		ok = add_header(list, r->headers[i]);
	snprintf(type, sizeof(type), "Content-Type:%s%s",
		 r->content_type ? " " : "",
		 r->content_type ? r->content_type : "");
	if (ok && r->body)
		ok = add_header(list, type);
	if (!ok)
		return -ENOMEM;
	curl.easy_setopt(easy, CURLOPT_HTTPHEADER, *list);
	return 0;
}

/* The first that fails is the one that is told. */
#define SET(option, value)                                                     \
	do {                                                                   \
		if (res == CURLE_OK)                                           \
			res = curl.easy_setopt(easy, option, value);           \
	} while (0)

static CURLcode set_security(CURL *easy, const struct http_request *r)
{
	CURLcode res = CURLE_OK;

	SET(CURLOPT_PROTOCOLS_STR, r->https_only ? "https" : "http,https");
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_PROXY, "");
	/* An authority that is replaced counts for the next connection. */
	SET(CURLOPT_CA_CACHE_TIMEOUT, 0L);
	if (r->ca_file) {
		SET(CURLOPT_CAINFO, r->ca_file);
		SET(CURLOPT_CAPATH, NULL);
	}
	if (r->bearer) {
		SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
		SET(CURLOPT_XOAUTH2_BEARER, r->bearer);
	} else if (r->user) {
		SET(CURLOPT_USERNAME, r->user);
		SET(CURLOPT_PASSWORD, r->password ? r->password : "");
	}
	return res;
}

/* Sockets do not outlive an exec. */
static curl_socket_t open_socket(void *ctx, curlsocktype purpose,
				 struct curl_sockaddr *at)
{
	int fd = socket(at->family, at->socktype | SOCK_CLOEXEC, at->protocol);

	return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static CURLcode set_options(CURL *easy, const struct http_request *r,
			    struct transfer *t)
{
	CURLcode res = set_security(easy, r);

	SET(CURLOPT_URL, r->url);
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	/* No alarm(2), and no waiting for a resolver that hangs. */
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)r->connect_ms_max);
	SET(CURLOPT_TIMEOUT_MS, (long)r->total_ms_max);
	SET(CURLOPT_WRITEFUNCTION, take);
	SET(CURLOPT_WRITEDATA, t);
	SET(CURLOPT_ERRORBUFFER, t->why);
	SET(CURLOPT_CUSTOMREQUEST, r->method);
	if (r->body) {
		SET(CURLOPT_POSTFIELDSIZE, (long)r->body_len);
		SET(CURLOPT_POSTFIELDS, r->body);
	}
	return res;
}

static int run(struct http_client *h, struct transfer *t, CURLcode *ret)
{
	const struct http_request *r = t->request;
	int running = 1, left, err = 0;
	CURLMsg *message;

	if (curl.multi_add_handle(h->multi, h->easy) != CURLM_OK)
		return -ENOMEM;
	for (;;) {
		if (curl.multi_perform(h->multi, &running) != CURLM_OK)
			err = -EIO;
		if (err || !running)
			break;
		if (r->cancelled && r->cancelled(r->ctx))
			err = -ECANCELED;
		else if (curl.multi_poll(h->multi, NULL, 0, POLL_MS, NULL) !=
			 CURLM_OK)
			err = -EIO;
		if (err)
			break;
	}
	message = curl.multi_info_read(h->multi, &left);
	if (!err && message && message->msg == CURLMSG_DONE) {
		*ret = message->data.result;
		err = error_of(t, *ret);
	} else if (!err) {
		err = -EIO;
	}
	/* Unfinished, its connection is closed. */
	curl.multi_remove_handle(h->multi, h->easy);
	return err;
}

/* OpenSSL writes to sockets with write(2): a peer that has gone must not end
 * the process, whatever the caller does about SIGPIPE. */
static void hold_pipe_signal(sigset_t *ret_before, bool *ret_pending)
{
	sigset_t pipe_only, pending;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	sigpending(&pending);
	*ret_pending = sigismember(&pending, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, ret_before);
}

static void release_pipe_signal(const sigset_t *before, bool was_pending)
{
	const struct timespec now = {0};
	sigset_t pipe_only;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	if (!was_pending)
		while (sigtimedwait(&pipe_only, NULL, &now) < 0 &&
		       errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

int http_client_perform(struct http_client *h, const struct http_request *r,
			struct http_answer *ret)
{
	struct transfer t = {.request = r, .answer = ret};
	struct curl_slist *headers = NULL;
	CURLcode res;
	sigset_t before;
	bool was_pending;
	int err;

	*ret = (struct http_answer){0};
	if (!loaded) {
		snprintf(ret->why, sizeof(ret->why),
			 "libcurl.so.4 cannot be loaded: install libcurl4");
		return -ENOSYS;
	}
	curl.easy_reset(h->easy);
	res = set_options(h->easy, r, &t);
	err = error_of(&t, res);
	if (!err)
		err = set_headers(h->easy, r, &headers);
	if (!err) {
		hold_pipe_signal(&before, &was_pending);
		err = run(h, &t, &res);
		release_pipe_signal(&before, was_pending);
	}
	finish(h->easy, &t, res, err);
	/* Frees its copy of the token or the password. */
	curl.easy_reset(h->easy);
	curl.slist_free_all(headers);
	return err;
}
