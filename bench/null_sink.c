/* bench/null_sink.c: a broker that keeps nothing.
 *
 * The listener, the AMQP adaptor and the core of holdfastd, with a core that
 * settles every publication at once and drops it: no journal, no queue, no
 * disk.  What it reaches with the same client in the same run is the most
 * that this protocol code allows, and holdfastd's share of it is the price of
 * keeping messages.  Prints "listening on PORT"; ends with its standard
 * input. */
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "broker/protocols/amqp/amqp.h"
#include "broker/protocols/listener.h"

#define SHARDS_MAX 64u

struct sink {
	struct io *io;
	struct loop *loops[SHARDS_MAX];
	unsigned shard_count;
	struct core *core;
	struct auth *auth;
	struct amqp *amqp;
	struct listener *listener;
};

__attribute__((noreturn)) static void die(const char *what, int err)
{
	fprintf(stderr, "null sink: %s: %s\n", what, err_str(err));
	exit(1);
}

static unsigned cpu_count(void)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		return 1;
	return (unsigned)base_min((uint64_t)CPU_COUNT(&cpus), SHARDS_MAX);
}

static int make(struct sink *s, const char *url)
{
	static const struct core_address_rule rule = {
		.match = "#", .routing = RECORD_ANYCAST, .auto_create = true};
	const char *reason;
	int err = crypto_init();

	if (!err)
		err = io_create(IO_ENGINE_AUTO, &s->io, &reason);
	s->shard_count = cpu_count();
	for (unsigned i = 0; i < s->shard_count && !err; i++)
		err = loop_create(s->io, "shard", &s->loops[i]);
	if (!err)
		err = core_create(
			&(struct core_options){
				.io = s->io,
				.loops = s->loops,
				.shard_count = s->shard_count,
				.rules = &rule,
				.rule_count = 1,
				.null_sink = true,
			},
			&s->core);
	if (!err)
		err = auth_create(s->io, NULL, 0, AUTH_ANONYMOUS_LOOPBACK,
				  &s->auth);
	if (!err)
		err = amqp_create(&(struct amqp_options){.core = s->core,
							 .auth = s->auth},
				  &s->amqp);
	if (!err)
		err = listener_create(
			&(struct listener_options){.core = s->core,
						   .amqp = s->amqp,
						   .loop = s->loops[0]},
			url, &s->listener);
	return err;
}

int main(int argc, char **argv)
{
	static struct sink s;
	const char *url = argc > 1 ? argv[1] : "amqp://127.0.0.1:0";
	char byte;
	int err;

	err = make(&s, url);
	if (err)
		die(url, err);
	listener_start(s.listener);
	for (unsigned i = 0; i < s.shard_count && !err; i++)
		err = loop_start(s.loops[i], NULL, NULL);
	if (!err)
		err = auth_start(s.auth);
	if (err)
		die("a thread", err);
	printf("listening on %u\n", (unsigned)listener_port(s.listener));
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	/* Nothing here is worth an orderly end. */
	_exit(0);
}
