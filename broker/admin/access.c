/* broker/admin/access.c: who may ask what.
 *
 * Verifying a password costs tens of milliseconds and 64 MiB by design, and a
 * scraper sends it every few seconds; so the last credentials that were taken
 * are remembered as a salted hash until the users change. */
#include "broker/admin/internal.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>
#include <strings.h>

#define CREDENTIALS_BYTES_MAX 512u

static int base64_digit(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				     "abcdefghijklmnopqrstuvwxyz"
				     "0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

/* RFC 4648 section 4.  False when it is not that, or does not fit. */
static bool base64_decode(const char *in, char *out, size_t out_len)
{
	uint32_t bits = 0;
	unsigned have = 0;
	size_t len = 0;

	for (; *in && *in != '='; in++) {
		int digit = base64_digit(*in);

		if (digit < 0)
			return false;
		bits = bits << 6 | (uint32_t)digit;
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		if (len + 1 >= out_len)
			return false;
		out[len] = (char)(bits >> have & 0xff);
		if (!out[len++])
			return false;
	}
	out[len] = '\0';
	return true;
}

/* "Basic dXNlcjpwYXNz" (RFC 7617) into user and password inside buf. */
static bool split_basic(const char *header, char *buf, size_t buf_len,
			char **ret_password)
{
	char *colon;

	if (strncasecmp(header, "Basic ", 6))
		return false;
	header += 6;
	while (*header == ' ')
		header++;
	if (!base64_decode(header, buf, buf_len))
		return false;
	colon = strchr(buf, ':');
	if (!colon)
		return false;
	*colon = '\0';
	*ret_password = colon + 1;
	return true;
}

static bool check_user(struct admin *a, const char *header)
{
	uint64_t version = atomic_load(&a->users_version);
	uint8_t hash[CRYPTO_HASH_BYTES];
	char buf[CREDENTIALS_BYTES_MAX], *password;
	bool allowed;

	if (!a->options.allow)
		return false;
	crypto_hash(hash,
		    (struct iovec[]){
			    {a->salt, sizeof(a->salt)},
			    {(void *)(uintptr_t)header, strlen(header)},
		    },
		    2);
	if (a->known_valid && a->known_version == version &&
	    !memcmp(hash, a->known, sizeof(hash)))
		return true;
	allowed = split_basic(header, buf, sizeof(buf), &password) &&
		  a->options.allow(a->options.ctx, buf, password);
	crypto_zero(buf, sizeof(buf));
	if (allowed) {
		memcpy(a->known, hash, sizeof(hash));
		a->known_version = version;
		a->known_valid = true;
	}
	return allowed;
}

/* "127.0.0.1:8161", "[::1]:8161", "localhost": not a name that somebody else
 * may have pointed at us. */
static bool host_is_plain(const char *host)
{
	char name[64];
	struct in6_addr any;
	size_t len =
		host[0] == '[' ? strcspn(host + 1, "]") : strcspn(host, ":");

	if (len >= sizeof(name))
		return false;
	memcpy(name, host + (host[0] == '['), len);
	name[len] = '\0';
	if (host[0] == '[')
		return inet_pton(AF_INET6, name, &any) == 1;
	return !strcasecmp(name, "localhost") ||
	       inet_pton(AF_INET, name, &any) == 1;
}

unsigned access_check(struct admin *a, const struct admin_request *r,
		      const char **ret_why)
{
	bool has_user = r->authorization[0] && check_user(a, r->authorization);

	if (!r->from_loopback && !has_user) {
		*ret_why = "a user and a password are needed from here";
		return 401;
	}
	if (!has_user && r->host[0] && !host_is_plain(r->host)) {
		*ret_why = "the Host header must be an address or localhost; "
			   "with another name a user is needed";
		return 403;
	}
	if (r->method != ADMIN_GET && !r->guarded) {
		*ret_why = "a request that changes something needs the header "
			   "X-Holdfast: 1";
		return 403;
	}
	return 0;
}
