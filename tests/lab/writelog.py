"""The log of the kernel's dm-log-writes target (v1), and the states of the
disk that a power cut may have left.

Format (Documentation/admin-guide/device-mapper/log-writes.rst and
drivers/md/dm-log-writes.c): in units of the sector size that the super block
names, little-endian,

  super block   u64 magic, u64 version, u64 entry count, u32 sector size
  entry         u64 sector, u64 sector count, u64 flags, u64 data length,
                a mark's text; one sector
  its data      sector count sectors, unless it is a discard or a mark

Why a cut is what Cut.apply() makes.  A write stands in the log once it has
completed, before the first flush that was sent after that; a flush stands
there when it has completed; what is marked FUA has reached the disk by itself.
So when the power goes behind entry n, everything before the last flush up to
n is on the disk, every FUA write too, and of the other writes behind that
flush any part, in any order, the last one perhaps in half."""

import random
import struct

MAGIC = 0x6a736677736872
FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")


class Entry:
    __slots__ = ("sector", "count", "flags", "at", "text")


class WriteLog:
    def __init__(self, path):
        self.file = open(path, "rb", buffering=0)
        magic, version, count, self.sector = SUPER.unpack(
            self.file.read(SUPER.size))
        if magic != MAGIC or version != 1:
            raise ValueError("%s is no dm-log-writes log of version 1" % path)
        self.entries = []
        at = self.sector
        for _ in range(count):
            e, at = self.read_entry(at)
            self.entries.append(e)

    def read_entry(self, at):
        self.file.seek(at)
        raw = self.file.read(self.sector)
        e = Entry()
        e.sector, e.count, e.flags, length = ENTRY.unpack_from(raw)
        e.text = None
        if e.flags & MARK:
            e.text = raw[ENTRY.size:ENTRY.size + length].rstrip(
                b"\0").decode()
        at += self.sector
        e.at = at
        if e.flags & (DISCARD | MARK):
            return e, at
        return e, at + e.count * self.sector

    def data(self, e):
        self.file.seek(e.at)
        return self.file.read(e.count * self.sector)

    def boundaries(self):
        """Behind which entries something became durable."""
        return [n + 1 for n, e in enumerate(self.entries)
                if e.flags & (FLUSH | FUA)]

    def marks(self):
        """(entry, text) of each."""
        return [(n, e.text) for n, e in enumerate(self.entries)
                if e.text is not None]

    def write(self, device, e, sectors=None):
        """One entry, or the first of its sectors."""
        if e.flags & MARK or not e.count:
            return
        count = e.count if sectors is None else sectors
        device.seek(e.sector * self.sector)
        if e.flags & DISCARD:
            step = (1 << 20) // self.sector
            for done in range(0, count, step):
                device.write(bytes(min(step, count - done) * self.sector))
        else:
            device.write(self.data(e)[:count * self.sector])

    def settled(self, n):
        """The entry behind the last flush up to n."""
        while n and not self.entries[n - 1].flags & FLUSH:
            n -= 1
        return n


class Cut:
    """Power goes behind entry n.  seed None: all that completed is there;
    otherwise the seed says what is, of the writes that were not flushed."""

    def __init__(self, n, seed=None):
        self.n, self.seed = n, seed

    def __str__(self):
        return "%d" % self.n if self.seed is None else "%d:%d" % (self.n,
                                                                  self.seed)

    @classmethod
    def parse(cls, text):
        n, _, seed = text.partition(":")
        return cls(int(n), int(seed) if seed else None)

    def apply(self, log, device):
        """On a disk that has everything up to log.settled(n)."""
        rng = random.Random(self.seed)
        keep = rng.random()
        for e in log.entries[log.settled(self.n):self.n]:
            if self.seed is None or e.flags & FUA:
                log.write(device, e)
            elif rng.random() < keep:
                log.write(device, e)
            elif e.count and rng.random() < 0.25:
                log.write(device, e, rng.randrange(e.count))
        device.flush()


def choose(log, first, count, seed):
    """count cuts behind entry `first`, by rising entry: half of them at
    boundaries, spread evenly, the others anywhere, with part of what was not
    flushed.  count 0: every boundary, and as many others."""
    rng = random.Random(seed)
    boundaries = [n for n in log.boundaries() if n > first]
    ends = range(first + 1, len(log.entries) + 1)
    half = count - count // 2 if count else len(boundaries)
    if len(boundaries) > half:
        step = len(boundaries) / half
        boundaries = [boundaries[int(i * step + rng.random() * step)]
                      for i in range(half)]
    cuts = [Cut(n) for n in boundaries]
    # Where little is in flight there is little to choose from.
    torn = [n for n in ends if n - log.settled(n) > 1] or list(ends)
    others = count - len(cuts) if count else len(cuts)
    cuts += [Cut(rng.choice(torn), rng.randrange(1 << 30))
             for _ in range(others)]
    return sorted(cuts, key=lambda cut: cut.n)
