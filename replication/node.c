/* replication/node.c: see node.h.
 *
 * Crash argument: the file is one block, written whole; a torn one fails its
 * checksum and counts as no file.  Losing it costs a warning, never data. */
#include "replication/node.h"

#include <inttypes.h>
#include <string.h>

#include "base/crc32c.h"

#define HEAD "holdfast node 1\n"
#define LOOKS_EVERY_NS 250000000ull
#define PATH_BYTES 4096u

bool node_of(const struct mount *m, const struct mount_host *h,
	     struct node *ret)
{
	/* The kernel asks for the identifier of the network namespace first,
	 * then for the module's. */
	const char *unique = h->identifier[0] ? h->identifier : h->unique_id;
	struct node n = {0};

	if (!m->is_nfs || m->nfs.major < 4 || !h->name[0] || !h->boot_id[0] ||
	    h->name_is_machines != MOUNT_YES)
		return false;
	snprintf(n.client, sizeof(n.client), "Linux NFSv%u.%u %s%s%s",
		 m->nfs.major, m->nfs.minor, unique, unique[0] ? "/" : "",
		 h->name);
	snprintf(n.host, sizeof(n.host), "%s", h->name);
	snprintf(n.machine, sizeof(n.machine), "%s", h->machine_id);
	snprintf(n.boot, sizeof(n.boot), "%s", h->boot_id);
	*ret = n;
	return true;
}

/* ---- the record ---- */

void node_encode(const struct node *n, char *ret)
{
	size_t len;

	memset(ret, '\n', NODE_RECORD_BYTES);
	len = (size_t)snprintf(ret, NODE_RECORD_BYTES,
			       HEAD "client %s\nhost %s\nmachine %s\nboot %s\n"
				    "beat %016" PRIx64 "\n",
			       n->client, n->host, n->machine, n->boot,
			       n->beat);
	len += (size_t)snprintf(ret + len, NODE_RECORD_BYTES - len,
				"crc %08" PRIx32, crc32c(0, ret, len));
	ret[len] = '\n';
}

/* "name value\n" at *at. */
static bool take(const char **at, const char *end, const char *name, char *ret,
		 size_t room)
{
	size_t name_len = strlen(name);
	const char *stop = memchr(*at, '\n', (size_t)(end - *at));
	const char *value = *at + name_len + 1;

	if (!stop || stop < value || memcmp(*at, name, name_len) != 0 ||
	    value[-1] != ' ' || (size_t)(stop - value) >= room)
		return false;
	memcpy(ret, value, (size_t)(stop - value));
	ret[stop - value] = '\0';
	*at = stop + 1;
	return strlen(ret) == (size_t)(stop - value);
}

static bool hex(const char *text, size_t digits, uint64_t *ret)
{
	if (strlen(text) != digits ||
	    strspn(text, "0123456789abcdef") != digits)
		return false;
	*ret = strtoull(text, NULL, 16);
	return true;
}

int node_decode(const char *record, struct node *ret)
{
	const char *at = record + sizeof(HEAD) - 1;
	const char *end = record + NODE_RECORD_BYTES;
	struct node n = {0};
	char beat[20], crc[12];
	uint64_t sum;
	size_t len;

	if (memcmp(record, HEAD, sizeof(HEAD) - 1) != 0 ||
	    !take(&at, end, "client", n.client, sizeof(n.client)) ||
	    !take(&at, end, "host", n.host, sizeof(n.host)) ||
	    !take(&at, end, "machine", n.machine, sizeof(n.machine)) ||
	    !take(&at, end, "boot", n.boot, sizeof(n.boot)) ||
	    !take(&at, end, "beat", beat, sizeof(beat)))
		return -E_CORRUPT;
	len = (size_t)(at - record);
	if (!take(&at, end, "crc", crc, sizeof(crc)) || !hex(crc, 8, &sum) ||
	    sum != crc32c(0, record, len) || !hex(beat, 16, &n.beat) ||
	    !n.boot[0])
		return -E_CORRUPT;
	*ret = n;
	return 0;
}

/* ---- the file ---- */

/* Readable, and apart for every client that is: the host name, and a sum of
 * the whole string. */
static void path_of(const char *dir, const struct node *n, char *ret)
{
	char host[sizeof(n->host)];
	size_t i;

	for (i = 0; n->host[i]; i++) {
		char c = n->host[i];

		host[i] = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
					  (c >= '0' && c <= '9') || c == '-' ||
					  (c == '.' && i)
				  ? c
				  : '_';
	}
	host[i] = '\0';
	snprintf(ret, PATH_BYTES, "%s/nodes/%s-%08" PRIx32, dir, host,
		 crc32c(0, n->client, strlen(n->client)));
}

static int make_directory(struct io *io, const char *dir)
{
	char path[PATH_BYTES];
	int err;

	if (snprintf(path, sizeof(path), "%s/nodes", dir) >=
	    (int)sizeof(path) - (int)sizeof(((struct node *)0)->host) - 16)
		return -ENAMETOOLONG;
	err = io_mkdir(io, path);
	return err ? err : io_sync_dir(io, dir);
}

/* Reads what is there and, with self, writes.  Opened anew each time and past
 * the page cache: another machine may write it. */
static int visit(struct io *io, const char *path, struct node *self,
		 struct node *ret_found)
{
	char *block = io_buffer_alloc(NODE_RECORD_BYTES);
	struct io_file *file;
	size_t len = 0;
	int err;

	if (!block)
		return -ENOMEM;
	err = io_open(io, path,
		      IO_DIRECT | (self ? IO_WRITE | IO_CREATE : IO_READ),
		      &file);
	if (err)
		goto out;
	err = io_read(file, block, NODE_RECORD_BYTES, 0, &len);
	*ret_found = (struct node){0};
	if (!err && len == NODE_RECORD_BYTES && node_decode(block, ret_found))
		*ret_found = (struct node){0};
	if (!err && self) {
		io_random(io, &self->beat, sizeof(self->beat));
		node_encode(self, block);
		err = io_write(file, block, NODE_RECORD_BYTES, 0);
		if (!err)
			err = io_sync(file);
	}
	io_close(file);
out:
	io_buffer_free(block);
	return err;
}

static bool is_other(const struct node *found, const struct node *self)
{
	return found->boot[0] && strcmp(found->boot, self->boot) != 0 &&
	       !strcmp(found->client, self->client);
}

int node_beat(struct io *io, const char *dir, struct node *self,
	      struct node *ret_found)
{
	char path[PATH_BYTES];

	path_of(dir, self, path);
	return visit(io, path, self, ret_found);
}

/* -E_EXISTS when the machine that *seen names is alive.  One change could be
 * its last write, late on its way to the server. */
static int watch(struct io *io, const char *path, const struct node *self,
		 uint64_t watch_ns, struct node *seen)
{
	uint64_t end = io_now_ns(io) + watch_ns;
	unsigned changes = 0;

	while (io_now_ns(io) < end) {
		struct node now;
		int err;

		io_pause(io, base_min(LOOKS_EVERY_NS, watch_ns / 8 + 1));
		err = visit(io, path, NULL, &now);
		if (err)
			return err == -ENOENT ? 0 : err;
		if (!is_other(&now, self) || now.beat == seen->beat)
			continue;
		*seen = now;
		if (++changes == 2)
			return -E_EXISTS;
	}
	return 0;
}

int node_claim(struct io *io, const char *dir, struct node *self,
	       uint64_t watch_ns, struct node *ret_other)
{
	char path[PATH_BYTES];
	struct node found = {0};
	int err = make_directory(io, dir);

	if (err)
		return err;
	path_of(dir, self, path);
	err = visit(io, path, NULL, &found);
	if (err && err != -ENOENT)
		return err;
	if (!err && is_other(&found, self)) {
		err = watch(io, path, self, watch_ns, &found);
		if (err == -E_EXISTS)
			*ret_other = found;
		if (err)
			return err;
	}
	return visit(io, path, self, &found);
}
