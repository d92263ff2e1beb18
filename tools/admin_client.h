/* tools/admin_client.h: one JSON request to the admin API. */
#ifndef TOOLS_ADMIN_CLIENT_H
#define TOOLS_ADMIN_CLIENT_H

#include "base/json.h"
#include "tools/options.h"

struct http_access {
	const char *admin; /* http://127.0.0.1:8161 */
	const char *user, *password_file;
	unsigned total_ms_max; /* 0: a minute */
};

#define HTTP_ACCESS_INIT                                                       \
	{                                                                      \
		.admin = "http://127.0.0.1:8161"                               \
	}
#define HTTP_ACCESS_OPTIONS(a)                                                 \
	{"admin",    'a',   OPTION_TEXT,                                       \
	 &(a).admin, "URL", "the admin API (http://127.0.0.1:8161)"},          \
		{"user",    0,	    OPTION_TEXT,                               \
		 &(a).user, "NAME", "log in as this user"},                    \
	{                                                                      \
		"password-file", 0, OPTION_TEXT, &(a).password_file, "FILE",   \
			"read the password from FILE; - asks for it"           \
	}

/* method "GET", "POST" or "DELETE"; path as in "/api/v1/queues"; name, when
 * not NULL, follows percent-encoded, behind a slash unless the path ends in
 * "=", and then suffix.  body: JSON, borrowed,
 * or NULL.  Returns an exit code; after 0 *ret is a new reference or NULL when
 * the answer was empty.  Otherwise one sentence was printed after command. */
MUST_CHECK int admin_client_request(const char *command,
				    const struct http_access *,
				    const char *method, const char *path,
				    const char *name, const char *suffix,
				    json_t *body, json_t **ret);

#endif
