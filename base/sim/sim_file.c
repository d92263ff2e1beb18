/* base/sim/sim_file.c: the file calls of the seam, and disk operations.
 *
 * A blocking call first lets time pass, so that what other nodes had in
 * flight lands before it; then it counts, may be the one that fails, and
 * takes effect at once.  An operation does the same when its event fires. */
#include <string.h>

#include "base/sim/world.h"

static struct sim_node *node_of(struct io *io)
{
	return container_of(io, struct sim_node, io);
}

static struct sim_file *file_of(struct io_file *file)
{
	return container_of(file, struct sim_file, file);
}

static void trace(struct sim_node *n, const char *what, uint64_t a, uint64_t b,
		  uint64_t c)
{
	sim_trace_event(n->sim, what, n->id, a, b, c);
}

/* One change of names: 0, or why not. */
static int mutate_names(struct sim_node *n)
{
	switch (sim_disk_mutate(n, SIM_NAMES)) {
	case SIM_ENOSPC:
		return -ENOSPC;
	case SIM_EIO:
	case SIM_DEAD:
		return -EIO;
	case SIM_GO:
	case SIM_LOST:
	case SIM_MISDIRECT:
	case SIM_STRAY:
		break;
	}
	return 0;
}

/* ---- opening and closing ---- */

/* *ret is held for the caller. */
static int find_or_make(struct sim_node *n, const char *path, unsigned flags,
			struct sim_inode **ret)
{
	char name[SIM_NAME_BYTES];
	struct sim_inode *dir, *inode;
	int r = sim_dir_parent(n->disk, path, &dir, name);

	if (r)
		return r;
	inode = sim_dir_find(&dir->names, name);
	if (inode) {
		if (flags & IO_CREATE && flags & IO_EXCLUSIVE)
			return -EEXIST;
		if (inode->is_dir)
			return -EISDIR;
		sim_inode_hold(inode);
		*ret = inode;
		return 0;
	}
	if (!(flags & IO_CREATE))
		return -ENOENT;
	/* The directory may go with the disk's power. */
	sim_inode_hold(dir);
	r = mutate_names(n);
	if (!r) {
		inode = sim_inode_create(n->disk, false);
		sim_dir_link(dir, name, inode);
		*ret = inode;
	}
	sim_inode_release(dir);
	return r;
}

int sim_file_open(struct io *io, const char *path, unsigned flags,
		  struct io_file **ret)
{
	struct sim_node *n = node_of(io);
	struct sim_file *f;
	int r = sim_node_block(n);

	if (r)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	r = find_or_make(n, path, flags, &f->inode);
	trace(n, "open", sim_hash_bytes(path, strlen(path)), flags,
	      (uint64_t)(int64_t)r);
	if (r) {
		free(f);
		return r;
	}
	f->file.io = io;
	f->file.fd = -1;
	f->file.direct = flags & IO_DIRECT && !n->sim->config.no_direct;
	f->node = n;
	f->flags = flags;
	if (flags & IO_DIRECT)
		sim_inode_uncache(f->inode);
	list_push(&n->files, &f->link);
	*ret = &f->file;
	return 0;
}

void sim_file_close(struct io_file *file)
{
	struct sim_file *f = file_of(file);

	trace(f->node, "close", f->inode->id, 0, 0);
	if (f->lock)
		sim_disk_lock_drop(f->lock);
	list_remove(&f->link);
	sim_inode_release(f->inode);
	free(f);
}

/* ---- reading ---- */

static int read_now(struct sim_node *n, struct sim_inode *inode, void *buf,
		    size_t len, uint64_t offset, size_t *ret_len)
{
	bool flip;
	size_t got;
	int r = sim_disk_read(n, &flip);

	if (r)
		return r;
	sim_disk_expose(inode);
	if (sim_inode_is_bad(inode, len, offset)) {
		n->disk->stats.read_errors++;
		return -EIO;
	}
	got = sim_inode_read(inode, buf, len, offset);
	if (flip && got) {
		uint64_t at = sim_rng_below(&n->sim->fault, got);

		((uint8_t *)buf)[at] ^=
			(uint8_t)(1u << sim_rng_below(&n->sim->fault, 8));
		n->disk->stats.flips++;
	}
	*ret_len = got;
	return 0;
}

int sim_file_read(struct io_file *file, void *buf, size_t len, uint64_t offset,
		  size_t *ret_len)
{
	struct sim_file *f = file_of(file);
	int r = sim_node_block(f->node);

	if (r)
		return r;
	r = read_now(f->node, f->inode, buf, len, offset, ret_len);
	trace(f->node, "read", f->inode->id, offset,
	      r ? (uint64_t)(int64_t)r : sim_hash_bytes(buf, *ret_len));
	return r;
}

int sim_file_size(struct io_file *file, uint64_t *ret_bytes)
{
	struct sim_file *f = file_of(file);
	bool flip;
	int r = sim_node_block(f->node);

	if (!r)
		r = sim_disk_read(f->node, &flip);
	if (r)
		return r;
	*ret_bytes = f->inode->size;
	trace(f->node, "size", f->inode->id, f->inode->size, 0);
	return 0;
}

/* ---- writing ---- */

int sim_file_write(struct io_file *file, const void *buf, size_t len,
		   uint64_t offset)
{
	struct sim_file *f = file_of(file);
	struct sim_node *n = f->node;
	struct sim_write w = {.inode = f->inode,
			      .data = buf,
			      .len = len,
			      .offset = offset,
			      .durable = f->flags & IO_APPEND,
			      .append = f->flags & IO_APPEND};
	bool dead;
	int r;

	if (!(f->flags & IO_WRITE) && !(f->flags & IO_APPEND))
		return -EBADF;
	if (n->dead)
		return -EIO;
	if (!len)
		return 0;
	/* In flight from here, so that a cut meanwhile tears it. */
	list_push(&n->disk->writes, &w.link);
	r = sim_node_block(n);
	if (!r)
		r = sim_disk_write(n, &w, &dead);
	else if (!list_empty(&w.link))
		sim_disk_abandon(n, &w);
	list_remove(&w.link);
	trace(n, "write", f->inode->id, w.offset,
	      r ? (uint64_t)(int64_t)r : sim_hash_bytes(buf, len));
	return r;
}

int sim_file_sync(struct io_file *file)
{
	struct sim_file *f = file_of(file);
	struct sim_node *n = f->node;
	int r = sim_node_block(n);

	if (r)
		return r;
	f->inode->syncing = true;
	switch (sim_disk_mutate(n, SIM_SYNCS)) {
	case SIM_GO:
		sim_inode_sync(f->inode);
		if (sim_rng_chance(&n->sim->fault,
				   n->sim->config.sync_entry_ppm))
			sim_dir_sync(f->inode);
		break;
	case SIM_DEAD:
		r = -EIO;
		break;
	case SIM_EIO:
	case SIM_ENOSPC:
	case SIM_LOST:
	case SIM_MISDIRECT:
	case SIM_STRAY:
		n->disk->stats.sync_errors++;
		sim_inode_sync_fail(f->inode);
		r = -EIO;
	}
	f->inode->syncing = false;
	trace(n, "sync", f->inode->id, f->inode->size, (uint64_t)(int64_t)r);
	return r;
}

static int resize(struct sim_file *f, uint64_t bytes, const char *what)
{
	struct sim_node *n = f->node;
	int r = sim_node_block(n);

	if (!r)
		r = mutate_names(n);
	if (!r)
		r = sim_inode_room(f->inode, bytes);
	if (!r)
		sim_inode_resize(f->inode, bytes);
	trace(n, what, f->inode->id, bytes, (uint64_t)(int64_t)r);
	return r;
}

/* fallocate() never shrinks. */
int sim_file_allocate(struct io_file *file, uint64_t bytes)
{
	struct sim_file *f = file_of(file);

	return resize(f, base_max(bytes, f->inode->size), "allocate");
}

int sim_file_truncate(struct io_file *file, uint64_t bytes)
{
	return resize(file_of(file), bytes, "truncate");
}

int sim_file_lock(struct io_file *file)
{
	struct sim_file *f = file_of(file);
	struct sim_lock *lock;
	int r = sim_node_block(f->node);

	if (r)
		return r;
	if (f->inode->lock)
		r = f->inode->lock->file == f ? 0 : -EAGAIN;
	trace(f->node, "lock", f->inode->id, (uint64_t)(int64_t)r, 0);
	if (f->inode->lock)
		return r;
	lock = sim_alloc_zeroed(sizeof(*lock));
	lock->inode = f->inode;
	sim_inode_hold(lock->inode);
	lock->file = f;
	f->lock = f->inode->lock = lock;
	list_push(&f->node->disk->locks, &lock->link);
	return 0;
}

/* ---- names ---- */

int sim_file_mkdir(struct io *io, const char *path)
{
	struct sim_node *n = node_of(io);
	char name[SIM_NAME_BYTES];
	struct sim_inode *dir, *inode;
	int r = sim_node_block(n);

	if (r)
		return r;
	if (!sim_dir_lookup(n->disk, path, &inode))
		return inode->is_dir ? 0 : -EEXIST;
	r = sim_dir_parent(n->disk, path, &dir, name);
	if (r)
		return r;
	r = mutate_names(n);
	trace(n, "mkdir", sim_hash_bytes(path, strlen(path)),
	      (uint64_t)(int64_t)r, 0);
	if (r)
		return r;
	inode = sim_inode_create(n->disk, true);
	sim_dir_link(dir, name, inode);
	sim_inode_release(inode);
	return 0;
}

int sim_file_sync_dir(struct io *io, const char *path)
{
	struct sim_node *n = node_of(io);
	struct sim_inode *dir;
	int r = sim_node_block(n);

	if (!r)
		r = sim_dir_lookup(n->disk, path, &dir);
	if (r)
		return r;
	if (!dir->is_dir)
		return -ENOTDIR;
	if (sim_disk_mutate(n, SIM_SYNCS) == SIM_GO) {
		sim_dir_sync(dir);
	} else {
		n->disk->stats.sync_errors += !n->dead;
		r = -EIO;
	}
	trace(n, "sync-dir", sim_hash_bytes(path, strlen(path)),
	      (uint64_t)(int64_t)r, 0);
	return r;
}

int sim_file_rename(struct io *io, const char *from, const char *to)
{
	struct sim_node *n = node_of(io);
	char from_name[SIM_NAME_BYTES], to_name[SIM_NAME_BYTES];
	struct sim_inode *from_dir, *to_dir, *inode, *over;
	int r = sim_node_block(n);

	if (!r)
		r = sim_dir_parent(n->disk, from, &from_dir, from_name);
	if (!r)
		r = sim_dir_parent(n->disk, to, &to_dir, to_name);
	if (r)
		return r;
	inode = sim_dir_find(&from_dir->names, from_name);
	over = sim_dir_find(&to_dir->names, to_name);
	if (!inode)
		return -ENOENT;
	if (inode == over)
		return 0;
	if (over && over->is_dir)
		return inode->is_dir ? -ENOTEMPTY : -EISDIR;
	r = mutate_names(n);
	trace(n, "rename", sim_hash_bytes(from, strlen(from)),
	      sim_hash_bytes(to, strlen(to)), (uint64_t)(int64_t)r);
	if (!r)
		sim_dir_rename(from_dir, from_name, to_dir, to_name);
	return r;
}

int sim_file_unlink(struct io *io, const char *path)
{
	struct sim_node *n = node_of(io);
	char name[SIM_NAME_BYTES];
	struct sim_inode *dir, *inode;
	int r = sim_node_block(n);

	if (!r)
		r = sim_dir_parent(n->disk, path, &dir, name);
	if (r)
		return r;
	inode = sim_dir_find(&dir->names, name);
	if (!inode)
		return -ENOENT;
	if (inode->is_dir)
		return -EISDIR;
	r = mutate_names(n);
	trace(n, "unlink", sim_hash_bytes(path, strlen(path)),
	      (uint64_t)(int64_t)r, 0);
	if (!r)
		sim_dir_unlink(dir, name);
	return r;
}

/* Over a copy: each() may create and unlink. */
int sim_file_list(struct io *io, const char *path,
		  int (*each)(void *, const char *), void *ctx)
{
	struct sim_node *n = node_of(io);
	struct sim_inode *dir;
	char **names;
	size_t count;
	int r = sim_node_block(n);

	if (!r)
		r = sim_dir_lookup(n->disk, path, &dir);
	if (r)
		return r;
	if (!dir->is_dir)
		return -ENOTDIR;
	count = dir->names.count;
	names = sim_alloc_zeroed(count * sizeof(*names));
	for (size_t i = 0; i < count; i++)
		names[i] = sim_alloc_text(dir->names.entries[i].name,
					  strlen(dir->names.entries[i].name));
	trace(n, "list", dir->id, count, 0);
	for (size_t i = 0; i < count; i++) {
		if (!r)
			r = each(ctx, names[i]);
		sim_alloc_free(names[i]);
	}
	sim_alloc_free(names);
	return r;
}

int sim_file_fs_info(struct io *io, const char *path, struct io_fs *ret)
{
	struct sim_node *n = node_of(io);
	struct sim_config *c = &n->sim->config;
	struct sim_inode *inode;
	int r = sim_node_block(n);

	if (!r)
		r = sim_dir_lookup(n->disk, path, &inode);
	if (r)
		return r;
	memset(ret, 0, sizeof(*ret));
	ret->bytes_total = n->disk->bytes_max;
	ret->bytes_free =
		n->disk->bytes_max -
		base_min(n->disk->bytes_max, n->disk->stats.bytes_used);
	ret->bytes_used = n->disk->stats.bytes_used;
	ret->network = c->network_fs;
	snprintf(ret->name, sizeof(ret->name), "%s",
		 c->network_fs ? "nfs" : "sim");
	return 0;
}

/* ---- operations ---- */

static void read_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct loop_op *lop = op->op;
	struct sim_node *n = op->loop->node;
	size_t got = 0;
	int r;

	if (!sim_op_about(op) || sim_op_hold(op))
		return;
	r = read_now(n, op->write.inode, lop->buf, lop->len, lop->offset, &got);
	trace(n, "read-op", op->write.inode->id, lop->offset,
	      r ? (uint64_t)(int64_t)r : sim_hash_bytes(lop->buf, got));
	sim_op_finish(op, r ? r : (int)got);
}

static void write_fire(struct sim_event *e)
{
	struct sim_op *op = container_of(e, struct sim_op, event);
	struct sim_node *n = op->loop->node;
	uint64_t id = op->write.inode->id, offset;
	size_t len = op->write.len;
	bool dead;
	int r;

	if (!sim_op_about(op) || sim_op_hold(op))
		return;
	/* The kernel owned the buffer: nobody may have touched it. */
	ASSERT(sim_hash_bytes(op->write.data, len) == op->data_hash);
	r = sim_disk_write(n, &op->write, &dead);
	/* With the node its operations are gone. */
	if (dead)
		return;
	offset = op->write.offset;
	trace(n, "write-op", id, offset,
	      r ? (uint64_t)(int64_t)r : op->data_hash);
	list_remove(&op->write.link);
	sim_op_finish(op, r ? r : (int)len);
}

void sim_file_submit(struct loop *loop, struct loop_op *lop)
{
	struct sim_file *f = file_of(lop->file);
	bool reads = lop->kind == ENGINE_READ;
	struct sim_op *op;

	op = sim_op_start(loop, lop, reads ? read_fire : write_fire);
	if (!op)
		return;
	op->write.inode = f->inode;
	sim_inode_hold(f->inode);
	if (reads) {
		/* What was there before must not pass for an answer. */
		memset(lop->buf, 0xa5, lop->len);
	} else {
		op->write.data = lop->buf;
		op->write.len = lop->len;
		op->write.offset = lop->offset;
		op->write.durable = lop->kind == ENGINE_WRITE_DURABLE ||
				    f->flags & IO_APPEND;
		op->write.append = f->flags & IO_APPEND;
		op->data_hash = sim_hash_bytes(lop->buf, lop->len);
		list_push(&f->node->disk->writes, &op->write.link);
	}
	sim_node_disk_latency(f->node, &op->event);
}
