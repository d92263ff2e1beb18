/* tests/unit/test_mount.c: what is read from mountinfo, mountstats, /proc and
 * /sys, and what is made of it. */
#include "tests/unit/test.h"

#include "base/mount.h"
#include "replication/mount_check.h"

/* ---- mountinfo ---- */

static struct mount found;

static bool look_for(const char *text, uint64_t id, const char *path)
{
	memset(&found, 0, sizeof(found));
	return mount_parse(text, strlen(text),
			   &(struct mount_key){.id = id, .path = path}, &found);
}

#define ROOT "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
#define NFS(number, point, super)                                              \
	number " 27 0:52 / " point " rw,relatime shared:9 - nfs4 "             \
	       "10.0.0.9:/export " super "\n"
#define SUPER                                                                  \
	"rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp,"   \
	"timeo=600,retrans=2,sec=sys,clientaddr=10.0.0.1,local_lock=none,"     \
	"addr=10.0.0.9"

TEST("the longest mount point that covers a path is its mount")
{
	static const char text[] =
		ROOT "30 27 8:1 / /mnt rw - xfs /dev/sda1 rw\n" NFS(
			"31", "/mnt/nfs", SUPER) "32 27 8:2 / /mnt/nfs2 rw - "
						 "btrfs /dev/sda2 rw\n";

	assert_true(look_for(text, 0, "/mnt/nfs/data/x"));
	assert_string_equal(found.type, "nfs4");
	assert_string_equal(found.point, "/mnt/nfs");
	assert_string_equal(found.source, "10.0.0.9:/export");
	assert_true(found.is_nfs);
	assert_int_equal(found.id, 31);
	assert_true(look_for(text, 0, "/mnt/nfs"));
	assert_int_equal(found.id, 31);
	assert_true(look_for(text, 0, "/mnt/nfs2/x"));
	assert_string_equal(found.type, "btrfs");
	assert_true(look_for(text, 0, "/mnt/nfs20"));
	assert_string_equal(found.type, "xfs");
	assert_true(look_for(text, 0, "/var/lib"));
	assert_string_equal(found.type, "ext4");
	assert_false(found.is_nfs);
}

TEST("a mount's number is believed more than its place")
{
	static const char text[] = ROOT NFS("31", "/mnt/nfs", SUPER)
		NFS("32", "/srv/elsewhere", "rw,vers=4.1,soft");

	assert_true(look_for(text, 32, "/mnt/nfs/data"));
	assert_string_equal(found.point, "/srv/elsewhere");
	assert_true(found.nfs.soft);
	/* One that is not there says nothing. */
	assert_true(look_for(text, 99, "/mnt/nfs/data"));
	assert_int_equal(found.id, 31);
}

TEST("of mounts on one point the last is on top, as with autofs and nfs")
{
	static const char text[] = ROOT
		"40 27 0:50 / /mnt/nfs rw - autofs systemd-1 rw,fd=54\n" NFS(
			"41", "/mnt/nfs", SUPER);

	assert_true(look_for(text, 0, "/mnt/nfs"));
	assert_string_equal(found.type, "nfs4");
}

TEST("a bind mount of a subdirectory shows the file system below it")
{
	static const char text[] =
		"700 650 0:300 / / rw - overlay overlay rw,lowerdir=/l/a:/l/b\n"
		"710 700 0:52 /pvc-1/data /var/lib/holdfast rw - nfs4 "
		"nas:/exports rw,vers=4.1,nolock\n";

	assert_true(look_for(text, 0, "/var/lib/holdfast"));
	assert_true(found.is_nfs);
	assert_true(found.nfs.nolock);
	assert_int_equal(found.nfs.minor, 1);
	assert_true(look_for(text, 0, "/tmp"));
	assert_string_equal(found.type, "overlay");
}

TEST("escapes in names are undone, and what only looks like one is left")
{
	static const char text[] =
		"30 27 0:52 / /mnt/a\\040b\\011c\\134d\\012e rw - nfs "
		"h:/x\\040y rw,vers=3\n"
		"31 27 0:53 / /mnt/\\9\\04 rw - nfs h:/\\ rw,vers=3\n";

	assert_true(look_for(text, 0, "/mnt/a b\tc\\d\ne/data"));
	assert_string_equal(found.point, "/mnt/a b\tc\\d\ne");
	assert_string_equal(found.source, "h:/x y");
	assert_true(look_for(text, 0, "/mnt/\\9\\04"));
	assert_string_equal(found.source, "h:/\\");
}

TEST("NFS versions in every spelling of the kernel")
{
	static const struct {
		const char *type, *super;
		unsigned major, minor;
	} samples[] = {
		{"nfs4", "rw,vers=4.2", 4, 2},
		{"nfs4", "rw,vers=4.1,hard", 4, 1},
		{"nfs4", "rw,vers=4.0", 4, 0},
		{"nfs4", "rw,vers=4", 4, 0},
		{"nfs4", "rw,vers=4,minorversion=1", 4, 1},
		{"nfs4", "rw,hard", 4, 0},
		{"nfs", "rw,vers=3,proto=tcp,mountvers=3", 3, 0},
		{"nfs", "rw,vers=2", 2, 0},
		{"nfs", "rw,vers=4.1", 4, 1},
		{"nfs", "rw,nfsvers=3", 3, 0},
		{"nfs", "rw", 0, 0},
		{"nfs", "rw,vers=", 0, 0},
		{"nfs", "rw,vers=4294967299", 0, 0},
		{"nfs", "rw,vers=x", 0, 0},
	};
	char text[256];

	for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
		snprintf(text, sizeof(text), "1 0 0:9 / / rw - %s a:/b %s\n",
			 samples[i].type, samples[i].super);
		assert_true(look_for(text, 0, "/data"));
		assert_int_equal(found.nfs.major, samples[i].major);
		assert_int_equal(found.nfs.minor, samples[i].minor);
	}
}

TEST("every option is found at any place, and only as a whole word")
{
	assert_true(look_for("1 0 0:9 / / rw - nfs4 a:/b " SUPER "\n", 0, "/"));
	assert_false(
		found.nfs.soft || found.nfs.softerr || found.nfs.softreval ||
		found.nfs.nolock || found.nfs.nocto || found.nfs.noac ||
		found.nfs.nosharecache || found.nfs.udp || found.read_only);
	assert_string_equal(found.nfs.local_lock, "none");
	assert_string_equal(found.nfs.clientaddr, "10.0.0.1");
	assert_int_equal(found.nfs.timeo_tenths, 600);
	assert_int_equal(found.nfs.retrans, 2);
	assert_true(
		look_for("1 0 0:9 / / rw - nfs a:/b soft,rw,softreval,nolock"
			 ",proto=udp,nocto,noac,local_lock=posix,"
			 "nosharecache\n",
			 0, "/"));
	assert_true(found.nfs.soft && found.nfs.softreval && found.nfs.nolock &&
		    found.nfs.nocto && found.nfs.noac && found.nfs.udp &&
		    found.nfs.nosharecache);
	assert_false(found.nfs.softerr);
	assert_string_equal(found.nfs.local_lock, "posix");
	assert_true(look_for("1 0 0:9 / / ro - nfs a:/b xsoft,softer,noacl,"
			     "soft=1,local_lockx=all\n",
			     0, "/"));
	assert_false(found.nfs.soft || found.nfs.noac);
	assert_true(found.read_only);
	assert_string_equal(found.nfs.local_lock, "");
}

TEST("lines that make no sense are passed over")
{
	static const char *const bad[] = {
		"",
		"\n\n\n",
		"x 27 0:52 / / rw - nfs4 a:/b rw\n",
		"30\n",
		"30 27 0:52 / / rw\n",
		"30 27 0:52 / / rw shared:1\n",
		"30 27 0:52 / / rw - \n",
		"99999999999999999999999 27 0:52 / / rw - nfs4 a rw\n",
		"-1 27 0:52 / / rw - nfs4 a rw\n",
	};
	struct mount before;

	for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
		assert_false(look_for(bad[i], 0, "/"));
		memset(&before, 0, sizeof(before));
		assert_memory_equal(&before, &found, sizeof(found));
	}
	/* The last line need not end. */
	assert_true(
		look_for("x\n30 27 0:52 / / rw - nfs4 a:/b rw,soft", 0, "/a"));
	assert_true(found.nfs.soft);
}

TEST("fields longer than their places are cut")
{
	static char text[200000], path[8192];
	size_t at = 0;

	memset(path, 'p', sizeof(path) - 1);
	path[0] = '/';
	at += (size_t)snprintf(text + at, sizeof(text) - at, "%s", ROOT);
	at += (size_t)snprintf(text + at, sizeof(text) - at,
			       "30 27 0:52 / %s rw - nfs4 %s rw,lower=", path,
			       path);
	memset(text + at, 'o', 100000);
	at += 100000;
	snprintf(text + at, sizeof(text) - at, ",soft,vers=4.1\n");
	assert_true(look_for(text, 30, "/x"));
	assert_int_equal(strlen(found.point), MOUNT_PATH_BYTES - 1);
	assert_true(found.nfs.soft);
	assert_int_equal(found.nfs.minor, 1);
}

/* Bytes that often make lines, from a generator whose seed is printed. */
static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static size_t random_text(char *text, size_t room)
{
	static const char *const words[] = {
		"30 27 0:52 / ", "/mnt/nfs", " rw - ",
		"nfs4 ",	 "a:/b ",    "vers=4.",
		"soft",		 ",",	     "=",
		"\\04",		 "\\134",    "\n",
		" - ",		 "device ",  "mounted on ",
		"GETATTR:",	 " 7",	     "local_lock=",
	};
	size_t len = random_next() % room, at = 0;

	while (at < len) {
		if (random_next() % 4) {
			const char *word =
				words[random_next() % ARRAY_COUNT(words)];
			size_t n = base_min(strlen(word), len - at);

			memcpy(text + at, word, n);
			at += n;
		} else {
			text[at++] = (char)random_next();
		}
	}
	return len;
}

TEST("random bytes: nothing is read outside, and every result is text")
{
	uint64_t seed = 0x9e3779b97f4a7c15u, calls;
	unsigned hits = 0;

	if (getenv("SEED"))
		seed = strtoull(getenv("SEED"), NULL, 0) | 1;
	printf("SEED=%llu\n", (unsigned long long)seed);
	random_state = seed;
	for (unsigned round = 0; round < 20000; round++) {
		char scratch[600];
		size_t len = random_text(scratch, sizeof(scratch));
		/* Of exactly that size, so that a sanitizer sees a step too
		 * far. */
		char *text = malloc(len + !len);
		struct mount m;

		assert_non_null(text);
		memcpy(text, scratch, len);
		if (mount_parse(
			    text, len,
			    &(struct mount_key){.id = 30, .path = "/mnt/nfs/x"},
			    &m)) {
			hits++;
			assert_true(m.found);
			assert_non_null(memchr(m.point, 0, sizeof(m.point)));
			assert_non_null(memchr(m.source, 0, sizeof(m.source)));
			assert_non_null(memchr(m.type, 0, sizeof(m.type)));
			assert_true(m.nfs.major <= 99 && m.nfs.minor <= 99);
		}
		(void)mount_stats_parse(text, len, "/mnt/nfs", "GETATTR",
					&calls);
		free(text);
	}
	assert_true(hits > 100);
}

/* ---- mountstats ---- */

TEST("calls are counted for the mount asked for and no other")
{
	static const char text[] =
		"device proc mounted on /proc with fstype proc\n"
		"device a:/b mounted on /mnt/nfs with fstype nfs4 "
		"statvers=1.1\n"
		"\topts:\trw,vers=4.2\n"
		"\tper-op statistics\n"
		"\t        NULL: 1 1 0 44 24 3 0 3 0\n"
		"\t     GETATTR: 12 12 0 2208 2880 0 3 4 0\n"
		"device a:/c mounted on /mnt/nfs\\0402 with fstype nfs4 "
		"statvers=1.1\n"
		"\t     GETATTR: 99 99 0 2208 2880 0 3 4 0\n";
	uint64_t n = 7;

	assert_true(mount_stats_parse(text, sizeof(text) - 1, "/mnt/nfs",
				      "GETATTR", &n));
	assert_int_equal(n, 12);
	assert_true(mount_stats_parse(text, sizeof(text) - 1, "/mnt/nfs 2",
				      "GETATTR", &n));
	assert_int_equal(n, 99);
	assert_false(mount_stats_parse(text, sizeof(text) - 1, "/proc",
				       "GETATTR", &n));
	assert_false(mount_stats_parse(text, sizeof(text) - 1, "/mnt/nfs",
				       "WRITE", &n));
	assert_int_equal(n, 99);
}

/* ---- files ---- */

static void plant(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	test_path(full, sizeof(full), path + 1);
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

TEST("where /proc and /sys are missing nothing is known, and nothing fails")
{
	const char *root = test_directory();
	struct mount m;
	struct mount_host h;
	uint64_t n;

	mount_read(root, "/data", &m);
	assert_false(m.found);
	mount_host_read(root, &h);
	assert_string_equal(h.name, "");
	assert_string_equal(h.boot_id, "");
	assert_int_equal(h.name_is_machines, MOUNT_UNKNOWN);
	assert_int_equal(h.recover_lost_locks, MOUNT_UNKNOWN);
	assert_false(mount_stats_read(root, "/data", "GETATTR", &n));
}

TEST("what the machine says of itself is read from its files")
{
	const char *root = test_directory();
	struct mount m;
	struct mount_host h;

	plant("/proc/self/mountinfo", ROOT NFS("31", "/data", SUPER));
	plant("/proc/sys/kernel/hostname", "alpha\n");
	plant("/proc/sys/kernel/random/boot_id", "11-22\n");
	plant("/proc/self/ns/uts", "uts:[4026531838]");
	plant("/etc/machine-id", "0123\n");
	plant("/sys/module/nfs/parameters/recover_lost_locks", "Y\n");
	plant("/sys/module/nfs/parameters/nfs4_unique_id", "u-1\n");
	plant("/sys/fs/nfs/net/nfs_client/identifier", "(null)\n");
	mount_read(root, "/data/x", &m);
	assert_true(m.found && m.is_nfs);
	mount_host_read(root, &h);
	assert_string_equal(h.name, "alpha");
	assert_string_equal(h.boot_id, "11-22");
	assert_string_equal(h.machine_id, "0123");
	assert_string_equal(h.unique_id, "u-1");
	assert_string_equal(h.identifier, "");
	assert_int_equal(h.name_is_machines, MOUNT_YES);
	assert_int_equal(h.recover_lost_locks, MOUNT_YES);
}

TEST("a container's host name is not the machine's")
{
	const char *root = test_directory();
	struct mount_host h;

	plant("/proc/sys/kernel/hostname", "holdfast-0\n");
	plant("/proc/self/ns/uts", "uts:[4026532871]");
	plant("/sys/module/nfs/parameters/recover_lost_locks", "N\n");
	mount_host_read(root, &h);
	assert_int_equal(h.name_is_machines, MOUNT_NO);
	assert_int_equal(h.recover_lost_locks, MOUNT_NO);
}

TEST("this machine: the mount that is found is the one that statfs sees")
{
	const char *reason;
	struct mount m;
	struct mount_host h;
	struct io_fs fs;
	struct io *io;

	mount_read("", test_directory(), &m);
	assert_true(m.found);
	assert_true(m.id > 0);
	mount_host_read("", &h);
	assert_true(h.name[0] && h.boot_id[0]);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	assert_int_equal(io_fs_info(io, test_directory_path, &fs), 0);
	io_free(io);
	/* ext2 and ext3 have the magic of ext4. */
	if (strcmp(fs.name, "ext4") && strncmp(fs.name, "0x", 2))
		assert_string_equal(m.type, fs.name);
}

/* ---- the judgement ---- */

static struct mount_findings findings;

static void judge_on(const char *super, struct mount_host h,
		     const char *fs_name, int network)
{
	struct io_fs fs = {.network = network};
	char text[512];

	snprintf(fs.name, sizeof(fs.name), "%s", fs_name);
	snprintf(text, sizeof(text), "1 0 0:9 / / rw - %s a:/b %s\n",
		 strstr(super, "vers=3") || strstr(super, "vers=2") ? "nfs"
								    : "nfs4",
		 super);
	assert_true(look_for(text, 0, "/data"));
	mount_check(&found, &h, &fs, &findings);
}

static const struct mount_host good_host = {
	.name = "alpha",
	.name_is_machines = MOUNT_YES,
	.boot_id = "b",
	.recover_lost_locks = MOUNT_NO,
};

static void judge(const char *super)
{
	judge_on(super, good_host, "nfs", 1);
}

static const struct mount_finding *finding(const char *name)
{
	for (unsigned i = 0; i < findings.count; i++) {
		if (!strcmp(findings.items[i].name, name))
			return &findings.items[i];
	}
	return NULL;
}

static void assert_found(const char *name, enum mount_severity severity)
{
	const struct mount_finding *f = finding(name);

	if (!f)
		fail_msg("there is no finding \"%s\"", name);
	else if (f->severity != severity)
		fail_msg("\"%s\" is of severity %d", name, f->severity);
	else
		assert_true(f->what[0] && f->why[0] && f->todo[0]);
}

TEST("a mount as the manual asks for it is neither refused nor warned of")
{
	judge("rw,vers=4.2,hard,proto=tcp,timeo=50,retrans=2,local_lock=none");
	assert_int_equal(mount_check_count(&findings, MOUNT_REFUSE), 0);
	assert_int_equal(mount_check_count(&findings, MOUNT_WARN), 0);
	assert_found("export", MOUNT_NOTE);
	judge(SUPER);
	assert_int_equal(mount_check_count(&findings, MOUNT_REFUSE), 0);
	assert_found("timeo", MOUNT_NOTE);
}

TEST("each dangerous option is refused, alone and by its name")
{
	static const struct {
		const char *super, *name;
		enum mount_severity severity;
	} samples[] = {
		{"rw,vers=4.2,soft", "soft", MOUNT_REFUSE},
		{"rw,vers=4.2,softerr", "soft", MOUNT_REFUSE},
		{"rw,vers=4.2,softreval", "softreval", MOUNT_REFUSE},
		{"rw,vers=4.2,nolock", "nolock", MOUNT_REFUSE},
		{"rw,vers=4.2,local_lock=all", "local_lock", MOUNT_REFUSE},
		{"rw,vers=4.2,local_lock=posix", "local_lock", MOUNT_REFUSE},
		{"rw,vers=4.2,local_lock=flock", "local_lock", MOUNT_REFUSE},
		{"rw,vers=4.0", "version", MOUNT_REFUSE},
		{"rw,vers=3", "version", MOUNT_REFUSE},
		{"rw,vers=2", "version", MOUNT_REFUSE},
		{"ro,vers=4.2", "read-only", MOUNT_REFUSE},
		{"rw,vers=4.2,nocto", "nocto", MOUNT_WARN},
		{"rw,vers=4.2,proto=udp", "udp", MOUNT_WARN},
		{"rw,vers=4.2,noac", "noac", MOUNT_NOTE},
		{"rw,vers=4.2,nosharecache", "nosharecache", MOUNT_NOTE},
	};

	for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
		judge(samples[i].super);
		assert_found(samples[i].name, samples[i].severity);
		assert_int_equal(
			mount_check_count(&findings, MOUNT_REFUSE) +
				mount_check_count(&findings, MOUNT_WARN),
			samples[i].severity != MOUNT_NOTE);
	}
}

TEST("everything wrong at once is all found")
{
	struct mount_host h = {.recover_lost_locks = MOUNT_YES,
			       .name = "localhost",
			       .name_is_machines = MOUNT_YES};

	judge_on("ro,vers=4.0,soft,softerr,softreval,nolock,local_lock=all,"
		 "proto=udp,nocto,noac,nosharecache,timeo=600",
		 h, "nfs", 1);
	assert_int_equal(mount_check_count(&findings, MOUNT_REFUSE), 8);
	assert_int_equal(mount_check_count(&findings, MOUNT_WARN), 2);
	assert_found("recover_lost_locks", MOUNT_REFUSE);
	assert_found("identity", MOUNT_REFUSE);
}

TEST("a host name that any machine may have needs a unique id")
{
	static const char *const names[] = {"", "(none)", "localhost",
					    "localhost.localdomain"};
	struct mount_host h = good_host;

	for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
		snprintf(h.name, sizeof(h.name), "%s", names[i]);
		h.unique_id[0] = h.identifier[0] = '\0';
		judge_on("rw,vers=4.2", h, "nfs", 1);
		assert_found("identity", MOUNT_REFUSE);
		/* NFS 3 knows its clients by address. */
		judge_on("rw,vers=3", h, "nfs", 1);
		assert_null(finding("identity"));
		strcpy(h.unique_id, "u");
		judge_on("rw,vers=4.2", h, "nfs", 1);
		assert_null(finding("identity"));
		h.unique_id[0] = '\0';
		strcpy(h.identifier, "u");
		judge_on("rw,vers=4.2", h, "nfs", 1);
		assert_null(finding("identity"));
	}
	strcpy(h.name, "localhostess");
	h.identifier[0] = '\0';
	judge_on("rw,vers=4.2", h, "nfs", 1);
	assert_null(finding("identity"));
}

TEST("a container's name proves nothing about the node: that is a note")
{
	struct mount_host h = good_host;

	strcpy(h.name, "localhost");
	h.name_is_machines = MOUNT_NO;
	judge_on("rw,vers=4.2", h, "nfs", 1);
	assert_found("identity", MOUNT_NOTE);
	h.name_is_machines = MOUNT_UNKNOWN;
	judge_on("rw,vers=4.2", h, "nfs", 1);
	assert_found("identity", MOUNT_NOTE);
}

TEST("what is unknown is at most a warning")
{
	struct mount m = {0};
	struct mount_host h = {0};
	struct io_fs fs = {.network = 1, .name = "nfs"};

	mount_check(&m, &h, &fs, &findings);
	assert_int_equal(mount_check_count(&findings, MOUNT_REFUSE), 0);
	assert_found("unseen", MOUNT_WARN);
	judge_on("rw,local_lock=none", (struct mount_host){0}, "nfs", 1);
	assert_int_equal(found.nfs.major, 4);
}

TEST("local disks are silent, memory and a container's layer are not")
{
	struct mount m = {.found = true, .type = "ext4"};
	struct mount_host h = {.recover_lost_locks = MOUNT_YES};
	struct io_fs fs = {.name = "ext4"};

	mount_check(&m, &h, &fs, &findings);
	assert_int_equal(findings.count, 0);
	strcpy(fs.name, "tmpfs");
	mount_check(&m, &h, &fs, &findings);
	assert_found("memory", MOUNT_WARN);
	strcpy(fs.name, "overlay");
	mount_check(&m, &h, &fs, &findings);
	assert_found("overlay", MOUNT_WARN);
	fs = (struct io_fs){.name = "cifs", .network = 1};
	strcpy(m.type, "cifs");
	mount_check(&m, &h, &fs, &findings);
	assert_found("network", MOUNT_WARN);
	assert_int_equal(findings.count, 1);
}

TEST_MAIN()
