/* The core's life, its way to the journal, and what it counts. */
#include <string.h>

#include "broker/core/internal.h"

#define MIB (1024ull * 1024)

uint64_t core_next_id(struct core *core)
{
	return atomic_fetch_add_explicit(&core->next_id, 1,
					 memory_order_relaxed);
}

/* ---- records ---- */

/* Names are made and go without a journal too; only in a null sink. */
static void shard_append_nowhere(struct shard *s, struct log_append *append)
{
	while (append) {
		struct log_append *next = append->next;
		struct log_note *notes = append->notes;
		unsigned count = append->note_count;

		append->err = 0;
		append->lsn = core_next_id(s->core);
		for (unsigned i = 0; i < count; i++)
			loop_post(notes[i].to, &notes[i].mail);
		append = next;
	}
}

void shard_append_flush(struct shard *s)
{
	struct log_append *first = s->appends_first;

	if (!first)
		return;
	s->appends_first = NULL;
	if (s->core->null_sink)
		shard_append_nowhere(s, first);
	else
		log_append_here(s->core->log, s->loop, first, s->appends_last);
}

static void shard_append_task(struct loop_task *task)
{
	shard_append_flush(container_of(task, struct shard, append_task));
}

void shard_append(struct shard *s, struct log_append *append)
{
	append->next = NULL;
	if (s->appends_first)
		s->appends_last->next = append;
	else
		s->appends_first = append;
	s->appends_last = append;
	count_add(&s->appends_started, 1);
	loop_defer(s->loop, &s->append_task);
}

void shard_append_done(struct shard *s)
{
	count_add(&s->appends_ended, 1);
}

uint64_t core_pending(const struct core *core)
{
	uint64_t started = 0, ended = 0;

	/* Ended first: what starts in between is then still counted. */
	for (unsigned i = 0; i < core->shard_count; i++)
		ended += count_get(&core->shards[i].appends_ended);
	for (unsigned i = 0; i < core->shard_count; i++)
		started += count_get(&core->shards[i].appends_started);
	return started - ended;
}

/* ---- life ---- */

static int shard_init(struct core *core, unsigned index, struct loop *loop)
{
	struct shard *s = &core->shards[index];

	s->core = core;
	s->index = index;
	s->loop = loop;
	s->append_task.run = shard_append_task;
	producer_shard_init(s);
	memory_shard_init(s);
	fetch_shard_init(s);
	expiry_init(s);
	if (core->null_sink)
		return 0;
	return store_reader_create(core->store, loop, &s->reader);
}

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
	return value ? value : fallback;
}

int core_create(const struct core_options *o, struct core **ret)
{
	struct core *core = calloc(1, sizeof(*core));
	int err;

	if (!core)
		return -ENOMEM;
	core->io = o->io;
	core->log = o->log;
	core->store = o->store;
	core->null_sink = o->null_sink;
	core->message_bytes_max = or_default(o->message_bytes_max, 1024 * MIB);
	core->memory_bytes_max = or_default(o->memory_bytes, 256 * MIB);
	core->publish_bytes_max = or_default(o->publish_bytes_max, 32 * MIB);
	core->expiry_scan_ns = or_default(o->expiry_scan_ns, 30000000000ull);
	atomic_init(&core->next_id, 1);
	err = registry_init(core);
	if (err) {
		free(core);
		return err;
	}
	core->shards = calloc(o->shard_count, sizeof(*core->shards));
	err = core->shards ? 0 : -ENOMEM;
	for (unsigned i = 0; i < o->shard_count && !err; i++) {
		core->shard_count = i + 1;
		err = shard_init(core, i, o->loops[i]);
	}
	if (!err)
		err = rules_set(core, o->rules, o->rule_count);
	if (err) {
		core_free(core);
		return err;
	}
	*ret = core;
	return 0;
}

int core_set_rules(struct core *core, const struct core_address_rule *rules,
		   unsigned rule_count)
{
	return rules_set(core, rules, rule_count);
}

void core_free(struct core *core)
{
	if (!core)
		return;
	table_for_each(&core->queues, node)
		queue_free_messages(container_of(node, struct queue, node));
	for (unsigned i = 0; i < core->shard_count; i++) {
		fetch_shard_fini(&core->shards[i]);
		expiry_fini(&core->shards[i]);
		store_reader_free(core->shards[i].reader);
	}
	registry_free(core);
	free(core->shards);
	free(core);
}

/* ---- recovery ---- */

static int recover_address(void *ctx, const struct record_address *record)
{
	return registry_recover_address(ctx, record);
}

static int recover_queue(void *ctx, const struct store_queue *from)
{
	struct queue *q;
	int err = registry_recover_queue(ctx, &from->record, &q);

	if (!err)
		queue_recover(q, from);
	return err;
}

int core_recover(struct core *core)
{
	int err;

	atomic_store(&core->next_id, base_max(1, store_next_id(core->store)));
	err = store_each_address(core->store, recover_address, core);
	if (!err)
		err = store_each_queue(core->store, recover_queue, core);
	if (!err)
		err = registry_recovered(core);
	/* What has expired meanwhile goes in the first iteration. */
	for (unsigned i = 0; !err && i < core->shard_count; i++)
		if (core->shards[i].gap_due_ms)
			loop_timer_set(core->shards[i].loop,
				       &core->shards[i].expiry_timer, 0);
	return err;
}

/* ---- looking ---- */

struct shard *core_shard(struct core *core, unsigned index)
{
	ASSERT(index < core->shard_count);
	return &core->shards[index];
}

unsigned core_shard_count(const struct core *core)
{
	return core->shard_count;
}

struct loop *shard_loop(struct shard *s)
{
	return s->loop;
}

static void queue_describe(struct queue *q, struct queue_info *info)
{
	uint8_t flags = atomic_load(&q->flags);

	memset(info, 0, sizeof(*info));
	info->id = q->id;
	snprintf(info->name, sizeof(info->name), "%s", q->name);
	info->routing = q->routing;
	info->paused = flags & RECORD_QUEUE_PAUSED;
	info->temporary = flags & RECORD_QUEUE_TEMPORARY;
	info->auto_created = flags & RECORD_QUEUE_AUTO_CREATED;
	info->consumers = (uint32_t)count_get(&q->consumers);
	info->messages = count_get(&q->messages);
	info->delivering = count_get(&q->delivering);
	info->damaged = count_get(&q->damage);
	info->bytes = count_get(&q->bytes);
	info->enqueued = count_get(&q->enqueued);
	info->acknowledged = count_get(&q->acknowledged);
	info->expired = count_get(&q->expired);
	info->dead_lettered = count_get(&q->dead_lettered);
	info->redelivered = count_get(&q->redelivered);
}

/* The address may go while the queue is held: its name is copied under the
 * lock. */
struct queue_view {
	struct queue *queue;
	char *address;
};

static int view_compare(const void *a, const void *b)
{
	const struct queue_view *x = a, *y = b;

	return strcmp(x->queue->name, y->queue->name);
}

static struct queue_view *core_views(struct core *core, size_t *ret_count)
{
	struct queue_view *views;
	size_t count = 0;

	pthread_mutex_lock(&core->lock);
	views = calloc(core->queues.node_count + 1, sizeof(*views));
	if (views) {
		table_for_each(&core->queues, node)
		{
			struct queue *q =
				container_of(node, struct queue, node);

			if (q->state != NODE_LIVE)
				continue;
			views[count].address = strdup(q->address->name);
			views[count++].queue = queue_hold(q);
		}
	}
	pthread_mutex_unlock(&core->lock);
	*ret_count = count;
	return views;
}

int core_each_queue(struct core *core,
		    int (*each)(void *ctx, const struct queue_info *),
		    void *ctx)
{
	size_t count;
	struct queue_view *views = core_views(core, &count);
	struct queue_info *info = malloc(sizeof(*info));
	int ret = views && info ? 0 : -ENOMEM;

	if (!ret)
		qsort(views, count, sizeof(*views), view_compare);
	for (size_t i = 0; views && i < count; i++) {
		if (!ret) {
			queue_describe(views[i].queue, info);
			if (views[i].address)
				snprintf(info->address, sizeof(info->address),
					 "%s", views[i].address);
			ret = each(ctx, info);
		}
		queue_release(views[i].queue);
		free(views[i].address);
	}
	free(info);
	free(views);
	return ret;
}

int core_queue_info(struct core *core, const char *name, struct queue_info *ret)
{
	struct queue *q = registry_find_queue(core, name);

	if (!q)
		return -E_NOT_FOUND;
	queue_describe(q, ret);
	pthread_mutex_lock(&core->lock);
	if (q->state == NODE_LIVE)
		snprintf(ret->address, sizeof(ret->address), "%s",
			 q->address->name);
	pthread_mutex_unlock(&core->lock);
	queue_release(q);
	return 0;
}

void core_stats(struct core *core, struct core_stats *ret)
{
	memset(ret, 0, sizeof(*ret));
	pthread_mutex_lock(&core->lock);
	ret->addresses = core->addresses.node_count;
	ret->queues = core->queues.node_count;
	table_for_each(&core->queues, node)
	{
		struct queue *q = container_of(node, struct queue, node);

		ret->consumers += count_get(&q->consumers);
		ret->messages += count_get(&q->messages);
		ret->message_bytes += count_get(&q->bytes);
	}
	pthread_mutex_unlock(&core->lock);
	ret->memory_bytes = atomic_load(&core->memory_bytes);
	for (unsigned i = 0; i < core->shard_count; i++) {
		const struct shard *s = &core->shards[i];

		ret->producers += count_get(&s->producer_count);
		ret->published += count_get(&s->published);
		ret->published_bytes += count_get(&s->published_bytes);
		ret->delivered += count_get(&s->delivered);
		ret->delivered_bytes += count_get(&s->delivered_bytes);
		ret->acknowledged += count_get(&s->acknowledged);
		ret->redelivered += count_get(&s->redelivered);
		ret->released += count_get(&s->released);
		ret->dead_lettered += count_get(&s->dead_lettered);
		ret->expired += count_get(&s->expired);
		ret->rejected += count_get(&s->rejected);
		ret->unrouted += count_get(&s->unrouted);
	}
}
