/* base/http_client.h: one HTTP request at a time; the only user of libcurl.
 *
 * A client keeps its connection open between requests to one server.  It never
 * follows redirects, asks no proxy, and speaks HTTP/1.1; TLS is 1.2 or newer.
 * Blocking, on the caller's thread; a client belongs to one thread at a time,
 * except for http_client_wake(), which is [any]. */
#ifndef BASE_HTTP_CLIENT_H
#define BASE_HTTP_CLIENT_H

#include <stdbool.h>

#include "base/base.h"
#include "base/err.h"

struct http_client;

/* Everything is borrowed until http_client_perform() returns. */
struct http_request {
	const char *method; /* "GET", "PATCH"... */
	const char *url;
	bool https_only; /* refuse a URL that is not https:// */
	/* PEM file; the only authorities then, read again for each new
	 * connection.  NULL: the system's. */
	const char *ca_file;
	const char *bearer;	     /* a token without line ends, or NULL */
	const char *user, *password; /* HTTP Basic, or NULL */
	const char *const *headers;  /* "Name: value"; NULL ends; or NULL */
	const char *body;	     /* NULL: none */
	size_t body_len;
	const char *content_type; /* of the body, or NULL */
	uint64_t connect_ms_max, total_ms_max;
	size_t answer_bytes_max;
	/* Asked after each http_client_wake(); true gives up.  Or NULL. */
	bool (*cancelled)(void *ctx);
	void *ctx;
};

struct http_answer {
	unsigned status; /* 200, 404... */
	char *body;	 /* terminated; NULL when len is 0 */
	size_t len;
	bool has_retry_after;
	uint64_t retry_after_ms; /* seconds or date: RFC 9110 section 10.2.3 */
	char why[256];		 /* a phrase, when there was no answer */
};

/* NULL: no memory. */
struct http_client *http_client_create(void);
/* NULL-safe. */
void http_client_free(struct http_client *);

/* 0 whatever the status is.  ret is filled in every case; on failure only its
 * `why` means something.
 *   -ECONNREFUSED  no connection;
 *   -ETIMEDOUT     not finished in total_ms_max or connect_ms_max;
 *   -EKEYREJECTED  TLS: no handshake, or a certificate that is not trusted;
 *   -EMSGSIZE      the answer is longer than answer_bytes_max;
 *   -ECANCELED     cancelled() said so: the server may have done it, or may
 *                  yet do it;
 *   -ECONNRESET    the connection broke; the same holds;
 *   -EINVAL        the URL cannot be used;
 *   -ENOSYS        there is no libcurl on this machine;
 *   -ENOMEM, -EIO  else. */
MUST_CHECK int http_client_perform(struct http_client *,
				   const struct http_request *,
				   struct http_answer *ret);
void http_client_clear(struct http_answer *);

/* [any] Makes a request that is under way, or the next one, ask cancelled()
 * at once. */
void http_client_wake(struct http_client *);

/* text percent-encoded for one path segment or query value (RFC 3986 section
 * 2.3); free() it.  NULL: no memory. */
char *http_client_escape(const char *text);

#endif
