/* replication/leadership.c: when to take over a shared directory.
 *
 * The sign is one block, written over and over with O_DIRECT and read so, for
 * a cache would show an old one.  It is written only after a claim check, so a
 * deposed leader stops; one that was paused between the two writes one more,
 * over its successor's, which the successor's next one replaces.  A torn or
 * stray sign is no sign: it neither proves life nor its end.
 *
 * Who holds the lock and is silent in the file may be stopped, cut off, or
 * slow; whoever is missing in the lock and beats has stolen, and leads.  So a
 * candidate that gets the lock looks at what the last sign says of it. */
#include "replication/leadership.h"

#include <pthread.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

#define PATH_BYTES 1024u
#define SIGN_VERSION 1u
#define BEAT_NS_MAX 1000000000ull
#define BEAT_NS_MIN 20000000ull
#define BEATS_BEFORE_STEAL 4u
#define LOOK_NS_LOCAL 50000000ull
#define LOOK_NS_NETWORK 200000000ull

static const char sign_magic[8] = "HFLEADER";

enum sign_flag { SIGN_LOCKED = 1, SIGN_RESIGNED = 2 };

struct leadership {
	struct leadership_options options;
	char path[PATH_BYTES];
	void *block; /* IO_BLOCK */
	bool network;

	/* standing by */
	uint8_t raw[LEADERSHIP_SIGN_BYTES]; /* what was there, sign or not */
	struct leadership_sign seen;
	bool any;    /* seen is one */
	bool nobody; /* nothing was there: nobody has led */
	uint64_t looked_ns;
	uint64_t seen_ns;	 /* when it last changed, or we began */
	uint64_t yield_until_ns; /* 0: no */
	/* The leader's claim, kept open: a server that sees two clients with
	 * it does not let one answer for itself whether it is sealed. */
	struct io_file *claim;
	uint32_t claim_epoch;

	/* leading */
	struct io_file *file;
	uint64_t beat;

	pthread_mutex_t mutex;
	struct leadership_sign shown; /* [m] */
	uint64_t shown_ns;	      /* [m] */
	bool shown_any;		      /* [m] */
};

/* ---- the sign ---- */

void leadership_encode(const struct leadership_sign *s,
		       uint8_t out[LEADERSHIP_SIGN_BYTES])
{
	memset(out, 0, LEADERSHIP_SIGN_BYTES);
	memcpy(out, sign_magic, 8);
	bytes_put16(out + 8, SIGN_VERSION);
	bytes_put16(out + 10, (uint16_t)((s->locked ? SIGN_LOCKED : 0) |
					 (s->resigned ? SIGN_RESIGNED : 0)));
	bytes_put32(out + 12, s->epoch);
	memcpy(out + 16, s->cluster_id, 16);
	bytes_put64(out + 32, s->beat);
	bytes_put64(out + 40, s->wall_ms);
	bytes_put32(out + 48, s->beat_ms);
	memcpy(out + 64, s->node, strnlen(s->node, LEADERSHIP_NODE_MAX));
	memcpy(out + 128, s->url, strnlen(s->url, LEADERSHIP_URL_MAX));
	bytes_put32(out + 508, crc32c(0, out, 508));
}

int leadership_decode(const uint8_t raw[LEADERSHIP_SIGN_BYTES],
		      struct leadership_sign *ret)
{
	struct leadership_sign s = {0};
	uint16_t flags;

	if (memcmp(raw, sign_magic, 8) != 0 ||
	    bytes_get32(raw + 508) != crc32c(0, raw, 508))
		return -E_CORRUPT;
	if (bytes_get16(raw + 8) != SIGN_VERSION)
		return -E_VERSION;
	flags = bytes_get16(raw + 10);
	s.locked = flags & SIGN_LOCKED;
	s.resigned = flags & SIGN_RESIGNED;
	s.epoch = bytes_get32(raw + 12);
	memcpy(s.cluster_id, raw + 16, 16);
	s.beat = bytes_get64(raw + 32);
	s.wall_ms = bytes_get64(raw + 40);
	s.beat_ms = bytes_get32(raw + 48);
	memcpy(s.node, raw + 64, LEADERSHIP_NODE_MAX);
	memcpy(s.url, raw + 128, LEADERSHIP_URL_MAX);
	*ret = s;
	return 0;
}

/* What is there: 0, -ENOENT when nothing ever was, or -E_CORRUPT. */
static int sign_read(struct io *io, const char *path, void *block)
{
	struct io_file *file;
	size_t len = 0;
	int err = io_open(io, path, IO_READ | IO_DIRECT, &file);

	if (err)
		return err;
	err = io_read(file, block, IO_BLOCK, 0, &len);
	io_close(file);
	if (err)
		return err;
	if (!len)
		return -ENOENT;
	return len < LEADERSHIP_SIGN_BYTES ? -E_CORRUPT : 0;
}

int leadership_read(struct io *io, const char *dir, struct leadership_sign *ret)
{
	void *block = io_buffer_alloc(IO_BLOCK);
	char path[PATH_BYTES];
	int n = snprintf(path, sizeof(path), "%s/leader.lock", dir);
	int err = -ENOMEM;

	if (n < 0 || n >= (int)sizeof(path))
		err = -ENAMETOOLONG;
	else if (block)
		err = sign_read(io, path, block);
	if (!err)
		err = leadership_decode(block, ret);
	io_buffer_free(block);
	return err;
}

/* ---- life ---- */

int leadership_create(const struct leadership_options *options,
		      struct leadership **ret)
{
	struct leadership *l = calloc(1, sizeof(*l));
	struct io_fs fs;
	int n, err;

	if (!l)
		return -ENOMEM;
	l->options = *options;
	pthread_mutex_init(&l->mutex, NULL);
	n = snprintf(l->path, sizeof(l->path), "%s/leader.lock", options->dir);
	err = n < 0 || n >= (int)sizeof(l->path) ? -ENAMETOOLONG : 0;
	if (!err)
		err = io_fs_info(options->io, options->dir, &fs);
	if (!err) {
		l->network = fs.network;
		l->seen_ns = io_now_ns(options->io);
		l->block = io_buffer_alloc(IO_BLOCK);
		err = l->block ? 0 : -ENOMEM;
	}
	if (err) {
		leadership_free(l);
		return err;
	}
	*ret = l;
	return 0;
}

void leadership_free(struct leadership *l)
{
	if (!l)
		return;
	io_close(l->claim);
	io_close(l->file);
	io_buffer_free(l->block);
	pthread_mutex_destroy(&l->mutex);
	free(l);
}

uint64_t leadership_beat_ns(const struct leadership *l)
{
	return base_max(base_min(l->options.takeover_after_ns / 8, BEAT_NS_MAX),
			BEAT_NS_MIN);
}

uint64_t leadership_look_ns(const struct leadership *l)
{
	uint64_t ns = l->network ? LOOK_NS_NETWORK : LOOK_NS_LOCAL;

	return base_min(ns, leadership_beat_ns(l));
}

static void show(struct leadership *l, const struct leadership_sign *s,
		 uint64_t at_ns)
{
	pthread_mutex_lock(&l->mutex);
	l->shown = *s;
	l->shown_ns = at_ns;
	l->shown_any = true;
	pthread_mutex_unlock(&l->mutex);
}

void leadership_leader(struct leadership *l, struct leadership_leader *ret)
{
	uint64_t now = io_now_ns(l->options.io);

	*ret = (struct leadership_leader){0};
	pthread_mutex_lock(&l->mutex);
	if (l->shown_any) {
		ret->epoch = l->shown.epoch;
		ret->beat = l->shown.beat;
		ret->wall_ms = l->shown.wall_ms;
		ret->silence_ns = now > l->shown_ns ? now - l->shown_ns : 0;
		ret->locked = l->shown.locked;
		ret->resigned = l->shown.resigned;
		memcpy(ret->node, l->shown.node, sizeof(ret->node));
		memcpy(ret->url, l->shown.url, sizeof(ret->url));
	}
	pthread_mutex_unlock(&l->mutex);
}

/* ---- standing by ---- */

/* A sign of an epoch before the one we know is a deposed leader's last. */
static bool is_news(const struct leadership *l, const struct leadership_sign *s)
{
	if (memcmp(s->cluster_id, log_cluster_id(l->options.log), 16) != 0)
		return false;
	if (!l->any)
		return true;
	return s->epoch > l->seen.epoch ||
	       (s->epoch == l->seen.epoch && s->beat != l->seen.beat);
}

static void hold_claim(struct leadership *l, uint32_t epoch)
{
	char path[PATH_BYTES + 32];

	if (l->claim && l->claim_epoch == epoch)
		return;
	io_close(l->claim);
	l->claim = NULL;
	snprintf(path, sizeof(path), "%s/epochs/%08x", l->options.dir,
		 (unsigned)epoch);
	/* A help for servers that delegate; without it they have to ask. */
	if (!io_open(l->options.io, path, IO_READ, &l->claim))
		l->claim_epoch = epoch;
}

/* Whatever changes there is life, but a deposed leader's last sign: also what
 * is torn, or written by a newer program. */
static int look_at_sign(struct leadership *l, uint64_t now)
{
	int err = sign_read(l->options.io, l->path, l->block);
	struct leadership_sign s;

	l->nobody = err == -ENOENT;
	if (l->nobody)
		return 0;
	if (err)
		return err;
	if (!memcmp(l->raw, l->block, sizeof(l->raw)))
		return 0;
	memcpy(l->raw, l->block, sizeof(l->raw));
	if (leadership_decode(l->raw, &s)) {
		l->seen_ns = now;
	} else if (is_news(l, &s)) {
		l->seen = s;
		l->any = true;
		l->seen_ns = now;
		hold_claim(l, s.epoch);
		show(l, &s, now);
	}
	return 0;
}

static uint64_t patience_ns(const struct leadership *l)
{
	uint64_t beats =
		(uint64_t)l->seen.beat_ms * 1000000 * BEATS_BEFORE_STEAL;

	return base_max(l->options.takeover_after_ns, l->any ? beats : 0);
}

/* While we did not look, for whatever reason, nobody was silent; but a standby
 * whose looks all take long is to notice, too, so a part of each counts. */
static void forgive_gap(struct leadership *l, uint64_t now)
{
	uint64_t gap = l->looked_ns ? now - l->looked_ns : 0;
	uint64_t counted = base_min(gap, patience_ns(l) / 4);

	l->seen_ns += gap - counted;
	l->looked_ns = now;
}

/* The lock is ours.  Who led with it has let it go or has lost it, and who
 * resigned is gone.  Who leads without it is to have it. */
static bool may_take(const struct leadership *l, bool silent)
{
	return silent || l->nobody ||
	       (l->any && (l->seen.locked || l->seen.resigned));
}

int leadership_look(struct leadership *l, enum leadership_verdict *ret)
{
	uint64_t now = io_now_ns(l->options.io);
	int err, lock_err;
	bool silent;

	forgive_gap(l, now);
	err = look_at_sign(l, now);
	*ret = LEADERSHIP_WAIT;
	/* As long as nobody else has come. */
	if (now < l->yield_until_ns && (!l->any || l->seen.resigned))
		return err;
	l->yield_until_ns = 0;
	silent = now > l->seen_ns && now - l->seen_ns >= patience_ns(l);
	lock_err = log_try_lock(l->options.log);
	if (!lock_err && may_take(l, silent))
		*ret = LEADERSHIP_TAKE;
	else if (lock_err && silent)
		*ret = LEADERSHIP_STEAL;
	if (*ret != LEADERSHIP_WAIT)
		return 0;
	if (!lock_err)
		log_unlock(l->options.log);
	else if (!err && lock_err != -EAGAIN)
		err = lock_err;
	return err;
}

void leadership_yield(struct leadership *l)
{
	l->yield_until_ns =
		io_now_ns(l->options.io) + l->options.takeover_after_ns;
}

/* ---- leading ---- */

static int sign_write(struct leadership *l, bool resigned)
{
	struct log *log = l->options.log;
	struct leadership_sign s = {
		.epoch = log_epoch(log),
		.beat_ms = (uint32_t)(leadership_beat_ns(l) / 1000000),
		.beat = ++l->beat,
		.wall_ms = io_wall_ms(l->options.io),
		.locked = log_is_locked(log),
		.resigned = resigned,
	};
	int err = 0;

	memcpy(s.cluster_id, log_cluster_id(log), 16);
	snprintf(s.node, sizeof(s.node), "%s", l->options.node);
	snprintf(s.url, sizeof(s.url), "%s", l->options.url);
	if (!l->file)
		err = io_open(l->options.io, l->path, IO_WRITE | IO_DIRECT,
			      &l->file);
	if (err)
		return err;
	memset(l->block, 0, IO_BLOCK);
	leadership_encode(&s, l->block);
	err = io_write(l->file, l->block, IO_BLOCK, 0);
	if (!err) {
		l->seen = s;
		l->any = true;
		l->seen_ns = io_now_ns(l->options.io);
		show(l, &s, l->seen_ns);
	}
	return err;
}

int leadership_beat(struct leadership *l)
{
	int err = log_check_claim(l->options.log);

	io_close(l->claim);
	l->claim = NULL;
	if (err)
		return err;
	/* Not ours yet: whoever had it may have gone.  Without it we lead all
	 * the same, and the sign says so. */
	err = log_try_lock(l->options.log);
	(void)err;
	return sign_write(l, false);
}

void leadership_resign(struct leadership *l)
{
	/* Without it others wait for the lock alone, or for our silence; and
	 * whoever has deposed us has signs of its own. */
	int err = log_check_claim(l->options.log);

	if (!err)
		err = sign_write(l, true);
	(void)err;
	log_unlock(l->options.log);
}
