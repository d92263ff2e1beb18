#!/usr/bin/python3
"""SIGKILL the broker under load, over and over, and count what it owes.

A sender and a receiver (python3-qpid-proton) work on one queue.  At a random
moment, chosen by a printed seed, the broker is killed and started again on
the same data.  What must hold, over all cycles:

  no loss       every message that was confirmed is received in the end;
  no invention  only messages that were sent are received;
  no unexplained duplicates
                a message comes twice only if the sender sent it twice (it was
                in doubt when the connection broke), or if the receiver's
                acknowledgement was in doubt when the connection broke.

Usage: check_kill.py [CYCLES]
Environment: BUILD, SEED, KILL_CYCLES (50; `make soak` asks for 1000)."""

import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "interop"))
from broker import Broker, skip  # noqa: E402

try:
    from proton import Message
    from proton.handlers import MessagingHandler
    from proton.reactor import Container
except ImportError:
    skip("skipped: python3-qpid-proton is not installed")

CYCLES = int(sys.argv[1] if len(sys.argv) > 1 else
             os.environ.get("KILL_CYCLES", 50))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
ALIVE_S = (0.02, 0.3)
STUCK_S = 60
QUIET_S = 10  # without a message, while emptying the queue
WINDOW = 200


class Stuck(AssertionError):
    pass


def stuck(_number, _frame):
    raise Stuck("nothing happened for a long time")


class Ledger:
    """What is known of every number, over all connections."""

    def __init__(self):
        self.next = 0
        self.again = []       # in doubt at the sender: to be sent again
        self.times_sent = {}
        self.confirmed = set()
        self.seen = {}        # number: times received
        self.ack_doubt = {}   # number: acknowledgements in doubt
        self.wrong = []

    def take(self):
        if self.again:
            number = self.again.pop(0)
        else:
            number = self.next
            self.next += 1
        self.times_sent[number] = self.times_sent.get(number, 0) + 1
        return number

    def receive(self, number):
        sent = self.times_sent.get(number)
        if sent is None:
            self.wrong.append("%r was received but never sent" % number)
            return
        self.seen[number] = self.seen.get(number, 0) + 1
        if self.seen[number] > sent + self.ack_doubt.get(number, 0):
            self.wrong.append(
                "%d was received %d times; sent %d times, %d "
                "acknowledgements in doubt" %
                (number, self.seen[number], sent,
                 self.ack_doubt.get(number, 0)))


class Client(MessagingHandler):
    """One connection's life.  Ends when the connection breaks, or, while
    draining, when nothing confirmed is missing."""

    def __init__(self, url, ledger, draining):
        super().__init__(prefetch=100, auto_accept=False, auto_settle=False)
        self.url, self.ledger, self.draining = url, ledger, draining
        self.in_flight = {}
        self.unsure = {}   # delivery tag: number accepted, not known settled

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False,
                                                  heartbeat=None)
        if not self.draining:
            event.container.create_sender(self.connection, "kill")
        # The receiver settles second: it learns when its acknowledgement is
        # final, so that what is in doubt is known exactly.
        receiver = event.container.create_receiver(self.connection, "kill")
        receiver.rcv_settle_mode = 1

    def fill(self, sender):
        while sender.credit and len(self.in_flight) < WINDOW:
            number = self.ledger.take()
            delivery = sender.send(Message(body=number, durable=True))
            self.in_flight[delivery.tag] = number

    def on_sendable(self, event):
        self.fill(event.sender)

    def on_accepted(self, event):
        if event.delivery.link.is_receiver:
            return
        number = self.in_flight.pop(event.delivery.tag, None)
        if number is not None:
            self.ledger.confirmed.add(number)
        event.delivery.settle()
        self.fill(event.link)

    def on_message(self, event):
        if self.draining:
            signal.alarm(QUIET_S)
        number = event.message.body
        self.ledger.receive(number)
        self.unsure[event.delivery.tag] = number
        event.delivery.update(event.delivery.ACCEPTED)

    def on_settled(self, event):
        if event.delivery.link.is_sender:
            return
        self.unsure.pop(event.delivery.tag, None)
        event.delivery.settle()
        if self.draining and not self.unsure and self.complete():
            self.connection.close()

    def complete(self):
        return self.ledger.confirmed <= self.ledger.seen.keys()

    def book(self):
        """Everything without an answer is in doubt."""
        self.ledger.again = sorted(self.in_flight.values()) + \
            self.ledger.again
        for number in self.unsure.values():
            self.ledger.ack_doubt[number] = \
                self.ledger.ack_doubt.get(number, 0) + 1


def kill_later(broker, after_s):
    def kill():
        time.sleep(after_s)
        broker.stop(signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def drain(broker, ledger):
    client = Client(broker.url, ledger, draining=True)
    if client.complete():
        return
    signal.alarm(QUIET_S)
    try:
        Container(client).run()
    except Stuck:
        pass  # what is missing is lost: main() counts it
    client.book()


def main():
    chance = random.Random(SEED)
    ledger = Ledger()
    broker = Broker("kill")
    slowest = 0.0

    signal.signal(signal.SIGALRM, stuck)
    for _ in range(CYCLES):
        signal.alarm(STUCK_S)
        begun = time.monotonic()
        broker.start()
        slowest = max(slowest, time.monotonic() - begun)
        client = Client(broker.url, ledger, draining=False)
        killer = kill_later(broker, chance.uniform(*ALIVE_S))
        Container(client).run()
        killer.join()
        client.book()
        if ledger.wrong:
            break
    if not ledger.wrong:
        signal.alarm(STUCK_S)
        broker.start()
        drain(broker, ledger)
    lost = ledger.confirmed - ledger.seen.keys()
    if os.environ.get("VERBOSE"):
        print("%d cycles, %d confirmed, %d received, slowest start %.2f s" %
              (CYCLES, len(ledger.confirmed), len(ledger.seen), slowest))
    if lost:
        print("%d of %d confirmed messages are lost, the first is %d" %
              (len(lost), len(ledger.confirmed), min(lost)))
    for line in ledger.wrong[:10]:
        print(line)
    if not ledger.confirmed and not ledger.wrong:
        ledger.wrong.append("nothing")
        print("nothing was confirmed at all: the test tested nothing")
    if lost or ledger.wrong:
        print("seed %d; repeat with SEED=%d %s %d" %
              (SEED, SEED, sys.argv[0], CYCLES))
        print(broker.last_words())
        return 1
    signal.alarm(0)
    broker.stop()
    return 0


if __name__ == "__main__":
    try:
        code = main()
    except AssertionError as why:
        print("%s (seed %d)" % (why, SEED))
        code = 1
    sys.exit(code)
