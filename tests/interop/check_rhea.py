#!/usr/bin/python3
"""rhea, the AMQP 1.0 client of Node.js, against a broker.

Needs node; rhea itself comes from the npm registry once, into BUILD/npm, at
one exact version.  Without either the test is skipped."""

import os
import shutil
import subprocess

from broker import BUILD, Broker, die_with_parent, run, skip

RHEA = "rhea@3.0.5"
MODULES = os.path.join(BUILD, "npm")
CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "rhea_client.js")


def install():
    if not shutil.which("node"):
        skip("skipped: node is not installed")
    if os.path.isdir(os.path.join(MODULES, "node_modules", "rhea")):
        return
    if not shutil.which("npm"):
        skip("skipped: npm is not installed")
    os.makedirs(MODULES, exist_ok=True)
    try:
        done = subprocess.run(
            ["npm", "install", "--prefix", MODULES, "--ignore-scripts",
             "--no-audit", "--no-fund", "--no-save", RHEA],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=90)
    except subprocess.TimeoutExpired:
        skip("skipped: npm did not install %s in 90 s" % RHEA)
    if done.returncode:
        skip("skipped: npm could not install %s" % RHEA)


def client(broker, test, standbys=()):
    """Runs one function of rhea_client.js; it prints and fails by itself.
    When it prints "restart N" the broker is restarted with signal N, with
    "failover N" only ended, and another leads."""
    env = dict(os.environ,
               NODE_PATH=os.path.join(MODULES, "node_modules"))
    process = subprocess.Popen(
        ["node", CLIENT, str(broker.port), test,
         *[str(b.port) for b in standbys]], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
        preexec_fn=die_with_parent)
    said = []
    try:
        for line in process.stdout:
            if line.startswith("restart "):
                broker.restart(int(line.split()[1]))
            elif line.startswith("failover "):
                broker.stop(int(line.split()[1]))
            else:
                said.append(line)
        code = process.wait(30)
    finally:
        process.kill()
        process.wait()
    if code:
        raise AssertionError("exit code %d\n%s" % (code, "".join(said)))


def case(name, sentence):
    def test(broker):
        client(broker, name)

    test.__name__ = "test_" + name
    test.__doc__ = sentence
    return test


def failover_case(name, sentence):
    def test(broker):
        standby = Broker("rhea-standby", data=broker.data)
        standby.start(leads=False)
        try:
            client(broker, name, [standby])
            standby.stop()
        finally:
            standby.close()

    test.__name__ = "test_" + name
    test.__doc__ = sentence
    return test


TESTS = [
    case("round_trip", "what is sent is received, with its properties"),
    case("reject", "a rejected message goes to the dead letters"),
    case("release", "a released message comes again uncounted"),
    case("modify", "a failed delivery counts, annotations are merged"),
    case("drain", "drain gives what is there and ends the credit"),
    case("large", "a message of 200 MiB passes through unchanged"),
    case("topic", "three receivers of a topic get every message"),
    case("order", "10,000 messages arrive once and in order"),
    case("reconnect_term", "nothing confirmed is lost over SIGTERM"),
    case("reconnect_kill", "nothing confirmed is lost over SIGKILL"),
    failover_case("failover_term", "another leads after SIGTERM"),
    failover_case("failover_kill", "another leads after SIGKILL"),
]

if __name__ == "__main__":
    install()
    run(Broker("rhea"), TESTS, 120)
