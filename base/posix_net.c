/* base/posix_net.c: sockets, name resolution and loop threads of the two real
 * engines.
 *
 * A host name is resolved on a detached thread, because getaddrinfo() blocks
 * for as long as a name server likes.  The request belongs to that thread
 * until it is posted to the loop, and to the loop from then on; a loop that
 * gives up earlier takes itself out of the request.  resolve_lock guards who
 * owns it. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "base/posix.h"

struct posix_resolve {
	struct loop_mail mail;
	struct loop *loop; /* NULL: nobody waits any more */
	bool posted;
	struct loop_op *op;
	char host[256], port[8];
	struct addrinfo *result;
	int err;
};

static pthread_mutex_t resolve_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- life of a loop ---- */

void posix_net_loop_init(struct loop *l, struct posix_loop *p, int socket_flags,
			 void (*quiesce)(struct loop *))
{
	list_init(&p->sockets);
	p->ready = NULL;
	p->ready_tail = &p->ready;
	p->socket_flags = socket_flags;
	p->quiesce = quiesce;
	l->engine = p;
}

static void *thread_main(void *arg)
{
	struct loop *l = arg;

	loop_thread_main(l);
	/* Here and not in loop_free(): the kernel lets only this thread wait
	 * for what it submitted. */
	posix_loop(l)->quiesce(l);
	return NULL;
}

int posix_net_loop_start(struct loop *l)
{
	int r;

	l->has_thread = true;
	r = posix_thread(&l->thread, l->name, thread_main, l);
	if (r)
		l->has_thread = false;
	return r;
}

void posix_net_loop_join(struct loop *l)
{
	pthread_join(l->thread, NULL);
	l->has_thread = false;
}

void posix_net_ready(struct loop_op *op, int res)
{
	struct posix_loop *p = posix_loop(op->loop);

	op->res = res;
	op->next = NULL;
	*p->ready_tail = op;
	p->ready_tail = &op->next;
	op->loop->ready = true;
}

bool posix_net_has_ready(const struct loop *l)
{
	return posix_loop(l)->ready != NULL;
}

/* ---- addresses ---- */

static int is_loopback(const struct sockaddr *sa)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;

	if (sa->sa_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	if (sa->sa_family != AF_INET6)
		return 0;
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return v6->sin6_addr.s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

static void set_peer(struct loop_socket *s, const struct sockaddr *sa)
{
	const struct sockaddr_in *v4 = (const void *)sa;
	const struct sockaddr_in6 *v6 = (const void *)sa;
	char text[INET6_ADDRSTRLEN] = "";

	s->peer_is_loopback = is_loopback(sa);
	if (sa->sa_family == AF_INET) {
		inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
		snprintf(s->peer, sizeof(s->peer), "%s:%u", text,
			 ntohs(v4->sin_port));
	} else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
		inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text,
			  sizeof(text));
		snprintf(s->peer, sizeof(s->peer), "%s:%u", text,
			 ntohs(v6->sin6_port));
	} else {
		inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
		snprintf(s->peer, sizeof(s->peer), "[%s]:%u", text,
			 ntohs(v6->sin6_port));
	}
}

static int resolve(const char *host, const char *port, int flags,
		   struct addrinfo **ret)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = flags | AI_NUMERICSERV,
	};

	switch (getaddrinfo(host, port, &hints, ret)) {
	case 0:
		return 0;
	case EAI_MEMORY:
		return -ENOMEM;
	case EAI_SYSTEM:
		return errno ? -errno : -EHOSTUNREACH;
	default:
		return -EHOSTUNREACH;
	}
}

static void set_nodelay(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- making sockets ---- */

static struct posix_socket *socket_alloc(struct loop *l, int fd)
{
	struct posix_socket *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->base.loop = l;
	s->base.fd = fd;
	list_push(&posix_loop(l)->sockets, &s->node);
	return s;
}

static int listen_on(const struct addrinfo *ai, int flags, int *ret_fd)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	int on = 1, off = 0, r;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off,
				 sizeof(off));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, SOMAXCONN)) {
		r = -errno;
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static uint16_t bound_port(int fd)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return 0;
	if (ss.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)(void *)&ss)->sin6_port);
	return ntohs(((struct sockaddr_in *)(void *)&ss)->sin_port);
}

int posix_net_listen(struct loop *l, const char *address, uint16_t port,
		     struct loop_socket **ret)
{
	struct addrinfo *all = NULL;
	struct posix_socket *s;
	char service[8];
	int fd = -1, r;

	snprintf(service, sizeof(service), "%u", port);
	r = resolve(address && *address ? address : NULL, service, AI_PASSIVE,
		    &all);
	if (r)
		return r;
	r = -EADDRNOTAVAIL;
	for (struct addrinfo *ai = all; ai && fd < 0; ai = ai->ai_next)
		r = listen_on(ai, posix_loop(l)->socket_flags, &fd);
	freeaddrinfo(all);
	if (fd < 0)
		return r;
	s = socket_alloc(l, fd);
	if (!s) {
		close(fd);
		return -ENOMEM;
	}
	s->base.port = bound_port(fd);
	*ret = &s->base;
	return 0;
}

int posix_net_adopt(struct loop *l, int token, struct loop_socket **ret)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	struct posix_socket *s;
	int r;

	if (getpeername(token, (struct sockaddr *)&ss, &len)) {
		r = -errno;
		close(token);
		return r;
	}
	s = socket_alloc(l, token);
	if (!s) {
		close(token);
		return -ENOMEM;
	}
	set_nodelay(token);
	set_peer(&s->base, (struct sockaddr *)&ss);
	s->base.port = bound_port(token);
	*ret = &s->base;
	return 0;
}

void posix_net_refuse(struct loop *l, int token)
{
	close(token);
}

/* ---- connecting ---- */

const struct sockaddr *posix_net_address(const struct loop_op *op,
					 socklen_t *ret_len)
{
	const struct posix_socket *s = posix_socket(op->socket);

	*ret_len = s->address->ai_addrlen;
	return s->address->ai_addr;
}

/* From s->address on, start on the first address that a socket can be made
 * for. */
static int try_address(struct posix_socket *s)
{
	struct loop *l = s->base.loop;
	int r = -EHOSTUNREACH;

	for (; s->address; s->address = s->address->ai_next) {
		int fd = socket(s->address->ai_family,
				SOCK_STREAM | SOCK_CLOEXEC |
					posix_loop(l)->socket_flags,
				0);

		if (fd < 0) {
			r = -errno;
			continue;
		}
		set_nodelay(fd);
		set_peer(&s->base, s->address->ai_addr);
		s->base.fd = fd;
		s->watched = false;
		s->connecting->fd = fd;
		l->io->ops->submit(l, s->connecting);
		return 0;
	}
	return r;
}

static void drop_addresses(struct posix_socket *s)
{
	if (s->addresses)
		freeaddrinfo(s->addresses);
	s->addresses = s->address = NULL;
}

static void connect_end(struct posix_socket *s, int res)
{
	struct loop_op *op = s->connecting;

	s->connecting = NULL;
	drop_addresses(s);
	loop_complete(op, res);
}

void posix_net_connected(struct loop_op *op, int res)
{
	struct posix_socket *s = posix_socket(op->socket);

	if (s->shut) {
		connect_end(s, -ECANCELED);
		return;
	}
	if (res && s->address->ai_next) {
		s->address = s->address->ai_next;
		close(s->base.fd);
		s->base.fd = -1;
		res = try_address(s);
		if (!res)
			return;
	}
	if (!res)
		s->base.port = bound_port(s->base.fd);
	connect_end(s, res);
}

static void resolve_free(struct posix_resolve *q)
{
	if (q->result)
		freeaddrinfo(q->result);
	free(q);
}

/* On the loop: the name has addresses, or has none. */
static void resolved(struct loop_mail *mail)
{
	struct posix_resolve *q =
		container_of(mail, struct posix_resolve, mail);
	struct posix_socket *s = posix_socket(q->op->socket);
	int r = s->shut ? -ECANCELED : q->err;

	/* Its thread may still be inside loop_post(), and must have left it
	 * before the loop can go. */
	pthread_mutex_lock(&resolve_lock);
	pthread_mutex_unlock(&resolve_lock);
	s->resolve = NULL;
	s->addresses = s->address = q->result;
	q->result = NULL;
	resolve_free(q);
	if (!r)
		r = try_address(s);
	if (r)
		connect_end(s, r);
}

static void *resolve_main(void *arg)
{
	struct posix_resolve *q = arg;
	bool wanted;

	q->err = resolve(q->host, q->port, AI_ADDRCONFIG, &q->result);
	pthread_mutex_lock(&resolve_lock);
	wanted = q->loop != NULL;
	q->posted = wanted;
	if (wanted)
		loop_post(q->loop, &q->mail);
	pthread_mutex_unlock(&resolve_lock);
	if (!wanted)
		resolve_free(q);
	return NULL;
}

static int resolve_start(struct posix_socket *s, const char *host,
			 const char *port)
{
	struct posix_resolve *q;
	pthread_t thread;
	int r;

	if (strlen(host) >= sizeof(q->host))
		return -EINVAL;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->mail.deliver = resolved;
	q->loop = s->base.loop;
	q->op = s->connecting;
	snprintf(q->host, sizeof(q->host), "%s", host);
	snprintf(q->port, sizeof(q->port), "%s", port);
	s->resolve = q;
	r = posix_thread(&thread, "resolve", resolve_main, q);
	if (r) {
		s->resolve = NULL;
		resolve_free(q);
		return r;
	}
	pthread_detach(thread);
	return 0;
}

/* True when the request is now the thread's, which frees it. */
static bool resolve_abandon(struct posix_resolve *q)
{
	bool posted;

	pthread_mutex_lock(&resolve_lock);
	posted = q->posted;
	q->loop = NULL;
	pthread_mutex_unlock(&resolve_lock);
	return !posted;
}

int posix_net_connect(struct loop *l, struct loop_op *op, const char *address,
		      uint16_t port, struct loop_socket **ret)
{
	struct posix_socket *s = socket_alloc(l, -1);
	char service[8];
	int r;

	if (!s)
		return -ENOMEM;
	snprintf(service, sizeof(service), "%u", port);
	snprintf(s->base.peer, sizeof(s->base.peer), "%.55s:%u", address, port);
	op->socket = &s->base;
	s->connecting = op;
	r = resolve(address, service, AI_NUMERICHOST, &s->addresses);
	s->address = s->addresses;
	r = r ? resolve_start(s, address, service) : try_address(s);
	if (r) {
		drop_addresses(s);
		list_remove(&s->node);
		free(s);
		return r;
	}
	*ret = &s->base;
	return 0;
}

void posix_net_run_ready(struct loop *l)
{
	struct posix_loop *p = posix_loop(l);
	struct loop_op *op = p->ready;

	p->ready = NULL;
	p->ready_tail = &p->ready;
	l->ready = false;
	while (op) {
		struct loop_op *next = op->next;

		if (op->kind == ENGINE_CONNECT &&
		    posix_socket(op->socket)->connecting == op)
			posix_net_connected(op, op->res);
		else
			loop_complete(op, op->res);
		op = next;
	}
}

/* ---- ending ---- */

void posix_net_shutdown(struct loop_socket *base)
{
	struct posix_socket *s = posix_socket(base);

	s->shut = true;
	if (base->fd >= 0)
		(void)shutdown(base->fd, SHUT_RDWR);
	/* When the answer is on its way already, resolved() sees shut. */
	if (s->resolve && resolve_abandon(s->resolve)) {
		s->resolve = NULL;
		posix_net_ready(s->connecting, -ECANCELED);
		s->connecting = NULL;
	}
}

void posix_net_close(struct loop_socket *base)
{
	struct posix_socket *s = posix_socket(base);

	ASSERT(!s->connecting && !s->in && !s->out);
	drop_addresses(s);
	list_remove(&s->node);
	if (base->fd >= 0)
		close(base->fd);
	free(s);
}

void posix_net_quiesce(struct loop *l)
{
	struct posix_loop *p = posix_loop(l);

	list_for_each(pos, &p->sockets) {
		struct posix_socket *s =
			list_entry(pos, struct posix_socket, node);

		/* Posted: the mail is never delivered now. */
		if (s->resolve && !resolve_abandon(s->resolve))
			resolve_free(s->resolve);
		s->resolve = NULL;
		s->connecting = s->in = s->out = NULL;
		s->shut = true;
		if (s->base.fd >= 0)
			(void)shutdown(s->base.fd, SHUT_RDWR);
	}
	for (struct loop_op *op = p->ready; op; op = op->next) {
		if (op->kind == ENGINE_ACCEPT && op->res >= 0)
			close(op->res);
	}
	p->ready = NULL;
	p->ready_tail = &p->ready;
	l->ready = false;
}

void posix_net_loop_fini(struct loop *l)
{
	struct posix_loop *p = posix_loop(l);
	struct list *node;

	p->quiesce(l);
	while ((node = list_pop(&p->sockets))) {
		struct posix_socket *s =
			list_entry(node, struct posix_socket, node);

		drop_addresses(s);
		if (s->base.fd >= 0)
			close(s->base.fd);
		s->base.fd = -1;
		s->base.loop = NULL;
	}
}
