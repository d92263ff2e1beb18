/* bench/load/report.c: see report.h. */
#include "bench/load/report.h"

static const char *const mode_names[] = {"publish", "consume", "both"};

static void put(json_t *object, const char *key, uint64_t n)
{
	json_object_set_new(object, key, json_integer((json_int_t)n));
}

static void put_real(json_t *object, const char *key, double n)
{
	json_object_set_new(object, key, json_real(n));
}

static void put_text(json_t *object, const char *key, const char *text)
{
	if (text && text[0])
		json_object_set_new(object, key, json_string(text));
}

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

static double rate(uint64_t count, double seconds)
{
	return seconds > 0 ? (double)count / seconds : 0;
}

/* Enough for a curve over the number of nines: five points to each halving of
 * what is above, as HdrHistogram prints them. */
static json_t *spectrum(const struct histogram *h)
{
	json_t *points = json_array();
	double above = 1;

	for (unsigned i = 0; h->count && above * (double)h->count >= 0.5; i++) {
		for (unsigned step = 0; step < 5; step++) {
			double part = above * (1 - step / 10.0);
			double at = 1 - part;

			json_array_append_new(
				points,
				json_pack("[f, f]", at,
					  us(histogram_quantile(h, at))));
		}
		above /= 2;
	}
	if (h->count)
		json_array_append_new(points,
				      json_pack("[f, f]", 1.0, us(h->most)));
	return points;
}

static json_t *latency(const struct histogram *h)
{
	static const struct {
		const char *name;
		double at;
	} quantiles[] = {{"p50", 0.5},
			 {"p90", 0.9},
			 {"p99", 0.99},
			 {"p99.9", 0.999},
			 {"p99.99", 0.9999}};
	json_t *o = json_object();

	put(o, "count", h->count);
	put_real(o, "min", h->count ? us(h->least) : 0);
	put_real(o, "mean",
		 h->count ? (double)h->total / (double)h->count / 1e3 : 0);
	for (unsigned i = 0; i < ARRAY_COUNT(quantiles); i++)
		put_real(o, quantiles[i].name,
			 us(histogram_quantile(h, quantiles[i].at)));
	put_real(o, "max", us(h->most));
	json_object_set_new(o, "spectrum", spectrum(h));
	return o;
}

/* Counts by second, without what follows the last one that is not 0. */
static json_t *timeline(const uint32_t *seconds)
{
	json_t *list = json_array();
	unsigned end = TALLY_SECONDS_MAX;

	while (end && !seconds[end - 1])
		end--;
	for (unsigned i = 0; i < end; i++)
		json_array_append_new(list, json_integer(seconds[i]));
	return list;
}

static json_t *options_json(const struct load_options *o)
{
	json_t *j = json_object();

	put_text(j, "protocol", o->protocol->name);
	put_text(j, "host", o->host);
	put(j, "port", o->port);
	put_text(j, "mode", mode_names[o->mode]);
	put_text(j, "prefix", o->prefix);
	put(j, "queues", o->queues);
	put(j, "fanout", o->fanout);
	put(j, "senders", o->senders);
	put(j, "receivers", o->receivers);
	put(j, "threads", o->threads);
	put(j, "window", o->window);
	put(j, "credit", o->credit);
	put(j, "size", o->size);
	put(j, "count", o->count);
	put_real(j, "seconds", (double)o->measure_ns / 1e9);
	put_real(j, "warmup", (double)o->warm_up_ns / 1e9);
	put(j, "rate", o->rate);
	json_object_set_new(j, "verify", json_boolean(o->verifies));
	return j;
}

static json_t *publish_json(const struct load_options *o,
			    const struct load_result *r)
{
	const struct tally *t = &r->tally;
	json_t *j = json_object();
	double per_second = rate(t->confirmed, r->publish_seconds);

	put(j, "confirmed", t->confirmed);
	put_real(j, "seconds", r->publish_seconds);
	put_real(j, "per_second", per_second);
	put_real(j, "mb_per_second", per_second * (double)o->size / 1e6);
	json_object_set_new(j, "latency_us", latency(&t->confirm_ns));
	json_object_set_new(j, "by_second", timeline(t->confirms));
	if (o->rate)
		put_real(j, "generator_late_max_us", us(t->late_max_ns));
	put(j, "sent_in_all", t->sent);
	put(j, "accepted_in_all", t->accepted);
	put(j, "rejected_in_all", t->rejected);
	put(j, "released_in_all", t->released);
	put(j, "unanswered", t->sent - t->settled);
	put_text(j, "first_refusal", r->remark);
	return j;
}

static json_t *consume_json(const struct load_options *o,
			    const struct load_result *r)
{
	const struct tally *t = &r->tally;
	json_t *j = json_object();
	double per_second = rate(t->received, r->receive_seconds);

	put(j, "received", t->received);
	put_real(j, "seconds", r->receive_seconds);
	put_real(j, "per_second", per_second);
	if (o->mode == LOAD_BOTH) {
		put_real(j, "mb_per_second",
			 per_second * (double)o->size / 1e6);
		json_object_set_new(j, "latency_us",
				    latency(&t->end_to_end_ns));
	}
	json_object_set_new(j, "by_second", timeline(t->arrivals));
	put(j, "arrived_in_all", t->arrived);
	put(j, "redelivered", t->redelivered);
	put(j, "foreign", t->foreign);
	if (t->first_arrival_ns)
		put_real(j, "first_message_seconds",
			 (double)(t->first_arrival_ns - r->begun_ns) / 1e9);
	return j;
}

static json_t *verdict_json(const struct load_result *r)
{
	json_t *j = json_object();

	if (r->expects) {
		put(j, "confirmed", r->verdict.confirmed);
		put(j, "lost", r->verdict.lost);
		put(j, "unconfirmed_but_there", r->verdict.kept);
	} else {
		put(j, "gaps", r->verdict.gaps);
	}
	put(j, "unique", r->verdict.unique);
	put(j, "duplicates", r->tally.duplicates);
	put(j, "out_of_order", r->tally.out_of_order);
	put(j, "corrupt", r->tally.corrupt);
	return j;
}

static json_t *generator_json(const struct load_options *o,
			      const struct load_result *r)
{
	const struct tally *t = &r->tally;
	double seconds = base_max((uint64_t)(r->publish_seconds * 1e9),
				  (uint64_t)(r->receive_seconds * 1e9)) /
			 1e9;
	uint64_t messages = t->confirmed + t->received;
	json_t *j = json_object();

	put_real(j, "cpu_seconds", t->cpu_seconds);
	put_real(j, "cores", seconds > 0 ? t->cpu_seconds / seconds : 0);
	put_real(j, "cpu_us_per_message",
		 messages ? t->cpu_seconds * 1e6 / (double)messages : 0);
	put_real(j, "cpu_seconds_in_all", r->cpu_seconds_all);
	return j;
}

bool report_is_clean(const struct load_options *o, const struct load_result *r)
{
	const struct tally *t = &r->tally;

	if (r->short_of || t->corrupt)
		return false;
	if (o->mode == LOAD_PUBLISH || !o->verifies)
		return true;
	return !(r->expects && r->verdict.lost) &&
	       t->duplicates <= t->redelivered;
}

json_t *report_make(const struct load_options *o, const struct load_result *r,
		    const char *error)
{
	json_t *j = json_object();
	bool clean = !error && report_is_clean(o, r);

	json_object_set_new(j, "ok", json_boolean(clean));
	put_text(j, "error", error);
	put_text(j, "broken", r->broken);
	json_object_set_new(j, "short_of", json_boolean(r->short_of));
	json_object_set_new(j, "load", options_json(o));
	/* CLOCK_MONOTONIC, for whoever measures around this process. */
	json_object_set_new(j, "monotonic_ns",
			    json_pack("{s:I, s:I, s:I, s:I, s:I}", "begun",
				      (json_int_t)r->begun_ns, "ready",
				      (json_int_t)r->ready_ns, "measure_start",
				      (json_int_t)r->measure_start_ns,
				      "first_message",
				      (json_int_t)r->tally.first_arrival_ns,
				      "broken", (json_int_t)r->broken_ns));
	if (o->mode != LOAD_CONSUME)
		json_object_set_new(j, "publish", publish_json(o, r));
	if (o->mode != LOAD_PUBLISH)
		json_object_set_new(j, "consume", consume_json(o, r));
	if (o->verifies && o->mode != LOAD_PUBLISH)
		json_object_set_new(j, "verified", verdict_json(r));
	json_object_set_new(j, "generator", generator_json(o, r));
	return j;
}
