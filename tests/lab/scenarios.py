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

BY_NAME = {s.name: s for s in TABLE}
