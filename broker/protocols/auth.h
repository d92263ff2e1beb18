/* broker/protocols/auth.h: who may connect.
 *
 * Passwords are Argon2id hashes, which take tens of milliseconds and 64 MiB to
 * verify, so that happens on a loop of its own; a shard asks and is answered
 * by mail.  What verified recently is remembered under a keyed hash for a few
 * minutes, so that reconnecting is cheap.
 *
 * Life: auth_create → auth_start → … → auth_stop → auth_free. */
#ifndef BROKER_PROTOCOLS_AUTH_H
#define BROKER_PROTOCOLS_AUTH_H

#include <stdbool.h>

#include "base/crypto.h"
#include "base/loop.h"

#define AUTH_NAME_MAX 255u
#define AUTH_PASSWORD_MAX 1023u
#define AUTH_USER_MAX 65536u

enum auth_anonymous {
	AUTH_ANONYMOUS_LOOPBACK, /* from this host only */
	AUTH_ANONYMOUS_ALWAYS,
	AUTH_ANONYMOUS_NEVER,
};

struct auth_user {
	const char *name;
	const char *password_hash; /* "$argon2id$…" */
};

struct auth;

/* Users are copied.  -EINVAL: a name is empty or too long, or a hash is not
 * one; -E_EXISTS: a name is there twice; -E_LIMIT. */
MUST_CHECK int auth_create(struct io *, const struct auth_user *,
			   size_t user_count, enum auth_anonymous,
			   struct auth **ret);
/* Starts the thread.  (In a simulation loop_start() does what it does.) */
MUST_CHECK int auth_start(struct auth *);
/* [any other thread] After the last connection has ended: a request that the
 * thread has not seen by then is never answered. */
void auth_stop(struct auth *);
/* NULL-safe; after auth_stop(). */
void auth_free(struct auth *);

/* [any] New users and policy for what is verified from now on; open
 * connections stay.  Errors as auth_create(), and nothing changes. */
MUST_CHECK int auth_reload(struct auth *, const struct auth_user *,
			   size_t user_count, enum auth_anonymous);

/* [any] May a peer go without a password? */
bool auth_allows_anonymous(const struct auth *, bool loopback);
/* [any] Are there users at all? */
bool auth_has_users(const struct auth *);

struct auth_request {
	char user[AUTH_NAME_MAX + 1];
	char password[AUTH_PASSWORD_MAX + 1]; /* zeroed before done() */
	struct loop *reply_to;		      /* NULL: the auth loop itself */
	/* [reply_to] err 0 or -E_REFUSED. */
	void (*done)(struct auth_request *, int err);
	/* private */
	struct loop_mail mail;
	struct auth *auth;
	int err;
};
/* [any] The request is borrowed until done(), which always follows. */
void auth_verify(struct auth *, struct auth_request *);

#endif
