/* tools/amqp_sasl.c: see amqp_sasl.h. */
#include <string.h>

#include "base/base.h"
#include "tools/amqp_sasl.h"

/* Proton keeps a pointer to what we answer until it is encoded, so this lives
 * as long as the transport: its free() frees it. */
struct answer {
	size_t len;
	char bytes[600];
};

static void free_answer(pn_transport_t *t)
{
	free(pnx_sasl_get_context(t));
}

static const char *list_none(pn_transport_t *t)
{
	return "";
}

static bool init_server(pn_transport_t *t)
{
	return false;
}

static bool init_client(pn_transport_t *t)
{
	return true;
}

static void prepare_write(pn_transport_t *t)
{
}

static void ignore_init(pn_transport_t *t, const char *mechanism,
			const pn_bytes_t *bytes)
{
}

static void ignore_bytes(pn_transport_t *t, const pn_bytes_t *bytes)
{
}

static bool offered(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += len) {
		if ((at == list || at[-1] == ' ') &&
		    (at[len] == ' ' || !at[len]))
			return true;
	}
	return false;
}

static bool choose(pn_transport_t *t, const char *mechanisms)
{
	struct answer *answer = pnx_sasl_get_context(t);
	const char *user = pnx_sasl_get_username(t);
	const char *mechanism = user && user[0] ? "PLAIN" : "ANONYMOUS";

	if (!offered(mechanisms, mechanism))
		return false;
	if (mechanism[0] == 'P') {
		const char *password = pnx_sasl_get_password(t);
		int n = snprintf(answer->bytes, sizeof(answer->bytes),
				 "%c%s%c%s", 0, user, 0,
				 password ? password : "");

		if (n < 0 || (size_t)n >= sizeof(answer->bytes))
			return false;
		answer->len = (size_t)n;
	} else {
		answer->len = (size_t)snprintf(
			answer->bytes, sizeof(answer->bytes), "anonymous");
	}
	pnx_sasl_set_selected_mechanism(t, mechanism);
	pnx_sasl_set_bytes_out(t, pn_bytes(answer->len, answer->bytes));
	pnx_sasl_set_desired_state(t, SASL_POSTED_INIT);
	return true;
}

static bool never_encrypts(pn_transport_t *t)
{
	return false;
}

static ssize_t no_size(pn_transport_t *t)
{
	return 0;
}

static ssize_t no_coding(pn_transport_t *t, pn_bytes_t in, pn_bytes_t *out)
{
	return 0;
}

void amqp_sasl_use(pn_transport_t *t, pn_connection_t *connection,
		   const char *user, const char *password)
{
	static const pnx_sasl_implementation client = {
		.free = free_answer,
		.list_mechanisms = list_none,
		.init_server = init_server,
		.init_client = init_client,
		.prepare_write = prepare_write,
		.process_init = ignore_init,
		.process_response = ignore_bytes,
		.process_mechanisms = choose,
		.process_challenge = ignore_bytes,
		.process_outcome = ignore_bytes,
		.can_encrypt = never_encrypts,
		.max_encrypt_size = no_size,
		.encode = no_coding,
		.decode = no_coding,
	};
	struct answer *answer = calloc(1, sizeof(*answer));
	pn_sasl_t *sasl;

	ASSERT(answer);
	if (user && user[0]) {
		pn_connection_set_user(connection, user);
		pn_connection_set_password(connection, password);
	}
	sasl = pn_sasl(t);
	pn_sasl_set_allow_insecure_mechs(sasl, true);
	pnx_sasl_set_implementation(t, &client, answer);
}
