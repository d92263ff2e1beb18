"""What the harness asks of a peer: to be found, configured, started, killed.

A peer is one broker with one set of settings; the same broker with other
settings is another peer.  Its processes are one session (setsid), so they
are counted and ended as a whole and by their ids.  It listens on loopback
only, and everything that it writes is below one directory."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

PR_SET_PDEATHSIG = 1
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
LOG_LINES = 12
# What makes a program wait for the disk.  Of the writes only those with
# flags of their own (RWF_DSYNC): strace cannot tell them from others, and
# nobody here uses them otherwise.
SYNC_CALLS = "fsync,fdatasync,msync,sync_file_range,pwritev2"


class Unavailable(Exception):
    """This peer cannot be had on this machine; the text says why."""


class Failed(Exception):
    """A step of a peer failed; the text says how."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def words(command, timeout=20):
    """What a command says, or Unavailable: it is how versions are asked."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable("%s: %s" % (command[0], e)) from e
    return (done.stdout + done.stderr).strip()


def program(*names):
    """The first of these programs that there is; sbin is looked into too."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return None


def log_tail(path, lines=LOG_LINES):
    try:
        with open(path, errors="replace") as log:
            return [line.rstrip().replace(os.getcwd() + "/", "")[:300]
                    for line in log][-lines:]
    except OSError:
        return []


def session_members(sid):
    """(pid, fields of /proc/PID/stat after the name) of a session."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == sid:
            found.append((int(name), fields))
    return found


class Peer:
    """The subclasses say what differs.  `key` names it on the command line
    and in the results."""

    key = ""
    title = ""
    protocol = ""
    user = password = None
    syncs = True       # meant to have a message on the disk when it confirms
    column = "durable"     # or "defaults": the peer's own settings
    warm_s = 1.0       # how long it is loaded before anything is measured
    start_limit_s = 60
    load_options = ()  # of the load generator, for this peer alone
    settings = ""      # for the report, one sentence
    note = ""          # for the report: what a reader should know of it

    def __init__(self):
        self.version = ""
        self.home = None
        self.port = 0
        self.process = None
        self.start_s = 0.0
        self.log = None
        self.extra = []    # further processes, ended with the broker

    # ---- what a subclass answers ----

    def find(self):
        """Sets version, or raises Unavailable.  May install into build/."""
        raise NotImplementedError

    def configure(self, home):
        """Writes the configuration below home; the directory is new."""

    def command(self):
        """argv and additions to the environment."""
        raise NotImplementedError

    def ready(self):
        """Does it take work?  By default: does the port answer?"""
        return self.port_open()

    def address(self, load, prefix):
        """What the load generator is to be told as --prefix."""
        return prefix

    def declare(self, load, prefix):
        """Makes the queues that neither peer nor generator makes."""

    def fans_out(self):
        """May one address here have several queues, and do we make them?"""
        return True

    def traced(self):
        """A peer like this one for strace: itself, where strace sees what it
        does."""
        return self.again()

    def again(self):
        """Another of the same kind, found already."""
        other = type(self)()
        for name in ("version", "path", "jars", "server", "epmd"):
            if hasattr(self, name):
                setattr(other, name, getattr(self, name))
        return other

    # ---- what the harness does ----

    def port_open(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def create(self, home):
        """A new broker on an empty directory, not started."""
        self.home = home
        os.makedirs(home)
        self.port = free_port()
        self.log = os.path.join(home, "broker.log")
        self.configure(home)

    def launch(self, delay_us=0, counts=None):
        """Starts the process.  With delay_us each synchronous write waits
        that long, under strace, which counts them into the file `counts`."""
        argv, env = self.command()
        if delay_us:
            if not shutil.which("strace"):
                raise Failed("strace is not installed")
            argv = ["strace", "-f", "--seccomp-bpf", "-qq", "-c", "-o", counts,
                    "-e", "trace=" + SYNC_CALLS, "-e", "inject=%s:delay_enter=%d"
                    % (SYNC_CALLS, delay_us)] + argv
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.home, env=dict(os.environ, **env),
                start_new_session=True, preexec_fn=die_with_parent)
        return time.monotonic()

    def start(self, **how):
        """Returns when it takes work; start_s says how long that took."""
        begun = self.launch(**how)
        limit = begun + self.start_limit_s
        while not self.ready():
            if self.process.poll() is not None:
                raise Failed("ended at its start, exit code %d"
                             % self.process.returncode)
            if time.monotonic() > limit:
                raise Failed("not ready after %d s" % self.start_limit_s)
            time.sleep(0.001)
        self.start_s = time.monotonic() - begun

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL, all of it at once."""
        if self.process is None:
            return
        for pid, _ in session_members(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        limit = time.monotonic() + 10
        while time.monotonic() < limit and any(
                fields[0] != "Z"
                for _, fields in session_members(self.process.pid)):
            time.sleep(0.002)
        self.process = None

    def interrupt(self, seconds=10):
        """SIGTERM and a while; for strace, which writes its counts then."""
        for pid, _ in session_members(self.process.pid):
            if pid != self.process.pid:
                os.kill(pid, signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass

    def discard(self):
        """Ends it and removes what it wrote."""
        self.kill()
        for process in self.extra:
            process.kill()
            process.wait()
        self.extra = []
        if self.home:
            shutil.rmtree(self.home, ignore_errors=True)
            self.home = None

    def cpu_s(self):
        """Processor seconds of its processes so far, ended children too."""
        if self.process is None:
            return 0.0
        return sum(sum(int(f) for f in fields[11:15])
                   for _, fields in session_members(self.process.pid)) / TICK

    def rss_mib(self):
        if self.process is None:
            return 0.0
        return sum(int(fields[21]) for _, fields in
                   session_members(self.process.pid)) * PAGE / 2**20

    def threads(self):
        return sum(int(fields[17]) for _, fields in
                   session_members(self.process.pid))

    def disk_mib(self):
        total = 0
        for folder, _, names in os.walk(self.home):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_blocks
                except OSError:
                    pass
        return total * 512 / 2**20
