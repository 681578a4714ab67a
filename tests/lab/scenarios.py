# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The scenarios, by name.  Each is a function of a Lab that returns or raises Fail or Skip."""

import collections
import functools
import hashlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import time

import backends
import disks
import display
import interop
import kernel
import memory
import migration
import recordings
from lab import Fail, Skip, need
from machines import Qemu, Uml, reconnect_option, vhost_user_device

MIB = 1 << 20
# interop: in the Debian 13 tree; peer: whom it meets there (interop.PEERS)
Scenario = collections.namedtuple("Scenario", "name run backend default interop peer", defaults=(False, None))
TABLE = []


def scenario(name, backend="vhk", default=True, **more):
    def add(function):
        TABLE.append(Scenario(name, function, backend, default, **more))
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


@scenario("uml-inband")
def uml_inband(lab):
    """No descriptor for kicks and calls: both are messages."""
    if lab.backend != "vhk":
        raise Skip("qemu-storage-daemon has no in-band notifications")
    data = random.Random(5).randbytes(2 * MIB)
    image = lab.image("disk.img", 16 * MIB)
    disk = backends.blk(lab, image, options=["--offer=INBAND_NOTIFICATIONS"], env={"VHK_TRACE": "1"})
    Uml(lab, "raw", [(disk.socket, 2)], files={"lab/data": data}, params={"at": 3}).wait()
    disk.stop()
    with open(image, "rb") as f:
        expect_bytes(f, 3 * MIB, data, "what the guest wrote")
    said = disk.child.err()
    for line in ("-> VRING_KICK ring 0", "<~ VRING_CALL ring 0", "~> VRING_CALL reply value 0x0"):
        if not re.search(f"^{line}", said, re.M):
            raise Fail(f"never seen: {line}")
    if "-> SET_VRING_KICK" in said or re.search(r"SET_VRING_CALL .*1 fd", said):
        lab.note("User-Mode Linux sends descriptors as well")


def fill(image, data):
    with open(image, "r+b") as f:
        f.write(data)
        os.fsync(f.fileno())


def expect(what, got, wanted):
    if got != wanted:
        raise Fail(f"{what} is {got!r}, expected {wanted!r}")


def expect_bytes(f, offset, wanted, what):
    f.seek(offset)
    got = f.read(len(wanted))
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), len(got))
        raise Fail(f"{what}: the file differs at byte {offset + at}")


# ---- QEMU: a file system over every combination of queues, event index, indirect, memory ----

MEMORY = {"256m": 256, "4g": 4096}
REGIONS = {"256m": 2, "4g": 3}          # below and above the VGA hole, and above 4 GiB
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
        guest = Qemu(lab, "fs", device, memory=f"{MEMORY[memory]}M", cpus=queues,
                     params={"q": queues, "event": int(event), "ind": int(indirect),
                             "mem": MEMORY[memory]})
        guest.await_fact("memory")
        vhost = guest.vhost()
        acked = " ".join(vhost["acked-features"]["transports"])
        expect("memory regions", vhost["n-mem-sections"], REGIONS[memory])
        expect("queues", vhost["nvqs"], queues)
        expect("event_idx", "EVENT_IDX" in acked, event)
        expect("indirect", "INDIRECT_DESC" in acked, indirect)
        facts = guest.wait()
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
                 params={"boots": 3, "end": "reboot", "load": int(disk.drains)}).wait()
    disk.stop()
    if not {"boot1", "boot2", "boot3"} <= set(facts):
        raise Fail(f"boots seen: {sorted(facts)}")


@scenario("qemu-blk-twice")
def qemu_blk_twice(lab):
    """The same daemon serves the next front-end when one has gone."""
    disk = backends.blk(lab, lab.image("disk.img", 128 * MIB))
    for boot in (1, 2):
        facts = Qemu(lab, "again", blk_device(disk), name=f"qemu{boot}",
                     params={"boots": 2, "end": "poweroff", "load": int(disk.drains)}).wait()
        disk.check_alive()
        if f"boot{boot}" not in facts:
            raise Fail(f"boot {boot} saw another disk: {sorted(facts)}")
    disk.stop()


@scenario("qemu-blk-killed")
def qemu_blk_killed(lab):
    """A front-end that vanishes while it reads and writes takes nothing with it."""
    disk = backends.blk(lab, lab.image("disk.img", 128 * MIB), queues=2)
    params = {"boots": 2, "end": "killed", "load": 1}
    first = Qemu(lab, "again", blk_device(disk, num_queues=2), cpus=2, name="qemu1", params=params)
    first.await_fact("kill")
    first.child.kill()
    facts = Qemu(lab, "again", blk_device(disk), name="qemu2", params=params).wait()
    disk.stop()
    if "boot2" not in facts:
        raise Fail(f"boot 2 saw another disk: {sorted(facts)}")


@scenario("qemu-blk-sigterm")
def qemu_blk_sigterm(lab):
    """SIGTERM in the middle of reads and writes is a clean exit; what was synced is there for the
    next daemon."""
    image = lab.image("disk.img", 128 * MIB)
    disk = backends.blk(lab, image, queues=2)
    params = {"boots": 2, "end": "killed", "load": 1}
    first = Qemu(lab, "again", blk_device(disk, num_queues=2), cpus=2, name="qemu1", params=params)
    first.await_fact("kill")
    disk.stop()
    first.child.kill()
    disk = backends.blk(lab, image, queues=2, name=f"{lab.backend}-2")
    facts = Qemu(lab, "again", blk_device(disk), name="qemu2", params=params).wait()
    disk.stop()
    if "boot2" not in facts:
        raise Fail(f"boot 2 saw another disk: {sorted(facts)}")


@scenario("qemu-kill9")
def qemu_kill9(lab):
    """The back-end is killed 20 times under a guest that reads and writes; QEMU connects again after a second with the
    in-flight record of the one before."""
    if lab.backend != "vhk":
        raise Skip("qemu-storage-daemon keeps no in-flight record")
    image = lab.image("disk.img", 64 * MIB)
    disk = backends.blk(lab, image, queues=2)
    chance = random.Random(9)
    device = ["-chardev", f"socket,id=c,path={disk.socket},{reconnect_option(1)}",
              "-device", "vhost-user-blk-pci,chardev=c,num-queues=2"]
    guest = Qemu(lab, "kill9", device, cpus=2, params={"seconds": 50})
    guest.may_complain = True
    guest.await_fact("load")
    for n in range(20):
        time.sleep(0.2 + 2.2 * chance.random())
        disk.check_alive()
        lab.backends.remove(disk)
        disk.child.kill()
        time.sleep(0.3 * chance.random())
        disk = backends.blk(lab, image, queues=2)
        if guest.child.poll() is not None:
            guest._die(f"was through after {n} kills")
    facts = guest.wait()
    lab.note(f"the guest's rounds: {facts['rounds']}, {facts['rounds1']} and {facts['rounds2']}")
    disk.stop()
    lab.call([need("e2fsck", "e2fsprogs"), "-fn", image])


@scenario("qemu-blk-readonly")
def qemu_blk_readonly(lab):
    data = random.Random(2).randbytes(MIB)
    image = lab.image("disk.img", 4 * MIB)
    fill(image, data)
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
    fill(image, data)
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


@scenario("qemu-blk-resize")
def qemu_blk_resize(lab):
    """The image grows under a running guest; SIGHUP tells, the guest sees it and uses the new part."""
    if lab.backend != "vhk":
        raise Skip("qemu-storage-daemon does not look again at SIGHUP")
    image = lab.image("disk.img", 8 * MIB)
    disk = backends.blk(lab, image)
    guest = Qemu(lab, "resize", blk_device(disk), params={"before": 8, "after": 24})
    guest.await_fact("ready")
    os.truncate(image, 24 * MIB)
    disk.child.proc.send_signal(signal.SIGHUP)
    facts = guest.wait()
    disk.stop()
    expect("what the guest read", facts["sum"], hashlib.sha256(b"B" * MIB).hexdigest())
    with open(image, "rb") as f:
        expect_bytes(f, 7 * MIB, b"A" * MIB + bytes(15 * MIB) + b"B" * MIB, "the disk that has grown")


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


@scenario("qemu-rng-readme")
def qemu_rng_readme(lab):
    """The README's device in 20 lines, as a reader would compile it."""
    if lab.backend != "vhk":
        raise Skip("qemu-storage-daemon serves no rng device")
    source = backends.Readme(lab)
    Qemu(lab, "dice", vhost_user_device("rng", source.socket)).wait()
    source.stop()


# ---- our front-end, on qemu-storage-daemon's back-end and on ours ----

def front_end(name):
    """The same scenario twice: qsd-NAME and vhk-NAME."""
    def add(function):
        for backend in ("qsd", "vhk"):
            scenario(f"{backend}-{name}", backend=backend)(function)
        return function
    return add


def vhk(lab, what, disk, *options, status=0):
    return lab.call([lab.program("vhk"), what, f"vhost-user:{disk.socket}", *options],
                    status=status, name=f"vhk-{what}")


def probe(lab, disk):
    """What `vhk probe --json` says, and the feature bits in it."""
    said = json.loads(vhk(lab, "probe", disk, "--json", "--device=blk"))
    return said, {bit["bit"] for bit in said["features"]["bits"]}


@front_end("probe")
def front_probe(lab):
    for queues, block_size, readonly in ((4, 512, False), (1, 4096, True)):
        image = lab.image(f"disk{queues}.img", 8 * MIB)
        disk = backends.blk(lab, image, queues=queues, block_size=block_size, readonly=readonly,
                            name=f"{lab.backend}-{queues}q")
        said, bits = probe(lab, disk)
        block = said["config"]["block"]
        expect("device", said["device"]["id"], 2)
        expect("queues", said["queues"], queues)
        expect("queues in the configuration", block["n_queues"], queues)
        expect("capacity", block["capacity"], 8 * MIB)
        expect("block size", block["block_size"], block_size)
        expect("read-only", 5 in bits, readonly)
        expect("flush", 9 in bits, True)
        expect("version 1", 32 in bits, True)
        text = vhk(lab, "probe", disk)
        if "VIRTIO_F_VERSION_1" not in text and "VERSION_1" not in text:
            raise Fail(f"vhk probe names no VERSION_1:\n{text}")
        disk.stop()


@front_end("ping")
def front_ping(lab):
    """Reads, and with --write verifies and puts back what was there."""
    data = random.Random(4).randbytes(4 * MIB)
    image = lab.image("disk.img", 4 * MIB)
    fill(image, data)
    disk = backends.blk(lab, image)
    for options in ((), ("--polling", "--size=65536"), ("--write",), ("--write", "--polling", "--size=512")):
        vhk(lab, "ping", disk, "--count=50", "--interval-ms=0", *options)
        with open(image, "rb") as f:
            expect_bytes(f, 0, data, f"after ping {' '.join(options)}")
    disk.stop()
    if lab.backend == "qsd":
        forgets = backends.QsdBlk(lab, image, blockdev="null-co,size=4194304,read-zeroes=on", name="null")
        vhk(lab, "ping", forgets, "--count=1")
        vhk(lab, "ping", forgets, "--count=1", "--write", status=1)
        forgets.stop()


@front_end("bench")
def front_bench(lab):
    image = lab.image("disk.img", 16 * MIB)
    disk = backends.blk(lab, image, queues=4)
    runs = ((False, ("--rw=randread", "--queues=4", "--depth=8")),
            (False, ("--rw=read", "--block-size=65536", "--poll")),
            (True, ("--rw=randwrite", "--write", "--queues=2")),
            (True, ("--rw=write", "--write", "--block-size=128K", "--depth=64")))
    for writes, options in runs:
        said = json.loads(vhk(lab, "bench", disk, "--seconds=1", "--json", *options))
        expect("error", said["error"], None)
        expect("rw", f"--rw={said['rw']}", options[0])
        if said["requests"] < 10 or said["iops"] <= 0 or not 0 < said["latency_ns"]["min"] <= said["latency_ns"]["max"]:
            raise Fail(f"bench {' '.join(options)} says {said}")
        lab.note(f"bench {' '.join(options)}: {said['iops']:.0f} IOPS")
        with open(image, "rb") as f:
            expect("the disk was written to", any(f.read()), writes)
        if writes:
            os.truncate(image, 0)
            os.truncate(image, 16 * MIB)
    vhk(lab, "bench", disk, "--seconds=1", "--rw=write", status=2)
    disk.stop()


@front_end("peer")
def front_peer(lab):
    """Every request of the driver with verification, sleeping and polling, and raw requests; on
    one queue and on four; and nothing is written without --write."""
    for queues in (1, 4):
        image = lab.image(f"disk{queues}.img", 64 * MIB)
        disk = backends.blk(lab, image, queues=queues, name=f"{lab.backend}-{queues}q")
        peer = [lab.program("test-blk-peer"), f"vhost-user:{disk.socket}", "--queues", queues]
        lab.call(peer)
        with open(image, "rb") as f:
            expect_bytes(f, 0, bytes(64 * MIB), "without --write")
        said = lab.call([*peer, "--write"])
        skipped = [line for line in said.splitlines() if line.startswith("skip ")]
        lab.note(f"{queues} queues: {said.splitlines()[-1]}")
        wanted = ["queues_at_once"] if queues == 1 else []
        if {line.split()[1].rstrip(":") for line in skipped} != set(wanted):
            raise Fail("not everything was tried:\n" + "\n".join(skipped))
        disk.stop()


@front_end("busy")
def front_busy(lab):
    """With somebody else connected the answer is "busy", soon, and the other is not disturbed."""
    disk = backends.blk(lab, lab.image("disk.img", MIB))
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(disk.socket)
        time.sleep(0.2)
        vhk(lab, "probe", disk, "--timeout-ms=500", status=3)
        disk.check_alive()
    vhk(lab, "probe", disk)
    disk.stop()


recordings.register(scenario)
display.register(scenario)
disks.register(scenario)

migration.register(scenario)
memory.register(scenario)
kernel.register(scenario)
interop.register(functools.partial(scenario, interop=True), list(TABLE))

BY_NAME = {s.name: s for s in TABLE}
