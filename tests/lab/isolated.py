"""A lab of its own: name spaces for processes, mounts and the network.

enter() runs the program again as the first process of a new PID name space.
When that process ends, however it ends, the kernel kills everything that was
started in it, and with the last process go the mounts and the network: there
is nothing to clean up, and nothing of the machine is touched.

The network has bridges; a guest has a tap on each.  A link is cut by taking
its tap off the bridge: frames are lost both ways, silently, and the guest's
device knows nothing of it, as with a switch that fails."""

import os
import shutil
import signal
import subprocess
import sys

import uml

INSIDE = "HOLDFAST_LAB_INSIDE"
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
           "--mount-proc", "--propagation", "private"]


def require(tools, packages):
    """Ends the program, as skipped, where name spaces or tools are missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.getuid():
        uml.skip("name spaces and mounts need root")
    for tool in tools:
        if not shutil.which(tool):
            uml.skip("there is no %s: apt-get install %s" % (tool, packages))
    if not os.environ.get(INSIDE):
        probe = subprocess.run(UNSHARE + ["ip", "link", "set", "lo", "up"],
                               capture_output=True)
        if probe.returncode:
            uml.skip("no name spaces here: %s" % probe.stderr.decode().strip())


def end(number, _frame):
    raise KeyboardInterrupt("signal %d" % number)


def enter():
    """Returns inside only.  Ctrl-C and SIGTERM arrive as KeyboardInterrupt."""
    if not os.environ.get(INSIDE):
        os.environ[INSIDE] = "1"
        command = UNSHARE + [sys.executable] + sys.argv
        inner = subprocess.Popen(command)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda n, _: inner.send_signal(
                signal.SIGTERM))
        code = inner.wait()
        sys.exit(code if code >= 0 else 128 - code)
    # The first process of a PID name space has no signal's default action.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise AssertionError("%s: %s" % (" ".join(command),
                                         done.stderr.strip()))
    return done.stdout


class Bridge:
    """name is a device's; address the one of this side, with its length."""

    def __init__(self, name, address):
        self.name = name
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", name, "type", "bridge")
        # A guest cannot take in packets that wait to be segmented.
        run("ip", "link", "set", name, "gso_max_segs", "1")
        # A tap that comes back forwards at once.
        run("ip", "link", "set", name, "type", "bridge", "forward_delay", "0")
        run("ip", "addr", "add", address, "dev", name)
        run("ip", "link", "set", name, "up")

    def tap(self, name):
        run("ip", "tuntap", "add", "dev", name, "mode", "tap")
        self.heal(name)
        run("ip", "link", "set", name, "up")

    @staticmethod
    def cut(tap):
        run("ip", "link", "set", tap, "nomaster")

    def heal(self, tap):
        run("ip", "link", "set", tap, "master", self.name)


class Network:
    """Two bridges: to the storage, where the server is, and to the clients,
    where we are."""

    server = "10.77.0.1"

    def __init__(self, count):
        self.storage = Bridge("storage", self.server + "/24")
        self.clients = Bridge("clients", "10.78.0.1/24")
        for number in range(1, count + 1):
            storage, client = self.taps(number)
            self.storage.tap(storage)
            self.clients.tap(client)

    @staticmethod
    def taps(number):
        return ["storage%d" % number, "client%d" % number]

    @staticmethod
    def storage_address(number):
        return "10.77.0.%d" % (10 + number)

    @staticmethod
    def client_address(number):
        return "10.78.0.%d" % (10 + number)

    def cut(self, number, clients=False):
        """From the storage, or from the clients as well."""
        storage, client = self.taps(number)
        Bridge.cut(storage)
        if clients:
            Bridge.cut(client)

    def heal(self, number):
        storage, client = self.taps(number)
        self.storage.heal(storage)
        self.clients.heal(client)
