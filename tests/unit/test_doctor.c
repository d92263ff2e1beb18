/* tests/unit/test_doctor.c: `holdfast doctor`.  The command's files are not in
 * the library, so they are included. */
#include "tests/unit/test.h"

#include "tools/doctor.c"
#include "tools/doctor_disk.c"
#include "tools/doctor_mount.c"
#include "tools/doctor_trips.c"
#include "tools/histogram.c"
#include "tools/options.c"
#include "tools/output.c"

/* ---- what is reported ---- */

static struct {
	enum doctor_verdict verdict;
	char what[64], found[1024];
	bool advised;
} said[40];
static unsigned said_count;

static void record(void *ctx, enum doctor_verdict verdict, const char *what,
		   const char *advice, const char *found)
{
	assert_true(said_count < ARRAY_COUNT(said));
	said[said_count].verdict = verdict;
	said[said_count].advised = advice && advice[0];
	snprintf(said[said_count].what, sizeof(said[0].what), "%s", what);
	snprintf(said[said_count++].found, sizeof(said[0].found), "%s", found);
}

static void record_trip(void *ctx, enum doctor_verdict verdict,
			const char *what, const char *advice, const char *found,
			const struct doctor_trip *trip)
{
	record(ctx, verdict, what, advice, found);
}

static const struct doctor_report taker = {.say = record,
					   .say_trip = record_trip};

static void assert_taken(const char *what, enum doctor_verdict verdict,
			 const char *word)
{
	for (unsigned i = 0; i < said_count; i++) {
		if (strcmp(said[i].what, what) != 0)
			continue;
		assert_int_equal(said[i].verdict, verdict);
		if (!strstr(said[i].found, word))
			fail_msg("\"%s\" does not say \"%s\"", said[i].found,
				 word);
		assert_true(verdict == DOCTOR_OK || said[i].advised);
		return;
	}
	fail_msg("nothing is said of \"%s\"", what);
}

TEST("every finding about a mount is a line, and what is refused fails")
{
	static const char text[] = "1 0 0:9 / /data rw - nfs4 nas:/b "
				   "rw,vers=4.0,soft,nocto,noac\n";
	struct mount m;
	struct mount_host h = {
		.name = "alpha", .boot_id = "b", .name_is_machines = MOUNT_YES};
	struct io_fs fs = {.name = "nfs", .network = 1};

	said_count = 0;
	assert_true(mount_parse(text, sizeof(text) - 1,
				&(struct mount_key){.path = "/data"}, &m));
	doctor_mount_explain(&taker, &m, &h, &fs);
	assert_taken("mount", DOCTOR_OK, "nas:/b, version 4.0");
	assert_taken("NFS client", DOCTOR_OK, "Linux NFSv4.0 alpha");
	assert_taken("soft", DOCTOR_FAIL, "mounted soft");
	assert_taken("version", DOCTOR_FAIL, "older than 4.1");
	assert_taken("nocto", DOCTOR_WARN, "nocto");
	assert_taken("noac", DOCTOR_OK, "round trip");
	assert_taken("export", DOCTOR_OK, "cannot be seen");
}

TEST("an index that cannot be where it is said fails, and one that can does "
     "not")
{
	char path[512];
	const char *reason;
	struct io *io;

	said_count = 0;
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	doctor_mount_index(&taker, io, test_directory(), NULL);
	assert_taken("index dir", DOCTOR_OK, "/index");
	said_count = 0;
	test_path(path, sizeof(path), "not/there");
	doctor_mount_index(&taker, io, test_directory_path, path);
	assert_taken("index dir", DOCTOR_FAIL, "not/there");
	io_free(io);
}

TEST("a check that does not reach the server fails; an uncounted one is told")
{
	struct mount m = {.is_nfs = true};
	struct doctor_trips t = {.check = {.p50_ns = 300000, .count = 100},
				 .counted = true,
				 .check_calls = 100};

	said_count = 0;
	doctor_mount_trips(&taker, &m, &t);
	assert_taken("check reach", DOCTOR_OK, "100 checks sent 100");
	assert_taken("claim check", DOCTOR_OK, "good");
	t.check_calls = 99;
	t.check.p50_ns = 30000000;
	t.seal.p50_ns = 300000000;
	said_count = 0;
	doctor_mount_trips(&taker, &m, &t);
	assert_taken("check reach", DOCTOR_FAIL, "sent 99");
	assert_taken("claim check", DOCTOR_WARN, "slow");
	assert_taken("seal", DOCTOR_WARN, "slow");
	t.counted = false;
	said_count = 0;
	doctor_mount_trips(&taker, &m, &t);
	assert_taken("check reach", DOCTOR_WARN, "cannot be counted");
	m.is_nfs = false;
	said_count = 0;
	doctor_mount_trips(&taker, &m, &t);
	for (unsigned i = 0; i < said_count; i++)
		assert_string_not_equal(said[i].what, "check reach");
}

/* ---- the measurement and the command ---- */

static unsigned count_entries(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

TEST("round trips are measured and leave nothing behind")
{
	const char *reason, *what = "";
	struct doctor_trips t;
	struct io *io;

	test_directory();
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	assert_int_equal(
		doctor_trips_measure(io, test_directory_path, NULL, &t, &what),
		0);
	assert_true(t.lock.count && t.check.count && t.create.count &&
		    t.seal.count);
	assert_true(t.seal.p50_ns && t.seal.p50_ns <= t.seal.p99_ns);
	assert_false(t.counted);
	assert_int_equal(count_entries(test_directory_path), 0);
	assert_int_equal(doctor_trips_measure(io, "/nowhere", NULL, &t, &what),
			 -ENOENT);
	assert_string_equal(what, "making a new file");
	io_free(io);
}

/* Runs the command and returns what it printed, as JSON. */
static json_t *doctor(const char *data_dir, int *ret_code)
{
	char *argv[] = {strdup("-o"), strdup("json"), strdup("--data-dir"),
			strdup(data_dir), NULL};
	char path[512];
	FILE *was = stdout;
	json_t *lines;

	test_path(path, sizeof(path), "out");
	stdout = fopen(path, "w");
	assert_non_null(stdout);
	*ret_code = doctor_run(4, argv);
	fclose(stdout);
	stdout = was;
	lines = json_load_file(path, 0, NULL);
	unlink(path);
	for (unsigned i = 0; i < 4; i++)
		free(argv[i]);
	return lines;
}

TEST("the command says where the directory lies and what each call costs")
{
	static const char *const wanted[] = {"mount",	    "index dir",
					     "claim check", "lock",
					     "new file",    "seal"};
	json_t *lines;
	char data[512];
	int code;

	test_directory();
	test_path(data, sizeof(data), "data");
	assert_int_equal(mkdir(data, 0700), 0);
	lines = doctor(data, &code);
	assert_true(json_is_array(lines));
	for (unsigned i = 0; i < ARRAY_COUNT(wanted); i++) {
		json_t *line, *hit = NULL;
		size_t at;

		json_array_foreach(lines, at, line) {
			if (!strcmp(json_string_value(
					    json_object_get(line, "check")),
				    wanted[i]))
				hit = line;
		}
		if (!hit)
			fail_msg("there is no line \"%s\"", wanted[i]);
		if (i >= 2)
			assert_true(json_integer_value(json_object_get(
					    hit, "p99_ns")) > 0);
	}
	json_decref(lines);
	assert_int_equal(count_entries(data), 0);
}

TEST_MAIN()
