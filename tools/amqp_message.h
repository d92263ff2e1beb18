/* tools/amqp_message.h: AMQP 1.0 messages of the command line.
 * Encoding follows OASIS AMQP 1.0 part 3, section 3.2. */
#ifndef TOOLS_AMQP_MESSAGE_H
#define TOOLS_AMQP_MESSAGE_H

#include <stdbool.h>

#include "base/json.h"
#include "broker/protocols/amqp/proton.h"

struct amqp_message {
	bool durable;
	int priority;	 /* -1: not said */
	uint64_t ttl_ms; /* 0: none */
	const char *to, *subject, *reply_to, *correlation_id, *content_type;
	const char *const *properties; /* "key=value" */
	unsigned property_count;
};

/* Bytes enough for everything before the body. */
size_t amqp_message_room(const struct amqp_message *);
/* Writes header, properties, application properties and the start of a body
 * of body_len bytes, as one string value or as binary data; the body's bytes
 * follow.  Returns the length. */
size_t amqp_message_encode(const struct amqp_message *, bool text,
			   size_t body_len, uint8_t *buf);

/* A decoded message as JSON: the parts that are there.  A new reference, or
 * NULL without memory. */
json_t *amqp_message_json(pn_message_t *);
/* The body as text: strings and data as they are, anything else as JSON.  To
 * be freed by the caller; NULL without memory. */
char *amqp_message_body(pn_message_t *, size_t *ret_len);

#endif
