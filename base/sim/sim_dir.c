/* base/sim/sim_dir.c: names, as they are and as they would be after a power
 * cut.
 *
 * Every directory has two tables.  A change is made in `names` at once and
 * waits in the disk's list of changes to be made in `names_durable`.  A
 * change brings the earlier ones of the same file with it: a rename that
 * survives does not bring back the name that the file had before. */
#include <string.h>

#include "base/sim/world.h"

/* ---- tables: sorted arrays ---- */

static size_t table_seek(const struct sim_table *t, const char *name,
			 bool *ret_found)
{
	size_t lo = 0, hi = t->count;

	*ret_found = false;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int c = strcmp(t->entries[mid].name, name);

		if (!c)
			*ret_found = true;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct sim_inode *sim_dir_find(const struct sim_table *t, const char *name)
{
	bool found;
	size_t i = table_seek(t, name, &found);

	return found ? t->entries[i].inode : NULL;
}

static void table_set(struct sim_table *t, const char *name,
		      struct sim_inode *inode)
{
	bool found;
	size_t i = table_seek(t, name, &found);

	sim_inode_hold(inode);
	if (found) {
		sim_inode_release(t->entries[i].inode);
		t->entries[i].inode = inode;
		return;
	}
	if (t->count == t->capacity) {
		t->capacity = t->capacity * 2 + 8;
		t->entries = sim_alloc_resize(
			t->entries, t->capacity * sizeof(*t->entries));
	}
	memmove(t->entries + i + 1, t->entries + i,
		(t->count - i) * sizeof(*t->entries));
	t->entries[i].name = sim_alloc_text(name, strlen(name));
	t->entries[i].inode = inode;
	t->count++;
}

static void table_remove(struct sim_table *t, const char *name)
{
	bool found;
	size_t i = table_seek(t, name, &found);
	struct sim_entry gone;

	if (!found)
		return;
	gone = t->entries[i];
	t->count--;
	memmove(t->entries + i, t->entries + i + 1,
		(t->count - i) * sizeof(*t->entries));
	sim_alloc_free(gone.name);
	sim_inode_release(gone.inode);
}

void sim_dir_table_clear(struct sim_table *t)
{
	struct sim_table old = *t;

	memset(t, 0, sizeof(*t));
	for (size_t i = 0; i < old.count; i++) {
		sim_alloc_free(old.entries[i].name);
		sim_inode_release(old.entries[i].inode);
	}
	sim_alloc_free(old.entries);
}

/* ---- paths ---- */

/* The next name of *path, without slashes and dots: 1, 0 at the end. */
static int next_name(const char **path, char ret[SIM_NAME_BYTES])
{
	for (;;) {
		const char *p = *path + strspn(*path, "/");
		size_t len = strcspn(p, "/");

		*path = p + len;
		if (!len)
			return 0;
		if (len >= SIM_NAME_BYTES)
			return -ENAMETOOLONG;
		if (len == 1 && p[0] == '.')
			continue;
		if (len == 2 && p[0] == '.' && p[1] == '.')
			return -EINVAL;
		memcpy(ret, p, len);
		ret[len] = '\0';
		return 1;
	}
}

int sim_dir_parent(struct sim_disk *disk, const char *path,
		   struct sim_inode **ret_dir, char ret_name[SIM_NAME_BYTES])
{
	struct sim_inode *dir = disk->root;
	char name[SIM_NAME_BYTES], next[SIM_NAME_BYTES];
	int r = next_name(&path, name);

	if (r <= 0)
		return r ? r : -EINVAL;
	while ((r = next_name(&path, next)) > 0) {
		dir = sim_dir_find(&dir->names, name);
		if (!dir)
			return -ENOENT;
		if (!dir->is_dir)
			return -ENOTDIR;
		memcpy(name, next, sizeof(name));
	}
	if (r)
		return r;
	*ret_dir = dir;
	memcpy(ret_name, name, sizeof(name));
	return 0;
}

int sim_dir_lookup(struct sim_disk *disk, const char *path,
		   struct sim_inode **ret)
{
	struct sim_inode *at = disk->root;
	char name[SIM_NAME_BYTES];
	int r;

	while ((r = next_name(&path, name)) > 0) {
		if (!at->is_dir)
			return -ENOTDIR;
		at = sim_dir_find(&at->names, name);
		if (!at)
			return -ENOENT;
	}
	if (r)
		return r;
	*ret = at;
	return 0;
}

/* ---- changes ---- */

static struct sim_inode *hold(struct sim_inode *inode)
{
	if (inode)
		sim_inode_hold(inode);
	return inode;
}

static void change_note(struct sim_inode *inode, struct sim_inode *from,
			const char *from_name, struct sim_inode *to,
			const char *to_name)
{
	struct sim_change *c = sim_alloc_zeroed(sizeof(*c));

	c->inode = hold(inode);
	c->from = hold(from);
	c->to = hold(to);
	if (from)
		c->from_name = sim_alloc_text(from_name, strlen(from_name));
	if (to)
		c->to_name = sim_alloc_text(to_name, strlen(to_name));
	list_push(&inode->disk->changes, &c->link);
}

static void change_free(struct sim_change *c)
{
	list_remove(&c->link);
	sim_inode_release(c->inode);
	if (c->from)
		sim_inode_release(c->from);
	if (c->to)
		sim_inode_release(c->to);
	sim_alloc_free(c->from_name);
	sim_alloc_free(c->to_name);
	sim_alloc_free(c);
}

static void change_apply(struct sim_change *c)
{
	if (c->from &&
	    sim_dir_find(&c->from->names_durable, c->from_name) == c->inode)
		table_remove(&c->from->names_durable, c->from_name);
	if (c->to)
		table_set(&c->to->names_durable, c->to_name, c->inode);
}

/* Does b put into or take out of the place that a does? */
static bool same_place(const struct sim_inode *a, const char *a_name,
		       const struct sim_inode *b, const char *b_name)
{
	return a && a == b && !strcmp(a_name, b_name);
}

static bool change_needs(const struct sim_change *c,
			 const struct sim_change *earlier)
{
	return earlier->inode == c->inode ||
	       same_place(c->to, c->to_name, earlier->to, earlier->to_name) ||
	       same_place(c->to, c->to_name, earlier->from, earlier->from_name);
}

/* With the earlier ones that it rests on: those of the same file, and those
 * of the name that it takes, lest an older file come back over it. */
static void change_commit(struct sim_disk *disk, struct sim_change *c)
{
	for (;;) {
		struct sim_change *earlier = NULL;

		list_for_each(at, &disk->changes) {
			earlier = list_entry(at, struct sim_change, link);
			if (earlier == c || change_needs(c, earlier))
				break;
		}
		if (earlier == c)
			break;
		change_commit(disk, earlier);
	}
	change_apply(c);
	change_free(c);
}

void sim_dir_link(struct sim_inode *dir, const char *name,
		  struct sim_inode *inode)
{
	table_set(&dir->names, name, inode);
	change_note(inode, NULL, NULL, dir, name);
}

void sim_dir_unlink(struct sim_inode *dir, const char *name)
{
	struct sim_inode *inode = sim_dir_find(&dir->names, name);

	change_note(inode, dir, name, NULL, NULL);
	table_remove(&dir->names, name);
}

void sim_dir_rename(struct sim_inode *from, const char *from_name,
		    struct sim_inode *to, const char *to_name)
{
	struct sim_inode *inode = sim_dir_find(&from->names, from_name);

	change_note(inode, from, from_name, to, to_name);
	table_set(&to->names, to_name, inode);
	table_remove(&from->names, from_name);
}

static struct sim_change *find_change(const struct sim_inode *inode)
{
	list_for_each(at, &inode->disk->changes) {
		struct sim_change *c = list_entry(at, struct sim_change, link);

		if (inode->is_dir ? c->from == inode || c->to == inode
				  : c->inode == inode)
			return c;
	}
	return NULL;
}

void sim_dir_sync(struct sim_inode *inode)
{
	struct sim_change *c;

	while ((c = find_change(inode)))
		change_commit(inode->disk, c);
}

/* ---- power cuts ---- */

static void restore(struct sim_inode *dir)
{
	struct sim_table *t = &dir->names_durable;

	sim_dir_table_clear(&dir->names);
	for (size_t i = 0; i < t->count; i++) {
		table_set(&dir->names, t->entries[i].name, t->entries[i].inode);
		if (t->entries[i].inode->is_dir)
			restore(t->entries[i].inode);
	}
}

void sim_dir_cut(struct sim_disk *disk)
{
	struct sim *sim = disk->sim;
	struct list lost = LIST_INIT(lost), *at;

	/* A change that is lost stays in reach of later ones that need it:
	 * it is decided by the last of them. */
	while (!list_empty(&disk->changes)) {
		struct sim_change *c =
			list_entry(disk->changes.prev, struct sim_change, link);

		if (sim_rng_chance(&sim->fault, sim->config.keep_ppm)) {
			change_commit(disk, c);
		} else {
			list_remove(&c->link);
			list_push(&lost, &c->link);
		}
	}
	while ((at = list_pop(&lost)))
		change_free(list_entry(at, struct sim_change, link));
	restore(disk->root);
}

void sim_dir_drop_changes(struct sim_disk *disk)
{
	while (!list_empty(&disk->changes))
		change_free(list_entry(disk->changes.next, struct sim_change,
				       link));
}
