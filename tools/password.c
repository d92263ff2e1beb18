/* tools/password.c: see password.h. */
#include <fcntl.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/crypto.h"
#include "tools/password.h"

/* Byte by byte, so that nothing of a password stays in a stdio buffer. */
static int read_line(int fd, char *buf, size_t buf_len)
{
	size_t n = 0;

	for (;;) {
		char c;
		ssize_t got = read(fd, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0 || c == '\n')
			break;
		if (n + 1 >= buf_len)
			return -E2BIG;
		buf[n++] = c;
	}
	if (n && buf[n - 1] == '\r')
		n--;
	buf[n] = 0;
	return n ? 0 : -EINVAL;
}

static int ask(const char *prompt, char *buf, size_t buf_len)
{
	struct termios before, quiet;
	int err;

	if (tcgetattr(STDIN_FILENO, &before))
		return -errno;
	quiet = before;
	quiet.c_lflag &= ~(tcflag_t)ECHO;
	fputs(prompt, stderr);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
	err = read_line(STDIN_FILENO, buf, buf_len);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
	fputc('\n', stderr);
	return err;
}

int password_read(const char *path, bool twice, char *buf, size_t buf_len)
{
	char again[512];
	int fd, err;

	if (strcmp(path, "-") != 0) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		err = read_line(fd, buf, buf_len);
		close(fd);
		return err;
	}
	if (!isatty(STDIN_FILENO))
		return read_line(STDIN_FILENO, buf, buf_len);
	err = ask("Password: ", buf, buf_len);
	if (err || !twice)
		return err;
	err = ask("Again: ", again, sizeof(again));
	if (!err && strcmp(buf, again) != 0)
		err = -EINVAL;
	crypto_zero(again, sizeof(again));
	return err;
}
