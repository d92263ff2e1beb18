#!/usr/bin/python3
"""A disk that fills, really: a broker on a small tmpfs, under AMQP load.

What must hold:

  publishing is refused before the disk is full, and the broker lives;
  what is queued can be consumed meanwhile, and publishing goes on by itself
  when others have freed space;
  when others fill the disk to the last byte the broker may end, but cleanly,
  saying why; with a little room it starts again;
  no message that was confirmed is missing at the end.

It needs root (for a mount in a name space of its own); ends with 77 and a
reason where it cannot run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
HOLDFAST = os.path.join(BUILD, "holdfast")
HOLDFASTD = os.path.join(BUILD, "holdfastd")
DISK_MIB = 300
SKIP = 77
BATCH = 500
WAIT_S = 60
ACKS_FULL = 1500  # each is a frame or more; a segment has 2048


def skip(why):
    print("skipped: " + why)
    sys.exit(SKIP)


def in_own_namespace():
    """Run again where mounts are nobody else's."""
    if os.environ.get("HOLDFAST_FULL_INSIDE"):
        return
    if os.getuid() or not shutil.which("unshare"):
        skip("mounting a small file system needs root and unshare")
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    if probe.returncode:
        skip("no name space for mounts here: %s" %
             probe.stderr.decode().strip())
    os.environ["HOLDFAST_FULL_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "-m", sys.executable,
                          os.path.abspath(__file__)])


class Trial:
    def __init__(self, place):
        self.place = place
        self.log = place + ".log"
        self.ballast = os.path.join(place, "ballast")
        self.confirmed, self.received = 0, 0

    def start(self):
        with open(self.log, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen(
                [HOLDFASTD, "--data-dir", self.place + "/data", "--listen",
                 "amqp://127.0.0.1:0", "--admin", "127.0.0.1:0", "--set",
                 "journal.segment_size=8MiB", "--set", "journal.reserve=24MiB",
                 "--set", "journal.checkpoint_interval=1s"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and self.process.poll() is None:
            with open(self.log, "rb") as log:
                log.seek(at)
                said = log.read().decode()
            for line in said.splitlines(True):
                if '"event":"ready"' in line and line.endswith("\n"):
                    ready = json.loads(line)
                    self.url = "amqp://127.0.0.1:%d" % ready["port"]
                    port = re.search(r":(\d+)$", ready["admin"])[1]
                    self.admin = "http://127.0.0.1:%s/metrics" % port
                    return True
            time.sleep(0.01)
        return False

    def has_space(self):
        with urllib.request.urlopen(self.admin, timeout=WAIT_S) as answer:
            text = answer.read().decode()
        return re.search(r"^holdfast_journal_has_space (\d)", text,
                         re.M)[1] == "1"

    def wait_space(self, wanted, leave=None):
        """leave: others go on filling; what the broker frees is theirs."""
        until = time.monotonic() + WAIT_S
        while self.has_space() != wanted:
            if leave is not None:
                self.fill(leave)
            assert time.monotonic() < until, \
                "publishing is still %s" % ("refused" if wanted else "let in")
            time.sleep(0.05)

    def send(self):
        """A batch; True when all of it was taken."""
        done = subprocess.run(
            [HOLDFAST, "send", "full", "--url", self.url, "--count",
             str(BATCH), "--size", "10KiB"], capture_output=True, text=True)
        taken = re.search(r"(\d+)(?: of \d+)? messages? confirmed",
                          done.stdout + done.stderr)
        self.confirmed += int(taken[1]) if taken else 0
        if done.returncode == 0:
            return True
        assert "resource-limit-exceeded" in done.stderr, done.stderr
        return False

    def receive(self, count):
        done = subprocess.run(
            [HOLDFAST, "receive", "full", "--url", self.url, "--count",
             str(count), "--timeout", "10s"], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        got = done.stdout.count(b"\n")
        self.received += got
        return got

    def free(self):
        st = os.statvfs(self.place)
        return st.f_bavail * st.f_frsize

    def fill(self, leave):
        """Others take all but so much of what is free."""
        with open(self.ballast, "ab") as f:
            while self.free() > leave:
                try:
                    f.write(bytes(min(self.free() - leave, 1 << 20)))
                    f.flush()
                except OSError:
                    return

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def last_words(self):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-5:])


def by_itself(t):
    """Its own messages fill the disk."""
    assert t.start(), t.last_words()
    batches = 0
    while t.send():
        batches += 1
        assert batches < DISK_MIB, "a full disk refuses nothing"
    assert t.process.poll() is None, t.last_words()
    assert t.free() > 8 << 20, "only %d bytes were left" % t.free()
    # Consuming makes room, and publishing goes on.
    assert t.receive(t.confirmed // 2) == t.confirmed // 2
    t.wait_space(True)
    assert t.send()


def others(t):
    """Others fill it beyond our share, then to the last byte."""
    t.wait_space(False, 20 << 20)
    assert t.receive(100) == 100
    os.unlink(t.ballast)
    t.wait_space(True)
    assert t.send()
    t.wait_space(False, 0)
    for _ in range(ACKS_FULL):
        t.fill(0)
        if t.process.poll() is not None or t.receive(3) < 3:
            break
    if t.process.poll() is None:
        code = t.end()
        assert code == 0, "it ended with %d: %s" % (code, t.last_words())
        return "consuming went on with nothing free"
    else:
        assert t.process.returncode > 0, t.last_words()
        assert "full" in t.last_words() or "space" in t.last_words(), \
            t.last_words()
        return "it ended: " + json.loads(t.last_words().splitlines()[-1]).get(
            "event", "?")


def afterwards(t):
    """Full: it says so, or starts.  With a little room it starts."""
    started = t.start()
    if started:
        assert not t.has_space()
        t.end()
    else:
        assert t.process.wait(WAIT_S) > 0
        assert "space" in t.last_words() or "full" in t.last_words(), \
            t.last_words()
    with open(t.ballast, "r+b") as f:
        f.truncate(max(os.path.getsize(t.ballast) - (6 << 20), 0))
    assert t.start(), t.last_words()
    assert not t.has_space()
    assert t.receive(10) == 10
    os.unlink(t.ballast)
    t.wait_space(True)
    assert t.send()
    left = t.confirmed - t.received
    assert t.receive(left) == left, "%d confirmed messages are missing" % (
        t.confirmed - t.received)
    assert t.end() == 0
    return "it started with nothing free" if started else \
        "with nothing free it did not start"


def main():
    in_own_namespace()
    os.makedirs("build/tmp", exist_ok=True)
    place = tempfile.mkdtemp(prefix="full-", dir=os.path.abspath("build/tmp"))
    t = Trial(place)
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm" % DISK_MIB,
                           "tmpfs", place]).returncode:
            skip("no tmpfs can be mounted here")
        by_itself(t)
        words = [others(t), afterwards(t)]
        print("a full disk: %d confirmed, %d received, 0 lost; %s" % (
            t.confirmed, t.received, "; ".join(words)))
    except AssertionError:
        print("the broker's last words:\n" + t.last_words())
        raise
    finally:
        if getattr(t, "process", None) and t.process.poll() is None:
            t.process.kill()
            t.process.wait()
        subprocess.run(["umount", "-l", place], stderr=subprocess.DEVNULL)
        shutil.rmtree(place, ignore_errors=True)
        if os.path.exists(t.log):
            os.unlink(t.log)


if __name__ == "__main__":
    main()
