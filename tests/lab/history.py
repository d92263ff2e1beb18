#!/usr/bin/python3
"""Reads a journal without its key, and says whether it is one history.

history.py DIR   prints the epochs of the line and what is wrong; exits with 1
                 when something is

Written from docs/format/journal.md and from nothing else: it shares no line
with the broker, so that the two must agree.  It looks at claims and seals,
segment headers, frame headers, both CRCs, the chain, LSNs, epochs, parents
and cuts.  What must hold:

  every claim below the newest epoch of the line is sealed;
  from the oldest segment that is kept to the end, frame by frame, each
  continues the one before it, and every epoch but the newest ends at exactly
  the cut that the next one names;
  nobody has acknowledged anything off that line: no frame behind a cut, or of
  an epoch that is nobody's parent, says that it knows more durable than the
  line has;
  nothing behind the end says that the end was acknowledged.

A journal may be read while it is written: only its end moves.  A second
reading finds the first one's end again: is_continued_by()."""

import array
import hashlib
import json
import os
import struct
import sys

BLOCK, HEADER = 4096, 512
CLAIM_BYTES = 64
CLAIM = struct.Struct("<8sHHI16sQ20xI")
SEGMENT = struct.Struct("<8sH6s16sQQ16s16s")
FRAME = struct.Struct("<8sHHI16sQIIQQQII16s32s32sI")
EPOCH_START = 1
PERSON = b"holdfast frame chain 1\0"
READS_MAX = 4  # of a journal that is being written


def crc_table():
    table = array.array("L")
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def crc32c(data):
    """A few MB a second; python3-crc32c, where it is installed, some GB."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


try:
    from crc32c import crc32c  # noqa: F811
except ImportError:
    pass
if crc32c(b"123456789") != 0xE3069283:
    raise AssertionError("this is not CRC-32C")


class Frame:
    __slots__ = ("segment", "offset", "epoch", "parent", "is_start", "lsn",
                 "end", "durable", "stored", "previous", "chain")


def read_frame(data, offset, cluster, segment, data_key):
    """A frame that is whole by itself, or None."""
    head = data[offset:offset + HEADER]
    if len(head) < HEADER or head[:8] != b"HFFRAME\0":
        return None
    (_, version, flags, parent, its_cluster, its_segment, epoch, count, at,
     lsn, durable, payload, stored, key, previous, chain, crc) = \
        FRAME.unpack_from(head)
    if (int.from_bytes(head[252:256], "little") !=
            crc32c(head[:252] + head[256:]) or version != 1 or
            its_cluster != cluster or its_segment != segment or
            epoch != segment >> 32 or at != offset or key != data_key or
            count < 1 or stored % BLOCK or stored > 1 << 20 or
            payload != stored - HEADER):
        return None
    covered = head[:128] + bytes(32) + head[160:252] + bytes(4) + head[256:]
    if hashlib.blake2b(PERSON + covered, digest_size=32).digest() != chain:
        return None
    body = data[offset + HEADER:offset + stored]
    if len(body) != payload or crc32c(body) != crc:
        return None
    f = Frame()
    f.segment, f.offset, f.epoch, f.parent = segment, offset, epoch, parent
    f.is_start = bool(flags & EPOCH_START)
    f.lsn, f.end, f.durable, f.stored = lsn, lsn + count, durable, stored
    f.previous, f.chain = previous, chain
    return f


class Segment:
    """frames: from the first on for as long as they follow each other in the
    file; stray: others, behind what is not a frame."""

    def __init__(self, path, key, cluster):
        self.key = key
        self.frames, self.stray = [], []
        with open(path, "rb") as f:
            data = f.read()
        head = data[:BLOCK]
        magic, version, _, its_cluster, its_key, size, _, data_key = \
            SEGMENT.unpack_from(head)
        self.wrong = None
        if magic != b"HFSEG\0\0\0" or version != 1 or \
                int.from_bytes(head[4092:], "little") != crc32c(head[:4092]):
            self.wrong = "its header is damaged"
        elif its_cluster != cluster or its_key != key:
            self.wrong = "it is not the file that its name says"
        elif size != len(data):
            self.wrong = "it has %d bytes, its header says %d" % (len(data),
                                                                  size)
        if self.wrong:
            return
        offset, found = BLOCK, self.frames
        while offset < size:
            frame = read_frame(data, offset, cluster, key, data_key)
            if frame:
                found.append(frame)
                offset += frame.stored
            else:
                found = self.stray
                offset += BLOCK


class Epoch:
    def __init__(self, number):
        self.number = number
        self.segments = []
        self.sealed = False

    def start(self):
        """Its EPOCH-START frame, if its first segment is still there."""
        for segment in self.segments:
            if segment.frames:
                first = segment.frames[0]
                return first if first.is_start else None
        return None

    def all(self):
        return [frame for segment in self.segments
                for frame in segment.frames + segment.stray]

    def run(self):
        """From its oldest frame on, each that continues the one before."""
        frames = []
        for segment in self.segments:
            for frame in segment.frames:
                if frames and (frame.lsn != frames[-1].end or
                               frame.previous != frames[-1].chain):
                    break
                frames.append(frame)
        return frames


class History:
    """line: frames from the oldest kept to the end; wrong: sentences; behind:
    how many whole frames there are behind cuts.  extra: directories with more
    names of segments, which may have lost theirs in DIR."""

    def __init__(self, dir, extra=()):
        self.dir, self.wrong, self.line, self.behind = dir, [], [], 0
        with open(os.path.join(dir, "cluster"), "rb") as f:
            raw = f.read()
        if len(raw) != 64 or raw[:8] != b"HFCLUSTR" or \
                int.from_bytes(raw[60:], "little") != crc32c(raw[:60]):
            self.wrong.append("cluster is damaged")
        self.cluster = raw[16:32]
        self.epochs = {}
        self.read_segments([os.path.join(dir, "segments"), *extra])
        self.read_claims()
        self.find_line()

    def epoch(self, number):
        return self.epochs.setdefault(number, Epoch(number))

    def read_segments(self, places):
        paths = {}
        for place in reversed(places):
            for name in os.listdir(place):
                if name.endswith(".log"):
                    paths[name] = os.path.join(place, name)
        for name in sorted(paths):
            epoch, sequence = (int(part, 16) for part in
                               name[:-4].split("-"))
            try:
                segment = Segment(paths[name], epoch << 32 | sequence,
                                  self.cluster)
            except FileNotFoundError:
                continue  # deleted since
            if segment.wrong:
                self.wrong.append("%s: %s" % (name, segment.wrong))
            self.epoch(epoch).segments.append(segment)

    def read_claims(self):
        place = os.path.join(self.dir, "epochs")
        for name in os.listdir(place):
            with open(os.path.join(place, name), "rb") as f:
                raw = f.read()
            epoch = self.epoch(int(name, 16))
            epoch.sealed = len(raw) > CLAIM_BYTES
            # Torn, or sealed in the middle: it never led.
            if len(raw) % CLAIM_BYTES and epoch.segments:
                self.wrong.append("claim %s is damaged" % name)
            for at in range(0, len(raw) - CLAIM_BYTES + 1, CLAIM_BYTES):
                self.read_claim(name, raw[at:at + CLAIM_BYTES], at == 0,
                                epoch)

    def read_claim(self, name, raw, is_claim, epoch):
        magic, version, _, number, cluster, _, crc = CLAIM.unpack(raw)
        if not epoch.segments and magic != b"HFCLAIM\0":
            return
        if (crc != crc32c(raw[:60]) or version != 1 or
                cluster != self.cluster or
                magic != (b"HFCLAIM\0" if is_claim else b"HFSEAL\0\0")):
            self.wrong.append("a record of claim %s is damaged" % name)
        elif is_claim and number != epoch.number:
            self.wrong.append("claim %s is of epoch %d" % (name, number))
        elif not is_claim and number <= epoch.number:
            self.wrong.append("claim %s is sealed by epoch %d" % (name,
                                                                  number))

    def find_line(self):
        numbers = sorted(self.epochs, reverse=True)
        newest = next((n for n in numbers if self.epochs[n].start()), None)
        if newest is None:
            # Its first segment may be gone, with the epochs before it.
            newest = next((n for n in numbers if self.epochs[n].all()), None)
        if newest is None:
            return
        for number in numbers:
            epoch = self.epochs[number]
            if number > newest and epoch.all():
                self.wrong.append("epoch %d has frames and no EPOCH-START" %
                                  number)
            if number < newest and not epoch.sealed:
                self.wrong.append("epoch %d is not sealed, and %d leads" %
                                  (number, newest))
        on_line, cut, child = [], None, newest
        while True:
            frames = self.part(child, cut)
            on_line.append(child)
            self.line = frames + self.line
            start = frames[0] if frames and frames[0].is_start else None
            if not start or not start.parent:
                break
            if start.parent >= child:
                self.wrong.append("epoch %d has the parent %d" %
                                  (child, start.parent))
                break
            if not self.epochs.get(start.parent) or \
                    not self.epochs[start.parent].segments:
                break  # all before it is deleted
            cut, child = start, start.parent
        self.check_end(self.epochs[newest])
        self.check_others(set(on_line))

    def part(self, number, cut):
        """The frames of one epoch on the line, and what follows its cut."""
        epoch = self.epochs[number]
        run = epoch.run()
        if cut is None:
            return run
        kept = [f for f in run if f.end <= cut.lsn]
        reached = kept[-1] if kept else None
        if reached is None:
            # An EPOCH-START with nothing behind it may have been the cut's
            # own beginning; whole frames must not straddle it.
            if run and run[0].lsn < cut.lsn:
                self.wrong.append("epoch %d: a frame straddles the cut at "
                                  "LSN %d" % (number, cut.lsn))
        elif reached.end != cut.lsn or reached.chain != cut.previous:
            self.wrong.append(
                "epoch %d ends at LSN %d, and epoch %d begins at %d: what was "
                "acknowledged between them is missing or another" % (
                    number, reached.end, cut.epoch, cut.lsn))
        ids = {(f.segment, f.offset) for f in kept}
        for frame in epoch.all():
            if (frame.segment, frame.offset) in ids:
                continue
            self.behind += 1
            if frame.durable > cut.lsn:
                self.wrong.append(
                    "epoch %d knew LSN %d durable, and epoch %d has cut it at "
                    "%d: two have led at once" % (
                        number, frame.durable, cut.epoch, cut.lsn))
        return kept

    def check_end(self, newest):
        run = newest.run()
        if not run:
            return
        ids = {(f.segment, f.offset) for f in run}
        for frame in newest.all():
            if (frame.segment, frame.offset) not in ids and \
                    frame.durable > run[-1].end:
                self.wrong.append(
                    "epoch %d ends at LSN %d, and a frame behind that knows "
                    "%d durable" % (newest.number, run[-1].end,
                                    frame.durable))
        durable = 0
        for frame in self.line:
            if frame.durable > frame.lsn or frame.durable < durable and \
                    not frame.is_start:
                self.wrong.append("the frame of LSN %d says that %d is "
                                  "durable" % (frame.lsn, frame.durable))
            durable = frame.durable

    def check_others(self, on_line):
        oldest = min(on_line)
        for number, epoch in self.epochs.items():
            if number in on_line or number < oldest or not epoch.all():
                continue
            start = epoch.start()
            if not start:
                self.wrong.append("epoch %d has frames, and no EPOCH-START" %
                                  number)
                continue
            for frame in epoch.all():
                self.behind += 1
                if frame.durable > start.lsn:
                    self.wrong.append("epoch %d acknowledged LSN %d, and is "
                                      "nobody's parent" % (number,
                                                           start.lsn))

    def newest(self):
        return self.line[-1].epoch if self.line else 0

    def is_continued_by(self, later):
        """What is wrong with later as this history's future; None: nothing.
        False: no frame of this one is left to compare."""
        if not self.line:
            return None
        known = {f.end: f.chain for f in later.line}
        for frame in reversed(self.line):
            if frame.end in known:
                if known[frame.end] != frame.chain:
                    return "at LSN %d there is another history" % frame.end
                if frame is not self.line[-1]:
                    return "the history ended at LSN %d, and now %d is its " \
                        "last that is known" % (self.line[-1].end, frame.end)
                return None
        if later.line and later.line[0].lsn >= self.line[-1].end:
            return False
        return "the history up to LSN %d is not there" % self.line[-1].end


def read(dir, extra=()):
    """Of a directory that may be written to meanwhile: what is wrong only
    while something moves, is not."""
    for attempt in range(READS_MAX):
        history = History(dir, extra)
        if not history.wrong:
            break
    return history


def main():
    history = read(sys.argv[1])
    line = history.line
    print(json.dumps({
        "epochs": sorted({frame.epoch for frame in line}),
        "claims": len(history.epochs), "frames": len(line),
        "first_lsn": line[0].lsn if line else None,
        "end_lsn": line[-1].end if line else None,
        "end_chain": line[-1].chain.hex() if line else None,
        "behind_cuts": history.behind, "wrong": history.wrong}))
    sys.exit(1 if history.wrong else 0)


if __name__ == "__main__":
    main()
