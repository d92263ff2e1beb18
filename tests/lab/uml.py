"""A guest: Debian's user-mode-linux kernel on this machine's root file system.

The guest sees the whole machine read-only and runs the programs built here;
one directory, its share, it may write to (not below /dev, which the guest has
its own of).  Its memory is a file, best on a tmpfs.  It needs no KVM, no loop devices
and no rights.  Packages: user-mode-linux, kmod, e2fsprogs, dmsetup."""

import atexit
import os
import shutil
import signal
import subprocess
import sys

KERNEL = "linux.uml"
MODULES = "/usr/lib/uml/modules"
SKIP = 77
TOOLS = (KERNEL, "depmod", "modprobe", "mkfs.ext4", "dmsetup", "ip")

INIT = """#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/shm
for at in /run /dev/shm /mnt; do mount -t tmpfs tmpfs $at; done
mkdir /mnt/share
mount -t hostfs none /mnt/share -o {share}
export TMPDIR=/run HOME=/run DM_DISABLE_UDEV=1
hostname {host}
ip link set lo up
for module in {modules}; do modprobe -d {share} $module; done
echo booted >/mnt/share/{name}.booted
{command} >/mnt/share/{name}.out 2>&1
echo $? >/mnt/share/{name}.exit
# What still runs when the kernel ends would go on on the machine itself.
kill -9 -1
echo o >/proc/sysrq-trigger
sleep 60
"""


def skip(why):
    print("skipped: " + why)
    sys.exit(SKIP)


def require():
    """Ends the program, as skipped, where no guest can run."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for tool in TOOLS:
        if not shutil.which(tool):
            skip("there is no %s: apt-get install user-mode-linux kmod "
                 "e2fsprogs dmsetup iproute2" % tool)
    if not os.path.isdir(MODULES):
        skip("the guest's modules are not in " + MODULES)


def prepare_modules(share):
    """A module tree of our own, so that modules.dep is there and is right."""
    for release in os.listdir(MODULES):
        tree = os.path.join(share, "lib", "modules", release)
        os.makedirs(tree, exist_ok=True)
        for name in ("kernel", "modules.order", "modules.builtin",
                     "modules.builtin.modinfo"):
            if not os.path.lexists(os.path.join(tree, name)):
                os.symlink(os.path.join(MODULES, release, name),
                           os.path.join(tree, name))
        subprocess.run(["depmod", "-b", share, release], check=True)


class Guest:
    """Boots and runs command (a line of shell) with share at /mnt/share;
    disks, pairs of flags and a file, become /dev/ubda, /dev/ubdb and so on:
    "" one's own, "rc" read-only and shared with other guests.  Taps, devices
    of this side, become vec0, vec1 and so on.  with_line: /dev/ttyS0 is
    connected with to_guest and from_guest, two files."""

    def __init__(self, share, name, command, disks=(), modules=(),
                 memory="512M", memory_dir="/tmp", taps=(), with_line=False):
        self.share, self.name = os.path.abspath(share), name
        init = self.path("init")
        with open(init, "w") as f:
            f.write(INIT.format(share=self.share, name=name, command=command,
                                host=name, modules=" ".join(modules)))
        os.chmod(init, 0o755)
        for ending in ("booted", "out", "exit"):
            if os.path.exists(self.path(ending)):
                os.unlink(self.path(ending))
        arguments = [KERNEL, "mem=" + memory, "root=none",
                     "rootfstype=hostfs", "rootflags=/", "ro",
                     "init=" + init, "quiet", "con=null", "con0=fd:0,fd:1",
                     "umid=" + name, "uml_dir=" + self.path("run") + "/"]
        arguments += ["ubd%d%s=%s" % (i, flags, os.path.abspath(disk))
                      for i, (flags, disk) in enumerate(disks)]
        arguments += ["vec%d:transport=tap,ifname=%s,depth=64" % (i, tap)
                      for i, tap in enumerate(taps)]
        ends = []
        if with_line:
            down, up = os.pipe(), os.pipe()
            ends = [down[0], up[1]]
            arguments.append("ssl0=fd:%d,fd:%d" % tuple(ends))
            self.to_guest = open(down[1], "wb", buffering=0)
            self.from_guest = open(up[0], "rb", buffering=0)
        self.console = open(self.path("console"), "wb")
        # A session of its own: the kernel is a family of processes, which
        # also ends with us.
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=self.console,
            stderr=self.console, start_new_session=True, pass_fds=ends,
            env=dict(os.environ, TMPDIR=memory_dir))
        for fd in ends:
            os.close(fd)
        atexit.register(self.kill)

    def path(self, ending):
        return os.path.join(self.share, "%s.%s" % (self.name, ending))

    def read(self, ending):
        try:
            with open(self.path(ending), errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def wait(self, seconds):
        """The command's exit code; None: it did not come to its end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        return int(self.read("exit")) if self.read("exit") else None

    def kill(self):
        if self.console.closed:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.console.close()

    def booted(self):
        return bool(self.read("booted"))
