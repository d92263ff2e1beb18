/* tools/doctor_disk.c: see doctor_disk.h. */
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "tools/doctor_disk.h"
#include "tools/histogram.h"

#define PROBE_BYTES (16u << 20)
#define SMALL_BYTES 4096u
#define LARGE_BYTES (256u * 1024u)
#define ROUND_NS 800000000ull
#define WRITES_MAX 2000u

struct probe {
	struct loop_op op;
	struct loop *loop;
	struct io *io;
	struct io_file *file;
	void *buf;
	size_t write_bytes;
	uint64_t offset, begun_ns, started_ns, ended_ns;
	unsigned left;
	int err;
	struct histogram latency;
};

static void write_next(struct probe *p)
{
	p->started_ns = io_now_ns(p->io);
	loop_write_durable(p->loop, &p->op, p->file, p->buf, p->write_bytes,
			   p->offset);
}

static void written(struct loop_op *op, int res)
{
	struct probe *p = container_of(op, struct probe, op);

	p->ended_ns = io_now_ns(p->io);
	if (res < 0) {
		p->err = res;
		loop_stop(p->loop);
		return;
	}
	histogram_add(&p->latency, p->ended_ns - p->started_ns);
	p->offset += p->write_bytes;
	if (p->offset + p->write_bytes > PROBE_BYTES)
		p->offset = 0;
	if (!--p->left || p->ended_ns - p->begun_ns > ROUND_NS) {
		loop_stop(p->loop);
		return;
	}
	write_next(p);
}

static void begin(void *ctx)
{
	struct probe *p = ctx;

	p->begun_ns = io_now_ns(p->io);
	write_next(p);
}

static int run_round(struct probe *p, size_t write_bytes)
{
	int err;

	histogram_init(&p->latency);
	p->write_bytes = write_bytes;
	p->left = WRITES_MAX;
	p->offset = 0;
	memset(&p->op, 0, sizeof(p->op));
	p->op.done = written;
	err = loop_create(p->io, "probe", &p->loop);
	if (err)
		return err;
	err = loop_start(p->loop, begin, p);
	if (!err) {
		loop_join(p->loop);
		err = p->err;
	}
	loop_free(p->loop);
	return err;
}

static int measure(struct probe *p, struct doctor_disk *ret)
{
	struct doctor_disk disk = {.direct = io_file_direct(p->file)};
	int err = 0;

	/* Written, not merely allocated: the first write into fresh blocks
	 * makes the file system convert them and commit its own journal. */
	for (uint64_t at = 0; at < PROBE_BYTES && !err; at += LARGE_BYTES)
		err = io_write(p->file, p->buf, LARGE_BYTES, at);
	if (!err)
		err = io_sync(p->file);
	if (!err)
		err = run_round(p, SMALL_BYTES);
	if (err)
		return err;
	disk.small_p50_ns = histogram_quantile(&p->latency, 0.5);
	disk.small_p99_ns = histogram_quantile(&p->latency, 0.99);
	disk.small_mean_ns = p->latency.total / p->latency.count;
	err = run_round(p, LARGE_BYTES);
	if (err)
		return err;
	disk.large_p50_ns = histogram_quantile(&p->latency, 0.5);
	disk.large_bytes_per_second =
		(double)(p->latency.count * LARGE_BYTES) /
		((double)(p->ended_ns - p->begun_ns) / 1e9);
	*ret = disk;
	return 0;
}

int doctor_disk_measure(struct io *io, const char *dir, struct doctor_disk *ret)
{
	struct probe p = {.io = io};
	char path[4096];
	int err;

	snprintf(path, sizeof(path), "%s/.holdfast-doctor-%d", dir,
		 (int)getpid());
	p.buf = io_buffer_alloc(LARGE_BYTES);
	if (!p.buf)
		return -ENOMEM;
	io_random(io, p.buf, LARGE_BYTES);
	err = io_open(io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_DIRECT,
		      &p.file);
	if (err)
		goto out_buf;
	err = io_allocate(p.file, PROBE_BYTES);
	if (!err)
		err = measure(&p, ret);
	io_close(p.file);
	if (io_unlink(io, path) && !err)
		err = -EIO;
out_buf:
	io_buffer_free(p.buf);
	return err;
}
