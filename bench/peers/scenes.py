"""The steps: one peer, one load or scene, from an empty directory to figures.

Each returns a dict of figures and raises Failed; whoever calls discards the
peer afterwards, whatever happened."""

import os
import time

import client
import meters
import workloads
from peer import Failed

STARTS = 3
IDLE_S = 2.0
DELAY_US = 20000
PROOF_COUNT = 200
FILL_LIMIT_S = 60
PILOT_COUNT = 5000
RECOVERY_LIMIT_S = 120
DRAIN_LIMIT_S = 60
CRASH_S = 2.0
BACKLOG = workloads.Load("backlog", "", connections=4, receivers=4, window=1000)
ONE = workloads.find("window1")


class Scene:
    def __init__(self, peer, home, disk, seconds, backlog):
        self.peer = peer
        self.home = home
        self.disk = disk
        self.seconds = seconds
        self.backlog_count = backlog

    def run(self, key):
        load = workloads.find(key)
        if load:
            return self.load(load)
        return getattr(self, key)()

    def fresh(self, name="data"):
        self.peer.create(os.path.join(self.home, name))
        self.peer.start()

    def measured(self, load, **how):
        """Runs the generator between two looks at the counters."""
        meter = meters.Meter(self.disk, self.peer)
        meter.begin()
        result = client.run(self.peer, load, **how)
        result.update(meter.end(result["client_cpu_s"]))
        confirmed = result["confirmed"]
        if not confirmed and load.mode != "consume":
            raise Failed("nothing was confirmed. " + result["remark"])
        if "confirmed_per_s" in result and not result["confirmed_per_s"]:
            raise Failed("nothing was confirmed in the time measured, %d "
                         "messages outside of it: more --seconds may help" %
                         confirmed)
        if confirmed and "flushes" in result:
            result["flushes_per_message"] = result["flushes"] / confirmed
            result["written_per_byte"] = \
                result["disk_bytes"] / (confirmed * load.size)
        if confirmed:
            result["cpu_s_per_million"] = \
                result["broker_cpu_s"] / confirmed * 1e6
        result["rss_mib"] = self.peer.rss_mib()
        if not self.peer.alive():
            raise Failed("the broker ended under the load")
        return result

    def load(self, load):
        if load.fanout and not self.peer.fans_out():
            return {"left_out": "no fan-out over this protocol"}
        self.fresh()
        client.run(self.peer, load, prefix="warm", seconds=self.peer.warm_s)
        figures = self.measured(load, seconds=self.seconds, prefix="load",
                                verify=load.mode == "both")
        figures["disk_mib"] = self.peer.disk_mib()
        return figures

    def idle(self):
        starts = []
        for i in range(STARTS):
            if i:
                self.peer.discard()
            self.fresh("data%d" % i)
            starts.append(self.peer.start_s)
        time.sleep(IDLE_S)
        return {"start_s": sorted(starts)[len(starts) // 2], "starts": starts,
                "rss_mib": self.peer.rss_mib(), "threads": self.peer.threads(),
                "disk_mib": self.peer.disk_mib()}

    def fill(self, ledger):
        """Queues as many messages as the backlog has, or as many as this
        peer manages in the time that it is given."""
        pilot = client.run(self.peer, BACKLOG, prefix="pilot",
                           count=PILOT_COUNT)
        bound = int(pilot["confirmed_per_s"] * FILL_LIMIT_S)
        count = max(PILOT_COUNT, min(self.backlog_count, bound))
        return self.measured(BACKLOG, prefix="backlog", count=count,
                             ledger=ledger, limit_s=2 * FILL_LIMIT_S)

    def recover(self, ledger):
        """SIGKILL, a cold page cache, a new process; then one client that
        connects as soon as it can and takes everything."""
        self.peer.kill()
        meters.forget(self.peer.home)
        begun = self.peer.launch()
        drained = client.drain(
            self.peer, BACKLOG, prefix="backlog", ledger=ledger,
            begun=begun, recovery_s=RECOVERY_LIMIT_S, drain_s=DRAIN_LIMIT_S)
        return drained

    def backlog(self):
        self.fresh()
        ledger = os.path.join(self.home, "ledger")
        filled = self.fill(ledger)
        figures = {"queued": filled["confirmed"],
                   "fill_per_s": filled["confirmed_per_s"],
                   "flushes_per_message": filled.get("flushes_per_message"),
                   "rss_mib": self.peer.rss_mib(),
                   "disk_mib": self.peer.disk_mib()}
        figures.update(self.recover(ledger))
        figures["rss_after_mib"] = self.peer.rss_mib()
        figures["disk_after_mib"] = self.peer.disk_mib()
        return figures

    def settled(self):
        self.fresh()
        filled = self.fill(os.path.join(self.home, "ledger"))
        figures = {"queued": filled["confirmed"],
                   "rss_mib": self.peer.rss_mib()}
        time.sleep(workloads.SETTLE_S)
        figures["rss_settled_mib"] = self.peer.rss_mib()
        return figures

    def crash(self):
        """What was confirmed must be there after a SIGKILL.  It says nothing
        about power: the kernel survives."""
        self.fresh()
        ledger = os.path.join(self.home, "ledger")
        broken = client.until_broken(self.peer, BACKLOG, prefix="backlog",
                                     ledger=ledger, after_s=CRASH_S)
        meters.forget(self.peer.home)
        begun = self.peer.launch()
        drained = client.drain(
            self.peer, BACKLOG, prefix="backlog", ledger=ledger,
            begun=begun, recovery_s=RECOVERY_LIMIT_S, drain_s=DRAIN_LIMIT_S)
        drained["confirmed"] = broken["confirmed"]
        return drained

    def proof(self):
        """Window 1 as it is, and with every sync delayed: who waits for the
        disk cannot confirm before the delay is over."""
        self.fresh()
        plain = self.measured(ONE, prefix="plain", count=PROOF_COUNT)
        self.peer.discard()
        traced = self.peer.traced()
        traced.create(os.path.join(self.home, "traced"))
        counts = os.path.join(self.home, "counts")
        try:
            traced.start(delay_us=DELAY_US, counts=counts)
            whole, self.peer = self.peer, traced
            try:
                slow = self.measured(ONE, prefix="slow", seconds=self.seconds)
            finally:
                self.peer = whole
            traced.interrupt()
        finally:
            traced.discard()
        if slow["confirm_ms"]["50"] is None:
            raise Failed("too few confirmed with its syncs delayed")
        waits = slow["confirm_ms"]["50"] * 1000 >= 0.9 * DELAY_US
        return {"delay_ms": DELAY_US / 1000, "traced": traced.key,
                "plain_ms": plain["confirm_ms"]["50"],
                "plain_flushes_per_message": plain.get("flushes_per_message"),
                "slow_ms": slow["confirm_ms"]["50"],
                "slow_confirmed": slow["confirmed"],
                "slow_flushes_per_message": slow.get("flushes_per_message"),
                "sync_calls": read_counts(counts), "waits": waits,
                "as_meant": waits == self.peer.syncs}


def read_counts(path):
    """{call: how often} out of strace -c."""
    calls = {}
    try:
        with open(path) as f:
            for line in f:
                fields = line.split()
                if len(fields) >= 5 and fields[3].isdigit() and \
                        fields[-1] != "total":
                    calls[fields[-1]] = int(fields[3])
    except OSError:
        pass
    return calls
