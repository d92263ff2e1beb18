/* broker/daemon/settings.h: what the broker can be told.
 *
 * One table (settings_table) describes every key; docs/configuration.md and
 * holdfast.yaml(5) explain them.  The struct belongs to the struct config that
 * it was loaded into. */
#ifndef BROKER_DAEMON_SETTINGS_H
#define BROKER_DAEMON_SETTINGS_H

#include "base/config.h"
#include "broker/core/core.h"

enum settings_anonymous {
	SETTINGS_ANONYMOUS_LOOPBACK,
	SETTINGS_ANONYMOUS_ALWAYS,
	SETTINGS_ANONYMOUS_NEVER,
};

enum settings_routing {
	SETTINGS_ROUTING_AUTO,
	SETTINGS_ROUTING_LABEL,
	SETTINGS_ROUTING_NONE,
};

struct settings_user {
	char *name;
	char *password_hash; /* one of these two */
	char *password;
};

struct settings_address {
	char *match;
	int routing;
	bool auto_create, auto_delete;
	uint64_t delivery_attempts;
	char *dead_letter, *expiry; /* "": none */
	uint64_t ttl_max_ns;
};

struct settings {
	char *data_dir;
	char *index_dir;    /* NULL: data_dir/index */
	char *disk_max_use; /* settings_parse_percent() */
	struct config_list listen;
	char *admin;
	bool admin_allow_remote;
	int engine; /* enum io_engine */
	uint64_t shards;
	struct config_maps users;     /* struct settings_user */
	int anonymous;		      /* enum settings_anonymous */
	struct config_maps addresses; /* struct settings_address */
	uint64_t expiry_scan_ns, shutdown_timeout_ns;
	char *node; /* NULL: the host's name */
	uint64_t takeover_after_ns, storage_timeout_ns;
	bool core_dumps;
	struct {
		uint64_t segment_bytes, compress_level;
		uint64_t checkpoint_ns, checkpoint_bytes, reserve_bytes;
		char *key_file; /* NULL: a development key */
	} journal;
	struct {
		uint64_t hot_bytes, hot_ns, extent_bytes;
	} store;
	struct {
		uint64_t interval_ns, bytes_per_s;
	} scrub;
	struct {
		bool allow_unsafe_mount;
	} storage;
	struct {
		uint64_t message_bytes, connections, frame_bytes;
		uint64_t memory_bytes; /* 0: see broker/daemon/memory.h */
	} limits;
	struct {
		uint64_t idle_timeout_ns, credit;
	} amqp;
	struct {
		int routing; /* enum settings_routing */
		char *pod;   /* NULL: POD_NAME */
		uint64_t replicas;
		struct config_list peers;
		char *api; /* NULL: KUBERNETES_SERVICE_HOST and _PORT */
		char *service_account;
	} kubernetes; /* broker/daemon/routing.h */
	struct {
		int level, format;
	} log;
};

extern const struct config_table settings_table;

/* Loads, and checks what spans keys. */
MUST_CHECK int settings_load(const struct config_source *, struct config **ret,
			     struct config_errors *);
const struct settings *settings_of(const struct config *);

/* "amqp://127.0.0.1:5672", "any://[::]:61616". */
struct settings_listen {
	bool any; /* all protocols, told apart by their first bytes */
	char address[64];
	uint16_t port;
};
/* NULL, or what is wrong with it. */
const char *settings_parse_listen(const char *text,
				  struct settings_listen *ret);
/* "127.0.0.1:8161"; *ret_off for "off". */
const char *settings_parse_admin(const char *text, bool *ret_off,
				 struct settings_listen *ret);
/* "90" or "90%", from 1 to 100. */
const char *settings_parse_percent(const char *text, unsigned *ret);
bool settings_is_loopback(const char *address);

/* The rules of `addresses`, with the built-in one for "#" last unless there
 * is one.  Strings belong to the settings; free() the array. */
MUST_CHECK int settings_rules(const struct settings *,
			      struct core_address_rule **ret,
			      unsigned *ret_count);

#endif
