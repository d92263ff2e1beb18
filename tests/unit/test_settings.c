/* tests/unit/test_settings.c: the broker's table of settings.  The daemon's
 * files are not in the library, so they are included. */
#include "tests/unit/test.h"

#include "broker/daemon/routing.c"
#include "broker/daemon/settings.c"

static struct config_errors errors;

static struct config *load(const char *const *sets, size_t count)
{
	const struct config_source source = {.sets = sets, .set_count = count};
	struct config *c = NULL;

	errors = (struct config_errors){0};
	if (settings_load(&source, &c, &errors))
		return NULL;
	return c;
}

static void refused(const char *set, const char *with)
{
	struct config *c = load(&set, 1);

	if (c)
		fail_msg("%s was taken", set);
	if (!strstr(errors.text, with))
		fail_msg("%s: \"%s\" does not say \"%s\"", set, errors.text,
			 with);
}

static void is_percent(const char *text, unsigned want)
{
	unsigned percent = 0;

	assert_null(settings_parse_percent(text, &percent));
	assert_int_equal(percent, want);
}

TEST("without any setting the defaults are those of the manual")
{
	struct config *c = load(NULL, 0);
	const struct settings *s;

	assert_non_null(c);
	s = settings_of(c);
	assert_null(s->index_dir);
	is_percent(s->disk_max_use, 90);
	assert_int_equal(s->limits.memory_bytes, 0);
	assert_int_equal(s->store.hot_bytes, 4 * GIB);
	assert_int_equal(s->store.hot_ns, 60 * SECOND);
	assert_int_equal(s->store.extent_bytes, 64 * MIB);
	assert_int_equal(s->scrub.interval_ns, 7 * DAY);
	assert_int_equal(s->scrub.bytes_per_s, 32 * MIB);
	config_free(c);
}

TEST("a share of the disk is a percentage, with its sign or without")
{
	unsigned percent = 7;
	static const char *const wrong[] = {"",	    "0",    "0%",    "101%",
					    "90 %", "-1",   "9e1",   "90%%",
					    "0x10", "1000", "ninety"};

	is_percent("90", 90);
	is_percent("90%", 90);
	is_percent("1%", 1);
	is_percent("100", 100);
	for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
		assert_non_null(settings_parse_percent(wrong[i], &percent));
		assert_int_equal(percent, 7);
	}
	refused("disk_max_use=120%", "percentage");
}

TEST("the store's settings are taken and have bounds")
{
	static const char *const sets[] = {
		"index_dir=/fast/index", "store.hot_size=1GiB",
		"store.hot_time=5m",	 "store.extent_file_size=1MiB",
		"scrub.interval=0",	 "scrub.rate=1MiB",
		"limits.memory=100MiB",	 "disk_max_use=75"};
	struct config *c = load(sets, ARRAY_COUNT(sets));
	const struct settings *s;

	assert_non_null(c);
	s = settings_of(c);
	assert_string_equal(s->index_dir, "/fast/index");
	assert_int_equal(s->store.hot_bytes, GIB);
	assert_int_equal(s->store.hot_ns, 300 * SECOND);
	assert_int_equal(s->store.extent_bytes, MIB);
	assert_int_equal(s->scrub.interval_ns, 0);
	assert_int_equal(s->scrub.bytes_per_s, MIB);
	assert_int_equal(s->limits.memory_bytes, 100 * MIB);
	is_percent(s->disk_max_use, 75);
	config_free(c);
	refused("limits.memory=512KiB", "at least 1MiB");
	refused("store.hot_size=10", "store.hot_size");
	refused("store.extent_file_size=2GiB", "store.extent_file_size");
	refused("scrub.rate=0", "scrub.rate");
}

/* ---- who routes ---- */

static struct routing_choice routing;

/* What is chosen with these settings in a pod whose service account's
 * directory is the test's own. */
static int choose(const char *const *sets, size_t count,
		  const struct routing_env *env, struct config **ret)
{
	const char *all[16];
	char account[300];

	assert_true(count < ARRAY_COUNT(all));
	for (size_t i = 0; i < count; i++)
		all[i] = sets[i];
	snprintf(account, sizeof(account), "kubernetes.service_account=%s",
		 test_directory_path);
	all[count] = account;
	*ret = load(all, count + 1);
	if (!*ret)
		fail_msg("%s", errors.text);
	return routing_choose(settings_of(*ret), env, &routing);
}

static void make_token(void)
{
	char path[300];
	FILE *f;

	test_directory();
	f = fopen(test_path(path, sizeof(path), "token"), "w");
	assert_non_null(f);
	assert_int_equal(fclose(f), 0);
}

static const struct routing_env pod_2 = {"10.96.0.1", "443", "holdfast-2"};

TEST("auto labels where there is a pod's name, an API and a token")
{
	static const struct routing_env nowhere = {0};
	static const struct routing_env nameless = {"10.96.0.1", "443", ""};
	struct config *c;

	make_token();
	assert_int_equal(choose(NULL, 0, &pod_2, &c), 0);
	assert_true(routing.label);
	assert_string_equal(routing.options.api_url, "https://10.96.0.1:443");
	assert_string_equal(routing.options.pod, "holdfast-2");
	assert_string_equal(routing.options.account_dir, test_directory_path);
	assert_int_equal(routing.options.peer_count, 0);
	config_free(c);
	assert_int_equal(choose(NULL, 0, &nowhere, &c), 0);
	assert_false(routing.label);
	assert_non_null(strstr(routing.why, "not a Kubernetes pod"));
	config_free(c);
	assert_int_equal(choose(NULL, 0, &nameless, &c), 0);
	assert_false(routing.label);
	assert_non_null(strstr(routing.why, "POD_NAME"));
	config_free(c);
	test_directory(); /* an empty one */
	assert_int_equal(choose(NULL, 0, &pod_2, &c), 0);
	assert_false(routing.label);
	assert_non_null(strstr(routing.why, "token"));
	config_free(c);
}

TEST("label says what is missing, and none asks for nothing")
{
	static const char *const label[] = {"kubernetes.routing=label"};
	static const char *const none[] = {"kubernetes.routing=none"};
	static const struct routing_env nowhere = {0};
	struct config *c;

	make_token();
	assert_int_equal(choose(label, 1, &pod_2, &c), 0);
	assert_true(routing.label);
	config_free(c);
	assert_int_equal(choose(label, 1, &nowhere, &c), -E_CONFIG);
	assert_false(routing.label);
	assert_non_null(strstr(routing.why, "KUBERNETES_SERVICE_HOST"));
	config_free(c);
	assert_int_equal(choose(none, 1, &pod_2, &c), 0);
	assert_false(routing.label);
	config_free(c);
	test_directory();
	assert_int_equal(choose(label, 1, &pod_2, &c), -E_CONFIG);
	assert_non_null(strstr(routing.why, "token"));
	config_free(c);
}

TEST("what is set goes before the environment, and IPv6 has its brackets")
{
	static const char *const sets[] = {"kubernetes.pod=broker-7",
					   "kubernetes.api=https://[::1]:6443"};
	static const struct routing_env six = {"fd00::1", NULL, "holdfast-2"};
	static const struct routing_env wrong = {"10.0.0.1", "443", "a/../b"};
	struct config *c;

	make_token();
	assert_int_equal(choose(sets, 2, &pod_2, &c), 0);
	assert_string_equal(routing.options.api_url, "https://[::1]:6443");
	assert_string_equal(routing.options.pod, "broker-7");
	config_free(c);
	assert_int_equal(choose(NULL, 0, &six, &c), 0);
	assert_string_equal(routing.options.api_url, "https://[fd00::1]:443");
	config_free(c);
	assert_int_equal(choose(NULL, 0, &wrong, &c), -E_CONFIG);
	assert_non_null(strstr(routing.why, "a/../b"));
	config_free(c);
}

TEST("peers are the StatefulSet's other pods, or those that are named")
{
	static const char *const three[] = {"kubernetes.replicas=3"};
	static const char *const most[] = {"kubernetes.replicas=64"};
	static const char *const named[] = {
		"kubernetes.peers=[a-0, holdfast-2, b.c]"};
	static const struct routing_env odd = {"10.0.0.1", "443", "holdfast"};
	struct config *c;

	make_token();
	assert_int_equal(choose(three, 1, &pod_2, &c), 0);
	assert_int_equal(routing.options.peer_count, 2);
	assert_string_equal(routing.options.peers[0], "holdfast-0");
	assert_string_equal(routing.options.peers[1], "holdfast-1");
	config_free(c);
	assert_int_equal(choose(most, 1, &pod_2, &c), 0);
	assert_int_equal(routing.options.peer_count, KUBERNETES_PEERS_MAX);
	assert_string_equal(routing.options.peers[62], "holdfast-63");
	config_free(c);
	assert_int_equal(choose(named, 1, &pod_2, &c), 0);
	assert_int_equal(routing.options.peer_count, 2);
	assert_string_equal(routing.options.peers[0], "a-0");
	assert_string_equal(routing.options.peers[1], "b.c");
	config_free(c);
	assert_int_equal(choose(three, 1, &odd, &c), -E_CONFIG);
	assert_non_null(strstr(routing.why, "StatefulSet"));
	config_free(c);
}

TEST("settings of Kubernetes that cannot be meant are refused")
{
	static const char *const both[] = {"kubernetes.replicas=3",
					   "kubernetes.peers=[a-0]"};

	refused("kubernetes.pod=A_1", "kubernetes.pod");
	refused("kubernetes.api=http://10.0.0.1", "https://");
	refused("kubernetes.replicas=65", "kubernetes.replicas");
	refused("kubernetes.routing=maybe", "kubernetes.routing");
	refused("kubernetes.peers=[a/b]", "kubernetes.peers");
	assert_null(load(both, 2));
	assert_non_null(strstr(errors.text, "either peers or replicas"));
}

TEST_MAIN()
