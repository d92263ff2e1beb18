"""Asks nodes again and again for a confirmation, to learn when the first one
comes, independently of how a client finds its way."""

import os
import socket
import threading
import time

from proton import Message, ProtonException
from proton.utils import BlockingConnection

from body import body

KNOCK_S, ANSWER_S, PAUSE_S = 0.2, 5, 0.005
QUEUE = "probe"


class Prober(threading.Thread):
    """confirmed_us: when, on the monotonic clock; None: not yet.  What it sends
    stands in the ledger."""

    def __init__(self, nodes, ledger, number):
        super().__init__(daemon=True)
        self.nodes, self.number = nodes, number
        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND)
        self.ended = threading.Event()
        self.confirmed_us = None

    def book(self, event):
        now = time.monotonic_ns() // 1000
        os.write(self.ledger, b"%s %s %d %d\n" % (
            event.encode(), QUEUE.encode(), self.number, now))
        return now

    def knock(self, node):
        try:
            socket.create_connection((node.address, node.port),
                                     KNOCK_S).close()
            return True
        except OSError:
            return False

    def ask(self, node):
        connection = BlockingConnection(node.url, timeout=ANSWER_S)
        try:
            sender = connection.create_sender(QUEUE)
            self.book("P")
            sender.send(Message(body=body(self.number, 100), durable=True))
            self.confirmed_us = self.book("C")
        finally:
            connection.close()

    def run(self):
        while not self.ended.wait(PAUSE_S):
            for node in self.nodes:
                if not self.knock(node):
                    continue
                try:
                    self.ask(node)
                    return
                except (OSError, ProtonException):
                    pass  # it has just begun or just ended: ask again

    def stop(self):
        self.ended.set()
        self.join()
        os.close(self.ledger)
