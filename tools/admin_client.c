/* tools/admin_client.c: see admin_client.h. */
#include <string.h>

#include "base/crypto.h"
#include "base/http_client.h"
#include "tools/admin_client.h"
#include "tools/password.h"

#define ANSWER_BYTES_MAX (256u << 20)
#define PASSWORD_BYTES 256u

/* The server's own sentence when it gave one. */
static int refuse(const char *command, const char *url, json_t *value,
		  const struct http_answer *a)
{
	const char *text = json_string_value(json_object_get(value, "error"));

	if (text)
		fprintf(stderr, "%s: %s\n", command, text);
	else if (a->status == 401)
		fprintf(stderr,
			"%s: %s wants a login; give --user and "
			"--password-file\n",
			command, url);
	else
		fprintf(stderr, "%s: %s answered %u: %.200s\n", command, url,
			a->status, a->len ? a->body : "nothing");
	return 1;
}

static int read_password(const char *command, const struct http_access *access,
			 char password[PASSWORD_BYTES])
{
	int err = 0;

	if (access->user && access->password_file)
		err = password_read(access->password_file, false, password,
				    PASSWORD_BYTES);
	if (err)
		fprintf(stderr, "%s: cannot read the password from %s: %s\n",
			command, access->password_file, err_str(err));
	return err ? 1 : 0;
}

static int unreachable(const char *command, const struct http_access *access,
		       int err, const struct http_answer *a)
{
	fprintf(stderr, "%s: cannot reach the admin API at %s: %s%s\n", command,
		access->admin, a->why,
		err == -ECONNREFUSED ? "; is holdfastd running, and its admin "
				       "address this one? (--admin)"
				     : "");
	return 1;
}

static int understand(const char *command, const char *url,
		      const struct http_answer *a, json_t **ret)
{
	json_t *value = NULL;
	json_error_t error;

	if (a->len)
		value = json_loadb(a->body, a->len, JSON_DECODE_ANY, &error);
	if (a->status < 200 || a->status > 299) {
		int code = refuse(command, url, value, a);

		json_decref(value);
		return code;
	}
	if (a->len && !value) {
		fprintf(stderr, "%s: %s did not answer with JSON: %s\n",
			command, url, error.text);
		return 1;
	}
	*ret = value;
	return 0;
}

static int perform(const char *command, const struct http_access *access,
		   const struct http_request *request, json_t **ret)
{
	struct http_client *client = http_client_create();
	struct http_answer answer = {.why = "no memory"};
	int err = -ENOMEM, code;

	if (client)
		err = http_client_perform(client, request, &answer);
	code = err ? unreachable(command, access, err, &answer)
		   : understand(command, request->url, &answer, ret);
	http_client_clear(&answer);
	http_client_free(client);
	return code;
}

int admin_client_request(const char *command, const struct http_access *access,
			 const char *method, const char *path, const char *name,
			 const char *suffix, json_t *body, json_t **ret)
{
	static const char *const headers[] = {"Accept: application/json",
					      "X-Holdfast: 1", NULL};
	char url[8192], password[PASSWORD_BYTES] = "";
	char *escaped = NULL, *text = NULL;
	size_t base_len = strlen(access->admin);
	struct http_request request = {
		.method = method,
		.url = url,
		.headers = headers,
		.connect_ms_max = 5000,
		.total_ms_max =
			access->total_ms_max ? access->total_ms_max : 60000,
		.answer_bytes_max = ANSWER_BYTES_MAX,
		.user = access->user,
		.password = password,
	};
	int code = 1;

	while (base_len && access->admin[base_len - 1] == '/')
		base_len--;
	if (name)
		escaped = http_client_escape(name);
	if (strcmp(method, "GET") != 0) {
		text = body ? json_dumps(body, JSON_COMPACT) : strdup("");
		request.body = text;
		request.body_len = text ? strlen(text) : 0;
		request.content_type = body ? "application/json" : NULL;
	}
	if ((name && !escaped) || (strcmp(method, "GET") != 0 && !text)) {
		fprintf(stderr, "%s: no memory\n", command);
		goto out;
	}
	/* A name is the next path segment, or the value of a query. */
	snprintf(url, sizeof(url), "%.*s%s%s%s%s", (int)base_len, access->admin,
		 path, name && path[strlen(path) - 1] != '=' ? "/" : "",
		 escaped ? escaped : "", suffix ? suffix : "");
	code = read_password(command, access, password);
	if (!code)
		code = perform(command, access, &request, ret);
out:
	crypto_zero(password, sizeof(password));
	free(text);
	free(escaped);
	return code;
}
