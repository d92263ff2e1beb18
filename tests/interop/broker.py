"""A broker of a test's own: its data directory, its port, its process.

Everything is under BUILD/tmp; the broker dies with the test; nothing is
printed unless the test fails, and then the broker's last words are."""

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))
SKIP = 77
START_S = 30
STOP_S = 30
PR_SET_PDEATHSIG = 1


def skip(why):
    print(why)
    sys.exit(SKIP)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fork_action():
    """For preexec_fn.  By "parent" the kernel means the thread that forked: a
    short-lived one would take the child with it."""
    main = threading.current_thread() is threading.main_thread()
    return die_with_parent if main else None


class Broker:
    """start() returns when the broker accepts connections; the port stays the
    same over restarts.  data: another's directory, to stand by on."""

    def __init__(self, name, *arguments, admin=False, data=None):
        self.program = os.path.join(BUILD, "holdfastd")
        if not os.access(self.program, os.X_OK):
            skip("skipped: %s is not built" % self.program)
        scratch = os.environ.get("TMPDIR") or os.path.join(BUILD, "tmp")
        self.dir = os.path.join(scratch, "%s-%d" % (name, os.getpid()))
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir, mode=0o700)
        self.data = data or os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "log")
        self.port = free_port()
        self.admin_port = free_port() if admin else None
        self.arguments = list(arguments)
        self.process = None
        atexit.register(self.close)

    @property
    def url(self):
        return "amqp://127.0.0.1:%d" % self.port

    @property
    def admin(self):
        return "http://127.0.0.1:%d" % self.admin_port

    def start(self, leads=True):
        admin = "127.0.0.1:%d" % self.admin_port if self.admin_port else "off"
        with open(self.log, "ab") as log:
            from_byte = log.tell()
            self.process = subprocess.Popen(
                [self.program, "--data-dir", self.data,
                 "--listen", self.url, "--admin", admin] + self.arguments,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=fork_action())
        self.wait_event("ready" if leads else "standing-by", from_byte)
        return self

    def wait_event(self, event, from_byte):
        """The broker's own word, not the port: after a SIGKILL the kernel can
        keep the old process's listener alive for a moment."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with open(self.log, "rb") as log:
                log.seek(from_byte)
                if b'"event":"%s"' % event.encode() in log.read():
                    return
            code = self.process.poll()
            if code is not None:
                raise AssertionError("the broker ended with %d" % code)
            time.sleep(0.002)
        raise AssertionError("the broker does not say %s after %d s" % (
            event, START_S))

    def stop(self, number=signal.SIGTERM):
        """Ends the broker; SIGTERM must lead to exit code 0."""
        if not self.process:
            return
        process, self.process = self.process, None
        process.send_signal(number)
        code = process.wait(STOP_S)
        expected = 0 if number == signal.SIGTERM else -number
        if code != expected:
            raise AssertionError("the broker ended with %d" % code)

    def restart(self, number):
        self.stop(number)
        self.start()

    def get(self, path):
        with urllib.request.urlopen(self.admin + path, timeout=10) as answer:
            return answer.read()

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def last_words(self):
        try:
            with open(self.log, errors="replace") as log:
                return "".join("    | " + line for line in log.readlines()[-30:])
        except OSError:
            return ""


def run(broker, tests, bound_s):
    """Runs test functions one by one under an alarm, goes on after a failure,
    prints failures only; exits 0 or 1."""
    import traceback

    failures = 0
    only = sys.argv[1:]

    def out_of_time(_number, _frame):
        raise AssertionError("not finished after %d s" % bound_s)

    signal.signal(signal.SIGALRM, out_of_time)
    for test in tests:
        if only and test.__name__ not in only:
            continue
        begun = time.monotonic()
        signal.alarm(bound_s)
        try:
            if not broker.process:
                broker.start()
            test(broker)
        except Exception:
            failures += 1
            print("%s: %s" % (test.__name__, (test.__doc__ or "").strip()))
            traceback.print_exc(file=sys.stdout)
        finally:
            signal.alarm(0)
        if os.environ.get("VERBOSE"):
            print("%s %.2f s" % (test.__name__, time.monotonic() - begun))
        if broker.process and broker.process.poll() is not None:
            if broker.process.returncode:
                print("the broker died with %d" % broker.process.returncode)
            broker.process = None
    if failures:
        print("the broker's last lines:\n" + broker.last_words())
    try:
        broker.stop()
    except AssertionError as why:
        print("at the end: %s" % why)
        failures += 1
    sys.exit(1 if failures else 0)
