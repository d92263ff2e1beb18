#!/usr/bin/python3
"""The independent reader of journals (tests/lab/history.py): what it says of
journals that real brokers have written, and of ones that somebody has
meddled with.  It judges failovers, so it must be able to say no."""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "interop"))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))
from broker import BUILD, Broker, run  # noqa: E402
import history  # noqa: E402

HOLDFAST = os.path.join(BUILD, "holdfast")


def send(broker, count):
    subprocess.run([HOLDFAST, "send", "-q", "-u", broker.url, "orders",
                    "--count", str(count), "--size", "3000"], check=True,
                   timeout=60)


def three_epochs(broker):
    """What a broker leaves behind that was killed once and stopped twice."""
    place = os.path.join(broker.dir, "three")
    if not os.path.exists(place):
        send(broker, 300)
        broker.restart(signal.SIGKILL)
        send(broker, 300)
        broker.restart(signal.SIGTERM)
        send(broker, 300)
        broker.stop()
        shutil.copytree(broker.data, place)
    return place


def copy(broker, name):
    place = os.path.join(broker.dir, name)
    shutil.copytree(three_epochs(broker), place)
    return place


def on(place):
    """Another broker, on a directory that is there."""
    other = Broker("other-" + os.path.basename(place))
    other.data = place
    return other.start()


def segment(place, epoch, of=-1):
    return sorted(glob.glob("%s/segments/%08x-*.log" % (place, epoch)))[of]


def overwrite(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)


def flip(path, at):
    with open(path, "rb") as f:
        f.seek(at)
        byte = f.read(1)[0]
    overwrite(path, at, bytes([byte ^ 1]))


def read(place):
    return history.Reader(place).read()


def says(place, words):
    wrong = read(place).wrong
    assert any(words in line for line in wrong), (words, wrong)


def of_epoch(place, epoch):
    return [f for f in read(place).line if f.epoch == epoch]


def path_of(place, frame):
    return "%s/segments/%08x-%08x.log" % (place, frame.segment >> 32,
                                          frame.segment & 0xFFFFFFFF)


def erase(place, frame):
    overwrite(path_of(place, frame), frame.offset, bytes(frame.stored))


def test_sound(broker):
    """What brokers wrote is one history, the same that they read."""
    place = three_epochs(broker)
    found = read(place)
    assert not found.wrong, found.wrong
    assert [found.cuts, found.gaps, found.newest] == [2, 0, 3]
    done = subprocess.run([HOLDFAST, "journal", "verify", place, "-o",
                           "json"], capture_output=True, text=True,
                          timeout=60, check=True)
    report = json.loads(done.stdout)
    assert report["frames"] == len(found.line), report
    assert report["first_lsn"] == found.line[0].lsn, report
    assert report["end_lsn"] == found.line[-1].end, report


def test_flipped(broker):
    """A flipped bit in a payload or a header of an earlier epoch."""
    place = copy(broker, "flipped")
    frame = of_epoch(place, 2)[3]
    for at in (9, 40, 100, 130, 200, 300, history.HEADER + 5):
        flip(path_of(place, frame), frame.offset + at)
        assert read(place).wrong, "byte %d" % at
        flip(path_of(place, frame), frame.offset + at)
    assert not read(place).wrong
    flip(path_of(place, frame), 90)
    says(place, "its header is damaged")


def test_lost(broker):
    """The end of an earlier epoch is missing, or a frame of the newest that
    was acknowledged."""
    place = copy(broker, "lost-end")
    erase(place, of_epoch(place, 2)[-1])
    says(place, "what was acknowledged is missing")
    place = copy(broker, "lost-middle")
    frames = of_epoch(place, 3)
    erase(place, frames[len(frames) // 2])
    says(place, "to be durable, and ends at")


def test_torn(broker):
    """The very last frame, which nobody calls durable, may be missing."""
    place = copy(broker, "torn")
    frames = of_epoch(place, 3)
    erase(place, frames[-1])
    found = read(place)
    assert not found.wrong and len(found.line) > len(frames), found.wrong
    assert found.line[-1].end == frames[-2].end


def test_not_sealed(broker):
    """A claim below the newest that nobody has sealed; a damaged one."""
    place = copy(broker, "not-sealed")
    claim = place + "/epochs/00000002"
    flip(claim, 70)
    says(place, "is damaged")
    flip(claim, 70)
    assert not read(place).wrong
    os.truncate(claim, 64)
    says(place, "epoch 2 is not sealed")


def test_two_leaders(broker):
    """An epoch that goes on acknowledging after the next one has cut it."""
    place = copy(broker, "leader")
    first = on(place)
    send(first, 100)
    # The directory as it is now, taken over by another...
    taken = os.path.join(broker.dir, "taken")
    shutil.copytree(place, taken)
    other = on(taken)
    send(other, 10)
    other.stop()
    assert not read(taken).wrong, read(taken).wrong
    # ...while the first one goes on in its own segments.
    send(first, 100)
    first.stop()
    shutil.copy(segment(place, 4, 0), segment(taken, 4, 0))
    says(taken, "to be durable, and ends at")


def test_other_history(broker):
    """One directory, and later another future of its past, or its past."""
    places = [copy(broker, "future-%d" % i) for i in range(2)]
    for place in places:
        other = on(place)
        send(other, 20)
        other.stop()
        assert not read(place).wrong
    reader = history.Reader(places[0])
    assert not reader.read().wrong
    assert not reader.read().wrong
    reader.dir = places[1]
    wrong = reader.read().wrong
    assert any("another history" in line for line in wrong), wrong
    reader.dir = three_epochs(broker)
    wrong = reader.read().wrong
    assert any("there was a history" in line for line in wrong), wrong


def main():
    run(Broker("history", "--set", "journal.segment_size=4MiB"),
        [test_sound, test_flipped, test_lost, test_torn, test_not_sealed,
         test_two_leaders, test_other_history], 100)


if __name__ == "__main__":
    main()
