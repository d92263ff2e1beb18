/* tests/unit/admin_rig.h: an admin with its core, store, journal and loops
 * played by this file, and a client on a real socket. */
#ifndef TESTS_UNIT_ADMIN_RIG_H
#define TESTS_UNIT_ADMIN_RIG_H

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include "base/json.h"
#include "broker/admin/admin.h"
#include "tests/unit/test.h"

/* ---- the cast ---- */

static struct {
	unsigned queue_count;
	const char *strange_name; /* of queue 0 */
	/* the last command */
	enum core_command_kind kind;
	char name[256], address[256];
	uint8_t routing;
	unsigned commands;
	int answer; /* what done() is told */
	uint64_t count;
	struct core_command *held; /* instead of done(), when hold is set */
	bool hold;
	uint64_t now_ns, heartbeat_ns;
	bool waiting;
	bool space;
	unsigned verified;
	const char *password;
	const char *role;
	bool blind; /* it has not seen its storage for long */
	unsigned stepped_down;
} cast;

static struct store_damage fake_damage[2];
static unsigned fake_damage_count, scrubs;
static struct log_stats fake_log_stats;
static struct store_stats fake_store_stats;

void crypto_zero(void *buf, size_t len)
{
	explicit_bzero(buf, len);
}

/* FNV-1a is enough to tell one header from another. */
void crypto_hash(uint8_t ret[CRYPTO_HASH_BYTES], const struct iovec *parts,
		 int part_count)
{
	uint64_t hash = 1469598103934665603ull;

	for (int i = 0; i < part_count; i++)
		for (size_t k = 0; k < parts[i].iov_len; k++)
			hash = (hash ^
				((const uint8_t *)parts[i].iov_base)[k]) *
			       1099511628211ull;
	memset(ret, 0, CRYPTO_HASH_BYTES);
	memcpy(ret, &hash, sizeof(hash));
}

uint64_t io_now_ns(struct io *io)
{
	return cast.now_ns;
}

uint64_t io_wall_ms(struct io *io)
{
	return 1700000000000ull;
}

void io_random(struct io *io, void *buf, size_t len)
{
	memset(buf, 7, len);
}

const char *io_engine_name(const struct io *io)
{
	return "threads";
}

int io_fs_info(struct io *io, const char *path, struct io_fs *ret)
{
	*ret = (struct io_fs){.bytes_total = 1000, .bytes_free = 400};
	return 0;
}

uint64_t loop_heartbeat_ns(const struct loop *loop, int *ret_waiting)
{
	*ret_waiting = cast.waiting;
	return cast.heartbeat_ns;
}

const char *loop_name(const struct loop *loop)
{
	return "shard-0";
}

uint64_t log_backlog_bytes(const struct log *log)
{
	return 42;
}

int log_has_space(const struct log *log)
{
	return cast.space;
}

uint32_t log_epoch(const struct log *log)
{
	return 3;
}

const uint8_t *log_cluster_id(const struct log *log)
{
	return (const uint8_t *)"0123456789abcdef";
}

const struct log_stats *log_stats(const struct log *log)
{
	return &fake_log_stats;
}

const struct store_stats *store_stats(const struct store *store)
{
	return &fake_store_stats;
}

bool store_is_behind(const struct store *store)
{
	return false;
}

void store_scrub_now(struct store *store)
{
	scrubs++;
}

int store_each_damage(struct store *store,
		      int (*each)(void *ctx, const struct store_damage *),
		      void *ctx)
{
	int err = 0;

	for (unsigned i = 0; !err && i < fake_damage_count; i++)
		err = each(ctx, &fake_damage[i]);
	return err;
}

unsigned core_shard_count(const struct core *core)
{
	return 2;
}

void core_stats(struct core *core, struct core_stats *ret)
{
	*ret = (struct core_stats){.queues = cast.queue_count, .published = 12};
}

static void make_queue(unsigned i, struct queue_info *q)
{
	*q = (struct queue_info){.id = i,
				 .routing = RECORD_ANYCAST,
				 .messages = i,
				 .enqueued = 10,
				 .paused = i == 1};
	if (!i && cast.strange_name)
		snprintf(q->name, sizeof(q->name), "%s", cast.strange_name);
	else
		snprintf(q->name, sizeof(q->name), "q%05u", i);
	snprintf(q->address, sizeof(q->address), "%s", q->name);
}

int core_each_queue(struct core *core,
		    int (*each)(void *ctx, const struct queue_info *),
		    void *ctx)
{
	struct queue_info q;
	int stop = 0;

	for (unsigned i = 0; i < cast.queue_count && !stop; i++) {
		make_queue(i, &q);
		stop = each(ctx, &q);
	}
	return stop;
}

int core_queue_info(struct core *core, const char *name, struct queue_info *ret)
{
	for (unsigned i = 0; i < cast.queue_count; i++) {
		make_queue(i, ret);
		if (!strcmp(ret->name, name))
			return 0;
	}
	return -E_NOT_FOUND;
}

static void *finish_command(void *arg)
{
	struct core_command *c = arg;

	c->ret_count = cast.count;
	c->done(c, cast.answer);
	return NULL;
}

void core_execute(struct core *core, struct core_command *c)
{
	pthread_t thread;

	cast.kind = c->kind;
	cast.routing = c->routing;
	cast.commands++;
	snprintf(cast.name, sizeof(cast.name), "%s", c->name);
	snprintf(cast.address, sizeof(cast.address), "%s",
		 c->address ? c->address : "");
	if (cast.hold) {
		cast.held = c;
		return;
	}
	if (!pthread_create(&thread, NULL, finish_command, c))
		pthread_detach(thread);
}

static bool allow(void *ctx, const char *user, const char *password)
{
	cast.verified++;
	return !strcmp(user, "ann") && !strcmp(password, cast.password);
}

static void cluster(void *ctx, struct admin_cluster *ret)
{
	*ret = (struct admin_cluster){
		.role = cast.role,
		.node = "here",
		.healthy = !cast.blind,
		.epoch = 3,
		.leader_node = "there",
		.leader_url = "http://there:1",
		.leader_silence_ns = 500000000,
		.applied_lsn = 10,
		.seen_lsn = 14,
		.behind_ns = 2000000000,
		.looked_ns = 30000000000,
	};
	/* Standing by it has no label, so that both can be seen. */
	if (!strcmp(cast.role, "leader"))
		ret->label = (struct admin_label){
			.on = true,
			.in_sync = true,
			.requests = 5,
			.last_success_ms = 1500,
			.failure_count = 2,
			.failure_names = {"timed-out", "forbidden"},
			.failures = {2, 0},
		};
}

static void step_down(void *ctx)
{
	cast.stepped_down++;
}

/* ---- a client ---- */

static struct admin *admin;
static char reply[4 << 20];
static size_t reply_len;

static void begin_as(bool serving)
{
	static struct loop *const loops[] = {(struct loop *)&cast};
	struct admin_options options = {
		.address = "127.0.0.1",
		.io = (struct io *)&cast,
		.log = (struct log *)&cast,
		.store = (struct store *)&cast,
		.engine_reason = "because of \"tests\"",
		.data_dir = "/data",
		.command_ms = 200,
		.allow = allow,
		.cluster = cluster,
		.step_down = step_down,
	};
	struct admin_broker broker = {
		.core = (struct core *)&cast,
		.loops = loops,
		.loop_count = 1,
	};
	const char *why = "";

	memset(&cast, 0, sizeof(cast));
	cast.now_ns = 100000000000ull;
	cast.heartbeat_ns = cast.now_ns;
	cast.space = true;
	cast.password = "secret";
	cast.role = serving ? "leader" : "standby";
	if (admin_create(&options, &admin, &why))
		fail_msg("%s", why);
	if (serving)
		admin_serve(admin, &broker);
	admin_set_state(admin, serving ? ADMIN_READY : ADMIN_STANDBY);
}

static void begin(void)
{
	begin_as(true);
}

static void end(void)
{
	admin_free(admin);
	admin = NULL;
}

static int dial(void)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(admin_port(admin)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	struct timeval patience = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static void say(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		assert_true(n > 0);
		text += n;
		len -= (size_t)n;
	}
}

/* One whole answer, by its Content-Length; returns the status, 0 at the end of
 * the connection. */
static int hear(int fd)
{
	size_t want = 0;
	char *body;

	for (reply_len = 0;;) {
		ssize_t n;

		reply[reply_len] = '\0';
		body = strstr(reply, "\r\n\r\n");
		if (body) {
			const char *l = strcasestr(reply, "content-length:");

			assert_non_null(l);
			want = (size_t)(body + 4 - reply) +
			       strtoul(l + 15, NULL, 10);
			if (reply_len >= want)
				break;
		}
		n = recv(fd, reply + reply_len, sizeof(reply) - 1 - reply_len,
			 0);
		if (n <= 0)
			return 0;
		reply_len += (size_t)n;
	}
	assert_int_equal(reply_len, want);
	return atoi(reply + 9);
}

static const char *body_of(void)
{
	return strstr(reply, "\r\n\r\n") + 4;
}

static int ask(const char *line, const char *headers, const char *body)
{
	char text[8192];
	int len, status, fd = dial();

	len = snprintf(text, sizeof(text), "%s HTTP/1.1\r\n%s%s", line,
		       strstr(headers, "Host:") ? "" : "Host: 127.0.0.1\r\n",
		       headers);
	if (body)
		len += snprintf(text + len, sizeof(text) - (size_t)len,
				"Content-Length: %zu\r\n\r\n%s", strlen(body),
				body);
	else
		len += snprintf(text + len, sizeof(text) - (size_t)len, "\r\n");
	say(fd, text, (size_t)len);
	status = hear(fd);
	close(fd);
	return status;
}

#define GUARD "X-Holdfast: 1\r\n"

static int get(const char *path)
{
	char line[4096];

	snprintf(line, sizeof(line), "GET %s", path);
	return ask(line, "", NULL);
}

static int post(const char *path, const char *body)
{
	char line[4096];

	snprintf(line, sizeof(line), "POST %s", path);
	return ask(line, GUARD, body);
}

static json_t *json(void)
{
	json_error_t why;
	json_t *j = json_loads(body_of(), 0, &why);

	if (!j)
		fail_msg("%s in %s", why.text, body_of());
	return j;
}

static void says(const char *part)
{
	if (!strstr(body_of(), part))
		fail_msg("no %s in %s", part, body_of());
}

#endif
