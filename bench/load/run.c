/* bench/load/run.c: the coordinator: prepares, moves the phases, adds up. */
#include <netdb.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "bench/load/internal.h"
#include "bench/load/ledger.h"

#define LOOK_NS 2000000 /* between looks at the workers */
#define LOOK_SHORT_NS 200000
#define CONNECT_NS_MIN 15000000000u /* patience with connecting */
#define LEAD_NS 2000000u
#define QUIET_NS 1000000000u
#define STREAMS_UNKNOWN 4096u /* of whoever published what is consumed */

uint64_t run_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- what workers report ---- */

static const char *role_name(const struct wire *w)
{
	static const char *const names[] = {"declaring queues", "sender",
					    "receiver"};

	return names[w->role];
}

/* "redis 127.0.0.1:6379, sender 3: sentence" */
static void explain(const struct run *r, const struct wire *w, const char *text,
		    char *buf, size_t buf_len)
{
	int n = snprintf(buf, buf_len, "%s %s:%u, %s", r->o->protocol->name,
			 r->o->host, r->o->port, role_name(w));

	if (n > 0 && (size_t)n < buf_len && w->role != WIRE_SETUP)
		n += snprintf(buf + n, buf_len - (size_t)n, " %u", w->index);
	if (n > 0 && (size_t)n < buf_len)
		snprintf(buf + n, buf_len - (size_t)n, ": %s", text);
}

void run_fail(struct run *r, const struct wire *w, int err)
{
	pthread_mutex_lock(&r->lock);
	if (!r->failed)
		explain(r, w, err ? err_str(err) : w->why, r->why,
			sizeof(r->why));
	r->failed = true;
	pthread_mutex_unlock(&r->lock);
}

void run_break(struct run *r, const struct wire *w, uint64_t now_ns)
{
	pthread_mutex_lock(&r->lock);
	if (!r->broken) {
		explain(r, w, w->why, r->why, sizeof(r->why));
		r->broken_ns = now_ns;
	}
	r->broken = true;
	pthread_mutex_unlock(&r->lock);
}

void run_remark(struct run *r, const struct wire *w)
{
	pthread_mutex_lock(&r->lock);
	if (!r->remark[0])
		snprintf(r->remark, sizeof(r->remark), "%s", w->remark);
	pthread_mutex_unlock(&r->lock);
}

static bool is_set(struct run *r, const bool *flag)
{
	bool set;

	pthread_mutex_lock(&r->lock);
	set = *flag;
	pthread_mutex_unlock(&r->lock);
	return set;
}

struct tally_window run_window(const struct run *r)
{
	struct tally_window w = {r->measure_ns, UINT64_MAX};

	if (w.start_ns != UINT64_MAX && r->o->measure_ns)
		w.end_ns = w.start_ns + r->o->measure_ns;
	return w;
}

/* ---- preparing ---- */

static int resolve(struct run *r, char *why, size_t why_len)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
	char port[8];
	int res;

	snprintf(port, sizeof(port), "%u", r->o->port);
	res = getaddrinfo(r->o->host, port, &hints, &list);
	if (res) {
		snprintf(why, why_len, "cannot find the host %s: %s",
			 r->o->host, gai_strerror(res));
		return -EHOSTUNREACH;
	}
	memcpy(&r->to, list->ai_addr, list->ai_addrlen);
	r->to_len = list->ai_addrlen;
	freeaddrinfo(list);
	return 0;
}

/* "prefix", or "prefix.7" when there are several. */
static char *make_name(const char *prefix, bool several, uint32_t at)
{
	char *name;

	if (!several)
		return strdup(prefix);
	return asprintf(&name, "%s.%u", prefix, at) < 0 ? NULL : name;
}

static char *make_queue_name(const struct load_options *o, bool several,
			     uint32_t at)
{
	char *name;

	if (!o->fanout || !o->protocol->qualifies ||
	    strcmp(o->receive_prefix, o->prefix) != 0)
		return make_name(o->receive_prefix, several, at);
	return asprintf(&name, "%s::%s.%u", o->prefix, o->prefix, at) < 0
		       ? NULL
		       : name;
}

static int make_sources(struct run *r)
{
	const struct load_options *o = r->o;
	uint32_t count = plan_sources(&r->plan);
	bool several = o->fanout || o->queues > 1;

	r->topic = (struct lane){.address = o->prefix, .queue = o->prefix};
	r->sources = calloc(count, sizeof(*r->sources));
	if (!r->sources)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		struct lane *l = &r->sources[i];

		l->number = o->fanout ? i : 0;
		l->queue = make_queue_name(o, several, i);
		l->address = o->fanout ? strdup(o->prefix)
				       : make_name(o->prefix, several, i);
		if (!l->queue || !l->address)
			return -ENOMEM;
	}
	return 0;
}

static void free_sources(struct run *r)
{
	for (uint32_t i = 0; r->sources && i < plan_sources(&r->plan); i++) {
		free((void *)(uintptr_t)r->sources[i].queue);
		free((void *)(uintptr_t)r->sources[i].address);
	}
	free(r->sources);
}

static int read_ledger(struct run *r, struct ledger *l, char *why,
		       size_t why_len)
{
	const struct load_options *o = r->o;
	int err = ledger_read(o->ledger, l);

	if (err) {
		snprintf(why, why_len, "cannot read the ledger %s: %s",
			 o->ledger, err_str(err));
		return err;
	}
	if (l->plan.queues != r->plan.queues ||
	    l->plan.fanout != r->plan.fanout) {
		snprintf(why, why_len,
			 "the ledger %s is of a run with --queues %u --fanout "
			 "%u",
			 o->ledger, l->plan.queues, l->plan.fanout);
		marks_free(l->accepted);
		return -EINVAL;
	}
	r->id = l->run;
	r->plan.streams = l->plan.streams;
	return 0;
}

static int prepare(struct run *r, char *why, size_t why_len)
{
	const struct load_options *o = r->o;
	struct ledger known = {0};
	bool reads = o->mode == LOAD_CONSUME && o->ledger;
	int err = resolve(r, why, why_len);

	r->plan = (struct plan){.queues = o->queues,
				.fanout = o->fanout,
				.senders = o->senders,
				.receivers = o->receivers};
	r->plan.streams = plan_sender_streams(&r->plan);
	r->id = (uint32_t)(r->begun_ns ^ r->begun_ns >> 32) ^ (uint32_t)getpid()
								      << 8;
	r->id += !r->id;
	snprintf(r->tag, sizeof(r->tag), "%08x", r->id);
	if (o->mode == LOAD_CONSUME) {
		r->id = 0;
		r->plan.streams =
			(uint32_t)base_max(STREAMS_UNKNOWN, o->queues);
	}
	if (!err && reads)
		err = read_ledger(r, &known, why, why_len);
	if (!err)
		err = make_sources(r);
	if (!err)
		err = judge_init(&r->judge, &r->plan, r->id,
				 o->verifies && o->mode != LOAD_PUBLISH,
				 !reads && o->senders &&
					 (o->verifies || o->ledger));
	if (!err && o->senders)
		err = payload_pool_create(o->size, &r->pool);
	if (reads && !err)
		r->judge.accepted = known.accepted;
	else
		marks_free(known.accepted);
	r->terms = (struct wire_terms){
		.host = o->host,
		.user = o->user,
		.password = o->password,
		.topic = o->fanout ? o->prefix : NULL,
		.tag = r->tag,
		.credit = o->credit,
		.classic = o->classic,
	};
	return err;
}

/* ---- phases ---- */

struct sums {
	uint64_t moved, accepted, arrived;
	uint32_t ready, sending;
	bool setup_done, closed;
	bool current; /* all workers have seen the phase */
};

static struct sums look(struct run *r, struct worker **workers)
{
	struct sums s = {.closed = true, .current = true};

	for (uint32_t i = 0; i < r->o->threads; i++) {
		struct progress *p = &workers[i]->progress;

		/* The reverse of the order in which they are written. */
		s.current &= p->phase == r->phase;
		s.closed &= p->closed;
		s.sending += p->sending;
		s.moved += p->moved;
		s.arrived += p->arrived;
		s.accepted += p->accepted;
		s.ready += p->ready;
		s.setup_done |= p->setup_done;
	}
	return s;
}

static bool needs_setup(const struct run *r)
{
	enum protocol_setup setup = r->o->protocol->setup;

	return setup == PROTOCOL_SETUP_ALWAYS ||
	       (setup == PROTOCOL_SETUP_FAN_OUT && r->o->fanout);
}

/* What moves the phases besides the workers. */
struct conductor {
	struct run *run;
	uint64_t promised; /* messages that a consumer waits for; 0: all */
	uint64_t moved, since_ns;
	bool is_short;
};

/* Has nothing moved for so long? */
static bool is_quiet(struct conductor *c, const struct sums *s, uint64_t for_ns)
{
	uint64_t now_ns = run_now_ns();

	if (s->moved != c->moved || !c->since_ns) {
		c->moved = s->moved;
		c->since_ns = now_ns;
	}
	return now_ns - c->since_ns >= for_ns;
}

/* What a consumer waits for: the count, or what the ledger promises; 0: until
 * nothing comes. */
static uint64_t promised_to(const struct run *r)
{
	uint64_t promised = 0;

	if (r->o->mode != LOAD_CONSUME)
		return 0;
	if (r->o->count)
		return r->o->count;
	for (uint32_t row = 0; r->judge.accepted && row < r->plan.streams;
	     row++)
		promised += marks_count(r->judge.accepted, row);
	return promised * plan_copies(&r->plan);
}

/* All that is to be received has been. */
static bool has_all_arrived(struct conductor *c, const struct sums *s)
{
	const struct run *r = c->run;

	switch (r->o->mode) {
	case LOAD_PUBLISH:
		return true;
	case LOAD_BOTH:
		return s->arrived >= s->accepted * plan_copies(&r->plan);
	case LOAD_CONSUME:
		break;
	}
	if (r->o->measure_ns)
		return true;
	if (!c->promised || s->arrived < c->promised)
		return false;
	/* Among them may be messages that were never confirmed, so there may
	 * be confirmed ones behind them. */
	return !r->judge.accepted ||
	       is_quiet(c, s, base_min(QUIET_NS, r->o->patience_ns));
}

static enum phase after_running(struct conductor *c, const struct sums *s)
{
	struct run *r = c->run;
	struct tally_window window = run_window(r);
	uint64_t now_ns = run_now_ns();
	bool over = is_set(r, &r->broken);

	if (r->o->measure_ns)
		over |= now_ns >= window.end_ns;
	else
		over |= r->o->mode == LOAD_CONSUME || now_ns >= window.start_ns;
	if (over)
		return PHASE_FINISHING;
	c->is_short = is_quiet(c, s, r->o->patience_ns);
	return c->is_short ? PHASE_CLOSING : PHASE_RUNNING;
}

static enum phase after_finishing(struct conductor *c, const struct sums *s)
{
	struct run *r = c->run;

	if (!s->current)
		return PHASE_FINISHING;
	if (!s->sending && (has_all_arrived(c, s) || is_set(r, &r->broken)))
		return PHASE_CLOSING;
	if (!is_quiet(c, s, r->o->patience_ns))
		return PHASE_FINISHING;
	/* A consumer without a number to reach is done when nothing comes. */
	c->is_short = r->o->mode != LOAD_CONSUME || c->promised;
	return PHASE_CLOSING;
}

static enum phase next_phase(struct conductor *c, const struct sums *s)
{
	struct run *r = c->run;
	enum phase phase = run_phase(r);

	switch (phase) {
	case PHASE_SETUP:
		return s->setup_done ? PHASE_CONNECTING : PHASE_SETUP;
	case PHASE_CONNECTING:
		if (s->ready < r->plan.senders + r->plan.receivers)
			return PHASE_CONNECTING;
		/* A schedule begins when every thread has heard of it. */
		r->start_ns = run_now_ns() + (r->o->rate ? LEAD_NS : 0);
		if (r->measure_ns == UINT64_MAX)
			r->measure_ns = r->start_ns + r->o->warm_up_ns;
		return PHASE_RUNNING;
	case PHASE_RUNNING:
		return after_running(c, s);
	case PHASE_FINISHING:
		return after_finishing(c, s);
	case PHASE_CLOSING:
		return s->current && s->closed ? PHASE_ENDED : PHASE_CLOSING;
	case PHASE_ENDED:
		break;
	}
	return PHASE_ENDED;
}

static int check_failed(struct run *r, enum phase phase, char *why,
			size_t why_len)
{
	uint64_t spent_ns = run_now_ns() - r->begun_ns;

	if (is_set(r, &r->failed)) {
		snprintf(why, why_len, "%s", r->why);
		return -ECONNABORTED;
	}
	if (phase > PHASE_CONNECTING ||
	    spent_ns <
		    r->o->wait_ns + base_max(r->o->patience_ns, CONNECT_NS_MIN))
		return 0;
	snprintf(why, why_len,
		 "%s %s:%u: not all connections were ready after %.0f s",
		 r->o->protocol->name, r->o->host, r->o->port,
		 (double)spent_ns / 1e9);
	return -ETIMEDOUT;
}

static int conduct(struct run *r, struct worker **workers, bool *ret_short,
		   char *why, size_t why_len)
{
	struct conductor c = {.run = r, .promised = promised_to(r)};
	enum phase phase = run_phase(r), next;
	int err = 0;

	while (!err && phase != PHASE_ENDED) {
		struct sums s = look(r, workers);

		next = next_phase(&c, &s);
		if (next != phase) {
			c.since_ns = 0;
			phase = next;
			atomic_store(&r->phase, (int)phase);
			continue;
		}
		err = check_failed(r, phase, why, why_len);
		nanosleep(
			&(struct timespec){.tv_nsec = phase <= PHASE_CONNECTING
							      ? LOOK_SHORT_NS
							      : LOOK_NS},
			NULL);
	}
	atomic_store(&r->phase, PHASE_ENDED);
	*ret_short = c.is_short;
	return err;
}

/* ---- the whole ---- */

static int start(struct run *r, struct worker **workers)
{
	int err = 0;

	for (uint32_t i = 0; i < r->o->threads && !err; i++)
		err = worker_create(r, i, &workers[i]);
	for (uint32_t i = 0; i < r->o->threads && !err; i++)
		err = worker_start(workers[i]);
	return err;
}

/* Ends the threads; their counts go into the result. */
static void stop(struct run *r, struct worker **workers, struct tally *total)
{
	atomic_store(&r->phase, PHASE_ENDED);
	for (uint32_t i = 0; i < r->o->threads; i++)
		worker_join(workers[i]);
	for (uint32_t i = 0; i < r->o->threads; i++) {
		if (workers[i])
			tally_merge(total, &workers[i]->tally);
		worker_free(workers[i]);
	}
}

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0;
}

static void sum_up(struct run *r, struct load_result *ret)
{
	const struct load_options *o = r->o;
	const struct tally *t = &ret->tally;
	struct tally_window w = run_window(r);
	struct rusage u;

	ret->run = r->judge.run;
	ret->begun_ns = r->begun_ns;
	ret->ready_ns = r->start_ns;
	ret->measure_start_ns = w.start_ns == UINT64_MAX ? 0 : w.start_ns;
	ret->broken_ns = r->broken_ns;
	ret->expects = r->judge.accepted && r->judge.seen;
	if (r->broken)
		snprintf(ret->broken, sizeof(ret->broken), "%s", r->why);
	snprintf(ret->remark, sizeof(ret->remark), "%s", r->remark);
	if (o->measure_ns && !r->broken) {
		ret->publish_seconds = (double)o->measure_ns / 1e9;
		ret->receive_seconds = ret->publish_seconds;
	} else {
		ret->publish_seconds = seconds(w.start_ns, t->last_confirm_ns);
		ret->receive_seconds =
			seconds(o->mode == LOAD_CONSUME ? t->first_arrival_ns
							: w.start_ns,
				t->last_arrival_ns);
	}
	getrusage(RUSAGE_SELF, &u);
	ret->cpu_seconds_all =
		(double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
		(double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
	judge_finish(&r->judge, &ret->verdict);
}

static int keep_ledger(struct run *r, uint64_t sent, char *why, size_t why_len)
{
	const struct load_options *o = r->o;
	struct ledger l = {.run = r->id,
			   .plan = r->plan,
			   .sent = sent,
			   .accepted = r->judge.accepted};
	int err;

	if (!o->ledger || o->mode == LOAD_CONSUME)
		return 0;
	err = ledger_write(o->ledger, &l);
	if (err)
		snprintf(why, why_len, "cannot write the ledger %s: %s",
			 o->ledger, err_str(err));
	return err;
}

static void release(struct run *r)
{
	judge_fini(&r->judge);
	payload_pool_free(r->pool);
	free_sources(r);
	pthread_mutex_destroy(&r->lock);
}

int load_run(const struct load_options *o, struct load_result *ret, char *why,
	     size_t why_len)
{
	struct run r = {.o = o, .begun_ns = run_now_ns()};
	struct worker *workers[LOAD_THREADS_MAX] = {NULL};
	int err;

	memset(ret, 0, sizeof(*ret));
	tally_init(&ret->tally);
	why[0] = 0;
	pthread_mutex_init(&r.lock, NULL);
	/* What is consumed without a clock counts from the first message on,
	 * which may come before all are ready. */
	r.measure_ns = o->mode == LOAD_CONSUME && !o->measure_ns ? r.begun_ns
								 : UINT64_MAX;
	err = prepare(&r, why, why_len);
	r.phase = needs_setup(&r) ? PHASE_SETUP : PHASE_CONNECTING;
	if (!err)
		err = start(&r, workers);
	if (!err)
		err = conduct(&r, workers, &ret->short_of, why, why_len);
	stop(&r, workers, &ret->tally);
	if (!err && r.judge.err) {
		err = r.judge.err;
		snprintf(why, why_len,
			 "more messages in a stream than can be verified");
	}
	sum_up(&r, ret);
	if (!err)
		err = keep_ledger(&r, ret->tally.sent, why, why_len);
	if (err && !why[0])
		snprintf(why, why_len, "%s", err_str(err));
	release(&r);
	return err;
}
