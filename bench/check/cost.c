/* bench/check/cost.c CASE [SEED]: what bench/check/check.py runs under
 * callgrind.
 *
 * A case is a broker in the simulator and a client of it, which do something
 * some thousand times between begin() and end().  Only between those two does
 * callgrind look; end() makes it write what it saw to a file, with the part's
 * name, and prints the name, by how much the costs are to be divided, and
 * which other part's costs are to be taken off first ("-": none).
 *
 * Everything is done once more before it is measured, so that what the first
 * message alone costs is not in the figure. */
#include <string.h>

#include <valgrind/callgrind.h>

#include "bench/check/client.h"

#define MESSAGES 3000u
#define WARM 1000u
#define WINDOW 1000u
#define MANY_QUEUES 1000u

static void begin(void)
{
	CALLGRIND_START_INSTRUMENTATION;
	CALLGRIND_ZERO_STATS;
}

static void end(const char *part, uint32_t count, const char *less)
{
	CALLGRIND_DUMP_STATS_AT(part);
	CALLGRIND_STOP_INSTRUMENTATION;
	printf("%s %u %s\n", part, count, less ? less : "-");
}

static void check_delivered(const struct client *from, const struct client *to,
			    uint32_t size)
{
	if (to->delivered_sum != from->sent_sum ||
	    to->delivered_bytes != to->delivered * size)
		world_die("what was delivered is not what was sent", 0);
}

static void start(struct world *w, uint64_t seed, unsigned shard_count)
{
	world_create(w, seed, shard_count);
	world_boot(w);
	world_recover(w);
	world_serve(w);
}

/* One queue: publish, then deliver, then acknowledge. */
static void run_stages(uint64_t seed, uint32_t size, const char *const parts[3])
{
	static struct world w;
	struct client *from, *to;

	start(&w, seed, 1);
	from = client_open(&w, false, 1, 0);
	client_publish(from, WARM, size, WINDOW);
	begin();
	client_publish(from, MESSAGES, size, WINDOW);
	end(parts[0], MESSAGES, NULL);

	to = client_open(&w, true, 1, 0);
	client_receive(to, WARM, WARM);
	client_accept(to, WARM, 1);
	begin();
	client_receive(to, MESSAGES, MESSAGES);
	end(parts[1], MESSAGES, NULL);
	check_delivered(from, to, size);

	begin();
	client_accept(to, MESSAGES, 1);
	end(parts[2], MESSAGES, NULL);
}

static void stages_small(uint64_t seed)
{
	static const char *const parts[] = {"publish-100B", "deliver-100B",
					    "acknowledge-100B"};

	run_stages(seed, 100, parts);
}

static void stages_large(uint64_t seed)
{
	static const char *const parts[] = {"publish-1KiB", "deliver-1KiB",
					    "acknowledge-1KiB"};

	run_stages(seed, 1024, parts);
}

/* One at a time, and acknowledgements a hundred with a frame. */
static void batches(uint64_t seed)
{
	static struct world w;
	const uint32_t count = 400;
	struct client *from, *to;

	start(&w, seed, 1);
	from = client_open(&w, false, 1, 0);
	client_publish(from, WARM - count, 1024, 1);
	begin();
	client_publish(from, count, 1024, 1);
	end("publish-1KiB-one-by-one", count, NULL);

	client_publish(from, MESSAGES, 1024, WINDOW);
	to = client_open(&w, true, 1, 0);
	client_receive(to, WARM + MESSAGES, WARM + MESSAGES);
	check_delivered(from, to, 1024);
	client_accept(to, WARM, 100);
	begin();
	client_accept(to, MESSAGES, 100);
	end("acknowledge-1KiB-by-100", MESSAGES, NULL);
}

/* Sent, delivered and acknowledged all at once, from one shard to another. */
static void pipeline(uint64_t seed)
{
	static struct world w;
	struct client *from, *to;

	start(&w, seed, 2);
	from = client_open(&w, false, 1, 0);
	to = client_open(&w, true, 1, 0);
	client_consume(to, WINDOW);
	client_publish(from, WARM, 1024, WINDOW);
	begin();
	client_publish(from, MESSAGES, 1024, WINDOW);
	end("pipeline-1KiB", MESSAGES, NULL);
	if (to->delivered != WARM + MESSAGES)
		world_die("not all was delivered", 0);
	check_delivered(from, to, 1024);
}

/* A start that finds one message; one that replays some thousands, whose
 * costs are beside those; and reading back after it. */
static void recover(uint64_t seed)
{
	static const struct {
		uint32_t size;
		const char *replay, *read;
	} all[] = {{100, "recover-100B", "read-back-100B"},
		   {1024, "recover-1KiB", "read-back-1KiB"}};

	for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
		static struct world w;
		struct client *from, *to;

		start(&w, seed, 1);
		from = client_open(&w, false, 1, 0);
		client_publish(from, 1, all[i].size, 1);
		client_kill(from);
		world_kill(&w);

		world_boot(&w);
		if (i == 0)
			begin();
		world_recover(&w);
		if (i == 0)
			end("recover-start", 1, NULL);
		world_serve(&w);
		from = client_open(&w, false, 1, 0);
		client_publish(from, WARM + MESSAGES, all[i].size, WINDOW);
		client_kill(from);
		world_kill(&w);

		world_boot(&w);
		begin();
		world_recover(&w);
		end(all[i].replay, WARM + MESSAGES, "recover-start");
		world_serve(&w);
		to = client_open(&w, true, 1, 0);
		client_receive(to, WARM, WARM);
		begin();
		client_receive(to, MESSAGES, MESSAGES);
		end(all[i].read, MESSAGES, NULL);
	}
}

/* The same stages over many queues, a few messages in each. */
static void many_queues(uint64_t seed)
{
	static struct world w;
	const uint32_t each = MESSAGES / MANY_QUEUES;
	struct client *from, *to;

	start(&w, seed, 1);
	from = client_open(&w, false, MANY_QUEUES, 0);
	client_publish(from, MANY_QUEUES, 100, WINDOW);
	begin();
	client_publish(from, MESSAGES, 100, WINDOW);
	end("publish-1000-queues", MESSAGES, NULL);

	to = client_open(&w, true, MANY_QUEUES, 0);
	client_receive(to, 1, MANY_QUEUES);
	client_accept(to, MANY_QUEUES, 1);
	begin();
	client_receive(to, each, MESSAGES);
	end("deliver-1000-queues", MESSAGES, NULL);
	check_delivered(from, to, 100);
	begin();
	client_accept(to, MESSAGES, 1);
	end("acknowledge-1000-queues", MESSAGES, NULL);
}

static const struct {
	const char *name;
	void (*run)(uint64_t seed);
} cases[] = {
	{"stages-100B", stages_small}, {"stages-1KiB", stages_large},
	{"batches", batches},	       {"pipeline", pipeline},
	{"many-queues", many_queues},  {"recover", recover},
};

/* Libraries choose their code by what the processor can do.  Valgrind has one
 * of its own, which knows what the machine's and itself have in common. */
static void print_cpu(void)
{
#if defined(__x86_64__)
#define HAS(feature)                                                           \
	printf("%s", __builtin_cpu_supports(feature) ? " " feature : "")
	printf("x86_64");
	HAS("sse4.2");
	HAS("avx");
	HAS("avx2");
	HAS("bmi");
	HAS("bmi2");
	HAS("aes");
	HAS("pclmul");
	HAS("avx512f");
	printf("\n");
#undef HAS
#else
	printf("another\n");
#endif
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

	for (size_t i = 0; argc > 1 && i < ARRAY_COUNT(cases); i++) {
		if (strcmp(argv[1], cases[i].name) != 0)
			continue;
		print_cpu();
		cases[i].run(seed);
		fflush(stdout);
		/* What runs in the world is of no use any more. */
		_Exit(0);
	}
	for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
		printf("%s\n", cases[i].name);
	return argc > 1 ? 2 : 0;
}
