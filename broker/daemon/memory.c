/* broker/daemon/memory.c: see memory.h.
 *
 * In a container /proc/self/cgroup may name a path of the host that is not
 * mounted here; the files at the mount's top are then the container's own.  So
 * every level that can be read counts, and the smallest limit wins. */
#include "broker/daemon/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define MEMORY_DEFAULT (256 * MIB)
#define MEMORY_LEAST (16 * MIB)
/* Version 1 says "no limit" with the largest multiple of a page. */
#define NO_LIMIT (1ull << 60)
#define PATH_BYTES 4096u

struct search {
	const char *root;
	uint64_t least; /* 0: no limit found */
	char file[PATH_BYTES];
};

static void look_at(struct search *s, const char *file)
{
	char path[2 * PATH_BYTES], text[64], *end;
	unsigned long long bytes;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s%s", s->root, file) >=
	    (int)sizeof(path))
		return;
	f = fopen(path, "r");
	if (!f)
		return;
	if (fgets(text, sizeof(text), f) && text[0] >= '0' && text[0] <= '9') {
		bytes = strtoull(text, &end, 10);
		if (bytes && bytes < NO_LIMIT &&
		    (*end == '\n' || *end == '\0') &&
		    (!s->least || bytes < s->least)) {
			s->least = bytes;
			snprintf(s->file, sizeof(s->file), "%s", file);
		}
	}
	fclose(f);
}

/* The group at path and every one above it. */
static void walk_up(struct search *s, const char *mount, const char *path,
		    const char *name)
{
	char file[PATH_BYTES];
	size_t len = strlen(path);

	for (;;) {
		while (len && path[len - 1] == '/')
			len--;
		if (snprintf(file, sizeof(file), "%s%.*s/%s", mount, (int)len,
			     path, name) < (int)sizeof(file))
			look_at(s, file);
		if (!len)
			return;
		while (len && path[len - 1] != '/')
			len--;
	}
}

static bool names_memory(const char *controllers, size_t len)
{
	static const char word[] = "memory";
	const char *at = controllers, *end = controllers + len;

	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		size_t n = (size_t)((comma ? comma : end) - at);

		if (n == sizeof(word) - 1 && !memcmp(at, word, n))
			return true;
		at += n + 1;
	}
	return false;
}

/* "0::/path" is version 2; "4:memory,hugetlb:/path" is version 1. */
static void look_up_line(struct search *s, char *line)
{
	char *controllers = strchr(line, ':'), *path;

	line[strcspn(line, "\n")] = '\0';
	path = controllers ? strchr(controllers + 1, ':') : NULL;
	if (!path || path[1] != '/' || strstr(path, "/.."))
		return;
	controllers++;
	if (controllers == path) {
		walk_up(s, "/sys/fs/cgroup", path + 1, "memory.max");
		walk_up(s, "/sys/fs/cgroup/unified", path + 1, "memory.max");
	} else if (names_memory(controllers, (size_t)(path - controllers))) {
		walk_up(s, "/sys/fs/cgroup/memory", path + 1,
			"memory.limit_in_bytes");
	}
}

static void search_cgroup(struct search *s)
{
	char path[PATH_BYTES + 32], line[PATH_BYTES];
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", s->root);
	f = fopen(path, "r");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		look_up_line(s, line);
	fclose(f);
}

void memory_choose(uint64_t configured, const char *root,
		   struct memory_choice *ret)
{
	struct search s = {.root = root};
	struct memory_choice c = {0};

	search_cgroup(&s);
	c.cgroup_bytes = s.least;
	if (configured) {
		c.bytes = configured;
		snprintf(c.why, sizeof(c.why), "limits.memory says so");
	} else if (s.least && s.least / 2 < MEMORY_DEFAULT) {
		c.bytes = base_max(s.least / 2, MEMORY_LEAST);
		snprintf(c.why, sizeof(c.why),
			 "half of %" PRIu64 " MiB, the control group's limit "
			 "(%.100s)",
			 s.least / MIB, s.file);
	} else {
		c.bytes = MEMORY_DEFAULT;
		snprintf(c.why, sizeof(c.why),
			 s.least ? "the default; the control group's limit "
				   "leaves room for it"
				 : "the default; there is no limit of a "
				   "control group");
	}
	*ret = c;
}
