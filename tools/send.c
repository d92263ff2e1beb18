/* tools/send.c: `holdfast send`: messages from the command line to an
 * address, each confirmed by the broker before the command says so. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "tools/amqp_client.h"
#include "tools/amqp_message.h"
#include "tools/command.h"

#define SEND_BUFFERED_MAX (1u << 20)

struct sending {
	struct options *options;
	struct amqp_access access;
	struct amqp_client client;
	const char *address;
	pn_link_t *link;
	/* what */
	struct amqp_message message;
	struct option_list properties;
	char **bodies; /* one message each, NULL: `data` */
	uint64_t count;
	const char *data;
	size_t data_len;
	bool data_mapped;
	uint64_t size;
	const char *file;
	uint64_t ttl_ns, priority;
	bool not_durable, text, quiet, topic;
	/* progress */
	uint64_t started, settled, accepted;
	pn_delivery_t *current;
	const char *body;
	size_t body_len, body_at;
	uint8_t *prelude;
	char first_refusal[512];
};

static void remember_refusal(struct sending *s, pn_delivery_t *delivery)
{
	pn_disposition_t *remote = pn_delivery_remote(delivery);
	pn_condition_t *condition = pn_disposition_condition(remote);
	const char *word = "did not take it";

	if (s->first_refusal[0])
		return;
	switch (pn_disposition_type(remote)) {
	case PN_REJECTED:
		word = "rejected it";
		break;
	case PN_RELEASED:
		word = "released it; it may be sent again";
		break;
	case PN_MODIFIED:
		word = "gave it back modified";
		break;
	default:
		break;
	}
	if (pn_condition_is_set(condition))
		snprintf(s->first_refusal, sizeof(s->first_refusal),
			 "%s: %s (%s)", word,
			 pn_condition_get_description(condition),
			 pn_condition_get_name(condition));
	else
		snprintf(s->first_refusal, sizeof(s->first_refusal), "%s",
			 word);
}

static void on_event(struct amqp_client *c, pn_event_t *event)
{
	struct sending *s = c->ctx;
	pn_delivery_t *delivery;

	switch ((int)pn_event_type(event)) {
	case PN_LINK_REMOTE_CLOSE:
	case PN_LINK_REMOTE_DETACH:
		if (c->closing)
			break;
		amqp_client_fail_condition(
			c, "the broker refused the address or closed the link",
			pn_link_remote_condition(pn_event_link(event)));
		pn_link_close(pn_event_link(event));
		break;
	case PN_DELIVERY:
		delivery = pn_event_delivery(event);
		if (!pn_delivery_updated(delivery) ||
		    !(pn_delivery_settled(delivery) ||
		      pn_delivery_remote_state(delivery)))
			break;
		s->settled++;
		if (pn_delivery_remote_state(delivery) == PN_ACCEPTED)
			s->accepted++;
		else
			remember_refusal(s, delivery);
		if (delivery == s->current)
			s->current = NULL;
		pn_delivery_settle(delivery);
		break;
	default:
		break;
	}
}

static void begin_message(struct sending *s)
{
	uint64_t tag = s->started;
	size_t len;

	if (s->bodies) {
		s->body = s->bodies[s->started];
		s->body_len = strlen(s->body);
	} else {
		s->body = s->data;
		s->body_len = s->data_len;
	}
	s->body_at = 0;
	s->current = pn_delivery(s->link, pn_dtag((const char *)&tag, 8));
	len = amqp_message_encode(&s->message, s->text, s->body_len,
				  s->prelude);
	pn_link_send(s->link, (const char *)s->prelude, len);
	s->started++;
}

static void on_turn(struct amqp_client *c)
{
	struct sending *s = c->ctx;
	pn_session_t *session = pn_link_session(s->link);

	while (pn_session_outgoing_bytes(session) < SEND_BUFFERED_MAX) {
		size_t n;

		if (!s->current) {
			if (s->started == s->count ||
			    pn_link_credit(s->link) <= 0)
				return;
			begin_message(s);
		}
		n = base_min(s->body_len - s->body_at, 256 * 1024);
		if (n)
			pn_link_send(s->link, s->body + s->body_at, n);
		s->body_at += n;
		if (s->body_at == s->body_len) {
			pn_link_advance(s->link);
			s->current = NULL;
		}
	}
}

static int load_stream(struct sending *s, int fd)
{
	size_t capacity = 65536, len = 0;
	char *data = malloc(capacity);

	while (data) {
		ssize_t n = read(fd, data + len, capacity - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			free(data);
			return -errno;
		}
		if (n == 0) {
			s->data = data;
			s->data_len = len;
			return 0;
		}
		len += (size_t)n;
		if (len == capacity) {
			char *more = realloc(data, capacity *= 2);

			if (!more)
				free(data);
			data = more;
		}
	}
	return -ENOMEM;
}

static int load_file(struct sending *s)
{
	struct stat st;
	void *map;
	int fd, err = 0;

	if (!strcmp(s->file, "-"))
		return load_stream(s, STDIN_FILENO);
	fd = open(s->file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st)) {
		err = -errno;
	} else if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		err = load_stream(s, fd);
	} else {
		map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd,
			   0);
		if (map == MAP_FAILED) {
			err = -errno;
		} else {
			s->data = map;
			s->data_len = (size_t)st.st_size;
			s->data_mapped = true;
		}
	}
	close(fd);
	return err;
}

static int load_generated(struct sending *s)
{
	char *data = malloc(s->size + 1);

	if (!data)
		return -ENOMEM;
	for (uint64_t i = 0; i < s->size; i++)
		data[i] = (char)('a' + i % 26);
	s->data = data;
	s->data_len = s->size;
	return 0;
}

/* Decide what is sent, from words and options. */
static int prepare(struct sending *s, int words, char **argv)
{
	int err;

	s->message.durable = !s->not_durable;
	s->message.priority = s->priority > 9 ? -1 : (int)s->priority;
	s->message.ttl_ms = s->ttl_ns / 1000000u;
	s->message.properties = s->properties.items;
	s->message.property_count = s->properties.count;
	for (unsigned i = 0; i < s->properties.count; i++) {
		if (!strchr(s->properties.items[i], '='))
			return options_wrong(s->options,
					     "--property wants KEY=VALUE, not "
					     "\"%s\"",
					     s->properties.items[i]);
	}
	if (s->message.ttl_ms > UINT32_MAX)
		return options_wrong(s->options, "--ttl is at most 49 days");
	if ((words > 1) + (s->file != NULL) + (s->size != 0) > 1)
		return options_wrong(s->options,
				     "give bodies, --file or --size, not two "
				     "of them");
	s->prelude = malloc(amqp_message_room(&s->message));
	if (!s->prelude)
		return COMMAND_FAILED;
	if (words > 1) {
		if (s->count && words > 2)
			return options_wrong(s->options,
					     "--count goes with one body");
		s->text = true;
		if (s->count) {
			s->data = argv[1];
			s->data_len = strlen(argv[1]);
			s->data_mapped = true; /* not ours to free */
		} else {
			s->bodies = argv + 1;
			s->count = (uint64_t)words - 1;
		}
		return 0;
	}
	if (!s->count)
		s->count = 1;
	if (!s->size && !s->file)
		s->file = "-";
	err = s->size ? load_generated(s) : load_file(s);
	if (err || s->data_len > UINT32_MAX) {
		fprintf(stderr, "holdfast send: cannot read %s: %s\n",
			s->file ? s->file : "memory",
			err ? err_str(err) : "a body is at most 4 GiB");
		return COMMAND_FAILED;
	}
	return 0;
}

static void attach(struct sending *s)
{
	pn_connection_t *connection = s->client.driver.connection;
	pn_session_t *session = pn_session(connection);

	pn_session_open(session);
	s->link = pn_sender(session, "send");
	pn_terminus_set_address(pn_link_target(s->link), s->address);
	if (s->topic) {
		pn_data_t *capabilities =
			pn_terminus_capabilities(pn_link_target(s->link));

		pn_data_put_symbol(capabilities, pn_bytes(5, "topic"));
	}
	pn_link_set_snd_settle_mode(s->link, PN_SND_UNSETTLED);
	pn_link_open(s->link);
}

static int send_all(struct sending *s)
{
	struct amqp_client *c = &s->client;
	bool shows = isatty(STDERR_FILENO) && !s->quiet && s->count > 1000;
	uint64_t shown_ns = amqp_client_now_ns();

	c->event = on_event;
	c->turn = on_turn;
	c->ctx = s;
	if (amqp_client_open(c, &s->access) == 0) {
		attach(s);
		while (!c->failed && !c->finished && s->settled < s->count) {
			amqp_client_run(c, 1000);
			if (shows &&
			    amqp_client_now_ns() - shown_ns > 200000000u) {
				shown_ns = amqp_client_now_ns();
				fprintf(stderr, "\r%llu of %llu confirmed",
					(unsigned long long)s->settled,
					(unsigned long long)s->count);
			}
		}
		if (shows)
			fputs("\r\033[K", stderr);
		if (!c->failed)
			amqp_client_close(c);
	}
	if (c->failed)
		fprintf(stderr, "holdfast send: %s: %s\n", s->address, c->why);
	else if (s->first_refusal[0])
		fprintf(stderr, "holdfast send: %s: the broker %s\n",
			s->address, s->first_refusal);
	if (s->accepted < s->count && s->accepted)
		fprintf(stderr,
			"holdfast send: %llu of %llu messages confirmed\n",
			(unsigned long long)s->accepted,
			(unsigned long long)s->count);
	if (s->accepted == s->count && !s->quiet)
		printf("%llu message%s confirmed\n",
		       (unsigned long long)s->accepted,
		       s->accepted == 1 ? "" : "s");
	amqp_client_fini(c);
	return s->accepted == s->count ? COMMAND_OK : COMMAND_FAILED;
}

int send_run(int argc, char **argv)
{
	struct sending s = {.access = AMQP_ACCESS_INIT, .priority = 10};
	const struct option table[] = {
		AMQP_ACCESS_OPTIONS(s.access),
		{"count", 'n', OPTION_NUMBER, &s.count, "N",
		 "send the body N times (1)"},
		{"size", 's', OPTION_BYTES, &s.size, "BYTES",
		 "make a body of this size"},
		{"file", 'f', OPTION_TEXT, &s.file, "FILE",
		 "the body is FILE; - is standard input"},
		{"ttl", 0, OPTION_DURATION, &s.ttl_ns, "TIME",
		 "the message expires after TIME"},
		{"priority", 0, OPTION_NUMBER, &s.priority, "0-9",
		 "priority (4, which is not sent)"},
		{"not-durable", 0, OPTION_FLAG, &s.not_durable, NULL,
		 "mark it as not durable"},
		{"property", 'p', OPTION_LIST, &s.properties, "KEY=VALUE",
		 "an application property; repeatable"},
		{"subject", 0, OPTION_TEXT, &s.message.subject, "TEXT",
		 "the subject"},
		{"reply-to", 0, OPTION_TEXT, &s.message.reply_to, "ADDRESS",
		 "where answers go"},
		{"correlation-id", 0, OPTION_TEXT, &s.message.correlation_id,
		 "TEXT", "the correlation id"},
		{"content-type", 0, OPTION_TEXT, &s.message.content_type,
		 "TYPE", "for example application/json"},
		{"topic", 0, OPTION_FLAG, &s.topic, NULL,
		 "the address is a topic: every subscription gets it"},
		{"quiet", 'q', OPTION_FLAG, &s.quiet, NULL,
		 "say nothing on success"},
	};
	struct options options = {
		.command = "holdfast send",
		.words = "ADDRESS [BODY...]",
		.summary =
			"Send messages to an address.  Each BODY is one "
			"message; without one, standard\ninput is.  Ends when "
			"the broker has confirmed every message: each is then "
			"on\ndisk.",
		.examples =
			"  holdfast send orders 'first' 'second'\n"
			"  holdfast send orders --file order.json "
			"--content-type application/json\n"
			"  holdfast send orders --count 100000 --size 1KiB\n",
		.table = table,
		.count = ARRAY_COUNT(table),
		.words_min = 1,
		.words_max = 1u << 20,
	};
	int words, code;

	s.options = &options;
	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	if (s.priority > 10)
		return options_wrong(&options, "--priority is 0 to 9");
	s.address = argv[0];
	code = prepare(&s, words, argv);
	if (!code)
		code = amqp_client_access(options.command, &s.access);
	if (!code)
		code = send_all(&s);
	if (s.data_mapped && s.file)
		munmap((void *)(uintptr_t)s.data, s.data_len);
	else if (!s.data_mapped)
		free((void *)(uintptr_t)s.data);
	free(s.prelude);
	return code;
}
