/* tools/http_client.c: see http_client.h. */
#include <curl/curl.h>
#include <string.h>

#include "base/crypto.h"
#include "tools/http_client.h"
#include "tools/password.h"

#define ANSWER_BYTES_MAX (256u << 20)

struct answer {
	char *data;
	size_t len, capacity;
};

static size_t take(char *data, size_t size, size_t count, void *ctx)
{
	struct answer *a = ctx;
	size_t len = size * count;

	if (a->len + len > ANSWER_BYTES_MAX)
		return 0;
	if (a->len + len + 1 > a->capacity) {
		size_t capacity = 2 * (a->len + len + 1);
		char *more = realloc(a->data, capacity);

		if (!more)
			return 0;
		a->data = more;
		a->capacity = capacity;
	}
	memcpy(a->data + a->len, data, len);
	a->len += len;
	a->data[a->len] = 0;
	return len;
}

/* The server's own sentence when it gave one. */
static int refuse(const char *command, const char *url, long status,
		  json_t *value, const struct answer *a)
{
	const char *text = json_string_value(json_object_get(value, "error"));

	if (text)
		fprintf(stderr, "%s: %s\n", command, text);
	else if (status == 401)
		fprintf(stderr,
			"%s: %s wants a login; give --user and "
			"--password-file\n",
			command, url);
	else
		fprintf(stderr, "%s: %s answered %ld: %.200s\n", command, url,
			status, a->len ? a->data : "nothing");
	return 1;
}

static int set_login(const char *command, CURL *curl,
		     const struct http_access *access)
{
	char password[256] = "";
	int err = 0;

	if (!access->user)
		return 0;
	if (access->password_file)
		err = password_read(access->password_file, false, password,
				    sizeof(password));
	if (err) {
		fprintf(stderr, "%s: cannot read the password from %s: %s\n",
			command, access->password_file, err_str(err));
		return 1;
	}
	curl_easy_setopt(curl, CURLOPT_USERNAME, access->user);
	curl_easy_setopt(curl, CURLOPT_PASSWORD, password);
	crypto_zero(password, sizeof(password));
	return 0;
}

static int perform(const char *command, const struct http_access *access,
		   CURL *curl, const char *url, struct answer *a, json_t **ret)
{
	char why[CURL_ERROR_SIZE] = "";
	json_t *value = NULL;
	json_error_t error;
	long status = 0;
	CURLcode res;

	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 5L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	res = curl_easy_perform(curl);
	if (res != CURLE_OK) {
		fprintf(stderr, "%s: cannot reach the admin API at %s: %s%s\n",
			command, access->admin,
			why[0] ? why : curl_easy_strerror(res),
			res == CURLE_COULDNT_CONNECT
				? "; is holdfastd running, and its admin "
				  "address this one? (--admin)"
				: "");
		return 1;
	}
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	if (a->len)
		value = json_loadb(a->data, a->len, JSON_DECODE_ANY, &error);
	if (status < 200 || status > 299) {
		int code = refuse(command, url, status, value, a);

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

int http_client_request(const char *command, const struct http_access *access,
			const char *method, const char *path, const char *name,
			const char *suffix, json_t *body, json_t **ret)
{
	struct curl_slist *headers = NULL;
	struct answer answer = {0};
	char url[8192], *escaped = NULL, *text = NULL;
	size_t base_len = strlen(access->admin);
	CURL *curl;
	int code = 1;

	curl = curl_easy_init();
	if (!curl)
		goto out;
	if (name)
		escaped = curl_easy_escape(curl, name, 0);
	while (base_len && access->admin[base_len - 1] == '/')
		base_len--;
	/* A name is the next path segment, or the value of a query. */
	snprintf(url, sizeof(url), "%.*s%s%s%s%s", (int)base_len, access->admin,
		 path, name && path[strlen(path) - 1] != '=' ? "/" : "",
		 escaped ? escaped : "", suffix ? suffix : "");
	headers = curl_slist_append(headers, "Accept: application/json");
	headers = curl_slist_append(headers, "X-Holdfast: 1");
	if (strcmp(method, "GET") != 0) {
		text = body ? json_dumps(body, JSON_COMPACT) : strdup("");
		if (!text)
			goto out;
		if (body)
			headers = curl_slist_append(
				headers, "Content-Type: application/json");
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
	}
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	code = set_login(command, curl, access);
	if (!code)
		code = perform(command, access, curl, url, &answer, ret);
out:
	free(text);
	free(answer.data);
	curl_free(escaped);
	curl_slist_free_all(headers);
	curl_easy_cleanup(curl);
	return code;
}
