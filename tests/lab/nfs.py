"""The NFSv4.2 server of a lab: Debian's nfs-ganesha, on a small ext4 of its
own.  To be used inside isolated.enter().  Packages: nfs-ganesha,
nfs-ganesha-vfs, e2fsprogs.

Lease and grace period are 10 s, so that more than the lease is little."""

import errno
import os
import signal
import subprocess
import time

import isolated

TOOLS = ("ganesha.nfsd", "mkfs.ext4", "mount")
PACKAGES = "nfs-ganesha nfs-ganesha-vfs nfs-common e2fsprogs iproute2"
LEASE_S = 10
START_S = 30
CONFIG = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 2049; Bind_addr = {address};
  Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ Lease_Lifetime = {lease}; Grace_Period = {lease};
  Minor_Versions = 1, 2; RecoveryBackend = fs; RecoveryRoot = {recovery};
  Delegations = {delegations}; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /export; Access_Type = RW;
  Squash = No_Root_Squash; SecType = sys; Protocols = 4; Transports = TCP;
  {delegate} FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"""


class Server:
    """dir: where it keeps everything; address: where it listens.  Delegations
    let a client answer from its cache what it did not ask."""

    def __init__(self, dir, address, size_mib, delegations=False):
        self.dir, self.address = dir, address
        self.export = os.path.join(dir, "export")
        self.ballast = os.path.join(self.export, "ballast")
        self.log = os.path.join(dir, "ganesha.log")
        self.process = None
        os.makedirs(self.export)
        os.makedirs(os.path.join(dir, "recovery"))
        self.make_disk(size_mib)
        # It insists on some directories of the machine's: here are others.
        for place in ("/var/lib/nfs", "/run"):
            isolated.run("mount", "-t", "tmpfs", "tmpfs", place)
        os.makedirs("/var/lib/nfs/ganesha")
        os.makedirs("/run/ganesha")
        with open(os.path.join(dir, "ganesha.conf"), "w") as f:
            f.write(CONFIG.format(
                address=address, lease=LEASE_S, export=self.export,
                recovery=os.path.join(dir, "recovery"),
                delegations="true" if delegations else "false",
                delegate="Delegations = RW;" if delegations else ""))

    def make_disk(self, size_mib):
        image = os.path.join(self.dir, "disk")
        with open(image, "wb") as f:
            f.truncate(size_mib << 20)
        isolated.run("mkfs.ext4", "-q", "-F", "-m", "0", "-E",
                     "lazy_itable_init=0,lazy_journal_init=0", image)
        try:
            isolated.run("mount", "-o", "loop", image, self.export)
            self.kind = "ext4"
        except AssertionError:
            # No loop devices: in memory, which is all that can be had.
            os.unlink(image)
            isolated.run("mount", "-t", "tmpfs", "-o", "size=%dm" % size_mib,
                         "tmpfs", self.export)
            self.kind = "tmpfs"

    def start(self):
        begun = time.monotonic()
        with open(self.log, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen(
                ["ganesha.nfsd", "-F", "-f", self.dir + "/ganesha.conf", "-L",
                 self.log, "-p", self.dir + "/ganesha.pid"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while True:
            with open(self.log, "rb") as log:
                log.seek(at)
                said = log.read()
            if b"NFS SERVER INITIALIZED" in said:
                return
            if (self.process.poll() is not None or
                    time.monotonic() - begun > START_S):
                raise AssertionError("the NFS server does not start: %s" %
                                     said[-2000:].decode("utf-8", "replace"))
            time.sleep(0.02)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """As a crash of the machine would, but for its page cache."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def fill(self):
        """Others take all that is free; returns how much that was."""
        taken = 0
        with open(self.ballast, "ab") as f:
            step = 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(f.fileno(), taken, step)
                    taken += step
                except OSError as why:
                    if why.errno != errno.ENOSPC:
                        raise
                    step //= 2
        return taken

    def free(self):
        if os.path.exists(self.ballast):
            os.unlink(self.ballast)
