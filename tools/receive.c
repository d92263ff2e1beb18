/* tools/receive.c: `holdfast receive`: messages from an address to standard
 * output.
 *
 * A message is acknowledged only after it has been written out and flushed,
 * so that a broken pipe leaves it in the queue. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tools/amqp_client.h"
#include "tools/amqp_message.h"
#include "tools/command.h"

#define CREDIT_MAX 500u
#define TIMEOUT_NOT_SAID UINT64_MAX

enum receive_outcome { TAKE_ACCEPT, TAKE_REJECT, TAKE_RELEASE, TAKE_MODIFY };

struct receiving {
	struct amqp_access access;
	struct amqp_client client;
	const char *address;
	pn_link_t *link;
	uint64_t count; /* 0: no limit */
	uint64_t timeout_ns;
	unsigned outcome, format;
	bool no_ack, follow, quiet, topic;
	/* progress */
	bool attached, done;
	uint64_t received, deadline_ns;
	char *buf;
	size_t buf_len, buf_capacity;
	pn_message_t *message;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	interrupted = 1;
}

static bool print_message(struct receiving *r)
{
	if (r->format == 1) {
		json_t *object = amqp_message_json(r->message);

		if (!object)
			return false;
		json_dumpf(object, stdout, JSON_COMPACT);
		json_decref(object);
	} else {
		size_t len;
		char *body = amqp_message_body(r->message, &len);

		if (!body)
			return false;
		fwrite(body, 1, len, stdout);
		free(body);
	}
	putchar('\n');
	return fflush(stdout) == 0;
}

static void settle(struct receiving *r, pn_delivery_t *delivery)
{
	if (r->no_ack)
		return;
	switch ((enum receive_outcome)r->outcome) {
	case TAKE_ACCEPT:
		pn_delivery_update(delivery, PN_ACCEPTED);
		break;
	case TAKE_REJECT:
		pn_delivery_update(delivery, PN_REJECTED);
		break;
	case TAKE_RELEASE:
		pn_delivery_update(delivery, PN_RELEASED);
		break;
	case TAKE_MODIFY:
		pn_disposition_set_failed(pn_delivery_local(delivery), true);
		pn_delivery_update(delivery, PN_MODIFIED);
		break;
	}
	pn_delivery_settle(delivery);
}

/* Append what has arrived of the current delivery. */
static bool take_bytes(struct receiving *r, pn_delivery_t *delivery)
{
	size_t pending = pn_delivery_pending(delivery);
	ssize_t n;

	if (r->buf_len + pending > r->buf_capacity) {
		size_t capacity =
			base_max(2 * r->buf_capacity, r->buf_len + pending);
		char *more = realloc(r->buf, capacity);

		if (!more)
			return false;
		r->buf = more;
		r->buf_capacity = capacity;
	}
	n = pn_link_recv(r->link, r->buf + r->buf_len, pending);
	if (n > 0)
		r->buf_len += (size_t)n;
	return true;
}

static void on_delivery(struct receiving *r, pn_delivery_t *delivery)
{
	struct amqp_client *c = &r->client;

	if (!pn_delivery_readable(delivery) || r->done)
		return;
	if (!take_bytes(r, delivery)) {
		amqp_client_fail(c, "no memory for a message of this size");
		return;
	}
	if (pn_delivery_partial(delivery))
		return;
	if (pn_delivery_aborted(delivery)) {
		r->buf_len = 0;
		pn_delivery_settle(delivery);
		return;
	}
	pn_message_clear(r->message);
	if (pn_message_decode(r->message, r->buf, r->buf_len)) {
		amqp_client_fail(c, "a message of %zu bytes is not AMQP 1.0",
				 r->buf_len);
		return;
	}
	r->buf_len = 0;
	if (!print_message(r)) {
		amqp_client_fail(c, "cannot write to standard output");
		return;
	}
	r->received++;
	r->deadline_ns = amqp_client_now_ns() + r->timeout_ns;
	pn_link_advance(r->link);
	settle(r, delivery);
	if (r->count && r->received == r->count)
		r->done = true;
}

static void on_event(struct amqp_client *c, pn_event_t *event)
{
	struct receiving *r = c->ctx;
	pn_link_t *link;

	switch ((int)pn_event_type(event)) {
	case PN_LINK_REMOTE_OPEN:
		link = pn_event_link(event);
		if (pn_terminus_get_type(pn_link_remote_source(link)) !=
		    PN_UNSPECIFIED)
			r->attached = true;
		break;
	case PN_LINK_REMOTE_CLOSE:
	case PN_LINK_REMOTE_DETACH:
		if (c->closing)
			break;
		amqp_client_fail_condition(
			c, "the broker refused the address or closed the link",
			pn_link_remote_condition(pn_event_link(event)));
		pn_link_close(pn_event_link(event));
		break;
	case PN_LINK_FLOW:
		link = pn_event_link(event);
		/* Credit that came back unused: the queue is empty. */
		if (r->timeout_ns == 0 && pn_link_drained(link) > 0)
			r->done = true;
		break;
	case PN_DELIVERY:
		on_delivery(r, pn_event_delivery(event));
		break;
	default:
		break;
	}
}

/* Keep credit out: as much as is wanted, never more than --count. */
static void on_turn(struct amqp_client *c)
{
	struct receiving *r = c->ctx;
	uint64_t wanted = CREDIT_MAX;
	int credit = pn_link_credit(r->link);

	if (!r->attached || r->done)
		return;
	if (r->count)
		wanted = base_min(wanted, r->count - r->received);
	if (r->timeout_ns == 0) {
		/* What is there now, and no more: drain in rounds. */
		if (credit <= 0)
			pn_link_drain(r->link, (int)wanted);
		return;
	}
	if (credit >= 0 && (uint64_t)credit <= wanted / 2)
		pn_link_flow(r->link, (int)wanted - credit);
}

static void attach(struct receiving *r)
{
	pn_session_t *session = pn_session(r->client.driver.connection);
	pn_data_t *capabilities;

	pn_session_set_incoming_capacity(session, 16u << 20);
	pn_session_open(session);
	r->link = pn_receiver(session, "receive");
	pn_terminus_set_address(pn_link_source(r->link), r->address);
	if (r->topic) {
		capabilities =
			pn_terminus_capabilities(pn_link_source(r->link));
		pn_data_put_symbol(capabilities, pn_bytes(5, "topic"));
	}
	pn_link_open(r->link);
}

static int wait_ms(const struct receiving *r)
{
	uint64_t now = amqp_client_now_ns();

	if (r->follow || r->timeout_ns == 0)
		return 500;
	if (r->deadline_ns <= now)
		return 0;
	return (int)base_min((r->deadline_ns - now) / 1000000u + 1, 500);
}

static int receive_all(struct receiving *r)
{
	struct amqp_client *c = &r->client;
	int code = COMMAND_OK;

	c->event = on_event;
	c->turn = on_turn;
	c->ctx = r;
	if (amqp_client_open(c, &r->access) == 0) {
		attach(r);
		r->deadline_ns = amqp_client_now_ns() + r->timeout_ns;
		while (!c->failed && !c->finished && !r->done && !interrupted) {
			amqp_client_run(c, wait_ms(r));
			if (!r->follow && r->timeout_ns &&
			    amqp_client_now_ns() > r->deadline_ns)
				break;
		}
		if (!c->failed)
			amqp_client_close(c);
	}
	if (c->failed) {
		fprintf(stderr, "holdfast receive: %s: %s\n", r->address,
			c->why);
		code = COMMAND_FAILED;
	} else if (r->count && r->received < r->count) {
		fprintf(stderr,
			"holdfast receive: %s: %llu of %llu messages came\n",
			r->address, (unsigned long long)r->received,
			(unsigned long long)r->count);
		code = COMMAND_FAILED;
	}
	amqp_client_fini(c);
	return code;
}

static int check(const struct options *options, struct receiving *r)
{
	if (r->follow && r->timeout_ns != TIMEOUT_NOT_SAID)
		return options_wrong(options,
				     "--follow and --timeout contradict");
	if (r->no_ack && r->outcome != TAKE_ACCEPT)
		return options_wrong(options,
				     "--no-ack and --outcome contradict");
	/* Without a wish, take what is there and end; asked for a number,
	 * wait a little for it. */
	if (r->follow)
		r->timeout_ns = UINT64_MAX / 2;
	else if (r->timeout_ns == TIMEOUT_NOT_SAID)
		r->timeout_ns = r->count ? 5000000000u : 0;
	return amqp_client_access(options->command, &r->access);
}

int receive_run(int argc, char **argv)
{
	struct receiving r = {.access = AMQP_ACCESS_INIT,
			      .timeout_ns = TIMEOUT_NOT_SAID};
	const struct option table[] = {
		AMQP_ACCESS_OPTIONS(r.access),
		{"count", 'n', OPTION_NUMBER, &r.count, "N",
		 "end after N messages; fewer is a failure"},
		{"timeout", 't', OPTION_DURATION, &r.timeout_ns, "TIME",
		 "end when nothing came for TIME (5s with --count)"},
		{"follow", 'F', OPTION_FLAG, &r.follow, NULL,
		 "go on until interrupted"},
		{"outcome", 0, OPTION_CHOICE, &r.outcome,
		 "accept|reject|release|modify",
		 "what to tell the broker (accept)"},
		{"no-ack", 0, OPTION_FLAG, &r.no_ack, NULL,
		 "look only: the messages stay in the queue"},
		{"topic", 0, OPTION_FLAG, &r.topic, NULL,
		 "the address is a topic: subscribe to it"},
		{"output", 'o', OPTION_CHOICE, &r.format, "text|json",
		 "bodies, or one JSON object a line (text)"},
	};
	struct options options = {
		.command = "holdfast receive",
		.words = "ADDRESS",
		.summary = "Print the messages of an address and acknowledge "
			   "them.  Without --count, --timeout\nor --follow: "
			   "everything that is there now.",
		.examples = "  holdfast receive orders\n"
			    "  holdfast receive orders --count 1 -o json\n"
			    "  holdfast receive orders --outcome reject "
			    "--count 1     # to the dead letters\n"
			    "  holdfast receive prices --topic --follow\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1,
	};
	struct sigaction action = {.sa_handler = on_signal};
	int words, code;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	r.address = argv[0];
	code = check(&options, &r);
	if (code)
		return code;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	r.message = pn_message();
	code = receive_all(&r);
	pn_message_free(r.message);
	free(r.buf);
	return code;
}
