"""Nodes of a highly available broker: processes of this machine on a local
directory, or guests (uml.py) that mount it from an NFS server (nfs.py).

A guest is reached over a line of its own, not over the network that the lab
cuts.  It has two devices: one towards the storage, one towards clients."""

import json
import os
import signal
import socket
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
HOLDFAST = os.path.join(BUILD, "holdfast")
BOOT_S, ANSWER_S = 60, 30
MOUNT = "vers=4.2,proto=tcp,hard,timeo=50,retrans=2"
BOOT = """
set -e
ip link set vec0 up; ip addr add {storage}/24 dev vec0
ip link set vec1 up; ip addr add {address}/24 dev vec1
mkdir -p /mnt/nfs /run/index
mount -t nfs4 -o {mount},addr={server},clientaddr={storage} {server}:/export /mnt/nfs
"""


class Node:
    """What both kinds have.  number: from 1; settings: KEY=VALUE; steps: the
    library of commit_steps.c, to be preloaded, or None."""

    def __init__(self, number, share, settings, steps):
        self.number, self.name = number, "node%d" % number
        self.log = os.path.join(share, self.name + ".log")
        self.settings = list(settings)
        self.environment = {}
        if steps:
            self.environment = {"LD_PRELOAD": steps,
                                "COMMIT_STEPS": self.control}
        self.blind = 0  # 1: without its look at the claim
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

    def start(self, again_s=1.0):
        self.started = os.path.getsize(self.log)
        if self.environment:
            self.shell("printf '\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\%d\\0\\0\\0' >%s" % (
                self.blind, self.control))
        self.ask("start", self.command(), self.guest_log, self.environment,
                 again_s)

    def shell(self, command, seconds=30):
        done = self.ask("shell", command, seconds, seconds=seconds + 10)
        if done["code"]:
            raise AssertionError("%s: %s: %s" % (self.name, command,
                                                 done["said"]))
        return done["said"]

    def send(self, number):
        self.ask("send", int(number))

    def stop(self, number=signal.SIGTERM, seconds=30):
        return self.ask("stop", int(number), seconds, seconds=seconds + 10)

    def lives(self, after=0):
        return self.ask("lives", after)

    def role(self):
        """What it says of itself; "" when it says nothing."""
        try:
            return self.get("/api/v1/cluster")["role"]
        except (OSError, ValueError, AssertionError):
            return ""

    def lets_in(self):
        """Whether its port is open."""
        try:
            socket.create_connection((self.address, self.port), 0.3).close()
            return True
        except OSError:
            return False

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

    def dump(self):
        """Where its threads are, to its log."""
        self.ask("dump", self.guest_log)

    def last_words(self, count=15):
        with open(self.log, errors="replace") as f:
            return "".join("    %s| %s" % (self.name, line)
                           for line in f.readlines()[-count:])


class LocalNode(Node):
    """A process of this machine, on 127.0.0.1."""

    def __init__(self, number, share, data, settings, steps=None):
        self.control = os.path.join(share, "node%d.steps" % number)
        super().__init__(number, share, settings, steps)
        self.agent = Agent()
        self.data, self.guest_log = data, self.log
        self.index = os.path.join(share, self.name + ".index")
        os.makedirs(self.index)
        self.address = "127.0.0.1"
        self.port, self.admin_port = free_port(), free_port()

    def ask(self, do, *arguments, seconds=ANSWER_S):
        """Agent.do(*arguments), on the node; seconds bound the answer."""
        return getattr(self.agent, do)(*arguments)

    def get(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (
                self.admin_port, path), timeout=5) as answer:
            return json.load(answer)

    def close(self):
        self.stop(signal.SIGKILL)


class GuestNode(Node):
    """A guest with its own kernel, and so with its own NFS client."""

    port, admin_port = 5672, 8161
    data, index, control = "/mnt/nfs/data", "/run/index", "/run/steps"

    def __init__(self, number, share, memory_dir, settings, network,
                 steps=None, memory="512M"):
        super().__init__(number, share, settings, steps)
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

    def request(self, do, arguments):
        with self.lock:
            self.asked += 1
            id = self.asked
        self.guest.to_guest.write(json.dumps(
            {"id": id, "do": do, "with": arguments}).encode() + b"\n")
        return id

    def ask(self, do, *arguments, seconds=ANSWER_S):
        return self.wait_answer(self.request(do, arguments), seconds)

    def boot(self):
        """Waits for the guest, and mounts."""
        try:
            self.wait_answer(0, BOOT_S)
            self.shell(BOOT.format(
                storage=self.storage, address=self.address, mount=MOUNT,
                server=self.network.server))
        except AssertionError as why:
            raise AssertionError("%s\n%s%s" % (
                why, self.guest.read("console")[-2000:],
                self.guest.read("out"))) from why

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
