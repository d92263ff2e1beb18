"""Nodes of a highly available broker: processes of this machine on a local
directory, or guests (uml.py) that mount it from an NFS server (nfs.py).

A guest is reached over a line of its own, not over the network that the lab
cuts.  It has two devices: one towards the storage, one towards clients."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request

import uml
from agent import Agent

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "interop"))
from broker import free_port  # noqa: E402

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
BOOT_S, ANSWER_S, READY_S, END_S = 60, 30, 60, 60
# Delegations aside, what docs/operations says: hard, and short time-outs.
MOUNT = "vers=4.2,proto=tcp,hard,timeo=50,retrans=2"
BOOT = """
set -e
ip link set vec0 up; ip addr add {storage}/24 dev vec0
ip link set vec1 up; ip addr add {address}/24 dev vec1
mkdir -p /mnt/nfs /run/index
mount -t nfs4 -o {mount},addr={server},clientaddr={storage} {server}:/export /mnt/nfs
"""


class Node:
    """What both kinds have.  number: from 1.  settings: KEY=VALUE."""

    def __init__(self, number, share, settings, environment):
        self.number, self.name = number, "node%d" % number
        self.log = os.path.join(share, self.name + ".log")
        self.settings, self.environment = settings, dict(environment)
        self.started = 0  # where in the log its last life begins
        open(self.log, "ab").close()

    @property
    def url(self):
        return "amqp://%s:%d" % (self.address, self.port)

    def command(self):
        words = [os.path.join(BUILD, "holdfastd"), "--data-dir", self.data,
                 "--listen", "amqp://%s:%d" % (self.address, self.port),
                 "--admin", "127.0.0.1:%d" % self.admin_port,
                 "--set", "index_dir=" + self.index,
                 "--set", "anonymous=always"]
        for setting in self.settings:
            words += ["--set", setting]
        return words

    def start(self):
        self.started = os.path.getsize(self.log)
        self.ask("start", self.command(), self.guest_log, self.environment)

    def signal(self, number):
        self.ask("signal", int(number))

    def code(self, seconds=0):
        return self.ask("code", seconds)

    def running(self):
        return self.process_known() and self.code() is None

    def said(self):
        """Its log since it was started last, as objects."""
        events = []
        with open(self.log, "rb") as f:
            f.seek(self.started)
            for line in f:
                try:
                    events.append(json.loads(line))
                except ValueError:
                    pass  # half a line, or not of the broker
        return events

    def get(self, path):
        return json.loads(self.ask("get", "http://127.0.0.1:%d%s" % (
            self.admin_port, path)))

    def last_words(self, count=15):
        with open(self.log, errors="replace") as f:
            return "".join("    %s| %s" % (self.name, line)
                           for line in f.readlines()[-count:])


class LocalNode(Node):
    """A process of this machine, on 127.0.0.1."""

    def __init__(self, number, share, data, settings, environment=()):
        super().__init__(number, share, settings, environment)
        self.agent = Agent()
        self.data, self.guest_log = data, self.log
        self.index = os.path.join(share, self.name + ".index")
        os.makedirs(self.index)
        self.address = "127.0.0.1"
        self.port, self.admin_port = free_port(), free_port()

    def ask(self, do, *arguments, seconds=ANSWER_S):
        return getattr(self.agent, do)(*arguments)

    def tell(self, do, *arguments):
        thread = threading.Thread(target=self.ask, args=(do, *arguments),
                                  daemon=True)
        thread.start()
        return thread

    def process_known(self):
        return self.agent.process is not None

    def get(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (
                self.admin_port, path), timeout=5) as answer:
            return json.load(answer)

    def close(self):
        if self.agent.process and self.agent.process.poll() is None:
            self.agent.process.kill()
            self.agent.process.wait()


class GuestNode(Node):
    """A guest with its own kernel, and so with its own NFS client."""

    port, admin_port = 5672, 8161
    data, index = "/mnt/nfs/data", "/run/index"

    def __init__(self, number, share, memory_dir, settings, network,
                 environment=(), memory="512M"):
        super().__init__(number, share, settings, environment)
        self.guest_log = "/mnt/share/%s.log" % self.name
        self.network = network
        self.storage = network.storage_address(number)
        self.address = network.client_address(number)
        self.lock, self.answers, self.asked = threading.Condition(), {}, 0
        self.gone = False
        self.guest = uml.Guest(
            share, self.name, "/usr/bin/python3 %s/agent.py /dev/ttyS0" % HERE,
            modules=["nfsv4", "sch_netem"], memory=memory,
            memory_dir=memory_dir, taps=network.taps(number), with_line=True)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        rest = b""
        while True:
            text = self.guest.from_guest.read(65536)
            with self.lock:
                if not text:
                    self.gone = True
                    self.lock.notify_all()
                    return
                *lines, rest = (rest + text).split(b"\n")
                for line in lines:
                    try:
                        answer = json.loads(line)
                    except ValueError:
                        continue  # of the terminal, before it was raw
                    self.answers[answer["id"]] = answer
                self.lock.notify_all()

    def wait_answer(self, id, seconds):
        with self.lock:
            if not self.lock.wait_for(
                    lambda: id in self.answers or self.gone, seconds):
                raise AssertionError("%s does not answer" % self.name)
            if id not in self.answers:
                raise AssertionError("%s is gone" % self.name)
            answer = self.answers.pop(id)
        if "error" in answer:
            raise AssertionError("%s: %s" % (self.name, answer["error"]))
        return answer["ok"]

    def send(self, do, arguments):
        with self.lock:
            self.asked += 1
            id = self.asked
        self.guest.to_guest.write(json.dumps(
            {"id": id, "do": do, "with": arguments}).encode() + b"\n")
        return id

    def ask(self, do, *arguments, seconds=ANSWER_S):
        return self.wait_answer(self.send(do, arguments), seconds)

    def tell(self, do, *arguments):
        id = self.send(do, arguments)
        seconds = ANSWER_S + sum(a for a in arguments
                                 if isinstance(a, float))
        thread = threading.Thread(target=self.wait_answer,
                                  args=(id, seconds), daemon=True)
        thread.start()
        return thread

    def boot(self):
        """Waits for the guest, and mounts."""
        try:
            self.wait_answer(0, BOOT_S)
            done = self.ask("shell", BOOT.format(
                storage=self.storage, address=self.address, mount=MOUNT,
                server=self.network.server), 30, seconds=60)
        except AssertionError as why:
            raise AssertionError("%s\n%s%s" % (
                why, self.guest.read("console")[-2000:],
                self.guest.read("out"))) from why
        if done["code"]:
            raise AssertionError("%s: %s" % (self.name, done["said"]))

    def process_known(self):
        return self.started is not None

    def close(self):
        self.guest.kill()


def wait_until(what, found, seconds, step=0.02):
    until = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        if time.monotonic() > until:
            raise AssertionError("not in %d s: %s" % (seconds, what))
        time.sleep(step)
