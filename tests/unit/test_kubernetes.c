/* tests/unit/test_kubernetes.c: the leadership label: what is asked of the
 * API next, what a pod's answer means, and the thread where there is no API.
 * Against a server: tests/interop/check_kubernetes.py. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "base/json.h"
#include "base/logger.h"
#include "replication/kubernetes.h"
#include "replication/kubernetes_plan.h"
#include "replication/kubernetes_pod.h"

#define OK KUBERNETES_FAILURE_COUNT
#define LEVEL_MS 10000u

/* ---- pods ---- */

static struct kubernetes_pod parse(const char *labels, const char *annotations)
{
	struct kubernetes_pod pod;
	char text[1024];

	snprintf(text, sizeof(text),
		 "{\"kind\":\"Pod\",\"metadata\":{\"resourceVersion\":\"7\","
		 "\"labels\":%s,\"annotations\":%s},\"spec\":{\"x\":[1]}}",
		 labels, annotations);
	assert_int_equal(kubernetes_pod_parse(text, strlen(text), &pod), 0);
	return pod;
}

static struct kubernetes_pod yes(uint64_t epoch)
{
	char annotations[64];

	snprintf(annotations, sizeof(annotations),
		 "{\"holdfast/epoch\":\"%" PRIu64 "\"}", epoch);
	return parse("{\"leader\":\"yes\",\"app\":\"b\"}", annotations);
}

static struct kubernetes_pod no(void)
{
	return parse("{\"leader\":\"no\"}", "null");
}

TEST("a pod's label and epoch are read, and what is not ours is epoch 0")
{
	static const char *const strange[] = {
		"", "x", "-1", "007", "7 ", "0x7", "99999999999999999999"};
	struct kubernetes_pod pod = yes(42);
	char annotations[128];

	assert_int_equal(pod.label, KUBERNETES_POD_YES);
	assert_int_equal(pod.epoch, 42);
	assert_true(pod.annotated);
	assert_string_equal(pod.version, "7");
	assert_int_equal(no().label, KUBERNETES_POD_NO);
	assert_false(no().annotated);
	assert_int_equal(parse("null", "null").label,
			 KUBERNETES_POD_UNLABELLED);
	assert_int_equal(parse("{\"leader\":\"maybe\"}", "{}").label,
			 KUBERNETES_POD_OTHER);
	for (size_t i = 0; i < ARRAY_COUNT(strange); i++) {
		snprintf(annotations, sizeof(annotations),
			 "{\"holdfast/epoch\":\"%s\"}", strange[i]);
		pod = parse("{\"leader\":\"yes\"}", annotations);
		assert_int_equal(pod.epoch, 0);
		assert_true(pod.annotated);
		assert_string_equal(pod.epoch_text, strange[i]);
	}
}

TEST("an answer that is not a pod is refused and leaves the output alone")
{
	static const char *const wrong[] = {
		"",
		"{",
		"[]",
		"null",
		"\"Pod\"",
		"{\"kind\":\"Status\",\"metadata\":{\"resourceVersion\":\"1\"}"
		"}",
		"{\"kind\":\"Pod\"}",
		"{\"kind\":\"Pod\",\"metadata\":{\"resourceVersion\":7}}",
		"{\"kind\":\"Pod\",\"metadata\":{\"resourceVersion\":\"7\","
		"\"annotations\":{\"holdfast/epoch\":7}}}",
		"{\"kind\":\"Pod\",\"metadata\":{\"resourceVersion\":"
		"\"012345678"
		"9012345678901234567890123456789012345678901234567890123\"}}",
	};
	struct kubernetes_pod pod = {.epoch = 5};

	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
		assert_int_equal(
			kubernetes_pod_parse(wrong[i], strlen(wrong[i]), &pod),
			-E_CORRUPT);
		assert_int_equal(pod.epoch, 5);
	}
}

TEST("only a label of an earlier epoch, or of none, is stale")
{
	struct kubernetes_pod bare = parse("{\"leader\":\"yes\"}", "null");
	struct kubernetes_pod was = yes(6), now = yes(7), next = yes(8);
	struct kubernetes_pod not = no();

	assert_true(kubernetes_pod_is_stale(&was, 7));
	assert_true(kubernetes_pod_is_stale(&bare, 7));
	assert_false(kubernetes_pod_is_stale(&now, 7));
	assert_false(kubernetes_pod_is_stale(&next, 7));
	assert_false(kubernetes_pod_is_stale(&not, 7));
	assert_true(kubernetes_pod_is(&now, true, 7));
	assert_false(kubernetes_pod_is(&was, true, 7));
	assert_false(kubernetes_pod_is(&now, false, 7));
	assert_true(kubernetes_pod_is(&not, false, 7));
}

static void is_json(char *text, const char *want)
{
	assert_non_null(text);
	assert_string_equal(text, want);
	free(text);
}

TEST("the patches say what must still be so, and what shall be")
{
	struct kubernetes_pod bare = parse("{\"leader\":\"yes\"}", "null");
	struct kubernetes_pod seen = yes(6);

	is_json(kubernetes_pod_own_yes(&seen, 7, 1234),
		"{\"metadata\":{\"resourceVersion\":\"7\",\"labels\":{"
		"\"leader\":\"yes\"},\"annotations\":{\"holdfast/epoch\":\"7\","
		"\"holdfast/since\":\"1970-01-01T00:00:01.234Z\"}}}");
	is_json(kubernetes_pod_own_no(1234),
		"{\"metadata\":{\"labels\":{\"leader\":\"no\"},\"annotations\":"
		"{\"holdfast/since\":\"1970-01-01T00:00:01.234Z\"}}}");
	is_json(kubernetes_pod_peer_no(&seen),
		"[{\"op\":\"test\",\"path\":\"/metadata/labels/leader\","
		"\"value\":\"yes\"},{\"op\":\"test\",\"path\":"
		"\"/metadata/annotations/holdfast~1epoch\",\"value\":\"6\"},"
		"{\"op\":\"replace\",\"path\":\"/metadata/labels/leader\","
		"\"value\":\"no\"}]");
	is_json(kubernetes_pod_peer_no(&bare),
		"[{\"op\":\"test\",\"path\":\"/metadata/labels/leader\","
		"\"value\":\"yes\"},{\"op\":\"test\",\"path\":"
		"\"/metadata/resourceVersion\",\"value\":\"7\"},"
		"{\"op\":\"replace\",\"path\":\"/metadata/labels/leader\","
		"\"value\":\"no\"}]");
}

TEST("a name is one that needs no escaping in a URL")
{
	static const char *const wrong[] = {"",	   "A",	   "a/b",  "a b", "-a",
					    "a-",  "a_b",  "a%2f", ".",	  "a?b",
					    "a#b", "a\nb", "../a"};

	assert_true(kubernetes_pod_name_is_valid("broker-0"));
	assert_true(kubernetes_pod_name_is_valid("a.b-c.0"));
	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
		assert_false(kubernetes_pod_name_is_valid(wrong[i]));
}

/* ---- the plan ---- */

static struct kubernetes_plan plan;
static uint64_t at_ms;

static void begin(unsigned peers)
{
	at_ms = 1000000;
	kubernetes_plan_init(&plan, peers, LEVEL_MS);
}

static struct kubernetes_plan_step next(void)
{
	return kubernetes_plan_next(&plan, at_ms);
}

static struct kubernetes_plan_step expect(enum kubernetes_plan_act act,
					  unsigned target)
{
	struct kubernetes_plan_step step = next();

	assert_int_equal(step.act, act);
	assert_int_equal(step.target, target);
	return step;
}

static void done(const struct kubernetes_plan_step *step,
		 const struct kubernetes_plan_outcome *o)
{
	kubernetes_plan_done(&plan, step, o, at_ms, 0);
}

static void sees(enum kubernetes_plan_act act, unsigned target,
		 struct kubernetes_pod pod)
{
	struct kubernetes_plan_step step = expect(act, target);

	done(&step,
	     &(struct kubernetes_plan_outcome){.failure = OK, .pod = pod});
}

static void fails(enum kubernetes_plan_act act, unsigned target,
		  enum kubernetes_failure failure)
{
	struct kubernetes_plan_step step = expect(act, target);

	done(&step, &(struct kubernetes_plan_outcome){.failure = failure});
}

/* The wait is ms long; time passes. */
static void waits(uint64_t ms)
{
	struct kubernetes_plan_step step = expect(KUBERNETES_PLAN_WAIT, 0);

	assert_int_equal(step.until_ms - at_ms, ms);
	at_ms = step.until_ms;
}

/* One that leads epoch 7, with its label in place. */
static void lead(unsigned peers)
{
	begin(peers);
	sees(KUBERNETES_PLAN_WRITE, 0, no());
	kubernetes_plan_want(&plan, true, 7, at_ms);
	sees(KUBERNETES_PLAN_READ, 0, no());
	sees(KUBERNETES_PLAN_WRITE, 0, yes(7));
	assert_true(kubernetes_plan_in_sync(&plan));
}

TEST("at the start `no` is written without looking, then looked at by level")
{
	begin(2);
	assert_false(kubernetes_plan_in_sync(&plan));
	sees(KUBERNETES_PLAN_WRITE, 0, no());
	assert_true(kubernetes_plan_in_sync(&plan));
	assert_true(kubernetes_plan_is_settled(&plan));
	for (int i = 0; i < 3; i++) {
		waits(LEVEL_MS);
		/* One that does not lead leaves its peers alone. */
		sees(KUBERNETES_PLAN_READ, 0, no());
	}
}

TEST("a leader looks, labels itself, then looks at its peers, again and again")
{
	lead(2);
	assert_false(kubernetes_plan_is_settled(&plan));
	sees(KUBERNETES_PLAN_READ, 1, no());
	sees(KUBERNETES_PLAN_READ, 2, no());
	assert_true(kubernetes_plan_is_settled(&plan));
	waits(LEVEL_MS);
	sees(KUBERNETES_PLAN_READ, 0, yes(7));
	sees(KUBERNETES_PLAN_READ, 1, no());
	sees(KUBERNETES_PLAN_READ, 2, no());
	waits(LEVEL_MS);
}

TEST("a stale peer is corrected, a newer one and an equal one are not")
{
	lead(3);
	sees(KUBERNETES_PLAN_READ, 1, yes(6));
	sees(KUBERNETES_PLAN_WRITE, 1, no());
	sees(KUBERNETES_PLAN_READ, 2, yes(8));
	sees(KUBERNETES_PLAN_READ, 3, yes(7));
	waits(LEVEL_MS);
}

TEST("a peer that changed between look and patch is looked at again")
{
	lead(1);
	sees(KUBERNETES_PLAN_READ, 1, yes(6));
	fails(KUBERNETES_PLAN_WRITE, 1, KUBERNETES_CONFLICT);
	/* At once the first time, and with patience when it goes on. */
	sees(KUBERNETES_PLAN_READ, 1, yes(6));
	fails(KUBERNETES_PLAN_WRITE, 1, KUBERNETES_CONFLICT);
	waits(400);
	sees(KUBERNETES_PLAN_READ, 1, yes(9));
	assert_true(kubernetes_plan_is_settled(&plan));
	waits(LEVEL_MS - 400);
}

TEST("a label that somebody else has changed is written again")
{
	lead(0);
	waits(LEVEL_MS);
	sees(KUBERNETES_PLAN_READ, 0, no());
	assert_false(kubernetes_plan_in_sync(&plan));
	sees(KUBERNETES_PLAN_WRITE, 0, yes(7));
	waits(LEVEL_MS);
	sees(KUBERNETES_PLAN_READ, 0, yes(6));
	sees(KUBERNETES_PLAN_WRITE, 0, yes(7));
	kubernetes_plan_want(&plan, false, 0, at_ms);
	sees(KUBERNETES_PLAN_WRITE, 0, no());
	waits(LEVEL_MS);
	sees(KUBERNETES_PLAN_READ, 0, yes(7));
	sees(KUBERNETES_PLAN_WRITE, 0, no());
}

TEST("a `yes` that met a changed pod is decided anew, never repeated blindly")
{
	begin(0);
	kubernetes_plan_want(&plan, true, 7, at_ms);
	sees(KUBERNETES_PLAN_READ, 0, no());
	fails(KUBERNETES_PLAN_WRITE, 0, KUBERNETES_CONFLICT);
	sees(KUBERNETES_PLAN_READ, 0, no());
	fails(KUBERNETES_PLAN_WRITE, 0, KUBERNETES_TIMED_OUT);
	waits(200);
	sees(KUBERNETES_PLAN_READ, 0, yes(7)); /* it had arrived */
	assert_true(kubernetes_plan_in_sync(&plan));
}

TEST("while the API is away it is asked ever less, and a change asks at once")
{
	static const uint64_t waits_ms[] = {200,  400,	800,   1600,
					    3200, 6400, 10000, 10000};
	static const enum kubernetes_failure away[] = {
		KUBERNETES_UNREACHABLE,	   KUBERNETES_TIMED_OUT,
		KUBERNETES_UNTRUSTED,	   KUBERNETES_UNAUTHORIZED,
		KUBERNETES_NO_CREDENTIALS, KUBERNETES_SERVER_ERROR,
		KUBERNETES_THROTTLED,
	};

	for (size_t f = 0; f < ARRAY_COUNT(away); f++) {
		begin(1);
		for (size_t i = 0; i < ARRAY_COUNT(waits_ms); i++) {
			fails(KUBERNETES_PLAN_WRITE, 0, away[f]);
			waits(waits_ms[i]);
		}
		fails(KUBERNETES_PLAN_WRITE, 0, away[f]);
		kubernetes_plan_want(&plan, true, 7, at_ms);
		fails(KUBERNETES_PLAN_READ, 0, away[f]);
		waits(200);
		sees(KUBERNETES_PLAN_READ, 0, no());
		fails(KUBERNETES_PLAN_WRITE, 0, away[f]);
		waits(200);
	}
}

TEST("what is forbidden for one pod does not keep the others waiting")
{
	lead(2);
	fails(KUBERNETES_PLAN_READ, 1, KUBERNETES_FORBIDDEN);
	sees(KUBERNETES_PLAN_READ, 2, yes(3));
	sees(KUBERNETES_PLAN_WRITE, 2, no());
	assert_true(kubernetes_plan_in_sync(&plan));
	assert_false(kubernetes_plan_is_settled(&plan));
	waits(200);
	fails(KUBERNETES_PLAN_READ, 1, KUBERNETES_FORBIDDEN);
	waits(400);
	sees(KUBERNETES_PLAN_READ, 1, no());
	assert_true(kubernetes_plan_is_settled(&plan));
}

TEST("a leader that may not label itself leaves its peers alone")
{
	begin(1);
	kubernetes_plan_want(&plan, true, 7, at_ms);
	sees(KUBERNETES_PLAN_READ, 0, no());
	fails(KUBERNETES_PLAN_WRITE, 0, KUBERNETES_FORBIDDEN);
	waits(200);
	sees(KUBERNETES_PLAN_READ, 0, no());
	sees(KUBERNETES_PLAN_WRITE, 0, yes(7));
	sees(KUBERNETES_PLAN_READ, 1, yes(6));
	sees(KUBERNETES_PLAN_WRITE, 1, no());
}

TEST("a pod that is gone is left alone until leadership changes")
{
	lead(1);
	sees(KUBERNETES_PLAN_READ, 1, no());
	waits(LEVEL_MS);
	fails(KUBERNETES_PLAN_READ, 0, KUBERNETES_NOT_FOUND);
	assert_false(kubernetes_plan_in_sync(&plan));
	assert_true(next().act == KUBERNETES_PLAN_WAIT);
	assert_true(next().until_ms == UINT64_MAX);
	at_ms += 1000 * LEVEL_MS;
	assert_true(next().act == KUBERNETES_PLAN_WAIT);
	kubernetes_plan_want(&plan, false, 0, at_ms);
	sees(KUBERNETES_PLAN_WRITE, 0, no());
	assert_true(kubernetes_plan_in_sync(&plan));
}

TEST("a peer that does not exist is no failure")
{
	lead(1);
	fails(KUBERNETES_PLAN_READ, 1, KUBERNETES_NOT_FOUND);
	assert_true(kubernetes_plan_is_settled(&plan));
	waits(LEVEL_MS);
	sees(KUBERNETES_PLAN_READ, 0, yes(7));
	sees(KUBERNETES_PLAN_READ, 1, yes(1));
	fails(KUBERNETES_PLAN_WRITE, 1, KUBERNETES_NOT_FOUND);
	waits(LEVEL_MS);
}

static void throttled(uint64_t retry_after_ms)
{
	struct kubernetes_plan_step step = next();

	assert_true(step.act != KUBERNETES_PLAN_WAIT);
	done(&step, &(struct kubernetes_plan_outcome){
			    .failure = KUBERNETES_THROTTLED,
			    .has_retry_after = true,
			    .retry_after_ms = retry_after_ms});
}

TEST("Retry-After is honoured up to a bound, also when leadership changes")
{
	lead(0);
	waits(LEVEL_MS);
	throttled(5000);
	kubernetes_plan_want(&plan, false, 0, at_ms);
	waits(5000);
	throttled(86400000);
	waits(KUBERNETES_PLAN_RETRY_AFTER_MS_MAX);
	/* Less than our own patience does not count. */
	throttled(1);
	waits(400);
	sees(KUBERNETES_PLAN_WRITE, 0, no());
}

TEST("a write that was answered with something else is a failure")
{
	begin(0);
	sees(KUBERNETES_PLAN_WRITE, 0, yes(3));
	assert_false(kubernetes_plan_in_sync(&plan));
	waits(200);
	sees(KUBERNETES_PLAN_WRITE, 0, no());
	assert_true(kubernetes_plan_in_sync(&plan));
}

TEST("a request that was given up counts as nothing")
{
	struct kubernetes_plan_step step;

	begin(0);
	kubernetes_plan_want(&plan, true, 7, at_ms);
	sees(KUBERNETES_PLAN_READ, 0, no());
	step = expect(KUBERNETES_PLAN_WRITE, 0);
	done(&step,
	     &(struct kubernetes_plan_outcome){
		     .cancelled = true, .failure = KUBERNETES_UNREACHABLE});
	expect(KUBERNETES_PLAN_READ, 0);
}

TEST("the jitter shortens a wait by up to a half and never more")
{
	uint64_t least = UINT64_MAX, most = 0;

	for (uint32_t random = 0; random < 5000; random++) {
		uint64_t ms = kubernetes_plan_backoff(3, random);

		least = base_min(least, ms);
		most = base_max(most, ms);
	}
	assert_int_equal(least, 400);
	assert_int_equal(most, 800);
	assert_int_equal(kubernetes_plan_backoff(UINT32_MAX, 0), 10000);
	assert_true(kubernetes_plan_backoff(UINT32_MAX, UINT32_MAX) >= 5000);
}

/* ---- the thread, where there is no API ---- */

struct world {
	struct io *io;
	char dir[256];
	int listener;
	char url[64];
	struct kubernetes *kubernetes;
};

static void write_file(const char *dir, const char *name, const char *text)
{
	char path[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* A port that nobody answers at: closed, or of a listener that hangs. */
static void open_port(struct world *w, bool hangs)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	w->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(w->listener, (struct sockaddr *)&at, sizeof(at)),
			 0);
	if (hangs)
		assert_int_equal(listen(w->listener, 16), 0);
	getsockname(w->listener, (struct sockaddr *)&at, &len);
	snprintf(w->url, sizeof(w->url), "https://127.0.0.1:%u",
		 ntohs(at.sin_port));
}

static void world_start(struct world *w, bool hangs)
{
	static const char *const peers[] = {"b-1", "b-2"};
	char why[KUBERNETES_WHY_BYTES];
	const char *reason;
	struct kubernetes_options options;

	logger_configure(LOGGER_ERROR, LOGGER_TEXT);
	snprintf(w->dir, sizeof(w->dir), "%s", test_directory());
	write_file(w->dir, "token", "secret\n");
	write_file(w->dir, "ca.crt", "not a certificate\n");
	write_file(w->dir, "namespace", "default");
	assert_int_equal(io_create(IO_ENGINE_THREADS, &w->io, &reason), 0);
	open_port(w, hangs);
	options = (struct kubernetes_options){
		.io = w->io,
		.api_url = w->url,
		.account_dir = w->dir,
		.pod = "b-0",
		.peers = peers,
		.peer_count = 2,
	};
	assert_int_equal(kubernetes_create(&options, &w->kubernetes, why), 0);
	assert_int_equal(kubernetes_start(w->kubernetes), 0);
}

static void world_end(struct world *w)
{
	kubernetes_free(w->kubernetes);
	io_free(w->io);
	close(w->listener);
}

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

TEST("without an API nobody is kept waiting, and stopping takes a second")
{
	for (int hangs = 0; hangs < 2; hangs++) {
		struct world w;
		uint64_t began;

		world_start(&w, hangs);
		assert_false(kubernetes_wait(w.kubernetes, 50));
		began = clock_ms();
		for (unsigned i = 1; i <= 1000; i++)
			kubernetes_set(w.kubernetes, i % 2, i);
		/* Not one of a thousand calls has waited for a request. */
		assert_true(clock_ms() - began < KUBERNETES_REQUEST_MS);
		kubernetes_set(w.kubernetes, true, 1001);
		assert_false(kubernetes_wait(w.kubernetes, 50));
		assert_true(kubernetes_stats(w.kubernetes)->leader);
		assert_false(kubernetes_stats(w.kubernetes)->in_sync);
		began = clock_ms();
		kubernetes_stop(w.kubernetes);
		/* A slow machine's second is longer. */
		assert_true(clock_ms() - began < 5 * KUBERNETES_STOP_MS);
		assert_true(kubernetes_stats(w.kubernetes)->requests > 0);
		world_end(&w);
	}
}

struct setter {
	pthread_t thread;
	struct kubernetes *kubernetes;
	unsigned seed;
};

static void *set_and_wait(void *arg)
{
	struct setter *s = arg;

	for (unsigned i = 0; i < 200; i++) {
		kubernetes_set(s->kubernetes, i % 2, s->seed + i);
		s->seed += kubernetes_wait(s->kubernetes, i % 3);
	}
	return NULL;
}

TEST("any thread may say who leads, and ask")
{
	struct setter setters[3];
	struct world w;

	world_start(&w, false);
	for (unsigned i = 0; i < ARRAY_COUNT(setters); i++) {
		setters[i] = (struct setter){.kubernetes = w.kubernetes,
					     .seed = 1000 * i};
		assert_int_equal(pthread_create(&setters[i].thread, NULL,
						set_and_wait, &setters[i]),
				 0);
	}
	for (unsigned i = 0; i < ARRAY_COUNT(setters); i++) {
		pthread_join(setters[i].thread, NULL);
		/* Nothing was ever reached. */
		assert_int_equal(setters[i].seed, 1000 * i);
	}
	kubernetes_stop(w.kubernetes);
	assert_true(kubernetes_stats(w.kubernetes)
			    ->failures[KUBERNETES_UNREACHABLE] > 0);
	assert_int_equal(kubernetes_stats(w.kubernetes)->last_success_wall_ms,
			 0);
	world_end(&w);
}

TEST("options that cannot work are refused, and the reason says why")
{
	static const char *const own[] = {"b-0"};
	static const char *const bad[] = {"b_1"};
	char why[KUBERNETES_WHY_BYTES];
	struct kubernetes_options good, o;
	struct kubernetes *k = NULL;
	const char *reason;
	struct io *io;
	char dir[256];

	snprintf(dir, sizeof(dir), "%s", test_directory());
	write_file(dir, "namespace", "default\n");
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	good = (struct kubernetes_options){.io = io,
					   .api_url = "https://127.0.0.1:1/",
					   .account_dir = dir,
					   .pod = "b-0"};
	assert_int_equal(kubernetes_create(&good, &k, why), 0);
	kubernetes_free(k);
	o = good;
	o.api_url = "http://127.0.0.1:1";
	assert_int_equal(kubernetes_create(&o, &k, why), -EINVAL);
	assert_non_null(strstr(why, "https://"));
	o = good;
	o.pod = "B/0";
	assert_int_equal(kubernetes_create(&o, &k, why), -EINVAL);
	assert_non_null(strstr(why, "pod's name"));
	o = good;
	o.peers = own;
	o.peer_count = 1;
	assert_int_equal(kubernetes_create(&o, &k, why), -EINVAL);
	assert_non_null(strstr(why, "own peers"));
	o.peers = bad;
	assert_int_equal(kubernetes_create(&o, &k, why), -EINVAL);
	assert_non_null(strstr(why, "peer's name"));
	write_file(dir, "namespace", "two words");
	assert_int_equal(kubernetes_create(&good, &k, why), -EBADMSG);
	assert_non_null(strstr(why, "service account"));
	o = good;
	o.account_dir = "/nowhere";
	assert_int_equal(kubernetes_create(&o, &k, why), -ENOENT);
	assert_non_null(strstr(why, "/nowhere/namespace"));
	io_free(io);
}

TEST_MAIN()
