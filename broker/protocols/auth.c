/* broker/protocols/auth.c: users, policy and the verifying thread.
 *
 * The table of users and the cache belong to the auth loop.  A reload travels
 * to it as mail, so a request sees the old users or the new ones, never a
 * mixture.  The policy is one atomic word, read by every shard. */
#include "broker/protocols/auth.h"

#include <stdatomic.h>
#include <string.h>

#include "base/logger.h"

#define CACHE_SLOTS 1024u
#define CACHE_NS (300ull * 1000 * 1000 * 1000)

struct user {
	char *name;
	char hash[CRYPTO_PASSWORD_HASH_BYTES];
};

/* Sorted by name. */
struct users {
	struct loop_mail mail;
	struct auth *auth;
	size_t count;
	struct user list[];
};

struct cached {
	uint8_t hash[CRYPTO_HASH_BYTES];
	uint64_t until_ns; /* 0: empty */
};

struct auth {
	struct io *io;
	struct loop *loop;
	bool started;
	_Atomic int anonymous;
	_Atomic bool has_users;
	/* auth loop */
	struct users *users;
	uint8_t secret[CRYPTO_KEY_BYTES]; /* keys the cache's hashes */
	struct cached cache[CACHE_SLOTS];
	/* verified against when the user does not exist, so that the time
	 * taken does not say which names do */
	char decoy[CRYPTO_PASSWORD_HASH_BYTES];
};

static void users_free(struct users *u)
{
	if (!u)
		return;
	for (size_t i = 0; i < u->count; i++)
		free(u->list[i].name);
	free(u);
}

static int user_compare(const void *a, const void *b)
{
	return strcmp(((const struct user *)a)->name,
		      ((const struct user *)b)->name);
}

static int users_create(struct auth *a, const struct auth_user *list,
			size_t count, struct users **ret)
{
	struct users *u;
	int err = -EINVAL;

	if (count > AUTH_USER_MAX)
		return -E_LIMIT;
	u = calloc(1, sizeof(*u) + count * sizeof(u->list[0]));
	if (!u)
		return -ENOMEM;
	u->auth = a;
	for (; u->count < count; u->count++) {
		const struct auth_user *from = &list[u->count];
		struct user *to = &u->list[u->count];

		if (!from->name || !from->name[0] ||
		    strlen(from->name) > AUTH_NAME_MAX ||
		    !from->password_hash ||
		    strlen(from->password_hash) >= sizeof(to->hash) ||
		    !crypto_password_hash_is_valid(from->password_hash))
			goto fail;
		to->name = strdup(from->name);
		if (!to->name) {
			err = -ENOMEM;
			goto fail;
		}
		snprintf(to->hash, sizeof(to->hash), "%s", from->password_hash);
	}
	qsort(u->list, count, sizeof(u->list[0]), user_compare);
	err = -E_EXISTS;
	for (size_t i = 1; i < count; i++)
		if (strcmp(u->list[i - 1].name, u->list[i].name) == 0)
			goto fail;
	*ret = u;
	return 0;
fail:
	users_free(u);
	return err;
}

int auth_create(struct io *io, const struct auth_user *list, size_t count,
		enum auth_anonymous anonymous, struct auth **ret)
{
	struct auth *a = calloc(1, sizeof(*a));
	char text[2 * CRYPTO_KEY_BYTES + 1] = "";
	int err = -ENOMEM;

	if (!a)
		return -ENOMEM;
	a->io = io;
	atomic_store(&a->anonymous, (int)anonymous);
	atomic_store(&a->has_users, count > 0);
	io_random(io, a->secret, sizeof(a->secret));
	for (size_t i = 0; i < sizeof(a->secret); i++)
		snprintf(text + 2 * i, 3, "%02x", a->secret[i]);
	err = users_create(a, list, count, &a->users);
	if (err)
		goto fail;
	/* Nobody's password: random, and known to nobody. */
	if (count) {
		err = crypto_password_hash(text, a->decoy);
		if (err)
			goto fail;
		io_random(io, a->secret, sizeof(a->secret));
	}
	crypto_zero(text, sizeof(text));
	err = loop_create(io, "auth", &a->loop);
	if (err)
		goto fail;
	*ret = a;
	return 0;
fail:
	auth_free(a);
	return err;
}

int auth_start(struct auth *a)
{
	int err = loop_start(a->loop, NULL, NULL);

	a->started = !err;
	return err;
}

void auth_stop(struct auth *a)
{
	if (!a || !a->started)
		return;
	loop_stop(a->loop);
	loop_join(a->loop);
	a->started = false;
}

void auth_free(struct auth *a)
{
	if (!a)
		return;
	loop_free(a->loop);
	users_free(a->users);
	crypto_zero(a->secret, sizeof(a->secret));
	crypto_zero(a->cache, sizeof(a->cache));
	free(a);
}

/* ---- reload ---- */

static void users_arrived(struct loop_mail *mail)
{
	struct users *u = container_of(mail, struct users, mail);
	struct auth *a = u->auth;

	users_free(a->users);
	a->users = u;
	crypto_zero(a->cache, sizeof(a->cache));
	if (u->count && !a->decoy[0]) {
		char text[33] = "";
		uint8_t random[16];

		io_random(a->io, random, sizeof(random));
		for (size_t i = 0; i < sizeof(random); i++)
			snprintf(text + 2 * i, 3, "%02x", random[i]);
		if (crypto_password_hash(text, a->decoy))
			a->decoy[0] = '\0';
	}
}

int auth_reload(struct auth *a, const struct auth_user *list, size_t count,
		enum auth_anonymous anonymous)
{
	struct users *u = NULL;
	int err = users_create(a, list, count, &u);

	if (err)
		return err;
	atomic_store(&a->anonymous, (int)anonymous);
	atomic_store(&a->has_users, count > 0);
	u->mail.deliver = users_arrived;
	if (a->started)
		loop_post(a->loop, &u->mail);
	else
		users_arrived(&u->mail);
	return 0;
}

bool auth_allows_anonymous(const struct auth *a, bool loopback)
{
	switch ((enum auth_anonymous)atomic_load(&a->anonymous)) {
	case AUTH_ANONYMOUS_ALWAYS:
		return true;
	case AUTH_ANONYMOUS_LOOPBACK:
		return loopback;
	case AUTH_ANONYMOUS_NEVER:
		break;
	}
	return false;
}

bool auth_has_users(const struct auth *a)
{
	return atomic_load(&a->has_users);
}

/* ---- verification ---- */

static void cache_hash(const struct auth *a, const struct auth_request *r,
		       uint8_t ret[CRYPTO_HASH_BYTES])
{
	uint8_t lens[4];
	/* The hasher only reads; iovec has no room to say so. */
	struct iovec parts[] = {
		{(uint8_t *)(uintptr_t)a->secret, sizeof(a->secret)},
		{lens, sizeof(lens)},
		{(char *)(uintptr_t)r->user, strlen(r->user)},
		{(char *)(uintptr_t)r->password, strlen(r->password)},
	};

	for (size_t i = 0; i < sizeof(lens); i++)
		lens[i] = (uint8_t)(parts[2].iov_len >> (8 * i));
	crypto_hash(ret, parts, ARRAY_COUNT(parts));
}

static struct cached *cache_slot(struct auth *a, const uint8_t *hash)
{
	return &a->cache[(hash[0] | (unsigned)hash[1] << 8) % CACHE_SLOTS];
}

static int verify(struct auth *a, const struct auth_request *r)
{
	struct user key = {.name = (char *)(uintptr_t)r->user};
	const struct user *u = NULL;
	uint8_t hash[CRYPTO_HASH_BYTES];
	struct cached *slot;
	int err;

	/* bsearch() may not be given the NULL of an empty table. */
	if (a->users->count)
		u = bsearch(&key, a->users->list, a->users->count,
			    sizeof(a->users->list[0]), user_compare);
	if (!u) {
		if (a->decoy[0])
			(void)!crypto_password_verify(a->decoy, r->password);
		return -E_REFUSED;
	}
	cache_hash(a, r, hash);
	slot = cache_slot(a, hash);
	if (slot->until_ns > loop_now_ns(a->loop) &&
	    memcmp(slot->hash, hash, sizeof(hash)) == 0) {
		err = 0;
	} else {
		err = crypto_password_verify(u->hash, r->password);
		if (!err) {
			memcpy(slot->hash, hash, sizeof(hash));
			slot->until_ns = io_now_ns(a->io) + CACHE_NS;
		}
	}
	crypto_zero(hash, sizeof(hash));
	return err ? -E_REFUSED : 0;
}

static void request_answered(struct loop_mail *mail)
{
	struct auth_request *r = container_of(mail, struct auth_request, mail);

	r->done(r, r->err);
}

static void request_arrived(struct loop_mail *mail)
{
	struct auth_request *r = container_of(mail, struct auth_request, mail);
	struct auth *a = r->auth;

	r->err = verify(a, r);
	crypto_zero(r->password, sizeof(r->password));
	if (!r->reply_to) {
		r->done(r, r->err);
		return;
	}
	r->mail.deliver = request_answered;
	loop_post(r->reply_to, &r->mail);
}

void auth_verify(struct auth *a, struct auth_request *r)
{
	r->auth = a;
	r->mail.deliver = request_arrived;
	loop_post(a->loop, &r->mail);
}
