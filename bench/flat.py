#!/usr/bin/python3
"""Does a message cost the same, however many queues and connections there are?

What a message costs is the processor time that the broker takes for it, from
publishing to acknowledging, while 4 connections send and 4 receive:

  queues       beside 1 to 10,000 queues
  idle         beside 0 to 1,000 connections that do nothing
  connections  sent by 4 to 256 connections, with 8,000 messages under way
               in all: what is bundled for one connection shrinks with them

Each step starts a broker on an empty directory under build/tmp and removes it.
The steps of a part follow one another in each round; a ratio is taken within
its round, and what is printed are medians over the rounds.

Usage: flat.py [--rounds N] [--seconds S] [PART...]"""

import argparse
import http.client
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys

from backlog import GREETING, OPEN, SCRATCH, Broker, bench

TICKS = os.sysconf("SC_CLK_TCK")
UNDER_WAY = 8000
STEPS = {
    "queues": (1, 10, 100, 1000, 10000),
    "idle": (0, 10, 100, 1000),
    "connections": (4, 16, 64, 256),
}
WANTED = 1.1


def cpu_s(broker):
    with open("/proc/%d/stat" % broker.process.pid) as stat:
        words = stat.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / TICKS


def make_queues(broker, count):
    admin = http.client.HTTPConnection("127.0.0.1",
                                       int(broker.admin.rsplit(":", 1)[1]))
    for n in range(count):
        admin.request("POST", "/api/v1/queues",
                      json.dumps({"name": "beside.%d" % n}),
                      {"Content-Type": "application/json",
                       "X-Holdfast": "1"})
        answer = admin.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise RuntimeError("a queue was not made: %r" % said)
    admin.close()


def connect_idle(broker, count):
    sockets = []
    for _ in range(count):
        s = socket.create_connection(("127.0.0.1", broker.ready["port"]), 30)
        s.sendall(GREETING)
        sockets.append(s)
    for s in sockets:
        said = b""
        while OPEN not in said:
            more = s.recv(4096)
            if not more:
                raise RuntimeError("a connection was closed")
            said += more
    return sockets


def step(part, count, options):
    """Processor microseconds of the broker for a message."""
    broker = Broker("%s-%d" % (part, count), options)
    sockets = []
    senders = count if part == "connections" else 4
    try:
        broker.start()
        if part == "queues":
            make_queues(broker, count)
        if part == "idle":
            sockets = connect_idle(broker, count)
        load = ["--senders", str(senders), "--receivers", "4", "--queues", "4",
                "--window", str(max(1, UNDER_WAY // senders)),
                "--size", str(options.size)]
        bench(broker, *load, "--seconds", "500ms")
        before = cpu_s(broker)
        result = bench(broker, *load, "--seconds",
                       "%dms" % (options.seconds * 1000))
        used = cpu_s(broker) - before
        return used * 1e6 / result["verified"]["accepted"]
    finally:
        for s in sockets:
            s.close()
        broker.end()


def measure(part, options):
    costs = {count: [] for count in STEPS[part]}
    for _ in range(options.rounds):
        for count in STEPS[part]:
            costs[count].append(step(part, count, options))
    first = costs[STEPS[part][0]]
    rows = []
    for count, values in costs.items():
        ratios = [v / f for v, f in zip(values, first)]
        rows.append({"count": count, "us": statistics.median(values),
                     "ratio": statistics.median(ratios),
                     "least": min(ratios), "most": max(ratios)})
        row = rows[-1]
        print("%-12s %6d  %6.2f us/message  ratio %.2f (%.2f to %.2f)%s" % (
            part, count, row["us"], row["ratio"], row["least"], row["most"],
            "" if row["ratio"] <= WANTED else "   above %.1f" % WANTED),
            flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", help="of: " + " ".join(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--set", action="append", default=[],
                        help="a setting of the broker, KEY=VALUE")
    parser.add_argument("--json", default=os.path.join("build", "flat.json"))
    options = parser.parse_args()
    options.queues, options.quiet = 1, 0  # of the broker's other users
    for part in options.part:
        if part not in STEPS:
            parser.error("there is no part %s" % part)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.makedirs(SCRATCH)
    try:
        found = {part: measure(part, options)
                 for part in options.part or STEPS}
    except (RuntimeError, OSError, subprocess.SubprocessError) as why:
        sys.exit(str(why))
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    with open(options.json, "w") as f:
        json.dump(found, f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main()
