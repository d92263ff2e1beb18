/* tests/unit/test.h: the frame of every unit test, around cmocka.
 *
 *	TEST("a record torn at any byte is absent after recovery")
 *	{
 *		assert_int_equal(...);
 *	}
 *	TEST_MAIN()
 *
 * Tests run in the order of the file.  A binary prints one line,
 * "N passed, N failed", and before it only the tests that failed; it exits
 * with 1 when there were any.  An argument is a cmocka pattern: only tests
 * that match it are run ("*torn*").
 *
 * A helper that asserts outside a test body, on another thread, is not
 * supported by cmocka: hand the value to the test and assert there. */
#ifndef TESTS_UNIT_TEST_H
#define TESTS_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEST_COUNT_MAX 512

static struct CMUnitTest test_list[TEST_COUNT_MAX];
static size_t test_count;

static inline void test_register(const char *sentence, void (*run)(void **))
{
	if (test_count == TEST_COUNT_MAX)
		abort();
	test_list[test_count++] =
		(struct CMUnitTest){.name = sentence, .test_func = run};
}

#define TEST_PASTE_(a, b) a##b
#define TEST_PASTE(a, b) TEST_PASTE_(a, b)

/* Constructors of one file run in the order of the file. */
#define TEST_NAMED(sentence, name)                                             \
	static void name(void **);                                             \
	__attribute__((constructor)) static void TEST_PASTE(name,              \
							    _register)(void)   \
	{                                                                      \
		test_register(sentence, name);                                 \
	}                                                                      \
	static void name(void **test_state __attribute__((unused)))

#define TEST(sentence) TEST_NAMED(sentence, TEST_PASTE(test_at_line_, __LINE__))

#define TEST_MAIN()                                                            \
	int main(int argc, char **argv)                                        \
	{                                                                      \
		return test_run(argc, argv);                                   \
	}

/* ---- running ---- */

/* cmocka is chatty, and a test that breaks an assertion or a sanitizer's rule
 * takes the process with it.  So the tests run in a child whose output goes to
 * a file; the parent shows what is about failures and counts in every case.
 * In gdb: set follow-fork-mode child. */
static inline int test_is_chatter(const char *line)
{
	static const char *const chatter[] = {"[==========]", "[ RUN      ]",
					      "[       OK ]", "[  PASSED  ]"};

	for (size_t i = 0; i < sizeof(chatter) / sizeof(chatter[0]); i++) {
		if (!strncmp(line, chatter[i], strlen(chatter[i])))
			return 1;
	}
	return line[0] == '\n';
}

static inline int test_matches(const char *pattern, const char *name)
{
	if (!*pattern)
		return !*name;
	if (*pattern == '*')
		return test_matches(pattern + 1, name) ||
		       (*name && test_matches(pattern, name + 1));
	return (*pattern == '?' ? *name != '\0' : *pattern == *name) &&
	       test_matches(pattern + 1, name + 1);
}

static inline void test_select(const char *pattern)
{
	size_t kept = 0;

	for (size_t i = 0; i < test_count; i++) {
		if (test_matches(pattern, test_list[i].name))
			test_list[kept++] = test_list[i];
	}
	test_count = kept;
}

struct test_tally {
	int finished, failed;
};

/* Through exit(), so that directories are removed and leaks are looked for. */
static inline void test_child(int output, struct test_tally *tally)
{
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	setvbuf(stdout, NULL, _IOLBF, 0);
	tally->failed = _cmocka_run_group_tests("tests", test_list, test_count,
						NULL, NULL);
	tally->finished = 1;
	exit(tally->failed ? 1 : 0);
}

/* Shows what the child said and returns how many tests had passed. */
static inline size_t test_show(FILE *output)
{
	size_t passed = 0;
	char line[4096];

	rewind(output);
	while (fgets(line, sizeof(line), output)) {
		passed += !strncmp(line, "[       OK ]", 12);
		if (!test_is_chatter(line))
			fputs(line, stdout);
	}
	return passed;
}

static inline int test_run(int argc, char **argv)
{
	struct test_tally *tally;
	size_t passed, failed;
	FILE *output = tmpfile();
	int status = 0;
	pid_t child;

	tally = mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!output || tally == MAP_FAILED) {
		perror("test output");
		return 2;
	}
	if (argc > 1)
		test_select(argv[1]);
	child = fork();
	if (!child)
		test_child(fileno(output), tally);
	if (child < 0 || waitpid(child, &status, 0) < 0) {
		perror("test process");
		return 2;
	}
	passed = test_count;
	if (status) {
		passed = test_show(output);
		if (!WIFEXITED(status))
			printf("the test ended by signal %d\n",
			       WTERMSIG(status));
	}
	failed = test_count - passed;
	/* All passed, and then a sanitizer objected at the exit. */
	if (status && !failed)
		failed = 1;
	if (tally->finished && tally->failed)
		failed = (size_t)tally->failed;
	fclose(output);
	printf("%zu passed, %zu failed\n", passed, failed);
	return failed || !test_count ? 1 : 0;
}

/* ---- temporary directories ---- */

static inline int test_remove_tree_at(int at, const char *name)
{
	struct dirent *entry;
	DIR *dir;
	int fd;

	if (!unlinkat(at, name, 0))
		return 0;
	fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			test_remove_tree_at(fd, entry->d_name);
	}
	closedir(dir);
	return unlinkat(at, name, AT_REMOVEDIR) ? -errno : 0;
}

static inline void test_remove_tree(const char *path)
{
	(void)test_remove_tree_at(AT_FDCWD, path);
}

/* Storage of test_directory(): one directory a process, removed when it
 * exits normally; what a crash leaves lies under build/tmp. */
static char test_directory_path[256];

static inline void test_directory_remove(void)
{
	if (test_directory_path[0])
		test_remove_tree(test_directory_path);
	test_directory_path[0] = '\0';
}

/* A new, empty directory of this test; the one before it is removed.  Under
 * $TMPDIR when set, else under build/tmp of the working directory. */
static inline const char *test_directory(void)
{
	static int registered;
	const char *base = getenv("TMPDIR");

	test_directory_remove();
	if (!base || !*base) {
		base = "build/tmp";
		(void)mkdir("build", 0777);
		(void)mkdir(base, 0777);
	}
	snprintf(test_directory_path, sizeof(test_directory_path),
		 "%s/test.XXXXXX", base);
	if (!mkdtemp(test_directory_path)) {
		perror(test_directory_path);
		abort();
	}
	if (!registered)
		registered = !atexit(test_directory_remove);
	return test_directory_path;
}

/* "<test directory>/name", in the caller's buffer. */
static inline const char *test_path(char *buf, size_t buf_len, const char *name)
{
	snprintf(buf, buf_len, "%s/%s", test_directory_path, name);
	return buf;
}

#endif
