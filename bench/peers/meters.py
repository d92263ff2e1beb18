"""What the machine counts: the disk's flushes and bytes, processor time.

The disk's counters are the whole disk's and the machine's are the whole
machine's, so what others do at the same time is in them; `others_cores` says
how much that was."""

import os
import platform
import time

TICK = os.sysconf("SC_CLK_TCK")
SECTOR = 512
QUIET_S = 0.25
QUIET_BYTES = 2**18
FLUSHES = 15  # the field of /sys/block/*/stat


def first_line(path, default=""):
    try:
        with open(path) as f:
            return f.readline().strip()
    except OSError:
        return default


def disk_of(path):
    """The folder in /sys of the whole disk below a path, or None."""
    device = os.stat(path).st_dev
    node = "/sys/dev/block/%d:%d" % (os.major(device), os.minor(device))
    if not os.path.exists(node):
        return None
    node = os.path.realpath(node)
    # Flushes are counted at the disk, not at its partitions.
    if os.path.exists(os.path.join(node, "partition")):
        node = os.path.dirname(node)
    return node


class Disk:
    def __init__(self, path):
        self.node = disk_of(path)
        self.name = os.path.basename(self.node) if self.node else "unknown"

    def counts(self):
        """(flushes, bytes written), or None where the kernel does not say."""
        if not self.node:
            return None
        fields = first_line(os.path.join(self.node, "stat")).split()
        if len(fields) <= FLUSHES:
            return None
        return int(fields[FLUSHES]), int(fields[6]) * SECTOR


def busy_s():
    """Processor seconds that the machine has spent on anything."""
    fields = [int(f) for f in first_line("/proc/stat").split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICK


class Meter:
    """begin(), the work, end(): what it cost.  Client time is given to
    end(), because the client has ended by then."""

    def __init__(self, disk, peer):
        self.disk = disk
        self.peer = peer

    def begin(self):
        self.before = (time.monotonic(), self.disk.counts(), busy_s(),
                       self.peer.cpu_s(), time.process_time())

    def end(self, client_s):
        then, counts, busy, peer, own = self.before
        took = time.monotonic() - then
        peer = self.peer.cpu_s() - peer
        others = busy_s() - busy - peer - client_s - \
            (time.process_time() - own)
        figures = {"took_s": took, "broker_cpu_s": peer,
                   "client_cpu_s": client_s,
                   "others_cores": max(0.0, others / took)}
        after = self.disk.counts()
        if counts and after:
            figures["flushes"] = after[0] - counts[0]
            figures["disk_bytes"] = after[1] - counts[1]
        return figures


def settle(disk, limit_s=3.0):
    """Waits until the disk is quiet: what was removed is still discarded and
    written back for a while.  False: it was not to be, somebody else writes."""
    os.sync()
    limit = time.monotonic() + limit_s
    last = disk.counts()
    while last and time.monotonic() < limit:
        time.sleep(QUIET_S)
        now = disk.counts()
        if now[1] - last[1] < QUIET_BYTES:
            return True
        last = now
    return not last


def forget(folder):
    """Takes a folder's files out of the page cache, as a restart of the
    machine would."""
    os.sync()
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                file = os.open(os.path.join(where, name), os.O_RDONLY)
            except OSError:
                continue
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def mount_of(path):
    """(file system, options) that a path is on."""
    path = os.path.realpath(path)
    best = ("", "unknown", "")
    with open("/proc/mounts") as mounts:
        for line in mounts:
            _, where, kind, options = line.split()[:4]
            inside = path == where or path.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best[0]):
                best = (where, kind, options)
    return best[1:]


def machine(path):
    cpu = memory = system = ""
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) / 2**20
    try:
        with open("/etc/os-release") as f:
            for line in f:
                if line.startswith("PRETTY_NAME="):
                    system = line.split("=", 1)[1].strip().strip('"')
    except OSError:
        pass
    disk = Disk(path)
    queue = os.path.join(disk.node or "", "queue")
    kind, options = mount_of(path)
    return {
        "cpu": cpu or platform.machine(), "cores": os.cpu_count(),
        "memory_gib": round(memory, 1), "kernel": platform.release(),
        "system": system, "disk": disk.name,
        "disk_cache": first_line(os.path.join(queue, "write_cache")),
        "disk_fua": first_line(os.path.join(queue, "fua")),
        "file_system": kind, "mount_options": options,
    }
