/* tests/unit/test_admin.c: broker/admin over real sockets, with the core, the
 * journal and the loops played by admin_rig.h. */
#include "tests/unit/admin_rig.h"

/* ---- health ---- */

TEST("health follows the state and the loops' heartbeats")
{
	begin();
	assert_int_equal(get("/health/live"), 200);
	assert_int_equal(get("/health/ready"), 200);
	assert_int_equal(get("/health/startup"), 200);
	admin_set_state(admin, ADMIN_STARTING);
	assert_int_equal(get("/health/ready"), 503);
	says("{\"error\":\"the broker is starting\"}");
	assert_int_equal(get("/health/startup"), 503);
	assert_int_equal(get("/health/live"), 200);
	admin_set_state(admin, ADMIN_DRAINING);
	assert_int_equal(get("/health/ready"), 503);
	assert_int_equal(get("/health/startup"), 200);
	cast.heartbeat_ns = cast.now_ns - 60000000000ull;
	assert_int_equal(get("/health/live"), 503);
	says("shard-0");
	cast.waiting = true;
	assert_int_equal(get("/health/live"), 200);
	assert_int_equal(get("/health/nonsense"), 404);
	assert_int_equal(post("/health/live", NULL), 405);
	end();
}

TEST("a standby is healthy, and sends those who want more to the leader")
{
	begin_as(false);
	assert_int_equal(get("/health/live"), 200);
	assert_int_equal(get("/health/startup"), 200);
	assert_int_equal(get("/health/ready"), 200);
	says("{\"status\":\"standby\"}");
	assert_int_equal(get("/health/ready?role=leader"), 503);
	assert_int_equal(get("/api/v1/status"), 200);
	says("\"role\":\"standby\"");
	assert_int_equal(get("/api/v1/queues"), 503);
	says("there leads: ask http://there:1");
	assert_int_equal(get("/api/v1/damage"), 503);
	assert_int_equal(post("/api/v1/queues/orders/purge", NULL), 503);
	assert_int_equal(get("/metrics"), 200);
	says("holdfast_leader 0\n");
	says("holdfast_standby_lag_records 4\n");
	says("holdfast_standby_lag_seconds 2.000000\n");
	cast.blind = true;
	assert_int_equal(get("/health/ready"), 503);
	says("has not seen its storage for 30 s");
	assert_int_equal(get("/health/live"), 200);
	end();
}

TEST("the cluster's state is told by all, and only a leader steps down")
{
	begin_as(false);
	assert_int_equal(get("/api/v1/cluster"), 200);
	says("\"role\":\"standby\"");
	says("\"node\":\"there\"");
	says("\"applied_lsn\":10");
	says("\"label\":null");
	assert_int_equal(post("/api/v1/cluster/step-down", NULL), 409);
	assert_int_equal(cast.stepped_down, 0);
	end();
	begin();
	assert_int_equal(get("/health/ready?role=leader"), 200);
	assert_int_equal(get("/api/v1/cluster"), 200);
	says("\"standby\":null");
	says("\"in_sync\":true,\"requests\":5");
	says("\"failures\":{\"timed-out\":2}");
	assert_int_equal(get("/metrics"), 200);
	says("holdfast_label_in_sync 1\n");
	says("holdfast_label_failures_total{failure=\"timed-out\"} 2\n");
	says("holdfast_label_last_success_time_seconds 1.5");
	assert_int_equal(get("/api/v1/cluster/step-down"), 405);
	assert_int_equal(post("/api/v1/cluster/step-down", NULL), 202);
	assert_int_equal(cast.stepped_down, 1);
	end();
}

/* ---- queues ---- */

TEST("queues are listed in pages, with every field")
{
	json_t *j, *first;

	begin();
	cast.queue_count = 25;
	assert_int_equal(get("/api/v1/queues"), 200);
	j = json();
	assert_int_equal(json_array_size(json_object_get(j, "queues")), 25);
	assert_true(json_is_false(json_object_get(j, "more")));
	first = json_array_get(json_object_get(j, "queues"), 1);
	assert_string_equal(json_string_value(json_object_get(first, "name")),
			    "q00001");
	assert_true(json_is_true(json_object_get(first, "paused")));
	assert_int_equal(json_object_size(first), 16);
	json_decref(j);
	assert_int_equal(get("/api/v1/queues?limit=10&after=q00019"), 200);
	j = json();
	assert_int_equal(json_array_size(json_object_get(j, "queues")), 5);
	json_decref(j);
	assert_int_equal(get("/api/v1/queues?limit=10"), 200);
	j = json();
	assert_int_equal(json_array_size(json_object_get(j, "queues")), 10);
	assert_true(json_is_true(json_object_get(j, "more")));
	json_decref(j);
	assert_int_equal(get("/api/v1/queues?limit=0"), 400);
	assert_int_equal(get("/api/v1/queues?limit=99999"), 400);
	assert_int_equal(get("/api/v1/queues?limit=x"), 400);
	end();
}

TEST("an answer larger than any buffer arrives whole")
{
	json_t *j;

	begin();
	cast.queue_count = 10000;
	assert_int_equal(get("/api/v1/queues?limit=10000"), 200);
	assert_true(reply_len > 1000000);
	j = json();
	assert_int_equal(json_array_size(json_object_get(j, "queues")), 10000);
	json_decref(j);
	end();
}

TEST("a queue is found by its percent-encoded name")
{
	begin();
	cast.queue_count = 3;
	cast.strange_name = "a b::c/d%\"é";
	assert_int_equal(get("/api/v1/queues/q00002"), 200);
	says("\"name\":\"q00002\"");
	assert_int_equal(get("/api/v1/queues/a%20b::c%2Fd%25%22%C3%A9"), 200);
	says("\"messages\":0");
	assert_int_equal(get("/api/v1/queues/nowhere"), 404);
	says("{\"error\":\"there is no queue \\\"nowhere\\\"\"}");
	end();
}

TEST("actions reach the core, and what it says reaches the client")
{
	begin();
	cast.count = 17;
	assert_int_equal(post("/api/v1/queues/a%20b/purge", NULL), 200);
	assert_int_equal(cast.kind, CORE_QUEUE_PURGE);
	assert_string_equal(cast.name, "a b");
	says("\"removed\":17");
	assert_int_equal(post("/api/v1/queues/a/b/pause", ""), 200);
	assert_int_equal(cast.kind, CORE_QUEUE_PAUSE);
	assert_string_equal(cast.name, "a/b");
	says("\"paused\":true");
	assert_int_equal(post("/api/v1/queues/a::b/resume", NULL), 200);
	assert_int_equal(cast.kind, CORE_QUEUE_RESUME);
	says("\"paused\":false");
	assert_int_equal(ask("DELETE /api/v1/queues/x", GUARD, NULL), 200);
	assert_int_equal(cast.kind, CORE_QUEUE_DELETE);
	says("\"deleted\":true");
	cast.answer = -E_NOT_FOUND;
	assert_int_equal(post("/api/v1/queues/x/purge", NULL), 404);
	cast.answer = -E_NO_SPACE;
	assert_int_equal(post("/api/v1/queues/x/pause", NULL), 507);
	cast.answer = -E_LATCHED;
	assert_int_equal(post("/api/v1/queues/x/pause", NULL), 503);
	cast.answer = -EIO;
	assert_int_equal(post("/api/v1/queues/x/pause", NULL), 500);
	end();
}

TEST("a queue is made from the path, from the body, or from both")
{
	begin();
	assert_int_equal(post("/api/v1/queues/orders", NULL), 201);
	assert_int_equal(cast.kind, CORE_QUEUE_CREATE);
	assert_string_equal(cast.name, "orders");
	assert_string_equal(cast.address, "");
	assert_int_equal(cast.routing, RECORD_ANYCAST);
	assert_int_equal(post("/api/v1/queues",
			      "{\"name\":\"s\",\"address\":\"t\","
			      "\"routing\":\"multicast\"}"),
			 201);
	assert_string_equal(cast.name, "s");
	assert_string_equal(cast.address, "t");
	assert_int_equal(cast.routing, RECORD_MULTICAST);
	assert_int_equal(post("/api/v1/queues/s", "{\"address\":\"u\"}"), 201);
	assert_string_equal(cast.address, "u");
	cast.answer = -E_EXISTS;
	assert_int_equal(post("/api/v1/queues/s", NULL), 409);
	end();
}

TEST("a body that is not what it should be is refused before the core")
{
	begin();
	assert_int_equal(post("/api/v1/queues", "{"), 400);
	assert_int_equal(post("/api/v1/queues", "[]"), 400);
	assert_int_equal(post("/api/v1/queues", "{}"), 400);
	assert_int_equal(post("/api/v1/queues", "{\"name\":3}"), 400);
	assert_int_equal(post("/api/v1/queues", "{\"name\":\"a\",\"x\":1}"),
			 400);
	assert_int_equal(post("/api/v1/queues", "{\"name\":\"a\",\"name\":"
						"\"b\"}"),
			 400);
	assert_int_equal(post("/api/v1/queues/a", "{\"name\":\"b\"}"), 400);
	assert_int_equal(post("/api/v1/queues/a", "{\"routing\":\"both\"}"),
			 400);
	assert_int_equal(post("/api/v1/queues", NULL), 400);
	assert_int_equal(cast.commands, 0);
	end();
}

TEST("a command that the core does not finish in time is answered and freed")
{
	begin();
	cast.hold = true;
	assert_int_equal(post("/api/v1/queues/a/purge", NULL), 504);
	assert_non_null(cast.held);
	cast.held->done(cast.held, 0); /* a leak check sees if nobody frees */
	end();
}

/* ---- access ---- */

TEST("a request that changes something needs the guard header")
{
	begin();
	assert_int_equal(ask("POST /api/v1/queues/a", "", NULL), 403);
	says("X-Holdfast");
	assert_int_equal(
		ask("POST /api/v1/queues/a", "X-Holdfast: 0\r\n", NULL), 403);
	assert_int_equal(ask("DELETE /api/v1/queues/a", "", NULL), 403);
	assert_int_equal(ask("PUT /api/v1/queues/a", "", NULL), 403);
	assert_int_equal(ask("PUT /api/v1/queues/a", GUARD, NULL), 405);
	assert_int_equal(cast.commands, 0);
	end();
}

TEST("a foreign host name is refused unless a user asks")
{
	/* ann:secret, ann:wrong */
	static const char right[] = "Host: broker.example:8161\r\n"
				    "Authorization: Basic YW5uOnNlY3JldA==\r\n";
	static const char wrong[] = "Host: broker.example:8161\r\n"
				    "Authorization: Basic YW5uOndyb25n\r\n";

	begin();
	assert_int_equal(ask("GET /metrics", "Host: evil.example\r\n", NULL),
			 403);
	assert_int_equal(ask("GET /health/live", "Host: any.example\r\n", NULL),
			 200);
	assert_int_equal(ask("GET /metrics", "Host: localhost:8161\r\n", NULL),
			 200);
	assert_int_equal(ask("GET /metrics", "Host: [::1]:8161\r\n", NULL),
			 200);
	assert_int_equal(ask("GET /metrics", right, NULL), 200);
	assert_int_equal(ask("GET /metrics", wrong, NULL), 403);
	end();
}

TEST("credentials are verified once, and again when the users change")
{
	static const char right[] = "Host: b.example\r\n"
				    "Authorization: Basic YW5uOnNlY3JldA==\r\n";

	begin();
	assert_int_equal(ask("GET /metrics", right, NULL), 200);
	assert_int_equal(ask("GET /metrics", right, NULL), 200);
	assert_int_equal(cast.verified, 1);
	cast.password = "changed";
	admin_users_changed(admin);
	assert_int_equal(ask("GET /metrics", right, NULL), 403);
	assert_int_equal(cast.verified, 2);
	assert_int_equal(ask("GET /metrics",
			     "Host: b.example\r\nAuthorization: Basic !\r\n",
			     NULL),
			 403);
	assert_int_equal(ask("GET /metrics",
			     "Host: b.example\r\nAuthorization: Bearer x\r\n",
			     NULL),
			 403);
	end();
}

/* ---- status and metrics ---- */

TEST("the status names the broker")
{
	json_t *j;

	begin();
	assert_int_equal(get("/api/v1/status"), 200);
	j = json();
	assert_string_equal(json_string_value(json_object_get(j, "version")),
			    HOLDFAST_VERSION);
	assert_string_equal(json_string_value(json_object_get(j, "role")),
			    "leader");
	assert_string_equal(json_string_value(json_object_get(j, "cluster_id")),
			    "30313233343536373839616263646566");
	assert_int_equal(json_integer_value(json_object_get(j, "epoch")), 3);
	json_decref(j);
	assert_int_equal(get("/api/v1/nothing"), 404);
	assert_int_equal(get("/"), 404);
	end();
}

/* Every sample belongs to the family named last, names are in order, and a
 * family appears once. */
static void check_exposition(void)
{
	char family[128] = "", seen[20000] = "", *rest, *line;
	char *text = strdup(body_of());

	for (rest = text; (line = strsep(&rest, "\n"));) {
		char name[128], type[32];

		if (!strncmp(line, "# HELP ", 7)) {
			assert_int_equal(sscanf(line + 7, "%127s", family), 1);
			snprintf(name, sizeof(name), " %.120s ", family);
			if (strstr(seen, name))
				fail_msg("%s is there twice", family);
			strcat(seen, name);
		} else if (!strncmp(line, "# TYPE ", 7)) {
			assert_int_equal(
				sscanf(line + 7, "%127s %31s", name, type), 2);
			assert_string_equal(name, family);
			assert_int_equal(
				!strcmp(type, "counter"),
				strlen(name) > 6 &&
					!strcmp(name + strlen(name) - 6,
						"_total"));
		} else if (line[0]) {
			if (strncmp(line, family, strlen(family)))
				fail_msg("%s in family %s", line, family);
			assert_non_null(strrchr(line, ' '));
		}
	}
	free(text);
}

TEST("damage is listed with the names of its queues")
{
	json_t *j, *rows, *row;

	begin();
	cast.queue_count = 4;
	fake_damage[0] = (struct store_damage){
		.queue = 2,
		.first_ref = record_ref(4, 17),
		.last_ref = record_ref(4, 19),
		.file = "extents/00000001-00000002.ext",
		.offset = 4096,
		.bytes = 65568,
		.err = -E_CORRUPT,
		.found_ms = 5,
	};
	fake_damage[1] = (struct store_damage){
		.first_lsn = 7, .last_lsn = 9, .err = -EIO};
	fake_damage_count = 2;
	assert_int_equal(get("/api/v1/damage"), 200);
	fake_damage_count = 0;
	j = json();
	rows = json_object_get(j, "damage");
	assert_int_equal(json_array_size(rows), 2);
	row = json_array_get(rows, 0);
	assert_string_equal(json_string_value(json_object_get(row, "queue")),
			    "q00002");
	assert_int_equal(json_integer_value(json_object_get(row, "priority")),
			 4);
	assert_int_equal(
		json_integer_value(json_object_get(row, "first_number")), 17);
	assert_int_equal(
		json_integer_value(json_object_get(row, "last_number")), 19);
	assert_string_equal(json_string_value(json_object_get(row, "file")),
			    "extents/00000001-00000002.ext");
	row = json_array_get(rows, 1);
	assert_true(json_is_null(json_object_get(row, "queue")));
	assert_int_equal(json_integer_value(json_object_get(row, "last_lsn")),
			 9);
	json_decref(j);
	assert_int_equal(post("/api/v1/damage", NULL), 405);
	end();
}

TEST("a round of scrubbing is begun by asking, and only by those who may")
{
	begin();
	scrubs = 0;
	assert_int_equal(get("/api/v1/scrub"), 405);
	assert_int_equal(ask("POST /api/v1/scrub", "", NULL), 403);
	assert_int_equal(scrubs, 0);
	assert_int_equal(post("/api/v1/scrub", NULL), 202);
	assert_int_equal(scrubs, 1);
	end();
}

TEST("the store's numbers are given as they are")
{
	json_t *j;

	begin();
	fake_store_stats.extent_files = 12;
	fake_store_stats.damage = 3;
	fake_store_stats.scrub_rounds = 2;
	assert_int_equal(get("/api/v1/store"), 200);
	j = json();
	assert_int_equal(json_integer_value(json_object_get(j, "extent_files")),
			 12);
	assert_int_equal(json_integer_value(json_object_get(j, "damage")), 3);
	assert_int_equal(json_integer_value(json_object_get(
				 json_object_get(j, "scrub"), "rounds")),
			 2);
	json_decref(j);
	assert_int_equal(get("/metrics"), 200);
	says("\nholdfast_damage_places 3\n");
	says("\nholdfast_store_extent_files 12\n");
	says("\nholdfast_scrub_rounds_total 2\n");
	end();
}

TEST("the metrics are a well-formed exposition")
{
	begin();
	cast.queue_count = 3;
	cast.strange_name = "a\"b\\c\nd";
	assert_int_equal(get("/metrics"), 200);
	assert_non_null(strcasestr(reply, "text/plain; version=0.0.4"));
	check_exposition();
	says("holdfast_published_total 12\n");
	says("holdfast_queue_messages{queue=\"a\\\"b\\\\c\\nd\"} 0\n");
	says("holdfast_queue_messages{queue=\"q00002\"} 2\n");
	says("holdfast_io_engine_info{engine=\"threads\",reason=\"because of "
	     "\\\"tests\\\"\"} 1\n");
	says("process_resident_memory_bytes ");
	end();
}

TEST("the latency histogram is cumulative and complete")
{
	begin();
	atomic_store(&fake_log_stats.commit_us[3], 5);
	atomic_store(&fake_log_stats.commit_us[10], 2);
	atomic_store(&fake_log_stats.commit_us[31], 1);
	atomic_store(&fake_log_stats.commit_us_total, 2500000);
	assert_int_equal(get("/metrics"), 200);
	says("holdfast_journal_commit_seconds_bucket{le=\"6.4e-05\"} 5\n");
	says("holdfast_journal_commit_seconds_bucket{le=\"0.000512\"} 5\n");
	says("holdfast_journal_commit_seconds_bucket{le=\"0.001024\"} 7\n");
	says("holdfast_journal_commit_seconds_bucket{le=\"+Inf\"} 8\n");
	says("holdfast_journal_commit_seconds_sum 2.500000\n");
	says("holdfast_journal_commit_seconds_count 8\n");
	end();
}

TEST("series per queue are capped, temporary or not")
{
	char name[64];

	begin();
	cast.queue_count = 600;
	assert_int_equal(get("/metrics"), 200);
	says("holdfast_queues 600\n");
	says("holdfast_queue_messages{queue=\"q00499\"}");
	snprintf(name, sizeof(name), "queue=\"q%05u\"", 500);
	assert_null(strstr(body_of(), name));
	end();
}

/* ---- HTTP itself ---- */

TEST("one connection carries several requests")
{
	static const char text[] = "GET /health/live HTTP/1.1\r\n"
				   "Host: 127.0.0.1\r\n\r\n";
	int fd;

	begin();
	fd = dial();
	for (int i = 0; i < 5; i++) {
		say(fd, text, sizeof(text) - 1);
		assert_int_equal(hear(fd), 200);
	}
	close(fd);
	end();
}

TEST("a body in pieces is put together")
{
	static const char head[] =
		"POST /api/v1/queues HTTP/1.1\r\n"
		"Host: 127.0.0.1\r\n" GUARD "Content-Length: 12\r\n\r\n";
	static const char body[] = "{\"name\":\"a\"}";
	int fd;

	begin();
	fd = dial();
	say(fd, head, sizeof(head) - 1);
	for (size_t i = 0; i < sizeof(body) - 1; i++)
		say(fd, body + i, 1);
	assert_int_equal(hear(fd), 201);
	assert_string_equal(cast.name, "a");
	close(fd);
	end();
}

TEST("what is too large, too long or not HTTP ends only its own connection")
{
	static const char *const texts[] = {
		"\r\n\r\n\r\n",
		"AMQP\0\1\0\0",
		"GET\r\n\r\n",
		"GET /metrics HTTP/9.9\r\nHost: a\r\n\r\n",
		"POST /api/v1/queues HTTP/1.1\r\nHost: 127.0.0.1\r\n"
		"X-Holdfast: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
		"5\r\nabcde\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n"
		"Connection: Upgrade, HTTP2-Settings\r\n"
		"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
		"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	};
	static char junk[20000];

	begin();
	for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
		int fd = dial();

		say(fd, texts[i], strlen(texts[i]));
		shutdown(fd, SHUT_WR);
		while (recv(fd, junk, sizeof(junk), 0) > 0)
			;
		close(fd);
		assert_int_equal(get("/health/live"), 200);
	}
	memset(junk, 'a', sizeof(junk));
	memcpy(junk, "GET /", 5);
	for (size_t len = 4000; len < sizeof(junk); len += 5000) {
		int fd = dial();

		(void)!send(fd, junk, len, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		while (recv(fd, junk + 100, 1000, 0) > 0)
			;
		close(fd);
		assert_int_equal(get("/health/live"), 200);
	}
	assert_int_equal(ask("POST /api/v1/queues",
			     GUARD "Content-Length: 70000\r\n", NULL),
			 413);
	assert_int_equal(cast.commands, 0);
	end();
}

TEST("more connections than there is room for do not harm those that are")
{
	int fds[100], live = 0;

	begin();
	for (size_t i = 0; i < ARRAY_COUNT(fds); i++)
		fds[i] = dial();
	for (size_t i = 0; i < ARRAY_COUNT(fds); i++)
		close(fds[i]);
	/* Places become free as soon as the thread has seen the closings. */
	for (int i = 0; i < 1000 && !live; i++) {
		int fd = dial();

		say(fd, "GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		    46);
		live = hear(fd) == 200;
		close(fd);
	}
	assert_true(live);
	end();
}

TEST("an address that is taken is refused with a reason")
{
	struct admin_options options = {.address = "127.0.0.1"};
	struct admin *second = NULL;
	const char *why = "";

	begin();
	options.port = admin_port(admin);
	options.io = (struct io *)&cast;
	assert_int_equal(admin_create(&options, &second, &why), -EADDRINUSE);
	assert_string_equal(why, "the address or port is not free");
	end();
}

TEST_MAIN()
