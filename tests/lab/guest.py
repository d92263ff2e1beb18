#!/usr/bin/python3
"""What powercut.py runs inside a guest; see there.

guest.py record   a broker on a disk whose writes are logged, under load
guest.py replay   cuts the power behind chosen writes, and looks what is left

Arguments are a JSON object on the command line; results go to the share."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import writelog  # noqa: E402

SHARE = "/mnt/share"
DISK = "/mnt/disk"
PORT, ADMIN = 5672, 8161
START_S, STOP_S, RUN_S = 30, 30, 30
MARK_S = 0.05


def run(*command, check=True, **more):
    done = subprocess.run(command, capture_output=True, text=True,
                          timeout=RUN_S, **more)
    if check and done.returncode:
        raise AssertionError("%s ended with %d: %s%s" % (
            " ".join(command), done.returncode, done.stdout, done.stderr))
    return done


def sectors_of(device):
    with open("/sys/block/%s/size" % os.path.basename(device)) as f:
        return int(f.read())


class Broker:
    def __init__(self, build, settings, log):
        self.build, self.log = build, log
        self.command = [os.path.join(build, "holdfastd"), "--data-dir",
                        DISK + "/data", "--listen",
                        "amqp://127.0.0.1:%d" % PORT, "--admin",
                        "127.0.0.1:%d" % ADMIN]
        for setting in settings:
            self.command += ["--set", setting]

    def start(self):
        with open(self.log, "ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with open(self.log, "rb") as log:
                log.seek(begin)
                said = log.read()
            if b'"event":"ready"' in said:
                return
            if self.process.poll() is not None:
                raise AssertionError(
                    "the broker does not start (%d): %s" % (
                        self.process.returncode,
                        said.decode("utf-8", "replace")))
            time.sleep(0.005)
        raise AssertionError("the broker is not ready after %d s" % START_S)

    def counts(self):
        """How many messages it says that it has, by queue."""
        with urllib.request.urlopen("http://127.0.0.1:%d/api/v1/queues" %
                                    ADMIN, timeout=RUN_S) as answer:
            return {queue["name"]: queue["messages"]
                    for queue in json.load(answer)["queues"]}

    def said(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        if number == signal.SIGTERM and code:
            raise AssertionError("the broker ended with %d" % code)


# ---- record ----

class Marker(threading.Thread):
    """Writes into the log, all the time, how much of the ledger had happened.
    What stands in the ledger up to a mark happened before the mark."""

    def __init__(self, ledger):
        super().__init__(daemon=True)
        self.ledger, self.ended = ledger, threading.Event()

    def mark(self):
        run("dmsetup", "message", "logged", "0", "mark %d" %
            self.ledger.count)

    def run(self):
        while not self.ended.wait(MARK_S):
            self.mark()

    def end(self):
        self.ended.set()
        self.join()
        self.mark()


def record(options):
    # It needs proton, which the replay does not.
    from load import Ledger, work

    run("modprobe", "-d", options["share"], "dm-log-writes")
    run("dmsetup", "create", "logged", "--table",
        "0 %d log-writes /dev/ubda /dev/ubdb" % sectors_of("/dev/ubda"))
    os.makedirs(DISK)
    run("mount", "/dev/mapper/logged", DISK)
    broker = Broker(options["build"], options["set"], SHARE + "/broker.log")
    ledger = Ledger(SHARE + "/ledger")
    marker = Marker(ledger)
    marker.mark()
    marker.start()
    for number in options["ends"]:
        broker.start()
        work("amqp://127.0.0.1:%d" % PORT, ledger, options["seconds"])
        broker.stop(number)
    marker.end()
    run("umount", DISK)
    run("dmsetup", "remove", "logged")


# ---- replay ----

class Replay:
    """ubda: the disk, with every write up to the last flush; what may be
    missing, and what the broker then writes, goes to a snapshot of it, whose
    own place is ubdc."""

    def __init__(self, options):
        self.options = options
        run("modprobe", "-d", options["share"], "dm-snapshot")
        os.makedirs(DISK)
        self.log = writelog.WriteLog("/dev/ubdb")
        self.device = open("/dev/ubda", "r+b", buffering=0)
        self.sectors = sectors_of("/dev/ubda")
        self.at = 0

    def advance(self, n):
        for e in self.log.entries[self.at:n]:
            self.log.write(self.device, e)
        os.fsync(self.device.fileno())
        self.at = n

    def cut(self, cut):
        self.advance(self.log.settled(cut.n))
        run("dmsetup", "create", "cut", "--table",
            "0 %d snapshot /dev/ubda /dev/ubdc N 8" % self.sectors)
        try:
            with open("/dev/mapper/cut", "r+b", buffering=0) as device:
                cut.apply(self.log, device)
                os.fsync(device.fileno())
            run("mount", "/dev/mapper/cut", DISK)
            try:
                return self.files(), self.look()
            finally:
                run("umount", DISK)
        finally:
            run("dmsetup", "remove", "cut")

    @staticmethod
    def files():
        """How many there are of each kind: what the load has come to."""
        return {kind: len(os.listdir(DISK + "/data/" + kind))
                for kind in os.listdir(DISK + "/data")
                if os.path.isdir(DISK + "/data/" + kind)}

    def look(self):
        """What a broker on that disk hands out, by queue."""
        holdfast = os.path.join(self.options["build"], "holdfast")
        if os.path.exists(DISK + "/data/cluster"):
            run(holdfast, "journal", "verify", DISK + "/data")
        log = "/run/broker.log"
        if os.path.exists(log):
            os.unlink(log)
        broker = Broker(self.options["build"], self.options["set"], log)
        broker.start()
        found = {}
        try:
            for queue, count in broker.counts().items():
                lines = run(holdfast, "receive", queue, "--count",
                            str(count), "--url", "amqp://127.0.0.1:%d" %
                            PORT).stdout.split("\n") if count else [""]
                found[queue] = [self.number(line) for line in lines[:-1]]
            broker.stop()
        except (AssertionError, subprocess.SubprocessError) as why:
            raise AssertionError("%s\nthe broker said: %s" % (
                why, broker.said()[-4000:])) from why
        finally:
            if broker.process.poll() is None:
                broker.stop(signal.SIGKILL)
        return found

    @staticmethod
    def number(line):
        """0 when the body is not as it was sent."""
        from body import body
        match = re.match(r"(\d+) ", line)
        return int(match[1]) if match and body(int(match[1]), len(
            line)) == line else 0


def replay(options):
    r = Replay(options)
    with open(os.path.join(SHARE, options["result"]), "w") as result:
        for text in options["cuts"]:
            begun = time.monotonic()
            line = {"cut": text}
            try:
                line["files"], line["found"] = r.cut(
                    writelog.Cut.parse(text))
            except (AssertionError, KeyError, OSError, ValueError,
                    subprocess.SubprocessError):
                line["wrong"] = traceback.format_exc()
            line["seconds"] = time.monotonic() - begun
            print(json.dumps(line), file=result, flush=True)


if __name__ == "__main__":
    {"record": record, "replay": replay}[sys.argv[1]](json.loads(sys.argv[2]))
