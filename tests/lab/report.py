"""The rounds of failover.py: a line for each, a table of all, and the same as
JSON."""

import collections
import sys
import time


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Report:
    def __init__(self, options):
        self.options, self.results = options, []
        self.begun = time.monotonic()

    def failovers(self):
        """Rounds in which another node began to lead."""
        return sum(r["old"] != r["new"] for r in self.results)

    def is_enough(self):
        if self.options.rounds:
            return len(self.results) >= self.options.rounds
        # Faults that move nothing alone would never come to an end.
        return self.failovers() >= self.options.failovers or \
            len(self.results) >= 3 * self.options.failovers

    def add(self, result):
        self.results.append(result)
        if not (sys.stdout.isatty() or self.options.verbose):
            return
        print("%4d  %-12s %s -> %s  %s  outage %6.2f s  epoch %4d  %6d "
              "confirmed, %d lost" % (
                  result["round"], result["fault"],
                  result["old"], result["new"],
                  "takeover %5.2f s" % result["takeover_s"]
                  if "takeover_s" in result else " " * 16,
                  result["outage_s"], result["epoch"], result["confirmed"],
                  result["lost"]), flush=True)

    def kinds(self):
        kinds = {}
        for result in self.results:
            kinds.setdefault(result["fault"], []).append(result)
        return kinds

    def summary(self, wrong):
        table = {}
        for kind, results in self.kinds().items():
            row = {"rounds": len(results)}
            for name in ("takeover_s", "outage_s"):
                values = [r[name] for r in results if name in r]
                if values:
                    row[name] = {"p50": percentile(values, 0.5),
                                 "p99": percentile(values, 0.99)}
            row["another_led"] = sum(r["old"] != r["new"] for r in results)
            row["confirmed"] = sum(r["confirmed"] for r in results)
            row["lost"] = sum(r["lost"] for r in results)
            table[kind] = row
        total = {name: sum(r[name] for r in self.results)
                 for name in ("confirmed", "lost", "behind")}
        total["rounds"] = len(self.results)
        total["failovers"] = self.failovers()
        total["epochs"] = self.results[-1]["epoch"] if self.results else 0
        total["cuts_reached"] = sum(r["cuts"] for r in self.results)
        total["exits"] = collections.Counter(
            str(code) for r in self.results for code in r["exits"])
        total["seconds"] = round(time.monotonic() - self.begun, 1)
        return {"nfs": self.options.nfs, "nodes": self.options.nodes,
                "takeover_after_s": self.options.takeover_after,
                "seed": self.options.seed, "total": total, "faults": table,
                "wrong": wrong, "results": self.results}

    def print(self, summary):
        print("fault       rounds another led   takeover p50    p99   "
              "outage p50    p99   confirmed  lost")
        for kind, row in sorted(summary["faults"].items()):
            times = []
            for name in ("takeover_s", "outage_s"):
                times += ["%8.2f" % row[name][p] if name in row else "       -"
                          for p in ("p50", "p99")]
            print("%-12s %5d %11d   %s   %s    %s   %s  %9d  %4d" % (
                kind, row["rounds"], row["another_led"], *times, row["confirmed"], row["lost"]))
        total = summary["total"]
        print("%d rounds on %s in %.0f s: %d failovers, %d epochs, "
              "%d confirmed, %d lost; one history: %s" % (
                  total["rounds"],
                  "NFS" if self.options.nfs else "a local directory",
                  total["seconds"], total["failovers"], total["epochs"],
                  total["confirmed"], total["lost"],
                  "NO" if summary["wrong"] else "yes"), flush=True)
