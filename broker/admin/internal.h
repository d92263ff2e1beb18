/* broker/admin/internal.h: between http.c, which speaks HTTP and knows
 * nothing of the broker, and api.c, cluster.c, store.c and metrics.c, which are
 * the reverse. */
#ifndef BROKER_ADMIN_INTERNAL_H
#define BROKER_ADMIN_INTERNAL_H

#include <pthread.h>

#include "base/json.h"
#include "broker/admin/admin.h"

#define ADMIN_BODY_BYTES_MAX (64u * 1024u)
#define ADMIN_TEXT_BYTES_MAX (64u * 1024u * 1024u)
/* Room before the text that http.c may write to. */
#define ADMIN_TEXT_HEADROOM 32u
#define ADMIN_PATH_BYTES 4096u

/* Grows to ADMIN_TEXT_BYTES_MAX; sticky when there is no memory. */
struct admin_text {
	char *data;	      /* the text begins at ADMIN_TEXT_HEADROOM */
	size_t len, capacity; /* of the text */
	bool failed;
};
void admin_text_add(struct admin_text *, const char *format, ...)
	PRINTF_LIKE(2, 3);
void admin_text_write(struct admin_text *, const char *data, size_t len);
void admin_text_fini(struct admin_text *);

enum admin_method {
	ADMIN_GET,
	ADMIN_POST,
	ADMIN_DELETE,
	ADMIN_OTHER,
};

struct admin_request {
	enum admin_method method;
	const char *path;  /* percent-decoded, without arguments */
	const char *after; /* ?after=, or "" */
	const char *limit; /* ?limit=, or "" */
	const char *role;  /* ?role=, or "" */
	const char *body;
	size_t body_len;
	const char *host;	   /* Host: or "" */
	const char *authorization; /* Authorization: or "" */
	bool guarded;		   /* X-Holdfast: 1 */
	bool from_loopback;
};

struct admin_response {
	unsigned status;
	const char *type;  /* content type */
	const char *allow; /* for 405: methods; else NULL */
	bool ask_user;	   /* for 401: send a challenge */
	struct admin_text text;
};

struct admin {
	struct admin_options options;
	struct admin_broker broker; /* valid once serving is set */
	_Atomic bool serving;
	struct http *http;
	_Atomic int state;
	_Atomic uint64_t users_version;
	uint64_t started_ns, started_wall_ms;
	/* [admin] the last credentials that allow() took, as a keyed hash */
	uint8_t salt[32], known[CRYPTO_HASH_BYTES];
	uint64_t known_version;
	bool known_valid;
};

/* api.c */
void api_answer(struct admin *, const struct admin_request *,
		struct admin_response *);
/* Takes the value; NULL: there was no memory for it. */
void api_give_json(struct admin_response *, unsigned status, json_t *);
void api_not_allowed(struct admin_response *, const char *allow);
/* store.c: false when the path is another's. */
bool store_answer(struct admin *, const struct admin_request *,
		  struct admin_response *);
void PRINTF_LIKE(3, 4) api_give_error(struct admin_response *, unsigned status,
				      const char *format, ...);
/* cluster.c: false when the path is another's. */
bool cluster_answer(struct admin *, const struct admin_request *,
		    struct admin_response *);
void cluster_metrics(struct admin *, struct admin_text *);
/* access.c: 0, or the status to refuse with, the sentence in *ret_why. */
unsigned access_check(struct admin *, const struct admin_request *,
		      const char **ret_why);
/* metrics.c */
void metrics_write(struct admin *, struct admin_text *);
void metrics_gauge(struct admin_text *, const char *name, const char *help,
		   uint64_t value);
void metrics_counter(struct admin_text *, const char *name, const char *help,
		     uint64_t value);
void metrics_seconds(struct admin_text *, const char *name, const char *type,
		     const char *help, uint64_t ns);
void metrics_family(struct admin_text *, const char *name, const char *type,
		    const char *help);
void metrics_label(struct admin_text *, const char *value);

/* http.c */
struct http;
struct http_options {
	const char *address;
	uint16_t port;
	void (*answer)(void *ctx, const struct admin_request *,
		       struct admin_response *);
	void *ctx;
};
MUST_CHECK int http_create(const struct http_options *, struct http **ret,
			   const char **ret_why);
uint16_t http_port(const struct http *);
void http_free(struct http *);

#endif
