/* tools/bench.c: `holdfast bench amqp`: options and report of the load
 * generator in bench_load.h. */
#include <unistd.h>

#include "tools/bench_load.h"
#include "tools/command.h"
#include "tools/output.h"

struct bench {
	struct amqp_access access;
	struct bench_load_options load;
	struct bench_load_result result;
	unsigned format;
};

static json_t *latency_json(const struct histogram *h)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "p50",
			 (double)histogram_quantile(h, 0.5) / 1e3, "p99",
			 (double)histogram_quantile(h, 0.99) / 1e3, "p99.9",
			 (double)histogram_quantile(h, 0.999) / 1e3, "min",
			 h->count ? (double)h->least / 1e3 : 0.0, "max",
			 (double)h->most / 1e3, "mean",
			 h->count ? (double)h->total / (double)h->count / 1e3
				  : 0.0);
}

static double rate(uint64_t count, double seconds)
{
	return seconds > 0 ? (double)count / seconds : 0;
}

static json_t *report_json(const struct bench *b)
{
	const struct bench_load_options *o = &b->load;
	const struct bench_load_result *r = &b->result;
	json_t *report = json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:o}", "senders",
		(json_int_t)o->senders, "receivers", (json_int_t)o->receivers,
		"queues", (json_int_t)o->queues, "window",
		(json_int_t)o->window, "size", (json_int_t)o->size, "seconds",
		r->seconds, "confirmed", (json_int_t)r->confirmed,
		"confirmed_per_second", rate(r->confirmed, r->seconds),
		"confirm_us", latency_json(&r->confirm_ns));

	if (o->receivers) {
		json_object_set_new(report, "received",
				    json_integer((json_int_t)r->received));
		json_object_set_new(
			report, "received_per_second",
			json_real(rate(r->received, r->receive_seconds)));
		json_object_set_new(report, "end_to_end_us",
				    latency_json(&r->end_to_end_ns));
	} else if (!o->leave) {
		json_object_set_new(
			report, "drained_per_second",
			json_real(rate(r->drained, r->drain_seconds)));
	}
	json_object_set_new(
		report, "client_cores",
		json_real(r->seconds > 0 ? r->client_cpu_seconds / r->seconds
					 : 0));
	json_object_set_new(
		report, "verified",
		json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			  "sent", (json_int_t)r->sent, "accepted",
			  (json_int_t)r->accepted, "rejected",
			  (json_int_t)r->rejected, "released",
			  (json_int_t)r->released, "arrived",
			  (json_int_t)r->arrived, "lost", (json_int_t)r->lost,
			  "duplicates", (json_int_t)r->duplicates,
			  "out_of_order", (json_int_t)r->out_of_order,
			  "foreign", (json_int_t)r->foreign));
	return report;
}

static void print_latency(const char *title, const struct histogram *h)
{
	char a[32], b[32], c[32], d[32];

	printf("%-14s p50 %s   p99 %s   p99.9 %s   max %s\n", title,
	       output_duration(a, sizeof(a), histogram_quantile(h, 0.5)),
	       output_duration(b, sizeof(b), histogram_quantile(h, 0.99)),
	       output_duration(c, sizeof(c), histogram_quantile(h, 0.999)),
	       output_duration(d, sizeof(d), h->most));
}

static void print_table(const struct bench *b)
{
	const struct bench_load_options *o = &b->load;
	const struct bench_load_result *r = &b->result;
	double confirm_rate = rate(r->confirmed, r->seconds);
	char n[32], t[32];

	printf("%llu sender%s, %llu receiver%s, %llu queue%s, window %llu, "
	       "%llu bytes, %.2f s\n",
	       (unsigned long long)o->senders, o->senders == 1 ? "" : "s",
	       (unsigned long long)o->receivers, o->receivers == 1 ? "" : "s",
	       (unsigned long long)o->queues, o->queues == 1 ? "" : "s",
	       (unsigned long long)o->window, (unsigned long long)o->size,
	       r->seconds);
	printf("%-14s %s msg/s   %.1f MB/s   %s messages\n", "confirmed",
	       output_number(n, sizeof(n), confirm_rate),
	       confirm_rate * (double)o->size / 1e6,
	       output_number(t, sizeof(t), (double)r->confirmed));
	print_latency("  latency", &r->confirm_ns);
	if (o->receivers) {
		printf("%-14s %s msg/s   %s messages\n", "received",
		       output_number(n, sizeof(n),
				     rate(r->received, r->receive_seconds)),
		       output_number(t, sizeof(t), (double)r->received));
		print_latency("  end to end", &r->end_to_end_ns);
	} else if (!o->leave) {
		printf("%-14s %s msg/s   %s messages\n", "drained",
		       output_number(n, sizeof(n),
				     rate(r->drained, r->drain_seconds)),
		       output_number(t, sizeof(t), (double)r->drained));
	}
	printf("%-14s %.2f cores\n", "this client",
	       r->seconds > 0 ? r->client_cpu_seconds / r->seconds : 0);
	printf("%-14s %llu accepted, %llu arrived, %llu lost, %llu "
	       "duplicates, %llu out of order\n",
	       "verified", (unsigned long long)r->accepted,
	       (unsigned long long)r->arrived, (unsigned long long)r->lost,
	       (unsigned long long)r->duplicates,
	       (unsigned long long)r->out_of_order);
	if (r->rejected || r->released || r->foreign)
		printf("%-14s %llu rejected, %llu released, %llu foreign\n", "",
		       (unsigned long long)r->rejected,
		       (unsigned long long)r->released,
		       (unsigned long long)r->foreign);
}

static int check(const struct options *options, const struct bench *b)
{
	const struct bench_load_options *o = &b->load;

	if (o->senders < 1 || o->senders > BENCH_LOAD_LINKS_MAX ||
	    o->receivers > BENCH_LOAD_LINKS_MAX)
		return options_wrong(options,
				     "--senders is 1 to %u, --receivers 0 to "
				     "%u",
				     BENCH_LOAD_LINKS_MAX,
				     BENCH_LOAD_LINKS_MAX);
	if (o->window < 1 || o->window > 1000000 || o->credit < 2 ||
	    o->credit > 1000000)
		return options_wrong(options, "--window is 1 to 1000000, "
					      "--credit 2 to 1000000");
	if (o->size < BENCH_LOAD_SIZE_MIN || o->size > 1u << 30)
		return options_wrong(options, "--size is %u to 1GiB",
				     BENCH_LOAD_SIZE_MIN);
	if (o->queues < 1 || o->queues > o->senders)
		return options_wrong(options,
				     "--queues is 1 to the number of senders");
	if (o->receivers && o->receivers < o->queues)
		return options_wrong(
			options, "every queue needs a receiver: --receivers "
				 "is at least --queues");
	return 0;
}

static int measure(const struct options *options, struct bench *b)
{
	char why[640];
	json_t *report;
	int err;

	err = bench_load_run(&b->load, &b->result, why, sizeof(why));
	if (err) {
		fprintf(stderr, "%s: %s\n", options->command, why);
		return COMMAND_FAILED;
	}
	if (b->format == OUTPUT_TABLE) {
		print_table(b);
	} else {
		report = report_json(b);
		output_print(b->format, report, NULL, 0);
		json_decref(report);
	}
	if (b->result.lost || b->result.duplicates) {
		fprintf(stderr,
			"%s: %llu confirmed messages lost, %llu delivered "
			"twice\n",
			options->command, (unsigned long long)b->result.lost,
			(unsigned long long)b->result.duplicates);
		return COMMAND_FAILED;
	}
	return COMMAND_OK;
}

int bench_amqp_run(int argc, char **argv)
{
	struct bench b = {
		.access = AMQP_ACCESS_INIT,
		.load = {.senders = 1,
			 .window = 1000,
			 .credit = 1000,
			 .queues = 1,
			 .size = 1024,
			 .measure_ns = 5000000000u,
			 .warm_up_ns = 1000000000u,
			 .patience_ns = 15000000000u},
	};
	char address[64];
	const struct option table[] = {
		AMQP_ACCESS_OPTIONS(b.access),
		{"address", 0, OPTION_TEXT, &b.load.address, "ADDRESS",
		 "use this address (a new one for each run)"},
		{"queues", 0, OPTION_NUMBER, &b.load.queues, "N",
		 "spread over ADDRESS.0 to ADDRESS.N-1 (1)"},
		{"senders", 0, OPTION_NUMBER, &b.load.senders, "N",
		 "sending connections (1)"},
		{"receivers", 0, OPTION_NUMBER, &b.load.receivers, "N",
		 "receiving connections (0: the queue is emptied afterwards)"},
		{"window", 'w', OPTION_NUMBER, &b.load.window, "N",
		 "unconfirmed messages of each sender (1000)"},
		{"credit", 0, OPTION_NUMBER, &b.load.credit, "N",
		 "credit of each receiver (1000)"},
		{"size", 's', OPTION_BYTES, &b.load.size, "BYTES",
		 "body size, 32 or more (1KiB)"},
		{"seconds", 0, OPTION_DURATION, &b.load.measure_ns, "TIME",
		 "measure for this long (5s)"},
		{"count", 'n', OPTION_NUMBER, &b.load.count, "N",
		 "measure N messages instead"},
		{"warm-up", 0, OPTION_DURATION, &b.load.warm_up_ns, "TIME",
		 "run this long before measuring (1s)"},
		{"patience", 0, OPTION_DURATION, &b.load.patience_ns, "TIME",
		 "give up after so long without progress (15s)"},
		{"leave", 0, OPTION_FLAG, &b.load.leave, NULL,
		 "leave the messages in the queue, unverified"},
		{"output", 'o', OPTION_CHOICE, &b.format, OUTPUT_FORMATS,
		 "how to print it (table)"},
	};
	const struct options options = {
		.command = "holdfast bench amqp",
		.words = "",
		.summary =
			"Measure an AMQP 1.0 broker, and check that every "
			"confirmed message arrives exactly\nonce and in order. "
			" "
			"Durable messages, each confirmed.  Exit code 1 when "
			"one is lost.",
		.examples = "  holdfast bench amqp --senders 8 --window 1000\n"
			    "  holdfast bench amqp --senders 4 --receivers 4 "
			    "--queues 4 -o json\n"
			    "  holdfast bench amqp --window 1 --seconds 10s\n",
		.table = table,
		.count = ARRAY_COUNT(table),
	};
	int words, code;

	switch (options_parse(&options, argc, argv, &words)) {
	case OPTIONS_HELP:
		return COMMAND_OK;
	case OPTIONS_BAD:
		return COMMAND_USAGE;
	case OPTIONS_GO:
		break;
	}
	code = check(&options, &b);
	if (!code)
		code = amqp_client_access(options.command, &b.access);
	if (code)
		return code;
	if (!b.load.address) {
		snprintf(address, sizeof(address), "bench.%d.%llx",
			 (int)getpid(),
			 (unsigned long long)amqp_client_now_ns());
		b.load.address = address;
	}
	b.load.access = &b.access;
	b.load.shows_progress = isatty(STDERR_FILENO);
	return measure(&options, &b);
}
