/* tools/cluster.c: `holdfast cluster …`: who leads, through the admin API. */
#include <string.h>

#include "replication/leadership.h"
#include "tools/command.h"
#include "tools/admin_client.h"
#include "tools/output.h"
#include "tools/world.h"

#define CLUSTER_PATH "/api/v1/cluster"
#define STATUS_MS_MAX 3000u

struct cluster_command {
	struct http_access access;
	struct option_list admins;
	const char *data_dir;
	unsigned format;
};

static const struct output_column columns[] = {
	{"node", "NODE"},
	{"role", "ROLE"},
	{"healthy", "HEALTHY"},
	{"epoch", "EPOCH"},
	{"leader", "LEADER"},
	{"silent_seconds", "SILENT S"},
	{"behind_seconds", "LAG S"},
	{"admin", "ADMIN"},
};

/* One row of the table; JSON and YAML get all that the broker said. */
static json_t *row_of(json_t *answer, const char *admin)
{
	json_t *leader = json_object_get(answer, "leader");
	json_t *standby = json_object_get(answer, "standby");
	json_t *row = json_deep_copy(answer);
	json_t *lag = json_object_get(standby, "behind_seconds");

	json_object_set_new(row, "admin", json_string(admin));
	if (json_is_object(leader)) {
		json_object_set(row, "leader", json_object_get(leader, "node"));
		json_object_set(row, "leader_admin",
				json_object_get(leader, "admin"));
		json_object_set(row, "silent_seconds",
				json_object_get(leader, "silent_seconds"));
		json_object_set(row, "leader_locked",
				json_object_get(leader, "locked"));
	} else {
		json_object_set_new(row, "leader", json_null());
	}
	if (json_is_object(standby))
		json_object_update(row, standby);
	if (!lag)
		json_object_set_new(row, "behind_seconds", json_null());
	json_object_del(row, "standby");
	return row;
}

static json_t *unreachable(const char *admin)
{
	return json_pack("{s:s,s:s,s:b,s:n,s:n,s:n,s:n,s:s}", "node", "?",
			 "role", "unreachable", "healthy", 0, "epoch", "leader",
			 "silent_seconds", "behind_seconds", "admin", admin);
}

static int ask_all(const struct options *options, struct cluster_command *c,
		   json_t *into)
{
	unsigned count = c->admins.count ? c->admins.count : 1;
	int code = COMMAND_OK;

	for (unsigned i = 0; i < count; i++) {
		struct http_access access = c->access;

		json_t *answer = NULL;

		if (c->admins.count)
			access.admin = c->admins.items[i];
		if (admin_client_request(options->command, &access, "GET",
					 CLUSTER_PATH, NULL, NULL, NULL,
					 &answer) != COMMAND_OK) {
			code = COMMAND_FAILED;
			json_array_append_new(into, unreachable(access.admin));
			continue;
		}
		json_array_append_new(into, row_of(answer, access.admin));
		json_decref(answer);
	}
	return code;
}

/* What the directory itself says; needs no broker. */
static int read_sign(const struct options *options,
		     const struct cluster_command *c, json_t *into)
{
	struct leadership_sign s;
	struct io *io;
	int err = world_open(options->command, &io);

	if (err)
		return err;
	err = leadership_read(io, c->data_dir, &s);
	io_free(io);
	if (err) {
		fprintf(stderr, "%s: %s: %s\n", options->command, c->data_dir,
			err == -ENOENT ? "nobody has led there, or it is not "
					 "a data directory"
			: err == -E_CORRUPT ? "leader.lock is damaged, or was "
					      "being written; try again"
					    : err_str(err));
		return COMMAND_FAILED;
	}
	json_array_append_new(
		into,
		json_pack("{s:s,s:s,s:b,s:I,s:s,s:n,s:n,s:s,s:I,s:b,s:b}",
			  "node", s.node, "role",
			  s.resigned ? "resigned" : "leader", "healthy", 1,
			  "epoch", (json_int_t)s.epoch, "leader", s.node,
			  "silent_seconds", "behind_seconds", "admin", s.url,
			  "seen_at_ms", (json_int_t)s.wall_ms, "leader_locked",
			  (int)s.locked, "resigned", (int)s.resigned));
	return COMMAND_OK;
}

int cluster_status_run(int argc, char **argv)
{
	/* A broker that is stopped takes connections and does not answer. */
	struct cluster_command c = {
		.access = {.admin = "http://127.0.0.1:8161",
			   .total_ms_max = STATUS_MS_MAX},
	};
	const struct option table[] = {
		{"admin", 'a', OPTION_LIST, &c.admins, "URL",
		 "the admin API of a broker; again for more "
		 "(http://127.0.0.1:8161)"},
		{"user", 0, OPTION_TEXT, &c.access.user, "NAME",
		 "log in as this user"},
		{"password-file", 0, OPTION_TEXT, &c.access.password_file,
		 "FILE", "read the password from FILE; - asks for it"},
		{"data-dir", 'd', OPTION_TEXT, &c.data_dir, "DIR",
		 "read the leader's last sign of life from its directory "
		 "instead"},
		{"output", 'o', OPTION_CHOICE, &c.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = "holdfast cluster status",
		.words = "",
		.summary = "Who leads, and how far the standbys are.",
		.examples = "  holdfast cluster status "
			    "-a http://127.0.0.1:8161 "
			    "-a http://127.0.0.1:8162\n"
			    "  holdfast cluster status --data-dir ./data\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	json_t *rows;
	int words, code;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	rows = json_array();
	code = c.data_dir ? read_sign(&options, &c, rows)
			  : ask_all(&options, &c, rows);
	if (json_array_size(rows))
		output_print(c.format, rows, columns, ARRAY_COUNT(columns));
	json_decref(rows);
	return code;
}

int cluster_step_down_run(int argc, char **argv)
{
	struct cluster_command c = {.access = HTTP_ACCESS_INIT};
	const struct option table[] = {
		HTTP_ACCESS_OPTIONS(c.access),
	};
	const struct options options = {
		.command = "holdfast cluster step-down",
		.words = "",
		.summary = "Let another broker lead: this one finishes what is "
			   "under way, closes its\nclients, and stands by.  "
			   "Alone, it leads again after takeover_after.",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	json_t *answer = NULL;
	int words, code;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	code = admin_client_request(options.command, &c.access, "POST",
				    CLUSTER_PATH "/step-down", NULL, NULL, NULL,
				    &answer);
	if (code)
		return code;
	printf("%s steps down\n",
	       json_string_value(json_object_get(answer, "node")));
	json_decref(answer);
	return COMMAND_OK;
}
