#!/usr/bin/python3
"""A broker whose consumers have stopped: memory, disk and time.

Each part starts from an empty directory under build/tmp and removes it:

  backlog      fill queues, watch memory and disk; SIGKILL and start again,
               also without the index; drain
  stuck        one message stays at the head while others pass by it
  queues       many queues with a few messages each
  connections  many connections that do nothing

Usage: backlog.py [options] [PART...]; without a part, all of them.
Sizes are those of message bodies.  Prints a table and writes JSON."""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
HOLDFAST = os.path.join(BUILD, "holdfast")
HOLDFASTD = os.path.join(BUILD, "holdfastd")
SCRATCH = os.path.join(os.path.abspath("build/tmp"), "backlog-%d" %
                       os.getpid())
MIB = 1 << 20
START_S = 600
SETTLE_S = 600      # but not longer
SHORT_COUNT = 100000
PROTON_PYTHON = "/usr/bin/python3"


class Broker:
    def __init__(self, name, options):
        self.queues, self.quiet_s = options.queues, options.quiet
        self.dir = os.path.join(SCRATCH, name)
        self.data = os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "log")
        os.makedirs(self.dir)
        self.settings = options.set
        self.ready = {}

    def start(self):
        """Seconds from the start of the process to its being ready."""
        command = [HOLDFASTD, "--data-dir", self.data, "--listen",
                   "amqp://127.0.0.1:0", "--admin", "127.0.0.1:0"]
        for setting in self.settings:
            command += ["--set", setting]
        begun = time.monotonic()
        with open(self.log, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while time.monotonic() < begun + START_S:
            with open(self.log, "rb") as log:
                log.seek(at)
                said = log.read()
            if b'"event":"ready"' in said and said.endswith(b"\n"):
                took = time.monotonic() - begun
                self.take_ports(said)
                return took
            if self.process.poll() is not None:
                break
            time.sleep(0.0005)
        raise RuntimeError("the broker did not start: " + said.decode(
            "utf-8", "replace")[-2000:])

    def take_ports(self, said):
        for line in said.decode().splitlines():
            if '"event":"ready"' in line:
                self.ready = json.loads(line)
        self.url = "amqp://127.0.0.1:%d" % self.ready["port"]
        admin = re.search(r":(\d+)$", self.ready["admin"])
        self.admin = "http://127.0.0.1:" + admin[1]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def memory(self):
        """MiB: resident, of it anonymous, and the most so far."""
        found = {}
        with open("/proc/%d/status" % self.process.pid) as status:
            for line in status:
                word = line.split()
                if word[0] in ("VmRSS:", "RssAnon:", "VmHWM:"):
                    found[word[0]] = int(word[1]) / 1024
        return found["VmRSS:"], found["RssAnon:"], found["VmHWM:"]

    def metric(self, name):
        """None where this broker does not have it."""
        with urllib.request.urlopen(self.admin + "/metrics",
                                    timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        return None

    def disk(self):
        """Bytes that its files take."""
        total = 0
        for folder, _, names in os.walk(self.data):
            for name in names:
                try:
                    st = os.stat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
                total += st.st_blocks * 512
        return total

    def settled_disk(self):
        """Once it has not changed for quiet_s: longer than what is moved and
        removed waits for the clock."""
        until = time.monotonic() + SETTLE_S
        seen, since = self.disk(), time.monotonic()
        while time.monotonic() < until and time.monotonic() < since + self.quiet_s:
            time.sleep(1)
            now = self.disk()
            if now != seen:
                seen, since = now, time.monotonic()
        return seen


class Watch(threading.Thread):
    """Looks again and again, until it is told to end; keeps the most."""

    def __init__(self, look, every_s):
        super().__init__(daemon=True)
        self.look, self.every_s = look, every_s
        self.most, self.ended = 0.0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(self.every_s):
            try:
                self.most = max(self.most, self.look())
            except (OSError, KeyError, TypeError):
                pass  # it has just ended

    def end(self):
        self.ended.set()
        self.join()
        return self.most


def bench(broker, *arguments):
    done = subprocess.run(
        [HOLDFAST, "bench", "amqp", "--url", broker.url, "-o", "json",
         "--warm-up", "0s", "--patience", "120s"] + list(arguments),
        capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError("holdfast bench amqp %s: %s%s" % (
            " ".join(arguments), done.stdout, done.stderr))
    result = json.loads(done.stdout)
    refused = result["verified"]["sent"] - result["verified"]["accepted"]
    if refused:
        raise RuntimeError("%d messages were refused: is the disk full?" %
                           refused)
    return result


class Figures:
    def __init__(self):
        self.all = {}

    def add(self, name, value, unit, limit=None):
        """limit: ("<=" or ">=", value) is what it should be."""
        if value is None:
            return
        figure = {"value": value, "unit": unit}
        text = self.show(value, unit)
        if limit:
            sign, bound = limit
            figure["wanted"] = "%s %g" % (sign, bound)
            figure["holds"] = (value <= bound if sign == "<=" else
                               value >= bound)
            text += "   (%s %s: %s)" % (
                sign, self.show(bound, unit),
                "yes" if figure["holds"] else "NO")
        self.all[name] = figure
        print("%-58s %s" % (name, text), flush=True)

    @staticmethod
    def show(value, unit):
        if unit == "":
            return "%.3f" % value
        if unit in ("/s", "messages"):
            return "{:,.0f} {}".format(value, unit).replace(" /s", "/s")
        return "%.2f %s" % (value, unit)


# ---- backlog ----

def spread(options):
    return ["--senders", str(max(options.queues, 4)), "--queues",
            str(options.queues), "--address", "backlog", "--size",
            str(options.size)]


def fill(broker, options, count):
    """Confirmed a second, by part of the filling; and how many there are: the
    client sends a few more than it measures."""
    part = max(count // 10, 1)
    rates, sent = [], 0
    while count > 0:
        n = min(part, count)
        result = bench(broker, "--count", str(n), "--leave", *spread(options))
        rates.append(result["confirmed_per_second"])
        sent += result["verified"]["sent"]
        count -= n
    return rates, sent


def first_message(broker):
    queue = "backlog.0" if broker.queues > 1 else "backlog"
    begun = time.monotonic()
    subprocess.run([HOLDFAST, "receive", queue, "--url", broker.url,
                    "--count", "1", "--no-ack"], check=True,
                   stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def restart(broker, figures, title, limit=None):
    broker.kill()
    ready = broker.start()
    first = ready + first_message(broker)
    figures.add("%s: ready" % title, ready, "s")
    figures.add("%s: first message" % title, first, "s", limit)
    return first


def restart_without_index(broker, figures):
    index = os.path.join(broker.data, "index")
    if not os.path.isdir(index):
        return
    broker.kill()
    shutil.rmtree(index)
    figures.add("backlog: start without the index", broker.start(), "s",
                ("<=", 10))


def drain(broker, options, figures, queued, short_rate):
    """A few more messages go behind the others: when they have come, so have
    all, which the client counts as foreign."""
    read = broker.metric("holdfast_store_fetch_read_bytes_total")
    fetched = broker.metric("holdfast_store_fetched_bytes_total")
    result = bench(broker, "--count", "1", *spread(options))
    last = result["verified"]["arrived"]
    seconds = last / result["drained_per_second"]
    came = result["verified"]["foreign"]
    figures.add("backlog: queued and never drained", queued - came,
                "messages", ("<=", 0))
    came += last
    figures.add("backlog: drain rate", came / seconds, "/s")
    figures.add("backlog: drain rate over a short queue's",
                came / seconds / short_rate, "", (">=", 0.6))
    if read is not None:
        read = broker.metric("holdfast_store_fetch_read_bytes_total") - read
        fetched = broker.metric(
            "holdfast_store_fetched_bytes_total") - fetched
        if fetched:
            figures.add("backlog: bytes read for a byte of a message",
                        read / fetched, "")


def small_restart(options, figures):
    """The same with a queue that is short."""
    broker = Broker("small", options)
    broker.start()
    try:
        fill(broker, options, min(SHORT_COUNT, options.count))
        return restart(broker, figures, "%d queued, SIGKILL" % min(
            SHORT_COUNT, options.count))
    finally:
        broker.end()


def part_backlog(options, figures):
    small = small_restart(options, figures)
    broker = Broker("backlog", options)
    broker.start()
    try:
        short = bench(broker, "--count", str(min(SHORT_COUNT, options.count)),
                      *spread(options))["drained_per_second"]
        figures.add("short queue: drain rate", short, "/s")
        anonymous = Watch(lambda: broker.memory()[1], 0.1)
        disk = Watch(broker.disk, 2)
        rates, queued = fill(broker, options, options.count)
        figures.add("backlog: publish rate, first tenth", rates[0], "/s")
        figures.add("backlog: publish rate, last tenth", rates[-1], "/s")
        figures.add("backlog: last over first", rates[-1] / rates[0], "",
                    (">=", 0.6))
        figures.add("backlog: slowest tenth over first", min(rates) /
                    rates[0], "")
        settled = broker.settled_disk()
        figures.add("backlog: most memory while filling", broker.memory()[2],
                    "MiB", ("<=", 300))
        figures.add("backlog: most anonymous memory", anonymous.end(), "MiB")
        figures.add("backlog: most disk while filling", disk.end() / MIB,
                    "MiB")
        figures.add("backlog: disk, settled", settled / MIB, "MiB")
        figures.add("backlog: disk over messages", settled / queued /
                    options.size, "",
                    ("<=", 1.15))
        first = restart(broker, figures, "backlog, SIGKILL", ("<=", 2))
        figures.add("backlog: first message over the short queue's",
                    first / small, "", ("<=", 1.2))
        restart_without_index(broker, figures)
        drain(broker, options, figures, queued, short)
        figures.add("backlog: most memory after the start", broker.memory()[2],
                    "MiB", ("<=", 300))
        figures.add("backlog: disk, emptied", broker.settled_disk() / MIB,
                    "MiB")
    finally:
        broker.end()


# ---- stuck ----

HOLD = """
import sys
from proton.handlers import MessagingHandler
from proton.reactor import Container
class Hold(MessagingHandler):
    def __init__(self):
        super().__init__(prefetch=1, auto_accept=False, auto_settle=False)
    def on_start(self, event):
        c = event.container.connect(sys.argv[1], heartbeat=20)
        event.container.create_receiver(c, "stuck")
    def on_message(self, event):
        print("held", flush=True)
Container(Hold()).run()
"""


def part_stuck(options, figures):
    broker = Broker("stuck", options)
    broker.start()
    holder = None
    try:
        subprocess.run([HOLDFAST, "send", "-q", "--url", broker.url, "stuck",
                        "the one"], check=True)
        holder = subprocess.Popen([PROTON_PYTHON, "-c", HOLD, broker.url],
                                  stdout=subprocess.PIPE, text=True)
        if holder.stdout.readline() != "held\n":
            raise RuntimeError("no consumer: is python3-qpid-proton there?")

        def surplus():
            live = broker.metric("holdfast_store_message_bytes") or 0
            return broker.disk() - live

        watch = Watch(surplus, 1)
        result = bench(broker, "--address", "stuck", "--senders", "2",
                       "--receivers", "2", "--size", str(options.size),
                       "--count", str(options.stuck // options.size))
        figures.add("stuck: passed by", result["verified"]["arrived"] *
                    options.size / 1e9, "GB")
        figures.add("stuck: rate", result["received_per_second"], "/s")
        figures.add("stuck: disk but live, at most", watch.end() / MIB, "MiB",
                    ("<=", 1024))
        figures.add("stuck: disk but live, settled",
                    (broker.settled_disk() - (broker.metric(
                        "holdfast_store_message_bytes") or 0)) / MIB, "MiB",
                    ("<=", 1024))
        figures.add("stuck: most memory", broker.memory()[2], "MiB",
                    ("<=", 300))
    finally:
        if holder:
            holder.kill()
            holder.wait()
        broker.end()


# ---- queues ----

FILL_QUEUES = """
import sys
from proton import Message
from proton.handlers import MessagingHandler
from proton.reactor import Container
url, first, end, each, size = sys.argv[1], *map(int, sys.argv[2:])
class Fill(MessagingHandler):
    def __init__(self):
        super().__init__()
        self.at, self.left, self.body = first, {}, b"x" * size
    def on_start(self, event):
        self.c = event.container.connect(url, reconnect=False, heartbeat=20)
        for _ in range(20):
            self.more(event.container)
    def more(self, container):
        if self.at < end:
            self.at += 1
            name = "many.%d" % (self.at - 1)
            self.left[name] = [each, each]
            container.create_sender(self.c, name, name=name)
        elif not self.left:
            self.c.close()
    def on_sendable(self, event):
        s = event.sender
        left = self.left.get(s.name)
        while left and left[0] and s.credit:
            left[0] -= 1
            s.send(Message(body=self.body, durable=True))
    def on_accepted(self, event):
        left = self.left[event.link.name]
        left[1] -= 1
        if not left[1]:
            del self.left[event.link.name]
            event.link.close()
            self.more(event.container)
    def on_rejected(self, event):
        sys.exit("a message was refused")
Container(Fill()).run()
"""


def part_queues(options, figures):
    broker = Broker("queues", options)
    broker.start()
    try:
        half = options.many // 2
        fillers = [subprocess.Popen(
            [PROTON_PYTHON, "-c", FILL_QUEUES, broker.url, str(first),
             str(end), str(options.each), str(options.size)])
            for first, end in ((0, half), (half, options.many))]
        for filler in fillers:
            if filler.wait():
                raise RuntimeError("filling the queues failed")
        title = "%d queues of %d" % (options.many, options.each)
        figures.add(title + ": most memory", broker.memory()[2], "MiB",
                    ("<=", 300))
        broker.settled_disk()
        broker.kill()
        figures.add(title + ": ready after SIGKILL", broker.start(), "s",
                    ("<=", 2))
        figures.add(title + ": messages", broker.ready.get("messages"),
                    "messages", (">=", options.many * options.each))
        figures.add(title + ": memory after the start", broker.memory()[0],
                    "MiB", ("<=", 300))
    finally:
        broker.end()


# ---- connections ----

def frame(kind, body):
    return (len(body) + 8).to_bytes(4, "big") + bytes([2, kind, 0, 0]) + body


# SASL ANONYMOUS, then open with a container id.
GREETING = (b"AMQP\3\1\0\0" +
            frame(1, b"\x00\x53\x41\xc0\x0c\x01\xa3\x09ANONYMOUS") +
            b"AMQP\0\1\0\0" + frame(0, b"\x00\x53\x10\xc0\x07\x01\xa1\x04idle"))
OPEN = b"\x00\x53\x10"


def part_connections(options, figures):
    broker = Broker("connections", options)
    broker.start()
    sockets = []
    try:
        before = broker.memory()[0]
        port = broker.ready["port"]
        for _ in range(options.connections):
            s = socket.create_connection(("127.0.0.1", port), 30)
            s.sendall(GREETING)
            sockets.append(s)
        for s in sockets:
            said = b""
            while OPEN not in said:
                more = s.recv(4096)
                if not more:
                    raise RuntimeError("a connection was closed")
                said += more
        title = "%d idle connections" % options.connections
        figures.add(title + ": memory", broker.memory()[0], "MiB",
                    ("<=", 100))
        figures.add(title + ": of it for them", broker.memory()[0] - before,
                    "MiB")
    finally:
        for s in sockets:
            s.close()
        broker.end()


PARTS = {name[len("part_"):]: function
         for name, function in list(globals().items())
         if name.startswith("part_")}


def size(text):
    match = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB|KB|MB|GB)?", text)
    if not match:
        raise argparse.ArgumentTypeError("a size is like 1KiB or 20GB")
    unit = match[2] or "B"
    power = " KMG".index(unit[0]) if len(unit) > 1 else 0
    return int(match[1]) * (1024 if "i" in unit else 1000) ** power


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", help="of: " + " ".join(PARTS))
    parser.add_argument("--count", type=int, default=10000000)
    parser.add_argument("--size", type=size, default=1024)
    parser.add_argument("--queues", type=int, default=1)
    parser.add_argument("--stuck", type=size, default=20 * 10 ** 9,
                        help="bytes that pass by (20GB)")
    parser.add_argument("--many", type=int, default=10000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--quiet", type=float, default=75,
                        help="seconds without a change: the disk has settled")
    parser.add_argument("--set", action="append", default=[],
                        help="a setting of the broker, KEY=VALUE")
    parser.add_argument("--json", default=os.path.join("build",
                                                       "backlog.json"))
    options = parser.parse_args()
    for part in options.part:
        if part not in PARTS:
            parser.error("there is no part %s" % part)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures, failed = Figures(), []
    os.makedirs(SCRATCH)
    try:
        for part in options.part or PARTS:
            try:
                PARTS[part](options, figures)
            except (RuntimeError, OSError, subprocess.SubprocessError) as why:
                failed.append(part)
                print("%s: %s" % (part, why), file=sys.stderr)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    with open(options.json, "w") as f:
        json.dump({"options": vars(options), "figures": figures.all,
                   "failed": failed}, f, indent=2)
        f.write("\n")
    print("as JSON: %s" % options.json)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
