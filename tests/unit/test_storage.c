/* tests/unit/test_storage.c: what a start makes of its mount, and two machines
 * with one name.  The daemon's files are not in the library, so they are
 * included.  A machine is a tree of planted files; the shared directory is a
 * local one. */
#include "tests/unit/test.h"

#include <limits.h>

#include "broker/daemon/key.c"
#include "broker/daemon/storage.c"

static struct io *io;
static char shared[PATH_MAX];

static void plant(const char *machine, const char *path, const char *text)
{
	char name[128], full[512];
	FILE *f;

	snprintf(name, sizeof(name), "%s%s", machine, path);
	test_path(full, sizeof(full), name);
	for (char *at = full + strlen(test_directory_path) + 1;
	     (at = strchr(at, '/')); at++) {
		*at = '\0';
		mkdir(full, 0700);
		*at = '/';
	}
	if (!strncmp(text, "uts:", 4)) {
		assert_int_equal(symlink(text, full), 0);
		return;
	}
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void plant_machine(const char *machine, const char *super,
			  const char *host, const char *boot)
{
	char text[512];

	snprintf(text, sizeof(text), "1 0 0:9 / / rw - nfs4 nas:/b %s\n",
		 super);
	plant(machine, "/proc/self/mountinfo", text);
	plant(machine, "/proc/self/ns/uts", "uts:[4026531838]");
	plant(machine, "/proc/sys/kernel/hostname", host);
	plant(machine, "/proc/sys/kernel/random/boot_id", boot);
	/* As on cloned machines. */
	plant(machine, "/etc/machine-id", "00machine\n");
}

static int open_on(const char *machine, bool allow, uint64_t watch_ns,
		   struct storage **ret)
{
	char root[300];
	int err;

	test_path(root, sizeof(root), machine);
	err = storage_open(&(struct storage_options){.io = io,
						     .dir = shared,
						     .allow_unsafe = allow,
						     .root = root,
						     .beat_ns = 3000000,
						     .watch_ns = watch_ns},
			   ret);
	return err;
}

/* What is logged from here to said(). */
static int log_fd, stderr_fd;

static void listen_to_log(void)
{
	char path[300];

	test_path(path, sizeof(path), "log");
	fflush(stderr);
	stderr_fd = dup(STDERR_FILENO);
	log_fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(log_fd >= 0 && stderr_fd >= 0);
	dup2(log_fd, STDERR_FILENO);
}

static const char *said(void)
{
	static char text[16384];
	ssize_t n;

	fflush(stderr);
	dup2(stderr_fd, STDERR_FILENO);
	close(stderr_fd);
	n = pread(log_fd, text, sizeof(text) - 1, 0);
	close(log_fd);
	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void assert_said(const char *text, const char *word)
{
	if (!strstr(text, word))
		fail_msg("\"%s\" does not say \"%s\"", text, word);
}

static void begin_test(void)
{
	const char *reason;
	char path[300];

	test_directory();
	test_path(path, sizeof(path), "shared");
	mkdir(path, 0700);
	assert_non_null(realpath(path, shared));
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	logger_configure(LOGGER_INFO, LOGGER_TEXT);
}

#define GOOD "rw,vers=4.2,hard,timeo=50,local_lock=none"
#define SHORT_NS 50000000ull
/* Ends sooner when the other one is seen to live. */
#define LONG_NS 60000000000ull

TEST("a good mount starts without a word")
{
	struct storage *s = NULL;
	const char *text;

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	listen_to_log();
	assert_int_equal(open_on("a", false, LONG_NS, &s), 0);
	text = said();
	assert_string_equal(text, "");
	storage_close(s);
	io_free(io);
}

TEST("a new directory still gets its development key after the node's file")
{
	struct storage *s = NULL;
	struct key_choice key;
	char why[1200] = "";

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(open_on("a", false, LONG_NS, &s), 0);
	assert_int_equal(key_choose(io, shared, NULL, &key, why, sizeof(why)),
			 0);
	assert_true(key.made);
	crypto_key_free(key.key);
	storage_close(s);
	io_free(io);
}

TEST("a bad mount is refused in one message with every reason")
{
	struct storage *s = NULL;
	const char *text;

	begin_test();
	plant_machine("a", "ro,vers=4.0,soft,softreval,nolock,local_lock=all",
		      "localhost\n", "boot-a\n");
	plant("a", "/sys/module/nfs/parameters/recover_lost_locks", "Y\n");
	listen_to_log();
	assert_int_equal(open_on("a", false, SHORT_NS, &s), -E_CONFIG);
	text = said();
	assert_null(s);
	assert_said(text, "reasons=8");
	assert_said(text, "mounted soft");
	assert_said(text, "mounted softreval");
	assert_said(text, "mounted nolock");
	assert_said(text, "local_lock=all");
	assert_said(text, "older than 4.1");
	assert_said(text, "recover_lost_locks=1");
	assert_said(text, "\\\"localhost\\\"");
	assert_said(text, "read-only");
	assert_said(text, "storage.allow_unsafe_mount");
	assert_ptr_equal(strchr(text, '\n'), strrchr(text, '\n'));
	io_free(io);
}

TEST("what is allowed against all advice starts, and says so each time")
{
	struct storage *s = NULL;
	const char *text;

	begin_test();
	plant_machine("a", "rw,vers=4.2,soft", "alpha\n", "boot-a\n");
	for (unsigned i = 0; i < 2; i++) {
		listen_to_log();
		assert_int_equal(open_on("a", true, LONG_NS, &s), 0);
		text = said();
		assert_said(text, "unsafe-storage-allowed");
		assert_said(text, "mounted soft");
		assert_said(text, "can be lost");
		storage_close(s);
	}
	io_free(io);
}

TEST("a living machine with the same name is refused, and both are named")
{
	struct storage *a = NULL, *b = NULL;
	const char *text;

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	plant_machine("b", GOOD, "alpha\n", "boot-b\n");
	assert_int_equal(open_on("a", false, LONG_NS, &a), 0);
	listen_to_log();
	assert_int_equal(open_on("b", false, LONG_NS, &b), -E_CONFIG);
	text = said();
	assert_said(text, "boot-a");
	assert_said(text, "boot-b");
	assert_said(text, "Linux NFSv4.2 alpha");
	assert_said(text, "nfs4_unique_id");
	storage_close(a);
	io_free(io);
}

TEST("the file of a machine that is gone, or of this one before a reboot, goes")
{
	struct storage *s = NULL;

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-1\n");
	plant_machine("b", GOOD, "alpha\n", "boot-2\n");
	assert_int_equal(open_on("a", false, LONG_NS, &s), 0);
	storage_close(s);
	assert_int_equal(open_on("b", false, SHORT_NS, &s), 0);
	storage_close(s);
	/* And is ours now: nothing is waited for. */
	assert_int_equal(open_on("b", false, LONG_NS, &s), 0);
	storage_close(s);
	io_free(io);
}

TEST("two brokers of one machine, in containers or not, are no namesakes")
{
	struct storage *one = NULL, *two = NULL;

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	assert_int_equal(open_on("a", false, LONG_NS, &one), 0);
	assert_int_equal(open_on("a", false, LONG_NS, &two), 0);
	storage_close(two);
	storage_close(one);
	io_free(io);
}

TEST("machines whose clients differ in anything share nothing")
{
	struct storage *s[5] = {0};
	static const char *const names[] = {"a", "b", "c", "d", "e"};

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	plant_machine("b", GOOD, "beta\n", "boot-b\n");
	plant_machine("c", "rw,vers=4.1", "alpha\n", "boot-c\n");
	plant_machine("d", GOOD, "alpha\n", "boot-d\n");
	plant("d", "/sys/module/nfs/parameters/nfs4_unique_id", "d\n");
	plant_machine("e", GOOD, "alpha\n", "boot-e\n");
	plant("e", "/sys/fs/nfs/net/nfs_client/identifier", "e\n");
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(open_on(names[i], false, LONG_NS, &s[i]), 0);
	for (unsigned i = 0; i < 5; i++)
		storage_close(s[i]);
	io_free(io);
}

TEST("a pod that moved to another node keeps its name and is let in")
{
	struct storage *a = NULL, *b = NULL;
	char path[512];

	begin_test();
	plant_machine("a", GOOD, "holdfast-0\n", "boot-a\n");
	plant_machine("b", GOOD, "holdfast-0\n", "boot-b\n");
	for (unsigned i = 0; i < 2; i++) {
		test_path(path, sizeof(path),
			  i ? "b/proc/self/ns/uts" : "a/proc/self/ns/uts");
		assert_int_equal(unlink(path), 0);
		assert_int_equal(symlink("uts:[4026532999]", path), 0);
	}
	assert_int_equal(open_on("a", false, LONG_NS, &a), 0);
	assert_int_equal(open_on("b", false, LONG_NS, &b), 0);
	storage_close(b);
	storage_close(a);
	io_free(io);
}

TEST("one that runs already says so when a namesake comes all the same")
{
	struct storage *a = NULL, *b = NULL;
	const char *text;
	char path[512];
	uint64_t end;

	begin_test();
	plant_machine("a", GOOD, "alpha\n", "boot-a\n");
	plant_machine("b", GOOD, "alpha\n", "boot-b\n");
	listen_to_log();
	assert_int_equal(open_on("a", false, LONG_NS, &a), 0);
	assert_int_equal(open_on("b", true, LONG_NS, &b), 0);
	/* A message of each is on its way; the one of a, that b was let in,
	 * comes with one of its next beats. */
	test_path(path, sizeof(path), "log");
	end = io_now_ns(io) + LONG_NS;
	do {
		char command[700];

		snprintf(command, sizeof(command),
			 "grep -q 'namesake.*this machine.*boot-a.*boot-b' %s",
			 path);
		if (!system(command))
			break;
	} while (io_now_ns(io) < end);
	storage_close(b);
	storage_close(a);
	text = said();
	assert_said(text, "unsafe-storage-allowed");
	assert_said(text, "namesake");
	io_free(io);
}

/* ---- the record ---- */

TEST("a record comes back as it was, and every changed byte is noticed")
{
	static char record[NODE_RECORD_BYTES + 1]; /* text */
	struct node n = {.client = "Linux NFSv4.2 u/alpha",
			 .host = "alpha",
			 .boot = "1234-5678",
			 .beat = 0xfedcba9876543210ull},
		    back;
	size_t len;

	node_encode(&n, record);
	assert_int_equal(node_decode(record, &back), 0);
	assert_string_equal(back.client, n.client);
	assert_string_equal(back.host, n.host);
	assert_string_equal(back.machine, "");
	assert_string_equal(back.boot, n.boot);
	assert_true(back.beat == n.beat);
	len = (size_t)(strstr(record, "\n\n") - record);
	for (size_t i = 0; i < len; i++) {
		record[i] ^= 1;
		assert_int_equal(node_decode(record, &back), -E_CORRUPT);
		record[i] ^= 1;
		assert_int_equal(node_decode(record, &back), 0);
	}
	for (size_t cut = 0; cut < len; cut++) {
		char keep = record[cut];

		record[cut] = '\0';
		assert_int_equal(node_decode(record, &back), -E_CORRUPT);
		record[cut] = keep;
	}
	memset(record, ' ', sizeof(record));
	assert_int_equal(node_decode(record, &back), -E_CORRUPT);
}

TEST("a record of the longest names is one block")
{
	static char record[NODE_RECORD_BYTES + 1]; /* text */
	struct node n = {0}, back;

	memset(n.client, 'c', sizeof(n.client) - 1);
	memset(n.host, 'h', sizeof(n.host) - 1);
	memset(n.machine, 'm', sizeof(n.machine) - 1);
	memset(n.boot, 'b', sizeof(n.boot) - 1);
	node_encode(&n, record);
	assert_int_equal(node_decode(record, &back), 0);
	assert_memory_equal(&n, &back, sizeof(n));
}

TEST_MAIN()
