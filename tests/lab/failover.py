#!/usr/bin/python3
"""Failovers of a broker of several nodes on one directory, over and over,
under load from a stock client.

With --nfs the nodes are guests (uml.py), and the directory is exported by a
server (nfs.py) over a network of the lab's own (isolated.py).  Without it they
are processes of this machine on a local directory.  Each round breaks
something in another way (faults.py), waits until a message is confirmed again,
repairs what was broken, receives everything, and looks:

  every message that was confirmed has been received (oracle.py);
  none whose acknowledgement was confirmed has come back, nothing was invented;
  the journal is one history, that of the rounds before goes on in it, and
  nobody has acknowledged anything off it (history.py);
  in the end one node leads and lets clients in, and all others stand by.

At the end `holdfast journal verify` has to agree.

Usage: failover.py [options]; `make lab` runs it.  Ends with 77 and a reason
where it cannot run."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import faults  # noqa: E402
import history  # noqa: E402
import isolated  # noqa: E402
import nfs  # noqa: E402
import nodes  # noqa: E402
import uml  # noqa: E402

try:
    from oracle import Oracle
    from prober import Prober
    from report import Report
except ImportError as why:
    uml.skip("%s: apt-get install python3-qpid-proton" % why)

BUILD = nodes.BUILD
STEPS = os.path.join(BUILD, "tests/lab/commit_steps.so")
TMP = os.path.abspath(os.environ.get("TMPDIR", "build/tmp"))
# Everything often: segments, checkpoints, deletions.
SETTINGS = ["journal.segment_size=4MiB", "journal.reserve=16MiB",
            "journal.checkpoint_interval=2s", "journal.checkpoint_bytes=8MiB",
            "store.hot_size=16MiB", "store.hot_time=2s",
            "store.extent_file_size=4MiB"]
EXPORT_MIB = 1024
FIRST_S, CLIENT_S, VERIFY_S = 60, 90, 300
DRAIN_S, BACKLOG_S = 120, 1200
BACKLOG = "backlog"


class Lab:
    """The nodes, and what they stand on.  share: for everything."""

    def __init__(self, options, share):
        self.options, self.share = options, share
        self.network = self.server = None
        self.backlog = 0
        self.dice = random.Random(options.seed)
        self.ledger = os.path.join(share, "ledger")
        open(self.ledger, "w").close()
        self.oracle = Oracle(self.ledger)
        self.steps = STEPS if options.blind or \
            "step" in wanted_faults(options) else None
        self.settings = options.set + [
            "takeover_after=%gs" % options.takeover_after]
        self.nodes = []
        if options.nfs:
            self.boot()
        else:
            self.place = share
            self.data = os.path.join(share, "data")
            for number in range(1, options.nodes + 1):
                self.nodes.append(nodes.LocalNode(
                    number, share, self.data, self.node_settings(number),
                    self.steps))
        self.reader = history.Reader(self.data)
        self.evidence = os.path.join(self.place, "evidence")
        os.makedirs(self.evidence)

    def node_settings(self, number):
        """Every other node has the engine whose steps can be seen, and every
        other gives up early on a storage that does not answer."""
        return self.settings + [
            "node=node%d" % number,
            "engine=%s" % ("auto" if number % 2 else "threads"),
            "storage_timeout=%s" % ("5s" if number % 2 else "30s")]

    def boot(self):
        options, share = self.options, self.share
        memory = os.path.join(share, "memory")
        os.makedirs(memory)
        isolated.run("mount", "-t", "tmpfs", "tmpfs", memory)
        uml.prepare_modules(share)
        self.network = isolated.Network(options.nodes)
        self.server = nfs.Server(os.path.join(share, "nfs"),
                                 self.network.server, EXPORT_MIB,
                                 options.delegations)
        self.server.start()
        self.place = self.server.export
        self.data = os.path.join(self.place, "data")
        for number in range(1, options.nodes + 1):
            self.nodes.append(nodes.GuestNode(
                number, share, memory, self.node_settings(number),
                self.network, self.steps))
        for node in self.nodes:
            node.boot()

    def start(self):
        for node in self.nodes:
            node.blind = int(self.options.blind)
            node.start(self.options.again_s)

    def node_of(self, address):
        """Whom the client means with the address it is connected to."""
        for node in self.nodes:
            if address.endswith("%s:%d" % (node.address, node.port)):
                return node
        raise AssertionError("no node has the address " + address)

    def client(self, **more):
        options = dict(more, ledger=self.ledger,
                       urls=[node.url for node in self.nodes])
        return subprocess.Popen(
            ["/usr/bin/python3", os.path.join(HERE, "client.py"),
             json.dumps(options)], stdin=subprocess.PIPE)

    def settled(self):
        """The leader, when one node leads and lets clients in, and all others
        stand by; otherwise None."""
        roles = [node.role() for node in self.nodes]
        if sorted(roles) != ["leader"] + ["standby"] * (len(roles) - 1):
            return None
        leader = self.nodes[roles.index("leader")]
        open_ones = [node for node in self.nodes if node.lets_in()]
        return leader if open_ones == [leader] else None

    def fill_backlog(self, mib):
        """Messages of 1 KiB."""
        leader = nodes.wait_until("one node leads", self.settled,
                                  self.options.patience)
        self.backlog = mib << 10
        done = subprocess.run(
            [os.path.join(BUILD, "bench/holdfast-load"), "-u", "%s:%d" % (
                leader.address, leader.port), "--prefix", BACKLOG, "--count",
             str(self.backlog), "--json", os.path.join(self.share, "load")],
            timeout=BACKLOG_S)
        if done.returncode:
            raise AssertionError("the backlog cannot be sent")

    def counts(self, node):
        """How many messages there are, by queue; the backlog's is looked at
        here and not told."""
        counts = {queue["name"]: queue["messages"]
                  for queue in node.get("/api/v1/queues")["queues"]}
        backlog = counts.pop(BACKLOG, 0)
        if backlog != self.backlog:
            self.oracle.wrong.append("of a backlog of %d messages %d are "
                                     "there" % (self.backlog, backlog))
        return counts

    def drain(self):
        """Receives what is there, until a leader says that there is nothing:
        that leader.  It may lose its part meanwhile, as after any fault."""
        until = time.monotonic() + DRAIN_S
        while True:
            leader = nodes.wait_until(
                "one node leads, and all others stand by", self.settled,
                self.options.patience, 0.2)
            try:
                counts = {queue: count for queue, count in
                          self.counts(leader).items() if count}
            except (OSError, AssertionError):
                counts = None
            if counts == {}:
                return leader
            if time.monotonic() > until:
                raise AssertionError("%s cannot be received" % counts)
            if counts:
                finish(self.client(counts=counts), DRAIN_S, close=False)

    def keep_evidence(self):
        """Other names of the leader's segments: what it writes to them stays
        to be seen when a new leader has deleted them."""
        place = os.path.join(self.data, "segments")
        names = sorted(n for n in os.listdir(place) if n.endswith(".log"))
        for name in names:
            if name[:8] == names[-1][:8]:
                try:
                    os.link(os.path.join(place, name),
                            os.path.join(self.evidence, name))
                except FileNotFoundError:
                    pass  # deleted since

    def drop_evidence(self):
        for name in os.listdir(self.evidence):
            os.unlink(os.path.join(self.evidence, name))

    def look_closer(self):
        """When something has not happened: why?"""
        for node in self.nodes:
            try:
                node.dump()
            except (OSError, AssertionError) as why:
                print("%s: %s" % (node.name, why))
        if os.path.exists(os.path.join(self.data, "cluster")):
            self.oracle.wrong += self.reader.read([self.evidence]).wrong

    def last_words(self):
        return "".join(node.last_words(25) for node in self.nodes)

    def close(self):
        for node in self.nodes:
            node.close()


def finish(client, seconds, close=True):
    """Lets a client come to its end."""
    try:
        if close:
            client.stdin.close()
        code = client.wait(seconds)
    except subprocess.TimeoutExpired:
        client.kill()
        client.wait()
        raise AssertionError("the client has not come to its end after %d s" %
                             seconds)
    if code:
        raise AssertionError("the client ended with %d" % code)


class Round:
    """One fault, from load to load."""

    def __init__(self, lab, number, kind):
        self.lab, self.number, self.kind = lab, number, kind
        self.fault = faults.FAULTS[kind]
        self.dice = lab.dice
        self.threads, self.troubles = [], []
        self.prober = None
        self.begun = None
        self.result = {"round": number, "fault": kind}

    # ---- for faults ----

    def begin(self, after_s=0.0):
        """The fault happens now, or after_s from now."""
        self.begun = time.monotonic() + after_s
        if self.fault.moves:
            others = [n for n in self.lab.nodes if n is not self.leader]
            self.prober = Prober(others, self.lab.ledger,
                                 self.lab.oracle.next("probe"))
            self.prober.start()

    def later(self, after_s, do, *arguments, **more):
        """Repairs something; the round waits for it."""
        def run():
            time.sleep(after_s)
            try:
                do(*arguments, **more)
            except Exception as why:  # told at the end of the round
                self.troubles.append("%s: %s" % (type(why).__name__, why))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def wait_repaired(self):
        for thread in self.threads:
            thread.join()
        if self.troubles:
            raise AssertionError("; ".join(self.troubles))

    def wait_refused(self, seconds):
        """Until publishing is refused, or nothing is confirmed any more."""
        oracle, until = self.lab.oracle, time.monotonic() + seconds
        while time.monotonic() < until:
            oracle.read()
            last = oracle.confirmed_us[-1] / 1e6
            if time.monotonic() - last > 1:
                return
            time.sleep(0.02)
        raise AssertionError("publishing goes on on a full disk")

    # ---- the round ----

    def run(self):
        lab, oracle = self.lab, self.lab.oracle
        oracle.begin_round()
        before = oracle.confirmed_count
        lives = [node.lives()[0] for node in lab.nodes]
        client = lab.client(rate=lab.options.rate, next={
            queue: oracle.next(queue) for queue in
            ("keep", "fifo", "holes", "large")})
        try:
            self.under_load()
            finish(client, CLIENT_S)
        finally:
            if client.poll() is None:
                client.kill()
                client.wait()
            if self.prober:
                self.prober.stop()
        oracle.read()
        self.times()
        last = lab.drain()
        self.look()
        self.result["lost"] = oracle.emptied()
        self.result["confirmed"] = oracle.confirmed_count - before
        self.result["new"] = last.name
        self.result["exits"] = [
            code for node, count in zip(lab.nodes, lives)
            for code in node.lives(count)[1]]
        for code in self.result["exits"]:
            if code not in (0, -9, -15) and code < 0:
                oracle.wrong.append("a broker ended by signal %d" % -code)
        return self.result

    def under_load(self):
        oracle = self.lab.oracle
        self.wait_confirmed("at the beginning", 0, FIRST_S)
        self.leader = self.lab.node_of(oracle.node())
        self.result["old"] = self.leader.name
        time.sleep(self.dice.uniform(0.2, 1.0))
        self.lab.keep_evidence()
        self.fault.inject(self)
        if self.begun is None:
            raise AssertionError("the fault has not begun")
        bound = self.fault.bound_s(self.lab.options)
        if self.fault.moves:
            self.wait_moved(bound)
            self.wait_repaired()
        else:
            self.wait_repaired()
            self.wait_confirmed("after the fault", time.monotonic() * 1e6,
                                bound)
        time.sleep(0.3)

    def wait_confirmed(self, when, after_us, seconds):
        def found():
            oracle.read()
            return oracle.confirmed_us and oracle.confirmed_us[-1] > after_us

        oracle = self.lab.oracle
        nodes.wait_until("a message is confirmed " + when, found, seconds)

    def wait_moved(self, seconds):
        """A new leader has confirmed something, to the client as well."""
        def found():
            oracle.read()
            if oracle.wrong:
                return True
            at = self.moved_us()
            return at and oracle.confirmed_us[-1] > at

        oracle = self.lab.oracle
        nodes.wait_until("a new leader confirms something", found, seconds)

    def moved_us(self):
        """When the client was let in again: by another node, or by this one,
        when it was quicker to come back."""
        for us, address in self.lab.oracle.connected:
            if address and us > self.begun * 1e6:
                return us
        return None

    def times(self):
        """takeover: from the fault to the first message that the new leader
        has confirmed; outage: the longest time without a confirmation."""
        begun = self.begun * 1e6
        stamps = self.lab.oracle.confirmed_us
        around = [us for us in stamps if us <= begun][-1:] + \
            [us for us in stamps if us > begun]
        gaps = [b - a for a, b in zip(around, around[1:])]
        self.result["outage_s"] = max(gaps, default=0) / 1e6
        if self.fault.moves:
            moved = self.moved_us()
            firsts = [us for us in stamps if us >= moved][:1]
            if self.prober.confirmed_us:
                firsts.append(self.prober.confirmed_us)
            self.result["takeover_s"] = (min(firsts) - begun) / 1e6

    def look(self):
        lab = self.lab
        read = lab.reader.read([lab.evidence])
        lab.drop_evidence()
        lab.oracle.wrong += read.wrong
        self.result.update(epoch=read.newest, behind=read.behind,
                           cuts=read.cuts, gaps=read.gaps)


def wanted_faults(options):
    """The kinds that were asked for and that can happen here."""
    names = options.faults.split(",") if options.faults else \
        list(faults.FAULTS)
    for name in names:
        if name not in faults.FAULTS:
            sys.exit("failover.py: there is no fault \"%s\"; there are %s" % (
                name, ", ".join(faults.FAULTS)))
    fitting = [name for name in names if faults.FAULTS[name].fits(options)]
    if not fitting:
        uml.skip("%s: on NFS only" % ", ".join(names))
    for path, target in ((os.path.join(BUILD, "holdfastd"), "all"),
                         (STEPS, "peer-programs")):
        if not os.path.exists(path) and (path != STEPS or "step" in fitting):
            sys.exit("failover.py: there is no %s: make %s" % (path, target))
    return fitting


def choose(wanted, dice):
    """Without end, in random order, each as often as any other."""
    while True:
        turn = list(wanted)
        dice.shuffle(turn)
        yield from turn


def verify(lab, oracle):
    """All nodes end; what the broker's own reader says."""
    for node in lab.nodes:
        code = node.stop()
        if code not in (0, None):
            oracle.wrong.append("%s ended with %d" % (node.name, code))
    done = subprocess.run([nodes.HOLDFAST, "journal", "verify", lab.data],
                          capture_output=True, text=True, timeout=VERIFY_S)
    if done.returncode:
        oracle.wrong.append("holdfast journal verify: %s%s" % (done.stdout,
                                                               done.stderr))
    oracle.wrong += lab.reader.read().wrong


def run(options, share):
    lab = None
    report = Report(options)
    wanted = wanted_faults(options)
    wrong, now = [], "at the beginning: "
    try:
        lab = Lab(options, share)
        wrong = lab.oracle.wrong
        lab.start()
        if options.backlog_mib:
            lab.fill_backlog(options.backlog_mib)
        for number, kind in enumerate(choose(wanted, lab.dice), 1):
            if report.is_enough():
                break
            now = "round %d, %s: " % (number, kind)
            report.add(Round(lab, number, kind).run())
            if wrong:
                break
        now = "at the end: "
        verify(lab, lab.oracle)
    except AssertionError as why:
        wrong.append("%s%s" % (now, why))
        if lab:
            lab.look_closer()
    if options.blind:
        if lab:
            lab.close()
        print("without the look at the claim: %s" % (
            "found out: " + "; ".join(wrong[:3]) if wrong
            else "NOTHING WAS FOUND OUT"))
        return 0 if wrong else 1
    if wrong and lab:
        print("seed %d\n%s\n%s" % (options.seed, "\n".join(wrong[:20]),
                                   lab.last_words()))
    if lab:
        lab.close()
    summary = report.summary(wrong)
    if wrong or not options.quiet:
        report.print(summary)
    if options.json:
        os.makedirs(os.path.dirname(os.path.abspath(options.json)),
                    exist_ok=True)
        with open(options.json, "w") as f:
            json.dump(summary, f, indent=1)
    return 1 if wrong else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nfs", action="store_true",
                        help="guests on NFS, not processes on a directory")
    parser.add_argument("--failovers", type=int, metavar="N", default=100,
                        help="go on until so many happened (100), or until "
                        "three times as many rounds have")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="so many rounds instead")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--faults", default=os.environ.get("FAULTS", ""),
                        help="of " + ",".join(faults.FAULTS))
    parser.add_argument("--rate", type=float, default=1000,
                        help="messages a second (1000)")
    parser.add_argument("--takeover-after", type=float, metavar="SECONDS",
                        help="1; on NFS 2")
    parser.add_argument("--again-s", type=float, metavar="SECONDS",
                        help="a broker that ended starts again after so long "
                        "(1; on NFS 4)")
    parser.add_argument("--delegations", action="store_true",
                        help="the NFS server grants them")
    parser.add_argument("--set", action="append",
                        help="settings of the brokers, instead of " +
                        " ".join(SETTINGS))
    parser.add_argument("--seed", type=int, default=int(
        os.environ.get("SEED", time.time())))
    parser.add_argument("--json", metavar="FILE", help="the report, to a file")
    parser.add_argument("--verbose", action="store_true",
                        help="a line per round, even if nobody looks")
    parser.add_argument("--quiet", action="store_true",
                        help="say nothing when nothing is wrong")
    parser.add_argument("--backlog-mib", type=int, default=0, metavar="N",
                        help="in a queue that nobody reads")
    parser.add_argument("--patience", type=float, metavar="SECONDS",
                        default=60, help="for what is slow on a busy machine")
    parser.add_argument("--blind", action="store_true",
                        help="leave out what all rests on, the broker's look "
                        "at its claim: the lab has to find out, or fails")
    parser.add_argument("--keep", action="store_true",
                        help="leave everything where it is, and say where")
    options = parser.parse_args()
    options.set = options.set or SETTINGS
    if options.takeover_after is None:
        options.takeover_after = 2 if options.nfs else 1
    if options.again_s is None:
        options.again_s = 4 if options.nfs else 1
    return options


def main():
    options = arguments()
    wanted_faults(options)
    if options.nfs:
        uml.require()
        isolated.require(nfs.TOOLS, nfs.PACKAGES)
    os.makedirs(TMP, exist_ok=True)
    share = tempfile.mkdtemp(prefix="failover-", dir=TMP)
    if options.nfs:
        isolated.enter(share, options.keep)
        sys.exit(run(options, share))
    for number in isolated.SIGNALS:
        signal.signal(number, isolated.end)
    try:
        code = run(options, share)
    finally:
        if options.keep:
            print("in " + share)
        else:
            shutil.rmtree(share, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
