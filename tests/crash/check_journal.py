#!/usr/bin/python3
"""A data directory with damage in it: what the broker says when it starts on
it, and what `holdfast journal verify` says and exits with."""

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
PATIENCE_S = 30


def holdfast(*words):
    """Exit code, output, errors."""
    done = subprocess.run([HOLDFAST, *words], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def send(broker, count):
    code, _, errors = holdfast("send", "-q", "-u", broker.url, "orders",
                               "--count", str(count), "--size", "1000")
    assert code == 0, errors


def wait_for(what, found):
    until = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < until, "no %s in time" % what
        time.sleep(0.01)


def checkpoints(broker):
    return sorted(glob.glob(broker.data + "/checkpoints/*.ckpt"))


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_sound(broker):
    """A journal that is in order is called sound, and the exit code is 0."""
    send(broker, 20)
    broker.stop()
    code, text, errors = holdfast("journal", "verify", broker.data)
    assert code == 0, (code, text, errors)
    assert "sound" in text and "0 damaged" in text, text
    code, text, _ = holdfast("journal", "verify", broker.data, "-o", "json")
    report = json.loads(text)
    assert code == 0 and report["sound"] is True, text
    assert report["damage"] == 0 and report["findings"] == [], text
    assert report["records"] >= 20, text


def test_warning(broker):
    """A damaged newest checkpoint is passed over, and the broker says so."""
    wait_for("checkpoint", lambda: checkpoints(broker))
    broker.stop()
    newest = checkpoints(broker)[-1]
    flip(newest, os.path.getsize(newest) - 1)
    code, text, _ = holdfast("journal", "verify", broker.data)
    assert code == 1 and "the checkpoint is damaged" in text, (code, text)
    assert os.path.basename(newest) in text, text
    with open(broker.log) as log:
        before = len(log.readlines())
    broker.start()
    with open(broker.log) as log:
        lines = [json.loads(line) for line in log.readlines()[before:]]
    warnings = [line for line in lines if
                line["event"] == "recovered-around-damage"]
    assert len(warnings) == 1, lines
    assert warnings[0]["level"] == "warn", warnings
    assert os.path.basename(newest) in warnings[0]["why"], warnings
    code, text, errors = holdfast("receive", "-u", broker.url, "orders",
                                  "--count", "20")
    assert code == 0, errors
    if newest in checkpoints(broker):
        flip(newest, os.path.getsize(newest) - 1)


def test_damage(broker):
    """A flipped bit in acknowledged frames: exit code 1, the file is named,
    and the broker refuses to start with less than it owes."""
    send(broker, 20)
    send(broker, 20)
    broker.stop()
    segments = glob.glob(broker.data + "/segments/*.log")
    newest = max(segments)
    flip(newest, 2 * 4096 + 700)
    code, text, _ = holdfast("journal", "verify", broker.data)
    assert code == 1, (code, text)
    assert "DAMAGE" in text and os.path.basename(newest) in text, text
    assert "Restore the damaged files" in text, text
    code, text, _ = holdfast("journal", "verify", broker.data, "-o", "json")
    report = json.loads(text)
    assert code == 1 and report["sound"] is False, text
    assert report["damage"] >= 1, text
    assert {"kind", "file", "offset", "lsn", "what"} <= set(
        report["findings"][0]), text
    try:
        broker.start()
    except AssertionError as why:
        assert "ended with 1" in str(why), why
    else:
        raise AssertionError("the broker has started without what it owes")
    broker.process = None
    assert '"event":"not-recovered"' in broker.last_words(), "it says why"
    flip(newest, 2 * 4096 + 700)
    code, text, _ = holdfast("journal", "verify", broker.data)
    assert code == 0, (code, text)


def test_nothing_there(broker):
    """What is not a data directory is an error, not a sound journal."""
    broker.stop()
    code, text, errors = holdfast("journal", "verify",
                                  broker.dir + "/nothing")
    assert code == 1 and not text, (code, text)
    assert "name the directory that --data-dir named" in errors, errors


if __name__ == "__main__":
    run(Broker("journal", "--set", "journal.checkpoint_interval=1s"),
        [test_sound, test_warning, test_damage, test_nothing_there], 90)
