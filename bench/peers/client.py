"""The load generator (bench/load), as the steps use it.

Its report becomes figures with the same names for every protocol.  What it
confirmed is counted over the whole of its run, as the meters around it are;
rates and latencies leave out the first moments."""

import json
import os
import subprocess
import time

from peer import Failed, die_with_parent

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
GENERATOR = os.path.join(BUILD, "bench", "holdfast-load")
RAMP = "500ms"
SPARE_S = 60     # beyond what was asked for, before it is given up
PATIENCE = "20s"
EXIT_OK, EXIT_UNCLEAN = 0, 3


def find():
    if not os.access(GENERATOR, os.X_OK):
        raise SystemExit("%s is not built: make bench-peers builds it" %
                         GENERATOR)


def commit():
    """What was measured, if this is a checkout."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty"],
                              capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


def command(peer, load, prefix, *more, mode=None, **over):
    """The command line; `over` replaces fields of the load."""
    def of(name):
        return str(over.get(name, getattr(load, name)))

    mode = mode or load.mode
    argv = [GENERATOR, "--protocol", over.get("protocol", peer.protocol),
            "--url", "127.0.0.1:%d" % peer.port, "--mode", mode,
            "--prefix", over.get("address") or peer.address(load, prefix),
            "--connections", of("connections"), "--window", of("window"),
            "--size", of("size"), "--patience", PATIENCE]
    if mode == "both":
        argv += ["--receivers", of("receivers")]
    if mode != "consume" and load.rate:
        argv += ["--rate", of("rate")]
    if load.fanout:
        argv += ["--fanout", str(load.fanout)]
    elif load.queues > 1:
        argv += ["--queues", str(load.queues)]
    if peer.user and mode:
        argv += ["--user", peer.user, "--password", peer.password]
    if over.get("protocol", peer.protocol) == peer.protocol:
        argv += list(peer.load_options)
    return argv + list(more)


def duration(seconds):
    return "%dms" % (seconds * 1000)


def start(argv):
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=die_with_parent)


def finish(process, limit_s):
    """(exit code, report) of a generator that was started."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed("the load did not end within %d s" % limit_s) from None
    try:
        return process.returncode, json.loads(out), err.strip()
    except ValueError:
        raise Failed("the load said: " + (err.strip() or "nothing")[:400]) \
            from None


def curve(spectrum):
    """[percentile, milliseconds]"""
    return [[round(100 * at, 5), us / 1000] for at, us in spectrum]


def percentiles(latency):
    if not latency["count"]:
        return dict.fromkeys(("50", "90", "99", "99.9", "99.99", "100"))
    return {**{name[1:]: latency[name] / 1000 for name in
               ("p50", "p90", "p99", "p99.9", "p99.99")},
            "100": latency["max"] / 1000}


def figures_of(report):
    """The figures of one report."""
    publish = report.get("publish", {})
    consume = report.get("consume", {})
    verified = report.get("verified", {})
    figures = {
        "confirmed": publish.get("accepted_in_all", 0),
        "refused": publish.get("rejected_in_all", 0) +
        publish.get("released_in_all", 0),
        "received": consume.get("arrived_in_all", 0),
        "client_cpu_s": report["generator"]["cpu_seconds_in_all"],
        "remark": publish.get("first_refusal", ""),
    }
    if publish:
        figures["confirmed_per_s"] = publish["per_second"]
        figures["confirm_ms"] = percentiles(publish["latency_us"])
        figures["confirm_curve"] = curve(publish["latency_us"]["spectrum"])
    if consume:
        figures["received_per_s"] = consume["per_second"]
    if "latency_us" in consume:
        figures["through_ms"] = percentiles(consume["latency_us"])
    if verified:
        figures["lost"] = verified.get("lost", verified.get("gaps", 0))
        figures["kept"] = verified.get("unconfirmed_but_there", 0)
        for name in ("unique", "duplicates", "out_of_order", "corrupt"):
            figures[name] = verified[name]
    return figures


def complain(code, report, err):
    """What did not work at all; loss is a figure, and not for here."""
    if code not in (EXIT_OK, EXIT_UNCLEAN) or report.get("error"):
        raise Failed("the load: " + (report.get("error") or err)[:400])
    if report.get("short_of"):
        raise Failed("the load: nothing moved for " + PATIENCE)


def run(peer, load, prefix, seconds=0, count=0, ledger=None, verify=False,
        limit_s=0):
    """A load from its beginning to its end."""
    peer.declare(load, prefix)
    if count:
        more = ["--count", str(count)]
    else:
        more = ["--seconds", duration(seconds), "--warmup", RAMP]
    if ledger:
        more += ["--ledger", ledger]
    if verify:
        more.append("--verify")
    code, report, err = finish(start(command(peer, load, prefix, *more)),
                               (limit_s or seconds) + SPARE_S)
    complain(code, report, err)
    return figures_of(report)


def until_broken(peer, load, prefix, ledger, after_s):
    """Publishes until the peer, which is killed after a while, is gone."""
    peer.declare(load, prefix)
    process = start(command(peer, load, prefix, "--seconds", "60s",
                            "--until-broken", "--ledger", ledger,
                            mode="publish"))
    time.sleep(after_s)
    if process.poll() is None:
        peer.kill()
    code, report, err = finish(process, SPARE_S)
    complain(code, report, err)
    if not report.get("broken"):
        raise Failed("the load ended before the broker was killed")
    return figures_of(report)


def drain(peer, load, prefix, ledger, begun, recovery_s, drain_s):
    """Takes everything that the ledger promises, from a peer whose process
    was started at `begun` (monotonic seconds), as soon as it lets us.  What
    lets one in and fails then is asked again: some take connections before
    they have their queues back."""
    limit = time.monotonic() + recovery_s
    tries = 0
    while True:
        left = limit - time.monotonic()
        if not peer.alive():
            raise Failed("ended while it recovered")
        if left <= 0:
            raise Failed("no message within %d s" % recovery_s)
        tries += 1
        argv = command(peer, load, prefix, "--wait", duration(left),
                       "--verify", "--ledger", ledger, mode="consume")
        code, report, err = finish(start(argv), left + drain_s + SPARE_S)
        first_ns = report.get("monotonic_ns", {}).get("first_message", 0)
        if first_ns:
            break
        if code in (EXIT_OK, EXIT_UNCLEAN) and not report.get("error"):
            break  # it was patient, and nothing came: nothing is there
        time.sleep(0.02)
    if report.get("error"):
        raise Failed("the load: " + report["error"][:400])
    figures = figures_of(report)
    figures["first_message_s"] = first_ns / 1e9 - begun if first_ns else None
    figures["tries"] = tries
    return figures
