#!/usr/bin/python3
"""A backlog in extent files: what `holdfast store` says of it, beside a
running broker and without one, in order and damaged; and a start with a
working index that is garbage, or whose directory is not to be had."""

import glob
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "interop"))
from broker import BUILD, Broker, run  # noqa: E402

HOLDFAST = os.path.join(BUILD, "holdfast")
PATIENCE_S = 60
MESSAGES = 6000
BYTES = 1000


def holdfast(*words):
    """Exit code, output, errors."""
    done = subprocess.run([HOLDFAST, *words], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def report(*words):
    """Exit code, and what was printed as JSON."""
    code, text, errors = holdfast(*words, "-o", "json")
    assert text, errors
    return code, json.loads(text)


def wait_for(what, found):
    until = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < until, "no %s in time" % what
        time.sleep(0.02)


def extents(broker):
    return sorted(glob.glob(broker.data + "/extents/*.ext"))


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_running(broker):
    """Beside a running broker: both ways to ask agree, all is sound, and the
    index in use is left alone."""
    code, _, errors = holdfast("send", "-q", "-u", broker.url, "orders",
                               "--count", str(MESSAGES), "--size", str(BYTES))
    assert code == 0, errors
    wait_for("extent files", lambda: report(
        "store", "stat", "--admin", broker.admin)[1]["extent_bytes"] >
        MESSAGES * BYTES // 2)
    code, asked = report("store", "stat", "--admin", broker.admin)
    assert code == 0 and asked["live_messages"] == MESSAGES, asked
    code, seen = report("store", "stat", broker.data)
    assert code == 0 and seen["live_messages"] == MESSAGES, seen
    assert seen["runs"] >= 3 and seen["extent_files"] >= 2, seen
    assert seen["live_bytes"] >= MESSAGES * BYTES, seen
    assert seen["amplification"] > 1, seen
    code, text, _ = holdfast("store", "verify", broker.data)
    assert code == 0 and "sound" in text, text
    code, text, errors = holdfast("store", "rebuild-index", broker.data)
    assert code == 1 and "stop it first" in errors, (code, text, errors)


def test_stopped(broker):
    """The same directory without its broker; recovering it changes nothing
    that counts."""
    broker.stop()
    for _ in range(2):
        code, seen = report("store", "verify", broker.data)
        assert code == 0 and seen["sound"] is True, seen
        assert seen["messages"] == MESSAGES and seen["missing"] == 0, seen
        assert seen["extent_files"] >= 2, seen
        code, built = report("store", "rebuild-index", broker.data)
        assert code == 0 and built["messages"] == MESSAGES, built
        assert built["runs"] >= 3, built


def test_damage(broker):
    """A flipped bit and a missing file are named by queue and messages."""
    broker.stop()
    victim = extents(broker)[0]
    flip(victim, 4096 + 3000)
    code, seen = report("store", "verify", broker.data)
    found = [f for f in seen["findings"] if f.get("queue") == "orders"]
    assert code == 1 and seen["sound"] is False and found, seen
    assert found[0]["file"] == "extents/" + os.path.basename(victim), found
    assert found[0]["messages"] >= 1, found
    code, text, _ = holdfast("store", "verify", broker.data)
    assert code == 1 and 'DAMAGE' in text and '"orders"' in text, text
    flip(victim, 4096 + 3000)
    os.rename(victim, victim + ".away")
    code, seen = report("store", "verify", broker.data)
    assert code == 1 and seen["missing"] == 1, seen
    assert any(f.get("queue") == "orders" and "not there" in f["what"]
               for f in seen["findings"]), seen
    os.rename(victim + ".away", victim)
    code, seen = report("store", "verify", broker.data)
    assert code == 0 and seen["sound"] is True, seen


def test_index(broker):
    """An index of garbage is none; one that cannot be made stops the start,
    with the setting's name."""
    broker.stop()
    os.makedirs(broker.data + "/index", exist_ok=True)
    for name in ("data.mdb", "lock.mdb"):
        with open(os.path.join(broker.data, "index", name), "wb") as file:
            file.write(os.urandom(100000))
    broker.arguments += ["--set", "index_dir=/proc/nothing"]
    try:
        broker.start()
    except AssertionError as why:
        assert "ended with 1" in str(why), why
    else:
        raise AssertionError("the broker has started without an index")
    broker.process = None
    words = broker.last_words()
    assert '"event":"no-index"' in words and "set index_dir" in words, words
    del broker.arguments[-2:]
    broker.start()
    assert '"event":"memory"' in open(broker.log).read()
    code, text, errors = holdfast("receive", "-u", broker.url, "orders",
                                  "--count", str(MESSAGES), "-o", "json")
    assert code == 0, errors
    assert len(text.splitlines()) == MESSAGES, len(text.splitlines())
    wait_for("empty extents", lambda: not extents(broker))
    code, text, _ = holdfast("store", "verify", broker.data)
    assert code == 0 and "sound" in text, text


if __name__ == "__main__":
    run(Broker("store", "--set", "journal.segment_size=1MiB",
               "--set", "journal.checkpoint_interval=1s",
               "--set", "store.hot_size=1MiB", "--set", "store.hot_time=200ms",
               "--set", "store.extent_file_size=1MiB", admin=True),
        [test_running, test_stopped, test_damage, test_index], 170)
