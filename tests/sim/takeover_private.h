/* tests/sim/takeover_private.h: what takeover.c (the runs), leader.c,
 * succession.c and watch.c share. */
#ifndef TESTS_SIM_TAKEOVER_PRIVATE_H
#define TESTS_SIM_TAKEOVER_PRIVATE_H

#include "tests/sim/takeover.h"

#define LEADERS_MAX 64u
#define STANDBYS_MAX 2u
#define MS 1000000ull

struct leader {
	struct rig *rig;
	struct load *load; /* the last one */
	bool cramped;	   /* it has little memory */
	bool deposed;	   /* another one has claimed, or is about to */
	bool gone;	   /* killed, cut, or done with */
};

/* Who takes over: somebody who has just started, one that has followed the
 * leader, or a member that decides so by itself. */
enum kind { COLD, WARM, MEMBERS };

struct course;

/* At a call of this rig's node something happens: the fields of struct course
 * that watch_begin() replaces. */
struct watch {
	struct rig *watched;
	uint64_t calls, at;
	void (*event)(struct course *);
};

struct course {
	const struct takeover *run;
	struct takeover_report *report;
	struct sim *sim;
	struct sim_disk *disk;
	struct model model;
	struct rig_options rig;
	struct load_options load;
	struct leader leaders[LEADERS_MAX];
	size_t leader_count;
	struct leader *now; /* who leads */
	uint32_t top_epoch; /* that anybody has claimed */
	enum kind kind;
	uint64_t takeover_ns; /* MEMBERS */
	struct rig *standbys[STANDBYS_MAX];
	unsigned depth; /* of takeovers within each other */
	unsigned starts;
	bool disturb_next; /* the next start is the one */
	uint64_t start_calls;
	struct takeover_report *scout; /* shared with a child */
	struct rig *watched;
	uint64_t calls; /* of its node, so far */
	uint64_t at;	/* 0: at each of them */
	void (*event)(struct course *);
	bool forked; /* a child of an enumeration */
};

static inline bool maybe(struct course *c, unsigned percent)
{
	return sim_chance(c->sim, percent * 10000);
}

/* ---- takeover.c ---- */

__attribute__((noreturn)) void takeover_refuse(const char *what, int err,
					       const char *why);
/* Zeroed; never fails. */
struct rig *takeover_rig(void);

/* ---- leader.c ---- */

struct leader *leader_add(struct course *, struct rig *, bool cramped);
/* It leads, or has been deposed in the last moment. */
void leader_started(struct course *, struct rig *, bool cramped);
/* Adds what it has done to the report. */
void leader_count_up(struct course *, const struct leader *);
/* Killed, unless it is gone. */
void leader_end(struct course *, struct leader *);
/* Nobody who steps does so on this one any more. */
void leader_depose(struct course *, struct leader *);
/* The disk loses its power; all leaders end. */
void leader_cut_power(struct course *);
/* It is deposed; how: what becomes of it. */
void leader_interrupt(struct course *, struct leader *, enum takeover_how);
/* rig_options.claimed of all who may lead; ctx is the course. */
void leader_claimed(void *ctx, struct rig *);
bool leader_is_superseded(const struct course *, uint32_t epoch);
/* Who has failed ends.  Only a member may fail: it is deposed by an election
 * while it works; or by a member that has claimed, and died before it could say
 * so; or its watchdog barks. */
void leader_check_health(struct course *, struct leader *);
/* A census of who leads.  Only who accepts everything is given everything by a
 * broker that has little memory. */
void leader_look(struct course *, enum load_census_end);
/* Who leads does so under a load, to its end. */
void leader_work(struct course *);
/* All who stand still go on, for so long. */
void leader_zombies_run(struct course *, uint64_t ns);
/* Some go on from now on. */
void leader_zombies_wake(struct course *);
/* keep: so many may go on; the others must say that they were fenced. */
void leader_zombies_end(struct course *, unsigned keep);
/* history_check() of all leaders. */
void leader_check_history(struct course *);

/* ---- succession.c ---- */

/* Until somebody leads. */
void succession_lead(struct course *);
/* Nobody else takes over any more. */
void succession_end(struct course *);

/* ---- watch.c ---- */

/* For sim_disk_watch_calls(); ctx is the course. */
void watch_call(void *ctx, struct sim_node *);
/* at: counted from now on; 0: at each of them.  Returns what was watched
 * before, for watch_end(). */
struct watch watch_begin(struct course *, struct rig *, uint64_t at,
			 void (*event)(struct course *));
void watch_end(struct course *, const struct watch *before);
/* True in the child; its parent goes on when it has ended. */
bool watch_fork(struct course *);
/* Events for watch_begin().  At a call of a broker that is starting: it is
 * disturbed as the dice say. */
void watch_disturb_by_dice(struct course *);
/* ... as the run says, and where; at each place in a child. */
void watch_disturb(struct course *);
/* At a call of who leads, there: another one takes over. */
void watch_take_over(struct course *);

#endif
