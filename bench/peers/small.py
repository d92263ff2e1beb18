"""Redis, NATS and beanstalkd: one program each, configured by a few words."""

import glob
import os
import shutil
import socket
import subprocess

from jvm import FETCHED
from peer import Peer, Unavailable, program, words

NATS_MODULE = "github.com/nats-io/nats-server/v2@v2.15.2"
FETCH_S = 540


class Redis(Peer):
    key = "redis"
    title = "Redis streams"
    protocol = "redis"
    policy = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    settings = ("XADD, consumer groups, XACK and XDEL; appendonly yes, "
                "appendfsync always, no snapshots")
    note = ("everything is in memory as well; fan-out is one stream with ten "
            "groups, so one copy")

    def find(self):
        self.path = program("redis-server")
        if not self.path:
            raise Unavailable("redis-server is not installed")
        self.version = words([self.path, "--version"]).split("v=")[1].split()[0]

    def configure(self, home):
        pass

    def command(self):
        return [self.path, "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", self.home, "--daemonize", "no", *self.policy], {}

    def ready(self):
        """The port is open while it still loads; PING says LOADING then."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                s.sendall(b"PING\r\n")
                return s.recv(64).startswith(b"+PONG")
        except OSError:
            return False


class RedisDefaults(Redis):
    key = "redis-default"
    title = "Redis streams, its defaults"
    column = "defaults"
    syncs = False
    policy = ()
    settings = "as it comes: no append-only file, a snapshot once in a while"
    note = "what came after the last snapshot is lost with the process"


NATS = """listen: "127.0.0.1:{port}"
max_payload: 8388608
max_pending: 268435456
jetstream {{
  store_dir: "{home}/jetstream"
  max_memory_store: 1073741824
  max_file_store: 42949672960
  {sync}
}}
"""


class Nats(Peer):
    key = "nats"
    title = "NATS JetStream, sync_interval always"
    protocol = "nats"
    sync = "sync_interval: always"
    note = "fan-out is one stream with ten consumers, so one copy"
    settings = ("file storage, work-queue retention, one replica, publish "
                "acknowledged; sync_interval: always")

    def find(self):
        self.path = os.environ.get("NATS_SERVER") or self.build()
        self.version = words([self.path, "--version"]).split(":")[-1].strip()

    def build(self):
        """The current release, built by Go once."""
        built = os.path.join(FETCHED, "nats", "nats-server")
        if os.access(built, os.X_OK):
            return built
        if not shutil.which("go"):
            raise Unavailable("go is not installed, NATS_SERVER is not set, and "
                              "Debian's release has no sync_interval")
        os.makedirs(os.path.dirname(built), exist_ok=True)
        try:
            done = subprocess.run(
                ["go", "install", NATS_MODULE], stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=FETCH_S,
                env=dict(os.environ, GOBIN=os.path.dirname(built),
                         GOTOOLCHAIN="local"))
        except subprocess.TimeoutExpired:
            raise Unavailable("go did not build it in %d s" % FETCH_S) from None
        if done.returncode:
            raise Unavailable("go: " + done.stderr.strip()[-200:])
        return built

    def configure(self, home):
        with open(os.path.join(home, "nats.conf"), "w") as f:
            f.write(NATS.format(port=self.port, home=home, sync=self.sync))

    def command(self):
        return [self.path, "-c", os.path.join(self.home, "nats.conf")], {}

    def ready(self):
        """JetStream too: its recovery comes before the port opens."""
        return self.port_open()


class NatsDefaults(Nats):
    key = "nats-default"
    title = "NATS JetStream, its defaults"
    column = "defaults"
    syncs = False
    sync = ""
    settings = "as nats, without sync_interval: it syncs every two minutes"
    note = "confirms what is not on the disk"


class NatsDebian(NatsDefaults):
    key = "nats-debian"
    title = "NATS JetStream, Debian's release"
    settings = "as nats-default; this release cannot sync before confirming"

    def find(self):
        self.path = program("nats-server")
        if not self.path:
            raise Unavailable("nats-server is not installed")
        self.version = words([self.path, "--version"]).split(":")[-1].strip()


class Beanstalkd(Peer):
    key = "beanstalkd"
    title = "beanstalkd"
    protocol = "beanstalk"
    settings = "binlog with -f0: a sync for every write"
    note = "everything is in memory as well"

    def find(self):
        self.path = program("beanstalkd")
        if not self.path:
            raise Unavailable("beanstalkd is not installed")
        self.version = words([self.path, "-v"]).split()[-1]

    def configure(self, home):
        os.makedirs(os.path.join(home, "binlog"))

    def fans_out(self):
        return False

    def log_options(self):
        return ["-b", os.path.join(self.home, "binlog"), "-f0"]

    def command(self):
        return [self.path, "-l", "127.0.0.1", "-p", str(self.port), "-z",
                "8388608", *self.log_options()], {}


class BeanstalkdDefaults(Beanstalkd):
    key = "beanstalkd-default"
    title = "beanstalkd, its defaults"
    column = "defaults"
    syncs = False
    settings = "as it comes: no binlog, memory only"
    note = "keeps nothing"

    def log_options(self):
        return []
