/* journal/store/quarantine.c: what is known to be damaged.
 *
 * A bounded list of places.  Whoever meets damage reports it here: readers on
 * any loop, copying, the scrubber.  The same place met again is the same
 * place, so it is logged once.  Nothing is written: after a restart the
 * damage is found again, by whoever reads it. */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/logger.h"
#include "journal/store/internal.h"

#define PLACE_COUNT_MAX 1024u

struct quarantine {
	pthread_mutex_t mutex;			     /* for all below */
	struct store_damage places[PLACE_COUNT_MAX]; /* oldest first */
	size_t count;
	bool full_told;
};

int quarantine_create(struct quarantine **ret)
{
	struct quarantine *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	pthread_mutex_init(&q->mutex, NULL);
	*ret = q;
	return 0;
}

void quarantine_free(struct quarantine *q)
{
	if (!q)
		return;
	pthread_mutex_destroy(&q->mutex);
	free(q);
}

/* What a place says beyond the one that is there already is not worth a
 * second line: the same messages, or the same bytes without messages. */
static bool is_same(const struct store_damage *a, const struct store_damage *b)
{
	if (a->queue != b->queue || strcmp(a->file, b->file) != 0)
		return false;
	if (a->queue && a->first_ref)
		return a->first_ref == b->first_ref &&
		       a->last_ref == b->last_ref;
	return a->offset == b->offset && a->first_lsn == b->first_lsn;
}

static void log_place(const struct store_damage *d)
{
	logger_error("store", "damage",
		     "queue=%" PRIu64 " priority=%u refs=%" PRIu64 "-%" PRIu64
		     " lsn=%" PRIu64 "-%" PRIu64 " file=%s offset=%" PRIu64
		     " bytes=%" PRIu64 " error=%s",
		     d->queue, record_ref_priority(d->first_ref),
		     record_ref_number(d->first_ref),
		     record_ref_number(d->last_ref), d->first_lsn, d->last_lsn,
		     LOGGER_QUOTE(d->file), d->offset, d->bytes,
		     LOGGER_QUOTE(err_str(d->err)));
}

enum found { FOUND_KNOWN, FOUND_NEW, FOUND_FULL, FOUND_FULL_AGAIN };

static enum found add_place(struct store *s, const struct store_damage *d)
{
	struct quarantine *q = s->quarantine;
	enum found found = FOUND_NEW;

	pthread_mutex_lock(&q->mutex);
	for (size_t i = 0; i < q->count && found == FOUND_NEW; i++)
		if (is_same(&q->places[i], d))
			found = FOUND_KNOWN;
	if (found == FOUND_NEW && q->count == PLACE_COUNT_MAX) {
		found = q->full_told ? FOUND_FULL_AGAIN : FOUND_FULL;
		q->full_told = true;
	}
	if (found == FOUND_NEW) {
		q->places[q->count++] = *d;
		s->stats.damage = q->count;
	}
	pthread_mutex_unlock(&q->mutex);
	return found;
}

void store_damage_found(struct store *s, const struct store_damage *damage)
{
	struct store_damage d = *damage;

	d.file[sizeof(d.file) - 1] = '\0';
	d.found_ms = io_wall_ms(s->options.io);
	switch (add_place(s, &d)) {
	case FOUND_NEW:
		log_place(&d);
		break;
	case FOUND_FULL:
		logger_error("store", "damage-list-full",
			     "places=%u meaning=%s", PLACE_COUNT_MAX,
			     LOGGER_QUOTE("more damage is not listed; the disk "
					  "needs attention"));
		break;
	case FOUND_KNOWN:
	case FOUND_FULL_AGAIN:
		break;
	}
}

/* The callback runs without the lock, on a copy. */
int store_each_damage(struct store *s,
		      int (*each)(void *ctx, const struct store_damage *),
		      void *ctx)
{
	struct quarantine *q = s->quarantine;
	struct store_damage *copy;
	size_t count;
	int err = 0;

	copy = malloc(PLACE_COUNT_MAX * sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	pthread_mutex_lock(&q->mutex);
	count = q->count;
	memcpy(copy, q->places, count * sizeof(*copy));
	pthread_mutex_unlock(&q->mutex);
	for (size_t i = 0; !err && i < count; i++)
		err = each(ctx, &copy[i]);
	free(copy);
	return err;
}

void quarantine_forget_file(struct store *s, const char *file)
{
	struct quarantine *q = s->quarantine;
	size_t kept = 0;

	pthread_mutex_lock(&q->mutex);
	for (size_t i = 0; i < q->count; i++)
		if (strcmp(q->places[i].file, file) != 0)
			q->places[kept++] = q->places[i];
	q->count = kept;
	if (kept < PLACE_COUNT_MAX)
		q->full_told = false;
	s->stats.damage = kept;
	pthread_mutex_unlock(&q->mutex);
}
