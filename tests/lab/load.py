"""The load of a recording, and the ledger of what it has been promised.

Four queues: "keep" only fills; "fifo" is consumed in order; "holes" is
consumed but for every third message, which its consumer keeps and gives back
at its end; "large" has messages of a few hundred KiB and is consumed like it.

A line of the ledger is an event, a queue and a number:
  P  is about to be sent          C  confirmed
  B  is about to be acknowledged  S  the broker has settled that
Each stands there before what follows from it is sent."""

import random

from proton import Message
from proton.handlers import MessagingHandler
from proton.reactor import Container

from body import body

QUEUES = ("keep", "fifo", "holes", "large")
WINDOW = 50
KEPT = {"holes": 3, "large": 5}  # every so manieth is
BACKLOG = {"large": 5}  # confirmed before the consumer begins
BACKLOG_OTHERS = 200


class Ledger:
    def __init__(self, path):
        self.file = open(path, "w")
        self.count = 0
        self.next = dict.fromkeys(QUEUES, 1)
        self.confirmed = dict.fromkeys(QUEUES, 0)

    def book(self, event, queue, number):
        self.file.write("%s %s %d\n" % (event, queue, number))
        self.count += 1

    def flush(self):
        self.file.flush()


class Worker(MessagingHandler):
    def __init__(self, url, ledger, seconds):
        super().__init__(prefetch=0, auto_accept=False, auto_settle=False)
        self.url, self.ledger = url, ledger
        self.seconds = seconds
        self.sizes = random.Random(1)
        self.flying = {}   # (queue, tag): number
        self.in_flight = dict.fromkeys(QUEUES, 0)
        self.acking = {}   # (queue, tag): number
        self.receivers = {}
        self.ended = False

    def on_start(self, event):
        self.connection = event.container.connect(self.url, reconnect=False,
                                                  heartbeat=None)
        event.container.schedule(self.seconds, self)
        for queue in QUEUES:
            event.container.create_sender(self.connection, queue, name=queue)

    def size(self, queue):
        if queue == "large":
            return self.sizes.randrange(110000, 400000)
        return self.sizes.choice((100, 700, 1000, 1300, 4000))

    def fill(self, sender):
        queue = sender.name
        window = 2 if queue == "large" else WINDOW
        while (sender.credit and self.in_flight[queue] < window and
               not self.ended):
            number = self.ledger.next[queue]
            self.ledger.next[queue] += 1
            self.ledger.book("P", queue, number)
            delivery = sender.send(Message(
                body=body(number, self.size(queue)), durable=True))
            self.flying[queue, delivery.tag] = number
            self.in_flight[queue] += 1

    def on_timer_task(self, event):
        self.ended = True
        self.connection.close()

    def on_sendable(self, event):
        self.fill(event.sender)

    def on_accepted(self, event):
        if event.link.is_receiver:
            return
        queue = event.link.name
        number = self.flying.pop((queue, event.delivery.tag))
        self.in_flight[queue] -= 1
        self.ledger.book("C", queue, number)
        self.ledger.confirmed[queue] += 1
        event.delivery.settle()
        if self.ledger.confirmed[queue] >= BACKLOG.get(queue,
                                                       BACKLOG_OTHERS):
            self.consume(event.container, queue)
        self.fill(event.link)

    def consume(self, container, queue):
        if queue == "keep" or queue in self.receivers or self.ended:
            return
        # The receiver settles second: it learns when its acknowledgement is
        # final.
        receiver = container.create_receiver(self.connection, queue,
                                             name="from-" + queue)
        receiver.rcv_settle_mode = 1
        receiver.flow(100)
        self.receivers[queue] = receiver

    def on_message(self, event):
        queue = event.link.name[len("from-"):]
        number = int(event.message.body.split(" ", 1)[0])
        if event.message.body != body(number, len(event.message.body)):
            raise AssertionError("%s %d came changed" % (queue, number))
        event.link.flow(1)
        if number % KEPT.get(queue, number + 1) == 0:
            return
        self.ledger.book("B", queue, number)
        self.acking[queue, event.delivery.tag] = number
        event.delivery.update(event.delivery.ACCEPTED)

    def on_settled(self, event):
        if not event.link.is_receiver:
            return
        queue = event.link.name[len("from-"):]
        number = self.acking.pop((queue, event.delivery.tag), None)
        if number is not None:
            self.ledger.book("S", queue, number)
        event.delivery.settle()

    def on_transport_error(self, event):
        if not self.ended:
            raise AssertionError("the connection broke: %s" %
                                 event.transport.condition)


def work(url, ledger, seconds):
    worker = Worker(url, ledger, seconds)
    Container(worker).run()
    ledger.flush()
    if not worker.ended:
        raise AssertionError("the broker has closed the connection")
