#!/usr/bin/python3
"""Does on a node what the lab asks for: starts, stops and signals a broker.

agent.py LINE   serves requests from a terminal device: one JSON object per
                line, {"id": any, "do": a method of Agent, "with": arguments};
                the answer is {"id": the same, "ok": result} or {"error": why}

A node on the lab's own machine uses Agent directly.  Answers are short (a
terminal's buffer is a page): what is long goes to a file of the share."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import tty
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "interop"))
from broker import fork_action  # noqa: E402

SHORT = 1500


class Agent:
    """Starts at most one broker at a time."""

    def __init__(self):
        self.process = None

    def shell(self, command, seconds=30):
        done = subprocess.run(["bash", "-c", command], capture_output=True,
                              text=True, timeout=seconds)
        return {"code": done.returncode,
                "said": (done.stdout + done.stderr)[-SHORT:]}

    def start(self, command, log, environment):
        """At the end of what is in log."""
        if self.process and self.process.poll() is None:
            raise AssertionError("a broker is running already")
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                preexec_fn=fork_action(),
                env=dict(os.environ, **environment))
        return self.process.pid

    def code(self, seconds=0):
        """Its exit code (below 0: a signal's number), or None: it runs."""
        if not self.process:
            return None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number):
        self.process.send_signal(number)

    def pause(self, after_us, hold_s):
        """SIGSTOP at an exact moment, SIGCONT after hold_s."""
        begin = time.perf_counter_ns()
        until = begin + after_us * 1000
        if after_us > 20000:
            time.sleep(after_us / 1e6 - 0.01)
        while time.perf_counter_ns() < until:
            pass
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(hold_s)
        self.process.send_signal(signal.SIGCONT)

    def get(self, url, seconds=5):
        """The body of an HTTP answer."""
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return answer.read().decode()[-SHORT:]


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
        answer({"id": 0, "do": "code", "with": []})
        for text in requests:
            threading.Thread(target=answer, args=[json.loads(text)],
                             daemon=True).start()


if __name__ == "__main__":
    serve(sys.argv[1])
