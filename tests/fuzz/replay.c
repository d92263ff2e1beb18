/* tests/fuzz/replay.c: a main for the fuzz targets that needs no libFuzzer.
 *
 * Runs the target on every file of tests/fuzz/corpus/<target> (for fuzz_yaml:
 * corpus/yaml) and on mutations of each that are the same in every run, so
 * that `make test` finds again what `make fuzz` has found once.  Arguments
 * are files to run instead, for looking at one crash.  Each file is one test
 * case; a target that objects ends the process, and the last name printed is
 * the culprit. */
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX (1u << 20)
#define MUTATIONS 500

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
/* A slow target, or one with many files, says how many mutations are enough. */
extern __attribute__((weak)) const int fuzz_mutations;

static uint64_t random_state;

static uint64_t random_next(void)
{
	uint64_t z = (random_state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* In a buffer of exactly its size, so that AddressSanitizer sees the end. */
static void run_on(const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	if (len)
		memcpy(copy, data, len);
	(void)LLVMFuzzerTestOneInput(copy, len);
	free(copy);
}

static size_t mutate(uint8_t *data, size_t len)
{
	static const uint8_t edges[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
	size_t at = len ? random_next() % len : 0;
	size_t run = 1 + random_next() % 8;

	switch (random_next() % 5) {
	case 0: /* flip a bit */
		if (len)
			data[at] ^= (uint8_t)(1u << (random_next() % 8));
		return len;
	case 1: /* an edge value */
		if (len)
			data[at] = edges[random_next() % sizeof(edges)];
		return len;
	case 2: /* cut off the rest */
		return at;
	case 3: /* take some bytes out */
		if (run > len - at)
			run = len - at;
		memmove(data + at, data + at + run, len - at - run);
		return len - run;
	default: /* put some bytes in */
		if (len + run > INPUT_BYTES_MAX)
			return len;
		memmove(data + at + run, data + at, len - at);
		for (size_t i = 0; i < run; i++)
			data[at + i] = (uint8_t)random_next();
		return len + run;
	}
}

static void run_with_mutations(const uint8_t *data, size_t len)
{
	static uint8_t mutant[INPUT_BYTES_MAX + 8];
	int mutations = &fuzz_mutations ? fuzz_mutations : MUTATIONS;

	run_on(data, len);
	random_state = len;
	for (int i = 0; i < mutations; i++) {
		size_t mutant_len = len;

		memcpy(mutant, data, len);
		for (uint64_t n = 1 + random_next() % 4; n; n--)
			mutant_len = mutate(mutant, mutant_len);
		run_on(mutant, mutant_len);
	}
}

static int run_file(const char *path)
{
	static uint8_t data[INPUT_BYTES_MAX];
	FILE *f = fopen(path, "rb");
	size_t len;

	printf("%s\n", path);
	fflush(stdout);
	if (!f) {
		printf("%s: %s\n", path, strerror(errno));
		return 1;
	}
	len = fread(data, 1, sizeof(data), f);
	fclose(f);
	run_with_mutations(data, len);
	return 0;
}

/* Returns the number of files. */
static int run_folder(const char *folder, int *failed)
{
	struct dirent **entries;
	char path[1024];
	int count = scandir(folder, &entries, NULL, alphasort), ran = 0;

	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", folder,
				 entries[i]->d_name);
			*failed += run_file(path);
			ran++;
		}
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return ran;
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *name;
	int ran = 1, failed = 0;
	char folder[512];

	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	run_with_mutations((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++, ran++)
		failed += run_file(argv[i]);
	if (argc == 1) {
		name = slash ? slash + 1 : argv[0];
		snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s",
			 strncmp(name, "fuzz_", 5) ? name : name + 5);
		ran += run_folder(folder, &failed);
	}
	printf("%d passed, %d failed\n", ran - failed, failed);
	return failed ? 1 : 0;
}
