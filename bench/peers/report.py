#!/usr/bin/python3
"""The report: tables in Markdown and plots, from the raw results.

Usage: report.py RAW.json FOLDER"""

import json
import os
import statistics
import sys

sys.dont_write_bytecode = True

import plot
import workloads

PLOTS = (("throughput", "Throughput"), ("latency", "Latency"),
         ("recovery", "Recovery"), ("memory", "Memory"))
# A step with more than this is disturbed; a run with many such steps is no
# measurement.
NOISE_CORES = 0.35
NOISE_SHARE = 0.1
LATENCY_LOADS = ("window1", "paced", "light", "eight", "through")


# ---- figures ----

def rate_key(load):
    return "received_per_s" if load.mode == "both" else "confirmed_per_s"


class Results:
    def __init__(self, raw):
        self.raw = raw
        self.peers = raw["peers"]
        self.steps = raw["steps"]

    def done(self, peer, key):
        """Figures of the rounds in which this worked."""
        return [s["figures"] for s in self.steps
                if s["peer"] == peer and s["load"] == key and
                "figures" in s and "left_out" not in s["figures"]]

    def failed(self, peer, key):
        return [s for s in self.steps if s["peer"] == peer and
                s["load"] == key and "failed" in s]

    def values(self, peer, key, *path):
        found = []
        for figures in self.done(peer, key):
            for name in path:
                figures = figures.get(name) if isinstance(figures, dict) \
                    else None
            if figures is not None:
                found.append(figures)
        return found

    def middle(self, peer, key, *path):
        """(median, least, most) or None."""
        found = self.values(peer, key, *path)
        return (statistics.median(found), min(found), max(found)) \
            if found else None

    def of_column(self, column):
        return [key for key, about in self.peers.items()
                if about["column"] == column and "unavailable" not in about]

    def waits(self, peer):
        """Whether the proof saw it wait for the disk; None: not tried."""
        found = self.values(peer, "proof", "waits")
        return found[0] if found else None

    def ranked(self, key, column=None):
        """Peers with a figure for this load, best first."""
        name = rate_key(workloads.find(key))
        peers = [p for p in self.peers if self.middle(p, key, name) and
                 (column is None or self.peers[p]["column"] == column)]
        return sorted(peers, key=lambda p: -self.middle(p, key, name)[0])


# ---- words ----

def number(value):
    if value is None:
        return "–"
    if value >= 100 or value == int(value):
        return "{:,.0f}".format(value)
    return "%.1f" % value if value >= 10 else "%.2f" % value


def spread(found, words=number):
    if not found:
        return "–"
    if found[1] == found[2]:
        return words(found[0])
    return "%s (%s–%s)" % tuple(words(v) for v in found)


def milliseconds(value):
    if value is None:
        return "–"
    if value < 1:
        return "%.0f µs" % (value * 1000)
    if value < 1000:
        return ("%.1f ms" if value < 100 else "%.0f ms") % value
    return "%.1f s" % (value / 1000)


def seconds(value):
    if value is None:
        return "–"
    return "%.0f ms" % (value * 1000) if value < 1 else "%.2f s" % value


def ratio(value):
    if value is None:
        return "–"
    return "%.4f" % value if value < 0.1 else "%.2f" % value


def first(found):
    return found[0] if found else None


def brief(key, f):
    """One line of progress."""
    load = workloads.find(key)
    if load:
        said = "%s/s, p50 %s, p99 %s" % (
            number(f[rate_key(load)]), milliseconds(f["confirm_ms"]["50"]),
            milliseconds(f["confirm_ms"]["99"]))
        if "flushes_per_message" in f:
            said += ", %s flushes/msg" % ratio(f["flushes_per_message"])
        if f.get("lost"):
            said += ", LOST %d" % f["lost"]
        return said + ", others %.2f cores" % f["others_cores"]
    if key == "idle":
        return "starts in %s, %s MiB" % (seconds(f["start_s"]),
                                         number(f["rss_mib"]))
    if key == "proof":
        return "confirms after %s, with %.0f ms a sync after %s: %s" % (
            milliseconds(f["plain_ms"]), f["delay_ms"],
            milliseconds(f["slow_ms"]),
            "waits for the disk" if f["waits"] else "does NOT wait")
    if key == "settled":
        return "%s queued, %s MiB, then %s MiB" % (
            number(f["queued"]), number(f["rss_mib"]),
            number(f["rss_settled_mib"]))
    said = "first message after %s, %s drained, %s lost" % (
        seconds(f["first_message_s"]), number(f["received"]), number(f["lost"]))
    if key == "backlog":
        said = "%s queued, %s MiB; " % (number(f["queued"]),
                                        number(f["rss_mib"])) + said
    return said


def mark(results, peer):
    """Beside a figure: is it one of a peer that syncs?"""
    waits = results.waits(peer)
    if waits is None:
        return "" if results.peers[peer]["syncs"] else " *(not synced)*"
    return "" if waits else " **(not synced)**"


def table(out, heads, rows):
    out.append("| " + " | ".join(heads) + " |")
    out.append("|" + "---|" * len(heads))
    for row in rows:
        out.append("| " + " | ".join(row) + " |")
    out.append("")


# ---- sections ----

def failures(out, results, key, peers):
    for peer in peers:
        lost = results.failed(peer, key)
        if lost:
            out.append("- **%s failed** in %d of %d rounds: %s" % (
                results.peers[peer]["title"], len(lost),
                len(lost) + len(results.done(peer, key)), lost[0]["failed"]))
        for step in results.steps:
            if step["peer"] == peer and step["load"] == key and \
                    "left_out" in step.get("figures", {}) and \
                    step["round"] == 0:
                out.append("- %s: %s" % (results.peers[peer]["title"],
                                         step["figures"]["left_out"]))
    if out[-1]:
        out.append("")


def load_section(out, results, key, column):
    load = workloads.find(key)
    name = rate_key(load)
    peers = results.ranked(key, column)
    out += ["### " + load.title, "", load.words(), ""]
    ours = results.middle("holdfast", key, name)
    both = load.mode == "both"
    heads = ["broker", "received/s" if both else "confirmed/s",
             "Holdfast ÷ it", "confirm p50", "p99", "p99.9", "flushes/msg",
             "written/byte", "CPU s/million", "client cores", "memory MiB"]
    if both:
        heads[3:3] = ["confirmed/s", "end to end p50", "p99"]
    rows = []
    for peer in peers:
        def of(*path, peer=peer):
            return first(results.middle(peer, key, *path))
        rate = results.middle(peer, key, name)
        took, client_s = of("took_s"), of("client_cpu_s")
        through = [
            number(of("confirmed_per_s")),
            milliseconds(of("through_ms", "50")),
            milliseconds(of("through_ms", "99"))] if both else []
        rows.append([
            results.peers[peer]["title"] + mark(results, peer),
            spread(rate),
            number(ours[0] / rate[0]) if ours and rate[0] else "–",
            *through, milliseconds(of("confirm_ms", "50")),
            milliseconds(of("confirm_ms", "99")),
            milliseconds(of("confirm_ms", "99.9")),
            ratio(of("flushes_per_message")), ratio(of("written_per_byte")),
            number(of("cpu_s_per_million")),
            "%.2f" % (client_s / took) if took else "–",
            number(of("rss_mib"))])
    table(out, heads, rows)
    for peer in peers:
        for what in ("lost", "duplicates", "out_of_order"):
            count = sum(results.values(peer, key, what))
            if count:
                out.append("- %s: %s %s" % (results.peers[peer]["title"],
                                            number(count),
                                            what.replace("_", " ")))
    out.append("")
    failures(out, results, key, [p for p in results.peers if
                                 results.peers[p]["column"] == column])


def idle_section(out, results):
    out += ["## Starting, and idle", "", "On an empty directory; memory %s "
            "after it was ready." % "two seconds", ""]
    rows = []
    for peer in results.peers:
        if results.done(peer, "idle"):
            rows.append([results.peers[peer]["title"],
                         spread(results.middle(peer, "idle", "start_s"),
                                seconds),
                         number(first(results.middle(peer, "idle", "rss_mib"))),
                         number(first(results.middle(peer, "idle", "threads"))),
                         number(first(results.middle(peer, "idle",
                                                     "disk_mib")))])
    table(out, ["broker", "takes work after", "memory MiB", "threads",
                "disk MiB"], rows)
    failures(out, results, "idle", results.peers)


def backlog_section(out, results):
    out += ["## A backlog and a SIGKILL", "",
            "{:,} messages of 1 KiB, or as many as the broker takes in a "
            "minute; SIGKILL; its files out of the page cache; a new process, "
            "one connecting client. Time is from the start of the process to "
            "the first message; the drain has four connections.".format(
                results.raw["backlog"]), ""]
    rows = []
    for peer in results.peers:
        def of(name, peer=peer):
            return results.middle(peer, "backlog", name)
        if results.done(peer, "backlog"):
            rows.append([
                results.peers[peer]["title"] + mark(results, peer),
                number(first(of("queued"))), spread(of("fill_per_s")),
                number(first(of("rss_mib"))), number(first(of("disk_mib"))),
                spread(of("first_message_s"), seconds),
                spread(of("received_per_s")),
                number(sum(results.values(peer, "backlog", "lost"))),
                number(first(of("rss_after_mib"))),
                number(first(of("disk_after_mib")))])
    table(out, ["broker", "queued", "filled/s", "memory MiB", "disk MiB",
                "first message after", "drained/s", "confirmed but lost",
                "memory after MiB", "disk after MiB"], rows)
    failures(out, results, "backlog", results.peers)


def settled_section(out, results):
    out += ["## Memory with a backlog", "",
            "The same backlog without SIGKILL: memory when the last message "
            "was confirmed, and after %d s in which nobody did anything." %
            workloads.SETTLE_S, ""]
    rows = []
    for peer in results.peers:
        def of(name, peer=peer):
            return first(results.middle(peer, "settled", name))
        if results.done(peer, "settled"):
            rows.append([results.peers[peer]["title"] + mark(results, peer),
                         number(of("queued")), number(of("rss_mib")),
                         number(of("rss_settled_mib"))])
    table(out, ["broker", "queued", "memory MiB", "settled MiB"], rows)
    failures(out, results, "settled", results.peers)


def crash_section(out, results):
    out += ["## SIGKILL while publishing", "",
            "Four connections, window 1000. The kernel survives a SIGKILL, so "
            "this is no proof against a power cut; the next section is.", ""]
    rows = []
    for peer in results.peers:
        for f in results.done(peer, "crash"):
            rows.append([results.peers[peer]["title"], number(f["confirmed"]),
                         number(f["received"]), number(f["lost"]),
                         number(f["kept"]), number(f["duplicates"]),
                         seconds(f["first_message_s"])])
    table(out, ["broker", "confirmed", "received", "confirmed but lost",
                "unconfirmed but kept", "duplicates", "first message after"],
          rows)
    failures(out, results, "crash", results.peers)


def proof_section(out, results):
    out += ["## Does it wait for the disk?", "",
            "Window 1, as it is and with each of its syncs (fsync, fdatasync, "
            "msync, pwritev2 with its flags) delayed by strace. Who confirms "
            "sooner than the delay has not waited. What io_uring submits is "
            "no system call, so Holdfast's delayed run is with its other "
            "engine; flushes of the device show its usual one.", ""]
    rows = []
    for peer in results.peers:
        for f in results.done(peer, "proof"):
            rows.append([
                results.peers[peer]["title"], milliseconds(f["plain_ms"]),
                ratio(f["plain_flushes_per_message"]),
                milliseconds(f["slow_ms"]), number(f["slow_confirmed"]),
                ", ".join("%s %d" % c for c in f["sync_calls"].items()) or
                "none", ("waits" if f["waits"] else "**does not wait**") +
                ("" if f["as_meant"] else " — **not as its settings say**")])
    table(out, ["broker", "confirm p50", "device flushes/msg",
                "confirm p50, delayed", "confirmed, delayed",
                "sync calls, with the start's", "so it"], rows)
    failures(out, results, "proof", results.peers)


def head(out, results):
    raw, machine = results.raw, results.raw["machine"]
    out += ["# Holdfast and its peers", "",
            "%s, %d round%s of %g s, commit %s. Medians, with least and most."
            % (raw["date"], raw["rounds"], "" if raw["rounds"] == 1 else "s",
               raw["seconds"], raw["commit"]), "",
            "Machine: {cores} × {cpu}, {memory_gib} GiB, {system}, kernel "
            "{kernel}; disk {disk}, cache {disk_cache}; {file_system} "
            "({mount_options}). Broker, client and disk share it; loopback, "
            "no TLS.".format(**machine), ""]
    others = [s["figures"]["others_cores"] for s in results.steps
              if "others_cores" in s.get("figures", {})]
    loud = [s for s in results.steps if not s.get("disk_was_quiet", True)]
    if others:
        out += ["What else ran took %.2f cores (median of the steps; most "
                "%.2f), kernel threads included; somebody else was writing to "
                "the disk before %d of %d steps." % (
                    statistics.median(others), max(others), len(loud),
                    len(results.steps)), ""]
        disturbed = sum(o > NOISE_CORES for o in others)
        if disturbed > NOISE_SHARE * len(others) or \
                len(loud) > NOISE_SHARE * len(results.steps):
            out += ["**The machine was not quiet: these figures show that the "
                    "harness works, and nothing about the brokers.**", ""]
    if raw.get("cut_short"):
        out += ["**The time was up before %d of the steps.**" %
                raw["cut_short"], ""]


def settings_section(out, results):
    out += ["## Versions and settings", ""]
    rows = []
    for key, about in results.peers.items():
        rows.append(["`%s`" % key, about["title"],
                     about.get("version", "not available here: " +
                               about.get("unavailable", "")),
                     about["settings"] + (
                         "; " + about["note"] if about["note"] else "")])
    table(out, ["key", "broker", "version", "settings"], rows)


def logs_section(out, results):
    lost = [s for s in results.steps if "failed" in s]
    if not lost:
        return
    out += ["## What failed", ""]
    for step in lost:
        out += ["%s, %s, round %d: %s" % (step["peer"], step["load"],
                                          step["round"] + 1, step["failed"]),
                ""]
        if step["log"]:
            out += ["```"] + step["log"] + ["```", ""]


# ---- plots ----

def kind(results, peer):
    if peer == "holdfast":
        return "ours"
    waits = results.waits(peer)
    synced = results.peers[peer]["syncs"] if waits is None else waits
    return "other" if synced else "unsynced"


def bar(results, peer, key, *path):
    found = results.middle(peer, key, *path)
    return (results.peers[peer]["title"], *(found or (None, 0, 0)),
            kind(results, peer))


def throughput(results):
    panels = []
    for load in workloads.LOADS:
        rows = [bar(results, p, load.key, rate_key(load))
                for p in results.ranked(load.key)]
        panels.append(plot.bars("%s: %s, messages/s" % (
            load.title, load.words()), rows, number))
    return plot.page("Throughput", "Median, least and most. Striped: confirms "
                     "what is not on the disk.", panels)


def latency(results):
    panels = []
    colours = {p: plot.LINES[i % len(plot.LINES)] for i, p in
               enumerate(results.of_column("durable"))}
    for key in LATENCY_LOADS:
        load = workloads.find(key)
        peers = results.ranked(key, "durable")
        peers.sort(key=lambda p: p != "holdfast")
        curves = []
        for peer in peers:
            points = {}
            for f in results.done(peer, key):
                for p, value in f["confirm_curve"]:
                    points.setdefault(p, []).append(value)
            curves.append((results.peers[peer]["title"][:34],
                           colours[peer], {p: statistics.median(v)
                                           for p, v in points.items()}))
        panels.append(plot.percentiles("%s: %s" % (load.title, load.words()),
                                       curves, milliseconds))
    return plot.page("Time to confirm, by percentile", "Medians over the "
                     "rounds; both axes logarithmic.", panels)


def recovery(results):
    panels = []
    for key, name in (("backlog", "SIGKILL with a backlog"),
                      ("idle", "Start on an empty directory")):
        what = "first_message_s" if key == "backlog" else "start_s"
        rows = [bar(results, p, key, what) for p in results.peers
                if results.done(p, key)]
        rows.sort(key=lambda row: row[1] or 0)
        panels.append(plot.bars(name + (
            ": first message after" if key == "backlog" else ": ready after"),
            rows, seconds, logarithmic=True))
    return plot.page("Recovery", "From the start of the process.", panels)


def memory(results):
    panels = []
    for key, what, name in (
            ("idle", "rss_mib", "Idle"),
            ("backlog", "rss_mib", "With the backlog"),
            ("backlog", "rss_after_mib", "After recovering and draining it")):
        rows = [bar(results, p, key, what) for p in results.peers
                if results.done(p, key)]
        rows.sort(key=lambda row: row[1] or 0)
        panels.append(plot.bars(name + ", MiB resident", rows, number,
                                logarithmic=True))
    return plot.page("Memory", "Of all its processes.", panels)


def write(raw, folder):
    results = Results(raw)
    out = []
    head(out, results)
    for name, title in PLOTS:
        drawn = {"throughput": throughput, "latency": latency,
                 "recovery": recovery, "memory": memory}[name](results)
        if "<rect x=" in drawn or "<polyline" in drawn:
            with open(os.path.join(folder, name + ".svg"), "w") as f:
                f.write(drawn)
            out += ["![%s](%s.svg)" % (title, name), ""]
    keys = [k for k in results.raw["loads"] if workloads.find(k)]
    for column, title in (("durable", "## Durable settings"),
                          ("defaults", "## The peers' own defaults")):
        shown = [k for k in keys if results.ranked(k, column) or any(
            results.failed(p, k) for p in results.of_column(column))]
        if shown:
            out += [title, ""]
            for key in shown:
                load_section(out, results, key, column)
    for key, section in (("idle", idle_section), ("backlog", backlog_section),
                         ("settled", settled_section),
                         ("crash", crash_section), ("proof", proof_section)):
        if key in results.raw["loads"]:
            section(out, results)
    settings_section(out, results)
    logs_section(out, results)
    with open(os.path.join(folder, "report.md"), "w") as f:
        f.write("\n".join(out).rstrip() + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as source:
        write(json.load(source), sys.argv[2])
