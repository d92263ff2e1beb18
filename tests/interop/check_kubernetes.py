#!/usr/bin/python3
"""The leadership label against an API server of our own (kubernetes_api.py):
what is labelled, what is left alone, and what happens when the API refuses,
hangs or is away.  The broker's part is played by tests/interop/label.c.

Usage: check_kubernetes.py [TEST...]
Environment: BUILD, VERBOSE."""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

from broker import BUILD, Broker, fork_action, skip
from kubernetes_api import RBAC, Authority, Refused, Server

OWN, PEER, OTHER = "holdfast-0", "holdfast-1", "holdfast-2"
LEVEL_MS = 200
BOUND_S = 90
SCRATCH = os.path.join(os.environ.get("TMPDIR") or os.path.join(BUILD, "tmp"),
                       "kubernetes-%d" % os.getpid())
PROGRAM = os.path.join(BUILD, "tests/interop/label")


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError("%s: %r, not %r" % (what, got, wanted))


def put(folder, name, text):
    """As the kubelet does: another file takes the name."""
    path = os.path.join(folder, name)
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def make_account(server, folder):
    os.makedirs(folder)
    put(folder, "namespace", "messaging")
    put(folder, "token", "token-1\n")
    with open(server.authority.ca) as f:
        put(folder, "ca.crt", f.read())


class Label:
    """One broker's label, as a process."""

    def __init__(self, server, pod=OWN, level_ms=LEVEL_MS, url=None):
        self.server, self.pod = server, pod
        self.dir = os.path.join(SCRATCH, "%s-%d" % (pod, len(started)))
        make_account(server, self.dir)
        self.log = os.path.join(self.dir, "log")
        peers = ",".join(p for p in (OWN, PEER, OTHER) if p != pod)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, url or server.url, self.dir, pod, peers,
                 str(level_ms)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=fork_action())
        started.append(self)

    def write(self, name, text):
        put(self.dir, name, text)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise AssertionError("%s: no answer to %s" % (self.pod, command))
        return answer

    def lead(self, epoch):
        expect(self.ask("lead %d" % epoch), "ok", "lead")

    def follow(self):
        expect(self.ask("follow"), "ok", "follow")

    def settle(self):
        expect(self.ask("wait 30000"), "yes", "labelled as wanted")

    def stats(self):
        return json.loads(self.ask("stats"))

    def until(self, condition, what, seconds=30):
        """Of its statistics, which nobody announces."""
        end = time.monotonic() + seconds
        while not condition(self.stats()):
            if time.monotonic() > end:
                raise AssertionError("%s: not within %d s: %r" % (
                    what, seconds, self.stats()))
            time.sleep(0.01)

    def until_failed(self, failure, times=1):
        self.until(lambda s: s["failures"][failure] >= times,
                   "%d times %s" % (times, failure))

    def until_said(self, event, times=1):
        self.until(lambda _: len(self.events(event)) >= times,
                   "%d times %s in the log" % (times, event))

    def stop(self):
        expect(self.ask("stop"), "ok", "stop")
        expect(self.process.wait(30), 0, "exit code")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def events(self, name):
        with open(self.log) as log:
            lines = [json.loads(line) for line in log
                     if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


started = []


def has(server, pod, leader, epoch=None):
    server.until(lambda: server.label(pod) == leader and
                 (epoch is None or server.epoch(pod) == str(epoch)),
                 "%s is %s %s" % (pod, leader, epoch or ""))


def leading(server, epoch=5, **options):
    """One that leads and has looked at everybody."""
    label = Label(server, **options)
    label.settle()
    label.lead(epoch)
    label.settle()
    server.until_requests(2, "peers looked at", method="GET", pod=OTHER)
    return label


# ---- what is labelled ----

def test_label_follows_leadership(server):
    """no at the start whatever was there, yes when leading, no at the end"""
    server.make_pod(OWN, "yes", 3)
    label = Label(server)
    has(server, OWN, "no")
    label.settle()
    label.lead(5)
    label.settle()
    has(server, OWN, "yes", 5)
    label.follow()
    label.settle()
    has(server, OWN, "no")
    label.lead(6)
    label.settle()
    has(server, OWN, "yes", 6)
    label.stop()
    expect(server.label(OWN), "no", "label after the stop")
    written = [(line["leader"], line.get("epoch"))
               for line in label.events("labelled")]
    expect(written, [("no", None), ("yes", 5), ("no", None), ("yes", 6),
                     ("no", None)], "changes in the log")
    expect(label.events("api-failed"), [], "failures")


def test_pod_without_labels(server):
    """a pod whose template has no such label gets one"""
    del server.pods[OWN]["metadata"]["labels"]
    label = Label(server)
    label.settle()
    expect(server.label(OWN), "no", "label")
    label.lead(1)
    label.settle()
    expect((server.label(OWN), server.epoch(OWN)), ("yes", "1"), "label")


def test_level(server):
    """what somebody else changes is changed back, without any event"""
    label = leading(server)
    server.relabel(OWN, "no")
    has(server, OWN, "yes", 5)
    server.relabel(OWN, "yes", 4)
    has(server, OWN, "yes", 5)
    label.until_said("label-lost", 2)
    # What is as it should be is only looked at.
    writes = server.count("PATCH")
    server.until_requests(5, "looks", method="GET", pod=OWN)
    expect(server.count("PATCH"), writes, "patches")


def test_token_rotation(server):
    """the token is read again for every request"""
    label = leading(server)
    label.write("token", "token-2")
    server.tokens = {"token-1", "token-2"}
    server.until(lambda: server.requests[-1].token == "token-2", "the new one")
    server.tokens = {"token-2"}
    server.until_requests(3, "requests", pod=OWN)
    expect(label.stats()["consecutive_failures"], 0, "failures")


def test_shipped_manifests(server):
    """Service, StatefulSet and Role in deploy/ fit each other and the broker"""
    def read(name):
        with open(os.path.join(os.path.dirname(RBAC), name)) as f:
            return f.read()

    service = read("service.yaml").split("---")[0]
    for line in ('    leader: "yes"', "  publishNotReadyAddresses: false"):
        if line not in service.splitlines():
            raise AssertionError("the Service lacks %r" % line)
    pods = read("statefulset.yaml")
    for line in ('        leader: "no"', "            - name: POD_NAME",
                 "      serviceAccountName: holdfast",
                 "      replicas: %d" % len(server.allowed),
                 "  replicas: %d" % len(server.allowed)):
        if line not in pods.splitlines():
            raise AssertionError("the StatefulSet lacks %r" % line)
    expect(server.verbs, ["get", "patch"], "the Role's verbs")
    expect(server.allowed, [OWN, PEER, OTHER], "the Role's pods")


# ---- peers ----

def test_stale_peer(server):
    """a pod that carries the label for an earlier epoch, or none, loses it"""
    server.make_pod(PEER, "yes", 4)
    server.make_pod(OTHER, "yes")
    label = leading(server)
    has(server, PEER, "no")
    has(server, OTHER, "no")
    expect(server.epoch(PEER), "4", "its epoch")
    expect(label.stats()["peers_corrected"], 2, "corrected")
    expect(sorted(line["pod"] for line in label.events("peer-corrected")),
           [PEER, OTHER], "in the log")
    own = next(i for i, r in enumerate(server.requests)
               if r.pod == OWN and r.method == "PATCH" and
               r.body["metadata"]["labels"]["leader"] == "yes")
    first = next(i for i, r in enumerate(server.requests) if r.pod != OWN)
    if first < own:
        raise AssertionError("a peer came before the own label")
    # And whenever it comes back.
    server.relabel(PEER, "yes", 3)
    has(server, PEER, "no")


def test_newer_peer(server):
    """a peer that carries the label for a later epoch keeps it"""
    server.make_pod(PEER, "yes", 9)
    label = leading(server)
    server.until_requests(4, "looks", method="GET", pod=PEER)
    expect((server.label(PEER), server.epoch(PEER)), ("yes", "9"), "the peer")
    expect(server.label(OWN), "yes", "the own label: it decides nothing")
    expect(server.count("PATCH", PEER), 0, "patches")
    expect(label.stats()["newer_epoch"], 9, "newer epoch")
    expect(len(label.events("newer-leader")), 1, "lines")


def test_peer_that_begins_to_lead(server):
    """a peer that leads between the look and the patch is not unlabelled"""
    server.make_pod(PEER, "yes", 4)

    def overtake(request):
        if request.pod == PEER:
            server.before_patch = None
            server.relabel(PEER, "yes", 6)

    server.before_patch = overtake
    label = leading(server)
    label.until_failed("conflict")
    server.until_requests(3, "looks", method="GET", pod=PEER)
    expect((server.label(PEER), server.epoch(PEER)), ("yes", "6"), "the peer")
    expect(server.count("PATCH", PEER), 1, "patches")
    expect(label.stats()["peers_corrected"], 0, "corrected")
    expect(label.events("api-failed"), [], "lines")


def test_unmarked_peer_that_changes(server):
    """the same for a peer that carried no epoch when it was looked at"""
    server.make_pod(PEER, "yes")

    def overtake(request):
        if request.pod == PEER:
            server.before_patch = None
            server.relabel(PEER, "yes", 6)

    server.before_patch = overtake
    label = leading(server)
    label.until_failed("conflict")
    server.until_requests(3, "looks", method="GET", pod=PEER)
    expect((server.label(PEER), server.epoch(PEER)), ("yes", "6"), "the peer")


def test_dead_leader(server):
    """the leader's node dies with its label; the next one takes it away"""
    old = leading(server)
    old.kill()
    expect(server.label(OWN), "yes", "the dead one's label")
    new = Label(server, pod=PEER)
    new.settle()
    new.lead(6)
    new.settle()
    has(server, PEER, "yes", 6)
    has(server, OWN, "no")
    # The container comes back and begins with no, which is there already.
    back = Label(server)
    back.settle()
    expect((server.label(OWN), server.label(PEER)), ("no", "yes"), "labels")


def test_missing_peer(server):
    """a peer that does not exist is no failure"""
    del server.pods[PEER]
    label = leading(server)
    server.until_requests(3, "looks", pod=PEER)
    expect(label.stats()["consecutive_failures"], 0, "failures")
    expect(label.events("pod-not-found"), [], "lines")


# ---- late requests ----

def test_late_yes(server):
    """a `yes` that was given up and arrives after the `no` is refused"""
    held, release = threading.Event(), threading.Event()

    def hold(request):
        if request.method == "PATCH" and not held.is_set() and \
                request.body["metadata"]["labels"]["leader"] == "yes":
            held.set()
            release.wait(30)

    label = Label(server)
    label.settle()
    server.fault = hold
    label.lead(5)
    if not held.wait(30):
        raise AssertionError("no yes was sent")
    late = next(r for r in server.requests if r.status is None)
    # Standing down does not wait until the request times out.
    label.follow()
    label.settle()
    expect(label.stats()["failures"]["timed-out"], 0, "time-outs")
    release.set()
    server.until(lambda: late.status, "the late one is answered")
    expect(late.status, 409, "its answer")
    expect(server.label(OWN), "no", "label")


# ---- the API says no ----

def refuse(status, headers=(), **which):
    def fault(request):
        if all(getattr(request, key) == value
               for key, value in which.items()):
            raise Refused(status, headers)
    return fault


def test_401(server):
    """a token that is refused: tried again with what the file then holds"""
    label = leading(server)
    server.tokens = {"token-2"}
    label.until_failed("unauthorized", 2)
    label.follow()
    label.lead(6)
    label.write("token", "token-2")
    label.settle()
    has(server, OWN, "yes", 6)
    expect(len(label.events("api-failed")), 1, "lines")
    label.until_said("api-recovered")


def test_403(server):
    """a missing role is said once, with the rule that is needed"""
    verbs, server.verbs = server.verbs, ["get"]
    label = Label(server)
    label.until_failed("forbidden", 3)
    label.lead(5)
    label.until_failed("forbidden", 5)
    said = label.events("forbidden")
    expect(len(said), 1, "lines")
    for word in ("resourceNames", "patch", "pods"):
        if word not in said[0]["hint"]:
            raise AssertionError("%r does not name %s" % (said[0], word))
    expect(label.stats()["in_sync"], False, "in sync")
    server.verbs = verbs
    label.settle()
    has(server, OWN, "yes", 5)


def test_403_for_a_peer(server):
    """a role that lacks one peer does not keep the others from being looked
    at"""
    server.allowed = [OWN, OTHER]
    server.make_pod(OTHER, "yes", 2)
    label = Label(server)
    label.settle()
    label.lead(5)
    label.settle()
    has(server, OTHER, "no")
    label.until_failed("forbidden", 2)
    expect(len(label.events("forbidden")), 1, "lines")
    expect(label.stats()["in_sync"], True, "in sync")


def test_404(server):
    """a pod that was replaced is left alone until leadership changes"""
    label = leading(server)
    gone = server.pods.pop(OWN)
    label.until_failed("not-found")
    label.until(lambda s: not s["in_sync"], "not in sync")
    requests = server.count()
    # Time for ten looks, in which there is none.
    expect(label.ask("wait %d" % (10 * LEVEL_MS)), "no", "in sync")
    expect(server.count(), requests, "requests")
    expect(len(label.events("pod-not-found")), 1, "lines")
    server.pods[OWN] = gone
    label.follow()
    label.settle()
    expect(server.label(OWN), "no", "label")


def test_429(server):
    """the server says how long to wait"""
    label = leading(server)
    server.fault = refuse(429, {"Retry-After": "2"})
    label.until_failed("throttled")
    throttled = len(server.requests) - 1
    expect(server.requests[throttled].status, 429, "the last answer")
    label.follow()
    server.until(lambda: len(server.requests) > throttled + 1, "the next")
    waited = server.requests[throttled + 1].at - server.requests[throttled].at
    if waited < 1.9:
        raise AssertionError("asked again after %.3f s" % waited)
    server.fault = None
    label.settle()
    expect(server.label(OWN), "no", "label")


def test_500_and_nonsense(server):
    """answers that are no pods are failures, and never the end"""
    label = leading(server)
    server.fault = refuse(503)
    label.until_failed("server-error", 2)
    server.fault = refuse(302, {"Location": "https://127.0.0.1:1/"})
    label.until_failed("rejected", 1)
    server.fault = None
    label.until(lambda s: not s["consecutive_failures"], "it is well again")
    # A pod, and one that is as wanted; but nobody reads 5 MiB.
    rejected = label.stats()["failures"]["rejected"]
    server.pods[OWN]["spec"]["padding"] = "y" * (5 << 20)
    label.until_failed("rejected", rejected + 2)
    del server.pods[OWN]["spec"]["padding"]
    server.relabel(OWN, "no")
    has(server, OWN, "yes", 5)


# ---- the API is away ----

def test_hang(server):
    """a server that takes the request and says nothing costs two seconds a
    time, and stopping one"""
    label = leading(server)
    release = threading.Event()
    server.fault = lambda request: release.wait(60)
    label.until_failed("timed-out", 2)
    label.follow()
    label.lead(6)
    expect(label.stats()["in_sync"], False, "in sync")
    server.fault = None
    release.set()
    label.settle()
    has(server, OWN, "yes", 6)
    release.clear()
    server.fault = lambda request: release.wait(60)
    server.until(lambda: server.requests[-1].status is None, "hangs again")
    began = time.monotonic()
    label.stop()
    if time.monotonic() - began > 5:
        raise AssertionError("stopping took long")
    expect(len(label.events("label-left")), 1, "lines")
    release.set()


def test_partition(server):
    """an edge that is lost while the API is away is repaired by level"""
    label = leading(server)
    server.stop()
    label.until_failed("unreachable", 2)
    label.follow()
    label.lead(8)
    server.relabel(OWN, "no")
    server.relabel(PEER, "yes", 7)
    label.until_failed("unreachable", 4)
    expect(label.process.poll(), None, "it goes on")
    expect(label.stats()["leader"], True, "and leads")
    server.start()
    label.settle()
    has(server, OWN, "yes", 8)
    has(server, PEER, "no")
    label.until_said("api-recovered")
    server.stop()
    label.follow()
    server.start()
    label.settle()
    expect(server.label(OWN), "no", "label")


def test_api_away_at_the_start(server):
    """nothing waits for the API, and the label comes when it comes"""
    server.make_pod(OWN, "yes", 1)
    server.stop()
    label = Label(server)
    label.lead(5)
    label.until_failed("unreachable", 2)
    server.start()
    label.settle()
    has(server, OWN, "yes", 5)


def test_black_hole(server):
    """packets that go nowhere: connecting takes two seconds, no more"""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # The queue is full with these; the kernel drops what comes then.
        fillers = [socket.socket() for _ in range(4)]
        for s in fillers:
            s.setblocking(False)
            s.connect_ex(full.getsockname())
        label = Label(server, url="https://127.0.0.1:%d" %
                      full.getsockname()[1])
        label.until_failed("timed-out")
        began = time.monotonic()
        label.stop()
        if time.monotonic() - began > 5:
            raise AssertionError("stopping took long")
        for s in fillers:
            s.close()


# ---- whom to trust ----

def test_wrong_authority(server):
    """a server that ca.crt does not vouch for is told nothing"""
    label = Label(server)
    label.settle()
    server.stop()
    seen = len(server.requests)
    server.authority = strangers
    server.start()
    label.lead(5)
    label.until_failed("untrusted", 2)
    expect(len(server.requests), seen, "requests")
    # The cluster's authority is replaced: the file counts, not a copy.
    with open(strangers.ca) as f:
        label.write("ca.crt", f.read())
    label.settle()
    has(server, OWN, "yes", 5)


def test_wrong_name(server):
    """nor is one with a certificate for another address"""
    server.stop()
    server.authority = misnamed
    server.start()
    label = Label(server)
    label.until_failed("untrusted", 2)
    expect(server.requests, [], "requests")


def test_without_credentials(server):
    """a token that is missing or cannot be one is waited for"""
    label = Label(server)
    label.settle()
    os.unlink(os.path.join(label.dir, "token"))
    label.lead(5)
    label.until_failed("no-credentials", 2)
    label.write("token", "token-1\r\nX-Evil: 1\r\n")
    label.until_failed("no-credentials", 4)
    label.write("token", "token-1")
    label.settle()
    has(server, OWN, "yes", 5)
    expect({r.token for r in server.requests}, {"token-1"}, "tokens")


# ---- the broker itself ----

def test_broker(server):
    """holdfastd: yes with its epoch once it serves, also after a kill or while
    the API was away; no when it stops"""
    folder = os.path.join(SCRATCH, "account")
    make_account(server, folder)
    os.environ.update(KUBERNETES_SERVICE_HOST="127.0.0.1", POD_NAME=OWN,
                      KUBERNETES_SERVICE_PORT=str(server.port))
    server.make_pod(PEER, "yes", 0)
    broker = Broker("labelled", "--set", "kubernetes.replicas=3", "--set",
                    "kubernetes.service_account=" + folder)
    try:
        broker.start()
        has(server, OWN, "yes")
        has(server, PEER, "no")
        first = int(server.epoch(OWN))
        broker.stop()
        expect(server.label(OWN), "no", "label after SIGTERM")
        server.stop()
        broker.start()
        server.start()
        server.until(lambda: server.label(OWN) == "yes" and
                     int(server.epoch(OWN)) > first, "a later epoch")
        broker.stop(signal.SIGKILL)
        expect(server.label(OWN), "yes", "label after SIGKILL")
        second = int(server.epoch(OWN))
        broker.start()
        server.until(lambda: server.label(OWN) == "yes" and
                     int(server.epoch(OWN)) > second, "the next epoch")
        broker.stop()
    except Exception:
        print(broker.last_words())
        raise
    finally:
        broker.close()
        for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
                     "POD_NAME"):
            del os.environ[name]


# ---- running ----

def out_of_time(_number, _frame):
    raise AssertionError("not finished after %d s" % BOUND_S)


def clean():
    for label in started:
        label.kill()
    shutil.rmtree(SCRATCH, ignore_errors=True)


def run_one(test):
    server = Server(authority).start()
    first = len(started)
    signal.alarm(BOUND_S)
    try:
        test(server)
        for label in started[first:]:
            if label.process.poll() is None:
                label.stop()
        return True
    except Exception:
        print("%s: %s" % (test.__name__, test.__doc__.strip()))
        traceback.print_exc(file=sys.stdout)
        for label in started[first:]:
            with open(label.log, errors="replace") as log:
                print("".join("    | " + line
                              for line in log.readlines()[-30:]))
        return False
    finally:
        signal.alarm(0)
        for label in started[first:]:
            label.kill()
        server.stop()


def main():
    failed = 0
    signal.signal(signal.SIGALRM, out_of_time)
    for name, test in list(globals().items()):
        if not name.startswith("test_") or sys.argv[1:] and \
                name not in sys.argv[1:]:
            continue
        began = time.monotonic()
        failed += not run_one(test)
        if os.environ.get("VERBOSE"):
            print("%s %.2f s" % (name, time.monotonic() - began), flush=True)
    sys.exit(1 if failed else 0)


if not os.access(PROGRAM, os.X_OK):
    skip("skipped: %s is not built" % PROGRAM)
if not shutil.which("openssl"):
    skip("skipped: openssl is not installed")
atexit.register(clean)
os.makedirs(SCRATCH)
authority = Authority(SCRATCH, "cluster")
strangers = Authority(SCRATCH, "strangers")
misnamed = Authority(SCRATCH, "misnamed", "127.0.0.2", signer=authority)
main()
