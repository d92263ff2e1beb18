/* tests/fuzz/fuzz_gate.c: any bytes from a peer.
 *
 * The gate looks at them first, and what it passes goes to Proton's engine as
 * a connection would give it: Proton must get through without tripping over
 * one of its own assertions.  What arrives as messages is scanned.  The first
 * byte says whether the bytes are a connection or a message. */
#include <string.h>

#include "broker/protocols/amqp/gate.h"
#include "broker/protocols/amqp/proton.h"
#include "broker/protocols/amqp/sections.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_message(const uint8_t *data, size_t size)
{
	static const char extra[] = "\xc1\x07\x02\xa3\x01k\xa1\x01v";
	struct sections_changes changes = {.delivery_count = 1,
					   .extra = extra,
					   .extra_len = sizeof(extra) - 1};
	struct sections s, again;
	uint8_t *buf;
	size_t room, len;

	if (sections_scan(data, size, false, &s) == 0)
		ASSERT(s.annotations_end <= size);
	if (sections_scan(data, size, true, &s) != 0)
		return;
	ASSERT(s.header_end <= s.annotations_at &&
	       s.annotations_at <= s.annotations_end &&
	       s.annotations_end <= size);
	room = sections_prefix_room(&s, &changes);
	buf = malloc(room + size);
	if (sections_prefix(data, &s, &changes, buf, room, &len) == 0) {
		ASSERT(len <= room);
		memcpy(buf + len, data + s.annotations_end,
		       size - s.annotations_end);
		len += size - s.annotations_end;
		ASSERT(sections_scan(buf, len, true, &again) == 0);
	}
	free(buf);
}

static void receive(pn_link_t *link)
{
	char buf[512];
	pn_delivery_t *d;

	while (pn_link_is_receiver(link) && (d = pn_link_current(link))) {
		ssize_t n;

		while ((n = pn_link_recv(link, buf, sizeof(buf))) > 0)
			try_message((const uint8_t *)buf, (size_t)n);
		if (pn_delivery_partial(d) && !pn_delivery_aborted(d))
			break;
		pn_delivery_update(d, PN_ACCEPTED);
		pn_delivery_settle(d);
	}
}

static void handle(pn_connection_driver_t *driver, pn_event_t *e)
{
	pn_link_t *link = pn_event_link(e);

	switch (pn_event_type(e)) {
	case PN_CONNECTION_REMOTE_OPEN:
		pn_connection_open(driver->connection);
		break;
	case PN_CONNECTION_REMOTE_CLOSE:
		pn_connection_close(driver->connection);
		break;
	case PN_SESSION_REMOTE_OPEN:
		pn_session_set_incoming_capacity(pn_event_session(e), 1 << 20);
		pn_session_open(pn_event_session(e));
		break;
	case PN_SESSION_REMOTE_CLOSE:
		pn_session_close(pn_event_session(e));
		pn_session_free(pn_event_session(e));
		break;
	case PN_LINK_REMOTE_OPEN:
		pn_terminus_copy(pn_link_source(link),
				 pn_link_remote_source(link));
		pn_terminus_copy(pn_link_target(link),
				 pn_link_remote_target(link));
		pn_link_open(link);
		if (pn_link_is_receiver(link)) {
			pn_link_flow(link, 100);
		} else {
			pn_delivery(link, pn_dtag("tag", 3));
			pn_link_send(link, "\x00\x53\x77\x41", 4);
			pn_link_advance(link);
		}
		break;
	case PN_LINK_REMOTE_CLOSE:
	case PN_LINK_REMOTE_DETACH:
		pn_link_close(link);
		pn_link_free(link);
		break;
	case PN_DELIVERY:
		if (pn_link_is_sender(link) &&
		    pn_delivery_settled(pn_event_delivery(e)))
			pn_delivery_settle(pn_event_delivery(e));
		receive(link);
		break;
	default:
		break;
	}
}

static void turn(pn_connection_driver_t *driver)
{
	pn_event_t *e;
	pn_bytes_t out;

	while ((e = pn_connection_driver_next_event(driver)))
		handle(driver, e);
	while ((out = pn_connection_driver_write_buffer(driver)).size)
		pn_connection_driver_write_done(driver, out.size);
}

static void try_connection(const uint8_t *data, size_t size)
{
	pn_connection_driver_t driver;
	struct gate_error error;
	struct gate_news news;
	struct gate gate;
	size_t len;

	gate_init(&gate, 4096, 7, 16);
	/* SASL waits for the broker, so here every connection goes without. */
	gate.phase = GATE_PROTOCOL;
	if (pn_connection_driver_init(&driver, NULL, NULL) != 0)
		abort();
	pn_transport_set_server(driver.transport);
	pn_logger_reset_mask(pn_transport_logger(driver.transport),
			     PN_SUBSYSTEM_ALL, PN_LEVEL_ALL);
	pn_transport_set_max_frame(driver.transport, 4096);
	pn_transport_set_channel_max(driver.transport, 7);
	pn_connection_driver_bind(&driver);
	turn(&driver);
	while (size) {
		enum gate_verdict verdict =
			gate_scan(&gate, data, size, &len, &news, &error);
		size_t done = 0;

		ASSERT(len <= size);
		while (done < len) {
			pn_rwbytes_t b =
				pn_connection_driver_read_buffer(&driver);
			size_t n = base_min(b.size, len - done);

			if (!n)
				goto out;
			memcpy(b.start, data + done, n);
			pn_connection_driver_read_done(&driver, n);
			done += n;
			turn(&driver);
		}
		if (verdict != GATE_PASS || !len)
			break;
		data += len;
		size -= len;
	}
out:
	pn_connection_driver_close(&driver);
	turn(&driver);
	pn_connection_driver_destroy(&driver);
	gate_fini(&gate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		try_message(data + 1, size - 1);
	else
		try_connection(data + 1, size - 1);
	return 0;
}
