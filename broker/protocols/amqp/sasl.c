/* broker/protocols/amqp/sasl.c: SASL ANONYMOUS and PLAIN.
 *
 * Proton asks, the authenticator's thread answers later by mail; meanwhile the
 * gate holds back what the peer may have sent after its sasl-init.  RFC 4505
 * (ANONYMOUS), RFC 4616 (PLAIN), AMQP 1.0 part 5. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

struct sasl_request {
	struct auth_request auth;
	struct connection *connection;
};

static struct connection *connection_of(pn_transport_t *t)
{
	return pnx_sasl_get_context(t);
}

static bool may_be_anonymous(const struct connection *c)
{
	return auth_allows_anonymous(c->amqp->options.auth,
				     loop_socket_peer_is_loopback(c->socket));
}

static void finish(struct connection *c, bool good)
{
	pn_transport_t *t = c->driver.transport;

	if (good) {
		pnx_sasl_set_succeeded(t, c->user, c->user);
		gate_authenticated(&c->gate);
	} else {
		c->sasl_failed = true;
		c->broken = true;
		amqp_count(&c->amqp->sasl_failures);
		logger_warn("amqp", "authentication-failed", "peer=%s user=%s",
			    loop_socket_peer(c->socket), LOGGER_QUOTE(c->user));
		pnx_sasl_set_failed(t);
	}
	pnx_sasl_set_desired_state(t, SASL_POSTED_OUTCOME);
	connection_wake(c);
}

static void verified(struct auth_request *r, int err)
{
	struct sasl_request *request =
		container_of(r, struct sasl_request, auth);
	struct connection *c = request->connection;

	free(request);
	if (c->state == CONNECTION_HANDSHAKE && !c->torn) {
		finish(c, err == 0);
		connection_resume(c);
	}
	connection_release(c);
}

/* authzid NUL authcid NUL password */
static bool parse_plain(const pn_bytes_t *in, struct auth_request *r)
{
	const char *end, *user, *password;

	user = in->size ? memchr(in->start, 0, in->size) : NULL;
	if (!user)
		return false;
	user++;
	end = in->start + in->size;
	password = memchr(user, 0, (size_t)(end - user));
	if (!password || password == user ||
	    (size_t)(password - user) > AUTH_NAME_MAX)
		return false;
	memcpy(r->user, user, (size_t)(password - user));
	password++;
	if ((size_t)(end - password) > AUTH_PASSWORD_MAX ||
	    memchr(password, 0, (size_t)(end - password)))
		return false;
	memcpy(r->password, password, (size_t)(end - password));
	/* Acting for somebody else is not offered. */
	return in->start[0] == 0 || strcmp(in->start, r->user) == 0;
}

static void start_plain(struct connection *c, const pn_bytes_t *recv)
{
	struct sasl_request *r = calloc(1, sizeof(*r));

	if (!r || !parse_plain(recv, &r->auth)) {
		if (r)
			crypto_zero(r, sizeof(*r));
		free(r);
		finish(c, false);
		return;
	}
	r->connection = c;
	snprintf(c->user, sizeof(c->user), "%s", r->auth.user);
	r->auth.reply_to = c->loop;
	r->auth.done = verified;
	c->holds++;
	auth_verify(c->amqp->options.auth, &r->auth);
}

/* ---- what Proton calls ---- */

static void impl_free(pn_transport_t *t)
{
}

static const char *impl_list(pn_transport_t *t)
{
	struct connection *c = connection_of(t);
	bool anonymous = may_be_anonymous(c);

	if (!auth_has_users(c->amqp->options.auth))
		return anonymous ? "ANONYMOUS" : "PLAIN";
	return anonymous ? "PLAIN ANONYMOUS" : "PLAIN";
}

static bool impl_init_server(pn_transport_t *t)
{
	pnx_sasl_set_desired_state(t, SASL_POSTED_MECHANISMS);
	return true;
}

static bool impl_init_client(pn_transport_t *t)
{
	return false;
}

static void impl_prepare_write(pn_transport_t *t)
{
}

static void impl_process_init(pn_transport_t *t, const char *mechanism,
			      const pn_bytes_t *recv)
{
	struct connection *c = connection_of(t);

	if (mechanism && strcmp(mechanism, "PLAIN") == 0) {
		start_plain(c, recv);
	} else if (mechanism && strcmp(mechanism, "ANONYMOUS") == 0 &&
		   may_be_anonymous(c)) {
		snprintf(c->user, sizeof(c->user), "anonymous");
		finish(c, true);
	} else {
		finish(c, false);
	}
}

/* The gate lets no response through: no challenge is ever sent. */
static void impl_process(pn_transport_t *t, const pn_bytes_t *recv)
{
	pnx_sasl_set_failed(t);
	pnx_sasl_set_desired_state(t, SASL_POSTED_OUTCOME);
}

static bool impl_mechanisms(pn_transport_t *t, const char *mechanisms)
{
	return false;
}

static bool impl_can_encrypt(pn_transport_t *t)
{
	return false;
}

static ssize_t impl_max_encrypt_size(pn_transport_t *t)
{
	return 0;
}

static ssize_t impl_code(pn_transport_t *t, pn_bytes_t in, pn_bytes_t *out)
{
	return 0;
}

static const pnx_sasl_implementation implementation = {
	.free = impl_free,
	.list_mechanisms = impl_list,
	.init_server = impl_init_server,
	.init_client = impl_init_client,
	.prepare_write = impl_prepare_write,
	.process_init = impl_process_init,
	.process_response = impl_process,
	.process_mechanisms = impl_mechanisms,
	.process_challenge = impl_process,
	.process_outcome = impl_process,
	.can_encrypt = impl_can_encrypt,
	.max_encrypt_size = impl_max_encrypt_size,
	.encode = impl_code,
	.decode = impl_code,
};

void sasl_start(struct connection *c)
{
	pn_transport_t *t = c->driver.transport;

	pn_sasl(t);
	pnx_sasl_set_implementation(t, &implementation, c);
	/* Without a SASL layer everybody is anonymous. */
	c->gate.sasl_required = !may_be_anonymous(c);
	pn_transport_require_auth(t, c->gate.sasl_required);
}
