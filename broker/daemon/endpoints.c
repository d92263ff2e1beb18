/* broker/daemon/endpoints.c: the settings' users and listeners, made real. */
#include "broker/daemon/endpoints.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/auth.h"
#include "broker/protocols/listener.h"

#define LISTENERS_MAX 16u
#define VERIFY_WAIT_S 10
#define DRAIN_LOOK_NS 2000000 /* 2 ms */
#define ABANDON_NS 200000000ull

struct endpoints {
	struct core *core;
	struct auth *auth;
	struct amqp *amqp;
	struct listener *listeners[LISTENERS_MAX];
	unsigned listener_count;
	char description[512];
};

/* The settings' users with every password hashed. */
struct hashed_users {
	struct auth_user *users;
	char (*hashes)[CRYPTO_PASSWORD_HASH_BYTES];
	size_t count;
};

static void hashed_users_fini(struct hashed_users *h)
{
	free(h->users);
	free(h->hashes);
}

static int hashed_users_init(struct hashed_users *h, const struct settings *s)
{
	const struct settings_user *users = s->users.items;

	*h = (struct hashed_users){0};
	if (!s->users.count)
		return 0;
	h->users = calloc(s->users.count, sizeof(*h->users));
	h->hashes = calloc(s->users.count, sizeof(*h->hashes));
	if (!h->users || !h->hashes) {
		hashed_users_fini(h);
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->users.count; i++) {
		int err = 0;

		h->users[i].name = users[i].name;
		h->users[i].password_hash = users[i].password_hash;
		if (!users[i].password)
			continue;
		err = crypto_password_hash(users[i].password, h->hashes[i]);
		if (err) {
			hashed_users_fini(h);
			return err;
		}
		h->users[i].password_hash = h->hashes[i];
	}
	h->count = s->users.count;
	return 0;
}

static enum auth_anonymous policy(const struct settings *s)
{
	switch ((enum settings_anonymous)s->anonymous) {
	case SETTINGS_ANONYMOUS_LOOPBACK:
		return AUTH_ANONYMOUS_LOOPBACK;
	case SETTINGS_ANONYMOUS_ALWAYS:
		return AUTH_ANONYMOUS_ALWAYS;
	case SETTINGS_ANONYMOUS_NEVER:
		break;
	}
	return AUTH_ANONYMOUS_NEVER;
}

static int make_auth(struct endpoints *e, struct io *io,
		     const struct settings *s)
{
	struct hashed_users h;
	int err = hashed_users_init(&h, s);

	if (err)
		return err;
	err = auth_create(io, h.users, h.count, policy(s), &e->auth);
	hashed_users_fini(&h);
	return err ? err : auth_start(e->auth);
}

int endpoints_create(struct io *io, const struct settings *s,
		     struct endpoints **ret)
{
	struct endpoints *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return -ENOMEM;
	err = make_auth(e, io, s);
	if (err)
		endpoints_free(e);
	else
		*ret = e;
	return err;
}

int endpoints_attach(struct endpoints *e, struct core *core,
		     const struct settings *s)
{
	e->core = core;
	return amqp_create(
		&(struct amqp_options){
			.core = core,
			.auth = e->auth,
			.frame_bytes_max = (uint32_t)s->limits.frame_bytes,
			.idle_timeout_ms =
				(uint32_t)(s->amqp.idle_timeout_ns / 1000000),
			.credit = (uint32_t)s->amqp.credit,
			.credit_refill = (uint32_t)(s->amqp.credit * 3 / 10),
			.message_bytes_max = s->limits.message_bytes,
		},
		&e->amqp);
}

/* ---- listening ---- */

struct opening {
	struct loop_mail mail;
	struct endpoints *endpoints;
	const struct settings *settings;
	int err;
	const char *url; /* the one that failed */
	pthread_mutex_t lock;
	pthread_cond_t ready;
	bool done;
};

static void describe(struct endpoints *e, const struct settings *s)
{
	size_t len = 0;

	for (unsigned i = 0; i < e->listener_count; i++) {
		struct settings_listen l;

		if (settings_parse_listen(s->listen.items[i], &l))
			continue;
		len += (size_t)snprintf(
			e->description + len, sizeof(e->description) - len,
			strchr(l.address, ':') ? "%s%s://[%s]:%u"
					       : "%s%s://%s:%u",
			i ? "," : "", l.any ? "any" : "amqp", l.address,
			(unsigned)listener_port(e->listeners[i]));
		len = base_min(len, sizeof(e->description) - 1);
	}
}

static int open_one(struct endpoints *e, const struct settings *s,
		    const char *text)
{
	struct listener_options options = {
		.core = e->core,
		.amqp = e->amqp,
		.loop = shard_loop(core_shard(e->core, 0)),
		.connection_max = (uint32_t)s->limits.connections,
	};
	struct settings_listen l;
	char url[128];
	int err;

	if (settings_parse_listen(text, &l) ||
	    e->listener_count == LISTENERS_MAX)
		return -E_CONFIG;
	snprintf(url, sizeof(url),
		 strchr(l.address, ':') ? "%s://[%s]:%u" : "%s://%s:%u",
		 l.any ? "any" : "amqp", l.address, (unsigned)l.port);
	err = listener_create(&options, url, &e->listeners[e->listener_count]);
	if (!err)
		e->listener_count++;
	return err;
}

/* [shard 0] All are bound before the first accepts.  Those that are stay when
 * one cannot be, for a next try. */
static void open_on_shard(struct loop_mail *mail)
{
	struct opening *o = container_of(mail, struct opening, mail);
	struct endpoints *e = o->endpoints;

	for (size_t i = e->listener_count;
	     i < o->settings->listen.count && !o->err; i++) {
		o->url = o->settings->listen.items[i];
		o->err = open_one(e, o->settings, o->url);
	}
	for (unsigned i = 0; i < e->listener_count && !o->err; i++)
		listener_start(e->listeners[i]);
	pthread_mutex_lock(&o->lock);
	o->done = true;
	pthread_cond_signal(&o->ready);
	pthread_mutex_unlock(&o->lock);
}

int endpoints_open(struct endpoints *e, const struct settings *s, char *why,
		   size_t why_len)
{
	struct opening o = {
		.mail.deliver = open_on_shard,
		.endpoints = e,
		.settings = s,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.ready = PTHREAD_COND_INITIALIZER,
	};

	loop_post(shard_loop(core_shard(e->core, 0)), &o.mail);
	pthread_mutex_lock(&o.lock);
	while (!o.done)
		pthread_cond_wait(&o.ready, &o.lock);
	pthread_mutex_unlock(&o.lock);
	if (o.err)
		snprintf(why, why_len,
			 "cannot listen on %.128s: %s; choose another address "
			 "with --listen",
			 o.url, err_str(o.err));
	else
		describe(e, s);
	return o.err;
}

const char *endpoints_describe(const struct endpoints *e)
{
	return e->description;
}

uint16_t endpoints_port(const struct endpoints *e)
{
	return e->listener_count ? listener_port(e->listeners[0]) : 0;
}

int endpoints_reload(struct endpoints *e, const struct settings *s)
{
	struct hashed_users h;
	int err = hashed_users_init(&h, s);

	if (err)
		return err;
	err = auth_reload(e->auth, h.users, h.count, policy(s));
	hashed_users_fini(&h);
	return err;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The adaptor counts its connections down; nobody is in a hurry to know when
 * that reaches zero except the main thread, which has nothing else to do. */
int endpoints_drain(struct endpoints *e, uint64_t timeout_ns)
{
	uint64_t until = now_ns() + timeout_ns;

	if (!e->amqp)
		return 0;
	for (unsigned i = 0; i < e->listener_count; i++)
		listener_stop(e->listeners[i]);
	amqp_close_all(e->amqp, "the broker is shutting down",
		       (uint32_t)base_min(timeout_ns / 2000000, 60000));
	while (amqp_connection_count(e->amqp)) {
		if (now_ns() > until)
			return -ETIMEDOUT;
		nanosleep(&(struct timespec){.tv_nsec = DRAIN_LOOK_NS}, NULL);
	}
	return 0;
}

void endpoints_abandon(struct endpoints *e, const char *why)
{
	uint64_t until = now_ns() + ABANDON_NS;

	if (!e || !e->amqp)
		return;
	for (unsigned i = 0; i < e->listener_count; i++)
		listener_stop(e->listeners[i]);
	amqp_close_all(e->amqp, why, 0);
	while (amqp_connection_count(e->amqp) && now_ns() < until)
		nanosleep(&(struct timespec){.tv_nsec = DRAIN_LOOK_NS}, NULL);
}

void endpoints_free(struct endpoints *e)
{
	if (!e)
		return;
	for (unsigned i = 0; i < e->listener_count; i++)
		listener_free(e->listeners[i]);
	amqp_free(e->amqp);
	if (e->auth)
		auth_stop(e->auth);
	auth_free(e->auth);
	free(e);
}

/* ---- for the admin thread ---- */

/* Answered on a shard; whoever comes second frees it. */
struct verification {
	struct auth_request request;
	pthread_mutex_t lock;
	pthread_cond_t ready;
	int err;
	bool done, abandoned;
};

static void verification_free(struct verification *v)
{
	pthread_cond_destroy(&v->ready);
	pthread_mutex_destroy(&v->lock);
	crypto_zero(v, sizeof(*v));
	free(v);
}

static void verified(struct auth_request *request, int err)
{
	struct verification *v =
		container_of(request, struct verification, request);
	bool abandoned;

	pthread_mutex_lock(&v->lock);
	v->err = err;
	v->done = true;
	abandoned = v->abandoned;
	pthread_cond_signal(&v->ready);
	pthread_mutex_unlock(&v->lock);
	if (abandoned)
		verification_free(v);
}

bool endpoints_allow(void *endpoints, const char *user, const char *password)
{
	struct endpoints *e = endpoints;
	struct verification *v;
	struct timespec until;
	bool allowed;

	if (strlen(user) > AUTH_NAME_MAX ||
	    strlen(password) > AUTH_PASSWORD_MAX)
		return false;
	v = calloc(1, sizeof(*v));
	if (!v)
		return false;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->ready, NULL);
	strcpy(v->request.user, user);
	strcpy(v->request.password, password);
	/* On the auth loop, which is there before any shard. */
	v->request.done = verified;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += VERIFY_WAIT_S;
	auth_verify(e->auth, &v->request);
	pthread_mutex_lock(&v->lock);
	while (!v->done &&
	       pthread_cond_timedwait(&v->ready, &v->lock, &until) != ETIMEDOUT)
		;
	if (!v->done) {
		v->abandoned = true;
		pthread_mutex_unlock(&v->lock);
		return false;
	}
	allowed = !v->err;
	pthread_mutex_unlock(&v->lock);
	verification_free(v);
	return allowed;
}

void endpoints_connections(void *endpoints, uint64_t *ret_open,
			   uint64_t *ret_accepted)
{
	struct endpoints *e = endpoints;
	struct amqp_stats stats;

	amqp_stats(e->amqp, &stats);
	*ret_open = amqp_connection_count(e->amqp);
	*ret_accepted = stats.opened;
}
