/* broker/daemon/cluster.c: see cluster.h. */
#include "broker/daemon/cluster.h"

#include <string.h>

void cluster_describe(struct member *member, const char *node,
		      struct admin_cluster *ret)
{
	static const char *const roles[] = {
		[MEMBER_STANDBY] = "standby",
		[MEMBER_ELECTED] = "elected",
		[MEMBER_LEADER] = "leader",
	};
	struct member_status s;

	*ret = (struct admin_cluster){.role = "standby", .node = node};
	if (!member)
		return;
	member_status(member, &s);
	ret->role = roles[s.role];
	ret->healthy = member_is_healthy(member);
	ret->stolen = s.stolen;
	ret->takeover_ns = s.takeover_ns;
	ret->elected_ms = s.elected_ms;
	ret->epoch = s.leader.epoch;
	memcpy(ret->leader_node, s.leader.node, sizeof(s.leader.node));
	memcpy(ret->leader_url, s.leader.url, sizeof(s.leader.url));
	ret->leader_silence_ns = s.leader.silence_ns;
	ret->leader_seen_ms = s.leader.wall_ms;
	ret->leader_locked = s.leader.locked;
	ret->leader_resigned = s.leader.resigned;
	ret->applied_lsn = s.applied_lsn;
	ret->seen_lsn = s.seen_lsn;
	ret->behind_ns = s.behind_ns;
	ret->follow_resets = s.follow_resets;
	ret->follow_err = s.follow_err;
	ret->elect_err = s.elect_err;
	ret->looked_ns = s.looked_ns;
}
