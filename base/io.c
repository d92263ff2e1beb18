/* base/io.c: the blocking half of the I/O seam, handed to the engine that was
 * chosen at start. */
#include <string.h>

#include "base/engine.h"

int io_create(enum io_engine want, struct io **ret, const char **ret_reason)
{
	const char *reason =
		"threads are used: the configuration asks for them";
	int r;

	if (want != IO_ENGINE_THREADS) {
		r = uring_create(ret, &reason);
		if (!r || want == IO_ENGINE_URING) {
			*ret_reason = reason;
			return r;
		}
	}
	*ret_reason = reason;
	return threads_create(ret);
}

void io_free(struct io *io)
{
	if (io)
		io->ops->free(io);
}

const char *io_engine_name(const struct io *io)
{
	return io->ops->name;
}

uint64_t io_now_ns(struct io *io)
{
	return io->ops->now_ns(io);
}

void io_pause(struct io *io, uint64_t ns)
{
	io->ops->pause(io, ns);
}

uint64_t io_wall_ms(struct io *io)
{
	return io->ops->wall_ms(io);
}

void io_random(struct io *io, void *buf, size_t len)
{
	io->ops->random(io, buf, len);
}

int io_open(struct io *io, const char *path, unsigned flags,
	    struct io_file **ret)
{
	return io->ops->open(io, path, flags, ret);
}

void io_close(struct io_file *file)
{
	if (file)
		file->io->ops->close(file);
}

int io_file_direct(const struct io_file *file)
{
	return file->direct;
}

int io_read(struct io_file *file, void *buf, size_t len, uint64_t offset,
	    size_t *ret_len)
{
	return file->io->ops->read(file, buf, len, offset, ret_len);
}

int io_write(struct io_file *file, const void *buf, size_t len, uint64_t offset)
{
	return file->io->ops->write(file, buf, len, offset);
}

int io_sync(struct io_file *file)
{
	return file->io->ops->sync(file);
}

int io_size(struct io_file *file, uint64_t *ret_bytes)
{
	return file->io->ops->size(file, ret_bytes);
}

int io_allocate(struct io_file *file, uint64_t bytes)
{
	return file->io->ops->allocate(file, bytes);
}

int io_truncate(struct io_file *file, uint64_t bytes)
{
	return file->io->ops->truncate(file, bytes);
}

int io_lock(struct io_file *file)
{
	return file->io->ops->lock(file);
}

int io_mkdir(struct io *io, const char *path)
{
	return io->ops->mkdir(io, path);
}

int io_sync_dir(struct io *io, const char *path)
{
	return io->ops->sync_dir(io, path);
}

int io_rename(struct io *io, const char *from, const char *to)
{
	return io->ops->rename(io, from, to);
}

int io_unlink(struct io *io, const char *path)
{
	return io->ops->unlink(io, path);
}

int io_list(struct io *io, const char *path,
	    int (*each)(void *ctx, const char *name), void *ctx)
{
	return io->ops->list(io, path, each, ctx);
}

int io_fs_info(struct io *io, const char *path, struct io_fs *ret)
{
	return io->ops->fs_info(io, path, ret);
}

void *io_buffer_alloc(size_t bytes)
{
	size_t size = base_round_up(base_max(bytes, 1), IO_BLOCK);
	void *buf = size < bytes ? NULL : aligned_alloc(IO_BLOCK, size);

	if (buf)
		memset(buf, 0, size);
	return buf;
}

void io_buffer_free(void *buf)
{
	free(buf);
}
