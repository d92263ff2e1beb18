/* base/sim/sim_disk.c: what can happen to a disk: faults by number or by
 * chance, power cuts, and the writes and locks that a killed process leaves
 * behind. */
#include <string.h>

#include "base/sim/world.h"

struct sim_disk *sim_disk(struct sim *sim, unsigned number)
{
	struct sim_disk *d;

	ASSERT(number < SIM_DISKS_MAX);
	if (sim->disks[number])
		return sim->disks[number];
	d = sim_alloc_zeroed(sizeof(*d));
	d->sim = sim;
	d->number = number;
	d->bytes_max = sim->config.disk_bytes;
	list_init(&d->inodes);
	list_init(&d->writes);
	list_init(&d->changes);
	list_init(&d->locks);
	list_init(&d->orphans);
	d->root = sim_inode_create(d, true);
	sim->disks[number] = d;
	return d;
}

uint64_t sim_disk_mutations(const struct sim_disk *d)
{
	return d->mutations;
}

void sim_disk_watch(struct sim_disk *d, void (*before)(void *ctx), void *ctx)
{
	d->watch = before;
	d->watch_ctx = ctx;
}

void sim_disk_watch_calls(struct sim_disk *d,
			  void (*about)(void *ctx, struct sim_node *),
			  void *ctx)
{
	d->watch_calls = about;
	d->watch_calls_ctx = ctx;
}

static void about(void *ctx)
{
	struct sim_node *n = ctx;

	n->disk->watch_calls(n->disk->watch_calls_ctx, n);
}

void sim_disk_about(struct sim_node *n)
{
	if (n->disk->watch_calls)
		loop_step_out(about, n);
}

uint64_t sim_disk_reads(const struct sim_disk *d)
{
	return d->reads;
}

void sim_disk_fault_at(struct sim_disk *d, enum sim_fault fault, uint64_t k)
{
	ASSERT(fault > 0 && fault < SIM_FAULT_END);
	d->fault_at[fault] = k;
}

void sim_disk_stats(const struct sim_disk *d, struct sim_disk_stats *ret)
{
	*ret = d->stats;
}

int sim_disk_flip(struct sim_disk *d, const char *path, uint64_t offset,
		  unsigned bit)
{
	struct sim_inode *inode;
	int r = sim_dir_lookup(d, path, &inode);

	if (r)
		return r;
	if (inode->is_dir)
		return -EISDIR;
	if (offset >= inode->size || bit > 7)
		return -EINVAL;
	sim_inode_flip(inode, offset, bit);
	d->stats.flips++;
	return 0;
}

int sim_disk_spoil(struct sim_disk *d, const char *path, uint64_t offset)
{
	struct sim_inode *inode;
	int r = sim_dir_lookup(d, path, &inode);

	if (r)
		return r;
	if (inode->is_dir)
		return -EISDIR;
	if (offset >= inode->size)
		return -EINVAL;
	sim_inode_spoil(inode, offset);
	d->stats.bad_sectors++;
	return 0;
}

/* Any file but one, by lot; NULL: there is none. */
static struct sim_inode *some_file(struct sim_disk *d,
				   const struct sim_inode *but)
{
	struct sim_inode *picked = NULL;
	uint64_t count = 0;

	list_for_each(at, &d->inodes) {
		struct sim_inode *inode =
			list_entry(at, struct sim_inode, link);

		if (!inode->is_dir && inode->size && inode != but &&
		    !sim_rng_below(&d->sim->fault, ++count))
			picked = inode;
	}
	return picked;
}

bool sim_disk_rot(struct sim_disk *d, bool spoil)
{
	struct sim_rng *r = &d->sim->fault;
	struct sim_inode *picked = NULL;
	uint64_t offset = 0, pages = 0, at_offset;

	list_for_each(at, &d->inodes) {
		struct sim_inode *inode =
			list_entry(at, struct sim_inode, link);

		uint64_t held = sim_inode_pages(inode);

		pages += held;
		if (sim_rng_below(r, pages) >= held ||
		    !sim_inode_any(inode, &at_offset))
			continue;
		picked = inode;
		offset = at_offset;
	}
	if (!picked)
		return false;
	sim_trace_event(d->sim, "rot", picked->id, offset, spoil, 0);
	if (spoil) {
		sim_inode_spoil(picked, offset);
		d->stats.bad_sectors++;
	} else {
		sim_inode_flip(picked, offset, (unsigned)sim_rng_below(r, 8));
		d->stats.flips++;
	}
	return true;
}

void sim_disk_resize(struct sim_disk *d, uint64_t bytes)
{
	d->bytes_max = bytes;
}

void sim_disk_quota(struct sim_disk *d, uint64_t bytes)
{
	d->quota_bytes = bytes;
}

/* ---- what killed processes leave ---- */

/* A write whose process is gone, with a copy of its data. */
struct orphan {
	struct sim_event event;
	struct list link; /* disk.orphans */
	struct sim_write write;
	uint8_t *data;
};

static void orphan_free(struct orphan *o)
{
	sim_unschedule(o->write.inode->disk->sim, &o->event);
	list_remove(&o->link);
	list_remove(&o->write.link);
	sim_inode_release(o->write.inode);
	sim_alloc_free(o->data);
	sim_alloc_free(o);
}

static void place(struct sim_write *w)
{
	if (w->append)
		w->offset = w->inode->size;
}

static bool fits(const struct sim_write *w)
{
	return !sim_inode_room(w->inode, w->offset + w->len);
}

/* Not at all, in part, or whole. */
static void happen_perhaps(struct sim_write *w)
{
	struct sim *sim = w->inode->disk->sim;
	uint64_t count, n;

	place(w);
	count = sim_inode_write_sectors(w);
	n = sim_rng_below(&sim->fault, 3);
	n = n == 0 ? 0 : n == 1 ? count : sim_rng_below(&sim->fault, count + 1);
	if (!fits(w))
		return;
	sim_inode_apply(w, 0, n, w->durable);
	sim_trace_event(sim, "abandoned", w->inode->id, w->offset, n, 0);
}

static void orphan_land(struct sim_event *e)
{
	struct orphan *o = container_of(e, struct orphan, event);

	happen_perhaps(&o->write);
	orphan_free(o);
}

void sim_disk_abandon(struct sim_node *n, struct sim_write *w)
{
	struct sim *sim = n->sim;
	uint64_t linger_ns = sim->config.linger_ns_max;
	struct orphan *o;

	list_remove(&w->link);
	if (!n->dead || !linger_ns || (sim_rng_next(&sim->fault) & 1)) {
		happen_perhaps(w);
		return;
	}
	o = sim_alloc_zeroed(sizeof(*o));
	o->event.fire = orphan_land;
	o->write = *w;
	o->data = sim_alloc_zeroed(w->len);
	memcpy(o->data, w->data, w->len);
	o->write.data = o->data;
	sim_inode_hold(w->inode);
	list_push(&w->inode->disk->writes, &o->write.link);
	list_push(&w->inode->disk->orphans, &o->link);
	sim_schedule(sim, &o->event, sim_rng_below(&sim->fault, linger_ns));
}

void sim_disk_lock_drop(struct sim_lock *lock)
{
	sim_unschedule(lock->inode->disk->sim, &lock->event);
	lock->inode->lock = NULL;
	if (lock->file)
		lock->file->lock = NULL;
	list_remove(&lock->link);
	sim_inode_release(lock->inode);
	sim_alloc_free(lock);
}

static void lock_expire(struct sim_event *e)
{
	sim_disk_lock_drop(container_of(e, struct sim_lock, event));
}

void sim_disk_lock_linger(struct sim_lock *lock)
{
	struct sim *sim = lock->inode->disk->sim;

	if (!sim->config.linger_ns_max) {
		sim_disk_lock_drop(lock);
		return;
	}
	lock->file->lock = NULL;
	lock->file = NULL;
	lock->event.fire = lock_expire;
	sim_schedule(sim, &lock->event,
		     sim_rng_below(&sim->fault, sim->config.linger_ns_max));
}

/* ---- power cuts ---- */

void sim_disk_cut(struct sim_disk *d)
{
	struct sim *sim = d->sim;
	struct list *first;

	d->stats.cuts++;
	while ((first = list_pop(&d->writes))) {
		struct sim_write *w = list_entry(first, struct sim_write, link);

		place(w);
		if (fits(w))
			sim_inode_cut_write(w);
	}
	while (!list_empty(&d->orphans))
		orphan_free(list_entry(d->orphans.next, struct orphan, link));
	list_for_each(at, &sim->nodes) {
		struct sim_node *n = list_entry(at, struct sim_node, link);

		if (n->disk == d)
			sim_node_die(n, true);
	}
	while (!list_empty(&d->locks))
		sim_disk_lock_drop(
			list_entry(d->locks.next, struct sim_lock, link));
	list_for_each(at, &d->inodes)
		sim_inode_cut(list_entry(at, struct sim_inode, link));
	sim_dir_cut(d);
	sim_trace_event(sim, "power-cut", d->number, d->mutations, 0, 0);
}

/* ---- verdicts ---- */

static bool fault_due(const struct sim_disk *d, enum sim_fault fault)
{
	return d->fault_at[fault] && d->fault_at[fault] == d->mutations;
}

static enum sim_verdict write_verdict(struct sim_disk *d)
{
	const struct sim_config *c = &d->sim->config;
	struct sim_rng *r = &d->sim->fault;

	if (sim_rng_chance(r, c->write_eio_ppm))
		return SIM_EIO;
	if (fault_due(d, SIM_FAULT_LOST) || sim_rng_chance(r, c->lost_ppm))
		return SIM_LOST;
	if (fault_due(d, SIM_FAULT_MISDIRECT) ||
	    sim_rng_chance(r, c->misdirect_ppm))
		return SIM_MISDIRECT;
	if (fault_due(d, SIM_FAULT_STRAY) || sim_rng_chance(r, c->stray_ppm))
		return SIM_STRAY;
	return SIM_GO;
}

enum sim_verdict sim_disk_mutate(struct sim_node *n, enum sim_mutation kind)
{
	struct sim_disk *d = n->disk;

	if (d->watch)
		d->watch(d->watch_ctx);
	d->mutations++;
	if (fault_due(d, SIM_FAULT_ROT))
		sim_disk_rot(d, false);
	if (fault_due(d, SIM_FAULT_BAD))
		sim_disk_rot(d, true);
	if (fault_due(d, SIM_FAULT_CUT)) {
		sim_disk_cut(d);
		return SIM_DEAD;
	}
	if (fault_due(d, SIM_FAULT_KILL)) {
		sim_kill(n);
		return SIM_DEAD;
	}
	if (fault_due(d, SIM_FAULT_EIO))
		return SIM_EIO;
	if (fault_due(d, SIM_FAULT_ENOSPC) && kind != SIM_SYNCS)
		return SIM_ENOSPC;
	if (kind == SIM_WRITES)
		return write_verdict(d);
	if (kind == SIM_SYNCS &&
	    sim_rng_chance(&d->sim->fault, d->sim->config.sync_eio_ppm))
		return SIM_EIO;
	return SIM_GO;
}

int sim_disk_read(struct sim_node *n, bool *ret_flip)
{
	struct sim_disk *d = n->disk;

	d->reads++;
	*ret_flip = d->fault_at[SIM_FAULT_READ_FLIP] == d->reads;
	if (d->fault_at[SIM_FAULT_READ_EIO] != d->reads &&
	    !sim_rng_chance(&d->sim->fault, d->sim->config.read_eio_ppm))
		return 0;
	d->stats.read_errors++;
	return -EIO;
}

/* ---- writes ---- */

static void flip_somewhere(struct sim_inode *inode)
{
	struct sim_disk *d = inode->disk;
	struct sim_rng *r = &d->sim->fault;

	if (!sim_rng_chance(r, d->sim->config.flip_ppm) || !inode->size)
		return;
	sim_inode_flip(inode, sim_rng_below(r, inode->size),
		       (unsigned)sim_rng_below(r, 8));
	d->stats.flips++;
}

/* Any sectors may have been written, and none of them for good. */
static void fail_write(const struct sim_write *w)
{
	uint64_t count = sim_inode_write_sectors(w);

	for (uint64_t i = 0; i < count; i++)
		if (sim_rng_next(&w->inode->disk->sim->fault) & 1)
			sim_inode_apply(w, i, 1, false);
}

static void misdirect(const struct sim_write *w)
{
	struct sim_disk *d = w->inode->disk;
	struct sim_write stray = *w;

	d->stats.misdirected++;
	stray.offset = sim_rng_below(&d->sim->fault,
				     w->inode->size / SIM_PAGE_BYTES + 1) *
		       SIM_PAGE_BYTES;
	if (fits(&stray))
		sim_inode_apply(&stray, 0, sim_inode_write_sectors(&stray),
				w->durable);
}

/* Into blocks that belong to another file; a size is not changed by that. */
static void stray(const struct sim_write *w)
{
	struct sim_disk *d = w->inode->disk;
	struct sim_write other = *w;

	d->stats.misdirected++;
	other.inode = some_file(d, w->inode);
	if (!other.inode)
		return;
	other.offset =
		sim_rng_below(&d->sim->fault,
			      (other.inode->size - 1) / SIM_PAGE_BYTES + 1) *
		SIM_PAGE_BYTES;
	other.len = base_min(w->len, other.inode->size - other.offset);
	sim_inode_apply(&other, 0, sim_inode_write_sectors(&other), w->durable);
}

int sim_disk_write(struct sim_node *n, struct sim_write *w, bool *ret_dead)
{
	struct sim_disk *d = n->disk;
	enum sim_verdict verdict = sim_disk_mutate(n, SIM_WRITES);

	*ret_dead = verdict == SIM_DEAD;
	if (verdict == SIM_DEAD) {
		/* A blocking call whose process was killed in it; everything
		 * else has been decided, and an operation is gone. */
		if (!list_empty(&w->link))
			sim_disk_abandon(n, w);
		return -EIO;
	}
	place(w);
	if (verdict == SIM_ENOSPC || !fits(w))
		return -ENOSPC;
	switch (verdict) {
	case SIM_EIO:
		d->stats.write_errors++;
		fail_write(w);
		return -EIO;
	case SIM_LOST:
		d->stats.lost++;
		return 0;
	case SIM_MISDIRECT:
		misdirect(w);
		return 0;
	case SIM_STRAY:
		stray(w);
		return 0;
	case SIM_GO:
	case SIM_DEAD:
	case SIM_ENOSPC:
		break;
	}
	sim_inode_apply(w, 0, sim_inode_write_sectors(w), w->durable);
	flip_somewhere(w->inode);
	return 0;
}

void sim_disk_expose(struct sim_inode *inode)
{
	struct sim_disk *d = inode->disk;

	list_for_each(at, &d->writes) {
		struct sim_write *w = list_entry(at, struct sim_write, link);
		uint64_t count;

		if (w->inode != inode || w->append || !fits(w) ||
		    sim_rng_below(&d->sim->fault, 4))
			continue;
		count = sim_inode_write_sectors(w);
		for (uint64_t i = 0; i < count; i++)
			if (sim_rng_next(&d->sim->fault) & 1)
				sim_inode_apply(w, i, 1, false);
	}
}

void sim_disk_free(struct sim_disk *d)
{
	if (!d)
		return;
	while (!list_empty(&d->orphans))
		orphan_free(list_entry(d->orphans.next, struct orphan, link));
	while (!list_empty(&d->locks))
		sim_disk_lock_drop(
			list_entry(d->locks.next, struct sim_lock, link));
	sim_dir_drop_changes(d);
	sim_inode_release(d->root);
	ASSERT(list_empty(&d->inodes) && list_empty(&d->writes));
	sim_alloc_free(d);
}
