/* tests/unit/test_index.c: the index on LMDB. */
#include <signal.h>
#include <sys/resource.h>

#include "tests/unit/test.h"

#include "base/sim/sim.h"
#include "journal/store/index.h"

struct room { /* a directory, and an index in it */
	char dir[64], path[128];
	struct io *io;
	struct index *index;
};

static void room_make(struct room *r)
{
	const char *reason;

	*r = (struct room){.dir = "/tmp/holdfast-index-XXXXXX"};
	assert_int_equal(crypto_init(), 0);
	assert_non_null(mkdtemp(r->dir));
	snprintf(r->path, sizeof(r->path), "%s/index", r->dir);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &r->io, &reason), 0);
}

static void room_open(struct room *r, uint64_t bytes_max)
{
	const struct index_lmdb_options options = {
		.io = r->io, .dir = r->path, .bytes_max = bytes_max};
	char why[256] = "";
	int err = index_lmdb_open(&options, &r->index, why, sizeof(why));

	if (err)
		fail_msg("%d: %s", err, why);
}

static void room_close(struct room *r)
{
	index_free(r->index);
	r->index = NULL;
}

static void room_end(struct room *r)
{
	char command[128];

	room_close(r);
	io_free(r->io);
	snprintf(command, sizeof(command), "rm -rf '%s'", r->dir);
	assert_int_equal(system(command), 0);
}

/* Bytes that tell which (n, version) they belong to. */
static void fill(uint8_t *value, size_t len, uint64_t n, uint64_t version)
{
	for (size_t i = 0; i < len; i++)
		value[i] = (uint8_t)(n * 31 + version * 7 + i);
}

static int put(struct room *r, uint64_t n, uint64_t version, size_t len)
{
	uint8_t *value = malloc(len + 1);
	int err;

	assert_non_null(value);
	fill(value, len, n, version);
	err = r->index->ops->put(r->index, &n, sizeof(n), value, len);
	free(value);
	return err;
}

static int get(struct room *r, uint64_t n, void **ret, size_t *ret_len)
{
	return r->index->ops->get(r->index, &n, sizeof(n), ret, ret_len);
}

static int take(struct room *r, uint64_t n)
{
	return r->index->ops->remove(r->index, &n, sizeof(n));
}

static void expect(struct room *r, uint64_t n, uint64_t version, size_t len)
{
	uint8_t *want = malloc(len + 1);
	void *value = NULL;
	size_t found;
	int err = get(r, n, &value, &found);

	assert_non_null(want);
	if (err)
		fail_msg("%llu: error %d", (unsigned long long)n, err);
	fill(want, len, n, version);
	assert_int_equal(found, len);
	assert_memory_equal(value, want, len);
	free(value);
	free(want);
}

static void expect_none(struct room *r, uint64_t n)
{
	void *value = NULL;
	size_t len;

	assert_int_equal(get(r, n, &value, &len), -ENOENT);
	assert_null(value);
}

TEST("what is put is got, replaced and removed, in any number")
{
	struct room r;
	uint64_t entries, bytes;

	room_make(&r);
	room_open(&r, 0);
	expect_none(&r, 1);
	for (uint64_t n = 0; n < 3000; n++)
		assert_int_equal(put(&r, n, 0, n % 700), 0);
	for (uint64_t n = 0; n < 3000; n++)
		expect(&r, n, 0, n % 700);
	for (uint64_t n = 0; n < 3000; n += 3)
		assert_int_equal(put(&r, n, 1, n % 900), 0);
	for (uint64_t n = 1; n < 3000; n += 3)
		assert_int_equal(take(&r, n), 0);
	assert_int_equal(take(&r, 99999), 0);
	for (uint64_t n = 0; n < 3000; n++) {
		if (n % 3 == 0)
			expect(&r, n, 1, n % 900);
		else if (n % 3 == 1)
			expect_none(&r, n);
		else
			expect(&r, n, 0, n % 700);
	}
	index_lmdb_stat(r.index, &entries, &bytes);
	assert_int_equal(entries, 2000);
	assert_true(bytes > 2000 * 300);
	room_end(&r);
}

TEST("an own write is seen before and after it is written to the file")
{
	struct room r;

	room_make(&r);
	room_open(&r, 0);
	assert_int_equal(put(&r, 1, 0, 100), 0);
	expect(&r, 1, 0, 100);
	assert_int_equal(put(&r, 1, 1, 50), 0);
	expect(&r, 1, 1, 50);
	assert_int_equal(take(&r, 1), 0);
	expect_none(&r, 1);
	assert_int_equal(put(&r, 1, 2, 0), 0);
	for (uint64_t n = 1000; n < 1500; n++) /* pushes it out */
		assert_int_equal(put(&r, n, 0, 10), 0);
	expect(&r, 1, 2, 0);
	room_end(&r);
}

TEST("values of many sizes, to several MiB, come back as they were")
{
	struct room r;
	static const size_t sizes[] = {0,    1,	    1000,   2000,    4096,
				       4097, 65536, 300000, 5000000, 17};

	room_make(&r);
	room_open(&r, 0);
	for (uint64_t i = 0; i < ARRAY_COUNT(sizes); i++)
		assert_int_equal(put(&r, i, 3, sizes[i]), 0);
	for (uint64_t i = 0; i < ARRAY_COUNT(sizes); i++)
		expect(&r, i, 3, sizes[i]);
	room_end(&r);
}

TEST("keys that share a beginning, and of every length, are told apart")
{
	struct room r;
	char key[INDEX_KEY_MAX];
	void *value;
	size_t len;

	room_make(&r);
	room_open(&r, 0);
	memset(key, 'k', sizeof(key));
	for (uint64_t n = 1; n <= sizeof(key); n++)
		assert_int_equal(r.index->ops->put(r.index, key, n, &n, 8), 0);
	for (uint64_t n = 1; n <= sizeof(key); n++) {
		assert_int_equal(
			r.index->ops->get(r.index, key, n, &value, &len), 0);
		assert_int_equal(len, 8);
		assert_memory_equal(value, &n, 8);
		free(value);
	}
	room_end(&r);
}

TEST("after opening it is empty, whatever was there, and leaves no file behind")
{
	struct room r;
	char path[160];
	FILE *f;

	room_make(&r);
	assert_int_equal(mkdir(r.path, 0700), 0);
	for (int i = 0; i < 3; i++) {
		static const char *const names[] = {"data.mdb", "lock.mdb",
						    "notes.txt"};

		snprintf(path, sizeof(path), "%s/%s", r.path, names[i]);
		f = fopen(path, "w");
		assert_non_null(f);
		for (int n = 0; n < 20000; n++)
			fputc(n * 7, f);
		assert_int_equal(fclose(f), 0);
	}
	room_open(&r, 0);
	expect_none(&r, 1);
	for (uint64_t n = 0; n < 1000; n++)
		assert_int_equal(put(&r, n, 0, 100), 0);
	room_close(&r);
	snprintf(path, sizeof(path), "%s/data.mdb", r.path);
	assert_int_equal(access(path, F_OK), -1);
	snprintf(path, sizeof(path), "%s/notes.txt", r.path);
	assert_int_equal(access(path, F_OK), 0);
	room_open(&r, 0);
	for (uint64_t n = 0; n < 1000; n++)
		expect_none(&r, n);
	room_end(&r);
}

TEST("a second one in the same directory is refused, for as long as there is "
     "one")
{
	struct room r;
	struct index_lmdb_options second = {.dir = r.path};
	struct index *other = NULL;
	char why[256] = "";

	room_make(&r);
	room_open(&r, 0);
	second.io = r.io;
	for (uint64_t n = 0; n < 1000; n++)
		assert_int_equal(put(&r, n, 0, 100), 0);
	assert_int_equal(index_lmdb_open(&second, &other, why, sizeof(why)),
			 -EAGAIN);
	assert_non_null(strstr(why, "set index_dir"));
	for (uint64_t n = 0; n < 1000; n++)
		expect(&r, n, 0, 100);
	room_close(&r);
	room_open(&r, 0);
	room_end(&r);
}

TEST("neither keys nor values can be found on the disk")
{
	struct room r;
	char path[160];
	uint64_t entries, bytes;
	static const char key[] = "queue/orders.secret-name",
			  text[] = "a text that must not be seen";
	char *data;
	FILE *f;

	room_make(&r);
	room_open(&r, 0);
	assert_int_equal(r.index->ops->put(r.index, key, sizeof(key), text,
					   sizeof(text)),
			 0);
	index_lmdb_stat(r.index, &entries, &bytes);
	assert_int_equal(entries, 1);
	snprintf(path, sizeof(path), "%s/data.mdb", r.path);
	f = fopen(path, "r");
	assert_non_null(f);
	data = calloc(1, bytes);
	assert_non_null(data);
	assert_int_equal(fread(data, 1, bytes, f), bytes);
	fclose(f);
	assert_null(memmem(data, bytes, "secret-name", 11));
	assert_null(memmem(data, bytes, "must not be seen", 16));
	free(data);
	room_end(&r);
}

TEST("when it is full what was there stays, and removing makes room")
{
	struct room r;
	uint64_t entries, bytes, count = 0;

	room_make(&r);
	room_open(&r, 4u << 20);
	for (int round = 0; round < 3; round++) {
		uint64_t full = 0;
		int err = 0;

		for (uint64_t n = 0; n < 5000 && !err; n++) {
			err = put(&r, n, (uint64_t)round, 3000);
			full = n;
		}
		assert_int_equal(err, -ENOSPC);
		if (!round)
			count = full;
		/* Rounds are alike: nothing leaks. */
		assert_in_range(full, count - count / 8, count + count / 8);
		assert_true(full > 500);
		assert_int_equal(put(&r, full, 9, 3000), -ENOSPC);
		for (uint64_t n = 0; n < full; n++)
			expect(&r, n, (uint64_t)round, 3000);
		expect_none(&r, full);
		for (uint64_t n = 0; n < full; n += 2)
			assert_int_equal(take(&r, n), 0);
		assert_int_equal(put(&r, 5001, 1, 3000), 0);
		for (uint64_t n = 1; n < full; n += 2)
			expect(&r, n, (uint64_t)round, 3000);
		for (uint64_t n = 1; n < full; n += 2)
			assert_int_equal(take(&r, n), 0);
		assert_int_equal(take(&r, 5001), 0);
		index_lmdb_stat(r.index, &entries, &bytes);
		assert_int_equal(entries, 0);
	}
	room_end(&r);
}

TEST("a disk without space refuses, loses nothing, and is used again later")
{
	struct room r;
	struct rlimit was, small;
	uint64_t n = 0;
	int err = 0;

	room_make(&r);
	room_open(&r, 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = was;
	small.rlim_cur = 1u << 20;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	for (; n < 5000 && !err; n++)
		err = put(&r, n, 0, 1000);
	assert_true(err < 0);
	n--;
	for (uint64_t i = 0; i < n; i++)
		expect(&r, i, 0, 1000);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	err = -1;
	for (int i = 0; i < 1000 && err; i++)
		err = put(&r, n, 0, 1000);
	assert_int_equal(err, 0);
	for (uint64_t i = 0; i <= n; i++)
		expect(&r, i, 0, 1000);
	room_end(&r);
}

TEST("a damaged value is an error and not a wrong answer")
{
	struct room r;
	char path[160];
	uint64_t entries, bytes, damaged = 0, offset;
	uint8_t *data;
	int fd;

	room_make(&r);
	room_open(&r, 0);
	/* Values of a page's size and more lie on pages of their own, whose
	 * damage LMDB's structure does not notice. */
	for (uint64_t n = 0; n < 200; n++)
		assert_int_equal(put(&r, n, 0, 6000), 0);
	index_lmdb_stat(r.index, &entries, &bytes);
	snprintf(path, sizeof(path), "%s/data.mdb", r.path);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	data = malloc(bytes);
	assert_non_null(data);
	assert_int_equal(pread(fd, data, bytes, 0), bytes);
	/* Damage bytes that are not at a page's beginning, where its header
	 * is, on pages marked as overflow (flag 4 at 10). */
	for (offset = 0; offset + 8192 <= bytes; offset += 4096) {
		if (data[offset + 10] != 4 || offset / 4096 % 3)
			continue;
		data[offset + 100] ^= 1;
		assert_int_equal(
			pwrite(fd, &data[offset + 100], 1, (off_t)offset + 100),
			1);
	}
	free(data);
	close(fd);
	for (uint64_t n = 0; n < 200; n++) {
		void *value = NULL;
		size_t len;
		int err = get(&r, n, &value, &len);

		if (err) {
			assert_int_equal(err, -E_CORRUPT);
			damaged++;
		} else {
			free(value);
			expect(&r, n, 0, 6000);
		}
	}
	assert_in_range(damaged, 20, 180);
	room_end(&r);
}

TEST("a network file system is refused by name, a local one is not")
{
	static const char *const networks[] = {"nfs", "smb2", "cifs",  "fuse",
					       "9p",  "ceph", "lustre"};
	struct io_fs fs = {.network = 1};
	char why[256];

	for (size_t i = 0; i < ARRAY_COUNT(networks); i++) {
		snprintf(fs.name, sizeof(fs.name), "%s", networks[i]);
		assert_true(index_lmdb_refuses(&fs, "/data/index", why,
					       sizeof(why)));
		assert_non_null(strstr(why, networks[i]));
		assert_non_null(strstr(why, "/data/index"));
		assert_non_null(strstr(why, "set index_dir"));
	}
	fs = (struct io_fs){.name = "tmpfs"};
	assert_false(index_lmdb_refuses(&fs, "/x", why, sizeof(why)));
}

TEST("a directory that cannot be made is refused with what to do")
{
	struct room r;
	char why[256] = "";
	struct index_lmdb_options options;

	room_make(&r);
	options = (struct index_lmdb_options){.io = r.io,
					      .dir = "/proc/nothing/index"};
	assert_int_equal(index_lmdb_open(&options, &r.index, why, sizeof(why)),
			 -ENOENT);
	assert_non_null(strstr(why, "/proc/nothing/index"));
	assert_non_null(strstr(why, "index_dir"));
	assert_null(r.index);
	room_end(&r);
}

TEST("a random history gives what a plain table gives")
{
	enum { KEYS = 600 };
	static uint32_t version[KEYS], size[KEYS];
	struct room r;
	uint32_t seed = 12345;

	memset(version, 0, sizeof(version));
	room_make(&r);
	room_open(&r, 0);
	for (uint32_t step = 1; step < 40000; step++) {
		uint32_t n, what;

		seed = seed * 1664525u + 1013904223u;
		n = (seed >> 8) % KEYS;
		what = (seed >> 24) % 8;
		if (what < 3) {
			version[n] = step;
			size[n] = (seed >> 4) % 1500;
			assert_int_equal(put(&r, n, step, size[n]), 0);
		} else if (what < 5) {
			version[n] = 0;
			assert_int_equal(take(&r, n), 0);
		} else if (version[n]) {
			expect(&r, n, version[n], size[n]);
		} else {
			expect_none(&r, n);
		}
	}
	room_end(&r);
}

/* Each put, get and removal either happens or says -ENOMEM and has changed
 * nothing. */
static void use_with_failure(struct room *r, uint64_t k, uint64_t *ret_count)
{
	uint64_t version[40] = {0};

	assert_int_equal(sim_alloc_fail_at(k), 0);
	for (uint64_t step = 1; step <= 400; step++) {
		uint64_t n = step * 7 % 40;
		void *value;
		size_t len;
		int err;

		if (step % 5 == 0) {
			err = take(r, n);
			version[n] = err ? version[n] : 0;
		} else if (step % 5 == 1) {
			err = get(r, n, &value, &len);
			if (!err)
				free(value);
			else if (err == -ENOENT && !version[n])
				err = 0;
		} else {
			uint8_t bytes[300];

			fill(bytes, sizeof(bytes), n, step);
			err = r->index->ops->put(r->index, &n, sizeof(n), bytes,
						 sizeof(bytes));
			version[n] = err ? version[n] : step;
		}
		if (err && err != -ENOMEM)
			fail_msg("step %llu: %d", (unsigned long long)step,
				 err);
	}
	*ret_count = sim_alloc_count();
	assert_int_equal(sim_alloc_fail_at(0), 0);
	for (uint64_t n = 0; n < 40; n++) {
		if (version[n])
			expect(r, n, version[n], 300);
		else
			expect_none(r, n);
	}
}

TEST("an allocation that fails is an error of one call, and changes nothing")
{
	struct room r;
	uint64_t count = 1, k;

	if (sim_alloc_fail_at(0))
		skip();
	for (k = 1; k <= count; k += 1 + k / 16) {
		room_make(&r);
		room_open(&r, 0);
		use_with_failure(&r, k, &count);
		room_end(&r);
	}
	assert_true(count > 100);
}

TEST("opening where an allocation fails fails, and leaves nothing open")
{
	struct room r;
	char why[256];
	int err = -ENOMEM;

	if (sim_alloc_fail_at(0))
		skip();
	room_make(&r);
	for (uint64_t k = 1; err; k++) {
		const struct index_lmdb_options options = {.io = r.io,
							   .dir = r.path};

		assert_true(k < 100);
		assert_int_equal(sim_alloc_fail_at(k), 0);
		err = index_lmdb_open(&options, &r.index, why, sizeof(why));
		assert_int_equal(sim_alloc_fail_at(0), 0);
		if (err) {
			assert_int_equal(err, -ENOMEM);
			assert_null(r.index);
		}
	}
	assert_int_equal(put(&r, 1, 1, 10), 0);
	expect(&r, 1, 1, 10);
	room_end(&r);
}

TEST_MAIN()
