# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Scenarios of the disk: what a guest relies on beside reads and writes."""

import os
import re
import subprocess

import backends
from lab import Fail, Skip, need, read_text
from machines import Qemu, vhost_user_device

MIB = 1 << 20
WRITES = r"(?:pwrite64|pwritev2?)\(.*"


def register(scenario):
    scenario("qemu-blk-write-through")(write_through)
    scenario("qemu-blk-16-cpus")(sixteen_cpus)
    scenario("qemu-blk-4k-sectors")(large_sectors)


def only_ours(lab):
    if lab.backend != "vhk":
        raise Skip("about vhk-blk alone")


def stable_writes(trace, begin):
    """The trace's end, and of the writes to the image since @begin: how many were stable when they returned, and all."""
    text = read_text(trace)
    writes = re.findall(WRITES, text[begin:])
    return len(text), sum("RWF_DSYNC" in line for line in writes), len(writes)


def expect_stable(what, counted, wanted):
    _, stable, total = counted
    if not (stable == total >= wanted):
        raise Fail(f"{what}: {stable} of {total} writes were stable, expected all of at least {wanted}")


def write_through(lab):
    """The guest chooses write-through: its writes are stable, after "stop" and "cont" too, and after a reboot, where its new
    driver is shown what QEMU remembers."""
    only_ours(lab)
    image = lab.image("disk.img", 16 * MIB)
    trace = lab.path("writes")
    disk = backends.blk(lab, image, options=["--engine=sync", "--poll-us=0"],
                        before=[need("strace", "strace"), "-D", "-f", "-qq", "-o", trace,
                                "-e", "trace=pwrite64,pwritev,pwritev2", "-e", "signal=none"])
    guest = Qemu(lab, "writethrough", vhost_user_device("blk", disk.socket), reboots=True)
    guest.await_fact("written1")
    counted = stable_writes(trace, 0)
    if counted[1] < 8:
        raise Fail(f"the guest's first 8 writes: {counted[1]} of {counted[2]} were stable")
    guest.qmp("stop")
    if guest.qmp("query-status")["running"]:
        raise Fail("the guest runs after stop")
    guest.qmp("cont")
    mark(image, 1)
    guest.await_fact("written2")
    expect_stable("after stop and cont", stable_writes(trace, counted[0]), 8)
    counted = stable_writes(trace, 0)
    mark(image, 2)
    facts = guest.wait()
    expect_stable("after a reboot", stable_writes(trace, counted[0]), 8)
    if facts["cache_after_reboot"] != "write through":
        raise Fail(f"after the reboot the guest's cache is {facts['cache_after_reboot']}")
    disk.stop()


def mark(image, step):
    """What the guest waits for: block 15 MiB of its disk says @step."""
    with open(image, "r+b") as f:
        f.seek(15 * MIB)
        f.write(b"%d\n" % step)


def sixteen_cpus(lab):
    """The README's line, and a guest of 16 CPUs: QEMU takes a queue for each of them."""
    only_ours(lab)
    disk = backends.blk(lab, lab.image("disk.img", 16 * MIB), queues=None, block_size=None)
    guest = Qemu(lab, "queues", vhost_user_device("blk", disk.socket), cpus=16, params={"q": 16})
    guest.await_fact("queues")
    queues = guest.vhost()["nvqs"]
    if queues != 16:
        raise Fail(f"QEMU uses {queues} queues")
    guest.wait()
    disk.stop()


def attach_loop(lab, image, sector):
    """A loop device with sectors of @sector bytes; it goes with the scenario."""
    losetup = need("losetup", "mount")
    done = subprocess.run([losetup, "-f", "--show", "-b", str(sector), image], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip(f"no loop device to be had: {done.stderr.strip()}")
    return done.stdout.strip()


def large_sectors(lab):
    """A block device with sectors of 4096 bytes: the guest sees them, and may discard, make a file system and trim it."""
    only_ours(lab)
    image = lab.image("disk.img", 64 * MIB)
    loop = attach_loop(lab, image, 4096)
    try:
        disk = backends.blk(lab, loop, block_size=None)
        Qemu(lab, "sectors", vhost_user_device("blk", disk.socket), params={"block": 4096}).wait()
        disk.stop()
        if "queue 0" in disk.child.err():
            raise Fail(f"vhk-blk says: {disk.child.err()}")
    finally:
        subprocess.run([need("losetup", "mount"), "-d", loop], check=False)
    lab.call([need("e2fsck", "e2fsprogs"), "-fn", image])
    if os.stat(image).st_blocks * 512 > 32 * MIB:
        raise Fail(f"{os.stat(image).st_blocks * 512} bytes of the image are in use after fstrim")
