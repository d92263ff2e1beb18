#!/usr/bin/python3
"""Power cuts on a real ext4, and what is left behind them.

A guest (uml.py) runs a broker under load on an ext4 over the kernel's
dm-log-writes target, which logs every write that reaches the disk, in the
order of its completion, and every flush.  The load keeps a ledger of what the
broker has promised, and marks in the log how much of the ledger had happened.
Then the disk is made again as a power cut behind one write or another would
have left it (writelog.py); other guests mount it, start the broker on it and
empty its queues.  What must hold behind each cut:

  the journal is whole in the eyes of `holdfast journal verify`, and the
  broker starts and stops;
  every message that was confirmed, and whose acknowledgement was not begun,
  is there, once, unchanged and in order;
  a message whose acknowledgement was final does not come back;
  nothing is there that was not sent.

Usage: powercut.py [options]; `make lab` runs it.  Ends with 77 and a reason
where no guest can run."""

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import uml  # noqa: E402
import writelog  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TMP = os.path.abspath("build/tmp")
BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
DISK_MIB, LOG_MIB = 768, 6144
BOOT_S, RECORD_S = 60, 240
# Everything often: segments, checkpoints, extents.
SETTINGS = ["journal.segment_size=2MiB", "journal.checkpoint_interval=1s",
            "journal.checkpoint_bytes=2MiB", "journal.reserve=16MiB",
            "store.hot_size=1MiB", "store.hot_time=100ms",
            "store.extent_file_size=2MiB", "limits.memory=8MiB"]
QUEUES = ["keep", "fifo", "holes", "large"]
SHOWN = 12


def image_dir():
    """In memory where there is room: the log is large, and its syncs are not
    what is tested."""
    for place in ("/dev/shm", TMP):
        os.makedirs(place, exist_ok=True)
        st = os.statvfs(place)
        if st.f_bavail * st.f_frsize > 4 << 30 and os.access(place, os.W_OK):
            return tempfile.mkdtemp(prefix="holdfast-lab-", dir=place)
    uml.skip("there is no 4 GiB free in /dev/shm or " + TMP)


def sparse(path, mib):
    with open(path, "wb") as f:
        f.truncate(mib << 20)


def copy(path, to):
    subprocess.run(["cp", "--sparse=always", path, to], check=True)


def guest(share, name, what, options, disks):
    command = "/usr/bin/python3 %s/guest.py %s '%s'" % (
        HERE, what, json.dumps(dict(options, share=share, build=BUILD)))
    return uml.Guest(share, name, command, disks, ["dm-mod"],
                     memory_dir=os.path.dirname(disks[0][1]))


def fail(g, code):
    print("%s ended with %s\n%s%s" % (g.name, code, g.read("out"),
                                      g.read("console")[-2000:]))
    sys.exit(1)


def record(share, images, options):
    base = os.path.join(images, "base")
    sparse(base, DISK_MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E",
                    "lazy_itable_init=0,lazy_journal_init=0", base],
                   check=True)
    copy(base, os.path.join(images, "disk"))
    sparse(os.path.join(images, "log"), LOG_MIB)
    g = guest(share, "record", "record",
              {"set": options.set, "seconds": options.seconds,
               "ends": [signal.SIGKILL, signal.SIGTERM]},
              [("", os.path.join(images, "disk")),
               ("", os.path.join(images, "log"))])
    until = time.monotonic() + BOOT_S
    while not g.booted() and time.monotonic() < until:
        if g.process.poll() is not None:
            break
        time.sleep(0.05)
    if not g.booted():
        g.kill()
        uml.skip("a guest does not boot here: %s" %
                 g.read("console")[-500:])
    code = g.wait(RECORD_S)
    if code != 0:
        fail(g, code)
    os.unlink(os.path.join(images, "disk"))


class Promises:
    """The ledger, and how much of it had happened at an entry of the log."""

    def __init__(self, share, log):
        with open(os.path.join(share, "ledger")) as f:
            self.events = [(line[0], line.split()[1], int(line.split()[2]))
                           for line in f]
        self.marks = [(n, int(text)) for n, text in log.marks()
                      if text.isdigit()]

    def first(self):
        """The first entry behind which something is promised."""
        for n, count in self.marks:
            if any(e[0] == "C" for e in self.events[:count]):
                return n
        raise ValueError("nothing was confirmed")

    def at(self, n):
        """Events that had happened; events that may have begun.  A mark's
        count is older than the mark: only the one after the next is surely
        younger than what stands before the next."""
        before = [count for m, count in self.marks if m < n]
        after = [count for m, count in self.marks if m >= n]
        return (self.events[:before[-1]],
                self.events[:after[1]] if len(after) > 1 else self.events)

    @staticmethod
    def numbers(events, kind):
        found = collections.defaultdict(set)
        for event, queue, number in events:
            if event == kind:
                found[queue].add(number)
        return found

    def judge(self, n, found):
        """Sentences about what is wrong with what was found."""
        happened, begun = self.at(n)
        confirmed = self.numbers(happened, "C")
        final = self.numbers(happened, "S")
        sent = self.numbers(begun, "P")
        acked = self.numbers(begun, "B")
        wrong, owed_count = [], 0
        for queue in QUEUES:
            there = set(found.get(queue, ()))
            owed = confirmed[queue] - acked[queue]
            owed_count += len(owed)
            for what, numbers in (
                    ("confirmed and lost", owed - there),
                    ("acknowledged and back", there & final[queue]),
                    ("never sent, or changed", there - sent[queue])):
                if numbers:
                    wrong.append("%s: %d %s: %s" % (
                        queue, len(numbers), what,
                        sorted(numbers)[:SHOWN]))
            came = found.get(queue, [])
            if len(there) != len(came):
                wrong.append("%s: messages came twice" % queue)
            elif came != sorted(came):
                wrong.append("%s: messages came out of order" % queue)
        return wrong, owed_count


def replay(share, images, options, cuts):
    """Each guest has its own disk and a part of the cuts, in order."""
    guests, results = [], []
    for i in range(options.guests):
        part = cuts[len(cuts) * i // options.guests:
                    len(cuts) * (i + 1) // options.guests]
        disk, change = (os.path.join(images, "%s%d" % (name, i))
                        for name in ("disk", "change"))
        copy(os.path.join(images, "base"), disk)
        sparse(change, DISK_MIB)
        result = "result%d" % i
        guests.append(guest(
            share, "replay%d" % i, "replay",
            {"set": options.set, "result": result,
             "cuts": [str(cut) for cut in part]},
            [("", disk), ("rc", os.path.join(images, "log")),
             ("", change)]))
    bound = 60 + 10 * len(cuts)
    for i, g in enumerate(guests):
        code = g.wait(bound)
        if code != 0:
            fail(g, code)
        with open(os.path.join(share, "result%d" % i)) as f:
            results += [json.loads(line) for line in f]
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cuts", type=int, default=int(
        os.environ.get("LAB_CUTS", 200)),
        help="0: behind every flush, and as many others (200)")
    parser.add_argument("--seconds", type=float, default=2,
                        help="of load, twice")
    parser.add_argument("--guests", type=int,
                        default=min(4, os.cpu_count() or 1))
    parser.add_argument("--seed", type=int, default=int(
        os.environ.get("SEED", time.time())))
    parser.add_argument("--set", action="append",
                        help="settings of the broker, instead of " +
                        " ".join(SETTINGS))
    parser.add_argument("--keep", action="store_true",
                        help="leave everything where it is, and say where")
    options = parser.parse_args()
    options.set = options.set or SETTINGS
    uml.require()
    begun = time.monotonic()
    os.makedirs(TMP, exist_ok=True)
    share = tempfile.mkdtemp(prefix="lab-", dir=TMP)
    images = image_dir()
    wrong = 1
    try:
        uml.prepare_modules(share)
        record(share, images, options)
        log = writelog.WriteLog(os.path.join(images, "log"))
        promises = Promises(share, log)
        cuts = writelog.choose(log, promises.first(), options.cuts,
                               options.seed)
        print("recorded in %.0f s: %d writes, %d flushes, %d promises; seed "
              "%d" % (time.monotonic() - begun, len(log.entries),
                      len(log.boundaries()), len(promises.events),
                      options.seed), flush=True)
        results = replay(share, images, options, cuts)
        wrong = report(promises, results, len(cuts),
                       time.monotonic() - begun)
    finally:
        if options.keep:
            print("in %s and %s" % (share, images))
        else:
            shutil.rmtree(share, ignore_errors=True)
            shutil.rmtree(images, ignore_errors=True)
    sys.exit(1 if wrong else 0)


def report(promises, results, cut_count, seconds):
    wrong = owed = 0
    for line in results:
        if "wrong" in line:
            said = [line["wrong"]]
        else:
            said, count = promises.judge(
                writelog.Cut.parse(line["cut"]).n, line["found"])
            owed += count
        if said:
            wrong += 1
            print("cut %s:\n  %s" % (line["cut"], "\n  ".join(said)))
    if len(results) != cut_count:
        wrong += 1
        print("%d of %d cuts were looked at" % (len(results), cut_count))
    extents = sum(1 for line in results
                  if line.get("files", {}).get("extents"))
    print("%d cuts in %.0f s, %d of them with extent files, %d confirmed "
          "messages looked for: %s" % (
              len(results), seconds, extents, owed,
              "%d cuts are wrong" % wrong if wrong else "0 lost"))
    return wrong


if __name__ == "__main__":
    main()
