/* base/mount.c: see mount.h.
 *
 * The texts come from the kernel, but a container runtime may show what it
 * likes, so nothing in them is trusted: every field is a span inside the text,
 * and what does not fit a fixed place is cut or skipped. */
#include "base/mount.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

/* A node with thousands of containers has a mountinfo of some MiB. */
#define TEXT_BYTES_MAX (16u << 20)
/* The number that the kernel gives its first UTS namespace, the machine's
 * (PROC_UTS_INIT_INO in its sources). */
#define UTS_OF_MACHINE "uts:[4026531838]"

struct span {
	const char *at, *end;
};

/* ---- files ---- */

/* The whole file, to be freed by the caller; NULL when it is not there. */
static char *read_text(const char *root, const char *file, size_t *ret_len)
{
	char path[2 * MOUNT_PATH_BYTES];
	char *text = NULL;
	size_t len = 0, room = 0, n;
	FILE *f;

	if (snprintf(path, sizeof(path), "%s%s", root, file) >=
	    (int)sizeof(path))
		return NULL;
	f = fopen(path, "re");
	if (!f)
		return NULL;
	do {
		if (len == room) {
			char *grown = realloc(text, room += 64u << 10);

			if (!grown)
				break;
			text = grown;
		}
		n = fread(text + len, 1, room - len, f);
		len += n;
	} while (n && len < TEXT_BYTES_MAX);
	/* Half a text could name the wrong mount. */
	if (!feof(f) || ferror(f)) {
		free(text);
		text = NULL;
	}
	fclose(f);
	*ret_len = len;
	return text;
}

/* The first line of a small file, without its end; "" when there is none, or
 * the kernel printed a pointer that is not set. */
static void read_line(const char *root, const char *file, char *ret,
		      size_t room)
{
	size_t len = 0;
	char *text = read_text(root, file, &len);
	size_t n = 0;

	while (n < len && n + 1 < room && text[n] > ' ' && text[n] < 0x7f) {
		ret[n] = text[n];
		n++;
	}
	ret[n] = '\0';
	if (!strcmp(ret, "(null)"))
		ret[0] = '\0';
	free(text);
}

/* ---- spans ---- */

/* Up to the next `by`, which is skipped; *from is brought forward. */
static struct span cut(struct span *from, char by)
{
	const char *stop = memchr(from->at, by, (size_t)(from->end - from->at));
	struct span s = {from->at, stop ? stop : from->end};

	from->at = stop ? stop + 1 : from->end;
	return s;
}

static bool is(struct span s, const char *word)
{
	size_t len = strlen(word);

	return (size_t)(s.end - s.at) == len && !memcmp(s.at, word, len);
}

static void copy(struct span s, char *ret, size_t room)
{
	size_t n = base_min((size_t)(s.end - s.at), room - 1);

	memcpy(ret, s.at, n);
	ret[n] = '\0';
}

static bool is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Space, tab, newline and backslash are written as three octal digits. */
static void copy_escaped(struct span s, char *ret, size_t room)
{
	size_t n = 0;

	while (s.at < s.end && n + 1 < room) {
		if (*s.at == '\\' && s.end - s.at >= 4 && s.at[1] <= '3' &&
		    is_octal(s.at[1]) && is_octal(s.at[2]) &&
		    is_octal(s.at[3])) {
			ret[n++] =
				(char)((s.at[1] - '0') << 6 |
				       (s.at[2] - '0') << 3 | (s.at[3] - '0'));
			s.at += 4;
		} else {
			ret[n++] = *s.at++;
		}
	}
	ret[n] = '\0';
}

static bool number(struct span s, uint64_t most, uint64_t *ret)
{
	uint64_t n = 0;

	if (s.at == s.end)
		return false;
	for (; s.at < s.end; s.at++) {
		unsigned digit = (unsigned char)*s.at - (unsigned)'0';

		if (digit > 9 || n > (most - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*ret = n;
	return true;
}

/* ---- options ---- */

static bool has_option(struct span options, const char *word)
{
	while (options.at < options.end) {
		if (is(cut(&options, ','), word))
			return true;
	}
	return false;
}

static void take_version(struct mount_nfs *nfs, struct span value)
{
	struct span major = cut(&value, '.');
	uint64_t n;

	if (!number(major, 99, &n))
		return;
	nfs->major = (unsigned)n;
	if (number(value, 99, &n))
		nfs->minor = (unsigned)n;
}

static void take_value(struct mount_nfs *nfs, struct span name,
		       struct span value)
{
	uint64_t n;

	if (is(name, "vers") || is(name, "nfsvers"))
		take_version(nfs, value);
	else if (is(name, "minorversion") && number(value, 99, &n))
		nfs->minor = (unsigned)n;
	else if (is(name, "local_lock"))
		copy(value, nfs->local_lock, sizeof(nfs->local_lock));
	else if (is(name, "timeo") && number(value, UINT_MAX, &n))
		nfs->timeo_tenths = (unsigned)n;
	else if (is(name, "retrans") && number(value, UINT_MAX, &n))
		nfs->retrans = (unsigned)n;
	else if (is(name, "clientaddr"))
		copy(value, nfs->clientaddr, sizeof(nfs->clientaddr));
	else if (is(name, "proto"))
		nfs->udp = is(value, "udp") || is(value, "udp6");
}

static void take_options(struct mount_nfs *nfs, struct span options)
{
	const struct {
		const char *word;
		bool *flag;
	} flags[] = {
		{"soft", &nfs->soft},
		{"softerr", &nfs->softerr},
		{"softreval", &nfs->softreval},
		{"nolock", &nfs->nolock},
		{"nocto", &nfs->nocto},
		{"noac", &nfs->noac},
		{"nosharecache", &nfs->nosharecache},
	};

	while (options.at < options.end) {
		struct span value = cut(&options, ',');
		struct span name;

		for (size_t i = 0; i < ARRAY_COUNT(flags); i++)
			*flags[i].flag |= is(value, flags[i].word);
		name = cut(&value, '=');
		take_value(nfs, name, value);
	}
}

/* ---- mountinfo ---- */

struct line {
	uint64_t id;
	struct span point, options, type, source, super;
};

/* 36 35 98:0 /root /point rw,noatime master:1 - nfs4 host:/x rw,vers=4.2 */
static bool take_line(struct span text, struct line *ret)
{
	struct line l;
	struct span field;

	if (!number(cut(&text, ' '), UINT64_MAX, &l.id))
		return false;
	cut(&text, ' '); /* parent */
	cut(&text, ' '); /* device */
	cut(&text, ' '); /* root */
	l.point = cut(&text, ' ');
	l.options = cut(&text, ' ');
	do {
		if (text.at == text.end)
			return false;
		field = cut(&text, ' ');
	} while (!is(field, "-"));
	l.type = cut(&text, ' ');
	l.source = cut(&text, ' ');
	l.super = cut(&text, ' ');
	if (l.point.at == l.point.end || l.type.at == l.type.end)
		return false;
	*ret = l;
	return true;
}

/* The length of point when path lies on or below it, else 0. */
static size_t covers(const char *point, const char *path)
{
	size_t len = strlen(point);

	while (len > 1 && point[len - 1] == '/')
		len--;
	if (len == 1 && point[0] == '/')
		return path[0] == '/';
	if (strncmp(path, point, len) != 0)
		return 0;
	return path[len] == '\0' || path[len] == '/' ? len : 0;
}

static void take_mount(const struct line *l, struct mount *ret)
{
	*ret = (struct mount){.found = true, .id = l->id};
	copy(l->type, ret->type, sizeof(ret->type));
	copy_escaped(l->point, ret->point, sizeof(ret->point));
	copy_escaped(l->source, ret->source, sizeof(ret->source));
	ret->read_only =
		has_option(l->options, "ro") || has_option(l->super, "ro");
	ret->is_nfs = is(l->type, "nfs") || is(l->type, "nfs4");
	if (!ret->is_nfs)
		return;
	/* Before 3.9 the kernel showed 4.0 as "vers=4", or by the type. */
	if (is(l->type, "nfs4"))
		ret->nfs.major = 4;
	take_options(&ret->nfs, l->super);
}

bool mount_parse(const char *text, size_t len, const struct mount_key *key,
		 struct mount *ret)
{
	struct span rest = {text, text + len};
	struct line line, best = {0};
	char point[MOUNT_PATH_BYTES];
	size_t longest = 0;

	while (rest.at < rest.end) {
		size_t covered;

		if (!take_line(cut(&rest, '\n'), &line))
			continue;
		if (key->id && line.id == key->id) {
			take_mount(&line, ret);
			return true;
		}
		copy_escaped(line.point, point, sizeof(point));
		covered = covers(point, key->path);
		if (covered && covered >= longest) {
			longest = covered;
			best = line;
		}
	}
	if (longest)
		take_mount(&best, ret);
	return longest > 0;
}

void mount_read(const char *root, const char *dir, struct mount *ret)
{
	char real[PATH_MAX];
	struct mount_key key = {.path = dir};
	struct mount found = {0};
	struct statx st;
	size_t len = 0;
	char *text = read_text(root, "/proc/self/mountinfo", &len);

	if (!root[0]) {
		if (realpath(dir, real))
			key.path = real;
		if (!statx(AT_FDCWD, dir, 0, STATX_MNT_ID, &st) &&
		    (st.stx_mask & STATX_MNT_ID))
			key.id = st.stx_mnt_id;
	}
	if (text)
		(void)mount_parse(text, len, &key, &found);
	free(text);
	*ret = found;
}

/* ---- this machine ---- */

static enum mount_known read_bool(const char *root, const char *file)
{
	char text[16];

	read_line(root, file, text, sizeof(text));
	if (!text[0])
		return MOUNT_UNKNOWN;
	return text[0] == 'Y' || text[0] == '1' ? MOUNT_YES : MOUNT_NO;
}

static enum mount_known read_uts(const char *root)
{
	char path[MOUNT_PATH_BYTES], name[64];
	ssize_t n;

	if (snprintf(path, sizeof(path), "%s/proc/self/ns/uts", root) >=
	    (int)sizeof(path))
		return MOUNT_UNKNOWN;
	n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return MOUNT_UNKNOWN;
	name[n] = '\0';
	return strcmp(name, UTS_OF_MACHINE) ? MOUNT_NO : MOUNT_YES;
}

void mount_host_read(const char *root, struct mount_host *ret)
{
	struct mount_host h = {.name_is_machines = read_uts(root)};
	struct utsname u;

	read_line(root, "/proc/sys/kernel/hostname", h.name, sizeof(h.name));
	if (!h.name[0] && !root[0] && !uname(&u))
		snprintf(h.name, sizeof(h.name), "%s", u.nodename);
	read_line(root, "/etc/machine-id", h.machine_id, sizeof(h.machine_id));
	read_line(root, "/proc/sys/kernel/random/boot_id", h.boot_id,
		  sizeof(h.boot_id));
	read_line(root, "/sys/module/nfs/parameters/nfs4_unique_id",
		  h.unique_id, sizeof(h.unique_id));
	read_line(root, "/sys/fs/nfs/net/nfs_client/identifier", h.identifier,
		  sizeof(h.identifier));
	h.recover_lost_locks = read_bool(
		root, "/sys/module/nfs/parameters/recover_lost_locks");
	*ret = h;
}

/* ---- mountstats ---- */

/* "device SOURCE mounted on POINT with fstype nfs4 statvers=1.1" */
static bool begins_device(struct span line, struct span *ret_point)
{
	if (!is(cut(&line, ' '), "device"))
		return false;
	cut(&line, ' ');
	*ret_point = (struct span){line.at, line.at};
	if (is(cut(&line, ' '), "mounted") && is(cut(&line, ' '), "on"))
		*ret_point = cut(&line, ' ');
	return true;
}

/* "\t     GETATTR: 12 12 0 2208 2880 0 3 4 0": the first is calls made. */
static bool take_calls(struct span line, const char *operation, uint64_t *ret)
{
	struct span name;

	while (line.at < line.end && (*line.at == ' ' || *line.at == '\t'))
		line.at++;
	name = cut(&line, ':');
	if (!is(name, operation))
		return false;
	while (line.at < line.end && *line.at == ' ')
		line.at++;
	return number(cut(&line, ' '), UINT64_MAX, ret);
}

bool mount_stats_parse(const char *text, size_t len, const char *point,
		       const char *operation, uint64_t *ret_calls)
{
	struct span rest = {text, text + len}, at;
	char name[MOUNT_PATH_BYTES];
	bool ours = false, found = false;
	uint64_t calls = 0;

	/* Of several mounts on one point the last is the one on top. */
	while (rest.at < rest.end) {
		struct span line = cut(&rest, '\n');

		if (begins_device(line, &at)) {
			copy_escaped(at, name, sizeof(name));
			ours = !strcmp(name, point);
		} else if (ours && take_calls(line, operation, &calls)) {
			found = true;
		}
	}
	if (found)
		*ret_calls = calls;
	return found;
}

bool mount_stats_read(const char *root, const char *point,
		      const char *operation, uint64_t *ret_calls)
{
	size_t len = 0;
	char *text = read_text(root, "/proc/self/mountstats", &len);
	bool found = text &&
		     mount_stats_parse(text, len, point, operation, ret_calls);

	free(text);
	return found;
}
