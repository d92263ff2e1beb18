"""What a ledger (client.py) says that a broker owes, and whether it has paid.

A message may be there as often as it was sent without being refused.  Told
apart: lost (confirmed, and not to be had when everything was received), come
back (received once more than it may, after its acknowledgements were
confirmed), and invented (never sent)."""

import collections


class Queue:
    def __init__(self):
        self.copies = collections.Counter()   # sent and not refused
        self.settled = collections.Counter()  # acknowledgements confirmed
        self.confirmed, self.received = set(), set()
        self.emptied = 1  # every number below was accounted for


class Oracle:
    def __init__(self, path):
        self.file = open(path)
        self.rest = ""
        self.queues = collections.defaultdict(Queue)
        self.wrong = []
        self.confirmed_count = self.acknowledged_count = 0
        self.confirmed_us = []  # when, of the round
        self.connected = []     # (us, address), "" when it broke

    def next(self, queue):
        """The first number that was never used."""
        q = self.queues[queue]
        return max(q.copies, default=q.emptied - 1) + 1

    def read(self):
        """What was added to the ledger since it was read last."""
        text = self.rest + self.file.read()
        *lines, self.rest = text.split("\n")
        for line in lines:
            event, queue, number, us = line.split(" ")
            if event in "KD":
                self.connected.append((int(us), queue if event == "K"
                                       else ""))
            else:
                self.book(event, queue, self.queues[queue], int(number),
                          int(us))

    def book(self, event, name, q, number, us):
        if event == "P":
            q.copies[number] += 1
        elif event == "X":
            q.copies[number] -= 1
        elif event == "C":
            q.confirmed.add(number)
            self.confirmed_count += 1
            self.confirmed_us.append(us)
        elif event == "S":
            q.settled[number] += 1
            self.acknowledged_count += 1
        elif event == "B":
            if number < q.emptied or \
                    0 < q.copies[number] <= q.settled[number]:
                self.wrong.append("%s %d was acknowledged and came back" %
                                  (name, number))
            elif number not in q.copies or q.copies[number] < 1:
                self.wrong.append("%s %d came and was never sent" %
                                  (name, number))
            q.received.add(number)

    def begin_round(self):
        self.read()
        self.confirmed_us.clear()
        del self.connected[:-1]

    def node(self):
        """The address it is connected to, "" for none."""
        return self.connected[-1][1] if self.connected else ""

    def emptied(self):
        """Everything that was there has been received: what is missing?"""
        self.read()
        lost = 0
        for name, q in self.queues.items():
            missing = sorted(q.confirmed - q.received)
            lost += len(missing)
            if missing:
                self.wrong.append("%s: %d confirmed messages are lost: %s" % (
                    name, len(missing), missing[:10]))
            q.emptied = self.next(name)
            for known in (q.copies, q.settled, q.confirmed, q.received):
                known.clear()
        return lost

    def wanted(self):
        """By queue, the fewest and the most messages that may be there."""
        bounds = {}
        for name, q in self.queues.items():
            fewest = len(q.confirmed - q.received)
            most = sum(q.copies.values()) - sum(q.settled.values())
            bounds[name] = (fewest, most)
        return bounds
