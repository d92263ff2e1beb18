/* tests/unit/test_memory.c: what of the control group's limits the broker
 * makes its own.  The daemon's files are not in the library, so they are
 * included. */
#include "tests/unit/test.h"

#include "broker/daemon/cgroup.c"
#include "broker/daemon/memory.c"

static char tree[64];

static void plant(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", tree, path);
	for (char *at = full + strlen(tree) + 1; (at = strchr(at, '/')); at++) {
		*at = '\0';
		mkdir(full, 0700);
		*at = '/';
	}
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void begin(const char *cgroup)
{
	snprintf(tree, sizeof(tree), "/tmp/holdfast-memory-XXXXXX");
	assert_non_null(mkdtemp(tree));
	if (cgroup)
		plant("/proc/self/cgroup", cgroup);
}

static struct memory_choice end(uint64_t configured)
{
	struct memory_choice c;
	char command[128];

	memory_choose(configured, tree, &c);
	snprintf(command, sizeof(command), "rm -rf '%s'", tree);
	assert_int_equal(system(command), 0);
	return c;
}

TEST("without control groups the default is 256 MiB")
{
	struct memory_choice c;

	begin(NULL);
	c = end(0);
	assert_int_equal(c.bytes, 256 * MIB);
	assert_int_equal(c.cgroup_bytes, 0);
	assert_non_null(strstr(c.why, "default"));
}

TEST("version 2: half of the group's own limit")
{
	struct memory_choice c;

	begin("0::/system.slice/holdfast.service\n");
	plant("/sys/fs/cgroup/system.slice/holdfast.service/memory.max",
	      "268435456\n");
	plant("/sys/fs/cgroup/system.slice/memory.max", "max\n");
	c = end(0);
	assert_int_equal(c.bytes, 128 * MIB);
	assert_int_equal(c.cgroup_bytes, 256 * MIB);
	assert_non_null(strstr(c.why, "256 MiB"));
	assert_non_null(strstr(c.why, "holdfast.service/memory.max"));
}

TEST("version 2: a smaller limit further up counts")
{
	struct memory_choice c;

	begin("0::/a/b/c\n");
	plant("/sys/fs/cgroup/a/b/c/memory.max", "1073741824\n");
	plant("/sys/fs/cgroup/a/memory.max", "209715200\n");
	c = end(0);
	assert_int_equal(c.bytes, 100 * MIB);
	assert_non_null(strstr(c.why, "/sys/fs/cgroup/a/memory.max"));
}

TEST("in a container the files at the mount's top count")
{
	struct memory_choice c;

	begin("0::/\n");
	plant("/sys/fs/cgroup/memory.max", "134217728\n");
	c = end(0);
	assert_int_equal(c.bytes, 64 * MIB);
	begin("0::/docker/0123456789abcdef\n");
	plant("/sys/fs/cgroup/memory.max", "134217728\n");
	c = end(0);
	assert_int_equal(c.bytes, 64 * MIB);
}

TEST("version 1: the memory controller's path, and its way to say no limit")
{
	static const char groups[] = "12:cpuset:/other\n"
				     "5:hugetlb,memory:/docker/abc\n"
				     "1:name=systemd:/x\n";
	struct memory_choice c;

	begin(groups);
	plant("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
	      "419430400\n");
	plant("/sys/fs/cgroup/memory/memory.limit_in_bytes",
	      "9223372036854771712\n");
	c = end(0);
	assert_int_equal(c.bytes, 200 * MIB);
	begin(groups);
	plant("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
	      "9223372036854771712\n");
	c = end(0);
	assert_int_equal(c.bytes, 256 * MIB);
	assert_int_equal(c.cgroup_bytes, 0);
}

TEST("a group with room leaves the default, a tiny one gives 16 MiB")
{
	struct memory_choice c;

	begin("0::/x\n");
	plant("/sys/fs/cgroup/x/memory.max", "8589934592\n");
	c = end(0);
	assert_int_equal(c.bytes, 256 * MIB);
	assert_int_equal(c.cgroup_bytes, 8192 * MIB);
	begin("0::/x\n");
	plant("/sys/fs/cgroup/x/memory.max", "4194304\n");
	c = end(0);
	assert_int_equal(c.bytes, 16 * MIB);
}

TEST("what is configured is taken as it is")
{
	struct memory_choice c;

	begin("0::/x\n");
	plant("/sys/fs/cgroup/x/memory.max", "134217728\n");
	c = end(3 * MIB);
	assert_int_equal(c.bytes, 3 * MIB);
	assert_int_equal(c.cgroup_bytes, 128 * MIB);
	assert_non_null(strstr(c.why, "limits.memory"));
}

TEST("lines and files that make no sense are passed over")
{
	struct memory_choice c;

	begin("\n:\n::\nmemory\n0::\n0::relative\n0::/../escape\n"
	      "3:xmemory,memoryx:/x\n0::/x\n");
	plant("/sys/fs/cgroup/x/memory.max", "-5\n");
	plant("/sys/fs/cgroup/memory.max", "12 apples\n");
	plant("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "4096\n");
	plant("/sys/fs/escape/memory.max", "4096\n");
	c = end(0);
	assert_int_equal(c.bytes, 256 * MIB);
	assert_int_equal(c.cgroup_bytes, 0);
}

static bool is_rationed(const char *path, const char *text)
{
	char command[128], file[CGROUP_PATH_BYTES];
	bool rationed;

	if (path)
		plant(path, text);
	rationed = cgroup_rations_processor(tree, file);
	if (rationed)
		assert_string_equal(file, path);
	snprintf(command, sizeof(command), "rm -rf '%s'", tree);
	assert_int_equal(system(command), 0);
	return rationed;
}

TEST("a quota of processor time is seen in either version, on any level")
{
	begin(NULL);
	assert_false(is_rationed(NULL, NULL));
	begin("0::/a/b\n");
	assert_false(is_rationed("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"));
	begin("0::/a/b\n");
	assert_true(is_rationed("/sys/fs/cgroup/a/cpu.max", "50000 100000\n"));
	begin("4:cpu,cpuacct:/x\n");
	assert_true(is_rationed("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us",
				"50000\n"));
	begin("4:cpu,cpuacct:/x\n");
	assert_false(
		is_rationed("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n"));
}

TEST_MAIN()
