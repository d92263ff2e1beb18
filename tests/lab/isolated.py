"""A lab of its own: name spaces for processes, mounts and the network.

enter() forks, and goes on as the first process of a new PID name space.  When
that process ends, however it ends, the kernel kills everything that was
started in it, and with the last process go the mounts and the network: there
is nothing to clean up, and nothing of the machine is touched.

The network has bridges; a guest has a tap on each.  A link is cut by taking
its tap off the bridge: frames are lost both ways, silently, and the guest's
device knows nothing of it, as with a switch that fails."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys

import uml

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
libc = ctypes.CDLL(None, use_errno=True)


def require(tools, packages):
    """Ends the program, as skipped, where name spaces or tools are missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.getuid():
        uml.skip("name spaces and mounts need root")
    for tool in tools:
        if not shutil.which(tool):
            uml.skip("there is no %s: apt-get install %s" % (tool, packages))
    if not os.path.exists("/dev/net/tun"):
        uml.skip("there is no /dev/net/tun: modprobe tun")
    if os.fork() == 0:
        os._exit(unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET))
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code:
        uml.skip("no name spaces here: " + os.strerror(code))


def unshare(flags):
    """0 or an error number."""
    return ctypes.get_errno() if libc.unshare(flags) else 0


def end(number, _frame):
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def enter(share, keep=False):
    """Returns inside only, where SIGINT, SIGTERM and SIGHUP are SystemExit.
    When everything inside has ended, the directory share is removed, unless
    it is to be kept, and the program ends as it did inside."""
    sys.stdout.flush()
    if unshare(CLONE_NEWPID):
        raise AssertionError("no PID name space")
    inner = os.fork()
    if inner:
        for number in SIGNALS:
            signal.signal(number, lambda n, _: os.kill(inner, n))
        code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        if keep:
            print("in " + share)
        else:
            shutil.rmtree(share, ignore_errors=True)
        sys.exit(code if code >= 0 else 128 - code)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The first process of a PID name space has no signal's default action.
    for number in SIGNALS:
        signal.signal(number, end)
    if unshare(CLONE_NEWNS | CLONE_NEWNET):
        raise AssertionError("no name spaces for mounts and the network")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "proc", "proc", "/proc")


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
