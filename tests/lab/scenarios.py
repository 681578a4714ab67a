# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The scenarios, by name.  Each is a function of a Lab that returns or raises Fail or Skip."""

import collections
import hashlib
import itertools
import os
import random
import subprocess

import backends
from lab import Fail, need
from machines import Qemu, Uml, vhost_user_device

MIB = 1 << 20
Scenario = collections.namedtuple("Scenario", "name run backend default")
TABLE = []


def scenario(name, backend="vhk", default=True):
    def add(function):
        TABLE.append(Scenario(name, function, backend, default))
        return function
    return add


# ---- User-Mode Linux ----

@scenario("uml-blk")
def uml_blk(lab):
    data = random.Random(1).randbytes(2 * MIB)
    image = lab.image("disk.img", 16 * MIB)
    disk = backends.blk(lab, image)
    Uml(lab, "raw", [(disk.socket, 2)], files={"lab/data": data}, params={"at": 3}).wait()
    disk.stop()
    with open(image, "rb") as f:
        expect_bytes(f, 0, bytes(3 * MIB), "before what the guest wrote")
        expect_bytes(f, 3 * MIB, data, "what the guest wrote")
        expect_bytes(f, 5 * MIB, bytes(11 * MIB), "after what the guest wrote")


def expect_bytes(f, offset, wanted, what):
    f.seek(offset)
    got = f.read(len(wanted))
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), len(got))
        raise Fail(f"{what}: the file differs at byte {offset + at}")


# ---- QEMU: a file system over every combination of queues, event index, indirect, memory ----

MEMORY = {"256m": 256, "4g": 4096}
PAIRWISE = {            # every pair of values of two parameters occurs
    (1, False, False, "256m"), (1, True, True, "4g"), (4, False, True, "4g"),
    (4, True, False, "4g"), (4, True, True, "256m"),
}


def fs_scenario(queues, event, indirect, memory):
    name = (f"qemu-blk-{queues}q-{'event' if event else 'noevent'}-"
            f"{'ind' if indirect else 'noind'}-{memory}")

    @scenario(name, default=(queues, event, indirect, memory) in PAIRWISE)
    def run(lab):
        image = lab.image("disk.img", 128 * MIB)
        disk = backends.blk(lab, image, queues=queues)
        device = vhost_user_device("blk", disk.socket, num_queues=queues,
                                   event_idx="on" if event else "off",
                                   indirect_desc="on" if indirect else "off")
        facts = Qemu(lab, "fs", device, memory=f"{MEMORY[memory]}M", cpus=queues,
                     params={"q": queues, "event": int(event), "ind": int(indirect),
                             "mem": MEMORY[memory]}).wait()
        disk.stop()
        check_file_system(lab, image, facts["sums"])


def check_file_system(lab, image, sums):
    """The image on the host: consistent, and its files are those the guest summed up."""
    lab.call([need("e2fsck", "e2fsprogs"), "-fn", image])
    copy = lab.path("copy")
    os.mkdir(copy)
    lab.call([need("debugfs", "e2fsprogs"), "-R", f"rdump /tree {copy}", image])
    lines = []
    root = os.path.join(copy, "tree")
    for where, _, files in os.walk(root):
        for name in files:
            path = os.path.join(where, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as f:
                digest = hashlib.sha256(f.read()).hexdigest()
            lines.append((f"./{os.path.relpath(path, root)}", digest))
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(lines))
    if hashlib.sha256(text.encode()).hexdigest() != sums:
        raise Fail(f"the {len(lines)} files in the image are not the files the guest wrote")
    lab.note(f"{len(lines)} files on the host are as the guest wrote them")


for combination in itertools.product((1, 4), (False, True), (False, True), MEMORY):
    fs_scenario(*combination)


# ---- QEMU: the disk's life and its properties ----

def blk_device(disk, **properties):
    return vhost_user_device("blk", disk.socket, **properties)


@scenario("qemu-blk-reboot")
def qemu_blk_reboot(lab):
    """Two resets of the same QEMU with reads in flight, then a power-off."""
    disk = backends.blk(lab, lab.image("disk.img", 128 * MIB), queues=2)
    facts = Qemu(lab, "again", blk_device(disk, num_queues=2), cpus=2, reboots=True,
                 params={"boots": 3, "end": "reboot"}).wait()
    disk.stop()
    if not {"boot1", "boot2", "boot3"} <= set(facts):
        raise Fail(f"boots seen: {sorted(facts)}")


@scenario("qemu-blk-twice")
def qemu_blk_twice(lab):
    """The same daemon serves the next front-end when one has gone."""
    disk = backends.blk(lab, lab.image("disk.img", 128 * MIB))
    for boot in (1, 2):
        facts = Qemu(lab, "again", blk_device(disk), name=f"qemu{boot}",
                     params={"boots": 2, "end": "poweroff"}).wait()
        disk.check_alive()
        if f"boot{boot}" not in facts:
            raise Fail(f"boot {boot} saw another disk: {sorted(facts)}")
    disk.stop()


@scenario("qemu-blk-killed")
def qemu_blk_killed(lab):
    """A front-end that vanishes while it reads and writes takes nothing with it."""
    disk = backends.blk(lab, lab.image("disk.img", 128 * MIB), queues=2)
    params = {"boots": 2, "end": "killed"}
    first = Qemu(lab, "again", blk_device(disk, num_queues=2), cpus=2, name="qemu1", params=params)
    first.await_fact("kill")
    first.child.kill()
    facts = Qemu(lab, "again", blk_device(disk), name="qemu2", params=params).wait()
    disk.stop()
    if "boot2" not in facts:
        raise Fail(f"boot 2 saw another disk: {sorted(facts)}")


@scenario("qemu-blk-readonly")
def qemu_blk_readonly(lab):
    data = random.Random(2).randbytes(MIB)
    image = lab.image("disk.img", 4 * MIB)
    with open(image, "r+b") as f:
        f.write(data)
    disk = backends.blk(lab, image, readonly=True)
    Qemu(lab, "readonly", blk_device(disk), params={"sum": hashlib.sha256(data).hexdigest()}).wait()
    disk.stop()
    with open(image, "rb") as f:
        expect_bytes(f, 0, data + bytes(3 * MIB), "read-only disk")


@scenario("qemu-blk-serial-geometry")
def qemu_blk_serial_geometry(lab):
    data = random.Random(3).randbytes(16 * MIB)
    size = 64 * MIB + 4096
    image = lab.image("disk.img", size)
    with open(image, "r+b") as f:
        f.write(data)
        os.fsync(f.fileno())
    before = os.stat(image).st_blocks
    disk = backends.blk(lab, image, serial="lab-0123456789", block_size=4096)
    Qemu(lab, "geometry", blk_device(disk),
         params={"serial": disk.serial, "cache": disk.cache, "block": 4096, "size": size // 512}).wait()
    disk.stop()
    wanted = bytearray(data)
    wanted[6 * MIB:8 * MIB] = bytes(2 * MIB)
    wanted[10 * MIB:11 * MIB] = b"W" * MIB
    with open(image, "rb") as f:
        expect_bytes(f, 0, bytes(wanted[:2 * MIB]), "before the discarded range")
        expect_bytes(f, 4 * MIB, bytes(wanted[4 * MIB:]), "after the discarded range")
    if can_punch(lab) and os.stat(image).st_blocks > before - 2 * MIB // 512:
        raise Fail("the discarded range still takes space in the file")


def can_punch(lab):
    """Whether the file system below the run's directory gives space back at all."""
    probe = lab.path("punch")
    with open(probe, "wb") as f:
        f.write(bytes(MIB))
        os.fsync(f.fileno())
    punched = subprocess.run([need("fallocate", "util-linux"), "-p", "-l", str(MIB), probe],
                             check=False, stderr=subprocess.DEVNULL)
    return punched.returncode == 0 and os.stat(probe).st_blocks == 0


@scenario("qemu-rng")
def qemu_rng(lab):
    source = backends.rng(lab)
    Qemu(lab, "rng", vhost_user_device("rng", source.socket)).wait()
    source.stop()


BY_NAME = {s.name: s for s in TABLE}
