#!/usr/bin/python3
"""Does on a node what the lab asks for: starts, stops and signals a broker.

agent.py LINE   serves requests from a terminal device: one JSON object per
                line, {"id": any, "do": a method of Agent, "with": arguments};
                the answer is {"id": the same, "ok": result} or {"error": why}

A node on the lab's own machine uses Agent directly.  Answers are short (a
terminal's buffer is a page): what is long goes to a file of the share."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import tty
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "interop"))
from broker import die_with_parent  # noqa: E402

SHORT = 1500


class Agent:
    """Runs one broker, and again a while after it ended, until told to stop:
    what an init system does."""

    def __init__(self):
        self.process, self.codes = None, []
        self.wanted = False
        self.ended = threading.Event()

    def shell(self, command, seconds=30):
        done = subprocess.run(["bash", "-c", command], capture_output=True,
                              text=True, timeout=seconds)
        return {"code": done.returncode,
                "said": (done.stdout + done.stderr)[-SHORT:]}

    def start(self, command, log, environment, again_s):
        """again_s: how long after its end it is started again.  It writes at
        the end of log."""
        if self.wanted:
            raise AssertionError("a broker is kept running already")
        self.wanted = True
        self.ended.clear()
        begun = threading.Event()
        threading.Thread(target=self.keep, daemon=True, args=(
            command, log, environment, again_s, begun)).start()
        begun.wait()

    def keep(self, command, log, environment, again_s, begun):
        """A thread that lives as long as its children, which die with it."""
        while self.wanted:
            with open(log, "ab") as out:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                    preexec_fn=die_with_parent,
                    env=dict(os.environ, **environment))
            begun.set()
            self.codes.append(self.process.wait())
            until = time.monotonic() + again_s
            while self.wanted and time.monotonic() < until:
                time.sleep(0.01)
        self.ended.set()

    def stop(self, number, seconds):
        """Ends it for good; its exit code, below 0 a signal's number."""
        if not self.wanted:
            return None
        self.wanted = False
        self.send(number)
        self.send(signal.SIGCONT)
        if not self.ended.wait(seconds):
            raise AssertionError("the broker has not ended after %d s" %
                                 seconds)
        return self.codes[-1]

    def send(self, number):
        """A signal, if it runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def lives(self, after=0):
        """How many lives have ended, and the exit codes of those after so
        many."""
        return [len(self.codes), self.codes[after:][-100:]]

    def pause(self, after_us, hold_s):
        """SIGSTOP at an exact moment, SIGCONT after hold_s."""
        until = time.perf_counter_ns() + after_us * 1000
        if after_us > 20000:
            time.sleep(after_us / 1e6 - 0.01)
        while time.perf_counter_ns() < until:
            pass
        self.send(signal.SIGSTOP)
        time.sleep(hold_s)
        self.send(signal.SIGCONT)

    def stop_at(self, control, step, passes, seconds):
        """Waits until the broker has stopped itself at a step of a commit
        (commit_steps.c).  False: it did not come to that step in time."""
        with open(control, "r+b", buffering=0) as f:
            f.write(struct.pack("=III", 0, passes, 0))
            f.seek(0)
            f.write(struct.pack("=I", step))
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                f.seek(0)
                if struct.unpack("=III", f.read(12))[2]:
                    return True
                time.sleep(0.002)
            f.seek(0)
            f.write(struct.pack("=III", 0, 0, 0))
        return False

    def dump(self, log):
        """Adds to log where the broker's threads are."""
        place = "/proc/%d/task" % self.process.pid
        with open(log, "a") as out:
            for task in sorted(os.listdir(place), key=int):
                said = []
                for name in ("comm", "status", "wchan", "stack"):
                    try:
                        with open("%s/%s/%s" % (place, task, name)) as f:
                            said.append(f.read().strip())
                    except OSError as why:
                        said.append(os.strerror(why.errno))
                said[1] = re.sub(r"(?s).*State:\s*([^\n]*).*", r"\1", said[1])
                out.write("thread %s %s: %s\n" % (
                    task, ", ".join(said[:3]),
                    " < ".join(re.findall(r"\] (\S+)", said[3])[:8])))

    def get(self, url, seconds=5):
        """The body of an HTTP answer."""
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.read().decode()[-SHORT:]

    def metric(self, url, name):
        """The value of the first line that begins so."""
        with urllib.request.urlopen(url, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name):
                    return float(line.split()[-1])
        raise AssertionError("there is no metric " + name)


def serve(path):
    agent = Agent()
    line = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    lock = threading.Lock()

    def answer(request):
        try:
            result = {"ok": getattr(agent, request["do"])(*request["with"])}
        except Exception as why:  # goes to whoever asked
            traceback.print_exc()
            sys.stdout.flush()
            result = {"error": "%s: %s" % (type(why).__name__, why)}
        result["id"] = request["id"]
        text = json.dumps(result).encode() + b"\n"
        with lock:
            while text:
                text = text[os.write(line, text):]

    with open(line, "rb", closefd=False) as requests:
        answer({"id": 0, "do": "lives", "with": [0]})
        for text in requests:
            threading.Thread(target=answer, args=[json.loads(text)],
                             daemon=True).start()


if __name__ == "__main__":
    serve(sys.argv[1])
