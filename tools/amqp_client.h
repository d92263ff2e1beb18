/* tools/amqp_client.h: one AMQP 1.0 connection of a command, on Proton's
 * engine and poll(2).
 *
 * For commands, not for load: tools/bench_wire.h is for that.  One thread.
 * The owner's event() sees every engine event; turn() runs after each batch of
 * them, before output is flushed: the place to send from. */
#ifndef TOOLS_AMQP_CLIENT_H
#define TOOLS_AMQP_CLIENT_H

#include <stdbool.h>

#include "broker/protocols/amqp/proton.h"
#include "tools/options.h"

/* How to reach a broker; every AMQP command has these options. */
struct amqp_access {
	const char *url;	   /* default amqp://127.0.0.1:5672 */
	const char *user;	   /* NULL: ANONYMOUS */
	const char *password_file; /* "-": ask on the terminal */
	uint64_t connect_ns;
	/* filled by amqp_client_access() */
	char host[256], port[8], user_text[256], password[256];
};

#define AMQP_ACCESS_INIT                                                       \
	{                                                                      \
		.url = "amqp://127.0.0.1:5672", .connect_ns = 10000000000      \
	}

#define AMQP_ACCESS_OPTIONS(a)                                                   \
	{"url",	   'u',	  OPTION_TEXT,                                           \
	 &(a).url, "URL", "the broker (amqp://127.0.0.1:5672)"},                 \
		{"user",    0,	    OPTION_TEXT,                                 \
		 &(a).user, "NAME", "log in as this user (ANONYMOUS)"},          \
		{"password-file", 0,                                             \
		 OPTION_TEXT,	  &(a).password_file,                            \
		 "FILE",	  "read the password from FILE; - asks for it"}, \
	{                                                                        \
		"connect-timeout", 0, OPTION_DURATION, &(a).connect_ns,          \
			"TIME", "give up connecting after TIME (10s)"            \
	}

/* Splits the URL and reads the password.  On failure prints one sentence
 * after `command` and returns an exit code, else 0. */
MUST_CHECK int amqp_client_access(const char *command, struct amqp_access *);

/* A connected, non-blocking TCP socket with TCP_NODELAY, or a negative code
 * with the sentence in why. */
MUST_CHECK int amqp_client_dial(const struct amqp_access *, int *ret_fd,
				char *why, size_t why_len);

struct amqp_client {
	/* the owner's, before amqp_client_open() */
	void (*event)(struct amqp_client *, pn_event_t *);
	void (*turn)(struct amqp_client *);
	void *ctx;
	/* readable by the owner */
	pn_connection_driver_t driver;
	bool failed;   /* why says what happened */
	bool finished; /* nothing more will happen */
	char why[1024];
	/* private */
	int fd;
	bool closing;
	uint64_t ticked_ms;
};

/* Dials and starts the handshake; sentence in why on failure. */
MUST_CHECK int amqp_client_open(struct amqp_client *, struct amqp_access *);
/* One round: wait up to timeout_ms, read, dispatch, write.  Returns when
 * something happened or the time is over. */
void amqp_client_run(struct amqp_client *, int timeout_ms);
/* Send close and run until the peer has answered, at most 5 s. */
void amqp_client_close(struct amqp_client *);
/* Also after a failed open.  Wipes nothing that open did not make. */
void amqp_client_fini(struct amqp_client *);
/* Latch a failure; the first one stays. */
void amqp_client_fail(struct amqp_client *, const char *format, ...)
	PRINTF_LIKE(2, 3);
/* Latch the peer's condition, with what to do where we know. */
void amqp_client_fail_condition(struct amqp_client *, const char *what,
				pn_condition_t *);
/* Monotonic nanoseconds. */
uint64_t amqp_client_now_ns(void);

#endif
