#!/usr/bin/python3
"""SIGKILL a broker whose queue is far larger than its memory.

As check_kill.py, with limits so small that messages move into extent files,
knowledge of them leaves memory, and files are rewritten and removed all the
time.  In each life the broker is filled, worked on or emptied, as the seed
says; the receiver accepts out of order, releases, and reports failures.  What
must hold is what check_kill.py says, and that every body is the one sent.

Usage: check_backlog.py [CYCLES]
Environment: BUILD, SEED, BACKLOG_CYCLES (10; `make soak` asks for 300)."""

import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_kill  # noqa: E402
from check_kill import Broker, Container, Ledger, Message, kill_later  # noqa

CYCLES = int(sys.argv[1] if len(sys.argv) > 1 else
             os.environ.get("BACKLOG_CYCLES", 10))
SEED = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
LIMITS = {
    "limits.memory": "16MiB",
    "journal.segment_size": "1MiB",
    "journal.checkpoint_bytes": "1MiB",
    "journal.checkpoint_interval": "1s",
    "store.hot_size": "1MiB",
    "store.hot_time": "100ms",
    "store.extent_file_size": "1MiB",
}
ALIVE_S = (0.2, 1.0)
STUCK_S = 60
QUIET_S = 20
WINDOW = 300
PRIORITIES = (4, 4, 4, 4, 9, 0)


def pad(number):
    """Most are small; about one in fifty is large enough to come in pieces."""
    size = 150_000 if number % 53 == 7 else 1 + number * 7919 % 8000
    return random.Random(number).randbytes(16) * (size // 16 + 1)


class Client(check_kill.Client):
    def __init__(self, url, ledger, chance, sends, receives, draining):
        super().__init__(url, ledger, draining)
        self.prefetch = 0
        self.chance, self.sends, self.receives = chance, sends, receives
        self.undecided = []

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False,
                                                  heartbeat=None)
        if self.sends:
            event.container.create_sender(self.connection, "backlog")
        if self.receives:
            receiver = event.container.create_receiver(self.connection,
                                                       "backlog")
            receiver.rcv_settle_mode = 1
            receiver.flow(100)

    def fill(self, sender):
        while sender.credit and len(self.in_flight) < WINDOW:
            number = self.ledger.take()
            delivery = sender.send(Message(
                body=[number, pad(number)], durable=True,
                priority=PRIORITIES[number % len(PRIORITIES)]))
            self.in_flight[delivery.tag] = number

    def on_message(self, event):
        number, body = event.message.body
        if body != pad(number):
            self.ledger.wrong.append("the body of %d is not what was sent" %
                                     number)
        if self.draining:
            signal.alarm(QUIET_S)
        self.undecided.append((event.delivery, number))
        if len(self.undecided) >= 20:
            self.chance.shuffle(self.undecided)
            self.decide(10)
        elif self.draining:
            self.decide(len(self.undecided))
        event.receiver.flow(1)

    def decide(self, count):
        for _ in range(count):
            delivery, number = self.undecided.pop()
            what = 1.0 if self.draining else self.chance.random()
            if what < 0.05:
                delivery.update(delivery.RELEASED)
                delivery.settle()
                continue
            if what < 0.08:
                delivery.local.failed = True
                delivery.update(delivery.MODIFIED)
                delivery.settle()
                continue
            self.ledger.receive(number)
            self.unsure[delivery.tag] = number
            delivery.update(delivery.ACCEPTED)


def live(broker, ledger, chance):
    sends = chance.random() < 0.7
    receives = not sends or chance.random() < 0.5
    client = Client(broker.url, ledger, chance, sends, receives, False)
    killer = kill_later(broker, chance.uniform(*ALIVE_S))
    Container(client).run()
    killer.join()
    client.book()


def drain(broker, ledger, chance):
    client = Client(broker.url, ledger, chance, False, True, True)
    if client.complete():
        return
    signal.alarm(QUIET_S)
    try:
        Container(client).run()
    except check_kill.Stuck:
        pass  # what is missing is lost: main() counts it
    client.book()


def main():
    chance = random.Random(SEED)
    ledger = Ledger()
    options = [word for key, value in LIMITS.items()
               for word in ("--set", "%s=%s" % (key, value))]
    broker = Broker("backlog", *options)
    slowest = 0.0

    signal.signal(signal.SIGALRM, check_kill.stuck)
    for _ in range(CYCLES):
        signal.alarm(STUCK_S)
        begun = time.monotonic()
        broker.start()
        slowest = max(slowest, time.monotonic() - begun)
        live(broker, ledger, chance)
        if ledger.wrong:
            break
    extents = os.path.join(broker.data, "extents")
    files = len(os.listdir(extents)) if os.path.isdir(extents) else 0
    if not ledger.wrong:
        signal.alarm(STUCK_S)
        broker.start()
        drain(broker, ledger, chance)
    lost = ledger.confirmed - ledger.seen.keys()
    if os.environ.get("VERBOSE"):
        print("%d cycles, %d confirmed, %d received, %d extent files before "
              "the end, slowest start %.2f s" %
              (CYCLES, len(ledger.confirmed), len(ledger.seen), files,
               slowest))
    if lost:
        print("%d of %d confirmed messages are lost, the first is %d" %
              (len(lost), len(ledger.confirmed), min(lost)))
    if not files and not ledger.wrong:
        ledger.wrong.append("there was never an extent file: the test tested "
                            "nothing")
    for line in ledger.wrong[:10]:
        print(line)
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
