/* broker/daemon/memory.c: see memory.h. */
#include "broker/daemon/memory.h"

#include <inttypes.h>

#include "base/logger.h"
#include "broker/daemon/cgroup.h"

#define MIB ((uint64_t)1 << 20)
#define MEMORY_DEFAULT (256 * MIB)
#define MEMORY_LEAST (16 * MIB)

void memory_choose(uint64_t configured, const char *root,
		   struct memory_choice *ret)
{
	char file[CGROUP_PATH_BYTES];
	struct memory_choice c = {.cgroup_bytes = cgroup_memory(root, file)};
	uint64_t least = c.cgroup_bytes;

	if (configured) {
		c.bytes = configured;
		snprintf(c.why, sizeof(c.why), "limits.memory says so");
	} else if (least && least / 2 < MEMORY_DEFAULT) {
		c.bytes = base_max(least / 2, MEMORY_LEAST);
		snprintf(c.why, sizeof(c.why),
			 "half of %" PRIu64 " MiB, the control group's limit "
			 "(%.100s)",
			 least / MIB, file);
	} else {
		c.bytes = MEMORY_DEFAULT;
		snprintf(c.why, sizeof(c.why),
			 least ? "the default; the control group's limit "
				 "leaves room for it"
			       : "the default; there is no limit of a "
				 "control group");
	}
	*ret = c;
}

void memory_tell(const struct memory_choice *c)
{
	logger_info("daemon", "memory", "bytes=%llu why=%s",
		    (unsigned long long)c->bytes, LOGGER_QUOTE(c->why));
	if (c->cgroup_bytes && c->bytes > c->cgroup_bytes)
		logger_warn("daemon", "memory-beyond-limit",
			    "bytes=%llu control_group=%llu why=%s",
			    (unsigned long long)c->bytes,
			    (unsigned long long)c->cgroup_bytes,
			    LOGGER_QUOTE("the kernel would kill the broker "
					 "first; lower limits.memory"));
}
