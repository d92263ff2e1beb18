#!/usr/bin/python3
"""Apache Qpid JMS, the AMQP 1.0 client of Java, against a broker.

Needs a JDK and Maven; the client comes from Maven Central once, into
BUILD/jms, at one exact version.  Without them the test is skipped."""

import glob
import os
import shutil
import subprocess
import sys

from broker import BUILD, Broker, die_with_parent, run, skip

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jms")
HOME = os.path.join(BUILD, "jms")
LIBRARIES = os.path.join(HOME, "lib")
CLASSES = os.path.join(HOME, "classes")
CLIENT = "qpid-jms-client-2.6.1.jar"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
BOUND_S = 110


def fetch():
    """Maven says in the exit code only that it failed; an incomplete set of
    libraries must not be taken for one."""
    if os.path.exists(os.path.join(LIBRARIES, CLIENT)):
        return
    if not shutil.which("mvn"):
        skip("skipped: maven is not installed")
    partial = LIBRARIES + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", os.path.join(HERE, "pom.xml"),
             "-Dmaven.repo.local=" + os.path.join(HOME, "repository"), COPY,
             "-DoutputDirectory=" + partial],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        skip("skipped: maven did not fetch Qpid JMS in 120 s")
    if done.returncode or not os.path.exists(os.path.join(partial, CLIENT)):
        skip("skipped: maven could not fetch Qpid JMS")
    os.rename(partial, LIBRARIES)


def compile_client():
    source = os.path.join(HERE, "JmsClient.java")
    built = os.path.join(CLASSES, "JmsClient.class")
    if os.path.exists(built) and \
            os.path.getmtime(built) > os.path.getmtime(source):
        return
    subprocess.run(["javac", "-cp", os.path.join(LIBRARIES, "*"), "-d",
                    CLASSES, source], check=True)


def install():
    if not shutil.which("javac"):
        skip("skipped: no JDK is installed")
    os.makedirs(HOME, exist_ok=True)
    fetch()
    compile_client()


def test_jms(broker):
    """an application of Qpid JMS works as with another broker"""
    # The words after the program's name choose tests of JmsClient, not of
    # this file.
    process = subprocess.Popen(
        ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
         "-cp", os.path.join(LIBRARIES, "*") + os.pathsep + CLASSES,
         "JmsClient", str(broker.port)] + CHOSEN,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent)
    said = []
    try:
        for line in process.stdout:
            if line.startswith("restart "):
                broker.restart(int(line.split()[1]))
                process.stdin.write("ready\n")
                process.stdin.flush()
            else:
                said.append(line)
        code = process.wait(30)
    finally:
        process.kill()
        process.wait()
    if code:
        raise AssertionError("exit code %d\n%s" % (code, "".join(said)))
    if os.environ.get("VERBOSE"):
        print("".join(said), end="")


CHOSEN = sys.argv[1:]
del sys.argv[1:]

if __name__ == "__main__":
    install()
    run(Broker("jms", "--set", "users=[{name: ann, password: right}]"),
        [test_jms], BOUND_S)
