/* broker/daemon/process.c: see process.h. */
#include "broker/daemon/process.h"

#include <sched.h>
#include <sys/resource.h>

#include "base/logger.h"

void process_raise_file_limit(const struct settings *s)
{
	struct rlimit limit;
	rlim_t want = s->limits.connections + 1024;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= want)
		return;
	limit.rlim_cur = base_min(want, limit.rlim_max);
	if (setrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < want)
		logger_warn("daemon", "few-descriptors",
			    "limit=%llu limits.connections=%llu",
			    (unsigned long long)limit.rlim_cur,
			    (unsigned long long)s->limits.connections);
}

unsigned process_shard_count(const struct settings *s, unsigned most)
{
	cpu_set_t cpus;

	if (s->shards)
		return (unsigned)base_min(s->shards, most);
	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		return 1;
	return (unsigned)base_min((uint64_t)CPU_COUNT(&cpus), most);
}
