#!/usr/bin/python3
"""What the look at the claim costs, which the broker makes before it confirms
anything: a broker in a guest on NFS is loaded with it and without it
(commit_steps.c answers in the storage's place), by turns, in one life.

Usage: claim_cost.py [options]; `make lab` runs it.  Ends with 77 and a reason
where it cannot run."""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import isolated  # noqa: E402
import nfs  # noqa: E402
import nodes  # noqa: E402
import uml  # noqa: E402

LOAD = os.path.join(nodes.BUILD, "bench/holdfast-load")
TMP = os.path.abspath(os.environ.get("TMPDIR", "build/tmp"))
EXPORT_MIB = 4096


class Trial:
    def __init__(self, options, share):
        self.options = options
        memory = os.path.join(share, "memory")
        os.makedirs(memory)
        isolated.run("mount", "-t", "tmpfs", "tmpfs", memory)
        uml.prepare_modules(share)
        network = isolated.Network(1)
        self.server = nfs.Server(os.path.join(share, "nfs"), network.server,
                                 EXPORT_MIB)
        self.server.start()
        self.node = nodes.GuestNode(
            1, share, memory, ["engine=" + options.engine], network,
            os.path.join(nodes.BUILD, "tests/lab/commit_steps.so"), "1G")
        self.node.boot()
        self.node.start()
        nodes.wait_until("the broker is ready", self.is_ready, 30)

    def is_ready(self):
        return any(event.get("event") == "ready" for event in
                   self.node.said())

    def asked(self):
        """How often the guest has asked the server for anything of a file, in
        one of the ways in which the end of a claim can be asked for."""
        text = self.node.shell("grep -oE ' (READ|GETATTR): [0-9]+' "
                               "/proc/self/mountstats | tr '\\t' ' '")
        return sum(int(line.split()[-1]) for line in text.splitlines())

    def commits(self):
        text = self.node.ask("metric", "http://127.0.0.1:%d/metrics" %
                             self.node.admin_port, "holdfast_journal_frames")
        return float(text)

    def blind(self, how):
        """0: looks at the claim; 1: does not."""
        self.node.shell("printf '\\%d\\0\\0\\0' | dd of=%s bs=4 seek=3 "
                        "conv=notrunc status=none" % (how,
                                                      self.node.control))

    def measure(self, window, how):
        """The load runs in the guest, beside the broker.  Messages a second,
        median latency, requests per commit."""
        self.blind(how)
        asked, commits = self.asked(), self.commits()
        self.node.shell("%s -u %s:%d --window %d --seconds %g --warmup 1s "
                        "--prefix cost --json /mnt/share/load" % (
                            LOAD, self.node.address, self.node.port, window,
                            self.options.seconds), self.options.seconds + 60)
        asked = (self.asked() - asked) / (self.commits() - commits)
        self.node.shell("%s queue purge cost -a http://127.0.0.1:%d" % (
            nodes.HOLDFAST, self.node.admin_port))
        with open(os.path.join(os.path.dirname(self.node.log), "load")) as f:
            said = json.load(f)["publish"]
        return {"per_second": said["per_second"],
                "p50_us": said["latency_us"]["p50"],
                "requests_per_commit": asked}

    def close(self):
        self.node.close()


def compare(trial, window, turns):
    """By turns, so that what else the machine does meets both alike."""
    found = {"with": [], "without": []}
    for turn in range(turns):
        for how in ((0, 1), (1, 0))[turn % 2]:
            found["without" if how else "with"].append(
                trial.measure(window, how))
    return {how: {name: statistics.median(one[name] for one in results)
                  for name in results[0]} for how, results in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", metavar="FILE", help="the report, to a file")
    options = parser.parse_args()
    uml.require()
    isolated.require(nfs.TOOLS, nfs.PACKAGES)
    os.makedirs(TMP, exist_ok=True)
    share = tempfile.mkdtemp(prefix="claim-", dir=TMP)
    isolated.enter(share)
    report = {}
    trial = Trial(options, share)
    for window in (1000, 1):
        found = compare(trial, window, options.turns)
        report["window_%d" % window] = found
        print("window %4d: %s" % (window, "; ".join(
            "%s the look %7.0f/s, p50 %.2f ms, %.2f requests a commit" % (
                how, one["per_second"], one["p50_us"] / 1000,
                one["requests_per_commit"])
            for how, one in found.items())), flush=True)
    trial.close()
    if options.json:
        os.makedirs(os.path.dirname(os.path.abspath(options.json)),
                    exist_ok=True)
        with open(options.json, "w") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
