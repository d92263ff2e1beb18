/* Which settings an address has: the most specific rule that matches.  Behind
 * core->lock. */
#include <string.h>

#include "broker/core/internal.h"

static const struct core_address_rule rules_builtin = {
	.match = "#",
	.routing = RECORD_ANYCAST,
	.auto_create = true,
	.delivery_attempts = 10,
	.dead_letter = "DLQ",
	.expiry = "ExpiryQueue",
};

void rules_free(struct core_address_rule *rules, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		free((char *)(uintptr_t)rules[i].match);
		free((char *)(uintptr_t)rules[i].dead_letter);
		free((char *)(uintptr_t)rules[i].expiry);
	}
	free(rules);
}

static int rule_copy(struct core_address_rule *to,
		     const struct core_address_rule *from)
{
	*to = *from;
	to->match = strdup(from->match);
	to->dead_letter = from->dead_letter ? strdup(from->dead_letter) : NULL;
	to->expiry = from->expiry ? strdup(from->expiry) : NULL;
	if (!to->match || (from->dead_letter && !to->dead_letter) ||
	    (from->expiry && !to->expiry))
		return -ENOMEM;
	return 0;
}

const struct core_address_rule *rules_find(const struct core *core,
					   const char *name)
{
	const struct core_address_rule *best = NULL;

	for (unsigned i = 0; i < core->rule_count; i++) {
		const struct core_address_rule *rule = &core->rules[i];

		if (name_match(rule->match, name) &&
		    (!best || name_compare(rule->match, best->match) > 0))
			best = rule;
	}
	return best ? best : &rules_builtin;
}

int rules_set(struct core *core, const struct core_address_rule *rules,
	      unsigned rule_count)
{
	struct core_address_rule *copy, *old;
	unsigned old_count;
	int err = 0;

	copy = calloc(rule_count ? rule_count : 1, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	for (unsigned i = 0; i < rule_count && !err; i++)
		err = rule_copy(&copy[i], &rules[i]);
	if (err) {
		rules_free(copy, rule_count);
		return err;
	}
	pthread_mutex_lock(&core->lock);
	old = core->rules;
	old_count = core->rule_count;
	core->rules = copy;
	core->rule_count = rule_count;
	table_for_each(&core->addresses, node)
	{
		struct address *a = container_of(node, struct address, node);

		atomic_store(&a->ttl_max_ms,
			     rules_find(core, a->name)->ttl_max_ms);
	}
	pthread_mutex_unlock(&core->lock);
	rules_free(old, old_count);
	return 0;
}

void rules_view(struct core *core, const char *name, struct core_rule_view *ret)
{
	const struct core_address_rule *rule;

	pthread_mutex_lock(&core->lock);
	rule = rules_find(core, name);
	ret->routing = rule->routing;
	ret->auto_create = rule->auto_create;
	ret->auto_delete = rule->auto_delete;
	ret->delivery_attempts = rule->delivery_attempts;
	ret->ttl_max_ms = rule->ttl_max_ms;
	snprintf(ret->dead_letter, sizeof(ret->dead_letter), "%s",
		 rule->dead_letter ? rule->dead_letter : "");
	snprintf(ret->expiry, sizeof(ret->expiry), "%s",
		 rule->expiry ? rule->expiry : "");
	pthread_mutex_unlock(&core->lock);
}
