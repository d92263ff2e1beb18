/* broker/daemon/settings.c: the table of settings, and the checks that one
 * key alone cannot make. */
#include "broker/daemon/settings.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/logger.h"
#include "broker/protocols/auth.h"
#include "replication/kubernetes.h"
#include "replication/kubernetes_pod.h"

#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define TIB (1024ull * GIB)
#define MS 1000000ull
#define SECOND (1000ull * MS)
#define DAY (86400ull * SECOND)

/* ---- addresses of sockets ---- */

/* "HOST:PORT" or "[HOST]:PORT"; NULL or what is wrong. */
static const char *parse_endpoint(const char *text, uint16_t default_port,
				  struct settings_listen *ret)
{
	const char *host = text, *colon, *end;
	unsigned char any[16];
	unsigned long port = default_port;
	size_t len;
	char *rest;

	if (*text == '[') {
		host = text + 1;
		end = strchr(host, ']');
		if (!end || (end[1] && end[1] != ':'))
			return "is not [ADDRESS]:PORT";
		colon = end[1] ? end + 1 : NULL;
	} else {
		colon = strchr(text, ':');
		end = colon ? colon : text + strlen(text);
	}
	len = (size_t)(end - host);
	if (!len || len >= sizeof(ret->address))
		return "needs a numeric address, such as 127.0.0.1:5672";
	memcpy(ret->address, host, len);
	ret->address[len] = '\0';
	if (inet_pton(*text == '[' ? AF_INET6 : AF_INET, ret->address, any) !=
	    1)
		return "needs a numeric address, such as 127.0.0.1:5672 or "
		       "[::1]:5672";
	if (colon) {
		port = strtoul(colon + 1, &rest, 10);
		if (rest == colon + 1 || *rest || colon[1] == '-' ||
		    colon[1] == '+' || port > 65535)
			return "needs a port from 0 to 65535";
	}
	ret->port = (uint16_t)port;
	return NULL;
}

const char *settings_parse_listen(const char *text, struct settings_listen *ret)
{
	struct settings_listen l = {0};
	const char *wrong;

	if (!strncmp(text, "amqp://", 7))
		wrong = parse_endpoint(text + 7, 5672, &l);
	else if (!strncmp(text, "any://", 6)) {
		l.any = true;
		wrong = parse_endpoint(text + 6, 61616, &l);
	} else
		wrong = "must begin with amqp:// or any://";
	if (!wrong)
		*ret = l;
	return wrong;
}

const char *settings_parse_admin(const char *text, bool *ret_off,
				 struct settings_listen *ret)
{
	*ret_off = !strcmp(text, "off") || !strcmp(text, "no") ||
		   !strcmp(text, "false");
	return *ret_off ? NULL : parse_endpoint(text, 8161, ret);
}

const char *settings_parse_percent(const char *text, unsigned *ret)
{
	size_t digits = strspn(text, "0123456789");
	unsigned long n = strtoul(text, NULL, 10);

	if (!digits || digits > 3 || n < 1 || n > 100 ||
	    (text[digits] && strcmp(text + digits, "%") != 0))
		return "needs a percentage from 1% to 100%, such as 90%";
	*ret = (unsigned)n;
	return NULL;
}

bool settings_is_loopback(const char *address)
{
	return !strncmp(address, "127.", 4) || !strcmp(address, "::1");
}

static const char *check_listen(const char *text)
{
	return settings_parse_listen(text, &(struct settings_listen){0});
}

static const char *check_admin(const char *text)
{
	return settings_parse_admin(text, &(bool){false},
				    &(struct settings_listen){0});
}

static const char *check_percent(const char *text)
{
	return settings_parse_percent(text, &(unsigned){0});
}

static const char *check_filled(const char *text)
{
	return text[0] ? NULL : "is empty";
}

static const char *check_name(const char *text)
{
	if (!text[0])
		return "is empty";
	return strlen(text) <= RECORD_NAME_MAX ? NULL : "is too long";
}

static const char *check_node(const char *text)
{
	if (!text[0])
		return "is empty";
	return strlen(text) <= 64 ? NULL : "is too long; 64 bytes at most";
}

static const char *check_user_name(const char *text)
{
	if (!text[0])
		return "is empty";
	return strlen(text) <= AUTH_NAME_MAX ? NULL : "is too long";
}

static const char *check_password(const char *text)
{
	if (!text[0])
		return "is empty";
	return strlen(text) <= AUTH_PASSWORD_MAX ? NULL : "is too long";
}

/* An empty one means "none". */
static const char *check_address(const char *text)
{
	return strlen(text) <= RECORD_NAME_MAX ? NULL : "is too long";
}

static const char *check_hash(const char *text)
{
	return crypto_password_hash_is_valid(text)
		       ? NULL
		       : "not a password hash; make one with `holdfast "
			 "user hash`";
}

static const char *check_pod(const char *text)
{
	return kubernetes_pod_name_is_valid(text)
		       ? NULL
		       : "is not a pod's name, such as holdfast-0";
}

static const char *check_api(const char *text)
{
	if (strncmp(text, "https://", 8) != 0 || !text[8])
		return "must begin with https://";
	return strlen(text) <= 300 ? NULL : "is too long";
}

/* ---- the table ---- */

static const struct config_word engine_words[] = {
	{"auto", IO_ENGINE_AUTO},
	{"io_uring", IO_ENGINE_URING},
	{"threads", IO_ENGINE_THREADS},
	{NULL, 0},
};

static const struct config_word anonymous_words[] = {
	{"loopback", SETTINGS_ANONYMOUS_LOOPBACK},
	{"always", SETTINGS_ANONYMOUS_ALWAYS},
	{"never", SETTINGS_ANONYMOUS_NEVER},
	{NULL, 0},
};

static const struct config_word routing_words[] = {
	{"anycast", RECORD_ANYCAST},
	{"multicast", RECORD_MULTICAST},
	{NULL, 0},
};

static const struct config_word label_words[] = {
	{"auto", SETTINGS_ROUTING_AUTO},
	{"label", SETTINGS_ROUTING_LABEL},
	{"none", SETTINGS_ROUTING_NONE},
	{NULL, 0},
};

static const struct config_word level_words[] = {
	{"debug", LOGGER_DEBUG},
	{"info", LOGGER_INFO},
	{"warn", LOGGER_WARN},
	{"error", LOGGER_ERROR},
	{NULL, 0},
};

static const struct config_word format_words[] = {
	{"auto", LOGGER_AUTO},
	{"text", LOGGER_TEXT},
	{"json", LOGGER_JSON},
	{NULL, 0},
};

#define USER(field) offsetof(struct settings_user, field)
static const struct config_key user_keys[] = {
	{"name", CONFIG_STRING, CONFIG_REQUIRED | CONFIG_NAMES_ITEM, USER(name),
	 .check = check_user_name, .help = "The user's name."},
	{"password_hash", CONFIG_STRING, CONFIG_SECRET, USER(password_hash),
	 .check = check_hash,
	 .help = "Argon2id text, made by `holdfast user hash`."},
	{"password", CONFIG_STRING, CONFIG_SECRET, USER(password),
	 .check = check_password, .help = "The password itself."},
};
static const struct config_table user_table = {
	user_keys, ARRAY_COUNT(user_keys), sizeof(struct settings_user)};

#define ADDRESS(field) offsetof(struct settings_address, field)
static const struct config_key address_keys[] = {
	{"match", CONFIG_STRING, CONFIG_REQUIRED | CONFIG_NAMES_ITEM,
	 ADDRESS(match), .check = check_name,
	 .help = "Words separated by dots; * is one word, # any number."},
	{"routing", CONFIG_ENUM, 0, ADDRESS(routing), .fallback = "anycast",
	 .words = routing_words,
	 .help = "What an address is when the client does not say."},
	{"auto_create", CONFIG_BOOL, 0, ADDRESS(auto_create),
	 .fallback = "true",
	 .help = "Make addresses and anycast queues that clients name."},
	{"auto_delete", CONFIG_BOOL, 0, ADDRESS(auto_delete),
	 .fallback = "false",
	 .help = "Remove auto-created queues that are empty and unused."},
	{"delivery_attempts", CONFIG_INT, 0, ADDRESS(delivery_attempts),
	 .fallback = "10", .least = 0, .most = 1000000,
	 .help = "Then the message goes to dead_letter.  0: no limit."},
	{"dead_letter", CONFIG_STRING, 0, ADDRESS(dead_letter),
	 .fallback = "DLQ", .check = check_address,
	 .help = "Address for undeliverable messages; \"\": discard them."},
	{"expiry", CONFIG_STRING, 0, ADDRESS(expiry), .fallback = "ExpiryQueue",
	 .check = check_address,
	 .help = "Address for expired messages; \"\": discard them."},
	{"ttl_max", CONFIG_DURATION, 0, ADDRESS(ttl_max_ns), .fallback = "0",
	 .least = 0, .most = 36500 * DAY,
	 .help = "Longest life of a message.  0: as the sender says."},
};
static const struct config_table address_table = {
	address_keys, ARRAY_COUNT(address_keys),
	sizeof(struct settings_address)};

#define AT(field) offsetof(struct settings, field)
static const struct config_key keys[] = {
	{"data_dir", CONFIG_STRING, 0, AT(data_dir),
	 .fallback = "/var/lib/holdfast", .check = check_filled,
	 .help = "Directory of the journal.  Of several brokers on it one "
		 "leads, and the others stand by."},
	{"index_dir", CONFIG_STRING, 0, AT(index_dir), .check = check_filled,
	 .help = "Directory of the working index, on a disk of this node, "
		 "never on NFS, SMB or FUSE.  Without it index/ in data_dir."},
	{"disk_max_use", CONFIG_STRING, 0, AT(disk_max_use), .fallback = "90%",
	 .check = check_percent,
	 .help = "Publishing stops while more of the file system is used; "
		 "consuming goes on."},
	{"listen", CONFIG_LIST, 0, AT(listen),
	 .fallback = "amqp://127.0.0.1:5672", .check = check_listen,
	 .help = "Where clients connect: amqp://ADDRESS:PORT, or "
		 "any://ADDRESS:PORT for every protocol there is."},
	{"admin", CONFIG_STRING, 0, AT(admin), .fallback = "127.0.0.1:8161",
	 .check = check_admin,
	 .help = "ADDRESS:PORT of health, metrics and the HTTP API; or off."},
	{"admin_allow_remote", CONFIG_BOOL, 0, AT(admin_allow_remote),
	 .fallback = "false",
	 .help = "Needed for an admin address that is not loopback."},
	{"engine", CONFIG_ENUM, 0, AT(engine), .fallback = "auto",
	 .words = engine_words, .help = "How the broker does I/O."},
	{"shards", CONFIG_INT, 0, AT(shards), .fallback = "0", .least = 0,
	 .most = 64,
	 .help = "Threads for connections and queues.  0: one per "
		 "processor."},
	{"users", CONFIG_MAPS, CONFIG_RELOADABLE, AT(users),
	 .each = &user_table, .help = "Who may connect."},
	{"anonymous", CONFIG_ENUM, CONFIG_RELOADABLE, AT(anonymous),
	 .fallback = "loopback", .words = anonymous_words,
	 .help = "From where clients may connect without a user."},
	{"addresses", CONFIG_MAPS, CONFIG_RELOADABLE, AT(addresses),
	 .each = &address_table,
	 .help = "Rules by address; the most specific match wins."},
	{"expiry_scan", CONFIG_DURATION, 0, AT(expiry_scan_ns),
	 .fallback = "30s", .least = 100 * MS, .most = DAY,
	 .help = "How often queues are searched for expired messages."},
	{"shutdown_timeout", CONFIG_DURATION, CONFIG_RELOADABLE,
	 AT(shutdown_timeout_ns), .fallback = "20s", .least = SECOND,
	 .most = 3600 * SECOND,
	 .help = "A shutdown that takes longer is cut short."},
	{"node", CONFIG_STRING, 0, AT(node), .check = check_node,
	 .help = "This broker's name among those that share data_dir.  Without "
		 "it the host's name."},
	{"takeover_after", CONFIG_DURATION, 0, AT(takeover_after_ns),
	 .fallback = "8s", .least = 200 * MS, .most = 3600 * SECOND,
	 .help = "A standby takes over from a leader that holds the lock and "
		 "gives no sign of life for so long."},
	{"storage_timeout", CONFIG_DURATION, 0, AT(storage_timeout_ns),
	 .fallback = "10s", .least = SECOND, .most = 3600 * SECOND,
	 .help = "A leader whose storage does not answer for so long exits."},
	{"core_dumps", CONFIG_BOOL, 0, AT(core_dumps), .fallback = "false",
	 .help = "Let a crash leave a core file, with message contents."},

	{"journal.segment_size", CONFIG_SIZE, 0, AT(journal.segment_bytes),
	 .fallback = "128MiB", .least = MIB, .most = GIB,
	 .help = "Size of a journal file; the first after a start are "
		 "smaller."},
	{"journal.compress", CONFIG_INT, 0, AT(journal.compress_level),
	 .fallback = "0", .least = 0, .most = 19,
	 .help = "zstd level for message bodies.  0: off."},
	{"journal.checkpoint_interval", CONFIG_DURATION, 0,
	 AT(journal.checkpoint_ns), .fallback = "30s", .least = SECOND,
	 .most = DAY, .help = "A checkpoint at least this often."},
	{"journal.checkpoint_bytes", CONFIG_SIZE, 0,
	 AT(journal.checkpoint_bytes), .fallback = "256MiB", .least = MIB,
	 .most = TIB,
	 .help = "And after this much journal; it bounds recovery."},
	{"journal.key_file", CONFIG_STRING, 0, AT(journal.key_file),
	 .check = check_filled,
	 .help = "The master key.  Without it a development key is made "
		 "beside the data."},
	{"journal.reserve", CONFIG_SIZE, 0, AT(journal.reserve_bytes),
	 .fallback = "64MiB", .least = MIB, .most = 1024 * TIB,
	 .help = "Publishing stops before the disk has less than this."},

	{"store.hot_size", CONFIG_SIZE, 0, AT(store.hot_bytes),
	 .fallback = "4GiB", .least = MIB, .most = 1024 * TIB,
	 .help = "So much closed journal is left alone before what is still "
		 "queued in it is moved to extent files."},
	{"store.hot_time", CONFIG_DURATION, 0, AT(store.hot_ns),
	 .fallback = "60s", .least = 100 * MS, .most = 365 * DAY,
	 .help = "And for so long."},
	{"store.extent_file_size", CONFIG_SIZE, 0, AT(store.extent_bytes),
	 .fallback = "64MiB", .least = MIB, .most = GIB,
	 .help = "An extent file is closed once it is this large."},

	{"scrub.interval", CONFIG_DURATION, 0, AT(scrub.interval_ns),
	 .fallback = "7d", .least = 0, .most = 3650 * DAY,
	 .help = "Everything on disk is read and checked once in this time.  "
		 "0: never."},
	{"scrub.rate", CONFIG_SIZE, 0, AT(scrub.bytes_per_s),
	 .fallback = "32MiB", .least = 64 * KIB, .most = TIB,
	 .help = "And not more of it in a second."},

	{"storage.allow_unsafe_mount", CONFIG_BOOL, 0,
	 AT(storage.allow_unsafe_mount), .fallback = "false",
	 .help = "Start on a mount where locks, writes or looks at a file "
		 "cannot be relied on.  Acknowledged messages can be lost, and "
		 "two brokers can run at once."},

	{"limits.message_size", CONFIG_SIZE, 0, AT(limits.message_bytes),
	 .fallback = "1GiB", .least = KIB, .most = TIB,
	 .help = "Largest message."},
	{"limits.memory", CONFIG_SIZE, 0, AT(limits.memory_bytes),
	 .fallback = "0", .least = 0, .most = TIB,
	 .help = "Memory for messages, what is known of them, and buffers.  "
		 "0: 256MiB, or half of the control group's limit if that is "
		 "less."},
	{"limits.connections", CONFIG_INT, 0, AT(limits.connections),
	 .fallback = "10000", .least = 1, .most = 1000000,
	 .help = "Client connections at a time."},
	{"limits.frame_size", CONFIG_SIZE, 0, AT(limits.frame_bytes),
	 .fallback = "128KiB", .least = 4 * KIB, .most = MIB,
	 .help = "Largest AMQP frame that the broker takes."},

	{"amqp.idle_timeout", CONFIG_DURATION, 0, AT(amqp.idle_timeout_ns),
	 .fallback = "60s", .least = SECOND, .most = DAY,
	 .help = "Silence after which a connection is closed."},
	{"amqp.credit", CONFIG_INT, 0, AT(amqp.credit), .fallback = "1000",
	 .least = 1, .most = 16384,
	 .help = "Messages a producer may send ahead."},

	{"kubernetes.routing", CONFIG_ENUM, 0, AT(kubernetes.routing),
	 .fallback = "auto", .words = label_words,
	 .help = "How clients find the leader: label: the pod carries "
		 "leader=yes or no; none: it carries nothing; auto: label "
		 "in a pod that knows its name and has a service account."},
	{"kubernetes.pod", CONFIG_STRING, 0, AT(kubernetes.pod),
	 .check = check_pod,
	 .help = "This pod's name.  Without it POD_NAME in the environment."},
	{"kubernetes.replicas", CONFIG_INT, 0, AT(kubernetes.replicas),
	 .fallback = "0", .least = 0, .most = KUBERNETES_PEERS_MAX + 1,
	 .help = "Pods of the StatefulSet, numbered from 0; a leader "
		 "corrects the labels of the others.  0: as peers says."},
	{"kubernetes.peers", CONFIG_LIST, 0, AT(kubernetes.peers),
	 .check = check_pod,
	 .help = "The same, by name; this pod's own may be among them."},
	{"kubernetes.api", CONFIG_STRING, 0, AT(kubernetes.api),
	 .check = check_api,
	 .help = "https:// URL of the API server.  Without it as "
		 "KUBERNETES_SERVICE_HOST and _PORT say."},
	{"kubernetes.service_account", CONFIG_STRING, 0,
	 AT(kubernetes.service_account), .fallback = KUBERNETES_ACCOUNT_DIR,
	 .check = check_filled,
	 .help = "Directory with token, ca.crt and namespace."},

	{"log.level", CONFIG_ENUM, CONFIG_RELOADABLE, AT(log.level),
	 .fallback = "info", .words = level_words,
	 .help = "The least that is logged."},
	{"log.format", CONFIG_ENUM, CONFIG_RELOADABLE, AT(log.format),
	 .fallback = "auto", .words = format_words,
	 .help = "auto: text on a terminal, JSON otherwise."},
};

const struct config_table settings_table = {keys, ARRAY_COUNT(keys),
					    sizeof(struct settings)};

/* ---- checks across keys ---- */

static void check_users(const struct config *c, const struct settings *s,
			struct config_errors *errors)
{
	const char *where = config_origin(c, "users");
	const struct settings_user *users = s->users.items;

	for (size_t i = 0; i < s->users.count; i++) {
		const struct settings_user *u = &users[i];

		if (!u->password_hash == !u->password)
			config_errors_add(errors, where,
					  "users: \"%.64s\" needs either "
					  "password_hash or password",
					  u->name);
	}
}

static void check_admin_access(const struct config *c, const struct settings *s,
			       struct config_errors *errors)
{
	const char *where = config_origin(c, "admin");
	struct settings_listen at;
	bool off;

	if (settings_parse_admin(s->admin, &off, &at) || off ||
	    settings_is_loopback(at.address))
		return;
	if (!s->admin_allow_remote)
		config_errors_add(errors, where,
				  "admin: %s can be reached from elsewhere; "
				  "say admin_allow_remote: true as well if "
				  "that is meant",
				  s->admin);
	else if (!s->users.count)
		config_errors_add(errors, where,
				  "admin: %s can be reached from elsewhere, "
				  "where only a user may ask; add one under "
				  "users",
				  s->admin);
}

static void check_peers(const struct config *c, const struct settings *s,
			struct config_errors *errors)
{
	if (s->kubernetes.replicas && s->kubernetes.peers.count)
		config_errors_add(errors, config_origin(c, "kubernetes.peers"),
				  "kubernetes.peers: say either peers or "
				  "replicas");
	if (s->kubernetes.peers.count > KUBERNETES_PEERS_MAX + 1)
		config_errors_add(errors, config_origin(c, "kubernetes.peers"),
				  "kubernetes.peers: are more than %u",
				  KUBERNETES_PEERS_MAX + 1);
}

int settings_load(const struct config_source *source, struct config **ret,
		  struct config_errors *errors)
{
	const struct settings *s;
	struct config *c;
	int err = config_load(&settings_table, source, &c, errors);

	if (err)
		return err;
	s = config_values(c);
	check_users(c, s, errors);
	check_admin_access(c, s, errors);
	check_peers(c, s, errors);
	if (s->limits.memory_bytes && s->limits.memory_bytes < MIB)
		config_errors_add(errors, config_origin(c, "limits.memory"),
				  "limits.memory: is either 0 or at least "
				  "1MiB");
	if (!s->listen.count)
		config_errors_add(errors, config_origin(c, "listen"),
				  "listen: needs at least one address");
	if (errors->count) {
		config_free(c);
		return -E_CONFIG;
	}
	*ret = c;
	return 0;
}

const struct settings *settings_of(const struct config *c)
{
	return config_values(c);
}

static const char *or_none(const char *text)
{
	return text && text[0] ? text : NULL;
}

int settings_rules(const struct settings *s, struct core_address_rule **ret,
		   unsigned *ret_count)
{
	const struct settings_address *a = s->addresses.items;
	size_t count = s->addresses.count;
	struct core_address_rule *rules = calloc(count + 1, sizeof(*rules));
	bool has_all = false;

	if (!rules)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		has_all |= !strcmp(a[i].match, "#");
		rules[i] = (struct core_address_rule){
			.match = a[i].match,
			.routing = (uint8_t)a[i].routing,
			.auto_create = a[i].auto_create,
			.auto_delete = a[i].auto_delete,
			.delivery_attempts = (uint32_t)a[i].delivery_attempts,
			.dead_letter = or_none(a[i].dead_letter),
			.expiry = or_none(a[i].expiry),
			.ttl_max_ms = a[i].ttl_max_ns / MS,
		};
	}
	if (!has_all)
		rules[count++] = (struct core_address_rule){
			.match = "#",
			.routing = RECORD_ANYCAST,
			.auto_create = true,
			.delivery_attempts = 10,
			.dead_letter = "DLQ",
			.expiry = "ExpiryQueue",
		};
	*ret = rules;
	*ret_count = (unsigned)count;
	return 0;
}
