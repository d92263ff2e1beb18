/* broker/protocols/amqp/terminus.c: sources and targets.
 *
 * AMQP 1.0 part 3, section 3.5.  What a client asks for and is not done here
 * is refused where ignoring it would lose or misdirect messages (selectors,
 * browsing, durable and shared subscriptions); what is merely advice is left
 * out of the answer, which says the same. */
#include "broker/protocols/amqp/internal.h"

#include <string.h>

static const char not_implemented[] = "amqp:not-implemented";

struct asked {
	bool queue, topic, shared, temporary;
};

static void note_capability(struct asked *a, pn_bytes_t s)
{
	static const struct {
		const char *name;
		size_t at;
		bool temporary;
	} known[] = {
		{"queue", offsetof(struct asked, queue), false},
		{"topic", offsetof(struct asked, topic), false},
		{"temporary-queue", offsetof(struct asked, queue), true},
		{"temporary-topic", offsetof(struct asked, topic), true},
		{"shared", offsetof(struct asked, shared), false},
		{"global", offsetof(struct asked, shared), false},
	};

	for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
		if (s.size != strlen(known[i].name) ||
		    memcmp(s.start, known[i].name, s.size) != 0)
			continue;
		*(bool *)((char *)a + known[i].at) = true;
		a->temporary |= known[i].temporary;
	}
}

/* A capability list is an array of symbols or, with one, the symbol alone. */
static struct asked read_capabilities(pn_terminus_t *t)
{
	pn_data_t *d = pn_terminus_capabilities(t);
	struct asked a = {0};

	pn_data_rewind(d);
	if (!pn_data_next(d))
		return a;
	if (pn_data_type(d) == PN_SYMBOL) {
		note_capability(&a, pn_data_get_symbol(d));
	} else if (pn_data_type(d) == PN_ARRAY) {
		pn_data_enter(d);
		while (pn_data_next(d))
			if (pn_data_type(d) == PN_SYMBOL)
				note_capability(&a, pn_data_get_symbol(d));
		pn_data_exit(d);
	}
	pn_data_rewind(d);
	return a;
}

enum filter {
	FILTER_UNKNOWN,
	FILTER_SELECTOR,
	FILTER_NO_LOCAL,
};

/* By descriptor, as the AMQP JMS mapping and its registry of filters have
 * them. */
static enum filter filter_of(pn_data_t *d)
{
	static const struct {
		uint64_t code;
		const char *name;
		enum filter filter;
	} known[] = {
		{0x0000468C00000004u, "apache.org:selector-filter:string",
		 FILTER_SELECTOR},
		{0x0000468C00000004u, "jms-selector", FILTER_SELECTOR},
		{0x0000468C00000003u, "apache.org:no-local-filter:list",
		 FILTER_NO_LOCAL},
	};
	uint64_t code = 0;
	pn_bytes_t name = {0, NULL};

	if (pn_data_type(d) != PN_DESCRIBED)
		return FILTER_UNKNOWN;
	pn_data_enter(d);
	if (pn_data_next(d)) {
		if (pn_data_type(d) == PN_ULONG)
			code = pn_data_get_ulong(d);
		else if (pn_data_type(d) == PN_SYMBOL)
			name = pn_data_get_symbol(d);
	}
	pn_data_exit(d);
	for (size_t i = 0; i < ARRAY_COUNT(known); i++)
		if (code == known[i].code ||
		    (name.size == strlen(known[i].name) &&
		     !memcmp(name.start, known[i].name, name.size)))
			return known[i].filter;
	return FILTER_UNKNOWN;
}

static bool has_filter(pn_terminus_t *source, enum filter wanted)
{
	pn_data_t *d = pn_terminus_filter(source);
	bool found = false;

	pn_data_rewind(d);
	if (!pn_data_next(d) || pn_data_type(d) != PN_MAP)
		return false;
	pn_data_enter(d);
	while (pn_data_next(d) && pn_data_next(d)) /* key, value */
		found |= filter_of(d) == wanted;
	pn_data_exit(d);
	pn_data_rewind(d);
	return found;
}

static int refuse(struct terminus_problem *p, const char *condition,
		  const char *text)
{
	*p = (struct terminus_problem){condition, text};
	return -EINVAL;
}

static int read_target(pn_terminus_t *t, struct terminus *ret,
		       struct terminus_problem *p)
{
	switch (pn_terminus_get_type(t)) {
	case PN_TARGET:
		break;
	case PN_COORDINATOR:
		return refuse(p, not_implemented,
			      "transactions are not supported");
	default:
		return refuse(p, "amqp:invalid-field",
			      "the link has no target");
	}
	/* Without an address each message names its own. */
	return 0;
}

static int read_source(pn_terminus_t *t, const struct asked *a,
		       struct terminus *ret, struct terminus_problem *p)
{
	bool lasting = pn_terminus_get_durability(t) != PN_NONDURABLE ||
		       pn_terminus_get_expiry_policy(t) == PN_EXPIRE_NEVER;

	if (pn_terminus_get_type(t) != PN_SOURCE)
		return refuse(p, "amqp:not-found",
			      "the link has no source, and there is no "
			      "subscription of this name");
	if (!ret->dynamic && !ret->address)
		return refuse(p, "amqp:invalid-field",
			      "the source has no address");
	if (has_filter(t, FILTER_SELECTOR))
		return refuse(p, not_implemented,
			      "message selectors are not supported");
	if (has_filter(t, FILTER_NO_LOCAL))
		return refuse(p, not_implemented,
			      "no-local subscriptions are not supported");
	if (pn_terminus_get_distribution_mode(t) == PN_DIST_MODE_COPY &&
	    !a->topic)
		return refuse(p, not_implemented, "browsing is not supported");
	if (a->shared)
		return refuse(p, not_implemented,
			      "shared subscriptions are not supported");
	if (a->topic && lasting)
		return refuse(p, not_implemented,
			      "durable subscriptions are not supported");
	return 0;
}

int terminus_read(pn_link_t *pn, const struct connection *c,
		  struct terminus *ret, struct terminus_problem *p)
{
	bool consumer = pn_link_is_sender(pn);
	pn_terminus_t *t = consumer ? pn_link_remote_source(pn)
				    : pn_link_remote_target(pn);
	struct asked a = read_capabilities(t);
	const char *address = pn_terminus_get_address(t);

	*ret = (struct terminus){.user = c->user, .container = c->container};
	if (strlen(pn_link_name(pn)) > RECORD_NAME_MAX)
		return refuse(p, "amqp:invalid-field",
			      "the link name has more than 1024 bytes");
	if (a.queue && a.topic)
		return refuse(p, "amqp:invalid-field",
			      "both queue and topic are asked for");
	ret->routing = a.queue	 ? RECORD_ANYCAST
		       : a.topic ? RECORD_MULTICAST
				 : 0;
	ret->dynamic = pn_terminus_is_dynamic(t);
	if (!ret->dynamic && address && address[0])
		ret->address = address;
	return consumer ? read_source(t, &a, ret, p) : read_target(t, ret, p);
}

static void put_capability(pn_terminus_t *ours, pn_terminus_t *theirs)
{
	struct asked a = read_capabilities(theirs);
	pn_data_t *d = pn_terminus_capabilities(ours);
	const char *name = NULL;

	pn_data_clear(d);
	if (a.queue)
		name = a.temporary ? "temporary-queue" : "queue";
	else if (a.topic)
		name = a.temporary ? "temporary-topic" : "topic";
	if (!name)
		return;
	pn_data_put_array(d, false, PN_SYMBOL);
	pn_data_enter(d);
	pn_data_put_symbol(d, pn_bytes(strlen(name), name));
	pn_data_exit(d);
}

static void put_outcomes(pn_terminus_t *source)
{
	static const char *const names[] = {
		"amqp:accepted:list", "amqp:rejected:list",
		"amqp:released:list", "amqp:modified:list"};
	pn_data_t *d = pn_terminus_outcomes(source);

	pn_data_clear(d);
	pn_data_put_array(d, false, PN_SYMBOL);
	pn_data_enter(d);
	for (size_t i = 0; i < ARRAY_COUNT(names); i++)
		pn_data_put_symbol(d, pn_bytes(strlen(names[i]), names[i]));
	pn_data_exit(d);
}

void terminus_answer(pn_link_t *pn, const char *name)
{
	bool consumer = pn_link_is_sender(pn);
	pn_terminus_t *source = pn_link_source(pn);
	pn_terminus_t *target = pn_link_target(pn);
	pn_terminus_t *ours = consumer ? source : target;

	pn_terminus_copy(source, pn_link_remote_source(pn));
	pn_terminus_copy(target, pn_link_remote_target(pn));
	/* Nothing of ours outlives the link, and no filter is in place. */
	pn_data_clear(pn_terminus_filter(source));
	if (consumer) {
		pn_terminus_set_durability(source, PN_NONDURABLE);
		put_outcomes(source);
		put_capability(source, pn_link_remote_source(pn));
	} else {
		put_capability(target, pn_link_remote_target(pn));
	}
	if (pn_terminus_is_dynamic(ours))
		pn_terminus_set_address(ours, name);
}
