/* What an administrator asks of a queue, from any thread. */
#include <string.h>

#include "broker/core/internal.h"

static void command_end(struct loop_mail *mail)
{
	struct core_command *c = container_of(mail, struct core_command, mail);

	queue_release(c->queue);
	c->queue = NULL;
	c->done(c, c->err);
}

static void command_fail(struct core_command *c, struct shard *shard, int err)
{
	c->err = err;
	c->mail.deliver = command_end;
	loop_post(shard->loop, &c->mail);
}

/* ---- create ---- */

static void command_created(struct attach *a)
{
	struct core_command *c = a->context;
	int err = a->err;

	if (!err)
		registry_leave_queue(a->queue);
	attach_free(a);
	c->done(c, err);
}

static void command_create(struct loop_mail *mail)
{
	struct core_command *c = container_of(mail, struct core_command, mail);
	struct shard *shard = &c->core->shards[0];
	struct terminus t = {
		.address = c->address ? c->address : c->name,
		.routing = c->routing ? c->routing : RECORD_ANYCAST,
	};
	struct name_parts name;
	struct attach *a;
	int err = name_parse(c->name, &name);

	if (!err)
		err = attach_create(shard, &t, &a);
	if (err) {
		c->done(c, err);
		return;
	}
	snprintf(a->name.queue, sizeof(a->name.queue), "%s",
		 name.queue[0] ? name.queue : name.address);
	a->want_queue = true;
	a->force = true;
	a->context = c;
	a->done = command_created;
	attach_start(a);
}

/* ---- pause and resume ---- */

struct flags_write {
	struct log_append append;
	struct log_note note;
	struct shard *shard;
	struct core_command *command;
	uint8_t meta[RECORD_QUEUE_ROOM];
};

static void flags_committed(struct loop_mail *mail)
{
	struct flags_write *w =
		container_of(mail, struct flags_write, note.mail);
	struct core_command *c = w->command;
	int err = w->append.err;

	shard_append_done(w->shard);
	free(w);
	queue_release(c->queue);
	c->queue = NULL;
	c->done(c, err);
}

static int command_pause(struct core_command *c, bool pause)
{
	struct queue *q = c->queue;
	uint8_t flags = atomic_load(&q->flags);
	struct record_queue record = {
		.id = q->id,
		.address = q->address->id,
		.name = q->name,
		.name_len = (uint16_t)strlen(q->name),
		.routing = q->routing,
	};
	struct flags_write *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	flags = (uint8_t)(pause ? flags | RECORD_QUEUE_PAUSED
				: flags & ~RECORD_QUEUE_PAUSED);
	record.flags = flags;
	atomic_store(&q->flags, flags);
	w->shard = q->shard;
	w->command = c;
	w->append.type = RECORD_QUEUE;
	w->append.meta = w->meta;
	w->append.meta_len = (uint32_t)record_queue_encode(&record, w->meta);
	w->append.notes = &w->note;
	w->append.note_count = 1;
	w->note.mail.deliver = flags_committed;
	w->note.to = q->shard->loop;
	w->note.append = &w->append;
	shard_append(q->shard, &w->append);
	queue_wake(q);
	return 0;
}

/* ---- on the queue's shard ---- */

static void command_run(struct loop_mail *mail)
{
	struct core_command *c = container_of(mail, struct core_command, mail);
	struct queue *q = c->queue;
	int err = 0;

	if (q->deleted) {
		command_fail(c, q->shard, -E_NOT_FOUND);
		return;
	}
	switch (c->kind) {
	case CORE_QUEUE_DELETE:
		c->ret_count = count_get(&q->messages);
		err = registry_delete_queue(q, REGISTRY_DELETE_ALWAYS, c);
		if (!err) {
			c->queue = NULL;
			queue_forget(q);
			queue_release(q);
			return;
		}
		break;
	case CORE_QUEUE_PURGE:
		if (q->purge) {
			err = -EBUSY;
			break;
		}
		c->queue = NULL;
		ack_purge(q, c);
		queue_release(q);
		return;
	case CORE_QUEUE_PAUSE:
	case CORE_QUEUE_RESUME:
		err = command_pause(c, c->kind == CORE_QUEUE_PAUSE);
		if (!err)
			return;
		break;
	case CORE_QUEUE_CREATE:
		ASSERT(!"a queue that is to be made has no shard yet");
	}
	command_fail(c, q->shard, err);
}

void core_execute(struct core *core, struct core_command *c)
{
	struct shard *shard = &core->shards[0];

	c->core = core;
	c->queue = NULL;
	c->ret_count = 0;
	if (c->kind == CORE_QUEUE_CREATE) {
		c->mail.deliver = command_create;
		loop_post(shard->loop, &c->mail);
		return;
	}
	c->queue = registry_find_queue(core, c->name);
	if (!c->queue) {
		command_fail(c, shard, -E_NOT_FOUND);
		return;
	}
	c->mail.deliver = command_run;
	loop_post(c->queue->shard->loop, &c->mail);
}
