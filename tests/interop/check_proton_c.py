#!/usr/bin/python3
"""The C client of Qpid Proton: the `holdfast` command, which is one, against
a broker.  Tests the command as much as the broker."""

import filecmp
import json
import os
import signal
import subprocess
import time

from broker import BUILD, Broker, die_with_parent, run, skip

HOLDFAST = os.path.join(BUILD, "holdfast")
LARGE_BYTES = 200 << 20
TIMEOUT_S = 60

if not os.access(HOLDFAST, os.X_OK):
    skip("skipped: %s is not built" % HOLDFAST)


def holdfast(broker, *words, code=0, stdin=None):
    done = subprocess.run(
        [HOLDFAST, words[0], "--url", broker.url] + list(words[1:]),
        input=stdin, capture_output=True, timeout=TIMEOUT_S)
    if done.returncode != code:
        raise AssertionError("holdfast %s: exit code %d, not %d\n%s%s" % (
            " ".join(words), done.returncode, code, done.stdout.decode(),
            done.stderr.decode()))
    return done


def send(broker, *words, **options):
    return holdfast(broker, "send", "--quiet", *words, **options)


def receive(broker, *words, **options):
    """Messages as decoded JSON objects."""
    out = holdfast(broker, "receive", "-o", "json", *words, **options).stdout
    return [json.loads(line) for line in out.splitlines()]


def bodies(messages):
    return [message["body"] for message in messages]


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError("%s: %r, not %r" % (what, got, wanted))


def test_send_and_receive(broker):
    """what is sent is received, and then the queue is empty"""
    send(broker, "c.basic", "first", "second", "--property", "k=v=w",
         "--subject", "s", "--priority", "7", "--ttl", "60s",
         "--content-type", "text/plain")
    got = receive(broker, "c.basic")
    expect(bodies(got), ["first", "second"], "bodies")
    for message in got:
        expect(message["properties"], {"k": "v=w"}, "properties")
        expect(message["subject"], "s", "subject")
        expect(message["priority"], 7, "priority")
        expect(message["durable"], True, "durable")
        expect(message["content_type"], "text/plain", "content_type")
    expect(receive(broker, "c.basic"), [], "an empty queue")


def test_standard_input(broker):
    """a body from standard input arrives as it is"""
    send(broker, "c.stdin", stdin=b"line 1\nline 2\n")
    got = holdfast(broker, "receive", "c.stdin").stdout
    expect(got, b"line 1\nline 2\n\n", "body and newline")


def test_look_only(broker):
    """without acknowledgement the message stays"""
    send(broker, "c.look", "m")
    for _ in range(3):
        expect(bodies(receive(broker, "c.look", "--no-ack")), ["m"], "a look")
    expect(bodies(receive(broker, "c.look")), ["m"], "taken")
    expect(receive(broker, "c.look"), [], "gone")


def test_reject(broker):
    """a rejected message is a dead letter"""
    send(broker, "c.reject", "bad")
    receive(broker, "c.reject", "--count", "1", "--outcome", "reject")
    expect(receive(broker, "c.reject"), [], "the queue")
    dead = receive(broker, "DLQ", "--count", "1")
    expect(bodies(dead), ["bad"], "the dead letters")
    expect(dead[0]["annotations"]["x-opt-ORIG-ADDRESS"], "c.reject", "origin")


def test_release(broker):
    """a released message comes again with the same delivery count"""
    send(broker, "c.release", "m")
    receive(broker, "c.release", "--count", "1", "--outcome", "release")
    got = receive(broker, "c.release", "--count", "1")
    expect((bodies(got), got[0]["delivery_count"]), (["m"], 0), "again")


def test_modify(broker):
    """a failed delivery counts"""
    send(broker, "c.modify", "m")
    for attempt in range(3):
        got = receive(broker, "c.modify", "--count", "1", "--outcome",
                      "modify")
        expect(got[0]["delivery_count"], attempt, "delivery_count")
    expect(receive(broker, "c.modify")[0]["delivery_count"], 3, "the count")


def test_order(broker):
    """10,000 messages arrive once and in order"""
    send(broker, "c.order", "--count", "1", "a")
    count = 10000
    for start in range(0, count, 2500):
        send(broker, "c.order", *[str(i) for i in range(start, start + 2500)])
    got = bodies(receive(broker, "c.order", "--count", str(count + 1)))
    expect(got == ["a"] + [str(i) for i in range(count)], True, "the order")


def test_large(broker):
    """a file of 200 MiB comes back unchanged"""
    sent = os.path.join(broker.dir, "sent")
    got = os.path.join(broker.dir, "got")
    block = os.urandom(1 << 20)
    with open(sent, "wb") as f:
        for i in range(LARGE_BYTES >> 20):
            f.write(i.to_bytes(4, "big") + block[4:])
    send(broker, "c.large", "--file", sent)
    with open(got, "wb") as f:
        subprocess.run([HOLDFAST, "receive", "--url", broker.url, "c.large",
                        "--count", "1", "--timeout", "60s"], stdout=f,
                       check=True, timeout=TIMEOUT_S)
    with open(sent, "ab") as f:
        f.write(b"\n")
    expect(filecmp.cmp(sent, got, shallow=False), True, "the file")
    os.unlink(sent)
    os.unlink(got)


def test_topic(broker):
    """three receivers of a topic get every message"""
    before = len(json.loads(broker.get("/api/v1/queues"))["queues"])
    receivers = [subprocess.Popen(
        [HOLDFAST, "receive", "--url", broker.url, "c.topic", "--topic",
         "--count", "5", "--timeout", "30s"], stdout=subprocess.PIPE,
        preexec_fn=die_with_parent) for _ in range(3)]
    try:
        wait_for_queues(broker, before + 3)
        send(broker, "c.topic", "--topic", "1", "2", "3", "4", "5")
        for receiver in receivers:
            out, _ = receiver.communicate(timeout=TIMEOUT_S)
            expect(out, b"1\n2\n3\n4\n5\n", "messages")
    finally:
        for receiver in receivers:
            receiver.kill()
            receiver.wait()


def wait_for_queues(broker, count):
    """Subscriptions are queues; the admin API says when they are there."""
    while len(json.loads(broker.get("/api/v1/queues"))["queues"]) < count:
        time.sleep(0.01)


def test_restart(broker):
    """what is confirmed survives SIGTERM and SIGKILL"""
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(broker, "c.restart", "--size", "1KiB", "--count", "500")
        broker.restart(number)
        expect(len(receive(broker, "c.restart", "--count", "500")), 500,
               "messages after signal %d" % number)
        expect(receive(broker, "c.restart"), [], "nothing more")


def test_queue_commands(broker):
    """queues are listed, made, paused, resumed, purged and deleted"""
    def queue(verb, *words, code=0):
        done = subprocess.run(
            [HOLDFAST, "queue", verb, "--admin", broker.admin, "-o", "json"] +
            list(words), capture_output=True, timeout=TIMEOUT_S)
        expect(done.returncode, code, "%s: %s" % (verb, done.stderr.decode()))
        return json.loads(done.stdout) if done.stdout.strip() else None

    name = "c.admin/with slash"
    queue("create", name)
    send(broker, name, "1", "2", "3")
    expect(queue("show", name)["messages"], 3, "messages")
    expect(name in [q["name"] for q in queue("list")], True, "listed")
    queue("pause", name)
    expect(queue("show", name)["paused"], True, "paused")
    expect(receive(broker, name), [], "a paused queue")
    queue("resume", name)
    expect(bodies(receive(broker, name, "--count", "1")), ["1"], "resumed")
    queue("purge", name)
    expect(queue("show", name)["messages"], 0, "purged")
    queue("delete", name)
    queue("show", name, code=1)


def test_bench(broker):
    """the load generator finds nothing lost, doubled or out of order"""
    for extra in (["--senders", "2", "--receivers", "2", "--queues", "2"],
                  ["--senders", "2"], ["--window", "1"],
                  ["--size", "300KiB", "--window", "20", "--receivers", "1"]):
        done = subprocess.run(
            [HOLDFAST, "bench", "amqp", "--url", broker.url, "-o", "json",
             "--count", "2000", "--warm-up", "50ms"] + extra,
            capture_output=True, timeout=TIMEOUT_S)
        expect(done.returncode, 0, done.stderr.decode())
        verdict = json.loads(done.stdout)["verified"]
        expect(verdict["accepted"], verdict["arrived"], "arrived")
        expect([verdict[k] for k in ("lost", "duplicates", "out_of_order",
                                     "foreign", "rejected")], [0] * 5,
               "verdict of %s" % extra)


def test_errors(broker):
    """errors say what was wrong and have their exit codes"""
    done = holdfast(broker, "send", "x", "--priority", "12", "m", code=2)
    expect(b"--priority" in done.stderr, True, "usage")
    done = holdfast(broker, "receive", "c.none", "--count", "1",
                    "--timeout", "100ms", code=1)
    expect(b"0 of 1" in done.stderr, True, "too few")
    done = subprocess.run([HOLDFAST, "send", "--url", "amqp://127.0.0.1:1",
                           "x", "m"], capture_output=True)
    expect((done.returncode, b"is holdfastd running" in done.stderr),
           (1, True), "no broker")


if __name__ == "__main__":
    run(Broker("proton-c", admin=True),
        [value for name, value in list(globals().items())
         if name.startswith("test_")], 120)
