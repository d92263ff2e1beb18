/* broker/daemon/directory.c: see directory.h. */
#include "broker/daemon/directory.h"

#include <string.h>
#include <sys/stat.h>

#include "base/logger.h"

int directory_open(struct io *io, const char *dir, char *why, size_t why_len)
{
	char parent[512];
	const char *slash = strrchr(dir, '/');
	struct stat st;
	int err;

	if (!stat(dir, &st) && S_ISDIR(st.st_mode))
		return 0;
	if (!slash)
		snprintf(parent, sizeof(parent), ".");
	else
		snprintf(parent, sizeof(parent), "%.*s",
			 slash > dir ? (int)(slash - dir) : 1, dir);
	err = io_mkdir(io, dir);
	if (!err)
		err = io_sync_dir(io, parent);
	if (err)
		snprintf(why, why_len,
			 "the data directory %.400s cannot be made; give "
			 "another one with --data-dir",
			 dir);
	return err;
}

void directory_look(const struct log *log, const char *dir, bool *refusing)
{
	const struct log_stats *stats = log_stats(log);
	bool now = stats->disk_refusing;

	if (now == *refusing)
		return;
	*refusing = now;
	if (now)
		logger_warn("daemon", "disk-full",
			    "dir=%s free_mib=%llu size_mib=%llu why=%s",
			    LOGGER_QUOTE(dir),
			    (unsigned long long)(stats->disk_free >> 20),
			    (unsigned long long)(stats->disk_total >> 20),
			    LOGGER_QUOTE("publishing is refused: less than "
					 "disk_max_use allows is free, or "
					 "another journal.segment_size and "
					 "journal.reserve do not fit; "
					 "consuming goes on"));
	else
		logger_info("daemon", "disk-ok", "dir=%s free_mib=%llu",
			    LOGGER_QUOTE(dir),
			    (unsigned long long)(stats->disk_free >> 20));
}
