#!/usr/bin/python3
"""Reads a journal without its key, and says whether it is one history.

history.py DIR   prints what the line is made of and what is wrong; exits with
                 1 when something is

Written from docs/format/journal.md and from nothing else: it shares no line
with the broker, so that the two must agree.  It looks at claims and seals,
segment headers, frame headers, both CRCs, the chain, LSNs, epochs, parents
and cuts.  What must hold:

  every claim below the newest epoch of the line is sealed;
  frame by frame each continues the one before it, and every epoch but the
  newest ends at exactly the cut that the next one names;
  nobody has acknowledged anything off that line: no frame behind a cut, or of
  an epoch that is nobody's parent, knows more to be durable than the line has;
  nothing behind the end says that the end was acknowledged.

Segments that nothing needs any more are deleted, not only the oldest; where a
whole file is missing nothing can be said of what was in it, and gaps counts
it.  Whoever reads again and again (Reader) knows what was there before, and
compares.  A journal may be read while it is written: only its end moves."""

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
FRAME_BYTES_MAX = 1 << 20
READS_MAX = 4  # of a journal that is being written
KNOWN_MAX = 200000


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
            count < 1 or stored % BLOCK or stored > FRAME_BYTES_MAX or
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
        self.key, self.size = key, 0
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
        self.size = size
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
        """Its frames in order, up to where one does not follow."""
        frames, sequence = [], None
        for segment in self.segments:
            for frame in segment.frames:
                if frames and not follows(frames[-1], frame) and not (
                        frame is segment.frames[0] and
                        frame.lsn > frames[-1].end and
                        segment.key > sequence + 1):
                    return frames
                frames.append(frame)
                sequence = segment.key
        return frames


def follows(before, frame):
    return frame.lsn == before.end and frame.previous == before.chain


class History:
    """line: frames from the oldest kept to the end; wrong: sentences; behind:
    how many whole frames there are behind cuts; cuts: how many were reached
    exactly.  extra: directories with more names of segments, which may have
    lost theirs in DIR.  known: chain values by LSN, of earlier readings."""

    def __init__(self, dir, extra=(), known=()):
        self.dir, self.wrong, self.line = dir, [], []
        self.behind = self.cuts = self.gaps = 0
        self.known = dict(known)
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
        self.check_line()

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
        numbers = sorted((n for n in self.epochs if self.epochs[n].all()),
                         reverse=True)
        child, cut = numbers[0] if numbers else 0, None
        self.newest = child
        on_line = []
        while child:
            frames = self.part(self.epochs[child], cut)
            on_line.append(child)
            self.line = frames + self.line
            cut = frames[0] if frames and frames[0].is_start else None
            child = cut.parent if cut else 0
            if child >= on_line[-1]:
                self.wrong.append("epoch %d has the parent %d" % (
                    on_line[-1], child))
                break
            if child and not (child in self.epochs and
                              self.epochs[child].segments):
                self.gaps += 1
                break
        self.check_others(on_line)
        for number, epoch in self.epochs.items():
            if number < self.newest and not epoch.sealed:
                self.wrong.append("epoch %d is not sealed, and %d leads" %
                                  (number, self.newest))

    def part(self, epoch, cut):
        """The frames of one epoch on the line; what follows its cut."""
        run = epoch.run()
        end = cut.lsn if cut else run[-1].end if run else 0
        kept = [f for f in run if f.end <= end]
        if cut:
            self.check_cut(epoch, run, kept, cut)
        ids = {(f.segment, f.offset) for f in kept}
        for frame in epoch.all():
            if (frame.segment, frame.offset) in ids:
                continue
            self.behind += 1
            if frame.durable > end:
                self.wrong.append(
                    "epoch %d knew LSN %d to be durable, and ends at %d" % (
                        epoch.number, frame.durable, end))
        return kept

    def check_cut(self, epoch, run, kept, cut):
        if len(run) > len(kept) and run[len(kept)].lsn < cut.lsn:
            self.wrong.append("epoch %d: a frame goes across the cut at LSN "
                              "%d" % (epoch.number, cut.lsn))
        elif kept and kept[-1].end == cut.lsn:
            if kept[-1].chain == cut.previous:
                self.cuts += 1
            else:
                self.wrong.append("epoch %d and epoch %d differ before LSN "
                                  "%d" % (epoch.number, cut.epoch, cut.lsn))
        elif kept and not self.is_missing_behind(epoch, kept[-1]):
            self.wrong.append(
                "epoch %d ends at LSN %d, and epoch %d begins at %d: what was "
                "acknowledged is missing" % (epoch.number, kept[-1].end,
                                             cut.epoch, cut.lsn))

    @staticmethod
    def is_missing_behind(epoch, frame):
        """Whether what came next may have been in a file that is deleted: the
        frame is the last of a file that is full."""
        file = [s for s in epoch.segments if s.key == frame.segment][0]
        return file.frames[-1] is frame and not file.stray and \
            file.size - frame.offset - frame.stored < FRAME_BYTES_MAX

    def check_others(self, on_line):
        """Epochs that nobody has continued.  Below the oldest of the line
        there may be rests of what it is a continuation of."""
        floor = self.line[0].lsn if self.line else 0
        for number, epoch in self.epochs.items():
            if number in on_line or not epoch.all():
                continue
            start = epoch.start()
            end = start.lsn if start else floor
            if number < on_line[-1]:
                end = max(end, floor)
            elif not start:
                self.wrong.append("epoch %d has frames, and no EPOCH-START" %
                                  number)
            for frame in epoch.all():
                self.behind += number > on_line[-1]
                if frame.durable > end:
                    self.wrong.append(
                        "epoch %d acknowledged LSN %d, and is nobody's parent"
                        % (number, end))

    def check_line(self):
        before = None
        for frame in self.line:
            if before and not follows(before, frame):
                self.gaps += 1
                if frame.lsn < before.end:
                    self.wrong.append("LSN %d is there twice" % frame.lsn)
            if self.known.get(frame.lsn, frame.previous) != frame.previous \
                    or self.known.get(frame.end, frame.chain) != frame.chain:
                self.wrong.append("before LSN %d there is another history "
                                  "than there was" % frame.end)
            if frame.durable > frame.lsn:
                self.wrong.append("the frame of LSN %d calls %d durable" %
                                  (frame.lsn, frame.durable))
            before = frame
        # What was the end once is the end of a frame for ever.
        for lsn in self.known:
            if not self.line or lsn > self.line[-1].end:
                self.wrong.append("there was a history up to LSN %d" % lsn)
                break


class Reader:
    """Reads one journal again and again, while it is written."""

    def __init__(self, dir):
        self.dir, self.known = dir, {}

    def read(self, extra=()):
        """What is wrong only while something moves, is not."""
        for _ in range(READS_MAX):
            history = History(self.dir, extra, self.known)
            if not history.wrong:
                break
        # The last frame of a living journal need not be acknowledged, so it
        # is not known yet.
        durable = history.line[-1].durable if history.line else 0
        self.known.update((f.end, f.chain) for f in history.line
                          if f.end <= durable)
        for lsn in sorted(self.known)[:-KNOWN_MAX]:
            del self.known[lsn]
        return history


def main():
    history = Reader(sys.argv[1]).read()
    line = history.line
    print(json.dumps({
        "epochs": sorted({frame.epoch for frame in line}),
        "claims": len(history.epochs), "frames": len(line),
        "first_lsn": line[0].lsn if line else None,
        "end_lsn": line[-1].end if line else None,
        "end_chain": line[-1].chain.hex() if line else None,
        "cuts": history.cuts, "gaps": history.gaps,
        "behind_cuts": history.behind, "wrong": history.wrong}))
    sys.exit(1 if history.wrong else 0)


if __name__ == "__main__":
    main()
