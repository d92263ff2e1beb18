/* tools/user.c: `holdfast user hash`: the password_hash of a user in
 * holdfast.yaml. */
#include "base/crypto.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/password.h"

int user_hash_run(int argc, char **argv)
{
	const char *file = "-";
	const struct option table[] = {
		{"password-file", 0, OPTION_TEXT, &file, "FILE",
		 "read the password from FILE (asks, or standard input)"},
	};
	const struct options options = {
		.command = "holdfast user hash",
		.words = "",
		.summary = "Print the Argon2id hash of a password, for "
			   "users[].password_hash in holdfast.yaml.",
		.examples = "  holdfast user hash\n"
			    "  printf '%s\\n' \"$PASSWORD\" | holdfast user "
			    "hash\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	char password[512], hash[CRYPTO_PASSWORD_HASH_BYTES];
	int words, err;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	err = password_read(file, true, password, sizeof(password));
	if (err) {
		fprintf(stderr, "%s: %s\n", options.command,
			err == -EINVAL
				? "the password is empty, or the two differ"
				: err_str(err));
		return COMMAND_FAILED;
	}
	err = crypto_init();
	if (!err)
		err = crypto_password_hash(password, hash);
	crypto_zero(password, sizeof(password));
	if (err) {
		fprintf(stderr, "%s: cannot hash: %s (it needs 64 MiB)\n",
			options.command, err_str(err));
		return COMMAND_FAILED;
	}
	puts(hash);
	return COMMAND_OK;
}
