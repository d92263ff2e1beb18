#!/usr/bin/python3
"""All of Holdfast's figures, from one machine in one run.

Each round measures everything once, holdfastd and the null sink (the same
protocol code that keeps nothing) one right after the other, in an order that
changes with the round; what is printed are medians over the rounds, with the
least and the most.  Ratios are taken within a round, so that a machine that
drifts drifts for both sides.

Usage: run.sh [--rounds N] [--seconds S] [--json FILE]"""

import argparse
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
HOLDFAST = os.path.join(BUILD, "holdfast")
HOLDFASTD = os.path.join(BUILD, "holdfastd")
SINK = os.path.join(BUILD, "bench", "null_sink")
JOURNAL = os.path.join(BUILD, "bench", "journal")
SCRATCH = os.path.join(BUILD, "tmp", "bench-%d" % os.getpid())
ALLOC = os.path.join(BUILD, "bench", "alloc.so")

LOADS = {
    "publish, 1 connection": ["--senders", "1", "--window", "1000"],
    "publish, 8 connections": ["--senders", "8", "--window", "1000"],
    "end to end, 4 + 4": ["--senders", "4", "--receivers", "4", "--queues",
                          "4", "--window", "1000"],
    "publish, window 1": ["--senders", "1", "--window", "1"],
}
EMPTY_STARTS = 5


class Daemon:
    """holdfastd on an empty directory, or the null sink."""

    def __init__(self, sink=False, env=None):
        self.dir = os.path.join(SCRATCH, "data-%d" % time.monotonic_ns())
        os.makedirs(self.dir)
        self.log = os.path.join(self.dir, "log")
        if sink:
            command = [SINK]
        else:
            command = [HOLDFASTD, "--data-dir", os.path.join(self.dir, "d"),
                       "--listen", "amqp://127.0.0.1:0", "--admin",
                       "127.0.0.1:0"]
        begun = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log,
                env=dict(os.environ, **(env or {})))
        self.port = self.wait_ready(sink)
        self.start_s = time.monotonic() - begun

    def wait_ready(self, sink):
        while True:
            with open(self.log) as log:
                for line in log:
                    if not line.endswith("\n"):
                        continue
                    if sink and line.startswith("listening on "):
                        return int(line.split()[2])
                    if '"event":"ready"' in line:
                        return json.loads(line)["port"]
            if self.process.poll() is not None:
                with open(self.log) as log:
                    sys.exit("a broker did not start:\n" + log.read())
            time.sleep(0.0005)

    def rss_mib(self):
        with open("/proc/%d/status" % self.process.pid) as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.stdin.close()
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def load(daemon, *arguments):
    done = subprocess.run(
        [HOLDFAST, "bench", "amqp", "--url",
         "amqp://127.0.0.1:%d" % daemon.port, "-o", "json"] +
        list(arguments), capture_output=True, text=True)
    if done.returncode:
        sys.exit("holdfast bench amqp %s:\n%s%s" % (
            " ".join(arguments), done.stdout, done.stderr))
    return json.loads(done.stdout)


def without_receivers(arguments):
    """The sink delivers nothing: its side of a load is the publishing."""
    kept = list(arguments)
    if "--receivers" in kept:
        at = kept.index("--receivers")
        del kept[at:at + 2]
    return kept


def one_round(number, seconds, figures):
    timing = ["--seconds", "%dms" % (seconds * 1000), "--warm-up", "1s"]
    broker, sink = Daemon(), Daemon(sink=True)
    names = list(LOADS)
    for name in names[number % len(names):] + names[:number % len(names)]:
        arguments = LOADS[name]
        sides = {}
        for side in ("ours", "sink") if number % 2 else ("sink", "ours"):
            if side == "ours":
                sides[side] = load(broker, *arguments, *timing)
            else:
                sides[side] = load(sink, *without_receivers(arguments),
                                   "--leave", *timing)
        book(figures, name, sides)
    broker.stop()
    sink.stop()
    os.makedirs(os.path.join(SCRATCH, "journal"), exist_ok=True)
    journal = json.loads(subprocess.run(
        [JOURNAL, "--rounds", "1", "--ms", "1000", "--json", "--dir",
         os.path.join(SCRATCH, "journal")],
        capture_output=True, text=True, check=True).stdout)
    shutil.rmtree(os.path.join(SCRATCH, "journal"))
    book_journal(figures, journal)


def add(figures, name, unit, value):
    figures.setdefault(name, {"unit": unit, "values": []})["values"].append(
        value)


def book(figures, name, sides):
    ours, sink = sides["ours"], sides["sink"]
    add(figures, name + ": confirmed", "/s", ours["confirmed_per_second"])
    add(figures, name + ": null sink", "/s", sink["confirmed_per_second"])
    add(figures, name + ": share of the null sink", "",
        ours["confirmed_per_second"] / sink["confirmed_per_second"])
    for quantile in ("p50", "p99", "p99.9"):
        add(figures, "%s: confirm %s" % (name, quantile), "us",
            ours["confirm_us"][quantile])
    if "received_per_second" in ours:
        add(figures, name + ": received", "/s", ours["received_per_second"])
        for quantile in ("p50", "p99"):
            add(figures, "%s: sent to received %s" % (name, quantile), "us",
                ours["end_to_end_us"][quantile])
    if "drained_per_second" in ours and "window 1" not in name:
        add(figures, name + ": queue emptied at", "/s",
            ours["drained_per_second"])
    if "window 1" in name:
        add(figures, name + ": null sink p50", "us", sink["confirm_us"]["p50"])
    add(figures, name + ": cores of the client", "", ours["client_cores"])


def book_journal(figures, journal):
    for key, name, unit in (
            ("one_ratio", "journal, window 1: share of the device", ""),
            ("journal_one_per_second", "journal, window 1", "/s"),
            ("device_one_per_second", "device, 4 KiB durable", "/s"),
            ("saturated_ratio", "journal, saturated: share of the device",
             ""),
            ("journal_bytes_per_second", "journal, saturated", "B/s"),
            ("device_bytes_per_second", "device, saturated", "B/s"),
            ("journal_records_per_second", "journal, 1 KiB records", "/s")):
        add(figures, name, unit, journal[key]["median"])
    add(figures, "journal, window 1: p50", "us", journal["journal_one_p50_us"])
    window_1 = figures["publish, window 1: confirm p50"]["values"][-1]
    sink = figures["publish, window 1: null sink p50"]["values"][-1]
    add(figures, "publish, window 1: p50 over journal + null sink", "",
        window_1 / (journal["journal_one_p50_us"] + sink))


def measure_idle(figures):
    for _ in range(EMPTY_STARTS):
        daemon = Daemon()
        add(figures, "start to ready, empty directory", "ms",
            daemon.start_s * 1000)
        time.sleep(1)
        add(figures, "idle resident memory", "MiB", daemon.rss_mib())
        daemon.stop()


def measure_syscalls(figures):
    if not shutil.which("strace"):
        print("(no strace: system calls are not counted)")
        return
    daemon = Daemon()
    load(daemon, "--senders", "8", "--count", "20000", "--warm-up", "0s")
    table = os.path.join(SCRATCH, "strace")
    tracer = subprocess.Popen(
        ["strace", "-f", "-c", "-o", table, "-p", str(daemon.process.pid)],
        stderr=subprocess.PIPE, text=True)
    # strace says on stderr when it is attached.
    tracer.stderr.readline()
    done = load(daemon, "--senders", "8", "--count", "200000", "--warm-up",
                "0s", "--leave")
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    daemon.stop()
    with open(table) as lines:
        total = [line.split() for line in lines if line.rstrip().endswith(
            "total")]
    if total:
        # % time, seconds, usecs/call, calls, [errors,] "total"
        add(figures, "system calls a message (8 connections)", "",
            int(total[0][3]) / done["verified"]["sent"])


def measure_allocations(figures):
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", ALLOC,
         "bench/preload/alloc.c"], check=True)
    path = os.path.join(SCRATCH, "allocations")
    daemon = Daemon(env={"LD_PRELOAD": ALLOC, "ALLOC_COUNT": path})

    def count():
        with open(path, "rb") as f:
            return struct.unpack("<Q", f.read(8))[0]

    load(daemon, "--senders", "8", "--count", "100000", "--warm-up", "0s")
    before = count()
    done = load(daemon, "--senders", "8", "--count", "500000", "--warm-up",
                "0s", "--leave")
    add(figures, "allocations a message (8 connections)", "",
        (count() - before) / done["verified"]["sent"])
    daemon.stop()


def show(value, unit):
    if unit == "B/s":
        return "%.0f MB/s" % (value / 1e6)
    if unit == "/s":
        return "{:,.0f}/s".format(value)
    if unit == "us":
        return "%.0f µs" % value if value < 10000 else "%.1f ms" % (
            value / 1000)
    if unit in ("ms", "MiB"):
        return "%.1f %s" % (value, unit)
    return "%.2f" % value if value >= 0.1 else "%.4f" % value


def report(figures, path):
    wide = max(len(name) for name in figures)
    result = {}
    for name, figure in figures.items():
        values, unit = figure["values"], figure["unit"]
        median = statistics.median(values)
        result[name] = {"unit": unit, "median": median, "min": min(values),
                        "max": max(values), "runs": len(values)}
        line = "%-*s  %s" % (wide, name, show(median, unit))
        if len(values) > 1:
            line += "   (%s to %s)" % (show(min(values), unit),
                                       show(max(values), unit))
        print(line)
    with open(path, "w") as f:
        json.dump({"machine": machine(), "figures": result}, f, indent=2)
        f.write("\n")
    print("as JSON: %s" % path)


def machine():
    model = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(),
            "kernel": os.uname().release,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--json", default=os.path.join(BUILD, "bench.json"))
    options = parser.parse_args()
    figures = {}
    os.makedirs(SCRATCH, exist_ok=True)
    try:
        for number in range(options.rounds):
            if sys.stderr.isatty():
                print("\rround %d of %d" % (number + 1, options.rounds),
                      end="", file=sys.stderr, flush=True)
            one_round(number, options.seconds, figures)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        measure_idle(figures)
        measure_syscalls(figures)
        measure_allocations(figures)
        report(figures, options.json)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    main()
