/* tools/doctor.c: `holdfast doctor`: is this machine fit for a broker, may its
 * data directory be shared, and how fast is its disk.  Reads the system, and
 * writes only probe files in the data directory, which it removes. */
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "tools/command.h"
#include "tools/doctor_disk.h"
#include "tools/doctor_mount.h"
#include "tools/output.h"

struct doctor {
	json_t *lines;
	unsigned counts[3];
	const char *data_dir, *index_dir;
	struct mount mount;
	unsigned format;
	bool no_write;
};

static const char *const verdict_words[] = {"ok", "warn", "fail"};

/* advice: what to do; NULL when it is ok. */
static void say(struct doctor *d, enum doctor_verdict verdict, const char *what,
		const char *advice, const char *format, ...) PRINTF_LIKE(5, 6);
static void say(struct doctor *d, enum doctor_verdict verdict, const char *what,
		const char *advice, const char *format, ...)
{
	char found[640];
	json_t *line;
	va_list args;

	va_start(args, format);
	vsnprintf(found, sizeof(found), format, args);
	va_end(args);
	d->counts[verdict]++;
	line = json_pack("{s:s, s:s, s:s}", "check", what, "result",
			 verdict_words[verdict], "found", found);
	if (verdict != DOCTOR_OK && advice)
		json_object_set_new(line, "advice", json_string(advice));
	json_array_append_new(d->lines, line);
	if (d->format != OUTPUT_TABLE)
		return;
	printf("%-5s %-12s %s\n", verdict_words[verdict], what, found);
	if (verdict != DOCTOR_OK && advice)
		printf("      %-12s → %s\n", "", advice);
}

static void report_say(void *ctx, enum doctor_verdict verdict, const char *what,
		       const char *advice, const char *found)
{
	say(ctx, verdict, what, advice, "%s", found);
}

static void report_trip(void *ctx, enum doctor_verdict verdict,
			const char *what, const char *advice, const char *found,
			const struct doctor_trip *trip)
{
	struct doctor *d = ctx;
	json_t *line;

	report_say(d, verdict, what, advice, found);
	line = json_array_get(d->lines, json_array_size(d->lines) - 1);
	json_object_set_new(line, "p50_ns",
			    json_integer((json_int_t)trip->p50_ns));
	json_object_set_new(line, "p99_ns",
			    json_integer((json_int_t)trip->p99_ns));
}

static struct doctor_report report_of(struct doctor *d)
{
	return (struct doctor_report){
		.say = report_say, .say_trip = report_trip, .ctx = d};
}

static void check_kernel(struct doctor *d)
{
	struct utsname u;
	unsigned major = 0, minor = 0;

	uname(&u);
	sscanf(u.release, "%u.%u", &major, &minor);
	say(d, major * 1000 + minor < 5010 ? DOCTOR_WARN : DOCTOR_OK, "kernel",
	    "use Linux 5.10 or newer; older ones are not tested", "%s %s %s",
	    u.sysname, u.release, u.machine);
}

static void check_processor(struct doctor *d)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);

#if defined(__x86_64__)
	bool aes = __builtin_cpu_supports("aes");
	bool pclmul = __builtin_cpu_supports("pclmul");
	bool crc = __builtin_cpu_supports("sse4.2");

	say(d, aes && pclmul && crc ? DOCTOR_OK : DOCTOR_WARN, "processor",
	    "encryption and checksums work but are slow; give the virtual "
	    "machine the host's CPU model",
	    "%ld cores, AES %s, PCLMUL %s, SSE4.2 %s", count,
	    aes ? "yes" : "no", pclmul ? "yes" : "no", crc ? "yes" : "no");
#else
	say(d, DOCTOR_OK, "processor", NULL,
	    "%ld cores, not x86-64: checksums by "
	    "table",
	    count);
#endif
}

static void check_engine(struct doctor *d, struct io **ret)
{
	const char *reason = "";
	int err = io_create(IO_ENGINE_AUTO, ret, &reason);

	if (err) {
		*ret = NULL;
		say(d, DOCTOR_FAIL, "I/O engine", "see the cause", "%s: %s",
		    err_str(err), reason);
		return;
	}
	say(d,
	    strcmp(io_engine_name(*ret), "io_uring") ? DOCTOR_WARN : DOCTOR_OK,
	    "I/O engine",
	    "the thread engine is correct but slower; allow the io_uring "
	    "system calls (seccomp profile, kernel.io_uring_disabled) for "
	    "full speed",
	    "%s", reason);
}

static void check_limits(struct doctor *d)
{
	struct rlimit locked, files;

	getrlimit(RLIMIT_MEMLOCK, &locked);
	getrlimit(RLIMIT_NOFILE, &files);
	if (locked.rlim_cur == RLIM_INFINITY)
		say(d, DOCTOR_OK, "memlock", NULL, "unlimited");
	else
		say(d, locked.rlim_cur < 64 * 1024 ? DOCTOR_WARN : DOCTOR_OK,
		    "memlock",
		    "set LimitMEMLOCK=8M (systemd) or ulimit -l 8192, so "
		    "that keys stay out of swap and buffers can be registered",
		    "%llu KiB", (unsigned long long)locked.rlim_cur / 1024);
	say(d, files.rlim_cur < 4096 ? DOCTOR_WARN : DOCTOR_OK, "open files",
	    "each connection needs one; set LimitNOFILE=65536 (systemd) or "
	    "ulimit -n",
	    "%llu (up to %llu)", (unsigned long long)files.rlim_cur,
	    (unsigned long long)files.rlim_max);
}

/* The smallest memory.max from our control group up to the root. */
static uint64_t cgroup_memory(void)
{
	char group[2048] = "", path[4096], line[64];
	uint64_t least = UINT64_MAX;
	FILE *f = fopen("/proc/self/cgroup", "r");
	char *slash;

	if (!f)
		return least;
	while (fgets(path, sizeof(path), f)) {
		if (!strncmp(path, "0::", 3))
			snprintf(group, sizeof(group), "%.*s",
				 (int)strcspn(path + 3, "\n"), path + 3);
	}
	fclose(f);
	for (;;) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max",
			 group);
		f = fopen(path, "r");
		if (f) {
			if (fgets(line, sizeof(line), f) && line[0] != 'm')
				least = base_min(least,
						 strtoull(line, NULL, 10));
			fclose(f);
		}
		slash = strrchr(group, '/');
		if (!slash)
			return least;
		*slash = 0;
	}
}

static void check_memory(struct doctor *d)
{
	uint64_t limit = cgroup_memory();
	uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) *
			   (uint64_t)sysconf(_SC_PAGESIZE);

	if (limit >= machine)
		say(d, machine < (512u << 20) ? DOCTOR_WARN : DOCTOR_OK,
		    "memory", "give it 512 MiB or lower limits.memory",
		    "%llu MiB, no control-group limit",
		    (unsigned long long)(machine >> 20));
	else
		say(d, limit < (384u << 20) ? DOCTOR_WARN : DOCTOR_OK, "memory",
		    "raise the container's memory limit to 512 MiB, or lower "
		    "limits.memory (256 MiB) to fit",
		    "control group: %llu MiB of %llu MiB",
		    (unsigned long long)(limit >> 20),
		    (unsigned long long)(machine >> 20));
}

static void check_clock(struct doctor *d)
{
	struct timex t = {0};
	int state = adjtimex(&t);
	time_t now = time(NULL);
	char text[40];
	struct tm utc;

	gmtime_r(&now, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	if (utc.tm_year + 1900 < 2025)
		say(d, DOCTOR_FAIL, "clock",
		    "set it: message expiry and logs use it", "%s", text);
	else
		say(d,
		    state == TIME_ERROR || state < 0 ? DOCTOR_WARN : DOCTOR_OK,
		    "clock",
		    "run an NTP client (chrony, systemd-timesyncd): message "
		    "expiry and logs use the wall clock; safety does not",
		    "%s, %s", text,
		    state == TIME_ERROR || state < 0 ? "not synchronised"
						     : "synchronised");
}

static void check_space(struct doctor *d, struct io *io)
{
	struct io_fs fs;
	int err = io_fs_info(io, d->data_dir, &fs);

	if (err) {
		say(d, DOCTOR_FAIL, "file system", "check the path", "%s: %s",
		    d->data_dir, err_str(err));
		return;
	}
	if (!strcmp(fs.name, "tmpfs") || !strcmp(fs.name, "ramfs"))
		say(d, DOCTOR_FAIL, "file system",
		    "put the data directory on a disk: nothing here survives "
		    "a restart of the machine",
		    "%s is %s", d->data_dir, fs.name);
	else
		say(d, DOCTOR_OK, "file system", NULL, "%s%s", fs.name,
		    fs.network ? " (network)" : "");
	say(d,
	    fs.bytes_free < (256u << 20)  ? DOCTOR_FAIL
	    : fs.bytes_free < (2u << 30u) ? DOCTOR_WARN
					  : DOCTOR_OK,
	    "free space", "free some: at the limit publishing stops",
	    "%llu MiB of %llu MiB", (unsigned long long)(fs.bytes_free >> 20),
	    (unsigned long long)(fs.bytes_total >> 20));
}

/* Before anything is written there. */
static void check_mount(struct doctor *d, struct io *io)
{
	struct doctor_report report = report_of(d);
	struct mount_host host;
	struct io_fs fs;

	mount_read("", d->data_dir, &d->mount);
	mount_host_read("", &host);
	if (!io_fs_info(io, d->data_dir, &fs))
		doctor_mount_explain(&report, &d->mount, &host, &fs);
	doctor_mount_index(&report, io, d->data_dir, d->index_dir);
}

static void check_trips(struct doctor *d, struct io *io)
{
	struct doctor_report report = report_of(d);
	struct doctor_trips trips;
	const char *what;
	int err = doctor_trips_measure(io, d->data_dir,
				       d->mount.is_nfs ? d->mount.point : NULL,
				       &trips, &what);

	if (err)
		say(d, DOCTOR_FAIL, "round trips",
		    "leadership needs these calls; see nfs(5) and "
		    "docs/high-availability.md",
		    "%s in %s failed: %s", what, d->data_dir, err_str(err));
	else
		doctor_mount_trips(&report, &d->mount, &trips);
}

static void check_disk(struct doctor *d, struct io *io)
{
	struct doctor_disk disk;
	char a[32], b[32], c[32];
	int err;

	err = doctor_disk_measure(io, d->data_dir, &disk);
	if (err) {
		say(d, DOCTOR_FAIL, "disk",
		    "the broker needs to create and write files there",
		    "cannot write in %s: %s", d->data_dir, err_str(err));
		return;
	}
	say(d, disk.direct ? DOCTOR_OK : DOCTOR_WARN, "O_DIRECT",
	    "this file system takes no direct I/O; the broker then uses "
	    "write and fdatasync, which is slower",
	    "%s", disk.direct ? "works" : "refused");
	say(d, disk.small_p50_ns > 20000000 ? DOCTOR_WARN : DOCTOR_OK, "sync",
	    "each confirmation waits for one of these; use a disk with a "
	    "faster flush (local NVMe, a volume with provisioned IOPS)",
	    "4 KiB durable in %s (p99 %s), %.0f per second",
	    output_duration(a, sizeof(a), disk.small_p50_ns),
	    output_duration(b, sizeof(b), disk.small_p99_ns),
	    1e9 / (double)base_max(disk.small_mean_ns, 1));
	say(d, DOCTOR_OK, "throughput", NULL,
	    "%.0f MB/s in durable writes of 256 KiB "
	    "(%s each)",
	    disk.large_bytes_per_second / 1e6,
	    output_duration(c, sizeof(c), disk.large_p50_ns));
	if (disk.small_p50_ns < 3000)
		say(d, DOCTOR_WARN, "durability",
		    "no disk is this fast: something below acknowledges "
		    "writes that it only caches (virtual disk with "
		    "cache=unsafe?)",
		    "a durable write took %s",
		    output_duration(a, sizeof(a), disk.small_p50_ns));
}

/* The directory, or where it would be made. */
static void check_directory(struct doctor *d)
{
	struct stat st;

	if (stat(d->data_dir, &st) == 0) {
		bool open = (st.st_mode & 077) && strcmp(d->data_dir, ".");

		if (!S_ISDIR(st.st_mode))
			say(d, DOCTOR_FAIL, "data dir", "name a directory",
			    "%s is not a directory", d->data_dir);
		else
			say(d, open ? DOCTOR_WARN : DOCTOR_OK, "data dir",
			    "chmod 700: names of files and sizes can be read "
			    "by others",
			    "%s, mode %03o", d->data_dir,
			    (unsigned)st.st_mode & 0777);
		return;
	}
	say(d, DOCTOR_WARN, "data dir",
	    "holdfastd makes it; the disk checks below use the current "
	    "directory",
	    "%s: %s", d->data_dir, err_str(-errno));
	d->data_dir = ".";
}

static int report(struct doctor *d)
{
	if (d->format != OUTPUT_TABLE)
		output_print(d->format, d->lines, NULL, 0);
	else
		printf("\n%u ok, %u warn, %u fail\n", d->counts[DOCTOR_OK],
		       d->counts[DOCTOR_WARN], d->counts[DOCTOR_FAIL]);
	json_decref(d->lines);
	return d->counts[DOCTOR_FAIL] ? COMMAND_FAILED : COMMAND_OK;
}

int doctor_run(int argc, char **argv)
{
	struct doctor d = {.data_dir = "."};
	const struct option table[] = {
		{"data-dir", 'd', OPTION_TEXT, &d.data_dir, "DIR",
		 "check the mount and the disk of this directory (.)"},
		{"index-dir", 0, OPTION_TEXT, &d.index_dir, "DIR",
		 "the broker's index_dir, when it has one"},
		{"no-write", 0, OPTION_FLAG, &d.no_write, NULL,
		 "do not measure the disk"},
		{"output", 'o', OPTION_CHOICE, &d.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = "holdfast doctor",
		.words = "",
		.summary = "Check whether this machine is fit for a broker, "
			   "whether the directory may be\nshared with other "
			   "nodes, and how fast its disk is.  Exit code 1 when "
			   "something\nmust be changed first.",
		.examples = "  holdfast doctor --data-dir "
			    "/var/lib/holdfast\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	struct io *io = NULL;
	int words_left;

	switch (options_parse(&options, argc, argv, &words_left)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	d.lines = json_array();
	check_kernel(&d);
	check_processor(&d);
	check_engine(&d, &io);
	check_limits(&d);
	check_memory(&d);
	check_clock(&d);
	check_directory(&d);
	if (io) {
		check_space(&d, io);
		check_mount(&d, io);
		if (!d.no_write) {
			check_disk(&d, io);
			check_trips(&d, io);
		}
	}
	io_free(io);
	return report(&d);
}
