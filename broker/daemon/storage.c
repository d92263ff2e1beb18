/* broker/daemon/storage.c: see storage.h.
 *
 * The thread writes this machine's file in nodes/ again and again, so that a
 * machine with the same name sees that it is alive.  Nothing rests on it: when
 * it cannot write, that is logged once, and the journal meets the same storage
 * anyway. */
#include "broker/daemon/storage.h"

#include <string.h>

#include "base/logger.h"
#include "base/loop.h"
#include "replication/mount_check.h"
#include "replication/node.h"

#define REASONS_BYTES 1500u

struct storage {
	struct io *io;
	const char *dir;
	uint64_t beat_ns;
	struct node self;
	struct loop *loop;
	struct loop_timer timer;
	/* said already */
	bool beat_failed;
	char namesake[sizeof(((struct node *)0)->boot)];
};

/* ---- the mount ---- */

/* All of them have to fit into one message: in full when they do, else without
 * what each endangers. */
struct reasons {
	unsigned count;
	bool cut;
	char full[REASONS_BYTES], brief[REASONS_BYTES];
};

static void append(struct reasons *r, const char *what, const char *why,
		   const char *todo)
{
	size_t full = strlen(r->full), brief = strlen(r->brief);
	const char *between = r->count++ ? ".  " : "";

	if (snprintf(r->full + full, sizeof(r->full) - full, "%s%s: %s; %s",
		     between, what, why, todo) >= (int)(sizeof(r->full) - full))
		r->cut = true;
	snprintf(r->brief + brief, sizeof(r->brief) - brief, "%s%s; %s",
		 between, what, todo);
}

static void judge(const struct storage_options *o, const struct mount *m,
		  const struct mount_host *h, struct reasons *r)
{
	struct mount_findings found;
	struct io_fs fs = {0};
	char text[768];

	/* What statfs cannot say, the directory's first use will. */
	if (io_fs_info(o->io, o->dir, &fs))
		return;
	mount_check(m, h, &fs, &found);
	for (unsigned i = 0; i < found.count; i++) {
		const struct mount_finding *f = &found.items[i];

		if (f->severity == MOUNT_REFUSE)
			append(r, f->what, f->why, f->todo);
		if (f->severity != MOUNT_WARN)
			continue;
		snprintf(text, sizeof(text), "%s: %s; %s", f->what, f->why,
			 f->todo);
		logger_warn("daemon", "storage", "dir=%s finding=%s why=%s",
			    LOGGER_QUOTE(o->dir), f->name,
			    logger_quote((char[800]){0}, 800, text));
	}
}

/* ---- the name ---- */

static void say_namesake(const struct node *self, const struct node *other,
			 char *ret, size_t room)
{
	snprintf(ret, room,
		 "this machine (host name %.70s, machine id %.40s, boot id "
		 "%.40s) and one that is running now (host name %.70s, machine "
		 "id %.40s, boot id %.40s) are one NFS client to the server, "
		 "\"%.200s\"",
		 self->host, self->machine, self->boot, other->host,
		 other->machine, other->boot, self->client);
}

static void claim_name(const struct storage_options *o, const struct mount *m,
		       const struct mount_host *h, struct storage *s,
		       struct reasons *r)
{
	struct node other;
	char text[900];
	int err;

	if (!node_of(m, h, &s->self)) {
		s->self.boot[0] = '\0';
		return;
	}
	err = node_claim(o->io, o->dir, &s->self,
			 o->watch_ns ? o->watch_ns : NODE_WATCH_NS, &other);
	if (err == -E_EXISTS) {
		say_namesake(&s->self, &other, text, sizeof(text));
		append(r, text, "each revokes the other's locks and open files",
		       "give one another host name or another "
		       "nfs.nfs4_unique_id, and mount there again");
		snprintf(s->namesake, sizeof(s->namesake), "%s", other.boot);
	} else if (err) {
		logger_warn("daemon", "no-node-file", "dir=%s error=%s why=%s",
			    LOGGER_QUOTE(o->dir), LOGGER_QUOTE(err_str(err)),
			    LOGGER_QUOTE("whether another machine has this "
					 "one's NFS name cannot be seen"));
	}
}

/* [node] */
static void on_beat(struct loop_timer *timer)
{
	struct storage *s = container_of(timer, struct storage, timer);
	struct node found = {0};
	char text[900];
	int err = node_beat(s->io, s->dir, &s->self, &found);

	if (err && !s->beat_failed)
		logger_warn("daemon", "no-node-file", "dir=%s error=%s",
			    LOGGER_QUOTE(s->dir), LOGGER_QUOTE(err_str(err)));
	s->beat_failed = err != 0;
	if (!err && found.boot[0] && strcmp(found.boot, s->self.boot) != 0 &&
	    strcmp(found.boot, s->namesake) != 0) {
		snprintf(s->namesake, sizeof(s->namesake), "%s", found.boot);
		say_namesake(&s->self, &found, text, sizeof(text));
		logger_error("daemon", "namesake", "why=%s todo=%s",
			     logger_quote((char[1000]){0}, 1000, text),
			     LOGGER_QUOTE("give one another host name or "
					  "another nfs.nfs4_unique_id, and "
					  "mount there again"));
	}
	loop_timer_set(s->loop, timer, s->beat_ns);
}

/* [node] */
static void begin(void *ctx)
{
	struct storage *s = ctx;

	loop_timer_set(s->loop, &s->timer, s->beat_ns);
}

static int start(struct storage *s)
{
	int err = loop_create(s->io, "node", &s->loop);

	if (!err) {
		err = loop_start(s->loop, begin, s);
		if (err) {
			loop_free(s->loop);
			s->loop = NULL;
		}
	}
	if (err)
		logger_error("daemon", "no-threads", "error=%s",
			     LOGGER_QUOTE(err_str(err)));
	return err;
}

/* ---- */

static int refuse(const struct storage_options *o, const struct reasons *r)
{
	char text[REASONS_BYTES + 200];

	logger_quote(text, sizeof(text), r->cut ? r->brief : r->full);
	if (o->allow_unsafe) {
		logger_warn("daemon", "unsafe-storage-allowed",
			    "dir=%s reasons=%u meaning=%s why=%s",
			    LOGGER_QUOTE(o->dir), r->count,
			    LOGGER_QUOTE("storage.allow_unsafe_mount is set: "
					 "acknowledged messages can be lost"),
			    text);
		return 0;
	}
	logger_error("daemon", "unsafe-storage",
		     "dir=%s reasons=%u why=%s todo=%s", LOGGER_QUOTE(o->dir),
		     r->count, text,
		     LOGGER_QUOTE("see `holdfast doctor --data-dir`; "
				  "storage.allow_unsafe_mount: true starts "
				  "all the same, and can lose acknowledged "
				  "messages"));
	return -E_CONFIG;
}

int storage_open(const struct storage_options *o, struct storage **ret)
{
	struct storage *s = calloc(1, sizeof(*s));
	struct mount *m = malloc(sizeof(*m));
	struct mount_host h;
	struct reasons reasons = {0};
	int err = -ENOMEM;

	if (!s || !m)
		goto out;
	*s = (struct storage){
		.io = o->io,
		.dir = o->dir,
		.beat_ns = o->beat_ns ? o->beat_ns : NODE_BEAT_NS,
		.timer = {.fire = on_beat},
	};
	mount_read(o->root, o->dir, m);
	mount_host_read(o->root, &h);
	judge(o, m, &h, &reasons);
	claim_name(o, m, &h, s, &reasons);
	err = reasons.count ? refuse(o, &reasons) : 0;
	if (!err && s->self.boot[0])
		err = start(s);
	if (!err) {
		*ret = s;
		s = NULL;
	}
out:
	free(m);
	free(s);
	return err;
}

void storage_close(struct storage *s)
{
	if (!s)
		return;
	if (s->loop) {
		loop_stop(s->loop);
		loop_join(s->loop);
		loop_free(s->loop);
	}
	free(s);
}
