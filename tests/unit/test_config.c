/* tests/unit/test_config.c: base/config.h. */
#include "base/config.h"
#include "tests/unit/test.h"

struct person {
	char *name, *password;
	uint64_t age;
};

struct sample {
	char *dir, *token, *note;
	bool on;
	uint64_t count, bytes, wait_ns;
	int mode;
	struct config_list listen;
	struct config_maps people;
};

static const struct config_word modes[] = {
	{"auto", 0}, {"fast", 1}, {"slow", 2}, {NULL, 0}};

static const char *no_blanks(const char *text)
{
	return strchr(text, ' ') ? "has a blank" : NULL;
}

static const struct config_key person_keys[] = {
	{"name", CONFIG_STRING, CONFIG_REQUIRED | CONFIG_NAMES_ITEM,
	 offsetof(struct person, name), .check = no_blanks},
	{"password", CONFIG_STRING, CONFIG_SECRET,
	 offsetof(struct person, password), .help = ""},
	{"age", CONFIG_INT, 0, offsetof(struct person, age), .fallback = "30",
	 .most = 150},
};
static const struct config_table person_table = {
	person_keys, ARRAY_COUNT(person_keys), sizeof(struct person)};

static const struct config_key sample_keys[] = {
	{"dir", CONFIG_STRING, 0, offsetof(struct sample, dir),
	 .fallback = "/tmp"},
	{"listen", CONFIG_LIST, 0, offsetof(struct sample, listen),
	 .fallback = "a:1", .check = no_blanks},
	{"people", CONFIG_MAPS, CONFIG_RELOADABLE,
	 offsetof(struct sample, people), .each = &person_table},
	{"token", CONFIG_STRING, CONFIG_SECRET, offsetof(struct sample, token),
	 .help = ""},
	{"note", CONFIG_STRING, 0, offsetof(struct sample, note), .help = ""},
	{"inner.on", CONFIG_BOOL, 0, offsetof(struct sample, on),
	 .fallback = "true"},
	{"inner.count", CONFIG_INT, CONFIG_RELOADABLE,
	 offsetof(struct sample, count), .fallback = "7", .most = 100},
	{"inner.bytes", CONFIG_SIZE, 0, offsetof(struct sample, bytes),
	 .fallback = "64MiB", .least = 4096, .most = 1ull << 40},
	{"inner.wait", CONFIG_DURATION, 0, offsetof(struct sample, wait_ns),
	 .fallback = "30s", .least = 1000000, .most = 86400000000000ull},
	{"inner.mode", CONFIG_ENUM, 0, offsetof(struct sample, mode),
	 .fallback = "auto", .words = modes},
};
static const struct config_table table = {sample_keys, ARRAY_COUNT(sample_keys),
					  sizeof(struct sample)};

static struct config_errors errors;
static char *const no_env[] = {NULL};
static char file[300];

static void put(const char *name, const char *text)
{
	char path[400];
	FILE *f;

	f = fopen(test_path(path, sizeof(path), name), "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static const char *put_config(const char *text)
{
	test_directory();
	put("holdfast.yaml", text);
	return test_path(file, sizeof(file), "holdfast.yaml");
}

static int load(const char *path, char *const *env, const char *const *sets,
		size_t set_count, struct config **ret)
{
	static const char *const others[] = {"HOLDFAST_URL", NULL};
	struct config_source source = {
		.file = path,
		.env_prefix = "HOLDFAST_",
		.env = env,
		.env_others = others,
		.sets = sets,
		.set_count = set_count,
	};

	return config_load(&table, &source, ret, &errors);
}

static struct config *good(const char *text)
{
	struct config *c = NULL;
	int err = load(put_config(text), no_env, NULL, 0, &c);

	if (err)
		fail_msg("%s", errors.text);
	return c;
}

/* The text is refused, and the error, without the directory, is this. */
static void bad(const char *text, const char *expected)
{
	struct config *c = NULL;
	const char *name;

	assert_int_equal(load(put_config(text), no_env, NULL, 0, &c),
			 -E_CONFIG);
	assert_null(c);
	name = strstr(errors.text, "holdfast.yaml");
	assert_string_equal(name ? name : errors.text, expected);
}

static void bad_set(const char *set, const char *expected)
{
	struct config *c = NULL;

	assert_int_equal(load(NULL, no_env, &set, 1, &c), -E_CONFIG);
	assert_string_equal(errors.text, expected);
}

static void bad_env(const char *variable, const char *expected)
{
	char copy[200];
	char *const env[] = {copy, NULL};
	struct config *c = NULL;

	snprintf(copy, sizeof(copy), "%s", variable);
	assert_int_equal(load(NULL, env, NULL, 0, &c), -E_CONFIG);
	assert_string_equal(errors.text, expected);
}

TEST("without any source the defaults are in effect")
{
	struct config *c;
	const struct sample *s;

	assert_int_equal(load(NULL, no_env, NULL, 0, &c), 0);
	s = config_values(c);
	assert_string_equal(s->dir, "/tmp");
	assert_null(s->note);
	assert_true(s->on);
	assert_int_equal(s->count, 7);
	assert_int_equal(s->bytes, 64 << 20);
	assert_int_equal(s->wait_ns, 30000000000ull);
	assert_int_equal(s->listen.count, 1);
	assert_string_equal(s->listen.items[0], "a:1");
	assert_int_equal(s->people.count, 0);
	assert_string_equal(config_origin(c, "dir"), "default");
	config_free(c);
}

TEST("a file sets every type")
{
	struct config *c = good("dir: /data\n"
				"listen: [b:2, 'c:3']\n"
				"people:\n"
				"  - name: ann\n"
				"    password: p\n"
				"  - {name: bob, age: 4}\n"
				"inner:\n"
				"  on: no\n"
				"  count: 9\n"
				"  bytes: 10GB\n"
				"  wait: 250ms\n"
				"  mode: slow\n");
	const struct sample *s = config_values(c);
	const struct person *p = s->people.items;

	assert_string_equal(s->dir, "/data");
	assert_int_equal(s->listen.count, 2);
	assert_string_equal(s->listen.items[1], "c:3");
	assert_int_equal(s->people.count, 2);
	assert_string_equal(p[0].password, "p");
	assert_int_equal(p[0].age, 30);
	assert_int_equal(p[1].age, 4);
	assert_null(p[1].password);
	assert_false(s->on);
	assert_int_equal(s->count, 9);
	assert_int_equal(s->bytes, 10000000000ull);
	assert_int_equal(s->wait_ns, 250000000);
	assert_int_equal(s->mode, 2);
	assert_non_null(
		strstr(config_origin(c, "inner.mode"), "holdfast.yaml:12:9"));
	config_free(c);
}

TEST("an unknown key is refused with its place and what was meant")
{
	bad("dir: /x\nlisten: [a:1]\ninner:\n  on: true\nlisetn: b\n",
	    "holdfast.yaml:5:1: unknown key \"lisetn\" (did you mean "
	    "\"listen\"?)");
	bad("lisen: a\n",
	    "holdfast.yaml:1:1: unknown key \"lisen\" (did you mean "
	    "\"listen\"?)");
	bad("iner:\n  on: true\n",
	    "holdfast.yaml:1:1: unknown key \"iner\" (did you mean "
	    "\"inner\"?)");
	bad("inner:\n  cuont: 1\n",
	    "holdfast.yaml:2:3: unknown key \"cuont\" in inner (did you mean "
	    "\"count\"?)");
	bad("zzzzzz: 1\n", "holdfast.yaml:1:1: unknown key \"zzzzzz\"");
	bad("inner.on: true\n",
	    "holdfast.yaml:1:1: unknown key \"inner.on\" (did you mean "
	    "\"inner\"?)");
	bad("people:\n  - name: a\n    agee: 3\n",
	    "holdfast.yaml:3:5: unknown key \"agee\" in people (did you mean "
	    "\"age\"?)");
	bad("token_fil: x\n", "holdfast.yaml:1:1: unknown key \"token_fil\"");
}

TEST("wrong values are refused with their place and what would be right")
{
	bad("inner: {count: ten}\n",
	    "holdfast.yaml:1:16: inner.count: \"ten\" is not a number");
	bad("inner: {count: 101}\n",
	    "holdfast.yaml:1:16: inner.count: \"101\" is not between 0 and "
	    "100");
	bad("inner: {count: 010}\n",
	    "holdfast.yaml:1:16: inner.count: \"010\": write numbers without "
	    "leading zeros");
	bad("inner: {count: 18446744073709551616}\n",
	    "holdfast.yaml:1:16: inner.count: \"18446744073709551616\" is not "
	    "a number");
	bad("inner: {count: -1}\n",
	    "holdfast.yaml:1:16: inner.count: \"-1\" is not a number");
	bad("inner: {bytes: 1 XB}\n",
	    "holdfast.yaml:1:16: inner.bytes: \"1 XB\": the unit must be B, "
	    "KiB, MiB, GiB, TiB, kB, MB, GB or TB");
	bad("inner: {bytes: 99999999999TiB}\n",
	    "holdfast.yaml:1:16: inner.bytes: \"99999999999TiB\": the unit "
	    "must be B, KiB, MiB, GiB, TiB, kB, MB, GB or TB");
	bad("inner: {bytes: 1}\n",
	    "holdfast.yaml:1:16: inner.bytes: \"1\" is not between 4KiB and "
	    "1TiB");
	bad("inner: {wait: 30}\n",
	    "holdfast.yaml:1:15: inner.wait: \"30\" has no unit: say \"30s\" "
	    "for seconds, or use ns, us, ms, s, m, h or d");
	bad("inner: {mode: fats}\n",
	    "holdfast.yaml:1:15: inner.mode: \"fats\" is not one of auto, "
	    "fast, slow");
	bad("inner: {on: maybe}\n",
	    "holdfast.yaml:1:13: inner.on: \"maybe\" is not true or false");
	bad("dir: [a]\n",
	    "holdfast.yaml:1:6: dir: must be a single value, not a list");
	bad("inner: 3\n", "holdfast.yaml:1:8: inner: must be a map, not text");
	bad("listen: ['a b']\n",
	    "holdfast.yaml:1:10: listen: \"a b\" has a blank");
	bad("listen: [{a: b}]\n",
	    "holdfast.yaml:1:10: listen: an item must be text, not a map");
	bad("people: [x]\n",
	    "holdfast.yaml:1:10: people: an entry must be a map, not text");
	bad("people: x\n",
	    "holdfast.yaml:1:9: people: must be a list of maps, not text");
	bad("people: [{age: 3}]\n",
	    "holdfast.yaml:1:10: people: an entry needs \"name\"");
	bad("people: [{name: null}]\n",
	    "holdfast.yaml:1:10: people: an entry needs \"name\"");
	bad("people: [{name: a}, {name: b}, {name: a}]\n",
	    "holdfast.yaml:1:32: people: two entries have the same name");
	bad("- a\n", "holdfast.yaml:1:1: a configuration is a map, not a list");
}

TEST("all mistakes are reported, up to a limit")
{
	struct config *c;
	char text[1000];
	size_t len = 0;

	for (int i = 0; i < 30; i++)
		len += (size_t)sprintf(text + len, "zzzz%d: 1\n", i);
	assert_int_equal(load(put_config(text), no_env, NULL, 0, &c),
			 -E_CONFIG);
	assert_int_equal(errors.count, 30);
	assert_non_null(strstr(errors.text, "zzzz19"));
	assert_null(strstr(errors.text, "zzzz20"));
}

TEST("later sources override earlier ones")
{
	static const char *const sets[] = {"inner.count=4", "note=a=b: {"};
	char env_count[] = "HOLDFAST_INNER__COUNT=3";
	char env_bytes[] = "HOLDFAST_INNER__BYTES=1GiB";
	char env_listen[] = "HOLDFAST_LISTEN=x:1, y:2";
	char *const env[] = {env_count, env_bytes, env_listen, NULL};
	char path[400];
	const struct sample *s;
	struct config *c;

	put_config("inner: {count: 1, mode: fast, wait: 1s, bytes: 1MiB}\n");
	mkdir(test_path(path, sizeof(path), "conf.d"), 0700);
	put("conf.d/20-b.yaml", "inner: {wait: 3s}\n");
	put("conf.d/10-a.yaml", "inner: {wait: 2s, count: 2}\n");
	put("conf.d/ignored.txt", "no: such\n");
	put("conf.d/.hidden.yaml", "no: such\n");
	assert_int_equal(load(file, env, sets, 2, &c), 0);
	s = config_values(c);
	assert_int_equal(s->mode, 1);
	assert_int_equal(s->wait_ns, 3000000000ull);
	assert_int_equal(s->bytes, 1 << 30);
	assert_int_equal(s->count, 4);
	assert_string_equal(s->note, "a=b: {");
	assert_int_equal(s->listen.count, 2);
	assert_string_equal(s->listen.items[1], "y:2");
	assert_string_equal(config_origin(c, "inner.count"),
			    "--set inner.count");
	assert_string_equal(config_origin(c, "listen"), "HOLDFAST_LISTEN");
	assert_non_null(strstr(config_origin(c, "inner.wait"), "20-b.yaml"));
	config_free(c);
}

TEST("a wrong value that a later source replaces is no mistake")
{
	static const char *const sets[] = {"inner.count=4"};
	struct config *c;

	assert_int_equal(
		load(put_config("inner: {count: x}\n"), no_env, sets, 1, &c),
		0);
	config_free(c);
}

TEST("null gives a key its default back")
{
	static const char *const sets[] = {"inner.count=null"};
	struct config *c;

	assert_int_equal(load(put_config("inner: {count: 3}\ndir:\n"), no_env,
			      sets, 1, &c),
			 0);
	assert_int_equal(((const struct sample *)config_values(c))->count, 7);
	assert_string_equal(((const struct sample *)config_values(c))->dir,
			    "/tmp");
	config_free(c);
}

TEST("lists of maps can come from the environment as YAML")
{
	char people[] = "HOLDFAST_PEOPLE=[{name: a, age: 3}]";
	char *const env[] = {people, NULL};
	const struct sample *s;
	struct config *c;

	assert_int_equal(load(NULL, env, NULL, 0, &c), 0);
	s = config_values(c);
	assert_int_equal(s->people.count, 1);
	assert_int_equal(((const struct person *)s->people.items)->age, 3);
	config_free(c);
	bad_env("HOLDFAST_PEOPLE=[{name: a, agee: 3}]",
		"HOLDFAST_PEOPLE:1:12: unknown key \"agee\" in people (did you "
		"mean \"age\"?)");
}

TEST("names that look like settings and are none are refused")
{
	bad_env("HOLDFAST_INNER__CUONT=3",
		"HOLDFAST_INNER__CUONT: unknown setting in the environment "
		"(did you mean HOLDFAST_INNER__COUNT?)");
	bad_env("HOLDFAST_FOO__BARBARBAR=3",
		"HOLDFAST_FOO__BARBARBAR: unknown setting in the environment");
	bad_env("HOLDFAST_LISTN=3",
		"HOLDFAST_LISTN: unknown setting in the environment (did you "
		"mean HOLDFAST_LISTEN?)");
	bad_env("HOLDFAST_INNER__COUNT=many",
		"HOLDFAST_INNER__COUNT: inner.count: \"many\" is not a "
		"number");
}

TEST("what Kubernetes and others put into the environment is left alone")
{
	char a[] = "HOLDFAST_SERVICE_HOST=10.0.0.1";
	char b[] = "HOLDFAST_PORT=tcp://10.0.0.1:5672";
	char b2[] = "HOLDFAST_PORT_5672_TCP_ADDR=10.0.0.1";
	char c1[] = "HOLDFAST_HEADLESS_SERVICE_PORT_AMQP=5672";
	char d[] = "HOLDFAST_URL=amqp://x";
	char e[] = "HOLDFASTENED=1";
	char f[] = "HOLDFAST_SOMETHING_ELSE=1";
	char *const env[] = {a, b, b2, c1, d, e, f, NULL};
	struct config *c;

	if (load(NULL, env, NULL, 0, &c))
		fail_msg("%s", errors.text);
	config_free(c);
}

TEST("a wrong --set is refused")
{
	bad_set("inner.count", "--set: \"inner.count\" is not "
			       "section.key=value");
	bad_set("=3", "--set: \"=3\" is not section.key=value");
	bad_set("inner.cuont=3", "--set inner.cuont: unknown key (did you mean "
				 "\"inner.count\"?)");
	bad_set("inner=3", "--set inner: unknown key");
	bad_set("inner.count=x",
		"--set inner.count: inner.count: \"x\" is not a number");
}

TEST("a secret can come from a file, and never appears in what is printed")
{
	char set[500], path[400], buf[4096] = "";
	const char *sets[] = {set};
	const struct sample *s;
	struct config *c;
	FILE *out;

	put_config("people: [{name: a, password: hunter2}]\n");
	put("secret", "  s3cret \n");
	snprintf(set, sizeof(set), "token_file=%s",
		 test_path(path, sizeof(path), "secret"));
	assert_int_equal(load(file, no_env, sets, 1, &c), 0);
	s = config_values(c);
	assert_string_equal(s->token, "  s3cret ");
	out = fmemopen(buf, sizeof(buf), "w");
	config_print(c, out);
	fclose(out);
	assert_null(strstr(buf, "s3cret"));
	assert_null(strstr(buf, "hunter2"));
	assert_non_null(strstr(buf, "token: \"<redacted>\""));
	assert_non_null(strstr(buf, "password: \"<redacted>\""));
	config_free(c);
}

TEST("a secret given as value and as file at once is refused")
{
	bad("token: a\ntoken_file: /b\n",
	    "holdfast.yaml:2:13: token is given both as a value and as a "
	    "file");
	bad("people: [{name: a, password: b, password_file: /c}]\n",
	    "holdfast.yaml:1:48: password: given both as a value and as a "
	    "file");
}

TEST("a secret's file that is missing, empty or too large is refused")
{
	char text[600], path[400], large[5000];

	bad("token_file: /no/such/file\n",
	    "holdfast.yaml:1:13: token: /no/such/file: No such file or "
	    "directory");
	test_directory();
	put("empty", "\n");
	snprintf(text, sizeof(text), "token_file=%s",
		 test_path(path, sizeof(path), "empty"));
	{
		const char *sets[] = {text};
		struct config *c;

		assert_int_equal(load(NULL, no_env, sets, 1, &c), -E_CONFIG);
		assert_non_null(strstr(errors.text, "is empty"));
		memset(large, 'x', sizeof(large));
		large[sizeof(large) - 1] = '\0';
		put("empty", large);
		assert_int_equal(load(NULL, no_env, sets, 1, &c), -E_CONFIG);
		assert_non_null(strstr(errors.text, "larger than"));
	}
}

TEST("what is printed is a configuration with the same meaning")
{
	struct config *c = good("dir: \"a \\\"b\\\\\"\nlisten: [b:2, c:3]\n"
				"people: [{name: ann, age: 5}, {name: bob}]\n"
				"inner: {on: no, bytes: 3MiB, wait: 90s, mode: "
				"slow}\n"),
		      *again;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	config_print(c, out);
	fclose(out);
	again = good(text);
	free(text);
	assert_int_equal(((const struct sample *)config_values(again))->wait_ns,
			 90000000000ull);
	assert_int_equal(
		((const struct sample *)config_values(again))->people.count, 2);
	assert_string_equal(((const struct sample *)config_values(again))->dir,
			    "a \"b\\");
	config_free(c);
	config_free(again);
}

static unsigned fixed, loose;

static void note(void *ctx, const struct config_key *key)
{
	if (key->flags & CONFIG_RELOADABLE)
		loose++;
	else
		fixed++;
	if (ctx)
		assert_string_equal(key->path, ctx);
}

TEST("two configurations are compared key by key")
{
	struct config *a = good("people: [{name: a}]\nlisten: [a:1, b:2]\n"),
		      *b = good("people: [{name: a}]\nlisten: [a:1, b:2]\n"),
		      *c = good("people: [{name: a, age: 2}]\n"
				"listen: [a:1, b:2]\ninner: {count: 8}\n"),
		      *d = good("people: [{name: a}]\nlisten: [a:1]\n");

	config_compare(a, b, note, NULL);
	assert_int_equal(fixed + loose, 0);
	config_compare(a, c, note, NULL);
	assert_int_equal(fixed, 0);
	assert_int_equal(loose, 2);
	config_compare(a, d, note, (void *)(uintptr_t) "listen");
	assert_int_equal(fixed, 1);
	config_free(a);
	config_free(b);
	config_free(c);
	config_free(d);
}

TEST("the fingerprint follows the file and its fragments")
{
	uint64_t first, second;
	char path[400];

	put_config("dir: /a\n");
	first = config_fingerprint(file);
	assert_int_not_equal(first, 0);
	assert_true(first == config_fingerprint(file));
	put("holdfast.yaml", "dir: /abc\n");
	second = config_fingerprint(file);
	assert_true(first != second);
	mkdir(test_path(path, sizeof(path), "conf.d"), 0700);
	put("conf.d/a.yaml", "dir: /b\n");
	assert_true(second != config_fingerprint(file));
	assert_true(config_fingerprint("/no/such") == 0);
}

TEST("a file that is missing or cannot be parsed is refused")
{
	struct config *c;

	assert_int_equal(load("/no/such/holdfast.yaml", no_env, NULL, 0, &c),
			 -E_CONFIG);
	assert_string_equal(errors.text, "/no/such/holdfast.yaml: cannot be "
					 "read: No such file or directory");
	bad("dir: [\n", "holdfast.yaml:2:1: this is not YAML: did not find "
			"expected node content");
	bad("dir: /a\ndir: /b\n",
	    "holdfast.yaml:2:1: the key \"dir\" is here twice");
}

TEST_MAIN()
