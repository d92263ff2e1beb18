#!/usr/bin/python3
"""A stock client (python3-qpid-proton) of a broker of several nodes, and the
ledger of what it has been promised.

client.py OPTIONS   a JSON object; ends when its standard input does:

  urls      of all nodes; the client goes through them until one lets it in
  ledger    a file, appended to
  next      by queue, the first number to send; absent: only receive
  rate      messages a second, all queues together
  counts    by queue, how many to receive and accept, and then end, or when
            nothing comes any more; absent: go on receiving, and leave some

Queues: "keep" only fills; "fifo" is consumed in order; of "holes" every third
message, of "large" every fifth is received and not acknowledged.

A line of the ledger is an event, a queue, a number, and the monotonic clock in
us; each is with the kernel before anything follows from it:
  P  is about to be sent        C  confirmed        X  refused: sent again later
  B  is about to be accepted    S  the broker has settled that
  K  connected; instead of a queue the node's address      D  no longer
What has no answer when the connection breaks is in doubt: it is sent again
under its number."""

import json
import os
import random
import sys
import threading
import time

from proton import Delivery, Message
from proton.handlers import MessagingHandler
from proton.reactor import Backoff, Container, EventInjector, ApplicationEvent

from body import body

QUEUES = ("keep", "fifo", "holes", "large")
KEPT = {"holes": 3, "large": 5}  # every so manieth is
LARGE_SHARE = 300  # one in so many messages
WINDOW = 100
CREDIT = 200
HEARTBEAT_S = 2
TICK_S = 0.005
BACKOFF = {"initial": 0.02, "factor": 1.5, "max_delay": 0.1}
FINISH_S = 60
QUIET_S = 3


class Ledger:
    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT,
                            0o644)

    def book(self, event, queue, number):
        os.write(self.file, b"%s %s %d %d\n" % (
            event.encode(), queue.encode(), number,
            time.monotonic_ns() // 1000))


class Client(MessagingHandler):
    def __init__(self, options):
        super().__init__(prefetch=0, auto_accept=False, auto_settle=False)
        self.options = options
        self.ledger = Ledger(options["ledger"])
        self.next = options.get("next", {})
        self.left = dict(options.get("counts", {}))
        self.draining = "counts" in options
        self.dice = random.Random()
        self.again = []          # (queue, number) to be sent again
        self.senders, self.receivers = {}, {}
        self.flying = {}         # delivery: (queue, number)
        self.accepting = {}      # delivery: (queue, number)
        self.held = []
        self.connected = self.finishing = False
        self.allowance, self.ticked = 0.0, time.monotonic()

    # ---- connecting ----

    def on_start(self, event):
        self.container = event.container
        self.injector = EventInjector()
        event.container.selectable(self.injector)
        threading.Thread(target=self.watch, daemon=True).start()
        self.container.schedule(TICK_S, self)
        self.connect()

    def connect(self):
        """Until a node lets us in.  A connection that breaks is not revived:
        whoever keeps count of deliveries wants to know which life each had."""
        self.senders, self.receivers = {}, {}
        self.connection = self.container.connect(
            urls=self.options["urls"], reconnect=Backoff(**BACKOFF),
            heartbeat=HEARTBEAT_S)

    def on_connection_opened(self, event):
        if self.connected or event.connection != self.connection:
            return
        self.connected, self.received = True, time.monotonic()
        self.ledger.book("K", str(event.connection.connected_address), 0)
        for queue in self.next:
            self.senders[queue] = self.container.create_sender(
                self.connection, queue, name="to-" + queue)
        for queue in self.left if self.draining else QUEUES[1:]:
            # It settles second: it learns when its acknowledgement is final.
            receiver = self.container.create_receiver(
                self.connection, queue, name="from-" + queue)
            receiver.rcv_settle_mode = 1
            receiver.flow(CREDIT)
            self.receivers[queue] = receiver

    def on_disconnected(self, event):
        if event.connection != self.connection or not self.connected:
            return
        self.connected = False
        self.ledger.book("D", "-", 0)
        self.again = sorted(self.flying.values()) + self.again
        self.flying.clear()
        self.accepting.clear()
        self.held.clear()
        self.connection.close()
        self.connect()

    on_connection_closed = on_disconnected
    on_connection_error = on_disconnected
    on_session_error = on_disconnected
    on_link_error = on_disconnected

    def on_transport_error(self, event):
        pass  # on_disconnected() follows, or the next url is tried

    # ---- sending ----

    def on_timer_task(self, event):
        now = time.monotonic()
        self.allowance = min(self.allowance + self.options.get("rate", 0) * (
            now - self.ticked), 2 * WINDOW)
        self.ticked = now
        self.fill()
        self.end_when_done()
        self.container.schedule(TICK_S, self)

    def take(self):
        if self.again:
            return self.again.pop(0)
        if self.finishing or not self.next:
            return None
        queue = "large" if not self.dice.randrange(LARGE_SHARE) else \
            self.dice.choice(QUEUES[:3])
        number = self.next[queue]
        self.next[queue] += 1
        return queue, number

    def fill(self):
        while (self.connected and len(self.flying) < WINDOW and
               self.allowance >= 1):
            # A queue without credit holds the others up for a moment only.
            if any(not sender.credit for sender in self.senders.values()):
                return
            taken = self.take()
            if not taken:
                return
            queue, number = taken
            self.allowance -= 1
            size = self.dice.randrange(110000, 300000) if queue == "large" \
                else self.dice.choice((100, 700, 1000, 1300, 4000))
            self.ledger.book("P", queue, number)
            delivery = self.senders[queue].send(Message(
                body=body(number, size), durable=True))
            self.flying[delivery] = taken

    def on_sendable(self, event):
        self.fill()

    def on_accepted(self, event):
        taken = self.flying.pop(event.delivery, None)
        if taken:
            self.ledger.book("C", *taken)
            event.delivery.settle()
            self.fill()

    def refused(self, event):
        taken = self.flying.pop(event.delivery, None)
        if taken:
            self.ledger.book("X", *taken)
            event.delivery.settle()
            self.again.append(taken)
            self.allowance = min(self.allowance, 0) - 1

    on_rejected = refused
    on_released = refused
    on_modified = refused

    # ---- receiving ----

    def on_message(self, event):
        queue = event.link.source.address or event.link.name[len("from-"):]
        text = event.message.body
        number = int(text.split(" ", 1)[0])
        if text != body(number, len(text)):
            raise AssertionError("%s %d came changed" % (queue, number))
        event.link.flow(1)
        if not self.draining and \
                number % KEPT.get(queue, number + 1) == 0:
            self.held.append(event.delivery)
            return
        self.received = time.monotonic()
        self.ledger.book("B", queue, number)
        self.accepting[event.delivery] = queue, number
        event.delivery.update(Delivery.ACCEPTED)

    def on_settled(self, event):
        taken = self.accepting.pop(event.delivery, None)
        if taken:
            self.ledger.book("S", *taken)
            event.delivery.settle()
            if self.draining:
                self.left[taken[0]] -= 1
                self.end_when_done()

    # ---- the end ----

    def watch(self):
        sys.stdin.read()
        self.injector.trigger(ApplicationEvent("finish"))

    def on_finish(self, event):
        self.finishing = True
        self.deadline = time.monotonic() + FINISH_S

    def end_when_done(self):
        if self.draining:
            # What was in doubt when a leader fell may not come again.
            done = all(count <= 0 for count in self.left.values()) or (
                self.connected and
                time.monotonic() - self.received > QUIET_S)
        else:
            done = self.finishing and not self.again and not self.flying \
                and not self.accepting
        if done:
            self.connected = False
            self.connection.close()
            self.injector.close()
            self.container.stop()
        elif self.finishing and time.monotonic() > self.deadline:
            raise AssertionError("%d messages have no answer" % (
                len(self.flying) + len(self.accepting) + len(self.again)))


if __name__ == "__main__":
    Container(Client(json.loads(sys.argv[1]))).run()
