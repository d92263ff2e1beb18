"""What can happen to a broker of several nodes.  Each takes a Round, calls
begin() at the moment of the fault, and later() for what ends it."""

import signal
import time

import nodes
from nfs import LEASE_S

FAULTS = {}
STEPS = {"threads": (1, 2, 3, 4), "io_uring": (3, 4)}


class Fault:
    """moves: True when clients have to connect again, nearly always to another
    node.  on: "any", or "nfs" when it needs guests."""

    def __init__(self, inject, moves, on):
        self.inject, self.moves, self.on = inject, moves, on

    def fits(self, options):
        return self.on == "any" or options.nfs

    def bound_s(self, options):
        return options.takeover_after + (3 * LEASE_S if options.nfs else 0) \
            + options.patience


def fault(name, moves, on="any"):
    def register(inject):
        FAULTS[name] = Fault(inject, moves, on)
        return inject
    return register


def longer(r):
    """Longer than it takes until another takes over."""
    return r.lab.options.takeover_after * 2 + r.dice.uniform(1, 3)


# ---- processes ----

@fault("term", True)
def term(r):
    """Ended in an orderly way: it hands over."""
    r.begin()
    r.leader.send(signal.SIGTERM)


@fault("step-down", True)
def step_down(r):
    """Asked to let another lead."""
    r.begin()
    r.leader.shell("%s cluster step-down -a http://127.0.0.1:%d" % (
        nodes.HOLDFAST, r.leader.admin_port))


@fault("kill", True)
def kill(r):
    r.begin()
    r.leader.send(signal.SIGKILL)


@fault("both", True)
def both(r):
    """All nodes at once."""
    r.begin()
    for node in r.lab.nodes:
        node.send(signal.SIGKILL)


@fault("pause", True)
def pause(r):
    """Stopped at any microsecond, for longer than a takeover takes."""
    after_us, hold_s = r.dice.randrange(20000), longer(r)
    r.begin(after_us / 1e6)
    r.later(0, r.leader.ask, "pause", after_us, hold_s, seconds=hold_s + 30)


@fault("blink", False)
def blink(r):
    """Stopped many times, for less."""
    r.begin()
    most = r.lab.options.takeover_after / 2
    for _ in range(8):
        after_us, hold_s = r.dice.randrange(100000), r.dice.uniform(0, most)
        r.leader.ask("pause", after_us, hold_s, seconds=30 + most)


@fault("step", True)
def step(r):
    """Stopped at a step of a commit, for longer than a takeover takes."""
    engine = "threads" if "engine=threads" in r.leader.settings else "io_uring"
    which = r.dice.choice(STEPS[engine])
    r.result["step"] = which
    if not r.leader.ask("stop_at", r.leader.control, which,
                        r.dice.randrange(100), 20, seconds=30):
        raise AssertionError("it did not come to step %d of a commit" % which)
    r.begin()
    r.later(longer(r), r.leader.send, signal.SIGCONT)


# ---- the storage network ----

def cut(r, hold_s, clients=False):
    r.begin()
    r.lab.network.cut(r.leader.number, clients)
    r.later(hold_s, r.lab.network.heal, r.leader.number)


@fault("cut-short", False, "nfs")
def cut_short(r):
    """Cut off from the storage for less than its lease, and than a takeover
    takes."""
    cut(r, r.dice.uniform(0.1, 0.8) * r.lab.options.takeover_after)


@fault("cut", True, "nfs")
def cut_some(r):
    """For less than its lease: others take over, the server keeps its locks."""
    cut(r, r.lab.options.takeover_after + r.dice.uniform(3, 5))


@fault("cut-long", True, "nfs")
def cut_long(r):
    """For more than its lease; clients still reach it."""
    cut(r, LEASE_S * r.dice.uniform(1.3, 2))


@fault("isolate", True, "nfs")
def isolate(r):
    """Cut off from everything, for more than its lease."""
    cut(r, LEASE_S * r.dice.uniform(1.3, 2), True)


@fault("slow", True, "nfs")
def slow(r):
    """Answers of the storage take long; then the leader is killed."""
    delay_ms = r.dice.randrange(10, 60)
    for node in r.lab.nodes:
        node.shell("tc qdisc add dev vec0 root netem delay %dms %dms" % (
            delay_ms, delay_ms // 2))
    time.sleep(1)
    r.begin()
    r.leader.send(signal.SIGKILL)
    for node in r.lab.nodes:
        r.later(8, node.shell, "tc qdisc del dev vec0 root")


# ---- the server ----

@fault("server", False, "nfs")
def server(r):
    """It crashes and starts again, and gives its clients time to reclaim."""
    r.begin()
    r.lab.server.kill()
    r.later(r.dice.uniform(0.1, 2), r.lab.server.start)


@fault("server-hangs", False, "nfs")
def server_hangs(r):
    hold_s = r.dice.uniform(0.5, 2) * r.lab.options.takeover_after
    r.begin()
    r.lab.server.signal(signal.SIGSTOP)
    r.later(hold_s, r.lab.server.signal, signal.SIGCONT)


@fault("full", False, "nfs")
def full(r):
    """Others fill the export to the last byte, then make room again."""
    r.begin()
    r.lab.server.fill()
    r.wait_refused(30)
    r.later(r.dice.uniform(0, 3), r.lab.server.free)
