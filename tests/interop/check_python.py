#!/usr/bin/python3
"""The Python client of Qpid Proton (Debian's python3-qpid-proton) against a
broker: what a client library that people use expects of AMQP 1.0."""

import hashlib
import signal
import sys
import threading
import time

from broker import Broker, run, skip

try:
    from proton import Delivery, Disposition, Endpoint, Message, symbol
    from proton import Data, Terminus
    from proton.handlers import MessagingHandler
    from proton.reactor import Container, LinkOption, ReceiverOption
    from proton.utils import (BlockingConnection, LinkDetached, SendException)
except ImportError:
    skip("skipped: python3-qpid-proton is not installed")

LARGE_BYTES = 200 << 20
TIMEOUT_S = 30


class Topic(LinkOption):
    """The node is a topic, said by capability."""

    def apply(self, link):
        end = link.target if link.is_sender else link.source
        end.capabilities.put_array(False, Data.SYMBOL)
        end.capabilities.enter()
        end.capabilities.put_symbol(symbol("topic"))
        end.capabilities.exit()


def connect(broker):
    return BlockingConnection(broker.url, timeout=TIMEOUT_S, heartbeat=None)


def receive(receiver, timeout=TIMEOUT_S):
    return receiver.receive(timeout=timeout)


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError("%s: %r, not %r" % (what, got, wanted))


def settle(receiver, state, failed=False, undeliverable=False,
           annotations=None):
    """Settle the oldest message of a blocking receiver with this outcome."""
    delivery = receiver.fetcher.unsettled.popleft()
    delivery.local.failed = failed
    delivery.local.undeliverable = undeliverable
    if annotations:
        delivery.local.annotations = annotations
    delivery.update(state)
    delivery.settle()


def test_round_trip(broker):
    """what is sent is received, with its properties and types"""
    c = connect(broker)
    sender = c.create_sender("py.round")
    receiver = c.create_receiver("py.round")
    for body in ("text", b"\x00\xff bytes", {"k": [1, 2.5, None]}, 2**63 - 1,
                 "", b""):
        sent = Message(body=body, id="id-1", subject="s", reply_to="r",
                       correlation_id=7, content_type="text/x", priority=7,
                       durable=True, properties={"n": 5, "s": "t"},
                       annotations={symbol("x-opt-a"): "b"})
        sender.send(sent)
        got = receive(receiver)
        receiver.accept()
        for name in ("body", "id", "subject", "reply_to", "correlation_id",
                     "content_type", "priority", "durable", "properties",
                     "annotations"):
            expect(getattr(got, name), getattr(sent, name), name)
        expect(got.delivery_count, 0, "delivery_count")
    c.close()


def test_queue_survives_its_connection(broker):
    """a message waits for its consumer"""
    c = connect(broker)
    c.create_sender("py.waits").send(Message(body="m"))
    c.close()
    c = connect(broker)
    receiver = c.create_receiver("py.waits")
    expect(receive(receiver).body, "m", "body")
    receiver.accept()
    c.close()


def test_reject(broker):
    """a rejected message goes to the dead letters and says where it was"""
    c = connect(broker)
    c.create_sender("py.reject").send(Message(body="bad"))
    receiver = c.create_receiver("py.reject")
    expect(receive(receiver).body, "bad", "body")
    receiver.reject()
    dead = c.create_receiver("DLQ")
    got = receive(dead)
    dead.accept()
    expect(got.body, "bad", "body")
    origin = {str(k): v for k, v in (got.annotations or {}).items()}
    expect(origin.get("x-opt-ORIG-ADDRESS"), "py.reject", "origin address")
    expect(origin.get("x-opt-ORIG-QUEUE"), "py.reject", "origin queue")
    c.close()


def test_release(broker):
    """a released message comes again, and the attempt does not count"""
    c = connect(broker)
    c.create_sender("py.release").send(Message(body="again"))
    receiver = c.create_receiver("py.release")
    receive(receiver)
    settle(receiver, Disposition.RELEASED)
    got = receive(receiver)
    expect(got.body, "again", "body")
    expect(got.delivery_count, 0, "delivery_count")
    receiver.accept()
    c.close()


def test_modify(broker):
    """modified with delivery-failed counts, and its annotations are merged"""
    c = connect(broker)
    c.create_sender("py.modify").send(
        Message(body="m", annotations={symbol("x-opt-old"): 1}))
    receiver = c.create_receiver("py.modify")
    receive(receiver)
    settle(receiver, Disposition.MODIFIED, failed=True,
           annotations={symbol("x-opt-new"): "yes"})
    got = receive(receiver)
    expect(got.delivery_count, 1, "delivery_count")
    expect(got.first_acquirer, False, "first_acquirer")
    annotations = {str(k): v for k, v in got.annotations.items()}
    expect(annotations.get("x-opt-new"), "yes", "the new annotation")
    expect(annotations.get("x-opt-old"), 1, "the old annotation")
    settle(receiver, Disposition.MODIFIED)
    got = receive(receiver)
    expect(got.delivery_count, 1, "delivery_count without delivery-failed")
    receiver.accept()
    c.close()


def test_undeliverable_here(broker):
    """a message that is undeliverable here goes to another consumer"""
    c = connect(broker)
    c.create_sender("py.elsewhere").send(Message(body="m"))
    first = c.create_receiver("py.elsewhere", name="first", credit=1)
    receive(first)
    second = c.create_receiver("py.elsewhere", name="second", credit=1)
    settle(first, Disposition.MODIFIED, undeliverable=True)
    first.flow(1)
    expect(receive(second).body, "m", "body")
    second.accept()
    c.close()


def test_attempts(broker):
    """after ten failed attempts a message is a dead letter"""
    c = connect(broker)
    c.create_sender("py.attempts").send(Message(body="poison"))
    receiver = c.create_receiver("py.attempts")
    for attempt in range(10):
        expect(receive(receiver).delivery_count, attempt, "delivery_count")
        settle(receiver, Disposition.MODIFIED, failed=True)
    dead = c.create_receiver("DLQ")
    expect(receive(dead).body, "poison", "body")
    dead.accept()
    c.close()


class Drainer(MessagingHandler):
    def __init__(self, url, address, credit):
        super().__init__(prefetch=0, auto_accept=True)
        self.url, self.address, self.credit = url, address, credit
        self.bodies, self.drained = [], 0

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False)
        event.container.create_receiver(self.connection, self.address)

    def on_link_opened(self, event):
        event.receiver.drain(self.credit)

    def on_message(self, event):
        self.bodies.append(event.message.body)
        if len(self.bodies) == self.credit:
            self.connection.close()

    def on_link_flow(self, event):
        self.drained += event.link.drained()
        if self.drained:
            expect(event.link.credit, 0, "credit after the drain")
            self.connection.close()


def test_drain(broker):
    """drain gives what is there and takes the rest of the credit back"""
    c = connect(broker)
    sender = c.create_sender("py.drain")
    for i in range(7):
        sender.send(Message(body=i))
    c.close()
    drainer = Drainer(broker.url, "py.drain", 10)
    Container(drainer).run()
    expect(drainer.bodies, list(range(7)), "messages")
    expect(drainer.drained, 3, "credit given back")
    drainer = Drainer(broker.url, "py.drain", 5)
    Container(drainer).run()
    expect((drainer.bodies, drainer.drained), ([], 5), "an empty queue")


class LargeReceiver(MessagingHandler):
    def __init__(self, url, address):
        super().__init__(prefetch=1, auto_accept=True)
        self.url, self.address, self.digest = url, address, None

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False)
        event.container.create_receiver(self.connection, self.address)

    def on_message(self, event):
        body = event.message.body
        self.digest = (len(body), hashlib.sha256(body).digest())
        self.connection.close()


class LargeSender(MessagingHandler):
    def __init__(self, url, address, body):
        super().__init__()
        self.url, self.address, self.body = url, address, body
        self.outcome = None

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False)
        event.container.create_sender(self.connection, self.address)

    def on_sendable(self, event):
        if self.body is not None:
            event.sender.send(Message(body=self.body, durable=True))
            self.body = None

    def on_accepted(self, event):
        self.outcome = "accepted"
        self.connection.close()

    def on_rejected(self, event):
        self.outcome = "rejected"
        self.connection.close()


def test_large(broker):
    """a message of 200 MiB passes through unchanged"""
    body = b"0123456789abcdef" * (LARGE_BYTES // 16 - 1) + b"this is the end."
    wanted = (len(body), hashlib.sha256(body).digest())
    sender = LargeSender(broker.url, "py.large", body)
    Container(sender).run()
    expect(sender.outcome, "accepted", "outcome")
    del body
    receiver = LargeReceiver(broker.url, "py.large")
    Container(receiver).run()
    expect(receiver.digest, wanted, "length and SHA-256")


def check_topic(broker, address, options):
    c = connect(broker)
    receivers = [c.create_receiver(address, name="r%d" % i, credit=100,
                                   options=options) for i in range(3)]
    sender = c.create_sender(address, name="s", options=options)
    for i in range(20):
        sender.send(Message(body=i))
    for receiver in receivers:
        for i in range(20):
            expect(receive(receiver).body, i, "body")
            receiver.accept()
    c.close()


def test_topic_by_capability(broker):
    """three receivers of a topic get every message, in order"""
    check_topic(broker, "py.topic", Topic())


def test_topic_by_prefix(broker):
    """topic:// in the address says the same"""
    check_topic(broker, "topic://py.topic2", None)


def test_competing_receivers(broker):
    """receivers of a queue share its messages"""
    c = connect(broker)
    receivers = [c.create_receiver("py.share", name="r%d" % i, credit=5)
                 for i in range(2)]
    sender = c.create_sender("py.share")
    for i in range(10):
        sender.send(Message(body=i))
    got = []
    for receiver in receivers:
        for _ in range(5):
            got.append(receive(receiver).body)
            receiver.accept()
    expect(sorted(got), list(range(10)), "messages")
    c.close()


def test_dynamic(broker):
    """a dynamic source is a node that can be sent to"""
    c = connect(broker)
    receiver = c.create_receiver(None, dynamic=True)
    name = receiver.link.remote_source.address
    c.create_sender(name).send(Message(body="answer"))
    expect(receive(receiver).body, "answer", "body")
    receiver.accept()
    c.close()


def test_anonymous_relay(broker):
    """a sender without a target names the address in each message"""
    c = connect(broker)
    c.create_sender(None).send(Message(body="m", address="py.relay"))
    receiver = c.create_receiver("py.relay")
    expect(receive(receiver).body, "m", "body")
    receiver.accept()
    c.close()


class Pump(MessagingHandler):
    """Sends and receives `count` numbered messages at once."""

    def __init__(self, url, address, count):
        super().__init__(prefetch=500, auto_accept=True)
        self.url, self.address, self.count = url, address, count
        self.sent = self.confirmed = 0
        self.bodies = []

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False)
        event.container.create_sender(self.connection, self.address)
        event.container.create_receiver(self.connection, self.address)

    def on_sendable(self, event):
        while event.sender.credit and self.sent < self.count:
            event.sender.send(Message(body=self.sent, durable=True))
            self.sent += 1

    def on_accepted(self, event):
        self.confirmed += 1
        self.maybe_end()

    def on_message(self, event):
        self.bodies.append(event.message.body)
        self.maybe_end()

    def maybe_end(self):
        if self.confirmed == self.count and len(self.bodies) == self.count:
            self.connection.close()


def test_order(broker):
    """10,000 messages arrive once and in order"""
    pump = Pump(broker.url, "py.order", 10000)
    Container(pump).run()
    expect(pump.bodies == list(range(10000)), True, "the order")


class Reconnecting(MessagingHandler):
    """A sender and a receiver that live through a broker's restart.

    A message that was sent but not confirmed when the connection broke is
    sent again, so it may arrive twice; a confirmed one arrives, and only
    what was sent twice or was in doubt at the receiver may be a duplicate."""

    def __init__(self, url, address, count, half_way):
        super().__init__(prefetch=100, auto_accept=True)
        self.url, self.address, self.count = url, address, count
        self.half_way = half_way
        self.pending = list(range(count))
        self.in_flight = {}
        self.resent = set()
        self.confirmed = set()
        self.seen = {}
        self.starts = 0

    def on_start(self, event):
        self.connection = event.container.connect(self.url)
        self.sender = event.container.create_sender(self.connection,
                                                    self.address)
        event.container.create_receiver(self.connection, self.address)

    def on_link_opened(self, event):
        if event.link.is_sender:
            again = sorted(self.in_flight.values())
            self.in_flight.clear()
            self.resent.update(again)
            self.pending = again + self.pending
            self.starts += 1

    def on_sendable(self, event):
        while event.sender.credit and self.pending and \
                len(self.in_flight) < 50:
            number = self.pending.pop(0)
            delivery = event.sender.send(Message(body=number, durable=True))
            self.in_flight[delivery.tag] = number

    def on_accepted(self, event):
        number = self.in_flight.pop(event.delivery.tag, None)
        if number is None:
            return
        self.confirmed.add(number)
        if self.half_way and len(self.confirmed) >= self.count // 2:
            self.half_way, call = None, self.half_way
            threading.Thread(target=call, daemon=True).start()
        self.on_sendable_again()
        self.maybe_end()

    def on_released(self, event):
        number = self.in_flight.pop(event.delivery.tag, None)
        if number is not None:
            self.resent.add(number)
            self.pending.insert(0, number)
            self.on_sendable_again()

    def on_sendable_again(self):
        event = type("Event", (), {"sender": self.sender})
        self.on_sendable(event)

    def on_message(self, event):
        body = event.message.body
        self.seen[body] = self.seen.get(body, 0) + 1
        self.maybe_end()

    def maybe_end(self):
        if len(self.confirmed) == self.count and len(self.seen) == self.count:
            self.connection.close()

    def on_transport_error(self, event):
        pass


def check_reconnect(broker, number):
    address = "py.reconnect.%d" % number
    handler = Reconnecting(broker.url, address, 4000,
                           lambda: broker.restart(number))
    Container(handler).run()
    expect(len(handler.confirmed), 4000, "confirmed")
    expect(sorted(handler.seen), list(range(4000)), "received")
    expect(handler.starts >= 2, True, "it did reconnect")


def test_reconnect_after_sigterm(broker):
    """a client reconnects over an orderly restart and loses nothing"""
    check_reconnect(broker, signal.SIGTERM)


def test_reconnect_after_sigkill(broker):
    """a client reconnects over a kill and loses nothing"""
    check_reconnect(broker, signal.SIGKILL)


def test_backlog_survives(broker):
    """what is confirmed is there after SIGTERM and after SIGKILL, in order"""
    for number in (signal.SIGTERM, signal.SIGKILL):
        c = connect(broker)
        sender = c.create_sender("py.backlog")
        for i in range(200):
            sender.send(Message(body=i, durable=True))
        c.close()
        broker.restart(number)
        c = connect(broker)
        receiver = c.create_receiver("py.backlog", credit=200)
        expect([receive(receiver).body for _ in range(200)],
               list(range(200)), "messages after signal %d" % number)
        for _ in range(200):
            receiver.accept()
        c.close()


if __name__ == "__main__":
    run(Broker("python"),
        [value for name, value in list(globals().items())
         if name.startswith("test_")], 120)
