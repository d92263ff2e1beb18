"""Holdfast, as it comes: encrypted, and durable before it confirms."""

import os

from peer import Peer, Unavailable, words

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
DAEMON = os.path.join(BUILD, "holdfastd")


class Holdfast(Peer):
    key = "holdfast"
    title = "Holdfast"
    protocol = "amqp"
    engine = "auto"
    settings = "AMQP 1.0; its defaults: encryption on, one journal"

    def find(self):
        if not os.access(DAEMON, os.X_OK):
            raise Unavailable("%s is not built" % DAEMON)
        self.version = words([DAEMON, "--version"]).split()[-1]

    def traced(self):
        """strace does not see what io_uring submits; the other engine syncs
        by system calls."""
        return HoldfastThreads()

    def configure(self, home):
        pass

    def command(self):
        return [DAEMON, "--data-dir", os.path.join(self.home, "data"),
                "--listen", "amqp://127.0.0.1:%d" % self.port,
                "--admin", "off", "--set", "engine=" + self.engine], {}


class HoldfastThreads(Holdfast):
    key = "holdfast-threads"
    title = "Holdfast without io_uring"
    engine = "threads"
    settings = "as holdfast, engine threads"
