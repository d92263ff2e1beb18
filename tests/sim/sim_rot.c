/* Rot: one wrong bit, one file cut short, or one file gone, anywhere in the
 * directory of a broker that is not running.  It must refuse and name the
 * file, or serve everything that was confirmed, or, for a message whose bytes
 * are damaged, keep it, count it and not deliver it.  docs/testing.md.
 *
 *	sim_rot --case 57	replays one
 *
 * By default every CASE_STRIDE-th case is tried; SIM_THOROUGH=1 tries all of
 * them, and every bit. */
#include "tests/unit/test.h"

#include "tests/sim/load.h"

#define FILES_MAX 64
#define CASES_MAX 2000000
#define FAILURES_SHOWN_MAX 5
#define HEADER_BYTES 256
#define FRAME_BLOCK 4096
#define CASE_STRIDE 9 /* no divisor of a format's strides */
#define ROT_REFUSED 4
#define ROT_VAGUE 5 /* it refused, and did not say which file */

enum rot_kind { ROT_FLIP, ROT_TRUNCATE, ROT_REMOVE };

struct rot_file {
	char path[128];
	uint64_t bytes;
	uint8_t *data;
};

struct rot_case {
	enum rot_kind kind;
	unsigned file, bit;
	uint64_t offset;
};

/* The disk, the truth about it, and what is to be done to it. */
struct rot {
	struct sim *sim;
	struct model model;
	struct rig_options rig;
	struct rot_file files[FILES_MAX];
	unsigned file_count;
	struct rot_case *cases;
	size_t case_count;
	bool thorough;
};

static const struct load_options rot_load = {
	.steps = 40,
	.burst_max = 12,
	.bytes_max = 2000,
	.large_ppm = 80000,
	.pause_ns_max = 3000000,
	.long_ppm = 40000,
	.quiet_ppm = 30000,
	.consumers = 2,
	.priority_ppm = 100000,
};

/* ---- the disk ---- */

/* Three epochs, checkpoints, extents, dead letters, large messages. */
static void rot_fill(struct rot *rot)
{
	struct sim_config config = sim_config_calm(6);

	rot->sim = sim_create(&config);
	rot->rig = (struct rig_options){.shard_count = 2,
					.checkpoint_bytes = 150000,
					.hot_bytes = 1,
					.hot_ns = 100000000,
					.extent_bytes = 60000,
					.store_memory_bytes = 20000,
					.rules = load_rules,
					.rule_count = load_rule_count};
	model_init(&rot->model);
	for (int i = 0; i < 3; i++) {
		struct rig *r = calloc(1, sizeof(*r));

		if (!r || rig_start(r, rot->sim, &rot->rig) != 0)
			model_fail("the broker does not start");
		load_run(load_create(r, &rot->model, &rot_load));
		if (rig_stop(r) != 0)
			model_fail("the broker failed");
		model_crash(&rot->model);
	}
	rot->model.damaged = true;
}

struct rot_listing {
	struct rot *rot;
	struct io *io;
	const char *dir;
};

static int rot_list(struct rot *rot, struct io *io, const char *dir);

static int rot_entry(void *ctx, const char *name)
{
	struct rot_listing *l = ctx;
	struct rot_file *f = &l->rot->files[l->rot->file_count];
	struct io_file *file;
	size_t len;

	ASSERT(l->rot->file_count < FILES_MAX);
	snprintf(f->path, sizeof(f->path), "%s/%s", l->dir, name);
	if (rot_list(l->rot, l->io, f->path) == 0)
		return 0; /* a directory; its files took this place */
	if (io_open(l->io, f->path, IO_READ, &file) != 0 ||
	    io_size(file, &f->bytes) != 0)
		model_fail("%s cannot be opened", f->path);
	f->data = malloc(f->bytes + 1);
	if (!f->data || io_read(file, f->data, f->bytes, 0, &len) != 0)
		model_fail("%s cannot be read", f->path);
	io_close(file);
	l->rot->file_count++;
	return 0;
}

static int rot_list(struct rot *rot, struct io *io, const char *dir)
{
	char copy[128];
	struct rot_listing l = {.rot = rot, .io = io, .dir = copy};

	snprintf(copy, sizeof(copy), "%s", dir);
	return io_list(io, dir, rot_entry, &l);
}

/* ---- the cases ---- */

static void add(struct rot *rot, enum rot_kind kind, unsigned file,
		uint64_t offset, unsigned bit)
{
	ASSERT(rot->case_count < CASES_MAX);
	rot->cases[rot->case_count++] = (struct rot_case){
		.kind = kind, .file = file, .offset = offset, .bit = bit};
}

static void add_flips(struct rot *rot, unsigned file, uint64_t from,
		      uint64_t bytes, uint64_t stride)
{
	const struct rot_file *f = &rot->files[file];

	for (uint64_t at = from; at < from + bytes && at < f->bytes;
	     at += rot->thorough ? 1 : stride) {
		if (!rot->thorough) {
			add(rot, ROT_FLIP, file, at, (unsigned)(at * 5 % 8));
			continue;
		}
		for (unsigned bit = 0; bit < 8; bit++)
			add(rot, ROT_FLIP, file, at, bit);
	}
}

/* A segment: its header, the headers of its frames, and samples of what they
 * hold and of what was never written. */
static void add_segment(struct rot *rot, unsigned file)
{
	const struct rot_file *f = &rot->files[file];
	unsigned frames = 0;

	add_flips(rot, file, 0, HEADER_BYTES, 1);
	for (uint64_t at = FRAME_BLOCK; at < f->bytes; at += FRAME_BLOCK) {
		if (!memcmp(f->data + at, "HFFRAME", 7)) {
			/* Between them they cover every byte. */
			add_flips(rot, file, at + frames % 8, HEADER_BYTES, 8);
			frames++;
		}
		if (f->data[at] || f->data[at + 1])
			add_flips(rot, file, at + HEADER_BYTES,
				  FRAME_BLOCK - HEADER_BYTES, 1301);
		else if (at / FRAME_BLOCK % 32 == 0)
			add(rot, ROT_FLIP, file, at + 17, 3);
	}
}

static void add_cuts(struct rot *rot, unsigned file)
{
	const struct rot_file *f = &rot->files[file];
	uint64_t stride = f->bytes / (rot->thorough ? 1000 : 12) + 1;

	add(rot, ROT_REMOVE, file, 0, 0);
	for (uint64_t len = 0; len < f->bytes; len += stride)
		add(rot, ROT_TRUNCATE, file, len, 0);
	for (uint64_t less = 1; less < 8192 && less < f->bytes; less *= 8)
		add(rot, ROT_TRUNCATE, file, f->bytes - less, 0);
}

static void add_cases(struct rot *rot)
{
	rot->cases = calloc(CASES_MAX, sizeof(*rot->cases));
	if (!rot->cases)
		model_fail("the test has no memory");
	for (unsigned i = 0; i < rot->file_count; i++) {
		const struct rot_file *f = &rot->files[i];

		if (strstr(f->path, "/segments/"))
			add_segment(rot, i);
		else
			add_flips(rot, i, 0, f->bytes,
				  f->bytes <= HEADER_BYTES ? 1 : 61);
		add_cuts(rot, i);
	}
}

/* ---- one case ---- */

static void vandalise(struct rot *rot, const struct rot_case *c)
{
	const char *path = rot->files[c->file].path;
	struct io *io;
	struct io_file *file;
	int err;

	if (c->kind == ROT_FLIP) {
		err = sim_disk_flip(sim_disk(rot->sim, 0), path, c->offset,
				    c->bit);
		ASSERT(!err);
		return;
	}
	io = sim_node_create(rot->sim, "vandal", 0);
	if (c->kind == ROT_REMOVE) {
		err = io_unlink(io, path);
	} else {
		err = io_open(io, path, IO_WRITE, &file);
		if (!err)
			err = io_truncate(file, c->offset);
		if (!err)
			err = io_sync(file);
		io_close(file);
	}
	ASSERT(!err);
	io_free(io);
}

__attribute__((noreturn)) static void rot_run(struct rot *rot,
					      const struct rot_case *c)
{
	const char *path = rot->files[c->file].path;
	struct rig *r = calloc(1, sizeof(*r));
	char name[128];
	int err;

	vandalise(rot, c);
	err = rig_start(r, rot->sim, &rot->rig);
	if (!err) {
		if (!load_census(r, &rot->model, LOAD_LEAVE))
			model_fail("it started, then: %s: %s",
				   err_str(r->failed), r->why);
		_exit(0);
	}
	fprintf(stderr, "refused: %s: %s\n", err_str(err), r->why);
	snprintf(name, sizeof(name), "%s", strrchr(path, '/') + 1);
	name[strcspn(name, ".")] = '\0';
	_exit(strstr(r->why, name) ? ROT_REFUSED : ROT_VAGUE);
}

static int rot_fork(struct rot *rot, size_t index)
{
	static const char *const kinds[] = {"flip", "truncate", "remove"};
	const struct rot_case *c = &rot->cases[index];
	const struct rot_file *f = &rot->files[c->file];
	FILE *said = tmpfile();
	char line[512];
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child) {
		dup2(fileno(said), STDERR_FILENO);
		alarm(120);
		rot_run(rot, c);
	}
	if (!said || child < 0 || waitpid(child, &status, 0) < 0)
		model_fail("the test cannot fork");
	status = WIFEXITED(status) ? WEXITSTATUS(status)
				   : 128 + WTERMSIG(status);
	if (status && status != ROT_REFUSED) {
		printf("sim_rot --case %zu: %s %s (%llu bytes) at %llu "
		       "ended with %d\n",
		       index, kinds[c->kind], f->path,
		       (unsigned long long)f->bytes,
		       (unsigned long long)c->offset, status);
		rewind(said);
		while (fgets(line, sizeof(line), said))
			fputs(line, stdout);
	}
	fclose(said);
	return status;
}

/* ---- all ---- */

/* In a child: a broker's memory is not given back. */
static int rot_session(long only, bool thorough, unsigned *refused,
		       unsigned *served)
{
	struct rot *rot = calloc(1, sizeof(*rot));
	struct io *io;
	unsigned extents = 0;
	int failures = 0;

	rot->thorough = thorough;
	rot_fill(rot);
	io = sim_node_create(rot->sim, "reader", 0);
	if (rot_list(rot, io, "data") != 0)
		model_fail("the directory cannot be listed");
	io_free(io);
	for (unsigned i = 0; i < rot->file_count; i++)
		extents += strstr(rot->files[i].path, "/extents/") != NULL;
	if (!extents)
		model_fail("nothing has been moved to an extent file");
	add_cases(rot);
	if (only >= 0)
		return rot_fork(rot, (size_t)only);
	for (size_t i = 0; i < rot->case_count && failures < FAILURES_SHOWN_MAX;
	     i++) {
		int code;

		if (!thorough && i % CASE_STRIDE &&
		    rot->cases[i].kind != ROT_REMOVE)
			continue;
		code = rot_fork(rot, i);
		*refused += code == ROT_REFUSED;
		*served += code == 0;
		failures += code && code != ROT_REFUSED;
	}
	return failures;
}

static unsigned *shared_counts(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

TEST("what has rotted is refused by name, or served whole, or kept back")
{
	const char *said = getenv("SIM_THOROUGH");
	bool thorough = said && *said == '1';
	unsigned *counts = shared_counts();
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (!child)
		_exit(rot_session(-1, thorough, &counts[0], &counts[1]));
	assert_true(child > 0 && waitpid(child, &status, 0) == child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	/* Most of what is there a start does not read. */
	assert_true(counts[0] > 50);
	assert_true(counts[1] > 100);
}

int main(int argc, char **argv)
{
	unsigned counts[2] = {0, 0};

	if (argc == 3 && !strcmp(argv[1], "--case"))
		_exit(rot_session(strtol(argv[2], NULL, 10), false, &counts[0],
				  &counts[1]));
	return test_run(argc, argv);
}
