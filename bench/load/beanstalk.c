/* bench/load/beanstalk.c: beanstalkd's protocol.
 *
 * A queue is a tube.  A message is a put, confirmed by INSERTED; commands are
 * pipelined, answers come in order.  A receiver reserves and deletes one by
 * one: a reserve that waits would hold up the deletes behind it, so there is
 * never one ahead of them.  So its credit is always 1. */
#include <string.h>

#include "bench/load/protocol.h"

#define TTR_S 3600u
#define LINE_BYTES_MAX 4096u
#define PEER_TEXT_MAX 160

struct beanstalk {
	uint64_t confirmed;
	uint32_t used;	  /* the lane that puts go to; lane_count: none yet */
	uint32_t watched; /* WATCHING answers that are still to come */
	bool answered;	  /* the hello of a sender */
	bool deleting, reserving;
	unsigned long long job; /* to be deleted; 0: none */
};

static bool begins(const uint8_t *p, size_t len, const char *word)
{
	size_t n = strlen(word);

	return len >= n && !memcmp(p, word, n);
}

static void fail_line(struct wire *w, const char *what, const uint8_t *p,
		      size_t len)
{
	wire_fail(w, "%s: the peer said \"%.*s\"", what,
		  (int)base_min(len, PEER_TEXT_MAX), (const char *)p);
}

static int beanstalk_open(struct wire *w)
{
	struct beanstalk *b = w->part;

	b->used = w->lane_count;
	if (w->role != WIRE_RECEIVER) {
		/* Anything that shows that it is beanstalkd. */
		wire_putf(w, "list-tube-used\r\n");
		return 0;
	}
	for (uint32_t i = 0; i < w->lane_count; i++)
		wire_putf(w, "watch %s\r\n", w->lanes[i].queue);
	wire_putf(w, "ignore default\r\n");
	b->watched = w->lane_count + 1;
	return 0;
}

static void beanstalk_send(struct wire *w, uint32_t lane)
{
	struct beanstalk *b = w->part;

	if (b->used != lane)
		wire_putf(w, "use %s\r\n", w->lanes[lane].address);
	b->used = lane;
	wire_putf(w, "put 1024 0 %u %zu\r\n", TTR_S, w->payload.len);
	wire_put_payload(w);
	wire_put(w, "\r\n", 2);
}

static void on_put(struct wire *w, const uint8_t *p, size_t len)
{
	struct beanstalk *b = w->part;
	enum wire_outcome outcome = WIRE_ACCEPTED;

	if (begins(p, len, "USING "))
		return;
	if (begins(p, len, "BURIED") || begins(p, len, "JOB_TOO_BIG") ||
	    begins(p, len, "DRAINING") || begins(p, len, "OUT_OF_MEMORY")) {
		wire_remark(w, (const char *)p, len);
		outcome = WIRE_REJECTED;
	} else if (!begins(p, len, "INSERTED ")) {
		fail_line(w, "put", p, len);
		return;
	}
	w->confirmed(w, b->confirmed, b->confirmed, outcome);
	b->confirmed++;
}

/* "RESERVED <id> <bytes>" and the bytes. */
static size_t on_reserved(struct wire *w, const uint8_t *p, size_t line,
			  size_t len)
{
	struct beanstalk *b = w->part;
	unsigned long long id, size;
	char text[80];

	snprintf(text, sizeof(text), "%.*s", (int)line - 2, (const char *)p);
	if (sscanf(text, "RESERVED %llu %llu", &id, &size) != 2 ||
	    size > PAYLOAD_BYTES_MAX) {
		fail_line(w, "reserve", p, line - 2);
		return 0;
	}
	if (len - line < size + 2)
		return 0;
	b->reserving = false;
	b->job = id;
	/* A job says neither its tube nor whether it was reserved before. */
	w->arrived(w, w->lane_count > 1 ? WIRE_ANY_LANE : 0, p + line, size,
		   false);
	return line + size + 2;
}

static size_t on_receiver(struct wire *w, const uint8_t *p, size_t line,
			  size_t len)
{
	struct beanstalk *b = w->part;

	if (begins(p, line, "RESERVED "))
		return on_reserved(w, p, line, len);
	if (b->watched && begins(p, line, "WATCHING ")) {
		if (--b->watched == 0)
			wire_become_ready(w);
	} else if (b->deleting && begins(p, line, "DELETED")) {
		b->deleting = false;
	} else {
		fail_line(w, b->deleting ? "delete" : "reserve", p, line - 2);
	}
	return line;
}

static size_t beanstalk_input(struct wire *w, const uint8_t *p, size_t len)
{
	struct beanstalk *b = w->part;
	const uint8_t *end = memchr(p, '\n', base_min(len, LINE_BYTES_MAX));
	size_t line = end ? (size_t)(end - p) + 1 : 0;

	if ((!end && len >= LINE_BYTES_MAX) || (end && line < 3) ||
	    (end && end[-1] != '\r')) {
		fail_line(w, "the peer is not beanstalkd", p, len);
		return 0;
	}
	if (!end)
		return 0;
	if (w->role == WIRE_RECEIVER)
		return on_receiver(w, p, line, len);
	if (b->answered) {
		on_put(w, p, line - 2);
	} else if (begins(p, line, "USING ")) {
		b->answered = true;
		wire_become_ready(w);
	} else {
		fail_line(w, "the peer is not beanstalkd", p, line - 2);
	}
	return line;
}

static void beanstalk_flush(struct wire *w, uint64_t now_ns)
{
	struct beanstalk *b = w->part;

	if (w->role != WIRE_RECEIVER || w->state < WIRE_READY)
		return;
	if (b->job) {
		wire_putf(w, "delete %llu\r\n", b->job);
		b->deleting = true;
		b->job = 0;
	}
	if (w->state == WIRE_CLOSING && !b->deleting)
		w->state = WIRE_CLOSED;
	if (w->state == WIRE_READY && !b->reserving) {
		wire_putf(w, "reserve\r\n");
		b->reserving = true;
	}
}

static void beanstalk_close(struct wire *w)
{
	struct beanstalk *b = w->part;

	if (!b->deleting && !b->job)
		w->state = WIRE_CLOSED;
}

const struct protocol protocol_beanstalk = {
	.name = "beanstalk",
	.peers = "beanstalkd",
	.port = 11300,
	.setup = PROTOCOL_SETUP_NEVER,
	.part_bytes = sizeof(struct beanstalk),
	.open = beanstalk_open,
	.input = beanstalk_input,
	.send = beanstalk_send,
	.flush = beanstalk_flush,
	.close = beanstalk_close,
};
