#!/usr/bin/python3
"""go-amqp, the AMQP 1.0 client of Go, against a broker.

Needs go; the client comes through the Go module proxy once, into BUILD/go, at
the version and sums in go.sum.  Without them the test is skipped."""

import os
import shutil
import subprocess
import sys

from broker import BUILD, Broker, die_with_parent, run, skip

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "go")
HOME = os.path.join(BUILD, "go")
CLIENT = os.path.join(HOME, "client")
ENVIRONMENT = dict(os.environ, GOPATH=os.path.join(HOME, "path"),
                   GOCACHE=os.path.join(HOME, "cache"), GOTOOLCHAIN="local",
                   GOFLAGS="-mod=readonly -modcacherw -buildvcs=false")


def go(seconds, *words):
    try:
        return subprocess.run(["go"] + list(words), cwd=SOURCE, text=True,
                              env=ENVIRONMENT, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        skip("skipped: go %s took more than %d s" % (words[0], seconds))


def install():
    if not shutil.which("go"):
        skip("skipped: go is not installed")
    os.makedirs(HOME, exist_ok=True)
    if go(60, "mod", "download").returncode:
        skip("skipped: go could not fetch go-amqp")
    done = go(120, "build", "-o", CLIENT, ".")
    if done.returncode:
        raise SystemExit("go build: " + done.stderr)


def test_go(broker):
    """an application of go-amqp works as with another broker"""
    done = subprocess.run([CLIENT, str(broker.port)] + CHOSEN,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=100, preexec_fn=die_with_parent)
    if done.returncode:
        raise AssertionError("exit code %d\n%s" % (done.returncode,
                                                   done.stdout))
    if os.environ.get("VERBOSE"):
        print(done.stdout, end="")


# The words after the program's name choose tests of the client.
CHOSEN = sys.argv[1:]
del sys.argv[1:]

if __name__ == "__main__":
    install()
    run(Broker("go", "--set", "users=[{name: ann, password: right}]",
               "--set", "limits.message_size=32MiB"), [test_go], 110)
