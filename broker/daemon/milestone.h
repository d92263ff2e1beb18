/* broker/daemon/milestone.h: one thread waits until another has come this far.
 */
#ifndef BROKER_DAEMON_MILESTONE_H
#define BROKER_DAEMON_MILESTONE_H

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

struct milestone {
	pthread_mutex_t lock;
	pthread_cond_t reached;
	bool done; /* may be reset while nobody waits */
};

void milestone_init(struct milestone *);
void milestone_fini(struct milestone *);
void milestone_reach(void *milestone); /* [any] */
/* On CLOCK_MONOTONIC; false when it was not reached by then. */
bool milestone_wait(struct milestone *, const struct timespec *until);

#endif
