/* tests/unit/load_peer.h: a broker that can be told to misbehave.
 *
 * beanstalkd's protocol, as much of it as the load generator speaks, with
 * tubes in memory; one thread, which owns everything but the counters. */
#ifndef TESTS_UNIT_LOAD_PEER_H
#define TESTS_UNIT_LOAD_PEER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>

#include "base/base.h"
#include "tests/unit/test.h"

#define PEER_CLIENTS 32u
#define PEER_BUFFER (1u << 20)

struct peer_job {
	struct peer_job *next;
	char tube[32];
	size_t len;
	uint8_t body[];
};

struct peer_client {
	int fd;
	uint8_t *in;
	size_t in_len;
	char tube[32]; /* of puts */
	char watched[8][32];
	unsigned watched_count;
	bool waits; /* in a reserve */
};

struct peer {
	/* the test's, before peer_start() */
	uint64_t lose_at, double_at,
		damage_at;  /* the n-th put, from 1; 0: no */
	uint64_t swap_at;   /* goes in front of the one before it */
	uint64_t refuse_at; /* is answered with DRAINING */
	uint64_t vanish_at; /* every connection ends */
	uint64_t stall_at;  /* nothing happens for stall_ms */
	unsigned stall_ms;
	unsigned late_ms; /* listens only then */
	/* readable */
	uint16_t port;
	_Atomic uint64_t puts;
	/* private */
	pthread_t thread;
	_Atomic bool over;
	int listener;
	struct peer_client clients[PEER_CLIENTS];
	struct peer_job *first, **last;
};

static inline void peer_sleep(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000,
			     .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static inline void peer_say(struct peer_client *c, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len && c->fd >= 0) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

static inline void peer_say_text(struct peer_client *c, const char *text)
{
	peer_say(c, text, strlen(text));
}

static inline bool peer_watches(const struct peer_client *c, const char *tube)
{
	for (unsigned i = 0; i < c->watched_count; i++) {
		if (!strcmp(c->watched[i], tube))
			return true;
	}
	return false;
}

static inline void peer_deliver(struct peer *p, struct peer_client *c)
{
	char line[64];
	uint8_t *all;
	size_t len;

	for (struct peer_job **at = &p->first; *at && c->waits;) {
		struct peer_job *job = *at;

		if (!peer_watches(c, job->tube)) {
			at = &job->next;
			continue;
		}
		*at = job->next;
		if (p->last == &job->next)
			p->last = at;
		len = (size_t)snprintf(line, sizeof(line), "RESERVED 1 %zu\r\n",
				       job->len);
		all = malloc(len + job->len + 2);
		memcpy(all, line, len);
		memcpy(all + len, job->body, job->len);
		memcpy(all + len + job->len, "\r\n", 2);
		peer_say(c, all, len + job->len + 2);
		free(all);
		c->waits = false;
		free(job);
	}
}

static inline void peer_keep(struct peer *p, const char *tube,
			     const uint8_t *body, size_t len, bool in_front)
{
	struct peer_job *job = malloc(sizeof(*job) + len);

	job->len = len;
	memcpy(job->body, body, len);
	snprintf(job->tube, sizeof(job->tube), "%s", tube);
	if (in_front) {
		job->next = p->first;
		if (!p->first)
			p->last = &job->next;
		p->first = job;
	} else {
		job->next = NULL;
		*p->last = job;
		p->last = &job->next;
	}
}

static inline void peer_put(struct peer *p, struct peer_client *c,
			    uint8_t *body, size_t len)
{
	uint64_t n = ++p->puts;

	if (n == p->stall_at)
		peer_sleep(p->stall_ms);
	if (p->vanish_at && n > p->vanish_at)
		return; /* what was still on its way */
	if (n == p->vanish_at) {
		for (unsigned i = 0; i < PEER_CLIENTS; i++) {
			if (p->clients[i].fd >= 0)
				shutdown(p->clients[i].fd, SHUT_RDWR);
		}
		return;
	}
	if (n == p->refuse_at) {
		peer_say_text(c, "DRAINING\r\n");
		return;
	}
	if (n == p->damage_at)
		body[len - 1] ^= 1;
	if (n != p->lose_at)
		peer_keep(p, c->tube, body, len, n == p->swap_at);
	if (n == p->double_at)
		peer_keep(p, c->tube, body, len, false);
	peer_say_text(c, "INSERTED 1\r\n");
}

/* One command; how long it was, 0 when it is not whole. */
static inline size_t peer_obey(struct peer *p, struct peer_client *c,
			       uint8_t *in, size_t len)
{
	uint8_t *end = memmem(in, len, "\r\n", 2);
	size_t line = end ? (size_t)(end - in) + 2 : 0, size;
	char text[128];

	if (!line)
		return 0;
	snprintf(text, sizeof(text), "%.*s", (int)line - 2, (char *)in);
	if (sscanf(text, "put %*u %*u %*u %zu", &size) == 1) {
		if (len - line < size + 2)
			return 0;
		peer_put(p, c, in + line, size);
		return line + size + 2;
	}
	if (!strcmp(text, "list-tube-used")) {
		peer_say_text(c, "USING default\r\n");
	} else if (sscanf(text, "use %31s", c->tube) == 1) {
		peer_say_text(c, "USING x\r\n");
	} else if (!strncmp(text, "watch ", 6)) {
		snprintf(c->watched[c->watched_count++ % 8], 32, "%.31s",
			 text + 6);
		peer_say_text(c, "WATCHING 2\r\n");
	} else if (!strncmp(text, "ignore ", 7)) {
		peer_say_text(c, "WATCHING 1\r\n");
	} else if (!strcmp(text, "reserve")) {
		c->waits = true;
	} else if (!strncmp(text, "delete ", 7)) {
		peer_say_text(c, "DELETED\r\n");
	} else {
		peer_say_text(c, "UNKNOWN_COMMAND\r\n");
	}
	return line;
}

static inline void peer_serve(struct peer *p, struct peer_client *c)
{
	ssize_t got =
		recv(c->fd, c->in + c->in_len, PEER_BUFFER - c->in_len, 0);
	size_t at = 0, n;

	if (got <= 0) {
		close(c->fd);
		free(c->in);
		*c = (struct peer_client){.fd = -1};
		return;
	}
	c->in_len += (size_t)got;
	while ((n = peer_obey(p, c, c->in + at, c->in_len - at)))
		at += n;
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
}

static inline void peer_accept(struct peer *p)
{
	int fd = accept(p->listener, NULL, NULL), on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	for (unsigned i = 0; i < PEER_CLIENTS && fd >= 0; i++) {
		struct peer_client *c = &p->clients[i];

		if (c->fd >= 0)
			continue;
		*c = (struct peer_client){.fd = fd, .in = malloc(PEER_BUFFER)};
		return;
	}
	close(fd);
}

static inline void *peer_main(void *arg)
{
	struct peer *p = arg;
	struct pollfd fds[PEER_CLIENTS + 1];

	if (p->late_ms) {
		peer_sleep(p->late_ms);
		if (listen(p->listener, 64))
			return NULL;
	}
	while (!p->over) {
		for (unsigned i = 0; i < PEER_CLIENTS; i++)
			fds[i] = (struct pollfd){.fd = p->clients[i].fd,
						 .events = POLLIN};
		fds[PEER_CLIENTS] =
			(struct pollfd){.fd = p->listener, .events = POLLIN};
		if (poll(fds, PEER_CLIENTS + 1, 5) < 0)
			break;
		for (unsigned i = 0; i < PEER_CLIENTS; i++) {
			if (fds[i].fd >= 0 && fds[i].revents)
				peer_serve(p, &p->clients[i]);
		}
		if (fds[PEER_CLIENTS].revents)
			peer_accept(p);
		for (unsigned i = 0; i < PEER_CLIENTS; i++)
			peer_deliver(p, &p->clients[i]);
	}
	return NULL;
}

static inline void peer_start(struct peer *p)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	p->last = &p->first;
	for (unsigned i = 0; i < PEER_CLIENTS; i++)
		p->clients[i].fd = -1;
	p->listener = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(p->listener >= 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(p->listener, (struct sockaddr *)&at, &len),
			 0);
	p->port = ntohs(at.sin_port);
	if (!p->late_ms)
		assert_int_equal(listen(p->listener, 64), 0);
	assert_int_equal(pthread_create(&p->thread, NULL, peer_main, p), 0);
}

static inline void peer_stop(struct peer *p)
{
	p->over = true;
	pthread_join(p->thread, NULL);
	close(p->listener);
	for (unsigned i = 0; i < PEER_CLIENTS; i++) {
		if (p->clients[i].fd >= 0)
			close(p->clients[i].fd);
		free(p->clients[i].in);
	}
	while (p->first) {
		struct peer_job *next = p->first->next;

		free(p->first);
		p->first = next;
	}
}

#endif
