/* broker/daemon/cluster.h: what the admin port says of a member. */
#ifndef BROKER_DAEMON_CLUSTER_H
#define BROKER_DAEMON_CLUSTER_H

#include "broker/admin/admin.h"
#include "replication/member.h"

/* [any] But label and takeovers, which others know; member NULL: not one yet.
 * node is borrowed for as long as ret is looked at. */
void cluster_describe(struct member *, const char *node,
		      struct admin_cluster *ret);

#endif
