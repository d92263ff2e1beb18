/* tools/amqp_message.c: see amqp_message.h. */
#include <string.h>

#include "tools/amqp_message.h"

/* ---- encoding ---- */

/* Network order, into a buffer whose size amqp_message_room() bounds. */
struct writer {
	uint8_t *p;
};

static void put8(struct writer *w, unsigned v)
{
	*w->p++ = (uint8_t)v;
}

static void put32(struct writer *w, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(w->p, &v, 4);
	w->p += 4;
}

static void put_bytes(struct writer *w, const void *data, size_t len)
{
	memcpy(w->p, data, len);
	w->p += len;
}

static void put_text(struct writer *w, unsigned type, const char *text,
		     size_t len)
{
	put8(w, type);
	put32(w, (uint32_t)len);
	put_bytes(w, text, len);
}

static void put_text_or_null(struct writer *w, unsigned type, const char *text)
{
	if (text)
		put_text(w, type, text, strlen(text));
	else
		put8(w, 0x40);
}

/* Descriptor and list32/map32 head; returns where the size goes. */
static uint8_t *open_section(struct writer *w, unsigned code, unsigned type,
			     uint32_t count)
{
	uint8_t *size;

	put8(w, 0x00);
	put8(w, 0x53);
	put8(w, code);
	put8(w, type);
	size = w->p;
	put32(w, 0);
	put32(w, count);
	return size;
}

static void close_section(struct writer *w, uint8_t *size)
{
	struct writer at = {size};

	put32(&at, (uint32_t)(w->p - size - 4));
}

size_t amqp_message_room(const struct amqp_message *m)
{
	size_t room = 256;

	room += m->to ? strlen(m->to) : 0;
	room += m->subject ? strlen(m->subject) : 0;
	room += m->reply_to ? strlen(m->reply_to) : 0;
	room += m->correlation_id ? strlen(m->correlation_id) : 0;
	room += m->content_type ? strlen(m->content_type) : 0;
	for (unsigned i = 0; i < m->property_count; i++)
		room += 10 + strlen(m->properties[i]);
	return room;
}

static void put_properties(struct writer *w, const struct amqp_message *m)
{
	uint8_t *size;

	if (m->to || m->subject || m->reply_to || m->correlation_id ||
	    m->content_type) {
		size = open_section(w, 0x73, 0xd0, 7);
		put8(w, 0x40); /* message-id */
		put8(w, 0x40); /* user-id */
		put_text_or_null(w, 0xb1, m->to);
		put_text_or_null(w, 0xb1, m->subject);
		put_text_or_null(w, 0xb1, m->reply_to);
		put_text_or_null(w, 0xb1, m->correlation_id);
		put_text_or_null(w, 0xb3, m->content_type);
		close_section(w, size);
	}
	if (m->property_count) {
		size = open_section(w, 0x74, 0xd1, 2 * m->property_count);
		for (unsigned i = 0; i < m->property_count; i++) {
			const char *key = m->properties[i];
			size_t key_len = strcspn(key, "=");

			put_text(w, 0xb1, key, key_len);
			put_text(w, 0xb1, key + key_len + 1,
				 strlen(key + key_len + 1));
		}
		close_section(w, size);
	}
}

size_t amqp_message_encode(const struct amqp_message *m, bool text,
			   size_t body_len, uint8_t *buf)
{
	struct writer w = {buf};
	uint8_t *size = open_section(&w, 0x70, 0xd0, 3);

	put8(&w, m->durable ? 0x41 : 0x42);
	if (m->priority >= 0) {
		put8(&w, 0x50);
		put8(&w, (unsigned)m->priority);
	} else {
		put8(&w, 0x40);
	}
	if (m->ttl_ms) {
		put8(&w, 0x70);
		put32(&w, (uint32_t)m->ttl_ms);
	} else {
		put8(&w, 0x40);
	}
	close_section(&w, size);
	put_properties(&w, m);
	put8(&w, 0x00);
	put8(&w, 0x53);
	put8(&w, text ? 0x77 : 0x75);
	put8(&w, text ? 0xb1 : 0xb0);
	put32(&w, (uint32_t)body_len);
	return (size_t)(w.p - buf);
}

/* ---- decoding ---- */

static json_t *value_json(pn_data_t *data, unsigned depth);

/* Text as it is; bytes that are not UTF-8 as hexadecimal. */
static json_t *bytes_json(pn_bytes_t bytes)
{
	json_t *text = json_stringn(bytes.start ? bytes.start : "", bytes.size);
	char *hex;

	if (text)
		return text;
	hex = malloc(2 * bytes.size + 3);
	if (!hex)
		return NULL;
	memcpy(hex, "0x", 3);
	for (size_t i = 0; i < bytes.size; i++)
		snprintf(hex + 2 + 2 * i, 3, "%02x", (uint8_t)bytes.start[i]);
	text = json_string(hex);
	free(hex);
	return text;
}

static json_t *map_json(pn_data_t *data, unsigned depth)
{
	json_t *map = json_object();
	size_t count = pn_data_get_map(data);

	pn_data_enter(data);
	for (size_t i = 0; i + 1 < count; i += 2) {
		json_t *key;
		char *text;

		if (!pn_data_next(data))
			break;
		key = value_json(data, depth + 1);
		if (!pn_data_next(data)) {
			json_decref(key);
			break;
		}
		if (json_is_string(key))
			text = strdup(json_string_value(key));
		else
			text = json_dumps(key, JSON_ENCODE_ANY | JSON_COMPACT);
		if (text)
			json_object_set_new(map, text,
					    value_json(data, depth + 1));
		free(text);
		json_decref(key);
	}
	pn_data_exit(data);
	return map;
}

static json_t *sequence_json(pn_data_t *data, unsigned depth)
{
	json_t *list = json_array();

	pn_data_enter(data);
	while (pn_data_next(data))
		json_array_append_new(list, value_json(data, depth + 1));
	pn_data_exit(data);
	return list;
}

static json_t *described_json(pn_data_t *data, unsigned depth)
{
	json_t *value = NULL;

	pn_data_enter(data);
	if (pn_data_next(data) && pn_data_next(data))
		value = value_json(data, depth + 1);
	pn_data_exit(data);
	return value ? value : json_null();
}

static json_t *uuid_json(pn_uuid_t uuid)
{
	char text[37], *at = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += snprintf(at, 3, "%02x", (uint8_t)uuid.bytes[i]);
	}
	return json_string(text);
}

/* The value that data points at. */
static json_t *value_json(pn_data_t *data, unsigned depth)
{
	if (depth > 32)
		return json_string("...");
	switch (pn_data_type(data)) {
	case PN_BOOL:
		return json_boolean(pn_data_get_bool(data));
	case PN_UBYTE:
		return json_integer(pn_data_get_ubyte(data));
	case PN_BYTE:
		return json_integer(pn_data_get_byte(data));
	case PN_USHORT:
		return json_integer(pn_data_get_ushort(data));
	case PN_SHORT:
		return json_integer(pn_data_get_short(data));
	case PN_UINT:
		return json_integer(pn_data_get_uint(data));
	case PN_INT:
		return json_integer(pn_data_get_int(data));
	case PN_CHAR:
		return json_integer(pn_data_get_char(data));
	case PN_ULONG:
		return json_integer((json_int_t)pn_data_get_ulong(data));
	case PN_LONG:
		return json_integer(pn_data_get_long(data));
	case PN_TIMESTAMP:
		return json_integer(pn_data_get_timestamp(data));
	case PN_FLOAT:
		return json_real((double)pn_data_get_float(data));
	case PN_DOUBLE:
		return json_real(pn_data_get_double(data));
	case PN_UUID:
		return uuid_json(pn_data_get_uuid(data));
	case PN_BINARY:
	case PN_STRING:
	case PN_SYMBOL:
		return bytes_json(pn_data_get_bytes(data));
	case PN_DESCRIBED:
		return described_json(data, depth);
	case PN_ARRAY:
	case PN_LIST:
		return sequence_json(data, depth);
	case PN_MAP:
		return map_json(data, depth);
	default:
		return json_null();
	}
}

/* The only value of a section, or NULL when there is none. */
static json_t *section_json(pn_data_t *data)
{
	pn_data_rewind(data);
	if (!pn_data_next(data))
		return NULL;
	return value_json(data, 0);
}

static void set_text(json_t *object, const char *key, const char *text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

static void set_section(json_t *object, const char *key, pn_data_t *data)
{
	json_t *value = section_json(data);

	if (value && !json_is_null(value) &&
	    !(json_is_object(value) && !json_object_size(value)))
		json_object_set(object, key, value);
	json_decref(value);
}

json_t *amqp_message_json(pn_message_t *m)
{
	json_t *object = json_object();

	if (!object)
		return NULL;
	set_section(object, "id", pn_message_id(m));
	set_text(object, "to", pn_message_get_address(m));
	set_text(object, "subject", pn_message_get_subject(m));
	set_text(object, "reply_to", pn_message_get_reply_to(m));
	set_section(object, "correlation_id", pn_message_correlation_id(m));
	set_text(object, "content_type", pn_message_get_content_type(m));
	json_object_set_new(object, "durable",
			    json_boolean(pn_message_is_durable(m)));
	json_object_set_new(object, "priority",
			    json_integer(pn_message_get_priority(m)));
	if (pn_message_get_ttl(m))
		json_object_set_new(object, "ttl_ms",
				    json_integer(pn_message_get_ttl(m)));
	json_object_set_new(object, "delivery_count",
			    json_integer(pn_message_get_delivery_count(m)));
	set_section(object, "annotations", pn_message_annotations(m));
	set_section(object, "properties", pn_message_properties(m));
	set_section(object, "body", pn_message_body(m));
	return object;
}

char *amqp_message_body(pn_message_t *m, size_t *ret_len)
{
	pn_data_t *data = pn_message_body(m);
	pn_bytes_t bytes;
	json_t *value;
	char *text;

	pn_data_rewind(data);
	if (!pn_data_next(data)) {
		*ret_len = 0;
		return calloc(1, 1);
	}
	switch (pn_data_type(data)) {
	case PN_BINARY:
	case PN_STRING:
	case PN_SYMBOL:
		bytes = pn_data_get_bytes(data);
		text = malloc(bytes.size + 1);
		if (!text)
			return NULL;
		if (bytes.size)
			memcpy(text, bytes.start, bytes.size);
		text[bytes.size] = 0;
		*ret_len = bytes.size;
		return text;
	default:
		value = value_json(data, 0);
		text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
		json_decref(value);
		if (text)
			*ret_len = strlen(text);
		return text;
	}
}
