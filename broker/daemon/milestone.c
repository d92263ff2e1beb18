/* broker/daemon/milestone.c: see milestone.h. */
#include "broker/daemon/milestone.h"

#include <errno.h>

void milestone_init(struct milestone *m)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->reached, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&m->lock, NULL);
}

void milestone_fini(struct milestone *m)
{
	pthread_cond_destroy(&m->reached);
	pthread_mutex_destroy(&m->lock);
}

void milestone_reach(void *milestone)
{
	struct milestone *m = milestone;

	pthread_mutex_lock(&m->lock);
	m->done = true;
	pthread_cond_signal(&m->reached);
	pthread_mutex_unlock(&m->lock);
}

bool milestone_wait(struct milestone *m, const struct timespec *until)
{
	bool done;

	pthread_mutex_lock(&m->lock);
	while (!m->done && pthread_cond_timedwait(&m->reached, &m->lock,
						  until) != ETIMEDOUT)
		;
	done = m->done;
	pthread_mutex_unlock(&m->lock);
	return done;
}
