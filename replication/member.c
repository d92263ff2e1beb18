/* replication/member.c: standing by, being elected, giving signs of life.
 *
 * A standby does one thing after the other on one thread: look, then follow
 * for a bounded number of bytes, then wait.  An error of either is logged when
 * it is new, and everything is tried again: a standby has nothing to lose.  A
 * leader's claim check latches the log by itself, and the process ends. */
#include "replication/member.h"

#include <string.h>

#include "base/logger.h"

#define FOLLOW_BYTES (8u * 1024u * 1024u)
#define FOLLOW_NS 100000000ull /* how often, when there is nothing new */
#define FOLLOW_RETRY_NS 1000000000ull
#define HEALTHY_NS_MIN 10000000000ull
#define WATCH_NS_MAX 1000000000ull
#define WAIT_NS 500000ull
#define RETRY_NS_MIN 1000000000ull
#define RETRY_NS_MAX 30000000000ull

/* One thread waits until a loop has done something. */
struct member_wait {
	struct loop_mail mail;
	struct member *member;
	_Atomic bool done;
};

struct member {
	struct member_options options;
	struct leadership *leadership;
	struct loop *loop, *watchdog;
	bool started, watching;
	struct loop_timer timer, watch;

	/* leadership loop */
	uint64_t follow_at_ns;
	int look_err, claim_err, sign_err; /* what has been logged */
	uint64_t retry_ns;
	bool leads;

	_Atomic uint64_t busy_since_ns; /* 0: not in the storage */
	_Atomic int role;		/* enum member_role */
	_Atomic uint64_t looked_at_ns, caught_up_at_ns;
	_Atomic uint64_t elected_ns, elected_ms, takeover_ns;
	_Atomic bool stolen, more;
	_Atomic int follow_err, elect_err; /* why it does not take over */

	struct member_wait resigned, stopped;
};

/* ---- standing by ---- */

static void wait_for(struct member *m, uint64_t ns)
{
	loop_timer_set(m->loop, &m->timer, ns);
}

static void say(struct member *m, int *known, int err, const char *event,
		const char *why)
{
	if (err == *known)
		return;
	*known = err;
	if (err)
		logger_warn("leadership", event, "error=%s why=%s",
			    LOGGER_QUOTE(err_str(err)), LOGGER_QUOTE(why));
}

static void follow(struct member *m)
{
	struct store *store = m->options.store;
	uint64_t now = io_now_ns(m->options.io);
	int err, known = m->follow_err;
	bool more = false;

	if (now < m->follow_at_ns)
		return;
	err = store_follow(store, m->options.log, FOLLOW_BYTES, &more);
	say(m, &known, err, "not-following", store_why(store));
	now = io_now_ns(m->options.io);
	m->follow_err = err;
	m->more = more;
	m->follow_at_ns = now + (err ? FOLLOW_RETRY_NS : more ? 0 : FOLLOW_NS);
	if (!err && !more)
		m->caught_up_at_ns = now;
}

static void say_elected(const struct member *m,
			const struct leadership_leader *old, bool steal)
{
	logger_info("leadership", "elected",
		    "node=%s epoch=%u how=%s before=%s epoch_before=%u "
		    "silent_ms=%llu",
		    LOGGER_QUOTE(m->options.node),
		    (unsigned)log_epoch(m->options.log),
		    steal ? "stolen" : "locked",
		    LOGGER_QUOTE(old->epoch ? old->node : "nobody"),
		    (unsigned)old->epoch,
		    (unsigned long long)(old->silence_ns / 1000000));
}

/* A full disk is no reason not to lead: signs overwrite one block.  A failed
 * check has latched the log, which ends the process.  A sign that cannot be
 * written is storage that fails, and others will take over: better now than
 * when they do. */
static void give_sign(struct member *m)
{
	int err = leadership_beat(m->leadership);

	if (err == -ENOSPC || err == -EDQUOT)
		say(m, &m->sign_err, err, "no-sign", m->options.dir);
	else if (err)
		log_fail(m->options.log, err,
			 "the sign of life in leader.lock cannot be written");
	else
		m->sign_err = 0;
}

/* Others may do the same at the same time; the claims decide.  Whoever has made
 * a claim goes on with it: what fails then fails the log, and so the start. */
static void take_over(struct member *m, bool steal)
{
	struct log *log = m->options.log;
	struct leadership_leader old;
	int err;

	leadership_leader(m->leadership, &old);
	err = steal ? log_steal(log) : log_claim(log);
	say(m, &m->claim_err, err, "not-elected",
	    err == -ENOSPC || err == -EDQUOT
		    ? "the disk is full: free a few MiB in data_dir, so that "
		      "somebody can lead and messages can be consumed"
		    : log_why(log));
	m->elect_err = err;
	if (err) {
		/* Each try may leave a claim behind, which somebody is to
		 * seal. */
		m->retry_ns = base_min(base_max(2 * m->retry_ns, RETRY_NS_MIN),
				       RETRY_NS_MAX);
		wait_for(m, m->retry_ns);
		return;
	}
	m->stolen = steal;
	m->elected_ms = io_wall_ms(m->options.io);
	m->elected_ns = io_now_ns(m->options.io);
	say_elected(m, &old, steal);
	give_sign(m);
	m->leads = true;
	m->role = MEMBER_ELECTED;
	wait_for(m, leadership_beat_ns(m->leadership));
	m->options.elected(m->options.ctx);
}

static void stand_by(struct member *m)
{
	enum leadership_verdict verdict = LEADERSHIP_WAIT;
	int err = leadership_look(m->leadership, &verdict);

	say(m, &m->look_err, err, "cannot-look", m->options.dir);
	if (err) {
		wait_for(m, leadership_beat_ns(m->leadership));
		return;
	}
	m->looked_at_ns = io_now_ns(m->options.io);
	if (verdict != LEADERSHIP_WAIT) {
		take_over(m, verdict == LEADERSHIP_STEAL);
		return;
	}
	/* Somebody leads, so what kept us from it is over. */
	m->elect_err = 0;
	m->retry_ns = 0;
	follow(m);
	wait_for(m, m->more ? 0 : leadership_look_ns(m->leadership));
}

/* ---- leading ---- */

static void beat(struct member *m)
{
	give_sign(m);
	if (m->role == MEMBER_ELECTED && m->options.recovering)
		m->options.recovering(m->options.ctx);
	wait_for(m, leadership_beat_ns(m->leadership));
}

static void timer_fired(struct loop_timer *timer)
{
	struct member *m = container_of(timer, struct member, timer);

	m->busy_since_ns = io_now_ns(m->options.io);
	if (m->leads)
		beat(m);
	else
		stand_by(m);
	m->busy_since_ns = 0;
}

/* ---- the watchdog ---- */

static void look_for_stall(struct member *m)
{
	uint64_t now = io_now_ns(m->options.io), since = m->busy_since_ns;
	uint64_t writing = log_stats(m->options.log)->write_begun_ns;
	const char *what = "the claim check and the sign of life";

	if (writing && (!since || writing < since)) {
		since = writing;
		what = "a write of the journal";
	}
	if (m->role != MEMBER_STANDBY && since && now > since &&
	    now - since > m->options.storage_timeout_ns)
		m->options.stalled(m->options.ctx, what, now - since);
}

static void watch_fired(struct loop_timer *timer)
{
	struct member *m = container_of(timer, struct member, watch);

	look_for_stall(m);
	loop_timer_set(
		m->watchdog, &m->watch,
		base_min(m->options.storage_timeout_ns / 4, WATCH_NS_MAX));
}

/* ---- life ---- */

int member_create(const struct member_options *options, struct member **ret)
{
	struct member *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	m->options = *options;
	m->timer.fire = timer_fired;
	m->watch.fire = watch_fired;
	m->looked_at_ns = m->caught_up_at_ns = io_now_ns(options->io);
	err = leadership_create(
		&(struct leadership_options){
			.io = options->io,
			.dir = options->dir,
			.log = options->log,
			.node = options->node,
			.url = options->url,
			.takeover_after_ns = options->takeover_after_ns,
		},
		&m->leadership);
	if (!err && options->yield)
		leadership_yield(m->leadership);
	if (!err)
		err = loop_create(options->io, "leadership", &m->loop);
	if (!err)
		err = loop_create(options->io, "watchdog", &m->watchdog);
	if (err)
		member_free(m);
	else
		*ret = m;
	return err;
}

int member_start(struct member *m)
{
	int err;

	loop_timer_set(m->loop, &m->timer, 0);
	loop_timer_set(m->watchdog, &m->watch, WATCH_NS_MAX);
	err = loop_start(m->watchdog, NULL, NULL);
	m->watching = !err;
	if (!err)
		err = loop_start(m->loop, NULL, NULL);
	m->started = !err;
	return err;
}

void member_serves(struct member *m)
{
	m->takeover_ns = io_now_ns(m->options.io) - m->elected_ns;
	m->role = MEMBER_LEADER;
}

/* ---- one thread waits for the loop ---- */

static int await(struct member *m, struct member_wait *w,
		 void (*deliver)(struct loop_mail *), uint64_t timeout_ns)
{
	uint64_t until_ns = io_now_ns(m->options.io) + timeout_ns;

	w->member = m;
	w->mail.deliver = deliver;
	loop_post(m->loop, &w->mail);
	while (!w->done && io_now_ns(m->options.io) < until_ns)
		io_pause(m->options.io, WAIT_NS);
	return w->done ? 0 : -ETIMEDOUT;
}

static void resign_delivered(struct loop_mail *mail)
{
	struct member_wait *w = container_of(mail, struct member_wait, mail);
	struct member *m = w->member;

	loop_timer_cancel(m->loop, &m->timer);
	if (m->leads) {
		leadership_resign(m->leadership);
		logger_info("leadership", "resigned", "node=%s epoch=%u",
			    LOGGER_QUOTE(m->options.node),
			    (unsigned)log_epoch(m->options.log));
	}
	w->done = true;
}

int member_resign(struct member *m, uint64_t timeout_ns)
{
	if (!m->started)
		return 0;
	return await(m, &m->resigned, resign_delivered, timeout_ns);
}

static void stop_delivered(struct loop_mail *mail)
{
	struct member_wait *w = container_of(mail, struct member_wait, mail);

	loop_timer_cancel(w->member->loop, &w->member->timer);
	loop_stop(w->member->loop);
	w->done = true;
}

int member_stop(struct member *m, uint64_t timeout_ns)
{
	int err = 0;

	if (m->started)
		err = await(m, &m->stopped, stop_delivered, timeout_ns);
	if (err)
		return err;
	if (m->watching) {
		loop_stop(m->watchdog);
		loop_join(m->watchdog);
	}
	if (m->started)
		loop_join(m->loop);
	m->watching = m->started = false;
	return 0;
}

void member_free(struct member *m)
{
	if (!m)
		return;
	loop_free(m->loop);
	loop_free(m->watchdog);
	leadership_free(m->leadership);
	free(m);
}

/* ---- questions ---- */

void member_status(struct member *m, struct member_status *ret)
{
	const struct store_stats *stats = store_stats(m->options.store);
	uint64_t now = io_now_ns(m->options.io);
	uint64_t looked = m->looked_at_ns, caught_up = m->caught_up_at_ns;

	*ret = (struct member_status){
		.role = (enum member_role)m->role,
		.looked_ns = now > looked ? now - looked : 0,
		.applied_lsn = stats->applied_lsn,
		.seen_lsn = stats->seen_lsn,
		.follow_resets = stats->follow_resets,
		.elected_ms = m->elected_ms,
		.takeover_ns = m->takeover_ns,
		.stolen = m->stolen,
		.follow_err = m->follow_err,
		.elect_err = m->elect_err,
	};
	if (ret->role == MEMBER_STANDBY && now > caught_up + 2 * FOLLOW_NS)
		ret->behind_ns = now - caught_up;
	leadership_leader(m->leadership, &ret->leader);
}

bool member_is_healthy(struct member *m)
{
	struct member_status s;

	member_status(m, &s);
	if (s.role != MEMBER_STANDBY)
		return s.role == MEMBER_LEADER;
	return !s.elect_err &&
	       s.looked_ns < base_max(HEALTHY_NS_MIN,
				      2 * m->options.takeover_after_ns);
}
