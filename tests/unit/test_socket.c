/* The loop's sockets on both real engines, and loops that end with work in
 * flight. */
#include "tests/unit/engines.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>

/* ---- sockets ---- */

struct pair {
	struct loop *loop;
	struct loop_socket *listener, *client, *server;
};

static void pair_open(struct pair *p, struct io *io, const char *address,
		      const char *connect_to)
{
	struct engines_op accepted = ENGINES_OP, connected = ENGINES_OP;
	int token;

	p->loop = engines_loop(io);
	assert_int_equal(loop_listen(p->loop, address, 0, &p->listener), 0);
	assert_true(loop_socket_port(p->listener));
	loop_accept(p->loop, &accepted.op, p->listener);
	assert_int_equal(loop_connect(p->loop, &connected.op, connect_to,
				      loop_socket_port(p->listener),
				      &p->client),
			 0);
	assert_int_equal(connected.done_count, 0);
	assert_int_equal(engines_wait(p->loop, &connected), 0);
	token = engines_wait(p->loop, &accepted);
	assert_true(token >= 0);
	assert_int_equal(loop_adopt(p->loop, token, &p->server), 0);
}

static void pair_close(struct pair *p)
{
	loop_socket_close(p->client);
	loop_socket_close(p->server);
	loop_socket_close(p->listener);
	loop_free(p->loop);
}

BOTH("two sockets exchange bytes and know each other's address")
{
	struct engines_op sent = ENGINES_OP, received = ENGINES_OP;
	struct pair p;
	char buf[16] = "", expect[64];

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	snprintf(expect, sizeof(expect), "127.0.0.1:%u",
		 loop_socket_port(p.listener));
	assert_string_equal(loop_socket_peer(p.client), expect);
	snprintf(expect, sizeof(expect), "127.0.0.1:%u",
		 loop_socket_port(p.client));
	assert_string_equal(loop_socket_peer(p.server), expect);
	assert_true(loop_socket_peer_is_loopback(p.server));
	/* Receive first, then send: and the other way round. */
	loop_recv(p.loop, &received.op, p.server, buf, sizeof(buf));
	loop_send(p.loop, &sent.op, p.client, "hello", 5);
	assert_int_equal(engines_wait(p.loop, &sent), 5);
	assert_int_equal(engines_wait(p.loop, &received), 5);
	assert_memory_equal(buf, "hello", 5);
	loop_send(p.loop, &sent.op, p.server, "you", 3);
	assert_int_equal(engines_wait(p.loop, &sent), 3);
	loop_recv(p.loop, &received.op, p.client, buf, sizeof(buf));
	assert_int_equal(engines_wait(p.loop, &received), 3);
	/* The end of the stream. */
	loop_recv(p.loop, &received.op, p.client, buf, sizeof(buf));
	loop_socket_close(p.server);
	p.server = NULL;
	assert_int_equal(engines_wait(p.loop, &received), 0);
	pair_close(&p);
}

BOTH("a dual-stack listener shows an IPv4 peer as IPv4")
{
	struct pair p;

	pair_open(&p, io, "::", "127.0.0.1");
	assert_int_equal(strncmp(loop_socket_peer(p.server), "127.0.0.1:", 10),
			 0);
	assert_true(loop_socket_peer_is_loopback(p.server));
	pair_close(&p);
	pair_open(&p, io, "::1", "::1");
	assert_int_equal(strncmp(loop_socket_peer(p.server), "[::1]:", 6), 0);
	assert_true(loop_socket_peer_is_loopback(p.server));
	pair_close(&p);
}

/* The resolver's own: the library's is called for what has no rule here.
 *
 *   two.test    127.0.0.2, where nobody listens, then 127.0.0.1
 *   slow.test   127.0.0.1, once `answer` is posted; says so by `asked` */
static sem_t asked, answer;

typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *,
			   struct addrinfo **);

int getaddrinfo(const char *restrict host, const char *restrict port,
		const struct addrinfo *restrict hints,
		struct addrinfo **restrict ret)
{
	union {
		void *symbol;
		getaddrinfo_fn *call;
	} library = {.symbol = dlsym(RTLD_NEXT, "getaddrinfo")};
	int numeric = hints->ai_flags & AI_NUMERICHOST, r;

	if (!host || numeric || !strstr(host, ".test"))
		return library.call(host, port, hints, ret);
	if (!strcmp(host, "no.test"))
		return EAI_NONAME;
	if (!strcmp(host, "slow.test")) {
		sem_post(&asked);
		sem_wait(&answer);
		return library.call("127.0.0.1", port, hints, ret);
	}
	r = library.call("127.0.0.2", port, hints, ret);
	return r ? r : library.call("127.0.0.1", port, hints, &(*ret)->ai_next);
}

BOTH("a host name is resolved, and each of its addresses is tried")
{
	struct pair p;

	pair_open(&p, io, "127.0.0.1", "localhost");
	pair_close(&p);
	pair_open(&p, io, "127.0.0.1", "two.test");
	assert_int_equal(strncmp(loop_socket_peer(p.client), "127.0.0.1:", 10),
			 0);
	pair_close(&p);
}

BOTH("a connection that nobody takes is refused, a name of nobody fails")
{
	struct engines_op e = ENGINES_OP;
	struct loop_socket *s = NULL;
	struct loop *l = engines_loop(io);
	uint16_t port;

	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &s), 0);
	port = loop_socket_port(s);
	loop_socket_close(s);
	assert_int_equal(loop_connect(l, &e.op, "127.0.0.1", port, &s), 0);
	assert_int_equal(engines_wait(l, &e), -ECONNREFUSED);
	loop_socket_close(s);
	assert_int_equal(loop_connect(l, &e.op, "two.test", port, &s), 0);
	assert_int_equal(engines_wait(l, &e), -ECONNREFUSED);
	loop_socket_close(s);
	assert_int_equal(loop_connect(l, &e.op, "no.test", port, &s), 0);
	assert_int_equal(engines_wait(l, &e), -EHOSTUNREACH);
	loop_socket_close(s);
	loop_free(l);
}

BOTH("who gives up on a name need not wait for its answer")
{
	struct engines_op e = ENGINES_OP;
	struct loop_socket *s = NULL;
	struct loop *l = engines_loop(io);

	sem_init(&asked, 0, 0);
	sem_init(&answer, 0, 0);
	assert_int_equal(loop_connect(l, &e.op, "slow.test", 1, &s), 0);
	sem_wait(&asked);
	loop_socket_shutdown(s);
	assert_int_equal(e.done_count, 0);
	assert_int_equal(engines_wait(l, &e), -ECANCELED);
	loop_socket_close(s);
	sem_post(&answer);
	/* And with the loop. */
	assert_int_equal(loop_connect(l, &e.op, "slow.test", 1, &s), 0);
	sem_wait(&asked);
	loop_free(l);
	assert_int_equal(e.done_count, 0);
	loop_socket_close(s);
	sem_post(&answer);
}

BOTH("a port that is taken is reported")
{
	struct loop_socket *one = NULL, *two = NULL;
	struct loop *l = engines_loop(io);

	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &one), 0);
	assert_int_equal(
		loop_listen(l, "127.0.0.1", loop_socket_port(one), &two),
		-EADDRINUSE);
	assert_null(two);
	loop_socket_close(one);
	loop_free(l);
}

#define BULK ((size_t)4 << 20)

struct bulk {
	struct loop_op send, recv;
	struct loop_socket *from, *to;
	uint8_t *in, *out;
	size_t sent, received;
	int failed;
};

static void bulk_sent(struct loop_op *op, int res)
{
	struct bulk *b = container_of(op, struct bulk, send);

	if (res <= 0)
		b->failed = 1;
	else
		b->sent += (size_t)res;
	if (!b->failed && b->sent < BULK)
		loop_send(op->loop, op, b->from, b->in + b->sent,
			  BULK - b->sent);
}

static void bulk_received(struct loop_op *op, int res)
{
	struct bulk *b = container_of(op, struct bulk, recv);

	if (res <= 0)
		b->failed = 1;
	else
		b->received += (size_t)res;
	if (b->failed || b->received == BULK)
		loop_stop(op->loop);
	else
		loop_recv(op->loop, op, b->to, b->out + b->received,
			  base_min(BULK - b->received, 70001));
}

BOTH("4 MiB go over loopback in pieces and arrive whole, both ways at once")
{
	struct bulk b[2];
	struct pair p;

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	memset(b, 0, sizeof(b));
	for (int i = 0; i < 2; i++) {
		b[i].in = malloc(BULK);
		b[i].out = calloc(1, BULK);
		for (size_t k = 0; k < BULK; k++)
			b[i].in[k] = (uint8_t)((k * 2654435761u) >> (13 + i));
		b[i].from = i ? p.server : p.client;
		b[i].to = i ? p.client : p.server;
		b[i].send.done = bulk_sent;
		b[i].recv.done = bulk_received;
		loop_send(p.loop, &b[i].send, b[i].from, b[i].in, BULK);
		loop_recv(p.loop, &b[i].recv, b[i].to, b[i].out, 70001);
	}
	loop_run(p.loop);
	while (!b[0].failed && !b[1].failed &&
	       (b[0].received < BULK || b[1].received < BULK))
		loop_run(p.loop);
	for (int i = 0; i < 2; i++) {
		assert_false(b[i].failed);
		assert_int_equal(b[i].received, BULK);
		assert_memory_equal(b[i].in, b[i].out, BULK);
		free(b[i].in);
		free(b[i].out);
	}
	pair_close(&p);
}

struct bell {
	struct loop_timer timer;
	struct loop *loop;
	bool rung;
};

static void bell_rings(struct loop_timer *t)
{
	struct bell *bell = container_of(t, struct bell, timer);

	bell->rung = true;
	loop_stop(bell->loop);
}

BOTH("a send into a full socket waits, and shutdown ends it")
{
	struct engines_op sent = ENGINES_OP;
	struct pair p;
	uint8_t *data = calloc(1, BULK);
	size_t total = 0;
	struct bell bell = {.timer = {.fire = bell_rings}};

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	bell.loop = p.loop;
	/* Nobody receives: sends complete until the buffers are full. */
	do {
		loop_send(p.loop, &sent.op, p.client, data, BULK);
		loop_timer_set(p.loop, &bell.timer, 100000000u);
		loop_run(p.loop);
		loop_timer_cancel(p.loop, &bell.timer);
		if (sent.done_count) {
			sent.done_count = 0;
			assert_true(sent.res > 0);
			total += (size_t)sent.res;
		}
	} while (!bell.rung && total < 100 * BULK);
	assert_true(bell.rung);
	loop_socket_shutdown(p.client);
	assert_true(engines_wait(p.loop, &sent) <= (int)BULK);
	loop_send(p.loop, &sent.op, p.client, data, 1);
	assert_int_equal(engines_wait(p.loop, &sent), -EPIPE);
	pair_close(&p);
	free(data);
}

BOTH("shutdown completes a receive and an accept in flight")
{
	struct engines_op received = ENGINES_OP, accepted = ENGINES_OP;
	struct pair p;
	char buf[16];

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	loop_recv(p.loop, &received.op, p.client, buf, sizeof(buf));
	loop_accept(p.loop, &accepted.op, p.listener);
	/* Into the kernel with them, so that they wait there. */
	loop_stop(p.loop);
	loop_run(p.loop);
	assert_int_equal(received.done_count + accepted.done_count, 0);
	loop_socket_shutdown(p.client);
	loop_socket_shutdown(p.listener);
	assert_int_equal(received.done_count + accepted.done_count, 0);
	assert_int_equal(engines_wait(p.loop, &received), 0);
	assert_true(engines_wait(p.loop, &accepted) < 0);
	/* What is started afterwards ends at once, too. */
	loop_recv(p.loop, &received.op, p.client, buf, sizeof(buf));
	assert_int_equal(engines_wait(p.loop, &received), 0);
	loop_accept(p.loop, &accepted.op, p.listener);
	assert_true(engines_wait(p.loop, &accepted) < 0);
	pair_close(&p);
}

static int connect_raw(uint16_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

/* A listener whose queue is full: the kernel drops further SYNs, so that a
 * connect stays in flight. */
struct full {
	int listener, fillers[4];
	uint16_t port;
};

static void full_open(struct full *f)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);

	f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->listener, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(f->listener, 0), 0);
	assert_int_equal(getsockname(f->listener, (struct sockaddr *)&sa, &len),
			 0);
	f->port = ntohs(sa.sin_port);
	for (size_t i = 0; i < ARRAY_COUNT(f->fillers); i++) {
		f->fillers[i] = socket(
			AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(f->fillers[i], (struct sockaddr *)&sa, len);
	}
}

static void full_close(struct full *f)
{
	for (size_t i = 0; i < ARRAY_COUNT(f->fillers); i++)
		close(f->fillers[i]);
	close(f->listener);
}

BOTH("shutdown ends a connect that gets no answer")
{
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct loop_socket *s = NULL;
	struct full f;

	full_open(&f);
	for (int entered = 0; entered < 2; entered++) {
		assert_int_equal(
			loop_connect(l, &e.op, "127.0.0.1", f.port, &s), 0);
		if (entered) {
			loop_stop(l);
			loop_run(l);
			assert_int_equal(e.done_count, 0);
		}
		loop_socket_shutdown(s);
		assert_int_equal(engines_wait(l, &e), -ECANCELED);
		loop_socket_close(s);
	}
	full_close(&f);
	loop_free(l);
}

BOTH("a peer that has gone is an error to a sender, not a signal")
{
	struct engines_op sent = ENGINES_OP;
	struct pair p;
	int r = 1;

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	loop_socket_close(p.server);
	p.server = NULL;
	for (int i = 0; r > 0 && i < 100; i++) {
		loop_send(p.loop, &sent.op, p.client, "x", 1);
		r = engines_wait(p.loop, &sent);
	}
	assert_true(r == -EPIPE || r == -ECONNRESET);
	pair_close(&p);
}

BOTH("a token that is refused, or whose peer has reset, leaves nothing open")
{
	struct linger now = {.l_onoff = 1};
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct loop_socket *listener = NULL, *s = NULL;
	int fd, token, before;

	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &listener), 0);
	before = engines_fd_count();
	for (int reset = 0; reset < 2; reset++) {
		fd = connect_raw(loop_socket_port(listener));
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		if (reset)
			close(fd);
		loop_accept(l, &e.op, listener);
		token = engines_wait(l, &e);
		assert_true(token >= 0);
		if (reset) {
			assert_int_equal(loop_adopt(l, token, &s), -ENOTCONN);
		} else {
			loop_refuse(l, token);
			close(fd);
		}
	}
	assert_int_equal(engines_fd_count(), before);
	loop_socket_close(listener);
	loop_free(l);
}

BOTH("what was started before a write that is waited for is on its way")
{
	struct engines_op accepted = ENGINES_OP, sent = ENGINES_OP;
	struct engines_op written = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct loop_socket *listener = NULL, *s = NULL;
	struct io_file *file = NULL;
	char path[512], byte = 0;
	int fd;

	test_directory();
	test_path(path, sizeof(path), "f");
	assert_int_equal(io_open(io, path, IO_WRITE | IO_CREATE, &file), 0);
	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &listener), 0);
	fd = connect_raw(loop_socket_port(listener));
	loop_accept(l, &accepted.op, listener);
	assert_int_equal(loop_adopt(l, engines_wait(l, &accepted), &s), 0);
	loop_send(l, &sent.op, s, "x", 1);
	loop_write_durable_now(l, &written.op, file, "y", 1, 0);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(written.done_count, 0);
	assert_int_equal(engines_wait(l, &written), 1);
	if (!sent.done_count)
		assert_int_equal(engines_wait(l, &sent), 1);
	loop_socket_close(s);
	loop_socket_close(listener);
	close(fd);
	io_close(file);
	loop_free(l);
}

/* ---- ending with work in flight ---- */

struct busy_end {
	struct pair pair;
	struct full full;
	struct loop_socket *connecting;
	struct io_file *file;
	uint8_t *data, *received;
	struct engines_op write, read, plain, recv, accept, connect, send;
};

/* One of everything, on memory that is freed right after the loop. */
static void busy_end_start(void *ctx)
{
	struct busy_end *b = ctx;
	struct loop *l = b->pair.loop;

	loop_write_durable(l, &b->write.op, b->file, b->data, 64 * IO_BLOCK, 0);
	loop_write(l, &b->plain.op, b->file, b->data, 64 * IO_BLOCK,
		   64 * IO_BLOCK);
	loop_read(l, &b->read.op, b->file, b->data + 64 * IO_BLOCK,
		  64 * IO_BLOCK, 128 * IO_BLOCK);
	loop_recv(l, &b->recv.op, b->pair.server, b->received, 4096);
	loop_accept(l, &b->accept.op, b->pair.listener);
	loop_send(l, &b->send.op, b->pair.client, b->data, 10);
	if (loop_connect(l, &b->connect.op, "127.0.0.1", b->full.port,
			 &b->connecting))
		abort();
}

static void busy_end_open(struct busy_end *b, struct io *io)
{
	const struct engines_op op = ENGINES_OP;
	char path[512];

	test_directory();
	test_path(path, sizeof(path), "f");
	memset(b, 0, sizeof(*b));
	b->write = b->read = b->plain = op;
	b->recv = b->accept = b->connect = b->send = op;
	assert_int_equal(
		io_open(io, path, IO_WRITE | IO_CREATE | IO_DIRECT, &b->file),
		0);
	assert_int_equal(io_allocate(b->file, 256 * IO_BLOCK), 0);
	b->data = io_buffer_alloc(128 * IO_BLOCK);
	b->received = malloc(4096);
	full_open(&b->full);
	pair_open(&b->pair, io, "127.0.0.1", "127.0.0.1");
}

static void busy_end_close(struct busy_end *b)
{
	io_buffer_free(b->data);
	free(b->received);
	loop_socket_close(b->connecting);
	loop_socket_close(b->pair.client);
	loop_socket_close(b->pair.server);
	loop_socket_close(b->pair.listener);
	io_close(b->file);
	full_close(&b->full);
}

BOTH("a loop is freed with one of everything in flight, without callbacks")
{
	int before = engines_fd_count(), fd;
	struct busy_end b;

	/* Started and never entered the kernel; and entered once. */
	for (int entered = 0; entered < 2; entered++) {
		busy_end_open(&b, io);
		busy_end_start(&b);
		if (entered) {
			loop_stop(b.pair.loop);
			loop_run(b.pair.loop);
		}
		assert_int_equal(b.accept.done_count, 0);
		b.recv.done_count = 0;
		/* Completes the accept behind the loop's back. */
		fd = connect_raw(loop_socket_port(b.pair.listener));
		loop_free(b.pair.loop);
		close(fd);
		assert_int_equal(b.recv.done_count, 0);
		assert_int_equal(b.accept.done_count, 0);
		assert_int_equal(b.connect.done_count, 0);
		busy_end_close(&b);
	}
	assert_int_equal(engines_fd_count(), before);
}

BOTH("a write in flight is over when its loop has been freed")
{
	const size_t len = (size_t)16 << 20;
	uint8_t *in = io_buffer_alloc(len), *out = io_buffer_alloc(len);
	struct engines_op e = ENGINES_OP;
	struct loop *l = engines_loop(io);
	struct io_file *file = NULL;
	char path[512];
	size_t got = 0;

	test_directory();
	test_path(path, sizeof(path), "f");
	assert_int_equal(
		io_open(io, path, IO_WRITE | IO_CREATE | IO_DIRECT, &file), 0);
	assert_int_equal(io_allocate(file, len), 0);
	memset(in, 0x5a, len);
	loop_write_durable(l, &e.op, file, in, len, 0);
	loop_stop(l);
	loop_run(l);
	loop_free(l);
	assert_int_equal(io_read(file, out, len, 0, &got), 0);
	assert_int_equal(got, len);
	assert_memory_equal(in, out, len);
	io_close(file);
	io_buffer_free(in);
	io_buffer_free(out);
}

BOTH("a thread ends with one of everything in flight")
{
	struct busy_end b;
	struct loop *l;

	/* A loop that ran on this thread stays with it: the operations are
	 * those of a new one. */
	busy_end_open(&b, io);
	loop_socket_close(b.pair.client);
	loop_socket_close(b.pair.server);
	loop_socket_close(b.pair.listener);
	loop_free(b.pair.loop);
	b.pair.loop = l = engines_loop(io);
	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &b.pair.listener), 0);
	b.pair.client = b.pair.server = NULL;
	loop_accept(l, &b.accept.op, b.pair.listener);
	loop_write_durable(l, &b.write.op, b.file, b.data, 64 * IO_BLOCK, 0);
	assert_int_equal(loop_connect(l, &b.connect.op, "127.0.0.1",
				      b.full.port, &b.connecting),
			 0);
	loop_stop(l);
	assert_int_equal(loop_start(l, NULL, NULL), 0);
	loop_join(l);
	busy_end_close(&b);
	loop_free(l);
}

BOTH("a socket may be closed after its loop was freed")
{
	struct pair p;

	pair_open(&p, io, "127.0.0.1", "127.0.0.1");
	loop_free(p.loop);
	loop_socket_shutdown(p.client);
	p.loop = NULL;
	pair_close(&p);
}

/* ---- an accepted connection moves to another thread ---- */

struct handover {
	struct loop_mail mail;
	struct loop *loop;
	struct loop_socket *socket;
	struct loop_op op;
	int token, adopted;
	char buf[16];
};

static void handover_sent(struct loop_op *op, int res)
{
	struct handover *h = container_of(op, struct handover, op);

	loop_socket_close(h->socket);
	loop_stop(op->loop);
}

static void handover_received(struct loop_op *op, int res)
{
	struct handover *h = container_of(op, struct handover, op);

	h->op.done = handover_sent;
	loop_send(op->loop, op, h->socket, h->buf, res > 0 ? (size_t)res : 0);
}

static void handover_deliver(struct loop_mail *mail)
{
	struct handover *h = container_of(mail, struct handover, mail);

	h->adopted = loop_adopt(h->loop, h->token, &h->socket);
	if (h->adopted) {
		loop_stop(h->loop);
		return;
	}
	h->op.done = handover_received;
	loop_recv(h->loop, &h->op, h->socket, h->buf, sizeof(h->buf));
}

BOTH("a token is adopted by a loop on another thread, which echoes")
{
	struct engines_op a = ENGINES_OP, c = ENGINES_OP, e = ENGINES_OP;
	struct handover h = {.mail.deliver = handover_deliver};
	struct loop_socket *listener = NULL, *client = NULL;
	struct loop *l = engines_loop(io);
	char buf[16];

	h.loop = engines_loop(io);
	assert_int_equal(loop_start(h.loop, NULL, NULL), 0);
	assert_int_equal(loop_listen(l, "127.0.0.1", 0, &listener), 0);
	loop_accept(l, &a.op, listener);
	assert_int_equal(loop_connect(l, &c.op, "127.0.0.1",
				      loop_socket_port(listener), &client),
			 0);
	assert_int_equal(engines_wait(l, &c), 0);
	h.token = engines_wait(l, &a);
	assert_true(h.token >= 0);
	loop_post(h.loop, &h.mail);
	loop_send(l, &e.op, client, "ping", 4);
	assert_int_equal(engines_wait(l, &e), 4);
	loop_recv(l, &e.op, client, buf, sizeof(buf));
	assert_int_equal(engines_wait(l, &e), 4);
	assert_memory_equal(buf, "ping", 4);
	loop_join(h.loop);
	assert_int_equal(h.adopted, 0);
	loop_socket_close(client);
	loop_socket_close(listener);
	loop_free(h.loop);
	loop_free(l);
}

TEST_MAIN()
