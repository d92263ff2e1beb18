#!/usr/bin/python3
"""Holdfast and its peers, measured in one run on this machine.

Every step begins with a broker on an empty directory under build/peers, on
loopback, and ends with that directory removed.  Peers take turns within a
load, loads within a round, and the order of the peers moves with the round,
so that a machine that drifts drifts for all of them.

Usage: run.py [--rounds N] [--seconds S] [--peers KEY,...] [--loads KEY,...]
See bench/README.md."""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True

import client
import holdfast
import jvm
import meters
import rabbitmq
import report
import scenes
import small
import workloads
from peer import Failed, Unavailable, log_tail

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
HOME = os.path.join(BUILD, "peers")
PEERS = [holdfast.Holdfast, jvm.Artemis, jvm.Activemq, jvm.ActivemqStomp,
         rabbitmq.Rabbitmq, rabbitmq.RabbitmqAmqp10, small.Redis, small.Nats,
         small.Beanstalkd, jvm.ActivemqDefaults, rabbitmq.RabbitmqDefaults,
         small.RedisDefaults, small.NatsDefaults, small.NatsDebian,
         small.BeanstalkdDefaults, holdfast.HoldfastThreads]
# Found only when they are named.
ASKED_FOR = {"holdfast-threads"}
STARTS_LOST_MAX = 2


def arguments():
    parser = argparse.ArgumentParser(
        description="Holdfast and its peers, measured in one run.",
        epilog="peers: %s.  loads: %s, and the sets %s." % (
            ", ".join(p.key for p in PEERS), ", ".join(workloads.SETS["all"]),
            ", ".join(workloads.SETS)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--peers", default="",
                        help="only these, by key, with commas (all)")
    parser.add_argument("--loads", default="core",
                        help="loads and sets, with commas (core)")
    parser.add_argument("--backlog", type=int, default=1000000,
                        help="messages of the backlog (1000000)")
    parser.add_argument("--minutes", type=float, default=0,
                        help="end after so long (twice the estimate)")
    parser.add_argument("--out", help="where the report goes (%s/DATE)" %
                        os.path.relpath(HOME))
    parser.add_argument("--plan", action="store_true",
                        help="say what would be done and how long it takes")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0 or options.backlog < 1:
        parser.error("rounds, seconds and backlog are above 0")
    try:
        options.keys = workloads.chosen(
            [k for k in re.split("[, ]+", options.loads) if k])
    except ValueError as e:
        parser.error(str(e))
    wanted = [k for k in re.split("[, ]+", options.peers) if k]
    unknown = set(wanted) - {p.key for p in PEERS}
    if unknown:
        parser.error("there is no peer %s" % ", ".join(sorted(unknown)))
    options.wanted = [p for p in PEERS if p.key in wanted or
                      (not wanted and p.key not in ASKED_FOR)]
    return options


def step_s(peer, key, options):
    """About how long a step takes."""
    start = 8 if peer.warm_s > 1 else 1
    load = workloads.find(key)
    if load:
        return start + peer.warm_s + options.seconds + 2.5
    rate = 40000 if peer.warm_s > 1 else 100000
    backlog = min(scenes.FILL_LIMIT_S, options.backlog / rate)
    return {"idle": 3 * start + 3, "crash": 2 * start + 8,
            "backlog": 2 * start + 3 * backlog + 6,
            "settled": start + backlog + workloads.SETTLE_S + 3,
            "proof": 4 * start + options.seconds + 3}[key]


def steps(peers, options):
    """(round, load, peer) in the order in which they are done."""
    order = []
    for turn in range(options.rounds):
        for key in options.keys:
            if turn and key in workloads.ONCE:
                continue
            at = turn % len(peers)
            order += [(turn, key, peer) for peer in peers[at:] + peers[:at]
                      if workloads.takes_part(peer, key)]
    return order


def find(classes, results):
    """The peers that are here; why the others are not goes into results."""
    here = []
    for kind in classes:
        peer = kind()
        about = {"title": peer.title, "column": peer.column,
                 "settings": peer.settings, "note": peer.note,
                 "protocol": peer.protocol, "syncs": peer.syncs}
        results["peers"][peer.key] = about
        try:
            peer.find()
            about["version"] = peer.version
            here.append(peer)
        except Unavailable as e:
            about["unavailable"] = str(e)
            print("%-20s not available here: %s" % (peer.key, e), flush=True)
    return here


def one(peer, key, scratch, disk, options):
    """One step; what happened, whatever happened."""
    step = {"load": key, "peer": peer.key}
    log = None
    try:
        step["figures"] = scenes.Scene(peer, scratch, disk, options.seconds,
                                       options.backlog).run(key)
    except Failed as e:
        step["failed"] = str(e)
        log = peer.log
    except (OSError, ValueError, KeyError) as e:
        step["failed"] = "the harness: %r" % e
        log = peer.log
    if "failed" in step:
        step["log"] = log_tail(log) if log else []
        step["started"] = peer.start_s > 0
    step["load_average"] = os.getloadavg()[0]
    return step


def words_of(step):
    figures = step.get("figures")
    if figures is None:
        return "FAILED: " + step["failed"]
    if "left_out" in figures:
        return figures["left_out"]
    return report.brief(step["load"], figures)


def run(peers, options, results, deadline):
    scratch = os.path.join(HOME, "run-%d" % os.getpid())
    os.makedirs(scratch)
    disk = meters.Disk(scratch)
    quiet = meters.settle(disk)
    lost = {}
    order = steps(peers, options)
    try:
        for number, (turn, key, peer) in enumerate(order):
            if time.monotonic() > deadline:
                results["cut_short"] = len(order) - number
                print("out of time: %d steps are left out" %
                      results["cut_short"])
                return
            if lost.get(peer.key, 0) >= STARTS_LOST_MAX:
                results["steps"].append({
                    "round": turn, "load": key, "peer": peer.key, "log": [],
                    "failed": "left out: it did not start before"})
                continue
            begun = time.monotonic()
            attempt = peer.again()
            try:
                step = one(attempt, key, scratch, disk, options)
            finally:
                attempt.discard()
            for name in os.listdir(scratch):
                path = os.path.join(scratch, name)
                shutil.rmtree(path, ignore_errors=True)
                if os.path.isfile(path):
                    os.unlink(path)
            step.update({"round": turn, "took_s": time.monotonic() - begun,
                         "disk_was_quiet": quiet})
            quiet = meters.settle(disk)
            if "failed" in step and not step["started"]:
                lost[peer.key] = lost.get(peer.key, 0) + 1
            results["steps"].append(step)
            print("%3d/%d %-9s %-20s %s" % (number + 1, len(order), key,
                                            peer.key, words_of(step)),
                  flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save(results, path):
    """A line for each step, so that it can be looked at and compared."""
    about = {k: v for k, v in results.items() if k != "steps"}
    with open(path, "w") as f:
        f.write(json.dumps(about, indent=1)[:-2] + ',\n "steps": [\n')
        f.write(",\n".join(json.dumps(s) for s in results["steps"]))
        f.write("\n]}\n")


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs(HOME, exist_ok=True)
    results = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
               "machine": meters.machine(HOME), "rounds": options.rounds,
               "seconds": options.seconds, "backlog": options.backlog,
               "loads": options.keys, "commit": client.commit(),
               "peers": {}, "steps": []}
    print("Looking for the peers; what has to be fetched is fetched once.",
          flush=True)
    peers = find(options.wanted, results)
    if not peers:
        sys.exit("none of the peers is available here")
    estimate = sum(step_s(peer, key, options)
                   for _, key, peer in steps(peers, options)) / 60
    bound = options.minutes or 2 * estimate + 1
    print("%d steps, about %.0f minutes, %.0f at most" % (
        len(steps(peers, options)), estimate, bound), flush=True)
    if options.plan:
        return
    client.find()
    out = options.out or os.path.join(HOME, time.strftime("%Y%m%d-%H%M%S"))
    os.makedirs(out, exist_ok=True)
    try:
        run(peers, options, results, time.monotonic() + bound * 60)
    finally:
        save(results, os.path.join(out, "raw.json"))
        if results["steps"]:
            report.write(results, out)
            print(os.path.relpath(os.path.join(out, "report.md")))


if __name__ == "__main__":
    main()
