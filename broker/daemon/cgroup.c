/* broker/daemon/cgroup.c: see cgroup.h.
 *
 * In a container /proc/self/cgroup may name a path of the host that is not
 * mounted here; the files at the mount's top are then the container's own.  So
 * every level that can be read counts, and the smallest limit wins. */
#include "broker/daemon/cgroup.h"

#include <stdlib.h>
#include <string.h>

/* Version 1 says "no limit" with the largest multiple of a page. */
#define NO_LIMIT (1ull << 60)

/* The file that says it in either version, of version 1 the controller, too;
 * and what may follow the number. */
struct limit {
	const char *file, *controller, *file_v1, *ends;
};

static const struct limit limit_memory = {
	.file = "memory.max",
	.controller = "memory",
	.file_v1 = "memory.limit_in_bytes",
	.ends = "\n",
};

/* Both begin with the quota: "50000 100000" and "50000"; none is "max" and
 * "-1". */
static const struct limit limit_processor = {
	.file = "cpu.max",
	.controller = "cpu",
	.file_v1 = "cpu.cfs_quota_us",
	.ends = " \n",
};

struct search {
	const char *root;
	const struct limit *limit;
	uint64_t least; /* 0: no limit found */
	char *file;	/* CGROUP_PATH_BYTES */
};

static void look_at(struct search *s, const char *file)
{
	char path[2 * CGROUP_PATH_BYTES], text[64], *end;
	unsigned long long number;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s%s", s->root, file) >=
	    (int)sizeof(path))
		return;
	f = fopen(path, "r");
	if (!f)
		return;
	if (fgets(text, sizeof(text), f) && text[0] >= '0' && text[0] <= '9') {
		number = strtoull(text, &end, 10);
		if (number && number < NO_LIMIT &&
		    strchr(s->limit->ends, *end) &&
		    (!s->least || number < s->least)) {
			s->least = number;
			snprintf(s->file, CGROUP_PATH_BYTES, "%s", file);
		}
	}
	fclose(f);
}

/* The group at path and every one above it. */
static void walk_up(struct search *s, const char *mount, const char *path,
		    const char *name)
{
	char file[CGROUP_PATH_BYTES];
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

static bool names(const char *controllers, size_t len, const char *word)
{
	const char *at = controllers, *end = controllers + len;

	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		size_t n = (size_t)((comma ? comma : end) - at);

		if (n == strlen(word) && !memcmp(at, word, n))
			return true;
		at += n + 1;
	}
	return false;
}

/* "0::/path" is version 2; "4:memory,hugetlb:/path" is version 1. */
static void look_up_line(struct search *s, char *line)
{
	char *controllers = strchr(line, ':'), *path, mount[64];

	line[strcspn(line, "\n")] = '\0';
	path = controllers ? strchr(controllers + 1, ':') : NULL;
	if (!path || path[1] != '/' || strstr(path, "/.."))
		return;
	controllers++;
	if (controllers == path) {
		walk_up(s, "/sys/fs/cgroup", path + 1, s->limit->file);
		walk_up(s, "/sys/fs/cgroup/unified", path + 1, s->limit->file);
	} else if (names(controllers, (size_t)(path - controllers),
			 s->limit->controller)) {
		snprintf(mount, sizeof(mount), "/sys/fs/cgroup/%s",
			 s->limit->controller);
		walk_up(s, mount, path + 1, s->limit->file_v1);
	}
}

static void search_cgroup(struct search *s)
{
	char path[CGROUP_PATH_BYTES + 32], line[CGROUP_PATH_BYTES];
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", s->root);
	f = fopen(path, "r");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		look_up_line(s, line);
	fclose(f);
}

uint64_t cgroup_memory(const char *root, char ret_file[CGROUP_PATH_BYTES])
{
	struct search s = {
		.root = root, .limit = &limit_memory, .file = ret_file};

	search_cgroup(&s);
	return s.least;
}

bool cgroup_rations_processor(const char *root,
			      char ret_file[CGROUP_PATH_BYTES])
{
	struct search s = {
		.root = root, .limit = &limit_processor, .file = ret_file};

	search_cgroup(&s);
	return s.least;
}
