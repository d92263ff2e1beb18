/* tools/doctor_trips.c: see doctor_trips.h. */
#include "tools/doctor_trips.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/mount.h"
#include "tools/histogram.h"

#define TRIP_NS 500000000ull
#define TRIPS_MAX 1000u
#define APPEND_BYTES 64u
#define TRIP_PATH_BYTES 4096u

struct trips {
	struct io *io;
	struct io_file *file; /* opened as a claim is */
	int lock_fd;
	const char *path;		 /* of file */
	char made[TRIP_PATH_BYTES + 32]; /* and of those that create() makes */
	unsigned made_count;
	struct histogram latency;
};

static int lock_once(struct trips *t)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(t->lock_fd, F_OFD_SETLK, &lock))
		return -errno;
	lock.l_type = F_UNLCK;
	return fcntl(t->lock_fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

static int check_once(struct trips *t)
{
	uint64_t size;

	return io_size(t->file, &size);
}

static int seal_once(struct trips *t)
{
	static const char bytes[APPEND_BYTES];

	return io_write(t->file, bytes, sizeof(bytes), 0);
}

/* READs of every kind that the mount has sent.  (base/posix.c says why the
 * check is one.) */
static bool count_reads(const char *point, uint64_t *ret)
{
	uint64_t reads, plus = 0;

	if (!point || !mount_stats_read("", point, "READ", &reads))
		return false;
	/* Only newer kernels have it. */
	(void)mount_stats_read("", point, "READ_PLUS", &plus);
	*ret = reads + plus;
	return true;
}

static void name_made(struct trips *t, unsigned number)
{
	snprintf(t->made, sizeof(t->made), "%s.%u", t->path, number);
}

static int create_once(struct trips *t)
{
	struct io_file *file;
	int err;

	name_made(t, t->made_count);
	err = io_open(t->io, t->made, IO_WRITE | IO_CREATE | IO_EXCLUSIVE,
		      &file);
	if (err)
		return err;
	t->made_count++;
	io_close(file);
	return 0;
}

static int run(struct trips *t, int (*once)(struct trips *),
	       struct doctor_trip *ret)
{
	uint64_t begun = io_now_ns(t->io), now = begun;

	histogram_init(&t->latency);
	do {
		uint64_t before = now;
		int err = once(t);

		if (err)
			return err;
		now = io_now_ns(t->io);
		histogram_add(&t->latency, now - before);
	} while (t->latency.count < TRIPS_MAX && now - begun < TRIP_NS);
	*ret = (struct doctor_trip){
		.p50_ns = histogram_quantile(&t->latency, 0.5),
		.p99_ns = histogram_quantile(&t->latency, 0.99),
		.count = t->latency.count,
	};
	return 0;
}

static int run_all(struct trips *t, const char *point, struct doctor_trips *ret,
		   const char **ret_what)
{
	uint64_t before = 0, after = 0;
	int err;

	*ret_what = "an OFD lock";
	err = run(t, lock_once, &ret->lock);
	if (err)
		return err;
	*ret_what = "asking for a file's size";
	ret->counted = count_reads(point, &before);
	err = run(t, check_once, &ret->check);
	if (err)
		return err;
	ret->counted = ret->counted && count_reads(point, &after);
	ret->check_calls = after - before;
	*ret_what = "making a new file";
	err = run(t, create_once, &ret->create);
	if (err)
		return err;
	*ret_what = "a durable append";
	return run(t, seal_once, &ret->seal);
}

int doctor_trips_measure(struct io *io, const char *dir, const char *point,
			 struct doctor_trips *ret, const char **ret_what)
{
	struct trips *t = calloc(1, sizeof(*t));
	struct doctor_trips trips = {0};
	char path[TRIP_PATH_BYTES];
	int err = -ENOMEM;

	*ret_what = "making a new file";
	if (!t)
		return err;
	t->io = io;
	t->path = path;
	snprintf(path, sizeof(path), "%s/.holdfast-doctor-trips-%d", dir,
		 (int)getpid());
	err = io_open(io, path, IO_WRITE | IO_CREATE | IO_EXCLUSIVE | IO_APPEND,
		      &t->file);
	if (err)
		goto out;
	t->lock_fd = open(path, O_RDWR | O_CLOEXEC);
	err = t->lock_fd < 0 ? -errno : run_all(t, point, &trips, ret_what);
	if (t->lock_fd >= 0)
		close(t->lock_fd);
	io_close(t->file);
	while (t->made_count) {
		name_made(t, --t->made_count);
		if (io_unlink(io, t->made) && !err)
			err = -EIO;
	}
	if (io_unlink(io, path) && !err)
		err = -EIO;
	if (!err)
		*ret = trips;
out:
	free(t);
	return err;
}
